"""One translation on any host: image -> latent -> inversion -> translation -> image, as a generator of progress.

`both_directions` is the way of every host's latents up and down the grid; what the model predicts there is its
`GuidedDenoiser`'s.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Hashable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from lib_negtrans import memory
from lib_negtrans.core.attention import AttentionShapeError
from lib_negtrans.core.features import FeatureBudget
from lib_negtrans.core.inversion import InversionStep, Trajectory
from lib_negtrans.core.translate import Method, TranslationStep, translation_steps
from lib_negtrans.memory import trim_memory
from lib_negtrans.models.protocol import HostError, ModelHost
from lib_negtrans.pictures.images import pad_to_multiple
from lib_negtrans.steps import Result, finish

from .cache import TrajectoryCache
from .denoiser import GuidedDenoiser, StandaloneDenoiser
from .params import TranslationParams
from .plan import inversion_of
from .preservation import finished_picture, free_share


class Store(Protocol):
    """Where inversions are kept: a `TrajectoryCache`, or what stands before one."""

    def get(self, key: Hashable) -> Trajectory | None: ...

    def put(self, key: Hashable, trajectory: Trajectory) -> object: ...


@dataclass(frozen=True)
class Progress:
    """Step `index` of `total` over the whole job; phase "inversion" or "translation".

    latent: the one that was reached, of sources (S, 4, h, w) or pictures (B, 4, h, w); clean: foreseen latent.
    """

    phase: str
    index: int
    total: int
    timestep: int
    clean: Tensor | None = None
    latent: Tensor | None = None


@dataclass(frozen=True)
class Forwards:
    """UNet sample-forwards, in rows, each counted whole: of the inversion, of guided calls, of source calls.

    beside: those source rows that ran in a guided call, to its end; a source call ends after the last controlled layer.
    """

    inversion: int = 0
    guided: int = 0
    source: int = 0
    beside: int = 0
    features: str = ""  # where captured features were kept, in words
    cached: bool = False  # the inversion was there already

    @property
    def total(self) -> int:
        """Rows in all."""
        return self.inversion + self.guided + self.source

    def __str__(self) -> str:
        inversion = "inversion from the cache" if self.cached else f"{self.inversion} inversion"
        parts = f"{inversion} + {self.guided} guided + {self.source} source"
        features = f", source features: {self.features}" if self.features else ""
        return f"{self.total} UNet sample-forwards ({parts}){features}"


@dataclass(frozen=True)
class Translation:
    """A finished translation: image (B,3,H,W) in [0,1], latents (B,4,h,w) of its padded size, what it cost."""

    image: Tensor
    latent: Tensor
    source_latent: Tensor
    trajectory: Trajectory | None
    forwards: Forwards
    seconds: float


@torch.no_grad()
def both_directions(
    denoiser: GuidedDenoiser, budget: FeatureBudget, store: Store | None = None
) -> Generator[Progress, None, Tensor]:
    """Invert a denoiser's sources and translate them: the way of every host; returns the latents (B, 4, h, w).

    budget: memory for captured features. store: the inversion of the same latents under the same conditions is taken
    from there, or put there. However it ends, no hook is left, and an inversion that was finished is kept.
    """
    params, schedule, device = denoiser.params, denoiser.schedule, denoiser.latent.device
    total = len(schedule) * (2 if params.inverts else 1)
    key = None if store is None else denoiser.key()  # while nothing is hooked: hooks are part of it
    if store is not None and key is not None:
        denoiser.trajectory = store.get(key)
    try:
        with denoiser.running():
            if denoiser.trajectory is not None:
                end = denoiser.trajectory.latents[-1]
                last = InversionStep(len(schedule) - 1, len(schedule), schedule.timesteps[-1], end)
                yield _progress(last, "inversion", 0, total)
            elif params.inverts:
                inverting = inversion_of(
                    params, denoiser.latent, schedule, denoiser.inversion, denoiser.control, budget
                )
                denoiser.trajectory = yield from _relay(inverting, "inversion", 0, total)
            if params.captures and denoiser.trajectory is not None:
                denoiser.features = str(denoiser.trajectory.features)
            trim_memory(device)  # guided calls have more rows: what single ones have freed does not fit them
            steps = translation_steps(
                denoiser.kept(len(schedule)) if params.start == "inversion" else denoiser.noised(), schedule,
                denoiser.guided, Method(params.tac_steps, params.features_from, params.sampler),
                trajectory=denoiser.trajectory, per_image=denoiser.per_image,
                release_features=params.captures and key is None, blend=denoiser.blend,
            )  # fmt: skip
            return (yield from _relay(steps, "translation", total - len(schedule), total))
    finally:
        if store is not None and key is not None and denoiser.trajectory is not None:
            denoiser.trajectory.features.park()
            store.put(key, denoiser.trajectory)


def translate_latent(
    host: ModelHost,
    latent: Tensor,
    params: TranslationParams,
    embeddings: Mapping[str, Tensor] | None = None,
    cache: TrajectoryCache | None = None,
    mask: Tensor | None = None,
    free: Tensor | None = None,
) -> Generator[Progress, None, tuple[Tensor, Trajectory | None, Forwards]]:
    """Invert and translate clean latents (B, 4, h, w), float32; returns the final latent, the trajectory and the cost.

    embeddings: trigger word -> vectors (n, width) for the prompts. cache: takes the inversion of the same latents under
    the same conditions from there, or puts it there. mask (B or 1, 1, 8h, 8w) in [0, 1]: 1 is the garment; attention
    control acts on it alone, or what lies outside is kept. free (B or 1, 1, 8h, 8w) in
    [0, 1]: 0 stays as it is. Captured features take the memory of the host's
    `feature_budget`, or half of what is free. Raises ParamError for bad parameters (before the first step), HostError
    for NaN and for attention that another program has changed.
    """
    params.validate()
    with torch.no_grad():
        denoiser = StandaloneDenoiser(host, latent, params, embeddings or {}, mask, free)
    budget = getattr(host, "feature_budget", None) or memory.feature_budget(latent.device)
    try:
        result = yield from both_directions(denoiser, budget, cache)
    except AttentionShapeError as error:
        raise HostError(str(error)) from error
    cached = params.inverts and not denoiser.counts["inversion"]
    return result, denoiser.trajectory, Forwards(**denoiser.counts, features=denoiser.features, cached=cached)


def _relay(
    steps: Generator[InversionStep | TranslationStep, None, Result], phase: str, offset: int, total: int
) -> Generator[Progress, None, Result]:
    while True:
        try:
            step = next(steps)
        except StopIteration as stop:
            result: Result = stop.value
            return result
        yield _progress(step, phase, offset, total)


def _progress(step: InversionStep | TranslationStep, phase: str, offset: int, total: int) -> Progress:
    return Progress(phase, offset + step.index, total, step.timestep, getattr(step, "clean", None), step.latent)


def _with_room(through_vae: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """through_vae, whose peak is the largest of all, with nothing beside it that was freed before, or after."""

    def run(given: Tensor) -> Tensor:
        trim_memory(given.device)
        done = through_vae(given)
        trim_memory(given.device)
        return done

    return run


@torch.no_grad()
def translate_image(
    host: ModelHost,
    image: Tensor,
    params: TranslationParams,
    embeddings: Mapping[str, Tensor] | None = None,
    cache: TrajectoryCache | None = None,
    mask: Tensor | None = None,
) -> Generator[Progress, None, Translation]:
    """Translate images (B, 3, H, W) in [0, 1], on any device; the generator returns a `Translation`.

    H and W may be any: the model gets the picture with its border repeated up to multiples of 8, and latents are of
    that size. mask (B or 1, 1, H, W) in [0, 1], 1 the garment: what colours, attention control and background go by.
    """
    began = time.perf_counter()
    height, width = image.shape[-2:]
    image = pad_to_multiple(image).to(host.device)
    mask = None if mask is None else pad_to_multiple(mask).to(host.device)
    free = free_share(params, image, mask)
    source = _with_room(host.encode_image if cache is None else partial(cache.encoded, host))(image)
    latent, trajectory, forwards = yield from translate_latent(host, source, params, embeddings, cache, mask, free)
    decode = _with_room(host.decode_latent)
    decode_source = None if cache is None else _with_room(partial(cache.decoded, host))
    decoded = finished_picture(params, latent, source, image, mask, decode, decode_source, free)
    decoded = decoded[..., :height, :width]
    if not torch.isfinite(decoded).all():
        raise HostError("the VAE gave NaN: use --dtype float32 (in the webui --no-half-vae).")
    return Translation(decoded, latent, source, trajectory, forwards, time.perf_counter() - began)


def translate(
    host: ModelHost,
    image: Tensor,
    params: TranslationParams,
    embeddings: Mapping[str, Tensor] | None = None,
    cache: TrajectoryCache | None = None,
    mask: Tensor | None = None,
) -> Translation:
    """`translate_image` run to its end."""
    return finish(translate_image(host, image, params, embeddings, cache, mask))
