"""Everything that a training step changes, as one thing that can be copied, put back, saved and loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import torch

from .weights import WEIGHTS, Weights, kept, put_back

AVERAGE_STEPS = 50
DATA_PARTS = ("renders", "photos", "prior")
LARGE_PARTS = ("optimizer", "average", "judge")  # as large as the weights; a step changes the first two in place


class HistoryRow(NamedTuple):
    """A line of the loss CSV. vector_norm, change: what the trainable measures; prior_loss: unweighted, 0 without."""

    step: int
    loss: float
    learning_rate: float
    grad_norm: float
    vector_norm: float
    change: float
    prior_loss: float = 0.0


class Stateful(Protocol):
    """A part of the state: the optimizer, a row source, an average of the weights."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def result_of(snapshot: Mapping[str, Any], which: str = "last") -> tuple[Weights, int]:
    """The weights that a snapshot or payload gives and the step they are of; which: "last", "best" or "unaveraged".

    The last are the average, where one is made; the best are those of the best validation, if there was one.
    """
    judge, average = snapshot["parts"].get("judge"), snapshot["parts"].get("average")
    if which == "best" and judge and judge[f"best_{WEIGHTS}"] is not None:
        return judge[f"best_{WEIGHTS}"], judge["best_step"]
    return (snapshot if average is None or which == "unaveraged" else average)[WEIGHTS], snapshot["step"]


class TrainingState:
    """The weights that are trained, and all else that a step changes.

    generator: the one source of randomness. parts: name -> Stateful, in which the optimizer goes too. step: steps done.
    copied: see `Trainable`; when not, a snapshot is good only until the next step changes the weights (`whole`). Else
    it is copied just before that, so that no copy lies beside a step's activations.
    """

    def __init__(self, weights: Weights, generator: torch.Generator, parts: dict[str, Stateful], copied: bool = True):
        self.weights, self.generator, self.parts, self.copied = weights, generator, parts, copied
        self.initial: Weights = kept(weights) if copied else {}
        self.step = 0
        self.history: list[HistoryRow] = []
        self.loss_average = 0.0
        self._changing = False

    @property
    def whole(self) -> bool:
        """Whether the last snapshot is that of a whole step."""
        return self.copied or not self._changing

    def begin(self, before: dict[str, Any]) -> None:
        """From here until the next snapshot the weights are between two steps; before: the present snapshot."""
        if self.copied:
            before[WEIGHTS] = kept(before[WEIGHTS])
            before["parts"] |= {name: kept(before["parts"][name]) for name in LARGE_PARTS if name in self.parts}
        self._changing = True

    def record(self, row: HistoryRow) -> None:
        """A step is done."""
        self.history.append(row)
        self.step = row.step
        # the plain mean at first, an exponential average later
        self.loss_average += (row.loss - self.loss_average) / min(len(self.history), AVERAGE_STEPS)

    def snapshot(self) -> dict[str, Any]:
        """Everything but the history, of which it holds the length; nothing in it changes while it is `whole`."""
        taken = {
            "step": self.step,
            WEIGHTS: kept(self.weights, copied=False),
            "generator": self.generator.get_state().clone(),
            "parts": {name: kept(part.state_dict(), name not in LARGE_PARTS) for name, part in self.parts.items()},
            "rows": len(self.history),
            "loss_average": self.loss_average,
        }
        self._changing = False
        return taken

    def rewind_data(self, snapshot: dict[str, Any]) -> None:
        """Back to where a snapshot is in the pictures and random numbers, for the same step again."""
        self.generator.set_state(snapshot["generator"])
        for name in DATA_PARTS:
            if name in self.parts:
                self.parts[name].load_state_dict(kept(snapshot["parts"][name]))

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Back to a snapshot of this run."""
        put_back(self.weights, snapshot[WEIGHTS])
        self.generator.set_state(snapshot["generator"])
        for name, part in self.parts.items():
            part.load_state_dict(kept(snapshot["parts"][name]))
        self.step, self.loss_average = snapshot["step"], snapshot["loss_average"]
        del self.history[snapshot["rows"] :]

    def to_payload(self, snapshot: dict[str, Any]) -> dict[str, Any]:
        """A snapshot with what it leaves out, for a checkpoint."""
        rows = self.history[: snapshot["rows"]]
        table = torch.tensor(rows, dtype=torch.float64).reshape(len(rows), len(HistoryRow._fields))
        return snapshot | {"history": table, "initial": self.initial}

    def load_payload(self, payload: dict[str, Any]) -> None:
        """The opposite of `to_payload`."""
        put_back(self.initial, payload["initial"])
        self.history = [HistoryRow(int(step), *rest) for step, *rest in payload["history"].tolist()]
        self.restore(payload)
