"""When a run is measured and judged, and the events that say so."""

from __future__ import annotations

from collections.abc import Sequence

from lib_negtrans.models.protocol import ModelHost
from lib_negtrans.training.common_params import CommonParams
from lib_negtrans.training.data.captions import Captions
from lib_negtrans.training.data.sets import TrainingData
from lib_negtrans.training.events import Event, Judged, Notice, Validated
from lib_negtrans.training.state import HistoryRow, Stateful
from lib_negtrans.training.trainable import Trainable
from lib_negtrans.training.weights import Weights

from .validation import Validation
from .verdict import Validations, other_domain, verdict, verdict_without_validation

EVERY = 20  # steps between looks at the losses where there is no validation


class Judging:
    """Validations every params.validate_every steps and at the end of `steps`; without them, looks at the losses.

    It draws no random numbers.
    """

    def __init__(
        self,
        host: ModelHost,
        params: CommonParams,
        captions: Captions,
        trainable: Trainable,
        data: TrainingData,
        steps: int,
    ):
        self.params, self.trainable, self.steps = params, trainable, steps
        self.validations = Validations()
        self.validation: Validation | None = None
        if params.validate_every:
            self.validation = Validation(host, params, captions, trainable, data.held)
        self.found_best = False
        self._said: str | None = None

    @property
    def parts(self) -> dict[str, Stateful]:
        """What belongs to the training's state."""
        return {} if self.validation is None else {"judge": self.validations}

    @property
    def exhausted(self) -> bool:
        """Whether the run should stop early."""
        return self.validation is not None and self.validations.exhausted(self.params.patience)

    def after(self, step: int, history: Sequence[HistoryRow], weights: Weights) -> list[Event]:
        """Events after `step` steps with these weights; none when it is not the time. May add a best one."""
        self.found_best = False
        if self.validation is None:
            return self._look(step, history)
        due = step % self.params.validate_every == 0 or step == self.steps
        if not due or step == self.validations.last_step:
            return []
        found = self.validation.measure(weights)
        self.found_best = self.validations.record(step, found, weights)
        norms, nearest = self.trainable.inspect(weights)
        said = verdict(step, found, self.validations, max(norms, default=0.0), self.trainable)
        other = found.other
        events: list[Event] = [
            Validated(
                step, found.own.loss, found.own.value, found.own.error, other_domain(self.trainable),
                other.loss if other else None, other.value if other else None, other.error if other else None,
                found.gap, found.gap_error,
                self.found_best, norms, nearest, said.kind, said.text,
            )
        ]  # fmt: skip
        if self.exhausted:
            count, best = self.validations.since_best, self.validations.best_step
            text = f"The last {count} validations brought no improvement: stopped early; the best was step {best}."
            events.append(Notice(text))
        return events

    def _look(self, step: int, history: Sequence[HistoryRow]) -> list[Event]:
        if not step or step % EVERY:
            return []
        said = verdict_without_validation(history, self.trainable)
        if said is None or said.kind == self._said:
            return []
        self._said = said.kind
        return [Judged(step, said.kind, said.text)]
