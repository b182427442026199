"""The routes under /negtrans/v1/. Nothing here knows the host: it is given a manager, folders and accounts."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Union

from fastapi import APIRouter, Depends, FastAPI, HTTPException
from pydantic import BaseModel, Field, StrictBool, StrictFloat, StrictInt, StrictStr

from lib_negtrans import __version__
from lib_negtrans.embeddings.files import EmbeddingError, read_embedding
from lib_negtrans.embeddings.folder import embedding_files
from lib_negtrans.jobs.training import TrainingManager, TrainingRequest
from lib_negtrans.options import Params
from lib_negtrans.preparation.params import PrepareParams
from lib_negtrans.training.data.captions import CHOICES, named_template
from lib_negtrans.training.data.dataset import check_folder
from lib_negtrans.training.kinds import KINDS
from lib_negtrans.training.params import TRAINING_PRESETS, TrainingParams
from lib_negtrans.training.positive_params import FullParams, LoraParams
from lib_negtrans.training.request import OTHER_FOLDERS
from lib_negtrans.translation.arguments import NAMES
from lib_negtrans.translation.params import TRANSLATION_PRESETS, TranslationParams

from .api_guard import RESPONSES, Folders, basic_auth, guarded

PREFIX = "/negtrans/v1"
API_VERSION = 1
MAXIMUM_PATH = 4096  # characters
Values = dict[str, Union[StrictBool, StrictInt, StrictFloat, StrictStr]]  # noqa: UP007 (pydantic 1 reads it)


class Body(BaseModel, extra="forbid"):
    """Base of the requests: unknown fields are refused."""


class TrainBody(Body):
    """POST /train."""

    name: str = Field(..., description="file name, of an embedding also its trigger word: a-z, 0-9, - and _")
    kind: str = Field("negative", description="what is trained: negative (an embedding), lora or full")
    images: str = Field(..., description="folder with the renders; for lora and full with the photos")
    params: Values = Field(default_factory=dict, description="see GET /schema; what is left out keeps its default")
    preset: str = Field("standard", description="what `params` start from; only for the kind negative")
    photos: str | None = Field(None, description="negative: folder with photos, for validation and contrastive")
    renders: str | None = Field(None, description="lora, full: folder with renders, for validation, prior and previews")
    validation: str | None = Field(None, description="folder to measure on; default some of `images` are held out")
    validation_photos: str | None = Field(None, description="negative: folder with photos to measure on")
    validation_renders: str | None = Field(None, description="lora, full: folder with renders to measure on")
    class_images: str | None = Field(None, description="folder with class pictures; default one in the run's folder")
    loras: list[StrictStr] = Field(default_factory=list, description="negative: LoRAs to train on, NAME or NAME:WEIGHT")
    preview_image: str | None = Field(None, description="render that previews translate; default the first one")
    overwrite: bool = Field(False, description="an embedding and a run of this name may be replaced")


class ResumeBody(Body):
    """POST /train/resume."""

    name: str = Field(..., description="of a run of any kind")
    params: Values = Field(default_factory=dict, description="what to change, such as steps")
    overwrite: bool = Field(False, description="an embedding of this name may be replaced")


class CancelBody(Body):
    """POST /train/cancel."""

    name: str = Field(..., description="a training that waits")


class DatasetBody(Body):
    """POST /dataset/check."""

    images: str
    size: float = 512
    pattern: str = ""
    aspect: str = "buckets"


class PrepareBody(Body):
    """POST /dataset/prepare."""

    source: str = Field(..., description="folder with pictures of any kind; it is only read")
    target: str = Field(..., description="new folder for the result")
    params: Values = Field(default_factory=dict, description="see GET /schema; what is left out keeps its default")
    overwrite: bool = Field(False, description="an earlier result in the target may be replaced")


def add_routes(
    app: FastAPI,
    manager: TrainingManager,
    roots: Folders,
    accounts: Sequence[tuple[str, str]] = (),
    closed: Callable[[Path], bool] = lambda path: False,
) -> None:
    """Put the routes on an app, once; with accounts, each of them asks for a user and password.

    roots: the folders (real paths) below which files may be read, the first of them where relative paths start.
    closed: whether nothing may be written to a real path.
    """
    if getattr(app.state, "negtrans", False):
        return
    app.state.negtrans = True
    service, place = _Service(manager, roots, closed), manager.workplace
    route, answer = guarded(lambda: [*roots(), place.runs_folder.absolute(), place.embeddings_folder.absolute()])
    router = APIRouter(route_class=route, default_response_class=answer)
    router.add_api_route("/version", service.version, methods=["GET"])
    router.add_api_route("/schema", service.schema, methods=["GET"])
    router.add_api_route("/train", service.start, methods=["POST"])
    router.add_api_route("/train", service.state, methods=["GET"])
    router.add_api_route("/train/interrupt", service.interrupt, methods=["POST"])
    router.add_api_route("/train/cancel", service.cancel, methods=["POST"])
    router.add_api_route("/train/resume", service.resume, methods=["POST"])
    router.add_api_route("/train/runs", service.runs, methods=["GET"])
    router.add_api_route("/dataset/check", service.check_dataset, methods=["POST"])
    router.add_api_route("/dataset/prepare", service.prepare, methods=["POST"])
    router.add_api_route("/dataset/prepare", service.preparation, methods=["GET"])
    router.add_api_route("/dataset/prepare/stop", service.stop_preparing, methods=["POST"])
    router.add_api_route("/embeddings", service.embeddings, methods=["GET"])
    router.add_api_route("/embeddings/{name}", service.embedding, methods=["GET"])
    dependencies = [Depends(basic_auth(accounts))] if accounts else []
    app.include_router(router, prefix=PREFIX, dependencies=dependencies, tags=["negtrans"], responses=RESPONSES)


class _Service:
    """The routes' work. Functions are not async: FastAPI runs them in threads, so that a slow folder stops nobody."""

    def __init__(self, manager: TrainingManager, roots: Folders, closed: Callable[[Path], bool]):
        self.manager, self.roots, self.closed = manager, roots, closed

    def version(self):
        """Of the extension and of this API."""
        return {"version": __version__, "api": API_VERSION}

    def schema(self):
        """Every parameter of both jobs with its default, range and help; the presets; the names in `script_args`."""
        return {
            "preparation": _describe(PrepareParams),
            "training": _describe(TrainingParams),
            "training_lora": _describe(LoraParams),
            "training_full": _describe(FullParams),
            "training_presets": _described_presets(TRAINING_PRESETS),
            "translation": _describe(TranslationParams),
            "translation_presets": _described_presets(TRANSLATION_PRESETS),
            "script_args": list(NAMES),
        }

    def start(self, body: TrainBody):
        """Start a training; answers with its first state. While another is under way it waits: see `queue` there."""
        if body.preset not in TRAINING_PRESETS:
            raise HTTPException(422, f"There is no preset {body.preset!r}: there are {', '.join(TRAINING_PRESETS)}.")
        if body.kind not in KINDS:
            raise HTTPException(422, f"There is no kind {body.kind!r} of training: there are {', '.join(KINDS)}.")
        preview = self._allowed(body.preview_image) if body.preview_image else None
        images = self._allowed(body.images)
        others: dict[str, Any] = {
            kind: self._allowed(path) for kind in OTHER_FOLDERS if (path := getattr(body, kind, None))
        }
        if body.class_images:
            others["class_images"] = self._allowed(body.class_images)
            if self.closed(others["class_images"]):  # pictures may be written to it
                raise HTTPException(403, f"{body.class_images} is one of the webui's own folders: give a new one.")
        params = KINDS[body.kind].options.from_dict(self._preset(body) | body.params)
        if isinstance(params, TrainingParams):
            named = named_template(params.template, self.manager.workplace.templates_folder)
            if params.template not in CHOICES and named == params.template:  # a file that is not the program's own
                params.template = str(self._allowed(named))
        request = TrainingRequest(
            body.name, images, params, preview, overwrite=body.overwrite, kind=body.kind,
            loras=self.manager.named_loras(body.loras), **others,
        )  # fmt: skip
        return self.manager.start(request).to_dict()

    @staticmethod
    def _preset(body: TrainBody) -> dict[str, Any]:
        """What the parameters start from. Raises HTTPException for what does not belong to the kind."""
        negative = body.kind == "negative"
        foreign = (
            ("renders", "validation_renders", "class_images") if negative else ("photos", "validation_photos", "loras")
        )
        if given := next((name for name in foreign if getattr(body, name)), None):
            raise HTTPException(422, f"{given} is not for the kind {body.kind}: leave it out.")
        return TRAINING_PRESETS[body.preset][1] if negative else {}

    def state(self):
        """How the training under way, or else the last one, stands."""
        return self.manager.snapshot().to_dict()

    def interrupt(self):
        """Stop after the step under way; what is done is saved and can be resumed."""
        if not self.manager.request_stop():
            raise HTTPException(409, "No training is under way.")
        return self.manager.snapshot().to_dict()

    def cancel(self, body: CancelBody):
        """Take a waiting training out of the queue."""
        if not self.manager.cancel(body.name):
            raise HTTPException(409, f"{body.name} does not wait in the queue.")
        return self.manager.snapshot().to_dict()

    def resume(self, body: ResumeBody):
        """Go on with an interrupted run."""
        return self.manager.resume(body.name, body.overwrite, **body.params).to_dict()

    def runs(self):
        """The runs that can be resumed."""
        return [run._asdict() for run in self.manager.resumable()]

    def check_dataset(self, body: DatasetBody):
        """What is in a folder: sizes, captions, unreadable pictures, duplicates, transparency."""
        folder = self._allowed(body.images)
        params = TrainingParams.from_dict({"size": body.size, "pattern": body.pattern, "aspect": body.aspect})
        report = check_folder(folder, params.size, params.pattern, params.aspect)
        return report.to_dict() | {"sentences": [sentence for _, sentence in report.sentences()]}

    def prepare(self, body: PrepareBody):
        """Prepare a training folder from any tree of pictures; answers with its first state."""
        source, target, runner = self._allowed(body.source), self._inside(body.target), self.manager.preparation
        if self.closed(target):
            raise HTTPException(403, f"{body.target} is one of the webui's own folders: give a new one.")
        if runner.snapshot().busy:
            raise HTTPException(409, "A folder is being prepared: wait for its end, or stop it first.")
        return runner.start(source, target, PrepareParams.from_dict(body.params), body.overwrite).to_dict()

    def preparation(self):
        """How the preparation under way, or else the last one, stands; its report when it is finished."""
        return self.manager.preparation.snapshot().to_dict()

    def stop_preparing(self):
        """Stop it; nothing is left of what was written."""
        if not self.manager.preparation.request_stop():
            raise HTTPException(409, "No folder is being prepared.")
        return self.manager.preparation.wait(10).to_dict()

    def embeddings(self):
        """The embeddings that this extension trained."""
        found = []
        for path in embedding_files(self.manager.workplace.embeddings_folder):
            try:
                embedding = read_embedding(path)
            except EmbeddingError:
                continue
            if "images" in embedding.metadata:
                found.append({"name": embedding.name, "step": embedding.step, "vectors": len(embedding.vectors)})
        return found

    def embedding(self, name: str):
        """A finished embedding: what it was trained with, and the file itself in base64."""
        self.manager.run_folder(name)  # validates
        path = self.manager.out(name)
        if not path.is_file():
            raise HTTPException(404, f"There is no embedding {name}.")
        embedding = read_embedding(path)
        return {
            "name": name,
            "step": embedding.step,
            "checkpoint": embedding.checkpoint_name,
            "metadata": embedding.metadata,
            "file": path.name,
            "content": base64.b64encode(path.read_bytes()).decode(),
        }

    def _allowed(self, text: str) -> Path:
        """The real path of what a caller names to be read, with nothing in it that leads out of the allowed folders."""
        path = self._inside(text)
        if path.is_dir() and (link := _link_outside(path, list(self.roots()))):
            raise HTTPException(403, f"{link} is a link to outside the folders that the API may read: remove it.")
        return path

    def _inside(self, text: str) -> Path:
        """The real path of what a caller names, if it is below an allowed folder; relative ones start at the first."""
        roots = list(self.roots())
        if not text.strip() or "\0" in text or len(text) > MAXIMUM_PATH:
            raise HTTPException(422, "The path is empty or too long: name a folder or file.")
        path = Path(os.path.realpath(roots[0] / text))  # an absolute `text` replaces the root
        # before looking whether it exists: what lies outside is nobody's business
        if not _inside(path, roots):
            raise HTTPException(
                403,
                f"{text} is outside the folders that the API may read: start the webui with --gradio-allowed-path.",
            )
        return path


