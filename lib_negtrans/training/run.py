"""A training from its request: the same loop under the webui's tab, the page, the API and the command line."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lib_negtrans.models.protocol import ModelHost
from lib_negtrans.training.data.sets import TrainingData
from lib_negtrans.training.judging.judging import Judging

from .checkpoint import checkpoints, newest_intact, remove_checkpoints
from .errors import TrainingError, sentence, told_memory
from .events import Event, Finished, Notice, Preview, Started, StepDone, Stopped
from .kinds import KINDS
from .loss_log import LossLog
from .notices import starting_notices
from .parallel import ALONE, Workers
from .precision import autocast_dtype
from .request import TrainingRequest, write_request
from .resume import check_resumable, fixed_params, is_result
from .saving import RunFiles
from .state import result_of
from .step import Stepper
from .weights import Weights, kept, on_cpu

LOSS_FILE = "loss.csv"
LATENTS_FOLDER = "latents.cache"  # beside the run folder, for other runs on the same pictures too


class Training:
    """Does what a request asks for; `run()` does it, `request_stop()` ends it after the step under way.

    run_folder: gets checkpoints, loss.csv, run.json and the request; with request.resume it is gone on with from the
    newest intact checkpoint, if there is one. out: the result's file, named after the request. With request.overwrite
    a result at `out`, and without resume a run in run_folder, may be replaced. preview(step, {trigger: vectors}) is
    called every params.preview_every steps and at the end, with the weights at work; what it returns goes into a
    `Preview` event, and if it raises, training goes on. workers: several processes that train together; only the main
    one writes.

    The constructor checks what it can without reading pictures, `run()` the rest before the first step. Raises
    ParamError, EmbeddingError (the name) or TrainingError.
    """

    def __init__(
        self,
        request: TrainingRequest,
        host: ModelHost,
        run_folder: str | Path,
        out: str | Path,
        *,
        preview: Callable[[int, dict[str, Tensor]], Any] | None = None,
        workers: Workers = ALONE,
    ):
        self.request, self.host, self.params, self.workers = request, host, request.params.validate(), workers
        self.run_folder, self.out, self.preview = Path(run_folder), Path(out), preview
        self.rates = self.params.rates
        self.steps = self.rates.steps(self.params.steps)
        self._kind = KINDS[request.kind]
        self._autocast = autocast_dtype(self.params.precision, host, self._kind.masters)
        self._kind.check(host, self.params, request.folders, request.name, self.out)
        self._refuse_losses()
        self._stop = False
        self._good: dict[str, Any] = {}  # snapshot after the last whole step

    def _refuse_losses(self) -> None:
        earlier, resume, overwrite = checkpoints(self.run_folder), self.request.resume, self.request.overwrite
        if earlier and not resume and not overwrite:
            raise TrainingError(
                f"{self.run_folder} holds a run of {earlier[0][0]} steps: resume it, or allow overwriting to start "
                "afresh."
            )
        if self.out.exists() and not overwrite and not (resume and earlier):
            raise TrainingError(f"{self.out} exists already: choose another name, or allow overwriting.")

    def request_stop(self) -> None:
        """Stop after the step under way, with a checkpoint. May be called from any thread or a signal handler."""
        self._stop = True

    @property
    def weights(self) -> Weights | None:
        """A copy of the weights after the last whole step, in main memory; None before the first."""
        return on_cpu(result_of(self._good)[0]) if self._good else None

    def run(self) -> Iterator[Event]:
        """Train, as a generator of events; the last is Finished or Stopped. Nothing else means success.

        Raises TrainingError, HostError, OSError. A KeyboardInterrupt and closing the generator also leave a checkpoint.
        """
        begun = time.perf_counter()
        with told_memory():
            self._trainable = self._kind(self.host, self.params, self.request.name)
            payload = yield from self._resumed()
            data = yield from self._read_pictures()
            if data is None:
                step, path = payload or (0, None)
                yield Stopped(step, self.steps, path, None)
                return
            self._prepare(data)
            yield from self._introduction(data)
        self.workers.wait()  # all have read the checkpoint that the main one may now replace
        if self.workers.main:
            if payload is None:
                remove_checkpoints(self.run_folder)  # only when there are none, or overwriting was asked for
            self._files.describe()
            write_request(self.run_folder, self.request)
        interrupted = False
        try:
            log = None
            if self.workers.main:
                log = LossLog(self.run_folder / LOSS_FILE, self._state.history, prior=data.prior is not None)
            with self.host.training(self.params.gradient_checkpointing, self._autocast), log or nullcontext():
                yield from self._steps(log)
        except GeneratorExit:
            self._save()
            raise
        except KeyboardInterrupt:
            interrupted = True
        except Exception as error:
            raise self._failure(error) from error
        if interrupted or not self._done:
            yield self._stopped()
        else:
            yield from self._finish(len(data.main), begun)

    def _resumed(self) -> Generator[Event, None, tuple[int, Path] | None]:
        """(step, path) of the checkpoint that the run goes on with, which is checked; None to begin at step 0.

        What is wrong with it is said before thousands of pictures are read.
        """
        request, self._payload = self.request, None
        self._identity = {
            "name": request.name, "kind": request.kind, "params": fixed_params(self.params),
            "model": self.host.model_hash,
        }  # fmt: skip
        if not request.resume:
            return None
        self._payload, path, complaints = newest_intact(self.run_folder)
        for complaint in complaints:
            yield Notice(complaint, "warning")
        if self._payload is None or path is None:
            yield Notice(f"There is no checkpoint in {self.run_folder}: training starts at step 0.", "warning")
            return None
        check_resumable(self._payload, path, self._identity, self._kind.options, self.steps)
        own = not self.out.exists() or is_result(self._trainable, self.out, self._payload, self.steps)
        if not own and not request.overwrite:
            raise TrainingError(f"{self.out} exists already and is not this run's: move it, or allow overwriting.")
        self._path = path
        return self._payload["step"], path

    def _read_pictures(self) -> Generator[Event, None, TrainingData | None]:
        cache = self.run_folder.parent / LATENTS_FOLDER if self.params.latent_cache == "disk" else None
        reading = self._trainable.read(self.request.folders, cache)
        while not self._stop:
            try:
                event = next(reading)
            except StopIteration as end:
                return end.value
            yield event
        return None

    def _prepare(self, data: TrainingData) -> None:
        """The stepper, at its first step or where the checkpoint left it."""
        params, trainable, skipped = self.params, self._trainable, data.main.report.skipped
        captions = trainable.captions(data)
        self.captions = captions[trainable.domain]
        self._identity["dataset"] = data.fingerprint
        if self._payload is not None:
            options = self._kind.options
            check_resumable(self._payload, self._path, self._identity, options, self.steps, skipped)
        generator = torch.Generator().manual_seed(params.seed)

        together = params.rows_per_step * self.workers.count
        sources = {
            name: trainable.source(
                dataset, captions[name], trainable.trigger, params.timesteps, generator, params, together,
                name if trainable.counted else "",
            )
            for name, dataset in data.learnt.items()
        }  # fmt: skip
        self._judging = Judging(self.host, params, self.captions, trainable, data, self.steps)
        trainable.make_room(self.run_folder)
        self._stepper = Stepper(
            self.host, params, trainable, self.rates, sources, generator, self._judging.parts, self.workers
        )  # fmt: skip
        self._state = self._stepper.state
        if self._payload is not None:
            self._state.load_payload(self._payload)
        self._payload, self._good = None, self._state.snapshot()
        self._files = RunFiles(
            self.host, params, trainable, self.run_folder, self.out, self._identity, data, self._state,
            self.workers.main,
        )  # fmt: skip

    def _introduction(self, data: TrainingData) -> Iterator[Event]:
        report = data.main.report
        yield from starting_notices(self.params, self.steps, report, self.captions, self._trainable.notices())
        yield Started(
            name=self.request.name,
            steps=self.steps,
            start_step=self._state.step,
            images=len(report.entries),
            skipped=len(report.skipped),
            timesteps=self.params.timesteps,
            rates=self.rates.describe(),
            caption=self.captions.fill(0, self._trainable.trigger, report.entries[0].words),
        )

    @property
    def _done(self) -> bool:
        """All steps are made, or the validations say that more bring nothing."""
        return self._good["step"] >= self.steps or self._judging.exhausted

    def _steps(self, log: LossLog | None) -> Iterator[Event]:
        state, params, pace = self._state, self.params, None
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
                row.prior_loss if "prior" in state.parts else None,
            )  # fmt: skip
            yield from self._judge()
            if row.step % params.save_every == 0 or self._done:
                yield self._files.try_save(self._good, self._done, self._judging.exhausted)
            if params.preview_every and row.step % params.preview_every == 0 and not self._done:
                yield from self._previews("last")
            if self.host.model_hash != self._identity["model"]:
                raise TrainingError("The model was changed while training: choose the former one again.")

    def _judge(self) -> Iterator[Event]:
        """What the judging says of the last whole step, if it is its turn."""
        events = self._judging.after(self._good["step"], self._state.history, result_of(self._good)[0])
        if not events:
            return
        self._good = self._state.snapshot()
        if self._judging.found_best and (complaint := self._files.keep_best(self._good)):
            yield complaint
        yield from events

    def _previews(self, which: str) -> Generator[Event, None, Any]:
        """A preview of the last weights, or of the result; gives what the preview function gave."""
        if self.preview is None or not self.workers.main:
            return None
        weights = kept(result_of(self._good, which)[0])
        try:
            with torch.no_grad(), self._trainable.applied(weights) as embeddings:
                result = self.preview(self._good["step"], dict(embeddings))
        except Exception as error:
            yield Notice(f"The preview failed ({error}); training goes on without it.", "warning")
            return None
        yield Preview(self._good["step"], result)
        return result

    def _save(self) -> Path | None:
        return self._files.save(self._good, self._judging.exhausted)

    def _stopped(self) -> Stopped:
        checkpoint = self._save()
        if checkpoint is None:
            return Stopped(0, self.steps, None, None)
        return Stopped(self._files.saved_step, self.steps, checkpoint, self._files.write_stopped(self._good))

    def _finish(self, images: int, begun: float) -> Iterator[Event]:
        checkpoint = self._save()
        assert checkpoint is not None  # all steps are made
        self._files.write_result(self._good, checkpoint, self.request.overwrite)
        preview = yield from self._previews(self.params.result)
        picture = preview if isinstance(preview, Path) else None
        complaints = self._trainable.write_card(self.out, picture) if self.workers.main else []
        seconds = time.perf_counter() - begun
        yield Finished(self._good["step"], self.out, checkpoint, images, self._files.loss, seconds, complaints)

    def _failure(self, error: Exception) -> TrainingError:
        """What went wrong, and where the last good weights are."""
        text, step = sentence(error), self._good["step"] + 1
        try:
            where = self._save()
        except OSError as problem:
            return TrainingError(f"Step {step} failed. {text} Its checkpoint could not be written either ({problem}).")
        good = f"The {self._files.saved_step} good steps are kept in {where}." if where else "No step was done."
        return TrainingError(f"Step {step} failed. {text} {good}")
