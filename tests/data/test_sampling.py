"""Which frames and objects are drawn."""

import numpy as np
import pytest

from data.sampling import choose, draw_window, walk
from data.settings import ClipSampling, Phase
from data.sources import open_dataset
from data.spec import DatasetSpec
from pipeline.errors import ConfigError
from tests.data import lookalikes as like


def windows(count, sampling, draws=400):
    return [draw_window(count, sampling, np.random.default_rng([7, n])) for n in range(draws)]


def test_windows_are_runs_and_every_start_is_drawn():
    found = windows(10, ClipSampling(frames=4, reverse=0.0))
    assert {tuple(w) for w in found} == {tuple(range(s, s + 4)) for s in range(7)}


def test_stride_and_reverse():
    found = windows(20, ClipSampling(frames=3, stride=4, reverse=0.5))
    steps = {tuple(np.diff(w)) for w in found}
    assert steps == {(4, 4), (-4, -4)}
    backwards = np.mean([w[1] < w[0] for w in found])
    assert 0.4 < backwards < 0.6


def test_dropped_runs_leave_a_gap_of_their_length():
    sampling = ClipSampling(frames=5, reverse=0.0, drop_run_probability=1.0, drop_run=(2, 3))
    found = windows(30, sampling)
    gaps = {tuple(sorted(np.diff(w).tolist())) for w in found}
    assert gaps == {(1, 1, 1, 3), (1, 1, 1, 4)}
    assert all(len(w) == 5 and min(w) >= 0 and max(w) < 30 for w in found)
    assert {int(np.argmax(np.diff(w))) for w in found} == {0, 1, 2, 3}


def test_short_videos_lose_the_gap_first_then_turn_round():
    sampling = ClipSampling(frames=4, reverse=0.0, drop_run_probability=1.0)
    assert {tuple(w) for w in windows(4, sampling)} == {(0, 1, 2, 3)}
    assert {tuple(w) for w in windows(3, sampling)} == {(0, 1, 2, 1)}
    assert {tuple(w) for w in windows(1, sampling)} == {(0, 0, 0, 0)}


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("forward", [True, False])
def test_walk_stays_inside(count, forward):
    steps = walk(count - 1, list(range(12)), count, forward)
    assert set(steps) <= set(range(count))
    assert np.abs(np.diff(steps)).max() <= 1


def test_objects_are_visible_on_the_first_frame(tmp_path):
    dataset = open_dataset(DatasetSpec(format="sav", root=str(like.sav(tmp_path))))
    sampling = ClipSampling(frames=3, max_objects=2)
    drawn = [choose(dataset, 0, sampling, np.random.default_rng(n)) for n in range(60)]
    for positions, objects in drawn:
        assert set(objects) <= set(dataset.visible(0, positions[0]))
        assert len(objects) == 2
    assert {i for _, objects in drawn for i in objects} == {0, 1, 2}


def test_objects_may_be_visible_anywhere(tmp_path):
    """Object 3 of the lookalike appears on the third of six frames."""
    dataset = open_dataset(DatasetSpec(format="davis", root=str(like.davis(tmp_path))))
    late = {"first": 0, "anywhere": 0}
    for visible in late:
        sampling = ClipSampling(frames=4, reverse=0.0, visible=visible)
        for n in range(60):
            positions, objects = choose(dataset, 0, sampling, np.random.default_rng(n))
            late[visible] += 3 in objects and positions[0] < 2
    assert late["first"] == 0
    assert late["anywhere"] > 20


def test_pictures_give_a_number_of_objects_in_a_range(tmp_path):
    dataset = open_dataset(DatasetSpec(format="sa1b", root=str(like.sa1b(tmp_path, count=1))))
    assert len(dataset.visible(0, 0)) == 2

    def counts(*between):
        sampling = ClipSampling(image_objects=between)
        draws = (choose(dataset, 0, sampling, np.random.default_rng(n)) for n in range(80))
        return {len(draw.objects) for draw in draws}

    assert counts(1, 1) == {1}
    assert counts(1, 2) == {1, 2}
    assert counts(1, 64) == {1, 2}
    assert counts(64, 64) == {2}


def test_phases_hold_from_their_step_on():
    sampling = ClipSampling(
        frames=8,
        max_objects=3,
        phases=[Phase(from_step=100, frames=16), Phase(from_step=200, max_objects=1, stride=2)],
    )
    for step, expected in ((0, (8, 3, 1)), (99, (8, 3, 1)), (100, (16, 3, 1)), (200, (16, 1, 2))):
        now = sampling.at(step)
        assert (now.frames, now.max_objects, now.stride) == expected
    with pytest.raises(ConfigError, match=r"phases begin at \[5, 5\]; expected ascending"):
        ClipSampling(phases=[Phase(from_step=5), Phase(from_step=5)])
    with pytest.raises(ConfigError, match="frames is 0"):
        ClipSampling(phases=[Phase(from_step=5, frames=0)])


def test_an_object_that_appears_once_is_found(tmp_path):
    root = like.davis(tmp_path, "", every=1)
    for t in range(6):
        labels = like.EMPTY.astype(np.uint8)
        if t == 5:
            labels[4:9, 4:9] = 2
        like.save(root / "Annotations/bear" / f"{t:05d}.png", labels, like.CLOSE_PALETTE)
    dataset = open_dataset(DatasetSpec(format="davis", root=str(root)))
    for n in range(20):
        positions, objects = choose(dataset, 0, ClipSampling(frames=4), np.random.default_rng(n))
        assert (positions[0], objects) == (5, [2])


def test_nothing_visible_gives_no_objects(tmp_path):
    root = like.davis(tmp_path, "")
    for path in (root / "Annotations/bear").iterdir():
        like.save(path, like.EMPTY.astype(np.uint8), like.CLOSE_PALETTE)
    dataset = open_dataset(DatasetSpec(format="davis", root=str(root)))
    choice = choose(dataset, 0, ClipSampling(frames=4), np.random.default_rng(0))
    assert len(choice.positions) == 4
    assert choice.objects == []


@pytest.mark.parametrize(
    "fields", [{"frames": 0}, {"reverse": 1.5}, {"drop_run": (3, 1)}, {"image_objects": (2, 1)}]
)
def test_settings_are_checked(fields):
    with pytest.raises(ConfigError, match=f"^{next(iter(fields))} is"):
        ClipSampling(**fields)
