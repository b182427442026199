"""The way to a first picture by clicks: presets, what differs from them, the canvas, no picture."""

from __future__ import annotations

import pytest

from tests.webui.client import render
from tests.webui.test_script_page import (  # noqa: F401
    PANEL,
    SCRIPTS,
    choose,
    fill_number,
    generate,
    number,
    page,
    upload,
)

SUMMARY = f"{PANEL}summary"


def chips(page) -> list[str]:  # noqa: F811
    return page.locator(f"{SUMMARY} [data-negtrans-reset]").evaluate_all("all => all.map(e => e.dataset.negtransReset)")


def wait_for_chips(page, *names):  # noqa: F811
    page.wait_for_function(
        "wanted => [...document.querySelectorAll('#negtrans_img2img_summary [data-negtrans-reset]')]"
        ".map(e => e.dataset.negtransReset).join() == wanted",
        arg=",".join(names),
    )


def test_the_script_offers_its_presets_values_and_a_preset_applies_when_chosen(page):  # noqa: F811
    choose(page, SCRIPTS, "Realistic Translation")
    page.wait_for_selector(SUMMARY)
    assert set(chips(page)) == {"steps", "cfg_scale", "strength", "all"}
    page.click(f"{SUMMARY} [data-negtrans-reset=all]")
    wait_for_chips(page)
    assert [number(page, f"#img2img_{n}") for n in ("steps", "cfg_scale", "denoising_strength")] == [50, 7.5, 0.3]
    choose(page, f"{PANEL}preset", "texture")
    page.wait_for_function("() => document.querySelector('#img2img_cfg_scale input[type=number]').value == 5")
    wait_for_chips(page)
    # the strength is the page's own, seen from both places
    fill_number(page, f"{PANEL}strength", 0.4)
    wait_for_chips(page, "strength")
    assert number(page, "#img2img_denoising_strength") == 0.4
    fill_number(page, "#img2img_denoising_strength", 0.5)
    page.wait_for_function(f"() => document.querySelector('{PANEL}strength input[type=number]').value == 0.5")
    page.click(f"{PANEL}group_attention > .label-wrap")
    fill_number(page, f"{PANEL}tac_blend", 0.5)
    page.wait_for_selector(f"{PANEL}group_attention .negtrans-mark")
    assert page.locator(".negtrans-mark").count() == 1
    for name in ("tac_blend", "strength"):
        page.click(f"{SUMMARY} [data-negtrans-reset={name}]")
    wait_for_chips(page)
    assert number(page, "#img2img_denoising_strength") == 0.3 and number(page, f"{PANEL}tac_blend") == 1
    assert page.locator(".negtrans-mark").count() == 0
    assert page.errors == []


def test_no_picture_is_one_sentence(page):  # noqa: F811
    choose(page, SCRIPTS, "Realistic Translation")
    page.wait_for_selector(SUMMARY)
    said = generate(page)
    assert "There is no picture in img2img" in said and "AttributeError" not in said


def test_a_canvas_of_another_shape_is_said_and_set(page, webui, tmp_path):  # noqa: F811
    source = tmp_path / "portrait.png"
    render().resize((104, 160)).save(source)
    choose(page, SCRIPTS, "Realistic Translation")
    page.wait_for_selector(SUMMARY)
    assert page.inner_text(f"{PANEL}canvas") == ""
    upload(page, source)
    page.wait_for_selector(f"{PANEL}canvas button")
    assert "The render is 104x160 pixels and the canvas 512x512" in page.inner_text(f"{PANEL}canvas")
    page.click('#resize_mode label:has-text("Crop and resize")')
    page.wait_for_selector(f"{PANEL}canvas button", state="detached")
    page.click('#resize_mode label:has-text("Just resize") >> nth=0')
    page.click(f"{PANEL}canvas button")
    page.wait_for_selector(f"{PANEL}canvas button", state="detached")
    assert [number(page, f"#img2img_{side}") for side in ("width", "height")] == [104, 160]


@pytest.mark.parametrize("tab", ["txt2img", "img2img"])
def test_a_card_of_ours_goes_into_the_negative_prompt(page, webui, tab):  # noqa: F811
    page.evaluate(f"switch_to_{tab}()")
    page.click(f'#{tab}_extra_tabs button:has-text("Textual Inversion")')
    page.click(f'#{tab}_textual_inversion_cards .card[data-name="neg-test"]')
    page.wait_for_function(f"() => document.querySelector('#{tab}_neg_prompt textarea').value.includes('neg-test')")
    assert page.input_value(f"#{tab}_prompt textarea") == ""
