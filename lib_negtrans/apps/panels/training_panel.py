"""The panel "Train Negative Embedding", the same in the webui and on the standalone page.

`build_train_tab` fills the gradio Blocks that is open. It imports no host: it gets a manager and `TabOptions`.
The panel holds no state of its own. javascript/negtrans_train.js presses a hidden button while the panel is in sight,
and whatever the manager says is shown: a reloaded page finds the training under way, and closing it stops nothing.
"""

from __future__ import annotations

import html
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import gradio as gr
from torch import Tensor

from lib_negtrans.jobs.training import FINISHED, TrainingManager, TrainingRefused, TrainingRequest, TrainingSnapshot
from lib_negtrans.options import ParamError
from lib_negtrans.pictures.images import ImageError, to_pil
from lib_negtrans.pictures.tree import iter_image_files
from lib_negtrans.steps import finish
from lib_negtrans.training.data.captions import CHOICES, named_template
from lib_negtrans.training.data.dataset import DatasetReport, automatic_size, read_folder, training_files
from lib_negtrans.training.data.sets import OTHER_FOLDERS
from lib_negtrans.training.errors import TrainingError
from lib_negtrans.training.params import TRAINING_PRESETS, TrainingParams

from .compare_panel import ComparePanel
from .option_component import training_component
from .prepare_panel import PreparePanel
from .training_view import STYLE, dataset_html, message_html, status_html

TITLE = "Train Negative Embedding"
TAB_ID = "negtrans_train"
SCRIPT_FILE = Path(__file__).resolve().parents[3] / "javascript" / "negtrans_train.js"

# shown above the accordion, in this order; all others go into it
BASIC_OPTIONS = ("steps", "size", "vectors", "init_text")
MAXIMUM_THUMBNAILS = 24
THUMBNAIL = 160
QUIET = {"queue": False, "show_progress": "hidden"}


@dataclass(frozen=True)
class TabOptions:
    """What differs between the programs that show the panel.

    typed_folders: False where users may not name folders of the machine; they drop pictures. connect_use: wires the
    button "Use in img2img" to the program's own components; without it there is no such button.
    """

    typed_folders: bool = True
    connect_use: Callable[[gr.Button], None] | None = None
    use_label: str = "Use in img2img"


def elem_id(name: str) -> str:
    """The panel's element ids begin with negtrans_train_."""
    return f"{TAB_ID}_{name}"


def build_train_tab(manager: TrainingManager, options: TabOptions | None = None) -> None:
    """Fill the open Blocks. Call it again for another page: every call makes new components and keeps nothing."""
    panel = _Panel(manager, options or TabOptions())
    panel.build()


