"""One translation on a host: what is computed, what is not, and that nothing stays behind."""

from __future__ import annotations

import pytest
import torch

import lib_negtrans
from lib_negtrans.core.attention import self_attention_layers
from lib_negtrans.models.protocol import HostError
from lib_negtrans.pictures.images import pad_to_multiple
from lib_negtrans.steps import finish
from lib_negtrans.translation import denoiser
from lib_negtrans.translation.params import TRANSLATION_PRESETS, TranslationParams, translation_preset
from lib_negtrans.translation.pipeline import translate, translate_image, translate_latent
from tests.tiny_model import tiny_host

NEGATIVE = "a 3d render of a doll"


@pytest.fixture
def host(calm_tiny_host):
    return calm_tiny_host


def hooks(host) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in host.unet.modules())


def params(**values) -> TranslationParams:
    return TranslationParams.from_dict({"steps": 20, "step_share": 1.0, "negative_prompt": NEGATIVE, **values})


@pytest.mark.parametrize(("iterations", "known"), [(3, 0), (6, 1), (None, 1)])
def test_without_negative_it_reconstructs(host, image, iterations, known):
    how = {"solver": "difference"} if iterations is None else {"solver": "ddim", "fixed_point": iterations}
    result = translate(host, image, params(negative_prompt="", tac_ratio=0, **how))
    rms = (result.latent - result.source_latent).square().mean().sqrt() / result.source_latent.std()
    assert rms < 0.01
    # equal prompts cancel in the guidance: one row a step; the first step's is known from an iterated inversion step
    assert result.forwards.guided == len(result.trajectory.schedule) - known


def test_the_negative_moves_the_picture_and_tac_holds_it(tiny_host, image):
    """With attention as sharp as a trained network's: a random one is even everywhere, whoever asks."""
    tiny_host.unet.conv_out.weight.data.mul_(0.1)
    for layer in self_attention_layers(tiny_host.unet):
        for projection in (layer.module.to_q, layer.module.to_k):
            projection.weight.data.mul_(4)
    source = tiny_host.encode_image(image)

    def moved(tac_ratio: float) -> float:
        values = params(prompt="a photo", tac_ratio=tac_ratio, tac_layers=4096, tac_halves="both")
        return float((translate(tiny_host, image, values).latent - source).norm() / source.norm())

    free, held = moved(0.0), moved(1.0)
    assert 0.05 < held < 0.8 * free


def test_forwards_are_counted(host, image):
    calls = []
    handle = host.unet.register_forward_pre_hook(lambda _m, args: calls.append(args[0].shape[0]))
    try:
        for preset, expected in (
            ("default", (10, 17, 0)),
            ("fast", (7, 11, 0)),
            ("single", (2, 1, 0)),
            ("fashionr2r", (15, 30, 12)),
        ):
            calls.clear()
            result = translate(host, image, translation_preset(preset, negative_prompt=NEGATIVE))
            assert (result.forwards.inversion, result.forwards.guided, result.forwards.source) == expected
            assert result.forwards.total == sum(calls)
    finally:
        handle.remove()


@pytest.fixture(scope="module")
def exact_host():
    """`calm_tiny_host` in float64: what a random UNet makes of another order of rounding stays small."""
    host = tiny_host(dtype=torch.float64)
    host.unet.conv_out.weight.data.mul_(0.1)
    return host


MORE = [{}, {"tac_halves": "both"}, {"prompt": "a photo", "guidance": "perp"}]


@pytest.mark.parametrize("more", MORE)
def test_a_source_beside_the_guided_rows_is_a_source_of_its_own(exact_host, image, monkeypatch, more):
    values = {**TRANSLATION_PRESETS["fashionr2r"][1], **more}
    images = torch.cat([image, image.flip(-1)]).double()
    beside = translate(exact_host, images, params(**values))
    monkeypatch.setattr(denoiser, "LARGE", 8 * 8 - 1)
    alone = translate(exact_host, images, params(**values))
    torch.testing.assert_close(beside.latent, alone.latent, rtol=0, atol=1e-4)
    assert beside.forwards.source == beside.forwards.beside == alone.forwards.source > 0 == alone.forwards.beside
    assert beside.forwards.total == alone.forwards.total


