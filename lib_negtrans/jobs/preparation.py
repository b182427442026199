"""One preparation at a time, in a thread of its own, for the tab and the API: a closed page stops nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from lib_negtrans.preparation.build import PrepareError, PrepareReport, prepare, refuse
from lib_negtrans.preparation.params import PrepareParams

from .background import FINISHED, STOPPED, WORKING, BackgroundJob, JobSnapshot

MAXIMUM_LINES = 200


@dataclass(frozen=True)
class PrepareSnapshot(JobSnapshot):
    """How a preparation stands. lines: the report, when it is finished."""

    target: str = ""
    size: int = 0
    doing: str = ""
    done: int = 0
    total: int = 0
    lines: list[str] = field(default_factory=list)


class PrepareRunner(BackgroundJob[PrepareSnapshot]):
    """Runs `prepare`; when it is stopped, nothing is left of what was written."""

    too_large = "This needs more memory than there is: close other programs."

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
            state = PrepareSnapshot(self._state.number + 1, WORKING, target=str(target), size=params.size)
            return self._begin(state, self._work, source, target, params, overwrite)

    def _work(self, source: Path, target: Path, params: PrepareParams, overwrite: bool) -> None:
        job = prepare(source, target, params, overwrite)
        while not self._stop.is_set():
            try:
                progress = next(job)
            except StopIteration as end:
                report: PrepareReport = end.value
                return self._end(FINISHED, lines=report.lines()[:MAXIMUM_LINES], target=str(report.target))
            self._note(doing=str(progress), done=progress.done, total=progress.total)
        job.close()
        return self._end(STOPPED)
