"""Batches depend on (seed, step, slot) alone: not on workers, ranks or where a run was resumed."""

import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from data.collate import PackedBatch
from data.mixture import TrainingClips, loader
from data.settings import ClipSampling, Mixture
from pipeline.errors import ConfigError, DataError
from tests.data.training import AUGMENT, batches, clips, same


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
        "import sys; from tests.data.test_loader import *; from tests.data.training import opened\n"
        "world = sys.argv[1]\n"
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


def test_batches_move_and_pin_as_a_whole(pictures):
    (batch,) = batches(clips(pictures), 0, 1)
    same(batch.to("cpu"), batch)
    if torch.cuda.is_available():
        same(batch.pin_memory(), batch)


class Telling(TrainingClips):
    """Says in its error what a worker sees."""

    def make(self, step, slot, begins=None):
        raise DataError(os.environ.get("SET_LATER", "nothing"))


def test_workers_see_what_was_set_after_the_first_of_them(pictures, monkeypatch):
    """As credentials in a notebook: the server that workers are forked from runs already."""
    telling = Telling({"a": pictures}, Mixture(), ClipSampling(), AUGMENT, 32, 0)
    with pytest.raises(DataError, match=r"^nothing$"):
        batches(telling, 0, 1, workers=1)
    monkeypatch.setenv("SET_LATER", "credentials")
    with pytest.raises(DataError, match=r"^credentials$"):
        batches(telling, 0, 1, workers=1)


class Killed(TrainingClips):
    """Its worker dies with the second step's sample in hand, as one that takes too much memory."""

    def make(self, step, slot, begins=None):
        begins(f"film {step}")
        if step == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().make(step, slot)


@pytest.mark.slow
def test_a_killed_worker_is_told_with_the_sample_it_had(pictures):
    killed = Killed({"a": pictures}, Mixture(), ClipSampling(), AUGMENT, 32, 0)
    with pytest.raises(DataError, match=r"gave up.*exited unexpectedly.*in hand: step 1: film 1\."):
        batches(killed, 0, 3, workers=1)


def test_closing_early_ends_the_workers(pictures):
    stream = loader(clips(pictures), start_step=0, stop_step=100, workers=2)
    next(stream)
    assert len(multiprocessing.active_children()) >= 2
    stream.close()
    assert not [p for p in multiprocessing.active_children() if "pt_data_worker" in p.name]
