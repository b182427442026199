"""Inversion: the identity with an oracle, known gains in an analytic model, the published order's known fault."""

from __future__ import annotations

import math

import pytest
import torch

from lib_negtrans.core.attention import AttentionControl, shallow_layers
from lib_negtrans.core.inversion import inversion_steps, planned_iterations, second_order_steps
from lib_negtrans.core.schedule import Schedule, sd1_alphas_cumprod, spaced, timestep_grid
from lib_negtrans.core.translate import translation_steps
from lib_negtrans.steps import finish
from tests.ldm_unet import call, diffusers_unet

ALPHAS = sd1_alphas_cumprod()
STRENGTHS = (0.1, 0.3, 0.5, 0.75, 1.0)


def gaussian_epsilon(schedule: Schedule, variance: float):
    """The exact noise prediction for a component that is N(0, variance): e = s z / (a^2 v + s^2)."""

    def predict(z, timestep):
        a2 = float(schedule.alphas_cumprod[timestep])
        return math.sqrt(1 - a2) * z / (a2 * variance + 1 - a2)

    return predict


def sample(trajectory, predict):
    schedule = trajectory.schedule

    def guided(z, position, _source):
        return predict(z, schedule.timestep(position))

    return finish(translation_steps(trajectory.latents[-1], schedule, guided))


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8, 10, 15, 20, 25, 30, 37, 50, 60, 100, 200])
def test_oracle_round_trip_is_the_identity(steps, prediction_type):
    for strength in STRENGTHS:
        if int(steps * strength) == 0:
            continue
        schedule = Schedule.from_strength(ALPHAS, steps, strength, prediction_type)
        generator = torch.Generator().manual_seed(steps)
        latent = torch.randn(1, 4, 8, 8, generator=generator)
        oracle = {t: torch.randn(1, 4, 8, 8, generator=generator) for t in schedule.timesteps}

        def predict(z, timestep, oracle=oracle, schedule=schedule):
            # eps does not depend on z; the v that stands for it does: v = (eps - s z) / a
            if schedule.prediction_type == "epsilon":
                return oracle[timestep]
            a2 = float(ALPHAS[timestep])
            return (oracle[timestep] - math.sqrt(1 - a2) * z) / math.sqrt(a2)

        # the oracle ignores z, so that fixed-point iterations change nothing
        for fixed_point in (0, 2):
            trajectory = finish(inversion_steps(latent, schedule, predict, fixed_point=fixed_point))
            back = sample(trajectory, predict)
            assert (back - latent).abs().max() < 1e-5, (strength, fixed_point)


@pytest.mark.parametrize(
    ("steps", "fixed_point", "warm_start", "gain", "evaluations"),
    [
        (50, 0, True, 0.657, 30),
        (50, 1, False, 0.872, 45),
        (50, 2, False, 0.946, 60),
        (190, 0, True, 0.894, 114),
        # read at the last step's noise first: one iteration does what two did
        (50, 1, True, 0.934, 45),
        (50, 2, True, 0.9695, 60),
    ],
)
def test_round_trip_gain_of_fine_texture(steps, fixed_point, warm_start, gain, evaluations):
    schedule = Schedule.from_strength(ALPHAS, steps, 0.3)
    assert schedule.timesteps[-1] == 281
    every = [fixed_point] * len(schedule)  # METHOD.md's table iterates every step
    options = {"fixed_point": fixed_point, "iterations": every, "warm_start": warm_start, "mixing": False}
    found, calls = round_trip_gain(schedule, **options)
    assert found == pytest.approx(gain, abs=6e-4)
    assert calls == evaluations


def round_trip_gain(schedule: Schedule, **options) -> tuple[float, int]:
    exact, calls = gaussian_epsilon(schedule, 0.01), []

    def predict(z, timestep):
        calls.append(timestep)
        return exact(z, timestep)

    latent = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    trajectory = finish(inversion_steps(latent, schedule, predict, **options))
    return float(sample(trajectory, predict)), len(calls)


def test_mixing_is_worth_more_than_an_iteration():
    schedule = Schedule.from_strength(ALPHAS, 50, 0.3)
    plain, calls = round_trip_gain(schedule, fixed_point=2, mixing=False, iterations=[2] * 15)
    mixed, fewer = round_trip_gain(schedule, fixed_point=1, iterations=[1] * 15)
    assert fewer == 45 == calls - 15
    assert abs(1 - mixed) < abs(1 - plain) / 5


