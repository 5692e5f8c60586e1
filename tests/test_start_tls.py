"""EV_START_TLS: a connection that was plain goes on with TLS, and not a byte is lost."""

import asyncio
import logging
import random
import ssl
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import pytest

import certificates
from conftest import RunAsync
from ginsfsm import NOT_ACCEPTED, EventError, GConfigError, GObjError
from ginsfsm.c_sock import (
    EV_CONNECT,
    EV_CONNECTED,
    EV_DISCONNECTED,
    EV_DROP,
    EV_FLUSH_OUTPUT_DATA,
    EV_PAUSE_RX,
    EV_RESUME_RX,
    EV_RX_DATA,
    EV_SEND_DATA,
    EV_SEND_FRAME,
    EV_START_TLS,
    EV_TLS_STARTED,
    EV_TRANSMIT_READY,
    EV_WRITE_OUTPUT_DATA,
)
from secure import (
    ROLES,
    V12,
    V13,
    TlsPeer,
    client_options,
    context_against,
    dial_raw,
    make_secure_owner,
    options_of,
    plain_pair,
    serve_tls,
    server_context,
    server_options,
)
from sockets import POLLERS, Pair, accept, client_of, gaplic, listener, turns, wait_for

each_role = pytest.mark.parametrize("role", ROLES)
each_poller = pytest.mark.parametrize("poller", POLLERS)
each_version = pytest.mark.parametrize("version", [V12, V13], ids=lambda one: one.name)

WRONG: list[tuple[str, dict[str, Any]]] = [
    ("missing file", {"certfile": "/no/such/file.pem", "ca_certs": "/no/such/file.pem"}),
    ("unknown option", {"certfle": "x", "check_hostnme": True}),
]


def tls_of(plain: Pair, role: str, version: ssl.TLSVersion | None = None) -> TlsPeer:
    """TLS for the peer of a plain connection."""
    return TlsPeer(plain.peer, context_against(role, version), server_side=role == "client")


async def upgrade(plain: Pair, role: str, **payload: Any) -> TlsPeer:
    """Both sides begin at once, and this returns when both are done."""
    plain.owner.tell(plain.gsock, EV_START_TLS(**payload))
    peer = await tls_of(plain, role).shake()
    await wait_for(lambda: plain.owner.of(EV_TLS_STARTED))
    return peer


@each_poller
@each_role
@each_version
def test_plain_and_then_tls(
    run_async: RunAsync, role: str, poller: str, version: ssl.TLSVersion
) -> None:
    async def work() -> None:
        async with plain_pair(role, poller) as plain:
            _, owner, gsock, raw = plain
            assert gsock.tls is None
            await raw.send(b"STARTTLS\r\n")
            await wait_for(owner.received)
            owner.tell(gsock, EV_SEND_DATA(b"220 go ahead\r\n"))
            owner.tell(gsock, EV_START_TLS())
            assert gsock.state == "ST_HANDSHAKE"
            assert await raw.read(14) == b"220 go ahead\r\n"
            assert gsock.tls is None
            peer = await tls_of(plain, role, version).shake()
            await wait_for(lambda: owner.of(EV_TLS_STARTED))
            assert gsock.tls.protocol == peer.tls.version()
            await peer.send(b"EHLO\r\n")
            await wait_for(lambda: owner.received().endswith(b"EHLO\r\n"))
            owner.tell(gsock, EV_SEND_DATA(b"250 hello\r\n"))
            assert await peer.read(11) == b"250 hello\r\n"
            peer.end()
            assert await peer.read_to_end() == (b"", "end")
            await wait_for(owner.ended)
            assert owner.reason() == "peer"
            assert owner.kinds() == [
                "EV_CONNECTED", "EV_RX_DATA", "EV_TLS_STARTED", "EV_RX_DATA", "EV_DISCONNECTED",
            ]  # fmt: skip
            assert not owner.inside

    run_async(work)


