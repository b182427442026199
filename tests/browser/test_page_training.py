"""The training tab on the page, by clicks: to an embedding in the translation tab; a reload finds the running job."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

T = "#negtrans_train_"


@pytest.fixture(scope="module")
def renders(tmp_path_factory):
    """Three pictures of 64 pixels and a file that is none."""
    folder = tmp_path_factory.mktemp("renders")
    random = np.random.default_rng(0)
    for index in range(3):
        small = random.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize((64, 64)).save(folder / f"render{index}.png")
    (folder / "broken.png").write_bytes(b"nothing")
    return folder


def open_training(page) -> None:
    page.get_by_role("tab", name="Train Negative Embedding").click()
    page.wait_for_selector(f"{T}start")


def fill_in(page, folder, name: str, steps: int) -> None:
    page.fill(f"{T}folder textarea, {T}folder input", str(folder))
    page.fill(f"{T}name textarea, {T}name input", name)
    for option, value in (("steps", steps), ("size", 64)):
        page.fill(f"{T}{option} input[type=number]", str(value))
        page.locator(f"{T}{option} input[type=number]").blur()
    page.wait_for_selector(f"{T}name_hint >> text=Trigger word")


def points(page) -> int:
    curve = page.locator(f"{T}status .negtrans-curve")
    return int(curve.get_attribute("data-points")) if curve.count() else 0


def wait_for_points(page, more_than: int) -> None:
    page.wait_for_function(
        "n => Number(document.querySelector('#negtrans_train_status .negtrans-curve')?.dataset.points) > n",
        arg=more_than,
    )


def test_from_a_folder_to_the_embedding_in_the_translation_tab(page, site, renders):
    open_training(page)
    page.fill(f"{T}folder textarea, {T}folder input", str(renders))
    page.click(f"{T}check")
    page.wait_for_selector(f"{T}report >> text=broken.png")
    page.wait_for_selector(f"{T}thumbnails img")

    page.fill(f"{T}name textarea, {T}name input", "neg../x")
    page.wait_for_selector(f"{T}name_hint .negtrans-error")
    fill_in(page, renders, "neg-page", 6)
    page.click(f"{T}start")
    page.wait_for_selector(f"{T}status [data-phase=finished]")
    assert points(page) == 6
    assert (site.embeddings / "neg-page.pt").is_file()

    page.click(f"{T}use")
    dropdown = page.locator("#negtrans_page_embedding input")
    dropdown.wait_for()
    page.wait_for_function("document.querySelector('#negtrans_page_embedding input').value == 'neg-page'")
    page.wait_for_function("document.querySelector('#negtrans_page_summary').innerText.includes('away from neg-page')")
    dropdown.click()
    assert "neg-page" in page.inner_text("ul.options")


def test_a_reloaded_page_finds_the_running_training(page, site, renders):
    open_training(page)
    fill_in(page, renders, "neg-long", 5000)
    page.click(f"{T}start")
    wait_for_points(page, 1)
    seen = points(page)

    page.reload()
    open_training(page)
    page.wait_for_selector(f"{T}status [data-busy='1'] >> text=neg-long")
    wait_for_points(page, seen)

    page.click(f"{T}interrupt")
    page.wait_for_selector(f"{T}status [data-phase=stopped]")
    assert site.manager.snapshot().embedding
    assert [run.name for run in site.manager.resumable()] == ["neg-long"]
