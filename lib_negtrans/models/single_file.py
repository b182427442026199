"""Single-file Stable Diffusion 1 checkpoints (.safetensors, .ckpt): what a file is, and its three networks.

Widths and depths are read off the tensors' shapes; what shapes cannot tell (heads, schedule, prediction type) is in the
`.yaml` beside the file, or is SD1.5's. The renaming of the tensors is diffusers' own.
"""

from __future__ import annotations

import inspect
import pickle
import re
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lib_negtrans.core.schedule import sd1_alphas_cumprod

from .protocol import HostError

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
TEXT_PREFIX = "cond_stage_model.transformer."
SUFFIXES = (".safetensors", ".ckpt", ".pt")
SD1_BY_CHANNELS = {4: "SD1", 9: "SD1 inpainting", 8: "SD1 InstructPix2Pix"}  # by what the UNet takes


@dataclass(frozen=True)
class LdmConfig:
    """What the tensors' shapes do not tell; the defaults are SD1.5's."""

    heads: int = 8
    head_channels: int | None = None  # instead of heads: so many channels per head
    scaling_factor: float = 0.18215
    prediction_type: str = "epsilon"
    linear_start: float = 0.00085
    linear_end: float = 0.012
    clip_version: str = ""  # where the webui would find the text encoder's config and tokenizer


@dataclass
class Networks:
    """The parts a host is made of; alphas_cumprod (1000,) float64."""

    unet: Any  # modules of diffusers and transformers
    vae: Any
    text_encoder: Any
    alphas_cumprod: Tensor
    scaling_factor: float = 0.18215
    prediction_type: str = "epsilon"
    tokenizer_folders: list[Path] = field(default_factory=list)  # where to look for vocab.json, in this order


def read_state_dict(path: Path, suffix: str | None = None) -> dict[str, Tensor]:
    """All tensors of a checkpoint, on the CPU; those of a .ckpt stay in the file until they are used, where torch can.

    suffix: what the file is, where its name has another ending. Raises HostError for a file that is damaged or holds
    pickled objects.
    """
    try:
        if (suffix or path.suffix.lower()) == ".safetensors":
            return load_file(path, device="cpu")
        lazy = zipfile.is_zipfile(path) and "mmap" in inspect.signature(torch.load).parameters
        content = torch.load(path, map_location="cpu", weights_only=True, **({"mmap": True} if lazy else {}))
    except pickle.UnpicklingError as error:
        raise HostError(
            f"{path} holds more than tensors, or is no checkpoint, so it was not read: convert it to .safetensors "
            "(in the webui: Checkpoint Merger, one model, format safetensors)."
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError) as error:
        raise HostError(f"{path} cannot be read, it may be cut off: download or copy it again ({error}).") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else {}
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise HostError(f"{path} holds no tensors: give a Stable Diffusion 1.x checkpoint.")
    return tensors


def family(shapes: dict[str, tuple[int, ...]]) -> str:
    """What tensors of these shapes are: "SD1", or "SD1 inpainting", "SD2", "SDXL", "LoRA", ..., or "unknown"."""
    if any("lora_" in key for key in shapes):
        return "LoRA"
    if any(".joint_blocks." in key for key in shapes):
        return "SD3"
    if any("double_blocks." in key or "double_stream" in key for key in shapes):
        return "Flux"
    if any(key.startswith("conditioner.embedders.") for key in shapes):
        return "SDXL"
    first = shapes.get(UNET_PREFIX + "input_blocks.0.0.weight")
    if first is None:
        if any(key.startswith(("encoder.down.", "encoder.down_blocks.", "first_stage_model.")) for key in shapes):
            return "VAE"
        return "UNet in diffusers layout" if "conv_in.weight" in shapes and "conv_out.weight" in shapes else "unknown"
    contexts = {s[1] for key, s in shapes.items() if key.startswith(UNET_PREFIX) and key.endswith("attn2.to_k.weight")}
    if any(key.startswith("cond_stage_model.model.") for key in shapes) or contexts == {1024}:
        return "SD2"
    if 2048 in contexts or 1280 in contexts:
        return "SDXL"
    return SD1_BY_CHANNELS.get(first[1], "unknown")


