"""Textual inversion embeddings as files: every format is read and written. No host."""

from __future__ import annotations

import json
import pickle
import re
import struct
from collections.abc import Callable, Mapping, Sized
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lib_negtrans.errors import UserError
from lib_negtrans.files import atomic_write, fetched, place

from .layouts import METADATA_KEY, encode_layout, layout_of

MAX_VECTORS = 75  # one prompt chunk; longer ones make the webui fail
MAX_FILE_BYTES = 64 << 20
MAX_NAME_LENGTH = 64
_IMAGE_SUFFIXES = (".png", ".webp", ".jxl", ".avif")
_PICKLE_SUFFIXES = (".pt", ".bin")
EMBEDDING_SUFFIXES = (*_PICKLE_SUFFIXES, ".safetensors")
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}


class EmbeddingError(UserError, ValueError):
    """An embedding file, its vectors or its name cannot be used; the message is one sentence that says what to do."""


def check_width(name: str, vectors: Tensor, width: int) -> None:
    """Raises EmbeddingError for vectors (n, other) of another kind of model than one of this width."""
    if vectors.shape[1] != width:
        raise EmbeddingError(
            f"{name} has vectors of width {vectors.shape[1]}, the model needs {width}: "
            "it was trained for another kind of model."
        )


@dataclass
class Embedding:
    """Vectors that stand for a word in prompts.

    name: the trigger word, which in the webui is the file's stem. vectors: (n, width) float32 on the CPU, n in 1..75,
    finite. checkpoint_hash: sha256, or the webui's first ten digits of it. placeholder: the word in the file itself.
    metadata: text -> text, number, bool or None. layout: of the file that it was read from, one of LAYOUTS. Raises
    EmbeddingError for vectors that break this.
    """

    name: str
    vectors: Tensor
    step: int | None = None
    checkpoint_name: str | None = None
    checkpoint_hash: str | None = None
    metadata: dict[str, str | int | float | bool | None] = field(default_factory=dict)
    placeholder: str | None = None
    layout: str | None = None

    def __post_init__(self) -> None:
        self.vectors = checked_vectors(self.vectors, self.name)

    @property
    def width(self) -> int:
        return self.vectors.shape[1]


def checked_vectors(vectors: Tensor, name: str) -> Tensor:
    """(n, width) or (width,) of any float type -> a copy (n, width) float32 on the CPU. Raises EmbeddingError."""
    if not isinstance(vectors, Tensor) or not vectors.is_floating_point():
        raise EmbeddingError(f"{name} holds no floating-point vectors: it is not an embedding.")
    if vectors.ndim == 1:
        vectors = vectors[None]
    if vectors.ndim != 2 or vectors.shape[1] == 0:
        raise EmbeddingError(f"{name} has the shape {tuple(vectors.shape)}; an embedding is (vectors, width).")
    if not 1 <= len(vectors) <= MAX_VECTORS:
        raise EmbeddingError(f"{name} has {len(vectors)} vectors; a prompt chunk holds 1 to {MAX_VECTORS}.")
    vectors = vectors.detach().to("cpu", torch.float32).contiguous().clone()
    if not torch.isfinite(vectors).all():
        raise EmbeddingError(
            f"{name} contains NaN or infinity: its training diverged, use an earlier checkpoint of it."
        )
    return vectors


