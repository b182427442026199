"""The optimizers that a training can use; two come from packages that are not required."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .common_params import CommonParams
from .errors import TrainingError
from .weights import WEIGHTS, Weights, kept, on_cpu, put_back, tensors

LR_FACTOR = "lr_factor"  # a group's own, beside torch's options


def make_optimizer(params: CommonParams, groups: Sequence[tuple[list[Tensor], float]]) -> torch.optim.Optimizer:
    """The optimizer of `params` over a trainable's groups, with rate 1: the schedule sets it at every step.

    Raises TrainingError for one whose package is missing, or that the device cannot run.
    """
    given = [{"params": some, LR_FACTOR: factor} for some, factor in groups]
    decay = params.weight_decay
    if params.optimizer == "adamw8bit":
        module = _package("bitsandbytes", "8-bit AdamW")
        try:
            return module.optim.AdamW8bit(given, lr=1.0, weight_decay=decay)
        except (RuntimeError, NotImplementedError, AttributeError) as error:
            device = groups[0][0][0].device
            raise TrainingError(f"8-bit AdamW does not run on {device} ({error}): use adamw.") from error
    if params.optimizer == "prodigy":
        module = _package("prodigyopt", "Prodigy")
        return module.Prodigy(given, lr=1.0, weight_decay=decay, use_bias_correction=True, safeguard_warmup=True)
    if params.optimizer == "adafactor":
        module = _package("transformers", "Adafactor")
        return module.Adafactor(
            given, lr=1.0, weight_decay=decay, scale_parameter=False, relative_step=False, warmup_init=False
        )
    # one pass over all weights instead of about ten; the webui's torch has none on the CPU
    fused = groups[0][0][0].device.type == "cpu" and _torch_version() >= (2, 4)
    return torch.optim.AdamW(given, lr=1.0, weight_decay=decay, foreach=False, fused=fused)


def _torch_version() -> tuple[int, int]:
    major, minor = torch.__version__.split(".")[:2]
    return int(major), int(minor)


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

    def _options(self) -> list[dict[str, Any]]:
        """Of each group."""
        return [
            {key: value for key, value in group.items() if key not in ("params", "lr")}
            for group in self.optimizer.param_groups
        ]

    def state_dict(self) -> dict[str, Any]:
        changed = [
            {
                key: value
                for key, value in now.items()
                if isinstance(value, bool | int | float) and value != first.get(key)
            }
            for now, first in zip(self._options(), self.first, strict=True)
        ]
        # of a single group as itself, which checkpoints always had
        return {"state": self.optimizer.state_dict()["state"], "options": changed if len(changed) > 1 else changed[0]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state["state"], "param_groups": groups})
        options = state.get("options", {})
        changed = options if isinstance(options, list) else [options]
        for group, first, own in zip(self.optimizer.param_groups, self.first, changed, strict=True):
            group.update(copy.deepcopy(first) | own)


class MovingAverage:
    """An exponential moving average of the weights, a part of the state.

    The decay rises with the updates u as min(decay, (1+u)/(10+u)), as in diffusers' EMAModel: the start, which is no
    result, is soon forgotten.
    """

    def __init__(self, weights: Weights, decay: float, in_main_memory: bool = False):
        self.decay, self.updates = decay, 0
        self.weights = on_cpu(weights) if in_main_memory else kept(weights)

    @torch.no_grad()
    def update(self, weights: Weights) -> None:
        """Take in the weights after a step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for average, tensor in zip(tensors(self.weights), tensors(weights), strict=True):
            average.lerp_(tensor.detach().to(average.device), 1.0 - decay)
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        return {WEIGHTS: self.weights, "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        put_back(self.weights, state[WEIGHTS])
        self.updates = state["updates"]
