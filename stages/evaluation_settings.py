"""What else a checkpoint is measured by, as values of a recipe. Importing this file loads no torch.

Each protocol has its settings here, told apart by `kind`, and a module that
`stages.evaluation.protocols` finds by the same word.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ZipStyle = Literal["mose", "youtube-vos"]


@dataclass(frozen=True, kw_only=True)
class VosMeasurement:
    """Masks of all videos of a data set, from the first mask of each object, as files: scored where
    the data set holds more truth than it shows, and packed for the server that holds the rest."""

    kind: Literal["vos"]
    dataset: str
    """Name from `datasets` of the recipe, in the layout of DAVIS, MOSE, LVOS, YouTube-VOS or SA-V."""
    zip: ZipStyle | None = None
    """As a server wants the masks: `mose` (and DAVIS test-dev), `youtube-vos`; none packs
    nothing."""
    show_late: bool | None = None
    """Show objects where they first appear, however late; none: as is the custom of the data set."""
    late_objects: Literal["sav", "davis"] = "sav"
    """Whether objects count from their first sight on, or on every frame."""
    skip_first_and_last: bool = True
    """Do not score the first and the last annotated frame."""


Measurement = VosMeasurement
"""Any of them; a new one joins with `|`."""
