"""LoRAs merged into a model's weights, for good or for as long as a `with` lasts, on any host."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lib_negtrans.files import file_and_weight
from lib_negtrans.models.protocol import ModelHost, UsedLora

from .files import SHOWN_KEYS, LoraError, LoraFile, read_lora
from .names import lora_modules


@dataclass(frozen=True)
class Loras:
    """LoRA files with their weights, as `ModelChoice.adapt`: put into a model when it is loaded; picklable.

    sha256: of the files, where they must be those.
    """

    files: tuple[tuple[Path, float], ...]
    sha256: tuple[str, ...] = ()

    @classmethod
    def named(cls, texts: Sequence[str | Path]) -> Loras:
        """Those of `FILE` or `FILE:WEIGHT`."""
        named = (file_and_weight(str(text)) for text in texts)
        return cls(tuple((path.expanduser(), weight) for path, weight in named))

    def read(self) -> list[tuple[LoraFile, float]]:
        """Raises LoraError."""
        loras = [(read_lora(path), weight) for path, weight in self.files]
        for (file, _weight), meant in zip(loras, self.sha256, strict=False):
            if file.sha256 != meant:
                raise LoraError(
                    f"{file.path} is another file here than where the run was started: copy the same one here."
                )
        return loras

    def pinned(self) -> Loras:
        """The same for other machines, which must have the same files. Raises LoraError."""
        files = tuple((path.absolute(), weight) for path, weight in self.files)  # a URL stays as it is
        return Loras(files, tuple(file.sha256 for file, _weight in self.read()))

    def __call__(self, host: ModelHost) -> None:
        merge(host, self.read())


@torch.no_grad()
def merge(host: ModelHost, loras: Sequence[tuple[LoraFile, float]]) -> None:
    """Adds LoRAs (file, weight) to the host's weights for good; the embeddings that they bring are known to prompts.

    In float32 (float64 with such weights), all files together, then rounded once to what the weights are. The host's
    `loras` and with them its `model_hash` name them. Raises LoraError, with the weights as they were, for a LoRA with
    modules that this model has not or has in other sizes.
    """
    embeddings = _embeddings(host, loras)
    for parameter, value in _merged(host, loras):
        parameter.copy_(value)
    host.loras += tuple(UsedLora(file.name, file.sha256, file.webui_hash, weight) for file, weight in loras)
    host.embeddings = {**host.embeddings, **embeddings}


@contextlib.contextmanager
def merged(host: ModelHost, loras: Sequence[tuple[LoraFile, float]]) -> Iterator[None]:
    """`merge` for a while: then the weights are what they were, to the bit, also after an error.

    Copies of the changed weights are kept on the CPU meanwhile.
    """
    touched = {name for file, _weight in loras for name in file.pairs}
    weights = [module.weight for name, module in lora_modules(host).items() if name in touched]
    former = [(weight, weight.detach().to("cpu", copy=True)) for weight in weights]
    used, embeddings = host.loras, host.embeddings
    try:
        merge(host, loras)
        yield
    finally:
        with torch.no_grad():
            for weight, original in former:
                weight.copy_(original)
        host.loras, host.embeddings = used, embeddings


def _merged(host: ModelHost, loras: Sequence[tuple[LoraFile, float]]) -> Iterator[tuple[Tensor, Tensor]]:
    """(weight, its new value) for every weight that changes, one at a time. Raises LoraError before the first."""
    modules = lora_modules(host)
    for file, _weight in loras:
        _refuse_misfit(file, modules)
    for name, module in modules.items():
        if parts := [(file.pairs[name], weight) for file, weight in loras if name in file.pairs]:
            old = module.weight
            dtype = torch.float64 if old.dtype == torch.float64 else torch.float32
            new = old.to(dtype, copy=True)
            for pair, weight in parts:
                new += weight * pair.delta(old.device, dtype).reshape(old.shape)
            yield old, new


def _refuse_misfit(file: LoraFile, modules: dict[str, nn.Linear | nn.Conv2d]) -> None:
    missing = [name for name in file.pairs if name not in modules]
    if missing:
        raise LoraError(
            f"{file.path} does not fit this model, which lacks {len(missing)} of its {len(file.pairs)} modules, "
            f"such as {', '.join(missing[:SHOWN_KEYS])}: use a LoRA made for Stable Diffusion 1.x."
        )
    for name, pair in file.pairs.items():
        shape = modules[name].weight.shape
        kernel = pair.down.shape[2:] if pair.mid is None else pair.mid.shape[2:]
        ours, theirs = (*shape[:2], *_sized(shape[2:])), (pair.up.shape[0], pair.down.shape[1], *_sized(kernel))
        if ours != theirs:
            raise LoraError(
                f"{file.path} was made for a model of other sizes: {name} is {tuple(theirs)} in it and {tuple(ours)} "
                "in this model."
            )


def _sized(kernel: Sequence[int]) -> Sequence[int]:
    """A kernel's size; none for 1x1, which is a Linear to some trainers."""
    return () if tuple(kernel) == (1, 1) else kernel


def _embeddings(host: ModelHost, loras: Sequence[tuple[LoraFile, float]]) -> dict[str, Tensor]:
    found = {}
    for file, _weight in loras:
        for name, vectors in file.embeddings.items():
            vectors = vectors[None] if vectors.ndim == 1 else vectors
            if vectors.ndim != 2 or vectors.shape[1] != host.embedding_width:
                raise LoraError(
                    f"{file.path} brings the embedding {name} of width {vectors.shape[-1]}, but the model's is "
                    f"{host.embedding_width}: it was made for another kind of model."
                )
            found[name] = vectors.float().to(host.device)
    return found
