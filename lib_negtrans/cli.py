"""The command line: `python -m lib_negtrans COMMAND`. Exit codes: 0 done, 1 some inputs failed, 2 a wrong call or file.

Each command is a function from parsed arguments to an exit code; what it says goes through a `Reporter`, which prints
lines for people or, with --json, one JSON object per event on standard output.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from . import __version__
from .options import ParamError

EXIT_DONE, EXIT_SOME_FAILED, EXIT_WRONG_CALL = 0, 1, 2
EXIT_INTERRUPTED = 130  # as shells report SIGINT


class CallError(Exception):
    """The call or one of its files is wrong; the message is one sentence that says what to do."""


class Reporter:
    """Says what happens: lines and a progress bar on a terminal, or JSON events."""

    def __init__(self, as_json: bool, quiet: bool) -> None:
        self.as_json, self.quiet = as_json, quiet

    def event(self, kind: str, line: str | None = None, **fields: Any) -> None:
        """One event: `line` for people (unless --quiet), fields for --json."""
        if self.as_json:
            print(json.dumps({"event": kind, **fields}, ensure_ascii=False, default=str), flush=True)
        elif line is not None and not self.quiet:
            tqdm.write(line)

    def problem(self, line: str, **fields: Any) -> None:
        """A failure that does not end the run: always on standard error, and an event with --json."""
        if self.as_json:
            self.event("error", message=line, **fields)
        tqdm.write(line, file=sys.stderr)

    def silent(self) -> Reporter:
        """One that says nothing but what went wrong, for processes that work beside the main one."""
        return Reporter(as_json=False, quiet=True)

    def bar(self, **options: Any) -> tqdm:
        """A progress bar on standard error, off with --quiet or --json or without a terminal."""
        disable = self.quiet or self.as_json or not sys.stderr.isatty()
        return tqdm(disable=disable, dynamic_ncols=True, file=sys.stderr, **options)


def load_host(args: argparse.Namespace):
    """The model of --model, --device, --dtype. Raises CallError."""
    import torch

    from .core.features import FeatureBudget
    from .hosts.protocol import HostError
    from .hosts.standalone import default_model_path, load_model

    try:
        host = load_model(
            args.model or default_model_path(), device=args.device, dtype=args.dtype and getattr(torch, args.dtype)
        )
    except HostError as error:
        raise CallError(str(error)) from error
    megabytes = getattr(args, "feature_memory", None)
    if megabytes is not None:
        if megabytes < 0:
            raise CallError(f"--feature-memory {megabytes:g} must be 0 or more MB.")
        host.feature_budget = FeatureBudget.of(megabytes, host.device)
    return host


def parse_negative(text: str) -> tuple[Path, float]:
    """`FILE[:WEIGHT]` -> path and weight; a Windows drive's colon is no separator. Raises CallError."""
    head, separator, tail = text.rpartition(":")
    if separator and head and not Path(text).exists():
        try:
            return Path(head), float(tail)
        except ValueError:
            pass  # the colon belongs to the path
    return Path(text), 1.0


def load_negatives(texts: list[str], width: int) -> list:
    """The embeddings of --negative. Raises CallError for a file that is none, or of another width than the model's."""
    from .embeddings import EmbeddingError, read_embedding
    from .folder import Negative

    negatives = []
    for text in texts:
        path, weight = parse_negative(text)
        try:
            embedding = read_embedding(path)
        except (EmbeddingError, OSError) as error:
            raise CallError(str(error)) from error
        if embedding.vectors.shape[1] != width:
            raise CallError(
                f"{path} has vectors of width {embedding.vectors.shape[1]}, the model needs {width}: "
                "it was trained for another kind of model."
            )
        negatives.append(Negative(embedding.name, embedding.vectors, weight))
    return negatives


