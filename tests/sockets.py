"""What the tests of connections share: an owner that keeps what it hears, a raw peer, waiting.

`pair(role, poller)` is the usual start: a gaplic that runs, a gsock with its owner, and the raw
socket at the other end, which the test moves by hand. The gsock is a client's, or one that a
`GServerSock` accepted; what holds for one must hold for the other.
"""

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, NamedTuple, Self, TypeVar

import pytest

from ginsfsm import Event, GAplic, GObj, on
from ginsfsm.c_sock import (
    EV_CONNECT,
    EV_CONNECT_FAILED,
    EV_CONNECTED,
    EV_DISCONNECTED,
    EV_RX_DATA,
    EV_RX_END,
    EV_TRANSMIT_READY,
    GSock,
)
from ginsfsm.c_srv_sock import GServerSock

E = TypeVar("E", bound=Event)

DEADLINE = 10.0
"""Seconds for what takes milliseconds; past it the test has failed."""

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER for no seconds: closing sends a reset."""

POLLERS = ["epoll", "loop"]


# -- the owner -------------------------------------------------------------------------------------


class Owner(GObj):
    """Keeps every event of its gsocks, and does what the test told it to do on each.

    Attributes:
        heard: the events, oldest first; `source` says of which gsock.
        inside: those that came from inside a `tell`. No gsock may do that.
        reactions: what to call with an event of this class, in the action.
    """

    def start_up(self) -> None:
        self.heard: list[Event] = []
        self.inside: list[Event] = []
        self.reactions: dict[type[Event], Callable[[Any], object]] = {}
        self._telling = 0

    def tell(self, gsock: GSock, event: Event) -> Any:
        """`send_event` that notices what comes back before it returns."""
        self._telling += 1
        try:
            return self.send_event(gsock, event)
        finally:
            self._telling -= 1

    def ac_keep(self, event: Event) -> object:
        self.heard.append(event)
        if self._telling:
            self.inside.append(event)
        reaction = self.reactions.get(type(event))
        return None if reaction is None else reaction(event)

    def of(self, kind: type[E], gsock: GSock | None = None) -> list[E]:
        """The events of one class, oldest first; of one gsock, or of all."""
        return [
            event
            for event in self.heard
            if type(event) is kind and (gsock is None or event.source is gsock)
        ]

    def kinds(self, gsock: GSock | None = None) -> list[str]:
        """The names of what was heard, with the many EV_RX_DATA in a row as one."""
        names: list[str] = []
        for event in self.heard:
            name = type(event).__name__
            if (gsock is None or event.source is gsock) and names[-1:] != [name]:
                names.append(name)
        return names

    def received(self, gsock: GSock | None = None) -> bytes:
        """All the bytes."""
        return b"".join(event.data for event in self.of(EV_RX_DATA, gsock))

    def ended(self, gsock: GSock | None = None) -> bool:
        """Whether there was an EV_DISCONNECTED."""
        return bool(self.of(EV_DISCONNECTED, gsock))

    def reason(self, gsock: GSock | None = None) -> str:
        """The reason of the only EV_DISCONNECTED."""
        (event,) = self.of(EV_DISCONNECTED, gsock)
        return event.reason

    machine = {
        "ST_IDLE": [
            on(EV_CONNECTED, ac_keep),
            on(EV_CONNECT_FAILED, ac_keep),
            on(EV_RX_DATA, ac_keep),
            on(EV_RX_END, ac_keep),
            on(EV_TRANSMIT_READY, ac_keep),
            on(EV_DISCONNECTED, ac_keep),
        ],
    }


def gaplic(poller: str = "auto") -> GAplic:
    """A gaplic whose sockets are watched in that way."""
    return GAplic("app", {"app": {"poller": poller}})


def make_owner(app: GAplic, name: str = "owner") -> Owner:
    return app.create_gobj(name, Owner, app)


# -- waiting ---------------------------------------------------------------------------------------


async def wait_for(
    condition: Callable[[], object], what: str = "", *, deadline: float = DEADLINE
) -> None:
    """Let the loop turn until the condition is true; fail the test when the time is over."""
    end = time.monotonic() + deadline
    turns = 0
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"not within {deadline} s: {what or condition.__code__.co_names}")
        turns += 1
        # At full speed, then gently: the other side may need the processor, and so do other tests.
        await asyncio.sleep(0 if turns < 100 else 0.001 if turns < 1000 else 0.02)


async def turns(count: int = 10) -> None:
    """Let the loop turn, so that what should not come has had its chance."""
    for _ in range(count):
        await asyncio.sleep(0)


# -- the peer --------------------------------------------------------------------------------------


class Peer:
    """The raw socket at the other end of a gsock, moved by the loop that the test runs on."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    async def send(self, data: bytes) -> None:
        """All of it, however long the gsock takes."""
        async with asyncio.timeout(DEADLINE):
            await asyncio.get_running_loop().sock_sendall(self.sock, data)

    def send_now(self, data: bytes) -> int:
        """What the kernel takes at once; the loop does not turn. 0 when its buffers are full."""
        try:
            return self.sock.send(data)
        except BlockingIOError:
            return 0

    async def read(self, size: int) -> bytes:
        """Exactly so many bytes."""
        data = bytearray()
        async with asyncio.timeout(DEADLINE):
            while len(data) < size:
                more = await self._recv(size - len(data))
                assert more, f"the connection ended after {len(data)} bytes of {size}"
                data += more
        return bytes(data)

    async def read_to_end(self, deadline: float = DEADLINE) -> tuple[bytes, str]:
        """All bytes until the connection ends, and how: "end" or "reset"."""
        data = bytearray()
        async with asyncio.timeout(deadline):
            while True:
                try:
                    more = await self._recv(1 << 20)
                except ConnectionResetError:
                    return bytes(data), "reset"
                if not more:
                    return bytes(data), "end"
                data += more

    async def _recv(self, size: int) -> bytes:
        return await asyncio.get_running_loop().sock_recv(self.sock, size)

    def end(self) -> None:
        """Send no more, and go on reading."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """End both directions with a reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.sock.close()

    def close(self) -> None:
        self.sock.close()


