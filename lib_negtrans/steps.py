"""Jobs as generators of steps, run to their end."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeVar

Step = TypeVar("Step")
Result = TypeVar("Result")


def finish(steps: Generator[Step, None, Result], on_step: Callable[[Step], object] | None = None) -> Result:
    """Run a generator of steps to its end, on_step with each, and give its return value."""
    while True:
        try:
            step = next(steps)
        except StopIteration as stop:
            result: Result = stop.value
            return result
        if on_step is not None:
            on_step(step)
