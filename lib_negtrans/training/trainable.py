"""What can be trained: some weights, how they act on the model, and how the result is kept.

Each kind is a file in kinds/. The loop (`run`), the step, the state and the checkpoints know this protocol only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from lib_negtrans.models.protocol import ModelHost

from .params import TrainingParams

Weights = Tensor | dict[str, Tensor]  # one tensor, or several by name
# their key in a checkpoint: format 1 is of a time when the vectors of an embedding were all that could be trained
WEIGHTS = "vectors"


class Trainable(Protocol):
    """The weights of one training. Made anew for each run, at the start of its steps.

    kind: what the result is, for its file and card; noun: its weights in a sentence ("The vectors became NaN");
    trigger: the word of captions and prompts that stands for it, "" for none. weights: float32 leaves with gradient,
    changed in place. copied: whether all state is copied after every step, so that a step that fails costs nothing; of
    large weights it is not, and what has come since the last checkpoint is lost. usual_size: of what a well-trained
    weight's size (the first number of `measure`) is, inf where nobody knows.
    """

    kind: str
    noun: str
    trigger: str
    weights: Weights
    copied: bool
    usual_size: float

    def __init__(self, host: ModelHost, params: TrainingParams, name: str): ...

    @staticmethod
    def check(host: ModelHost, name: str, out: Path) -> None:
        """Raises EmbeddingError or TrainingError for a name or a file that the result cannot have."""
        ...

    def notices(self) -> Iterator[str]:
        """Warnings for the user before the first step."""
        ...

    def groups(self) -> Sequence[tuple[list[Tensor], float]]:
        """All tensors of the weights, in groups with the factor that their learning rate is multiplied by."""
        ...

    def applied(self, weights: Weights | None) -> AbstractContextManager[Mapping[str, Tensor]]:
        """Inside, the model works with these weights (None: as if there were none), differentiably.

        Gives the embeddings that `ModelHost.encode_prompts` must be given for it.
        """
        ...

    def constrain(self) -> None:
        """Called after every step of the optimizer; may change the weights."""
        ...

    def measure(self, initial: Weights) -> tuple[float, float]:
        """(size of the weights, change since `initial`), for the loss CSV and the log."""
        ...

    def inspect(self, weights: Weights) -> tuple[list[float], list[str]]:
        """For a validation's event: the size of each part, and a word on each; empty where there are none."""
        ...

    def save(self, path: Path, weights: Weights, step: int, facts: dict[str, Any], overwrite: bool) -> None:
        """Write the result. facts: what is known of the run. Raises EmbeddingError, OSError."""
        ...

    def is_saved(self, path: Path, weights: Weights) -> bool:
        """Whether this file holds these weights."""
        ...

    def write_card(self, path: Path, preview: Path | None) -> list[str]:
        """What lies beside a finished result, for a browser; returns complaints."""
        ...


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
