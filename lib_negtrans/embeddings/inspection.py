"""What a file is and what is in it, as plain dictionaries: for `inspect` on the command line and for the tab."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lib_negtrans.models import single_file
from lib_negtrans.models.protocol import HostError

from .files import MAX_FILE_BYTES, Embedding, EmbeddingError, read_embedding


class TokenTable(Protocol):
    """A host that can tell which words a vector is near to."""

    def token_table(self) -> tuple[Tensor, list[str]]:
        """All token embeddings (vocabulary, width) and their texts."""
        ...


def describe_embedding(embedding: Embedding, host: TokenTable | None = None, nearest: int = 5) -> dict:
    """name, vectors, width, norms, step, checkpoint, metadata; with a host also each vector's nearest tokens by cosine.

    Plain numbers, texts, lists and dicts only. Raises EmbeddingError where the host's width is another.
    """
    described = {
        "type": "embedding",
        "name": embedding.name,
        "layout": embedding.layout,
        "placeholder": embedding.placeholder,
        "vectors": len(embedding.vectors),
        "width": embedding.width,
        "norms": [round(norm, 4) for norm in embedding.vectors.norm(dim=1).tolist()],
        "step": embedding.step,
        "checkpoint_name": embedding.checkpoint_name,
        "checkpoint_hash": embedding.checkpoint_hash,
        "metadata": dict(embedding.metadata),
    }
    if host is not None:
        described["nearest"] = nearest_tokens(embedding.vectors, *host.token_table(), count=nearest)
    return described


def nearest_tokens(vectors: Tensor, table: Tensor, texts: list[str], count: int = 5) -> list[list[dict]]:
    """For each of vectors (n, width) the `count` tokens of table (vocabulary, width) nearest by cosine, best first."""
    if vectors.shape[1] != table.shape[1]:
        raise EmbeddingError(
            f"The embedding has width {vectors.shape[1]}, but the model's tokens have {table.shape[1]}."
        )
    table = torch.nn.functional.normalize(table.detach().to("cpu", torch.float32), dim=1)
    cosines = torch.nn.functional.normalize(vectors, dim=1) @ table.T
    best = cosines.topk(min(count, len(texts)), dim=1)
    return [
        [{"token": texts[i], "cosine": round(c, 4)} for c, i in zip(row, places, strict=True)]
        for row, places in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]


def describe_file(path: str | Path, host: TokenTable | None = None) -> dict:
    """What a file is: {"type": "embedding" | "checkpoint" | "diffusers folder" | "LoRA" | "VAE", "name": ..., ...}.

    A checkpoint's weights are not read. Raises EmbeddingError or HostError, one sentence each, for what is neither.
    """
    path = Path(path)
    if not path.exists():
        raise EmbeddingError(f"There is no {path}.")
    if path.is_dir():
        return _describe_folder(path)
    if path.suffix.lower() == ".safetensors":
        shapes, metadata = _safetensors_header(path)
        kind = single_file.family(shapes)
        if kind != "unknown":
            return _describe_weights(path, kind, shapes, metadata)
    elif path.suffix.lower() == ".ckpt" or (path.suffix.lower() == ".pt" and path.stat().st_size > MAX_FILE_BYTES):
        state = single_file.read_state_dict(path)
        shapes = {key: tuple(value.shape) for key, value in state.items()}
        return _describe_weights(path, single_file.family(shapes), shapes, {})
    return describe_embedding(read_embedding(path), host)


def _safetensors_header(path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise EmbeddingError(f"{path} is damaged or not a safetensors file: {error}.") from error


def _describe_weights(path: Path, kind: str, shapes: dict[str, tuple[int, ...]], metadata: dict[str, str]) -> dict:
    contexts = [s[1] for key, s in shapes.items() if key.endswith("attn2.to_k.weight")]
    return {
        "type": kind if kind in ("LoRA", "VAE") else "checkpoint",
        "name": path.stem,
        "family": kind,
        "usable": kind == "SD1",
        "tensors": len(shapes),
        "parameters": sum(torch.Size(shape).numel() for shape in shapes.values()),
        "width": contexts[0] if contexts else None,
        "config": path.with_suffix(".yaml").name if path.with_suffix(".yaml").is_file() else None,
        "metadata": metadata,
    }


def _describe_folder(path: Path) -> dict:
    try:
        index = json.loads((path / "model_index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise HostError(f"{path} is a folder without a readable model_index.json: not a diffusers model.") from error
    parts = sorted(name for name in index if not name.startswith("_") and (path / name).is_dir())
    return {"type": "diffusers folder", "name": path.name, "pipeline": index.get("_class_name"), "parts": parts}
