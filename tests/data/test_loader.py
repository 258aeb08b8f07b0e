"""Batches depend on (seed, step, slot) alone: not on workers, ranks or where a run was resumed."""

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest
import torch

from data.collate import PackedBatch
from data.mixture import TrainingClips, loader
from data.quarantine import Broken, Quarantine
from data.settings import Augment, ClipSampling, Jitter, Mixture, Phase
from data.sources import open_dataset
from data.spec import DatasetSpec
from pipeline.errors import ConfigError, DataError
from tests.data import lookalikes as like

AUGMENT = Augment(
    rotate=10,
    scale=(0.8, 1.2),
    jitter=Jitter(brightness=0.2),
    frame_jitter=Jitter(brightness=0.1, saturation=0.1),
    blur=0.3,
)


def clips(*datasets, mixture=None, seed=3, **sampling):
    named = {dataset.name: dataset for dataset in datasets}
    mixture = mixture or Mixture(image_batch=4, video_batch=2)
    return TrainingClips(named, mixture, ClipSampling(frames=3, **sampling), AUGMENT, 32, seed)


def opened(format, root, name=None, **fields):
    return open_dataset(DatasetSpec(format=format, root=str(root), **fields), name)


@pytest.fixture
def pictures(tiny_world):
    return opened("sa1b", tiny_world / "sa1b/train")


@pytest.fixture
def videos(tiny_world):
    return opened("sav", tiny_world / "sav/train")


def same(a, b):
    assert (a.names, a.kind, a.slots) == (b.names, b.kind, b.slots)
    for field in ("frames", "masks", "clip_of_object"):
        torch.testing.assert_close(getattr(a, field), getattr(b, field), rtol=0, atol=0)


def batches(source, start, stop, **kwargs):
    return list(loader(source, start_step=start, stop_step=stop, **kwargs))


def test_shapes_and_kinds(pictures, videos):
    both = clips(pictures, videos, mixture=Mixture(mode="alternate", image_batch=4, video_batch=2))
    image, video = batches(both, 0, 2)
    assert (image.kind, image.frames.shape) == ("image", (4, 1, 3, 32, 32))
    assert (video.kind, video.frames.shape) == ("video", (2, 3, 3, 32, 32))
    for batch in (image, video):
        assert batch.frames.dtype == torch.uint8
        assert batch.masks.dtype == torch.bool
        assert batch.clip_of_object.dtype == torch.int64
        assert batch.masks.shape[0] == len(batch.clip_of_object) > 0
        assert batch.masks.shape[1:] == (batch.frames.shape[1], 32, 32)
        assert batch.clip_of_object.tolist() == sorted(batch.clip_of_object.tolist())
        assert batch.masks[:, 0].flatten(1).any(dim=1).all()  # visible where it begins
    assert image.names[0].startswith("sa1b/sa_")


MIXED = Mixture(mode="alternate", image_batch=4, video_batch=2)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [1, 4])
def test_workers_give_the_same_bytes(pictures, videos, workers):
    alone = batches(clips(pictures, videos, mixture=MIXED), 0, 6)
    helped = batches(clips(pictures, videos, mixture=MIXED), 0, 6, workers=workers)
    for a, b in zip(alone, helped, strict=True):
        same(a, b)


def test_a_restart_in_the_middle_continues_the_sequence(pictures, videos):
    """Seven pictures, four a step: step 5 lies within the third epoch."""
    mixture = Mixture(mode="size", image_batch=4, video_batch=2)
    whole = batches(clips(pictures, videos, mixture=mixture), 0, 9)
    rest = batches(clips(pictures, videos, mixture=mixture), 5, 9)
    for a, b in zip(whole[5:], rest, strict=True):
        same(a, b)
    assert {batch.kind for batch in whole} == {"image", "video"}


def digest(source, steps) -> str:
    """sha256 of all bytes of some steps."""
    found = hashlib.sha256()
    for batch in batches(source, *steps):
        for tensor in (batch.frames, batch.masks, batch.clip_of_object):
            found.update(tensor.contiguous().numpy().tobytes())
    return found.hexdigest()


