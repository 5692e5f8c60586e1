"""EV_PAUSE_ACCEPT, EV_RESUME_ACCEPT and EV_DRAIN, on real sockets and on both loops."""

import errno
import logging
import math
import os
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from conftest import RunAsync
from ginsfsm import Event, EventError, GAplic, GObj, on
from ginsfsm.c_sock import (
    EV_CONNECTED,
    EV_DISCONNECTED,
    EV_DROP,
    EV_RX_DATA,
    EV_SEND_DATA,
)
from ginsfsm.c_srv_sock import (
    EV_DRAIN,
    EV_DRAINED,
    EV_DRAINING,
    EV_PAUSE_ACCEPT,
    EV_REFUSED,
    EV_RESUME_ACCEPT,
    GServerSock,
)
from secure import dial, server_options
from servers import DEADLINE, Keeper, connect, needs_proc, read_to_end, until, write
from sockets import RESET, turns

HERE = Path(__file__).resolve()


class Drainer(Keeper):
    """Hears of the drain as well, and does then what the test says."""

    def start_up(self) -> None:
        super().start_up()
        self.on_draining: Any = lambda: None
        self.on_connected: Any = lambda: None

    def ac_connected(self, event: EV_CONNECTED) -> None:
        self.heard.append(event)
        self.on_connected()

    def ac_draining(self, event: EV_DRAINING) -> None:
        self.heard.append(event)
        self.on_draining()

    @property
    def kinds(self) -> list[str]:
        return [type(event).__name__ for event in self.heard]

    machine = {
        "ST_IDLE": [
            on(EV_CONNECTED, ac_connected),
            on(EV_RX_DATA, Keeper.ac_keep),
            on(EV_DISCONNECTED, Keeper.ac_gone),
            on(EV_DRAINING, ac_draining),
            on(EV_DRAINED, Keeper.ac_keep),
            on(EV_REFUSED, Keeper.ac_keep),
        ],
    }


class Session(GObj):
    """Says good-bye when the server drains; what it hears stands in the list of its parent."""

    def start_up(self) -> None:
        self.gsock: GObj | None = None

    def note(self, event: Event) -> None:
        self.parent.heard.append(event)

    def ac_connected(self, event: EV_CONNECTED) -> None:
        self.note(event)
        self.gsock = event.source

    def ac_draining(self, event: EV_DRAINING) -> None:
        self.note(event)
        assert self.gsock is not None
        self.send_event(self.gsock, EV_SEND_DATA(b"bye"))
        self.send_event(self.gsock, EV_DROP())

    machine = {
        "ST_IDLE": [
            on(EV_CONNECTED, ac_connected),
            on(EV_RX_DATA, note),
            on(EV_DRAINING, ac_draining),
            on(EV_DISCONNECTED, note),
        ],
    }


class AbruptSession(Session):
    """Aborts its connection when the server drains."""

    def ac_abort(self, event: EV_DRAINING) -> None:
        self.note(event)
        assert self.gsock is not None
        self.send_event(self.gsock, EV_DROP(abort=True))

    machine = {
        "ST_IDLE": [
            on(EV_CONNECTED, Session.ac_connected),
            on(EV_DRAINING, ac_abort),
            on(EV_DISCONNECTED, Session.note),
        ],
    }


class Deaf(GObj):
    """Has a row for what comes, and for nothing else."""

    machine = {"ST_IDLE": [on(EV_RX_DATA, None)]}


@pytest.fixture
def app() -> GAplic:
    return GAplic("app")


def start(app: GAplic, **parameters: Any) -> tuple[Drainer, GServerSock]:
    drainer = app.create_gobj("drainer", Drainer, app)
    server = app.create_gobj(
        "server", GServerSock, app, **{"host": "127.0.0.1", "subscriber": drainer, **parameters}
    )
    return drainer, server


def reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    client.close()


class Exhausted:
    """A listening socket that runs into these errors first."""

    def __init__(self, sock: Any, *errors: int) -> None:
        self.sock = sock
        self.errors = list(errors)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sock, name)

    def _accept(self) -> Any:
        if self.errors:
            number = self.errors.pop(0)
            if number:
                raise OSError(number, "made up")
        return self.sock._accept()


def exhaust(server: GServerSock, *errors: int) -> Exhausted:
    (listener,) = server._listeners
    listener.sock = exhausted = Exhausted(listener.sock, *errors)  # type: ignore[assignment]
    return exhausted