@each_poller
@each_role
def test_plain_output_that_was_queued_leaves_first_and_in_plain(
    run_async: RunAsync, role: str, poller: str
) -> None:
    data = random.Random(1).randbytes(6_000_000)

    async def work() -> None:
        async with plain_pair(role, poller, rcvbuf=8192) as plain:
            _, owner, gsock, raw = plain
            owner.tell(gsock, EV_SEND_DATA(data))
            assert gsock.queued
            owner.tell(gsock, EV_WRITE_OUTPUT_DATA(b"the last plain word"))
            owner.tell(gsock, EV_START_TLS())
            owner.tell(gsock, EV_SEND_DATA(b"the first secret"))
            assert await raw.read(len(data) + 19) == data + b"the last plain word"
            peer = await tls_of(plain, role).shake()
            assert await peer.read(16) == b"the first secret"
            await peer.send(b"x")
            await wait_for(owner.received)
            assert len(owner.of(EV_TRANSMIT_READY)) == 1
            assert not owner.inside

    run_async(work)


@each_role
@pytest.mark.parametrize("event", [EV_SEND_DATA, EV_WRITE_OUTPUT_DATA])
def test_what_is_sent_during_the_handshake_is_kept_and_goes_out_encrypted(
    run_async: RunAsync, role: str, event: Any
) -> None:
    data = random.Random(1).randbytes(1_000_000)

    async def work() -> None:
        async with plain_pair(role) as plain:
            _, owner, gsock, _ = plain
            owner.tell(gsock, EV_START_TLS())
            assert owner.tell(gsock, event(b"one ")) is True
            await turns()
            owner.tell(gsock, EV_FLUSH_OUTPUT_DATA())
            assert owner.tell(gsock, event(data)) is True
            assert owner.tell(gsock, event(b"")) is True
            buffer = bytearray(b" two ")
            owner.tell(gsock, event(buffer))
            buffer[:] = b"XXXXX"
            assert gsock.queued == 4 + len(data) + 5
            owner.reactions[EV_TLS_STARTED] = lambda _: owner.tell(gsock, EV_SEND_DATA(b"three"))
            peer = await tls_of(plain, role).shake()
            assert await peer.read(4 + len(data) + 10) == b"one " + data + b" two three"
            assert not owner.inside

    run_async(work)


@each_role
def test_too_much_during_the_handshake_is_tx_overflow(
    run_async: RunAsync, role: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "ginsfsm")

    async def work() -> None:
        async with plain_pair(role, tx_max=100_000) as plain:
            _, owner, gsock, raw = plain
            owner.tell(gsock, EV_START_TLS())
            owner.tell(gsock, EV_SEND_DATA(bytes(200_000)))
            assert owner.tell(gsock, EV_SEND_DATA(b"x")) is NOT_ACCEPTED
            assert not owner.ended()
            await wait_for(owner.ended)
            assert owner.reason() == "tx_overflow"
            assert not owner.inside
            assert "failed: tx_overflow" in caplog.text
            raw.close()

    run_async(work)


@each_role
def test_ev_transmit_ready_for_what_was_sent_during_the_handshake(
    run_async: RunAsync, role: str
) -> None:
    async def work() -> None:
        async with plain_pair(role) as plain:
            _, owner, gsock, _ = plain
            owner.tell(gsock, EV_START_TLS())
            owner.tell(gsock, EV_SEND_DATA(bytes(1_000_000)))
            peer = await tls_of(plain, role).shake()
            await peer.read(1_000_000)
            await wait_for(lambda: owner.of(EV_TRANSMIT_READY))
            await turns()
            assert len(owner.of(EV_TRANSMIT_READY)) == 1

    run_async(work)


@each_poller
@each_version
@pytest.mark.parametrize("part", [1, 5, 100, None])
def test_bytes_of_the_handshake_that_came_early(
    run_async: RunAsync, poller: str, version: ssl.TLSVersion, part: int | None
) -> None:
    """The client did not wait for the answer: command and hello came together."""

    async def work() -> None:
        async with plain_pair("accepted", poller) as plain:
            _, owner, gsock, raw = plain
            peer = tls_of(plain, "accepted", version)
            peer.step()
            hello = peer.written()

            def begin(event: EV_RX_DATA) -> None:
                command, _, early = event.data.partition(b"\r\n")
                assert command == b"STARTTLS"
                owner.reactions.clear()
                owner.tell(gsock, EV_START_TLS(received=early))

            owner.reactions[EV_RX_DATA] = begin
            raw.send_now(b"STARTTLS\r\n" + hello[:part])
            await wait_for(lambda: gsock.state == "ST_HANDSHAKE")
            if part is not None:
                await turns()
                raw.send_now(hello[part:])
            await peer.shake()
            await peer.send(b"secret")
            await wait_for(lambda: owner.received().endswith(b"secret"))
            assert owner.kinds() == ["EV_CONNECTED", "EV_RX_DATA", "EV_TLS_STARTED", "EV_RX_DATA"]

    run_async(work)


