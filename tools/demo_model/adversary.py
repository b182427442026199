"""A patch discriminator: it tells crops of pictures from the autoencoder's, and its gradient sharpens the decoder.

Hinge loss, and VQGAN's (arXiv 2012.09841) weight: as much gradient at the decoder's last weight as the other losses
give, times `weight`.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


def make_discriminator() -> nn.Sequential:
    """(n, 3, h, w) -> a score for each patch of 38 pixels."""
    widths, layers = (3, 32, 64, 128), []
    for a, b in itertools.pairwise(widths):
        layers += [spectral_norm(nn.Conv2d(a, b, 4, 2, 1)), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, spectral_norm(nn.Conv2d(widths[-1], 1, 3, 1, 1)))


def discriminator_loss(net: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    return F.relu(1 - net(real)).mean() + F.relu(1 + net(fake.detach())).mean()


def adversarial_loss(net: nn.Module, fake: Tensor, others: Tensor, last: nn.Parameter, weight: float) -> Tensor:
    """The decoder's part, scaled by the gradients at `last`, its last weight."""
    loss = -net(fake).mean()
    theirs = torch.autograd.grad(others, last, retain_graph=True)[0].norm()
    own = torch.autograd.grad(loss, last, retain_graph=True)[0].norm()
    return loss * (weight * theirs / (own + 1e-4)).clamp(max=100).detach()
