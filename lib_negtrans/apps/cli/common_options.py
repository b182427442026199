"""What several commands take: a model, embeddings, and an option for each field of a parameter model."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lib_negtrans.embeddings.files import EmbeddingError, read_embedding
from lib_negtrans.memory import allow_reuse, feature_budget
from lib_negtrans.models.protocol import HostError, ModelHost
from lib_negtrans.models.standalone import default_model_path, load_model
from lib_negtrans.options import ParamError
from lib_negtrans.translation.negatives import Negative

from .reporting import CallError


def load_host(args: argparse.Namespace) -> ModelHost:
    """The model of --model, --device, --dtype. Raises CallError."""
    allow_reuse()  # the process is the command line's own
    try:
        host = load_model(
            args.model or default_model_path(), device=args.device, dtype=args.dtype and getattr(torch, args.dtype)
        )
    except HostError as error:
        raise CallError(str(error)) from error
    megabytes = getattr(args, "feature_memory", None)
    if megabytes is not None:
        if megabytes < 0:
            raise CallError(f"--feature-memory {megabytes:g} must be 0 or more MB.")
        host.feature_budget = feature_budget(host.device, megabytes)
    return host


def output_folder(option: str, folder: str | Path) -> Path:
    """A folder to write into, there or not. Raises CallError where it, or what should hold it, is a file."""
    for place in (Path(folder), *Path(folder).parents):
        if place.exists() and not place.is_dir():
            raise CallError(f"{option} {place} is a file: name a folder.")
    return Path(folder)


def parse_negative(text: str) -> tuple[Path, float]:
    """`FILE[:WEIGHT]` -> path and weight; a Windows drive's colon is no separator. Raises CallError."""
    head, separator, tail = text.rpartition(":")
    if separator and head and not Path(text).exists():
        try:
            return Path(head), float(tail)
        except ValueError:
            pass  # the colon belongs to the path
    return Path(text), 1.0


def load_negatives(texts: list[str], width: int) -> list[Negative]:
    """The embeddings of --negative. Raises CallError for a file that is none, or of another width than the model's."""
    negatives = []
    for text in texts:
        path, weight = parse_negative(text)
        try:
            embedding = read_embedding(path)
        except (EmbeddingError, OSError) as error:
            raise CallError(str(error)) from error
        if embedding.vectors.shape[1] != width:
            raise CallError(
                f"{path} has vectors of width {embedding.vectors.shape[1]}, the model needs {width}: "
                "it was trained for another kind of model."
            )
        negatives.append(Negative(embedding.name, embedding.vectors, weight))
    return negatives


def add_params(parser: argparse.ArgumentParser, params: type, skip: tuple[str, ...] = ()) -> None:
    """An option for every field of a parameter model; None means "not given", so that presets can fill it."""
    for field in dataclasses.fields(params):
        if field.name in skip or "option" not in field.metadata:
            continue
        opt = field.metadata["option"]
        flag = "--" + field.name.replace("_", "-")
        text = f"{opt.help} (default: {field.default!r})".replace("%", "%%")
        if isinstance(field.default, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
        else:
            metavar = None if opt.choices else type(field.default).__name__.upper()
            parser.add_argument(
                flag, type=_reader(params, field), default=None, choices=opt.choices, metavar=metavar, help=text
            )


def _reader(params: type, field: dataclasses.Field) -> Callable[[str], Any]:
    if isinstance(field.default, str):
        return str  # as it was typed

    def read(text: str) -> Any:
        try:
            return params.typed(field.name, text)
        except ParamError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return read


def given(args: argparse.Namespace, params: type) -> dict[str, Any]:
    """The parameters that the call names."""
    values = {field.name: getattr(args, field.name, None) for field in dataclasses.fields(params)}
    return {name: value for name, value in values.items() if value is not None}
