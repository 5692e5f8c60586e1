"""Workers and connections are killed at random for a minute, under load; then all must be well.

``python benchmarks/stampede.py [--seconds 60] [--pause 1.2] [--workers 4] [--seed 1]
[--log FILE]``

The server is `ginsfsm run servers/ginsfsm_stampede.py:Stampede --workers N`. The clients are in
this process. Each connects, is told which worker has it, sends some lines, checks every byte that
comes back, and goes: in peace, or by a reset, at once, in the middle of a line, or with a line
under way. Every second or so a worker is chosen and gets SIGKILL, SIGSEGV, SIGABRT, SIGSTOP (its
loop stands still, and the parent has to notice) or SIGTERM (it drains), or the parent gets SIGHUP
(all are replaced).

At the end nobody is killed any more, and all workers must serve again. Exit status 1 unless

- no connection was ever refused, and one was lost only where its worker was killed;
- each survivor has counted what its clients have: connections and lines, exactly. (A line that
  was under way when its client reset the connection may have been read or not.)
- nothing is left in a survivor or in the parent: no connection, no descriptor, no process;
- the program ends with status 0 on SIGTERM, with no traceback in its log.

Run by hand; a short run is among the tests.
"""

import argparse
import asyncio
import json
import os
import random
import resource
import signal
import socket
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import peers
from process import BenchError

SERVER = peers.SERVERS / "ginsfsm_stampede.py"

CLIENTS = 24
PAUSE = 1.2
"""Seconds from one kill to the next, on average."""

ENOUGH = 50
"""Connections that each survivor has served before it is judged."""

STUCK = 2.0
"""`--worker-timeout`, short; the parent gives two seconds more."""

PATIENCE = 60.0
"""Seconds in which any answer must come. All workers may wait for their next start, 30 s at most,
and nobody is turned away meanwhile."""

DEADLY = (*(signal.SIGKILL,) * 4, signal.SIGSEGV, signal.SIGABRT, signal.SIGSTOP)

KINDS = (*DEADLY, signal.SIGTERM, signal.SIGTERM, signal.SIGHUP)

RESET = struct.pack("ii", 1, 0)

SAID = (" died", "is stuck", " has left", "replacing")

LEAVING = ("peace", "peace", "peace", "reset", "half a line", "a line under way")


class Book:
    """What the clients know of one worker."""

    def __init__(self) -> None:
        self.greeted = 0
        self.answered = 0
        self.under_way = 0
        self.asked = 0
        self.lost = 0


