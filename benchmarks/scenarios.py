"""What is measured: one class per kind of measurement, one object per scenario, and the targets.

A scenario measures one peer at a time and knows nothing of rounds. Every measurement starts a
fresh server. How the memory of a process happens to be laid out moves its cost by several per
cent for as long as it lives, so five spans of one process would agree with each other and not
with the truth; five processes show the spread.
"""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from dispatch import CONTESTANTS
from peers import HERE, LOADER, SERVER_PEERS, server_command
from process import BenchError, Child, Server, machine_seconds

READY_SECONDS = 60.0
DISPATCH_SECONDS = 300.0

DISPATCH_PEERS = {
    "bare": ("bare",),
    "ginsfsm": ("typed", "by_name"),
    "transitions": ("transitions",),
    "original": ("original",),
}
"""The contestants of dispatch.py that ``--peers`` means by a name."""

PEERS = (*SERVER_PEERS, *(name for name in DISPATCH_PEERS if name not in SERVER_PEERS))


@dataclass(frozen=True)
class Cores:
    """Where the server and the loader run."""

    server: int
    loader: int


@dataclass(frozen=True)
class Figure:
    """One measurement: its value in the unit of the scenario, and notes for the reader."""

    value: float
    notes: dict[str, float]


class Scenario(Protocol):
    """Something to measure about a set of peers."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def baseline(self) -> str: ...
    @property
    def peers(self) -> tuple[str, ...]: ...

    def rows(self, peers: Sequence[str]) -> list[str]:
        """Return the rows of the table that these peers can fill, in order."""
        ...

    def measure(self, row: str, cores: Cores) -> dict[str, Figure]:
        """Measure one row once; the result may bring other rows along."""
        ...


@dataclass(frozen=True)
class Load:
    """CPU time of the server per operation, while the loader keeps it busy."""

    name: str
    title: str
    mode: str
    arguments: tuple[int, ...]
    warm: int
    operations: int
    seconds: int
    peers: tuple[str, ...]
    unit: str = "µs"
    baseline: str = "uvloop"

    def rows(self, peers: Sequence[str]) -> list[str]:
        return [peer for peer in SERVER_PEERS if peer in peers]

    def measure(self, row: str, cores: Cores) -> dict[str, Figure]:
        """Start the server, warm it up, and read its CPU time around one span."""
        limits = (self.warm, self.operations, self.seconds)
        with Server(row, server_command(row), cores.server) as server:
            numbers = map(str, (server.port, *self.arguments, *limits))
            with Child("the loader", [str(LOADER), self.mode, *numbers], cores.loader) as loader:
                try:
                    loader.ask(READY_SECONDS)
                    before = server.cpu_ns_at_rest()
                    machine_before = machine_seconds()
                    loader.tell("go")
                    done = parse(loader.ask(self.seconds + READY_SECONDS))
                    machine = machine_seconds() - machine_before
                    used = server.cpu_ns_at_rest() - before
                except BenchError as error:
                    raise BenchError(f"{row}: {error}") from None
        microseconds = used / 1000 / done["operations"]
        busy = min(used / 1e9 / done["seconds"], 1.0)
        others = machine - used / 1e9 - done["loader_cpu"]
        share = max(0.0, others / done["seconds"] / (os.cpu_count() or 1))
        return {row: Figure(microseconds, {"busy": busy, "others": share, **done})}


@dataclass(frozen=True)
class Idle:
    """Memory of the server per connection that is open and silent."""

    name: str
    title: str
    connections: int
    peers: tuple[str, ...]
    unit: str = "KiB"
    baseline: str = "uvloop"

    def rows(self, peers: Sequence[str]) -> list[str]:
        # The C server keeps nothing per connection: its row would say zero.
        return [peer for peer in SERVER_PEERS if peer in peers and peer != "c_epoll"]

    def measure(self, row: str, cores: Cores) -> dict[str, Figure]:
        """Read the memory of the empty server, fill it, and read again."""
        with Server(row, server_command(row), cores.server) as server:
            empty = server.stable_pss()
            command = [str(LOADER), "idle", str(server.port), str(self.connections)]
            with Child("the loader", command, cores.loader) as loader:
                try:
                    loader.ask(READY_SECONDS)
                    full = server.stable_pss()
                except BenchError as error:
                    raise BenchError(f"{row}: {error}") from None
        each = (full - empty) / 1024 / self.connections
        return {row: Figure(each, {"empty_mib": empty / 2**20, "full_mib": full / 2**20})}


@dataclass(frozen=True)
class Dispatch:
    """Nanoseconds to hand an event to a machine; dispatch.py measures all rows in one go."""

    name: str
    title: str
    peers: tuple[str, ...]
    unit: str = "ns"
    baseline: str = "bare"

    def rows(self, peers: Sequence[str]) -> list[str]:
        chosen = {row for peer in peers for row in DISPATCH_PEERS.get(peer, ())}
        rows = [row for row in CONTESTANTS if row in chosen | {"bare"}]
        # One process measures them all, interleaved: to this scenario that is one row.
        return [",".join(rows)] if chosen else []

    def measure(self, row: str, cores: Cores) -> dict[str, Figure]:
        """Run one round of dispatch.py in a fresh process on the core of the servers."""
        command = [sys.executable, str(HERE / "dispatch.py"), "--raw", "--runs", "1"]
        with Child("dispatch.py", [*command, "--only", row], cores.server) as child:
            figures: dict[str, list[float]] = json.loads(child.ask(DISPATCH_SECONDS))
        return {name: Figure(rounds[0], {}) for name, rounds in figures.items()}


def parse(line: str) -> dict[str, float]:
    """Return the numbers of a line ``done operations=… seconds=…`` of the loader."""
    word, *pairs = line.split()
    if word != "done":
        raise BenchError(f"the loader said {line!r} instead of its result")
    return {key: float(value) for key, _, value in (pair.partition("=") for pair in pairs)}


LONG = 10_000_000
"""Operations that no span reaches: its limit of seconds ends it."""

SCENARIOS: tuple[Scenario, ...] = (
    Load(
        name="echo_50x1k",
        title="50 connections, 1 KiB: server CPU per message",
        mode="echo",
        arguments=(50, 1024),
        warm=20_000,
        operations=LONG,
        seconds=2,
        peers=SERVER_PEERS,
    ),
    Load(
        name="echo_1000x64",
        title="1000 connections, 64 B: server CPU per message",
        mode="echo",
        arguments=(1000, 64),
        warm=20_000,
        operations=LONG,
        seconds=2,
        peers=("c_epoll", "uvloop", "ginsfsm", "asyncio", "asyncio_64k"),
    ),
    # Few enough that the TIME_WAIT sockets of all rounds stay under the kernel's limit.
    Load(
        name="churn",
        title="connect, 1 byte, close, 50 at a time: server CPU per connection",
        mode="churn",
        arguments=(50,),
        warm=1000,
        operations=10_000,
        seconds=10,
        peers=("c_epoll", "uvloop", "ginsfsm", "asyncio", "uvloop_streams"),
    ),
    Idle(
        name="idle_9000",
        title="9 000 idle connections: server memory (PSS) each, over the empty server",
        connections=9000,
        peers=("uvloop", "ginsfsm", "asyncio"),
    ),
    Dispatch(
        name="dispatch",
        title="one event to a machine with one counting action",
        peers=tuple(DISPATCH_PEERS),
    ),
)


@dataclass(frozen=True)
class Target:
    """A figure to reach: a row of a scenario, by itself or against another row."""

    scenario: str
    row: str
    against: str | None
    limit: float
    words: str


TARGETS = (
    Target("echo_50x1k", "ginsfsm", "uvloop", 1.15, "50 × 1 KiB, against raw uvloop"),
    Target("echo_50x1k", "ginsfsm", "tornado", 1 / 3, "50 × 1 KiB, against Tornado"),
    Target("echo_50x1k", "ginsfsm", "twisted", 1 / 2, "50 × 1 KiB, against Twisted"),
    Target("echo_1000x64", "ginsfsm", "uvloop", 1.15, "1000 × 64 B, against raw uvloop"),
    Target("churn", "ginsfsm", "uvloop", 1.2, "connect and close, against raw uvloop"),
    Target("idle_9000", "ginsfsm", None, 2.5, "9 000 idle, KiB each"),
    Target("dispatch", "typed", "bare", 7, "typed send_event, bare method calls"),
    Target("dispatch", "typed", "transitions", 1 / 20, "typed send_event, against transitions"),
    Target("dispatch", "typed", "original", 1 / 6, "typed send_event, against ginsfsm 0.7.3"),
)
