"""In what precision the UNet's passes run while training."""

from __future__ import annotations

import torch

from lib_negtrans.models.protocol import ModelHost

from .errors import TrainingError

AUTOCAST = {"fp16": torch.float16, "bf16": torch.bfloat16}


def autocast_dtype(precision: str, host: ModelHost) -> torch.dtype | None:
    """What `host.training` is asked to autocast to; None leaves the model's own. Raises TrainingError."""
    if precision == "fp32" and host.dtype not in (torch.float32, torch.float64):
        raise TrainingError(
            f"The model's weights are {_short(host.dtype)}, so there is no fp32 to train in: load it in full precision "
            "(the webui: start it with --no-half; the command line: --dtype float32)."
        )
    if precision not in AUTOCAST:
        return None
    dtype = AUTOCAST[precision]
    if host.device.type == "cuda" and dtype == torch.bfloat16 and not torch.cuda.is_bf16_supported():
        raise TrainingError("This graphics card cannot compute in bf16: choose precision fp16.")
    return dtype


def computes_in_half(precision: str, host: ModelHost) -> bool:
    """Whether gradients run through float16, whose range needs a loss scale."""
    return (AUTOCAST.get(precision) or host.dtype) == torch.float16


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
