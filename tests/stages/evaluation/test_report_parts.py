"""What the report says beyond its tables: how objects are lost, what differs, in which colours."""

import re
from itertools import combinations

import numpy as np
import pytest

from stages.contract import StageSpec
from stages.evaluation.details import Details
from stages.evaluation.jf import ObjectScore, VideoScore, VideoScores
from stages.evaluation.report.colours import CARDS, FAILURES, OTHERS, STAGES, stage_colour
from stages.evaluation.report.data import ReportData, StageRow
from stages.evaluation.report.failures import CATEGORIES, category, failures, worst_words
from stages.evaluation.report.headline import headline, tiles
from stages.evaluation.report.origins import config_diff, sources
from stages.evaluation.summary import summarise


def track(j: str, *, shown: str = "", claimed: str = "", f: str = "") -> ObjectScore:
    """An object by one digit a frame (J and F in tenths, 9 is 0.95) and flags 1 or 0."""

    def tenths(text: str) -> np.ndarray:
        return np.array([int(digit) / 10 + 0.05 for digit in text])

    def flags(text: str) -> np.ndarray:
        return np.array([digit == "1" for digit in text])

    every = "1" * len(j)
    return ObjectScore(
        1, tuple(range(len(j))), tenths(j), tenths(f or j), flags(shown or every),
        flags(claimed or every),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (track("4444"), "never"),
        # followed before; after, (0.95 + 0.95 + 0.45 + 0.45) / 4 = 0.7 is not lost
        (track("9999999944", shown="1111001111", claimed="1111001111"), "fine"),
        (track("9999999111", shown="1111001111", claimed="1111001111"), "after_occlusion"),
        (track("99999911"), "in_view"),
        (track("999999999000", claimed="111111111000"), "in_view"),
        (track("9900999999"), "elsewhere"),
        # the same frames unclaimed are misses, not another place
        (track("9900999999", claimed="1100111111"), "unsteady"),
        (track("9999000099", shown="1111000011"), "phantom"),
        (track("9999999999", f="5555555555"), "boundary"),
        (track("6666666666", f="8888888888"), "unsteady"),
        (track("9999999999"), "fine"),
    ],
)  # fmt: skip
def test_every_rule_on_a_track_worked_by_hand(score, expected):
    assert category(score) == expected


def scores() -> VideoScores:
    videos = (
        VideoScore("good", (track("9999"), track("4444"))),
        VideoScore("bad", (track("0000"),)),
    )
    return VideoScores(videos)


def test_costs_add_up_to_what_is_missing():
    found = failures(scores())
    assert [one.category for one in found] == list(CATEGORIES)
    assert sum(one.cost for one in found) == pytest.approx(100 - scores().jf)
    never = found[0]
    assert [(video, round(score.jf)) for video, score in never.objects] == [
        ("bad", 5),
        ("good", 45),
    ]
    assert never.cost == pytest.approx((95 + 55) / 3)


def test_trouble_in_a_few_words():
    assert worst_words(scores().videos[0].objects) == "1 of 2 never found"
    assert worst_words(scores().videos[1].objects) == "never found"
    assert worst_words((track("9999"),)) == ""


def test_settings_that_differ_are_flattened_and_the_rest_left_out():
    one = {"lr": 1e-4, "optim": {"clip": 1.0, "groups": [{"pattern": "a.*", "lr": 3e-4}]}, "x": [1]}
    two = {"lr": 2e-5, "optim": {"clip": 1.0, "groups": []}, "x": [1], "freeze": True}
    rows = {row.key: row.values for row in config_diff([one, two])}
    assert rows == {
        "lr": ("0.0001", "2e-05"),
        "optim.groups.a.*.pattern": ("a.*", "–"),
        "optim.groups.a.*.lr": ("0.0003", "–"),
        "freeze": ("–", "yes"),
    }
    assert config_diff([one]) == []


def test_data_sets_of_training_and_of_an_evaluation():
    training = {"data": {"clips": {"format": "sav", "root": "/data/sav"}}}
    assert sources(StageSpec("t", "video_train", training, "/f"))[0] == (
        "clips",
        "sav",
        "/data/sav",
    )
    measuring = {"images": None, "videos": {"format": "davis", "root": "/data/davis"}}
    found = sources(StageSpec("e", "evaluate", measuring, "/f"))
    assert found == (("videos", "davis", "/data/davis"),)


def test_headline_has_intervals_where_single_scores_were_kept():
    before, after = (
        VideoScores(
            tuple(VideoScore(f"v{n}", (track(f"{level + n % 2}" * 4),)) for n in range(12)),
            split="5" * 64,
        )
        for level in (3, 6)
    )
    rows = tuple(
        StageRow(name, summarise(None, found), details=Details(None, found))
        for name, found in (("a", before), ("b", after))
    )
    first, second = headline(ReportData("r", "r", rows))
    video = 2
    assert re.fullmatch(r"3\d\.\d to 4\d\.\d", first.cells[video].interval)
    assert first.cells[video].change == ""
    assert (second.cells[video].change, second.cells[video].verdict) == ("+30.0", "better")
    assert second.cells[video].change_interval == "+30.0 to +30.0"
    assert "95 % interval" in tiles(ReportData("r", "r", rows))[0].note
    without = headline(ReportData("r", "r", (StageRow("a", summarise(None, before)),)))
    assert without[0].cells[video].interval == ""


def _channels(colour: str) -> np.ndarray:
    """Linear RGB of #rrggbb."""
    values = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """WCAG contrast ratio."""
    light = sorted(float(_channels(c) @ [0.2126, 0.7152, 0.0722]) for c in (one, other))
    return (light[1] + 0.05) / (light[0] + 0.05)


# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB
BLIND = {
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritanopia": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


def _lab(linear: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of linear RGB."""
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    xyz = to_xyz @ np.clip(linear, 0, 1) / [0.9505, 1.0, 1.089]
    root = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * root[1] - 16, 500 * (root[0] - root[1]), 200 * (root[1] - root[2])])


def test_colours_stand_out_from_both_cards():
    for colour in (*STAGES.values(), *OTHERS, *FAILURES.values()):
        for card in CARDS.values():
            assert contrast(colour, card) >= 3, (colour, card)


@pytest.mark.parametrize("kind", ["full sight", *BLIND])
def test_the_colours_of_a_run_differ_for_everybody(kind):
    """At least ten units of L*a*b* apart, about five times what is just seen."""
    matrix = np.array(BLIND.get(kind, np.eye(3)))
    seen = {name: _lab(matrix @ _channels(colour)) for name, colour in STAGES.items()}
    for one, other in combinations(seen, 2):
        assert np.linalg.norm(seen[one] - seen[other]) > 10, (one, other)


def test_a_stage_has_its_colour_on_every_page():
    assert stage_colour("video_train", "video_train", ["a"]) == STAGES["video_train"]
    assert stage_colour("mose", "finetune", ["mose"]) == STAGES["finetune"]
    assert stage_colour("b", "", ["a", "b"]) == OTHERS[1]