@pytest.mark.parametrize("preset", ["default", "fashionr2r", "fast", "single"])
@pytest.mark.parametrize("more", MORE)
def test_the_prompts_of_a_large_picture_are_computed_one_after_the_other(exact_host, image, monkeypatch, preset, more):
    values, calls = {**TRANSLATION_PRESETS[preset][1], **more}, []
    handle = exact_host.unet.register_forward_pre_hook(lambda _m, args: calls.append(args[0].shape[0]))
    together = translate(exact_host, image.double(), params(**values))
    # the only guided call of a single step has one row where the source's own is known to the bit
    assert max(calls) > 1 or preset == "single"
    calls.clear()
    monkeypatch.setattr(denoiser, "LARGE", 8 * 8 - 1)
    apart = translate(exact_host, image.double(), params(**values))
    handle.remove()
    assert max(calls) == 1 and len(calls) == apart.forwards.total == together.forwards.total
    assert apart.forwards.beside == 0
    torch.testing.assert_close(apart.latent, together.latent, rtol=0, atol=1e-4)


def test_captured_and_recomputed_features_agree_better_the_better_the_inversion(host, image):
    plain = {"guidance_limit": 0}  # it divides by the push's strength: small differences grow on a random network

    def gap(iterations: int) -> float:
        results = [
            translate(host, image, params(solver="ddim", fixed_point=iterations, features=features, **plain)).latent
            for features in ("captured", "recomputed")
        ]
        return float((results[0] - results[1]).norm() / results[0].norm())

    assert gap(8) < gap(0) / 5


@pytest.mark.parametrize(
    ("more", "sources"),
    [
        ({}, 4),  # of five controlled steps: in the first both branches are one
        ({"prompt": "a photo"}, 5),
        ({"source_prompt": "a photo"}, 5),
        ({"start": "noise"}, 5),
        ({"tac_halves": "both"}, 5),
        ({"tac_layers": 1}, 0),  # no layer is controlled
    ],
)
def test_the_source_is_computed_where_it_is_another_branch(host, image, more, sources):
    released = TRANSLATION_PRESETS["fashionr2r"][1]
    assert translate(host, image, params(**released | {"steps": 20} | more)).forwards.source == sources


def test_the_first_output_is_known_at_the_inversions_own_end_alone(host, image):
    rows = [
        translate(host, image, params(fixed_point=6, start=start)).forwards.guided for start in ("inversion", "noise")
    ]
    assert rows == [11, 12]


