"""One job for many files: a `Runner` has its items made, wherever that is, and gives what became of each.

A `Job` is a picklable value. Every process that works starts a `Worker` from it, which loads the model once. Runners
differ in where that is: in this process (`local.py`), in each of several started together (`launched.py`), or on the
machines of a Ray cluster (`ray_cluster.py`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, overload

from lib_negtrans.errors import UserError
from lib_negtrans.files import walk
from lib_negtrans.memory import SENTENCE as OUT_OF_MEMORY
from lib_negtrans.memory import is_out_of_memory


@dataclass(frozen=True)
class FileItem:
    """A file, and the one that is to be made of it."""

    source: Path
    target: Path


ItemT = TypeVar("ItemT", bound=FileItem)
MadeT = TypeVar("MadeT")
OnStep = Callable[[Any], object]


class Items(Sequence[ItemT]):
    """Many items as names: cheap to keep and to send, each is made when it is asked for.

    A subclass is a picklable dataclass with these fields. out: the folder of the targets.
    """

    names: Sequence[str]
    out: Path

    @abstractmethod
    def target_name(self, name: str) -> str:
        """Where the target of an item is, as POSIX text below `out`."""

    @abstractmethod
    def item(self, name: str) -> ItemT:
        """The item of a name."""

    def without_names(self) -> Items[ItemT]:
        """What makes an item of a name elsewhere."""
        return replace(self, names=())  # type: ignore[type-var]  # subclasses are dataclasses

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> ItemT: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[ItemT]: ...

    def __getitem__(self, index: int | slice) -> ItemT | Sequence[ItemT]:
        if isinstance(index, slice):
            return [self.item(name) for name in self.names[index]]
        return self.item(self.names[index])


def still_to_make(items: Items[Any], overwrite: bool = False) -> list[int]:
    """The numbers of the items whose targets are not there, all with overwrite. The folder is listed once.

    Raises OSError.
    """
    if overwrite:
        return list(range(len(items)))
    there = {f"{below}/{name}" if below else name for below, names in walk(items.out) for name in names}
    return [index for index, name in enumerate(items.names) if items.target_name(name) not in there]


def is_done(target: Path, overwrite: bool, began: float) -> bool:
    """Whether a target need not be made; with `overwrite`, what was written since the run began is the run's."""
    try:
        written = target.stat().st_mtime
    except OSError:
        return False
    return not overwrite or written >= began


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
    """What is done with each item, as a picklable value. writes: whether that makes the items' targets."""

    writes = True

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
    where: the process that worked on it, where that is another one.
    """

    item: ItemT
    index: int
    total: int
    made: MadeT | None = None
    error: str | None = None
    skipped: bool = False
    elsewhere: bool = False
    where: str = ""


def those_there_first(
    items: Items[ItemT], todo: Sequence[int], results: Iterable[ItemDone[ItemT, MadeT]]
) -> Iterator[ItemDone[ItemT, MadeT]]:
    """What is said of the items that are not among `todo`, ascending numbers, and then the results of those."""
    left = iter(todo)
    following = next(left, None)
    for index in range(len(items)):
        if index == following:
            following = next(left, None)
        else:
            yield ItemDone(items[index], index, len(items), skipped=True)
    yield from results


class Runner(AbstractContextManager["Runner"], Protocol):
    """Has the items of a job made, each once; a context around `run` and `finish`.

    is_main: whether this process speaks for all that work on the run. began: when the first of them did, as time.time.
    """

    is_main: bool
    began: float

    def run(
        self, job: Job[ItemT, MadeT], items: Items[ItemT], on_step: OnStep | None = None
    ) -> Iterator[ItemDone[ItemT, MadeT]]:
        """Start the job, then give a result for every item as it is done. Raises UserError where it cannot start.

        A caller that stops early loses nothing that was made: it is written before the iterator is closed.
        """
        ...

    def finish(self, counts: Mapping[str, int]) -> tuple[dict[str, int], list[int]]:
        """The sums of the counts of all processes, and the numbers of those that ended without any."""
        ...
