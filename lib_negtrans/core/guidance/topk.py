"""The strongest values of the negative."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .variant import Variant, computed, setting


@dataclass
class TopK(Variant):
    """Only the `ratio` largest values of N (neutral-prompt's AND_TOPK, its 5 % a parameter): less drift elsewhere."""

    name = "topk"
    subtracts = "its strongest values"

    ratio: float = setting(
        0.1, "Top-k ratio",
        "For guidance topk: which share of the negative's values is subtracted, the largest first. 0.1 needs a higher "
        "CFG scale, about 15. 1 is the same as cfg.",
        minimum=0.0, maximum=1.0, step=0.01, infotext="NegTrans top-k ratio",
    )  # fmt: skip

    def part_of(self, vector: Tensor, towards: Tensor, step: int) -> Tensor:
        return keep_largest(vector, self.ratio)

    def kept(self) -> str:
        return f"using only its strongest {100 * self.ratio:g} %"


@dataclass
class ConceptTopK(TopK):
    """A concept's: as many values as neutral-prompt's AND_TOPK keeps, which are one or two more than the share."""

    ratio: float = setting(0.05, "Top-k ratio", "Of a concept.", minimum=0.0, maximum=1.0)

    def part_of(self, vector: Tensor, towards: Tensor, step: int) -> Tensor:
        # it keeps what is not below its int(size (1 - ratio))-th smallest value, and that value too
        size = vector[0].numel()
        return _largest(vector, min(size, size - int(size * (1 - self.ratio)) + 1))


def keep_largest(vector: Tensor, ratio: float) -> Tensor:
    """The round(ratio * C*H*W) values of largest magnitude per picture, over all channels jointly; the rest is zero.

    ratio in [0, 1]: 0 keeps nothing, 1 everything. Raises ValueError.
    """
    if not 0.0 <= ratio <= 1.0:
        raise ValueError(f"the ratio of values to keep must lie between 0 and 1, not {ratio:g}.")
    return _largest(vector, round(ratio * vector[0].numel()))


def _largest(vector: Tensor, count: int) -> Tensor:
    flat = vector.flatten(1)
    if count == flat.shape[1]:
        return vector
    # topk rather than a threshold: exactly `count` values, ties included, and it exists for half precision
    indices = computed(flat).abs().topk(count, dim=1).indices
    return torch.zeros_like(flat).scatter(1, indices, flat.gather(1, indices)).view_as(vector)
