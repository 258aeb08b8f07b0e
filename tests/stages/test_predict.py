"""What `predict` writes, makes anew, and refuses, with an untrained network."""

import json
import zlib
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from data.labels import label_png, read_labels
from model.config import preset
from model.sam2 import build_sam2
from model.video_predictor import track_video
from model.weights import load_checkpoint, save_checkpoint
from pipeline import rle
from pipeline.errors import CheckpointError, ConfigError, DataError, StorageError
from pipeline.pictures import read_rgb
from stages.evaluation.media import write_video
from stages.predict import predict
from stages.prediction.answer import Answer, answer_of, merged
from stages.prediction.overlay import INSIDE, draw
from stages.prediction.prompts import Asked
from stages.prediction.spec import Event, Everything, PredictSpec, Prompt, Summary
from stages.prediction.writers import PaletteMasks

H, W = 40, 60
FRAMES = 5


def shades(seed: int, size: tuple[int, int] = (H, W)) -> np.ndarray:
    """Noise over a slope: a picture in which an untrained network sees something."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: size[0], : size[1]]
    slope = np.stack([rows * 3, columns * 3, rows + columns], -1)
    return (slope + rng.integers(0, 60, slope.shape)).clip(0, 255).astype(np.uint8)


def square(top: int, left: int, side: int = 14) -> np.ndarray:
    mask = np.zeros((H, W), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def save(path: Path, content: np.ndarray | bytes, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        Image.fromarray(content).save(path, **options)
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> str:
    """An untrained micro network that believes its objects are there."""
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("weights") / "micro.pt"
    model = build_sam2(preset("micro"))
    with torch.no_grad():
        model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(5.0)
    save_checkpoint(model, path)
    return str(path)


@pytest.fixture
def picture(tmp_path) -> Path:
    return save(tmp_path / "in" / "cat.png", shades(0))


@pytest.fixture
def frames(tmp_path) -> Path:
    """A folder of frames."""
    for t in range(FRAMES):
        save(tmp_path / "clip" / f"{t:05d}.png", shades(t))
    return tmp_path / "clip"


@pytest.fixture
def davis(tmp_path) -> Path:
    """Two videos: in `late`, object 7 appears on the third frame."""
    root = tmp_path / "davis"
    for video in ("early", "late"):
        for t in range(FRAMES):
            save(root / "JPEGImages" / video / f"{t:05d}.png", shades(t))
            labels = square(5, 5 + t).astype(np.uint8) * 2
            if video == "late" and t >= 2:
                labels[square(20, 30)] = 7
            save(root / "Annotations" / video / f"{t:05d}.png", label_png(labels))
    return root


@pytest.fixture
def call(weights, tmp_path):
    """Predict into `out`; returns the summary."""

    def run(source: Path, tell=lambda event: None, **settings) -> Summary:
        spec = PredictSpec(
            source=str(source), out=str(tmp_path / "out"), checkpoint=weights, device="cpu"
        )
        return predict(replace(spec, **settings), tell)

    return run


GOLDEN = Path(__file__).parents[1] / "golden" / "n_datasets.npz"
POINT = (Prompt(points=((30, 20),)),)


def labels_of(folder: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))]


def test_a_picture_in_all_forms(call, picture, tmp_path):
    prompts = (
        Prompt(points=((30, 20), (3, 3)), labels=(1, 0)),
        Prompt(object=4, box=(5, 5, 40, 30)),
    )
    summary = call(picture, prompts=prompts, layouts=("palette", "objects", "rle"))
    out = tmp_path / "out"
    assert (summary.finished, summary.frames, summary.failures) == (1, 1, ())
    palette = Image.open(out / "masks" / "cat.png")
    assert palette.mode == "P" and palette.size == (W, H)
    assert palette.getpalette()[:6] == [0, 0, 0, 128, 0, 0]
    alone = {n: np.asarray(Image.open(out / "masks" / "cat" / f"{n:03d}.png")) for n in (1, 4)}
    assert all(set(np.unique(mask)) <= {0, 1} for mask in alone.values())
    report = json.loads((out / "rle" / "cat.json").read_text())
    assert report["image"] == {"file_name": "cat.png", "height": H, "width": W}
    for entry in report["annotations"]:
        mask = rle.decode(entry["segmentation"])
        assert np.array_equal(mask, alone[entry["id"]] > 0) and entry["area"] == mask.sum()
        assert 0 <= entry["predicted_iou"] <= 1
    labels = np.asarray(palette)
    assert set(np.unique(labels)) <= {0, 1, 4}
    assert np.array_equal(labels > 0, (alone[1] | alone[4]) > 0), (
        "every pixel of a mask has an owner"
    )
    assert all((alone[n][labels == n] == 1).all() for n in (1, 4))
    assert Image.open(out / "overlays" / "cat.jpg").size == (W, H)


def test_overlaps_go_to_the_lower_number_as_in_the_reference(tmp_path):
    """The stored merge is of objects 1, 4 and 2; the file it was written to had DAVIS's palette."""
    with np.load(GOLDEN) as stored:
        size = stored["vos/in@shape"]
        masks = np.unpackbits(stored["vos/in@bits"])[: size.prod()].reshape(size).astype(bool)
        expected = stored["vos/put_per_obj_mask"]
    by_number = masks[[0, 2, 1]]
    picture = np.zeros((*expected.shape, 3), np.uint8)
    rows = merged(by_number, expected.shape)
    assert masks.sum(0).max() > 1, "there is an overlap"
    PaletteMasks(tmp_path, "v", film=True).add(Answer("0", picture, (1, 2, 4), by_number, rows))
    written = Image.open(tmp_path / "masks/v/0.png")
    assert np.array_equal(np.asarray(written), expected)
    assert zlib.crc32(bytes(written.getpalette())) == 3699290587


