"""The standalone page: translation and training on one model, from the same builders as the webui's panels."""

from __future__ import annotations

import html
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from lib_negtrans import TITLE
from lib_negtrans.apps.panels.components import QUIET, TAB_ID, option_component
from lib_negtrans.apps.panels.dataset_panel import dropped_path
from lib_negtrans.apps.panels.markup import message_html
from lib_negtrans.apps.panels.tab_kinds import RENDERS_TAB
from lib_negtrans.apps.panels.training_panel import SCRIPT_FILE, STYLE_FILE, TabOptions, build_train_tab
from lib_negtrans.apps.panels.translation_panel import build_translation_panel, relisted
from lib_negtrans.apps.panels.translation_view import progress_html, result_html, stage_html
from lib_negtrans.embeddings import NO_EMBEDDING, chosen_embedding
from lib_negtrans.embeddings.files import EmbeddingError
from lib_negtrans.embeddings.folder import EmbeddingFolder
from lib_negtrans.jobs.training import TrainingManager
from lib_negtrans.jobs.translation import RequestRefused, TranslationRequest, TranslationRunner
from lib_negtrans.jobs.workplace import LocalWorkplace
from lib_negtrans.options import ParamError
from lib_negtrans.pictures.images import ImageError, Picture, load_picture
from lib_negtrans.pictures.masks import mask_from_picture
from lib_negtrans.translation.arguments import HOST_OPTIONS
from lib_negtrans.translation.infotext import (
    EMBEDDING_KEY,
    WEIGHT_KEY,
    loras_in,
    parse_infotext,
    settings_from_infotext,
)
from lib_negtrans.translation.negatives import Negative
from lib_negtrans.translation.params import TranslationParams

from .picture_input import picture_input
from .server import picture_url

PREFIX = "negtrans_page_"
TABS, TRANSLATE_TAB = "negtrans_tabs", "negtrans_translate"
ROOT = Path(__file__).resolve().parents[3]
# the webui takes the files at the root by itself; an installed package has none of them
FILES = (
    ROOT / "style.css", STYLE_FILE, Path(__file__).with_name("page.css"),
    SCRIPT_FILE, SCRIPT_FILE.with_name("negtrans_translate.js"), Path(__file__).with_name("page.js"),
    ROOT / "localizations" / "ja_JP.json",
)  # fmt: skip


def build_page(workplace: LocalWorkplace, manager: TrainingManager, runner: TranslationRunner) -> gr.Blocks:
    """The page as gradio Blocks. Needs nothing from the network.

    Without gradio's queue: that asks its own server over HTTP, and gives up where a busy machine takes 5 s to answer.
    """
    host = workplace.host
    name = " + ".join([host.checkpoint_name, *(f"{lora.name}:{lora.weight:g}" for lora in host.loras)])
    with gr.Blocks(title=TITLE, analytics_enabled=False) as blocks:
        gr.HTML(
            f"<header class='negtrans-header'><h1>Rendered to real</h1><p>{html.escape(name)} "
            f"on {html.escape(str(host.device))}</p></header>"
        )
        page = _TranslationTab(workplace, runner)
        with gr.Tabs(elem_id=TABS) as tabs:
            with gr.Tab(TITLE, id=TRANSLATE_TAB, elem_id=TRANSLATE_TAB) as tab:
                page.build()
            with gr.Tab(RENDERS_TAB.title, id=TAB_ID, elem_id=TAB_ID):
                options = TabOptions(
                    connect_use=lambda button: page.connect_use(button, manager, tabs),
                    use_label=f"Use in {TITLE}",
                )
                build_train_tab(manager, options)
        for event in (tab.select, blocks.load):
            event(partial(relisted, page.choices), [page.panel.embedding], [page.panel.embedding], **QUIET)
        blocks.load(page.shown, [page.seen], page.view, **QUIET)
    for event in blocks.fns.values():
        event.api_visibility = "private"  # their description would be sent with every page
    blocks.allowed_paths = [str(Path(p).resolve()) for p in (workplace.embeddings_folder, workplace.runs_folder)]
    return blocks


