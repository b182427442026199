"""Pictures of known time, for `scale.py`: a job in a module of its own, which a cluster's processes can import."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lib_negtrans.runners.runner import FileItem, Items, Job, OnStep, Worker


@dataclass(frozen=True)
class Names(Items[FileItem]):
    names: Sequence[str]
    out: Path

    def target_name(self, name: str) -> str:
        return f"{name}.done"

    def item(self, name: str) -> FileItem:
        return FileItem(Path(name), self.out / self.target_name(name))


@dataclass(frozen=True)
class SleepJob(Job[FileItem, tuple[float, float]]):
    """A picture takes `seconds` and is an empty file; what is made of it are the times of its begin and end."""

    seconds: float

    def start(self, device: str | None = None) -> Sleeper:
        return Sleeper(self.seconds)


class Sleeper(Worker[FileItem, tuple[float, float]]):
    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def read(self, item: FileItem) -> str:
        return item.source.name

    def make(self, item: FileItem, content: str, on_step: OnStep | None = None) -> tuple[float, float]:
        began = time.time()
        time.sleep(self.seconds)
        return began, time.time()

    def write(self, item: FileItem, result: tuple[float, float]) -> tuple[float, float]:
        item.target.touch()
        return result
