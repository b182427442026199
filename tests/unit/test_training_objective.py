"""The loss: its formulas, its timesteps and its gradient."""

from __future__ import annotations

import dataclasses
import math
from functools import partial

import pytest
import torch

from lib_negtrans.core.schedule import Schedule, sd1_alphas_cumprod, timestep_grid
from lib_negtrans.options import ParamError
from lib_negtrans.training.kinds.negative import NegativeEmbedding, initial_vectors
from lib_negtrans.training.objective import (
    LossOptions,
    Model,
    Rows,
    add_noise,
    contrast,
    encode_once,
    reconstruct,
    snr_weights,
    target,
)
from lib_negtrans.training.params import TrainingParams
from lib_negtrans.training.precision import FIRST_SCALE, GROWTH_STEPS, LossScale
from tests.tiny_model import tiny_host

ALPHAS = sd1_alphas_cumprod()


def rows(batch=3, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, 4, 8, 8)
    return Rows(
        torch.randn(shape, generator=generator, dtype=dtype),
        torch.randn(shape, generator=generator, dtype=dtype),
        torch.tensor([0, 140, 300, 77][:batch]),
        tuple(f"coat {i}, neg-x" for i in range(batch)),
    )


def model(predict=None, prediction_type="epsilon"):
    return Model(predict, lambda captions: torch.zeros(len(captions), 77, 8), ALPHAS, prediction_type)


def test_noise_is_the_schedules_forward_process():
    some = rows()
    schedule = Schedule(ALPHAS, (0, 140, 300))
    for i in range(3):
        wanted = schedule.add_noise(some.latents[i], some.noise[i], i + 1)
        assert torch.allclose(add_noise(model(), some)[i], wanted, atol=1e-6)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_a_perfect_prediction_costs_nothing(kind):
    some = rows(dtype=torch.float64)
    schedule = Schedule(ALPHAS, (0, 140, 300), kind)
    wanted = target(model(prediction_type=kind), some)
    # the target, read as a model output by the schedule that translation uses, is the noise that was added
    noisy = add_noise(model(), some)
    for i in range(3):
        assert torch.allclose(schedule.epsilon(noisy[i], wanted[i], i + 1), some.noise[i], atol=1e-12)
    assert reconstruct(model(lambda z, t, c: wanted, kind), some).abs().max() < 1e-12


def test_loss_is_the_mean_square_of_each_row_in_float32():
    some = rows()
    off = torch.tensor([0.0, 0.5, 1e-4]).reshape(3, 1, 1, 1)
    loss = reconstruct(model(lambda z, t, c: some.noise + off), some)
    assert torch.allclose(loss, off.flatten() ** 2, atol=1e-7)
    half = reconstruct(model(lambda z, t, c: some.noise.half()), some)
    assert half.dtype == torch.float32


def test_unknown_prediction_type_is_refused():
    with pytest.raises(ValueError, match="not 'sample'"):
        target(model(prediction_type="sample"), rows())


@pytest.mark.parametrize("strength", [0.01, 0.1, 0.3, 0.305, 0.5, 0.99, 1.0])
def test_training_covers_what_translation_uses(strength):
    low, high = TrainingParams(strength=strength).timesteps
    used = [t for n in range(1, 1000) if int(n * strength) >= 1 for t in timestep_grid(n, strength)]
    assert low <= min(used) and max(used) <= high <= 999
    assert high <= 1000 * strength + 1, "and little more"


def test_default_strength_trains_timesteps_up_to_300():
    assert TrainingParams().timesteps == (0, 300)


def test_named_timesteps_win_over_the_strength():
    assert TrainingParams(min_timestep=50).timesteps == (50, 300)
    assert TrainingParams(max_timestep=999).timesteps == (0, 999)
    assert TrainingParams(min_timestep=400).timesteps == (400, 400)
    with pytest.raises(ParamError, match="400 lies above the highest, 100"):
        TrainingParams(min_timestep=400, max_timestep=100).validate()


def test_huber_is_the_square_for_small_errors_and_linear_for_large_ones():
    some = rows()
    for off, wanted in ((1e-3, 1e-6), (100.0, 2 * 0.1 * (100.0 - 0.1))):
        far = model(lambda z, t, c, off=off: some.noise + off)
        assert torch.allclose(reconstruct(far, some, LossOptions(huber=0.1)), torch.full((3,), wanted), rtol=2e-3)


def test_min_snr_weights_low_timesteps_down():
    """METHOD.md 7: SNR(281) = 1.65 and SNR(141) = 5.26, SNR(21) = 50."""
    times = torch.tensor([281, 141, 21])
    assert snr_weights(model(), times, 5.0).tolist() == pytest.approx([1.0, 5 / 5.26, 5 / 50], rel=0.01)
    v = model(prediction_type="v_prediction")
    assert snr_weights(v, times, 5.0).tolist() == pytest.approx([1.65 / 2.65, 5 / 6.26, 5 / 51], rel=0.01)
    some = rows()
    off = model(lambda z, t, c: some.noise + 1)
    assert torch.allclose(
        reconstruct(off, some, LossOptions(min_snr_gamma=5.0)), snr_weights(model(), some.timesteps, 5.0).float()
    )


def test_weights_choose_where_the_loss_looks_and_are_never_nan():
    some = rows()
    off = torch.zeros(3, 4, 8, 8)
    off[:, :, :4] = 1.0  # only the upper half is wrong
    wrong = model(lambda z, t, c: some.noise + off)

    def loss(weights):
        return reconstruct(wrong, dataclasses.replace(some, weights=weights))

    upper = (off[:, :1] > 0).float()
    assert torch.allclose(loss(upper), torch.ones(3)) and torch.allclose(loss(1 - upper), torch.zeros(3))
    for constant in (0.0, 0.3, 1.0):
        assert torch.allclose(loss(torch.full((3, 1, 8, 8), constant)), reconstruct(wrong, some))


