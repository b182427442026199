"""The script beside the others, by the setting: the dropdown's bytes, over the API and by clicks, with a grid too."""

from __future__ import annotations

import base64
import itertools
import json

import pytest
from PIL import Image

from tests.webui.client import SIZE, Client, arguments, difference, infotext, restored
from tests.webui.looks import screenshot
from tests.webui.test_script_page import (
    PANEL,
    SCRIPTS,
    choose,
    choose_axes,
    fill_number,
    generate,
    newest,
    open_groups,
    open_page,
    opened,
    same_file,
    send_to_img2img,
    upload,
)

OURS = {"embedding": "neg-test", "preset": "texture", "tac_ratio": 0.5}
HOST = {"negative_prompt": "blurry", "cfg_scale": 9}
CONCEPTS = "a red dress :8 | threshold=0.5\nstriped :-1 | kind=topk ratio=0.2"


@pytest.fixture(scope="module")
def before(webui):
    """The dropdown's picture, and one without us, from the webui of the other tests."""
    client = Client(webui)
    client.plain(**HOST)  # the host's VAE draws from torch's global generator: begin from a known state
    plain = client.plain(**HOST)
    return client.translate(arguments(**OURS), **HOST), plain


@pytest.fixture(scope="module")
def always_on(before, start_webui):
    """A second webui, with the setting."""
    with start_webui(negtrans_always_on=True) as server:
        yield server


def ours(**values):
    return {"alwayson_scripts": {"Realistic Translation": {"args": arguments(**{**OURS, **values})}}}


def test_the_dropdowns_bytes_over_the_api(always_on, before):
    client, (chosen, plain) = Client(always_on), before
    answer = client.plain(**ours(), **HOST)
    assert answer["images"] == chosen["images"] and infotext(answer) == infotext(chosen)
    client.plain(**HOST)
    assert client.plain(**HOST)["images"] == plain["images"]
    assert client.plain(**ours(enabled=False), **HOST)["images"] == plain["images"]
    refused = always_on.post("/sdapi/v1/img2img", {**client.base, **ours(tac_ratio=7)})
    assert refused.status_code == 422 and "TAC ratio must lie" in refused.json()["detail"]
    assert client.plain(**HOST)["images"] == plain["images"]


def test_a_grid_over_the_hosts_own_axis_says_what_it_is_of(always_on, before):
    grid = Client(always_on).plot({"X": ("CFG Scale", "9,12")}, **ours(), **HOST)
    assert grid["images"][1] == before[0]["images"][0]
    of_grid, *of_cells = json.loads(grid["info"])["infotexts"]
    assert all("NegTrans TAC ratio: 0.5" in text for text in (of_grid, *of_cells)) and "X Type: CFG Scale" in of_grid


def test_a_grid_over_our_axis_and_the_hosts_is_the_single_pictures(always_on):
    """Another script at the same time; each cell comes back from its own text, with its concepts, to the byte."""
    client, host = Client(always_on), {"negative_prompt": "blurry"}
    axes = {"X": ("[NegTrans] TAC ratio", "0.25,0.75"), "Y": ("CFG Scale", "6,12")}
    grid = client.plot(axes, **ours(concepts=CONCEPTS), **host)
    cells = grid["images"][1:]
    alone = [
        client.plain(**ours(concepts=CONCEPTS, tac_ratio=ratio), **host, cfg_scale=scale)
        for scale in (6, 12)
        for ratio in (0.25, 0.75)
    ]
    assert cells == [one["images"][0] for one in alone]
    assert json.loads(grid["info"])["infotexts"][1:] == [infotext(one) for one in alone]
    assert all(difference(*pair) > 1 for pair in itertools.combinations(cells, 2))
    back = {"alwayson_scripts": {"Realistic Translation": {"args": restored(always_on, cells[3])}}}
    assert client.plain(**back, **host, cfg_scale=12)["images"][0] == cells[3]


def test_a_grid_by_clicks_and_a_cell_of_it_back_from_its_text(always_on, source):
    outputs = always_on.data / "outputs" / "img2img-images"
    with opened(always_on) as page:
        page.click(f"{PANEL}always_on > .label-wrap")
        page.wait_for_selector(f"{PANEL}summary")
        page.check(f"{PANEL}enabled input")
        choose(page, f"{PANEL}embedding", "neg-test")
        page.fill("#img2img_neg_prompt textarea", "blurry")
        upload(page, source)
        for name, value in (("width", SIZE), ("height", SIZE), ("steps", 20), ("denoising_strength", 0.3), ("seed", 1)):
            fill_number(page, f"#img2img_{name}", value)
        open_groups(page)
        page.fill(f"{PANEL}concepts textarea", CONCEPTS)
        # not 12: the host writes 12.0 for its axis, and 12 for its slider
        choose_axes(page, {"x": ("[NegTrans] TAC ratio", "0.25,0.75"), "y": ("CFG Scale", "6.5,12.5")})
        before = set(outputs.rglob("*.png"))
        generate(page)
        screenshot(page, "always-on-grid")
        cells = sorted(set(outputs.rglob("*.png")) - before)
        client, options = Client(always_on), {"embedding": "neg-test", "preset": "default", "concepts": CONCEPTS}
        singles = [(ratio, scale) for scale in (6.5, 12.5) for ratio in (0.25, 0.75)]
        for cell, (ratio, scale) in zip(cells, singles, strict=True):
            alone = client.plain(**ours(**options, tac_ratio=ratio), negative_prompt="blurry", cfg_scale=scale)
            assert difference(Image.open(cell), alone["images"][0]) == 0
            assert Image.open(cell).text["parameters"] == infotext(alone)

        send_to_img2img(page, always_on, cells[3], "NegTrans concepts")
        page.wait_for_function(f"() => document.querySelector('{PANEL}enabled input').checked")
        page.wait_for_function(f"() => document.querySelector('{PANEL}concepts textarea').value.includes('striped')")
        assert page.input_value(f"{PANEL}concepts textarea") == CONCEPTS
        assert page.input_value(f"{SCRIPTS} input") == "None"
        upload(page, source)
        generate(page)
        again = newest(always_on)
        assert again not in cells and same_file(again, cells[3])
        assert page.errors == []


def test_a_pictures_text_switches_it_on_whichever_way_it_was_made(always_on, before, source, tmp_path):
    chosen, made = before[0]["images"][0], tmp_path / "made.png"
    made.write_bytes(base64.b64decode(chosen))
    with opened(always_on) as page:
        open_page(page, "PNG Info")
        page.set_input_files("#pnginfo_image input[type=file]", made)
        page.wait_for_function("() => /NegTrans/.test(document.querySelector('#tab_pnginfo').innerText)")
        page.click("#tab_pnginfo #img2img_tab")
        page.wait_for_function(f"() => document.querySelector('{PANEL}enabled input').checked")
        page.wait_for_function(f"() => document.querySelector('{PANEL}embedding input').value == 'neg-test'")
        assert page.input_value(f"{SCRIPTS} input") == "None"
        upload(page, source)
        for side in ("width", "height"):
            fill_number(page, f"#img2img_{side}", SIZE)
        page.click(f"{PANEL}always_on > .label-wrap")
        page.wait_for_selector(f"{PANEL}summary")
        screenshot(page, "always-on")
        assert "Time taken" in generate(page)
        assert difference(chosen, Image.open(newest(always_on))) == 0
        page.uncheck(f"{PANEL}enabled input")
        page.wait_for_timeout(1000)
        generate(page)
        assert "NegTrans" not in Image.open(newest(always_on)).text["parameters"]
        assert page.errors == []
