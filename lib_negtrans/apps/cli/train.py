"""`python -m lib_negtrans train-negative`: the training job with a progress bar, files beside the embedding, Ctrl-C."""

from __future__ import annotations

import argparse
import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lib_negtrans.embeddings.card import write_card
from lib_negtrans.embeddings.files import EmbeddingError, read_embedding
from lib_negtrans.models.protocol import HostError, ModelHost
from lib_negtrans.pictures.images import ImageError, load_picture
from lib_negtrans.training import events
from lib_negtrans.training.data.dataset import automatic_size, training_files
from lib_negtrans.training.data.sets import Folders
from lib_negtrans.training.errors import TrainingError, sentence
from lib_negtrans.training.judging.preview import TranslationPreview
from lib_negtrans.training.negative import NegativeTraining
from lib_negtrans.training.parallel import Workers, joined, local_device
from lib_negtrans.training.params import TrainingParams

from .common_options import add_params, given, load_host
from .reporting import EXIT_DONE, EXIT_INTERRUPTED, EXIT_SOME_FAILED, CallError

if TYPE_CHECKING:
    from .reporting import Reporter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options and every training parameter; the common ones are the caller's."""
    parser.add_argument("--images", required=True, metavar="DIR", help="renders to learn from, sub-folders included")
    parser.add_argument(
        "--photos", metavar="DIR", help="real photos, used by validation and by --objective contrastive"
    )
    parser.add_argument("--validation", metavar="DIR", help="renders to validate on (default: some of --images)")
    parser.add_argument("--validation-photos", metavar="DIR", help="photos to validate on (default: some of --photos)")
    parser.add_argument("--name", required=True, help="the embedding's name and trigger word: a-z, 0-9, - and _")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for NAME.pt, NAME.preview.png, NAME.json")
    parser.add_argument(
        "--run-folder", metavar="DIR", help="folder for checkpoints and the loss CSV (default: OUT/NAME.run)"
    )
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint of the run folder")
    parser.add_argument("--overwrite", action="store_true", help="replace an embedding and a run of this name")
    parser.add_argument("--preview", metavar="FILE", help="the render that previews translate (default: the first one)")
    add_params(parser, TrainingParams)


@contextlib.contextmanager
def stop_on_signals(job: NegativeTraining, report: Reporter) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the job after the step under way; a second Ctrl-C interrupts at once."""

    def stop(number: int, _frame: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        report.event("stopping", "stopping after this step; press Ctrl-C again to stop at once ..", signal=number)
        job.request_stop()

    earlier = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def run(args: argparse.Namespace, report: Reporter) -> int:
    """Train; 0 done, 1 failed in mid-run (all kept), 130 stopped before the end. Raises CallError for a wrong call."""
    args.device = local_device(args.device)
    try:
        host = load_host(args)
        with joined(host.device) as workers:
            # the others do the same work and are silent: the main process speaks and writes for all
            return _run(args, report if workers.main else report.silent(), host, workers)
    except (TrainingError, EmbeddingError, HostError, ImageError) as error:
        raise CallError(str(error)) from error
    except OSError as error:
        raise CallError(sentence(error)) from error


def _run(args: argparse.Namespace, report: Reporter, host: ModelHost, workers: Workers) -> int:
    out, folders = Path(args.out), _folders(args)
    images = folders.renders
    values = given(args, TrainingParams)
    files = training_files(images, values.get("pattern", ""))
    if "size" not in values:
        values["size"] = automatic_size(files)
        report.event(
            "notice", f"Training at {values['size']} pixels, which suits the size of the pictures.", size=values["size"]
        )
    params = TrainingParams.from_dict(values)
    folder = Path(args.run_folder) if args.run_folder else out / f"{args.name}.run"
    render = Path(args.preview) if args.preview else next(iter(files), None)
    job = NegativeTraining(
        host, params, images=folders, name=args.name, run_folder=folder, out=out / f"{args.name}.pt",
        resume=args.resume, overwrite=args.overwrite, preview=_preview(args, report, host, render, params, folder),
        workers=workers,
    )  # fmt: skip
    last = preview = None
    started = False
    with stop_on_signals(job, report), report.bar(unit="step") as bar:
        try:
            for event in job.run():
                last, started = event, started or isinstance(event, events.Started)
                if isinstance(event, events.Preview):
                    preview = event.result
                show_event(event, report, bar)
        except TrainingError as error:
            if not started:
                raise
            report.problem(f"error: {error}")
            return EXIT_SOME_FAILED
    if not isinstance(last, events.Finished):
        return EXIT_INTERRUPTED
    if not workers.main:
        return EXIT_DONE
    for complaint in write_card(last.embedding, read_embedding(last.embedding), preview):
        report.problem(complaint)
    report.event("written", f"{out / args.name}.pt, .preview.png and .json are ready; use it with --negative.")
    return EXIT_DONE


def _folders(args: argparse.Namespace) -> Folders:
    """Where the pictures are. Raises CallError for what is no folder."""
    named = {"renders": args.images, "photos": args.photos, "validation": args.validation}
    named["validation_photos"] = args.validation_photos
    for kind, folder in named.items():
        if folder is not None and not Path(folder).is_dir():
            option = "images" if kind == "renders" else kind.replace("_", "-")
            raise CallError(f"--{option} {folder} is not a folder.")
    return Folders(**{kind: Path(folder) for kind, folder in named.items() if folder is not None})


def _preview(args, report: Reporter, host: ModelHost, render: Path | None, params: TrainingParams, folder: Path):
    """A preview maker, or none where the render that was not asked for by name cannot be read."""
    if render is None:
        return None
    try:
        load_picture(render)
    except ImageError as error:
        if args.preview:
            raise ImageError(f"--preview {render}: {error}") from error
        report.event("notice", f"No previews: {render.name} {error}", level="warning")
        return None
    return TranslationPreview(host, render, params, folder)


def show_event(event: events.Event, report: Reporter, bar) -> None:
    """An event as JSON, as movement of the bar, or as a line."""
    fields = event.to_dict()
    kind = fields.pop("event")
    if isinstance(event, events.Started):
        bar.reset(total=event.steps)
        bar.update(event.start_step)
    if isinstance(event, events.StepDone):
        bar.update(event.step - bar.n)
        bar.set_postfix_str(f"loss {event.loss_average:.4f}, moved {event.change:.3f}", refresh=False)
        # without a terminal there is no bar: a line now and then instead
        spoken = bar.disable and (event.step % 50 == 0 or event.step == event.steps)
        report.event(kind, str(event) if spoken else None, **fields)
    elif isinstance(event, events.Caching):
        report.event(kind, str(event) if event.done == event.total else None, **fields)
    else:
        report.event(kind, str(event), **fields)
