"""Trainings that wait for the one under way."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar


class Named(Protocol):
    """What can wait: something with a name of its own."""

    @property
    def name(self) -> str: ...


Job = TypeVar("Job", bound=Named)


class Queue(Generic[Job]):
    """First come, first served; every name at most once. Its owner holds the lock."""

    def __init__(self) -> None:
        self._jobs: list[Job] = []

    def __contains__(self, name: str) -> bool:
        return any(job.name == name for job in self._jobs)

    @property
    def names(self) -> list[str]:
        """In the order in which they will begin."""
        return [job.name for job in self._jobs]

    def add(self, job: Job) -> None:
        """At the end. Raises ValueError for a name that waits already."""
        if job.name in self:
            raise ValueError(f"{job.name} waits already.")
        self._jobs.append(job)

    def take(self) -> Job | None:
        """The next one, out of the queue; None when there is none."""
        return self._jobs.pop(0) if self._jobs else None

    def cancel(self, name: str | None = None) -> list[str]:
        """Take out the one of this name, or without a name all; the names that were there."""
        gone = [job.name for job in self._jobs if name in (None, job.name)]
        self._jobs = [job for job in self._jobs if job.name not in gone]
        return gone
