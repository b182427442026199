"""Training by clicks on a real webui's page in Chromium: from the folder to the card and on to img2img."""

from __future__ import annotations

import contextlib
import shutil
import time

import pytest
from PIL import Image

from tests.browser.test_page_training import captions_below
from tests.webui.files import copy_renders
from tests.webui.looks import screenshot
from tests.webui.test_script_page import open_page

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
NAME = "neg-clicked"
STATE = "#negtrans_train_status [data-phase]"


@pytest.fixture(scope="module")
def renders(tmp_path_factory):
    return copy_renders(tmp_path_factory.mktemp("renders"), 4)


@pytest.fixture(scope="module")
def messy(tmp_path_factory):
    """What people have: sub-folders, a copy in another size, broken files, a circular link, a name from elsewhere."""
    folder = tmp_path_factory.mktemp("messy")
    files = sorted(copy_renders(tmp_path_factory.mktemp("files"), 6).iterdir())
    for number, path in enumerate(files):
        target = folder / ("long_dress" if number < 4 else "Coat: red?") / f"{number}.png"
        target.parent.mkdir(exist_ok=True)
        shutil.copy(path, target)
    (folder / "long_dress" / "1.txt").write_text("a dress with a belt", encoding="utf-8")
    with Image.open(files[0]) as image:
        image.resize((192, 192)).convert("RGB").save(folder / "again.jpg", quality=85)
    (folder / "cut.png").write_bytes(files[0].read_bytes()[:2000])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "circle").symlink_to(folder)
    return folder


@pytest.fixture(scope="module")
def page(webui):
    with browser_page() as page:
        open_tab(page, webui)
        yield page


@contextlib.contextmanager
def browser_page():
    """A page of a browser of its own, with the errors that it reports in `failures`."""
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1400, "height": 1100})
        page.set_default_timeout(300_000)  # a loaded machine is slow
        page.failures = []
        page.on("pageerror", lambda error: page.failures.append(str(error)))
        yield page
        browser.close()


def open_tab(page, webui, title="Train Negative Embedding", start="#negtrans_train_start"):
    page.goto(f"{webui.url}/?__theme=light", wait_until="domcontentloaded")
    page.wait_for_selector(start, state="attached")
    page.wait_for_function(
        "() => typeof gradio_config !== 'undefined' && document.querySelector('#tabs .tab-nav, #tabs [role=tab]')"
    )
    time.sleep(2)
    open_page(page, title)
    page.wait_for_selector(start, state="visible")


def fill(page, name, text):
    page.fill(f"#negtrans_train_{name} textarea, #negtrans_train_{name} input", str(text))


def wait_for(page, phase, seconds=600):
    ends = time.monotonic() + seconds
    while (found := page.get_attribute(STATE, "data-phase")) != phase:
        assert found != "failed" and time.monotonic() < ends, page.inner_text("#negtrans_train_status")
        time.sleep(0.3)


def test_check_dataset_and_name_as_typed(page, renders):
    fill(page, "folder", renders)
    fill(page, "size", 128)
    page.click("#negtrans_train_check")
    page.wait_for_selector("#negtrans_train_report .negtrans-dataset")
    assert "256x256 (4)" in page.inner_text("#negtrans_train_report")
    page.wait_for_selector("#negtrans_train_thumbnails img")
    fill(page, "name", "Neg X")
    page.wait_for_selector("#negtrans_train_name_hint .negtrans-error")
    fill(page, "name", NAME)
    page.wait_for_selector(f'#negtrans_train_name_hint:has-text("Trigger word: {NAME}")')


