"""A caption beside every picture, as training reads it: what an image-to-text model in a local folder says of it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from PIL import Image
from transformers import (
    MODEL_FOR_VISION_2_SEQ_MAPPING,
    AutoConfig,
    AutoImageProcessor,
    AutoProcessor,
    AutoTokenizer,
    ProcessorMixin,
)
from transformers.utils import logging

from lib_negtrans.errors import UserError
from lib_negtrans.files import stem_and_suffix, store_errors, write_text_atomic
from lib_negtrans.memory import is_out_of_memory
from lib_negtrans.models.standalone import file_hash, usable_device
from lib_negtrans.pictures.images import EXTENSIONS, MINIMUM_SIDE, flatten_alpha, load_picture, to_pil
from lib_negtrans.pictures.tree import pictures_in
from lib_negtrans.runners.runner import FileItem, Items, Job, OnStep, Worker

KINDS: Any = MODEL_FOR_VISION_2_SEQ_MAPPING  # class of a configuration -> class of a model that captions
MAX_TOKENS = 40
MAY_MISS = 0.1  # share of a model's tensors: files of known captioners lack a pooling layer that captions do not use


class CaptionerError(UserError):
    """The captioner cannot be used; the message is one sentence that says why."""


@dataclass(frozen=True)
class Captioned:
    """A written caption and the seconds that the model took for it."""

    path: Path
    text: str
    seconds: float


@dataclass(frozen=True)
class CaptionPlan(Items[FileItem]):
    """Pictures by name below `out`, where their texts go too; see `captions_of`."""

    names: Sequence[str]
    out: Path

    def target_name(self, name: str) -> str:
        return f"{stem_and_suffix(name)[0]}.txt"

    def item(self, name: str) -> FileItem:
        return FileItem(self.out / name, self.out / self.target_name(name))


def captions_of(source: Path) -> CaptionPlan:
    """For a picture, or those of a folder tree without masks; of several with one stem, which share a text, the first.

    Raises ParamError where there is nothing at `source`, or no picture, OSError for a store.
    """
    with store_errors(source):
        one = source.is_file() and source.suffix.lower() in EXTENSIONS
    folder, names = (source.parent, [source.name]) if one else (source, pictures_in(source))
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(stem_and_suffix(name)[0], name)
    return CaptionPlan(list(first.values()), folder)


@dataclass(frozen=True)
class CaptionJob(Job[FileItem, Captioned]):
    """How every picture is captioned.

    captioner: a folder in transformers' layout. prompt: words that the model goes on from. max_tokens: the most that it
    adds to them. device, dtype, sha256: as those of `standalone.ModelChoice`.
    """

    captioner: Path
    prompt: str = ""
    max_tokens: int = MAX_TOKENS
    device: str | None = None
    dtype: torch.dtype | None = None
    sha256: str | None = None

    def start(self, device: str | None = None) -> Captioner:
        """With the model loaded and tried; transformers is silent from then on. Raises CaptionerError, HostError."""
        return Captioner(self, usable_device(self.device or device))


class Captioner(Worker[FileItem, Captioned]):
    """A job's captions with its model. Raises CaptionerError for a folder without a model that can caption so."""

    def __init__(self, job: CaptionJob, device: torch.device) -> None:
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        folder = job.captioner.expanduser()
        if not folder.is_dir():
            raise CaptionerError(f"There is no folder {folder}: name one with an image-to-text model, such as BLIP.")
        if not (folder / "config.json").is_file():
            raise CaptionerError(f"{folder} has no model in transformers' layout: it lacks config.json.")
        if job.sha256 is not None and file_hash(folder) != job.sha256:
            raise CaptionerError(f"{folder} holds another model here than where the run was started: copy it again.")
        self.job, self.device = job, device
        self.dtype = job.dtype or (torch.float16 if device.type == "cuda" else torch.float32)
        self._load(folder)
        # what cannot caption shows now and not in every picture; so does a text too long for the model
        asked = f"{job.max_tokens} tokens and " + (f"the prompt {job.prompt!r}" if job.prompt else "no prompt")
        with _as_sentence(f"The {self.kind} model in {folder} cannot caption a picture with {asked}"):
            self._say(Image.new("RGB", (MINIMUM_SIDE, MINIMUM_SIDE), "grey"), min_new_tokens=job.max_tokens)

    def _load(self, folder: Path) -> None:
        safe = {"local_files_only": True, "trust_remote_code": False}  # no network, and no program from the folder
        with _as_sentence(f"{folder} has no model that is known here"):
            config = AutoConfig.from_pretrained(folder, **safe)
        self.kind: str = config.model_type
        if type(config) not in KINDS:
            raise CaptionerError(
                f"{folder} holds a model of the kind {self.kind}, which cannot caption: use BLIP or GIT."
            )
        if self.job.prompt and self.kind == "vision-encoder-decoder":
            raise CaptionerError(f"The model in {folder} ({self.kind}) takes no prompt: leave --prompt out.")
        with _as_sentence(f"The weights in {folder} cannot be loaded, they may be damaged or incomplete"):
            model, found = KINDS[type(config)].from_pretrained(
                folder, config=config, torch_dtype=self.dtype, output_loading_info=True, **safe
            )
            self.model = model.to(self.device).eval()
        # where weights are missing, transformers puts random numbers
        if len(found["missing_keys"]) > MAY_MISS * len(model.state_dict()):
            raise CaptionerError(f"The weights in {folder} are not those of the {self.kind} model in its config.json.")
        with _as_sentence(f"The tokenizer or image processor in {folder} is missing or cannot be loaded"):
            both: Any = AutoProcessor.from_pretrained(folder, **safe)
            apart = not isinstance(both, ProcessorMixin)  # as a vision-encoder-decoder, which has no class for both
            self.prepare = AutoImageProcessor.from_pretrained(folder, **safe) if apart else both
            self.tokenizer = AutoTokenizer.from_pretrained(folder, **safe) if apart else both.tokenizer

    def read(self, item: FileItem) -> Image.Image:
        return to_pil(flatten_alpha(load_picture(item.source)))

    def make(self, item: FileItem, content: Image.Image, on_step: OnStep | None = None) -> Captioned:
        began = time.perf_counter()
        text = self._say(content)
        if not text:
            raise CaptionerError("the captioner gave no words for it.")
        return Captioned(item.target, text, time.perf_counter() - began)

    def write(self, item: FileItem, result: Captioned) -> Captioned:
        write_text_atomic(item.target, result.text)
        return result

    @torch.inference_mode()
    def _say(self, picture: Image.Image, **how: int) -> str:
        """One line of words; the same for the same picture."""
        words = {"text": self.job.prompt} if self.job.prompt else {}
        inputs = dict(self.prepare(images=picture, return_tensors="pt", **words))
        inputs.pop("token_type_ids", None)  # a BERT tokenizer gives them where its folder does not say otherwise
        if words and self.kind == "git":  # the mark of a text's end must not lie between; other kinds see to it
            inputs |= {name: inputs[name][:, :-1] for name in ("input_ids", "attention_mask")}
        inputs = {
            name: value.to(self.device, self.dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
        }
        tokens = self.model.generate(**inputs, do_sample=False, max_new_tokens=self.job.max_tokens, **how)
        return " ".join(self.tokenizer.batch_decode(tokens, skip_special_tokens=True)[0].split())


@contextmanager
def _as_sentence(what: str) -> Iterator[None]:
    """Inside, whatever transformers and the readers of its files raise becomes CaptionerError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise CaptionerError("The captioner needs more memory than there is: use a smaller one.") from error
        reason = str(error).partition(". ")[0] or type(error).__name__
        raise CaptionerError(f"{what}: {shorten(reason, 200, placeholder=' ..')}") from error
