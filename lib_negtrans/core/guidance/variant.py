"""What a guidance variant is, and classifier-free guidance, which each of them is in a limit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor


@dataclass
class Variant:
    """One way to combine predictions (B, C, H, W); a new object for each translation. Its fields are its options.

    name: what it is chosen by, and what the full names of its options begin with. subtracts: what of the negative is
    subtracted, in words for a list of the variants. needs_empty: whether it reads the prediction for the empty prompt.
    stands_alone: a concept of this kind is measured from the empty prompt, and its weight is not times the CFG scale.
    """

    name: ClassVar[str]
    subtracts: ClassVar[str]
    needs_empty: ClassVar[bool] = True
    stands_alone: ClassVar[bool] = False

    def part_of(self, vector: Tensor, towards: Tensor, step: int) -> Tensor:
        """What is kept of a direction `vector` beside the prompt's own, `towards`; step as in the call."""
        raise NotImplementedError

    def __call__(self, empty: Tensor, cond: Tensor, negative: Tensor, scale: float, step: int) -> Tensor:
        """The guided prediction u + w D - (w - 1) N with only what is kept of N.

        From those for the empty prompt, the prompt and the negative prompt; scale is the CFG scale w; step is the
        sampled step, counted from 0. Where needs_empty is False, empty is unread.
        """
        kept = self.part_of(negative - empty, cond - empty, step)
        return empty + scale * (cond - empty) - (scale - 1) * kept

    def kept(self) -> str:
        """What of the negative counts, in words, where it is not all of it."""
        return ""


def setting(default: Any, label: str, help: str, **more: Any) -> Any:
    """A variant's option as a dataclass field, described in plain data: label, help, and more of what an option has."""
    return field(default=default, metadata={"label": label, "help": help, **more})


def cfg(uncond: Tensor, cond: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance u + w (c - u) (arXiv 2207.12598); with a negative prompt, u is its prediction."""
    return uncond + scale * (cond - uncond)


def in_force(step: int, warmup: int, cooldown: int) -> bool:
    """Whether sampled step `step` is one from `warmup` on and before `cooldown`, 0 being never."""
    return step >= warmup and (not cooldown or step < cooldown)


def computed(tensor: Tensor) -> Tensor:
    """In float32 at least: float64 stays, so that its rounding is not turned into float32's."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def length(tensor: Tensor) -> Tensor:
    """The L2 norm of each picture of (B, ...), in the shape (B, 1, ..)."""
    return tensor.flatten(1).norm(dim=1).view(-1, *[1] * (tensor.ndim - 1))
