"""New embeddings from old ones: converted, concatenated, averaged, scaled. Embeddings in, embeddings out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from .card import KIND, save
from .files import MAX_VECTORS, Embedding, EmbeddingError, read_embedding

WAYS = ("concatenate", "average")


def convert(
    source: str | Path, target: str | Path, layout: str | None = None, overwrite: bool = False
) -> tuple[Embedding, list[str]]:
    """Write an embedding file in another format, under the target's name, with its card.

    Returns what was written, and complaints about the card. Raises EmbeddingError, FileExistsError, OSError.
    """
    embedding = replace(read_embedding(source), name=Path(target).stem)
    return embedding, save(target, embedding, overwrite, layout)


def combine(parts: Sequence[tuple[Embedding, float]], way: str, name: str) -> Embedding:
    """One embedding of (embedding, weight) parts, called `name`; its metadata says what it was made from.

    "concatenate": the vectors of all after each other, each times its weight: what writing all their names would be.
    "average": the weighted mean of as many vectors, weights summing to anything but 0. A single part is scaled by its
    weight either way but for "average", where a weight alone cancels. Raises EmbeddingError.
    """
    if way not in WAYS:
        raise EmbeddingError(f"there is no way {way!r} to combine embeddings: there are {', '.join(WAYS)}.")
    if not parts:
        raise EmbeddingError("Name at least one embedding to combine.")
    first = parts[0][0]
    for other, _ in parts[1:]:
        if other.width != first.width:
            raise EmbeddingError(
                f"{other.name} has width {other.width} and {first.name} {first.width}: they do not fit the same model."
            )
    if way == "concatenate":
        vectors = torch.cat([embedding.vectors * weight for embedding, weight in parts])
        if len(vectors) > MAX_VECTORS:
            raise EmbeddingError(f"Together these are {len(vectors)} vectors; a prompt chunk holds {MAX_VECTORS}.")
    else:
        counts = {len(embedding.vectors) for embedding, _ in parts}
        if len(counts) > 1:
            raise EmbeddingError(
                f"An average needs as many vectors in each, not {', '.join(map(str, sorted(counts)))}: concatenate."
            )
        total = sum(weight for _, weight in parts)
        if abs(total) < 1e-6:
            raise EmbeddingError("The weights of an average must not add up to 0.")
        weighted = (embedding.vectors * (weight / total) for embedding, weight in parts)
        vectors = sum(weighted, torch.zeros_like(first.vectors))
    checkpoints = {(embedding.checkpoint_name, embedding.checkpoint_hash) for embedding, _ in parts}
    checkpoint_name, checkpoint_hash = checkpoints.pop() if len(checkpoints) == 1 else (None, None)
    licences = {embedding.metadata.get("licence") for embedding, _ in parts} - {None}
    listed = ", ".join(f"{embedding.name} x {weight:g}" for embedding, weight in parts)
    metadata: dict[str, Any] = {"kind": KIND, "made_from": f"{way} of {listed}"}
    metadata["recommended_weight"] = 1.0
    if licences:
        metadata["licence"] = "; ".join(sorted(map(str, licences)))
    return Embedding(name, vectors, first.step if len(parts) == 1 else None, checkpoint_name, checkpoint_hash, metadata)
