"""What lies beside a finished embedding: NAME.preview.png and NAME.json, which the webui's browser shows as a card."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from .. import __version__
from ..files import atomic_write, write_text_atomic
from ..params import TrainingParams
from .events import Finished


def write_card(embedding: Path, params: TrainingParams, finished: Finished, preview: str | Path | None) -> list[str]:
    """Write both files; notes of the user in the JSON stay. Returns sentences about what could not be written.

    `.preview.png`, because the webui would try to load a plain NAME.png as an embedding.
    """
    try:
        card = embedding.with_suffix(".json")
        content = _user_metadata(card) | _metadata(params, finished)
        write_text_atomic(card, json.dumps(content, indent=1, ensure_ascii=False))
        if preview is not None:
            with atomic_write(embedding.with_suffix(".preview.png")) as temporary:
                shutil.copyfile(preview, temporary)
    except OSError as error:
        reason = error.strerror or error
        return [f"The card of {embedding.stem} could not be written ({reason}); the embedding itself is whole."]
    return []


def _user_metadata(card: Path) -> dict:
    try:
        former = json.loads(card.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return former if isinstance(former, dict) else {}


def _metadata(params: TrainingParams, finished: Finished) -> dict:
    return {
        "description": (
            f"For the negative prompt of Realistic Translation, strength {params.strength:g}. "
            f"{params.vectors} vectors, {finished.step} steps, {finished.images} renders."
        ),
        "sd version": "SD1",
        "negtrans": {"version": __version__, "step": finished.step, "loss": finished.loss, "params": params.to_dict()},
    }
