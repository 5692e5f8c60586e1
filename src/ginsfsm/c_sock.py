"""GSock: one connection, an honest machine.

What the owner wants and what the kernel does both come as events, and the table below has a row
for each. `EV_READABLE` and `EV_WRITABLE` are what the poller found, `EV_OPENED` is the end of an
attempt to connect, `EV_ENDED` is the peer's end of file, `EV_FLUSHED` says that nothing is queued
any more, and `EV_FAILED` is whatever ends a connection at once.

ST_DISCONNECTED. No socket. A server's gsock leaves it once, by `EV_ACCEPTED`; a client's leaves it
with every `EV_CONNECT` and comes back.

ST_CONNECTING. Addresses are tried one after the other, with a head start for each (Happy Eyeballs).

ST_PROXY. The connection comes through a balancer, whose header tells whose it really is.

ST_HANDSHAKE. Both ends agree on TLS. A step of that takes as long as a hundred messages, so what
comes in is only kept, and `EV_SHAKE` is the poller's word that it is this connection's turn. The
peer has `handshake_timeout` for all of it. A connection that was plain before (`EV_START_TLS`) has
told of itself already: its owner may go on sending, and that waits for the end of the handshake.

ST_CONNECTED. What is received goes to the subscriber. `EV_SEND_DATA` tries the socket at once, and
what it does not take waits in the output queue until the poller says that it can be written. When
the peer resets while we send, only sending is over: what it had sent before still lies in the
kernel, and is read to its end.

ST_CLOSING. The owner has dropped the connection, or the peer has ended it, and something is still
on its way to the peer. What the owner still says is ignored, since it may not know yet. What the
peer sends is thrown away, but it is read: closing a socket with unread input makes the kernel send
a reset, which can destroy the last bytes that we sent, and so does input that comes after closing.
So after the last byte our side is shut down, and we wait until the peer has acknowledged all and is
quiet, or has ended its side, never longer than `close_timeout`. With TLS the last thing we say is
close_notify, and we wait for the peer's.

What is told, and when. `EV_CONNECTED`, `EV_RX_DATA`, `EV_RX_FRAME` and `EV_RX_END` are sent from
the poller's call, and what comes of a handshake (`EV_CONNECTED`, `EV_TLS_STARTED`) with its last
step. Of very many frames at once the first are; the others come a slice at a time, in turn with
other connections. Everything else that the owner hears is deferred to the end of the poller's
batch, since it may be the effect of the owner's own `EV_SEND_DATA`, `EV_DROP` or `EV_RESUME_RX`: so
a loop over clients that sends to each is safe, whoever dies in it.
"""

from __future__ import annotations

import _socket
import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import aiohappyeyeballs
import msgspec

from ginsfsm.event import Event
from ginsfsm.logs.fields import about
from ginsfsm.net.addresses import format_address
from ginsfsm.net.framing import FrameError
from ginsfsm.net.proxy_binary import SIGNATURE
from ginsfsm.net.proxy_line import LINE_START
from ginsfsm.net.reason import Reason, reason_of
from ginsfsm.net.socket_options import Options, read_options, set_socket_options
from ginsfsm.net.tls_failure import failure
from ginsfsm.net.unacknowledged import is_acknowledged
from ginsfsm.net.unix_address import connect_path
from ginsfsm.poller import READ, WRITE
from ginsfsm.row import after, on
from ginsfsm.smachine import NOT_ACCEPTED, NotAccepted
from ginsfsm.sock.base import RX_SIZE
from ginsfsm.sock.events import (
    EV_ACCEPTED,
    EV_ACCEPTED_PROXY,
    EV_ACCEPTED_TLS,
    EV_CONNECT,
    EV_CONNECT_FAILED,
    EV_CONNECTED,
    EV_DISCONNECTED,
    EV_DROP,
    EV_ENDED,
    EV_EXPIRED,
    EV_FAILED,
    EV_FLUSH_OUTPUT_DATA,
    EV_FLUSHED,
    EV_OPENED,
    EV_PAUSE_RX,
    EV_PLAIN,
    EV_READABLE,
    EV_RESUME_RX,
    EV_RX_DATA,
    EV_RX_END,
    EV_RX_FRAME,
    EV_SECURE,
    EV_SECURED,
    EV_SEND_DATA,
    EV_SEND_FRAME,
    EV_SHAKE,
    EV_START_TLS,
    EV_TLS_STARTED,
    EV_TRANSMIT_READY,
    EV_UPGRADE,
    EV_WRITABLE,
    EV_WRITE_OUTPUT_DATA,
)
from ginsfsm.sock.lasting import Lasting
from ginsfsm.sock.options import set_options
from ginsfsm.sock.receiving import Receiving
from ginsfsm.sock.reception import Reception
from ginsfsm.sock.securing import Securing
from ginsfsm.sock.sending import Sending
from ginsfsm.stats import SockStats

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
    "EV_RX_FRAME",
    "EV_SEND_DATA",
    "EV_SEND_FRAME",
    "EV_START_TLS",
    "EV_TLS_STARTED",
    "EV_TRANSMIT_READY",
    "EV_WRITE_OUTPUT_DATA",
    "GSock",
    "Reason",
]

