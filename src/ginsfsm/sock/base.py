"""SockBase: the parameters of a connection, its descriptor, and how that ends."""

from __future__ import annotations

import _socket
import logging
import socket
import struct
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from ginsfsm.errors import GConfigError
from ginsfsm.event import Event
from ginsfsm.gconfig import param
from ginsfsm.gobj import GObj
from ginsfsm.life import destroy
from ginsfsm.logs.fields import about
from ginsfsm.net.addresses import format_address
from ginsfsm.net.framing import FrameError, Framing, framing_fault, read_framing
from ginsfsm.net.networks import read_networks
from ginsfsm.net.output import OutputQueue
from ginsfsm.net.proxy_header import ProxyHeader
from ginsfsm.net.reason import Reason
from ginsfsm.net.socket_options import options_faults, read_options
from ginsfsm.net.tls import all_faults
from ginsfsm.net.tls_source import TlsSource
from ginsfsm.net.tls_stream import TlsStream
from ginsfsm.net.unix_address import unix_faults
from ginsfsm.net.words import HOST_FORM, cut, is_host
from ginsfsm.poller import READ, Poller
from ginsfsm.sock.events import (
    EV_CONNECT_FAILED,
    EV_CONNECTED,
    EV_DISCONNECTED,
    EV_FAILED,
    EV_RX_DATA,
    EV_RX_END,
    EV_RX_FRAME,
    EV_TLS_STARTED,
    EV_TRANSMIT_READY,
)
from ginsfsm.sock.options import KERNEL_KEEPS, set_options
from ginsfsm.sock.reception import Reception

if TYPE_CHECKING:
    from ginsfsm.clock import TimerHandle
    from ginsfsm.task import Task

__all__ = ["RX_SIZE", "SockBase"]

logger: Final = logging.getLogger("ginsfsm")

RX_SIZE: Final = 64 * 1024
"""Bytes asked of one receive. Blocks of 256 KiB go through mmap and take three times as long."""

RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
"""SO_LINGER for no seconds: closing sends a reset and frees what the kernel still holds."""

OF_BEGINNING: Final = frozenset({"proxy_protocol", "proxy_trusted", "proxy_timeout"})
"""Parameters that a connection of a server is done with when its owner hears of it."""

OF_FRAMES: Final = frozenset({"framing", "max_frame"})
"""Parameters that are settled when the bytes begin that become frames."""


