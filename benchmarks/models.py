"""Models to measure on: a checkpoint, or networks of SD1.5's size with random weights, which cost the same."""

from __future__ import annotations

import torch
from torch import nn

from lib_negtrans.core.schedule import sd1_alphas_cumprod
from lib_negtrans.models.single_file import Networks
from lib_negtrans.models.standalone import StandaloneHost, default_model_path, load_model, load_tokenizer

RANDOM_SD15 = "random-sd15"


def benchmark_host(name: str | None, device: str | None = None, dtype: torch.dtype | None = None) -> StandaloneHost:
    """The host of a checkpoint path, of the demonstration model (None) or of `RANDOM_SD15`."""
    if name == RANDOM_SD15:
        return StandaloneHost(random_sd15(), load_tokenizer(), device=device, dtype=dtype)
    return load_model(name or default_model_path(), device=device, dtype=dtype)


def random_sd15() -> Networks:
    """UNet (860 M weights), VAE and text encoder in SD1.5's layout; always the same weights."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
        vae = AutoencoderKL(
            sample_size=512,
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            scaling_factor=0.18215,
        )
    # 123 M weights, with buffers that the meta device would lose
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
            hidden_act="quick_gelu", bos_token_id=49406, eos_token_id=49407, pad_token_id=49407,
        )
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    for network in (unet, vae, text_encoder):
        if next(network.parameters()).is_meta:
            network.to_empty(device="cpu")
        _fill(network, generator)
    # values an fp32 run stays finite with: a prediction below unit size, latents of about unit size
    unet.conv_out.weight.data.mul_(0.1)
    return Networks(unet, vae, text_encoder, sd1_alphas_cumprod())


@torch.no_grad()
def _fill(network: nn.Module, generator: torch.Generator) -> None:
    for name, weight in network.named_parameters():
        if weight.ndim > 1:
            bound = weight[0].numel() ** -0.5
            weight.uniform_(-bound, bound, generator=generator)
        else:
            weight.fill_(1.0 if name.endswith("weight") else 0.0)