def test_prepare_a_messy_folder_and_check_it(page, messy, tmp_path_factory):
    before = {path: path.stat().st_mtime_ns for path in messy.rglob("*") if path.is_file()}
    target = tmp_path_factory.mktemp("prepared") / "new folder"
    page.click('#negtrans_train_prepare .label-wrap:has-text("Prepare a folder")')
    page.wait_for_selector("#negtrans_train_prepare_start", state="visible")
    page.click("#negtrans_train_prepare_start")
    page.wait_for_selector('#negtrans_train_prepare_report .negtrans-error:has-text("Name both folders")')
    fill(page, "prepare_source", messy)
    fill(page, "prepare_target", target)
    fill(page, "prepare_size", 128)
    page.click("#negtrans_train_prepare_start")
    page.wait_for_selector("#negtrans_train_prepare_report [data-prepare='finished']")
    report = page.inner_text("#negtrans_train_prepare_report")
    assert f"6 of 9 pictures prepared at 128 pixels in {target}." in report
    assert "Captions: 1 from .txt files, 5 from names of sub-folders, 0 without." in report
    for left_out in ("again.jpg is nearly the same as long_dress/0.png", "cut.png cannot", "empty.jpg cannot"):
        assert f"Left out: {left_out}" in report
    assert sorted(path.name for path in target.glob("*.png"))[:2] == ["Coat_ red_-4.png", "Coat_ red_-5.png"]
    assert before == {path: path.stat().st_mtime_ns for path in messy.rglob("*") if path.is_file()}
    page.click("#negtrans_train_prepare_use")
    folder = "#negtrans_train_folder textarea, #negtrans_train_folder input"
    page.wait_for_function("([s, v]) => document.querySelector(s).value === v", arg=[folder, str(target)])
    assert page.input_value("#negtrans_train_size input") == "128"
    page.click("#negtrans_train_check")
    page.wait_for_selector('#negtrans_train_report .negtrans-dataset:has-text("128x128 (6)")')
    page.wait_for_function("() => document.querySelectorAll('#negtrans_train_thumbnails img').length >= 6")
    screenshot(page, "prepare")
    # the same folder again is refused in a sentence
    page.click("#negtrans_train_prepare_start")
    page.wait_for_selector('#negtrans_train_prepare_report .negtrans-error:has-text("is not empty")')
    page.click('#negtrans_train_prepare .label-wrap:has-text("Prepare a folder")')


def test_one_waits_for_another(page, renders):
    fill(page, "folder", renders)
    fill(page, "size", 128)
    fill(page, "steps", 100_000)
    for name in ("neg-first", "neg-second"):
        fill(page, "name", name)
        page.click("#negtrans_train_start")
        if name == "neg-first":
            wait_for(page, "training")
    page.wait_for_selector('#negtrans_train_status .negtrans-queue:has-text("neg-second")')
    page.click("#negtrans_train_cancel")
    page.wait_for_selector('#negtrans_train_message:has-text("neg-second will not be trained")')
    page.wait_for_selector("#negtrans_train_status .negtrans-queue", state="detached")
    page.click("#negtrans_train_interrupt")
    wait_for(page, "stopped")
    fill(page, "name", NAME)


def test_start_reload_interrupt_resume(page, webui):
    page.click('#negtrans_train_preset label:has-text("quick")')
    page.wait_for_function("() => document.querySelector('#negtrans_train_steps input').value == 200")
    fill(page, "steps", 100_000)
    page.click("#negtrans_train_start")
    wait_for(page, "training")
    page.wait_for_selector("#negtrans_train_status svg")
    # a page that is opened again finds the training
    open_tab(page, webui)
    wait_for(page, "training")
    page.click("#negtrans_train_interrupt")
    wait_for(page, "stopped")
    step = int(page.get_attribute(STATE, "data-step"))
    fill(page, "name", NAME)
    page.click("#negtrans_train_resume")
    wait_for(page, "training")
    page.click("#negtrans_train_interrupt")
    wait_for(page, "stopped")
    assert int(page.get_attribute(STATE, "data-step")) >= step > 0


