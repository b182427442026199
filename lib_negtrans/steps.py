"""Jobs as generators of steps, run to their end."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any


def finish(steps: Generator, on_step: Callable[[Any], object] | None = None) -> Any:
    """Run a generator of steps to its end, on_step with each, and give its return value."""
    while True:
        try:
            step = next(steps)
        except StopIteration as stop:
            return stop.value
        if on_step is not None:
            on_step(step)
