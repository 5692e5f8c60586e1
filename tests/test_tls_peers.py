"""TLS against programs that we did not write: openssl, curl, gnutls-cli, and Python's own ssl.

Each test is what a user expects of a connection with TLS, seen from both sides: what the peer says
of it, and what the subscriber was told. The peers run beside the loop, in processes and threads,
and the loop goes on meanwhile; every wait has a deadline and none is a pause.
"""

import asyncio
import hashlib
import logging
import random
import re
import select
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import certificates
from conftest import RunAsync
from ginsfsm import NOT_ACCEPTED, GAplic, GObj, on
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
    EV_START_TLS,
    EV_TLS_STARTED,
    EV_WRITE_OUTPUT_DATA,
    GSock,
)
from ginsfsm.c_srv_sock import GServerSock
from programs import Program
from servers import serve
from sockets import DEADLINE, POLLERS, RESET, Owner, gaplic, pair, turns, wait_for

pytestmark = pytest.mark.peer

Require = Callable[[str], str]
Start = Callable[..., Program]
StartServer = Callable[..., AbstractAsyncContextManager[tuple[Program, int]]]

MEGABYTES = random.Random(3).randbytes(1 << 20) * 5
"""More than the kernel and the queues between two sides hold."""

BOTH_VERSIONS = pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])


# -- our side --------------------------------------------------------------------------------------


async def beside(function: Callable[..., Any], *arguments: Any) -> Any:
    """Run a function that blocks, in a thread, while the loop goes on."""
    async with asyncio.timeout(DEADLINE):
        return await asyncio.to_thread(function, *arguments)


class Told(NamedTuple):
    """What a gsock's `tls` said in EV_CONNECTED."""

    protocol: str
    cipher: str
    alpn: str | None
    server_name: str | None
    peer_certificate: bytes | None
    resumed: bool
    common_name: str | None


def told_by(gsock: GObj) -> Told:
    tls = gsock.tls  # type: ignore[attr-defined]
    names = dict(pair for (pair,) in tls.peer_certificate_fields().get("subject", ()))
    return Told(
        tls.protocol,
        tls.cipher,
        tls.alpn,
        tls.server_name,
        tls.peer_certificate,
        tls.resumed,
        names.get("commonName"),
    )


class Served(NamedTuple):
    """A server with TLS whose owner sends everything back."""

    app: GAplic
    owner: Owner
    server: GServerSock
    told: list[Told]

    @property
    def port(self) -> str:
        return str(self.server.config.port)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def connected(self, count: int = 1) -> list[GSock]:
        await wait_for(lambda: len(self.owner.of(EV_CONNECTED)) >= count, "EV_CONNECTED")
        return [event.source for event in self.owner.of(EV_CONNECTED)]  # type: ignore[misc]

    async def disconnected(self, count: int = 1) -> list[str]:
        """The reasons of so many ends."""
        await wait_for(lambda: len(self.owner.of(EV_DISCONNECTED)) >= count, "EV_DISCONNECTED")
        return [event.reason for event in self.owner.of(EV_DISCONNECTED)]

    async def failed(self, count: int = 1) -> None:
        """So many handshakes have failed, nobody was told of them and nothing is left of them."""
        ledger = self.server.ledger
        await wait_for(lambda: ledger.failed_handshakes >= count and not len(ledger), "a failure")
        assert ledger.failed_handshakes == count


def identity(path: Path) -> dict[str, Any]:
    return {"certfile": str(path)}


def requiring_clients() -> dict[str, Any]:
    """A server that asks each client for a certificate."""
    return {
        **identity(certificates.server()),
        "ca_certs": str(certificates.ca()),
        "cert_reqs": "required",
    }


@asynccontextmanager
async def serving(
    ssl_options: dict[str, Any] | None = None, *, poller: str = "auto", **parameters: Any
) -> AsyncIterator[Served]:
    """A server for localhost, with these options or with a certificate and nothing else."""
    if ssl_options is None:
        ssl_options = identity(certificates.server())
    async with gaplic(poller) as app:
        owner = app.create_gobj("owner", Owner, app)
        told: list[Told] = []
        owner.reactions[EV_CONNECTED] = lambda event: told.append(told_by(event.source))
        owner.reactions[EV_RX_DATA] = lambda event: owner.tell(
            event.source, EV_SEND_DATA(event.data)
        )
        server = serve(app, subscriber=owner, ssl_options=ssl_options, **parameters)
        yield Served(app, owner, server, told)
        assert not owner.inside


