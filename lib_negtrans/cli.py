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
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from . import __version__
from .params import TRANSLATION_PRESETS, ParamError, TranslationParams, translation_preset

if TYPE_CHECKING:
    from .hosts.protocol import ModelHost
    from .pipeline import Forwards

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

    def bar(self, **options: Any) -> tqdm:
        """A progress bar on standard error, off with --quiet or --json or without a terminal."""
        disable = self.quiet or self.as_json or not sys.stderr.isatty()
        return tqdm(disable=disable, dynamic_ncols=True, file=sys.stderr, **options)


def load_host(args: argparse.Namespace):
    """The model of --model, --device, --dtype. Raises CallError."""
    import torch

    from .hosts.protocol import HostError
    from .hosts.standalone import default_model_path, load_model

    try:
        return load_model(
            args.model or default_model_path(), device=args.device, dtype=args.dtype and getattr(torch, args.dtype)
        )
    except HostError as error:
        raise CallError(str(error)) from error


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


def describe_cost(host: ModelHost, params: TranslationParams, forwards: Forwards) -> str:
    """The UNet calls of one picture, and how many whole forwards they are worth by FLOPs at 512x512."""
    from .core.attention import AttentionControl
    from .core.cost import call_costs
    from .variants import tac_plan_of

    latent_size = (64, 64)
    control = AttentionControl(tac_plan_of(params, host.unet, latent_size).layers)
    costs = call_costs(host.unet, control, latent_size, (77, host.embedding_width))
    return f"{forwards}: the work of {forwards.whole(costs):.1f} whole ones at 512x512"


def command_translate(args: argparse.Namespace, report: Reporter) -> int:
    """Translate a file or a folder tree."""
    from .folder import plan, translate_items, with_negatives
    from .images import parse_size

    params = translation_preset(args.preset, **given(args, TranslationParams))
    size = parse_size(args.size) if args.size else None
    out = Path(args.out)
    if out.exists() and not out.is_dir():
        raise CallError(f"--out {out} is a file: name a folder.")
    items = plan(Path(args.input), out)
    host = load_host(args)
    params, embeddings = with_negatives(params, load_negatives(args.negative or [], host.embedding_width))
    if params.prompt == params.negative_prompt:
        report.event(
            "warning",
            "note: without --negative or --negative-prompt the picture is only reconstructed.",
            message="no negative: the pictures are only reconstructed",
        )
    began = time.perf_counter()
    done = failed = skipped = 0
    with report.bar(total=len(items), unit="picture") as bar:

        def on_progress(progress) -> None:
            bar.set_postfix_str(f"{progress.phase} {progress.index + 1}/{progress.total}")

        results = translate_items(
            host, items, params, embeddings, size=size, overwrite=args.overwrite, on_progress=on_progress
        )
        for result in results:
            bar.update()
            fields = {"source": str(result.item.source), "index": result.index, "total": result.total}
            if result.error is not None:
                failed += 1
                report.problem(f"failed: {result.item.source}: {result.error}", **fields)
            elif result.skipped:
                skipped += 1
                report.event("skipped", None, **fields)
            else:
                done += 1
                line = f"{result.item.target}  {result.seconds:.1f} s"
                if done == 1 and not (args.quiet or args.json):
                    line += f", {describe_cost(host, params, result.forwards)}"
                report.event(
                    "translated", line, target=str(result.item.target), seconds=result.seconds,
                    forwards=result.forwards.total, **fields,
                )  # fmt: skip
    seconds = time.perf_counter() - began
    summary = f"{done} translated, {skipped} there already, {failed} failed in {seconds:.1f} s; in {out}"
    report.event("done", summary, translated=done, skipped=skipped, failed=failed, seconds=seconds)
    return EXIT_SOME_FAILED if failed else EXIT_DONE


def command_inspect(args: argparse.Namespace, report: Reporter) -> int:
    """Say what a file is; with --model also the tokens nearest to each vector."""
    from .embeddings import EmbeddingError
    from .hosts.protocol import HostError
    from .inspection import describe_file

    host = load_host(args) if args.model else None
    try:
        facts = describe_file(Path(args.file), host)
    except (EmbeddingError, HostError, OSError) as error:
        raise CallError(str(error)) from error
    report.event("inspect", "\n".join(f"{key}: {value}" for key, value in facts.items()), **facts)
    return EXIT_DONE


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    from . import app, demo
    from .evaluation import command as evaluation_command
    from .preparation import command as preparation_command
    from .training import command as training_command

    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--model", help="an SD1 .safetensors/.ckpt or diffusers folder (default: the demonstration model)"
    )
    common.add_argument("--device", help="cpu, cuda, cuda:1, mps, .. (default: what there is)")
    common.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="default: float16 on cuda")
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
    translate.add_argument("--input", required=True, help="a picture or a folder tree")
    translate.add_argument("--out", required=True, help="folder for the PNGs; an input tree is mirrored")
    translate.add_argument(
        "--negative", action="append", metavar="FILE[:WEIGHT]", help="a negative embedding; may be repeated"
    )
    presets = "; ".join(f"{name}: {text}" for name, (text, _values) in TRANSLATION_PRESETS.items())
    translate.add_argument("--preset", default="default", choices=tuple(TRANSLATION_PRESETS), help=presets)
    translate.add_argument("--size", metavar="WxH", help="fit into this size, aspect kept (default: the picture's own)")
    translate.add_argument("--overwrite", action="store_true", help="translate again what is there already")
    add_params(translate, TranslationParams)
    translate.set_defaults(run=command_translate)

    train = commands.add_parser(
        "train-negative", parents=[common], help="learn what makes a folder of renders look rendered"
    )
    training_command.add_arguments(train)
    train.set_defaults(run=training_command.run)

    preparation = commands.add_parser("prepare", parents=[common], help="from any tree of pictures to a training folder")
    preparation_command.add_arguments(preparation)
    preparation.set_defaults(run=preparation_command.run)

    evaluate = commands.add_parser("evaluate", parents=[common], help="measure translations against photographs")
    evaluation_command.add_arguments(evaluate)
    evaluate.set_defaults(run=evaluation_command.run)

    inspect = commands.add_parser("inspect", parents=[common], help="say what an embedding or checkpoint file is")
    inspect.add_argument("file")
    inspect.set_defaults(run=command_inspect)
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
