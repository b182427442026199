"""The order in which pictures are seen."""

from __future__ import annotations

from typing import Any

import torch


class EpochSampler:
    """An endless run of indices 0..count-1, each epoch in a new order; batches go on over the end of an epoch.

    The order comes from the job's generator, so it is reproduced with it; `state_dict` is part of a checkpoint.
    """

    def __init__(self, count: int, generator: torch.Generator):
        if count < 1:
            raise ValueError(f"a sampler needs at least one picture, not {count}.")
        self.count = count
        self.generator = generator
        self.epoch = 0
        self.position = count  # past the end: the first draw makes the first order
        self.order = torch.arange(count)

    def draw(self, size: int) -> list[int]:
        """The next `size` indices."""
        drawn: list[int] = []
        while len(drawn) < size:
            if self.position == self.count:
                self.order = torch.randperm(self.count, generator=self.generator)
                self.position = 0
                self.epoch += 1
            taken = self.order[self.position : self.position + size - len(drawn)].tolist()
            self.position += len(taken)
            drawn += taken
        return drawn

    def state_dict(self) -> dict[str, Any]:
        """Plain data and one tensor."""
        return {"epoch": self.epoch, "position": self.position, "order": self.order}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The opposite of `state_dict`. Raises ValueError for a state of another number of pictures."""
        if len(state["order"]) != self.count:
            raise ValueError(f"the saved order is of {len(state['order'])} pictures, not {self.count}.")
        self.epoch, self.position, self.order = state["epoch"], state["position"], state["order"].clone()
