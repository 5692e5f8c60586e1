"""TlsInfo: what two ends agreed on in a handshake, for whoever has the connection."""

from __future__ import annotations

import ssl
from typing import Any

__all__ = ["TlsInfo"]


class TlsInfo:
    """What two ends agreed on in a handshake."""

    __slots__ = ("_object",)

    def __init__(self, tls_object: ssl.SSLObject) -> None:
        self._object = tls_object

    @property
    def protocol(self) -> str:
        """The version: `"TLSv1.3"` or `"TLSv1.2"`."""
        return self._object.version() or ""

    @property
    def cipher(self) -> str:
        """The cipher suite, as OpenSSL names it: `"TLS_AES_256_GCM_SHA384"`."""
        found = self._object.cipher()
        return found[0] if found else ""

    @property
    def alpn(self) -> str | None:
        """The protocol that ALPN settled on; None where either side did not ask."""
        return self._object.selected_alpn_protocol()

    @property
    def server_name(self) -> str | None:
        """The host name that the client asked for (SNI)."""
        if self._object.server_side:
            return getattr(self._object, "server_name", None)
        return self._object.server_hostname

    @property
    def resumed(self) -> bool:
        """Whether the session is one of before, by a ticket or its number."""
        return bool(self._object.session_reused)

    @property
    def peer_certificate(self) -> bytes | None:
        """The peer's certificate in DER form; None where it sent none."""
        return self._object.getpeercert(binary_form=True)

    def peer_certificate_fields(self) -> dict[str, Any]:
        """The peer's certificate as `ssl.SSLSocket.getpeercert` gives it.

        Empty where the peer sent none, or none was asked for to be verified.
        """
        return dict(self._object.getpeercert() or {})

    def __repr__(self) -> str:
        return f"<{self.protocol} {self.cipher}>"
