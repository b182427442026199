"""A model of our own with LoRAs merged into its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from lib_negtrans.models import standalone
from lib_negtrans.models.standalone import ModelChoice, StandaloneHost

from .merge import Loras


def load_model(
    model: ModelChoice | str | Path,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    clip_skip: int = 1,
    loras: Sequence[str | Path] = (),
) -> StandaloneHost:
    """`models.standalone.load_model`, with LoRAs merged into the weights: each `FILE` or `FILE:WEIGHT`.

    Raises HostError, LoraError included.
    """
    choice = model if isinstance(model, ModelChoice) else ModelChoice(model, device, dtype, clip_skip)
    return standalone.load_model(replace(choice, adapt=Loras.named(loras)) if loras else choice)
