"""What became of every item of a run, as Parquet files that grow while it goes on."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lib_negtrans.files import atomic_write

from .runner import ItemDone

FOLDER = "negtrans-results"
ROWS, SECONDS = 50_000, 300.0  # a part is written when it has so many rows, or is so old: a killed run has told most
SCHEMA = pa.schema(
    {"source": pa.string(), "target": pa.string(), "status": pa.string(), "error": pa.string(),
     "seconds": pa.float64(), "where": pa.string()}
)  # fmt: skip


class ResultsTable:
    """Parts `TIME-NUMBER.parquet` in a folder; a reader of Parquet takes the folder as one table.

    status: made, failed or skipped (its output was there, or another process made it). seconds: of the process that
    worked on it. where: host and process.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.parts = folder, 0
        self._name = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
        self._rows: list[dict[str, Any]] = []
        self._since = time.monotonic()

    def add(self, done: ItemDone[Any, Any], seconds: float) -> None:
        """One item's line. Raises OSError when a part is due and cannot be written."""
        status = "failed" if done.error is not None else "skipped" if done.skipped else "made"
        self._rows.append(
            {"source": str(done.item.source), "target": str(done.item.target), "status": status, "error": done.error,
             "seconds": seconds, "where": done.where}
        )  # fmt: skip
        if len(self._rows) >= ROWS or time.monotonic() - self._since > SECONDS:
            self.flush()

    def flush(self) -> None:
        """Writes what is not yet written. Raises OSError."""
        if self._rows:
            with atomic_write(self.folder / f"{self._name}-{self.parts:05}.parquet") as temporary:
                pq.write_table(pa.Table.from_pylist(self._rows, SCHEMA), temporary)
            self.parts += 1
        self._rows, self._since = [], time.monotonic()
