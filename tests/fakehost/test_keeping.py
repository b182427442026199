"""Masks of ours on the host's job, and what becomes of its latents."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from lib_negtrans.translation.params import TranslationParams

SIDE = 64


def on_ground(width=SIDE, height=SIDE) -> Image.Image:
    pixels = np.full((height, width, 3), 200, np.uint8)
    pixels[height // 4 : height // 2, width // 4 : width // 2] = (120, 20, 20)
    return Image.fromarray(pixels)


def noise(seed=0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))


@pytest.fixture
def keeping(fake_host, monkeypatch):
    from lib_negtrans.apps.webui import preserved as module

    monkeypatch.setattr(module.images, "resize_image", lambda mode, image, w, h: image.resize((w, h)), raising=False)
    monkeypatch.setattr(module.images, "flatten", lambda image, colour: image.convert("RGB"), raising=False)
    monkeypatch.setattr(module.shared.opts, "img2img_background_color", "#ffffff", raising=False)
    monkeypatch.setattr(module.shared.opts, "sd_vae_decode_method", "Full", raising=False)
    return module


class Job(SimpleNamespace):
    def __init__(self, *pictures, **values):
        usual = {"width": SIDE, "height": SIDE, "resize_mode": 0, "image_mask": None, "nmask": None}
        values = usual | {"inpaint_full_res": True} | values
        super().__init__(init_images=list(pictures), comments=[], sd_model=None, **values)

    def comment(self, text):
        self.comments.append(text)


def keeper(module, p, **values):
    made = module.Keeper(p, TranslationParams.from_dict(values))
    made.find()
    return made


def test_a_kept_background_is_the_hosts_inpainting(keeping):
    p = Job(on_ground())
    made = keeper(keeping, p, mask="border", background="keep")
    painted = np.asarray(p.image_mask)
    assert (painted[16:32, 16:32] == 255).all() and painted.sum() == 255 * 16 * 16
    assert (p.inpainting_fill, p.inpaint_full_res, p.inpainting_mask_invert) == (1, False, 0)
    assert made.region([0], (8, 8)) is None


def test_a_flat_background_is_held_unless_something_is_painted(keeping):
    free = keeper(keeping, Job(on_ground(), noise())).free((8, 8))
    assert free.shape == (2, 1, 8, 8) and bool((free[0, 0, 2:4, 2:4] == 1).all()) and bool((free[1] == 1).all())
    assert bool((free[0, 0, 6:] == 0).all())
    assert keeper(keeping, Job(noise())).free((8, 8)) is None
    assert keeper(keeping, Job(on_ground(78, 69), width=78, height=69), mask="border").free((8, 9)).shape[-2:] == (8, 9)
    assert keeper(keeping, Job(on_ground()), flat_background="translate").free((8, 8)) is None
    assert keeper(keeping, Job(on_ground(), image_mask=Image.new("L", (SIDE, SIDE)))).free((8, 8)) is None


def test_a_background_translated_apart_frees_attention_there(keeping):
    p = Job(on_ground(), width=2 * SIDE)
    made = keeper(keeping, p, mask="auto")
    assert p.image_mask is None
    region = made.region([0], (8, 16))
    assert region.shape == (1, 1, 8, 16) and region[0, 0, 2:4, 4:8].min() > 0.9
    assert region.sum() == pytest.approx(8, abs=2.5)


def test_each_source_has_its_own_region(keeping):
    p = Job(on_ground(), noise(), on_ground())
    region = keeper(keeping, p, mask="auto").region([0, 1], (8, 8))
    assert region.shape == (2, 1, 8, 8) and region[1].min() == 1 and region[0].min() == 0
    with pytest.raises(keeping.TranslationRefused, match="one by one"):
        keeper(keeping, Job(on_ground(), noise()), mask="auto", background="keep")


def test_the_painted_mask_goes_before_ours_and_it_is_said(keeping):
    painted = Image.new("L", (SIDE, SIDE), 255)
    p = Job(on_ground(), image_mask=painted)
    keeper(keeping, p, mask="border")
    assert p.image_mask is painted and "painted mask was used" in p.comments[0]
    p = Job(on_ground(), image_mask=painted)
    keeper(keeping, p, mask="file")
    assert not p.comments


def test_what_cannot_be_found_is_said_or_refused(keeping):
    p = Job(noise())
    assert keeper(keeping, p, mask="auto").region([0], (8, 8)) is None
    assert "no mask: neither" in p.comments[0]
    for source, words in (("alpha", "no transparency"), ("border", "no uniform border"), ("file", "none was painted")):
        with pytest.raises(keeping.TranslationRefused, match=words):
            keeper(keeping, Job(noise()), mask=source)


@pytest.fixture
def vae(keeping, monkeypatch):
    """The host's decoding, of latents that are colours; counts pictures."""
    decoded = []

    def decode(model, batch, target_device=None, check_for_nans=False):
        decoded.extend(batch)
        return list(batch[:, :3].repeat_interleave(8, 2).repeat_interleave(8, 3) * 2 - 1)

    monkeypatch.setattr(keeping.processing, "decode_latent_batch", decode, raising=False)
    monkeypatch.setattr(keeping.processing, "DecodedSamples", type("DecodedSamples", (list,), {}), raising=False)
    return decoded


