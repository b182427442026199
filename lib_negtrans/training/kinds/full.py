"""A full finetune: the UNet's own weights, and the text encoder's by choice; the result is a whole checkpoint."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lib_negtrans.files import atomic_write
from lib_negtrans.models.ldm_names import to_ldm
from lib_negtrans.models.mapped import map_from_file
from lib_negtrans.models.protocol import ModelHost
from lib_negtrans.models.safetensors_writer import write_safetensors
from lib_negtrans.models.single_file import SUFFIXES, TEXT_PREFIX, UNET_PREFIX, read_state_dict
from lib_negtrans.training.data.sets import Folders
from lib_negtrans.training.errors import TrainingError
from lib_negtrans.training.events import Notice
from lib_negtrans.training.optimizers import MovingAverage
from lib_negtrans.training.positive_params import FullParams

from .positive import FILE_DTYPES, PositiveKind, total_norm

UNET, TEXT = "unet.", "text_encoder."
MEASURED = "to_out.0.weight"  # measuring all would take as long as a part of a step
FullWeights = dict[str, Tensor]


class FullModel(PositiveKind[FullParams]):
    """A `Trainable`; its weights are float32 copies that take the place of the model's own while they are applied.

    So the model's own stay as they were, for the prior's predictions, and in whatever precision it has.
    """

    options = FullParams
    kind, noun = "checkpoint", "trained weights"
    copied, masters = False, True

    def __init__(self, host: ModelHost, params: FullParams, name: str):
        super().__init__(host, params, name)
        networks = {UNET: host.unet} | ({TEXT: host.text_encoder} if params.text_encoder else {})
        self.places: dict[str, tuple[nn.Module, str]] = {}
        for prefix, network in networks.items():
            for path, module in network.named_modules():
                for own in module._parameters:
                    if module._parameters[own] is not None:
                        # the webui puts its own module around the token table
                        self.places[f"{prefix}{path.removesuffix('.wrapped')}.{own}"] = module, own
        dtype = torch.promote_types(host.dtype, torch.float32)
        with torch.inference_mode(False), torch.no_grad():
            self.original = {name: getattr(module, own) for name, (module, own) in self.places.items()}
            self.weights: FullWeights = {
                name: nn.Parameter(parameter.detach().to(dtype, copy=True)) for name, parameter in self.original.items()
            }

    @classmethod
    def check(cls, host: ModelHost, params: FullParams, folders: Folders, name: str, out: Path) -> None:
        super().check(host, params, folders, name, out)
        if host.loras:
            raise TrainingError("A full finetune writes a checkpoint without LoRAs: leave --lora out, or train a LoRA.")
        if host.path is None or not host.path.is_file() or host.path.suffix.lower() not in SUFFIXES:
            raise TrainingError(
                "A full finetune writes its result from the checkpoint's file: choose a .safetensors or .ckpt file."
            )
        if out.exists() and out.samefile(host.path):
            raise TrainingError(f"{out.name} is the checkpoint that is trained: choose another name for the result.")

    @staticmethod
    def is_text(name: str) -> bool:
        return name.startswith(TEXT)

    def average(self) -> MovingAverage | None:
        params = self.params
        return MovingAverage(self.weights, params.ema, params.ema_on_cpu) if params.ema else None

    def make_room(self, folder: Path) -> None:
        """On the CPU the model's own weights, which would lie beside the trained ones, are mapped from a file.

        The model stays what it was. Not where a prior reads all of them at every step.
        """
        if self.host.device.type == "cpu" and self.params.prior != "base":
            folder.mkdir(parents=True, exist_ok=True)
            map_from_file(list(self.original.values()), folder)

    @property
    def averages_on_device(self) -> int:
        return 1 if self.params.ema and not self.params.ema_on_cpu else 0

    def notices(self) -> Iterator[Notice]:
        yield from super().notices()
        yield Notice(
            "Weights of this size are not copied after each step: a kill or a failed step costs what came since the "
            f"last checkpoint, at most {self.params.save_every} steps."
        )

    @contextmanager
    def applied(self, weights: FullWeights | None) -> Iterator[Mapping[str, Tensor]]:
        former = [module._parameters[own] for module, own in self.places.values()]
        try:
            for name, (module, own) in self.places.items():
                original = self.original[name]
                used = original if weights is None else _like(weights[name], original)
                module._parameters[own] = used  # type: ignore[assignment]  # a plain tensor serves too
            with self.differentiable_input():
                yield {}
        finally:
            for (module, own), parameter in zip(self.places.values(), former, strict=True):
                module._parameters[own] = parameter

    @torch.no_grad()
    def measure(self, initial: object) -> tuple[float, float]:
        """The L2 norm of the attention layers' output matrices, and how far they are from the model's own."""
        now = [tensor.detach() for name, tensor in self.weights.items() if name.endswith(MEASURED)]
        before = [tensor.detach().to(now[0]) for name, tensor in self.original.items() if name.endswith(MEASURED)]
        return total_norm(now), total_norm(torch._foreach_sub(now, before))

    def save(self, path: Path, weights: FullWeights, step: int, facts: dict[str, Any], overwrite: bool) -> None:
        """The base file with the trained tensors in it. Raises TrainingError if what was written differs from them."""
        dtype = FILE_DTYPES[self.params.file_precision]
        assert self.host.path is not None
        content = read_state_dict(self.host.path)
        keys = self._keys(content)
        for name, tensor in weights.items():
            content[keys[name]] = tensor.detach().to("cpu", dtype)
            if not torch.isfinite(content[keys[name]]).all():
                raise TrainingError(f"The {self.noun} do not fit into {self.params.file_precision}: save as fp32.")
        with atomic_write(path, overwrite) as temporary:
            with temporary.open("wb") as stream:
                write_safetensors(stream, content, {"negtrans": json.dumps(facts | {"step": step})})
            self.check_file(temporary, path, weights)

    def write_card(self, path: Path, preview: Path | None) -> list[str]:
        """With the base's .yaml, where it has one: without it the webui would take the result for another model."""
        assert self.host.path is not None
        config = self.host.path.with_suffix(".yaml")
        if config.is_file() and not path.with_suffix(".yaml").exists():
            shutil.copyfile(config, path.with_suffix(".yaml"))
        return super().write_card(path, preview)

    def read_file(self, file: Path) -> FullWeights:
        """The trained tensors of a checkpoint, under their names here. Raises TrainingError, HostError."""
        content = read_state_dict(file, ".safetensors")
        return {name: content[key] for name, key in self._keys(content).items()}

    def _keys(self, content: Mapping[str, Tensor]) -> dict[str, str]:
        """Name of a weight -> its key in a checkpoint's file. Raises TrainingError where one is not there."""
        keys = {}
        for name in self.places:
            if name.startswith(UNET):
                choices = [UNET_PREFIX + to_ldm(name[len(UNET) :])]
            else:
                short = name[len(TEXT) :].removeprefix("text_model.")
                choices = [f"{TEXT_PREFIX}text_model.{short}", TEXT_PREFIX + short]
            found = next((key for key in choices if key in content), None)
            if found is None or content[found].shape != self.original[name].shape:
                raise TrainingError(f"{self.host.path} has no {choices[0]} of the model's shape: choose it again.")
            keys[name] = found
        return keys


def _like(weight: Tensor, original: Tensor) -> Tensor:
    """Where nothing is differentiated, as the model has it; else as it is, for the gradient's sake."""
    return weight if torch.is_grad_enabled() and weight.requires_grad else weight.to(original.device, original.dtype)
