"""A folder of pictures: what is in it, what cannot be used and why, and its latents."""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..hosts.protocol import ModelHost
from ..images import ImageError, flatten_alpha, iter_image_files, load_picture
from .captions import Captions, filewords
from .errors import DatasetError
from .events import Caching
from .objective import Rows
from .sampler import EpochSampler

BACKGROUNDS = {"grey": 0.5, "white": 1.0}


@dataclass(frozen=True)
class Entry:
    """One usable picture: path relative to the folder, (width, height) upright, words for its caption."""

    path: str
    size: tuple[int, int]
    has_alpha: bool
    words: str
    captioned: bool  # the words come from a .txt
    digest: str  # sha256 of the pixels, alpha included


@dataclass
class DatasetReport:
    """What a check of a folder found. skipped: (relative path, reason) of pictures that cannot be used."""

    folder: Path
    size: int
    entries: list[Entry] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    @property
    def duplicates(self) -> list[list[str]]:
        """Groups of paths whose pixels are the same."""
        groups: dict[str, list[str]] = {}
        for entry in self.entries:
            groups.setdefault(entry.digest, []).append(entry.path)
        return [paths for paths in groups.values() if len(paths) > 1]

    @property
    def fingerprint(self) -> str:
        """sha256 over names, pixels and captions, in order: equal only for the same training data."""
        digest = hashlib.sha256()
        for entry in self.entries:
            digest.update(f"{entry.path}\0{entry.digest}\0{entry.words}\0".encode())
        return digest.hexdigest()

    def sentences(self) -> list[tuple[str, str]]:
        """(level, sentence) of everything a user should know, warnings first."""
        found: list[tuple[str, str]] = []
        for path, reason in self.skipped:
            found.append(("warning", f"Skipped: {path} {reason}"))
        for paths in self.duplicates:
            found.append(("warning", f"The same picture {len(paths)} times: {', '.join(paths)}."))
        small = [e for e in self.entries if min(e.size) < self.size]
        if small:
            found.append(
                ("warning", f"{_pictures(small)} smaller than {self.size} pixels and enlarged, first {small[0].path}.")
            )
        cropped = [e for e in self.entries if e.size[0] != e.size[1]]
        if cropped:
            found.append(
                ("info", f"{_pictures(cropped)} not square and cropped to the centre, first {cropped[0].path}.")
            )
        clear = [e for e in self.entries if e.has_alpha]
        if clear:
            found.append(("info", f"{_pictures(clear)} transparent in places and put on the background colour."))
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "folder": str(self.folder),
            "images": len(self.entries),
            "captioned": sum(e.captioned for e in self.entries),
            "sizes": sorted({f"{w}x{h}" for w, h in (e.size for e in self.entries)}),
            "alpha": sum(e.has_alpha for e in self.entries),
            "skipped": [{"path": path, "reason": reason} for path, reason in self.skipped],
            "duplicates": self.duplicates,
            "fingerprint": self.fingerprint,
        }


def _pictures(entries: list[Entry]) -> str:
    return "1 picture is" if len(entries) == 1 else f"{len(entries)} pictures are"


def centre_crop(image: Tensor, size: int) -> Tensor:
    """(3, H, W) in [0, 1] -> (3, size, size): the short side resized (bicubic, antialiased), the long one cropped."""
    height, width = image.shape[1:]
    scale = size / min(height, width)
    target = (max(size, round(height * scale)), max(size, round(width * scale)))
    if target != (height, width):
        image = torch.nn.functional.interpolate(
            image[None], size=target, mode="bicubic", antialias=True, align_corners=False
        )[0].clamp(0.0, 1.0)
    top, left = (target[0] - size) // 2, (target[1] - size) // 2
    return image[:, top : top + size, left : left + size]


def training_files(folder: Path, pattern: str = "") -> list[Path]:
    """The pictures below a folder that a training reads: those whose names match the pattern, if there is one."""
    return [path for path in iter_image_files(folder) if not pattern or fnmatch(path.name, pattern)]


