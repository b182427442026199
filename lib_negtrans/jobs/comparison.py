"""One comparison of checkpoints at a time, in a thread of its own, for the tab: a closed page stops nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib_negtrans.embeddings.files import EmbeddingError
from lib_negtrans.options import ParamError
from lib_negtrans.pictures.images import save_png
from lib_negtrans.training.checkpoint import runs_below
from lib_negtrans.training.common_params import CommonParams
from lib_negtrans.training.errors import TrainingError
from lib_negtrans.training.judging.comparison import GRID_FILE, Candidate, candidates, chosen, compare, grid, pick
from lib_negtrans.training.request import read_request
from lib_negtrans.translation.params import TranslationParams

from .background import FINISHED, STOPPED, WAITING, WORKING, BackgroundJob, JobSnapshot
from .workplace import Workplace


class ComparisonRefused(Exception):
    """A comparison that cannot be made as it was asked for; the message is one sentence."""


@dataclass(frozen=True)
class ComparisonSnapshot(JobSnapshot):
    """How a comparison stands. grid: the picture, when it is finished."""

    run: str = ""
    done: int = 0
    total: int = 0
    grid: str | None = None


class ComparisonRunner(BackgroundJob[ComparisonSnapshot]):
    """Translates a render with several checkpoints of a run."""

    too_large = "This needs more memory than there is: compare on a smaller render."

    def __init__(self, workplace: Workplace):
        super().__init__(ComparisonSnapshot())
        self.workplace = workplace

    def runs(self, kinds: Sequence[str] = ("negative",)) -> list[str]:
        """The names of the runs of these kinds that have checkpoints, the last written first."""
        return [folder.name for folder, _ in runs_below(self.workplace.runs_folder) if _kind(folder) in kinds]

    def offered(self, run: str) -> list[str]:
        """What can be compared of a run: "step 50", .., "best". Raises ComparisonRefused."""
        return [candidate.key for candidate in self._candidates(run)]

    def start(self, run: str, keys: Sequence[str], render: Path | None = None) -> ComparisonSnapshot:
        """Begin; without keys all are compared, without a render the run's own. Raises ComparisonRefused."""
        with self._lock:
            if self._state.busy:
                raise ComparisonRefused("A comparison is under way: wait for its end, or stop it first.")
            found = self._candidates(run, keys)
            picture, params = self._of_run(run)
            state = ComparisonSnapshot(self._state.number + 1, WAITING, run=run, total=len(found) + 1)
            return self._begin(state, self._work, run, found, render or picture, params)

    def pick(self, run: str, key: str, name: str, overwrite: bool = False) -> list[str]:
        """Make one of them the embedding `name`; sentences about it. Raises ComparisonRefused."""
        path = self.workplace.embeddings_folder / f"{name}.pt"
        (candidate,) = self._candidates(run, [key])
        try:
            complaints = pick(candidate, path, overwrite)
        except FileExistsError as error:
            raise ComparisonRefused(f"{path} exists already: choose another name, or tick Overwrite.") from error
        except (TrainingError, EmbeddingError, OSError) as error:
            raise ComparisonRefused(str(error)) from error
        return [f"{path} holds the vectors of {candidate.label}.", *complaints, *self.workplace.publish(path)]

    def _candidates(self, run: str, keys: Sequence[str] | None = None) -> list[Candidate]:
        """All of a run, or what `chosen` takes of them. Raises ComparisonRefused."""
        if run not in self.runs():
            raise ComparisonRefused("Choose a run that has checkpoints.")
        try:
            found = candidates(self.workplace.runs_folder / run)
            return found if keys is None else chosen(found, keys)
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
        with self.workplace.turn(f"negtrans-compare-{run}") as host:
            self._note(phase=WORKING)
            params = TranslationParams(strength=training.strength)
            pictures: list[Any] = []
            for label, picture in compare(host, found, render, training.size, params):
                pictures.append((label, picture))
                self._note(done=len(pictures))
                if self._stop.is_set():
                    return self._end(STOPPED)
        target = self.workplace.runs_folder / run / GRID_FILE
        save_png(target, grid(pictures, run))
        return self._end(FINISHED, grid=str(target))


def _kind(run_folder: Path) -> str:
    """Of what a run trains; of one whose request cannot be read the first there was."""
    try:
        return read_request(run_folder).kind
    except (OSError, ValueError, KeyError, TypeError):
        return "negative"
