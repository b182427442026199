"""Attention control (TAC) over a whole translation: which layers, in which steps, how strongly, for which rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from .attention import SelfAttentionLayer


@dataclass(frozen=True)
class TacPlan:
    """layers: those with a hook. steps: layer name -> how many of the first sampled steps it is under control.

    blend in [0, 1]: the source's share in Q and K. both_halves: the negative prompt's rows are controlled too, not only
    those of the prompt and of the empty prompt.
    """

    layers: list[SelfAttentionLayer] = field(default_factory=list)
    steps: Mapping[str, int] = field(default_factory=dict)
    blend: float = 1.0
    both_halves: bool = False

    @classmethod
    def make(
        cls,
        candidates: list[SelfAttentionLayer],
        steps_at: Callable[[int], int],
        blend: float = 1.0,
        both_halves: bool = False,
    ) -> TacPlan:
        """Of the candidates those that are controlled at all; steps_at(level) is the number of steps of a depth."""
        chosen = [layer for layer in candidates if blend > 0 and steps_at(layer.level) > 0]
        return cls(chosen, {layer.name: steps_at(layer.level) for layer in chosen}, blend, both_halves)

    def strengths(self, step: int) -> dict[str, float]:
        """For `AttentionControl.inject` at sampled step `step`, counted from 0: 0 where a layer's steps are over."""
        return {name: self.blend if step < count else 0.0 for name, count in self.steps.items()}
