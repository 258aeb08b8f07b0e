"""All protocols at once, as a recipe asks for them after a training stage."""

import csv
import json
from pathlib import Path

import pytest

from stages.contract import StageResult
from tests.stages.conftest import Workshop

MORE = {
    "clicks": {"kind": "clicks", "dataset": "pictures_val", "clicks": 3, "max_images": 3},
    "boxes": {"kind": "clicks", "dataset": "pictures_val", "start": "box", "clicks": 1},
    "offline": {"kind": "interactive", "dataset": "clips_val", "frames": 2, "max_videos": 1},
    "online": {
        "kind": "interactive",
        "dataset": "clips_val",
        "mode": "online",
        "start": "box",
        "frames": 3,
        "max_videos": 1,
    },
    "coco": {"kind": "coco", "dataset": "pictures_val", "max_images": 3},
    "hidden": {"kind": "occlusion", "dataset": "clips_val", "every_frame": False, "max_videos": 2},
}
DATA = {"pictures_val": "images", "clips_val": "videos"}


def test_each_has_figures_files_and_words(workshop: Workshop, pretrained: StageResult) -> None:
    plain = workshop.spec("image_pretrain.evaluate", pretrained.checkpoint)
    evaluation = {**plain.settings["evaluation"], "max_images": 1, "max_videos": 1, "more": MORE}
    more = {name: plain.settings[DATA[one["dataset"]]] for name, one in MORE.items()}
    spec = workshop.spec(
        "image_pretrain.evaluate",
        pretrained.checkpoint,
        place="protocols",
        evaluation=evaluation,
        more=more,
    )
    result = workshop.run(spec)
    expected = {
        "clicks": {"miou@1", "miou@3", "noc85", "noc90", "failed85", "failed90"},
        "boxes": {"miou@box", "miou@1", "noc85", "noc90", "failed85", "failed90"},
        "offline": {"jf@1", "jf@2", "jf_mean", "interacted_frames"},
        "online": {"jf@1", "jf@2", "jf@3", "jf_mean", "interacted_frames"},
        "coco": {"ap", "ap50", "ap75", "miou"},
        "hidden": {"presence", "returns"},
    }
    for name, figures in expected.items():
        found = {
            key.removeprefix(f"{name}/") for key in result.metrics if key.startswith(f"{name}/")
        }
        assert figures <= found, name
    said = json.loads(Path(result.files["more"]).read_text())
    assert all(said[name]["protocol"] and said[name]["split"] for name in MORE)
    assert 1 <= result.metrics["online/interacted_frames"] <= 3
    assert result.metrics["offline/interacted_frames"] == pytest.approx(2)
    with open(result.files["offline/curve"]) as file:
        rows = list(csv.DictReader(file))
    assert {row["frames allowed"] for row in rows} == {"1", "2"}
    mean = sum(float(row["J&F"]) for row in rows if row["frames allowed"] == "1") / (len(rows) / 2)
    assert result.metrics["offline/jf@1"] == pytest.approx(mean, abs=1e-3)