@contextmanager
def listener(
    host: str = "127.0.0.1", port: int = 0, *, rcvbuf: int = 0, sndbuf: int = 0, backlog: int = 16
) -> Iterator[socket.socket]:
    """A raw listening socket. Its connections inherit the sizes of its buffers."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as sock:
        set_buffers(sock, rcvbuf, sndbuf)
        sock.bind((host, port))
        sock.listen(backlog)
        sock.setblocking(False)
        yield sock


async def accept(listening: socket.socket) -> Peer:
    """The next connection of a raw listening socket."""
    async with asyncio.timeout(DEADLINE):
        sock, _ = await asyncio.get_running_loop().sock_accept(listening)
    return Peer(sock)


def set_buffers(sock: socket.socket, rcvbuf: int, sndbuf: int) -> None:
    """Limit what the kernel holds, in bytes; 0 leaves it alone. The kernel doubles the number."""
    if rcvbuf:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
    if sndbuf:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, sndbuf)


# -- both ends -------------------------------------------------------------------------------------


class Pair(NamedTuple):
    """A connection: the gsock with its owner, and the raw peer."""

    app: GAplic
    owner: Owner
    gsock: GSock
    peer: Peer


def client_of(owner: Owner, listening: socket.socket, name: str = "client", **params: Any) -> GSock:
    """A gsock for that address, not connected yet."""
    host, port = listening.getsockname()[:2]
    return owner.create_gobj(name, GSock, owner, **{"host": host, "port": port, **params})


@asynccontextmanager
async def pair(
    role: str = "client",
    poller: str = "auto",
    *,
    rcvbuf: int = 0,
    sndbuf: int = 0,
    **params: Any,
) -> AsyncIterator[Pair]:
    """A connected gsock and its raw peer, in a gaplic that runs and ends with the block.

    Args:
        role: "client", or "accepted" by a GServerSock.
        poller: see the parameter of GAplic.
        rcvbuf: what the peer's kernel may hold unread.
        sndbuf: what the peer's kernel may hold unsent.
        params: parameters for the gsock.

    The block ends with the check that nothing came to the owner from inside its own calls.
    """
    async with gaplic(poller) as app:
        owner = make_owner(app)
        if role == "client":
            with listener(rcvbuf=rcvbuf, sndbuf=sndbuf) as listening:
                gsock = client_of(owner, listening, **params)
                owner.tell(gsock, EV_CONNECT())
                peer = await accept(listening)
        else:
            server = app.create_gobj(
                "server", GServerSock, app, host="127.0.0.1", subscriber=owner, **params
            )
            sock = socket.socket()
            set_buffers(sock, rcvbuf, sndbuf)
            peer = Peer(sock)
            async with asyncio.timeout(DEADLINE):
                await asyncio.get_running_loop().sock_connect(
                    sock, ("127.0.0.1", server.config.port)
                )
        with peer:
            await wait_for(lambda: owner.of(EV_CONNECTED), "EV_CONNECTED")
            found = owner.of(EV_CONNECTED)[0].source
            assert isinstance(found, GSock)
            yield Pair(app, owner, found, peer)
            assert not owner.inside
