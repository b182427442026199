"""From a folder of renders to pictures by clicks, in Chromium: training, card, picture, its text, grid, folder."""

from __future__ import annotations

from PIL import Image

from tests.webui.client import SIZE, Client, arguments, difference, encode, render
from tests.webui.files import copy_renders
from tests.webui.looks import screenshot
from tests.webui.test_script_page import (  # noqa: F401
    PANEL,
    SCRIPTS,
    choose,
    choose_axes,
    fill_number,
    generate,
    generate_from_folder,
    newest,
    open_img2img,
    open_page,
    page,
    send_to_img2img,
    upload,
)
from tests.webui.test_train_page import fill, wait_for

NAME = "neg-journey"


def small(page, source=None):  # noqa: F811
    """The script, at few steps and pixels, on a picture."""
    if source is not None:
        upload(page, source)
    for side in ("width", "height"):
        fill_number(page, f"#img2img_{side}", SIZE)
    for name, value in (("steps", 20), ("denoising_strength", 0.3), ("cfg_scale", 7.5)):
        fill_number(page, f"#img2img_{name}", value)


def test_train_insert_translate_and_again_from_the_text(page, webui, source, tmp_path):  # noqa: F811
    open_page(page, "Train Negative Embedding")
    page.wait_for_selector("#negtrans_train_start", state="visible")
    fill(page, "folder", copy_renders(tmp_path / "renders", 4))
    for name, value in (("size", SIZE), ("steps", 60), ("name", NAME)):
        fill(page, name, value)
    page.click("#negtrans_train_start")
    wait_for(page, "finished")
    screenshot(page, "journey-trained")

    open_page(page, "img2img")
    choose(page, SCRIPTS, "Realistic Translation")
    page.wait_for_selector(f"{PANEL}preset")
    # into an empty prompt A1111 inserts a space too, which PNG Info does not give back
    page.fill("#img2img_neg_prompt textarea", "blurry")
    page.click('#img2img_extra_tabs button:has-text("Textual Inversion")')
    page.click(f'#img2img_textual_inversion_cards .card[data-name="{NAME}"]')
    page.wait_for_function(f"() => document.querySelector('#img2img_neg_prompt textarea').value.includes('{NAME}')")
    screenshot(page, "journey-card")
    page.click('#img2img_extra_tabs button:has-text("Generation")')
    small(page, source)
    generate(page)
    first = newest(webui)
    screenshot(page, "journey-translated")

    send_to_img2img(page, webui, first)
    page.wait_for_function(f"() => document.querySelector('#img2img_neg_prompt textarea').value.includes('{NAME}')")
    upload(page, source)
    generate(page)
    again = newest(webui)
    assert again != first
    with Image.open(first) as one, Image.open(again) as other:
        assert one.text == other.text and difference(one, other) == 0
        assert difference(one, render()) > 3 and NAME in one.text["parameters"]
    assert page.errors == []


def test_a_grid(page, webui, source):  # noqa: F811
    small(page, source)
    page.fill("#img2img_neg_prompt textarea", "cg")
    choose_axes(page, {"x": ("[NegTrans] Strength", "0.2,0.4"), "y": ("[NegTrans] TAC ratio", "0,0.5")})
    generate(page)
    screenshot(page, "journey-grid")
    grid = max((webui.data / "outputs").rglob("*grid*/**/*.png"), key=lambda file: file.stat().st_mtime)
    with Image.open(grid) as picture:
        assert "[NegTrans] Strength" in picture.text["parameters"]
        assert picture.width > 2 * SIZE and picture.height > 2 * SIZE
    assert page.errors == []


def test_a_folder_in_the_batch_tab(page, webui, tmp_path):  # noqa: F811
    """Each picture becomes what it becomes alone."""
    folder, results = copy_renders(tmp_path / "in", 2), tmp_path / "out"
    choose(page, SCRIPTS, "Realistic Translation")
    page.wait_for_selector(f"{PANEL}preset")
    small(page)
    choose(page, f"{PANEL}embedding", "neg-test")
    made = generate_from_folder(page, folder, results)
    screenshot(page, "journey-batch")
    client = Client(webui)
    for file, result in made:
        with Image.open(file) as picture:
            alone = client.translate(arguments(embedding="neg-test"), init_images=[encode(picture.convert("RGB"))])
        with Image.open(result) as picture:
            assert difference(picture, alone["images"][0]) == 0
            assert "NegTrans negative embedding: neg-test" in picture.text["parameters"]
    assert page.errors == []
