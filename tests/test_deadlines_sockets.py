"""How long a connection may stay: each time-out on real sockets, most with a clock moved by hand.

The manual clock drives only the gaplic; the sockets are real, and the loop has its turns. So a test
says exactly when the peer's byte came, and takes no time. That each deadline comes at its time by
the loop's own clock too is shown at the end.
"""

import asyncio
import gc
import socket
import weakref
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import pytest

from conftest import RunAsync
from ginsfsm import GAplic, GObj, on
from ginsfsm.c_sock import (
    EV_CONNECT,
    EV_CONNECT_FAILED,
    EV_CONNECTED,
    EV_DISCONNECTED,
    EV_DROP,
    EV_PAUSE_RX,
    EV_RESUME_RX,
    EV_RX_DATA,
    EV_RX_END,
    EV_RX_FRAME,
    EV_SEND_DATA,
    EV_START_TLS,
    EV_TLS_STARTED,
    GSock,
)
from ginsfsm.c_srv_sock import EV_REFUSED, GServerSock
from ginsfsm.deadlines import SLICE
from ginsfsm.sock.receiving import FRAMES_AT_ONCE
from ginsfsm.testing import ManualClock
from secure import TlsPeer, client_options, context_against, dial, options_of, server_options
from servers import Keeper, connect, serve, until
from sockets import Owner, Pair, Peer, accept, client_of, listener, turns, wait_for

LATE = 0.25
"""Seconds after its time by which a deadline must have come."""

BOTH = pytest.mark.parametrize("role", ["client", "accepted"])


class Talker(Owner):
    """An owner that knows frames and refusals as well."""

    machine = {
        "ST_IDLE": [
            *Owner.machine["ST_IDLE"],
            on(EV_RX_FRAME, Owner.ac_keep),
            on(EV_REFUSED, Owner.ac_keep),
            on(EV_TLS_STARTED, Owner.ac_keep),
        ],
    }


class JumpingClock(ManualClock):
    """A clock that can go on without anybody being called on the way, as in a machine's sleep."""

    def jump(self, seconds: float) -> None:
        self._now += round(seconds * 1_000_000_000)


class Scene:
    """One gsock, its peer, and the clock."""

    def __init__(self, pair: Pair, clock: JumpingClock) -> None:
        self.app, self.owner, self.gsock, self.peer = pair
        self.clock = clock

    async def wait(self, seconds: float) -> None:
        """Time passes, a tenth of a second after the other as long as it is few."""
        step = max(0.1, seconds / 300)
        while seconds > 1e-9:
            self.clock.advance(min(step, seconds))
            seconds -= step
            await turns(3)

    async def hears(self, data: bytes = b"x") -> None:
        """The peer sends something, and it is received at this moment."""
        before = self.gsock.rx_bytes
        await self.peer.send(data)
        await wait_for(lambda: self.gsock.rx_bytes == before + len(data), "the bytes")

    async def lives_for(self, seconds: float) -> None:
        """It is still there after that time, and the deadline is not yet due."""
        await self.wait(seconds)
        assert not self.owner.ended(), self.owner.reason()

    async def ends_within(self, seconds: float, reason: str) -> None:
        """It is still there just before, and gone within 250 ms after."""
        await self.lives_for(seconds - 0.01)
        await self.wait(0.01 + LATE)
        assert self.gsock.state in ("ST_CLOSING", "ST_DISCONNECTED")
        await self.has_ended()
        assert self.owner.reason() == reason

    async def has_ended(self) -> None:
        """Also where the last that we said has to be acknowledged, as a timer asks again and again.

        The kernel takes up to 40 ms for that, by its own clock.
        """
        end = self.clock.time() + 5

        def ended() -> bool:
            self.clock.advance(0.001)
            return self.owner.ended()

        await wait_for(ended, "EV_DISCONNECTED")
        # Less than the `close_timeout`.
        assert self.clock.time() < end


