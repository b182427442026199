"""The part of a guided UNet call that does not depend on the prompt, computed once for all its branches.

A guided batch holds the same latents once per prompt. Up to the first cross-attention the branches are equal, so the
input convolution and the first residual block need one copy only: 1.9 % of an SD1.5 row at 512x512, exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def prompt_free_modules(unet: nn.Module) -> list[nn.Module]:
    """The input convolution and the first residual block of an ldm or diffusers SD1 UNet."""
    if hasattr(unet, "input_blocks"):
        return [unet.input_blocks[0][0], unet.input_blocks[1][0]]
    return [unet.conv_in, unet.down_blocks[0].resnets[0]]


@contextmanager
def shared_prefix(unet: nn.Module, copies: int, apart: int = 0) -> Generator[None, None, None]:
    """Inside, the UNet's batch is `copies` consecutive copies of the same latents and timesteps: (copies * B, 4, h, w).

    apart: so many rows before them are others' and run on their own.
    Only the contexts may differ; the caller vouches for that. A batch that `copies` does not divide runs as ever.
    The hooks are gone when the block ends, whatever happened.
    """
    handles: list = []
    try:
        for module in prompt_free_modules(unet) if copies > 1 else ():
            keep, repeat = _hooks(copies, apart)
            handles.append(module.register_forward_pre_hook(keep, with_kwargs=True))
            handles.append(module.register_forward_hook(repeat))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hooks(copies: int, apart: int) -> tuple[Callable, Callable]:
    cut = False  # whether the module's present call runs on one copy

    def keep(_module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        nonlocal cut
        batch = args[0].shape[0]
        cut = batch > apart and (batch - apart) % copies == 0
        if not cut:
            return None
        once = apart + (batch - apart) // copies

        def first(value: object) -> object:
            return value[:once] if isinstance(value, Tensor) and value.shape[:1] == (batch,) else value

        return tuple(first(a) for a in args), {name: first(value) for name, value in kwargs.items()}

    def repeat(_module: nn.Module, _args: tuple, output: Tensor) -> Tensor | None:
        if not cut:
            return None
        repeated = output[apart:].repeat(copies, *[1] * (output.ndim - 1))
        return torch.cat([output[:apart], repeated]) if apart else repeated

    return keep, repeat
