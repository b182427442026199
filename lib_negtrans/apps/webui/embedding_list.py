"""The embeddings that the webui has loaded: their names, and what identifies one."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from modules import shared

from lib_negtrans.embeddings import NO_EMBEDDING
from lib_negtrans.embeddings.folder import embedding_files
from lib_negtrans.models.protocol import HostError

from .host import host
from .refusal import TranslationRefused


def _database() -> Any:
    """The database of textual inversions of the checkpoint in use; None where there is none, or another host."""
    try:
        return host().embeddings()
    except HostError:
        return None


def loaded_names() -> list[str]:
    """Names of the loaded embeddings, sorted; nothing is loaded for it."""
    database = _database()
    return [] if database is None else sorted(database.word_embeddings, key=str.casefold)


def choices() -> list[str]:
    """The dropdown's choices; before a checkpoint is loaded, the files that there are."""
    database = _database()
    if database is not None and (database.word_embeddings or database.skipped_embeddings):
        return [NO_EMBEDDING, *loaded_names()]
    folders = (*getattr(database, "embedding_dirs", ()), shared.cmd_opts.embeddings_dir)
    names = {file.stem for folder in folders for file in embedding_files(Path(folder))}
    return [NO_EMBEDDING, *sorted(names, key=str.casefold)]


def rescanned_choices() -> list[str]:
    """The choices after reading the embeddings folder again, sub-folders included."""
    if shared.sd_model is not None and _database() is not None:
        host().rescan_embeddings()
    return choices()


def vectors_hash(name: str) -> str:
    """Ten digits of the sha256 of an embedding's vectors as float32. Raises TranslationRefused for one not loaded."""
    database = _database()
    if name not in database.word_embeddings:
        host().rescan_embeddings(everything=False)
    embedding = database.word_embeddings.get(name)
    if embedding is None:
        if name in database.skipped_embeddings:
            raise TranslationRefused(
                f"The negative embedding {name} was made for another kind of model: choose one made for this one."
            )
        known = ", ".join(loaded_names()[:8]) or "none"
        raise TranslationRefused(
            f"There is no negative embedding {name}. Loaded: {known}. Put its file into embeddings/ and refresh."
        )
    vectors = embedding.vec.detach().cpu().float().contiguous()
    return hashlib.sha256(vectors.numpy().tobytes()).hexdigest()[:10]
