"""One translation on a host: what is computed, what is not, and that nothing stays behind."""

from __future__ import annotations

import pytest
import torch

from lib_negtrans.core.inversion import finish
from lib_negtrans.hosts.protocol import HostError
from lib_negtrans.params import TranslationParams, translation_preset
from lib_negtrans.pipeline import translate, translate_image, translate_latent
from tests.tiny_model import tiny_host

NEGATIVE = "a 3d render of a doll"


@pytest.fixture
def image():
    return torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def host(calm_tiny_host):
    return calm_tiny_host


def hooks(host) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in host.unet.modules())


def params(**values) -> TranslationParams:
    return TranslationParams.from_dict({"steps": 20, "negative_prompt": NEGATIVE, **values})


def test_without_negative_it_reconstructs(host, image):
    result = translate(host, image, params(negative_prompt="", fixed_point=3, tac_ratio=0))
    rms = (result.latent - result.source_latent).square().mean().sqrt() / result.source_latent.std()
    assert rms < 0.01
    # equal prompts cancel in the guidance: one row a step
    assert result.forwards.guided == len(result.trajectory.schedule)


def test_the_negative_moves_the_picture_and_tac_holds_it(host, image):
    free = translate(host, image, params(tac_ratio=0)).latent
    held = translate(host, image, params(tac_ratio=1, tac_layers=4096)).latent
    source = host.encode_image(image)
    assert (free - source).norm() > 0.05 * source.norm()
    assert not torch.allclose(free, held)


def test_forwards_are_counted(host, image):
    calls = []
    handle = host.unet.register_forward_pre_hook(lambda _m, args: calls.append(args[0].shape[0]))
    try:
        for preset, expected in (("default", (30, 30, 0)), ("fashionr2r", (15, 30, 12))):
            calls.clear()
            result = translate(host, image, translation_preset(preset, negative_prompt=NEGATIVE))
            assert (result.forwards.inversion, result.forwards.guided, result.forwards.source) == expected
            assert result.forwards.total == sum(calls)
    finally:
        handle.remove()


def test_captured_and_recomputed_features_agree_better_the_better_the_inversion(host, image):
    def gap(iterations: int) -> float:
        results = [
            translate(host, image, params(fixed_point=iterations, features=features)).latent
            for features in ("captured", "recomputed")
        ]
        return float((results[0] - results[1]).norm() / results[0].norm())

    assert gap(2) < gap(0) / 5


def test_a_batch_gives_what_single_pictures_give():
    # float64: rounding differs between batch sizes, and a random UNet amplifies it
    host = tiny_host(dtype=torch.float64)
    latents = torch.randn(2, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    both = finish(translate_latent(host, latents, params()))[0]
    for row in (0, 1):
        single = finish(translate_latent(host, latents[row : row + 1], params()))[0]
        assert torch.allclose(both[row], single[0], atol=1e-7)


def test_noise_start_follows_the_seed(host, image):
    first, again, another = (translate(host, image, params(start="noise", seed=seed)).latent for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.allclose(first, another)


def test_hooks_are_gone_after_success_error_and_a_closed_generator(host, image, monkeypatch):
    before = hooks(host)
    translate(host, image, params())
    assert hooks(host) == before

    steps = translate_image(host, image, params())
    for _ in range(8):  # into the translation phase
        next(steps)
    assert hooks(host) > before
    steps.close()
    assert hooks(host) == before

    nan = torch.full((1, 4, 8, 8), float("nan"))
    monkeypatch.setattr(host, "predict_noise", lambda z, t, c: nan)
    with pytest.raises(HostError, match="gave NaN at timestep 1"):
        translate(host, image, params())
    assert hooks(host) == before


def test_gradients_stay_off_inside_and_the_callers_mode_is_kept(host, image):
    with torch.enable_grad():
        for _progress in translate_image(host, image, params()):
            assert torch.is_grad_enabled()


def test_progress_covers_both_phases(host, image):
    latent = host.encode_image(image)
    progress = list(translate_latent(host, latent, params()))
    assert [p.index for p in progress] == list(range(12)) and {p.total for p in progress} == {12}
    assert [p.phase for p in progress] == ["inversion"] * 6 + ["translation"] * 6
    assert progress[0].clean is None and progress[-1].clean.shape == latent.shape
