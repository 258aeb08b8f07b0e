"""A scheduler that lies: sbatch, squeue, sacct, scancel and scontrol, backed by a folder.

`install` puts them on PATH. Jobs really run, as processes of this machine, one task each. A fault
is a file in the folder, whose content says how often it still happens (`Scheduler.fault`):

sbatch-timeout  takes the job, and fails as if the controller had not answered
sbatch-lost     fails in the same way and takes nothing
sbatch-kill     takes the job, and kills the process that asked
sbatch-refuse   refuses: no such partition
squeue-empty    answers with nothing, and success
squeue-down     the controller does not answer
hide            squeue no longer knows jobs that ended
hold            jobs wait in the queue
segfault        a job dies at once, and its script says that all went well
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMMANDS = ("sbatch", "squeue", "sacct", "scancel", "scontrol", "srun")
LETTERS = {"i": "id", "F": "id", "T": "state", "r": "reason", "j": "name", "V": "submitted"}
OVER = ("COMPLETED", "FAILED", "CANCELLED", "PREEMPTED", "NODE_FAIL")


@dataclass(frozen=True)
class Scheduler:
    """The folder, and what a test does with it."""

    folder: Path

    def fault(self, name: str, times: int = 1) -> None:
        """From now on, so many times."""
        (self.folder / name).write_text(str(times))

    def happens(self, name: str) -> bool:
        """Whether the fault happens now; once less afterwards."""
        with self.locked():
            path = self.folder / name
            left = int(path.read_text() or 0) if path.exists() else 0
            if left:
                path.write_text(str(left - 1))
            return left > 0

    def note(self, words: str) -> None:
        """A line in the list of calls."""
        with (self.folder / "calls").open("a") as file:
            file.write(words + "\n")

    def calls(self, command: str) -> int:
        """How often it was called."""
        path = self.folder / "calls"
        return path.read_text().split().count(command) if path.exists() else 0

    def jobs(self) -> list[dict[str, Any]]:
        """All that were ever taken, oldest first."""
        paths = self.folder.glob("*.json")
        return sorted((json.loads(path.read_text()) for path in paths), key=lambda j: int(j["id"]))

    def job(self, job_id: str) -> dict[str, Any]:
        """One of them."""
        found: dict[str, Any] = json.loads((self.folder / f"{job_id}.json").read_text())
        return found

    def change(self, job_id: str, **values: Any) -> None:
        """Set fields of a job, whole or not at all."""
        path = self.folder / f"{job_id}.json"
        with open(self.folder / "changes", "w") as alone:
            fcntl.flock(alone, fcntl.LOCK_EX)
            before = json.loads(path.read_text()) if path.exists() else {}
            part = path.with_suffix(f".{os.getpid()}")
            part.write_text(json.dumps({**before, **values}))
            part.rename(path)

    def end(self, job_id: str, state: str) -> None:
        """Kill the job in the way of the scheduler: `CANCELLED`, `PREEMPTED`, `NODE_FAIL`."""
        self.change(job_id, state=state, verdict=state)
        self.signal(job_id, signal.SIGKILL)

    def signal(self, job_id: str, number: signal.Signals) -> None:
        """To all processes of the job."""
        session = self.job(job_id).get("session")
        if session:
            with suppress(ProcessLookupError):
                os.killpg(session, number)

    def requeue(self, job_id: str) -> None:
        """Start it again, under the same number."""
        self.signal(job_id, signal.SIGKILL)
        self.change(job_id, state="PENDING", verdict="", submitted=stamp())
        start(self.folder, job_id)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Alone with the folder."""
        with open(self.folder / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def install(folder: Path) -> dict[str, str]:
    """Make the commands; the environment in which they are found."""
    programs = folder / "bin"
    programs.mkdir(parents=True)
    for name in COMMANDS:
        path = programs / name
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" {name} "$@"\n')
        path.chmod(0o755)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    return {"PATH": path, "FAKE_SLURM": str(folder)}


def stamp() -> str:
    """Now, as SLURM writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S")


def start(folder: Path, job_id: str) -> None:
    """The node's part: a process that runs the script."""
    command = [sys.executable, __file__, "run", job_id]
    node = subprocess.Popen(
        command, start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, env={**os.environ, "FAKE_SLURM": str(folder)},
    )  # fmt: skip
    Scheduler(folder).change(job_id, session=node.pid)  # known before anybody may end the job


def run(here: Scheduler, job_id: str) -> None:
    """A job on its node."""
    while (here.folder / "hold").exists():
        time.sleep(0.05)
    here.change(job_id, state="RUNNING")
    variables = {
        "SLURM_JOB_ID": job_id, "SLURM_NTASKS": "1", "SLURM_JOB_NUM_NODES": "1",
        "SLURM_NODEID": "0", "SLURM_JOB_NODELIST": "localhost", "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0", "SLURM_JOB_END_TIME": str(int(time.time()) + 3600),
    }  # fmt: skip
    words = ["bash", here.job(job_id)["script"]]
    crash = here.happens("segfault")
    code = subprocess.run(
        ["bash", "-c", "kill -SEGV $$"] if crash else words,
        env={**os.environ, **variables},
        check=False,
    ).returncode
    state = "COMPLETED" if code == 0 or crash else "FAILED"
    here.change(job_id, state=here.job(job_id).get("verdict") or state)


def sbatch(here: Scheduler, words: list[str]) -> int:
    """Take a job, or not."""
    script = Path(words[-1])
    if here.happens("sbatch-refuse"):
        print("sbatch: error: invalid partition specified: nowhere", file=sys.stderr)
        return 1
    if here.happens("sbatch-lost"):
        print("sbatch: error: Unable to contact slurm controller", file=sys.stderr)
        return 1
    name = re.search(r"^#SBATCH --job-name=(.+)$", script.read_text(), re.MULTILINE)
    kept = script.with_name(f"{script.name}.taken")
    kept.write_text(script.read_text())
    with here.locked():
        job_id = str(max([int(job["id"]) for job in here.jobs()], default=0) + 1)
        here.change(
            job_id, id=job_id, name=name[1] if name else "", state="PENDING", reason="None",
            submitted=stamp(), script=str(kept),
        )  # fmt: skip
    start(here.folder, job_id)
    if here.happens("sbatch-kill"):
        os.kill(int(os.environ["FAKE_LAUNCHER"]), signal.SIGKILL)
    if here.happens("sbatch-timeout"):
        print(
            "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation",
            file=sys.stderr,
        )
        return 1
    print(f"Submitted batch job {job_id}")
    return 0


def squeue(here: Scheduler, words: list[str]) -> int:
    """What jobs do."""
    given = {key: value for key, _, value in (word.partition("=") for word in words)}
    if here.happens("squeue-down"):
        print("slurm_load_jobs error: Unable to contact slurm controller", file=sys.stderr)
        return 1
    if here.happens("squeue-empty"):
        return 0
    for job in here.jobs():
        wanted = given.get("--jobs", job["id"]).split(",")
        if job["id"] not in wanted or given.get("--name", job["name"]) != job["name"]:
            continue
        if job["state"] in OVER and (
            (here.folder / "hide").exists() or "--states=all" not in words
        ):
            continue
        line = re.sub(
            "%([a-zA-Z])", lambda m, j=job: str(j.get(LETTERS.get(m[1], ""), "")),  # type: ignore[misc]
            given.get("--format", "%i"),
        )  # fmt: skip
        print(line)
    return 0


def srun(words: list[str]) -> int:
    """Run one task, with its output where it belongs."""
    outputs: dict[str, Any] = {}
    while words[0].startswith("--"):
        option = words.pop(0)
        if option in ("--output", "--error"):
            path = words.pop(0).replace("%j", os.environ["SLURM_JOB_ID"]).replace("%t", "0")
            outputs[option] = open(path, "ab")  # noqa: SIM115 - for the life of the task
    return subprocess.run(
        words, stdout=outputs.get("--output"), stderr=outputs.get("--error"), check=False
    ).returncode


def main() -> int:
    """One of the commands."""
    here, command, words = Scheduler(Path(os.environ["FAKE_SLURM"])), sys.argv[1], sys.argv[2:]
    here.note(command)
    if command == "run":
        run(here, words[0])
    elif command == "sbatch":
        return sbatch(here, words)
    elif command == "squeue":
        return squeue(here, words)
    elif command == "srun":
        return srun(words)
    elif command == "scancel":
        here.end(words[-1], "CANCELLED")
    elif command == "scontrol" and words[0] == "requeue":
        if os.fork():
            return 0
        os.setsid()  # the job, which asks, is going to be killed
        here.requeue(words[1])
    return 0  # sacct: no accounting, as it is the case on many clusters


if __name__ == "__main__":
    sys.exit(main())
