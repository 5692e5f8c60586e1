"""GSock: what it guarantees, on both loops, both pollers, and for both ends of a connection."""

import array
import asyncio
import errno
import hashlib
import os
import random
import resource
import socket
import subprocess
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import aiohappyeyeballs
import pytest

from conftest import RunAsync
from ginsfsm import NOT_ACCEPTED, Event, EventError, GAplic, GConfigError, GObj, on
from ginsfsm.c_sock import (
    EV_CONNECT,
    EV_CONNECT_FAILED,
    EV_CONNECTED,
    EV_DISCONNECTED,
    EV_DROP,
    EV_FLUSH_OUTPUT_DATA,
    EV_PAUSE_RX,
    EV_RESUME_RX,
    EV_RX_DATA,
    EV_RX_END,
    EV_SEND_DATA,
    EV_SEND_FRAME,
    EV_START_TLS,
    EV_TRANSMIT_READY,
    EV_WRITE_OUTPUT_DATA,
    LINGER_CHECK,
    GSock,
    Reason,
)
from ginsfsm.c_srv_sock import GServerSock
from ginsfsm.testing import ManualClock
from sockets import (
    DEADLINE,
    POLLERS,
    Owner,
    Pair,
    Peer,
    accept,
    client_of,
    gaplic,
    listener,
    make_owner,
    pair,
    set_buffers,
    turns,
    wait_for,
)

ROLES = ["client", "accepted"]


each_role = pytest.mark.parametrize("role", ROLES)
each_poller = pytest.mark.parametrize("poller", POLLERS)


@contextmanager
def full_listener(host: str = "127.0.0.1") -> Iterator[socket.socket]:
    """A listening socket that answers no further connection: its backlog is full."""
    with ExitStack() as stack:
        listening = stack.enter_context(listener(host, backlog=0))
        for _ in range(3):
            sock = stack.enter_context(socket.socket(listening.family))
            sock.setblocking(False)
            with pytest.raises(BlockingIOError):
                sock.connect(listening.getsockname())
        yield listening