@each_version
def test_the_first_request_comes_with_the_end_of_the_handshake(
    run_async: RunAsync, version: ssl.TLSVersion
) -> None:
    async def work() -> None:
        async with plain_pair("accepted") as plain:
            _, owner, gsock, raw = plain
            owner.tell(gsock, EV_START_TLS())
            peer = tls_of(plain, "accepted", version)
            while not peer.step():
                await peer.send_raw(peer.written())
                await peer.feed()
            await peer.send_raw(peer.written() + peer.seal(b"the first request"))
            await wait_for(lambda: owner.received() == b"the first request")
            assert owner.kinds() == ["EV_CONNECTED", "EV_TLS_STARTED", "EV_RX_DATA"]
            assert raw.sock is peer.sock

    run_async(work)


@each_role
@pytest.mark.parametrize("fails", [False, True])
def test_begun_inside_ev_connected(run_async: RunAsync, role: str, fails: bool) -> None:
    """The action returns nothing: that the state has changed meanwhile does not shut the door."""

    async def work() -> None:
        async with gaplic() as app:
            owner = make_secure_owner(app)
            owner.reactions[EV_CONNECTED] = lambda event: owner.tell(event.source, EV_START_TLS())
            params = {"ssl_options": options_of(role), "start_tls": True}
            with ExitStack() as stack:
                if role == "client":
                    listening = stack.enter_context(listener())
                    owner.tell(client_of(owner, listening, **params), EV_CONNECT())
                    raw = await accept(listening)
                else:
                    raw = await dial_raw(serve_tls(app, owner, **params))
                peer = stack.enter_context(
                    TlsPeer(raw, context_against(role), server_side=role == "client")
                )
                await wait_for(lambda: owner.heard)
                if fails:
                    await peer.send_raw(b"I know nothing of TLS\r\n")
                    await wait_for(owner.ended)
                    assert owner.kinds() == ["EV_CONNECTED", "EV_DISCONNECTED"]
                    assert owner.reason() == "tls"
                else:
                    await peer.shake()
                    await peer.send(b"hello")
                    await wait_for(owner.received)
                    assert owner.kinds() == ["EV_CONNECTED", "EV_TLS_STARTED", "EV_RX_DATA"]
                assert not owner.inside

    run_async(work)


@each_role
def test_the_events_own_options(run_async: RunAsync, role: str) -> None:
    """They win over none, and over those of the gsock or the server."""

    async def work() -> None:
        for params in ({"ssl_options": {}}, {"start_tls": True}):
            async with plain_pair(role, **params) as plain:
                _, owner, gsock, _ = plain
                options = {**options_of(role), "alpn": ["special"]}
                owner.tell(gsock, EV_START_TLS(ssl_options=options))
                context = context_against(role)
                context.set_alpn_protocols(["special"])
                peer = TlsPeer(plain.peer, context, server_side=role == "client")
                await peer.shake()
                await wait_for(lambda owner=owner: owner.of(EV_TLS_STARTED))
                assert gsock.tls.alpn == "special"

    run_async(work)


@each_role
def test_reconnects_are_plain_again(run_async: RunAsync, role: str) -> None:
    async def work() -> None:
        async with gaplic() as app:
            owner = make_secure_owner(app)
            with listener() as listening:
                gsock = client_of(
                    owner, listening, start_tls=True, ssl_options=client_options()
                )  # fmt: skip
                for count in range(1, 4):
                    owner.tell(gsock, EV_CONNECT())
                    with await accept(listening) as raw:
                        await wait_for(lambda count=count: len(owner.of(EV_CONNECTED)) == count)
                        assert gsock.tls is None
                        await raw.send(b"%d" % count)
                        await wait_for(lambda count=count: owner.received()[-1:] == b"%d" % count)
                        owner.tell(gsock, EV_START_TLS())
                        peer = TlsPeer(raw, server_context(), server_side=True)
                        await peer.shake()
                        await wait_for(lambda count=count: len(owner.of(EV_TLS_STARTED)) == count)
                        if role == "client":
                            owner.tell(gsock, EV_DROP())
                            await peer.read_to_end()
                        peer.end()
                        await wait_for(lambda count=count: len(owner.of(EV_DISCONNECTED)) == count)

    run_async(work)


