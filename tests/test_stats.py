"""What connections, servers and gaplics count: exactly, whatever way a connection ends."""

import asyncio
import errno
import os
import socket
import time
from typing import Any

import pytest

from conftest import RunAsync
from ginsfsm import Event, GAplic, GObj, on
from ginsfsm.c_sock import (
    EV_CONNECT,
    EV_CONNECTED,
    EV_DISCONNECTED,
    EV_DROP,
    EV_FLUSH_OUTPUT_DATA,
    EV_RX_DATA,
    EV_RX_FRAME,
    EV_SEND_DATA,
    EV_SEND_FRAME,
    EV_START_TLS,
    EV_TLS_STARTED,
    EV_WRITE_OUTPUT_DATA,
)
from ginsfsm.c_srv_sock import GServerSock
from ginsfsm.stats import ServerStats, SockStats
from secure import client_context, server_options
from servers import Keeper, connect, read, serve, until, write
from sockets import POLLERS, accept, client_of, gaplic, listener, make_owner, pair, wait_for


class Echo(GObj):
    """Sends everything back."""

    def ac_echo(self, event: EV_RX_DATA) -> None:
        self.send_event(event.source, EV_SEND_DATA(event.data))

    def ac_frame(self, event: EV_RX_FRAME) -> None:
        self.send_event(event.source, EV_SEND_FRAME(event.data))

    def ac_gone(self, event: EV_DISCONNECTED) -> None:
        self.destroy_gobj(event.source)

    machine = {
        "ST_IDLE": [
            on(EV_CONNECTED, None),
            on(EV_RX_DATA, ac_echo),
            on(EV_RX_FRAME, ac_frame),
            on(EV_DISCONNECTED, ac_gone),
        ],
    }


def echo_server(app: GAplic, **parameters: Any) -> GServerSock:
    return serve(app.create_gobj("echo", Echo, app), **parameters)


@pytest.mark.parametrize("poller", POLLERS)
def test_a_server_counts_those_that_are_open_and_those_that_have_closed(
    run_async: RunAsync, poller: str
) -> None:
    async def main() -> None:
        async with gaplic(poller) as app:
            server = echo_server(app)
            assert server.stats() == ServerStats()
            with connect(server) as one, connect(server) as two:
                for round_ in range(1, 4):
                    await write(one, b"x" * 1000)
                    assert len(await read(one, 1000)) == 1000
                    told = server.stats()
                    assert (told.rx_bytes, told.tx_bytes) == (1000 * round_, 1000 * round_)
                    assert (told.rx_messages, told.tx_messages) == (round_, round_)
                await write(two, b"12345")
                await read(two, 5)
                before = server.stats()
                assert (before.accepted, before.open, before.closed) == (2, 2, 0)
                one.close()
                await until(lambda: server.config.n_gsocks == 1)
                assert server.stats() == ServerStats(
                    rx_bytes=3005, tx_bytes=3005, rx_messages=4, tx_messages=4,
                    accepted=2, open=1, closed=1,
                )  # fmt: skip

    run_async(main)


def test_a_gsock_counts_what_it_carried_and_the_server_the_same_after_its_end(
    run_async: RunAsync,
) -> None:
    async def main() -> None:
        async with gaplic() as app:
            keeper = app.create_gobj("keeper", Keeper, app)
            server = serve(keeper)
            with connect(server) as client:
                await write(client, b"12345")
                await until(lambda: keeper.of(EV_RX_DATA))
                (gsock,) = keeper.gsocks
                keeper.send_event(gsock, EV_SEND_DATA(b"abc"))
                keeper.send_event(gsock, EV_WRITE_OUTPUT_DATA(b"de"))
                assert gsock.stats() == SockStats(
                    rx_bytes=5, tx_bytes=3, rx_messages=1, tx_messages=2, queued_bytes=2
                )
                assert server.stats().queued_bytes == 2
                keeper.send_event(gsock, EV_FLUSH_OUTPUT_DATA())
                assert await read(client, 5) == b"abcde"
                assert gsock.stats().tx_bytes == 5
                keeper.send_event(gsock, EV_DROP(abort=True))
                assert server.config.n_gsocks == 0
                told = server.stats()
                assert (told.rx_bytes, told.tx_bytes, told.queued_bytes) == (5, 5, 0)
                assert (told.rx_messages, told.tx_messages) == (1, 2)

    run_async(main)


