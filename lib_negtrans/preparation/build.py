"""The job: look at every picture, choose, cut, and put the result in place at once when all of it is there."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from lib_negtrans import __version__
from lib_negtrans.errors import UserError
from lib_negtrans.files import mode_of
from lib_negtrans.pictures.images import MINIMUM_SIDE, ImageError, open_upright, picture_from_pil, to_pil
from lib_negtrans.pictures.tree import look_through

from .choice import choose
from .framing import cut, find_subject, frame
from .names import Names
from .params import PrepareParams
from .similar import Fingerprint, Seen, fingerprint

REPORT_FILE = "prepare.json"
READERS = 4  # threads that decode: more would hold too many large pictures at once


class PrepareError(UserError):
    """Nothing was prepared; the message is one sentence that says what to do."""


@dataclass(frozen=True)
class PrepareProgress:
    """phase "looking" or "writing": done of total."""

    phase: str
    done: int
    total: int

    def __str__(self) -> str:
        if self.phase == "looking":
            return f"Looking at pictures {self.done}/{self.total}"
        return f"Writing pictures {self.done}/{self.total}"


@dataclass(frozen=True)
class Prepared:
    """A written picture. caption: "file", "folders" or "none", where it came from; subject: how it was framed."""

    source: str
    target: str
    size: tuple[int, int]
    subject: str
    padded: bool
    caption: str


@dataclass
class PrepareReport:
    """What was done. left_out: (relative path, reason) of what cannot be used; spare: usable, but not drawn."""

    source: Path
    target: Path
    params: PrepareParams
    found: int = 0
    prepared: list[Prepared] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    spare: int = 0
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "version": __version__,
            "source": str(self.source),
            "target": str(self.target),
            "params": self.params.to_dict(),
            "found": self.found,
            "prepared": [dataclasses.asdict(picture) for picture in self.prepared],
            "left_out": [{"path": path, "reason": reason} for path, reason in self.left_out],
            "not_drawn": self.spare,
            "sub_folders": self.sub_folders,
            "notes": self.notes,
        }

    @property
    def unreadable(self) -> list[tuple[str, str]]:
        """What was left out because it is broken, and not because it is small or there twice."""
        return [(path, reason) for path, reason in self.left_out if not re.match(r"is (nearly|\d+x\d+)", reason)]

    @property
    def sub_folders(self) -> dict[str, int]:
        """Sub-folder of the source -> how many pictures of it were written."""
        counts = Counter(PurePosixPath(picture.source).parent.as_posix() for picture in self.prepared)
        return dict(sorted(counts.items()))

    def lines(self) -> list[str]:
        """The report for people, shortest first; every file that was left out has its line."""
        subjects = Counter(picture.subject for picture in self.prepared)
        captions = Counter(picture.caption for picture in self.prepared)
        ways = {
            "alpha": "by transparency (#)", "plain border": "by a plain border (#)", "whole": "as they are (#)",
            "unknown": "around the upper centre, as no subject was found (#)",
        }  # fmt: skip
        framed = ", ".join(ways[how].replace("#", str(count)) for how, count in subjects.most_common())
        folders = ", ".join(f"{name} ({count})" for name, count in self.sub_folders.items())
        lines = [
            f"{len(self.prepared)} of {self.found} pictures prepared at {self.params.size} pixels in {self.target}.",
            f"Framed {framed}.",
        ]
        if padded := sum(picture.padded for picture in self.prepared):
            lines.append(f"{padded} were padded, so that the subject is not cut.")
        lines.append(
            f"Captions: {captions['file']} from .txt files, {captions['folders']} from names of sub-folders, "
            f"{captions['none']} without."
        )
        if len(self.sub_folders) > 1:
            lines.append(f"From {folders}.")
        if self.spare:
            lines.append(f"{self.spare} more could be used but were not chosen.")
        return lines + self.notes + [f"Left out: {path} {reason}" for path, reason in self.left_out]


@dataclass(frozen=True)
class _Look:
    size: tuple[int, int]
    print: Fingerprint


def prepare(
    source: str | Path, target: str | Path, params: PrepareParams | None = None, overwrite: bool = False
) -> Generator[PrepareProgress, None, PrepareReport]:
    """Prepare the pictures of a tree in a new folder; yields progress, returns the report, which is also written there.

    Nothing in the source is changed. The target appears when all of it is written: until then it is what it was.
    overwrite: a target that an earlier preparation wrote, and nothing else, may be replaced. Raises PrepareError,
    ParamError.
    """
    params = (params or PrepareParams()).validate()
    source, target = Path(source).expanduser(), Path(os.path.realpath(Path(target).expanduser()))
    refuse(source, target, overwrite)
    report = PrepareReport(source, target, params)
    tree = look_through(source, exclude=target)
    report.found, report.left_out = len(tree.pictures), tree.problems
    if not tree.pictures:
        raise PrepareError(f"No pictures were found in {source}: PNG, JPEG, WebP, BMP, TIFF and GIF are read.")
    usable = yield from _look(source, tree.pictures, report)
    if not usable:
        first, reason = report.left_out[0]
        raise PrepareError(f"None of the {report.found} pictures in {source} can be used; the first, {first}, {reason}")
    chosen = choose(usable, params.total, params.balance, params.seed)
    report.spare = len(usable) - len(chosen)
    if len(chosen) < params.total:
        report.notes.append(f"Only {len(chosen)} can be used, fewer than the {params.total} asked for.")
    try:
        with _in_place(target) as folder:
            yield from _write(source, chosen, folder, report)
            content = json.dumps(report.to_dict(), indent=1, ensure_ascii=False)
            (folder / REPORT_FILE).write_text(content, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise PrepareError(
            f"{target} could not be written ({error.strerror or error}); nothing was changed."
        ) from error
    return report


def refuse(source: str | Path, target: str | Path, overwrite: bool = False) -> None:
    """Raises PrepareError for folders that are not there or would lose something."""
    source, target = Path(source).expanduser(), Path(os.path.realpath(Path(target).expanduser()))
    if not source.is_dir():
        raise PrepareError(f"There is no folder {source}: give the one with the pictures.")
    if Path(os.path.realpath(source)).is_relative_to(target):
        raise PrepareError(f"{target} holds the pictures themselves: give another folder for the result.")
    if target.exists() and not target.is_dir():
        raise PrepareError(f"{target} is a file: give a folder for the result.")
    there = sorted(path.relative_to(target).as_posix() for path in target.rglob("*")) if target.is_dir() else []
    if not there:
        return
    if not overwrite:
        raise PrepareError(f"{target} is not empty: give another folder, or allow overwriting.")
    try:
        earlier = json.loads((target / REPORT_FILE).read_text(encoding="utf-8"))
        written = {name for entry in earlier["prepared"] for name in _files_of(entry["target"])}
    except (OSError, ValueError, KeyError, TypeError):
        raise PrepareError(f"{target} was not prepared here: give another folder for the result.") from None
    if others := set(there) - written - {REPORT_FILE}:
        raise PrepareError(f"{target} also holds {min(others)}, which would be lost: move it, or give another folder.")


def _files_of(picture: str) -> tuple[str, str]:
    return picture, PurePosixPath(picture).with_suffix(".txt").as_posix()


def _look(source: Path, pictures: list[str], report: PrepareReport) -> Generator[PrepareProgress, None, list[str]]:
    """The usable ones: readable, large enough, and of near-duplicates the largest; of several, the shortest name's."""
    looks: dict[str, _Look] = {}
    with ThreadPoolExecutor(min(READERS, os.cpu_count() or 1), "negtrans-prepare") as readers:
        try:
            results = readers.map(lambda name: _look_at(source / name, report.params.smallest), pictures)
            for done, (name, found) in enumerate(zip(pictures, results, strict=True), 1):
                if isinstance(found, _Look):
                    looks[name] = found
                else:
                    report.left_out.append((name, found))
                yield PrepareProgress("looking", done, len(pictures))
        finally:
            readers.shutdown(wait=True, cancel_futures=True)
    seen, usable = Seen(report.params.duplicates), []

    def original_first(name: str) -> tuple[int, int, str]:
        # "copy of 007 (1).png" is longer than "007.png", in every language
        return -looks[name].size[0] * looks[name].size[1], len(PurePosixPath(name).stem), name

    for name in sorted(looks, key=original_first):
        if (like := seen.add(name, looks[name].print)) is None:
            usable.append(name)
        else:
            report.left_out.append((name, f"is nearly the same as {like}."))
    report.left_out.sort()
    return usable