class _Panel:
    """The components of one page and what their events do."""

    def __init__(self, manager: TrainingManager, options: TabOptions):
        self.manager, self.options = manager, options
        self.fields: dict[str, Any] = {}  # parameter name -> component
        self.preparation = PreparePanel(manager.preparation, elem_id)
        self.comparison = ComparePanel(manager.comparison, elem_id)

    def build(self) -> None:
        gr.HTML(f"<style>{STYLE}</style>", elem_id=elem_id("style"))
        with gr.Row(elem_id=elem_id("panel")):
            with gr.Column(scale=5, min_width=360):
                self._build_dataset()
                self._build_settings()
                self._build_buttons()
            with gr.Column(scale=6, min_width=420):
                self._build_result()
        self._connect()

    def _build_dataset(self) -> None:
        self.preparation.build(visible=self.options.typed_folders)
        self.folder = gr.Textbox(
            label="Folder with renders", placeholder="/path/to/renders", elem_id=elem_id("folder"),
            visible=self.options.typed_folders,
        )  # fmt: skip
        self.photos = gr.Textbox(
            label="Folder with photos, if there is one", placeholder="/path/to/photos", elem_id=elem_id("photos"),
            info="Real photos of similar garments. Validation and the objective contrastive use them.",
            visible=self.options.typed_folders,
        )  # fmt: skip
        with gr.Row(visible=self.options.typed_folders):
            self.validation = gr.Textbox(
                label="Folder with renders to measure on", elem_id=elem_id("validation"),
                info="For validation; when it is empty, some of the renders are held out.",
            )  # fmt: skip
            self.validation_photos = gr.Textbox(
                label="Folder with photos to measure on", elem_id=elem_id("validation_photos"),
                info="For validation; when it is empty, the photos above are used.",
            )  # fmt: skip
        with gr.Row():
            self.files = gr.File(
                label="Or drop pictures here, and their .txt captions", file_count="multiple", height=180,
                elem_id=elem_id("files"),
            )  # fmt: skip
            self.preview_image = gr.Image(
                label="Render for the previews (if none: the first one)", type="filepath", height=180,
                elem_id=elem_id("preview_image"),
            )  # fmt: skip
        self.check = gr.Button("Check dataset", elem_id=elem_id("check"))
        self.report = gr.HTML("", elem_id=elem_id("report"))
        self.thumbnails = gr.Gallery(
            label="The pictures as the training uses them", columns=6, height="auto", visible=False,
            elem_id=elem_id("thumbnails"),
        )  # fmt: skip

    def _build_settings(self) -> None:
        self.name = gr.Textbox(
            label="Name", placeholder="neg-render", elem_id=elem_id("name"),
            info="The file name, and the trigger word in prompts. Use only a-z, 0-9, - and _.",
        )  # fmt: skip
        self.name_hint = gr.HTML("", elem_id=elem_id("name_hint"))
        described = TrainingParams.options()
        self.preset = gr.Radio(
            list(TRAINING_PRESETS), value="standard", label="Preset", elem_id=elem_id("preset"),
            info=" ".join(f"{name}: {text}" for name, (text, _) in TRAINING_PRESETS.items()),
        )  # fmt: skip
        defaults = TrainingParams().to_dict() | TRAINING_PRESETS["standard"][1]
        with gr.Row():
            for name in BASIC_OPTIONS:
                self.fields[name] = training_component(described[name], defaults[name], elem_id(name))
        with gr.Accordion("All options", open=False, elem_id=elem_id("options")):
            others = [name for name in described if name not in BASIC_OPTIONS]
            for pair in zip_longest(others[::2], others[1::2]):
                with gr.Row():
                    for name in filter(None, pair):
                        self.fields[name] = training_component(described[name], defaults[name], elem_id(name))

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
        fields = list(self.fields.values())
        view = [self.status, self.previews, self.use, self.seen]
        self.poll.click(self.show, [self.seen], view, **QUIET)
        self.name.change(self.check_name, [self.name, self.overwrite], [self.name_hint], **QUIET)
        self.overwrite.change(self.check_name, [self.name, self.overwrite], [self.name_hint], **QUIET)
        preset_fields = _preset_fields()
        self.preset.change(self.apply_preset, [self.preset], [self.fields[n] for n in preset_fields], **QUIET)
        size, pattern, aspect = (self.fields[name] for name in ("size", "pattern", "aspect"))
        self.preparation.connect(self.poll, self.folder, size)
        self.comparison.connect(self.poll)
        self.check.click(
            self.check_dataset,
            [self.folder, self.files, size, pattern, aspect],
            [self.report, self.thumbnails],
            queue=False,
        )
        self.cancel.click(self.cancel_waiting, [self.seen, self.name], [self.message, *view], **QUIET)
        self.start.click(
            self.start_training,
            [
                self.seen,
                self.folder,
                self.files,
                self.photos,
                self.validation,
                self.validation_photos,
                self.name,
                self.preview_image,
                self.overwrite,
                *fields,
            ],
            [self.message, *view],
            **QUIET,
        )
        self.interrupt.click(self.interrupt_training, [self.seen], [self.message, *view], **QUIET)
        self.resume.click(
            self.resume_training,
            [self.seen, self.name, self.fields["steps"], self.overwrite],
            [self.message, self.name, *view],
            **QUIET,
        )
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
        return (
            f"<p class='negtrans-message'>Trigger word: <b>{html.escape(name)}</b>. "
            f"It will be {html.escape(str(self.manager.out(name)))}.</p>"
        )

    def apply_preset(self, preset: str) -> list[Any]:
        """The values of a preset, for the fields that any preset sets."""
        values = TrainingParams().to_dict() | TRAINING_PRESETS[preset][1]
        return [gr.update(value=values[name]) for name in _preset_fields()]

    def check_dataset(self, folder: str, files: Any, size: Any, pattern: str, aspect: str = "buckets") -> list[Any]:
        """The report on what would be trained on, and some of it as thumbnails."""
        try:
            size = TrainingParams.from_given({"size": size}).size
            with tempfile.TemporaryDirectory() as temporary:
                pictures = self._pictures(folder, files, Path(temporary))
                report, thumbnails = read_with_thumbnails(pictures, size, pattern or "", aspect)
                suggested = automatic_size(training_files(pictures, pattern or ""))
        except (TrainingRefused, TrainingError, ParamError) as error:
            return [message_html(str(error), good=False), gr.update(value=[], visible=False)]
        return [dataset_html(report, suggested), gr.update(value=thumbnails, visible=True)]

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
            pictures = self._pictures(folder, files, run_folder / "pictures")
            render = self._keep_render(preview, run_folder)
            typed = zip(OTHER_FOLDERS, (photos, validation, validation_photos), strict=True)
            others = {kind: self._typed_folder(text) for kind, text in typed}
            self.manager.start(TrainingRequest(name, pictures, params, render, overwrite=overwrite, **others))
        except (TrainingRefused, ParamError) as error:
            return [message_html(str(error), good=False), *self.show(seen)]
        if name in self.manager.snapshot().queue:
            return [message_html(f"{name} waits for its turn. You may close this page."), *self.show(seen)]
        return [message_html(f"{name} has started. You may close this page: the training goes on."), *self.show(seen)]

    def cancel_waiting(self, seen: Any, name: str) -> list[Any]:
        """Take the named training out of the queue, or the last one if that name does not wait."""
        waiting = self.manager.snapshot().queue
        if not waiting:
            return [message_html("No training waits for its turn.", good=False), *self.show(seen)]
        gone = self.manager.cancel((name or "").strip()) or self.manager.cancel(waiting[-1])
        return [message_html(f"{', '.join(gone)} will not be trained."), *self.show(seen)]

    def interrupt_training(self, seen: Any) -> list[Any]:
        """Stop after the step under way."""
        if self.manager.request_stop():
            return [message_html("It stops after this step and saves; Resume goes on from there."), *self.show(seen)]
        return [message_html("No training is under way.", good=False), *self.show(seen)]

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

    def _typed_folder(self, text: str) -> Path | None:
        typed = (text or "").strip().strip('"') if self.options.typed_folders else ""
        return Path(typed).expanduser() if typed else None

    def _pictures(self, folder: str, files: Any, target: Path) -> Path:
        """The folder that was typed, or the dropped files copied into `target`. Raises TrainingRefused."""
        typed = (folder or "").strip().strip('"')
        if files:
            if typed:
                raise TrainingRefused("You gave both a folder and dropped pictures: clear one of the two.")
            return copy_dropped(files, target)
        if not typed or not self.options.typed_folders:
            raise TrainingRefused("There are no pictures yet: name a folder, or drop pictures.")
        path = Path(typed).expanduser()
        if not path.is_dir():
            raise TrainingRefused(f"There is no folder {path}: give the folder with the pictures to train on.")
        return path

    @staticmethod
    def _keep_render(uploaded: str | None, run_folder: Path) -> Path | None:
        """A copy beside the run: the uploaded file is a temporary one, and a resumed run needs it again."""
        if not uploaded:
            return None
        run_folder.mkdir(parents=True, exist_ok=True)
        kept = run_folder / f"preview-render{Path(uploaded).suffix.lower() or '.png'}"
        shutil.copyfile(uploaded, kept)
        return kept