logger: Final = logging.getLogger("ginsfsm")

LINGER_CHECK: Final = 0.05
"""Seconds between two looks whether a dropped peer has acknowledged the last bytes."""

HEAD_START: Final = 0.25
"""Seconds before the next address is tried as well; RFC 8305 recommends 250 ms."""


# One object each for what the poller says: nobody sends them on, and a message need not pay.
_READABLE: Final = EV_READABLE()
_WRITABLE: Final = EV_WRITABLE()

# A copy costs a quarter less than a new one, whose `__post_init__` is a call of Python; that pays
# for the counters. Whoever makes one this way must set its `source`.
_copy: Final[Any] = msgspec.Struct.__copy__  # type: ignore[attr-defined]
_new_rx_data: Final[Callable[[], EV_RX_DATA]] = _copy.__get__(EV_RX_DATA(b""))


EXPIRED: Final = {
    Reason.IDLE: "it was silent for too long",
    Reason.TIMEOUT: "it was too slow, or here for too long",
}


def _socket_with(options: Options, addr_info: tuple[Any, ...]) -> socket.socket:
    """The socket for one attempt to connect; some options must be set before that."""
    sock = socket.socket(*addr_info[:3])
    try:
        set_socket_options(sock, options)
    except OSError:
        sock.close()
        raise
    return sock


