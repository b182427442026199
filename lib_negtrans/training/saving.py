"""What a run writes: checkpoints, the best vectors so far, and the embedding."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from torch import Tensor

from lib_negtrans import __version__
from lib_negtrans.embeddings.files import Embedding, EmbeddingError, write_embedding
from lib_negtrans.files import write_text_atomic
from lib_negtrans.models.protocol import ModelHost
from lib_negtrans.training.data.sets import TrainingData

from .checkpoint import checkpoint_path, save_checkpoint, tensor_sha256
from .errors import TrainingError
from .events import Event, Notice, Saved
from .params import TrainingParams
from .resume import fixed_params, is_result
from .state import TrainingState, result_of

RUN_FILE, BEST_FOLDER = "run.json", "best"
RECOMMENDED_WEIGHT = 1.0  # that it was trained at


class Keeper:
    """Writes the files of one run; not `main`: writes none. saved_step: of the newest checkpoint on the disk."""

    def __init__(
        self,
        host: ModelHost,
        params: TrainingParams,
        run_folder: Path,
        out: Path,
        identity: dict[str, Any],
        data: TrainingData,
        state: TrainingState,
        saved_step: int = 0,
        main: bool = True,
    ):
        self.host, self.params, self.run_folder, self.out = host, params, run_folder, out
        self.identity, self.data, self.state, self.saved_step, self.main = identity, data, state, saved_step, main

    def describe(self) -> None:
        """run.json: what this run is. Raises OSError."""
        if not self.main:
            return
        content = {
            "name": self.out.stem,
            "version": __version__,
            "checkpoint": {"name": self.host.checkpoint_name, "sha256": self.identity["model"]},
            "params": self.params.to_dict(),
            "dataset": self.data.to_dict(),
        }
        write_text_atomic(self.run_folder / RUN_FILE, json.dumps(content, indent=1, ensure_ascii=False))

    def save(self, good: dict[str, Any], early: bool = False) -> Path | None:
        """A checkpoint of a snapshot, unless there is one; None before the first step. Raises OSError.

        early: the run ends here although it has fewer steps than were asked for.
        """
        step = good["step"]
        if step == 0:
            return None
        if self.saved_step != step and self.main:
            payload = self.state.to_payload(good) | {
                "identity": self.identity,
                "model_name": self.host.checkpoint_name,
                "vectors_sha256": tensor_sha256(good["vectors"]),
                "result": result_of(good, self.params.result),
                "early": early,
                "version": __version__,
            }
            save_checkpoint(self.run_folder, step, payload, self.params.keep)
            self.saved_step = step
        return checkpoint_path(self.run_folder, step)

    def try_save(self, good: dict[str, Any], last: bool, early: bool = False) -> Event:
        """A full disk must not end a run that can save again later, or at its end."""
        try:
            return Saved(good["step"], self.save(good, early))
        except OSError as error:
            if last:
                raise
            reason = error.strerror or error
            return Notice(f"The checkpoint could not be written ({reason}): free some space.", "warning")

    def embedding(self, good: dict[str, Any], vectors: Tensor | None = None, step: int | None = None) -> Embedding:
        """Vectors of this run with all that is known of them; by default the result of a snapshot."""
        report, history = self.data.renders.report, self.state.history
        licence = {"licence": self.params.licence} if self.params.licence else {}
        return Embedding(
            self.out.stem,
            result_of(good, self.params.result) if vectors is None else vectors,
            step=result_step(good, self.params.result) if step is None else step,
            checkpoint_name=self.host.checkpoint_name,
            checkpoint_hash=self.host.checkpoint_hash,
            metadata={
                "kind": "negative embedding",
                "version": __version__,
                "images": len(report.entries),
                "photos": len(self.data.photos) if self.data.photos is not None else 0,
                "dataset": self.data.fingerprint,
                "loss": statistics.fmean(row.loss for row in history[-100:]),
                "recommended_weight": RECOMMENDED_WEIGHT,
                **licence,
                **fixed_params(self.params),
            },
        )

    def keep_best(self, good: dict[str, Any]) -> Notice | None:
        """best/NAME.pt in the run folder, or a warning."""
        path = self.run_folder / BEST_FOLDER / f"{self.out.stem}.pt"
        vectors, step = result_of(good, "best"), result_step(good, "best")
        if not self.state.history or not self.main:  # before the first step there is no loss to tell of
            return None
        try:
            write_embedding(path, self.embedding(good, vectors, step), overwrite=True)
        except OSError as error:
            return Notice(f"The best vectors could not be written ({error.strerror or error}).", "warning")
        return None

    def write_stopped(self, good: dict[str, Any]) -> Path | None:
        """The vectors of a stopped run, in a folder of their own: the file's name is the trigger word, and `out` stays
        free for the finished one."""
        path = self.run_folder / f"step-{good['step']:08d}" / self.out.name
        if not self.main:
            return None
        write_embedding(path, self.embedding(good), overwrite=True)
        return path

    def write_result(self, good: dict[str, Any], checkpoint: Path, overwrite: bool) -> Embedding:
        """The finished embedding. Raises TrainingError that says where the vectors are when it cannot be written."""
        embedding = self.embedding(good)
        finished = good | {"result": result_of(good, self.params.result)}
        try:
            if self.main and not (self.out.exists() and is_result(self.out, finished, good["step"])):
                write_embedding(self.out, embedding, overwrite)
        except (OSError, EmbeddingError) as error:
            raise TrainingError(
                f"{error} The {good['step']} steps are kept in {checkpoint}: resume to write them."
            ) from error
        return embedding


def result_step(good: dict[str, Any], which: str) -> int:
    """The step that `result_of` is of."""
    judge = good["parts"].get("judge")
    return judge["best_step"] if which == "best" and judge and judge["best_vectors"] is not None else good["step"]