def test_pixels_of_two_objects_go_to_the_surer_one():
    logits = torch.tensor([[[2.0, 1.0, -1.0]], [[1.0, 2.0, -2.0]]])
    answer = answer_of("0", np.zeros((1, 3, 3), np.uint8), (3, 8), logits, 0.0)
    assert answer.rows.tolist() == [[1, 2, 0]]
    assert np.array(answer.masks).tolist() == [[[True, True, False]], [[True, True, False]]]


def test_the_drawing_shows_objects_prompts_and_nothing_else():
    grey = np.full((200, 300, 3), 100, np.uint8)
    mask = np.zeros((200, 300), bool)
    mask[50:150, 100:200] = True
    asked = {5: Asked(np.array([[20.0, 20.0]], np.float32), np.array([1]))}
    answer = Answer("0", grey, (5,), [mask], merged([mask], mask.shape), asked)
    drawn = draw(answer)
    assert drawn.shape == grey.shape and (grey == 100).all()
    assert drawn[100, 150, 0] > drawn[100, 150, 1] + 40, "tinted in the first colour"
    assert (drawn[180, 280] < 100).all(), "the rest is darker"
    assert tuple(drawn[20, 20]) == INSIDE
    film = draw(answer, film=True)
    assert film.shape == (360, 540, 3) and tuple(film[36, 36]) == INSIDE


def test_a_threshold_makes_masks_smaller(call, picture, tmp_path):
    def area(threshold: float) -> int:
        call(picture, prompts=POINT, score_threshold=threshold, overlay=False)
        return int((np.asarray(Image.open(tmp_path / "out/masks/cat.png")) > 0).sum())

    assert area(-1000.0) == H * W and area(1000.0) == 0


def test_what_has_no_mask_is_named(call, picture):
    assert call(picture, prompts=POINT, score_threshold=-1000.0).empty == ()
    assert call(picture, prompts=POINT, score_threshold=1000.0).empty == ("cat",)


def test_a_turned_picture_is_answered_as_people_see_it(call, tmp_path):
    tags = Image.Exif()
    tags[0x0112] = 6
    turned = save(tmp_path / "in" / "phone.jpg", shades(0), exif=tags, quality=95)
    call(turned, prompts=(Prompt(points=((20, 50),)),))
    assert Image.open(tmp_path / "out/masks/phone.png").size == (H, W)
    with_mask = save(tmp_path / "mask.png", (square(0, 0).T * 255).astype(np.uint8))
    assert call(turned, prompts=(Prompt(mask=str(with_mask)),)).failures == ()


