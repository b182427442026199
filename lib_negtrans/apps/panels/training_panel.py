"""The panel "Train Negative Embedding", the same in the webui and on the standalone page.

`build_train_tab` fills the gradio Blocks that is open. It imports no host: it gets a manager and `TabOptions`.
The panel holds no state of its own. javascript/negtrans_train.js presses a hidden button while the panel is in sight,
and whatever the manager says is shown: a reloaded page finds the training under way, and closing it stops nothing.
"""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from lib_negtrans.jobs.background import FINISHED
from lib_negtrans.jobs.training import TrainingManager, TrainingRefused, TrainingRequest
from lib_negtrans.jobs.training_snapshot import TrainingSnapshot
from lib_negtrans.options import ParamError
from lib_negtrans.training.data.captions import CHOICES, named_template
from lib_negtrans.training.params import TRAINING_PRESETS, TrainingParams

from .compare_panel import ComparePanel
from .components import QUIET, elem_id, option_rows
from .dataset_panel import DatasetPanel, keep_render
from .markup import message_html
from .prepare_panel import PreparePanel
from .training_view import status_html

TITLE = "Train Negative Embedding"
SCRIPT_FILE = Path(__file__).resolve().parents[3] / "javascript" / "negtrans_train.js"
STYLE = Path(__file__).with_name("training.css").read_text(encoding="utf-8")
# shown above the accordion, in this order; all others go into it
BASIC_OPTIONS = ("steps", "size", "vectors", "init_text")
# what any preset sets, in order
PRESET_OPTIONS = list(dict.fromkeys(name for _, values in TRAINING_PRESETS.values() for name in values))


@dataclass(frozen=True)
class TabOptions:
    """What differs between the programs that show the panel.

    typed_folders: False where users may not name folders of the machine; they drop pictures. connect_use: wires the
    button "Use in img2img" to the program's own components; without it there is no such button.
    """

    typed_folders: bool = True
    connect_use: Callable[[gr.Button], None] | None = None
    use_label: str = "Use in img2img"


def build_train_tab(manager: TrainingManager, options: TabOptions | None = None) -> TrainingPanel:
    """Fill the open Blocks. Call it again for another page: every call makes new components and keeps nothing."""
    panel = TrainingPanel(manager, options or TabOptions())
    panel.build()
    return panel


