"""The pictures of a file or a folder tree, and the PNGs to be made of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lib_negtrans.files import stem_and_suffix, store_errors
from lib_negtrans.options import ParamError
from lib_negtrans.pictures.tree import pictures_in
from lib_negtrans.runners.runner import FileItem, Items


@dataclass(frozen=True)
class Item(FileItem):
    """A picture, and the PNG to be made of it. masks and root: see `masks.mask_file`."""

    masks: Path | None = None
    root: Path | None = None


@dataclass(frozen=True)
class Plan(Items[Item]):
    """A folder's pictures by name, and where their PNGs go; see `plan`. shared: names whose stem two files have."""

    names: Sequence[str]
    source: Path
    out: Path
    masks: Path | None = None
    shared: frozenset[str] = frozenset()
    root: Path | None = None

    def target_name(self, name: str) -> str:
        head, suffix = stem_and_suffix(name)
        return f"{name}.png" if name in self.shared and suffix != ".png" else f"{head}.png"

    def item(self, name: str) -> Item:
        return Item(self.source / name, self.out / self.target_name(name), self.masks, self.root)


def plan(source: Path, out: Path, masks: Path | None = None) -> Plan:
    """Items for a file or a folder tree; the tree is mirrored, two files of one stem keep their suffix in the name.

    masks: a mask for all, or a folder that mirrors the tree by names; a picture without its mask is found out when it
    is read. Raises ParamError when there is nothing at `source` or `masks`, or no picture in it, OSError for a store.
    """
    with store_errors(source):
        if masks is not None and not masks.exists():
            raise ParamError(f"there is no mask file or folder {masks}.")
        if source.is_file():
            return Plan([source.name], source.parent, out, masks)
    names = pictures_in(source, out, masks)
    stems = [stem_and_suffix(name)[0].casefold() for name in names]  # compared without case, as Windows and macOS do
    count = Counter(stems)
    shared = frozenset(name for name, stem in zip(names, stems, strict=True) if count[stem] > 1)
    return Plan(names, source, out, masks, shared, source)
