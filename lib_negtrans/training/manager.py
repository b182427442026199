"""One training at a time, in a thread of its own, for the tab, the API and the standalone page. No host, no UI.

Started while another is under way, it waits for its turn in a queue.

    manager = TrainingManager(workplace)      # one for the whole process
    manager.start(TrainingRequest(name, images, params))
    manager.snapshot()                        # whenever somebody looks: plain data, also after the browser was closed
    manager.request_stop()                    # ends it after the step under way, with everything saved

What differs between hosts is a `Workplace`: whose turn it is, which model, where files go, what to do with a finished
embedding. `LocalWorkplace` is one for a model that nobody else uses.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sized
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..embedding_card import write_card
from ..embeddings import EmbeddingError, read_embedding, validate_name
from ..files import write_text_atomic
from ..hosts.protocol import HostError, ModelHost
from ..images import ImageError, load_picture
from ..params import ParamError, TrainingParams
from ..preparation.runner import PrepareRunner
from .captions import load_captions, named_template
from .checkpoint import checkpoints
from .comparing import ComparisonRunner
from .dataset import training_files
from .errors import TrainingError, sentence
from .events import Caching, Event, Finished, Judged, Preview, Saved, Started, StepDone, Stopped, Validated
from .lr_schedule import parse_learning_rate
from .negative import NegativeTraining
from .preview import TranslationPreview
from .queue import Queue
from .training_data import Folders

logger = logging.getLogger(__name__)

REQUEST_FILE = "request.json"
EMBEDDING_SUFFIXES = (".pt", ".safetensors", ".bin")
MAXIMUM_POINTS = 1000  # of the loss curve; beyond that every second one is dropped
MAXIMUM_LINES = 1000
STEP_NUMBERS = ("loss", "loss_average", "learning_rate", "grad_norm", "vector_norm", "change", "rate", "eta")

IDLE, WAITING, READING, TRAINING, FINISHED, STOPPED, FAILED = (
    "idle", "waiting", "reading", "training", "finished", "stopped", "failed",
)  # fmt: skip
BUSY = (WAITING, READING, TRAINING)


class TrainingRefused(Exception):
    """A request that cannot be started as it is; the message is one sentence that says what to do."""


class TrainingBusy(TrainingRefused):
    """A training of this name is under way or waits."""


class Workplace(Protocol):
    """What a training needs of the program around it."""

    embeddings_folder: Path  # the finished NAME.pt goes here
    runs_folder: Path  # runs_folder/NAME holds checkpoints, loss.csv, previews

    def turn(self, title: str) -> AbstractContextManager[ModelHost]:
        """Waits until no other job uses the model, then gives it. Entered and left in the manager's thread."""
        ...

    def progress(self, snapshot: TrainingSnapshot) -> bool:
        """Called after every event, in that thread; True asks the training to stop (a host's own interrupt button)."""
        ...

    def publish(self, embedding: Path) -> list[str]:
        """Make a finished embedding known, during the turn; returns sentences for the user: why it is not shown."""
        ...

    def tokenizer(self) -> Callable[[str], Sized] | None:
        """Text -> its CLIP tokens, if that can be had at once; used to check a name as it is typed."""
        ...

    @property
    def templates_folder(self) -> Path | None:
        """The program's own caption templates, which may be named without their path."""
        ...


class LocalWorkplace:
    """A workplace for a model that only this process uses, such as the standalone page's."""

    def __init__(self, host: ModelHost, embeddings_folder: Path, runs_folder: Path):
        self.host, self.embeddings_folder, self.runs_folder = host, Path(embeddings_folder), Path(runs_folder)
        self.lock = threading.Lock()  # translations on the same model take it too

    @contextmanager
    def turn(self, title: str) -> Iterator[ModelHost]:
        with self.lock:
            yield self.host

    def progress(self, snapshot: TrainingSnapshot) -> bool:
        return False

    def publish(self, embedding: Path) -> list[str]:
        return []

    def tokenizer(self) -> Callable[[str], Sized] | None:
        return self.host.token_vectors

    @property
    def templates_folder(self) -> Path | None:
        return None


@dataclass(frozen=True)
class TrainingRequest:
    """What a user asks for. preview_image: the render that previews translate; None is the first training picture.

    photos, validation, validation_photos: folders, see `Folders`.
    """

    name: str
    images: Path
    params: TrainingParams
    preview_image: Path | None = None
    resume: bool = False
    overwrite: bool = False
    photos: Path | None = None
    validation: Path | None = None
    validation_photos: Path | None = None

    @property
    def folders(self) -> Folders:
        """All folders with pictures."""
        return Folders(self.images, self.photos, self.validation, self.validation_photos)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "name": self.name,
            "images": str(self.images),
            "params": self.params.to_dict(),
            "preview_image": str(self.preview_image) if self.preview_image else None,
            **{kind: folder for kind, folder in self.folders.to_dict().items() if kind != "renders"},
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any], resume: bool = False, overwrite: bool = False) -> TrainingRequest:
        """The opposite of `to_dict`. Raises ParamError."""
        known = TrainingParams.options()
        # a run of another version may name options that are no more
        params = TrainingParams.from_dict({k: v for k, v in values["params"].items() if k in known})
        preview = Path(values["preview_image"]) if values.get("preview_image") else None
        kinds = ("photos", "validation", "validation_photos")
        others = {kind: Path(values[kind]) for kind in kinds if values.get(kind)}
        return cls(values["name"], Path(values["images"]), params, preview, resume, overwrite, **others)


