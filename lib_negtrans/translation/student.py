"""Pictures of many, translated by a student in one UNet call: as `item`, with another way through the model."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lib_negtrans.memory import allow_reuse, trim_memory
from lib_negtrans.models import standalone
from lib_negtrans.models.protocol import HostError
from lib_negtrans.pictures.images import pad_to_multiple
from lib_negtrans.runners.runner import Job, OnStep, Worker
from lib_negtrans.student.files import Student, StudentChoice
from lib_negtrans.student.network import StudentNetwork

from .folder import Item
from .infotext import student_infotext
from .item import Loaded, Made, read_item, write_item
from .params import TranslationParams
from .pipeline import Forwards
from .preservation import finished_picture

# the options of a translation that a student's has too; colours are left as it has learnt them from the teacher's, and
# its change is added to the render already
OPTIONS = ("colour", "colour_strength", "mask", "background")
DEFAULTS = {"colour": "off", "details": "model"}


def student_params(**given: Any) -> TranslationParams:
    """The parameters of a student's translation. Raises ParamError, also for an option that it has not."""
    return TranslationParams.from_dict(DEFAULTS | given)


@torch.no_grad()
def translate_with_student(
    network: StudentNetwork, image: Tensor, params: TranslationParams, mask: Tensor | None = None
) -> Tensor:
    """Images (B, 3, H, W) in [0, 1], of any sides, translated; mask (B or 1, 1, H, W), 1 the garment, or None.

    The options in `OPTIONS` apply. Colours are compared with the picture itself: the change is added to it, so that the
    VAE's own loss is not in the way. Raises HostError for NaN.
    """
    device, (height, width) = network.host.device, image.shape[-2:]
    image = pad_to_multiple(image).to(device)
    mask = None if mask is None else pad_to_multiple(mask).to(device)
    trim_memory(device)
    latent, taken = network.encode(image)
    picture = finished_picture(
        params, network.translated(latent), latent, image, mask,
        lambda z: network.decode(z, taken, image).clamp(0, 1), lambda _source: image,
    )[..., :height, :width]  # fmt: skip
    trim_memory(device)
    if not torch.isfinite(picture).all():
        raise HostError("the model gave NaN: use --dtype float32.")
    return picture


@dataclass(frozen=True)
class StudentJob(Job[Item, Made]):
    """How every picture is translated by a student."""

    model: standalone.ModelChoice
    student: StudentChoice
    params: TranslationParams
    size: tuple[int, int] | None = None  # (width, height) to fit in, aspect kept

    def start(self, device: str | None = None) -> StudentTranslator:
        """With model and student loaded; the process is one of our own. Raises UserError."""
        allow_reuse()
        student = self.student.read()
        host = standalone.load_model(replace(self.model, device=self.model.device or device))
        return StudentTranslator(student, student.on(host), self)


class StudentTranslator(Worker[Item, Made]):
    """A job's translations by a student."""

    def __init__(self, student: Student, network: StudentNetwork, job: StudentJob) -> None:
        self.student, self.network, self.job = student, network, job

    def read(self, item: Item) -> Loaded:
        return read_item(item, self.job.params, self.job.size)

    def make(self, item: Item, content: Loaded, on_step: OnStep | None = None) -> tuple[Loaded, Tensor, Made]:
        began = time.perf_counter()
        mask = None if content.mask is None else content.mask[None, None]
        image = translate_with_student(self.network, content.rgb[None], self.job.params, mask)[0].float().cpu()
        return content, image, Made(item.target, time.perf_counter() - began, Forwards(guided=1), content.note)

    def write(self, item: Item, result: tuple[Loaded, Tensor, Made]) -> Made:
        loaded, image, made = result
        student, host, params = self.student, self.network.host, self.job.params
        kept = {name: getattr(params, name) for name in OPTIONS}
        who = student.name, student.sha256
        details = {"student": {"name": who[0], "sha256": who[1], "base": host.model_hash}, "params": kept}
        write_item(item, loaded, image, host, partial(student_infotext, params, who, OPTIONS), details)
        return made
