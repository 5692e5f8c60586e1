"""TlsStream: TLS on a socket that somebody else owns and watches.

OpenSSL never sees the socket. It reads from one memory buffer and writes to another, and what
passes between them and the socket is moved here: one `recv` brings whatever the kernel has, all
whole records in it are decrypted, and one gathered send carries whatever was encrypted. To its
owner a stream looks like a non-blocking socket: `recv`, `send` and `sendmsg` count plain bytes and
raise BlockingIOError where there is nothing to do.

Three things cannot be seen from the socket, so the owner is told of them:

- TLS has something to say for itself (a key update, a session ticket, an alert) and the kernel does
  not take it: `tls_blocked`. The owner waits until it can write and calls `sendmsg`.
- Behind bytes that were returned stands more, the end, or a failure: `tls_read_again`. The owner
  calls `pull` when it has delivered them, since the socket may never be readable again.
- The bytes that the kernel did not take are encrypted already and cannot be taken back. `send` and
  `sendmsg` count plain bytes only when all their cipher has left. What is half sent is *owed*: the
  owner keeps those bytes at the head of its queue, and the next call begins with them.

The peer's proper end is its close_notify. A connection that ends without it has been truncated, by
the peer or by somebody between; `closed` tells the two apart, and OpenSSL is not told of the
socket's end, since it would refuse to send what is still queued.
"""

from __future__ import annotations

import _socket
import ssl
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Protocol

from ginsfsm.net.output import OutputQueue
from ginsfsm.net.tls_info import TlsInfo

__all__ = ["TlsOwner", "TlsStream"]

RECORD: Final = 16 * 1024
"""Plain bytes of the largest record (RFC 8446, 5.1)."""

HEADER: Final = 5
"""Bytes before each record: its kind, a version, and the length of what follows."""

MAX_LENGTH: Final = RECORD + 2048
"""Of what follows the header; TLS 1.3 allows only 256 more than a record (RFC 5246, 6.2.3)."""

WINDOW: Final = 4 * RECORD
"""Plain bytes encrypted before the kernel is asked to take them; one gathered send."""

RX_SIZE: Final = WINDOW + 8 * 1024
"""Bytes asked of one receive: a window with what TLS adds to it, so that 64 KiB come at once."""

BURST: Final = 4 * WINDOW
"""Plain bytes sent in one call, so that a fast peer leaves the turn to the others."""


SLICE: Final = 128
"""Records taken in one turn. One byte can be a record of 23, and what one receive brings 3 000."""

OWN_COST: Final = 8
"""Records of data that one of TLS's own counts as. New keys take 30 microseconds to derive."""

OWN_MAX: Final = 2 * WINDOW
"""Bytes that wait for the peer at which TLS may not add of its own, a window of data among them."""


class TlsOwner(Protocol):
    """Who reads, writes and watches the socket."""

    def tls_blocked(self) -> None:
        """Call `sendmsg` when the socket can be written, with whatever is queued, or nothing."""

    def tls_read_again(self) -> None:
        """Call `pull` when what was returned has been delivered."""


