"""Totals: what all workers have counted, those that have gone included.

Each says its own numbers when it is asked, and once more when it ends in peace. Of one that was
killed, what it said last counts: no counter runs backwards. Neither does one where a worker makes a
server anew, which begins at 0: a sum that fell by a part would look as if all of it had begun anew.
Where no worker has the server any more its numbers go, as they do in a process alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from ginsfsm.snapshot import Snapshot, merge
from ginsfsm.stats import is_later

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
        before = self._latest[who][1] if who in self._latest else Snapshot()
        self._latest[who] = (pid, snapshot)
        self._note_ended_servers(before, snapshot)
        self._changed(who)

    def ended(self, who: str) -> None:
        """The process of that worker has ended; the next one counts from 0."""
        last = self._latest.pop(who, None)
        if last is not None:
            self._gone = merge([self._gone, last[1].ended()])
        self._changed(who)

    def _note_ended_servers(self, before: Snapshot, now: Snapshot) -> None:
        ended = {
            path: one
            for path, one in before.servers.items()
            if path not in now.servers or not is_later(now.servers[path].as_dict(), one.as_dict())
        }
        if ended:
            gone = merge([self._gone, Snapshot(servers=ended).ended()])
            left = ended.keys() - {
                path for _, snapshot in self._latest.values() for path in snapshot.servers
            }
            kept = {path: one for path, one in gone.servers.items() if path not in left}
            self._gone = msgspec.structs.replace(gone, servers=kept)

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
