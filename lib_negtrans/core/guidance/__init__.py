"""Guidance: how the predictions for the prompt and the negative prompt are combined. One file a variant.

u is the prediction for the empty prompt, D = cond - u, N = negative - u, w the scale. With the negative prompt in the
place of u, cfg is u + w D - (w - 1) N; the variants put something of N there, so that each of them is cfg in a limit.
A new variant is a file with its class, and its place in `VARIANTS`: options, help, panel and API take it from there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from torch import Tensor

from .classifier_free import ClassifierFree
from .concepts import Concept, Concepts
from .perp import Perp
from .salience import Salience
from .sega import Sega
from .topk import TopK
from .variant import Variant, cfg, computed, length

__all__ = ["KINDS", "OPTIONS", "VARIANTS", "Concept", "Guidance", "Variant", "cfg", "limited", "rescale"]

VARIANTS: dict[str, type[Variant]] = {v.name: v for v in (ClassifierFree, Perp, TopK, Salience, Sega)}
KINDS = tuple(VARIANTS)
# full name, such as topk_ratio -> the variant's name and the field
OPTIONS: dict[str, tuple[str, dataclasses.Field]] = {
    f"{name}_{field.name}": (name, field)
    for name, variant in VARIANTS.items()
    for field in dataclasses.fields(variant)
    if field.init
}


def rescale(guided: Tensor, cond: Tensor, amount: float) -> Tensor:
    """Bring the guided prediction's deviation per picture back towards cond's (arXiv 2305.08891, eq. 15-16)."""
    dims = tuple(range(1, guided.ndim))
    scaled = guided * (cond.std(dim=dims, keepdim=True) / guided.std(dim=dims, keepdim=True).clamp_min(1e-12))
    return amount * scaled + (1 - amount) * guided


def limited(push: Tensor, most: float) -> Tensor:
    """A push (B, C, H, W) cut at each place to `most` times its average, and then scaled to be as strong as before.

    Its strength at a place is its norm n over the channels; the average is weighted by itself, sum n^2 / sum n, so that
    places without any push do not count. Guidance is strongest by far at edges and in patterns, and breaks them up
    before plain cloth has changed. Ours; a limit on the norm of the whole is in arXiv 2410.02416.
    """
    wide = computed(push)  # the sums are too large for half precision
    norm = wide.norm(dim=1, keepdim=True)
    total = norm.sum((2, 3), keepdim=True)
    average = norm.square().sum((2, 3), keepdim=True) / total.clamp_min(1e-12)
    held = wide * (most * average / norm.clamp_min(1e-12)).clamp_max(1)
    return (held * (length(wide) / length(held).clamp_min(1e-12))).to(push.dtype)


class Guidance:
    """The guided prediction by the variant's name: a new object for each translation, for SEGA's momentum.

    options: by the names of `OPTIONS`; those of other variants do nothing, those left out have their defaults.
    limit above 0 is `limited`'s, on all that is added to the prompt's prediction; rescale_amount in [0, 1]. Both are
    put on any of them. Raises ValueError for another kind.
    """

    def __init__(
        self,
        kind: str = "cfg",
        options: Mapping[str, Any] | None = None,
        *,
        limit: float = 0.0,
        rescale_amount: float = 0.0,
        concepts: Sequence[Concept] = (),
    ) -> None:
        if kind not in VARIANTS:
            raise ValueError(f"guidance must be one of {', '.join(VARIANTS)}, not {kind!r}.")
        own = {OPTIONS[name][1].name: value for name, value in (options or {}).items() if OPTIONS[name][0] == kind}
        self.variant, self.limit, self.rescale_amount = VARIANTS[kind](**own), limit, rescale_amount
        self.concepts = Concepts(concepts)

    def reads_empty(self, scale: float) -> bool:
        """Whether the prediction for the empty prompt is asked for at this CFG scale."""
        return (scale != 1 and self.variant.needs_empty) or self.concepts.read_empty

    def reads_negative(self, scale: float) -> bool:
        """Whether that for the negative prompt is."""
        return scale != 1 or self.concepts.read_negative

    @property
    def is_plain(self) -> bool:
        """Whether this is classifier-free guidance and nothing else."""
        changed = self.limit or self.rescale_amount or self.concepts
        return isinstance(self.variant, ClassifierFree) and not changed

    def __call__(
        self,
        uncond: Tensor,
        cond: Tensor,
        negative: Tensor,
        scale: float,
        step: int,
        found: Mapping[str, Tensor] = MappingProxyType({}),
    ) -> Tensor:
        """Combine predictions (B, C, H, W) of sampled step `step`, counted from 0; found: those of the concepts' texts.

        At scale 1 every variant is cond, and only concepts are added.
        """
        if scale == 1 and not self.concepts:
            return cond
        cond = self.concepts.composed(cond, negative, found, step)
        guided = cond if scale == 1 else self.variant(uncond, cond, negative, scale, step)
        if self.concepts:
            guided = guided + self.concepts.added(uncond, cond, negative, found, scale, step)
        if self.limit:
            guided = cond + limited(guided - cond, self.limit)
        return rescale(guided, cond, self.rescale_amount) if self.rescale_amount else guided
