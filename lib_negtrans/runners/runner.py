"""One job for many files: a `Runner` has its items made, wherever that is, and gives what became of each.

A `Job` is a picklable value. Every process that works starts a `Worker` from it, which loads the model once. Runners
differ in where that is: in this process (`local.py`), or in each of several started together (`launched.py`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from lib_negtrans.errors import UserError
from lib_negtrans.memory import SENTENCE as OUT_OF_MEMORY
from lib_negtrans.memory import is_out_of_memory


class HasTarget(Protocol):
    """Anything that one file is made of."""

    @property
    def target(self) -> Path: ...


ItemT = TypeVar("ItemT", bound=HasTarget)
MadeT = TypeVar("MadeT")
OnStep = Callable[[Any], object]


class ItemFailed(UserError):
    """One item cannot be made, and the others can; the sentence does not name it."""


class Worker(ABC, Generic[ItemT, MadeT]):
    """Makes items with what a job loaded. `read` and `write` may run in other threads, beside the next item's `make`.

    UserError, OSError and lack of memory in any of them are the item's failure; other errors end the run.
    """

    @abstractmethod
    def read(self, item: ItemT) -> Any:
        """What an item's files hold."""

    @abstractmethod
    def make(self, item: ItemT, content: Any, on_step: OnStep | None = None) -> Any:
        """The result of what was read, with the model; on_step gets each step of it."""

    @abstractmethod
    def write(self, item: ItemT, result: Any) -> MadeT:
        """Write the item's target, and tell what was made."""


class Job(ABC, Generic[ItemT, MadeT]):
    """What is done with each item, as a picklable value."""

    @abstractmethod
    def start(self, device: str | None = None) -> Worker[ItemT, MadeT]:
        """Load what it takes, on `device` where the job names none. Raises UserError."""


def make_item(worker: Worker[ItemT, MadeT], item: ItemT, on_step: OnStep | None = None) -> MadeT:
    """One item, from its files to its target. Raises ItemFailed."""
    with as_item_failure():
        return worker.write(item, worker.make(item, worker.read(item), on_step))


@contextmanager
def as_item_failure() -> Iterator[None]:
    """Inside, an error that means that one item cannot be made becomes ItemFailed."""
    try:
        yield
    except (UserError, OSError) as error:
        raise ItemFailed(str(error)) from error
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ItemFailed(OUT_OF_MEMORY) from error


@dataclass(frozen=True)
class ItemDone(Generic[ItemT, MadeT]):
    """What became of an item, `index` of `total`: what was made, or an error's sentence, or neither where skipped.

    skipped: its output was there already, or with `elsewhere` another process has made it meanwhile, or has failed to.
    """

    item: ItemT
    index: int
    total: int
    made: MadeT | None = None
    error: str | None = None
    skipped: bool = False
    elsewhere: bool = False


class Runner(AbstractContextManager["Runner"], Protocol):
    """Has the items of a job made, each once; a context around `run` and `finish`.

    is_main: whether this process speaks for all that work on the run. began: when the first of them did, as time.time.
    """

    is_main: bool
    began: float

    def run(
        self, job: Job[ItemT, MadeT], items: Sequence[ItemT], on_step: OnStep | None = None
    ) -> Iterator[ItemDone[ItemT, MadeT]]:
        """Start the job, then give a result for every item as it is done. Raises UserError where it cannot start.

        A caller that stops early loses nothing that was made: it is written before the iterator is closed.
        """
        ...

    def finish(self, counts: Mapping[str, int]) -> tuple[dict[str, int], list[int]]:
        """The sums of the counts of all processes, and the numbers of those that ended without any."""
        ...
