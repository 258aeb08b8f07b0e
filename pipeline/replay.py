"""From the journal of a folder to its MLflow run: what was not sent yet is sent, under the same run.

`send_waiting` makes one pass and raises when the store does not take something; `Sender` is the thread that makes
passes while a stage runs. The run is found by its identity, else made, so it does not matter who sends first: the
stage, the next attempt, the flow, or `sam2-pipeline sync`.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import StorageError
from pipeline.journal import (
    METRICS,
    RECORD,
    SENT,
    last_opening,
    lines_with_ends,
    locked,
    size,
)
from pipeline.mlflow_store import (
    ID_TAG,
    KEY_TAG,
    PARENT_TAG,
    client,
    first_line,
    prepare_store,
    run_of,
)
from pipeline.publishing import place
from pipeline.storage import read_json, sha256, write_json

POINTS, WORDS = 1000, 100
"""What MLflow takes at once: points of metrics; params and tags."""
REFUSED = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "INVALID_STATE", "ENDPOINT_NOT_FOUND")
"""Answers that will be the same the next time."""
FILES = ("artifact", "checkpoint")
PASS_SECONDS, LONGEST_SECONDS = 2.0, 60.0
logger = logging.getLogger(__name__)


def waiting(folder: Path, uri: str = "") -> int:
    """How much of a folder's journal no store has taken yet: bytes of its lines, and files; 0 is nothing. uri: the
    store in question; by default the one that was sent to last."""
    sent = read_json(folder / SENT) or {}
    if uri and sent.get("uri") != uri:
        sent = {}
    lines = sum(
        max(0, size(folder / name) - int(sent.get(part, 0)))
        for name, part in ((METRICS, "metrics"), (RECORD, "record"))
    )
    return lines + len(sent.get("files", ()))


def send_waiting(folder: Path, uri: str, *, patience: float = 0.0, only: str = "") -> str:
    """Send what waits in `folder`; returns the id of its run, empty where nothing was recorded.

    patience: seconds to wait for another sender of the folder. only: the identity of the work that is expected
    there. Raises what MLflow raises, and StorageError when another one sends.
    """
    if not (folder / RECORD).exists():
        return ""
    with locked(folder, patience) as ours:
        if not ours:
            raise StorageError(f"{folder}: another process is sending this journal")
        record_end = size(folder / RECORD)  # read first: the metrics before an `end` are there
        opening = last_opening(folder)
        if opening is None or (only and opening["stage_id"] != only):
            return ""
        state = _state(folder, uri, opening)
        if not state["run_id"]:
            state["run_id"] = _ensure_run(uri, opening)
            write_json(folder / SENT, state)
        try:
            _send_metrics(folder, uri, state)
            _send_entries(folder, uri, state, record_end)
        except Exception:
            if _is_gone(uri, state["run_id"]):  # deleted by a person: the next pass makes another
                (folder / SENT).unlink()
            raise
        return str(state["run_id"])


def _is_gone(uri: str, run_id: str) -> bool:
    try:
        return bool(client(uri).get_run(run_id).info.lifecycle_stage != "active")
    except Exception as error:
        return getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST"


def _state(folder: Path, uri: str, opening: Mapping[str, Any]) -> dict[str, Any]:
    """How far the journal was sent to this very run; from the beginning for another store or work."""
    fresh = {
        "uri": uri,
        "stage_id": opening["stage_id"],
        "run_id": "",
        "metrics": 0,
        "record": 0,
        "files": [],
    }
    state = read_json(folder / SENT) or fresh
    if any(state.get(name) != fresh[name] for name in ("uri", "stage_id")):
        return fresh
    for name, part in ((METRICS, "metrics"), (RECORD, "record")):
        if int(state[part]) > size(folder / name):
            state[part] = 0
    return state


def _ensure_run(uri: str, opening: Mapping[str, Any]) -> str:
    """The run of `opening`: found by its identity, else made, with its parent before it."""
    experiment, stage_id = str(opening["experiment"]), str(opening["stage_id"])
    found = run_of(uri, experiment, stage_id)
    if found is not None:
        return found
    parent = opening.get("parent") or ""
    if not parent and opening.get("parent_folder"):
        parent = send_waiting(Path(opening["parent_folder"]), uri, patience=5.0)
    tags = {
        ID_TAG: stage_id,
        KEY_TAG: str(opening["key"]),
        **({PARENT_TAG: parent} if parent else {}),
    }
    made = client(uri).create_run(
        prepare_store(uri, experiment, opening.get("artifacts")),
        start_time=opening["time"],
        tags=tags,
        run_name=opening["name"],
    )
    first = run_of(uri, experiment, stage_id)
    if first is not None and first != made.info.run_id:  # somebody else made it at the same moment
        client(uri).delete_run(made.info.run_id)
        return first
    return str(made.info.run_id)


def _send_metrics(folder: Path, uri: str, state: dict[str, Any]) -> None:
    from mlflow.entities import Metric

    points: list[Any] = []

    def flush(end: int) -> None:
        if points:
            run_id = state["run_id"]
            _offer(
                uri, run_id, "metric", points,
                lambda some: client(uri).log_batch(run_id, metrics=some),
            )  # fmt: skip
            points.clear()
            state["metrics"] = end
            write_json(folder / SENT, state)

    end = state["metrics"]
    for row, after in lines_with_ends(folder / METRICS, end):
        values = row.get("values", {})
        if len(points) + len(values) > POINTS:
            flush(end)
        points += [
            Metric(allowed_name(name), float(value), row["time"], row["step"])
            for name, value in values.items()
        ]
        end = after
    flush(end)


def allowed_name(name: str) -> str:
    """A name MLflow takes, of a metric, param or tag: `image/miou@1` becomes `image/miou_at_1`."""
    return re.sub(r"[^\w\-. :/]", "_", name.replace("@", "_at_"))


def _send_entries(folder: Path, uri: str, state: dict[str, Any], end: int) -> None:
    """Words in their order; files after them, so that an artifact store that is down holds up no words."""
    run_id = state["run_id"]

    def offer(entry: Mapping[str, Any]) -> None:
        kind = str(entry["kind"])
        _offer(uri, run_id, kind, [entry], lambda some: _apply(uri, run_id, some[0]))

    for entry, after in lines_with_ends(folder / RECORD, state["record"], end):
        if entry["kind"] in FILES:
            state["files"].append(entry)
        else:
            offer(entry)
        state["record"] = after
        write_json(folder / SENT, state)
    while state["files"]:
        offer(state["files"][0])
        del state["files"][0]
        write_json(folder / SENT, state)


def _apply(uri: str, run_id: str, entry: Mapping[str, Any]) -> None:
    store, kind = client(uri), entry["kind"]
    if kind == "open":
        store.update_run(run_id, status="RUNNING")
        _send_params(uri, run_id, entry.get("params", {}))
        _send_tags(uri, run_id, entry.get("tags", {}))
    elif kind == "again":
        store.update_run(run_id, status="RUNNING")
    elif kind == "tags":
        _send_tags(uri, run_id, entry["values"])
    elif kind == "data":
        _send_dataset(uri, run_id, entry)
    elif kind == "artifact":
        _send_artifact(uri, run_id, entry)
    elif kind == "checkpoint":
        _send_checkpoint(uri, run_id, entry)
    elif kind == "end":
        store.set_terminated(run_id, entry["status"], end_time=entry["time"])


def _send_params(uri: str, run_id: str, params: Mapping[str, str]) -> None:
    """Those that are not there yet: MLflow's params cannot be changed."""
    from mlflow.entities import Param

    there = client(uri).get_run(run_id).data.params
    named = {allowed_name(name): value for name, value in params.items()}
    new = [Param(name, value) for name, value in named.items() if name not in there]
    _send_words(uri, run_id, "param", new)


