"""Stable Diffusion 1 models in diffusers' layout: a folder with model_index.json and one folder for each part."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from lib_negtrans.core.schedule import sd1_alphas_cumprod

from .protocol import HostError
from .single_file import SD1_BY_CHANNELS, Networks, refuse_other_families


def load_folder(path: Path) -> Networks:
    """The networks of a folder that StableDiffusionPipeline saved, in float32. Raises HostError for other models."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

    def config(name: str) -> dict:
        try:
            return json.loads((path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise HostError(f"{path} is not a diffusers folder of Stable Diffusion 1.x: it lacks {name}.") from error

    kind = config("model_index.json").get("_class_name", "")
    sizes = config("unet/config.json")
    family = SD1_BY_CHANNELS.get(sizes.get("in_channels", 0), "unknown")
    if (path / "text_encoder_2").exists() or "XL" in kind:
        family = "SDXL"
    elif "StableDiffusion3" in kind or "Flux" in kind:
        family = kind.removesuffix("Pipeline")
    elif sizes.get("cross_attention_dim") == 1024:
        family = "SD2"
    refuse_other_families(path, family)
    scheduler = config("scheduler/scheduler_config.json")
    if scheduler.get("beta_schedule", "scaled_linear") != "scaled_linear" or scheduler.get("rescale_betas_zero_snr"):
        raise HostError(f"{path} does not have the noise schedule of Stable Diffusion 1.x: use another model.")
    how = {"local_files_only": True, "torch_dtype": torch.float32}
    try:
        unet, vae, text_encoder = (
            cls.from_pretrained(path / part, variant=_variant(path / part), **how)
            for cls, part in ((UNet2DConditionModel, "unet"), (AutoencoderKL, "vae"), (CLIPTextModel, "text_encoder"))
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise HostError(f"{path} cannot be loaded, it may be incomplete: {str(error).splitlines()[0]}") from error
    start, end = scheduler.get("beta_start", 0.00085), scheduler.get("beta_end", 0.012)
    return Networks(
        unet, vae, text_encoder, alphas_cumprod=sd1_alphas_cumprod(start, end),
        scaling_factor=vae.config.scaling_factor, prediction_type=scheduler.get("prediction_type", "epsilon"),
        tokenizer_folders=[path / "tokenizer"],
    )  # fmt: skip


def _variant(part: Path) -> str | None:
    """ "fp16" where only half-precision weights were downloaded."""
    weights = [file.name for file in part.glob("*") if file.suffix in (".safetensors", ".bin")]
    return "fp16" if weights and all(".fp16." in name for name in weights) else None