def failures(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged of handshakes that failed; everything from INFO on that speaks of a peer."""
    return [
        one.getMessage()
        for one in caplog.records
        if one.name == "ginsfsm"
        and one.levelno >= logging.INFO
        and "127.0.0.1:" in one.getMessage()
    ]


@pytest.fixture(autouse=True)
def all_levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ginsfsm")


# -- openssl s_client ------------------------------------------------------------------------------


@pytest.fixture
def s_client(require_program: Require) -> Start:
    """`openssl s_client` to a server, trusting the CA of the tests."""
    openssl = require_program("openssl")

    def start(served: Served, *options: str | Path, name: str = "localhost") -> Program:
        return Program(
            openssl, "s_client", "-connect", served.address, "-servername", name,
            "-CAfile", certificates.ca(), "-verify_hostname", name, "-verify_return_error",
            *options,
        )  # fmt: skip

    return start


FLAG = {"TLSv1.1": "-tls1_1", "TLSv1.2": "-tls1_2", "TLSv1.3": "-tls1_3"}


async def echoes(program: Program, *lines: str) -> None:
    """Each of these lines comes back."""
    for line in lines:
        await program.type(f"{line}\n")
        # Not at the beginning of a line: what s_client tells of tickets comes in between.
        await program.says(f"{re.escape(line)}$")


class TestSClient:
    @BOTH_VERSIONS
    def test_echo(self, version: str, run_async: RunAsync, s_client: Start) -> None:
        async def main() -> None:
            async with serving() as served:
                with s_client(served, FLAG[version]) as client:
                    await client.says(rf"^New, {version}, Cipher is (\S+)$")
                    cipher = client.said("Cipher is (.+)$")[0].decode()
                    await client.says(r"Verify return code: 0 \(ok\)$")
                    await echoes(client, "hello", "once more")
                    await client.type("Q\n")
                    assert await client.ends() == 0
                assert await served.disconnected() == ["peer"]
                assert served.told == [Told(version, cipher, None, "localhost", None, False, None)]
                assert (served.server.ledger.handshakes, len(served.server.ledger)) == (1, 0)
                assert served.owner.kinds() == ["EV_CONNECTED", "EV_RX_DATA", "EV_DISCONNECTED"]

        run_async(main)

    def test_tls_1_1_is_refused(
        self,
        run_async: RunAsync,
        s_client: Start,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        async def main() -> None:
            async with serving() as served:
                with s_client(served, "-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0") as client:
                    await client.says("alert protocol version")
                    assert await client.ends() == 1
                await served.failed()
                assert served.owner.heard == []
                with s_client(served) as client:
                    await echoes(client, "the next one is served")

        run_async(main)
        (line,) = failures(caplog)
        assert line.startswith("app/")
        assert "no version of TLS that both sides know" in line

    @BOTH_VERSIONS
    def test_resumption_by_a_saved_session(
        self, version: str, run_async: RunAsync, s_client: Start, tmp_path: Path
    ) -> None:
        session = tmp_path / "session.pem"

        async def main() -> None:
            async with serving() as served:
                with s_client(served, FLAG[version], "-sess_out", session) as client:
                    # The tickets of TLS 1.3 come behind the handshake, so before the echo.
                    await echoes(client, "hello")
                    await client.type("Q\n")
                    assert await client.ends() == 0
                    assert client.said(f"^New, {version}")
                with s_client(served, FLAG[version], "-sess_in", session) as client:
                    await echoes(client, "hello again")
                    await client.type("Q\n")
                    assert await client.ends() == 0
                    assert client.said(f"^Reused, {version}")
                assert await served.disconnected(2) == ["peer", "peer"]
                assert [one.resumed for one in served.told] == [False, True]
                assert [one.server_name for one in served.told] == ["localhost", "localhost"]

        run_async(main)

    @BOTH_VERSIONS
    @pytest.mark.parametrize(("given", "expected"), [(False, 0), (0, 0), (3, 3)])
    def test_how_many_tickets(
        self, version: str, given: int, expected: int, run_async: RunAsync, s_client: Start
    ) -> None:
        options = {**identity(certificates.server()), "session_tickets": given}

        async def main() -> None:
            async with serving(options) as served:
                with s_client(served, FLAG[version]) as client:
                    await echoes(client, "hello")
                    await client.type("Q\n")
                    assert await client.ends() == 0
                    # The echo may stand anywhere in what it tells of them.
                    count = client.output.replace(b"hello\n", b"").count(b"TLS session ticket:")
                    # In TLS 1.2 there is one, or none.
                    assert count == (expected if version == "TLSv1.3" else min(expected, 1))

        run_async(main)

    def test_reconnect(self, run_async: RunAsync, s_client: Start) -> None:
        async def main() -> None:
            async with serving() as served:
                with s_client(served, "-tls1_2", "-reconnect") as client:
                    await echoes(client, "after five times more")
                    await client.type("Q\n")
                    assert await client.ends() == 0
                    assert client.said("^(New|Reused), TLSv1.2") == [b"New"] + [b"Reused"] * 5
                assert await served.disconnected(6) == ["peer"] * 6
                assert [one.resumed for one in served.told] == [False] + [True] * 5

        run_async(main)

    def test_each_name_has_its_own_certificate(self, run_async: RunAsync, s_client: Start) -> None:
        options = {
            **identity(certificates.server()),
            "sni": {
                "a.example": identity(certificates.server("a.example")),
                "b.example": {
                    "certfile": str(certificates.chain_of(certificates.server("b.example"))),
                    "keyfile": str(certificates.key_of(certificates.server("b.example"))),
                },
                "*.wild.example": identity(certificates.server("*.wild.example")),
            },
        }
        names = ["a.example", "b.example", "one.wild.example", "two.wild.example", "localhost"]

        async def main() -> None:
            async with serving(options) as served:
                for name in names:
                    # It verifies that the certificate is this name's.
                    with s_client(served, name=name) as client:
                        await echoes(client, "hello")
                assert [one.server_name for one in served.told] == names
                # In capitals it is the same name.
                with s_client(served, "-verify_hostname", "a.example", name="A.Example") as client:
                    await echoes(client, "hello")
                # A name that it has no certificate for gets the server's own, and a client that
                # minds sends an alert.
                for name in ("c.example", "wild.example", "a.b.wild.example"):
                    with s_client(served, name=name) as client:
                        await client.says("hostname mismatch")
                        assert await client.ends() == 1

        run_async(main)

    @pytest.mark.parametrize(
        ("ours", "theirs", "chosen"),
        [
            # The server's order counts.
            (["h2", "http/1.1"], "http/1.1,h2", "h2"),
            (["h2", "http/1.1"], "http/1.1", "http/1.1"),
            (["h2"], "smtp", None),
            (["h2"], None, None),
            (None, "h2", None),
        ],
    )
    def test_alpn(
        self,
        ours: list[str] | None,
        theirs: str | None,
        chosen: str | None,
        run_async: RunAsync,
        s_client: Start,
    ) -> None:
        async def main() -> None:
            offering = {"alpn": ours} if ours else {}
            async with serving({**identity(certificates.server()), **offering}) as served:
                asking = ["-alpn", theirs] if theirs else []
                with s_client(served, *asking) as client:
                    await echoes(client, "hello")
                    said = client.said(r"^ALPN protocol: (\S+)$")
                    assert said == ([chosen.encode()] if chosen else [])
                assert [one.alpn for one in served.told] == [chosen]

        run_async(main)

    @pytest.mark.parametrize(
        ("option", "flags", "cipher"),
        [
            ({"ciphers": "ECDHE-ECDSA-CHACHA20-POLY1305"}, ["-tls1_2"], "CHACHA20-POLY1305"),
            ({"minimum_version": "TLSv1.3"}, ["-tls1_2"], None),
            ({"minimum_version": ssl.TLSVersion.TLSv1_3}, [], "TLS_AES_256_GCM_SHA384"),
            ({"ssl_version": ssl.PROTOCOL_TLSv1_2}, ["-tls1_3"], None),
            ({"ssl_version": ssl.PROTOCOL_TLSv1_2}, [], "ECDHE-ECDSA-AES256-GCM-SHA384"),
            ({"ssl_version": ssl.PROTOCOL_TLS}, [], "TLS_AES_256_GCM_SHA384"),
        ],
    )
    def test_what_is_offered(
        self,
        option: dict[str, Any],
        flags: list[str],
        cipher: str | None,
        run_async: RunAsync,
        s_client: Start,
    ) -> None:
        async def main() -> None:
            async with serving({**identity(certificates.server()), **option}) as served:
                with s_client(served, *flags) as client:
                    if cipher:
                        await echoes(client, "hello")
                        assert cipher in served.told[0].cipher
                        assert client.said(f"Cipher is .*{cipher}$")
                    else:
                        await client.says("alert protocol version")
                        await served.failed()

        run_async(main)

    def test_an_encrypted_key(
        self,
        run_async: RunAsync,
        s_client: Start,
        require_program: Require,
        tmp_path: Path,
    ) -> None:
        path = certificates.server()
        subprocess.run(
            [
                require_program("openssl"), "pkcs8", "-topk8", "-in", certificates.key_of(path),
                "-out", tmp_path / "key.pem", "-passout", "pass:open sesame",
            ],
            check=True,
        )  # fmt: skip
        options = {
            "certfile": str(certificates.chain_of(path)),
            "keyfile": str(tmp_path / "key.pem"),
            "password": "open sesame",
        }

        async def main() -> None:
            async with serving(options) as served:
                with s_client(served) as client:
                    await echoes(client, "hello")

        run_async(main)

    # Interactive s_client takes what it reads for a command if it begins with a certain letter.

    def test_renegotiation_is_refused(
        self,
        run_async: RunAsync,
        s_client: Start,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        async def main() -> None:
            async with serving() as served:
                with s_client(served, "-tls1_2") as other, s_client(served, "-tls1_2") as client:
                    await echoes(other, "hello")
                    await echoes(client, "hello")
                    await client.type("R\n")
                    await client.says("^RENEGOTIATING$")
                    # What we answer is a warning; it is s_client that does not want to go on.
                    await client.says("no renegotiation")
                    await client.ends()
                    assert await served.disconnected() == ["tls"]
                    await echoes(other, "nobody else has noticed")
                assert served.server.ledger.handshakes == 2
                assert served.server.ledger.failed_handshakes == 0

        run_async(main)
        assert not [one for one in caplog.records if one.levelno >= logging.WARNING]

    def test_key_updates_pass_unnoticed(self, run_async: RunAsync, s_client: Start) -> None:
        async def main() -> None:
            async with serving() as served:
                with s_client(served, "-tls1_3") as client:
                    await echoes(client, "hello")
                    # k changes its own key, K asks for ours as well.
                    for number, command in enumerate("kKKkkK"):
                        await client.type(f"{command}\n")
                        await client.says("^KEYUPDATE$")
                        await echoes(client, f"after {number} of {command}")
                    await client.type("Q\n")
                    assert await client.ends() == 0
                assert await served.disconnected() == ["peer"]
                # Nothing but the lines came of it.
                lines = served.owner.received().decode().splitlines()
                assert lines == [
                    "hello", *(f"after {number} of {one}" for number, one in enumerate("kKKkkK")),
                ]  # fmt: skip

        run_async(main)

    def test_key_updates_in_the_middle_of_a_flood(
        self, run_async: RunAsync, s_client: Start
    ) -> None:
        line = b"x" * 999 + b"\n"

        async def main() -> None:
            async with serving() as served:
                with s_client(served, "-tls1_3") as client:
                    await echoes(client, "hello")
                    (gsock,) = await served.connected()
                    for _ in range(8):
                        # More than the pipe to the test, s_client and the sockets hold.
                        served.owner.tell(gsock, EV_SEND_DATA(line * 1000))
                    served.owner.tell(gsock, EV_SEND_DATA(b"that is all\n"))
                    for command in "KkK":
                        await client.type(f"{command}\n")
                        # Somewhere in a line.
                        await client.says("KEYUPDATE$")

                    def received() -> bytes:
                        # Where the last one is said depends on who is faster, also behind the end.
                        return client.output.replace(b"KEYUPDATE\n", b"")

                    await wait_for(lambda: received().endswith(b"that is all\n"))
                    assert received().count(line) == 8000
                    await echoes(client, "the end")
                    await client.type("Q\n")
                    assert await client.ends() == 0
                assert await served.disconnected() == ["peer"]

        run_async(main)

    @BOTH_VERSIONS
    def test_it_sees_the_proper_end(
        self, version: str, run_async: RunAsync, s_client: Start
    ) -> None:
        async def main() -> None:
            async with serving() as served:
                with s_client(served, FLAG[version]) as client:
                    await echoes(client, "hello")
                    (gsock,) = await served.connected()
                    served.owner.tell(gsock, EV_SEND_DATA(b"goodbye\n"))
                    served.owner.tell(gsock, EV_DROP())
                    await client.says("^goodbye$")
                    # This is what it says of a close_notify.
                    await client.says("^closed$")
                    assert await client.ends() == 0
                assert await served.disconnected() == ["local"]

        run_async(main)

    @BOTH_VERSIONS
    def test_it_sees_a_cut(self, version: str, run_async: RunAsync, s_client: Start) -> None:
        async def main() -> None:
            async with serving() as served:
                with s_client(served, FLAG[version]) as client:
                    await echoes(client, "hello")
                    (gsock,) = await served.connected()
                    served.owner.tell(gsock, EV_DROP(abort=True))
                    await client.ends()
                    assert not client.said("^closed$")
                assert await served.disconnected() == ["local"]

        run_async(main)


class TestClientCertificates:
    @BOTH_VERSIONS
    def test_good(self, version: str, run_async: RunAsync, s_client: Start) -> None:
        path = certificates.client("Alice")
        pem = certificates.chain_of(path).read_text()

        async def main() -> None:
            async with serving(requiring_clients()) as served:
                with s_client(served, FLAG[version], "-cert", path, "-key", path) as client:
                    await echoes(client, "hello")
                (told,) = served.told
                assert told.common_name == "Alice"
                assert told.peer_certificate == ssl.PEM_cert_to_DER_cert(pem)

        run_async(main)

    @BOTH_VERSIONS
    @pytest.mark.parametrize(
        ("path", "alert", "reason"),
        [
            (certificates.stranger, "unknown ca", "unable to get (local )?issuer certificate"),
            (certificates.expired, "certificate expired", "certificate has expired"),
            (None, "(certificate required|handshake failure)", "the peer sent no certificate"),
        ],
        ids=["of another CA", "expired", "missing"],
    )
    def test_bad(
        self,
        version: str,
        path: Callable[[], Path] | None,
        alert: str,
        reason: str,
        run_async: RunAsync,
        s_client: Start,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        options = ["-cert", path(), "-key", path()] if path else []

        async def main() -> None:
            async with serving(requiring_clients()) as served:
                with s_client(served, FLAG[version], *options) as client:
                    # In TLS 1.3 it takes the handshake for done before it hears of this.
                    await client.says(f"alert {alert}")
                    await client.ends()
                await served.failed()
                assert served.owner.heard == []
                assert served.server.config.n_gsocks == 0
                assert not [one for one in served.owner.children if "clisrv" in one]
                good = certificates.client()
                with s_client(served, "-cert", good, "-key", good) as client:
                    await echoes(client, "the next one is served")
                assert served.server.ledger.handshakes == 1

        run_async(main)
        (line,) = failures(caplog)
        assert line.startswith("app/")
        assert re.search(reason, line)

    @pytest.mark.parametrize("given", [True, False])
    def test_optional(self, given: bool, run_async: RunAsync, s_client: Start) -> None:
        path = certificates.client("Bob")
        options = {**requiring_clients(), "cert_reqs": ssl.CERT_OPTIONAL}

        async def main() -> None:
            async with serving(options) as served:
                giving = ["-cert", path, "-key", path] if given else []
                with s_client(served, *giving) as client:
                    await echoes(client, "hello")
                (told,) = served.told
                assert told.common_name == ("Bob" if given else None)
                assert bool(told.peer_certificate) is given

        run_async(main)

    def test_not_asked_for(self, run_async: RunAsync, s_client: Start) -> None:
        path = certificates.stranger()

        async def main() -> None:
            async with serving() as served:
                with s_client(served, "-cert", path, "-key", path) as client:
                    await echoes(client, "hello")
                assert served.told[0].peer_certificate is None

        run_async(main)


# -- openssl s_server ------------------------------------------------------------------------------


class Calling(NamedTuple):
    """A gsock as the client of a program."""

    app: GAplic
    owner: Owner
    gsock: GSock
    told: list[Told]

    def connect(self) -> None:
        self.owner.tell(self.gsock, EV_CONNECT())

    async def connected(self) -> Told:
        await wait_for(lambda: self.owner.heard, "EV_CONNECTED")
        assert self.owner.kinds()[:1] == ["EV_CONNECTED"]
        return self.told[-1]

    async def refused(self) -> str:
        """The reason of the EV_CONNECT_FAILED, which is all that it heard."""
        await wait_for(lambda: self.owner.heard, "EV_CONNECT_FAILED")
        (event,) = self.owner.heard
        assert type(event) is EV_CONNECT_FAILED
        assert self.gsock.state == "ST_DISCONNECTED"
        return event.reason

    async def line(self, text: bytes) -> None:
        """All that has come ends with this."""
        await wait_for(lambda: self.owner.received().endswith(text), f"{text!r}")


def trusting(**more: Any) -> dict[str, Any]:
    """A client that trusts the CA of the tests."""
    return {"ca_certs": str(certificates.ca()), **more}


@asynccontextmanager
async def calling(
    port: int, ssl_options: dict[str, Any] | None = None, *, host: str = "localhost", **more: Any
) -> AsyncIterator[Calling]:
    async with gaplic() as app:
        owner = app.create_gobj("owner", Owner, app)
        told: list[Told] = []
        owner.reactions[EV_CONNECTED] = lambda event: told.append(told_by(event.source))
        gsock = owner.create_gobj(
            "client", GSock, owner, host=host, port=port,
            ssl_options=trusting() if ssl_options is None else ssl_options, **more,
        )  # fmt: skip
        called = Calling(app, owner, gsock, told)
        called.connect()
        yield called
        assert not owner.inside


@pytest.fixture
def s_server(require_program: Require) -> StartServer:
    """`openssl s_server` on a free port, and that port once it listens."""
    openssl = require_program("openssl")

    @asynccontextmanager
    async def start(
        *options: str | Path, certificate: Path | None = None
    ) -> AsyncIterator[tuple[Program, int]]:
        path = certificate or certificates.server()
        with Program(
            openssl, "s_server", "-accept", "127.0.0.1:0", "-cert", path, "-key", path, *options
        ) as program:
            found = await program.says(r"^ACCEPT 127\.0\.0\.1:(\d+)$")
            yield program, int(found[1])

    return start


class TestSServer:
    @BOTH_VERSIONS
    def test_echo(self, version: str, run_async: RunAsync, s_server: StartServer) -> None:
        async def main() -> None:
            async with s_server(FLAG[version], "-rev") as (server, port), calling(port) as client:
                told = await client.connected()
                assert (told.protocol, told.alpn, told.resumed) == (version, None, False)
                assert told.peer_certificate is not None
                for text in (b"hello\n", b"once more\n"):
                    client.owner.tell(client.gsock, EV_SEND_DATA(text))
                    await client.line(text.strip()[::-1] + b"\n")
                client.owner.tell(client.gsock, EV_DROP())
                await wait_for(client.owner.ended)
                assert client.owner.reason() == "local"
                await server.says("^CONNECTION CLOSED$")
                # The same gsock once more.
                client.owner.heard.clear()
                client.connect()
                await client.connected()
                client.owner.tell(client.gsock, EV_SEND_DATA(b"again\n"))
                await client.line(b"niaga\n")

        run_async(main)

    def test_it_ends(self, run_async: RunAsync, s_server: StartServer) -> None:
        async def main() -> None:
            async with s_server() as (server, port), calling(port) as client:
                await client.connected()
                await server.type("goodbye\n")
                await client.line(b"goodbye\n")
                # This closes the socket, and that is all.
                await server.type("q\n")
                await wait_for(client.owner.ended)
                assert client.owner.reason() == "tls_truncated"

        run_async(main)

    @BOTH_VERSIONS
    def test_it_ends_properly(
        self, version: str, run_async: RunAsync, s_server: StartServer
    ) -> None:
        async def main() -> None:
            async with s_server(FLAG[version], "-rev") as (_, port), calling(port) as client:
                await client.connected()
                # The word that `-rev` goes by.
                client.owner.tell(client.gsock, EV_SEND_DATA(b"CLOSE\n"))
                await wait_for(client.owner.ended)
                assert client.owner.reason() == "peer"
                assert not client.owner.received()

        run_async(main)

    @pytest.mark.parametrize(
        ("certificate", "host", "options", "reason"),
        [
            (lambda: certificates.server("a.example"), "localhost", {}, "ostname mismatch"),
            (lambda: certificates.server("a.example"), "127.0.0.1", {}, "IP address mismatch"),
            (certificates.server, "localhost", {"server_hostname": "a.example"}, "a.example"),
            (certificates.stranger, "localhost", {}, "unable to get local issuer certificate"),
            (certificates.expired, "localhost", {}, "certificate has expired"),
        ],
        ids=["wrong name", "wrong address", "not the name wanted", "unknown CA", "expired"],
    )
    def test_who_it_is_not(
        self,
        certificate: Callable[[], Path],
        host: str,
        options: dict[str, Any],
        reason: str,
        run_async: RunAsync,
        s_server: StartServer,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        async def main() -> None:
            async with (
                s_server("-rev", certificate=certificate()) as (server, port),
                calling(port, trusting(**options), host=host) as client,
            ):
                assert await client.refused() == "tls"
                # It was told why, and not just cut off.
                await server.says("alert (bad certificate|unknown ca|certificate expired)")

        run_async(main)
        lines = [one.getMessage() for one in caplog.records if one.levelno >= logging.INFO]
        (line,) = [one for one in lines if one.startswith("app/owner/client: ")]
        assert "127.0.0.1:" in line
        assert reason in line

    def test_the_authorities_of_this_machine_are_the_default(
        self, run_async: RunAsync, s_server: StartServer
    ) -> None:
        async def main() -> None:
            async with (
                s_server("-rev") as (_, port),
                calling(port, {"cert_reqs": ssl.CERT_REQUIRED}) as client,
            ):
                assert await client.refused() == "tls"

        run_async(main)

    @pytest.mark.parametrize(
        ("certificate", "host", "options"),
        [
            (certificates.server, "127.0.0.1", {}),
            (
                lambda: certificates.server("a.example"),
                "localhost",
                {"server_hostname": "a.example"},
            ),
            (lambda: certificates.server("a.example"), "localhost", {"check_hostname": False}),
            (certificates.stranger, "localhost", {"cert_reqs": "none"}),
            (certificates.expired, "localhost", {"cert_reqs": ssl.CERT_NONE}),
        ],
        ids=["address", "name wanted", "any name", "any certificate", "expired"],
    )
    def test_who_it_is(
        self,
        certificate: Callable[[], Path],
        host: str,
        options: dict[str, Any],
        run_async: RunAsync,
        s_server: StartServer,
    ) -> None:
        async def main() -> None:
            async with (
                s_server("-rev", certificate=certificate()) as (_, port),
                calling(port, trusting(**options), host=host) as client,
            ):
                await client.connected()
                client.owner.tell(client.gsock, EV_SEND_DATA(b"hello\n"))
                await client.line(b"olleh\n")

        run_async(main)

    def test_the_name_goes_along(self, run_async: RunAsync, s_server: StartServer) -> None:
        """s_server has a second certificate for it."""
        second = certificates.server("b.example")

        async def main() -> None:
            async with (
                s_server("-rev", "-servername", "b.example", "-cert2", second, "-key2", second) as (
                    _,
                    port,
                ),
                calling(port, trusting(server_hostname="b.example")) as client,
            ):
                assert (await client.connected()).server_name == "b.example"

        run_async(main)

    @BOTH_VERSIONS
    def test_client_certificate(
        self, version: str, run_async: RunAsync, s_server: StartServer
    ) -> None:
        path = certificates.client("Carol")
        asking = ["-Verify", "1", "-CAfile", certificates.ca(), "-verify_return_error"]

        async def main() -> None:
            async with s_server(FLAG[version], "-rev", *asking) as (server, port):
                async with calling(port, trusting(certfile=str(path))) as client:
                    await client.connected()
                    await server.says("^Peer certificate: .*CN = Carol$")
                    client.owner.tell(client.gsock, EV_SEND_DATA(b"hello\n"))
                    await client.line(b"olleh\n")
                async with calling(port) as client:
                    if version == "TLSv1.2":
                        assert await client.refused() == "tls"
                    else:
                        # The handshake is over for us before the server looks at it.
                        await client.connected()
                        await wait_for(client.owner.ended)
                        assert client.owner.reason() == "tls"
                        assert not client.owner.received()

        run_async(main)

    @pytest.mark.parametrize(
        ("ours", "theirs", "chosen"),
        [(["h2", "smtp"], "smtp,h2", "smtp"), (["h2"], None, None), (None, "h2", None)],
    )
    def test_alpn(
        self,
        ours: list[str] | None,
        theirs: str | None,
        chosen: str | None,
        run_async: RunAsync,
        s_server: StartServer,
    ) -> None:
        async def main() -> None:
            offering = ["-alpn", theirs] if theirs else []
            async with (
                s_server("-rev", *offering) as (_, port),
                calling(port, trusting(**({"alpn": ours} if ours else {}))) as client,
            ):
                assert (await client.connected()).alpn == chosen

        run_async(main)

    def test_no_alpn_in_common(self, run_async: RunAsync, s_server: StartServer) -> None:
        async def main() -> None:
            async with (
                s_server("-rev", "-alpn", "h2") as (_, port),
                calling(port, trusting(alpn=["smtp"])) as client,
            ):
                # s_server sends the fatal alert that RFC 7301 asks for.
                assert await client.refused() == "tls"

        run_async(main)

    def test_tls_1_1_is_refused(self, run_async: RunAsync, s_server: StartServer) -> None:
        async def main() -> None:
            async with (
                s_server("-rev", "-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0") as (_, port),
                calling(port) as client,
            ):
                assert await client.refused() == "tls"

        run_async(main)

    # Interactive s_server: r and R renegotiate, k and K change the keys.

    @pytest.mark.parametrize("command", ["r", "R"])
    def test_renegotiation_is_refused(
        self, command: str, run_async: RunAsync, s_server: StartServer
    ) -> None:
        async def main() -> None:
            async with s_server("-tls1_2") as (server, port), calling(port) as client:
                await client.connected()
                await server.type("hello\n")
                await client.line(b"hello\n")
                await server.type(f"{command}\n")
                # It is the server that ends it then; we have only said no.
                await wait_for(client.owner.ended)
                assert client.owner.kinds() == ["EV_CONNECTED", "EV_RX_DATA", "EV_DISCONNECTED"]
                await server.says("no renegotiation")

        run_async(main)

    def test_key_updates_pass_unnoticed(self, run_async: RunAsync, s_server: StartServer) -> None:
        async def main() -> None:
            async with s_server("-tls1_3") as (server, port), calling(port) as client:
                await client.connected()
                for number, command in enumerate("kKKk"):
                    await server.type(f"{command}\n")
                    await server.type(f"after {number}\n")
                    await client.line(f"after {number}\n".encode())
                    client.owner.tell(client.gsock, EV_SEND_DATA(f"answer {number}\n".encode()))
                    await server.says(f"^answer {number}$")
                # What it took for its commands was not sent.
                assert client.owner.received() == b"".join(b"after %d\n" % n for n in range(4))
                assert not client.owner.ended()

        run_async(main)


# -- curl ------------------------------------------------------------------------------------------


class Request:
    """What has come of a request so far."""

    def __init__(self) -> None:
        self.head = b""
        self.body = hashlib.sha256()
        self.missing = -1
        """Bytes of the body that have not come yet; -1 while the head is not complete."""


class Http(GObj):
    """As much of HTTP/1.1 as curl needs: GET /N gives N bytes, PUT gives the hash of what came."""

    def start_up(self) -> None:
        self.requests: dict[GObj, Request] = {}
        self.connections = 0
        self.answered = 0
        self.reasons: list[str] = []
        self.server = serve(self, ssl_options=identity(certificates.server()))

    def ac_connected(self, event: EV_CONNECTED) -> None:
        self.connections += 1
        self.requests[event.source] = Request()

    def ac_read(self, event: EV_RX_DATA) -> None:
        data = event.data
        while data:
            request = self.requests[event.source]
            if request.missing < 0:
                request.head += data
                request.head, end, data = request.head.partition(b"\r\n\r\n")
                if not end:
                    return
                found = re.search(rb"(?i)^content-length: *(\d+)", request.head, re.MULTILINE)
                request.missing = int(found[1]) if found else 0
            request.body.update(data[: request.missing])
            data, request.missing = (
                data[request.missing :],
                max(0, request.missing - len(data)),
            )
            if not request.missing:
                self.answer(event.source, request)

    def answer(self, gsock: GObj, request: Request) -> None:
        self.requests[gsock] = Request()
        self.answered += 1
        method, path, _ = request.head.split(None, 2)
        body = request.body.hexdigest().encode()
        if method == b"GET":
            body = MEGABYTES[: int(path[1:])]
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n"
        self.send_event(gsock, EV_WRITE_OUTPUT_DATA(head.encode()))
        self.send_event(gsock, EV_WRITE_OUTPUT_DATA(body))
        self.send_event(gsock, EV_FLUSH_OUTPUT_DATA())

    def ac_gone(self, event: EV_DISCONNECTED) -> None:
        del self.requests[event.source]
        self.reasons.append(event.reason)
        self.destroy_gobj(event.source)

    machine = {
        "ST_IDLE": [
            on(EV_CONNECTED, ac_connected),
            on(EV_RX_DATA, ac_read),
            on(EV_DISCONNECTED, ac_gone),
        ],
    }


Curl = Callable[..., tuple[Http, Program, int]]


class TestCurl:
    @pytest.fixture
    def curl(self, run_async: RunAsync, require_program: Require, tmp_path: Path) -> Curl:
        """Run curl once in an empty folder; the server, curl and its exit status."""
        command = require_program("curl")

        def run(*options: str | Path, ca: Path | None = None) -> tuple[Http, Program, int]:
            async def main() -> tuple[Http, Program, int]:
                async with gaplic() as app:
                    http = app.create_gobj("http", Http, app)
                    host = f"localhost:{http.server.config.port}"
                    filled = [
                        str(one)
                        .replace("URL", f"https://{host}")
                        .replace("PLAIN", f"http://{host}")
                        for one in options
                    ]
                    with Program(
                        command, "-q", "-sS", "--http1.1", "--noproxy", "*",
                        "--cacert", ca or certificates.ca(), *filled, folder=tmp_path,
                    ) as program:  # fmt: skip
                        status = await program.ends()
                    ledger = http.server.ledger
                    await wait_for(lambda: ledger.accepted and not len(ledger), "the end")
                    await wait_for(lambda: not http.requests, "the end of the gsock")
                    return http, program, status

            return run_async(main)

        return run

    @pytest.mark.parametrize(
        ("options", "version"), [([], "TLSv1.3"), (["--tls-max", "1.2"], "TLSv1.2")]
    )
    def test_get(
        self,
        options: list[str],
        version: str,
        curl: Curl,
        tmp_path: Path,
    ) -> None:
        http, program, status = curl("-v", *options, "-o", "body", "URL/1000")
        assert status == 0, program
        assert program.said(f"SSL connection using {version} / ")
        assert program.said("SSL certificate verify ok")
        assert (tmp_path / "body").read_bytes() == MEGABYTES[:1000]
        assert http.reasons == ["peer"]

    def test_two_requests_on_one_connection(self, curl: Curl, tmp_path: Path) -> None:
        http, program, status = curl(
            "-v", "-o", "one", "URL/100000", "--next", "-sS", "--noproxy", "*",
            "--cacert", certificates.ca(), "-o", "two", "URL/200000",
        )  # fmt: skip
        assert status == 0, program
        assert (http.connections, http.answered) == (1, 2)
        assert http.reasons == ["peer"]
        assert (tmp_path / "one").read_bytes() == MEGABYTES[:100000]
        assert (tmp_path / "two").read_bytes() == MEGABYTES[:200000]

    def test_a_large_download(self, curl: Curl, tmp_path: Path) -> None:
        http, program, status = curl("-o", "body", f"URL/{len(MEGABYTES)}")
        assert status == 0, program
        got = hashlib.sha256((tmp_path / "body").read_bytes())
        assert got.digest() == hashlib.sha256(MEGABYTES).digest()
        assert http.reasons == ["peer"]

    def test_a_large_upload(self, curl: Curl, tmp_path: Path) -> None:
        (tmp_path / "given").write_bytes(MEGABYTES)
        _, program, status = curl("-H", "Expect:", "-T", "given", "URL/")
        assert status == 0, program
        assert program.output.decode() == hashlib.sha256(MEGABYTES).hexdigest()

    def test_eight_at_once(self, curl: Curl, tmp_path: Path) -> None:
        http, program, status = curl(
            "--parallel", "--parallel-immediate", "-o", "body#1", "URL/[1000000-1000007]"
        )
        assert status == 0, program
        assert http.connections == http.answered == 8
        for size in range(1000000, 1000008):
            assert (tmp_path / f"body{size}").read_bytes() == MEGABYTES[:size]

    def test_it_does_not_know_the_authority(self, curl: Curl) -> None:
        http, program, status = curl("URL/1", ca=certificates.other_ca())
        assert status == 60, program
        assert http.connections == 0
        assert not [one for one in http.children if "clisrv" in one]
        assert http.server.ledger.failed_handshakes == 1
        assert http.server.config.n_gsocks == 0

    def test_plain_http(self, curl: Curl) -> None:
        http, program, status = curl("--http0.9", "PLAIN/1")
        assert status != 0, program
        assert http.connections == 0
        assert http.server.ledger.failed_handshakes == 1


# -- Python's ssl ----------------------------------------------------------------------------------


def trusting_context(version: str | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=certificates.ca())
    if version:
        which = ssl.TLSVersion[version.replace(".", "_")]
        context.minimum_version = context.maximum_version = which
    return context


def opened(port: str | int, context: ssl.SSLContext | None = None, **options: Any) -> ssl.SSLSocket:
    """A blocking connection with TLS, strict about the end."""
    sock = socket.create_connection(("127.0.0.1", int(port)), DEADLINE)
    context = context or trusting_context()
    return context.wrap_socket(
        sock, server_hostname="localhost", suppress_ragged_eofs=False, **options
    )


def read_exactly(sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        more = sock.recv(size - len(data))
        assert more, f"the end after {len(data)} bytes of {size}"
        data += more
    return bytes(data)


def read_to_end(sock: socket.socket) -> bytes:
    data = bytearray()
    while more := sock.recv(1 << 16):
        data += more
    return bytes(data)


def exchange(sock: ssl.SSLSocket, data: bytes, expected: int) -> bytes:
    """Send all of it and receive so much, both at the same time, as fast as it goes."""
    sock.setblocking(False)
    rest = memoryview(data)
    got = bytearray()
    end = time.monotonic() + DEADLINE
    while rest or len(got) < expected:
        assert time.monotonic() < end, f"{len(rest)} to send, {len(got)} of {expected} received"
        waiting: set[str] = set()
        try:
            if rest:
                rest = rest[sock.send(rest[: 1 << 16]) :]
        except ssl.SSLWantWriteError:
            waiting.add("write")
        except ssl.SSLWantReadError:
            waiting.add("read")
        try:
            more = sock.recv(1 << 16)
            assert more, f"the end after {len(got)} bytes of {expected}"
            got += more
            continue
        except ssl.SSLWantReadError:
            waiting.add("read")
        if not rest or "write" in waiting:
            select.select([sock], [sock] if rest else [], [], 1)
    sock.settimeout(DEADLINE)
    return bytes(got)


class Records:
    """TLS over a socket, with every record in the hands of the test."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext | None = None) -> None:
        self.sock = sock
        self.sock.settimeout(DEADLINE)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = (context or trusting_context()).wrap_bio(
            self.incoming, self.outgoing, server_hostname="localhost"
        )

    def first_flight(self) -> bytes:
        """The ClientHello, not sent."""
        with pytest.raises(ssl.SSLWantReadError):
            self.tls.do_handshake()
        return self.outgoing.read()

    def until_done(self, step: Callable[[], Any]) -> Any:
        """Repeat a step with what the peer sends, and send what comes of it."""
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                self.flush()
                data = self.sock.recv(1 << 16)
                if data:
                    self.incoming.write(data)
                else:
                    self.incoming.write_eof()
            else:
                self.flush()
                return result

    def flush(self) -> None:
        if self.outgoing.pending:
            self.sock.sendall(self.outgoing.read())

    def close_notify(self) -> bytes:
        """The record that ends our side, not sent."""
        with pytest.raises(ssl.SSLWantReadError):
            self.tls.unwrap()
        return self.outgoing.read()

    def read_to_end(self) -> bytes:
        data = bytearray()
        while True:
            try:
                more = self.until_done(lambda: self.tls.read(1 << 16))
            except ssl.SSLZeroReturnError:
                return bytes(data)
            if not more:
                return bytes(data)
            data += more


class Door(GObj):
    """Takes no connections yet."""

    machine = {
        "ST_SHUT": [on(EV_RX_DATA, None, "ST_OPEN")],
        "ST_OPEN": [on(EV_CONNECTED, None), on(EV_DISCONNECTED, None)],
    }


class TestPython:
    @BOTH_VERSIONS
    @pytest.mark.parametrize("poller", POLLERS)
    def test_megabytes_both_ways(self, version: str, poller: str, run_async: RunAsync) -> None:
        def work(port: str) -> bytes:
            with opened(port, trusting_context(version)) as sock:
                got = exchange(sock, MEGABYTES, len(MEGABYTES))
                # The peer's close_notify is waited for: SSLEOFError if it does not come.
                with sock.unwrap() as plain:
                    assert plain.recv(1) == b""
                return got

        async def main() -> None:
            async with serving(poller=poller) as served:
                assert await beside(work, served.port) == MEGABYTES
                assert await served.disconnected() == ["peer"]
                assert served.told[0].protocol == version

        run_async(main)

    @BOTH_VERSIONS
    @pytest.mark.parametrize("poller", POLLERS)
    def test_our_client_to_its_server(self, version: str, poller: str, run_async: RunAsync) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates.server())
        which = ssl.TLSVersion[version.replace(".", "_")]
        context.minimum_version = context.maximum_version = which

        def work(listening: socket.socket) -> bytes:
            sock, _ = listening.accept()
            sock.settimeout(DEADLINE)
            with context.wrap_socket(sock, server_side=True, suppress_ragged_eofs=False) as sock:
                got = exchange(sock, MEGABYTES, len(MEGABYTES))
                # Now the client drops: its close_notify, and then ours.
                assert sock.recv(1) == b""
                sock.unwrap().close()
                return got

        async def main() -> None:
            with socket.create_server(("127.0.0.1", 0)) as listening:
                listening.settimeout(DEADLINE)
                async with calling(listening.getsockname()[1]) as client:
                    answer = asyncio.create_task(beside(work, listening))
                    await client.connected()
                    client.owner.tell(client.gsock, EV_SEND_DATA(MEGABYTES))
                    await wait_for(lambda: len(client.owner.received()) == len(MEGABYTES))
                    assert client.owner.received() == MEGABYTES
                    client.owner.tell(client.gsock, EV_DROP())
                    assert await answer == MEGABYTES
                    await wait_for(client.owner.ended)
                    assert client.owner.reason() == "local"

        run_async(main)

    def test_to_our_own_server(self, run_async: RunAsync) -> None:
        async def main() -> None:
            async with serving() as served, calling(int(served.port)) as client:
                await client.connected()
                client.owner.tell(client.gsock, EV_SEND_DATA(MEGABYTES))
                await wait_for(lambda: len(client.owner.received()) == len(MEGABYTES))
                assert client.owner.received() == MEGABYTES
                client.owner.tell(client.gsock, EV_DROP())
                await wait_for(client.owner.ended)
                assert client.owner.reason() == "local"
                assert await served.disconnected() == ["peer"]

        run_async(main)

    @BOTH_VERSIONS
    def test_drop_sends_everything_and_the_end(self, version: str, run_async: RunAsync) -> None:
        def work(port: str) -> bytes:
            with opened(port, trusting_context(version)) as sock:
                got = read_to_end(sock)
                # Its answer: both have said that they have ended.
                with sock.unwrap() as plain:
                    assert plain.recv(1) == b""
                return got

        async def main() -> None:
            async with serving() as served:

                def give(event: EV_CONNECTED) -> None:
                    served.owner.tell(event.source, EV_SEND_DATA(MEGABYTES))
                    served.owner.tell(event.source, EV_DROP())

                served.owner.reactions[EV_CONNECTED] = give
                assert await beside(work, served.port) == MEGABYTES
                assert await served.disconnected() == ["local"]

        run_async(main)

    def test_a_drop_waits_for_the_answer_no_longer_than_close_timeout(
        self, run_async: RunAsync
    ) -> None:
        def work(port: str) -> None:
            with opened(port) as sock:
                assert sock.recv(100) == b"goodbye"
                assert sock.recv(1) == b""
                # Its close_notify, and the end of TCP's sending side. We say nothing until it goes.
                assert socket.socket.recv(sock, 1) == b""
                gone.wait(DEADLINE)

        gone = threading.Event()

        async def main() -> None:
            async with serving(close_timeout=0.3) as served:

                def give(event: EV_CONNECTED) -> None:
                    served.owner.tell(event.source, EV_SEND_DATA(b"goodbye"))
                    served.owner.tell(event.source, EV_DROP())

                served.owner.reactions[EV_CONNECTED] = give
                work_done = asyncio.create_task(beside(work, served.port))
                await served.connected()
                began = time.monotonic()
                assert await served.disconnected() == ["local"]
                assert time.monotonic() - began < 3
                gone.set()
                await work_done

        run_async(main)

    @BOTH_VERSIONS
    @pytest.mark.parametrize("half_close", [False, True])
    def test_a_truncation(self, version: str, half_close: bool, run_async: RunAsync) -> None:
        def work(port: str) -> None:
            with opened(port, trusting_context(version)) as sock:
                sock.sendall(b"all but the end")
                assert read_exactly(sock, 15) == b"all but the end"
                # The end of TCP and none of TLS. Nothing is left unread, so it is no reset.
                socket.socket.shutdown(sock, socket.SHUT_WR)
                try:
                    assert not sock.recv(1)
                except (ssl.SSLEOFError, ConnectionResetError):
                    # It may answer with its own end, or just end.
                    pass

        async def main() -> None:
            async with serving(half_close=half_close) as served:
                await beside(work, served.port)
                assert await served.disconnected() == ["tls_truncated"]
                assert served.owner.received() == b"all but the end"
                assert not served.owner.of(EV_RX_END)

        run_async(main)

    def test_a_reset(self, run_async: RunAsync) -> None:
        def work(port: str) -> None:
            with opened(port) as sock:
                sock.sendall(b"hello")
                assert read_exactly(sock, 5) == b"hello"
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

        async def main() -> None:
            async with serving() as served:
                await beside(work, served.port)
                assert await served.disconnected() == ["reset"]

        run_async(main)

    @BOTH_VERSIONS
    def test_what_comes_after_the_end_is_ignored(self, version: str, run_async: RunAsync) -> None:
        def work(port: str) -> None:
            with socket.create_connection(("127.0.0.1", int(port)), DEADLINE) as sock:
                peer = Records(sock, trusting_context(version))
                peer.until_done(peer.tls.do_handshake)
                peer.tls.write(b"the last word")
                last = peer.outgoing.read()
                # In one piece, so that the end and what follows are read together.
                sock.sendall(last + peer.close_notify() + b"\x17\x03\x03\x00\x20" + b"x" * 40)
                try:
                    while sock.recv(1 << 16):
                        pass
                except ConnectionResetError:
                    # It may not have read what it ignores.
                    pass

        async def main() -> None:
            async with serving() as served:
                await beside(work, served.port)
                assert await served.disconnected() == ["peer"]
                assert served.owner.received() == b"the last word"

        run_async(main)

    @BOTH_VERSIONS
    def test_half_close(self, version: str, run_async: RunAsync) -> None:
        def work(port: str) -> bytes:
            with socket.create_connection(("127.0.0.1", int(port)), DEADLINE) as sock:
                peer = Records(sock, trusting_context(version))
                peer.until_done(peer.tls.do_handshake)
                peer.tls.write(b"what is the answer?")
                last = peer.outgoing.read()
                sock.sendall(last + peer.close_notify())
                return peer.read_to_end()

        async def main() -> None:
            async with serving(half_close=True) as served:
                owner = served.owner
                del owner.reactions[EV_RX_DATA]

                def answer(event: EV_RX_END) -> None:
                    owner.tell(event.source, EV_SEND_DATA(MEGABYTES))
                    owner.tell(event.source, EV_DROP())

                owner.reactions[EV_RX_END] = answer
                assert await beside(work, served.port) == MEGABYTES
                assert await served.disconnected() == ["local"]
                assert owner.kinds() == [
                    "EV_CONNECTED", "EV_RX_DATA", "EV_RX_END", "EV_DISCONNECTED",
                ]  # fmt: skip
                assert owner.received() == b"what is the answer?"

        run_async(main)

    @BOTH_VERSIONS
    def test_resumption(self, version: str, run_async: RunAsync) -> None:
        context = trusting_context(version)

        def work(port: str, session: ssl.SSLSession | None) -> tuple[ssl.SSLSession | None, bool]:
            with opened(port, context, session=session) as sock:
                sock.sendall(b"hello")
                # TLS 1.3 gives the ticket before the first byte.
                assert read_exactly(sock, 5) == b"hello"
                got = sock.session, bool(sock.session_reused)
                sock.unwrap().close()
                return got

        async def main() -> None:
            async with serving() as served:
                session, reused = await beside(work, served.port, None)
                assert not reused
                for _ in range(2):
                    _, reused = await beside(work, served.port, session)
                    assert reused
                assert await served.disconnected(3) == ["peer"] * 3
                assert [one.resumed for one in served.told] == [False, True, True]

        run_async(main)

    def test_resumption_keeps_the_client_certificate(self, run_async: RunAsync) -> None:
        context = trusting_context()
        context.load_cert_chain(certificates.client("Dora"))

        def work(port: str, session: ssl.SSLSession | None) -> ssl.SSLSession | None:
            with opened(port, context, session=session) as sock:
                sock.sendall(b"hello")
                assert read_exactly(sock, 5) == b"hello"
                return sock.session

        async def main() -> None:
            async with serving(requiring_clients()) as served:
                session = await beside(work, served.port, None)
                await beside(work, served.port, session)
                assert [one.resumed for one in served.told] == [False, True]
                assert [one.common_name for one in served.told] == ["Dora", "Dora"]

        run_async(main)

    def test_paused_and_resumed(self, run_async: RunAsync) -> None:
        """What was decrypted with the last receive and not delivered is neither lost nor early."""

        def work(port: str) -> None:
            with opened(port) as sock:
                sock.sendall(MEGABYTES)
                assert sock.recv(3) == b"end"

        async def main() -> None:
            async with serving() as served:
                owner = served.owner
                owner.reactions[EV_RX_DATA] = lambda event: owner.tell(event.source, EV_PAUSE_RX())
                work_done = asyncio.create_task(beside(work, served.port))
                (gsock,) = await served.connected()
                count = received = 0
                while received < len(MEGABYTES):
                    await wait_for(lambda count=count: len(owner.of(EV_RX_DATA)) > count)
                    await turns(3)
                    heard = owner.of(EV_RX_DATA)
                    # Paused in that event: not one more came with it.
                    count += 1
                    assert len(heard) == count
                    received += len(heard[-1].data)
                    owner.tell(gsock, EV_RESUME_RX())
                assert owner.received() == MEGABYTES
                owner.tell(gsock, EV_SEND_DATA(b"end"))
                await work_done

        run_async(main)

    def test_both_end_at_once(self, run_async: RunAsync) -> None:
        async def main() -> None:
            async with serving() as served:
                _, writer = await asyncio.open_connection(
                    "localhost", served.server.config.port, ssl=trusting_context()
                )
                (gsock,) = await served.connected()
                served.owner.tell(gsock, EV_DROP())
                writer.close()
                await writer.wait_closed()
                assert await served.disconnected() == ["local"]

        run_async(main)

    def test_fifty_at_once(self, run_async: RunAsync) -> None:
        def work(port: str) -> bool:
            with opened(port) as sock:
                got = exchange(sock, MEGABYTES[:100_000], 100_000)
                sock.unwrap().close()
                return got == MEGABYTES[:100_000]

        async def main() -> None:
            async with serving() as served:
                with ThreadPoolExecutor(50) as threads:
                    loop = asyncio.get_running_loop()
                    running = [loop.run_in_executor(threads, work, served.port) for _ in range(50)]
                    assert all(await asyncio.gather(*running))
                assert await served.disconnected(50) == ["peer"] * 50

        run_async(main)

    def test_a_shut_door(self, run_async: RunAsync) -> None:
        def work(port: str) -> None:
            try:
                with opened(port) as sock:
                    assert sock.recv(1) == b""
            except (ssl.SSLError, ConnectionResetError):
                pass

        async def main() -> None:
            async with gaplic() as app:
                door = app.create_gobj("door", Door, app)
                server = serve(app, subscriber=door, ssl_options=identity(certificates.server()))
                await beside(work, server.config.port)
                await wait_for(lambda: server.ledger.refused == 1)
                assert not len(server.ledger)

        run_async(main)


