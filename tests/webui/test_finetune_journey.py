"""Both halves by clicks, in Chromium: a LoRA of photographs, the negative on it, both in one file, a checkpoint.

NEGTRANS_PHOTOS names a folder of photographs; without it renders stand in for them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.webui import test_finetune_page as finetune
from tests.webui import test_train_page as negative
from tests.webui.client import Client, arguments, difference
from tests.webui.files import copy_renders
from tests.webui.looks import screenshot
from tests.webui.server import REPOSITORY
from tests.webui.test_finetune_page import T, unfold
from tests.webui.test_journey import small
from tests.webui.test_script_page import (  # noqa: F401
    PANEL,
    SCRIPTS,
    choose,
    generate,
    newest,
    open_page,
    page,
    send_to_img2img,
)

LORA, NEGATIVE, FULL = "photo-journey", "neg-journey-photo", "photo-journey-full"
BUNDLE = f"{LORA}.bundle"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """(photographs, renders)"""
    place = tmp_path_factory.mktemp("journey")
    if given := os.environ.get("NEGTRANS_PHOTOS"):
        (place / "photos").mkdir()
        for path in sorted(Path(given).glob("*.jpg"))[:12]:
            shutil.copy(path, place / "photos")
    else:
        copy_renders(place / "photos", 6)
    return place / "photos", copy_renders(place / "renders", 6)


def card(name):
    return f'#img2img_lora_cards .card[data-name="{name}"]'


def click_card(page, name):  # noqa: F811
    """In img2img's tab Lora, which stays open afterwards."""
    open_page(page, "img2img")
    page.click('#img2img_extra_tabs button:has-text("Lora")')
    page.wait_for_selector(card(name), state="visible")
    screenshot(page, f"finetune-card-{name}")
    page.click(card(name))
    page.wait_for_function(f"() => document.querySelector('#img2img_prompt textarea').value.includes('<lora:{name}:')")
    page.click('#img2img_extra_tabs button:has-text("Generation")')


def translate(page, webui, source):  # noqa: F811
    """The render with Realistic Translation, at few steps and pixels; gives the picture's file."""
    choose(page, SCRIPTS, "Realistic Translation")
    page.wait_for_selector(f"{PANEL}preset")
    small(page, source)
    generate(page)
    return newest(webui)


def test_a_lora_of_60_steps_its_card_and_the_negative_on_it(page, webui, folders):  # noqa: F811
    photos, renders = folders
    open_page(page, "Finetune on Photos")
    page.wait_for_selector(f"{T}start", state="visible")
    for name, value in (("folder", photos), ("renders", renders), ("size", 64), ("steps", 60), ("lr", "1e-3")):
        finetune.fill(page, name, value)
    finetune.fill(page, "name", LORA)
    finetune.choose(page, "prior", "class")
    unfold(page, "What is preserved")
    finetune.fill(page, "class_count", 4)
    finetune.fill(page, "class_steps", 10)
    page.click(f"{T}start")
    finetune.wait_for(page, "finished", 1500)
    screenshot(page, "finetune-60")
    assert len(list(webui.data.rglob("class-0000000?.png"))) >= 4

    page.click(f"{T}next")
    page.wait_for_selector("#negtrans_train_start", state="visible")
    loras = "#negtrans_train_loras textarea, #negtrans_train_loras input"
    page.wait_for_function(f"s => document.querySelector(s).value === '{LORA}:1'", arg=loras)
    for name, value in (("folder", renders), ("size", 64), ("steps", 20), ("name", NEGATIVE)):
        negative.fill(page, name, value)
    page.click("#negtrans_train_start")
    negative.wait_for(page, "finished", 1500)
    screenshot(page, "finetune-negative")

    click_card(page, LORA)
    assert (webui.data / "models/Lora" / f"{LORA}.preview.png").is_file()
    assert page.errors == []


def test_both_in_one_file(page, webui, source):  # noqa: F811
    models = webui.data / "models" / "Lora"
    call = ["bundle", models / f"{LORA}.safetensors", webui.data / "embeddings" / f"{NEGATIVE}.pt"]
    call += ["--out", models / f"{BUNDLE}.safetensors"]
    subprocess.run([sys.executable, "-m", "lib_negtrans", *map(str, call)], cwd=REPOSITORY, check=True)
    # the embedding's own file goes: what the prompt then names can only be the bundle's
    for file in (webui.data / "embeddings").glob(f"{NEGATIVE}.*"):
        file.rename(webui.data / file.name)
    page.click('#img2img_extra_tabs button:has-text("Lora")')
    page.click("#img2img_lora_extra_refresh")
    click_card(page, BUNDLE)
    page.fill("#img2img_neg_prompt textarea", NEGATIVE)
    first = translate(page, webui, source)
    screenshot(page, "finetune-bundle")
    with Image.open(first) as picture:
        text = picture.text["parameters"]
        assert f"<lora:{BUNDLE}:1>" in text and f"Negative prompt: {NEGATIVE}" in text
        assert f'Lora hashes: "{BUNDLE}: ' in text and f'TI hashes: "{NEGATIVE}: ' in text

    send_to_img2img(page, webui, first)
    page.wait_for_function(
        f"() => document.querySelector('#img2img_prompt textarea').value.includes('<lora:{BUNDLE}:1>')"
    )
    again = translate(page, webui, source)
    assert again != first
    with Image.open(first) as one, Image.open(again) as other:
        assert one.text == other.text and difference(one, other) == 0
        assert difference(one, Client(webui).translate(arguments())["images"][0]) > 3
    assert page.errors == []


def test_a_checkpoint_of_20_steps(page, webui, folders, source):  # noqa: F811
    open_page(page, "Finetune on Photos")
    page.wait_for_selector(f"{T}start", state="visible")
    page.click(f'{T}kind label:has-text("full")')
    page.wait_for_selector(f"{T}rank", state="hidden")
    values = {"folder": folders[0], "size": 64, "steps": 20, "lr": "1e-4", "name": FULL}
    for name, value in values.items():
        finetune.fill(page, name, value)
    page.click(f"{T}start")
    page.wait_for_selector(f"{finetune.STATE}[data-name='{FULL}']")
    finetune.wait_for(page, "finished", 1500)
    screenshot(page, "finetune-full-20")
    page.wait_for_timeout(3000)  # the page asks for the list again; a menu that is open keeps the old one
    page.click("#setting_sd_model_checkpoint input")
    page.click(f'#setting_sd_model_checkpoint ul.options li:has-text("{FULL}")')
    page.wait_for_function(
        f"() => document.querySelector('#setting_sd_model_checkpoint input').value.includes('{FULL}')"
    )
    open_page(page, "img2img")
    made = translate(page, webui, source)
    screenshot(page, "finetune-full-used")
    with Image.open(made) as picture:
        assert f"Model: {FULL}" in picture.text["parameters"]
    former = next(m["title"] for m in webui.get("/sdapi/v1/sd-models").json() if "negtrans-demo" in m["title"])
    assert webui.post("/sdapi/v1/options", {"sd_model_checkpoint": former}).status_code == 200
    assert page.errors == []
