"""TlsStream: what was sent arrives, once and in order, whatever the wire does."""

import errno
import os
import random
import socket
import ssl
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import certificates
from ginsfsm.net.output import OutputQueue
from ginsfsm.net.tls_failure import failure
from ginsfsm.net.tls_info import TlsInfo
from ginsfsm.net.tls_stream import BURST, RECORD, WINDOW, TlsStream
from secure import (
    HANDSHAKE,
    V12,
    V13,
    Forger,
    SecretLog,
    client_context,
    server_context,
)

SIDES = ["client", "server"]
VERSIONS = [V12, V13]
each_side = pytest.mark.parametrize("side", SIDES)
each_version = pytest.mark.parametrize("version", VERSIONS, ids=lambda one: one.name)


LARGE = 17 * 1024
"""More than one record."""


class Wire:
    """A stand-in for a non-blocking socket.

    Attributes:
        taken: what was sent through it.
        room: how many bytes it still takes; None is any number.
        inbox: what it has to give, as it came; None is the end.
        fails: what sending raises.
        calls: its system calls.
    """

    def __init__(self) -> None:
        self.taken = bytearray()
        self.room: int | None = None
        self.inbox: deque[bytes | None] = deque()
        self.fails: OSError | None = None
        self.calls: list[str] = []

    def recv(self, size: int) -> bytes:
        self.calls.append("recv")
        if not self.inbox:
            raise BlockingIOError
        if self.inbox[0] is None:
            return b""
        data = self.inbox.popleft()
        assert data is not None
        if len(data) > size:
            self.inbox.appendleft(data[size:])
        return data[:size]

    def send(self, data: Any) -> int:
        self.calls.append("send")
        return self._take(bytes(data))

    def sendmsg(self, pieces: Sequence[Any]) -> int:
        self.calls.append("sendmsg")
        return self._take(b"".join(pieces))

    def _take(self, data: bytes) -> int:
        if self.fails is not None:
            raise self.fails
        size = len(data) if self.room is None else min(self.room, len(data))
        if data and not size:
            raise BlockingIOError
        if self.room is not None:
            self.room -= size
        self.taken += data[:size]
        return size

    def take(self) -> bytes:
        """What was sent since the last time."""
        data = bytes(self.taken)
        self.taken.clear()
        return data


class Owner:
    """Counts what the stream tells it, and may do as GSock does."""

    def __init__(self) -> None:
        self.blocked = 0
        self.again = 0

    def tls_blocked(self) -> None:
        self.blocked += 1

    def tls_read_again(self) -> None:
        self.again += 1


class Other:
    """Python's own end of the TLS."""

    def __init__(self, context: ssl.SSLContext, *, server_side: bool) -> None:
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        self.tls = context.wrap_bio(
            self.incoming,
            self.outgoing,
            server_side=server_side,
            server_hostname=None if server_side else "localhost",
        )

    def step(self, data: bytes) -> tuple[bool, bytes]:
        """Whether the handshake is complete, and what goes to the stream."""
        self.incoming.write(data)
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            return False, self.outgoing.read()
        return True, self.outgoing.read()

    def seal(self, data: bytes) -> bytes:
        view = memoryview(data)
        while view:
            view = view[self.tls.write(view) :]
        return self.outgoing.read()

    def goodbye(self) -> bytes:
        try:
            self.tls.unwrap()
        except ssl.SSLError:
            pass
        return self.outgoing.read()

    def opened(self, cipher: bytes) -> bytes:
        """What these bytes say; raises SSLZeroReturnError where it is close_notify alone."""
        self.incoming.write(cipher)
        data = bytearray()
        while True:
            try:
                more = self.tls.read(65536)
            except ssl.SSLWantReadError:
                return bytes(data)
            except ssl.SSLZeroReturnError:
                more = b""
            if not more:
                if data:
                    return bytes(data)
                raise ssl.SSLZeroReturnError("close_notify")
            data += more


