"""The webui's sampling of one batch, both directions on our own DDIM grid.

The host's img2img DDIM is off by one against any inversion (HOST.md fact 3), so its `p.sample` is replaced. The guided
prediction stays the host's own: its CFG denoiser, called at our timesteps, so that AND, prompt editing, LoRA, masks,
live preview, interrupt and other extensions' callbacks go on working. Inversion and source features ask the model
directly. The way up and down the grid is every host's (translation/pipeline.py).
"""

from __future__ import annotations

from collections.abc import Generator, Hashable
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from modules import devices, prompt_parser, scripts, sd_samplers_common, shared
from modules.script_callbacks import ExtraNoiseParams, extra_noise_callback
from torch import Tensor, nn

from lib_negtrans import TITLE
from lib_negtrans.core import guidance
from lib_negtrans.core.attention import AttentionShapeError
from lib_negtrans.core.schedule import Schedule
from lib_negtrans.core.translate import Source
from lib_negtrans.steps import finish
from lib_negtrans.translation.denoiser import GuidedDenoiser
from lib_negtrans.translation.params import TranslationParams
from lib_negtrans.translation.pipeline import Progress, both_directions

from . import trajectories
from .combining import combined_by
from .preserved import Keeper
from .refusal import TranslationRefused
from .settings import option
from .source_rows import RowDenoiser, row_denoiser

# predictions go through the host's denoiser, which turns v into noise itself
PREDICTION_TYPE = "epsilon"


def distinct(latents: Tensor) -> tuple[list[int], list[int]]:
    """Of latents (B, 4, h, w) the rows (S) that no row before is equal to, and each row's index among them."""
    first: list[int] = []
    of_image = []
    for image, latent in enumerate(latents):
        same = next((s for s, other in enumerate(first) if torch.equal(latents[other], latent)), None)
        if same is None:
            same = len(first)
            first.append(image)
        of_image.append(same)
    return first, of_image


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
    denoiser = WebuiDenoiser(p, params, noise, keeper)
    # it counts both directions for the progress bar; the CFG denoiser's own count is of guided steps
    total = len(denoiser.schedule) * (2 if params.inverts else 1)
    try:
        # an interrupt anywhere inside ends both directions: the host answers it with `last_latent`
        samples = sampler.launch_sampling(total, lambda: _both_directions(denoiser))
    except AttentionShapeError as error:
        raise TranslationRefused(f"Attention control: {error}{_hint(denoiser.unet)}") from error
    sampler.add_infotext(p)
    samples = _final_mask_blend(p, samples)
    devices.torch_gc()
    return keeper.finish(samples, denoiser.of_image, denoiser.latent)


def _both_directions(denoiser: WebuiDenoiser) -> Tensor:
    sampler, steps = denoiser.sampler, len(denoiser.schedule)
    sampler.model_wrap_cfg.steps = sampler.model_wrap_cfg.total_steps = steps

    def on_step(progress: Progress) -> None:
        if progress.phase == "inversion":  # in the other one the CFG denoiser stores its own preview
            sd_samplers_common.store_latent(denoiser.per_image(progress.latent))
        sampler.callback_state({"i": progress.index})

    budget = trajectories.feature_budget(denoiser.latent.device)
    return finish(both_directions(denoiser, budget, trajectories.Store(denoiser.unet)), on_step)


def _hint(unet: nn.Module) -> str:
    if "_original_forward" not in vars(unet):
        return ""
    return " ControlNet's reference modes do so too: use another module, or set the TAC ratio to 0."


class WebuiDenoiser(GuidedDenoiser):
    """The translation of one batch of the host's: guided predictions are its CFG denoiser's, the others the model's."""

    _rows: RowDenoiser

    def __init__(self, p: Any, params: TranslationParams, noise: Tensor, keeper: Keeper) -> None:
        latents = p.init_latent.float()
        first, of_image = distinct(latents)
        region = keeper.region(first, tuple(latents.shape[-2:]))
        schedule = Schedule(p.sd_model.alphas_cumprod.detach().double().cpu(), params.timesteps, PREDICTION_TYPE)
        super().__init__(
            params, p.sd_model.model.diffusion_model, latents[first], schedule,
            of_image=of_image, region=None if region is None else region.to(latents.device),
        )  # fmt: skip
        self.p, self.noise, self.sampler = p, noise, p.sampler
        self._cfg_denoiser = p.sampler.model_wrap_cfg
        self._model: nn.Module = self._cfg_denoiser.inner_model
        self.source_context = self._encode(params.source_prompt)
        # where the prompt is empty its own prediction serves, and no row is added
        self._needs_empty = self.guide.needs_unconditional and any(prompt.strip() for prompt in p.prompts)
        self._empty_context = self._encode("") if params.inverts_guided or self._needs_empty else None

    def state(self) -> Hashable | None:
        return trajectories.model_state(self.p)

    @contextmanager
    def running(self) -> Generator[None, None, None]:
        with self.control, row_denoiser(self._cfg_denoiser, self.control) as self._rows:
            yield

    def noised(self) -> Tensor:
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

    def inversion(self, z: Tensor, timestep: int) -> Tensor:
        output = self.source(z, timestep)
        if self.params.inverts_guided:
            output = guidance.cfg(self._predict(z, timestep, self._empty_context), output, self.params.cfg_scale)
        devices.test_for_nans(output, "unet")
        return output

    def source(self, z: Tensor, timestep: int) -> Tensor:
        return self._predict(z, timestep, self.source_context)

    def guided(self, z: Tensor, position: int, source: Source) -> Tensor:
        timestep, step = self.schedule.timestep(position), len(self.schedule) - position
        features = self.recomputed(source, timestep) if isinstance(source, Tensor) else source
        arguments = self.sampler.sampler_extra_args
        composed, _ = prompt_parser.reconstruct_multicond_batch(arguments["cond"], self._cfg_denoiser.step)
        if self._cfg_denoiser.mask is not None:
            # the host blends the clean picture in at every step; the render at this step's noise level belongs there
            self._cfg_denoiser.init_latent = self.kept(position).to(self.p.init_latent)
        called = self._rows.prediction(
            features, [len(conds) for conds in composed], self.of_image,
            strengths=self.tac.strengths(step), both_halves=self.tac.both_halves, keep_inputs=self._needs_empty,
        )  # fmt: skip
        empty = (lambda: self._rows.with_context(self._empty_context)) if self._needs_empty else None
        combined = nullcontext() if self.guide.is_plain else combined_by(self._cfg_denoiser, self.guide, step, empty)
        with called, combined:
            return self._cfg_denoiser(z, z.new_full((len(z),), float(timestep)), **arguments).float()

    def _encode(self, text: str) -> Tensor:
        prompts = prompt_parser.SdConditioning([text], width=self.p.width, height=self.p.height)
        with devices.autocast():
            schedules = prompt_parser.get_learned_conditioning(self.p.sd_model, prompts, 1)
        return prompt_parser.reconstruct_cond_batch(schedules, 0)

    def _predict(self, z: Tensor, timestep: int, context: Tensor) -> Tensor:
        """The noise prediction for sources (S, 4, h, w), without guidance."""
        if shared.state.interrupted or shared.state.skipped:
            raise sd_samplers_common.InterruptedException
        count = len(z)
        cond = {"c_crossattn": [context.expand(count, -1, -1)], "c_concat": [self.p.image_conditioning[:count]]}
        with _without_controlnet(self.unet):
            return self._model(z, z.new_full((count,), float(timestep)), cond=cond).float()


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
