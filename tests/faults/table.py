"""Which fault meets which phase, and what is expected; where a combination makes no sense, why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

End = Literal["goes on", "is stopped", "fails"]
"""`goes on`: the job comes to its end by itself, restarted or not. `is stopped`: it has saved and
says so. `fails`: it says why; started again, it goes on."""
STEPS: dict[str, int | None] = {
    "data": 7, "forward": 7, "backward": 7, "reduce": 7, "optimiser": 7, "save": 5,
    "validation": 6, "rename": None, "upload": None,
}  # fmt: skip
"""Where a phase is met: in the middle of an interval between two checkpoints where it can be."""
COLUMNS = ("forward", "backward", "optimiser", "save", "rename", "upload", "validation")


@dataclass(frozen=True)
class Case:
    """One cell of the table."""

    fault: str
    rank: int
    phase: str
    end: End
    words: str = ""
    """What the error says, as a pattern."""
    loop: tuple[tuple[str, Any], ...] = ()
    """Settings of the loop."""

    @property
    def name(self) -> str:
        """For the list of tests."""
        return f"{self.fault}-of-{self.rank}-in-{self.phase}".replace(" ", "-")

    @property
    def plan(self) -> dict[str, Any]:
        """For `plan.install`."""
        return {
            "fault": self.fault, "rank": self.rank, "phase": self.phase, "step": STEPS[self.phase]
        }  # fmt: skip


def _cells(fault: str, rank: int, end: End, phases: Any = COLUMNS, **more: Any) -> list[Case]:
    return [Case(fault, rank, phase, end, **more) for phase in phases]


BEFORE_UPLOAD = tuple(phase for phase in COLUMNS if phase != "upload")
ON_EVERY_RANK = tuple(phase for phase in COLUMNS if phase not in ("rename", "upload"))
KILLED = r"rank {}.*ended without a word"
NO_SPACE = (("unsaved_minutes", 0.0),)

CASES = [
    *_cells("SIGTERM", 0, "is stopped", BEFORE_UPLOAD, words="SIGTERM; saved at step"),
    *_cells("SIGTERM", 1, "is stopped", ON_EVERY_RANK, words="asked to stop; saved at step|SIGTERM"),
    *_cells("SIGUSR2", 0, "goes on", BEFORE_UPLOAD),
    *_cells("SIGUSR2", 1, "goes on", ON_EVERY_RANK),
    *_cells("SIGTERM", 0, "goes on", ["upload"]),
    *_cells("SIGUSR2", 0, "goes on", ["upload"]),
    *_cells("SIGKILL", 0, "fails", words=KILLED.format(0)),
    *_cells("SIGKILL", 1, "fails", ON_EVERY_RANK, words=KILLED.format(1)),
    *_cells("error", 1, "fails", ON_EVERY_RANK, words="rank 1.*planned for"),
    *_cells("disk full", 0, "fails", ON_EVERY_RANK, words="could not be saved", loop=NO_SPACE),
    *_cells("disk full", 0, "goes on", ["rename"]),
    *_cells("disk full", 0, "fails", ["upload"], words="No space left"),
    *_cells("MLflow", 0, "goes on"),
    *_cells("hang", 0, "fails", ["data"], words="rank 0: hangs: step 7, data.*clip of rank 0"),
    *_cells("hang", 1, "fails", ["forward"], words="rank 1: hangs: step 7, forward"),
    *_cells("hang", 1, "fails", ["backward"], words="rank 1: hangs: step 7, backward"),
    *_cells("hang", 0, "fails", ["optimiser"], words="rank 0: hangs: step 7, optimiser"),
    *_cells("hang", 1, "fails", ["validation"], words="rank 1: hangs: step 6, validation",
            loop=(("start_seconds", 3.0),)),
    *_cells("SIGSTOP", 1, "fails", ["forward"], words="rank 1: has given no sign of life"),
    *_cells("frozen", 1, "fails", ["backward"], words="rank 1.*(no sign of life|stacks-1.txt)"),
]  # fmt: skip

QUICK = {
    "SIGTERM-of-0-in-backward", "SIGUSR2-of-1-in-validation", "SIGKILL-of-1-in-optimiser",
    "disk-full-of-0-in-rename", "hang-of-1-in-forward",
}  # fmt: skip
"""Those of every `make test`."""

WITHOUT_SENSE = {
    ("SIGTERM, SIGUSR2, SIGKILL, error of rank 1", "rename, upload"):
        "rank 0 alone writes files",
    ("loader", "all but data"):
        "its exception arrives with the next batch, whatever the rank did meanwhile; "
        "test_a_loader_that_fails",
    ("NaN", "rename"):
        "the bytes are on the disk, and their digest is taken",
    ("NaN", "validation"):
        "the network is only read; a weight that turns NaN there is met as in optimiser",
    ("S3", "all but upload"):
        "a stage asks S3 for data (an exception of the loader) and for the upload",
    ("Prefect", "any"):
        "only the launcher speaks to Prefect; the ranks do not know of it in any phase; "
        "test_prefect_is_down",
    ("SIGSTOP, frozen", "other phases"):
        "one is like another: the process does not run",
    ("hang", "save, rename, upload"):
        "the saver waits for slow storage by its own rule: tests/pipeline/test_saving.py",
}  # fmt: skip