@dataclass
class TrainingSnapshot:
    """How a training stands. Times in seconds; lists are copies."""

    number: int = 0  # of the job in this process, so that a viewer notices a new one
    phase: str = IDLE
    name: str = ""
    step: int = 0
    steps: int = 0
    start_step: int = 0
    images: int = 0
    read: int = 0  # pictures read and encoded so far, of `to_read`
    to_read: int = 0
    loss: float | None = None
    loss_average: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    vector_norm: float | None = None
    change: float | None = None
    rate: float | None = None
    eta: float | None = None
    curve: list[tuple[int, float, float]] = field(default_factory=list)  # (step, loss, average)
    validations: list[tuple[int, float, float | None]] = field(default_factory=list)  # (step, gain, gain on photos)
    verdict: str | None = None  # one of those in verdict.py
    verdict_text: str | None = None
    nearest: list[str] = field(default_factory=list)  # the real token nearest to each vector
    log: list[str] = field(default_factory=list)
    previews: list[tuple[int, str]] = field(default_factory=list)  # (step, path)
    preview_source: str | None = None
    embedding: str | None = None  # the written file
    published: bool = False  # it is the finished one, and the host has been told
    checkpoint: str | None = None
    run_folder: str | None = None
    error: str | None = None
    stopping: bool = False
    queue: list[str] = field(default_factory=list)  # names of the trainings that come after this one
    started: float | None = None
    ended: float | None = None
    request: dict[str, Any] | None = None

    @property
    def busy(self) -> bool:
        return self.phase in BUSY

    @property
    def fraction(self) -> float:
        """Progress in [0, 1]."""
        if self.phase == FINISHED:
            return 1.0
        return self.step / self.steps if self.steps else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return dataclasses.asdict(self) | {"busy": self.busy, "fraction": self.fraction}