class TestNoTls:
    """Servers that do not say what TLS says."""

    @pytest.mark.parametrize(
        ("answer", "reason"),
        [(b"220 hello\r\n" * 10, "tls"), (b"", "tls"), (None, "timeout"), (RESET, "reset")],
        ids=["plain text", "end", "silence", "reset"],
    )
    def test_not_tls(self, answer: bytes | None, reason: str, run_async: RunAsync) -> None:
        over = threading.Event()

        def work(listening: socket.socket) -> None:
            sock, _ = listening.accept()
            with sock:
                sock.settimeout(DEADLINE)
                assert sock.recv(5)
                if answer is None:
                    over.wait(DEADLINE)
                elif answer is RESET:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                else:
                    while len(sock.recv(1 << 16)) == 1 << 16:
                        pass
                    sock.sendall(answer)

        async def main() -> None:
            with socket.create_server(("127.0.0.1", 0)) as listening:
                listening.settimeout(DEADLINE)
                answered = asyncio.create_task(beside(work, listening))
                limit = 10.0 if reason != "timeout" else 0.3
                async with calling(listening.getsockname()[1], handshake_timeout=limit) as client:
                    assert await client.refused() == reason
                    over.set()
                    await answered

        run_async(main)

    @pytest.mark.parametrize("abort", [False, True])
    def test_dropped_in_the_handshake(self, abort: bool, run_async: RunAsync) -> None:
        async def main() -> None:
            with socket.create_server(("127.0.0.1", 0)) as listening:
                async with calling(listening.getsockname()[1]) as client:
                    await wait_for(lambda: client.gsock.state == "ST_HANDSHAKE")
                    client.owner.tell(client.gsock, EV_DROP(abort))
                    assert await client.refused() == "local"

        run_async(main)


