"""The timestep grid, its alphas, and the one DDIM step that runs inversion and sampling alike.

Notation: abar = alphas_cumprod, a = sqrt(abar), s = sqrt(1 - abar). A *position* counts grid levels from the clean end:
position 0 is the clean latent (abar_0 of the training schedule, diffusers' `set_alpha_to_one=False`), position k is
timestep tau_{k-1} of the ascending grid, position n the noisiest level in use.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

TRAIN_STEPS = 1000


def sd1_alphas_cumprod(start: float = 0.00085, end: float = 0.012) -> Tensor:
    """SD1's schedule, linear in sqrt(beta), which ldm calls "linear" and diffusers "scaled linear": (1000,) float64."""
    betas = torch.linspace(start**0.5, end**0.5, TRAIN_STEPS, dtype=torch.float64) ** 2
    return torch.cumprod(1.0 - betas, dim=0)


def strength_steps(steps: int, strength: float) -> int:
    """How many of `steps` grid points a strength in (0, 1] uses: min(int(steps * strength), steps), as diffusers.

    Raises ValueError when that is none.
    """
    if not 0.0 < strength <= 1.0:
        raise ValueError(f"strength must be above 0 and at most 1, not {strength:g}.")
    used = min(int(steps * strength), steps)
    if used < 1:
        enough = math.ceil(1000 / steps) / 1000  # rounded up: a third of a step too little is no step
        raise ValueError(
            f"strength {strength:g} with {steps} steps leaves no step to take: "
            f"use at least {math.ceil(1 / strength)} steps or a strength of at least {enough:g}."
        )
    return used


def timestep_grid(steps: int, strength: float = 1.0) -> tuple[int, ...]:
    """The ascending timesteps that a strength uses: tau_i = 1 + i * floor(1000 / steps), "leading" spacing.

    steps in 1..999, strength in (0, 1]. 50 steps at strength .3 give (1, 21, .., 281). Raises ValueError.
    """
    if not 1 <= steps < TRAIN_STEPS:
        raise ValueError(f"steps must lie between 1 and {TRAIN_STEPS - 1}, not {steps}.")
    spacing = TRAIN_STEPS // steps
    return tuple(1 + i * spacing for i in range(strength_steps(steps, strength)))


def spaced(highest: int, count: int, through: int = 0) -> tuple[int, ...]:
    """`count` ascending timesteps of 1..highest, as even in (s/a)^(2/3) as they can be; `highest` is among them.

    That spacing, between even in s/a (too coarse near the clean end) and even in its square root, keeps most decibels
    from a fine grid (`benchmarks/translate.py --fidelity --curve`). through: another timestep that is among them, where
    something changes on the way (with two or more); 0 for none. Raises ValueError for more than there are.
    """
    if not 1 <= count <= highest:
        raise ValueError(f"{count} timesteps cannot be taken of {highest}.")
    levels = [((1.0 - abar) / abar) ** (1 / 3) for abar in sd1_alphas_cumprod()[: highest + 1].tolist()]  # (s/a)^(2/3)
    if not 0 < through < highest or count < 2:
        return _even(levels, 0, highest, count)
    below = round(count * (levels[through] - levels[0]) / (levels[highest] - levels[0]))
    below = min(max(below, 1, count - (highest - through)), through, count - 1)
    return _even(levels, 0, through, below) + _even(levels, through, highest, count - below)


def _even(levels: list[float], low: int, high: int, count: int) -> tuple[int, ...]:
    """`count` of low+1..high, high among them: each in turn, from the highest on, the free one nearest to its level."""
    free, taken = list(range(low + 1, high + 1)), []
    for number in range(count, 0, -1):
        wanted = levels[low] + (levels[high] - levels[low]) * number / count
        taken.append(min(free, key=lambda timestep: abs(levels[timestep] - wanted)))
        free.remove(taken[-1])
    return tuple(sorted(taken))