class Both:
    """A stream on a stand-in socket, and the other end; the handshake is complete."""

    def __init__(
        self,
        side: str = "server",
        version: ssl.TLSVersion | None = None,
        *,
        context: ssl.SSLContext | None = None,
        other: ssl.SSLContext | None = None,
        shake: bool = True,
        **options: Any,
    ) -> None:
        server_side = side == "server"
        mine = context or (server_context(version) if server_side else client_context(version))
        theirs = other or (client_context(version) if server_side else server_context(version))
        self.wire = Wire()
        self.owner = Owner()

        def wrap(incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject:
            return mine.wrap_bio(
                incoming,
                outgoing,
                server_side=server_side,
                server_hostname=None if server_side else "localhost",
            )

        sock: Any = self.wire
        self.stream = TlsStream(sock, self.owner, wrap, **options)
        self.other = Other(theirs, server_side=not server_side)
        if shake:
            self.shake()

    def shake(self, last: bytes = b"") -> None:
        """All of the handshake; `last` comes to the stream together with the other's last part."""
        if not self.other.tls.server_side:
            _, data = self.other.step(b"")
            self.stream.receive(data)
        mine = theirs = False
        while not (mine and theirs):
            if not mine:
                mine = self.stream.handshake()
            data = self.wire.take()
            if not theirs:
                theirs, data = self.other.step(data)
                if theirs and last:
                    data += self.other.seal(last)
                if not mine:
                    self.stream.receive(data)
                elif data:
                    # Tickets, and what else comes behind the handshake.
                    self.wire.inbox.append(data)
            else:
                self.other.incoming.write(data)

    def gives(self, *batches: bytes | None) -> None:
        self.wire.inbox.extend(batches)


def recv_all(both: Both) -> bytes:
    """As GSock does, until there is no more or an end."""
    data = bytearray()
    while True:
        again = both.owner.again
        try:
            more = both.stream.recv(65536)
            data += more
            if both.owner.again > again:
                more = both.stream.pull()
                data += more
        except BlockingIOError:
            if not both.wire.inbox:
                return bytes(data)
            continue
        if not more:
            return bytes(data)


# -- the handshake ---------------------------------------------------------------------------------


@each_side
@each_version
def test_both_sides_of_a_handshake(side: str, version: ssl.TLSVersion) -> None:
    both = Both(side, version)
    assert both.stream.info.protocol == {V12: "TLSv1.2", V13: "TLSv1.3"}[version]
    assert both.stream.info.cipher == both.other.tls.cipher()[0]  # type: ignore[index]
    both.gives(both.other.seal(b"hello"))
    assert recv_all(both) == b"hello"
    assert both.stream.send(b"world") == 5
    assert both.other.opened(both.wire.take()) == b"world"
    assert not both.owner.blocked


@each_side
@each_version
def test_a_handshake_one_byte_at_a_time(side: str, version: ssl.TLSVersion) -> None:
    both = Both(side, version, shake=False)
    done = theirs = False
    data = b""
    if side == "client":
        assert both.stream.handshake() is False
    else:
        _, data = both.other.step(b"")
    while not (done and theirs):
        for byte in data:
            both.stream.receive(bytes([byte]))
            done = both.stream.handshake() or done
        data = both.wire.take()
        if theirs:
            break
        theirs, data = both.other.step(data)
    assert done
    assert theirs


@each_version
def test_a_server_is_silent_until_it_has_been_sent_a_byte(version: ssl.TLSVersion) -> None:
    both = Both("server", version, shake=False)
    assert both.stream.silent
    both.stream.receive(b"\x16")
    assert not both.stream.silent
    assert both.stream.handshake() is False
    assert not both.stream.silent


def test_the_context_is_asked_for_only_with_the_first_step() -> None:
    """So that a client which never speaks costs nothing, and a certificate can change meanwhile."""
    made: list[ssl.SSLObject] = []

    def wrap(incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject:
        made.append(server_context().wrap_bio(incoming, outgoing, server_side=True))
        return made[-1]

    sock: Any = Wire()
    stream = TlsStream(sock, Owner(), wrap)
    stream.receive(b"\x16")
    assert not made
    stream.handshake()
    assert len(made) == 1


def test_what_is_no_tls_fails_with_an_alert_to_the_peer() -> None:
    both = Both("server", shake=False)
    both.stream.receive(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(ssl.SSLError) as caught:
        both.stream.handshake()
    assert "plain HTTP came to the port of TLS" in failure(caught.value)
    both.stream = Both("server", shake=False).stream


@each_version
def test_a_client_that_trusts_nobody_says_so_to_the_server(version: ssl.TLSVersion) -> None:
    other = ssl.create_default_context(cafile=certificates.other_ca())
    other.minimum_version = other.maximum_version = version
    both = Both("server", version, other=other, shake=False)
    _, data = both.other.step(b"")
    both.stream.receive(data)
    assert both.stream.handshake() is False
    with pytest.raises(ssl.SSLCertVerificationError):
        both.other.step(both.wire.take())
    both.stream.receive(both.other.outgoing.read())
    with pytest.raises(ssl.SSLError) as caught:
        both.stream.handshake()
    assert failure(caught.value) == "the peer says unknown ca (TLSV1_ALERT_UNKNOWN_CA)"


@each_version
def test_a_client_that_refuses_the_certificate_sends_the_alert(version: ssl.TLSVersion) -> None:
    context = ssl.create_default_context(cafile=certificates.other_ca())
    context.minimum_version = context.maximum_version = version
    both = Both("client", version, context=context, shake=False)
    both.stream.handshake()
    _, data = both.other.step(both.wire.take())
    both.stream.receive(data)
    with pytest.raises(ssl.SSLCertVerificationError) as caught:
        both.stream.handshake()
    assert failure(caught.value).startswith("the peer's certificate was refused: ")
    with pytest.raises(ssl.SSLError, match="UNKNOWN_CA"):
        both.other.step(both.wire.take())


@each_side
@each_version
def test_data_that_comes_with_the_end_of_the_handshake_is_not_lost(
    side: str, version: ssl.TLSVersion
) -> None:
    both = Both(side, version, shake=False)
    both.shake(last=b"the first request")
    data = b""
    if both.stream.has_more:
        try:
            data = both.stream.pull()
        except BlockingIOError:
            pass
    assert data + recv_all(both) == b"the first request"


@each_version
def test_nothing_more_is_said_to_be_there_when_nothing_came_with_it(
    version: ssl.TLSVersion,
) -> None:
    assert not Both("server", version).stream.has_more


@each_side
def test_a_socket_that_takes_nothing_in_the_handshake_is_flushed_later(side: str) -> None:
    both = Both(side, shake=False)
    wire, stream = both.wire, both.stream
    wire.room = 0
    if side == "server":
        stream.receive(both.other.step(b"")[1])
    assert stream.handshake() is False
    assert both.owner.blocked == 1
    assert not wire.taken
    assert stream.flush() is False
    wire.room = 3
    assert stream.flush() is False
    assert len(wire.taken) == 3
    wire.room = None
    assert stream.flush() is True
    both.other.step(wire.take())


def test_plain_output_of_before_leaves_before_the_handshake() -> None:
    unsent = OutputQueue()
    unsent.append(b"220 ready\r\n" * 200)
    both = Both("client", shake=False, unsent=unsent)
    both.wire.room = 100
    assert both.stream.handshake() is False
    assert both.owner.blocked == 1
    assert both.wire.take() == (b"220 ready\r\n" * 200)[:100]
    both.wire.room = None
    assert both.stream.flush() is True
    assert both.wire.take() == (b"220 ready\r\n" * 200)[100:]
    assert both.stream.handshake() is False
    assert both.wire.taken[0] == 22
    both.stream.receive(both.other.step(both.wire.take())[1])
    assert both.stream.handshake() is True


def test_bytes_of_the_handshake_that_came_early() -> None:
    other = Other(client_context(), server_side=False)
    _, hello = other.step(b"")
    both = Both("server", shake=False, received=hello)
    both.other = other
    assert not both.stream.silent
    assert both.stream.handshake() is False
    done, data = other.step(both.wire.take())
    assert done
    both.stream.receive(data)
    assert both.stream.handshake() is True


# -- sending ---------------------------------------------------------------------------------------


class Sender:
    """Sends as GSock does: at once while nothing waits, else behind what waits."""

    def __init__(self, both: Both) -> None:
        self.both = both
        self.queue: OutputQueue | None = None
        self.counted = 0

    def send(self, data: bytes) -> None:
        if self.queue is None and not self.both.owner.blocked:
            sent = self.both.stream.send(data)
            self.counted += sent
            if sent < len(data):
                self.queue = OutputQueue()
                self.queue.append(memoryview(data)[sent:])
        else:
            if self.queue is None:
                self.queue = OutputQueue()
            self.queue.append(data)

    def flush(self) -> None:
        """The socket can be written."""
        self.both.owner.blocked = 0
        queue = self.queue or OutputQueue()
        try:
            sent = self.both.stream.sendmsg(queue.first())
        except BlockingIOError:
            self.both.owner.blocked = 1
            return
        assert sent <= queue.size
        queue.sent(sent)
        self.counted += sent
        self.queue = queue if queue.size else None


sizes = st.one_of(
    st.integers(1, 50),
    st.sampled_from([1, RECORD - 1, RECORD, RECORD + 1, WINDOW, WINDOW + 1, BURST, BURST + 1]),
    st.integers(1, 3 * WINDOW),
)
rooms = st.one_of(
    st.none(),
    st.integers(0, 100),
    st.sampled_from([RECORD, RECORD + 22, RECORD + 29, WINDOW, 4 * (RECORD + 22), BURST]),
    st.integers(0, 2 * WINDOW),
)
BLOCK = random.Random(1).randbytes(BURST + 4 * WINDOW)


@pytest.mark.parametrize("version", VERSIONS, ids=lambda one: one.name)
@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(plan=st.lists(st.one_of(st.tuples(st.just("send"), sizes),
                               st.tuples(st.just("flush"), rooms)), max_size=25))  # fmt: skip
def test_what_was_sent_arrives_in_order_and_once(
    version: ssl.TLSVersion, plan: list[tuple[str, Any]]
) -> None:
    """And what is counted as sent has left, all of its cipher."""
    both = Both("server", version)
    both.other.opened(both.wire.take())
    sender = Sender(both)
    expected = bytearray()
    arrived = bytearray()
    for what, how in plan:
        if what == "send":
            begin = len(expected) % WINDOW
            data = BLOCK[begin : begin + how]
            expected += data
            sender.send(data)
        else:
            both.wire.room = how
            sender.flush()
        arrived += both.other.opened(both.wire.take())
        assert sender.counted <= len(arrived)
    both.wire.room = None
    while sender.queue is not None or both.owner.blocked:
        sender.flush()
    arrived += both.other.opened(both.wire.take())
    assert arrived == expected
    assert sender.counted == len(expected)


@pytest.mark.parametrize("room", range(0, 140, 7))
def test_what_is_half_sent_is_owed_until_all_of_it_has_left(room: int) -> None:
    both = Both()
    both.wire.take()
    both.wire.room = room
    data = bytes(range(100))
    sent = both.stream.send(data)
    if room >= 122:
        assert sent == 100
        return
    assert sent == 0
    left = room
    while left < 121:
        # A byte less than all of it: still nothing.
        both.wire.room = min(30, 121 - left)
        left += both.wire.room
        with pytest.raises(BlockingIOError):
            both.stream.sendmsg([data])
    both.wire.room = 1
    assert both.stream.sendmsg([data]) == 100
    both.wire.room = None
    assert both.stream.sendmsg([b"more"]) == 4
    assert both.other.opened(both.wire.take()) == data + b"more"


def test_sendmsg_of_nothing_sends_what_waits() -> None:
    both = Both()
    both.wire.take()
    assert both.stream.sendmsg([]) == 0
    assert both.stream.send(b"") == 0
    assert not both.wire.taken


@each_version
def test_a_message_of_one_record_is_one_system_call(version: ssl.TLSVersion) -> None:
    both = Both(version=version)
    both.wire.calls.clear()
    both.stream.send(bytes(RECORD))
    assert both.wire.calls == ["send"]


@each_version
def test_many_small_pieces_are_gathered_into_few_records(version: ssl.TLSVersion) -> None:
    both = Both(version=version)
    both.wire.take()
    both.wire.calls.clear()
    pieces = [bytes([n]) * 37 for n in range(200)]
    assert both.stream.sendmsg(pieces) == 7400
    assert both.wire.calls == ["sendmsg"]
    assert len(both.wire.taken) < 7400 + 40
    assert both.other.opened(both.wire.take()) == b"".join(pieces)


def test_a_burst_ends_so_that_others_get_their_turn() -> None:
    both = Both()
    both.wire.take()
    data = BLOCK[: BURST + 100]
    assert both.stream.send(data) == BURST
    assert both.stream.sendmsg([data[BURST:]]) == 100
    assert both.other.opened(both.wire.take()) == data


def test_a_socket_that_fails_raises_out_of_every_way_to_send() -> None:
    for how in (
        lambda stream: stream.send(b"x"),
        lambda stream: stream.send(bytes(WINDOW)),
        lambda stream: stream.sendmsg([b"x"]),
    ):
        both = Both()
        both.wire.fails = BrokenPipeError(errno.EPIPE, "gone")
        with pytest.raises(BrokenPipeError):
            how(both.stream)


def test_a_socket_that_fails_while_something_waits() -> None:
    both = Both()
    both.wire.room = 5
    assert both.stream.send(b"hello") == 0
    both.wire.fails = BrokenPipeError(errno.EPIPE, "gone")
    with pytest.raises(BrokenPipeError):
        both.stream.sendmsg([b"hello"])
    with pytest.raises(BrokenPipeError):
        both.stream.flush()


def test_what_tls_says_for_itself_to_a_socket_that_fails_is_no_error_of_the_receiver() -> None:
    """What came is delivered; the owner learns of the failure when it sends or receives next."""
    both, forger = forged()
    both.wire.fails = ConnectionResetError(errno.ECONNRESET, "gone")
    both.gives(forger.data(b"one") + forger.key_update(request=True) + forger.data(b"two"))
    both.gives(forger.key_update(request=True) + forger.data(b"three"))
    assert recv_all(both) == b"onetwothree"
    # The system has said it once, and says "end" now.
    both.gives(None)
    for _ in range(2):
        with pytest.raises(ConnectionResetError):
            both.stream.recv(65536)


@each_side
def test_close_notify(side: str) -> None:
    both = Both(side)
    both.wire.take()
    both.stream.send(b"last words")
    assert not both.stream.closing
    both.stream.close_notify()
    assert both.stream.closing
    cipher = both.wire.take()
    assert both.other.opened(cipher) == b"last words"
    with pytest.raises(ssl.SSLZeroReturnError):
        both.other.opened(b"")
    both.gives(both.other.goodbye())
    assert recv_all(both) == b""
    assert both.stream.closed


@each_side
@each_version
def test_after_our_close_notify_we_still_hear_the_peer(side: str, version: ssl.TLSVersion) -> None:
    """Its data is still legal then, in TLS 1.3 for as long as it likes, and its end comes last."""
    both = Both(side, version)
    both.stream.close_notify()
    both.gives(both.other.seal(b"already on its way"), both.other.seal(bytes(50_000)))
    assert recv_all(both) == b"already on its way" + bytes(50_000)
    both.gives(both.other.goodbye())
    assert both.stream.recv(65536) == b""
    assert both.stream.closed


@each_version
def test_close_notify_while_data_waits_undecrypted(version: ssl.TLSVersion) -> None:
    """The first request came with the end of the handshake, and the owner drops at once."""
    both = Both("server", version, shake=False)
    both.shake(last=b"the first request")
    assert both.stream.has_more or both.wire.inbox
    both.wire.take()
    both.stream.close_notify()
    with pytest.raises(ssl.SSLZeroReturnError):
        both.other.opened(both.wire.take())
    # None of this may be taken for a failure: the peer has done nothing wrong.
    both.gives(both.other.seal(b"a second one"))
    recv_all(both)
    both.gives(both.other.goodbye())
    assert both.stream.recv(65536) == b""
    assert both.stream.closed


def test_close_notify_that_has_to_wait() -> None:
    both = Both()
    both.wire.take()
    both.wire.room = 10
    both.stream.close_notify()
    assert both.owner.blocked == 1
    both.wire.room = None
    assert both.stream.sendmsg([]) == 0
    with pytest.raises(ssl.SSLZeroReturnError):
        both.other.opened(both.wire.take())


@each_version
def test_close_notify_goes_behind_what_is_owed(version: ssl.TLSVersion) -> None:
    both = Both(version=version)
    both.wire.take()
    both.wire.room = 10
    assert both.stream.send(b"last words") == 0
    both.stream.close_notify()
    both.wire.room = None
    assert both.stream.sendmsg([b"last words"]) == 10
    assert both.other.opened(both.wire.take()) == b"last words"
    with pytest.raises(ssl.SSLZeroReturnError):
        both.other.opened(b"")


# -- receiving -------------------------------------------------------------------------------------


@each_side
@each_version
@settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
@given(
    messages=st.lists(sizes, max_size=8),
    cuts=st.lists(st.one_of(st.integers(1, 30), st.integers(1, 70_000)), min_size=1, max_size=20),
    ending=st.sampled_from([None, "close_notify", "end", "both"]),
)
def test_any_chunking_of_the_wire(
    side: str,
    version: ssl.TLSVersion,
    messages: list[int],
    cuts: list[int],
    ending: str | None,
) -> None:
    both = Both(side, version)
    recv_all(both)
    expected = bytearray()
    cipher = bytearray()
    for size in messages:
        begin = len(expected) % WINDOW
        expected += BLOCK[begin : begin + size]
        cipher += both.other.seal(BLOCK[begin : begin + size])
    if ending in ("close_notify", "both"):
        cipher += both.other.goodbye()
    turn = 0
    while cipher:
        size = cuts[turn % len(cuts)] if turn < 300 else len(cipher)
        both.gives(bytes(cipher[:size]))
        del cipher[:size]
        turn += 1
    if ending in ("end", "both"):
        both.gives(None)
    assert recv_all(both) == expected
    assert both.stream.closed is (ending in ("close_notify", "both"))


@each_version
def test_records_one_byte_at_a_time(version: ssl.TLSVersion) -> None:
    both = Both(version=version)
    cipher = both.other.seal(b"one") + both.other.seal(b"two") + both.other.goodbye()
    got = []
    for byte in cipher:
        both.gives(bytes([byte]))
        try:
            got.append(both.stream.recv(65536))
        except BlockingIOError:
            continue
    assert got == [b"one", b"two", b""]


@each_version
@pytest.mark.parametrize("size", [10, 3 * LARGE])
def test_data_and_close_notify_in_one_batch(version: ssl.TLSVersion, size: int) -> None:
    both = Both(version=version)
    both.gives(both.other.seal(BLOCK[:size]) + both.other.goodbye())
    assert both.stream.recv(65536) == BLOCK[:size]
    assert both.owner.again == 1
    assert both.stream.has_more
    assert both.stream.pull() == b""
    assert both.stream.closed


@each_version
def test_what_comes_after_close_notify_is_ignored(version: ssl.TLSVersion) -> None:
    both = Both(version=version)
    goodbye = both.other.goodbye()
    both.gives(goodbye + bytes(100), b"whatever", bytes(60_000), None)
    for _ in range(4):
        assert both.stream.recv(65536) == b""
    assert both.stream.closed
    # And we may still send.
    both.wire.take()
    assert both.stream.send(b"still here") == 10


@each_version
@pytest.mark.parametrize("size", [0, 10, LARGE, 3 * LARGE])
def test_data_and_a_broken_record_in_one_batch(version: ssl.TLSVersion, size: int) -> None:
    """The data is delivered first, and then it fails; as often as it is asked."""
    both = Both(version=version)
    both.wire.take()
    broken = bytearray(both.other.seal(BLOCK[:size]))
    last = bytearray(both.other.seal(b"changed on the way"))
    last[-1] ^= 1
    broken += last
    both.gives(bytes(broken) + bytes(50))
    if size:
        assert both.stream.recv(65536) == BLOCK[:size]
        assert both.owner.again == 1
        assert both.stream.has_more
    with pytest.raises(ssl.SSLError) as caught:
        both.stream.pull() if size else both.stream.recv(65536)
    assert caught.value.reason == "DECRYPTION_FAILED_OR_BAD_RECORD_MAC"
    assert not both.stream.closed
    with pytest.raises(ssl.SSLError, match="BAD_RECORD_MAC"):
        both.other.opened(both.wire.take())
    if size:
        assert both.stream.has_more
        with pytest.raises(ssl.SSLError) as caught:
            both.stream.pull()
        assert caught.value.reason == "DECRYPTION_FAILED_OR_BAD_RECORD_MAC"


@each_version
def test_the_end_of_the_socket_without_close_notify(version: ssl.TLSVersion) -> None:
    both = Both(version=version)
    both.gives(both.other.seal(b"the beginning"), None)
    assert recv_all(both) == b"the beginning"
    assert both.stream.recv(65536) == b""
    assert not both.stream.closed


@each_version
@pytest.mark.parametrize("part", [1, 4, 5, 6, 20, -1])
def test_the_end_of_the_socket_in_the_middle_of_a_record(
    version: ssl.TLSVersion, part: int
) -> None:
    both = Both(version=version)
    beginning = both.other.seal(b"the beginning")
    both.gives(beginning + both.other.seal(b"never complete" * 100)[:part], None)
    assert recv_all(both) == b"the beginning"
    # The end, and not "nothing yet": nobody would ever ask again, or for ever.
    assert both.stream.recv(65536) == b""
    assert not both.stream.closed


@each_version
@pytest.mark.parametrize("part", [1, 5, 20])
def test_the_end_of_the_socket_behind_what_came_with_the_handshake(
    version: ssl.TLSVersion, part: int
) -> None:
    both = Both("server", version, shake=False)
    both.shake(last=b"the first request")
    both.gives(both.other.seal(b"never complete")[:part], None)
    assert recv_all(both) == b"the first request"
    assert both.stream.recv(65536) == b""


def test_a_fatal_alert_of_the_peer_is_an_error_and_not_an_end() -> None:
    both, forger = forged()
    both.gives(forger.data(b"last words") + forger.alert(2, 80))
    assert both.stream.recv(65536) == b"last words"
    with pytest.raises(ssl.SSLError) as caught:
        both.stream.pull()
    assert "internal error" in failure(caught.value)
    assert not both.stream.closed


def test_the_socket_that_failed_raises() -> None:
    both = Both()

    def recv(_size: int) -> bytes:
        raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))

    both.wire.recv = recv  # type: ignore[method-assign]
    with pytest.raises(ConnectionResetError):
        both.stream.recv(65536)


@each_side
def test_a_socket_that_fails_in_the_handshake_is_remembered(side: str) -> None:
    """The owner reads the socket itself then, and finds a mere end."""
    both = Both(side, shake=False)
    both.wire.fails = ConnectionResetError(errno.ECONNRESET, "gone")
    if side == "server":
        both.stream.receive(both.other.step(b"")[1])
    assert both.stream.lost is None
    assert both.stream.handshake() is False
    assert both.stream.lost is both.wire.fails


@each_version
def test_a_client_that_has_gone_when_the_handshake_is_complete_is_heard_to_the_end(
    version: ssl.TLSVersion,
) -> None:
    """Finished, request and goodbye have come, and nobody takes our tickets any more."""
    both = Both("server", version, shake=False)
    both.stream.receive(both.other.step(b"")[1])
    both.stream.handshake()
    done, data = both.other.step(both.wire.take())
    if version is V12:
        both.stream.receive(data)
        assert both.stream.handshake()
        done, data = both.other.step(both.wire.take())
    assert done
    both.wire.fails = BrokenPipeError(errno.EPIPE, "gone")
    data += both.other.seal(b"log this") + both.other.goodbye()
    both.gives(None)
    if version is V13:
        both.stream.receive(data)
        assert both.stream.handshake()
        assert both.stream.pull() == b"log this"
    else:
        both.wire.inbox.appendleft(data)
        assert both.stream.recv(65536) == b"log this"
    assert both.stream.recv(65536) == b""
    assert both.stream.closed


# -- records that only TLS 1.3 has -----------------------------------------------------------------


def forged(side: str = "server", *, shake: bool = True) -> tuple[Both, Forger]:
    """A stream, and who writes records in the name of its other end."""
    other = client_context(V13) if side == "server" else server_context(V13)
    if side == "client":
        other.num_tickets = 0
    log = SecretLog(other)
    both = Both(side, V13, other=other, shake=shake)
    both.log = log  # type: ignore[attr-defined]
    both.wire.take() if side == "client" else both.other.opened(both.wire.take())
    return both, Forger(both.other.tls, log)


@each_side
@pytest.mark.parametrize("request_ours", [False, True])
def test_key_updates_pass_unnoticed(side: str, request_ours: bool) -> None:
    both, forger = forged(side)
    expected = b""
    for number in range(20):
        data = b"%d" % number * 50
        both.gives(forger.data(data) + forger.key_update(request=request_ours))
        expected += data
    assert recv_all(both) == expected
    for _ in range(3):
        assert both.stream.send(b"after it") == 8
        assert both.other.opened(both.wire.take()) == b"after it"
    assert not both.owner.blocked


@pytest.mark.parametrize("room", [0, 1, 20, 60])
def test_a_key_update_while_bytes_are_owed(room: int) -> None:
    """Our answer goes behind what is encrypted already, and before what is not yet."""
    both, forger = forged()
    both.wire.room = room
    sender = Sender(both)
    sender.send(b"encrypted under the old key, and half sent" * 10)
    for _ in range(3):
        both.gives(forger.key_update(request=True) + forger.data(b"x"))
    assert recv_all(both) == b"xxx"
    sender.send(b"encrypted under the new one")
    both.wire.room = None
    while sender.queue is not None:
        sender.flush()
    assert both.other.opened(both.wire.take()) == (
        b"encrypted under the old key, and half sent" * 10 + b"encrypted under the new one"
    )


def test_a_key_update_whose_answer_has_to_wait() -> None:
    """Nobody sends meanwhile, so the owner is told to wait until it can write."""
    both, forger = forged()
    both.wire.room = 0
    # OpenSSL may answer the last one only when we send next.
    both.gives(forger.key_update(request=True) + forger.key_update(request=True))
    assert recv_all(both) == b""
    assert both.owner.blocked == 1
    both.wire.room = None
    assert both.stream.sendmsg([]) == 0
    assert both.wire.taken
    both.stream.send(b"after it")
    assert both.other.opened(both.wire.take()) == b"after it"


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    plan=st.lists(
        st.one_of(
            st.tuples(st.just("send"), sizes),
            st.tuples(st.just("flush"), rooms),
            st.tuples(st.just("update"), st.booleans()),
            st.tuples(st.just("come"), st.integers(1, 40_000)),
            st.tuples(st.just("read"), st.integers(1, 70_000)),
        ),
        max_size=30,
    )
)
def test_key_updates_while_data_flows_both_ways(plan: list[tuple[str, Any]]) -> None:
    both, forger = forged()
    sender = Sender(both)
    sent, arrived, given_, got = (bytearray() for _ in range(4))
    wire = bytearray()
    for what, how in plan:
        match what:
            case "send":
                begin = len(sent) % WINDOW
                data = BLOCK[begin : begin + how]
                sent += data
                sender.send(data)
            case "flush":
                both.wire.room = how
                sender.flush()
            case "update":
                wire += forger.key_update(request=how)
            case "come":
                data = BLOCK[: min(how, RECORD)]
                given_ += data
                wire += forger.data(data)
            case "read":
                both.gives(bytes(wire[:how]))
                del wire[:how]
                got += recv_all(both)
        arrived += both.other.opened(both.wire.take())
    both.gives(bytes(wire))
    got += recv_all(both)
    both.wire.room = None
    while sender.queue is not None or both.owner.blocked:
        sender.flush()
    arrived += both.other.opened(both.wire.take())
    assert arrived == sent
    assert got == given_