@asynccontextmanager
async def scene(role: str = "accepted", **params: Any) -> AsyncIterator[Scene]:
    """A connection whose time stands still."""
    clock = JumpingClock(1000.03)
    async with GAplic("app", clock=clock) as app:
        owner = app.create_gobj("owner", Talker, app)
        with ExitStack() as stack:
            if role == "client":
                listening = stack.enter_context(listener())
                gsock = client_of(owner, listening, **params)
                owner.send_event(gsock, EV_CONNECT())
                peer = await accept(listening)
            else:
                server = app.create_gobj(
                    "server", GServerSock, app, host="127.0.0.1", subscriber=owner, **params
                )
                peer = Peer(socket.create_connection(("127.0.0.1", server.config.port)))
            with peer:
                await wait_for(lambda: owner.of(EV_CONNECTED), "EV_CONNECTED")
                found = owner.of(EV_CONNECTED)[0].source
                assert isinstance(found, GSock)
                one = Scene(Pair(app, owner, found, peer), clock)
                yield one
                nothing_is_left(one)


def nothing_is_left(one: Scene) -> None:
    for gsock in [child for child in one.owner.children.values() if isinstance(child, GSock)]:
        one.owner.destroy_gobj(gsock)
    one.clock.advance(0.2)
    assert len(one.app.deadlines) == 0


# -- silence ---------------------------------------------------------------------------------------


@BOTH
def test_idle(role: str, run_async: RunAsync) -> None:
    async def main() -> None:
        async with scene(role, idle_timeout=10.0) as one:
            await one.ends_within(10, "idle")
            assert await one.peer.read_to_end() == (b"", "end")

    run_async(main())


def test_the_peers_data_puts_off_idle(run_async: RunAsync) -> None:
    async def main() -> None:
        async with scene(idle_timeout=10.0) as one:
            for _ in range(5):
                await one.lives_for(9)
                await one.hears()
            await one.ends_within(10, "idle")

    run_async(main())


def test_our_data_does_not_put_off_idle(run_async: RunAsync) -> None:
    async def main() -> None:
        async with scene(idle_timeout=10.0) as one:
            for _ in range(9):
                await one.lives_for(1)
                one.owner.tell(one.gsock, EV_SEND_DATA(b"tick"))
                assert await one.peer.read(4) == b"tick"
            await one.ends_within(1, "idle")

    run_async(main())


def test_frames_put_off_idle_also_half_ones(run_async: RunAsync) -> None:
    async def main() -> None:
        async with scene(idle_timeout=10.0, framing="lines") as one:
            await one.lives_for(9)
            await one.hears(b"half")
            await one.lives_for(9)
            await one.hears(b" a line\n")
            assert [event.data for event in one.owner.of(EV_RX_FRAME)] == [b"half a line"]
            await one.ends_within(10, "idle")

    run_async(main())


@pytest.mark.parametrize("framing", ["", "lines"])
def test_a_pause_does_not_count(framing: str, run_async: RunAsync) -> None:
    async def main() -> None:
        async with scene(idle_timeout=10.0, framing=framing) as one:
            await one.lives_for(4)
            one.owner.tell(one.gsock, EV_PAUSE_RX())
            await one.lives_for(3)
            # Said again it changes nothing.
            one.owner.tell(one.gsock, EV_PAUSE_RX())
            await one.lives_for(1000)
            one.owner.tell(one.gsock, EV_RESUME_RX())
            one.owner.tell(one.gsock, EV_RESUME_RX())
            await one.ends_within(6, "idle")

    run_async(main())


@pytest.mark.parametrize(
    "limits", [{"idle_timeout": 1.0}, {"idle_timeout": 0.0, "min_rx_rate": 100.0}], ids=str
)
def test_frames_that_wait_for_their_turn_are_no_silence(
    limits: dict[str, float], run_async: RunAsync
) -> None:
    async def main() -> None:
        async with scene(framing="lines", **limits) as one:
            # The owner takes its time, and others have their turn in between.
            one.owner.reactions[EV_RX_FRAME] = lambda _: one.clock.jump(0.05)
            count = 4 * FRAMES_AT_ONCE
            await one.peer.send(b"\n" * count)

            def all_told() -> bool:
                one.clock.advance(0.001)
                return len(one.owner.of(EV_RX_FRAME)) == count

            await wait_for(all_told)
            assert not one.owner.ended()
            await one.lives_for(0.5)
            await one.wait(20)
            await one.has_ended()

    run_async(main)


