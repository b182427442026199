"""Colours of the source: the conversion against scikit-image, and what each way takes back and leaves alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lib_negtrans.core.colour import (
    PIXEL_WAYS,
    blur,
    lab_to_rgb,
    preserve_latent,
    preserve_pixels,
    rgb_to_lab,
    to_latent_size,
)


def picture(seed: int = 0, size: int = 96) -> torch.Tensor:
    """Coarse colours with fine texture on them."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.nn.functional.interpolate(torch.rand(1, 3, 4, 4, generator=generator), (size, size), mode="bicubic")
    return (0.2 + 0.6 * coarse + 0.05 * torch.randn(1, 1, size, size, generator=generator)).clamp(0, 1)


def tinted(image: torch.Tensor) -> torch.Tensor:
    """What guidance does to colours, overdone: a cast and less contrast."""
    return (image * torch.tensor([0.85, 0.95, 1.0]).view(1, 3, 1, 1) * 0.9 + 0.05).clamp(0, 1)


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((rgb_to_lab(a) - rgb_to_lab(b)).norm(dim=1).mean())


def test_lab_is_that_of_scikit_image_and_back():
    color = pytest.importorskip("skimage.color")
    rgb = torch.rand(2, 3, 9, 7, generator=torch.Generator().manual_seed(1))
    rgb[0, :, 0] = 0.0
    rgb[0, :, 1] = 0.002  # below the knee of both curves
    rgb[1, :, 0] = 1.0
    lab = rgb_to_lab(rgb)
    expected = color.rgb2lab(rgb.permute(0, 2, 3, 1).numpy().astype(np.float64))
    assert np.abs(lab.permute(0, 2, 3, 1).numpy() - expected).max() < 2e-3
    assert (lab_to_rgb(lab) - rgb).abs().max() < 1e-4


@pytest.mark.parametrize("way", PIXEL_WAYS)
def test_the_cast_goes_and_equal_pictures_stay(way):
    source = picture()
    image = tinted(source)
    assert distance(preserve_pixels(image, source, way), source) < 0.35 * distance(image, source)
    half = distance(preserve_pixels(image, source, way, 0.5), source)
    assert 0.3 * distance(image, source) < half < 0.8 * distance(image, source)
    assert torch.allclose(preserve_pixels(source, source, way), source, atol=2e-6)
    assert torch.equal(preserve_pixels(image, source, way, 0.0), image)


def test_lowpass_keeps_the_translations_texture():
    image, source = picture(0), picture(0) * 0.8
    other = torch.randn(1, 1, 96, 96, generator=torch.Generator().manual_seed(9)) * 0.05
    image = (image + other).clamp(0, 1)
    result = preserve_pixels(image, source, "lowpass")

    def texture(x):
        light = rgb_to_lab(x)[:, :1]
        return (light - blur(light, 1.5))[..., 8:-8, 8:-8]

    ours, result_texture = texture(image).flatten(), texture(result).flatten()
    assert torch.corrcoef(torch.stack([ours, result_texture]))[0, 1] > 0.98


@pytest.mark.parametrize("way", PIXEL_WAYS)
def test_a_mask_keeps_colours_apart(way):
    """Outside nothing changes; inside nothing comes from the background, however bright it is."""
    source = picture()
    mask = torch.zeros(1, 1, 96, 96)
    mask[..., 24:72, 24:72] = 1
    image = tinted(source)
    image[..., :, :16] = 0.0
    result = preserve_pixels(image, source, way, mask=mask)
    assert torch.equal(result[..., :24], image[..., :24])
    loud = source.clone()
    loud[(1 - mask).bool().expand_as(loud)] = 1.0
    assert torch.allclose(preserve_pixels(image, loud, way, mask=mask), result, atol=1e-5)
    inside = slice(24, 72)
    before = distance(image[..., inside, inside], source[..., inside, inside])
    assert distance(result[..., inside, inside], source[..., inside, inside]) < 0.4 * before


def test_a_batch_is_what_single_pictures_are():
    source = torch.cat([picture(0), picture(1)])
    image = tinted(source)
    for way in PIXEL_WAYS:
        both = preserve_pixels(image, source, way)
        assert torch.allclose(both[1:], preserve_pixels(image[1:], source[1:], way), atol=1e-6)


def test_latent_ways():
    generator = torch.Generator().manual_seed(0)
    source = torch.randn(1, 4, 24, 24, generator=generator)
    latent = source + 0.5 + 0.3 * torch.randn(1, 4, 24, 24, generator=generator)
    result = preserve_latent(latent, source)
    drift = (result - source).mean((2, 3)).abs().max()
    assert drift < 0.02 and (latent - source).mean((2, 3)).abs().min() > 0.4
    fine = (latent - blur(latent, 1.2), result - blur(result, 1.2))
    assert (fine[0] - fine[1]).norm() < 0.35 * fine[0].norm()
    mask = torch.zeros(1, 1, 24, 24)
    mask[..., 12:] = 1
    half = preserve_latent(latent, source, mask=mask)
    assert torch.equal(half[..., :12], latent[..., :12]) and not torch.equal(half[..., 12:], latent[..., 12:])
    assert torch.equal(preserve_latent(latent, source, 0.0), latent)
    assert torch.equal(preserve_latent(latent, source, mask=torch.zeros(1, 1, 24, 24)), latent)


def test_the_latents_detail_is_no_stronger_than_the_sources():
    """A decoder makes other colours of stronger detail, whatever the coarse part is."""
    generator = torch.Generator().manual_seed(0)
    source, other = torch.randn(2, 2, 4, 24, 24, generator=generator)
    result = preserve_latent(source + 2 * other, source)
    assert torch.allclose((result - blur(result, 1.2)).std((2, 3)), (source - blur(source, 1.2)).std((2, 3)), rtol=0.1)
    weak = 0.5 * source + 1
    assert torch.allclose(preserve_latent(weak, source), weak + blur(source - weak, 1.2), atol=1e-5)
    garment = torch.zeros(1, 1, 24, 24)
    garment[..., :12] = 1
    loud = torch.where(garment.bool(), source, source + 9 * other)  # what the background does is not the garment's
    assert torch.allclose(preserve_latent(loud, source, mask=garment)[..., :8], source[..., :8], atol=1e-4)


def test_blur_is_a_mean_and_respects_weights():
    values = torch.full((1, 2, 20, 30), 3.0)
    assert torch.allclose(blur(values, 4.0), values, atol=1e-5)
    values[..., 15:] = 100.0
    weight = torch.zeros(1, 1, 20, 30)
    weight[..., :15] = 1
    assert torch.allclose(blur(values, 4.0, weight)[..., :15], torch.tensor(3.0), atol=1e-4)


def test_wrong_calls_are_refused():
    image = picture()
    with pytest.raises(ValueError, match="lowpass"):
        preserve_pixels(image, image, "magic")
    with pytest.raises(ValueError, match="one shape"):
        preserve_pixels(image, image[..., 1:], "lowpass")


def test_a_mask_at_the_latents_size():
    mask = torch.zeros(1, 1, 64, 48)
    mask[..., :32, :] = 1
    small = to_latent_size(mask, (8, 6))
    assert small.shape == (1, 1, 8, 6) and small[..., :4, :].min() == 1 and small[..., 4:, :].max() == 0
