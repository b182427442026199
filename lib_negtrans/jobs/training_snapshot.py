"""How a training stands, as plain data for whoever looks."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from lib_negtrans.training.events import (
    Caching,
    Event,
    Finished,
    Judged,
    Preview,
    Saved,
    Started,
    StepDone,
    Stopped,
    Validated,
)

MAXIMUM_POINTS = 1000  # of the loss curve; beyond that every second one is dropped
MAXIMUM_LINES = 1000
STEP_NUMBERS = ("loss", "loss_average", "learning_rate", "grad_norm", "vector_norm", "change", "rate", "eta")

IDLE, WAITING, READING, TRAINING, FINISHED, STOPPED, FAILED = (
    "idle", "waiting", "reading", "training", "finished", "stopped", "failed",
)  # fmt: skip
BUSY = (WAITING, READING, TRAINING)


@dataclass
class TrainingSnapshot:
    """How a training stands. Times in seconds; lists are copies."""

    number: int = 0  # of the job in this process, so that a viewer notices a new one
    phase: str = IDLE
    name: str = ""
    step: int = 0
    steps: int = 0
    start_step: int = 0
    images: int = 0
    read: int = 0  # pictures read and encoded so far, of `to_read`
    to_read: int = 0
    loss: float | None = None
    loss_average: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    vector_norm: float | None = None
    change: float | None = None
    rate: float | None = None
    eta: float | None = None
    curve: list[tuple[int, float, float]] = field(default_factory=list)  # (step, loss, average)
    validations: list[tuple[int, float, float | None]] = field(default_factory=list)  # step, gain, other gain
    verdict: str | None = None  # one of those in verdict.py
    verdict_text: str | None = None
    nearest: list[str] = field(default_factory=list)  # the real token nearest to each vector
    log: list[str] = field(default_factory=list)
    previews: list[tuple[int, str]] = field(default_factory=list)  # (step, path)
    preview_source: str | None = None
    embedding: str | None = None  # the written file
    published: bool = False  # it is the finished one, and the host has been told
    checkpoint: str | None = None
    run_folder: str | None = None
    error: str | None = None
    stopping: bool = False
    queue: list[str] = field(default_factory=list)  # names of the trainings that come after this one
    started: float | None = None
    ended: float | None = None
    request: dict[str, Any] | None = None

    @property
    def busy(self) -> bool:
        return self.phase in BUSY

    @property
    def fraction(self) -> float:
        """Progress in [0, 1]."""
        if self.phase == FINISHED:
            return 1.0
        return self.step / self.steps if self.steps else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return dataclasses.asdict(self) | {"busy": self.busy, "fraction": self.fraction}

    def note(self, event: Event) -> None:
        """Take in what the job reports."""
        if isinstance(event, Caching):
            self.read, self.to_read = event.done, event.total
        elif isinstance(event, Started):
            self.phase, self.steps, self.images = TRAINING, event.steps, event.images
            self.step = self.start_step = event.start_step
        elif isinstance(event, StepDone):
            self.step = event.step
            for name in STEP_NUMBERS:
                setattr(self, name, getattr(event, name))
            self.curve.append((event.step, event.loss, event.loss_average))
            if len(self.curve) > MAXIMUM_POINTS:
                del self.curve[-2::-2]
        elif isinstance(event, Validated | Judged):
            self.verdict, self.verdict_text = event.verdict, event.text
            if isinstance(event, Validated):
                self.validations.append((event.step, event.gain, event.other_gain))
                self.nearest = list(event.nearest)
        elif isinstance(event, Saved):
            self.checkpoint = str(event.path)
        elif isinstance(event, Preview) and event.result:
            self.previews.append((event.step, str(event.result)))
        elif isinstance(event, Stopped | Finished):
            self.step = event.step
            self.embedding = str(event.result) if event.result else None
            self.checkpoint = str(event.checkpoint) if event.checkpoint else self.checkpoint
        if not isinstance(event, Caching) and self._worth_a_line(event):
            self.log.append(str(event))
            del self.log[:-MAXIMUM_LINES]

    def _worth_a_line(self, event: Event) -> bool:
        """Every event but most of the steps of a long training."""
        if not isinstance(event, StepDone):
            return True
        every = max(1, event.steps // 50)
        return event.step % every == 0 or event.step == self.start_step + 1

    def copy(self) -> TrainingSnapshot:
        """With lists of its own."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return dataclasses.replace(self, **{name: list(v) for name, v in values.items() if isinstance(v, list)})
