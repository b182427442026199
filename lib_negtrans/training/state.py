"""Everything that a training step changes, as one thing that can be copied, put back, saved and loaded."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

MAXIMUM_SCALE, FIRST_SCALE, GROWTH_STEPS = 2.0**24, 2.0**16, 2000
AVERAGE_STEPS = 50


class HistoryRow(NamedTuple):
    """A line of the loss CSV."""

    step: int
    loss: float
    learning_rate: float
    grad_norm: float
    vector_norm: float
    change: float


class Stateful(Protocol):
    """A part of the state: the optimizer, a row source; later an average of the vectors, another source."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def result_of(snapshot: Mapping[str, Any], which: str = "last") -> Tensor:
    """The vectors that a snapshot or payload gives: of the step, or their average; "best": of the best validation."""
    judge, average = snapshot["parts"].get("judge"), snapshot["parts"].get("average")
    if which == "best" and judge and judge["best_vectors"] is not None:
        return judge["best_vectors"]
    return snapshot["vectors"] if average is None else average["vectors"]


class LossScale:
    """Keeps half-precision gradients from vanishing: the loss is multiplied by a power of two, the gradient divided.

    As torch's GradScaler (start 2^16, half on overflow, double after 2000 good steps), but a step that overflowed is
    done again with the same data instead of being lost. Does nothing (scale 1) unless enabled.
    """

    def __init__(self, enabled: bool):
        self.value = FIRST_SCALE if enabled else 1.0
        self.good = 0
        self.enabled = enabled

    def reduce(self) -> bool:
        """After an overflow: halve; False when there is nothing left to halve."""
        if not self.enabled or self.value <= 1.0:
            return False
        self.value, self.good = self.value / 2, 0
        return True

    def succeeded(self) -> None:
        """After a good step."""
        if not self.enabled:
            return
        self.good += 1
        if self.good >= GROWTH_STEPS:
            self.value, self.good = min(self.value * 2, MAXIMUM_SCALE), 0

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value, "good": self.good}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.enabled:
            self.value, self.good = state["value"], state["good"]


class TrainingState:
    """vectors (n, width) float32 leaf with gradient, and all else that a step changes.

    generator: the one source of randomness. parts: name -> Stateful, in which the optimizer goes too. step: steps done.
    """

    def __init__(self, vectors: Tensor, generator: torch.Generator, parts: dict[str, Stateful]):
        self.vectors, self.generator, self.parts = vectors, generator, parts
        self.initial = vectors.detach().clone()
        self.step = 0
        self.history: list[HistoryRow] = []
        self.loss_average = 0.0

    def record(self, row: HistoryRow) -> None:
        """A step is done."""
        self.history.append(row)
        self.step = row.step
        # the plain mean at first, an exponential average later
        self.loss_average += (row.loss - self.loss_average) / min(len(self.history), AVERAGE_STEPS)

    def snapshot(self) -> dict[str, Any]:
        """A copy of everything but the history, of which it holds the length; nothing in it changes any more."""
        return {
            "step": self.step,
            "vectors": self.vectors.detach().clone(),
            "generator": self.generator.get_state().clone(),
            "parts": {name: copy.deepcopy(part.state_dict()) for name, part in self.parts.items()},
            "rows": len(self.history),
            "loss_average": self.loss_average,
        }

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Back to a snapshot of this run."""
        with torch.no_grad():
            self.vectors.copy_(snapshot["vectors"])
        self.generator.set_state(snapshot["generator"])
        for name, part in self.parts.items():
            part.load_state_dict(copy.deepcopy(snapshot["parts"][name]))
        self.step, self.loss_average = snapshot["step"], snapshot["loss_average"]
        del self.history[snapshot["rows"] :]

    def to_payload(self, snapshot: dict[str, Any]) -> dict[str, Any]:
        """A snapshot with what it leaves out, for a checkpoint."""
        rows = self.history[: snapshot["rows"]]
        table = torch.tensor(rows, dtype=torch.float64).reshape(len(rows), len(HistoryRow._fields))
        return snapshot | {"history": table, "initial": self.initial}

    def load_payload(self, payload: dict[str, Any]) -> None:
        """The opposite of `to_payload`."""
        self.initial.copy_(payload["initial"])
        self.history = [HistoryRow(int(step), *rest) for step, *rest in payload["history"].tolist()]
        self.restore(payload)
