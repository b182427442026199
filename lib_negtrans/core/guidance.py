"""Guidance: how the predictions for the prompt and the negative prompt are combined. Pure functions on (B, C, H, W).

u is the prediction for the empty prompt, D = cond - u, N = negative - u, w the scale. With the negative prompt in the
place of u, cfg is u + w D - (w - 1) N; the variants put something of N there, so that each of them is cfg in a limit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


def cfg(uncond: Tensor, cond: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance u + w (c - u) (arXiv 2207.12598); with a negative prompt, u is its prediction."""
    return uncond + scale * (cond - uncond)


def _push_away(uncond: Tensor, cond: Tensor, kept_negative: Tensor, scale: float) -> Tensor:
    return uncond + scale * (cond - uncond) - (scale - 1) * kept_negative


def perpendicular(vector: Tensor, direction: Tensor) -> Tensor:
    """The part of `vector` perpendicular to `direction`, inner products over C*H*W per picture, in float32.

    Where the direction is zero, or so small that its norm means nothing, the vector stays as it is.
    """
    v, d = vector.float(), direction.float()
    norm = d.flatten(1).norm(dim=1).view(-1, *[1] * (d.ndim - 1))
    # the unit vector, not the squared norm, which underflows
    unit = d / norm.clamp_min(torch.finfo(torch.float32).tiny)
    along = (v * unit).flatten(1).sum(1).view_as(norm)
    significant = norm > 1e-6 * v.flatten(1).norm(dim=1).view_as(norm)
    return torch.where(significant & (norm > 0), v - along * unit, v).to(vector.dtype)


def perp(uncond: Tensor, cond: Tensor, negative: Tensor, scale: float) -> Tensor:
    """Perp-Neg (arXiv 2304.04968): only the part of N perpendicular to D, so that it never undoes the prompt."""
    return _push_away(uncond, cond, perpendicular(negative - uncond, cond - uncond), scale)


def keep_largest(vector: Tensor, ratio: float) -> Tensor:
    """The round(ratio * C*H*W) values of largest magnitude per picture, over all channels jointly; the rest is zero.

    ratio in [0, 1]: 0 keeps nothing, 1 everything. Raises ValueError.
    """
    if not 0.0 <= ratio <= 1.0:
        raise ValueError(f"the ratio of values to keep must lie between 0 and 1, not {ratio:g}.")
    flat = vector.flatten(1)
    count = round(ratio * flat.shape[1])
    if count == flat.shape[1]:
        return vector
    # topk rather than a threshold: exactly `count` values, ties included, and it exists for half precision
    indices = flat.float().abs().topk(count, dim=1).indices
    return torch.zeros_like(flat).scatter(1, indices, flat.gather(1, indices)).view_as(vector)


def top_k(uncond: Tensor, cond: Tensor, negative: Tensor, scale: float, ratio: float) -> Tensor:
    """Only the `ratio` largest values of N (neutral-prompt's AND_TOPK, its 5 % a parameter): less drift elsewhere."""
    return _push_away(uncond, cond, keep_largest(negative - uncond, ratio), scale)


def salience(uncond: Tensor, cond: Tensor, negative: Tensor, scale: float) -> Tensor:
    """Winner takes all: where |N| is more salient than |D|, -(w - 1)(N - D) is added (neutral-prompt's AND_SALT).

    The salience of a map is softmax(|map|) over H*W, per channel.
    """
    towards, away = cond - uncond, negative - uncond

    def weight(vector: Tensor) -> Tensor:
        return vector.float().abs().flatten(2).softmax(dim=2).view_as(vector)

    wins = weight(away) > weight(towards)
    return cfg(uncond, cond, scale) - (scale - 1) * torch.where(wins, away - towards, torch.zeros_like(away))


def rescale(guided: Tensor, cond: Tensor, amount: float) -> Tensor:
    """Bring the guided prediction's deviation per picture back towards cond's (arXiv 2305.08891, eq. 15-16)."""
    dims = tuple(range(1, guided.ndim))
    scaled = guided * (cond.std(dim=dims, keepdim=True) / guided.std(dim=dims, keepdim=True).clamp_min(1e-12))
    return amount * scaled + (1 - amount) * guided


@dataclass
class Sega:
    """Semantic guidance (arXiv 2301.12247) away from the negative: one object per picture batch, it keeps momentum.

    g = -scale N with, per channel, only |g| at or above its `threshold` quantile over H*W, plus momentum * nu;
    nu <- beta nu + (1 - beta) g, also during warm-up. The result is u + w D + g from step `warm_up` on and before
    `cool_down`. In the place of cfg's w - 1 stands `scale`, which is not multiplied by w.
    """

    scale: float = 6.5
    threshold: float = 0.9
    warm_up: int = 0
    cool_down: int | None = None
    momentum: float = 0.1
    beta: float = 0.4
    _nu: Tensor | None = None

    def __call__(self, uncond: Tensor, cond: Tensor, negative: Tensor, scale: float, step: int) -> Tensor:
        """The guided prediction of sampled step `step`, counted from 0."""
        g = -self.scale * (negative - uncond)
        if self.threshold > 0:
            magnitude = g.float().abs().flatten(2)
            floor = magnitude.quantile(self.threshold, dim=2, keepdim=True)
            g = torch.where(magnitude >= floor, g.flatten(2), torch.zeros_like(g.flatten(2))).view_as(g)
        nu = torch.zeros_like(g) if self._nu is None else self._nu
        g = g + self.momentum * nu
        self._nu = self.beta * nu + (1 - self.beta) * g
        active = step >= self.warm_up and (self.cool_down is None or step < self.cool_down)
        return cfg(uncond, cond, scale) + g if active else cfg(uncond, cond, scale)


# (u, cond, negative, scale, step) -> guided prediction
Combine = Callable[[Tensor, Tensor, Tensor, float, int], Tensor]
