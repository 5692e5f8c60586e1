"""GServerSock over real sockets: listening, accepting, the door, failures, and no room."""

import errno
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from conftest import RunAsync
from ginsfsm import Event, GAplic, GConfigError, GObj, GObjError, on
from ginsfsm.c_sock import (
    EV_CONNECTED,
    EV_DISCONNECTED,
    EV_DROP,
    EV_RX_DATA,
    EV_SEND_DATA,
    GSock,
)
from ginsfsm.c_srv_sock import GServerSock
from ginsfsm.inspection import Created, Observation
from ginsfsm.srv.admitting import ACCEPTS_PER_TURN, EPISODE
from servers import (
    DEADLINE,
    Keeper,
    connect,
    cpu_seconds,
    needs_ipv6,
    needs_proc,
    read_to_end,
    serve,
    until,
    write,
)
from sockets import RESET, gaplic

HERE = Path(__file__).resolve()


@pytest.fixture(params=["auto", "loop"], ids=["poller", "loop_poller"])
def app(request: pytest.FixtureRequest) -> Iterator[GAplic]:
    """A gaplic with each kind of poller."""
    app = gaplic(request.param)
    yield app
    app.destroy_gobj(app)


def listeners(server: GServerSock) -> list[socket.socket]:
    return [one.sock for one in server._listeners]


def accepted_socket(gsock: GSock) -> Any:
    assert gsock._sock is not None
    return gsock._sock


def warnings(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.levelno >= level]


