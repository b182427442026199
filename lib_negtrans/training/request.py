"""What a user asks a training for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..params import TrainingParams
from .training_data import Folders


@dataclass(frozen=True)
class TrainingRequest:
    """What a user asks for. preview_image: the render that previews translate; None is the first training picture.

    photos, validation, validation_photos: folders, see `Folders`.
    """

    name: str
    images: Path
    params: TrainingParams
    preview_image: Path | None = None
    resume: bool = False
    overwrite: bool = False
    photos: Path | None = None
    validation: Path | None = None
    validation_photos: Path | None = None

    @property
    def folders(self) -> Folders:
        """All folders with pictures."""
        return Folders(self.images, self.photos, self.validation, self.validation_photos)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "name": self.name,
            "images": str(self.images),
            "params": self.params.to_dict(),
            "preview_image": str(self.preview_image) if self.preview_image else None,
            **{kind: folder for kind, folder in self.folders.to_dict().items() if kind != "renders"},
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any], resume: bool = False, overwrite: bool = False) -> TrainingRequest:
        """The opposite of `to_dict`. Raises ParamError."""
        known = TrainingParams.options()
        # a run of another version may name options that are no more
        params = TrainingParams.from_dict({k: v for k, v in values["params"].items() if k in known})
        preview = Path(values["preview_image"]) if values.get("preview_image") else None
        kinds = ("photos", "validation", "validation_photos")
        others = {kind: Path(values[kind]) for kind in kinds if values.get(kind)}
        return cls(values["name"], Path(values["images"]), params, preview, resume, overwrite, **others)
