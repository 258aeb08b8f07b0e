"""Data sets of three healthy items in every format, and tools to harm them."""

import shutil
from pathlib import Path
from typing import Any

from tests.data import lookalikes as like


def make(format: str, root: Path) -> Path:
    """Three healthy items of a format."""
    return {
        "sa1b": like.sa1b,
        "sa1b tar": _tar,
        "sav": lambda root: like.sav(root, videos=3),
        "sav_val": _sav_val,
        "davis": _davis,
        "coco": _coco,
        "folder": _folder,
    }[format](root)


def _tar(root: Path) -> Path:
    return like.sa1b_tar(root, like.sa1b(root.with_name(f"{root.name}_source")))


def _sav_val(root: Path) -> Path:
    like.sav_val(root)
    (root / "sav_val.txt").unlink()
    for layer in ("JPEGImages_24fps", "Annotations_6fps"):
        for name in ("sav_000008", "sav_000009"):
            shutil.copytree(root / layer / "sav_000007", root / layer / name)
    return root


def _davis(root: Path) -> Path:
    like.davis(root)
    for layer in ("JPEGImages", "Annotations"):
        for name in ("fox", "wolf"):
            shutil.copytree(root / layer / "480p/bear", root / layer / "480p" / name)
    return root


def _coco(root: Path) -> Path:
    like.coco_set(root)
    like.save(root / "val2017/000000000011.jpg", like.picture(3))

    def more(content: dict[str, Any]) -> None:
        content["images"].append(
            {**content["images"][0], "id": 11, "file_name": "000000000011.jpg"}
        )
        rows = content["annotations"][:3]
        for picture in (10, 11):
            content["annotations"] += [
                {**row, "id": 10 * picture + n, "image_id": picture} for n, row in enumerate(rows)
            ]

    like.edit(root / "annotations/instances_val2017.json", more)
    return root


def _folder(root: Path) -> Path:
    like.folder(root)
    for name in ("dog", "owl"):
        shutil.copyfile(root / "images/cat.JPG", root / f"images/{name}.jpg")
        shutil.copyfile(root / "masks/cat.png", root / f"masks/{name}.png")
    return root


def cut(path: Path, share: float = 0.5) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