# -- STARTTLS by hand ------------------------------------------------------------------------------


class Upgrader(Owner):
    """Its connections begin in plain text; a line STARTTLS is answered, and then TLS begins."""

    def start_up(self) -> None:
        super().start_up()
        self.said_early = b""
        self.with_the_hello = False

    def ac_read(self, event: EV_RX_DATA) -> None:
        self.ac_keep(event)
        gsock = event.source
        if event.source.tls is not None:  # type: ignore[attr-defined]
            self.tell(gsock, EV_SEND_DATA(event.data))  # type: ignore[arg-type]
        elif event.data.startswith(b"STARTTLS\n"):
            rest = event.data.removeprefix(b"STARTTLS\n")
            if not self.with_the_hello:
                self.tell(gsock, EV_SEND_DATA(b"go\n"))  # type: ignore[arg-type]
            self.tell(gsock, EV_START_TLS(received=rest))  # type: ignore[arg-type]
            if self.said_early:
                self.tell(gsock, EV_SEND_DATA(self.said_early))  # type: ignore[arg-type]

    def ac_started(self, event: EV_TLS_STARTED) -> None:
        self.ac_keep(event)

    machine = {
        "ST_IDLE": [
            on(EV_CONNECTED, Owner.ac_keep),
            on(EV_CONNECT_FAILED, Owner.ac_keep),
            on(EV_RX_DATA, ac_read),
            on(EV_TLS_STARTED, ac_started),
            on(EV_DISCONNECTED, Owner.ac_keep),
        ],
    }


