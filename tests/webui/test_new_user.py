"""A first picture by five clicks and drops, without a text; a screenshot of each where NEGTRANS_SCREENSHOTS says."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from tests.webui.client import render
from tests.webui.files import copy_renders
from tests.webui.looks import cut_off, english, faint, screenshot
from tests.webui.server import WebuiServer, make_data_folder
from tests.webui.test_script_page import PANEL, fill_number, generate, newest, open_page, opened, upload
from tests.webui.test_train_page import fill, wait_for

LANGUAGES = {"english": "None", "japanese": "ja_JP"}


@pytest.fixture(scope="module", params=LANGUAGES)
def fresh(request, webui_installation, demo_model, tmp_path_factory):
    """A webui that nobody has used, in one language, and what it calls some things."""
    data = tmp_path_factory.mktemp(request.param)
    make_data_folder(data, demo_model)
    (data / "config.json").write_text(json.dumps({"localization": LANGUAGES[request.param]}), encoding="utf-8")
    server = WebuiServer(data, *webui_installation)
    server.start()
    file = data / "extensions/sd-webui-negtrans/localizations/ja_JP.json"
    words = json.loads(file.read_text(encoding="utf-8")) if request.param == "japanese" else {}
    yield server, request.param, lambda text: words.get(text, text)
    server.stop()


def test_from_the_tab_to_the_picture(fresh, tmp_path):
    webui, language, said = fresh
    source = tmp_path / "render.png"
    render().resize((256, 256)).save(source)
    files = sorted(copy_renders(tmp_path / "renders", 4).iterdir())
    with opened(webui) as page:

        def look(step):
            for theme in ("dark", "light"):
                page.evaluate(f"document.body.classList.toggle('dark', {json.dumps(theme == 'dark')})")
                page.wait_for_timeout(1000)
                assert (step, theme, cut_off(page), faint(page)) == (step, theme, [], [])
                screenshot(page, f"new-user-{language}-{step}-{theme}")

        open_page(page, said("Train Negative Embedding"))
        page.wait_for_selector("#negtrans_train_start", state="visible")
        fill(page, "steps", 3)  # the only things that a user would not do: a training of an hour is made one of seconds
        fill(page, "size", 128)
        page.evaluate("window.dispatchEvent(new Event('focus'))")  # as the dialog closes
        page.wait_for_timeout(500)  # what was asked for before is answered
        page.set_input_files("#negtrans_train_files input[type=file]", files)
        page.wait_for_selector("#negtrans_train_files a[href]")  # they have arrived
        look("1-dropped")
        page.click("#negtrans_train_start")
        wait_for(page, "finished")
        look("2-trained")
        assert language == "english" or english(page, "#negtrans_train_status") == []
        page.click("#negtrans_train_use")
        page.wait_for_function(f"() => document.querySelector('{PANEL}embedding input').value == 'neg-render'")
        upload(page, source)
        for side in ("width", "height"):
            fill_number(page, f"#img2img_{side}", 256)
        look("3-render")
        away = said("Then {used} steps lead away from {embedding}, with CFG scale {scale}.")
        assert away.format(used=9, embedding="neg-render", scale="7.5") in page.inner_text(f"{PANEL}summary")
        generate(page)
        page.click(f"{PANEL}compare summary")
        look("4-picture")
        text = Image.open(newest(webui)).text["parameters"]
        for written in (
            "Steps: 50",
            "CFG scale: 7.5",
            "Denoising strength: 0.3",
            "NegTrans negative embedding: neg-render",
        ):
            assert written in text
        assert "NegTrans preset: default" in text and page.errors == []
