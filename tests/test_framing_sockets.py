"""Framing on real connections: both ends, both directions, pauses, ends, limits, and TLS.

What each kind takes and refuses, however it was cut, is in `net/test_framing.py`.
"""

import logging
import re
from collections.abc import Callable
from typing import Any

import pytest

import secure
import sockets
from conftest import RunAsync
from ginsfsm import EventError, GAplic, GConfigError, on
from ginsfsm.c_sock import (
    EV_CONNECT,
    EV_CONNECTED,
    EV_DISCONNECTED,
    EV_DROP,
    EV_PAUSE_RX,
    EV_RESUME_RX,
    EV_RX_DATA,
    EV_RX_FRAME,
    EV_SEND_DATA,
    EV_SEND_FRAME,
    EV_START_TLS,
    EV_TLS_STARTED,
    GSock,
)
from ginsfsm.c_srv_sock import GServerSock
from ginsfsm.gconfig import Text
from ginsfsm.net.framing import FrameError
from ginsfsm.net.tls_stream import SLICE
from ginsfsm.smachine import NOT_ACCEPTED
from ginsfsm.sock.receiving import FRAMES_AT_ONCE
from secure import ROLES, TlsPeer, context_against, options_of, plain_pair, tls_pair
from sockets import Owner, gaplic, listener, pair, turns, wait_for


class FrameOwner(secure.SecureOwner):
    """Keeps frames as well."""

    machine = {"ST_IDLE": [*secure.SecureOwner.machine["ST_IDLE"], on(EV_RX_FRAME, Owner.ac_keep)]}

    @property
    def frames(self) -> list[bytes]:
        return [event.data for event in self.of(EV_RX_FRAME)]


@pytest.fixture(autouse=True)
def frame_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pairs of `sockets` and `secure` are made with it."""

    def make(app: Any, name: str = "owner") -> FrameOwner:
        return app.create_gobj(name, FrameOwner, app)  # type: ignore[no-any-return]

    monkeypatch.setattr(sockets, "make_owner", make)
    monkeypatch.setattr(secure, "make_secure_owner", make)


class Upper:
    """A user's own: frames end at a bang, and shout."""

    def __init__(self, max_frame: int) -> None:
        self.max_frame = max_frame
        self.held = b""

    def split(self, data: bytes) -> list[bytes]:
        *frames, self.held = (self.held + data).split(b"!")
        if b"?" in data:
            raise ZeroDivisionError("its own fault")
        return [frame.upper() for frame in frames]

    def wrap(self, frame: bytes) -> bytes:
        if b"!" in frame:
            raise FrameError("no bang in a frame")
        return frame + b"!"

    def rest(self) -> bytes:
        held, self.held = self.held, b""
        return held


class Explosive(Upper):
    """One that cannot be made."""

    def __init__(self, max_frame: int) -> None:
        raise ZeroDivisionError("its own fault")


KINDS: dict[str, tuple[Any, list[bytes], bytes]] = {
    "lines": ("lines", [b"one", b"", b"three"], b"one\n\nthree\n"),
    "crlf": ("crlf", [b"one", b"t\nwo", b""], b"one\r\nt\nwo\r\n\r\n"),
    "delimiter": (b"\0\0", [b"one", b"t\0wo"], b"one\0\0t\0wo\0\0"),
    "uint8": ("uint8", [b"one", b"", b"x" * 255], b"\3one\0\xff" + b"x" * 255),
    "uint16": ("uint16", [b"one", b""], b"\0\3one\0\0"),
    "uint32": ("uint32", [b"one", b""], b"\0\0\0\3one\0\0\0\0"),
    "uint64": ("uint64", [b"one"], b"\0\0\0\0\0\0\0\3one"),
    "uint16le": ("uint16le", [b"one", b""], b"\3\0one\0\0"),
    "uint32le": ("uint32le", [b"one"], b"\3\0\0\0one"),
    "uint64le": ("uint64le", [b"one"], b"\3\0\0\0\0\0\0\0one"),
    "netstrings": ("netstrings", [b"one", b"", b"three"], b"3:one,0:,5:three,"),
    "fixed": (4, [b"1234", b"abcd"], b"1234abcd"),
    "own": (Upper, [b"ONE", b"TWO"], b"ONE!TWO!"),
}

both_ends = pytest.mark.parametrize("role", ROLES)


def frames(owner: Owner) -> list[bytes]:
    assert isinstance(owner, FrameOwner)
    return owner.frames


