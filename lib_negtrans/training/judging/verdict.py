"""Is it working? In plain words, from the validations, or where there are none from the losses alone."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lib_negtrans.training.state import HistoryRow
from lib_negtrans.training.trainable import WEIGHTS, Weights, on_cpu

from .validation import Measurement

NO_EFFECT, LEARNING, SETTLED, CONTENT, DIVERGING = "no effect yet", "learning", "settled", "content only", "diverging"
SURE = 2.0  # standard errors
LONG = 15.0  # times as long as real tokens: such vectors drown the rest of the prompt
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


def verdict(step: int, measurement: Measurement, validations: Validations, norm: float, usual: float) -> Verdict:
    """After a validation that `validations` has recorded. norm: of the longest vector; usual: of a real token."""
    renders, photos = measurement.renders, measurement.photos
    if not math.isfinite(renders.value) or norm > LONG * usual:
        return _long(norm, usual)
    if step == 0:
        share = f"{_percent(abs(renders.value))} {'better' if renders.value >= 0 else 'worse'}"
        return Verdict(
            NO_EFFECT, "No effect yet: no step has been trained. With the initialisation text, the model predicts "
            f"held-out renders {share} than without it."
        )  # fmt: skip
    if renders.value < -SURE * renders.error and validations.best > measurement.value:
        return Verdict(
            DIVERGING, f"Diverging: with the vectors, the model predicts held-out renders {_percent(-renders.value)} "
            "worse than without them. Lower the learning rate, and go back to an earlier checkpoint."
        )  # fmt: skip
    if renders.value <= SURE * renders.error:
        return Verdict(NO_EFFECT, "No effect yet: the model predicts held-out renders as well without the vectors.")
    gains = f"with the vectors, the model predicts held-out renders {_percent(renders.value)} better"
    if photos is not None:
        word = "better" if photos.value > 0 else "worse"
        gains += f" and photos {_percent(abs(photos.value))} {word}"
        if measurement.gap <= SURE * measurement.gap_error:
            return Verdict(
                CONTENT, f"Content only so far: {gains}. So they hold what both show, not the rendered look."
            )  # fmt: skip
    if validations.since_best >= SETTLED_AFTER:
        return Verdict(
            SETTLED, f"Settled: {gains}. The best was step {validations.best_step}; more steps bring little."
        )
    return Verdict(LEARNING, f"Learning: {gains}.")


def verdict_without_validation(history: Sequence[HistoryRow], usual: float) -> Verdict | None:
    """From the losses of the steps alone, which is weak evidence; None while there are too few steps."""
    if len(history) < 2 * WINDOW:
        return None
    if history[-1].vector_norm > LONG * usual:
        return _long(history[-1].vector_norm, usual)
    early, late = ([row.loss for row in part] for part in (history[:WINDOW], history[-WINDOW:]))
    fall = statistics.fmean(early) - statistics.fmean(late)
    error = math.sqrt((statistics.variance(early) + statistics.variance(late)) / WINDOW)
    share = _percent(abs(fall) / statistics.fmean(early))
    if fall < -SURE * error:
        return Verdict(DIVERGING, f"Diverging: the loss has risen by {share}. Lower the learning rate.")
    if fall > SURE * error:
        return Verdict(LEARNING, f"Learning: the loss has fallen by {share}. Only validation can say what is learnt.")
    return Verdict(NO_EFFECT, "No effect yet: the change of the loss is within its noise. Validation can tell more.")


def _long(norm: float, usual: float) -> Verdict:
    return Verdict(
        DIVERGING, f"Diverging: the vectors are {norm / usual:.0f} times as long as real tokens. Lower the learning "
        "rate, or turn on norm decay."
    )  # fmt: skip


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
