"""Stats: what a connection, a server and a gaplic tell of themselves, as numbers.

There are three kinds, and each field says which one it is. A *counter* only grows, and what has
ended still counts in it. A *gauge* is how much there is now. A *maximum* is the largest so far.
`ginsfsm.snapshot` takes them all at once and adds those of several processes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

__all__ = [
    "GaplicStats",
    "ServerStats",
    "SockStats",
    "Stats",
    "add_stats",
    "is_later",
    "without_gauges",
]

GAUGES: Final = frozenset({"open", "queued_bytes", "gobjs", "posted_events", "processes"})
"""Fields that are no more when what they tell of has ended."""

MAXIMA: Final = frozenset({"longest_turn_seconds"})


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """What all of them can do. Two are equal where all their numbers are."""

    def as_dict(self) -> dict[str, Any]:
        """The numbers by their names, of types that JSON has."""
        made: dict[str, Any] = msgspec.to_builtins(self)
        return made


class SockStats(Stats, frozen=True, kw_only=True):
    """What a connection has carried; a client's gsock over all of its connections.

    Bytes are those of the protocol: without what TLS and a PROXY header add. A message is a frame
    where there is a framing, and else what one receive gave, and what one send was given.

    Attributes:
        rx_bytes: bytes that came (counter).
        tx_bytes: bytes that the kernel, or TLS, took; not those that still wait (counter).
        rx_messages: messages that came (counter).
        tx_messages: messages that were accepted to be sent (counter).
        queued_bytes: bytes that wait for the peer (gauge).
    """

    rx_bytes: int = 0
    tx_bytes: int = 0
    rx_messages: int = 0
    tx_messages: int = 0
    queued_bytes: int = 0


class ServerStats(SockStats, frozen=True, kw_only=True):
    """What a server and its connections have done, those that have ended among them.

    Attributes:
        accepted: connections that were let in (counter).
        closed: how many of those have closed (counter). `accepted` is `closed + open`.
        open: connections open now, those in a handshake among them (gauge).
        refused: connections that were turned away, by the reason (counters).
        failed: connections that failed while they were made: a fault of the program (counter).
        handshakes: handshakes of TLS that were completed (counter).
        failed_handshakes: those that failed or took too long (counter).
        accept_errors: failed accepts, by the name of the error, such as `"EMFILE"` (counters).
    """

    accepted: int = 0
    closed: int = 0
    open: int = 0
    refused: dict[str, int] = {}
    failed: int = 0
    handshakes: int = 0
    failed_handshakes: int = 0
    accept_errors: dict[str, int] = {}

    @property
    def refused_in_all(self) -> int:
        """How many were turned away, whatever the reason."""
        return sum(self.refused.values())


class GaplicStats(Stats, frozen=True, kw_only=True):
    """What a gaplic has done.

    Attributes:
        processes: processes that these numbers are of (gauge).
        gobjs: gobjs in the tree (gauge).
        posted_events: posted events that wait (gauge).
        dropped_posts: posted events whose destination had been destroyed (counter).
        refused_events: events that a state did not accept (counter).
        contained_errors: exceptions that reached an edge of the loop (counter).
        longest_turn_seconds: the longest time that the gaplic held the loop, by what it delivered;
            what a coroutine does between two awaits is the loop's own (maximum).
    """

    processes: int = 0
    gobjs: int = 0
    posted_events: int = 0
    dropped_posts: int = 0
    refused_events: int = 0
    contained_errors: int = 0
    longest_turn_seconds: float = 0.0


def add_stats(given: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The sum of the numbers of some, as `as_dict` gives them: maxima take the largest."""
    total: dict[str, Any] = {}
    for one in given:
        for name, value in one.items():
            before = total.get(name)
            if before is None:
                total[name] = dict(value) if isinstance(value, Mapping) else value
            elif isinstance(value, Mapping):
                total[name] = add_stats((before, value))
            elif name in MAXIMA:
                total[name] = max(before, value)
            else:
                total[name] = before + value
    return total


def without_gauges(given: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers that still count when what they tell of has ended."""
    return {name: 0 if name in GAUGES else value for name, value in given.items()}


def is_later(now: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
    """Whether these can be the numbers of the same thing, later: no counter is lower."""
    return all(
        is_later(now.get(name, {}), value)
        if isinstance(value, Mapping)
        else now.get(name, 0) >= value
        for name, value in without_gauges(before).items()
    )
