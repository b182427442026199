"""Masks: found in the picture or painted, of the picture's shape or refused in a sentence."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lib_negtrans.pictures.images import ImageError, Picture, picture_from_pil
from lib_negtrans.pictures.masks import border_mask, find_mask, flood, load_mask, mask_file, soft


def disc(height: int = 96, width: int = 80, radius: int = 24) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return (y - height / 2) ** 2 + (x - width / 2) ** 2 < radius**2


def on_ground(ground=(200, 200, 205), garment=(150, 60, 60), inside: np.ndarray | None = None) -> Picture:
    inside = disc() if inside is None else inside
    rng = np.random.default_rng(0)
    pixels = np.where(inside[..., None], garment, ground) + rng.normal(0, 1.5, (*inside.shape, 3))
    return picture_from_pil(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)))


def share_wrong(mask: torch.Tensor, inside: np.ndarray) -> float:
    return float(((mask.numpy() > 0.5) != inside).mean())


def test_a_uniform_border_is_background():
    assert share_wrong(border_mask(on_ground().rgb), disc()) < 0.003


def test_a_garment_that_is_cut_off_at_the_border_stays_garment():
    inside = disc()
    inside[48:, 30:50] = True  # a leg down to the edge
    assert share_wrong(border_mask(on_ground(inside=inside).rgb), inside) < 0.003


def test_what_the_border_does_not_reach_is_garment():
    """A button in the background's colour is not a hole."""
    inside, button = disc(), disc(radius=5)
    picture = on_ground(inside=inside & ~button)
    assert share_wrong(border_mask(picture.rgb), inside) < 0.003


@pytest.mark.parametrize("kind", ["noise", "gradient", "plain"])
def test_no_uniform_border_or_nothing_on_it_gives_none(kind):
    if kind == "noise":
        rgb = torch.rand(3, 96, 80)
    elif kind == "gradient":
        rgb = torch.linspace(0.2, 0.9, 96).view(1, 96, 1).expand(3, 96, 80)
    else:
        rgb = torch.full((3, 96, 80), 0.7)
    assert border_mask(rgb) is None


def test_the_search_goes_from_alpha_to_border_to_none_and_says_so():
    opaque = on_ground()
    alpha = torch.from_numpy(disc(radius=10)).float()
    both = Picture(opaque.rgb, alpha)
    assert torch.equal(find_mask(both, "auto").mask, alpha)
    assert "transparency" in find_mask(both, "auto").how
    assert "border" in find_mask(opaque, "auto").how and find_mask(opaque, "auto").mask is not None
    nothing = Picture(torch.rand(3, 96, 80), torch.ones(96, 80))
    assert find_mask(nothing, "auto").mask is None and "no mask: neither" in find_mask(nothing, "auto").how
    assert find_mask(both, "none").mask is None
    for source, words in (("alpha", "no transparency"), ("border", "no uniform border"), ("file", "mask file")):
        with pytest.raises(ImageError, match=words):
            find_mask(nothing, source)


def slow_flood(open_: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    found, todo = np.zeros_like(open_), [tuple(p) for p in np.argwhere(seeds & open_)]
    while todo:
        y, x = todo.pop()
        if 0 <= y < open_.shape[0] and 0 <= x < open_.shape[1] and open_[y, x] and not found[y, x]:
            found[y, x] = True
            todo += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
    return found


@pytest.mark.parametrize("seed", range(6))
def test_flood_is_the_slow_one(seed):
    rng = np.random.default_rng(seed)
    open_, seeds = rng.random((23, 31)) < 0.62, rng.random((23, 31)) < 0.02
    assert np.array_equal(flood(open_, seeds), slow_flood(open_, seeds))


def test_a_large_picture_takes_no_time():
    began = time.perf_counter()
    inside = disc(1536, 1152, 400)
    border_mask(torch.from_numpy(np.where(inside[None], 0.3, 0.8)).expand(3, -1, -1).float())
    assert time.perf_counter() - began < 5


def paint(path: Path, inside: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((inside * 255).astype(np.uint8)).save(path)
    return path


def test_a_painted_mask_is_scaled_and_one_of_another_shape_refused(tmp_path):
    path = paint(tmp_path / "m.png", disc())
    assert torch.equal(load_mask(path, (80, 96)), torch.from_numpy(disc()).float())
    assert share_wrong(load_mask(path, (160, 192)), disc(192, 160, 48)) < 0.01
    with pytest.raises(ImageError, match=r"is 96x96 but its mask m\.png is 80x96: make both of one shape"):
        load_mask(path, (96, 96))
    with pytest.raises(ImageError, match="empty mask"):
        load_mask(paint(tmp_path / "e.png", np.zeros((96, 80), bool)), (80, 96))
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"mask b\.png, which cannot be read"):
        load_mask(tmp_path / "b.png", (80, 96))


def test_transparency_alone_is_a_painted_mask_too(tmp_path):
    rgba = np.dstack([np.zeros((96, 80, 3), np.uint8), (disc() * 255).astype(np.uint8)])
    Image.fromarray(rgba).save(tmp_path / "m.png")
    assert torch.equal(load_mask(tmp_path / "m.png", (80, 96)), torch.from_numpy(disc()).float())


def test_masks_are_found_by_place_and_name(tmp_path):
    root, masks = tmp_path / "in", tmp_path / "masks"
    picture = root / "sub" / "mh_01.png"
    for name in ("sub/mh_01.png", "sub/mh_02_mask.png", "sub/mask_03.png"):
        paint(masks / name, disc())
    assert mask_file(masks, picture, root) == masks / "sub/mh_01.png"
    assert mask_file(masks, root / "sub/mh_02.jpg", root) == masks / "sub/mh_02_mask.png"
    assert mask_file(masks, root / "sub/mh_03.jpg", root) == masks / "sub/mask_03.png"
    assert mask_file(masks / "sub/mask_03.png", picture, root) == masks / "sub/mask_03.png"
    with pytest.raises(ImageError, match=r"has no mask: .*sub.other\.png is missing"):
        mask_file(masks, root / "sub/other.png", root)
    # the picture itself is no mask of its own
    with pytest.raises(ImageError, match="has no mask"):
        mask_file(masks, masks / "sub/mh_01.png", masks)


def test_the_soft_edge_stays_in_place():
    mask = torch.zeros(1, 1, 256, 256)
    mask[..., 128:] = 1
    edge = soft(mask)
    assert edge[..., :116].max() < 1e-3 and edge[..., 140:].min() > 0.999
    assert abs(float(edge[..., 127].mean() + edge[..., 128].mean()) - 1) < 1e-4
