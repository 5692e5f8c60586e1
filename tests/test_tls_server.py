"""A server with TLS: handshakes that fail, doors that are shut, certificates that change.

And the client's side of a failed handshake, since it is the same one.
"""

import asyncio
import datetime as dt
import itertools
import logging
import os
import shutil
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

import certificates
from conftest import RunAsync
from ginsfsm import GAplic, GConfigError, GObj, GObjError, on, param
from ginsfsm.c_sock import (
    EV_CONNECT,
    EV_CONNECT_FAILED,
    EV_CONNECTED,
    EV_DISCONNECTED,
    EV_DROP,
    EV_RX_DATA,
    EV_SEND_DATA,
    EV_START_TLS,
    EV_TLS_STARTED,
    GSock,
)
from ginsfsm.c_srv_sock import EV_RELOAD_TLS, GServerSock
from ginsfsm.testing import ManualGAplic
from secure import (
    V12,
    V13,
    TlsPair,
    TlsPeer,
    client_context,
    client_options,
    dial,
    make_secure_owner,
    plain_pair,
    serve_tls,
    server_context,
    server_options,
    tls_pair,
)
from sockets import (
    POLLERS,
    Peer,
    accept,
    client_of,
    gaplic,
    listener,
    make_owner,
    turns,
    wait_for,
)

each_poller = pytest.mark.parametrize("poller", POLLERS)
each_version = pytest.mark.parametrize("version", [V12, V13], ids=lambda one: one.name)


@pytest.fixture(autouse=True)
def everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "ginsfsm")


class Named(GObj):
    """A session that has a parameter."""

    class config(GObj.config):
        word: str = param("", "what the server gives it")

    machine = {"ST_IDLE": [on(EV_CONNECTED, None), on(EV_RX_DATA, None)]}


def lines(caplog: pytest.LogCaptureFixture, word: str) -> list[logging.LogRecord]:
    """What was logged with that word in it."""
    return [record for record in caplog.records if word in record.getMessage()]


def address(peer: Peer) -> str:
    host, port = peer.sock.getsockname()[:2]
    return f"{host}:{port}"


async def read_raw(peer: Peer) -> tuple[bytes, str]:
    """The bytes on the wire to its end."""
    return await Peer(peer.sock).read_to_end()


# -- failed handshakes of accepted connections -----------------------------------------------------


