"""Files: written so that a killed process never leaves half of one, hashed, and named with a weight."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path


@contextlib.contextmanager
def atomic_write(path: str | Path, overwrite: bool = True) -> Iterator[Path]:
    """Gives a temporary path in the same folder; on success it is flushed to disk and takes the name `path`.

    After an error, and after a kill, `path` is what it was. Folders are made. The temporary name ends in .tmp: name the
    format where a library guesses it. Raises FileExistsError where `path` exists and overwrite is False.
    """
    path = Path(path)
    _refuse_existing(path, overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    # hidden, and with an ending that no program takes for a picture or an embedding
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.chmod(mode_of(path))
        _refuse_existing(path, overwrite)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def sha256_of(files: Iterable[str | Path], start: bytes = b"") -> str:
    """sha256 of `start` and then the files' bytes, hex. Raises OSError."""
    digest = hashlib.sha256(start)
    for file in files:
        with Path(file).open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def file_and_weight(text: str) -> tuple[Path, float]:
    """`FILE[:WEIGHT]` -> path and weight, 1 by default; the colon of a Windows drive or of a file's name is none."""
    head, separator, tail = text.rpartition(":")
    if separator and head and not Path(text).exists():
        with contextlib.suppress(ValueError):
            if math.isfinite(weight := float(tail)):
                return Path(head), weight
    return Path(text), 1.0


def write_bytes_atomic(path: str | Path, content: bytes, overwrite: bool = True) -> None:
    """`atomic_write` of bytes at hand."""
    with atomic_write(path, overwrite) as temporary:
        temporary.write_bytes(content)


def write_text_atomic(path: str | Path, content: str, overwrite: bool = True) -> None:
    """`atomic_write` of a text as UTF-8, with line ends as given; half a character becomes what JSON writes for it."""
    write_bytes_atomic(path, content.encode("utf-8", "backslashreplace"), overwrite)


def _refuse_existing(path: Path, overwrite: bool) -> None:
    if not overwrite and path.exists():
        raise FileExistsError(f"{path} exists already: choose another name, or allow overwriting.")


def mode_of(path: Path, new: int = 0o666) -> int:
    """A file's mode, or what the process gives new ones (tempfile's own would lock out other users)."""
    with contextlib.suppress(OSError):
        return path.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return new & ~mask


def _sync_folder(folder: Path) -> None:
    """Puts the renaming itself on disk, where the system lets folders be opened (Windows does not)."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        return  # some network file systems cannot; the file's content is on disk already
    finally:
        os.close(handle)
