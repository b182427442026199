"""DDIM inversion: from a clean latent up the grid, as a generator of steps that ends with the trajectory.

plain        z_t = phi(z_p, e(z_p, t); p -> t)
fixed point  z_t^(k+1) = phi(z_p, e(z_t^(k), t); p -> t), k = 1..K: the exact inverse of the DDIM sampler in the limit
             (arXiv 2312.12540, 2309.04907 use the same iteration). A step gets as many as it needs.
second order z/a is integrated over s/a with the noise predictions of two positions (Adams-Bashforth, as in PNDM,
             arXiv 2202.09778), each read at its own position: one call a step and one more for the end. Not the
             inverse of any sampler; translate.py's "difference" needs none.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from heapq import heappush, heapreplace
from typing import Literal

from torch import Tensor

from .attention import AttentionControl
from .features import FeatureBudget, FeatureStore
from .schedule import Schedule

# (latent, timestep) -> the UNet's raw output for the source prompt, same shape as the latent
Predict = Callable[[Tensor, int], Tensor]
Order = Literal["ascending", "published"]


@dataclass
class Trajectory:
    """What an inversion leaves: latents[k] belongs to position k (0 clean .. n noisiest), each (B, 4, h, w).

    features[k], when captured, are those of the last evaluation at position k; position 0 has none. outputs[k] is the
    UNet's output there: exactly for the second order, up to the residual for an iterated step; others have none.
    """

    schedule: Schedule
    latents: list[Tensor]
    features: FeatureStore = field(default_factory=FeatureStore)
    outputs: dict[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class InversionStep:
    """One finished step: `index` of `total`, the timestep reached and the latent there."""

    index: int
    total: int
    timestep: int
    latent: Tensor


# What an inversion step may be off, in units of the noise prediction, with one iteration a step to spend; a further one
# a step divides it by four.
TOLERANCE = 0.004


def planned_iterations(schedule: Schedule, fixed_point: int) -> list[int]:
    """How many fixed-point iterations each step takes, from the cleanest on: at most fixed_point times their number.

    They are not spread evenly. Off the pictures the noise prediction is (z - a x)/s for one and the same x, so that an
    iteration leaves q = f/s of an error, f being the step's factor of the noise prediction. On the published grid the
    second step (t = 1 to 21) has q = .71 and all others .3 and less; what their first evaluation is off, read at the
    noise of the step before, is about f (1 - s_p/s)^2. So each iteration goes to the step that is most off, until all
    are within TOLERANCE: 8 to that second step and 1 to the third come nearer to the exact inverse than 2 at each of
    the 15 (`benchmarks/translate.py --fidelity --curve`).
    """
    # a heap of (-error, step, what an iteration leaves of it): the worst first
    errors: list[tuple[float, int, float]] = []
    for step in range(len(schedule)):
        factor = schedule.noise_factor(step, step + 1)
        below, s = schedule.scales(step)[1], schedule.scales(step + 1)[1]
        heappush(errors, (-factor * (1 - below / s) ** 2, step, factor / s))
    planned = [0] * len(schedule)
    for _ in range(fixed_point * len(schedule)):
        error, worst, left = errors[0]
        if -error <= TOLERANCE / 4 ** (fixed_point - 1):
            break
        planned[worst] += 1
        heapreplace(errors, (error * left, worst, left))
    return planned


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
    mixing: bool = True,
    iterations: Sequence[int] | None = None,
    budget: FeatureBudget | None = None,
) -> Generator[InversionStep, None, Trajectory]:
    """Invert a clean latent (B, 4, h, w) to the grid's noisiest position; the generator returns the Trajectory.

    predict is called once a step and once more for each iteration of `planned_iterations`, or of `iterations`, a number
    for each step. capture: an active control that records each step's last evaluation, for the
    `capture_steps` noisiest positions (all by default), within the memory budget. order "published" runs the timesteps
    descending, one evaluation each, as the released FashionR2R code does (only its preset wants that): the end latent
    is nearly the same, the source latents in between are too clean.
    warm_start: with fixed_point, a step's first evaluation is read at phi(z_p, e of the step before) instead of z_p,
    which costs nothing and is all that most steps need. mixing: the last two iterates are combined, which costs nothing
    either and is worth 2 dB.
    Raises ValueError for a negative fixed_point, or a published order with iterations or capture.
    """
    if fixed_point < 0:
        raise ValueError(f"fixed_point must be 0 or more, not {fixed_point}.")
    total = len(schedule)
    if order == "published":
        if fixed_point or iterations or capture is not None:
            raise ValueError("the published order has no fixed-point iterations and captures nothing.")
        positions = range(total, 0, -1)
    elif order == "ascending":
        positions = range(1, total + 1)
    else:
        raise ValueError(f"order must be ascending or published, not {order!r}.")

    if iterations is None:
        iterations = planned_iterations(schedule, fixed_point)
    trajectory = Trajectory(schedule, [latent], FeatureStore(budget))
    read_at = _reader(trajectory, predict, capture, capture_steps)
    epsilon = None
    for index, position in enumerate(positions):
        timestep = schedule.timestep(position)
        origin = estimate = trajectory.latents[-1]
        # the plain step reads e at the latent below; each iteration reads it where the sampler will
        if warm_start and fixed_point and epsilon is not None:
            estimate = schedule.move(origin, epsilon, position - 1, position)
        former = None
        for left in range(iterations[position - 1], -1, -1):
            read = estimate
            output = read_at(position, read, timestep) if left == 0 else predict(read, timestep)
            epsilon = schedule.epsilon(read, output, position)
            estimate = schedule.move(origin, epsilon, position - 1, position)
            if mixing:
                former, estimate = (read, estimate), estimate if former is None else _mixed(read, estimate, former)
        if iterations[position - 1]:
            trajectory.outputs[position] = output
        trajectory.latents.append(estimate)
        yield InversionStep(index, total, timestep, estimate)
    return trajectory


def _reader(
    trajectory: Trajectory, predict: Predict, capture: AttentionControl | None, capture_steps: int | None
) -> Callable[[int, Tensor, int], Tensor]:
    """(position, latent, timestep) -> prediction; at the `capture_steps` noisiest positions its features are kept."""
    first = 1 if capture_steps is None else max(1, len(trajectory.schedule) - capture_steps + 1)

    def read(position: int, latent: Tensor, timestep: int) -> Tensor:
        if capture is None or position < first:
            return predict(latent, timestep)
        with capture.capture() as features:
            output = predict(latent, timestep)
        trajectory.features[position] = features
        return output

    return read


def _mixed(read: Tensor, moved: Tensor, former: tuple[Tensor, Tensor]) -> Tensor:
    """Anderson's mixing of depth 1 (doi 10.1145/321296.321305), per picture: of two iterates (read at, moved to).

    The combination whose residual is least if the residual is linear in between; clamped where it hardly changes.
    """
    residual = moved - read
    change = residual - (former[1] - former[0])
    share = (residual * change).flatten(1).sum(1) / change.square().flatten(1).sum(1).clamp_min(1e-12)
    return moved - share.clamp(-2.0, 0.9).view(-1, 1, 1, 1) * (moved - former[1])


def second_order_steps(
    latent: Tensor,
    schedule: Schedule,
    predict: Predict,
    *,
    capture: AttentionControl | None = None,
    capture_steps: int | None = None,
    budget: FeatureBudget | None = None,
) -> Generator[InversionStep, None, Trajectory]:
    """Integrate a clean latent (B, 4, h, w) up the grid in second order; the generator returns the Trajectory.

    predict is called once at every position, 0 and the noisiest included, each time with the position's own latent and
    timestep: its outputs and its captured features are exactly a source branch's. Arguments as `inversion_steps`.
    """
    total = len(schedule)
    trajectory = Trajectory(schedule, [latent], FeatureStore(budget))
    read_at = _reader(trajectory, predict, capture, capture_steps)

    def evaluate(position: int) -> Tensor:
        z = trajectory.latents[position]
        trajectory.outputs[position] = output = read_at(position, z, schedule.level_timestep(position))
        return schedule.epsilon(z, output, position)

    before = None  # the noise prediction of the position below
    for position in range(1, total + 1):
        epsilon = slope = evaluate(position - 1)
        if before is not None:
            low, here, up = (schedule.sigma(position - back) for back in (2, 1, 0))
            slope = epsilon + (up - here) / (here - low) / 2 * (epsilon - before)
        before = epsilon
        trajectory.latents.append(schedule.move(trajectory.latents[-1], slope, position - 1, position))
        if position == total:
            evaluate(total)
        yield InversionStep(position - 1, total, schedule.timestep(position), trajectory.latents[-1])
    return trajectory
