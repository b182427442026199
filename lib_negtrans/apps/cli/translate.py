"""`python -m lib_negtrans translate`: a file or a folder tree, alone or together with other processes."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lib_negtrans.files import place
from lib_negtrans.pictures.images import parse_size
from lib_negtrans.pictures.masks import SOURCES
from lib_negtrans.student.files import StudentChoice
from lib_negtrans.translation.folder import plan
from lib_negtrans.translation.item import Made, TranslationJob
from lib_negtrans.translation.negatives import with_negatives
from lib_negtrans.translation.params import TRANSLATION_PRESETS, TranslationParams, translation_preset
from lib_negtrans.translation.pipeline import Progress
from lib_negtrans.translation.student import DEFAULTS as STUDENT_DEFAULTS
from lib_negtrans.translation.student import OPTIONS as STUDENT_OPTIONS
from lib_negtrans.translation.student import StudentJob, student_params

from .common_options import add_concept, add_negative, add_params, given, load_negatives, model_choice, output_folder
from .engine import add_engine, for_engine, runner_of, shared_place
from .reporting import CallError, Reporter
from .telling import Telling

PRESET = "default"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--input", required=True, help="a picture, or a folder with sub-folders; or a URL such as s3://bucket/renders"
    )
    parser.add_argument(
        "--out", required=True, help="folder or URL for the PNGs; it gets the same sub-folders as the input"
    )
    add_negative(parser)
    presets = "; ".join(f"{name}: {text}" for name, (text, _values) in TRANSLATION_PRESETS.items())
    parser.add_argument("--preset", choices=tuple(TRANSLATION_PRESETS), help=f"{presets} (default: {PRESET})")
    parser.add_argument(
        "--student", metavar="FILE",
        help="translate in one call of the model with a student of it, which distill has trained; of the options below "
        f"only {_flags(STUDENT_OPTIONS)} are then used (default colour: {STUDENT_DEFAULTS['colour']})",
    )  # fmt: skip
    parser.add_argument(
        "--size", metavar="WxH", help="fit the picture into this size and keep its shape (default: its own size)"
    )
    parser.add_argument("--overwrite", action="store_true", help="translate again the pictures that are done already")
    sources = ", ".join(source for source in SOURCES if source != "file")
    parser.add_argument(
        "--mask", metavar="SOURCE|FILE|DIR",
        help=f"{TranslationParams.options()['mask'].help} Give one of {sources}, or a painted mask (white is "
        "translated), or a folder of such masks with the same names as the input (default: none)",
    )  # fmt: skip
    add_engine(parser)
    add_concept(parser)
    add_params(parser, TranslationParams, skip=("mask", "concepts"))


def run(args: argparse.Namespace, report: Reporter) -> int:
    """Translate; 0 done, 1 some pictures failed. Raises UserError for a wrong call."""
    masks = _masks(args)
    student = _student(args) if args.student else None
    options = given(args, TranslationParams)
    params = student_params(**options) if student else translation_preset(args.preset or PRESET, **options)
    size = parse_size(args.size) if args.size else None
    out = shared_place(args, output_folder("--out", args.out))
    runner = runner_of(args, out, args.overwrite)
    items = plan(shared_place(args, place(args.input)), out, masks)
    params, embeddings = with_negatives(params, load_negatives(args))
    model = for_engine(args, model_choice(args))
    job = StudentJob(model, student, params, size) if student else TranslationJob(model, params, embeddings, size)
    with runner:
        results = runner.run(job, items, lambda step: telling.progress(step))
        asked = params.steering
        nothing_asked = asked.prompt == asked.negative_prompt and not asked.concepts
        if not student and nothing_asked and runner.is_main:
            report.event(
                "warning", "note: without --negative or --negative-prompt, the result is the same picture again.",
                message="no negative: the pictures are only reconstructed",
            )  # fmt: skip
        telling = _Telling(report)
        return telling.tell(runner, results, len(items), out)


def _flags(options: Iterable[str]) -> str:
    return ", ".join(f"--{name.replace('_', '-')}" for name in options)


def _student(args: argparse.Namespace) -> StudentChoice:
    """The student that --student names. Raises CallError for options that it does not have, StudentError."""
    named = {"negative": args.negative, "preset": args.preset, "feature_memory": args.feature_memory}
    used = [name for name, value in (named | given(args, TranslationParams)).items() if value not in (None, [])]
    if foreign := [name for name in used if name not in STUDENT_OPTIONS]:
        raise CallError(
            f"{_flags(foreign[:1])} has no meaning with --student, which does what its pairs have taught it: leave it "
            "out."
        )
    choice = StudentChoice(shared_place(args, place(args.student)))
    return choice.pinned() if args.engine != "local" else choice


def _masks(args: argparse.Namespace) -> Path | None:
    """The painted masks that --mask names; it is left as the parameter's value."""
    if args.mask is None or (args.mask in SOURCES and args.mask != "file"):
        return None
    path, args.mask = shared_place(args, place(args.mask)), "file"
    return path


class _Telling(Telling):
    """What is said of each picture."""

    word, smoothing = "translated", 0  # the rate over the whole run: pictures differ in size

    def __init__(self, report: Reporter) -> None:
        super().__init__(report)
        self._began = time.perf_counter()

    def progress(self, progress: Progress) -> None:
        self.bar.set_postfix_str(f"{progress.phase} {progress.index + 1}/{progress.total}")

    def made(self, made: Made, fields: dict[str, Any]) -> None:
        line = f"{made.path}  {made.seconds:.1f} s"
        if self.counts["translated"] == 1:
            line += f", {made.forwards}"
        if made.note:
            line += f"; {made.note}"
            fields["note"] = made.note
        self.report.event(
            "translated", line, target=str(made.path), seconds=made.seconds, forwards=made.forwards.total,
            remaining_seconds=self._remaining(fields["total"]), **fields,
        )  # fmt: skip

    def _remaining(self, total: int) -> float:
        done = max(1, self.seen - self.old)
        return round((time.perf_counter() - self._began) / done * (total - self.seen), 1)
