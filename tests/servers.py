"""What the tests of a server share beside `sockets`: a subscriber that lives on, and clients."""

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from ginsfsm import Event, GObj, on
from ginsfsm.c_sock import EV_CONNECTED, EV_DISCONNECTED, EV_RX_DATA, GSock
from ginsfsm.c_srv_sock import GServerSock
from sockets import wait_for

E = TypeVar("E", bound=Event)


DEADLINE = 20.0
"""Seconds for what takes milliseconds; past it the test has failed."""


class Keeper(GObj):
    """Keeps every event that it gets, and destroys a connection that has ended."""

    def start_up(self) -> None:
        self.heard: list[Event] = []

    def ac_keep(self, event: Event) -> None:
        self.heard.append(event)

    def ac_gone(self, event: EV_DISCONNECTED) -> None:
        self.heard.append(event)
        self.destroy_gobj(event.source)

    def of(self, kind: type[E]) -> list[E]:
        """The events of one class, oldest first."""
        return [event for event in self.heard if type(event) is kind]

    @property
    def gsocks(self) -> list[GSock]:
        """The connections that it owns now."""
        return [child for child in self.children.values() if type(child) is GSock]

    machine = {
        "ST_IDLE": [
            on(EV_CONNECTED, ac_keep),
            on(EV_RX_DATA, ac_keep),
            on(EV_DISCONNECTED, ac_gone),
        ],
    }


def serve(owner: GObj, name: str = "server", **parameters: Any) -> GServerSock:
    """A server of that owner, on a free port of 127.0.0.1 unless told otherwise."""
    return owner.create_gobj(name, GServerSock, owner, **{"host": "127.0.0.1", **parameters})


async def until(condition: Callable[[], object], what: str = "") -> None:
    """Let the loop turn until the condition is true."""
    await wait_for(condition, what, deadline=DEADLINE)


@contextmanager
def connect(server: GServerSock, *, host: str = "127.0.0.1") -> Iterator[socket.socket]:
    """A client. The kernel connects it without the loop; the server accepts when the loop turns."""
    with socket.create_connection((host, server.config.port), DEADLINE) as client:
        client.setblocking(False)
        yield client


async def read(client: socket.socket, size: int) -> bytes:
    """Exactly so many bytes."""
    loop = asyncio.get_running_loop()
    data = b""
    async with asyncio.timeout(DEADLINE):
        while len(data) < size:
            more = await loop.sock_recv(client, size - len(data))
            assert more, f"the end after {data!r}"
            data += more
    return data


async def read_to_end(client: socket.socket) -> bytes:
    """All bytes until the connection ends, in order or by a reset."""
    loop = asyncio.get_running_loop()
    data = b""
    async with asyncio.timeout(DEADLINE):
        try:
            while more := await loop.sock_recv(client, 65536):
                data += more
        except ConnectionResetError:
            pass
    return data


async def write(client: socket.socket, data: bytes) -> None:
    async with asyncio.timeout(DEADLINE):
        await asyncio.get_running_loop().sock_sendall(client, data)


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")
needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no /proc here")


def cpu_seconds(pid: int) -> float:
    """The processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / float(os.sysconf("SC_CLK_TCK"))
