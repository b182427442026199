"""Runs the published FashionR2R code, from a clone of Style3D/FashionR2R that the caller has, on a host's weights.

Nothing of it is here. Its `main` is followed without what this measurement must not depend on: files, xformers, CPU
offload and the CUDA generator (unused with a start latent). cv2, einops' `rearrange` and torchvision's `save_image`,
which it imports and never calls here, are stood in for where they are not installed; `in_channels`, which newer
diffusers keep in the UNet's config only, is put on the UNet.
"""

from __future__ import annotations

import importlib
import sys
import types
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from lib_negtrans.models.standalone import StandaloneHost


@dataclass(frozen=True)
class PeerResult:
    """What a run left: image (1, 3, H, W) in [0, 1], latents (1, 4, h, w), the source latents, the UNet rows."""

    image: Tensor
    latent: Tensor
    trajectory: list[Tensor]
    rows: int


def _stand_in(name: str, **attributes: object) -> None:
    try:
        importlib.import_module(name)
        return
    except ImportError:
        module = types.ModuleType(name)
    vars(module).update(attributes)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)


def _never(*_args: object, **_options: object) -> None:
    raise NotImplementedError("the benchmark does not call this")


class Peer:
    """The published pipeline on the networks of a host; made once, before anything is measured."""

    def __init__(self, folder: Path, host: StandaloneHost) -> None:
        # diffusers and transformers must have looked for the real torchvision before it is stood in for
        from diffusers import DDIMScheduler, StableDiffusionImg2ImgPipeline  # noqa: F401

        _stand_in("cv2")
        _stand_in("torchvision")
        _stand_in("torchvision.utils", save_image=_never)
        _stand_in("einops", rearrange=_never)
        sys.path.insert(0, str(folder))
        try:
            self._control = importlib.import_module("utils.Attention_replace").SelfAttentionControlEdit
            self._register = importlib.import_module("utils.attention_register_utils").register_attention_control_new
            pipeline = importlib.import_module("utils.diffuser_utils").FashionR2RPipeline
        except ImportError as error:
            sys.exit(f"--peer {folder} is no usable clone of Style3D/FashionR2R: {error}")
        finally:
            sys.path.remove(str(folder))
        host.vae.to(memory_format=torch.contiguous_format)  # as diffusers loads it, and its activations
        for module in host.vae.modules():
            if isinstance(module, torch.nn.SiLU):
                module.inplace = False
        object.__setattr__(host.unet, "in_channels", host.unet.config.in_channels)
        scheduler = DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False
        )
        self.unet = host.unet
        self.pipe = pipeline(
            vae=host.vae, text_encoder=host.text_encoder, tokenizer=host.tokenizer, unet=host.unet,
            scheduler=scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip
        self.pipe.set_progress_bar_config(disable=True)

    def add_embedding(self, name: str, vectors: Tensor) -> None:
        """Make a negative embedding (n, width) known to prompts, for good, as its `main` does."""
        self.pipe.load_textual_inversion({name: vectors}, token=name)

    def translate(
        self, image: Image.Image, negative: str, *, steps: int, strength: float, cfg_scale: float = 7.5
    ) -> PeerResult:
        """One picture of width and height that are multiples of 8; layers flag 256, ratio .9, prompts empty."""
        width, height = image.size
        rows = 0

        def count(_module: torch.nn.Module, args: tuple) -> None:
            nonlocal rows
            rows += args[0].shape[0]

        latents: list[Tensor] = []
        step = type(self.pipe).step

        def recorded_step(*args: object, **options: object) -> tuple[Tensor, Tensor]:
            result = step(self.pipe, *args, **options)
            latents[:] = [result[0]]
            return result

        handle = self.unet.register_forward_pre_hook(count)
        self.pipe.step = recorded_step
        try:
            start, trajectory = self.pipe.invert(
                image, "", guidance_scale=cfg_scale, num_inference_steps=steps, strength=strength,
                return_intermediates=True,
            )  # fmt: skip
            prompts = ["", ""]
            control = self._control(prompts, steps * strength, self_replace_steps=0.9, flag=height * width / 256)
            self._register(self.pipe, control)
            # its own default is 50 steps: the number is not handed on by its `main` (METHOD: R5)
            result = self.pipe(
                prompts, image, latents=start.expand(2, -1, -1, -1), guidance_scale=cfg_scale,
                num_inference_steps=steps, ref_intermediate_latents=trajectory, height=height, width=width,
                strength=strength, neg_prompt=negative, generator=None, img_mask=None, inversion_as_start=True,
            )  # fmt: skip
        finally:
            handle.remove()
            del self.pipe.step
            for module in self.unet.modules():  # it leaves its forwards on the attention modules
                vars(module).pop("forward", None)
        return PeerResult(result[1:], latents[0][1:], trajectory, rows)
