"""The tab "Finetune on Photos" by clicks in Chromium: from the folder to card, checkpoint menu and other tab."""

from __future__ import annotations

import time

import pytest

from tests.webui.files import copy_renders
from tests.webui.looks import screenshot
from tests.webui.test_script_page import open_page
from tests.webui.test_train_page import CHROMIUM, browser_page, open_tab

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")

T = "#negtrans_finetune_"
STATE = f"{T}status [data-phase]"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return copy_renders(tmp_path_factory.mktemp("photos"), 4)


@pytest.fixture(scope="module")
def page(webui):
    with browser_page() as page:
        open_tab(page, webui, "Finetune on Photos", f"{T}start")
        yield page


def fill(page, name, text):
    page.fill(f"{T}{name} textarea, {T}{name} input", str(text))


def unfold(page, label):
    page.click(f'#tab_negtrans_finetune .label-wrap:has-text("{label}")')


def wait_for(page, phase, seconds=400):
    ends = time.monotonic() + seconds
    while (found := page.get_attribute(STATE, "data-phase")) != phase:
        assert found != "failed" and time.monotonic() < ends, page.inner_text(f"{T}status")
        time.sleep(0.3)


def choose(page, name, choice):
    page.click(f"{T}{name} input")
    page.click(f'{T}{name} ul.options li:has-text("{choice}")')


def test_a_lora_with_class_pictures_from_folder_to_card(page, webui, photos):
    fill(page, "folder", photos)
    fill(page, "renders", photos)
    fill(page, "size", 64)
    fill(page, "steps", 6)
    fill(page, "lr", "1e-2")
    page.click(f"{T}check")
    page.wait_for_selector(f'{T}report .negtrans-dataset:has-text("256x256 (4)")')
    fill(page, "name", "photo-clicked")
    page.wait_for_selector(f'{T}name_hint:has-text("photo-clicked.safetensors")')
    choose(page, "prior", "class")
    unfold(page, "What is preserved")
    fill(page, "class_count", 2)
    fill(page, "class_steps", 2)
    unfold(page, "Judging")
    fill(page, "validate_every", 3)
    fill(page, "sample_prompts", "a coat")
    screenshot(page, "finetune-options")
    page.click(f"{T}start")
    wait_for(page, "finished")
    page.wait_for_selector(f"{T}previews img")
    # loss: single, smoothed, prior; gains: of photos and renders
    assert page.locator(f"{T}status svg.negtrans-curve polyline").count() == 5
    screenshot(page, "finetune-finished")
    card = '#img2img_lora_cards .card[data-name="photo-clicked"]'
    page.wait_for_selector(card, state="attached")  # without anybody pressing the host's refresh button
    page.click(f"{T}use")
    page.wait_for_selector("#img2img_generate", state="visible")
    page.wait_for_function(
        "() => document.querySelector('#img2img_prompt textarea').value === '<lora:photo-clicked:1>'"
    )


def test_then_train_the_negative_on_it(page):
    open_page(page, "Finetune on Photos")
    page.wait_for_selector(f"{T}next", state="visible")
    page.click(f"{T}next")
    page.wait_for_selector("#negtrans_train_start", state="visible")
    loras = "#negtrans_train_loras textarea, #negtrans_train_loras input"
    page.wait_for_function("s => document.querySelector(s).value === 'photo-clicked:1'", arg=loras)
    screenshot(page, "finetune-next")
    page.fill(loras, "")


def test_a_checkpoint_is_in_the_menu_without_a_restart(page):
    open_page(page, "Finetune on Photos")
    page.click(f'{T}kind label:has-text("full")')
    page.wait_for_selector(f"{T}rank", state="hidden")
    page.wait_for_function(f"() => document.querySelector('{T}lr textarea, {T}lr input').value === '1e-6'")
    choose(page, "prior", "none")
    fill(page, "steps", 3)
    fill(page, "lr", "1e-3")  # of smaller steps nothing would be left in fp16
    fill(page, "name", "photo-checkpoint")
    page.click(f"{T}start")
    page.wait_for_selector(f"{STATE}[data-name='photo-checkpoint']")
    wait_for(page, "finished")
    screenshot(page, "finetune-full")
    page.wait_for_timeout(3000)  # the page asks for the list again; a menu that is open keeps the old one
    menu = page.locator("#setting_sd_model_checkpoint, .model_selection").first  # A1111's and Forge's
    menu.locator("input").click()
    menu.locator("ul.options li", has_text="photo-checkpoint").wait_for()
    page.keyboard.press("Escape")
    assert page.failures == []
