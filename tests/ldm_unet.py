"""A compact UNet with the module and attribute names of CompVis' ldm, as the webui holds it: for tests of the hooks.

Written for these tests; takes the weights of an SD1 checkpoint (its `model.diffusion_model.` part) and is numerically
equal to diffusers' UNet2DConditionModel. Class and attribute names are the interface that lib_negtrans relies on.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def timestep_embedding(timesteps: Tensor, channels: int) -> Tensor:
    half = channels // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=timesteps.device) / half)
    angles = timesteps[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class ResBlock(nn.Module):
    def __init__(self, channels: int, embedding: int, out: int):
        super().__init__()
        self.in_layers = nn.Sequential(nn.GroupNorm(32, channels), nn.SiLU(), nn.Conv2d(channels, out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding, out))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(32, out), nn.SiLU(), nn.Dropout(0.0), nn.Conv2d(out, out, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if channels == out else nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.in_layers(x) + self.emb_layers(emb)[..., None, None]
        return self.skip_connection(x) + self.out_layers(h)


class CrossAttention(nn.Module):
    def __init__(self, channels: int, context: int, heads: int):
        super().__init__()
        self.heads = heads
        self.scale = (channels // heads) ** -0.5
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(context, channels, bias=False)
        self.to_v = nn.Linear(context, channels, bias=False)
        self.to_out = nn.Sequential(nn.Linear(channels, channels), nn.Dropout(0.0))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        context = x if context is None else context
        q, k, v = (
            t.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for t in (self.to_q(x), self.to_k(context), self.to_v(context))
        )
        weights = (q @ k.transpose(-1, -2) * self.scale).softmax(dim=-1)
        return self.to_out((weights @ v).transpose(1, 2).flatten(2))


class GEGLU(nn.Module):
    def __init__(self, channels: int, inner: int):
        super().__init__()
        self.proj = nn.Linear(channels, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.net = nn.Sequential(GEGLU(channels, 4 * channels), nn.Dropout(0.0), nn.Linear(4 * channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class BasicTransformerBlock(nn.Module):
    def __init__(self, channels: int, context: int, heads: int):
        super().__init__()
        self.attn1 = CrossAttention(channels, channels, heads)
        self.ff = FeedForward(channels)
        self.attn2 = CrossAttention(channels, context, heads)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(channels) for _ in range(3))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x = self.attn1(self.norm1(x)) + x
        x = self.attn2(self.norm2(x), context=context) + x
        return self.ff(self.norm3(x)) + x


class SpatialTransformer(nn.Module):
    def __init__(self, channels: int, context: int, heads: int):
        super().__init__()
        self.norm = nn.GroupNorm(32, channels, eps=1e-6)
        self.proj_in = nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList([BasicTransformerBlock(channels, context, heads)])
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        h = self.proj_in(self.norm(x))
        height, width = h.shape[-2:]
        h = h.flatten(2).transpose(1, 2)
        for block in self.transformer_blocks:
            h = block(h, context=context)
        return self.proj_out(h.transpose(1, 2).unflatten(2, (height, width))) + x


class Downsample(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class TimestepEmbedSequential(nn.Sequential):
    """Passes the time embedding and the context on to the layers that take them."""

    def forward(self, x: Tensor, emb: Tensor, context: Tensor) -> Tensor:
        for layer in self:
            if isinstance(layer, ResBlock):
                x = layer(x, emb)
            elif isinstance(layer, SpatialTransformer):
                x = layer(x, context)
            else:
                x = layer(x)
        return x


class UNetModel(nn.Module):
    """x (B, 4, h, w), timesteps (B,) or scalar, context (B, T, width) -> (B, 4, h, w), as ldm's openaimodel.UNetModel.

    channels: width of each level; every level but the last has attention. heads: number of heads.
    """

    def __init__(self, channels: Sequence[int] = (320, 640, 1280, 1280), context: int = 768, heads: int = 8):
        super().__init__()
        first, last = channels[0], len(channels) - 1
        self.model_channels = first
        embedding = 4 * first
        self.time_embed = nn.Sequential(nn.Linear(first, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.input_blocks = nn.ModuleList([TimestepEmbedSequential(nn.Conv2d(4, first, 3, padding=1))])
        now, skips = first, [first]
        for level, width in enumerate(channels):
            for _ in range(2):
                layers = [ResBlock(now, embedding, width)]
                if level < last:
                    layers.append(SpatialTransformer(width, context, heads))
                now = width
                self.input_blocks.append(TimestepEmbedSequential(*layers))
                skips.append(now)
            if level < last:
                self.input_blocks.append(TimestepEmbedSequential(Downsample(now)))
                skips.append(now)
        self.middle_block = TimestepEmbedSequential(
            ResBlock(now, embedding, now), SpatialTransformer(now, context, heads), ResBlock(now, embedding, now)
        )
        self.output_blocks = nn.ModuleList()
        for level, width in reversed(list(enumerate(channels))):
            for index in range(3):
                layers = [ResBlock(now + skips.pop(), embedding, width)]
                now = width
                if level < last:
                    layers.append(SpatialTransformer(width, context, heads))
                if level > 0 and index == 2:
                    layers.append(Upsample(now))
                self.output_blocks.append(TimestepEmbedSequential(*layers))
        self.out = nn.Sequential(nn.GroupNorm(32, first), nn.SiLU(), nn.Conv2d(first, 4, 3, padding=1))

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        emb = self.time_embed(timestep_embedding(timesteps.reshape(-1).expand(x.shape[0]), self.model_channels).to(x))
        skips = []
        for block in self.input_blocks:
            x = block(x, emb, context)
            skips.append(x)
        x = self.middle_block(x, emb, context)
        for block in self.output_blocks:
            x = block(torch.cat([x, skips.pop()], dim=1), emb, context)
        return self.out(x)


# --- pairs of equal UNets for the tests of the core


def draw_weights(module: nn.Module, seed: int) -> None:
    """Fill a module with weights that depend on the seed and the names only, whatever torch draws by itself."""
    rng = np.random.Generator(np.random.PCG64(seed))
    state = module.state_dict()
    for name in sorted(state):
        shape = tuple(state[name].shape)
        values = rng.standard_normal(shape)
        # 1-d: gains around 1 and biases around 0; else unit gain, as the inputs of each layer have unit variance
        values = (
            0.1 * values + float(name.endswith("weight"))
            if len(shape) == 1
            else values / math.sqrt(math.prod(shape[1:]))
        )
        state[name].copy_(torch.from_numpy(values))


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def diffusers_unet(seed: int = 0, gain: float = 1.0):
    """diffusers' SD1 UNet with 32..64 channels and drawn weights, frozen, float32; gain scales its output.

    A drawn network magnifies rounding errors from step to step where a trained one does not: a small gain avoids that.
    """
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 32, 64, 64),
        cross_attention_dim=16,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    )
    draw_weights(unet, seed)
    unet.conv_out.weight.data.mul_(gain)
    return unet.eval().requires_grad_(False)


def ldm_twin(unet) -> UNetModel:
    """The same network as an ldm module: the weights under the names of a single-file checkpoint."""
    tools = str(Path(__file__).resolve().parents[1] / "tools" / "demo_model")
    sys.path.insert(0, tools)
    try:
        export = importlib.import_module("export")
    finally:
        sys.path.remove(tools)
    prefix = "model.diffusion_model."
    state = {key.removeprefix(prefix): value for key, value in export.unet_to_ldm(unet.state_dict()).items()}
    config = unet.config
    twin = UNetModel(config.block_out_channels, config.cross_attention_dim, config.attention_head_dim)
    twin.load_state_dict(state)
    return twin.eval().requires_grad_(False)


def call(unet: nn.Module, latent: Tensor, timestep: int, context: Tensor) -> Tensor:
    """The prediction of either kind of UNet, for latent (B, 4, h, w) and context (B, T, width)."""
    output = unet(latent, torch.tensor(timestep, device=latent.device), context)
    return output if isinstance(output, Tensor) else output.sample
