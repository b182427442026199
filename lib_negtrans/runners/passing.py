"""A process's way through items: the next one is read, and the last ones are written, while the model works on one."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol

from lib_negtrans.memory import SENTENCE as OUT_OF_MEMORY
from lib_negtrans.memory import free_memory

from .runner import ItemDone, ItemFailed, ItemT, MadeT, OnStep, Worker, as_item_failure

WRITTEN_BEHIND = 2  # finished items that may wait for their file
WAIT = 0.2  # seconds between looks at what other processes still work on


@dataclass(frozen=True)
class Turn:
    """What happens to an item whose turn has come.

    work: it is made, and with `alone` nothing is read or written beside it. settled: what has become of it already, as
    values of an ItemDone. Neither: another process has it, so it is asked for again later.
    """

    work: bool = False
    alone: bool = False
    settled: Mapping[str, Any] | None = None


class Ledger(Protocol):
    """Who works on what. Items are named by their number and their target."""

    def begin(self, index: int, target: Path) -> Turn:
        """Asked once before an item, and again where it is for later."""
        ...

    def reads_ahead(self, index: int, target: Path) -> bool:
        """Whether this process may soon begin the item, so that its files are read meanwhile."""
        ...

    def end(self, index: int, target: Path, made: Any) -> None:
        """Told when the item's target is written, in another thread."""
        ...

    def fail(self, index: int, target: Path, error: str) -> None:
        """Told when the item cannot be made, in any thread."""
        ...


@dataclass
class Pass(Generic[ItemT, MadeT]):
    """One way through `todo`, numbers of `items`. Results come in that order, but for what others had first."""

    ledger: Ledger
    worker: Worker[ItemT, MadeT]
    items: Sequence[ItemT]
    todo: deque[int]
    on_step: OnStep | None = None
    reader: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "negtrans-read"))
    writer: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "negtrans-write"))
    ahead: tuple[int, Future[Any]] | None = None
    behind: deque[tuple[int, Future[MadeT]]] = field(default_factory=deque)

    def results(self) -> Iterator[ItemDone[ItemT, MadeT]]:
        try:
            yield from self._results()
        finally:
            self.writer.shutdown()  # what is made is written, however this ends
            self.reader.shutdown(cancel_futures=True)

    def _results(self) -> Iterator[ItemDone[ItemT, MadeT]]:
        later: deque[int] = deque()
        while self.todo or later:
            if not self.todo:  # what others work on: they may fail to
                yield from self._written(0)
                time.sleep(WAIT)
                self.todo, later = later, self.todo
            index = self.todo.popleft()
            turn = self.ledger.begin(index, self.items[index].target)
            if turn.settled is not None:
                yield self._done(index, **turn.settled)
            elif turn.work:
                yield from self._work(index, turn.alone)
            else:
                later.append(index)
        yield from self._written(0)

    def _work(self, index: int, alone: bool) -> Iterator[ItemDone[ItemT, MadeT]]:
        if alone:
            yield from self._written(0)
        error = self._attempt(index, alone)
        if error == OUT_OF_MEMORY and not alone:  # what waits for its file may have taken what was missing
            yield from self._written(0)
            free_memory()
            error = self._attempt(index, True)
        if error is not None:
            free_memory()
            self.ledger.fail(index, self.items[index].target, error)
            yield from self._written(0)  # in the order of the items
            yield self._done(index, error=error)
        yield from self._written(0 if alone else WRITTEN_BEHIND)

    def _attempt(self, index: int, alone: bool) -> str | None:
        """Makes an item, whose writing then begins; the sentence where it cannot be made."""
        item = self.items[index]
        try:
            with as_item_failure():
                result = self.worker.make(item, self._read(index, item, alone), self.on_step)
        except ItemFailed as problem:
            return str(problem)
        self.behind.append((index, self.writer.submit(self._write, index, item, result)))
        return None

    def _read(self, index: int, item: ItemT, alone: bool) -> Any:
        """What was read ahead of the item, if it was; the next one's reading begins."""
        if self.ahead is not None and self.ahead[0] == index:
            reading = self.ahead[1]
        else:
            reading = self.reader.submit(self.worker.read, item)
        self.ahead = None
        for number in () if alone else self.todo:
            following = self.items[number]
            if self.ledger.reads_ahead(number, following.target):
                self.ahead = number, self.reader.submit(self.worker.read, following)
                break
        return reading.result()

    def _write(self, index: int, item: ItemT, result: Any) -> MadeT:
        try:
            made = self.worker.write(item, result)
        except BaseException as error:
            self.ledger.fail(index, item.target, str(error))
            raise
        self.ledger.end(index, item.target, made)
        return made

    def _written(self, may_wait: int) -> Iterator[ItemDone[ItemT, MadeT]]:
        """The results of what was written, in order; waits until at most `may_wait` are left."""
        while self.behind and (len(self.behind) > may_wait or self.behind[0][1].done()):
            index, writing = self.behind.popleft()
            try:
                with as_item_failure():
                    done = self._done(index, made=writing.result())
            except ItemFailed as error:
                done = self._done(index, error=str(error))
            yield done

    def _done(self, index: int, **values: Any) -> ItemDone[ItemT, MadeT]:
        return ItemDone(self.items[index], index, len(self.items), **values)
