"""What a LoRA and a full finetune have in common: they learn from photographs, and may preserve what was known."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from lib_negtrans.embeddings.card import trained_card, write_files
from lib_negtrans.embeddings.files import validate_name
from lib_negtrans.errors import UserError
from lib_negtrans.models.protocol import ModelHost
from lib_negtrans.training.data.batch import RowSource
from lib_negtrans.training.data.captions import FILEWORDS, Captions
from lib_negtrans.training.data.photographs import read_photographs
from lib_negtrans.training.data.sets import Folders, TrainingData
from lib_negtrans.training.errors import DatasetError, TrainingError
from lib_negtrans.training.events import Event, Notice
from lib_negtrans.training.memory_estimate import memory_notice
from lib_negtrans.training.objective import LossOptions, Objective, preserve, reconstruct
from lib_negtrans.training.optimizers import MovingAverage
from lib_negtrans.training.positive_params import PositiveParams

P = TypeVar("P", bound=PositiveParams)
FILE_DTYPES = {"fp16": torch.float16, "fp32": torch.float32}
TOLERANCE = 1e-3  # of the noise prediction, between the live model and the file
PROBE_PROMPT, PROBE_TIMESTEPS = "a photo of a red coat", (100, 700)


class PositiveKind(ABC, Generic[P]):
    """The half of a `Trainable` that does not depend on which weights are trained.

    data: what is learnt from, once it is read.
    """

    kind: str
    noun: str
    suffix, domain, trigger, source = ".safetensors", "photos", "", RowSource
    counted, masters, copied = True, False, True
    usual_size = float("inf")
    data: TrainingData
    weights: dict[str, Tensor]

    def __init__(self, host: ModelHost, params: P, name: str):
        self.host, self.params, self.name = host, params, name

    @classmethod
    def check(cls, host: ModelHost, params: P, folders: Folders, name: str, out: Path) -> None:
        if not name:
            raise TrainingError(f"The {cls.kind} needs a name, such as photo-look.")
        validate_name(name)
        if out.stem != name or out.suffix != cls.suffix:
            raise TrainingError(f"{out} must be called {name}{cls.suffix}.")
        if params.prior == "class" and params.prior_weight and folders.class_images is None:
            raise DatasetError("Prior preservation by class pictures needs a folder for them: name one, or use base.")

    def read(self, folders: Folders, cache: Path | None) -> Generator[Event, None, TrainingData]:
        return read_photographs(self.host, folders, self.params, cache)

    def captions(self, data: TrainingData) -> dict[str, Captions]:
        self.data = data
        return dict.fromkeys(data.learnt, Captions((FILEWORDS,)))

    def terms(self) -> dict[str, tuple[Objective, float]]:
        params, options = self.params, LossOptions(self.params.huber, self.params.min_snr_gamma)
        terms: dict[str, tuple[Objective, float]] = {"photos": (partial(reconstruct, options=options), 1.0)}
        if params.prior != "none" and params.prior_weight:
            loss = preserve if params.prior == "base" else reconstruct
            terms["prior"] = (partial(loss, options=options), params.prior_weight)
        return terms

    @abstractmethod
    def applied(self, weights: dict[str, Tensor] | None) -> AbstractContextManager[Mapping[str, Tensor]]: ...

    @staticmethod
    @abstractmethod
    def is_text(name: str) -> bool:
        """Whether the weight of this name is one of the text encoder's."""

    @abstractmethod
    def read_file(self, file: Path) -> dict[str, Tensor]:
        """The weights in a file of this kind. Raises UserError for another one."""

    def groups(self) -> list[tuple[list[Tensor], float]]:
        unet = [tensor for name, tensor in self.weights.items() if not self.is_text(name)]
        text = [tensor for name, tensor in self.weights.items() if self.is_text(name)]
        return [(unet, 1.0), *([(text, self.params.text_encoder_rate)] if text else [])]

    @abstractmethod
    def average(self) -> MovingAverage | None: ...

    @property
    def averages_on_device(self) -> int:
        """How many moving averages lie where the model is."""
        return 1

    def notices(self) -> Iterator[Notice]:
        yield memory_notice(
            self.host, self.params, self.weights, self.applied(self.weights), self.averages_on_device, self.copied,
            self.masters,
        )  # fmt: skip
        entries = self.data.main.report.entries
        plain = sum(entry.words == self.params.instance_prompt for entry in entries)
        if plain == len(entries) > 1:
            yield Notice(
                f"No picture has a caption of its own: all are shown as {self.params.instance_prompt!r}. What .txt "
                "files beside them describe would not be learnt as part of the look."
            )

    def make_room(self, folder: Path) -> None:
        pass

    def constrain(self) -> None:
        pass

    def inspect(self, weights: Any) -> tuple[list[float], list[str]]:
        return [], []

    @contextmanager
    def differentiable_input(self) -> Iterator[None]:
        """Inside, the UNet's input asks for a gradient: ldm's checkpointed blocks differentiate nothing without one."""

        def mark(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            if not torch.is_grad_enabled() or not isinstance(args[0], Tensor):
                return None
            return (args[0].detach().requires_grad_(), *args[1:])

        if not self.params.gradient_checkpointing:
            yield
            return
        handle = self.host.unet.register_forward_pre_hook(mark)
        try:
            yield
        finally:
            handle.remove()

    @torch.no_grad()
    def probe(self) -> Tensor:
        """What the model, as it is now, predicts for two fixed rows: (2, 4, 16, 16)."""
        with torch.inference_mode(False):
            generator = torch.Generator().manual_seed(0)
            latent = torch.randn(2, 4, 16, 16, generator=generator).to(self.host.device)
            context = self.host.encode_prompts([PROBE_PROMPT] * 2)
            return self.host.predict_noise(latent, torch.tensor(PROBE_TIMESTEPS, device=self.host.device), context)

    def check_file(self, file: Path, path: Path, weights: dict[str, Tensor]) -> None:
        """Raises TrainingError, about `path`, unless the predictions of a written file are those of the weights.

        To TOLERANCE of their size; and, so that a file that holds nothing is found after a few steps too, to a tenth
        of what the training has changed.
        """
        with self.applied(None):
            before = self.probe()
        with self.applied(weights):
            live = self.probe()
        with self.applied(self.read_file(file)):
            read = self.probe()
        error, size, effect = (float(t.double().square().mean().sqrt()) for t in (read - live, live, live - before))
        if not error <= min(TOLERANCE * size, 0.1 * effect + 1e-6 * size):
            raise TrainingError(
                f"{path.name} was not written: read back, its predictions differ from the trained model's by "
                f"{error / size:.2g} of their size. Save as fp32, and report this if it stays."
            )

    def is_saved(self, path: Path, weights: dict[str, Tensor]) -> bool:
        dtype = FILE_DTYPES[self.params.file_precision]
        try:
            found = self.read_file(path)
        except (UserError, OSError):
            return False
        return all(torch.equal(found[name], t.detach().to(dtype).to(found[name])) for name, t in weights.items())

    def write_card(self, path: Path, preview: Path | None) -> list[str]:
        params, count = self.params, len(self.data.main)
        content = trained_card(
            f"{self.kind}, {params.steps} steps on {count} photographs.", self.kind, self.host, params.to_dict(), count,
            self.data.fingerprint, **{"activation text": "", "preferred weight": 1.0},
        )  # fmt: skip
        return write_files(path, content, params.licence, preview)


def total_norm(tensors: Sequence[Tensor]) -> float:
    """The L2 norm of all of them together."""
    return float(torch.stack([tensor.norm() for tensor in tensors]).norm())