# -- what is refused -------------------------------------------------------------------------------


async def still_plain(plain: Pair) -> None:
    """The connection works in plain, in both directions, and to its end."""
    _, owner, gsock, raw = plain
    assert gsock.state == "ST_CONNECTED"
    assert gsock.tls is None
    owner.tell(gsock, EV_SEND_DATA(b"still plain"))
    assert (await raw.read(11)) == b"still plain"
    before = len(owner.received())
    await raw.send(b"indeed")
    await wait_for(lambda: owner.received()[before:] == b"indeed")
    raw.end()
    await wait_for(owner.ended)
    assert owner.reason() == "peer"


@each_role
def test_without_options_it_is_a_clear_error_and_the_connection_lives_on(
    run_async: RunAsync, role: str
) -> None:
    async def work() -> None:
        async with plain_pair(role, ssl_options={}) as plain:
            with pytest.raises(GObjError, match="there are no ssl_options"):
                plain.owner.send_event(plain.gsock, EV_START_TLS())
            await still_plain(plain)

    run_async(work)


@each_role
@pytest.mark.parametrize("options", [one[1] for one in WRONG], ids=[one[0] for one in WRONG])
def test_wrong_options_are_a_clear_error_and_the_connection_lives_on(
    run_async: RunAsync, role: str, options: dict[str, Any]
) -> None:
    async def work() -> None:
        async with plain_pair(role, ssl_options={}) as plain:
            with pytest.raises(GConfigError, match="ssl_options"):
                plain.owner.send_event(plain.gsock, EV_START_TLS(ssl_options=options))
            await still_plain(plain)

    run_async(work)


@each_role
def test_wrong_options_with_output_queued_lose_none_of_it(run_async: RunAsync, role: str) -> None:
    async def work() -> None:
        async with plain_pair(role, ssl_options={}, rcvbuf=8192) as plain:
            _, owner, gsock, raw = plain
            owner.tell(gsock, EV_SEND_DATA(bytes(6_000_000)))
            assert gsock.queued
            with pytest.raises(GConfigError):
                owner.send_event(gsock, EV_START_TLS(ssl_options=WRONG[0][1]))
            owner.tell(gsock, EV_DROP())
            data, how = await raw.read_to_end()
            assert (len(data), how) == (6_000_000, "end")

    run_async(work)


@each_role
@pytest.mark.parametrize("received", ["text", 5, None], ids=repr)
def test_received_that_is_no_bytes_is_a_clear_error_and_the_connection_lives_on(
    run_async: RunAsync, role: str, received: Any
) -> None:
    async def work() -> None:
        async with plain_pair(role) as plain:
            with pytest.raises((EventError, GObjError, TypeError), match="received"):
                plain.owner.send_event(plain.gsock, EV_START_TLS(received=received))
            await still_plain(plain)

    run_async(work)


@each_role
def test_a_second_time_is_a_clear_error_and_the_connection_lives_on(
    run_async: RunAsync, role: str
) -> None:
    async def work() -> None:
        async with plain_pair(role) as plain:
            _, owner, gsock, _ = plain
            peer = await upgrade(plain, role)
            with pytest.raises(GObjError, match="has TLS already"):
                owner.send_event(gsock, EV_START_TLS())
            owner.tell(gsock, EV_SEND_DATA(b"still here"))
            assert await peer.read(10) == b"still here"

    run_async(work)


