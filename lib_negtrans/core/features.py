"""Where the captured features of an inversion are kept: on the device, else in host memory, else nowhere.

At 512x512 and flag 256 those of one SD1.5 step are 20 MB in fp16, at 768x1024 59 MB. What does not fit the budget is
dropped, and the sampling computes it again from the stored source latent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .attention import Features

PIN = True  # page-locked host memory for a GPU's features


def tensor_bytes(tensors: list[Tensor]) -> int:
    """Bytes that these tensors hold."""
    return sum(t.numel() * t.element_size() for t in tensors)


def features_bytes(features: Features) -> int:
    """Bytes of one step's features; a tensor that stands twice counts once."""
    return tensor_bytes(list({id(tensor): tensor for pair in features.values() for tensor in pair}.values()))


def _mapped(features: Features, change: Callable[[Tensor], Tensor]) -> Features:
    """The features with each tensor changed; one that stands twice still does."""

    def changed(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        first = change(pair[0])
        return first, first if pair[1] is pair[0] else change(pair[1])

    return {name: changed(pair) for name, pair in features.items()}


def _halved(tensor: Tensor) -> Tensor:
    return tensor.half() if tensor.dtype == torch.float32 else tensor


def device_of(features: Features) -> torch.device:
    """Where one step's features are."""
    return next(iter(features.values()))[0].device if features else torch.device("cpu")


def _to_device(tensor: Tensor, device: torch.device, non_blocking: bool) -> Tensor:
    return tensor.to(device, non_blocking=non_blocking)


@dataclass(frozen=True)
class FeatureBudget:
    """Bytes for captured features: on the device and in host memory. On the CPU the two are one: `device` counts.

    half: those of a float32 model are kept in float16, half the memory for less than what an iteration leaves.
    """

    device: int
    host: int
    half: bool = False


@dataclass
class _Kept:
    features: Features
    device: torch.device  # where they were captured, and are wanted again
    bytes: int
    on_device: bool
    pinned: bool = False


@dataclass
class FeatureStore(MutableMapping[int, Features]):
    """Position -> Features within a budget; without one everything stays where it was captured.

    Reading gives the features on the device they came from, bit for bit as they were kept. A position that was dropped
    is not in the mapping; `dropped` names it.
    """

    budget: FeatureBudget | None = None
    dropped: set[int] = field(default_factory=set)
    _kept: dict[int, _Kept] = field(default_factory=dict)

    def __setitem__(self, position: int, features: Features) -> None:
        self._kept.pop(position, None)
        self.dropped.discard(position)
        if self.budget is not None and self.budget.half:
            features = _mapped(features, _halved)
        size = features_bytes(features)
        device = device_of(features)
        budget = self.budget
        if budget is None or self.device_bytes + size <= budget.device:
            self._kept[position] = _Kept(features, device, size, on_device=True)
        elif device.type != "cpu" and self.host_bytes + size <= budget.host:
            self._kept[position] = self._parked(_Kept(features, device, size, on_device=True))
        else:
            self.dropped.add(position)

    def __getitem__(self, position: int) -> Features:
        kept = self._kept[position]
        if kept.on_device:
            return kept.features
        return _mapped(kept.features, lambda tensor: _to_device(tensor, kept.device, kept.pinned))

    def __delitem__(self, position: int) -> None:
        del self._kept[position]

    def discard(self, position: int) -> None:
        """Forget a position, if it is there."""
        self._kept.pop(position, None)

    def __iter__(self) -> Iterator[int]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    @staticmethod
    def _parked(kept: _Kept, pin: bool = True) -> _Kept:
        """In host memory; page-locked for CUDA, where that makes the way back fast and not block the processor."""
        pin = pin and PIN and kept.device.type == "cuda"

        def park(tensor: Tensor) -> Tensor:
            nonlocal pin
            if pin:
                try:
                    return torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor)
                except RuntimeError:  # the system lets only so much memory be locked
                    pin = False
            return tensor.to("cpu")

        return _Kept(_mapped(kept.features, park), kept.device, kept.bytes, on_device=False, pinned=pin)

    def park(self) -> None:
        """Everything off the device, into host memory whatever the budget: for keeping between two jobs."""
        for position, kept in self._kept.items():
            if kept.on_device and kept.device.type != "cpu":
                self._kept[position] = self._parked(kept, pin=False)

    @property
    def device_bytes(self) -> int:
        """Bytes kept where they were captured."""
        return sum(kept.bytes for kept in self._kept.values() if kept.on_device)

    @property
    def host_bytes(self) -> int:
        """Bytes that were moved to host memory."""
        return sum(kept.bytes for kept in self._kept.values() if not kept.on_device)

    def __str__(self) -> str:
        parts = []
        for count, size, where in (
            (sum(k.on_device for k in self._kept.values()), self.device_bytes, "as captured"),
            (sum(not k.on_device for k in self._kept.values()), self.host_bytes, "in host memory"),
        ):
            if count:
                parts.append(f"{count} steps {where} ({size / 2**20:.0f} MB)")
        if self.dropped:
            parts.append(f"{len(self.dropped)} computed again")
        return ", ".join(parts) or "none"
