"""What the tests of workers share: a target, the command that runs it, and clients that count.

The target greets each client with its process number, echoes, and does what a client tells it to:
hang, die, or run out of memory.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Self

import pytest

from programs import BlockingProgram

__all__ = ["DEADLINE", "TARGET", "Crew", "Tally", "attempts", "environment", "wait_until"]

DEADLINE = 30.0
"""Seconds for what takes a fraction of one; past it the test has failed."""

TARGET = """
    import os
    import resource
    import threading

    from ginsfsm import GObj, on, param
    from ginsfsm.c_sock import EV_CONNECTED, EV_DISCONNECTED, EV_DROP, EV_RX_FRAME, EV_SEND_FRAME
    from ginsfsm.c_srv_sock import EV_PAUSE_ACCEPT, GServerSock


    def say(text):
        # In one piece: another process may write between what `print` makes two of.
        os.write(1, f"{text}\\n".encode())


    class Echo(GObj):
        class config(GObj.config):
            port: int = param(0, "where to listen")
            unix_path: str = param("", "or there")
            fd_name: str = param("", "or at what the service manager gave")

        def start_up(self):
            if os.path.exists("broken"):
                raise ValueError("the target is broken")
            if os.path.exists("dies"):
                os._exit(7)
            if os.path.exists("hangs"):
                threading.Event().wait()
            config = self.config
            self.server = self.create_gobj(
                "server", GServerSock, self, host="127.0.0.1", port=config.port, framing="lines",
                unix_path=config.unix_path, fd_name=config.fd_name)
            self.other = self.create_gobj(
                "other", GServerSock, self, host="127.0.0.1", framing="lines")
            if os.path.exists("fails late"):
                raise ValueError("the target is broken")
            if os.path.exists("hangs late"):
                say("hanging")
                threading.Event().wait()
            if os.path.exists("paused"):
                self.send_event(self.server, EV_PAUSE_ACCEPT())
            say(f"ports {self.server.config.port} {self.other.config.port} of {os.getpid()}")

        def ac_greet(self, event: EV_CONNECTED):
            self.send_event(event.source, EV_SEND_FRAME(b"%d" % os.getpid()))

        def ac_do(self, event: EV_RX_FRAME):
            if event.data == b"hang":
                threading.Event().wait()
            if event.data == b"pause":
                self.send_event(self.server, EV_PAUSE_ACCEPT())
            if event.data == b"abort":
                os.abort()
            if event.data == b"leak":
                resource.setrlimit(resource.RLIMIT_AS, (300 << 20, 300 << 20))
                self.kept = []
                while True:
                    self.kept.append(bytearray(1000))
            if event.data == b"devour":
                self.kept = []
                while True:
                    self.kept.append(bytearray(b"x") * (1 << 20))
            if event.data == b"memory":
                limit = 1 << 30
                resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
                bytearray(2 * limit)
            self.send_event(event.source, EV_SEND_FRAME(event.data))

        def ac_gone(self, event: EV_DISCONNECTED):
            self.destroy_gobj(event.source)

        machine = {
            "ST_IDLE": [
                on(EV_CONNECTED, ac_greet),
                on(EV_RX_FRAME, ac_do),
                on(EV_DISCONNECTED, ac_gone),
            ],
        }