class TestKinds:
    @both_ends
    @pytest.mark.parametrize("name", KINDS)
    def test_both_directions(self, name: str, role: str, run_async: RunAsync) -> None:
        framing, expected, wire = KINDS[name]

        async def main() -> None:
            async with pair(role, framing=framing) as (_, owner, gsock, peer):
                await peer.send(wire)
                await wait_for(lambda: len(frames(owner)) == len(expected))
                assert frames(owner) == expected
                assert gsock.rx_bytes == len(wire)
                for frame in expected:
                    assert owner.tell(gsock, EV_SEND_FRAME(frame)) is True
                assert await peer.read(len(wire)) == wire
                assert owner.of(EV_RX_DATA) == []

        run_async(main)

    @pytest.mark.parametrize("poller", sockets.POLLERS)
    @pytest.mark.parametrize("name", KINDS)
    def test_a_byte_at_a_time(self, name: str, poller: str, run_async: RunAsync) -> None:
        framing, expected, wire = KINDS[name]

        async def main() -> None:
            async with pair("accepted", poller, framing=framing) as (_, owner, gsock, peer):
                for number, byte in enumerate(wire[:40], 1):
                    await peer.send(bytes([byte]))
                    await wait_for(lambda number=number: gsock.rx_bytes == number)
                await peer.send(wire[40:])
                await wait_for(lambda: len(frames(owner)) == len(expected))
                assert frames(owner) == expected

        run_async(main)

    def test_what_is_not_framed_can_still_be_sent(self, run_async: RunAsync) -> None:
        async def main() -> None:
            async with pair(framing="lines") as (_, owner, gsock, peer):
                owner.tell(gsock, EV_SEND_DATA(b"raw "))
                owner.tell(gsock, EV_SEND_FRAME(b"and framed"))
                assert await peer.read(15) == b"raw and framed\n"

        run_async(main)

    @both_ends
    def test_large_frames_both_ways(self, role: str, run_async: RunAsync) -> None:
        async def main() -> None:
            limit = {"framing": "uint32", "max_frame": 4 << 20}
            async with pair(role, rcvbuf=8192, **limit) as (_, owner, gsock, peer):
                data = bytes(range(256)) * (16 << 10)
                wire = len(data).to_bytes(4, "big") + data
                owner.tell(gsock, EV_SEND_FRAME(data))
                assert await peer.read(len(wire)) == wire
                await peer.send(wire)
                await wait_for(lambda: frames(owner))
                assert frames(owner) == [data]

        run_async(main)

    def test_part_of_a_frame_at_the_end_is_none(self, run_async: RunAsync) -> None:
        async def main() -> None:
            async with pair(framing="lines") as (_, owner, _gsock, peer):
                await peer.send(b"whole\npart")
                peer.end()
                await wait_for(owner.ended)
                assert frames(owner) == [b"whole"]
                assert owner.reason() == "peer"

        run_async(main)

    def test_a_client_that_connects_again_begins_anew(self, run_async: RunAsync) -> None:
        async def main() -> None:
            async with gaplic() as app:
                owner = sockets.make_owner(app)
                with listener() as listening:
                    gsock = sockets.client_of(owner, listening, framing="lines")
                    for number in (1, 2):
                        owner.tell(gsock, EV_CONNECT())
                        with await sockets.accept(listening) as peer:
                            await peer.send(b"whole\npart")
                            peer.end()
                            await wait_for(
                                lambda number=number: len(owner.of(EV_DISCONNECTED)) == number
                            )
                assert frames(owner) == [b"whole", b"whole"]

        run_async(main)

    @pytest.mark.parametrize("said", [Text("7"), 7, "7"], ids=["--set", "TOML", "TOML text"])
    def test_a_fixed_size_from_settings(self, said: object, run_async: RunAsync) -> None:
        async def main() -> None:
            app = GAplic("app", {"server": {"framing": said}})
            owner = sockets.make_owner(app)
            server = app.create_gobj("server", GServerSock, app, host="127.0.0.1", subscriber=owner)
            assert server.config.framing == 7
            async with app:
                with await secure.dial_raw(server) as peer:
                    await peer.send(b"1234567abcdefg123")
                    await wait_for(lambda: len(frames(owner)) == 2)
                    assert frames(owner) == [b"1234567", b"abcdefg"]

        run_async(main)

    def test_one_written_while_it_runs_holds_for_the_next(self, run_async: RunAsync) -> None:
        async def main() -> None:
            async with gaplic() as app:
                owner = sockets.make_owner(app)
                server = app.create_gobj(
                    "server", GServerSock, app, host="127.0.0.1", subscriber=owner, framing="lines"
                )
                with await secure.dial_raw(server) as old:
                    await wait_for(lambda: len(server.ledger) == 1)
                    server.write_parameters(framing="netstrings")
                    with await secure.dial_raw(server) as new:
                        await wait_for(lambda: len(server.ledger) == 2)
                        await old.send(b"3:old,\n")
                        await new.send(b"3:new,")
                        await wait_for(lambda: len(frames(owner)) == 2)
                        assert sorted(frames(owner)) == [b"3:old,", b"new"]

        run_async(main)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("framing", "netstrings"),
            ("max_frame", 5),
            ("proxy_protocol", "off"),
            ("proxy_trusted", ("127.0.0.1",)),
            ("proxy_timeout", 1.0),
        ],
    )
    def test_written_to_an_open_connection_of_a_server_it_is_refused(
        self, name: str, value: object, run_async: RunAsync
    ) -> None:
        async def main() -> None:
            async with pair("accepted", framing="lines") as (_, owner, gsock, peer):
                config = gsock.config
                with pytest.raises(GConfigError) as caught:
                    gsock.write_parameters(**{name: value, "tx_max": 7})
                assert str(caught.value) == (
                    f"{gsock.path}: {name}: cannot change while a connection that a server "
                    "accepted is open; write it to the server, for those that come"
                )
                assert gsock.config is config
                await peer.send(b"as before\n")
                await wait_for(lambda: frames(owner))
                assert frames(owner) == [b"as before"]
                peer.end()
                await wait_for(lambda: owner.of(EV_DISCONNECTED))
                # It may become a client's, and then it is for its next connection.
                gsock.write_parameters(**{name: value})

        run_async(main)

    def test_written_to_an_open_connection_of_a_client_it_holds_for_its_next(
        self, run_async: RunAsync
    ) -> None:
        async def main() -> None:
            async with gaplic() as app:
                owner = sockets.make_owner(app)
                with listener() as listening:
                    gsock = sockets.client_of(owner, listening, framing="lines")
                    for number, wire in enumerate((b"3:old,\n", b"3:new,"), 1):
                        owner.tell(gsock, EV_CONNECT())
                        with await sockets.accept(listening) as peer:
                            await wait_for(
                                lambda number=number: len(owner.of(EV_CONNECTED)) == number
                            )
                            gsock.write_parameters(framing="netstrings")
                            await peer.send(wire)
                            peer.end()
                            await wait_for(
                                lambda number=number: len(owner.of(EV_DISCONNECTED)) == number
                            )
                assert frames(owner) == [b"3:old,", b"new"]

        run_async(main)


