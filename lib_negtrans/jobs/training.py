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
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lib_negtrans.embeddings.files import EmbeddingError, validate_name
from lib_negtrans.embeddings.folder import embedding_files
from lib_negtrans.files import file_and_weight
from lib_negtrans.lora.merge import Loras, merged
from lib_negtrans.models.protocol import ModelHost
from lib_negtrans.options import ParamError
from lib_negtrans.pictures.images import ImageError, load_picture
from lib_negtrans.training.checkpoint import checkpoints, runs_below
from lib_negtrans.training.data.captions import load_captions, named_template
from lib_negtrans.training.data.dataset import listed_files
from lib_negtrans.training.errors import TrainingError
from lib_negtrans.training.events import Event, Finished
from lib_negtrans.training.judging.preview import Previews
from lib_negtrans.training.kinds import KINDS
from lib_negtrans.training.params import TrainingParams
from lib_negtrans.training.request import OTHER_FOLDERS, REQUEST_FILE, TrainingRequest, read_request
from lib_negtrans.training.run import Training

from .background import FAILED, FINISHED, STOPPED, WAITING, BackgroundJob
from .comparison import ComparisonRunner
from .preparation import PrepareRunner
from .training_snapshot import READING, TrainingSnapshot
from .workplace import Workplace

CLASS_FOLDER = "class"  # of a run folder, for class pictures that have no folder of their own


class TrainingRefused(Exception):
    """A request that cannot be started as it is; the message is one sentence that says what to do."""


class TrainingBusy(TrainingRefused):
    """A training of this name is under way or waits."""


class SavedRun(NamedTuple):
    """A run that can be gone on with."""

    name: str
    step: int
    steps: int
    kind: str


