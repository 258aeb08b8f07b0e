"""Results held against one another: what is compared, what is refused, what is said."""

import ast
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import ConfigError, DataError
from stages.contract import CheckpointRef, StageResult, StageSpec, write_result, write_spec
from stages.evaluation.compare import compare, comparison_json
from stages.evaluation.details import Details, PictureScores, write_details
from stages.evaluation.image import ImageScores
from stages.evaluation.jf import ObjectScore, Protocol, VideoScore, VideoScores
from stages.evaluation.published import SAM21, THREE_STAGES, beside_published
from stages.evaluation.results import measured_stages, open_scored
from stages.evaluation.score_files import write_scores
from stages.evaluation.scored import Scored, distinct, scored_details

SPLIT = "5" * 64


def track(number: int, j: float, f: float, hidden: slice = slice(0, 0)) -> ObjectScore:
    """An object of ten frames, out of sight in some of them."""
    visible = np.ones(10, bool)
    visible[hidden] = False
    return ObjectScore(
        number, tuple(range(10)), np.full(10, j), np.full(10, f), visible, np.ones(10, bool)
    )


def videos(*means: float, split: str = SPLIT, protocol: Protocol | None = None) -> VideoScores:
    """Videos v0, v1 …, J&F as given; v0 has two objects of that value."""
    made = []
    for place, mean in enumerate(means):
        objects = (track(1, mean / 100, mean / 100, slice(4, 6)),)
        objects += (track(2, mean / 100, mean / 100),) if place == 0 else ()
        made.append(VideoScore(f"v{place}", objects))
    return VideoScores(tuple(made), protocol or Protocol(), split, "given masks")


def scored(name: str, *means: float, **how) -> Scored:
    return scored_details(Details(None, videos(*means, **how)), name, f"/{name}")


def test_means_are_over_objects_as_they_are_quoted():
    found = scored("a", 40, 70, 90)
    jf = found.figures["video/jf"]
    assert jf.weights == {"v0": 2, "v1": 1, "v2": 1}
    assert jf.mean == pytest.approx(videos(40, 70, 90).jf) == pytest.approx(60)
    presence = found.figures["video/presence"]
    assert presence.mean == pytest.approx(videos(40, 70, 90).presence)
    returned = found.figures["video/jf_returned"]
    assert returned.weights == {"v0": 1, "v1": 1, "v2": 1}


def test_difference_interval_and_verdict():
    before = scored("a", *range(40, 60))
    after = scored("b", *(value + 5 + place % 3 for place, value in enumerate(range(40, 60))))
    found = compare(before, after)
    change = found.changes[0]
    assert change.name == "video/jf"
    moved = after.figures["video/jf"].mean - before.figures["video/jf"].mean
    assert change.difference.mean == pytest.approx(moved)
    assert 5 < change.difference.low < change.difference.mean < change.difference.high < 7
    assert (change.verdict, found.verdict) == ("better", "better")
    assert compare(after, before).verdict == "worse"
    assert compare(before, after, tolerance=10).verdict == "same"
    (_, then, now), *_ = change.items()
    assert now - then == pytest.approx(7), "the largest gain first"
    assert "better in video J&F, video J, video F" in found.words
    assert found.measured_on[0].startswith("videos: split 555555555555; given masks; objects")


def test_tolerance_is_in_points_of_a_hundred_for_iou_too():
    def pictures(gain: float) -> Scored:
        names = tuple(f"p{place}" for place in range(30))
        ious = np.linspace(0.4, 0.8, 30)[:, None] + gain + 0.001 * np.arange(30)[:, None] % 0.003
        return scored_details(Details(PictureScores(names, ious, "6" * 64, "clicks")), "p", "/p")

    small = compare(pictures(0), pictures(0.004))
    assert small.verdict == "better"
    assert compare(pictures(0), pictures(0.004), tolerance=0.5).verdict == "same"
    assert compare(pictures(0), pictures(-0.006), tolerance=0.5).verdict == "worse"


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (
            scored("b", 40, 50, split="7" * 64),
            r"split '5{12}' against '7{12}'.*compare A\.pt B\.pt",
        ),
        (scored("b", 40, 50, protocol=Protocol("davis")), "protocol .*DAVIS.*compare A"),
        (scored("b", 40, 50, 60), r"only the second has 1 videos: v2"),
        (scored("b", 40), r"only the first has 1 videos: v1"),
        (Scored("b", "/b", {}), "share no metric"),
    ],
)
def test_what_was_not_measured_alike_is_refused(other, said):
    with pytest.raises(DataError, match=said):
        compare(scored("a", 40, 50), other)


def test_videos_with_other_objects_are_refused():
    one = videos(40, 50)
    two = replace(one, videos=(VideoScore("v0", one.videos[0].objects[:1]), one.videos[1]))
    with pytest.raises(DataError, match="other numbers of objects: v0"):
        compare(scored("a", 40, 50), scored_details(Details(None, two), "b", "/b"))


def test_metrics_can_be_chosen_and_misspelt():
    before, after = scored("a", 40, 50), scored("b", 41, 52)
    assert [c.name for c in compare(before, after, metrics=["video/f"]).changes] == ["video/f"]
    with pytest.raises(ConfigError, match=r"no metric 'video/jff'; did you mean 'video/jf'"):
        compare(before, after, metrics=["video/jff"])
    with pytest.raises(DataError, match=r"/a has no image/miou@1; it has video/jf"):
        compare(before, after, metrics=["image/miou@1"])


