"""What a student learns by: its distance to the teacher's picture, and a small discriminator of the two."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

PREFIX = "discriminator."
WIDTHS = (6, 32, 64, 128)  # channels; the first are the render's and the picture's
SLOPE = 0.2  # of its leaky ReLUs


def initial_discriminator(generator: torch.Generator, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """Weights of the discriminator, with gradient: convolutions of 4x4 that halve, and one of 3x3 that gives scores."""
    shapes = [(b, a, 4, 4) for a, b in itertools.pairwise(WIDTHS)] + [(1, WIDTHS[-1], 3, 3)]
    weights = {}
    for number, shape in enumerate(shapes):
        # He's deviation (arXiv 1502.01852) for leaky ReLUs
        deviation = math.sqrt(2.0 / ((1 + SLOPE**2) * math.prod(shape[1:])))
        weights[f"{PREFIX}{number}.weight"] = deviation * torch.randn(shape, generator=generator)
        weights[f"{PREFIX}{number}.bias"] = torch.zeros(shape[0])
    return {name: tensor.to(device, dtype).requires_grad_() for name, tensor in weights.items()}


def scores(weights: Mapping[str, Tensor], render: Tensor, picture: Tensor) -> Tensor:
    """(B, 1, H/8, W/8): above 0 for patches of a picture (B, 3, H, W) that look like the teacher's of this render."""
    x = torch.cat([render, picture], 1) * 2 - 1
    for number in range(len(WIDTHS) - 1):
        weight, bias = (weights[f"{PREFIX}{number}.{part}"] for part in ("weight", "bias"))
        x = F.leaky_relu(F.conv2d(x, weight, bias, stride=2, padding=1), SLOPE)
    last = len(WIDTHS) - 1
    return F.conv2d(x, weights[f"{PREFIX}{last}.weight"], weights[f"{PREFIX}{last}.bias"], padding=1)


def judged(weights: Mapping[str, Tensor], render: Tensor, wanted: Tensor, found: Tensor) -> Tensor:
    """The discriminator's hinge loss for each row, (B,); its gradient reaches nothing but the discriminator."""
    real, fake = (scores(weights, render, picture.detach()).flatten(1) for picture in (wanted, found))
    return F.relu(1 - real).mean(1) + F.relu(1 + fake).mean(1)


def convincing(weights: Mapping[str, Tensor], render: Tensor, found: Tensor) -> Tensor:
    """What the student pays where it is told apart, (B,); its gradient does not reach the discriminator."""
    return -scores({name: tensor.detach() for name, tensor in weights.items()}, render, found).flatten(1).mean(1)


def student_loss(
    render: Tensor,
    wanted: Tensor,
    found: Tensor,
    perceptual: Callable[[Tensor, Tensor], Tensor] | None,
    discriminator: Mapping[str, Tensor],
    l2_weight: float,
    perceptual_weight: float,
    adversarial_weight: float,
) -> Tensor:
    """Of each row, (B,): L2 of pictures in [-1, 1], the perceptual distance, and both sides of the discriminator.

    The value is that of the distances alone: what the discriminator thinks says nothing about how a training goes.
    """
    loss = l2_weight * (2 * (found - wanted)).square().flatten(1).mean(1)
    if perceptual is not None and perceptual_weight:
        loss = loss + perceptual_weight * perceptual(found, wanted)
    if adversarial_weight:
        sides = adversarial_weight * convincing(discriminator, render, found)
        sides = sides + judged(discriminator, render, wanted, found)
        loss = loss + (sides - sides.detach())
    return loss