def test_a_short_pause_counts_as_little_as_a_long_one(run_async: RunAsync) -> None:
    async def main() -> None:
        async with scene(idle_timeout=10.0) as one:
            for _ in range(4):
                await one.lives_for(2)
                one.owner.tell(one.gsock, EV_PAUSE_RX())
                await one.lives_for(5)
                one.owner.tell(one.gsock, EV_RESUME_RX())
            await one.ends_within(2, "idle")

    run_async(main())


def test_what_waited_behind_a_pause_counts_from_when_it_is_received(run_async: RunAsync) -> None:
    async def main() -> None:
        async with scene(idle_timeout=10.0) as one:
            await one.lives_for(9)
            one.owner.tell(one.gsock, EV_PAUSE_RX())
            await one.peer.send(b"x")
            await one.lives_for(100)
            one.owner.tell(one.gsock, EV_RESUME_RX())
            await wait_for(lambda: one.gsock.rx_bytes == 1)
            await one.ends_within(10, "idle")

    run_async(main())


def test_tls_that_waited_behind_a_pause_counts_from_then_too(run_async: RunAsync) -> None:
    """It is in our own buffers, so the poller has not seen it: the last batch was long ago."""

    async def main() -> None:
        async with tls_scene(idle_timeout=10.0) as (one, tls):
            one.owner.reactions[EV_RX_DATA] = lambda event: one.owner.send_event(
                event.source, EV_PAUSE_RX()
            )
            await tls.send_raw(tls.seal(b"first") + tls.seal(b"second"))
            await wait_for(lambda: one.owner.received())
            one.owner.reactions.clear()
            await one.lives_for(100)
            one.owner.tell(one.gsock, EV_RESUME_RX())
            await wait_for(lambda: one.owner.received() == b"firstsecond")
            await one.ends_within(10, "idle")

    run_async(main())


def test_nothing_counts_after_the_peers_half_close(run_async: RunAsync) -> None:
    async def main() -> None:
        async with scene(
            idle_timeout=10.0, first_data_timeout=5.0, min_rx_rate=1e6, half_close=True
        ) as one:
            await one.lives_for(4)
            one.peer.end()
            await wait_for(lambda: one.owner.of(EV_RX_END))
            await one.lives_for(10_000)
            one.owner.tell(one.gsock, EV_SEND_DATA(b"at last"))
            assert await one.peer.read(7) == b"at last"
            one.owner.tell(one.gsock, EV_DROP())
            await wait_for(one.owner.ended)
            assert one.owner.reason() == "local"

    run_async(main())


def test_a_half_closed_one_has_a_lifetime_still(run_async: RunAsync) -> None:
    async def main() -> None:
        async with scene(max_lifetime=20.0, half_close=True) as one:
            one.peer.end()
            await wait_for(lambda: one.owner.of(EV_RX_END))
            await one.ends_within(20, "timeout")

    run_async(main())


@BOTH
def test_an_upgrade_to_tls_gives_no_other_lifetime(role: str, run_async: RunAsync) -> None:
    async def main() -> None:
        async with scene(
            role, max_lifetime=20.0, start_tls=True, ssl_options=options_of(role)
        ) as one:
            await one.lives_for(15)
            await upgrade(one, role)
            await one.ends_within(5, "timeout")

    run_async(main())


@BOTH
def test_an_upgrade_that_outlives_its_connection(role: str, run_async: RunAsync) -> None:
    """The handshake has a time of its own; what is over behind it ends."""

    async def main() -> None:
        async with scene(
            role, max_lifetime=20.0, start_tls=True, ssl_options=options_of(role)
        ) as one:
            await one.lives_for(15)
            one.owner.tell(one.gsock, EV_START_TLS())
            await one.lives_for(9)
            await upgrade(one, role, begun=True)
            await one.wait(LATE)
            await one.has_ended()
            assert one.owner.reason() == "timeout"

    run_async(main())


