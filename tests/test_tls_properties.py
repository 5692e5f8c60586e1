"""GSock with TLS under every order of events; see `test_c_sock_properties` for the plain one.

The peer's records go to the wire in any pieces. In TLS 1.3 it writes them itself, so that key
updates come between them as well.
"""

import asyncio
import random
from contextlib import suppress
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from conftest import RunAsync
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
)
from secure import V12, V13, Forger, SecretLog, TlsPair, context_against, tls_pair
from sockets import turns, wait_for

PATTERN = random.Random(0).randbytes(1 << 20) * 4
"""Bytes that tell where they stand; each direction sends its beginning."""

RECORD = 16_384

BROKEN = b"\x17\x03\x03\0\x30" + bytes(48)

bounded = settings(
    max_examples=12,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


class Step(NamedTuple):
    who: str
    what: str
    count: int = 0


sizes = st.one_of(
    st.integers(1, 20), st.sampled_from([1000, 16_383, 16_384, 16_385, 65_537, 200_000, 700_000])
)
pieces = st.one_of(st.integers(1, 40), st.sampled_from([1000, 16_406, 65_536, 300_000]))

steps = st.one_of(
    st.builds(Step, st.just("peer"), st.just("send"), sizes),
    st.builds(Step, st.just("peer"), st.just("push"), pieces),
    st.builds(Step, st.just("peer"), st.just("read"), pieces),
    st.builds(Step, st.just("peer"), st.just("update"), st.integers(0, 1)),
    st.builds(Step, st.just("owner"), st.sampled_from(["send", "write"]), sizes),
    st.builds(Step, st.just("owner"), st.sampled_from(["flush", "pause", "resume"])),
    st.builds(Step, st.just("loop"), st.just("turn"), st.integers(1, 4)),
)

ENDINGS = [
    "goodbye", "goodbye and close", "truncate", "cut", "broken", "reset",
    "drop", "abort", "drop and goodbye", "drop and truncate", "reset and drop",
]  # fmt: skip


class Script:
    """Runs the steps, and knows what each side has sent and must get."""

    def __init__(self, both: TlsPair, forger: Forger | None) -> None:
        self.owner = both.owner
        self.gsock = both.gsock
        self.peer = both.peer
        self.forger = forger
        self.wire = bytearray()
        """The peer's records that its kernel has not taken yet."""
        self.from_peer = 0
        self.to_peer = 0

    def seal(self, data: bytes) -> bytes:
        if self.forger is None:
            return self.peer.seal(data)
        forger = self.forger
        return b"".join(forger.data(data[at : at + RECORD]) for at in range(0, len(data), RECORD))

    def goodbye(self) -> bytes:
        return self.peer.goodbye() if self.forger is None else self.forger.close_notify()

    async def step(self, step: Step) -> None:
        count = step.count
        match step.who, step.what:
            case "peer", "send":
                self.wire += self.seal(PATTERN[self.from_peer : self.from_peer + count])
                self.from_peer += count
            case "peer", "push":
                with suppress(BlockingIOError):
                    del self.wire[: self.peer.sock.send(self.wire[:count])]
            case "peer", "read":
                with suppress(BlockingIOError):
                    self.peer._incoming.write(self.peer.sock.recv(count))
                    self.peer.pending += self.peer.opened()
            case "peer", "update":
                if self.forger is not None:
                    self.wire += self.forger.key_update(request=bool(count))
            case "loop", _:
                await turns(count)
            case "owner", "send" | "write":
                kind = EV_SEND_DATA if step.what == "send" else EV_WRITE_OUTPUT_DATA
                data = PATTERN[self.to_peer : self.to_peer + count]
                if self.owner.tell(self.gsock, kind(data)) is True:
                    self.to_peer += count
            case "owner", "flush":
                self.owner.tell(self.gsock, EV_FLUSH_OUTPUT_DATA())
            case "owner", "pause":
                self.owner.tell(self.gsock, EV_PAUSE_RX())
            case "owner", "resume":
                self.owner.tell(self.gsock, EV_RESUME_RX())

    def end(self, how: str) -> None:
        match how.split()[0]:
            case "drop":
                self.owner.tell(self.gsock, EV_DROP())
            case "abort":
                self.owner.tell(self.gsock, EV_DROP(abort=True))
            case "reset":
                self.peer.reset()
        if how == "reset and drop":
            self.owner.tell(self.gsock, EV_DROP())
        if "goodbye" in how:
            self.wire += self.goodbye()
        elif how == "broken":
            self.wire += BROKEN
        elif how == "cut":
            self.wire += self.seal(b"never complete")[:-3]
        if self.gsock.state == "ST_CONNECTED":
            self.owner.tell(self.gsock, EV_RESUME_RX())

    async def finish(self, how: str) -> tuple[bytes, str]:
        """Both directions to their end."""

        async def write() -> None:
            with suppress(ConnectionError):
                await self.peer.send_raw(bytes(self.wire))
            if how in ("truncate", "cut", "goodbye and close", "drop and truncate"):
                with suppress(OSError):
                    self.peer.truncate()

        if self.peer.sock.fileno() < 0:
            return bytes(self.peer.pending), "reset"
        found, _ = await asyncio.gather(self.peer.read_to_end(), write())
        if how == "drop":
            # Not closed: what it has not read would make that a reset.
            self.peer.truncate()
        return found


@pytest.mark.parametrize("poller", ["epoll", "loop"])
@pytest.mark.parametrize("role", ["client", "accepted"])
@pytest.mark.parametrize("version", [V12, V13], ids=lambda one: one.name)
@bounded
@given(
    script=st.lists(steps, max_size=16),
    ending=st.sampled_from(ENDINGS),
    half_close=st.booleans(),
)
@example([Step("peer", "send", 700_000)], "broken", False)
@example([Step("owner", "send", 700_000), Step("owner", "pause")], "goodbye", False)
@example([Step("peer", "send", 20), Step("owner", "send", 700_000)], "drop and goodbye", True)
def test_every_byte_before_the_end_is_delivered_once_in_order_before_it(
    run_async: RunAsync,
    poller: str,
    role: str,
    version: object,
    script: list[Step],
    ending: str,
    half_close: bool,
) -> None:
    async def work() -> None:
        context = context_against(role, V13 if version is V13 else V12)
        log = SecretLog(context)
        if role == "client":
            context.num_tickets = 0
        async with tls_pair(
            role, poller, context=context, half_close=half_close, rcvbuf=30_000
        ) as both:
            owner, gsock = both.owner, both.gsock
            run = Script(both, Forger(both.peer.tls, log) if version is V13 else None)
            for step in script:
                await run.step(step)
            run.end(ending)
            flushed = run.to_peer
            if half_close and ending.startswith("goodbye"):
                # The connection stays open for sending until we drop it.
                async def drop() -> None:
                    await wait_for(lambda: owner.of(EV_RX_END) or owner.ended())
                    owner.tell(gsock, EV_DROP())

                (sent, how), _ = await asyncio.gather(run.finish(ending), drop())
            else:
                sent, how = await run.finish(ending)
            await wait_for(owner.ended)
            await turns()

            received = owner.received()
            assert received == PATTERN[: len(received)]
            if ending in ("goodbye", "goodbye and close", "truncate", "cut", "broken"):
                assert len(received) == run.from_peer
            assert sent == PATTERN[: len(sent)]
            if ending in ("goodbye", "goodbye and close", "drop and goodbye", "drop"):
                assert (len(sent), how) == (flushed, "end")
            expected = {
                "goodbye": "local" if half_close else "peer",
                "goodbye and close": "local" if half_close else "peer",
                "truncate": "tls_truncated",
                "cut": "tls_truncated",
                "broken": "tls",
                "drop": "local",
                "drop and goodbye": "local",
                "abort": "local",
                "reset": "reset",
            }
            assert owner.reason() == expected.get(ending, owner.reason())
            kinds = [type(event) for event in owner.heard]
            assert kinds.count(EV_CONNECTED) == kinds.count(EV_DISCONNECTED) == 1
            assert kinds[0] is EV_CONNECTED
            assert kinds[-1] is EV_DISCONNECTED
            assert kinds.count(EV_RX_END) <= half_close
            assert EV_TRANSMIT_READY not in kinds or flushed > 256 * 1024
            if EV_RX_END in kinds:
                assert EV_RX_DATA not in kinds[kinds.index(EV_RX_END) :]
            assert both.app.contained_errors == 0

    run_async(work)
