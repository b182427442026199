"""The runner of many machines: Ray Data gives blocks of items to actors, each of which loads the job once.

Ray schedules, and gives the block of a process or machine that died to another. That no item is lost or made twice is
ours: the outputs say what is done, and a journal what is under way (`journal.py`).
"""

from __future__ import annotations

import logging
import math
import os
import pickle
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # what is called after the end must not start another Ray

import pyarrow as pa
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lib_negtrans.errors import UserError

from .ray_worker import NO_START, Order, RayWorker, RemoteJournal
from .results_table import FOLDER, ResultsTable
from .runner import ItemDone, Items, ItemT, Job, MadeT, OnStep, still_to_make, those_there_first

LARGEST_BLOCK = 32  # items that one actor takes at a time
PROBE = 10.0  # seconds that a cluster may take to answer
BLOCKS_PER_ACTOR = 8  # so that none waits long for the last one


@dataclass(frozen=True)
class RayOptions:
    """address: of a cluster that runs; None starts Ray on this machine, and ends it. gpus and cpus: of each actor; gpus
    None: 1 where the cluster has any. block: items that an actor takes at a time, None: by their number. item_timeout:
    seconds, 0 for none. actors: how many at most, None: as many as there is room for.
    """

    address: str | None = None
    gpus: float | None = None
    cpus: float = 1.0
    block: int | None = None
    item_timeout: float = 0.0
    actors: int | None = None


class RayRunner:
    """A `Runner` on a Ray cluster. overwrite: targets that were there before the run began are made again.

    Results come as blocks are done, in no order; failures of every kind are an item's own. What became of each item is
    written into `negtrans-results` in the folder of the targets.
    """

    is_main = True

    def __init__(self, options: RayOptions, overwrite: bool = False) -> None:
        self.options, self.overwrite, self.began = options, overwrite, time.time()
        self._quiet = ExitStack()

    def __enter__(self) -> RayRunner:
        """Raises UserError where no cluster answers."""
        self._quiet.enter_context(redirect_stdout(sys.stderr))  # what Ray tells of its processes is no output of ours
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        settings["address"] = self.options.address or "local"
        if self.options.address is None:
            settings["include_dashboard"] = False  # of the Ray that is started
        probed = False
        try:
            probed = _probe(self.options.address)
            ray.init(**settings)
        except (ray.exceptions.RayError, RuntimeError, ValueError, OSError) as error:
            self._quiet.close()
            at, why = self.options.address or "on this machine", _line(error, 0)
            if probed:
                raise UserError(
                    f"Ray at {at} does not let this call in: set RAY_AUTH_MODE=token and copy the head's "
                    f"~/.ray/auth_token to this machine ({why})."
                ) from error
            raise UserError(f"Ray {at} does not answer: start it, or give --ray-address HOST:PORT ({why}).") from error
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        return self

    def __exit__(self, *_exc: object) -> None:
        ray.shutdown()
        self._quiet.close()

    def run(
        self, job: Job[ItemT, MadeT], items: Items[ItemT], on_step: OnStep | None = None
    ) -> Iterator[ItemDone[ItemT, MadeT]]:
        """See `Runner.run`; on_step gets nothing. Raises UserError where the job cannot start on a machine."""
        todo = still_to_make(items, self.overwrite or not job.writes)
        return those_there_first(items, todo, self._results(job, items, todo) if todo else ())

    def finish(self, counts: Mapping[str, int]) -> tuple[dict[str, int], list[int]]:
        """See `Runner.finish`."""
        return dict(counts), []

    def _results(
        self, job: Job[ItemT, MadeT], items: Items[ItemT], todo: list[int]
    ) -> Iterator[ItemDone[ItemT, MadeT]]:
        told = bytearray(len(items))
        table = ResultsTable(items.out / FOLDER) if job.writes else None
        try:
            for number, values, seconds, where in self._rows(job, items, todo):
                if number == NO_START:
                    raise UserError(values["error"])
                if told[number]:
                    continue  # a block that was given to two
                told[number] = True
                done = ItemDone(items[number], number, len(items), where=where, **values)
                if table is not None:
                    table.add(done, seconds)
                yield done
        finally:
            if table is not None:
                table.flush()

    def _rows(
        self, job: Job[Any, Any], items: Items[Any], todo: list[int]
    ) -> Iterator[tuple[int, dict[str, Any], float, str]]:
        """(number of the item, values of its ItemDone, seconds, where)."""
        actors, gpus = self._actors()
        block = self.options.block or max(1, min(LARGEST_BLOCK, math.ceil(len(todo) / (actors * BLOCKS_PER_ACTOR))))
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        make_journal = ray.remote(
            num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=here
        )(RemoteJournal)  # fmt: skip
        order = Order(
            pickle.dumps(job), items.without_names(), make_journal.remote(len(items)), self.overwrite,
            self.began, max(1, int(self.options.cpus)), self.options.item_timeout,
        )  # fmt: skip
        tables = [
            pa.table({"index": part, "name": [items.names[index] for index in part]})
            for part in (todo[start : start + block] for start in range(0, len(todo), block))
        ]
        compute = ray.data.ActorPoolStrategy(
            min_size=1, max_size=actors, initial_size=actors, max_tasks_in_flight_per_actor=2
        )
        results = ray.data.from_arrow(tables).map_batches(
            RayWorker, fn_constructor_args=(order,), batch_size=None, batch_format="pyarrow",
            zero_copy_batch=True, compute=compute, num_cpus=self.options.cpus, num_gpus=gpus,
        )  # fmt: skip
        try:
            for batch in results.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                for row in batch.to_pylist():
                    yield row["index"], pickle.loads(row["result"]), row["seconds"], row["where"]
        except ray.exceptions.RayError as error:
            why = _line(error, -1)
            raise UserError(f"Ray has ended the run ({why}): mend that, and start it again for the rest.") from error

    def _actors(self) -> tuple[int, float]:
        """How many actors there is room for, and the share of a GPU of each. Raises UserError for no room."""
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        there = {name: sum(machine.get(name, 0) for machine in machines) for name in ("CPU", "GPU")}
        cpus, gpus = self.options.cpus, self.options.gpus if self.options.gpus is not None else float(there["GPU"] >= 1)
        room = 0
        for machine in machines:  # an actor is on one machine
            here = machine.get("CPU", 0) / cpus
            room += int(min(here, machine.get("GPU", 0) / gpus) if gpus else here)
        if room < 1:
            raise UserError(
                f"No machine of the cluster has room for an actor of {cpus:g} cores and {gpus:g} GPUs; there are "
                f"{there['CPU']:g} cores and {there['GPU']:g} GPUs in all (--cpus-per-actor, --gpus-per-actor)."
            )
        return min(room, self.options.actors or room), gpus


def _probe(address: str | None) -> bool:
    """Whether it is HOST:PORT. Raises OSError where nothing listens there: Ray itself would try for minutes."""
    host, _, port = (address or "").rpartition(":")
    if port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=PROBE).close()
        return True
    return False


def _line(error: Exception, number: int) -> str:
    """One of the lines that an error says, which are many."""
    return ([line for line in str(error).splitlines() if line.strip()] or [type(error).__name__])[number].strip()