def at_frame(owner: Owner, number: int, act: Callable[[GSock], object]) -> None:
    """Do that when the frame of this number comes, counted from 1."""

    def react(event: EV_RX_FRAME) -> None:
        if len(frames(owner)) == number:
            assert isinstance(event.source, GSock)
            act(event.source)

    owner.reactions[EV_RX_FRAME] = react


class TestInTheMiddle:
    @both_ends
    @pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
    def test_a_pause_keeps_the_rest_in_order(
        self, tls: bool, role: str, run_async: RunAsync
    ) -> None:
        async def main() -> None:
            make: Any = tls_pair if tls else pair
            async with make(role, framing="lines") as (_, owner, gsock, peer):
                at_frame(owner, 2, lambda one: owner.send_event(one, EV_PAUSE_RX()))
                await peer.send(b"1\n2\n3\n4\n5")
                await wait_for(lambda: len(frames(owner)) == 2)
                await peer.send(b"5\n6\n")
                peer.end()
                await turns(30)
                assert frames(owner) == [b"1", b"2"]
                assert not owner.ended()
                # Nothing comes from inside.
                at_frame(owner, 4, lambda one: owner.send_event(one, EV_PAUSE_RX()))
                owner.tell(gsock, EV_RESUME_RX())
                await wait_for(lambda: len(frames(owner)) == 4)
                await turns(30)
                assert frames(owner) == [b"1", b"2", b"3", b"4"]
                assert not owner.ended()
                owner.tell(gsock, EV_RESUME_RX())
                await wait_for(owner.ended)
                assert frames(owner) == [b"1", b"2", b"3", b"4", b"55", b"6"]
                assert owner.reason() == "peer"

        run_async(main)

    @both_ends
    def test_a_pause_and_a_resume_at_each_frame(self, role: str, run_async: RunAsync) -> None:
        async def main() -> None:
            async with pair(role, framing="lines") as (_, owner, gsock, peer):

                def blink(event: EV_RX_FRAME) -> None:
                    owner.send_event(gsock, EV_PAUSE_RX())
                    owner.send_event(gsock, EV_RESUME_RX())

                owner.reactions[EV_RX_FRAME] = blink
                lines = [b"%d" % number for number in range(500)]
                await peer.send(b"\n".join(lines) + b"\n")
                peer.end()
                await wait_for(owner.ended)
                assert frames(owner) == lines

        run_async(main)

    @pytest.mark.parametrize("abort", [False, True])
    @both_ends
    def test_nothing_comes_behind_a_drop(self, role: str, abort: bool, run_async: RunAsync) -> None:
        async def main() -> None:
            async with pair(role, framing="lines") as (_, owner, _gsock, peer):
                at_frame(owner, 2, lambda one: owner.send_event(one, EV_DROP(abort=abort)))
                await peer.send(b"1\n2\n3\n4\n")
                await wait_for(owner.ended)
                assert frames(owner) == [b"1", b"2"]
                assert owner.reason() == "local"

        run_async(main)

    @both_ends
    def test_nothing_comes_behind_a_destroy(self, role: str, run_async: RunAsync) -> None:
        async def main() -> None:
            async with pair(role, framing="lines") as (_, owner, gsock, peer):
                at_frame(owner, 2, owner.destroy_gobj)
                await peer.send(b"1\n2\n3\n4\n")
                assert await peer.read_to_end() is not None
                await turns()
                assert frames(owner) == [b"1", b"2"]
                assert gsock.destroyed
                assert not owner.ended()

        run_async(main)

    @both_ends
    @pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
    @pytest.mark.parametrize("poller", sockets.POLLERS)
    def test_very_many_come_before_the_end(
        self, poller: str, tls: bool, role: str, run_async: RunAsync
    ) -> None:
        count = 3 * FRAMES_AT_ONCE
        pauses = [1, FRAMES_AT_ONCE, FRAMES_AT_ONCE + 1, 2 * FRAMES_AT_ONCE, count]

        async def main() -> None:
            make: Any = tls_pair if tls else pair
            async with make(role, poller, framing="lines") as (_, owner, gsock, peer):

                def pause(event: EV_RX_FRAME) -> None:
                    if len(frames(owner)) in pauses:
                        owner.send_event(gsock, EV_PAUSE_RX())
                        owner.post_event(gsock, EV_RESUME_RX())

                owner.reactions[EV_RX_FRAME] = pause
                peer.send_now(b"".join(b"%d\n" % number for number in range(count)))
                peer.end()
                await wait_for(owner.ended)
                assert frames(owner) == [b"%d" % number for number in range(count)]
                assert owner.reason() == "peer"
                assert owner.kinds()[-1] == "EV_DISCONNECTED"

        run_async(main)

    def test_those_of_an_old_connection_are_not_told_in_the_next(
        self, run_async: RunAsync, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def main() -> None:
            async with gaplic() as app:
                # Their turn comes when the test says so.
                waiting: list[Callable[[], None]] = []
                monkeypatch.setattr(app.poller, "defer_costly", waiting.append)
                owner = sockets.make_owner(app)
                with listener() as listening:
                    gsock = sockets.client_of(owner, listening, framing="lines")
                    owner.tell(gsock, EV_CONNECT())
                    with await sockets.accept(listening) as peer:
                        await wait_for(lambda: owner.of(EV_CONNECTED))
                        peer.send_now(b"\n" * (2 * FRAMES_AT_ONCE))
                        await wait_for(lambda: frames(owner))
                        owner.tell(gsock, EV_DROP(abort=True))
                        await wait_for(owner.ended)
                    gsock.write_parameters(framing="")
                    owner.tell(gsock, EV_CONNECT())
                    with await sockets.accept(listening):
                        await wait_for(lambda: len(owner.of(EV_CONNECTED)) == 2)
                        (turn,) = waiting
                        turn()
                        assert len(frames(owner)) == FRAMES_AT_ONCE

        run_async(main)

    def test_very_many_do_not_hold_up_the_others(self, run_async: RunAsync) -> None:
        async def main() -> None:
            async with gaplic() as app:
                owner = sockets.make_owner(app)
                server = app.create_gobj(
                    "server", GServerSock, app, host="127.0.0.1", subscriber=owner, framing="lines"
                )
                with await secure.dial_raw(server) as greedy, await secure.dial_raw(server) as good:
                    await wait_for(lambda: len(owner.of(EV_CONNECTED)) == 2)
                    sent = greedy.send_now(b"\n" * 20_000)
                    good.send_now(b"good\n")
                    await wait_for(lambda: b"good" in frames(owner))
                    assert frames(owner).index(b"good") <= 2 * FRAMES_AT_ONCE
                    await wait_for(lambda: len(frames(owner)) == sent + 1)

        run_async(main)

    def test_one_destroyed_while_frames_wait(self, run_async: RunAsync) -> None:
        async def main() -> None:
            async with pair("accepted", framing="lines") as (_, owner, gsock, peer):
                at_frame(owner, 1, lambda one: owner.send_event(one, EV_PAUSE_RX()))
                await peer.send(b"1\n2\n")
                await wait_for(lambda: frames(owner))
                owner.tell(gsock, EV_RESUME_RX())
                owner.destroy_gobj(gsock)
                await turns()
                assert frames(owner) == [b"1"]

        run_async(main)

    def test_one_dropped_while_frames_wait(self, run_async: RunAsync) -> None:
        async def main() -> None:
            async with pair("accepted", framing="lines") as (_, owner, gsock, peer):
                at_frame(owner, 1, lambda one: owner.send_event(one, EV_PAUSE_RX()))
                await peer.send(b"1\n2\n")
                await wait_for(lambda: frames(owner))
                owner.tell(gsock, EV_RESUME_RX())
                owner.tell(gsock, EV_DROP())
                peer.end()
                await wait_for(owner.ended)
                assert frames(owner) == [b"1"]

        run_async(main)

    def test_the_owner_raises(self, run_async: RunAsync, caplog: pytest.LogCaptureFixture) -> None:
        async def main() -> None:
            async with pair("accepted", framing="lines") as (_, owner, _gsock, peer):

                def fail(_: GSock) -> None:
                    raise ZeroDivisionError("its own fault")

                at_frame(owner, 2, fail)
                await peer.send(b"1\n2\n3\n")
                await wait_for(owner.ended)
                assert frames(owner) == [b"1", b"2"]
                assert owner.reason() == "error"

        run_async(main)
        assert "its own fault" in caplog.text


BAD = {
    "lines": (b"good\ngood\n" + b"x" * 100),
    "netstrings": b"4:good,4:good,zzz",
    "uint32": b"\0\0\0\4good" * 2 + b"\xff\xff\xff\xff",
}


class TestBadFrames:
    def test_behind_very_many_good_ones(self, run_async: RunAsync) -> None:
        async def main() -> None:
            async with pair("accepted", framing="lines", max_frame=20) as (_, owner, _gsock, peer):
                await peer.send(b"\n" * 2 * FRAMES_AT_ONCE + b"x" * 21)
                await wait_for(owner.ended)
                assert len(frames(owner)) == 2 * FRAMES_AT_ONCE
                assert owner.reason() == "frame"

        run_async(main)

    @both_ends
    @pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
    @pytest.mark.parametrize("framing", BAD)
    def test_the_good_ones_come_first(
        self, framing: str, tls: bool, role: str, run_async: RunAsync,
        caplog: pytest.LogCaptureFixture,
    ) -> None:  # fmt: skip
        caplog.set_level(logging.INFO)

        async def main() -> None:
            make: Any = tls_pair if tls else pair
            async with make(role, framing=framing, max_frame=20) as (_, owner, _gsock, peer):
                await peer.send(BAD[framing])
                await wait_for(owner.ended)
                assert frames(owner) == [b"good", b"good"]
                assert owner.reason() == "frame"
                assert owner.kinds() == ["EV_CONNECTED", "EV_RX_FRAME", "EV_DISCONNECTED"]

        run_async(main)
        (told,) = [one for one in caplog.messages if "sent no frame" in one]
        assert "127.0.0.1:" in told
        assert "xxx" not in told
        assert "zzz" not in told

    def test_behind_a_pause(self, run_async: RunAsync) -> None:
        async def main() -> None:
            async with pair("accepted", framing="lines", max_frame=20) as (_, owner, gsock, peer):
                at_frame(owner, 1, lambda one: owner.send_event(one, EV_PAUSE_RX()))
                await peer.send(BAD["lines"])
                await wait_for(lambda: frames(owner))
                await turns(20)
                assert not owner.ended()
                owner.tell(gsock, EV_RESUME_RX())
                await wait_for(owner.ended)
                assert frames(owner) == [b"good", b"good"]
                assert owner.reason() == "frame"

        run_async(main)

    def test_at_the_last_good_one_the_owner_says_good_bye(self, run_async: RunAsync) -> None:
        async def main() -> None:
            async with pair("accepted", framing="lines", max_frame=20, rcvbuf=4096) as (
                _, owner, _gsock, peer,
            ):  # fmt: skip
                size = 2 << 20

                def leave(gsock: GSock) -> None:
                    # More than the kernel takes at once.
                    owner.send_event(gsock, EV_SEND_DATA(b"x" * size))
                    owner.send_event(gsock, EV_DROP())

                at_frame(owner, 2, leave)
                await peer.send(BAD["lines"])
                assert len(await peer.read(size)) == size
                peer.close()
                await wait_for(owner.ended)
                assert owner.reason() == "local"

        run_async(main)

    def test_to_send(self, run_async: RunAsync) -> None:
        async def main() -> None:
            async with pair("accepted", framing="lines", max_frame=20) as (_, owner, gsock, peer):
                for frame, told in {
                    b"two\nlines": "EV_SEND_FRAME",
                    b"x" * 21: "max_frame=20",
                }.items():
                    with pytest.raises(EventError, match=told) as raised:
                        owner.tell(gsock, EV_SEND_FRAME(frame))
                    # A log that has the traceback says it once.
                    assert raised.value.__cause__ is None
                    assert raised.value.__suppress_context__
                # It stays as it was.
                owner.tell(gsock, EV_SEND_FRAME(b"fine"))
                assert await peer.read(5) == b"fine\n"

        run_async(main)

    def test_to_send_what_is_not_bytes(self, run_async: RunAsync) -> None:
        async def main() -> None:
            async with pair("accepted", framing="lines") as (_, owner, gsock, peer):
                for given in ("text", 5, None):
                    with pytest.raises(EventError):
                        owner.tell(gsock, EV_SEND_FRAME(given))  # type: ignore[arg-type]
                for given in (bytearray(b"12"), memoryview(b"34")):
                    owner.tell(gsock, EV_SEND_FRAME(given))  # type: ignore[arg-type]
                assert await peer.read(6) == b"12\n34\n"

        run_async(main)

    def test_to_send_without_a_framing(self, run_async: RunAsync) -> None:
        async def main() -> None:
            async with pair("accepted") as (_, owner, gsock, _peer):
                with pytest.raises(EventError, match="there is no framing; give the gsock"):
                    owner.tell(gsock, EV_SEND_FRAME(b"x"))

        run_async(main)

    def test_to_send_too_late(self, run_async: RunAsync) -> None:
        async def main() -> None:
            async with pair("accepted", framing="lines") as (_, owner, gsock, _peer):
                owner.tell(gsock, EV_DROP())
                assert owner.tell(gsock, EV_SEND_FRAME(b"x")) is NOT_ACCEPTED

        run_async(main)

    @pytest.mark.parametrize("bad", ["line", b"", 0, -1, 1.5, None, True, Upper(5), b"x" * 65])
    def test_bad_parameters(self, bad: object, run_async: RunAsync) -> None:
        async def main() -> None:
            async with gaplic() as app:
                owner = sockets.make_owner(app)
                for gclass in (GSock, GServerSock):
                    with pytest.raises(GConfigError, match="'netstrings'"):
                        owner.create_gobj("bad", gclass, owner, framing=bad)

        run_async(main)


class TestOwnSplitter:
    @both_ends
    @pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
    def test_one_that_raises_ends_its_connection(
        self, tls: bool, role: str, run_async: RunAsync, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def main() -> None:
            make: Any = tls_pair if tls else pair
            async with make(role, framing=Upper) as (_, owner, _gsock, peer):
                await peer.send(b"one!")
                await wait_for(lambda: frames(owner) == [b"ONE"])
                await peer.send(b"two!?")
                await wait_for(owner.ended)
                assert frames(owner) == [b"ONE"]
                assert owner.reason() == "error"

        run_async(main)
        assert "its own fault" in caplog.text

    @both_ends
    def test_one_that_raises_at_what_tls_reads_later(
        self, role: str, run_async: RunAsync, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def main() -> None:
            async with tls_pair(role, framing=Upper) as (_, owner, _gsock, peer):
                # More records than are decrypted at once.
                wire = b"".join(peer.seal(b"one!") for _ in range(2 * SLICE)) + peer.seal(b"?")
                assert peer.sock.send(wire) == len(wire)
                await wait_for(owner.ended)
                assert owner.reason() == "error"

        run_async(main)
        assert "the framing raised ZeroDivisionError: its own fault" in caplog.text

    @pytest.mark.parametrize(
        ("answer", "told"),
        [(None, "None"), (b"ab", "a bytes"), ("ab", "a str"), (5, "an int")],
    )
    def test_one_that_splits_into_no_frames(
        self, answer: object, told: str, run_async: RunAsync, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Wrong(Upper):
            def split(self, data: bytes) -> Any:
                return answer

        async def main() -> None:
            async with pair("accepted", framing=Wrong) as (_, owner, _gsock, peer):
                await peer.send(b"one!")
                await wait_for(owner.ended)
                assert frames(owner) == []
                assert owner.reason() == "error"

        run_async(main)
        assert f"Wrong.split returned {told}, expected a list of frames" in caplog.text

    def test_one_that_splits_into_anything_else_with_frames_in_it(
        self, run_async: RunAsync
    ) -> None:
        class Lazy(Upper):
            def split(self, data: bytes) -> Any:
                yield from super().split(data)

        async def main() -> None:
            async with pair("accepted", framing=Lazy) as (_, owner, _gsock, peer):
                await peer.send(b"one!two!")
                await wait_for(lambda: frames(owner) == [b"ONE", b"TWO"])

        run_async(main)

    @pytest.mark.parametrize("how", ["raises", "returns something else"])
    @pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
    def test_one_that_cannot_be_made(
        self, tls: bool, how: str, run_async: RunAsync, caplog: pytest.LogCaptureFixture
    ) -> None:
        servers: list[GServerSock] = []

        def make(max_frame: int) -> Any:
            if not servers:
                # The server tries it once, and would not be made.
                return Upper(max_frame)
            if how == "raises":
                raise ZeroDivisionError("its own fault")
            return 5

        async def main() -> None:
            async with gaplic() as app:
                owner = sockets.make_owner(app)
                options = {"ssl_options": options_of("accepted")} if tls else {}
                server = app.create_gobj(
                    "server", GServerSock, app,
                    host="127.0.0.1", subscriber=owner, framing=make, **options,
                )  # fmt: skip
                servers.append(server)
                for _ in range(2):
                    if tls:
                        with await secure.dial(server) as client:
                            await client.shake()
                            await client.read_to_end()
                    else:
                        with await secure.dial_raw(server) as raw:
                            await raw.read_to_end()
                await wait_for(lambda: not len(server.ledger))
                await wait_for(lambda: len(owner.of(EV_DISCONNECTED)) == 2)
                assert [one.reason for one in owner.of(EV_DISCONNECTED)] == ["error", "error"]
                assert len(owner.of(EV_CONNECTED)) == 2
                assert len(owner.heard) == 4

        run_async(main)
        assert ("its own fault" if how == "raises" else "with the methods split") in caplog.text

    @pytest.mark.parametrize("gclass", [GSock, GServerSock])
    @pytest.mark.parametrize(
        ("own", "told"),
        [
            (int, "int(99) returned an int, expected an object with the methods split, wrap and"),
            (Explosive, "Explosive(99) raised ZeroDivisionError: its own fault; expected it to"),
            (lambda: None, "<lambda>(99) raised TypeError"),
        ],
        ids=["no framing", "raises", "takes no max_frame"],
    )
    def test_it_is_tried_before_anybody_connects(
        self, own: Any, told: str, gclass: type[GSock]
    ) -> None:
        app = gaplic()
        owner = sockets.make_owner(app)
        with pytest.raises(GConfigError, match=re.escape(f"framing: {told}")):
            owner.create_gobj("bad", gclass, owner, framing=own, max_frame=99)
        assert not owner.children


class TestTls:
    @both_ends
    @pytest.mark.parametrize("name", ["lines", "uint16", "own"])
    def test_both_directions(self, name: str, role: str, run_async: RunAsync) -> None:
        framing, expected, wire = KINDS[name]

        async def main() -> None:
            async with tls_pair(role, framing=framing) as (_, owner, gsock, peer):
                await peer.send(wire)
                await wait_for(lambda: len(frames(owner)) == len(expected))
                assert frames(owner) == expected
                for frame in expected:
                    owner.tell(gsock, EV_SEND_FRAME(frame))
                assert await peer.read(len(wire)) == wire

        run_async(main)

    @both_ends
    def test_the_end_behind_frames_waits_for_those_that_a_pause_keeps(
        self, role: str, run_async: RunAsync
    ) -> None:
        async def main() -> None:
            async with tls_pair(role, framing="lines") as (app, owner, gsock, peer):
                other = sockets.make_owner(app, "other")
                server = app.create_gobj(
                    "other server", GServerSock, app, host="127.0.0.1", subscriber=other,
                    framing="lines",
                )  # fmt: skip
                with await secure.dial_raw(server) as raw:
                    await wait_for(lambda: other.of(EV_CONNECTED))
                    at_frame(owner, 1, lambda one: owner.send_event(one, EV_PAUSE_RX()))
                    at_frame(other, 1, lambda _: owner.send_event(gsock, EV_RESUME_RX()))
                    # Both are ready in one batch: the resume comes before what waits for its end.
                    wire = peer.seal(b"1\n2\n3\n") + peer.goodbye()
                    assert peer.sock.send(wire) == len(wire)
                    assert raw.send_now(b"go on\n")
                    await wait_for(owner.ended)
                    assert frames(owner) == [b"1", b"2", b"3"]
                    assert owner.reason() == "peer"

        run_async(main)

    @both_ends
    def test_a_drop_while_frames_wait_finds_the_end_behind_them(
        self, role: str, run_async: RunAsync
    ) -> None:
        async def main() -> None:
            async with tls_pair(role, framing="lines", close_timeout=0.0) as (
                _, owner, gsock, peer,
            ):  # fmt: skip
                at_frame(owner, 1, lambda one: owner.send_event(one, EV_PAUSE_RX()))
                # More records than are decrypted at once, and nothing comes after them.
                wire = b"".join(peer.seal(b"x\n") for _ in range(2 * SLICE)) + peer.goodbye()
                assert peer.sock.send(wire) == len(wire)
                await wait_for(lambda: frames(owner))
                owner.tell(gsock, EV_DROP())
                await wait_for(owner.ended)
                assert frames(owner) == [b"x"]
                assert owner.reason() == "local"

        run_async(main)

    @both_ends
    def test_a_new_beginning_with_start_tls(self, role: str, run_async: RunAsync) -> None:
        async def main() -> None:
            async with plain_pair(role, framing="lines") as (_, owner, gsock, raw):
                at_frame(owner, 2, lambda one: owner.send_event(one, EV_START_TLS()))
                await raw.send(b"HELLO\r\nSTARTTLS\r\n")
                await wait_for(lambda: len(frames(owner)) == 2)
                # It waits for the handshake.
                owner.tell(gsock, EV_SEND_FRAME(b"first"))
                peer = TlsPeer(raw, context_against(role), server_side=role == "client")
                await peer.shake()
                await wait_for(lambda: owner.of(EV_TLS_STARTED))
                assert await peer.read(6) == b"first\n"
                await peer.send(b"under TLS\n")
                await wait_for(lambda: len(frames(owner)) == 3)
                assert frames(owner) == [b"HELLO", b"STARTTLS", b"under TLS"]

        run_async(main)

    @pytest.mark.parametrize(("framing", "wire"), [("netstrings", b"5:other,"), ("", b"no frames")])
    @both_ends
    def test_another_framing_from_start_tls_on(
        self, role: str, framing: str, wire: bytes, run_async: RunAsync
    ) -> None:
        def upgrade(gsock: GSock) -> None:
            gsock.write_parameters(framing=framing, max_frame=100)
            gsock.parent.send_event(gsock, EV_START_TLS())

        async def main() -> None:
            async with plain_pair(role, framing="lines") as (_, owner, gsock, raw):
                at_frame(owner, 1, upgrade)
                await raw.send(b"STARTTLS\r\n")
                await wait_for(lambda: frames(owner))
                peer = TlsPeer(raw, context_against(role), server_side=role == "client")
                await peer.shake()
                await wait_for(lambda: owner.of(EV_TLS_STARTED))
                await peer.send(wire)
                if framing:
                    await wait_for(lambda: len(frames(owner)) == 2)
                    assert frames(owner)[1] == b"other"
                else:
                    await wait_for(lambda: owner.received() == wire)
                if role == "accepted":
                    # There is no later beginning.
                    with pytest.raises(GConfigError, match="framing: cannot change while"):
                        gsock.write_parameters(framing="lines")

        run_async(main)

    @pytest.mark.parametrize("before", ["lines", ""])
    @both_ends
    def test_what_is_sent_behind_start_tls_has_the_new_framing(
        self, role: str, before: str, run_async: RunAsync
    ) -> None:
        async def main() -> None:
            async with plain_pair(role, framing=before) as (_, owner, gsock, raw):
                gsock.write_parameters(framing="netstrings")
                owner.tell(gsock, EV_START_TLS())
                # It waits for the handshake, and comes behind it.
                assert owner.tell(gsock, EV_SEND_FRAME(b"early")) is True
                if role == "accepted":
                    with pytest.raises(GConfigError, match="framing: cannot change while"):
                        gsock.write_parameters(framing="lines")
                peer = TlsPeer(raw, context_against(role), server_side=role == "client")
                await peer.shake()
                assert await peer.read(8) == b"5:early,"
                await peer.send(b"6:answer,")
                await wait_for(lambda: frames(owner) == [b"answer"])

        run_async(main)

    def test_one_that_cannot_be_made_for_tls_ends_the_connection(
        self, run_async: RunAsync, caplog: pytest.LogCaptureFixture
    ) -> None:
        made: list[Upper] = []
        can_be_made = [True]

        def make(max_frame: int) -> Upper:
            if not can_be_made[0]:
                raise ZeroDivisionError("its own fault")
            made.append(Upper(max_frame))
            return made[-1]

        async def main() -> None:
            async with plain_pair("accepted", framing=make) as (_, owner, gsock, raw):
                can_be_made[0] = False
                owner.tell(gsock, EV_START_TLS())
                await wait_for(owner.ended)
                assert owner.reason() == "error"
                assert not owner.of(EV_TLS_STARTED)
                assert (await raw.read_to_end())[0] == b""
                can_be_made[0] = True

        run_async(main)
        assert "its own fault" in caplog.text

    @pytest.mark.parametrize(
        "behind", [b"RCPT TO:<eve>\r\n", b"RCPT TO:<eve>\r\nRSET\r\nDATA", b"\r\n", b"x\r\r\n"]
    )
    def test_plain_lines_behind_starttls_are_never_taken(
        self, behind: bytes, run_async: RunAsync
    ) -> None:
        # CVE-2011-0411: what anybody put there must not count as said under TLS.
        async def main() -> None:
            async with plain_pair("accepted", framing="lines") as (_, owner, _gsock, raw):
                at_frame(owner, 1, lambda one: owner.send_event(one, EV_START_TLS()))
                await raw.send(b"STARTTLS\r\n" + behind)
                peer = TlsPeer(raw, context_against("accepted"), server_side=False)
                try:
                    await peer.shake()
                except (OSError, ConnectionError):
                    pass
                await wait_for(owner.ended)
                assert frames(owner) == [b"STARTTLS"]
                assert owner.reason() in ("tls", "reset")

        run_async(main)
