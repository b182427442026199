"""A job in a thread of its own, one at a time: whoever looks gets plain data, and a closed page stops nothing."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar


class Snapshot(Protocol):
    """A frozen dataclass that says how a job stands."""

    @property
    def busy(self) -> bool: ...


State = TypeVar("State", bound=Snapshot)


class BackgroundJob(Generic[State]):
    """What runners of such jobs have in common. Every method may be called from any thread."""

    def __init__(self, state: State) -> None:
        self._lock = threading.RLock()
        self._state = state
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def snapshot(self) -> State:
        """The state of the one under way, or else of the last one."""
        with self._lock:
            return self._state

    def request_stop(self) -> bool:
        """Stop after what is being done just now. False when nothing is under way."""
        with self._lock:
            self._stop.set()
            return self._state.busy

    def wait(self, timeout: float | None = None) -> State:
        """Until it has ended: for tests and scripts."""
        if self._thread is not None:
            self._thread.join(timeout)
        return self.snapshot()

    def _begin(self, name: str, state: State, work: Callable[..., None], *arguments: Any) -> State:
        """Start work(*arguments), which never raises, as nobody would see it. Within the lock, when none is busy."""
        self._stop.clear()
        self._state = state
        self._thread = threading.Thread(target=work, args=arguments, name=name, daemon=True)
        self._thread.start()
        return state

    def _note(self, **changes: Any) -> None:
        with self._lock:
            self._state = dataclasses.replace(self._state, **changes)
