"""The webui's sampling of one batch, both directions on our own DDIM grid.

The host's img2img DDIM is off by one against any inversion (HOST.md fact 3), so its `p.sample` is replaced. The guided
prediction stays the host's own: its CFG denoiser, called at our timesteps, so that AND, prompt editing, LoRA, masks,
live preview, interrupt and other extensions' callbacks go on working. Inversion and source features ask the model
directly.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from modules import devices, prompt_parser, scripts, sd_samplers_common, shared
from modules.script_callbacks import ExtraNoiseParams, extra_noise_callback
from torch import Tensor, nn

from lib_negtrans import TITLE
from lib_negtrans.core import guidance
from lib_negtrans.core.attention import AttentionControl, AttentionShapeError, Features
from lib_negtrans.core.inversion import Trajectory
from lib_negtrans.core.schedule import Schedule
from lib_negtrans.core.tac import TacPlan
from lib_negtrans.core.translate import translation_steps
from lib_negtrans.steps import finish
from lib_negtrans.translation.cache import inversion_key
from lib_negtrans.translation.params import TranslationParams
from lib_negtrans.translation.plan import guidance_of, inversion_of, tac_plan_of

from . import trajectories
from .combining import combined_by
from .preserved import Keeper
from .refusal import TranslationRefused
from .settings import option
from .source_rows import RowDenoiser, row_denoiser

# predictions go through the host's denoiser, which turns v into noise itself
PREDICTION_TYPE = "epsilon"


@dataclass(frozen=True)
class Sources:
    """The distinct init latents of a batch: latents (S, 4, h, w) float32, and each image's index among them."""

    latents: Tensor
    of_image: list[int]

    @classmethod
    def from_batch(cls, latents: Tensor) -> Sources:
        first: list[int] = []
        of_image = []
        for image, latent in enumerate(latents):
            same = next((s for s, other in enumerate(first) if torch.equal(latents[other], latent)), None)
            if same is None:
                same = len(first)
                first.append(image)
            of_image.append(same)
        return cls(latents[first], of_image)

    def per_image(self, values: Tensor) -> Tensor:
        """(S, ...) -> (B, ...)."""
        return values[self.of_image]


def sample(
    p: Any, params: TranslationParams, conditioning: Any, unconditional_conditioning: Any, keeper: Keeper
) -> Any:
    """What `StableDiffusionProcessingImg2Img.sample` does, with inversion and attention control: latents (B, 4, h, w).

    Where colours are put back on pixels, the host's list of decoded pictures instead.
    An interrupt in the inversion gives the init latents back, one in the sampling the picture foreseen there.
    Raises TranslationRefused when another extension's changes to the sampling are incompatible.
    """
    noise = p.rng.next()
    if p.scripts is not None:
        p.scripts.process_before_every_sampling(
            p=p, x=p.init_latent, noise=noise, c=conditioning, uc=unconditional_conditioning
        )
    sampler = p.sampler
    _refuse_replaced_forwards(sampler)
    sampler.initialize(p)
    _ignore_eta(p, sampler)
    sampler.model_wrap_cfg.init_latent = p.init_latent
    sampler.last_latent = p.init_latent
    sampler.sampler_extra_args = {
        "cond": conditioning,
        "image_cond": p.image_conditioning,
        "uncond": unconditional_conditioning,
        "cond_scale": p.cfg_scale,
        "s_min_uncond": sampler.s_min_uncond,
    }
    job = _Sampling(p, params, noise, keeper)
    try:
        # an interrupt anywhere inside ends both directions: the host answers it with `last_latent`
        samples = sampler.launch_sampling(job.total_steps, job.run)
    except AttentionShapeError as error:
        raise TranslationRefused(f"Attention control: {error}{_hint(job.unet)}") from error
    sampler.add_infotext(p)
    samples = _final_mask_blend(p, samples)
    devices.torch_gc()
    return keeper.finish(samples, job.sources.of_image, job.sources.latents)


def _hint(unet: nn.Module) -> str:
    if "_original_forward" not in vars(unet):
        return ""
    return " ControlNet's reference modes do so too: use another module, or set the TAC ratio to 0."


