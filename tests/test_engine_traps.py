"""The three traps of the engine that DESIGN.md names, each with real connections in it."""

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from conftest import RunAsync
from ginsfsm import GAplic
from ginsfsm.c_sock import (
    EV_CONNECTED,
    EV_DISCONNECTED,
    EV_DROP,
    EV_PAUSE_RX,
    EV_RESUME_RX,
    EV_RX_DATA,
    EV_RX_END,
    EV_SEND_DATA,
    GSock,
)
from ginsfsm.c_srv_sock import GServerSock
from ginsfsm.poller import Poller
from sockets import POLLERS, Owner, Peer, gaplic, make_owner, pair, turns, wait_for

each_poller = pytest.mark.parametrize("poller", POLLERS)


def serve(app: GAplic, owner: Owner) -> GServerSock:
    return app.create_gobj("server", GServerSock, app, host="127.0.0.1", subscriber=owner)


def dial(server: GServerSock) -> Peer:
    return Peer(socket.create_connection(("127.0.0.1", server.config.port), 5))


class OrderedEpoll:
    """An epoll object that gives what is ready in the order that the test wants.

    The system may give it in any order.

    Attributes:
        sizes: how much was ready, each time.
    """

    def __init__(self, epoll: Any, rank: dict[int, int]) -> None:
        self._epoll = epoll
        self._rank = rank
        self.sizes: list[int] = []

    def poll(self, *args: Any) -> list[tuple[int, int]]:
        found = self._epoll.poll(*args)
        self.sizes.append(len(found))
        return sorted(found, key=lambda one: self._rank.get(one[0], 1))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._epoll, name)


@contextmanager
def no_holes_below(number: int) -> Iterator[None]:
    """Take all free descriptors below this one, so that it is the next one free once it is."""
    taken = [os.dup(0)]
    try:
        while taken[-1] < number:
            taken.append(os.dup(0))
        os.close(taken.pop())
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)


# -- a descriptor that is closed and recycled within one batch -------------------------------------


@pytest.mark.parametrize("stale", ["readable", "reset"])
def test_a_recycled_descriptor_does_not_get_its_predecessors_readiness(
    run_async: RunAsync, monkeypatch: pytest.MonkeyPatch, stale: str
) -> None:
    """In one batch: one client's data ends another, a new connection takes over the number of its
    descriptor, and what that number was ready for belongs to the dead one.
    """
    calls: list[tuple[GSock, int]] = []
    ready = GSock.io_ready

    def io_ready(self: GSock, mask: int) -> None:
        calls.append((self, mask))
        ready(self, mask)

    monkeypatch.setattr(GSock, "io_ready", io_ready)

    async def work() -> None:
        async with gaplic("epoll") as app:
            owner = make_owner(app)
            server = serve(app, owner)
            with dial(server) as killer, dial(server) as victim:
                await wait_for(lambda: len(owner.of(EV_CONNECTED)) == 2)
                gsocks = [event.source for event in owner.of(EV_CONNECTED)]
                names = [gsock.peername for gsock in gsocks]
                dead = gsocks[names.index(victim.sock.getsockname())]
                number = dead._sock.fileno()
                first = gsocks[1 - gsocks.index(dead)]._sock.fileno()
                epoll = OrderedEpoll(app.poller._epoll, {first: 0, number: 2})
                app.poller._epoll = epoll
                owner.reactions[EV_RX_DATA] = lambda _: owner.destroy_gobj(dead)
                # The loop does not turn meanwhile, so all three are ready at once.
                killer.send_now(b"x")
                with dial(server) as newcomer:
                    if stale == "readable":
                        victim.send_now(b"x")
                    else:
                        victim.reset()
                    calls.clear()
                    with no_holes_below(number):
                        await wait_for(lambda: len(owner.of(EV_CONNECTED)) == 3)
                    new = owner.of(EV_CONNECTED)[2].source
                    assert epoll.sizes[0] == 3, "the trap was not set"
                    assert new._sock.fileno() == number, "the trap was not set"
                    await turns()
                    assert [gsock for gsock, _ in calls if gsock is new] == []
                    assert not owner.ended(new)
                    owner.reactions.clear()
                    await newcomer.send(b"hello")
                    await wait_for(lambda: owner.received(new) == b"hello")
                    assert owner.received(dead) == b""

    run_async(work)


