"""Where the work on many files is done: the options of every command that works through a folder."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lib_negtrans.files import is_remote
from lib_negtrans.lora.merge import Loras
from lib_negtrans.models.standalone import ModelChoice, file_hash, model_file
from lib_negtrans.runners.launched import runner_here
from lib_negtrans.runners.runner import ItemDone, Runner

from .reporting import EXIT_DONE, EXIT_SOME_FAILED, CallError, Reporter

if TYPE_CHECKING:
    from lib_negtrans.runners.ray_cluster import RayOptions


def add_engine(parser: argparse.ArgumentParser) -> None:
    """The options; see `runner_of`."""
    group = parser.add_argument_group("where the work is done")
    group.add_argument(
        "--engine", choices=("local", "ray"), default="local",
        help="local: in this process, and in others that work on the same folder; ray: on the machines of a Ray "
        "cluster (default: local)",
    )  # fmt: skip
    group.add_argument(
        "--ray-address", metavar="ADDRESS",
        help="a Ray cluster that runs, such as HOST:6379, or auto (default: Ray is started on this machine)",
    )  # fmt: skip
    group.add_argument(
        "--actors", type=int, metavar="N", help="how many actors at most (default: all there is room for)"
    )
    group.add_argument(
        "--gpus-per-actor", type=float, metavar="N", help="a part of one, too (default: 1 where the cluster has GPUs)"
    )
    group.add_argument(
        "--cpus-per-actor", type=float, default=1.0, metavar="N", help="cores, and threads, of an actor (default: 1)"
    )
    group.add_argument(
        "--block", type=int, metavar="N",
        help="pictures that an actor takes at a time: one or two minutes of work are good (default: 32 or less)",
    )  # fmt: skip
    group.add_argument(
        "--item-timeout", type=float, default=0.0, metavar="SECONDS",
        help="with --engine ray, leave a picture out that takes longer (default: 0, never)",
    )  # fmt: skip


def runner_of(args: argparse.Namespace, out: Path, overwrite: bool = False) -> Runner:
    """The runner that the options name, for targets in `out`. Raises CallError, UserError."""
    ray = _ray_options(args)
    if ray is None:
        return runner_here(out, overwrite)
    from lib_negtrans.runners.ray_cluster import RayRunner  # an extra, which takes a second to import

    return RayRunner(ray, overwrite)


def shared_place(args: argparse.Namespace, path: Path) -> Path:
    """A path as other machines know it: absolute where the work is done there."""
    return path if args.engine == "local" or is_remote(path) else path.absolute()


def _ray_options(args: argparse.Namespace) -> RayOptions | None:
    values = {
        "--actors": args.actors, "--gpus-per-actor": args.gpus_per_actor, "--block": args.block,
        "--cpus-per-actor": args.cpus_per_actor,
    }  # fmt: skip
    for option, value in values.items():
        if value is not None and (value < 0 if option == "--gpus-per-actor" else value <= 0):
            raise CallError(f"{option} {value:g} must be more than 0.")
    if args.item_timeout < 0:
        raise CallError(f"--item-timeout {args.item_timeout:g} must be 0 or more seconds.")
    if args.engine == "local":
        if args.ray_address is not None:
            raise CallError("--ray-address is for --engine ray: give both, or neither.")
        return None
    try:
        from lib_negtrans.runners.ray_cluster import RayOptions
    except ImportError as error:
        raise CallError(
            f"--engine ray needs Ray: install this project with `pip install '.[ray]'` into an environment of its own "
            f"({error})."
        ) from error
    return RayOptions(
        args.ray_address, args.gpus_per_actor, args.cpus_per_actor, args.block, args.item_timeout, args.actors
    )


def for_engine(args: argparse.Namespace, choice: ModelChoice) -> ModelChoice:
    """A model as other machines load it: checkpoint and LoRAs must be the same files there.

    Raises HostError, LoraError.
    """
    if args.engine == "local":
        return choice
    adapt = choice.adapt.pinned() if isinstance(choice.adapt, Loras) else choice.adapt
    path = choice.path if "://" in str(choice.path) else Path(choice.path).expanduser().absolute()
    return replace(choice, path=path, sha256=file_hash(model_file(path)), adapt=adapt)


class Rate:
    """The speed of actors, for the progress bar: how many there are, and the pictures of each in a minute."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock, self._began, self._done = clock, clock(), 0
        self._actors: dict[str, float] = {}

    def add(self, done: ItemDone) -> str:
        """A result; what is to be said, "" without actors."""
        if not done.where:
            return ""
        self._done += 1
        self._actors[done.where] = self._clock()
        per_minute = 60 * self._done / max(1e-9, self._clock() - self._began) / len(self._actors)
        return f"{len(self._actors)} actors, {per_minute:.3g} a minute each"


def summary(
    report: Reporter, made: str, total: dict[str, int], lost: list[int], items: int, seconds: float, out: Path
) -> int:
    """The last line of a run, and its exit code. made: what was done with the items, the name of its count."""
    for rank in lost:
        report.problem(f"process {rank} ended too early; run the same command again to do what it has left.")
    done, failed = total[made], total["failed"]
    skipped = max(0, items - done - failed)
    line = f"{done} {made}, {skipped} done already, {failed} failed, in {seconds:.1f} s; see {out}"
    report.event("done", line, **{made: done}, skipped=skipped, failed=failed, seconds=seconds)
    return EXIT_SOME_FAILED if failed or lost else EXIT_DONE
