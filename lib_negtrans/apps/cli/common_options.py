"""What several commands take: a model, embeddings, and an option for each field of a parameter model."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lib_negtrans.embeddings.files import read_embedding
from lib_negtrans.files import file_and_weight, is_remote, place
from lib_negtrans.lora.merge import Loras
from lib_negtrans.memory import allow_reuse
from lib_negtrans.models import standalone
from lib_negtrans.models.standalone import ModelChoice, StandaloneHost
from lib_negtrans.options import ParamError, Params
from lib_negtrans.translation.concepts import lines_of
from lib_negtrans.translation.negatives import Negative

from .reporting import CallError


def model_choice(args: argparse.Namespace, device: str | None = None) -> ModelChoice:
    """The model of --model, --lora, --device, --dtype and --feature-memory, on `device` where none is named.

    Raises CallError, HostError; LoraError for a LoRA that cannot be read, before a model is loaded.
    """
    if args.feature_memory is not None and args.feature_memory < 0:
        raise CallError(f"--feature-memory {args.feature_memory:g} must be 0 or more MB.")
    dtype = args.dtype and getattr(torch, args.dtype)
    model = args.model or standalone.default_model_path()
    loras = Loras.named(args.lora)
    loras.read()
    adapt = loras if args.lora else None
    return ModelChoice(model, args.device or device, dtype, feature_memory=args.feature_memory, adapt=adapt)


def load_host(args: argparse.Namespace, device: str | None = None, with_loras: bool = True) -> StandaloneHost:
    """The model of `model_choice`, loaded; without the LoRAs of --lora if they are put in later. Raises CallError,
    HostError."""
    allow_reuse()  # the process is the command line's own
    choice = model_choice(args, device)
    return standalone.load_model(choice if with_loras else replace(choice, adapt=None))


def add_negative(parser: argparse.ArgumentParser) -> None:
    """The option --negative; see `load_negatives`."""
    parser.add_argument(
        "--negative", action="append", default=[], metavar="FILE[:WEIGHT]",
        help="a negative embedding, or the name of one that a --lora brings; may be repeated",
    )  # fmt: skip


def add_concept(parser: argparse.ArgumentParser) -> None:
    """The option --concept, a line of the parameter `concepts` each time."""
    parser.add_argument(
        "--concept", dest="concepts", action=_AddLine, metavar="'TEXT :WEIGHT | NAME=VALUE ..'",
        help="a text that the picture is pushed towards, or with a weight below 0 away from; may be repeated. Behind "
        "the bar: kind=sega|topk|perp|salience|cfg, warmup, cooldown, and the kind's own options. AND_TOPK, AND_PERP "
        "and AND_SALT in --prompt and --negative-prompt do the same (docs/concepts.md)",
    )  # fmt: skip


class _AddLine(argparse.Action):
    def __call__(self, _parser: Any, namespace: argparse.Namespace, values: Any, _option: str | None = None) -> None:
        setattr(namespace, self.dest, lines_of(filter(None, [getattr(namespace, self.dest), str(values)])))


def output_folder(option: str, folder: str | Path) -> Path:
    """A folder to write into, or a place in a store, there or not.

    Raises CallError where it, or what should hold it, is a file; UserError for an unknown kind of store.
    """
    path = place(folder)
    if is_remote(path):
        return path
    for above in (path, *path.parents):
        if above.exists() and not above.is_dir():
            raise CallError(f"{option} {above} is a file: name a folder.")
    return path


def load_negatives(args: argparse.Namespace, option: str = "negative") -> list[Negative]:
    """The embeddings of --negative, or of another option: files, or those in the files of --lora by name.

    Raises EmbeddingError for a file that is none, LoraError, OSError.
    """
    named = [file_and_weight(text) for text in getattr(args, option)]
    by_name = any(not path.exists() for path, _ in named)  # else the LoRAs need not be read for it
    loras = Loras.named(args.lora).read() if by_name else []
    bundled = {name: vectors for file, _ in loras for name, vectors in file.embeddings.items()}
    negatives = []
    for path, weight in named:
        name = str(path)
        if name in bundled and not path.exists():
            negatives.append(Negative(name, bundled[name], weight))
        else:
            embedding = read_embedding(path)
            negatives.append(Negative(embedding.name, embedding.vectors, weight))
    return negatives


def add_params(parser: argparse.ArgumentParser, params: type[Params], skip: tuple[str, ...] = ()) -> None:
    """An option for every field of a parameter model; None means "not given", so that presets can fill it."""
    for name, option in params.options().items():
        if name in skip:
            continue
        default = getattr(params, name)
        about: dict[str, Any] = {"help": f"{option.help} (default: {default!r})".replace("%", "%%")}
        if isinstance(default, bool):
            about["action"] = argparse.BooleanOptionalAction
        else:
            metavar = None if option.choices else type(default).__name__.upper()
            about |= {"type": _reader(params, name), "choices": option.choices, "metavar": metavar}
        parser.add_argument("--" + name.replace("_", "-"), default=None, **about)


def _reader(params: type[Params], name: str) -> Callable[[str], Any]:
    if isinstance(getattr(params, name), str):
        return str  # as it was typed

    def read(text: str) -> Any:
        try:
            return params.typed(name, text)
        except ParamError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return read


def given(args: argparse.Namespace, params: type[Params]) -> dict[str, Any]:
    """The parameters that the call names."""
    values = {name: getattr(args, name, None) for name in params.options()}
    return {name: value for name, value in values.items() if value is not None}
