"""Settings of the data wing that change what a training step gets: the network takes them."""

from pathlib import Path

from pipeline.progress import read_progress
from stages.contract import StageResult
from tests.stages.conftest import Workshop


def test_clips_grow_in_the_middle_and_objects_come_late(
    workshop: Workshop, pretrained: StageResult
):
    """Three frames, then four; objects that are not on the first frame; each frame flipped alone."""
    stage = dict(workshop.planned["video_train"].settings["stage"])
    stage["sampling"] = {
        "frames": 3,
        "visible": "anywhere",
        "phases": [{"from_step": 2, "frames": 4, "max_objects": 2}],
    }
    stage["augment"] = {"flip": 0.5, "rotate": 20, "each_frame": ["flip"], "exact": True}
    spec = workshop.spec("video_train", pretrained.checkpoint, place="growing", stage=stage)
    result = workshop.run(spec)
    assert result.metrics["skipped"] == 0
    progress = read_progress(Path(spec.folder))
    assert progress is not None and progress.loss is not None and 0 < progress.loss < 100
