"""LoRAs beside a model's own modules, y + scale * up(down(x)) (arXiv 2106.09685), while they are trained.

They are hooks on the modules' forward, so that ldm's and diffusers' modules are trained alike, and nothing of them is
replaced.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DOWN, UP = ".lora_down.weight", ".lora_up.weight"
Layer = nn.Linear | nn.Conv2d
LoraWeights = dict[str, Tensor]  # target's name + DOWN or UP -> matrix, or kernel of a convolution


class LiveLora:
    """LoRAs of some modules by name. rank_of: of a module; scale: alpha / rank, one for all."""

    def __init__(self, targets: Mapping[str, Layer], rank_of: Callable[[Layer], int], scale: float):
        self.targets, self.rank_of, self.scale = targets, rank_of, scale
        self._applied: list[Mapping[str, Tensor] | None] = []

    def initial(
        self, generator_of: Callable[[str], torch.Generator], device: torch.device, dtype: torch.dtype
    ) -> LoraWeights:
        """down: kaiming uniform with a = sqrt 5, from a generator of each module's own; up: zeros, so no effect."""
        weights = {}
        for name, module in self.targets.items():
            rank = self.rank_of(module)
            shape = (rank, *module.weight.shape[1:])
            bound = 1.0 / math.sqrt(math.prod(shape[1:]))
            down = torch.empty(shape).uniform_(-bound, bound, generator=generator_of(name))
            up = torch.zeros(module.weight.shape[0], rank, *(1,) * (len(shape) - 2))
            for suffix, tensor in ((DOWN, down), (UP, up)):
                weights[name + suffix] = tensor.to(device, dtype).requires_grad_()
        return weights

    @property
    def active(self) -> bool:
        """Whether it is inside of an `applied`."""
        return bool(self._applied)

    @contextmanager
    def applied(self, weights: Mapping[str, Tensor] | None) -> Iterator[None]:
        """Inside, the modules work with these weights, differentiably; None, also within another: without any."""
        with ExitStack() as undo:
            if not self._applied and weights is not None:
                for name, module in self.targets.items():
                    undo.callback(module.register_forward_hook(self._hook(name)).remove)
            self._applied.append(weights)
            undo.callback(self._applied.pop)
            yield

    def _hook(self, name: str) -> Any:
        def add(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            weights = self._applied[-1]
            if weights is None:
                return None
            x = args[0]
            down, up = (weights[name + suffix].to(x.device, x.dtype) for suffix in (DOWN, UP))
            if isinstance(module, nn.Conv2d):
                small = F.conv2d(x, down, stride=module.stride, padding=module.padding, dilation=module.dilation)
                return output + F.conv2d(small * self.scale, up).to(output.dtype)
            return output + F.linear(F.linear(x, down) * self.scale, up).to(output.dtype)

        return add
