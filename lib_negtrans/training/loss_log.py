"""The loss CSV: one line a step, and after a resume the same file as if nothing had happened."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lib_negtrans.files import write_text_atomic

from .state import HistoryRow


class LossLog:
    """A CSV that holds exactly the rows of a history; rows of steps that a kill lost are dropped at the start.

    prior: with the column of the prior's loss.
    """

    def __init__(self, path: Path, history: Iterable[HistoryRow], prior: bool = False):
        self._columns = len(HistoryRow._fields) - (not prior)
        write_text_atomic(
            path, ",".join(HistoryRow._fields[: self._columns]) + "\n" + "".join(map(self._line, history))
        )
        self._file = path.open("a", encoding="utf-8", newline="")
        self._broken = False

    def _line(self, row: HistoryRow) -> str:
        return ",".join(repr(value) for value in row[: self._columns]) + "\n"

    def append(self, row: HistoryRow) -> str | None:
        """Add a line, at once visible to other programs. Gives a complaint, once, when the disk does not take it."""
        if self._broken:
            return None
        try:
            self._file.write(self._line(row))
            self._file.flush()
        except OSError as error:
            self._broken = True  # a line may be half written: nothing more until a resume writes the file anew
            return f"The loss file ends here ({error.strerror or error}); training goes on, resuming completes it."
        return None

    def close(self) -> None:
        """Close the file."""
        try:
            self._file.close()
        except OSError:
            self._broken = True  # said already: what is left in the buffer is what could not be written

    def __enter__(self) -> LossLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