@pytest.mark.parametrize("kind", ["grey16", "rgba", "palette"])
def test_pictures_of_other_kinds(kind, call, tmp_path):
    grey = np.linspace(0, 65535, H * W).reshape(H, W).astype(np.uint16)
    made = {
        "grey16": Image.fromarray(grey),
        "rgba": Image.fromarray(np.dstack([shades(0), np.full((H, W), 90, np.uint8)])),
        "palette": Image.fromarray(shades(0)).quantize(32),
    }
    made[kind].save(tmp_path / "odd.png")
    assert call(tmp_path / "odd.png", prompts=POINT).finished == 1


def test_a_folder_of_pictures_names_the_broken_one_and_does_the_others(call, tmp_path):
    for name in ("a.jpg", "b.png", "b.jpg"):
        save(tmp_path / "in" / name, shades(1, (H, W + len(name))))
    save(tmp_path / "in" / "c.jpg", b"not a picture")
    summary = call(tmp_path / "in", images=True, prompts=POINT)
    assert summary.finished == 3 and len(summary.failures) == 1
    assert "c.jpg" in summary.failures[0]
    made = sorted(path.name for path in (tmp_path / "out" / "masks").iterdir())
    assert made == ["a.png", "b.jpg.png", "b.png.png"]


def test_prompts_may_name_a_picture(call, tmp_path):
    for name in ("a.png", "b.png"):
        save(tmp_path / "in" / name, shades(1))
    prompts = (Prompt(points=((5, 5),), picture="a.png"), Prompt(object=2, points=((9, 9),)))
    call(tmp_path / "in", images=True, prompts=prompts, layouts=("objects",))
    found = {
        p.name: sorted(q.name for q in p.iterdir()) for p in (tmp_path / "out/masks").iterdir()
    }
    assert found == {"a": ["001.png", "002.png"], "b": ["002.png"]}


def test_everything_is_numbered_from_small_to_large(call, picture, tmp_path):
    looks = Everything(points_per_side=4, predicted_iou=0.0, stability=0.0)
    call(picture, everything=looks, layouts=("rle", "palette"))
    found = json.loads((tmp_path / "out/rle/cat.json").read_text())["annotations"]
    areas = [entry["area"] for entry in found]
    assert areas == sorted(areas) and areas and found[0]["id"] == 1
    assert {"predicted_iou", "stability_score", "point_coords", "crop_box"} <= found[0].keys()
    smallest = rle.decode(found[0]["segmentation"])
    assert (np.asarray(Image.open(tmp_path / "out/masks/cat.png"))[smallest] == 1).all()


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


def test_a_data_set_as_the_predictor_tracks_it(call, davis, weights, tmp_path):
    summary = call(davis, names=("early",))
    assert summary.frames == FRAMES and not (tmp_path / "out/overlays").exists()
    model = load_checkpoint(weights)
    pictures = [read_rgb(davis / f"JPEGImages/early/{t:05d}.png") for t in range(FRAMES)]
    expected = [
        (logits[0] > 0).numpy() for logits in track_video(model, pictures, square(5, 5)[None])
    ]
    got = labels_of(tmp_path / "out/masks/early")
    assert all(np.array_equal(a == 2, b) for a, b in zip(got, expected, strict=True))
    assert np.array_equal(got[0] == 2, square(5, 5))


def test_late_objects(call, davis, tmp_path):
    call(davis, names=("late",), layouts=("objects",))
    assert [path.name for path in (tmp_path / "out/masks/late").iterdir()] == ["002"]
    call(davis, names=("late",), layouts=("objects",), late_objects=True)
    late = labels_of(tmp_path / "out/masks/late/007")
    assert not late[0].any() and not late[1].any() and np.array_equal(late[2] > 0, square(20, 30))