class TrainingPanel:
    """The components of one page and what their events do."""

    def __init__(self, manager: TrainingManager, options: TabOptions):
        self.manager, self.options = manager, options
        self.preparation = PreparePanel(manager.preparation)
        self.dataset = DatasetPanel(options.typed_folders)
        self.comparison = ComparePanel(manager.comparison)

    def build(self) -> None:
        gr.HTML(f"<style>{STYLE}</style>", elem_id=elem_id("style"))
        with gr.Row(elem_id=elem_id("panel")):
            with gr.Column(scale=5, min_width=360):
                self.preparation.build(visible=self.options.typed_folders)
                self.dataset.build()
                self._build_settings()
                self._build_buttons()
            with gr.Column(scale=6, min_width=420):
                self._build_result()
        self._connect()

    def _build_settings(self) -> None:
        self.name = gr.Textbox(
            label="Name", placeholder="neg-render", elem_id=elem_id("name"),
            info="The file name, and the trigger word in prompts. Use only a-z, 0-9, - and _.",
        )  # fmt: skip
        self.name_hint = gr.HTML("", elem_id=elem_id("name_hint"))
        self.preset = gr.Radio(
            list(TRAINING_PRESETS), value="standard", label="Preset", elem_id=elem_id("preset"),
            info=" ".join(f"{name}: {text}" for name, (text, _) in TRAINING_PRESETS.items()),
        )  # fmt: skip
        params = TrainingParams.from_dict(TRAINING_PRESETS["standard"][1])
        self.fields = option_rows(params, BASIC_OPTIONS, columns=len(BASIC_OPTIONS))
        with gr.Accordion("All options", open=False, elem_id=elem_id("options")):
            self.fields |= option_rows(params, [name for name in params.options() if name not in BASIC_OPTIONS])

    def _build_buttons(self) -> None:
        self.overwrite = gr.Checkbox(
            label="Overwrite an embedding or run of this name", value=False, elem_id=elem_id("overwrite")
        )
        with gr.Row():
            self.start = gr.Button("Start", variant="primary", elem_id=elem_id("start"))
            self.interrupt = gr.Button("Interrupt (saves)", elem_id=elem_id("interrupt"))
            self.resume = gr.Button("Resume", elem_id=elem_id("resume"))
            self.cancel = gr.Button("Cancel waiting", elem_id=elem_id("cancel"))
        self.message = gr.HTML("", elem_id=elem_id("message"))

    def _build_result(self) -> None:
        self.status = gr.HTML(status_html(self.manager.snapshot()), elem_id=elem_id("status"))
        self.previews = gr.Gallery(
            label="Previews: the render translated with the vectors so far", columns=3, height="auto",
            object_fit="contain", elem_id=elem_id("previews"),
        )  # fmt: skip
        self.use = gr.Button(self.options.use_label, visible=False, elem_id=elem_id("use"), variant="primary")
        self.comparison.build()
        self.poll = gr.Button("Refresh", elem_id=elem_id("poll"), elem_classes=["negtrans_hidden"])
        self.seen = gr.State(None)  # what this page shows already: (status as HTML, job number, number of previews)

    def _connect(self) -> None:
        view = [self.status, self.previews, self.use, self.seen]
        self.poll.click(self.show, [self.seen], view, **QUIET)
        for event in (self.name.change, self.overwrite.change):
            event(self.check_name, [self.name, self.overwrite], [self.name_hint], **QUIET)
        self.preset.change(self.apply_preset, [self.preset], [self.fields[n] for n in PRESET_OPTIONS], **QUIET)
        size, pattern, aspect = (self.fields[name] for name in ("size", "pattern", "aspect"))
        self.dataset.connect(size, pattern, aspect)
        self.preparation.connect(self.poll, self.dataset.folder, size)
        self.comparison.connect(self.poll)
        self.cancel.click(self.cancel_waiting, [self.seen, self.name], [self.message, *view], **QUIET)
        data = self.dataset
        inputs = [
            self.seen, data.folder, data.files, data.photos, data.validation, data.validation_photos, self.name,
            data.preview_image, self.overwrite, *self.fields.values(),
        ]  # fmt: skip
        self.start.click(self.start_training, inputs, [self.message, *view], **QUIET)
        self.interrupt.click(self.interrupt_training, [self.seen], [self.message, *view], **QUIET)
        inputs = [self.seen, self.name, self.fields["steps"], self.overwrite]
        self.resume.click(self.resume_training, inputs, [self.message, self.name, *view], **QUIET)
        if self.options.connect_use is not None:
            self.options.connect_use(self.use)

    # what the events do

    def show(self, seen: Any) -> list[Any]:
        """Updates of status, previews and button, as far as this page does not show them yet."""
        state = self.manager.snapshot()
        status, number, count = seen or (None, None, None)
        text = status_html(state)
        previews = len(state.previews)
        return [
            gr.update() if text == status else text,
            gr.update() if (state.number, previews) == (number, count) else gallery(state),
            gr.update(visible=state.phase == FINISHED and state.published and self.options.connect_use is not None),
            (text, state.number, previews),
        ]

    def check_name(self, name: str, overwrite: bool) -> str:
        """The hint under the name, as it is typed."""
        name = (name or "").strip()
        if not name:
            return ""
        try:
            self.manager.check_name(name, overwrite)
        except TrainingRefused as error:
            return message_html(str(error), good=False)
        file = html.escape(str(self.manager.out(name)))
        return f"<p class='negtrans-message'>Trigger word: <b>{html.escape(name)}</b>. It will be {file}.</p>"

    def apply_preset(self, preset: str) -> list[Any]:
        """The values of a preset, for the fields that any preset sets."""
        values = TrainingParams().to_dict() | TRAINING_PRESETS[preset][1]
        return [gr.update(value=values[name]) for name in PRESET_OPTIONS]

    def start_training(
        self,
        seen: Any,
        folder: str,
        files: Any,
        photos: str,
        validation: str,
        validation_photos: str,
        name: str,
        preview: str | None,
        overwrite: bool,
        *values: Any,
    ) -> list[Any]:
        """Start, or say in one sentence why not."""
        name = (name or "").strip()
        try:
            params = TrainingParams.from_given(dict(zip(self.fields, values, strict=True)))
            named = named_template(params.template, self.manager.workplace.templates_folder)
            if not self.options.typed_folders and params.template not in CHOICES and named == params.template:
                raise TrainingRefused(f"A template file cannot be named here: use {', '.join(CHOICES)}.")
            self.manager.check_name(name, overwrite)
            run_folder = self.manager.run_folder(name)
            pictures = self.dataset.pictures(folder, files, run_folder / "pictures")
            render = keep_render(preview, run_folder)
            typed = zip(
                ("photos", "validation", "validation_photos"), (photos, validation, validation_photos), strict=True
            )
            others: dict[str, Any] = {kind: self.dataset.typed_folder(text) for kind, text in typed}
            self.manager.start(TrainingRequest(name, pictures, params, render, overwrite=overwrite, **others))
        except (TrainingRefused, ParamError) as error:
            return self._said(seen, str(error), good=False)
        if name in self.manager.snapshot().queue:
            return self._said(seen, f"{name} waits for its turn. You may close this page.")
        return self._said(seen, f"{name} has started. You may close this page: the training goes on.")

    def cancel_waiting(self, seen: Any, name: str) -> list[Any]:
        """Take the named training out of the queue, or the last one if that name does not wait."""
        waiting = self.manager.snapshot().queue
        if not waiting:
            return self._said(seen, "No training waits for its turn.", good=False)
        gone = self.manager.cancel((name or "").strip()) or self.manager.cancel(waiting[-1])
        return self._said(seen, f"{', '.join(gone)} will not be trained.")

    def interrupt_training(self, seen: Any) -> list[Any]:
        """Stop after the step under way."""
        if self.manager.request_stop():
            return self._said(seen, "It stops after this step and saves; Resume goes on from there.")
        return self._said(seen, "No training is under way.", good=False)

    def _said(self, seen: Any, sentence: str, good: bool = True) -> list[Any]:
        return [message_html(sentence, good), *self.show(seen)]

    def resume_training(self, seen: Any, name: str, steps: Any, overwrite: bool) -> list[Any]:
        """Go on with the named run, or with the last one; a run that is done goes on to the steps the field says."""
        name = (name or "").strip()
        try:
            runs = {run: saved for run, saved, _ in self.manager.resumable()}
            if not name and not runs:
                raise TrainingRefused("There is no interrupted run to resume.")
            name = name or next(iter(runs))
            changes = {"steps": TrainingParams.from_given({"steps": steps}).steps} if name not in runs else {}
            self.manager.resume(name, overwrite, **changes)
        except (TrainingRefused, ParamError) as error:
            return [message_html(str(error), good=False), gr.update(), *self.show(seen)]
        return [message_html(f"{name} goes on."), name, *self.show(seen)]


def gallery(state: TrainingSnapshot) -> list[tuple[str, str]]:
    """The render and its previews, the newest first after it, as (path, caption)."""
    shown = [(path, f"step {step}") for step, path in reversed(state.previews)]
    if state.preview_source and shown:
        shown.insert(0, (state.preview_source, "the render"))
    return [(path, caption) for path, caption in shown if Path(path).is_file()]
