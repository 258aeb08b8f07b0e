"""Which night is compared with which, what makes one worse, and what the page says of it."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from flows import nightly
from flows.nightly import clear_nights
from flows.nightly_compare import last_measured, outcome_of
from flows.nightly_data import check_data
from flows.nightly_page import draw_nights, night_page
from flows.page import image_url
from flows.run import Request, Run
from pipeline.errors import ConfigError
from stages.contract import (
    CheckpointRef,
    StageResult,
    StageSpec,
    write_result,
    write_spec,
)
from stages.evaluation.details import DETAILS, write_details
from stages.evaluation.jf import ObjectScore, Protocol, VideoScore, VideoScores
from stages.recipe import load_recipe
from tests.data import lookalikes as like

VIDEOS = [f"v{number:02d}" for number in range(40)]


class Nights:
    """A runs folder with nights of made-up scores."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, date: str, *overrides: str) -> Run:
        """The run of one night."""
        words = (f"runs={self.folder}", f"datasets.train.root={self.folder}/MOSE", *overrides)
        return Run.of(Request("mose_finetune", words, run_name=f"mose-nightly-{date}"))

    def add(self, date: str, better_by: float = 0.0, *, split: str = "a", lr: float = 1e-5) -> Run:
        """A night is trained and measured: each video has its own difficulty and luck."""
        run, rng = self.run(date), np.random.default_rng(sum(map(ord, date)))
        scores = {
            name: 0.5 + 0.01 * place + better_by / 100 + rng.normal(0, 0.01)
            for place, name in enumerate(VIDEOS)
        }
        training, evaluation = last_measured(run)
        folder = run.folder(evaluation.name)
        folder.mkdir(parents=True)
        write_details(folder / DETAILS, None, video_scores(scores, split))
        reference = CheckpointRef(f"runs:/{date}/model.pt", date, training.name, 1, date)
        for stage in (training, evaluation):
            spec = StageSpec(
                name=stage.name,
                kind=stage.kind,
                settings={"seed": int(date.replace("-", "")), "lr": lr},
                folder=str(run.folder(stage.name)),
                upstream={"data:videos": split},
            )
            write_spec(spec)
            checkpoint = reference if stage is training else None
            write_result(
                spec.folder, StageResult(stage.name, spec.key, "digest", checkpoint=checkpoint)
            )
        return run


def video_scores(scores: dict[str, float], split: str) -> VideoScores:
    """One object a video, on two frames."""
    seen = np.ones(2, bool)
    videos = [
        VideoScore(name, (ObjectScore(1, (1, 2), np.full(2, s), np.full(2, s), seen, seen),))
        for name, s in scores.items()
    ]
    return VideoScores(tuple(videos), Protocol(), split=split, given="first masks")


@pytest.fixture
def nights(tmp_path: Path) -> Nights:
    return Nights(tmp_path)


def test_the_first_night_has_nothing_to_compare_with(nights):
    outcome = outcome_of(nights.add("2026-11-20"), 0.3, None)
    assert outcome.against == () and not outcome.worse
    assert "nothing to compare with" in outcome.text
    assert "registered as version 1, `mose` stands at it" in night_page(outcome, "mose", 1)


def test_a_night_is_held_against_the_one_before(nights):
    nights.add("2026-11-18", -9)
    nights.add("2026-11-19")
    outcome = outcome_of(nights.add("2026-11-20", 0.1), 0.3, None)
    (found,) = outcome.against
    assert found.before.date == "2026-11-19" and found.change.verdict == "same"
    assert found.change.difference.low < 0.1 < found.change.difference.high
    assert not outcome.worse and found.differing == (), "the seed is another one every night"
    chart = draw_nights(outcome.series, nights.folder / "chart.png")
    assert len(outcome.series) == 3 and image_url(chart)
    page = night_page(outcome, "mose", 2)
    assert "Not worse" in page and "| 2026-11-19 |" in page and "### Lost most" in page


