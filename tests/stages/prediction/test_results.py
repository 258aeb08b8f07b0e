"""What is finished stays, what was interrupted is made again, and what is told on the way."""

import shutil

import numpy as np
import pytest
import torch

from data.labels import label_png, read_labels
from model.weights import load_checkpoint, save_checkpoint
from pipeline.errors import ConfigError, StorageError
from stages.prediction.spec import Event
from tests.stages.prediction.scene import FRAMES, POINT, labels_of, save, square


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


def test_other_weights_under_the_same_name_are_other_results(call, picture, weights, tmp_path):
    file = tmp_path / "model.pt"
    shutil.copy(weights, file)
    call(picture, prompts=POINT, layouts=("rle",), checkpoint=str(file))
    said = (tmp_path / "out/rle/cat.json").read_text()
    model = load_checkpoint(weights)
    with torch.no_grad():
        model.sam_mask_decoder.iou_prediction_head.layers[-1].bias.add_(1)
    save_checkpoint(model, file)
    assert call(picture, prompts=POINT, layouts=("rle",), checkpoint=str(file)).finished == 1
    assert (tmp_path / "out/rle/cat.json").read_text() != said


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


def test_events_tell_how_far_it_is(call, davis):
    told: list[Event] = []
    call(davis, told.append)
    kinds = [event.kind for event in told]
    assert told[0] == Event("planned", str(davis), 2)
    assert kinds.count("frame") == 2 * FRAMES and kinds.count("finished") == 2


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
