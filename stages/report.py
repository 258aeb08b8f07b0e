"""The end of a run: one page a person likes to open, one film, and the numbers as JSON.

Everything is read from the folders of the stages before; nothing is measured here.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
from PIL import Image

from data.sources import Dataset, open_dataset
from data.spec import DatasetSpec
from pipeline.config import parse
from pipeline.errors import StageError
from pipeline.storage import read_json, write_json
from stages.contract import StageResult, StageSpec, read_result, read_spec
from stages.evaluation.details import DETAILS, Details, read_details
from stages.evaluation.media import write_video
from stages.evaluation.overlays import Shown, film, strip
from stages.evaluation.report.data import Case, Curve, Measured, ReportData, StageRow, stage_title
from stages.evaluation.report.failures import worst_words
from stages.evaluation.report.origins import sources
from stages.evaluation.report.page import FIGURES, write_report
from stages.evaluation.summary import Summary, read_summary
from stages.training import open_stage_run

MORE = "more.json"
"""Of an evaluation: what its further protocols found."""
FILM_CLIPS = 3
"""Clips one below the other in the film."""
FILM_FRAMES = 96
"""Frames of a film at most; of longer clips, some are left out evenly."""
CASES = 6
"""Clips drawn in the report: of more, the best and the worst."""
CASE_HEIGHT = 150
"""Pixels of a picture in the clip of a case."""
CURVES = ("loss", "loss/focal", "loss/dice", "loss/iou", "loss/object", "lr")


def run(spec: StageSpec) -> StageResult:
    """Write report.html, figures/, film.mp4, film.jpg and results.json into the run's folder."""
    run_folder = Path(spec.folder).parent
    names: Sequence[str] = spec.settings["evaluations"]
    trained = [name.removesuffix(".evaluate") for name in names if not name.startswith("start.")]
    rows = tuple(_row(run_folder, name) for name in trained)
    start = run_folder / "start.evaluate"
    shown = _shown(spec, run_folder, names)
    clips = _film_clips(shown)
    data = ReportData(
        run=spec.settings["run"],
        recipe=spec.settings["recipe"],
        description=spec.settings["description"],
        stages=rows,
        untrained=_summary(start) if (start / "summary.json").is_file() else None,
        untrained_details=_details(start),
        repeated=_summary(run_folder / names[-1], "baseline.json"),
        cases=_cases(shown, rows, Path(spec.folder) / "clips"),
        film=write_video(film(clips), run_folder / "film.mp4", fps=6) if clips else None,
        config={row.name: row.settings for row in rows if row.settings},
        facts=_facts(spec, rows),
        measured_on=sources(read_spec(run_folder / names[-1] / "spec.json")),
    )
    page = write_report(data, run_folder / "report.html")
    results = run_folder / "results.json"
    write_json(results, {row.name: {**row.summary.metrics(), "sha256": row.sha256} for row in rows})
    files = {"report": str(page), "results": str(results), "figures": str(run_folder / FIGURES)}
    (run_folder / FIGURES).mkdir(exist_ok=True)  # a report without numbers has no charts
    if data.film is not None:
        files["film"] = str(data.film)
        files["still"] = str(_write_still(clips, run_folder / "film.jpg"))
    if rows and rows[-1].kind:
        files["final weights"] = str(_final_weights(run_folder, trained[-1]))
    record = open_stage_run(spec)
    for file in files.values():
        if Path(file).suffix not in (".pt", ""):
            record.log_artifact(file)
    record.close()
    return StageResult(
        stage=spec.name, key=spec.key, digest=spec.key, files=files, run_id=record.run_id
    )


def _row(run_folder: Path, name: str) -> StageRow:
    """What an evaluation found, and how the weights it measured came about: those of the stage
    `name`, or others that were given with `checkpoint=…`."""
    evaluation = run_folder / f"{name}.evaluate"
    if read_result(evaluation) is None:
        raise StageError(
            f"{evaluation} has no result; run the stage {evaluation.name} before the report"
        )
    measured = read_spec(evaluation / "spec.json").input
    if measured is None:
        raise StageError(f"{evaluation} measured no weights; delete that folder and run it again")
    row = StageRow(
        name=name,
        summary=_summary(evaluation),
        checkpoint=measured.uri,
        sha256=measured.sha256,
        details=_details(evaluation),
        more=_more(evaluation / MORE),
    )
    result = read_result(run_folder / name)
    if result is None or result.checkpoint is None or result.checkpoint.sha256 != row.sha256:
        return row
    spec = read_spec(run_folder / name / "spec.json")
    return replace(
        row,
        seconds=result.seconds,
        step=result.step,
        input_sha256=spec.input.sha256 if spec.input else "",
        curves=_curves(run_folder / name / "metrics.jsonl"),
        kind=spec.kind,
        settings=spec.settings,
        trained_on=sources(spec),
        data_digests=spec.upstream,
    )


def _summary(folder: Path, name: str = "summary.json") -> Summary:
    return read_summary(folder / name)


def _details(folder: Path) -> Details | None:
    """Every score of an evaluation; none of one made before they were kept."""
    return read_details(folder / DETAILS) if (folder / DETAILS).is_file() else None


def _more(path: Path) -> dict[str, Measured]:
    """What the further protocols of an evaluation found."""
    return {
        name: Measured(one["metrics"], one["protocol"], one["split"])
        for name, one in (read_json(path) or {}).items()
    }