def test_metrics_of_one_only_are_told():
    pictures = PictureScores(("p",), np.array([[0.5]]), "6" * 64, "clicks")
    both = scored_details(Details(pictures, videos(40, 50)), "b", "/b")
    assert compare(scored("a", 40, 50), both).notes == ("only b has image mIoU@1",)


def test_json_is_plain_and_whole():
    pair = compare(scored("a", 40), scored("b", 45))
    found = json.loads(json.dumps(comparison_json([pair], 0.5), allow_nan=False))
    metric = found["comparisons"][0]["metrics"]["video/jf"]
    assert metric["difference"]["mean"] == pytest.approx(5)
    assert metric["difference"]["low"] is None, "one video has no interval"
    assert metric["items"] == {"v0": [pytest.approx(40), pytest.approx(45)]}
    assert [result["name"] for result in found["results"]] == ["a", "b"]
    assert found["results"][0]["metrics"]["video/jf"] == pytest.approx(40)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with two evaluated stages."""
    for place, (stage, values) in enumerate({"first": (40, 50), "second": (45, 58)}.items()):
        folder = tmp_path / "run" / f"{stage}.evaluate"
        given = CheckpointRef("w.pt", str(place) * 64, stage, 1, "")
        spec = StageSpec(folder.name, "evaluate", {}, str(folder), input=given)
        write_spec(spec)
        pictures = ImageScores(("p", "p"), np.array([[0.5, 0.6, 0.7]] * 2), "6" * 64)
        write_details(folder / "details.json", pictures, videos(*values))
        write_result(folder, StageResult(spec.name, spec.key, spec.key))
        (tmp_path / "run" / stage).mkdir()
    return tmp_path / "run"


def test_results_are_found_by_run_stage_and_file(run: Path):
    assert measured_stages(run) == ["first", "second"]
    last = open_scored(str(run))
    assert (last.name, last.sha256, last.source) == ("run", "1" * 64, str(run / "second.evaluate"))
    stage = open_scored(f"{run}:first")
    assert (stage.name, stage.sha256) == ("run:first", "0" * 64)
    assert open_scored(str(run / "first")).figures == stage.figures
    assert open_scored(str(run / "first.evaluate")).name == "first"
    assert open_scored(str(run / "first.evaluate" / "details.json")).figures == stage.figures
    assert list(stage.figures)[-2:] == ["image/miou@1", "image/miou@3"]
    assert compare(stage, last).verdict == "same", "two videos are no proof"


def test_results_that_cannot_be_opened_are_named(run: Path, tmp_path: Path):
    for words, said in (
        (f"{run}:secnd", r"no evaluated stage 'secnd'; did you mean 'second'\?; there are: first"),
        (str(tmp_path / "nothing"), "no such file or folder; expected a run folder"),
        (str(tmp_path), "neither an evaluation"),
    ):
        with pytest.raises(DataError, match=said):
            open_scored(words)
    (run / "results.json").write_text('{"first": {"video/jf": 40}}')
    with pytest.raises(DataError, match=r"holds means only.*give the run folder"):
        open_scored(str(run / "results.json"))
    (run / "first.evaluate" / "details.json").unlink()
    with pytest.raises(DataError, match="older version or is not done"):
        open_scored(f"{run}:first")


def test_scores_of_mask_folders_and_the_reference_csv(tmp_path: Path):
    made = videos(40, 50)
    places = write_scores(made, tmp_path / "masks")
    found = open_scored(str(tmp_path / "masks"))
    assert found.figures["video/jf"].mean == pytest.approx(made.jf)
    assert found.figures["video/jf_returned"].mean == pytest.approx(made.jf_returned)
    assert found.figures["video/jf"].split == SPLIT
    table = open_scored(str(places["objects"]))
    assert table.figures["video/jf"].values == {"v0": 40.0, "v1": 50.0}
    notes = compare(found, table).notes
    assert any("objects.csv does not record its split" in note for note in notes)
    with pytest.raises(DataError, match="expected the columns sequence,obj,J&F,J,F"):
        open_scored(str(places["videos"]))
    places["objects"].write_text("sequence,obj,J&F,J,F\nv0,1,4x,1,1\n")
    with pytest.raises(DataError, match=r"objects\.csv, line 2: 'v0,1,4x,1,1'"):
        open_scored(str(places["objects"]))


def test_equal_names_are_told_apart():
    names = [one.name for one in distinct([scored("a", 1), scored("a", 2), scored("b", 3)])]
    assert names == ["/a", "/a", "b"]


def test_published_figures_stand_beside_results_of_their_split_only():
    ours = scored("mine", *([70.0] * 150))
    rows = beside_published("sav_test", [ours])
    assert [name for name, _, mine in rows if mine] == ["mine"]
    assert [(n, v) for n, v, mine in rows if not mine] == [(m.name, m.sav_test) for m in SAM21]
    with pytest.raises(DataError, match="has 150 videos and MOSE val has 311"):
        beside_published("mose_val", [ours])


def test_published_figures_have_one_home():
    """So that none of them can be printed as ours: no other code has them as values."""
    numbers = {value for model in SAM21 for value in (model.sav_test, model.mose_val)}
    numbers |= {value for stage in THREE_STAGES for value in (stage.image, stage.video)} - {None}
    house = Path(__file__).parents[3]
    for file in (f for part in ("flows", "stages", "pipeline") for f in (house / part).rglob("*")):
        if file.suffix == ".py" and file.name != "published.py":
            tree = ast.parse(file.read_text(encoding="utf-8"))
            values = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}
            assert not {value for value in values if isinstance(value, float)} & numbers, file
        if file.suffix == ".j2":
            text = file.read_text(encoding="utf-8")
            assert not [number for number in numbers if f"{number:.1f}" in text], file
