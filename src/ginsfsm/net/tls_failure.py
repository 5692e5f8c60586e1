"""Why TLS failed, in words: OpenSSL has names for it, which say little to whoever reads a log."""

from __future__ import annotations

import ssl
from typing import Final

__all__ = ["failure"]

_FAILURES: Final = {
    "HTTP_REQUEST": "plain HTTP came to the port of TLS",
    "HTTPS_PROXY_REQUEST": "a plain HTTP CONNECT came to the port of TLS",
    "WRONG_VERSION_NUMBER": "what came is no TLS",
    "UNEXPECTED_MESSAGE": "what came does not belong into a handshake",
    "NO_SHARED_CIPHER": "no cipher that both sides know",
    "UNSUPPORTED_PROTOCOL": "no version of TLS that both sides know",
    "NO_PROTOCOLS_AVAILABLE": "no version of TLS that both sides know",
    "CALLBACK_FAILED": "the server name that the peer asked for is none",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the peer sent no certificate",
}
"""What OpenSSL's words mean, where they do not say it."""


def failure(error: BaseException | None) -> str:
    """Why TLS failed, in words for a log."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the peer's certificate was refused: {error.verify_message}"
    # One of our own has no attribute `reason`.
    if isinstance(error, ssl.SSLError) and getattr(error, "reason", None):
        alert = error.reason.partition("_ALERT_")[2]
        if alert:
            return f"the peer says {alert.lower().replace('_', ' ')} ({error.reason})"
        said = _FAILURES.get(error.reason)
        return f"{said} ({error.reason})" if said else error.reason.lower().replace("_", " ")
    return str(error)