class _TranslationTab:
    """The components of the translation tab and what their events do."""

    def __init__(self, workplace: LocalWorkplace, runner: TranslationRunner):
        self.runner, host = runner, workplace.host
        self.loras = [(lora.name, lora.weight) for lora in host.loras]
        self.folder = EmbeddingFolder(workplace.embeddings_folder, host.embedding_width, host.embeddings)
        # the demonstration model was trained on pictures of this size
        self.default_side = 256 if host.checkpoint_name.startswith("negtrans-demo") else 768

    def build(self) -> None:
        with gr.Row(elem_id=f"{PREFIX}columns"):
            with gr.Column(scale=5, min_width=300):
                self._build_inputs()
            with gr.Column(scale=6, min_width=300, elem_id=f"{PREFIX}output"):
                self._build_outputs()
        self._connect()

    def _build_inputs(self) -> None:
        options, defaults = TranslationParams.options(), TranslationParams()

        def component(name: str, **limits: Any) -> Any:
            return option_component(replace(options[name], **limits), getattr(defaults, name), PREFIX + name)

        with gr.Row(elem_id=f"{PREFIX}picture_row"):
            with gr.Column(scale=3, min_width=200):
                self.picture = picture_input(label="Render", height=260, elem_id=f"{PREFIX}picture")
            with gr.Column(scale=2, min_width=140):
                self.longest = gr.Number(
                    label="Longest side",
                    info="Larger pictures are reduced to this size, in pixels. 0 keeps their size.",
                    value=self.default_side, precision=0, minimum=0, elem_id=f"{PREFIX}longest",
                )  # fmt: skip
                self.settings = gr.File(
                    label="Settings from a PNG", file_types=[".png"], height=110, elem_id=f"{PREFIX}settings"
                )
        with gr.Accordion("Painted mask", open=False, elem_id=f"{PREFIX}mask_file_panel"):
            self.mask = picture_input(label="Mask: white is translated", height=160, elem_id=f"{PREFIX}mask_file")
        self.note = gr.HTML(elem_id=f"{PREFIX}note")
        texts = {name: component(name) for name in ("prompt", "negative_prompt")}
        with gr.Row():
            sliders = {"strength": component("strength", minimum=0.02), "steps": component("steps", maximum=150)}
        with gr.Row():
            sliders["cfg_scale"] = component("cfg_scale", minimum=1.0)
            seed = component("seed")
        # a choice of one is none
        # these have a place of their own on the page; the others are the shared panel's
        names = [n for n, o in options.items() if n not in HOST_OPTIONS and (o.choices is None or len(o.choices) > 1)]
        self.panel = build_translation_panel(names, self.choices, self.choices, PREFIX, sliders, (0.0, 3.0), texts)
        self.controls = {**texts, "seed": seed, **sliders, **self.panel.controls}

    def _build_outputs(self) -> None:
        state = self.runner.snapshot()
        with gr.Row():
            self.translate = gr.Button("Translate", variant="primary", elem_id=f"{PREFIX}translate")
            self.interrupt = gr.Button("Interrupt", interactive=False, elem_id=f"{PREFIX}interrupt")
        self.message = gr.HTML(elem_id=f"{PREFIX}message")
        self.progress = gr.HTML(progress_html(state), elem_id=f"{PREFIX}progress")
        self.stage = gr.HTML(stage_html(state, picture_url), elem_id=f"{PREFIX}stage")
        self.result = gr.HTML(elem_id=f"{PREFIX}result")
        # pressed by page.js while there is something to wait for: any page that is opened sees the same translation
        self.poll = gr.Button("Refresh", elem_id=f"{PREFIX}poll", elem_classes=["negtrans_hidden"])
        self.seen = gr.State(None)  # what this page shows already, so that a comparison at rest is not replaced
        self.view = [self.progress, self.stage, self.result, self.translate, self.interrupt, self.seen]

    def _connect(self) -> None:
        chosen = [self.panel.embedding, self.panel.embedding_weight]
        inputs = [self.seen, self.picture, self.mask, self.longest, *chosen, *self.controls.values()]
        self.translate.click(self.start, inputs, [self.message, *self.view], **QUIET)
        self.interrupt.click(self.stop, [self.seen], self.view, **QUIET)
        self.poll.click(self.shown, [self.seen], self.view, **QUIET)
        restored = [*self.controls.values(), *chosen, self.longest, self.note]
        self.settings.upload(self.restore, [self.settings, self.panel.embedding], restored, **QUIET)

    def connect_use(self, button: gr.Button, manager: TrainingManager, tabs: gr.Tabs) -> None:
        """The training tab's button: choose what was trained, and show this tab."""

        def use() -> list[Any]:
            trained = gr.update(choices=self.choices(), value=manager.snapshot().name)
            return [trained, gr.update(selected=TRANSLATE_TAB)]

        button.click(use, None, [self.panel.embedding, tabs], **QUIET)

    # what the events do

    def choices(self) -> list[str]:
        """Of the embedding's dropdown, as the folder is now."""
        return [NO_EMBEDDING, *self.folder.names()]

    def start(
        self,
        seen: Any,
        picture: BytesIO | None,
        mask: BytesIO | None,
        longest: float | None,
        embedding: str | None,
        weight: float | None,
        *values: Any,
    ) -> list[Any]:
        """Start, or say in one sentence why not."""
        try:
            if picture is None:
                raise RequestRefused("There is no render yet: drop one, or click to choose a file.")
            params = TranslationParams.from_given(dict(zip(self.controls, values, strict=True)))
            if mask is None and params.mask == "file":
                raise RequestRefused("Mask is file, but there is none: drop one, or choose another mask.")
            negative = painted = None
            if name := chosen_embedding(embedding):
                negative = Negative(name, self.folder.vectors(name), 1.0 if weight is None else float(weight))
            named = self.folder.named_in(params.prompt, params.negative_prompt, params.source_prompt, params.concepts)
            if mask is not None:
                params, painted = replace(params, mask="file"), _loaded("mask", mask)
            render = _loaded("render", picture)
            if painted is not None:
                mask_from_picture(painted, render.size, "as dropped")
            request = TranslationRequest(render, params, negative, named, max(0, int(longest or 0)), painted)
            self.runner.start(request)
        except ImageError as error:
            return [message_html(f"The render {error}", good=False), *self.shown(seen)]
        except (ParamError, EmbeddingError, RequestRefused) as error:
            return [message_html(str(error), good=False), *self.shown(seen)]
        return ["", *self.shown(seen)]

    def stop(self, seen: Any) -> list[Any]:
        """Stop after the step under way."""
        self.runner.request_stop()
        return self.shown(seen)

    def shown(self, seen: Any) -> list[Any]:
        """Updates of `view`, as far as this page does not show them yet."""
        state = self.runner.snapshot()
        texts = [progress_html(state), stage_html(state, picture_url), result_html(state, picture_url)]
        before = seen or [None] * len(texts)
        return [
            *(gr.update() if text == old else text for text, old in zip(texts, before, strict=True)),
            gr.update(interactive=not state.busy),
            gr.update(interactive=state.busy and not state.stopping),
            texts,
        ]

    def restore(self, file: Any, current: str | None) -> list[Any]:
        """The controls as a PNG's parameters say, and a note; nothing changes for a file without any of ours."""
        try:
            settings, pairs = read_settings(dropped_path(file))
        except ImageError as error:
            return [*(gr.update() for _ in range(len(self.controls) + 3)), message_html(str(error), good=False)]
        name = pairs.get(EMBEDDING_KEY, NO_EMBEDDING)
        choices = self.choices()
        note = "Settings restored."
        if name not in choices:
            note = f"Settings restored but for the negative embedding {name}: it is not in {self.folder.folder}."
            name = NO_EMBEDDING
        settings["prompt"], loras = loras_in(str(settings["prompt"]))
        if loras != self.loras:
            named = ", ".join(f"--lora FILE:{weight:g} with the file of {lora}" for lora, weight in loras)
            note += f" The picture was made with other LoRAs: start the page {f'with {named}' if named else 'without'}."
        weight, size = pairs.get(WEIGHT_KEY, "1"), pairs.get("Size", "").partition("x")
        sides = [int(side) for side in (size[0], size[2]) if side.isdigit()]
        return [
            *(gr.update(value=settings[control]) if control in settings else gr.update() for control in self.controls),
            gr.update(choices=choices, value=name),
            gr.update(value=float(weight)),
            gr.update(value=max(sides)) if sides else gr.update(),
            message_html(note),
        ]


def _loaded(what: str, file: BytesIO) -> Picture:
    try:
        return load_picture(file)
    except ImageError as error:
        raise RequestRefused(f"The {what} {error}") from error


def read_settings(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """A PNG's options by name, and all pairs of its text. Raises ImageError."""
    try:
        with Image.open(path) as image:
            text = str(image.info.get("parameters") or "")
    except (OSError, ValueError, SyntaxError) as error:
        raise ImageError(f"This is no picture: drop a PNG made here or by the script {TITLE}.") from error
    try:
        settings = settings_from_infotext(text)
    except ValueError as error:
        raise ImageError("The parameters inside this PNG are damaged: drop another one.") from error
    if not settings:
        raise ImageError(f"This picture holds no settings of ours: drop a PNG made here or by {TITLE}.")
    return settings, parse_infotext(text)[2]