@each_role
def test_a_second_time_during_the_handshake_does_no_harm(run_async: RunAsync, role: str) -> None:
    async def work() -> None:
        async with plain_pair(role) as plain:
            _, owner, gsock, _ = plain
            owner.tell(gsock, EV_START_TLS())
            try:
                assert owner.tell(gsock, EV_START_TLS()) is NOT_ACCEPTED
            except GObjError:
                pass
            peer = await tls_of(plain, role).shake()
            owner.tell(gsock, EV_SEND_DATA(b"still here"))
            assert await peer.read(10) == b"still here"

    run_async(work)


def test_the_peer_has_ended_already(run_async: RunAsync) -> None:
    async def work() -> None:
        async with plain_pair("accepted", half_close=True) as plain:
            _, owner, gsock, raw = plain
            raw.end()
            await wait_for(lambda: "EV_RX_END" in owner.kinds())
            with pytest.raises(GObjError, match="the peer has ended"):
                owner.send_event(gsock, EV_START_TLS())
            owner.tell(gsock, EV_SEND_DATA(b"answer"))
            owner.tell(gsock, EV_DROP())
            assert await raw.read_to_end() == (b"answer", "end")

    run_async(work)


# -- while it is under way -------------------------------------------------------------------------


@each_poller
@each_role
def test_ev_drop_with_output_waits_for_the_handshake_and_sends_it(
    run_async: RunAsync, role: str, poller: str
) -> None:
    async def work() -> None:
        async with plain_pair(role, poller) as plain:
            _, owner, gsock, _ = plain
            owner.tell(gsock, EV_START_TLS())
            owner.tell(gsock, EV_SEND_DATA(b"last words"))
            owner.tell(gsock, EV_DROP())
            peer = await tls_of(plain, role).shake()
            assert await peer.read_to_end() == (b"last words", "end")
            peer.end()
            await wait_for(owner.ended)
            assert owner.reason() == "local"

    run_async(work)


@each_role
@pytest.mark.parametrize("kind", [EV_SEND_DATA, EV_WRITE_OUTPUT_DATA, EV_SEND_FRAME])
def test_what_is_sent_behind_ev_drop_is_not_accepted(
    run_async: RunAsync, role: str, kind: type[EV_SEND_DATA]
) -> None:
    async def work() -> None:
        async with plain_pair(role, framing="lines") as plain:
            app, owner, gsock, _ = plain
            owner.tell(gsock, EV_START_TLS())
            assert owner.tell(gsock, EV_SEND_DATA(b"last words")) is True
            owner.tell(gsock, EV_DROP())
            assert owner.tell(gsock, kind(b"too late")) is NOT_ACCEPTED
            peer = await tls_of(plain, role).shake()
            assert await peer.read_to_end() == (b"last words", "end")
            peer.end()
            await wait_for(owner.ended)
            assert app.refused_events == 0

    run_async(work)


@each_role
@pytest.mark.parametrize("large", [False, True])
def test_ev_drop_behind_plain_output_loses_none_of_it(
    run_async: RunAsync, role: str, large: bool
) -> None:
    """What was queued before EV_START_TLS; the peer has seen nothing of the handshake yet."""
    data = random.Random(1).randbytes(6_000_000 if large else 100)

    async def work() -> None:
        async with plain_pair(role, rcvbuf=8192, handshake_timeout=0.5) as plain:
            _, owner, gsock, raw = plain
            owner.tell(gsock, EV_WRITE_OUTPUT_DATA(data))
            owner.tell(gsock, EV_START_TLS())
            owner.tell(gsock, EV_DROP())
            got, _ = await raw.read_to_end()
            assert len(got) >= len(data)
            assert got[: len(data)] == data
            await wait_for(owner.ended)
            assert owner.reason() in ("local", "timeout", "tls")

    run_async(work)


@each_role
@pytest.mark.parametrize("abort", [False, True])
@pytest.mark.parametrize("after_turns", [0, 5])
def test_ev_drop_without_output_ends_it_at_once(
    run_async: RunAsync, role: str, abort: bool, after_turns: int
) -> None:
    async def work() -> None:
        async with plain_pair(role) as plain:
            app, owner, gsock, raw = plain
            owner.tell(gsock, EV_START_TLS())
            await turns(after_turns)
            owner.tell(gsock, EV_DROP(abort))
            owner.tell(gsock, EV_DROP(abort))
            assert not owner.ended()
            await wait_for(owner.ended)
            assert owner.reason() == "local"
            await raw.read_to_end()
            assert app.refused_events == 0
            assert not owner.of(EV_TLS_STARTED)

    run_async(work)


