"""What part of a picture becomes the training picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from lib_negtrans.pictures.masks import border_mask
from lib_negtrans.pictures.sizes import bucket_for

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels; may reach beyond the picture

VISIBLE = 8  # of 255: alpha below it is nothing
ENOUGH = 1024  # pixels of a side in which a plain border is looked for: a scan's lab values would take gigabytes
MARGIN = 0.06  # of the subject's longer side, around it
SPECK = 3  # pixels in a row or column that are not yet a subject
HEADROOM = 0.12  # of what a portrait picture loses, how much above: a face is in the upper part


@dataclass(frozen=True)
class Subject:
    """Where the subject is. how: "alpha", "plain border" or "unknown"; border: RGB of a plain one, else the median."""

    box: Box | None
    how: str
    border: tuple[int, int, int]


def find_subject(image: Image.Image) -> Subject:
    """The subject of an RGB or RGBA picture: what is not transparent, else what `border_mask` leaves of it."""
    values = np.asarray(image)
    rgb = values[..., :3]
    border = np.median(np.concatenate([rgb[0], rgb[-1], rgb[:, 0], rgb[:, -1]]), axis=0)
    colour = (int(border[0]), int(border[1]), int(border[2]))
    if values.shape[2] == 4 and (values[..., 3] < VISIBLE).any():
        box = _extent(values[..., 3] >= VISIBLE)
        return Subject(box, "alpha" if box else "unknown", colour)
    reduced = max(1, max(image.size) // ENOUGH)
    small = np.asarray(image.convert("RGB").reduce(reduced), dtype=np.float32) / 255
    mask = border_mask(torch.from_numpy(small.transpose(2, 0, 1)))
    box = None if mask is None else _extent(mask.numpy() > 0.5)
    if box is None:
        return Subject(None, "unknown", colour)
    left, top, right, bottom = (side * reduced for side in box)
    return Subject((left, top, min(right, image.width), min(bottom, image.height)), "plain border", colour)


def _extent(mask: np.ndarray) -> Box | None:
    columns, rows = (np.flatnonzero(mask.sum(axis=axis) >= SPECK) for axis in (0, 1))
    if not len(columns) or not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def frame(size: tuple[int, int], subject: Subject, fit: str, side: int) -> Box:
    """The part of a picture of (width, height) for a training picture of `side`; see PrepareParams for `fit`."""
    width, height = size
    if fit == "aspect":
        return 0, 0, width, height
    if fit == "pad":
        return _square(max(size), (width / 2, height / 2))
    if subject.box is None:
        # portrait: rather more of the upper part, where the face is; landscape: the centre
        short = min(size)
        left, top = (width - short) // 2, round((height - short) * HEADROOM)
        return left, top, left + short, top + short
    left, top, right, bottom = subject.box
    longer = max(right - left, bottom - top)
    centre = ((left + right) / 2, (top + bottom) / 2)
    if fit == "subject":
        # not closer than the picture's own pixels: nothing is enlarged
        return _inside(_square(max(side, round(longer * (1 + 2 * MARGIN))), centre), size)
    return _inside(_square(max(longer, min(size)), centre), size)


def _square(side: int, centre: tuple[float, float]) -> Box:
    left, top = round(centre[0] - side / 2), round(centre[1] - side / 2)
    return left, top, left + side, top + side


def _inside(box: Box, size: tuple[int, int]) -> Box:
    """Moved into the picture as far as it fits; where it is larger than the picture, the picture is in its middle."""
    moved = []
    for low, high, length in ((box[0], box[2], size[0]), (box[1], box[3], size[1])):
        extent = high - low
        start = (length - extent) // 2 if extent > length else min(max(low, 0), length - extent)
        moved.append((start, start + extent))
    return moved[0][0], moved[1][0], moved[0][1], moved[1][1]


def cut(image: Image.Image, box: Box, subject: Subject, fit: str, side: int) -> Image.Image:
    """The box of an RGB or RGBA picture at the training size; beyond it: transparent, or the border's colour."""
    target = bucket_for(side, (box[2] - box[0], box[3] - box[1])) if fit == "aspect" else (side, side)
    if fit == "aspect":
        # the shape is kept exactly, and nothing enlarged: training does the rest
        scale = min(1.0, max(target[0] / image.width, target[1] / image.height))
        target = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    if box[0] < 0 or box[1] < 0 or box[2] > image.width or box[3] > image.height:
        # first the picture at its place, so that its edge is not blended with what is around
        ground = Image.new(image.mode, (box[2] - box[0], box[3] - box[1]), _ground(image.mode, subject))
        ground.paste(image, (-box[0], -box[1]))
        return ground if ground.size == target else ground.resize(target, Image.Resampling.LANCZOS)
    if (box[2] - box[0], box[3] - box[1]) == target:
        return image.crop(box)
    return image.resize(target, Image.Resampling.LANCZOS, box=box)


def _ground(mode: str, subject: Subject) -> tuple[int, ...]:
    return (*subject.border, 0) if mode == "RGBA" else subject.border
