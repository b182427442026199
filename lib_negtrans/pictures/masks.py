"""Which part of a picture is the garment: from its transparency, from a uniform border colour, or painted.

A mask is (H, W) float32 in [0, 1]: 1 is translated, 0 is background. The released code's mask is the other way round in
effect (METHOD.md 5, R5); here it means the same everywhere, and it costs no more than its pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from lib_negtrans.core.colour import blur, rgb_to_lab

from .images import ImageError, Picture, load_picture, mask_stems

SOURCES = ("none", "auto", "alpha", "border", "file")
# a border counts as uniform when this share of its pixels lies within the tolerance of their median colour
UNIFORM_SHARE = 0.7
TOLERANCE = 6.0  # in L*a*b*: twice what JPEG does to a plain colour
SMALLEST, LARGEST = 0.005, 0.995  # a garment that covers less or more of the picture is none
SOFT_EDGE = 1 / 128  # deviation of the edge where pictures are put together, as a share of the shorter side


@dataclass(frozen=True)
class Found:
    """A mask (H, W) or None for the whole picture; `how` it was found, as a clause for people."""

    mask: Tensor | None
    how: str


def find_mask(picture: Picture, source: str) -> Found:
    """The mask of a picture by `source`: "none", "auto" (alpha, else border, else none), "alpha" or "border".

    Raises ImageError where a named source gives none, and for "file", which the caller reads with `load_mask`.
    """
    if source == "none":
        return Found(None, "no mask")
    if source in ("auto", "alpha"):
        alpha = alpha_mask(picture)
        if alpha is not None:
            return Found(alpha, "mask from the transparency")
        if source == "alpha":
            raise ImageError("has no transparency to take the mask from: choose mask auto or none.")
    if source in ("auto", "border"):
        border = border_mask(picture.rgb)
        if border is not None:
            return Found(border, "mask from the uniform border colour")
        if source == "border":
            raise ImageError("has no uniform border colour to take the mask from: paint a mask, or choose none.")
        return Found(None, "no mask: neither transparency nor a uniform border colour")
    raise ImageError("needs a mask file: give one, or choose mask auto or none.")


def alpha_mask(picture: Picture) -> Tensor | None:
    """The alpha channel (H, W), or None where there is none or it says nothing (all opaque, all transparent)."""
    if picture.alpha is None or not _sensible(picture.alpha):
        return None
    return picture.alpha


def border_mask(rgb: Tensor) -> Tensor | None:
    """What the border's colour does not flood, (H, W) of 0 and 1; None where rgb (3, H, W) has no uniform border.

    Holes of the background's colour inside the garment stay garment, as far as no path leads there from the border.
    """
    lab = rgb_to_lab(rgb[None])[0].permute(1, 2, 0).numpy()
    frame = np.ones(lab.shape[:2], bool)
    frame[1:-1, 1:-1] = False
    colour = np.median(lab[frame], axis=0)
    near = np.linalg.norm(lab - colour, axis=2) <= TOLERANCE
    if near[frame].mean() < UNIFORM_SHARE:
        return None
    mask = torch.from_numpy(~flood(near, frame & near)).float()
    return mask if _sensible(mask) else None


def _sensible(mask: Tensor) -> bool:
    return SMALLEST <= float((mask > 0.5).float().mean()) <= LARGEST


def flood(open_: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """All of `open_` (H, W) bool that is connected with `seeds` through neighbours left, right, above and below.

    Whole runs of a row, then of a column, are filled at once: a few sweeps, not a queue of pixels in Python.
    """
    reached = seeds & open_
    while True:
        spread = _fill_runs(open_.T, _fill_runs(open_, reached).T).T
        if spread.sum() == reached.sum():
            return spread
        reached = spread


def _fill_runs(open_: np.ndarray, reached: np.ndarray) -> np.ndarray:
    begins = open_.copy()
    begins[:, 1:] &= ~open_[:, :-1]
    run = np.cumsum(begins.ravel()) * open_.ravel()  # 0 is what is not open
    hit = np.zeros(int(run.max()) + 1, bool)
    hit[run[reached.ravel()]] = True
    hit[0] = False
    return hit[run].reshape(open_.shape)


def load_mask(path: Path, size: tuple[int, int]) -> Tensor:
    """A painted mask for a picture of size (width, height): white is translated, black is background; (H, W).

    One of the same shape in another resolution is scaled. With transparency and nothing painted, that is the mask.
    Raises ImageError, which names the file.
    """
    try:
        picture = load_picture(path)
    except ImageError as error:
        raise ImageError(f"has the mask {path.name}, which {error}") from error
    return mask_from_picture(picture, size, path.name)


def mask_from_picture(picture: Picture, size: tuple[int, int], name: str) -> Tensor:
    """As `load_mask`, from a picture that is loaded already."""
    grey = picture.rgb.mean(0)
    if picture.alpha is not None and float(grey.max() - grey.min()) < 0.5:
        grey = picture.alpha
    width, height = size
    if grey.shape != (height, width):
        own_height, own_width = grey.shape
        # a pixel's rounding of either side is no other shape
        if abs(own_width * height - own_height * width) > max(own_width, own_height, width, height):
            raise ImageError(
                f"is {width}x{height} but its mask {name} is {own_width}x{own_height}: make both of one shape."
            )
        grey = interpolate(grey[None, None], size=(height, width), mode="bilinear", antialias=True)[0, 0].clamp(0, 1)
    if float(grey.max()) < 0.5:
        raise ImageError(f"has an empty mask {name}: paint white what is to be translated.")
    return grey


def mask_file(masks: Path, picture: Path, root: Path | None = None) -> Path:
    """The mask of a picture: `masks` itself if a file, else the same place and stem below it as below `root`.

    Also found: the stem with _mask behind or mask_ before it. Raises ImageError where there is none.
    """
    if masks.is_file():
        return masks
    below = "." if root is None else picture.parent.relative_to(root).as_posix()
    place = masks if below == "." else masks / below  # a store has no "." in its names
    stems = (picture.stem, *reversed(mask_stems(picture.stem)))
    for name in (picture.name, *(f"{stem}{suffix}" for stem in stems for suffix in (".png", ".jpg", ".webp", ".tif"))):
        candidate = place / name
        if candidate.is_file() and candidate != picture:
            return candidate
    raise ImageError(f"has no mask: {place / picture.name} is missing, and so are its other usual names.")


def soft(mask: Tensor) -> Tensor:
    """A mask (B, 1, H, W) with a soft edge of the same place, for putting two pictures together."""
    return blur(mask.float(), SOFT_EDGE * min(mask.shape[-2:])).clamp(0, 1)
