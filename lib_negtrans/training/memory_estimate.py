"""How much memory a training will need, before it starts: from one small pass of the model itself."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from lib_negtrans.memory import available_cuda_memory, available_host_memory
from lib_negtrans.models.protocol import ModelHost

from .common_params import CommonParams
from .events import Notice
from .objective import Rows, model_with, reconstruct
from .precision import autocast_dtype
from .weights import Weights, tensors

SIDES = (8, 16, 24)  # latents of the passes that are measured
STATE_BYTES = {"adamw": 8.0, "adamw8bit": 2.0, "prodigy": 16.0, "adafactor": 0.1}  # of a parameter
RECOMPUTED = 0.2  # of all activations, about: what gradient checkpointing has at once beside what it keeps


def memory_notice(
    host: ModelHost,
    params: CommonParams,
    weights: Weights,
    applied: AbstractContextManager[Any],
    averages: int,
    copied: bool,
    masters: bool,
) -> Notice:
    """What the training needs on the model's device, in a sentence; a warning where that is more than is free.

    applied: `Trainable.applied` of the weights. averages: how many moving averages lie on the device. copied, masters:
    see `Trainable`.
    """
    count = sum(tensor.numel() for tensor in tensors(weights))
    state = (4 + STATE_BYTES[params.optimizer] + 4 * averages) * count
    need = (2 * state if copied else state) + 4 * count  # the last are the gradients
    with host.training(False, autocast_dtype(params.precision, host, masters)), applied:
        activations = params.batch_size * activation_bytes(host, params.size)
    if params.gradient_checkpointing:
        activations *= RECOMPUTED
    networks = (host.unet, host.text_encoder)
    model = sum(p.numel() * p.element_size() for network in networks for p in network.parameters())
    free, there = _free(host.device)
    text = (
        f"The training needs about {_size(need + activations)} beside the model's {_size(model)}: {_size(need)} for "
        f"what is trained, {_size(activations)} for a batch of {params.batch_size} at {params.size} pixels; "
        f"{_size(free)} {there} are free."
    )
    if need + activations <= free:
        return Notice(text)
    return Notice(f"{text} Lower the batch size or the size, or turn on gradient checkpointing.", "warning")


def activation_bytes(host: ModelHost, size: int) -> float:
    """What the backward pass of one row of size x size pixels keeps: measured at SIDES, carried on as a square law."""
    found = torch.tensor([saved_bytes(host, side) for side in SIDES], dtype=torch.float64)
    pixels = torch.tensor([side**2 for side in SIDES], dtype=torch.float64)
    law = torch.linalg.solve(torch.stack([pixels**0, pixels, pixels**2], dim=1), found)
    here = (size // 8) ** 2
    return float(law[0] + law[1] * here + max(0.0, float(law[2])) * here**2)


def saved_bytes(host: ModelHost, side: int) -> int:
    """Bytes that autograd keeps of one row with side x side latents, weights left out."""
    known = {p.untyped_storage().data_ptr() for network in (host.unet, host.text_encoder) for p in network.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # an operation that kept its own result as it is would never be freed

    latent = torch.zeros(1, 4, side, side, device=host.device)
    rows = Rows(latent, torch.ones_like(latent), torch.tensor([500], device=host.device), ("a photo",))
    with torch.inference_mode(False), torch.enable_grad():
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = reconstruct(model_with(host, {}), rows).sum()
        return sum(size for pointer, size in kept.items() if pointer not in known) if loss.requires_grad else 0


def _free(device: torch.device) -> tuple[float, str]:
    if device.type == "cuda":
        return available_cuda_memory(device), "on the graphics card"
    return available_host_memory(), "of main memory"


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GB" if count >= 2**30 else f"{count / 2**20:.0f} MB"
