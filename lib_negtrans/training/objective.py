"""What is minimised: pure functions of a model and some rows of training data.

An objective takes a `Model` and `Rows` and gives one loss per row; the job takes the mean, and goes backward to the
vectors. It asks the model for as many contexts and predictions as it needs, so that one with guidance in the loss
(METHOD.md 7) is one more function here. Sources: DDPM (arXiv 2006.11239, eq. 14), v target (arXiv 2202.00512,
appendix D), textual inversion (arXiv 2208.01618, eq. 2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.schedule import TRAIN_STEPS


@dataclass(frozen=True)
class Model:
    """The frozen model as an objective sees it.

    predict: (latent (B,4,h,w), timesteps (B,), context (B,T,width)) -> raw output (B,4,h,w); encode: B captions ->
    context, differentiable in the vectors; alphas_cumprod (1000,); prediction_type "epsilon" or "v_prediction".
    """

    predict: Callable[[Tensor, Tensor, Tensor], Tensor]
    encode: Callable[[Sequence[str]], Tensor]
    alphas_cumprod: Tensor
    prediction_type: str = "epsilon"

    def scales(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """(sqrt(abar_t), sqrt(1 - abar_t)), each (B,1,1,1) in the dtype and on the device of `like`."""
        abar = self.alphas_cumprod.double().cpu()[timesteps.cpu()].reshape(-1, 1, 1, 1)
        return abar.sqrt().to(like), (1.0 - abar).sqrt().to(like)


@dataclass(frozen=True)
class Rows:
    """B rows of a step: latents z0 and noise eps (B,4,h,w) on the model's device, timesteps (B,) int64, B captions."""

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    captions: tuple[str, ...]


Objective = Callable[[Model, Rows], Tensor]


def add_noise(model: Model, rows: Rows) -> Tensor:
    """z_t = a z0 + s eps."""
    a, s = model.scales(rows.timesteps, rows.latents)
    return a * rows.latents + s * rows.noise


def target(model: Model, rows: Rows) -> Tensor:
    """What the raw output should be: eps, or v = a eps - s z0."""
    if model.prediction_type == "epsilon":
        return rows.noise
    if model.prediction_type != "v_prediction":
        raise ValueError(f"prediction_type must be epsilon or v_prediction, not {model.prediction_type!r}.")
    a, s = model.scales(rows.timesteps, rows.latents)
    return a * rows.noise - s * rows.latents


def squared_error(output: Tensor, wanted: Tensor) -> Tensor:
    """The mean squared error of each row, (B,), in float32 or wider: half precision would lose small differences."""
    wide = torch.promote_types(output.dtype, torch.float32)
    return (output.to(wide) - wanted.to(wide)).square().flatten(1).mean(1)


def reconstruct(model: Model, rows: Rows) -> Tensor:
    """Textual inversion: ||target - e(z_t, t, caption)||^2 for each row, (B,)."""
    return squared_error(
        model.predict(add_noise(model, rows), rows.timesteps, model.encode(rows.captions)), target(model, rows)
    )


OBJECTIVES: dict[str, Objective] = {"reconstruct": reconstruct}


def timestep_range(strength: float) -> tuple[int, int]:
    """The inclusive timesteps that a translation of this strength in (0, 1] can use, whatever its number of steps.

    The grid 1 + i*floor(1000/N), i < int(N*strength), stays below 1000*strength + 1: strength .3 gives (0, 300).
    """
    if not 0.0 < strength <= 1.0:
        raise ValueError(f"strength must be above 0 and at most 1, not {strength:g}.")
    return 0, min(TRAIN_STEPS - 1, round(TRAIN_STEPS * strength))


def encode_once(encode: Callable[[Sequence[str]], Tensor], captions: Sequence[str]) -> Tensor:
    """Contexts (B, T, width) of captions, each distinct caption encoded once."""
    distinct = list(dict.fromkeys(captions))
    contexts = encode(distinct)
    if len(distinct) == len(captions):
        return contexts
    return contexts[[distinct.index(caption) for caption in captions]]