@dataclass(frozen=True)
class Schedule:
    """One grid with its alphas, used by both directions.

    alphas_cumprod: (1000,) any float dtype; timesteps ascending; prediction_type "epsilon" or "v_prediction".
    Coefficients are computed in float64 and applied in the latent's own dtype.
    """

    alphas_cumprod: Tensor
    timesteps: tuple[int, ...]
    prediction_type: str = "epsilon"

    def __post_init__(self) -> None:
        if self.prediction_type not in ("epsilon", "v_prediction"):
            raise ValueError(f"prediction_type must be epsilon or v_prediction, not {self.prediction_type!r}.")
        if not self.timesteps or any(b <= a for a, b in zip(self.timesteps, self.timesteps[1:], strict=False)):
            raise ValueError("timesteps must be ascending and not empty.")
        if self.timesteps[0] < 0 or self.timesteps[-1] >= len(self.alphas_cumprod):
            raise ValueError(f"timesteps must lie in 0..{len(self.alphas_cumprod) - 1}.")

    @classmethod
    def from_strength(
        cls, alphas_cumprod: Tensor, steps: int, strength: float, prediction_type: str = "epsilon"
    ) -> Schedule:
        """The grid of `steps` points cut to `strength` (see `timestep_grid`)."""
        return cls(alphas_cumprod, timestep_grid(steps, strength), prediction_type)

    def __len__(self) -> int:
        return len(self.timesteps)

    def timestep(self, position: int) -> int:
        """The timestep of position 1..n. Position 0 is the clean end and has none: IndexError."""
        if not 1 <= position <= len(self.timesteps):
            raise IndexError(f"position {position} has no timestep (1..{len(self.timesteps)} have).")
        return self.timesteps[position - 1]

    def level_timestep(self, position: int) -> int:
        """The timestep whose noise level a position 0..n has: 0 at the clean end."""
        return 0 if position == 0 else self.timestep(position)

    def alpha_bar(self, position: int) -> float:
        """abar at a position 0..n."""
        return float(self.alphas_cumprod[self.level_timestep(position)])

    def scales(self, position: int) -> tuple[float, float]:
        """(a, s) = (sqrt(abar), sqrt(1 - abar)) at a position."""
        abar = self.alpha_bar(position)
        return math.sqrt(abar), math.sqrt(1.0 - abar)

    def sigma(self, position: int) -> float:
        """s/a at a position: the noise prediction is the slope of z/a over it (arXiv 2010.02502, eq. 14)."""
        a, s = self.scales(position)
        return s / a

    def epsilon(self, latent: Tensor, output: Tensor, position: int) -> Tensor:
        """The noise prediction from a model output at a position: eps = a v + s z for v-models (arXiv 2202.00512)."""
        if self.prediction_type == "epsilon":
            return output
        a, s = self.scales(position)
        return a * output + s * latent

    def clean(self, latent: Tensor, epsilon: Tensor, position: int) -> Tensor:
        """The prediction of the clean latent: (z - s eps) / a."""
        a, s = self.scales(position)
        return (latent - s * epsilon) / a

    def move(self, latent: Tensor, epsilon: Tensor, source: int, target: int) -> Tensor:
        """phi(z, eps; source -> target) = a_p (z - s_t eps)/a_t + s_p eps: DDIM, eta 0 (arXiv 2010.02502, eq. 12).

        Up the grid (target > source) it inverts, down the grid it samples.
        """
        # one coefficient each: dividing by a small a first would magnify rounding errors and multiply them back
        ratio = self.scales(target)[0] / self.scales(source)[0]
        return ratio * latent + self.noise_factor(source, target) * epsilon

    def noise_factor(self, source: int, target: int) -> float:
        """phi's coefficient of eps, positive up the grid."""
        (a, s), (a_source, s_source) = self.scales(target), self.scales(source)
        return s - a / a_source * s_source

    def add_noise(self, latent: Tensor, noise: Tensor, position: int) -> Tensor:
        """The forward process: a z0 + s noise."""
        a, s = self.scales(position)
        return a * latent + s * noise