@pytest.mark.parametrize(
    ("steps", "share", "fixed_point", "wanted"),
    [
        (50, 1.0, 1, [0, 8, 1, *[0] * 12]),
        (50, 1.0, 2, [1, 12, 2, 1, *[0] * 11]),
        (50, 1.0, 0, [0] * 15),
        (20, 1.0, 1, [0, 6, 0, 0, 0, 0]),  # all that there are
        (50, 8 / 15, 1, [4, 2, 1, 1, 0, 0, 0, 0]),
    ],
)
def test_iterations_are_where_the_noise_prediction_depends_on_its_own_latent(steps, share, fixed_point, wanted):
    grid = timestep_grid(steps, 0.3)
    schedule = Schedule(ALPHAS, grid if share == 1 else spaced(grid[-1], round(len(grid) * share)))
    assert planned_iterations(schedule, fixed_point) == wanted


def test_iterations_where_they_are_needed_do_more_with_fewer_calls():
    schedule = Schedule.from_strength(ALPHAS, 50, 0.3)
    everywhere, calls = round_trip_gain(schedule, fixed_point=2, mixing=False, iterations=[2] * 15)
    needed, fewer = round_trip_gain(schedule, fixed_point=1, mixing=False)
    assert (calls, fewer) == (60, 39)
    assert abs(1 - needed) < abs(1 - everywhere) / 3


def test_an_iteration_leaves_the_share_of_an_error_that_the_plan_reckons_with():
    """Off the pictures the prediction is (z - a x)/s: a step's own iterations, unmixed, converge with q = f/s."""
    schedule = Schedule.from_strength(ALPHAS, 50, 0.3)
    (a, s), factor = schedule.scales(2), schedule.noise_factor(1, 2)

    def predict(z, timestep):
        return (z - a * 0.4) / s if timestep == 21 else torch.ones_like(z)

    ends = []
    for most in (2, 3, 200):
        steps = inversion_steps(
            torch.zeros(1, 1, 1, 1, dtype=torch.float64), schedule, predict, mixing=False, iterations=[most] * 15,
        )  # fmt: skip
        ends.append(float([next(steps).latent for _ in range(2)][-1]))
    assert (ends[1] - ends[2]) / (ends[0] - ends[2]) == pytest.approx(factor / s, rel=1e-6)


def test_fixed_point_converges_to_the_exact_inverse():
    schedule = Schedule.from_strength(ALPHAS, 50, 0.3)
    predict = gaussian_epsilon(schedule, 0.3)
    latent = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    trajectory = finish(inversion_steps(latent, schedule, predict, fixed_point=30, iterations=[30] * 15))
    assert float(sample(trajectory, predict)) == pytest.approx(1.0, abs=1e-9)


def test_published_order_leaves_source_latents_too_clean():
    """(signal, noise) of the stored source latent at t = 140 when the noise is known: HOST.md fact 4."""
    schedule = Schedule(ALPHAS, tuple(range(0, 300, 20)))
    assert schedule.timestep(8) == 140
    # channel 0 carries the signal, channel 1 the noise
    signal, noise = torch.eye(2, dtype=torch.float64).reshape(2, 1, 2, 1, 1)

    def at_140(start, order):
        steps = inversion_steps(start, schedule, lambda z, t: noise, fixed_point=0, order=order)
        return finish(steps).latents[8].flatten().tolist()

    on_schedule = schedule.add_noise(signal, noise, 0)
    assert at_140(on_schedule, "ascending") == pytest.approx(schedule.scales(8), abs=1e-12)
    assert schedule.scales(8) == pytest.approx([0.917, 0.398], abs=6e-4)
    assert at_140(signal, "published") == pytest.approx([0.848, 0.310], abs=6e-4)


@pytest.mark.parametrize("order", ["ascending", "published"])
def test_order_of_the_calls(order):
    schedule = Schedule.from_strength(ALPHAS, 10, 0.5)
    called = []

    def predict(z, timestep):
        called.append(timestep)
        return torch.zeros_like(z)

    latent = torch.ones(1, 4, 2, 2)
    trajectory = finish(inversion_steps(latent, schedule, predict, fixed_point=0, order=order))
    assert called == (list(schedule.timesteps) if order == "ascending" else list(schedule.timesteps)[::-1])
    assert len(trajectory.latents) == 6 and trajectory.latents[0] is latent
    # without noise either order only scales: the end latent is a_n / a_0
    a0, a5 = schedule.scales(0)[0], schedule.scales(5)[0]
    torch.testing.assert_close(trajectory.latents[-1], latent * a5 / a0)


