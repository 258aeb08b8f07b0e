"""A stage that is stopped and continued, with other data workers, ends as one that was not, bit for
bit: on one rank and on two, in the middle of an accumulated step, where a validation is due, with
averaged weights and fp16's loss scale."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline import checkpoint
from pipeline.launch import launch
from pipeline.settings import LaunchConfig
from pipeline.stop import StopRequested, reset_stop
from stages.contract import StageResult, StageSpec, read_result, write_spec
from tests.pipeline.test_exact_resume import same
from tests.stages import resume_jobs
from tests.stages.conftest import Workshop
from tests.stages.test_validation import validated
from tests.zygote import Zygote, forked_jobs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
LAST = 4
VALIDATIONS = "validation/video/jf"


class Run:
    """One stage in one folder, continued as often as wanted."""

    def __init__(self, workshop: Workshop, given: StageResult, place: str, ranks: int) -> None:
        self.workshop, self.given, self.place, self.ranks = workshop, given, place, ranks

    def spec(self, workers: int) -> StageSpec:
        settings = validated(self.workshop, max_images=1, max_videos=1)
        stage = settings["stage"]
        stage |= {"workers": workers, "precision": "fp16"}
        stage["loop"] |= {"accumulate": 2, "log_every": 1}
        stage["optim"]["average"] = 0.9
        return self.workshop.spec(
            "video_train", self.given.checkpoint, place=self.place, experiment="others", **settings
        )

    def go_on(self, workers: int, stop_at: int | None = None) -> None:
        """stop_at: the batch during which the last rank is asked to stop."""
        reset_stop()
        spec = self.spec(workers)
        plan = Path(spec.folder) / "plan.json"
        path = write_spec(spec)
        plan.write_text(json.dumps({"spec": str(path), "batch": stop_at}))
        if self.ranks == 1:
            resume_jobs.run(str(plan))
            return
        config = LaunchConfig(tasks_per_node=self.ranks, threads=1, poll_seconds=0.1)
        launch(resume_jobs.run, str(plan), Path(spec.folder) / "job", config, name=self.place)

    def end(self, workers: int) -> tuple[dict[str, Any], str, list[Any]]:
        """The last checkpoint, the digest of the weights handed over, what validations found."""
        spec = self.spec(workers)
        result = read_result(spec.folder, spec.key)
        assert result is not None
        folder = Path(spec.folder)
        values = checkpoint.read(folder / "checkpoints" / checkpoint.file_name(LAST))
        files = folder.rglob("metrics.jsonl")  # other settings of workers have their own
        rows = [json.loads(row) for file in files for row in file.read_text().splitlines()]
        measured = [(row["step"], row["values"]) for row in rows]
        found = {step: found[VALIDATIONS] for step, found in measured if VALIDATIONS in found}
        return values, result.digest, sorted(found.items())


@pytest.mark.parametrize("ranks", [1, 2])
def test_stopped_and_continued(
    workshop: Workshop, pretrained: StageResult, ranks: int, zygote: Zygote
) -> None:
    with forked_jobs(zygote):
        compare(workshop, pretrained, ranks)


def compare(workshop: Workshop, pretrained: StageResult, ranks: int) -> None:
    straight = Run(workshop, pretrained, f"straight-{ranks}", ranks)
    straight.go_on(workers=0)

    stopped = Run(workshop, pretrained, f"stopped-{ranks}", ranks)
    with pytest.raises(StopRequested, match="saved at step 2"):
        stopped.go_on(workers=2, stop_at=2)  # the first batch of a step after which is validated
    with pytest.raises(StopRequested, match="saved at step 3"):
        stopped.go_on(workers=0, stop_at=5)
    stopped.go_on(workers=1)

    values, digest, found = stopped.end(workers=1)
    expected, expected_digest, expected_found = straight.end(workers=0)
    assert expected["scale"]["good"] == LAST and expected["average"]
    assert same(values, expected)
    assert digest == expected_digest
    assert [step for step, _ in found] == [0, 2, LAST] and found == expected_found
