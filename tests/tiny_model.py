"""A tiny random model in SD1 layout for tests: made in memory in a second, no file and no network needed."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from lib_negtrans.core.schedule import sd1_alphas_cumprod
from lib_negtrans.models.single_file import Networks
from lib_negtrans.models.standalone import StandaloneHost, load_tokenizer

WIDTH = 64
TOOLS = Path(__file__).resolve().parents[1] / "tools" / "demo_model"


def tiny_networks(seed: int = 0, norm_groups: int = 32) -> Networks:
    """SD1's four levels, attention in three of them, with 32..64 channels; predictions of about unit size.

    norm_groups: with the default, at the lowest level of a picture of 64x64 two numbers are normalised together and
    come out as about -1 and 1 whatever they were: gradients then make a thousand times more of a rounding. 8 is smooth.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(32, 32, 64, 64),
            layers_per_block=2,
            cross_attention_dim=WIDTH,
            attention_head_dim=8,
            norm_num_groups=norm_groups,
            down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        )
        vae = AutoencoderKL(
            sample_size=64,
            block_out_channels=(32, 32, 32, 32),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=1,
            latent_channels=4,
            scaling_factor=0.18215,
        )
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=49408,
                hidden_size=WIDTH,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=4,
                hidden_act="quick_gelu",
                bos_token_id=49406,
                eos_token_id=49407,
                pad_token_id=49407,
            )
        )
        with torch.no_grad():
            for name, weight in text_encoder.named_parameters():
                if "embedding" in name:
                    weight.normal_(std=0.3)  # initialised at .02, words would hardly differ
            # the webui's emphasis divides by the mean, which real CLIP keeps away from 0
            text_encoder.text_model.final_layer_norm.bias.normal_(-0.11, 0.3)
            unet.conv_out.weight.mul_(3.0)
            vae.decoder.conv_out.weight.mul_(3.0)
            vae.quant_conv.weight[:4].mul_(8.0)  # latents of about unit size after scaling
    return Networks(unet, vae, text_encoder, sd1_alphas_cumprod())


def tiny_host(seed: int = 0, dtype: torch.dtype = torch.float32, clip_skip: int = 1) -> StandaloneHost:
    """A host on the CPU; 64x64 images have latents of 8x8."""
    return StandaloneHost(tiny_networks(seed), load_tokenizer(), device="cpu", dtype=dtype, clip_skip=clip_skip)


def ldm_state(networks: Networks) -> dict[str, torch.Tensor]:
    """The networks' tensors under the names of a single-file SD1 checkpoint."""
    sys.path.insert(0, str(TOOLS))
    try:
        export = importlib.import_module("export")
    finally:
        sys.path.remove(str(TOOLS))
    state = export.unet_to_ldm(networks.unet.state_dict()) | export.vae_to_ldm(networks.vae.state_dict())
    state |= export.text_to_ldm(networks.text_encoder.state_dict())
    return {key: value.contiguous().clone() for key, value in state.items()}


def write_folder(networks: Networks, folder: Path) -> Path:
    """The networks as a diffusers folder of the kind StableDiffusionPipeline."""
    import json

    networks.unet.save_pretrained(folder / "unet")
    networks.vae.save_pretrained(folder / "vae")
    networks.text_encoder.save_pretrained(folder / "text_encoder")
    load_tokenizer().save_pretrained(folder / "tokenizer")
    (folder / "scheduler").mkdir()
    scheduler = {
        "_class_name": "DDIMScheduler",
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
    }
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(scheduler))
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    return folder
