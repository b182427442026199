"""`python -m lib_negtrans translate`: a file or a folder tree, alone or together with other processes."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from tqdm import tqdm

from lib_negtrans.pictures.images import parse_size
from lib_negtrans.runners.claims import Claims
from lib_negtrans.runners.launched import Launched, SharedCounts
from lib_negtrans.translation.folder import ItemDone, plan, translate_items
from lib_negtrans.translation.negatives import with_negatives
from lib_negtrans.translation.params import TRANSLATION_PRESETS, TranslationParams, translation_preset

from .common_options import add_params, given, load_host, load_negatives, output_folder
from .reporting import EXIT_DONE, EXIT_SOME_FAILED, Reporter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options and every translation parameter; the common ones are the caller's."""
    parser.add_argument("--input", required=True, help="a picture, or a folder with sub-folders")
    parser.add_argument("--out", required=True, help="folder for the PNGs; it gets the same sub-folders as the input")
    parser.add_argument(
        "--negative", action="append", metavar="FILE[:WEIGHT]", help="a negative embedding; may be repeated"
    )
    presets = "; ".join(f"{name}: {text}" for name, (text, _values) in TRANSLATION_PRESETS.items())
    parser.add_argument("--preset", default="default", choices=tuple(TRANSLATION_PRESETS), help=presets)
    parser.add_argument(
        "--size", metavar="WxH", help="fit the picture into this size and keep its shape (default: its own size)"
    )
    parser.add_argument("--overwrite", action="store_true", help="translate again the pictures that are done already")
    mask = TranslationParams.options()["mask"]
    sources = ", ".join(choice for choice in mask.choices if choice != "file")
    parser.add_argument(
        "--mask", metavar="SOURCE|FILE|DIR",
        help=f"{mask.help} Give one of {sources}, or a painted mask (white is translated), or a folder of such masks "
        "with the same names as the input (default: none)",
    )  # fmt: skip
    add_params(parser, TranslationParams, skip=("mask",))


def run(args: argparse.Namespace, report: Reporter) -> int:
    """Translate; 0 done, 1 some pictures failed. Raises CallError and ParamError for a wrong call."""
    launched = Launched.from_environment()
    masks = _masks(args)
    params = translation_preset(args.preset, **given(args, TranslationParams))
    size = parse_size(args.size) if args.size else None
    out = output_folder("--out", args.out)
    counts = SharedCounts(out, launched)
    items = plan(Path(args.input), out, masks)
    if launched.count > 1:
        launched.share_cores()
        args.device = args.device or launched.device()
    host = load_host(args)
    params, embeddings = with_negatives(params, load_negatives(args.negative or [], host.embedding_width))
    if params.prompt == params.negative_prompt and launched.is_main:
        report.event(
            "warning",
            "note: without --negative or --negative-prompt, the result is the same picture again.",
            message="no negative: the pictures are only reconstructed",
        )
    with ExitStack() as stack:
        claims = stack.enter_context(Claims())  # until all processes are done: failures are not tried twice
        bar = stack.enter_context(_bar(report, len(items), launched.is_main))
        telling = _Telling(report, bar)
        results = translate_items(
            host, items, params, embeddings, size=size, overwrite=args.overwrite, on_progress=telling.progress,
            claims=claims, began=counts.began(),
        )  # fmt: skip
        for result in results:
            telling.result(result)
        total, lost = counts.finish(dict(telling.counts))
    if not launched.is_main:
        return EXIT_DONE  # another code would make the launcher end the others
    return _summary(report, total, lost, len(items), time.time() - counts.began(), out)


def _masks(args: argparse.Namespace) -> Path | None:
    """The painted masks that --mask names; it is left as the parameter's value."""
    known = TranslationParams.options()["mask"].choices
    if args.mask is None or (args.mask in known and args.mask != "file"):
        return None
    path, args.mask = Path(args.mask), "file"
    return path


def _bar(report: Reporter, total: int, is_main: bool) -> tqdm:
    # the rate over the whole run: pictures differ in size
    options = {"total": total, "unit": "picture", "smoothing": 0}
    return report.bar(**options) if is_main else tqdm(disable=True, **options)


class _Telling:
    """What is said of each picture, and the counts."""

    def __init__(self, report: Reporter, bar: tqdm) -> None:
        self.report, self.bar = report, bar
        self.counts: Counter[str] = Counter(translated=0, failed=0)
        self._began = time.perf_counter()
        self._old = self._seen = 0  # outputs that were there before; all that was told

    def progress(self, progress) -> None:
        self.bar.set_postfix_str(f"{progress.phase} {progress.index + 1}/{progress.total}")

    def result(self, result: ItemDone) -> None:
        fields = {"source": str(result.item.source), "index": result.index, "total": result.total}
        if result.skipped and not result.elsewhere:
            # says nothing about how long the others will take
            self._old += 1
            if not self.bar.disable:
                self.bar.initial += 1
        self._seen += 1
        self.bar.update()
        if result.error is not None:
            self.counts["failed"] += 1
            self.report.problem(f"failed: {result.item.source}: {result.error}", **fields)
        elif result.skipped:
            self.report.event("skipped", None, **fields)
        else:
            self.counts["translated"] += 1
            line = f"{result.item.target}  {result.seconds:.1f} s"
            if self.counts["translated"] == 1 and not (self.report.quiet or self.report.as_json):
                line += f", {result.forwards}"
            if result.note:
                line += f"; {result.note}"
                fields["note"] = result.note
            self.report.event(
                "translated", line, target=str(result.item.target), seconds=result.seconds,
                forwards=result.forwards.total, remaining_seconds=self._remaining(result.total), **fields,
            )  # fmt: skip

    def _remaining(self, total: int) -> float:
        done = max(1, self._seen - self._old)
        return round((time.perf_counter() - self._began) / done * (total - self._seen), 1)


def _summary(report: Reporter, total: dict[str, int], lost: list[int], items: int, seconds: float, out: Path) -> int:
    for rank in lost:
        report.problem(f"process {rank} ended too early; run the same command again to do what it has left.")
    done, failed = total["translated"], total["failed"]
    skipped = max(0, items - done - failed)
    summary = f"{done} translated, {skipped} done already, {failed} failed, in {seconds:.1f} s; see {out}"
    report.event("done", summary, translated=done, skipped=skipped, failed=failed, seconds=seconds)
    return EXIT_SOME_FAILED if failed or lost else EXIT_DONE
