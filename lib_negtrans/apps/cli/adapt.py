"""`python -m lib_negtrans adapt`: from photographs and renders to one file, a LoRA with the negative trained on it."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from lib_negtrans.embeddings.files import read_embedding
from lib_negtrans.files import write_text_atomic
from lib_negtrans.lora.bundle import ENDING, write_bundle
from lib_negtrans.lora.files import read_lora
from lib_negtrans.lora.merge import merge
from lib_negtrans.models.protocol import ModelHost
from lib_negtrans.training.checkpoint import checkpoints
from lib_negtrans.training.data.dataset import automatic_size, listed_files
from lib_negtrans.training.judging.preview import Previews
from lib_negtrans.training.kinds import KINDS
from lib_negtrans.training.parallel import Workers
from lib_negtrans.training.request import TrainingRequest

from .reporting import EXIT_DONE, CallError, Reporter
from .train import train, with_workers

PLAN_FILE = "adapt.json"  # of what the folder is the result, for a second call


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own options; the common ones are the caller's."""
    parser.add_argument("--photos", required=True, metavar="DIR", help="photographs of garments")
    parser.add_argument("--renders", required=True, metavar="DIR", help="renders of garments")
    parser.add_argument("--name", required=True, help="the embedding's name and trigger word: a-z, 0-9, - and _")
    parser.add_argument(
        "--out", required=True, metavar="DIR",
        help=f"folder for NAME{ENDING}, NAME-photo.safetensors and NAME.pt; the same call again goes on",
    )  # fmt: skip
    parser.add_argument(
        "--lora-option", action="append", default=[], metavar="NAME=VALUE",
        help="an option of train-positive, such as steps=500 or prior=base; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--negative-option", action="append", default=[], metavar="NAME=VALUE",
        help="an option of train-negative, such as steps=500; may be repeated",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="begin anew and replace what is there")


def run(args: argparse.Namespace, report: Reporter) -> int:
    """The LoRA, the negative embedding on it, and both in one file; 0 done, 1 failed, 130 stopped. Raises CallError."""
    return with_workers(args, report, _run)


def _run(args: argparse.Namespace, report: Reporter, host: Any, workers: Workers) -> int:
    out = Path(args.out)
    photos, renders = Path(args.photos), Path(args.renders)
    lora = dataclasses.replace(_request("lora", f"{args.name}-photo", photos, args.lora_option), renders=renders)
    negative = _request("negative", args.name, renders, args.negative_option)
    if negative.params.validate_every or getattr(negative.params, "objective", "") == "contrastive":
        negative = dataclasses.replace(negative, photos=photos)
    for request in (lora, negative):
        file = out / f"{request.name}{KINDS[request.kind].suffix}"
        report.event("phase", f"Training {file.name} on {request.images} ..", phase=request.kind)
        if (code := _stage(request, host, file, args.overwrite, report, workers)) != EXIT_DONE:
            return code
        workers.wait()  # the main process has written the file that all read now
        if request is lora:
            merge(host, [(read_lora(file), 1.0)])
    bundle = out / f"{args.name}{ENDING}"
    if workers.main:
        vectors = read_embedding(out / f"{args.name}.pt").vectors
        write_bundle(bundle, read_lora(out / f"{lora.name}.safetensors"), {args.name: vectors}, overwrite=True)
    line = f"{bundle} holds both: use it with --lora {bundle} --negative {args.name}, or put it into models/Lora."
    report.event("written", line, path=str(bundle))
    return EXIT_DONE


def _request(kind: str, name: str, images: Path, options: list[str]) -> TrainingRequest:
    """Raises CallError, ParamError, DatasetError."""
    values: dict[str, Any] = {}
    params = KINDS[kind].options
    for text in options:
        option, separator, value = text.partition("=")
        option = option.strip().replace("-", "_")
        if not separator or option not in params.options():
            raise CallError(f"{text} is no option of this training: write NAME=VALUE, such as steps=500.")
        of_bool = {"true": True, "false": False} if isinstance(getattr(params, option), bool) else {}
        values[option] = params.typed(option, of_bool.get(value.lower(), value))
    files = listed_files(images, values.get("pattern", ""))
    values.setdefault("size", automatic_size(files))
    return TrainingRequest(name, images, params.from_dict(values), kind=kind)


def _stage(
    request: TrainingRequest, host: ModelHost, file: Path, overwrite: bool, report: Reporter, workers: Workers
) -> int:
    """One training, begun, gone on with, or passed over because it is done."""
    folder = file.parent / f"{request.name}.run"
    plan, wanted = folder / PLAN_FILE, json.dumps({"request": request.to_dict(), "model": host.model_hash}, indent=1)
    if file.exists() and not overwrite and plan.is_file() and plan.read_text(encoding="utf-8") == wanted:
        report.event("notice", f"{file} is there already.", path=str(file))
        return EXIT_DONE
    resume = bool(checkpoints(folder)) and not overwrite
    request = dataclasses.replace(request, resume=resume, overwrite=overwrite)
    code = train(request, host, folder, file, report, Previews.of(host, request, folder), workers)
    if code == EXIT_DONE and workers.main:
        write_text_atomic(plan, wanted)
    return code
