"""One translation on any host: image -> latent -> inversion -> translation -> image, as a generator of progress.

The standalone hosts' guided prediction is made here, in one batch of negative and conditional rows; the webui uses its
own CFG denoiser with the same core (apps/webui/sampling.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from lib_negtrans import memory
from lib_negtrans.core import guidance
from lib_negtrans.core.attention import AttentionControl
from lib_negtrans.core.features import FeatureBudget
from lib_negtrans.core.inversion import InversionStep, Trajectory
from lib_negtrans.core.schedule import Schedule
from lib_negtrans.core.translate import Source, TranslationStep, translation_steps
from lib_negtrans.memory import reused_memory, trim_memory
from lib_negtrans.models.protocol import HostError, ModelHost
from lib_negtrans.steps import finish

from .cache import TrajectoryCache, host_state, inversion_key
from .params import TranslationParams
from .plan import guidance_of, inversion_of, tac_plan_of
from .preservation import background_blend, controlled_region, finished_picture

LARGE = 2 * 64 * 64  # latent pixels; on the CPU the prompts of a larger picture are computed one after the other


@dataclass(frozen=True)
class Progress:
    """Step `index` of `total` over the whole job; phase "inversion" or "translation"; clean: foreseen latent."""

    phase: str
    index: int
    total: int
    timestep: int
    clean: Tensor | None = None


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
    """A finished translation: image (B,3,H,W) in [0,1], latents (B,4,h,w), what it cost."""

    image: Tensor
    latent: Tensor
    source_latent: Tensor
    trajectory: Trajectory | None
    forwards: Forwards
    seconds: float


@dataclass(frozen=True)
class Conditioning:
    """Contexts (1, 77*k, width) of the prompts; unconditional only where the inversion needs guidance."""

    cond: Tensor
    negative: Tensor
    source: Tensor
    unconditional: Tensor | None
    empty: Tensor | None = None  # beside cond and negative, where the guidance needs it and the prompt is another


def encode_conditioning(host: ModelHost, params: TranslationParams, embeddings: Mapping[str, Tensor]) -> Conditioning:
    """Encode the prompts of a translation; cond and negative come out with the same number of chunks."""
    prompts = [params.prompt, params.negative_prompt, *([""] if guidance_of(params).needs_unconditional else [])]
    cond, negative, *others = host.encode_prompts(prompts, embeddings).split(1)
    empty = next((other for other in others if not torch.equal(other, cond)), None)
    source = host.encode_prompts([params.source_prompt], embeddings)
    unconditional = host.encode_prompts([""]) if params.inverts_guided else None
    return Conditioning(cond, negative, source, unconditional, empty)


@torch.no_grad()
def translate_latent(
    host: ModelHost,
    latent: Tensor,
    params: TranslationParams,
    embeddings: Mapping[str, Tensor] | None = None,
    cache: TrajectoryCache | None = None,
    feature_budget: FeatureBudget | None = None,
    mask: Tensor | None = None,
) -> Generator[Progress, None, tuple[Tensor, Trajectory | None, Forwards]]:
    """Invert and translate clean latents (B, 4, h, w), float32; returns the final latent, the trajectory and the cost.

    embeddings: trigger word -> vectors (n, width) for the prompts. cache: takes the inversion of the same latents under
    the same conditions from there, or puts it there. feature_budget: memory for captured features; by default the
    host's, or what is free decides. mask (B or 1, 1, 8h, 8w) in [0, 1]: 1 is the garment; attention control acts on it
    alone, or what lies outside is kept. Raises ParamError for bad parameters (before the first step), HostError for
    NaN.
    """
    params.validate()
    batch = latent.shape[0]
    schedule = Schedule(host.alphas_cumprod, params.timesteps, host.prediction_type)
    tac_steps = params.tac_steps
    tac = tac_plan_of(params, host.unet, tuple(latent.shape[-2:]))
    control = AttentionControl(tac.layers, controlled_region(params, mask, tuple(latent.shape[-2:])))
    guide = guidance_of(params)
    conditioning = encode_conditioning(host, params, embeddings or {})
    # a call's memory grows with its rows, and the CPU's speed does not where one row is large
    together = latent.device.type != "cpu" or latent.shape[-2] * latent.shape[-1] <= LARGE
    counts = dict.fromkeys(("inversion", "guided", "source", "beside"), 0)

    def evaluate(kind: str, z: Tensor, timestep: int, *contexts: Tensor, beside: Tensor | None = None) -> list[Tensor]:
        """beside: a source's latents, run in the same call before the others."""
        counts[kind] += batch * len(contexts)
        latents = [z] * len(contexts)
        if beside is not None:
            counts["source"] += batch
            counts["beside"] += batch
            latents, contexts = [beside, *latents], (conditioning.source, *contexts)
        context = torch.cat([c.expand(batch, -1, -1) for c in contexts])
        output = host.predict_noise(torch.cat(latents), timestep, context)
        if not torch.isfinite(output).all():
            raise HostError(f"the model gave NaN at timestep {timestep}: use --dtype float32 (in the webui --no-half).")
        return list(output.chunk(len(contexts)))[beside is not None :]

    def predict_inversion(z: Tensor, timestep: int) -> Tensor:
        if conditioning.unconditional is None:
            return evaluate("inversion", z, timestep, conditioning.source)[0]
        uncond, cond = evaluate("inversion", z, timestep, conditioning.unconditional, conditioning.source)
        return guidance.cfg(uncond, cond, params.cfg_scale)

    def predict_source(z: Tensor, timestep: int) -> Tensor:
        return evaluate("source", z, timestep, conditioning.source)[0]

    # under TAC the two branches differ even for equal prompts, unless it controls both
    same_prompts = torch.equal(conditioning.cond, conditioning.negative)

    def predict_guided(z: Tensor, timestep: int, source: Source, known: Tensor | None = None) -> Tensor:
        """known: the conditional rows' output, where it is that of the inversion."""
        beside = source if isinstance(source, Tensor) else None
        features = None if beside is not None else source
        step = len(schedule) - 1 - schedule.timesteps.index(timestep)
        contexts: dict[str, Tensor] = {}
        rows: dict[str, list[int]] = {}  # which source each row of a context takes its attention from
        # rows whose result cannot matter are not computed
        if params.cfg_scale != 1 and not (same_prompts and (source is None or tac.both_halves)):
            contexts["negative"] = conditioning.negative
            rows["negative"] = list(range(batch)) if tac.both_halves else [-1] * batch
        if params.cfg_scale != 1 and conditioning.empty is not None:
            contexts["empty"] = conditioning.empty
            rows["empty"] = list(range(batch))
        if known is None:
            contexts["cond"] = conditioning.cond
            rows["cond"] = list(range(batch))
        elif not contexts:
            return known
        found: dict[str, Tensor] = {}
        apart = 0 if beside is None else batch
        for group in [list(contexts)] if together else [[name] for name in contexts]:
            taken = [-1] * apart + [row for name in group for row in rows[name]]
            injection = nullcontext() if source is None else control.inject(features, taken, tac.strengths(step))
            with injection:
                outputs = evaluate("guided", z, timestep, *(contexts[name] for name in group), beside=beside)
            found |= zip(group, outputs, strict=True)
        cond = found.pop("cond") if known is None else known
        if not found:
            return cond
        return guide(found.get("empty", cond), cond, found.get("negative", cond), params.cfg_scale, step)

    budget = feature_budget or getattr(host, "feature_budget", None) or memory.feature_budget(latent.device)
    # the source's output at the noisiest position is the conditional one: once more captured rather than recomputed
    first_known = params.features_from == "captured" and torch.equal(conditioning.source, conditioning.cond)
    total = len(schedule) * (2 if params.inverts else 1)
    key = None
    if params.inverts and cache is not None:  # while nothing is hooked: hooks are part of the key
        captured = control if params.captures else None
        key = inversion_key(host_state(host), latent, params, schedule, conditioning.source, captured)
    with control, reused_memory(latent.device):
        trajectory = None
        if key is not None and (trajectory := cache.get(key)) is not None:
            last = InversionStep(len(schedule) - 1, len(schedule), schedule.timesteps[-1], trajectory.latents[-1])
            yield _progress(last, "inversion", 0, total)
        elif params.inverts:
            steps = inversion_of(params, latent, schedule, predict_inversion, control, budget)
            trajectory = yield from _relay(steps, "inversion", 0, total)
            if key is not None:
                cache.put(key, trajectory)
        features_kept = str(trajectory.features) if params.captures else ""
        trim_memory(latent.device)  # guided calls have more rows: what single ones have freed does not fit them
        noise = None
        if params.start == "inversion":
            start = trajectory.latents[-1]
        else:
            generator = torch.Generator().manual_seed(params.seed)
            noise = torch.randn(latent.shape, generator=generator).to(latent)
            start = schedule.add_noise(latent, noise, len(schedule))
        steps = translation_steps(
            start, schedule, predict_guided,
            trajectory=trajectory, tac_steps=tac_steps, features_from=params.features_from,
            control=control, predict_source=predict_source, source_beside=together,
            source_is_cond=params.source_prompt == params.prompt
            and not tac.both_halves and conditioning.empty is None,
            predict_first=predict_guided if first_known else None, solver=params.solver,
            release_features=params.captures and key is None,
            blend=background_blend(params, mask, schedule, trajectory, latent, noise),
        )  # fmt: skip
        try:
            result = yield from _relay(steps, "translation", total - len(schedule), total)
        finally:
            if key is not None:
                trajectory.features.park()
    cached = params.inverts and not counts["inversion"]
    return result, trajectory, Forwards(**counts, features=features_kept, cached=cached)


