"""A student's network: render -> encoder -> one UNet call at a fixed timestep -> decoder, with skips around the latent.

The design is img2img-turbo's (arXiv 2403.12036, section 3), written anew: what the VAE's encoder has before each of its
levels goes through a 1x1 convolution, zero at first, and is added before the decoder's level of the same size, so that
detail does not have to pass through the latent; LoRAs act on the UNet and on the decoder. Unlike there, the last
convolutions of UNet and decoder are the student's own, zero at first: one gives what is added to the latent, the other
what is added to the render, as a translation with `details` "render" adds its change. So with zero weights the picture
is the render, and only a change is learnt.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib_negtrans.lora.files import LoraPair
from lib_negtrans.lora.live import DOWN, UP, Layer, LiveLora
from lib_negtrans.lora.names import lora_targets
from lib_negtrans.models.protocol import HostError, ModelHost
from lib_negtrans.models.vae_tiles import CELL, in_pieces

DECODER_PREFIX = "lora_vae_decoder_"
LATENT_CHANGE, PICTURE_CHANGE = (
    "latent_change.weight",
    "change.weight",
)  # kernels (out, in, 3, 3) of the last convolutions
StudentWeights = dict[str, Tensor]  # LoRA matrices by module name + DOWN or UP, and the kernels: `kernel_shapes`


@dataclass(frozen=True)
class StudentDesign:
    """What, beside its weights, makes a student. timestep: of its UNet call; prompt: what that reads.

    rank, decoder_rank: of the LoRAs on the UNet and on the decoder, whose alpha is the rank.
    """

    timestep: int = 60
    prompt: str = ""
    rank: int = 8
    decoder_rank: int = 8


def skip_name(level: int) -> str:
    """The name of the skip to a level of the decoder, 0 the coarsest."""
    return f"skip_{level}.weight"


class StudentNetwork:
    """A student on a model. Raises HostError for a model without diffusers' VAE.

    Images are (B, 3, H, W) in [0, 1] with H and W multiples of 8, latents as in `ModelHost`.
    """

    def __init__(self, host: ModelHost, design: StudentDesign):
        vae = getattr(host, "vae", None)
        if vae is None:
            raise HostError("A student works on a model of the command line's: train and use it there.")
        self.host: Any = host
        self.design, self.vae = design, vae
        self.levels = len(vae.decoder.up_blocks)
        self.scale = math.sqrt(float(host.alphas_cumprod[design.timestep]))  # of a latent at that timestep
        decoder = {
            f"{DECODER_PREFIX}{name.replace('.', '_')}": module
            for name, module in vae.decoder.named_modules()
            if isinstance(module, nn.Linear | nn.Conv2d) and module is not vae.decoder.conv_out
        }
        self.targets: dict[str, Layer] = lora_targets(host, text=False) | decoder
        self._ranks = {id(module): design.decoder_rank for module in decoder.values()}
        self.live = LiveLora(self.targets, lambda module: self._ranks.get(id(module), design.rank), 1.0)
        self._kernels: Mapping[str, Tensor] | None = None  # those that act now

    def initial(self, generator_of: Callable[[str], torch.Generator]) -> StudentWeights:
        """Weights with which nothing is changed, float32 (float64 on such a model), with gradient."""
        dtype = torch.promote_types(self.host.dtype, torch.float32)
        weights = self.live.initial(generator_of, self.host.device, dtype)
        for name, shape in self.kernel_shapes.items():
            weights[name] = torch.zeros(shape, device=self.host.device, dtype=dtype, requires_grad=True)
        return weights

    @cached_property
    def kernel_shapes(self) -> dict[str, tuple[int, ...]]:
        """By name: the skips, from what a level of the encoder takes to what the decoder's takes, and both changes."""
        takes = [block.resnets[0].in_channels for block in self.vae.encoder.down_blocks]
        wants = [block.resnets[0].in_channels for block in self.vae.decoder.up_blocks]
        shapes = {skip_name(n): (wants[n], takes[-1 - n], 1, 1) for n in range(self.levels)}
        last = {LATENT_CHANGE: self.host.unet.conv_out, PICTURE_CHANGE: self.vae.decoder.conv_out}
        return shapes | {name: tuple(module.weight.shape) for name, module in last.items()}

    @contextmanager
    def applied(self, weights: Mapping[str, Tensor] | None) -> Iterator[None]:
        """Inside, the networks work with these weights, differentiably; None: as if there were none."""
        former, self._kernels = self._kernels, weights
        try:
            with self.live.applied(weights):
                yield
        finally:
            self._kernels = former

    @torch.no_grad()
    def merge(self, weights: Mapping[str, Tensor]) -> None:
        """Put the weights into the model for good: the LoRAs cost nothing then. Raises HostError for misfits."""
        shapes = {name + DOWN: (self.live.rank_of(m), *m.weight.shape[1:]) for name, m in self.targets.items()}
        shapes |= {
            name + UP: (len(m.weight), self.live.rank_of(m), *(1,) * (m.weight.ndim - 2))
            for name, m in self.targets.items()
        }
        shapes |= self.kernel_shapes
        if {name: tuple(tensor.shape) for name, tensor in weights.items()} != shapes:
            raise HostError(
                "The student was made for a model of other layers, or by an older version: use it with its own base "
                "model, or train it again."
            )
        for name, module in self.targets.items():
            rank, weight = self.live.rank_of(module), module.weight
            dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
            delta = LoraPair(weights[name + DOWN], weights[name + UP], None, rank).delta(weight.device, dtype)
            weight.copy_(weight.to(dtype) + delta.reshape(weight.shape))
        self._kernels = weights

    @cached_property
    def context(self) -> Tensor:
        """(1, 77, width) of the prompt; without gradient."""
        with torch.inference_mode(False), torch.no_grad():
            return self.host.encode_prompts([self.design.prompt])

    @torch.no_grad()
    def encode(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The latent, and for the skips what each level of the encoder took, finest first, of each piece in turn."""
        taken: list[Tensor] = []
        with ExitStack() as undo:
            for block in self.vae.encoder.down_blocks:
                undo.callback(block.register_forward_pre_hook(lambda _module, args: taken.append(args[0])).remove)
            latent = self.host.encode_image(image)
        # half precision that overflowed was done again in float32
        return latent, [features for features in taken if features.dtype == self.vae.dtype]

    def translated(self, latent: Tensor) -> Tensor:
        """The translated latent: z and what one UNet call adds, which reads z scaled as at its timestep, noiseless."""
        if self._kernels is None:
            return latent
        with self._last_convolution(self.host.unet.conv_out, self._kernels[LATENT_CHANGE]):
            context = self.context.expand(len(latent), -1, -1)
            return latent + self.host.predict_noise(self.scale * latent, self.design.timestep, context)

    @staticmethod
    @contextmanager
    def _last_convolution(module: nn.Conv2d, kernel: Tensor) -> Iterator[None]:
        """Inside, a network's last convolution is one with this kernel."""

        def instead(_module: nn.Module, args: tuple[Tensor, ...], _output: Tensor) -> Tensor:
            return F.conv2d(args[0], kernel.to(args[0].device, args[0].dtype), padding=1)

        hook = module.register_forward_hook(instead)
        try:
            yield
        finally:
            hook.remove()

    def decode(self, latent: Tensor, taken: list[Tensor], image: Tensor) -> Tensor:
        """The picture of a latent, of the features of `encode` and of the render that they are from.

        It is not clamped, so that gradient is never lost.
        """
        if self._kernels is None:
            return image
        kernels, decoder = self._kernels, self.vae.decoder
        pieces = [iter(taken[n :: self.levels]) for n in range(self.levels)]  # as the encoder's, in the same order

        def skip(level: int, _module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            features = next(pieces[self.levels - 1 - level])
            kernel = kernels[skip_name(level)].to(features.device, features.dtype)
            return (args[0] + F.conv2d(features, kernel), *args[1:])

        with ExitStack() as undo:
            for level, block in enumerate(decoder.up_blocks):
                undo.callback(block.register_forward_pre_hook(partial(skip, level)).remove)
            undo.enter_context(self._last_convolution(decoder.conv_out, kernels[PICTURE_CHANGE]))
            value = (latent / self.host.scaling_factor).to(self.vae.device, self.vae.dtype)
            changed = in_pieces(lambda z: self.vae.decode(z).sample, value, 1, CELL)
        return image + changed.to(image)

    def __call__(self, image: Tensor) -> Tensor:
        """Translate images, differentiably in the applied weights; not clamped."""
        latent, taken = self.encode(image)
        return self.decode(self.translated(latent), taken, image)
