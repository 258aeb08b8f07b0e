"""Scores survive the disk, so that what is compared is what was measured."""

import json
from dataclasses import replace

import numpy as np
import pytest

from pipeline.errors import DataError
from stages.evaluation.details import read_details, write_details
from stages.evaluation.image import ImageScores
from stages.evaluation.jf import Protocol, VideoScores, score_video
from stages.evaluation.summary import summarise


def scored(seed: int = 0) -> VideoScores:
    """Two random videos; in the first one, an object that leaves and returns, and one never seen."""
    rng = np.random.default_rng(seed)
    truth = rng.random((7, 3, 12, 14)) < 0.3
    truth[:, 2] = False
    truth[2:4, 0] = False
    guess = truth ^ (rng.random(truth.shape) < 0.1)
    guess[5, 0] = False
    first = score_video(truth, guess, name="a", object_ids=[1, 2, 7])
    second = score_video(truth[:, :2], truth[:, :2], name="b", object_ids=["003", "004"])
    return VideoScores((first, second), Protocol(late_objects="davis"), "5" * 64, "given masks")


def test_videos_and_pictures_survive_the_disk(tmp_path):
    videos = scored()
    pictures = ImageScores(("p", "p", "q"), np.array([[0.1, 1 / 3]] * 3), "6" * 64, "clicks")
    write_details(tmp_path / "details.json", pictures, videos)
    found = read_details(tmp_path / "details.json")
    assert found.videos is not None and found.pictures is not None
    assert (found.videos.protocol, found.videos.split, found.videos.given) == (
        videos.protocol, videos.split, videos.given
    )  # fmt: skip
    before, after = summarise(pictures, videos).metrics(), summarise(None, found.videos).metrics()
    assert after == {key: pytest.approx(before[key], abs=1e-4) for key in after}
    assert found.pictures.pictures == pictures.pictures
    np.testing.assert_allclose(found.pictures.ious, pictures.ious, atol=1e-6)
    for mine, theirs in zip(videos.objects, found.videos.objects, strict=True):
        assert (mine.object_id, mine.frames) == (theirs.object_id, theirs.frames)
        np.testing.assert_array_equal(mine.visible, theirs.visible)
        np.testing.assert_array_equal(mine.claimed, theirs.claimed)
    assert [v.unscored for v in found.videos.videos] == [v.unscored for v in videos.videos]


def test_a_part_that_was_not_measured_stays_so(tmp_path):
    write_details(tmp_path / "d.json")
    found = read_details(tmp_path / "d.json")
    assert found.videos is None and found.pictures is None


def test_files_that_are_no_scores_are_named(tmp_path):
    file = tmp_path / "d.json"
    for content in ("", "[]", '{"image": 1}', '{"format": 1}'):
        file.write_text(content)
        with pytest.raises(DataError, match=r"d\.json .*evaluate again"):
            read_details(file)
    write_details(file, None, scored())
    values = json.loads(file.read_text())
    values["videos"]["videos"][0]["objects"][0]["visible"] = "01"
    file.write_text(json.dumps(values))
    with pytest.raises(DataError, match="columns of different length"):
        read_details(file)


def test_the_protocol_is_kept_as_it_was(tmp_path):
    videos = replace(scored(), protocol=Protocol(skip_first_and_last=False))
    write_details(tmp_path / "d.json", None, videos)
    found = read_details(tmp_path / "d.json").videos
    assert found is not None and found.protocol == videos.protocol