def _curves(path: Path) -> tuple[Curve, ...]:
    """What the training loop logged, the last word counting where a step was taken twice."""
    if not path.is_file():
        return ()
    points: dict[int, Mapping[str, float]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:  # a line cut by a kill; its step was logged again
            continue
        points[row["step"]] = row["values"]
    steps = sorted(points)
    return tuple(
        Curve(name, steps, [points[step].get(name, float("nan")) for step in steps])
        for name in CURVES
        if steps and name in points[steps[-1]]
    )


def _shown(spec: StageSpec, run_folder: Path, evaluations: Sequence[str]) -> list[Shown]:
    """The clips whose masks were kept, with the answers of each stage that kept them."""
    if spec.settings["videos"] is None:
        return []
    dataset = open_dataset(parse(DatasetSpec, spec.settings["videos"], where="videos"))
    shown = []
    for index, name in enumerate(dataset.names):
        answers: dict[str, np.ndarray] = {}
        for evaluation in evaluations:
            file = run_folder / evaluation / "masks" / f"{name}.npz"
            if file.is_file() and not evaluation.startswith("start."):
                answers[stage_title(evaluation.removesuffix(".evaluate"))] = _unpacked(file)
        if answers:
            shown.append(_clip(dataset, index, answers))
    return shown


def _film_clips(shown: Sequence[Shown]) -> list[Shown]:
    """The clips with the most objects, which are the ones worth watching."""
    most = max((len(clip.answers) for clip in shown), default=0)
    whole = [clip for clip in shown if len(clip.answers) == most]  # every stage has its column
    crowded = sorted(whole, key=lambda clip: -clip.truth.shape[1])
    return [_shortened(clip) for clip in crowded[:FILM_CLIPS]]


def _write_still(clips: Sequence[Shown], path: Path) -> Path:
    """The middle of the film, for pages that play none."""
    middle = max(len(clip.frames) for clip in clips) // 2
    at = [_frames_of(clip, np.array([min(middle, len(clip.frames) - 1)])) for clip in clips]
    Image.fromarray(next(film(at))).save(path, quality=85)
    return path


def _shortened(clip: Shown) -> Shown:
    """At most FILM_FRAMES of its frames, evenly."""
    count = len(clip.frames)
    if count <= FILM_FRAMES:
        return clip
    return _frames_of(clip, np.linspace(0, count - 1, FILM_FRAMES).round().astype(int))


def _frames_of(clip: Shown, kept: np.ndarray) -> Shown:
    answers = {label: masks[kept] for label, masks in clip.answers.items()}
    return Shown(clip.name, clip.frames[kept], clip.truth[kept], answers)


def _clip(dataset: Dataset, index: int, answers: Mapping[str, np.ndarray]) -> Shown:
    clip = dataset.load(index)
    return Shown(clip.name, clip.frames, clip.masks, answers)


def _unpacked(file: Path) -> np.ndarray:
    with np.load(file) as stored:
        shape = stored["shape"]
        return np.unpackbits(stored["bits"], count=int(np.prod(shape))).reshape(shape).astype(bool)


def _cases(shown: Sequence[Shown], rows: Sequence[StageRow], folder: Path) -> tuple[Case, ...]:
    """The best and the worst kept clips of the last stage, the best first, as strips and films."""
    if not rows:
        return ()
    video, details = rows[-1].summary.video, rows[-1].details
    scores = video.sequences if video else {}
    objects = (
        {v.name: v.objects for v in details.videos.videos} if details and details.videos else {}
    )
    ordered = sorted(shown, key=lambda clip: -scores.get(clip.name, float("-inf")))
    chosen = list(enumerate(ordered))
    if len(chosen) > CASES:
        chosen = chosen[: CASES // 2] + chosen[-(CASES // 2) :]
    cases = []
    for place, clip in chosen:
        word = (
            "best"
            if place == 0
            else "worst"
            if place == len(ordered) - 1
            else f"number {place + 1}"
        )
        said = [f"J&F {scores[clip.name]:.1f} after {stage_title(rows[-1].name)}"]
        said += filter(None, [worst_words(objects.get(clip.name, ()))])
        title = f"{clip.name} ({word} of {len(ordered)} drawn)"
        caption = "; ".join(said) if clip.name in scores else ""
        frames = film([_shortened(clip)], height=CASE_HEIGHT)
        cases.append(
            Case(
                title, caption, strip(clip), write_video(frames, folder / f"{clip.name}.mp4", fps=6)
            )
        )
    return tuple(cases)


def _facts(spec: StageSpec, rows: Sequence[StageRow]) -> dict[str, str]:
    model = spec.settings["model"]
    return {
        "model": f"SAM {model['version']} {model['preset']}, {model['image_size']} px",
        "seed": str(spec.settings["seed"]),
        "steps": " + ".join(str(row.step) for row in rows),
        "date": date.today().isoformat(),
    }


def _final_weights(run_folder: Path, last: str) -> Path:
    """A copy of the last stage's weights beside the report, where a person looks for it."""
    target = run_folder / "final.pt"
    temporary = target.with_suffix(".part")
    shutil.copyfile(run_folder / last / "model.pt", temporary)
    temporary.replace(target)
    return target
