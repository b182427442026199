"""One comparison of checkpoints at a time, in a thread of its own, for the tab: a closed page stops nothing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_negtrans.embeddings.files import EmbeddingError
from lib_negtrans.models.protocol import HostError
from lib_negtrans.options import ParamError
from lib_negtrans.pictures.images import ImageError, save_png
from lib_negtrans.training.checkpoint import runs_below
from lib_negtrans.training.common_params import CommonParams
from lib_negtrans.training.errors import TrainingError, sentence
from lib_negtrans.training.judging.comparison import GRID_FILE, Candidate, candidates, chosen, compare, grid, pick
from lib_negtrans.training.request import read_request
from lib_negtrans.translation.params import TranslationParams

from .background import BackgroundJob
from .workplace import Workplace

logger = logging.getLogger(__name__)

IDLE, WAITING, WORKING, FINISHED, STOPPED, FAILED = "idle", "waiting", "working", "finished", "stopped", "failed"


class ComparisonRefused(Exception):
    """A comparison that cannot be made as it was asked for; the message is one sentence."""


@dataclass(frozen=True)
class ComparisonSnapshot:
    """How a comparison stands. number: of the job in this process; grid: the picture, when it is finished."""

    number: int = 0
    phase: str = IDLE
    run: str = ""
    done: int = 0
    total: int = 0
    grid: str | None = None
    error: str | None = None

    @property
    def busy(self) -> bool:
        return self.phase in (WAITING, WORKING)


class ComparisonRunner(BackgroundJob[ComparisonSnapshot]):
    """Translates a render with several checkpoints of a run."""

    def __init__(self, workplace: Workplace):
        super().__init__(ComparisonSnapshot())
        self.workplace = workplace

    def runs(self) -> list[str]:
        """The names of the runs that have checkpoints, the last written first."""
        return [folder.name for folder, _ in runs_below(self.workplace.runs_folder)]

    def offered(self, run: str) -> list[str]:
        """What can be compared of a run: "step 50", .., "best". Raises ComparisonRefused."""
        return [candidate.key for candidate in self._candidates(run)]

    def start(self, run: str, keys: Sequence[str], render: Path | None = None) -> ComparisonSnapshot:
        """Begin; without keys all are compared, without a render the run's own. Raises ComparisonRefused."""
        with self._lock:
            if self._state.busy:
                raise ComparisonRefused("A comparison is under way: wait for its end, or stop it first.")
            try:
                found = chosen(self._candidates(run), keys)
            except TrainingError as error:
                raise ComparisonRefused(str(error)) from error
            picture, params = self._of_run(run)
            state = ComparisonSnapshot(self._state.number + 1, WAITING, run, 0, len(found) + 1)
            job = (run, found, render or picture, params)
            return self._begin("negtrans-compare", state, self._work, *job)

    def pick(self, run: str, key: str, name: str, overwrite: bool = False) -> list[str]:
        """Make one of them the embedding `name`; sentences about it. Raises ComparisonRefused."""
        path = self.workplace.embeddings_folder / f"{name}.pt"
        try:
            (candidate,) = chosen(self._candidates(run), [key])
            complaints = pick(candidate, path, overwrite)
        except FileExistsError as error:
            raise ComparisonRefused(f"{path} exists already: choose another name, or tick Overwrite.") from error
        except (TrainingError, EmbeddingError, OSError) as error:
            raise ComparisonRefused(str(error)) from error
        return [f"{path} holds the vectors of {candidate.label}.", *complaints, *self.workplace.publish(path)]

    def _candidates(self, run: str) -> list[Candidate]:
        if run not in self.runs():
            raise ComparisonRefused("Choose a run that has checkpoints.")
        try:
            return candidates(self.workplace.runs_folder / run)
        except (TrainingError, EmbeddingError) as error:
            raise ComparisonRefused(str(error)) from error

    def _of_run(self, run: str) -> tuple[Path, CommonParams]:
        """The render that the run's previews show, and its parameters."""
        try:
            request = read_request(self.workplace.runs_folder / run)
            if (picture := request.render()) is None:
                raise IndexError(run)
        except ParamError as error:  # of a run that another version made
            raise ComparisonRefused(str(error)) from error
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise ComparisonRefused(f"The render of {run} no longer exists: drop one to compare on.") from error
        return picture, request.params

    def _work(self, run: str, found: list[Candidate], render: Path, training: CommonParams) -> None:
        try:
            with self.workplace.turn(f"negtrans-compare-{run}") as host:
                self._note(phase=WORKING)
                params = TranslationParams(strength=training.strength)
                pictures: list[Any] = []
                for label, picture in compare(host, found, render, training.size, params):
                    pictures.append((label, picture))
                    self._note(done=len(pictures))
                    if self._stop.is_set():
                        self._note(phase=STOPPED)
                        return
            target = self.workplace.runs_folder / run / GRID_FILE
            save_png(target, grid(pictures, run))
            self._note(phase=FINISHED, grid=str(target))
        except (TrainingError, HostError, EmbeddingError) as error:
            self._note(phase=FAILED, error=str(error))
        except ImageError as error:
            self._note(phase=FAILED, error=f"The render {error}")
        except Exception as error:
            logger.exception("comparing %s failed", run)
            self._note(phase=FAILED, error=sentence(error))
