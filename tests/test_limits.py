"""Who may come in, on real sockets: limits, rates, networks, and what is told of those refused."""

import asyncio
import logging
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import pytest

import certificates
from conftest import RunAsync
from ginsfsm import GAplic, GConfigError, GObj, GObjError, on, param
from ginsfsm.c_sock import EV_CONNECTED, EV_DISCONNECTED, EV_DROP, EV_RX_DATA
from ginsfsm.c_srv_sock import (
    EV_ALARM,
    EV_PAUSE_ACCEPT,
    EV_REFUSED,
    EV_RESUME_ACCEPT,
    GServerSock,
)
from servers import Keeper, needs_ipv6, read_to_end, serve
from sockets import DEADLINE, RESET, gaplic, turns
from sockets import wait_for as until


class Porter(Keeper):
    """Hears of those who were turned away, and of the alarm."""

    machine = {
        "ST_IDLE": [
            *Keeper.machine["ST_IDLE"],
            on(EV_REFUSED, Keeper.ac_keep),
            on(EV_ALARM, Keeper.ac_keep),
        ],
    }

    @property
    def refused(self) -> list[tuple[Any, str]]:
        return [(event.peername, str(event.reason)) for event in self.of(EV_REFUSED)]


@pytest.fixture(params=["auto", "loop"], ids=["poller", "loop_poller"])
def app(request: pytest.FixtureRequest) -> Iterator[GAplic]:
    """A gaplic with each kind of poller."""
    app = gaplic(request.param)
    yield app
    app.destroy_gobj(app)


@pytest.fixture
def porter(app: GAplic) -> Porter:
    return app.create_gobj("porter", Porter, app)


