"""What is measured: one class per kind of measurement, one object per scenario, and the targets.

A scenario measures a round: every row once, each with a fresh server. How the memory of a process
happens to be laid out moves its cost for as long as it lives, so the spans of one process agree
with each other more than with the truth.

The machine itself moves much more, and within seconds. So the servers of a round live side by
side and are measured in short slices, in turn: what is compared lies less than a second apart.
"""

import json
import os
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Protocol

from dispatch import CONTESTANTS
from peers import HERE, SERVER_PEERS, TLS_PEERS, loader_command, server_command, server_peers
from process import BenchError, Child, Server, machine_seconds

READY_SECONDS = 60.0
DISPATCH_SECONDS = 300.0

SLICES = 8
"""Slices of a round. The noise of the median falls with their number, not with their length."""

DISPATCH_PEERS = {
    "bare": ("bare",),
    "ginsfsm": ("typed", "by_name"),
    "transitions": ("transitions",),
    "original": ("original",),
}
"""The contestants of dispatch.py that ``--peers`` means by a name."""

PEERS = tuple(dict.fromkeys((*SERVER_PEERS, *TLS_PEERS, *DISPATCH_PEERS)))


@dataclass(frozen=True)
class Cores:
    """Where the server and the loader run."""

    server: int
    loader: int


@dataclass
class Figure:
    """One row of one round: the value of each slice in the unit of the scenario, and notes."""

    slices: list[float]
    notes: dict[str, float] = field(default_factory=dict)

    @property
    def value(self) -> float:
        """The figure of the round."""
        return statistics.median(self.slices)

    def ratio(self, other: "Figure") -> float:
        """Return how many times the other this one is, slice by slice."""
        pairs = zip(self.slices, other.slices, strict=True)
        return statistics.median(mine / theirs for mine, theirs in pairs)


@dataclass
class Round:
    """What a round brought: figures by row, and what could not be measured, in words."""

    figures: dict[str, Figure] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


