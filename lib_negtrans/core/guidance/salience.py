"""Winner takes all."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .variant import Variant, cfg, computed


@dataclass
class Salience(Variant):
    """Where |N| is more salient than |D|, -(w - 1)(N - D) is added (neutral-prompt's AND_SALT).

    The salience of a map is softmax(|map|) over H*W, per channel.
    """

    name = "salience"
    subtracts = "where it is stronger than the prompt"

    def __call__(self, empty: Tensor, cond: Tensor, negative: Tensor, scale: float, step: int) -> Tensor:
        towards, away = cond - empty, negative - empty
        wins = _weight(away) > _weight(towards)
        return cfg(empty, cond, scale) - (scale - 1) * torch.where(wins, away - towards, torch.zeros_like(away))

    def kept(self) -> str:
        return "only where it is stronger than the prompt"


def _weight(vector: Tensor) -> Tensor:
    return computed(vector).abs().flatten(2).softmax(dim=2).view_as(vector)
