"""`python -m lib_negtrans prepare SRC DST`."""

from __future__ import annotations

import argparse
import contextlib

from lib_negtrans.preparation.build import PrepareProgress, prepare
from lib_negtrans.preparation.params import PrepareParams
from lib_negtrans.steps import finish

from .common_options import add_params, given
from .reporting import EXIT_DONE, EXIT_SOME_FAILED, Reporter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", metavar="SRC", help="folder with pictures, and its sub-folders; nothing in it is changed"
    )
    parser.add_argument("target", metavar="DST", help="new folder for the result")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier result in DST")
    add_params(parser, PrepareParams)


def run(args: argparse.Namespace, report: Reporter) -> int:
    """Prepare; 0 all could be used, 1 some pictures cannot be read. Raises CallError."""
    params = PrepareParams.from_dict(given(args, PrepareParams))
    job = prepare(args.source, args.target, params, args.overwrite)
    with report.bar(unit="picture") as bar, contextlib.closing(job):

        def on_step(progress: PrepareProgress) -> None:
            if bar.total != progress.total or progress.done < bar.n:
                bar.reset(total=progress.total)
            bar.set_description_str(progress.phase, refresh=False)
            bar.update(progress.done - bar.n)
            report.event(
                "progress", str(progress) if bar.disable and progress.done == progress.total else None,
                phase=progress.phase, done=progress.done, total=progress.total,
            )  # fmt: skip

        result = finish(job, on_step)
    report.event("prepared", "\n".join(result.lines()), **result.to_dict())
    return EXIT_SOME_FAILED if result.unreadable else EXIT_DONE
