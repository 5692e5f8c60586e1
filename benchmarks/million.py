"""A million connections, one after another, and what is left of them: the growth of the memory.

``python benchmarks/million.py [--connections 1000000] [--tls] [--log FILE]``

The echo server of the documentation; 50 connections at a time connect, echo one byte and close, as
in the scenario `churn`. Its memory (PSS) is read when the server is at rest: after a warm-up of a
twentieth, in which caches and the allocator fill, and then twenty times. Exit status 1 if it has
grown by more than 1 MiB from the first reading to the last, or if a descriptor is left open.

Run by hand; it takes two minutes, over TLS ten. Leave the machine alone meanwhile.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import peers
from bench import allow_descriptors, choose_cores
from process import BenchError, Child, Server
from report import head
from scenarios import READY_SECONDS, Cores, parse

LIMIT = 1 << 20
"""Bytes of growth that are allowed, over the whole run."""

STEPS = 20
PARALLEL = 50
TRIES = 4
SPAN_MILLISECONDS = 60_000
"""The most that the loader takes for one span; it lives for 300 s, so each step has its own."""


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="the memory after a million connections")
    parser.add_argument("--connections", type=int, default=1_000_000)
    parser.add_argument("--tls", action="store_true", help="with a full handshake each")
    parser.add_argument("--log", type=Path, metavar="FILE", help="write what is said there, too")
    options = parser.parse_args()
    if options.connections < STEPS:
        parser.error(f"--connections must be {STEPS} or more")
    return options


def load(server: Server, connections: int, tls: bool, cores: Cores) -> int:
    """Connect, echo and close so many times; return how many the loader counted."""
    command = peers.loader_command("churn", (server.port, PARALLEL), tls)
    done = 0
    with Child("the loader", command, cores.loader) as loader:
        loader.ask(READY_SECONDS)
        end = time.monotonic() + 240
        while done < connections:
            if time.monotonic() > end:
                raise BenchError(
                    f"{done} of {connections} connections in 240 s: too slow a machine"
                )
            loader.tell(f"{connections - done} {SPAN_MILLISECONDS}")
            span = parse(loader.ask(SPAN_MILLISECONDS / 1000 + READY_SECONDS))
            done += int(span["operations"])
    return done


def memory(server: Server) -> int:
    """Return the PSS at rest; other processes that come and go move the shared pages of it."""
    for _ in range(TRIES):
        try:
            return server.stable_pss()
        except BenchError as error:
            told = error
    raise told


def descriptors(server: Server) -> int:
    """Return how many descriptors the server has open."""
    return sum(1 for _ in Path(f"/proc/{server.pid}/fd").iterdir())


def measure(options: argparse.Namespace, say: Callable[[str], None], cores: Cores) -> bool:
    """Run it all; whether the memory stayed as it was."""
    step = options.connections // STEPS
    command = peers.server_command("ginsfsm", options.tls)
    with Server("ginsfsm", command, cores.server) as server:
        load(server, step, options.tls, cores)
        first = memory(server)
        # By now the loop has opened its own, and the connections are closed.
        opened = descriptors(server)
        say(f"after {step} to warm up: PSS {first / 2**20:.2f} MiB")
        begin, cpu = time.monotonic(), server.cpu_ns()
        count = 0
        last = first
        for number in range(STEPS):
            wanted = options.connections * (number + 1) // STEPS - count
            count += load(server, wanted, options.tls, cores)
            last = memory(server)
            change = (last - first) / 1024
            say(f"{count:9d} connections: PSS {last / 2**20:.2f} MiB, {change:+.0f} KiB")
        seconds = time.monotonic() - begin
        each = (server.cpu_ns_at_rest() - cpu) / 1000 / count
        left = descriptors(server) - opened
    grown = last - first
    say(
        f"{count} connections in {seconds:.0f} s, {each:.1f} µs of CPU each; grown by "
        f"{grown / 1024:.0f} KiB, {grown / count:.3f} bytes a connection; {left} descriptors left"
    )
    good = grown <= LIMIT and left == 0
    say("reached" if good else f"missed: at most {LIMIT / 1024:.0f} KiB and no descriptor")
    return good


def main() -> int:
    """Measure; 0 if the memory stayed."""
    options = arguments()
    allow_descriptors()
    peers.build()
    if options.tls:
        peers.build_tls("ec")
    cores = choose_cores()
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        print(line, flush=True)

    # Its last line is about rounds, of which there are none.
    say(head(cores, 1, "ec").rpartition("\n")[0])
    good = measure(options, say, cores)
    if options.log:
        options.log.write_text("\n".join(lines) + "\n")
    return 0 if good else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchError as error:
        sys.exit(f"million: {error}")
    except KeyboardInterrupt:
        sys.exit("\nmillion: interrupted")
