"""The PROXY protocol on real sockets: whose a connection really is, and who may say so."""

import asyncio
import logging
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from conftest import RunAsync
from ginsfsm import NOT_ACCEPTED, GAplic, GObj, on
from ginsfsm.c_sock import (
    EV_CONNECTED,
    EV_DISCONNECTED,
    EV_DROP,
    EV_FLUSH_OUTPUT_DATA,
    EV_PAUSE_RX,
    EV_RESUME_RX,
    EV_RX_DATA,
    EV_RX_FRAME,
    EV_SEND_DATA,
    EV_SEND_FRAME,
    EV_START_TLS,
    EV_TLS_STARTED,
    EV_WRITE_OUTPUT_DATA,
    GSock,
)
from ginsfsm.c_srv_sock import EV_REFUSED, GServerSock
from ginsfsm.net.proxy_header import ProxyTls, TlvType
from proxy_builder import build_proxy_v1, build_proxy_v2
from secure import TlsPeer, client_context, server_options
from servers import Keeper, read, read_to_end, serve
from sockets import DEADLINE, RESET, Peer, gaplic, turns
from sockets import wait_for as until

CLIENT = ("192.0.2.7", 40000)
OTHER = ("192.0.2.8", 40001)
TARGET = ("198.51.100.1", 443)
V1 = build_proxy_v1(CLIENT, TARGET)
V2 = build_proxy_v2(CLIENT, TARGET)
HEADERS = pytest.mark.parametrize("header", [V1, V2], ids=["v1", "v2"])
LOCALS = pytest.mark.parametrize(
    "header",
    [build_proxy_v1(), build_proxy_v2(local=True), build_proxy_v2()],
    ids=["UNKNOWN", "LOCAL", "unspecified"],
)
BALANCED: dict[str, Any] = {"proxy_protocol": "require", "proxy_trusted": ("127.0.0.1",)}


class Desk(Keeper):
    """Keeps what it hears, with what the header said at that time, and answers."""

    greeting = b""

    def start_up(self) -> None:
        super().start_up()
        self.pauses = False

    def ac_connected(self, event: EV_CONNECTED) -> None:
        self.heard.append(event)
        if self.pauses:
            self.send_event(event.source, EV_PAUSE_RX())
        self.send_event(event.source, EV_SEND_DATA(b"hello\n"))

    @property
    def refused(self) -> list[tuple[Any, str]]:
        return [(event.peername, str(event.reason)) for event in self.of(EV_REFUSED)]

    @property
    def connected(self) -> list[GSock]:
        """Those whose header has come."""
        return [gsock for gsock in self.gsocks if gsock.state == "ST_CONNECTED"]

    @property
    def received(self) -> bytes:
        return b"".join(event.data for event in self.of(EV_RX_DATA))

    machine = {
        "ST_IDLE": [
            on(EV_CONNECTED, ac_connected),
            on(EV_RX_DATA, Keeper.ac_keep),
            on(EV_RX_FRAME, Keeper.ac_keep),
            on(EV_TLS_STARTED, Keeper.ac_keep),
            on(EV_REFUSED, Keeper.ac_keep),
            on(EV_DISCONNECTED, Keeper.ac_gone),
        ],
    }


@pytest.fixture(params=["auto", "loop"], ids=["poller", "loop_poller"])
def app(request: pytest.FixtureRequest) -> Iterator[GAplic]:
    """A gaplic with each kind of poller."""
    app = gaplic(request.param)
    yield app
    app.destroy_gobj(app)


@pytest.fixture
def desk(app: GAplic) -> Desk:
    return app.create_gobj("desk", Desk, app)