@contextmanager
def refusing_port() -> Iterator[int]:
    """A port where nobody listens, and nobody else can while the test runs."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


# -- EV_CONNECTED and EV_DISCONNECTED --------------------------------------------------------------


@each_poller
@each_role
def test_ev_connected_comes_once_and_before_everything_else(
    run_async: RunAsync, role: str, poller: str
) -> None:
    async def work() -> None:
        async with pair(role, poller) as (_, owner, gsock, peer):
            (connected,) = owner.of(EV_CONNECTED)
            assert connected.peername == peer.sock.getsockname() == gsock.peername
            assert connected.sockname == peer.sock.getpeername() == gsock.sockname
            assert gsock.state == "ST_CONNECTED"
            await peer.send(b"hello")
            peer.end()
            await wait_for(owner.ended)
            assert owner.kinds() == ["EV_CONNECTED", "EV_RX_DATA", "EV_DISCONNECTED"]
            assert len(owner.of(EV_CONNECTED)) == 1

    run_async(work)


async def peer_ends(pair: Pair) -> None:
    pair.peer.end()


async def peer_resets(pair: Pair) -> None:
    pair.peer.reset()


async def owner_drops(pair: Pair) -> None:
    pair.owner.tell(pair.gsock, EV_DROP())


async def owner_aborts(pair: Pair) -> None:
    pair.owner.tell(pair.gsock, EV_DROP(abort=True))


async def owner_aborts_with_output(pair: Pair) -> None:
    pair.owner.tell(pair.gsock, EV_WRITE_OUTPUT_DATA(b"never sent"))
    pair.owner.tell(pair.gsock, EV_DROP(abort=True))


async def queue_overflows(pair: Pair) -> None:
    while pair.gsock.state == "ST_CONNECTED":
        pair.owner.tell(pair.gsock, EV_SEND_DATA(bytes(1 << 20)))


async def action_raises(pair: Pair) -> None:
    def fails(_event: EV_RX_DATA) -> None:
        raise RuntimeError("of the test")

    pair.owner.reactions[EV_RX_DATA] = fails
    await pair.peer.send(b"x")


async def everything_at_once(pair: Pair) -> None:
    await pair.peer.send(b"x")
    pair.peer.reset()
    pair.owner.tell(pair.gsock, EV_SEND_DATA(b"x"))
    pair.owner.tell(pair.gsock, EV_DROP())
    pair.owner.tell(pair.gsock, EV_DROP(abort=True))
    pair.owner.tell(pair.gsock, EV_DROP())


@each_poller
@each_role
@pytest.mark.parametrize(
    ("ending", "reason"),
    [
        (peer_ends, "peer"),
        (peer_resets, "reset"),
        (owner_drops, "local"),
        (owner_aborts, "local"),
        (owner_aborts_with_output, "local"),
        (queue_overflows, "tx_overflow"),
        (action_raises, "error"),
        (everything_at_once, None),
    ],
)
def test_ev_disconnected_comes_exactly_once_if_ev_connected_came(
    run_async: RunAsync,
    role: str,
    poller: str,
    ending: Callable[[Pair], Any],
    reason: str | None,
) -> None:
    async def work() -> None:
        async with pair(role, poller, tx_max=1 << 20) as both:
            await ending(both)
            await wait_for(both.owner.ended)
            await turns()
            got = both.owner.reason()
            assert got == (reason or got)
            assert got in list(Reason)
            assert both.gsock.state == "ST_DISCONNECTED"
            assert both.owner.kinds()[-1] == "EV_DISCONNECTED"
            assert not both.owner.of(EV_CONNECT_FAILED)
            assert len(both.app.poller) == (role == "accepted")

    run_async(work)


@each_poller
@each_role
@pytest.mark.parametrize("kind", [EV_CONNECTED, EV_RX_DATA, EV_RX_END, EV_DISCONNECTED])
def test_no_ev_disconnected_when_the_owner_destroyed_the_gsock_first(
    run_async: RunAsync, role: str, poller: str, kind: type
) -> None:
    """Destroyed in the action on each of its events, with more input waiting."""

    async def work() -> None:
        async with gaplic(poller) as app:
            owner = make_owner(app)
            owner.reactions[kind] = lambda event: owner.destroy_gobj(event.source)
            with ExitStack() as stack:
                if role == "client":
                    listening = stack.enter_context(listener())
                    owner.tell(client_of(owner, listening, half_close=True), EV_CONNECT())
                    peer = await accept(listening)
                else:
                    server = app.create_gobj(
                        "server", GServerSock, app, host="127.0.0.1", subscriber=owner,
                        half_close=True,
                    )  # fmt: skip
                    sock = socket.create_connection(("127.0.0.1", server.config.port))
                    peer = Peer(sock)
                stack.enter_context(peer)
                # Written at once, so that there is always more to tell than the one event.
                assert peer.send_now(bytes(100_000))
                if kind is EV_DISCONNECTED:
                    await wait_for(lambda: owner.of(EV_CONNECTED))
                    peer.reset()
                else:
                    peer.end()
                await wait_for(lambda: owner.of(kind))
                gsock = owner.of(kind)[0].source
                assert gsock.destroyed
                heard = len(owner.heard)
                await turns()
                assert len(owner.heard) == heard
                assert type(owner.heard[-1]) is kind
                assert not owner.children

    run_async(work)


# -- EV_CONNECT_FAILED -----------------------------------------------------------------------------


def only_failure(owner: Owner, gsock: GSock) -> str:
    assert owner.kinds(gsock) == ["EV_CONNECT_FAILED"]
    (event,) = owner.of(EV_CONNECT_FAILED, gsock)
    assert gsock.state == "ST_DISCONNECTED"
    assert not owner.inside
    return event.reason


@each_poller
def test_ev_connect_failed_for_refused(run_async: RunAsync, poller: str) -> None:
    async def work() -> None:
        async with gaplic(poller) as app:
            owner = make_owner(app)
            with refusing_port() as port:
                gsock = owner.create_gobj("c", GSock, owner, host="127.0.0.1", port=port)
                owner.tell(gsock, EV_CONNECT())
                await wait_for(lambda: owner.heard)
                await turns()
                assert only_failure(owner, gsock) == "reset"

    run_async(work)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "x" * 70 + ".invalid"])
def test_ev_connect_failed_for_unresolvable(run_async: RunAsync, host: str) -> None:
    async def work() -> None:
        async with gaplic() as app:
            owner = make_owner(app)
            gsock = owner.create_gobj("c", GSock, owner, host=host, port=9)
            owner.tell(gsock, EV_CONNECT())
            await wait_for(lambda: owner.heard)
            assert only_failure(owner, gsock) == "error"

    run_async(work)


@each_poller
def test_ev_connect_failed_for_timed_out(run_async: RunAsync, poller: str) -> None:
    async def work() -> None:
        async with gaplic(poller) as app:
            owner = make_owner(app)
            with full_listener() as listening:
                gsock = client_of(owner, listening, connect_timeout=0.2)
                begin = time.monotonic()
                owner.tell(gsock, EV_CONNECT())
                await wait_for(lambda: owner.heard)
                assert 0.15 < time.monotonic() - begin < 0.8
                assert only_failure(owner, gsock) == "timeout"

    run_async(work)


@each_poller
@pytest.mark.parametrize("after_turns", [0, 1, 20])
@pytest.mark.parametrize("abort", [False, True])
def test_ev_connect_failed_for_dropped_while_connecting(
    run_async: RunAsync, poller: str, after_turns: int, abort: bool
) -> None:
    async def work() -> None:
        async with gaplic(poller) as app:
            owner = make_owner(app)
            with full_listener() as listening:
                gsock = client_of(owner, listening)
                owner.tell(gsock, EV_CONNECT())
                await turns(after_turns)
                assert gsock.state == "ST_CONNECTING"
                owner.tell(gsock, EV_DROP(abort))
                await wait_for(lambda: owner.heard)
                await turns()
                assert only_failure(owner, gsock) == "local"

    run_async(work)


@pytest.mark.parametrize("given", [{}, {"host": "127.0.0.1"}, {"port": 9}])
def test_ev_connect_failed_for_no_address_given(
    run_async: RunAsync, given: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "ginsfsm")

    async def work() -> None:
        async with gaplic() as app:
            owner = make_owner(app)
            gsock = owner.create_gobj("c", GSock, owner, **given)
            owner.tell(gsock, EV_CONNECT())
            await wait_for(lambda: owner.heard)
            assert only_failure(owner, gsock) == "error"

    run_async(work)
    assert "give the parameters host and port" in caplog.text


# -- connecting ------------------------------------------------------------------------------------


@each_poller
def test_ev_connect_before_the_loop_runs_waits_for_it(run_async: RunAsync, poller: str) -> None:
    with listener() as listening:
        app = gaplic(poller)
        owner = make_owner(app)
        gsock = client_of(owner, listening, connect_timeout=5)
        owner.tell(gsock, EV_CONNECT())
        assert gsock.state == "ST_CONNECTING"

        async def work() -> None:
            async with app:
                with await accept(listening) as peer:
                    await wait_for(lambda: owner.of(EV_CONNECTED))
                    owner.tell(gsock, EV_SEND_DATA(b"hello"))
                    assert await peer.read(5) == b"hello"

        run_async(work)
        assert not owner.inside


@each_poller
def test_ev_connect_and_ev_drop_before_the_loop_runs(run_async: RunAsync, poller: str) -> None:
    with listener() as listening:
        app = gaplic(poller)
        owner = make_owner(app)
        gsock = client_of(owner, listening)
        owner.tell(gsock, EV_CONNECT())
        owner.tell(gsock, EV_DROP())
        assert not owner.heard

        async def work() -> None:
            async with app:
                await wait_for(lambda: owner.heard)
                assert only_failure(owner, gsock) == "local"

        run_async(work)


@each_poller
def test_reconnects_with_the_same_gsock_from_its_ev_disconnected(
    run_async: RunAsync, poller: str
) -> None:
    async def work() -> None:
        async with gaplic(poller) as app:
            owner = make_owner(app)
            with listener() as listening:
                gsock = client_of(owner, listening)
                owner.reactions[EV_DISCONNECTED] = lambda _: owner.tell(gsock, EV_CONNECT())
                owner.tell(gsock, EV_CONNECT())
                for n in range(10):
                    with await accept(listening) as peer:
                        text = b"number %d" % n
                        await peer.send(text)
                        await wait_for(lambda text=text: owner.received().endswith(text))
                        owner.tell(gsock, EV_SEND_DATA(text))
                        assert await peer.read(len(text)) == text
                        # Odd and even ones leave different things behind in the gsock.
                        owner.tell(gsock, EV_SEND_DATA(bytes(5_000_000)))
                        owner.tell(gsock, EV_PAUSE_RX())
                        if n % 2:
                            peer.reset()
                            owner.tell(gsock, EV_RESUME_RX())
                        else:
                            owner.tell(gsock, EV_DROP(abort=True))
                await wait_for(lambda: len(owner.of(EV_DISCONNECTED)) == 10)
                once = ["EV_CONNECTED", "EV_RX_DATA", "EV_DISCONNECTED"]
                assert owner.kinds()[:30] == once * 10
                assert [event.reason for event in owner.of(EV_DISCONNECTED)] == [
                    "local", "reset"
                ] * 5  # fmt: skip
                assert not owner.inside

    run_async(work)


def test_reconnects_after_a_failed_attempt(run_async: RunAsync) -> None:
    async def work() -> None:
        async with gaplic() as app:
            owner = make_owner(app)
            with refusing_port() as port:
                gsock = owner.create_gobj("c", GSock, owner, host="127.0.0.1", port=port)
                owner.tell(gsock, EV_CONNECT())
                await wait_for(lambda: owner.of(EV_CONNECT_FAILED))
            with listener(port=port) as listening:
                owner.tell(gsock, EV_CONNECT())
                with await accept(listening):
                    await wait_for(lambda: owner.of(EV_CONNECTED))
            assert owner.kinds() == ["EV_CONNECT_FAILED", "EV_CONNECTED"]

    run_async(work)


@each_poller
def test_connects_anew_before_the_old_end_is_told(run_async: RunAsync, poller: str) -> None:
    async def work() -> None:
        async with gaplic(poller) as app:
            owner = make_owner(app)
            with listener() as listening:
                gsock = client_of(owner, listening)
                owner.tell(gsock, EV_CONNECT())
                with await accept(listening):
                    await wait_for(lambda: owner.of(EV_CONNECTED))
                    owner.tell(gsock, EV_DROP(abort=True))
                    owner.tell(gsock, EV_CONNECT())
                    owner.tell(gsock, EV_DROP())
                    owner.tell(gsock, EV_CONNECT())
                with await accept(listening) as peer:
                    await peer.send(b"x")
                    await wait_for(owner.received)
                    assert owner.kinds() == [
                        "EV_CONNECTED", "EV_DISCONNECTED", "EV_CONNECT_FAILED", "EV_CONNECTED",
                        "EV_RX_DATA",
                    ]  # fmt: skip
                    assert not owner.inside

    run_async(work)


@each_poller
@pytest.mark.parametrize(
    "state", ["ST_DISCONNECTED", "ST_CONNECTING", "ST_CONNECTED", "ST_CLOSING"]
)
def test_can_be_destroyed_in_every_state(run_async: RunAsync, poller: str, state: str) -> None:
    """The fixture that counts sockets says whether something was left behind."""

    async def work() -> None:
        async with gaplic(poller) as app:
            owner = make_owner(app)
            with listener(rcvbuf=4096) as listening:
                gsock = client_of(owner, listening)
                if state != "ST_DISCONNECTED":
                    owner.tell(gsock, EV_CONNECT())
                if state in ("ST_CONNECTED", "ST_CLOSING"):
                    peer = await accept(listening)
                    await wait_for(lambda: owner.of(EV_CONNECTED))
                if state == "ST_CLOSING":
                    owner.tell(gsock, EV_SEND_DATA(bytes(10_000_000)))
                    owner.tell(gsock, EV_DROP())
                assert gsock.state == state
                heard = list(owner.heard)
                owner.destroy_gobj(gsock)
                owner.destroy_gobj(gsock)
                await turns()
                assert owner.heard == heard
                assert len(app.poller) == 0
                assert owner.send_event(gsock, EV_CONNECT()) is NOT_ACCEPTED
                if state in ("ST_CONNECTED", "ST_CLOSING"):
                    with peer:
                        _, how = await peer.read_to_end()
                        # Output that we gave up must not look complete.
                        assert how == ("reset" if state == "ST_CLOSING" else "end")

    run_async(work)


@pytest.mark.parametrize("how", ["destroy", "drop", "timeout"])
def test_giving_up_at_any_moment_of_connecting_leaves_no_socket(
    run_async: RunAsync, how: str
) -> None:
    async def work() -> None:
        async with gaplic() as app:
            owner = make_owner(app)
            with listener(backlog=100) as listening:
                for count in range(25):
                    gsock = client_of(owner, listening, f"c{count}")
                    owner.tell(gsock, EV_CONNECT())
                    await turns(count)
                    if how == "destroy":
                        owner.destroy_gobj(gsock)
                    else:
                        owner.tell(gsock, EV_DROP())
                await turns()
                await wait_for(lambda: how == "destroy" or len(owner.heard) >= 25)

    run_async(work)


# -- Happy Eyeballs --------------------------------------------------------------------------------


@pytest.fixture
def resolve_to(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let every host stand for these addresses, in this order."""
    connect = aiohappyeyeballs.start_connection

    def resolve(*listening: socket.socket) -> None:
        found = [
            (one.family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", one.getsockname())
            for one in listening
        ]

        async def start_connection(_found: Any, **options: Any) -> socket.socket:
            return await connect(found, **options)

        monkeypatch.setattr(aiohappyeyeballs, "start_connection", start_connection)

    return resolve


@each_poller
def test_a_host_of_two_addresses_of_which_one_refuses(
    run_async: RunAsync, poller: str, resolve_to: Callable[..., None]
) -> None:
    async def work() -> None:
        with socket.socket() as refusing, listener() as listening:
            refusing.bind(("127.0.0.1", 0))
            for order in ([refusing, listening], [listening, refusing]):
                resolve_to(*order)
                async with gaplic(poller) as app:
                    owner = make_owner(app)
                    gsock = client_of(owner, listening)
                    owner.tell(gsock, EV_CONNECT())
                    with await accept(listening):
                        await wait_for(lambda owner=owner: owner.heard)
                        assert owner.kinds() == ["EV_CONNECTED"]
                        assert gsock.peername == listening.getsockname()

    run_async(work)


def test_an_address_that_does_not_answer_delays_by_the_head_start_only(
    run_async: RunAsync, resolve_to: Callable[..., None]
) -> None:
    async def work() -> None:
        with full_listener() as silent, listener() as listening:
            resolve_to(silent, listening)
            async with gaplic() as app:
                owner = make_owner(app)
                begin = time.monotonic()
                owner.tell(client_of(owner, listening), EV_CONNECT())
                with await accept(listening):
                    await wait_for(lambda: owner.of(EV_CONNECTED))
                assert 0.2 < time.monotonic() - begin < 1

    run_async(work)


def test_all_addresses_refuse(run_async: RunAsync, resolve_to: Callable[..., None]) -> None:
    async def work() -> None:
        with socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            two.bind(("127.0.0.1", 0))
            resolve_to(one, two)
            async with gaplic() as app:
                owner = make_owner(app)
                gsock = client_of(owner, one)
                owner.tell(gsock, EV_CONNECT())
                await wait_for(lambda: owner.heard)
                assert only_failure(owner, gsock) == "reset"

    run_async(work)


def test_localhost_with_one_family_listening(run_async: RunAsync) -> None:
    async def work() -> None:
        async with gaplic() as app:
            owner = make_owner(app)
            with listener() as listening:
                gsock = client_of(owner, listening, host="localhost")
                owner.tell(gsock, EV_CONNECT())
                with await accept(listening):
                    await wait_for(lambda: owner.heard)
                    assert owner.kinds() == ["EV_CONNECTED"]

    run_async(work)


@pytest.mark.parametrize("how", ["destroy", "drop", "reconnect"])
def test_giving_up_while_the_lost_attempts_are_ended_leaves_no_socket(
    run_async: RunAsync,
    how: str,
    resolve_to: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Aiohappyeyeballs returns a connection in that moment although it was cancelled."""
    monkeypatch.setattr("ginsfsm.c_sock.HEAD_START", 0.01)

    async def work() -> None:
        with full_listener() as silent, listener(backlog=100) as listening:
            resolve_to(silent, listening)
            async with gaplic() as app:
                owner = make_owner(app)
                for count in range(12):
                    gsock = client_of(owner, listening, f"c{count}")
                    owner.tell(gsock, EV_CONNECT())
                    while True:
                        try:
                            sock, _ = listening.accept()
                            break
                        except BlockingIOError:
                            await asyncio.sleep(0)
                    with sock:
                        await turns(count)
                        if how == "destroy":
                            owner.destroy_gobj(gsock)
                            continue
                        owner.tell(gsock, EV_DROP())
                        await wait_for(
                            lambda g=gsock: owner.of(EV_CONNECT_FAILED, g) or owner.ended(g)
                        )
                        assert gsock._sock is None
                        if how == "reconnect":
                            owner.tell(gsock, EV_CONNECT())
                            with await accept(listening):
                                await wait_for(lambda g=gsock: owner.kinds(g)[-1] == "EV_CONNECTED")
                            owner.destroy_gobj(gsock)

    run_async(work)


# -- never from inside the owner's call ------------------------------------------------------------


@contextmanager
def clients_of(server: GServerSock, count: int) -> Iterator[list[Peer]]:
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                Peer(socket.create_connection(("127.0.0.1", server.config.port), 5))
            )
            for _ in range(count)
        ]


def fill_the_kernel(owner: Owner, gsock: GSock) -> None:
    """Until it takes no more. Nothing is queued in the gsock then, and it waits to write."""
    owner.tell(gsock, EV_SEND_DATA(bytes(7_000_000)))
    assert gsock.queued
    gsock._tx = None


def serve(app: GAplic, owner: Owner, **params: Any) -> GServerSock:
    return app.create_gobj("server", GServerSock, app, host="127.0.0.1", subscriber=owner, **params)


@each_poller
def test_output_events_never_come_from_inside_the_owners_calls(
    run_async: RunAsync, poller: str
) -> None:
    """A fan-out over clients of which some have reset, some have ended and some do not read."""

    async def work() -> None:
        async with gaplic(poller) as app:
            owner = make_owner(app)
            server = serve(app, owner, tx_max=100_000)
            owner.reactions[EV_DISCONNECTED] = lambda event: owner.destroy_gobj(event.source)
            with clients_of(server, 30) as peers:
                await wait_for(lambda: len(owner.of(EV_CONNECTED)) == 30)
                for number, peer in enumerate(peers):
                    if number % 3 == 0:
                        peer.reset()
                    elif number % 3 == 1:
                        assert peer.send_now(b"last words") == 10
                        peer.end()
                # The loop has not turned: all of them still look alive.
                gsocks = [child for child in owner.children.values() if type(child) is GSock]
                assert len(gsocks) == 30
                lost = 0
                for gsock in gsocks:
                    lost += owner.tell(gsock, EV_SEND_DATA(bytes(3_000_000))) is NOT_ACCEPTED
                    owner.tell(gsock, EV_WRITE_OUTPUT_DATA(b"x"))
                    owner.tell(gsock, EV_FLUSH_OUTPUT_DATA())
                    owner.tell(gsock, EV_SEND_DATA(b"y"))
                    owner.tell(gsock, EV_DROP())
                    assert not gsock.destroyed
                assert lost == 10  # those whose peer has reset
                assert not owner.inside
                assert not owner.ended()
                for peer in peers[2::3]:
                    peer.close()
                await wait_for(
                    lambda: not any(isinstance(c, GSock) for c in owner.children.values())
                )
                await turns()
                assert len(owner.of(EV_DISCONNECTED)) == 30
                assert server.config.n_gsocks == 0
                assert not owner.inside

    run_async(work)


@each_poller
def test_a_chat_where_one_client_destroys_another_in_the_loop(
    run_async: RunAsync, poller: str
) -> None:
    """Each client's data goes to all; every second one of the others is destroyed meanwhile."""

    async def work() -> None:
        async with gaplic(poller) as app:
            owner = make_owner(app)
            server = serve(app, owner)

            def fan_out(event: EV_RX_DATA) -> None:
                for number, gsock in enumerate(list(owner.children.values())):
                    if event.data == b"kill" and number % 2 and gsock is not event.source:
                        owner.destroy_gobj(gsock)
                    owner.tell(gsock, EV_SEND_DATA(event.data))

            owner.reactions[EV_RX_DATA] = fan_out
            owner.reactions[EV_DISCONNECTED] = lambda event: owner.destroy_gobj(event.source)
            with clients_of(server, 20) as peers:
                await wait_for(lambda: len(owner.of(EV_CONNECTED)) == 20)
                # In one batch: the first kills, those killed have sent something too.
                for peer in peers:
                    peer.send_now(b"kill")
                for peer in peers[3:6]:
                    peer.reset()
                await wait_for(lambda: len(owner.children) < 10)
                await turns(50)
                assert not owner.inside
                left = len(owner.children)
                assert server.config.n_gsocks == left > 0
                # Those that are left still talk to each other.
                names = {gsock.peername for gsock in owner.children.values()}
                alive = [p for p in peers if p.sock.fileno() >= 0 and p.sock.getsockname() in names]
                assert len(alive) == left
                await alive[0].send(b"hello")
                for peer in alive:
                    while (await peer.read(1)) != b"h":
                        pass
                    assert await peer.read(4) == b"ello"
                assert app.contained_errors == 0

    run_async(work)


@each_role
def test_a_failing_send_in_ev_rx_data_is_told_at_the_end_of_the_batch(
    run_async: RunAsync, role: str
) -> None:
    async def work() -> None:
        async with pair(role) as (_, owner, gsock, peer):

            def answer(_event: EV_RX_DATA) -> None:
                assert owner.tell(gsock, EV_SEND_DATA(b"answer")) is NOT_ACCEPTED
                assert not owner.ended()

            owner.reactions[EV_RX_DATA] = answer
            peer.send_now(b"question")
            peer.reset()
            await wait_for(owner.ended)
            assert owner.received() == b"question"
            assert owner.reason() == "reset"

    run_async(work)


# -- backpressure ----------------------------------------------------------------------------------


@each_poller
@each_role
@pytest.mark.parametrize("event", [EV_SEND_DATA, EV_WRITE_OUTPUT_DATA])
def test_a_peer_that_does_not_read_is_dropped_with_tx_overflow(
    run_async: RunAsync, role: str, poller: str, event: Any
) -> None:
    async def work() -> None:
        async with pair(role, poller, rcvbuf=4096, tx_max=100_000) as (_, owner, gsock, peer):
            highest = sent = 0
            while owner.tell(gsock, event(bytes(10_000))) is True:
                sent += 10_000
                highest = max(highest, gsock.queued)
                assert sent < 50_000_000
            assert 100_000 < highest <= 110_000
            assert not owner.ended()
            await wait_for(owner.ended)
            assert owner.reason() == "tx_overflow"
            data, how = await peer.read_to_end()
            assert how == "reset"
            assert not any(data)
            assert not owner.of(EV_TRANSMIT_READY)

    run_async(work)


@pytest.mark.parametrize("size", [1, 2, 10, 100, 1500])
def test_a_peer_that_does_not_read_cannot_eat_the_memory(run_async: RunAsync, size: int) -> None:
    """What `tx_max` counts is what it costs, also for many small messages."""
    tx_max = 100_000

    async def work() -> None:
        async with pair(rcvbuf=4096, tx_max=tx_max) as (_, owner, gsock, _peer):
            fill_the_kernel(owner, gsock)
            tracemalloc.start()
            try:
                while gsock.queued <= tx_max:
                    # Each an object of its own, as a real sender's.
                    assert owner.send_event(gsock, EV_SEND_DATA(random.randbytes(size)))
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
            assert peak < 2.5 * tx_max
            owner.tell(gsock, EV_SEND_DATA(b"x"))
            await wait_for(owner.ended)
            assert owner.reason() == "tx_overflow"

    run_async(work)


@each_poller
@each_role
def test_one_large_message_to_a_healthy_peer_is_legal(
    run_async: RunAsync, role: str, poller: str
) -> None:
    data = random.Random(1).randbytes(20_000_000)

    async def work() -> None:
        async with pair(role, poller, tx_max=1000) as (_, owner, gsock, peer):
            assert owner.tell(gsock, EV_SEND_DATA(data)) is True
            assert await peer.read(len(data)) == data
            # And it is over: the next one is welcome.
            assert owner.tell(gsock, EV_SEND_DATA(b"next")) is True
            assert await peer.read(4) == b"next"
            assert not owner.ended()

    run_async(work)


@each_poller
@each_role
def test_ev_transmit_ready_comes_exactly_once_for_each_crossing(
    run_async: RunAsync, role: str, poller: str
) -> None:
    async def work() -> None:
        async with pair(role, poller, rcvbuf=4096, tx_high_water=200_000, tx_low_water=50_000) as (
            _,
            owner,
            gsock,
            peer,
        ):
            sizes: list[int] = []
            owner.reactions[EV_TRANSMIT_READY] = lambda _: sizes.append(gsock.queued)
            sent = read = 0
            # Not so much that the mark is passed: nothing comes.
            while gsock.queued < 150_000:
                owner.tell(gsock, EV_SEND_DATA(bytes(10_000)))
                sent += 10_000
            while read < sent:
                read += len(await peer.read(min(50_000, sent - read)))
            await wait_for(lambda: not gsock.queued)
            await turns()
            assert not sizes
            for crossing in range(1, 6):
                while gsock.queued < 200_000 + 50_000 * crossing:
                    owner.tell(gsock, EV_SEND_DATA(bytes(10_000)))
                    sent += 10_000
                assert len(sizes) == crossing - 1
                while read < sent:
                    read += len(await peer.read(min(50_000, sent - read)))
                await wait_for(lambda: not gsock.queued)
                await turns()
                assert len(sizes) == crossing
            assert max(sizes) < 50_000

    run_async(work)


@each_poller
@each_role
def test_a_sender_that_heeds_ev_transmit_ready_needs_little_memory(
    run_async: RunAsync, role: str, poller: str
) -> None:
    total, chunk = 20_000_000, 64_000

    async def work() -> None:
        async with pair(role, poller, tx_high_water=200_000, tx_low_water=100_000) as both:
            _, owner, gsock, peer = both
            left = total
            highest = 0

            def pump(_event: object = None) -> None:
                nonlocal left, highest
                while left and gsock.queued < 200_000:
                    owner.tell(gsock, EV_SEND_DATA(bytes(min(chunk, left))))
                    left -= min(chunk, left)
                    highest = max(highest, gsock.queued)

            owner.reactions[EV_TRANSMIT_READY] = pump
            pump()
            assert len(await peer.read(total)) == total
            assert highest < 200_000 + chunk
            assert left == 0

    run_async(work)


@each_role
def test_no_ev_transmit_ready_after_the_owner_has_dropped(run_async: RunAsync, role: str) -> None:
    """The queue falls under the mark while the last output is flushed, and nobody can send."""

    async def work() -> None:
        async with pair(role, rcvbuf=4096, tx_high_water=2_000_000, tx_low_water=2_000_000) as (
            _,
            owner,
            gsock,
            peer,
        ):
            owner.tell(gsock, EV_SEND_DATA(bytes(9_000_000)))
            assert gsock.queued > 2_000_000
            owner.tell(gsock, EV_DROP())
            data, how = await peer.read_to_end()
            assert (len(data), how) == (9_000_000, "end")
            peer.close()
            await wait_for(owner.ended)
            assert owner.kinds() == ["EV_CONNECTED", "EV_DISCONNECTED"]

    run_async(work)


@each_poller
@each_role
def test_ev_pause_rx_closes_the_senders_window_and_ev_resume_rx_loses_nothing(
    run_async: RunAsync, role: str, poller: str
) -> None:
    data = random.Random(2).randbytes(1 << 20) * 8

    async def work() -> None:
        async with pair(role, poller) as (_, owner, gsock, peer):
            sent = 0

            async def push() -> None:
                """Until the kernel takes no more, for good."""
                nonlocal sent
                idle = 0
                while idle < 50 and sent < len(data):
                    count = peer.send_now(data[sent : sent + 100_000])
                    sent += count
                    idle = 0 if count else idle + 1
                    await asyncio.sleep(0)

            for _ in range(3):
                owner.tell(gsock, EV_PAUSE_RX())
                await push()
                await turns()
                got = len(owner.received())
                assert got < sent < len(data)
                # Blocked: it stays so.
                assert peer.send_now(b"x" * 10) == 0
                await turns(50)
                assert len(owner.received()) == got
                owner.tell(gsock, EV_RESUME_RX())
                before = sent
                await wait_for(lambda got=got: len(owner.received()) > got)
                owner.tell(gsock, EV_PAUSE_RX())
                data_so_far = owner.received()
                assert data_so_far == data[: len(data_so_far)]
                assert sent == before
            owner.tell(gsock, EV_RESUME_RX())
            await peer.send(data[sent:])
            peer.end()
            await wait_for(owner.ended)
            assert owner.received() == data

    run_async(work)


def test_ev_pause_rx_inside_ev_connected_and_inside_ev_rx_data(run_async: RunAsync) -> None:
    async def work() -> None:
        async with gaplic() as app:
            owner = make_owner(app)
            for kind in (EV_CONNECTED, EV_RX_DATA):
                owner.reactions[kind] = lambda event: owner.tell(event.source, EV_PAUSE_RX())
            with listener() as listening:
                gsock = client_of(owner, listening)
                owner.tell(gsock, EV_CONNECT())
                with await accept(listening) as peer:
                    await peer.send(bytes(200_000))
                    await wait_for(lambda: owner.heard)
                    await turns(20)
                    assert owner.kinds() == ["EV_CONNECTED"]
                    owner.tell(gsock, EV_RESUME_RX())
                    owner.tell(gsock, EV_RESUME_RX())
                    await wait_for(owner.received)
                    await turns(20)
                    assert len(owner.of(EV_RX_DATA)) == 1
                    assert not owner.inside

    run_async(work)


# -- big transfers ---------------------------------------------------------------------------------


async def slow_reader(peer: Peer, step: int) -> str:
    """The hash of all that comes, read in little steps."""
    found = hashlib.blake2b()
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(peer.sock, step):
        found.update(data)
    return found.hexdigest()


def test_100_mb_through_a_slow_pipe(run_async: RunAsync) -> None:
    """Sends and gathered writes mixed, small buffers, a reader that takes little steps."""
    size = 100 * 1_000_000
    dice = random.Random(3)
    block = dice.randbytes(1_000_000)

    async def work() -> None:
        async with pair(rcvbuf=50_000, tx_high_water=1_000_000, tx_low_water=200_000) as both:
            _, owner, gsock, peer = both
            assert gsock._sock is not None
            set_buffers(gsock._sock, 0, 50_000)
            expected = hashlib.blake2b()
            sent = 0

            def pump(_event: object = None) -> None:
                nonlocal sent
                while sent < size and gsock.queued < 1_000_000:
                    begin = dice.randrange(900_000)
                    data = block[
                        begin : begin + min(dice.choice([1, 50, 5000, 99_000]), size - sent)
                    ]
                    sent += len(data)
                    expected.update(data)
                    match dice.randrange(4):
                        case 0:
                            owner.tell(gsock, EV_WRITE_OUTPUT_DATA(data))
                        case 1:
                            owner.tell(gsock, EV_WRITE_OUTPUT_DATA(data))
                            owner.tell(gsock, EV_FLUSH_OUTPUT_DATA())
                        case 2:
                            owner.tell(gsock, EV_SEND_DATA(bytearray(data)))
                        case 3:
                            owner.tell(gsock, EV_SEND_DATA(data))
                if sent == size:
                    owner.tell(gsock, EV_DROP())
                else:
                    owner.tell(gsock, EV_FLUSH_OUTPUT_DATA())

            owner.reactions[EV_TRANSMIT_READY] = pump
            reader = asyncio.create_task(slow_reader(peer, 16_384))
            pump()
            assert await reader == expected.hexdigest()
            peer.close()
            await wait_for(owner.ended)
            assert owner.reason() == "local"

    run_async(work, timeout=60)


@each_poller
@each_role
def test_20_mb_in_both_directions_at_once(run_async: RunAsync, role: str, poller: str) -> None:
    data = random.Random(4).randbytes(1_000_000) * 20

    async def work() -> None:
        async with pair(role, poller, tx_max=1 << 30) as (_, owner, gsock, peer):
            owner.tell(gsock, EV_SEND_DATA(data))
            got, _ = await asyncio.gather(peer.read(len(data)), peer.send(data))
            assert got == data
            peer.end()
            await wait_for(owner.ended)
            assert owner.received() == data
            assert owner.reason() == "peer"

    run_async(work)


class CountingSocket(socket.socket):
    """Counts its system calls that send."""

    calls: list[str]

    def send(self, *args: Any) -> int:
        self.calls.append("send")
        return super().send(*args)

    def sendmsg(self, *args: Any) -> int:
        self.calls.append("sendmsg")
        return super().sendmsg(*args)


def count_calls(gsock: GSock) -> list[str]:
    """Put a counting socket on the same descriptor into the gsock."""
    assert gsock._sock is not None
    counting = CountingSocket(fileno=gsock._sock.detach())
    counting.calls = []
    gsock._sock = gsock._stream = counting
    return counting.calls


@each_role
def test_ev_flush_output_data_is_one_gathered_system_call(run_async: RunAsync, role: str) -> None:
    async def work() -> None:
        async with pair(role) as (_, owner, gsock, peer):
            calls = count_calls(gsock)
            pieces = [bytes([n]) * (n * 37) for n in range(200)]
            for piece in pieces:
                assert owner.tell(gsock, EV_WRITE_OUTPUT_DATA(piece)) is True
            await turns()
            assert calls == []
            assert owner.tell(gsock, EV_FLUSH_OUTPUT_DATA()) is True
            assert calls == ["sendmsg"]
            data = b"".join(pieces)
            assert await peer.read(len(data)) == data
            # Nothing queued: no call.
            owner.tell(gsock, EV_FLUSH_OUTPUT_DATA())
            assert calls == ["sendmsg"]
            # Order is kept, and a send takes what was written before with it.
            owner.tell(gsock, EV_WRITE_OUTPUT_DATA(b"one "))
            owner.tell(gsock, EV_SEND_DATA(b"two "))
            assert calls == ["sendmsg"] * 2
            owner.tell(gsock, EV_SEND_DATA(b"three"))
            assert calls == ["sendmsg", "sendmsg", "send"]
            assert await peer.read(13) == b"one two three"

    run_async(work)


# -- EV_DROP ---------------------------------------------------------------------------------------


@each_poller
@each_role
def test_ev_drop_flushes_and_then_closes(run_async: RunAsync, role: str, poller: str) -> None:
    data = random.Random(5).randbytes(6_000_000)

    async def work() -> None:
        async with pair(role, poller) as (_, owner, gsock, peer):
            owner.tell(gsock, EV_SEND_DATA(data))
            owner.tell(gsock, EV_WRITE_OUTPUT_DATA(b"the end"))
            owner.tell(gsock, EV_DROP())
            assert gsock.state == "ST_CLOSING"
            assert owner.tell(gsock, EV_SEND_DATA(b"too late")) is NOT_ACCEPTED
            assert await peer.read_to_end() == (data + b"the end", "end")
            peer.close()
            await wait_for(owner.ended)
            assert owner.reason() == "local"

    run_async(work)


@each_role
def test_ev_drop_without_output_closes_at_once(run_async: RunAsync, role: str) -> None:
    async def work() -> None:
        async with pair(role) as (_, owner, gsock, peer):
            owner.tell(gsock, EV_DROP())
            assert gsock.state == "ST_DISCONNECTED"
            assert not owner.ended()
            assert await peer.read_to_end() == (b"", "end")
            await wait_for(owner.ended)
            assert owner.reason() == "local"

    run_async(work)


@each_poller
@each_role
def test_ev_drop_is_bounded_by_close_timeout(run_async: RunAsync, role: str, poller: str) -> None:
    async def work() -> None:
        async with pair(role, poller, rcvbuf=4096, close_timeout=0.3) as (_, owner, gsock, peer):
            owner.tell(gsock, EV_SEND_DATA(bytes(9_000_000)))
            begin = time.monotonic()
            owner.tell(gsock, EV_DROP())
            await wait_for(owner.ended)
            assert 0.25 < time.monotonic() - begin < 1.5
            assert owner.reason() == "timeout"
            # Output was lost, and the peer must not take what it got for everything.
            data, how = await peer.read_to_end()
            assert how == "reset"
            assert len(data) < 9_000_000

    run_async(work)


@each_role
def test_a_peer_that_took_everything_but_stays_is_left_after_close_timeout(
    run_async: RunAsync, role: str
) -> None:
    """What it was sent has arrived, so the reason is that of the drop."""

    async def work() -> None:
        async with pair(role, close_timeout=0.2) as (_, owner, gsock, peer):
            await peer.send(bytes(200_000))
            owner.reactions[EV_RX_DATA] = lambda _: owner.tell(gsock, EV_DROP())
            assert await peer.read_to_end() == (b"", "end")
            await wait_for(owner.ended)
            assert owner.reason() == "local"
            assert len(owner.of(EV_RX_DATA)) == 1

    run_async(work)


@each_poller
@each_role
def test_ev_drop_with_abort_closes_at_once(run_async: RunAsync, role: str, poller: str) -> None:
    async def work() -> None:
        async with pair(role, poller) as (_, owner, gsock, peer):
            owner.tell(gsock, EV_SEND_DATA(bytes(9_000_000)))
            owner.tell(gsock, EV_DROP())
            assert gsock.state == "ST_CLOSING"
            owner.tell(gsock, EV_DROP(abort=True))
            assert gsock.state == "ST_DISCONNECTED"
            assert not owner.ended()
            _, how = await peer.read_to_end()
            assert how == "reset"
            await wait_for(owner.ended)
            assert owner.reason() == "local"

    run_async(work)


@each_poller
@pytest.mark.parametrize("ending", ["end", "reset"])
def test_a_dropped_peer_that_has_closed_with_input_still_to_read_is_told_as_it_ended(
    run_async: RunAsync, poller: str, ending: str
) -> None:
    """The look whether it has acknowledged all comes when there is no connection any more."""

    async def work() -> None:
        clock = ManualClock()
        app = GAplic("app", {"app": {"poller": poller}}, clock=clock)
        with listener() as listening:
            async with app:
                owner = make_owner(app)
                gsock = client_of(owner, listening)
                owner.tell(gsock, EV_CONNECT())
                with await accept(listening) as peer:
                    await wait_for(lambda: owner.of(EV_CONNECTED))
                    owner.tell(gsock, EV_PAUSE_RX())
                    await peer.send(bytes(100_000))
                    owner.tell(gsock, EV_SEND_DATA(b"bye"))
                    owner.tell(gsock, EV_DROP())
                    assert gsock.state == "ST_CLOSING"
                    # No turn of the loop from here on: what comes now is not read before the look.
                    peer.sock.settimeout(DEADLINE)
                    assert peer.sock.recv(100) == b"bye"
                    if ending == "end":
                        peer.close()
                    else:
                        peer.reset()
                    clock.advance(LINGER_CHECK)
                    await wait_for(owner.ended)
                    assert owner.reason() == ("local" if ending == "end" else "reset")

    run_async(work)


@each_poller
@each_role
def test_dropping_a_peer_that_is_still_sending_loses_none_of_our_last_bytes(
    run_async: RunAsync, role: str, poller: str
) -> None:
    """The answer to the beginning of a large upload, then the drop."""
    answer = random.Random(6).randbytes(500_000)

    async def work() -> None:
        async with pair(role, poller, rcvbuf=8192) as (_, owner, gsock, peer):

            def refuse(event: EV_RX_DATA) -> None:
                owner.tell(gsock, EV_SEND_DATA(answer))
                owner.tell(gsock, EV_DROP())

            owner.reactions[EV_RX_DATA] = refuse
            # It looks at the answer only when all is sent.
            await peer.send(bytes(10_000_000))
            assert await peer.read_to_end() == (answer, "end")
            peer.close()
            await wait_for(owner.ended)
            assert len(owner.of(EV_RX_DATA)) == 1
            assert owner.reason() == "local"

    run_async(work)


@each_poller
@each_role
def test_what_the_peer_sends_after_the_drop_loses_none_of_our_last_bytes(
    run_async: RunAsync, role: str, poller: str
) -> None:
    """The peer is quiet at the drop, and our kernel still holds most of what we sent."""

    async def work() -> None:
        async with pair(role, poller, rcvbuf=4096) as (_, owner, gsock, peer):
            owner.tell(gsock, EV_SEND_DATA(bytes(300_000)))
            assert gsock.queued == 0
            owner.tell(gsock, EV_DROP())
            await turns()
            await peer.send(b"a late word")
            data, how = await peer.read_to_end()
            assert (len(data), how) == (300_000, "end")
            peer.close()
            await wait_for(owner.ended)
            assert owner.reason() == "local"
            assert not owner.received()

    run_async(work)


@each_role
def test_ev_drop_twice_and_after_the_end(run_async: RunAsync, role: str) -> None:
    async def work() -> None:
        async with pair(role) as (app, owner, gsock, peer):
            owner.tell(gsock, EV_SEND_DATA(bytes(6_000_000)))
            for _ in range(3):
                owner.tell(gsock, EV_DROP())
            data, how = await peer.read_to_end()
            assert (len(data), how) == (6_000_000, "end")
            peer.close()
            await wait_for(owner.ended)
            owner.tell(gsock, EV_DROP())
            owner.tell(gsock, EV_DROP(abort=True))
            await turns()
            assert owner.reason() == "local"
            assert app.refused_events == 0

    run_async(work)


@each_role
@pytest.mark.parametrize("abort", [False, True])
def test_ev_drop_inside_ev_connected(run_async: RunAsync, role: str, abort: bool) -> None:
    async def work() -> None:
        async with gaplic() as app:
            owner = make_owner(app)

            def drop(event: EV_CONNECTED) -> None:
                owner.tell(event.source, EV_SEND_DATA(b"go away"))
                owner.tell(event.source, EV_DROP(abort))

            owner.reactions[EV_CONNECTED] = drop
            with ExitStack() as stack:
                if role == "client":
                    listening = stack.enter_context(listener())
                    owner.tell(client_of(owner, listening), EV_CONNECT())
                    peer = stack.enter_context(await accept(listening))
                else:
                    (peer,) = stack.enter_context(clients_of(serve(app, owner), 1))
                assert await peer.read_to_end() == (b"go away", "end")
                peer.close()
                await wait_for(owner.ended)
                assert owner.kinds() == ["EV_CONNECTED", "EV_DISCONNECTED"]
                assert owner.reason() == "local"
                assert not owner.inside

    run_async(work)


@each_poller
@each_role
@pytest.mark.parametrize("abort", [False, True])
def test_no_ev_rx_data_after_ev_drop_inside_ev_rx_data(
    run_async: RunAsync, role: str, poller: str, abort: bool
) -> None:
    async def work() -> None:
        async with pair(role, poller) as (_, owner, gsock, peer):
            owner.reactions[EV_RX_DATA] = lambda _: owner.tell(gsock, EV_DROP(abort))
            peer.send_now(bytes(1_000_000))
            peer.end()
            await wait_for(owner.ended)
            await turns()
            assert len(owner.of(EV_RX_DATA)) == 1
            assert owner.reason() == "local"

    run_async(work)


@each_role
def test_dropping_a_peer_that_has_reset_is_no_error(run_async: RunAsync, role: str) -> None:
    """The kernel still holds input, the send tells of the reset, and the drop comes after it."""

    async def work() -> None:
        async with pair(role) as (_, owner, gsock, peer):

            def answer(_event: EV_RX_DATA) -> None:
                owner.tell(gsock, EV_SEND_DATA(b"answer"))
                owner.tell(gsock, EV_DROP())

            owner.reactions[EV_RX_DATA] = answer
            assert peer.send_now(bytes(1_000_000)) > 100_000
            peer.reset()
            await wait_for(owner.ended)
            assert len(owner.of(EV_RX_DATA)) == 1
            assert owner.reason() == "reset"

    run_async(work)


# -- half-close ------------------------------------------------------------------------------------


@each_poller
@each_role
def test_when_the_peer_ends_its_side_what_is_queued_is_still_flushed(
    run_async: RunAsync, role: str, poller: str
) -> None:
    answer = random.Random(7).randbytes(6_000_000)

    async def work() -> None:
        async with pair(role, poller) as (_, owner, gsock, peer):

            def respond(_event: EV_RX_DATA) -> None:
                owner.tell(gsock, EV_SEND_DATA(answer))
                owner.tell(gsock, EV_WRITE_OUTPUT_DATA(b"the end"))

            owner.reactions[EV_RX_DATA] = respond
            peer.send_now(b"question")
            peer.end()
            await wait_for(lambda: gsock.state == "ST_CLOSING")
            assert await peer.read_to_end() == (answer + b"the end", "end")
            await wait_for(owner.ended)
            assert owner.kinds() == ["EV_CONNECTED", "EV_RX_DATA", "EV_DISCONNECTED"]
            assert owner.reason() == "peer"

    run_async(work)


def test_a_peer_that_ended_its_side_and_reads_nothing_is_left_after_close_timeout(
    run_async: RunAsync,
) -> None:
    async def work() -> None:
        async with pair(rcvbuf=4096, close_timeout=0.2) as (_, owner, gsock, peer):
            owner.tell(gsock, EV_SEND_DATA(bytes(9_000_000)))
            peer.end()
            await wait_for(owner.ended)
            assert owner.reason() == "timeout"
            _, how = await peer.read_to_end()
            assert how == "reset"

    run_async(work)


@each_poller
@each_role
def test_half_close_says_ev_rx_end_and_stays_open_for_sending(
    run_async: RunAsync, role: str, poller: str
) -> None:
    data = random.Random(8).randbytes(6_000_000)

    async def work() -> None:
        async with pair(role, poller, half_close=True) as (_, owner, gsock, peer):
            peer.send_now(b"all I have")
            peer.end()
            await wait_for(lambda: owner.of(EV_RX_END))
            await turns()
            assert owner.kinds() == ["EV_CONNECTED", "EV_RX_DATA", "EV_RX_END"]
            assert len(owner.of(EV_RX_END)) == 1
            assert gsock.state == "ST_CONNECTED"
            owner.tell(gsock, EV_PAUSE_RX())
            owner.tell(gsock, EV_RESUME_RX())
            owner.tell(gsock, EV_SEND_DATA(data))
            got = await peer.read(len(data))
            assert got == data
            await turns()
            assert not owner.ended()
            owner.tell(gsock, EV_SEND_DATA(b"bye"))
            owner.tell(gsock, EV_DROP())
            assert await peer.read_to_end() == (b"bye", "end")
            await wait_for(owner.ended)
            assert owner.reason() == "local"
            assert len(owner.of(EV_RX_END)) == 1

    run_async(work)


@each_poller
def test_half_close_and_then_the_peer_is_gone(run_async: RunAsync, poller: str) -> None:
    async def work() -> None:
        async with pair("accepted", poller, half_close=True) as (_, owner, gsock, peer):
            peer.end()
            await wait_for(lambda: owner.of(EV_RX_END))
            peer.reset()
            await turns()
            for _ in range(3):
                owner.tell(gsock, EV_SEND_DATA(b"hello?"))
                await turns()
            await wait_for(owner.ended)
            assert owner.reason() == "reset"

    run_async(work)


def test_half_close_where_nobody_asks_for_ev_rx_end_ends_the_connection(
    run_async: RunAsync,
) -> None:
    class Deaf(GObj):
        def ac_end(self, event: EV_DISCONNECTED) -> None:
            self.reason = event.reason

        reason = ""
        machine = {"ST_IDLE": [on(EV_CONNECTED, None), on(EV_DISCONNECTED, ac_end)]}

    async def work() -> None:
        async with gaplic() as app:
            deaf = app.create_gobj("deaf", Deaf, app)
            with listener() as listening:
                host, port = listening.getsockname()
                gsock = deaf.create_gobj("c", GSock, deaf, host=host, port=port, half_close=True)
                deaf.send_event(gsock, EV_CONNECT())
                with await accept(listening) as peer:
                    peer.end()
                    await wait_for(lambda: deaf.reason)
                    assert deaf.reason == "peer"

    run_async(work)


# -- payloads --------------------------------------------------------------------------------------


PAYLOADS: list[tuple[str, Callable[[], Any], bytes]] = [
    ("bytes", lambda: b"abc", b"abc"),
    ("empty", lambda: b"", b""),
    ("empty view", lambda: memoryview(b""), b""),
    ("empty array", lambda: array.array("I"), b""),
    ("bytearray", lambda: bytearray(b"abc"), b"abc"),
    ("view", lambda: memoryview(b"abc")[1:], b"bc"),
    ("view of numbers", lambda: memoryview(array.array("I", [1, 2, 3])),
     array.array("I", [1, 2, 3]).tobytes()),
    ("array", lambda: array.array("d", [1.5] * 9), array.array("d", [1.5] * 9).tobytes()),
    ("read-only view of numbers", lambda: memoryview(b"abcdefgh").cast("I"), b"abcdefgh"),
    ("every second byte", lambda: memoryview(b"abcdef")[::2], b"ace"),
    ("two dimensions", lambda: memoryview(b"abcdef").cast("B", (2, 3)), b"abcdef"),
]  # fmt: skip


@pytest.mark.parametrize("queued", [False, True])
@pytest.mark.parametrize("event", [EV_SEND_DATA, EV_WRITE_OUTPUT_DATA])
@pytest.mark.parametrize(
    ("given", "expected"), [p[1:] for p in PAYLOADS], ids=[p[0] for p in PAYLOADS]
)
def test_payloads(
    run_async: RunAsync,
    event: Any,
    given: Callable[[], Any],
    expected: bytes,
    queued: bool,
) -> None:
    async def work() -> None:
        async with pair() as (_, owner, gsock, peer):
            before = b""
            if queued:
                before = bytes(6_000_000)
                owner.tell(gsock, EV_SEND_DATA(before))
                assert gsock.queued
            assert owner.tell(gsock, event(given())) is True
            owner.tell(gsock, EV_SEND_DATA(b"|"))
            data = await peer.read(len(before) + len(expected) + 1)
            assert data[len(before) :] == expected + b"|"

    run_async(work)


@pytest.mark.parametrize("event", [EV_SEND_DATA, EV_WRITE_OUTPUT_DATA])
@pytest.mark.parametrize("queued", [False, True])
@pytest.mark.parametrize("view", [False, True, "readonly"])
def test_a_buffer_changed_after_the_send_does_not_change_what_is_sent(
    run_async: RunAsync, event: Any, queued: bool, view: bool | str
) -> None:
    async def work() -> None:
        async with pair() as (_, owner, gsock, peer):
            if queued:
                owner.tell(gsock, EV_SEND_DATA(bytes(6_000_000)))
            buffer = bytearray(b"x" * 6_000_000)
            given: Any = memoryview(buffer) if view else buffer
            if view == "readonly":
                given = given.toreadonly()
            owner.tell(gsock, event(given))
            if view:
                given.release()
            buffer[:] = b"y" * len(buffer)
            # It is the owner's again: it may grow, which an exported buffer may not.
            buffer.append(0)
            owner.tell(gsock, EV_DROP())
            data, how = await peer.read_to_end()
            assert how == "end"
            assert data == bytes(6_000_000 * queued) + b"x" * 6_000_000

    run_async(work)


def test_a_view_of_a_large_buffer_does_not_keep_it(run_async: RunAsync) -> None:
    async def work() -> None:
        async with pair(rcvbuf=4096) as (_, owner, gsock, _peer):
            fill_the_kernel(owner, gsock)
            tracemalloc.start()
            try:
                for _ in range(50):
                    owner.tell(gsock, EV_SEND_DATA(memoryview(bytes(1_000_000))[:2000]))
                assert gsock.queued > 90_000
                assert tracemalloc.get_traced_memory()[0] < 1_000_000
            finally:
                tracemalloc.stop()

    run_async(work)


@pytest.mark.parametrize("queued", [False, True])
@pytest.mark.parametrize("event", ["EV_SEND_DATA", "EV_WRITE_OUTPUT_DATA"])
@pytest.mark.parametrize("wrong", ["text", 5, None, [1, 2]], ids=repr)
def test_what_is_no_bytes_is_one_clear_error_and_the_connection_lives_on(
    run_async: RunAsync, event: str, wrong: Any, queued: bool
) -> None:
    async def work() -> None:
        async with pair() as (_, owner, gsock, peer):
            count = 0
            if queued:
                owner.tell(gsock, EV_WRITE_OUTPUT_DATA(b"queued"))
                count = 6
            with pytest.raises(
                EventError, match=f"expected bytes to send, got {type(wrong).__name__}"
            ):
                owner.send_event(gsock, event, data=wrong)
            owner.tell(gsock, EV_SEND_DATA(b"hello"))
            assert (await peer.read(count + 5))[count:] == b"hello"
            await peer.send(b"world")
            await wait_for(lambda: owner.received() == b"world")

    run_async(work)


def test_the_error_for_text_says_what_to_do(run_async: RunAsync) -> None:
    async def work() -> None:
        async with pair() as (_, owner, gsock, _peer):
            with pytest.raises(EventError, match="encode the text first"):
                owner.send_event(gsock, "EV_SEND_DATA", data="text")

    run_async(work)


# -- actions that raise ----------------------------------------------------------------------------


@each_poller
@pytest.mark.parametrize(
    "kind", [EV_CONNECTED, EV_RX_DATA, EV_RX_END, EV_TRANSMIT_READY, EV_DISCONNECTED]
)
def test_an_action_that_raises_ends_that_connection_and_no_other(
    run_async: RunAsync,
    poller: str,
    kind: type,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def work() -> None:
        async with gaplic(poller) as app:
            owner = make_owner(app)
            server = serve(app, owner, half_close=True, tx_high_water=1000, tx_low_water=1000)
            with clients_of(server, 2) as (good, bad):
                await_bad = bad.sock.getsockname()

                def fails(event: Any) -> None:
                    if event.source.peername == await_bad:
                        raise RuntimeError("of the test")

                def fill(event: Any) -> None:
                    if event.source.peername == await_bad:
                        owner.tell(event.source, EV_SEND_DATA(bytes(6_000_000)))

                if kind is EV_TRANSMIT_READY:
                    owner.reactions[EV_RX_DATA] = fill
                owner.reactions[kind] = fails
                bad.send_now(b"x")
                if kind is EV_DISCONNECTED:
                    await wait_for(lambda: len(owner.of(EV_CONNECTED)) == 2)
                    bad.reset()
                elif kind is EV_RX_END:
                    bad.end()
                elif kind is EV_TRANSMIT_READY:
                    await bad.read(5_000_000)
                await wait_for(owner.ended)
                await turns()
                bad_one = owner.of(EV_DISCONNECTED)[0].source
                assert bad_one.peername == await_bad
                # After the end there is nothing left to drop.
                expected = "reset" if kind is EV_DISCONNECTED else "error"
                assert owner.reason() == expected
                assert owner.of(kind, bad_one)[-1] is not None
                assert app.contained_errors == 1
                assert server.config.n_gsocks == 1
                await good.send(b"still there?")
                await wait_for(lambda: b"still there?" in owner.received())
                assert not owner.inside

    run_async(work)
    assert "RuntimeError: of the test" in caplog.text
    caplog.clear()


# -- subscribers -----------------------------------------------------------------------------------


def test_a_gsock_whose_ev_disconnected_nobody_asks_for_destroys_itself(run_async: RunAsync) -> None:
    class Careless(GObj):
        def ac_keep(self, event: EV_CONNECTED | EV_RX_DATA) -> None:
            self.gsock = event.source

        gsock: Any = None
        machine = {"ST_IDLE": [on(EV_CONNECTED, ac_keep), on(EV_RX_DATA, ac_keep)]}

    async def work() -> None:
        async with gaplic() as app:
            careless = app.create_gobj("careless", Careless, app)
            server = app.create_gobj(
                "server", GServerSock, app, host="127.0.0.1", subscriber=careless
            )
            for ending in ("end", "reset", "drop", "abort", "overflow"):
                with socket.create_connection(("127.0.0.1", server.config.port), 5) as sock:
                    peer = Peer(sock)
                    careless.gsock = None
                    await wait_for(lambda: careless.gsock)
                    gsock = careless.gsock
                    match ending:
                        case "end":
                            peer.end()
                        case "reset":
                            peer.reset()
                        case "drop":
                            careless.send_event(gsock, EV_DROP())
                            assert not gsock.destroyed
                        case "abort":
                            careless.send_event(gsock, EV_DROP(abort=True))
                            assert not gsock.destroyed
                        case "overflow":
                            while gsock.state == "ST_CONNECTED":
                                careless.send_event(gsock, EV_SEND_DATA(bytes(5_000_000)))
                            assert not gsock.destroyed
                    await wait_for(lambda gsock=gsock: gsock.destroyed)
                    assert not careless.children
                    assert server.config.n_gsocks == 0

    run_async(work)


def test_such_a_gsock_stays_where_it_was_told_to_connect_again(run_async: RunAsync) -> None:
    class Careless(GObj):
        machine = {"ST_IDLE": [on(EV_CONNECTED, None)]}

    async def work() -> None:
        async with gaplic() as app:
            careless = app.create_gobj("careless", Careless, app)
            with listener() as listening:
                host, port = listening.getsockname()
                gsock = careless.create_gobj("c", GSock, careless, host=host, port=port)
                careless.send_event(gsock, EV_CONNECT())
                with await accept(listening):
                    await wait_for(lambda: gsock.state == "ST_CONNECTED")
                    careless.send_event(gsock, EV_DROP(abort=True))
                    careless.send_event(gsock, EV_CONNECT())
                with await accept(listening):
                    await wait_for(lambda: gsock.state == "ST_CONNECTED")
                    careless.send_event(gsock, EV_DROP(abort=True))
                    await wait_for(lambda: gsock.destroyed)

    run_async(work)


@each_poller
def test_several_subscribers_all_hear_it_in_order(run_async: RunAsync, poller: str) -> None:
    async def work() -> None:
        async with pair(poller=poller) as (app, owner, gsock, peer):
            second = make_owner(app, "second")
            third = make_owner(app, "third")
            gsock.subscribe_event(None, second)
            gsock.subscribe_event(EV_DISCONNECTED, third)

            def fails(_event: EV_RX_DATA) -> None:
                raise RuntimeError("of the test")

            await peer.send(b"one")
            await wait_for(second.received)
            # The first one's exception does not rob the others of what comes.
            owner.reactions[EV_RX_DATA] = fails
            await peer.send(b"two")
            await wait_for(third.ended)
            assert owner.received() == second.received() == b"onetwo"
            assert third.kinds() == ["EV_DISCONNECTED"]
            assert owner.reason() == second.reason() == third.reason() == "error"
            assert app.contained_errors == 1

    run_async(work)


def test_a_subscriber_may_destroy_the_gsock_while_others_still_hear(run_async: RunAsync) -> None:
    async def work() -> None:
        async with pair() as (app, owner, gsock, peer):
            second = make_owner(app, "second")
            gsock.subscribe_event(None, second)
            owner.reactions[EV_RX_DATA] = lambda event: owner.destroy_gobj(event.source)
            await peer.send(b"x")
            await wait_for(second.received)
            await turns()
            assert not owner.ended()
            assert not second.ended()

    run_async(work)


def test_the_parameter_subscriber(run_async: RunAsync) -> None:
    async def work() -> None:
        async with gaplic() as app:
            owner, parent = make_owner(app), make_owner(app, "parent")
            with listener() as listening:
                host, port = listening.getsockname()
                gsock = parent.create_gobj(
                    "c", GSock, parent, host=host, port=port, subscriber=owner
                )
                parent.send_event(gsock, EV_CONNECT())
                with await accept(listening) as peer:
                    peer.send_now(b"x")
                    await wait_for(owner.received)
                    assert not parent.heard
                    # When the subscriber goes, so does its interest; the gsock then has nobody.
                    app.destroy_gobj(owner)
                    peer.end()
                    await wait_for(lambda: gsock.destroyed)

    run_async(work)


# -- real programs ---------------------------------------------------------------------------------


async def run_program(*command: str, stdin: bytes = b"") -> bytes:
    """What a program writes, while the loop goes on."""
    done = await asyncio.to_thread(
        subprocess.run, command, input=stdin, capture_output=True, timeout=20
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.peer
@pytest.mark.parametrize(
    ("program", "options"), [("socat", ["-t", "10", "-", "TCP:{}"]), ("nc", ["-N", "{}"])]
)
@pytest.mark.parametrize("half_close", [False, True])
def test_an_echo_to_a_program_that_ends_its_side_is_complete(
    run_async: RunAsync,
    require_program: Callable[[str], str],
    program: str,
    options: list[str],
    half_close: bool,
) -> None:
    command = require_program(program)
    data = random.Random(9).randbytes(5_000_000)

    async def work() -> None:
        async with gaplic() as app:
            owner = make_owner(app)
            server = serve(app, owner, half_close=half_close)
            owner.reactions[EV_RX_DATA] = lambda event: owner.tell(
                event.source, EV_SEND_DATA(event.data)
            )
            owner.reactions[EV_RX_END] = lambda event: owner.tell(event.source, EV_DROP())
            words = [
                word
                for option in options
                for word in (
                    ["127.0.0.1", str(server.config.port)]
                    if option == "{}"
                    else [option.format(f"127.0.0.1:{server.config.port}")]
                )
            ]
            assert await run_program(command, *words, stdin=data) == data
            await wait_for(owner.ended)
            assert owner.reason() == ("local" if half_close else "peer")
            assert bool(owner.of(EV_RX_END)) is half_close
            assert owner.received() == data
            assert not owner.inside

    run_async(work)


@pytest.mark.peer
def test_30_mb_to_a_program_and_then_the_drop(
    run_async: RunAsync, require_program: Callable[[str], str]
) -> None:
    socat = require_program("socat")
    data = random.Random(10).randbytes(1_000_000) * 30

    async def work() -> None:
        async with gaplic() as app:
            owner = make_owner(app)
            server = serve(app, owner)

            def give(event: EV_CONNECTED) -> None:
                owner.tell(event.source, EV_SEND_DATA(data))
                owner.tell(event.source, EV_DROP())

            owner.reactions[EV_CONNECTED] = give
            got = await run_program(socat, "-u", f"TCP:127.0.0.1:{server.config.port}", "-")
            assert got == data
            await wait_for(owner.ended)
            assert owner.reason() == "local"

    run_async(work)


# -- the rest --------------------------------------------------------------------------------------


def test_the_end_of_the_gaplic_closes_everything(run_async: RunAsync) -> None:
    async def work() -> None:
        peers: list[Peer] = []
        async with gaplic() as app:
            owner = make_owner(app)
            server = serve(app, owner)
            with listener() as listening, full_listener() as silent:
                owner.tell(client_of(owner, listening), EV_CONNECT())
                owner.tell(client_of(owner, silent, "waiting"), EV_CONNECT())
                peers.append(await accept(listening))
                peers.append(Peer(socket.create_connection(("127.0.0.1", server.config.port), 5)))
                await wait_for(lambda: len(owner.of(EV_CONNECTED)) == 2)
        for peer in peers:
            with peer:
                assert await peer.read_to_end() == (b"", "end")
        assert owner.kinds() == ["EV_CONNECTED"]

    run_async(work)


def test_an_observed_connection_behaves_alike(run_async: RunAsync) -> None:
    """Inspection takes the slow ways of the core."""

    async def work() -> None:
        async with pair() as (app, owner, gsock, peer):
            seen: list[object] = []
            app.observe(seen.append)
            await peer.send(b"hello")
            await wait_for(owner.received)
            owner.tell(gsock, EV_SEND_DATA(b"world"))
            assert await peer.read(5) == b"world"
            peer.end()
            await wait_for(owner.ended)
            assert owner.received() == b"hello"
            assert owner.reason() == "peer"
            assert seen

    run_async(work)


def test_reasons_are_words() -> None:
    assert [reason.value for reason in Reason] == [
        "peer", "local", "reset", "timeout", "idle", "tls", "tls_truncated", "tx_overflow",
        "frame", "drained", "error",
    ]  # fmt: skip


# -- what the owner cannot know yet ----------------------------------------------------------------


@pytest.mark.parametrize(
    "event",
    [
        EV_SEND_DATA(b"x"),
        EV_WRITE_OUTPUT_DATA(b"x"),
        EV_FLUSH_OUTPUT_DATA(),
        EV_PAUSE_RX(),
        EV_RESUME_RX(),
        EV_SEND_FRAME(b"x"),
        EV_START_TLS(),
    ],
    ids=lambda event: type(event).__name__,
)
@pytest.mark.parametrize("ending", ["closing", "ended in this turn"])
def test_what_the_owner_says_before_it_can_know_of_the_end_is_no_mistake(
    run_async: RunAsync, ending: str, event: Event
) -> None:
    async def work() -> None:
        async with pair(rcvbuf=4096) as (app, owner, gsock, _peer):
            if ending == "closing":
                owner.tell(gsock, EV_SEND_DATA(bytes(3_000_000)))
                owner.tell(gsock, EV_DROP())
                assert gsock.state == "ST_CLOSING"
            else:
                owner.tell(gsock, EV_DROP(abort=True))
                assert gsock.state == "ST_DISCONNECTED"
            assert owner.tell(gsock, event) is NOT_ACCEPTED
            assert app.refused_events == 0
            owner.tell(gsock, EV_DROP(abort=True))
            await wait_for(owner.ended)
            # From now on it knows.
            assert owner.tell(gsock, event) is NOT_ACCEPTED
            assert app.refused_events == 1

    run_async(work)


def test_a_dropped_peer_that_has_it_all_and_stays_open_keeps_the_connection_no_longer(
    run_async: RunAsync,
) -> None:
    """Not until close_timeout, which is 10 s, although nobody tells when the last byte arrived."""

    async def work() -> None:
        async with pair(rcvbuf=4096) as (_, owner, gsock, peer):
            owner.tell(gsock, EV_SEND_DATA(bytes(300_000)))
            owner.tell(gsock, EV_DROP())
            assert await peer.read_to_end() == (bytes(300_000), "end")
            before = time.monotonic()
            await wait_for(owner.ended)
            assert owner.reason() == "local"
            assert time.monotonic() - before < 5

    run_async(work)


def test_the_low_water_mark_is_not_above_the_high_one(run_async: RunAsync) -> None:
    async def work() -> None:
        async with gaplic() as app:
            owner = make_owner(app)
            with pytest.raises(GConfigError, match="tx_low_water: expected at most tx_high_water"):
                owner.create_gobj("gsock", GSock, owner, tx_low_water=10, tx_high_water=9)
            assert not owner.children

    run_async(work)


# -- what fails where nobody thinks of it ----------------------------------------------------------


@each_poller
@pytest.mark.parametrize("role", ["client", "accepted"])
def test_who_paused_until_ev_transmit_ready_hears_of_a_peer_that_reset(
    run_async: RunAsync, role: str, poller: str
) -> None:
    async def work() -> None:
        async with pair(role, poller, rcvbuf=4096) as (_, owner, gsock, peer):
            owner.reactions[EV_TRANSMIT_READY] = lambda _: owner.tell(gsock, EV_RESUME_RX())
            owner.tell(gsock, EV_SEND_DATA(bytes(7_000_000)))
            owner.tell(gsock, EV_PAUSE_RX())
            await turns()
            peer.reset()
            await wait_for(owner.ended)
            assert owner.kinds() == ["EV_CONNECTED", "EV_TRANSMIT_READY", "EV_DISCONNECTED"]
            assert owner.reason() == "reset"

    run_async(work)


@each_poller
def test_a_client_that_the_poller_cannot_watch_has_not_connected(
    run_async: RunAsync, poller: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What epoll_ctl says past fs.epoll.max_user_watches.
    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def work() -> None:
        async with gaplic(poller) as app:
            owner = make_owner(app)
            with listener() as listening:
                gsock = client_of(owner, listening)
                with monkeypatch.context() as patched:
                    patched.setattr(app.poller, "register", fail)
                    owner.tell(gsock, EV_CONNECT())
                    await wait_for(lambda: owner.heard)
                (await accept(listening)).close()
                assert [event.reason for event in owner.of(EV_CONNECT_FAILED)] == ["error"]
                owner.tell(gsock, EV_CONNECT())
                with await accept(listening):
                    await wait_for(lambda: owner.of(EV_CONNECTED))
            assert owner.kinds() == ["EV_CONNECT_FAILED", "EV_CONNECTED"]
            assert app.contained_errors == 0

    run_async(work)


@each_poller
def test_a_process_without_descriptors_tells_its_first_client(
    run_async: RunAsync, poller: str
) -> None:
    async def work() -> None:
        async with gaplic(poller) as app:
            owner = make_owner(app)
            with listener() as listening:
                gsock = client_of(owner, listening)
                with no_descriptors_left():
                    owner.tell(gsock, EV_CONNECT())
                    await wait_for(lambda: owner.heard)
                assert [event.reason for event in owner.of(EV_CONNECT_FAILED)] == ["error"]
                owner.tell(gsock, EV_CONNECT())
                with await accept(listening):
                    await wait_for(lambda: owner.of(EV_CONNECTED))
            assert app.contained_errors == 0

    run_async(work)


@contextmanager
def no_descriptors_left() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as taken:
        # The limit counts numbers: fill the gaps below it, too.
        last = taken.enter_context(socket.socket()).fileno()
        resource.setrlimit(resource.RLIMIT_NOFILE, (last + 1, before[1]))
        try:
            with suppress(OSError):
                while True:
                    taken.enter_context(socket.socket())
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