def test_sav_layout_is_written_as_it_is_read(call, tmp_path):
    root = tmp_path / "sav"
    for t in range(FRAMES):
        save(root / "JPEGImages_24fps" / "v" / f"{t:05d}.jpg", shades(t))
    for t in (0, 4):
        for number, mask in enumerate((square(4, 4), square(20, 30 if t else 80))):
            path = root / "Annotations_6fps" / "v" / f"{number:03d}" / f"{t:05d}.png"
            save(path, label_png(mask.astype(np.uint8)))
    call(root)
    assert np.array_equal(read_labels(tmp_path / "out/masks/v/000/00000.png"), square(4, 4))
    assert np.array_equal(read_labels(tmp_path / "out/masks/v/001/00004.png"), square(20, 30))
    with pytest.raises(ConfigError, match="object 0 has no place in a palette"):
        call(root, layouts=("palette",))


def test_what_is_finished_is_not_made_again(call, davis, tmp_path):
    assert call(davis).finished == 2
    file = tmp_path / "out/masks/early/00001.png"
    file.write_bytes(b"touched")
    assert (call(davis).finished, call(davis).skipped) == (0, 2)
    assert call(davis, score_threshold=0.5).finished == 2, "other settings"
    assert file.read_bytes() != b"touched"
    assert call(davis, score_threshold=0.5, again=True).finished == 2
    file.parent.rename(tmp_path / "elsewhere")
    assert call(davis, score_threshold=0.5).finished == 1, "its files are gone"


def test_a_longer_list_goes_on_with_what_is_there(call, davis):
    assert call(davis, names=("early",)).finished == 1
    assert (call(davis).finished, call(davis).skipped) == (1, 2)


