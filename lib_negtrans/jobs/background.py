"""A job in a thread of its own, one at a time: whoever looks gets plain data, and a closed page stops nothing."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from lib_negtrans.core.attention import AttentionShapeError
from lib_negtrans.errors import UserError
from lib_negtrans.memory import is_out_of_memory
from lib_negtrans.pictures.images import ImageError
from lib_negtrans.training.errors import sentence

logger = logging.getLogger(__name__)

IDLE, WAITING, WORKING, FINISHED, STOPPED, FAILED = "idle", "waiting", "working", "finished", "stopped", "failed"
AT_REST = (IDLE, FINISHED, STOPPED, FAILED)


@dataclass(frozen=True)
class JobSnapshot:
    """How a job stands. number: of the job in this process, so that a viewer notices a new one."""

    number: int = 0
    phase: str = IDLE
    stopping: bool = False
    error: str | None = None

    @property
    def busy(self) -> bool:
        return self.phase not in AT_REST

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return dataclasses.asdict(self) | {"busy": self.busy}


State = TypeVar("State", bound=JobSnapshot)


class BackgroundJob(Generic[State]):
    """What runners of such jobs have in common. Every method may be called from any thread."""

    too_large: str | None = None  # what to do when memory runs out, if it is not what helps a training

    def __init__(self, state: State) -> None:
        self._lock = threading.RLock()
        self._state = state
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def snapshot(self) -> State:
        """The state of the one under way, or else of the last one."""
        return self._state

    def request_stop(self) -> bool:
        """Stop after what is being done just now. False when nothing is under way."""
        with self._lock:
            if self._state.busy:
                self._stop.set()
                self._note(stopping=True)
            return self._state.busy

    def wait(self, timeout: float | None = None) -> State:
        """Until it has ended, and what began after it: for tests and scripts."""
        ends = None if timeout is None else time.monotonic() + timeout
        thread = None
        while (under_way := self._thread) is not None and under_way is not thread:
            thread = under_way
            thread.join(None if ends is None else max(0.0, ends - time.monotonic()))
        return self.snapshot()

    def _begin(self, state: State, work: Callable[..., None], *arguments: Any) -> State:
        """Start work(*arguments). Within the lock, when none is busy."""
        self._stop.clear()
        self._state = state
        name = f"negtrans-{type(self).__name__}"
        self._thread = threading.Thread(target=self._guarded, args=(work, *arguments), name=name, daemon=True)
        self._thread.start()
        return self.snapshot()

    def _guarded(self, work: Callable[..., None], *arguments: Any) -> None:
        """The thread: never raises, because nobody would see it."""
        try:
            work(*arguments)
        except Exception as error:
            self._end(FAILED, error=self._told(error))

    def _told(self, error: Exception) -> str:
        if isinstance(error, ImageError):
            return f"The render {error}"
        if isinstance(error, UserError | AttentionShapeError):
            return str(error)
        if self.too_large and is_out_of_memory(error):
            return self.too_large
        logger.error("a job failed", exc_info=error)
        return sentence(error)

    def _note(self, **changes: Any) -> None:
        with self._lock:
            self._state = dataclasses.replace(self._state, **changes)

    def _end(self, phase: str, **changes: Any) -> None:
        self._note(phase=phase, stopping=False, **changes)
