"""What a command says of work on many files: a line for each, the speed, and the sums."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from lib_negtrans.runners.runner import ItemDone, Runner

from .reporting import EXIT_DONE, EXIT_SOME_FAILED, Reporter


class Telling(ABC):
    """What is said of each item, and the counts: of `word`, which is done with items, and of failures.

    smoothing: the progress bar's, of its rate.
    """

    word: str
    smoothing = 0.3
    bar: tqdm

    def __init__(self, report: Reporter) -> None:
        self.report = report
        self.counts: Counter[str] = Counter({self.word: 0, "failed": 0})
        self.seen = self.old = 0  # all that was told; outputs that were there before
        self._rate = Rate()

    def tell(self, runner: Runner, results: Iterable[ItemDone[Any, Any]], items: int, out: Path) -> int:
        """Say what becomes of each of so many items, and their sums at the end; gives the exit code."""
        speaker = self.report if runner.is_main else self.report.silent()
        with speaker.bar(total=items, unit="picture", smoothing=self.smoothing) as self.bar:
            for result in results:
                self.result(result)
            total, lost = runner.finish(self.counts)
        if not runner.is_main:
            return EXIT_DONE  # another code would make the launcher end the others
        return self._summary(total, lost, items, time.time() - runner.began, out)

    @abstractmethod
    def made(self, made: Any, fields: dict[str, Any]) -> None:
        """Say what was made of an item; fields: those of every event."""

    def result(self, result: ItemDone[Any, Any]) -> None:
        """Say what became of an item, and count it."""
        fields: dict[str, Any] = {"source": str(result.item.source), "index": result.index, "total": result.total}
        if result.skipped and not result.elsewhere:
            # says nothing about how long the others will take
            self.old += 1
            if not self.bar.disable:
                self.bar.initial += 1
        self.seen += 1
        self.bar.update()
        if rate := self._rate.add(result):
            self.bar.set_postfix_str(rate)
            fields["where"] = result.where
        if result.made is not None:
            self.counts[self.word] += 1
            self.made(result.made, fields)
        elif result.skipped:
            self.report.event("skipped", None, **fields)
        else:
            self.counts["failed"] += 1
            self.report.problem(f"failed: {result.item.source}: {result.error}", **fields)

    def _summary(self, total: dict[str, int], lost: list[int], items: int, seconds: float, out: Path) -> int:
        for rank in lost:
            self.report.problem(f"process {rank} ended too early; run the same command again to do what it has left.")
        done, failed = total[self.word], total["failed"]
        skipped = max(0, items - done - failed)
        line = f"{done} {self.word}, {skipped} done already, {failed} failed, in {seconds:.1f} s; see {out}"
        self.report.event("done", line, **{self.word: done}, skipped=skipped, failed=failed, seconds=seconds)
        return EXIT_SOME_FAILED if failed or lost else EXIT_DONE


class Rate:
    """The speed of actors, for the progress bar: how many there are, and the pictures of each in a minute."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock, self._began, self._done = clock, clock(), 0
        self._actors: set[str] = set()

    def add(self, done: ItemDone) -> str:
        """A result; what is to be said, "" without actors."""
        if not done.where:
            return ""
        self._done += 1
        self._actors.add(done.where)
        per_minute = 60 * self._done / max(1e-9, self._clock() - self._began) / len(self._actors)
        return f"{len(self._actors)} actors, {per_minute:.3g} a minute each"