class TrainingManager:
    """Runs `NegativeTraining` jobs, one at a time. Every method may be called from any thread."""

    def __init__(self, workplace: Workplace):
        self.workplace = workplace
        self._lock = threading.RLock()
        self._state = TrainingSnapshot()
        self._job: NegativeTraining | None = None
        self._stop = False
        self._thread: threading.Thread | None = None
        self._queue: Queue[TrainingRequest] = Queue()
        self.preparation = PrepareRunner()  # of folders to train on
        self.comparison = ComparisonRunner(workplace)  # of the checkpoints of a run

    def snapshot(self) -> TrainingSnapshot:
        """A copy of the state, of the job under way or else of the last one."""
        with self._lock:
            state = dataclasses.replace(self._state)
            for name in ("curve", "log", "previews", "validations", "nearest"):
                setattr(state, name, list(getattr(state, name)))
            state.queue = self._queue.names
            return state

    def run_folder(self, name: str) -> Path:
        """Where the run of an embedding keeps its files. Raises TrainingRefused for a name that cannot be a file."""
        try:
            return self.workplace.runs_folder / validate_name(name)
        except EmbeddingError as error:
            raise TrainingRefused(str(error)) from error

    def check_name(self, name: str, overwrite: bool = False, resume: bool = False) -> str:
        """Gives the name back if an embedding can be written under it. Raises TrainingRefused, TrainingBusy."""
        self._refuse_twice(name)
        try:
            validate_name(name, self.workplace.tokenizer())
        except EmbeddingError as error:
            raise TrainingRefused(str(error)) from error
        out = self.out(name)
        for other in embeddings_called(self.workplace.embeddings_folder, name):
            if other != out:
                raise TrainingRefused(f"{other} has the same trigger word: choose another name, or move that file.")
        if overwrite or resume:
            return name
        if out.exists():
            raise TrainingRefused(f"{out} exists already: choose another name, or tick Overwrite.")
        if earlier := checkpoints(self.run_folder(name)):
            raise TrainingRefused(f"There is a run of {name} with {earlier[0][0]} steps: resume it, or tick Overwrite.")
        return name

    def out(self, name: str) -> Path:
        """The file that the finished embedding goes to."""
        return self.workplace.embeddings_folder / f"{name}.pt"

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
            write_text_atomic(folder / REQUEST_FILE, json.dumps(request.to_dict(), indent=1, ensure_ascii=False))
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
                values = json.loads((folder / REQUEST_FILE).read_text(encoding="utf-8"))
                values["params"] |= changes
                request = TrainingRequest.from_dict(values, resume=True, overwrite=overwrite)
            except ParamError:
                raise
            except (OSError, ValueError, KeyError, TypeError) as error:
                file = folder / REQUEST_FILE
                raise TrainingRefused(f"{file} cannot be read: start {name} afresh with Overwrite.") from error
            return self.start(request)

    def resumable(self) -> list[tuple[str, int, int]]:
        """(name, step, steps) of the runs that can be gone on with, the last written first."""
        found = []
        runs = self.workplace.runs_folder
        for folder in runs.iterdir() if runs.is_dir() else ():
            saved = checkpoints(folder)
            if not saved or not (folder / REQUEST_FILE).is_file():
                continue
            try:
                steps = json.loads((folder / REQUEST_FILE).read_text(encoding="utf-8"))["params"]["steps"]
            except (OSError, ValueError, KeyError, TypeError):
                continue
            if saved[0][0] < steps:
                found.append((saved[0][1].stat().st_mtime, folder.name, saved[0][0], steps))
        return [entry[1:] for entry in sorted(found, reverse=True)]

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
        self.check_name(request.name, request.overwrite, request.resume)
        try:
            request.params.validate()
            parse_learning_rate(request.params.lr)
            template = named_template(request.params.template, self.workplace.templates_folder)
            load_captions(template)
        except (ParamError, TrainingError) as error:
            raise TrainingRefused(str(error)) from error
        request = dataclasses.replace(request, params=dataclasses.replace(request.params, template=template))
        folder = request.images
        if not folder.is_dir():
            raise TrainingRefused(f"There is no folder {folder}: give the folder with the pictures to train on.")
        if not training_files(folder, request.params.pattern):
            which = f"matching {request.params.pattern!r} " if request.params.pattern else ""
            raise TrainingRefused(
                f"No pictures {which}were found in {folder}: PNG, JPEG, WebP, BMP, TIFF and GIF are read."
            )
        for other in (request.photos, request.validation, request.validation_photos):
            if other is not None and not other.is_dir():
                raise TrainingRefused(f"There is no folder {other}: give a folder with pictures, or leave it empty.")
        if request.params.objective == "contrastive" and request.photos is None:
            raise TrainingRefused("The contrastive objective learns from real photos too: give a folder of them.")
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
        source = request.preview_image or training_files(request.images, request.params.pattern)[0]
        preview = TranslationPreview(host, source, request.params, folder / "previews")
        job = NegativeTraining(
            host, request.params, images=request.folders, name=request.name, run_folder=folder,
            out=self.out(request.name), resume=request.resume, overwrite=request.overwrite, preview=preview,
        )  # fmt: skip
        with self._lock:
            self._job = job
            self._state.phase = READING
            self._state.preview_source = str(source)
            if self._stop:  # it was asked for before there was a job to tell
                job.request_stop()
        last: Event | None = None
        for event in job.run():
            last = event
            self._note(event)
            if self.workplace.progress(self.snapshot()):
                self.request_stop()
        if isinstance(last, Finished):
            self._publish(last, request)
        elif isinstance(last, Stopped):
            self._end(STOPPED)
        else:
            self._end(FAILED, "The training ended without a result: please report this.")

    def _publish(self, finished: Finished, request: TrainingRequest) -> None:
        state = self.snapshot()
        preview = state.previews[-1][1] if state.previews else None
        notes = write_card(finished.embedding, read_embedding(finished.embedding), preview)
        notes += self.workplace.publish(finished.embedding)
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

    def _note(self, event: Event) -> None:
        with self._lock:
            state = self._state
            if isinstance(event, Caching):
                state.read, state.to_read = event.done, event.total
            elif isinstance(event, Started):
                state.phase, state.steps, state.images = TRAINING, event.steps, event.images
                state.step = state.start_step = event.start_step
            elif isinstance(event, StepDone):
                state.step = event.step
                for name in STEP_NUMBERS:
                    setattr(state, name, getattr(event, name))
                state.curve.append((event.step, event.loss, event.loss_average))
                if len(state.curve) > MAXIMUM_POINTS:
                    del state.curve[-2::-2]
            elif isinstance(event, Validated | Judged):
                state.verdict, state.verdict_text = event.verdict, event.text
                if isinstance(event, Validated):
                    state.validations.append((event.step, event.gain, event.photo_gain))
                    state.nearest = list(event.nearest)
            elif isinstance(event, Saved):
                state.checkpoint = str(event.path)
            elif isinstance(event, Preview) and event.result:
                state.previews.append((event.step, str(event.result)))
            elif isinstance(event, Stopped | Finished):
                state.step = event.step
                state.embedding = str(event.embedding) if event.embedding else None
                state.checkpoint = str(event.checkpoint) if event.checkpoint else state.checkpoint
            if not isinstance(event, Caching) and self._worth_a_line(event):
                state.log.append(str(event))
                del state.log[:-MAXIMUM_LINES]

    def _worth_a_line(self, event: Event) -> bool:
        """Every event but most of the steps of a long training."""
        if not isinstance(event, StepDone):
            return True
        every = max(1, event.steps // 50)
        return event.step % every == 0 or event.step == self._state.start_step + 1


def embeddings_called(folder: Path, name: str) -> list[Path]:
    """Embedding files below a folder whose trigger word is this name, in whatever sub-folder and case."""
    if not folder.is_dir():
        return []
    files = (path for path in folder.rglob("*") if path.suffix.lower() in EMBEDDING_SUFFIXES)
    return sorted(path for path in files if path.stem.lower() == name.lower())
