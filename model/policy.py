"""How training prompts and what it is scored by: settings only, so that a recipe can be read
without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pipeline.errors import ConfigError

PromptKind = Literal["mask", "click", "box"]
ClickPosition = Literal["uniform", "centre"]


@dataclass(frozen=True, kw_only=True)
class PromptPolicy:
    """The user that training simulates: with what the objects are pointed out, and how answers are
    corrected.

    Each step draws one plan from it (`model.prompts.plan_prompts`), the same for all objects of the
    step. Defaults: the SAM 2 paper's video training (mask 50 %, click 25 %, box 25 %; up to two
    prompted frames).
    """

    mask: float = 0.5
    """Probability of prompting with the true mask. In a clip it is taken over as the answer; in a
    picture, where that would teach nothing, it goes through the prompt encoder."""
    click: float = 0.25
    """Probability of prompting with one click."""
    box: float = 0.25
    """Probability of prompting with a (jittered) box."""
    initial_frames: int = 2
    """Frames prompted before tracking starts: the first one, and others drawn at random."""
    vary_initial_frames: bool = True
    """Draw the number of initial frames from 1..initial_frames each step."""
    corrected_frames: int = 2
    """Frames whose answer is corrected by clicks (never after mask prompts in a clip)."""
    vary_corrected_frames: bool = True
    """Draw the number of corrected frames each step, up to corrected_frames."""
    correction_clicks: int = 7
    """Clicks on each corrected frame; 0 corrects nothing."""
    click_on_object: float = 0.1
    """Probability that a correction click falls anywhere on the object rather than where the answer
    is wrong."""
    click_position: ClickPosition = "uniform"
    """Where in a wrong region to click: anywhere, or (evaluation) at its centre."""
    corrected_condition: bool = True
    """A corrected frame counts as prompted (conditioning) for the frames after it."""
    box_jitter: float = 0.1
    """A box corner moves by up to this fraction of the side (at most 20 pixels)."""

    def __post_init__(self) -> None:
        for name in ("mask", "click", "box", "click_on_object", "box_jitter"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ConfigError(f"prompts.{name} is {value}; expected a number from 0 to 1")
        total = self.mask + self.click + self.box
        if not math.isclose(total, 1, abs_tol=1e-6):
            raise ConfigError(
                f"prompts.mask + prompts.click + prompts.box is {total:g} "
                f"({self.mask:g} + {self.click:g} + {self.box:g}); expected 1"
            )
        for name, least in (
            ("initial_frames", 1),
            ("corrected_frames", 0),
            ("correction_clicks", 0),
        ):
            value = getattr(self, name)
            if value < least:
                raise ConfigError(f"prompts.{name} is {value}; expected at least {least}")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the parts of the loss. Defaults: the released SAM 2.1 training (focal 20, the rest
    1)."""

    focal: float = 20.0
    dice: float = 1.0
    iou: float = 1.0
    """Error of the decoder's own IoU estimates."""
    object: float = 1.0
    """Is the object in this frame?"""
    temporal: float = 0.0
    """Mean squared change of the mask probability between neighbouring frames (an addition of ours,
    not of SAM 2)."""
    iou_error: Literal["l1", "mse"] = "l1"
    iou_of_all_candidates: bool = True
    """Judge the IoU estimate of every candidate mask, not only of the best one."""

    def __post_init__(self) -> None:
        for name in ("focal", "dice", "iou", "object", "temporal"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"loss.{name} is {value}; expected a finite weight of at least 0")


@dataclass(frozen=True, kw_only=True)
class MemorySavings:
    """Time for memory: what is computed again on the way back, and what is not computed all at
    once. Losses and gradients stay the same up to rounding; with dropout, other draws."""

    recompute: tuple[Literal["trunk", "memory", "decoder"], ...] = ()
    """Parts whose activations are computed again instead of being kept: blocks of the image
    encoder's trunk, layers of the memory attention with the memory encoder, the mask decoder."""
    frames_at_once: int | None = None
    """Frames (of all clips) in the image encoder together; None takes all. Saves with `trunk`."""
    objects_at_once: int | None = None
    """Objects that are tracked and judged together; None takes all. What one group needs is given
    up before the next begins, and computed again on the way back."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "recompute", tuple(self.recompute))
        for name in ("frames_at_once", "objects_at_once"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"memory.{name} is {value}; expected 1 or more, or none")


@dataclass(frozen=True, kw_only=True)
class LoRAConfig:
    """Low-rank adaptation of linear layers (`model.lora`); everything else follows `freeze`."""

    rank: int = 8
    alpha: float = 16.0
    """The change counts alpha / rank times."""
    layers: tuple[str, ...] = (
        "*.attn.qkv",
        "*.attn.proj",
        "*.q_proj",
        "*.k_proj",
        "*.v_proj",
        "*.out_proj",
    )
    """Globs over the names of linear layers; by default all attention projections."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        if self.rank < 1 or not (math.isfinite(self.alpha) and self.alpha > 0) or not self.layers:
            raise ConfigError(
                f"lora: rank is {self.rank}, alpha {self.alpha}, layers {list(self.layers)}; "
                "expected a rank of 1 or more, a positive alpha and at least one pattern"
            )
