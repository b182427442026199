"""What the buttons of a training panel do: start, interrupt, resume; and what is refused is said beside its field."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr

from lib_negtrans.jobs.comparison import ComparisonRefused
from lib_negtrans.jobs.training import TrainingManager, TrainingRefused, TrainingRequest
from lib_negtrans.options import ParamError
from lib_negtrans.training.data.captions import CHOICES, named_template
from lib_negtrans.training.kinds import KINDS
from lib_negtrans.training.params import TrainingParams

from .dataset_panel import DatasetPanel, keep_render
from .markup import message_html, picked_html
from .runs_panel import RunsPanel, run_name
from .tab_kinds import TrainTab


class FieldRefused(TrainingRefused):
    """Refused for what is in one field. element: its id."""

    def __init__(self, sentence: str, element: str):
        super().__init__(sentence)
        self.element = element


class TrainingActions:
    """The part of `training_panel.TrainingPanel` that its buttons call."""

    manager: TrainingManager
    tab: TrainTab
    ids: Callable[[str], str]
    dataset: DatasetPanel
    runs: RunsPanel
    fields: dict[str, Any]
    typed_folders: bool
    show: Callable[[Any], list[Any]]

    def start_training(
        self,
        seen: Any,
        folder: str,
        files: Any,
        other: str,
        validation: str,
        other_validation: str,
        class_images: str,
        name: str,
        preview: str | None,
        overwrite: bool,
        kind: str,
        loras: str,
        *values: Any,
    ) -> list[Any]:
        """Start, or say in one sentence why not. The last value is the name, which is found where none was typed."""
        name, others = (name or "").strip() or self._free_name(), dict[str, Any]()
        try:
            given = zip(self.fields, values, strict=True)
            params = KINDS[kind].options.from_given({n: value for n, value in given if self.tab.applies(n, kind)})
            if isinstance(params, TrainingParams):
                named = named_template(params.template, self.manager.workplace.templates_folder)
                if not self.typed_folders and params.template not in CHOICES and named == params.template:
                    raise TrainingRefused(f"A template file cannot be named here: use {', '.join(CHOICES)}.")
            with self._about("name"):
                self.manager.check_name(name, overwrite, kind=kind)
                run_folder = self.manager.run_folder(name)
            with self._about("folder"):
                pictures = self.dataset.pictures(folder, files, run_folder / "pictures")
            render = keep_render(preview, run_folder)
            typed = {
                self.tab.other: other, "validation": validation, f"validation_{self.tab.other}": other_validation,
                "class_images": class_images,
            }  # fmt: skip
            others = {one: self.dataset.typed_folder(text) for one, text in typed.items()}
            with self._about("loras"):
                others["loras"] = self.manager.named_loras((loras or "").split(","))
            request = TrainingRequest(name, pictures, params, render, overwrite=overwrite, kind=kind, **others)
            self.manager.start(request)
        except FieldRefused as error:
            return [*self._said(seen, str(error), good=False, about=error.element), gr.update()]
        except (ParamError, TrainingRefused) as error:
            at_fault = [one for one, path in others.items() if isinstance(path, Path) and str(path) in str(error)]
            about = self.ids(at_fault[0]) if at_fault else self.runs.about(error)
            return [*self._said(seen, str(error), good=False, about=about), gr.update()]
        if name in self.manager.snapshot().queue:
            return [*self._said(seen, f"{name} waits for its turn. You may close this page."), name]
        return [*self._said(seen, f"{name} has started. You may close this page: the training goes on."), name]

    def _free_name(self) -> str:
        """The tab's example, or with the first number behind it of which there is neither a file nor a run."""
        example, kind = self.tab.name_example, self.tab.kinds[0]
        waiting = self.manager.snapshot().queue
        return next(
            name
            for name in (f"{example}-{number}" if number > 1 else example for number in itertools.count(1))
            if not self.manager.out(name, kind).exists()
            and not self.manager.run_folder(name).exists()
            and name not in waiting
        )

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

    def _said(self, seen: Any, sentence: str, good: bool = True, about: str = "") -> list[Any]:
        return [message_html(sentence, good, about), *self.show(seen)]

    @contextmanager
    def _about(self, field: str) -> Generator[None, None, None]:
        """What is refused inside is about this field."""
        try:
            yield
        except TrainingRefused as error:
            raise FieldRefused(str(error), self.ids(field)) from error

    def keep_vectors(self, seen: Any, overwrite: bool) -> list[Any]:
        """An interrupted run's vectors as the embedding of its name."""
        state = self.manager.snapshot()
        try:
            said = picked_html(self.manager.comparison.pick(state.name, f"step {state.step}", state.name, overwrite))
        except ComparisonRefused as error:
            return self._said(seen, str(error), good=False, about=self.ids("overwrite"))
        return [said, *self.show(seen)]

    def resume_training(self, seen: Any, chosen: str | None, name: str, steps: Any, overwrite: bool) -> list[Any]:
        """Go on with the named run, or with the chosen one; a run that is done goes on to the steps the field says."""
        name = (name or "").strip() or run_name(chosen)
        try:
            runs = [run.name for run in self.manager.resumable(self.tab.kinds)]
            if not name:
                nothing = "There is no interrupted run to resume."
                raise TrainingRefused("Choose the run to resume in the list." if runs else nothing)
            changes = {"steps": TrainingParams.from_given({"steps": steps}).steps} if name not in runs else {}
            self.manager.resume(name, overwrite, **changes)
        except (TrainingRefused, ParamError) as error:
            return [message_html(str(error), good=False, about=self.ids("runs")), gr.update(), *self.show(seen)]
        return [message_html(f"{name} goes on."), name, *self.show(seen)]
