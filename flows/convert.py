"""`convert`: labels of other tools into a layout that training reads."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from flows.parts import progress_bar
from pipeline.errors import ConfigError, DataError

if TYPE_CHECKING:
    from data.convert.items import Found

TRAIN = {
    "davis": "format=davis root={out}",
    "folder": "format=folder root={out}",
    "sav": "format=sav root={out} frames={out}/frames",
    "sa1b": "format=sa1b root={out}",
}
"""How a recipe reads the result."""


def convert(arguments: argparse.Namespace) -> int:
    """`convert`: 0 when every item was converted (or left out on request), 2 when nothing was."""
    from data.convert.convert import convert as convert_items
    from data.doctor.survey import counted
    from pipeline.environment import free_cores

    root, out = arguments.source.expanduser(), arguments.out.expanduser().absolute()
    if not root.exists():
        raise DataError(f"{root}: there is no such file or folder, expected labels; check the path")
    found = list(_reader(arguments)(root))
    with progress_bar("converting") as (bar, task):
        made = convert_items(
            found,
            out,
            arguments.to,
            flatten=arguments.flatten,
            again=arguments.again,
            skip_broken=arguments.skip_broken,
            workers=arguments.workers or free_cores(),
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    labels = ", ".join(f"{label} {count}" for label, count in made.labels.most_common(8))
    totals = (counted(made.items, "item"), counted(made.frames, "frame"))
    print(f"{out}: {', '.join(totals)}, {counted(made.objects, 'object')} ({labels})")
    if made.empty_frames:
        print(f"  {counted(made.empty_frames, 'frame')} without an object")
    for line in made.broken:
        print(f"  left out: {line}")
    print(f"  in a recipe: {TRAIN[arguments.to].format(out=out)}")
    return 0


def _reader(arguments: argparse.Namespace) -> Callable[[Path], Found]:
    """The reader of `arguments.format`, with the options it knows."""
    from data.convert.coco import read_coco
    from data.convert.labelme import read_labelme
    from data.convert.masks import read_masks
    from data.convert.yolo import read_yolo

    kind, split, videos = arguments.format, arguments.split, arguments.videos
    if split and kind not in ("coco", "yolo"):
        raise ConfigError(f"--split chooses among splits of coco and yolo; {kind} has none")
    if videos and kind != "labelme":
        raise ConfigError(f"--videos tells Labelme's folders apart; {kind} needs no such word")
    readers: dict[str, Callable[[Path], Found]] = {
        "coco": lambda root: read_coco(root, split),
        "yolo": lambda root: read_yolo(root, split),
        "labelme": lambda root: read_labelme(root, videos=videos),
        "masks": read_masks,
    }
    return readers[kind]