# ginsfsm: ignore[unheard-output]: who uses the library has the rows
class SockBase(GObj):
    """A descriptor that the poller watches, and the end of it.

    Attributes:
        peername: the peer's address as Python gives it; None before there was a connection.
        sockname: our own address of the connection, likewise.
        balancer: the address that the connection comes from where a PROXY header told another one.
        proxy: that header; None without one.
        rx_bytes: how many plain bytes came from the peer, over all connections of this gsock.
        tx_bytes: how many plain bytes the kernel, or TLS, has taken, likewise.
        tls: what was agreed on with TLS; None where the connection is plain, or is none.
    """

    class config(GObj.config):
        """The parameters of a connection. A server hands its own on to those it accepts."""

        subscriber: GObj | None = param(None, "subscriber of all output events; None is the parent")
        host: str = param("", "host to connect to, name or address")
        port: int = param(0, "port to connect to", ge=0, le=65535)
        unix_path: str = param(
            "", "Unix socket to connect to, instead of host and port; '@name' is an abstract one"
        )
        connect_timeout: float = param(30.0, "seconds to get connected in; 0 is no limit", ge=0)
        ssl_options: dict[str, Any] = param({}, "ssl options; {} is a plain connection")
        start_tls: bool = param(
            False, "begin without TLS; EV_START_TLS goes on with ssl_options, or with its own"
        )
        handshake_timeout: float = param(
            10.0, "seconds for the handshake of TLS; 0 is no limit", ge=0
        )
        close_timeout: float = param(
            10.0, "seconds for the last output to be taken after a drop; 0 is no limit", ge=0
        )
        destroy_on_disconnect: bool = param(
            False, "destroy the gsock after EV_DISCONNECTED, so that the subscriber need not"
        )
        proxy_protocol: str = param(
            "off",
            "server: connections of proxy_trusted may, or must, begin with a PROXY header",
            choices=("off", "accept", "require"),
        )
        proxy_trusted: tuple[str, ...] = param((), "server: networks of the balancers")
        proxy_timeout: float = param(5.0, "seconds for the PROXY header; 0 is no limit", ge=0)
        framing: Any = param(
            "", "how bytes become frames: '' is not at all, 'lines', b'\\0', 'uint32' and others",
            from_settings=read_framing,
        )  # fmt: skip
        max_frame: int = param(
            1024 * 1024, "bytes of the largest frame; a larger one ends it", ge=1
        )
        first_data_timeout: float = param(
            0.0, "seconds for the first byte, from EV_CONNECTED on; 0 is no limit", ge=0
        )
        idle_timeout: float = param(3600.0, "seconds of silence of the peer; 0 is no limit", ge=0)
        max_lifetime: float = param(0.0, "seconds that a connection may last; 0 is no limit", ge=0)
        min_rx_rate: float = param(
            0.0, "bytes a second that have to come, on average over 10 s; 0 is no limit",
            ge=0, le=10**12,
        )  # fmt: skip
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
        keepalive_interval: int = param(
            15, "seconds between two such questions; 0 is the system's", ge=0, le=32767
        )
        keepalive_count: int = param(
            4, "questions without an answer that end it; 0 is the system's", ge=0, le=127
        )
        user_timeout: float = param(
            0.0, "seconds that what was sent may wait for the peer's kernel; 0 is the system's",
            ge=0, le=2147483,
        )  # fmt: skip
        socket_options: dict[str, Any] = param(
            {}, "any others, by name: {'SO_RCVBUF': 65536}; they go before the system's"
        )

        _server_side = False
        """Which side of the handshake it takes; not a parameter."""

        def misfits(self) -> Iterator[str]:
            if self.ssl_options:
                for fault in all_faults(self.ssl_options, server_side=self._server_side):
                    yield f"ssl_options: {fault}"
            _, faults = read_networks("proxy_trusted", self.proxy_trusted)
            yield from faults
            wrong = framing_fault(self.framing, self.max_frame)
            if wrong is not None:
                yield f"framing: {wrong}"
            if self.user_timeout and not hasattr(socket, "TCP_USER_TIMEOUT"):
                yield "user_timeout: this system has no TCP_USER_TIMEOUT; give keepalive"
            yield from self._place_misfits()
            if self.tx_low_water > self.tx_high_water:
                yield (
                    f"tx_low_water: expected at most tx_high_water ({self.tx_high_water}), "
                    f"got {self.tx_low_water}"
                )

        def _place_misfits(self) -> Iterator[str]:
            """What is wrong with where to connect to; a server's is where to listen."""
            if not is_host(self.host):
                yield f"host: {HOST_FORM}, got {cut(repr(self.host))}"
            if self.unix_path:
                yield from (f"unix_path: {fault}" for fault in unix_faults(self.unix_path))
            options = options_faults(
                read_options(self.socket_options), is_unix=bool(self.unix_path)
            )
            yield from (f"socket_options: {fault}" for fault in options)

    outputs: Sequence[type[Event]] = (
        EV_CONNECTED,
        EV_CONNECT_FAILED,
        EV_DISCONNECTED,
        EV_RX_DATA,
        EV_RX_END,
        EV_RX_FRAME,
        EV_TLS_STARTED,
        EV_TRANSMIT_READY,
    )

    __slots__ = (
        "_before_upgrade",
        "_direct",
        "_early",
        "_ending",
        "_frame_error",
        "_frames",
        "_frames_due",
        "_framing",
        "_heard",
        "_in_session",
        "_kept",
        "_left",
        "_linger",
        "_mask",
        "_opening",
        "_paused_at",
        "_place",
        "_poller",
        "_rate_bytes",
        "_rate_since",
        "_reason",
        "_reception",
        "_rx_before",
        "_rx_count",
        "_rx_ended",
        "_since",
        "_sock",
        "_stream",
        "_tls",
        "_tls_source",
        "_tx",
        "_tx_count",
        "_tx_error",
        "balancer",
        "peername",
        "proxy",
        "rx_bytes",
        "sockname",
        "tx_bytes",
    )

    peername: Any
    sockname: Any
    balancer: Any
    proxy: ProxyHeader | None
    rx_bytes: int
    tx_bytes: int
    _rx_count: float
    """Messages that came. To add 1.0 takes two thirds of the time of an int, and is exact up to
    2**53."""
    _tx_count: float
    _sock: _socket.socket | None
    """The descriptor: what the poller watches and what is closed."""
    _stream: _socket.socket | TlsStream | None
    """What bytes go through: the socket itself, or TLS on it."""
    _tls: TlsStream | None
    _tls_source: TlsSource | None
    _kept: list[Event] | None
    """In the handshake of a connection that the owner knows already: what it says meanwhile. Not
    POSTPONE, which makes every delivery to the machine look for what waits."""
    _before_upgrade: tuple[float, int]
    """In that handshake: `_since` and `_rx_before` of the connection, which it does not begin."""
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
    _reception: Reception | None
    """What it shares with the server that accepted it; None for a client's."""
    _place: bytes | None
    """What it is counted by among those of its address, while it is open."""
    _in_session: bool
    """Whether its parent is a gobj that was made for it and goes with it."""
    _poller: Poller
    _early: bytes
    """What came with the PROXY header, or of it."""
    _framing: Framing | None
    _frames: deque[bytes]
    """Frames that the owner has not heard of yet; only with a framing."""
    _frames_due: bool
    """Whether the poller will come back to them."""
    _frame_error: FrameError | None
    """What ends the connection when it has those."""
    _since: float
    """When the present part of its life began."""
    _heard: float
    """When the peer's last byte came, or when it could begin to send; later by the pauses."""
    _paused_at: float
    """When the owner paused receiving, or when that was last taken into account."""
    _rx_before: int
    """The bytes that had come when the present part of its life began."""
    _rate_since: float
    _rate_bytes: int
    """When the window of `min_rx_rate` began, and how many bytes there were then."""
    _left: bool
    """Whether it has ended and its subscriber has not destroyed it."""

    def start_up(self) -> None:
        """No socket yet."""
        self.peername = None
        self.sockname = None
        self._sock = None
        self._opening = None
        self._linger = None
        self._ending = False
        self._reception = None
        self._place = None
        self._in_session = False
        self._left = False
        self._poller = self.gaplic.poller
        self.balancer = None
        self.proxy = None
        self.rx_bytes = self.tx_bytes = 0
        self._rx_count = self._tx_count = 0.0
        self._tls_source = self._own_tls_source() if self.config.ssl_options else None
        self._clear()

    def _own_tls_source(self) -> TlsSource | None:
        raise NotImplementedError

    def parameters_written(self, names: frozenset[str]) -> None:
        """What the kernel keeps for a connection holds for it as it stands.

        Raises:
            GConfigError: a server's connection is open, and there is no later one of it for which
                the value could hold.
        """
        settled = names & self._settled
        if settled:
            raise GConfigError(
                f"{self.path}: {', '.join(sorted(settled))}: cannot change while a connection that "
                "a server accepted is open; write it to the server, for those that come"
            )
        if self._sock is not None and names & KERNEL_KEEPS:
            set_options(self._sock, self.config, names)

    @property
    def _settled(self) -> frozenset[str]:
        """Parameters of which nothing is asked any more."""
        is_known = self._kept is not None or self._state.name in ("ST_CONNECTED", "ST_CLOSING")
        if self._reception is None or not is_known:
            return frozenset()
        # What comes behind EV_START_TLS is cut anew.
        begins_anew = self.config.start_tls and self._tls is None
        return OF_BEGINNING if begins_anew else OF_BEGINNING | OF_FRAMES

    @property
    def _counts_by_address(self) -> bool:
        """Whether it is known whose it is, and that is not the balancer itself."""
        if self._state.name == "ST_PROXY" or (self.proxy is not None and self.proxy.local):
            return False
        return isinstance(self.peername, tuple)

    @property
    def rx_messages(self) -> int:
        """How many messages came: frames, or without a framing what each receive gave."""
        return int(self._rx_count)

    @property
    def tx_messages(self) -> int:
        """How many messages were accepted to be sent, frames or not."""
        return int(self._tx_count)

    @property
    def _upgrade(self) -> TlsStream | None:
        """The TLS whose handshake goes on behind the plain output of the connection."""
        return None if self._kept is None else self._tls

    @property
    def _sent(self) -> int:
        """As `tx_bytes`, and exact while a handshake goes on that began behind plain output."""
        return self.tx_bytes + (0 if (tls := self._upgrade) is None else tls.plain_sent)

    @property
    def queued(self) -> int:
        """Bytes that wait for the peer to take them, besides those that the kernel has taken."""
        waiting = 0 if self._tx is None else self._tx.size
        return waiting + (0 if (tls := self._upgrade) is None else tls.plain_queued)

    def _clear(self) -> None:
        self._stream = None
        self._tls = None
        self._kept = None
        self._mask = 0
        self._direct = 0
        self._early = b""
        self._framing = None
        self._frame_error = None
        self._tx = None
        self._tx_error = None
        self._rx_ended = False
        self._reason = Reason.LOCAL

    def go_out(self) -> None:
        """Close the socket, if there is one; the gobj that was made for it goes as well."""
        if self._in_session and not self.parent.destroyed:
            session = self.parent
            self._poller.defer(lambda: destroy(session))
        self._close_socket()
        if self._left:
            self._left = False
            assert self._reception is not None
            self._reception.forgotten -= 1

    def deadline_reached(self, now: float) -> float | None:
        """The sweep looks; see `ginsfsm.deadlines.Watched`."""
        raise NotImplementedError

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

    def _peer_to_tell(self) -> object:
        # Where it connects, the one that it has is that of the connection before. And one whose
        # making has failed may have neither.
        is_opening = getattr(self, "_opening", None) is not None
        return None if is_opening else getattr(self, "peername", None)

    def _wait_for(self, mask: int) -> None:
        """Let the poller watch for exactly this."""
        before = self._mask
        if mask != before and self._sock is not None:
            poller = self._poller
            if not before:
                poller.register(self._sock.fileno(), self, mask)
            elif mask:
                poller.modify(self._sock.fileno(), mask)
            else:
                poller.unregister(self._sock.fileno())
            # Only now: a registration that failed must not be undone when the socket closes.
            self._mask = mask
            if self._state.name == "ST_CONNECTED":
                self._set_direct()
            else:
                self._direct = 0

    def _set_direct(self) -> None:
        # What came with a PROXY header goes before what is still to be read.
        through_rows = self._framing is not None or self._early
        self._direct = 0 if through_rows else self._mask & READ

    def _begin_phase(self) -> None:
        """From now on count the time that the present part of the connection's life takes."""
        poller = self._poller
        now = poller.now if poller.in_batch else self.gaplic.time()
        self._since = self._heard = self._rate_since = self._paused_at = now
        self._rx_before = self._rate_bytes = self.rx_bytes
        self.gaplic.deadlines.soon(self)

    def _forget_opening(self, reason: Reason) -> None:
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None
        self._close_socket()
        self._poller.defer(lambda: self._tell_later(EV_CONNECT_FAILED(reason)))

    # -- the end -----------------------------------------------------------------------------------

    def _close(self, reason: Reason) -> None:
        self._ending = True
        # Before it leaves the ledger: a server that drains tells of the last behind this.
        self._poller.defer(lambda: self._tell_disconnected(reason))
        self._close_socket()

    def _close_socket(self) -> None:
        """Close the descriptor, on every path; then the connection is out of the ledger."""
        sock = self._sock
        if sock is None:
            return
        if self._mask:
            self._poller.unregister(sock.fileno())
            self._mask = 0
        self.gaplic.deadlines.forget(self)
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        if self._tx is not None:
            # We give up on what the peer does not take. So must the kernel, which would hold its
            # own part for minutes, and the peer must not take the cut for a proper end.
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            except OSError as error:
                logger.debug(
                    "%s: no reset to %s: %s", self.path, format_address(self.peername), error,
                    extra=about(self, peer=self.peername, error=error),
                )  # fmt: skip
        sock.close()
        self._sock = None
        if self._framing is not None:
            self._frames.clear()
        if self._kept is not None:
            # Of an upgrade that did not come to its end.
            self.tx_bytes = self._sent
        self._clear()
        reception = self._reception
        if reception is not None:
            if self._place is not None:
                reception.admission.leave(self._place)
                self._place = None
            # As long as the gsock is a server's it has this one connection.
            reception.ledger.add_traffic(
                self.rx_bytes, self.tx_bytes, int(self._rx_count), int(self._tx_count)
            )
            reception.ledger.close(self)

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
        asked = self._asks(EV_DISCONNECTED)
        if asked:
            self._tell(EV_DISCONNECTED(reason))
        if self._in_session:
            destroy(self.parent)
        elif self.destroyed or self._sock is not None or self._opening is not None:
            # Also where its owner connects it again.
            pass
        elif not asked or self.config.destroy_on_disconnect:
            # Nobody else will, since nobody learns that it has ended, or wants to.
            destroy(self)
        elif self._reception is not None:
            self._left = True
            self._reception.forget(self.parent.path)
