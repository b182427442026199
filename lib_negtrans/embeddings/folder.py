"""The negative embeddings of a folder, by trigger word, for the standalone page."""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor

from .files import EMBEDDING_SUFFIXES, EmbeddingError, read_embedding

NO_EMBEDDING = "None"  # the choice of a dropdown


class EmbeddingFolder:
    """Looks at the disk every time: a folder of embeddings is small, and trainings add to it."""

    def __init__(self, folder: Path, width: int):
        self.folder, self.width = Path(folder), width

    def files(self) -> dict[str, Path]:
        """Trigger word -> file, sub-folders included; the first of two files of one name."""
        if not self.folder.is_dir():
            return {}
        found: dict[str, Path] = {}
        for path in sorted(self.folder.rglob("*"), key=lambda path: (len(path.parts), str(path).casefold())):
            # the command line keeps a training's checkpoints in NAME.run
            passed_over = any(
                part.startswith(".") or part.endswith(".run") for part in path.relative_to(self.folder).parts
            )
            if path.suffix.lower() in EMBEDDING_SUFFIXES and path.is_file() and not passed_over:
                found.setdefault(path.stem, path)
        return found

    def choices(self) -> list[str]:
        """For a dropdown: "None" and the names."""
        return [NO_EMBEDDING, *sorted(self.files(), key=str.casefold)]

    def vectors(self, name: str) -> Tensor:
        """The vectors (n, width) of one. Raises EmbeddingError for a missing one and one of another kind of model."""
        path = self.files().get(name)
        if path is None:
            raise EmbeddingError(f"There is no embedding {name} in {self.folder}: refresh the list and choose again.")
        vectors = read_embedding(path).vectors
        if vectors.shape[1] != self.width:
            raise EmbeddingError(
                f"{name} has vectors of width {vectors.shape[1]}, the model needs {self.width}: "
                "it was trained for another kind of model."
            )
        return vectors

    def named_in(self, *prompts: str) -> dict[str, Tensor]:
        """The embeddings whose trigger words stand in the prompts. Raises EmbeddingError."""
        words = set(re.findall(r"[\w-]+", " ".join(prompts)))
        return {name: self.vectors(name) for name in self.files() if name in words}