class TlsStream:
    """TLS over one non-blocking socket.

    Args:
        sock: the connected socket; its owner closes it.
        owner: see `TlsOwner`.
        wrap: makes the SSLObject from the buffers for what comes in and what goes out. It is called
            with the first step of the handshake, so that a client that never speaks costs nothing.
        received: bytes of the peer's handshake that are here already.
        unsent: plain bytes from before TLS that have to leave first.

    Attributes:
        closed: the peer has sent its close_notify.
        closing: we have sent ours.
        lost: why the socket did not take what TLS had to say for itself. The end of the socket is
            none then: `recv` raises this instead.
        due: the owner has asked for a step of the handshake and not made it yet.
    """

    __slots__ = (
        "_aligned",
        "_behind",
        "_error",
        "_feed",
        "_held",
        "_in",
        "_missing",
        "_object",
        "_out",
        "_owed",
        "_owner",
        "_plain",
        "_read",
        "_sock",
        "_unsent",
        "_wrap",
        "_write",
        "closed",
        "closing",
        "due",
        "lost",
    )

    _read: Callable[[int], bytes]
    _write: Callable[[Any], int]
    _feed: Callable[[Any], int]

    def __init__(
        self,
        sock: _socket.socket,
        owner: TlsOwner,
        wrap: Callable[[ssl.MemoryBIO, ssl.MemoryBIO], ssl.SSLObject],
        received: bytes = b"",
        unsent: OutputQueue | None = None,
    ) -> None:
        self._sock = sock
        self._owner = owner
        self._wrap = wrap
        # What has come of the peer and OpenSSL has not been given yet.
        self._held = received
        self._unsent = unsent
        self._plain = 0 if unsent is None else unsent.size
        self._object: ssl.SSLObject | None = None
        self._in: ssl.MemoryBIO
        self._out: ssl.MemoryBIO
        self._owed = 0
        self._behind = False
        # How much of a record is missing that OpenSSL has been given the first part of.
        self._missing = 0
        self._aligned = True
        self._error: ssl.SSLError | None = None
        self.closed = False
        self.closing = False
        self.lost: OSError | None = None
        self.due = False

    @property
    def info(self) -> TlsInfo:
        """What was agreed on; only after the handshake."""
        assert self._object is not None
        return TlsInfo(self._object)

    # -- the handshake -----------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Keep what has come of the peer's handshake for the next step."""
        self._held = self._held + data if self._held else data

    @property
    def silent(self) -> bool:
        """Whether the peer has not sent a byte yet."""
        return self._object is None and not self._held

    @property
    def only_plain_waits(self) -> bool:
        """Whether plain bytes from before TLS wait for the peer, and nothing of TLS was sent."""
        return self._object is None and self._unsent is not None

    @property
    def plain_sent(self) -> int:
        """How many of the plain bytes from before TLS the kernel has taken."""
        unsent = self._unsent
        # No step of TLS is made before the last of them has left.
        return self._plain - (unsent.size if self._object is None and unsent is not None else 0)

    @property
    def plain_queued(self) -> int:
        """How many of them still wait."""
        return self._plain - self.plain_sent

    def take_back(self) -> OutputQueue | None:
        """The plain bytes from before TLS that the peer has not taken; the stream is over."""
        unsent, self._unsent = self._unsent, None
        return unsent

    def handshake(self) -> bool:
        """Make one step: all that can be done with what has been received.

        Returns:
            True when the handshake is complete.

        Raises:
            ssl.SSLError: it failed; the peer has been sent the alert that says why.
            ValueError: the host name to ask for is none.
            OSError: the socket failed.
        """
        if self._object is None:
            # The peer takes what comes after our first record for TLS, so plain output goes first.
            if self._unsent is not None and not self.flush():
                self._owner.tls_blocked()
                return False
            self._in = ssl.MemoryBIO()
            self._out = ssl.MemoryBIO()
            self._object = self._wrap(self._in, self._out)
        if self._held:
            self._in.write(self._held)
            self._held = b""
        try:
            with _undecodable_names_dropped():
                self._object.do_handshake()
        except ssl.SSLWantReadError:
            done = False
        except ssl.SSLError:
            self._send_own()
            raise
        else:
            done = True
            # The methods of OpenSSL's own object: what every message passes has to be one call.
            inner = getattr(self._object, "_sslobj", self._object)
            self._read = inner.read
            self._write = inner.write
            self._feed = self._in.write
            # OpenSSL takes one record at a time. What it has left is the first of the data.
            self._held = self._in.read()
            self._aligned = not self._held
        self._send_own()
        return done

    # -- receiving ---------------------------------------------------------------------------------

    @property
    def has_more(self) -> bool:
        """Whether `pull` has something to return or to raise, without the socket being readable."""
        return self.closed or self._error is not None or bool(self._held)

    def recv(self, _size: int) -> bytes:
        """Receive, and return what could be decrypted; the stream knows how much to ask for.

        Returns:
            Plain bytes, of any number of records; none at the end, see `closed`.

        Raises:
            BlockingIOError: no whole record of data has come.
            ssl.SSLError: a record is wrong.
            OSError: the socket failed.
        """
        if self._behind:
            # What has come already first: it must not pile up.
            return self.pull()
        data = self._sock.recv(RX_SIZE)
        count = len(data)
        if count < HEADER or not self._aligned or count != HEADER + (data[3] << 8 | data[4]):
            return self._take(data)
        # One record: nearly every message.
        self._feed(data)
        try:
            plain = self._read(count)
        except ssl.SSLError as error:
            return self._nothing(error)
        # A record that brings data brings no answer of TLS's own: nothing to look for in `_out`.
        if not plain:
            self.closed = True
        return plain

    def pull(self) -> bytes:
        """Return what can be decrypted of what has been received before; as `recv`."""
        if self._error is not None:
            raise self._error
        if self.closed:
            return b""
        self._behind = False
        held, self._held = self._held, b""
        return self._decrypt(held)

    def _nothing(self, error: ssl.SSLError) -> bytes:
        """What `recv` returns or raises instead of data."""
        if isinstance(error, ssl.SSLZeroReturnError):
            # What `read` raises instead of returning nothing when we have sent close_notify.
            self.closed = True
            return b""
        self._answer()
        if self._error is not None:
            raise self._error
        if isinstance(error, ssl.SSLWantReadError):
            # A record of TLS's own, or not a whole one.
            raise BlockingIOError from None
        raise error

    def _take(self, data: bytes) -> bytes:
        """Receive anything but exactly one record."""
        if self._error is not None:
            # The end of the socket does not make it a truncation.
            raise self._error
        if self.closed:
            # Nothing that comes after close_notify is the peer's.
            return b""
        held, self._held = self._held, b""
        if not data:
            # The end. What came whole goes before it.
            if len(held) > HEADER:
                return self._decrypt(held)
            if self.lost is not None:
                raise self.lost
            return b""
        return self._decrypt(held + data if held else data)

    def _decrypt(self, data: bytes) -> bytes:
        """Give OpenSSL one record after the other, and ask only when it has a whole one.

        To ask for more than there is would cost an exception, which takes longer than a record of
        1 KiB. And the buffer between us and OpenSSL never shrinks: it would keep the largest batch.
        """
        view = memoryview(data)
        size = len(data)
        chunks: list[bytes] = []
        start = 0
        left = SLICE
        while start < size:
            if left <= 0:
                # The others have their turn, and this one again.
                self._held = data[start:]
                self._behind = True
                break
            if self._missing:
                end = start + self._missing
            elif size - start < HEADER:
                self._held = data[start:]
                break
            else:
                length = data[start + 3] << 8 | data[start + 4]
                # What no record can be is for OpenSSL to refuse, at once.
                end = start + HEADER + length if length <= MAX_LENGTH else size
            self._feed(view[start:end])
            self._missing = max(0, end - size)
            start = end
            if not self._missing:
                cost = self._read_record(chunks)
                if not cost:
                    break
                left -= cost
        self._aligned = not self._missing and not self._held
        if self._out.pending:
            self._answer()
        if self._error is not None:
            # Nothing more is given to OpenSSL.
            self._aligned = False
        if self._behind:
            self._owner.tls_read_again()
        if chunks:
            if self.closed or self._error is not None:
                self._owner.tls_read_again()
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)
        if self._error is not None:
            raise self._error
        if self.closed:
            return b""
        raise BlockingIOError

    def _read_record(self, chunks: list[bytes]) -> int:
        """Decrypt one record; what it cost, 0 where none can follow."""
        try:
            plain = self._read(RECORD)
        except ssl.SSLWantReadError:
            return OWN_COST
        except ssl.SSLZeroReturnError:
            plain = b""
        except ssl.SSLError as error:
            self._error = error
            return 0
        if not plain:
            self.closed = True
            return 0
        chunks.append(plain)
        return 1

    # -- sending -----------------------------------------------------------------------------------

    def send(self, data: bytes | memoryview) -> int:
        """Encrypt and send; only while nothing is owed.

        Returns:
            How many plain bytes have left; the others may be owed, so they must come again, first.

        Raises:
            ssl.SSLError, OSError: sending is over.
        """
        size = len(data)
        if size > RECORD:
            return self._send_large(memoryview(data)[:BURST])
        if not size:
            return 0
        self._write(data)
        cipher = self._out.read()
        try:
            sent = self._sock.send(cipher)
        except (BlockingIOError, InterruptedError):
            sent = 0
        if sent == len(cipher):
            return size
        self._keep(memoryview(cipher)[sent:])
        self._owed = size
        return 0

    def sendmsg(self, pieces: Sequence[bytes | bytearray | memoryview]) -> int:
        """Send what is owed, then more of these bytes; they begin with those that are owed.

        Returns:
            How many plain bytes have left.

        Raises:
            BlockingIOError: the kernel did not take what was encrypted before.
            ssl.SSLError, OSError: sending is over.
        """
        left = 0
        if self._unsent is not None:
            if not self.flush():
                raise BlockingIOError
            left, self._owed = self._owed, 0
        more = _gathered(pieces, left)
        return left + self._send_large(more) if more else left

    def _send_large(self, data: memoryview) -> int:
        left = 0
        write = self._write
        out = self._out
        for start in range(0, len(data), WINDOW):
            window = data[start : start + WINDOW]
            records = []
            for at in range(0, len(window), RECORD):
                write(window[at : at + RECORD])
                records.append(out.read())
            try:
                sent = self._sock.sendmsg(records)
            except (BlockingIOError, InterruptedError):
                sent = 0
            if sent != sum(map(len, records)):
                for record in records:
                    if sent < len(record):
                        self._keep(memoryview(record)[sent:])
                    sent = max(0, sent - len(record))
                self._owed = len(window)
                return left
            left += len(window)
        return left

    def flush(self) -> bool:
        """Send what the kernel did not take; True when nothing is left of it. Raises OSError."""
        unsent = self._unsent
        while unsent is not None:
            try:
                unsent.sent(self._sock.sendmsg(unsent.first()))
            except (BlockingIOError, InterruptedError):
                return False
            if not unsent.size:
                self._unsent = unsent = None
        return True

    def close_notify(self) -> None:
        """Send our proper end. It may have to wait: see `TlsOwner.tls_blocked`."""
        assert self._object is not None
        self.closing = True
        try:
            self._object.unwrap()
        except ssl.SSLError:
            # Ours has been written. What is missing is the peer's, which may come later.
            pass
        self._send_own()

    def _answer(self) -> None:
        """Send what TLS says for itself to what has been received; not without end."""
        self._send_own()
        if self._unsent is not None and self._unsent.size > OWN_MAX and self._error is None:
            self._error = ssl.SSLError(
                ssl.SSL_ERROR_SSL, "the peer asks for new keys and does not read the answers"
            )
            self._aligned = False

    def _send_own(self) -> None:
        """Send what TLS says for itself."""
        cipher = self._out.read()
        if not cipher:
            return
        if self._unsent is None:
            try:
                sent = self._sock.send(cipher)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as error:
                # Sending is over, and what has come is still to be delivered. The system says it
                # only once: what the owner gets from it when it receives next is a mere end.
                if not self.closing:
                    self.lost = error
                return
            if sent == len(cipher):
                return
            cipher = cipher[sent:]
        self._keep(cipher)
        self._owner.tls_blocked()

    def _keep(self, cipher: bytes | memoryview) -> None:
        if self._unsent is None:
            self._unsent = OutputQueue()
        self._unsent.append(cipher)


@contextmanager
def _undecodable_names_dropped() -> Iterator[None]:
    """Keep a client from writing to our stderr with a server name that is not ASCII.

    Python decodes the name before it calls anybody, and hands what fails to `sys.unraisablehook`,
    which prints it. The handshake fails with an alert, and that is told in the log like any other.
    """
    before = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        if not (
            isinstance(unraisable.exc_value, UnicodeDecodeError)
            and isinstance(unraisable.object, bytes)
        ):
            before(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


def _gathered(pieces: Sequence[bytes | bytearray | memoryview], skip: int) -> memoryview:
    """A burst of the pieces, without the first bytes of them; copied only where there are many."""
    found: list[memoryview] = []
    room = BURST
    for piece in pieces:
        size = len(piece)
        if skip >= size:
            skip -= size
            continue
        view = memoryview(piece)[skip : skip + room]
        skip = 0
        found.append(view)
        room -= len(view)
        if not room:
            break
    return found[0] if len(found) == 1 else memoryview(b"".join(found))
