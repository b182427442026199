"""The preview of a training: a chosen render, translated with the weights so far, and pictures from prompts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from lib_negtrans.models.protocol import ModelHost
from lib_negtrans.pictures.images import flatten_alpha, load_picture, save_png, to_pil
from lib_negtrans.pictures.sheet import contact_sheet
from lib_negtrans.pictures.sizes import resized
from lib_negtrans.training.common_params import CommonParams
from lib_negtrans.training.request import TrainingRequest
from lib_negtrans.translation.params import TranslationParams
from lib_negtrans.translation.pipeline import translate
from lib_negtrans.translation.sampling import sample_picture

STEPS = 20  # fewer than a translation's 50: more than half of the time saved, and the look is the same
LONGEST = 2  # times the training size: a tall render must not need more memory than training does


def fitted_render(path: Path, size: int) -> Tensor:
    """A render (3, H, W) in [0, 1], its short side brought to `size` unless it is very long. Raises ImageError."""
    rgb = flatten_alpha(load_picture(path))
    height, width = rgb.shape[1:]
    scale = min(size / min(height, width), LONGEST * size / max(height, width))
    return resized(rgb, (max(8, round(width * scale)), max(8, round(height * scale))))


class Previews:
    """Call it with (step, {trigger: vectors}); it writes folder/step-00000050.png and gives its path.

    The picture shows the translation of a render, or None for none, and beside it what the parameters' sample prompts
    give. The render is read at the first call and brought to the training's size by its short side. Raises ImageError.
    """

    def __init__(self, host: ModelHost, image: Path | None, training: CommonParams, folder: Path):
        self.host, self.image, self.folder, self.training = host, image, folder, training
        strength = training.preview_strength
        # at least two of the steps must lie below the strength
        self.params = TranslationParams(strength=strength, steps=max(STEPS, math.ceil(2 / strength)))
        self._rgb: Tensor | None = None

    @classmethod
    def of(cls, host: ModelHost, request: TrainingRequest, folder: Path) -> Previews | None:
        """What a request asks for; None where there is neither a render nor a prompt."""
        render = request.render()
        return cls(host, render, request.params, folder) if render or request.params.sample_prompts else None

    @property
    def rgb(self) -> Tensor:
        """The render (3, H, W) in [0, 1]."""
        if self._rgb is None:
            assert self.image is not None
            self._rgb = fitted_render(self.image, self.training.size)
        return self._rgb

    def __call__(self, step: int, embeddings: Mapping[str, Tensor]) -> Path:
        pictures = [] if self.image is None else [("translation", self._translated(embeddings))]
        size = (self.training.size, self.training.size)
        for prompt in filter(None, map(str.strip, self.training.sample_prompts.split("|"))):
            pictures.append((prompt, sample_picture(self.host, prompt, "", self.training.seed, size, STEPS)))
        path = self.folder / f"step-{step:08d}.png"
        if self.training.sample_prompts:
            labels, images = zip(*pictures, strict=True)
            save_png(path, contact_sheet([[to_pil(image) for image in images]], labels, title=f"Step {step}"))
        else:
            save_png(path, to_pil(pictures[0][1]))
        return path

    def _translated(self, embeddings: Mapping[str, Tensor]) -> Tensor:
        params = TranslationParams.from_dict(self.params.to_dict() | {"negative_prompt": ", ".join(embeddings)})
        return translate(self.host, self.rgb[None], params, embeddings).image[0]