class Stampede:
    """The clients, the one who kills, and what they know."""

    def __init__(self, port: int, parent: int, seed: int) -> None:
        self.port = port
        self.parent = parent
        self.random = random.Random(seed)
        self.books: dict[int, Book] = {}
        self.killed: set[int] = set()
        self.signals: Counter[str] = Counter()
        self.ways: Counter[str] = Counter()
        self.lost_early = 0
        self.faults: list[str] = []
        self.calm = False
        self.over = False

    def fault(self, text: str) -> None:
        """Something that must not be."""
        if len(self.faults) < 20:
            self.faults.append(text)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection; whoever is refused has found a fault."""
        try:
            async with asyncio.timeout(PATIENCE):
                return await asyncio.open_connection("127.0.0.1", self.port)
        except OSError as error:
            self.fault(f"a connection was refused: {error!r}")
            raise

    async def come_and_go(self) -> None:
        """One connection after another."""
        while not self.over:
            reader, writer = await self.connect()
            book: Book | None = None
            try:
                async with asyncio.timeout(PATIENCE):
                    # An empty line, at the end, is a ValueError.
                    book = self.book(int(await reader.readline()))
                    book.greeted += 1
                    await self.talk(book, reader, writer)
            except (ConnectionError, ValueError, EOFError):
                if book is None:
                    self.lost_early += 1
                else:
                    book.lost += 1
            except TimeoutError:
                self.fault(f"a client waited for more than {PATIENCE:g} s")
            finally:
                writer.close()
                with suppress(ConnectionError):
                    await writer.wait_closed()

    def book(self, pid: int) -> Book:
        return self.books.setdefault(pid, Book())

    async def talk(
        self, book: Book, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Some lines there and back, and one way to go."""
        for _ in range(self.random.randrange(8)):
            line = self.line()
            writer.write(line)
            back = await reader.readline()
            if not back.endswith(b"\n"):
                raise EOFError
            if back != line:
                self.fault("a line came back changed")
            book.answered += 1
        way = self.random.choice(LEAVING)
        self.ways[way] += 1
        if way == "peace":
            return
        if way == "half a line":
            writer.write(self.line()[:-1])
        elif way == "a line under way":
            book.under_way += 1
            writer.write(self.line())
        sock: socket.socket = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        writer.transport.abort()

    def line(self) -> bytes:
        return self.random.randbytes(self.random.randrange(1, 2000)).hex().encode() + b"\n"

    async def kill(self, pause: float) -> None:
        """Every now and then one of them, whatever it does just then."""
        # Once at least, however short the run and slow the machine.
        while not (self.calm and self.signals["SIGKILL"]):
            await asyncio.sleep(self.random.uniform(0.5, 1.5) * pause)
            number = self.random.choice(KINDS) if self.signals else signal.SIGKILL
            if number == signal.SIGHUP:
                os.kill(self.parent, number)
            else:
                workers = sorted(set(children(self.parent)) & self.books.keys())
                if not workers:
                    continue
                pid = self.random.choice(workers)
                if number in DEADLY:
                    self.killed.add(pid)
                os.kill(pid, number)
            self.signals[number.name] += 1

    def all_serve(self, count: int) -> bool:
        """Whether so many workers live, and each has served some clients."""
        alive = children(self.parent)
        books = [self.books[one].greeted for one in alive if one in self.books]
        return len(alive) == len(books) == count and min(books) >= ENOUGH

    async def survivors(self, count: int) -> dict[int, dict[str, int]]:
        """What so many workers have counted, when they are all that there are."""
        found: dict[int, dict[str, int]] = {}
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            reader, writer = await self.connect()
            try:
                async with asyncio.timeout(PATIENCE):
                    pid = int(await reader.readline())
                    book = self.book(pid)
                    book.greeted += 1
                    book.asked += 1
                    writer.write(b"?\n")
                    found[pid] = json.loads(await reader.readline())
            finally:
                writer.close()
                await writer.wait_closed()
            alive = set(children(self.parent))
            if alive == found.keys() and len(alive) == count:
                if all(one["open"] == one["open in the statistics"] == 1 for one in found.values()):
                    return found
                # A reset may be on its way.
                found = {}
                await asyncio.sleep(0.05)
        self.fault(f"{count} workers should live and serve with nobody else connected: {found}")
        return found

    def summary(self) -> str:
        """How far it is."""
        books = self.books.values()
        return (
            f"{sum(one.greeted for one in books)} connections to {len(books)} workers, "
            f"{sum(one.answered for one in books)} lines, ended by {dict(self.ways)}; "
            f"signals {dict(self.signals)}; lost {sum(one.lost for one in books)} connections, "
            f"and {self.lost_early} before the greeting"
        )

    def judge(self, found: dict[int, dict[str, int]]) -> None:
        """Each survivor's counts, and what was lost with those that have not survived."""
        for pid, counted in found.items():
            book = self.books[pid]
            for what in ("greeted", "accepted in the statistics"):
                if counted[what] != book.greeted:
                    self.fault(f"{pid}: {what}: {counted[what]}, by its clients {book.greeted}")
            most = book.answered + book.under_way
            if not book.answered <= counted["echoed"] <= most:
                self.fault(
                    f"{pid}: echoed {counted['echoed']}, by its clients {book.answered} to {most}"
                )
            messages = counted["echoed"] + book.asked
            if counted["messages in the statistics"] != messages:
                self.fault(f"{pid}: not {messages} messages: {counted}")
        for pid, book in self.books.items():
            if book.lost and pid not in self.killed:
                self.fault(f"{pid} was not killed, and lost {book.lost} connections")
        # Who was accepted by one that was killed, and did not hear of it.
        if self.lost_early > CLIENTS * len(self.killed):
            self.fault(f"{self.lost_early} were lost before they were greeted")


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def run(options: argparse.Namespace, log: Path, say: Callable[[str], None]) -> bool:
    """Start the server, let them all loose, and judge."""
    with log.open("wb") as stderr:
        server = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "ginsfsm", "run", f"{SERVER}:Stampede"),
            *("--workers", str(options.workers), "--worker-timeout", f"{STUCK:g}"),
            *("--log-limit", "0"),
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
        )
    try:
        assert server.stdout is not None
        async with asyncio.timeout(PATIENCE):
            line = await server.stdout.readline()
        if not line:
            raise BenchError(f"the server did not start:\n{_text(log)[-2000:]}")
        stampede = Stampede(int(line), server.pid, options.seed)
        before = await stampede.survivors(options.workers)
        descriptors = len(os.listdir(f"/proc/{server.pid}/fd"))
        jobs = [stampede.come_and_go() for _ in range(CLIENTS)]
        tasks = [asyncio.create_task(job) for job in (*jobs, stampede.kill(options.pause))]
        end = time.monotonic() + options.seconds
        while time.monotonic() < end:
            await asyncio.sleep(min(10.0, max(0.0, end - time.monotonic())))
            say(stampede.summary())
        stampede.calm = True
        end = time.monotonic() + 2 * PATIENCE
        while time.monotonic() < end:
            await asyncio.sleep(0.05)
            if stampede.all_serve(options.workers):
                break
        stampede.over = True
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if result is not None:
                stampede.fault(f"a client ended: {result!r}")
        found = await stampede.survivors(options.workers)
        stampede.judge(found)
        for pid, counted in found.items():
            if counted["descriptors"] > max(one["descriptors"] for one in before.values()):
                stampede.fault(f"{pid} has {counted['descriptors']} descriptors open")
        left = len(os.listdir(f"/proc/{server.pid}/fd"))
        if left > descriptors:
            stampede.fault(f"the parent had {descriptors} descriptors, and has {left}")
        say(f"survivors: {found}")
        server.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE):
            status = await server.wait()
        if status:
            stampede.fault(f"the server ended with status {status}")
        text = _text(log)
        if "Traceback" in text:
            stampede.fault("there is a traceback in the log")
        say(f"the parent said: { ({word: text.count(word) for word in SAID}) }")
        for fault in stampede.faults:
            say(f"FAULT: {fault}")
        return not stampede.faults
    finally:
        if server.returncode is None:
            server.kill()
            await server.wait()


def _text(log: Path) -> str:
    return log.read_text()


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill workers and connections under load.")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--pause", type=float, default=PAUSE, help="seconds from kill to kill")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--log", type=Path, help="file for what is printed")
    options = parser.parse_args()
    # SIGSEGV and SIGABRT would leave large files.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        print(line, flush=True)

    say(f"{options.seconds:g} s, {options.workers} workers, {CLIENTS} clients, seed {options.seed}")
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        good = asyncio.run(run(options, log, say))
        if not good:
            say(log.read_text()[-4000:])
    say("all is well" if good else "FAILED")
    if options.log:
        options.log.write_text("\n".join(lines) + "\n")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
