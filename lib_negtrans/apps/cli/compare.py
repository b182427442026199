"""`python -m lib_negtrans compare`: checkpoints of a run, or embeddings, side by side on one render; and a choice."""

from __future__ import annotations

import argparse
from pathlib import Path

from lib_negtrans.embeddings.files import read_embedding
from lib_negtrans.pictures.images import ImageError, save_png
from lib_negtrans.training.errors import TrainingError
from lib_negtrans.training.judging.comparison import GRID_FILE, Candidate, candidates, chosen, compare, grid, pick
from lib_negtrans.translation.params import TranslationParams

from .common_options import add_params, given, load_host
from .reporting import EXIT_DONE, CallError, Reporter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", nargs="+", metavar="RUN|FILE", help="a run folder, or embedding files")
    parser.add_argument("--image", metavar="FILE", help="the render to translate with each of them")
    parser.add_argument(
        "--only", nargs="+", metavar="STEP", default=[],
        help="only these steps of the run; best is the best validation's",
    )  # fmt: skip
    parser.add_argument("--size", type=int, default=512, help="short side of the pictures (default: 512)")
    parser.add_argument("--grid", metavar="FILE", help=f"the picture to write (default: {GRID_FILE} in the run folder)")
    parser.add_argument(
        "--pick", metavar="STEP", help="write the vectors of this step (or best) as an embedding; no pictures are made"
    )
    parser.add_argument("--out", metavar="FILE", help="the embedding that --pick writes: NAME.pt or NAME.safetensors")
    parser.add_argument("--overwrite", action="store_true", help="replace an embedding of this name")
    add_params(parser, TranslationParams, skip=("negative_prompt",))


def run(args: argparse.Namespace, report: Reporter) -> int:
    """Write the grid, or the chosen embedding. Raises CallError."""
    try:
        return _pick(args, report) if args.pick else _compare(args, report)
    except ImageError as error:
        raise CallError(f"--image {args.image}: {error}") from error


def _found(args: argparse.Namespace) -> list[Candidate]:
    paths = [Path(text) for text in args.what]
    if len(paths) == 1 and paths[0].is_dir():
        return candidates(paths[0])
    if folder := next((path for path in paths if path.is_dir()), None):
        raise TrainingError(f"{folder} is a folder: compare one run, or embedding files.")
    return [Candidate(str(path), path.name, read_embedding(path)) for path in paths]


def _pick(args: argparse.Namespace, report: Reporter) -> int:
    if not args.out:
        raise CallError("--pick needs --out NAME.pt: the file's name is the trigger word.")
    (candidate,) = chosen(_found(args), [args.pick])
    for complaint in pick(candidate, Path(args.out), args.overwrite):
        report.problem(complaint)
    line = f"{args.out} holds the vectors of {candidate.label}."
    report.event("written", line, path=args.out, step=candidate.embedding.step)
    return EXIT_DONE


def _compare(args: argparse.Namespace, report: Reporter) -> int:
    if not args.image:
        raise CallError("--image FILE is needed: the render to translate with each of them.")
    if args.size < 64 or args.size > 2048:
        raise CallError(f"--size must lie between 64 and 2048, not {args.size}.")
    found = chosen(_found(args), args.only)
    first = Path(args.what[0])
    target = Path(args.grid) if args.grid else (first if first.is_dir() else first.parent) / GRID_FILE
    params = TranslationParams.from_dict(given(args, TranslationParams))
    host = load_host(args)
    pictures = []
    with report.bar(total=len(found) + 1, unit="picture") as bar:
        for label, picture in compare(host, found, Path(args.image), args.size, params):
            pictures.append((label, picture))
            bar.update()
            report.event("compared", None, label=label)
    save_png(target, grid(pictures, first.stem))
    report.event("written", f"{target}: {len(found)} side by side on {args.image}.", path=str(target))
    return EXIT_DONE
