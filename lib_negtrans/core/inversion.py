"""DDIM inversion: from a clean latent up the grid, as a generator of steps that ends with the trajectory.

plain        z_t = phi(z_p, e(z_p, t); p -> t)
fixed point  z_t^(k+1) = phi(z_p, e(z_t^(k), t); p -> t), k = 1..K: the exact inverse of the DDIM sampler in the limit
             (arXiv 2312.12540, 2309.04907 use the same iteration).
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from .attention import AttentionControl, Features
from .schedule import Schedule

# (latent, timestep) -> the UNet's raw output for the source prompt, same shape as the latent
Predict = Callable[[Tensor, int], Tensor]
Order = Literal["ascending", "published"]


@dataclass
class Trajectory:
    """What an inversion leaves: latents[k] belongs to position k (0 clean .. n noisiest), each (B, 4, h, w).

    features[k], when captured, are Q and K of the last evaluation at position k; position 0 has none.
    """

    schedule: Schedule
    latents: list[Tensor]
    features: dict[int, Features] = field(default_factory=dict)


@dataclass(frozen=True)
class InversionStep:
    """One finished step: `index` of `total`, the timestep reached and the latent there."""

    index: int
    total: int
    timestep: int
    latent: Tensor


def inversion_steps(
    latent: Tensor,
    schedule: Schedule,
    predict: Predict,
    *,
    fixed_point: int = 1,
    order: Order = "ascending",
    capture: AttentionControl | None = None,
    capture_steps: int | None = None,
    warm_start: bool = True,
) -> Generator[InversionStep, None, Trajectory]:
    """Invert a clean latent (B, 4, h, w) to the grid's noisiest position; the generator returns the Trajectory.

    predict is called 1 + fixed_point times a step. capture: an active attention control that records Q and K at each
    step's last evaluation, for the `capture_steps` noisiest positions (all by default). order "published" runs
    the timesteps descending, one evaluation each, as the released FashionR2R code does (only its preset wants that):
    the end latent is nearly the same, the source latents in between are too clean.
    warm_start: with iterations, a step's first evaluation is read at phi(z_p, e of the step before) instead of z_p,
    which costs nothing and is worth as much as another iteration (`benchmarks/roundtrip.py`).
    Raises ValueError for a negative fixed_point, or a published order with iterations or capture.
    """
    if fixed_point < 0:
        raise ValueError(f"fixed_point must be 0 or more, not {fixed_point}.")
    total = len(schedule)
    if order == "published":
        if fixed_point or capture is not None:
            raise ValueError("the published order has no fixed-point iterations and captures nothing.")
        positions = range(total, 0, -1)
    elif order == "ascending":
        positions = range(1, total + 1)
    else:
        raise ValueError(f"order must be ascending or published, not {order!r}.")

    first_captured = 1 if capture_steps is None else total - capture_steps + 1
    trajectory = Trajectory(schedule, [latent])
    epsilon = None
    for index, position in enumerate(positions):
        timestep = schedule.timestep(position)
        origin = estimate = trajectory.latents[-1]
        # the plain step reads e at the latent below; each iteration reads it where the sampler will
        if warm_start and fixed_point and epsilon is not None:
            estimate = schedule.move(origin, epsilon, position - 1, position)
        for iteration in range(fixed_point + 1):
            last = iteration == fixed_point
            if last and capture is not None and position >= first_captured:
                with capture.capture() as features:
                    output = predict(estimate, timestep)
                trajectory.features[position] = features
            else:
                output = predict(estimate, timestep)
            epsilon = schedule.epsilon(estimate, output, position)
            estimate = schedule.move(origin, epsilon, position - 1, position)
        trajectory.latents.append(estimate)
        yield InversionStep(index, total, timestep, estimate)
    return trajectory


def finish(steps: Generator):
    """Run a generator of steps to its end and give its return value."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value
