"""Twenty thousand connections that end in every way there is: the count is exact, nothing is left.

The churn runs in a process of its own, so that its memory can be measured. It is this file, run as
a program. A model keeps book of what every client and the owner did; whenever all of that has had
its effect, `n_gsocks` has to be what the model says.
"""

import asyncio
import gc
import json
import logging
import os
import random
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from ginsfsm import GAplic, GObj, on
from ginsfsm.c_sock import (
    EV_CONNECTED,
    EV_DISCONNECTED,
    EV_DROP,
    EV_PAUSE_RX,
    EV_RX_DATA,
    EV_SEND_DATA,
    GSock,
)
from ginsfsm.c_srv_sock import GServerSock
from servers import needs_proc, serve, until
from sockets import RESET, gaplic

CONNECTIONS = 20_000
SETTLED = 5_000
"""From here on the memory must not grow."""

GROWTH = 256
"""KiB that it may have grown by in the end."""

ROUND = 100
STAY = 30
"""Connections that stay from one round to the next."""

PIECE = bytes(32 * 1024)
ANSWER = 3 * PIECE
TX_MAX = 64 * 1024

IP_BIND_ADDRESS_NO_PORT = 24

# How a connection ends once its client is told to end it, and what the owner hears then; None is
# nothing, since it destroyed the gsock itself.
ENDINGS: dict[str, str | None] = {
    "the client closes": "peer",
    "the client resets": "reset",
    "the client closes with unread data": "reset",
    "the client ends its side": "peer",
    "the client ends its side while much is queued": "peer",
    "the owner drops it": "local",
    "the owner drops it while much is queued": "local",
    "the owner aborts it": "local",
    "the owner aborts it with unread data": "local",
    "the owner destroys it": None,
    "the owner raises": "error",
    "the client does not read": "tx_overflow",
}
# These need no telling.
EARLY: dict[str, str | None] = {
    "the door is shut": None,
    "destroyed in EV_CONNECTED": None,
    "EV_CONNECTED raises": "error",
    "reset before it is accepted": "reset",
}
PLANS = [*ENDINGS, *EARLY]


class PlannedError(Exception):
    """What an action raises on purpose."""


class Owner(GObj):
    """Does to each connection what its client's plan says, and keeps book of how it ended."""

    def start_up(self) -> None:
        self.plans: dict[Any, str] = {}
        self.gsocks: dict[Any, GSock] = {}
        self.connected = 0
        self.gone: dict[Any, str | None] = {}

    def is_wanted(self, event: EV_CONNECTED) -> bool:
        return self.plans[event.peername] != "the door is shut"

    def ac_connected(self, event: EV_CONNECTED) -> None:
        assert isinstance(event.source, GSock)
        self.connected += 1
        self.gsocks[event.peername] = event.source
        match self.plans[event.peername]:
            case "destroyed in EV_CONNECTED":
                self.destroy(event.source)
            case "EV_CONNECTED raises":
                raise PlannedError
            case "the owner aborts it with unread data":
                self.send_event(event.source, EV_PAUSE_RX())

    def ac_data(self, event: EV_RX_DATA) -> None:
        gsock = event.source
        assert isinstance(gsock, GSock)
        match self.plans[gsock.peername]:
            case "the client closes with unread data":
                self.send_event(gsock, EV_SEND_DATA(b"unread"))
            case "the client ends its side while much is queued":
                self.send_event(gsock, EV_SEND_DATA(ANSWER))
            case "the owner drops it":
                self.send_event(gsock, EV_DROP())
            case "the owner drops it while much is queued":
                self.send_event(gsock, EV_SEND_DATA(ANSWER))
                self.send_event(gsock, EV_DROP())
            case "the time to close is over":
                gsock.write_parameters(close_timeout=0.25)
                self.send_event(gsock, EV_SEND_DATA(ANSWER))
                self.send_event(gsock, EV_DROP())
            case "the owner aborts it":
                self.send_event(gsock, EV_DROP(abort=True))
            case "the owner destroys it":
                self.destroy(gsock)
            case "the owner raises":
                raise PlannedError
            case "the client does not read":
                for _ in range(5):
                    self.send_event(gsock, EV_SEND_DATA(PIECE))

    def ac_disconnected(self, event: EV_DISCONNECTED) -> None:
        gsock = event.source
        assert isinstance(gsock, GSock)
        # Closed is closed: it does not count any more.
        assert all(gsock not in server.ledger for server in servers)
        self.forget(gsock, event.reason)

    def destroy(self, gsock: GSock) -> None:
        self.forget(gsock, None)

    def forget(self, gsock: GSock, reason: str | None) -> None:
        del self.gsocks[gsock.peername]
        self.gone[gsock.peername] = reason
        self.destroy_gobj(gsock)

    machine = {
        "ST_OPEN": [
            on(EV_CONNECTED, ac_connected, when=is_wanted),
            on(EV_RX_DATA, ac_data),
            on(EV_DISCONNECTED, ac_disconnected),
            on(EV_DROP, None, "ST_SHUT"),
        ],
        "ST_SHUT": [
            on(EV_RX_DATA, ac_data),
            on(EV_DISCONNECTED, ac_disconnected),
            on(EV_DROP, None, "ST_OPEN"),
        ],
    }


