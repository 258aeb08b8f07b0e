"""Ask about one picture: clicks, boxes and earlier masks in, masks at the picture's size out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from model.sam2 import SAM2
from model.types import ImageFeatures, Prompts
from pipeline.errors import DataError

LOGIT_LIMIT = 32.0
"""Low-resolution logits are handed out clamped to this, as the reference does; they may be given
back as they are."""


class MaskAnswer(NamedTuple):
    """Masks of N objects, M candidates each."""

    masks: Tensor
    """Bool [N, M, H, W] at the picture's size (logits above 0)."""
    ious: Tensor
    """[N, M], the network's own estimates."""
    low: Tensor
    """Logits [N, M, S/4, S/4] clamped to ±32, to be given back as `mask_input` ([N, 1, S/4,
    S/4])."""

    def best(self) -> MaskAnswer:
        """The candidate of each object with the highest estimated IoU (M becomes 1)."""
        row = torch.arange(len(self.ious), device=self.ious.device)
        pick = self.ious.argmax(1)
        return MaskAnswer(*(part[row, pick][:, None] for part in self))


class ImagePredictor:
    """Holds one picture at a time; every question is answered for N objects at once.

    Puts the model into eval mode.
    The picture is squeezed to the model's square input, as in training. `stability_fallback`: see
    `SAM2.decode`.
    """

    def __init__(self, model: SAM2, *, stability_fallback: bool = True) -> None:
        self.model = model.eval()
        self.stability_fallback = stability_fallback
        self._features: ImageFeatures | None = None
        self._seen: Tensor | None = None
        self._size = (0, 0)

    @torch.inference_mode()
    def set_image(self, image: np.ndarray | Tensor) -> None:
        """Encode a picture: uint8 [H, W, 3], RGB."""
        pixels = torch.as_tensor(image)
        if pixels.dtype != torch.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise DataError(
                f"set_image: found {pixels.dtype} {tuple(pixels.shape)}; "
                "expected uint8 [H, W, 3] in RGB"
            )
        self._size = (pixels.shape[0], pixels.shape[1])
        side = self.model.config.image_size
        planes = pixels.permute(2, 0, 1)[None].to(self.model.device).float()
        square = F.interpolate(
            planes, size=(side, side), mode="bilinear", align_corners=False, antialias=True
        )
        self._features = self.model.encode(self.model.normalise(square))
        self._seen = self.model.unconditioned(self._features)

    @torch.inference_mode()
    def logits(
        self,
        points: Tensor | np.ndarray | None = None,
        labels: Tensor | np.ndarray | None = None,
        boxes: Tensor | np.ndarray | None = None,
        mask_input: Tensor | None = None,
        *,
        multimask: bool = True,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Answer prompts for N objects: mask logits [N, M, H, W] at the picture's size, IoU
        estimates [N, M], low [N, M, S/4, S/4].

        points: [N, P, 2], x and y in pixels of the picture; labels: [N, P], 1 inside, 0 outside, -1
        padding (which the network notices: leave it out where all objects have as many points).
        boxes: [N, 4] as x0, y0, x1, y1. mask_input: [N, 1, S/4, S/4] from an earlier answer.
        multimask: three candidates instead of one.
        """
        if self._features is None or self._seen is None:
            raise DataError("no picture yet: call set_image before asking for masks")
        prompts = self._prompts(points, labels, boxes, mask_input)
        rows = torch.zeros(len(prompts.points), dtype=torch.long, device=self.model.device)
        answer = self.model.decode(
            self._seen.expand(len(rows), -1, -1, -1),
            self._features.rows(rows),
            prompts,
            multimask=multimask,
            stability_fallback=self.stability_fallback,
        )
        full = F.interpolate(
            answer.candidates.float(), size=self._size, mode="bilinear", align_corners=False
        )
        return full, answer.ious.float(), answer.candidates.float().clamp(-LOGIT_LIMIT, LOGIT_LIMIT)

    def predict(
        self,
        points: Tensor | np.ndarray | None = None,
        labels: Tensor | np.ndarray | None = None,
        boxes: Tensor | np.ndarray | None = None,
        mask_input: Tensor | None = None,
        *,
        multimask: bool = True,
    ) -> MaskAnswer:
        """As `logits`, but with bool masks."""
        full, ious, low = self.logits(points, labels, boxes, mask_input, multimask=multimask)
        return MaskAnswer(full > 0, ious, low)

    def _prompts(
        self,
        points: Tensor | np.ndarray | None,
        labels: Tensor | np.ndarray | None,
        boxes: Tensor | np.ndarray | None,
        mask_input: Tensor | None,
    ) -> Prompts:
        """Points and boxes (as two points, put first) in pixels of the model's input."""
        device = self.model.device
        parts, marks = [], []
        if boxes is not None:
            corners = torch.as_tensor(boxes, dtype=torch.float32, device=device).reshape(-1, 2, 2)
            parts.append(corners)
            marks.append(torch.tensor([2, 3], device=device).expand(len(corners), 2))
        if points is not None:
            if labels is None:
                raise DataError(
                    "points without labels: give one label per point, 1 inside or 0 outside"
                )
            parts.append(torch.as_tensor(points, dtype=torch.float32, device=device))
            marks.append(torch.as_tensor(labels, device=device).long())
        if not parts:
            count = 1 if mask_input is None else len(mask_input)
            parts = [torch.zeros(count, 0, 2, device=device)]
            marks = [torch.zeros(count, 0, dtype=torch.long, device=device)]
        shapes = [tuple(part.shape) for part in parts] + [tuple(mark.shape) for mark in marks]
        if any(p.ndim != 3 or p.shape[:2] != m.shape for p, m in zip(parts, marks, strict=True)):
            raise DataError(
                f"prompts of shapes {shapes}; "
                "expected points [N, P, 2], labels [N, P], boxes [N, 4]"
            )
        if len({len(part) for part in parts}) > 1:
            raise DataError(
                f"boxes for {len(parts[0])} objects but points for {len(parts[1])}; "
                "expected as many"
            )
        height, width = self._size
        scale = self.model.config.image_size / torch.tensor([width, height], device=device)
        mask = None if mask_input is None else mask_input.to(device)
        return Prompts(torch.cat(parts, 1) * scale, torch.cat(marks, 1).int(), mask)
