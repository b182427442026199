"""What lies below a folder: pictures, and what could not be looked into. Links are followed, each folder once."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from lib_negtrans.files import is_remote, stem_and_suffix, store_errors, walk
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
    local = None if is_remote(folder) else os.path.realpath(folder)

    def complain(error: OSError) -> None:
        relative = Path(error.filename).relative_to(str(local)).as_posix()
        tree.problems.append((relative, f"cannot be opened ({error.strerror})."))

    for below, files in walk(folder, exclude, complain):
        stems = {name: stem_and_suffix(name) for name in files}
        names = [name for name, (_stem, suffix) in stems.items() if suffix.lower() in EXTENSIONS]
        masks = masks_among({stems[name][0] for name in names})
        for name in names:
            if stems[name][0] in masks:
                continue
            relative = f"{below}/{name}" if below else name
            if local is None or Path(f"{local}/{relative}").is_file():
                tree.pictures.append(relative)
            else:
                tree.problems.append((relative, "is a link that leads nowhere."))
    tree.pictures.sort()
    return tree


def image_files(folder: Path) -> list[Path]:
    """The pictures of `look_through`, as paths in the order of paths; what cannot be looked into is passed over."""
    return [folder / name for name in in_path_order(look_through(folder).pictures)]


def pictures_in(folder: Path, exclude: Path | None = None, without: Path | None = None) -> list[str]:
    """Names below a folder as `look_through` gives them, in the order of paths; `without` one of its files or folders.

    Raises ParamError for nothing there and for no picture, OSError for a store.
    """
    with store_errors(folder):
        if not folder.exists():
            raise ParamError(f"there is no file or folder {folder}.")
    names = in_path_order(look_through(folder, exclude).pictures)
    if without is not None and type(without) is type(folder) and without.is_relative_to(folder):
        own = without.relative_to(folder).as_posix()
        names = [name for name in names if name != own and not name.startswith(f"{own}/")]
    if not names:
        raise ParamError(f"no pictures were found in {folder}: it takes {', '.join(sorted(EXTENSIONS))} files.")
    return names


def in_path_order(names: Iterable[str]) -> list[str]:
    """Relative paths sorted as paths are: folder by folder."""
    return sorted(names, key=lambda name: name.split("/"))
