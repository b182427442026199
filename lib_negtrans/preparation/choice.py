"""Which pictures are taken, at random but the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath


@dataclass
class _Folder:
    pictures: list[str] = field(default_factory=list)
    folders: dict[str, _Folder] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return len(self.pictures) + sum(folder.count for folder in self.folders.values())

    @property
    def parts(self) -> list[_Folder]:
        """What shares out: the sub-folders, and the pictures that lie in none as one more."""
        own = [_Folder(self.pictures)] if self.pictures and self.folders else []
        return [*own, *(self.folders[name] for name in sorted(self.folders))]

    @property
    def even(self) -> int:
        """The most that can be taken if all parts give the same number."""
        return len(self.parts) * min(part.even for part in self.parts) if self.folders else len(self.pictures)


def choose(paths: Sequence[str], total: int, balance: bool, seed: int) -> list[str]:
    """Of relative paths: `total` at random, 0 = all; balance: every sub-folder gives as many, at every level.

    A sub-folder that has too few gives all, and the others make up for it; without a total, all give as many as the
    smallest. In the order of the paths.
    """
    ordered, generator = sorted(paths), random.Random(seed)
    if not balance:
        chosen = ordered if total <= 0 or total >= len(ordered) else generator.sample(ordered, total)
        return sorted(chosen)
    root = _Folder()
    for path in ordered:
        folder = root
        for name in PurePosixPath(path).parts[:-1]:
            folder = folder.folders.setdefault(name, _Folder())
        folder.pictures.append(path)
    return sorted(_take(root, min(total, root.count) if total > 0 else root.even, generator))


def _take(folder: _Folder, number: int, generator: random.Random) -> list[str]:
    if not folder.folders:
        return generator.sample(folder.pictures, number)
    parts = folder.parts
    shares = [0] * len(parts)
    while number:
        open_parts = [i for i, part in enumerate(parts) if shares[i] < part.count]
        each = number // len(open_parts)
        if each == 0:  # fewer are left than there are parts
            for i in generator.sample(open_parts, number):
                shares[i] += 1
            break
        for i in open_parts:
            more = min(each, parts[i].count - shares[i])
            shares[i] += more
            number -= more
    return [path for part, share in zip(parts, shares, strict=True) for path in _take(part, share, generator)]