def test_to_the_end(page, renders):
    fill(page, "folder", renders)
    fill(page, "size", 128)
    fill(page, "steps", 5)
    for group in ("judging", "saving"):
        page.click(f"#negtrans_train_group_{group} > .label-wrap")
    page.wait_for_selector("#negtrans_train_validate_every input", state="visible")
    fill(page, "validate_every", 2)
    fill(page, "save_every", 2)
    page.wait_for_selector("#negtrans_train_name_hint p", state="detached")  # the run that ended is not complained of
    for name in ("neg-other", NAME):
        fill(page, "name", name)
    page.wait_for_selector('#negtrans_train_name_hint:has-text("resume it")')
    page.click("#negtrans_train_overwrite input")
    page.wait_for_selector('#negtrans_train_name_hint:has-text("Trigger word")')
    page.click("#negtrans_train_start")
    wait_for(page, "finished")
    assert page.get_attribute(STATE, "data-step") == "5"
    # measured before the first step, after the second and fourth, and at the end
    assert page.get_attribute("#negtrans_train_status svg.negtrans-gains", "data-points") == "4"
    assert page.inner_text("#negtrans_train_status .negtrans-verdict b").endswith(":")
    page.wait_for_selector("#negtrans_train_previews img")
    assert all(captions_below(page))


def test_compare_pick_and_name(page, webui):
    page.click("#negtrans_train_compare > .label-wrap")
    page.wait_for_selector("#negtrans_train_compare_refresh", state="visible")
    page.click("#negtrans_train_compare_refresh")
    page.wait_for_selector('#negtrans_train_compare_steps label:has-text("step 4")')
    for step in ("step 2", "step 4"):
        page.click(f'#negtrans_train_compare_steps label:has-text("{step}")')
    page.click("#negtrans_train_compare_start")
    page.wait_for_selector("#negtrans_train_compare_status [data-compare='finished']", state="attached")
    page.wait_for_selector("#negtrans_train_compare_grid img")
    page.click("#negtrans_train_compare_choice input")
    page.click('#negtrans_train_compare_choice ul.options li:has-text("step 2")')
    page.fill("#negtrans_train_compare_name textarea, #negtrans_train_compare_name input", "neg-picked")
    page.click("#negtrans_train_compare_write")
    page.wait_for_selector('#negtrans_train_compare_message:has-text("holds the vectors of step 2")')
    page.wait_for_selector('#negtrans_train_compare_message:has-text("neg-picked is loaded")')
    assert (webui.data / "embeddings" / "neg-picked.pt").is_file()
    card = '#img2img_textual_inversion_cards .card[data-name="neg-picked"]'
    page.wait_for_selector(card, state="attached")  # without anybody pressing the host's refresh button


def test_the_card_is_there_without_a_restart(page):
    open_page(page, "img2img")
    page.click('#img2img_extra_tabs button:has-text("Textual Inversion")')
    card = f'#img2img_textual_inversion_cards .card[data-name="{NAME}"]'
    page.wait_for_selector(card)
    assert f"{NAME}.preview.png" in page.get_attribute(f"{card} img", "src")
    page.fill("#img2img_neg_prompt textarea", "blurry")
    page.click("#img2img_prompt textarea")  # the host inserts into the prompt that was clicked last, or the first
    page.click(card)
    page.wait_for_function(f"() => document.querySelector('#img2img_neg_prompt textarea').value === 'blurry {NAME}'")
    page.fill("#img2img_neg_prompt textarea", "blurry")


def test_use_in_img2img(page):
    open_page(page, "Train Negative Embedding")
    page.wait_for_selector("#negtrans_train_use", state="visible")
    page.click("#negtrans_train_use")
    page.wait_for_selector("#img2img_generate", state="visible")
    page.wait_for_function(
        "() => document.querySelector('#tab_img2img #script_list input').value === 'Realistic Translation'"
    )
    page.wait_for_function(
        f"() => document.querySelector('#negtrans_img2img_embedding input').value === '{NAME}'"
        " && document.querySelector('#img2img_steps input[type=number]').value == 50"
    )
    for element, value in (("img2img_cfg_scale", 7.5), ("img2img_denoising_strength", 0.3)):
        assert float(page.input_value(f"#{element} input[type=number]")) == value
    assert page.input_value("#img2img_neg_prompt textarea") == "blurry"  # the name is in the panel
    summary = page.locator("#negtrans_img2img_summary")
    summary.filter(has_text=f"away from {NAME} and the negative prompt").first.wait_for()
    assert summary.locator("button").count() == 0
    assert page.failures == []
