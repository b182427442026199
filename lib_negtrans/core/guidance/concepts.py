"""Concepts: further texts that a guided prediction is pushed towards or away from, each in its own way.

n, u and c are the predictions for the negative prompt, the empty prompt and the prompt, e_j that for a concept's text,
w the CFG scale. A concept is added to what the guidance makes of them, so that one of weight 0 is none:

    cfg        the prompt's prediction becomes c + w_j (e_j - n), as the webui's AND composes it, before all else
    perp       + w w_j (D_j perpendicular to D),  D = c - n and D_j = e_j - n
    topk       + w w_j (the largest values of D_j)
    salience   + w w_j (D_j - D) where D_j is the most salient of D and all concepts of this kind
    sega       + w_j g_j,  g_j being e_j - u above each channel's threshold, with momentum

The first four are the formulas of ljleb's sd-webui-neutral-prompt (AND, AND_PERP, AND_TOPK, AND_SALT), the last is
SEGA's (arXiv 2301.12247, eq. 4 to 8), whose scale w_j stands for itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .classifier_free import ClassifierFree
from .salience import Salience, salient
from .variant import Variant, in_force


@dataclass(frozen=True)
class Concept:
    """A text to be pushed towards, or with a weight below 0 away from, from sampled step `warmup` to `cooldown`.

    variant: its kind with that kind's options. cooldown 0 is the end.
    """

    text: str
    variant: Variant
    weight: float = 1.0
    warmup: int = 0
    cooldown: int = 0


class Concepts:
    """Several concepts at once: a new object for each translation, for SEGA's momentum. Weights of 0 are left out."""

    def __init__(self, concepts: Sequence[Concept]) -> None:
        self._all = [replace(c, variant=replace(c.variant)) for c in concepts if c.weight]

    def __bool__(self) -> bool:
        return bool(self._all)

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts whose predictions are read, each once."""
        return tuple(dict.fromkeys(c.text for c in self._all))

    @property
    def read_empty(self) -> bool:
        return any(c.variant.stands_alone for c in self._all)

    @property
    def read_negative(self) -> bool:
        return any(not c.variant.stands_alone for c in self._all)

    def composed(self, cond: Tensor, negative: Tensor, found: Mapping[str, Tensor], step: int) -> Tensor:
        """The prompt's prediction (B, C, H, W) with the concepts of kind cfg. found: text -> prediction."""
        for c in self._of(ClassifierFree, step):
            cond = cond + c.weight * (found[c.text] - negative)
        return cond

    def added(
        self, empty: Tensor, cond: Tensor, negative: Tensor, found: Mapping[str, Tensor], scale: float, step: int
    ) -> Tensor:
        """What is added to the guided prediction; cond is the composed one."""
        total, towards = torch.zeros_like(cond), cond - negative
        for c in self._all:
            if isinstance(c.variant, ClassifierFree | Salience):
                continue
            alone = c.variant.stands_alone
            # also while it is not in force: momentum grows from the first step on
            kept = c.variant.part_of(found[c.text] - (empty if alone else negative), towards, step)
            if in_force(step, c.warmup, c.cooldown):
                total = total + (c.weight if alone else scale * c.weight) * kept
        rivals = self._of(Salience, step)
        won = salient([found[c.text] - negative for c in rivals], towards, over_channels=True)
        for c, kept in zip(rivals, won, strict=True):
            total = total + scale * c.weight * kept
        return total

    def _of(self, kind: type[Variant], step: int) -> list[Concept]:
        return [c for c in self._all if isinstance(c.variant, kind) and in_force(step, c.warmup, c.cooldown)]
