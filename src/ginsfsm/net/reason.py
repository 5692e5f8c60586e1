"""Reason: why a connection ended, a closed set of words."""

import errno
import ssl
from enum import StrEnum
from typing import Final

__all__ = ["Reason", "reason_of"]


class Reason(StrEnum):
    """Why a connection ended, or did not come to be."""

    PEER = "peer"
    """The peer ended it in order."""
    LOCAL = "local"
    """Its owner dropped it."""
    RESET = "reset"
    """The peer reset or refused it."""
    TIMEOUT = "timeout"
    """The connection was not made, or the last output not taken, in time."""
    IDLE = "idle"
    """The peer was silent for too long."""
    TLS = "tls"
    """The handshake or a record of TLS failed."""
    TLS_TRUNCATED = "tls_truncated"
    """The peer closed without TLS's own end, so what it sent may be incomplete."""
    TX_OVERFLOW = "tx_overflow"
    """The peer did not read, and more than `tx_max` was waiting for it."""
    FRAME = "frame"
    """The peer sent a frame that is too long or malformed."""
    DRAINED = "drained"
    """The server's drain came to its deadline."""
    ERROR = "error"
    """An action raised an exception on an event of it, or the system failed."""


_RESETS: Final = frozenset(
    {
        errno.ECONNRESET,
        errno.EPIPE,
        errno.ECONNABORTED,
        errno.ECONNREFUSED,
        errno.ESHUTDOWN,
        # What the system says when the reset has been told already.
        errno.ENOTCONN,
    }
)


def reason_of(error: OSError) -> Reason:
    """The word for what the system says of a connection."""
    if isinstance(error, ssl.SSLError):
        # Its numbers are OpenSSL's.
        return Reason.TLS
    if error.errno in _RESETS:
        return Reason.RESET
    return Reason.TIMEOUT if error.errno == errno.ETIMEDOUT else Reason.ERROR
