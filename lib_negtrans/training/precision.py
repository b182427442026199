"""In what precision the UNet's passes run while training, and the scale that half precision needs."""

from __future__ import annotations

from typing import Any

import torch

from lib_negtrans.models.protocol import ModelHost

from .errors import TrainingError

AUTOCAST = {"fp16": torch.float16, "bf16": torch.bfloat16}
MAXIMUM_SCALE, FIRST_SCALE, GROWTH_STEPS = 2.0**24, 2.0**16, 2000
WHERE = "full precision (the webui: start it with --no-half; the command line: --dtype float32)"
FULL_PRECISION = f"use {WHERE}"


def autocast_dtype(precision: str, host: ModelHost, masters: bool = False) -> torch.dtype | None:
    """What `host.training` is asked to autocast to; None leaves the model's own. Raises TrainingError.

    masters: see `Trainable`; a model in half precision then computes in it by autocast.
    """
    if masters and precision == "model" and host.dtype in AUTOCAST.values():
        return host.dtype
    if precision == "fp32" and host.dtype not in (torch.float32, torch.float64):
        name = str(host.dtype).removeprefix("torch.")
        raise TrainingError(f"The model's weights are {name}, so there is no fp32 to train in: load it in {WHERE}.")
    if precision not in AUTOCAST:
        return None
    dtype = AUTOCAST[precision]
    if host.device.type == "cuda" and dtype == torch.bfloat16 and not torch.cuda.is_bf16_supported():
        raise TrainingError("This graphics card cannot compute in bf16: choose precision fp16.")
    return dtype


class LossScale:
    """Keeps half-precision gradients from vanishing: the loss is multiplied by a power of two, the gradient divided.

    As torch's GradScaler (start 2^16, half on overflow, double after 2000 good steps), but a step that overflowed is
    done again with the same data instead of being lost. Does nothing (scale 1) unless enabled.
    """

    def __init__(self, enabled: bool):
        self.value = FIRST_SCALE if enabled else 1.0
        self.good = 0
        self.enabled = enabled

    @classmethod
    def of(cls, precision: str, host: ModelHost) -> LossScale:
        """Enabled where gradients run through float16, whose range is too small for them."""
        return cls((AUTOCAST.get(precision) or host.dtype) == torch.float16)

    def reduce(self) -> bool:
        """After an overflow: halve; False when there is nothing left to halve."""
        if not self.enabled or self.value <= 1.0:
            return False
        self.value, self.good = self.value / 2, 0
        return True

    def succeeded(self) -> None:
        """After a good step."""
        if not self.enabled:
            return
        self.good += 1
        if self.good >= GROWTH_STEPS:
            self.value, self.good = min(self.value * 2, MAXIMUM_SCALE), 0

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value, "good": self.good}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.enabled:
            self.value, self.good = state["value"], state["good"]
