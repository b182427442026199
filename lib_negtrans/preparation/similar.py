"""Pictures that are nearly the same."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

SIDE = 16  # 16 x 16 comparisons of neighbours
COLOURS = 8  # squares a side
COLOUR_DIFFERENCE = 10.0  # of 255, mean over the squares: above it, it is another colour of the same thing
_BITS = np.array([bin(value).count("1") for value in range(256)], dtype=np.uint16)


@dataclass(frozen=True)
class Fingerprint:
    """marks (32,) uint8: 256 bits, whether a place is brighter than the next (dHash); colours (192,) float32."""

    marks: np.ndarray
    colours: np.ndarray


def fingerprint(image: Image.Image) -> Fingerprint:
    """Of an RGB picture. Differences below 2 of 255 count as none, so that noise on a plain background is no mark."""
    grey = np.asarray(image.convert("L").resize((SIDE + 1, SIDE), Image.Resampling.BOX), dtype=np.int16)
    marks = np.packbits((grey[:, 1:] - grey[:, :-1]) >= 2)
    colours = np.asarray(image.convert("RGB").resize((COLOURS, COLOURS), Image.Resampling.BOX), dtype=np.float32)
    return Fingerprint(marks, colours.reshape(-1))


class Seen:
    """The fingerprints so far, to be asked whether another is like one of them."""

    def __init__(self, distance: int):
        self.distance = distance
        self._marks: np.ndarray = np.zeros((64, SIDE * SIDE // 8), dtype=np.uint8)
        self._colours: np.ndarray = np.zeros((64, COLOURS * COLOURS * 3), dtype=np.float32)
        self._names: list[str] = []

    def add(self, name: str, found: Fingerprint) -> str | None:
        """The name of the first that is like it, or None, and then it is one of them."""
        count = len(self._names)
        if self.distance < 0:
            return None
        apart = _BITS[self._marks[:count] ^ found.marks].sum(axis=1)
        close = np.flatnonzero(apart <= self.distance)
        alike = close[np.abs(self._colours[close] - found.colours).mean(axis=1) <= COLOUR_DIFFERENCE]
        if len(alike):
            return self._names[int(alike[0])]
        if count == len(self._marks):
            self._marks = np.concatenate([self._marks, np.zeros_like(self._marks)])
            self._colours = np.concatenate([self._colours, np.zeros_like(self._colours)])
        self._marks[count], self._colours[count] = found.marks, found.colours
        self._names.append(name)
        return None
