"""One training at a time, in a thread of its own, for the tab, the API and the standalone page. No host, no UI.

Started while another is under way, it waits for its turn in a queue.

    manager = TrainingManager(workplace)      # one for the whole process
    manager.start(TrainingRequest(name, images, params))
    manager.snapshot()                        # whenever somebody looks: plain data, also after the browser was closed
    manager.request_stop()                    # ends it after the step under way, with everything saved

What differs between hosts is a `Workplace`; `LocalWorkplace` is one for a model that nobody else uses.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from pathlib import Path
from typing import Any

from lib_negtrans.embeddings.files import EmbeddingError, validate_name
from lib_negtrans.embeddings.folder import embedding_files
from lib_negtrans.models.protocol import HostError, ModelHost
from lib_negtrans.options import ParamError
from lib_negtrans.pictures.images import ImageError, load_picture
from lib_negtrans.training.checkpoint import checkpoints, runs_below
from lib_negtrans.training.data.captions import load_captions, named_template
from lib_negtrans.training.data.dataset import listed_files
from lib_negtrans.training.errors import TrainingError, sentence
from lib_negtrans.training.events import Event, Finished, Stopped
from lib_negtrans.training.judging.preview import Previews
from lib_negtrans.training.kinds import KINDS
from lib_negtrans.training.params import TrainingParams
from lib_negtrans.training.request import OTHER_FOLDERS, REQUEST_FILE, TrainingRequest, read_request
from lib_negtrans.training.run import Training

from .comparison import ComparisonRunner
from .preparation import PrepareRunner
from .queue import Queue
from .training_snapshot import BUSY, FAILED, FINISHED, IDLE, READING, STOPPED, TRAINING, WAITING, TrainingSnapshot
from .workplace import LocalWorkplace, Workplace

__all__ = [
    "BUSY", "FAILED", "FINISHED", "IDLE", "READING", "STOPPED", "TRAINING", "WAITING",
    "LocalWorkplace", "TrainingBusy", "TrainingManager", "TrainingRefused", "TrainingRequest", "TrainingSnapshot",
    "Workplace",
]  # fmt: skip

logger = logging.getLogger(__name__)


class TrainingRefused(Exception):
    """A request that cannot be started as it is; the message is one sentence that says what to do."""


class TrainingBusy(TrainingRefused):
    """A training of this name is under way or waits."""


class TrainingManager:
    """Runs `Training` jobs, one at a time. Every method may be called from any thread."""

    def __init__(self, workplace: Workplace):
        self.workplace = workplace
        self._lock = threading.RLock()
        self._state = TrainingSnapshot()
        self._job: Training | None = None
        self._stop = False
        self._thread: threading.Thread | None = None
        self._queue: Queue[TrainingRequest] = Queue()
        self.preparation = PrepareRunner()  # of folders to train on
        self.comparison = ComparisonRunner(workplace)  # of the checkpoints of a run

    def snapshot(self) -> TrainingSnapshot:
        """A copy of the state, of the job under way or else of the last one."""
        with self._lock:
            state = self._state.copy()
            state.queue = self._queue.names
            return state

    def run_folder(self, name: str) -> Path:
        """Where the run of an embedding keeps its files. Raises TrainingRefused for a name that cannot be a file."""
        try:
            return self.workplace.runs_folder / validate_name(name)
        except EmbeddingError as error:
            raise TrainingRefused(str(error)) from error

    def check_name(self, name: str, overwrite: bool = False, resume: bool = False, kind: str = "negative") -> str:
        """Gives the name back if a result can be written under it. Raises TrainingRefused, TrainingBusy."""
        self._refuse_twice(name)
        triggers = kind == "negative"
        try:
            validate_name(name, self.workplace.tokenizer() if triggers else None)
        except EmbeddingError as error:
            raise TrainingRefused(str(error)) from error
        out = self.out(name, kind)
        for other in embedding_files(self.workplace.embeddings_folder) if triggers else ():
            if other != out and other.stem.lower() == name.lower():
                raise TrainingRefused(f"{other} has the same trigger word: choose another name, or move that file.")
        if overwrite or resume:
            return name
        if out.exists():
            raise TrainingRefused(f"{out} exists already: choose another name, or tick Overwrite.")
        if earlier := checkpoints(self.run_folder(name)):
            raise TrainingRefused(f"There is a run of {name} with {earlier[0][0]} steps: resume it, or tick Overwrite.")
        return name

    def out(self, name: str, kind: str = "negative") -> Path:
        """The file that the finished result goes to."""
        return self.workplace.results_folder(kind) / f"{name}{KINDS[kind].suffix}"

    def start(self, request: TrainingRequest) -> TrainingSnapshot:
        """Start a training, or put it into the queue while another is under way.

        Raises TrainingBusy, TrainingRefused; what only the model can tell ends in a failed job.
        """
        with self._lock:
            request = self._check(request)
            if self._state.busy:
                self._queue.add(request)
                return self.snapshot()
            folder = self.run_folder(request.name)
            self._stop, self._job = False, None
            self._state = TrainingSnapshot(
                number=self._state.number + 1, phase=WAITING, name=request.name, steps=request.params.steps,
                run_folder=str(folder), started=time.time(), request=request.to_dict(),
                preview_source=str(request.preview_image) if request.preview_image else None,
            )  # fmt: skip
            self._thread = threading.Thread(target=self._work, args=(request,), name="negtrans-training", daemon=True)
            self._thread.start()
            return self.snapshot()

    def resume(self, name: str, overwrite: bool = False, **changes: Any) -> TrainingSnapshot:
        """Go on with the run of this name from its newest checkpoint, as asked for then but for changed parameters.

        Raises TrainingBusy, TrainingRefused, ParamError.
        """
        with self._lock:
            self._refuse_twice(name)
            folder = self.run_folder(name)
            if not checkpoints(folder):
                raise TrainingRefused(f"There is no interrupted run of {name}: start it.")
            try:
                request = read_request(folder, changes, resume=True, overwrite=overwrite)
            except ParamError:
                raise
            except (OSError, ValueError, KeyError, TypeError) as error:
                file = folder / REQUEST_FILE
                raise TrainingRefused(f"{file} cannot be read: start {name} afresh with Overwrite.") from error
            return self.start(request)

    def resumable(self) -> list[tuple[str, int, int]]:
        """(name, step, steps) of the runs that can be gone on with, the last written first."""
        found = []
        for folder, step in runs_below(self.workplace.runs_folder):
            try:
                steps = read_request(folder).params.steps
            except (OSError, ValueError, KeyError, TypeError):
                continue  # of another version or damaged: it cannot be gone on with here
            if step < steps:
                found.append((folder.name, step, steps))
        return found

    def request_stop(self) -> bool:
        """Stop after the step under way; what is done is saved. False when nothing is running."""
        with self._lock:
            if not self._state.busy:
                return False
            self._stop = self._state.stopping = True
            if self._job is not None:
                self._job.request_stop()
            return True

    def cancel(self, name: str | None = None) -> list[str]:
        """Take a waiting training out of the queue, or without a name all of them; gives the names that were in it."""
        with self._lock:
            return self._queue.cancel(name)

    def wait(self, timeout: float | None = None) -> TrainingSnapshot:
        """Until the training under way and those in the queue have ended: for tests and scripts."""
        ends = None if timeout is None else time.monotonic() + timeout
        thread = None
        while thread is not self._thread:
            thread = self._thread
            thread.join(None if ends is None else max(0.0, ends - time.monotonic()))
        return self.snapshot()

    def _refuse_twice(self, name: str) -> None:
        with self._lock:
            if self._state.busy and self._state.name == name:
                raise TrainingBusy(f"{name} is being trained: wait for its end, or interrupt it first.")
            if name in self._queue:
                raise TrainingBusy(f"{name} waits for its turn already: cancel it first to change it.")

    def _check(self, request: TrainingRequest) -> TrainingRequest:
        """What can be told without the model and without reading every picture; the request with its template found."""
        self.check_name(request.name, request.overwrite, request.resume, request.kind)
        try:
            request.params.validate()
            _ = request.params.rates
            if isinstance(request.params, TrainingParams):
                template = named_template(request.params.template, self.workplace.templates_folder)
                load_captions(template)
                params = dataclasses.replace(request.params, template=template)
                request = dataclasses.replace(request, params=params)
            listed_files(request.images, request.params.pattern)
        except (ParamError, TrainingError) as error:
            raise TrainingRefused(str(error)) from error
        for other in (getattr(request, kind) for kind in OTHER_FOLDERS):
            if other is not None and not other.is_dir():
                raise TrainingRefused(f"There is no folder {other}: give a folder with pictures, or leave it empty.")
        if request.preview_image is not None:
            try:
                load_picture(request.preview_image)
            except ImageError as error:
                raise TrainingRefused(f"The preview picture {request.preview_image.name} {error}") from error
        return request

    def _work(self, request: TrainingRequest) -> None:
        """The thread: never raises, because nobody would see it."""
        try:
            with self.workplace.turn(f"negtrans-train-{request.name}") as host:
                if self._stop:
                    self._end(STOPPED, "Stopped before it began; nothing was written.")
                    return
                self._train(host, request)
        except (TrainingError, HostError, ParamError, EmbeddingError) as error:
            self._end(FAILED, str(error))
        except Exception as error:
            logger.exception("training %s failed", request.name)
            self._end(FAILED, sentence(error))
        self._begin_next()

    def _begin_next(self) -> None:
        """The first of the queue that can be started."""
        with self._lock:
            said = [f"{self._state.name}: {self._state.phase}. {self._state.log[-1] if self._state.log else ''}"]
            while (request := self._queue.take()) is not None:
                try:
                    self.start(request)
                    self._state.log[:0] = said
                    return
                except (TrainingRefused, OSError) as error:  # what was right when it was asked for may not be now
                    said.append(f"{request.name} could not be started: {error}")
                    self._state.log.append(said[-1])

    def _train(self, host: ModelHost, request: TrainingRequest) -> None:
        folder = self.run_folder(request.name)
        source, preview = request.render(), Previews.of(host, request, folder / "previews")
        job = Training(request, host, folder, self.out(request.name, request.kind), preview=preview)
        with self._lock:
            self._job = job
            self._state.phase = READING
            self._state.preview_source = str(source) if source else None
            if self._stop:  # it was asked for before there was a job to tell
                job.request_stop()
        last: Event | None = None
        for event in job.run():
            last = event
            with self._lock:
                self._state.note(event)
            if self.workplace.progress(self.snapshot()):
                self.request_stop()
        if isinstance(last, Finished):
            self._publish(last)
        elif isinstance(last, Stopped):
            self._end(STOPPED)
        else:
            self._end(FAILED, "The training ended without a result: please report this.")

    def _publish(self, finished: Finished) -> None:
        notes = [*finished.complaints, *self.workplace.publish(finished.result)]
        with self._lock:
            self._state.log += notes
            self._state.published = True
        self._end(FINISHED)

    def _end(self, phase: str, line: str | None = None) -> None:
        with self._lock:
            state = self._state
            state.phase, state.ended, state.stopping, state.eta = phase, time.time(), False, None
            if phase == FAILED:
                state.error = line
            if line:
                state.log.append(line)
            self._job = None
