"""Negative embeddings in use: their trigger words in the negative prompt, and their vectors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from lib_negtrans.embeddings.files import stands_in

from .concepts import CONCEPT_WORD
from .params import TranslationParams


@dataclass(frozen=True)
class Negative:
    """A negative embedding in use: trigger word, vectors (n, width), weight in the prompt."""

    name: str
    vectors: Tensor
    weight: float = 1.0


def with_negatives(
    params: TranslationParams, negatives: Sequence[Negative]
) -> tuple[TranslationParams, dict[str, Tensor]]:
    """The parameters `with_triggers` of the negatives in the negative prompt, and word -> vectors."""
    prompt = with_triggers(((negative.name, negative.weight) for negative in negatives), params.negative_prompt)
    values = params.to_dict() | {"negative_prompt": prompt}
    return type(params).from_dict(values), {negative.name: negative.vectors for negative in negatives}


def with_triggers(triggers: Iterable[tuple[str, float]], prompt: str) -> str:
    """The trigger words put before a prompt, each with its weight, but those that stand in it already."""
    words = [
        name if weight == 1.0 else f"({name}:{weight:g})" for name, weight in triggers if not stands_in(name, prompt)
    ]
    between = " " if CONCEPT_WORD.match(prompt.strip()) else ", "
    return between.join(filter(None, (", ".join(words), prompt if prompt.strip() else "")))
