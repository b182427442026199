"""Sizes of pictures: the one resampler, and a training's sizes, a square or a rectangle of its area (a bucket)."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn.functional import interpolate

WIDEST = 2.5  # times as wide as high, or as high as wide; what is longer is cropped to that


def bucket_sizes(size: int) -> list[tuple[int, int]]:
    """(width, height) of all buckets for a square's side: at most its area, sides of multiples of an eighth of it.

    After the aspect-ratio bucketing of NovelAI and kohya's sd-scripts; at 512 the sides are multiples of 64.
    """
    step = max(8, size // 64 * 8)
    sides = range(step * math.floor(size / math.sqrt(WIDEST) / step), int(size * math.sqrt(WIDEST)) + 1, step)
    found = {(size, size)}
    for width in sides:
        height = size * size // width // step * step
        if 1 / WIDEST <= width / height <= WIDEST:
            found |= {(width, height), (height, width)}
    return sorted(found)


def bucket_for(size: int, picture: tuple[int, int], aspect: str = "buckets") -> tuple[int, int]:
    """(width, height) at which a picture of (width, height) is trained: the bucket nearest in aspect, or the square."""
    if aspect == "square" or picture[0] == picture[1]:
        return size, size
    wanted = math.log(picture[0] / picture[1])
    # of two as near, the larger
    return min(bucket_sizes(size), key=lambda b: (round(abs(math.log(b[0] / b[1]) - wanted), 9), -b[0] * b[1]))


def resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    """([B,] C, H, W) in [0, 1] at another (width, height): bicubic, antialiased; itself where it has it."""
    height, width = size[1], size[0]
    if image.shape[-2:] == (height, width):
        return image
    batch = image if image.ndim == 4 else image[None]
    found = interpolate(batch, size=(height, width), mode="bicubic", antialias=True, align_corners=False)
    return found.clamp(0.0, 1.0).view(*image.shape[:-2], height, width)


def cover(image: Tensor, size: tuple[int, int]) -> Tensor:
    """(C, H, W) in [0, 1] -> (C, height, width) of (width, height): `resized`, the rest cropped.

    The centre is kept.
    """
    height, width = image.shape[1:]
    scale = max(size[0] / width, size[1] / height)
    image = resized(image, (max(size[0], round(width * scale)), max(size[1], round(height * scale))))
    top, left = (image.shape[1] - size[1]) // 2, (image.shape[2] - size[0]) // 2
    return image[:, top : top + size[1], left : left + size[0]]
