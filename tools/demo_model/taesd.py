"""The teacher TAESD (MIT, Ollin Boer Bohan): pictures in [0, 1] <-> SD1 latents already times 0.18215."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn


class Block(nn.Module):
    def __init__(self, width: int = 64):
        super().__init__()
        convs = [nn.Conv2d(width, width, 3, padding=1) for _ in range(3)]
        self.conv = nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.ReLU(), convs[2])

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x) + x)


class Clamp(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


def conv(i: int, o: int, **kw) -> nn.Conv2d:
    return nn.Conv2d(i, o, 3, padding=1, **kw)


def load_taesd(data: Path) -> tuple[nn.Module, nn.Module]:
    """(encoder, decoder) from DATA/taesd."""
    layers = [conv(3, 64), Block()]
    for _ in range(3):
        layers += [conv(64, 64, stride=2, bias=False), Block(), Block(), Block()]
    encoder = nn.Sequential(*layers, conv(64, 4))
    layers = [Clamp(), conv(4, 64), nn.ReLU()]
    for _ in range(3):
        layers += [Block(), Block(), Block(), nn.Upsample(scale_factor=2), conv(64, 64, bias=False)]
    decoder = nn.Sequential(*layers, Block(), conv(64, 3))
    for net, name in ((encoder, "encoder"), (decoder, "decoder")):
        net.load_state_dict(load_file(data / "taesd" / f"taesd_{name}.safetensors"))
        net.eval().requires_grad_(False)
    return encoder, decoder
