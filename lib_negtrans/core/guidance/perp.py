"""Perp-Neg."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .variant import Variant, computed, length


@dataclass
class Perp(Variant):
    """Perp-Neg (arXiv 2304.04968): only the part of N perpendicular to D, so that it never undoes the prompt."""

    name = "perp"
    subtracts = "what does not work against the prompt"

    def part_of(self, vector: Tensor, towards: Tensor, step: int) -> Tensor:
        return perpendicular(vector, towards)

    def kept(self) -> str:
        return "without what works against the prompt"


def perpendicular(vector: Tensor, direction: Tensor) -> Tensor:
    """The part of `vector` perpendicular to `direction`, inner products over C*H*W per picture.

    A direction with rounding in it points the more at random the shorter it is, so v - (v.d) d / (|d|^2 + eps |v|^2) is
    taken, eps being the type's: at ordinary lengths this is the projection to the last digit, and for a vanishing
    direction the vector stays as it is; in between an error of eps becomes one of sqrt(eps) at most.
    """
    v, d = computed(vector), computed(direction)
    v_norm, d_norm = length(v), length(d)
    # by the unit vector and the norms' ratio, because the squared norm underflows
    floor = d_norm.clamp_min(torch.finfo(d.dtype).tiny)
    unit = d / floor
    along = (v * unit).flatten(1).sum(1).view_as(d_norm)
    certainty = 1 / (1 + torch.finfo(vector.dtype).eps * (v_norm / floor).square())
    return (v - certainty * along * unit).to(vector.dtype)