def test_steps_are_reported_and_can_be_stopped():
    schedule = Schedule.from_strength(ALPHAS, 50, 0.3)
    called = []

    def predict(z, timestep):
        called.append(timestep)
        return z * 0.1

    steps = inversion_steps(torch.ones(1, 4, 2, 2), schedule, predict, fixed_point=1)
    seen = [next(steps) for _ in range(3)]
    steps.close()
    assert [(s.index, s.total, s.timestep) for s in seen] == [(0, 15, 1), (1, 15, 21), (2, 15, 41)]
    assert called == [1, *[21] * 9, 41, 41]  # its iterations are where they are needed


def test_capture_takes_the_last_evaluation_of_the_noisiest_steps():
    unet = diffusers_unet()
    schedule = Schedule.from_strength(ALPHAS, 10, 0.5)
    context = torch.zeros(1, 3, 16)
    inputs = []

    def predict(z, timestep):
        inputs.append(z)
        return call(unet, z, timestep, context)

    latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    control = AttentionControl(shallow_layers(unet, (8, 8), 64))
    captures = {"capture": control, "capture_steps": 2}
    with control:
        trajectory = finish(inversion_steps(latent, schedule, predict, iterations=[1] * 5, **captures))
        assert sorted(trajectory.features) == [4, 5]
        for position in (4, 5):
            last = inputs[2 * position - 1]
            with control.capture() as again:
                call(unet, last, schedule.timestep(position), context)
            for name, (q, k) in trajectory.features[position].items():
                assert torch.equal(q, again[name][0]) and torch.equal(k, again[name][1])
            with control.capture() as earlier:
                call(unet, inputs[2 * position - 2], schedule.timestep(position), context)
            assert not torch.equal(earlier["IN01"][0], trajectory.features[position]["IN01"][0])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"fixed_point": -1}, "fixed_point must be 0 or more"),
        ({"order": "published", "fixed_point": 1}, "published order"),
        ({"order": "published", "fixed_point": 0, "capture": AttentionControl([])}, "published order"),
        ({"order": "descending"}, "order must be"),
    ],
)
def test_bad_options(options, says):
    schedule = Schedule.from_strength(ALPHAS, 10, 0.5)
    with pytest.raises(ValueError, match=says):
        next(inversion_steps(torch.ones(1, 4, 2, 2), schedule, lambda z, t: z, **options))


@pytest.mark.parametrize(("variance", "share"), [(0.01, 0.6), (0.3, 0.4)])
def test_second_order_path_is_nearer_to_the_exact_one(variance, share):
    """The Gaussian model's path is known: z(s/a) keeps z / sqrt(a^2 v + s^2)."""
    schedule = Schedule(ALPHAS, spaced(281, 8))
    predict, timesteps = gaussian_epsilon(schedule, variance), []

    def counted(z, timestep):
        timesteps.append(timestep)
        return predict(z, timestep)

    latent = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    trajectory = finish(second_order_steps(latent, schedule, counted))
    assert timesteps == [0, *schedule.timesteps]
    plain = finish(inversion_steps(latent, schedule, predict, fixed_point=0))

    def error(found):
        (a0, s0), (a, s) = schedule.scales(0), schedule.scales(8)
        exact = math.sqrt((a * a * variance + s * s) / (a0 * a0 * variance + s0 * s0))
        return abs(float(found.latents[-1]) / exact - 1)

    assert error(trajectory) < error(plain) * share
    for position, latent in enumerate(trajectory.latents):
        timestep = schedule.level_timestep(position)
        assert torch.equal(trajectory.outputs[position], predict(latent, timestep))


def test_second_order_captures_the_source_branch_itself():
    unet = diffusers_unet()
    schedule = Schedule.from_strength(ALPHAS, 10, 0.5)
    context = torch.zeros(1, 3, 16)
    latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    control = AttentionControl(shallow_layers(unet, (8, 8), 64))

    def predict(z, timestep):
        return call(unet, z, timestep, context)

    with control, torch.no_grad():
        trajectory = finish(second_order_steps(latent, schedule, predict, capture=control, capture_steps=3))
        assert sorted(trajectory.features) == [3, 4, 5]
        for position in (3, 4, 5):
            with control.capture() as again:
                predict(trajectory.latents[position], schedule.timestep(position))
            for name, (q, k) in trajectory.features[position].items():
                assert torch.equal(q, again[name][0]) and torch.equal(k, again[name][1])
