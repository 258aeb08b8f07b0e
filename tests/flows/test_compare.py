"""`compare` as a person and a gate use it."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from flows.cli import main
from stages.contract import StageResult, StageSpec, write_result, write_spec
from stages.evaluation.details import write_details
from stages.evaluation.image import ImageScores
from stages.evaluation.jf import ObjectScore, Protocol, VideoScore, VideoScores
from stages.evaluation.results import open_scored

STAGES = {"start": 5, "image_pretrain": 20, "video_train": 60, "joint_train": 62}


def scores(level: float, *, split: str = "5" * 64) -> VideoScores:
    """Twelve videos of one object; the same one is the hardest every time."""
    seen = np.ones(8, bool)
    made = []
    for place in range(12):
        j = np.full(8, (level + place + 0.3 * (place % 3)) / 100)
        made.append(
            VideoScore(f"v{place:02}", (ObjectScore(1, tuple(range(8)), j, j, seen, seen),))
        )
    return VideoScores(tuple(made), Protocol(), split, "given masks")


def evaluation(folder: Path, level: float, **how) -> Path:
    pictures = ImageScores(tuple(f"p{n}" for n in range(9)), np.full((9, 3), level / 100), "6" * 64)
    write_details(folder / "details.json", pictures, scores(level, **how))
    spec = StageSpec(folder.name, "evaluate", {}, str(folder))
    write_spec(spec)
    write_result(folder, StageResult(spec.name, spec.key, spec.key))
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for name, level in STAGES.items():
        evaluation(tmp_path / "run" / f"{name}.evaluate", level)
    return tmp_path / "run"


def test_a_run_alone_is_its_stages_each_with_the_one_before(run: Path, capsys):
    assert main(["compare", str(run)]) == 0
    said = capsys.readouterr().out
    assert "image_pretrain against start" in said
    assert "joint_train against video_train" in said
    assert "joint_train: better in video J&F" in said
    assert "12 videos" in said and "9 pictures" in said
    assert "videos: split 555555555555; given masks; objects counted" in said


def test_an_evaluation_that_was_made_again_keeps_its_place(run: Path, capsys):
    (run / "config.yaml").write_text(
        yaml.safe_dump({"stages": dict.fromkeys(list(STAGES)[1:])}, sort_keys=False)
    )
    evaluation(run / "image_pretrain.evaluate", STAGES["image_pretrain"])
    assert main(["compare", str(run)]) == 0
    assert "joint_train against video_train" in capsys.readouterr().out
    assert open_scored(str(run)).figures["video/jf"].mean == pytest.approx(67.8)


def test_published_figures_have_columns_of_their_own(run: Path, capsys):
    main(["compare", str(run)])
    said = capsys.readouterr().out
    table = said[said.index("The three stages") :]
    assert "ours: J&F" in table and "published: video %" in table
    row = next(line.split() for line in table.splitlines() if "joint_train" in line)
    assert row[1:] == ["0.620", "67.8", "91.5", "82.5"]
    assert "not measured here" in table
    ours = said[: said.index("The three stages")]
    assert not [number for number in ("91.1", "91.5", "82.5", "78.2") if number in ours]


def test_two_stages_and_the_files_a_person_asks_for(run: Path, tmp_path: Path, capsys):
    files = [tmp_path / "c.json", tmp_path / "c.html"]
    assert main(["compare", f"{run}:image_pretrain", f"{run}:joint_train", "--json", str(files[0]),
                 "--html", str(files[1])]) == 0  # fmt: skip
    found = json.loads(files[0].read_text())
    change = found["comparisons"][0]["metrics"]["video/jf"]
    assert change["difference"]["mean"] == pytest.approx(42)
    assert change["verdict"] == "better"
    assert len(change["items"]) == 12
    page = files[1].read_text()
    assert "run:joint_train" in page and "+42.0" in page and "http" not in page
    assert "gained most: v" in capsys.readouterr().out


def test_files_are_there_although_a_reader_had_enough(run: Path, tmp_path: Path, monkeypatch):
    def closed(*_: object) -> None:
        raise KeyError("| head -1")

    monkeypatch.setattr("flows.compare.print_comparison", closed)
    with pytest.raises(KeyError):
        main(["compare", str(run), "--json", str(tmp_path / "c.json")])
    assert json.loads((tmp_path / "c.json").read_text())["comparisons"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (
            ["--fail-if", "worse"],
            1,
            "gate failed: run:video_train is worse than run:joint_train in",
        ),
        (["--fail-if", "worse", "--tolerance", "3"], 0, "gate passed"),
        (["--fail-if", "not-better"], 1, "is worse than"),
        (["--fail-if", "not-better", "--metric", "video/presence"], 1, "not shown to be better"),
        ([], 0, "worse in video J&F"),
    ],
)
def test_gates(run: Path, capsys, words, code, said):
    assert main(["compare", f"{run}:joint_train", f"{run}:video_train", *words]) == code
    assert said in capsys.readouterr().out


def test_three_results_are_held_against_the_first_or_the_one_before(run: Path, capsys):
    three = [f"{run}:{stage}" for stage in ("joint_train", "start", "video_train")]
    main(["compare", *three])
    said = capsys.readouterr().out
    assert "run:start against run:joint_train" in said
    assert "run:video_train against run:joint_train" in said
    main(["compare", *three, "--against", "previous"])
    assert "run:video_train against run:start" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{run}:start"], "is a single result; compare needs two"),
        (["{run}:start", "{run}:stat"], "no evaluated stage 'stat'; did you mean 'start'?"),
        (["{run}", "{other}"], "were not measured alike: split '555555555555' against '777777777777'"),
        (["a.pt", "b.pt"], "a.pt holds weights, not scores; add --videos DIR"),
        (["{run}", "{run}:start", "--metric", "jf"], "there is no metric 'jf'"),
        (["{run}", "{run}:start", "--confidence", "5"], "not between 50 and 100 percent"),
        (["{run}", "{run}:start", "--tolerance=-1"], "is negative"),
        (["{run}:start", "{run}", "--published", "sav_test"], "has 12 videos and SA-V test has 150"),
    ],
)  # fmt: skip
def test_misuse_in_one_line(run: Path, tmp_path: Path, capsys, words, said):
    evaluation(tmp_path / "other" / "last.evaluate", 50, split="7" * 64)
    places = {"run": run, "other": tmp_path / "other"}
    assert main(["compare", *(word.format(**places) for word in words)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1


def page_lines() -> list[list[str]]:
    """The command lines of docs/report.md, as words."""
    page = (Path(__file__).parents[2] / "docs" / "report.md").read_text(encoding="utf-8")
    lines = [line for line in page.splitlines() if line.startswith("sam2-pipeline compare")]
    return [shlex.split(line, comments=True)[1:] for line in lines]


def test_the_lines_of_the_page_run(run: Path, tmp_path: Path, monkeypatch):
    (tmp_path / "runs").mkdir()
    run.rename(tmp_path / "runs" / "smoke")
    monkeypatch.chdir(tmp_path)
    alone, pair, weights = page_lines()
    assert main(alone) == main(pair) == 0
    assert Path("compare.html").is_file() and Path("compare.json").is_file()
    assert weights[1:3] == ["old.pt", "new.pt"], "run below, with checkpoints of its own"


@pytest.mark.slow
def test_a_result_in_mlflow(run: Path, tmp_path: Path, capsys):
    from pipeline.tracking import open_run, prepare_store

    runs = tmp_path / "runs"
    uri = f"sqlite:///{runs / 'mlflow.db'}"
    runs.mkdir()
    prepare_store(uri, "tests", runs / "artifacts")
    record = open_run(uri, "tests", "evaluate", "a", tmp_path / "record")
    record.log_artifact(run / "start.evaluate" / "details.json")
    record.close()
    words = ["compare", f"runs:/{record.run_id}", str(run), "--runs", str(runs)]
    assert main(words) == 0
    assert f"run against runs:/{record.run_id}" in capsys.readouterr().out


@pytest.mark.slow
def test_checkpoints_are_measured_on_the_same_videos_first(tmp_path: Path, capsys):
    import torch

    from model.sam2 import build_sam2
    from model.weights import save_checkpoint

    rng = np.random.default_rng(0)
    for video in ("a", "b"):
        for place in range(4):
            mask = np.zeros((48, 64), np.uint8)
            mask[10:30, 8 + 3 * place : 30 + 3 * place] = 1
            frame = rng.integers(0, 80, (48, 64, 3), np.uint8) + 120 * mask[..., None]
            for kind, picture in (("JPEGImages", frame), ("Annotations", mask)):
                file = tmp_path / "davis" / kind / "480p" / video / f"{place:05}"
                file.parent.mkdir(parents=True, exist_ok=True)
                ending = ".jpg" if kind == "JPEGImages" else ".png"
                Image.fromarray(picture).save(file.with_suffix(ending))
    for seed, name in enumerate(("old", "new")):
        torch.manual_seed(seed)
        save_checkpoint(build_sam2("micro"), tmp_path / f"{name}.pt")
    places = {name: str(tmp_path / name) for name in ("old.pt", "new.pt")}
    places["/data/DAVIS"] = str(tmp_path / "davis")
    words = [*(places.get(word, word) for word in page_lines()[2]), "--out", str(tmp_path / "out"),
             "--runs", str(tmp_path / "runs"), "--device", "cpu", "--image-size", "96"]  # fmt: skip
    code = main(words)
    said = capsys.readouterr().out
    assert "2 videos" in said
    # which of two untrained networks is better is chance, but the gate goes by what is printed
    table = said[said.index("verdict") : said.index("new.pt: ")]
    assert code == ("worse" in table)
    assert (f"gate {'failed' if code else 'passed'}") in said
    assert len(list((tmp_path / "out").glob("*/details.json"))) == 2
