"""The training tab on the page, by clicks: to an embedding in the translation tab; a reload finds the running job."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.webui.looks import english, screenshot

T = "#negtrans_train_"
CURVE = f"{T}status .negtrans-curve:not(.negtrans-gains)"  # of the loss


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


def open_training(page, tab: str = "Train Negative Embedding") -> None:
    page.get_by_role("tab", name=tab).click()
    page.wait_for_selector(f"{T}start")


def fill_in(page, folder, name: str, steps: int) -> None:
    page.fill(f"{T}folder textarea, {T}folder input", str(folder))
    page.fill(f"{T}name textarea, {T}name input", name)
    for option, value in (("steps", steps), ("size", 64)):
        page.fill(f"{T}{option} input[type=number]", str(value))
        page.locator(f"{T}{option} input[type=number]").blur()
    page.wait_for_selector(f"{T}name_hint b")


def captions_below(page) -> list[bool]:
    """Of each preview, whether its caption lies under the picture, not over it, and in the frame, which cuts it off."""
    return page.locator(f"{T}previews .thumbnail-lg").evaluate_all(
        """all => all.map(one => {
            const parts = [one, one.querySelector("img"), one.querySelector(".caption-label")];
            const [frame, picture, caption] = parts.map((part) => part.getBoundingClientRect());
            return caption.top >= picture.bottom - 1 && caption.bottom <= frame.bottom + 1;
        })"""
    )


def points(page) -> int:
    curve = page.locator(CURVE)
    return int(curve.get_attribute("data-points")) if curve.count() else 0


def wait_for_points(page, more_than: int) -> None:
    page.wait_for_function(
        "([curve, n]) => Number(document.querySelector(curve)?.dataset.points) > n", arg=[CURVE, more_than]
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
    page.wait_for_selector(f"{T}previews .thumbnail-lg img")
    page.wait_for_timeout(1000)
    assert captions_below(page) == [True, True]

    page.click(f"{T}use")
    dropdown = page.locator("#negtrans_page_embedding input")
    dropdown.wait_for()
    page.wait_for_function("document.querySelector('#negtrans_page_embedding input').value == 'neg-page'")
    page.wait_for_function("document.querySelector('#negtrans_page_summary').innerText.includes('away from neg-page')")
    dropdown.click()
    assert "neg-page" in page.inner_text("ul.options")


def test_what_it_says_is_japanese_where_the_browser_is(page, site, renders):
    page.goto(f"{site.url}?lang=ja")
    open_training(page, "ネガティブ埋め込みの学習")
    page.fill(f"{T}folder textarea, {T}folder input", "/no/such/folder")
    page.click(f"{T}start")
    page.wait_for_selector(f"{T}folder .negtrans-beside >> text=フォルダー/no/such/folderがありません。")
    fill_in(page, renders, "neg-japanese", 40)
    page.click(f"{T}start")
    page.wait_for_selector(f"{T}message >> text=neg-japaneseの学習を始めました。 このページを閉じても学習は続きます。")
    page.wait_for_selector(f"{T}status [data-phase=finished] .negtrans-verdict >> text=まだ効果がありません")
    page.wait_for_selector(f"{T}previews .caption-label >> text=ステップ40")
    page.wait_for_selector(f"{T}status >> text=ステップ40/40: 損失")
    assert english(page, f"{T}status") == english(page, f"{T}previews") == []


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


def test_options_stand_in_two_columns(page):
    open_training(page)
    groups = page.locator("[id^='negtrans_train_group_']")
    for group in groups.all():
        group.locator("> .label-wrap").click()
    page.wait_for_timeout(1000)
    places = groups.evaluate_all(
        """all => all.map(group => [...group.querySelectorAll("[id^='negtrans_train_'].block")].map(field => {
            const box = field.getBoundingClientRect();
            return [Math.round(box.left), Math.round(box.top), Math.round(box.width)];
        }).filter(place => place[2]))"""
    )
    assert len(places) > 4
    for fields in places:
        lefts, tops, widths = (sorted(set(column)) for column in zip(*fields, strict=True))
        assert len(fields) > 1 and len(lefts) <= 2 and len(tops) == (len(fields) + 1) // 2, fields
        assert widths[-1] - widths[0] <= 1 or len(fields) % 2, fields


def beside(page, field: str):
    return page.locator(f"{T}{field} .negtrans-beside")


def test_an_error_stands_beside_its_field_until_that_is_changed(page, site, renders):
    open_training(page)
    page.fill(f"{T}folder textarea, {T}folder input", "/no/such/folder")
    page.fill(f"{T}name textarea, {T}name input", "neg-errors")
    page.click(f"{T}start")
    beside(page, "folder").wait_for()
    assert "There is no folder /no/such/folder" in beside(page, "folder").inner_text()
    assert page.eval_on_selector(".negtrans-beside", "e => getComputedStyle(e).color") in (
        "rgb(185, 28, 28)", "rgb(248, 113, 113)",
    )  # fmt: skip
    fill_in(page, renders, "neg-errors", 6)
    beside(page, "folder").wait_for(state="detached")
    # an option in a folded group: the group opens; the same mistake again is said again
    assert not page.is_visible(f"{T}batch_size")
    page.click(f"{T}group_optimization > .label-wrap")
    for _ in range(2):
        page.fill(f"{T}batch_size input[type=number]", "0")
        page.locator(f"{T}batch_size input[type=number]").blur()
        page.click(f"{T}group_optimization > .label-wrap")
        page.wait_for_selector(f"{T}batch_size", state="hidden")
        page.click(f"{T}start")
        beside(page, "batch_size").wait_for(state="visible")
        page.fill(f"{T}batch_size input[type=number]", "1")
        beside(page, "batch_size").wait_for(state="detached")


def test_charts_settings_log_and_an_interrupted_run(page, site, renders, tmp_path):
    open_training(page)
    assert not page.is_visible(f"{T}cancel")
    # of the run before, which another test may have interrupted
    stopped = site.manager.snapshot().phase == "stopped"
    page.wait_for_selector(f"{T}keep_vectors", state="visible" if stopped else "hidden")
    fill_in(page, renders, "neg-part", 5000)
    page.click(f"{T}start")
    page.wait_for_selector(f"{T}message >> text=neg-part has started")
    wait_for_points(page, 3)
    page.click(f"{T}interrupt")
    page.wait_for_selector(f"{T}status [data-phase=stopped]")
    page.wait_for_selector(f"{T}message p", state="detached")  # what was said of its start is no longer so
    sizes = page.locator(f"{T}status svg text").evaluate_all(
        "all => all.map(e => parseFloat(getComputedStyle(e).fontSize) * e.ownerSVGElement.getScreenCTM().a)"
    )
    assert sizes and min(sizes) >= 11
    near = page.locator(f"{T}status .negtrans-hover").nth(1)
    assert not near.locator("text").is_visible()
    near.locator("rect").hover()
    near.locator("text").wait_for(state="visible")
    assert "smoothed" in near.locator("text").text_content()

    for button, name in (("save", "neg-part.json"), ("log", "neg-part.log")):
        with page.expect_download() as download:
            page.click(f"{T}{button}")
        assert download.value.suggested_filename == name
        download.value.save_as(tmp_path / name)
    page.click(f"{T}keep_vectors")
    page.wait_for_selector(f"{T}message >> text=holds the vectors of step")
    assert (site.embeddings / "neg-part.pt").is_file()

    page.reload()
    open_training(page)
    with page.expect_file_chooser() as chooser:
        page.click(f"{T}load")
    chooser.value.set_files(tmp_path / "neg-part.json")
    page.wait_for_function("() => document.querySelector('#negtrans_train_steps input[type=number]').value == 5000")
    page.reload()
    open_training(page)
    page.wait_for_timeout(1500)
    page.click(f"{T}runs input")
    page.click(f'{T}runs ul.options li:has-text("neg-part")')
    page.wait_for_function("() => document.querySelector('#negtrans_train_steps input[type=number]').value == 5000")
    named = "#negtrans_train_name textarea, #negtrans_train_name input"
    assert page.input_value(named) == "neg-part"
    screenshot(page, "training")
