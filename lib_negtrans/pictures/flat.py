"""Which part of a picture is flat background: a translation that adds texture there breaks it up.

Guidance is as strong where there is nothing as on the garment: a studio's plain ground of deviation 0.5 became 3 to 14.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from lib_negtrans.core.colour import rgb_to_lab

from .images import MULTIPLE
from .masks import LARGEST, TOLERANCE, flood

# deviations of a cell's values of 255: flat is what is below the first, and what is above the second has texture
FLAT, TEXTURED = 1.0, 1.5


def free_of_flat_ground(rgb: Tensor) -> Tensor:
    """The share (1, 1, h, w) of each of a picture's cells that may change, for rgb (3, 8h, 8w) in [0, 1].

    0 is flat background: cells without texture through which a way leads to the border, where it has the border's
    usual colour. A flat part of the garment is none, as its outline is in the way; nor is a picture that is all flat.
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
    if ground.float().mean() > LARGEST:
        return torch.ones_like(deviation)[None, None]
    free = ((deviation - FLAT) / (TEXTURED - FLAT)).clamp(0, 1)
    return torch.where(ground, free, torch.ones_like(free))[None, None]


def to_pixel_size(free: Tensor, size: tuple[int, int]) -> Tensor:
    """The shares (B, 1, h, w) at a picture's (height, width), without steps."""
    return interpolate(free, size=size, mode="bilinear", align_corners=False)
