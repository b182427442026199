"""Several processes that train one embedding: who does which rows, and the sum of what they found.

Every process draws the rows of the whole step from the same generator and does its own share of them, so the result
does not depend on how many there are: batch size x accumulation x processes rows make a step, whoever does them. Only
the main process writes files.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

Item = TypeVar("Item")


@dataclass(frozen=True)
class Workers:
    """This process, number `rank` of `count`; alone by default."""

    rank: int = 0
    count: int = 1

    @property
    def main(self) -> bool:
        """Whether this process writes files and speaks to the user."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """This process's part of the items: together the parts are all of them, each once, in order."""
        begin, end = (len(items) * rank // self.count for rank in (self.rank, self.rank + 1))
        return items[begin:end]

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over the processes, the same in each of them, in place."""
        if self.count > 1:
            torch.distributed.all_reduce(tensor)
        return tensor

    def any(self, flag: bool, device: torch.device | str = "cpu") -> bool:
        """Whether any process says so: they must stop at the same step."""
        return (self.count > 1 and bool(self.sum(torch.tensor(float(flag), device=device)))) or flag

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            torch.distributed.barrier()


ALONE = Workers()


def local_device() -> str | None:
    """The device of this process where `accelerate launch` or torchrun started several; elsewhere None."""
    if torch.cuda.is_available() and "LOCAL_RANK" in os.environ and _count() > 1:
        return f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"
    return None


def _count() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextlib.contextmanager
def joined(device: torch.device) -> Iterator[Workers]:
    """The processes that `accelerate launch` or torchrun started, joined for the time of the block; else `ALONE`."""
    if _count() == 1:
        yield ALONE
        return
    # several processes on one card cannot use nccl
    alone_on_card = device.type == "cuda" and torch.cuda.device_count() >= int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if alone_on_card:
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if alone_on_card else "gloo")
    try:
        yield Workers(torch.distributed.get_rank(), torch.distributed.get_world_size())
    finally:
        torch.distributed.destroy_process_group()
