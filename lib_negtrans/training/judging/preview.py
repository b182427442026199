"""The preview of a training: a chosen render, translated with the vectors so far as the negative."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from lib_negtrans.models.protocol import ModelHost
from lib_negtrans.pictures.images import flatten_alpha, load_picture, save_png, to_pil
from lib_negtrans.pictures.sizes import resized
from lib_negtrans.training.params import TrainingParams
from lib_negtrans.translation.params import TranslationParams
from lib_negtrans.translation.pipeline import translate

STEPS = 20  # fewer than a translation's 50: more than half of the time saved, and the look is the same
LONGEST = 2  # times the training size: a tall render must not need more memory than training does


def fitted_render(path: Path, size: int) -> Tensor:
    """A render (3, H, W) in [0, 1], its short side brought to `size` unless it is very long. Raises ImageError."""
    rgb = flatten_alpha(load_picture(path))
    height, width = rgb.shape[1:]
    scale = min(size / min(height, width), LONGEST * size / max(height, width))
    return resized(rgb, (max(8, round(width * scale)), max(8, round(height * scale))))


class TranslationPreview:
    """Call it with (step, {trigger: vectors}); it writes folder/step-00000050.png and gives its path.

    The picture is read at the first call and brought to the training's size by its short side. Raises ImageError.
    """

    def __init__(self, host: ModelHost, image: Path, training: TrainingParams, folder: Path):
        self.host, self.image, self.folder = host, Path(image), Path(folder)
        self.size = training.size
        # at least two of the steps must lie below the strength
        steps = max(STEPS, math.ceil(2 / training.strength))
        self.params = TranslationParams(strength=training.strength, steps=steps)
        self._rgb: Tensor | None = None

    @property
    def rgb(self) -> Tensor:
        """The render (3, H, W) in [0, 1]."""
        if self._rgb is None:
            self._rgb = fitted_render(self.image, self.size)
        return self._rgb

    def __call__(self, step: int, embeddings: Mapping[str, Tensor]) -> Path:
        params = TranslationParams.from_dict(self.params.to_dict() | {"negative_prompt": ", ".join(embeddings)})
        result = translate(self.host, self.rgb[None], params, embeddings).image[0]
        path = self.folder / f"step-{step:08d}.png"
        save_png(path, to_pil(result))
        return path
