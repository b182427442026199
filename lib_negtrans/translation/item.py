"""One picture of many: read, translated, written. What goes through a folder is a runner (lib_negtrans/runners)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from lib_negtrans import __version__
from lib_negtrans.embeddings.files import check_width
from lib_negtrans.memory import allow_reuse
from lib_negtrans.models import standalone
from lib_negtrans.models.protocol import ModelHost
from lib_negtrans.pictures.images import Picture, fit_within, flatten_alpha, load_picture, save_png, to_pil
from lib_negtrans.pictures.masks import find_mask, load_mask, mask_file
from lib_negtrans.runners.runner import Job, OnStep, Worker
from lib_negtrans.steps import finish

from .folder import Item
from .infotext import format_infotext
from .params import TranslationParams
from .pipeline import Forwards, translate_image


@dataclass(frozen=True)
class Loaded(Picture):
    """A picture as it is translated, over grey where it is transparent; mask (H, W) or None, and how it was found."""

    mask: Tensor | None
    note: str


def prepared(
    picture: Picture, params: TranslationParams, painted: Tensor | None, size: tuple[int, int] | None
) -> Loaded:
    """A picture with its painted mask (H, W), or the one that the parameters ask to find in it.

    size (width, height): what it is fitted into, aspect kept. Raises ImageError where a named mask is not there.
    """
    mask, note = painted, ""
    if painted is None:
        found = find_mask(picture, params.mask)
        mask, note = found.mask, found.how if params.mask != "none" else ""
    rgb, alpha = flatten_alpha(picture), picture.alpha
    if size is not None:
        rgb = fit_within(rgb, size)
        alpha, mask = (fit_within(plane[None], size)[0] if plane is not None else None for plane in (alpha, mask))
    return Loaded(rgb, alpha, mask, note)


def read_item(item: Item, params: TranslationParams, size: tuple[int, int] | None) -> Loaded:
    """An item's files, `prepared`. Raises ImageError."""
    picture = load_picture(item.source)
    painted = None
    if item.masks is not None:
        painted = load_mask(mask_file(item.masks, item.source, item.root), picture.size)
    return prepared(picture, params, painted, size)


def write_item(
    item: Item, loaded: Loaded, image: Tensor, host: ModelHost, infotext: Callable[..., str], details: dict[str, Any]
) -> None:
    """Write an item's PNG, (3, H, W), with its texts: the webui's, and all that is known as JSON.

    infotext: gives the first for (width, height), further fields and LoRAs.
    """
    name = host.checkpoint_name
    told = {
        "version": __version__, "source": item.source.name, "checkpoint": name,
        "loras": [asdict(lora) for lora in host.loras], **details,
    }  # fmt: skip
    text = {
        "parameters": infotext(loaded.size, {"Model": name}, host.loras),
        "negtrans": json.dumps(told, ensure_ascii=False),
    }
    save_png(item.target, to_pil(image, loaded.alpha), text)


@dataclass(frozen=True)
class Made:
    """A translated picture's file, what it cost, and what was found of a mask."""

    path: Path
    seconds: float
    forwards: Forwards
    note: str


@dataclass(frozen=True)
class TranslationJob(Job[Item, Made]):
    """How every picture is translated. embeddings: trigger word in the prompts -> vectors (n, width)."""

    model: standalone.ModelChoice
    params: TranslationParams
    embeddings: Mapping[str, Tensor]
    size: tuple[int, int] | None = None  # (width, height) to fit in, aspect kept

    def start(self, device: str | None = None) -> Translator:
        """With the model loaded; the process is one of our own. Raises UserError."""
        allow_reuse()
        return Translator(standalone.load_model(replace(self.model, device=self.model.device or device)), self)


class Translator(Worker[Item, Made]):
    """A job's translations on a model.

    Raises EmbeddingError for embeddings of another kind of model, PromptError for prompts that no picture could have.
    """

    def __init__(self, host: ModelHost, job: TranslationJob) -> None:
        for name, vectors in job.embeddings.items():
            check_width(name, vectors, host.embedding_width)
        asked = job.params.steering
        prompts = [asked.prompt, asked.negative_prompt, job.params.source_prompt, *asked.texts]
        host.encode_prompts(prompts, job.embeddings)
        self.host, self.job = host, job

    def read(self, item: Item) -> Loaded:
        return read_item(item, self.job.params, self.job.size)

    def make(self, item: Item, content: Loaded, on_step: OnStep | None = None) -> tuple[Loaded, Tensor, Made]:
        host, job, mask = self.host, self.job, content.mask
        steps = translate_image(
            host, content.rgb[None], job.params, job.embeddings, mask=None if mask is None else mask[None, None]
        )
        done = finish(steps, on_step)
        # what waits for its file holds none of the model's memory
        return content, done.image[0].float().cpu(), Made(item.target, done.seconds, done.forwards, content.note)

    def write(self, item: Item, result: tuple[Loaded, Tensor, Made]) -> Made:
        loaded, image, made = result
        params = self.job.params
        write_item(item, loaded, image, self.host, partial(format_infotext, params), {"params": params.to_dict()})
        return made
