"""One file for both halves: a LoRA, and the negative embedding that was trained on the model with it.

The webui knows the embedding as soon as the LoRA stands in a prompt, also in the same picture's negative prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from .files import LoraError, LoraFile, write_lora

ENDING = ".bundle.safetensors"  # diffusers refuses a LoRA file with an embedding in it, so it is a second file


def bundle_path(lora: Path) -> Path:
    """NAME.bundle.safetensors beside a LoRA file."""
    return lora.with_name(lora.stem.removesuffix(".bundle") + ENDING)


def write_bundle(path: Path, lora: LoraFile, embeddings: Mapping[str, Tensor], overwrite: bool = False) -> None:
    """Writes the LoRA with embeddings, trigger word -> (n, width), added to those that it brings already.

    Weights stay in the precision they have. Raises LoraError for a name with a dot, for one that the LoRA has already
    unless overwrite, and for vectors of another width than what the LoRA's cross-attention takes; FileExistsError;
    OSError.
    """
    contexts = {pair.down.shape[1] for name, pair in lora.pairs.items() if name.endswith("_attn2_to_k")}
    for name, vectors in embeddings.items():
        if "." in name or not name:
            raise LoraError(f"The embedding {name!r} cannot be in a LoRA file: rename it to one without dots.")
        if name in lora.embeddings and not overwrite:
            raise LoraError(f"{lora.path} has an embedding {name} already: take another, or allow overwriting.")
        if contexts and vectors.shape[1] not in contexts:
            raise LoraError(
                f"The embedding {name} has width {vectors.shape[1]}, but {lora.path} was made for {max(contexts)}: "
                "they are of different kinds of models."
            )
    # hashes that were made of the tensors are not those of this file
    metadata = {key: value for key, value in lora.metadata.items() if not key.startswith("sshs_") and key != "format"}
    metadata["ss_output_name"] = path.stem
    write_lora(path, lora.pairs, metadata, None, overwrite, {**lora.embeddings, **embeddings})
