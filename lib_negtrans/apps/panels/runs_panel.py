"""A training's form to and from elsewhere: interrupted runs fill it, settings are saved and loaded as JSON, the log."""

from __future__ import annotations

import base64
import html
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from lib_negtrans.files import file_and_weight
from lib_negtrans.jobs.training import TrainingManager
from lib_negtrans.options import ParamError
from lib_negtrans.training.kinds import KINDS
from lib_negtrans.training.request import REQUEST_FILE

from .components import QUIET, elem_ids
from .dataset_panel import dropped_path
from .markup import message_html
from .tab_kinds import TrainTab

NO_SETTINGS = "This file holds no settings of such a training: choose one that was saved here, or a run's request.json."


class RunsPanel:
    """Builds the components and handles their events. form: what a request calls it -> component, fields among them."""

    def __init__(self, manager: TrainingManager, tab: TrainTab):
        self.manager, self.tab, self.ids = manager, tab, elem_ids(tab.tab)

    def build(self) -> None:
        """The list of runs, and the buttons for files."""
        self.runs = gr.Dropdown(
            self.choices(), label="Runs that can be resumed", value=None, elem_id=self.ids("runs"),
            info="When you choose one, the form gets its settings. Resume then goes on with it.",
        )  # fmt: skip
        with gr.Row():
            self.save = gr.Button("Save settings", elem_id=self.ids("save"))
            self.load = gr.UploadButton("Load settings", file_types=[".json"], elem_id=self.ids("load"))
            self.log = gr.Button("Save the log", elem_id=self.ids("log"))
        self.file = gr.HTML("", elem_id=self.ids("file"))

    def connect(self, form: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
        """form: the request's own values, by its names; fields: the parameters."""
        self.form, self.fields = list(form), list(fields)
        components = [*form.values(), *fields.values()]
        self.save.click(self.saved, components, [self.file], **QUIET)
        self.load.upload(self.loaded, [self.load], [self.file, *components], **QUIET)
        self.runs.input(self.filled_from_run, [self.runs], [self.file, *components], **QUIET)
        self.log.click(self.log_file, None, [self.file], **QUIET)

    def choices(self) -> list[str]:
        """NAME: STEP / STEPS of each run of this tab's kinds, the last written first."""
        return [f"{run.name}: {run.step} / {run.steps}" for run in self.manager.resumable(self.tab.kinds)]

    # what the events do

    def saved(self, *values: Any) -> str:
        """The form as a file, of the form of a run's request.json."""
        given = dict(zip((*self.form, *self.fields), values, strict=True))
        kind = given["kind"]
        options = {name: given.pop(name) for name in self.fields}
        try:
            params = KINDS[kind].options.from_given({n: v for n, v in options.items() if self.tab.applies(n, kind)})
        except ParamError as error:
            return message_html(str(error), good=False, about=self.about(error))
        loras = [text.strip() for text in (given.pop("loras") or "").split(",") if text.strip()]
        request = {**given, "loras": loras, "params": params.to_dict()}
        text = json.dumps(request, indent=1, ensure_ascii=False)
        return _download(f"{given['name'] or 'training'}.json", text, "application/json")

    def loaded(self, file: Any) -> list[Any]:
        """The form as a saved file has it."""
        return self._filled(dropped_path(file), f"The form has the settings of {dropped_path(file).name}.")

    def filled_from_run(self, chosen: str | None) -> list[Any]:
        """The form as a run was asked for."""
        if not (run := run_name(chosen)):
            return [gr.update()] * (1 + len(self.form) + len(self.fields))
        return self._filled(self.manager.run_folder(run) / REQUEST_FILE, f"The form has the settings of {run}.")

    def _filled(self, file: Path, said: str) -> list[Any]:
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            kind = values.get("kind", "negative")
            if kind not in self.tab.kinds:
                raise ValueError(kind)
            params = KINDS[kind].options.from_stored(values["params"]).to_dict()
            loras = ", ".join(f"{path.stem}:{weight:g}" for path, weight in map(file_and_weight, values["loras"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            nothing = [gr.update()] * (len(self.form) + len(self.fields))
            return [message_html(NO_SETTINGS, good=False, about=self.ids("load")), *nothing]
        own = {**values, "kind": kind, "loras": loras}
        return [
            message_html(said),
            *(gr.update(value=own.get(name) or "") for name in self.form),
            *(
                gr.update(value=params[name], visible=True) if name in params else gr.update(visible=False)
                for name in self.fields
            ),
        ]

    def log_file(self) -> str:
        """What the training has said so far, as a file."""
        state = self.manager.snapshot()
        if not state.log:
            return message_html("There is no log yet: it begins with a training.", good=False)
        return _download(f"{state.name}.log", "\n".join(state.log) + "\n", "text/plain")

    def about(self, error: Exception) -> str:
        """The element of the option that a sentence begins with; "" for none."""
        labels = {option.label: name for name, option in self.tab.options.items() if name in self.fields}
        found = max((label for label in labels if str(error).startswith(label)), key=len, default=None)
        return "" if found is None else self.ids(labels[found])


def run_name(chosen: str | None) -> str:
    """The name in one of `choices`; "" for none."""
    return (chosen or "").partition(":")[0]


def _download(name: str, text: str, kind: str) -> str:
    """A link with the file in it, which the page's script follows at once."""
    data = base64.b64encode(text.encode()).decode()
    name = html.escape(name, quote=True)
    return (
        f"<p class='negtrans-message'><a download='{name}' href='data:{kind};base64,{data}' "
        f"data-negtrans-download='{time.time_ns()}'>{name}</a></p>"
    )
