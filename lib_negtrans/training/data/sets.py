"""All pictures of a training: renders and photos to learn from, and those that are only measured on."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_negtrans.models.protocol import ModelHost
from lib_negtrans.training.errors import DatasetError
from lib_negtrans.training.events import Event, Notice
from lib_negtrans.training.params import TrainingParams

from .latents import Dataset, build_dataset

SMALLEST_SPLIT = 4  # pictures; of fewer none is spared for validation


@dataclass(frozen=True)
class Folders:
    """Where pictures come from. Without a validation folder of a kind, some of its training pictures are held out."""

    renders: Path
    photos: Path | None = None
    validation: Path | None = None
    validation_photos: Path | None = None

    def refuse_missing(self, params: TrainingParams) -> None:
        """Raises DatasetError when there are no folders of a kind that the parameters need."""
        if params.objective == "contrastive" and self.photos is None:
            raise DatasetError("The contrastive objective learns from real photos too: give a folder of them.")

    def to_dict(self) -> dict[str, str | None]:
        """Plain data for JSON."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {name: None if path is None else str(path) for name, path in values.items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Folders:
        """The opposite of `to_dict`; what is missing but the renders is None."""
        names = [f.name for f in dataclasses.fields(cls)]
        return cls(**{name: Path(values[name]) for name in names if values.get(name)})


OTHER_FOLDERS = tuple(f.name for f in dataclasses.fields(Folders) if f.name != "renders")


@dataclass(frozen=True)
class TrainingData:
    """photos: only for an objective that learns from them; held_renders, held_photos: only for validation."""

    renders: Dataset
    photos: Dataset | None
    held_renders: Dataset | None
    held_photos: Dataset | None

    @property
    def fingerprint(self) -> str:
        """Equal only for the same pictures and captions in the same roles."""
        kinds = (self.renders, self.photos, self.held_renders, self.held_photos)
        if kinds[1:] == (None, None, None):
            return self.renders.report.fingerprint
        texts = ["-" if data is None else data.report.fingerprint for data in kinds]
        return hashlib.sha256(" ".join(texts).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: the renders' report, and how many there are of the others."""
        others = {"photos": self.photos, "held_renders": self.held_renders, "held_photos": self.held_photos}
        return self.renders.report.to_dict() | {name: len(data) for name, data in others.items() if data is not None}


def read_data(
    host: ModelHost, folders: Folders, params: TrainingParams, cache: Path | None = None
) -> Generator[Event, None, TrainingData]:
    """Read and encode all of them. Yields progress and notices; raises as `build_dataset`."""
    # the pattern is for the renders' folder
    others = dataclasses.replace(params, pattern="")
    learns = params.objective == "contrastive"
    renders = yield from build_dataset(host, folders.renders, params, cache)
    photos = held_renders = held_photos = None
    if folders.photos is not None and (learns or params.validate_every):
        photos = yield from build_dataset(host, folders.photos, others, cache)
    elif folders.photos is not None:
        yield Notice(
            "The photos are not used: choose the objective contrastive, or turn validation on (Validate every)."
        )
    if params.validate_every:
        if folders.validation is not None:
            held_renders = yield from build_dataset(host, folders.validation, others, cache)
        else:
            renders, held_renders = yield from _spare(renders, params, "renders")
        if folders.validation_photos is not None:
            held_photos = yield from build_dataset(host, folders.validation_photos, others, cache)
        elif photos is not None and learns:
            photos, held_photos = yield from _spare(photos, params, "photos")
        else:
            held_photos = photos
    return TrainingData(renders, photos if learns else None, held_renders, held_photos)


def _spare(data: Dataset, params: TrainingParams, kind: str) -> Generator[Event, None, tuple[Dataset, Dataset]]:
    kept, held = split(data, params.holdout, params.seed)
    if held is None:
        text = f"There are too few {kind} ({len(data)}) to keep some for validation"
        yield Notice(f"{text}: it uses the trained ones, so its result is too good.", "warning")
        return data, data
    yield Notice(f"{len(held)} of {len(data)} {kind} are kept for validation and not trained on.")
    return kept, held


def split(data: Dataset, holdout: float, seed: int) -> tuple[Dataset, Dataset | None]:
    """(to train on, held out); holdout: a share, or from 1 on a number; at most half, and (data, None) for too few.

    By a hash of each picture's pixels and the seed: copies of a picture stay together, and pictures that are added
    later leave the others where they are.
    """
    count = min(round(holdout if holdout >= 1 else max(1.0, len(data) * holdout)), len(data) // 2)
    if len(data) < SMALLEST_SPLIT or holdout <= 0 or count < 1:
        return data, None
    digests = [entry.digest for entry in data.report.entries]
    ordered = sorted(set(digests), key=lambda digest: hashlib.sha256(f"{seed} {digest}".encode()).digest())
    chosen = set(ordered[:count])
    held = [index for index, digest in enumerate(digests) if digest in chosen]
    kept = [index for index, digest in enumerate(digests) if digest not in chosen]
    return (data.subset(kept), data.subset(held)) if kept else (data, None)
