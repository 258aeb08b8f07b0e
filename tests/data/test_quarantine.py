"""Broken samples: named, counted, replaced; and nothing depends on who met them first."""

import json
import logging
import shutil
from collections import Counter

import pytest

from data.mixture import loader
from data.quarantine import Broken, Quarantine
from data.settings import Mixture
from pipeline.errors import DataError
from tests.data import lookalikes as like
from tests.data.training import batches, clips, opened, same


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_samples_are_named_and_replaced(tmp_path, workers, caplog):
    root = like.sa1b(tmp_path, count=10)
    dataset = opened("sa1b", root)
    (root / "sa_4.jpg").write_bytes(b"")
    mixture = Mixture(image_batch=4, max_broken=0.1)
    source = clips(dataset, mixture=mixture)
    quarantine = source.quarantine(tmp_path / "broken")
    with caplog.at_level(logging.WARNING):
        found = batches(source, 0, 6, workers=workers, quarantine=quarantine)
    ((key, reason),) = quarantine.found().items()
    assert key == ("sa1b", "sa_4")
    assert "sa_4.jpg is empty" in reason
    (line,) = (tmp_path / "broken/rank-0.jsonl").read_text().splitlines()
    assert json.loads(line)["name"] == "sa_4"
    assert any("sa_4 is left out" in record.message for record in caplog.records)
    names = [name for batch in found for name in batch.names]
    assert "sa1b/sa_4" not in names
    assert len(names) == 24
    again = batches(clips(dataset, mixture=mixture), 3, 6)
    for a, b in zip(found[3:], again, strict=True):
        same(a, b)


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_broken_samples_stop_the_run(tmp_path, workers):
    root = like.sa1b(tmp_path, count=10)
    dataset = opened("sa1b", root)
    for number in (4, 7):
        (root / f"sa_{number}.jpg").write_bytes(b"")
    source = clips(dataset, mixture=Mixture(image_batch=4, max_broken=0.1))
    with pytest.raises(DataError, match=r"^sa1b: 2 of 10 samples are broken.*max_broken=0\.1") as e:
        batches(source, 0, 6, workers=workers)
    assert "Traceback" not in str(e.value)


def test_the_run_stops_on_the_same_step_whatever_the_workers(tmp_path):
    root = like.sa1b(tmp_path, count=10)
    dataset = opened("sa1b", root)
    for number in (4, 7):
        (root / f"sa_{number}.jpg").write_bytes(b"")
    source = clips(dataset, mixture=Mixture(image_batch=2, max_broken=0.1))

    counts = []
    for workers in (0, 2):
        made = 0
        with pytest.raises(DataError):
            for _ in loader(source, start_step=0, stop_step=9, workers=workers):
                made += 1
        counts.append(made)
    assert counts[0] == counts[1] > 0


def test_a_frame_that_is_broken_leaves_the_rest_of_its_video_in_use(tmp_path):
    """What was broken before decides nothing: a window without the bad frame is still drawn."""
    root = like.davis(tmp_path, "", every=1)
    for part in ("JPEGImages", "Annotations"):
        shutil.copytree(root / part / "bear", root / part / "wolf")
    (root / "JPEGImages/bear/00005.jpg").write_bytes(b"")
    source = clips(opened("davis", root), mixture=Mixture(video_batch=1, max_broken=1.0))
    quarantine, names = source.quarantine(), Counter()
    for step, batch in enumerate(loader(source, start_step=0, stop_step=12, quarantine=quarantine)):
        names.update(batch.names)
        alone = batches(source, step, step + 1)[0]
        same(alone, batch)
    assert ("davis", "bear") in quarantine.found()
    assert 0 < names["davis/bear"] < 6 < names["davis/wolf"]


def test_ranks_and_restarts_count_together(tmp_path):
    def broken(number):
        return [Broken("sa1b", f"sa_{number}", f"sa_{number}.jpg is empty")]

    def quarantine(rank):
        return Quarantine({"sa1b": 20}, 0.1, tmp_path, rank)

    first, second = quarantine(0), quarantine(1)
    first.note(3, broken(1) + broken(1))
    second.note(3, broken(1))
    second.note(5, broken(2))
    assert (first.count(), second.count()) == (2, 2)
    assert len(list(tmp_path.iterdir())) == 2
    again = quarantine(0)
    assert again.count() == 2
    with pytest.raises(DataError, match=r"3 of 20 samples are broken.*mend them and delete it"):
        again.note(9, broken(3))


def test_pictures_without_objects_are_passed_over(tmp_path):
    root = like.davis(tmp_path, "")
    for path in (root / "Annotations/bear").iterdir():
        like.save(path, like.EMPTY.astype("uint8"), like.CLOSE_PALETTE)
    dataset = opened("davis", root)
    with pytest.raises(DataError, match="no sample from bear on can be used: 0 are broken, 1 show"):
        batches(clips(dataset, mixture=Mixture(video_batch=1)), 0, 1)
    for part in ("JPEGImages", "Annotations"):
        shutil.copytree(root / part / "bear", root / part / "wolf")
    like.save(
        root / "Annotations/wolf/00003.png", like.box(2, 3).astype("uint8"), like.CLOSE_PALETTE
    )
    source = clips(opened("davis", root), mixture=Mixture(video_batch=1))
    quarantine = source.quarantine()
    found = batches(source, 0, 4, quarantine=quarantine)
    assert quarantine.count() == 0
    assert {batch.names for batch in found} == {("davis/wolf",)}
