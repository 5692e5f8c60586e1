"""GSock under every order of events: whatever happens, no byte is lost, doubled or out of order.

Hypothesis writes a script of what the peer and the owner do, with turns of the loop between them or
none, and how it ends. The connection is a real one, over loopback; what the kernel held when it
ended is asked of the kernel.
"""

import asyncio
import fcntl
import random
import struct
import termios
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from conftest import RunAsync
from ginsfsm import NOT_ACCEPTED
from ginsfsm.c_sock import (
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
)
from sockets import Owner, Pair, pair, turns, wait_for

PATTERN = random.Random(0).randbytes(1 << 20) * 4
"""Bytes that tell where they stand; each direction sends its beginning."""

bounded = settings(
    max_examples=20,
    deadline=None,
    # A failure that is a deadline takes seconds each time; do not try for ever.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    # run_async makes a new loop for each call, so the examples share nothing.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

pollers = pytest.mark.parametrize("poller", ["epoll", "loop"])


class Step(NamedTuple):
    who: str
    what: str
    count: int


sizes = st.one_of(
    st.integers(1, 20), st.sampled_from([1000, 65_535, 65_536, 65_537, 200_000, 700_000])
)

steps = st.one_of(
    st.builds(Step, st.just("peer"), st.just("send"), sizes),
    st.builds(Step, st.just("peer"), st.just("read"), sizes),
    st.builds(Step, st.just("owner"), st.sampled_from(["send", "write"]), sizes),
    st.builds(Step, st.just("owner"), st.sampled_from(["flush", "pause", "resume"]), st.just(0)),
    st.builds(Step, st.just("loop"), st.just("turn"), st.integers(1, 4)),
)

endings = st.sampled_from(
    ["end", "end and close", "close", "reset", "drop", "abort", "drop and end", "reset and drop"]
)


class Script:
    """Runs the steps, and knows what each side has sent and must get."""

    def __init__(self, both: Pair) -> None:
        self.owner: Owner = both.owner
        self.gsock: GSock = both.gsock
        self.peer = both.peer
        self.from_peer = 0
        self.to_peer = 0
        self.read = bytearray()
        self.least = 0
        """Bytes that had been received when the connection ended; they must be delivered."""

    async def step(self, step: Step) -> None:
        count = step.count
        match step.what if step.who != "owner" else f"owner {step.what}":
            case "send":
                data = PATTERN[self.from_peer : self.from_peer + count]
                self.from_peer += self.peer.send_now(data)
            case "read":
                try:
                    self.read += self.peer.sock.recv(count)
                except BlockingIOError:
                    pass
            case "turn":
                await turns(count)
            case "owner send":
                self.tell_data(EV_SEND_DATA, count)
            case "owner write":
                self.tell_data(EV_WRITE_OUTPUT_DATA, count)
            case "owner flush":
                self.owner.tell(self.gsock, EV_FLUSH_OUTPUT_DATA())
            case "owner pause":
                self.owner.tell(self.gsock, EV_PAUSE_RX())
            case "owner resume":
                self.owner.tell(self.gsock, EV_RESUME_RX())

    def tell_data(self, kind: type[EV_SEND_DATA] | type[EV_WRITE_OUTPUT_DATA], count: int) -> None:
        data = PATTERN[self.to_peer : self.to_peer + count]
        if self.owner.tell(self.gsock, kind(data)) is True:
            self.to_peer += count

    def received(self) -> int:
        """Bytes delivered, and those that lie in the kernel."""
        held = 0
        if self.gsock._sock is not None:
            answer = fcntl.ioctl(self.gsock._sock.fileno(), termios.FIONREAD, bytes(4))
            (held,) = struct.unpack("i", answer)
        return len(self.owner.received()) + held

    def end(self, how: str) -> None:
        if "drop" not in how and "abort" not in how:
            self.least = self.received()
        match how:
            case "end":
                self.peer.end()
            case "end and close":
                self.peer.end()
                self.peer.close()
            case "close":
                self.peer.close()
            case "reset":
                self.peer.reset()
            case "drop":
                self.owner.tell(self.gsock, EV_DROP())
            case "abort":
                self.owner.tell(self.gsock, EV_DROP(abort=True))
            case "drop and end":
                self.owner.tell(self.gsock, EV_DROP())
                self.peer.end()
            case "reset and drop":
                self.peer.reset()
                self.owner.tell(self.gsock, EV_DROP())
        if self.gsock.state == "ST_CONNECTED":
            self.owner.tell(self.gsock, EV_RESUME_RX())


@pollers
@pytest.mark.parametrize("role", ["client", "accepted"])
@bounded
@given(
    script=st.lists(steps, max_size=14),
    ending=endings,
    half_close=st.booleans(),
)
@example([Step("peer", "send", 700_000)], "reset", False)
@example([Step("owner", "write", 1000), Step("peer", "send", 65_537)], "end", False)
@example([Step("owner", "send", 700_000), Step("owner", "pause", 0)], "reset", False)
def test_every_byte_received_before_the_end_is_delivered_once_in_order_before_it(
    run_async: RunAsync,
    poller: str,
    role: str,
    script: list[Step],
    ending: str,
    half_close: bool,
) -> None:
    async def work() -> None:
        async with pair(role, poller, half_close=half_close, rcvbuf=30_000) as both:
            owner, gsock, peer = both.owner, both.gsock, both.peer
            run = Script(both)
            for step in script:
                await run.step(step)
            flushed = run.to_peer
            run.end(ending)
            rest, how = b"", ""
            if half_close and ending in ("end", "end and close", "close"):
                # The connection stays open for sending until we drop it, unless it was reset.
                await wait_for(lambda: owner.of(EV_RX_END) or owner.ended())
                assert ending != "end" or not owner.ended()
                owner.tell(gsock, EV_DROP())
            if peer.sock.fileno() >= 0:
                rest, how = await peer.read_to_end()
                peer.close()
            await wait_for(owner.ended)
            await turns()

            received = owner.received()
            assert received == PATTERN[: len(received)]
            assert run.least <= len(received) <= run.from_peer
            if ending == "end":
                assert len(received) == run.from_peer
            sent = bytes(run.read) + rest
            assert sent == PATTERN[: len(sent)]
            if ending in ("end", "drop", "drop and end"):
                assert (len(sent), how) == (flushed, "end")
                expected = "local" if "drop" in ending or half_close else "peer"
                assert owner.reason() == expected
            if ending == "reset":
                assert owner.reason() == "reset"
            kinds = [type(event) for event in owner.heard]
            assert kinds.count(EV_CONNECTED) == kinds.count(EV_DISCONNECTED) == 1
            assert kinds[0] is EV_CONNECTED
            assert kinds[-1] is EV_DISCONNECTED
            assert kinds.count(EV_RX_END) <= half_close
            assert EV_TRANSMIT_READY not in kinds or flushed > 256 * 1024
            if EV_RX_END in kinds:
                assert EV_RX_DATA not in kinds[kinds.index(EV_RX_END) :]

    run_async(work)


@pollers
@bounded
@given(
    chunks=st.lists(sizes, min_size=1, max_size=8),
    sends=st.lists(sizes, min_size=1, max_size=4),
    early=st.integers(0, 5),
)
def test_what_lies_in_the_kernel_is_delivered_where_the_send_fails_first(
    run_async: RunAsync,
    poller: str,
    chunks: list[int],
    sends: list[int],
    early: int,
) -> None:
    """The peer sends and resets; before the loop turns we send, and the kernel says EPIPE."""

    async def work() -> None:
        async with pair("accepted", poller, half_close=True) as both:
            owner, gsock, peer = both.owner, both.gsock, both.peer
            run = Script(both)
            for chunk in chunks:
                await run.step(Step("peer", "send", chunk))
                await turns(early if chunk < 1000 else 0)
            least = run.received()
            peer.reset()
            for size in sends:
                assert owner.tell(gsock, EV_SEND_DATA(bytes(size))) is NOT_ACCEPTED
                owner.tell(gsock, EV_WRITE_OUTPUT_DATA(b"x"))
                owner.tell(gsock, EV_FLUSH_OUTPUT_DATA())
            assert not owner.ended()
            await wait_for(owner.ended)
            received = owner.received()
            assert received == PATTERN[: len(received)]
            assert least <= len(received) <= run.from_peer
            assert owner.reason() == "reset"
            assert not owner.of(EV_RX_END)

    run_async(work)


@pollers
@bounded
@given(
    script=st.lists(
        st.one_of(
            st.builds(Step, st.just("owner"), st.sampled_from(["send", "write"]), sizes),
            st.builds(Step, st.just("owner"), st.just("flush"), st.just(0)),
            st.builds(Step, st.just("peer"), st.just("read"), sizes),
            st.builds(Step, st.just("loop"), st.just("turn"), st.integers(1, 4)),
        ),
        max_size=30,
    )
)
def test_sends_writes_and_flushes_keep_their_order(
    run_async: RunAsync, poller: str, script: list[Step]
) -> None:
    async def work() -> None:
        async with pair("client", poller, rcvbuf=10_000, tx_max=1 << 30) as both:
            run = Script(both)
            for step in script:
                if run.to_peer + step.count < len(PATTERN):
                    await run.step(step)
            both.owner.tell(both.gsock, EV_DROP())
            rest, how = await both.peer.read_to_end()
            assert how == "end"
            assert run.read + rest == PATTERN[: run.to_peer]
            both.peer.close()
            await wait_for(both.owner.ended)
            assert both.owner.reason() == "local"

    run_async(work)


@pollers
@bounded
@given(data=st.lists(sizes, max_size=6), mess=st.lists(steps, max_size=6), at=st.integers(0, 6))
def test_a_destroyed_gsock_says_nothing_and_leaves_nothing(
    run_async: RunAsync, poller: str, data: list[int], mess: list[Step], at: int
) -> None:
    async def work() -> None:
        async with pair("accepted", poller) as both:
            run = Script(both)
            for number, size in enumerate(data):
                await run.step(Step("peer", "send", size))
                if number == at:
                    both.peer.reset()
                    break
            for step in mess:
                if step.who == "owner" or (step.who == "peer" and both.peer.sock.fileno() < 0):
                    continue
                await run.step(step)
            heard = len(both.owner.heard)
            was_open = both.gsock._sock is not None
            both.owner.destroy_gobj(both.gsock)
            await asyncio.sleep(0)
            await turns()
            assert len(both.owner.heard) == heard
            assert both.owner.ended() is not was_open
            assert len(both.app.poller) == 1

    run_async(work)
