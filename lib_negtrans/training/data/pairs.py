"""What a student learns from: renders, and the translations of them that `translate` wrote."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from lib_negtrans.files import sha256_of
from lib_negtrans.pictures.images import MULTIPLE, ImageError, fit_within, flatten_alpha, load_picture
from lib_negtrans.training.errors import DatasetError
from lib_negtrans.training.events import Caching, Event
from lib_negtrans.translation.folder import plan

from .batch import Row, RowSource
from .dataset import DatasetReport, Entry, listed_files
from .latents import Dataset

NAMED = 3  # files that a refusal names


@dataclass(frozen=True)
class PairRows:
    """B rows of a step: render and translation, (B, 3, H, W) in [0, 1], H and W multiples of 8."""

    render: Tensor
    translation: Tensor


@dataclass
class PairReport(DatasetReport):
    """Of pairs nothing is skipped or resized, so there is nothing to tell."""

    def sentences(self) -> list[tuple[str, str]]:
        return []


@dataclass(frozen=True)
class Pairs(Dataset):
    """Renders with their translations, read when they are drawn. files: of each (render, translation)."""

    files: list[tuple[Path, Path]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.files)

    def subset(self, indices: Iterable[int]) -> Dataset:
        raise NotImplementedError("pairs are not held out")

    def pair(self, index: int) -> tuple[Tensor, Tensor]:
        """Render and translation, (3, H, W) in [0, 1] at the translation's size.

        Raises DatasetError when a file has gone meanwhile.
        """
        render, translation = self.files[index]
        try:
            wanted = flatten_alpha(load_picture(translation))
            found = fit_within(flatten_alpha(load_picture(render)), (wanted.shape[2], wanted.shape[1]))
        except ImageError as error:
            raise DatasetError(f"{render} or its translation {error}") from error
        return found, wanted


def read_pairs(renders: Path, translations: Path, size: int) -> Generator[Event, None, Pairs]:
    """Every translation below a folder with its render, found by the names that `translate` gives. Yields progress.

    size: side of the crops that are trained. Raises DatasetError for a translation without its render or of another
    shape, or if there are none.
    """
    targets = {path.relative_to(translations).as_posix(): path for path in listed_files(translations)}
    if not renders.is_dir():
        raise DatasetError(f"There is no folder {renders}: give the folder of the renders that were translated.")
    found = plan(renders, translations)  # which leaves out what lies below the translations
    sources = {found.target_name(name): renders / name for name in found.names}
    if missing := [name for name in targets if name not in sources]:
        more = "" if len(missing) <= NAMED else f" and {len(missing) - NAMED} more"
        raise DatasetError(
            f"{renders} has no render of {', '.join(missing[:NAMED])}{more}: name the folder that was translated with "
            "--renders."
        )
    dataset = Pairs(PairReport(translations, size))
    for number, (name, target) in enumerate(targets.items(), 1):
        source = sources[name]
        shape = _fitting(source, target)
        digest = sha256_of([source, target])
        dataset.report.entries.append(Entry(name, shape, False, "", False, digest))
        dataset.shapes.append((min(shape[1], size) // MULTIPLE, min(shape[0], size) // MULTIPLE))
        dataset.files.append((source, target))
        yield Caching(number, len(targets))
    return dataset


def _fitting(source: Path, target: Path) -> tuple[int, int]:
    """(width, height) of a translation. Raises DatasetError for one that is not its render's shape."""
    try:
        render, size = load_picture(source).size, load_picture(target).size
    except ImageError as error:
        raise DatasetError(f"{source} or {target} {error}") from error
    scale = min(size[0] / render[0], size[1] / render[1])
    if tuple(max(1, round(side * scale)) for side in render) != size:
        raise DatasetError(
            f"{target} is {size[0]}x{size[1]} and its render {source.name} {render[0]}x{render[1]}, which is another "
            "shape: translate it again, or remove it."
        )
    return size


class PairSource(RowSource):
    """Draws pairs; of pictures larger than a crop, a random part."""

    dataset: Pairs

    def _row(self, index: int, generator: torch.Generator) -> Row:
        """A row's latent is the render, and its noise the translation."""
        render, translation = self.dataset.pair(index)
        height, width = (side * MULTIPLE for side in self.dataset.shapes[index])
        top, left = (
            int(torch.randint(whole - part + 1, (1,), generator=generator))
            for whole, part in zip(render.shape[1:], (height, width), strict=True)
        )
        flipped = self.params.flip and bool(torch.randint(2, (1,), generator=generator))
        parts = [picture[:, top : top + height, left : left + width] for picture in (render, translation)]
        if flipped:
            parts = [part.flip(2) for part in parts]
        return Row(parts[0], parts[1], 0, "")

    def stack(self, rows: list[Row], device: torch.device | str = "cpu") -> PairRows:
        return PairRows(*(torch.stack([getattr(row, part) for row in rows]).to(device) for part in ("latent", "noise")))
