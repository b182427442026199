"""A translation by Forge's CFG denoiser and its model: what is patched into the UNet for one batch, and taken out."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from backend.sampling.condition import ConditionCrossAttn
from backend.sampling.sampling_function import calc_cond_uncond_batch, sampling_cleanup, sampling_prepare
from modules import prompt_parser, scripts, sd_models
from torch import Tensor

from lib_negtrans.apps.webui import UNEXPECTED_ROWS
from lib_negtrans.apps.webui.preserved import Keeper
from lib_negtrans.apps.webui.refusal import TranslationRefused, refused
from lib_negtrans.apps.webui.sampling import WebuiDenoiser, announce_sampling
from lib_negtrans.apps.webui.settings import option
from lib_negtrans.core.attention import AttentionShapeError, Features
from lib_negtrans.core.translate import Source
from lib_negtrans.models import forge
from lib_negtrans.translation.concepts import Steering
from lib_negtrans.translation.params import TranslationParams


class ForgeDenoiser(WebuiDenoiser):
    """Rows are told apart by Forge's own list, around each call of the UNet, and combined after Forge's guidance."""

    def __init__(
        self,
        p: Any,
        params: TranslationParams,
        conditioning: Any,
        unconditional_conditioning: Any,
        keeper: Keeper,
        asked: Sequence[Steering],
    ) -> None:
        model = p.sd_model
        # as the host's own `sample` begins; scripts patch the UNet of this copy
        model.forge_objects = model.forge_objects_after_applying_lora.shallow_copy()
        noise = p.rng.next()
        announce_sampling(p, noise, conditioning, unconditional_conditioning)
        if p.modified_noise is not None:
            noise, p.modified_noise = p.modified_noise, None
        self._theirs = model.forge_objects.unet
        if "tiled_diffusion" in self._theirs.model_options:
            raise TranslationRefused("MultiDiffusion cuts the picture into tiles: switch it off here.")
        unet = self._theirs.model.diffusion_model
        super().__init__(p, params, noise, keeper, asked, unet, forge.alphas_cumprod(self._theirs))
        if p.nmask is not None:
            self.share = p.nmask[None, :1].float()
        self.start_sampler(conditioning, unconditional_conditioning)
        self._patcher = self._patched(self._theirs.clone())
        # set during a guided prediction, until its guidance is done: other patches may call the UNet again afterwards
        self._injection: tuple[Features | None, Mapping[str, float] | None] | None = None
        self._step = 0

    def _patched(self, patcher: Any) -> Any:
        # functions, and not methods: Forge copies whatever is no function, with all that hangs on it
        former = patcher.model_options.get("model_function_wrapper")
        patcher.set_model_unet_function_wrapper(lambda apply, given: self._call(former, apply, given))
        combine = patcher.model_options.setdefault("sampler_post_cfg_function", [])
        combine.insert(0, lambda given: self._combined(given))
        return patcher

    def state(self) -> Hashable | None:
        """None where another extension has patched the UNet: by what, cannot be told."""
        options = dict(self._theirs.model_options)
        patches = options.pop("transformer_options", None)
        if options or patches or (self._control() is not None):
            return None
        model, unet = self.p.sd_model, self._theirs
        return (
            str(sd_models.model_data.forge_loading_parameters),
            model.sd_checkpoint_info.sha256,
            id(self.unet),
            str(unet.model.storage_dtype),
            str(unet.model.computation_dtype),
            str(unet.load_device),
            model.current_lora_hash,
        )

    @contextmanager
    def prepared(self) -> Generator[None, None, None]:
        model, sigmas = self.p.sd_model, self._theirs.model.predictor.sigmas
        model.forge_objects.unet = self._patcher
        try:
            sampling_prepare(self._patcher, x=self.p.init_latent)  # with it the LoRAs get into the weights
            # what the host's denoiser takes its sigmas from, made before a schedule was exchanged
            model.alphas_cumprod = (1 / (sigmas**2 + 1)).to(self.p.init_latent.device)
            yield
        finally:
            sampling_cleanup(self._patcher)
            model.forge_objects.unet = self._theirs

    def predict(self, z: Tensor, timestep: int, context: Tensor) -> Tensor:
        return forge.predict_noise(self._patcher, z, timestep, context, self._control())

    def _control(self) -> Any:
        return self._theirs.controlnet_linked_list if option("negtrans_controlnet_in_inversion") else None

    def refuse_nan(self, tensor: Tensor) -> None:
        refused(lambda: forge.finite(tensor))

    def guided(self, z: Tensor, position: int, source: Source) -> Tensor:
        timestep = self.schedule.timestep(position)
        features = self.recomputed(source, timestep) if isinstance(source, Tensor) else source
        denoiser, arguments = self._cfg_denoiser, self.sampler.sampler_extra_args
        self._step = len(self.schedule) - position
        self._injection = features, self.tac.strengths(self._step)
        self._injected = features is None or not self.tac.layers
        # at CFG scale 1 the host leaves out the unconditional, which the weights of AND are relative to
        composed, _ = prompt_parser.reconstruct_multicond_batch(arguments["cond"], denoiser.step)
        self._patcher.model_options["disable_cfg1_optimization"] = bool(self._concepts) or any(
            not math.isclose(sum(weight for _, weight in conds), 1) for conds in composed
        )
        # it would put fresh noise of no seed into the kept part; `blend` does that with the source's own
        mask, denoiser.mask = denoiser.mask, None
        try:
            prediction = denoiser(z, z.new_full((len(z),), float(timestep)), **arguments).float()
        finally:
            denoiser.mask, self._injection = mask, None
        if not self._injected:
            raise AttentionShapeError(UNEXPECTED_ROWS)
        return prediction if mask is None else self._blended_by_scripts(z, timestep, prediction)

    def _call(self, former: Callable | None, apply: Callable, given: dict[str, Any]) -> Tensor:
        """A call of the UNet, its rows announced: as many for each entry of Forge's list as there are pictures."""
        kinds = given["cond_or_uncond"]
        count = len(given["input"]) // len(kinds)
        uncond = self.of_image if self.tac.both_halves else [-1] * count
        with self._rows([row for kind in kinds for row in (uncond if kind else self.of_image)]):
            if former is not None:
                return former(apply, given)
            return apply(given["input"], given["timestep"], **given["c"])

    def _rows(self, rows: Sequence[int]) -> AbstractContextManager[None]:
        if self._injection is None or self._injection[0] is None or max(rows) < 0:
            return nullcontext()
        self._injected = True
        return self.control.inject(self._injection[0], rows, self._injection[1])

    def _combined(self, given: dict[str, Any]) -> Tensor:
        if self._injection is None:
            return given["denoised"]
        try:
            # the host gives zeros where it has not computed it: at CFG scale 1, "skip early CFG", NGMS
            computed = given["uncond_denoised"].any()
            if self.guide.is_plain or not (computed or self._concepts):
                return given["denoised"]
            x, sigma = given["input"], given["sigma"][:, None, None, None]
            cond = (x - given["cond_denoised"]) / sigma
            negative = (x - given["uncond_denoised"]) / sigma if computed else cond
            if computed:
                # of prompts joined by AND the host gives the weighted mean
                weight = sum(one.get("strength", 1.0) for one in given["cond"])
                cond = negative + weight * (cond - negative)

            def predicted(context: Tensor) -> Tensor:
                return (x - self._clean_of(context, given)) / sigma

            empty = predicted(self._empty_context) if self._needs_empty else cond
            found = self.predictions(predicted)
            return x - sigma * self.guide(empty, cond, negative, self.p.cfg_scale, self._step, found)
        finally:
            self._injection = None

    def _clean_of(self, context: Tensor, given: dict[str, Any]) -> Tensor:
        """What the model gives for a context (1, tokens, width), with all else that acts on the prompt's own rows."""
        first, count = given["cond"][0], len(given["input"])
        crossed = ConditionCrossAttn(context.expand(count, -1, -1))
        other = {**first, "strength": 1.0, "model_conds": {**first["model_conds"], "c_crossattn": crossed}}
        x, sigma = given["input"], given["sigma"]
        return calc_cond_uncond_batch(given["model"], [other], None, x, sigma, given["model_options"])[0]

    def _blended_by_scripts(self, z: Tensor, timestep: int, prediction: Tensor) -> Tensor:
        """The prediction with the other scripts' say in the mask's blend, which Forge asks for at each step."""
        p = self.p
        if p.scripts is None:
            return prediction
        sigma = self._theirs.model.predictor.sigmas[timestep].to(z).expand(len(z))
        scale = sigma[:, None, None, None]
        x = z * (scale**2 + 1).sqrt()
        clean = x - scale * prediction
        blended = clean * p.nmask + p.init_latent * p.mask
        asked = scripts.MaskBlendArgs(
            clean, p.nmask, p.init_latent, p.mask, blended, denoiser=self._cfg_denoiser, sigma=sigma
        )
        p.scripts.on_mask_blend(p, asked)
        return prediction if asked.blended_latent is blended else (x - asked.blended_latent) / scale
