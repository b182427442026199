"""What the two jobs, training and translation, need of a model. Nothing here knows a particular host."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from lib_negtrans.errors import UserError


class HostError(UserError):
    """The host cannot do what was asked; the message is one sentence that says what to do instead."""


@dataclass(frozen=True)
class UsedLora:
    """A LoRA in a model's weights: name as prompts have it, its file's sha256, the webui's hash of it, weight."""

    name: str
    sha256: str
    webui_hash: str
    weight: float


def hash_with_loras(checkpoint_hash: str, loras: Sequence[UsedLora]) -> str:
    """What tells a model with LoRAs from all others: sha256 hex; without one, the checkpoint's own."""
    if not loras:
        return checkpoint_hash
    parts = [checkpoint_hash, *(f"{lora.sha256}:{lora.weight!r}" for lora in loras)]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


@runtime_checkable
class ModelHost(Protocol):
    """A Stable Diffusion 1.x model, wherever it runs.

    Shapes: image (B, 3, H, W) in [0, 1] with H and W multiples of 8; latent (B, 4, H/8, W/8), already times the VAE's
    scaling factor (0.18215); context (B, 77*k, width). Latents and predictions are float32 whatever the UNet runs in.
    """

    name: str  # "standalone" or "webui"
    checkpoint_name: str  # file stem, for metadata and infotext
    loras: tuple[UsedLora, ...]  # in the weights; those of a webui's prompt, which come and go, are not here
    embeddings: Mapping[str, Tensor]  # trigger -> (n, width), known to every prompt: those that its LoRAs brought
    device: torch.device  # where the UNet runs
    dtype: torch.dtype  # what the UNet runs in
    path: Path | None  # the checkpoint's file, or a diffusers folder; None for a model made in memory
    unet: nn.Module  # ldm or diffusers module: hooks are put on its `attn1.to_q` and `attn1.to_k`
    text_encoder: nn.Module  # transformers' CLIPTextModel
    alphas_cumprod: Tensor  # (1000,) float64 on the CPU
    prediction_type: str  # "epsilon" or "v_prediction"
    embedding_width: int  # width of one token embedding: 768 on SD1.5

    @property
    def checkpoint_hash(self) -> str:
        """sha256 of the checkpoint's content, hex."""
        ...

    @property
    def model_hash(self) -> str:
        """By it a model is known: the checkpoint's hash, or with LoRAs in the weights `hash_with_loras`."""
        ...

    def encode_image(self, image: Tensor) -> Tensor:
        """The mean of the VAE's posterior, scaled: image (B,3,H,W) in [0,1] -> latent (B,4,H/8,W/8) float32."""
        ...

    def encode_image_distribution(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the posterior, both scaled: two (B,4,H/8,W/8) float32."""
        ...

    def decode_latent(self, latent: Tensor) -> Tensor:
        """latent (B,4,h,w) -> image (B,3,8h,8w) float32 in [0,1]."""
        ...

    def encode_prompts(self, prompts: Sequence[str], embeddings: Mapping[str, Tensor] | None = None) -> Tensor:
        """Prompts with `(word:1.2)` weights and embedding names -> context (B, 77*k, width), k chunks in the longest.

        embeddings maps a trigger word to vectors (n, width); they are spliced in where the word stands, and gradient
        flows to them when grad is enabled. Prompts of one call are padded to the same number of chunks.
        """
        ...

    def token_vectors(self, text: str) -> Tensor:
        """The token embeddings (m, width) float32 of a text, without start and end; (0, width) for an empty text."""
        ...

    def predict_noise(self, latent: Tensor, timestep: int | Tensor, context: Tensor) -> Tensor:
        """The UNet's raw output (eps or v) for latent (B,4,h,w), timestep int or (B,), context (B,T,width): float32."""
        ...

    def token_table(self) -> tuple[Tensor, list[str]]:
        """All token embeddings (vocabulary, width), and what each says: which words a vector is near to."""
        ...

    def training(
        self, gradient_checkpointing: bool = False, autocast: torch.dtype | None = None
    ) -> AbstractContextManager[None]:
        """Frozen weights, fit for a backward pass to the embeddings; every flag and module is put back on exit.

        autocast: float16 or bfloat16, in which `predict_noise` computes meanwhile; None: as the model always does.
        """
        ...