def test_a_worse_night_is_said_to_be_worse(nights):
    nights.add("2026-11-19")
    outcome = outcome_of(nights.add("2026-11-20", -3), 0.3, None)
    assert outcome.worse and "against 2026-11-19: worse" in outcome.text
    assert "Worse: not registered; `mose` stays" in night_page(outcome, "mose", None)


def test_less_than_the_tolerance_is_no_loss(nights):
    nights.add("2026-11-19")
    run = nights.add("2026-11-20", -1)
    assert outcome_of(run, 0.3, None).worse and not outcome_of(run, 2.0, None).worse


def test_a_bad_night_does_not_lower_the_bar_for_the_next(nights):
    nights.add("2026-11-18")
    nights.add("2026-11-19", -3)
    outcome = outcome_of(nights.add("2026-11-20", -3), 0.3, "mose-nightly-2026-11-18")
    assert [found.before.date for found in outcome.against] == ["2026-11-19", "2026-11-18"]
    assert [found.change.verdict for found in outcome.against] == ["same", "worse"]
    assert outcome.worse


def test_many_small_losses_are_held_against_the_best_night(nights):
    for day in range(10, 20):
        nights.add(f"2026-11-{day}", -0.3 * (day - 10))
    outcome = outcome_of(nights.add("2026-11-20", -3.0), 0.4, "mose-nightly-2026-11-19")
    assert [found.why for found in outcome.against] == [
        "night before, holds the alias",
        "best",
    ]
    assert [found.change.verdict for found in outcome.against] == ["same", "worse"]


def test_nights_that_failed_were_missed_or_come_later_do_no_harm(nights):
    nights.add("2026-11-17")
    nights.run("2026-11-18").folder("finetune").mkdir(parents=True)
    broken = nights.add("2026-11-19")
    (broken.folder("finetune.evaluate") / DETAILS).write_text("{")
    nights.add("2026-11-21", -9)
    (nights.folder / "mose-nightly-again-2026-11-19").mkdir()
    (found,) = outcome_of(nights.add("2026-11-20"), 0.3, None).against
    assert (found.before.date, found.why) == ("2026-11-17", "night before, best")


def test_nights_on_other_videos_are_not_compared(nights):
    nights.add("2026-11-18")
    nights.add("2026-11-19", split="b")
    outcome = outcome_of(nights.add("2026-11-20"), 0.3, None)
    assert [found.before.date for found in outcome.against] == ["2026-11-18"]
    assert "not compared: 2026-11-19" in night_page(outcome, "mose", 1)


def test_a_night_made_up_for_later_does_not_take_the_alias_back(nights):
    nights.add("2026-11-21")
    outcome = outcome_of(nights.add("2026-11-20", 1), 0.3, "mose-nightly-2026-11-21")
    assert outcome.late and not outcome.worse
    assert "`mose` stays at the later mose-nightly-2026-11-21" in night_page(outcome, "mose", 2)
    for other in (None, "mine-2026-11-21", "mose-nightly-2026-11-20"):
        assert not outcome_of(nights.run("2026-11-20"), 0.3, other).late


def test_older_nights_keep_their_figures_and_lose_what_is_large(nights):
    for day in range(16, 21):
        run = nights.add(f"2026-11-{day}")
        stage = run.folder("finetune")
        (stage / "checkpoints").mkdir()
        for file in (
            stage / "model.pt",
            stage / "checkpoints/1.pt",
            run.recipe.folder / "final.pt",
        ):
            file.write_text("weights")
    nights.run("2026-11-15").folder("finetune").mkdir(parents=True)
    tonight = nights.add("2026-11-21").recipe.folder
    assert clear_nights(tonight, 9, None) == []
    cleared = clear_nights(tonight, 3, "mose-nightly-2026-11-17")
    assert cleared == [f"mose-nightly-2026-11-{day}" for day in (16, 18)]
    left = {path.parts[-2][-10:] for path in nights.folder.rglob("final.pt")}
    assert left == {f"2026-11-{day}" for day in (17, 19, 20)}
    assert not list((nights.folder / "mose-nightly-2026-11-16").rglob("*.pt"))
    outcome = outcome_of(nights.run("2026-11-21"), 0.3, None)
    assert len(outcome.series) == 6, "all are still compared with"


