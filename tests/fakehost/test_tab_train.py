"""The tab "Train Negative Embedding": its components, and what its buttons do, without a browser and without a host."""

from __future__ import annotations

import base64
import re
import time
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

gr = pytest.importorskip("gradio", reason="gradio comes with the webui and the page's environment")


from lib_negtrans.apps.panels import training_panel as train_tab  # noqa: E402
from lib_negtrans.apps.panels.curves import gain_curve, loss_curve  # noqa: E402
from lib_negtrans.apps.panels.markup import duration  # noqa: E402
from lib_negtrans.apps.panels.tab_kinds import GROUPS, PHOTOS_TAB, RENDERS_TAB  # noqa: E402
from lib_negtrans.apps.panels.training_panel import TabOptions, build_train_tab  # noqa: E402
from lib_negtrans.apps.panels.training_view import status_html, verdict_html  # noqa: E402
from lib_negtrans.embeddings.files import read_embedding  # noqa: E402
from lib_negtrans.jobs.background import FINISHED  # noqa: E402
from lib_negtrans.jobs.training import TrainingManager, TrainingRefused, TrainingSnapshot  # noqa: E402
from lib_negtrans.jobs.workplace import LocalWorkplace  # noqa: E402
from lib_negtrans.preparation.params import PrepareParams  # noqa: E402
from lib_negtrans.training.judging.verdict import DIVERGING, LEARNING  # noqa: E402
from lib_negtrans.training.kinds import KINDS  # noqa: E402
from lib_negtrans.training.params import TRAINING_PRESETS, TrainingParams  # noqa: E402
from lib_negtrans.training.positive_params import FullParams, LoraParams  # noqa: E402

SMALL = {"steps": 3, "size": 64, "vectors": 2, "accumulation": 1, "preview_every": 2}


@pytest.fixture
def renders(tmp_path):
    folder = tmp_path / "renders"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        Image.fromarray(rng.integers(0, 255, (80, 64, 3), dtype=np.uint8)).save(folder / f"red coat {number}.png")
    return folder


@pytest.fixture
def manager(shared_tiny_host, tmp_path):
    return TrainingManager(LocalWorkplace(shared_tiny_host, tmp_path / "embeddings", tmp_path / "runs"))


@pytest.fixture
def panel(manager):
    with gr.Blocks():
        panel = train_tab.TrainingPanel(manager, TabOptions())
        panel.build()
    return panel


def values(panel, **changes):
    given = TrainingParams().to_dict() | SMALL | changes
    return [given[name] for name in panel.fields]


def start(panel, folder, name, files=None, preview=None, overwrite=False, photos="", **changes):
    return panel.start_training(
        None,
        str(folder),
        files,
        photos,
        "",
        "",
        "",
        name,
        preview,
        overwrite,
        "negative",
        "",
        *values(panel, **changes),
    )


def test_every_component_has_an_id_and_every_option_a_component(manager):
    with gr.Blocks() as blocks:
        build_train_tab(manager)
    shown = [b for b in blocks.blocks.values() if getattr(b, "label", None)]
    for block in shown:
        assert block.elem_id and block.elem_id.startswith("negtrans_"), (block, block.label)
    ids = {b.elem_id for b in blocks.blocks.values()}
    assert {f"negtrans_train_{name}" for name in TrainingParams.options()} <= ids
    labels = {b.elem_id: b.label for b in shown}
    for name, option in TrainingParams.options().items():
        assert labels[f"negtrans_train_{name}"] == option.label


def test_every_option_of_every_kind_is_in_one_group_and_on_its_tab(manager):
    grouped = [name for names in GROUPS.values() for name in names]
    assert len(grouped) == len(set(grouped))
    for tab in (RENDERS_TAB, PHOTOS_TAB):
        with gr.Blocks():
            panel = build_train_tab(manager, tab=tab)
        assert panel.fields.keys() == tab.options.keys()
        for kind in tab.kinds:
            assert tab.options.keys() >= KINDS[kind].options.options().keys()
        assert {*grouped, *tab.basic} >= tab.options.keys()


