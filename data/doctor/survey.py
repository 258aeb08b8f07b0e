"""A whole data set looked at, item by item, in worker processes; the numbers of all together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from data.doctor.contents import check_contents
from data.doctor.examine import Examination, Rules, examine
from data.doctor.finding import Finding, from_error
from data.sources import Dataset, open_dataset
from data.spec import DatasetSpec
from pipeline.cache import SHARED
from pipeline.errors import PipelineError
from pipeline.workers import call_each

Progress = Callable[[int, int], None]
"""Called with items done and items in all."""
BLOCK = 8
"""Items a worker is handed at once."""
NAMES = 256
"""Names kept of items that weigh the same: as many as the largest batch may need."""


@dataclass
class Survey:
    """What is in a data set.

    items: in the data set. examined: looked at. frames: pictures read. lengths: videos by annotated
    frames. sizes: pictures by (H, W). objects: frames by the number of visible objects. areas:
    masks by the power of ten of their share of the picture. overlapping: frames whose masks cover
    each other. heaviest: names by (most objects on a frame, H, W).
    """

    name: str
    spec: DatasetSpec
    items: int = 0
    examined: int = 0
    frames: int = 0
    lengths: Counter[int] = field(default_factory=Counter)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    objects: Counter[int] = field(default_factory=Counter)
    areas: Counter[int] = field(default_factory=Counter)
    overlapping: int = 0
    heaviest: dict[tuple[int, int, int], list[str]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def masks(self) -> int:
        """Visible objects on all frames."""
        return sum(objects * frames for objects, frames in self.objects.items())

    @property
    def errors(self) -> int:
        """How many findings are errors."""
        return sum(finding.severity == "error" for finding in self.findings)

    def add(self, seen: Examination) -> None:
        """Count one more item."""
        self.examined += 1
        self.frames += seen.frames
        self.lengths[seen.annotated] += 1
        self.sizes.update(seen.sizes)
        self.objects.update(seen.objects)
        self.areas.update(seen.areas)
        self.overlapping += seen.overlapping
        self.findings += seen.findings
        if seen.objects and seen.sizes:
            height, width = max(seen.sizes, key=lambda size: size[0] * size[1])
            names = self.heaviest.setdefault((max(seen.objects), height, width), [])
            if len(names) < NAMES:
                names.append(seen.name)

    def numbers(self) -> dict[str, Any]:
        """For a json file."""
        return {
            "name": self.name,
            "format": self.spec.format,
            "root": self.spec.root,
            "kind": self.spec.kind,
            "items": self.items,
            "examined": self.examined,
            "frames": self.frames,
            "masks": self.masks,
            "objects_per_frame": {str(n): self.objects[n] for n in sorted(self.objects)},
            "picture_sizes": {f"{h}x{w}": count for (h, w), count in self.sizes.most_common()},
            "annotated_frames": {str(n): self.lengths[n] for n in sorted(self.lengths)},
            "mask_share": {f"1e{power}": self.areas[power] for power in sorted(self.areas)},
            "frames_with_overlap": self.overlapping,
            "findings": dict(Counter(f"{f.severity}: {f.check}" for f in self.findings)),
        }


def survey(
    spec: DatasetSpec,
    name: str,
    rules: Rules,
    *,
    sample: int | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> tuple[Survey, Dataset | None]:
    """Look at a data set. sample: at most so many items, spread evenly; None looks at all.

    Returns what was found, and the opened data set, or None where it cannot be opened at all.
    """
    SHARED.clear()  # the files are looked at, not what this process remembers of them
    found = Survey(name, spec)
    found.findings += check_contents(spec, name)
    try:
        dataset = open_dataset(spec, name)
    except PipelineError as error:
        found.findings.append(from_error(name, spec, "", "opening", error))
        return found, None
    found.items = len(dataset)
    chosen = _chosen(len(dataset), sample)
    starts = range(0, len(chosen), BLOCK)
    jobs = ((dataset, chosen[start : start + BLOCK], rules) for start in starts)
    seen: dict[int, list[Examination]] = {}
    following = 0
    for number, result in call_each(_examine_block, jobs, min(workers, len(starts))):
        seen[number] = result()
        while following in seen:  # in order, so that the same data gives the same report
            for one in seen.pop(following):
                found.add(one)
            following += 1
            if progress is not None:
                progress(found.examined, len(chosen))
    return found, dataset


def counted(number: int, what: str) -> str:
    """`1 video`, `1,204 videos`."""
    return f"{number:,} {what}{'s' * (number != 1)}"


def _examine_block(dataset: Dataset, indices: Sequence[int], rules: Rules) -> list[Examination]:
    return [examine(dataset, index, rules) for index in indices]


def _chosen(count: int, sample: int | None) -> Sequence[int]:
    if sample is None or count <= sample:
        return range(count)
    return [int(i) for i in np.unique(np.linspace(0, count - 1, sample).round())]