class _Sampling:
    """One batch on its way up and down the grid."""

    def __init__(self, p: Any, params: TranslationParams, noise: Tensor, keeper: Keeper) -> None:
        self.p, self.params, self.noise = p, params, noise
        self.sampler = p.sampler
        self.cfg_denoiser = p.sampler.model_wrap_cfg
        self.unet = p.sd_model.model.diffusion_model
        alphas_cumprod = p.sd_model.alphas_cumprod.detach().double().cpu()
        self.schedule = Schedule(alphas_cumprod, params.timesteps, PREDICTION_TYPE)
        self.tac_steps = params.tac_steps
        self.sources = Sources.from_batch(p.init_latent.float())
        self.total_steps = len(self.schedule) * (2 if params.inverts else 1)
        self.trajectory: Trajectory | None = None
        self.key: Hashable | None = None
        self.denoiser: nn.Module = self.cfg_denoiser.inner_model
        self.source_context = self._encode(params.source_prompt)
        self.guide = guidance_of(params)
        # where the prompt is empty its own prediction serves, and no row is added
        self.needs_empty = self.guide.needs_unconditional and any(prompt.strip() for prompt in p.prompts)
        self.empty_context = self._encode("") if params.inverts_guided or self.needs_empty else None
        size = tuple(self.sources.latents.shape[-2:])
        self.tac = tac_plan_of(params, self.unet, size) if self.tac_steps else TacPlan()
        first = [self.sources.of_image.index(source) for source in range(len(self.sources.latents))]
        region = keeper.region(first, size)
        self.region = None if region is None else region.to(self.sources.latents.device)

    def run(self) -> Tensor:
        """Inversion and translation; called by the host's `launch_sampling`."""
        # `launch_sampling` counts both directions for the progress bar; the CFG denoiser's own count is of guided steps
        self.cfg_denoiser.steps = self.cfg_denoiser.total_steps = len(self.schedule)
        # while nothing of ours is hooked into the model, which is part of the key
        self.key = self._key()
        self.trajectory = self._known_trajectory()
        try:
            return self._both_directions()
        finally:  # only now: LoRAs get into the weights with the first call
            trajectories.put(self.key, self.trajectory, self.unet)

    def _both_directions(self) -> Tensor:
        with (
            AttentionControl(self.tac.layers, self.region) as control,
            row_denoiser(self.cfg_denoiser, control) as rows,
        ):
            if self.params.inverts and self.trajectory is None:
                self.trajectory = self._invert(control)
            return self._translate(control, rows)

    def _key(self) -> Hashable | None:
        """What the inversion of these sources goes by in the cache; None where it cannot be vouched for."""
        state = trajectories.model_state(self.p)
        if state is None or not self.params.inverts:
            return None
        layers = AttentionControl(self.tac.layers) if self.params.captures else None
        return inversion_key(state, self.sources.latents, self.params, self.schedule, self.source_context, layers)

    def _known_trajectory(self) -> Trajectory | None:
        known = trajectories.get(self.key, self.unet)
        if known is not None:
            sd_samplers_common.store_latent(self.sources.per_image(known.latents[-1]))
            self.sampler.callback_state({"i": len(self.schedule) - 1})
        return known

    def _invert(self, control: AttentionControl) -> Trajectory:
        budget = trajectories.feature_budget(self.sources.latents.device)
        steps = inversion_of(self.params, self.sources.latents, self.schedule, self._predict_inversion, control, budget)
        trajectory = self._follow(steps, 0, lambda step: self.sources.per_image(step.latent))
        devices.test_for_nans(trajectory.latents[-1], "unet")
        return trajectory

    def _translate(self, control: AttentionControl, rows: RowDenoiser) -> Tensor:
        if self.params.start == "inversion":
            start = self.sources.per_image(self.trajectory.latents[-1])
        else:
            start = self._noised()

        def predict_guided(latent: Tensor, timestep: int, features: Features | None) -> Tensor:
            return self._predict_guided(rows, latent, timestep, features)

        steps = translation_steps(
            start, self.schedule, predict_guided,
            trajectory=self.trajectory, tac_steps=self.tac_steps, features_from=self.params.features_from,
            control=control, predict_source=lambda z, timestep: self._predict(z, timestep, self.source_context),
            solver=self.params.solver, per_image=self.sources.per_image,
            release_features=self.params.captures and self.key is None,
        )  # fmt: skip
        # the CFG denoiser stores its own preview
        return self._follow(steps, self.total_steps - len(self.schedule), None)

    def _follow(self, steps: Generator, offset: int, preview: Callable[[Any], Tensor] | None) -> Any:
        def on_step(step: Any) -> None:
            if preview is not None:
                sd_samplers_common.store_latent(preview(step))
            self.sampler.callback_state({"i": offset + step.index})

        return finish(steps, on_step)

    def _noised(self) -> Tensor:
        """The init latent with the host's noise on it, as its own img2img mixes it."""
        noise = self.noise
        if self.p.initial_noise_multiplier != 1.0:
            self.p.extra_generation_params["Noise multiplier"] = self.p.initial_noise_multiplier
            noise = noise * self.p.initial_noise_multiplier
        latent = self.p.init_latent.float()
        noised = self.schedule.add_noise(latent, noise, len(self.schedule))
        extra = shared.opts.img2img_extra_noise
        if extra > 0:
            self.p.extra_generation_params["Extra noise"] = extra
            event = ExtraNoiseParams(noise, latent, noised)
            extra_noise_callback(event)
            noised = noised + event.noise * extra * self.schedule.scales(len(self.schedule))[0]
        return noised

    def _encode(self, text: str) -> Tensor:
        prompts = prompt_parser.SdConditioning([text], width=self.p.width, height=self.p.height)
        with devices.autocast():
            schedules = prompt_parser.get_learned_conditioning(self.p.sd_model, prompts, 1)
        return prompt_parser.reconstruct_cond_batch(schedules, 0)

    def _predict_inversion(self, latent: Tensor, timestep: int) -> Tensor:
        cond = self._predict(latent, timestep, self.source_context)
        if not self.params.inverts_guided:
            return cond
        return guidance.cfg(self._predict(latent, timestep, self.empty_context), cond, self.params.cfg_scale)

    def _predict(self, latent: Tensor, timestep: int, context: Tensor) -> Tensor:
        """The noise prediction for sources (S, 4, h, w), without guidance."""
        if shared.state.interrupted or shared.state.skipped:
            raise sd_samplers_common.InterruptedException
        count = latent.shape[0]
        cond = {"c_crossattn": [context.expand(count, -1, -1)], "c_concat": [self.p.image_conditioning[:count]]}
        with _without_controlnet(self.unet):
            return self.denoiser(latent, latent.new_full((count,), float(timestep)), cond=cond).float()

    def _predict_guided(self, rows: RowDenoiser, latent: Tensor, timestep: int, features: Features | None) -> Tensor:
        arguments = self.sampler.sampler_extra_args
        composed, _ = prompt_parser.reconstruct_multicond_batch(arguments["cond"], self.cfg_denoiser.step)
        if self.cfg_denoiser.mask is not None:
            # the host blends the clean picture in at every step; the render at this step's noise level belongs there
            self.cfg_denoiser.init_latent = self._kept_latent(timestep).to(self.p.init_latent)
        step = len(self.schedule) - 1 - self.schedule.timesteps.index(timestep)
        called = rows.prediction(
            features, [len(conds) for conds in composed], self.sources.of_image,
            strengths=self.tac.strengths(step), both_halves=self.tac.both_halves, keep_inputs=self.needs_empty,
        )  # fmt: skip
        empty = (lambda: rows.with_context(self.empty_context)) if self.needs_empty else None
        combined = nullcontext() if self.guide.is_plain else combined_by(self.cfg_denoiser, self.guide, step, empty)
        with called, combined:
            return self.cfg_denoiser(latent, latent.new_full((latent.shape[0],), float(timestep)), **arguments).float()

    def _kept_latent(self, timestep: int) -> Tensor:
        position = self.schedule.timesteps.index(timestep) + 1
        if self.trajectory is not None:
            return self.sources.per_image(self.trajectory.latents[position])
        return self.schedule.add_noise(self.p.init_latent.float(), self.noise, position)


