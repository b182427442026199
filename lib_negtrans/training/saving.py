"""What a run writes: checkpoints, the best weights so far, and the result."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lib_negtrans import __version__
from lib_negtrans.errors import UserError
from lib_negtrans.files import write_text_atomic
from lib_negtrans.models.protocol import ModelHost
from lib_negtrans.training.data.sets import TrainingData

from .checkpoint import checkpoint_path, save_checkpoint, weights_sha256
from .common_params import CommonParams
from .errors import TrainingError
from .events import Event, Notice, Saved
from .resume import fixed_params
from .state import TrainingState, result_of
from .trainable import Trainable
from .weights import WEIGHTS

RUN_FILE, BEST_FOLDER = "run.json", "best"
RECOMMENDED_WEIGHT = 1.0  # that it was trained at


class RunFiles:
    """Writes the files of one run; not `main`: writes none. saved_step: of the newest checkpoint on the disk."""

    def __init__(
        self,
        host: ModelHost,
        params: CommonParams,
        trainable: Trainable,
        run_folder: Path,
        out: Path,
        identity: dict[str, Any],
        data: TrainingData,
        state: TrainingState,
        main: bool = True,
    ):
        self.host, self.params, self.trainable, self.run_folder, self.out = host, params, trainable, run_folder, out
        self.identity, self.data, self.state, self.saved_step, self.main = identity, data, state, state.step, main

    def describe(self) -> None:
        """run.json: what this run is. Raises OSError."""
        content = {
            "name": self.out.stem,
            "version": __version__,
            "checkpoint": {"name": self.host.checkpoint_name, "sha256": self.host.checkpoint_hash},
            "loras": [asdict(lora) for lora in self.host.loras],
            "params": self.params.to_dict(),
            "dataset": self.data.to_dict(),
        }
        write_text_atomic(self.run_folder / RUN_FILE, json.dumps(content, indent=1, ensure_ascii=False))

    def save(self, good: dict[str, Any], early: bool = False) -> Path | None:
        """A checkpoint of a snapshot, unless there is one; None before the first step. Raises OSError.

        The one that was written last where the snapshot does not hold a whole step any more. early: the run ends here
        although it has fewer steps than were asked for.
        """
        step = good["step"]
        if self.saved_step != step and self.state.whole:
            if self.main:
                payload = self.state.to_payload(good) | {
                    "identity": self.identity,
                    "model_name": self.host.checkpoint_name,
                    f"{WEIGHTS}_sha256": weights_sha256(good[WEIGHTS]),
                    "result": result_of(good, self.params.result)[0],
                    "early": early,
                    "version": __version__,
                }
                save_checkpoint(self.run_folder, step, payload, self.params.keep)
            self.saved_step = step
        return checkpoint_path(self.run_folder, self.saved_step) if self.saved_step else None

    def try_save(self, good: dict[str, Any], last: bool, early: bool = False) -> Event:
        """A full disk must not end a run that can save again later, or at its end."""
        try:
            path = self.save(good, early)
            assert path is not None  # a step was made
            return Saved(good["step"], path)
        except OSError as error:
            if last:
                raise
            reason = error.strerror or error
            return Notice(f"The checkpoint could not be written ({reason}): free some space.", "warning")

    def keep_best(self, good: dict[str, Any]) -> Notice | None:
        """The best weights' file in the folder best of the run folder, or a warning."""
        if not self.state.history:  # before the first step there is no loss to tell of
            return None
        try:
            self._write(self.run_folder / BEST_FOLDER / self.out.with_suffix(self.trainable.suffix).name, good, "best")
        except (OSError, UserError) as error:
            reason = getattr(error, "strerror", None) or error
            return Notice(f"The best {self.trainable.noun} could not be written ({reason}).", "warning")
        return None

    def write_stopped(self, good: dict[str, Any]) -> Path | None:
        """The weights of a stopped run, in a folder of their own: the file's name is the trigger word, and `out` stays
        free for the finished one."""
        if not self.main or not self.state.whole:
            return None
        path = self.run_folder / f"step-{good['step']:08d}" / self.out.name
        self._write(path, good, self.params.result)
        return path

    def write_result(self, good: dict[str, Any], checkpoint: Path, overwrite: bool) -> None:
        """The finished file. Raises TrainingError that says where the weights are when it cannot be written."""
        try:
            weights = result_of(good, self.params.result)[0]
            if not (self.out.exists() and self.trainable.is_saved(self.out, weights)):
                self._write(self.out, good, self.params.result, overwrite)
            if "average" in good["parts"]:
                self._write(self.run_folder / "unaveraged" / self.out.name, good, "unaveraged")
        except (OSError, UserError) as error:
            raise TrainingError(
                f"{error} The {good['step']} steps are kept in {checkpoint}: resume to write them."
            ) from error

    @property
    def loss(self) -> float:
        """The mean of the last 100 steps."""
        return statistics.fmean(row.loss for row in self.state.history[-100:])

    def _write(self, path: Path, good: dict[str, Any], which: str, overwrite: bool = True) -> None:
        """Weights of this run with all that is known of them."""
        if not self.main:
            return
        loras = self.host.loras
        facts = {
            "kind": self.trainable.kind,
            "version": __version__,
            "images": len(self.data.main),
            "photos": len(self.data.photos) if self.data.photos is not None else 0,
            "dataset": self.data.fingerprint,
            "loss": self.loss,
            "recommended_weight": RECOMMENDED_WEIGHT,
            **({"loras": ", ".join(f"{lora.name}:{lora.weight:g}" for lora in loras)} if loras else {}),
            **({"licence": self.params.licence} if self.params.licence else {}),
            **fixed_params(self.params),
        }
        self.trainable.save(path, *result_of(good, which), facts, overwrite)