"""


def environment(**more: str) -> dict[str, str]:
    """What a command of ours is started with."""
    return {**os.environ, "PYTHONUNBUFFERED": "1", **more}


class Crew(BlockingProgram):
    """`ginsfsm run target.py:Echo` with workers, in a folder.

    Attributes:
        port: where it serves, once it has said so.
    """

    def __init__(
        self, folder: Path, *words: str, workers: int | None = 2, before: tuple[str, ...] = (),
        descriptors: tuple[int, ...] = (), **variables: str,
    ) -> None:  # fmt: skip
        (folder / "target.py").write_text(textwrap.dedent(TARGET))
        several = () if workers is None else ("--workers", str(workers))
        super().__init__(
            *before, sys.executable, "-W", "always::ResourceWarning",
            *("-m", "ginsfsm", "run", "target.py:Echo", *several, *words),
            folder=folder, environment=environment(**variables), descriptors=descriptors,
        )  # fmt: skip
        self.port = 0

    def __exit__(self, *of: object) -> None:
        # Not at once: what a parent that is killed leaves behind is the matter of one test.
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                pass
        super().__exit__(*of)

    def serves(self) -> Self:
        """Wait until all workers serve."""
        self.port = int(self.says(r"ports (\d+) \d+ of").group(1))
        self.says(r"workers? serves?$")
        return self

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def greeting(self) -> int:
        """Which process takes a client."""
        with self.connect() as client:
            return client.pid

    def connect(self) -> "Client":
        client = self.waiting()
        client.greeted()
        return client

    def waiting(self) -> "Client":
        """A client that the kernel has let in; a worker may not have accepted it yet."""
        return Client(socket.create_connection(("127.0.0.1", self.port), DEADLINE))

    def serving(self, number: int) -> set[int]:
        """So many processes that serve; asks until as many have been seen."""
        pids: set[int] = set()
        wait_until(lambda: pids.add(self.greeting()) or len(pids) >= number)
        return pids

    def wait_for_others_than(self, pids: set[int]) -> None:
        """Those that have been told to leave may still take a client or two."""
        wait_until(lambda: not self.serving(2) & pids, "that others serve")

    def processes(self) -> set[int]:
        """Its children that live."""
        return children(self.process.pid)


class Client:
    """A connection to a worker."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.file = sock.makefile("rb")
        self.pid = 0

    def greeted(self) -> int:
        """Wait for the greeting, the number of the process."""
        try:
            self.pid = int(self.file.readline())
        except BaseException:
            self.__exit__()
            raise
        return self.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.sock.close()

    def say(self, text: bytes) -> None:
        self.sock.sendall(text + b"\n")

    def hear(self) -> bytes:
        """The next line, or nothing at the end."""
        try:
            return self.file.readline().rstrip(b"\n")
        except ConnectionResetError:
            return b""


def children(pid: int) -> set[int]:
    """The processes that this one has started and that have not ended."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {int(one) for one in listed if is_alive(int(one))}


def is_alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status != "Z"


def wait_until(done: Callable[[], object], what: str = "it") -> None:
    """Look until it is so."""
    end = time.monotonic() + DEADLINE
    while not done():
        if time.monotonic() > end:
            pytest.fail(f"{what} has not come true within {DEADLINE} s")
        time.sleep(0.01)


class Tally:
    """What became of connection attempts.

    Attributes:
        done: exchanges that were finished, every byte of them.
        lost: the others, by what went wrong.
        by: how many exchanges each process has served.
    """

    def __init__(self) -> None:
        self.done = 0
        self.lost: Counter[str] = Counter()
        self.by: Counter[int] = Counter()


async def attempts(
    port: int,
    count: int,
    tally: Tally,
    enough: Callable[[], bool],
    *,
    at_once: int = 16,
) -> None:
    """Connect, hear the greeting, have a message echoed, close; at least so many times.

    It goes on until it is `enough`, and ends with the first that is lost.
    """
    made = 0
    message = b"x" * 100

    async def client() -> None:
        nonlocal made
        while not tally.lost and (made < count or not enough()):
            made += 1
            try:
                async with asyncio.timeout(DEADLINE):
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    try:
                        pid = int(await reader.readline())
                        writer.write(message + b"\n")
                        heard = await reader.readline()
                    finally:
                        writer.close()
                        await writer.wait_closed()
            except (OSError, ValueError, TimeoutError) as error:
                tally.lost[type(error).__name__] += 1
                continue
            if heard == message + b"\n":
                tally.done += 1
                tally.by[pid] += 1
            else:
                tally.lost["incomplete"] += 1

    await asyncio.gather(*(client() for _ in range(at_once)))