@asynccontextmanager
async def upgrading(**parameters: Any) -> AsyncIterator[tuple[Upgrader, GServerSock]]:
    async with gaplic() as app:
        owner = app.create_gobj("owner", Upgrader, app)
        options = identity(certificates.server())
        server = serve(app, subscriber=owner, ssl_options=options, start_tls=True, **parameters)
        yield owner, server
        assert not owner.inside


class TestStartTls:
    def test_by_python(self, run_async: RunAsync) -> None:
        def work(port: int) -> str | None:
            with socket.create_connection(("127.0.0.1", port), DEADLINE) as sock:
                sock.sendall(b"STARTTLS\n")
                assert read_exactly(sock, 3) == b"go\n"
                with trusting_context().wrap_socket(
                    sock, server_hostname="localhost", suppress_ragged_eofs=False
                ) as tls:
                    # It was sent before the handshake was done, and is not in plain text.
                    assert read_exactly(tls, 5) == b"early"
                    tls.sendall(b"hello")
                    assert read_exactly(tls, 5) == b"hello"
                    version = tls.version()
                    tls.unwrap().close()
                    return version

        async def main() -> None:
            async with upgrading() as (owner, server):
                owner.said_early = b"early"
                assert await beside(work, server.config.port) == "TLSv1.3"
                await wait_for(owner.ended)
                assert owner.kinds() == [
                    "EV_CONNECTED", "EV_RX_DATA", "EV_TLS_STARTED", "EV_RX_DATA", "EV_DISCONNECTED",
                ]  # fmt: skip
                assert owner.reason() == "peer"

        run_async(main)

    def test_the_hello_comes_with_the_word(self, run_async: RunAsync) -> None:
        def work(port: int) -> None:
            with socket.create_connection(("127.0.0.1", port), DEADLINE) as sock:
                peer = Records(sock)
                sock.sendall(b"STARTTLS\n" + peer.first_flight())
                peer.until_done(peer.tls.do_handshake)
                peer.tls.write(b"hello")
                assert peer.until_done(lambda: peer.tls.read(5)) == b"hello"
                peer.until_done(peer.tls.unwrap)

        async def main() -> None:
            async with upgrading() as (owner, server):
                owner.with_the_hello = True
                await beside(work, server.config.port)
                await wait_for(owner.ended)
                assert owner.reason() == "peer"
                assert server.ledger.handshakes == 1

        run_async(main)

    @pytest.mark.parametrize("rude", [b"EHLO x\r\n" * 20, b"\x16\x03\x01\x00\x05garbage" * 9])
    def test_a_failed_upgrade(
        self, rude: bytes, run_async: RunAsync, caplog: pytest.LogCaptureFixture
    ) -> None:
        def work(port: int) -> None:
            with socket.create_connection(("127.0.0.1", port), DEADLINE) as sock:
                sock.sendall(b"STARTTLS\n")
                assert read_exactly(sock, 3) == b"go\n"
                sock.sendall(rude)
                try:
                    while sock.recv(100):
                        pass
                except ConnectionResetError:
                    pass

        async def main() -> None:
            async with upgrading() as (owner, server):
                await beside(work, server.config.port)
                await wait_for(owner.ended)
                assert owner.reason() == "tls"
                assert owner.kinds() == ["EV_CONNECTED", "EV_RX_DATA", "EV_DISCONNECTED"]
                assert server.ledger.failed_handshakes == 1

        run_async(main)
        assert not [one for one in caplog.records if one.levelno >= logging.ERROR]

    def test_an_upgrade_that_never_comes(self, run_async: RunAsync) -> None:
        def work(port: int) -> None:
            with socket.create_connection(("127.0.0.1", port), DEADLINE) as sock:
                sock.sendall(b"STARTTLS\n")
                assert read_exactly(sock, 3) == b"go\n"
                assert sock.recv(1) == b""

        async def main() -> None:
            async with upgrading(handshake_timeout=0.3) as (owner, server):
                await beside(work, server.config.port)
                await wait_for(owner.ended)
                assert owner.reason() == "timeout"
                assert server.ledger.failed_handshakes == 1

        run_async(main)

    @pytest.mark.parametrize("poller", POLLERS)
    def test_the_peer_has_reset_already(
        self, poller: str, run_async: RunAsync, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The owner cannot know of it, so it is no mistake of the program that it goes on."""

        async def main() -> None:
            options = identity(certificates.server())
            async with pair("accepted", poller, ssl_options=options, start_tls=True) as (
                app, owner, gsock, peer,
            ):  # fmt: skip
                answers: list[Any] = []

                def upgrade(event: EV_RX_DATA) -> None:
                    answers.append(owner.tell(gsock, EV_SEND_DATA(b"go\n")))
                    answers.append(owner.tell(gsock, EV_START_TLS()))
                    answers.append(owner.tell(gsock, EV_SEND_DATA(b"secret")))

                owner.reactions[EV_RX_DATA] = upgrade
                peer.send_now(b"STARTTLS\n")
                peer.reset()
                await wait_for(owner.ended)
                assert answers == [NOT_ACCEPTED] * 3
                assert owner.reason() == "reset"
                assert app.contained_errors == 0

        run_async(main)
        assert not [one for one in caplog.records if one.levelno >= logging.WARNING]

    @pytest.mark.parametrize("abort", [False, True])
    def test_after_a_drop(
        self, abort: bool, run_async: RunAsync, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def main() -> None:
            options = identity(certificates.server())
            async with pair("accepted", ssl_options=options, start_tls=True) as (
                _, owner, gsock, _,
            ):  # fmt: skip
                owner.tell(gsock, EV_DROP(abort))
                assert owner.tell(gsock, EV_START_TLS()) is NOT_ACCEPTED
                await wait_for(owner.ended)
                assert owner.reason() == "local"

        run_async(main)
        assert not [one for one in caplog.records if one.levelno >= logging.WARNING]

    def test_our_client(self, run_async: RunAsync) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates.server())

        def work(listening: socket.socket) -> None:
            sock, _ = listening.accept()
            sock.settimeout(DEADLINE)
            with sock:
                assert read_exactly(sock, 9) == b"STARTTLS\n"
                sock.sendall(b"go\n")
                with context.wrap_socket(sock, server_side=True, suppress_ragged_eofs=False) as tls:
                    assert read_exactly(tls, 6) == b"secret"
                    tls.sendall(b"answer")
                    tls.unwrap().close()

        async def main() -> None:
            async with gaplic() as app:
                started: list[Told] = []

                class Client(Owner):
                    def ac_started(self, event: EV_TLS_STARTED) -> None:
                        started.append(told_by(event.source))

                    machine = {
                        "ST_IDLE": [*Owner.machine["ST_IDLE"], on(EV_TLS_STARTED, ac_started)]
                    }

                owner = app.create_gobj("client", Client, app)
                with socket.create_server(("127.0.0.1", 0)) as listening:
                    listening.settimeout(DEADLINE)
                    answered = asyncio.create_task(beside(work, listening))
                    gsock = owner.create_gobj(
                        "gsock", GSock, owner, host="localhost",
                        port=listening.getsockname()[1], ssl_options=trusting(), start_tls=True,
                    )  # fmt: skip
                    owner.tell(gsock, EV_CONNECT())
                    await wait_for(lambda: owner.of(EV_CONNECTED))
                    assert gsock.tls is None
                    owner.tell(gsock, EV_SEND_DATA(b"STARTTLS\n"))
                    await wait_for(lambda: owner.received() == b"go\n")
                    owner.tell(gsock, EV_START_TLS())
                    owner.tell(gsock, EV_SEND_DATA(b"secret"))
                    await answered
                    await wait_for(owner.ended)
                    assert owner.received() == b"go\nanswer"
                    assert owner.reason() == "peer"
                    assert [one.protocol for one in started] == ["TLSv1.3"]

        run_async(main)

    def test_gnutls_by_hand(self, run_async: RunAsync, require_program: Require) -> None:
        """`gnutls-cli --starttls` talks in plain text until it gets the signal ALRM."""
        command = require_program("gnutls-cli")

        async def main() -> None:
            async with upgrading() as (owner, server):
                with Program(
                    command, "--starttls", "--x509cafile", certificates.ca(),
                    "-p", str(server.config.port), "localhost",
                ) as client:  # fmt: skip
                    await client.says("Simple Client Mode")
                    await client.type("STARTTLS\n")
                    await client.says("^go$")
                    client.process.send_signal(signal.SIGALRM)
                    await client.says("The certificate is trusted")
                    await client.says("^- Options:")
                    await echoes(client, "hello", "once more")
                    client.end_input()
                    await client.ends()
                await wait_for(owner.ended)
                assert owner.reason() == "peer"
                assert len(owner.of(EV_TLS_STARTED)) == 1

        run_async(main)


# -- gnutls-cli ------------------------------------------------------------------------------------


GNUTLS = {
    "TLSv1.2": "NORMAL:-VERS-ALL:+VERS-TLS1.2",
    "TLSv1.3": "NORMAL:-VERS-ALL:+VERS-TLS1.3",
}


@pytest.fixture
def gnutls_cli(require_program: Require) -> Start:
    """`gnutls-cli` to a server, trusting the CA of the tests."""
    command = require_program("gnutls-cli")

    def start(served: Served, *options: str | Path, ca: Path | None = None) -> Program:
        return Program(
            command, "--x509cafile", ca or certificates.ca(), "-p", served.port, "localhost",
            *options,
        )  # fmt: skip

    return start


class TestGnuTLS:
    @BOTH_VERSIONS
    def test_echo(self, version: str, run_async: RunAsync, gnutls_cli: Start) -> None:
        async def main() -> None:
            async with serving({**identity(certificates.server()), "alpn": ["h2"]}) as served:
                with gnutls_cli(served, "--priority", GNUTLS[version], "--alpn", "h2") as client:
                    await client.says(rf"^- Description: \({version.replace('v', '')}")
                    await client.says("Application protocol: h2")
                    await client.says("Simple Client Mode")
                    await echoes(client, "hello", "once more")
                    client.end_input()
                    # It waits for our answer to its end.
                    await client.says("Peer has closed the GnuTLS connection")
                    assert await client.ends() == 0
                assert await served.disconnected() == ["peer"]
                (told,) = served.told
                assert (told.protocol, told.alpn, told.server_name) == (version, "h2", "localhost")

        run_async(main)

    @BOTH_VERSIONS
    def test_resumption(self, version: str, run_async: RunAsync, gnutls_cli: Start) -> None:
        async def main() -> None:
            async with serving() as served:
                with gnutls_cli(
                    served, "--priority", GNUTLS[version], "--resume", "--waitresumption"
                ) as client:
                    await client.says("This is a resumed session")
                    await client.says("Simple Client Mode")
                    await echoes(client, "hello")
                    client.end_input()
                    assert await client.ends() == 0
                await served.disconnected(2)
                assert [one.resumed for one in served.told] == [False, True]

        run_async(main)

    def test_key_updates(self, run_async: RunAsync, gnutls_cli: Start) -> None:
        async def main() -> None:
            async with serving() as served:
                with gnutls_cli(
                    served, "--priority", GNUTLS["TLSv1.3"], "--inline-commands"
                ) as client:
                    await client.says("Simple Client Mode")
                    await echoes(client, "hello")
                    # The first changes its key, the second asks for ours as well.
                    for command in ("rekey", "rekey1"):
                        await client.type(f"^{command}^\n")
                        await client.says("Rekey was completed")
                        await echoes(client, f"after {command}")
                    client.end_input()
                    assert await client.ends() == 0
                assert await served.disconnected() == ["peer"]

        run_async(main)

    def test_client_certificate(self, run_async: RunAsync, gnutls_cli: Start) -> None:
        path = certificates.client("Eve")

        async def main() -> None:
            async with serving(requiring_clients()) as served:
                with gnutls_cli(
                    served, "--x509certfile", path, "--x509keyfile", certificates.key_of(path)
                ) as client:
                    await client.says("Simple Client Mode")
                    await echoes(client, "hello")
                assert served.told[0].common_name == "Eve"
                with gnutls_cli(served) as client:
                    # It learns of it with the first thing that it reads.
                    await client.says("Certificate is required")
                    await client.ends()
                await wait_for(lambda: served.server.ledger.failed_handshakes == 1)
                assert len(served.told) == 1

        run_async(main)

    def test_it_does_not_know_the_authority(
        self,
        run_async: RunAsync,
        gnutls_cli: Start,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        async def main() -> None:
            async with serving() as served:
                with gnutls_cli(served, ca=certificates.other_ca()) as client:
                    await client.says("verification of server certificate failed")
                    assert await client.ends() == 1
                await served.failed()
                assert served.owner.heard == []

        run_async(main)
        (line,) = failures(caplog)
        assert "bad certificate" in line
