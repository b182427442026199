"""Where the captured features of an inversion are kept: on the device, else in host memory, else nowhere.

At 512x512 and flag 256 those of one SD1.5 step are 20 MB in fp16, at 768x1024 59 MB. What does not fit the budget is
dropped, and the sampling computes it again from the stored source latent.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from .attention import Features

MIB = 2**20
PIN = True  # page-locked host memory for a GPU's features
SHARE = 0.5  # of what is free now: the UNet's own calls, the VAE and everybody else need the rest


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


def available_host_memory() -> int:
    """Bytes of main memory that can be had without pushing others out; half of all where the system does not tell."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return _windows_available() or 4 * 1024 * MIB


def _windows_available() -> int | None:
    import ctypes

    class Status(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ulong), ("load", ctypes.c_ulong)] + [
            (name, ctypes.c_ulonglong) for name in ("total", "available", "c", "d", "e", "f", "g")
        ]

    if not hasattr(ctypes, "windll"):
        return None
    status = Status(length=ctypes.sizeof(Status))
    return status.available if ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)) else None


@dataclass(frozen=True)
class FeatureBudget:
    """Bytes for captured features: on the device and in host memory. On the CPU the two are one: `device` counts.

    half: those of a float32 model are kept in float16, half the memory for less than what an iteration leaves.
    """

    device: int
    host: int
    half: bool = False

    @classmethod
    def automatic(cls, device: torch.device) -> FeatureBudget:
        """Half of what is free now, float32 in float16."""
        if device.type == "cuda":
            free = torch.cuda.mem_get_info(device)[0]
            # what torch holds in reserve for itself is free too
            free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
            return cls(int(free * SHARE), int(available_host_memory() * SHARE), half=True)
        if device.type == "cpu":
            return cls(int(available_host_memory() * SHARE), 0, half=True)
        return cls(0, int(available_host_memory() * SHARE), half=True)  # nobody tells what is free there

    @classmethod
    def of(cls, megabytes: float, device: torch.device) -> FeatureBudget:
        """So many MB (2^20 bytes) in all, on the device first."""
        total = int(megabytes * MIB)
        on_device = min(total, cls.automatic(device).device) if device.type != "cpu" else total
        return cls(on_device, total - on_device, half=True)


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
                parts.append(f"{count} steps {where} ({size / MIB:.0f} MB)")
        if self.dropped:
            parts.append(f"{len(self.dropped)} computed again")
        return ", ".join(parts) or "none"
