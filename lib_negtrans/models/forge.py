"""Forge's loaded checkpoint: noise predictions at any timestep, its schedule, its encoder, its embeddings.

Forge's UNet predicts clean latents from variance-exploding ones, x = z sqrt(sigma^2 + 1); all here is in terms of the
variance-preserving latents z and the noise predictions of the rest of this library.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from backend import memory_management
from backend.sampling.condition import compile_conditions
from backend.sampling.sampling_function import calc_cond_uncond_batch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .protocol import HostError
from .standalone import StandaloneHost, load_model

_PREDICTION_TYPES = ("epsilon", "v_prediction")


def refuse_model(model: Any) -> None:
    """Raises HostError for a checkpoint that is not an ordinary Stable Diffusion 1.x."""
    if getattr(model, "forge_objects", None) is None:
        raise HostError("No checkpoint is loaded: choose a Stable Diffusion 1.x checkpoint at the top left.")
    name = model.sd_checkpoint_info.model_name
    if not model.is_sd1:
        family = next((f for f in ("sdxl", "sd2", "sd3") if getattr(model, f"is_{f}", False)), None)
        kind = family.upper() if family else f"another family ({type(model).__name__})"
        raise HostError(f"{name} is {kind}: choose a Stable Diffusion 1.x checkpoint.")
    if model.is_inpaint:
        raise HostError(f"{name} is an inpainting or editing checkpoint: choose the ordinary one.")
    predicts = model.forge_objects.unet.model.predictor.prediction_type
    if predicts not in _PREDICTION_TYPES:
        raise HostError(f"{name} predicts {predicts!r}, not noise or v: choose another.")


def alphas_cumprod(patcher: Any) -> Tensor:
    """(1000,) float64 on the CPU, of the sigmas in force: "Zero Terminal SNR" changes those and nothing else."""
    return 1 / (patcher.model.predictor.sigmas.detach().double().cpu() ** 2 + 1)


def predict_noise(patcher: Any, z: Tensor, timestep: int, context: Tensor, control: Any = None) -> Tensor:
    """The noise prediction (B, 4, h, w) float32 for latents z and a context (1 or B, T, width), without guidance.

    patcher: the UNet as it is patched for this picture. By Forge's own way to the UNet, which tells patches of others
    the step and which rows are conditional. control: a ControlNet to take part, None leaves them out.
    """
    sigma = patcher.model.predictor.sigmas[timestep].to(z).expand(len(z))
    (condition,) = compile_conditions(context.expand(len(z), -1, -1))
    if control is not None:
        condition["control"] = control
    scale = sigma[:, None, None, None]
    x = z * (scale**2 + 1).sqrt()
    clean, _ = calc_cond_uncond_batch(patcher.model, [condition], None, x, sigma, patcher.model_options)
    return ((x - clean) / scale).float()


@contextmanager
def mean_encoding(model: Any) -> Generator[None, None, None]:
    """Inside, the checkpoint encodes to the mean of the VAE's posterior, not to a sample of it."""
    objects, original = model.forge_objects, model.forge_objects.vae
    vae = original.clone()
    vae.patcher.set_model_vae_regulation(lambda posterior: posterior.mode())
    objects.vae = vae
    try:
        yield
    finally:
        objects.vae = original


def finite(tensor: Tensor) -> Tensor:
    """The tensor. Raises HostError where it is not finite: Forge itself no longer looks."""
    if not torch.isfinite(tensor).all():
        raise HostError(
            "The model gave NaN: start Forge with --all-in-fp32, or choose another checkpoint or VAE at the top."
        )
    return tensor


@contextmanager
def own_copy(file: str, clip_skip: int) -> Generator[StandaloneHost, None, None]:
    """A checkpoint file as a model of this library, to be trained on while Forge's own models are out of the way.

    Forge's modules are made for sampling: their weights take no part in a backward pass. Forge loads its models again
    by itself at the next picture. Raises HostError for a file that is not in ordinary precision.
    """
    _refuse_quantised(Path(file))
    memory_management.unload_all_models()
    device = memory_management.get_torch_device()
    try:
        with torch.inference_mode(False):
            # modules are made with random weights: the next plain picture must not depend on it
            with torch.random.fork_rng(devices=[]):
                model = load_model(file, device=device, clip_skip=clip_skip)
            yield model
    finally:
        memory_management.soft_empty_cache()


def _refuse_quantised(file: Path) -> None:
    kinds: set[str] = {"GGUF"} if file.suffix.lower() == ".gguf" else set()
    if file.suffix.lower() == ".safetensors":
        try:
            with safe_open(file, "pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118, it is no mapping
                    if "quant_state" in name:
                        kinds.add("nf4")
                    elif tensors.get_slice(name).get_dtype().startswith("F8"):
                        kinds.add("fp8")
        except (OSError, SafetensorError) as error:
            raise HostError(f"{file.name} cannot be read: {error}") from error
    if kinds:
        raise HostError(
            f"{file.name} is a {min(kinds)} file, which is for making pictures: choose the same checkpoint in fp16, "
            "fp32 or bf16 for training."
        )
