"""Batches depend on (seed, step, slot) alone: not on workers, ranks or where a run was resumed."""

import json
import logging

import pytest
import torch

from data.mixture import TrainingClips, loader
from data.settings import Augment, ClipSampling, Jitter, Mixture
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


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_give_the_same_bytes(pictures, videos, workers):
    mixture = Mixture(mode="alternate", image_batch=4, video_batch=2)
    alone = batches(clips(pictures, videos, mixture=mixture), 0, 6)
    helped = batches(clips(pictures, videos, mixture=mixture), 0, 6, workers=workers)
    for a, b in zip(alone, helped, strict=True):
        same(a, b)


def test_a_restart_in_the_middle_continues_the_sequence(pictures, videos):
    mixture = Mixture(mode="size", image_batch=4, video_batch=2)
    whole = batches(clips(pictures, videos, mixture=mixture), 0, 9)
    rest = batches(clips(pictures, videos, mixture=mixture), 5, 9)
    for a, b in zip(whole[5:], rest, strict=True):
        same(a, b)
    assert {batch.kind for batch in whole} == {"image", "video"}


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
    source = clips(pictures, more, mixture=mixture)
    drawn = [source._turns[0].turn(place).member for place in range(1000)]
    assert drawn.count(0) == 750
    with pytest.raises(ConfigError, match="give every data set a weight"):
        clips(pictures, more, mixture=Mixture(weights={"sa1b": 1.0}))


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


def test_batches_move_and_pin_as_a_whole(pictures):
    (batch,) = batches(clips(pictures), 0, 1)
    same(batch.to("cpu"), batch)
    if torch.cuda.is_available():
        same(batch.pin_memory(), batch)


def test_closing_early_ends_the_workers(pictures):
    import multiprocessing

    stream = loader(clips(pictures), start_step=0, stop_step=100, workers=2)
    next(stream)
    assert len(multiprocessing.active_children()) >= 2
    stream.close()
    assert not [p for p in multiprocessing.active_children() if "pt_data_worker" in p.name]