def _inside(path: Path, roots: Sequence[Path]) -> bool:
    return any(path.is_relative_to(root) for root in roots)


def _link_outside(folder: Path, roots: Sequence[Path]) -> Path | None:
    """A link anywhere below a folder, or below where its links lead to, that leads out of the allowed ones."""
    left, seen = [folder], {folder}
    while left:
        for here, folders, files in os.walk(left.pop()):
            for link in filter(Path.is_symlink, (Path(here, name) for name in (*folders, *files))):
                real = Path(os.path.realpath(link))
                if not _inside(real, roots):
                    return link
                if real.is_dir() and real not in seen:
                    seen.add(real)
                    left.append(real)
    return None


def _described_presets(presets: dict[str, tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    return {name: {"help": text, "params": values} for name, (text, values) in presets.items()}


def _describe(params: type[Params]) -> dict[str, Any]:
    defaults = params().to_dict()
    described = {}
    for name, option in params.options().items():
        applies = option.applies and {option.applies[0]: list(option.applies[1])}
        entry = {
            "label": option.label, "help": option.help, "applies": applies,
            "type": type(defaults[name]).__name__, "default": defaults[name],
            "minimum": option.minimum, "maximum": option.maximum,
            "choices": list(option.choices) if option.choices else None,
        }  # fmt: skip
        described[name] = {key: value for key, value in entry.items() if value is not None}
    return described