@BOTH
def test_what_came_before_an_upgrade_was_first_data(role: str, run_async: RunAsync) -> None:
    async def main() -> None:
        async with scene(
            role, first_data_timeout=5.0, idle_timeout=60.0, start_tls=True,
            ssl_options=options_of(role),
        ) as one:  # fmt: skip
            await one.lives_for(4)
            await one.hears(b"STARTTLS")
            await upgrade(one, role)
            await one.ends_within(60, "idle")

    run_async(main())


async def upgrade(one: Scene, role: str, *, begun: bool = False) -> None:
    """Both ends go on with TLS, in no time."""
    if not begun:
        one.owner.tell(one.gsock, EV_START_TLS())
    await TlsPeer(one.peer, context_against(role), server_side=role == "client").shake()
    await wait_for(lambda: one.owner.of(EV_TLS_STARTED), "EV_TLS_STARTED")


# -- the first byte --------------------------------------------------------------------------------


@BOTH
def test_first_data(role: str, run_async: RunAsync) -> None:
    async def main() -> None:
        async with scene(role, first_data_timeout=5.0) as one:
            await one.ends_within(5, "idle")

    run_async(main())


def test_one_byte_is_first_data(run_async: RunAsync) -> None:
    async def main() -> None:
        async with scene(first_data_timeout=5.0, idle_timeout=60.0) as one:
            await one.lives_for(4.9)
            await one.hears()
            await one.ends_within(60, "idle")

    run_async(main())


def test_first_data_does_not_count_while_paused(run_async: RunAsync) -> None:
    async def main() -> None:
        async with scene(first_data_timeout=5.0) as one:
            one.owner.tell(one.gsock, EV_PAUSE_RX())
            await one.lives_for(50)
            one.owner.tell(one.gsock, EV_RESUME_RX())
            await one.ends_within(5, "idle")

    run_async(main())


def test_a_client_that_connects_again_has_each_time_anew(run_async: RunAsync) -> None:
    async def main() -> None:
        clock = JumpingClock(1000)
        async with GAplic("app", clock=clock) as app:
            owner = app.create_gobj("owner", Talker, app)
            with listener() as listening:
                gsock = client_of(owner, listening, first_data_timeout=5.0, max_lifetime=20.0)
                for _ in range(2):
                    for talks in (True, False):
                        owner.heard.clear()
                        owner.tell(gsock, EV_CONNECT())
                        with await accept(listening) as peer:
                            await wait_for(lambda: owner.of(EV_CONNECTED))
                            one = Scene(Pair(app, owner, gsock, peer), clock)
                            if talks:
                                await one.lives_for(4)
                                await one.hears()
                                await one.ends_within(16, "timeout")
                            else:
                                await one.ends_within(5, "idle")
                        # Nothing counts while it is away.
                        await one.wait(100)
                        assert len(app.deadlines) == 0
                owner.destroy_gobj(gsock)

    run_async(main())


# -- whatever it does ------------------------------------------------------------------------------


@BOTH
def test_lifetime_ends_who_talks_all_the_time(role: str, run_async: RunAsync) -> None:
    async def main() -> None:
        async with scene(role, max_lifetime=20.0, idle_timeout=5.0) as one:
            for _ in range(19):
                await one.hears(b"hello")
                await one.lives_for(1)
            await one.hears(b"hello")
            await one.ends_within(1, "timeout")
            assert one.owner.received() == b"hello" * 20

    run_async(main())


def test_what_is_queued_is_sent_before_the_end(run_async: RunAsync) -> None:
    async def main() -> None:
        async with scene(max_lifetime=20.0) as one:
            data = bytes(4_000_000)
            await one.lives_for(19.9)
            one.owner.tell(one.gsock, EV_SEND_DATA(data))
            assert one.gsock.queued
            one.clock.advance(0.3)
            assert one.gsock.state == "ST_CLOSING"
            assert await one.peer.read_to_end() == (data, "end")
            await one.has_ended()
            assert one.owner.reason() == "timeout"

    run_async(main())


