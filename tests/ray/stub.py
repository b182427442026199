"""A job of known time and known faults: what a runner does without a model.

An item's text names what it does: "wait 0.1", "raise", "hang", "kill" (the process), "memory" or "memory once".
"""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lib_negtrans.files import write_bytes_atomic
from lib_negtrans.runners.runner import FileItem, Items, Job, Worker


@dataclass(frozen=True)
class Texts(Items[FileItem]):
    names: Sequence[str]
    source: Path
    out: Path

    def target_name(self, name):
        return f"{name}.sha"

    def item(self, name):
        return FileItem(self.source / name, self.out / self.target_name(name))


@dataclass(frozen=True)
class TextJob(Job[FileItem, str]):
    """log: a file that gets a line `begin NAME` or `end NAME` for each item that is worked on."""

    log: Path

    def start(self, device=None):
        if "no start" in self.log.name:
            raise OSError("there is no model here.")
        return TextWorker(self.log)


class TextWorker(Worker[FileItem, str]):
    def __init__(self, log):
        self.log = log

    def note(self, what, item):
        with self.log.open("a") as stream:  # one write: lines of several processes do not mix
            stream.write(f"{what} {item.source.name}\n")

    def read(self, item):
        return item.source.read_text()

    def make(self, item, content, on_step=None):
        self.note("begin", item)
        what, _, seconds = content.partition(" ")
        if what == "raise":
            raise ValueError("a picture like no other")
        if what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        begun = self.log.read_text().count(f"begin {item.source.name}\n")
        if content == "memory" or (content == "memory once" and begun == 1):
            raise MemoryError
        time.sleep(1000 if what == "hang" else float(seconds) if what == "wait" else 0)
        return hashlib.sha256(content.encode()).hexdigest()

    def write(self, item, result):
        write_bytes_atomic(item.target, f"{item.source.name} {result}".encode())
        self.note("end", item)
        return result
