"""A student: it learns to make in one UNet call what a translation makes in many (`student.network`)."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lib_negtrans.embeddings.card import trained_card, write_files
from lib_negtrans.embeddings.files import validate_name
from lib_negtrans.models.protocol import HostError, ModelHost
from lib_negtrans.pictures.feature_network import PerceptualDistance, missing_packages
from lib_negtrans.student.files import KIND, SUFFIX, StudentError, read_student, write_student
from lib_negtrans.student.network import StudentNetwork, StudentWeights
from lib_negtrans.training.data.batch import counted_generator
from lib_negtrans.training.data.captions import Captions
from lib_negtrans.training.data.pairs import PairRows, PairSource, read_pairs
from lib_negtrans.training.data.sets import Folders, TrainingData
from lib_negtrans.training.errors import DatasetError, TrainingError
from lib_negtrans.training.events import Event, Notice
from lib_negtrans.training.optimizers import MovingAverage
from lib_negtrans.training.student_losses import PREFIX, initial_discriminator, student_loss
from lib_negtrans.training.student_params import StudentParams

from .positive import FILE_DTYPES, total_norm


class StudentTraining:
    """A `Trainable`; its weights are the student's, and the discriminator's, which no file holds.

    Both are trained in one step: each part of the loss has gradient for its own side alone.
    """

    options, source = StudentParams, PairSource
    kind, noun, suffix, domain, trigger = KIND, "student's weights", SUFFIX, "renders", ""
    copied, counted, masters = True, False, False
    usual_size = float("inf")

    def __init__(self, host: ModelHost, params: StudentParams, name: str):
        self.host, self.params, self.name = host, params, name
        self.network = StudentNetwork(host, params.design)
        with torch.inference_mode(False), torch.no_grad():
            self.weights: StudentWeights = self.network.initial(lambda name: counted_generator(params.seed, name))
            for name, tensor in self._begun().items():
                self.weights[name].copy_(tensor)
            if params.adversarial_weight:
                dtype = next(iter(self.weights.values())).dtype
                self.weights |= initial_discriminator(counted_generator(params.seed, PREFIX), host.device, dtype)

    def _begun(self) -> StudentWeights:
        """The weights of the student that the training starts from, if any. Raises TrainingError, StudentError."""
        if not self.params.init:
            return {}
        begun = read_student(Path(self.params.init))
        if begun.design != self.params.design or begun.facts["model_hash"] != self.host.model_hash:
            raise TrainingError(f"{begun.path} has another design or base model than this student: start without it.")
        return begun.weights

    @staticmethod
    def check(host: ModelHost, params: StudentParams, folders: Folders, name: str, out: Path) -> None:
        if not name:
            raise TrainingError("The student needs a name, such as quick.")
        validate_name(name)
        if out.stem != name or out.suffix != SUFFIX:
            raise TrainingError(f"{out} must be called {name}{SUFFIX}.")
        if folders.photos is None:
            raise DatasetError("A student learns from translations: give the folder that translate wrote.")
        missing = missing_packages("The perceptual distance", measures=False) if params.perceptual_weight else None
        if missing is not None:
            raise TrainingError(f"{missing}, or set the perceptual weight to 0.")
        try:
            StudentNetwork(host, params.design)
        except HostError as error:
            raise TrainingError(str(error)) from error

    def read(self, folders: Folders, cache: Path | None) -> Generator[Event, None, TrainingData]:
        assert folders.renders is not None and folders.photos is not None
        pairs = yield from read_pairs(folders.renders, folders.photos, self.params.size)
        return TrainingData(pairs, None, None, None)

    def captions(self, data: TrainingData) -> dict[str, Captions]:
        self.count, self.fingerprint = len(data.main), data.fingerprint
        return {"renders": Captions((self.params.prompt,))}

    def terms(self) -> dict[str, tuple[Any, float]]:
        return {"renders": (self.loss, 1.0)}

    @cached_property
    def perceptual(self) -> PerceptualDistance:
        dtype = torch.promote_types(self.host.dtype, torch.float32)
        return PerceptualDistance(self.host.device, dtype)

    def loss(self, _model: object, rows: PairRows) -> Tensor:
        """Of each row, (B,), with the weights that are applied."""
        params, network = self.params, self.network
        latent, taken = network.encode(rows.render)
        changed = network.translated(latent)
        loss = changed.new_zeros(len(changed))
        if params.latent_weight:
            wanted = self.host.encode_image(rows.translation)
            loss = loss + params.latent_weight * (changed - wanted).square().flatten(1).mean(1)
        if params.decodes:
            loss = loss + student_loss(
                rows.render, rows.translation, network.decode(changed, taken, rows.render),
                self.perceptual if params.perceptual_weight else None, self._split(self.weights)[1],
                params.l2_weight, params.perceptual_weight, params.adversarial_weight,
            )  # fmt: skip
        return loss

    @staticmethod
    def _split(weights: Mapping[str, Tensor]) -> tuple[StudentWeights, StudentWeights]:
        """The student's own, and the discriminator's."""
        judge = {name: tensor for name, tensor in weights.items() if name.startswith(PREFIX)}
        return {name: tensor for name, tensor in weights.items() if name not in judge}, judge

    def average(self) -> MovingAverage | None:
        return MovingAverage(self.weights, self.params.ema)

    def notices(self) -> Iterator[Notice]:
        own, judge = self._split(self.weights)
        counts = [sum(tensor.numel() for tensor in part.values()) for part in (own, judge)]
        yield Notice(f"The student has {counts[0]:,} parameters, its discriminator {counts[1]:,}.")

    def groups(self) -> list[tuple[list[Tensor], float]]:
        own, judge = (list(part.values()) for part in self._split(self.weights))
        return [(own, 1.0), *([(judge, self.params.discriminator_rate)] if judge else [])]

    @contextmanager
    def applied(self, weights: StudentWeights | None) -> Iterator[Mapping[str, Tensor]]:
        with self.network.applied(weights):
            yield {}

    def make_room(self, folder: Path) -> None:
        pass

    def constrain(self) -> None:
        pass

    @torch.no_grad()
    def measure(self, initial: StudentWeights) -> tuple[float, float]:
        """The L2 norm of the student's weights, and how far they are from where they began."""
        now = {name: tensor.detach() for name, tensor in self._split(self.weights)[0].items()}
        moved = torch._foreach_sub(list(now.values()), [initial[name] for name in now])
        return total_norm(list(now.values())), total_norm(moved)

    def inspect(self, weights: Any) -> tuple[list[float], list[str]]:
        return [], []

    def save(self, path: Path, weights: StudentWeights, step: int, facts: dict[str, Any], overwrite: bool) -> None:
        host, dtype = self.host, FILE_DTYPES[self.params.file_precision]
        told = facts | {
            "step": step, "checkpoint": host.checkpoint_name, "checkpoint_hash": host.checkpoint_hash,
            "model_hash": host.model_hash,
        }  # fmt: skip
        write_student(path, self.params.design, self._split(weights)[0], told, dtype, overwrite)

    def is_saved(self, path: Path, weights: StudentWeights) -> bool:
        dtype = FILE_DTYPES[self.params.file_precision]
        try:
            found = read_student(path).weights
        except (StudentError, OSError):
            return False
        own = self._split(weights)[0]
        return found.keys() == own.keys() and all(
            torch.equal(found[name], tensor.detach().cpu().to(dtype)) for name, tensor in own.items()
        )

    def write_card(self, path: Path, preview: Path | None) -> list[str]:
        params = self.params
        text = f"A student for translate --student, {params.steps} steps on {self.count} pairs."
        content = trained_card(text, KIND, self.host, params.to_dict(), self.count, self.fingerprint)
        return write_files(path, content, params.licence, preview)
