"""Negative embeddings in use: their trigger words in the negative prompt, and their vectors."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .params import TranslationParams


@dataclass(frozen=True)
class Negative:
    """A negative embedding in use: trigger word, vectors (n, width), weight in the prompt."""

    name: str
    vectors: Tensor
    weight: float = 1.0


def with_negatives(params: TranslationParams, negatives: list[Negative]) -> tuple[TranslationParams, dict[str, Tensor]]:
    """The parameters with the trigger words put before the negative prompt, and word -> vectors.

    A word the user has typed already is not added again.
    """
    words = []
    for negative in negatives:
        if negative.name not in params.negative_prompt:
            words.append(negative.name if negative.weight == 1.0 else f"({negative.name}:{negative.weight:g})")
    prompt = ", ".join([*words, *([params.negative_prompt] if params.negative_prompt else [])])
    values = params.to_dict() | {"negative_prompt": prompt}
    return type(params).from_dict(values), {negative.name: negative.vectors for negative in negatives}