@each_poller
@each_role
@pytest.mark.parametrize("before", [False, True])
def test_ev_pause_rx_holds_across_the_upgrade(
    run_async: RunAsync, role: str, poller: str, before: bool
) -> None:
    """Whether it came before EV_START_TLS or during the handshake, which itself is not paused."""

    async def work() -> None:
        async with plain_pair(role, poller) as plain:
            _, owner, gsock, _ = plain
            if before:
                owner.tell(gsock, EV_PAUSE_RX())
            owner.tell(gsock, EV_START_TLS())
            if not before:
                owner.tell(gsock, EV_PAUSE_RX())
            peer = await tls_of(plain, role).shake()
            await wait_for(lambda: owner.of(EV_TLS_STARTED))
            await peer.send(b"not yet")
            await turns(50)
            assert not owner.received()
            owner.tell(gsock, EV_RESUME_RX())
            await wait_for(lambda: owner.received() == b"not yet")

    run_async(work)


@each_role
def test_what_is_said_in_ev_tls_started_comes_after_what_was_said_before(
    run_async: RunAsync, role: str
) -> None:
    async def work() -> None:
        async with plain_pair(role) as plain:
            _, owner, gsock, _ = plain
            owner.reactions[EV_TLS_STARTED] = lambda _: owner.tell(gsock, EV_RESUME_RX())
            owner.tell(gsock, EV_START_TLS())
            owner.tell(gsock, EV_PAUSE_RX())
            peer = await tls_of(plain, role).shake()
            await peer.send(b"at once")
            await wait_for(lambda: owner.received() == b"at once", deadline=2)

    run_async(work)


@each_role
def test_ev_pause_rx_and_ev_resume_rx_during_the_handshake(run_async: RunAsync, role: str) -> None:
    async def work() -> None:
        async with plain_pair(role) as plain:
            _, owner, gsock, _ = plain
            owner.tell(gsock, EV_START_TLS())
            owner.tell(gsock, EV_PAUSE_RX())
            owner.tell(gsock, EV_RESUME_RX())
            peer = await tls_of(plain, role).shake()
            await peer.send(b"at once")
            await wait_for(lambda: owner.received() == b"at once")

    run_async(work)


@each_poller
@each_role
@pytest.mark.parametrize("after_turns", [0, 1, 5])
def test_destroyed_while_it_is_under_way(
    run_async: RunAsync, role: str, poller: str, after_turns: int
) -> None:
    async def work() -> None:
        async with plain_pair(role, poller) as plain:
            app, owner, gsock, raw = plain
            owner.tell(gsock, EV_SEND_DATA(bytes(6_000_000)))
            owner.tell(gsock, EV_START_TLS())
            owner.tell(gsock, EV_SEND_DATA(b"secret"))
            await turns(after_turns)
            owner.destroy_gobj(gsock)
            _, how = await raw.read_to_end()
            assert how == "reset"
            assert not owner.ended()
            assert len(app.poller) == (role == "accepted")
            assert app.contained_errors == 0

    run_async(work)


@each_role
@pytest.mark.parametrize("kind", [EV_TLS_STARTED, EV_RX_DATA])
def test_destroyed_in_its_events(run_async: RunAsync, role: str, kind: type) -> None:
    async def work() -> None:
        async with plain_pair(role) as plain:
            app, owner, gsock, _ = plain
            owner.reactions[kind] = lambda event: owner.destroy_gobj(event.source)
            owner.tell(gsock, EV_START_TLS())
            owner.tell(gsock, EV_SEND_DATA(bytes(100_000)))
            peer = tls_of(plain, role)
            while not peer.step():
                await peer.send_raw(peer.written())
                await peer.feed()
            with suppress(ConnectionError):
                await peer.send_raw(peer.written() + peer.seal(b"data"))
            await wait_for(lambda: gsock.destroyed)
            await turns()
            assert type(owner.heard[-1]) is kind
            assert app.contained_errors == 0

    run_async(work)


