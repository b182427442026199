"""The accordion "Prepare a folder" of the training panel: from any tree of pictures to one that can be trained on."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import gradio as gr

from lib_negtrans.jobs.background import FINISHED, IDLE, STOPPED
from lib_negtrans.jobs.preparation import PrepareRunner, PrepareSnapshot
from lib_negtrans.options import ParamError
from lib_negtrans.preparation.build import PrepareError
from lib_negtrans.preparation.params import PrepareParams

from .components import QUIET, elem_ids, option_rows, typed_path
from .markup import message_html


class PreparePanel:
    """Builds the components and handles their events."""

    def __init__(self, runner: PrepareRunner, tab: str):
        self.runner, self.ids = runner, elem_ids(tab)

    def build(self, visible: bool = True) -> None:
        """The accordion; not visible where users may not name folders of the machine."""
        with gr.Accordion("Prepare a folder", open=False, visible=visible, elem_id=self.ids("prepare")):
            self.source = gr.Textbox(
                label="Folder with pictures of any kind", placeholder="/path/to/pictures",
                info="Sub-folders are included. Nothing in this folder is changed.",
                elem_id=self.ids("prepare_source"),
            )  # fmt: skip
            self.target = gr.Textbox(
                label="New folder for the result", placeholder="/path/to/renders",
                elem_id=self.ids("prepare_target"),
            )  # fmt: skip
            self.fields = option_rows(PrepareParams(), PrepareParams.options(), self.ids, "prepare_")
            self.overwrite = gr.Checkbox(
                label="Replace an earlier result in that folder", value=False, elem_id=self.ids("prepare_overwrite")
            )
            with gr.Row():
                self.start = gr.Button("Prepare", elem_id=self.ids("prepare_start"))
                self.stop = gr.Button("Stop preparing", elem_id=self.ids("prepare_stop"))
                self.use = gr.Button("Train on it", elem_id=self.ids("prepare_use"), visible=False)
            self.report = gr.HTML(prepare_html(self.runner.snapshot()), elem_id=self.ids("prepare_report"))
            self.seen = gr.State(None)

    def connect(self, poll: Any, folder: Any, size: Any) -> None:
        """poll: the button that the page presses; folder, size: the training's, for "Train on it"."""
        view = [self.report, self.use, self.seen]
        poll.click(self.show, [self.seen], view, **QUIET)
        self.start.click(
            self.begin, [self.seen, self.source, self.target, self.overwrite, *self.fields.values()], view, **QUIET
        )
        self.stop.click(self.interrupt, [self.seen], view, **QUIET)
        self.use.click(self.result, None, [folder, size], **QUIET)

    # what the events do

    def show(self, seen: Any, error: str = "") -> list[Any]:
        """Updates of the report and the button, as far as this page does not show them yet."""
        state = self.runner.snapshot()
        text = (message_html(error, good=False) if error else "") + prepare_html(state)
        if not error and text == seen:
            return [gr.update(), gr.update(), seen]
        return [text, gr.update(visible=state.phase == FINISHED), text]

    def begin(self, seen: Any, source: str, target: str, overwrite: bool, *values: Any) -> list[Any]:
        """Start, or say in one sentence why not."""
        source, target = typed_path(source), typed_path(target)
        try:
            if not source or not target:
                raise PrepareError("Name both folders: the one with the pictures, and a new one for the result.")
            params = PrepareParams.from_given(dict(zip(self.fields, values, strict=True)))
            self.runner.start(Path(source).expanduser(), Path(target).expanduser(), params, bool(overwrite))
        except (PrepareError, ParamError) as error:
            return self.show(seen, str(error))
        return self.show(seen)

    def interrupt(self, seen: Any) -> list[Any]:
        """Stop; the result's folder is what it was."""
        self.runner.request_stop()
        self.runner.wait(5)
        return self.show(seen)

    def result(self) -> list[Any]:
        """Folder and size for the training."""
        state = self.runner.snapshot()
        return [state.target, state.size]


def prepare_html(state: PrepareSnapshot) -> str:
    """Progress or report; its root carries data-phase for the page's script and for tests."""
    parts = [f"<div class='negtrans-prepare' data-prepare='{state.phase}'>"]
    if state.busy:
        doing = html.escape(state.doing or "Looking for pictures")
        parts.append(f"<p>{doing}</p>")
    elif state.phase == STOPPED:
        parts.append("<p>Stopped; nothing was written.</p>")
    elif state.error:
        parts.append(message_html(state.error, good=False))
    elif state.phase != IDLE:
        lines = "".join(f"<li>{html.escape(line)}</li>" for line in state.lines)
        parts.append(f"<div class='negtrans-dataset'><ul>{lines}</ul></div>")
    return "".join([*parts, "</div>"])
