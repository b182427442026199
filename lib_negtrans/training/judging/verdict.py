"""Is it working? In plain words, from the validations, or where there are none from the losses alone."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lib_negtrans.training.state import HistoryRow
from lib_negtrans.training.trainable import Trainable
from lib_negtrans.training.weights import WEIGHTS, Weights, on_cpu

from .validation import Measurement

NO_EFFECT, LEARNING, SETTLED, CONTENT, DIVERGING = "no effect yet", "learning", "settled", "content only", "diverging"
SURE = 2.0  # standard errors
LONG = 15.0  # times the usual size: so long vectors drown the rest of the prompt
SETTLED_AFTER = 3  # validations without a better one
WINDOW = 20  # steps at either end of a history that are compared


@dataclass(frozen=True)
class Verdict:
    """kind: one of the constants above; text: a sentence for the user."""

    kind: str
    text: str


class Validations:
    """The validations of a run so far, a part of the training's state: its best weights, and when to stop early."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self.last_step = -1
        self.best_step = -1
        self.best_weights: Weights | None = None

    @property
    def best(self) -> float:
        return max(self.values, default=-math.inf)

    @property
    def since_best(self) -> int:
        """How many validations have come after the best one."""
        return len(self.values) - 1 - self.values.index(self.best) if self.values else 0

    def record(self, step: int, measurement: Measurement, weights: Weights) -> bool:
        """Take in a validation; whether it is the best so far."""
        value = measurement.value if math.isfinite(measurement.value) else -math.inf
        better = value > self.best
        self.values.append(value)
        self.last_step = step
        if better:
            self.best_step = step
            self.best_weights = on_cpu(weights)
        return better

    def exhausted(self, patience: int) -> bool:
        """Whether `patience` validations have passed without a better one; 0 is endless."""
        return bool(patience) and self.since_best >= patience

    def state_dict(self) -> dict[str, Any]:
        return {
            "values": self.values, "last_step": self.last_step, "best_step": self.best_step,
            f"best_{WEIGHTS}": self.best_weights,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.values, self.last_step = list(state["values"]), state["last_step"]
        self.best_step, self.best_weights = state["best_step"], state[f"best_{WEIGHTS}"]


def other_domain(trainable: Trainable) -> str:
    """The kind of pictures that is not learnt."""
    return "photos" if trainable.domain == "renders" else "renders"


def verdict(
    step: int, measurement: Measurement, validations: Validations, norm: float, trainable: Trainable
) -> Verdict:
    """After a validation that `validations` has recorded. norm: the largest size that `Trainable.inspect` gives."""
    own, other, kind, noun = measurement.own, measurement.other, trainable.domain, trainable.noun
    if not math.isfinite(own.value) or norm > LONG * trainable.usual_size:
        return _large(norm, trainable)
    if step == 0:
        text = "No effect yet: this was measured before the first step."
        if own.value:
            share = f"{_percent(abs(own.value))} {'better' if own.value > 0 else 'worse'}"
            text += f" With the initialisation text, the model predicts held-out {kind} {share} than without it."
        return Verdict(NO_EFFECT, text)
    if own.value < -SURE * own.error and validations.best > measurement.value:
        return Verdict(
            DIVERGING, f"Diverging: with the {noun}, the model predicts held-out {kind} {_percent(-own.value)} worse "
            "than without them. Lower the learning rate, and go back to an earlier checkpoint."
        )  # fmt: skip
    if own.value <= SURE * own.error:
        return Verdict(NO_EFFECT, f"No effect yet: the model predicts held-out {kind} as well without the {noun}.")
    gains = f"with the {noun}, the model predicts held-out {kind} {_percent(own.value)} better."
    if other is not None:
        word = "better" if other.value > 0 else "worse"
        gains = f"{gains[:-1]} and {other_domain(trainable)} {_percent(abs(other.value))} {word}."
        if (measurement.gap or 0.0) <= SURE * (measurement.gap_error or 0.0):
            look = "rendered" if kind == "renders" else "photographed"
            return Verdict(
                CONTENT, f"Content only so far: {gains} So they hold what both show, not the {look} look."
            )  # fmt: skip
    if validations.since_best >= SETTLED_AFTER:
        return Verdict(SETTLED, f"Settled: {gains} The best was step {validations.best_step}; more steps bring little.")
    return Verdict(LEARNING, f"Learning: {gains}")


def verdict_without_validation(history: Sequence[HistoryRow], trainable: Trainable) -> Verdict | None:
    """From the losses of the steps alone, which is weak evidence; None while there are too few steps."""
    if len(history) < 2 * WINDOW:
        return None
    if history[-1].vector_norm > LONG * trainable.usual_size:
        return _large(history[-1].vector_norm, trainable)
    early, late = ([row.loss for row in part] for part in (history[:WINDOW], history[-WINDOW:]))
    fall = statistics.fmean(early) - statistics.fmean(late)
    error = math.sqrt((statistics.variance(early) + statistics.variance(late)) / WINDOW)
    share = _percent(abs(fall) / statistics.fmean(early))
    if fall < -SURE * error:
        return Verdict(DIVERGING, f"Diverging: the loss has risen by {share}. Lower the learning rate.")
    if fall > SURE * error:
        return Verdict(LEARNING, f"Learning: the loss has fallen by {share}. Only validation can say what is learnt.")
    return Verdict(NO_EFFECT, "No effect yet: the change of the loss is within its noise. Validation can tell more.")


def _large(norm: float, trainable: Trainable) -> Verdict:
    if not math.isfinite(trainable.usual_size):
        return Verdict(DIVERGING, f"Diverging: the {trainable.noun} give no numbers. Lower the learning rate.")
    return Verdict(
        DIVERGING, f"Diverging: the {trainable.noun} are {norm / trainable.usual_size:.0f} times as long as real "
        "tokens. Lower the learning rate, or turn on norm decay."
    )  # fmt: skip


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