def _preset_fields() -> list[str]:
    """The fields that any preset sets, in order."""
    return list(dict.fromkeys(name for _, values in TRAINING_PRESETS.values() for name in values))


def dropped_path(file: Any) -> Path:
    """The path of a file as gradio 3 (an object with a name) or gradio 4 (a text) hands it over."""
    return Path(file if isinstance(file, str) else file.name)


def copy_dropped(files: Sequence[Any], target: Path) -> Path:
    """Copy dropped files into a folder of their own, which is emptied first. Raises TrainingRefused for equal names."""
    paths = [dropped_path(file) for file in files]
    if len({path.name.lower() for path in paths}) < len(paths):
        raise TrainingRefused("Two of the dropped files have the same name: rename one, or give the folder instead.")
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for path in paths:
        shutil.copyfile(path, target / path.name)
    if next(iter_image_files(target), None) is None:
        raise TrainingRefused("None of the dropped files is a picture: PNG, JPEG, WebP, BMP, TIFF and GIF are read.")
    return target


def read_with_thumbnails(
    folder: Path, size: int, pattern: str, aspect: str = "buckets"
) -> tuple[DatasetReport, list[Any]]:
    """The report on a folder, and PIL pictures of the first ones as they are trained on. Raises as `read_folder`."""
    thumbnails: list[Any] = []

    def keep(read: tuple[int, int, Tensor]) -> None:
        if len(thumbnails) < MAXIMUM_THUMBNAILS:
            small = to_pil(read[2])
            small.thumbnail((THUMBNAIL, THUMBNAIL))
            thumbnails.append(small)

    return finish(read_folder(folder, size, pattern, aspect=aspect), keep), thumbnails


def gallery(state: TrainingSnapshot) -> list[tuple[str, str]]:
    """The render and its previews, the newest first after it, as (path, caption)."""
    shown = [(path, f"step {step}") for step, path in reversed(state.previews)]
    if state.preview_source and shown:
        shown.insert(0, (state.preview_source, "the render"))
    return [(path, caption) for path, caption in shown if Path(path).is_file()]


__all__ = ["SCRIPT_FILE", "TAB_ID", "TITLE", "ImageError", "TabOptions", "build_train_tab"]
