"""Semantic guidance."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .variant import Variant, cfg, computed, setting


@dataclass
class Sega(Variant):
    """Semantic guidance (arXiv 2301.12247) away from the negative; it keeps momentum from step to step.

    g = -(w - 1) N with, per channel, only |g| at or above its `threshold` quantile over H*W, plus momentum * nu;
    nu <- beta nu + (1 - beta) g, also during warm-up. The result is u + w D + g from step `warmup` on and before
    `cooldown`, 0 being never. w - 1 is cfg's, where the paper has a scale of its own: one slider rules every variant.
    """

    name = "sega"
    subtracts = "each channel's strongest, in chosen steps"

    threshold: float = setting(
        0.9, "SEGA threshold",
        "Guidance sega: values below this quantile of their channel stay. 0.9 likes CFG scale 15; 0 subtracts all.",
        minimum=0.0, maximum=0.99, step=0.01, infotext="NegTrans SEGA threshold",
    )  # fmt: skip
    warmup: int = setting(
        1, "SEGA warm-up", "Guidance sega: steps before the negative is first subtracted.",
        minimum=0, maximum=999, step=1, infotext="NegTrans SEGA warm-up",
    )  # fmt: skip
    cooldown: int = setting(
        0, "SEGA cool-down", "Guidance sega: the step from which the negative is no longer subtracted; 0 is never.",
        minimum=0, maximum=999, step=1, infotext="NegTrans SEGA cool-down",
    )  # fmt: skip
    momentum: float = setting(
        0.1, "SEGA momentum", "Guidance sega: share of the earlier steps' direction that is added to each step's.",
        minimum=0.0, maximum=1.0, step=0.05, infotext="NegTrans SEGA momentum",
    )  # fmt: skip
    beta: float = setting(
        0.4, "SEGA momentum decay", "Guidance sega: how slowly the earlier steps' direction is forgotten.",
        minimum=0.0, maximum=0.99, step=0.05, infotext="NegTrans SEGA momentum decay",
    )  # fmt: skip
    _nu: Tensor | None = field(default=None, init=False, repr=False)

    def __call__(self, empty: Tensor, cond: Tensor, negative: Tensor, scale: float, step: int) -> Tensor:
        g = -(scale - 1) * (negative - empty)
        if self.threshold > 0:
            magnitude = computed(g).abs().flatten(2)
            floor = magnitude.quantile(self.threshold, dim=2, keepdim=True)
            g = torch.where(magnitude >= floor, g.flatten(2), torch.zeros_like(g.flatten(2))).view_as(g)
        nu = torch.zeros_like(g) if self._nu is None else self._nu
        g = g + self.momentum * nu
        self._nu = self.beta * nu + (1 - self.beta) * g
        active = step >= self.warmup and (not self.cooldown or step < self.cooldown)
        return cfg(empty, cond, scale) + g if active else cfg(empty, cond, scale)

    def kept(self) -> str:
        return f"the strongest {100 * (1 - self.threshold):g} % of each channel only"
