"""What a person sees while a run goes: a line for every stage, a bar for the one that runs, a
table.

On a terminal the bar lives in one line; elsewhere (a file, a pipe, CI) progress comes as plain
lines, one every twenty seconds.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from flows import results
from flows.run import Run
from pipeline.progress import Progress, duration_text
from stages.contract import StageResult, StageSpec
from stages.recipe import PlannedStage

PLAIN_SECONDS = 20.0
PLAIN_WIDTH = 120
NAME_WIDTH = 26


class Terminal:
    """A watcher that prints."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        if not self.console.is_terminal:
            self.console.width = PLAIN_WIDTH
        self.live: Live | None = None
        self.names: list[str] = []
        self.spoke, self.said = 0.0, ""

    def say(self, text: str) -> None:
        """A line of its own, in rich markup."""
        self.console.print(text, soft_wrap=True)

    def run_begins(self, run: Run, stages: Sequence[PlannedStage]) -> None:
        """What is run, and where it goes."""
        self.names = [stage.name for stage in stages]
        recipe = run.recipe
        self.say(f"[bold]{escape(recipe.name)}[/]  {escape(recipe.description)}")
        self.say(f"[dim]{len(stages)} stages into {escape(results.short(recipe.folder))}[/]\n")

    def run_notes(self, line: str) -> None:
        """A line of its own."""
        self.say(f"[dim]{escape(line)}[/]")

    def stage_begins(self, spec: StageSpec) -> None:
        """The stage's line appears, with its clock not yet known."""
        self.spoke = time.monotonic()
        if not self.console.is_terminal:
            self.say(f"{self._label(spec.name)}starts")
            return
        self.live = Live(console=self.console, refresh_per_second=4, transient=True)
        self.live.start()
        self.live.update(Text(f"{self._label(spec.name)}starting"))

    def stage_moves(self, spec: StageSpec, progress: Progress | None) -> None:
        """Move the bar, or now and then print a line."""
        if progress is None:
            return
        if self.live is not None:
            self.live.update(self._bar(spec.name, progress))
        elif time.monotonic() - self.spoke >= PLAIN_SECONDS and progress.text != self.said:
            self.spoke, self.said = time.monotonic(), progress.text
            self.say(f"{self._label(spec.name)}{escape(progress.text)}")

    def stage_fails(self, spec: StageSpec) -> None:
        """The moving line goes; what happened is told by whoever called the flow."""
        self.close()

    def stage_ends(self, run: Run, spec: StageSpec, result: StageResult, reused: bool) -> None:
        """The stage's line stays, with what came of it."""
        self.close()
        mark = "[green]✓[/]" if not reused else "[dim]✓[/]"
        took = "done before" if reused else duration_text(result.seconds)
        said = results.figures_text(result.metrics)
        label = escape(self._label(spec.name))
        self.say(f"{mark} {label}[bold]{took:>11}[/]  [dim]{escape(said)}[/]")

    def run_ends(self, run: Run) -> None:
        """The results, and where to look."""
        table = results.results_table(run)
        if table.rows:
            self.console.print()
            self.console.print(_drawn(table))
        self.console.print()
        for what, where in results.where_to_look(run):
            self.console.print(f"  {what:<14} {where}", markup=False, soft_wrap=True)

    def close(self) -> None:
        """Take the moving line away; also on the way out of an error."""
        if self.live is not None:
            self.live.stop()
            self.live = None

    def _label(self, name: str) -> str:
        total = len(self.names)
        place = f"{self.names.index(name) + 1}/{total}" if name in self.names else ""
        return f"{place:>5} {name:<{NAME_WIDTH}} "

    def _bar(self, name: str, progress: Progress) -> Table:
        row = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=max(progress.total, 1), completed=progress.step, width=24)
        row.add_row(f"  {self._label(name)}", bar, Text(progress.text, style="dim"))
        return row


def _drawn(table: results.Results) -> Table:
    drawn = Table(title=table.title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for index, column in enumerate(table.columns):
        drawn.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    for row in table.rows:
        drawn.add_row(*(escape(cell) for cell in row))
    return drawn
