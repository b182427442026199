"""Weights that nothing changes, in a file instead of in memory: the system reads of it what is used."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile

import torch
from torch import Tensor

ALIGNMENT = 64  # bytes, as torch's own memory: kernels may round otherwise elsewhere


@torch.no_grad()
def map_from_file(tensors: Sequence[Tensor], folder: Path) -> None:
    """Put the content of tensors on the CPU into a file in `folder`, and map it from there; the values stay.

    The file has no name and goes with the tensors. Writing to one of them changes it, not the file. Raises OSError.
    """
    places = []
    with TemporaryFile(dir=folder) as stream:
        for tensor in tensors:
            stream.write(bytes(-stream.tell() % ALIGNMENT))
            places.append(stream.tell())
            stream.write(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        stream.flush()
        memory = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
    for tensor, place in zip(tensors, places, strict=True):
        flat = torch.frombuffer(memory, dtype=tensor.dtype, count=tensor.numel(), offset=place)
        tensor.data = flat.view(tensor.shape)