def _send_tags(uri: str, run_id: str, tags: Mapping[str, str]) -> None:
    from mlflow.entities import RunTag

    new = [RunTag(allowed_name(name), value) for name, value in tags.items()]
    _send_words(uri, run_id, "tag", new)


def _send_words(uri: str, run_id: str, what: Literal["param", "tag"], words: list[Any]) -> None:
    for start in range(0, len(words), WORDS):
        some = words[start : start + WORDS]
        _offer(
            uri, run_id, what, some,
            lambda part: client(uri).log_batch(run_id, **{f"{what}s": part}),
        )  # fmt: skip


def _send_dataset(uri: str, run_id: str, entry: Mapping[str, Any]) -> None:
    from mlflow.entities import Dataset, DatasetInput

    source = json.dumps({"uri": entry["root"], "sha256": entry["digest"]})
    digest = entry["digest"][:36]  # MLflow's digests have room for no more
    dataset = Dataset(entry["name"], digest, "uri", source, profile=json.dumps(entry["facts"]))
    client(uri).log_inputs(run_id, [DatasetInput(dataset)])


def _send_artifact(uri: str, run_id: str, entry: Mapping[str, Any]) -> None:
    if Path(entry["file"]).is_file():
        client(uri).log_artifact(run_id, entry["file"], entry.get("folder"))
    else:
        logger.warning("%s is not there any more and is not sent to MLflow", entry["file"])


