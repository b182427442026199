"""What the webuis of this family do differently, asked of one object, which is chosen once by what there is to import.

A1111's is in a1111/, Forge's in forge/: neither can be imported on the other. All else of this folder serves both.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence, Sized
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from lib_negtrans import TITLE
from lib_negtrans.models.protocol import HostError, ModelHost


class Host(ABC):
    """One kind of webui."""

    @abstractmethod
    def embeddings(self) -> Any | None:
        """The database of the checkpoint in use: `word_embeddings`, `skipped_embeddings`, `embedding_dirs`, or None."""

    @abstractmethod
    def rescan_embeddings(self, everything: bool = True) -> None:
        """Read the embeddings folder again; everything False: only if it looks changed, where the host can tell."""

    @abstractmethod
    def refuse_model(self, model: Any) -> None:
        """Raises HostError for a checkpoint that is not Stable Diffusion 1.x or cannot be inverted."""

    @abstractmethod
    def mean_encoding(self, model: Any) -> AbstractContextManager[None]:
        """Inside, the checkpoint encodes to the mean of the VAE's distribution, not to a sample of it."""

    def refuse_sampler(self, p: Any) -> None:
        """Raises TranslationRefused where another extension cuts the latent up on the way to the model.

        Its attention is another there (HOST.md 3), and some of them replace `p.sample`, so that nothing of ours runs.
        """
        return None

    @abstractmethod
    def denoiser(
        self, p: Any, params: Any, conditioning: Any, unconditional_conditioning: Any, keeper: Any, asked: Any
    ) -> Any:
        """A `sampling.WebuiDenoiser` for one batch, after the other scripts had their say about it."""

    @abstractmethod
    def training(self) -> AbstractContextManager[ModelHost]:
        """The model to train on while the context is open. Raises HostError for what cannot be trained on."""

    def training_notes(self) -> list[str]:
        """What to say of a finished training, in sentences."""
        return []

    @abstractmethod
    def tokenizer(self) -> Callable[[str], Sized] | None:
        """Token ids of a text by the checkpoint in memory; None where there is none. Loads nothing."""

    def guided_by_others(self, prompts: Sequence[str]) -> bool:
        """Whether another extension combines the predictions for these prompts."""
        return False


@functools.cache
def host() -> Host:
    """This webui's. Raises HostError, in a sentence, for one of the family that is neither A1111 nor Forge."""
    kind = "a1111"
    if importlib.util.find_spec("modules_forge") is not None:
        # reForge and Forge classic have no backend, Forge Neo brings libraries along
        if not _has_folder("backend", "sampling") or _has_folder("modules_forge", "packages"):
            raise HostError(
                f"{TITLE} does not work on reForge, Forge Neo or Forge classic yet: use AUTOMATIC1111's webui, Forge, "
                "or python -m lib_negtrans."
            )
        kind = "forge"
    return importlib.import_module(f"{__package__}.{kind}.host").make()


def _has_folder(package: str, folder: str) -> bool:
    spec = importlib.util.find_spec(package)
    places = () if spec is None else spec.submodule_search_locations or ()
    return any((Path(place) / folder).is_dir() for place in places)
