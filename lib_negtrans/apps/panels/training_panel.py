"""The panels "Train Negative Embedding" and "Finetune on Photos", the same in the webui and on the standalone page.

`build_train_tab` fills the gradio Blocks that is open. It imports no host: it gets a manager and `TabOptions`.
The panel holds no state of its own. javascript/negtrans_train.js presses a hidden button while the panel is in sight,
and whatever the manager says is shown: a reloaded page finds the training under way, and closing it stops nothing.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from lib_negtrans.jobs.background import FINISHED, STOPPED
from lib_negtrans.jobs.training import TrainingManager, TrainingRefused
from lib_negtrans.jobs.training_snapshot import TrainingSnapshot
from lib_negtrans.options import Params
from lib_negtrans.training.kinds import KINDS
from lib_negtrans.training.params import TRAINING_PRESETS, TrainingParams

from .compare_panel import ComparePanel
from .components import QUIET, elem_ids, option_rows
from .dataset_panel import DatasetPanel
from .markup import message_html
from .prepare_panel import PreparePanel
from .runs_panel import RunsPanel
from .tab_kinds import RENDERS_TAB, TrainTab
from .training_actions import TrainingActions
from .training_view import status_html

SCRIPT_FILE = Path(__file__).resolve().parents[3] / "javascript" / "negtrans_train.js"
STYLE_FILE = Path(__file__).with_name("training.css")
# what any preset sets, in order
PRESET_OPTIONS = list(dict.fromkeys(name for _, values in TRAINING_PRESETS.values() for name in values))


@dataclass(frozen=True)
class TabOptions:
    """What differs between the programs that show the panel.

    typed_folders: False where users may not name folders of the machine; they drop pictures. connect_use: wires the
    button "Use in img2img" to the program's own components; connect_next: the button "Then train the negative on it";
    without them there are no such buttons.
    """

    typed_folders: bool = True
    connect_use: Callable[[gr.Button], None] | None = None
    use_label: str = "Use in img2img"
    connect_next: Callable[[gr.Button], None] | None = None


def build_train_tab(
    manager: TrainingManager, options: TabOptions | None = None, tab: TrainTab = RENDERS_TAB
) -> TrainingPanel:
    """Fill the open Blocks. Call it again for another page: every call makes new components and keeps nothing."""
    panel = TrainingPanel(manager, options or TabOptions(), tab)
    panel.build()
    return panel


class TrainingPanel(TrainingActions):
    """The components of one page and what their events do."""

    def __init__(self, manager: TrainingManager, options: TabOptions, tab: TrainTab = RENDERS_TAB):
        self.manager, self.options, self.tab, self.ids = manager, options, tab, elem_ids(tab.tab)
        self.typed_folders = options.typed_folders
        self.preparation = PreparePanel(manager.preparation, tab.tab)
        self.dataset = DatasetPanel(options.typed_folders, tab)
        self.runs = RunsPanel(manager, tab)
        self.comparison = ComparePanel(manager.comparison, tab)

    def build(self) -> None:
        gr.HTML(f"<style>{STYLE_FILE.read_text(encoding='utf-8')}</style>", elem_id=self.ids("style"))
        with gr.Row(elem_id=self.ids("panel")):
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
            label="Name", placeholder=self.tab.name_example, elem_id=self.ids("name"), info=self.tab.name_hint
        )
        self.name_hint = gr.HTML("", elem_id=self.ids("name_hint"))
        first = self.tab.kinds[0]
        self.kind = gr.Radio(
            list(self.tab.kinds), value=first, label="Kind", elem_id=self.ids("kind"), visible=len(self.tab.kinds) > 1,
            info="lora: a small file that is used beside the checkpoint. full: a new checkpoint, which needs more "
            "memory and time.",
        )  # fmt: skip
        self.preset = gr.Radio(
            list(TRAINING_PRESETS), value="standard", label="Preset", elem_id=self.ids("preset"),
            info=" ".join(f"{name}: {text}" for name, (text, _) in TRAINING_PRESETS.items()),
            visible=first == "negative",
        )  # fmt: skip
        self.loras = gr.Textbox(
            label="LoRAs to train on", elem_id=self.ids("loras"), placeholder="photo-look:1",
            visible=first == "negative",
            info="Names of files in the Lora folder, each with its weight, separated by commas. They are in the model "
            "during the training.",
        )  # fmt: skip
        values = TRAINING_PRESETS["standard"][1] if first == "negative" else {}
        params = KINDS[first].options.from_dict(values)
        self.fields: dict[str, Any] = {}
        self._build_options(self.tab.basic, params, len(self.tab.basic) // 2)
        for label, names in self.tab.groups().items():
            with gr.Accordion(label, open=False, elem_id=self.ids("group_" + label.lower().replace(" ", "_"))):
                self._build_options(names, params, 2)

    def _build_options(self, names: Sequence[str], params: Params, columns: int) -> None:
        """Components for these; those of another kind than the one chosen at first are not seen."""
        own = [name for name in names if self.tab.applies(name, self.tab.kinds[0])]
        self.fields |= option_rows(params, own, self.ids, columns=columns)
        for kind in self.tab.kinds[1:]:
            others = [name for name in names if name not in self.fields and self.tab.applies(name, kind)]
            made = option_rows(KINDS[kind].options(), others, self.ids, columns=columns)
            for component in made.values():
                component.visible = False
            self.fields |= made

    def _build_buttons(self) -> None:
        self.overwrite = gr.Checkbox(label=self.tab.overwrite, value=False, elem_id=self.ids("overwrite"))
        with gr.Row():
            self.start = gr.Button("Start", variant="primary", elem_id=self.ids("start"))
            self.interrupt = gr.Button("Interrupt (saves)", elem_id=self.ids("interrupt"))
            self.resume = gr.Button("Resume", elem_id=self.ids("resume"))
            self.cancel = gr.Button("Cancel waiting", visible=False, elem_id=self.ids("cancel"))
        self.message = gr.HTML("", elem_id=self.ids("message"))
        self.runs.build()

    def _build_result(self) -> None:
        self.status = gr.HTML(status_html(self.manager.snapshot()), elem_id=self.ids("status"))
        self.previews = gr.Gallery(
            label=self.tab.previews, columns=3, height="auto", object_fit="contain", elem_id=self.ids("previews")
        )
        self.use = gr.Button(self.options.use_label, visible=False, elem_id=self.ids("use"), variant="primary")
        self.keep = gr.Button("Put what was learnt into embeddings", visible=False, elem_id=self.ids("keep_vectors"))
        self.next = gr.Button("Then train the negative on it", visible=False, elem_id=self.ids("next"))
        if self.tab is RENDERS_TAB:
            self.comparison.build()
        self.poll = gr.Button("Refresh", elem_id=self.ids("poll"), elem_classes=["negtrans_hidden"])
        # what this page shows already: (status as HTML, job number, number of previews, runs)
        self.seen = gr.State(None)

    def _connect(self) -> None:
        view = [self.status, self.previews, self.use, self.next, self.cancel, self.keep, self.runs.runs, self.seen]
        named = [self.name, self.overwrite, self.kind]
        self.poll.click(self.refresh, [self.seen, *named], [self.message, self.name_hint, *view], **QUIET)
        for event in (self.name.change, self.overwrite.change):
            event(self.check_name, named, [self.name_hint], **QUIET)
        self.kind.input(self.apply_kind, [self.kind], list(self.fields.values()), **QUIET)
        if self.tab is RENDERS_TAB:
            self.preset.change(self.apply_preset, [self.preset], [self.fields[n] for n in PRESET_OPTIONS], **QUIET)
        self.dataset.connect(*(self.fields[name] for name in ("size", "pattern", "aspect", "background")))
        self.preparation.connect(self.poll, self.dataset.folder, self.fields["size"])
        if self.tab is RENDERS_TAB:
            self.comparison.connect(self.poll)
        self.cancel.click(self.cancel_waiting, [self.seen, self.name], [self.message, *view], **QUIET)
        data = self.dataset
        inputs = [
            self.seen, data.folder, data.files, data.other, data.validation, data.other_validation, data.class_images,
            self.name, data.preview_image, self.overwrite, self.kind, self.loras, *self.fields.values(),
        ]  # fmt: skip
        self.start.click(self.start_training, inputs, [self.message, *view, self.name], **QUIET)
        self.interrupt.click(self.interrupt_training, [self.seen], [self.message, *view], **QUIET)
        inputs = [self.seen, self.runs.runs, self.name, self.fields["steps"], self.overwrite]
        self.resume.click(self.resume_training, inputs, [self.message, self.name, *view], **QUIET)
        self.keep.click(self.keep_vectors, [self.seen, self.overwrite], [self.message, *view], **QUIET)
        form = {
            "name": self.name, "kind": self.kind, "loras": self.loras, "images": data.folder,
            "validation": data.validation, "class_images": data.class_images,
            self.tab.other: data.other, f"validation_{self.tab.other}": data.other_validation,
        }  # fmt: skip
        self.runs.connect(form, self.fields)
        if self.options.connect_use is not None:
            self.options.connect_use(self.use)
        if self.options.connect_next is not None:
            self.options.connect_next(self.next)

    # what the events do

    def show(self, seen: Any) -> list[Any]:
        """Updates of status, previews, buttons and runs, as far as this page does not show them yet."""
        state = self.manager.snapshot()
        status, number, count, runs = seen or (None, None, None, None)
        text = status_html(state)
        previews = len(state.previews)
        ready = state.phase == FINISHED and state.published and state.kind in self.tab.kinds
        learnt = state.phase == STOPPED and state.checkpoint and state.kind == "negative" in self.tab.kinds
        # files are looked at when the page is new and when a training has ended
        found = runs if runs is not None and (text == status or state.busy) else self.runs.choices()
        return [
            gr.update() if text == status else text,
            gr.update() if (state.number, previews) == (number, count) else gallery(state),
            gr.update(visible=ready and self.options.connect_use is not None),
            gr.update(visible=ready and self.options.connect_next is not None),
            gr.update(visible=bool(state.queue)),
            gr.update(visible=bool(learnt)),
            gr.update() if found == runs else gr.update(choices=found),
            (text, state.number, previews, found),
        ]

    def refresh(self, seen: Any, name: str, overwrite: bool, kind: str) -> list[Any]:
        """`show`, and where a training has ended what was said about it before is no longer."""
        state = self.manager.snapshot()
        ended = seen is not None and not state.busy and "data-busy='1'" in seen[0]
        if not ended:
            return [gr.update(), gr.update(), *self.show(seen)]
        hint = "" if (name or "").strip() == state.name else self.check_name(name, overwrite, kind)
        return ["", hint, *self.show(seen)]

    def check_name(self, name: str, overwrite: bool, kind: str = "negative") -> str:
        """The hint under the name, as it is typed."""
        name = (name or "").strip()
        if not name:
            return ""
        try:
            self.manager.check_name(name, overwrite, kind=kind)
        except TrainingRefused as error:
            return message_html(str(error), good=False)
        file = f"It will be {self.manager.out(name, kind)}."
        trigger = f"<span>Trigger word:</span> <b>{html.escape(name)}</b>. " if kind == "negative" else ""
        return f"<p class='negtrans-message'>{trigger}<span>{html.escape(file)}</span></p>"

    def apply_kind(self, kind: str) -> list[Any]:
        """Shows a kind's own options, with its values where the kinds differ."""
        defaults = [KINDS[one].options().to_dict() for one in self.tab.kinds]
        values, updates = KINDS[kind].options().to_dict(), []
        for name in self.fields:
            differ = len({repr(given.get(name)) for given in defaults}) > 1
            change = {"value": values[name]} if differ and name in values else {}
            updates.append(gr.update(visible=name in values, **change))
        return updates

    def apply_preset(self, preset: str) -> list[Any]:
        """The values of a preset, for the fields that any preset sets."""
        values = TrainingParams().to_dict() | TRAINING_PRESETS[preset][1]
        return [gr.update(value=values[name]) for name in PRESET_OPTIONS]


def gallery(state: TrainingSnapshot) -> list[tuple[str, str]]:
    """The render and its previews, the newest first after it, as (path, caption)."""
    shown = [(path, f"step {step}") for step, path in reversed(state.previews)]
    if state.preview_source and shown:
        shown.insert(0, (state.preview_source, "the render"))
    return [(path, caption) for path, caption in shown if Path(path).is_file()]
