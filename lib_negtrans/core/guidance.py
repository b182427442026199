"""Guidance: how the conditional and the unconditional prediction are combined. Pure functions."""

from __future__ import annotations

from torch import Tensor


def cfg(uncond: Tensor, cond: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance u + w (c - u) (arXiv 2207.12598); with a negative prompt, u is its prediction."""
    return uncond + scale * (cond - uncond)
