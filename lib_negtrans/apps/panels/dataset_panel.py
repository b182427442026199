"""The pictures of a training on its panel: folders that are named, files that are dropped, and what is in them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from torch import Tensor

from lib_negtrans.jobs.training import TrainingRefused
from lib_negtrans.options import ParamError
from lib_negtrans.pictures.images import to_pil
from lib_negtrans.pictures.tree import image_files
from lib_negtrans.steps import finish
from lib_negtrans.training.data.dataset import DatasetReport, automatic_size, read_folder, training_files
from lib_negtrans.training.errors import TrainingError
from lib_negtrans.training.params import TrainingParams

from .components import elem_ids, typed_path
from .markup import message_html
from .tab_kinds import TrainTab
from .training_view import dataset_html

MAXIMUM_THUMBNAILS = 24
THUMBNAIL = 160


class DatasetPanel:
    """Builds the components and handles their events. typed_folders: users may name folders of the machine."""

    def __init__(self, typed_folders: bool, tab: TrainTab):
        self.typed_folders, self.tab, self.ids = typed_folders, tab, elem_ids(tab.tab)

    def build(self) -> None:
        """Folders, dropped files, and the check of what they hold."""
        texts, ids, typed = self.tab.folders, self.ids, self.typed_folders
        # the ids of the other kind's folders are named after it
        other = self.tab.other
        self.folder = gr.Textbox(
            label=texts.learnt, placeholder="/path/to/pictures", elem_id=ids("folder"), visible=typed
        )
        self.other = gr.Textbox(label=texts.other, info=texts.other_hint, elem_id=ids(other), visible=typed)
        with gr.Row(visible=typed):
            self.validation = gr.Textbox(label=texts.measured, info=texts.measured_hint, elem_id=ids("validation"))
            self.other_validation = gr.Textbox(
                label=texts.other_measured, info=texts.other_measured_hint, elem_id=ids(f"validation_{other}")
            )
        self.class_images = gr.Textbox(
            label="Folder with class pictures, if there is one", elem_id=ids("class_images"),
            info='Used by prior preservation "class". If this is empty, the training makes such pictures in the folder '
            "of the run.",
            visible=typed and other == "renders",
        )  # fmt: skip
        with gr.Row():
            self.files = gr.File(
                label="Or drop pictures here, and their .txt captions", file_count="multiple", height=180,
                elem_id=ids("files"),
            )  # fmt: skip
            self.preview_image = gr.Image(
                label=texts.preview, type="filepath", height=180, elem_id=ids("preview_image")
            )
        self.check = gr.Button("Check dataset", elem_id=self.ids("check"))
        self.report = gr.HTML("", elem_id=self.ids("report"))
        self.thumbnails = gr.Gallery(
            label="The pictures as the training uses them", columns=6, height="auto", visible=False,
            elem_id=self.ids("thumbnails"),
        )  # fmt: skip

    def connect(self, *options: Any) -> None:
        """options: the training's size, pattern, aspect and background, for the check."""
        inputs = [self.folder, self.files, *options]
        self.check.click(self.check_dataset, inputs, [self.report, self.thumbnails], queue=False)

    def check_dataset(
        self, folder: str, files: Any, size: Any, pattern: str, aspect: str = "buckets", background: str = "grey"
    ) -> list[Any]:
        """The report on what would be trained on, and some of it as thumbnails."""
        try:
            size = TrainingParams.from_given({"size": size}).size
            with tempfile.TemporaryDirectory() as temporary:
                pictures = self.pictures(folder, files, Path(temporary))
                report, thumbnails = read_with_thumbnails(pictures, size, pattern or "", background, aspect)
                suggested = automatic_size(training_files(pictures, pattern or ""))
        except (TrainingRefused, TrainingError, ParamError) as error:
            about = self.ids("size" if isinstance(error, ParamError) else "folder")
            return [message_html(str(error), good=False, about=about), gr.update(value=[], visible=False)]
        return [dataset_html(report, suggested), gr.update(value=thumbnails, visible=True)]

    def typed_folder(self, text: str) -> Path | None:
        """A folder that was typed, where that is allowed; None for none."""
        typed = typed_path(text) if self.typed_folders else ""
        return Path(typed).expanduser() if typed else None

    def pictures(self, folder: str, files: Any, target: Path) -> Path:
        """The folder that was typed, or the dropped files copied into `target`. Raises TrainingRefused."""
        typed = typed_path(folder)
        if files:
            if typed:
                raise TrainingRefused("You gave both a folder and dropped pictures: clear one of the two.")
            return copy_dropped(files, target)
        if not typed or not self.typed_folders:
            raise TrainingRefused("There are no pictures yet: name a folder, or drop pictures.")
        path = Path(typed).expanduser()
        if not path.is_dir():
            raise TrainingRefused(f"There is no folder {path}: give the folder with the pictures to train on.")
        return path


def dropped_path(file: Any) -> Path:
    """The path of a file as gradio 3 (an object with a name) or gradio 4 (a text) hands it over."""
    return Path(file if isinstance(file, str) else file.name)


def copy_dropped(files: Sequence[Any], target: Path) -> Path:
    """Copy dropped files into a folder of their own, which is emptied first. Raises TrainingRefused."""
    paths = [dropped_path(file) for file in files]
    if len({path.name.lower() for path in paths}) < len(paths):
        raise TrainingRefused("Two of the dropped files have the same name: rename one, or give the folder instead.")
    if not any(path.stat().st_size for path in paths):  # of files that are under way the page has nothing yet
        raise TrainingRefused("The dropped pictures have not arrived yet: wait until their sizes are shown.")
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for path in paths:
        shutil.copyfile(path, target / path.name)
    if not image_files(target):
        raise TrainingRefused("None of the dropped files is a picture: PNG, JPEG, WebP, BMP, TIFF and GIF are read.")
    return target


def keep_render(uploaded: str | None, run_folder: Path) -> Path | None:
    """A copy beside the run: the uploaded file is a temporary one, and a resumed run needs it again."""
    if not uploaded:
        return None
    run_folder.mkdir(parents=True, exist_ok=True)
    kept = run_folder / f"preview-render{Path(uploaded).suffix.lower() or '.png'}"
    shutil.copyfile(uploaded, kept)
    return kept


def read_with_thumbnails(
    folder: Path, size: int, pattern: str, background: str, aspect: str
) -> tuple[DatasetReport, list[Any]]:
    """The report on a folder, and PIL pictures of the first ones as they are trained on. Raises as `read_folder`."""
    thumbnails: list[Any] = []

    def keep(read: tuple[int, int, Tensor]) -> None:
        if len(thumbnails) < MAXIMUM_THUMBNAILS:
            small = to_pil(read[2])
            small.thumbnail((THUMBNAIL, THUMBNAIL))
            thumbnails.append(small)

    return finish(read_folder(folder, size, pattern, background, aspect), keep), thumbnails