class Scenario(Protocol):
    """Something to measure about a set of peers."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def baseline(self) -> tuple[str, ...]:
        """What the ratios are taken against: with several rows, the best one of each round."""
        ...

    @property
    def peers(self) -> tuple[str, ...]: ...
    @property
    def tls(self) -> bool: ...

    def rows(self, peers: Sequence[str]) -> list[str]:
        """Return the rows of the table that these peers can fill, in order."""
        ...

    def measure(self, rows: Sequence[str], cores: Cores) -> Round:
        """Measure one round."""
        ...


class Pair:
    """A server under load: the server, its loader, and one slice after another."""

    def __init__(
        self, row: str, mode: str, arguments: Sequence[int], tls: bool, cores: Cores
    ) -> None:
        self.row = row
        with ExitStack() as stack:
            server = Server(row, server_command(row, tls), cores.server)
            self.server = stack.enter_context(server)
            command = loader_command(mode, (server.port, *arguments), tls)
            self.loader = stack.enter_context(Child(f"the loader of {row}", command, cores.loader))
            self.loader.ask(READY_SECONDS)
            self._stack = stack.pop_all()

    def __enter__(self) -> "Pair":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def span(self, operations: int, milliseconds: int) -> dict[str, float]:
        """Run one span of load; return what the loader says about it."""
        self.loader.tell(f"{operations} {milliseconds}")
        return parse(self.loader.ask(milliseconds / 1000 + READY_SECONDS))


@dataclass(frozen=True)
class Load:
    """CPU time of the server per operation, while the loader keeps it busy."""

    name: str
    title: str
    mode: str
    arguments: tuple[int, ...]
    warm: int
    operations: int
    milliseconds: int
    peers: tuple[str, ...]
    unit: str = "µs"
    baseline: tuple[str, ...] = ("uvloop",)
    tls: bool = False

    def rows(self, peers: Sequence[str]) -> list[str]:
        return [peer for peer in server_peers(self.tls) if peer in peers]

    def measure(self, rows: Sequence[str], cores: Cores) -> Round:
        """Start all servers, then measure them in turn, slice by slice."""
        found = Round()
        pairs: dict[str, Pair] = {}
        spans: dict[str, list[dict[str, float]]] = {row: [] for row in rows}
        with ExitStack() as stack:
            for row in rows:
                try:
                    pair = Pair(row, self.mode, self.arguments, self.tls, cores)
                    pairs[row] = stack.enter_context(pair)
                except BenchError as error:
                    found.failures[row] = str(error)
            for _ in range(SLICES):
                for row, pair in list(pairs.items()):
                    try:
                        spans[row].append(self._slice(pair))
                    except BenchError as error:
                        found.failures[row] = str(error)
                        del pairs[row]
        found.figures = {row: self._figure(spans[row]) for row in pairs}
        return found

    def _slice(self, pair: Pair) -> dict[str, float]:
        """Warm the server up again, since others ran meanwhile, and measure one span."""
        pair.span(self.warm, self.milliseconds)
        before = pair.server.cpu_ns_at_rest()
        machine = machine_seconds()
        span = pair.span(self.operations, self.milliseconds)
        span["machine"] = machine_seconds() - machine
        span["server_cpu"] = (pair.server.cpu_ns_at_rest() - before) / 1e9
        return span

    def _figure(self, spans: Sequence[dict[str, float]]) -> Figure:
        """Return microseconds per operation, and what the spans say together."""
        notes = {key: sum(span[key] for span in spans) for key in spans[0]}
        others = notes["machine"] - notes["server_cpu"] - notes["loader_cpu"]
        notes["others"] = others / notes["seconds"] / (os.cpu_count() or 1)
        notes["busy"] = min(notes["server_cpu"] / notes["seconds"], 1.0)
        return Figure([span["server_cpu"] * 1e6 / span["operations"] for span in spans], notes)


@dataclass(frozen=True)
class Idle:
    """Memory of the server per connection that is open and silent."""

    name: str
    title: str
    connections: int
    peers: tuple[str, ...]
    unit: str = "KiB"
    baseline: tuple[str, ...] = ("uvloop",)
    tls: bool = False

    def rows(self, peers: Sequence[str]) -> list[str]:
        # The C server keeps nothing per connection: its row would say zero.
        known = server_peers(self.tls)
        return [peer for peer in known if peer in peers and peer != "c_epoll"]

    def measure(self, rows: Sequence[str], cores: Cores) -> Round:
        """Measure one server after the other: those alive share pages, which PSS divides."""
        found = Round()
        for row in rows:
            try:
                found.figures[row] = self._fill(row, cores)
            except BenchError as error:
                found.failures[row] = str(error)
        return found

    def _fill(self, row: str, cores: Cores) -> Figure:
        """Read the memory of the empty server, fill it, and read again."""
        with Server(row, server_command(row, self.tls), cores.server) as server:
            empty = server.stable_pss()
            command = loader_command("idle", (server.port, self.connections), self.tls)
            with Child(f"the loader of {row}", command, cores.loader) as loader:
                loader.ask(READY_SECONDS)
                full = server.stable_pss()
        each = (full - empty) / 1024 / self.connections
        return Figure([each], {"empty_mib": empty / 2**20, "full_mib": full / 2**20})


@dataclass(frozen=True)
class Dispatch:
    """Nanoseconds to hand an event to a machine; dispatch.py measures all rows in one go."""

    name: str
    title: str
    peers: tuple[str, ...]
    unit: str = "ns"
    baseline: tuple[str, ...] = ("bare",)
    tls: bool = False

    def rows(self, peers: Sequence[str]) -> list[str]:
        chosen = {row for peer in peers for row in DISPATCH_PEERS.get(peer, ())}
        return [row for row in CONTESTANTS if chosen and row in chosen | {"bare"}]

    def measure(self, rows: Sequence[str], cores: Cores) -> Round:
        """Run one round of dispatch.py in a fresh process on the core of the servers."""
        arguments = ["--raw", "--runs", "1", "--only", ",".join(rows)]
        command = [sys.executable, str(HERE / "dispatch.py"), *arguments]
        found = Round()
        try:
            with Child("dispatch.py", command, cores.server) as child:
                best: dict[str, list[float]] = json.loads(child.ask(DISPATCH_SECONDS))
        except BenchError as error:
            found.failures = dict.fromkeys(rows, str(error))
        else:
            found.figures = {row: Figure(rounds) for row, rounds in best.items()}
        return found


def parse(line: str) -> dict[str, float]:
    """Return the numbers of a line ``done operations=… seconds=…`` of the loader."""
    word, *pairs = line.split()
    if word != "done":
        raise BenchError(f"the loader said {line!r} instead of its result")
    return {key: float(value) for key, _, value in (pair.partition("=") for pair in pairs)}


ENDLESS = 10_000_000
"""Operations that no span reaches: its limit of time ends it."""

BOTH_UVLOOPS = ("uvloop", "uvloop_buffered")
"""Over TLS the two differ by a factor that depends on the message: the better one counts."""

SCENARIOS: tuple[Scenario, ...] = (
    Load(
        name="echo_50x1k",
        title="50 connections, 1 KiB: server CPU per message",
        mode="echo",
        arguments=(50, 1024),
        warm=3000,
        operations=ENDLESS,
        milliseconds=300,
        peers=SERVER_PEERS,
    ),
    Load(
        name="echo_1000x64",
        title="1000 connections, 64 B: server CPU per message",
        mode="echo",
        arguments=(1000, 64),
        warm=3000,
        operations=ENDLESS,
        milliseconds=300,
        peers=("c_epoll", "uvloop", "ginsfsm", "asyncio", "asyncio_64k"),
    ),
    # Four peers, eight slices and five rounds of these leave 128 000 sockets in TIME_WAIT. Past
    # 131 072, Linux by default ends them early and connections close in another way.
    Load(
        name="churn",
        title="connect, 1 byte, close, 50 at a time: server CPU per connection",
        mode="churn",
        arguments=(50,),
        warm=100,
        operations=700,
        milliseconds=2000,
        peers=("c_epoll", "uvloop", "ginsfsm", "asyncio"),
    ),
    Idle(
        name="idle_9000",
        title="9 000 idle connections: server memory (PSS) each, over the empty server",
        connections=9000,
        peers=("uvloop", "ginsfsm", "asyncio"),
    ),
    Load(
        name="tls_echo_20x1k",
        title="TLS, 20 connections, 1 KiB: server CPU per message",
        mode="echo",
        arguments=(20, 1024),
        warm=2000,
        operations=ENDLESS,
        milliseconds=300,
        peers=TLS_PEERS,
        baseline=BOTH_UVLOOPS,
        tls=True,
    ),
    Load(
        name="tls_echo_64k",
        title="TLS, 10 connections, 64 KiB: server CPU per message",
        mode="echo",
        arguments=(10, 65536),
        warm=500,
        operations=ENDLESS,
        milliseconds=300,
        peers=TLS_PEERS,
        baseline=BOTH_UVLOOPS,
        tls=True,
    ),
    Load(
        name="tls_handshakes",
        title="TLS, connect, full handshake, 1 byte, close, 50 at a time: server CPU each",
        mode="churn",
        arguments=(50,),
        warm=100,
        operations=500,
        milliseconds=2000,
        peers=TLS_PEERS,
        baseline=BOTH_UVLOOPS,
        tls=True,
    ),
    # What asyncio needs for these is 800 MiB.
    Idle(
        name="tls_idle",
        title="TLS, 3 000 idle connections: server memory (PSS) each, over the empty server",
        connections=3000,
        peers=TLS_PEERS,
        tls=True,
    ),
    Dispatch(
        name="dispatch",
        title="one event to a machine with one counting action",
        peers=tuple(DISPATCH_PEERS),
    ),
)


@dataclass(frozen=True)
class Target:
    """A figure to reach: a row of a scenario, by itself or against the best of other rows."""

    scenario: str
    row: str
    against: tuple[str, ...]
    limit: float
    words: str


TARGETS = (
    Target("echo_50x1k", "ginsfsm", ("uvloop",), 1.15, "50 × 1 KiB, against raw uvloop"),
    Target("echo_50x1k", "ginsfsm", ("tornado",), 1 / 3, "50 × 1 KiB, against Tornado"),
    Target("echo_50x1k", "ginsfsm", ("twisted",), 1 / 2, "50 × 1 KiB, against Twisted"),
    Target("echo_1000x64", "ginsfsm", ("uvloop",), 1.15, "1000 × 64 B, against raw uvloop"),
    Target("churn", "ginsfsm", ("uvloop",), 1.2, "connect and close, against raw uvloop"),
    Target("idle_9000", "ginsfsm", (), 2.5, "9 000 idle, KiB each"),
    Target("tls_echo_20x1k", "ginsfsm", BOTH_UVLOOPS, 1.05, "TLS 20 × 1 KiB, the better uvloop"),
    Target("tls_echo_64k", "ginsfsm", BOTH_UVLOOPS, 1.15, "TLS 64 KiB, the better uvloop"),
    Target("tls_handshakes", "ginsfsm", BOTH_UVLOOPS, 1.05, "TLS handshakes, the better uvloop"),
    Target("tls_idle", "ginsfsm", (), 40, "TLS, idle, KiB each"),
    Target("dispatch", "typed", ("bare",), 7, "typed send_event, bare method calls"),
    Target("dispatch", "typed", ("transitions",), 1 / 20, "typed send_event, against transitions"),
    Target("dispatch", "typed", ("original",), 1 / 6, "typed send_event, against ginsfsm 0.7.3"),
)
