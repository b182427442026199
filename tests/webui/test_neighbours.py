"""Beside other extensions: neutral-prompt, ControlNet, Tiled Diffusion and Tiled VAE, installed and active.

NEGTRANS_WEBUI_EXTENSIONS names their checkouts; a test whose extension is missing is skipped.
"""

from __future__ import annotations

import json
import os
from itertools import combinations

import pytest
from PIL import Image

from tests.webui.client import SIZE, Client, arguments, difference, encode, infotext, need_neighbour, pixels, render
from tests.webui.conftest import add_neighbours
from tests.webui.files import copy_renders, make_embedding
from tests.webui.server import WebuiServer, make_data_folder
from tests.webui.test_script_page import PANEL, SCRIPTS, choose, fill_number, generate_from_folder, opened
from tests.webui.test_train_api import finished, train

LARGE = 2 * SIZE  # can be cut into tiles
OURS = {"embedding": "neg-test"}
PROMPT = {"prompt": "a photo of a shirt", "negative_prompt": "blurry"}
TOPK = {**PROMPT, "prompt": "a photo of a shirt AND_TOPK a red striped dress :0.8"}


def large():
    return {"init_images": [encode(render().resize((LARGE, LARGE)))], "width": LARGE, "height": LARGE, **PROMPT}


def started(data, installation, demo_model, neighbours, **options):
    make_data_folder(data, demo_model)
    make_embedding(data / "embeddings", demo_model)
    if neighbours:
        add_neighbours(data, demo_model)
    (data / "config.json").write_text(json.dumps(options), encoding="utf-8")
    server = WebuiServer(data, *installation)
    server.start()
    return server


@pytest.fixture(scope="module")
def alone(webui_installation, demo_model, tmp_path_factory):
    """Pictures of a webui with no other extension."""
    if not os.environ.get("NEGTRANS_WEBUI_EXTENSIONS"):
        pytest.skip("NEGTRANS_WEBUI_EXTENSIONS names no checkouts of other extensions")
    server = started(tmp_path_factory.mktemp("alone"), webui_installation, demo_model, neighbours=False)
    client = Client(server)
    client.plain()  # the host's VAE draws from torch's global generator: begin from a known state
    answers = {
        "plain": client.plain(**PROMPT),
        "translated": client.translate(arguments(**OURS), **PROMPT),
        "concept": client.translate(arguments(**OURS, guidance_limit=0), **TOPK),
    }
    server.stop()
    return {name: answer["images"][0] for name, answer in answers.items()}


@pytest.fixture
def unharmed(client):
    """The same picture without us before and after the test."""
    client.plain()
    before = client.plain(**PROMPT)["images"]
    yield
    client.plain()
    assert client.plain(**PROMPT)["images"] == before


def controlnet(**changes):
    unit = {"enabled": True, "module": "canny", "model": "test-control", "processor_res": SIZE, **changes}
    return {"alwayson_scripts": {"ControlNet": {"args": [unit]}}}


