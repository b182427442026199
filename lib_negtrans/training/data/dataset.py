"""A folder of pictures: what is in it, and what cannot be used and why."""

from __future__ import annotations

import contextlib
import hashlib
import statistics
from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from lib_negtrans.pictures.images import ImageError, Picture, flatten_alpha, load_picture
from lib_negtrans.pictures.sizes import bucket_for, cover
from lib_negtrans.pictures.tree import image_files
from lib_negtrans.steps import finish
from lib_negtrans.training.errors import DatasetError

from .captions import WordsOf, filewords

LARGEST_AUTOMATIC_SIZE = 512  # what SD1.5 was trained at
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
    aspect: str = "buckets"

    @property
    def captioned(self) -> bool:
        """Whether any picture has a .txt."""
        return any(entry.captioned for entry in self.entries)

    @property
    def buckets(self) -> dict[tuple[int, int], int]:
        """(width, height) -> how many pictures are trained at it, the most frequent first."""
        counts = Counter(bucket_for(self.size, entry.size, self.aspect) for entry in self.entries)
        return dict(counts.most_common())

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
                ("warning", f"{_pictures(small)} enlarged from less than {self.size} pixels, such as {small[0].path}.")
            )
        other = [e for e in self.entries if e.size[0] != e.size[1]]
        if other and self.aspect == "square":
            found.append(("info", f"{_pictures(other)} not square and cropped to the centre, such as {other[0].path}."))
        elif other:
            sizes = ", ".join(f"{w}x{h} ({count})" for (w, h), count in self.buckets.items())
            shape = "its" if len(other) == 1 else "their"
            found.append(("info", f"{_pictures(other)} not square and trained in {shape} own shape: {sizes}."))
        clear = [e for e in self.entries if e.has_alpha]
        if clear:
            found.append(("info", f"{_pictures(clear)} partly transparent and put on the background colour."))
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "folder": str(self.folder),
            "images": len(self.entries),
            "captioned": sum(e.captioned for e in self.entries),
            "sizes": sorted({f"{w}x{h}" for w, h in (e.size for e in self.entries)}),
            "buckets": {f"{w}x{h}": count for (w, h), count in self.buckets.items()},
            "alpha": sum(e.has_alpha for e in self.entries),
            "skipped": [{"path": path, "reason": reason} for path, reason in self.skipped],
            "duplicates": self.duplicates,
            "fingerprint": self.fingerprint,
        }


def _pictures(entries: list[Entry]) -> str:
    return "1 picture is" if len(entries) == 1 else f"{len(entries)} pictures are"


def training_files(folder: Path, pattern: str = "") -> list[Path]:
    """The pictures below a folder that a training reads: those whose names match the pattern, if there is one."""
    return [path for path in image_files(folder) if not pattern or fnmatch(path.name, pattern)]


def listed_files(folder: Path, pattern: str = "") -> list[Path]:
    """`training_files` of a folder that must have some. Raises DatasetError."""
    if not folder.is_dir():
        raise DatasetError(f"There is no folder {folder}: give the folder with the pictures to train on.")
    files = training_files(folder, pattern)
    if not files:
        which = f"matching {pattern!r} " if pattern else ""
        raise DatasetError(f"No pictures {which}were found in {folder}: PNG, JPEG, WebP, BMP, TIFF and GIF are read.")
    return files


def refuse_empty(report: DatasetReport, files: list[Path]) -> None:
    """Raises DatasetError when none of the files could be used."""
    if not report.entries:
        first, reason = report.skipped[0]
        raise DatasetError(
            f"None of the {len(files)} pictures in {report.folder} can be used; the first, {first}, {reason}"
        )


def examine(path: Path, folder: Path, words_of: WordsOf = filewords) -> tuple[Entry, Picture]:
    """One picture of a folder. Raises ImageError, CaptionError for a .txt that cannot be read."""
    picture = load_picture(path)
    digest = hashlib.sha256(repr(tuple(picture.rgb.shape)).encode())
    for part in (picture.rgb, picture.alpha):
        digest.update(part.contiguous().numpy().tobytes() if part is not None else b"-")
    words, captioned = words_of(path)
    name = path.relative_to(folder).as_posix()
    return Entry(name, picture.size, picture.alpha is not None, words, captioned, digest.hexdigest()), picture


def read_folder(
    folder: Path, size: int, pattern: str = "", background: str = "grey", aspect: str = "buckets"
) -> Generator[tuple[int, int, Tensor], None, DatasetReport]:
    """Read every picture below a folder once; yields (number from 1, of how many, image (3, h, w)) if usable.

    Images are as they are trained on: at size x size, or for another aspect in its bucket. pattern: only file names
    that match it, e.g. "mh_*"; background: what is put under transparency, "grey" or "white". Returns the report.
    Raises DatasetError when the folder is missing or has no usable picture, CaptionError for a .txt that cannot be
    read.
    """
    folder = Path(folder)
    files = listed_files(folder, pattern)
    report = DatasetReport(folder, size, aspect=aspect)
    for number, path in enumerate(files, 1):
        try:
            entry, picture = examine(path, folder)
        except ImageError as error:
            report.skipped.append((path.relative_to(folder).as_posix(), str(error)))
            continue
        report.entries.append(entry)
        flat = flatten_alpha(picture, BACKGROUNDS[background])
        yield number, len(files), cover(flat, bucket_for(size, picture.size, aspect))
    refuse_empty(report, files)
    return report


def check_folder(folder: Path, size: int, pattern: str = "", aspect: str = "buckets") -> DatasetReport:
    """The report alone, without a model: what "Check dataset" shows. Raises as `read_folder`."""
    return finish(read_folder(folder, size, pattern, aspect=aspect))


def automatic_size(files: list[Path]) -> int:
    """The training size when none is given: the pictures' median short side, a multiple of 64 from 64 to 512.

    Small renders are not blown up: their blur would be learnt as part of the rendered look.
    """
    sides = []
    for path in files:
        with contextlib.suppress(OSError, ValueError, SyntaxError), Image.open(path) as image:
            sides.append(min(image.size))
    if not sides:
        return LARGEST_AUTOMATIC_SIZE
    return max(64, min(LARGEST_AUTOMATIC_SIZE, int(statistics.median(sides)) // 64 * 64))
