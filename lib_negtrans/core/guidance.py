"""Guidance: how the predictions for the prompt and the negative prompt are combined. Pure functions on (B, C, H, W).

u is the prediction for the empty prompt, D = cond - u, N = negative - u, w the scale. With the negative prompt in the
place of u, cfg is u + w D - (w - 1) N; the variants put something of N there, so that each of them is cfg in a limit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

KINDS = ("cfg", "perp", "topk", "salience", "sega")


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
    `cool_down`. scale is not multiplied by w; None is cfg's w - 1, so that one slider rules every variant.
    """

    scale: float | None = None
    threshold: float = 0.9
    warm_up: int = 0
    cool_down: int | None = None
    momentum: float = 0.1
    beta: float = 0.4
    _nu: Tensor | None = None

    def __call__(self, uncond: Tensor, cond: Tensor, negative: Tensor, scale: float, step: int) -> Tensor:
        """The guided prediction of sampled step `step`, counted from 0."""
        g = -(scale - 1 if self.scale is None else self.scale) * (negative - uncond)
        if self.threshold > 0:
            magnitude = g.float().abs().flatten(2)
            floor = magnitude.quantile(self.threshold, dim=2, keepdim=True)
            g = torch.where(magnitude >= floor, g.flatten(2), torch.zeros_like(g.flatten(2))).view_as(g)
        nu = torch.zeros_like(g) if self._nu is None else self._nu
        g = g + self.momentum * nu
        self._nu = self.beta * nu + (1 - self.beta) * g
        active = step >= self.warm_up and (self.cool_down is None or step < self.cool_down)
        return cfg(uncond, cond, scale) + g if active else cfg(uncond, cond, scale)


class Guidance:
    """The guided prediction by the variant's name: a new object for each translation, for SEGA's momentum.

    kind: one of `KINDS`; topk_ratio is top-k's, sega SEGA's settings, rescale_amount in [0, 1] is put on any of them.
    Raises ValueError for another kind.
    """

    def __init__(
        self, kind: str = "cfg", *, topk_ratio: float = 0.05, sega: Sega | None = None, rescale_amount: float = 0.0
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f"guidance must be one of {', '.join(KINDS)}, not {kind!r}.")
        self.kind, self.topk_ratio, self.rescale_amount = kind, topk_ratio, rescale_amount
        self.sega = sega or Sega()

    @property
    def needs_unconditional(self) -> bool:
        """Whether the prediction for the empty prompt is asked for, beside those for the prompt and the negative."""
        return self.kind != "cfg"

    @property
    def is_plain(self) -> bool:
        """Whether this is classifier-free guidance and nothing else."""
        return self.kind == "cfg" and not self.rescale_amount

    def __call__(self, uncond: Tensor | None, cond: Tensor, negative: Tensor, scale: float, step: int) -> Tensor:
        """Combine predictions (B, C, H, W) of sampled step `step`, counted from 0; cfg leaves uncond unread.

        At scale 1 every variant is cond.
        """
        if scale == 1:
            return cond
        if self.kind == "cfg":
            guided = cfg(negative, cond, scale)
        elif self.kind == "perp":
            guided = perp(uncond, cond, negative, scale)
        elif self.kind == "topk":
            guided = top_k(uncond, cond, negative, scale, self.topk_ratio)
        elif self.kind == "salience":
            guided = salience(uncond, cond, negative, scale)
        else:
            guided = self.sega(uncond, cond, negative, scale, step)
        return rescale(guided, cond, self.rescale_amount) if self.rescale_amount else guided