def test_what_waits_for_several_peers_adds_up(run_async: RunAsync) -> None:
    async def main() -> None:
        async with gaplic() as app:
            keeper = app.create_gobj("keeper", Keeper, app)
            server = serve(keeper)
            with connect(server), connect(server):
                await until(lambda: len(keeper.gsocks) == 2)
                size = 16 * 1024 * 1024
                for gsock in keeper.gsocks:
                    app.send_event(gsock, EV_SEND_DATA(b"x" * size))
                first, second = (gsock.stats() for gsock in keeper.gsocks)
                told = server.stats()
                assert min(first.queued_bytes, second.queued_bytes) > 0
                assert told.queued_bytes == first.queued_bytes + second.queued_bytes
                assert told.tx_bytes + told.queued_bytes == 2 * size

    run_async(main)


@pytest.mark.parametrize("role", ["client", "accepted"])
def test_what_a_slow_peer_does_not_take_is_not_counted_as_sent(
    run_async: RunAsync, role: str
) -> None:
    async def main() -> None:
        async with pair(role, rcvbuf=4096) as (_, owner, gsock, peer):
            size = 8 * 1024 * 1024
            owner.tell(gsock, EV_SEND_DATA(b"x" * size))
            told = gsock.stats()
            assert told.queued_bytes > 0
            assert told.tx_bytes + told.queued_bytes == size
            assert told.tx_messages == 1
            await peer.read(size)
            assert gsock.stats() == SockStats(tx_bytes=size, tx_messages=1)

    run_async(main)


def test_a_clients_gsock_counts_over_all_of_its_connections(run_async: RunAsync) -> None:
    async def main() -> None:
        async with gaplic() as app:
            owner = make_owner(app)
            with listener() as listening:
                gsock = client_of(owner, listening)
                for number in range(1, 4):
                    owner.tell(gsock, EV_CONNECT())
                    with await accept(listening) as peer:
                        await wait_for(lambda: gsock.state == "ST_CONNECTED")
                        owner.tell(gsock, EV_SEND_DATA(b"hello"))
                        await peer.read(5)
                        await peer.send(b"hi")
                        await wait_for(lambda number=number: gsock.rx_bytes == 2 * number)
                    await wait_for(lambda: gsock.state == "ST_DISCONNECTED")
                    assert gsock.stats() == SockStats(
                        rx_bytes=2 * number, tx_bytes=5 * number,
                        rx_messages=number, tx_messages=number,
                    )  # fmt: skip

    run_async(main)


def test_with_a_framing_a_message_is_a_frame(run_async: RunAsync) -> None:
    async def main() -> None:
        async with gaplic() as app:
            server = echo_server(app, framing="lines")
            with connect(server) as client:
                await write(client, b"one\ntwo\nthree\nfo")
                assert await read(client, 14) == b"one\ntwo\nthree\n"
                assert server.stats() == ServerStats(
                    rx_bytes=16, tx_bytes=14, rx_messages=3, tx_messages=3, accepted=1, open=1
                )

    run_async(main)


def test_who_is_turned_away_is_counted_by_the_reason(run_async: RunAsync) -> None:
    async def main() -> None:
        async with gaplic() as app:
            server = echo_server(app, max_connections=1, overflow="reject")
            with connect(server):
                await until(lambda: server.config.n_gsocks == 1)
                with connect(server), connect(server):
                    await until(lambda: server.stats().refused == {"full": 2})
                server.write_parameters(deny=("127.0.0.0/8",), max_connections=0)
                with connect(server):
                    await until(lambda: server.stats().refused_in_all == 3)
                told = server.stats()
                assert told.refused == {"full": 2, "denied": 1}
                assert (told.accepted, told.open) == (1, 1)

    run_async(main)


