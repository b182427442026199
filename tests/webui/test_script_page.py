"""The script by clicks, in Chromium on a real webui."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import pytest
from PIL import Image

from tests.webui.client import SIZE, arguments, difference

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
PANEL = "#negtrans_img2img_"
SCRIPTS = "#img2img_script_container #script_list"
LONG = 300_000  # milliseconds: a loaded machine is slow


@pytest.fixture
def page(webui):
    with opened(webui) as page:
        yield page


@contextlib.contextmanager
def opened(webui):
    """img2img in a browser of its own, with the errors that the page reports in `errors`."""
    if not CHROMIUM.exists():
        pytest.skip(f"there is no Chromium at {CHROMIUM}")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        page = browser.new_page(viewport={"width": 1400, "height": 1900})
        page.set_default_timeout(LONG)
        # the webui asks for fonts and scripts of other hosts
        page.route("https://**", lambda route: route.abort())
        page.errors = []
        page.on("pageerror", lambda error: theirs(error) or page.errors.append(error.stack or str(error)))
        # what our scripts catch, so that the page goes on
        page.on("console", lambda m: page.errors.append(m.text) if m.text.startswith("negtrans:") else None)
        open_img2img(page, webui)
        yield page
        browser.close()


def theirs(error):
    """Whether an error is Forge's own: of the frame where a size is typed or the canvas, in fields it has no longer."""
    return any(file in (error.stack or "") for file in ("aspectRatioOverlay", "canvas.min.js"))


def open_img2img(page, webui):
    page.goto(f"{webui.url}/?__theme=light", wait_until="domcontentloaded")
    page.wait_for_selector("#img2img_generate", state="attached")
    page.wait_for_function(
        "() => document.querySelector('#img2img_prompt textarea') && typeof gradio_config == 'object'"
    )
    page.wait_for_timeout(3000)
    open_page(page, "img2img")


def open_page(page, title):
    """Choose one of the webui's own tabs: gradio 3's or 4's."""
    page.locator("#tabs > .tab-nav button, #tabs [role=tab]").filter(has_text=title).first.click()


def upload(page, source):
    """A picture into img2img's field, in the place of one that is there."""
    clear = page.locator("#img2img_image button[aria-label=Clear]")
    if clear.count():
        clear.click()
    page.set_input_files("#img2img_image input[type=file]", source)
    page.wait_for_selector("#img2img_image img")
    page.wait_for_timeout(3000)


def choose(page, dropdown, text):
    page.click(f"{dropdown} input")
    page.click(f'{dropdown} ul.options li:has-text("{text}")')


def number(page, element):
    return float(page.input_value(f"{element} input[type=number]"))


def fill_number(page, element, value):
    page.fill(f"{element} input[type=number]", str(value))
    page.press(f"{element} input[type=number]", "Tab")


def open_groups(page):
    for group, option in (("inversion", "solver"), ("attention", "tac_blend"), ("guidance", "cfg_rescale")):
        if not page.is_visible(f"{PANEL}{option}"):
            page.click(f"{PANEL}group_{group} > .label-wrap")
        page.wait_for_selector(f"{PANEL}{option}")


def choose_axes(page, axes):
    """Of the X/Y/Z plot, which is chosen; axes: letter -> (label, values)."""
    choose(page, SCRIPTS, "X/Y/Z plot")
    page.wait_for_selector("#script_img2img_xyz_plot_x_type")
    for axis, (label, _) in axes.items():
        choose(page, f"#script_img2img_xyz_plot_{axis}_type", label)
    page.wait_for_timeout(3000)  # the page empties the values of an axis that was chosen
    for axis, (_, values) in axes.items():
        page.fill(f"#script_img2img_xyz_plot_{axis}_values textarea", values)


def generate(page) -> str:
    """Click Generate, wait for its end, and give what the page says under the picture."""
    page.wait_for_timeout(2000)  # the page sends what its controls' last events have set
    page.evaluate("document.querySelector('#html_log_img2img .performance')?.remove()")  # what the last job took
    page.click("#img2img_generate")
    try:
        page.wait_for_function("() => /Time taken/.test(document.querySelector('#html_log_img2img').innerText)")
    except playwright.TimeoutError:
        page.screenshot(path="/tmp/negtrans-page.png", full_page=True)
        raise
    return page.inner_text("#html_log_img2img")


