"""The order in which pictures are seen."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch


class EpochSampler:
    """An endless run of indices 0..count-1, each epoch in a new order; draws go on over the end of an epoch.

    kinds: what each picture is (its bucket); together: how many indices of one kind should follow each other, so that
    they go through the model in one batch. An epoch then is cut into such groups as far as each kind's number allows,
    what is left over comes last, and every picture still comes exactly once. The order comes from the job's generator,
    so it is reproduced with it, or from `of_epoch`, one for each; `state_dict` is part of a checkpoint.
    """

    def __init__(
        self,
        count: int,
        generator: torch.Generator,
        kinds: Sequence[Hashable] | None = None,
        together: int = 1,
        of_epoch: Callable[[int], torch.Generator] | None = None,
    ):
        if count < 1:
            raise ValueError(f"a sampler needs at least one picture, not {count}.")
        self.count, self.generator, self.together = count, generator, together
        self.of_epoch = of_epoch or (lambda _epoch: self.generator)
        self.kinds = list(kinds) if kinds is not None and len(set(kinds)) > 1 else None
        self.epoch = 0
        self.position = count  # past the end: the first draw makes the first order
        self.order = torch.arange(count)

    def draw(self, size: int) -> list[int]:
        """The next `size` indices."""
        drawn: list[int] = []
        while len(drawn) < size:
            if self.position == self.count:
                self.order = self._shuffled(self.of_epoch(self.epoch))
                self.position = 0
                self.epoch += 1
            taken = self.order[self.position : self.position + size - len(drawn)].tolist()
            self.position += len(taken)
            drawn += taken
        return drawn

    def _shuffled(self, generator: torch.Generator) -> torch.Tensor:
        order = torch.randperm(self.count, generator=generator)
        if self.kinds is None or self.together == 1:
            return order
        by_kind: dict[Hashable, list[int]] = {}
        for index in order.tolist():
            by_kind.setdefault(self.kinds[index], []).append(index)
        groups, rest = [], []
        for indices in by_kind.values():
            whole = len(indices) // self.together * self.together
            groups += [indices[i : i + self.together] for i in range(0, whole, self.together)]
            rest += indices[whole:]
        shuffled = torch.randperm(len(groups), generator=generator).tolist()
        return torch.tensor([index for number in shuffled for index in groups[number]] + rest)

    def state_dict(self) -> dict[str, Any]:
        """Plain data and one tensor."""
        return {"epoch": self.epoch, "position": self.position, "order": self.order}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The opposite of `state_dict`. Raises ValueError for a state of another number of pictures."""
        if len(state["order"]) != self.count:
            raise ValueError(f"the saved order is of {len(state['order'])} pictures, not {self.count}.")
        self.epoch, self.position, self.order = state["epoch"], state["position"], state["order"].clone()