@pytest.fixture
def photos_panel(manager):
    with gr.Blocks():
        return build_train_tab(manager, TabOptions(connect_next=lambda button: None), PHOTOS_TAB)


def start_photos(panel, folder, name, kind, **changes):
    given = FullParams().to_dict() | LoraParams().to_dict() | {"steps": 2, "size": 64} | changes
    fields = [given[name] for name in panel.fields]
    return panel.start_training(None, str(folder), None, str(folder), "", "", "", name, None, False, kind, "", *fields)


def test_the_tab_of_photos_trains_a_lora_and_offers_the_negative_on_it(photos_panel, manager, renders):
    text, *_ = start_photos(photos_panel, renders, "photo-look", "lora", prior="base", validate_every=1, rank=2)
    assert "photo-look has started" in text
    state = manager.wait(120)
    assert state.phase == FINISHED and state.result.endswith("photo-look.safetensors"), state.error
    status, previews, use, following, *_ = photos_panel.show(None)
    assert "data-kind='lora'" in status and status.count("<polyline") == 5 and "loss of the prior" in status
    assert following["visible"] is True and use["visible"] is False and len(previews) == 2
    with gr.Blocks():
        negative = build_train_tab(manager, TabOptions(connect_next=lambda button: None))
    assert negative.show(None)[3]["visible"] is False  # it is the other tab's


def test_the_kind_shows_its_own_options_with_its_own_values(photos_panel):
    def updates(kind):
        return dict(zip(photos_panel.fields, photos_panel.apply_kind(kind), strict=True))

    full, lora = updates("full"), updates("lora")
    assert not full["rank"]["visible"] and full["ema_on_cpu"]["visible"] and full["lr"]["value"] == "1e-6"
    assert lora["rank"]["visible"] and not lora["ema_on_cpu"]["visible"] and lora["lr"]["value"] == "1e-4"
    assert "value" not in full["steps"]  # what both have stays as it was typed


def test_what_the_tab_of_photos_refuses(photos_panel, manager, renders):
    assert "only a-z" in start_photos(photos_panel, renders, "../up", "lora")[0]
    assert "There is no folder" in start_photos(photos_panel, renders / "none", "a", "lora")[0]
    assert "Rank must lie between" in start_photos(photos_panel, renders, "a", "lora", rank=0)[0]
    start_photos(photos_panel, renders, "photo-full", "full")
    assert "choose a .safetensors or .ckpt file" in manager.wait(60).error


def test_two_pages_share_the_manager_and_nothing_else(manager):
    for _ in range(2):
        with gr.Blocks() as blocks:
            build_train_tab(manager)
        assert blocks.get_config_file()["components"]


def test_presets_set_the_fields_that_any_of_them_names(panel):
    names = train_tab.PRESET_OPTIONS
    assert set(names) <= set(panel.fields)
    for preset, (text, given) in TRAINING_PRESETS.items():
        assert text.endswith(".")
        updated = dict(zip(names, panel.apply_preset(preset), strict=True))
        expected = TrainingParams().to_dict() | given
        assert {name: update["value"] for name, update in updated.items()} == {name: expected[name] for name in names}
        TrainingParams.from_dict(given)


def test_name_hint(panel, manager):
    assert panel.check_name("", False) == ""
    assert "Trigger word:</span> <b>neg-render</b>" in panel.check_name(" neg-render ", False)
    assert "use neg-x" in panel.check_name("Neg-X", False)
    assert "&lt;" in panel.check_name("<script>", False)
    manager.workplace.embeddings_folder.mkdir(parents=True)
    manager.out("neg-a").write_bytes(b"")
    assert "exists already" in panel.check_name("neg-a", False)
    assert "Trigger word" in panel.check_name("neg-a", True)