def test_another_form_takes_the_place_of_the_first(call, picture, tmp_path):
    call(picture, prompts=POINT)
    call(picture, prompts=POINT, layouts=("rle",), overlay=False)
    left = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").glob("*/*"))
    assert [name for name in left if not name.startswith(".")] == ["rle/cat.json"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_video_leaves_nothing(stop, call, davis, tmp_path):
    def interrupt(event: Event) -> None:
        if event.kind == "frame" and event.name == "late":
            raise stop

    with pytest.raises(stop):
        call(davis, interrupt)
    assert [path.name for path in (tmp_path / "out/masks").iterdir()] == ["early"]
    assert not list((tmp_path / "out/.predict/making").iterdir())
    assert (call(davis).finished, call(davis).skipped) == (1, 2)


def test_what_a_killed_process_left_is_made_again(call, davis, tmp_path):
    call(davis)
    (tmp_path / "out/.predict/late.json").unlink()  # killed while it put things in their places
    save(tmp_path / "out/.predict/making/late/masks/late/00000.png", b"half")
    save(tmp_path / "out/masks/late/00009.png", b"of another video")
    assert call(davis).finished == 1
    assert len(labels_of(tmp_path / "out/masks/late")) == FRAMES


def test_shards_share_the_videos(call, davis, tmp_path):
    assert call(davis, shard=(1, 2)).finished == 1
    assert call(davis, shard=(2, 2)).finished == 1
    assert sorted(p.name for p in (tmp_path / "out/masks").iterdir()) == ["early", "late"]
    assert call(davis, shard=(3, 3)).finished == 0


@pytest.mark.slow
def test_processes_do_what_one_does(call, davis, tmp_path):
    call(davis)
    one = [labels_of(tmp_path / "out/masks" / name) for name in ("early", "late")]
    assert call(davis, workers=2, again=True).frames == 2 * FRAMES
    two = [labels_of(tmp_path / "out/masks" / name) for name in ("early", "late")]
    assert np.array_equal(one, two)


def test_events_tell_how_far_it_is(call, davis):
    told: list[Event] = []
    call(davis, told.append)
    kinds = [event.kind for event in told]
    assert told[0] == Event("planned", str(davis), 2)
    assert kinds.count("frame") == 2 * FRAMES and kinds.count("finished") == 2


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, "nothing says what to look for"),
        ({"prompts": (Prompt(points=((61, 5),)),)}, "60 wide and 40 high"),
        ({"prompts": (Prompt(box=(70, 0, 90, 20)),)}, "the box 70,0,90,20 is outside"),
        (
            {"prompts": (Prompt(object=256, points=((5, 5),)),)},
            "object 256 has no place in a palette",
        ),
        ({"prompts": (Prompt(frame=3, points=((5, 5),)),)}, "is a picture; --frame 3"),
        ({"prompts": POINT, "backwards": True}, "is about videos"),
        ({"prompts": POINT, "names": ("x",)}, "is no data set"),
        ({"prompts": (Prompt(box=(0, 0, 9, 9)), Prompt(box=(9, 9, 20, 20)))}, "two boxes"),
        ({"prompts": POINT, "device": "abacus"}, "--device abacus"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_misuse_on_a_picture(settings, told, call, picture):
    try:
        failures = call(picture, **settings).failures
    except ConfigError as error:
        failures = (str(error),)
    assert len(failures) == 1 and told in failures[0] and "\n" not in failures[0]


def test_masks_that_do_not_fit(call, picture, tmp_path):
    empty = save(tmp_path / "empty.png", np.zeros((H, W), np.uint8))
    small = save(tmp_path / "small.png", np.full((9, 9), 255, np.uint8))
    both = np.zeros((H, W), np.uint8)
    both[:9], both[20:] = 1, 2
    several = save(tmp_path / "several.png", label_png(both))
    told = {
        Prompt(mask=str(empty)): "is empty",
        Prompt(mask=str(small)): "is 9x9 pixels",
        Prompt(mask=str(several), object=5): "holds the objects 1, 2",
        Prompt(mask=str(tmp_path / "none.png")): "none.png",
    }
    for prompt, words in told.items():
        assert words in call(picture, prompts=(prompt,)).failures[0]
    assert call(picture, prompts=(Prompt(mask=str(several)),)).finished == 1


def test_a_broken_frame_ends_that_video_only(call, davis, tmp_path):
    save(davis / "JPEGImages/early/00003.png", b"broken")
    summary = call(davis)
    assert summary.finished == 1 and "00003.png" in summary.failures[0]
    assert [path.name for path in (tmp_path / "out/masks").iterdir()] == ["late"]


def test_frames_of_two_sizes(call, frames):
    save(frames / "00003.png", shades(0, (H, W + 4)))
    assert "--images" in call(frames, prompts=POINT).failures[0]


def test_a_prompt_after_the_end(call, frames):
    failure = call(frames, prompts=(Prompt(frame=9, points=((5, 5),)),)).failures[0]
    assert f"{FRAMES} frames (0 to {FRAMES - 1})" in failure


def test_a_video_without_objects(call, davis):
    save(davis / "Annotations/early/00000.png", label_png(np.zeros((H, W), np.uint8)))
    for t in range(1, FRAMES):
        (davis / f"Annotations/early/{t:05d}.png").unlink()
    assert "no annotated frame shows an object" in call(davis).failures[0]


def test_sources_that_are_none(call, tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        call(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no pictures"):
        call(tmp_path / "empty", prompts=POINT)


def test_where_the_source_is_nothing_is_written(call, davis, frames, tmp_path):
    for source, out in ((frames, frames), (davis, davis), (davis, davis / "Annotations" / "mine")):
        with pytest.raises(ConfigError, match="where the source is"):
            call(source, out=str(out), prompts=POINT if source is frames else ())
    own = save(tmp_path / "own/masks/cat.png", label_png(square(0, 0).astype(np.uint8)))
    with pytest.raises(ConfigError, match="that predict did not make"):
        call(frames, out=str(tmp_path / "own"), prompts=POINT)
    assert np.array_equal(read_labels(own), square(0, 0))


def test_a_full_disk_is_told_before_the_work(call, picture, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(StorageError, match="free"):
        call(picture, prompts=POINT)


def test_weights_of_another_size(call, picture):
    with pytest.raises(CheckpointError, match="large"):
        call(picture, prompts=POINT, preset="large")