def test_a_peer_that_does_not_take_it_has_only_the_close_timeout(run_async: RunAsync) -> None:
    async def main() -> None:
        async with scene(idle_timeout=20.0, close_timeout=3.0) as one:
            one.owner.tell(one.gsock, EV_SEND_DATA(bytes(15_000_000)))
            await one.lives_for(22.9)
            await one.wait(0.5)
            await wait_for(one.owner.ended)
            assert one.owner.reason() == "timeout"

    run_async(main())


# -- too slow --------------------------------------------------------------------------------------


def test_a_byte_every_second_does_not_put_off_the_rate(run_async: RunAsync) -> None:
    async def main() -> None:
        async with scene(min_rx_rate=10.0) as one:
            for _ in range(9):
                await one.lives_for(1)
                await one.hears()
            await one.ends_within(1, "timeout")

    run_async(main())


@BOTH
def test_who_sends_enough_on_average_stays(role: str, run_async: RunAsync) -> None:
    async def main() -> None:
        async with scene(role, min_rx_rate=10.0) as one:
            for _ in range(6):
                await one.hears(bytes(100))
                # It may be silent for a while.
                await one.lives_for(9)
                await one.hears(bytes(2))
                await one.lives_for(1.1)
            await one.wait(10.2)
            await wait_for(one.owner.ended)
            assert one.owner.reason() == "timeout"

    run_async(main())


def test_the_rate_does_not_count_while_paused(run_async: RunAsync) -> None:
    async def main() -> None:
        async with scene(min_rx_rate=10.0) as one:
            await one.lives_for(4)
            one.owner.tell(one.gsock, EV_PAUSE_RX())
            await one.lives_for(300)
            one.owner.tell(one.gsock, EV_RESUME_RX())
            await one.ends_within(6, "timeout")

    run_async(main())


def test_pauses_do_not_begin_the_window_anew(run_async: RunAsync) -> None:
    """An owner that pauses with each message must not save who sends one byte in a message."""

    async def main() -> None:
        async with scene(min_rx_rate=10.0) as one:
            for _ in range(9):
                await one.hears()
                one.owner.tell(one.gsock, EV_PAUSE_RX())
                await one.lives_for(1)
                one.owner.tell(one.gsock, EV_RESUME_RX())
                await one.lives_for(1)
            await one.ends_within(1, "timeout")

    run_async(main())


# -- before it is a connection ---------------------------------------------------------------------


@asynccontextmanager
async def tls_scene(**params: Any) -> AsyncIterator[tuple[Scene, TlsPeer]]:
    """A connection with TLS, accepted by a server whose time stands still."""
    clock = JumpingClock(1000)
    async with GAplic("app", clock=clock) as app:
        owner = app.create_gobj("owner", Talker, app)
        options = server_options()
        server = serve(app, subscriber=owner, ssl_options=options, **params)
        with await dial(server) as peer:
            await peer.shake()
            await wait_for(lambda: owner.of(EV_CONNECTED), "EV_CONNECTED")
            found = owner.of(EV_CONNECTED)[0].source
            assert isinstance(found, GSock)
            one = Scene(Pair(app, owner, found, peer), clock)
            yield one, peer
            nothing_is_left(one)


@pytest.mark.parametrize("reason", ["idle", "timeout"])
def test_who_does_not_answer_close_notify_is_not_waited_for(
    reason: str, run_async: RunAsync
) -> None:
    async def main() -> None:
        which = {"idle": "idle_timeout", "timeout": "max_lifetime"}[reason]
        async with tls_scene(**{which: 10.0}) as (one, _):
            await one.ends_within(10, reason)

    run_async(main())


def test_a_handshake_byte_by_byte_has_one_time_for_all(run_async: RunAsync) -> None:
    async def main() -> None:
        clock = JumpingClock(1000)
        async with GAplic("app", clock=clock) as app:
            owner = app.create_gobj("owner", Talker, app)
            options = server_options()
            server = serve(app, subscriber=owner, ssl_options=options, handshake_timeout=5.0)
            with await dial(server) as peer:
                await until(lambda: len(server.ledger) == 1)
                (gsock,) = server.ledger
                one = Scene(Pair(app, owner, gsock, peer), clock)  # type: ignore[arg-type]
                peer.step()
                hello = peer.written()
                for number in range(49):
                    await peer.send_raw(hello[number : number + 1])
                    await one.wait(0.1)
                assert len(server.ledger) == 1
                await one.wait(0.1 + LATE)
                await until(lambda: len(server.ledger) == 0)
                assert server.ledger.failed_handshakes == 1
            assert owner.heard == []
            assert len(app.deadlines) == 0

    run_async(main())


