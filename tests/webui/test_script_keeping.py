"""Colours, masks and backgrounds on a real webui, over its API: in the saved picture, its text, its grid."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from scipy import ndimage

from lib_negtrans.core.colour import rgb_to_lab
from lib_negtrans.embeddings.files import read_embedding
from lib_negtrans.pictures.images import picture_from_pil, to_pil
from lib_negtrans.pictures.masks import find_mask
from lib_negtrans.translation.negatives import Negative, with_negatives
from lib_negtrans.translation.params import translation_preset
from lib_negtrans.translation.pipeline import translate
from tests.webui.client import SIZE, arguments, difference, encode, infotext, pixels, render
from tests.webui.server import REPOSITORY

STRONG = {"cfg_scale": 30.0, "negative_prompt": "cg"}


def on_plain_ground() -> Image.Image:
    """A render with much around the garment, all of one colour."""
    folder = REPOSITORY / "assets" / "renders" / "eval"
    picture, garment = (
        Image.open(folder / name).resize((SIZE, SIZE), Image.LANCZOS)
        for name in ("fl_62_010.jpg", "mask_fl_62_010.png")
    )
    return Image.composite(
        picture.convert("RGB"), Image.new("RGB", (SIZE, SIZE), (150, 150, 152)), garment.convert("L")
    )


def cut_out() -> Image.Image:
    """A render with a transparent background."""
    alpha = Image.new("L", (SIZE, SIZE), 0)
    ImageDraw.Draw(alpha).ellipse((24, 16, 104, 112), fill=255)
    picture = render().convert("RGBA")
    picture.putalpha(alpha)
    return picture


def lab(image) -> torch.Tensor:
    return rgb_to_lab(torch.from_numpy(pixels(image) / 255).permute(2, 0, 1)[None])


def drift(image, other) -> float:
    return float((lab(image) - lab(other)).mean((2, 3)).norm())


def test_every_way_holds_the_colours_and_is_in_the_text(client):
    off = client.translate(arguments(embedding="neg-test", colour="off"), **STRONG)["images"][0]
    source = client.translate(arguments(colour="off"), cfg_scale=1)["images"][0]
    assert drift(off, source) > 1
    for way in ("lowpass", "statistics", "latent"):
        answer = client.translate(arguments(embedding="neg-test", colour=way, colour_strength=0.9), **STRONG)
        picture = answer["images"][0]
        assert difference(picture, off) > 1 and f"NegTrans colour: {way}, NegTrans colour strength: 0.9" in infotext(
            answer
        )
        # what a coarse latent decodes to hangs on the fine one: so strongly guided, this model shows other colours
        assert way == "latent" or drift(picture, source) < 0.7 * drift(off, source), way


CASES = {
    "lowpass": ({"colour": "lowpass"}, render),
    "statistics": ({"colour": "statistics", "colour_strength": 0.5}, render),
    "latent": ({"colour": "latent"}, render),
    "alpha": ({"colour": "lowpass", "mask": "alpha", "background": "translate"}, cut_out),
    "border": ({"colour": "off", "mask": "auto", "background": "translate"}, on_plain_ground),
}


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_the_command_line_to_two_grey_levels(client, standalone, webui, case):
    changes, make = CASES[case]
    params = translation_preset("default", steps=20, cfg_scale=7.5, strength=0.3, negative_prompt="cg", **changes)
    embedding = read_embedding(webui.data / "embeddings" / "neg-test.pt")
    params_with, vectors = with_negatives(params, [Negative("neg-test", embedding.vectors, 1.3)])
    image = make()
    client.options(img2img_background_color="#808080")  # what the command line puts under transparency
    picture = picture_from_pil(image)
    found = find_mask(picture, params.mask).mask
    rgb = picture_from_pil(Image.alpha_composite(Image.new("RGBA", image.size, "#808080"), image.convert("RGBA"))).rgb
    mask = None if found is None else found[None, None]
    ours = to_pil(translate(standalone, rgb[None], params_with, vectors, mask=mask).image[0])
    answer = client.translate(
        arguments(embedding="neg-test", embedding_weight=1.3, **changes), init_images=[encode(image)],
        negative_prompt="cg", denoising_strength=0.3,
    )  # fmt: skip
    assert difference(answer["images"][0], ours) <= 2


def test_a_kept_background_is_the_renders(client):
    image = on_plain_ground()
    answer = client.translate(
        arguments(embedding="neg-test", mask="border", background="keep"), init_images=[encode(image)], **STRONG
    )
    change = abs(pixels(answer["images"][0]) - pixels(image)).max(axis=2)
    ground = np.asarray(find_mask(picture_from_pil(image), "border").mask) == 0
    far = ndimage.binary_erosion(ground, iterations=14)  # beyond the host's soft edge
    assert far.mean() > 0.1 and change[far].max() <= 1 and change[~ground].mean() > 3
    text = infotext(answer)
    assert "NegTrans mask: border, NegTrans background: keep" in text


def test_nothing_of_a_mask_stays_for_the_next_picture(client):
    plain = client.translate(arguments(embedding="neg-test"))["images"]
    keep = arguments(embedding="neg-test", mask="border", background="keep")
    client.translate(keep, init_images=[encode(on_plain_ground())])
    assert client.translate(arguments(embedding="neg-test"))["images"] == plain


def test_the_hosts_own_mask_bounds_the_colours_too(client):
    mask = Image.new("L", (SIZE, SIZE), 0)
    ImageDraw.Draw(mask).rectangle((48, 48, 96, 96), fill=255)
    request = {"mask": encode(mask), "mask_blur": 0, "inpainting_fill": 1, "inpaint_full_res": False}
    answer = client.translate(arguments(embedding="neg-test", mask="file"), **request)
    change = abs(pixels(answer["images"][0]) - pixels(render())).max(axis=2)
    assert change[:40].max() <= 1 and change[:, :40].max() <= 1 and change[48:97, 48:97].max() > 1
    only_masked = client.translate(arguments(embedding="neg-test"), **{**request, "inpaint_full_res": True})
    change = abs(pixels(only_masked["images"][0]) - pixels(render())).max(axis=2)
    assert change[:40].max() <= 1 and change[50:94, 50:94].max() > 1


def test_batches_keep_each_pictures_colours(client):
    answer = client.translate(arguments(embedding="neg-test"), batch_size=2, n_iter=2)
    alone = client.translate(arguments(embedding="neg-test"))["images"][0]
    assert all(difference(picture, alone) <= 1 for picture in answer["images"][-4:])


def test_the_saved_file_has_it_with_its_text(client, webui):
    folder, usual = webui.data / "saved", webui.get("/sdapi/v1/options").json()["outdir_img2img_samples"]
    client.options(outdir_img2img_samples=str(folder))
    try:
        answer = client.translate(arguments(embedding="neg-test", colour="statistics"), save_images=True)
    finally:
        client.options(outdir_img2img_samples=usual)  # the page's tests look for their pictures there
    file = max(folder.rglob("*.png"), key=lambda path: path.stat().st_mtime)
    saved = Image.open(file)
    assert "NegTrans colour: statistics" in saved.text["parameters"]
    assert np.array_equal(pixels(saved), pixels(answer["images"][0]))
    info = webui.post("/sdapi/v1/png-info", {"image": encode_file(file)}).json()
    assert info["parameters"]["NegTrans colour"] == "statistics"


def encode_file(path) -> str:
    import base64

    return base64.b64encode(io.BytesIO(path.read_bytes()).getvalue()).decode()


def test_axes_of_the_grid(client):
    axes = {"X": ("[NegTrans] Colour", "off,lowpass"), "Y": ("[NegTrans] Mask", "none,auto")}
    answer = client.plot(axes, negative_prompt="cg")
    texts = json.loads(answer["info"])["infotexts"]
    assert len(answer["images"]) == 5 and "NegTrans colour: off" in texts[1] and "NegTrans colour: lowpass" in texts[2]
    alone = client.translate(arguments(colour="lowpass"), negative_prompt="cg")
    assert difference(answer["images"][2], alone["images"][0]) == 0


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"mask": "alpha"}, "The picture has no transparency"),
        ({"mask": "border"}, "The picture has no uniform border colour"),
        ({"mask": "file"}, "none was painted"),
        ({"colour": "paint"}, "Colour must be one of"),
        ({"colour_strength": 2}, "Colour strength must lie between"),
        ({"background": "blue"}, "Background must be one of"),
    ],
)
def test_refused_in_one_sentence(client, values, words):
    answer = client.ask(arguments(**values))
    assert answer.status_code == 422 and words in answer.json()["detail"]