def test_check_dataset(panel, renders):
    (renders / "broken.png").write_bytes(b"no picture")
    Image.open(renders / "red coat 0.png").save(renders / "twin.png")
    report, thumbnails = panel.dataset.check_dataset(f'"{renders}"', None, 512, "")
    assert "80" in report and "broken.png" in report and "The same picture 2 times" in report
    assert "Size 64 would suit them" in report
    assert len(thumbnails["value"]) == 4 and thumbnails["visible"]
    Image.new("RGBA", (64, 64)).save(renders / "clear.png")
    shown = panel.dataset.check_dataset(str(renders), None, 64, "clear.png", background="white")[1]["value"]
    assert [picture.getpixel((0, 0)) for picture in shown] == [(255, 255, 255)]
    report, thumbnails = panel.dataset.check_dataset("", None, 512, "")
    assert "There are no pictures yet" in report and not thumbnails["visible"]
    assert "There is no folder" in panel.dataset.check_dataset("/no/such/folder", None, 512, "")[0]
    assert "must be a number" in panel.dataset.check_dataset(str(renders), None, "big", "")[0]


def test_train_watch_and_finish(panel, manager, renders):
    message, *_ = start(panel, renders, "neg-render")
    assert "neg-render has started" in message
    again, again_status, *_ = start(panel, renders, "neg-b")
    assert "neg-b waits for its turn" in again and "Waiting for their turn:" in again_status
    assert "neg-b will not be trained" in panel.cancel_waiting(None, "")[0]
    assert "No training waits" in panel.cancel_waiting(None, "neg-b")[0]
    assert "neg-render is being trained" in start(panel, renders, "neg-render")[0]
    assert manager.wait(120).phase == FINISHED
    status, previews, use, following, *_, seen = panel.show(None)
    assert "data-phase='finished'" in status and "data-busy='0'" in status and "<svg" in status
    assert [caption for _, caption in previews] == ["the render", "step 3", "step 2"]
    assert use["visible"] is following["visible"] is False  # nothing was wired to them
    # nothing new: nothing is sent again
    status, previews, *_ = panel.show(seen)
    assert "value" not in status and "value" not in previews
    # a page that is opened now finds it too
    with gr.Blocks():
        other = train_tab.TrainingPanel(manager, TabOptions(connect_use=lambda button: None))
        other.build()
    assert other.show(None)[2]["visible"] is True


def test_prepare_and_train_on_it(panel, manager, renders, tmp_path):
    preparation = panel.preparation

    def begin(source, target, overwrite=False, **changes):
        given = PrepareParams().to_dict() | {"size": 64} | changes
        return preparation.begin(None, str(source), str(target), overwrite, *(given[n] for n in preparation.fields))

    assert "Name both folders" in begin("", "")[0]
    assert "There is no folder" in begin(tmp_path / "none", tmp_path / "out")[0]
    assert "must be a number" in begin(renders, tmp_path / "out", size="big")[0]
    assert "working" in begin(f'"{renders}"', tmp_path / "out")[0]
    assert manager.preparation.wait(60).phase == "finished"
    report, use, seen = preparation.show(None)
    assert "3 of 3 pictures prepared" in report and use["visible"]
    assert preparation.show(seen)[2] == seen and "value" not in preparation.show(seen)[0]
    folder, size = preparation.result()
    assert (folder, size) == (str(tmp_path / "out"), 64)
    assert "&lt;" in begin("<b>", tmp_path / "out")[0]
    start(panel, folder, "neg-render", steps=1)
    assert manager.wait(60).phase == FINISHED
    # stopped: nothing is there
    begin(renders, tmp_path / "other")
    assert "data-prepare='" in preparation.interrupt(None)[0]
    assert not (tmp_path / "other").exists() or manager.preparation.snapshot().phase == "finished"