def validate_name(name: str, tokenize: Callable[[str], Sized] | None = None) -> str:
    """Gives the name back if it can be a file and a trigger word on every system, else raises EmbeddingError.

    tokenize: anything whose length is the number of CLIP tokens, such as a host's `token_vectors`; with it, words of
    one token are refused, because they would trigger wherever the word is meant.
    """
    if not name:
        raise EmbeddingError("The embedding needs a name, such as neg-render.")
    if len(name) > MAX_NAME_LENGTH:
        raise EmbeddingError(f"The name {name[:20]}\u2026 is too long: use at most {MAX_NAME_LENGTH} characters.")
    if illegal := sorted({c for c in name.lower() if not (c.isascii() and (c.isalnum() or c in "_-"))}):
        shown = " ".join(repr(c) for c in illegal)
        raise EmbeddingError(
            f"The name {name!r} contains {shown}: use only a-z, 0-9, - and _ (prompts break on others)."
        )
    if name != name.lower():
        raise EmbeddingError(f"The name {name} has capitals, which prompts do not tell apart: use {name.lower()}.")
    if not name[0].isalnum():
        raise EmbeddingError(
            f"The name {name} must begin with a letter or a digit: use {name.lstrip('-_') or 'neg-render'}."
        )
    if name in _RESERVED:
        raise EmbeddingError(f"The name {name} is reserved by Windows and cannot be a file there: use neg-{name}.")
    if tokenize is not None and len(tokenize(name)) < 2:
        raise EmbeddingError(
            f"The name {name} is an ordinary word that would trigger in every prompt that contains it: use neg-{name}."
        )
    return name


def stands_in(name: str, prompt: str) -> bool:
    """Whether a trigger word stands in a prompt, in whatever case: as a word, so `neg` does not in "neg-2"."""
    return re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", prompt, re.IGNORECASE) is not None


def read_embedding(path: str | Path) -> Embedding:
    """Reads A1111's .pt, diffusers' .safetensors/.bin and kohya's .safetensors/.pt; never runs code from the file.

    Raises EmbeddingError for a file that is no SD embedding, holds several, is unsafe or broken.
    """
    path = fetched(place(path))
    suffix = path.suffix.lower()
    if suffix in _IMAGE_SUFFIXES:
        raise EmbeddingError(
            f"{path} is an image, and embeddings inside images are not read: get the .pt or .safetensors."
        )
    if suffix not in EMBEDDING_SUFFIXES:
        raise EmbeddingError(f"{path} is not an embedding: those end in .pt, .safetensors or .bin.")
    try:
        size = path.stat().st_size
    except OSError as error:
        raise EmbeddingError(f"{path} cannot be read: {error.strerror}.") from error
    if size > MAX_FILE_BYTES:
        raise EmbeddingError(f"{path} has {size >> 20} MB, too large for an embedding: is it a checkpoint or a LoRA?")
    if suffix == ".safetensors":
        return _embedding_from(path, *_decode_safetensors(path))
    return _embedding_from(path, _decode_pickle(path), {})


def write_embedding(path: str | Path, embedding: Embedding, overwrite: bool = False, layout: str | None = None) -> None:
    """Writes an embedding in a layout that its ending allows (layouts.LAYOUTS), atomically.

    By default .pt is A1111's layout, .safetensors and .bin are diffusers'. Equal content gives equal bytes. The name is
    validated and must be the file's stem. Raises EmbeddingError for a bad name, vectors, metadata or layout, and
    FileExistsError for an existing file unless overwrite.
    """
    path = Path(path)
    validate_name(embedding.name)
    if path.stem != embedding.name:
        wanted = embedding.name + path.suffix
        raise EmbeddingError(f"{path.name} must be called {wanted}: the file's name is the trigger word.")
    vectors = checked_vectors(embedding.vectors, embedding.name)
    facts = {"step": embedding.step, "checkpoint_name": embedding.checkpoint_name}
    try:
        content = encode_layout(path.suffix, layout, embedding.name, vectors, _plain_metadata(embedding), facts)
    except ValueError as error:
        raise EmbeddingError(f"{path.name}: {error}") from error
    with atomic_write(path, overwrite) as temporary:
        temporary.write_bytes(content)
        # a file that this process's own torch.load (in the webui: its restricted one) cannot read gets no name
        decoded = (_decode_safetensors(temporary)[0]) if path.suffix == ".safetensors" else _decode_pickle(temporary)
        (back,) = _tensors(decoded).values()
        if not torch.equal(back, vectors):
            raise EmbeddingError(
                f"{path.name} was not written: reading it back gave other vectors; please report this."
            )