servers: list[GServerSock] = []
"""The one that listens now, last, and those destroyed whose connections live on."""


class Client:
    """One connection, as its client sees it."""

    addresses = 0

    def __init__(self, server: GServerSock, plan: str) -> None:
        self.server = server
        self.plan = plan
        self.sock = socket.socket()
        # Many addresses, so that TIME_WAIT does not use up the ports of one.
        Client.addresses = Client.addresses % 200 + 1
        self.sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        self.sock.bind((f"127.0.1.{Client.addresses}", 0))
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.sock.connect(("127.0.0.1", server.config.port))
        self.sock.setblocking(False)
        self.name = self.sock.getsockname()

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.sock.close()

    async def read_to_end(self) -> int:
        loop = asyncio.get_running_loop()
        size = 0
        try:
            while data := await loop.sock_recv(self.sock, 65536):
                size += len(data)
        except ConnectionResetError:
            pass
        self.sock.close()
        return size


class Churn:
    """The rounds, and the model: `live` are the connections that are open."""

    def __init__(self, app: GAplic) -> None:
        self.app = app
        self.random = random.Random(20_000)
        self.owner = app.create_gobj("owner", Owner, app)
        self.live: list[Client] = []
        self.made = 0
        self.ended: Counter[str] = Counter()
        self.new_server()

    def new_server(self) -> None:
        port = 0
        if servers:
            port = servers[-1].config.port
            self.app.destroy_gobj(servers[-1])
        server = serve(self.owner, port=port, tx_max=TX_MAX, close_timeout=60.0)
        for listener in server._listeners:
            # So that little fits in the kernel, and much is queued soon.
            listener.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        servers.append(server)

    def check(self) -> None:
        """A quiet moment: every server's count is what the model says."""
        model = Counter(id(client.server) for client in self.live)
        for server in servers:
            assert server.config.n_gsocks == len(server.ledger) == model[id(server)], (
                f"n_gsocks is {server.config.n_gsocks}, the model says {model[id(server)]}"
            )
        gsocks = [one for one in self.owner.children.values() if type(one) is GSock]
        assert len(gsocks) == len(self.live)
        # The listener, and one for each connection; nobody reads a paused one.
        paused = sum(client.plan == "the owner aborts it with unread data" for client in self.live)
        assert len(self.app.poller) == 1 + len(self.live) - paused

    async def connect(self, count: int) -> None:
        """Make so many new connections, and wait until all have been accepted."""
        before = self.owner.connected
        new: list[Client] = []
        for _ in range(count):
            client = Client(servers[-1], PLANS[self.made % len(PLANS)])
            self.made += 1
            self.owner.plans[client.name] = client.plan
            if client.plan == "reset before it is accepted":
                client.reset()
            new.append(client)
        told = [client for client in new if client.plan != "the door is shut"]
        await until(lambda: self.owner.connected == before + len(told), "all connected")
        self.live += [client for client in new if client.plan in ENDINGS]
        await self.settle([client for client in new if client.plan in EARLY])
        self.check()

    async def end(self, count: int) -> None:
        """End so many connections, any of those that are open, and wait until all have ended."""
        self.random.shuffle(self.live)
        ending, self.live = self.live[:count], self.live[count:]
        for client in ending:
            match client.plan:
                case "the client closes":
                    client.sock.close()
                case "the client resets":
                    client.reset()
                case "the client ends its side":
                    client.sock.shutdown(socket.SHUT_WR)
                case "the client ends its side while much is queued":
                    client.sock.send(b"go")
                    client.sock.shutdown(socket.SHUT_WR)
                case "the owner aborts it with unread data":
                    client.sock.send(b"unread")
                    gsock = self.owner.gsocks[client.name]
                    self.owner.send_event(gsock, EV_DROP(abort=True))
                case _:
                    client.sock.send(b"go")
        for client in ending:
            if client.plan == "the client closes with unread data":
                await until(lambda sock=client.sock: has_input(sock), "data")  # type: ignore[misc]
                client.sock.close()
        await self.settle(ending)
        self.check()

    async def settle(self, ending: list[Client]) -> None:
        """Wait until both sides know that these have ended, and compare the reasons."""
        for client in ending:
            if client.plan == "the client does not read":
                await until(lambda name=client.name: name in self.owner.gone, "overflow")  # type: ignore[misc]
            if client.sock.fileno() >= 0:
                size = await client.read_to_end()
                if client.plan.endswith("while much is queued"):
                    assert size == len(ANSWER), f"{client.plan}: {size} bytes"
        told = [client for client in ending if client.plan != "the door is shut"]
        await until(
            lambda: all(client.name in self.owner.gone for client in told), "all have ended"
        )
        for client in ending:
            self.ended[client.plan] += 1
            del self.owner.plans[client.name]
            if client in told:
                expected = {**ENDINGS, **EARLY}.get(client.plan, "timeout")
                reason = self.owner.gone.pop(client.name)
                assert reason == expected, f"{client.plan}: {reason}"
        assert not self.owner.gone

    # -- rounds of one kind ------------------------------------------------------------------------

    async def plain_round(self) -> None:
        await self.connect(ROUND)
        await self.end(len(self.live) - STAY)

    async def round_at_a_shut_door(self) -> None:
        self.app.send_event(self.owner, EV_DROP())
        await self.turned_away()
        self.app.send_event(self.owner, EV_DROP())

    async def round_of_failures(self) -> None:
        """None of these gets a gsock."""

        def fail(gsock: GSock) -> None:
            raise PlannedError

        with patch.object(GSock, "start_up", fail):
            failed = servers[-1].ledger.failed
            await self.turned_away()
            assert servers[-1].ledger.failed == failed + 10

    async def turned_away(self) -> None:
        clients = [Client(servers[-1], "turned away") for _ in range(10)]
        for client in clients:
            await client.read_to_end()
        self.made += len(clients)
        self.ended["turned away"] += len(clients)
        self.check()

    async def round_of_slow_ends(self) -> None:
        """These do not read what is queued for them when the owner drops them."""
        before = self.owner.connected
        clients = [Client(servers[-1], "the time to close is over") for _ in range(5)]
        for client in clients:
            self.owner.plans[client.name] = client.plan
            client.sock.send(b"go")
        self.made += len(clients)
        await until(lambda: self.owner.connected == before + len(clients))
        await until(lambda: len(self.owner.gone) == len(clients), "all have timed out")
        await self.settle(clients)
        self.check()

    async def round_of_a_new_server(self) -> None:
        """The connections of the old one live on."""
        await self.connect(ROUND)
        self.new_server()
        self.check()
        await self.connect(ROUND)
        await self.end(len(self.live))
        del servers[:-1]

    async def run(self, until_made: int) -> None:
        rounds = 0
        while self.made < until_made:
            rounds += 1
            await self.plain_round()
            if rounds % 15 == 0:
                await self.round_at_a_shut_door()
                await self.round_of_failures()
                await self.round_of_slow_ends()
                await self.round_of_a_new_server()
        await self.end(len(self.live))


