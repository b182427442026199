"""The webui's sampling of one batch, both directions on our own DDIM grid.

The host's img2img DDIM is off by one against any inversion (HOST.md fact 3), so its `p.sample` is replaced. The guided
prediction stays the host's own: its CFG denoiser, called at our timesteps, so that AND, prompt editing, LoRA, masks,
live preview, interrupt and other extensions' callbacks go on working. Inversion and source features ask the model
directly. The way up and down the grid is every host's (translation/pipeline.py).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from modules import devices, prompt_parser, scripts, sd_samplers_common, shared
from modules.script_callbacks import ExtraNoiseParams, extra_noise_callback
from torch import Tensor, nn

from lib_negtrans import TITLE
from lib_negtrans.core import guidance
from lib_negtrans.core.attention import AttentionShapeError
from lib_negtrans.core.schedule import Schedule
from lib_negtrans.steps import finish
from lib_negtrans.translation.concepts import Steering
from lib_negtrans.translation.denoiser import GuidedDenoiser
from lib_negtrans.translation.params import TranslationParams
from lib_negtrans.translation.pipeline import Progress, both_directions

from . import trajectories
from .host import host
from .preserved import Keeper
from .refusal import TranslationRefused

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
    p: Any,
    params: TranslationParams,
    conditioning: Any,
    unconditional_conditioning: Any,
    keeper: Keeper,
    asked: Sequence[Steering],
) -> Any:
    """What `StableDiffusionProcessingImg2Img.sample` does, with inversion and attention control: latents (B, 4, h, w).

    asked: of each image, with equal concepts. Where more of the render is put back, the host's list of decoded pictures
    instead. An interrupt in the inversion gives the init latents back, one in the sampling the picture foreseen there.
    Raises TranslationRefused when another extension's changes to the sampling are incompatible.
    """
    denoiser = host().denoiser(p, params, conditioning, unconditional_conditioning, keeper, asked)
    # it counts both directions for the progress bar; the CFG denoiser's own count is of guided steps
    total = len(denoiser.schedule) * (2 if params.inverts else 1)
    try:
        with denoiser.prepared():
            # an interrupt anywhere inside ends both directions: the host answers it with `last_latent`
            samples = denoiser.sampler.launch_sampling(total, lambda: _both_directions(denoiser))
    except AttentionShapeError as error:
        raise TranslationRefused(f"Attention control: {error}{denoiser.hint()}") from error
    denoiser.refuse_nan(samples)
    denoiser.sampler.add_infotext(p)
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
    return finish(both_directions(denoiser, budget, trajectories.store(denoiser.unet)), on_step)


class WebuiDenoiser(GuidedDenoiser):
    """The translation of one batch of the host's: guided predictions are its CFG denoiser's, the others the model's."""

    of_image: list[int]

    def __init__(
        self,
        p: Any,
        params: TranslationParams,
        noise: Tensor,
        keeper: Keeper,
        asked: Sequence[Steering],
        unet: nn.Module,
        alphas_cumprod: Tensor,
    ) -> None:
        latents = p.init_latent.float()
        first, of_image = distinct(latents)
        region = keeper.region(first, tuple(latents.shape[-2:]))
        super().__init__(
            params, unet, latents[first], Schedule(alphas_cumprod.detach().double().cpu(), params.timesteps,
            PREDICTION_TYPE), of_image=of_image, region=None if region is None else region.to(latents.device),
            concepts=asked[0].concepts,
        )  # fmt: skip
        free = keeper.free((latents.shape[-2], latents.shape[-1]))
        self.share = None if free is None else free.to(latents)
        self.p, self.noise, self.sampler = p, noise, p.sampler
        self._cfg_denoiser = p.sampler.model_wrap_cfg
        self.source_context = self._encode(params.source_prompt)
        # where the prompt is empty its own prediction serves, and no row is added
        self._needs_empty = self.guide.reads_empty(p.cfg_scale) and any(one.prompt.strip() for one in asked)
        self._empty_context = self._encode("") if params.inverts_guided or self._needs_empty else None

        self._concepts = {text: self._scheduled(text) for text in self.guide.concepts.texts}

    def predictions(self, predicted: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """The predictions for the concepts' texts; predicted: context (1, tokens, width) -> the prediction for it."""
        step = self._cfg_denoiser.step
        return {
            text: predicted(prompt_parser.reconstruct_cond_batch(conds, step)) for text, conds in self._concepts.items()
        }

    def start_sampler(self, conditioning: Any, unconditional_conditioning: Any) -> None:
        """The host's sampler as its own `sample_img2img` leaves it before its loop."""
        p, sampler = self.p, self.sampler
        sampler.initialize(p)
        _ignore_eta(p, sampler)
        sampler.model_wrap_cfg.init_latent = sampler.last_latent = p.init_latent
        sampler.sampler_extra_args = {
            "cond": conditioning,
            "image_cond": p.image_conditioning,
            "uncond": unconditional_conditioning,
            "cond_scale": p.cfg_scale,
            "s_min_uncond": sampler.s_min_uncond,
        }

    @contextmanager
    def prepared(self) -> Generator[None, None, None]:
        """Around everything, the keys of the cache included: the model where it runs."""
        yield

    @abstractmethod
    def predict(self, z: Tensor, timestep: int, context: Tensor) -> Tensor:
        """The noise prediction for sources (S, 4, h, w) and a context (1, T, width), without guidance."""

    @abstractmethod
    def refuse_nan(self, tensor: Tensor) -> None:
        """Raises for a latent or a prediction that is not finite, with the host's way out of it."""

    def hint(self) -> str:
        """What to add to a refusal by attention control."""
        return ""

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
            output = guidance.cfg(self._predicted(z, timestep, self._empty_context), output, self.params.cfg_scale)
        self.refuse_nan(output)
        return output

    def source(self, z: Tensor, timestep: int) -> Tensor:
        return self._predicted(z, timestep, self.source_context)

    def _predicted(self, z: Tensor, timestep: int, context: Tensor) -> Tensor:
        if shared.state.interrupted or shared.state.skipped:
            raise sd_samplers_common.InterruptedException
        return self.predict(z, timestep, context)

    def _encode(self, text: str) -> Tensor:
        return prompt_parser.reconstruct_cond_batch(self._scheduled(text, 1), 0)

    def _scheduled(self, text: str, steps: int | None = None) -> Any:
        """A text as the host encodes it, with its editing by steps; by default the job's."""
        prompts = prompt_parser.SdConditioning([text], width=self.p.width, height=self.p.height)
        with devices.autocast():
            return prompt_parser.get_learned_conditioning(self.p.sd_model, prompts, steps or self.p.steps)


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


def announce_sampling(p: Any, noise: Tensor, conditioning: Any, unconditional_conditioning: Any) -> None:
    """What the host's own `sample` tells the other scripts first."""
    if p.scripts is not None:
        p.scripts.process_before_every_sampling(
            p=p, x=p.init_latent, noise=noise, c=conditioning, uc=unconditional_conditioning
        )


def _ignore_eta(p: Any, sampler: Any) -> None:
    if sampler.eta:
        p.extra_generation_params.pop(sampler.eta_infotext_field, None)
        p.comment(f"{TITLE}: eta {sampler.eta:g} was not used, only deterministic DDIM can be inverted.")