def test_empty_records_are_nothing() -> None:
    both, forger = forged()
    both.gives(forger.data(b"") + forger.data(b"one") + forger.data(b"") + forger.data(b"two"))
    assert recv_all(both) == b"onetwo"
    both.gives(forger.data(b""))
    with pytest.raises(BlockingIOError):
        both.stream.recv(65536)


def test_many_tiny_records_in_one_batch() -> None:
    both, forger = forged()
    both.gives(b"".join(forger.data(b"%d" % (n % 10)) for n in range(2500)))
    assert recv_all(both) == b"0123456789" * 250


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (99, b"no such kind"),
        (HANDSHAKE, b"\x01\0\0\x05hello"),
        (HANDSHAKE, b"\x63\0\0\0"),
        (HANDSHAKE, b"\x18\0\0\x01\x07"),
        (HANDSHAKE, b""),
        (20, b"\x01"),
    ],
    ids=["unknown", "hello", "no such message", "key update of no kind", "empty", "ccs"],
)
def test_what_has_no_place_after_the_handshake_is_an_error(kind: int, content: bytes) -> None:
    both, forger = forged()
    both.gives(forger.data(b"before") + forger.record(kind, content))
    assert both.stream.recv(65536) == b"before"
    with pytest.raises(ssl.SSLError):
        both.stream.pull()
    assert not both.stream.closed


