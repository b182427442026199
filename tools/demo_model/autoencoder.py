"""The demonstration model's autoencoder: SD1's AutoencoderKL, made so that small widths keep absolute colour.

A group norm takes the mean and the scale of every group away, and SD1's has 32 groups. With 32 channels before the
last norm that is every channel's own mean: a constant picture cannot pass, except by marks at the borders (the former
model's frame, wrong colours, and 25 dB). Two things help, both inside SD1's layout:
- 64 channels at full resolution: differences between the two channels of a group are absolute.
- The norms are trained with an epsilon of EPSILON instead of 1e-6, so that they are almost linear where signals are
  small. `fold` divides everything a norm reads by STREAM = sqrt(EPSILON / 1e-6) afterwards, and nothing changes.

The attention in the middle is switched off (all its weights 0): an autoencoder this small is local, and a local one
behaves on a whole picture as on the crops it was trained on.
"""

import copy

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor, nn

SCALE = 0.18215
STREAM = 512.0
EPSILON = 1e-6 * STREAM**2
IDENTITY = frozenset({"down0.0"})  # the encoder's block at full resolution: never trained, adds 0, may be skipped
CONFIG = {
    "sample_size": 256,
    "block_out_channels": (64, 64, 128, 128),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 1,
    "latent_channels": 4,
    "scaling_factor": SCALE,
}


def make_autoencoder(soft: bool = False, **changes) -> AutoencoderKL:
    """With `soft` the norms have the training epsilon, else SD1's. The log variance is a constant -20: sampling a
    latent is taking its mean."""
    vae = AutoencoderKL(**(CONFIG | changes))
    with torch.no_grad():
        vae.encoder.conv_out.weight[4:] = 0
        vae.encoder.conv_out.bias[4:] = -20
        for conv in (vae.quant_conv, vae.post_quant_conv):
            conv.weight.copy_(torch.eye(conv.weight.shape[0])[:, :, None, None])
            conv.bias.zero_()
            conv.requires_grad_(False)
        for half in (vae.encoder, vae.decoder):
            for p in half.mid_block.attentions.parameters():
                p.zero_()
                p.requires_grad_(False)
        for name, p in vae.named_parameters():
            if name.endswith("conv2.weight"):
                p.mul_(0.5)
    if soft:
        for module in vae.modules():
            if isinstance(module, nn.GroupNorm):
                module.eps = EPSILON
    return vae


@torch.no_grad()
def fold(vae: AutoencoderKL) -> AutoencoderKL:
    """A copy of a network trained with the soft epsilon that gives the same with SD1's."""
    folded = copy.deepcopy(vae)
    for name, module in folded.named_modules():
        if isinstance(module, nn.GroupNorm):
            module.eps = 1e-6
        last = name.rsplit(".", 1)[-1]
        if last in ("conv_out", "quant_conv", "post_quant_conv") or not isinstance(module, nn.Conv2d):
            continue
        module.bias /= STREAM  # writes what a norm reads
        if last in ("conv_in", "conv1", "conv2"):
            module.weight /= STREAM  # and reads what no norm reads
    return folded


def resnet(block: nn.Module, h: Tensor) -> Tensor:
    x = block.conv1(F.silu(block.norm1(h), inplace=True))
    x = block.conv2(F.silu(block.norm2(x), inplace=True))
    return x + (h if block.conv_shortcut is None else block.conv_shortcut(h))


def upsample(conv: nn.Conv2d, h: Tensor) -> Tensor:
    """`conv` of the picture doubled by repetition. Each of the four output positions sees two by two pixels only, so
    four small convolutions do the same in 4/9 of the operations."""
    n, _, height, width = h.shape
    w = conv.weight
    rows = (
        torch.stack([w[:, :, 0], w[:, :, 1] + w[:, :, 2]], 2),
        torch.stack([w[:, :, 0] + w[:, :, 1], w[:, :, 2]], 2),
    )
    small = [
        torch.stack(pair, 3)
        for r in rows
        for pair in ((r[..., 0], r[..., 1] + r[..., 2]), (r[..., 0] + r[..., 1], r[..., 2]))
    ]
    y = F.conv2d(h, torch.cat(small), conv.bias.repeat(4), padding=1)
    y = y.view(n, 2, 2, -1, height + 1, width + 1)
    parts = [y[:, a, b, :, a : a + height, b : b + width] for a in (0, 1) for b in (0, 1)]
    out = torch.stack(parts, -1).view(n, -1, height, width, 2, 2)
    return out.permute(0, 1, 2, 4, 3, 5).reshape(n, -1, 2 * height, 2 * width)


def encode(vae: AutoencoderKL, x: Tensor, skip: frozenset = IDENTITY) -> Tensor:
    """Pictures (n, 3, h, w) in [-1, 1] -> mean latents (n, 4, h/8, w/8), not scaled. `skip`: blocks left out."""
    net = vae.encoder
    h = net.conv_in(x)
    for i, down in enumerate(net.down_blocks):
        for j, block in enumerate(down.resnets):
            if f"down{i}.{j}" not in skip:
                h = resnet(block, h)
        if down.downsamplers is not None:
            h = down.downsamplers[0].conv(F.pad(h, (0, 1, 0, 1)))
    for block in net.mid_block.resnets:
        h = resnet(block, h)
    return F.conv2d(F.silu(net.conv_norm_out(h)), net.conv_out.weight[:4], net.conv_out.bias[:4], padding=1)


def decode(vae: AutoencoderKL, z: Tensor, skip: frozenset = frozenset()) -> Tensor:
    """Latents, not scaled -> pictures in [-1, 1] (not clamped)."""
    net = vae.decoder
    h = net.conv_in(z)
    for block in net.mid_block.resnets:
        h = resnet(block, h)
    for i, up in enumerate(net.up_blocks):
        for j, block in enumerate(up.resnets):
            if f"up{i}.{j}" not in skip:
                h = resnet(block, h)
        if up.upsamplers is not None:
            h = upsample(up.upsamplers[0].conv, h)
    return net.conv_out(F.silu(net.conv_norm_out(h), inplace=True))
