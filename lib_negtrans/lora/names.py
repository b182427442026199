"""Which modules of an SD1 model a LoRA changes, by the names that kohya's sd-scripts gave them and every program reads.

A name is diffusers' name of the module with _ for its dots, behind lora_unet_ or lora_te_; on SD1.5:

    192  attention      all Linear and 1x1 convolutions of the transformer blocks, with proj_in and proj_out
     86  convolutions   of the residual blocks (conv1, conv2, time_emb_proj, conv_shortcut) and the samplers: LoCon
     72  text encoder   q, k, v and out of the attentions, fc1 and fc2 of the perceptrons
"""

from __future__ import annotations

import re
from typing import Protocol

from torch import nn

from lib_negtrans.models.ldm_names import to_diffusers

UNET_PREFIX = "lora_unet_"
TEXT_PREFIX = "lora_te_"
_ATTENTION = re.compile(r"lora_unet_\w+_attentions_\d+_\w+")
_CONVOLUTION = re.compile(r"lora_unet_\w+_(resnets_\d+|downsamplers_0|upsamplers_0)_\w+")
_TEXT = re.compile(r"lora_te_text_model_encoder_layers_\d+_(self_attn|mlp)_\w+")


class Networks(Protocol):
    """What a LoRA changes of a host: diffusers' or ldm's UNet, and transformers' CLIPTextModel."""

    @property
    def unet(self) -> nn.Module: ...
    @property
    def text_encoder(self) -> nn.Module: ...


def lora_targets(host: Networks, convolutions: bool = True, text: bool = True) -> dict[str, nn.Linear | nn.Conv2d]:
    """kohya name -> the Linear or Conv2d that a training adapts, UNet first, each network in its modules' order.

    convolutions: also those of LoCon (`is_convolution`); text: also the text encoder's (`is_text`).
    """
    return {
        name: module
        for name, module in lora_modules(host).items()
        if _ATTENTION.fullmatch(name)
        or (convolutions and is_convolution(name))
        or (text and _TEXT.fullmatch(name) is not None)
    }


def lora_modules(host: Networks) -> dict[str, nn.Linear | nn.Conv2d]:
    """kohya name -> module for every Linear and Conv2d: what files may change, some trainers' also conv_in or the
    time embedding.
    """
    unet = ((to_diffusers(name), module) for name, module in host.unet.named_modules())
    # newer transformers leave the outer "text_model" away
    text = (
        (name if name.startswith("text_model.") else f"text_model.{name}", module)
        for name, module in host.text_encoder.named_modules()
    )
    return {
        prefix + name.replace(".", "_"): module
        for prefix, modules in ((UNET_PREFIX, unet), (TEXT_PREFIX, text))
        for name, module in modules
        if isinstance(module, nn.Linear | nn.Conv2d)
    }


def is_convolution(name: str) -> bool:
    """Whether the target is one of LoCon's: in a residual block or a sampler, its time_emb_proj (Linear) included."""
    return _CONVOLUTION.fullmatch(name) is not None


def is_text(name: str) -> bool:
    """Whether the target is in the text encoder."""
    return name.startswith(TEXT_PREFIX)
