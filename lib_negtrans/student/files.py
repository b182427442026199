"""A student's file: its weights, its design and the base model it belongs to, in a .safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lib_negtrans.embeddings.card import named_model
from lib_negtrans.files import atomic_write, fetched, place, sha256_of
from lib_negtrans.models.protocol import HostError, ModelHost
from lib_negtrans.models.safetensors_writer import write_safetensors

from .network import StudentDesign, StudentNetwork

KIND, SUFFIX = "student", ".safetensors"


class StudentError(HostError):
    """A student's file cannot be used, or not with this model; the message is one sentence that says what to do."""


@dataclass(frozen=True)
class Student:
    """What a student's file holds. facts: of its training, with its base model's name and hashes."""

    path: Path
    design: StudentDesign
    weights: dict[str, Tensor]
    facts: dict[str, Any]

    @property
    def name(self) -> str:
        return self.path.stem

    @cached_property
    def sha256(self) -> str:
        return sha256_of([self.path])

    def on(self, host: ModelHost) -> StudentNetwork:
        """Its network, merged into a host's weights for good. Raises StudentError for another base model, HostError."""
        facts = self.facts
        if facts["model_hash"] != host.model_hash:
            loras = f" with --lora {facts['loras']}" if facts.get("loras") else " without LoRAs"
            raise StudentError(
                f"{self.path.name} is a student of {named_model(facts['checkpoint'], facts['checkpoint_hash'])}"
                f"{loras}, and not of the model that was loaded: use it with that one."
            )
        network = StudentNetwork(host, self.design)
        network.merge({name: tensor.to(host.device) for name, tensor in self.weights.items()})
        return network


@dataclass(frozen=True)
class StudentChoice:
    """Which student to load; picklable. sha256: what its file must have, None for any."""

    path: Path
    sha256: str | None = None

    def read(self) -> Student:
        """Raises StudentError."""
        student = read_student(self.path)
        if self.sha256 is not None and student.sha256 != self.sha256:
            raise StudentError(f"{self.path} is another file here than where the run was started: copy the same here.")
        return student

    def pinned(self) -> StudentChoice:
        """The same for other machines, which must have the same file. Raises StudentError."""
        return replace(self, path=self.path.absolute(), sha256=self.read().sha256)


def write_student(
    path: Path,
    design: StudentDesign,
    weights: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    dtype: torch.dtype = torch.float16,
    overwrite: bool = False,
) -> None:
    """Write the file atomically; equal content gives equal bytes.

    Raises StudentError for numbers that dtype cannot hold, FileExistsError, OSError.
    """
    tensors = {name: tensor.detach().to("cpu", dtype) for name, tensor in weights.items()}
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise StudentError(f"{path.name} was not written: its weights do not fit into half precision; save as fp32.")
    content = dict(facts) | {"kind": KIND, "design": asdict(design)}
    with atomic_write(path, overwrite) as temporary, temporary.open("wb") as stream:
        write_safetensors(stream, tensors, {"negtrans": json.dumps(content, ensure_ascii=False)})


def read_student(path: str | Path) -> Student:
    """Raises StudentError for a file that is no student, or is damaged."""
    path = fetched(place(path))
    if not path.is_file():
        raise StudentError(f"There is no {path}: name a student's file, which the command distill writes.")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            facts = json.loads((file.metadata() or {}).get("negtrans", "{}"))
            if facts.get("kind") != KIND:
                raise StudentError(f"{path} is not a student: name a file that the command distill has written.")
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        design = StudentDesign(**facts.pop("design"))
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StudentError(f"{path} is damaged or not a student ({type(error).__name__}): copy it again.") from error
    return Student(path, design, weights, facts)