def _relay(steps: Generator, phase: str, offset: int, total: int) -> Generator[Progress, None, object]:
    while True:
        try:
            step = next(steps)
        except StopIteration as stop:
            return stop.value
        yield _progress(step, phase, offset, total)


def _progress(step: InversionStep | TranslationStep, phase: str, offset: int, total: int) -> Progress:
    return Progress(phase, offset + step.index, total, step.timestep, getattr(step, "clean", None))


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
    feature_budget: FeatureBudget | None = None,
    mask: Tensor | None = None,
) -> Generator[Progress, None, Translation]:
    """Translate images (B, 3, H, W) in [0, 1], H and W multiples of 8; the generator returns a `Translation`.

    mask (B or 1, 1, H, W) in [0, 1], 1 the garment: what colours, attention control and background go by.
    """
    began = time.perf_counter()
    source = _with_room(host.encode_image if cache is None else partial(cache.encoded, host))(image)
    latent, trajectory, forwards = yield from translate_latent(
        host, source, params, embeddings, cache, feature_budget, mask
    )
    decode = _with_room(host.decode_latent)
    decode_source = None if cache is None else _with_room(partial(cache.decoded, host))
    decoded = finished_picture(params, latent, source, image, mask, decode, decode_source)
    if not torch.isfinite(decoded).all():
        raise HostError("the VAE gave NaN: use --dtype float32 (in the webui --no-half-vae).")
    return Translation(decoded, latent, source, trajectory, forwards, time.perf_counter() - began)


def translate(
    host: ModelHost,
    image: Tensor,
    params: TranslationParams,
    embeddings: Mapping[str, Tensor] | None = None,
    cache: TrajectoryCache | None = None,
    feature_budget: FeatureBudget | None = None,
    mask: Tensor | None = None,
) -> Translation:
    """`translate_image` run to its end."""
    return finish(translate_image(host, image, params, embeddings, cache, feature_budget, mask))
