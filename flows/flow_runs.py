"""Prefect's record of a flow run, and the process that it is: a flow that was killed says nothing
to Prefect, which would show it as running for ever.

While a flow goes, its run folder names its id and its process. Whoever comes next and finds the
process gone sets the flow run to Crashed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import UUID

from pipeline.owner import Owner
from pipeline.storage import read_json, write_json

FOLDER = ".flows"


@contextmanager
def on_record(run_folder: Path, flow_run_id: str, name: str = "") -> Iterator[None]:
    """Note in `run_folder`, for the time of the block, that this process is that flow run."""
    path = run_folder / FOLDER / f"{flow_run_id}.json"
    write_json(path, {"id": flow_run_id, "name": name, **asdict(Owner.me())})
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def dead_records(run_folder: Path) -> list[Path]:
    """The records in `run_folder` of flows whose process has ended without removing them."""
    found = []
    for path in sorted((run_folder / FOLDER).glob("*.json")):
        owner = Owner.from_record(read_json(path))
        if owner is None or owner.state == "gone":
            found.append(path)
    return found


def settle_record(path: Path) -> str:
    """Tell the Prefect server of this process that the flow of the record at `path` is dead, and
    remove the record; a line that says what was done.

    Whatever ails the server leaves the record for the next time.
    """
    values = read_json(path) or {}
    name = values.get("name") or path.stem
    try:
        flow_run_id = UUID(str(values.get("id", path.stem)))
    except ValueError:
        path.unlink(missing_ok=True)
        return f"{path} was no record of a flow run"
    try:
        done = _crash(flow_run_id, values)
    except Exception as error:  # law 6: Prefect in trouble changes nothing for the run
        return f"the flow run {name} was killed; Prefect could not be told ({_first_line(error)})"
    path.unlink(missing_ok=True)
    return f"the flow run {name} was killed; {done}"


def settle_dead(run_folder: Path, note: Callable[[str], None]) -> None:
    """`settle_record` for all dead flows of `run_folder`; what was done goes to `note`."""
    for path in dead_records(run_folder):
        note(settle_record(path))


def _crash(flow_run_id: UUID, values: dict[str, Any]) -> str:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
    from prefect.exceptions import ObjectNotFound
    from prefect.states import Cancelled, Crashed, State

    words = f"process {values.get('pid')} on {values.get('host')} was killed"
    with get_client(sync_client=True) as client:
        try:
            state = client.read_flow_run(flow_run_id).state
        except ObjectNotFound:
            return "this Prefect server does not know it"
        if state is not None and state.is_final():
            return f"Prefect knows ({state.name})"
        cancelling = state is not None and state.is_cancelling()
        new: State[None] = Cancelled(message=words) if cancelling else Crashed(message=words)
        client.set_flow_run_state(flow_run_id, new, force=True)
        mine = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
        for task_run in client.read_task_runs(flow_run_filter=mine):
            if task_run.state is not None and not task_run.state.is_final():
                client.set_task_run_state(task_run.id, Crashed(message=words), force=True)
    return f"Prefect now shows it as {new.name}"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
