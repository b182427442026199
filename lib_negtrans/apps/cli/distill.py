"""`python -m lib_negtrans distill`: a student learns from renders and what `translate` made of them."""

from __future__ import annotations

import argparse
from pathlib import Path

from lib_negtrans.models.protocol import ModelHost
from lib_negtrans.student.files import KIND, SUFFIX
from lib_negtrans.training.data.dataset import automatic_size, training_files
from lib_negtrans.training.parallel import Workers
from lib_negtrans.training.student_params import StudentParams

from .common_options import add_params
from .reporting import CallError, Reporter
from .train import add_resuming, requested, train, with_workers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pairs-from", metavar="DIR", help="the translations to learn from: what translate wrote")
    parser.add_argument(
        "--renders",
        metavar="DIR",
        help="what they were made from (default: the folder that --pairs-from lies in)",
    )
    parser.add_argument(
        "--out", required=True, metavar="NAME", help=f"the student's file; without an ending it becomes NAME{SUFFIX}"
    )
    add_resuming(parser, "the file", "NAME.run beside NAME")
    add_params(parser, StudentParams)
    parser.set_defaults(kind=KIND)


def run(args: argparse.Namespace, report: Reporter) -> int:
    """Train; exit codes as of `train-negative`. Raises CallError for a wrong call."""
    out = Path(args.out)
    if out.suffix not in ("", SUFFIX):
        raise CallError(f"--out {out} must end in {SUFFIX}, or have no ending.")
    if not args.resume and not args.pairs_from:
        raise CallError("--pairs-from DIR is needed: the translations to learn from, which translate wrote.")
    # as the other trainings call them
    args.name, args.out, args.preview, args.images, args.photos = out.stem, out.parent, None, args.renders, None
    if args.pairs_from:
        pairs = Path(args.pairs_from)
        args.photos, args.images = args.pairs_from, args.renders or str(pairs.absolute().parent)
        if args.size is None and not args.resume:
            args.size = automatic_size(training_files(pairs)) if pairs.is_dir() else None
    args.renders = None  # of a positive training: not what is learnt from
    return with_workers(args, report, _run)


def _run(args: argparse.Namespace, report: Reporter, host: ModelHost, workers: Workers) -> int:
    request, folder = requested(args, report)
    return train(request, host, folder, Path(args.out) / f"{request.name}{SUFFIX}", report, workers=workers)
