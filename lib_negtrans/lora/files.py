"""LoRA files: every layout is read, kohya's is written. No host."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lib_negtrans.files import atomic_write, fetched, place, sha256_of
from lib_negtrans.models.protocol import HostError
from lib_negtrans.models.safetensors_writer import write_safetensors
from lib_negtrans.models.single_file import read_state_dict

from . import layouts
from .names import TEXT_PREFIX, UNET_PREFIX, is_text

SUFFIXES = (".safetensors", ".pt", ".bin", ".ckpt")
SHOWN_KEYS = 3


class LoraError(HostError):
    """A LoRA file cannot be used, or not with this model; the message is one sentence that says what to do."""


class LoraPair(NamedTuple):
    """What a LoRA adds to one module: (alpha / rank) * up @ down.

    down (rank, in) or (rank, in, kh, kw); up (out, rank) or (out, rank, 1, 1); mid None, or with LyCORIS' small
    kernels (rank, rank, kh, kw) between a down and an up of 1x1.
    """

    down: Tensor
    up: Tensor
    mid: Tensor | None
    alpha: float

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    def delta(self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Tensor:
        """What is added to the module's weight at weight 1: (out, in) or (out, in, kh, kw)."""
        down, up = self.down.to(device, dtype), self.up.to(device, dtype).flatten(1)
        if self.mid is not None:
            added = torch.einsum("nmkl,in,mj->ijkl", self.mid.to(device, dtype), up, down.flatten(1))
        else:
            added = (up @ down.flatten(1)).reshape(len(up), *down.shape[1:])
        return added * (self.alpha / self.rank)


@dataclass(frozen=True)
class LoraFile:
    """What a LoRA file holds: pairs by kohya name, and bundled embeddings (n, width) by trigger word.

    name: as prompts have it, `<lora:name:1>`. layout: "kohya", "diffusers" or "peft". metadata: of the file's header.
    """

    path: Path
    name: str
    pairs: dict[str, LoraPair]
    layout: str
    metadata: dict[str, str] = field(default_factory=dict)
    embeddings: dict[str, Tensor] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        """The largest of its modules' ranks."""
        return max(pair.rank for pair in self.pairs.values())

    @cached_property
    def sha256(self) -> str:
        return sha256_of([self.path])

    @cached_property
    def webui_hash(self) -> str:
        """The hash by which the webui's `Lora hashes` name the file, hex: of the tensors alone, where it can."""
        if stated := self.metadata.get("sshs_model_hash"):
            return stated
        if self.path.suffix.lower() != ".safetensors":
            return self.sha256
        digest = hashlib.sha256()
        with self.path.open("rb") as stream:
            stream.seek(struct.unpack("<Q", stream.read(8))[0], 1)
            while block := stream.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()


def read_lora(path: str | Path) -> LoraFile:
    """Reads a LoRA or LoCon in kohya's, diffusers' or peft's layout; never runs code from the file.

    What it is made for is told by its keys and widths; whether a model has the modules is told by `apply`. Raises
    LoraError for what is no LoRA for SD1, for unknown keys (the first ones are named), and for a damaged file.
    """
    path = fetched(place(path))
    if path.is_dir():
        raise LoraError(f"{path} is a folder: name the LoRA file in it.")
    if path.suffix.lower() not in SUFFIXES:
        raise LoraError(f"{path} is not a LoRA: those end in {', '.join(SUFFIXES)}.")
    if not path.is_file():
        raise LoraError(f"There is no {path}: name a LoRA file.")
    tensors, metadata = _tensors(path)
    bundled = {key: found for key in tensors if (found := layouts.bundled_key(key)) is not None}
    weights = {key: value for key, value in tensors.items() if key not in bundled}
    shapes = {key: tuple(value.shape) for key, value in weights.items()}
    if kind := layouts.other_kind(shapes):
        raise LoraError(f"{path} is {kind}, and only LoRA and LoCon files are read: merge it into a checkpoint first.")
    if model := layouts.other_model(shapes):
        raise LoraError(
            f"{path} was made for {model}, and this works with Stable Diffusion 1.x only: use another LoRA."
        )
    layout = layouts.layout_of(shapes)
    pairs = _pairs(path, weights, _alphas(path, layout, metadata))
    name = path.parent.name if path.stem == "adapter_model" else path.stem
    vectors = {name: tensors[key] for key, (name, rest) in bundled.items() if _holds_vectors(rest)}
    return LoraFile(path, name, pairs, layout, metadata, vectors)