@pytest.mark.parametrize("batch", [1, 500])
def test_a_peer_that_reads_nothing_and_asks_for_keys_cannot_eat_the_memory(batch: int) -> None:
    """Each request is answered by a record."""
    both, forger = forged()
    both.wire.room = 0

    def flood() -> None:
        for _ in range(20_000 // batch):
            both.gives(b"".join(forger.key_update(request=True) for _ in range(batch)))
            recv_all(both)

    with pytest.raises(ssl.SSLError) as caught:
        flood()
    assert both.stream._unsent is not None
    assert both.stream._unsent.size < 200_000
    assert failure(caught.value) == "the peer asks for new keys and does not read the answers"
    # It is over, whatever comes.
    both.gives(forger.data(b"x"), None)
    for _ in range(3):
        with pytest.raises(ssl.SSLError):
            both.stream.recv(65536)


def test_a_peer_that_asks_for_keys_and_reads_may_do_so_for_ever() -> None:
    both, forger = forged()
    for _ in range(20):
        both.gives(b"".join(forger.key_update(request=True) for _ in range(500)))
        recv_all(both)
        both.other.opened(both.wire.take())
    both.gives(forger.data(b"x"))
    assert recv_all(both) == b"x"


@each_version
def test_a_broken_record_and_the_end_of_the_socket(version: ssl.TLSVersion) -> None:
    """The owner has not come for the failure yet when the socket ends: it is no truncation."""
    both = Both("client", version)
    recv_all(both)
    last = bytearray(both.other.seal(b"good") + both.other.seal(b"changed on the way"))
    last[-1] ^= 1
    both.gives(bytes(last), None)
    assert both.stream.recv(65536) == b"good"
    for _ in range(2):
        with pytest.raises(ssl.SSLError, match="BAD_RECORD_MAC"):
            both.stream.recv(65536)


@each_version
def test_close_notify_in_the_middle_of_a_record_of_the_peer(version: ssl.TLSVersion) -> None:
    both = Both("server", version)
    cipher = both.other.seal(b"on its way")
    both.gives(cipher[:-4])
    with pytest.raises(BlockingIOError):
        both.stream.recv(65536)
    both.stream.close_notify()
    both.gives(cipher[-4:] + both.other.seal(b" and more"))
    assert recv_all(both) == b"on its way and more"
    both.gives(both.other.goodbye())
    assert both.stream.recv(65536) == b""
    assert both.stream.closed


@each_side
@settings(deadline=None, max_examples=100, suppress_health_check=list(HealthCheck))
@given(
    batches=st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.builds(
                lambda kind, size, body: bytes([kind, 3, 3]) + size.to_bytes(2) + body,
                st.sampled_from([20, 21, 22, 23, 24, 99]),
                st.one_of(st.integers(0, 60), st.integers(0, 65535)),
                st.binary(max_size=60),
            ),
            st.just(b""),
        ),
        max_size=8,
    ),
    good=st.binary(min_size=1, max_size=30),
)
def test_garbage_raises_nothing_but_what_it_may_and_ends(
    side: str, batches: list[bytes], good: bytes
) -> None:
    """At the end of the socket there is an end or an error, never "nothing yet" for ever."""
    both = Both(side)
    recv_all(both)
    both.gives(both.other.seal(good))
    assert recv_all(both) == good
    both.gives(*(batch for batch in batches if batch), None)
    for _ in range(40):
        try:
            if both.stream.recv(65536) == b"":
                break
        except BlockingIOError:
            continue
        except ssl.SSLError:
            break
    else:
        pytest.fail("it never ended")


