"""Semantic guidance."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .variant import Variant, computed, in_force, setting


@dataclass
class Sega(Variant):
    """Semantic guidance (arXiv 2301.12247) away from the negative; it keeps momentum from step to step.

    g is N with, per channel, only |g| at or above its `threshold` quantile over H*W, plus momentum * nu;
    nu <- beta nu + (1 - beta) g, also during warm-up. The result is u + w D - (w - 1) g from step `warmup` on and
    before `cooldown`, 0 being never. w - 1 is cfg's, where the paper has a scale of its own: one slider rules every
    variant.
    """

    name = "sega"
    subtracts = "the strongest values of each channel, in the steps you choose"
    stands_alone = True

    threshold: float = setting(
        0.9, "SEGA threshold",
        "For guidance sega: values below this quantile of their channel are not subtracted. 0.9 needs a higher CFG "
        "scale, about 15. 0 subtracts all values.",
        minimum=0.0, maximum=0.99, step=0.01, infotext="NegTrans SEGA threshold",
    )  # fmt: skip
    warmup: int = setting(
        1, "SEGA warm-up",
        "For guidance sega: how many steps pass before the negative is subtracted for the first time.",
        minimum=0, maximum=999, step=1, infotext="NegTrans SEGA warm-up",
    )  # fmt: skip
    cooldown: int = setting(
        0, "SEGA cool-down",
        "For guidance sega: from this step on, the negative is no longer subtracted. 0 subtracts it to the end.",
        minimum=0, maximum=999, step=1, infotext="NegTrans SEGA cool-down",
    )  # fmt: skip
    momentum: float = setting(
        0.1, "SEGA momentum",
        "For guidance sega: how much of the earlier steps' direction is added to that of each step.",
        minimum=0.0, maximum=1.0, step=0.05, infotext="NegTrans SEGA momentum",
    )  # fmt: skip
    beta: float = setting(
        0.4, "SEGA momentum decay",
        "For guidance sega: how slowly the direction of earlier steps is forgotten. A higher value remembers longer.",
        minimum=0.0, maximum=0.99, step=0.05, infotext="NegTrans SEGA momentum decay",
    )  # fmt: skip
    _nu: Tensor | None = field(default=None, init=False, repr=False, compare=False)

    def part_of(self, vector: Tensor, towards: Tensor, step: int) -> Tensor:
        g = vector
        if self.threshold > 0:
            magnitude = computed(g).abs().flatten(2)
            floor = magnitude.quantile(self.threshold, dim=2, keepdim=True)
            g = torch.where(magnitude >= floor, g.flatten(2), torch.zeros_like(g.flatten(2))).view_as(g)
        nu = torch.zeros_like(g) if self._nu is None else self._nu
        g = g + self.momentum * nu
        self._nu = self.beta * nu + (1 - self.beta) * g
        return g if in_force(step, self.warmup, self.cooldown) else torch.zeros_like(g)

    def kept(self) -> str:
        return f"using only the strongest {100 * (1 - self.threshold):g} % of each channel"
