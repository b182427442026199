"""Stage 2, realistic image generation: sampling down the grid with the source's attention held, step by step.

The caller makes the guided prediction (its own batch of rows, or the webui's CFG denoiser) and shows, stops and saves;
this module owns the order of things: which features are injected when, and the DDIM step.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Literal, cast

from torch import Tensor

from .attention import Features
from .inversion import Trajectory
from .schedule import Schedule

# what a guided prediction is under control of: captured features, the sources' latents to compute them of, or nothing
Source = Features | Tensor | None
# (latent, position, source for the conditional rows) -> guided model output
PredictGuided = Callable[[Tensor, int, Source], Tensor]
# (latent, position) -> latent
Blend = Callable[[Tensor, int], Tensor]
FeatureSource = Literal["captured", "recomputed"]
Solver = Literal["ddim", "difference"]


@dataclass(frozen=True)
class Method:
    """How a translation is sampled.

    tac_steps: how many first steps get source features. "captured" takes them from the trajectory, "recomputed" hands
    the stored latent to the guided prediction; so are those that the trajectory's memory budget dropped.
    solver "ddim": phi(z, e). "difference": the source's own latent and, moved by phi, what the picture differs from it,
    z_src' + phi(z - z_src, e - e_src): no error of the source's path gets into the picture, and where e = e_src the
    source comes back exactly (PnP Inversion, arXiv 2310.01506, and FlowEdit, arXiv 2412.08629, do so in other forms).
    It needs the trajectory's outputs.
    """

    tac_steps: int = 0
    features_from: FeatureSource = "captured"
    solver: Solver = "ddim"


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
    guided: PredictGuided,
    method: Method = Method(),
    *,
    trajectory: Trajectory | None = None,
    per_image: Callable[[Tensor], Tensor] = lambda sources: sources,
    release_features: bool = False,
    blend: Blend = lambda latent, _position: latent,
) -> Generator[TranslationStep, None, Tensor]:
    """Sample from `start` (B, 4, h, w) at the noisiest position down to the clean end; the return value is that latent.

    per_image: the trajectory's S sources to the B latents, where S is not B. release_features: captured features are
    forgotten as soon as their step is done. blend: puts what is kept of the source into the latent reached.
    Raises ValueError when the trajectory lacks what the method needs.
    """
    total = len(schedule)
    if method.tac_steps and trajectory is None:
        raise ValueError("attention control needs the source trajectory: invert first, or set the TAC ratio to 0.")
    if method.solver == "difference" and (trajectory is None or len(trajectory.outputs) < total):
        raise ValueError("the difference solver needs a trajectory with the source's outputs: invert in second order.")

    latent, known = start, cast(Trajectory, trajectory)  # is read where the checks have found one
    for index, position in enumerate(range(total, 0, -1)):
        source: Source = None
        if index < method.tac_steps:
            captured = method.features_from == "captured" and position in known.features
            source = known.features[position] if captured else known.latents[position]
        epsilon = schedule.epsilon(latent, guided(latent, position, source), position)
        clean = schedule.clean(latent, epsilon, position)
        if method.solver == "difference":
            origin = known.latents[position]
            epsilon_there = schedule.epsilon(origin, known.outputs[position], position)
            below, origin, epsilon_there = map(per_image, (known.latents[position - 1], origin, epsilon_there))
            latent = below + schedule.move(latent - origin, epsilon - epsilon_there, position, position - 1)
        else:
            latent = schedule.move(latent, epsilon, position, position - 1)
        latent = blend(latent, position - 1)
        if release_features:
            known.features.discard(position)
        yield TranslationStep(index, total, schedule.timestep(position), latent, clean)
    return latent
