"""The settings in docs/training.md are settings."""

import re
from pathlib import Path

import pytest
import yaml

from pipeline.config import parse
from stages.settings import TrainStage

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_settings(block: str) -> None:
    needed = {"kind": "finetune", "datasets": ["clips"], "steps": 10, "optim": {"lr": 1e-4}}
    parse(TrainStage, needed | yaml.safe_load(block), where="stages.NAME")
