"""The PROXY protocol through a real HAProxy: both versions, TLS behind it, health checks on."""

import asyncio
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import certificates
from conftest import RunAsync
from ginsfsm import GAplic, GObj, on
from ginsfsm.c_sock import EV_CONNECTED, EV_DISCONNECTED, EV_RX_DATA, EV_SEND_DATA, GSock
from ginsfsm.c_srv_sock import EV_REFUSED, GServerSock
from secure import TlsPeer, client_context, server_options
from servers import read, read_to_end, serve
from sockets import DEADLINE, Peer, gaplic
from sockets import wait_for as until

pytestmark = pytest.mark.peer

Require = Callable[[str], str]
SENDS = pytest.mark.parametrize("send", ["send-proxy", "send-proxy-v2"])

CONFIG = """
global
    maxconn 100
    stats socket {folder}/control mode 600 level admin
defaults
    mode tcp
    timeout connect 5s
    timeout client 20s
    timeout server 20s
    timeout check 5s
frontend front
    bind {folder}/front {bind}
    bind 127.0.0.1:{port} {bind}
    default_backend back
backend back
    server one 127.0.0.1:{server} {send} {server_options} check inter 50ms fastinter 50ms
"""


class Behind(GObj):
    """Sends back, and keeps what it was told; a health check says nothing and is not counted."""

    def start_up(self) -> None:
        self.clients: list[GSock] = []
        self.checks = 0
        self.refused: list[tuple[Any, str]] = []

    def ac_connected(self, event: EV_CONNECTED) -> None:
        gsock = event.source
        assert isinstance(gsock, GSock)
        # Version 1 has no LOCAL: there HAProxy says its own address.
        if gsock.proxy is not None and (gsock.proxy.local or gsock.peername == gsock.balancer):
            self.checks += 1
        else:
            self.clients.append(gsock)

    def ac_echo(self, event: EV_RX_DATA) -> None:
        self.send_event(event.source, EV_SEND_DATA(event.data))

    def ac_refused(self, event: EV_REFUSED) -> None:
        self.refused.append((event.peername, str(event.reason)))

    def ac_gone(self, event: EV_DISCONNECTED) -> None:
        self.destroy_gobj(event.source)

    machine = {
        "ST_IDLE": [
            on(EV_CONNECTED, ac_connected),
            on(EV_RX_DATA, ac_echo),
            on(EV_REFUSED, ac_refused),
            on(EV_DISCONNECTED, ac_gone),
        ],
    }


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@asynccontextmanager
async def balanced(
    program: str, folder: Path, server: GServerSock, **words: str
) -> AsyncIterator[int]:
    """An HAProxy before a server; gives the port that it listens on."""
    port = free_port()
    config = folder / "haproxy.cfg"
    config.write_text(
        CONFIG.format(
            folder=folder,
            port=port,
            server=server.config.port,
            **{"bind": "", "server_options": "", **words},
        ).lstrip()
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, "-db", "-f", str(config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        await until(lambda: process.poll() is not None or (folder / "control").exists())
        assert process.poll() is None, (folder / "log").read_text()
        yield port
    finally:
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, DEADLINE)
        finally:
            process.kill()
            process.wait()


async def ask(folder: Path, command: str) -> str:
    """What HAProxy's control socket answers."""
    reader, writer = await asyncio.open_unix_connection(folder / "control")
    try:
        writer.write(command.encode() + b"\n")
        async with asyncio.timeout(DEADLINE):
            return (await reader.read()).decode()
    finally:
        writer.close()
        await writer.wait_closed()


async def is_up(folder: Path) -> bool:
    """Whether HAProxy's health checks take the server for one that lives."""
    rows = [row.split(",") for row in (await ask(folder, "show stat")).splitlines() if row]
    (row,) = [row for row in rows if row[1] == "one"]
    column = rows[0].index("status")
    return row[column].startswith("UP") and "no check" not in row[column]


def dial(port: int, host: str = "127.0.0.1") -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), DEADLINE, (host, 0))
    client.setblocking(False)
    return client


@pytest.fixture
def program(require_program: Require) -> str:
    return require_program("haproxy")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    # The path of a Unix socket has 100 bytes at most.
    assert len(str(tmp_path)) < 85, tmp_path
    return tmp_path


def behind(app: GAplic) -> Behind:
    return app.create_gobj("behind", Behind, app)