class GSock(Lasting):
    """One TCP connection: a client's, or one that a `GServerSock` accepted.

    Attributes:
        peername: the peer's address as Python gives it; None before there was a connection.
        sockname: our own address of the connection, likewise.
        tls: what was agreed on with TLS; None where the connection is plain, or is none.
    """

    __slots__ = ()

    # -- called by the poller ----------------------------------------------------------------------

    def io_ready(self, mask: int) -> None:
        """The poller found the socket ready. A state without a row for it ignores it.

        Receiving in ST_CONNECTED is done here and not behind a row of the table: what every message
        passes has to be one function.
        """
        if mask != self._direct:
            self._other_readiness(mask)
            return
        try:
            data = self._stream.recv(RX_SIZE)  # type: ignore[union-attr]
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._receive_failed(error)
            return
        size = len(data)
        if not size:
            self.send_event(self, EV_ENDED(self._end_reason()))
            return
        self.rx_bytes += size
        self._rx_count += 1.0
        self._heard = self._poller.now
        event = _new_rx_data()
        event.data = data
        subscriber = self.parent
        if self._subscriptions is subscriber._as_subscriber and self._watch is None:
            # What `_tell` does where the parent hears everything, and nobody else anything.
            try:
                handler = subscriber._state[EV_RX_DATA]
            except KeyError:
                pass
            else:
                event.source = self
                try:
                    handler(subscriber, event)
                except Exception as error:
                    self.gaplic.contain(error, subscriber, event)
                return
        self._tell(event)

    def stats(self) -> SockStats:
        """What it has carried, over all of its connections; exact at this moment."""
        return SockStats(
            rx_bytes=self.rx_bytes,
            tx_bytes=self._sent,
            rx_messages=self.rx_messages,
            tx_messages=self.tx_messages,
            queued_bytes=self.queued,
        )

    def _other_readiness(self, mask: int) -> None:
        if mask != WRITE:
            handler = self._state.get(EV_READABLE)
            if handler is not None:
                handler(self, _READABLE)
        if mask & WRITE:
            handler = self._state.get(EV_WRITABLE)
            if handler is not None:
                handler(self, _WRITABLE)

    # -- connecting --------------------------------------------------------------------------------

    def ac_connect(self, _event: EV_CONNECT) -> None:
        if self._reception is not None:
            # A server's gsock becomes a client's.
            self._reception.forgotten -= self._left
            self._left = False
            self._reception = None
        self._warn_if_unheard()
        self._opening = self.spawn(self._open(), done=EV_OPENED)

    async def _open(self) -> None:
        """Connect; the socket and its names stand in the gsock when this returns."""
        source = self._tls_source
        if bool(self.config.ssl_options) if source is None else source.tls.server_side:
            # What it has is that of the server which had accepted it. Here and not before: what is
            # wrong with its own is a failure to connect.
            self._tls_source = self._own_tls_source()
        sock = await self._connected_socket()
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            # aiohappyeyeballs 2.7 returns a connection although it was cancelled, when that comes
            # while it ends the attempts that have lost.
            sock.close()
            raise asyncio.CancelledError
        # Kept at once: between here and EV_OPENED the gsock may be dropped or destroyed.
        self._sock = self._stream = sock
        self.peername = self._sock.getpeername()
        self.sockname = self._sock.getsockname()
        set_options(self._sock, self.config)
        # Here and not in ST_CONNECTED: where it fails, the connection was never made.
        self._wait_for(READ)

    async def _connected_socket(self) -> socket.socket:
        options = read_options(self.config.socket_options)
        if self.config.unix_path:
            return await connect_path(self.config.unix_path, options)
        host, port = self.config.host, self.config.port
        if not host or not port:
            raise OSError(errno.EDESTADDRREQ, "give the parameters host and port, or unix_path")
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return await aiohappyeyeballs.start_connection(
            found,
            happy_eyeballs_delay=HEAD_START,
            loop=loop,
            socket_factory=partial(_socket_with, options) if options else None,
        )

    @property
    def _goal(self) -> str:
        """Where it connects to, for logs."""
        config = self.config
        return config.unix_path or f"{config.host} port {config.port}"

    def has_opened(self, event: EV_OPENED) -> bool:
        return event.error is None

    def opens_tls(self, event: EV_OPENED) -> bool:
        return event.error is None and self._begins_with_tls

    def ac_opened(self, _event: EV_OPENED) -> None:
        self._opening = None
        self._begin_talk()
        self._tell(EV_CONNECTED(self.peername, self.sockname))

    def ac_opened_tls(self, _event: EV_OPENED) -> None:
        self._opening = None
        self._begin_tls(self._tls_source)

    def ac_not_opened(self, event: EV_OPENED) -> None:
        error = event.error
        reason = reason_of(error) if isinstance(error, OSError) else Reason.ERROR
        logger.info(
            "%s: no connection to %s: %s",
            self.path,
            self._goal,
            error,
            extra=about(self, reason=reason, error=error),
        )
        self._forget_opening(reason)

    def ac_connect_timeout(self) -> None:
        logger.info(
            "%s: no connection to %s within %s s",
            self.path, self._goal, self.config.connect_timeout,
            extra=about(self, reason=Reason.TIMEOUT, seconds=self.config.connect_timeout),
        )  # fmt: skip
        self._forget_opening(Reason.TIMEOUT)

    def ac_stop_connecting(self, _event: EV_DROP) -> None:
        self._forget_opening(Reason.LOCAL)

    # -- accepted ----------------------------------------------------------------------------------

    def take_over(self, sock: _socket.socket, reception: Reception, place: bytes | None) -> None:
        """Own an accepted socket from now on, and stand in its server's ledger until it closes."""
        self._sock = self._stream = sock
        self._reception = reception
        self._place = place
        self._tls_source = reception.tls_source
        reception.ledger.open(self)

    def ac_accepted_tls(self, event: EV_ACCEPTED_TLS) -> None:
        self.peername = event.peername
        self.sockname = event.sockname
        self._wait_for(READ)
        self._begin_tls(self._tls_source)

    def ac_accepted(self, event: EV_ACCEPTED) -> None:
        self.peername = event.peername
        self.sockname = event.sockname
        self._wait_for(READ)
        self._begin_talk()
        self._offer()

    # -- the handshake of TLS ----------------------------------------------------------------------

    def can_go_on(self, _event: EV_EXPIRED | EV_ENDED) -> bool:
        """Guard: there need not be a PROXY header, and none has begun."""
        begun = self._early.startswith((SIGNATURE, LINE_START))
        return self.config.proxy_protocol == "accept" and not begun

    def is_upgrade(self, _event: Event) -> bool:
        """Guard: the owner knows of the connection already."""
        return self._kept is not None

    def has_floor(self, _event: Event) -> bool:
        """Guard: the owner knows of the connection already, and has not dropped it meanwhile."""
        return self._kept is not None and not any(type(one) is EV_DROP for one in self._kept)

    def can_drop(self, event: EV_DROP) -> bool:
        """Guard: plain output is still on its way, and nothing else."""
        return (
            self._kept is not None
            and not event.abort
            and (self._tx is None or not self._tx.size)
            and self._tls is not None
            and self._tls.only_plain_waits
        )

    def can_stop(self, event: EV_DROP) -> bool:
        """Guard: there is nothing that would have to wait for the handshake."""
        return self._kept is not None and (event.abort or self._tx is None)

    def ac_later(self, event: EV_PAUSE_RX | EV_RESUME_RX | EV_DROP) -> None:
        assert self._kept is not None
        self._kept.append(event)

    def can_upgrade(self, event: EV_START_TLS) -> bool:
        options = event.ssl_options or self._tls_source
        return self._tls is None and not self._rx_ended and self._tx_error is None and bool(options)

    # -- receiving ---------------------------------------------------------------------------------

    def ac_receive(self, _event: EV_READABLE) -> None:
        # Not where it was paused, or has ended, within the batch that still says it is readable.
        if self._early:
            self._deliver_early()
        elif self._mask & READ:
            self._direct = READ
            self.io_ready(READ)

    def ac_pause(self, _event: EV_PAUSE_RX) -> None:
        if self._mask & READ:
            self._paused_at = self.gaplic.time()
            self._wait_for(self._mask & ~READ)

    def ac_resume(self, _event: EV_RESUME_RX) -> None:
        if not self._rx_ended:
            if not self._mask & READ:
                self._skip_pause(self.gaplic.time())
            self._wait_for(self._mask | READ)
            if self._early:
                self._poller.defer(self._deliver_early)
            if self._framing is not None and self._frames:
                self._tell_frames_soon()
            elif self._tls is not None and self._tls.has_more:
                self.tls_read_again()

    def stays_open(self, event: EV_ENDED) -> bool:
        if event.reason is not Reason.PEER:
            return False
        return self.config.half_close and self._tx_error is None and self._asks(EV_RX_END)

    def ac_rx_end(self, event: EV_ENDED) -> None:
        self.ac_input_ended(event)
        self._tell(EV_RX_END())

    def ac_input_ended(self, _event: EV_ENDED) -> None:
        # After an end of file the descriptor stays readable for ever: ask no more.
        self._rx_ended = True
        self._wait_for(self._mask & ~READ)

    # -- the end -----------------------------------------------------------------------------------

    def is_abort(self, event: EV_DROP) -> bool:
        return event.abort

    def has_output(self, _event: Event) -> bool:
        return self._tx is not None

    def still_owes(self, event: EV_ENDED) -> bool:
        return self._tx is not None or self.owes_end(event)

    def owes_end(self, _event: Event) -> bool:
        return self._tls is not None and not self._tls.closing and self._tx_error is None

    def can_close(self, _event: EV_FLUSHED) -> bool:
        """Guard: closing now cannot make the kernel send a reset that destroys our last bytes."""
        if self._rx_ended:
            return True
        if self._tls is not None and self._reason not in EXPIRED:
            # Its own end may still have to come, or waits behind a pause.
            return self._tls.closed
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

    def is_framed(self, _event: EV_READABLE) -> bool:
        return self._framing is not None

    def ac_expired(self, event: EV_EXPIRED) -> None:
        logger.info(
            "%s: %s is dropped: %s",
            self.path, format_address(self.peername), EXPIRED[event.reason],
            extra=about(self, peer=self.peername, reason=event.reason),
        )  # fmt: skip
        self._end(event.reason)

    def ac_drop(self, _event: EV_DROP) -> None:
        self._end(Reason.LOCAL)

    def _end(self, reason: Reason) -> None:
        self._reason = reason
        self._direct = 0
        if self._tls is not None and self._tls.has_more:
            # Perhaps the peer's end, that nobody has looked at while receiving was paused.
            self.tls_read_again()
        if self._tx is None:
            self.send_event(self, EV_FLUSHED())
            return
        # Input is read and thrown away from here on, so that two full pipes cannot lock up.
        self._wait_for(self._mask if self._rx_ended else self._mask | READ)
        if not self._mask & WRITE:
            self._flush()

    def ac_flush_last(self, event: EV_ENDED) -> None:
        self._direct = 0
        self._reason = event.reason
        self.ac_input_ended(event)
        if self._tx is None:
            self.send_event(self, EV_FLUSHED())
        elif not self._mask & WRITE:
            self._flush()

    def ac_close_notify(self, event: EV_FLUSHED) -> None:
        assert self._tls is not None
        self._tls.close_notify()
        if self._tx is None:
            self.send_event(self, EV_FLUSHED())

    def ac_linger(self, _event: EV_FLUSHED) -> None:
        try:
            self._sock.shutdown(socket.SHUT_WR)  # type: ignore[union-attr]
        except OSError:
            # The peer has closed too, or reset. Which it was stands behind what is still to be
            # read, unless a send has been told of the reset: the system says that once.
            if self._tx_error is not None:
                self.send_event(self, EV_FAILED(self._tx_error))
                return
        self._wait_for(READ)
        if self._tls is not None and self._reason not in EXPIRED:
            # The peer answers a close_notify, or ends its side, or `close_timeout` does. One whose
            # time is over is not waited for, only heard if it is there.
            return
        # Nothing tells when the peer has acknowledged all, so ask again until it has.
        self._linger = self.gaplic.call_later(self, LINGER_CHECK, self._check_linger)

    def _check_linger(self) -> None:
        self._linger = None
        self.send_event(self, EV_FLUSHED())

    def ac_discard(self, _event: EV_READABLE) -> None:
        try:
            data = self._stream.recv(RX_SIZE)  # type: ignore[union-attr]
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.send_event(self, EV_FAILED(reason_of(error), error))
            return
        if not data:
            self.send_event(self, EV_ENDED(self._end_reason()))

    def ac_ended(self, event: EV_ENDED) -> None:
        self._close(self._tx_error or event.reason)

    def ac_closed(self, _event: Event) -> None:
        self._close(self._reason)

    def ac_abort(self, _event: EV_DROP) -> None:
        self._close(Reason.LOCAL)

    def ac_failed(self, event: EV_FAILED) -> None:
        if isinstance(event.error, FrameError):
            logger.info(
                "%s: %s sent no frame: %s",
                self.path, format_address(self.peername), event.error,
                extra=about(self, peer=self.peername, reason=event.reason, error=event.error),
            )  # fmt: skip
        if isinstance(event.error, ssl.SSLError):
            logger.info(
                "%s: TLS with %s failed: %s",
                self.path, format_address(self.peername), failure(event.error),
                extra=about(self, peer=self.peername, reason=event.reason, error=event.error),
            )  # fmt: skip
        self._close(event.reason)

    def ac_close_timeout(self) -> None:
        assert self._sock is not None
        taken = self._tx is None and is_acknowledged(self._sock)
        self._close(self._reason if taken else Reason.TIMEOUT)

    def is_ending(self, _event: Event) -> bool:
        """Guard: the owner cannot know yet that it is over, so what it still says is no mistake."""
        return self._ending

    def ac_too_late(self, _event: Event) -> NotAccepted:
        # What no row would answer, but without the warning that a mistake of the program gets: it
        # may be a loop over all children, and not know of each how far it is.
        return NOT_ACCEPTED

    machine = {
        "ST_DISCONNECTED": [
            on(EV_CONNECT,           ac_connect,               "ST_CONNECTING"),
            on(EV_ACCEPTED_TLS,      ac_accepted_tls,          "ST_HANDSHAKE"),
            on(EV_ACCEPTED_PROXY,    Receiving.ac_accepted_proxy, "ST_PROXY"),
            on(EV_ACCEPTED,          ac_accepted,              "ST_CONNECTED"),
            on(EV_DROP,              None),
            on(EV_SEND_DATA,         ac_too_late,                                 when=is_ending),
            on(EV_SEND_FRAME,        ac_too_late,                                 when=is_ending),
            on(EV_WRITE_OUTPUT_DATA, ac_too_late,                                 when=is_ending),
            on(EV_FLUSH_OUTPUT_DATA, ac_too_late,                                 when=is_ending),
            on(EV_PAUSE_RX,          ac_too_late,                                 when=is_ending),
            on(EV_RESUME_RX,         ac_too_late,                                 when=is_ending),
            on(EV_START_TLS,         ac_too_late,                                 when=is_ending),
        ],
        "ST_CONNECTING": [
            on(EV_OPENED,            ac_opened_tls,            "ST_HANDSHAKE",    when=opens_tls),
            on(EV_OPENED,            ac_opened,                "ST_CONNECTED",    when=has_opened),
            on(EV_OPENED,            ac_not_opened,            "ST_DISCONNECTED"),
            on(EV_DROP,              ac_stop_connecting,       "ST_DISCONNECTED"),
            after("connect_timeout", ac_connect_timeout,       "ST_DISCONNECTED"),
        ],
        "ST_PROXY": [
            on(EV_READABLE,          Receiving.ac_header),
            on(EV_SECURE,            Receiving.ac_secure,      "ST_HANDSHAKE"),
            on(EV_PLAIN,             Receiving.ac_plain,       "ST_CONNECTED"),
            on(EV_EXPIRED,           Receiving.ac_no_header,                      when=can_go_on),
            on(EV_EXPIRED,           Receiving.ac_late_header, "ST_DISCONNECTED"),
            on(EV_ENDED,             Receiving.ac_no_header,                      when=can_go_on),
            on(EV_ENDED,             Receiving.ac_ended_early, "ST_DISCONNECTED"),
            on(EV_SEND_DATA,         ac_too_late),
            on(EV_SEND_FRAME,        ac_too_late),
            on(EV_WRITE_OUTPUT_DATA, ac_too_late),
            on(EV_FLUSH_OUTPUT_DATA, ac_too_late),
            on(EV_PAUSE_RX,          ac_too_late),
            on(EV_RESUME_RX,         ac_too_late),
            on(EV_START_TLS,         ac_too_late),
            on(EV_DROP,              Receiving.ac_stop_proxy,  "ST_DISCONNECTED"),
            on(EV_FAILED,            Receiving.ac_no_proxy,    "ST_DISCONNECTED"),
        ],
        "ST_HANDSHAKE": [
            on(EV_READABLE,          Securing.ac_keep),
            on(EV_SHAKE,             Securing.ac_shake),
            on(EV_WRITABLE,          Securing.ac_flush_shake),
            on(EV_SECURED,           Securing.ac_upgraded,     "ST_CONNECTED",    when=is_upgrade),
            on(EV_SECURED,           Securing.ac_secured,      "ST_CONNECTED"),
            on(EV_SEND_DATA,         Sending.ac_write,                            when=has_floor),
            on(EV_SEND_FRAME,        Receiving.ac_write_frame,                    when=has_floor),
            on(EV_WRITE_OUTPUT_DATA, Sending.ac_write,                            when=has_floor),
            on(EV_FLUSH_OUTPUT_DATA, None,                                        when=is_upgrade),
            on(EV_PAUSE_RX,          ac_later,                                    when=is_upgrade),
            on(EV_RESUME_RX,         ac_later,                                    when=is_upgrade),
            on(EV_SEND_DATA,         ac_too_late),
            on(EV_SEND_FRAME,        ac_too_late),
            on(EV_WRITE_OUTPUT_DATA, ac_too_late),
            on(EV_FLUSH_OUTPUT_DATA, ac_too_late),
            on(EV_PAUSE_RX,          ac_too_late),
            on(EV_RESUME_RX,         ac_too_late),
            on(EV_START_TLS,         Securing.ac_cannot_upgrade),
            on(EV_DROP,              Securing.ac_drop_plain,   "ST_CLOSING",      when=can_drop),
            on(EV_DROP,              ac_abort,                 "ST_DISCONNECTED", when=can_stop),
            on(EV_DROP,              ac_later,                                    when=is_upgrade),
            on(EV_DROP,              Securing.ac_stop_shake,   "ST_DISCONNECTED"),
            on(EV_FAILED,            Securing.ac_not_secured,  "ST_DISCONNECTED"),
            on(EV_EXPIRED,           Securing.ac_too_slow,     "ST_DISCONNECTED"),
        ],
        "ST_CONNECTED": [
            on(EV_READABLE,          Receiving.ac_receive_frames,                 when=is_framed),
            on(EV_READABLE,          ac_receive),
            on(EV_SEND_DATA,         Sending.ac_send),
            on(EV_SEND_FRAME,        Receiving.ac_send_frame),
            on(EV_WRITABLE,          Sending.ac_writable),
            on(EV_WRITE_OUTPUT_DATA, Sending.ac_write),
            on(EV_FLUSH_OUTPUT_DATA, Sending.ac_flush),
            on(EV_PAUSE_RX,          ac_pause),
            on(EV_RESUME_RX,         ac_resume),
            on(EV_START_TLS,         Securing.ac_start_tls,                       when=can_upgrade),
            on(EV_START_TLS,         Securing.ac_cannot_upgrade),
            on(EV_UPGRADE,           Securing.ac_upgrade,      "ST_HANDSHAKE"),
            on(EV_ENDED,             ac_rx_end,                                   when=stays_open),
            on(EV_ENDED,             ac_flush_last,            "ST_CLOSING",      when=still_owes),
            on(EV_ENDED,             ac_ended,                 "ST_DISCONNECTED"),
            on(EV_DROP,              ac_abort,                 "ST_DISCONNECTED", when=is_abort),
            on(EV_DROP,              ac_drop,                  "ST_CLOSING"),
            on(EV_EXPIRED,           ac_expired,               "ST_CLOSING"),
            on(EV_FAILED,            ac_failed,                "ST_DISCONNECTED"),
        ],
        "ST_CLOSING": [
            on(EV_READABLE,          ac_discard),
            on(EV_WRITABLE,          Sending.ac_writable),
            on(EV_FLUSHED,           ac_close_notify,                             when=owes_end),
            on(EV_FLUSHED,           ac_closed,                "ST_DISCONNECTED", when=can_close),
            on(EV_FLUSHED,           ac_linger),
            on(EV_ENDED,             ac_input_ended,                              when=has_output),
            on(EV_ENDED,             ac_closed,                "ST_DISCONNECTED"),
            on(EV_DROP,              ac_abort,                 "ST_DISCONNECTED", when=is_abort),
            on(EV_DROP,              None),
            on(EV_SEND_DATA,         ac_too_late),
            on(EV_SEND_FRAME,        ac_too_late),
            on(EV_WRITE_OUTPUT_DATA, ac_too_late),
            on(EV_FLUSH_OUTPUT_DATA, ac_too_late),
            on(EV_PAUSE_RX,          ac_too_late),
            on(EV_RESUME_RX,         ac_too_late),
            on(EV_START_TLS,         ac_too_late),
            on(EV_FAILED,            ac_failed,                "ST_DISCONNECTED"),
            after("close_timeout",   ac_close_timeout,         "ST_DISCONNECTED"),
        ],
    }  # fmt: skip