def refuse_other_families(path: Path, name: str) -> None:
    """Raises HostError unless the family is SD1."""
    if name == "unknown":
        raise HostError(f"{path} is not a Stable Diffusion checkpoint: give an SD1.x .safetensors or .ckpt file.")
    if name != "SD1":
        raise HostError(
            f"{path} is of the kind {name}, and this works with Stable Diffusion 1.x only: give such a checkpoint."
        )


def read_config(path: Path) -> LdmConfig:
    """The `.yaml` beside a checkpoint, or SD1.5's values where there is none. Raises HostError for a broken one."""
    file = path.with_suffix(".yaml")
    if not file.is_file():
        return LdmConfig()
    try:
        params = yaml.safe_load(file.read_text(encoding="utf-8"))["model"]["params"]
        unet = params["unet_config"]["params"]
        clip = (params.get("cond_stage_config") or {}).get("params") or {}
        per_head = int(unet.get("num_head_channels", -1))
        return LdmConfig(
            heads=int(unet.get("num_heads", 8)), head_channels=per_head if per_head > 0 else None,
            scaling_factor=float(params.get("scale_factor", 0.18215)),
            prediction_type="v_prediction" if params.get("parameterization") == "v" else "epsilon",
            linear_start=float(params.get("linear_start", 0.00085)), linear_end=float(params.get("linear_end", 0.012)),
            clip_version=str(clip.get("version", "")),
        )  # fmt: skip
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise HostError(f"{file} is no Stable Diffusion 1 config ({error!r}): correct it, or move it away.") from error


