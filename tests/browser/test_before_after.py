"""The slider under the webui's gallery, on a stand-in for its page: which pictures it shows, and when it shows none."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import gradio as gr
import pytest
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[2]
OURS = "a photo\nSteps: 9, Script: Realistic Translation, NegTrans solver: ddim"
# gradio 3 gives an HTML's id to two elements, gradio 4 to one
PAGE = """
<div id="mode_img2img"><div id="img2img_image"></div></div>
<div id="resize_mode">
<input type="radio" name="m" checked><input type="radio" name="m">
<input type="radio" name="m"><input type="radio" name="m">
</div>
<div id="img2img_gallery" style="height: 40px; overflow: hidden"></div>
<div id="negtrans_img2img_compare"><div {inner}>{slider}</div></div>
<div id="generation_info_img2img" style="display: none"><textarea></textarea></div>
<script>
    opts = {{img2img_background_color: "#0000ff"}};
    function submit_img2img(...given) {{ return given; }}
    function picture(colour, width, height) {{
        const canvas = document.createElement("canvas");
        [canvas.width, canvas.height] = [width, height];
        const pen = canvas.getContext("2d");
        pen.fillStyle = colour;
        pen.fillRect(0, 0, width, height);
        return Object.assign(new Image(), {{src: canvas.toDataURL()}});
    }}
    function drop(colour, width, height) {{
        document.querySelector("#img2img_image").replaceChildren(picture(colour, width, height));
    }}
    function answer(said, colours) {{
        const gallery = document.querySelector("#img2img_gallery");
        gallery.replaceChildren(...["small", "lg"].flatMap((size) => colours.map((colour) => {{
            const button = document.createElement("button");
            button.className = `thumbnail-item thumbnail-${{size}}`;
            button.append(picture(colour, 100, 150));
            return button;
        }})));
        document.querySelector("#generation_info_img2img textarea").value = said;
    }}
    function choose(index) {{
        document.querySelectorAll(".thumbnail-item").forEach((button, at, all) =>
            button.classList.toggle("selected", at % (all.length / 2) === index));
    }}
</script>
"""


@pytest.fixture(params=['id="negtrans_img2img_compare"', ""], ids=["gradio 3", "gradio 4"])
def page(request, browser):
    from lib_negtrans.apps.webui.panel import add_comparison

    with gr.Blocks() as blocks:
        add_comparison()
    (slider,) = (c["props"]["value"] for c in blocks.get_config_file()["components"] if c["type"] == "html")
    opened, errors = browser.new_page(), []
    opened.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.set_content(PAGE.format(inner=request.param, slider=slider))
    opened.add_style_tag(path=REPOSITORY / "style.css")
    opened.add_script_tag(path=REPOSITORY / "javascript" / "negtrans_translate.js")
    yield opened
    opened.close()
    assert errors == []


def made(page, *colours, texts=None, first=0):
    """The host's answer: a job of these pictures, the first of which are grids."""
    said = {"infotexts": texts or [OURS] * len(colours), "index_of_first_image": first, "job_timestamp": time.time()}
    page.evaluate("([said, colours]) => answer(said, colours)", [json.dumps(said), colours])
    page.evaluate("choose(0)")
    page.wait_for_timeout(700)


def translate(page, colour="#ff0000", width=100, height=150):
    page.evaluate("given => drop(...given)", [colour, width, height])
    page.wait_for_function("document.querySelector('#mode_img2img img').naturalWidth > 16")
    assert page.evaluate("submit_img2img(1, 2)") == [1, 2]


def opened(page):
    page.click("#negtrans_img2img_compare summary")
    page.wait_for_timeout(700)


def halves(page):
    """The colours a quarter from the left and from the right, half way down; the first again near the top."""
    box = page.locator(".negtrans-compare").first.bounding_box()
    with Image.open(io.BytesIO(page.screenshot(clip=box))) as shot:
        width, height = shot.size
        points = [(width // 4, height // 2), (width * 3 // 4, height // 2), (width // 4, height // 20 + 1)]
        return ["#{:02x}{:02x}{:02x}".format(*shot.convert("RGB").getpixel(point)) for point in points]


def visible(page):
    return page.locator("#negtrans_img2img_compare summary").first.is_visible()


def test_it_loads_nothing_before_it_is_opened_and_leaves_the_gallery(page):
    assert not visible(page)
    translate(page)
    page.wait_for_timeout(700)
    assert not visible(page)  # under way
    made(page, "#00ff00")
    gallery = page.inner_html("#img2img_gallery")
    assert visible(page)
    sources = page.locator(".negtrans-compare img").evaluate_all("all => all.map(e => e.getAttribute('src'))")
    assert sources == ["", ""]
    opened(page)
    assert halves(page) == ["#ff0000", "#00ff00", "#ff0000"]
    box = page.locator(".negtrans-compare").bounding_box()
    assert box["width"] / box["height"] == pytest.approx(100 / 150, abs=0.01)
    assert page.inner_html("#img2img_gallery") == gallery


def test_the_render_is_the_one_that_was_translated(page):
    translate(page)
    made(page, "#00ff00")
    opened(page)
    translate(page, "#ffff00")  # another, while the first result is looked at
    page.wait_for_timeout(700)
    assert halves(page)[:2] == ["#ff0000", "#00ff00"]
    made(page, "#00ffff")
    assert halves(page)[:2] == ["#ffff00", "#00ffff"]
    page.evaluate("document.querySelector('#mode_img2img').style.display = 'none'")
    page.evaluate("submit_img2img()")  # as "Generate forever" does, while another tab is looked at
    made(page, "#00ff00")
    assert halves(page)[:2] == ["#ffff00", "#00ff00"]


def test_of_several_the_chosen_one_is_shown_and_of_a_grid_the_first(page):
    translate(page)
    made(page, "#888888", "#00ff00", "#00ffff", first=1)
    opened(page)
    seen = []
    for index in (0, 1, 2, 5):
        page.evaluate(f"choose({index})")
        page.wait_for_timeout(700)
        seen.append(halves(page)[1])
    assert seen == ["#00ff00", "#00ff00", "#00ffff", "#00ff00"]  # the last: none is chosen


def test_nothing_is_shown_of_what_is_no_translation(page):
    translate(page)
    made(page, "#00ff00", "#888888", texts=[OURS])  # such as another extension's map, behind the pictures
    assert visible(page)
    page.evaluate("choose(1)")
    page.wait_for_timeout(700)
    assert not visible(page)
    made(page, "#00ff00", texts=["a photo\nSteps: 9, Sampler: Euler"])
    assert not visible(page)
    translate(page)
    page.evaluate("answer('', [])")  # it failed
    page.wait_for_timeout(700)
    assert not visible(page)
    page.evaluate("document.querySelector('#img2img_image').replaceChildren()")  # the Batch tab has no picture
    page.evaluate("submit_img2img()")
    made(page, "#00ff00")
    assert not visible(page)


@pytest.mark.parametrize(("mode", "near_the_top"), [(0, "#ff0000"), (1, "#ff0000"), (2, "#0000ff"), (3, "#ff0000")])
def test_a_render_of_another_shape_lies_as_the_webui_fits_it(page, mode, near_the_top):
    page.locator("#resize_mode input").nth(mode).check()
    translate(page, "#ff0000", 100, 50)
    made(page, "#00ff00")
    opened(page)
    assert halves(page) == ["#ff0000", "#00ff00", near_the_top]


def test_under_a_transparent_render_is_the_webuis_colour(page):
    translate(page, "transparent")
    made(page, "#00ff00")
    opened(page)
    assert halves(page) == ["#0000ff", "#00ff00", "#0000ff"]
