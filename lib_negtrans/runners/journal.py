"""What a run on many machines knows of its items: who works on which, and which has ended processes.

In memory only: a run that is started again finds out from the outputs what is left.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

DEATHS = 2  # an item that was under way so often when a process ended is put aside
KILLS = f"has ended the process that worked on it {DEATHS} times: it is put aside; try it alone, or remove it."


@dataclass(frozen=True)
class Owner:
    """A process, by a name of its own, and the machine that it runs on."""

    process: str
    node: str


@dataclass(frozen=True)
class Answer:
    """What a process that asks for an item is told.

    work: it is to be made, `alone` with nothing beside it. look: unless its target is there. Else it failed, or is
    done, with what was made (pickled) as far as that is known.
    """

    work: bool = False
    alone: bool = False
    look: bool = False
    made: bytes | None = None
    error: str | None = None


class Journal:
    """Of `total` items. living_nodes gives the machines that are there; reborn: an earlier journal of the run was lost.

    A block of items whose process ended is given to another one, which asks for them again: what is done is then not
    done again, and an item that was under way counts a death, unless its machine is gone too. It is done alone from
    then on, so that the next death is its own.
    """

    def __init__(self, total: int, living_nodes: Callable[[], Collection[str]], reborn: bool = False) -> None:
        self._living_nodes, self._reborn = living_nodes, reborn
        self._finished = bytearray(total)
        self._under_way: dict[int, Owner] = {}
        self._deaths: dict[int, int] = {}
        self._made: dict[int, bytes] = {}
        self._failed: dict[int, str] = {}

    def begin(self, index: int, owner: Owner) -> Answer:
        """A process wants to work on an item."""
        if self._finished[index]:
            return Answer(made=self._made.get(index))
        if index in self._failed:
            return Answer(error=self._failed[index])
        before = self._under_way.get(index)
        if before is not None and before != owner and before.node in self._living_nodes():
            self._deaths[index] = self._deaths.get(index, 0) + 1
            if self._deaths[index] >= DEATHS:
                self.fail(index, KILLS)
                return Answer(error=KILLS)
        self._under_way[index] = owner
        return Answer(work=True, alone=index in self._deaths, look=self._reborn or before is not None)

    def end(self, index: int, made: bytes) -> None:
        """An item is made and written."""
        self._under_way.pop(index, None)
        self._finished[index], self._made[index] = True, made

    def fail(self, index: int, error: str) -> None:
        """An item cannot be made."""
        self._under_way.pop(index, None)
        self._failed[index] = error

    def forget(self, indices: Iterable[int]) -> None:
        """The results of a whole block are on their way: what they say need not be kept."""
        for index in indices:
            self._made.pop(index, None)