def tiled_vae():
    return {"alwayson_scripts": {"Tiled VAE": {"args": [True, LARGE // 2, LARGE // 32, True, False, False, False]}}}


def tiled_diffusion(method):
    size = [False, True, LARGE, LARGE]
    return {"alwayson_scripts": {"Tiled Diffusion": {"args": [True, method, *size, 16, 16, 4, 4]}}}


DEMOFUSION = {"alwayson_scripts": {"demofusion": {"args": [True, "DemoFusion", True, 16, 8, 4, 1]}}}


def test_installed_but_not_active_they_change_nothing(client, alone):
    client.plain()
    assert difference(client.plain(**PROMPT)["images"][0], alone["plain"]) == 0
    assert difference(client.translate(arguments(**OURS), **PROMPT)["images"][0], alone["translated"]) == 0


def test_and_topk_by_neutral_prompt_and_by_us(client, webui, alone, unharmed):
    need_neighbour(webui, "neutral prompt")
    theirs = client.translate(arguments(**OURS), **TOPK)["images"][0]
    assert difference(theirs, alone["concept"]) <= 2
    assert difference(theirs, alone["translated"]) > 10


def test_controlnet_acts_in_the_steps_that_it_is_asked_for(client, webui, alone, unharmed):
    need_neighbour(webui, "controlnet")

    def controlled(**unit):
        answer = client.translate(arguments(**OURS), **controlnet(**unit), **PROMPT)
        assert "ControlNet 0" in infotext(answer)
        return answer["images"][0]

    assert difference(controlled(weight=0), alone["translated"]) <= 1
    assert difference(controlled(guidance_start=1), alone["translated"]) <= 1  # there is no step behind the last
    no_edges = {"image": encode(Image.new("RGB", (SIZE, SIZE)))}
    made = [controlled(weight=2, **unit) for unit in ({}, {"guidance_end": 0.3}, {"guidance_start": 0.4}, no_edges)]
    apart = [difference(one, other) for one, other in combinations([alone["translated"], *made], 2)]
    assert min(apart) > 1, apart


def test_controlnet_with_concepts_and_in_the_inversion(client, webui, unharmed):
    need_neighbour(webui, "controlnet")
    guided = arguments(**OURS, concepts="red :9 | threshold=0.5", guidance="topk")
    outside = client.translate(guided, **controlnet(), **PROMPT)["images"][0]
    client.options(negtrans_controlnet_in_inversion=True)
    try:
        inside = client.translate(guided, **controlnet(), **PROMPT)["images"][0]
    finally:
        client.options(negtrans_controlnet_in_inversion=False)
    assert difference(inside, outside) > 5


def test_controlnets_reference_is_refused_by_its_name_and_nothing_is_trained_on_what_it_leaves(client, webui, unharmed):
    need_neighbour(webui, "controlnet")
    answer = client.ask(arguments(**OURS), **controlnet(module="reference_only", model="None"), **PROMPT)
    assert answer.status_code == 422 and "ControlNet's reference modes" in answer.json()["detail"]
    copy_renders(webui.data / "renders", 4)
    assert train(webui, "neg-held", steps=1).status_code == 200
    assert "ControlNet still holds the model" in finished(webui)["error"]
    client.translate(arguments(**OURS, tac_ratio=0), **controlnet(module="reference_only", model="None"), **PROMPT)


def test_tiled_vae_changes_a_translation_as_it_changes_any_picture(client, webui, unharmed):
    """It is not exact itself: it sums up the normalisations of its tiles, not of the picture."""
    need_neighbour(webui, "tiled vae")
    changed = []
    for make in (client.plain, lambda **asked: client.translate(arguments(**OURS), **asked)):
        whole, tiled = make(**large())["images"][0], make(**large(), **tiled_vae())["images"][0]
        changed.append(abs(pixels(whole) - pixels(tiled)).mean())
    assert webui.log.count("[Tiled VAE]: split to 2x2 = 4 tiles") >= 4
    assert 0 < changed[1] < changed[0] + 0.5


@pytest.mark.parametrize("method", ["MultiDiffusion", "Mixture of Diffusers", "DemoFusion"])
def test_pictures_in_tiles_are_refused(client, webui, unharmed, method):
    need_neighbour(webui, "tiled diffusion")
    asked = DEMOFUSION if method == "DemoFusion" else tiled_diffusion(method)
    for tac_ratio in (0, 0.9):
        answer = client.ask(arguments(**OURS, tac_ratio=tac_ratio), **large(), **asked)
        assert answer.status_code == 422
        assert "Another extension cuts the picture into tiles (Tiled Diffusion" in answer.json()["detail"]
    client.translate(arguments(**OURS), **large())  # nothing is left behind


def test_beside_them_in_its_own_panel(client, webui, webui_installation, demo_model, tmp_path_factory, alone):
    """The script always on, by the setting: the dropdown's bytes with each of them."""
    data = tmp_path_factory.mktemp("always-on")
    server = started(data, webui_installation, demo_model, neighbours=True, negtrans_always_on=True)
    beside = Client(server)
    own = {"Realistic Translation": {"args": arguments(**OURS, enabled=True)}}
    try:
        beside.plain()
        assert difference(beside.plain(**PROMPT)["images"][0], alone["plain"]) == 0
        there = {script["name"] for script in webui.get("/sdapi/v1/script-info").json()}
        active = {"neutral prompt": TOPK, "controlnet": controlnet() | PROMPT, "tiled vae": tiled_vae() | large()}
        for asked in (active[name] for name in there & active.keys()):
            chosen = client.translate(arguments(**OURS), **asked)
            both = {**asked, "alwayson_scripts": own | asked.get("alwayson_scripts", {})}
            assert beside.plain(**both)["images"] == chosen["images"]
        beside.plain()
        assert difference(beside.plain(**PROMPT)["images"][0], alone["plain"]) == 0
    finally:
        server.stop()


def test_a_folder_with_controlnet_in_the_batch_tab(webui, client, tmp_path):
    """Each picture becomes what it becomes alone, although the host uses one object for all."""
    need_neighbour(webui, "controlnet")
    folder, results = copy_renders(tmp_path / "in", 2), tmp_path / "out"
    with opened(webui) as page:
        choose(page, SCRIPTS, "Realistic Translation")
        page.wait_for_selector(f"{PANEL}preset")
        choose(page, f"{PANEL}embedding", "neg-test")
        for name, value in (("width", SIZE), ("height", SIZE), ("steps", 20), ("denoising_strength", 0.3), ("seed", 1)):
            fill_number(page, f"#img2img_{name}", value)
        fill_number(page, "#img2img_cfg_scale", 7.5)
        unit = "#img2img_controlnet_ControlNet-0_controlnet"
        page.click("#img2img_controlnet #controlnet > .label-wrap")
        page.check(f"{unit}_enable_checkbox input")
        choose(page, f"{unit}_model_dropdown", "test-control")
        made = generate_from_folder(page, folder, results)
        assert page.errors == []
    for file, result in made:
        with Image.open(file) as picture:
            asked = controlnet(module="none", resize_mode="Just Resize") | {"init_images": [encode(picture)]}
        alone = client.translate(arguments(**OURS), **asked)["images"][0]
        without = client.translate(arguments(**OURS), init_images=asked["init_images"])["images"][0]
        with Image.open(result) as picture:
            assert difference(picture, alone) == 0 and difference(picture, without) > 10
