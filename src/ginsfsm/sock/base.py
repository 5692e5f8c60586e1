"""SockBase: the parameters of a connection, its descriptor, and how that ends."""

from __future__ import annotations

import _socket
import logging
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from ginsfsm.event import Event
from ginsfsm.gconfig import param
from ginsfsm.gobj import GObj, _destroy
from ginsfsm.net.ledger import Ledger
from ginsfsm.net.output import OutputQueue
from ginsfsm.net.reason import Reason
from ginsfsm.net.tls import option_faults
from ginsfsm.net.tls_source import TlsSource
from ginsfsm.net.tls_stream import TlsStream
from ginsfsm.poller import READ
from ginsfsm.sock.events import (
    EV_CONNECT_FAILED,
    EV_CONNECTED,
    EV_DISCONNECTED,
    EV_FAILED,
    EV_RX_DATA,
    EV_RX_END,
    EV_TLS_STARTED,
    EV_TRANSMIT_READY,
)

if TYPE_CHECKING:
    from ginsfsm.clock import TimerHandle
    from ginsfsm.task import Task

__all__ = ["RX_SIZE", "SockBase", "set_options"]

logger: Final = logging.getLogger("ginsfsm")

RX_SIZE: Final = 64 * 1024
"""Bytes asked of one receive. Blocks of 256 KiB go through mmap and take three times as long."""

RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
"""SO_LINGER for no seconds: closing sends a reset and frees what the kernel still holds."""


class SockBase(GObj):
    """A descriptor that the poller watches, and the end of it.

    Attributes:
        peername: the peer's address as Python gives it; None before there was a connection.
        sockname: our own address of the connection, likewise.
        tls: what was agreed on with TLS; None where the connection is plain, or is none.
    """

    class config(GObj.config):
        """The parameters of a connection. A server hands its own on to those it accepts."""

        subscriber: GObj | None = param(None, "subscriber of all output events; None is the parent")
        host: str = param("", "host to connect to, name or address")
        port: int = param(0, "port to connect to", ge=0, le=65535)
        connect_timeout: float = param(30.0, "seconds to get connected in; 0 is no limit", ge=0)
        ssl_options: dict[str, Any] = param({}, "ssl options; {} is a plain connection")
        start_tls: bool = param(
            False, "begin without TLS in spite of ssl_options; EV_START_TLS goes on with it"
        )
        handshake_timeout: float = param(
            10.0, "seconds for the handshake of TLS; 0 is no limit", ge=0
        )
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

        _server_side = False
        """Which side of the handshake it takes; not a parameter."""

        def misfits(self) -> Iterator[str]:
            if self.ssl_options:
                for fault in option_faults(self.ssl_options, server_side=self._server_side):
                    yield f"ssl_options: {fault}"
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
        EV_TLS_STARTED,
        EV_TRANSMIT_READY,
    )

    __slots__ = (
        "_direct",
        "_ending",
        "_kept",
        "_ledger",
        "_linger",
        "_mask",
        "_opening",
        "_reason",
        "_rx_ended",
        "_sock",
        "_stream",
        "_tls",
        "_tls_source",
        "_tx",
        "_tx_error",
        "peername",
        "sockname",
    )

    peername: Any
    sockname: Any
    _sock: _socket.socket | None
    """The descriptor: what the poller watches and what is closed."""
    _stream: _socket.socket | TlsStream | None
    """What bytes go through: the socket itself, or TLS on it."""
    _tls: TlsStream | None
    _tls_source: TlsSource | None
    _kept: list[Event] | None
    """In the handshake of a connection that the owner knows already: what it says meanwhile. Not
    POSTPONE, which makes every delivery to the machine look for what waits."""
    _mask: int
    """What the poller watches for."""
    _direct: int
    """READ in ST_CONNECTED while receiving, else 0: what the poller says then needs no row. Whoever
    enters or leaves that state with the same mask sets it."""
    _tx: OutputQueue | None
    _tx_error: Reason | None
    _rx_ended: bool
    _reason: Reason
    _opening: Task | None
    _linger: TimerHandle | None
    _ending: bool
    _ledger: Ledger[SockBase] | None

    def start_up(self) -> None:
        """No socket yet."""
        self.peername = None
        self.sockname = None
        self._sock = None
        self._opening = None
        self._linger = None
        self._ending = False
        self._ledger = None
        self._tls_source = self._own_tls_source() if self.config.ssl_options else None
        self._clear()

    def _own_tls_source(self) -> TlsSource | None:
        raise NotImplementedError

    @property
    def queued(self) -> int:
        """Bytes that wait for the peer to take them, besides those that the kernel has taken."""
        return 0 if self._tx is None else self._tx.size

    def _clear(self) -> None:
        self._stream = None
        self._tls = None
        self._kept = None
        self._mask = 0
        self._direct = 0
        self._tx = None
        self._tx_error = None
        self._rx_ended = False
        self._reason = Reason.LOCAL

    def go_out(self) -> None:
        """Close the socket, if there is one."""
        self._close_socket()

    def io_ready(self, mask: int) -> None:
        """The poller found the socket ready."""
        raise NotImplementedError

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
            self._direct = mask & READ if self._state.name == "ST_CONNECTED" else 0

    def _forget_opening(self, reason: Reason) -> None:
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None
        self._close_socket()
        self.gaplic.poller.defer(lambda: self._tell_later(EV_CONNECT_FAILED(reason)))

    # -- the end -----------------------------------------------------------------------------------

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


def set_options(sock: _socket.socket, config: type[SockBase.config]) -> None:
    """Set the socket options of the parameters; accepted sockets inherit them of the listener."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, config.nodelay)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, config.keepalive > 0)
    if config.keepalive and hasattr(socket, "TCP_KEEPIDLE"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, config.keepalive)
