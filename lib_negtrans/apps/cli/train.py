"""`python -m lib_negtrans train-negative`: the training job with a progress bar, files beside the embedding, Ctrl-C.

`train_positive` uses its parts for the other kinds.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from lib_negtrans.models.protocol import ModelHost
from lib_negtrans.pictures.images import ImageError, load_picture
from lib_negtrans.training import events
from lib_negtrans.training.data.dataset import automatic_size, training_files
from lib_negtrans.training.errors import TrainingError, sentence
from lib_negtrans.training.judging.preview import Previews
from lib_negtrans.training.kinds import KINDS
from lib_negtrans.training.parallel import ALONE, Workers, joined, local_device
from lib_negtrans.training.params import TRAINING_PRESETS, TrainingParams
from lib_negtrans.training.request import OTHER_FOLDERS, REQUEST_FILE, TrainingRequest, read_request
from lib_negtrans.training.run import Training

from .common_options import add_params, given, load_host
from .reporting import EXIT_DONE, EXIT_INTERRUPTED, EXIT_SOME_FAILED, CallError, Reporter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", metavar="DIR", help="renders to learn from, sub-folders included")
    parser.add_argument(
        "--photos", metavar="DIR", help="real photos, used by validation and by --objective contrastive"
    )
    parser.add_argument("--validation", metavar="DIR", help="renders to validate on (default: some of --images)")
    parser.add_argument("--validation-photos", metavar="DIR", help="photos to validate on (default: some of --photos)")
    parser.add_argument("--name", help="the embedding's name and trigger word: a-z, 0-9, - and _")
    parser.add_argument("--preview", metavar="FILE", help="the render that previews translate (default: the first one)")
    add_run_arguments(parser, "NAME.pt")
    presets = "; ".join(f"{name}: {text}" for name, (text, _) in TRAINING_PRESETS.items())
    parser.add_argument("--preset", choices=TRAINING_PRESETS, help=f"what the options below start from. {presets}")
    add_params(parser, TrainingParams)
    parser.set_defaults(kind="negative")


def add_run_arguments(parser: argparse.ArgumentParser, file: str) -> None:
    """What every kind of training takes; file: what its result is called."""
    parser.add_argument("--out", required=True, metavar="DIR", help=f"folder for {file}, NAME.preview.png, NAME.json")
    add_resuming(parser, file, "OUT/NAME.run")


def add_resuming(parser: argparse.ArgumentParser, file: str, folder: str) -> None:
    """Run folder and what to do with an earlier run; file: what the result is called, folder: the usual one."""
    parser.add_argument(
        "--run-folder", metavar="DIR", help=f"folder for checkpoints and the loss CSV (default: {folder})"
    )
    parser.add_argument("--resume", action="store_true", help="go on with the run of the run folder, with its settings")
    parser.add_argument("--overwrite", action="store_true", help=f"replace {file} and a run of this name")


@contextlib.contextmanager
def stop_on_signals(job: Training, report: Reporter) -> Iterator[None]:
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
    return with_workers(args, report, _run)


def with_workers(
    args: argparse.Namespace,
    report: Reporter,
    work: Callable[[argparse.Namespace, Reporter, ModelHost, Workers], int],
) -> int:
    """`work` with the call's model, in each of the processes that train together. Raises CallError."""
    try:
        host = load_host(args, local_device())
        with joined(host.device) as workers:
            # the others do the same work and are silent: the main process speaks and writes for all
            return work(args, report if workers.main else report.silent(), host, workers)
    except OSError as error:
        raise CallError(sentence(error)) from error


def _run(args: argparse.Namespace, report: Reporter, host: ModelHost, workers: Workers) -> int:
    request, folder = requested(args, report)
    out = Path(args.out) / f"{request.name}{KINDS[request.kind].suffix}"
    return train(request, host, folder, out, report, _preview(host, request, folder), workers)


def train(
    request: TrainingRequest,
    host: ModelHost,
    folder: Path,
    out: Path,
    report: Reporter,
    preview: Callable[[int, dict[str, Tensor]], Any] | None = None,
    workers: Workers = ALONE,
) -> int:
    """Run a request with its events shown, and give the exit code. Raises as `Training`."""
    job = Training(request, host, folder, out, preview=preview, workers=workers)
    last, started = None, False
    with stop_on_signals(job, report), report.bar(unit="step") as bar:
        try:
            for event in job.run():
                last, started = event, started or isinstance(event, events.Started)
                show_event(event, report, bar)
        except TrainingError as error:
            if not started:
                raise
            report.problem(f"error: {error}")
            return EXIT_SOME_FAILED
    if not isinstance(last, events.Finished):
        return EXIT_INTERRUPTED
    for complaint in last.complaints:
        report.problem(complaint)
    use = {"negative": "--negative", "lora": "--lora", "full": "--model", "student": "--student"}[request.kind]
    report.event("written", f"{out} and its card are ready; use it with {use}.")
    return EXIT_DONE


def requested(args: argparse.Namespace, report: Reporter) -> tuple[TrainingRequest, Path]:
    """What the call asks for, and the run folder; with --resume what the run was asked for, changed by the call.

    Raises CallError, ParamError, TrainingError.
    """
    if not args.name and not (args.resume and args.run_folder):
        raise CallError("--name NAME is needed: what the result should be called.")
    folder = Path(args.run_folder) if args.run_folder else Path(args.out) / f"{args.name}.run"
    named = {name: getattr(args, name, None) for name in ("name", "images", "class_images", *OTHER_FOLDERS)}
    named["preview_image"] = args.preview
    values: dict[str, Any] = {"params": {}, "kind": args.kind or "lora"}
    if args.resume and (folder / REQUEST_FILE).is_file():
        try:
            values = read_request(folder).to_dict()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CallError(f"{folder / REQUEST_FILE} cannot be read: start afresh with --overwrite.") from error
        if args.kind not in (None, values["kind"]):
            raise CallError(f"{folder} holds a run of the kind {values['kind']}, not {args.kind}: name another folder.")
    values |= {name: value for name, value in named.items() if value is not None}
    for name in ("name", "images"):
        if not values.get(name):
            raise CallError(f"--{name} is needed: {folder} does not hold the request of a run.")
    for kind in ("images", *OTHER_FOLDERS):
        if values.get(kind) and not Path(values[kind]).is_dir():
            raise CallError(f"--{kind.replace('_', '-')} {values[kind]} is not a folder.")
    options = KINDS[values["kind"]].options
    for other in (kind.options for kind in KINDS.values()):
        if foreign := sorted(set(given(args, other)) - set(options.options())):
            flag = f"--{foreign[0].replace('_', '-')}"
            raise CallError(f"{flag} is not for the kind {values['kind']}: leave it out, or choose another --kind.")
    preset = TRAINING_PRESETS[args.preset][1] if getattr(args, "preset", None) else {}
    params = values["params"] | preset | given(args, options)
    if "size" not in params:
        params["size"] = automatic_size(training_files(Path(values["images"]), params.get("pattern", "")))
        report.event(
            "notice", f"Training at {params['size']} pixels, which suits the size of the pictures.", size=params["size"]
        )
    return TrainingRequest.from_dict(values | {"params": params}, args.resume, args.overwrite), folder


def _preview(host: ModelHost, request: TrainingRequest, folder: Path) -> Previews | None:
    """A preview maker, or none where there is nothing to show. Raises ImageError for a chosen render that is none."""
    try:
        if request.preview_image is not None:
            load_picture(request.preview_image)
    except ImageError as error:
        raise ImageError(f"--preview {request.preview_image}: {error}") from error
    return Previews.of(host, request, folder)


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
