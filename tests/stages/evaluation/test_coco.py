"""Mask AP from true boxes: equal to what pycocotools says of the same results."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from data.sources import open_dataset
from data.sources.coco import CocoInstances
from data.spec import DatasetSpec
from model.image_predictor import ImagePredictor
from model.weights import load_checkpoint
from pipeline import rle
from pipeline.distributed import World
from pipeline.errors import ConfigError
from stages.evaluation import image
from stages.evaluation.coco import FIGURES, average_precision, segment
from stages.evaluation.protocols import Subject, measure_by
from stages.evaluation_settings import CocoMeasurement
from tests.stages.prediction.conftest import weights as weights

SIDE = 160


def write_coco(root: Path, pictures: int = 6, objects: int = 5) -> Path:
    """Rectangles of three categories on noise; every fourth is a crowd."""
    chance = np.random.default_rng(5)
    images, annotations = [], []
    (root / "images").mkdir(parents=True)
    (root / "annotations").mkdir()
    for picture in range(1, pictures + 1):
        pixels = chance.integers(0, 255, (SIDE, SIDE, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{picture:04d}.jpg")
        file = {"id": picture, "file_name": f"{picture:04d}.jpg", "height": SIDE, "width": SIDE}
        images.append(file)
        for number in range(objects):
            x, y = (int(v) for v in chance.integers(0, SIDE // 2, 2))
            w, h = (int(v) for v in chance.integers(10, SIDE // 2, 2))
            mask = np.zeros((SIDE, SIDE), bool)
            mask[y : y + h, x : x + w] = True
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": picture,
                    "category_id": 1 + number % 3,
                    "iscrowd": int(number == 3),
                    "area": w * h,
                    "bbox": [x, y, w, h],
                    "segmentation": rle.encode(mask),
                }
            )
    categories = [{"id": i, "name": f"kind {i}"} for i in (1, 2, 3)]
    file = root / "annotations" / "instances_val.json"
    file.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return file


def their_figures(file: Path, answers: list[dict[str, Any]]) -> list[float]:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(file)
        judge = COCOeval(truth, truth.loadRes([dict(one) for one in answers]), "segm")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return [100 * value for value in judge.stats[:6]]


def worse(mask: np.ndarray, by: int) -> np.ndarray:
    return np.roll(mask, (by, by // 2), (0, 1))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ap_is_that_of_pycocotools(tmp_path: Path, seed: int) -> None:
    file, chance = write_coco(tmp_path), np.random.default_rng(seed)
    truth = json.loads(file.read_text())["annotations"]
    answers = [
        {
            "image_id": one["image_id"],
            "category_id": one["category_id"],
            "segmentation": rle.encode(
                worse(
                    rle.decode(one["segmentation"], (SIDE, SIDE), ""), int(chance.integers(0, 20))
                )
            ),
            "score": float(chance.random()),
        }
        for one in truth
        if not one["iscrowd"]
    ]
    ours, theirs = average_precision(str(file), answers), their_figures(file, answers)
    expected = {name: v for name, v in zip(FIGURES, theirs, strict=True) if v >= 0}
    assert ours == pytest.approx(expected, abs=1e-12) and 0 < ours["ap"] < 100


def test_every_true_box_gets_one_mask(tmp_path: Path, weights: str) -> None:
    file = write_coco(tmp_path / "coco", pictures=2)
    dataset = open_dataset(DatasetSpec(format="coco", root=str(tmp_path / "coco")))
    model = load_checkpoint(weights).eval()
    subject = Subject(model, Path(weights), dataset, World(), tmp_path / "out")
    found = measure_by(CocoMeasurement(kind="coco", dataset="d"), subject)
    assert found is not None
    answers = json.loads(Path(found.files["results"]).read_text())
    assert len(answers) == 8  # the two crowds are left out
    assert "ground truth" in found.protocol and found.split == dataset.digest
    theirs = their_figures(file, answers)
    assert found.metrics["ap"] == pytest.approx(theirs[0])
    assert 0 <= found.metrics["miou"] <= 100


def test_boxes_over_the_edge_and_without_height_are_measured_in_batches(
    tmp_path: Path, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As real files have them."""
    file = write_coco(tmp_path / "coco", pictures=1)
    values = json.loads(file.read_text())
    values["annotations"][0]["bbox"] = [100.5, 100.25, SIDE - 100, SIDE - 100]
    values["annotations"][1]["bbox"][3] = 0.0
    file.write_text(json.dumps(values))
    dataset = open_dataset(DatasetSpec(format="coco", root=str(tmp_path / "coco")))
    assert isinstance(dataset, CocoInstances)
    predictor = ImagePredictor(load_checkpoint(weights))
    together, ious = segment(predictor, dataset, 0)
    monkeypatch.setattr(image, "OBJECTS_AT_ONCE", 3)
    apart, same = segment(predictor, dataset, 0)
    assert len(together) == 4 and ious == pytest.approx(same, abs=0.02)
    assert [one["image_id"] for one in together] == [one["image_id"] for one in apart]


def test_another_format_is_refused(tmp_path: Path, weights: str) -> None:
    for place in ("JPEGImages", "Annotations"):
        (tmp_path / place / "one").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "JPEGImages" / "one" / "00000.jpg")
    Image.new("P", (8, 8), 1).save(tmp_path / "Annotations" / "one" / "00000.png")
    dataset = open_dataset(DatasetSpec(format="davis", root=str(tmp_path)))
    subject = Subject(load_checkpoint(weights), Path(weights), dataset, World(), tmp_path)
    with pytest.raises(ConfigError, match="has format davis, expected coco"):
        measure_by(CocoMeasurement(kind="coco", dataset="d"), subject)
