"""Japanese: every label, hint, button and sentence of the panels and settings has its entry, and none is left over."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import json
import re
from collections.abc import Iterator
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
from lib_negtrans.embeddings.files import validate_name
from lib_negtrans.jobs.background import FINISHED
from lib_negtrans.jobs.training import TrainingManager
from lib_negtrans.jobs.training_snapshot import TRAINING, TrainingSnapshot
from lib_negtrans.jobs.translation import TranslationRunner, TranslationSnapshot
from lib_negtrans.jobs.workplace import LocalWorkplace
from lib_negtrans.preparation.params import PrepareParams
from lib_negtrans.training import events
from lib_negtrans.training.data.dataset import DatasetReport
from lib_negtrans.training.judging.verdict import LEARNING, verdict
from lib_negtrans.training.params import TRAINING_PRESETS, TrainingParams
from lib_negtrans.training.positive_params import FullParams, LoraParams
from lib_negtrans.translation.params import TRANSLATION_PRESETS, TranslationParams
from lib_negtrans.translation.wording import translation_sentences
from tests.fakehost import host as stand_in
from tests.unit.test_training_judging import VERDICTS, best_of, measurement, vectors_of

FILE = Path(__file__).resolve().parents[2] / "localizations" / "ja_JP.json"
JAPANESE = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")
PLACE = re.compile(r"\{(\w+)\}")
ENGLISH = re.compile(r"(?!pip |dtype )\b[A-Za-z]{2,},? [a-z]{2,}")  # two words: names and commands are left as they are
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
    return texts | {text for text in found if re.search("[a-z]{2}", text) and "%" not in text}


def in_summaries() -> set[str]:
    """All that a summary can say, and its other texts."""
    changes = [
        {"solver": "ddim"}, {"start": "noise"}, {"tac_ratio": 0.0}, {"tac_blend": 0.5}, {"mask": "alpha"},
        {"mask": "alpha", "background": "keep"}, {"strength": 0.9}, {"strength": 0.0},
        {"concepts": "wool :3"}, *({"guidance": kind} for kind in GUIDANCE_KINDS),
    ]  # fmt: skip
    texts = {DIFFERS, PUT_ALL_BACK, "changed", CANVAS_STRETCHES, CANVAS_SET, STRENGTH, "the negative prompt"}
    for change, embedding, typed in itertools.product(changes, (None, "neg"), ("", "blurry")):
        texts |= {*translation_sentences(TranslationParams(**{**change, "negative_prompt": typed}), embedding)}
    return texts


def in_log() -> set[str]:
    """What events and verdicts say, which is put together from parts."""
    judged = "Learning: the loss has fallen by 3.0 %. Only validation can say what is learnt."
    file, steps = Path("neg.pt"), (3, 9, 0.5, 0.5, 1e-3, 0.1, 0.1, 0.1, 1.0, 9.0)
    started = events.Started("neg", 9, 0, 4, 0, (1, 280), "0.005 until step 100, then 1e-05", "a photo")
    validated = events.Validated(3, 0.5, 0.1, 0.1, "photos", None, None, None, None, None, False, [], [], "", judged)
    stopped = events.Stopped(0, 9, None, None)
    said = [
        started, dataclasses.replace(started, start_step=2), validated, stopped, events.Caching(1, 2),
        events.MakingClass(1, 2), events.StepDone(*steps), events.StepDone(*steps, prior_loss=0.1),
        events.Saved(3, file), events.Preview(3, file), events.Finished(9, file, file, 4, 0.5, 9.0, []),
        dataclasses.replace(validated, gap=0.1, gap_error=0.1, best=True, nearest=["cg"]),
        dataclasses.replace(stopped, step=3, checkpoint=file, result=file),
        events.Notice("There is no checkpoint in run: training starts at step 0.", "warning"),
        events.Notice("Timesteps 0 to 999 are trained: all."),
        events.Judged(3, LEARNING, judged),
    ]  # fmt: skip
    for values, photos, norm, *_ in VERDICTS:
        measured = measurement(values[-1], photos)
        said.append(verdict(len(values) - 1, measured, best_of(values), norm, vectors_of(1.0)).text)
    return {str(one) for one in said}


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


# whose sentences the panels show
SPEAKERS = (
    "apps.panels.compare_panel", "apps.panels.dataset_panel", "apps.panels.markup", "apps.panels.prepare_panel",
    "apps.panels.runs_panel", "apps.panels.training_actions", "apps.panels.training_panel",
    "apps.panels.training_view", "apps.webui.forge.host", "apps.webui.host", "apps.webui.webui_workplace",
    "jobs.comparison", "jobs.preparation", "jobs.training", "models.a1111", "models.forge", "options",
    "pictures.images", "preparation.build", "preparation.params", "training.checkpoint", "training.common_params",
    "training.data.captions", "training.data.dataset", "training.data.latents", "training.data.photographs",
    "training.data.sets", "training.errors", "training.judging.comparison", "training.judging.judging",
    "training.judging.verdict", "training.kinds.full", "training.kinds.lora", "training.kinds.negative",
    "training.kinds.positive", "training.loss_log", "training.lr_schedule", "training.memory_estimate",
    "training.notices", "training.optimizers", "training.params", "training.positive_params", "training.precision",
    "training.resume", "training.run", "training.saving", "training.step", "translation.params",
)  # fmt: skip


NOT_SAID = {
    "Which part of the negative is subtracted.", "a checkpoint cannot hold «1»",
    "the learning-rate schedule ends at step «1», step «3» has no rate.",
    "«0», «2» steps on «4» photographs.", "encode_prompts needs at least one prompt.",
    "An image must be (B, 3, H, W) with H and W multiples of 8, not «1».",
    "The embedding «1» is «3»; this model takes (1..75, «5»).", ".*requires_grad=True. Gradients will be None",
}  # fmt: skip


def written(source: str) -> Iterator[str]:
    """The strings in a program that are not its docstrings, those with values in them as «value»."""
    inside: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and isinstance(node.body[0], ast.Expr):
            inside.add(id(node.body[0].value))
        if id(node) in inside:
            continue
        if isinstance(node, ast.JoinedStr):
            inside |= {id(part) for part in ast.walk(node)}
            parts = [(v.value if isinstance(v, ast.Constant) else f"«{i}»") for i, v in enumerate(node.values)]
            # before a capital stands a value that is a sentence
            yield re.sub("» (?=[A-Z])", "». ", "".join(map(str, parts))).strip()
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value.strip()


def in_source() -> set[str]:
    library = FILE.parents[1] / "lib_negtrans"
    sources = [(library / f"{name.replace('.', '/')}.py").read_text(encoding="utf-8") for name in SPEAKERS]
    texts = set(itertools.chain(*map(written, [*sources, inspect.getsource(validate_name)])))
    # what is wrong with a file follows its name
    texts = {f"«file» {text}" if re.match(r"(is|has|needs|cannot|there) .*\.$", text) else text for text in texts}
    return {text for text in texts if re.search(r"[a-z]{2,}", text) and not re.search(r"</?\w+[ >]", text)}


class Speaker:
    """Says a sentence in Japanese, as javascript/negtrans_translate.js does."""

    def __init__(self, words: dict[str, str]):
        self.words, self.used = words, set[str]()
        keys = sorted(filter(PLACE.search, words), key=lambda key: len(PLACE.sub("", key)), reverse=True)
        self.templates = [(key, re.compile("(.*?)".join(map(re.escape, PLACE.split(key)[::2])))) for key in keys]

    def say(self, text: str) -> str:
        if text in self.words:
            self.used.add(text)
            return self.words[text]
        return (
            self.parted(text, ". ") or self.matched(text) or self.parted(text, ": ") or self.parted(text, ", ") or text
        )

    def parted(self, text: str, mark: str) -> str:
        head, _, rest = text.partition(mark)
        kept = mark.strip(", ")
        return self.say(head + kept) + mark[len(kept) :] + self.say(rest) if mark in text else ""

    def matched(self, text: str) -> str:
        for key, pattern in self.templates:
            if found := pattern.fullmatch(text):
                self.used.add(key)
                values = dict(zip(PLACE.findall(key), found.groups(), strict=True))
                parts = PLACE.split(self.words[key])
                return "".join(self.say(values[part]) if i % 2 else part for i, part in enumerate(parts))
        return ""


def test_every_text_has_its_entry_and_every_entry_its_text(words, on_the_page, in_html, in_settings):
    speaker = Speaker(words)
    spoken = {text: speaker.say(text) for text in in_log() | in_summaries() | in_html | in_source() - NOT_SAID}
    sentences = {text for text in set(spoken) - set(words) if text.endswith(".") or "«" in text}
    assert {text: spoken[text] for text in sentences if ENGLISH.search(spoken[text])} == {}
    needed = on_the_page | in_params() | in_settings | {
        TabOptions().use_label, "Rendered to real", "Use it", PHOTOS_TAB.title, COMPARE, ENABLED,
        "Trigger word:", "Stopped; nothing was written.",
    }  # fmt: skip
    assert sorted(needed - UNTRANSLATED - set(words)) == []
    assert sorted(set(words) - needed - speaker.used) == []


def test_the_entries_are_japanese_and_whole(words):
    for key, value in words.items():
        assert key == key.strip() and value == value.strip()  # the webui compares texts that are stripped
        assert JAPANESE.search(value), key
        # a sentence stays a sentence, and names in brackets stay as they are typed
        assert key.endswith(".") == value.endswith(("。", "です。")), key
        assert re.findall(r"\[\w+\]", key) == re.findall(r"\[\w+\]", value)
