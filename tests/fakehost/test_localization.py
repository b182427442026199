"""Japanese: every label, hint and button of the panels and settings has its entry, and no entry is left over."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="the panels need gradio: install requirements.lock")

import gradio as gr

if not gr.__version__.startswith("6."):
    pytest.skip("the page, whose texts are looked at, runs on gradio 6", allow_module_level=True)

from lib_negtrans.apps.page.page import build_page
from lib_negtrans.apps.panels import training_view, translation_view
from lib_negtrans.apps.panels.tab_kinds import GROUPS, PHOTOS_TAB
from lib_negtrans.apps.panels.training_panel import TabOptions, build_train_tab
from lib_negtrans.apps.panels.translation_summary import CANVAS_SET, CANVAS_STRETCHES, DIFFERS, PUT_ALL_BACK, STRENGTH
from lib_negtrans.apps.webui.panel import COMPARE, ENABLED
from lib_negtrans.core.guidance import KINDS as GUIDANCE_KINDS
from lib_negtrans.jobs.background import FINISHED
from lib_negtrans.jobs.training import TrainingManager
from lib_negtrans.jobs.training_snapshot import TRAINING, TrainingSnapshot
from lib_negtrans.jobs.translation import TranslationRunner, TranslationSnapshot
from lib_negtrans.jobs.workplace import LocalWorkplace
from lib_negtrans.preparation.params import PrepareParams
from lib_negtrans.training.data.dataset import DatasetReport
from lib_negtrans.training.params import TRAINING_PRESETS, TrainingParams
from lib_negtrans.training.positive_params import FullParams, LoraParams
from lib_negtrans.translation.params import TRANSLATION_PRESETS, TranslationParams
from lib_negtrans.translation.plan import guidance_of
from lib_negtrans.translation.wording import translation_sentences
from tests.fakehost import host as stand_in

FILE = Path(__file__).resolve().parents[2] / "localizations" / "ja_JP.json"
JAPANESE = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")
# names that are the same in every language: of files, of methods, of choices that are typed elsewhere
UNTRANSLATED = {"neg-render", "None", "auto", "cond", "both", *TRANSLATION_PRESETS, *GUIDANCE_KINDS, "\U0001f504"}
UNTRANSLATED |= {
    "lora",
    "negative",
    "full",
    "photo-look",
    "photo-look:1",
    "adafactor",
    "adamw",
    "adamw8bit",
    "prodigy",
    "fp32",
    "fp16",
    "bf16",
}


@pytest.fixture(scope="module")
def words() -> dict[str, str]:
    return json.loads(FILE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def on_the_page(shared_tiny_host, tmp_path_factory) -> set[str]:
    """Everything that the page's components show; its panels are the webui's."""
    folder = tmp_path_factory.mktemp("page")
    workplace = LocalWorkplace(shared_tiny_host, folder / "embeddings", folder / "runs")
    runner = TranslationRunner(workplace)
    config = build_page(workplace, TrainingManager(workplace), runner).get_config_file()
    with gr.Blocks() as webui_only:
        build_train_tab(TrainingManager(workplace), tab=PHOTOS_TAB)
    texts: set[str] = set(GROUPS)
    for component in [*config["components"], *webui_only.get_config_file()["components"]]:
        props = component["props"]
        texts |= {props[key] for key in ("label", "info", "placeholder") if isinstance(props.get(key), str)}
        if component["type"] == "button":
            texts.add(props["value"])
        for choice in props.get("choices") or ():
            texts.add(choice if isinstance(choice, str) else choice[0])
    return {text for text in texts if text}


@pytest.fixture(scope="module")
def in_html() -> set[str]:
    """What is shown as HTML and is the same every time."""
    texts = {*training_view.HEADLINES.values(), *translation_view.HEADLINES.values()}
    texts |= {*training_view.VERDICTS.values()}
    state = TrainingSnapshot(
        phase=TRAINING, stopping=True, queue=["1"], curve=[(1, 1.0, 1.0), (2, 1.0, 1.0)],
        validations=[(1, 0.1, None), (2, 0.1, None)], prior_curve=[(1, 1.0), (2, 1.0)],
    )  # fmt: skip
    for field in ("loss", "loss_average", "vector_norm", "change", "grad_norm", "learning_rate", "rate"):
        state = dataclasses.replace(state, **{field: 1.0})
    done = dataclasses.replace(state, stopping=False, step=5, steps=5)
    lora = dataclasses.replace(state, kind="lora")
    shown = "".join(map(training_view.status_html, (state, done, lora)))
    shown += training_view.dataset_html(DatasetReport(Path(), 64), 64)
    translated = TranslationSnapshot(phase=FINISHED, source="a", result="b")
    for snapshot in (translated, TranslationSnapshot()):
        shown += translation_view.stage_html(snapshot, lambda *_: "")
    shown += re.sub(r"<span>.*?</span>", "", translation_view.result_html(translated, lambda *_: ""))
    shown = re.sub(r"<style>.*?</style>|<svg.*?</svg>", "", shown, flags=re.DOTALL)
    found = {text.strip() for text in re.findall(r">([^<>]+)<", shown)}
    return texts | in_summaries() | {text for text in found if re.search("[a-z]{2}", text) and "%" not in text}


def in_summaries() -> set[str]:
    """The templates of all that a summary can say, with values that are words, and its other texts."""
    changes = [
        {"solver": "ddim"}, {"start": "noise"}, {"tac_ratio": 0.0}, {"tac_blend": 0.5}, {"mask": "alpha"},
        {"mask": "alpha", "background": "keep"}, {"strength": 0.9}, {"strength": 0.0},
        {"concepts": "wool :3"}, *({"guidance": kind} for kind in GUIDANCE_KINDS),
    ]  # fmt: skip
    texts = {DIFFERS, PUT_ALL_BACK, "changed", CANVAS_STRETCHES, CANVAS_SET, STRENGTH, "the negative prompt"}
    for change, embedding, typed in itertools.product(changes, (None, "neg"), ("", "blurry")):
        params = TranslationParams(**{**change, "negative_prompt": typed})
        texts |= {sentence.template for sentence in translation_sentences(params, embedding)}
        kept = guidance_of(params).variant.kept()
        texts |= {re.sub(r"[\d.]+", "#", kept)} - {""}
    return texts


def in_params() -> set[str]:
    options = [*TranslationParams.options().values(), *TrainingParams.options().values()]
    options += [*PrepareParams.options().values(), *LoraParams.options().values(), *FullParams.options().values()]
    presets = [*TRANSLATION_PRESETS.values(), *TRAINING_PRESETS.values()]
    return {o.label for o in options} | {o.help for o in options} | {sentence for sentence, _ in presets}


@pytest.fixture
def in_settings(fake_host, monkeypatch) -> set[str]:
    texts = set()
    # as the host shows a hint
    monkeypatch.setattr(stand_in.OptionInfo, "info", lambda self, text: texts.add(f"({text})") or self)
    fake_host.load_scripts()
    for callback in fake_host.callbacks["on_ui_settings"]:
        callback()
    ours = [info for key, info in fake_host.options.items() if key.startswith("negtrans_")]
    assert ours
    return texts | {info.label for info in ours} | {info.section[1] for info in ours}


def test_every_text_has_its_entry_and_every_entry_its_text(words, on_the_page, in_html, in_settings):
    needed = on_the_page | in_html | in_params() | in_settings | {
        TabOptions().use_label, "Rendered to real", "Use it", PHOTOS_TAB.title, COMPARE, ENABLED,
    }  # fmt: skip
    assert sorted(needed - UNTRANSLATED - set(words)) == []
    assert sorted(set(words) - needed) == []


def test_the_entries_are_japanese_and_whole(words):
    for key, value in words.items():
        assert key == key.strip() and value == value.strip()  # the webui compares texts that are stripped
        assert JAPANESE.search(value), key
        # a sentence stays a sentence, and names in brackets stay as they are typed
        assert key.endswith(".") == value.endswith(("。", "です。")), key
        assert re.findall(r"\[\w+\]", key) == re.findall(r"\[\w+\]", value)