async def sends_http(peer: TlsPeer) -> None:
    await peer.send_raw(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")


async def sends_garbage(peer: TlsPeer) -> None:
    await peer.send_raw(bytes(range(256)) * 4)


async def sends_much_garbage(peer: TlsPeer) -> None:
    with suppress(ConnectionError):
        await peer.send_raw(bytes(300_000))


async def sends_half_a_hello_and_ends(peer: TlsPeer) -> None:
    peer.step()
    await peer.send_raw(peer.written()[:20])
    peer.truncate()


async def ends_after_its_hello(peer: TlsPeer) -> None:
    peer.step()
    await peer.send_raw(peer.written())
    peer.truncate()


async def resets_after_its_hello(peer: TlsPeer) -> None:
    peer.step()
    await peer.send_raw(peer.written())
    await peer.feed(1)
    peer.reset()


async def ends_without_a_byte(peer: TlsPeer) -> None:
    peer.truncate()


async def resets_without_a_byte(peer: TlsPeer) -> None:
    peer.reset()


async def trusts_nobody(peer: TlsPeer) -> None:
    peer = TlsPeer(
        peer, ssl.create_default_context(cafile=certificates.other_ca()), server_side=False
    )
    with pytest.raises(ssl.SSLCertVerificationError):
        await peer.shake()


async def asks_for_another_host(peer: TlsPeer) -> None:
    peer = TlsPeer(
        peer, client_context(), server_side=False, server_hostname="elsewhere.example.org"
    )
    with pytest.raises(ssl.SSLCertVerificationError):
        await peer.shake()


async def breaks_its_last_message(peer: TlsPeer) -> None:
    while not peer.step():
        await peer.send_raw(peer.written())
        await peer.feed()
    last = bytearray(peer.written())
    last[-1] ^= 1
    await peer.send_raw(bytes(last))


@each_poller
@pytest.mark.parametrize(
    ("how", "level", "words"),
    [
        (sends_http, "INFO", "plain HTTP came to the port of TLS"),
        (sends_garbage, "INFO", "what came is no TLS"),
        (sends_much_garbage, "INFO", "what came is no TLS"),
        (sends_half_a_hello_and_ends, "INFO", "closed the connection"),
        (ends_after_its_hello, "INFO", "closed the connection"),
        (resets_after_its_hello, "INFO", "reset"),
        (ends_without_a_byte, "DEBUG", "closed the connection"),
        (resets_without_a_byte, "DEBUG", "reset"),
        (trusts_nobody, "INFO", "unknown ca"),
        (asks_for_another_host, "INFO", "bad certificate"),
        (breaks_its_last_message, "INFO", "decryption failed"),
    ],
)
def test_a_failed_handshake_of_a_client_is_a_count_and_one_line(
    run_async: RunAsync,
    poller: str,
    how: Callable[[TlsPeer], Any],
    level: str,
    words: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def work() -> None:
        async with gaplic(poller) as app:
            owner = make_secure_owner(app)
            server = serve_tls(app, owner)
            with await dial(server) as good, await dial(server) as peer:
                await good.shake()
                await wait_for(lambda: owner.of(EV_CONNECTED))
                known = address(peer)
                await how(peer)
                await wait_for(lambda: server.ledger.failed_handshakes)
                await turns()
                ledger = server.ledger
                assert (ledger.handshakes, ledger.failed_handshakes) == (1, 1)
                assert (ledger.accepted, ledger.refused, ledger.failed) == (2, 0, 0)
                assert server.config.n_gsocks == 1
                assert len(app.poller) == 2
                assert owner.kinds() == ["EV_CONNECTED"]
                assert [type(child) for child in owner.children.values()] == [GSock]
                (record,) = lines(caplog, "handshake")
                assert record.name == "ginsfsm"
                assert record.levelname == level
                assert words in record.getMessage()
                assert known in record.getMessage()
                assert "app/owner/server.clisrv_2" in record.getMessage()
                assert app.contained_errors == 0
                # The others are none the worse for it.
                await good.send(b"hello")
                await wait_for(owner.received)

    run_async(work)
    caplog.clear()


@pytest.mark.parametrize("begun", [False, True])
def test_a_handshake_that_takes_too_long(
    run_async: RunAsync, begun: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        async with gaplic() as app:
            owner = make_secure_owner(app)
            server = serve_tls(app, owner, handshake_timeout=0.2)
            with await dial(server) as good, await dial(server) as peer:
                await good.shake()
                if begun:
                    peer.step()
                    await peer.send_raw(peer.written())
                begin = time.monotonic()
                await wait_for(lambda: server.ledger.failed_handshakes)
                assert time.monotonic() - begin < 1
                assert server.config.n_gsocks == 1
                assert owner.kinds() == ["EV_CONNECTED"]
                (record,) = lines(caplog, "handshake")
                assert record.levelno == logging.INFO
                assert "not complete within 0.2 s" in record.getMessage()
                assert address(peer) in record.getMessage()
                await read_raw(peer)
                # A handshake that is complete has no deadline.
                await good.send(b"hello")
                await wait_for(owner.received)
                assert not owner.ended()

    run_async(work)


def test_a_handshake_timeout_of_zero_is_no_limit() -> None:
    async def work() -> None:
        async with ManualGAplic() as app:
            owner = make_owner(app)
            server = serve_tls(app, owner, handshake_timeout=0)
            with await dial(server) as peer:
                await wait_for(lambda: server.ledger.accepted)
                app.advance(100_000)
                assert server.config.n_gsocks == 1
                await peer.shake()
                await wait_for(lambda: owner.of(EV_CONNECTED))

    asyncio.run(work())


def test_a_client_that_sends_a_byte_a_second_is_ended_all_the_same() -> None:
    async def work() -> None:
        async with ManualGAplic() as app:
            owner = make_owner(app)
            server = serve_tls(app, owner)
            with await dial(server) as peer:
                peer.step()
                hello = peer.written()
                await wait_for(lambda: server.ledger.accepted)
                for byte in hello[:9]:
                    await peer.send_raw(bytes([byte]))
                    await turns(20)
                    app.advance(1)
                assert server.config.n_gsocks == 1
                app.advance(1.5)
                assert server.config.n_gsocks == 0
                assert server.ledger.failed_handshakes == 1

    asyncio.run(work())


@each_poller
def test_a_client_that_stops_reading_during_the_handshake(run_async: RunAsync, poller: str) -> None:
    """The server's messages do not fit into its kernel; it goes on where it reads them."""

    async def work() -> None:
        async with gaplic(poller) as app:
            owner = make_secure_owner(app)
            server = serve_tls(app, owner, ssl_options={"certfile": str(certificates.rsa())})
            with await dial(server, rcvbuf=2304) as peer:
                await wait_for(lambda: server.ledger.accepted)
                (gsock,) = server.ledger
                # Little enough for the chain of certificates not to fit.
                gsock._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
                peer.step()
                await peer.send_raw(peer.written())
                await turns(100)
                assert gsock.state == "ST_HANDSHAKE"
                await peer.shake()
                await wait_for(lambda: owner.of(EV_CONNECTED))
                await peer.send(b"hello")
                await wait_for(owner.received)
                owner.tell(gsock, EV_SEND_DATA(b"x" * 100_000))
                assert await peer.read(100_000) == b"x" * 100_000

    run_async(work)


# -- the alert -------------------------------------------------------------------------------------


@each_version
@pytest.mark.parametrize(
    ("certificate", "word"),
    [
        (None, ("PEER_DID_NOT_RETURN", "CERTIFICATE_REQUIRED", "HANDSHAKE_FAILURE")),
        ("stranger", ("UNKNOWN_CA",)),
        ("expired", ("CERTIFICATE_EXPIRED",)),
    ],
)
def test_a_client_hears_why_its_certificate_was_refused(
    run_async: RunAsync, version: ssl.TLSVersion, certificate: str | None, word: tuple[str, ...]
) -> None:
    """In TLS 1.3 it believes the handshake to be complete by then, and has sent a request."""
    file = getattr(certificates, certificate)() if certificate else None

    async def work() -> None:
        options = {**server_options(), "ca_certs": str(certificates.ca())}
        async with gaplic() as app:
            owner = make_secure_owner(app)
            server = serve_tls(app, owner, ssl_options={**options, "cert_reqs": "required"})
            context = client_context(version, certificate=file)
            with await dial(server, context) as peer:
                try:
                    await peer.shake()
                    await peer.send_raw(peer.seal(b"a request" * 5000))
                    _, how = await peer.read_to_end()
                except ssl.SSLError as error:
                    how = str(error.reason)
                assert any(one in how for one in word), how
                await wait_for(lambda: server.ledger.failed_handshakes)
                assert not owner.heard

    run_async(work)


@each_version
def test_a_client_hears_that_there_is_nothing_in_common(
    run_async: RunAsync, version: ssl.TLSVersion
) -> None:
    async def work() -> None:
        async with gaplic() as app:
            owner = make_secure_owner(app)
            other = "TLSv1.3" if version is V12 else "TLSv1.2"
            options: dict[str, Any] = dict(server_options())
            if version is V12:
                options["minimum_version"] = other
            else:
                options["ssl_version"] = "PROTOCOL_TLSv1_2"
            server = serve_tls(app, owner, ssl_options=options)
            peer = await dial(server, client_context(version))
            with peer, pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
                await peer.shake()

    run_async(work)


def test_http_gets_an_alert_and_a_proper_end(run_async: RunAsync) -> None:
    async def work() -> None:
        async with gaplic() as app:
            owner = make_secure_owner(app)
            server = serve_tls(app, owner)
            with await dial(server) as peer:
                await sends_http(peer)
                data, how = await read_raw(peer)
                assert how == "end"
                assert data[:1] in (b"\x15", b""), "an alert, or nothing"

    run_async(work)


@each_version
def test_a_server_hears_why_its_certificate_was_refused(
    run_async: RunAsync, version: ssl.TLSVersion
) -> None:
    async def work() -> None:
        context = server_context(version, certificate=certificates.stranger())
        async with tls_pair("client", context=context, shake=False) as (_, owner, _, peer):
            with pytest.raises(ssl.SSLError, match="UNKNOWN_CA"):
                await peer.shake()
            await wait_for(lambda: owner.heard)
            assert owner.kinds() == ["EV_CONNECT_FAILED"]

    run_async(work)


# -- failed handshakes of a client -----------------------------------------------------------------


async def server_sends_garbage(tls: TlsPair) -> None:
    await tls.peer.send_raw(b"220 mail.example.org ESMTP\r\n")


async def server_ends(tls: TlsPair) -> None:
    tls.peer.truncate()


async def server_ends_half_way(tls: TlsPair) -> None:
    await tls.peer.feed()
    tls.peer.step()
    await tls.peer.send_raw(tls.peer.written()[:100])
    tls.peer.truncate()


async def server_resets(tls: TlsPair) -> None:
    await tls.peer.feed()
    tls.peer.reset()


async def server_resets_at_once(tls: TlsPair) -> None:
    tls.peer.reset()


async def server_is_silent(tls: TlsPair) -> None:
    pass


async def server_has_another_name(tls: TlsPair) -> None:
    context = server_context(certificate=certificates.server("elsewhere.example.org"))
    with suppress(ssl.SSLError, ConnectionError):
        await TlsPeer(tls.peer, context, server_side=True).shake()


async def server_is_a_stranger(tls: TlsPair) -> None:
    context = server_context(certificate=certificates.stranger())
    with suppress(ssl.SSLError, ConnectionError):
        await TlsPeer(tls.peer, context, server_side=True).shake()


async def server_is_expired(tls: TlsPair) -> None:
    context = server_context(certificate=certificates.expired())
    with suppress(ssl.SSLError, ConnectionError):
        await TlsPeer(tls.peer, context, server_side=True).shake()


@each_poller
@pytest.mark.parametrize(
    ("how", "reason", "words"),
    [
        (server_sends_garbage, "tls", "what came is no TLS"),
        (server_ends, "tls", "closed the connection"),
        (server_ends_half_way, "tls", "closed the connection"),
        (server_resets, "reset", "reset"),
        (server_resets_at_once, "reset", "reset"),
        (server_is_silent, "timeout", "not complete within 0.2 s"),
        (server_has_another_name, "tls", "match"),
        (server_is_a_stranger, "tls", "the peer's certificate was refused"),
        (server_is_expired, "tls", "expired"),
    ],
)
def test_a_failed_handshake_with_a_server_is_ev_connect_failed(
    run_async: RunAsync,
    poller: str,
    how: Callable[[TlsPair], Any],
    reason: str,
    words: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    timeout = 0.2 if how is server_is_silent else 10.0

    async def work() -> None:
        async with tls_pair("client", poller, shake=False, handshake_timeout=timeout) as tls:
            app, owner, gsock, peer = tls
            await wait_for(lambda: gsock.state == "ST_HANDSHAKE")
            known = "{}:{}".format(*gsock.peername)
            begin = time.monotonic()
            await how(tls)
            await wait_for(lambda: owner.heard)
            assert time.monotonic() - begin < 2
            await turns()
            (failed,) = owner.of(EV_CONNECT_FAILED)
            assert owner.kinds() == ["EV_CONNECT_FAILED"]
            assert failed.reason == reason
            assert gsock.state == "ST_DISCONNECTED"
            assert gsock.tls is None
            assert len(app.poller) == 0
            (record,) = lines(caplog, "handshake")
            assert record.levelno == logging.INFO
            assert words in record.getMessage()
            assert known in record.getMessage()
            assert gsock.path in record.getMessage()
            assert app.contained_errors == 0
            assert peer

    run_async(work)
    caplog.clear()


def test_a_client_that_failed_connects_again(run_async: RunAsync) -> None:
    async def work() -> None:
        async with gaplic() as app:
            owner = make_secure_owner(app)
            with listener() as listening:
                gsock = client_of(owner, listening, ssl_options=client_options())
                for count in range(1, 4):
                    owner.tell(gsock, EV_CONNECT())
                    with await accept(listening) as raw:
                        bad = server_context(certificate=certificates.stranger())
                        with pytest.raises(ssl.SSLError):
                            await TlsPeer(raw, bad, server_side=True).shake()
                        await wait_for(
                            lambda count=count: len(owner.of(EV_CONNECT_FAILED)) == count
                        )
                owner.tell(gsock, EV_CONNECT())
                with await accept(listening) as raw:
                    peer = await TlsPeer(raw, server_context(), server_side=True).shake()
                    await wait_for(lambda: owner.of(EV_CONNECTED))
                    owner.tell(gsock, EV_SEND_DATA(b"at last"))
                    assert await peer.read(7) == b"at last"

    run_async(work)


@pytest.mark.parametrize("what", ["again", "destroy"])
def test_what_a_client_does_inside_ev_connect_failed(run_async: RunAsync, what: str) -> None:
    async def work() -> None:
        async with gaplic() as app:
            owner = make_secure_owner(app)
            with listener() as listening:
                gsock = client_of(owner, listening, ssl_options=client_options())

                def react(_event: EV_CONNECT_FAILED) -> None:
                    if what == "again":
                        owner.tell(gsock, EV_CONNECT())
                    else:
                        owner.destroy_gobj(gsock)

                owner.reactions[EV_CONNECT_FAILED] = react
                owner.tell(gsock, EV_CONNECT())
                for count in range(1, 4 if what == "again" else 2):
                    with await accept(listening) as raw:
                        await raw.send(b"220 mail.example.org ESMTP\r\n")
                        await wait_for(
                            lambda count=count: len(owner.of(EV_CONNECT_FAILED)) == count
                        )
                if what == "again":
                    with await accept(listening) as raw:
                        await TlsPeer(raw, server_context(), server_side=True).shake()
                        await wait_for(lambda: owner.of(EV_CONNECTED))
                await turns()
                assert gsock.destroyed is (what == "destroy")
                assert app.contained_errors == 0
                assert not owner.inside

    run_async(work)


@pytest.mark.parametrize("abort", [False, True])
@pytest.mark.parametrize("after_turns", [0, 2, 10])
def test_a_client_that_is_dropped_in_the_handshake(
    run_async: RunAsync, abort: bool, after_turns: int
) -> None:
    async def work() -> None:
        async with tls_pair("client", shake=False) as (app, owner, gsock, peer):
            await wait_for(lambda: gsock.state == "ST_HANDSHAKE")
            await turns(after_turns)
            owner.tell(gsock, EV_DROP(abort))
            assert not owner.heard
            await wait_for(lambda: owner.heard)
            await turns()
            (failed,) = owner.of(EV_CONNECT_FAILED)
            assert failed.reason == "local"
            assert owner.kinds() == ["EV_CONNECT_FAILED"]
            await read_raw(peer)
            assert app.refused_events == 0

    run_async(work)


# -- the subscriber --------------------------------------------------------------------------------


class EV_SHUT(EV_DROP):
    """Of the test: no more clients."""


class Doorkeeper(GObj):
    """Takes connections in one of its two states only."""

    def start_up(self) -> None:
        self.heard: list[str] = []

    def ac_keep(self, event: EV_CONNECTED | EV_RX_DATA | EV_DISCONNECTED) -> None:
        self.heard.append(type(event).__name__)

    machine = {
        "ST_OPEN": [
            on(EV_CONNECTED, ac_keep),
            on(EV_RX_DATA, ac_keep),
            on(EV_DISCONNECTED, ac_keep),
            on(EV_SHUT, None, "ST_SHUT"),
        ],
        "ST_SHUT": [
            on(EV_RX_DATA, ac_keep),
            on(EV_DISCONNECTED, ac_keep),
        ],
    }


def serve_doorkeeper(app: Any, keeper: GObj) -> GServerSock:
    return app.create_gobj(  # type: ignore[no-any-return]
        "server", GServerSock, app, host="127.0.0.1", subscriber=keeper,
        ssl_options=server_options(),
    )  # fmt: skip


@each_poller
@pytest.mark.parametrize("when", ["before", "during", "at the end"])
def test_the_door_is_shut(run_async: RunAsync, poller: str, when: str) -> None:
    """Looked at when a connection is accepted, decided when its handshake is complete."""

    async def work() -> None:
        async with gaplic(poller) as app:
            keeper = app.create_gobj("keeper", Doorkeeper, app)
            server = serve_doorkeeper(app, keeper)
            with await dial(server) as inside, await dial(server) as peer:
                await inside.shake()
                await wait_for(lambda: keeper.heard)
                if when == "before":
                    # The connection of the second one was accepted with the first.
                    peer.close()
                    await wait_for(lambda: server.config.n_gsocks == 1)
                    keeper.send_event(keeper, EV_SHUT())
                    with await dial(server) as late:
                        assert (await read_raw(late))[0] == b""
                else:
                    if when == "at the end":
                        peer.step()
                        await peer.send_raw(peer.written())
                        await peer.feed()
                    keeper.send_event(keeper, EV_SHUT())
                    with suppress(ssl.SSLError, ConnectionError):
                        await peer.shake()
                        await peer.send(b"hello?")
                    await peer_is_gone(peer)
                await wait_for(lambda: server.ledger.refused)
                assert server.ledger.refused == 1
                assert server.config.n_gsocks == 1
                assert keeper.heard == ["EV_CONNECTED"]
                assert app.refused_events == 0 or when != "before"
                await inside.send(b"still here")
                await wait_for(lambda: keeper.heard == ["EV_CONNECTED", "EV_RX_DATA"])
                assert app.contained_errors == 0

    run_async(work)


async def peer_is_gone(peer: TlsPeer) -> None:
    """The gsock has closed, in whatever way."""
    with suppress(ConnectionError):
        while await peer.feed():
            pass


@each_poller
def test_a_subscriber_that_is_destroyed_while_handshakes_are_under_way(
    run_async: RunAsync, poller: str
) -> None:
    async def work() -> None:
        async with gaplic(poller) as app:
            owner = make_secure_owner(app)
            server = serve_tls(app, owner)
            with ExitStack() as stack:
                peers = [stack.enter_context(await dial(server)) for _ in range(12)]
                for number, peer in enumerate(peers):
                    if number % 3:
                        peer.step()
                        await peer.send_raw(peer.written())
                    if number % 3 == 2:
                        await peer.feed()
                        if peer.step():
                            await peer.send_raw(peer.written())
                await wait_for(lambda: server.ledger.accepted == 12)
                app.destroy_gobj(owner)
                assert server.config.n_gsocks == 0
                await turns()
                for peer in peers:
                    await peer_is_gone(peer)
                # The server is still there, and refuses.
                with await dial(server) as peer:
                    assert (await read_raw(peer))[0] == b""
                assert server.ledger.refused == 1
                assert app.contained_errors == 0
                assert len(app.poller) == 1

    run_async(work)


@each_poller
def test_a_server_that_is_destroyed_while_handshakes_are_under_way(
    run_async: RunAsync, poller: str
) -> None:
    """The connections live on, those that shake hands among them."""

    async def work() -> None:
        async with gaplic(poller) as app:
            owner = make_secure_owner(app)
            server = serve_tls(app, owner)
            ledger = server.ledger
            with ExitStack() as stack:
                peers = [stack.enter_context(await dial(server)) for _ in range(9)]
                for number, peer in enumerate(peers):
                    if number % 3:
                        peer.step()
                        await peer.send_raw(peer.written())
                    if number % 3 == 2:
                        await peer.feed()
                await wait_for(lambda: ledger.accepted == 9)
                app.destroy_gobj(server)
                await asyncio.gather(*(peer.shake() for peer in peers))
                await wait_for(lambda: len(owner.of(EV_CONNECTED)) == 9)
                for peer in peers:
                    await peer.send(b"hello")
                await wait_for(lambda: len(owner.received()) == 45)
                assert len(ledger) == ledger.handshakes == 9
                for peer in peers:
                    peer.end()
                await wait_for(lambda: len(ledger) == 0)
                assert app.contained_errors == 0

    run_async(work)


def test_an_accepted_connection_that_is_dropped_in_the_handshake_is_gone_without_a_word(
    run_async: RunAsync,
) -> None:
    """A subscriber finds it among its children, and has never been told of it."""

    async def work() -> None:
        async with tls_pair("accepted", shake=False) as (_, owner, gsock, peer):
            assert gsock.state == "ST_HANDSHAKE"
            ledger = gsock._reception.ledger
            owner.tell(gsock, EV_DROP())
            await peer_is_gone(peer)
            await turns()
            assert not owner.heard
            assert gsock.destroyed
            assert not owner.children
            assert len(ledger) == 0

    run_async(work)


def test_a_broadcast_over_the_children_does_not_hurt_one_in_the_handshake(
    run_async: RunAsync,
) -> None:
    async def work() -> None:
        async with tls_pair("accepted", shake=False) as (app, owner, gsock, peer):
            assert not owner.tell(gsock, EV_SEND_DATA(b"to all"))
            await peer.shake()
            await wait_for(lambda: owner.of(EV_CONNECTED))
            owner.tell(gsock, EV_SEND_DATA(b"to you"))
            assert await peer.read(6) == b"to you"
            assert app.contained_errors == 0

    run_async(work)


def test_many_handshakes_at_once_are_all_completed(run_async: RunAsync) -> None:
    async def work() -> None:
        async with gaplic() as app:
            owner = make_secure_owner(app)
            owner.reactions[EV_RX_DATA] = lambda event: owner.tell(
                event.source, EV_SEND_DATA(event.data)
            )
            server = serve_tls(app, owner)
            context = client_context()
            with ExitStack() as stack:
                peers = [stack.enter_context(await dial(server, context)) for _ in range(100)]
                await asyncio.gather(*(peer.shake() for peer in peers))
                for number, peer in enumerate(peers):
                    await peer.send(b"%03d" % number)
                for number, peer in enumerate(peers):
                    assert await peer.read(3) == b"%03d" % number
                assert server.ledger.handshakes == 100
                assert server.ledger.failed_handshakes == 0
                assert server.config.n_gsocks == 100

    run_async(work)


# -- what was agreed on ----------------------------------------------------------------------------


@each_version
def test_what_the_gsock_tells_of_its_tls(run_async: RunAsync, version: ssl.TLSVersion) -> None:
    async def work() -> None:
        options = {
            **server_options(),
            "ca_certs": str(certificates.ca()),
            "cert_reqs": "required",
            "alpn": ["echo/2", "echo/1"],
        }
        context = client_context(version, certificate=certificates.client("somebody"))
        context.set_alpn_protocols(["echo/1", "echo/3"])
        async with tls_pair("accepted", context=context, ssl_options=options) as tls:
            info = tls.gsock.tls
            assert info is not None
            assert info.protocol == {V12: "TLSv1.2", V13: "TLSv1.3"}[version]
            assert info.cipher == tls.peer.tls.cipher()[0]  # type: ignore[index]
            assert info.alpn == "echo/1"
            assert info.server_name == "localhost"
            assert info.resumed is False
            assert info.peer_certificate is not None
            assert "somebody" in str(info.peer_certificate_fields()["subject"])

    run_async(work)


# -- other certificates ----------------------------------------------------------------------------


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    """A certificate's file, with its key, that the test may change."""
    path = tmp_path / "server.pem"
    shutil.copy(certificates.server(), path)
    return path


_serials = itertools.count()


def replace(path: Path, by: Path | bytes) -> None:
    """As certbot does: a new file under the old name."""
    fresh = path.with_suffix(f".{next(_serials)}")
    if isinstance(by, bytes):
        fresh.write_bytes(by)
    else:
        shutil.copy(by, fresh)
    os.replace(fresh, path)


async def seen_by_a_client(server: GServerSock) -> str:
    """The serial number of the certificate that a new client is shown."""
    with await dial(server) as peer:
        await peer.shake()
        found = peer.tls.getpeercert()
        assert found is not None
        return str(found["serialNumber"])


def reload(app: Any, server: GServerSock) -> bool:
    return app.send_event(server, EV_RELOAD_TLS())  # type: ignore[no-any-return]


@each_poller
def test_a_reload_shows_new_clients_the_new_certificate_and_ends_no_connection(
    run_async: RunAsync, poller: str, chain: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        async with gaplic(poller) as app:
            owner = make_secure_owner(app)
            server = serve_tls(app, owner, ssl_options={"certfile": str(chain)})
            before = server.certificates
            with await dial(server) as old, await dial(server) as waiting:
                await old.shake()
                first = await seen_by_a_client(server)
                assert await seen_by_a_client(server) == first
                replace(chain, certificates.renewed())
                assert await seen_by_a_client(server) == first, "nobody has reloaded yet"
                assert reload(app, server) is True
                assert await seen_by_a_client(server) != first
                (record,) = lines(caplog, "reloaded")
                assert record.levelno == logging.INFO
                assert str(chain) in record.getMessage()
                assert before is not server.certificates
                # Accepted before, and its handshake begins now.
                await waiting.shake()
                found = waiting.tls.getpeercert()
                assert found is not None
                assert found["serialNumber"] != first
                await old.send(b"still here")
                await wait_for(lambda: b"still here" in owner.received())

    run_async(work)


def cut(path: Path) -> None:
    replace(path, path.read_bytes()[:300])


def take_away(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    replace(path, b"")


def another_key(path: Path) -> None:
    chain_ = certificates.chain_of(certificates.server()).read_bytes()
    replace(path, certificates.key_of(certificates.rsa()).read_bytes() + chain_)


@pytest.mark.parametrize("spoil", [cut, take_away, empty, another_key])
def test_a_bad_reload_leaves_what_was(
    run_async: RunAsync,
    chain: Path,
    spoil: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def work() -> None:
        async with gaplic() as app:
            owner = make_secure_owner(app)
            server = serve_tls(app, owner, ssl_options={"certfile": str(chain)})
            first = await seen_by_a_client(server)
            known = server.certificates
            spoil(chain)
            for _ in range(2):
                assert reload(app, server) is False
                assert await seen_by_a_client(server) == first
            assert server.certificates == known
            errors = [one for one in caplog.records if one.levelno == logging.ERROR]
            assert len(errors) == 2
            assert str(chain) in errors[0].getMessage()
            assert server.path in errors[0].getMessage()
            assert not errors[0].exc_info
            replace(chain, certificates.renewed())
            assert reload(app, server) is True
            assert await seen_by_a_client(server) != first

    run_async(work)
    caplog.clear()


def test_a_reload_changes_the_rule_for_client_certificates_too(
    run_async: RunAsync, tmp_path: Path
) -> None:
    async def work() -> None:
        authorities = tmp_path / "clients.pem"
        shutil.copy(certificates.ca(), authorities)
        options = {
            **server_options(), "ca_certs": str(authorities), "cert_reqs": "required",
        }  # fmt: skip
        async with gaplic() as app:
            owner = make_secure_owner(app)
            server = serve_tls(app, owner, ssl_options=options)

            async def served(certificate: Path) -> bool:
                context = client_context(certificate=certificate)
                before = len(owner.of(EV_CONNECTED))
                done = server.ledger.handshakes + server.ledger.failed_handshakes
                with await dial(server, context) as peer:
                    with suppress(ssl.SSLError, ConnectionError):
                        await peer.shake()
                    await wait_for(
                        lambda: server.ledger.handshakes + server.ledger.failed_handshakes > done
                    )
                    return len(owner.of(EV_CONNECTED)) > before

            good, stranger = certificates.client(), certificates.stranger()
            assert (await served(good), await served(stranger)) == (True, False)
            replace(authorities, certificates.other_ca())
            assert reload(app, server) is True
            assert (await served(good), await served(stranger)) == (False, True)

    run_async(work)


def test_a_reload_without_tls_is_false(
    run_async: RunAsync, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        async with gaplic() as app:
            owner = make_secure_owner(app)
            server = serve_tls(app, owner, ssl_options={})
            assert reload(app, server) is False
            assert server.certificates == ()
            # "Then the log says why."
            assert [one for one in caplog.records if server.path in one.getMessage()]

    run_async(work)


@pytest.mark.parametrize("fails", [False, True])
def test_a_reload_calls_the_function_that_makes_the_context_again(
    run_async: RunAsync, fails: bool, caplog: pytest.LogCaptureFixture
) -> None:
    made: list[ssl.SSLContext] = []

    def make() -> ssl.SSLContext:
        if fails and made:
            raise RuntimeError("of the test")
        made.append(server_context(certificate=certificates.renewed()))
        return made[-1]

    async def work() -> None:
        async with gaplic() as app:
            owner = make_secure_owner(app)
            server = serve_tls(app, owner, ssl_options={"context": make})
            assert len(made) == 1
            first = await seen_by_a_client(server)
            assert reload(app, server) is not fails
            assert len(made) == (1 if fails else 2)
            assert (await seen_by_a_client(server) == first) is fails
            if fails:
                (error,) = [one for one in caplog.records if one.levelno == logging.ERROR]
                assert "of the test" in error.getMessage() + str(error.exc_info)

    run_async(work)
    caplog.clear()


def test_50_reloads_under_traffic(run_async: RunAsync, chain: Path) -> None:
    others = [certificates.renewed() for _ in range(4)]

    async def work() -> None:
        async with gaplic() as app:
            owner = make_secure_owner(app)
            owner.reactions[EV_RX_DATA] = lambda event: owner.tell(
                event.source, EV_SEND_DATA(event.data)
            )
            server = serve_tls(app, owner, ssl_options={"certfile": str(chain)})
            with await dial(server) as old:
                await old.shake()
                for count in range(50):
                    replace(chain, others[count % 4])
                    with await dial(server) as peer:
                        peer.step()
                        await peer.send_raw(peer.written())
                        if count % 2:
                            await peer.feed()
                        assert reload(app, server) is True
                        await peer.shake()
                        await peer.send(b"%d" % count)
                        assert await peer.read(len(b"%d" % count)) == b"%d" % count
                        await old.send(b"x" * 1000)
                        assert await old.read(1000) == b"x" * 1000
                assert server.ledger.failed_handshakes == 0

    run_async(work)


# -- write_parameters ------------------------------------------------------------------------------


def test_other_options_hold_for_new_connections(run_async: RunAsync, chain: Path) -> None:
    async def work() -> None:
        async with gaplic() as app:
            owner = make_secure_owner(app)
            server = serve_tls(app, owner)
            with await dial(server) as old, await dial(server) as waiting:
                await old.shake()
                await wait_for(lambda: server.ledger.accepted == 2)
                first = await seen_by_a_client(server)
                replace(chain, certificates.renewed())
                server.write_parameters(ssl_options={"certfile": str(chain)})
                second = await seen_by_a_client(server)
                assert second != first
                assert server.certificates[0].file == str(chain)
                await waiting.shake()
                found = waiting.tls.getpeercert()
                assert found is not None
                assert found["serialNumber"] == second
                # A reload is for the new ones.
                replace(chain, certificates.renewed())
                assert reload(app, server) is True
                assert await seen_by_a_client(server) not in (first, second)
                await old.send(b"still here")
                await wait_for(lambda: b"still here" in owner.received())

    run_async(work)


@pytest.mark.parametrize(
    "options",
    [{"certfile": "/no/such/file"}, {"certfle": "x"}, {"keyfile": "x"}, {"password": 5}],
    ids=str,
)
def test_wrong_options_change_nothing(run_async: RunAsync, options: dict[str, Any]) -> None:
    async def work() -> None:
        async with gaplic() as app:
            owner = make_secure_owner(app)
            server = serve_tls(app, owner)
            first = await seen_by_a_client(server)
            known = server.certificates
            with pytest.raises(GConfigError, match="ssl_options"):
                server.write_parameters(ssl_options=options, handshake_timeout=77.0)
            assert server.config.handshake_timeout != 77.0
            assert server.config.ssl_options["certfile"] == server_options()["certfile"]
            assert server.certificates == known
            assert await seen_by_a_client(server) == first
            assert reload(app, server) is True

    run_async(work)


@pytest.mark.parametrize("fault", ["options", "file", "settings"])
def test_what_is_refused_is_refused_as_a_whole(run_async: RunAsync, fault: str) -> None:
    """Nothing of it is in use: no session, no certificate, no parameter of those who come."""
    settings = {"GSock": {"tx_low_water": 100_000}} if fault == "settings" else {}
    wrong: dict[str, Any] = {
        "options": {"ssl_options": {"certfle": "x"}},
        "file": {"ssl_options": {"certfile": "/no/such/file"}},
        # Right for the server, and those who come would have the other one of the settings.
        "settings": {"tx_high_water": 50_000, "tx_low_water": 1000},
    }[fault]
    new = {"ssl_options": {"certfile": str(certificates.renewed())}, **wrong}

    async def work() -> None:
        async with GAplic("app", settings=settings) as app:
            owner = make_secure_owner(app)
            server = serve_tls(app, owner, session=Named, session_parameters={"word": "old"})
            first, known = await seen_by_a_client(server), server.certificates
            with pytest.raises(GConfigError):
                server.write_parameters(
                    session_parameters={"word": "new"}, idle_timeout=77.0, **new
                )
            assert server.config.session_parameters == {"word": "old"}
            assert server.config.ssl_options == server_options()
            assert server.certificates == known
            assert await seen_by_a_client(server) == first
            with await dial(server) as peer:
                await peer.shake()
                await wait_for(lambda: any(type(one) is Named for one in owner.children.values()))
                (session,) = owner.children.values()
                assert session.config.word == "old"
                (gsock,) = session.children.values()
                assert gsock.config.idle_timeout != 77.0

    run_async(work)


def test_a_client_that_is_refused_other_parameters_keeps_its_own(run_async: RunAsync) -> None:
    """Also those that the kernel has."""

    async def work() -> None:
        async with tls_pair("client") as (_, _, gsock, _):
            with pytest.raises(GConfigError, match="no file"):
                gsock.write_parameters(keepalive=7, ssl_options={"ca_certs": "/no/such/file"})
            assert gsock.config.keepalive == 60
            assert gsock._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60

    run_async(work)


# -- a server's gsock that becomes a client's ------------------------------------------------------


@each_poller
@pytest.mark.parametrize("of_server", ["plain", "tls"])
@pytest.mark.parametrize("own", ["plain", "tls"])
@pytest.mark.parametrize("when", ["open", "ended"])
def test_a_gsock_of_a_server_connects_with_its_own_tls(
    run_async: RunAsync, poller: str, of_server: str, own: str, when: str
) -> None:
    async def work() -> None:
        async with gaplic(poller) as app:
            owner = make_secure_owner(app)
            is_tls = of_server == "tls"
            server = serve_tls(app, owner, **({} if is_tls else {"ssl_options": {}}))
            with listener() as listening:
                host, port = listening.getsockname()
                new = {"host": host, "port": port}
                if own == "tls":
                    new["ssl_options"] = client_options()
                with await dial(server) as peer:
                    if is_tls:
                        await peer.shake()
                    await wait_for(lambda: owner.of(EV_CONNECTED))
                    gsock = owner.of(EV_CONNECTED)[0].source
                    if when == "open":
                        gsock.write_parameters(**new)
                await wait_for(lambda: owner.of(EV_DISCONNECTED))
                if when == "ended":
                    gsock.write_parameters(**new)
                owner.tell(gsock, EV_CONNECT())
                with await accept(listening) as raw:
                    if own == "tls":
                        raw = await TlsPeer(raw, server_context(), server_side=True).shake()
                    await wait_for(lambda: len(owner.of(EV_CONNECTED)) == 2)
                    assert (gsock.tls is not None) == (own == "tls")
                    await raw.send(b"as a client")
                    await wait_for(lambda: owner.received() == b"as a client")

    run_async(work)


def test_one_whose_own_options_went_bad_cannot_connect(run_async: RunAsync, chain: Path) -> None:
    """It never goes on with the server's, nor in plain."""

    async def work() -> None:
        async with gaplic() as app:
            owner = make_secure_owner(app)
            server = serve_tls(app, owner)
            with await dial(server) as peer:
                await peer.shake()
                await wait_for(lambda: owner.of(EV_CONNECTED))
            await wait_for(lambda: owner.of(EV_DISCONNECTED))
            gsock = owner.of(EV_CONNECTED)[0].source
            with pytest.raises(GConfigError, match="no file"):
                gsock.write_parameters(ssl_options={"ca_certs": "/no/such/file"})
            authorities = chain.with_name("authorities.pem")
            shutil.copy(certificates.ca(), authorities)
            with listener() as listening:
                host, port = listening.getsockname()
                options = {"ca_certs": str(authorities)}
                gsock.write_parameters(host=host, port=port, ssl_options=options)
                authorities.unlink()
                for count in (1, 2):
                    owner.tell(gsock, EV_CONNECT())
                    await wait_for(lambda count=count: len(owner.of(EV_CONNECT_FAILED)) == count)
                assert {one.reason for one in owner.of(EV_CONNECT_FAILED)} == {"error"}
                shutil.copy(certificates.ca(), authorities)
                owner.tell(gsock, EV_CONNECT())
                with await accept(listening) as raw:
                    await TlsPeer(raw, server_context(), server_side=True).shake()
                    await wait_for(lambda: len(owner.of(EV_CONNECTED)) == 2)

    run_async(work)


def test_other_options_leave_an_accepted_one_the_servers_for_an_upgrade(
    run_async: RunAsync,
) -> None:
    async def work() -> None:
        async with plain_pair("accepted") as (_, owner, gsock, raw):
            gsock.write_parameters(ssl_options=client_options())
            owner.tell(gsock, EV_START_TLS())
            await TlsPeer(raw, client_context(), server_side=False).shake()
            await wait_for(lambda: owner.of(EV_TLS_STARTED))

    run_async(work)


def test_tls_comes_and_goes(run_async: RunAsync) -> None:
    """Plain to TLS and back; each connection keeps what it began with."""

    async def work() -> None:
        async with gaplic() as app:
            owner = make_secure_owner(app)
            server = serve_tls(app, owner, ssl_options={})
            with await dial(server) as plain:
                await plain.send_raw(b"plain")
                await wait_for(lambda: owner.received() == b"plain")
                server.write_parameters(ssl_options=server_options())
                with await dial(server) as peer, await dial(server) as waiting:
                    await peer.shake()
                    await peer.send(b" tls")
                    await wait_for(lambda: owner.received() == b"plain tls")
                    await wait_for(lambda: server.ledger.accepted == 3)
                    server.write_parameters(ssl_options={})
                    assert server.certificates == ()
                    await waiting.shake()
                    await waiting.send(b" waited")
                    await wait_for(lambda: owner.received() == b"plain tls waited")
                with await dial(server) as again:
                    await again.send_raw(b" again")
                    await wait_for(lambda: owner.received() == b"plain tls waited again")
                await plain.send_raw(b" on")
                await wait_for(lambda: owner.received().endswith(b" on"))

    run_async(work)


def test_a_client_takes_other_options_for_its_next_connection(run_async: RunAsync) -> None:
    async def work() -> None:
        async with gaplic() as app:
            owner = make_secure_owner(app)
            with listener() as listening:
                options = {"ca_certs": str(certificates.other_ca())}
                gsock = client_of(owner, listening, ssl_options=options)
                owner.tell(gsock, EV_CONNECT())
                with await accept(listening) as raw, pytest.raises(ssl.SSLError):
                    await TlsPeer(raw, server_context(), server_side=True).shake()
                await wait_for(lambda: owner.of(EV_CONNECT_FAILED))
                gsock.write_parameters(ssl_options=client_options())
                owner.tell(gsock, EV_CONNECT())
                with await accept(listening) as raw:
                    await TlsPeer(raw, server_context(), server_side=True).shake()
                    await wait_for(lambda: owner.of(EV_CONNECTED))

    run_async(work)


# -- watching the files, and the days left ---------------------------------------------------------


def test_the_files_are_watched(chain: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        async with ManualGAplic() as app:
            owner = make_owner(app)
            server = serve_tls(
                app, owner, ssl_options={"certfile": str(chain)}, watch_certificates=10.0
            )
            first = await seen_by_a_client(server)
            app.advance(60)
            assert not lines(caplog, "reloaded")
            replace(chain, certificates.renewed())
            app.advance(9)
            assert await seen_by_a_client(server) == first
            app.advance(1)
            assert await seen_by_a_client(server) != first
            app.advance(60)
            assert len(lines(caplog, "reloaded")) == 1

    asyncio.run(work())


@pytest.mark.parametrize("when", ["start", "write", "watch"])
def test_one_renewed_while_the_server_is_busy_with_something_else(
    chain: Path, caplog: pytest.LogCaptureFixture, when: str
) -> None:
    """Between the reading of the files and the first look at them."""
    renewed = certificates.renewed()

    class Slow(ManualGAplic):
        """Somebody renews the certificate while a name of the server is being resolved."""

        def listen(self, path: str, place: Any) -> Any:
            listening = super().listen(path, place)
            if when == "start":
                replace(chain, renewed)
            return listening

    class SlowServer(GServerSock):
        """And while new parameters are written."""

        def _change_limits(self) -> None:
            super()._change_limits()
            replace(chain, renewed)

        machine = GServerSock.machine

    options = {"certfile": str(chain)}

    async def work() -> None:
        async with Slow() as app:
            owner = make_owner(app)
            server = app.create_gobj(
                "server", SlowServer, app, host="127.0.0.1", subscriber=owner,
                ssl_options=options, watch_certificates=0.0 if when == "watch" else 10.0,
            )  # fmt: skip
            first = await seen_by_a_client(server)
            if when == "write":
                server.write_parameters(ssl_options=options, max_connections=9)
            if when == "watch":
                replace(chain, renewed)
                server.write_parameters(watch_certificates=10.0)
            assert await seen_by_a_client(server) == first
            app.advance(10)
            assert await seen_by_a_client(server) != first
            app.advance(60)
            assert len(lines(caplog, "reloaded")) == 1

    asyncio.run(work())


def test_a_bad_file_is_told_once_and_the_good_one_after_it_is_taken(
    chain: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        async with ManualGAplic() as app:
            owner = make_owner(app)
            server = serve_tls(
                app, owner, ssl_options={"certfile": str(chain)}, watch_certificates=1.0
            )
            first = await seen_by_a_client(server)
            cut(chain)
            app.advance(20)
            assert len(lines(caplog, "not reloaded")) == 1
            assert await seen_by_a_client(server) == first
            replace(chain, certificates.renewed())
            app.advance(1)
            assert await seen_by_a_client(server) != first

    asyncio.run(work())
    caplog.clear()


def test_certificate_and_key_that_change_one_after_the_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The look between them finds a pair that does not match."""
    new = certificates.renewed()

    async def work() -> None:
        cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
        shutil.copy(certificates.chain_of(certificates.server()), cert)
        shutil.copy(certificates.key_of(certificates.server()), key)
        async with ManualGAplic() as app:
            owner = make_owner(app)
            server = serve_tls(
                app, owner, watch_certificates=1.0,
                ssl_options={"certfile": str(cert), "keyfile": str(key)},
            )  # fmt: skip
            first = await seen_by_a_client(server)
            replace(cert, certificates.chain_of(new))
            app.advance(1)
            assert await seen_by_a_client(server) == first
            replace(key, certificates.key_of(new))
            app.advance(1)
            assert await seen_by_a_client(server) != first

    asyncio.run(work())
    caplog.clear()


def test_the_files_are_not_watched_unless_told(chain: Path) -> None:
    async def work() -> None:
        async with ManualGAplic() as app:
            owner = make_owner(app)
            server = serve_tls(app, owner, ssl_options={"certfile": str(chain)})
            first = await seen_by_a_client(server)
            replace(chain, certificates.renewed())
            app.advance(100_000)
            assert await seen_by_a_client(server) == first
            server.write_parameters(watch_certificates=5.0)
            replace(chain, certificates.renewed())
            app.advance(5)
            assert await seen_by_a_client(server) != first

    asyncio.run(work())


def test_nothing_looks_any_more_when_the_server_has_gone(
    chain: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        async with ManualGAplic() as app:
            owner = make_owner(app)
            server = serve_tls(
                app, owner, ssl_options={"certfile": str(chain)}, watch_certificates=1.0
            )
            app.destroy_gobj(server)
            replace(chain, certificates.renewed())
            app.advance(10_000)
            assert not lines(caplog, "reloaded")

    asyncio.run(work())


@pytest.mark.parametrize(
    ("days", "words"),
    [
        (15, None),
        (13.9, "expires in 13.9 days"),
        (6.5, "expires in 6.5 days"),
        (0.5, "expires in 0.5 days"),
        (-1, "expired"),
    ],
)
def test_the_days_left_are_told_at_the_start(
    days: float, words: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    file = certificates.expiring(dt.timedelta(days=days, seconds=30))

    async def work() -> None:
        async with ManualGAplic() as app:
            owner = make_owner(app)
            server = serve_tls(app, owner, ssl_options={"certfile": str(file)})
            (one,) = server.certificates
            assert abs(one.days_left() - days) < 0.01
            told = [one for one in caplog.records if one.levelno >= logging.WARNING]
            if words is None:
                assert not told
            else:
                assert len(told) == 1, [one.getMessage() for one in told]
                assert told[0].levelno == logging.WARNING
                for word in (words, str(file), server.path):
                    assert word in told[0].getMessage()
            # Once is enough, as long as no other threshold is reached.
            caplog.clear()
            app.advance(20_000)
            assert not [one for one in caplog.records if one.levelno >= logging.WARNING]

    asyncio.run(work())
    caplog.clear()


def test_the_days_left_are_told_when_a_reload_brings_a_certificate_that_runs_out(
    chain: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        async with ManualGAplic() as app:
            owner = make_owner(app)
            server = serve_tls(app, owner, ssl_options={"certfile": str(chain)})
            replace(chain, certificates.expiring(dt.timedelta(days=3)))
            assert reload(app, server) is True
            assert len(lines(caplog, "expires in 3.0 days")) == 1

    asyncio.run(work())
    caplog.clear()


def test_the_days_left_are_looked_at_while_it_runs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each threshold once, in the weeks that pass; the real clock is moved with the gaplic's."""
    file = certificates.expiring(dt.timedelta(days=20))
    begin = dt.datetime.now(dt.UTC)
    passed = dt.timedelta()

    class Calendar(dt.datetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> dt.datetime:  # type: ignore[override]
            return begin + passed

    monkeypatch.setattr("ginsfsm.net.certificate_watch.datetime", Calendar)

    async def work() -> None:
        nonlocal passed
        async with ManualGAplic() as app:
            owner = make_owner(app)
            serve_tls(app, owner, ssl_options={"certfile": str(file)})
            told: list[int] = []
            for hour in range(22 * 24):
                passed = dt.timedelta(hours=hour)
                before = len(lines(caplog, "expire"))
                app.advance(3600)
                if len(lines(caplog, "expire")) > before:
                    told.append(hour // 24)
                    assert len(lines(caplog, "expire")) == before + 1
            # With 20 days left at the beginning, 14 are left after 6.
            assert told == [6, 13, 19, 20]

    asyncio.run(work())
    caplog.clear()


# -- options that are wrong from the beginning -----------------------------------------------------


def test_wrong_options_show_in_create_gobj_and_leave_nothing(run_async: RunAsync) -> None:
    async def work() -> None:
        async with gaplic() as app:
            owner = make_secure_owner(app)
            for options in (
                {"certfile": "/no/such/file"},
                {"certfle": "x"},
                {"certfile": str(certificates.ca())},
                {"ca_certs": str(certificates.ca())},
            ):
                with pytest.raises(GConfigError, match="ssl_options"):
                    serve_tls(app, owner, ssl_options=options)
                with pytest.raises(GConfigError, match="ssl_options"):
                    owner.create_gobj(
                        "c", GSock, owner, ssl_options={**options, "check_hostnme": True}
                    )
            assert not owner.children
            assert list(app.children) == ["owner"]
            assert len(app.poller) == 0

    run_async(work)


def test_a_port_in_use_is_told_with_tls_too(run_async: RunAsync) -> None:
    async def work() -> None:
        async with gaplic() as app:
            owner = make_secure_owner(app)
            with listener() as listening, pytest.raises(GObjError, match="127.0.0.1"):
                serve_tls(app, owner, port=listening.getsockname()[1])
            assert list(app.children) == ["owner"]

    run_async(work)


# -- no secrets ------------------------------------------------------------------------------------

SECRET = "correct horse battery staple"


@pytest.fixture
def locked(tmp_path: Path) -> Path:
    """A certificate's file whose key wants a passphrase."""
    from cryptography.hazmat.primitives import serialization as form

    source = certificates.server()
    key = form.load_pem_private_key(certificates.key_of(source).read_bytes(), None)
    path = tmp_path / "locked.pem"
    path.write_bytes(
        key.private_bytes(
            form.Encoding.PEM,
            form.PrivateFormat.PKCS8,
            form.BestAvailableEncryption(SECRET.encode()),
        )
        + certificates.chain_of(source).read_bytes()
    )
    return path


@pytest.mark.parametrize(
    "make", [str, str.encode, lambda text: lambda: text], ids=["str", "bytes", "function"]
)
def test_a_passphrase_opens_the_key_and_stands_nowhere(
    run_async: RunAsync,
    locked: Path,
    make: Callable[[str], Any],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    async def work() -> None:
        async with gaplic() as app:
            seen: list[object] = []
            app.observe(seen.append)
            owner = make_secure_owner(app)
            options = {"certfile": str(locked), "password": make(SECRET)}
            server = serve_tls(app, owner, ssl_options=options)
            await seen_by_a_client(server)
            assert reload(app, server) is True
            server.write_parameters(ssl_options=dict(options))
            config = server.config
            shown = [
                server, config, config.ssl_options, vars(config), config.table(), seen,
                server.certificates, server._tls_source, server._tls_source.tls,
            ]  # fmt: skip
            texts = [text for one in shown for text in (repr(one), str(one), f"{one}")]
            take_away(locked)
            assert reload(app, server) is False
            with pytest.raises(GConfigError) as caught:
                server.write_parameters(ssl_options={**options, "certfle": "x"})
            texts += [str(caught.value), repr(caught.value)]
            assert not [text for text in texts if SECRET in text]

    run_async(work)
    out, err = capfd.readouterr()
    assert SECRET not in caplog.text + out + err
    caplog.clear()


@pytest.mark.parametrize(
    "password",
    [SECRET, SECRET.encode(), [SECRET], {"a": SECRET}],
    ids=lambda one: type(one).__name__,
)
def test_a_wrong_passphrase_is_a_clear_error_that_does_not_show_it(
    run_async: RunAsync, locked: Path, password: Any, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = {"str": "wrong " + SECRET, "bytes": b"wrong " + SECRET.encode()}

    async def work() -> None:
        async with gaplic() as app:
            owner = make_secure_owner(app)
            given = wrong.get(type(password).__name__, password)
            with pytest.raises(GConfigError) as caught:
                serve_tls(app, owner, ssl_options={"certfile": str(locked), "password": given})
            text = ""
            error: BaseException | None = caught.value
            while error is not None:
                text += str(error) + repr(error)
                error = error.__cause__ or error.__context__
            assert SECRET not in text
            assert "password" in text

    run_async(work)
    assert SECRET not in caplog.text
    caplog.clear()


@pytest.mark.parametrize(
    "wrong",
    [SECRET, [SECRET], {"password": SECRET, 5: 6}],
    ids=["text", "list", "no text as key"],
)
def test_options_of_no_legal_form_are_an_error_that_does_not_show_them(
    run_async: RunAsync, wrong: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        async with gaplic() as app:
            owner = make_secure_owner(app)
            with pytest.raises(GConfigError) as caught:
                serve_tls(app, owner, ssl_options=wrong)
            assert SECRET not in str(caught.value)

    run_async(work)
    assert SECRET not in caplog.text


def test_a_subscriber_that_is_told_of_data_only(run_async: RunAsync) -> None:
    class Deaf(GObj):
        def ac_echo(self, event: EV_RX_DATA) -> None:
            self.send_event(event.source, EV_SEND_DATA(event.data))

        machine = {"ST_IDLE": [on(EV_RX_DATA, ac_echo)]}

    async def work() -> None:
        async with gaplic() as app:
            deaf = app.create_gobj("deaf", Deaf, app)
            server = serve_doorkeeper(app, deaf)
            with await dial(server) as peer:
                await peer.shake()
                await peer.send(b"hello")
                assert await peer.read(5) == b"hello"
                peer.end()
                assert await peer.read_to_end() == (b"", "end")
            await wait_for(lambda: server.config.n_gsocks == 0)
            assert not deaf.children

    run_async(work)
