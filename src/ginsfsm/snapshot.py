"""Snapshot: everything that can be counted in a process, at one moment, and the sum over several.

It is plain data, so that a worker can send it to its parent, and it adds up: `merge` takes those
of all workers and gives the one that they would have been as a single process. Counters and gauges
add, maxima take the largest; a server counts as the same where it has the same path. The order does
not matter, and the sum of sums is the sum. Of a worker that has died, `ended` gives what still
counts: how many it accepted, but not how many it has open::

    total = merge([*latest_of_each_living, *(one.ended() for one in last_of_each_dead)])

Counters cannot run backwards then: what is in the last snapshot of a worker stays in the sum.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Self

import msgspec

from ginsfsm.c_srv_sock import GServerSock
from ginsfsm.errors import GinsfsmError
from ginsfsm.stats import GaplicStats, ServerStats, add_stats, without_gauges

if TYPE_CHECKING:
    from ginsfsm.gaplic import GAplic

__all__ = ["Snapshot", "SnapshotError", "Source", "merge", "snapshot", "take"]


class SnapshotError(GinsfsmError):
    """What was given is no snapshot; the sentence says where."""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of a gaplic and of the servers in its tree.

    Attributes:
        gaplic: those of the gaplic.
        servers: those of each server, by its path: `"app/echo/server"`.
    """

    gaplic: GaplicStats = GaplicStats()
    servers: dict[str, ServerStats] = {}

    def ended(self) -> Self:
        """What still counts when the process has ended: gauges are 0, what was open has closed."""
        return msgspec.structs.replace(
            self,
            gaplic=_stats(GaplicStats, without_gauges(self.gaplic.as_dict())),
            servers={path: _ended(one) for path, one in self.servers.items()},
        )

    def as_dict(self) -> dict[str, Any]:
        """Dictionaries, strings and numbers, for `json.dumps` or a message of one's own."""
        made: dict[str, Any] = msgspec.to_builtins(self)
        return made

    @classmethod
    def of_dict(cls, given: object) -> Self:
        """The snapshot that `as_dict` was called on, also from another process.

        Raises:
            SnapshotError: what was given is not of that form.
        """
        try:
            return msgspec.convert(given, cls)
        except msgspec.ValidationError as error:
            raise SnapshotError(
                f"expected a snapshot as Snapshot.as_dict() gives it, got something else: {error}"
            ) from error


def snapshot(gaplic: GAplic) -> Snapshot:
    """The numbers of this moment; call it in the gaplic's thread.

    It visits every gobj of the tree and every open connection, about a microsecond each, so it is
    for the seconds between two looks and not for each message.
    """
    servers = {}
    for gobj in gaplic.walk():
        if isinstance(gobj, GServerSock) and not gobj.destroyed:
            servers[gobj.path] = gobj.stats()
    return Snapshot(gaplic=gaplic.stats(), servers=servers)


Source = Callable[[], Snapshot | Awaitable[Snapshot]]
"""Where numbers come from; it may have to ask other processes first."""


async def take(gaplic: GAplic, source: Source | None) -> Snapshot:
    """The numbers of a source, or of this gaplic where there is none."""
    found = snapshot(gaplic) if source is None else source()
    return await found if inspect.isawaitable(found) else found


def merge(snapshots: Iterable[Snapshot]) -> Snapshot:
    """The sum; of none at all it is the snapshot in which every number is 0."""
    given = list(snapshots)
    paths = dict.fromkeys(path for one in given for path in one.servers)
    return Snapshot(
        gaplic=_stats(GaplicStats, add_stats(one.gaplic.as_dict() for one in given)),
        servers={
            path: _stats(
                ServerStats,
                add_stats(one.servers[path].as_dict() for one in given if path in one.servers),
            )
            for path in paths
        },
    )


def _ended(server: ServerStats) -> ServerStats:
    numbers = without_gauges(server.as_dict())
    return ServerStats(**numbers | {"closed": server.closed + server.open})


def _stats(kind: Any, numbers: dict[str, Any]) -> Any:
    return kind(**numbers)
