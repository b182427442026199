"""May this run go on with that checkpoint?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .checkpoint import weights_sha256
from .common_params import CommonParams
from .errors import CheckpointError
from .trainable import Trainable
from .weights import WEIGHTS

# what a resumed run may change, because the weights do not depend on it
FREE_PARAMS = frozenset(
    {
        "steps", "save_every", "keep", "preview_every", "gradient_checkpointing", "latent_cache", "patience", "result",
        "licence", "sample_prompts", "file_precision", "ema_on_cpu",
    }
)  # fmt: skip


def fixed_params(params: CommonParams) -> dict[str, Any]:
    """The parameters on which the weights depend, as plain data; a rate that falls to the last step depends on it."""
    free = FREE_PARAMS - ({"steps"} if params.rates.scheduler != "constant" else set())
    return {key: value for key, value in params.to_dict().items() if key not in free}


def check_resumable(
    payload: Mapping[str, Any],
    path: Path,
    identity: Mapping[str, Any],
    options: type[CommonParams],
    steps: int,
    skipped: Sequence[tuple[str, str]] = (),
) -> None:
    """Raises CheckpointError, naming what differs, unless a run of `identity` may go on with a checkpoint.

    identity: {"name", "kind", "model" (hash), "params" (fixed)}, and "dataset" (fingerprint) once that is known;
    options: the parameters' class; steps: how many in all are asked for; skipped: (path, reason) of pictures that
    cannot be read now.
    """
    saved = payload["identity"]
    if saved.get("kind", "negative") != identity.get("kind", "negative"):
        raise CheckpointError(
            f"{path.name} belongs to a training of the kind {saved.get('kind', 'negative')}: resume that, or start "
            "afresh in another run folder."
        )
    if differing := differences(saved, identity, options):
        raise CheckpointError(
            f"{path.name} belongs to a run with other options ({differing}): use the same ones, or start afresh in "
            "another run folder."
        )
    if "dataset" in identity and saved["dataset"] != identity["dataset"]:
        unreadable = "".join(f" {name} {reason}" for name, reason in skipped[:3])
        raise CheckpointError(
            f"{path.name} belongs to other pictures or captions than those in the folder now: restore them, "
            f"or start afresh in another run folder.{unreadable}"
        )
    if payload["step"] > steps:
        raise CheckpointError(f"{path.name} has {payload['step']} steps already, not {steps}: ask for more steps.")
    if weights_sha256(payload[WEIGHTS]) != payload[f"{WEIGHTS}_sha256"]:
        raise CheckpointError(f"{path.name} is damaged: remove it and resume from the one before.")


def differences(saved: Mapping[str, Any], here: Mapping[str, Any], options: type[CommonParams]) -> str:
    """Name, parameters and model that differ, in words; "" when none does."""
    labels = {name: option.label for name, option in options.options().items()}
    # an older version wrote no options that it did not have, and did what is their default now
    saved_params = options().to_dict() | saved["params"]
    found = [f"name {saved['name']!r} before, {here['name']!r} now"] if saved["name"] != here["name"] else []
    for key in [*here["params"], *(key for key in saved["params"] if key not in here["params"])]:
        there, now = saved_params.get(key), here["params"].get(key)
        if there != now:
            found.append(f"{labels.get(key, key)} {there!r} before, {now!r} now")
    if saved["model"] != here["model"]:
        found.append("the model's weights, by another file or other LoRAs")
    return "; ".join(found)


def is_result(trainable: Trainable, out: Path, payload: Mapping[str, Any], steps: int) -> bool:
    """Whether the file at `out` is what this checkpoint gives: the run was killed after its last write."""
    done = payload["step"] == steps or payload.get("early", False)
    return done and trainable.is_saved(out, payload.get("result", payload[WEIGHTS]))
