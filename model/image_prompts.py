"""What a user points at in a picture, checked, in pixels of the model's input."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from model.types import Prompts
from pipeline.errors import DataError

Numbers = Tensor | np.ndarray | list
"""Anything rectangular that holds numbers."""

LABELS = (-1, 0, 1, 2, 3)
"""Padding, outside, inside, and the two corners of a box."""


def read_prompts(
    points: Numbers | None,
    labels: Numbers | None,
    boxes: Numbers | None,
    mask_input: Numbers | None,
    *,
    picture: tuple[int, int],
    side: int,
    device: torch.device,
) -> Prompts:
    """Clicks, boxes and earlier answers for N objects; without any, one object without a prompt.

    points: [N, P, 2], x and y in pixels of the picture. labels: [N, P], see LABELS. boxes: [N, 4]
    (or [4]) as x0, y0, x1, y1, corners included, so that a box may be one pixel thin; they may reach
    over the picture's edge. mask_input: logits [N, 1, side/4, side/4], used as they are.
    picture: its height and width. side: of the model's input.
    A box becomes two points, which come before the clicks.
    Raises DataError where the shapes do not belong together, a number is not finite, a click or a
    whole box lies outside the picture, or a box has its corners in the wrong order.
    """
    given: list[tuple[Tensor, Tensor]] = []
    if boxes is not None:
        given.append(_corners(_numbers(boxes, "boxes", device), picture))
    if points is not None or labels is not None:
        given.append(_clicks(points, labels, picture, device))
    mask = None if mask_input is None else _mask(_numbers(mask_input, "mask_input", device), side)
    _same_count(boxes=boxes, points=points, mask_input=mask_input)
    if not given:
        return Prompts.none(1 if mask is None else len(mask), device)._replace(mask_logits=mask)
    height, width = picture
    scale = side / torch.tensor([width, height], device=device)
    places, kinds = zip(*given, strict=True)
    return Prompts(torch.cat(places, 1) * scale, torch.cat(kinds, 1).int(), mask)


def _clicks(
    points: Numbers | None, labels: Numbers | None, picture: tuple[int, int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Points [N, P, 2] and labels [N, P], as given."""
    if points is None or labels is None:
        raise DataError(
            f"{'points without labels' if labels is None else 'labels without points'}: "
            "give one label per point, 1 inside or 0 outside"
        )
    places, kinds = _numbers(points, "points", device), _numbers(labels, "labels", device)
    if places.ndim != 3 or places.shape[2] != 2 or kinds.shape != places.shape[:2]:
        raise DataError(
            f"points of shape {_shape(points)} with labels of shape {_shape(labels)}; "
            "expected points [N, P, 2], labels [N, P]"
        )
    strange = sorted({float(kind) for kind in kinds.unique()} - set(LABELS))
    if strange:
        raise DataError(f"labels: found {strange}; expected 1 inside, 0 outside or -1 padding")
    height, width = picture
    x, y = places.unbind(2)
    is_click = (kinds == 0) | (kinds == 1)
    outside = is_click & ((x < 0) | (x > width) | (y < 0) | (y > height))
    _refuse(outside, places, f"outside the picture, {width} wide and {height} high: give x, y")
    return places, kinds.long()


def _corners(boxes: Tensor, picture: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Boxes as points [N, 2, 2] with labels [N, 2]."""
    if boxes.ndim not in (1, 2) or boxes.shape[-1] != 4:
        raise DataError(f"boxes of shape {tuple(boxes.shape)}; expected boxes [N, 4]")
    boxes = boxes.reshape(-1, 4)
    height, width = picture
    x0, y0, x1, y1 = boxes.unbind(1)
    _refuse((x1 < x0) | (y1 < y0), boxes, "empty: expected x0, y0, x1, y1 with x0 <= x1, y0 <= y1")
    beside = (x1 < 0) | (y1 < 0) | (x0 > width) | (y0 > height)
    _refuse(beside, boxes, f"outside the picture, {width} wide and {height} high: give x0, y0, ...")
    return boxes.reshape(-1, 2, 2), torch.tensor([2, 3], device=boxes.device).expand(len(boxes), 2)


def _mask(logits: Tensor, side: int) -> Tensor:
    """Logits of an earlier answer [N, 1, side/4, side/4]."""
    expected = (1, side // 4, side // 4)
    if logits.ndim != 4 or logits.shape[1:] != expected:
        raise DataError(
            f"mask_input of shape {tuple(logits.shape)}; expected logits "
            f"[N, {', '.join(map(str, expected))}], as the `low` of an earlier answer"
        )
    return logits


def _same_count(**given: Numbers | None) -> None:
    """Refuse prompts that are not for as many objects."""
    shapes = {name: _shape(part) for name, part in given.items() if part is not None}
    counts = {name: 1 if len(shape) == 1 else shape[0] for name, shape in shapes.items()}
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{name} for {count}" for name, count in counts.items())
        raise DataError(f"prompts for different numbers of objects: {found}; expected as many")


def _numbers(given: Numbers, name: str, device: torch.device) -> Tensor:
    """Whatever holds numbers, as finite float32."""
    try:
        values = given if isinstance(given, Tensor) else torch.from_numpy(np.array(given))
        if values.dtype == torch.bool:
            raise TypeError("bool")
        values = values.to(device, torch.float32)
    except (ValueError, TypeError) as error:
        raise DataError(f"{name}: expected an array of numbers ({error})") from error
    if not values.isfinite().all():
        raise DataError(f"{name}: found a number that is not finite (NaN or infinite)")
    return values


def _refuse(wrong: Tensor, values: Tensor, why: str) -> None:
    """Name the first prompt that is wrong."""
    if wrong.any():
        first = wrong.nonzero()[0]
        numbers = ", ".join(f"{value:g}" for value in values[tuple(first)].tolist())
        raise DataError(f"the prompt ({numbers}) of object {int(first[0])} is {why}, in its pixels")


def _shape(given: Numbers) -> tuple[int, ...]:
    return tuple(given.shape) if isinstance(given, Tensor) else tuple(np.shape(given))
