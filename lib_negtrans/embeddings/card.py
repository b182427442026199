"""What lies beside an embedding: NAME.json, which the webui's browser shows as a card, and NAME.preview.png."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from lib_negtrans import TITLE, __version__
from lib_negtrans.files import atomic_write, write_text_atomic
from lib_negtrans.models.protocol import ModelHost

from .files import Embedding, write_embedding

KIND = "negative embedding"


def save(
    path: str | Path,
    embedding: Embedding,
    overwrite: bool = False,
    layout: str | None = None,
    preview: str | Path | None = None,
) -> list[str]:
    """`write_embedding`, then `write_card`: whatever writes an embedding for a user does both.

    Returns the card's complaints. Raises EmbeddingError, FileExistsError, OSError for the embedding.
    """
    write_embedding(path, embedding, overwrite, layout)
    return write_card(Path(path), embedding, preview)


def write_card(path: Path, embedding: Embedding, preview: str | Path | None = None) -> list[str]:
    """`write_files` of an embedding."""
    return write_files(path, card_content(embedding), str(embedding.metadata.get("licence") or ""), preview)


def write_files(path: Path, content: dict[str, Any], licence: str, preview: str | Path | None = None) -> list[str]:
    """Write both files of an embedding, a LoRA or a checkpoint; what a user has noted in the JSON stays.

    Returns sentences about what could not be written. `.preview.png`, because the webui would try to load a plain
    NAME.png as an embedding.
    """
    try:
        card = path.with_suffix(".json")
        former = _former(card)
        content = former | content
        if licence and not former.get("notes"):
            content["notes"] = f"Licence: {licence}"
        write_text_atomic(card, json.dumps(content, indent=1, ensure_ascii=False))
        if preview is not None:
            with atomic_write(path.with_suffix(".preview.png")) as temporary:
                shutil.copyfile(preview, temporary)
    except OSError as error:
        reason = error.strerror or error
        return [f"The card of {path.stem} could not be written ({reason}); the file itself is whole."]
    return []


def card_content(embedding: Embedding) -> dict[str, Any]:
    """The webui's fields, and under "negtrans" everything that is known of the embedding."""
    known = {
        "kind": KIND,
        "version": __version__,
        "vectors": len(embedding.vectors),
        "step": embedding.step,
        "checkpoint": embedding.checkpoint_name,
        "checkpoint_hash": embedding.checkpoint_hash,
        **embedding.metadata,
    }
    return {
        "description": describe(embedding),
        "sd version": "SD1",
        "activation text": embedding.name,
        "preferred weight": embedding.metadata.get("recommended_weight", 1.0),
        "negtrans": known,
    }


def describe(embedding: Embedding) -> str:
    """What it is, in a few words for a person."""
    told = embedding.metadata
    strength = f", strength {told['strength']:g}" if isinstance(told.get("strength"), int | float) else ""
    count = len(embedding.vectors)
    parts = [f"{count} vector{'s' if count > 1 else ''}"]
    if embedding.step is not None:
        parts.append(f"{embedding.step} steps")
    if told.get("images"):
        parts.append(f"{told['images']} renders" + (f" and {told['photos']} photos" if told.get("photos") else ""))
    if told.get("made_from"):
        parts.append(str(told["made_from"]))
    name = embedding.checkpoint_name
    base = f" Base: {named_model(name, embedding.checkpoint_hash)}." if name else ""
    return f"For the negative prompt of {TITLE}{strength}. {', '.join(parts)}.{base}"


def named_model(name: str, fingerprint: str | None) -> str:
    """A model's name and hash in words, the hash as short as the webui shows it."""
    return f"{name} [{fingerprint[:10]}]" if fingerprint else name


def trained_card(
    text: str, kind: str, host: ModelHost, params: dict[str, Any], images: int, dataset: str, **fields: Any
) -> dict[str, Any]:
    """The card of what a training has made: a text and the base model, `fields` of the webui's, and what is known."""
    return {
        "description": f"{text} Base: {named_model(host.checkpoint_name, host.checkpoint_hash)}.",
        "sd version": "SD1",
        **fields,
        "negtrans": {
            "kind": kind, "version": __version__, "checkpoint": host.checkpoint_name,
            "checkpoint_hash": host.checkpoint_hash, "images": images, "dataset": dataset, **params,
        },
    }  # fmt: skip


def _former(card: Path) -> dict:
    try:
        former = json.loads(card.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return former if isinstance(former, dict) else {}
