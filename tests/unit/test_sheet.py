"""The contact sheet's geometry: every picture where it belongs, labels beside them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFont

from lib_negtrans.pictures import sheet
from lib_negtrans.pictures.sheet import PAPER, contact_sheet, fit, wrap

RED, GREEN, BLUE = (200, 0, 0), (0, 200, 0), (0, 0, 200)


def block(colour, size=(32, 32)) -> Image.Image:
    return Image.new("RGB", size, colour)


def boxes(image: Image.Image, colour) -> tuple[int, int, int, int] | None:
    found = np.argwhere((np.asarray(image) == colour).all(-1))
    if not len(found):
        return None
    (top, left), (bottom, right) = found.min(0), found.max(0) + 1
    return int(left), int(top), int(right), int(bottom)


def test_bare_grid():
    result = contact_sheet([[block(RED), block(GREEN)], [block(BLUE)]], cell=64, gap=8)
    assert result.size == (2 * 64 + 3 * 8, 2 * 64 + 3 * 8)
    assert boxes(result, RED) == (8, 8, 72, 72)
    assert boxes(result, GREEN) == (80, 8, 144, 72)
    assert boxes(result, BLUE) == (8, 80, 72, 144)


def test_labels_take_room_and_cover_no_picture():
    plain = contact_sheet([[block(RED), None], [block(BLUE), block(GREEN)]], cell=64)
    labelled = contact_sheet(
        [[block(RED), None], [block(BLUE), block(GREEN)]],
        ["render", "translated with attention control"], ["first", "second, a longer label"],
        title="Before and after", cell=64,
    )  # fmt: skip
    assert labelled.width > plain.width and labelled.height > plain.height
    for colour in (RED, GREEN, BLUE):
        left, top, right, bottom = boxes(labelled, colour)
        assert (right - left, bottom - top) == (64, 64)
        assert (np.asarray(labelled)[top:bottom, left:right] == colour).all(), "text runs over a picture"
    left, top, *_ = boxes(labelled, RED)
    pixels = np.asarray(labelled)
    assert (pixels[:top] != PAPER).any(), "no titles"
    assert (pixels[top:, : left - 8] != PAPER).any(), "no row labels"
    assert boxes(labelled, GREEN)[0] > boxes(labelled, BLUE)[2] and boxes(labelled, BLUE)[1] > boxes(labelled, RED)[3]


def test_small_pictures_show_their_own_pixels_and_aspect_stays():
    checker = Image.fromarray((np.indices((16, 16)).sum(0) % 2 * 255).astype(np.uint8))
    grown = np.asarray(fit(checker, 64))
    assert set(np.unique(grown)) == {0, 255} and grown.shape == (64, 64, 3)
    assert len(np.unique(np.asarray(fit(checker, 64, "lanczos")))) > 2
    assert fit(block(RED, (100, 40)), 50).size == (50, 20)
    assert fit(block(RED, (10, 1000)), 50).size == (1, 50)


def test_tall_pictures_set_the_height_of_their_row():
    result = contact_sheet([[block(RED, (48, 96)), block(BLUE, (96, 48))]], cell=96, gap=4)
    assert boxes(result, RED) == (28, 4, 76, 100)
    assert boxes(result, BLUE) == (104, 4, 200, 52)
    wide = contact_sheet([[block(BLUE, (96, 48))]], cell=96, gap=4)
    assert wide.height == 48 + 8


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "LA", "CMYK", "I;16"])
def test_every_mode_is_shown(mode):
    assert contact_sheet([[Image.new(mode, (20, 20))]], cell=40).mode == "RGB"


def test_transparency_is_paper():
    clear = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
    assert np.asarray(fit(clear, 20)).min() == 255


def test_wrapping_keeps_every_letter_within_the_width():
    font = ImageFont.load_default()
    text = "render_with_a_very_long_file_name_indeed.png and more words"
    lines = wrap(text, font, 60)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert all(font.getlength(line) <= 60 for line in lines)
    assert wrap("", font, 60) == [""] and wrap("a\nb", font, 60) == ["a", "b"]


def ink(image):
    """How many pixels are dark: those of letters, and none of a red block."""
    return int((np.asarray(image).max(axis=2) < 100).sum())


def test_other_scripts_and_old_pillow_do_not_break_labels(monkeypatch):
    texts = {"columns": ["写真 render"], "row_labels": ["レンダー"], "title": "шитьё"}
    assert all(ink(contact_sheet([[block(RED)]], **{name: text})) > 20 for name, text in texts.items())
    assert ink(contact_sheet([[block(RED)]])) == 0

    def old(size=None):
        if size is not None:
            raise TypeError("load_default() takes 0 positional arguments")
        return ImageFont.load_default_imagefont()

    if hasattr(ImageFont, "load_default_imagefont"):
        monkeypatch.setattr(sheet.ImageFont, "load_default", old)
        assert all(ink(contact_sheet([[block(RED)]], **{name: text})) > 20 for name, text in texts.items())


def test_counts_must_agree():
    for arguments in (([],), ([[]],), ([[block(RED)]], ["a", "b"]), ([[block(RED)]], ["a"], ["b", "c"])):
        with pytest.raises(ValueError):
            contact_sheet(*arguments)
