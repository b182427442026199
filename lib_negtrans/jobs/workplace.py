"""What a training needs of the program around it: whose turn it is, which model, where files go."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sized
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from lib_negtrans.models.protocol import ModelHost

from .training_snapshot import TrainingSnapshot


class Workplace(Protocol):
    """One program, such as the webui."""

    embeddings_folder: Path  # the finished NAME.pt goes here
    runs_folder: Path  # runs_folder/NAME holds checkpoints, loss.csv, previews

    def results_folder(self, kind: str) -> Path:
        """Where the finished file of a training goes; kind: a name in `training.kinds.KINDS`."""
        ...

    def turn(self, title: str) -> AbstractContextManager[ModelHost]:
        """Waits until no other job uses the model, then gives it. Entered and left in the manager's thread."""

    def progress(self, snapshot: TrainingSnapshot) -> bool:
        """Called after every event, in that thread; True asks the training to stop (a host's own interrupt button)."""
        return False

    def publish(self, result: Path, kind: str = "negative") -> list[str]:
        """Make a finished file known, during the turn; returns sentences for the user: why it is not shown."""
        return []

    def tokenizer(self) -> Callable[[str], Sized] | None:
        """Text -> its CLIP tokens, if that can be had at once; used to check a name as it is typed."""

    @property
    def templates_folder(self) -> Path | None:
        """The program's own caption templates, which may be named without their path."""
        return None


class LocalWorkplace(Workplace):
    """A workplace for a model that only this process uses, such as the standalone page's."""

    def __init__(self, host: ModelHost, embeddings_folder: Path, runs_folder: Path):
        self.host, self.embeddings_folder, self.runs_folder = host, Path(embeddings_folder), Path(runs_folder)
        self.lock = threading.Lock()  # translations on the same model take it too

    def results_folder(self, kind: str) -> Path:
        """Embeddings in their folder; LoRAs and checkpoints in folders of their own beside it."""
        beside = {"lora": "loras", "full": "checkpoints"}
        return self.embeddings_folder.parent / beside[kind] if kind in beside else self.embeddings_folder

    @contextmanager
    def turn(self, title: str) -> Iterator[ModelHost]:
        with self.lock:
            yield self.host

    def tokenizer(self) -> Callable[[str], Sized] | None:
        return self.host.token_vectors
