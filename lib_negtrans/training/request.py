"""What a user asks a training for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_negtrans.files import write_text_atomic
from lib_negtrans.pictures.images import ImageError, load_picture
from lib_negtrans.training.data.dataset import training_files
from lib_negtrans.training.data.sets import Folders

from .common_params import CommonParams
from .kinds import KINDS

REQUEST_FILE = "request.json"
OTHER_FOLDERS = ("photos", "renders", "validation", "validation_photos", "validation_renders")
PATHS = ("images", "preview_image", "class_images", *OTHER_FOLDERS)


@dataclass(frozen=True)
class TrainingRequest:
    """What a user asks for. preview_image: see `render`.

    kind: what is trained, a name in `kinds.KINDS`. images: the folder that is learnt from, renders or photos by the
    kind; photos or renders: one with pictures of the other kind, for a student the translations of its images;
    validation, and validation_photos or validation_renders: folders with pictures to validate on. class_images: see
    `PositiveParams.prior`. loras: files, each FILE or FILE:WEIGHT, which are in the model meanwhile.
    """

    name: str
    images: Path
    params: CommonParams
    preview_image: Path | None = None
    resume: bool = False
    overwrite: bool = False
    photos: Path | None = None
    validation: Path | None = None
    validation_photos: Path | None = None
    kind: str = "negative"
    renders: Path | None = None
    validation_renders: Path | None = None
    class_images: Path | None = None
    loras: tuple[str, ...] = ()

    @property
    def folders(self) -> Folders:
        """All folders with pictures, by what they show."""
        if KINDS[self.kind].domain == "renders":
            return Folders(self.images, self.photos, self.validation, self.validation_photos)
        return Folders(self.renders, self.images, self.validation_renders, self.validation, self.class_images)

    def render(self) -> Path | None:
        """What previews translate: the chosen render, else the first readable one of those trained or validated on."""
        folder = self.folders.renders
        if self.preview_image is not None or folder is None:
            return self.preview_image
        files = training_files(folder, self.params.pattern if folder == self.images else "")
        return next(filter(_is_picture, files), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; paths are absolute, for who goes on with it from another folder."""
        paths = {name: getattr(self, name) for name in PATHS}
        return {
            "kind": self.kind,
            "name": self.name,
            "params": self.params.to_dict(),
            "loras": list(self.loras),
            **{name: None if path is None else str(Path(path).absolute()) for name, path in paths.items()},
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any], resume: bool = False, overwrite: bool = False) -> TrainingRequest:
        """The opposite of `to_dict`. Raises ParamError."""
        paths = {name: Path(values[name]) for name in PATHS if values.get(name)}
        kind = values.get("kind", "negative")
        return cls(
            name=values["name"], params=KINDS[kind].options.from_stored(values["params"]), resume=resume,
            overwrite=overwrite, kind=kind, loras=tuple(values.get("loras", ())), **paths,
        )  # fmt: skip


def _is_picture(file: Path) -> bool:
    try:
        load_picture(file)
    except ImageError:
        return False
    return True


def write_request(run_folder: Path, request: TrainingRequest) -> None:
    """Into the run's folder, for resuming. Raises OSError."""
    write_text_atomic(run_folder / REQUEST_FILE, json.dumps(request.to_dict(), indent=1, ensure_ascii=False))


def read_request(run_folder: Path, changes: Mapping[str, Any] | None = None, **options: bool) -> TrainingRequest:
    """What a run was asked for, with changed parameters; options as in `TrainingRequest.from_dict`.

    Raises OSError, ValueError (ParamError too), KeyError or TypeError for a file that is not there or damaged.
    """
    values = json.loads((run_folder / REQUEST_FILE).read_text(encoding="utf-8"))
    values["params"] |= changes or {}
    return TrainingRequest.from_dict(values, **options)
