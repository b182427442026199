"""All pictures of a training: renders and photos to learn from, and those that are only measured on."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_negtrans.models.protocol import ModelHost
from lib_negtrans.training.common_params import CommonParams
from lib_negtrans.training.events import Event, Notice
from lib_negtrans.training.params import TrainingParams

from .latents import Dataset, build_dataset

SMALLEST_SPLIT = 4  # pictures; of fewer none is spared for validation


@dataclass(frozen=True)
class Folders:
    """Where pictures come from. Without a validation folder of a kind, some of its training pictures are held out.

    validation: renders; class_images: what prior preservation learns from.
    """

    renders: Path | None
    photos: Path | None = None
    validation: Path | None = None
    validation_photos: Path | None = None
    class_images: Path | None = None


@dataclass(frozen=True)
class TrainingData:
    """What there is to learn from and, held_renders and held_photos, to validate on. prior: what is to be preserved.

    domain: "renders" or "photos", which of them the training is about.
    """

    renders: Dataset | None
    photos: Dataset | None
    held_renders: Dataset | None
    held_photos: Dataset | None
    prior: Dataset | None = None
    domain: str = "renders"

    @property
    def learnt(self) -> dict[str, Dataset]:
        """What rows are drawn from, by the names of their terms in the loss."""
        named = {"renders": self.renders, "photos": self.photos, "prior": self.prior}
        return {name: data for name, data in named.items() if data is not None}

    @property
    def main(self) -> Dataset:
        """The pictures that the training is about."""
        return self.learnt[self.domain]

    @property
    def held(self) -> dict[str, Dataset]:
        """What is measured on, the training's own domain first."""
        named = {"renders": self.held_renders, "photos": self.held_photos}
        names = sorted(named, key=lambda name: name != self.domain)
        return {name: data for name in names if (data := named[name]) is not None}

    @property
    def fingerprint(self) -> str:
        """Equal only for the same pictures and captions in the same roles."""
        kinds = [self.renders, self.photos, self.held_renders, self.held_photos]
        if self.prior is not None:
            kinds.append(self.prior)
        if self.renders is not None and kinds[1:] == [None, None, None]:
            return self.renders.report.fingerprint
        texts = ["-" if data is None else data.report.fingerprint for data in kinds]
        return hashlib.sha256(" ".join(texts).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: the main pictures' report, and how many there are of the others."""
        others = self.learnt | {f"held_{name}": data for name, data in self.held.items()}
        counts = {name: len(data) for name, data in others.items() if name != self.domain}
        return self.main.report.to_dict() | counts


def read_data(
    host: ModelHost, folders: Folders, params: TrainingParams, cache: Path | None = None
) -> Generator[Event, None, TrainingData]:
    """Read and encode what a negative embedding learns from. Yields progress and notices; raises as `build_dataset`."""
    assert folders.renders is not None
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
            renders, held_renders = yield from spare(renders, params, "renders")
        if folders.validation_photos is not None:
            held_photos = yield from build_dataset(host, folders.validation_photos, others, cache)
        elif photos is not None and learns:
            photos, held_photos = yield from spare(photos, params, "photos")
        else:
            held_photos = photos
    return TrainingData(renders, photos if learns else None, held_renders, held_photos)


def spare(data: Dataset, params: CommonParams, kind: str) -> Generator[Event, None, tuple[Dataset, Dataset]]:
    """(to train on, held out for validation); the same twice where there are too few, which is said."""
    kept, held = split(data, params.holdout, params.seed)
    if held is None:
        yield Notice(
            f"There are too few {kind} ({len(data)}) to keep some for validation: it uses the trained ones, so its "
            "result is too good.", "warning"
        )  # fmt: skip
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
