"""`python -m lib_negtrans caption FOLDER --captioner DIR`: alone or together with other processes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from lib_negtrans.files import place
from lib_negtrans.models.standalone import file_hash
from lib_negtrans.preparation.captioning import MAX_TOKENS, Captioned, CaptionJob, captions_of

from .engine import add_engine, runner_of, shared_place
from .reporting import CallError, Reporter
from .telling import Telling


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Write NAME.txt beside each picture; training reads it as the picture's words."
    parser.epilog = "--model and --lora change nothing here."
    parser.add_argument(
        "folder", metavar="FOLDER", help="a folder with pictures and sub-folders, or one picture; or a URL"
    )
    parser.add_argument(
        "--captioner", required=True, metavar="DIR",
        help="folder of an image-to-text model as transformers saves it: BLIP, BLIP-2, GIT, vision-encoder-decoder, ..",
    )  # fmt: skip
    parser.add_argument("--prompt", default="", metavar="TEXT", help="words that every caption begins with")
    parser.add_argument(
        "--max-tokens", type=int, default=MAX_TOKENS, metavar="N",
        help=f"longest caption, in the captioner's tokens (default: {MAX_TOKENS})",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace the .txt files that are there already")
    add_engine(parser)


def run(args: argparse.Namespace, report: Reporter) -> int:
    """Caption; 0 done, 1 some pictures failed. Raises UserError for a wrong call."""
    if args.max_tokens < 1:
        raise CallError(f"--max-tokens {args.max_tokens} must be 1 or more.")
    folder = shared_place(args, place(args.folder))
    items = captions_of(folder)  # before the runner, which would make a folder that is not there
    dtype = args.dtype and getattr(torch, args.dtype)
    captioner, prompt = Path(args.captioner).expanduser().absolute(), " ".join(args.prompt.split())
    elsewhere = file_hash(captioner) if args.engine != "local" and captioner.is_dir() else None
    job = CaptionJob(captioner, prompt, args.max_tokens, args.device, dtype, elsewhere)
    with runner_of(args, items.out, args.overwrite) as runner:
        results = runner.run(job, items)
        return _Telling(report).tell(runner, results, len(items), folder)


class _Telling(Telling):
    """What is said of each picture."""

    word = "captioned"

    def made(self, made: Captioned, fields: dict[str, Any]) -> None:
        self.report.event(
            "captioned", f"{made.path}  {made.text}", target=str(made.path), text=made.text, seconds=made.seconds,
            **fields,
        )  # fmt: skip
