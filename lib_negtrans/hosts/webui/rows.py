"""Which rows of a UNet call belong to which source: told by the caller of the UNet, never guessed inside a hook.

The host's CFG denoiser lays its rows out as [conds of image 0, conds of image 1, .., one uncond per image] and computes
them in one call, in slices (`batch_cond_uncond` off), or cond and uncond apart (prompts of different length), always in
that order; with NGMS or "skip early CFG" the unconds are left out (HOST.md fact 6 and 2.7).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import Tensor, nn

from lib_negtrans.core.attention import AttentionControl, AttentionShapeError, Features


class RowDenoiser(nn.Module):
    """Stands between one sampler's CFG denoiser and its model, and names each call's rows to the attention control.

    `with rows.prediction(features, conds_per_image, source_of):` surrounds one guided prediction.
    """

    def __init__(self, denoiser: nn.Module, control: AttentionControl) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.inner_model = denoiser.inner_model  # callbacks and samplers reach the checkpoint through it
        self.control = control
        self._features: Features | None = None
        self._rows: list[int] = []
        self._done = 0

    def forward(self, latent: Tensor, timestep: Tensor, **kwargs: Any) -> Tensor:
        if self._features is None:
            return self.denoiser(latent, timestep, **kwargs)
        rows = self._rows[self._done : self._done + latent.shape[0]]
        if len(rows) != latent.shape[0]:
            raise AttentionShapeError(_UNEXPECTED_ROWS)
        self._done += len(rows)
        with self.control.inject(self._features, rows) if max(rows) >= 0 else nullcontext():
            return self.denoiser(latent, timestep, **kwargs)

    @contextmanager
    def prediction(
        self, features: Features | None, conds_per_image: Sequence[int], source_of: Sequence[int]
    ) -> Generator[None, None, None]:
        """The UNet calls inside make one guided prediction; image i takes the attention of source source_of[i].

        Raises AttentionShapeError when the calls were not those of the host's CFG denoiser.
        """
        conds = [source for source, count in zip(source_of, conds_per_image, strict=True) for _ in range(count)]
        self._features, self._rows, self._done = features, conds + [-1] * len(source_of), 0
        try:
            yield
            if features is not None and self._done not in (len(conds), len(self._rows)):
                raise AttentionShapeError(_UNEXPECTED_ROWS)
        finally:
            self._features = None


_UNEXPECTED_ROWS = (
    "another extension changes which prompts the model is asked about: switch it off, or set the TAC ratio to 0."
)


@contextmanager
def row_denoiser(cfg_denoiser: nn.Module, control: AttentionControl) -> Generator[RowDenoiser, None, None]:
    """A `RowDenoiser` inside one sampler's CFG denoiser while the context is open."""
    original = cfg_denoiser.inner_model
    rows = RowDenoiser(original, control)
    cfg_denoiser.model_wrap = rows
    try:
        yield rows
    finally:
        cfg_denoiser.model_wrap = original