def test_interrupt_and_resume(panel, manager, renders):
    assert "No training is under way" in panel.interrupt_training(None)[0]
    assert "no interrupted run" in panel.resume_training(None, None, "", 5, False)[0]
    start(panel, renders, "neg-render", steps=500)
    while manager.snapshot().step < 1:
        time.sleep(0.02)
    assert "stops after this step" in panel.interrupt_training(None)[0]
    step = manager.wait(60).step
    assert "resume it" in start(panel, renders, "neg-render")[0]
    assert "Choose the run to resume in the list" in panel.resume_training(None, None, "", 5, False)[0]
    message, name, *_ = panel.resume_training(None, f"neg-render: {step} / 500", "", 5, False)
    assert message == "<p class='negtrans-message'>neg-render goes on.</p>" and name == "neg-render"
    while manager.snapshot().step <= step:
        time.sleep(0.02)
    manager.request_stop()
    assert manager.wait(60).start_step == step


def test_without_a_name_the_first_free_one_is_taken(panel, manager, renders):
    for expected in ("neg-render", "neg-render-2"):
        message, *_, name = start(panel, renders, "", steps=1)
        assert name == expected and f"{expected} has started" in message
        assert manager.wait(60).result.endswith(f"{expected}.pt")
    assert start(panel, "/no/such", "")[-1] == gr.update()


def test_dropped_pictures_are_kept_with_the_run(panel, manager, renders, tmp_path):
    # gradio 3 gives objects with a name, gradio 4 texts
    files = [SimpleNamespace(name=str(path)) for path in sorted(renders.iterdir())]
    assert "clear one of the two" in start(panel, renders, "neg-a", files=files)[0]
    assert "same name" in start(panel, "", "neg-a", files=[*files, str(renders / "red coat 0.png")])[0]
    render = tmp_path / "upload.png"
    Image.new("RGB", (64, 96)).save(render)
    assert "has started" in start(panel, "", "neg-a", files=files, preview=str(render))[0]
    render.unlink()
    state = manager.wait(120)
    assert state.phase == FINISHED, state.error
    assert len(list((manager.run_folder("neg-a") / "pictures").iterdir())) == 3
    assert Image.open(state.previews[-1][1]).size == (64, 96)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"name": "../up"}, "only a-z"),
        ({"steps": 0}, "Steps must lie between"),
        ({"lr": "fast"}, "not a number"),
        ({"size": 100}, "multiple of 8"),
        ({"folder": ""}, "no pictures yet"),
    ],
)
def test_refusals(panel, manager, renders, change, sentence):
    change = dict(change)
    name, folder = change.pop("name", "neg-a"), change.pop("folder", renders)
    assert sentence in start(panel, folder, name, **change)[0]
    assert manager.snapshot().phase == "idle"


def test_pictures_that_have_not_arrived_are_not_trained_on(panel, renders, tmp_path):
    (tmp_path / "under-way.png").touch()
    files = [tmp_path / "under-way.png"]
    with pytest.raises(TrainingRefused, match="have not arrived yet"):
        panel.dataset.pictures("", [str(path) for path in files], tmp_path / "run")
    assert not (tmp_path / "run").exists()
    files.append(next(renders.iterdir()))  # an empty file among others is that picture's fault, or an empty caption
    assert len(list(panel.dataset.pictures("", [str(path) for path in files], tmp_path / "run").iterdir())) == 2


def test_without_typed_folders_only_dropped_pictures_are_read(manager, renders):
    with gr.Blocks():
        panel = train_tab.TrainingPanel(manager, TabOptions(typed_folders=False))
        panel.build()
    assert "no pictures yet" in panel.dataset.check_dataset(str(renders), None, 64, "")[0]
    assert "no pictures yet" in start(panel, renders, "neg-a")[0]
    assert "template file cannot be named" in start(panel, renders, "neg-a", template="/etc/passwd")[0]


def test_nothing_from_outside_becomes_markup():
    state = TrainingSnapshot(phase="failed", name="<b>", error="<img src=x>", log=["<script>"])
    assert "<img" not in status_html(state) and "<script" not in status_html(state)