class TestPausing:
    def test_who_comes_in_a_pause_waits_and_is_served_afterwards(
        self, app: GAplic, run_async: RunAsync, opened: ExitStack
    ) -> None:
        drainer, server = start(app)

        async def main() -> None:
            async with app:
                app.send_event(server, EV_PAUSE_ACCEPT())
                app.send_event(server, EV_PAUSE_ACCEPT())
                assert server.state == "ST_PAUSED"
                clients = [opened.enter_context(connect(server)) for _ in range(5)]
                for number, client in enumerate(clients):
                    await write(client, b"%d" % number)
                await turns(50)
                assert drainer.heard == []
                assert len(app.poller) == 0
                app.send_event(server, EV_RESUME_ACCEPT())
                await until(lambda: len(drainer.of(EV_RX_DATA)) == 5)
                assert sorted(one.data for one in drainer.of(EV_RX_DATA)) == [
                    b"0", b"1", b"2", b"3", b"4",
                ]  # fmt: skip
                app.send_event(server, EV_RESUME_ACCEPT())
                assert server.state == "ST_LISTENING"

        run_async(main)

    @pytest.mark.parametrize("hosts", [("127.0.0.1",), ("127.0.0.1", "127.0.0.2", "127.0.0.3")])
    def test_by_whoever_hears_of_one_it_keeps_out_the_next_of_the_same_turn(
        self,
        hosts: tuple[str, ...],
        app: GAplic,
        run_async: RunAsync,
        opened: ExitStack,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        drainer, server = start(app, hosts=hosts)
        drainer.on_connected = lambda: app.send_event(server, EV_PAUSE_ACCEPT())

        async def main() -> None:
            async with app:
                for number in range(3):
                    host = hosts[number % len(hosts)]
                    opened.enter_context(connect(server, host=host))
                for came in 1, 2, 3:
                    await until(lambda came=came: len(drainer.gsocks) == came)  # type: ignore[misc]
                    await turns()
                    assert len(drainer.gsocks) == came
                    assert server.state == "ST_PAUSED"
                    app.send_event(server, EV_RESUME_ACCEPT())

        run_async(main)
        assert not [one for one in caplog.records if one.levelno >= logging.WARNING]

    def test_those_who_are_there_go_on_in_a_pause(
        self, app: GAplic, run_async: RunAsync, opened: ExitStack
    ) -> None:
        drainer, server = start(app)

        async def main() -> None:
            async with app:
                client = opened.enter_context(connect(server))
                await until(lambda: drainer.gsocks)
                app.send_event(server, EV_PAUSE_ACCEPT())
                await write(client, b"ping")
                await until(lambda: drainer.of(EV_RX_DATA))
                client.close()
                await until(lambda: drainer.of(EV_DISCONNECTED))
                # A connection that closed makes room, which is no reason to go on.
                assert server.state == "ST_PAUSED"
                assert server.config.n_gsocks == 0

        run_async(main)

    def test_a_pause_where_there_is_no_room(
        self, app: GAplic, run_async: RunAsync, opened: ExitStack
    ) -> None:
        drainer, server = start(app)
        exhaust(server, errno.EMFILE)

        async def main() -> None:
            async with app:
                opened.enter_context(connect(server))
                await until(lambda: server.state == "ST_NO_ROOM")
                app.send_event(server, EV_PAUSE_ACCEPT())
                begin = time.monotonic()
                # Past the time at which it would have tried again.
                await until(lambda: time.monotonic() > begin + 0.15)
                assert server.state == "ST_PAUSED"
                app.send_event(server, EV_RESUME_ACCEPT())
                await until(lambda: drainer.gsocks)

        run_async(main)

    def test_pause_and_resume_where_it_is_full(
        self, app: GAplic, run_async: RunAsync, opened: ExitStack
    ) -> None:
        drainer, server = start(app, max_connections=1)

        async def main() -> None:
            async with app:
                first = opened.enter_context(connect(server))
                second = opened.enter_context(connect(server))
                await write(second, b"second")
                await until(lambda: server.state == "ST_FULL")
                app.send_event(server, EV_RESUME_ACCEPT())
                assert server.state == "ST_FULL"
                app.send_event(server, EV_PAUSE_ACCEPT())
                app.send_event(server, EV_RESUME_ACCEPT())
                await until(lambda: server.state == "ST_FULL")
                assert len(drainer.gsocks) == 1
                first.close()
                await until(lambda: drainer.of(EV_RX_DATA))
                assert server.config.n_gsocks == 1

        run_async(main)


async def in_state(
    name: str, app: GAplic, server: GServerSock, drainer: Drainer, opened: ExitStack
) -> int:
    """Bring the server there; how many of its clients wait in the queue then."""
    if name == "ST_PAUSED":
        app.send_event(server, EV_PAUSE_ACCEPT())
        opened.enter_context(connect(server))
    elif name == "ST_NO_ROOM":
        exhaust(server, errno.EMFILE)
        opened.enter_context(connect(server))
    elif name in ("ST_FULL", "ST_THROTTLED"):
        opened.enter_context(connect(server))
        opened.enter_context(connect(server))
    await until(lambda: server.state == name)
    return 0 if name == "ST_LISTENING" else 1


STATES = {
    "ST_LISTENING": {},
    "ST_PAUSED": {},
    "ST_NO_ROOM": {},
    "ST_FULL": {"max_connections": 1},
    "ST_THROTTLED": {"accept_rate": 0.001, "accept_burst": 1},
}

NO_TIMES: list[Any] = [math.nan, -1, "x", None, True, 10**400]


class TestDraining:
    @pytest.mark.parametrize("state", STATES)
    def test_in_every_state(
        self, state: str, app: GAplic, run_async: RunAsync, opened: ExitStack
    ) -> None:
        drainer, server = start(app, **STATES[state])
        port = server.config.port

        async def main() -> None:
            async with app:
                waiting = await in_state(state, app, server, drainer, opened)
                before = len(drainer.gsocks)
                app.send_event(server, EV_DRAIN())
                # Everything that the listener had was settled in that one call, and it is closed.
                assert server.addresses == ()
                with pytest.raises(ConnectionRefusedError):
                    socket.create_connection(("127.0.0.1", port))
                ledger = server.ledger
                assert ledger.accepted - before + ledger.refused == waiting
                assert drainer.of(EV_DRAINING)[0].source is server
                for gsock in drainer.gsocks:
                    drainer.send_event(gsock, EV_DROP(abort=True))
                await until(lambda: drainer.of(EV_DRAINED))
                assert drainer.kinds[-1] == "EV_DRAINED"
                assert [one.remaining for one in drainer.of(EV_DRAINED)] == [0]
                assert len(drainer.of(EV_DRAINING)) == 1
                assert server.state == "ST_CLOSED"
                assert drainer.gsocks == []
                assert len(app.poller) == 0

        run_async(main)

    @pytest.mark.parametrize("state", [*STATES, "ST_DRAINING", "ST_CLOSED"])
    @pytest.mark.parametrize(
        "timeout", NO_TIMES, ids=["nan", "negative", "text", "None", "bool", "endless int"]
    )
    def test_what_is_no_time_changes_nothing(
        self, timeout: Any, state: str, app: GAplic, run_async: RunAsync, opened: ExitStack
    ) -> None:
        drainer, server = start(app, **STATES.get(state, {}))

        async def main() -> None:
            async with app:
                if state in STATES:
                    await in_state(state, app, server, drainer, opened)
                else:
                    client = opened.enter_context(connect(server))
                    await until(lambda: drainer.gsocks)
                    app.send_event(server, EV_DRAIN())
                    if state == "ST_CLOSED":
                        client.close()
                        await until(lambda: server.state == "ST_CLOSED")
                heard, addresses, room = len(drainer.heard), server.addresses, server._room
                with pytest.raises(EventError) as caught:
                    app.send_event(server, EV_DRAIN(timeout))
                assert str(caught.value) == (
                    "app/server: EV_DRAIN: expected timeout to be a number of seconds, 0 or more, "
                    f"got {timeout!r}; 0 aborts the connections at once"
                )
                assert server.state == state
                assert (len(drainer.heard), server.addresses) == (heard, addresses)
                assert server._room is room
                # Timers go on.
                fired: list[bool] = []
                app.call_later(app, 0.001, lambda: fired.append(True))
                await until(lambda: fired)
                # And a right one is taken as if there had been no other.
                app.send_event(server, EV_DRAIN(0))
                await until(lambda: server.state == "ST_CLOSED")

        run_async(main)

    def test_without_an_end_it_waits_for_the_last(
        self, app: GAplic, run_async: RunAsync, opened: ExitStack
    ) -> None:
        drainer, server = start(app)

        async def main() -> None:
            async with app:
                client = opened.enter_context(connect(server))
                await until(lambda: drainer.gsocks)
                app.send_event(server, EV_DRAIN(math.inf))
                await turns()
                assert server.state == "ST_DRAINING"
                client.close()
                await until(lambda: drainer.of(EV_DRAINED))
                assert drainer.of(EV_DRAINED)[0].remaining == 0

        run_async(main)

    def test_nobody_is_there(self, app: GAplic, run_async: RunAsync) -> None:
        drainer, server = start(app)

        async def main() -> None:
            async with app:
                app.send_event(server, EV_DRAIN())
                # Told later, so that whoever asked has its send_event behind it.
                assert drainer.kinds == ["EV_DRAINING"]
                await until(lambda: drainer.of(EV_DRAINED))
                assert drainer.of(EV_DRAINED)[0].remaining == 0
                for event in (EV_DRAIN(), EV_PAUSE_ACCEPT(), EV_RESUME_ACCEPT()):
                    app.send_event(server, event)
                await turns()
                assert drainer.kinds == ["EV_DRAINING", "EV_DRAINED"]
                assert server.state == "ST_CLOSED"

        run_async(main)

    def test_the_end_comes_when_the_last_has_gone(
        self, app: GAplic, run_async: RunAsync, opened: ExitStack
    ) -> None:
        drainer, server = start(app)

        async def main() -> None:
            async with app:
                clients = [opened.enter_context(connect(server)) for _ in range(3)]
                await until(lambda: len(drainer.gsocks) == 3)
                app.send_event(server, EV_DRAIN())
                for left in (2, 1):
                    clients.pop().close()
                    await until(lambda left=left: len(drainer.gsocks) == left)
                    await turns()
                    assert not drainer.of(EV_DRAINED)
                # Who stays is served as before.
                await write(clients[0], b"one more thing")
                await until(lambda: drainer.of(EV_RX_DATA))
                clients.pop().close()
                await until(lambda: drainer.of(EV_DRAINED))
                # The last word of all: behind the end of the last connection.
                assert drainer.kinds[-2:] == ["EV_DISCONNECTED", "EV_DRAINED"]
                assert drainer.of(EV_DRAINED)[0].remaining == 0

        run_async(main)

    def test_the_deadline_aborts_exactly_those_that_are_left(
        self, app: GAplic, run_async: RunAsync, opened: ExitStack
    ) -> None:
        drainer, server = start(app)

        async def main() -> None:
            async with app:
                clients = [opened.enter_context(connect(server)) for _ in range(5)]
                await until(lambda: len(drainer.gsocks) == 5)
                begin = time.monotonic()
                app.send_event(server, EV_DRAIN(timeout=0.2))
                clients.pop().close()
                clients.pop().close()
                await until(lambda: drainer.of(EV_DRAINED))
                assert 0.19 < time.monotonic() - begin < 2
                assert [one.remaining for one in drainer.of(EV_DRAINED)] == [3]
                reasons = [one.reason for one in drainer.of(EV_DISCONNECTED)]
                assert reasons == ["peer", "peer", "drained", "drained", "drained"]
                assert drainer.kinds[-1] == "EV_DRAINED"
                assert server.config.n_gsocks == 0
                for client in clients:
                    assert await read_to_end(client) == b""

        run_async(main)

    def test_without_time_all_are_aborted_at_once(
        self, app: GAplic, run_async: RunAsync, opened: ExitStack
    ) -> None:
        drainer, server = start(app)

        async def main() -> None:
            async with app:
                for _ in range(3):
                    opened.enter_context(connect(server))
                await until(lambda: len(drainer.gsocks) == 3)
                app.send_event(server, EV_DRAIN(timeout=0))
                assert server.state == "ST_CLOSED"
                assert server.config.n_gsocks == 0
                await until(lambda: drainer.of(EV_DRAINED))
                assert drainer.kinds[3:] == [
                    "EV_DRAINING", *["EV_DISCONNECTED"] * 3, "EV_DRAINED",
                ]  # fmt: skip
                assert drainer.of(EV_DRAINED)[0].remaining == 3

        run_async(main)

    @pytest.mark.parametrize("again", [0, 0.1])
    def test_a_second_one_changes_the_deadline(
        self, again: float, app: GAplic, run_async: RunAsync, opened: ExitStack
    ) -> None:
        drainer, server = start(app)

        async def main() -> None:
            async with app:
                opened.enter_context(connect(server))
                await until(lambda: drainer.gsocks)
                app.send_event(server, EV_DRAIN())
                app.send_event(server, EV_DRAIN(timeout=again))
                await until(lambda: drainer.of(EV_DRAINED))
                assert len(drainer.of(EV_DRAINING)) == 1
                assert [one.remaining for one in drainer.of(EV_DRAINED)] == [1]

        run_async(main)

    def test_a_second_one_may_give_more_time(
        self, app: GAplic, run_async: RunAsync, opened: ExitStack
    ) -> None:
        drainer, server = start(app)

        async def main() -> None:
            async with app:
                client = opened.enter_context(connect(server))
                await until(lambda: drainer.gsocks)
                app.send_event(server, EV_DRAIN(timeout=0.05))
                app.send_event(server, EV_DRAIN(timeout=30))
                # Set after the first deadline, so it fires behind that.
                fired: list[bool] = []
                app.call_later(app, 0.06, lambda: fired.append(True))
                await until(lambda: fired)
                assert server.state == "ST_DRAINING"
                client.close()
                await until(lambda: drainer.of(EV_DRAINED))
                assert drainer.of(EV_DRAINED)[0].remaining == 0

        run_async(main)

    @pytest.mark.parametrize("first", [30.0, 0])
    @pytest.mark.parametrize("again", [0, 0.05])
    def test_a_second_one_comes_of_one_in_the_queue(
        self,
        first: float,
        again: float,
        app: GAplic,
        run_async: RunAsync,
        opened: ExitStack,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """An owner who stops after so many clients asks while the drain accepts the last."""
        drainer, server = start(app)

        async def main() -> None:
            async with app:
                drainer.on_connected = lambda: app.send_event(server, EV_DRAIN(timeout=again))
                for _ in range(3):
                    opened.enter_context(connect(server))
                app.send_event(server, EV_DRAIN(timeout=first))
                await until(lambda: drainer.of(EV_DRAINED))
                await turns()
                assert drainer.kinds == [
                    *["EV_CONNECTED"] * 3, "EV_DRAINING", *["EV_DISCONNECTED"] * 3, "EV_DRAINED",
                ]  # fmt: skip
                assert [one.remaining for one in drainer.of(EV_DRAINED)] == [3]
                assert server.stats().accept_errors == {}

        run_async(main)
        assert not [one for one in caplog.records if one.levelno >= logging.WARNING]

    @pytest.mark.parametrize("again", [0, 0.05])
    def test_a_second_one_comes_of_the_news(
        self, again: float, app: GAplic, run_async: RunAsync, opened: ExitStack
    ) -> None:
        drainer, server = start(app)

        async def main() -> None:
            async with app:
                opened.enter_context(connect(server))
                await until(lambda: drainer.gsocks)
                drainer.on_draining = lambda: app.send_event(server, EV_DRAIN(timeout=again))
                app.send_event(server, EV_DRAIN())
                await until(lambda: drainer.of(EV_DRAINED))
                assert [one.remaining for one in drainer.of(EV_DRAINED)] == [1]

        run_async(main)

    def test_those_in_the_queue_are_dropped_one_by_one(
        self, app: GAplic, run_async: RunAsync, opened: ExitStack
    ) -> None:
        """Between two of them none is open, and that is not the end."""
        drainer, server = start(app)

        def drop() -> None:
            for gsock in drainer.gsocks:
                drainer.send_event(gsock, EV_DROP(abort=True))

        async def main() -> None:
            async with app:
                drainer.on_connected = drop
                for _ in range(3):
                    opened.enter_context(connect(server))
                app.send_event(server, EV_DRAIN())
                await until(lambda: drainer.of(EV_DRAINED))
                assert drainer.kinds == [
                    *["EV_CONNECTED"] * 3, "EV_DRAINING", *["EV_DISCONNECTED"] * 3, "EV_DRAINED",
                ]  # fmt: skip
                assert [one.remaining for one in drainer.of(EV_DRAINED)] == [0]

        run_async(main)

    def test_whoever_waits_in_the_queue_is_still_served(
        self, app: GAplic, run_async: RunAsync, opened: ExitStack
    ) -> None:
        drainer, server = start(app)

        async def main() -> None:
            async with app:
                clients = [opened.enter_context(connect(server)) for _ in range(100)]
                for client in clients:
                    assert client.send(b"hello") == 5
                # The loop has not turned: they are in the kernel's queue, all of them.
                app.send_event(server, EV_DRAIN())
                await until(lambda: len(drainer.of(EV_RX_DATA)) == 100)
                for event in drainer.of(EV_RX_DATA):
                    drainer.send_event(event.source, EV_SEND_DATA(b"served"))
                    drainer.send_event(event.source, EV_DROP())
                for client in clients:
                    assert await read_to_end(client) == b"served"
                    client.close()
                await until(lambda: drainer.of(EV_DRAINED))
                assert drainer.of(EV_DRAINED)[0].remaining == 0
                assert server.ledger.accepted == 100

        run_async(main)

    def test_a_queue_that_is_full_is_served_as_a_whole(
        self, app: GAplic, run_async: RunAsync, opened: ExitStack
    ) -> None:
        drainer, server = start(app, backlog=1)

        async def main() -> None:
            async with app:
                # Linux keeps one more than it was told.
                for _ in range(2):
                    opened.enter_context(connect(server))
                app.send_event(server, EV_DRAIN())
                assert len(drainer.gsocks) == 2

        run_async(main)

    @pytest.mark.parametrize("number", [errno.ECONNABORTED, errno.EPROTO, errno.EINTR])
    def test_one_that_failed_in_the_queue_takes_no_other_along(
        self, number: int, app: GAplic, run_async: RunAsync, opened: ExitStack
    ) -> None:
        drainer, server = start(app)

        async def main() -> None:
            async with app:
                exhaust(server, 0, number, 0, number)
                for _ in range(3):
                    opened.enter_context(connect(server))
                app.send_event(server, EV_DRAIN())
                assert len(drainer.gsocks) == 3

        run_async(main)

    def test_no_descriptor_is_left(
        self, app: GAplic, run_async: RunAsync, opened: ExitStack, caplog: pytest.LogCaptureFixture
    ) -> None:
        drainer, server = start(app)

        async def main() -> None:
            async with app:
                exhaust(server, 0, errno.EMFILE)
                first = opened.enter_context(connect(server))
                second = opened.enter_context(connect(server))
                app.send_event(server, EV_DRAIN())
                assert server.state == "ST_DRAINING"
                assert len(drainer.gsocks) == 1
                # Nobody could take it: it learns so at once instead of waiting for ever.
                assert await read_to_end(second) == b""
                first.close()
                await until(lambda: drainer.of(EV_DRAINED))
                assert drainer.of(EV_DRAINED)[0].remaining == 0
            (told,) = [one for one in caplog.records if one.levelno >= logging.WARNING]
            assert told.getMessage() == (
                "app/server: draining, and no room for those who still wait (made up); "
                "they are reset"
            )

        run_async(main)

    def test_all_reset_while_it_drains(
        self, app: GAplic, run_async: RunAsync, opened: ExitStack, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Those in the queue, those who are open, and one after the other while others stay."""
        drainer, server = start(app)

        async def main() -> None:
            async with app:
                there = [opened.enter_context(connect(server)) for _ in range(100)]
                await until(lambda: len(drainer.gsocks) == 100)
                staying = opened.enter_context(connect(server))
                waiting = [opened.enter_context(connect(server)) for _ in range(100)]
                for client in waiting[::2] + there[::2]:
                    reset(client)
                app.send_event(server, EV_DRAIN())
                for client in there[1::2] + waiting[1::2]:
                    reset(client)
                    await turns(1)
                await until(lambda: len(server.ledger) == 1)
                assert server.state == "ST_DRAINING"
                assert server.config.n_gsocks == 1
                assert not drainer.of(EV_DRAINED)
                await write(staying, b"still there")
                await until(lambda: drainer.of(EV_RX_DATA))
                staying.close()
                await until(lambda: drainer.of(EV_DRAINED))
                assert drainer.of(EV_DRAINED)[0].remaining == 0
                assert server.state == "ST_CLOSED"
                # Who was told of one was told of its end, and of each once.
                assert len(drainer.of(EV_CONNECTED)) == len(drainer.of(EV_DISCONNECTED)) == 201
                assert len({event.source for event in drainer.of(EV_DISCONNECTED)}) == 201

        run_async(main)
        assert not [one for one in caplog.records if one.levelno >= logging.WARNING]

    def test_those_who_drop_when_they_hear_of_it(
        self, app: GAplic, run_async: RunAsync, opened: ExitStack
    ) -> None:
        drainer, server = start(app)

        def good_bye() -> None:
            for gsock in drainer.gsocks:
                drainer.send_event(gsock, EV_DROP(abort=True))

        async def main() -> None:
            async with app:
                drainer.on_draining = good_bye
                for _ in range(3):
                    opened.enter_context(connect(server))
                await until(lambda: len(drainer.gsocks) == 3)
                app.send_event(server, EV_DRAIN())
                await until(lambda: drainer.of(EV_DRAINED))
                assert drainer.kinds[3:] == [
                    "EV_DRAINING", *["EV_DISCONNECTED"] * 3, "EV_DRAINED",
                ]  # fmt: skip

        run_async(main)

    def test_it_raises_when_it_hears_of_it(
        self, app: GAplic, run_async: RunAsync, caplog: pytest.LogCaptureFixture
    ) -> None:
        drainer, server = start(app)

        def fail() -> None:
            raise ZeroDivisionError("its own fault")

        async def main() -> None:
            async with app:
                drainer.on_draining = fail
                app.send_event(server, EV_DRAIN())
                await until(lambda: drainer.of(EV_DRAINED))

        run_async(main)
        assert "its own fault" in caplog.text

    @pytest.mark.parametrize("when", ["EV_CONNECTED", "EV_DRAINING", "later", "EV_DRAINED"])
    def test_the_server_is_destroyed(
        self, when: str, app: GAplic, run_async: RunAsync, opened: ExitStack
    ) -> None:
        drainer, server = start(app)

        async def main() -> None:
            async with app:
                client = opened.enter_context(connect(server))
                await until(lambda: drainer.gsocks)
                if when == "EV_CONNECTED":
                    # In the queue, and accepted by the drain.
                    opened.enter_context(connect(server))
                    opened.enter_context(connect(server))
                    drainer.on_connected = lambda: app.destroy_gobj(server)
                if when == "EV_DRAINING":
                    drainer.on_draining = lambda: app.destroy_gobj(server)
                app.send_event(server, EV_DRAIN(timeout=0.05))
                if when == "EV_DRAINED":
                    await until(lambda: drainer.of(EV_DRAINED))
                app.destroy_gobj(server)
                # It ended while it accepted: that is no failure of the system.
                assert server.stats().accept_errors == {}
                assert not getattr(server._drain, "live", False)
                if when == "EV_DRAINED":
                    return
                # Its connections live on, and nobody aborts them.
                begin = time.monotonic()
                await until(lambda: time.monotonic() > begin + 0.1)
                await write(client, b"still here")
                await until(lambda: drainer.of(EV_RX_DATA))
                client.close()
                await until(lambda: drainer.of(EV_DISCONNECTED))
                assert not drainer.of(EV_DRAINED)

        run_async(main)


class TestHandshakes:
    def test_one_that_is_under_way_is_finished(self, app: GAplic, run_async: RunAsync) -> None:
        drainer, server = start(app, ssl_options=server_options())

        async def main() -> None:
            async with app:
                with await dial(server) as client:
                    await until(lambda: len(server.ledger))
                    app.send_event(server, EV_DRAIN())
                    assert drainer.kinds == ["EV_DRAINING"]
                    await client.shake()
                    await client.send(b"ping")
                    await until(lambda: drainer.of(EV_RX_DATA))
                    assert not drainer.of(EV_DRAINED)
                await until(lambda: drainer.of(EV_DRAINED))
                assert drainer.of(EV_DRAINED)[0].remaining == 0

        run_async(main)

    def test_one_that_is_never_finished_is_aborted(
        self, app: GAplic, run_async: RunAsync, opened: ExitStack
    ) -> None:
        drainer, server = start(app, ssl_options=server_options())

        async def main() -> None:
            async with app:
                client = opened.enter_context(connect(server))
                await until(lambda: len(server.ledger))
                app.send_event(server, EV_DRAIN(timeout=0.05))
                await until(lambda: drainer.of(EV_DRAINED))
                # Nobody had heard of it, so nobody hears of its end.
                assert drainer.kinds == ["EV_DRAINING", "EV_DRAINED"]
                assert drainer.of(EV_DRAINED)[0].remaining == 1
                assert await read_to_end(client) == b""

        run_async(main)

    @pytest.mark.parametrize("part", ["header", "handshake"])
    def test_one_that_is_aborted_is_no_fault_of_the_peer(
        self,
        part: str,
        app: GAplic,
        run_async: RunAsync,
        opened: ExitStack,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level(logging.INFO)
        parameters: dict[str, Any] = {
            "header": {"proxy_protocol": "require", "proxy_trusted": ("127.0.0.1",)},
            "handshake": {"ssl_options": server_options()},
        }[part]
        drainer, server = start(app, **parameters)

        async def main() -> None:
            async with app:
                client = opened.enter_context(connect(server))
                assert client.send(b"P" if part == "header" else b"\x16\x03") > 0
                await until(lambda: len(server.ledger))
                await turns()
                app.send_event(server, EV_DRAIN(timeout=0))
                await until(lambda: drainer.of(EV_DRAINED))
                assert drainer.kinds == ["EV_DRAINING", "EV_DRAINED"]
                assert drainer.of(EV_DRAINED)[0].remaining == 1
                stats = server.stats()
                assert (stats.refused, stats.failed_handshakes, stats.failed) == ({}, 0, 0)
                what, end = {
                    "header": ("no PROXY header from", ": drained"),
                    "handshake": ("the TLS handshake with", " failed: drained"),
                }[part]
                host, port = client.getsockname()
                (told,) = [one.getMessage() for one in caplog.records if what in one.getMessage()]
                assert told.endswith(f"{what} {host}:{port}{end}")

        run_async(main)

    def test_one_that_fails_lets_the_drain_end(
        self, app: GAplic, run_async: RunAsync, opened: ExitStack
    ) -> None:
        drainer, server = start(app, ssl_options=server_options())

        async def main() -> None:
            async with app:
                client = opened.enter_context(connect(server))
                await until(lambda: len(server.ledger))
                app.send_event(server, EV_DRAIN())
                await write(client, b"GET / HTTP/1.0\r\n\r\n")
                await until(lambda: drainer.of(EV_DRAINED))
                assert drainer.of(EV_DRAINED)[0].remaining == 0

        run_async(main)

    def test_a_session_made_meanwhile_is_told_at_once(
        self, app: GAplic, run_async: RunAsync
    ) -> None:
        drainer, server = start(app, ssl_options=server_options(), session=Session)

        async def main() -> None:
            async with app:
                with await dial(server) as client:
                    await until(lambda: len(server.ledger))
                    app.send_event(server, EV_DRAIN())
                    await client.shake()
                    assert await client.read_to_end() == (b"bye", "end")
                await until(lambda: drainer.of(EV_DRAINED))
                assert drainer.kinds == [
                    "EV_DRAINING", "EV_CONNECTED", "EV_DRAINING", "EV_DISCONNECTED", "EV_DRAINED",
                ]  # fmt: skip

        run_async(main)


class TestSessions:
    @pytest.mark.parametrize("gclass", [Session, AbruptSession])
    def test_each_is_told_and_says_good_bye(
        self, gclass: type[GObj], app: GAplic, run_async: RunAsync, opened: ExitStack
    ) -> None:
        drainer, server = start(app, session=gclass)

        async def main() -> None:
            async with app:
                clients = [opened.enter_context(connect(server)) for _ in range(4)]
                await until(lambda: len(drainer.of(EV_CONNECTED)) == 3 or len(server.ledger) == 4)
                app.send_event(server, EV_DRAIN())
                for client in clients:
                    assert await read_to_end(client) == (b"bye" if gclass is Session else b"")
                    client.close()
                await until(lambda: drainer.of(EV_DRAINED))
                assert drainer.of(EV_DRAINED)[0].remaining == 0
                # To the subscriber, and to each session.
                assert len(drainer.of(EV_DRAINING)) == 5
                assert drainer.kinds[-5:] == [*["EV_DISCONNECTED"] * 4, "EV_DRAINED"]
                assert drainer.children == {}

        run_async(main)

    def test_those_who_do_not_listen_are_aborted(
        self, app: GAplic, run_async: RunAsync, opened: ExitStack, caplog: pytest.LogCaptureFixture
    ) -> None:
        drainer, server = start(app, session=Deaf)

        async def main() -> None:
            async with app:
                for _ in range(2):
                    opened.enter_context(connect(server))
                await until(lambda: len(server.ledger) == 2)
                app.send_event(server, EV_DRAIN(timeout=0.05))
                await until(lambda: drainer.of(EV_DRAINED))
                assert drainer.kinds == ["EV_DRAINING", "EV_DRAINED"]
                assert drainer.of(EV_DRAINED)[0].remaining == 2
                assert drainer.children == {}

        run_async(main)
        assert [one for one in caplog.records if one.levelno >= logging.WARNING] == []


# No descriptors, really


ROOM = 5
"""Connections that the process has descriptors for."""


def drain_without_descriptors() -> None:
    """What the process does: serve as many as there is room for, then drain, and say how it went.

    It drains when a byte comes on its standard input.
    """
    import asyncio
    import resource

    logging.basicConfig(stream=sys.stderr, format="%(levelname)s %(message)s")

    async def main() -> None:
        app = GAplic("app")
        drainer, server = start(app)
        async with app:
            loop = asyncio.get_running_loop()
            told = asyncio.Event()
            loop.add_reader(0, told.set)
            await asyncio.sleep(0)
            limit = len(os.listdir("/proc/self/fd")) - 1 + ROOM
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
            print(server.config.port, flush=True)
            await told.wait()
            loop.remove_reader(0)
            await until(lambda: server.state == "ST_NO_ROOM")
            app.send_event(server, EV_DRAIN())
            print(server.state, len(server.ledger), flush=True)
            await until(lambda: drainer.of(EV_DRAINED))
            print(server.state, drainer.of(EV_DRAINED)[0].remaining, flush=True)

    asyncio.run(main())


@needs_proc
def test_without_descriptors_it_comes_to_its_end(opened: ExitStack) -> None:
    process = opened.enter_context(
        subprocess.Popen(
            [sys.executable, str(HERE)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), *sys.path[1:]])},
        )
    )  # fmt: skip
    opened.callback(process.kill)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    address = ("127.0.0.1", int(process.stdout.readline()))
    clients = [
        opened.enter_context(socket.create_connection(address, DEADLINE)) for _ in range(2 * ROOM)
    ]
    process.stdin.write("drain\n")
    process.stdin.flush()
    # Nobody can take those who wait in the queue, and they learn so at once.
    assert process.stdout.readline() == f"ST_DRAINING {ROOM}\n"
    for client in clients[ROOM:]:
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, DEADLINE)
    # Who is in is served until it goes, and the last one ends the drain.
    for client in clients[:ROOM]:
        client.sendall(b"still here")
        client.close()
    assert process.stdout.readline() == "ST_CLOSED 0\n"
    assert process.wait(DEADLINE) == 0
    lines = process.stderr.read().splitlines()
    assert lines == [
        (
            "WARNING app/server: no room for more connections (Too many open files) with "
            f"{ROOM} open; accepting again when one closes, clients wait meanwhile"
        ),
        (
            "WARNING app/server: draining, and no room for those who still wait (Too many open "
            "files); they are reset"
        ),
    ]


if __name__ == "__main__":
    drain_without_descriptors()
