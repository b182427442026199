"""What is judged: garment crops of renders, centre squares of photos. Whole pictures are told apart by background."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from lib_negtrans.pictures.images import ImageError, flatten_alpha, load_picture, mask_beside
from lib_negtrans.pictures.sizes import resized

Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels
MARGIN = 4  # around the garment; sleeves cut off at the very edge look wrong in themselves


@dataclass(frozen=True)
class Render:
    """A render to judge: rgb (3, H, W) in [0, 1]; mask (H, W) bool, True on the garment; the square box around it."""

    name: str  # path below the folder
    rgb: Tensor
    mask: Tensor
    box: Box


def garment_box(mask: Tensor) -> Box:
    """The square around a mask (H, W) with a small margin, pushed and if need be cut to lie inside the picture."""
    height, width = mask.shape
    rows, columns = torch.nonzero(mask.any(1))[:, 0], torch.nonzero(mask.any(0))[:, 0]
    if not len(rows):
        return centre_box(width, height)
    top, bottom, left, right = (int(v) for v in (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1))
    side = min(max(bottom - top, right - left) + 2 * MARGIN, height, width)
    x = min(max((left + right - side) // 2, 0), width - side)
    y = min(max((top + bottom - side) // 2, 0), height - side)
    return x, y, x + side, y + side


def centre_box(width: int, height: int) -> Box:
    """The largest square in the middle."""
    side = min(width, height)
    x, y = (width - side) // 2, (height - side) // 2
    return x, y, x + side, y + side


def cut(image: Tensor, box: Box, size: int) -> Tensor:
    """The box of an image (C, H, W) at (C, size, size), renders and photos alike."""
    left, top, right, bottom = box
    return resized(image[:, top:bottom, left:right], (size, size))


def cut_mask(mask: Tensor, box: Box, size: int) -> Tensor:
    """The box of a mask (H, W) as (size, size) bool: pixels of which the garment covers more than half."""
    left, top, right, bottom = box
    part = mask[None, None, top:bottom, left:right].float()
    return interpolate(part, size=(size, size), mode="bilinear", antialias=True, align_corners=False)[0, 0] > 0.5


def load_render(path: Path, name: str | None = None) -> Render:
    """A render with its mask: from `mask_beside`, else from alpha, else everything. Raises ImageError."""
    picture, found = load_picture(path), mask_beside(path)
    rgb = flatten_alpha(picture)
    if found is not None:
        mask = load_picture(found).rgb.mean(0) > 0.5
        if mask.shape != rgb.shape[1:]:
            raise ImageError(f"has the mask {found.name} of another size: make both of one size.")
    else:
        mask = picture.alpha > 0.5 if picture.alpha is not None else torch.ones(rgb.shape[1:], dtype=torch.bool)
    if not mask.any():
        raise ImageError("has an empty garment mask.")
    return Render(name or path.name, rgb, mask, garment_box(mask))


def spread(files: Sequence[Path], count: int | None) -> list[Path]:
    """`count` of the files at equal distances (the first ones of a sorted folder are often of one kind); None: all."""
    if not count or count >= len(files):
        return list(files)
    return [files[i * len(files) // count] for i in range(count)]


def load_photos(files: Sequence[Path], size: int) -> Tensor:
    """Centre squares of photographs (N, 3, size, size) in [0, 1]. Raises ImageError, which names the file."""
    rows = []
    for path in files:
        try:
            rgb = flatten_alpha(load_picture(path))
        except ImageError as error:
            raise ImageError(f"{path.name} {error}") from None
        rows.append(cut(rgb, centre_box(rgb.shape[2], rgb.shape[1]), size))
    return torch.stack(rows)


def same_background(crops: Tensor, masks: Tensor, background: Tensor, kind: str = "same") -> Tensor:
    """Crops (N, 3, S, S) whose background is that of the untranslated ones, so that only the garment is judged.

    masks (N, S, S) bool; background (N, 3, S, S): the untranslated crops; kind "same" takes their pixels, "mean" their
    background's mean colour. A crop that is all garment stays as it is.
    """
    inside = masks[:, None].to(crops)
    if kind == "mean":
        weight = 1 - inside
        total = weight.sum((2, 3), keepdim=True).clamp_min(1)
        background = ((background * weight).sum((2, 3), keepdim=True) / total).expand_as(crops)
    elif kind != "same":
        raise ValueError(f"background must be 'same' or 'mean', not {kind!r}.")
    return crops * inside + background * (1 - inside)
