"""Instructions of the server for one operation, counted by valgrind: noise of the machine is none.

``python benchmarks/instructions.py [--source FOLDER]... [--runs 2] [--log FILE]``

Each folder is the `src` of a checkout; without one it is ours. What a change costs is seen by
giving two: the one of before, as in ``git worktree add /tmp/before COMMIT``, and this one. A server
is run twice, with few operations and with three times as many, so that its start is not counted.
With the hash seed fixed, the counts of one source differ by 1.5 % at most; the sources take turns.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import peers
from bench import choose_cores
from process import START_SECONDS, BenchError, Child
from report import head
from scenarios import READY_SECONDS

SRC = Path(__file__).resolve().parent.parent / "src"

SLOWER = 60
"""Valgrind takes so many times as long as the program, at most."""

OPERATIONS: dict[str, tuple[str, tuple[int, ...], bool, int]] = {
    "echo, 20 connections, 1 KiB": ("echo", (20, 1024), False, 3000),
    "echo, 1 connection, 1 KiB": ("echo", (1, 1024), False, 2000),
    "echo with TLS, 20 connections, 1 KiB": ("echo", (20, 1024), True, 2000),
    "connect, 1 byte, close": ("churn", (5,), False, 400),
}
"""What is counted: the loader's mode and numbers, whether it is TLS, and how many operations."""


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="instructions of the server for one operation")
    parser.add_argument("--source", type=Path, action="append", metavar="FOLDER")
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--log", type=Path, metavar="FILE", help="write what is said there, too")
    options = parser.parse_args()
    options.source = [one.resolve() for one in options.source or [SRC]]
    for one in options.source:
        if not (one / "ginsfsm" / "__init__.py").is_file():
            parser.error(f"--source {one}: expected a folder with the package ginsfsm")
    return options


def count(source: Path, what: str, times: int, core: int) -> int:
    """Return the instructions of a whole run of the server with so many operations."""
    mode, numbers, tls, operations = OPERATIONS[what]
    with tempfile.NamedTemporaryFile("r") as log:
        server = subprocess.Popen(
            [
                "valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null",
                f"--log-file={log.name}", *peers.server_command("ginsfsm", tls),
            ],
            stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": str(source)},
        )  # fmt: skip
        try:
            assert server.stdout is not None
            port = server.stdout.readline().strip()
            if not port.isdigit():
                raise BenchError(f"the server did not start: {log.read()[-500:]}")
            command = peers.loader_command(mode, (int(port), *numbers), tls)
            with Child("the loader", command, core) as loader:
                loader.ask(READY_SECONDS)
                loader.tell(f"{operations * times} {SLOWER * 1000}")
                loader.ask(SLOWER + READY_SECONDS)
            server.send_signal(signal.SIGTERM)
            server.wait(START_SECONDS)
        finally:
            server.kill()
            server.wait()
        found = re.search(r"Collected : (\d+)", log.read())
    if found is None:
        raise BenchError("valgrind said nothing of instructions")
    return int(found[1])


def measure(options: argparse.Namespace, say: Callable[[str], None], core: int) -> None:
    """Count everything, the sources in turn."""
    for what, (_, _, _, operations) in OPERATIONS.items():
        found: list[list[int]] = [[] for _ in options.source]
        for _ in range(options.runs):
            for each, source in zip(found, options.source, strict=True):
                few, many = (count(source, what, times, core) for times in (1, 3))
                each.append(round((many - few) / (2 * operations)))
        first = min(found[0])
        for number, each in enumerate(found, 1):
            change = f", {min(each) / first - 1:+.1%}" if number > 1 else ""
            say(f"{what}: source {number}: {', '.join(map(str, each))}{change}")


def main() -> None:
    options = arguments()
    cores = choose_cores()
    log = options.log.open("w") if options.log else None

    def say(line: str) -> None:
        print(line, flush=True)
        if log is not None:
            print(line, file=log, flush=True)

    try:
        peers.build()
        peers.build_tls("ec")
        # Its last line is about slices, of which there are none.
        say(head(cores, options.runs, "ec").rpartition("\n")[0])
        measure(options, say, cores.loader)
    except BenchError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
