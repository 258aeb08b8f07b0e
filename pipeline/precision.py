"""Loss scaling for fp16: gradients below fp16's range are lifted into it, and brought back in fp32.

Source: Micikevicius et al., Mixed Precision Training, section 3.2. Scale and counter stay on the
device, so that nothing waits for it; bf16 and fp32 need none of this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

START, LARGEST = 2.0**16, 2.0**24
PATIENCE = 2000
"""Good steps in a row after which the scale is doubled."""


class LossScale:
    """The factor on the loss: halved by a step that overflows, doubled after PATIENCE good ones."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.factor = torch.tensor(START, device=device)
        self.good = torch.zeros((), device=device)
        """Good steps since the factor last changed."""

    @property
    def exhausted(self) -> Tensor:
        """Bool scalar: the factor is 1, so that a further overflow is none of its doing."""
        return self.factor <= 1

    def unscale(self, gradients: Sequence[Tensor]) -> None:
        """Divide the gradients by the factor, in place."""
        if gradients:
            torch._foreach_mul_(list(gradients), self.factor.reciprocal())

    def update(self, bad: Tensor) -> None:
        """After a step; bad: scalar, above 0 where it was left out."""
        left_out = bad > 0
        good = torch.where(left_out, 0.0, self.good + 1)
        grown = good >= PATIENCE
        factor = torch.where(left_out, self.factor / 2, self.factor)
        self.factor = torch.where(grown, factor * 2, factor).clamp(1.0, LARGEST)
        self.good = torch.where(grown, 0.0, good)

    def state_dict(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {"factor": float(self.factor), "good": float(self.good)}

    def load_state_dict(self, values: Mapping[str, float]) -> None:
        """Continue from `values`."""
        self.factor.fill_(values["factor"])
        self.good.fill_(values["good"])
