"""The script beside the others, by the setting: the dropdown's bytes, over the API and by clicks, with a grid too."""

from __future__ import annotations

import base64
import json

import pytest
from PIL import Image

from tests.webui.client import SIZE, Client, arguments, difference, infotext, render
from tests.webui.test_script_page import (  # noqa: F401
    PANEL,
    SCRIPTS,
    _wait_for,
    fill_number,
    generate,
    newest,
    open_img2img,
    open_page,
    page,
    upload,
)

OURS = {"embedding": "neg-test", "preset": "texture", "tac_ratio": 0.5}
HOST = {"negative_prompt": "blurry", "cfg_scale": 9}


def switch_mode(page, webui, client, always_on):  # noqa: F811
    client.options(negtrans_always_on=always_on)
    starts = webui.log.count("Startup time")
    page.click('a:has-text("Reload UI")')
    _wait_for(lambda: webui.log.count("Startup time") > starts, 300)
    open_img2img(page, webui)


@pytest.fixture
def client(webui):
    return Client(webui)


@pytest.fixture
def before(client):
    """The dropdown's picture, and one without us."""
    return client.translate(arguments(**OURS), **HOST), client.plain(**HOST)


@pytest.fixture
def always_on(page, webui, client, before):  # noqa: F811
    switch_mode(page, webui, client, True)
    yield page
    switch_mode(page, webui, client, False)


def ours(**values):
    return {"alwayson_scripts": {"Realistic Translation": {"args": arguments(**{**OURS, **values})}}}


def test_the_dropdowns_bytes_and_a_grid_and_back_from_a_pictures_text(always_on, webui, client, before, tmp_path):
    page, (chosen, plain) = always_on, before  # noqa: F811
    answer = client.plain(**ours(), **HOST)
    assert answer["images"] == chosen["images"] and infotext(answer) == infotext(chosen)
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
    values[labels.index("Include Sub Images")] = True
    grid = client.plain(script_name="x/y/z plot", script_args=values, **ours(), **HOST)
    assert grid["images"][1] == chosen["images"][0] and grid["images"][2] != chosen["images"][0]
    assert all("NegTrans TAC ratio: 0.5" in text for text in json.loads(grid["info"])["infotexts"][1:])

    # by clicks: the picture's text opens and switches on the panel, whichever way it was made
    source, made = tmp_path / "render.png", tmp_path / "made.png"
    render().save(source)
    made.write_bytes(base64.b64decode(chosen["images"][0]))
    assert page.locator(f"{SCRIPTS} ul.options").count() == 0
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
    assert "Time taken" in generate(page)
    assert difference(chosen["images"][0], Image.open(newest(webui))) == 0
    assert page.errors == []