def _look_at(path: Path, smallest: int) -> _Look | str:
    """What a picture is like, or why it cannot be used."""
    try:
        image = _open(path)
    except ImageError as error:
        return str(error)
    if min(image.size) < smallest:
        return f"is {image.width}x{image.height} pixels: a side is shorter than {smallest}."
    return _Look(image.size, fingerprint(image.convert("RGB")))


def _open(path: Path) -> Image.Image:
    """Upright RGB or RGBA, 8 bits, sRGB. Raises ImageError."""
    image = open_upright(path)
    plain = image.mode == "RGB" and not image.info.get("icc_profile") and "transparency" not in image.info
    if plain and min(image.size) >= MINIMUM_SIDE:
        return image  # as most are: ten times as fast as through tensors
    picture = picture_from_pil(image)
    return to_pil(picture.rgb, picture.alpha)


def _write(source: Path, chosen: list[str], folder: Path, report: PrepareReport) -> Iterator[PrepareProgress]:
    params, names = report.params, Names()
    for done, name in enumerate(chosen, 1):
        yield PrepareProgress("writing", done, len(chosen))
        try:
            image = _open(source / name)
        except ImageError as error:  # gone or broken since it was looked at
            report.left_out.append((name, str(error)))
            continue
        subject = find_subject(image)
        box = frame(image.size, subject, params.fit, params.size)
        padded = box[0] < 0 or box[1] < 0 or box[2] > image.width or box[3] > image.height
        result = cut(image, box, subject, params.fit, params.size)
        relative = PurePosixPath(name)
        target = f"{names.take([*relative.parent.parts, relative.stem])}.png"
        caption, origin = _caption(source, relative, report)
        if caption:
            (folder / _files_of(target)[1]).write_text(caption, encoding="utf-8")
        result.save(folder / target, format="PNG")
        how = "whole" if box == (0, 0, *image.size) else subject.how
        report.prepared.append(Prepared(name, target, result.size, how, padded, origin))


