"""The translation tab, by clicks: a picture in, the comparison dragged, the PNG out and its settings back in."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

P = "#negtrans_page_"


@pytest.fixture(scope="module")
def render(tmp_path_factory):
    """96 x 128 pixels, a circle on transparency."""
    y, x = np.mgrid[:128, :96]
    inside = (x - 48) ** 2 + (y - 64) ** 2 < 40**2
    values = np.stack([x * 2, y * 2, 255 - x * 2, inside * 255], axis=-1).astype(np.uint8)
    path = tmp_path_factory.mktemp("render") / "render.png"
    Image.fromarray(values, "RGBA").save(path)
    return path


def number(page, name: str):
    return page.locator(f"{P}{name} input[type=number]")


def fill(page, name: str, value: str) -> None:
    """As a user does: type and leave the field."""
    number(page, name).fill(value)
    number(page, name).blur()


def give(page, path) -> None:
    page.set_input_files(f"{P}picture input[type=file]", path)
    page.wait_for_selector(f"{P}picture img")


def split(page) -> float:
    style = page.locator(".negtrans-compare").evaluate("e => getComputedStyle(e).getPropertyValue('--split')")
    return float(style.strip().rstrip("%"))


def test_it_is_there_and_fits_narrow_windows(page):
    assert page.title() == "Realistic Translation"
    tabs = page.get_by_role("tab").all_inner_texts()
    assert [text.strip() for text in tabs] == ["Realistic Translation", "Train Negative Embedding"]
    assert "Then 9 steps follow" in page.inner_text(f"{P}summary")
    for width in (1280, 800, 420):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), width


def test_it_speaks_japanese_where_the_browser_does(page, site):
    page.goto(f"{site.url}?lang=ja")
    page.wait_for_selector(f"{P}translate >> text=変換")
    page.wait_for_selector("text=レンダー画像を選び、「変換」を押してください。")
    page.wait_for_selector(f"{P}summary >> text=レンダー画像を50ステップ中9ステップで、ノイズレベル281(最大1000)まで")
    assert page.evaluate("document.documentElement.lang") == "ja"


def test_translate_compare_download_and_restore(page, render, tmp_path):
    give(page, render)
    fill(page, "steps", "10")
    fill(page, "strength", "0.4")
    page.fill(f"{P}negative_prompt textarea", "3d render, plastic")
    page.wait_for_function("document.querySelector('#negtrans_page_summary').innerText.includes('in 2 of 10')")
    page.click(f"{P}translate")
    page.wait_for_selector(f"{P}stage .negtrans-compare")
    assert "Finished." in page.inner_text(f"{P}progress")
    page.wait_for_function(
        "[...document.querySelectorAll('.negtrans-compare img')]"
        ".every(image => image.naturalWidth == 96 && image.naturalHeight == 128)"
    )

    box = page.locator(".negtrans-compare").bounding_box()
    middle = box["y"] + box["height"] / 2
    assert split(page) == 50
    page.mouse.move(box["x"] + box["width"] * 0.5, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.25, middle, steps=5)
    assert split(page) == pytest.approx(25, abs=2)  # while it is dragged
    page.mouse.up()
    page.mouse.move(box["x"] + box["width"] * 0.9, middle)
    assert split(page) == pytest.approx(25, abs=2)  # not any more
    before = split(page)
    page.keyboard.press("ArrowRight")
    assert split(page) > before

    with page.expect_download() as download:
        page.click(f"{P}result a[download]")
    saved = tmp_path / download.value.suggested_filename
    assert re.fullmatch(r"translated-\d{8}-\d{6}\.png", saved.name)
    download.value.save_as(saved)
    with Image.open(saved) as image:
        assert image.size == (96, 128) and image.mode == "RGBA"
        assert "Negative prompt: 3d render, plastic\nSteps: 10" in image.info["parameters"]

    page.reload()
    page.wait_for_selector(f"{P}stage .negtrans-compare")  # the last result is found again
    assert number(page, "steps").input_value() == "50"
    page.set_input_files(f"{P}settings input[type=file]", saved)
    page.wait_for_selector(f"{P}note >> text=Settings restored.")
    assert number(page, "steps").input_value() == "10"
    assert number(page, "strength").input_value() == "0.4"
    assert page.input_value(f"{P}negative_prompt textarea") == "3d render, plastic"


def test_concepts_are_summed_up_made_and_restored(page, render, tmp_path):
    lines = "red :3\nstriped :-1 | kind=topk"
    give(page, render)
    fill(page, "steps", "10")
    page.fill(f"{P}prompt textarea", "a photo AND_PERP wool :0.6")
    page.click(f"{P}group_guidance .label-wrap")
    page.fill(f"{P}concepts textarea", lines)
    page.wait_for_selector(f"{P}summary >> text=Concepts: wool :0.6 (perp); red :3 (sega); striped :-1 (topk).")
    page.wait_for_selector(f"{P}summary >> text=They add 4 to the model calls of each step.")
    page.click(f"{P}translate")
    page.wait_for_selector(f"{P}result a[download]")
    with page.expect_download() as download:
        page.click(f"{P}result a[download]")
    saved = tmp_path / "made.png"
    download.value.save_as(saved)
    page.reload()
    page.wait_for_selector(f"{P}translate")
    page.set_input_files(f"{P}settings input[type=file]", saved)
    page.wait_for_selector(f"{P}note >> text=Settings restored.")
    assert page.input_value(f"{P}prompt textarea") == "a photo AND_PERP wool :0.6"
    page.click(f"{P}group_guidance .label-wrap")  # what is in a folded group is not on the page
    assert page.locator(f"{P}concepts textarea").input_value() == lines


def test_what_cannot_be_done_is_one_sentence_and_the_page_goes_on(page, render, tmp_path):
    def refused(what: str, where: str = "message") -> None:
        page.wait_for_selector(f"{P}{where} .negtrans-error >> text={what}")

    page.click(f"{P}translate")
    refused("There is no render yet")

    broken = tmp_path / "broken.png"
    broken.write_bytes(b"this is no picture")
    page.set_input_files(f"{P}picture input[type=file]", broken)
    page.wait_for_selector(f"{P}picture img", state="attached")
    page.click(f"{P}translate")
    refused("The render cannot be read as a picture")

    page.click(f"{P}picture button[aria-label='Remove Image']")
    give(page, render)
    fill(page, "steps", "2")
    page.wait_for_function("document.querySelector('#negtrans_page_summary').innerText.includes('leaves no step')")
    page.click(f"{P}translate")
    refused("leaves no step to take")

    plain = tmp_path / "plain.png"
    Image.new("RGB", (64, 64)).save(plain)
    page.set_input_files(f"{P}settings input[type=file]", plain)
    refused("holds no settings of ours", "note")

    fill(page, "steps", "5")
    page.click(f"{P}translate")
    page.wait_for_selector(f"{P}progress [data-phase=finished]")
    # the answer to the click may come after the poll's
    page.wait_for_selector(f"{P}message .negtrans-error", state="detached")
