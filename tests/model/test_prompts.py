"""The simulated user: plans that replay, clicks where they should fall, boxes around objects."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model.policy import PromptPolicy
from model.prompts import (
    BOX_JITTER_LIMIT,
    ObjectChance,
    PromptPlan,
    box_corners,
    correction_click,
    plan_prompts,
    plan_rng,
)
from pipeline.errors import ConfigError
from tests.golden.reader import Golden

POINTS = Golden("micro_i_points.npz")
TRUTH = POINTS.tensor("in:gt")[:, 0]
GUESS = POINTS.tensor("in:pred")[:, 0]
ABSENT = torch.tensor([1, 3])
"""Rows of the file without an object: there we give no box, the reference an impossible one."""


def chance(objects: int, step: int = 0) -> ObjectChance:
    return ObjectChance(0, step, [0], torch.zeros(objects, dtype=torch.int64))


def test_plans_of_the_mose_recipe() -> None:
    rng = np.random.default_rng(42)
    policy = PromptPolicy(click_on_object=0)
    for stored in POINTS.meta["prompt_plan_mose_T8_rng42"]:
        plan = plan_prompts(policy, 8, rng)
        points = {"click": 1, "box": 2}
        assert (plan.initial[0][1] != "mask") == stored["use_pt"]
        assert [t for t, _ in plan.initial] == stored["init"]
        assert list(plan.corrected) == stored["corr"]
        given = {str(t): points[kind] for t, kind in plan.initial if kind in points}
        assert given == stored["npts"]


def test_a_printed_plan_replays() -> None:
    policy = PromptPolicy(mask=0.2, click=0.5, box=0.3)
    for step in range(20):
        plan = plan_prompts(policy, 8, plan_rng(3, step))
        assert eval(repr(plan)) == plan
        assert plan_prompts(policy, 8, plan_rng(3, step)) == plan
    assert len({plan_prompts(policy, 8, plan_rng(3, step)) for step in range(20)}) > 5


def test_a_policy_means_what_it_says() -> None:
    policy = PromptPolicy(
        mask=0.2,
        click=0.5,
        box=0.3,
        initial_frames=1,
        corrected_frames=1,
        correction_clicks=3,
        click_on_object=0.5,
    )
    plans = [plan_prompts(policy, 1, plan_rng(0, step)) for step in range(400)]
    kinds = [plan.initial[0][1] for plan in plans]
    for kind, share in (("mask", 0.2), ("click", 0.5), ("box", 0.3)):
        assert kinds.count(kind) / 400 == pytest.approx(share, abs=0.08)
    assert all(plan.corrected == (0,) and len(plan.clicks_on(0)) == 3 for plan in plans)
    drawn = [on_object for plan in plans for on_object in plan.clicks_on(0)]
    assert sum(drawn) / len(drawn) == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize("nothing", [{"correction_clicks": 0}, {"corrected_frames": 0}])
def test_no_corrections(nothing: dict[str, int]) -> None:
    policy = PromptPolicy(mask=0, click=1, box=0, **nothing)  # type: ignore[arg-type]
    assert plan_prompts(policy, 8, plan_rng(0, 0)).corrected == ()


def test_masks_in_a_clip_are_not_corrected() -> None:
    policy = PromptPolicy(mask=1, click=0, box=0)
    assert plan_prompts(policy, 8, plan_rng(0, 0)).corrected == ()
    assert plan_prompts(policy, 1, plan_rng(0, 0)).corrected == (0,)


def test_prompted_frames_are_processed_first() -> None:
    plan = PromptPlan(5, ((0, "click"), (3, "box")), (0, 2), ((False,),) * 2)
    assert plan.order == [0, 3, 1, 2, 4]
    assert plan.conditioning == {0, 2, 3}
    assert plan.clicks_on(1) == ()


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"mask": 0.9}, r"prompts\.mask \+ prompts\.click \+ prompts\.box is 1\.4"),
        ({"click": -0.25}, r"prompts\.click is -0\.25"),
        ({"initial_frames": 0}, r"prompts\.initial_frames is 0"),
    ],
)
def test_a_wrong_policy_is_named(wrong: dict[str, float], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        PromptPolicy(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "guess"), [("center_none", None), ("center_pred", GUESS)])
def test_centre_clicks(name: str, guess: torch.Tensor | None) -> None:
    clicks = correction_click(TRUTH, guess, chance(6), "centre")
    POINTS.check(f"{name}/points", clicks.points, 0)
    POINTS.check(f"{name}/labels", clicks.labels, 0)


def test_uniform_clicks_fall_evenly_on_what_is_wrong() -> None:
    truth = torch.zeros(1, 8, 8, dtype=torch.bool)
    guess = truth.clone()
    truth[0, 2, 3:6] = True
    guess[0, 2, 5:7] = True
    missed, spilled = [(3, 2), (4, 2)], [(6, 2)]
    many = chance(900)
    clicks = correction_click(truth.expand(900, 8, 8), guess.expand(900, 8, 8), many)
    seen = [tuple(map(int, xy)) for xy in clicks.points[:, 0]]
    assert set(seen) == set(missed + spilled)
    assert min(seen.count(pixel) for pixel in missed + spilled) > 240
    inside = [label == 1 for label in clicks.labels[:, 0].tolist()]
    assert inside == [pixel in missed for pixel in seen]


def test_a_perfect_guess_gets_a_click_outside() -> None:
    truth = TRUTH[:4]
    clicks = correction_click(truth, truth, chance(4))
    assert clicks.labels.flatten().tolist() == [0] * 4
    for mask, (x, y) in zip(truth, clicks.points[:, 0].long().tolist(), strict=True):
        assert not mask[y, x]


def test_a_perfect_guess_that_fills_the_picture() -> None:
    full = torch.ones(1, 4, 4, dtype=torch.bool)
    clicks = correction_click(full, full, chance(1))
    assert clicks.labels.item() == 1


def test_boxes() -> None:
    present = torch.tensor([row for row in range(6) if row not in ABSENT])
    corners = box_corners(TRUTH, chance(6))
    stored = POINTS.tensor("box_noise0/points")
    assert torch.equal(corners.points[present], stored[present].float())
    assert corners.labels[present].tolist() == [[2, 3]] * len(present)
    assert corners.labels[ABSENT].tolist() == [[-1, -1]] * len(ABSENT)


def test_jittered_boxes_stay_close_and_in_the_picture() -> None:
    truth = torch.zeros(300, 400, 500, dtype=torch.bool)
    truth[:, 0:380, 100:150] = True
    corners = box_corners(truth, chance(300), jitter=0.1).points
    exact = box_corners(truth[:1], chance(1)).points
    moved = (corners - exact).abs()
    assert moved[..., 0].max() <= 4.9 + 1e-4
    assert 15 < moved[..., 1].max() <= BOX_JITTER_LIMIT
    assert corners.min() >= 0


def test_chance_belongs_to_the_object() -> None:
    together = ObjectChance(7, 3, [10, 11], torch.tensor([0, 0, 1])).uniform(4)
    alone = ObjectChance(7, 3, [11], torch.tensor([0])).uniform(4)
    assert torch.equal(together[2:], alone)
    assert len(together.unique()) == together.numel()
    assert not torch.equal(ObjectChance(7, 4, [11], torch.tensor([0])).uniform(4), alone)
    twice = ObjectChance(7, 3, [11], torch.tensor([0]))
    assert torch.equal(torch.cat([twice.uniform(1), twice.uniform(3)], 1), alone)


def test_chance_is_uniform() -> None:
    numbers = ObjectChance(1, 2, [0], torch.zeros(64, dtype=torch.int64)).uniform(500)
    assert ((numbers >= 0) & (numbers < 1)).all()
    counts = numbers.flatten().histc(10, 0, 1)
    assert counts.min() > 2950
    assert counts.max() < 3450


def test_no_objects() -> None:
    nobody = ObjectChance(0, 0, [0], torch.zeros(0, dtype=torch.int64))
    empty = torch.zeros(0, 8, 8, dtype=torch.bool)
    assert correction_click(empty, empty, nobody).points.shape == (0, 1, 2)
    assert correction_click(empty, None, nobody, "centre").points.shape == (0, 1, 2)
    assert box_corners(empty, nobody, 0.1).points.shape == (0, 2, 2)
