"""Pictures whose objects are segments of a json: run lengths, or polygons. SA-1B and COCO."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from typing_extensions import override

from data.sources.base import Dataset
from pipeline import rle
from pipeline.errors import DataError

SCORES = {"min_predicted_iou": "predicted_iou", "min_stability_score": "stability_score"}
"""Field of an annotation that each limit of the spec looks at."""


class SegmentedPictures(Dataset):
    """Objects have the `id` of their annotation."""

    @abstractmethod
    def annotations(self, index: int) -> Mapping[int, Mapping[str, Any]]:
        """The annotations of a picture by their id, ascending, checked by `checked`."""

    @abstractmethod
    def source(self, index: int) -> str:
        """The file that holds the annotations of a picture, for a message."""

    @override
    def visible(self, index: int, position: int) -> tuple[int, ...]:
        return tuple(
            i for i, about in self.annotations(index).items() if self._wanted(index, about)
        )

    @override
    def masks(
        self, index: int, position: int, objects: Sequence[int], size: tuple[int, int]
    ) -> np.ndarray:
        annotations, source = self.annotations(index), self.source(index)
        masks = np.zeros((len(objects), *size), dtype=bool)
        for mask, i in zip(masks, objects, strict=True):
            if i in annotations:
                segment, where = annotations[i]["segmentation"], f"{source}, annotation {i}"
                if isinstance(segment, list):
                    rle.decode_polygons(segment, size, where, out=mask)
                else:
                    rle.decode(segment, size, where, out=mask)
        return masks

    def _wanted(self, index: int, about: Mapping[str, Any]) -> bool:
        for limit, field in SCORES.items():
            least = getattr(self.spec, limit)
            if least and not _number(about.get(field)):
                raise DataError(
                    f"{self.source(index)}, annotation {about['id']}: {field} is {about.get(field)!r}, expected "
                    f"a number; leave {limit} out for files without it"
                )
            if least and about[field] < least:
                return False
        if self.spec.min_area == 0 and self.spec.max_area == 1:
            return True
        height, width = self.pictures(index, [0])[0].shape[:2]
        return self.suits(about["area"], height * width)


def checked(annotation: Any, where: str) -> Mapping[str, Any]:
    """An annotation with a number for `id` and `area`, four for `bbox` where it has one, and a
    `segmentation`; else DataError naming the field."""
    if not isinstance(annotation, Mapping):
        raise DataError(f"{where}: found {str(annotation)[:60]!r}, expected an annotation")
    where = f"{where}, annotation {annotation.get('id')}"
    for field, fits, what in (("id", _whole, "a whole number"), ("area", _number, "a number")):
        value = annotation.get(field)
        if not fits(value):
            raise DataError(
                f"{where}: {field} is {value!r}, expected {what}; mend the file, or leave the "
                "picture out with `exclude`"
            )
    box = annotation.get("bbox")
    if box is not None and not (isinstance(box, list) and len(box) == 4 and all(map(_number, box))):
        raise DataError(
            f"{where}: bbox is {str(box)[:60]}, expected four finite numbers [x, y, width, height]; "
            "mend the file, or leave the picture out with `exclude`"
        )
    if not isinstance(annotation.get("segmentation"), list | Mapping):
        raise DataError(
            f"{where}: segmentation is {str(annotation.get('segmentation'))[:60]}, expected "
            '{"size", "counts"} or polygons; remove the annotation, or leave the picture out with '
            "`exclude`"
        )
    return annotation


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _whole(value: Any) -> bool:
    return _number(value) and value == int(value)
