"""The runner of each of several processes that `accelerate launch` or `torchrun` started together.

They share no process group: a folder's claims divide the work, and one small file each tells the main process the
counts. So a collective's time limit cannot end a run whose pictures take long, and no network is needed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lib_negtrans.errors import UserError
from lib_negtrans.files import is_remote, write_text_atomic

from .claims import is_running
from .local import Local, LocalToStore
from .runner import ItemDone, Items, ItemT, Job, MadeT, OnStep, Runner

WAIT = 0.3  # seconds between looks at the others
BEFORE = 60.0  # seconds by which another process may have been started earlier
FORGOTTEN = 7 * 24 * 3600.0


@dataclass(frozen=True)
class Launched:
    """This process among those started together; alone it is 0 of 1."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1

    @classmethod
    def from_environment(cls) -> Launched:
        """As `accelerate launch` and `torchrun` set it."""
        names = (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1))
        values = [int(os.environ.get(name) or default) for name, default in names]
        if "LOCAL_WORLD_SIZE" not in os.environ:
            values[3] = values[1]
        return cls(*values)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def device(self) -> str | None:
        """This process's GPU where several processes share a machine's; None leaves the choice open."""
        if self.local_count < 2 or not torch.cuda.is_available():
            return None
        return f"cuda:{self.local_rank % torch.cuda.device_count()}"

    def share_cores(self) -> None:
        """Divide the machine's cores between its processes: twice as many threads as cores are slower than one each."""
        # torchrun sets 1 where the user set nothing
        if self.local_count > 1 and os.environ.get("OMP_NUM_THREADS", "1") == "1":
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // self.local_count))


class LaunchedRunner(Local):
    """A `Runner` of this process's part: all go through the same items, and each does what no other has claimed.

    Each tells its counts in a file of `folder`/.negtrans-run.
    """

    def __init__(self, folder: Path, launched: Launched, overwrite: bool = False) -> None:
        super().__init__(overwrite)
        self.launched, self.is_main, self.device = launched, launched.is_main, launched.device()
        self._folder, self._own_start = folder / ".negtrans-run", self.began
        names = ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT")
        run = [os.environ.get(name, "") for name in names]
        if launched.local_count == launched.count:
            run.append(str(os.getppid()))  # all have one parent
        self._run = hashlib.sha256("\n".join(run).encode()).hexdigest()[:12]
        self._write(None)

    def run(
        self, job: Job[ItemT, MadeT], items: Items[ItemT], on_step: OnStep | None = None
    ) -> Iterator[ItemDone[ItemT, MadeT]]:
        """See `Runner.run`."""
        self.launched.share_cores()
        results = super().run(job, items, on_step)
        self.began = self.first_start()  # by now the others are there too
        return results

    def first_start(self) -> float:
        """When the first of all processes that are there by now began, as time.time()."""
        others = filter(None, (self._read(rank) for rank in range(self.launched.count)))
        return min([self._own_start, *(found["began"] for found in others)])

    def finish(self, counts: Mapping[str, int]) -> tuple[dict[str, int], list[int]]:
        """See `Runner.finish`; the main one waits for all, and until then the failures stay claimed."""
        self._write(counts)
        if not self.launched.is_main:
            return dict(counts), []
        total, lost = Counter(counts), []
        for rank in range(1, self.launched.count):
            theirs = self._wait_for(rank)
            if theirs is None:
                lost.append(rank)
            else:
                total.update(theirs)
        for file in self._folder.glob("*.json"):  # what interrupted runs left too
            if file.name.startswith(self._run) or time.time() - file.stat().st_mtime > FORGOTTEN:
                file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._folder.rmdir()
        return dict(total), lost

    def _file(self, rank: int) -> Path:
        return self._folder / f"{self._run}-{rank}.json"

    def _write(self, counts: Mapping[str, int] | None) -> None:
        content = {"host": socket.gethostname(), "pid": os.getpid(), "began": self._own_start, "counts": counts}
        write_text_atomic(self._file(self.launched.rank), json.dumps(content))

    def _wait_for(self, rank: int) -> dict[str, int] | None:
        while True:
            found = self._read(rank)
            if found is not None and found["counts"] is not None:
                return found["counts"]
            if found is None and time.time() - self._own_start > BEFORE:
                return None  # it never began
            if found is not None and found["host"] == socket.gethostname() and not is_running(found["pid"]):
                found = self._read(rank)  # it may have ended properly between the two looks
                return found and found["counts"]
            time.sleep(WAIT)

    def _read(self, rank: int) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads(self._file(rank).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        # what an earlier run left under the same port says nothing
        return found if found["began"] > self._own_start - BEFORE else None


def runner_here(folder: Path, overwrite: bool = False) -> Runner:
    """The runner of this process for targets in `folder`: alone, or one of those that were started together.

    Raises UserError where those would write into a store.
    """
    launched = Launched.from_environment()
    if is_remote(folder):
        if launched.count > 1:
            raise UserError(f"Several processes cannot share {folder}: use --engine ray, or a folder of this machine.")
        return LocalToStore(overwrite)
    return LaunchedRunner(folder, launched, overwrite) if launched.count > 1 else Local(overwrite)
