"""How a training stands, as plain data for whoever looks."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from lib_negtrans.training.events import (
    Caching,
    Event,
    Finished,
    Judged,
    MakingClass,
    Preview,
    Saved,
    Started,
    StepDone,
    Stopped,
    Validated,
)

from .background import FINISHED, JobSnapshot

MAXIMUM_POINTS = 1000  # of the loss curve; beyond that every second one is dropped
MAXIMUM_LINES = 1000
STEP_NUMBERS = ("step", "loss", "loss_average", "learning_rate", "grad_norm", "vector_norm", "change", "rate", "eta")

READING, TRAINING = "reading", "training"  # beside the phases of every job


@dataclass(frozen=True)
class TrainingSnapshot(JobSnapshot):
    """How a training stands. Times in seconds."""

    name: str = ""
    kind: str = "negative"
    step: int = 0
    steps: int = 0
    start_step: int = 0
    images: int = 0
    read: int = 0  # pictures read and encoded so far, of `to_read`
    to_read: int = 0
    making: bool = False  # class pictures are made, `read` of `to_read`
    loss: float | None = None
    loss_average: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    vector_norm: float | None = None
    change: float | None = None
    rate: float | None = None
    eta: float | None = None
    curve: list[tuple[int, float, float]] = field(default_factory=list)  # (step, loss, average)
    prior_curve: list[tuple[int, float]] = field(default_factory=list)  # (step, loss of prior preservation)
    validations: list[tuple[int, float, float | None]] = field(default_factory=list)  # step, gain, other gain
    verdict: str | None = None  # one of those in verdict.py
    verdict_text: str | None = None
    nearest: list[str] = field(default_factory=list)  # the real token nearest to each vector
    log: list[str] = field(default_factory=list)
    previews: list[tuple[int, str]] = field(default_factory=list)  # (step, path)
    preview_source: str | None = None
    result: str | None = None  # the written file
    embedding: str | None = None  # the same, if it is a negative embedding
    published: bool = False  # it is the finished one, and the host has been told
    checkpoint: str | None = None
    run_folder: str | None = None
    queue: list[str] = field(default_factory=list)  # names of the trainings that come after this one
    started: float | None = None
    ended: float | None = None
    request: dict[str, Any] | None = None

    @property
    def fraction(self) -> float:
        """Progress in [0, 1]."""
        if self.phase == FINISHED:
            return 1.0
        return self.step / self.steps if self.steps else 0.0

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"fraction": self.fraction}

    def noted(self, event: Event) -> TrainingSnapshot:
        """With what the job reports."""
        if isinstance(event, Caching | MakingClass):
            return replace(self, read=event.done, to_read=event.total, making=isinstance(event, MakingClass))
        changes: dict[str, Any] = {}
        if isinstance(event, Started):
            changes = {"phase": TRAINING, "steps": event.steps, "images": event.images}
            changes |= {"step": event.start_step, "start_step": event.start_step}
        elif isinstance(event, StepDone):
            changes = {name: getattr(event, name) for name in STEP_NUMBERS}
            changes["curve"] = _thinned([*self.curve, (event.step, event.loss, event.loss_average)])
            if event.prior_loss is not None:
                changes["prior_curve"] = _thinned([*self.prior_curve, (event.step, event.prior_loss)])
        elif isinstance(event, Validated | Judged):
            changes = {"verdict": event.verdict, "verdict_text": event.text}
            if isinstance(event, Validated):
                changes["validations"] = [*self.validations, (event.step, event.gain, event.other_gain)]
                changes["nearest"] = list(event.nearest)
        elif isinstance(event, Saved):
            changes = {"checkpoint": str(event.path)}
        elif isinstance(event, Preview) and event.result:
            changes = {"previews": [*self.previews, (event.step, str(event.result))]}
        elif isinstance(event, Stopped | Finished):
            result = str(event.result) if event.result else None
            changes = {"step": event.step, "result": result, "embedding": result if self.kind == "negative" else None}
            changes["checkpoint"] = str(event.checkpoint) if event.checkpoint else self.checkpoint
        first = self.start_step + 1
        # of the steps of a long training most are not worth a line
        if not isinstance(event, StepDone) or event.step == first or event.step % max(1, event.steps // 50) == 0:
            changes["log"] = [*self.log, str(event)][-MAXIMUM_LINES:]
        return replace(self, **changes)


def _thinned(curve: list[Any]) -> list[Any]:
    """At most MAXIMUM_POINTS of them, the last one always."""
    if len(curve) > MAXIMUM_POINTS:
        del curve[-2::-2]
    return curve