def _send_checkpoint(uri: str, run_id: str, entry: Mapping[str, Any]) -> None:
    file, digest = Path(entry["file"]), entry["sha256"]
    if not file.is_file() or sha256(file) != digest:
        logger.warning("%s is not the checkpoint any more that was to be sent to MLflow", file)
        return
    _, tags = place(uri, run_id, file, digest, entry["store"])
    _send_tags(uri, run_id, tags)


def _offer(
    uri: str, run_id: str, what: str, things: list[Any], send: Callable[[list[Any]], object]
) -> None:
    """Send `things`; what the store refuses for good is left out with a word, so that the rest arrives."""
    try:
        send(list(things))
    except Exception as error:
        if getattr(error, "error_code", "") not in REFUSED or _is_gone(uri, run_id):
            raise
        if len(things) == 1:
            logger.warning(
                "MLflow refuses a %s (%s); it stays in the journal", what, first_line(error)
            )
            return
        middle = len(things) // 2
        for part in (things[:middle], things[middle:]):
            _offer(uri, run_id, what, part, send)


class Sender:
    """Sends a folder's journal while it grows. Never raises; a store that is down is asked less and less often."""

    def __init__(self, folder: Path, uri: str, stage_id: str) -> None:
        self.folder, self.uri, self.stage_id, self.run_id = folder, uri, stage_id, ""
        self.failing = False
        self._tried = threading.Event()
        """Set after every pass, whatever came of it."""
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=f"send {folder.name}", daemon=True)
        self._thread.start()

    def wait_id(self, seconds: float) -> str:
        """The run's id, as soon as it is known; empty when the store fails or `seconds` are over."""
        until = time.monotonic() + seconds
        while not (self.run_id or self.failing) and (left := until - time.monotonic()) > 0:
            self._tried.clear()
            self._wake.set()
            self._tried.wait(left)
            time.sleep(min(left, 0.1))  # a pass that cannot write may be over at once
        return self.run_id

    def close(self, wait_seconds: float) -> None:
        """A last pass; not waited for longer than `wait_seconds`, and hardly for a store that fails."""
        self._closing = True
        self._wake.set()
        self._thread.join(min(wait_seconds, 2.0) if self.failing else wait_seconds)

    def _run(self) -> None:
        pause = 0.0
        while True:
            self._wake.wait(pause)
            self._wake.clear()
            last = self._closing
            try:
                if waiting(self.folder, self.uri) or not self.run_id:
                    found = send_waiting(self.folder, self.uri, only=self.stage_id)
                    self.run_id = found or self.run_id
                pause, self.failing = PASS_SECONDS, False
            except Exception as error:  # HTTP, SQLAlchemy and MLflow errors share no base
                if not self.failing:
                    logger.warning(
                        "MLflow takes nothing now (%s); records wait in %s",
                        first_line(error),
                        self.folder,
                    )
                pause, self.failing = max(PASS_SECONDS, min(2 * pause, LONGEST_SECONDS)), True
            self._tried.set()
            if last:
                return
