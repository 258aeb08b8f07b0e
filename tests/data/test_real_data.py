"""Real frames, masklets and clips, where there are any."""

import json
import shutil

import numpy as np
import pytest

from data.extract import ExtractOptions, extract_frames
from data.masklets import masklet_facts, read_masklets
from data.mixture import TrainingClips, loader
from data.settings import Augment, ClipSampling, Mixture
from data.sources import open_dataset
from data.spec import DatasetSpec
from pipeline.cache import SHARED
from pipeline.video import frame_total, iterate_frames, read_frames


def test_davis_2016(shared_dir):
    dataset = open_dataset(DatasetSpec(format="davis", root=str(shared_dir / "data/davis")))
    assert len(dataset) == 8
    for index in range(8):
        assert dataset.frame_count(index) == 36
        clip = dataset.load(index, [0, 35])
        assert clip.frames.shape == (2, 480, 854, 3)
        assert clip.object_ids == (1,)
        assert 0.0005 < clip.masks.mean() < 0.5


def test_davis_trains(shared_dir):
    spec = DatasetSpec(format="davis", root=str(shared_dir / "data/davis"), names=("dog", "camel"))
    source = TrainingClips(
        {"davis": open_dataset(spec)},
        Mixture(video_batch=2),
        ClipSampling(frames=4),
        Augment(rotate=10),
        96,
        seed=0,
    )
    (batch,) = loader(source, start_step=0, stop_step=1)
    assert batch.frames.shape == (2, 4, 3, 96, 96)
    assert sorted(batch.names) == ["davis/camel", "davis/dog"]
    assert batch.masks.flatten(2).any(dim=2).all()


@pytest.mark.parametrize(("kind", "objects"), [("manual", 5), ("auto", 9), ("both", 14)])
def test_sav_masklets(shared_dir, kind, objects):
    spec = DatasetSpec(format="sav", root=str(shared_dir / "data/sav"), annotations=kind)
    dataset = open_dataset(spec)
    assert dataset.names == ("sav_000001",)
    numbers = dataset.frame_numbers(0)
    assert (len(numbers), numbers[-1]) == (121, 480)
    masks = dataset.masks(0, 60, range(objects), (848, 480))
    assert masks.shape == (objects, 848, 480)
    shown = tuple(np.flatnonzero(masks.any(axis=(1, 2))))
    assert dataset.visible(0, 60) == shown


@pytest.mark.parametrize("kind", ["manual", "auto"])
def test_sav_metadata_is_reproduced(shared_dir, kind):
    """What the file says about its masklets follows from its run lengths."""
    spec = DatasetSpec(format="sav", root=str(shared_dir / "data/sav"), annotations=kind)
    (part,) = open_dataset(spec).manifest.parts(0)
    masklets = read_masklets(part.place)
    assert (masklets.areas.shape, masklets.step) == ((121, 5 if kind == "manual" else 9), 4)
    said = json.loads((shared_dir / f"data/sav/sav_000001_{kind}.json").read_text())
    for field, values in masklet_facts(masklets.areas, masklets.pixels).items():
        if "size_rel" in field or "size_abs" in field:
            np.testing.assert_allclose(values, said[field], rtol=0, atol=5e-11, err_msg=field)
        else:
            assert values == said[field], field


def test_real_videos_are_read_from_the_middle(shared_dir):
    """B-frames, 29.97 frames a second, two key frames: seeking gives the frames of a pass
    through."""
    videos = sorted((shared_dir / "data/clips").glob("*.mp4"))
    assert videos
    for video in videos:
        thumbs = [frame[::16, ::16].copy() for frame in iterate_frames(video)]
        assert frame_total(video) == len(thumbs)
        for number in (0, 100, len(thumbs) - 1):
            SHARED.clear()
            (frame,) = read_frames(video, [number])
            np.testing.assert_array_equal(frame[::16, ::16], thumbs[number])


def test_real_clip_extraction(shared_dir, tmp_path):
    video = shared_dir / "data/clips/01_dog.mp4"
    report = extract_frames(video, tmp_path / "dog", ExtractOptions(every=16))
    assert (report.decoded, report.frames) == (289, 19)
    shutil.rmtree(tmp_path / "dog")