REQUIRED: dict[str, Any] = {"proxy_protocol": "require", "proxy_trusted": ("127.0.0.1",)}


@SENDS
class TestHAProxy:
    def test_the_real_client_and_its_limits(
        self, send: str, program: str, folder: Path, run_async: RunAsync
    ) -> None:
        async def main() -> None:
            async with gaplic() as app:
                owner = behind(app)
                server = serve(owner, **REQUIRED, max_connections_per_ip=1)
                async with balanced(program, folder, server, send=send) as port:
                    with dial(port, "127.0.0.5") as one, dial(port, "127.0.0.6") as two:
                        for client in one, two:
                            client.send(b"hello")
                            assert await read(client, 5) == b"hello"
                        names = {gsock.peername for gsock in owner.clients}
                        assert names == {one.getsockname(), two.getsockname()}
                        for gsock in owner.clients:
                            assert gsock.balancer[0] == "127.0.0.1"
                            assert gsock.proxy is not None
                            assert gsock.proxy.destination == ("127.0.0.1", port)
                            assert gsock.proxy.version == (2 if send.endswith("v2") else 1)
                        with dial(port, "127.0.0.5") as third:
                            name = third.getsockname()
                            assert await read_to_end(third) == b""
                        assert owner.refused == [(name, "per_ip")]
                    await until(lambda: all(gsock.destroyed for gsock in owner.clients))
                    assert set(server._shared.admission._counts) <= {bytes([127, 0, 0, 1])}
                    # The health checks come and are content.
                    await until(lambda: owner.checks >= 3)
                    assert await is_up(folder)
                    assert server.ledger.refused == 1

        run_async(main)

    def test_tls_behind_it_from_the_client_itself(
        self, send: str, program: str, folder: Path, run_async: RunAsync
    ) -> None:
        async def main() -> None:
            async with gaplic() as app:
                owner = behind(app)
                server = serve(owner, **REQUIRED, ssl_options=dict(server_options()))
                async with balanced(program, folder, server, send=send) as port:
                    with dial(port, "127.0.0.5") as client:
                        peer = TlsPeer(Peer(client), client_context(), server_side=False)
                        await peer.shake()
                        await peer.send(b"secret")
                        assert await peer.read(6) == b"secret"
                        (gsock,) = owner.clients
                        assert gsock.peername == client.getsockname()
                        assert gsock.tls is not None
                    await until(lambda: gsock.destroyed)
                    assert await is_up(folder)

        run_async(main)

    def test_tls_from_the_client_to_it_and_from_it_to_us(
        self, send: str, program: str, folder: Path, run_async: RunAsync
    ) -> None:
        async def main() -> None:
            async with gaplic() as app:
                owner = behind(app)
                server = serve(owner, **REQUIRED, ssl_options=dict(server_options()))
                words = {
                    "send": "send-proxy-v2-ssl-cn" if send.endswith("v2") else send,
                    "bind": f"ssl crt {certificates.server()} ca-file {certificates.ca()} "
                    "verify optional",
                    "server_options": f"ssl ca-file {certificates.ca()} verify required "
                    "verifyhost localhost check-ssl",
                }
                async with balanced(program, folder, server, **words) as port:
                    await until(lambda: owner.checks >= 2 or server.ledger.handshakes >= 2)
                    with dial(port, "127.0.0.5") as client:
                        context = client_context(certificate=certificates.client("good"))
                        peer = TlsPeer(Peer(client), context, server_side=False)
                        await peer.shake()
                        await peer.send(b"secret")
                        assert await peer.read(6) == b"secret"
                        (gsock,) = owner.clients
                        assert gsock.peername == client.getsockname()
                        if send.endswith("v2"):
                            assert gsock.proxy is not None
                            said = gsock.proxy.tls
                            assert said is not None
                            assert said.verified
                            assert said.cn == "good"
                    assert await is_up(folder)
                    assert server.ledger.refused == 0

        run_async(main)


def test_without_its_header_everything_is_refused(
    program: str, folder: Path, run_async: RunAsync
) -> None:
    async def main() -> None:
        async with gaplic() as app:
            owner = behind(app)
            server = serve(owner, **REQUIRED)
            async with balanced(program, folder, server, send="") as port:
                with dial(port) as client:
                    client.send(b"GET / HTTP/1.0\r\n\r\n")
                    assert await read_to_end(client) == b""
                assert set(server.ledger.refused_by) == {"proxy"}
                assert not owner.clients

    run_async(main)
