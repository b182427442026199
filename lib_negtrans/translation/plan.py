"""What of the core a translation's parameters ask for: inversion, guidance, attention control. Serves every host."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from torch import Tensor, nn

from lib_negtrans.core.attention import AttentionControl, self_attention_layers, shallow_layers
from lib_negtrans.core.features import FeatureBudget
from lib_negtrans.core.guidance import OPTIONS, Concept, Guidance
from lib_negtrans.core.inversion import (
    InversionStep,
    Predict,
    Trajectory,
    inversion_steps,
    planned_iterations,
    second_order_steps,
)
from lib_negtrans.core.schedule import Schedule, sd1_alphas_cumprod
from lib_negtrans.core.tac import TacPlan

from .params import TranslationParams


def inversion_of(
    params: TranslationParams,
    latent: Tensor,
    schedule: Schedule,
    predict: Predict,
    control: AttentionControl,
    budget: FeatureBudget,
) -> Generator[InversionStep, None, Trajectory]:
    """The inversion of clean latents (B, 4, h, w), step by step; control, active, captures where the parameters do."""
    ways: dict[str, Any] = {"capture": control if params.captures else None, "budget": budget}
    ways["capture_steps"] = params.tac_steps
    if params.solver == "difference":
        return second_order_steps(latent, schedule, predict, **ways)
    return inversion_steps(latent, schedule, predict, fixed_point=params.fixed_point, order=params.order, **ways)


def inversion_rows(params: TranslationParams) -> list[int]:
    """The UNet's rows for one picture in each step of its inversion, on SD1's schedule; [] where there is none."""
    if not params.inverts:
        return []
    if params.solver == "difference":
        return [1] * (len(params.timesteps) - 1) + [2]
    schedule = Schedule(sd1_alphas_cumprod(), params.timesteps)
    return [(1 + extra) * (1 + params.inverts_guided) for extra in planned_iterations(schedule, params.fixed_point)]


def guidance_of(params: TranslationParams, concepts: Sequence[Concept] | None = None) -> Guidance:
    """A new guidance object, for one translation. concepts: of a host's own prompts, by default the parameters'."""
    options = {name: getattr(params, name) for name in OPTIONS}
    concepts = params.steering.concepts if concepts is None else concepts
    return Guidance(
        params.guidance, options, limit=params.guidance_limit, rescale_amount=params.cfg_rescale, concepts=concepts
    )


def guided_rows(params: TranslationParams) -> int:
    """The UNet's rows for one picture in each guided call: prompt, negative, the empty prompt where read, concepts."""
    guide, prompt, scale = guidance_of(params), params.steering.prompt.strip(), params.cfg_scale
    empty = guide.reads_empty(scale) and bool(prompt)
    return 1 + guide.reads_negative(scale) + empty + len({*guide.concepts.texts} - {prompt})


def tac_plan_of(params: TranslationParams, unet: nn.Module, latent_size: tuple[int, int]) -> TacPlan:
    """Which layers of this UNet are controlled, and when, for latents of (height, width)."""
    if params.depth_ratios():
        candidates = self_attention_layers(unet)
    else:
        candidates = shallow_layers(unet, latent_size, params.tac_layers)
    return TacPlan.make(candidates, params.tac_steps_at, params.tac_blend, params.tac_halves == "both")
