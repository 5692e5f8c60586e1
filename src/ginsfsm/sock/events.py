"""The events of a GSock: from its owner, to its owner, and what it says to itself."""

from __future__ import annotations

from typing import Any

from ginsfsm.event import Event
from ginsfsm.net.reason import Reason
from ginsfsm.net.ssl_options import SslOptions
from ginsfsm.net.tls_source import TlsSource

__all__ = [
    "EV_ACCEPTED",
    "EV_ACCEPTED_PROXY",
    "EV_ACCEPTED_TLS",
    "EV_CONNECT",
    "EV_CONNECTED",
    "EV_CONNECT_FAILED",
    "EV_DISCONNECTED",
    "EV_DROP",
    "EV_ENDED",
    "EV_EXPIRED",
    "EV_FAILED",
    "EV_FLUSHED",
    "EV_FLUSH_OUTPUT_DATA",
    "EV_OPENED",
    "EV_PAUSE_RX",
    "EV_PLAIN",
    "EV_READABLE",
    "EV_RESUME_RX",
    "EV_RX_DATA",
    "EV_RX_END",
    "EV_RX_FRAME",
    "EV_SECURE",
    "EV_SECURED",
    "EV_SEND_DATA",
    "EV_SEND_FRAME",
    "EV_SHAKE",
    "EV_START_TLS",
    "EV_TLS_STARTED",
    "EV_TRANSMIT_READY",
    "EV_UPGRADE",
    "EV_WRITABLE",
    "EV_WRITE_OUTPUT_DATA",
]


class EV_CONNECT(Event):
    """Connect to the parameters `host` and `port`, or `unix_path`."""


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


class EV_SEND_FRAME(Event):
    """Send these bytes as one frame, as the parameter `framing` says; else as `EV_SEND_DATA`.

    Raises EventError where there is no framing, or the bytes cannot be a frame of it.
    """

    data: bytes


class EV_PAUSE_RX(Event):
    """Receive nothing, so that the peer's window closes."""


class EV_RESUME_RX(Event):
    """Receive again."""


class EV_START_TLS(Event):
    """Go on with TLS on a connection that was plain until now.

    What was queued before leaves before it, in plain. What is sent from now on waits for the
    handshake. The options are those of the parameter `ssl_options`, of the server for an accepted
    connection, unless the event brings its own.

    Raises GObjError where there are no options, or TLS is there already, and GConfigError where the
    options of the event are wrong; the connection stays as it was.
    """

    received: bytes = b""
    """Bytes that came with `EV_RX_DATA` and belong to the peer's handshake."""
    ssl_options: dict[str, Any] | None = None
    """Options for this connection alone. Reading their files takes time each time."""

    def __post_init__(self) -> None:
        if self.ssl_options is not None:
            # Its repr hides passphrases.
            self.ssl_options = SslOptions(self.ssl_options)


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


class EV_RX_FRAME(Event):
    """One frame from the peer, without what marks its end. Comes instead of `EV_RX_DATA`."""

    data: bytes


class EV_RX_END(Event):
    """The peer sends no more, and still reads. Comes only with `half_close=True`."""


class EV_TLS_STARTED(Event):
    """The handshake that `EV_START_TLS` began is complete; `gsock.tls` tells what was agreed."""


class EV_TRANSMIT_READY(Event):
    """The output queue had passed `tx_high_water` and has fallen under `tx_low_water`.

    It has also where a send fails and nobody will take what was queued; the end comes next.
    """


class EV_ACCEPTED(Event):
    """The server hands over an accepted socket."""

    peername: Any
    sockname: Any


class EV_ACCEPTED_TLS(Event):
    """The server hands over an accepted socket that begins with TLS."""

    peername: Any
    sockname: Any


class EV_ACCEPTED_PROXY(Event):
    """The server hands over an accepted socket of a balancer, which begins with its header."""

    peername: Any
    sockname: Any


class EV_PLAIN(Event):
    """The header is read, and no TLS follows."""


class EV_SECURE(Event):
    """The header is read, and TLS follows."""


class EV_EXPIRED(Event):
    """A deadline of the present state has come."""

    reason: Reason


class EV_OPENED(Event):
    """The attempt to connect has ended."""

    result: Any
    error: BaseException | None


class EV_SHAKE(Event):
    """It is this connection's turn to make a step of the handshake."""


class EV_UPGRADE(Event):
    """The connection goes on with TLS."""

    source_of_tls: TlsSource
    received: bytes


class EV_SECURED(Event):
    """The handshake is complete."""


class EV_READABLE(Event):
    """The socket can be read, has ended or has failed."""


class EV_WRITABLE(Event):
    """The socket can be written."""


class EV_ENDED(Event):
    """The peer has closed its side: properly (`PEER`), or without TLS's own end."""

    reason: Reason = Reason.PEER


class EV_FLUSHED(Event):
    """Nothing is queued for the peer."""


class EV_FAILED(Event):
    """The connection ends at once."""

    reason: Reason
    error: Exception | None = None
    """What failed, where the log has to say it."""
