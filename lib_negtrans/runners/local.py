"""The runners of one process: for a folder that other processes may share, and for a store."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .claims import Claims
from .passing import Pass, Turn
from .runner import ItemDone, Items, ItemT, Job, MadeT, OnStep, is_done, still_to_make, those_there_first


class Local:
    """A `Runner` in this process. overwrite: targets that were there before the run began are made again.

    It leaves to others what they have claimed, so any number of processes may share a folder. Results come in the
    items' order, but for those that other processes had first.
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
        self, job: Job[ItemT, MadeT], items: Items[ItemT], on_step: OnStep | None = None
    ) -> Iterator[ItemDone[ItemT, MadeT]]:
        """See `Runner.run`."""
        return Pass(self, job.start(self.device), items, deque(range(len(items))), on_step).results()

    def finish(self, counts: Mapping[str, int]) -> tuple[dict[str, int], list[int]]:
        """See `Runner.finish`."""
        return dict(counts), []

    def begin(self, _index: int, target: Path) -> Turn:
        """See `Ledger`."""
        if self._is_done(target):
            return _there(elsewhere=target.stat().st_mtime >= self.began)
        if self.claims.failed_elsewhere(target):
            return _there(elsewhere=True)
        if not self.claims.take(target):
            return Turn()
        if self._is_done(target):  # finished by another between the two looks
            self.claims.release(target)
            return _there(elsewhere=True)
        return Turn(work=True)

    def reads_ahead(self, _index: int, target: Path) -> bool:
        """See `Ledger`."""
        return not self._is_done(target) and not self.claims.taken(target)

    def end(self, _index: int, target: Path, _made: Any) -> None:
        """See `Ledger`."""
        self.claims.release(target)

    def fail(self, _index: int, target: Path, _error: str) -> None:
        """See `Ledger`."""
        self.claims.fail(target)

    def _is_done(self, target: Path) -> bool:
        return is_done(target, self.overwrite, self.began)


class LocalToStore(Local):
    """A `Runner` in this process for targets in a store. Nothing can be claimed there: it works on the folder alone."""

    def run(
        self, job: Job[ItemT, MadeT], items: Items[ItemT], on_step: OnStep | None = None
    ) -> Iterator[ItemDone[ItemT, MadeT]]:
        """See `Runner.run`."""
        todo = still_to_make(items, self.overwrite)
        work = Pass(self, job.start(self.device), items, deque(todo), on_step)
        return those_there_first(items, todo, work.results())

    def begin(self, _index: int, _target: Path) -> Turn:
        return Turn(work=True)

    def reads_ahead(self, _index: int, _target: Path) -> bool:
        return True

    def end(self, _index: int, _target: Path, _made: Any) -> None:
        pass  # the target itself says it

    def fail(self, _index: int, _target: Path, _error: str) -> None:
        pass  # nobody else would try


def _there(elsewhere: bool) -> Turn:
    return Turn(settled={"skipped": True, "elsewhere": elsewhere})
