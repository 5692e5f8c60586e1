"""How long a client of an echo server waits while something else happens to the server.

Run as a program of its own: ``python probe.py PORT CONNECTIONS [CA_FILE]``. It opens some good
connections, with TLS where there is a file of authorities, and sends small messages on them, one
every 2 ms whether the ones before were answered or not. A latency counts from the moment when its
message *should* have been sent: a server that holds still for a second is seen with all the
messages of that second, and not with the one that happened to be on its way (coordinated omission).

It speaks by lines of JSON. The first, an empty object, says that all connections stand. Each line
that it reads is answered with the figures since the last one; the end of input ends it.

`Probe` is the other end of that, for a test.
"""

import gc
import json
import os
import select
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

CONNECTIONS = 20
RATE = 500
"""Messages a second, over all connections."""

SIZE = 64

QUIET = 1.5
"""Seconds of a look while nothing happens, to know what the machine itself does."""

PATIENCE = 20.0
"""Seconds after which a program that says nothing has failed."""


class Figures(NamedTuple):
    """What the probe saw, all in milliseconds.

    Attributes:
        answered: how many messages were.
        max: the longest wait; of those that still wait too.
        p99: what 99 of 100 did not exceed.
        late: how late the probe itself was with a message; that much of a wait is not the
            server's doing but the machine's.
    """

    answered: int
    max: float
    p99: float
    late: float

    def __str__(self) -> str:
        return (
            f"max {self.max:.1f} ms, p99 {self.p99:.1f} ms of {self.answered} "
            f"(the probe itself {self.late:.1f} ms late)"
        )


class Link:
    """One good connection."""

    def __init__(self, port: int, context: ssl.SSLContext | None) -> None:
        plain = socket.create_connection(("127.0.0.1", port), PATIENCE)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        self.sock: socket.socket = (
            plain if context is None else context.wrap_socket(plain, server_hostname="localhost")
        )
        self.sock.setblocking(False)
        self.unanswered: deque[tuple[float, bytes]] = deque()
        """When each should have been sent, and what it says."""
        self.received = b""

    def send(self, intended: float, number: int) -> None:
        message = b"%*d" % (SIZE, number)
        # A message this small always fits: no more than a few hundred are ever unanswered.
        assert self.sock.send(message) == SIZE
        self.unanswered.append((intended, message))

    def receive(self) -> list[float]:
        """Take what has come; how long each of the answers took, in seconds."""
        try:
            while True:
                data = self.sock.recv(65536)
                assert data, "the server has closed a good connection"
                self.received += data
        except (ssl.SSLWantReadError, BlockingIOError):
            pass
        now = time.monotonic()
        waits = []
        while len(self.received) >= SIZE:
            intended, message = self.unanswered.popleft()
            assert self.received.startswith(message), "an answer is not what was sent"
            self.received = self.received[SIZE:]
            waits.append(now - intended)
        return waits


def main(port: int, connections: int, ca_file: str = "") -> None:
    # Nothing here makes cycles, and a collection would look like a slow server.
    gc.disable()
    context = ssl.create_default_context(cafile=ca_file) if ca_file else None
    links = [Link(port, context) for _ in range(connections)]
    ready = select.epoll()
    by_fd = {link.sock.fileno(): link for link in links}
    for fd in (*by_fd, 0):
        ready.register(fd, select.EPOLLIN)
    print("{}", flush=True)

    waits: list[float] = []
    late = 0.0
    number = 0
    intended = time.monotonic()
    while True:
        now = time.monotonic()
        while intended <= now:
            links[number % connections].send(intended, number)
            late = max(late, time.monotonic() - intended)
            number += 1
            intended += 1 / RATE
        for fd, _ in ready.poll(max(0.0, intended - time.monotonic())):
            if fd:
                waits += by_fd[fd].receive()
                continue
            if not os.read(0, 4096):
                return
            now = time.monotonic()
            heads = [link.unanswered[0][0] for link in links if link.unanswered]
            waits.sort()
            figures = Figures(
                answered=len(waits),
                max=1000 * max([*waits[-1:], *(now - head for head in heads)], default=0.0),
                p99=1000 * waits[len(waits) * 99 // 100] if waits else 0.0,
                late=1000 * late,
            )
            print(json.dumps(figures), flush=True)
            waits = []
            late = 0.0


class Child:
    """A process that is spoken to by lines, and answers each with a line of JSON.

    Args:
        arguments: of Python.
        core: the processor that it is kept on, where the machine has several.
        niceness: 19 is for who should take only what the others leave.
    """

    def __init__(self, *arguments: str, core: int, niceness: int = 0) -> None:
        # A file, since nobody reads it meanwhile and a pipe would be full soon.
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed in `__exit__`)
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
        )
        if hasattr(os, "sched_setaffinity"):
            cores = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(self.process.pid, {cores[core % len(cores)]})
        os.setpriority(os.PRIO_PROCESS, self.process.pid, niceness)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.communicate()
        self.errors.close()

    def words(self) -> str:
        """What it has written to stderr."""
        self.errors.seek(0)
        return self.errors.read().decode(errors="replace")

    def has_answer(self, patience: float) -> bool:
        """Whether a line comes in time, or it has ended."""
        assert self.process.stdout is not None
        # It answers one line at a time, so none can be waiting in a buffer of ours.
        return bool(select.select([self.process.stdout], [], [], patience)[0])

    def answer(self, patience: float = PATIENCE) -> Any:
        """The next line that it says."""
        assert self.process.stdout is not None
        if not self.has_answer(patience):
            raise AssertionError(f"{self.process.args!r} said nothing for {patience} s")
        line = self.process.stdout.readline()
        assert line, f"{self.process.args!r} has ended: {self.words()}"
        return json.loads(line)

    def ask(self, line: str = "", patience: float = PATIENCE) -> Any:
        """Say a line, and return the answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()
        return self.answer(patience)


class Probe(Child):
    """The probe, as a test sees it; its connections stand when it has been made."""

    def __init__(
        self, port: int, ca_file: Path | None, *, core: int, connections: int = CONNECTIONS
    ) -> None:
        files = [] if ca_file is None else [str(ca_file)]
        super().__init__(__file__, str(port), str(connections), *files, core=core)
        self.answer()

    def figures(self) -> Figures:
        """What it saw since it was asked last."""
        return Figures(*self.ask())

    def look(self) -> Figures:
        """What it sees for a moment in which nothing else happens to the server."""
        self.figures()
        time.sleep(QUIET)
        return self.figures()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
