"""The rows of a step: which pictures, and for each a caption, a timestep and noise of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

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
    """

    def __init__(
        self,
        dataset: Dataset,
        captions: Captions,
        name: str,
        timesteps: tuple[int, int],
        generator: torch.Generator,
        params: TrainingParams | None = None,
        together: int = 1,
    ):
        self.dataset, self.captions, self.name, self.timesteps = dataset, captions, name, timesteps
        self.generator, self.params = generator, params or TrainingParams()
        self.sampler = EpochSampler(len(dataset), generator, dataset.shapes, together)

    def draw(self, count: int) -> list[Row]:
        """The next `count` rows."""
        return [self._row(index) for index in self.sampler.draw(count)]

    def batches(
        self, count: int, size: int, device: torch.device | str = "cpu", workers: Workers = ALONE
    ) -> Iterator[Rows]:
        """The next `count` rows, or this process's share of them, as batches of up to `size` rows of one shape.

        With pictures of one shape these are count/size full batches; with several there are more, and smaller ones.
        """
        # the sort is stable: without other shapes the order stays
        rows = sorted(self.draw(count), key=lambda row: row.latent.shape)
        same: list[Row] = []
        for row in workers.share(rows):
            if same and (len(same) == size or row.latent.shape != same[0].latent.shape):
                yield stack(same, device)
                same = []
            same.append(row)
        if same:
            yield stack(same, device)

    def _row(self, index: int) -> Row:
        params, generator = self.params, self.generator
        words = vary_tags(
            self.dataset.report.entries[index].words, generator, params.shuffle_tags, params.tag_dropout,
            params.keep_tags,
        )  # fmt: skip
        caption = self.captions.draw(self.name, words, generator)
        low, high = self.timesteps
        timestep = int(torch.randint(low, high + 1, (1,), generator=generator))
        flipped = params.flip and bool(torch.randint(2, (1,), generator=generator))
        picture = self.dataset.encoded(index, flipped)
        latent = picture.mean
        if params.latent_sampling == "once":
            latent = latent + picture.std * torch.randn(latent.shape, generator=self._own_generator(index, flipped))
        elif params.latent_sampling == "step":
            latent = latent + picture.std * torch.randn(latent.shape, generator=generator)
        noise = torch.randn(latent.shape, generator=generator)
        return Row(latent, noise, timestep, caption, picture.weight)

    def _own_generator(self, index: int, flipped: bool) -> torch.Generator:
        """One for a picture, the same every time: it does not depend on what else is in the folder."""
        text = f"{self.params.seed} {self.dataset.report.entries[index].digest} {flipped}"
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
        return torch.Generator().manual_seed(seed)

    def state_dict(self) -> dict[str, Any]:
        """The sampler's state; the generator's belongs to the job."""
        return self.sampler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The opposite of `state_dict`."""
        self.sampler.load_state_dict(state)


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
