"""The accordion "Compare checkpoints" of the training panel: a run's steps side by side, and one of them picked."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import gradio as gr

from lib_negtrans.jobs.background import FINISHED
from lib_negtrans.jobs.comparison import ComparisonRefused, ComparisonRunner, ComparisonSnapshot

from .components import QUIET, elem_ids
from .markup import message_html, picked_html
from .tab_kinds import TrainTab


class ComparePanel:
    """Builds the components and handles their events."""

    def __init__(self, runner: ComparisonRunner, tab: TrainTab):
        self.runner, self.tab, self.ids = runner, tab, elem_ids(tab.tab)

    def build(self) -> None:
        """The accordion."""
        with gr.Accordion("Compare checkpoints", open=False, elem_id=self.ids("compare")):
            with gr.Row():
                self.run = gr.Dropdown([], label="Run", elem_id=self.ids("compare_run"))
                self.refresh = gr.Button("List the runs", elem_id=self.ids("compare_refresh"))
            self.steps = gr.CheckboxGroup(
                [], label="Checkpoints to compare (if none is ticked: all)", elem_id=self.ids("compare_steps")
            )
            self.render = gr.Image(
                label="Render to compare on (if none: the one of the previews)", type="filepath", height=160,
                elem_id=self.ids("compare_render"),
            )  # fmt: skip
            with gr.Row():
                self.start = gr.Button("Compare", elem_id=self.ids("compare_start"))
                self.stop = gr.Button("Stop comparing", elem_id=self.ids("compare_stop"))
            self.status = gr.HTML(comparison_html(self.runner.snapshot()), elem_id=self.ids("compare_status"))
            self.grid = gr.Image(
                label="Side by side", type="filepath", visible=False, interactive=False,
                elem_id=self.ids("compare_grid"),
            )  # fmt: skip
            with gr.Row():
                self.choice = gr.Dropdown([], label="The best one", elem_id=self.ids("compare_choice"))
                self.name = gr.Textbox(label="Name for it", placeholder="neg-render", elem_id=self.ids("compare_name"))
            self.overwrite = gr.Checkbox(
                label="Overwrite an embedding of this name", value=False, elem_id=self.ids("compare_overwrite")
            )
            self.write = gr.Button("Write it as an embedding", elem_id=self.ids("compare_write"))
            self.message = gr.HTML("", elem_id=self.ids("compare_message"))
            self.seen = gr.State(None)

    def connect(self, poll: Any) -> None:
        """poll: the button that the page presses."""
        view = [self.status, self.grid, self.seen]
        poll.click(self.show, [self.seen], view, **QUIET)
        self.refresh.click(self.list_runs, [self.run], [self.run, self.steps, self.choice, self.message], **QUIET)
        self.run.change(self.list_steps, [self.run], [self.steps, self.choice, self.message], **QUIET)
        self.start.click(self.begin, [self.seen, self.run, self.steps, self.render], [self.message, *view], **QUIET)
        self.stop.click(self.interrupt, [self.seen], view, **QUIET)
        self.write.click(self.pick, [self.run, self.choice, self.name, self.overwrite], [self.message], **QUIET)

    # what the events do

    def show(self, seen: Any) -> list[Any]:
        """Updates of status and picture, as far as this page does not show them yet."""
        state = self.runner.snapshot()
        text = comparison_html(state)
        if text == seen:
            return [gr.update(), gr.update(), seen]
        shown = state.phase == FINISHED and state.grid is not None and Path(state.grid).is_file()
        return [text, gr.update(value=state.grid if shown else None, visible=shown), text]

    def list_runs(self, current: str | None) -> list[Any]:
        """The runs that there are now, and what the chosen one offers."""
        runs = self.runner.runs(self.tab.kinds)
        chosen = current if current in runs else (runs[0] if runs else None)
        return [gr.update(choices=runs, value=chosen), *self.list_steps(chosen)]

    def list_steps(self, run: str | None) -> list[Any]:
        """What a run offers."""
        try:
            offered = self.runner.offered(run or "")
        except ComparisonRefused as error:
            nothing = gr.update(choices=[], value=[]), gr.update(choices=[], value=None)
            return [*nothing, message_html(str(error), good=False, about=self.ids("compare_run"))]
        return [gr.update(choices=offered, value=[]), gr.update(choices=offered, value=offered[-1]), ""]

    def begin(self, seen: Any, run: str | None, steps: list[str] | None, render: str | None) -> list[Any]:
        """Start, or say in one sentence why not."""
        try:
            self.runner.start(run or "", steps or [], Path(render) if render else None)
        except ComparisonRefused as error:
            return [message_html(str(error), good=False, about=self.ids("compare_run")), *self.show(seen)]
        return ["", *self.show(seen)]

    def interrupt(self, seen: Any) -> list[Any]:
        """Stop after the picture under way."""
        self.runner.request_stop()
        return self.show(seen)

    def pick(self, run: str | None, choice: str | None, name: str, overwrite: bool) -> str:
        """Write the chosen one as an embedding."""
        if not choice:
            sentence = "Choose which one: a step, or best."
            return message_html(sentence, good=False, about=self.ids("compare_choice"))
        try:
            return picked_html(self.runner.pick(run or "", choice, (name or "").strip(), bool(overwrite)))
        except ComparisonRefused as error:
            return message_html(str(error), good=False, about=self.ids("compare_name"))


def comparison_html(state: ComparisonSnapshot) -> str:
    """Progress; its root carries data-compare for the page's script and for tests."""
    text = ""
    if state.busy:
        text = f"<p>{html.escape(state.run)}: {state.done}/{state.total}</p>"
    elif state.error:
        text = message_html(state.error, good=False)
    return f"<div data-compare='{'working' if state.busy else state.phase}' data-number='{state.number}'>{text}</div>"
