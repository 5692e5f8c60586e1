"""GSock with TLS: what it guarantees without, again; and what only TLS has.

The peer is Python's ssl on a raw socket that the test moves by hand (see `secure`).
"""

import array
import asyncio
import gc
import hashlib
import logging
import os
import random
import socket
import ssl
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from conftest import RunAsync
from ginsfsm import NOT_ACCEPTED, Event, EventError, GObj, on
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
    EV_TRANSMIT_READY,
    EV_WRITE_OUTPUT_DATA,
    GSock,
    Reason,
)
from ginsfsm.c_srv_sock import GServerSock
from secure import (
    ROLES,
    V12,
    V13,
    Forger,
    SecretLog,
    TlsPair,
    TlsPeer,
    client_context,
    client_options,
    context_against,
    dial,
    make_secure_owner,
    serve_tls,
    server_context,
    server_options,
    tls_pair,
)
from sockets import (
    POLLERS,
    accept,
    client_of,
    gaplic,
    listener,
    set_buffers,
    turns,
    wait_for,
)

each_role = pytest.mark.parametrize("role", ROLES)
each_poller = pytest.mark.parametrize("poller", POLLERS)
each_version = pytest.mark.parametrize("version", [V12, V13], ids=lambda one: one.name)


# -- EV_CONNECTED and EV_DISCONNECTED --------------------------------------------------------------


@each_poller
@each_role
@each_version
def test_ev_connected_comes_once_and_after_the_handshake(
    run_async: RunAsync, role: str, poller: str, version: ssl.TLSVersion
) -> None:
    async def work() -> None:
        async with tls_pair(role, poller, version=version, shake=False) as tls:
            _, owner, gsock, peer = tls
            await wait_for(lambda: gsock.state == "ST_HANDSHAKE")
            await turns()
            assert not owner.heard
            assert gsock.tls is None
            await peer.shake()
            await wait_for(lambda: owner.of(EV_CONNECTED))
            (connected,) = owner.of(EV_CONNECTED)
            assert connected.peername == peer.sock.getsockname() == gsock.peername
            assert connected.sockname == peer.sock.getpeername() == gsock.sockname
            assert gsock.state == "ST_CONNECTED"
            assert gsock.tls is not None
            assert gsock.tls.protocol == peer.tls.version()
            assert gsock.tls.cipher == peer.tls.cipher()[0]  # type: ignore[index]
            await peer.send(b"hello")
            await wait_for(owner.received)
            owner.tell(gsock, EV_SEND_DATA(b"world"))
            assert await peer.read(5) == b"world"
            peer.end()
            assert await peer.read_to_end() == (b"", "end")
            await wait_for(owner.ended)
            assert owner.reason() == "peer"
            assert owner.kinds() == ["EV_CONNECTED", "EV_RX_DATA", "EV_DISCONNECTED"]
            assert gsock.tls is None

    run_async(work)


async def peer_says_goodbye(tls: TlsPair) -> None:
    tls.peer.end()


async def peer_says_goodbye_and_keeps_the_socket(tls: TlsPair) -> None:
    await tls.peer.send_raw(tls.peer.goodbye())


async def peer_truncates(tls: TlsPair) -> None:
    tls.peer.truncate()


async def peer_truncates_a_record(tls: TlsPair) -> None:
    await tls.peer.send_raw(tls.peer.seal(b"never complete")[:-3])
    tls.peer.truncate()


async def peer_resets(tls: TlsPair) -> None:
    tls.peer.reset()


async def peer_sends_a_broken_record(tls: TlsPair) -> None:
    await tls.peer.send_raw(tls.peer.seal(b"good") + b"\x17\x03\x03\0\x30" + bytes(48))


async def owner_drops(tls: TlsPair) -> None:
    tls.owner.tell(tls.gsock, EV_DROP())
    assert tls.gsock.state == "ST_CLOSING"
    assert await tls.peer.read_to_end() == (b"", "end")
    tls.peer.end()


async def owner_drops_and_the_peer_closes_only(tls: TlsPair) -> None:
    tls.owner.tell(tls.gsock, EV_DROP())
    assert await tls.peer.read_to_end() == (b"", "end")
    tls.peer.truncate()


async def owner_aborts(tls: TlsPair) -> None:
    tls.owner.tell(tls.gsock, EV_DROP(abort=True))


async def owner_aborts_with_output(tls: TlsPair) -> None:
    tls.owner.tell(tls.gsock, EV_WRITE_OUTPUT_DATA(b"never sent"))
    tls.owner.tell(tls.gsock, EV_DROP(abort=True))


async def queue_overflows(tls: TlsPair) -> None:
    while tls.gsock.state == "ST_CONNECTED":
        tls.owner.tell(tls.gsock, EV_SEND_DATA(bytes(1 << 20)))


async def action_raises(tls: TlsPair) -> None:
    def fails(_event: EV_RX_DATA) -> None:
        raise RuntimeError("of the test")

    tls.owner.reactions[EV_RX_DATA] = fails
    await tls.peer.send(b"x")


async def everything_at_once(tls: TlsPair) -> None:
    await tls.peer.send(b"x")
    tls.peer.reset()
    tls.owner.tell(tls.gsock, EV_SEND_DATA(b"x"))
    tls.owner.tell(tls.gsock, EV_DROP())
    tls.owner.tell(tls.gsock, EV_DROP(abort=True))
    tls.owner.tell(tls.gsock, EV_DROP())


