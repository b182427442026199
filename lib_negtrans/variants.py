"""What of the core a translation's parameters ask for: its guidance and its attention control. Serves every host."""

from __future__ import annotations

from torch import nn

from .core.attention import self_attention_layers, shallow_layers
from .core.guidance import Guidance, Sega
from .core.tac import TacPlan
from .params import TranslationParams


def guidance_of(params: TranslationParams) -> Guidance:
    """A new guidance object, for one translation."""
    sega = Sega(
        threshold=params.sega_threshold,
        warm_up=params.sega_warmup,
        cool_down=params.sega_cooldown or None,
        momentum=params.sega_momentum,
        beta=params.sega_beta,
    )
    return Guidance(params.guidance, topk_ratio=params.topk_ratio, sega=sega, rescale_amount=params.cfg_rescale)


def tac_plan_of(params: TranslationParams, unet: nn.Module, latent_size: tuple[int, int]) -> TacPlan:
    """Which layers of this UNet are controlled, and when, for latents of (height, width)."""
    if params.depth_ratios():
        candidates = self_attention_layers(unet)
    else:
        candidates = shallow_layers(unet, latent_size, params.tac_layers)
    return TacPlan.make(candidates, params.tac_steps_at, params.tac_blend, params.tac_halves == "both")