def latents(value, count=1):
    return torch.full((count, 4, 8, 8), value)


def test_colours_come_back_as_decoded_pictures(keeping, vae):
    made = keeper(keeping, Job(noise()), colour="lowpass", details="model")
    result = made.finish(latents(0.3, 2), [0, 0], latents(0.6))
    assert type(result).__name__ == "DecodedSamples" and len(result) == 2
    assert torch.allclose(result[0], torch.tensor(0.2), atol=1e-4)  # 0.6 in the host's -1 .. 1
    assert len(vae) == 3  # equal sources once


def test_inside_the_part_that_the_host_repaints_only(keeping, vae):
    nmask = torch.zeros(4, 8, 8)
    nmask[..., :4] = 1
    made = keeper(keeping, Job(noise(), nmask=nmask), colour="lowpass", details="model")
    result = made.finish(latents(0.3), [0], latents(0.6))[0]
    assert torch.allclose(result[..., :24], torch.tensor(0.2), atol=1e-3)
    assert torch.allclose(result[..., 40:], torch.tensor(-0.4), atol=1e-5)


def test_off_leaves_the_hosts_own_way(keeping, vae):
    samples = latents(0.3)
    for values in ({"colour": "off"}, {"colour": "lowpass", "colour_strength": 0.0}):
        assert keeper(keeping, Job(noise()), details="model", **values).finish(samples, [0], latents(0.6)) is samples
    assert not vae


def test_flat_ground_is_the_sources_also_without_its_colours(keeping, vae):
    made = keeper(keeping, Job(on_ground()), colour="off", details="model")
    result = made.finish(latents(0.3), [0], latents(0.6))[0]
    assert result.shape == (3, SIDE, SIDE)
    assert torch.allclose(result[..., 40:, 40:], torch.tensor(0.2), atol=1e-3)
    assert torch.allclose(result[..., 20:28, 20:28], torch.tensor(-0.4), atol=1e-3)


def test_the_change_is_added_to_the_renders_own_pixels_where_the_host_encodes_all_of_them(keeping, vae):
    render = torch.from_numpy(np.asarray(noise()).copy()).permute(2, 0, 1) / 255
    wanted = (render - 0.3).clamp(0, 1) * 2 - 1
    painted, values = Image.new("L", (SIDE, SIDE), 255), {"colour": "off", "details": "render"}
    whole = {"image_mask": painted, "inpaint_full_res": False, "inpainting_fill": 1}
    for given in ({}, whole):
        result = keeper(keeping, Job(noise(), **given), **values).finish(latents(0.3, 2), [0, 0], latents(0.6))
        assert all(torch.allclose(one, wanted, atol=1e-5) for one in result)
    samples = latents(0.3)
    for given in ({"resize_mode": 3}, whole | {"inpaint_full_res": True}, whole | {"inpainting_fill": 0}):
        assert keeper(keeping, Job(noise(), **given), **values).finish(samples, [0], latents(0.6)) is samples


def test_want_of_memory_is_a_refusal(keeping):
    def scarce():
        raise RuntimeError("CUDA error: out of memory")

    with pytest.raises(keeping.TranslationRefused, match="needs more memory"):
        keeping.out_of_memory_refused(scarce)
    with pytest.raises(RuntimeError, match="another"):
        keeping.out_of_memory_refused(lambda: (_ for _ in ()).throw(RuntimeError("another")))
