"""The embeddings of a folder, by trigger word."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from .files import EMBEDDING_SUFFIXES, EmbeddingError, check_width, read_embedding, stands_in


def embedding_files(folder: Path) -> list[Path]:
    """Embedding files of a folder and its sub-folders, sorted, those higher up first; none where there is no folder.

    Hidden ones are passed over, and NAME.run, where the command line keeps a training's checkpoints.
    """

    def passed_over(path: Path) -> bool:
        return any(part.startswith(".") or part.endswith(".run") for part in path.relative_to(folder).parts)

    found = (path for path in folder.rglob("*") if path.suffix.lower() in EMBEDDING_SUFFIXES and path.is_file())
    return sorted(
        (path for path in found if not passed_over(path)), key=lambda path: (len(path.parts), str(path).casefold())
    )


class EmbeddingFolder:
    """Looks at the disk every time: a folder of embeddings is small, and trainings add to it.

    bundled: others by trigger word, which a model's LoRAs have brought; a file of the same name comes first.
    """

    def __init__(self, folder: Path, width: int, bundled: Mapping[str, Tensor] | None = None):
        self.folder, self.width, self.bundled = Path(folder), width, bundled or {}

    def files(self) -> dict[str, Path]:
        """Trigger word -> file, sub-folders included; the first of two files of one name."""
        return {path.stem: path for path in reversed(embedding_files(self.folder))}

    def names(self) -> list[str]:
        """The trigger words, for a dropdown."""
        return sorted({*self.files(), *self.bundled}, key=str.casefold)

    def vectors(self, name: str) -> Tensor:
        """The vectors (n, width) of one. Raises EmbeddingError for a missing one and one of another kind of model."""
        path = self.files().get(name)
        if path is None and name in self.bundled:
            return self.bundled[name]
        if path is None:
            raise EmbeddingError(f"There is no embedding {name} in {self.folder}: refresh the list and choose again.")
        vectors = read_embedding(path).vectors
        check_width(name, vectors, self.width)
        return vectors

    def named_in(self, *prompts: str) -> dict[str, Tensor]:
        """The embeddings whose trigger words stand in the prompts. Raises EmbeddingError."""
        return {name: self.vectors(name) for name in self.names() if stands_in(name, "\n".join(prompts))}
