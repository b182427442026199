"""What a translation's UNet rows cost by FLOPs: a row of a whole forward is 1, one that is cut short its share.

FLOPs are counted on torch's meta device (no arithmetic, no memory), with the UNet's own modules and the real hooks.
Needs torch 2.1 for its counter.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lib_negtrans.core.attention import AttentionControl
from lib_negtrans.translation.pipeline import Forwards


def source_share(
    unet: nn.Module, control: AttentionControl, latent_size: tuple[int, int], context_size: tuple[int, int]
) -> float:
    """What a source call that ends after the last controlled layer costs, as a share of a whole forward.

    For a latent (height, width) and a context (tokens, width). control must not be active: its hooks are put and
    removed here. The UNet is called as (latent, timestep, context), which ldm and diffusers both take. SD1.5 at 64x64,
    flag 256: .954.
    """
    tensors = {**dict(unet.named_parameters()), **dict(unet.named_buffers())}
    weights = {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()}
    dtype = next(unet.parameters()).dtype

    def call() -> None:
        latent = torch.empty(1, 4, *latent_size, device="meta", dtype=dtype)
        context = torch.empty(1, *context_size, device="meta", dtype=dtype)
        torch.func.functional_call(unet, weights, (latent, torch.zeros(1, device="meta"), context))

    with torch.no_grad(), control:
        with FlopCounterMode(display=False) as whole:
            call()
        with FlopCounterMode(display=False) as source, control.capture(stop_early=True):
            call()
    return source.get_total_flops() / whole.get_total_flops()


def whole_rows(forwards: Forwards, share: float) -> float:
    """The same work as a number of whole rows; share: `source_share`."""
    return forwards.total - (forwards.source - forwards.beside) * (1 - share)
