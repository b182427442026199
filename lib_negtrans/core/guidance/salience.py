"""Winner takes all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .variant import Variant, computed


@dataclass
class Salience(Variant):
    """Where |N| is more salient than |D|, -(w - 1)(N - D) is added (after neutral-prompt's AND_SALT).

    The salience of a map is softmax(|map|) over H*W, per channel.
    """

    name = "salience"
    subtracts = "where it is stronger than the prompt"

    def part_of(self, vector: Tensor, towards: Tensor, step: int) -> Tensor:
        return salient([vector], towards)[0]

    def kept(self) -> str:
        return "only where it is stronger than the prompt"


def salient(vectors: Sequence[Tensor], towards: Tensor, *, over_channels: bool = False) -> list[Tensor]:
    """Of each vector (B, C, H, W) v - towards where it is the most salient of all, towards among them; elsewhere zero.

    Among equals the first wins, towards before all. Salience is softmax(|v|) over H*W per channel, or over C*H*W.
    """
    start = 1 if over_channels else 2
    maps = [computed(v).abs().flatten(start).softmax(dim=start).view_as(v) for v in (towards, *vectors)]
    winner = torch.stack(maps).argmax(0)
    return [torch.where(winner == place, v - towards, torch.zeros_like(v)) for place, v in enumerate(vectors, 1)]
