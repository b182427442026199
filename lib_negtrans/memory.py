"""Running out of memory, by whatever name it comes."""

from __future__ import annotations

import ctypes
import gc
import sys

import torch

SENTENCE = "needs more memory than there is: make it smaller (--size), or close other programs."
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


def trim_memory(device: torch.device) -> None:
    """Give main memory that was freed back to the system where it is the device's and the C library keeps it (glibc).

    It keeps a gigabyte of captured attention, in blocks too small for the VAE's tensors to fill the holes.
    """
    on_glibc = device.type == "cpu" and sys.platform == "linux"
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if on_glibc else None
    if trim is not None:
        trim(0)
