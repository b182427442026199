"""Flat backgrounds: what is found in a picture, and that no preset of ours breaks them up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from lib_negtrans.models.standalone import default_model_path, load_model
from lib_negtrans.pictures.flat import free_cells, free_of_flat_ground
from lib_negtrans.pictures.images import load_picture, mask_beside, picture_from_pil
from lib_negtrans.pictures.masks import find_mask
from lib_negtrans.translation.params import TRANSLATION_PRESETS, translation_preset
from lib_negtrans.translation.pipeline import translate

RENDERS = Path(__file__).resolve().parents[2] / "assets" / "renders" / "eval"
PUBLISHED = "fashionr2r"  # to which nothing is added
SIDE = 192


def on_ground(ground: torch.Tensor, garment: float | torch.Tensor) -> tuple[torch.Tensor, np.ndarray]:
    """A disc on a ground of (64, 64) grey values of 255, and where it is."""
    y, x = np.mgrid[:64, :64]
    inside = (y - 32) ** 2 + (x - 32) ** 2 < 20**2
    values = torch.where(torch.from_numpy(inside), torch.as_tensor(garment).expand(64, 64), ground)
    return (values / 255).clamp(0, 1).expand(3, 64, 64), inside


def noise(deviation: float) -> torch.Tensor:
    return 150 + deviation * torch.randn(64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("ground", "held"),
    [
        (noise(0), True),
        (noise(0.5), True),
        (torch.linspace(140, 160, 64).expand(64, 64), True),
        (noise(4), False),
        (torch.randint(0, 256, (64, 64), generator=torch.Generator().manual_seed(1)).float(), False),
    ],
    ids=["plain", "faint noise", "gradient", "grain", "noise"],
)
def test_ground_is_held_where_it_is_flat_and_a_flat_garment_is_not(ground, held):
    rgb, inside = on_ground(ground, 60.0)
    pixels = free_of_flat_ground(rgb)
    free = free_cells(pixels)[0, 0]
    covered = torch.from_numpy(inside).float()[None, None]
    touched = torch.nn.functional.max_pool2d(covered, 10, 8, 1)[0, 0].bool()
    assert bool((free[touched] == 1).all())
    assert bool((free[~touched] == 0).all()) == held and (held or bool((free == 1).all()))
    if held:  # to the very edge, and no further
        assert (((pixels[0, 0] > 0).numpy()) != inside).mean() < 0.001


def test_a_garment_at_the_border_and_a_flat_picture_are_no_background():
    rgb, _ = on_ground(noise(0), 60.0)
    cut = rgb.clone()
    cut[:, 32:, 16:48] = 60 / 255
    free = free_cells(free_of_flat_ground(cut))[0, 0]
    assert bool((free[4:, 2:6] == 1).all()) and bool((free[:, 0] == 0).all())
    assert bool((free_of_flat_ground(torch.full((3, 64, 64), 0.6)) == 1).all())


def test_every_preset_of_ours_holds_them():
    assert [n for n in TRANSLATION_PRESETS if translation_preset(n).flat_background != "hold"] == [PUBLISHED]


@pytest.fixture(scope="module")
def host():
    return load_model(default_model_path(), device="cpu")


def plain(number: int):
    """A bundled garment on one grey with an eighth-bit's noise, and where the ground is beyond the garment's edge."""
    file = sorted(RENDERS.glob("*.jpg"))[number]
    size = (SIDE, SIDE)
    garment = load_picture(file).rgb.permute(1, 2, 0).mul(255).byte().numpy()
    mask = Image.open(mask_beside(file)).convert("L").resize(size, Image.LANCZOS)
    ground = np.full((SIDE, SIDE, 3), 150) + np.random.default_rng(0).normal(0, 0.5, (SIDE, SIDE, 1))
    made = Image.composite(
        Image.fromarray(garment).resize(size, Image.LANCZOS), Image.fromarray(ground.round().astype(np.uint8)), mask
    )
    return picture_from_pil(made), ndimage.binary_erosion(np.asarray(mask) == 0, iterations=6, border_value=1)


def deviation(rgb: torch.Tensor, where: np.ndarray) -> float:
    grey = 255 * (rgb * rgb.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0).numpy()
    return float(grey[where].std())


PRESETS = ["natural", *sorted({*TRANSLATION_PRESETS} - {PUBLISHED, "natural"})]


@pytest.mark.parametrize("mask", ["border", "none"])
@pytest.mark.parametrize("preset", PRESETS)
def test_a_flat_background_stays_below_a_deviation_of_two(host, preset, mask):
    # each on a garment of its own; all of them are too many for every day
    picture, ground = plain(2 * PRESETS.index(preset) + (mask == "none"))
    assert deviation(picture.rgb, ground) < 1
    values = {"negative_prompt": "(a 3d render:1.4)", "mask": mask}
    found = find_mask(picture, mask).mask

    def translated(**changes):
        params = translation_preset(preset, **values, **changes)
        return translate(host, picture.rgb[None], params, mask=None if found is None else found[None, None]).image[0]

    assert deviation(translated(), ground) < 2
    if (preset, mask) == ("natural", "border"):  # what it was
        assert deviation(translated(flat_background="translate", cfg_scale=7.5), ground) > 2
