"""Where the work on many files is done: the options of every command that works through a folder."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from lib_negtrans.files import place
from lib_negtrans.lora.merge import Loras
from lib_negtrans.models.standalone import ModelChoice, file_hash, model_file
from lib_negtrans.runners.launched import runner_here
from lib_negtrans.runners.runner import Runner

from .reporting import CallError


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
        "--actors",
        type=int,
        metavar="N",
        help="how many actors at most; each is a process that loads the model once (default: all there is room for)",
    )
    group.add_argument(
        "--gpus-per-actor",
        type=float,
        metavar="N",
        help="graphics cards of an actor; 0.5 puts two actors on one card (default: 1 if the cluster has any)",
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
    _check(args)
    if args.engine == "local":
        return runner_here(out, overwrite)
    try:
        from lib_negtrans.runners.ray_cluster import RayOptions, RayRunner  # an extra, which takes a second to import
    except ImportError as error:
        raise CallError(
            f"--engine ray needs Ray: install this project with `pip install '.[ray]'` into an environment of its own "
            f"({error})."
        ) from error
    options = RayOptions(
        args.ray_address, args.gpus_per_actor, args.cpus_per_actor, args.block, args.item_timeout, args.actors
    )
    return RayRunner(options, overwrite)


def shared_place(args: argparse.Namespace, path: Path) -> Path:
    """A path as other machines know it: absolute where the work is done there; a URL stays as it is."""
    return path if args.engine == "local" else path.absolute()


def _check(args: argparse.Namespace) -> None:
    counts = {"--actors": args.actors, "--block": args.block, "--cpus-per-actor": args.cpus_per_actor}
    for option, value in counts.items():
        if value is not None and value <= 0:
            raise CallError(f"{option} {value:g} must be more than 0.")
    if args.gpus_per_actor is not None and args.gpus_per_actor < 0:
        raise CallError(f"--gpus-per-actor {args.gpus_per_actor:g} must be 0 or more.")
    if args.item_timeout < 0:
        raise CallError(f"--item-timeout {args.item_timeout:g} must be 0 or more seconds.")
    if args.engine == "local" and args.ray_address is not None:
        raise CallError("--ray-address is for --engine ray: give both, or neither.")


def for_engine(args: argparse.Namespace, choice: ModelChoice) -> ModelChoice:
    """A model as other machines load it: checkpoint and LoRAs must be the same files there.

    Raises HostError, LoraError.
    """
    if args.engine == "local":
        return choice
    adapt = choice.adapt.pinned() if isinstance(choice.adapt, Loras) else choice.adapt
    path = place(choice.path).expanduser().absolute()
    return replace(choice, path=path, sha256=file_hash(model_file(path)), adapt=adapt)
