"""One colour a stage and one a failure, the same on every chart of a page.

They tell apart for the three common kinds of colour blindness and stand out from the light and the
dark card alike (a test holds both), so one SVG serves both themes.
"""

from __future__ import annotations

from collections.abc import Sequence

STAGES = {
    "untrained": "#7d8590",
    "image_pretrain": "#2f7fd1",
    "video_train": "#d9641e",
    "joint_train": "#12977a",
    "finetune": "#8742ef",
}
OTHERS = ("#8a7a1c", "#c4508e", "#5f79d8")
"""Stages of other names take these in turn."""
CARDS = {"light": "#ffffff", "dark": "#1a1f29"}
"""What charts stand on; as in report.css."""
FAILURES = {
    "never": "#d13b3b",
    "after_occlusion": "#d9641e",
    "in_view": "#b98a10",
    "elsewhere": "#b25bc4",
    "phantom": "#c4508e",
    "boundary": "#2f7fd1",
    "unsteady": "#7d8590",
    "fine": "#12977a",
}


def stage_colour(name: str, kind: str, names: Sequence[str]) -> str:
    """The colour of a stage by its kind; of the names of a page that have no known kind, by place."""
    if kind in STAGES or name in STAGES:
        return STAGES[name if name in STAGES else kind]
    return OTHERS[list(names).index(name) % len(OTHERS)]
