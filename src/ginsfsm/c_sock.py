"""GSock: one connection, an honest machine.

What the owner wants and what the kernel does both come as events, and the table below has a row
for each. `EV_READABLE` and `EV_WRITABLE` are what the poller found, `EV_OPENED` is the end of an
attempt to connect, `EV_ENDED` is the peer's end of file, `EV_FLUSHED` says that nothing is queued
any more, and `EV_FAILED` is whatever ends a connection at once.

ST_DISCONNECTED. No socket. A server's gsock leaves it once, by `EV_ACCEPTED`; a client's leaves it
with every `EV_CONNECT` and comes back.

ST_CONNECTING. Addresses are tried one after the other, with a head start for each (Happy Eyeballs).

ST_CONNECTED. What is received goes to the subscriber. `EV_SEND_DATA` tries the socket at once, and
what it does not take waits in the output queue until the poller says that it can be written. When
the peer resets while we send, only sending is over: what it had sent before still lies in the
kernel, and is read to its end.

ST_CLOSING. The owner has dropped the connection, or the peer has ended it, and something is still
on its way to the peer. What the owner still says is ignored, since it may not know yet. What the
peer sends is thrown away, but it is read: closing a socket with unread input makes the kernel send
a reset, which can destroy the last bytes that we sent, and so does input that comes after closing.
So after the last byte our side is shut down, and we wait until the peer has acknowledged all and is
quiet, or has ended its side, never longer than `close_timeout`.

What is told, and when. `EV_CONNECTED`, `EV_RX_DATA` and `EV_RX_END` are sent from the poller's
call. Everything else that the owner hears is deferred to the end of the poller's batch, since it
may be the effect of the owner's own `EV_SEND_DATA` or `EV_DROP`: so a loop over clients that sends
to each is safe, whoever dies in it.
"""

from __future__ import annotations

import _socket
import asyncio
import errno
import logging
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import aiohappyeyeballs

from ginsfsm.errors import EventError
from ginsfsm.event import Event
from ginsfsm.gconfig import param
from ginsfsm.gobj import GObj, _destroy
from ginsfsm.net.ledger import Ledger
from ginsfsm.net.output import OutputQueue
from ginsfsm.net.reason import Reason, reason_of
from ginsfsm.net.unacknowledged import is_acknowledged
from ginsfsm.poller import READ, WRITE
from ginsfsm.row import after, on
from ginsfsm.smachine import NOT_ACCEPTED, NotAccepted

if TYPE_CHECKING:
    from ginsfsm.clock import TimerHandle
    from ginsfsm.task import Task

__all__ = [
    "EV_CONNECT",
    "EV_CONNECTED",
    "EV_CONNECT_FAILED",
    "EV_DISCONNECTED",
    "EV_DROP",
    "EV_FLUSH_OUTPUT_DATA",
    "EV_PAUSE_RX",
    "EV_RESUME_RX",
    "EV_RX_DATA",
    "EV_RX_END",
    "EV_SEND_DATA",
    "EV_TRANSMIT_READY",
    "EV_WRITE_OUTPUT_DATA",
    "GSock",
    "Reason",
]

logger: Final = logging.getLogger("ginsfsm")

RX_SIZE: Final = 64 * 1024
"""Bytes asked of one receive. Blocks of 256 KiB go through mmap and take three times as long."""

LINGER_CHECK: Final = 0.05
"""Seconds between two looks whether a dropped peer has acknowledged the last bytes."""

HEAD_START: Final = 0.25
"""Seconds before the next address is tried as well; RFC 8305 recommends 250 ms."""

RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
"""SO_LINGER for no seconds: closing sends a reset and frees what the kernel still holds."""


class EV_CONNECT(Event):
    """Connect to the parameters `host` and `port`."""


class EV_DROP(Event):
    """End the connection when what is queued has been sent; with `abort`, at once."""

    abort: bool = False


class EV_SEND_DATA(Event):
    """Send these bytes now, or as soon as the peer takes them.

    The action returns True, or `NOT_ACCEPTED` where the bytes are lost because the connection is at
    its end: it was dropped, the peer has reset it, or more than `tx_max` was waiting for the peer.
    """

    data: bytes


