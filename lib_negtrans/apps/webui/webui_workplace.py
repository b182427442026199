"""Trainings inside the webui: its queue, its progress and interrupt, its embeddings folder and database."""

from __future__ import annotations

import html
import os
import sys
from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from pathlib import Path

from modules import processing, sd_models, shared
from modules.call_queue import queue_lock
from modules.paths_internal import data_path, models_path

from lib_negtrans.jobs.training import TrainingManager, TrainingSnapshot
from lib_negtrans.models.protocol import HostError, ModelHost

from .host import host

_manager: TrainingManager | None = None


def manager() -> TrainingManager:
    """The process's one manager: "Reload UI" keeps it, and with it the training under way."""
    global _manager
    if _manager is None:
        _manager = TrainingManager(WebuiWorkplace())
    return _manager


class WebuiWorkplace:
    """A `Workplace` that behaves as one of the webui's own jobs."""

    @property
    def embeddings_folder(self) -> Path:
        return Path(shared.cmd_opts.embeddings_dir)

    @property
    def runs_folder(self) -> Path:
        """Beside the host's own training logs."""
        return Path(data_path) / "textual_inversion" / "negtrans"

    def results_folder(self, kind: str) -> Path:
        """Where the webui looks for such files."""
        if kind == "lora":
            # the option is the Lora extension's own
            return Path(getattr(shared.cmd_opts, "lora_dir", None) or Path(models_path) / "Lora")
        return Path(sd_models.model_path) if kind == "full" else self.embeddings_folder

    @contextmanager
    def turn(self, title: str) -> Iterator[ModelHost]:
        """The queue's lock and the host's job state, as a generation takes them; the last networks are out."""
        with queue_lock:
            shared.state.begin(job=title)
            try:
                with host().training() as model:
                    yield model
            finally:
                shared.state.end()
                # what `wrap_gradio_call` does after the host's own jobs: an interrupt must not reach the next one
                shared.state.skipped = shared.state.interrupted = shared.state.stopping_generation = False

    def progress(self, snapshot: TrainingSnapshot) -> bool:
        state = shared.state
        state.job_count, state.job_no = snapshot.steps, snapshot.step
        state.textinfo = html.escape(snapshot.log[-1]) if snapshot.log else None
        return bool(state.interrupted or state.stopping_generation)

    def publish(self, result: Path, kind: str = "negative") -> list[str]:
        """Load it at once, and drop the prompts that the host has cached with the former vectors (HOST.md fact 2)."""
        forget_cached_prompts()
        if kind == "lora":
            return [*host().training_notes(), *self._found_lora(result)]
        if kind == "full":
            sd_models.list_models()
            return [
                *host().training_notes(), f"{result.stem} is in the list of checkpoints: choose it at the top left."
            ]  # fmt: skip
        host().rescan_embeddings()
        return [*host().training_notes(), self._found(result)]

    @staticmethod
    def _found_lora(result: Path) -> list[str]:
        """The host's Lora extension lists its folder again."""
        lora = sys.modules.get("networks")
        if not hasattr(lora, "list_available_networks"):
            return [f"{result} is ready, but the webui's extension Lora is switched off: switch it on to use it."]
        lora.list_available_networks()
        return [f"{result.stem} is in the Lora tab: click its card, or write <lora:{result.stem}:1> into a prompt."]

    @staticmethod
    def _found(embedding: Path) -> str:
        database, name = host().embeddings(), embedding.stem
        if database is None:
            return f"{name} is ready: write {name} into a negative prompt. The next picture loads it."
        if name in database.word_embeddings:
            return f"{name} is loaded: write {name} into a negative prompt, or click it in the Textual Inversion tab."
        if name in database.skipped_embeddings:
            width, wanted = database.skipped_embeddings[name].shape, database.expected_shape
            return f"{name} is not shown: it has width {width}, and the checkpoint loaded now needs {wanted}."
        return f"The webui did not load {embedding}: its console says why."

    @property
    def templates_folder(self) -> Path | None:
        """The folder of the webui's own Train tab."""
        folder = getattr(shared.cmd_opts, "textual_inversion_templates_dir", None)
        return Path(folder) if folder else None

    def tokenizer(self) -> Callable[[str], Sized] | None:
        try:
            return host().tokenizer()
        except HostError:
            return None


def forget_cached_prompts() -> None:
    """Empty the host's prompt caches, which are kept by text and would go on using an embedding's former vectors."""
    for cls in (processing.StableDiffusionProcessing, *_subclasses(processing.StableDiffusionProcessing)):
        for name in ("cached_c", "cached_uc", "cached_hr_c", "cached_hr_uc"):
            if name in vars(cls):
                setattr(cls, name, [None, None])


def _subclasses(cls: type) -> Iterator[type]:
    for child in cls.__subclasses__():
        yield child
        yield from _subclasses(child)


def allowed_roots() -> list[Path]:
    """Folders that the API may read: those the webui serves files from (its data folder, --gradio-allowed-path)."""
    options = shared.cmd_opts
    roots = [data_path, options.embeddings_dir, *(getattr(options, "gradio_allowed_path", None) or [])]
    return [Path(os.path.realpath(root)) for root in roots if root]
