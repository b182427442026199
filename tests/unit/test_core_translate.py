"""Stage 2: which steps are controlled by which features, and that the source branch costs no more than it must."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lib_negtrans.core.attention import AttentionControl, shallow_layers
from lib_negtrans.core.guidance import cfg
from lib_negtrans.core.inversion import Trajectory, inversion_steps, second_order_steps
from lib_negtrans.core.schedule import Schedule, sd1_alphas_cumprod, spaced
from lib_negtrans.core.translate import Method, controlled_steps, translation_steps
from lib_negtrans.steps import finish
from tests.ldm_unet import call, diffusers_unet, drawn, ldm_twin

SCHEDULE = Schedule.from_strength(sd1_alphas_cumprod(), 50, 0.3)
SIZE = (8, 8)
DIFFERENCE = Method(solver="difference")


def test_published_setting_controls_thirteen_of_fifteen_steps():
    assert controlled_steps(15, 0.9) == 13


@given(total=st.integers(1, 999), ratio=st.floats(0, 1))
def test_controlled_steps_are_a_share(total, ratio):
    steps = controlled_steps(total, ratio)
    assert steps == int(total * ratio) and 0 <= steps <= total
    assert (controlled_steps(total, 0.0), controlled_steps(total, 1.0)) == (0, total)


@pytest.mark.parametrize("ratio", [-0.01, 1.01, float("nan")])
def test_ratio_out_of_range(ratio):
    with pytest.raises(ValueError, match="between 0 and 1"):
        controlled_steps(15, ratio)


def trajectory_with_features():
    latents = [drawn(1, 4, *SIZE, seed=k) for k in range(16)]
    return Trajectory(SCHEDULE, latents, {k: {"IN01": (latents[k], latents[k])} for k in range(1, 16)})


def recording(log):
    def guided(z, position, source):
        log.append((position, source))
        return 0.1 * z

    return guided


def test_captured_features_go_to_the_first_steps():
    trajectory, log = trajectory_with_features(), []
    steps = translation_steps(
        trajectory.latents[-1], SCHEDULE, recording(log), Method(tac_steps=13), trajectory=trajectory
    )
    result = finish(steps)
    assert [position for position, _ in log] == list(range(15, 0, -1))
    for index, (_, features) in enumerate(log):
        assert features is (trajectory.features[15 - index] if index < 13 else None)
    expected = trajectory.latents[-1]
    for position in range(15, 0, -1):
        expected = SCHEDULE.move(expected, 0.1 * expected, position, position - 1)
    assert torch.equal(result, expected)


def test_steps_report_where_they_lead():
    log: list = []
    steps = list(translation_steps(drawn(1, 4, *SIZE), SCHEDULE, recording(log)))
    assert [(s.index, s.total, s.timestep) for s in steps] == [(i, 15, 281 - 20 * i) for i in range(15)]
    # with this prediction the foreseen clean latent of the first step is (z - s e) / a
    a, s = SCHEDULE.scales(15)
    torch.testing.assert_close(steps[0].clean, drawn(1, 4, *SIZE) * (1 - 0.1 * s) / a)
    assert log[0][1] is None


@pytest.mark.parametrize("dropped", [range(1, 16), (4, 9)])
def test_what_was_not_captured_is_handed_over_as_its_stored_latent(dropped):
    trajectory, log = trajectory_with_features(), []
    for position in dropped:
        del trajectory.features[position]
    finish(
        translation_steps(
            trajectory.latents[-1], SCHEDULE, recording(log), Method(tac_steps=13), trajectory=trajectory
        )
    )  # fmt: skip
    for position, source in log:
        kept = trajectory.latents if position in dropped else trajectory.features
        assert source is (kept[position] if position > 2 else None)


def test_recomputed_leaves_captured_features_alone():
    trajectory, log = trajectory_with_features(), []
    method = Method(tac_steps=13, features_from="recomputed")
    finish(translation_steps(trajectory.latents[-1], SCHEDULE, recording(log), method, trajectory=trajectory))
    wanted = [*(trajectory.latents[position] for position in range(15, 2, -1)), None, None]
    assert all(source is latent for (_, source), latent in zip(log, wanted, strict=True))


def test_attention_control_needs_a_trajectory():
    with pytest.raises(ValueError, match="needs the source trajectory"):
        finish(translation_steps(torch.zeros(1), SCHEDULE, recording([]), Method(tac_steps=1)))


@pytest.fixture(scope="module")
def double_unets():
    """Both families in float64: guidance at 7.5 magnifies what random networks round, and here only logic counts."""
    unet = diffusers_unet()
    return {"diffusers": unet.double(), "ldm": ldm_twin(unet).double()}


def run(unet, *, fixed_point: int = 1, features_from: str = "captured", scale: float = 7.5):
    """The whole method on a UNet, as the hosts put it together: four steps, three of them controlled."""
    latent, source, negative = drawn(1, 4, *SIZE), drawn(1, 5, 16, seed=1), drawn(1, 5, 16, seed=2)
    latent, source, negative = latent.double(), source.double(), negative.double()
    schedule = Schedule.from_strength(sd1_alphas_cumprod(), 12, 0.34)
    control = AttentionControl(shallow_layers(unet, SIZE, 256))

    def predict(z, timestep):
        return call(unet, z, timestep, source)

    def guided(z, position, features):
        timestep = schedule.timestep(position)

        def both():
            return cfg(*call(unet, torch.cat([z, z]), timestep, torch.cat([negative, source])).chunk(2), scale)

        if features is None:
            return both()
        if isinstance(features, torch.Tensor):
            stored = features
            with control.capture(stop_early=True) as features:
                predict(stored, timestep)
        with control.inject(features, [-1, 0]):
            return both()

    with control:
        captures = control if features_from == "captured" else None
        every = [fixed_point] * len(schedule)
        trajectory = finish(inversion_steps(latent, schedule, predict, iterations=every, capture=captures))
        steps = translation_steps(
            trajectory.latents[-1], schedule, guided, Method(3, features_from), trajectory=trajectory
        )
        return finish(steps)


@pytest.mark.parametrize("features_from", ["captured", "recomputed"])
def test_families_translate_alike(double_unets, features_from):
    results = [run(unet, features_from=features_from) for unet in double_unets.values()]
    torch.testing.assert_close(*results, rtol=0, atol=1e-5)
    assert (results[0] - drawn(1, 4, *SIZE)).abs().max() > 0.1


def test_captured_features_become_the_recomputed_ones(double_unets):
    """The last fixed-point evaluation is the source branch, up to the residual of the iteration."""
    unet = double_unets["diffusers"]

    def distance(fixed_point):
        results = [run(unet, fixed_point=fixed_point, features_from=f) for f in ("captured", "recomputed")]
        return float((results[0] - results[1]).std())

    first, later = distance(1), distance(5)
    assert later < 0.2 * first


def second_order(start, schedule, predict):
    return finish(second_order_steps(start, schedule, predict))


def test_the_difference_solver_gives_the_source_back_exactly_whatever_the_model():
    schedule = Schedule(sd1_alphas_cumprod(), spaced(SCHEDULE.timesteps[-1], 4))

    def wild(z, timestep):
        return torch.sin(20 * z + timestep)

    def guided(z, position, _source):
        return wild(z, schedule.timestep(position))

    start = drawn(2, 4, *SIZE)
    trajectory = second_order(start, schedule, wild)
    back = finish(
        translation_steps(
            trajectory.latents[-1], schedule, guided, DIFFERENCE, trajectory=trajectory
        )
    )  # fmt: skip
    assert torch.equal(back, start)
    plain = finish(translation_steps(trajectory.latents[-1], schedule, guided))
    assert (plain - start).abs().max() > 0.1


def test_a_constant_difference_is_integrated_exactly():
    """e - e_src = d: z/a moves by d times the change of s/a, over any grid."""
    schedule = Schedule(sd1_alphas_cumprod(), spaced(SCHEDULE.timesteps[-1], 3))
    start, difference = drawn(1, 4, *SIZE), drawn(1, 4, *SIZE, seed=1)
    trajectory = second_order(start, schedule, lambda z, t: 0.3 * z)
    steps = translation_steps(
        trajectory.latents[-1], schedule, lambda z, k, _source: trajectory.outputs[k] + difference, DIFFERENCE,
        trajectory=trajectory,
    )  # fmt: skip
    found = finish(steps)
    expected = start + schedule.scales(0)[0] * (schedule.sigma(0) - schedule.sigma(3)) * difference
    torch.testing.assert_close(found, expected)


def test_pictures_of_one_source_share_its_row():
    schedule = Schedule(sd1_alphas_cumprod(), spaced(SCHEDULE.timesteps[-1], 3))
    sources = drawn(2, 4, *SIZE)
    trajectory = second_order(sources, schedule, lambda z, t: 0.3 * z)
    of_image = [1, 0, 1]
    results = finish(
        translation_steps(
            trajectory.latents[-1][of_image], schedule, lambda z, k, _source: 0.2 * z, DIFFERENCE,
            trajectory=trajectory, per_image=lambda values: values[of_image],
        )
    )  # fmt: skip
    single = finish(
        translation_steps(
            trajectory.latents[-1], schedule, lambda z, k, _source: 0.2 * z, DIFFERENCE, trajectory=trajectory
        )
    )
    torch.testing.assert_close(results, single[of_image])


def test_the_difference_solver_needs_the_sources_outputs():
    trajectory = finish(inversion_steps(drawn(1, 4, *SIZE), SCHEDULE, lambda z, t: 0.3 * z, fixed_point=0))
    steps = translation_steps(trajectory.latents[-1], SCHEDULE, recording([]), DIFFERENCE, trajectory=trajectory)
    with pytest.raises(ValueError, match="invert in second order"):
        next(steps)
