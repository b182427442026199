"""What the weights are worth on pictures that are not trained on: loss with them, and without them.

Noise and timesteps are fixed, so that every measurement of a run is on the same rows and differs by the weights alone.
The gain is how much smaller the loss is with the weights (and the trigger word in the caption, if there is one) than
without, as a share of the latter. On the kind of pictures that is learnt it holds what the weights say about such
pictures at all, on the other kind what both have in common; the difference, the gap, is what they have learnt about
looking rendered, or photographed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lib_negtrans.models.protocol import ModelHost
from lib_negtrans.training.common_params import CommonParams
from lib_negtrans.training.data.batch import Row, stack
from lib_negtrans.training.data.captions import Captions
from lib_negtrans.training.data.latents import Dataset
from lib_negtrans.training.objective import Rows, model_with, reconstruct
from lib_negtrans.training.trainable import Trainable
from lib_negtrans.training.weights import Weights

MAXIMUM_PICTURES = 16  # of a kind: enough for the sign of a gain, cheap beside the steps in between
TIMESTEPS = 4  # for each picture, spread over the range
BATCH = 4  # at least: without gradients it takes less memory than one row of training
SEED = 20410  # of the fixed noise; not the run's, so that runs of other seeds are measured alike


@dataclass(frozen=True)
class Gain:
    """loss: with the weights, mean over the rows. value: 1 - loss/(loss without). error: standard error of value."""

    loss: float
    value: float
    error: float


@dataclass(frozen=True)
class Measurement:
    """What a validation found: on the kind of pictures that is learnt, and on the other kind, if there are such."""

    own: Gain
    other: Gain | None

    @property
    def gap(self) -> float | None:
        """The gain on the own kind minus that on the other."""
        return None if self.other is None else self.own.value - self.other.value

    @property
    def gap_error(self) -> float | None:
        return None if self.other is None else math.hypot(self.own.error, self.other.error)

    @property
    def value(self) -> float:
        """What is better when larger: the gap, or with one kind alone the gain."""
        return self.own.value if self.gap is None else self.gap


@dataclass(frozen=True)
class _Batch:
    rows: Rows  # captions with the trigger word
    without: tuple[str, ...]
    pictures: list[int]


class Validation:
    """Measures weights on held-out pictures. Uses no random state but its own.

    held: kind -> pictures, those of the trainable's domain first, then, if there are some, those of the other.
    """

    def __init__(
        self,
        host: ModelHost,
        params: CommonParams,
        captions: Captions,
        trainable: Trainable,
        held: Mapping[str, Dataset],
    ):
        self.host, self.trainable = host, trainable
        self.kinds = {kind: _batches(data, params, captions, trainable.trigger) for kind, data in held.items()}
        self._without: dict[str, list[Tensor]] = {}  # it does not depend on the weights: computed once

    def measure(self, weights: Weights) -> Measurement:
        """Gains of these weights."""
        with torch.inference_mode(False), torch.no_grad():
            gains = [self._gain(kind, batches, weights) for kind, batches in self.kinds.items()]
        return Measurement(gains[0], gains[1] if len(gains) > 1 else None)

    def _gain(self, kind: str, batches: Sequence[_Batch], weights: Weights) -> Gain:
        if kind not in self._without:
            self._without[kind] = [self._losses(batch.rows, batch.without, None) for batch in batches]
        losses = torch.cat([self._losses(batch.rows, batch.rows.captions, weights) for batch in batches])
        return gain(losses, torch.cat(self._without[kind]), [p for batch in batches for p in batch.pictures])

    def _losses(self, rows: Rows, captions: tuple[str, ...], weights: Weights | None) -> Tensor:
        rows = Rows(
            rows.latents.to(self.host.device), rows.noise.to(self.host.device), rows.timesteps.to(self.host.device),
            captions, None if rows.weights is None else rows.weights.to(self.host.device),
        )  # fmt: skip
        with self.trainable.applied(weights) as embeddings:
            return reconstruct(model_with(self.host, embeddings), rows).double().cpu()


def gain(losses: Tensor, without: Tensor, pictures: Sequence[int]) -> Gain:
    """From the losses (rows,) and which picture each row is of. The error is over pictures, or of few over rows."""
    difference = (without - losses).double()
    number = torch.tensor(pictures)
    means = torch.stack([difference[number == p].mean() for p in number.unique()])
    samples = means if len(means) >= 4 else difference
    error = float(samples.std() / len(samples) ** 0.5) if len(samples) > 1 else math.inf
    scale = float(without.double().mean())
    return Gain(float(losses.double().mean()), float(difference.mean()) / scale, error / scale)


def _batches(dataset: Dataset, params: CommonParams, captions: Captions, name: str) -> list[_Batch]:
    """Fixed rows of up to MAXIMUM_PICTURES pictures spread over the dataset, in batches of one shape."""
    generator = torch.Generator().manual_seed(SEED)
    step = max(1.0, len(dataset) / MAXIMUM_PICTURES)
    chosen = [int(i * step) for i in range(min(len(dataset), MAXIMUM_PICTURES))]
    low, high = params.timesteps
    rows: list[tuple[Row, str, int]] = []
    for index in chosen:
        picture, words = dataset.encoded(index), dataset.report.entries[index].words
        caption, without = captions.fill(0, name, words), captions.fill(0, "", words)
        for k in range(TIMESTEPS):
            place = (k + float(torch.rand((), generator=generator))) / TIMESTEPS
            timestep = min(high, low + int((high - low + 1) * place))
            noise = torch.randn(picture.mean.shape, generator=generator)
            rows.append((Row(picture.mean, noise, timestep, caption, picture.weight), without, index))
    rows.sort(key=lambda row: row[0].latent.shape)  # stable
    batches: list[list[tuple[Row, str, int]]] = []
    for row in rows:
        last = batches[-1] if batches else []
        if last and len(last) < max(BATCH, params.batch_size) and last[0][0].latent.shape == row[0].latent.shape:
            last.append(row)
        else:
            batches.append([row])
    return [
        _Batch(stack([row for row, _, _ in batch]), tuple(w for _, w, _ in batch), [i for _, _, i in batch])
        for batch in batches
    ]