def _final_mask_blend(p: Any, samples: Tensor) -> Tensor:
    """The kept part back from the init latent, and the other scripts' say in it, as the host's own `sample` ends."""
    if p.mask is None:
        return samples
    blended = samples * p.nmask + p.init_latent * p.mask
    if p.scripts is None:
        return blended
    arguments = scripts.MaskBlendArgs(samples, p.nmask, p.init_latent, p.mask, blended)
    p.scripts.on_mask_blend(p, arguments)
    return arguments.blended_latent


def _ignore_eta(p: Any, sampler: Any) -> None:
    if sampler.eta:
        p.extra_generation_params.pop(sampler.eta_infotext_field, None)
        p.comment(f"{TITLE}: eta {sampler.eta:g} was not used, only deterministic DDIM can be inverted.")


def _refuse_replaced_forwards(sampler: Any) -> None:
    """Tiled diffusion and its like cut the latent up on the way to the model: its attention is another (HOST.md 3)."""
    for module in (sampler.model_wrap_cfg, sampler.model_wrap_cfg.inner_model):
        if "forward" in vars(module):
            raise TranslationRefused(
                "Another extension cuts the picture into tiles (Tiled Diffusion, DemoFusion): switch it off here."
            )


@contextmanager
def _without_controlnet(unet: nn.Module) -> Generator[None, None, None]:
    """ControlNet off for the calls inside, unless the settings want it in the inversion.

    It replaces the UNet's `forward` and keeps the former one in `_original_forward`.
    """
    hooked, original = vars(unet).get("forward"), vars(unet).get("_original_forward")
    if hooked is None or original is None or option("negtrans_controlnet_in_inversion"):
        yield
        return
    unet.forward = original
    try:
        yield
    finally:
        unet.forward = hooked
