"""The job that trains a negative embedding: the same object under the webui's tab, the page and the command line."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import __version__
from ..embeddings import Embedding, EmbeddingError, validate_name, write_embedding
from ..files import write_text_atomic
from ..hosts.protocol import ModelHost
from ..params import TrainingParams
from .captions import load_captions
from .checkpoint import checkpoint_path, checkpoints, newest_intact, remove_checkpoints, save_checkpoint, tensor_sha256
from .dataset import Dataset, RowSource, build_dataset
from .errors import TrainingError, sentence
from .events import Event, Finished, Notice, Preview, Saved, Started, StepDone, Stopped
from .loss_log import LossLog
from .lr_schedule import parse_learning_rate
from .notices import starting_notices
from .objective import timestep_range
from .resume import check_resumable, fixed_params, is_result
from .step import Stepper, initial_vectors

LOSS_FILE, RUN_FILE = "loss.csv", "run.json"


class NegativeTraining:
    """Trains `name` on the pictures of a folder; `run()` does it, `request_stop()` ends it after the step under way.

    images: folder, searched with its sub-folders; run_folder: gets checkpoints, loss.csv and run.json; out: the
    embedding, NAME.pt or NAME.safetensors. resume: go on from the newest intact checkpoint, if there is one. overwrite:
    an embedding at `out`, and without resume a run in run_folder, may be replaced. preview(step, {name: vectors}) is
    called every params.preview_every steps and at the end; what it returns goes into a `Preview` event, and if it
    raises, training goes on.

    The constructor checks what it can without reading pictures, `run()` the rest before the first step. Raises
    ParamError, EmbeddingError (the name) or TrainingError.
    """

    def __init__(
        self,
        host: ModelHost,
        params: TrainingParams,
        *,
        images: str | Path,
        name: str,
        run_folder: str | Path,
        out: str | Path,
        resume: bool = False,
        overwrite: bool = False,
        preview: Callable[[int, dict[str, Tensor]], Any] | None = None,
    ):
        self.host, self.params, self.name = host, params.validate(), name
        self.images, self.run_folder, self.out = Path(images), Path(run_folder), Path(out)
        self.resume, self.overwrite, self.preview = resume, overwrite, preview
        self.rates = parse_learning_rate(params.lr)
        self.captions = load_captions(params.template)
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
        self._saved_step = 0
        self._dataset: Dataset | None = None

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
        return None if self._good is None else self._good["vectors"].cpu().clone()

    def run(self) -> Iterator[Event]:
        """Train, as a generator of events; the last is Finished or Stopped. Nothing else means success.

        Raises TrainingError, HostError, OSError. A KeyboardInterrupt and closing the generator also leave a checkpoint.
        """
        begun = time.perf_counter()
        # what is wrong with the checkpoint is said before thousands of pictures are read
        payload, path, complaints = newest_intact(self.run_folder) if self.resume else (None, None, [])
        for complaint in complaints:
            yield Notice(complaint, "warning")
        identity = self._identity()
        if payload is not None:
            check_resumable(payload, path, identity, self.steps)
            if self.out.exists() and not self.overwrite and not is_result(self.out, payload, self.steps):
                raise TrainingError(f"{self.out} exists already and is not this run's: move it, or allow overwriting.")
        elif self.resume:
            yield Notice(f"There is no checkpoint in {self.run_folder}: training starts at step 0.", "warning")
        self._dataset = yield from self._read_pictures()
        if self._dataset is None:
            yield Stopped(payload["step"] if payload else 0, self.steps, path, None)
            return
        identity["dataset"] = self._dataset.report.fingerprint
        if payload is not None:
            check_resumable(payload, path, identity, self.steps)
        self._prepare(payload)
        yield from self._introduction()
        state = self._stepper.state
        if payload is None:
            remove_checkpoints(self.run_folder)  # reached only when there are none, or overwriting was asked for
        description = json.dumps(self._description(identity), indent=1, ensure_ascii=False)
        write_text_atomic(self.run_folder / RUN_FILE, description)
        interrupted = False
        try:
            with self.host.training(self.params.gradient_checkpointing), self._loss_log() as log:
                yield from self._steps(log, identity)
        except GeneratorExit:
            self._save(identity)
            raise
        except KeyboardInterrupt:
            interrupted = True
        except Exception as error:
            raise self._failure(error, identity) from error
        if interrupted or state.step < self.steps:
            yield self._stopped(identity)
            return
        yield from self._finish(identity, begun)

    def _read_pictures(self) -> Generator[Event, None, Dataset | None]:
        params = self.params
        reading = build_dataset(self.host, self.images, params.size, params.pattern, params.background)
        while not self._stop:
            try:
                event = next(reading)
            except StopIteration as end:
                return end.value
            yield event
        return None

    def _identity(self) -> dict[str, Any]:
        """What a checkpoint must agree with to be gone on with."""
        return {"name": self.name, "params": fixed_params(self.params), "model": self.host.checkpoint_hash}

    def _prepare(self, payload: dict[str, Any] | None) -> None:
        """The stepper, at its first step or where the checkpoint left it."""
        generator = torch.Generator().manual_seed(self.params.seed)
        source = RowSource(self._dataset, self.captions, self.name, timestep_range(self.params.strength), generator)
        with torch.inference_mode(False), torch.no_grad():
            vectors = initial_vectors(self.host, self.params.init_text, self.params.vectors)
        stepper = Stepper(self.host, self.params, self.rates, self.name, source, vectors.requires_grad_())
        if payload is not None:
            stepper.state.load_payload(payload)
            self._saved_step = stepper.state.step
        self._stepper, self._good = stepper, stepper.state.snapshot()

    def _introduction(self) -> Iterator[Event]:
        report, params = self._dataset.report, self.params
        tokens = len(self.host.token_vectors(params.init_text)) if params.init_text.strip() else 0
        yield from starting_notices(params, self.steps, report, self.captions, tokens)
        yield Started(
            name=self.name,
            steps=self.steps,
            start_step=self._good["step"],
            images=len(report.entries),
            skipped=len(report.skipped),
            timesteps=timestep_range(params.strength),
            rates=self.rates.describe(),
            caption=self.captions.fill(0, self.name, report.entries[0].words),
        )

    def _description(self, identity: dict[str, Any]) -> dict[str, Any]:
        return {
            "name": self.name,
            "version": __version__,
            "checkpoint": {"name": self.host.checkpoint_name, "sha256": identity["model"]},
            "params": self.params.to_dict(),
            "dataset": self._dataset.report.to_dict(),
        }

    def _loss_log(self) -> LossLog:
        return LossLog(self.run_folder / LOSS_FILE, self._stepper.state.history)

    def _steps(self, log: LossLog, identity: dict[str, Any]) -> Iterator[Event]:
        state, params, pace = self._stepper.state, self.params, None
        while state.step < self.steps and not self._stop:
            begun = time.perf_counter()
            row = self._stepper.step(self._good)
            # in this order: an interrupt in between loses a step of the CSV at most, and that is written anew on resume
            self._good = state.snapshot()
            if complaint := log.append(row):
                yield Notice(complaint, "warning")
            seconds = time.perf_counter() - begun
            pace = seconds if pace is None else 0.9 * pace + 0.1 * seconds
            yield StepDone(
                row.step, self.steps, row.loss, state.loss_average, row.learning_rate, row.grad_norm, row.vector_norm,
                row.change, 1.0 / pace, pace * (self.steps - row.step),
            )  # fmt: skip
            if row.step % params.save_every == 0 or row.step == self.steps:
                yield self._try_save(identity)
            if params.preview_every and row.step % params.preview_every == 0 and row.step < self.steps:
                yield from self._previews()
            if self.host.checkpoint_hash != identity["model"]:
                raise TrainingError("The model was changed while training: choose the former one again.")

    def _previews(self) -> Iterator[Event]:
        if self.preview is None:
            return
        try:
            with torch.no_grad():
                result = self.preview(self._good["step"], {self.name: self._good["vectors"].clone()})
        except Exception as error:
            yield Notice(f"The preview failed ({error}); training goes on without it.", "warning")
        else:
            yield Preview(self._good["step"], result)

    def _save(self, identity: dict[str, Any]) -> Path | None:
        """A checkpoint of the last whole step, unless there is one; None before the first step."""
        step = self._good["step"]
        if step == 0:
            return None
        if self._saved_step != step:
            payload = self._stepper.state.to_payload(self._good) | {
                "identity": identity,
                "model_name": self.host.checkpoint_name,
                "vectors_sha256": tensor_sha256(self._good["vectors"]),
                "version": __version__,
            }
            save_checkpoint(self.run_folder, step, payload, self.params.keep)
            self._saved_step = step
        return checkpoint_path(self.run_folder, step)

    def _try_save(self, identity: dict[str, Any]) -> Event:
        """A full disk must not end a run that can save again later, or at its end."""
        try:
            return Saved(self._good["step"], self._save(identity))
        except OSError as error:
            if self._good["step"] == self.steps:
                raise
            return Notice(
                f"The checkpoint could not be written ({error.strerror or error}): free some space.", "warning"
            )

    def _embedding(self) -> Embedding:
        report, history = self._dataset.report, self._stepper.state.history
        return Embedding(
            self.name,
            self._good["vectors"],
            step=self._good["step"],
            checkpoint_name=self.host.checkpoint_name,
            checkpoint_hash=self.host.checkpoint_hash,
            metadata={
                "version": __version__,
                "images": len(report.entries),
                "dataset": report.fingerprint,
                "loss": statistics.fmean(row.loss for row in history[-100:]),
                **fixed_params(self.params),
            },
        )

    def _stopped(self, identity: dict[str, Any]) -> Stopped:
        checkpoint, step = self._save(identity), self._good["step"]
        if checkpoint is None:
            return Stopped(0, self.steps, None, None)
        # in a folder of its own: the file's name is the trigger word, and `out` stays free for the finished one
        path = self.run_folder / f"step-{step:08d}" / self.out.name
        write_embedding(path, self._embedding(), overwrite=True)
        return Stopped(step, self.steps, checkpoint, path)

    def _finish(self, identity: dict[str, Any], begun: float) -> Iterator[Event]:
        checkpoint, embedding = self._save(identity), self._embedding()
        try:
            if not (self.out.exists() and is_result(self.out, self._good, self.steps)):
                write_embedding(self.out, embedding, self.overwrite)
        except (OSError, EmbeddingError) as error:
            raise TrainingError(
                f"{error} The {embedding.step} steps are kept in {checkpoint}: resume to write them."
            ) from error
        yield from self._previews()
        seconds = time.perf_counter() - begun
        loss = embedding.metadata["loss"]
        yield Finished(embedding.step, self.out, checkpoint, len(self._dataset), loss, seconds)

    def _failure(self, error: Exception, identity: dict[str, Any]) -> TrainingError:
        """What went wrong, and where the last good vectors are."""
        text = sentence(error)
        step = self._good["step"]
        try:
            kept = self._save(identity)
        except OSError as problem:
            return TrainingError(
                f"Step {step + 1} failed. {text} Its checkpoint could not be written either ({problem})."
            )
        where = f"The {step} good steps are kept in {kept}." if kept else "No step was done."
        return TrainingError(f"Step {step + 1} failed. {text} {where}")
