"""Main memory: running out of it, by whatever name that comes, and using it again."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager

import torch

SENTENCE = "needs more memory than there is: make it smaller (--size), or close other programs."
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's malloc.h
# torch's CPU and MPS allocators, and cuDNN and cuBLAS, raise a RuntimeError
_PHRASES = ("out of memory", "not enough memory", "can't allocate memory", "alloc_failed", "failed to allocate")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this error says that memory could not be had, on a GPU or in main memory."""
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(phrase in str(error).lower() for phrase in _PHRASES)


def free_memory() -> None:
    """Give back what is no longer used: call it after the error has been let go."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def reused_memory(device: torch.device) -> Generator[None, None, None]:
    """Inside, glibc uses large blocks of main memory that were freed again, which else go back to the system at once.

    A UNet call of SD1.5's size on the CPU then takes about a tenth less time: its pages need not come anew and zeroed.
    Holes pile up meanwhile, in the VAE's sizes too many of them; `trim_memory` gives them back.
    """
    set_option = _c_library("mallopt") if device.type == "cpu" else None
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