def test_a_batch_gives_what_single_pictures_give():
    # float64: rounding differs between batch sizes, and a random UNet amplifies it
    host = tiny_host(dtype=torch.float64)
    latents = torch.randn(2, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    both = finish(translate_latent(host, latents, params()))[0]
    for row in (0, 1):
        single = finish(translate_latent(host, latents[row : row + 1], params()))[0]
        assert torch.allclose(both[row], single[0], atol=1e-7)


def test_sides_may_be_any_and_the_mask_goes_along(host):
    picture = torch.rand(1, 3, 61, 70, generator=torch.Generator().manual_seed(3))
    mask = torch.zeros(1, 1, 61, 70)
    mask[..., 20:, 30:] = 1
    for background in ("keep", "translate"):
        values = params(mask="file", background=background, colour="lowpass")
        found = translate(host, picture, values, mask=mask)
        padded = translate(host, pad_to_multiple(picture), values, mask=pad_to_multiple(mask))
        assert found.image.shape == picture.shape and found.latent.shape[-2:] == (8, 9)
        assert torch.equal(found.image, padded.image[..., :61, :70])


def test_scripts_find_what_they_need_in_the_package():
    for name in lib_negtrans.__all__:
        assert getattr(lib_negtrans, name) is not None
    assert lib_negtrans.translate is translate
    with pytest.raises(ImportError):
        from lib_negtrans import no_such_thing  # noqa: F401


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
    with pytest.raises(HostError, match="gave NaN at timestep 0"):
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


GUIDED = {
    "perp": {"guidance": "perp"},
    "topk": {"guidance": "topk", "topk_ratio": 0.2},
    "salience": {"guidance": "salience"},
    "sega": {"guidance": "sega", "sega_warmup": 0},
    "rescale": {"cfg_rescale": 1.0},
}
LIMITS = {
    "topk": {"guidance": "topk", "topk_ratio": 1.0},
    "sega": {"guidance": "sega", "sega_threshold": 0.0, "sega_warmup": 0, "sega_momentum": 0.0},
}


def latent_of(host, image, **values):
    return translate(host, image, params(**values)).latent


@pytest.mark.parametrize("prompt", ["", "a photo"])
def test_guidance_is_cfg_in_its_limit_and_something_else_otherwise(image, prompt):
    host, image = tiny_host(dtype=torch.float64), image.double()  # a random UNet amplifies rounding
    plain = latent_of(host, image, prompt=prompt)

    def distance(**values) -> float:
        return float((latent_of(host, image, prompt=prompt, **values) - plain).norm() / plain.norm())

    assert max(distance(**values) for values in LIMITS.values()) < 0.004
    for name, values in GUIDED.items():
        # without a prompt nothing can oppose it
        assert (distance(**values) < 0.004) == (name == "perp" and not prompt), name


@pytest.mark.parametrize(("prompt", "rows"), [("", 2), ("a photo", 3)])
@pytest.mark.parametrize("iterations", [1, 6])
def test_the_empty_prompt_has_a_row_only_where_it_is_not_the_prompt(host, image, prompt, rows, iterations):
    steps = 6
    # where the source prompt is the same, an inversion whose last step was iterated knows the first conditional row
    known = prompt == "" and iterations == 6

    def guided(**values) -> int:
        values = params(prompt=prompt, solver="ddim", fixed_point=iterations, **values)
        return translate(host, image, values).forwards.guided

    for kind in ("perp", "topk", "salience", "sega"):
        assert guided(guidance=kind) == rows * steps - known
    assert guided() == 2 * steps - known
    assert guided(guidance="perp", cfg_scale=1.0) == steps - known


@pytest.mark.parametrize("features", ["captured", "recomputed"])
def test_blend_one_is_replacement_and_blend_zero_no_control(host, image, features):
    held, free = latent_of(host, image, features=features), latent_of(host, image, features=features, tac_ratio=0)
    assert torch.equal(latent_of(host, image, features=features, tac_blend=1.0), held)
    assert torch.equal(latent_of(host, image, features=features, tac_blend=0.0), free)
    half = latent_of(host, image, features=features, tac_blend=0.5)
    assert not torch.allclose(half, held, atol=1e-3) and not torch.allclose(half, free, atol=1e-3)


@pytest.mark.parametrize("features", ["captured", "recomputed"])
def test_depths_can_say_what_layers_and_ratio_say(host, image, features):
    # 8x8 latents of a UNet with three levels of attention: flag 256 is the first two
    plain = latent_of(host, image, features=features)
    assert torch.equal(latent_of(host, image, features=features, tac_depths="0.9 0.9"), plain)
    shallow_only = latent_of(host, image, features=features, tac_depths="0.9")
    assert torch.equal(shallow_only, latent_of(host, image, features=features, tac_layers=64))
    earlier = latent_of(host, image, features=features, tac_depths="0.9 0.4")
    assert not torch.allclose(earlier, plain, atol=1e-4) and not torch.allclose(earlier, shallow_only, atol=1e-4)


@pytest.mark.parametrize("features", ["captured", "recomputed"])
def test_with_both_halves_equal_prompts_cancel(host, image, features):
    values = {"features": features, "negative_prompt": "", "tac_halves": "both", "tac_ratio": 1.0, "fixed_point": 8}
    both = translate(host, image, params(**values))
    assert both.forwards.guided == 6  # one row a step
    torch.testing.assert_close(both.latent, latent_of(host, image, **values, cfg_scale=1.0), rtol=0, atol=1e-5)
    one = latent_of(host, image, **values | {"tac_halves": "cond"}, cfg_scale=1.0)
    # captured, the first step's conditional row is the inversion's last, up to what the iteration leaves
    torch.testing.assert_close(both.latent, one, rtol=0, atol=1e-5 if features == "recomputed" else 1e-4)
    # with a negative they differ
    values["negative_prompt"] = NEGATIVE
    both, one = (latent_of(host, image, **values | {"tac_halves": halves}) for halves in ("both", "cond"))
    assert not torch.allclose(both, one, atol=1e-3)