def test_an_action_of_ev_tls_started_that_raises_ends_the_connection(
    run_async: RunAsync, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        async with plain_pair("accepted") as plain:
            app, owner, gsock, _ = plain

            def fails(_event: EV_TLS_STARTED) -> None:
                raise RuntimeError("of the test")

            owner.reactions[EV_TLS_STARTED] = fails
            owner.tell(gsock, EV_START_TLS())
            await tls_of(plain, "accepted").shake()
            await wait_for(owner.ended)
            assert owner.reason() == "error"
            assert app.contained_errors == 1

    run_async(work)
    caplog.clear()


# -- when it fails ---------------------------------------------------------------------------------


async def sends_garbage(plain: Pair, _role: str) -> None:
    await plain.peer.send(b"MAIL FROM:<somebody@example.org>\r\n")


async def closes(plain: Pair, _role: str) -> None:
    plain.peer.end()


async def resets(plain: Pair, _role: str) -> None:
    plain.peer.reset()


async def is_silent(plain: Pair, _role: str) -> None:
    pass


async def refuses_the_other(plain: Pair, role: str) -> None:
    """The peer trusts nobody, or its certificate is not trusted."""
    if role == "client":
        context = server_context(certificate=certificates.stranger())
    else:
        context = ssl.create_default_context(cafile=certificates.other_ca())
    peer = TlsPeer(plain.peer, context, server_side=role == "client")
    with suppress(ssl.SSLError):
        # A server learns of the refusal only behind the handshake of TLS 1.3.
        await peer.shake()


@each_role
@pytest.mark.parametrize("queued", [False, True])
@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (sends_garbage, "tls"),
        (closes, "tls"),
        (resets, "reset"),
        (is_silent, "timeout"),
        (refuses_the_other, "tls"),
    ],
)
def test_a_failed_upgrade_is_ev_disconnected(
    run_async: RunAsync,
    role: str,
    how: Callable[[Pair, str], Any],
    reason: str,
    queued: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("DEBUG", "ginsfsm")
    timeout = 0.2 if how is is_silent else 10.0

    async def work() -> None:
        async with plain_pair(role, handshake_timeout=timeout) as plain:
            app, owner, gsock, raw = plain
            host, port = raw.sock.getsockname()
            reception = gsock._reception
            ledger = reception.ledger if reception is not None else None
            begin = time.monotonic()
            owner.tell(gsock, EV_START_TLS())
            if queued:
                owner.tell(gsock, EV_SEND_DATA(b"never sent"))
            await how(plain, role)
            await wait_for(owner.ended)
            assert time.monotonic() - begin < 2
            await turns()
            assert owner.kinds() == ["EV_CONNECTED", "EV_DISCONNECTED"]
            assert owner.reason() == reason
            assert gsock.state == "ST_DISCONNECTED"
            assert gsock.tls is None
            if ledger is not None:
                assert (ledger.handshakes, ledger.failed_handshakes) == (0, 1)
                assert len(ledger) == 0
            (record,) = [one for one in caplog.records if "handshake" in one.getMessage()]
            assert record.levelno == logging.INFO
            assert gsock.path in record.getMessage()
            assert f"{host}:{port}" in record.getMessage()
            assert app.contained_errors == 0

    run_async(work)
    caplog.clear()


@each_role
def test_a_peer_that_does_not_read_and_floods_cannot_eat_the_memory(
    run_async: RunAsync, role: str
) -> None:
    """Plain output stands before the first step, and the peer sends on and on meanwhile."""

    async def work() -> None:
        async with plain_pair(role, rcvbuf=4096) as plain:
            _, owner, gsock, raw = plain
            owner.tell(gsock, EV_SEND_DATA(bytes(6_000_000)))
            owner.tell(gsock, EV_START_TLS())
            sent = idle = 0
            block = bytes(100_000)
            while idle < 50 and sent < 30_000_000:
                count = raw.send_now(block)
                sent += count
                idle = 0 if count else idle + 1
                await asyncio.sleep(0)
            assert sent < 20_000_000, "the gsock took all of it"

    run_async(work)


def test_a_passphrase_stands_in_no_repr_of_the_event() -> None:
    event = EV_START_TLS(ssl_options={**server_options(), "password": "hunter2"})
    assert "hunter2" not in repr(event)
    assert "hunter2" not in str(event)