def test_what_was_changed_since_stands_on_the_page(nights):
    nights.add("2026-11-19", lr=1e-5)
    outcome = outcome_of(nights.add("2026-11-20", lr=3e-5), 0.3, None)
    assert "finetune.lr: 1e-05 → 3e-05" in outcome.against[0].differing
    assert "### Not as on 2026-11-19" in night_page(outcome, "mose", 1)


def test_a_recipe_that_measures_no_videos_is_refused(nights):
    with pytest.raises(ConfigError, match="measures no videos"):
        last_measured(nights.run("2026-11-20", "evaluation.videos=null"))


def test_only_a_schedule_nobody_gave_data_to_is_skipped(nights, monkeypatch):
    def unclaimed(*words: str, tags: tuple[str, ...] = ("auto-scheduled",)) -> bool:
        monkeypatch.setattr(nightly, "flow_run", SimpleNamespace(tags=tags))
        words = (f"runs={nights.folder}", *words)
        return nightly.unclaimed(Run.of(Request("mose_finetune", words)), list(words))

    monkeypatch.delenv("SAM2_DATA", raising=False)
    monkeypatch.chdir(nights.folder)
    assert unclaimed()
    assert not unclaimed(tags=()), "asked for by hand"
    assert not unclaimed("datasets.train.root=/gone"), "was there once"
    (nights.folder / "data/MOSE/train").mkdir(parents=True)
    assert not unclaimed()
    monkeypatch.setenv("SAM2_DATA", "/unmounted")
    assert not unclaimed()


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """Lists that keep one video for training and one for measuring."""
    root = like.davis(tmp_path / "set", inner="")
    for part in ("JPEGImages", "Annotations"):
        shutil.copytree(root / part / "bear", root / part / "cow")
    (root / "train.txt").write_text("bear\n")
    (root / "val.txt").write_text("cow\n")
    lists = ["datasets.train.split=train.txt", "datasets.val.split=val.txt"]
    return ["recipe=mose_finetune", f"datasets.train.root={root}", *lists]


def test_healthy_data_is_counted_and_its_lists_are_digested(words):
    found = check_data(load_recipe(words), 0)
    assert [(item.name, item.items, item.examined) for item in found.sets] == [
        ("train", 1, 1),
        ("val", 1, 1),
    ]
    assert found.problems == []
    assert all(item.lists[0][:12] in found.page for item in found.sets)


def test_data_that_is_broken_missing_or_shared_is_told(words, tmp_path):
    root = tmp_path / "set"
    (root / "val.txt").write_text("bear\n")
    assert (
        "in both the training and the evaluation list (bear)"
        in check_data(load_recipe(words), 0).problems[0]
    )
    (root / "val.txt").write_text("cow\nelk\n")
    assert "elk" in check_data(load_recipe(words), 0).problems[0]
    (root / "val.txt").write_text("cow\n")
    picture = next((root / "JPEGImages").rglob("cow/*.jpg"))
    picture.write_bytes(b"")
    found = check_data(load_recipe(words), 0)
    assert picture.name in found.problems[0] and "### To mend" in found.page
    gone = check_data(load_recipe([*words, "datasets.train.root=/nowhere/MOSE"]), 0)
    assert "there is no folder /nowhere/MOSE" in gone.problems[0]
    more = ["+datasets.extra={format: davis, root: /nowhere/more}"]
    more += ["evaluation.more={late: {kind: occlusion, dataset: extra}}"]
    assert "extra: there is no" in check_data(load_recipe([*words, *more]), 0).problems[-1]
