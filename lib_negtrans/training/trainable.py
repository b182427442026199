"""What can be trained: some weights, how they act on the model, and how the result is kept.

Each kind is a file in kinds/. The loop (`run`), the step, the state and the checkpoints know this protocol only.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar, Protocol

from torch import Tensor

from lib_negtrans.models.protocol import ModelHost

from .common_params import CommonParams
from .data.batch import RowSource
from .data.captions import Captions
from .data.sets import Folders, TrainingData
from .events import Event, Notice
from .objective import Objective
from .optimizers import MovingAverage
from .weights import Weights


class Trainable(Protocol):
    """The weights of one training. Made anew for each run, at the start of its steps.

    options: the class of its parameters. source: that of what draws its rows. kind: what the result is, for its file
    and card; noun: its weights in a sentence ("The vectors became NaN"); suffix: of its file. domain: "renders" or
    "photos", which it learns from. trigger: the word of captions and prompts that stands for it, "" for none. weights:
    float32 leaves with gradient, changed in place. copied: whether all state is copied after every step, so that a step
    that fails costs nothing; of large weights it is not, and what has come since the last checkpoint is lost. counted:
    whether the random numbers of a row depend on (seed, step, row) alone. masters: whether float32 copies of the
    model's own weights are trained in their place. usual_size: of what a well-trained weight's size (the first number
    of `measure`) is, inf where nobody knows.
    """

    options: ClassVar[type[CommonParams]]
    source: ClassVar[type[RowSource]]
    kind: str
    noun: str
    suffix: str
    domain: str
    trigger: str
    weights: Weights
    copied: bool
    counted: bool
    masters: bool

    @property
    def usual_size(self) -> float: ...

    def __init__(self, host: ModelHost, params: Any, name: str): ...

    @staticmethod
    def check(host: ModelHost, params: Any, folders: Folders, name: str, out: Path) -> None:
        """Raises EmbeddingError, DatasetError or TrainingError for a name, a file, folders that it cannot have."""
        ...

    def read(self, folders: Folders, cache: Path | None) -> Generator[Event, None, TrainingData]:
        """The pictures; cache: a folder for their latents. Yields progress, raises as `build_dataset`."""
        ...

    def captions(self, data: TrainingData) -> dict[str, Captions]:
        """How captions are made, for each name of `data.learnt`."""
        ...

    def terms(self) -> dict[str, tuple[Objective, float]]:
        """{name in `data.learnt`: (loss of each row, weight in the sum)}, that of the domain first."""
        ...

    def average(self) -> MovingAverage | None:
        """A new moving average of the weights, which then is the result; None for none."""
        ...

    def notices(self) -> Iterator[Notice]:
        """What the user should know before the first step, when the pictures are read."""
        ...

    def groups(self) -> Sequence[tuple[list[Tensor], float]]:
        """All tensors of the weights, in groups with the factor that their learning rate is multiplied by."""
        ...

    def applied(self, weights: Weights | None) -> AbstractContextManager[Mapping[str, Tensor]]:
        """Inside, the model works with these weights (None: as if there were none), differentiably.

        Gives the embeddings that `ModelHost.encode_prompts` must be given for it.
        """
        ...

    def make_room(self, folder: Path) -> None:
        """Called once before the first step: what is seldom read may go into a file in `folder`. Raises OSError."""
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
