"""Which part of a picture is flat background: a translation that adds texture there breaks it up.

Guidance is as strong where there is nothing as on the garment: a studio's plain ground of deviation 0.5 became 3 to 14.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d

from lib_negtrans.core.colour import blur, rgb_to_lab

from .images import MULTIPLE
from .masks import LARGEST, TOLERANCE, flood

# deviations of a cell's values of 255: flat is what is below the first, and what is above the second has texture
FLAT, TEXTURED = 1.0, 1.5


def free_of_flat_ground(rgb: Tensor) -> Tensor:
    """The share (1, 1, 8h, 8w) of each pixel of rgb (3, 8h, 8w) in [0, 1] that may change; 0 is flat background.

    That is first the cells without texture through which a way leads to the border, where it has the border's usual
    colour: a flat part of the garment is none, as its outline is in the way, nor is a picture that is all flat. Then,
    up to the garment's edge, what has the same colour in the cells beside them.
    """
    values = 255 * rgb[None].float()
    # of a cell and the pixels around it: an edge between two cells is in both
    around = partial(avg_pool2d, kernel_size=MULTIPLE + 2, stride=MULTIPLE, padding=1, count_include_pad=False)
    mean = around(values)
    deviation = (around(values.square()) - mean.square()).clamp_min(0).sqrt().amax(1)[0]
    lab = rgb_to_lab(mean / 255)[0].permute(1, 2, 0)
    frame = torch.ones(deviation.shape, dtype=torch.bool)
    frame[1:-1, 1:-1] = False
    usual = (lab - lab[frame].median(dim=0).values).norm(dim=2) <= TOLERANCE
    open_ = deviation < TEXTURED
    ground = torch.from_numpy(flood(open_.numpy(), (open_ & frame & usual).numpy()))
    if not ground.any() or ground.float().mean() > LARGEST:
        return torch.ones_like(values[:, :1])
    ramp = ((deviation - FLAT) / (TEXTURED - FLAT)).clamp(0, 1)
    free = interpolate(torch.where(ground, ramp, torch.ones_like(ramp))[None, None], scale_factor=MULTIPLE)
    whole = interpolate(ground[None, None].float(), scale_factor=MULTIPLE)
    pixels = rgb_to_lab(rgb[None])
    alike = (pixels - blur(pixels, MULTIPLE, whole)).norm(dim=1, keepdim=True) <= TOLERANCE / 2
    beside = max_pool2d(whole, 2 * MULTIPLE + 1, 1, MULTIPLE).bool() & ~whole.bool()
    return torch.where(beside & alike, torch.zeros_like(free), free)


def free_cells(free: Tensor) -> Tensor:
    """The shares (B, 1, 8h, 8w) as latents have them, (B, 1, h, w): a cell with anything in it that may change may."""
    return max_pool2d(free, MULTIPLE)
