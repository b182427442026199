"""Concepts by hand, in Chromium on a real webui: typed, summed up, made, and back from the picture's text."""

from __future__ import annotations

from PIL import Image

from tests.webui.client import SIZE, difference
from tests.webui.test_script_page import (  # noqa: F401, the fixture
    PANEL,
    SCRIPTS,
    choose,
    fill_number,
    generate,
    newest,
    open_groups,
    open_img2img,
    open_page,
    page,
    send_to_img2img,
    upload,
)

LINES = "a red dress :8 | threshold=0.5\nstriped :-1 | kind=topk ratio=0.2"
NEGATIVE = "cg AND_PERP a doll :0.5"  # a word that neutral-prompt, where it is installed, does not read there


def test_concepts_typed_and_back_from_the_text(page, webui, source, tmp_path):  # noqa: F811
    choose(page, SCRIPTS, "Realistic Translation")
    page.wait_for_selector(f"{PANEL}preset")
    upload(page, source)
    page.fill("#img2img_prompt textarea", "a photo")
    page.fill("#img2img_neg_prompt textarea", NEGATIVE)
    for name, value in (("width", SIZE), ("height", SIZE), ("steps", 20), ("denoising_strength", 0.3)):
        fill_number(page, f"#img2img_{name}", value)
    open_groups(page)
    page.fill(f"{PANEL}concepts textarea", "a red dress | kind=tok")
    page.wait_for_function(f"() => /kind must be one of/.test(document.querySelector('{PANEL}summary').innerText)")
    page.fill(f"{PANEL}concepts textarea", LINES)
    page.wait_for_function(f"() => /They add 4 to the model/.test(document.querySelector('{PANEL}summary').innerText)")
    assert "a doll :-0.5 (perp); a red dress :8 (sega); striped :-1 (topk)" in page.inner_text(f"{PANEL}summary")
    generate(page)
    page.screenshot(path=tmp_path / "concepts.png", full_page=True)
    first = newest(webui)

    send_to_img2img(page, webui, first, "NegTrans concepts")
    page.wait_for_function(f"() => document.querySelector('{PANEL}concepts textarea')?.value.includes('striped')")
    assert page.input_value(f"{PANEL}concepts textarea") == LINES
    assert page.input_value("#img2img_neg_prompt textarea") == NEGATIVE
    upload(page, source)
    generate(page)
    again = newest(webui)
    assert again != first
    with Image.open(first) as one, Image.open(again) as other:
        assert one.text == other.text and difference(one, other) == 0
    # a preset leaves what was typed
    choose(page, f"{PANEL}preset", "texture")
    page.wait_for_function("() => document.querySelector('#img2img_cfg_scale input[type=number]').value == 5")
    assert page.input_value(f"{PANEL}concepts textarea") == LINES
    assert page.errors == []
