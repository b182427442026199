"""Which rows of a UNet call belong to which source: told by the caller of the UNet, never guessed inside a hook.

The host's CFG denoiser lays its rows out as [conds of image 0, conds of image 1, .., one uncond per image] and computes
them in one call, in slices (`batch_cond_uncond` off), or cond and uncond apart (prompts of different length), always in
that order; with NGMS or "skip early CFG" the unconds are left out (HOST.md fact 6 and 2.7).
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from lib_negtrans.apps.webui import UNEXPECTED_ROWS
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
        self._injection: tuple[Features, Mapping[str, float] | None] | None = None
        self._rows: list[int] = []
        self._done = 0
        self._conds_per_image: Sequence[int] = ()
        self._source_of: Sequence[int] = ()
        self._calls: list[tuple[Tensor, Tensor, dict[str, Any]]] | None = None

    def forward(self, latent: Tensor, timestep: Tensor, **kwargs: Any) -> Tensor:
        if self._calls is not None:
            self._calls.append((latent, timestep, kwargs["cond"]))
        if self._injection is None:
            return self.denoiser(latent, timestep, **kwargs)
        rows = self._rows[self._done : self._done + latent.shape[0]]
        if len(rows) != latent.shape[0]:
            raise AttentionShapeError(UNEXPECTED_ROWS)
        self._done += len(rows)
        with self._injected(rows):
            return self.denoiser(latent, timestep, **kwargs)

    def _injected(self, rows: Sequence[int]) -> AbstractContextManager[None]:
        if self._injection is None or max(rows) < 0:
            return nullcontext()
        return self.control.inject(self._injection[0], rows, self._injection[1])

    @contextmanager
    def prediction(
        self,
        features: Features | None,
        conds_per_image: Sequence[int],
        source_of: Sequence[int],
        *,
        strengths: Mapping[str, float] | None = None,
        both_halves: bool = False,
        keep_inputs: bool = False,
    ) -> Generator[None, None, None]:
        """The UNet calls inside make one guided prediction; image i takes the attention of source source_of[i].

        strengths: as in `AttentionControl.inject`. both_halves: so do the unconds. keep_inputs: for `with_context`.
        Raises AttentionShapeError when the calls were not those of the host's CFG denoiser.
        """
        conds = [source for source, count in zip(source_of, conds_per_image, strict=True) for _ in range(count)]
        unconds = list(source_of) if both_halves else [-1] * len(source_of)
        self._injection = None if features is None else (features, strengths)
        self._rows, self._done = conds + unconds, 0
        self._conds_per_image, self._source_of = conds_per_image, source_of
        self._calls = [] if keep_inputs else None
        try:
            yield
            if features is not None and self._done not in (len(conds), len(self._rows)):
                raise AttentionShapeError(UNEXPECTED_ROWS)
        finally:
            self._injection = self._calls = None

    def with_context(self, context: Tensor) -> Tensor:
        """One more call inside a prediction that keeps its inputs, after the host's: (B, 4, h, w), a row an image.

        It has each image's latent as the host handed it over (masked, changed by callbacks), this context (1, tokens,
        width), and the attention of the image's source. It is counted among no rows.
        Raises AttentionShapeError when the host's calls hold no such rows.
        """
        first = [sum(self._conds_per_image[:image]) for image in range(len(self._conds_per_image))]
        latents = torch.cat([latent for latent, _timestep, _cond in self._calls or [_NO_CALL]])
        if latents.shape[0] <= first[-1]:
            raise AttentionShapeError(UNEXPECTED_ROWS)
        timesteps = torch.cat([timestep for _latent, timestep, _cond in self._calls])
        concat = torch.cat([cond["c_concat"][0] for _latent, _timestep, cond in self._calls])
        mark = _mark(self._calls[0][2]["c_crossattn"][0]).to(context)
        context = torch.cat([mark, context], dim=1)
        # ControlNet keeps its hint at the batch size of the host's call: as many rows then, images repeated
        count = max(len(first), len(self._calls[0][0])) if mark.shape[1] else len(first)
        images = [row % len(first) for row in range(count)]
        taken = [first[image] for image in images]
        cond = {"c_crossattn": [context.expand(count, -1, -1)], "c_concat": [concat[taken]]}
        with self._injected([self._source_of[image] for image in images]):
            return self.denoiser(latents[taken], timesteps[taken], cond=cond)[: len(first)]


def _mark(conds: Tensor) -> Tensor:
    """The token that ControlNet puts before a prompt's 77s to say that it is none to get away from (HOST.md fact 9)."""
    return conds[:1, : conds.shape[1] % 77]


_NO_CALL = (torch.empty(0), torch.empty(0), {})


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
