"""One comparison of checkpoints at a time, in a thread of its own, for the tab: a closed page stops nothing."""

from __future__ import annotations

import dataclasses
import json
import logging
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..embeddings import EmbeddingError
from ..hosts.protocol import HostError, ModelHost
from ..images import ImageError, save_png
from ..params import TrainingParams, TranslationParams
from .checkpoint import checkpoints
from .comparison import Candidate, candidates, chosen, compare, grid, pick
from .errors import TrainingError, sentence

logger = logging.getLogger(__name__)

IDLE, WAITING, WORKING, FINISHED, STOPPED, FAILED = "idle", "waiting", "working", "finished", "stopped", "failed"
REQUEST_FILE, GRID_FILE = "request.json", "comparison.png"


class ComparisonRefused(Exception):
    """A comparison that cannot be made as it was asked for; the message is one sentence."""


class Workplace(Protocol):
    """What a comparison needs of the program around it: part of the training's workplace."""

    embeddings_folder: Path
    runs_folder: Path

    def turn(self, title: str) -> AbstractContextManager[ModelHost]: ...

    def publish(self, embedding: Path) -> list[str]: ...


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


class ComparisonRunner:
    """Translates a render with several checkpoints of a run. Every method may be called from any thread."""

    def __init__(self, workplace: Workplace):
        self.workplace = workplace
        self._lock = threading.RLock()
        self._state = ComparisonSnapshot()
        self._stop = False
        self._thread: threading.Thread | None = None

    def snapshot(self) -> ComparisonSnapshot:
        """The state of the one under way, or else of the last one."""
        with self._lock:
            return self._state

    def runs(self) -> list[str]:
        """The names of the runs that have checkpoints, the last written first."""
        folder = self.workplace.runs_folder
        found = []
        for run in folder.iterdir() if folder.is_dir() else ():
            if saved := checkpoints(run):
                found.append((saved[0][1].stat().st_mtime, run.name))
        return [name for _, name in sorted(found, reverse=True)]

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
            job = (run, found, render or picture, params)
            self._stop = False
            self._state = ComparisonSnapshot(self._state.number + 1, WAITING, run, 0, len(found) + 1)
            self._thread = threading.Thread(target=self._work, args=job, name="negtrans-compare", daemon=True)
            self._thread.start()
            return self._state

    def request_stop(self) -> bool:
        """Stop after the picture under way. False when nothing is under way."""
        with self._lock:
            self._stop = True
            return self._state.busy

    def wait(self, timeout: float | None = None) -> ComparisonSnapshot:
        """Until it has ended: for tests and scripts."""
        if self._thread is not None:
            self._thread.join(timeout)
        return self.snapshot()

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

    def _of_run(self, run: str) -> tuple[Path, TrainingParams]:
        """The render that the run's previews show, and its parameters."""
        from .dataset import training_files

        try:
            request = json.loads((self.workplace.runs_folder / run / REQUEST_FILE).read_text(encoding="utf-8"))
            known = TrainingParams.options()
            params = TrainingParams(**{k: v for k, v in request["params"].items() if k in known})
            picture = request.get("preview_image") or training_files(Path(request["images"]), params.pattern)[0]
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise ComparisonRefused(f"The render of {run} is not there any more: drop one to compare on.") from error
        return Path(picture), params

    def _work(self, run: str, found: list[Candidate], render: Path, training: TrainingParams) -> None:
        """The thread: never raises, because nobody would see it."""
        try:
            with self.workplace.turn(f"negtrans-compare-{run}") as host:
                self._note(phase=WORKING)
                params = TranslationParams(strength=training.strength)
                pictures: list[Any] = []
                for label, picture in compare(host, found, render, training.size, params):
                    pictures.append((label, picture))
                    self._note(done=len(pictures))
                    if self._stop:
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

    def _note(self, **changes: Any) -> None:
        with self._lock:
            self._state = dataclasses.replace(self._state, **changes)
