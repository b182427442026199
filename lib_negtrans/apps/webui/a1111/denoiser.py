"""A translation by A1111's CFG denoiser and its model."""

from __future__ import annotations

import sys
from collections.abc import Generator, Hashable, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

from modules import devices, prompt_parser, sd_samplers_cfg_denoiser, shared
from torch import Tensor, nn

from lib_negtrans.apps.webui.preserved import Keeper
from lib_negtrans.apps.webui.sampling import WebuiDenoiser, announce_sampling
from lib_negtrans.apps.webui.settings import option
from lib_negtrans.core.translate import Source
from lib_negtrans.translation.concepts import Steering
from lib_negtrans.translation.params import TranslationParams

from .combining import combined_by
from .source_rows import RowDenoiser, row_denoiser

# settings of the host that change what the UNet computes
_OPTIONS = ("cross_attention_optimization", "upcast_attn", "fp8_storage", "cache_fp16_weight", "sd_vae")


class A1111Denoiser(WebuiDenoiser):
    """Rows are told apart where they are sent to the model, and combined where the host's denoiser combines them."""

    _rows: RowDenoiser

    def __init__(
        self,
        p: Any,
        params: TranslationParams,
        conditioning: Any,
        unconditional_conditioning: Any,
        keeper: Keeper,
        asked: Sequence[Steering],
    ) -> None:
        noise = p.rng.next()
        announce_sampling(p, noise, conditioning, unconditional_conditioning)
        model = p.sd_model
        super().__init__(p, params, noise, keeper, asked, model.model.diffusion_model, model.alphas_cumprod)
        self._model: nn.Module = self._cfg_denoiser.inner_model
        self.start_sampler(conditioning, unconditional_conditioning)

    def state(self) -> Hashable | None:
        return model_state(self.p)

    @contextmanager
    def running(self) -> Generator[None, None, None]:
        counted, rows = guided_steps_counted(self._cfg_denoiser), row_denoiser(self._cfg_denoiser, self.control)
        with self.control, counted, rows as self._rows:
            yield

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
            strengths=self.tac.strengths(step), both_halves=self.tac.both_halves,
            keep_inputs=self._needs_empty or bool(self._concepts),
        )  # fmt: skip
        empty = (lambda: self._rows.with_context(self._empty_context)) if self._needs_empty else None
        combined: AbstractContextManager[None] = nullcontext()
        if not self.guide.is_plain:
            concepts = partial(self.predictions, self._rows.with_context)
            combined = combined_by(self._cfg_denoiser, self.guide, step, empty, concepts)
        with called, combined:
            return self._cfg_denoiser(z, z.new_full((len(z),), float(timestep)), **arguments).float()

    def predict(self, z: Tensor, timestep: int, context: Tensor) -> Tensor:
        count = len(z)
        cond = {"c_crossattn": [context.expand(count, -1, -1)], "c_concat": [self.p.image_conditioning[:count]]}
        with _without_controlnet(self.unet):
            return self._model(z, z.new_full((count,), float(timestep)), cond=cond).float()

    def refuse_nan(self, tensor: Tensor) -> None:
        devices.test_for_nans(tensor, "unet")

    def hint(self) -> str:
        if "_original_forward" not in vars(self.unet):
            return ""
        return " ControlNet's reference modes do so too: use another module, or set the TAC ratio to 0."


def model_state(p: Any) -> Hashable | None:
    """What of the host an inversion depends on; None where something else takes part in it.

    Weights are not in here: LoRAs get into them with the first call only. `trajectories.Store` looks at them.
    """
    unet = p.sd_model.model.diffusion_model
    # ControlNet keeps the former forward, which the inversion then calls unless the settings say otherwise
    if "forward" in vars(unet) and (
        "_original_forward" not in vars(unet) or option("negtrans_controlnet_in_inversion")
    ):
        return None
    info = p.sd_model.sd_checkpoint_info
    return (
        info.filename,
        info.sha256,
        id(unet),
        str(devices.dtype_unet),
        str(devices.device),
        tuple((name, str(getattr(shared.opts, name, None))) for name in _OPTIONS),
        _networks(),
        tuple(sorted((str(net.name), float(net.multiplier)) for net in shared.loaded_hypernetworks)),
        tuple(p.image_conditioning.shape[1:]),
    )


def _networks() -> Hashable:
    """The LoRAs in force, each with its file's hash or time and its multipliers."""
    lora = sys.modules.get("networks")
    loaded = getattr(lora, "loaded_networks", None) or []
    return tuple(
        (
            net.name,
            getattr(net, "mtime", None),
            getattr(getattr(net, "network_on_disk", None), "hash", None),
            net.te_multiplier,
            net.unet_multiplier,
            str(net.dyn_dim),
        )
        for net in loaded
    )


class _GuidedCount:
    """The host's state as its CFG denoiser reads it, to tell other extensions the step: of guided steps alone.

    The state's own count is of both directions, for the progress bar.
    """

    def __init__(self, cfg_denoiser: nn.Module) -> None:
        self._cfg_denoiser = cfg_denoiser

    def __getattr__(self, name: str) -> Any:
        return getattr(shared.state, name)

    @property
    def sampling_step(self) -> int:
        return self._cfg_denoiser.step

    @property
    def sampling_steps(self) -> int:
        return self._cfg_denoiser.total_steps


@contextmanager
def guided_steps_counted(cfg_denoiser: nn.Module) -> Generator[None, None, None]:
    """Inside, other extensions' schedules (ControlNet's starting and ending step) go by the guided steps."""
    original = sd_samplers_cfg_denoiser.state
    sd_samplers_cfg_denoiser.state = _GuidedCount(cfg_denoiser)
    try:
        yield
    finally:
        sd_samplers_cfg_denoiser.state = original


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