def test_a_client_whose_server_shakes_no_hands(run_async: RunAsync) -> None:
    async def main() -> None:
        clock = JumpingClock(1000)
        async with GAplic("app", clock=clock) as app:
            owner = app.create_gobj("owner", Talker, app)
            with listener() as listening:
                gsock = client_of(
                    owner, listening, ssl_options=client_options(), handshake_timeout=5.0
                )
                owner.tell(gsock, EV_CONNECT())
                with await accept(listening) as peer:
                    await wait_for(lambda: gsock.state == "ST_HANDSHAKE")
                    one = Scene(Pair(app, owner, gsock, peer), clock)
                    await one.wait(4.99)
                    assert owner.heard == []
                    await one.wait(0.01 + LATE)
                    await wait_for(lambda: owner.of(EV_CONNECT_FAILED))
                    assert owner.of(EV_CONNECT_FAILED)[0].reason == "timeout"
                assert len(app.deadlines) == 0

    run_async(main())


PROXY = {"proxy_trusted": ("127.0.0.0/8",), "proxy_timeout": 5.0}


def test_a_proxy_header_byte_by_byte_has_one_time_for_all(run_async: RunAsync) -> None:
    async def main() -> None:
        clock = JumpingClock(1000)
        async with GAplic("app", clock=clock) as app:
            owner = app.create_gobj("owner", Talker, app)
            server = serve(app, subscriber=owner, proxy_protocol="require", **PROXY)
            with connect(server) as client:
                await until(lambda: len(server.ledger) == 1)
                header = b"PROXY TCP4 192.0.2.1 192.0.2.2 4000 80\r\n"
                for number in range(24):
                    client.send(header[number : number + 1])
                    clock.advance(0.2)
                    await turns()
                assert len(server.ledger) == 1
                clock.advance(0.2 + LATE)
                await until(lambda: len(server.ledger) == 0)
            (refused,) = owner.heard
            assert isinstance(refused, EV_REFUSED)
            assert refused.reason == "proxy"
            clock.advance(0.2)
            assert len(app.deadlines) == 0

    run_async(main())


def test_where_no_header_need_come_the_connection_goes_on(run_async: RunAsync) -> None:
    async def main() -> None:
        clock = JumpingClock(1000)
        async with GAplic("app", clock=clock) as app:
            owner = app.create_gobj("owner", Talker, app)
            server = serve(
                app, subscriber=owner, proxy_protocol="accept", idle_timeout=10.0, **PROXY
            )
            with connect(server) as client:
                await until(lambda: len(server.ledger) == 1)
                clock.advance(4.9)
                await turns()
                assert owner.heard == []
                clock.advance(0.1 + LATE)
                await until(lambda: owner.of(EV_CONNECTED))
                (gsock,) = server.ledger
                one = Scene(Pair(app, owner, gsock, Peer(client)), clock)  # type: ignore[arg-type]
                # The time to be silent begins here.
                await one.lives_for(9.5)
                await one.wait(0.5 + LATE)
                await until(owner.ended)
                assert owner.reason() == "idle"

    run_async(main())


# -- changed while it lives ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "reason", "seconds"),
    [
        ("idle_timeout", 30.0, "idle", 30),
        ("first_data_timeout", 30.0, "idle", 30),
        ("max_lifetime", 30.0, "timeout", 30),
        ("min_rx_rate", 30.0, "timeout", 10),
    ],
)
def test_each_can_be_set_on_a_connection_that_had_none(
    name: str, value: float, reason: str, seconds: float, run_async: RunAsync
) -> None:
    async def main() -> None:
        async with scene(idle_timeout=0.0) as one:
            await one.lives_for(5)
            assert len(one.app.deadlines) == 0
            one.gsock.write_parameters(**{name: value})
            await one.ends_within(seconds - 5, reason)

    run_async(main())


