"""Totals: what all workers have counted, those that have gone included.

Each says its own numbers when it is asked, and once more when it ends in peace. Of one that was
killed, what it said last counts: no counter runs backwards.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ginsfsm.snapshot import Snapshot, merge

__all__ = ["Totals"]


class Totals:
    """The latest snapshot of each process that lives, and the sum of all others.

    Attributes:
        on_change: called with the name of a worker that has told its numbers, or has ended.
    """

    def __init__(self) -> None:
        self._latest: Final[dict[str, tuple[int, Snapshot]]] = {}
        self._gone = Snapshot()
        self.on_change: Final[list[Callable[[str], object]]] = []

    def note(self, who: str, pid: int, snapshot: Snapshot) -> None:
        """That process of that worker has counted so much since its start."""
        if who in self._latest and self._latest[who][0] != pid:
            self.ended(who)
        self._latest[who] = (pid, snapshot)
        self._changed(who)

    def ended(self, who: str) -> None:
        """The process of that worker has ended; the next one counts from 0."""
        last = self._latest.pop(who, None)
        if last is not None:
            self._gone = merge([self._gone, last[1].ended()])
        self._changed(who)

    @property
    def largest(self) -> int:
        """Gobjs and connections of the process that has most of them."""
        return max(
            (
                snapshot.gaplic.gobjs + sum(one.open for one in snapshot.servers.values())
                for _, snapshot in self._latest.values()
            ),
            default=0,
        )

    def sum(self) -> Snapshot:
        """Everything together."""
        return merge([self._gone, *(snapshot for _, snapshot in self._latest.values())])

    def _changed(self, who: str) -> None:
        for callback in list(self.on_change):
            callback(who)
