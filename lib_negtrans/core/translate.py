"""Stage 2, realistic image generation: sampling down the grid with the source's attention held, step by step.

The caller makes the guided prediction (its own batch of rows, or the webui's CFG denoiser) and shows, stops and saves;
this module owns the order of things: which features are injected when, and the DDIM step.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .attention import AttentionControl, Features
from .inversion import Predict, Trajectory
from .schedule import Schedule

# what a guided prediction is under control of: captured features, the source's latent to be run beside it, or nothing
Source = Features | Tensor | None
# (latent, timestep, source for the conditional rows) -> guided model output
PredictGuided = Callable[[Tensor, int, Source], Tensor]
# the same, with the raw output of the conditional rows as a fourth argument
PredictFirst = Callable[[Tensor, int, Source, Tensor], Tensor]
# (latent, position) -> latent
Blend = Callable[[Tensor, int], Tensor]
FeatureSource = Literal["captured", "recomputed"]
Solver = Literal["ddim", "difference"]


@dataclass(frozen=True)
class TranslationStep:
    """One finished step: `index` of `total`, the timestep it left, the latent reached and the clean latent foreseen."""

    index: int
    total: int
    timestep: int
    latent: Tensor
    clean: Tensor


def controlled_steps(total: int, ratio: float) -> int:
    """How many of the first sampled steps TAC controls: int(total * ratio), ratio in [0, 1]. Raises ValueError."""
    if not 0.0 <= ratio <= 1.0:
        raise ValueError(f"the TAC step ratio must lie between 0 and 1, not {ratio:g}.")
    return int(total * ratio)


def translation_steps(
    start: Tensor,
    schedule: Schedule,
    predict_guided: PredictGuided,
    *,
    trajectory: Trajectory | None = None,
    tac_steps: int = 0,
    features_from: FeatureSource = "captured",
    control: AttentionControl | None = None,
    predict_source: Predict | None = None,
    source_beside: bool = False,
    source_is_cond: bool = False,
    predict_first: PredictFirst | None = None,
    solver: Solver = "ddim",
    per_image: Callable[[Tensor], Tensor] | None = None,
    release_features: bool = False,
    blend: Blend | None = None,
) -> Generator[TranslationStep, None, Tensor]:
    """Sample from `start` (B, 4, h, w) at the noisiest position down to the clean end; the return value is that latent.

    tac_steps: how many first steps get source features. "captured" takes them from the trajectory, except those that
    its memory budget dropped; "recomputed" runs predict_source on the stored latent (needs control), and ends that
    forward after the last controlled layer.
    source_beside: "recomputed" hands that latent to predict_guided instead, which runs it in its own call.
    source_is_cond: source prompt and prompt are the same, so that the first step from the trajectory's own end needs
    no injection: both branches are one. predict_first: asked instead of predict_guided at such a step when the
    trajectory holds the source's output there, which is the conditional one.
    solver "ddim": phi(z, e). "difference": the source's own latent and, moved by phi, what the picture differs from it,
    z_src' + phi(z - z_src, e - e_src): no error of the source's path gets into the picture, and where e = e_src the
    source comes back exactly (PnP Inversion, arXiv 2310.01506, and FlowEdit, arXiv 2412.08629, do so in other forms).
    It needs the trajectory's outputs. per_image: the trajectory's S sources to the B latents, where S is not B.
    release_features: captured features are forgotten as soon as their step is done.
    blend: puts what is kept of the source into the latent reached at a position.
    Raises ValueError when features are asked for and cannot be had.
    """
    total = len(schedule)
    if tac_steps and trajectory is None:
        raise ValueError("attention control needs the source trajectory: invert first, or set the TAC ratio to 0.")
    if tac_steps and features_from == "recomputed" and (control is None or predict_source is None):
        raise ValueError("recomputed features need an attention control and a source prediction.")
    if solver == "difference" and (trajectory is None or len(trajectory.outputs) < total):
        raise ValueError("the difference solver needs a trajectory with the source's outputs: invert in second order.")

    each = per_image or (lambda sources: sources)
    latent = start
    for index, position in enumerate(range(total, 0, -1)):
        timestep = schedule.timestep(position)
        features = None
        same_branch = source_is_cond and index == 0 and trajectory is not None
        same_branch = same_branch and torch.equal(latent, trajectory.latents[position])
        if index < tac_steps:
            if features_from == "captured" and position in trajectory.features:
                features = trajectory.features[position]
            elif control is None or predict_source is None:
                raise ValueError(f"the trajectory holds no captured features for timestep {timestep}.")
            elif control.layers and not same_branch:
                if source_beside and features_from == "recomputed":
                    features = trajectory.latents[position]
                else:
                    with control.capture(stop_early=True) as features:
                        predict_source(trajectory.latents[position], timestep)
        if same_branch and predict_first is not None and position in trajectory.outputs:
            output = predict_first(latent, timestep, features, trajectory.outputs[position])
        else:
            output = predict_guided(latent, timestep, features)
        epsilon = schedule.epsilon(latent, output, position)
        clean = schedule.clean(latent, epsilon, position)
        if solver == "difference":
            source = trajectory.latents[position]
            source_epsilon = schedule.epsilon(source, trajectory.outputs[position], position)
            below, source, source_epsilon = map(each, (trajectory.latents[position - 1], source, source_epsilon))
            latent = below + schedule.move(latent - source, epsilon - source_epsilon, position, position - 1)
        else:
            latent = schedule.move(latent, epsilon, position, position - 1)
        if blend is not None:
            latent = blend(latent, position - 1)
        if release_features:
            trajectory.features.discard(position)
        yield TranslationStep(index, total, timestep, latent, clean)
    return latent
