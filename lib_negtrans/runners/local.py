"""The runner of one process: the next item is read, and the last ones are written, while the model works on one.

It leaves to others what they have claimed, so any number of processes may share a folder.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib_negtrans.memory import free_memory

from .claims import Claims
from .runner import ItemDone, ItemFailed, ItemT, Job, MadeT, OnStep, Worker, as_item_failure, make_item

WRITTEN_BEHIND = 2  # finished items that may wait for their file
WAIT = 0.2  # seconds between looks at what other processes still work on


class Local:
    """A `Runner` in this process. overwrite: targets that were there before the run began are made again.

    Results come in the items' order, but for those that other processes had first.
    """

    is_main = True
    device: str | None = None  # for a job that names none

    def __init__(self, overwrite: bool = False) -> None:
        self.overwrite, self.began = overwrite, time.time()
        self.claims = Claims()

    def __enter__(self) -> Local:
        self.claims.__enter__()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.claims.__exit__()

    def run(
        self, job: Job[ItemT, MadeT], items: Sequence[ItemT], on_step: OnStep | None = None
    ) -> Iterator[ItemDone[ItemT, MadeT]]:
        """See `Runner.run`."""
        return _Pass(self, job.start(self.device), items, on_step).results()

    def finish(self, counts: Mapping[str, int]) -> tuple[dict[str, int], list[int]]:
        """See `Runner.finish`."""
        return dict(counts), []

    def is_done(self, target: Path) -> bool:
        """Whether a target need not be made; with `overwrite`, what was written since the run began is the run's."""
        try:
            written = target.stat().st_mtime
        except OSError:
            return False
        return not self.overwrite or written >= self.began


@dataclass
class _Pass(Worker[ItemT, "Future[MadeT]"]):
    """One pass over the items; itself a worker that reads ahead and writes behind."""

    runner: Local
    worker: Worker[ItemT, MadeT]
    items: Sequence[ItemT]
    on_step: OnStep | None
    reader: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "negtrans-read"))
    writer: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "negtrans-write"))
    todo: deque[int] = field(default_factory=deque)
    ahead: tuple[ItemT, Future[Any]] | None = None
    behind: deque[tuple[int, Future[MadeT]]] = field(default_factory=deque)

    def results(self) -> Iterator[ItemDone[ItemT, MadeT]]:
        try:
            yield from self._results()
        finally:
            self.writer.shutdown()  # what is made is written, however this ends
            self.reader.shutdown(cancel_futures=True)

    def _results(self) -> Iterator[ItemDone[ItemT, MadeT]]:
        self.todo.extend(range(len(self.items)))
        later: deque[int] = deque()
        is_done, claims = self.runner.is_done, self.runner.claims
        while self.todo or later:
            if not self.todo:  # what others work on: they may fail to
                yield from self._written(0)
                time.sleep(WAIT)
                self.todo, later = later, self.todo
            index = self.todo.popleft()
            target = self.items[index].target
            if is_done(target):
                yield self._done(index, skipped=True, elsewhere=target.stat().st_mtime >= self.runner.began)
            elif claims.failed_elsewhere(target):
                yield self._done(index, skipped=True, elsewhere=True)
            elif not claims.take(target):
                later.append(index)
            elif is_done(target):  # finished by another between the two looks
                claims.release(target)
                yield self._done(index, skipped=True, elsewhere=True)
            else:
                yield from self._work(index)
        yield from self._written(0)

    def _work(self, index: int) -> Iterator[ItemDone[ItemT, MadeT]]:
        item = self.items[index]
        try:
            self.behind.append((index, make_item(self, item, self.on_step)))
            error = None
        except ItemFailed as problem:
            error = str(problem)
        if error is not None:
            free_memory()
            self.runner.claims.fail(item.target)
            yield from self._written(0)  # in the order of the items
            yield self._done(index, error=error)
        yield from self._written(WRITTEN_BEHIND)

    def read(self, item: ItemT) -> Any:
        """What was read ahead of it, if it was; the next one's reading begins."""
        if self.ahead is not None and self.ahead[0] is item:
            reading = self.ahead[1]
        else:
            reading = self.reader.submit(self.worker.read, item)
        self.ahead = None
        for following in (self.items[number] for number in self.todo):
            if not self.runner.is_done(following.target) and not self.runner.claims.taken(following.target):
                self.ahead = following, self.reader.submit(self.worker.read, following)
                break
        return reading.result()

    def make(self, item: ItemT, content: Any, on_step: OnStep | None = None) -> Any:
        return self.worker.make(item, content, on_step)

    def write(self, item: ItemT, result: Any) -> Future[MadeT]:
        return self.writer.submit(self._write, item, result)

    def _write(self, item: ItemT, result: Any) -> MadeT:
        try:
            made = self.worker.write(item, result)
        except BaseException:
            self.runner.claims.fail(item.target)
            raise
        self.runner.claims.release(item.target)
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
