"""What a training job reports. Each event is plain data: `str(event)` is a line for a log, `to_dict()` goes to JSON."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Event:
    """Base of all events."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data with the key "event", e.g. "step_done"; paths as text, a preview's picture left out."""
        name = re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        plain = {k: str(v) if isinstance(v, Path) else v for k, v in values.items()}
        return {"event": name} | {
            k: v for k, v in plain.items() if v is None or isinstance(v, bool | int | float | str | list | tuple | dict)
        }


@dataclass(frozen=True)
class Notice(Event):
    """Something to tell the user; level "info" or "warning"."""

    text: str
    level: str = "info"

    def __str__(self) -> str:
        return f"Warning: {self.text}" if self.level == "warning" else self.text


@dataclass(frozen=True)
class Caching(Event):
    """Pictures read and encoded to latents: done of total."""

    done: int
    total: int

    def __str__(self) -> str:
        return f"Reading pictures {self.done}/{self.total}"


@dataclass(frozen=True)
class MakingClass(Event):
    """Class pictures sampled: done of total."""

    done: int
    total: int

    def __str__(self) -> str:
        return f"Making class pictures {self.done}/{self.total}"


@dataclass(frozen=True)
class Started(Event):
    """The first step comes next. timesteps is inclusive, caption an example, start_step > 0 when resumed."""

    name: str
    steps: int
    start_step: int
    images: int
    skipped: int
    timesteps: tuple[int, int]
    rates: str
    caption: str

    def __str__(self) -> str:
        begin = f"Resuming {self.name} at step {self.start_step}" if self.start_step else f"Training {self.name}"
        low, high = self.timesteps
        return (
            f"{begin}: {self.steps} steps on {self.images} pictures, timesteps {low} to {high}, "
            f"learning rate {self.rates}; captions are like {self.caption!r}."
        )


@dataclass(frozen=True)
class StepDone(Event):
    """Step `step` (from 1) of `steps` is done.

    loss: mean of the step; loss_average: exponential average over about 50 steps; grad_norm: before clipping;
    vector_norm: the weights' size; change: their distance from the start; rate: steps per second; eta: seconds to go;
    prior_loss: what prior preservation adds to the loss, before its weight; None without.
    """

    step: int
    steps: int
    loss: float
    loss_average: float
    learning_rate: float
    grad_norm: float
    vector_norm: float
    change: float
    rate: float
    eta: float
    prior_loss: float | None = None

    def __str__(self) -> str:
        prior = "" if self.prior_loss is None else f", prior {self.prior_loss:.4f}"
        return (
            f"Step {self.step}/{self.steps}: loss {self.loss:.4f} (average {self.loss_average:.4f}){prior}, "
            f"lr {self.learning_rate:g}, norm {self.vector_norm:.3f}, moved {self.change:.3f}, "
            f"{self.rate:.2f} steps/s, {self.eta:.0f} s to go"
        )


@dataclass(frozen=True)
class Saved(Event):
    """A checkpoint is on the disk."""

    step: int
    path: Path

    def __str__(self) -> str:
        return f"Checkpoint of step {self.step}: {self.path}"


@dataclass(frozen=True)
class Preview(Event):
    """What the job's preview function gave for the weights after `step`: a path, a PIL picture, whatever it returns."""

    step: int
    result: Any

    def __str__(self) -> str:
        return f"Preview of step {self.step}"


@dataclass(frozen=True)
class Validated(Event):
    """A measurement on pictures that are not trained on, with the weights after `step`.

    loss, gain: on held-out pictures of the kind that is learnt; other_loss, other_gain: on those of the other kind,
    which `other` names, None without such. A gain is 1 - loss/(loss without the weights); gap: gain - other_gain; each
    with its standard error. best: so far. norms, nearest: of each vector, its length and the real token nearest to it.
    verdict: a word or two; text: a sentence.
    """

    step: int
    loss: float
    gain: float
    gain_error: float
    other: str
    other_loss: float | None
    other_gain: float | None
    other_gain_error: float | None
    gap: float | None
    gap_error: float | None
    best: bool
    norms: list[float]
    nearest: list[str]
    verdict: str
    text: str

    def __str__(self) -> str:
        numbers = f"gain {100 * self.gain:.2f} % ± {100 * self.gain_error:.2f}"
        if self.gap is not None and self.gap_error is not None:
            numbers += f", gap to {self.other} {100 * self.gap:.2f} % ± {100 * self.gap_error:.2f}"
        best = "; best so far" if self.best else ""
        nearest = f" Nearest tokens: {', '.join(self.nearest)}." if self.nearest else ""
        return f"Validation at step {self.step}: {numbers}{best}. {self.text}{nearest}"


@dataclass(frozen=True)
class Judged(Event):
    """How it stands, from the losses alone. verdict: a word or two; text: a sentence."""

    step: int
    verdict: str
    text: str

    def __str__(self) -> str:
        return f"Step {self.step}: {self.text}"


@dataclass(frozen=True)
class Stopped(Event):
    """The job was stopped before its end. checkpoint is None when no step was done, result (the file) also when a
    resumed run was stopped while it still read pictures."""

    step: int
    steps: int
    checkpoint: Path | None
    result: Path | None

    def __str__(self) -> str:
        if self.checkpoint is None:
            return "Stopped before the first step; nothing was written."
        so_far = f" What is learnt so far is in {self.result}." if self.result else ""
        again = f" Run it again with resume to go on from step {self.step}."
        return f"Stopped after {self.step} of {self.steps} steps.{so_far}{again}"


@dataclass(frozen=True)
class Finished(Event):
    """All steps are done and the result is written.

    loss: mean of the last 100 steps; seconds: of this process; complaints: what could not be written beside it.
    """

    step: int
    result: Path
    checkpoint: Path
    images: int
    loss: float
    seconds: float
    complaints: list[str]

    def __str__(self) -> str:
        return f"Finished: {self.step} steps on {self.images} pictures, {self.result} written."