def test_one_that_has_passed_already_acts_at_once(run_async: RunAsync) -> None:
    async def main() -> None:
        async with scene() as one:
            await one.lives_for(100)
            one.gsock.write_parameters(idle_timeout=50.0)
            await one.wait(LATE)
            await wait_for(one.owner.ended)
            assert one.owner.reason() == "idle"

    run_async(main())


def test_it_can_be_put_off_and_taken_away(run_async: RunAsync) -> None:
    async def main() -> None:
        async with scene(idle_timeout=10.0) as one:
            await one.lives_for(9)
            one.gsock.write_parameters(idle_timeout=20.0)
            await one.lives_for(10)
            one.gsock.write_parameters(idle_timeout=0.0)
            await one.lives_for(1000)
            one.gsock.write_parameters(idle_timeout=1020.0)
            await one.ends_within(1, "idle")

    run_async(main())


def test_the_server_hands_new_ones_to_new_connections_only(run_async: RunAsync) -> None:
    async def main() -> None:
        clock = JumpingClock(1000)
        async with GAplic("app", clock=clock) as app:
            keeper = app.create_gobj("keeper", Keeper, app)
            server = serve(app, subscriber=keeper)
            with connect(server), ExitStack() as stack:
                await until(lambda: len(keeper.gsocks) == 1)
                server.write_parameters(idle_timeout=10.0)
                stack.enter_context(connect(server))
                await until(lambda: len(keeper.gsocks) == 2)
                old = keeper.gsocks[0]
                clock.advance(10 + LATE)
                await until(lambda: len(keeper.gsocks) == 1)
                assert keeper.gsocks == [old]

    run_async(main())


def test_a_gsock_without_a_connection_takes_new_ones(run_async: RunAsync) -> None:
    async def main() -> None:
        clock = JumpingClock(1000)
        async with GAplic("app", clock=clock) as app:
            owner = app.create_gobj("owner", Talker, app)
            gsock = owner.create_gobj("client", GSock, owner, host="127.0.0.1", port=1)
            gsock.write_parameters(idle_timeout=1.0)
            assert len(app.deadlines) == 0
            owner.destroy_gobj(gsock)

    run_async(main())


# -- a clock that jumps ----------------------------------------------------------------------------


def test_after_a_year_of_sleep_the_silent_go_and_those_who_spoke_meanwhile_stay(
    run_async: RunAsync,
) -> None:
    async def main() -> None:
        clock = JumpingClock(1000)
        async with GAplic("app", clock=clock) as app:
            keeper = app.create_gobj("keeper", Keeper, app)
            server = serve(app, subscriber=keeper, idle_timeout=60.0)
            with connect(server) as silent, connect(server) as lively:
                await until(lambda: len(keeper.gsocks) == 2)
                await until(lambda: len(keeper.of(EV_CONNECTED)) == 2)
                clock.advance(1)
                # Sent while nobody could receive it; the sweep comes before the poller.
                lively.send(b"I was here")
                clock.jump(365 * 86_400.0)
                clock.advance(0)
                await until(lambda: keeper.of(EV_RX_DATA))
                clock.advance(0.2)
                await until(lambda: keeper.of(EV_DISCONNECTED))
                (gone,) = keeper.of(EV_DISCONNECTED)
                assert gone.reason == "idle"
                (left,) = keeper.gsocks
                assert left.peername == lively.getsockname()
                clock.advance(59)
                await turns()
                assert keeper.gsocks == [left]
                clock.advance(1 + LATE)
                await until(lambda: not keeper.gsocks)
                assert silent.recv(10) == b""

    run_async(main())


# -- what is held ----------------------------------------------------------------------------------