def add_params(parser: argparse.ArgumentParser, params: type, skip: tuple[str, ...] = ()) -> None:
    """An option for every field of a parameter model; None means "not given", so that presets can fill it."""
    for field in dataclasses.fields(params):
        if field.name in skip or "option" not in field.metadata:
            continue
        opt = field.metadata["option"]
        flag = "--" + field.name.replace("_", "-")
        text = f"{opt.help} (default: {field.default!r})".replace("%", "%%")
        if isinstance(field.default, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
        else:
            metavar = None if opt.choices else type(field.default).__name__.upper()
            parser.add_argument(
                flag, type=type(field.default), default=None, choices=opt.choices, metavar=metavar, help=text
            )


def given(args: argparse.Namespace, params: type) -> dict[str, Any]:
    """The parameters that the call names."""
    values = {field.name: getattr(args, field.name, None) for field in dataclasses.fields(params)}
    return {name: value for name, value in values.items() if value is not None}


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    from . import app, demo, embedding_command, translation_command
    from .evaluation import command as evaluation_command
    from .preparation import command as preparation_command
    from .training import command as training_command
    from .training import compare_command

    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--model", help="an SD1 .safetensors/.ckpt or diffusers folder (default: the demonstration model)"
    )
    common.add_argument("--device", help="cpu, cuda, cuda:1, mps, .. (default: what there is)")
    common.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="default: float16 on cuda")
    common.add_argument(
        "--feature-memory", type=float, metavar="MB",
        help="for a picture's captured attention; what does not fit is computed again (default: half of what is free)",
    )  # fmt: skip
    common.add_argument("--quiet", action="store_true", help="say only what went wrong")
    common.add_argument("--json", action="store_true", help="one JSON object per event on standard output")

    parser = argparse.ArgumentParser(
        prog="python -m lib_negtrans", description="Rendered-to-real fashion translation with negative embeddings."
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demonstration = commands.add_parser("demo", parents=[common], help="the whole job on the bundled renders")
    demo.add_arguments(demonstration)
    demonstration.set_defaults(run=demo.run)

    page = commands.add_parser("app", parents=[common], help="both jobs on a local web page")
    app.add_arguments(page)
    page.set_defaults(run=app.run)

    translate = commands.add_parser("translate", parents=[common], help="turn renders into photographs")
    translation_command.add_arguments(translate)
    translate.set_defaults(run=translation_command.run)

    train = commands.add_parser(
        "train-negative", parents=[common], help="learn what makes a folder of renders look rendered"
    )
    training_command.add_arguments(train)
    train.set_defaults(run=training_command.run)

    preparation = commands.add_parser(
        "prepare", parents=[common], help="from any tree of pictures to a training folder"
    )
    preparation_command.add_arguments(preparation)
    preparation.set_defaults(run=preparation_command.run)

    evaluate = commands.add_parser("evaluate", parents=[common], help="measure translations against photographs")
    evaluation_command.add_arguments(evaluate)
    evaluate.set_defaults(run=evaluation_command.run)

    inspect = commands.add_parser("inspect", parents=[common], help="say what an embedding or checkpoint file is")
    embedding_command.add_inspect_arguments(inspect)
    inspect.set_defaults(run=embedding_command.run_inspect)

    combine = commands.add_parser("combine", parents=[common], help="merge, average or scale embeddings")
    embedding_command.add_combine_arguments(combine)
    combine.set_defaults(run=embedding_command.run_combine)

    compare = commands.add_parser("compare", parents=[common], help="checkpoints side by side on one render")
    compare_command.add_arguments(compare)
    compare.set_defaults(run=compare_command.run)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command and give its exit code; known errors are one line on standard error, never a traceback."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is ever fetched
    args = build_parser().parse_args(argv)
    report = Reporter(args.json, args.quiet)
    try:
        return args.run(args, report)
    except (CallError, ParamError) as error:
        report.problem(f"error: {error}")
        return EXIT_WRONG_CALL
    except KeyboardInterrupt:
        report.problem("interrupted; run the same command again to go on.")
        return EXIT_INTERRUPTED