def read_folder(
    folder: Path, size: int, pattern: str = "", background: str = "grey"
) -> Generator[tuple[int, int, Tensor], None, DatasetReport]:
    """Read every picture below a folder once; yields (number from 1, of how many, image (3, size, size)) if usable.

    pattern: only file names that match it, e.g. "mh_*"; background: what is put under transparency, "grey" or "white".
    Returns the report. Raises DatasetError when the folder is missing or has no usable picture, CaptionError for a .txt
    that cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DatasetError(f"There is no folder {folder}: give the folder with the pictures to train on.")
    files = training_files(folder, pattern)
    if not files:
        which = f"matching {pattern!r} " if pattern else ""
        raise DatasetError(f"No pictures {which}were found in {folder}: PNG, JPEG, WebP, BMP, TIFF and GIF are read.")
    report = DatasetReport(folder, size)
    for number, path in enumerate(files, 1):
        name = path.relative_to(folder).as_posix()
        try:
            picture = load_picture(path)
        except ImageError as error:
            report.skipped.append((name, str(error)))
            continue
        digest = hashlib.sha256(repr(tuple(picture.rgb.shape)).encode())
        for part in (picture.rgb, picture.alpha):
            digest.update(part.contiguous().numpy().tobytes() if part is not None else b"-")
        words, captioned = filewords(path)
        report.entries.append(
            Entry(name, picture.size, picture.alpha is not None, words, captioned, digest.hexdigest())
        )
        yield number, len(files), centre_crop(flatten_alpha(picture, BACKGROUNDS[background]), size)
    if not report.entries:
        first, reason = report.skipped[0]
        raise DatasetError(f"None of the {len(files)} pictures in {folder} can be used; the first, {first}, {reason}")
    return report


def check_folder(folder: Path, size: int, pattern: str = "") -> DatasetReport:
    """The report alone, without a model: what "Check dataset" shows. Raises as `read_folder`."""
    reading = read_folder(folder, size, pattern)
    while True:
        try:
            next(reading)
        except StopIteration as stop:
            return stop.value


@dataclass(frozen=True)
class Dataset:
    """Pictures ready for training: latents (4, size/8, size/8) float32 on the CPU, in the order of report.entries."""

    report: DatasetReport
    latents: list[Tensor]

    def __len__(self) -> int:
        return len(self.latents)


def build_dataset(
    host: ModelHost, folder: Path, size: int, pattern: str = "", background: str = "grey"
) -> Generator[Caching, None, Dataset]:
    """Read a folder and encode each picture once, to the mean of the VAE's posterior.

    Yields progress, returns the Dataset, raises as `read_folder`.
    """
    reading = read_folder(folder, size, pattern, background)
    latents: list[Tensor] = []
    while True:
        try:
            number, total, image = next(reading)
        except StopIteration as stop:
            return Dataset(stop.value, latents)
        # one at a time: the result does not depend on what a batch would hold, and it fits an 8 GB card
        with torch.inference_mode(False), torch.no_grad():
            latents.append(host.encode_image(image[None].to(host.device))[0].float().cpu())
        yield Caching(number, total)


class RowSource:
    """Draws the rows of a step: pictures in epoch order, and for each a caption, a timestep and noise of its own.

    Everything random comes from one CPU generator, so a run does not depend on the device, and several processes that
    draw the same rows can each take their share.
    """

    def __init__(
        self, dataset: Dataset, captions: Captions, name: str, timesteps: tuple[int, int], generator: torch.Generator
    ):
        self.dataset, self.captions, self.name, self.timesteps = dataset, captions, name, timesteps
        self.generator = generator
        self.sampler = EpochSampler(len(dataset), generator)

    def draw(self, size: int, device: torch.device | str = "cpu") -> Rows:
        """The next `size` rows, latents and noise on the device."""
        indices = self.sampler.draw(size)
        words = [self.dataset.report.entries[i].words for i in indices]
        captions = tuple(self.captions.draw(self.name, w, self.generator) for w in words)
        low, high = self.timesteps
        timesteps = torch.randint(low, high + 1, (size,), generator=self.generator)
        latents = torch.stack([self.dataset.latents[i] for i in indices])
        noise = torch.randn(latents.shape, generator=self.generator)
        return Rows(latents.to(device), noise.to(device), timesteps.to(device), captions)

    def state_dict(self) -> dict[str, Any]:
        """The sampler's state; the generator's belongs to the job."""
        return self.sampler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The opposite of `state_dict`."""
        self.sampler.load_state_dict(state)