def contrastive_setting():
    """Photos, and a model whose prediction is a number per prompt."""
    some = dataclasses.replace(rows(), captions=("neg-x",) * 3)
    calls = []

    def encode(captions):
        calls.append((tuple(captions), torch.is_grad_enabled()))
        return torch.stack([torch.full((77, 8), 0.1 if caption else 0.7) for caption in captions])

    def predict(z, t, context):
        return context[:, :1, :1, None].expand(z.shape)

    return some, Model(predict, encode, ALPHAS), calls


@pytest.mark.parametrize("guidance", [2.0, 7.5])
def test_contrast_guides_away_from_the_vectors(guidance):
    some, damped, calls = contrastive_setting()
    guided = 0.1 + guidance * (0.7 - 0.1)
    wanted = (guided - some.noise).square().flatten(1).mean(1) / (guidance - 1) ** 2
    assert torch.allclose(contrast(damped, some, guidance), wanted, rtol=1e-5)
    assert calls == [(("",), False), (("neg-x",) * 3, True)], "the empty prompt has no gradient"


def test_contrast_has_the_curvature_of_reconstruct():
    """So that photos and renders pull alike at weight 1, whatever the guidance."""
    some = rows()
    shift = torch.tensor(0.3, requires_grad=True)

    def curvature(loss):
        predict = Model(lambda z, t, c: c.mean() * 0 + some.noise + shift, lambda c: torch.zeros(len(c), 77, 8), ALPHAS)
        (first,) = torch.autograd.grad(loss(predict).mean(), shift, create_graph=True)
        return float(torch.autograd.grad(first, shift)[0])

    plain = curvature(lambda m: reconstruct(m, some))
    for guidance in (2.0, 7.5):
        assert curvature(lambda m, w=guidance: contrast(m, some, w)) == pytest.approx(plain, rel=1e-4)
    with pytest.raises(ValueError, match="above 1"):
        contrast(model(), some, 1.0)


def test_the_parameters_choose_the_terms():
    host = tiny_host()
    assert list(NegativeEmbedding(host, TrainingParams(), "neg-x").terms()) == ["renders"]
    params = TrainingParams(objective="contrastive", photo_weight=0.5)
    terms = NegativeEmbedding(host, params, "neg-x").terms()
    assert [(name, weight) for name, (_, weight) in terms.items()] == [("renders", 1.0), ("photos", 0.5)]


def test_equal_captions_are_encoded_once():
    calls = []

    def encode(captions):
        calls.append(list(captions))
        return torch.tensor([[[float(len(caption))]] for caption in captions])

    contexts = encode_once(encode, ["a", "bbb", "a", "cc", "bbb"])
    assert calls == [["a", "bbb", "cc"]]
    assert contexts.flatten().tolist() == [1, 3, 1, 2, 3]


@pytest.mark.parametrize("objective", [reconstruct, partial(contrast, guidance=3.0)], ids=["reconstruct", "contrast"])
def test_gradient_equals_finite_differences(objective):
    """d loss / d vectors through text encoder and UNet, in float64 on the tiny model."""
    host = tiny_host(dtype=torch.float64)
    vectors = host.token_vectors("style coat").double().requires_grad_()
    some = rows(2, torch.float64)

    def loss(values):
        def encode(captions):
            return encode_once(lambda texts: host.encode_prompts(texts, {"neg-x": values}), captions)

        return objective(Model(host.predict_noise, encode, host.alphas_cumprod), some).mean()

    with host.training():
        (gradient,) = torch.autograd.grad(loss(vectors), vectors)
        generator = torch.Generator().manual_seed(1)
        for _ in range(3):
            direction = torch.randn(vectors.shape, generator=generator, dtype=torch.float64)
            step = 1e-5 * direction
            with torch.no_grad():
                measured = (loss(vectors + step) - loss(vectors - step)) / 2e-5
            wanted = (gradient * direction).sum()
            assert math.isclose(measured, wanted, rel_tol=1e-5, abs_tol=1e-10), (float(measured), float(wanted))
    assert gradient.abs().max() > 1e-6


def test_start_spreads_the_text_over_the_vectors(shared_tiny_host):
    host = shared_tiny_host
    coat, style = host.token_vectors("coat")[0], host.token_vectors("style")[0]
    assert torch.equal(initial_vectors(host, "style", 3), torch.stack([style] * 3))
    # row i is token floor(i*m/n), as in the webui
    assert torch.equal(initial_vectors(host, "coat style", 3), torch.stack([coat, coat, style]))
    assert torch.equal(initial_vectors(host, "coat style coat", 1), coat[None])
    assert torch.equal(initial_vectors(host, " ", 2), torch.zeros(2, host.embedding_width))
    start = initial_vectors(host, "style", 1)
    start += 1
    assert torch.equal(host.token_vectors("style")[0], style), "the model's table is not shared"


def test_loss_scale_halves_on_overflow_and_grows_back():
    scale = LossScale(enabled=True)
    assert scale.value == FIRST_SCALE
    assert scale.reduce() and scale.value == FIRST_SCALE / 2
    for _ in range(GROWTH_STEPS):
        scale.succeeded()
    assert scale.value == FIRST_SCALE
    while scale.value > 1:
        assert scale.reduce()
    assert not scale.reduce()
    off = LossScale(enabled=False)
    assert off.value == 1.0 and not off.reduce()
