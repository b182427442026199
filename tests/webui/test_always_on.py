"""The script beside the others, by the setting: the dropdown's bytes, over the API and by clicks, with a grid too."""

from __future__ import annotations

import base64
import json
import os

import pytest
from PIL import Image

from tests.webui.client import SIZE, Client, arguments, difference, infotext, render
from tests.webui.files import make_embedding
from tests.webui.server import WebuiServer, make_data_folder
from tests.webui.test_script_page import (
    PANEL,
    SCRIPTS,
    _wait_for,
    fill_number,
    generate,
    newest,
    open_page,
    opened,
    upload,
)

OURS = {"embedding": "neg-test", "preset": "texture", "tac_ratio": 0.5}
HOST = {"negative_prompt": "blurry", "cfg_scale": 9}


@pytest.fixture(scope="module")
def before(webui):
    """The dropdown's picture, and one without us, from the webui of the other tests."""
    client = Client(webui)
    client.plain(**HOST)  # the host's VAE draws from torch's global generator: begin from a known state
    plain = client.plain(**HOST)
    return client.translate(arguments(**OURS), **HOST), plain


@pytest.fixture(scope="module")
def always_on(before, webui_installation, demo_model, tmp_path_factory):
    """A second webui, with the setting."""
    data = tmp_path_factory.mktemp("always-on")
    make_data_folder(data, demo_model)
    make_embedding(data / "embeddings", demo_model)
    (data / "config.json").write_text(json.dumps({"negtrans_always_on": True}), encoding="utf-8")
    server = WebuiServer(data, *webui_installation)
    server.start()
    yield server
    server.stop()


def ours(**values):
    return {"alwayson_scripts": {"Realistic Translation": {"args": arguments(**{**OURS, **values})}}}


def test_the_dropdowns_bytes_and_a_grid_over_the_api(always_on, before):
    client, webui, (chosen, plain) = Client(always_on), always_on, before
    answer = client.plain(**ours(), **HOST)
    assert answer["images"] == chosen["images"] and infotext(answer) == infotext(chosen)
    client.plain(**HOST)
    assert client.plain(**HOST)["images"] == plain["images"]
    assert client.plain(**ours(enabled=False), **HOST)["images"] == plain["images"]
    refused = webui.post("/sdapi/v1/img2img", {**client.base, **ours(tac_ratio=7)})
    assert refused.status_code == 422 and "TAC ratio must lie" in refused.json()["detail"]
    assert client.plain(**HOST)["images"] == plain["images"]

    # another script at the same time: the grid's own axis over translations
    plot = next(s for s in webui.get("/sdapi/v1/script-info").json() if s["name"] == "x/y/z plot" and s["is_img2img"])
    labels, values = ([argument[key] for argument in plot["args"]] for key in ("label", "value"))
    values[labels.index("Use text inputs instead of dropdowns")] = True
    values[labels.index("X type")] = plot["args"][0]["choices"].index("CFG Scale")
    values[labels.index("X values")] = "9,12"
    for axis in ("Y type", "Z type"):
        values[labels.index(axis)] = 0
    values[labels.index("Include Sub Images")] = True
    grid = client.plain(script_name="x/y/z plot", script_args=values, **ours(), **HOST)
    assert grid["images"][1] == chosen["images"][0] and grid["images"][2] != chosen["images"][0]
    assert all("NegTrans TAC ratio: 0.5" in text for text in json.loads(grid["info"])["infotexts"][1:])


def test_a_pictures_text_switches_it_on_whichever_way_it_was_made(always_on, before, tmp_path):
    chosen = before[0]["images"][0]
    source, made = tmp_path / "render.png", tmp_path / "made.png"
    render().save(source)
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
        if folder := os.environ.get("NEGTRANS_SCREENSHOTS"):
            page.screenshot(path=f"{folder}/always-on.png", full_page=True)
        assert "Time taken" in generate(page)
        translated = newest(always_on)
        assert difference(chosen, Image.open(translated)) == 0
        page.uncheck(f"{PANEL}enabled input")
        page.wait_for_timeout(1000)
        page.click("#img2img_generate")
        _wait_for(lambda: newest(always_on) != translated, 300)
        page.wait_for_timeout(2000)
        assert "NegTrans" not in Image.open(newest(always_on)).text["parameters"]
        assert page.errors == []
