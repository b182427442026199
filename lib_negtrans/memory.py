"""Main memory: running out of it, by whatever name that comes, and using it again."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import torch

from .core.features import FeatureBudget

MIB = 2**20
SHARE = 0.5  # of what is free now: the UNet's own calls, the VAE and everybody else need the rest
SENTENCE = "needs more memory than there is: make it smaller (--size), or close other programs."
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's malloc.h
_reuse_allowed = False
# torch's CPU and MPS allocators, and cuDNN and cuBLAS, raise a RuntimeError
_PHRASES = ("out of memory", "not enough memory", "can't allocate memory", "alloc_failed", "failed to allocate")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this error says that memory could not be had, on a GPU or in main memory."""
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(phrase in str(error).lower() for phrase in _PHRASES)


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
    class Status(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ulong), ("load", ctypes.c_ulong)] + [
            (name, ctypes.c_ulonglong) for name in ("total", "available", "c", "d", "e", "f", "g")
        ]

    if not hasattr(ctypes, "windll"):
        return None
    status = Status(length=ctypes.sizeof(Status))
    return status.available if ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)) else None


def available_cuda_memory(device: torch.device) -> int:
    """Bytes that torch can have on a CUDA device: what is free there, and what it holds in reserve for itself."""
    reserve = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + reserve


def free_memory() -> None:
    """Give back what is no longer used: call it after the error has been let go."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def allow_reuse() -> None:
    """Let `reused_memory` change the allocator of this process: for our own programs, never inside the webui."""
    global _reuse_allowed
    _reuse_allowed = True


@contextmanager
def reused_memory(device: torch.device) -> Generator[None, None, None]:
    """Inside, glibc uses large blocks of main memory that were freed again, which else go back to the system at once.

    A UNet call of SD1.5's size on the CPU then takes about a tenth less time: its pages need not come anew and zeroed.
    glibc's malloc is one for the whole process: nothing is changed before the program has called `allow_reuse`.
    Holes pile up meanwhile, in the VAE's sizes too many of them; `trim_memory` gives them back.
    """
    set_option = _c_library("mallopt") if _reuse_allowed and device.type == "cpu" else None
    if set_option is None:
        yield
        return
    set_option(_M_MMAP_MAX, 0)
    set_option(_M_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        set_option(_M_MMAP_MAX, 65536)
        set_option(_M_TRIM_THRESHOLD, 64 * 2**20)  # where glibc's own adjustment ends


def trim_memory(device: torch.device) -> None:
    """Give main memory that was freed back to the system where it is the device's and the C library keeps it (glibc).

    It keeps a gigabyte of captured attention, in blocks too small for the VAE's tensors to fill the holes.
    """
    trim = _c_library("malloc_trim") if device.type == "cpu" else None
    if trim is not None:
        trim(0)


def _c_library(name: str) -> Callable[..., int] | None:
    """A function of Linux's C library; None elsewhere, and where it (musl) has none."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def feature_budget(device: torch.device, megabytes: float | None = None) -> FeatureBudget:
    """Memory for an inversion's captured features; float32 is kept in float16.

    megabytes: so many (2^20 bytes) in all, on the device first; None is half of what is free now.
    """
    host = int(available_host_memory() * SHARE)
    if device.type == "cpu":
        return FeatureBudget(host if megabytes is None else int(megabytes * MIB), 0, half=True)
    on_device = int(available_cuda_memory(device) * SHARE) if device.type == "cuda" else 0  # of others nobody tells
    if megabytes is None:
        return FeatureBudget(on_device, host, half=True)
    total = int(megabytes * MIB)
    return FeatureBudget(min(total, on_device), total - min(total, on_device), half=True)