def generate_from_folder(page, folder, results) -> list[tuple[Path, Path]]:
    """By the Batch tab: each file and its picture, in the files' order: Forge does not keep their names."""
    page.click('#mode_img2img button:has-text("Batch")')
    page.click('#img2img_batch_source button:has-text("From directory")')
    page.fill("#img2img_batch_input_dir textarea", str(folder))
    page.fill("#img2img_batch_output_dir textarea", str(results))
    generate(page)
    files, made = sorted(folder.iterdir()), sorted(results.glob("*.png"))
    assert len(files) == len(made)
    return list(zip(files, made, strict=True))


def newest(webui) -> Path:
    return max((webui.data / "outputs").rglob("*.png"), key=lambda file: file.stat().st_mtime)


def same_file(one: Path, other: Path) -> bool:
    """By bytes, but for the alpha channel into which Forge writes a copy of the text with the time."""
    with Image.open(one) as first, Image.open(other) as second:
        same = first.text == second.text and difference(first, second) == 0
        return same and (first.mode == "RGBA" or one.read_bytes() == other.read_bytes())


def send_to_img2img(page, webui, picture, says="NegTrans"):
    """On a page loaded anew, by the tab PNG Info; says: what is waited for in the picture's text."""
    open_img2img(page, webui)
    open_page(page, "PNG Info")
    page.set_input_files("#pnginfo_image input[type=file]", picture)
    page.wait_for_function(f"() => /{says}/.test(document.querySelector('#tab_pnginfo').innerText)")
    page.click("#tab_pnginfo #img2img_tab")


def test_panel_picture_and_back_from_its_text(page, webui, source):
    choose(page, SCRIPTS, "Realistic Translation")
    page.wait_for_selector(f"{PANEL}preset")
    page.click(f"{PANEL}summary button:has-text('Put all back')")
    page.wait_for_function("() => document.querySelector('#img2img_steps input[type=number]').value == 50")
    assert number(page, "#img2img_denoising_strength") == 0.3

    upload(page, source)
    page.fill("#img2img_neg_prompt textarea", "blurry")
    for side in ("width", "height"):
        fill_number(page, f"#img2img_{side}", SIZE)
    fill_number(page, "#img2img_steps", 20)
    choose(page, f"{PANEL}embedding", "neg-test")
    assert "inversion corrected" in page.inner_text(f"{PANEL}preset_sentence")
    open_groups(page)
    fill_number(page, f"{PANEL}tac_ratio", 0.5)
    assert not page.is_visible(f"{PANEL}topk_ratio")
    page.click(f'{PANEL}guidance label:has-text("topk")')
    page.wait_for_selector(f"{PANEL}topk_ratio")
    assert not page.is_visible(f"{PANEL}sega_threshold")
    fill_number(page, f"{PANEL}topk_ratio", 0.25)
    fill_number(page, f"{PANEL}tac_blend", 0.75)
    page.fill(f"{PANEL}tac_depths textarea", "0.9 0.5")
    page.wait_for_function(f"() => /strongest 25 %/.test(document.querySelector('{PANEL}summary').innerText)")
    page.fill(f"{PANEL}source_prompt textarea", 'a render, "cg"')
    page.wait_for_function(f"() => /4 of 20 steps/.test(document.querySelector('{PANEL}summary').innerText)")
    assert "away from neg-test" in page.inner_text(f"{PANEL}summary")
    said = generate(page)
    assert "DPM++ 2M was not used" in said or "Euler" in said
    first = newest(webui)

    send_to_img2img(page, webui, first)
    page.wait_for_function(
        f"() => document.querySelector('{PANEL}embedding input').value == 'neg-test'"
        " && document.querySelector('#img2img_neg_prompt textarea').value == 'blurry'"
    )
    assert page.input_value(f"{SCRIPTS} input") == "Realistic Translation"
    assert page.is_visible(f"{PANEL}summary")
    assert number(page, f"{PANEL}tac_ratio") == 0.5
    open_groups(page)
    assert page.is_checked(f'{PANEL}guidance label:has-text("topk") input')
    page.wait_for_selector(f"{PANEL}topk_ratio")
    assert (number(page, f"{PANEL}topk_ratio"), number(page, f"{PANEL}tac_blend")) == (0.25, 0.75)
    assert page.input_value(f"{PANEL}tac_depths textarea") == "0.9 0.5"
    assert page.input_value(f"{PANEL}source_prompt textarea") == 'a render, "cg"'
    # "Send to img2img" brings the finished picture; its text does not hold the render
    upload(page, source)
    generate(page)
    again = newest(webui)
    assert again != first
    assert same_file(first, again)
    assert page.errors == []


