"""How a video predictor works: what changes its numbers first, then what may change their rounding,
then what a machine can afford."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from model.memory_choice import MemoryWindow


@dataclass(frozen=True, kw_only=True)
class VideoSettings:
    """The defaults are those of the published evaluation, except that corrections last."""

    window: MemoryWindow = field(default_factory=lambda: MemoryWindow(future_pointers=False))
    """How far memory reaches. Its direction is that of the propagation."""
    exclusive: bool = False
    """Each pixel belongs to at most one object in what is handed out; what is remembered stays as
    it was answered."""
    lasting_corrections: bool = True
    """A tracked frame that is corrected becomes a conditioning frame. Otherwise it stays a tracked
    one, and a propagation that passes over it answers it anew, without the correction."""
    stability_fallback: bool = True
    """See `SAM2.decode`."""
    binary_prompts: bool = False
    """Remember the masks of prompted frames as black and white; otherwise as probabilities."""
    fill_hole_area: int = 0
    """Fill holes of up to this many cells of the low-resolution masks (a cell is S/256 pixels of
    the model's input wide at S = 1024)."""
    forget_around_prompts: bool = False
    """Forget what was tracked on the frames around a prompted one, which may be out of date."""
    anticipate: bool = False
    """On frames that lie before all that is known of an object, guess it from what lies ahead;
    otherwise it is absent there."""
    frames_at_once: int = 4
    """Frames encoded together, ahead of tracking."""
    objects_at_once: int = 16
    """Objects that are one batch at most."""
    offload: bool = False
    """Keep what a session remembers in RAM when the model is on a GPU."""
    memory_budget: int = 1 << 30
    """Bytes of memory for what a session remembers; the rest goes to a temporary file."""
    spill_folder: Path | None = None
    """Where that file lies; None takes the system's place for temporary files."""
    feature_budget: int = 0
    """Bytes of memory, on the model's device, for features of frames that a session keeps until it is
    closed, so that going through the video again does not encode them again: about 18 MB a frame at
    S = 1024. Besides, it keeps those it looked at last."""