class TrainingManager(BackgroundJob[TrainingSnapshot]):
    """Runs `Training` jobs, one at a time. Every method may be called from any thread."""

    def __init__(self, workplace: Workplace):
        super().__init__(TrainingSnapshot())
        self.workplace = workplace
        self._queue: list[TrainingRequest] = []
        self.preparation = PrepareRunner()  # of folders to train on
        self.comparison = ComparisonRunner(workplace)  # of the checkpoints of a run

    def snapshot(self) -> TrainingSnapshot:
        with self._lock:
            return dataclasses.replace(self._state, queue=[request.name for request in self._queue])

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
        if kind not in KINDS:
            raise TrainingRefused(f"There is no kind {kind!r} of training: there are {', '.join(KINDS)}.")
        try:
            validate_name(name, self.workplace.tokenizer() if triggers else None)
        except EmbeddingError as error:
            raise TrainingRefused(str(error)) from error
        out = self.out(name, kind)
        found = embedding_files(out.parent) if triggers else out.parent.rglob(f"*{out.suffix}")
        for other in found:
            if other != out and other.stem.lower() == name.lower():
                raise TrainingRefused(f"{other} has the same name: choose another name, or move that file.")
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
                self._queue.append(request)
                return self.snapshot()
            return self._begin(self._waiting(request), self._work, request)

    def _waiting(self, request: TrainingRequest) -> TrainingSnapshot:
        return TrainingSnapshot(
            self._state.number + 1, WAITING, name=request.name, kind=request.kind, steps=request.params.steps,
            run_folder=str(self.run_folder(request.name)), started=time.time(), request=request.to_dict(),
            preview_source=str(request.preview_image) if request.preview_image else None,
        )  # fmt: skip

    def resume(self, name: str, overwrite: bool = False, /, **changes: Any) -> TrainingSnapshot:
        """Go on with the run of this name from its newest checkpoint, as asked for then but for changed parameters.

        Raises TrainingBusy, TrainingRefused, ParamError.
        """
        with self._lock:
            self._refuse_twice(name)
            folder = self.run_folder(name)
            if not (saved := checkpoints(folder)):
                raise TrainingRefused(f"There is no interrupted run of {name}: start it.")
            try:
                known = KINDS[read_request(folder).kind].options.options()
                if unknown := sorted(changes.keys() - known.keys()):
                    raise ParamError(f"unknown parameter {unknown[0]!r}.")
                request = read_request(folder, changes, resume=True, overwrite=overwrite)
            except ParamError:
                raise
            except (OSError, ValueError, KeyError, TypeError) as error:
                file = folder / REQUEST_FILE
                raise TrainingRefused(f"{file} cannot be read: start {name} afresh with Overwrite.") from error
            steps, done = request.params.rates.steps(request.params.steps), saved[0][0]
            if steps < done:
                raise TrainingRefused(f"{name} has {done} steps already, not {steps}: ask for more steps.")
            return self.start(request)

    def resumable(self, kinds: Sequence[str] = tuple(KINDS)) -> list[SavedRun]:
        """The runs of these kinds that can be gone on with, the last written first."""
        found = []
        for folder, step in runs_below(self.workplace.runs_folder):
            try:
                request = read_request(folder)
            except (OSError, ValueError, KeyError, TypeError):
                continue  # of another version or damaged: it cannot be gone on with here
            if step < request.params.steps and request.kind in kinds:
                found.append(SavedRun(folder.name, step, request.params.steps, request.kind))
        return found

    def named_loras(self, names: Sequence[str]) -> tuple[str, ...]:
        """NAME or NAME:WEIGHT of files in the folder of LoRAs -> FILE:WEIGHT. Raises TrainingRefused."""
        folder, found = self.workplace.results_folder("lora"), []
        files = {path.stem: path for path in folder.rglob("*.safetensors")}
        for text in filter(None, map(str.strip, names)):
            path, weight = file_and_weight(text)
            if path.name not in files:
                raise TrainingRefused(f"There is no LoRA {text} in {folder}.")
            found.append(f"{files[path.name]}:{weight!r}")
        return tuple(found)

    def cancel(self, name: str | None = None) -> list[str]:
        """Take a waiting training out of the queue, or without a name all of them; gives the names that were in it."""
        with self._lock:
            gone = [request.name for request in self._queue if name in (None, request.name)]
            self._queue = [request for request in self._queue if request.name not in gone]
            return gone

    def _refuse_twice(self, name: str) -> None:
        with self._lock:
            if self._state.busy and self._state.name == name:
                raise TrainingBusy(f"{name} is being trained: wait for its end, or interrupt it first.")
            if any(request.name == name for request in self._queue):
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
            elif getattr(request.params, "prior", "") == "class" and request.class_images is None:
                request = dataclasses.replace(request, class_images=self.run_folder(request.name) / CLASS_FOLDER)
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

    def _guarded(self, *work: Any) -> None:
        super()._guarded(*work)
        self._begin_next()

    def _work(self, request: TrainingRequest) -> None:
        title, loras = f"negtrans-train-{request.name}", Loras.named(request.loras)
        with self.workplace.turn(title) as host, merged(host, loras.read()):
            if self._stop.is_set():
                self._end(STOPPED, said=["Stopped before it began; nothing was written."])
            else:
                self._train(host, request)

    def _begin_next(self) -> None:
        """The first of the queue that can be started; one that cannot has failed, under its own name."""
        with self._lock:
            while self._queue and not self._state.busy:
                request, before = self._queue.pop(0), self._state
                said = [f"{before.name}: {before.phase}. {before.log[-1] if before.log else ''}"]
                try:
                    self.start(request)
                    return self._note(log=said)
                except (TrainingRefused, OSError) as error:  # what was right when it was asked for may not be now
                    self._state = dataclasses.replace(self._waiting(request), log=said)
                    self._end(FAILED, error=f"{request.name} could not be started: {error}")

    def _train(self, host: ModelHost, request: TrainingRequest) -> None:
        folder = self.run_folder(request.name)
        source, preview = request.render(), Previews.of(host, request, folder / "previews")
        job = Training(request, host, folder, self.out(request.name, request.kind), preview=preview)
        self._note(phase=READING, preview_source=str(source) if source else None)
        last: Event | None = None
        for event in job.run():
            last = event
            with self._lock:
                self._state = self._state.noted(event)
            if self.workplace.progress(self.snapshot()):
                self.request_stop()
            if self._stop.is_set():
                job.request_stop()
        if isinstance(last, Finished):
            said = [*last.complaints, *self.workplace.publish(last.result, request.kind)]
            self._end(FINISHED, said=said, published=True)
        else:
            self._end(STOPPED)

    def _end(self, phase: str, said: Sequence[str] = (), error: str | None = None, **changes: Any) -> None:
        with self._lock:
            log = [*self._state.log, *said, *filter(None, [error])]
            super()._end(phase, ended=time.time(), eta=None, log=log, error=error, **changes)
