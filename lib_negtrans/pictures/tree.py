"""What lies below a folder: pictures, and what could not be looked into. Links are followed, each folder once."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from lib_negtrans.options import ParamError

from .images import EXTENSIONS, masks_among


@dataclass
class Tree:
    """pictures: paths relative to the folder, as POSIX text, sorted. problems: (relative path, reason)."""

    pictures: list[str] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)


def look_through(folder: Path, exclude: Path | None = None) -> Tree:
    """Every picture below a folder but hidden ones, masks beside their pictures, and what lies below `exclude`.

    A mask is a file that `mask_beside` gives for another picture: never trained on, nor translated.
    """
    tree = Tree()
    folder = Path(os.path.realpath(folder))
    left_out = None if exclude is None else Path(os.path.realpath(exclude))
    seen: set[str] = set()

    def complain(error: OSError) -> None:
        tree.problems.append((_relative(Path(error.filename), folder), f"cannot be opened ({error.strerror})."))

    for here, folders, files in os.walk(folder, followlinks=True, onerror=complain):
        real = os.path.realpath(here)
        # a link up the tree would never end, a second one to the same folder would give its pictures twice
        if real in seen or (left_out is not None and Path(real).is_relative_to(left_out)):
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        names = [n for n in files if not n.startswith(".") and Path(n).suffix.lower() in EXTENSIONS]
        masks = masks_among({Path(name).stem for name in names})
        for name in names:
            path = Path(here, name)
            if path.stem in masks:
                continue
            relative = _relative(path, folder)
            if path.is_file():
                tree.pictures.append(relative)
            else:
                tree.problems.append((relative, "is a link that leads nowhere."))
    tree.pictures.sort()
    return tree


def image_files(folder: Path, exclude: Path | None = None) -> list[Path]:
    """The pictures of `look_through`, as paths in the order of paths; what cannot be looked into is passed over."""
    return sorted(folder / name for name in look_through(folder, exclude).pictures)


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


@dataclass(frozen=True)
class Item:
    """A picture to work on: its file, and the PNG to be made of it. masks and root: see `masks.mask_file`."""

    source: Path
    target: Path
    masks: Path | None = None
    root: Path | None = None


def plan(source: Path, out: Path, masks: Path | None = None) -> list[Item]:
    """Items for a file or a folder tree; the tree is mirrored, two files of one stem keep their suffix in the name.

    masks: a mask for all, or a folder that mirrors the tree by names; a picture without its mask is found out when it
    is read. Raises ParamError when there is nothing at `source` or `masks`, or no picture in it.
    """
    if masks is not None and not masks.exists():
        raise ParamError(f"there is no mask file or folder {masks}.")
    if source.is_file():
        return [Item(source, out / f"{source.stem}.png", masks)]
    if not source.is_dir():
        raise ParamError(f"there is no file or folder {source}.")
    files = [f for f in image_files(source, exclude=out) if masks is None or not f.is_relative_to(masks)]
    if not files:
        raise ParamError(f"no pictures were found in {source}: it takes {', '.join(sorted(EXTENSIONS))} files.")
    # compared without case, as Windows and macOS do
    stems = Counter(str(path.with_suffix("")).casefold() for path in files)
    items = []
    for path in files:
        shared = stems[str(path.with_suffix("")).casefold()] > 1
        name = f"{path.name}.png" if shared and path.suffix != ".png" else f"{path.stem}.png"
        items.append(Item(path, out / path.relative_to(source).parent / name, masks, source))
    return items
