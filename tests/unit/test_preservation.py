"""Colours, masks and backgrounds through a whole translation on the tiny model."""

from __future__ import annotations

import pytest
import torch

from lib_negtrans.core.attention import AttentionControl, self_attention_layers
from lib_negtrans.core.colour import WAYS, preserve_pixels, rgb_to_lab
from lib_negtrans.models.protocol import HostError
from lib_negtrans.translation.params import TranslationParams, translation_preset
from lib_negtrans.translation.pipeline import translate

SIDE = 64


@pytest.fixture(scope="module")
def image():
    coarse = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(3))
    return torch.nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bilinear")


@pytest.fixture(scope="module")
def mask():
    """The garment is the left half."""
    mask = torch.zeros(1, 1, SIDE, SIDE)
    mask[..., : SIDE // 2] = 1
    return mask


def run(host, image, mask=None, **values):
    plain = {"colour": "off", "details": "model", "guidance_limit": 0}
    values = {"steps": 10, "negative_prompt": "a 3d render of a doll", **plain, **values}
    return translate(host, image, TranslationParams.from_dict(values), mask=mask)


def colour_distance(a, b) -> float:
    return float((rgb_to_lab(a) - rgb_to_lab(b)).mean((2, 3)).norm(dim=1).mean())


@pytest.mark.parametrize("way", WAYS)
def test_each_way_takes_the_sources_colours_back(calm_tiny_host, image, way):
    far = {"cfg_scale": 20.0, "solver": "ddim"}
    drifted = run(calm_tiny_host, image, **far)
    source = calm_tiny_host.decode_latent(drifted.source_latent)
    kept = run(calm_tiny_host, image, **far, colour=way)
    assert colour_distance(kept.image, source) < 0.6 * colour_distance(drifted.image, source)
    assert torch.equal(run(calm_tiny_host, image, **far, colour=way, colour_strength=0.0).image, drifted.image)


def test_details_are_the_renders_and_only_the_change_is_the_models(calm_tiny_host, image):
    result = run(calm_tiny_host, image, details="render")
    decoded, source = (calm_tiny_host.decode_latent(latent) for latent in (result.latent, result.source_latent))
    assert torch.allclose(result.image, (image + decoded - source).clamp(0, 1), atol=1e-6)
    assert (decoded - source).abs().max() > 1e-3
    unchanged = run(calm_tiny_host, image, details="render", negative_prompt="")
    assert torch.allclose(unchanged.image, image, atol=1e-5)  # the VAE loses nothing of it
    from_noise = {"start": "noise", "details": "render"}
    noise = run(calm_tiny_host, image, **from_noise)
    assert torch.equal(noise.image, calm_tiny_host.decode_latent(noise.latent))


def test_only_the_lightness_of_detail_changes():
    generator = torch.Generator().manual_seed(4)
    source, change = 0.3 + 0.4 * torch.rand(2, 1, 3, 32, 32, generator=generator)
    translated = (source + 0.1 * (change - 0.5)).clamp(0, 1)  # far from the border of sRGB
    before, after = rgb_to_lab(source), rgb_to_lab(preserve_pixels(translated, source, "lightness"))
    assert (after - before)[:, 1:].abs().max() < 0.5 < 5 < (rgb_to_lab(translated) - before)[:, 1:].abs().max()
    assert (after - before)[:, :1].abs().max() > 1 and (after - before)[:, :1].mean().abs() < 0.02


def test_the_published_preset_keeps_no_colours(calm_tiny_host, image):
    """What the published code gives is the decoded latent as it is; the default changes it."""
    for preset, unchanged in (("fashionr2r", True), ("default", False)):
        params = translation_preset(preset, negative_prompt="a 3d render of a doll")
        result = translate(calm_tiny_host, image, params)
        assert torch.equal(result.image, calm_tiny_host.decode_latent(result.latent)) == unchanged, preset


@pytest.mark.parametrize("start", ["inversion", "noise"])
@pytest.mark.parametrize("solver", ["ddim", "difference"])
def test_a_kept_background_is_the_renders(calm_tiny_host, image, mask, start, solver):
    values = {"background": "keep", "start": start, "solver": solver, "tac_ratio": 0.5}
    result = run(calm_tiny_host, image, mask, **values)
    outside = slice(SIDE // 2 + 4, None)  # beyond the soft edge
    assert torch.allclose(result.image[..., outside], image[..., outside], atol=1e-4)
    assert (result.image - image)[..., : SIDE // 2 - 4].abs().mean() > 0.01
    # the latent too, so that what is kept is seen by the steps that follow
    assert torch.equal(result.latent[..., 5:], result.source_latent[..., 5:])


def test_the_blend_is_seen_while_sampling(calm_tiny_host, image, mask):
    """Not only pasted at the end: the garment beside it comes out otherwise."""
    plain = run(calm_tiny_host, image)
    kept = run(calm_tiny_host, image, mask, background="keep")
    assert not torch.allclose(plain.latent[..., :4], kept.latent[..., :4], atol=1e-4)


def test_attention_control_acts_on_the_garment_alone(calm_tiny_host, image, mask):
    """With nothing but garment it is plain control, with next to none it is no control."""
    steps = {"step_share": 1.0}  # others depend on where control ends
    everywhere = run(calm_tiny_host, image, **steps)
    nowhere = run(calm_tiny_host, image, tac_ratio=0.0, **steps)
    assert not torch.allclose(everywhere.latent, nowhere.latent, atol=1e-3)
    whole = run(calm_tiny_host, image, torch.ones_like(mask), **steps)
    assert torch.allclose(whole.latent, everywhere.latent, atol=1e-4)
    none = run(calm_tiny_host, image, torch.zeros_like(mask), **steps)
    assert torch.allclose(none.latent, nowhere.latent, atol=1e-4)
    half = run(calm_tiny_host, image, mask, **steps)
    assert not torch.allclose(half.latent, everywhere.latent, atol=1e-4)
    assert not torch.allclose(half.latent, nowhere.latent, atol=1e-4)


def test_injection_replaces_the_regions_tokens_only(calm_tiny_host):
    region = torch.zeros(1, 1, 8, 8)
    region[..., :4] = 1
    layer = self_attention_layers(calm_tiny_host.unet)[0]
    control = AttentionControl([layer], region)
    channels = layer.module.to_q.in_features
    mine, source = torch.randn(2, 64, channels), torch.randn(1, 64, channels)
    own, theirs = layer.module.to_q(mine), layer.module.to_q(source.expand(2, -1, -1))
    with control, control.inject({layer.name: (source, source)}, [-1, 0]):
        seen = layer.module.to_q(mine)
    inside = region.flatten().bool()
    assert torch.equal(seen[0], own[0])
    assert torch.allclose(seen[1][inside], theirs[0][inside]) and torch.allclose(seen[1][~inside], own[1][~inside])


def test_colours_are_kept_inside_the_mask_only(calm_tiny_host, image, mask):
    values = {"cfg_scale": 20.0, "background": "translate"}
    drifted = run(calm_tiny_host, image, mask, **values)
    kept = run(calm_tiny_host, image, mask, colour="lowpass", **values)
    assert torch.equal(kept.image[..., SIDE // 2 :], drifted.image[..., SIDE // 2 :])
    assert not torch.allclose(kept.image[..., : SIDE // 2], drifted.image[..., : SIDE // 2], atol=1e-2)


def test_odd_latents(calm_tiny_host):
    """520x776 in small: latent sides that the UNet halves upwards, with mask and attention control."""
    image = torch.rand(1, 3, 72, 104, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 1, 72, 104)
    mask[..., 20:60, 30:80] = 1
    for background in ("keep", "translate"):
        result = run(calm_tiny_host, image, mask, background=background, tac_layers=4096, colour="lowpass")
        assert result.image.shape == image.shape and torch.isfinite(result.image).all()


def test_a_nan_from_the_vae_is_told(calm_tiny_host, image, monkeypatch):
    monkeypatch.setattr(calm_tiny_host, "decode_latent", lambda z: torch.full((1, 3, SIDE, SIDE), float("nan")))
    with pytest.raises(HostError, match="the VAE gave NaN"):
        run(calm_tiny_host, image)