class Dial:
    """Connections as a balancer makes them."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def __call__(
        self, server: GServerSock, first: bytes = b"", host: str = "127.0.0.1"
    ) -> socket.socket:
        client = self._stack.enter_context(socket.socket())
        client.bind((host, 0))
        client.settimeout(DEADLINE)
        client.connect(("127.0.0.1", server.config.port))
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.setblocking(False)
        if first:
            assert client.send(first) == len(first)
        return client


@pytest.fixture
def dial() -> Iterator[Dial]:
    with ExitStack() as stack:
        yield Dial(stack)


def told(caplog: pytest.LogCaptureFixture, level: int = logging.INFO) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.levelno >= level]


class TestWhoseItIs:
    @HEADERS
    def test_peername_is_the_real_client(
        self, header: bytes, desk: Desk, run_async: RunAsync, dial: Dial
    ) -> None:
        async def main() -> None:
            async with desk.gaplic:
                server = serve(desk, **BALANCED)
                balancer = dial(server, header + b"first")
                assert await read(balancer, 6) == b"hello\n"
                await until(lambda: desk.received == b"first")
                (event,) = desk.of(EV_CONNECTED)
                (gsock,) = desk.gsocks
                assert event.peername == gsock.peername == CLIENT
                assert event.sockname == ("127.0.0.1", server.config.port)
                assert gsock.balancer == balancer.getsockname()
                assert gsock.proxy is not None
                assert gsock.proxy.source == CLIENT
                assert gsock.proxy.destination == TARGET
                balancer.send(b" more")
                await until(lambda: desk.received == b"first more")
                assert gsock.rx_bytes == 10
                balancer.close()
                await until(lambda: not desk.gsocks)
                assert desk.of(EV_DISCONNECTED)[0].reason == "peer"

        run_async(main)

    def test_tlvs_are_readable(self, desk: Desk, run_async: RunAsync, dial: Dial) -> None:
        tls = ProxyTls(version="TLSv1.3", cn="good", certificate_given=True, verify=0)
        tlvs = [
            (TlvType.AUTHORITY, b"shop.example"),
            (TlvType.UNIQUE_ID, b"id-7"),
            (TlvType.TLS, tls.to_value()),
            (0xE1, b"ours"),
        ]

        async def main() -> None:
            async with desk.gaplic:
                server = serve(desk, **BALANCED)
                dial(server, build_proxy_v2(CLIENT, TARGET, tlvs=tlvs, checksum=True))
                await until(lambda: desk.of(EV_CONNECTED))
                proxy = desk.gsocks[0].proxy
                assert proxy is not None
                assert proxy.authority == "shop.example"
                assert proxy.unique_id == b"id-7"
                assert proxy.tls == tls
                assert proxy.tls is not None
                assert proxy.tls.verified
                assert proxy.tlv(0xE1) == b"ours"

        run_async(main)

    def test_ipv6_and_unix(self, desk: Desk, run_async: RunAsync, dial: Dial) -> None:
        async def main() -> None:
            async with desk.gaplic:
                server = serve(desk, **BALANCED, max_connections_per_ip=1)
                dial(server, build_proxy_v2(("2001:db8::7", 1), ("2001:db8::1", 2)))
                dial(server, build_proxy_v2("/run/client", "/run/server"))
                await until(lambda: len(desk.of(EV_CONNECTED)) == 2)
                assert [event.peername for event in desk.of(EV_CONNECTED)] == [
                    ("2001:db8::7", 1, 0, 0),
                    "/run/client",
                ]
                assert len(server._shared.admission._counts) == 1

        run_async(main)

    @HEADERS
    def test_a_balancer_at_a_unix_socket_needs_no_network(
        self, header: bytes, desk: Desk, run_async: RunAsync, opened: ExitStack, tmp_path: Path
    ) -> None:
        async def main() -> None:
            async with desk.gaplic:
                path = str(tmp_path / "s")
                server = desk.create_gobj(
                    "server", GServerSock, desk,
                    unix_path=path, proxy_protocol="require", max_connections_per_ip=1,
                )  # fmt: skip
                for _ in range(2):
                    client = opened.enter_context(socket.socket(socket.AF_UNIX))
                    client.connect(path)
                    client.send(header)
                await until(lambda: desk.refused)
                assert desk.refused == [(CLIENT, "per_ip")]
                (gsock,) = desk.connected
                assert gsock.peername == CLIENT
                assert gsock.balancer == ""
                assert gsock.sockname == path
                assert server.config.n_gsocks == 1

        run_async(main)

    @HEADERS
    def test_a_byte_at_a_time(
        self, header: bytes, desk: Desk, run_async: RunAsync, dial: Dial
    ) -> None:
        async def main() -> None:
            async with desk.gaplic:
                server = serve(desk, **BALANCED)
                balancer = dial(server)
                await until(lambda: server.config.n_gsocks)
                for number in range(len(header)):
                    assert not desk.heard
                    balancer.send(header[number : number + 1])
                    await turns(3)
                balancer.send(b"x")
                await until(lambda: desk.received == b"x")
                assert desk.gsocks[0].peername == CLIENT

        run_async(main)

    @pytest.mark.parametrize("overflow", ["backlog", "reject"])
    @LOCALS
    def test_health_checks_do_not_disturb(
        self,
        overflow: str,
        header: bytes,
        desk: Desk,
        run_async: RunAsync,
        dial: Dial,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        async def main() -> None:
            async with desk.gaplic:
                server = serve(
                    desk,
                    **BALANCED,
                    max_connections_per_ip=1,
                    accept_rate=0.001,
                    accept_burst=1,
                    overflow=overflow,
                    deny=("127.0.0.1",),
                )
                for _ in range(5):
                    check = dial(server, header)
                    await read(check, 6)
                    check.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    name = check.getsockname()
                    check.close()
                    await until(lambda: not desk.gsocks)
                    assert desk.of(EV_CONNECTED)[-1].peername == name
                dial(server, V2)
                await until(lambda: desk.connected)
                assert server.ledger.refused == 0
                assert server.ledger.accepted == 6

        with caplog.at_level(logging.INFO, "ginsfsm"):
            run_async(main)
        assert not caplog.records


class TestRequire:
    @pytest.mark.parametrize(
        ("sent", "sentence"),
        [
            (b"GET / HTTP/1.0\r\n\r\n", "not the beginning of a PROXY header"),
            (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 99999\r\n", "cannot stand there"),
            (V2[:12] + b"\x31" + V2[13:], "version 3"),
            (V1[:20], "it closed the connection"),
            (V2[:20], "not complete within 0.2 s"),
            (b"", "not complete within 0.2 s"),
        ],
        ids=["missing", "wrong v1", "wrong v2", "cut off", "late", "never"],
    )
    def test_refused_counted_and_told_in_one_line(
        self,
        sent: bytes,
        sentence: str,
        desk: Desk,
        run_async: RunAsync,
        dial: Dial,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        async def main() -> None:
            async with desk.gaplic:
                server = serve(desk, **BALANCED, proxy_timeout=0.2, max_connections_per_ip=1)
                client = dial(server, sent)
                name = client.getsockname()
                if "closed" in sentence:
                    client.shutdown(socket.SHUT_WR)
                assert await read_to_end(client) == b""
                assert desk.refused == [(name, "proxy")]
                assert server.ledger.refused_by == {"proxy": 1}
                assert server.config.n_gsocks == 0
                assert list(desk.children) == ["server"]
                assert not server._shared.admission._counts

        with caplog.at_level(logging.INFO, "ginsfsm"):
            run_async(main)
        (line,) = told(caplog)
        assert "no PROXY header from 127.0.0.1:" in line
        assert sentence in line

    def test_whoever_is_no_balancer_is_turned_away_whatever_it_says(
        self, desk: Desk, run_async: RunAsync, dial: Dial
    ) -> None:
        async def main() -> None:
            async with desk.gaplic:
                server = serve(desk, **BALANCED)
                liar = dial(server, V2, "127.0.0.2")
                name = liar.getsockname()
                assert await read_to_end(liar) == b""
                assert desk.refused == [(name, "proxy")]
                server.write_parameters(proxy_trusted=("127.0.0.0/8",))
                dial(server, V2, "127.0.0.2")
                await until(lambda: desk.connected)
                server.write_parameters(proxy_protocol="off")
                dial(server, b"plain", "127.0.0.3")
                await until(lambda: desk.received == b"plain")
                assert desk.of(EV_CONNECTED)[-1].peername[0] == "127.0.0.3"

        run_async(main)

    @pytest.mark.parametrize("end", ["close", "reset"])
    def test_who_only_looks_whether_the_port_is_open_is_no_news(
        self,
        end: str,
        desk: Desk,
        run_async: RunAsync,
        dial: Dial,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        async def main() -> None:
            async with desk.gaplic:
                server = serve(desk, **BALANCED)
                check = dial(server)
                await until(lambda: server.config.n_gsocks)
                if end == "reset":
                    check.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                check.close()
                await until(lambda: not server.config.n_gsocks)
                assert not desk.of(EV_CONNECTED)
                assert server.ledger.refused_by == {"proxy": 1}

        with caplog.at_level(logging.INFO, "ginsfsm"):
            run_async(main)
        assert not caplog.records

    def test_a_loop_over_all_children_is_no_mistake_while_headers_are_awaited(
        self, desk: Desk, run_async: RunAsync, dial: Dial, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def main() -> None:
            async with desk.gaplic:
                server = serve(desk, **BALANCED)
                client = dial(server)
                await until(lambda: desk.gsocks)
                (gsock,) = desk.gsocks
                for event in (
                    EV_SEND_DATA(b"x"), EV_SEND_FRAME(b"x"), EV_WRITE_OUTPUT_DATA(b"x"),
                    EV_FLUSH_OUTPUT_DATA(), EV_PAUSE_RX(), EV_RESUME_RX(), EV_START_TLS(),
                ):  # fmt: skip
                    assert desk.send_event(gsock, event) is NOT_ACCEPTED
                assert gsock.state == "ST_PROXY"
                desk.send_event(gsock, EV_DROP())
                # Nobody had heard of it, so nobody hears of its end.
                assert gsock.destroyed
                assert server.config.n_gsocks == 0
                assert await read_to_end(client) == b""
                assert not desk.heard

        with caplog.at_level(logging.INFO, "ginsfsm"):
            run_async(main)
        assert not caplog.records


ACCEPT: dict[str, Any] = {**BALANCED, "proxy_protocol": "accept"}


class TestAccept:
    @HEADERS
    def test_with_a_header_and_without(
        self, header: bytes, desk: Desk, run_async: RunAsync, dial: Dial
    ) -> None:
        async def main() -> None:
            async with desk.gaplic:
                server = serve(desk, **ACCEPT, max_connections_per_ip=1)
                dial(server, header)
                await until(lambda: len(desk.connected) == 1)
                plain = dial(server, b"GET /")
                await until(lambda: desk.received == b"GET /")
                assert [one.peername for one in desk.gsocks] == [CLIENT, plain.getsockname()]
                assert desk.gsocks[1].proxy is None
                assert server.ledger.refused == 0

        run_async(main)

    @pytest.mark.parametrize("sent", [b"", b"P", b"\r\n"])
    def test_who_waits_for_the_server_is_served_after_the_timeout(
        self, sent: bytes, desk: Desk, run_async: RunAsync, dial: Dial
    ) -> None:
        async def main() -> None:
            async with desk.gaplic:
                server = serve(desk, **ACCEPT, proxy_timeout=0.2, first_data_timeout=30.0)
                client = dial(server, sent)
                assert await read(client, 6) == b"hello\n"
                client.send(b"go on")
                await until(lambda: desk.received == sent + b"go on")
                assert desk.gsocks[0].peername == client.getsockname()

        run_async(main)

    @pytest.mark.parametrize("sent", [b"", b"P", b"\r\n"])
    def test_who_says_no_more_is_served_at_once(
        self, sent: bytes, desk: Desk, run_async: RunAsync, dial: Dial
    ) -> None:
        """A client that ends its side and reads, as `nc -N` does, comes from no balancer."""

        async def main() -> None:
            async with desk.gaplic:
                server = serve(desk, **ACCEPT, proxy_timeout=0)
                client = dial(server, sent)
                client.shutdown(socket.SHUT_WR)
                assert await read_to_end(client) == b"hello\n"
                await until(lambda: desk.of(EV_DISCONNECTED))
                assert desk.received == sent
                assert desk.of(EV_DISCONNECTED)[0].reason == "peer"
                assert server.ledger.refused == 0

        run_async(main)

    @pytest.mark.parametrize("sent", [V1[:20], V2[:20]], ids=["v1", "v2"])
    def test_a_header_that_stops_is_not_taken_for_data(
        self, sent: bytes, desk: Desk, run_async: RunAsync, dial: Dial
    ) -> None:
        async def main() -> None:
            async with desk.gaplic:
                server = serve(desk, **ACCEPT, proxy_timeout=0.2)
                assert await read_to_end(dial(server, sent)) == b""
                assert server.ledger.refused_by == {"proxy": 1}
                assert not desk.of(EV_CONNECTED)

        run_async(main)

    def test_whoever_is_no_balancer_is_a_client_whatever_it_says(
        self, desk: Desk, run_async: RunAsync, dial: Dial
    ) -> None:
        async def main() -> None:
            async with desk.gaplic:
                server = serve(desk, **ACCEPT)
                liar = dial(server, V1, "127.0.0.2")
                await until(lambda: desk.received == V1)
                (gsock,) = desk.gsocks
                assert gsock.peername == liar.getsockname()
                assert gsock.balancer is None
                assert gsock.proxy is None

        run_async(main)


def tls_peer(client: socket.socket) -> TlsPeer:
    return TlsPeer(Peer(client), client_context(), server_side=False, server_hostname="localhost")


class TestBeforeOthers:
    @pytest.mark.parametrize("together", [True, False], ids=["one segment", "apart"])
    @HEADERS
    def test_before_tls(
        self, header: bytes, together: bool, desk: Desk, run_async: RunAsync, dial: Dial
    ) -> None:
        async def main() -> None:
            async with desk.gaplic:
                server = serve(desk, **BALANCED, ssl_options=dict(server_options()))
                client = dial(server)
                peer = tls_peer(client)
                assert not peer.step()
                hello = peer.written()
                if together:
                    await peer.send_raw(header + hello)
                else:
                    await peer.send_raw(header)
                    await turns()
                    await peer.send_raw(hello)
                await peer.shake()
                assert await peer.read(6) == b"hello\n"
                await peer.send(b"secret")
                await until(lambda: desk.received == b"secret")
                (gsock,) = desk.gsocks
                assert gsock.peername == CLIENT
                assert gsock.balancer == client.getsockname()
                assert gsock.tls is not None

        run_async(main)

    def test_accept_without_a_header_before_tls(
        self, desk: Desk, run_async: RunAsync, dial: Dial
    ) -> None:
        async def main() -> None:
            async with desk.gaplic:
                server = serve(desk, **ACCEPT, ssl_options=dict(server_options()))
                client = dial(server)
                await (peer := tls_peer(client)).shake()
                assert await peer.read(6) == b"hello\n"
                assert desk.gsocks[0].peername == client.getsockname()

        run_async(main)

    def test_start_tls_when_the_client_hello_came_with_the_header(
        self, app: GAplic, run_async: RunAsync, dial: Dial
    ) -> None:
        class Upgrader(Keeper):
            """Takes TLS as soon as it is told."""

            def ac_up(self, event: EV_CONNECTED) -> None:
                self.heard.append(event)
                self.send_event(event.source, EV_START_TLS())

            machine = {
                "ST_IDLE": [
                    on(EV_CONNECTED, ac_up),
                    on(EV_TLS_STARTED, Keeper.ac_keep),
                    on(EV_RX_DATA, Keeper.ac_keep),
                    on(EV_DISCONNECTED, Keeper.ac_gone),
                ],
            }

        owner = app.create_gobj("owner", Upgrader, app)

        async def main() -> None:
            async with app:
                options = dict(server_options())
                server = serve(owner, **BALANCED, ssl_options=options, start_tls=True)
                peer = tls_peer(dial(server))
                assert not peer.step()
                await peer.send_raw(V2 + peer.written())
                await peer.shake()
                await peer.send(b"x")
                await until(lambda: owner.of(EV_RX_DATA))
                assert owner.of(EV_TLS_STARTED)

        run_async(main)

    def test_what_came_with_the_header_waits_while_the_owner_has_paused(
        self, desk: Desk, run_async: RunAsync, dial: Dial
    ) -> None:
        async def main() -> None:
            async with desk.gaplic:
                server = serve(desk, **BALANCED)
                desk.pauses = True
                client = dial(server, V2 + b"one ")
                await read(client, 6)
                client.send(b"two")
                client.shutdown(socket.SHUT_WR)
                await turns(30)
                assert desk.received == b""
                desk.send_event(desk.gsocks[0], EV_RESUME_RX())
                await until(lambda: desk.of(EV_DISCONNECTED))
                assert desk.received == b"one two"

        run_async(main)

    @HEADERS
    def test_with_framing(self, header: bytes, desk: Desk, run_async: RunAsync, dial: Dial) -> None:
        async def main() -> None:
            async with desk.gaplic:
                server = serve(desk, **BALANCED, framing="lines")
                client = dial(server, header + b"one\ntwo\nthr")
                client.send(b"ee\n")
                await until(lambda: len(desk.of(EV_RX_FRAME)) == 3)
                frames = [event.data for event in desk.of(EV_RX_FRAME)]
                assert frames == [b"one", b"two", b"three"]

        run_async(main)

    @HEADERS
    def test_with_sessions(
        self, header: bytes, desk: Desk, run_async: RunAsync, dial: Dial
    ) -> None:
        class Session(GObj):
            """Sends back, and says whose it is."""

            def ac_connected(self, event: EV_CONNECTED) -> None:
                self.send_event(event.source, EV_SEND_DATA(event.peername[0].encode() + b"\n"))

            def ac_rx(self, event: EV_RX_DATA) -> None:
                self.send_event(event.source, EV_SEND_DATA(event.data))

            machine = {"ST_IDLE": [on(EV_CONNECTED, ac_connected), on(EV_RX_DATA, ac_rx)]}

        async def main() -> None:
            async with desk.gaplic:
                server = serve(desk, **BALANCED, session=Session)
                client = dial(server, header + b"echo")
                assert await read(client, 14) == b"192.0.2.7\necho"
                assert list(desk.children) == ["server", "server.session_1"]
                client.close()
                await until(lambda: list(desk.children) == ["server"])

        run_async(main)


class TestLimits:
    def test_they_are_the_real_clients(self, desk: Desk, run_async: RunAsync, dial: Dial) -> None:
        other = build_proxy_v1(OTHER, TARGET)

        async def main() -> None:
            async with desk.gaplic:
                server = serve(desk, **BALANCED, max_connections_per_ip=1, deny=("203.0.113.0/24",))
                for _ in range(3):
                    first = dial(server, V1)
                    await until(lambda: desk.connected)
                    assert await read_to_end(dial(server, V2)) == b""
                    denied = build_proxy_v2(("203.0.113.9", 1), TARGET)
                    assert await read_to_end(dial(server, denied)) == b""
                    second = dial(server, other)
                    await until(lambda: len(desk.connected) == 2)
                    first.close()
                    second.close()
                    await until(lambda: not desk.gsocks)
                    assert not server._shared.admission._counts
                assert desk.refused == [(CLIENT, "per_ip"), (("203.0.113.9", 1), "denied")] * 3
                assert server.ledger.refused_by == {"per_ip": 3, "denied": 3}

        run_async(main)

    def test_addresses_of_one_64_are_one_client(
        self, desk: Desk, run_async: RunAsync, dial: Dial
    ) -> None:
        async def main() -> None:
            target = ("2001:db8:ffff::1", 443)

            def header(host: str) -> bytes:
                return build_proxy_v2((host, 40000), target)

            async with desk.gaplic:
                server = serve(desk, **BALANCED, max_connections_per_ip=1)
                first = dial(server, header("2001:db8:1:2::7"))
                await until(lambda: desk.connected)
                same = dial(server, header("2001:db8:1:2:ffff:ffff:ffff:ffff"))
                assert await read_to_end(same) == b""
                # The next /64 is somebody else.
                dial(server, header("2001:db8:1:3::7"))
                await until(lambda: len(desk.connected) == 2)
                assert [(peer[0], reason) for peer, reason in desk.refused] == [
                    ("2001:db8:1:2:ffff:ffff:ffff:ffff", "per_ip")
                ]
                assert sorted(server._shared.admission._counts.values()) == [1, 1]
                first.close()
                await until(lambda: len(desk.gsocks) == 1)
                again = dial(server, header("2001:db8:1:2:8000::"))
                assert await read(again, 6) == b"hello\n"

        run_async(main)

    def test_health_checks_take_a_place_while_they_are_open(
        self, desk: Desk, run_async: RunAsync, dial: Dial
    ) -> None:
        async def main() -> None:
            async with desk.gaplic:
                server = serve(desk, **BALANCED, max_connections=1, overflow="reject")
                check = dial(server, build_proxy_v2(local=True))
                assert await read(check, 6) == b"hello\n"
                assert server.config.n_gsocks == 1
                assert await read_to_end(dial(server, V2)) == b""
                check.close()
                await until(lambda: not desk.gsocks)
                assert await read(dial(server, V2), 6) == b"hello\n"
                # And there is none for them where clients have taken all.
                assert await read_to_end(dial(server, build_proxy_v2(local=True))) == b""
                assert server.ledger.refused_by == {"full": 2}

        run_async(main)

    def test_switched_on_while_headers_are_awaited(
        self, desk: Desk, run_async: RunAsync, dial: Dial
    ) -> None:
        async def main() -> None:
            async with desk.gaplic:
                server = serve(desk, **BALANCED)
                dial(server, V1)
                dial(server, build_proxy_v2(local=True))
                await until(lambda: len(desk.connected) == 2)
                late = dial(server)
                await until(lambda: server.config.n_gsocks == 3)
                server.write_parameters(max_connections_per_ip=2)
                assert server._shared.admission._counts == {bytes([192, 0, 2, 7]): 1}
                late.send(V2)
                await until(lambda: len(desk.of(EV_CONNECTED)) == 3)
                assert server._shared.admission._counts == {bytes([192, 0, 2, 7]): 2}
                for gsock in desk.gsocks:
                    desk.destroy_gobj(gsock)
                assert not server._shared.admission._counts

        run_async(main)

    def test_max_connections_counts_those_whose_header_is_awaited(
        self, desk: Desk, run_async: RunAsync, dial: Dial
    ) -> None:
        async def main() -> None:
            async with desk.gaplic:
                server = serve(desk, **BALANCED, max_connections=1)
                slow = dial(server)
                quick = dial(server, V1)
                await until(lambda: server.state == "ST_FULL")
                assert not desk.of(EV_CONNECTED)
                slow.close()
                assert await read(quick, 6) == b"hello\n"

        run_async(main)

    @pytest.mark.parametrize("together", [True, False], ids=["one segment", "apart"])
    def test_behind_a_balancer_too_all_are_served_at_the_rate(
        self, together: bool, desk: Desk, run_async: RunAsync, dial: Dial
    ) -> None:
        async def main() -> None:
            async with desk.gaplic:
                server = serve(desk, **BALANCED, accept_rate=20, accept_burst=1)
                start = asyncio.get_running_loop().time()
                clients = [dial(server, V1 if together else b"") for _ in range(8)]
                if not together:
                    await turns(30)
                    for client in clients:
                        client.send(V1)
                await until(lambda: len(desk.of(EV_CONNECTED)) + server.ledger.refused == 8)
                assert server.ledger.refused == 0
                assert asyncio.get_running_loop().time() - start > 0.34

        run_async(main)

    @pytest.mark.parametrize(
        "header",
        [V2, build_proxy_v2(local=True), b"GET / HTTP/1.0\r\n\r\n"],
        ids=["turned away", "health check", "no header"],
    )
    def test_whom_the_rate_does_not_count_holds_up_nobody(
        self, header: bytes, desk: Desk, run_async: RunAsync, dial: Dial
    ) -> None:
        async def main() -> None:
            async with desk.gaplic:
                server = serve(
                    desk, **BALANCED, accept_rate=0.001, accept_burst=1, deny=(CLIENT[0],)
                )
                first = dial(server)
                await until(lambda: server.config.n_gsocks)
                dial(server, build_proxy_v2(OTHER, TARGET))
                await until(lambda: server.state == "ST_THROTTLED")
                # The only token is free again as soon as it is known what the first one is.
                first.send(header)
                await until(lambda: OTHER in [event.peername for event in desk.of(EV_CONNECTED)])

        run_async(main)
