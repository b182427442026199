"""What runs on the machines of a Ray cluster: an actor that loads a job once and goes through blocks of items."""

from __future__ import annotations

import os

# before a job is unpickled: nothing is ever fetched, and sums are those of lib_negtrans/__main__.py
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MKL_CBWR", "AUTO")

import pickle
import socket
import threading
import time
import uuid
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import torch

from lib_negtrans.errors import UserError
from lib_negtrans.memory import is_out_of_memory

from .journal import Answer, Journal, Owner
from .passing import Pass, Turn
from .runner import ItemDone, ItemFailed, Items, OnStep, Worker, is_done

NO_START = -1  # the number of a row that says why the job cannot start here


class RemoteJournal(Journal):
    """The journal as an actor of its own; a new one is made where it is lost."""

    def __init__(self, total: int) -> None:
        reborn = ray.get_runtime_context().was_current_actor_reconstructed
        super().__init__(total, living_nodes, reborn)


def living_nodes() -> set[str]:
    """The machines of the cluster, by their ids."""
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


@dataclass(frozen=True)
class Order:
    """What a run's actors do. job: pickled; items: without names; began: as time.time on the driver's machine."""

    job: bytes
    items: Items[Any]
    journal: Any
    overwrite: bool
    began: float
    threads: int
    item_timeout: float


class RayWorker:
    """An actor of Ray Data's map_batches: a table of items, one block, becomes a table of what became of them."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.process = f"{socket.gethostname()}/{os.getpid()}"
        self.owner = Owner(uuid.uuid4().hex, ray.get_runtime_context().get_node_id())
        self.watch = Watch(order)
        torch.set_num_threads(order.threads)
        job = pickle.loads(order.job)
        self.writes, self.problem = job.writes, ""
        try:
            self.worker = _Careful(job.start())
        except (UserError, OSError) as error:
            self.problem = f"{socket.gethostname()}: {error}"

    def __call__(self, block: pa.Table) -> pa.Table:
        """Columns of the block: index, name. Of the result: index, result (a pickled dict), seconds, where."""
        if self.problem:
            return _table([(NO_START, {"error": self.problem}, 0.0, self.process)])
        numbers = block["index"].to_pylist()
        items = [self.order.items.item(name) for name in block["name"].to_pylist()]
        ledger = _Ledger(self, numbers)
        rows, before = [], time.perf_counter()
        for done in Pass(ledger, self.worker, items, deque(range(len(items)))).results():
            now = time.perf_counter()
            seconds = getattr(done.made, "seconds", now - before)
            rows.append((numbers[done.index], _outcome(done), seconds, self.process))
            before = now
        self.order.journal.forget.remote(numbers)
        return _table(rows)


def _outcome(done: ItemDone[Any, Any]) -> dict[str, Any]:
    return {"made": done.made, "error": done.error, "skipped": done.skipped, "elsewhere": done.elsewhere}


def _table(rows: list[tuple[int, dict[str, Any], float, str]]) -> pa.Table:
    columns = list(zip(*rows, strict=True))
    names = ("index", "result", "seconds", "where")
    return pa.table(dict(zip(names, (columns[0], [pickle.dumps(r) for r in columns[1]], *columns[2:]), strict=True)))


class _Ledger:
    """See `passing.Ledger`: a block's items, by their place in the block, in the journal of the run."""

    def __init__(self, actor: RayWorker, numbers: list[int]) -> None:
        self.actor, self.numbers, self.journal = actor, numbers, actor.order.journal
        self.careful = False  # an item that may have ended a process has nothing read beside it

    def begin(self, index: int, target: Path) -> Turn:
        number, order = self.numbers[index], self.actor.order
        answer: Answer = ray.get(self.journal.begin.remote(number, self.actor.owner))
        if answer.error is not None:
            return Turn(settled={"error": answer.error})
        if answer.made is not None:
            return Turn(settled={"made": pickle.loads(answer.made)})
        if self.actor.writes and (not answer.work or (answer.look and is_done(target, order.overwrite, order.began))):
            return Turn(settled={"skipped": True, "elsewhere": True})
        self.careful = answer.alone
        self.actor.watch.begin(number)
        return Turn(work=True, alone=answer.alone)

    def reads_ahead(self, _index: int, _target: Path) -> bool:
        return not self.careful

    def end(self, index: int, _target: Path, made: Any) -> None:
        self.actor.watch.end(self.numbers[index])
        self.journal.end.remote(self.numbers[index], pickle.dumps(made))

    def fail(self, index: int, _target: Path, error: str) -> None:
        self.actor.watch.end(self.numbers[index])
        self.journal.fail.remote(self.numbers[index], error)


class Watch:
    """Ends this process when an item takes longer than it may: nothing else gets out of a call that hangs."""

    def __init__(self, order: Order) -> None:
        self.order, self._lock = order, threading.Lock()
        self._deadlines: dict[int, float] = {}
        if order.item_timeout:
            threading.Thread(target=self._look, name="negtrans-watch", daemon=True).start()

    def begin(self, number: int) -> None:
        """From now on the item is under way."""
        with self._lock:
            self._deadlines[number] = time.monotonic() + self.order.item_timeout

    def end(self, number: int) -> None:
        """It no longer is."""
        with self._lock:
            self._deadlines.pop(number, None)

    def _look(self) -> None:
        while True:
            time.sleep(min(1.0, self.order.item_timeout / 4))
            with self._lock:
                late = [number for number, deadline in self._deadlines.items() if time.monotonic() > deadline]
            if late:
                said = f"took longer than {self.order.item_timeout:g} s (--item-timeout): it is left out."
                ray.get([self.order.journal.fail.remote(number, said) for number in late])
                os._exit(1)


class _Careful(Worker[Any, Any]):
    """A worker one of whose items cannot end a run over a million others."""

    def __init__(self, worker: Worker[Any, Any]) -> None:
        self.worker = worker

    def read(self, item: Any) -> Any:
        return self._held(self.worker.read, item)

    def make(self, item: Any, content: Any, on_step: OnStep | None = None) -> Any:
        return self._held(self.worker.make, item, content, on_step)

    def write(self, item: Any, result: Any) -> Any:
        return self._held(self.worker.write, item, result)

    @staticmethod
    def _held(call: Any, *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except Exception as error:
            if isinstance(error, UserError | OSError) or is_out_of_memory(error):
                raise  # the pass knows these
            raise ItemFailed(f"failed unexpectedly ({type(error).__name__}: {error}).") from error