def test_curve_and_duration():
    picture = loss_curve([(step, 1.0 / step, 1.0 / step) for step in range(1, 50)])
    assert picture.count("<polyline") == 2 and "step 49" in picture and "nan" not in picture
    assert "nan" not in loss_curve([(1, 0.5, 0.5), (2, 0.5, 0.5)])


def test_the_gain_curve_shows_the_gap_to_photos_when_there_are_some():
    points = [(0, 0.0, 0.0), (50, 0.02, 0.01), (100, 0.05, -0.01)]
    picture = gain_curve(points)
    assert "data-points='3'" in picture and "<polygon" in picture and "photos" in picture and "nan" not in picture
    alone = gain_curve([(step, gain, None) for step, gain, _ in points])
    assert "<polygon" not in alone and "photos" not in alone
    assert "nan" not in gain_curve([(0, 0.0, None), (1, 0.0, None)])


def test_the_verdict_is_said_in_words_that_can_be_translated():
    assert verdict_html(TrainingSnapshot()) == ""
    state = TrainingSnapshot(verdict=LEARNING, verdict_text="Learning: renders are explained <5 %> better.")
    line = verdict_html(state)
    assert "<b>Learning:</b> <span>renders are explained &lt;5 %&gt; better.</span>" in line
    bad = TrainingSnapshot(verdict=DIVERGING, verdict_text="Diverging: lower the learning rate.")
    assert "negtrans-error" in verdict_html(bad) and line in status_html(state)
    assert [duration(s) for s in (0, 89, 90, 3600, 12000)] == ["0 s", "89 s", "2 min", "1 h 00 min", "3 h 20 min"]


def test_a_refusal_names_the_field_it_is_about(panel, photos_panel, manager, renders):
    def about(message):
        return re.findall("data-negtrans-about='(.*?)'", message)

    cases = {"name": {"name": "Neg X"}, "folder": {"folder": "/no/such"}, "steps": {"steps": 0}, "lr": {"lr": "fast"}}
    for field, change in cases.items():
        given = {"folder": renders, "name": "neg-a", **change}
        found = about(start(panel, given.pop("folder"), given.pop("name"), **given)[0])
        assert found == [f"negtrans_train_{field}"], (field, found)
    assert about(start(panel, renders, "neg-a", photos="/no/photos")[0]) == ["negtrans_train_photos"]
    assert about(panel.dataset.check_dataset("", None, 512, "")[0]) == ["negtrans_train_folder"]
    assert about(panel.resume_training(None, None, "neg-gone", 5, False)[0]) == ["negtrans_train_runs"]
    assert about(panel.comparison.pick(None, None, "", False)) == ["negtrans_train_compare_choice"]


def test_what_was_said_goes_when_the_training_has_ended(panel, manager, renders):
    message, *_, seen, _name = start(panel, renders, "neg-a", steps=200)
    assert "neg-a has started" in message and "is being trained" in panel.check_name("neg-a", False)
    while "data-busy='1'" not in seen[0]:
        seen = panel.show(seen)[-1]
    manager.request_stop()
    manager.wait(60)
    message, hint, *_ = panel.refresh(seen, "neg-a", False, "negative")
    assert message == hint == ""
    message, hint, *_ = panel.refresh(panel.show(None)[-1], "neg-a", False, "negative")
    assert "value" not in message and "value" not in hint


def test_waiting_is_cancelled_only_where_something_waits(panel, manager, renders):
    assert panel.show(None)[4]["visible"] is False
    start(panel, renders, "neg-a", steps=500)
    assert start(panel, renders, "neg-b")[5]["visible"] is True  # the message is before them
    assert panel.cancel_waiting(None, "")[5]["visible"] is False
    manager.request_stop()
    manager.wait(60)


