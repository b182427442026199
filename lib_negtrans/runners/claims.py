"""Sharing a folder between processes: who works on which output, by small files beside the outputs.

`.NAME.claim` is made with O_EXCL, so that one process gets it, and goes away when the output is there. What a killed
process leaves is taken over: at once where its number is no longer in use on this machine, else when nobody has touched
the claim for a while (a thread touches those in use). Nothing needs to be started, and any number of processes on any
machines that share the folder may join or die at any time.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from pathlib import Path

TOUCH_EVERY = 30.0  # seconds
STALE_AFTER = 300.0


def claim_path(target: Path) -> Path:
    """The claim of an output, hidden and with an ending that nothing takes for a picture."""
    return target.with_name(f".{target.name}.claim")


class Claims:
    """The claims of one process, as a context: those still held when it ends are given back."""

    def __init__(self) -> None:
        self._token = uuid.uuid4().hex
        self._content = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "token": self._token})
        self._failure = self._content[:-1] + ', "failed": true}'
        self._held: set[Path] = set()
        self._lock = threading.Lock()
        self._ended = threading.Event()

    def __enter__(self) -> Claims:
        threading.Thread(target=self._touch, name="negtrans-claims", daemon=True).start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._ended.set()
        with self._lock:
            held = list(self._held)
        for path in held:
            self._remove(path)

    def take(self, target: Path) -> bool:
        """Claim an output; False while another process has it. The folder is made."""
        path = claim_path(target)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not self._create(path) and not self._take_over(path):
            return False
        with self._lock:
            self._held.add(path)
        return True

    def release(self, target: Path) -> None:
        """Give a claim back when the output is there."""
        self._remove(claim_path(target))

    def fail(self, target: Path) -> None:
        """Keep the claim as a failure until this process ends, so that others do not try the same."""
        path = claim_path(target)
        with self._lock:
            held = path in self._held
        if held:
            self._content_at(path, self._failure)

    def failed_elsewhere(self, target: Path) -> bool:
        """Whether another process that still runs could not make this output."""
        content = _read(claim_path(target))
        return content is not None and content != self._failure and '"failed"' in content and self.taken(target)

    def taken(self, target: Path) -> bool:
        """Whether another process works on this output now."""
        path = claim_path(target)
        return path not in self._held and path.exists() and not self._is_stale(path, _read(path))

    def _remove(self, path: Path) -> None:
        with self._lock:
            self._held.discard(path)
        # a process that was thought dead must not take its successor's claim away
        if _read(path) in (self._content, self._failure):
            path.unlink(missing_ok=True)

    def _create(self, path: Path) -> bool:
        """Make a file with our name in it, if there is none."""
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            return False
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(self._content)
        return True

    def _take_over(self, path: Path) -> bool:
        """Put our name into a dead process's claim, of several that try one at a time."""
        if not self._is_stale(path, _read(path)):
            return False
        turn = path.with_name(f"{path.name}.turn")
        if not self._create(turn):
            if _age(turn) > STALE_AFTER:  # killed in the very moment of taking over
                turn.unlink(missing_ok=True)
            return False
        try:
            content = _read(path)
            if content is None:
                return self._create(path)
            if not self._is_stale(path, content):
                return False
            self._content_at(path, self._content)
            return True
        finally:
            turn.unlink(missing_ok=True)

    def _content_at(self, path: Path, content: str) -> None:
        aside = path.with_name(f"{path.name}.{self._token}")
        aside.write_text(content, encoding="utf-8")
        aside.replace(path)

    @staticmethod
    def _is_stale(path: Path, content: str | None) -> bool:
        age = _age(path)
        try:
            owner = json.loads(content or "")
            host, pid = owner["host"], int(owner["pid"])
        except (ValueError, KeyError, TypeError):
            return age > STALE_AFTER  # made this moment and not yet written, or not ours
        if host == socket.gethostname() and pid != os.getpid() and not is_running(pid):
            return True
        return age > STALE_AFTER

    def _touch(self) -> None:
        while not self._ended.wait(TOUCH_EVERY):
            with self._lock:
                held = list(self._held)
            for path in held:
                with contextlib.suppress(OSError):
                    os.utime(path)


def _age(path: Path) -> float:
    """Seconds since the last change; endless for what is not there."""
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return float("inf")


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return None


def is_running(pid: int) -> bool:
    """Whether a process of this number exists here; on Windows, where asking would end it, always."""
    if os.name == "nt":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    return True
