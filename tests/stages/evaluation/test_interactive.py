"""The simulated user of interactive videos, worked out by hand on a network that answers by script."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from data.sources import open_dataset
from data.spec import DatasetSpec
from model import video_features
from model.config import preset
from model.sam2 import SAM2, build_sam2
from model.video_features import encode_frames
from pipeline.config import parse
from pipeline.distributed import World
from pipeline.errors import ConfigError
from stages.evaluation import interactive
from stages.evaluation.interactive import Pass, interact, measure
from stages.evaluation.protocols import Subject
from stages.evaluation_settings import InteractiveMeasurement
from tests.stages.evaluation import test_vos

SIDE, FRAMES = 20, 5
SQUARE = (slice(4, 14), slice(4, 14))


def square() -> np.ndarray:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[SQUARE] = True
    return mask


@dataclass
class Answer:
    frame: int
    ids: list[int]
    found: np.ndarray

    @property
    def logits(self) -> torch.Tensor:
        return torch.from_numpy(np.where(self.found, 1.0, -1.0))[:, None]


class Script:
    """A network that finds the upper rows of the square: how many is said for every frame. A corrected
    frame is right, and, like the first, so are the frames behind it up to the next weak one."""

    def __init__(self, rows: list[int]) -> None:
        self.rows, self.right, self.said = rows, set[int](), list[tuple[Any, ...]]()

    def reset(self) -> None:
        self.right.clear()

    def add_points(self, frame: int, object_id: int, points: Any, labels: Any) -> Answer:
        self.said.append((frame, tuple(points[0].tolist()), int(labels[0])))
        self.right.add(frame)
        return self.masks(frame)

    def add_box(self, frame: int, object_id: int, box: Any) -> Answer:
        self.said.append((frame, tuple(box.tolist())))
        self.right.add(frame)
        return self.masks(frame)

    def add_mask(self, frame: int, object_id: int, mask: np.ndarray) -> Answer:
        self.said.append((frame, int(mask.sum())))
        self.right.add(frame)
        return self.masks(frame)

    def masks(self, frame: int) -> Answer:
        found = square()
        if frame not in self.right:
            found[4 + self.rows[frame] :] = False
        return Answer(frame, [7], found[None])

    def propagate(self, start: int) -> Iterator[Answer]:
        return (self.masks(frame) for frame in range(start, FRAMES))


class Truth:
    def __init__(self) -> None:
        self.name, self.numbers, self.first = "square", range(FRAMES), {7: 0}

    def masks(self, place: int) -> np.ndarray:
        return square()[None]


def wanted(**changes: Any) -> InteractiveMeasurement:
    return InteractiveMeasurement(kind="interactive", dataset="clips", **changes)


def play(
    settings: InteractiveMeasurement, network: Script, truth: Truth | None = None
) -> list[Pass]:
    return interact(settings, cast(Any, network), cast(Any, truth or Truth()))


def test_offline_the_worst_frame_is_corrected_next() -> None:
    network = Script(rows=[10, 9, 3, 10, 6])  # IoU .9, .3, 1, .6 behind the first frame
    passes = play(wanted(start="mask", frames=3), network)
    assert [one.interacted[7] for one in passes] == [1, 2, 3]
    assert [one.score.objects[0].j for one in passes] == pytest.approx(
        [100 * (1 + 0.9 + 0.3 + 1 + 0.6) / 5, 100 * (1 + 0.9 + 1 + 1 + 0.6) / 5, 98.0]
    )
    # The first of the deepest pixels: of rows 7 to 13 that were missed on frame 2, and 10 to 13 on frame 4. One
    # click is enough for this network.
    assert network.said == [(0, 100), (2, (7.0, 10.0), 1), (4, (5.0, 11.0), 1)]


def test_online_a_frame_below_the_limit_is_corrected_on_the_way() -> None:
    network = Script(rows=[10, 9, 3, 10, 6])
    passes = play(wanted(mode="online", start="mask", frames=5), network)
    assert [one.interacted[7] for one in passes] == [1, 2, 3, 3, 3]
    assert [one.score.objects[0].j for one in passes] == pytest.approx([76.0, 90.0, *[98.0] * 3])
    assert passes[4] is passes[3]  # all that is below the limit had been corrected


def test_offline_frames_that_are_right_are_left_alone() -> None:
    network = Script(rows=[10, 9, 10, 10, 10])
    passes = play(wanted(start="mask", frames=4), network)
    assert [one.interacted[7] for one in passes] == [1, 2, 2, 2]
    assert [one.score.objects[0].j for one in passes] == pytest.approx([98.0, *[100.0] * 3])


def test_an_object_is_shown_by_a_click_in_its_middle_or_a_tight_box() -> None:
    network = Script(rows=[10] * FRAMES)
    play(wanted(frames=1, clicks=3), network)
    assert network.said == [(0, (8.0, 8.0), 1)]  # the answer is perfect, no second click
    network = Script(rows=[10] * FRAMES)
    play(wanted(frames=1, start="box"), network)
    assert network.said == [(0, (4.0, 4.0, 13.0, 13.0))]


def test_where_the_network_spills_the_click_says_outside() -> None:
    class Spilling(Script):
        def masks(self, frame: int) -> Answer:
            found = square()
            found[15:20, 15:20] |= frame == 1 and frame not in self.right
            return Answer(frame, [7], found[None])

    network = Spilling(rows=[10] * FRAMES)
    play(wanted(frames=2, start="mask"), network)
    assert network.said[1:] == [(1, (17.0, 17.0), 0)]


@pytest.mark.parametrize("mode", ["offline", "online"])
def test_a_video_is_encoded_once(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Followed again, frames are not encoded again, and the figures are the same."""
    monkeypatch.setattr(test_vos, "FRAMES", 20)  # more than are at hand anyway
    root = test_vos.data_set(tmp_path / "d")
    dataset = open_dataset(DatasetSpec(format="davis", root=str(root)))
    torch.manual_seed(0)
    model = build_sam2(preset("micro")).eval()
    subject = Subject(model, tmp_path, dataset, World(), tmp_path)
    encoded: list[int] = []

    def spy(model: SAM2, frames: Sequence[np.ndarray]) -> Any:
        encoded.append(len(frames))
        return encode_frames(model, frames)

    monkeypatch.setattr(video_features, "encode_frames", spy)
    settings = wanted(mode=mode, start="mask", frames=3, max_videos=1)
    found = measure(settings, subject)
    curve = (tmp_path / "interactive.csv").read_bytes()
    assert found is not None and found.metrics["interacted_frames"] == 3
    once = sum(encoded)
    monkeypatch.setattr(interactive, "FEATURE_BYTES", 0)
    encoded.clear()
    again = measure(settings, subject)
    assert again is not None and again.metrics == found.metrics
    assert (tmp_path / "interactive.csv").read_bytes() == curve
    assert sum(encoded) >= 2 * once


def test_a_video_without_objects_has_no_passes() -> None:
    truth = Truth()
    truth.first = {}
    assert play(wanted(), Script([10] * FRAMES), truth) == []


@pytest.mark.parametrize(
    ("field", "value"), [("clicks", 0), ("frames", 0), ("pause", 0.0), ("mode", "sideways")]
)
def test_settings_out_of_range_are_named(field: str, value: object) -> None:
    values = {"kind": "interactive", "dataset": "clips", field: value}
    with pytest.raises(ConfigError, match=field):
        parse(InteractiveMeasurement, values, where="evaluation.more.user")