def test_a_key_update_after_our_close_notify_needs_no_answer() -> None:
    """The owner has shut its side of the socket down by then."""
    both, forger = forged()
    both.stream.close_notify()
    both.wire.fails = BrokenPipeError(errno.EPIPE, "shut down")
    both.gives(forger.key_update(request=True) + forger.key_update(request=True), None)
    assert recv_all(both) == b""
    assert both.stream.recv(65536) == b""


# -- real sockets ----------------------------------------------------------------------------------


@pytest.fixture
def tiny() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connected pair whose buffers hold next to nothing."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for one in (ours, theirs):
            one.setblocking(False)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2048)
        yield ours, theirs


@each_version
def test_both_directions_over_a_socket_that_holds_next_to_nothing(
    version: ssl.TLSVersion, tiny: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = tiny
    both = Both("server", version)
    both.other.opened(both.wire.take())
    both.stream._sock = ours  # type: ignore[assignment]
    sender = Sender(both)
    data = BLOCK[:400_000]
    back = BLOCK[100_000:400_000]
    cipher = memoryview(both.other.seal(back) + both.other.goodbye())
    arrived, got = bytearray(), bytearray()
    pieces = iter([data[at : at + 9999] for at in range(0, len(data), 9999)])
    while len(arrived) < len(data) or not both.stream.closed:
        piece = next(pieces, None)
        if piece is not None:
            sender.send(piece)
        sender.flush()
        try:
            arrived += both.other.opened(theirs.recv(1500))
        except BlockingIOError:
            pass
        try:
            cipher = cipher[theirs.send(cipher) :] if cipher else cipher
        except BlockingIOError:
            pass
        try:
            got += both.stream.recv(700)
        except BlockingIOError:
            continue
    assert arrived == data
    assert got == back
    assert sender.counted == len(data)


# -- what was agreed on ----------------------------------------------------------------------------


def test_info() -> None:
    context = server_context()
    context.set_alpn_protocols(["echo/2", "echo/1"])
    context.load_verify_locations(certificates.ca())
    context.verify_mode = ssl.CERT_REQUIRED
    other = client_context(certificate=certificates.client("somebody"))
    other.set_alpn_protocols(["echo/1"])
    info = Both("server", context=context, other=other).stream.info
    assert info.alpn == "echo/1"
    assert info.protocol == "TLSv1.3"
    assert info.cipher.startswith("TLS_")
    assert info.resumed is False
    assert info.peer_certificate is not None
    assert b"somebody" in info.peer_certificate
    assert "somebody" in str(info.peer_certificate_fields()["subject"])
    assert repr(info) == f"<TLSv1.3 {info.cipher}>"


def test_info_where_little_was_agreed_on() -> None:
    info = Both("server").stream.info
    assert info.alpn is None
    assert info.peer_certificate is None
    assert info.peer_certificate_fields() == {}
    assert info.server_name is None


def test_info_of_a_client() -> None:
    info = Both("client").stream.info
    assert info.server_name == "localhost"
    assert info.peer_certificate is not None
    assert ("DNS", "localhost") in info.peer_certificate_fields()["subjectAltName"]


def test_info_of_a_resumed_session() -> None:
    context = server_context(V12)
    other = client_context(V12)
    first = Both("server", context=context, other=other)
    again = Other(other, server_side=False)
    again.tls = other.wrap_bio(
        again.incoming, again.outgoing, server_hostname="localhost", session=first.other.tls.session
    )
    second = Both("server", context=context, other=other, shake=False)
    second.other = again
    second.shake()
    assert second.stream.info.resumed is True
    assert first.stream.info.resumed is False
    assert isinstance(second.stream.info, TlsInfo)


# -- why it failed ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "plain HTTP came to the port of TLS (HTTP_REQUEST)"),
        (b"CONNECT x:1 HTTP/1.1\r\n", "a plain HTTP CONNECT came to the port of TLS"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "what came is no TLS (WRONG_VERSION_NUMBER)"),
        (bytes(100), "what came is no TLS (WRONG_VERSION_NUMBER)"),
        (b"\x17\x03\x03\0\x05hello", "what came does not belong into a handshake"),
    ],
)
def test_failures_in_words(data: bytes, words: str) -> None:
    both = Both("server", shake=False)
    both.stream.receive(data)
    with pytest.raises(ssl.SSLError) as caught:
        both.stream.handshake()
    assert failure(caught.value).startswith(words)


def test_failures_of_two_that_have_nothing_in_common() -> None:
    both = Both("server", V13, other=client_context(V12), shake=False)
    both.stream.receive(both.other.step(b"")[1])
    with pytest.raises(ssl.SSLError) as caught:
        both.stream.handshake()
    assert failure(caught.value).startswith("no version of TLS that both sides know")
    with pytest.raises(ssl.SSLError, match="ALERT_PROTOCOL_VERSION"):
        both.other.step(both.wire.take())


def test_failures_that_are_not_of_tls() -> None:
    assert failure(ConnectionError("the peer went")) == "the peer went"
    assert failure(TimeoutError("not complete within 3 s")) == "not complete within 3 s"
