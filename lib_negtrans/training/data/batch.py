"""The rows of a step: which pictures, and for each a caption, a timestep and noise of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lib_negtrans.training.common_params import CommonParams
from lib_negtrans.training.objective import Rows
from lib_negtrans.training.parallel import ALONE, Workers
from lib_negtrans.training.params import TrainingParams

from .captions import Captions, vary_tags
from .latents import Dataset
from .sampler import EpochSampler


@dataclass(frozen=True)
class Row:
    """One row: latent and noise (4, h, w) float32 on the CPU; weight (1, h, w) with mean 1, or None for ones."""

    latent: Tensor
    noise: Tensor
    timestep: int
    caption: str
    weight: Tensor | None = None


class RowSource:
    """Draws rows, pictures in epoch order.

    Everything random comes from one CPU generator, row by row, so a run does not depend on the device, nor on how the
    rows of a step are shared out to forward passes and processes. params: its latent_sampling, flip, tag options and
    seed apply. together: rows of one shape that should follow each other, where there are pictures of several.
    counted: a name under which each row and each epoch instead has a generator of its own, from (seed, name, step,
    row): then neither other sources nor what was drawn before change it.
    """

    def __init__(
        self,
        dataset: Dataset,
        captions: Captions,
        name: str,
        timesteps: tuple[int, int],
        generator: torch.Generator,
        params: CommonParams | None = None,
        together: int = 1,
        counted: str = "",
    ):
        self.dataset, self.captions, self.name, self.timesteps = dataset, captions, name, timesteps
        self.generator, self.params, self.counted = generator, params or TrainingParams(), counted
        of_epoch = (lambda epoch: self._seeded(counted, "epoch", epoch)) if counted else None
        self.sampler = EpochSampler(len(dataset), generator, dataset.shapes, together, of_epoch)

    def draw(self, count: int, step: int = 0) -> list[Row]:
        """The next `count` rows, for the step that follows `step` finished ones."""
        return [
            self._row(index, self._seeded(self.counted, step, number) if self.counted else self.generator)
            for number, index in enumerate(self.sampler.draw(count))
        ]

    def batches(
        self, count: int, size: int, device: torch.device | str = "cpu", workers: Workers = ALONE, step: int = 0
    ) -> Iterator[Rows]:
        """The rows of `draw`, or this process's share of them, as batches of up to `size` rows of one shape.

        With pictures of one shape these are count/size full batches; with several there are more, and smaller ones.
        """
        # the sort is stable: without other shapes the order stays
        rows = sorted(self.draw(count, step), key=lambda row: row.latent.shape)
        same: list[Row] = []
        for row in workers.share(rows):
            if same and (len(same) == size or row.latent.shape != same[0].latent.shape):
                yield self.stack(same, device)
                same = []
            same.append(row)
        if same:
            yield self.stack(same, device)

    def _row(self, index: int, generator: torch.Generator) -> Row:
        params = self.params
        words = vary_tags(
            self.dataset.report.entries[index].words, generator, params.shuffle_tags, params.tag_dropout,
            params.keep_tags,
        )  # fmt: skip
        caption = self.captions.draw(self.name, words, generator)
        if params.caption_dropout and float(torch.rand((), generator=generator)) < params.caption_dropout:
            caption = ""
        low, high = self.timesteps
        timestep = int(torch.randint(low, high + 1, (1,), generator=generator))
        flipped = params.flip and bool(torch.randint(2, (1,), generator=generator))
        picture = self.dataset.encoded(index, flipped)
        latent = picture.mean
        if params.latent_sampling == "once":
            latent = latent + picture.std * torch.randn(latent.shape, generator=self._of_picture(index, flipped))
        elif params.latent_sampling == "step":
            latent = latent + picture.std * torch.randn(latent.shape, generator=generator)
        noise = torch.randn(latent.shape, generator=generator)
        return Row(latent, noise, timestep, caption, picture.weight)

    def stack(self, rows: list[Row], device: torch.device | str = "cpu") -> Any:
        """What an objective gets of rows of one shape."""
        return stack(rows, device)

    def _of_picture(self, index: int, flipped: bool) -> torch.Generator:
        """One for a picture, the same every time: it does not depend on what else is in the folder."""
        return self._seeded(self.dataset.report.entries[index].digest, flipped)

    def _seeded(self, *counter: object) -> torch.Generator:
        return counted_generator(self.params.seed, *counter)

    def state_dict(self) -> dict[str, Any]:
        """The sampler's state; the generator's belongs to the job."""
        return self.sampler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The opposite of `state_dict`."""
        self.sampler.load_state_dict(state)


def counted_generator(seed: int, *counter: object) -> torch.Generator:
    """A CPU generator that depends on these alone."""
    text = " ".join(str(part) for part in (seed, *counter))
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big"))


def stack(rows: list[Row], device: torch.device | str = "cpu") -> Rows:
    """Rows of one shape as a batch on the device."""
    weights = None
    if any(row.weight is not None for row in rows):
        ones = torch.ones(1, *rows[0].latent.shape[1:])
        weights = torch.stack([ones if row.weight is None else row.weight for row in rows]).to(device)
    return Rows(
        torch.stack([row.latent for row in rows]).to(device),
        torch.stack([row.noise for row in rows]).to(device),
        torch.tensor([row.timestep for row in rows], device=device),
        tuple(row.caption for row in rows),
        weights,
    )
