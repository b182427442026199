"""Weights that are trained, and copies of them: one tensor, or several by name."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

Weights = Tensor | dict[str, Tensor]
# their key in a checkpoint: format 1 is of a time when the vectors of an embedding were all that could be trained
WEIGHTS = "vectors"


def tensors(weights: Weights) -> list[Tensor]:
    """All tensors, in order."""
    return [weights] if isinstance(weights, Tensor) else list(weights.values())


def kept(value: Any, copied: bool = True) -> Any:
    """Nested plain data with its tensors, detached and copied, so that it does not change any more.

    Not `copied`: the tensors are the given ones still.
    """
    if isinstance(value, Tensor):
        return value.detach().clone() if copied else value.detach()
    if isinstance(value, dict):
        return {key: kept(item, copied) for key, item in value.items()}
    return [kept(item, copied) for item in value] if isinstance(value, list | tuple) else value


def on_cpu(weights: Weights) -> Weights:
    """A detached copy in main memory."""
    copied = kept(weights)
    return copied.cpu() if isinstance(copied, Tensor) else {name: tensor.cpu() for name, tensor in copied.items()}


@torch.no_grad()
def put_back(weights: Weights, former: Weights) -> None:
    """Overwrite weights with others of the same names and shapes."""
    for tensor, other in zip(tensors(weights), tensors(former), strict=True):
        tensor.copy_(other)
