"""An evaluation that is interrupted ends by itself, and gives the same figures when it is run again."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.failure import read_ended
from pipeline.launch import launch
from pipeline.progress import Progress
from pipeline.settings import LaunchConfig
from tests.faults import work


@pytest.mark.slow
@pytest.mark.timeout(60, func_only=True)
def test_ctrl_c_in_an_evaluation(tmp_path: Path) -> None:
    config = LaunchConfig(threads=1, poll_seconds=0.02, tasks_per_node=2)

    def run(name: str, interrupt: bool = False) -> list[int]:
        folder = tmp_path / name

        def poll(progress: Progress | None) -> None:
            if interrupt and (folder / "at-work").exists():
                raise KeyboardInterrupt

        given = {"folder": str(folder)}
        return launch(work.evaluate, given, folder, config, name="evaluation", on_poll=poll)

    straight = run("straight")
    assert len(straight) == 8 and any(straight)
    with pytest.raises(KeyboardInterrupt):
        run("other", interrupt=True)
    ended = read_ended(tmp_path / "other")
    assert ended is not None and (ended.kind, ended.reason) == ("stopped", "asked to stop")
    assert run("other") == straight
