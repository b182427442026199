"""When a run is measured and judged, and the events that say so."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from torch import Tensor

from lib_negtrans.embeddings.inspection import nearest_tokens
from lib_negtrans.models.protocol import ModelHost
from lib_negtrans.training.data.captions import Captions
from lib_negtrans.training.data.sets import TrainingData
from lib_negtrans.training.events import Event, Judged, Notice, Validated
from lib_negtrans.training.params import TrainingParams
from lib_negtrans.training.state import HistoryRow, Stateful
from lib_negtrans.training.step import usual_norm

from .validation import Validation
from .verdict import Judge, verdict, verdict_without_validation

EVERY = 20  # steps between looks at the losses where there is no validation


class Judging:
    """Validations every params.validate_every steps, or without them a look at the losses. Draws no random numbers."""

    def __init__(self, host: ModelHost, params: TrainingParams, captions: Captions, name: str, data: TrainingData):
        self.host, self.params = host, params
        self.judge = Judge()
        self.validation: Validation | None = None
        if params.validate_every:
            self.validation = Validation(host, params, captions, name, data.held_renders, data.held_photos)
        self.found_best = False
        self._said: str | None = None

    @property
    def parts(self) -> dict[str, Stateful]:
        """What belongs to the training's state."""
        return {} if self.validation is None else {"judge": self.judge}

    @property
    def exhausted(self) -> bool:
        """Whether the run should stop early."""
        return self.validation is not None and self.judge.exhausted(self.params.patience)

    @cached_property
    def tokens(self) -> tuple[Tensor, list[str]]:
        """The model's token table: the tensor is the model's own, the texts take a second to make."""
        return self.host.token_table()

    @cached_property
    def usual_norm(self) -> float:
        """The median norm of the model's token vectors."""
        return usual_norm(self.tokens[0])

    def after(self, step: int, history: Sequence[HistoryRow], vectors: Tensor) -> list[Event]:
        """Events after `step` steps with these vectors (n, width); none when it is not the time. May add a best one."""
        self.found_best = False
        if self.validation is None:
            return self._look(step, history)
        if step % self.params.validate_every or step == self.judge.last_step:
            return []
        found = self.validation.measure(vectors)
        self.found_best = self.judge.record(step, found, vectors)
        norms = vectors.norm(dim=1).tolist()
        said = verdict(step, found, self.judge, max(norms), self.usual_norm)
        photos = found.photos
        nearest = [row[0]["token"] for row in nearest_tokens(vectors.cpu(), *self.tokens, count=1)]
        events: list[Event] = [
            Validated(
                step, found.renders.loss, found.renders.value, found.renders.error,
                photos and photos.loss, photos and photos.value, photos and photos.error, found.gap, found.gap_error,
                self.found_best, norms, nearest, said.kind, said.text,
            )
        ]  # fmt: skip
        if self.exhausted:
            text = (
                f"The last {self.judge.since_best} validations brought no improvement: stopped early; the best was step"
            )
            events.append(Notice(f"{text} {self.judge.best_step}."))
        return events

    def _look(self, step: int, history: Sequence[HistoryRow]) -> list[Event]:
        if not step or step % EVERY:
            return []
        said = verdict_without_validation(history, self.usual_norm)
        if said is None or said.kind == self._said:
            return []
        self._said = said.kind
        return [Judged(step, said.kind, said.text)]