def _caption(source: Path, picture: PurePosixPath, report: PrepareReport) -> tuple[str, str]:
    """(text, where it came from)."""
    wanted = report.params.captions
    sidecar = source / picture.with_suffix(".txt")
    if wanted != "none" and sidecar.is_file():
        try:
            if text := sidecar.read_text(encoding="utf-8-sig").strip():
                return text, "file"
        except (OSError, UnicodeDecodeError):
            report.notes.append(f"{picture.with_suffix('.txt')} is not UTF-8 text: its caption is not kept.")
    if wanted == "folders":
        # numbers and dates describe nothing
        words = [re.sub(r"[_\s-]+", " ", part).strip() for part in picture.parent.parts if re.search(r"[^\W\d_]", part)]
        if words:
            return ", ".join(words), "folders"
    return "", "none"


@contextlib.contextmanager
def _in_place(target: Path) -> Iterator[Path]:
    """A hidden folder beside the target that takes its place at the end, or is gone. Raises OSError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    try:
        folder.chmod(mode_of(target, 0o777))
        yield folder
        if target.is_dir():
            former = folder.with_suffix(".former")
            target.rename(former)
            try:
                folder.rename(target)
            except OSError:
                former.rename(target)
                raise
            shutil.rmtree(former, ignore_errors=True)
        else:
            folder.rename(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
