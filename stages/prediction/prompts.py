"""What a person says about objects, from words and files to arrays that fit the picture."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.labels import label_ids, read_labels
from pipeline import rle
from pipeline.config import parse
from pipeline.errors import ConfigError, DataError
from stages.prediction.spec import Prompt


@dataclass(frozen=True)
class Asked:
    """All that is said about one object on one frame."""

    points: np.ndarray
    """float32 [P, 2], x and y in pixels."""
    labels: np.ndarray
    """int32 [P]: 1 on the object, 0 beside it."""
    box: np.ndarray | None = None
    """float32 [4]: x0, y0, x1, y1."""
    mask: np.ndarray | None = None
    """bool [H, W]; stands alone."""


Asking = dict[int, dict[int, Asked]]
"""By frame (position from 0), then by number of the object; both ascending."""


def read_prompts(path: Path) -> tuple[Prompt, ...]:
    """The prompts of a json file: a list of {object, frame, points, labels, box, mask, picture}.

    Mask files are looked for beside the file. Raises ConfigError naming the entry and key.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--prompts {path} cannot be read ({error})") from error
    except ValueError as error:
        raise ConfigError(f"--prompts {path} is not json: {error}") from error
    if not isinstance(entries, list) or not entries:
        raise ConfigError(
            f'--prompts {path}: expected a list such as [{{"object": 1, "points": [[210, 350]]}}]'
        )
    return tuple(_entry(values, path, f"{path}[{index}]") for index, values in enumerate(entries))


def arrange(
    prompts: Iterable[Prompt], size: tuple[int, int], where: str, *, picture: str | None = None
) -> Asking:
    """The prompts by frame and object, held against pictures of `size` (H, W).

    where: the picture or video, for messages. picture: leave out prompts about other pictures.
    Raises DataError for a prompt outside the picture, an empty mask or one of another size, and
    ConfigError where two prompts of an object on a frame do not go together.
    """
    said: dict[int, dict[int, Asked]] = {}
    for prompt in prompts:
        if prompt.picture not in (None, picture):
            continue
        on_frame = said.setdefault(prompt.frame, {})
        for number, asked in _objects(prompt, size, where).items():
            before = on_frame.get(number)
            on_frame[number] = _joined(before, asked, number, prompt.frame) if before else asked
    return {frame: dict(sorted(said[frame].items())) for frame in sorted(said)}


def numbers_of(asking: Asking) -> tuple[int, ...]:
    """The objects asked about, ascending."""
    return tuple(sorted({number for objects in asking.values() for number in objects}))


def _entry(values: Any, path: Path, where: str) -> Prompt:
    prompt = parse(Prompt, values, where=where)
    if not isinstance(prompt.mask, str):
        return prompt
    return parse(Prompt, {**values, "mask": str(path.parent / prompt.mask)}, where=where)


def _objects(prompt: Prompt, size: tuple[int, int], where: str) -> dict[int, Asked]:
    """One prompt as arrays; a mask file may be about several objects."""
    none = np.zeros((0, 2), np.float32), np.zeros(0, np.int32)
    if prompt.mask is not None:
        masks = _masks(prompt, size, where)
        return {number: Asked(*none, mask=mask) for number, mask in masks.items()}
    points = np.asarray(prompt.points, np.float32).reshape(-1, 2)
    box = None if prompt.box is None else np.asarray(prompt.box, np.float32)
    _inside(points, box, size, where)
    return {prompt.object or 1: Asked(points, np.asarray(prompt.labels, np.int32), box)}


def _inside(points: np.ndarray, box: np.ndarray | None, size: tuple[int, int], where: str) -> None:
    """Refuse what is not in the picture; a box may reach over its edge, as those of detectors."""
    height, width = size
    beside = points[(points < 0).any(1) | (points > (width, height)).any(1)]
    wrong = f"point at {beside[0, 0]:g},{beside[0, 1]:g}" if len(beside) else ""
    if box is not None and ((box[2:] < 0).any() or (box[:2] > (width, height)).any()):
        wrong = f"box {','.join(f'{value:g}' for value in box)}"
    if wrong:
        raise DataError(
            f"{where}: the {wrong} is outside the picture, which is {width} wide and {height} "
            "high; give pixels, x before y"
        )


def _masks(prompt: Prompt, size: tuple[int, int], where: str) -> dict[int, np.ndarray]:
    """The masks of a prompt by object, bool [H, W] each."""
    if isinstance(prompt.mask, Mapping):
        name = f"{where}, mask of object {prompt.object or 1}"
        found = {prompt.object or 1: rle.decode(prompt.mask, size, name)}
        return {number: _not_empty(mask, name) for number, mask in found.items()}
    name = str(prompt.mask)
    labels = read_labels(name)
    if labels.shape != size:
        raise DataError(
            f"{name} is {labels.shape[1]}x{labels.shape[0]} pixels, {where} {size[1]}x{size[0]}; "
            "give the mask at the size of the picture"
        )
    numbers = label_ids(labels)
    _not_empty(labels, name)
    if prompt.object is None:
        return {number: labels == number for number in numbers}
    if len(numbers) > 1:
        raise DataError(
            f"{name} holds the objects {', '.join(map(str, numbers))}; "
            f"leave --object out to take them all, or give the mask of one"
        )
    return {prompt.object: labels != 0}


def _not_empty(mask: np.ndarray, name: str) -> np.ndarray:
    if not mask.any():
        raise DataError(f"{name} is empty: no pixel belongs to an object")
    return mask


def _joined(before: Asked, asked: Asked, number: int, frame: int) -> Asked:
    """Two prompts of one object on one frame as one."""
    if before.mask is not None or asked.mask is not None:
        raise ConfigError(
            f"object {number} has a mask and another prompt on frame {frame}; give the mask alone"
        )
    if before.box is not None and asked.box is not None:
        raise ConfigError(
            f"object {number} has two boxes on frame {frame}; give the second object another "
            "number (--object 2 before its box)"
        )
    return Asked(
        np.concatenate([before.points, asked.points]),
        np.concatenate([before.labels, asked.labels]),
        before.box if asked.box is None else asked.box,
    )