def test_what_was_told_does_not_change_afterwards(run_async: RunAsync) -> None:
    async def main() -> None:
        async with gaplic() as app:
            server = echo_server(app, deny=("127.0.0.1",))
            with connect(server):
                await until(lambda: server.stats().refused_in_all)
            told = server.stats()
            told.refused["denied"] = 0
            assert server.stats().refused == {"denied": 1}

    run_async(main)


def test_handshakes_are_counted_done_and_failed(run_async: RunAsync) -> None:
    async def main() -> None:
        async with gaplic() as app:
            server = echo_server(app, ssl_options=server_options())
            context = client_context()
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", server.config.port, ssl=context, server_hostname="localhost"
            )
            writer.write(b"x" * 100_000)
            assert len(await reader.readexactly(100_000)) == 100_000
            with connect(server) as scanner:
                await write(scanner, b"GET / HTTP/1.0\r\n\r\n")
                await until(lambda: server.stats().failed_handshakes == 1)
            told = server.stats()
            assert (told.accepted, told.handshakes, told.failed_handshakes) == (2, 1, 1)
            # Plain bytes, and not those of TLS.
            assert (told.rx_bytes, told.tx_bytes) == (100_000, 100_000)
            writer.close()
            await until(lambda: server.config.n_gsocks == 0)
            assert server.stats().rx_bytes == 100_000

    run_async(main)


class Full:
    """A listening socket that has no descriptor left for the next connections."""

    def __init__(self, sock: socket.socket, *errors: int) -> None:
        self._sock = sock
        self.errors = list(errors)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def _accept(self) -> Any:
        if self.errors:
            error = self.errors.pop(0)
            raise OSError(error, os.strerror(error))
        return self._sock._accept()  # type: ignore[attr-defined]


def test_failed_accepts_are_counted_by_their_names(run_async: RunAsync) -> None:
    async def main() -> None:
        async with gaplic() as app:
            server = echo_server(app)
            (one,) = server._listeners
            # The system cannot be made to fail in this way when a test wants it.
            one.sock = Full(one.sock, errno.ECONNABORTED, errno.EMFILE, 99_999)  # type: ignore[assignment]
            with connect(server):
                await until(lambda: server.config.n_gsocks == 1)
            told = server.stats()
            assert told.accept_errors == {"ECONNABORTED": 1, "EMFILE": 1, "OTHER": 1}
            assert told.accepted == 1

    run_async(main)


class EV_ASK(Event):
    """Do it."""


class EV_NEVER(Event):
    """Accepted in another state only."""


class Worker(GObj):
    def ac_work(self, _event: EV_ASK) -> None:
        # A fault of the program: this is what holds up everybody else.
        time.sleep(0.05)

    def ac_fail(self, _event: EV_NEVER) -> None:
        raise ValueError("on purpose")

    machine = {
        "ST_IDLE": [on(EV_ASK, ac_work, "ST_OTHER")],
        "ST_OTHER": [on(EV_NEVER, ac_fail)],
    }


def test_a_gaplic_tells_its_queue_its_refusals_and_its_longest_turn(run_async: RunAsync) -> None:
    async def main() -> None:
        async with gaplic() as app:
            begin = app.stats()
            assert (begin.gobjs, begin.processes, begin.posted_events) == (1, 1, 0)
            worker = app.create_gobj("worker", Worker, app)
            app.send_event(worker, EV_NEVER())
            assert app.stats().refused_events == 1
            worker.post_event(worker, EV_ASK())
            worker.post_event(worker, EV_NEVER())
            assert app.stats().posted_events == 2
            assert app.stats().longest_turn_seconds < 0.05
            await until(lambda: not app.stats().posted_events)
            told = app.stats()
            assert 0.05 <= told.longest_turn_seconds < 5
            assert told.contained_errors == 1
            worker.post_event(worker, EV_NEVER())
            app.destroy_gobj(worker)
            await until(lambda: app.stats().dropped_posts == 1)
            assert app.stats().gobjs == 1

    run_async(main)


