"""Files: here or in a store, written so that a killed process never leaves half of one, hashed, named with a weight."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit
from urllib.request import url2pathname

from lib_negtrans.errors import UserError


def place(text: str | Path) -> Path:
    """A path of a text; of a URL such as s3://bucket/folder what has a path's methods (`upath.UPath`).

    Raises UserError where the package for such URLs is not installed.
    """
    if is_remote(text):
        return cast(Path, text)
    scheme, separator, _rest = str(text).partition("://")
    if not separator:
        return Path(text)
    if scheme == "file":
        return Path(url2pathname(urlsplit(str(text)).path))
    try:
        import fsspec
        from upath import UPath

        fsspec.get_filesystem_class(scheme)  # UPath itself takes what it does not know for a file's name
        found = UPath(text)
    except (ImportError, ValueError) as error:
        raise UserError(f"{text} cannot be opened: install what reads {scheme}:// ({error}).") from error
    return cast(Path, found)


def stem_and_suffix(name: str) -> tuple[str, str]:
    """A name or path as text, in two, as `Path` does it and ten times as fast: there may be a million."""
    return os.path.splitext(name)  # noqa: PTH122


def is_remote(path: Any) -> bool:
    """Whether it is a place in a store, as `place` gives it."""
    return hasattr(path, "storage_options")


@contextlib.contextmanager
def store_errors(where: Path) -> Iterator[None]:
    """Inside, what a store's package raises is an OSError that names the place: each has classes of its own."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not is_remote(where):
            raise
        if isinstance(error, FileNotFoundError):
            raise FileNotFoundError(f"there is no {where}, or no such bucket.") from error
        raise OSError(f"{where} cannot be reached ({type(error).__name__}: {error}).") from error


def fetched(path: Path) -> Path:
    """A file of a store as a local copy, made once; a local path as it is. Raises OSError."""
    if not is_remote(path):
        return path
    with store_errors(path):
        state = path.stat()
        version = hashlib.sha256(f"{path} {state.st_size} {state.st_mtime}".encode()).hexdigest()[:16]
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "negtrans", version, path.name)
        if not cache.exists():
            with atomic_write(cache) as temporary, path.open("rb") as source, temporary.open("wb") as stream:
                shutil.copyfileobj(source, stream, 1 << 20)
    return cache


def walk(
    folder: Path, exclude: Path | None = None, on_error: Callable[[OSError], None] | None = None
) -> Iterator[tuple[str, list[str]]]:
    """(a folder below `folder` as POSIX text, "" for itself; the names of its files), what is hidden left out.

    Links are followed, each folder once; what lies below `exclude` is left out. on_error gets folders that cannot be
    opened. A store is asked for all names at once. Raises OSError for a store.
    """
    if is_remote(folder):
        with store_errors(folder):
            yield from _walk_store(cast(Any, folder), exclude)
        return
    folder = Path(os.path.realpath(folder))
    left_out = None if exclude is None or is_remote(exclude) else Path(os.path.realpath(exclude))
    seen: set[str] = set()
    for here, folders, files in os.walk(folder, followlinks=True, onerror=on_error):
        real = os.path.realpath(here)
        # a link up the tree would never end, a second one to the same folder would give its pictures twice
        if real in seen or (left_out is not None and Path(real).is_relative_to(left_out)):
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        relative = Path(here).relative_to(folder).as_posix()
        yield "" if relative == "." else relative, [name for name in files if not name.startswith(".")]


def _walk_store(folder: Any, exclude: Any) -> Iterator[tuple[str, list[str]]]:
    root = folder.path.strip("/")
    left_out = f"{exclude.path.strip('/')}/" if exclude is not None and type(exclude) is type(folder) else None
    names: dict[str, list[str]] = {}
    for found in folder.fs.find(folder.path):
        full = found.strip("/")
        if left_out is None or not full.startswith(left_out):
            relative, _, name = full[len(root) :].strip("/").rpartition("/")
            names.setdefault(relative, []).append(name)
    for relative, files in sorted(names.items()):
        if not any(part.startswith(".") for part in relative.split("/")):
            yield relative, [name for name in files if name and not name.startswith(".")]


@contextlib.contextmanager
def atomic_write(path: str | Path, overwrite: bool = True) -> Iterator[Path]:
    """Gives a temporary path in the same folder; on success it is flushed to disk and takes the name `path`.

    After an error, and after a kill, `path` is what it was. Folders are made. The temporary name ends in .tmp: name the
    format where a library guesses it. Into a store it is sent in one go. Raises FileExistsError where `path` exists and
    overwrite is False, OSError.
    """
    path = place(path)
    _refuse_existing(path, overwrite)
    if is_remote(path):
        with tempfile.TemporaryDirectory(prefix="negtrans-") as folder:
            temporary = Path(folder, f"{path.name}.tmp")
            temporary.touch()
            yield temporary
            with store_errors(path):
                path.write_bytes(temporary.read_bytes())
        return
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
    """`FILE[:WEIGHT]` -> path and weight, 1 by default; the colon of a URL, a Windows drive or a file's name is none.

    Raises UserError for a URL of an unknown kind.
    """
    head, separator, tail = text.rpartition(":")
    if separator and head and not Path(text).exists():
        with contextlib.suppress(ValueError):
            if math.isfinite(weight := float(tail)):
                return place(head), weight
    return place(text), 1.0


def write_bytes_atomic(path: str | Path, content: bytes, overwrite: bool = True) -> None:
    """`atomic_write` of bytes at hand."""
    with atomic_write(path, overwrite) as temporary:
        temporary.write_bytes(content)


def write_text_atomic(path: str | Path, content: str) -> None:
    """`atomic_write` of a text as UTF-8, with line ends as given; half a character becomes what JSON writes for it."""
    write_bytes_atomic(path, content.encode("utf-8", "backslashreplace"))


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