@each_poller
@each_role
@pytest.mark.parametrize(
    ("ending", "reason"),
    [
        (peer_says_goodbye, "peer"),
        (peer_says_goodbye_and_keeps_the_socket, "peer"),
        (peer_truncates, "tls_truncated"),
        (peer_truncates_a_record, "tls_truncated"),
        (peer_resets, "reset"),
        (peer_sends_a_broken_record, "tls"),
        (owner_drops, "local"),
        (owner_drops_and_the_peer_closes_only, "local"),
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
    ending: Callable[[TlsPair], Any],
    reason: str | None,
) -> None:
    async def work() -> None:
        async with tls_pair(role, poller, tx_max=1 << 20) as tls:
            before = time.monotonic()
            await ending(tls)
            await wait_for(tls.owner.ended)
            # Nothing of this is ended by close_timeout.
            assert time.monotonic() - before < 5
            await turns()
            got = tls.owner.reason()
            assert got == (reason or got)
            assert got in list(Reason)
            assert tls.gsock.state == "ST_DISCONNECTED"
            assert tls.owner.kinds()[-1] == "EV_DISCONNECTED"
            assert not tls.owner.of(EV_CONNECT_FAILED)
            assert len(tls.app.poller) == (role == "accepted")

    run_async(work)


@each_poller
@each_role
@pytest.mark.parametrize(
    "kind", [EV_CONNECTED, EV_RX_DATA, EV_RX_END, EV_TRANSMIT_READY, EV_DISCONNECTED]
)
def test_no_more_events_when_the_owner_destroyed_the_gsock_in_one_of_them(
    run_async: RunAsync, role: str, poller: str, kind: type
) -> None:
    """With more decrypted, and more to decrypt, behind it."""

    async def work() -> None:
        async with tls_pair(
            role, poller, shake=False, half_close=True, tx_high_water=1000, tx_low_water=1000
        ) as (app, owner, gsock, peer):
            owner.reactions[kind] = lambda event: owner.destroy_gobj(event.source)
            if kind is EV_TRANSMIT_READY:
                owner.reactions[EV_CONNECTED] = lambda _: owner.tell(
                    gsock, EV_SEND_DATA(bytes(6_000_000))
                )
            await peer.shake()
            cipher = peer.seal(bytes(100_000)) + peer.goodbye()
            with suppress(BrokenPipeError):
                push(peer, cipher)
            if kind is EV_TRANSMIT_READY:
                await peer.read(5_900_000)
            elif kind is EV_DISCONNECTED:
                await wait_for(lambda: owner.of(EV_RX_END))
                owner.tell(gsock, EV_DROP())
            await wait_for(lambda: owner.of(kind))
            assert gsock.destroyed
            heard = len(owner.heard)
            await turns()
            assert len(owner.heard) == heard
            assert type(owner.heard[-1]) is kind
            assert not owner.children
            assert app.contained_errors == 0

    run_async(work)


def push(peer: TlsPeer, cipher: bytes) -> None:
    """All of these bytes as they are, at once: the loop does not turn."""
    assert peer.sock.send(cipher) == len(cipher), "the kernel did not take it"


@each_poller
def test_a_client_reconnects_with_the_same_gsock_from_its_ev_disconnected(
    run_async: RunAsync, poller: str
) -> None:
    async def work() -> None:
        async with gaplic(poller) as app:
            owner = make_secure_owner(app)
            with listener() as listening:
                gsock = client_of(owner, listening, ssl_options=client_options())
                owner.reactions[EV_DISCONNECTED] = lambda _: owner.tell(gsock, EV_CONNECT())
                owner.tell(gsock, EV_CONNECT())
                for n in range(8):
                    raw = await accept(listening)
                    with TlsPeer(raw, server_context(), server_side=True) as peer:
                        await peer.shake()
                        text = b"number %d" % n
                        await peer.send(text)
                        await wait_for(lambda text=text: owner.received().endswith(text))
                        owner.tell(gsock, EV_SEND_DATA(text))
                        assert await peer.read(len(text)) == text
                        # Each leaves something else behind in the gsock.
                        owner.tell(gsock, EV_SEND_DATA(bytes(5_000_000)))
                        owner.tell(gsock, EV_PAUSE_RX())
                        match n % 4:
                            case 0:
                                owner.tell(gsock, EV_DROP(abort=True))
                            case 1:
                                peer.reset()
                                owner.tell(gsock, EV_RESUME_RX())
                            case 2:
                                peer.end()
                                owner.tell(gsock, EV_RESUME_RX())
                                await peer.read_to_end()
                            case 3:
                                cipher = peer.seal(b"half a record")
                                await peer.send_raw(cipher[: len(cipher) // 2])
                                owner.tell(gsock, EV_RESUME_RX())
                                await turns()
                                owner.tell(gsock, EV_DROP(abort=True))
                await wait_for(lambda: len(owner.of(EV_DISCONNECTED)) == 8)
                once = ["EV_CONNECTED", "EV_RX_DATA", "EV_DISCONNECTED"]
                assert owner.kinds()[:24] == once * 8
                assert [event.reason for event in owner.of(EV_DISCONNECTED)] == [
                    "local", "reset", "peer", "local"
                ] * 2  # fmt: skip
                assert not owner.inside

    run_async(work)


@each_poller
def test_connects_anew_in_the_middle_of_a_handshake(run_async: RunAsync, poller: str) -> None:
    """What was put off for the old one must not touch the new one."""

    async def work() -> None:
        async with gaplic(poller) as app:
            owner = make_secure_owner(app)
            with listener() as listening:
                gsock = client_of(owner, listening, ssl_options=client_options())
                with ExitStack() as stack:
                    for count in range(6):
                        owner.tell(gsock, EV_CONNECT())
                        peer = stack.enter_context(
                            TlsPeer(await accept(listening), server_context(), server_side=True)
                        )
                        await wait_for(lambda: gsock.state == "ST_HANDSHAKE")
                        await turns(count)
                        if count % 2:
                            await peer.feed()
                            peer.step()
                            await peer.send_raw(peer.written())
                        owner.tell(gsock, EV_DROP())
                    await wait_for(lambda: len(owner.of(EV_CONNECT_FAILED)) == 6)
                    owner.tell(gsock, EV_CONNECT())
                    peer = stack.enter_context(
                        TlsPeer(await accept(listening), server_context(), server_side=True)
                    )
                    await peer.shake()
                    await wait_for(lambda: owner.of(EV_CONNECTED))
                    assert {event.reason for event in owner.of(EV_CONNECT_FAILED)} == {"local"}
                    owner.tell(gsock, EV_SEND_DATA(b"hello"))
                    assert await peer.read(5) == b"hello"

    run_async(work)


@each_role
@pytest.mark.parametrize("state", ["ST_HANDSHAKE", "ST_CONNECTED", "ST_CLOSING"])
@pytest.mark.parametrize("after_turns", [0, 1, 3])
def test_can_be_destroyed_in_every_state(
    run_async: RunAsync, role: str, state: str, after_turns: int
) -> None:
    async def work() -> None:
        async with tls_pair(role, rcvbuf=4096, shake=state != "ST_HANDSHAKE") as tls:
            app, owner, gsock, peer = tls
            if state == "ST_HANDSHAKE":
                await wait_for(lambda: gsock.state == state)
                if role == "accepted":
                    peer.step()
                    await peer.send_raw(peer.written())
                await turns(after_turns)
            elif state == "ST_CLOSING":
                owner.tell(gsock, EV_SEND_DATA(bytes(10_000_000)))
                owner.tell(gsock, EV_DROP())
                await turns(after_turns)
            assert gsock.state == state
            heard = list(owner.heard)
            owner.destroy_gobj(gsock)
            owner.destroy_gobj(gsock)
            await turns()
            assert owner.heard == heard
            assert len(app.poller) == (role == "accepted")
            assert app.contained_errors == 0
            if state != "ST_HANDSHAKE":
                # Whatever was lost, nobody may take it for a proper end.
                _, how = await peer.read_to_end()
                # Reset, too, where something of the peer's was left unread, such as its tickets.
                assert how in (["reset"] if state == "ST_CLOSING" else ["truncated", "reset"])

    run_async(work)


@each_role
@each_version
def test_all_bytes_before_the_end_are_delivered(
    run_async: RunAsync, role: str, version: ssl.TLSVersion
) -> None:
    """A megabyte and close_notify, written while the loop does not turn, as far as it fits."""
    data = random.Random(1).randbytes(150_000)

    async def work() -> None:
        async with tls_pair(role, version=version) as (_, owner, _, peer):
            cipher = peer.seal(data) + peer.goodbye()
            push(peer, cipher)
            peer.truncate()
            await wait_for(owner.ended)
            assert owner.received() == data
            assert owner.reason() == "peer"

    run_async(work)


@each_poller
@each_role
def test_data_and_a_broken_record_in_one_batch(
    run_async: RunAsync, role: str, poller: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The data first; then the peer is told why, and the log as well."""
    caplog.set_level("INFO", "ginsfsm")

    async def work() -> None:
        async with tls_pair(role, poller) as (_, owner, gsock, peer):
            bad = bytearray(peer.seal(b"good"))
            rest = bytearray(peer.seal(b"changed on the way"))
            rest[-1] ^= 1
            await peer.send_raw(bytes(bad + rest))
            _, how = await peer.read_to_end()
            assert how in ("SSLV3_ALERT_BAD_RECORD_MAC", "TLSV1_ALERT_BAD_RECORD_MAC")
            await wait_for(owner.ended)
            assert owner.received() == b"good"
            assert owner.reason() == "tls"
            assert owner.kinds() == ["EV_CONNECTED", "EV_RX_DATA", "EV_DISCONNECTED"]
            (record,) = [one for one in caplog.records if "TLS" in one.getMessage()]
            assert record.levelno == logging.INFO
            assert gsock.path in record.getMessage()
            host, port = peer.sock.getsockname()
            assert f"{host}:{port}" in record.getMessage()
            assert "decryption failed" in record.getMessage()

    run_async(work)


@each_role
@each_version
def test_a_failed_send_closes_only_the_sending_side(
    run_async: RunAsync, role: str, version: ssl.TLSVersion
) -> None:
    """The peer has sent a lot, and resets: what the kernel has is still delivered."""
    data = random.Random(1).randbytes(60_000)

    async def work() -> None:
        async with tls_pair(role, version=version) as (_, owner, gsock, peer):
            cipher = peer.seal(data)
            push(peer, cipher)
            peer.reset()
            lost = [owner.tell(gsock, EV_SEND_DATA(bytes(100))) for _ in range(3)]
            assert NOT_ACCEPTED in lost
            assert not owner.ended()
            await wait_for(owner.ended)
            assert owner.received() == data
            assert owner.reason() == "reset"

    run_async(work)


# -- never from inside the owner's call ------------------------------------------------------------


@each_poller
def test_output_events_never_come_from_inside_the_owners_calls(
    run_async: RunAsync, poller: str
) -> None:
    """A fan-out over clients that have reset, ended, said goodbye or do not read."""

    async def work() -> None:
        async with gaplic(poller) as app:
            owner = make_secure_owner(app)
            server = serve_tls(app, owner, tx_max=100_000)
            owner.reactions[EV_DISCONNECTED] = lambda event: owner.destroy_gobj(event.source)
            with ExitStack() as stack:
                peers = [stack.enter_context(await dial(server)) for _ in range(20)]
                await asyncio.gather(*(peer.shake() for peer in peers))
                await wait_for(lambda: len(owner.of(EV_CONNECTED)) == 20)
                for number, peer in enumerate(peers):
                    match number % 4:
                        case 0:
                            peer.reset()
                        case 1:
                            peer.send_now(b"last words")
                            peer.end()
                        case 2:
                            peer.truncate()
                # The loop has not turned: all of them still look alive.
                gsocks = [child for child in owner.children.values() if type(child) is GSock]
                assert len(gsocks) == 20
                for gsock in gsocks:
                    owner.tell(gsock, EV_SEND_DATA(bytes(3_000_000)))
                    owner.tell(gsock, EV_WRITE_OUTPUT_DATA(b"x"))
                    owner.tell(gsock, EV_FLUSH_OUTPUT_DATA())
                    owner.tell(gsock, EV_SEND_DATA(b"y"))
                    owner.tell(gsock, EV_DROP())
                    assert not gsock.destroyed
                assert not owner.inside
                assert not owner.ended()
                for peer in peers[3::4]:
                    peer.close()
                for peer in [*peers[1::4], *peers[2::4]]:
                    await peer.read_to_end()
                    peer.close()
                await wait_for(
                    lambda: not any(isinstance(c, GSock) for c in owner.children.values())
                )
                await turns()
                assert len(owner.of(EV_DISCONNECTED)) == 20
                assert server.config.n_gsocks == 0
                assert not owner.inside

    run_async(work)


# -- backpressure ----------------------------------------------------------------------------------


@each_poller
@each_role
@pytest.mark.parametrize("event", [EV_SEND_DATA, EV_WRITE_OUTPUT_DATA])
def test_a_peer_that_does_not_read_is_dropped_with_tx_overflow(
    run_async: RunAsync, role: str, poller: str, event: Any
) -> None:
    async def work() -> None:
        async with tls_pair(role, poller, rcvbuf=4096, tx_max=100_000) as tls:
            _, owner, gsock, peer = tls
            highest = sent = 0
            while owner.tell(gsock, event(bytes(10_000))) is True:
                sent += 10_000
                highest = max(highest, gsock.queued)
                assert sent < 50_000_000
            assert 100_000 < highest <= 110_000
            await wait_for(owner.ended)
            assert owner.reason() == "tx_overflow"
            data, how = await peer.read_to_end()
            assert how == "reset"
            assert not any(data)
            assert not owner.of(EV_TRANSMIT_READY)

    run_async(work)


@each_role
def test_one_large_message_to_a_healthy_peer_is_legal(run_async: RunAsync, role: str) -> None:
    data = random.Random(1).randbytes(5_000_000)

    async def work() -> None:
        async with tls_pair(role, tx_max=1000) as (_, owner, gsock, peer):
            assert owner.tell(gsock, EV_SEND_DATA(data)) is True
            assert await peer.read(len(data)) == data
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
        async with tls_pair(
            role, poller, rcvbuf=4096, tx_high_water=200_000, tx_low_water=50_000
        ) as (_, owner, gsock, peer):
            assert gsock._sock is not None
            set_buffers(gsock._sock, 0, 50_000)
            sizes: list[int] = []
            owner.reactions[EV_TRANSMIT_READY] = lambda _: sizes.append(gsock.queued)
            sent = read = 0
            while gsock.queued < 150_000:
                owner.tell(gsock, EV_SEND_DATA(bytes(10_000)))
                sent += 10_000
            read += len(await peer.read(sent))
            await wait_for(lambda: not gsock.queued)
            await turns()
            assert not sizes
            for crossing in range(1, 4):
                while gsock.queued < 200_000 + 50_000 * crossing:
                    owner.tell(gsock, EV_SEND_DATA(bytes(10_000)))
                    sent += 10_000
                assert len(sizes) == crossing - 1
                read += len(await peer.read(sent - read))
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
    total, chunk = 8_000_000, 64_000

    async def work() -> None:
        async with tls_pair(role, poller, tx_high_water=200_000, tx_low_water=100_000) as both:
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


@each_poller
@each_role
def test_who_paused_until_ev_transmit_ready_hears_of_a_peer_that_reset(
    run_async: RunAsync, role: str, poller: str
) -> None:
    async def work() -> None:
        async with tls_pair(role, poller, rcvbuf=4096) as (_, owner, gsock, peer):
            owner.reactions[EV_TRANSMIT_READY] = lambda _: owner.tell(gsock, EV_RESUME_RX())
            owner.tell(gsock, EV_SEND_DATA(bytes(7_000_000)))
            owner.tell(gsock, EV_PAUSE_RX())
            await turns()
            peer.reset()
            await wait_for(owner.ended)
            assert owner.kinds() == ["EV_CONNECTED", "EV_TRANSMIT_READY", "EV_DISCONNECTED"]
            assert owner.reason() == "reset"

    run_async(work)


# -- pause and resume ------------------------------------------------------------------------------


@each_poller
@each_role
def test_ev_pause_rx_closes_the_senders_window_and_ev_resume_rx_loses_nothing(
    run_async: RunAsync, role: str, poller: str
) -> None:
    data = random.Random(2).randbytes(1 << 20) * 8

    async def work() -> None:
        async with tls_pair(role, poller) as (_, owner, gsock, peer):
            cipher = peer.seal(data)
            sent = 0

            async def push() -> None:
                """Until the kernel takes no more, for good."""
                nonlocal sent
                idle = 0
                while idle < 50 and sent < len(cipher):
                    try:
                        count = peer.sock.send(cipher[sent : sent + 100_000])
                    except BlockingIOError:
                        count = 0
                    sent += count
                    idle = 0 if count else idle + 1
                    await asyncio.sleep(0)

            for _ in range(3):
                owner.tell(gsock, EV_PAUSE_RX())
                await push()
                await turns()
                got = len(owner.received())
                assert got < sent < len(cipher)
                await turns(50)
                assert len(owner.received()) == got
                owner.tell(gsock, EV_RESUME_RX())
                await wait_for(lambda got=got: len(owner.received()) > got)
                owner.tell(gsock, EV_PAUSE_RX())
                so_far = owner.received()
                assert so_far == data[: len(so_far)]
            owner.tell(gsock, EV_RESUME_RX())
            await peer.send_raw(cipher[sent:])
            peer.end()
            await wait_for(owner.ended)
            assert owner.received() == data

    run_async(work)


@each_poller
@each_role
@pytest.mark.parametrize("behind", ["close_notify", "broken", "alert"])
@pytest.mark.parametrize("socket_ends", [False, True])
def test_what_waits_decrypted_behind_a_pause_comes_after_the_resume(
    run_async: RunAsync, role: str, poller: str, behind: str, socket_ends: bool
) -> None:
    """The owner pauses on the data; the end came in the same batch, and the socket has no more."""

    async def work() -> None:
        async with tls_pair(role, poller) as (_, owner, gsock, peer):
            owner.reactions[EV_RX_DATA] = lambda _: owner.tell(gsock, EV_PAUSE_RX())
            cipher = peer.seal(b"the data")
            match behind:
                case "close_notify":
                    cipher += peer.goodbye()
                case "broken":
                    cipher += b"\x17\x03\x03\0\x30" + bytes(48)
                case "alert":
                    # What Python sends to a record that it cannot read.
                    peer._incoming.write(b"\x17\x03\x03\0\x30" + bytes(48))
                    with pytest.raises(ssl.SSLError):
                        peer.opened()
                    cipher += peer.written()
            await peer.send_raw(cipher)
            if socket_ends:
                peer.truncate()
            await wait_for(owner.received)
            await turns(50)
            assert owner.kinds() == ["EV_CONNECTED", "EV_RX_DATA"]
            owner.reactions.clear()
            owner.tell(gsock, EV_RESUME_RX())
            owner.tell(gsock, EV_RESUME_RX())
            assert not owner.ended()
            await wait_for(owner.ended)
            assert owner.reason() == ("peer" if behind == "close_notify" else "tls")
            assert owner.received() == b"the data"

    run_async(work)


@each_role
@pytest.mark.parametrize("how", ["drop", "abort", "destroy", "send"])
def test_the_end_waits_behind_a_pause_and_the_owner_does_something_else(
    run_async: RunAsync, role: str, how: str
) -> None:
    async def work() -> None:
        async with tls_pair(role, close_timeout=3) as (_, owner, gsock, peer):
            owner.reactions[EV_RX_DATA] = lambda _: owner.tell(gsock, EV_PAUSE_RX())
            # The peer keeps its socket open: it waits for our close_notify.
            await peer.send_raw(peer.seal(b"the data") + peer.goodbye())
            await wait_for(owner.received)
            before = time.monotonic()
            match how:
                case "destroy":
                    owner.destroy_gobj(gsock)
                    await turns()
                    assert not owner.ended()
                    return
                case "abort":
                    owner.tell(gsock, EV_DROP(abort=True))
                case "drop":
                    owner.tell(gsock, EV_DROP())
                case "send":
                    owner.tell(gsock, EV_SEND_DATA(b"answer"))
                    owner.tell(gsock, EV_DROP())
            await wait_for(owner.ended)
            assert owner.reason() == "local"
            # The peer's end is known already: there is nothing to wait for.
            assert time.monotonic() - before < 2
            if how != "abort":
                answer = b"answer" if how == "send" else b""
                assert await peer.read_to_end() == (answer, "end")

    run_async(work)


def test_ev_pause_rx_inside_ev_connected_when_the_first_request_is_there_already(
    run_async: RunAsync,
) -> None:
    """It came with the end of the handshake, and stands decrypted or half so in the gsock."""

    async def work() -> None:
        async with tls_pair("accepted", shake=False) as (_, owner, gsock, peer):
            owner.reactions[EV_CONNECTED] = lambda _: owner.tell(gsock, EV_PAUSE_RX())
            await shake_and_send(peer, b"the first request")
            await wait_for(lambda: owner.of(EV_CONNECTED))
            await turns(50)
            assert not owner.received()
            owner.tell(gsock, EV_RESUME_RX())
            await wait_for(lambda: owner.received() == b"the first request")
            await peer.send(b"the second")
            await wait_for(lambda: owner.received() == b"the first requestthe second")

    run_async(work)


@each_role
@pytest.mark.parametrize("queued", [False, True])
def test_a_failure_waits_behind_a_pause_and_the_owner_drops(
    run_async: RunAsync, role: str, queued: bool
) -> None:
    """The peer has been sent the alert, and keeps its socket: there is nothing to wait for."""

    async def work() -> None:
        async with tls_pair(role, close_timeout=4) as (_, owner, gsock, peer):
            owner.reactions[EV_RX_DATA] = lambda _: owner.tell(gsock, EV_PAUSE_RX())
            await peer.send_raw(peer.seal(b"the data") + b"\x17\x03\x03\0\x30" + bytes(48))
            await wait_for(owner.received)
            before = time.monotonic()
            if queued:
                owner.tell(gsock, EV_WRITE_OUTPUT_DATA(b"x"))
            owner.tell(gsock, EV_DROP())
            await wait_for(owner.ended)
            assert owner.reason() in ("local", "tls")
            assert time.monotonic() - before < 2

    run_async(work)


@each_version
@pytest.mark.parametrize("dropped", ["at once", "later"])
def test_ev_drop_while_the_goodbye_came_with_the_end_of_the_handshake(
    run_async: RunAsync, version: ssl.TLSVersion, dropped: str
) -> None:
    """Receiving is paused from the beginning, so nobody has looked at it. The peer waits for us."""

    async def work() -> None:
        async with tls_pair("accepted", version=version, shake=False, close_timeout=4) as tls:
            _, owner, gsock, peer = tls

            def pause(_event: EV_CONNECTED) -> None:
                owner.tell(gsock, EV_PAUSE_RX())
                if dropped == "at once":
                    owner.tell(gsock, EV_DROP())

            owner.reactions[EV_CONNECTED] = pause
            await shake_and_send(peer, b"the first request", goodbye=True)
            await wait_for(lambda: owner.of(EV_CONNECTED))
            await turns(20)
            before = time.monotonic()
            owner.tell(gsock, EV_DROP())
            await wait_for(owner.ended)
            assert time.monotonic() - before < 2
            assert owner.reason() == "local"
            assert await peer.read_to_end() == (b"", "end")
            assert not owner.received()

    run_async(work)


async def shake_and_send(
    peer: TlsPeer, data: bytes, *, goodbye: bool = False, end: bool = False
) -> None:
    """A client's last message of the handshake, and this with it in one segment."""
    while not peer.step():
        await peer.send_raw(peer.written())
        assert await peer.feed()
    cipher = peer.written() + peer.seal(data)
    if goodbye:
        cipher += peer.goodbye()
    push(peer, cipher)
    if end:
        peer.truncate()


# -- sending ---------------------------------------------------------------------------------------


@each_role
def test_many_writes_and_then_a_flush(run_async: RunAsync, role: str) -> None:
    async def work() -> None:
        async with tls_pair(role) as (_, owner, gsock, peer):
            owner.tell(gsock, EV_SEND_DATA(b"first"))
            assert await peer.read(5) == b"first"
            pieces = [bytes([n % 256]) * (n % 37) for n in range(2000)]
            for piece in pieces:
                assert owner.tell(gsock, EV_WRITE_OUTPUT_DATA(piece)) is True
            await turns()
            with pytest.raises(BlockingIOError):
                peer.sock.recv(1, socket.MSG_PEEK)
            assert owner.tell(gsock, EV_FLUSH_OUTPUT_DATA()) is True
            data = b"".join(pieces)
            assert await peer.read(len(data)) == data
            owner.tell(gsock, EV_FLUSH_OUTPUT_DATA())
            owner.tell(gsock, EV_WRITE_OUTPUT_DATA(b"one "))
            owner.tell(gsock, EV_SEND_DATA(b"two "))
            owner.tell(gsock, EV_SEND_DATA(b"three"))
            assert await peer.read(13) == b"one two three"

    run_async(work)


PAYLOADS: list[tuple[str, Callable[[], Any], bytes]] = [
    ("bytes", lambda: b"abc", b"abc"),
    ("empty", lambda: b"", b""),
    ("empty view", lambda: memoryview(b""), b""),
    ("bytearray", lambda: bytearray(b"abc"), b"abc"),
    ("view", lambda: memoryview(b"abc")[1:], b"bc"),
    ("view of numbers", lambda: memoryview(array.array("I", [1, 2, 3])),
     array.array("I", [1, 2, 3]).tobytes()),
    ("every second byte", lambda: memoryview(b"abcdef")[::2], b"ace"),
    ("two dimensions", lambda: memoryview(b"abcdef").cast("B", (2, 3)), b"abcdef"),
    ("large view", lambda: memoryview(bytearray(b"x" * 100_000))[7:], b"x" * 99_993),
]  # fmt: skip


@pytest.mark.parametrize("queued", [False, True])
@pytest.mark.parametrize("event", [EV_SEND_DATA, EV_WRITE_OUTPUT_DATA])
def test_payloads(run_async: RunAsync, event: Any, queued: bool) -> None:
    async def work() -> None:
        async with tls_pair() as (_, owner, gsock, peer):
            for name, given, expected in PAYLOADS:
                before = b""
                if queued:
                    before = bytes(6_000_000)
                    owner.tell(gsock, EV_SEND_DATA(before))
                    assert gsock.queued
                assert owner.tell(gsock, event(given())) is True
                owner.tell(gsock, EV_SEND_DATA(b"|"))
                data = await peer.read(len(before) + len(expected) + 1)
                assert data[len(before) :] == expected + b"|", name

    run_async(work)


@pytest.mark.parametrize("event", [EV_SEND_DATA, EV_WRITE_OUTPUT_DATA])
@pytest.mark.parametrize("queued", [False, True])
@pytest.mark.parametrize("view", [False, True, "readonly"])
def test_a_buffer_changed_after_the_send_does_not_change_what_is_sent(
    run_async: RunAsync, event: Any, queued: bool, view: bool | str
) -> None:
    async def work() -> None:
        async with tls_pair() as (_, owner, gsock, peer):
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


@pytest.mark.parametrize("wrong", ["text", 5, None], ids=repr)
def test_what_is_no_bytes_is_one_clear_error_and_the_connection_lives_on(
    run_async: RunAsync, wrong: Any
) -> None:
    async def work() -> None:
        async with tls_pair() as (_, owner, gsock, peer):
            with pytest.raises(EventError, match="expected bytes"):
                owner.send_event(gsock, "EV_SEND_DATA", data=wrong)
            owner.tell(gsock, EV_SEND_DATA(b"hello"))
            assert await peer.read(5) == b"hello"

    run_async(work)


@each_version
def test_30_mb_through_a_slow_pipe(run_async: RunAsync, version: ssl.TLSVersion) -> None:
    """Sends and gathered writes mixed, small buffers, a reader that takes little steps."""
    size = 30 * 1_000_000
    dice = random.Random(3)
    block = dice.randbytes(1_000_000)

    async def work() -> None:
        async with tls_pair(
            version=version, rcvbuf=50_000, tx_high_water=1_000_000, tx_low_water=200_000
        ) as (_, owner, gsock, peer):
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
            found = hashlib.blake2b()

            async def read() -> None:
                while True:
                    try:
                        more = peer.opened()
                    except ssl.SSLZeroReturnError:
                        return
                    found.update(more)
                    assert more or await peer.feed(16_384)

            reader = asyncio.create_task(read())
            pump()
            await reader
            assert found.digest() == expected.digest()
            peer.end()
            await wait_for(owner.ended)
            assert owner.reason() == "local"

    run_async(work, timeout=60)


@each_role
@each_version
def test_megabytes_in_both_directions_at_once(
    run_async: RunAsync, role: str, version: ssl.TLSVersion
) -> None:
    data = random.Random(4).randbytes(1_000_000) * 5

    async def work() -> None:
        async with tls_pair(role, version=version, tx_max=1 << 30) as tls:
            _, owner, gsock, peer = tls
            owner.tell(gsock, EV_SEND_DATA(data))
            got, _ = await asyncio.gather(peer.read(len(data)), peer.send(data))
            assert got == data
            peer.end()
            await wait_for(owner.ended)
            assert owner.received() == data
            assert owner.reason() == "peer"

    run_async(work)


@each_role
def test_an_echo_between_two_gsocks(run_async: RunAsync, role: str) -> None:
    """GSock on both sides; the client ends, and each hears of a proper end."""
    data = random.Random(4).randbytes(1_000_000) * 3

    async def work() -> None:
        async with gaplic() as app:
            owner, other = make_secure_owner(app), make_secure_owner(app, "other")
            server = serve_tls(app, owner)
            owner.reactions[EV_RX_DATA] = lambda event: owner.tell(
                event.source, EV_SEND_DATA(event.data)
            )
            client = other.create_gobj(
                "client", GSock, other, host="localhost", port=server.config.port,
                ssl_options=client_options(),
            )  # fmt: skip
            other.tell(client, EV_CONNECT())
            await wait_for(lambda: other.of(EV_CONNECTED))
            assert client.tls is not None
            assert client.tls.server_name == "localhost"
            for at_ in range(0, len(data), 100_000):
                other.tell(client, EV_SEND_DATA(data[at_ : at_ + 100_000]))
            await wait_for(lambda: len(other.received()) == len(data))
            assert other.received() == data
            if role == "client":
                other.tell(client, EV_DROP())
            else:
                owner.tell(owner.of(EV_CONNECTED)[0].source, EV_DROP())  # type: ignore[arg-type]
            await wait_for(lambda: owner.ended() and other.ended())
            assert (owner.reason(), other.reason()) == (
                ("peer", "local") if role == "client" else ("local", "peer")
            )
            assert not owner.inside
            assert not other.inside

    run_async(work)


# -- EV_DROP ---------------------------------------------------------------------------------------


@each_role
@each_version
def test_ev_drop_flushes_a_large_queue_and_then_says_goodbye(
    run_async: RunAsync, role: str, version: ssl.TLSVersion
) -> None:
    data = random.Random(5).randbytes(6_000_000)

    async def work() -> None:
        async with tls_pair(role, version=version) as (app, owner, gsock, peer):
            owner.tell(gsock, EV_SEND_DATA(data))
            owner.tell(gsock, EV_WRITE_OUTPUT_DATA(b"the end"))
            owner.tell(gsock, EV_DROP())
            assert gsock.state == "ST_CLOSING"
            assert gsock.tls is not None
            assert owner.tell(gsock, EV_SEND_DATA(b"too late")) is NOT_ACCEPTED
            assert await peer.read_to_end() == (data + b"the end", "end")
            await turns()
            assert not owner.ended(), "the peer has not said goodbye"
            peer.end()
            await wait_for(owner.ended)
            assert owner.reason() == "local"
            assert app.refused_events == 0

    run_async(work)


@each_role
def test_ev_drop_waits_for_the_peers_goodbye_no_longer_than_close_timeout(
    run_async: RunAsync, role: str
) -> None:
    async def work() -> None:
        async with tls_pair(role, close_timeout=0.3) as (_, owner, gsock, peer):
            begin = time.monotonic()
            owner.tell(gsock, EV_DROP())
            assert await peer.read_to_end() == (b"", "end")
            await wait_for(owner.ended)
            assert 0.25 < time.monotonic() - begin < 1.5
            # The peer has it all: that it is silent is its own affair.
            assert owner.reason() == "local"

    run_async(work)


@each_role
def test_ev_drop_with_output_that_nobody_reads_is_bounded_by_close_timeout(
    run_async: RunAsync, role: str
) -> None:
    async def work() -> None:
        async with tls_pair(role, rcvbuf=4096, close_timeout=0.3) as tls:
            _, owner, gsock, peer = tls
            owner.tell(gsock, EV_SEND_DATA(bytes(9_000_000)))
            begin = time.monotonic()
            owner.tell(gsock, EV_DROP())
            await wait_for(owner.ended)
            assert 0.25 < time.monotonic() - begin < 1.5
            assert owner.reason() == "timeout"
            data, how = await peer.read_to_end()
            assert how == "reset"
            assert len(data) < 9_000_000

    run_async(work)


@each_poller
@each_role
def test_ev_drop_with_abort_closes_at_once(run_async: RunAsync, role: str, poller: str) -> None:
    async def work() -> None:
        async with tls_pair(role, poller) as (_, owner, gsock, peer):
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


@each_role
@each_version
def test_dropping_a_peer_that_is_still_sending_loses_none_of_our_last_bytes(
    run_async: RunAsync, role: str, version: ssl.TLSVersion
) -> None:
    """The answer to the beginning of a large upload, then the drop."""
    answer = random.Random(6).randbytes(500_000)

    async def work() -> None:
        async with tls_pair(role, version=version, rcvbuf=8192) as tls:
            _, owner, gsock, peer = tls

            def refuse(_event: EV_RX_DATA) -> None:
                owner.tell(gsock, EV_SEND_DATA(answer))
                owner.tell(gsock, EV_DROP())

            owner.reactions[EV_RX_DATA] = refuse
            # It looks at the answer only when all is sent.
            await peer.send(bytes(5_000_000))
            assert await peer.read_to_end() == (answer, "end")
            peer.end()
            await wait_for(owner.ended)
            assert len(owner.of(EV_RX_DATA)) == 1
            assert owner.reason() == "local"

    run_async(work)


@each_version
@pytest.mark.parametrize("abort", [False, True])
def test_ev_drop_inside_ev_connected_when_the_first_request_is_there_already(
    run_async: RunAsync, version: ssl.TLSVersion, abort: bool
) -> None:
    async def work() -> None:
        async with tls_pair("accepted", version=version, shake=False) as (_, owner, gsock, peer):

            def drop(_event: EV_CONNECTED) -> None:
                owner.tell(gsock, EV_SEND_DATA(b"go away"))
                owner.tell(gsock, EV_DROP(abort))

            owner.reactions[EV_CONNECTED] = drop
            await shake_and_send(peer, b"the first request")
            data, how = await peer.read_to_end()
            assert data == b"go away"
            assert how == ("truncated" if abort else "end")
            peer.end() if not abort else None
            await wait_for(owner.ended)
            assert owner.kinds() == ["EV_CONNECTED", "EV_DISCONNECTED"]
            assert owner.reason() == "local"

    run_async(work)


@each_poller
@each_role
@pytest.mark.parametrize("abort", [False, True])
def test_no_ev_rx_data_after_ev_drop_inside_ev_rx_data(
    run_async: RunAsync, role: str, poller: str, abort: bool
) -> None:
    async def work() -> None:
        async with tls_pair(role, poller) as (_, owner, gsock, peer):
            owner.reactions[EV_RX_DATA] = lambda _: owner.tell(gsock, EV_DROP(abort))
            cipher = peer.seal(bytes(400_000)) + peer.goodbye()
            peer.sock.send(cipher)
            await wait_for(lambda: owner.of(EV_RX_DATA))
            peer.close()
            await wait_for(owner.ended)
            await turns()
            assert len(owner.of(EV_RX_DATA)) == 1

    run_async(work)


@each_role
def test_ev_drop_twice_and_after_the_end(run_async: RunAsync, role: str) -> None:
    async def work() -> None:
        async with tls_pair(role) as (app, owner, gsock, peer):
            owner.tell(gsock, EV_SEND_DATA(bytes(6_000_000)))
            for _ in range(3):
                owner.tell(gsock, EV_DROP())
            data, how = await peer.read_to_end()
            assert (len(data), how) == (6_000_000, "end")
            owner.tell(gsock, EV_DROP())
            peer.end()
            await wait_for(owner.ended)
            owner.tell(gsock, EV_DROP())
            owner.tell(gsock, EV_DROP(abort=True))
            await turns()
            assert owner.reason() == "local"
            assert app.refused_events == 0

    run_async(work)


@each_role
@pytest.mark.parametrize(
    "event",
    [
        EV_SEND_DATA(b"x"),
        EV_WRITE_OUTPUT_DATA(b"x"),
        EV_FLUSH_OUTPUT_DATA(),
        EV_PAUSE_RX(),
        EV_RESUME_RX(),
    ],
    ids=lambda event: type(event).__name__,
)
def test_what_the_owner_says_while_the_goodbyes_are_exchanged_is_no_mistake(
    run_async: RunAsync, role: str, event: Event
) -> None:
    async def work() -> None:
        async with tls_pair(role) as (app, owner, gsock, peer):
            owner.tell(gsock, EV_DROP())
            assert gsock.state == "ST_CLOSING"
            assert owner.tell(gsock, event) is NOT_ACCEPTED
            assert app.refused_events == 0
            assert await peer.read_to_end() == (b"", "end")
            peer.end()
            await wait_for(owner.ended)
            assert owner.reason() == "local"

    run_async(work)


# -- half-close ------------------------------------------------------------------------------------


@each_role
@each_version
def test_when_the_peer_says_goodbye_what_is_queued_is_still_flushed(
    run_async: RunAsync, role: str, version: ssl.TLSVersion
) -> None:
    answer = random.Random(7).randbytes(6_000_000)

    async def work() -> None:
        async with tls_pair(role, version=version) as (_, owner, gsock, peer):

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


@each_poller
@each_role
def test_a_truncated_end_is_not_called_the_peers_also_with_output_queued(
    run_async: RunAsync, role: str, poller: str
) -> None:
    async def work() -> None:
        async with tls_pair(role, poller) as (_, owner, gsock, peer):
            owner.reactions[EV_RX_DATA] = lambda _: owner.tell(
                gsock, EV_SEND_DATA(bytes(6_000_000))
            )
            peer.send_now(b"question")
            peer.truncate()
            data, how = await peer.read_to_end()
            assert (len(data), how) == (6_000_000, "end")
            await wait_for(owner.ended)
            assert owner.reason() == "tls_truncated"

    run_async(work)


def test_a_peer_that_said_goodbye_and_reads_nothing_is_left_after_close_timeout(
    run_async: RunAsync,
) -> None:
    async def work() -> None:
        async with tls_pair(rcvbuf=4096, close_timeout=0.2) as (_, owner, gsock, peer):
            owner.tell(gsock, EV_SEND_DATA(bytes(9_000_000)))
            peer.end()
            await wait_for(owner.ended)
            assert owner.reason() == "timeout"
            _, how = await peer.read_to_end()
            assert how == "reset"

    run_async(work)


@each_role
@each_version
@pytest.mark.parametrize("socket_ends", [False, True])
def test_half_close_says_ev_rx_end_and_stays_open_for_sending(
    run_async: RunAsync, role: str, version: ssl.TLSVersion, socket_ends: bool
) -> None:
    data = random.Random(8).randbytes(3_000_000)

    async def work() -> None:
        async with tls_pair(role, version=version, half_close=True) as tls:
            _, owner, gsock, peer = tls
            await peer.send_raw(peer.seal(b"all I have") + peer.goodbye())
            if socket_ends:
                peer.truncate()
            await wait_for(lambda: owner.of(EV_RX_END))
            await turns()
            assert owner.kinds() == ["EV_CONNECTED", "EV_RX_DATA", "EV_RX_END"]
            assert gsock.state == "ST_CONNECTED"
            owner.tell(gsock, EV_PAUSE_RX())
            owner.tell(gsock, EV_RESUME_RX())
            owner.tell(gsock, EV_SEND_DATA(data))
            assert await peer.read(len(data)) == data
            await turns()
            assert not owner.ended()
            owner.tell(gsock, EV_SEND_DATA(b"bye"))
            owner.tell(gsock, EV_DROP())
            assert await peer.read_to_end() == (b"bye", "end")
            await wait_for(owner.ended)
            assert owner.reason() == "local"
            assert len(owner.of(EV_RX_END)) == 1

    run_async(work)


@each_role
def test_half_close_is_for_a_proper_end_only(run_async: RunAsync, role: str) -> None:
    async def work() -> None:
        async with tls_pair(role, half_close=True) as (_, owner, _gsock, peer):
            peer.send_now(b"the beginning")
            peer.truncate()
            await wait_for(owner.ended)
            assert owner.reason() == "tls_truncated"
            assert not owner.of(EV_RX_END)

    run_async(work)


# -- what comes early ------------------------------------------------------------------------------


@each_poller
@each_version
@pytest.mark.parametrize("size", [17, 40_000])
def test_the_first_request_comes_with_the_end_of_the_handshake(
    run_async: RunAsync, poller: str, version: ssl.TLSVersion, size: int
) -> None:
    data = random.Random(1).randbytes(size)

    async def work() -> None:
        async with tls_pair("accepted", poller, version=version, shake=False) as tls:
            _, owner, gsock, peer = tls
            await shake_and_send(peer, data)
            await wait_for(lambda: owner.received() == data)
            assert owner.kinds() == ["EV_CONNECTED", "EV_RX_DATA"]
            owner.tell(gsock, EV_SEND_DATA(b"answer"))
            assert await peer.read(6) == b"answer"

    run_async(work)


@each_poller
@each_version
@pytest.mark.parametrize("goodbye", [False, True])
def test_a_client_that_sends_and_goes_at_once(
    run_async: RunAsync, poller: str, version: ssl.TLSVersion, goodbye: bool
) -> None:
    """The end of its handshake, its request, its goodbye and the end of the socket, all at once."""

    async def work() -> None:
        async with tls_pair("accepted", poller, version=version, shake=False) as tls:
            _, owner, _, peer = tls
            await shake_and_send(peer, b"log this", goodbye=goodbye, end=True)
            await wait_for(owner.ended)
            assert owner.received() == b"log this"
            assert owner.kinds() == ["EV_CONNECTED", "EV_RX_DATA", "EV_DISCONNECTED"]
            assert owner.reason() == ("peer" if goodbye else "tls_truncated")

    run_async(work)


@each_poller
@each_version
def test_a_client_that_sends_and_goes_at_once_while_many_shake_hands(
    run_async: RunAsync, poller: str, version: ssl.TLSVersion
) -> None:
    """Its turn to shake hands comes when its socket has ended already."""

    async def work() -> None:
        async with tls_pair("accepted", poller, version=version, shake=False) as tls:
            app, owner, _, peer = tls
            while not peer.step():
                await peer.send_raw(peer.written())
                assert await peer.feed()
            for _ in range(100):
                app.poller.defer_costly(lambda: None)
            cipher = peer.written() + peer.seal(b"log this") + peer.goodbye()
            push(peer, cipher)
            peer.truncate()
            await wait_for(lambda: owner.ended() or tls.gsock.destroyed)
            assert owner.received() == b"log this"
            assert owner.reason() == "peer"

    run_async(work)


@each_poller
@each_version
def test_a_client_that_sends_and_resets_while_many_shake_hands(
    run_async: RunAsync, poller: str, version: ssl.TLSVersion
) -> None:
    """What it has sent is all there, and so it was heard; as it is on a plain connection."""

    async def work() -> None:
        async with tls_pair("accepted", poller, version=version, shake=False) as tls:
            app, owner, _, peer = tls
            while not peer.step():
                await peer.send_raw(peer.written())
                assert await peer.feed()
            for _ in range(100):
                app.poller.defer_costly(lambda: None)
            push(peer, peer.written() + peer.seal(b"log this"))
            await turns(2)
            peer.reset()
            await wait_for(lambda: owner.ended() or tls.gsock.destroyed)
            assert owner.received() == b"log this"
            assert owner.reason() == "reset"

    run_async(work)


@each_poller
@each_version
def test_the_first_words_of_a_server_come_with_the_end_of_its_handshake(
    run_async: RunAsync, poller: str, version: ssl.TLSVersion
) -> None:
    """In TLS 1.3 behind the tickets, in TLS 1.2 behind its Finished."""

    async def work() -> None:
        async with tls_pair("client", poller, version=version, shake=False) as tls:
            _, owner, _, peer = tls
            while not peer.step():
                cipher = peer.written()
                if cipher:
                    await peer.send_raw(cipher)
                assert await peer.feed()
            await peer.send_raw(peer.written() + peer.seal(b"220 welcome"))
            await wait_for(owner.received)
            assert owner.received() == b"220 welcome"
            assert owner.kinds() == ["EV_CONNECTED", "EV_RX_DATA"]

    run_async(work)


@each_version
def test_a_connection_one_byte_at_a_time(run_async: RunAsync, version: ssl.TLSVersion) -> None:
    async def work() -> None:
        async with tls_pair("accepted", version=version, shake=False) as (_, owner, _, peer):
            while not peer.step():
                for byte in peer.written():
                    peer.sock.send(bytes([byte]))
                    await asyncio.sleep(0)
                assert await peer.feed()
            for byte in peer.written() + peer.seal(b"hello") + peer.goodbye():
                peer.sock.send(bytes([byte]))
                await asyncio.sleep(0)
            await wait_for(owner.ended)
            assert owner.received() == b"hello"
            assert owner.reason() == "peer"

    run_async(work)


# -- key updates -----------------------------------------------------------------------------------


@each_poller
@each_role
def test_key_updates_of_the_peer_pass_unnoticed_while_data_flows(
    run_async: RunAsync, role: str, poller: str
) -> None:
    async def work() -> None:
        context = context_against(role, V13)
        if role == "client":
            context.num_tickets = 0
        log = SecretLog(context)
        async with tls_pair(role, poller, context=context) as (_, owner, gsock, peer):
            forger = Forger(peer.tls, log)
            expected = sent = b""
            for number in range(30):
                data = random.Random(number).randbytes(5000)
                update = forger.key_update(request=bool(number % 2))
                await peer.send_raw(update + forger.data(data))
                expected += data
                sent += data[::-1]
                owner.tell(gsock, EV_SEND_DATA(data[::-1]))
            assert await peer.read(len(sent)) == sent
            await peer.send_raw(forger.close_notify())
            await wait_for(owner.ended)
            assert owner.received() == expected
            assert owner.reason() == "peer"

    run_async(work)


@each_role
def test_the_answer_to_a_key_update_waits_while_the_peer_does_not_read(
    run_async: RunAsync, role: str
) -> None:
    """Also where the owner has nothing to send, and then it drops."""

    async def work() -> None:
        context = context_against(role, V13)
        if role == "client":
            context.num_tickets = 0
        log = SecretLog(context)
        async with tls_pair(role, context=context, rcvbuf=4096) as (_, owner, gsock, peer):
            forger = Forger(peer.tls, log)
            owner.tell(gsock, EV_SEND_DATA(bytes(3_000_000)))
            for _ in range(5):
                await peer.send_raw(forger.key_update(request=True) + forger.data(b"x"))
            await wait_for(lambda: owner.received() == b"xxxxx")
            owner.tell(gsock, EV_SEND_DATA(b"behind it"))
            owner.tell(gsock, EV_DROP())
            data, how = await peer.read_to_end()
            assert data == bytes(3_000_000) + b"behind it"
            assert how == "end"

    run_async(work)


# -- other subscribers -----------------------------------------------------------------------------


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
                "server", GServerSock, app, host="127.0.0.1", subscriber=careless,
                ssl_options=server_options(),
            )  # fmt: skip
            for ending in ("goodbye", "truncate", "reset", "broken", "drop", "abort"):
                with await dial(server) as peer:
                    careless.gsock = None
                    await peer.shake()
                    await wait_for(lambda: careless.gsock)
                    gsock = careless.gsock
                    match ending:
                        case "goodbye":
                            peer.end()
                        case "truncate":
                            peer.truncate()
                        case "reset":
                            peer.reset()
                        case "broken":
                            await peer.send_raw(b"\x17\x03\x03\0\x30" + bytes(48))
                        case "drop":
                            careless.send_event(gsock, EV_DROP())
                            peer.end()
                        case "abort":
                            careless.send_event(gsock, EV_DROP(abort=True))
                    await wait_for(lambda gsock=gsock: gsock.destroyed, ending)
                    assert not careless.children
                    assert server.config.n_gsocks == 0

    run_async(work)


@each_poller
@pytest.mark.parametrize("kind", [EV_CONNECTED, EV_RX_DATA, EV_RX_END, EV_DISCONNECTED])
def test_an_action_that_raises_ends_that_connection_and_no_other(
    run_async: RunAsync, poller: str, kind: type, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        async with gaplic(poller) as app:
            owner = make_secure_owner(app)
            server = serve_tls(app, owner, half_close=True)
            with await dial(server) as good, await dial(server) as bad:
                await good.shake()
                await wait_for(lambda: owner.of(EV_CONNECTED))
                name = bad.sock.getsockname()

                def fails(event: Any) -> None:
                    if event.source.peername == name:
                        raise RuntimeError("of the test")

                owner.reactions[kind] = fails
                await shake_and_send(bad, b"x", goodbye=kind is EV_RX_END)
                if kind is EV_DISCONNECTED:
                    await wait_for(owner.received)
                    bad.reset()
                await wait_for(owner.ended)
                await turns()
                assert owner.reason() == ("reset" if kind is EV_DISCONNECTED else "error")
                assert app.contained_errors == 1
                assert server.config.n_gsocks == 1
                await good.send(b"still there?")
                await wait_for(lambda: b"still there?" in owner.received())
                assert not owner.inside

    run_async(work)
    assert "RuntimeError: of the test" in caplog.text
    caplog.clear()


def test_an_observed_connection_behaves_alike(run_async: RunAsync) -> None:
    """Inspection takes the slow ways of the core."""

    async def work() -> None:
        async with tls_pair("accepted", shake=False) as (app, owner, gsock, peer):
            seen: list[object] = []
            app.observe(seen.append)
            await shake_and_send(peer, b"hello")
            await wait_for(owner.received)
            owner.tell(gsock, EV_SEND_DATA(b"world"))
            assert await peer.read(5) == b"world"
            peer.end()
            await wait_for(owner.ended)
            assert owner.received() == b"hello"
            assert owner.reason() == "peer"
            assert seen

    run_async(work)


def test_the_end_of_the_gaplic_closes_everything(run_async: RunAsync) -> None:
    async def work() -> None:
        with ExitStack() as stack:
            async with gaplic() as app:
                owner = make_secure_owner(app)
                server = serve_tls(app, owner)
                peers = [stack.enter_context(await dial(server)) for _ in range(6)]
                await peers[0].shake()
                for peer in peers[1:4]:
                    peer.step()
                    await peer.send_raw(peer.written())
                await wait_for(lambda: len(server.ledger) == 6)
                await wait_for(lambda: owner.of(EV_CONNECTED))
            for peer in peers[1:]:
                while True:
                    try:
                        if not await peer.feed():
                            break
                    except ConnectionResetError:
                        break
            assert (await peers[0].read_to_end())[1] == "truncated"

    run_async(work)


# -- memory ----------------------------------------------------------------------------------------


def resident() -> int:
    """Bytes of this process that are nobody else's."""
    gc.collect()
    text = Path("/proc/self/smaps_rollup").read_text()
    return 1024 * next(int(line.split()[1]) for line in text.splitlines() if "Pss:" in line)


@pytest.mark.skipif(
    not os.path.exists("/proc/self/smaps_rollup") or sys.platform != "linux",
    reason="this system does not tell",
)
@pytest.mark.parametrize("early", [False, True])
def test_a_burst_leaves_no_large_buffers_behind(run_async: RunAsync, early: bool) -> None:
    """4 MB to each of 30 connections, of which none may keep more than some tens of KiB."""
    count = 30

    async def work() -> None:
        async with gaplic() as app:
            owner = make_secure_owner(app)
            server = serve_tls(app, owner)
            context = client_context()
            got = 0

            def keep(event: EV_RX_DATA) -> None:
                nonlocal got
                got += len(event.data)
                owner.heard.clear()

            owner.reactions[EV_RX_DATA] = keep
            with ExitStack() as stack:
                peers = [stack.enter_context(await dial(server, context)) for _ in range(count)]
                first = bytes(60_000) if early else b"x"
                for peer in peers:
                    await shake_and_send(peer, first)
                await wait_for(lambda: got == count * len(first))
                before = resident()
                for peer in peers:
                    for _ in range(4):
                        await peer.send(bytes(1_000_000))
                await wait_for(lambda: got == count * (len(first) + 4_000_000))
                assert (resident() - before) / count < 40_000

    run_async(work)