class EV_WRITE_OUTPUT_DATA(Event):
    """Queue these bytes; `EV_FLUSH_OUTPUT_DATA` or the next `EV_SEND_DATA` sends them."""

    data: bytes


class EV_FLUSH_OUTPUT_DATA(Event):
    """Send what is queued, in one gathered system call."""


class EV_PAUSE_RX(Event):
    """Receive nothing, so that the peer's window closes."""


class EV_RESUME_RX(Event):
    """Receive again."""


class EV_CONNECTED(Event):
    """The connection is ready. It comes once, before everything else."""

    peername: Any
    """The address of the peer, as Python gives it: a tuple of host, port and more for IPv6."""
    sockname: Any
    """Our own address of this connection, likewise."""


class EV_CONNECT_FAILED(Event):
    """The connection was not made."""

    reason: str


class EV_DISCONNECTED(Event):
    """The connection has ended. It comes once after `EV_CONNECTED`, after the last byte."""

    reason: str


class EV_RX_DATA(Event):
    """Bytes from the peer; any number, at least one."""

    data: bytes


class EV_RX_END(Event):
    """The peer sends no more, and still reads. Comes only with `half_close=True`."""


class EV_TRANSMIT_READY(Event):
    """The output queue had passed `tx_high_water` and has fallen under `tx_low_water`.

    It has also where a send fails and nobody will take what was queued; the end comes next.
    """


class EV_ACCEPTED(Event):
    """The server hands over an accepted socket."""

    peername: Any
    sockname: Any


class EV_OPENED(Event):
    """The attempt to connect has ended."""

    result: Any
    error: BaseException | None


class EV_READABLE(Event):
    """The socket can be read, has ended or has failed."""


class EV_WRITABLE(Event):
    """The socket can be written."""


class EV_ENDED(Event):
    """The peer has closed its side."""


class EV_FLUSHED(Event):
    """Nothing is queued for the peer."""


class EV_FAILED(Event):
    """The connection ends at once."""

    reason: Reason


# One object each for what the poller says: nobody sends them on, and a message need not pay.
_READABLE: Final = EV_READABLE()
_WRITABLE: Final = EV_WRITABLE()


