"""A training stage names what it could not read, and goes on."""

import json
import shutil
from copy import deepcopy
from pathlib import Path

import pytest

from pipeline.errors import DataError
from pipeline.progress import read_progress
from tests.stages.conftest import Workshop


def with_a_broken_picture(workshop: Workshop, copy: Path, allowed: float):
    """The first training stage on a copy of its pictures, one of which is empty."""
    planned = deepcopy(dict(workshop.planned["image_pretrain"].settings))
    (name,) = planned["data"]
    shutil.copytree(planned["data"][name]["root"], copy)
    next(copy.rglob("*.jpg")).write_bytes(b"")
    planned["data"][name]["root"] = str(copy)
    planned["stage"]["mixture"]["max_broken"] = allowed
    return planned


def test_broken_samples_are_listed_and_counted(workshop: Workshop, tmp_path: Path):
    settings = with_a_broken_picture(workshop, tmp_path / "pictures", allowed=0.5)
    spec = workshop.spec("image_pretrain", place="with_broken", **settings)
    workshop.run(spec)
    lines = (Path(spec.folder) / "broken_samples/rank-0.jsonl").read_text().splitlines()
    (found,) = [json.loads(line) for line in lines]
    assert found["name"].startswith("sa_") and "is empty" in found["reason"]
    progress = read_progress(spec.folder)
    assert progress is not None and progress.metrics["broken_samples"] == 1


def test_too_many_broken_samples_end_the_stage(workshop: Workshop, tmp_path: Path):
    settings = with_a_broken_picture(workshop, tmp_path / "pictures", allowed=0.0)
    spec = workshop.spec("image_pretrain", place="all_broken", **settings)
    with pytest.raises(DataError, match=r"1 of 8 samples are broken.*broken_samples: mend them"):
        workshop.run(spec)