def write_lora(
    path: str | Path,
    pairs: Mapping[str, LoraPair],
    metadata: Mapping[str, str],
    dtype: torch.dtype | None = torch.float16,
    overwrite: bool = False,
    embeddings: Mapping[str, Tensor] | None = None,
) -> None:
    """Writes a .safetensors in kohya's layout, atomically; equal content gives equal bytes.

    dtype: of the pairs, None leaves each its own; alphas and embeddings (trigger word -> (n, width)) are written in
    float32. What was written is read back and compared. Raises LoraError for no pairs, for numbers that dtype cannot
    hold and for metadata that is not text, FileExistsError for an existing file unless overwrite, OSError.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise LoraError(f"{path.name} must end in .safetensors.")
    if wrong := [key for key, value in metadata.items() if not isinstance(key, str) or not isinstance(value, str)]:
        raise LoraError(f"The metadata {wrong[0]} of {path.name} is not text: files hold nothing else there.")
    tensors: dict[str, Tensor] = {}
    for name, pair in pairs.items():
        for part, value in (("down", pair.down), ("up", pair.up), ("mid", pair.mid)):
            if value is not None:
                tensors[f"{name}.lora_{part}.weight"] = value.detach().to("cpu", dtype or value.dtype)
        tensors[f"{name}.alpha"] = torch.tensor(float(pair.alpha), dtype=torch.float32)
    for name, vectors in (embeddings or {}).items():
        tensors[f"bundle_emb.{name}.string_to_param.*"] = vectors.detach().to("cpu", torch.float32)
    if bad := next((key for key, value in tensors.items() if not torch.isfinite(value).all()), None):
        kind = str(tensors[bad].dtype).removeprefix("torch.")
        raise LoraError(f"{path.name} was not written: {bad} has numbers that {kind} cannot hold, or NaN.")
    with atomic_write(path, overwrite) as temporary:
        with temporary.open("wb") as stream:
            write_safetensors(stream, tensors, metadata)
        back, _ = _safetensors(temporary)
        parsed = _pairs(path, {key: value for key, value in back.items() if layouts.bundled_key(key) is None}, None)
        if back.keys() != tensors.keys() or any(not torch.equal(back[key], tensors[key]) for key in back):
            raise LoraError(f"{path.name} was not written: reading it back gave other numbers; please report this.")
        if parsed.keys() != pairs.keys():
            raise LoraError(f"{path.name} was not written: its modules have other names than LoRA files may have.")


def _holds_vectors(rest: str) -> bool:
    return rest.startswith("string_to_param.") or rest == "emb_params"


def _tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if path.suffix.lower() == ".safetensors":
        return _safetensors(path)
    try:
        return read_state_dict(path), {}
    except HostError as error:
        raise LoraError(
            f"{path} cannot be read as a LoRA: it is an embedding, holds more than tensors, or is damaged."
        ) from error


def _safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise LoraError(f"{path} is damaged or not a safetensors file: copy it again ({error}).") from error


def _alphas(path: Path, layout: str, metadata: Mapping[str, str]) -> dict[str, dict[str, Any]] | None:
    """peft's configuration by network prefix, where the layout keeps alphas there and not as tensors."""
    try:
        if layout == "peft":
            config = json.loads((path.parent / "adapter_config.json").read_text(encoding="utf-8"))
            return {UNET_PREFIX: config, TEXT_PREFIX: config}
        if layout == "diffusers" and (stated := metadata.get("lora_adapter_metadata")):
            config = json.loads(stated)
            networks = {"unet.": UNET_PREFIX, "text_encoder.": TEXT_PREFIX}
            return {
                prefix: found
                for start, prefix in networks.items()
                if (found := {key[len(start) :]: value for key, value in config.items() if key.startswith(start)})
            }
    except OSError as error:
        raise LoraError(
            f"{path} is in peft's layout, whose alpha is in adapter_config.json: put that file beside it."
        ) from error
    except (ValueError, AttributeError) as error:
        raise LoraError(f"The configuration that belongs to {path} cannot be read: save the LoRA again.") from error
    return None


def _pairs(path: Path, weights: Mapping[str, Tensor], configs: dict[str, dict[str, Any]] | None) -> dict[str, LoraPair]:
    """The pairs of a file's tensors. Raises LoraError for keys of no LoRA, halves of pairs and impossible shapes."""
    parsed = {key: layouts.parse_key(key) for key in weights}
    if unknown := [key for key, found in parsed.items() if found is None]:
        raise LoraError(
            f"{path} is no LoRA that can be used here: {len(unknown)} of its {len(weights)} keys are unknown, such as "
            f"{', '.join(unknown[:SHOWN_KEYS])}."
        )
    modules: dict[str, dict[str, Tensor]] = {}
    for key, found in parsed.items():
        if found is not None:
            modules.setdefault(found[0], {})[found[1]] = weights[key]
    if not modules:
        raise LoraError(f"{path} holds no LoRA weights.")
    return {name: _pair(path, name, parts, configs) for name, parts in modules.items()}


def _pair(path: Path, name: str, parts: Mapping[str, Tensor], configs: dict[str, dict[str, Any]] | None) -> LoraPair:
    down, up, mid = parts.get(layouts.DOWN), parts.get(layouts.UP), parts.get(layouts.MID)
    if down is None or up is None:
        raise LoraError(f"{path} is incomplete: {name} has not both of its matrices, so download or copy it again.")
    rank = down.shape[0]
    fits = down.ndim in (2, 4) and up.ndim in (2, 4) and rank > 0 and up[0].numel() == rank
    if not fits or (
        mid is not None and (mid.ndim != 4 or mid.shape[:2] != (rank, rank) or down[0].numel() != down.shape[1])
    ):
        raise LoraError(f"{path} is damaged: the matrices of {name} do not fit together.")
    if any(tensor is not None and not torch.isfinite(tensor).all() for tensor in (down, up, mid)):
        raise LoraError(f"{path} contains NaN or infinity: its training diverged, use an earlier checkpoint of it.")
    alpha = float(rank)
    try:
        if layouts.ALPHA in parts:
            alpha = float(parts[layouts.ALPHA].float().item())
        elif configs and (config := configs.get(TEXT_PREFIX if is_text(name) else UNET_PREFIX)):
            alpha = layouts.configured_alpha(config, name, rank)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise LoraError(f"{path} has an alpha for {name} that cannot be read: save the LoRA again.") from error
    if not alpha > 0 or alpha == float("inf"):
        raise LoraError(
            f"{path} has alpha {alpha:g} for {name}, which programs read in different ways: give it a number above 0."
        )
    return LoraPair(down, up, mid, alpha)
