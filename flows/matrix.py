"""The Prefect flow `sam2-sizes`: one recipe for several sizes of the network, in one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prefect import flow, get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed, Failed, State

from flows.form import RecipeName, Sizes
from flows.page import Page, artifact_key
from flows.recipe import sam2
from flows.results import COLUMNS, number
from flows.run import Request, Run
from pipeline.errors import PipelineError
from pipeline.progress import duration_text
from stages.contract import StageResult

DONE = "done"
RELEASED = ["tiny", "small", "base_plus", "large"]


@dataclass(frozen=True)
class SizeRow:
    """What came of one size."""

    size: str
    state: str
    result: StageResult | None = None
    """Of the last evaluation there is."""
    checkpoint: str = ""
    seconds: float = 0.0
    """Of all its stages, whenever they ran."""

    def record(self, shown: Sequence[str]) -> dict[str, str]:
        """A row of the table."""
        metrics = self.result.metrics if self.result is not None else {}
        figures = {COLUMNS[key]: number(key, metrics[key]) for key in shown if key in metrics}
        return {
            "size": self.size,
            "state": self.state,
            **{COLUMNS[key]: figures.get(COLUMNS[key], "") for key in shown},
            "time": duration_text(self.seconds) if self.seconds else "",
            "checkpoint": self.checkpoint,
        }


def _run_name() -> str:
    given = flow_run.parameters
    return f"{given['run_name'] or given['recipe']}: {', '.join(given['sizes'])}"


@flow(name="sam2-sizes", flow_run_name=_run_name, persist_result=False, retries=0)
def sam2_sizes(
    recipe: RecipeName = "three_stage",
    sizes: Sizes = RELEASED,
    overrides: list[str] = [],  # noqa: B006 - Prefect shows the default in its form
    checkpoint: str = "",
    run_name: str = "",
) -> Any:
    """Train a recipe in several sizes, one after the other, and put them side by side.

    Each size is a run of its own, with its own page and folder; one that fails does not stop the
    others, and running the matrix again continues what is missing.

    Args:
        recipe: What is trained on what.
        sizes: Which sizes of the network.
        overrides: Changes to the recipe, one `key=value` each, for all sizes.
        checkpoint: Weights for the first stage; `{size}` in it stands for the size, as in
            `sam2.1_hiera_{size}.pt`. Empty: what the recipe says.
        run_name: Start of the run folders, `<run_name>-<size>`. Empty: the recipe's name.
    """
    page = Page(get_run_logger())  # type: ignore[arg-type]
    key = artifact_key(run_name or recipe, "sizes")
    rows: list[SizeRow] = []
    for size in sizes:
        page.flush(patience=600)  # a run of its own has to be made on the server
        request = request_for(size, recipe, overrides, checkpoint, run_name)
        state: State = sam2(  # type: ignore[assignment]
            recipe=recipe,
            overrides=list(request.overrides),
            checkpoint=request.checkpoint or "",
            run_name=request.run_name or "",
            return_state=True,
        )
        rows.append(row_of(size, request, _said(state)))
        page.table(key, table_of(rows), f"{len(rows)} of {len(sizes)} sizes")
    failed = [row.size for row in rows if row.state != DONE]
    if failed:
        return Failed(
            name="PartlyFailed" if len(failed) < len(rows) else "Failed",
            message=f"{len(failed)} of {len(rows)} sizes failed: {', '.join(failed)}; "
            "the table has the others",
        )
    return Completed(message=f"{len(rows)} of {len(sizes)} sizes trained and measured")


def request_for(
    size: str, recipe: str, overrides: Sequence[str], checkpoint: str, run_name: str
) -> Request:
    """The run of one size."""
    return Request(
        recipe,
        (f"model.preset={size}", *overrides),
        checkpoint=checkpoint.replace("{size}", size) or None,
        run_name=f"{run_name or recipe}-{size}",
    )


def row_of(size: str, request: Request, state: str) -> SizeRow:
    """What the run of a size left behind, finished or not."""
    try:
        run = Run.of(request)
        run.states()  # finds the results there are
    except PipelineError:
        return SizeRow(size, state)
    measured = [
        run.results[s.name] for s in run.planned if s.kind == "evaluate" and s.name in run.results
    ]
    trained = [result for result in run.results.values() if result.checkpoint is not None]
    reference = trained[-1].checkpoint if trained else None
    return SizeRow(
        size=size,
        state=state,
        result=measured[-1] if measured else None,
        checkpoint=reference.uri if reference is not None else "",
        seconds=sum(result.seconds for result in run.results.values()),
    )


def _said(state: State) -> str:
    """How a run ended, in a cell."""
    if state.is_completed():
        return DONE
    why = (state.message or "").removeprefix("Flow run encountered an exception: ")
    return f"{str(state.name).lower()}: {why}".splitlines()[0][:200]


def table_of(rows: Sequence[SizeRow]) -> list[dict[str, str]]:
    """The table, with the metrics that any size has."""
    metrics = [row.result.metrics for row in rows if row.result is not None]
    shown = [key for key in COLUMNS if any(key in found for found in metrics)]
    return [row.record(shown) for row in rows]