# -- HUP and ERR wake without being asked for ------------------------------------------------------


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How often the poller was called."""
    count = 0
    run = Poller._run_batch

    def counting(self: Poller, *args: object) -> None:
        nonlocal count
        count += 1
        run(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Poller, "_run_batch", counting)
    return lambda: count


async def check_quiet(batches: Callable[[], int]) -> None:
    """For a while nothing is called and no processor time goes by."""
    await turns()
    calls, processor, begin = batches(), time.process_time(), time.monotonic()
    await asyncio.sleep(0.1)
    spent = (time.process_time() - processor) / (time.monotonic() - begin)
    assert batches() - calls <= 1
    assert spent < 0.5


@each_poller
@pytest.mark.parametrize("role", ["client", "accepted"])
@pytest.mark.parametrize("gone", ["end", "close", "reset"])
@pytest.mark.parametrize("queued", [False, True])
def test_a_paused_connection_whose_peer_is_gone_does_not_spin(
    run_async: RunAsync,
    batches: Callable[[], int],
    poller: str,
    role: str,
    gone: str,
    queued: bool,
) -> None:
    async def work() -> None:
        async with pair(role, poller, rcvbuf=4096) as (_, owner, gsock, peer):
            owner.tell(gsock, EV_PAUSE_RX())
            await peer.send(b"last words")
            if queued:
                owner.tell(gsock, EV_SEND_DATA(bytes(7_000_000)))
                assert gsock.queued
            getattr(peer, gone)()
            await check_quiet(batches)
            assert not owner.received()
            assert not owner.ended()
            owner.tell(gsock, EV_RESUME_RX())
            if gone == "end" and queued:
                await wait_for(lambda: gsock.state == "ST_CLOSING")
                await check_quiet(batches)
                owner.tell(gsock, EV_DROP(abort=True))
            await wait_for(owner.ended)
            assert owner.received() == b"last words"

    run_async(work)


@each_poller
def test_a_half_open_connection_does_not_spin(
    run_async: RunAsync, batches: Callable[[], int], poller: str
) -> None:
    async def work() -> None:
        async with pair(poller=poller, half_close=True, rcvbuf=4096) as (_, owner, gsock, peer):
            peer.end()
            await wait_for(lambda: owner.of(EV_RX_END))
            await check_quiet(batches)
            # An end of file stays readable for ever, also when we wait to write.
            owner.tell(gsock, EV_SEND_DATA(bytes(7_000_000)))
            await check_quiet(batches)
            peer.reset()
            await wait_for(owner.ended)
            assert owner.reason() == "reset"
            await check_quiet(batches)

    run_async(work)


@each_poller
def test_a_connection_that_waits_for_the_peers_end_does_not_spin(
    run_async: RunAsync, batches: Callable[[], int], poller: str
) -> None:
    async def work() -> None:
        async with pair(poller=poller, rcvbuf=4096) as (_, owner, gsock, peer):
            owner.tell(gsock, EV_SEND_DATA(bytes(300_000)))
            owner.tell(gsock, EV_DROP())
            assert gsock.state == "ST_CLOSING"
            await check_quiet(batches)
            await peer.read_to_end()
            # The peer has it all, and stays open for sending: that keeps nobody.
            await wait_for(owner.ended)
            assert owner.reason() == "local"

    run_async(work)


# -- the epoll object is closed while the loop watches it ------------------------------------------


WAYS_TO_END = """
import asyncio, contextlib, socket, sys, time
import uvloop
from ginsfsm import GAplic, GObj, on
from ginsfsm.c_sock import *
from ginsfsm.c_srv_sock import GServerSock

way, kind, poller = sys.argv[1:]


class Owner(GObj):
    connected = 0
    act = None

    def start_up(self):
        self.server = self.create_gobj("server", GServerSock, self, host="127.0.0.1")

    def ac_connected(self, event):
        self.connected += 1

    def ac_data(self, event):
        self.act(event)

    def ac_end(self, event):
        if self.act is not None:
            self.act(event)

    machine = {"ST_IDLE": [on(EV_CONNECTED, ac_connected), on(EV_RX_DATA, ac_data),
                           on(EV_DISCONNECTED, ac_end)]}


class Failing(GObj):
    def start_up(self):
        raise RuntimeError("of the test")


async def started(app, peers):
    owner = app.create_gobj("owner", Owner, app)
    for _ in range(3):
        peers.append(socket.create_connection(("127.0.0.1", owner.server.config.port)))
    while owner.connected < 3:
        await asyncio.sleep(0)
    return owner