def test_those_who_have_gone_are_not_held(run_async: RunAsync) -> None:
    async def main() -> None:
        clock = JumpingClock(1000)
        async with GAplic("app", clock=clock) as app:
            keeper = app.create_gobj("keeper", Keeper, app)
            server = serve(app, subscriber=keeper)
            gone = []
            for number in range(30):
                with connect(server) as client:
                    await until(lambda: keeper.gsocks)
                    (gsock,) = keeper.gsocks
                    gone.append(weakref.ref(gsock))
                    if number % 3 == 0:
                        # Some are placed already, others have only just come.
                        clock.advance(0.2)
                    if number % 2:
                        keeper.destroy_gobj(gsock)
                    else:
                        client.close()
                    del gsock
                    await until(lambda: not keeper.gsocks)
            keeper.heard.clear()
            clock.advance(0.2)
            assert len(app.deadlines) == 0
            gc.collect()
            assert [one for one in gone if one() is not None] == []

    run_async(main())


# -- by the loop's own clock -----------------------------------------------------------------------


class Lag:
    """How long the loop does not come round, at most."""

    def __init__(self) -> None:
        self.worst = 0.0

    async def __aenter__(self) -> "Lag":
        self._task = asyncio.create_task(self._measure())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()

    async def _measure(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            before = loop.time()
            await asyncio.sleep(0.005)
            self.worst = max(self.worst, loop.time() - before - 0.005)


@pytest.mark.parametrize(
    ("parameter", "reason"),
    [("idle_timeout", "idle"), ("first_data_timeout", "idle"), ("max_lifetime", "timeout")],
)
def test_each_comes_at_its_time(parameter: str, reason: str, run_async: RunAsync) -> None:
    class Timed(GObj):
        def start_up(self) -> None:
            self.began: dict[GObj, float] = {}
            self.lasted: list[tuple[float, str]] = []

        def ac_connected(self, event: EV_CONNECTED) -> None:
            self.began[event.source] = self.gaplic.time()

        def ac_gone(self, event: EV_DISCONNECTED) -> None:
            lasted = self.gaplic.time() - self.began.pop(event.source)
            self.lasted.append((lasted, event.reason))
            self.destroy_gobj(event.source)

        machine = {
            "ST_IDLE": [on(EV_CONNECTED, ac_connected), on(EV_DISCONNECTED, ac_gone)],
        }

    async def main() -> None:
        async with GAplic("app") as app, Lag() as lag:
            timed = app.create_gobj("timed", Timed, app)
            server = serve(app, subscriber=timed, **{parameter: 0.5})
            with ExitStack() as stack:
                for _ in range(20):
                    stack.enter_context(connect(server))
                    await asyncio.sleep(0.013)
                await until(lambda: len(timed.lasted) == 20)
            assert {reason for _, reason in timed.lasted} == {reason}
            # EV_CONNECTED comes a moment after the time has begun.
            assert min(lasted for lasted, _ in timed.lasted) > 0.49
            assert max(lasted for lasted, _ in timed.lasted) < 0.5 + LATE + lag.worst
            assert len(app.deadlines) == 0

    run_async(main())


def test_two_thousand_that_expire_together(run_async: RunAsync) -> None:
    async def main() -> None:
        count = 2000
        async with GAplic("app") as app:
            keeper = app.create_gobj("keeper", Keeper, app)
            server = serve(app, subscriber=keeper)
            with ExitStack() as stack:
                for number in range(count):
                    stack.enter_context(connect(server))
                    if number % 50 == 49:
                        await asyncio.sleep(0)
                await until(lambda: len(keeper.of(EV_CONNECTED)) == count)
                await until(lambda: len(app.deadlines) == count)
                loop = asyncio.get_running_loop()
                ended = [0]
                most = [0]

                def each_turn() -> None:
                    now = count - len(server.ledger)
                    most[0] = max(most[0], now - ended[0])
                    ended[0] = now
                    if now < count:
                        loop.call_soon(each_turn)

                for gsock in keeper.gsocks:
                    gsock.write_parameters(idle_timeout=0.01)
                each_turn()
                began = loop.time()
                await until(lambda: not keeper.gsocks)
                assert loop.time() - began < 5
            assert most[0] <= SLICE
            gone = keeper.of(EV_DISCONNECTED)
            assert len(gone) == count
            assert {event.reason for event in gone} == {"idle"}
            assert len(app.deadlines) == 0

    run_async(main(), timeout=40)