def _plain_metadata(embedding: Embedding) -> dict:
    plain = dict(embedding.metadata)
    for key, value in plain.items():
        if not isinstance(key, str) or not isinstance(value, (str, int, float, bool, type(None))):
            raise EmbeddingError(f"The metadata {key}={value!r} is not text, a number, true/false or none.")
    plain["checkpoint_hash"] = embedding.checkpoint_hash
    return dict(sorted(plain.items()))


def _decode_safetensors(path: Path) -> tuple[dict, dict]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise EmbeddingError(f"{path} is damaged or not a safetensors file: {error}.") from error


def _decode_pickle(path: Path) -> dict:
    try:
        with _allow_parameter_dict():
            data = torch.load(str(path), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise EmbeddingError(f"{path} holds more than tensors and may be malicious: it was not read.") from error
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, AttributeError, TypeError, struct.error) as error:
        # what a cut off or foreign file makes of the unpickler
        raise EmbeddingError(f"{path} is damaged or not an embedding: copy it again.") from error
    if data is None:  # the webui's own torch.load answers so after its check
        raise EmbeddingError(f"{path} holds more than tensors and may be malicious: the webui refused it.")
    if not isinstance(data, dict):
        raise EmbeddingError(f"{path} is not an embedding: it holds {type(data).__name__} instead of named tensors.")
    return data


def _allow_parameter_dict():
    """The oldest files keep their vectors in a ParameterDict; torch before 2.5 cannot be told to allow it."""
    allow = getattr(torch.serialization, "safe_globals", None)
    return allow([torch.nn.ParameterDict]) if allow else nullcontext()


def _embedding_from(path: Path, data: dict, file_metadata: Mapping[str, str]) -> Embedding:
    if "clip_g" in data or "clip_l" in data:
        raise EmbeddingError(f"{path} is an embedding for SDXL: use one made for Stable Diffusion 1.x.")
    tensors = _tensors(data)
    if any("lora_" in key for key in tensors):
        raise EmbeddingError(f"{path} is a LoRA, not an embedding.")
    if "emb_params" in tensors:
        tensors = {"emb_params": tensors["emb_params"]}
    if len(tensors) != 1:
        several = f"{len(tensors)} terms in one file" if tensors else "no vectors"
        raise EmbeddingError(f"{path} holds {several}: an embedding file has exactly one term.")
    placeholder, vectors = next(iter(tensors.items()))
    ours = _own_metadata(path, data, file_metadata)
    step = data.get("step", ours.pop("step", None))
    checkpoint = data.get("sd_checkpoint_name", ours.pop("checkpoint_name", None))
    fingerprint = ours.pop("checkpoint_hash", None) or data.get("sd_checkpoint")
    return Embedding(
        name=path.stem,
        vectors=checked_vectors(vectors, str(path)),
        step=step if isinstance(step, int) else None,
        checkpoint_name=checkpoint if isinstance(checkpoint, str) else None,
        checkpoint_hash=fingerprint if isinstance(fingerprint, str) else None,
        metadata=ours,
        placeholder=str(data.get("name") or placeholder),
        layout=layout_of(data),
    )


def _tensors(data: Mapping) -> dict[str, Tensor]:
    """The named vectors in what a file holds, whatever its layout."""
    if "string_to_param" in data:
        parameters = data["string_to_param"]
        return dict(getattr(parameters, "_parameters", None) or parameters)
    return {str(key): value for key, value in data.items() if isinstance(value, Tensor)}


def _own_metadata(path: Path, data: Mapping, file_metadata: Mapping[str, str]) -> dict:
    """What this project or another trainer wrote beside the vectors, flat."""
    if METADATA_KEY not in file_metadata:
        ours = data.get(METADATA_KEY)
        return dict(ours) if isinstance(ours, dict) else {k: v for k, v in file_metadata.items() if k != "format"}
    try:
        return dict(json.loads(file_metadata[METADATA_KEY]))
    except (ValueError, TypeError) as error:
        raise EmbeddingError(f"{path} has metadata that cannot be read: {error}.") from error
