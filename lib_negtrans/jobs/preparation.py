"""One preparation at a time, in a thread of its own, for the tab and the API: a closed page stops nothing."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lib_negtrans.preparation.build import PrepareError, PrepareProgress, PrepareReport, prepare, refuse
from lib_negtrans.preparation.params import PrepareParams

from .background import BackgroundJob

logger = logging.getLogger(__name__)

IDLE, WORKING, FINISHED, STOPPED, FAILED = "idle", "working", "finished", "stopped", "failed"
MAXIMUM_LINES = 200


@dataclass(frozen=True)
class PrepareSnapshot:
    """How a preparation stands. number: of the job in this process; lines: the report, when it is finished."""

    number: int = 0
    phase: str = IDLE
    target: str = ""
    size: int = 0
    doing: str = ""
    done: int = 0
    total: int = 0
    lines: list[str] = field(default_factory=list)
    error: str | None = None

    @property
    def busy(self) -> bool:
        return self.phase == WORKING

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return dataclasses.asdict(self) | {"busy": self.busy}


class PrepareRunner(BackgroundJob[PrepareSnapshot]):
    """Runs `prepare`; when it is stopped, nothing is left of what was written."""

    def __init__(self) -> None:
        super().__init__(PrepareSnapshot())

    def start(self, source: Path, target: Path, params: PrepareParams, overwrite: bool = False) -> PrepareSnapshot:
        """Begin. Raises PrepareError while one is under way or for folders that cannot be, ParamError.

        What the pictures tell ends in a failed job.
        """
        with self._lock:
            if self._state.busy:
                raise PrepareError(f"{self._state.target} is being prepared: wait for its end, or stop it first.")
            params.validate()
            refuse(source, target, overwrite)
            state = PrepareSnapshot(self._state.number + 1, WORKING, str(target), params.size)
            job = (Path(source), Path(target), params, overwrite)
            return self._begin("negtrans-prepare", state, self._work, *job)

    def _work(self, source: Path, target: Path, params: PrepareParams, overwrite: bool) -> None:
        job = prepare(source, target, params, overwrite)
        try:
            while not self._stop.is_set():
                try:
                    progress: PrepareProgress = next(job)
                except StopIteration as end:
                    report: PrepareReport = end.value
                    self._note(phase=FINISHED, lines=report.lines()[:MAXIMUM_LINES], target=str(report.target))
                    return
                self._note(doing=str(progress), done=progress.done, total=progress.total)
            job.close()
            self._note(phase=STOPPED)
        except PrepareError as error:
            self._note(phase=FAILED, error=str(error))
        except Exception as error:
            logger.exception("preparing %s failed", target)
            self._note(phase=FAILED, error=f"{type(error).__name__}: {error}")