async def main():
    app = GAplic("app", {"app": {"poller": poller}})
    peers = []
    if way == "normal":
        async with app:
            await started(app, peers)
    elif way == "at once":
        # Before the loop has turned: libuv has the descriptor on its list, not in its epoll yet.
        app.create_gobj("owner", Owner, app)
        async with app:
            pass
    elif way == "made and ended at once":
        async with app:
            await asyncio.sleep(0.01)
            app.create_gobj("owner", Owner, app)
    elif way == "exception":
        with contextlib.suppress(ZeroDivisionError):
            async with app:
                await started(app, peers)
                1 / 0
    elif way == "cancelled":
        task = asyncio.create_task(app.serve())
        await asyncio.sleep(0)
        await started(app, peers)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    elif way == "stopped":
        task = asyncio.create_task(app.serve())
        await asyncio.sleep(0)
        owner = await started(app, peers)
        owner.act = lambda event: app.stop()
        peers[0].send(b"x")
        await task
    elif way in ("in an action", "at the end of a batch"):
        async with app:
            owner = await started(app, peers)
            owner.act = lambda event: app.destroy_gobj(app)
            for peer in peers:
                peer.close() if "end" in way else peer.send(b"x")
            while not app.destroyed:
                await asyncio.sleep(0)
    elif way == "failed start":
        async with app:
            await started(app, peers)
            try:
                app.create_gobj("failing", Failing, app)
            except RuntimeError:
                pass
        app = GAplic("app", {"nobody": {"no": 1}, "app": {"poller": poller}})
        app.create_gobj("owner", Owner, app)
        try:
            async with app:
                pass
        except Exception as error:
            assert "matches no gobj" in str(error), error
        else:
            raise SystemExit("it started")
    # The loop goes on, and would notice.
    for peer in peers:
        peer.close()
    await asyncio.sleep(0.05)


factory = uvloop.new_event_loop if kind == "uvloop" else asyncio.new_event_loop
with asyncio.Runner(loop_factory=factory) as runner:
    runner.run(main())
print("alive")
"""


@each_poller
@pytest.mark.parametrize(
    "way",
    [
        "normal", "at once", "made and ended at once", "exception", "cancelled", "stopped",
        "in an action", "at the end of a batch", "failed start",
    ],
)  # fmt: skip
def test_however_a_gaplic_ends_the_loop_has_forgotten_its_descriptors(
    loop_kind: str, poller: str, way: str
) -> None:
    """In a process of its own, since under uvloop the mistake ends the process."""
    pytest.importorskip("uvloop")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WAYS_TO_END, way, loop_kind, poller],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


# -- and a crowd of them ---------------------------------------------------------------------------


@pytest.fixture
def crowd() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@each_poller
def test_a_crowd_that_ends_in_every_way_at_once(
    run_async: RunAsync, crowd: ExitStack, poller: str
) -> None:
    """Many descriptors of one batch, closed by one another and recycled by newcomers."""

    async def work() -> None:
        async with gaplic(poller) as app:
            owner = make_owner(app)
            server = serve(app, owner)
            owner.reactions[EV_DISCONNECTED] = lambda event: owner.destroy_gobj(event.source)

            def kill_next(event: EV_RX_DATA) -> None:
                gsocks = list(owner.children.values())
                following = gsocks[(gsocks.index(event.source) + 1) % len(gsocks)]
                owner.destroy_gobj(following)
                for gsock in gsocks:
                    owner.tell(gsock, EV_SEND_DATA(event.data))

            owner.reactions[EV_RX_DATA] = kill_next
            for round_number in range(5):
                peers = [crowd.enter_context(dial(server)) for _ in range(20)]
                count = 20 * (round_number + 1)
                await wait_for(lambda count=count: len(owner.of(EV_CONNECTED)) == count)
                for number, peer in enumerate(peers):
                    match number % 4:
                        case 0:
                            peer.send_now(b"kill")
                        case 1:
                            peer.reset()
                        case 2:
                            peer.end()
                        case 3:
                            crowd.enter_context(dial(server)).close()
                await turns(20)
                owner.heard = [e for e in owner.heard if type(e) is EV_CONNECTED][:count]
            for gsock in list(owner.children.values()):
                owner.tell(gsock, EV_DROP(abort=True))
            await wait_for(lambda: not owner.children)
            assert server.config.n_gsocks == 0
            assert len(app.poller) == 1
            assert app.contained_errors == 0
            assert not owner.inside

    run_async(work)