class GSock(GObj):
    """One TCP connection: a client's, or one that a `GServerSock` accepted.

    Attributes:
        peername: the peer's address as Python gives it; None before there was a connection.
        sockname: our own address of the connection, likewise.
    """

    class config(GObj.config):
        """The parameters of a connection. A server hands its own on to those it accepts."""

        subscriber: GObj | None = param(None, "subscriber of all output events; None is the parent")
        host: str = param("", "host to connect to, name or address")
        port: int = param(0, "port to connect to", ge=0, le=65535)
        connect_timeout: float = param(30.0, "seconds to get connected in; 0 is no limit", ge=0)
        close_timeout: float = param(
            10.0, "seconds for the last output to be taken after a drop; 0 is no limit", ge=0
        )
        half_close: bool = param(
            False, "stay open for sending when the peer ends its side, and say EV_RX_END"
        )
        tx_high_water: int = param(
            256 * 1024, "bytes queued from which the owner should stop sending", ge=1
        )
        tx_low_water: int = param(
            64 * 1024, "bytes queued below which EV_TRANSMIT_READY comes", ge=1
        )
        tx_max: int = param(
            16 * 1024 * 1024, "bytes waiting for the peer at which the next send drops it", ge=0
        )
        nodelay: bool = param(True, "send small messages at once (TCP_NODELAY)")
        keepalive: int = param(
            60, "seconds of silence after which the kernel asks for the peer; 0 is never",
            ge=0, le=32767,
        )  # fmt: skip

        def misfits(self) -> Iterator[str]:
            if self.tx_low_water > self.tx_high_water:
                yield (
                    f"tx_low_water: expected at most tx_high_water ({self.tx_high_water}), "
                    f"got {self.tx_low_water}"
                )

    outputs: Sequence[type[Event]] = (
        EV_CONNECTED,
        EV_CONNECT_FAILED,
        EV_DISCONNECTED,
        EV_RX_DATA,
        EV_RX_END,
        EV_TRANSMIT_READY,
    )

    __slots__ = (
        "_ending",
        "_ledger",
        "_linger",
        "_mask",
        "_opening",
        "_reason",
        "_rx_ended",
        "_sock",
        "_tx",
        "_tx_error",
        "peername",
        "sockname",
    )

    peername: Any
    sockname: Any
    _sock: _socket.socket | None
    _mask: int
    _tx: OutputQueue | None
    _tx_error: Reason | None
    _rx_ended: bool
    _reason: Reason
    _opening: Task | None
    _linger: TimerHandle | None
    _ending: bool
    _ledger: Ledger[GSock] | None

    def start_up(self) -> None:
        """No socket yet."""
        self.peername = None
        self.sockname = None
        self._sock = None
        self._opening = None
        self._linger = None
        self._ending = False
        self._ledger = None
        self._clear()

    @property
    def queued(self) -> int:
        """Bytes that wait for the peer to take them, besides those that the kernel has taken."""
        return 0 if self._tx is None else self._tx.size

    def _clear(self) -> None:
        self._mask = 0
        self._tx = None
        self._tx_error = None
        self._rx_ended = False
        self._reason = Reason.LOCAL

    def go_out(self) -> None:
        """Close the socket, if there is one."""
        self._close_socket()

    # -- called by the poller ----------------------------------------------------------------------

    def io_ready(self, mask: int) -> None:
        """The poller found the socket ready. A state without a row for it ignores it.

        Receiving in ST_CONNECTED is done here and not behind a row of the table: what every message
        passes has to be one function.
        """
        if mask != READ or not self._mask & READ or self._state.name != "ST_CONNECTED":
            self._other_readiness(mask)
            return
        try:
            data = self._sock.recv(RX_SIZE)  # type: ignore[union-attr]
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.send_event(self, EV_FAILED(self._tx_error or reason_of(error)))
            return
        if not data:
            self.send_event(self, EV_ENDED())
            return
        event = EV_RX_DATA(data)
        subscriptions = self._subscriptions
        if len(subscriptions) == 1 and self._watch is None:
            # What `_tell` does, without the call.
            only = subscriptions[0]
            if only.event is None and not only.post:
                subscriber = only.subscriber
                handler = subscriber._state.get(EV_RX_DATA)
                if handler is not None:
                    event.source = self
                    try:
                        handler(subscriber, event)
                    except Exception as error:
                        self.gaplic.contain(error, subscriber, event)
                    return
        self._tell(event)

    def _other_readiness(self, mask: int) -> None:
        if mask != WRITE:
            handler = self._state.get(EV_READABLE)
            if handler is not None:
                handler(self, _READABLE)
        if mask & WRITE:
            handler = self._state.get(EV_WRITABLE)
            if handler is not None:
                handler(self, _WRITABLE)

    def io_failed(self, error: Exception) -> None:
        """`io_ready` raised; what subscribers raise is contained before that."""
        self.gaplic.contain(error, self, None)
        self._failed_delivery(None)

    def _failed_delivery(self, event: Event | None) -> None:
        if EV_FAILED in self._state:
            self.send_event(self, EV_FAILED(Reason.ERROR))

    def _wait_for(self, mask: int) -> None:
        """Let the poller watch for exactly this."""
        before = self._mask
        if mask != before and self._sock is not None:
            poller = self.gaplic.poller
            if not before:
                poller.register(self._sock.fileno(), self, mask)
            elif mask:
                poller.modify(self._sock.fileno(), mask)
            else:
                poller.unregister(self._sock.fileno())
            # Only now: a registration that failed must not be undone when the socket closes.
            self._mask = mask

    # -- connecting --------------------------------------------------------------------------------

    def ac_connect(self, _event: EV_CONNECT) -> None:
        self._opening = self.spawn(self._open(), done=EV_OPENED)

    async def _open(self) -> None:
        """Connect; the socket and its names stand in the gsock when this returns."""
        host, port = self.config.host, self.config.port
        if not host or not port:
            raise OSError(errno.EDESTADDRREQ, "give the parameters host and port")
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        sock = await aiohappyeyeballs.start_connection(
            found, happy_eyeballs_delay=HEAD_START, loop=loop
        )
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            # aiohappyeyeballs 2.7 returns a connection although it was cancelled, when that comes
            # while it ends the attempts that have lost.
            sock.close()
            raise asyncio.CancelledError
        # Kept at once: between here and EV_OPENED the gsock may be dropped or destroyed.
        self._sock = sock
        self.peername = self._sock.getpeername()
        self.sockname = self._sock.getsockname()
        set_options(self._sock, self.config)
        # Here and not in ST_CONNECTED: where it fails, the connection was never made.
        self._wait_for(READ)

    def has_opened(self, event: EV_OPENED) -> bool:
        return event.error is None

    def ac_opened(self, _event: EV_OPENED) -> None:
        self._opening = None
        self._tell(EV_CONNECTED(self.peername, self.sockname))

    def ac_not_opened(self, event: EV_OPENED) -> None:
        error = event.error
        reason = reason_of(error) if isinstance(error, OSError) else Reason.ERROR
        logger.info(
            "%s: no connection to %s port %s: %s",
            self.path,
            self.config.host,
            self.config.port,
            error,
        )
        self._forget_opening(reason)

    def ac_connect_timeout(self) -> None:
        logger.info(
            "%s: no connection to %s port %s within %s s",
            self.path, self.config.host, self.config.port, self.config.connect_timeout,
        )  # fmt: skip
        self._forget_opening(Reason.TIMEOUT)

    def ac_stop_connecting(self, _event: EV_DROP) -> None:
        self._forget_opening(Reason.LOCAL)

    def _forget_opening(self, reason: Reason) -> None:
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None
        self._close_socket()
        self.gaplic.poller.defer(lambda: self._tell_later(EV_CONNECT_FAILED(reason)))

    # -- accepted ----------------------------------------------------------------------------------

    def take_over(self, sock: _socket.socket, ledger: Ledger[GSock]) -> None:
        """Own an accepted socket from now on, and stand in its server's ledger until it closes."""
        self._sock = sock
        self._ledger = ledger
        ledger.open(self)

    def ac_accepted(self, event: EV_ACCEPTED) -> None:
        self.peername = event.peername
        self.sockname = event.sockname
        self._wait_for(READ)
        if self._tell(EV_CONNECTED(event.peername, event.sockname)):
            return
        # Where it was dropped, somebody did take it, and only returned what it got of another.
        if self.state == "ST_CONNECTED" and self._asks(EV_CONNECTED):
            # The door is shut: nobody took the connection, and nobody will hear of its end.
            assert self._ledger is not None
            self._ledger.count_refused()
            _destroy(self)

    # -- receiving ---------------------------------------------------------------------------------

    def ac_receive(self, _event: EV_READABLE) -> None:
        # Not where it was paused, or has ended, within the batch that still says it is readable.
        if self._mask & READ:
            self.io_ready(READ)

    def ac_pause(self, _event: EV_PAUSE_RX) -> None:
        self._wait_for(self._mask & ~READ)

    def ac_resume(self, _event: EV_RESUME_RX) -> None:
        if not self._rx_ended:
            self._wait_for(self._mask | READ)

    def stays_half_open(self, _event: EV_ENDED) -> bool:
        return self.config.half_close and self._tx_error is None and self._asks(EV_RX_END)

    def ac_rx_end(self, event: EV_ENDED) -> None:
        self.ac_input_ended(event)
        self._tell(EV_RX_END())

    def ac_input_ended(self, _event: EV_ENDED) -> None:
        # After an end of file the descriptor stays readable for ever: ask no more.
        self._rx_ended = True
        self._wait_for(self._mask & ~READ)

    # -- sending -----------------------------------------------------------------------------------

    def ac_send(self, event: EV_SEND_DATA) -> bool | NotAccepted:
        data: bytes | memoryview = event.data
        if self._tx is not None:
            answer = self._queue(data)
            if not self._mask & WRITE:
                self._flush()
            return answer
        if type(data) is not bytes:
            data = _octets(data)
        try:
            sent = self._sock.send(data)  # type: ignore[union-attr]
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self._send_failed(error)
            return NOT_ACCEPTED
        if sent != len(data):
            rest = memoryview(data)[sent:]
            # A buffer that the sender may change must be copied; bytes cannot change.
            self._append(rest if type(data) is bytes else bytes(rest))
            self._wait_for(self._mask | WRITE)
        return True

    def ac_write(self, event: EV_WRITE_OUTPUT_DATA) -> bool | NotAccepted:
        return self._queue(event.data)

    def ac_flush(self, _event: EV_FLUSH_OUTPUT_DATA) -> bool:
        if not self._mask & WRITE:
            self._flush()
        return True

    def ac_writable(self, _event: EV_WRITABLE) -> None:
        if self._mask & WRITE:
            self._flush()

    def _queue(self, data: bytes | memoryview) -> bool | NotAccepted:
        if type(data) is not bytes:
            # Copied: the sender may change it, and a view may hold much more than it shows.
            data = bytes(_octets(data))
        if self._tx_error is not None:
            # Nobody will take it; the end of the connection is on its way.
            return NOT_ACCEPTED
        if self._tx is not None and self._tx.size > self.config.tx_max:
            self.send_event(self, EV_FAILED(Reason.TX_OVERFLOW))
            return NOT_ACCEPTED
        if data:
            self._append(data)
        return True

    def _append(self, data: bytes | memoryview) -> None:
        queue = self._tx
        if queue is None:
            queue = self._tx = OutputQueue()
        queue.append(data)
        if queue.size >= self.config.tx_high_water:
            queue.full = True

    def _flush(self) -> None:
        """Give the kernel as much of the queue as one gathered call takes."""
        queue = self._tx
        if queue is None:
            return
        try:
            sent = self._sock.sendmsg(queue.first())  # type: ignore[union-attr]
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self._send_failed(error)
            return
        queue.sent(sent)
        if queue.full and queue.size < self.config.tx_low_water:
            queue.full = False
            self.gaplic.poller.defer(self._tell_ready)
        if queue.size:
            self._wait_for(self._mask | WRITE)
        else:
            self._tx = None
            self._wait_for(self._mask & ~WRITE)
            if EV_FLUSHED in self._state:
                self.send_event(self, EV_FLUSHED())

    def _send_failed(self, error: OSError) -> None:
        """Sending is over, and reading goes on: what the peer sent before may still be there."""
        if self._tx_error is None:
            self._tx_error = reason_of(error)
            if self._tx is not None and self._tx.full:
                # Who paused receiving until this comes would never hear of the end.
                self.gaplic.poller.defer(self._tell_ready)
            self._tx = None
            self._wait_for(self._mask & ~WRITE)
            try:
                self._sock.shutdown(socket.SHUT_WR)  # type: ignore[union-attr]
            except OSError:
                # Reset already: then reading will say so.
                logger.debug("%s: already reset by %s", self.path, self.peername)
        if self._rx_ended or EV_FLUSHED in self._state:
            # Nothing is left to read, or nobody who wants it.
            self.send_event(self, EV_FAILED(self._tx_error))

    # -- the end -----------------------------------------------------------------------------------

    def is_abort(self, event: EV_DROP) -> bool:
        return event.abort

    def has_output(self, _event: Event) -> bool:
        return self._tx is not None

    def needs_no_linger(self, _event: EV_FLUSHED) -> bool:
        """Guard: closing now cannot make the kernel send a reset that destroys our last bytes."""
        if self._rx_ended:
            return True
        try:
            unread = self._sock.recv(1, socket.MSG_PEEK)  # type: ignore[union-attr]
        except (BlockingIOError, InterruptedError):
            # The peer is quiet now. What it sends later is answered by a reset.
            assert self._sock is not None
            return is_acknowledged(self._sock)
        except OSError:
            # Reset already.
            return True
        return not unread

    def ac_drop(self, _event: EV_DROP) -> None:
        self._reason = Reason.LOCAL
        if self._tx is None:
            self.send_event(self, EV_FLUSHED())
            return
        # Input is read and thrown away from here on, so that two full pipes cannot lock up.
        self._wait_for(self._mask if self._rx_ended else self._mask | READ)
        if not self._mask & WRITE:
            self._flush()

    def ac_flush_last(self, event: EV_ENDED) -> None:
        self._reason = Reason.PEER
        self.ac_input_ended(event)
        if not self._mask & WRITE:
            self._flush()

    def ac_linger(self, _event: EV_FLUSHED) -> None:
        try:
            self._sock.shutdown(socket.SHUT_WR)  # type: ignore[union-attr]
        except OSError as error:
            self.send_event(self, EV_FAILED(reason_of(error)))
            return
        self._wait_for(READ)
        # Nothing tells when the peer has acknowledged all, so ask again until it has.
        self._linger = self.gaplic.call_later(self, LINGER_CHECK, self._check_linger)

    def _check_linger(self) -> None:
        self._linger = None
        self.send_event(self, EV_FLUSHED())

    def ac_discard(self, _event: EV_READABLE) -> None:
        try:
            data = self._sock.recv(RX_SIZE)  # type: ignore[union-attr]
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.send_event(self, EV_FAILED(reason_of(error)))
            return
        if not data:
            self.send_event(self, EV_ENDED())

    def ac_ended(self, _event: EV_ENDED) -> None:
        self._close(self._tx_error or Reason.PEER)

    def ac_closed(self, _event: Event) -> None:
        self._close(self._reason)

    def ac_abort(self, _event: EV_DROP) -> None:
        self._close(Reason.LOCAL)

    def ac_failed(self, event: EV_FAILED) -> None:
        self._close(event.reason)

    def ac_close_timeout(self) -> None:
        assert self._sock is not None
        taken = self._tx is None and is_acknowledged(self._sock)
        self._close(self._reason if taken else Reason.TIMEOUT)

    def is_ending(self, _event: Event) -> bool:
        """Guard: the owner cannot know yet that it is over, so what it still says is no mistake."""
        return self._ending

    def ac_too_late(self, _event: Event) -> NotAccepted:
        # What no row would answer, but without the warning that a mistake of the program gets.
        return NOT_ACCEPTED

    def _close(self, reason: Reason) -> None:
        self._close_socket()
        self._ending = True
        self.gaplic.poller.defer(lambda: self._tell_disconnected(reason))

    def _close_socket(self) -> None:
        """Close the descriptor, on every path; then the connection is out of the ledger."""
        sock = self._sock
        if sock is None:
            return
        self._wait_for(0)
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        if self._tx is not None:
            # We give up on what the peer does not take. So must the kernel, which would hold its
            # own part for minutes, and the peer must not take the cut for a proper end.
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            except OSError as error:
                logger.debug("%s: no reset to %s: %s", self.path, self.peername, error)
        sock.close()
        self._sock = None
        self._clear()
        if self._ledger is not None:
            ledger, self._ledger = self._ledger, None
            ledger.close(self)

    # -- deferred ----------------------------------------------------------------------------------

    def _tell_later(self, event: Event) -> None:
        if not self.destroyed:
            self._tell(event)

    def _tell_ready(self) -> None:
        # Not where the connection was dropped meanwhile, or has ended: nobody can send any more.
        if self.destroyed or self.state != "ST_CONNECTED":
            return
        if self._tx is None or not self._tx.full:
            self._tell(EV_TRANSMIT_READY())

    def _tell_disconnected(self, reason: Reason) -> None:
        if self.destroyed:
            return
        self._ending = False
        if self._asks(EV_DISCONNECTED):
            self._tell(EV_DISCONNECTED(reason))
        elif self._sock is None and self._opening is None:
            # Nobody will destroy it, since nobody learns that it has ended.
            _destroy(self)

    machine = {
        "ST_DISCONNECTED": [
            on(EV_CONNECT,           ac_connect,         "ST_CONNECTING"),
            on(EV_ACCEPTED,          ac_accepted,        "ST_CONNECTED"),
            on(EV_DROP,              None),
            on(EV_SEND_DATA,         ac_too_late,                           when=is_ending),
            on(EV_WRITE_OUTPUT_DATA, ac_too_late,                           when=is_ending),
            on(EV_FLUSH_OUTPUT_DATA, ac_too_late,                           when=is_ending),
            on(EV_PAUSE_RX,          ac_too_late,                           when=is_ending),
            on(EV_RESUME_RX,         ac_too_late,                           when=is_ending),
        ],
        "ST_CONNECTING": [
            on(EV_OPENED,            ac_opened,          "ST_CONNECTED",    when=has_opened),
            on(EV_OPENED,            ac_not_opened,      "ST_DISCONNECTED"),
            on(EV_DROP,              ac_stop_connecting, "ST_DISCONNECTED"),
            after("connect_timeout", ac_connect_timeout, "ST_DISCONNECTED"),
        ],
        "ST_CONNECTED": [
            on(EV_READABLE,          ac_receive),
            on(EV_SEND_DATA,         ac_send),
            on(EV_WRITABLE,          ac_writable),
            on(EV_WRITE_OUTPUT_DATA, ac_write),
            on(EV_FLUSH_OUTPUT_DATA, ac_flush),
            on(EV_PAUSE_RX,          ac_pause),
            on(EV_RESUME_RX,         ac_resume),
            on(EV_ENDED,             ac_rx_end,                             when=stays_half_open),
            on(EV_ENDED,             ac_flush_last,      "ST_CLOSING",      when=has_output),
            on(EV_ENDED,             ac_ended,           "ST_DISCONNECTED"),
            on(EV_DROP,              ac_abort,           "ST_DISCONNECTED", when=is_abort),
            on(EV_DROP,              ac_drop,            "ST_CLOSING"),
            on(EV_FAILED,            ac_failed,          "ST_DISCONNECTED"),
        ],
        "ST_CLOSING": [
            on(EV_READABLE,          ac_discard),
            on(EV_WRITABLE,          ac_writable),
            on(EV_FLUSHED,           ac_closed,          "ST_DISCONNECTED", when=needs_no_linger),
            on(EV_FLUSHED,           ac_linger),
            on(EV_ENDED,             ac_input_ended,                        when=has_output),
            on(EV_ENDED,             ac_closed,          "ST_DISCONNECTED"),
            on(EV_DROP,              ac_abort,           "ST_DISCONNECTED", when=is_abort),
            on(EV_DROP,              None),
            on(EV_SEND_DATA,         ac_too_late),
            on(EV_WRITE_OUTPUT_DATA, ac_too_late),
            on(EV_FLUSH_OUTPUT_DATA, ac_too_late),
            on(EV_PAUSE_RX,          ac_too_late),
            on(EV_RESUME_RX,         ac_too_late),
            on(EV_FAILED,            ac_failed,          "ST_DISCONNECTED"),
            after("close_timeout",   ac_close_timeout,   "ST_DISCONNECTED"),
        ],
    }  # fmt: skip


def set_options(sock: _socket.socket, config: type[GSock.config]) -> None:
    """Set the socket options of the parameters; accepted sockets inherit them of the listener."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, config.nodelay)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, config.keepalive > 0)
    if config.keepalive and hasattr(socket, "TCP_KEEPIDLE"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, config.keepalive)


def _octets(given: object) -> bytes | memoryview:
    """What was given instead of bytes, as single bytes; copied only where it must be.

    Raises:
        EventError: when it holds no bytes.
    """
    try:
        view = memoryview(given)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise EventError(
            f"expected bytes to send, got {type(given).__name__}"
            + ("; encode the text first" if isinstance(given, str) else "")
        ) from None
    try:
        return view.cast("B")
    except (TypeError, ValueError):
        # Not in one piece, empty, or of another machine's format.
        return view.tobytes()