class TestListening:
    def test_it_listens_before_the_loop_runs(self, app: GAplic, run_async: RunAsync) -> None:
        keeper = app.create_gobj("keeper", Keeper, app)
        server = serve(keeper)
        assert server.state == "ST_LISTENING"
        with connect(server) as client:

            async def main() -> None:
                async with app:
                    await until(lambda: keeper.of(EV_CONNECTED))
                    assert keeper.of(EV_CONNECTED)[0].peername == client.getsockname()

            run_async(main)

    def test_port_0_takes_a_free_one_that_stands_in_the_config(self, app: GAplic) -> None:
        server = serve(app.create_gobj("keeper", Keeper, app), port=0)
        assert server.config.port == listeners(server)[0].getsockname()[1] > 0
        assert server.addresses == (f"127.0.0.1:{server.config.port}",)

    @needs_ipv6
    @pytest.mark.parametrize("given", [False, True], ids=["port 0", "a given port"])
    def test_every_interface_is_two_sockets_with_one_port(
        self, given: bool, app: GAplic, run_async: RunAsync
    ) -> None:
        keeper = app.create_gobj("keeper", Keeper, app)
        port = 0
        if given:
            probe = serve(keeper, "probe", host="")
            port = probe.config.port
            app.destroy_gobj(probe)
        server = serve(keeper, host="", port=port)
        port = server.config.port
        assert [one.family for one in listeners(server)] == [socket.AF_INET, socket.AF_INET6]
        assert [one.getsockname()[1] for one in listeners(server)] == [port, port]
        assert listeners(server)[1].getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1
        assert server.addresses == (f"0.0.0.0:{port}", f"[::]:{port}")

        async def main() -> None:
            async with app:
                with connect(server) as four, connect(server, host="::1") as six:
                    await until(lambda: len(keeper.of(EV_CONNECTED)) == 2)
                    told = {event.peername: event for event in keeper.of(EV_CONNECTED)}
                    # Its own address of this connection, not the one that the server listens on.
                    assert told[four.getsockname()].sockname == ("127.0.0.1", port)
                    assert told[six.getsockname()].sockname == ("::1", port, 0, 0)

        run_async(main)

    def test_first_free_of_the_ports(
        self, app: GAplic, opened: ExitStack, run_async: RunAsync
    ) -> None:
        keeper = app.create_gobj("keeper", Keeper, app)
        taken = serve(keeper, "taken").config.port
        free = serve(keeper, "free")
        ports = (taken, free.config.port)
        app.destroy_gobj(free)
        server = serve(keeper, ports=ports, use_multi_ports=True, port=1)
        assert server.config.port == ports[1]

        async def main() -> None:
            async with app:
                with connect(server):
                    await until(lambda: keeper.of(EV_CONNECTED))
                    assert keeper.of(EV_CONNECTED)[0].source.name == "server.clisrv_1"

        run_async(main)

    def test_ports_alone_are_refused(self, app: GAplic) -> None:
        keeper = app.create_gobj("keeper", Keeper, app)
        with pytest.raises(
            GConfigError, match=r"ports: without use_multi_ports=True none of \(7, 8\) is tried"
        ):
            serve(keeper, ports=(7, 8))
        assert not keeper.children

    def test_ports_wait_for_their_switch_beside_a_port(self, app: GAplic) -> None:
        keeper = app.create_gobj("keeper", Keeper, app)
        port = serve(keeper, "first").config.port
        with pytest.raises(GObjError, match=f"127.0.0.1:{port}: port in use"):
            serve(keeper, port=port, ports=(7, 8))

    def test_ports_wait_for_their_switch_beside_a_path(
        self, app: GAplic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        keeper = app.create_gobj("keeper", Keeper, app)
        assert serve(keeper, unix_path="door", ports=(7, 8)).addresses == ("door",)

    def test_an_error_names_every_address_tried_and_why(self, app: GAplic) -> None:
        keeper = app.create_gobj("keeper", Keeper, app)
        ports = tuple(serve(keeper, f"taken-{n}").config.port for n in range(3))
        with pytest.raises(GObjError) as caught:
            serve(keeper, ports=ports, use_multi_ports=True)
        text = str(caught.value)
        assert text.startswith("app/keeper/server: cannot listen on host '127.0.0.1': ")
        assert all(f"127.0.0.1:{port}" in text for port in ports)
        assert "port in use" in text
        assert "server" not in keeper.children


class TestConnections:
    def test_names_skip_one_that_a_sibling_still_has(
        self, app: GAplic, run_async: RunAsync
    ) -> None:
        keeper = app.create_gobj("keeper", Keeper, app)
        keeper.create_gobj("server.clisrv_2", GObj, keeper)
        server = serve(keeper)

        async def main() -> None:
            async with app:
                with connect(server), connect(server), connect(server):
                    await until(lambda: len(keeper.gsocks) == 3)
                    assert [gsock.name for gsock in keeper.gsocks] == [
                        "server.clisrv_1", "server.clisrv_3", "server.clisrv_4",
                    ]  # fmt: skip

        run_async(main)

    def test_a_server_made_again_while_an_old_client_lives(
        self, app: GAplic, run_async: RunAsync
    ) -> None:
        keeper = app.create_gobj("keeper", Keeper, app)

        async def main() -> None:
            async with app:
                first = serve(keeper)
                with connect(first) as old:
                    await until(lambda: keeper.gsocks)
                    app.destroy_gobj(first)
                    second = serve(keeper, port=first.config.port)
                    with connect(second) as new:
                        await until(lambda: len(keeper.gsocks) == 2)
                        names = ["server.clisrv_1", "server.clisrv_2"]
                        assert [gsock.name for gsock in keeper.gsocks] == names
                        # Each server counts its own, and the old one's count stays exact.
                        assert (first.config.n_gsocks, second.config.n_gsocks) == (1, 1)
                        await write(old, b"old")
                        await write(new, b"new")
                        await until(lambda: len(keeper.of(EV_RX_DATA)) == 2)
                        got = {one.source.name: one.data for one in keeper.of(EV_RX_DATA)}
                        assert got == dict(zip(names, (b"old", b"new"), strict=True))
                        old.close()
                        await until(lambda: len(keeper.gsocks) == 1)
                        assert (first.config.n_gsocks, second.config.n_gsocks) == (0, 1)

        run_async(main)

    def test_n_gsocks_cannot_be_set(self, app: GAplic) -> None:
        keeper = app.create_gobj("keeper", Keeper, app)
        with pytest.raises(GConfigError, match="n_gsocks: a statistic"):
            serve(keeper, n_gsocks=3)
        server = serve(keeper)
        with pytest.raises(GConfigError, match="n_gsocks: a statistic"):
            server.write_parameters(n_gsocks=3)
        with pytest.raises(GConfigError, match="read-only"):
            server.config.n_gsocks = 3  # type: ignore[misc]
        assert server.config.n_gsocks == 0

    def test_n_gsocks_is_already_right_in_ev_disconnected(
        self, app: GAplic, run_async: RunAsync
    ) -> None:
        seen: list[int] = []

        class Counting(Keeper):
            def ac_keep(self, event: Event) -> None:
                seen.append(server.config.n_gsocks)

            def ac_gone(self, event: EV_DISCONNECTED) -> None:
                seen.append(server.config.n_gsocks)
                self.destroy_gobj(event.source)

        keeper = app.create_gobj("keeper", Counting, app)
        server = serve(keeper)

        async def main() -> None:
            async with app:
                with connect(server):
                    await until(lambda: seen)
                await until(lambda: len(seen) == 2)
                assert seen == [1, 0]

        run_async(main)


class TestParameters:
    def test_inherited_and_handed_on(self, app: GAplic, run_async: RunAsync) -> None:
        keeper = app.create_gobj("keeper", Keeper, app)
        server = serve(keeper, tx_max=4321, nodelay=False, keepalive=17, half_close=True)

        async def main() -> None:
            async with app:
                with connect(server), connect(server):
                    await until(lambda: len(keeper.gsocks) == 2)
                    first, second = keeper.gsocks
                    assert (first.config.tx_max, first.config.half_close) == (4321, True)
                    assert first.config is second.config
                    # Those that speak of a listener, or of a client, are not the connection's.
                    assert (first.config.host, first.config.port) == ("", 0)
                    assert first.config.subscriber is None
                    sock = accepted_socket(first)
                    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0
                    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
                    if hasattr(socket, "TCP_KEEPIDLE"):
                        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 17

        run_async(main)

    def test_defaults(self, app: GAplic, run_async: RunAsync) -> None:
        keeper = app.create_gobj("keeper", Keeper, app)
        server = serve(keeper)

        async def main() -> None:
            async with app:
                with connect(server):
                    await until(lambda: keeper.gsocks)
                    sock = accepted_socket(keeper.gsocks[0])
                    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
                    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
                    assert not sock.getblocking()
                    assert not os.get_inheritable(sock.fileno())

        run_async(main)

    def test_written_ones_hold_for_later_connections(
        self, app: GAplic, run_async: RunAsync
    ) -> None:
        keeper = app.create_gobj("keeper", Keeper, app)
        server = serve(keeper, tx_max=1111, keepalive=17)

        async def main() -> None:
            async with app:
                with connect(server):
                    await until(lambda: keeper.gsocks)
                    server.write_parameters(tx_max=2222, nodelay=False, keepalive=0)
                    with connect(server):
                        await until(lambda: len(keeper.gsocks) == 2)
                        old, new = keeper.gsocks
                        assert (old.config.tx_max, new.config.tx_max) == (1111, 2222)
                        assert server.config.n_gsocks == 2
                        assert [
                            accepted_socket(one).getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                            for one in (old, new)
                        ] == [1, 0]
                        sock = accepted_socket(new)
                        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0

        run_async(main)

    def test_one_connection_can_differ(self, app: GAplic, run_async: RunAsync) -> None:
        keeper = app.create_gobj("keeper", Keeper, app)
        server = serve(keeper)

        async def main() -> None:
            async with app:
                with connect(server), connect(server):
                    await until(lambda: len(keeper.gsocks) == 2)
                    first, second = keeper.gsocks
                    first.write_parameters(tx_max=99)
                    assert second.config.tx_max == GSock.config.tx_max
                    assert server.config.tx_max == GSock.config.tx_max

        run_async(main)

    def test_settings_of_gsock_reach_the_connections(self, run_async: RunAsync) -> None:
        app = GAplic("app", settings={"GSock.tx_max": 77})
        keeper = app.create_gobj("keeper", Keeper, app)
        server = serve(keeper)

        async def main() -> None:
            async with app:
                with connect(server):
                    await until(lambda: keeper.gsocks)
                    assert keeper.gsocks[0].config.tx_max == 77

        run_async(main)


class EV_OPEN(Event):
    """Take connections."""


class EV_SHUT(Event):
    """Take none."""


class Door(GObj):
    """Takes connections in ST_OPEN only, and not those that its guard turns away."""

    def start_up(self) -> None:
        self.heard: list[Event] = []
        self.wanted = True

    def is_wanted(self, event: EV_CONNECTED) -> bool:
        return self.wanted

    def ac_keep(self, event: Event) -> None:
        self.heard.append(event)

    def ac_gone(self, event: EV_DISCONNECTED) -> None:
        self.heard.append(event)
        self.destroy_gobj(event.source)

    machine = {
        "ST_SHUT": [
            on(EV_OPEN, None, "ST_OPEN"),
            on(EV_RX_DATA, ac_keep),
            on(EV_DISCONNECTED, ac_gone),
        ],
        "ST_OPEN": [
            on(EV_SHUT, None, "ST_SHUT"),
            on(EV_CONNECTED, ac_keep, when=is_wanted),
            on(EV_RX_DATA, ac_keep),
            on(EV_DISCONNECTED, ac_gone),
        ],
    }


class TestDoor:
    def test_shut_by_a_state(
        self, app: GAplic, run_async: RunAsync, caplog: pytest.LogCaptureFixture
    ) -> None:
        door = app.create_gobj("door", Door, app)
        server = serve(door)

        async def main() -> None:
            async with app:
                with connect(server) as client:
                    assert await read_to_end(client) == b""
                assert (server.ledger.refused, server.ledger.accepted) == (1, 0)
                app.send_event(door, EV_OPEN())
                with connect(server) as client:
                    await until(lambda: door.heard)
                    assert server.config.n_gsocks == 1
                    # The door shuts behind those who are in.
                    app.send_event(door, EV_SHUT())
                    await write(client, b"x")
                    await until(lambda: len(door.heard) == 2)
                await until(lambda: len(door.heard) == 3)
                assert server.ledger.refused == 1
                assert server.config.n_gsocks == 0

        run_async(main)
        assert [type(event).__name__ for event in door.heard] == [
            "EV_CONNECTED", "EV_RX_DATA", "EV_DISCONNECTED",
        ]  # fmt: skip
        assert warnings(caplog) == []

    def test_shut_by_a_guard(self, app: GAplic, run_async: RunAsync) -> None:
        door = app.create_gobj("door", Door, app)
        app.send_event(door, EV_OPEN())
        server = serve(door)

        async def main() -> None:
            async with app:
                door.wanted = False
                with connect(server) as client:
                    assert await read_to_end(client) == b""
                assert (server.ledger.refused, server.ledger.failed) == (1, 0)
                assert server.config.n_gsocks == 0
                # No gsock is left, and nobody hears of the end of what never began.
                assert list(door.children) == ["server"]
                assert door.heard == []
                door.wanted = True
                with connect(server):
                    await until(lambda: door.heard)

        run_async(main)

    @pytest.mark.parametrize("abort", [True, False])
    def test_not_shut_by_what_the_action_returns_after_it_has_dropped(
        self, abort: bool, app: GAplic, run_async: RunAsync
    ) -> None:
        class Dropper(Keeper):
            def ac_drop(self, event: EV_CONNECTED) -> Any:
                self.heard.append(event)
                self.send_event(event.source, EV_SEND_DATA(b"bye"))
                self.send_event(event.source, EV_DROP(abort))
                # Too late, so NOT_ACCEPTED.
                return self.send_event(event.source, EV_SEND_DATA(b"x"))

            machine = {
                "ST_IDLE": [
                    on(EV_CONNECTED, ac_drop),
                    on(EV_DISCONNECTED, Keeper.ac_gone),
                ],
            }

        keeper = app.create_gobj("keeper", Dropper, app)
        server = serve(keeper)

        async def main() -> None:
            async with app:
                with connect(server) as client:
                    assert await read_to_end(client) == b"bye"
                await until(lambda: keeper.of(EV_DISCONNECTED))
                assert [event.reason for event in keeper.of(EV_DISCONNECTED)] == ["local"]
                assert (server.ledger.refused, server.ledger.failed) == (0, 0)

        run_async(main)

    def test_shut_between_two_of_one_turn(self, app: GAplic, run_async: RunAsync) -> None:
        class OneAtATime(Keeper):
            machine = {
                "ST_FREE": [on(EV_CONNECTED, Keeper.ac_keep, "ST_BUSY")],
                "ST_BUSY": [
                    on(EV_RX_DATA, Keeper.ac_keep),
                    on(EV_DISCONNECTED, Keeper.ac_gone, "ST_FREE"),
                ],
            }

        keeper = app.create_gobj("keeper", OneAtATime, app)
        server = serve(keeper)

        async def main() -> None:
            async with app:
                with connect(server) as one, connect(server) as two, connect(server) as three:
                    assert await read_to_end(two) == b""
                    assert await read_to_end(three) == b""
                    assert server.ledger.refused == 2
                    assert [gsock.peername for gsock in keeper.gsocks] == [one.getsockname()]

        run_async(main)

    def test_a_subscriber_without_ev_connected_is_not_told(
        self, app: GAplic, run_async: RunAsync, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Untold(Keeper):
            machine = {
                "ST_IDLE": [
                    on(EV_RX_DATA, Keeper.ac_keep),
                    on(EV_DISCONNECTED, Keeper.ac_gone),
                ],
            }

        keeper = app.create_gobj("keeper", Untold, app)
        server = serve(keeper)

        async def main() -> None:
            async with app:
                with connect(server) as client:
                    await write(client, b"hello")
                    await until(lambda: keeper.heard)
                    assert keeper.of(EV_RX_DATA)[0].data == b"hello"
                await until(lambda: not keeper.gsocks)
                assert server.ledger.refused == 0

        run_async(main)
        assert warnings(caplog) == []

    def test_a_subscriber_without_both_is_an_error(self, app: GAplic) -> None:
        class Deaf(GObj):
            machine = {"ST_IDLE": [on(EV_DISCONNECTED, None)]}

        deaf = app.create_gobj("deaf", Deaf, app)
        with pytest.raises(GObjError, match="neither EV_CONNECTED nor EV_RX_DATA nor"):
            serve(deaf)
        keeper = app.create_gobj("keeper", Keeper, app)
        with pytest.raises(GObjError, match=r"subscriber app/deaf \(Deaf\)"):
            serve(keeper, subscriber=deaf)
        assert not deaf.children
        assert not keeper.children


class TestFailures:
    """A connection that cannot be made is closed and counted, and the next one is accepted."""

    def test_start_up_raises_once(
        self,
        app: GAplic,
        run_async: RunAsync,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        keeper = app.create_gobj("keeper", Keeper, app)
        server = serve(keeper, max_connections_per_ip=1)
        start_up = GSock.start_up

        def fail_once(gsock: GSock) -> None:
            start_up(gsock)
            monkeypatch.setattr(GSock, "start_up", start_up)
            raise RuntimeError("a fault in start_up")

        monkeypatch.setattr(GSock, "start_up", fail_once)

        async def main() -> None:
            async with app:
                with connect(server) as client, connect(server) as next_one:
                    assert await read_to_end(client) == b""
                    await until(lambda: keeper.heard)
                    assert keeper.of(EV_CONNECTED)[0].peername == next_one.getsockname()
                    assert (server.ledger.failed, server.ledger.accepted) == (1, 1)
                    assert server.config.n_gsocks == 1
                    assert len(keeper.children) == 2

        run_async(main)
        assert len(warnings(caplog)) == 1
        assert "app/keeper/server: the connection of 127.0.0.1:" in warnings(caplog)[0]

    def test_an_observer_destroys_each_connection_as_soon_as_it_sees_it(
        self, app: GAplic, run_async: RunAsync
    ) -> None:
        keeper = app.create_gobj("keeper", Keeper, app)
        server = serve(keeper, max_connections_per_ip=1)

        def destroying(one: Observation) -> None:
            if isinstance(one, Created):
                app.destroy_gobj(one.gobj)

        async def main() -> None:
            async with app:
                app.observe(destroying)
                with connect(server) as client:
                    assert await read_to_end(client) == b""
                assert (server.ledger.failed, server.config.n_gsocks) == (1, 0)
                assert not keeper.gsocks
                assert not server._shared.admission._counts

        run_async(main)

    def test_the_poller_has_no_room(
        self,
        app: GAplic,
        run_async: RunAsync,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        # What epoll_ctl says past fs.epoll.max_user_watches.
        keeper = app.create_gobj("keeper", Keeper, app)
        server = serve(keeper, max_connections_per_ip=1)
        register = app.poller.register

        def fail_once(*given: Any) -> None:
            monkeypatch.setattr(app.poller, "register", register)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        async def main() -> None:
            async with app:
                monkeypatch.setattr(app.poller, "register", fail_once)
                with connect(server) as client, connect(server):
                    assert await read_to_end(client) == b""
                    await until(lambda: keeper.heard)
                    assert (server.ledger.failed, server.config.n_gsocks) == (1, 1)
                    assert len(keeper.children) == 2
                await until(lambda: not keeper.gsocks)
                assert server.config.n_gsocks == 0
                assert len(app.poller) == 1

        run_async(main)
        # The one that says why; none of a go_out that failed after it.
        assert len(warnings(caplog)) == 1

    def test_ev_connected_raises(
        self, app: GAplic, run_async: RunAsync, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Raising(Keeper):
            def ac_keep(self, event: Event) -> None:
                super().ac_keep(event)
                if len(self.heard) == 1:
                    raise RuntimeError("a fault in EV_CONNECTED")

        keeper = app.create_gobj("keeper", Raising, app)
        server = serve(keeper)

        async def main() -> None:
            async with app:
                with connect(server) as client, connect(server):
                    assert await read_to_end(client) == b""
                    await until(lambda: len(keeper.heard) == 3)
                    first = keeper.of(EV_CONNECTED)[0].source
                    ended = keeper.of(EV_DISCONNECTED)[0]
                    # It did take it, so it is told of the end.
                    assert ended.source is first
                    assert ended.reason == "error"
                    assert (server.ledger.failed, server.config.n_gsocks) == (0, 1)
                    assert app.contained_errors == 1

        run_async(main)
        assert len(warnings(caplog)) == 1

    def test_the_subscriber_is_destroyed_in_ev_connected(
        self, app: GAplic, run_async: RunAsync, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Suicidal(Keeper):
            def ac_keep(self, event: Event) -> None:
                self.destroy_gobj(self)

        owner = app.create_gobj("owner", Keeper, app)
        suicidal = app.create_gobj("suicidal", Suicidal, app)
        server = serve(owner, subscriber=suicidal)

        async def main() -> None:
            async with app:
                with connect(server) as one, connect(server) as two:
                    assert await read_to_end(one) == b""
                    assert await read_to_end(two) == b""
                    assert server.config.n_gsocks == 0
                    # The first one was made; for the second there is nobody any more.
                    assert (server.ledger.accepted, server.ledger.refused) == (1, 1)
                    assert len(app.poller) == 1

        run_async(main)
        assert warnings(caplog) == []

    def test_the_subscriber_is_destroyed_with_its_connections(
        self, app: GAplic, run_async: RunAsync
    ) -> None:
        owner = app.create_gobj("owner", Keeper, app)
        keeper = app.create_gobj("keeper", Keeper, app)
        server = serve(owner, subscriber=keeper)

        async def main() -> None:
            async with app:
                with connect(server) as client, connect(server) as other:
                    await until(lambda: len(keeper.gsocks) == 2)
                    app.destroy_gobj(keeper)
                    assert server.config.n_gsocks == 0
                    assert not server.subscriptions
                    assert await read_to_end(client) == b""
                    assert await read_to_end(other) == b""
                    assert len(keeper.heard) == 2

        run_async(main)

    def test_the_server_is_destroyed_in_ev_connected(
        self, app: GAplic, run_async: RunAsync, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Once(Keeper):
            def ac_keep(self, event: Event) -> None:
                super().ac_keep(event)
                self.destroy_gobj(server)

        keeper = app.create_gobj("keeper", Once, app)
        server = serve(keeper)

        async def main() -> None:
            async with app:
                with connect(server) as one, connect(server) as two:
                    # Still in the kernel's queue: closing the listener resets it.
                    assert await read_to_end(two) == b""
                    assert len(keeper.of(EV_CONNECTED)) == 1
                    assert list(keeper.children) == ["server.clisrv_1"]
                    await write(one, b"alive")
                    await until(lambda: keeper.of(EV_RX_DATA))
                    assert server.config.n_gsocks == 1
                    assert len(app.poller) == 1
                    # A closed listener that is asked for more is no failure of the system.
                    assert server.stats().accept_errors == {}
                await until(lambda: not keeper.children)
                assert server.config.n_gsocks == 0

        run_async(main)
        assert warnings(caplog) == []

    def test_the_server_is_destroyed_with_clients_in_the_backlog(
        self, app: GAplic, run_async: RunAsync
    ) -> None:
        keeper = app.create_gobj("keeper", Keeper, app)
        server = serve(keeper)

        async def main() -> None:
            async with app:
                with connect(server) as one, connect(server) as two:
                    app.destroy_gobj(server)
                    assert await read_to_end(one) == b""
                    assert await read_to_end(two) == b""
                    assert keeper.heard == []
                    assert not keeper.children
                    assert len(app.poller) == 0

        run_async(main)

    def test_the_gaplic_ends_with_connections_open(
        self, app: GAplic, run_async: RunAsync, caplog: pytest.LogCaptureFixture
    ) -> None:
        keeper = app.create_gobj("keeper", Keeper, app)
        server = serve(keeper)

        async def main() -> None:
            with connect(server) as one, connect(server) as two:
                async with app:
                    await until(lambda: len(keeper.gsocks) == 2)
                assert await read_to_end(one) == b""
                assert await read_to_end(two) == b""

        run_async(main)
        assert len(keeper.heard) == 2
        assert server.config.n_gsocks == 0
        assert warnings(caplog) == []

    def test_a_client_that_is_gone_before_it_is_accepted(
        self, app: GAplic, run_async: RunAsync
    ) -> None:
        keeper = app.create_gobj("keeper", Keeper, app)
        server = serve(keeper)

        async def main() -> None:
            async with app:
                with connect(server) as client:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                with connect(server):
                    await until(lambda: len(keeper.of(EV_CONNECTED)) == 2)
                    await until(lambda: keeper.of(EV_DISCONNECTED))
                    assert keeper.of(EV_DISCONNECTED)[0].reason == "reset"
                    assert server.config.n_gsocks == 1

        run_async(main)


class Unreliable:
    """A listening socket whose accept first raises what the test says; 0 lets one connection in.

    No real peer makes the kernel say these on demand. `accepts` are the successful calls.
    """

    def __init__(self, sock: socket.socket, *errors: int) -> None:
        self.sock = sock
        self.errors = list(errors)
        self.calls = 0
        self.accepts = 0

    def _accept(self) -> tuple[int, Any]:
        self.calls += 1
        if self.errors:
            number = self.errors.pop(0)
            if number:
                raise OSError(number, os.strerror(number))
        accepted = self.sock._accept()
        self.accepts += 1
        return accepted

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sock, name)


def make_unreliable(server: GServerSock, *errors: int) -> Unreliable:
    (listener,) = server._listeners
    listener.sock = unreliable = Unreliable(listener.sock, *errors)  # type: ignore[assignment]
    return unreliable


class TestAccepting:
    @pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("", marks=needs_ipv6)])
    def test_at_most_so_many_in_a_turn(self, host: str, app: GAplic, run_async: RunAsync) -> None:
        keeper = app.create_gobj("keeper", Keeper, app)
        server = serve(keeper, host=host)

        async def main() -> None:
            with ExitStack() as stack:
                for n in range(200):
                    address = "127.0.0.1" if host or n % 2 else "::1"
                    stack.enter_context(connect(server, host=address))
                turns = [0]

                def all_heard() -> bool:
                    # Asked once in each turn.
                    turns.append(len(keeper.heard))
                    return turns[-1] == 200

                async with app:
                    await until(all_heard)
                in_a_turn = [after - before for before, after in pairwise(turns)]
                assert max(in_a_turn) == ACCEPTS_PER_TURN == 64

        run_async(main)

    @pytest.mark.skipif(sys.platform != "linux", reason="the network errors of Linux's accept(2)")
    def test_errors_of_one_connection_are_passed_over(
        self, app: GAplic, run_async: RunAsync, caplog: pytest.LogCaptureFixture
    ) -> None:
        keeper = app.create_gobj("keeper", Keeper, app)
        server = serve(keeper)
        unreliable = make_unreliable(
            server, errno.ECONNABORTED, errno.ENETDOWN, errno.EPROTO, errno.ENOPROTOOPT,
            errno.EHOSTDOWN, errno.ENONET, errno.EHOSTUNREACH, errno.EOPNOTSUPP,
            errno.ENETUNREACH, errno.EPERM, errno.ETIMEDOUT, errno.EINTR,
        )  # fmt: skip

        async def main() -> None:
            async with app:
                with connect(server):
                    await until(lambda: keeper.heard)
                    assert unreliable.errors == []
                    assert server.state == "ST_LISTENING"

        run_async(main)
        assert warnings(caplog) == []

    @pytest.mark.parametrize("name", ["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM"])
    def test_no_room_stops_until_the_time_is_over(
        self, name: str, app: GAplic, run_async: RunAsync, caplog: pytest.LogCaptureFixture
    ) -> None:
        keeper = app.create_gobj("keeper", Keeper, app)
        server = serve(keeper)
        number = getattr(errno, name)
        unreliable = make_unreliable(server, *[number] * 3)

        async def main() -> None:
            async with app:
                with connect(server):
                    begin = time.monotonic()
                    await until(lambda: server.state == "ST_NO_ROOM")
                    assert len(app.poller) == 0
                    await until(lambda: keeper.heard)
                    # Three pauses, and not one call of accept in any of them.
                    assert 0.29 < time.monotonic() - begin < 3
                    assert unreliable.accepts == 1
                    assert unreliable.calls <= 5
                    assert server.state == "ST_LISTENING"

        run_async(main)
        (told,) = warnings(caplog)
        assert told.startswith("app/keeper/server: no room for more connections (")
        assert os.strerror(number) in told
        assert "with 0 open" in told

    def test_no_room_stops_until_a_connection_closes(
        self, app: GAplic, run_async: RunAsync, caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        keeper = app.create_gobj("keeper", Keeper, app)
        server = serve(keeper)

        async def main() -> None:
            async with app:
                with connect(server) as first:
                    await until(lambda: keeper.gsocks)
                    make_unreliable(server, errno.EMFILE)
                    with connect(server):
                        await until(lambda: server.state == "ST_NO_ROOM")
                        begin = time.monotonic()
                        self.forget_the_time_out(server)
                        first.close()
                        await until(lambda: len(keeper.of(EV_CONNECTED)) == 2)
                        assert time.monotonic() - begin < 1
                        assert server.state == "ST_LISTENING"

        run_async(main)
        (told,) = warnings(caplog)
        assert "with 1 open" in told

    @staticmethod
    def forget_the_time_out(server: GServerSock) -> None:
        for timer in server._afters:
            timer.cancel()

    def test_each_episode_without_room_is_told_once(
        self, app: GAplic, run_async: RunAsync, caplog: pytest.LogCaptureFixture
    ) -> None:
        keeper = app.create_gobj("keeper", Keeper, app)
        server = serve(keeper)

        async def main() -> None:
            async with app:
                unreliable = make_unreliable(server)
                with ExitStack() as stack:
                    # One gets in, then there is no room again: the same episode, since others wait.
                    for _ in range(3):
                        stack.enter_context(connect(server))
                    unreliable.errors = [errno.EMFILE, 0, errno.EMFILE, 0, errno.EMFILE]
                    await until(lambda: len(keeper.heard) == 3)
                    assert len(warnings(caplog)) == 1
                    # As if that had been long ago.
                    server._no_room_at -= EPISODE
                    unreliable.errors = [errno.EMFILE]
                    stack.enter_context(connect(server))
                    await until(lambda: len(keeper.heard) == 4)
                    assert len(warnings(caplog)) == 2

        run_async(main)

    def test_another_error_is_told_and_tried_again(
        self, app: GAplic, run_async: RunAsync, caplog: pytest.LogCaptureFixture
    ) -> None:
        keeper = app.create_gobj("keeper", Keeper, app)
        server = serve(keeper)
        make_unreliable(server, errno.EINVAL, errno.EINVAL)

        async def main() -> None:
            async with app:
                with connect(server):
                    await until(lambda: keeper.heard)

        run_async(main)
        (told,) = warnings(caplog, logging.ERROR)
        assert "accepting failed" in told

    def test_destroyed_while_there_is_no_room(self, app: GAplic, run_async: RunAsync) -> None:
        keeper = app.create_gobj("keeper", Keeper, app)
        server = serve(keeper)

        async def main() -> None:
            async with app:
                with connect(server) as first:
                    await until(lambda: keeper.gsocks)
                    make_unreliable(server, errno.EMFILE)
                    with connect(server) as second:
                        await until(lambda: server.state == "ST_NO_ROOM")
                        app.destroy_gobj(server)
                        assert await read_to_end(second) == b""
                    first.close()
                    await until(lambda: not keeper.children)
                    assert server.config.n_gsocks == 0

        run_async(main)

    def test_the_poller_cannot_watch_when_accepting_goes_on(
        self,
        app: GAplic,
        run_async: RunAsync,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        # The system that had no memory for a connection may have none for epoll either.
        keeper = app.create_gobj("keeper", Keeper, app)
        server = serve(keeper)
        make_unreliable(server, errno.ENOMEM)
        register = app.poller.register

        def fail_once(*given: Any) -> None:
            monkeypatch.setattr(app.poller, "register", register)
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

        async def main() -> None:
            async with app:
                with connect(server):
                    await until(lambda: server.state == "ST_NO_ROOM")
                    monkeypatch.setattr(app.poller, "register", fail_once)
                    await until(lambda: keeper.heard)

        run_async(main)
        assert len(warnings(caplog)) == 1


# A real limit of descriptors

LIMITED = 30
"""Descriptors that the process without room has for its connections."""


class Greeter(GObj):
    """Answers what a client says, and ends the connection when the client does."""

    def ac_answer(self, event: EV_RX_DATA) -> None:
        self.send_event(event.source, EV_SEND_DATA(event.data.upper()))

    def ac_gone(self, event: EV_DISCONNECTED) -> None:
        self.destroy_gobj(event.source)

    machine = {
        "ST_IDLE": [
            on(EV_CONNECTED, None),
            on(EV_RX_DATA, ac_answer),
            on(EV_DISCONNECTED, ac_gone),
        ],
    }


def run_with_few_descriptors(loop: str, poller: str) -> None:
    """What the process does: serve, with room for so many connections and not one more."""
    import asyncio
    import resource

    logging.basicConfig(stream=sys.stderr, format="%(levelname)s %(message)s")

    async def main() -> None:
        app = gaplic(poller)
        greeter = app.create_gobj("greeter", Greeter, app)
        server = serve(greeter)
        async with app:
            # What the loop opens when it needs it first has to be open now.
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, app.stop)
            await asyncio.sleep(0)
            limit = len(os.listdir("/proc/self/fd")) - 1 + LIMITED
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
            print(server.config.port, flush=True)
            await app.serve()

    if loop == "uvloop":
        import uvloop

        factory: Any = uvloop.new_event_loop
    else:
        factory = asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


class Limited:
    """A process without room for more than `LIMITED` connections, as its clients see it."""

    def __init__(self, stack: ExitStack, log: Path, *kind: str) -> None:
        self.log = log
        with log.open("wb") as stderr:
            self.process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, str(HERE), *kind],
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    env={**os.environ, "PYTHONPATH": str(HERE.parent)},
                )
            )
        stack.callback(self.process.kill)
        self.stack = stack

    def listen(self) -> None:
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline() or pytest.fail(self.log.read_text()))

    def clients(self, count: int) -> list[socket.socket]:
        new = []
        for n in range(count):
            client = self.stack.enter_context(socket.create_connection(("127.0.0.1", self.port)))
            client.settimeout(DEADLINE)
            client.sendall(b"hello %d" % n)
            new.append(client)
        return new

    def lines(self) -> list[str]:
        return self.log.read_text().splitlines()

    def wait_for_lines(self, count: int) -> None:
        end = time.monotonic() + DEADLINE
        while len(self.lines()) < count:
            assert time.monotonic() < end, self.lines()


def pass_time(seconds: float) -> float:
    """Wait for nothing but the time, as the measure needs it; returns how long it was."""
    begin = time.monotonic()
    time.sleep(seconds)
    return time.monotonic() - begin


@needs_proc
@pytest.mark.skipif(sys.platform != "linux", reason="counts what Linux shows in /proc")
def test_a_process_without_descriptors_loses_no_client_and_costs_nothing(
    opened: ExitStack, tmp_path: Path
) -> None:
    kinds = [(loop, poller) for loop in ("asyncio", "uvloop") for poller in ("auto", "loop")]
    processes = [Limited(opened, tmp_path / "-".join(kind), *kind) for kind in kinds]
    for process in processes:
        process.listen()
    clients = {process: process.clients(5 * LIMITED) for process in processes}
    for process in processes:
        process.wait_for_lines(1)
    # While nobody leaves, so that all try in vain for so long.
    used = [cpu_seconds(process.process.pid) for process in processes]
    seconds = pass_time(5)
    for process, before in zip(processes, used, strict=True):
        share = (cpu_seconds(process.process.pid) - before) / seconds
        assert share < 0.02, f"{process.log.name}: {share:.1%} of a core"
    for process in processes:
        for n, client in enumerate(clients[process]):
            # Each is served, when its turn comes, and leaves its place to another.
            assert client.recv(100) == b"HELLO %d" % n
            client.close()
        (line,) = process.lines()
        assert line == (
            "WARNING app/greeter/server: no room for more connections (Too many open files) with "
            f"{LIMITED} open; accepting again when one closes, clients wait meanwhile"
        )
    pass_time(EPISODE)
    for process in processes:
        # It is as it was: it serves at once, and the next time it says so again.
        again = process.clients(LIMITED + 1)
        process.wait_for_lines(2)
        again.pop(0).close()
        for n, client in enumerate(again, 1):
            assert client.recv(100) == b"HELLO %d" % n
        assert len(process.lines()) == 2
        process.process.terminate()
        assert process.process.wait(DEADLINE) == 0, process.lines()


if __name__ == "__main__":
    run_with_few_descriptors(*sys.argv[1:])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("host", "127.0.0.2"),
        ("port", 1),
        ("ports", (1,)),
        ("backlog", 5),
    ],
)
def test_where_it_listens_cannot_be_written_while_it_listens(
    app: GAplic, name: str, value: object
) -> None:
    keeper = app.create_gobj("keeper", Keeper, app)
    server = serve(keeper)
    before = getattr(server.config, name)
    with pytest.raises(GConfigError, match=f"{name}: cannot change while the server listens"):
        server.write_parameters(**{name: value, "tx_max": 5})
    assert getattr(server.config, name) == before
    assert server.config.tx_max != 5