@pytest.mark.parametrize("preset", ["default", "fast"])
def test_a_preset_by_clicks_is_the_apis_picture_and_plain_ones_stay_as_they_are(page, client, webui, source, preset):
    client.plain()  # the host's VAE draws from torch's global generator: begin from a known state
    plain = client.plain()["images"]
    upload(page, source)
    choose(page, SCRIPTS, "Realistic Translation")
    page.wait_for_selector(f"{PANEL}preset")
    if preset == "default":  # it is chosen
        page.click(f"{PANEL}summary button:has-text('Put all back')")
    else:
        choose(page, f"{PANEL}preset", preset)
    page.wait_for_function("() => document.querySelector('#img2img_steps input[type=number]').value == 50")
    choose(page, f"{PANEL}embedding", "neg-test")
    for name, value in (("width", SIZE), ("height", SIZE), ("seed", 1)):
        fill_number(page, f"#img2img_{name}", value)
    generate(page)
    made = client.translate(arguments(preset=preset, embedding="neg-test"), steps=50)["images"][0]
    assert difference(made, Image.open(newest(webui))) == 0
    assert client.plain()["images"] == plain

    for name, value in (("width", 512), ("height", 512), ("steps", 150)):
        fill_number(page, f"#img2img_{name}", value)
    page.wait_for_timeout(2000)
    page.click("#img2img_generate")
    page.wait_for_selector("#img2img_interrupt", state="visible")
    page.wait_for_timeout(2500)
    page.click("#img2img_interrupt")
    page.wait_for_function("() => /Time taken/.test(document.querySelector('#html_log_img2img').innerText)")
    assert client.plain()["images"] == plain
    assert page.errors == []


def reload_ui(page, webui):
    starts, errors = webui.log.count("Startup time"), list(page.errors)
    with page.expect_event("load", timeout=300_000):  # the page loads itself again
        page.click('a:has-text("Reload UI")')
        _wait_for(lambda: webui.log.count("Startup time") > starts, 300)
    # the hosts' own scripts go on for a while on the page that they have emptied: A1111's progress bar, Forge's canvas
    page.errors[:] = errors
    open_img2img(page, webui)


def test_reload_ui_twice_leaves_one_of_everything(page, webui):
    for _ in range(2):
        reload_ui(page, webui)
    page.click(f"{SCRIPTS} input")
    titles = page.locator(f"{SCRIPTS} ul.options li").all_inner_texts()
    assert sum("Realistic Translation" in title for title in titles) == 1
    assert page.locator(f"{PANEL}preset").count() == 1
    tabs = page.locator("#tabs > .tab-nav button, #tabs [role=tab]").all_inner_texts()
    assert sum("Train Negative Embedding" in tab for tab in tabs) == 1
    listed = webui.get("/sdapi/v1/script-info").json()
    plot = next(s for s in listed if s["name"] == "x/y/z plot" and s["is_img2img"])
    ours = [choice for choice in plot["args"][0]["choices"] if choice.startswith("[NegTrans]")]
    assert len(ours) == len(set(ours)) > 5


def _wait_for(happened, seconds):
    ends = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < ends
        time.sleep(1)