def has_input(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False


def pss() -> int:
    """The memory of this process in KiB: its own pages and its share of those that it shares.

    Not those of files, its libraries: its share of them grows when another Python program ends.
    """
    gc.collect()
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    fields = dict(line.split(":") for line in lines[1:])
    return sum(int(fields[name].split()[0]) for name in ("Pss_Anon", "Pss_Shmem"))


async def memory(run: Churn, until_made: int) -> int:
    """What the process needs when so many connections have been made.

    Python takes memory from the system by the MiB, and one object in it keeps it all: so a sample
    may be that much too high, but the lowest of some is not.
    """
    samples = []
    for made in (until_made - 2000, until_made - 1000, until_made):
        await run.run(made)
        samples.append(pss())
    return min(samples)


def descriptors() -> list[str]:
    names = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            names.append(os.readlink(entry))
        except FileNotFoundError:  # the one that lists the folder
            continue
    return sorted(names)


async def churn(poller: str) -> dict[str, object]:
    loop = asyncio.get_running_loop()
    async with gaplic(poller) as app:
        run = Churn(app)
        await run.connect(1)
        await run.end(1)
        before = descriptors()
        await until(lambda: not len(app.deadlines), "the tick of the last one is over")
        timers = len(getattr(app._clock, "timers", ()))
        settled = await memory(run, SETTLED)
        grown = await memory(run, CONNECTIONS) - settled
        # The listening socket is another one by now; the number of descriptors is what counts.
        assert len(descriptors()) == len(before), (before, descriptors())
        assert list(run.owner.children) == ["server"]
        assert [type(one).__name__ for one in gc.get_objects() if type(one) is GSock] == []
        await until(lambda: not len(app.deadlines), "the tick of the last one is over")
        assert len(app.poller) == 1
        assert not app.poller._deferred
        assert len(getattr(app._clock, "timers", ())) == timers
        assert not app._all_tasks
        assert not app._posted
        assert len(asyncio.all_tasks(loop)) == 1
        assert not run.owner._publishers
        (subscription,) = servers[-1].subscriptions
        assert subscription.subscriber is run.owner
        assert not run.owner.plans
        assert not run.owner.gsocks
        ledger = servers[-1].ledger
        assert (len(ledger), list(ledger)) == (0, [])
    return {"made": run.made, "ended": run.ended, "grown": grown}


def main(loop: str, poller: str) -> None:
    logging.getLogger("ginsfsm").setLevel(logging.CRITICAL + 1)
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    if loop == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        print(json.dumps(runner.run(churn(poller))))


@needs_proc
@pytest.mark.skipif(sys.platform != "linux", reason="binds to addresses that Linux has")
@pytest.mark.parametrize(
    ("loop", "poller"), [("uvloop", "auto"), ("asyncio", "loop")], ids=["uvloop", "asyncio"]
)
def test_churn(loop: str, poller: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", __file__, loop, poller],
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    result = json.loads(done.stdout)
    assert result["made"] >= CONNECTIONS
    # Every way was gone many times.
    counts = result["ended"]
    assert set(counts) == {*PLANS, "turned away", "the time to close is over"}
    assert all(count >= 20 for count in counts.values()), counts
    assert sum(counts.values()) == result["made"]
    assert result["grown"] <= GROWTH, f"the memory grew by {result['grown']} KiB"


if __name__ == "__main__":
    main(*sys.argv[1:])