def test_an_interrupted_run_is_listed_fills_the_form_and_its_vectors_are_an_embedding(panel, manager, renders):
    start(panel, renders, "neg-a", steps=500, vectors=3, lr="1e-3")
    while manager.snapshot().step < 2:
        time.sleep(0.02)
    manager.request_stop()
    state = manager.wait(60)
    *_, keep, runs, _seen = panel.show(None)
    assert keep["visible"] is True and runs["choices"] == [f"neg-a: {state.step} / 500"]
    said, *updates = panel.runs.filled_from_run(runs["choices"][0])
    form = dict(zip([*panel.runs.form, *panel.runs.fields], updates, strict=True))
    assert (form["name"]["value"], form["images"]["value"], form["photos"]["value"]) == ("neg-a", str(renders), "")
    assert (form["steps"]["value"], form["vectors"]["value"], form["lr"]["value"]) == (500, 3, "1e-3")
    assert "settings of neg-a" in said
    said = panel.keep_vectors(None, False)[0]
    assert "data-picked=" in said and f"holds the vectors of step {state.step}" in said
    assert read_embedding(manager.out("neg-a")).vectors.shape[0] == 3
    assert "tick Overwrite" in panel.keep_vectors(None, False)[0]


def test_settings_go_to_a_file_and_back(panel, manager, renders, tmp_path):
    own = {"name": "neg-a", "kind": "negative", "loras": "photo-look:0.5", "images": str(renders), "photos": "/p"}
    given = [*(own.get(name, "") for name in panel.runs.form), *values(panel, steps=77, init_text="cg")]
    link = panel.runs.saved(*given)
    assert "download='neg-a.json'" in link
    saved = base64.b64decode(re.search("base64,(.*?)'", link)[1])
    file = tmp_path / "neg-a.json"
    file.write_bytes(saved)
    said, *updates = panel.runs.loaded(str(file))
    assert "settings of neg-a.json" in said and [u["value"] for u in updates] == given
    wrong = [*given[: len(own)], *given[len(own) :]]
    wrong[len(panel.runs.form) + list(panel.fields).index("steps")] = 0
    assert "data-negtrans-about='negtrans_train_steps'" in panel.runs.saved(*wrong)
    for text in ("[]", "{", '{"params": {"steps": "x"}, "loras": []}', '{"kind": "lora", "params": {}, "loras": []}'):
        file.write_text(text)
        assert "holds no settings" in panel.runs.loaded(str(file))[0], text


def test_the_log_is_a_file(panel, manager, renders):
    assert "There is no log yet" in panel.runs.log_file()
    start(panel, renders, "neg-a", steps=1)
    manager.wait(60)
    link = panel.runs.log_file()
    text = base64.b64decode(re.search("base64,(.*?)'", link)[1]).decode()
    assert "download='neg-a.log'" in link and text.splitlines() == manager.snapshot().log


def test_charts_say_their_values_under_the_pointer_and_can_be_read():
    points = [(step, 1.0 / step, 2.0 / step) for step in range(1, 1001)]
    picture = loss_curve(points)
    assert 40 < picture.count("negtrans-hover") <= 80 and "step 1000: loss 0.001, smoothed 0.002" in picture
    assert "step 50: renders 2 %, photos 1 %" in gain_curve([(0, 0.0, 0.0), (50, 0.02, 0.01)]).replace(
        "photos 1 %, renders 2 %", "renders 2 %, photos 1 %"
    )
    width = int(re.search("viewBox='0 0 ([0-9]+)", picture)[1])
    css = train_tab.STYLE_FILE.read_text(encoding="utf-8")
    narrowest = int(re.search("negtrans-curve .*?min-width: ([0-9]+)px", css)[1])
    assert int(re.search("font-size='([0-9]+)'", picture)[1]) * narrowest / width >= 11


def test_no_two_components_share_an_id(manager):
    with gr.Blocks() as blocks:
        for tab in (RENDERS_TAB, PHOTOS_TAB):
            build_train_tab(manager, TabOptions(), tab)
    ids = [block.elem_id for block in blocks.blocks.values() if block.elem_id]
    assert sorted(ids) == sorted(set(ids))
