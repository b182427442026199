"""Translating a file or a folder tree: what is to do, what is done already, and one failure never stops the rest."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from . import __version__
from .core.attention import AttentionShapeError
from .hosts.protocol import HostError, ModelHost
from .images import (
    EXTENSIONS,
    ImageError,
    fit_within,
    flatten_alpha,
    iter_image_files,
    load_picture,
    pad_to_multiple,
    save_png,
    to_pil,
)
from .infotext import format_infotext
from .params import ParamError, TranslationParams
from .pipeline import Forwards, Progress, translate_image


@dataclass(frozen=True)
class Item:
    """One picture to translate: source file and where its PNG goes."""

    source: Path
    target: Path


@dataclass(frozen=True)
class ItemDone:
    """A finished item: `index` of `total`; skipped when its output was there already; error is a sentence or None."""

    item: Item
    index: int
    total: int
    skipped: bool = False
    error: str | None = None
    forwards: Forwards | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Negative:
    """A negative embedding in use: trigger word, vectors (n, width), weight in the prompt."""

    name: str
    vectors: Tensor
    weight: float = 1.0


def plan(source: Path, out: Path) -> list[Item]:
    """Items for a file or a folder tree; the tree is mirrored, two files of one stem keep their suffix in the name.

    Raises ParamError when there is nothing at `source`, or no picture in it.
    """
    if source.is_file():
        return [Item(source, out / f"{source.stem}.png")]
    if not source.is_dir():
        raise ParamError(f"there is no file or folder {source}.")
    files = list(iter_image_files(source, exclude=out))
    if not files:
        raise ParamError(f"no pictures were found in {source}: it takes {', '.join(sorted(EXTENSIONS))} files.")
    # compared without case, as Windows and macOS do
    stems = Counter(str(path.with_suffix("")).casefold() for path in files)
    items = []
    for path in files:
        relative = path.relative_to(source)
        shared = stems[str(path.with_suffix("")).casefold()] > 1
        name = f"{path.name}.png" if shared and path.suffix != ".png" else f"{path.stem}.png"
        items.append(Item(path, out / relative.parent / name))
    return items


def with_negatives(params: TranslationParams, negatives: list[Negative]) -> tuple[TranslationParams, dict[str, Tensor]]:
    """The parameters with the trigger words put before the negative prompt, and word -> vectors.

    A word the user has typed already is not added again.
    """
    words = []
    for negative in negatives:
        if negative.name not in params.negative_prompt:
            words.append(negative.name if negative.weight == 1.0 else f"({negative.name}:{negative.weight:g})")
    prompt = ", ".join([*words, *([params.negative_prompt] if params.negative_prompt else [])])
    values = params.to_dict() | {"negative_prompt": prompt}
    return type(params).from_dict(values), {negative.name: negative.vectors for negative in negatives}


def translate_file(
    host: ModelHost,
    item: Item,
    params: TranslationParams,
    embeddings: Mapping[str, Tensor],
    size: tuple[int, int] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> tuple[Forwards, float]:
    """Translate one file and write its PNG with alpha and parameters; size (width, height) to fit in, aspect kept.

    Raises ImageError for a file that cannot be used, HostError or AttentionShapeError from the model, OSError.
    """
    picture = load_picture(item.source)
    rgb, alpha = flatten_alpha(picture), picture.alpha
    if size is not None:
        rgb = fit_within(rgb, size)
        alpha = fit_within(alpha[None], size)[0] if alpha is not None else None
    height, width = rgb.shape[1:]
    steps = translate_image(host, pad_to_multiple(rgb[None]).to(host.device), params, embeddings)
    while True:
        try:
            progress = next(steps)
        except StopIteration as stop:
            result = stop.value
            break
        if on_progress is not None:
            on_progress(progress)
    image = to_pil(result.image[0, :, :height, :width], alpha)
    details = {"version": __version__, "source": item.source.name, "checkpoint": host.checkpoint_name}
    save_png(
        item.target,
        image,
        {
            "parameters": format_infotext(params, (width, height), {"Model": host.checkpoint_name}),
            "negtrans": json.dumps(details | {"params": params.to_dict()}, ensure_ascii=False),
        },
    )
    return result.forwards, result.seconds


def translate_items(
    host: ModelHost,
    items: list[Item],
    params: TranslationParams,
    embeddings: Mapping[str, Tensor],
    *,
    size: tuple[int, int] | None = None,
    overwrite: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> Iterator[ItemDone]:
    """Translate items one after another; outputs that exist are skipped unless `overwrite`, failures are reported."""
    total = len(items)
    for index, item in enumerate(items):
        if item.target.exists() and not overwrite:
            yield ItemDone(item, index, total, skipped=True)
            continue
        try:
            forwards, seconds = translate_file(host, item, params, embeddings, size, on_progress)
        except (ImageError, HostError, AttentionShapeError, OSError) as error:
            yield ItemDone(item, index, total, error=str(error))
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            yield ItemDone(item, index, total, error="needs more memory than there is: give a smaller --size.")
        else:
            yield ItemDone(item, index, total, forwards=forwards, seconds=seconds)
