"""The MLflow side of a recipe run: one parent run, under which every stage opens its own."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from flows.run import DATA_KINDS, Run
from pipeline.journal import EARLIER, RECORD
from pipeline.mlflow_store import answers, first_line
from pipeline.provenance import code_version, environment
from pipeline.remote import is_remote, shown
from pipeline.replay import send_waiting, waiting
from pipeline.storage import local_path
from pipeline.tracking import Run as MLflowRun
from pipeline.tracking import open_run, prepare_store
from stages.contract import StageResult, StageSpec, read_spec
from stages.record import attach_settings, open_stage_run

ID_SECONDS = 20.0
"""A run waits so long to learn the id of its parent run; stages find it themselves otherwise."""
CATCH_UP_SECONDS = 30.0
"""At the end of a run, what still waits is sent for so long."""
logger = logging.getLogger(__name__)


@contextmanager
def open_parent_run(run: Run) -> Iterator[None]:
    """Make the store and the parent run, and let the stages of `run` know where they are.

    The parent belongs to the run's folder, so that a run which is continued stays one run. A server that does not
    answer is left alone: everything waits in the run's folder. Raises StorageError when a store that answers, or a
    database file, cannot be used.
    """
    recipe, parent = run.recipe, _opened(run)
    status = "KILLED"
    try:
        yield
        status = "FINISHED"
    except Exception:
        status = "FAILED"
        raise
    finally:
        _sum_up(run, parent)
        parent.close(status)
        seconds = CATCH_UP_SECONDS if status == "FINISHED" else 0.0
        catch_up(recipe.folder, recipe.tracking_uri, seconds)


def _opened(run: Run) -> MLflowRun:
    """The store, and the parent run in it, of which `run` knows from now on."""
    recipe = run.recipe
    uri, experiment = recipe.tracking_uri, recipe.tracking.experiment
    artifacts = _absolute(recipe.tracking.artifacts)
    if answers(uri):
        run.experiment_id = prepare_store(uri, experiment, artifacts)
    else:
        logger.warning(
            "MLflow at %s does not answer; the run goes on, and its records wait in %s",
            shown(uri), recipe.folder,
        )  # fmt: skip
    made_by = {**code_version(), **environment()}
    params = {
        "recipe": recipe.name,
        "seed": recipe.seed,
        "model": recipe.model.preset,
        "image_size": recipe.model.image_size,
        "folder": recipe.folder,
    }
    tags = {
        "recipe": recipe.name,
        "mlflow.note.content": f"{recipe.description}\n\n`{run.request.command()}`",
        "overrides": " ".join(run.request.overrides),
        **made_by,
    }
    parent = open_run(
        uri, experiment, recipe.folder.name, f"recipe:{recipe.folder}", recipe.folder,
        artifacts=artifacts, params=params, tags=tags,
    )  # fmt: skip
    attach_settings(parent, recipe.folder, asdict(recipe), made_by)
    run.tracking = {
        "uri": uri,
        "experiment": experiment,
        "parent": parent.wait_id(ID_SECONDS),
        "parent_folder": str(recipe.folder),
        "artifacts": artifacts,
    }
    return parent


def _absolute(place: str | None) -> str | None:
    """A folder as jobs find it, which start elsewhere; a URL is one already."""
    if not place or is_remote(place):
        return place
    return str(local_path(place).absolute())


def _sum_up(run: Run, parent: MLflowRun) -> None:
    """What the parent run shows of its stages: the figures of every evaluation, in order, and the data by digest."""
    step, found = 0, dict[str, str]()
    for stage in run.planned:
        folder = run.folder(stage.name)
        if stage.name not in run.results or not (folder / "spec.json").is_file():
            continue
        upstream = read_spec(folder / "spec.json").upstream
        found |= {name: digest for name, digest in upstream.items() if name.startswith("data:")}
        if stage.kind in DATA_KINDS:
            found[f"data:{stage.name}"] = run.results[stage.name].digest
            _record_data_stage(read_spec(folder / "spec.json"), run.results[stage.name])
        if stage.kind == "evaluate":
            parent.log_metrics(step, run.results[stage.name].metrics, keep=True)
            step += 1
    parent.set_tags({f"{name.replace(':', '.')}.sha256": digest for name, digest in found.items()})


def _record_data_stage(spec: StageSpec, result: StageResult) -> None:
    """Data stages know nothing of MLflow: their run is written down here, once."""
    if (Path(spec.folder) / RECORD).is_file():
        return
    ended = (Path(spec.folder) / "done.json").stat().st_mtime
    record = open_stage_run(spec, began=int(1000 * (ended - result.seconds)))
    record.log_metrics(0, result.metrics, keep=True)
    record.set_tags({"made.sha256": result.digest})
    record.close(ended=int(1000 * ended))


def journals(folder: Path) -> list[Path]:
    """The folders of a run that have records, its own first; work that was put aside comes last."""
    below = ("", "*/", f"*/{EARLIER}-*/", ".earlier/*/")
    return [path.parent for start in below for path in sorted(folder.glob(f"{start}{RECORD}"))]


def catch_up(folder: Path, uri: str, seconds: float) -> tuple[int, int]:
    """Send what waits below a run's folder, for at most about `seconds`; (journals sent, journals that still wait).

    Stops when the store falls silent; a journal it does not take, say for its files, holds up no other.
    """
    late = [path for path in journals(folder) if waiting(path, uri)]
    until, sent = time.monotonic() + seconds, 0
    for path in late if answers(uri) else ():
        if time.monotonic() > until:
            break
        try:
            send_waiting(path, uri)
        except Exception as error:  # HTTP, SQLAlchemy and MLflow errors share no base
            logger.warning("MLflow did not take %s (%s)", path, first_line(error))
            if not answers(uri):
                break
        else:
            sent += 1
    if sent < len(late):
        logger.warning(
            "records of %d of %s's stages wait for MLflow; `sam2-pipeline sync %s` sends them",
            len(late) - sent, folder.name, folder,
        )  # fmt: skip
    return sent, len(late) - sent
