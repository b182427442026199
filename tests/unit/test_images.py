"""Every kind of picture that folders really hold comes in right, and goes out with its text and alpha."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from lib_negtrans.options import ParamError
from lib_negtrans.pictures.images import (
    ImageError,
    fit_within,
    flatten_alpha,
    load_picture,
    pad_to_multiple,
    parse_size,
    save_png,
    to_pil,
)
from lib_negtrans.pictures.tree import image_files, look_through, pictures_in


def gradient(width: int = 80, height: int = 96) -> np.ndarray:
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return np.stack([x, y, 255 - x], axis=-1).astype(np.uint8)


def test_rgb_png_is_exact(tmp_path):
    Image.fromarray(gradient()).save(tmp_path / "a.png")
    picture = load_picture(tmp_path / "a.png")
    assert picture.size == (80, 96) and picture.alpha is None
    assert torch.equal((picture.rgb * 255).round().to(torch.uint8), torch.from_numpy(gradient()).permute(2, 0, 1))


def test_16_bit_grey_keeps_its_range(tmp_path):
    values = np.linspace(0, 65535, 80 * 96).reshape(96, 80).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    rgb = load_picture(tmp_path / "a.png").rgb
    assert rgb.shape == (3, 96, 80)
    assert torch.allclose(rgb[0], torch.from_numpy(values.astype(np.float32) / 65535), atol=1e-6)


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "LA", "RGBA"])
def test_modes_keep_the_grey_ramp(tmp_path, mode):
    ramp = Image.fromarray(np.tile(np.linspace(0, 255, 80).astype(np.uint8), (96, 1)))
    name = "a.jpg" if mode == "CMYK" else "a.png"
    ramp.convert(mode).save(tmp_path / name)
    rgb = load_picture(tmp_path / name).rgb
    if mode != "1":  # dithered
        assert (rgb.mean(0)[48] - torch.linspace(0, 1, 80)).abs().max() < 0.03


def test_palette_transparency_becomes_alpha(tmp_path):
    image = Image.fromarray(gradient()).quantize(16)
    image.save(tmp_path / "a.png", transparency=0)
    assert load_picture(tmp_path / "a.png").alpha is not None


def test_alpha_is_kept_and_flattened_over_grey(tmp_path):
    rgba = np.dstack([gradient(), np.zeros((96, 80), np.uint8)])
    rgba[:48, :, 3] = 255
    Image.fromarray(rgba).save(tmp_path / "a.png")
    picture = load_picture(tmp_path / "a.png")
    assert picture.alpha[:48].min() == 1 and picture.alpha[48:].max() == 0
    flat = flatten_alpha(picture)
    assert torch.allclose(flat[:, 48:], torch.tensor(0.5)) and torch.equal(flat[:, :48], picture.rgb[:, :48])
    save_png(tmp_path / "out" / "b.png", to_pil(flat, picture.alpha))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "b.png"))[..., 3], rgba[..., 3])


def test_exif_orientation_is_applied(tmp_path):
    image = Image.fromarray(gradient(80, 96))
    exif = image.getexif()
    exif[0x0112] = 6  # turned by a quarter
    image.save(tmp_path / "a.jpg", exif=exif)
    assert load_picture(tmp_path / "a.jpg").size == (96, 80)


def test_icc_profile_is_converted_to_srgb(tmp_path):
    image = Image.fromarray(gradient())
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    image.save(tmp_path / "a.png", icc_profile=lab.tobytes())
    plain = Image.fromarray(gradient())
    plain.save(tmp_path / "b.png")
    assert (load_picture(tmp_path / "a.png").rgb - load_picture(tmp_path / "b.png").rgb).abs().max() <= 2 / 255
    image.save(tmp_path / "c.png", icc_profile=b"not a profile")
    assert load_picture(tmp_path / "c.png").size == (80, 96)


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "cannot be read"), (b"not a picture at all", "cannot be read"), (None, "no such file")],
)
def test_unreadable_files_are_named_in_a_sentence(tmp_path, content, says):
    path = tmp_path / "a.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageError, match=says):
        load_picture(path)


def test_truncated_jpeg_and_tiny_picture_are_refused(tmp_path):
    Image.fromarray(gradient(200, 200)).save(tmp_path / "a.jpg")
    whole = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match="cannot be read"):
        load_picture(tmp_path / "a.jpg")
    Image.new("RGB", (1, 1)).save(tmp_path / "b.png")
    with pytest.raises(ImageError, match="1x1 pixels"):
        load_picture(tmp_path / "b.png")


def test_padding_repeats_the_border_and_fit_keeps_the_aspect():
    image = torch.rand(1, 3, 70, 65)
    padded = pad_to_multiple(image)
    assert padded.shape == (1, 3, 72, 72)
    assert torch.equal(padded[..., :70, :65], image) and torch.equal(padded[..., 71, :65], image[..., 69, :])
    assert fit_within(torch.rand(3, 200, 100), (100, 100)).shape == (3, 100, 50)


@pytest.mark.parametrize("text", ["512", "x512", "512x", "32x32", "axb", "-512x512"])
def test_wrong_sizes(text):
    with pytest.raises(ParamError, match="size must be"):
        parse_size(text)


def test_walk_leaves_out_hidden_files_the_output_and_other_kinds(tmp_path):
    for name in ("a.png", "sub dir/ö 服.JPG", ".hidden.png", "note.txt", "out/x.png", ".git/y.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert pictures_in(tmp_path, exclude=tmp_path / "out") == ["a.png", "sub dir/ö 服.JPG"]


def test_linked_folders_are_walked_once_and_nothing_inside_the_output(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/b.png").touch()
    (tmp_path / "in/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/loop").symlink_to(tmp_path / "in")
    assert image_files(tmp_path / "in") == [tmp_path / "in/linked/b.png"]
    assert look_through(tmp_path / "elsewhere", exclude=tmp_path).pictures == []


def test_png_text_survives_in_any_language(tmp_path):
    save_png(tmp_path / "a.png", Image.new("RGB", (8, 8)), {"parameters": "写真, a photo\nSteps: 1"})
    assert Image.open(tmp_path / "a.png").text["parameters"] == "写真, a photo\nSteps: 1"


def test_masks_beside_their_pictures_are_no_pictures(tmp_path):
    """A render folder with a mask beside each render: nobody wants those trained on or translated."""
    for name in ("mh_1.png", "mask_1.png", "shirt.jpg", "shirt_mask.png", "mask_ball.png", "cat_mask.png", "2.png"):
        Image.new("RGB", (64, 64)).save(tmp_path / name)
    (tmp_path / "mask_2.png").write_bytes((tmp_path / "mask_1.png").read_bytes())
    names = [path.name for path in image_files(tmp_path)]
    # mask_ball.png and cat_mask.png are masks of nothing here
    assert names == ["2.png", "cat_mask.png", "mask_ball.png", "mh_1.png", "shirt.jpg"]