def test_another_process_makes_the_same_bytes(pictures, videos, tiny_world):
    code = (
        "import sys; from tests.data.test_loader import *; world = sys.argv[1]\n"
        "data = [opened('sa1b', world + '/sa1b/train'), opened('sav', world + '/sav/train')]\n"
        "print(digest(clips(*data, mixture=MIXED), (3, 7)))"
    )
    words = [sys.executable, "-c", code, str(tiny_world)]
    env = {**os.environ, "PYTHONHASHSEED": "5"}
    there = subprocess.run(words, env=env, capture_output=True, text=True, check=True)
    assert there.stdout.strip() == digest(clips(pictures, videos, mixture=MIXED), (3, 7))


@pytest.mark.parametrize("exact", [False, True])
def test_packed_batches_come_out_as_they_went_in(pictures, videos, exact):
    source = clips(pictures, videos, mixture=MIXED)
    source.augment = replace(AUGMENT, exact=exact)
    for batch in batches(source, 0, 2):
        packed = PackedBatch.of(batch)
        assert packed.batch.masks.numel() == -(-batch.masks.numel() // 8)
        same(packed.unpack(), batch)


def test_two_ranks_together_are_one(pictures):
    (one,) = batches(clips(pictures), 4, 5)
    parts = [batches(clips(pictures), 4, 5, rank=rank, world=2)[0] for rank in (0, 1)]
    assert parts[0].names + parts[1].names == one.names
    assert parts[0].slots + parts[1].slots == one.slots == (0, 1, 2, 3)
    torch.testing.assert_close(torch.cat([part.frames for part in parts]), one.frames)
    torch.testing.assert_close(torch.cat([part.masks for part in parts]), one.masks)
    with pytest.raises(
        ConfigError, match="sa1b has 4 images; it has to be a multiple of the 3 ranks"
    ):
        loader(clips(pictures), start_step=0, stop_step=1, world=3)


def test_seeds_and_slots_differ(pictures):
    (a,), (b,) = batches(clips(pictures, seed=3), 0, 1), batches(clips(pictures, seed=4), 0, 1)
    assert not torch.equal(a.frames, b.frames)


def test_every_picture_once_an_epoch(pictures):
    """7 pictures, 4 a step: 7 steps are 4 epochs."""
    source = clips(pictures)
    drawn = [source.sample(step, slot).name for step in range(7) for slot in range(4)]
    for epoch in range(4):
        assert sorted(drawn[7 * epoch : 7 * epoch + 7]) == sorted(pictures.names)


def test_weights_share_a_step_between_data_sets(pictures, tiny_world):
    more = opened("coco", tiny_world / "coco")
    mixture = Mixture(image_batch=10, weights={"sa1b": 3.0, "coco": 1.0})
    assert drawn_from(clips(pictures, more, mixture=mixture), 100) == {"sa1b": 750, "coco": 250}
    with pytest.raises(ConfigError, match="give every data set a weight"):
        clips(pictures, more, mixture=Mixture(weights={"sa1b": 1.0}))


def drawn_from(source, steps) -> Counter:
    """How many samples of so many steps each data set gives."""
    counts = Counter()
    for step in range(steps):
        which, before = source._group_and_count(step)
        group, turns = source.groups[which], source._turns[which]
        for slot in range(group.batch):
            counts[group.members[turns.turn(before * group.batch + slot).member]] += 1
    return counts


def test_repeating_a_data_set_gives_it_more_of_the_steps(pictures, tiny_world):
    """7 and 3 pictures, as if concatenated; then the 3 count twice."""
    more = opened("coco", tiny_world / "coco")
    plain = drawn_from(clips(pictures, more, mixture=Mixture(image_batch=10)), 100)
    assert plain == {"sa1b": 700, "coco": 300}
    twice = drawn_from(
        clips(pictures, more, mixture=Mixture(image_batch=13, repeat={"coco": 2.0})), 1000
    )
    assert twice["coco"] / 13000 == pytest.approx(6 / 13, abs=0.001)
    with pytest.raises(ConfigError, match=r"repeat names x; the stage trains on coco, sa1b"):
        clips(pictures, more, mixture=Mixture(repeat={"x": 2}))
    with pytest.raises(ConfigError, match=r"weights are given where .* \(repeat\)"):
        Mixture(weights={"a": 1}, repeat={"a": 2})


def test_by_size_every_picture_and_every_video_is_seen_equally_often(pictures, videos):
    """Seven pictures in steps of 7, three videos in steps of 1: three of four steps are clips."""
    mixture = Mixture(mode="size", image_batch=7, video_batch=1)
    counts = drawn_from(clips(pictures, videos, mixture=mixture), 1000)
    assert counts == {"sa1b": 7 * 250, "sav": 750}


def test_a_data_set_may_have_steps_of_its_own(pictures, videos, tiny_world):
    more = opened("coco", tiny_world / "coco")
    mixture = Mixture(mode="alternate", image_batch=4, video_batch=2, batches={"coco": 5})
    source = clips(pictures, videos, more, mixture=mixture)
    found = batches(source, 0, 6)
    assert [(batch.kind, len(batch.names)) for batch in found[:3]] == [
        ("image", 4),
        ("video", 2),
        ("image", 5),
    ]
    assert {name.split("/")[0] for name in found[2].names + found[5].names} == {"coco"}
    assert {name.split("/")[0] for name in found[0].names + found[3].names} == {"sa1b"}
    with pytest.raises(ConfigError, match="a step of coco has 5 images; it has to be a multiple"):
        loader(source, start_step=0, stop_step=1, world=2)
    with pytest.raises(ConfigError, match="batches names x"):
        clips(pictures, mixture=Mixture(batches={"x": 1}))


def test_phases_change_the_clips_on_their_step_whoever_makes_them(videos):
    source = clips(videos, phases=[Phase(from_step=2, frames=5), Phase(from_step=3, max_objects=1)])
    found = batches(source, 0, 4)
    assert [batch.frames.shape[1] for batch in found] == [3, 3, 5, 5]
    assert len(found[3].masks) == 2 < len(found[2].masks)
    same(found[3], batches(source, 3, 4)[0])


def test_modes_that_do_not_fit(pictures, videos):
    with pytest.raises(ConfigError, match="use alternate, probability or size"):
        clips(pictures, videos)
    with pytest.raises(ConfigError, match="every data set of the stage holds images"):
        clips(pictures, mixture=Mixture(mode="alternate"))
    with pytest.raises(ConfigError, match="no data set"):
        clips()
    with pytest.raises(ConfigError, match=r"^weights\.x is 0"):
        Mixture(weights={"x": 0})


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


def test_batches_move_and_pin_as_a_whole(pictures):
    (batch,) = batches(clips(pictures), 0, 1)
    same(batch.to("cpu"), batch)
    if torch.cuda.is_available():
        same(batch.pin_memory(), batch)


class Telling(TrainingClips):
    """Says in its error what a worker sees."""

    def make(self, step, slot):
        raise DataError(os.environ.get("SET_LATER", "nothing"))


def test_workers_see_what_was_set_after_the_first_of_them(pictures, monkeypatch):
    """As credentials in a notebook: the server that workers are forked from runs already."""
    telling = Telling({"a": pictures}, Mixture(), ClipSampling(), AUGMENT, 32, 0)
    with pytest.raises(DataError, match="^nothing$"):
        batches(telling, 0, 1, workers=1)
    monkeypatch.setenv("SET_LATER", "credentials")
    with pytest.raises(DataError, match="^credentials$"):
        batches(telling, 0, 1, workers=1)


def test_closing_early_ends_the_workers(pictures):
    import multiprocessing

    stream = loader(clips(pictures), start_step=0, stop_step=100, workers=2)
    next(stream)
    assert len(multiprocessing.active_children()) >= 2
    stream.close()
    assert not [p for p in multiprocessing.active_children() if "pt_data_worker" in p.name]
