"""The webui's learning-rate syntax: "5e-3:100, 1e-3:1000, 1e-5" is a rate until a step; the last goes to the end.

Over it a warm-up and one of the usual schedules can be laid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .errors import ScheduleError

MAXIMUM_RATE = 1.0  # above this AdamW moves a vector by more than its own length in every step
EXAMPLE = 'write a number such as 5e-3, or a schedule such as "5e-3:100, 1e-3:1000, 1e-5" (rate until step)'


@dataclass(frozen=True)
class LearningRate:
    """Piecewise constant rates: (rate, until) with `until` ascending; None, only in the last, means to the end.

    scheduler, warmup, restarts, power: by what the rates are multiplied, see `factor`; total: steps of the training.
    """

    pieces: tuple[tuple[float, int | None], ...]
    scheduler: str = "constant"
    warmup: int = 0
    total: int = 0
    restarts: int = 1
    power: float = 1.0

    @property
    def end(self) -> int | None:
        """The step after which there is no rate any more, or None."""
        return self.pieces[-1][1]

    def steps(self, wanted: int) -> int:
        """How many of the wanted steps the schedule allows."""
        return wanted if self.end is None else min(wanted, self.end)

    def rate(self, done: int) -> float:
        """The rate of the step that follows `done` finished ones: with "5e-3:100" the first 100 steps, done = 0..99.

        Raises IndexError past the end.
        """
        for rate, until in self.pieces:
            if until is None or done < until:
                return rate * self.factor(done)
        raise IndexError(f"the learning-rate schedule ends at step {self.end}, step {done + 1} has no rate.")

    def factor(self, done: int) -> float:
        """What warm-up and scheduler make of the rate, in [0, 1]: the formulas of diffusers' `optimization.py`.

        But with the last step's rate above 0, and a warm-up that begins above 0: a step without a rate is lost.
        """
        if done < self.warmup:
            return (done + 1) / (self.warmup + 1)
        progress = (done - self.warmup) / max(1, self.total - self.warmup)
        if self.scheduler == "linear":
            return 1.0 - progress
        if self.scheduler == "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * progress))
        if self.scheduler == "cosine_with_restarts":
            return 0.5 * (1.0 + math.cos(math.pi * (self.restarts * progress % 1.0)))
        if self.scheduler == "polynomial":
            return (1.0 - progress) ** self.power
        return 1.0

    def describe(self) -> str:
        """E.g. "0.005 until step 100, then 1e-05"."""
        text = ", then ".join(
            f"{rate:g}" if until is None else f"{rate:g} until step {until}" for rate, until in self.pieces
        )
        text += "" if self.scheduler == "constant" else f", {self.scheduler.replace('_', ' ')}"
        return text + (f", warm-up of {self.warmup} steps" if self.warmup else "")


def parse_learning_rate(text: str) -> LearningRate:
    """Parse the syntax above; ":-1" also means to the end, empty pieces are ignored, as the webui does.

    Unlike there, steps that do not ascend and pieces after one that goes to the end are refused: they would never be
    used. Raises ScheduleError.
    """
    pieces: list[tuple[float, int | None]] = []
    for part in (part.strip() for part in str(text).split(",")):
        if not part:
            continue
        if pieces and pieces[-1][1] is None:
            raise ScheduleError(
                f"Learning rate: {part!r} would never be reached, because the piece before it goes to the end."
            )
        rate_text, separator, until_text = part.partition(":")
        pieces.append((_rate(rate_text), _until(part, until_text) if separator else None))
        ends = [until for _, until in pieces if until is not None]
        if len(ends) > 1 and ends[-1] <= ends[-2]:
            raise ScheduleError(f"Learning rate: the steps must ascend, but {ends[-1]} comes after {ends[-2]}.")
    if not pieces:
        raise ScheduleError(f"The learning rate is empty: {EXAMPLE}.")
    return LearningRate(tuple(pieces))


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        raise ScheduleError(f"Learning rate: {text.strip()!r} is not a number; {EXAMPLE}.") from None
    if not math.isfinite(rate) or not 0.0 < rate <= MAXIMUM_RATE:
        raise ScheduleError(f"Learning rate: {text.strip()} must be above 0 and at most {MAXIMUM_RATE:g}.")
    return rate


def _until(part: str, text: str) -> int | None:
    try:
        until = int(text)
    except ValueError:
        raise ScheduleError(f"Learning rate: {part!r} needs a whole step number after the colon; {EXAMPLE}.") from None
    if until == -1:
        return None
    if until < 1:
        raise ScheduleError(f"Learning rate: the step in {part!r} must be at least 1, or -1 for the end.")
    return until
