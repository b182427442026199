"""Peak memory of a piece of work, above what was held when it began."""

from __future__ import annotations

import gc
import resource
import sys
from pathlib import Path

import torch

from lib_negtrans.memory import trim_memory

MIB = 2**20


def _resident(field: str) -> int | None:
    """A field of Linux's process status in bytes: VmRSS now, VmHWM the most since the last reset."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), None)


def limit_memory(gigabytes: float | None) -> None:
    """A card of so many GB (2^30 bytes): more than this is out of memory for the process. Nothing on the CPU."""
    if gigabytes and torch.cuda.is_available():
        whole = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, gigabytes * 2**30 / whole))


class PeakMemory:
    """`begin()` before the work, `above()` and `whole()` after it, in MiB: of the GPU where there is one.

    On the CPU it is the process's resident memory. Elsewhere than on Linux the peak cannot be reset, so that a peak
    while the model was loaded counts too.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._baseline = 0

    def begin(self) -> None:
        """Forget earlier peaks and note what is held now; what was freed while loading is no reserve to draw on."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._baseline = torch.cuda.memory_allocated(self.device)
            return
        gc.collect()
        trim_memory(self.device)
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            pass  # nothing to reset it with: the peak is the process's whole one
        self._baseline = _resident("VmRSS") or self._peak()

    def _peak(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        peak = _resident("VmHWM")
        if peak is not None:
            return peak
        usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return usage if sys.platform == "darwin" else usage * 1024

    def whole(self) -> float:
        """The most that was held, weights included."""
        return self._peak() / MIB

    def above(self) -> float:
        """The most that was held above what was held at `begin`."""
        return (self._peak() - self._baseline) / MIB
