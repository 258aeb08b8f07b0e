"""A video with prompts: on several frames, backwards, from a file, and misfits."""

import json

import av
import numpy as np

from pipeline import rle
from stages.evaluation.media import write_video
from stages.prediction.spec import Prompt
from tests.stages.prediction.scene import FRAMES, POINT, H, W, labels_of, save, shades, square


def test_a_clip_with_objects_on_several_frames(call, frames, tmp_path):
    prompts = (Prompt(frame=1, points=((30, 20),)), Prompt(object=3, frame=2, box=(4, 4, 30, 30)))
    summary = call(frames, prompts=prompts, layouts=("palette", "rle"))
    assert summary.frames == FRAMES
    maps = labels_of(tmp_path / "out/masks/clip")
    assert len(maps) == FRAMES
    assert not maps[0].any() and set(np.unique(maps[1])) <= {0, 1}
    said = json.loads((tmp_path / "out/rle/clip.json").read_text())
    assert said["masklet_id"] == [1, 3] and len(said["masklet"]) == FRAMES
    assert said["frame_names"][0] == "00000"
    assert rle.area(said["masklet"][1][1]) == 0 < rle.area(said["masklet"][2][1])
    with av.open(str(tmp_path / "out/overlays/clip.mp4")) as film:
        pictures = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert len(pictures) == FRAMES and pictures[0].shape == (360, 540, 3)


def test_backwards_reaches_the_start_and_leaves_the_rest_alone(call, frames, tmp_path):
    prompts = (
        Prompt(frame=2, mask=rle.encode(square(8, 8, 24))),
        Prompt(object=2, frame=3, box=(4, 4, 30, 30)),
    )
    call(frames, prompts=prompts, layouts=("objects",))
    clip = tmp_path / "out/masks/clip"
    once = {n: labels_of(clip / f"{n:03d}") for n in (1, 2)}
    call(frames, prompts=prompts, layouts=("objects",), backwards=True)
    both = {n: labels_of(clip / f"{n:03d}") for n in (1, 2)}
    assert not once[1][1].any() and both[1][1].any()
    for number, first in ((1, 2), (2, 3)):
        assert np.array_equal(once[number][first:], both[number][first:])


def test_a_video_file_is_as_its_frames(call, tmp_path):
    pictures = [np.kron(shades(t), np.ones((2, 2, 1), np.uint8)) for t in range(FRAMES)]
    write_video(pictures, tmp_path / "dog.mp4", fps=10)
    summary = call(tmp_path / "dog.mp4", prompts=(Prompt(points=((60, 40),)),))
    assert summary.frames == FRAMES and len(labels_of(tmp_path / "out/masks/dog")) == FRAMES
    with av.open(str(tmp_path / "out/overlays/dog.mp4")) as film:
        assert film.streams.video[0].average_rate == 10


def test_frames_of_two_sizes(call, frames):
    save(frames / "00003.png", shades(0, (H, W + 4)))
    assert "--images" in call(frames, prompts=POINT).failures[0]


def test_a_prompt_after_the_end(call, frames):
    failure = call(frames, prompts=(Prompt(frame=9, points=((5, 5),)),)).failures[0]
    assert f"{FRAMES} frames (0 to {FRAMES - 1})" in failure
