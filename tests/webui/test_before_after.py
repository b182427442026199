"""The slider under img2img's gallery, in Chromium on a real webui: which pictures it shows, and when it shows none."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from tests.webui.client import render
from tests.webui.looks import screenshot
from tests.webui.test_script_page import (  # noqa: F401
    PANEL,
    SCRIPTS,
    choose,
    fill_number,
    generate,
    page,
    reload_ui,
    upload,
)

SLIDER = f"{PANEL}compare .negtrans-compare"
SUMMARY = f"{PANEL}compare summary"
TALL = (120, 180)


@pytest.fixture
def source(tmp_path):
    """A tall render, larger than the canvas."""
    path = tmp_path / "render.png"
    render().resize(TALL).save(path)
    return path


def ready(page, source, size=(80, 120), **numbers):  # noqa: F811
    """The script on a picture, at few steps and pixels."""
    choose(page, SCRIPTS, "Realistic Translation")
    page.wait_for_selector(f"{PANEL}preset")
    upload(page, source)
    given = {"width": size[0], "height": size[1], "steps": 10, "denoising_strength": 0.5, "seed": 1, **numbers}
    for name, value in given.items():
        fill_number(page, f"#img2img_{name}", value)
    page.fill("#img2img_neg_prompt textarea", "a red dress")


def urls(page):  # noqa: F811
    """Of the slider's two pictures, without what the page's own address is in them."""
    return [page.get_attribute(f"{SLIDER} img.negtrans-{name}", "src") for name in ("before", "after")]


def chosen(page, index):  # noqa: F811
    """The URL of a picture in the gallery, after a click on it."""
    page.click(f"#img2img_gallery .thumbnail-small >> nth={index}")
    page.wait_for_timeout(700)
    return page.locator("#img2img_gallery .thumbnail-small img").nth(index).evaluate("e => e.src")


def seen(page):  # noqa: F811
    """The slider as it is drawn, (height, width, 3)."""
    box = page.locator(SLIDER).bounding_box()
    return np.asarray(Image.open(io.BytesIO(page.screenshot(clip=box))).convert("RGB")).astype(float)


def split(page, share):  # noqa: F811
    page.locator(f"{SLIDER} input[type=range]").fill(str(share))


def test_both_lie_on_each_other_and_nothing_else_changes(page, webui, source):  # noqa: F811
    assert not page.is_visible(SUMMARY)
    ready(page, source)
    generate(page)
    page.wait_for_selector(SUMMARY)
    assert urls(page) == ["", ""]
    page.wait_for_timeout(1000)  # the webui itself makes the picture one that can be clicked
    gallery = page.inner_html("#img2img_gallery")
    page.click(SUMMARY)
    page.wait_for_function(f"() => document.querySelector('{SLIDER} .negtrans-after').naturalWidth == 80")
    page.wait_for_timeout(700)
    assert page.inner_html("#img2img_gallery") == gallery
    box = page.locator(SLIDER).bounding_box()
    assert box["width"] / box["height"] == pytest.approx(80 / 120, abs=0.01)
    size = (int(box["width"]), int(box["height"]))
    pictures = [source, webui.data / page.evaluate(f"new URL({urls(page)[1]!r}).pathname.split('file=')[1]")]
    # away from the labels and the grip; the browser enlarges a little differently
    middle = np.s_[size[1] // 8 : -size[1] // 8, size[0] // 8 : -size[0] // 8]
    for share, picture in zip((100, 0), pictures, strict=True):
        split(page, share)
        wanted = np.asarray(Image.open(picture).convert("RGB").resize(size, Image.BILINEAR)).astype(float)
        shown = np.asarray(Image.fromarray(seen(page).astype(np.uint8)).resize(size)).astype(float)
        assert abs(shown - wanted)[middle].mean() < 3
    split(page, 50)
    screenshot(page, "before-after")
    assert page.errors == []


def test_the_chosen_one_of_a_batch_and_another_size_than_the_render(page, source):  # noqa: F811
    ready(page, source, size=(128, 64), batch_count=2)
    page.click('#resize_mode label:has-text("Crop and resize")')
    generate(page)
    page.click(SUMMARY)
    page.wait_for_timeout(1000)
    grid, first, second = (chosen(page, index) for index in range(3))
    assert len({grid, first, second}) == 3
    for index, result in ((1, first), (2, second), (0, first)):
        chosen(page, index)
        assert page.locator(f"{SLIDER} .negtrans-after").evaluate("e => e.src") == result
    box = page.locator(SLIDER).bounding_box()
    assert box["width"] / box["height"] == pytest.approx(2, abs=0.02)
    # the render is cropped as the webui does it: the drawn picture is a part of it, not the whole squeezed
    split(page, 100)
    shown = seen(page)
    height, width = shown.shape[:2]
    whole = Image.open(source).convert("RGB").resize((width, width * TALL[1] // TALL[0]), Image.BILINEAR)
    top = (whole.height - height) // 2
    wanted = np.asarray(whole.crop((0, top, width, top + height))).astype(float)
    middle = np.s_[height // 4 : -height // 4, width // 8 : -width // 8]
    assert abs(shown - wanted)[middle].mean() < 3
    assert page.errors == []


def test_the_inpaint_tab_has_it_and_the_sketch_tab_has_not(page, source):  # noqa: F811
    """There the render is under what was painted, here a part of it."""
    ready(page, source)
    for title, field, expected in (("Inpaint", "#img2maskimg", True), ("Sketch", "#img2img_sketch", False)):
        page.locator("#mode_img2img > .tab-nav button, #mode_img2img [role=tab]").get_by_text(title, exact=True).click()
        page.set_input_files(f"{field} input[type=file]", source)
        page.wait_for_timeout(3000)
        box = page.locator(f"{field} canvas").first.bounding_box()
        page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + box["height"] * 0.4)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + box["height"] * 0.6, steps=5)
        page.mouse.up()
        page.wait_for_timeout(1000)
        generate(page)
        page.wait_for_selector(SUMMARY, state="visible" if expected else "hidden")
    assert page.errors == []


def test_it_goes_with_other_jobs_and_reload_ui_leaves_one(page, webui, source):  # noqa: F811
    ready(page, source)
    generate(page)
    page.wait_for_selector(SUMMARY)
    fill_number(page, "#img2img_denoising_strength", 0)
    assert "Strength must be above 0" in generate(page)
    page.wait_for_selector(SUMMARY, state="hidden")
    fill_number(page, "#img2img_denoising_strength", 0.5)
    generate(page)
    page.wait_for_selector(SUMMARY)
    choose(page, SCRIPTS, "None")
    generate(page)
    page.wait_for_selector(SUMMARY, state="hidden")
    reload_ui(page, webui)
    assert page.locator(f"{PANEL}compare details").count() == 1
    ready(page, source)
    generate(page)
    page.click(SUMMARY)
    page.wait_for_function(f"() => document.querySelector('{SLIDER} .negtrans-after').naturalWidth == 80")
    assert page.errors == []


def test_an_interrupted_one_is_compared_as_far_as_it_came(page, source):  # noqa: F811
    ready(page, source, size=(256, 384), steps=150)
    page.click("#img2img_generate")
    page.wait_for_selector("#img2img_interrupt", state="visible")
    page.wait_for_timeout(2500)
    page.click("#img2img_interrupt")
    page.wait_for_function("() => /Time taken/.test(document.querySelector('#html_log_img2img').innerText)")
    page.wait_for_timeout(1000)
    pictures = page.locator("#img2img_gallery .thumbnail-small").count()
    assert page.is_visible(SUMMARY) == bool(pictures)
    assert page.errors == []
