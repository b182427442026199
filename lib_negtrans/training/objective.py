"""What is minimised: pure functions of a model and some rows of training data.

An objective takes a `Model` and `Rows` and gives one loss per row; the job takes the mean, and goes backward to
what is trained. It asks the model for as many contexts and predictions as it needs. Sources: DDPM (arXiv 2006.11239,
eq. 14), v target (arXiv 2202.00512, appendix D), textual inversion (arXiv 2208.01618, eq. 2), DreamArtist
(arXiv 2211.11337).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from lib_negtrans.models.protocol import ModelHost


@dataclass(frozen=True)
class Model:
    """The frozen model as an objective sees it.

    predict: (latent (B,4,h,w), timesteps (B,), context (B,T,width)) -> raw output (B,4,h,w); encode: B captions ->
    context, differentiable in what is trained; alphas_cumprod (1000,); prediction_type "epsilon" or "v_prediction";
    unchanged: gives a context in which the model is what it was before the training.
    """

    predict: Callable[[Tensor, Tensor, Tensor], Tensor]
    encode: Callable[[Sequence[str]], Tensor]
    alphas_cumprod: Tensor
    prediction_type: str = "epsilon"
    unchanged: Callable[[], AbstractContextManager[object]] = nullcontext

    def scales(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """(sqrt(abar_t), sqrt(1 - abar_t)), each (B,1,1,1) in the dtype and on the device of `like`."""
        abar = self.alphas_cumprod.double().cpu()[timesteps.cpu()].reshape(-1, 1, 1, 1)
        return abar.sqrt().to(like), (1.0 - abar).sqrt().to(like)


@dataclass(frozen=True)
class Rows:
    """B rows of a step: latents z0 and noise eps (B,4,h,w) on the model's device, timesteps (B,) int64, B captions.

    weights: (B,1,h,w) >= 0, what each latent counts in the loss; None: all the same.
    """

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    captions: tuple[str, ...]
    weights: Tensor | None = None


@dataclass(frozen=True)
class LossOptions:
    """huber: error size beyond which it counts linearly, 0 = plain squares; min_snr_gamma: 0 = all timesteps alike."""

    huber: float = 0.0
    min_snr_gamma: float = 0.0


PLAIN = LossOptions()
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


def row_loss(
    model: Model, rows: Rows, output: Tensor, options: LossOptions = PLAIN, wanted: Tensor | None = None
) -> Tensor:
    """The mean error of each row, (B,), in float32 or wider: half precision would lose small differences.

    wanted: what the output should be, by default the `target`.

    Squares, or with huber c the pseudo-Huber loss 2c (sqrt(d^2 + c^2) - c), which is d^2 for small d. Weights are taken
    relative to their mean, so that a constant one changes nothing.
    """
    wide = torch.promote_types(output.dtype, torch.float32)
    wanted = target(model, rows) if wanted is None else wanted
    error = (output.to(wide) - wanted.to(wide)).square()
    if options.huber:
        c = options.huber
        error = 2 * c * ((error + c * c).sqrt() - c)
    if rows.weights is not None:
        weights = rows.weights.to(error)
        mean = weights.mean(dim=(1, 2, 3), keepdim=True)
        # a picture without any weight counts everywhere alike rather than as NaN
        error = error * torch.where(mean > 0, weights / mean.clamp_min(1e-12), torch.ones_like(weights))
    loss = error.flatten(1).mean(1)
    return loss * snr_weights(model, rows.timesteps, options.min_snr_gamma).to(loss) if options.min_snr_gamma else loss


def snr_weights(model: Model, timesteps: Tensor, gamma: float) -> Tensor:
    """(B,) min(SNR, gamma)/SNR, and with v prediction over SNR + 1 (min-SNR, arXiv 2303.09556, section 3.4)."""
    abar = model.alphas_cumprod.double().cpu()[timesteps.cpu()]
    snr = abar / (1.0 - abar)
    return snr.clamp(max=gamma) / (snr + 1.0 if model.prediction_type == "v_prediction" else snr)


def reconstruct(model: Model, rows: Rows, options: LossOptions = PLAIN) -> Tensor:
    """Textual inversion: ||target - e(z_t, t, caption)||^2 for each row, (B,)."""
    output = model.predict(add_noise(model, rows), rows.timesteps, model.encode(rows.captions))
    return row_loss(model, rows, output, options)


def preserve(model: Model, rows: Rows, options: LossOptions = PLAIN) -> Tensor:
    """Prior preservation: ||e0(z_t, t, caption) - e(z_t, t, caption)||^2, e0 the model before the training, (B,).

    OneTrainer's "prior prediction": no picture is learnt, only what the model said of it is kept.
    """
    noisy = add_noise(model, rows)
    with torch.no_grad(), model.unchanged():
        before = model.predict(noisy, rows.timesteps, model.encode(rows.captions))
    output = model.predict(noisy, rows.timesteps, model.encode(rows.captions))
    return row_loss(model, rows, output, options, before)


def contrast(model: Model, rows: Rows, guidance: float, options: LossOptions = PLAIN) -> Tensor:
    """Photos, with the caption as the negative prompt of a guided prediction (after DreamArtist, ReNeg): (B,).

    e^ = e(v) + w (e('') - e(v)), loss ||target - e^||^2 / (w-1)^2. e('') has no gradient. The divisor leaves the
    minimum where it is and gives e(v) the curvature that it has in `reconstruct`, so that the two can be added.
    Raises ValueError for w <= 1, where nothing is subtracted.
    """
    if guidance <= 1.0:
        raise ValueError(f"guidance must be above 1, not {guidance:g}.")
    noisy = add_noise(model, rows)
    with torch.no_grad():
        empty = model.encode([""])
        free = model.predict(noisy, rows.timesteps, empty.expand(len(noisy), -1, -1))
    negative = model.predict(noisy, rows.timesteps, model.encode(rows.captions))
    guided = negative + guidance * (free - negative)
    return row_loss(model, rows, guided, options) / (guidance - 1.0) ** 2


def model_with(
    host: ModelHost,
    embeddings: Mapping[str, Tensor],
    unchanged: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Model:
    """A host as an objective sees it, its prompts encoded with these embeddings; unchanged: see `Model`."""
    return Model(
        host.predict_noise,
        lambda captions: encode_once(lambda texts: host.encode_prompts(texts, embeddings), captions),
        host.alphas_cumprod,
        host.prediction_type,
        unchanged,
    )


def encode_once(encode: Callable[[Sequence[str]], Tensor], captions: Sequence[str]) -> Tensor:
    """Contexts (B, T, width) of captions, each distinct caption encoded once."""
    distinct = list(dict.fromkeys(captions))
    contexts = encode(distinct)
    if len(distinct) == len(captions):
        return contexts
    return contexts[[distinct.index(caption) for caption in captions]]
