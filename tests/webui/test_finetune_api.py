"""LoRAs and checkpoints trained inside a real webui, over its API: listed at once, and the webui is as it was."""

from __future__ import annotations

import pytest

from tests.webui.client import pixels
from tests.webui.files import copy_renders
from tests.webui.test_train_api import API, finished

SMALL = {"size": 64, "steps": 4, "lr": "1e-2", "ema": 0.1}
PROMPT = {"seed": 1, "steps": 4, "width": 64, "height": 64, "sampler_name": "DDIM", "cfg_scale": 3}


@pytest.fixture(scope="module")
def photos(webui):
    """The API reads pictures below the webui's data folder; which ones does not matter here."""
    return copy_renders(webui.data / "photos", 3)


def train(webui, name, kind, **params):
    answer = webui.post(f"{API}/train", {"name": name, "kind": kind, "images": "photos", "params": SMALL | params})
    assert answer.status_code == 200, answer.text
    state = finished(webui)
    assert state["phase"] == "finished", (state["error"], state["log"])
    return state


def picture(webui, prompt="a coat", **more):
    answer = webui.post("/sdapi/v1/txt2img", PROMPT | {"prompt": prompt} | more)
    answer.raise_for_status()
    return pixels(answer.json()["images"][0]).tobytes()  # the file's text names the prompt


def test_a_lora_is_listed_and_changes_pictures_at_once(webui, photos):
    picture(webui)  # the first picture after a start draws from an unseeded generator
    before = picture(webui)
    # the host's Lora extension has another LoRA in the weights when the training begins
    assert picture(webui, "a coat <lora:test-lora:1>") != before
    with_other = picture(webui, "a coat <lora:test-lora:1>")
    state = train(webui, "photo-a", "lora", text_encoder=True, conv_rank=2)
    assert any("photo-a is in the Lora tab" in line for line in state["log"])
    assert "photo-a" in [lora["name"] for lora in webui.get("/sdapi/v1/loras").json()]
    assert (webui.data / "models/Lora/photo-a.json").is_file()
    assert picture(webui) == before
    assert picture(webui, "a coat <lora:test-lora:1>") == with_other
    changed = picture(webui, "a coat <lora:photo-a:1>")
    assert changed != before and picture(webui, "a coat <lora:photo-a:0>") == before
    assert "Networks with errors" not in webui.log


def test_gradient_checkpointing_gives_the_same_lora(webui, photos):
    """ldm's blocks recompute their forward, hooks included."""
    plain = train(webui, "photo-plain", "lora", seed=5)
    again = train(webui, "photo-checked", "lora", seed=5, gradient_checkpointing=True)
    losses = [[loss for _, loss, _ in state["curve"]] for state in (plain, again)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_negative_is_trained_on_a_lora(webui, photos):
    before = picture(webui)
    params = {"size": 64, "steps": 2, "vectors": 1, "accumulation": 1, "preview_every": 0}
    body = {"name": "neg-on-lora", "images": "photos", "preset": "quick", "params": params}
    webui.post(f"{API}/train", body)
    alone = finished(webui)
    answer = webui.post(f"{API}/train", body | {"overwrite": True, "loras": ["photo-a:1"]})
    assert answer.status_code == 200, answer.text
    on_lora = finished(webui)
    assert on_lora["phase"] == "finished", on_lora["error"]
    assert on_lora["curve"] != alone["curve"]
    assert picture(webui) == before


def test_a_checkpoint_is_listed_and_can_be_chosen_at_once(webui, photos):
    before = picture(webui)
    with_lora = picture(webui, "a coat <lora:test-lora:1>")  # it is in the weights when they are copied
    train(webui, "photo-full", "full", text_encoder=True, ema=0.0, lr="1e-4")
    assert picture(webui) == before and picture(webui, "a coat <lora:test-lora:1>") == with_lora
    titles = {model["model_name"]: model["title"] for model in webui.get("/sdapi/v1/sd-models").json()}
    assert "photo-full" in titles
    former = webui.get("/sdapi/v1/options").json()["sd_model_checkpoint"]
    try:
        assert webui.post("/sdapi/v1/options", {"sd_model_checkpoint": titles["photo-full"]}).status_code == 200
        assert picture(webui) != before
    finally:
        webui.post("/sdapi/v1/options", {"sd_model_checkpoint": former})
    assert picture(webui) == before