class Crowd:
    """Clients of a server, from any address of 127.0.0.0/8."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def __call__(self, server: GServerSock, host: str = "127.0.0.1") -> socket.socket:
        """One more client. The kernel connects it; the server accepts when the loop turns."""
        client = self._stack.enter_context(socket.socket())
        client.bind((host, 0))
        client.settimeout(DEADLINE)
        client.connect(("127.0.0.1", server.config.port))
        client.setblocking(False)
        return client

    def many(self, count: int, server: GServerSock, host: str = "127.0.0.1") -> list[socket.socket]:
        return [self(server, host) for _ in range(count)]


@pytest.fixture
def crowd(opened: ExitStack) -> Crowd:
    return Crowd(opened)


def reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    client.close()


def counts(server: GServerSock) -> dict[bytes, int]:
    """How many connections are counted for each address."""
    return dict(server._shared.admission._counts)


def books(server: GServerSock) -> tuple[int, dict[bytes, int]]:
    """The connections that are open, and what is counted for each address."""
    assert server.config.n_gsocks == len(server.ledger)
    return server.config.n_gsocks, counts(server)


LOCALHOST = bytes([127, 0, 0, 1])


class TestMaxConnections:
    def test_the_rest_wait_in_the_kernel_and_are_served_when_one_closes(
        self, porter: Porter, run_async: RunAsync, crowd: Crowd
    ) -> None:
        async def main() -> None:
            async with porter.gaplic:
                server = serve(porter, max_connections=3)
                clients = crowd.many(8, server)
                most = 0
                names: set[Any] = set()
                for left in range(5, -1, -1):
                    await until(lambda: len(porter.gsocks) == 3)
                    await turns()
                    assert server.config.n_gsocks == 3
                    assert server.state == "ST_FULL" or not left
                    most = max(most, server.config.n_gsocks)
                    names |= {gsock.peername for gsock in porter.gsocks}
                    assert len(names) == 8 - left
                    clients.pop(0).close()
                await until(lambda: server.config.n_gsocks == 2)
                assert most == 3
                assert server.state == "ST_LISTENING"
                assert server.ledger.refused == 0
                assert not porter.refused
                for client in clients:
                    client.close()
                await until(lambda: not porter.gsocks)

        run_async(main)

    def test_it_is_exact_whoever_closes(
        self, porter: Porter, run_async: RunAsync, crowd: Crowd
    ) -> None:
        async def main() -> None:
            async with porter.gaplic:
                server = serve(porter, max_connections=2, max_connections_per_ip=10)
                clients = crowd.many(7, server)
                await until(lambda: len(porter.gsocks) == 2)
                reset(clients.pop(0))
                await until(lambda: len(porter.of(EV_CONNECTED)) == 3)
                porter.send_event(porter.gsocks[0], EV_DROP(abort=True))
                await until(lambda: len(porter.of(EV_CONNECTED)) == 4)
                porter.send_event(porter.gsocks[0], EV_DROP())
                await until(lambda: len(porter.of(EV_CONNECTED)) == 5)
                porter.destroy_gobj(porter.gsocks[0])
                await until(lambda: len(porter.of(EV_CONNECTED)) == 6)
                assert books(server) == (2, {LOCALHOST: 2})

        run_async(main)

    def test_those_above_are_turned_away_with_a_word(
        self, porter: Porter, run_async: RunAsync, crowd: Crowd
    ) -> None:
        async def main() -> None:
            async with porter.gaplic:
                server = serve(porter, max_connections=2, overflow="reject", reject_data=b"full\n")
                inside = crowd.many(2, server)
                await until(lambda: len(porter.gsocks) == 2)
                outside = crowd.many(3, server)
                names = [client.getsockname() for client in outside]
                for client in outside:
                    assert await read_to_end(client) == b"full\n"
                assert porter.refused == [(name, "full") for name in names]
                assert server.ledger.refused == 3
                assert server.ledger.refused_by == {"full": 3}
                assert server.state == "ST_LISTENING"
                assert server.config.n_gsocks == 2
                inside[0].close()
                await until(lambda: len(porter.gsocks) == 1)
                crowd(server)
                await until(lambda: len(porter.gsocks) == 2)
                assert server.ledger.accepted == 3

        run_async(main)

    def test_who_has_spoken_already_gets_the_word_and_a_proper_end(
        self, porter: Porter, run_async: RunAsync, crowd: Crowd
    ) -> None:
        # Closing a socket with unread input makes the kernel send a reset, which can overtake.
        async def main() -> None:
            async with porter.gaplic:
                server = serve(porter, max_connections=1, overflow="reject", reject_data=b"full\n")
                crowd(server)
                await until(lambda: porter.gsocks)
                client = crowd(server)
                client.send(b"GET / HTTP/1.0\r\n\r\n")
                loop = asyncio.get_running_loop()
                async with asyncio.timeout(DEADLINE):
                    assert await loop.sock_recv(client, 100) == b"full\n"
                    assert await loop.sock_recv(client, 100) == b""

        run_async(main)

    @pytest.mark.parametrize("name", ["server", "GServerSock"])
    def test_the_word_may_stand_in_a_settings_file(
        self, name: str, run_async: RunAsync, crowd: Crowd, tmp_path: Path
    ) -> None:
        file = tmp_path / "limits.toml"
        file.write_text(
            f'[{name}]\nmax_connections = 1\noverflow = "reject"\nreject_data = "v\u00f6ll\\n"\n',
            encoding="utf-8",
        )
        app = GAplic("app", str(file))
        keeper = app.create_gobj("keeper", Keeper, app)
        server = serve(keeper)

        async def main() -> None:
            async with app:
                crowd(server)
                await until(lambda: keeper.gsocks)
                assert await read_to_end(crowd(server)) == "v\u00f6ll\n".encode()

        run_async(main)

    def test_nothing_is_sent_in_the_place_of_a_handshake(
        self, porter: Porter, run_async: RunAsync, crowd: Crowd
    ) -> None:
        async def main() -> None:
            async with porter.gaplic:
                server = serve(
                    porter,
                    max_connections=1,
                    overflow="reject",
                    reject_data=b"full\n",
                    ssl_options={"certfile": str(certificates.server())},
                )
                crowd(server)
                await until(lambda: server.config.n_gsocks == 1)
                assert await read_to_end(crowd(server)) == b""
                assert porter.refused[0][1] == "full"

        run_async(main)

    def test_the_word_is_sent_where_tls_would_come_later(
        self, porter: Porter, run_async: RunAsync, crowd: Crowd
    ) -> None:
        async def main() -> None:
            async with porter.gaplic:
                server = serve(
                    porter, max_connections=1, overflow="reject", reject_data=b"421 full\r\n",
                    start_tls=True, ssl_options={"certfile": str(certificates.server())},
                )  # fmt: skip
                crowd(server)
                await until(lambda: server.config.n_gsocks == 1)
                assert await read_to_end(crowd(server)) == b"421 full\r\n"

        run_async(main)

    def test_lowered_below_what_is_open_nobody_is_thrown_out(
        self, porter: Porter, run_async: RunAsync, crowd: Crowd
    ) -> None:
        async def main() -> None:
            async with porter.gaplic:
                server = serve(porter, max_connections=5)
                clients = crowd.many(5, server)
                await until(lambda: len(porter.gsocks) == 5)
                server.write_parameters(max_connections=2)
                waiting = crowd(server)
                for left in 4, 3, 2:
                    await turns()
                    assert len(porter.of(EV_CONNECTED)) == 5
                    clients.pop().close()
                    await until(lambda left=left: server.config.n_gsocks == left)  # type: ignore[misc]
                await turns()
                assert len(porter.of(EV_CONNECTED)) == 5
                clients.pop().close()
                await until(lambda: len(porter.of(EV_CONNECTED)) == 6)
                assert porter.of(EV_CONNECTED)[-1].peername == waiting.getsockname()

        run_async(main)

    @pytest.mark.parametrize("overflow", ["backlog", "reject"])
    def test_lowered_again_and_again_while_they_come_and_go(
        self, overflow: str, app: GAplic, run_async: RunAsync, opened: ExitStack
    ) -> None:
        limit = 12
        excess: list[tuple[int, int, int]] = []

        class Counter(Porter):
            """Sees how many are in whenever one comes."""

            def ac_connected(self, event: EV_CONNECTED) -> None:
                self.heard.append(event)
                if server.config.n_gsocks > limit:
                    excess.append((server.config.n_gsocks, limit, len(self.heard)))

            machine = {
                "ST_IDLE": [
                    on(EV_CONNECTED, ac_connected),
                    *Porter.machine["ST_IDLE"][1:],
                ],
            }

        counter = app.create_gobj("porter", Counter, app)
        server = serve(counter, max_connections=limit, overflow=overflow)

        came = 0
        over = False

        async def churn(name: int) -> None:
            # Two thirds leave at once, and one third stays a little.
            nonlocal came
            loop = asyncio.get_running_loop()
            for number in count():
                if over:
                    return
                with socket.socket() as client:
                    client.setblocking(False)
                    await loop.sock_connect(client, ("127.0.0.1", server.config.port))
                    came += 1
                    if (name + number) % 3 == 0:
                        await turns(name + 1)
                    if number % 5 == 0:
                        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

        async def main() -> None:
            nonlocal limit, over
            async with app:
                clients = [asyncio.create_task(churn(name)) for name in range(16)]
                for lower in (9, 6, 3, 1, 8, 2, 1):
                    seen = len(counter.of(EV_CONNECTED))
                    await until(lambda seen=seen: len(counter.of(EV_CONNECTED)) >= seen + 12)  # type: ignore[misc]
                    limit = lower
                    server.write_parameters(max_connections=lower)
                    # Nobody is thrown out; but whoever goes leaves his place to nobody.
                    await until(lambda lower=lower: server.config.n_gsocks <= lower)  # type: ignore[misc]
                over = True
                await asyncio.gather(*clients)
                await until(lambda: server.ledger.accepted + server.ledger.refused == came)
                await until(lambda: not counter.gsocks)
                assert not excess
                assert not (overflow == "backlog" and server.ledger.refused)
                assert books(server) == (0, {})

        run_async(main)

    @pytest.mark.parametrize("change", [{"max_connections": 4}, {"max_connections": 0}])
    def test_raised_while_full_those_who_wait_come_in_at_once(
        self, change: dict[str, Any], porter: Porter, run_async: RunAsync, crowd: Crowd
    ) -> None:
        async def main() -> None:
            async with porter.gaplic:
                server = serve(porter, max_connections=1)
                crowd.many(4, server)
                await until(lambda: server.state == "ST_FULL")
                server.write_parameters(**change)
                await until(lambda: len(porter.gsocks) == 4)
                assert server.config.n_gsocks == 4

        run_async(main)

    def test_from_backlog_to_reject_while_full_those_who_wait_are_turned_away(
        self, porter: Porter, run_async: RunAsync, crowd: Crowd
    ) -> None:
        async def main() -> None:
            async with porter.gaplic:
                server = serve(porter, max_connections=1)
                clients = crowd.many(3, server)
                await until(lambda: server.state == "ST_FULL")
                server.write_parameters(overflow="reject", reject_data=b"no")
                assert await read_to_end(clients[1]) == b"no"
                assert await read_to_end(clients[2]) == b"no"
                assert server.ledger.refused_by == {"full": 2}
                server.write_parameters(overflow="backlog")
                crowd(server)
                await until(lambda: server.state == "ST_FULL")

        run_async(main)

    @pytest.mark.parametrize(
        ("before", "written", "state", "refused"),
        [
            ({}, {"max_connections": 2}, "ST_FULL", {}),
            ({"max_connections": 9}, {"max_connections": 2}, "ST_FULL", {}),
            (
                {"max_connections": 9},
                {"max_connections": 2, "overflow": "reject"},
                "ST_LISTENING",
                {"full": 4},
            ),
            ({}, {"accept_rate": 0.001, "accept_burst": 1}, "ST_THROTTLED", {}),
        ],
        ids=["switched on", "lowered", "to reject", "rate"],
    )
    def test_written_by_who_hears_of_one_it_holds_for_the_next_of_the_same_turn(
        self,
        before: dict[str, Any],
        written: dict[str, Any],
        state: str,
        refused: dict[str, int],
        app: GAplic,
        run_async: RunAsync,
        crowd: Crowd,
    ) -> None:
        class Careful(Porter):
            """Writes other limits when the first one comes."""

            def ac_connected(self, event: EV_CONNECTED) -> None:
                self.heard.append(event)
                if len(self.of(EV_CONNECTED)) == 1:
                    server.write_parameters(**written)

            machine = {
                "ST_IDLE": [on(EV_CONNECTED, ac_connected), *Porter.machine["ST_IDLE"][1:]],
            }

        careful = app.create_gobj("porter", Careful, app)
        server = serve(careful, **before)

        async def main() -> None:
            async with app:
                crowd.many(6, server)
                await until(lambda: len(careful.of(EV_CONNECTED)) == 2)
                await turns()
                assert server.state == state
                assert server.config.n_gsocks == 2
                assert server.ledger.refused_by == refused

        run_async(main)

    def test_paused_while_full_and_resumed(
        self, porter: Porter, run_async: RunAsync, crowd: Crowd
    ) -> None:
        async def main() -> None:
            async with porter.gaplic:
                server = serve(porter, max_connections=1)
                clients = crowd.many(2, server)
                await until(lambda: server.state == "ST_FULL")
                server.send_event(server, EV_PAUSE_ACCEPT())
                clients[0].close()
                await until(lambda: not porter.gsocks)
                await turns()
                assert server.state == "ST_PAUSED"
                assert server.config.n_gsocks == 0
                server.send_event(server, EV_RESUME_ACCEPT())
                await until(lambda: porter.gsocks)

        run_async(main)


class TestPerAddress:
    def test_one_address_cannot_take_all_the_places(
        self, porter: Porter, run_async: RunAsync, crowd: Crowd
    ) -> None:
        async def main() -> None:
            async with porter.gaplic:
                server = serve(porter, max_connections_per_ip=2)
                clients = crowd.many(2, server)
                await until(lambda: len(porter.gsocks) == 2)
                third = crowd(server)
                name = third.getsockname()
                assert await read_to_end(third) == b""
                assert porter.refused == [(name, "per_ip")]
                crowd.many(2, server, "127.0.0.2")
                await until(lambda: len(porter.gsocks) == 4)
                reset(clients[0])
                await until(lambda: len(porter.gsocks) == 3)
                crowd(server)
                await until(lambda: len(porter.gsocks) == 4)
                assert server.ledger.refused_by == {"per_ip": 1}

        run_async(main)

    def test_switched_on_while_connections_are_open_it_counts_those(
        self, porter: Porter, run_async: RunAsync, crowd: Crowd
    ) -> None:
        async def main() -> None:
            async with porter.gaplic:
                server = serve(porter)
                clients = crowd.many(3, server)
                await until(lambda: len(porter.gsocks) == 3)
                assert books(server) == (3, {})
                server.write_parameters(max_connections_per_ip=3)
                assert books(server) == (3, {LOCALHOST: 3})
                assert await read_to_end(crowd(server)) == b""
                server.write_parameters(max_connections_per_ip=0)
                clients += [crowd(server)]
                await until(lambda: len(porter.gsocks) == 4)
                server.write_parameters(max_connections_per_ip=4)
                assert books(server) == (4, {LOCALHOST: 4})
                assert await read_to_end(crowd(server)) == b""
                server.write_parameters(max_connections_per_ip=0)
                for client in clients:
                    client.close()
                await until(lambda: not porter.gsocks)
                assert books(server) == (0, {})

        run_async(main)

    @needs_ipv6
    def test_ipv6_is_counted_by_its_64_bits(self, porter: Porter, run_async: RunAsync) -> None:
        async def main() -> None:
            async with porter.gaplic:
                server = serve(porter, host="::1", max_connections_per_ip=1)
                with socket.create_connection(("::1", server.config.port)) as first:
                    await until(lambda: porter.gsocks)
                    with socket.create_connection(("::1", server.config.port)) as second:
                        second.setblocking(False)
                        assert await read_to_end(second) == b""
                    assert list(counts(server).values()) == [1]
                    first.close()
                    await until(lambda: not porter.gsocks)
                    assert books(server) == (0, {})

        run_async(main)

    @needs_ipv6
    def test_ipv4_is_the_same_through_a_socket_of_both(
        self, porter: Porter, run_async: RunAsync, crowd: Crowd
    ) -> None:
        async def main() -> None:
            async with porter.gaplic:
                server = serve(
                    porter, host="::", v6only=False, max_connections_per_ip=1,
                    allow=("127.0.0.0/30",), deny=("127.0.0.2",),
                )  # fmt: skip
                crowd(server)
                await until(lambda: porter.gsocks)
                assert porter.gsocks[0].peername[0] == "::ffff:127.0.0.1"
                for host, why in (
                    ("127.0.0.1", "per_ip"), ("127.0.0.2", "denied"), ("127.0.0.4", "denied"),
                ):  # fmt: skip
                    assert await read_to_end(crowd(server, host)) == b""
                    assert porter.refused[-1][1] == why
                assert books(server) == (1, {LOCALHOST: 1})

        run_async(main)


class TestRates:
    def test_they_wait_and_all_are_served_no_faster_than_the_rate(
        self, porter: Porter, run_async: RunAsync, crowd: Crowd
    ) -> None:
        async def main() -> None:
            async with porter.gaplic:
                server = serve(porter, accept_rate=50, accept_burst=2)
                start = time.monotonic()
                crowd.many(22, server)
                await until(lambda: server.state == "ST_THROTTLED")
                await until(lambda: len(porter.gsocks) == 22)
                took = time.monotonic() - start
                # 2 at once, 20 in at least 400 ms.
                assert 0.39 <= took < 5
                assert server.ledger.refused == 0

        run_async(main)

    def test_each_of_those_who_come_too_fast_is_turned_away(
        self, porter: Porter, run_async: RunAsync, crowd: Crowd
    ) -> None:
        async def main() -> None:
            async with porter.gaplic:
                server = serve(
                    porter, accept_rate=0.5, accept_burst=3, overflow="reject", reject_data=b"slow"
                )
                clients = crowd.many(5, server)
                for client in clients[3:]:
                    assert await read_to_end(client) == b"slow"
                assert [why for _, why in porter.refused] == ["rate", "rate"]
                assert server.ledger.refused_by == {"rate": 2}
                assert len(porter.gsocks) == 3
                assert server.state == "ST_LISTENING"

        run_async(main)

    def test_one_address_that_comes_too_fast(
        self, porter: Porter, run_async: RunAsync, crowd: Crowd
    ) -> None:
        async def main() -> None:
            async with porter.gaplic:
                server = serve(porter, accept_rate_per_ip=0.5, accept_burst_per_ip=2)
                clients = crowd.many(4, server)
                for client in clients[2:]:
                    assert await read_to_end(client) == b""
                crowd.many(2, server, "127.0.0.2")
                await until(lambda: len(porter.gsocks) == 4)
                assert server.ledger.refused_by == {"rate_per_ip": 2}

        run_async(main)

    @pytest.mark.parametrize(
        "change",
        [{"accept_rate": 0.0}, {"accept_rate": 20.0}],
        ids=["no limit", "faster"],
    )
    def test_raised_while_they_wait(
        self, change: dict[str, Any], porter: Porter, run_async: RunAsync, crowd: Crowd
    ) -> None:
        async def main() -> None:
            async with porter.gaplic:
                server = serve(porter, accept_rate=0.01, accept_burst=1)
                crowd.many(4, server)
                await until(lambda: server.state == "ST_THROTTLED")
                assert len(porter.gsocks) == 1
                server.write_parameters(**change)
                await until(lambda: len(porter.gsocks) == 4)

        run_async(main)

    def test_from_backlog_to_reject_while_they_wait(
        self, porter: Porter, run_async: RunAsync, crowd: Crowd
    ) -> None:
        async def main() -> None:
            async with porter.gaplic:
                server = serve(porter, accept_rate=0.01, accept_burst=1)
                clients = crowd.many(2, server)
                await until(lambda: server.state == "ST_THROTTLED")
                server.write_parameters(overflow="reject", reject_data=b"no")
                assert await read_to_end(clients[1]) == b"no"
                assert server.ledger.refused_by == {"rate": 1}

        run_async(main)

    def test_a_connection_that_closes_gives_no_token_back(
        self, porter: Porter, run_async: RunAsync, crowd: Crowd
    ) -> None:
        async def main() -> None:
            async with porter.gaplic:
                server = serve(porter, accept_rate=5, accept_burst=1)
                clients = crowd.many(3, server)
                start = time.monotonic()
                await until(lambda: porter.gsocks)
                clients[0].close()
                await until(lambda: len(porter.of(EV_CONNECTED)) == 3)
                assert time.monotonic() - start > 0.3

        run_async(main)


class TestNetworks:
    @pytest.mark.parametrize("why", ["full", "proxy", "shut"])
    def test_who_is_denied_gets_no_word_whatever_else_keeps_it_out(
        self, why: str, app: GAplic, run_async: RunAsync, crowd: Crowd
    ) -> None:
        class Shut(Porter):
            machine = {
                "ST_SHUT": [on(EV_REFUSED, Keeper.ac_keep), on(EV_DISCONNECTED, None, "ST_OPEN")],
                "ST_OPEN": [on(EV_CONNECTED, None), on(EV_RX_DATA, None)],
            }

        door = app.create_gobj("door", Shut if why == "shut" else Porter, app)
        parameters: dict[str, Any] = {
            "full": {"max_connections": 1, "overflow": "reject"},
            "proxy": {"proxy_protocol": "require", "proxy_trusted": ("127.0.0.9",)},
            "shut": {},
        }[why]

        async def main() -> None:
            async with app:
                server = serve(door, deny=("127.0.0.2",), reject_data=b"no", **parameters)
                if why == "full":
                    crowd(server)
                    await until(lambda: len(server.ledger) == 1)
                assert await read_to_end(crowd(server, "127.0.0.2")) == b""
                assert server.ledger.refused_by == {"denied": 1}
                assert await read_to_end(crowd(server, "127.0.0.3")) == b"no"
                assert server.ledger.refused_by == {"denied": 1, why: 1}

        run_async(main)

    def test_a_balancer_is_turned_away_whatever_its_own_address(
        self, porter: Porter, run_async: RunAsync, crowd: Crowd
    ) -> None:
        """Who is behind it is not known yet."""

        async def main() -> None:
            async with porter.gaplic:
                server = serve(
                    porter, deny=("127.0.0.9",), reject_data=b"no", max_connections=1,
                    overflow="reject", proxy_protocol="require", proxy_trusted=("127.0.0.9",),
                )  # fmt: skip
                crowd(server, "127.0.0.9")
                await until(lambda: len(server.ledger) == 1)
                assert await read_to_end(crowd(server, "127.0.0.9")) == b"no"
                assert server.ledger.refused_by == {"full": 1}

        run_async(main)

    def test_deny_allow_and_changes_while_it_runs(
        self, porter: Porter, run_async: RunAsync, crowd: Crowd
    ) -> None:
        async def main() -> None:
            async with porter.gaplic:
                server = serve(porter, deny=("127.0.0.2",), reject_data=b"secret")
                assert await read_to_end(crowd(server, "127.0.0.2")) == b""
                crowd(server, "127.0.0.3")
                await until(lambda: len(porter.gsocks) == 1)
                server.write_parameters(deny=(), allow=("127.0.0.2/31",))
                # Who is in stays in, and who is not allowed learns nothing.
                assert await read_to_end(crowd(server, "127.0.0.4")) == b""
                crowd(server, "127.0.0.2")
                await until(lambda: len(porter.gsocks) == 2)
                server.write_parameters(deny=("127.0.0.2",))
                assert await read_to_end(crowd(server, "127.0.0.2")) == b""
                assert [(host, why) for (host, _), why in porter.refused] == [
                    ("127.0.0.2", "denied"),
                    ("127.0.0.4", "denied"),
                    ("127.0.0.2", "denied"),
                ]
                server.write_parameters(deny=(), allow=())
                crowd(server, "127.0.0.4")
                await until(lambda: len(porter.gsocks) == 3)
                assert server.ledger.refused_by == {"denied": 3}

        run_async(main)


class TestTelling:
    def test_the_alarm_comes_once_in_a_cool_down(
        self, porter: Porter, run_async: RunAsync, crowd: Crowd, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def main() -> None:
            async with porter.gaplic:
                server = serve(porter, alarm_connections=2)
                clients = crowd.many(4, server)
                await until(lambda: len(porter.gsocks) == 4)
                assert porter.of(EV_ALARM) == [EV_ALARM(2, 2)]
                for client in clients:
                    client.close()
                await until(lambda: not porter.gsocks)
                crowd.many(3, server)
                await until(lambda: len(porter.gsocks) == 3)
                assert len(porter.of(EV_ALARM)) == 1
                server.write_parameters(alarm_cooldown=0.0)
                crowd(server)
                await until(lambda: len(porter.gsocks) == 4)
                assert porter.of(EV_ALARM)[1:] == [EV_ALARM(4, 2)]
                server.write_parameters(alarm_connections=0)
                crowd(server)
                await until(lambda: len(porter.gsocks) == 5)
                assert len(porter.of(EV_ALARM)) == 2

        with caplog.at_level(logging.WARNING, "ginsfsm"):
            run_async(main)
        assert [one.getMessage() for one in caplog.records] == [
            "app/porter/server: 2 connections are open",
            "app/porter/server: 4 connections are open",
        ]

    def test_who_has_no_row_hears_nothing_and_nothing_is_logged(
        self, app: GAplic, run_async: RunAsync, crowd: Crowd, caplog: pytest.LogCaptureFixture
    ) -> None:
        keeper = app.create_gobj("keeper", Keeper, app)

        async def main() -> None:
            async with app:
                server = serve(keeper, max_connections=1, overflow="reject")
                crowd(server)
                await until(lambda: keeper.gsocks)
                assert await read_to_end(crowd(server)) == b""
                assert {type(event) for event in keeper.heard} == {EV_CONNECTED}
                assert server.ledger.refused_by == {"full": 1}

        with caplog.at_level(logging.INFO, "ginsfsm"):
            run_async(main)
        assert not caplog.records

    def test_the_subscriber_may_destroy_the_server_or_raise_when_told(
        self, app: GAplic, run_async: RunAsync, crowd: Crowd, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Angry(Porter):
            angry = True

            def ac_refused(self, event: EV_REFUSED) -> None:
                if self.angry:
                    raise RuntimeError("I want all of them")
                self.destroy_gobj(event.source)

            machine = {"ST_IDLE": [*Keeper.machine["ST_IDLE"], on(EV_REFUSED, ac_refused)]}

        angry = app.create_gobj("angry", Angry, app)

        async def main() -> None:
            async with app:
                server = serve(angry, max_connections=1, overflow="reject")
                crowd(server)
                await until(lambda: angry.gsocks)
                assert await read_to_end(crowd(server)) == b""
                await until(lambda: caplog.records)
                assert server.state == "ST_LISTENING"
                angry.angry = False
                crowd.many(3, server)
                await until(lambda: server.destroyed)
                assert len(angry.gsocks) == 1

        with caplog.at_level(logging.ERROR, "ginsfsm"):
            run_async(main)
        assert len(caplog.records) == 1


BAD_VALUES: list[tuple[dict[str, Any], str]] = [
    ({"max_connections": -1}, "max_connections"),
    ({"max_connections": 1.5}, "max_connections"),
    ({"max_connections": "many"}, "max_connections"),
    ({"overflow": "queue"}, "'backlog', 'reject'"),
    ({"overflow": 1}, "overflow"),
    ({"reject_data": "text"}, "reject_data"),
    ({"max_connections_per_ip": -1}, "max_connections_per_ip"),
    ({"accept_rate": -1.0}, "accept_rate"),
    ({"accept_rate": float("nan")}, "accept_rate"),
    ({"accept_rate": float("inf")}, "accept_rate"),
    ({"accept_rate": 1e-9}, "0.000001"),
    ({"accept_burst": -1}, "accept_burst"),
    ({"accept_rate_per_ip": -1.0}, "accept_rate_per_ip"),
    ({"accept_burst_per_ip": -2}, "accept_burst_per_ip"),
    ({"allow": ("localhost",)}, "localhost"),
    ({"allow": "10.0.0.0/8"}, "allow"),
    ({"allow": ("10.0.0.1/8",)}, "10.0.0.0/8"),
    ({"deny": ("10.0.0.0/33",)}, "0 to 32"),
    ({"deny": ("1.2.3",)}, "1.2.3.0/24"),
    ({"allow": ("10.0.0.0/8",), "deny": ("0.0.0.0/0",)}, "nobody could come in"),
    ({"alarm_connections": -1}, "alarm_connections"),
    ({"alarm_cooldown": -1.0}, "alarm_cooldown"),
    ({"proxy_protocol": "v2"}, "'off', 'accept', 'require'"),
    (
        {"proxy_protocol": "require"},
        "proxy_trusted: proxy_protocol='require' expects the networks of the balancers, got ();",
    ),
    ({"proxy_trusted": ("balancer",)}, "balancer"),
    ({"proxy_timeout": -1.0}, "proxy_timeout"),
    ({"proxy_timeout": float("nan")}, "proxy_timeout"),
    ({"session_parameters": {"a": 1}}, "session_parameters"),
]


class TestBadValues:
    @pytest.mark.parametrize(("values", "told"), BAD_VALUES, ids=[repr(v) for v, _ in BAD_VALUES])
    def test_one_clear_error_and_nothing_half_open(
        self, values: dict[str, Any], told: str, porter: Porter
    ) -> None:
        with pytest.raises(GConfigError) as caught:
            serve(porter, **values)
        message = str(caught.value)
        assert told in message
        assert message.count("\n") <= 1, message
        assert not porter.children

    @pytest.mark.parametrize(("values", "told"), BAD_VALUES, ids=[repr(v) for v, _ in BAD_VALUES])
    def test_the_same_while_it_runs_and_the_old_ones_stand(
        self, values: dict[str, Any], told: str, porter: Porter, run_async: RunAsync, crowd: Crowd
    ) -> None:
        async def main() -> None:
            async with porter.gaplic:
                server = serve(porter, max_connections=1, overflow="reject")
                with pytest.raises(GConfigError) as caught:
                    server.write_parameters(**{"max_connections_per_ip": 7, **values})
                assert told in str(caught.value)
                assert server.config.max_connections == 1
                assert server.config.max_connections_per_ip == 0
                crowd(server)
                await until(lambda: porter.gsocks)
                assert await read_to_end(crowd(server)) == b""
                assert books(server) == (1, {})

        run_async(main)

    def test_all_faults_are_told_at_once(self, porter: Porter) -> None:
        with pytest.raises(GConfigError) as caught:
            serve(porter, max_connections=-1, overflow="drop", allow=5, accept_burst=-1)
        for name in "max_connections", "overflow", "allow", "accept_burst":
            assert name in str(caught.value)

    @pytest.mark.parametrize("name", ["host", "port", "ports", "backlog", "session", "subscriber"])
    def test_what_cannot_change_says_so(self, name: str, porter: Porter) -> None:
        server = serve(porter, max_connections=1)
        given: dict[str, Any] = {
            "host": "127.0.0.2", "port": 1, "ports": (1,), "backlog": 2, "session": Keeper,
            "subscriber": porter,
        }  # fmt: skip
        with pytest.raises(GConfigError, match=f"{name}: cannot change while the server listens"):
            server.write_parameters(**{name: given[name], "max_connections": 5})
        assert server.config.max_connections == 1
        assert not server._shared.admission.full(0)
        assert server._shared.admission.full(1)


class Fragile(GObj):
    """A session that breaks where it is told to."""

    class config(GObj.config):
        """Where."""

        breaks: str = param("", "where it breaks")

    def start_up(self) -> None:
        if self.config.breaks == "start_up":
            raise RuntimeError("start_up")
        if self.config.breaks == "destroy":
            self.destroy_gobj(self)

    def ac_connected(self, event: EV_CONNECTED) -> None:
        match self.config.breaks:
            case "connected":
                raise RuntimeError("connected")
            case "destroy it":
                self.destroy_gobj(event.source)
            case "destroy me":
                self.destroy_gobj(self)

    def ac_rx(self, _event: EV_RX_DATA) -> None:
        raise RuntimeError("rx")

    def ac_gone(self, _event: EV_DISCONNECTED) -> None:
        if self.config.breaks == "gone":
            raise RuntimeError("gone")

    machine = {
        "ST_IDLE": [
            on(EV_CONNECTED, ac_connected),
            on(EV_RX_DATA, ac_rx),
            on(EV_DISCONNECTED, ac_gone),
        ],
    }


class TestTheBooksAreRight:
    @pytest.mark.parametrize(
        "breaks", ["start_up", "destroy", "connected", "destroy it", "destroy me", "rx", "gone"]
    )
    def test_after_sessions_that_fail_again_and_again(
        self, breaks: str, porter: Porter, run_async: RunAsync, crowd: Crowd
    ) -> None:
        async def main() -> None:
            async with porter.gaplic:
                server = serve(
                    porter,
                    session=Fragile,
                    session_parameters={"breaks": breaks},
                    max_connections=2,
                    max_connections_per_ip=2,
                )
                for _ in range(12):
                    client = crowd(server)
                    client.send(b"x")
                    if breaks == "gone":
                        client.close()
                    else:
                        await read_to_end(client)
                        client.close()
                await until(lambda: not server.config.n_gsocks and server.ledger.accepted == 12)
                await until(lambda: list(porter.children) == ["server"])
                assert books(server) == (0, {})
                assert server.ledger.refused == 0

        run_async(main)

    def test_after_handshakes_that_fail(
        self, porter: Porter, run_async: RunAsync, crowd: Crowd
    ) -> None:
        async def main() -> None:
            async with porter.gaplic:
                server = serve(
                    porter,
                    ssl_options={"certfile": str(certificates.server())},
                    max_connections=2,
                    max_connections_per_ip=2,
                    handshake_timeout=0.2,
                )
                for number in range(9):
                    client = crowd(server)
                    if number % 3 == 0:
                        client.send(b"GET / HTTP/1.0\r\n\r\n")
                        await read_to_end(client)
                    elif number % 3 == 1:
                        await until(lambda: server.config.n_gsocks)
                        reset(client)
                    else:
                        await read_to_end(client)
                    client.close()
                    await until(lambda: not server.config.n_gsocks)
                    assert books(server) == (0, {})
                assert server.ledger.accepted == server.ledger.failed_handshakes == 9

        run_async(main)

    def test_after_a_shut_door(self, app: GAplic, run_async: RunAsync, crowd: Crowd) -> None:
        class Door(Porter):
            """Shuts when the first one is in; those who are just being told find it shut."""

            def ac_first(self, event: EV_CONNECTED) -> None:
                self.heard.append(event)

            machine = {
                "ST_OPEN": [
                    on(EV_CONNECTED, ac_first, "ST_SHUT"),
                    on(EV_RX_DATA, None),
                    on(EV_DISCONNECTED, Keeper.ac_gone),
                    on(EV_REFUSED, Keeper.ac_keep),
                ],
                "ST_SHUT": [
                    on(EV_DISCONNECTED, Keeper.ac_gone, "ST_OPEN"),
                    on(EV_REFUSED, Keeper.ac_keep),
                ],
            }

        door = app.create_gobj("door", Door, app)

        async def main() -> None:
            async with app:
                server = serve(door, max_connections_per_ip=2, reject_data=b"shut")
                for _ in range(5):
                    clients = crowd.many(3, server)
                    await until(lambda: len(door.of(EV_REFUSED)) == 2)
                    assert books(server) == (1, {LOCALHOST: 1})
                    for client in clients:
                        reset(client)
                    await until(lambda: not server.config.n_gsocks)
                    await until(lambda: door.state == "ST_OPEN")
                    door.heard.clear()
                assert server.ledger.refused_by == {"shut": 10}
                assert books(server) == (0, {})

        run_async(main)

    def test_connections_outlive_their_server(
        self, porter: Porter, run_async: RunAsync, crowd: Crowd
    ) -> None:
        async def main() -> None:
            async with porter.gaplic:
                server = serve(porter, max_connections=2, max_connections_per_ip=2)
                clients = crowd.many(2, server)
                await until(lambda: len(porter.gsocks) == 2)
                shared = server._shared
                porter.destroy_gobj(server)
                for client in clients:
                    reset(client)
                await until(lambda: not porter.gsocks)
                assert not len(shared.ledger)
                assert not shared.admission._counts

        run_async(main)


def test_session_without_the_events_of_a_connection(porter: Porter) -> None:
    class Deaf(GObj):
        """Could not serve anybody."""

        machine = {"ST_IDLE": [on(EV_REFUSED, None)]}

    with pytest.raises(GObjError, match="Deaf has neither EV_CONNECTED"):
        serve(porter, session=Deaf)
    assert not porter.children
