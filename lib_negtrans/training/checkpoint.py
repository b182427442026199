"""Checkpoints of a run: written whole or not at all, checked when read, never a pickle.

A checkpoint is nested plain data with tensors in it, kept as a .safetensors file: the tensors as such, the rest as JSON
in its header, and there a sha256 over both.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from lib_negtrans.files import atomic_write
from lib_negtrans.models.safetensors_writer import write_safetensors

from .errors import CheckpointError
from .weights import Weights, tensors

FORMAT = 1
_FILE = re.compile(r"checkpoint-(\d{8,})\.safetensors")


def encode(payload: Mapping[str, Any]) -> bytes:
    """Nested dicts, lists, tensors, text, numbers, bools and None -> bytes. Tuples come back as lists."""
    found, metadata = _parts(payload)
    # the library takes no two tensors in one storage
    return safetensors.torch.save({name: tensor.clone() for name, tensor in found.items()}, metadata)


def write_checkpoint(path: Path, payload: Mapping[str, Any]) -> None:
    """`encode` into a file, atomically, and without a second copy of all in memory. Raises OSError."""
    with atomic_write(path) as temporary, temporary.open("wb") as stream:
        write_safetensors(stream, *_parts(payload))


def decode(content: bytes) -> dict[str, Any]:
    """The opposite of `encode`. Raises CheckpointError for anything that is not exactly what was written."""
    try:
        length = struct.unpack("<Q", content[:8])[0]
        metadata = json.loads(content[8 : 8 + length])["__metadata__"]
        return _joined(safetensors.torch.load(content), metadata)
    except (safetensors.SafetensorError, struct.error, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"is cut off or not a checkpoint ({type(error).__name__})") from error


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The opposite of `write_checkpoint`; tensors are read when they are used. Raises CheckpointError, OSError."""
    with path.open("rb"):
        pass  # safetensors has errors of its own for files that cannot be opened
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata()
        return _joined(safetensors.torch.load_file(path), metadata)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"is cut off or not a checkpoint ({type(error).__name__})") from error


def _parts(payload: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, str]]:
    found: dict[str, Tensor] = {}
    plain = json.dumps(_split(payload, found, {}))
    return found, {"format": str(FORMAT), "plain": plain, "sha256": _digest(plain, found)}


def _joined(found: dict[str, Tensor], metadata: Mapping[str, str]) -> dict[str, Any]:
    plain, digest, version = metadata["plain"], metadata["sha256"], int(metadata["format"])
    if digest != _digest(plain, found):
        raise CheckpointError("is damaged (its checksum differs)")
    if version > FORMAT:
        raise CheckpointError(f"was written by a newer version (format {version})")
    return _join(json.loads(plain), found)


def _split(value: Any, found: dict[str, Tensor], names: dict[int, str]) -> Any:
    """The plain part; tensors go into `found`, one that occurs twice once. names: id of a tensor -> its name there."""
    if isinstance(value, Tensor):
        name = names.setdefault(id(value), f"t{len(found):04d}")
        if name not in found:
            found[name] = value.detach().cpu().contiguous()
        return {"$tensor": name}
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value):
            return {key: _split(item, found, names) for key, item in value.items()}
        # JSON has only text as keys
        return {"$items": [[key, _split(item, found, names)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return [_split(item, found, names) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a checkpoint cannot hold {type(value).__name__}")


def _join(value: Any, found: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_join(item, found) for item in value]
    if not isinstance(value, dict):
        return value
    if "$tensor" in value:
        return found[value["$tensor"]]
    if "$items" in value:
        return {key: _join(item, found) for key, item in value["$items"]}
    return {key: _join(item, found) for key, item in value.items()}


def _digest(plain: str, found: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(plain.encode())
    for name in sorted(found):
        tensor = found[name]
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).numpy().tobytes())
    return digest.hexdigest()


def weights_sha256(weights: Weights) -> str:
    """sha256 of the tensors' bytes, hex."""
    digest = hashlib.sha256()
    for tensor in tensors(weights):
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(step, path) of all checkpoint files in a folder, newest first; read or not."""
    if not folder.is_dir():
        return []
    found = [(_FILE.fullmatch(path.name), path) for path in folder.iterdir()]
    return sorted(((int(match[1]), path) for match, path in found if match), reverse=True)


def runs_below(folder: Path) -> list[tuple[Path, int]]:
    """(run folder, newest checkpoint's step) of the runs in a folder, the last written first."""
    found = []
    for run in folder.iterdir() if folder.is_dir() else ():
        if saved := checkpoints(run):
            found.append((saved[0][1].stat().st_mtime, run, saved[0][0]))
    return [entry[1:] for entry in sorted(found, reverse=True)]


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"checkpoint-{step:08d}.safetensors"


def save_checkpoint(folder: Path, step: int, payload: Mapping[str, Any], keep: int) -> Path:
    """Write `checkpoint-<step>.safetensors` atomically, then remove all but the `keep` newest. Raises OSError."""
    path = checkpoint_path(folder, step)
    write_checkpoint(path, payload)
    # one of a later step is a damaged one that was passed over: it must not count as kept
    for _, old in [found for found in checkpoints(folder) if found[0] <= step][keep:]:
        old.unlink(missing_ok=True)
    # what a kill in the middle of a write has left
    for half in folder.glob(".checkpoint-*.tmp"):
        half.unlink(missing_ok=True)
    return path


def newest_intact(folder: Path) -> tuple[dict[str, Any] | None, Path | None, list[str]]:
    """(content, path, complaints): the newest checkpoint that is whole, and a sentence for each newer one that is not.

    (None, None, []) when there is none at all. Raises CheckpointError when there are some and all are damaged.
    """
    complaints: list[str] = []
    for _, path in checkpoints(folder):
        try:
            return read_checkpoint(path), path, complaints
        except CheckpointError as error:
            complaints.append(f"{path.name} {error}; the one before it is used.")
        except OSError as error:
            complaints.append(f"{path.name} cannot be read ({error.strerror}); the one before it is used.")
    if complaints:
        raise CheckpointError(
            f"None of the {len(complaints)} checkpoints in {folder} can be read: "
            "start afresh with overwrite, or in another run folder."
        )
    return None, None, []


def remove_checkpoints(folder: Path) -> None:
    """Remove all checkpoints of a folder: only for a run that its user starts afresh."""
    for _, path in checkpoints(folder):
        path.unlink(missing_ok=True)