@pytest.mark.parametrize("poller", POLLERS)
def test_a_turn_that_a_connection_holds_up_is_measured(run_async: RunAsync, poller: str) -> None:
    async def main() -> None:
        async with pair("accepted", poller) as (app, owner, _, peer):
            app.measure_turns()
            owner.reactions[EV_RX_DATA] = lambda _: time.sleep(0.05)
            await peer.send(b"x")
            await wait_for(lambda: owner.of(EV_RX_DATA))
            assert 0.05 <= app.stats().longest_turn_seconds < 5

    run_async(main)


def test_a_turn_that_the_end_of_a_coroutine_causes_is_measured(run_async: RunAsync) -> None:
    class EV_SLEPT(Event):
        result: Any
        error: BaseException | None

    class Sleeper(GObj):
        async def nothing(self) -> None:
            await asyncio.sleep(0)

        def start_up(self) -> None:
            self.spawn(self.nothing(), done=EV_SLEPT)

        def ac_sleep(self, event: EV_SLEPT) -> None:
            time.sleep(0.05)

        machine = {"ST_IDLE": [on(EV_SLEPT, ac_sleep, "ST_SLEPT")], "ST_SLEPT": []}

    async def main() -> None:
        async with gaplic() as app:
            app.measure_turns()
            sleeper = app.create_gobj("sleeper", Sleeper, app)
            await until(lambda: sleeper.state == "ST_SLEPT")
            assert 0.05 <= app.stats().longest_turn_seconds < 5

    run_async(main)


def test_nobody_pays_for_turns_that_nobody_asks_for(run_async: RunAsync) -> None:
    async def main() -> None:
        async with pair("accepted") as (app, owner, _, peer):
            await peer.send(b"x")
            await wait_for(lambda: owner.of(EV_RX_DATA))
            assert app.poller.longest_turn is None
            assert "_run_batch" not in vars(app.poller)

    run_async(main)


class Upgrading(Echo):
    """Answers a line in plain, then begins TLS."""

    def ac_line(self, event: EV_RX_DATA) -> None:
        # A large answer, so that some of it still waits when TLS is asked for.
        self.send_event(event.source, EV_SEND_DATA(b"y" * ANSWER))
        self.send_event(event.source, EV_START_TLS())

    machine = {
        "ST_IDLE": [
            on(EV_CONNECTED, None),
            on(EV_RX_DATA, ac_line),
            on(EV_TLS_STARTED, None),
            on(EV_DISCONNECTED, Echo.ac_gone),
        ],
    }


ANSWER = 4 * 1024 * 1024


@pytest.mark.parametrize("ending", ["done", "failed"])
def test_what_left_in_plain_before_an_upgrade_is_counted(run_async: RunAsync, ending: str) -> None:
    async def main() -> None:
        async with gaplic() as app:
            owner = app.create_gobj("owner", Upgrading, app)
            server = serve(owner, ssl_options=server_options(), start_tls=True)
            reader, writer = await asyncio.open_connection("127.0.0.1", server.config.port)
            writer.write(b"hello\n")
            await until(lambda: server.stats().tx_messages == 1)
            (gsock,) = server.ledger
            assert gsock.state == "ST_HANDSHAKE"
            for told in (server.stats(), gsock.stats()):
                assert 0 < told.tx_bytes < ANSWER
                assert told.tx_bytes + told.queued_bytes == ANSWER
            assert len(await reader.readexactly(ANSWER)) == ANSWER
            if ending == "done":
                await writer.start_tls(client_context(), server_hostname="localhost")
                await until(lambda: server.stats().handshakes == 1)
            else:
                writer.write(b"this is no ClientHello\r\n")
                await until(lambda: server.config.n_gsocks == 0)
            assert server.stats().tx_bytes == ANSWER
            writer.close()
            await until(lambda: server.config.n_gsocks == 0)
            assert server.stats().tx_bytes == ANSWER

    run_async(main)
