"""The job that trains a negative embedding: the same object under the webui's tab, the page and the command line."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lib_negtrans.embeddings.files import validate_name
from lib_negtrans.models.protocol import ModelHost
from lib_negtrans.training.data.batch import RowSource
from lib_negtrans.training.data.captions import load_captions
from lib_negtrans.training.data.sets import Folders, TrainingData, read_data
from lib_negtrans.training.judging.judge import Judging

from .checkpoint import checkpoints, newest_intact, remove_checkpoints
from .errors import TrainingError, sentence
from .events import Event, Finished, Notice, Preview, Started, StepDone, Stopped
from .loss_log import LossLog
from .lr_schedule import parse_learning_rate
from .notices import starting_notices
from .parallel import ALONE, Workers
from .params import TrainingParams
from .precision import autocast_dtype
from .resume import check_resumable, fixed_params, is_result
from .saving import Keeper
from .state import result_of
from .step import Stepper, initial_vectors

LOSS_FILE = "loss.csv"
LATENTS_FOLDER = "latents.cache"  # beside the run folder, for other runs on the same pictures too


class NegativeTraining:
    """Trains `name` on the pictures of a folder; `run()` does it, `request_stop()` ends it after the step under way.

    images: folder, searched with its sub-folders, or `Folders` with photos and pictures for validation too. run_folder:
    gets checkpoints, loss.csv and run.json; out: the embedding, NAME.pt or NAME.safetensors. resume: go on from the
    newest intact checkpoint, if there is one. overwrite: an embedding at `out`, and without resume a run in run_folder,
    may be replaced. preview(step, {name: vectors}) is called every params.preview_every steps and at the end; what it
    returns goes into a `Preview` event, and if it raises, training goes on. workers: several processes that train it
    together; only the main one writes.

    The constructor checks what it can without reading pictures, `run()` the rest before the first step. Raises
    ParamError, EmbeddingError (the name) or TrainingError.
    """

    def __init__(
        self,
        host: ModelHost,
        params: TrainingParams,
        *,
        images: str | Path | Folders,
        name: str,
        run_folder: str | Path,
        out: str | Path,
        resume: bool = False,
        overwrite: bool = False,
        preview: Callable[[int, dict[str, Tensor]], Any] | None = None,
        workers: Workers = ALONE,
    ):
        self.host, self.params, self.name, self.workers = host, params.validate(), name, workers
        self.folders = images if isinstance(images, Folders) else Folders(Path(images))
        self.run_folder, self.out = Path(run_folder), Path(out)
        self.resume, self.overwrite, self.preview = resume, overwrite, preview
        self.rates = parse_learning_rate(params.lr)
        self.captions = load_captions(params.template)
        self._autocast = autocast_dtype(params.precision, host)
        self.folders.refuse_missing(params)
        validate_name(name, host.token_vectors)
        if self.out.stem != name or self.out.suffix not in (".pt", ".safetensors"):
            raise TrainingError(
                f"{self.out} must be called {name}.pt or {name}.safetensors: the file's name is the trigger word."
            )
        self.steps = self.rates.steps(params.steps)
        self._refuse_losses()
        self._stop = False
        self._stepper: Stepper | None = None
        self._good: dict[str, Any] | None = None  # snapshot after the last whole step
        self._data: TrainingData | None = None
        self._keeper: Keeper | None = None
        self._judging: Judging | None = None

    def _refuse_losses(self) -> None:
        earlier = checkpoints(self.run_folder)
        if earlier and not self.resume and not self.overwrite:
            text = f"{self.run_folder} holds a run of {earlier[0][0]} steps"
            raise TrainingError(f"{text}: resume it, or allow overwriting to start afresh.")
        if self.out.exists() and not self.overwrite and not (self.resume and earlier):
            raise TrainingError(f"{self.out} exists already: choose another name, or allow overwriting.")

    def request_stop(self) -> None:
        """Stop after the step under way, with a checkpoint. May be called from any thread or a signal handler."""
        self._stop = True

    @property
    def vectors(self) -> Tensor | None:
        """A copy of the vectors (n, width) after the last whole step, on the CPU; None before the first."""
        return None if self._good is None else result_of(self._good).cpu().clone()

    def run(self) -> Iterator[Event]:
        """Train, as a generator of events; the last is Finished or Stopped. Nothing else means success.

        Raises TrainingError, HostError, OSError. A KeyboardInterrupt and closing the generator also leave a checkpoint.
        """
        begun = time.perf_counter()
        # what is wrong with the checkpoint is said before thousands of pictures are read
        payload, path, complaints = newest_intact(self.run_folder) if self.resume else (None, None, [])
        for complaint in complaints:
            yield Notice(complaint, "warning")
        identity = {"name": self.name, "params": fixed_params(self.params), "model": self.host.checkpoint_hash}
        if payload is not None:
            check_resumable(payload, path, identity, self.steps)
            if self.out.exists() and not self.overwrite and not is_result(self.out, payload, self.steps):
                raise TrainingError(f"{self.out} exists already and is not this run's: move it, or allow overwriting.")
        elif self.resume:
            yield Notice(f"There is no checkpoint in {self.run_folder}: training starts at step 0.", "warning")
        self._data = yield from self._read_pictures()
        if self._data is None:
            yield Stopped(payload["step"] if payload else 0, self.steps, path, None)
            return
        self.captions = load_captions(self.params.template, self._data.renders.report.captioned)
        identity["dataset"] = self._data.fingerprint
        if payload is not None:
            check_resumable(payload, path, identity, self.steps, self._data.renders.report.skipped)
        self._prepare(payload, identity)
        yield from self._introduction()
        self.workers.wait()  # all have read the checkpoint that the main one may now replace
        if payload is None and self.workers.main:
            remove_checkpoints(self.run_folder)  # only when there are none, or overwriting was asked for
        self._keeper.describe()
        interrupted = False
        try:
            with self.host.training(self.params.gradient_checkpointing, self._autocast), self._loss_log() as log:
                yield from self._steps(log, identity["model"])
        except GeneratorExit:
            self._save()
            raise
        except KeyboardInterrupt:
            interrupted = True
        except Exception as error:
            raise self._failure(error) from error
        if interrupted or not self._done:
            yield self._stopped()
            return
        yield from self._finish(begun)

    def _read_pictures(self) -> Generator[Event, None, TrainingData | None]:
        cache = self.run_folder.parent / LATENTS_FOLDER if self.params.latent_cache == "disk" else None
        reading = read_data(self.host, self.folders, self.params, cache)
        while not self._stop:
            try:
                event = next(reading)
            except StopIteration as end:
                return end.value
            yield event
        return None

    def _prepare(self, payload: dict[str, Any] | None, identity: dict[str, Any]) -> None:
        """The stepper, at its first step or where the checkpoint left it."""
        params, data = self.params, self._data
        generator = torch.Generator().manual_seed(params.seed)

        def source(dataset, captions) -> RowSource:
            return RowSource(
                dataset, captions, self.name, params.timesteps, generator, params,
                params.rows_per_step * self.workers.count,
            )  # fmt: skip

        # a translation's negative prompt is the trigger word alone, and that is what photos are guided away from
        photos = None if data.photos is None else source(data.photos, load_captions("name"))
        with torch.inference_mode(False), torch.no_grad():
            vectors = initial_vectors(self.host, params.init_text, params.vectors).requires_grad_()
        self._judging = Judging(self.host, params, self.captions, self.name, data)
        stepper = Stepper(
            self.host, params, self.rates, self.name, source(data.renders, self.captions), vectors, photos,
            self._judging.parts, self.workers,
        )  # fmt: skip
        if payload is not None:
            stepper.state.load_payload(payload)
        state = stepper.state
        self._stepper, self._good = stepper, state.snapshot()
        self._keeper = Keeper(
            self.host, params, self.run_folder, self.out, identity, data, state, state.step, self.workers.main
        )

    def _introduction(self) -> Iterator[Event]:
        report, params = self._data.renders.report, self.params
        tokens = len(self.host.token_vectors(params.init_text)) if params.init_text.strip() else 0
        yield from starting_notices(params, self.steps, report, self.captions, tokens)
        yield Started(
            name=self.name,
            steps=self.steps,
            start_step=self._good["step"],
            images=len(report.entries),
            skipped=len(report.skipped),
            timesteps=params.timesteps,
            rates=self.rates.describe(),
            caption=self.captions.fill(0, self.name, report.entries[0].words),
        )

    def _loss_log(self) -> AbstractContextManager[LossLog | None]:
        if not self.workers.main:
            return nullcontext()
        return LossLog(self.run_folder / LOSS_FILE, self._stepper.state.history)

    @property
    def _done(self) -> bool:
        """All steps are made, or the validations say that more bring nothing."""
        return self._good["step"] >= self.steps or self._judging.exhausted

    def _steps(self, log: LossLog | None, model: str) -> Iterator[Event]:
        state, params, pace = self._stepper.state, self.params, None
        yield from self._judge()  # at the start, or where a kill came before it
        while not self.workers.any(self._done or self._stop, self.host.device):
            begun = time.perf_counter()
            row = self._stepper.step(self._good)
            # in this order: an interrupt in between loses a step of the CSV at most, and that is written anew on resume
            self._good = state.snapshot()
            if log is not None and (complaint := log.append(row)):
                yield Notice(complaint, "warning")
            seconds = time.perf_counter() - begun
            pace = seconds if pace is None else 0.9 * pace + 0.1 * seconds
            yield StepDone(
                row.step, self.steps, row.loss, state.loss_average, row.learning_rate, row.grad_norm, row.vector_norm,
                row.change, 1.0 / pace, pace * (self.steps - row.step),
            )  # fmt: skip
            yield from self._judge()
            if row.step % params.save_every == 0 or self._done:
                yield self._keeper.try_save(self._good, self._done, self._judging.exhausted)
            if params.preview_every and row.step % params.preview_every == 0 and not self._done:
                yield from self._previews()
            if self.host.checkpoint_hash != model:
                raise TrainingError("The model was changed while training: choose the former one again.")

    def _judge(self) -> Iterator[Event]:
        """What the judging says of the last whole step, if it is its turn."""
        step = self._good["step"]
        events = self._judging.after(step, self._stepper.state.history, result_of(self._good))
        if not events:
            return
        self._good = self._stepper.state.snapshot()
        if self._judging.found_best and (complaint := self._keeper.keep_best(self._good)):
            yield complaint
        yield from events

    def _previews(self) -> Iterator[Event]:
        if self.preview is None or not self.workers.main:
            return
        try:
            with torch.no_grad():
                result = self.preview(self._good["step"], {self.name: result_of(self._good, self._shown).clone()})
        except Exception as error:
            yield Notice(f"The preview failed ({error}); training goes on without it.", "warning")
        else:
            yield Preview(self._good["step"], result)

    @property
    def _shown(self) -> str:
        """Which vectors a preview shows: the last, and in the end the result."""
        return self.params.result if self._done else "last"

    def _save(self) -> Path | None:
        return self._keeper.save(self._good, self._judging.exhausted)

    def _stopped(self) -> Stopped:
        checkpoint, step = self._save(), self._good["step"]
        if checkpoint is None:
            return Stopped(0, self.steps, None, None)
        return Stopped(step, self.steps, checkpoint, self._keeper.write_stopped(self._good))

    def _finish(self, begun: float) -> Iterator[Event]:
        checkpoint = self._save()
        embedding = self._keeper.write_result(self._good, checkpoint, self.overwrite)
        yield from self._previews()
        seconds = time.perf_counter() - begun
        loss = embedding.metadata["loss"]
        yield Finished(self._good["step"], self.out, checkpoint, len(self._data.renders), loss, seconds)

    def _failure(self, error: Exception) -> TrainingError:
        """What went wrong, and where the last good vectors are."""
        text = sentence(error)
        step = self._good["step"]
        try:
            kept = self._save()
        except OSError as problem:
            return TrainingError(
                f"Step {step + 1} failed. {text} Its checkpoint could not be written either ({problem})."
            )
        where = f"The {step} good steps are kept in {kept}." if kept else "No step was done."
        return TrainingError(f"Step {step + 1} failed. {text} {where}")
