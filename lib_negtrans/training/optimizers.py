"""The optimizers that a training can use; two come from packages that are not required."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from .errors import TrainingError
from .params import TrainingParams


def make_optimizer(params: TrainingParams, vectors: Tensor) -> torch.optim.Optimizer:
    """The optimizer of `params` over the vectors, with rate 1: the schedule sets it at every step.

    Raises TrainingError for one whose package is missing, or that the device cannot run.
    """
    decay = params.weight_decay
    if params.optimizer == "adamw8bit":
        module = _package("bitsandbytes", "8-bit AdamW")
        try:
            return module.optim.AdamW8bit([vectors], lr=1.0, weight_decay=decay)
        except (RuntimeError, NotImplementedError, AttributeError) as error:
            raise TrainingError(f"8-bit AdamW does not run on {vectors.device} ({error}): use adamw.") from error
    if params.optimizer == "prodigy":
        module = _package("prodigyopt", "Prodigy")
        return module.Prodigy([vectors], lr=1.0, weight_decay=decay, use_bias_correction=True, safeguard_warmup=True)
    return torch.optim.AdamW([vectors], lr=1.0, weight_decay=decay, foreach=False)


def _package(name: str, optimizer: str) -> Any:
    try:
        return __import__(name)
    except (ImportError, OSError, RuntimeError) as error:
        raise TrainingError(
            f"{optimizer} needs the package {name} ({error}): pip install {name}, or use the optimizer adamw."
        ) from error


class OptimizerPart:
    """An optimizer as a part of a training state: its moments, and what its steps have changed of its options.

    Not all options, so that a checkpoint does not depend on torch's list of them; Prodigy keeps its step size there.
    """

    def __init__(self, optimizer: torch.optim.Optimizer):
        self.optimizer = optimizer
        self.first = self._options()

    def _options(self) -> dict[str, Any]:
        (group,) = self.optimizer.param_groups
        return {key: value for key, value in group.items() if key not in ("params", "lr")}

    def state_dict(self) -> dict[str, Any]:
        options = self._options()
        changed = {
            key: value
            for key, value in options.items()
            if isinstance(value, bool | int | float) and value != self.first.get(key)
        }
        return {"state": self.optimizer.state_dict()["state"], "options": changed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state["state"], "param_groups": groups})
        self.optimizer.param_groups[0].update(copy.deepcopy(self.first) | state.get("options", {}))


class MovingAverage:
    """An exponential moving average of the vectors, a part of the state.

    The decay rises with the updates u as min(decay, (1+u)/(10+u)), as in diffusers' EMAModel: the start, which is no
    result, is soon forgotten.
    """

    def __init__(self, vectors: Tensor, decay: float):
        self.decay, self.updates = decay, 0
        self.vectors = vectors.detach().clone()

    @torch.no_grad()
    def update(self, vectors: Tensor) -> None:
        """Take in the vectors (n, width) after a step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.vectors.lerp_(vectors.detach(), 1.0 - decay)
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        return {"vectors": self.vectors, "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.vectors.copy_(state["vectors"])
        self.updates = state["updates"]


@torch.no_grad()
def shorten(vectors: Tensor, norm: float, share: float) -> None:
    """Norm decay, in place: a vector longer than `norm` loses this share of the excess; its direction stays."""
    lengths = vectors.norm(dim=1, keepdim=True)
    excess = (lengths - norm).clamp_min(0.0)
    vectors.mul_(1.0 - share * excess / lengths.clamp_min(1e-12))
