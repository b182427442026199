"""The grid, its alphas and the DDIM step: the published setting's numbers, and diffusers' scheduler as reference."""

from __future__ import annotations

import re

import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given
from hypothesis import strategies as st

from lib_negtrans.core.schedule import Schedule, sd1_alphas_cumprod, spaced, strength_steps, timestep_grid

ALPHAS = sd1_alphas_cumprod()


def ddim_scheduler(steps: int, prediction_type: str = "epsilon") -> DDIMScheduler:
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=False, steps_offset=1, prediction_type=prediction_type, timestep_spacing="leading",
    )  # fmt: skip
    scheduler.set_timesteps(steps)
    return scheduler


def test_published_grid():
    grid = timestep_grid(50, 0.3)
    assert grid == tuple(range(1, 282, 20)) and len(grid) == 15
    schedule = Schedule.from_strength(ALPHAS, 50, 0.3)
    assert schedule.alpha_bar(15) == pytest.approx(0.6224, abs=5e-5)
    assert schedule.alpha_bar(1) == pytest.approx(0.9983, abs=5e-5)
    assert schedule.alpha_bar(0) == pytest.approx(1 - 0.00085, abs=1e-9)


def test_alphas_are_diffusers():
    assert ALPHAS.shape == (1000,) and ALPHAS.dtype == torch.float64
    torch.testing.assert_close(ALPHAS.float(), ddim_scheduler(50).alphas_cumprod, rtol=2e-5, atol=1e-7)


@given(steps=st.integers(1, 999), strength=st.floats(0.001, 1.0))
def test_grid_is_diffusers_img2img(steps, strength):
    used = min(int(steps * strength), steps)
    if used == 0:
        with pytest.raises(ValueError, match="leaves no step"):
            timestep_grid(steps, strength)
        return
    expected = ddim_scheduler(steps).timesteps[steps - used :].tolist()[::-1]
    assert list(timestep_grid(steps, strength)) == expected
    assert expected[0] >= 1 and expected[-1] <= 999


@given(steps=st.integers(1, 99), strength=st.floats(0.001, 0.999))
def test_what_the_message_suggests_works(steps, strength):
    try:
        strength_steps(steps, strength)
    except ValueError as error:
        more_steps, more_strength = re.search(
            r"at least (\d+) steps or a strength of at least ([\d.]+)", str(error)
        ).groups()
        assert strength_steps(int(more_steps), strength) >= 1
        assert strength_steps(steps, float(more_strength.rstrip("."))) >= 1


@pytest.mark.parametrize("strength", [0.0, -0.1, 1.01, float("nan")])
def test_strength_out_of_range(strength):
    with pytest.raises(ValueError, match="strength must be above 0"):
        strength_steps(50, strength)


@pytest.mark.parametrize("steps", [0, 1000])
def test_steps_out_of_range(steps):
    with pytest.raises(ValueError, match="steps must lie between 1 and 999"):
        timestep_grid(steps, 1.0)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", [1, 7, 15, 50, 333, 999])
def test_step_is_diffusers_ddim(prediction_type, steps):
    schedule = Schedule.from_strength(ALPHAS, steps, 1.0, prediction_type)
    scheduler = ddim_scheduler(steps, prediction_type)
    generator = torch.Generator().manual_seed(0)
    for position in {1, (len(schedule) + 1) // 2, len(schedule)}:
        latent, output = torch.randn(2, 1, 4, 8, 8, generator=generator)
        expected = scheduler.step(output, schedule.timestep(position), latent)
        epsilon = schedule.epsilon(latent, output, position)
        # the single-precision alphas of diffusers are magnified by 1/a, at most 15
        clean = schedule.clean(latent, epsilon, position)
        torch.testing.assert_close(clean, expected.pred_original_sample, rtol=1e-4, atol=1e-4)
        ours = schedule.move(latent, epsilon, position, position - 1)
        torch.testing.assert_close(ours, expected.prev_sample, rtol=1e-5, atol=1e-5)


@given(steps=st.integers(1, 999), source=st.integers(0, 20), target=st.integers(0, 20), seed=st.integers(0, 2**32 - 1))
def test_move_there_and_back_with_the_same_epsilon(steps, source, target, seed):
    schedule = Schedule.from_strength(ALPHAS, steps, 1.0)
    source, target = min(source, len(schedule)), min(target, len(schedule))
    latent, epsilon = torch.randn(2, 1, 4, 2, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    there = schedule.move(latent, epsilon, source, target)
    torch.testing.assert_close(schedule.move(there, epsilon, target, source), latent, rtol=0, atol=1e-9)


def test_add_noise_and_clean_are_inverse():
    schedule = Schedule.from_strength(ALPHAS, 50, 0.3)
    latent, noise = torch.randn(2, 1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    noised = schedule.add_noise(latent, noise, 15)
    torch.testing.assert_close(noised, 0.6224**0.5 * latent + (1 - 0.6224) ** 0.5 * noise, rtol=0, atol=1e-3)
    torch.testing.assert_close(schedule.clean(noised, noise, 15), latent)


def test_dtype_is_the_latents():
    schedule = Schedule.from_strength(ALPHAS, 50, 0.3)
    for dtype in (torch.float16, torch.float32, torch.float64):
        z = torch.ones(1, 4, 2, 2, dtype=dtype)
        assert schedule.move(z, z, 1, 2).dtype == dtype


@pytest.mark.parametrize(
    ("timesteps", "prediction_type", "says"),
    [
        ((), "epsilon", "ascending and not empty"),
        ((1, 1), "epsilon", "ascending"),
        ((21, 1), "epsilon", "ascending"),
        ((1, 1000), "epsilon", "0..999"),
        ((-1, 5), "epsilon", "0..999"),
        ((1, 21), "sample", "prediction_type"),
    ],
)
def test_bad_schedules(timesteps, prediction_type, says):
    with pytest.raises(ValueError, match=says):
        Schedule(ALPHAS, timesteps, prediction_type)


@pytest.mark.parametrize("position", [0, 16, -1])
def test_position_without_timestep(position):
    with pytest.raises(IndexError, match="no timestep"):
        Schedule.from_strength(ALPHAS, 50, 0.3).timestep(position)


def level(timestep):
    return float((1 - ALPHAS[timestep]) / ALPHAS[timestep]) ** (1 / 3)


def test_spaced_timesteps_are_even_in_their_level_and_end_at_the_highest():
    assert spaced(281, 1) == (281,) and spaced(281, 281) == tuple(range(1, 282))
    for count in range(1, 16):
        taken = spaced(281, count)
        assert len(taken) == count and taken[-1] == 281 and list(taken) == sorted(set(taken))
    parts = [level(high) - level(low) for low, high in zip((0, *spaced(281, 9)), spaced(281, 9), strict=False)]
    assert max(parts) < 1.1 * min(parts)
    with pytest.raises(ValueError, match="16 timesteps cannot be taken of 15"):
        spaced(15, 16)


@pytest.mark.parametrize("through", [1, 2, 21, 41, 280])
@pytest.mark.parametrize("count", [2, 3, 9, 40, 281])
def test_spaced_timesteps_go_through_the_one_that_is_asked_for(through, count):
    taken = spaced(281, count, through)
    assert len(set(taken)) == count and through in taken and taken[-1] == 281 and list(taken) == sorted(taken)


def test_a_timestep_that_is_no_place_to_go_through_changes_nothing():
    assert spaced(281, 9, 0) == spaced(281, 9, 281) == spaced(281, 9) and spaced(281, 1, 21) == (281,)
    assert spaced(281, 9, 21) == (6, 21, 44, 75, 113, 154, 197, 239, 281)
