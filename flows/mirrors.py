"""What stages that are done could not copy to the mirror of their checkpoints."""

from __future__ import annotations

import logging
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.mirror import NOTE, catch_up

logger = logging.getLogger(__name__)


def complete_mirrors(folder: Path) -> tuple[int, int]:
    """Let the mirrors of a stage's folder, or of all stages of a run's, have what they lack; (those
    completed, those that still lack something).

    A stage that is not done copies by itself, and is left alone.
    """
    completed = lacking = 0
    for note in sorted(
        [*folder.glob(f"checkpoints/{NOTE}"), *folder.glob(f"*/checkpoints/{NOTE}")]
    ):
        stage = note.parents[1]
        if not (stage / "done.json").is_file():
            continue
        try:
            completed += catch_up(note.parent)
        except PipelineError as error:
            lacking += 1
            logger.warning(
                "the mirror lacks checkpoints of %s: %s. The same run, or `sam2-pipeline sync`, "
                "copies them", stage.name, error,
            )  # fmt: skip
    return completed, lacking
