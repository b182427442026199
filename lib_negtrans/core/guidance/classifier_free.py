"""Plain guidance."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .variant import Variant, cfg


@dataclass
class ClassifierFree(Variant):
    """The negative prompt in the place of the empty one: w c + (1 - w) n."""

    name = "cfg"
    subtracts = "all of it"
    needs_empty = False

    def __call__(self, empty: Tensor, cond: Tensor, negative: Tensor, scale: float, step: int) -> Tensor:
        return cfg(negative, cond, scale)