def load_single_file(path: Path) -> Networks:
    """The networks of a checkpoint file, in float32. Raises HostError for anything but SD1."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
    from transformers import CLIPTextModel

    state = read_state_dict(path)
    refuse_other_families(path, family({key: tuple(value.shape) for key, value in state.items()}))
    config = read_config(path)
    beside = [path.parent / Path(config.clip_version).name] if config.clip_version else []
    folders = [*beside, path.parent / f"{path.stem}-clip", path.parent / "clip"]

    v_prediction = config.prediction_type == "v_prediction" or "v_pred" in state
    wanted = (UNET_PREFIX, VAE_PREFIX, TEXT_PREFIX)
    state = {key: value.float() for key, value in state.items() if key.startswith(wanted)}
    try:
        unet_config, vae_config = unet_config_of(state, config), vae_config_of(state)
        text = text_state(state)
        text_config = text_config_of(text, folders)
    except (KeyError, IndexError) as error:
        raise HostError(f"{path} lacks {error}: a checkpoint has a UNet, a VAE and a text encoder.") from error
    unet = UNet2DConditionModel(**unet_config)
    _load(path, "UNet", unet, convert_ldm_unet_checkpoint(state, unet_config))
    vae = AutoencoderKL(**vae_config)
    _load(path, "VAE", vae, convert_ldm_vae_checkpoint(state, vae_config))
    text_encoder = CLIPTextModel(text_config)
    _load(path, "text encoder", text_encoder, text)
    return Networks(
        unet, vae, text_encoder, sd1_alphas_cumprod(config.linear_start, config.linear_end), config.scaling_factor,
        "v_prediction" if v_prediction else "epsilon", folders,
    )  # fmt: skip


def _load(path: Path, part: str, module: Any, state: dict[str, Tensor]) -> None:
    try:
        missing = module.load_state_dict(state, strict=False).missing_keys
    except RuntimeError as error:  # shapes
        raise HostError(f"The {part} of {path} has an unknown shape: {str(error).splitlines()[-1].strip()}") from error
    missing = [key for key in missing if not key.endswith("position_ids")]
    if missing:
        raise HostError(
            f"The {part} of {path} lacks {len(missing)} tensors, such as {missing[0]}: copy the file again."
        )


def unet_config_of(state: dict[str, Tensor], config: LdmConfig) -> dict:
    """UNet2DConditionModel's arguments, from the tensors' shapes. Raises KeyError for a missing tensor."""
    key = UNET_PREFIX + "input_blocks."
    widths, attention, layers, number = [], [], 0, 1
    in_level = 0
    while any(name.startswith(f"{key}{number}.") for name in state):
        if f"{key}{number}.0.op.weight" in state:
            in_level = 0
        else:
            width = state[f"{key}{number}.0.out_layers.3.weight"].shape[0]
            if in_level == 0:
                widths.append(width)
                attention.append(f"{key}{number}.1.norm.weight" in state)
            in_level += 1
            layers = max(layers, in_level)
        number += 1
    context = state[UNET_PREFIX + "middle_block.1.transformer_blocks.0.attn2.to_k.weight"].shape[1]
    down = ["CrossAttnDownBlock2D" if has else "DownBlock2D" for has in attention]
    up = ["CrossAttnUpBlock2D" if has else "UpBlock2D" for has in reversed(attention)]
    # diffusers calls the number of heads attention_head_dim
    heads = [width // config.head_channels for width in widths] if config.head_channels else config.heads
    return {
        "sample_size": 64,
        "in_channels": state[key + "0.0.weight"].shape[1],
        "out_channels": state[UNET_PREFIX + "out.2.weight"].shape[0],
        "block_out_channels": tuple(widths),
        "layers_per_block": layers,
        "down_block_types": tuple(down),
        "up_block_types": tuple(up),
        "attention_head_dim": heads,
        "cross_attention_dim": context,
        "use_linear_projection": state[UNET_PREFIX + "middle_block.1.proj_in.weight"].ndim == 2,
    }


def vae_config_of(state: dict[str, Tensor]) -> dict:
    """AutoencoderKL's arguments, from the tensors' shapes. Raises KeyError for a missing tensor."""
    key = VAE_PREFIX + "encoder.down."
    block = re.compile(re.escape(key) + r"(\d+)\.block\.(\d+)\.")
    found = [(int(m[1]), int(m[2])) for name in state if (m := block.match(name))]
    levels = 1 + max((level for level, _ in found), default=0)
    widths = tuple(state[f"{key}{level}.block.0.conv2.weight"].shape[0] for level in range(levels))
    return {
        "sample_size": 512,
        "block_out_channels": widths,
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "layers_per_block": 1 + max(number for _, number in found),
        "latent_channels": state[VAE_PREFIX + "decoder.conv_in.weight"].shape[1],
    }


def text_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """CLIPTextModel's tensors. Raises KeyError when there are none."""
    text = {key[len(TEXT_PREFIX) :]: value for key, value in state.items() if key.startswith(TEXT_PREFIX)}
    # some old checkpoints leave out "text_model."; position_ids is a constant that merges turn into floats
    text = {key if key.startswith("text_model.") else f"text_model.{key}": value for key, value in text.items()}
    text.pop("text_model.embeddings.position_ids", None)
    if not text:
        raise KeyError(TEXT_PREFIX + "*")
    return text


def text_config_of(text: dict[str, Tensor], folders: list[Path]):
    """CLIPTextConfig from the tensors' shapes; heads and activation from a config.json in `folders`, or CLIP-L's."""
    from transformers import CLIPTextConfig

    vocabulary, width = text["text_model.embeddings.token_embedding.weight"].shape
    layers = {int(m[1]) for key in text if (m := re.match(r"text_model\.encoder\.layers\.(\d+)\.", key))}
    # heads of 64 channels, as every CLIP has
    config = CLIPTextConfig(hidden_act="quick_gelu", num_attention_heads=max(width // 64, 1))
    if found := next((folder / "config.json" for folder in folders if (folder / "config.json").is_file()), None):
        config = CLIPTextConfig.from_json_file(found)
    config.update(
        {
            "vocab_size": vocabulary,
            "hidden_size": width,
            "num_hidden_layers": len(layers),
            "intermediate_size": text["text_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
            "max_position_embeddings": text["text_model.embeddings.position_embedding.weight"].shape[0],
        }
    )
    return config
