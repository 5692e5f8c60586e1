r"""What the header of a proxy says, when it has been read.

Texts are decoded as UTF-8, as the specification wants them. But they are the client's, and a name
in its certificate may be in any encoding. No connection is refused for that: a byte that is no
UTF-8 is shown as `\xe9`. Whoever decides by a text finds the bytes themselves in `tlvs`.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Literal

from ginsfsm.net.proxy_tlv import ProxyError, Tlv, TlvType, encode_tlvs, first_value, read_tlvs

__all__ = ["ProxyHeader", "ProxyTls", "SocketAddress", "Transport", "internet_address"]

SocketAddress = tuple[str, int] | tuple[str, int, int, int] | str
"""As `socket.getpeername` gives it, but for abstract names: those are `"\\0name"` here."""

Transport = Literal["tcp4", "tcp6", "udp4", "udp6", "unix", "unixgram", "unspec"]


TLS_FIXED: Final = 5
"""Bytes that the value of the TLV for TLS has before its own TLVs: flags, and the verification."""


def internet_address(packed: bytes, port: int) -> SocketAddress:
    """An address of IPv4 (4 bytes) or IPv6 (16) as sockets have it."""
    if len(packed) == 4:
        return socket.inet_ntop(socket.AF_INET, packed), port
    return socket.inet_ntop(socket.AF_INET6, packed), port, 0, 0


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """What a proxy says of a connection.

    Attributes:
        version: 1 or 2.
        local: no addresses came, and the real ones of the connection are to be kept.
        source: the client's address; None if `local`.
        destination: the address that the client connected to; None if `local`.
        transport: what the client spoke to the proxy over; `"unspec"` if `local`.
        tlvs: type and value of each, in order, without those that only fill (NOOP). A checksum
            among them has been verified.
    """

    version: int
    local: bool
    source: SocketAddress | None
    destination: SocketAddress | None
    transport: Transport
    tlvs: tuple[Tlv, ...] = ()

    def tlv(self, kind: int) -> bytes | None:
        """The value of the first TLV of a type; None if there is none."""
        return first_value(self.tlvs, kind)

    @property
    def alpn(self) -> str | None:
        """The protocol that the client and the proxy settled on: `"h2"`."""
        return _text(self.tlv(TlvType.ALPN))

    @property
    def authority(self) -> str | None:
        """The host name that the client asked for; with TLS, its SNI."""
        return _text(self.tlv(TlvType.AUTHORITY))

    @property
    def unique_id(self) -> bytes | None:
        """What the proxy calls this connection, in its logs for example."""
        return self.tlv(TlvType.UNIQUE_ID)

    @property
    def netns(self) -> str | None:
        """The name of the network namespace that the client came in by."""
        return _text(self.tlv(TlvType.NETNS))

    @property
    def tls(self) -> ProxyTls | None:
        """The TLS between the client and the proxy; None where the proxy does not say."""
        value = self.tlv(TlvType.TLS)
        return None if value is None else ProxyTls.from_value(value)


class _Sub(IntEnum):
    """The types within TLS."""

    VERSION = 0x21
    CN = 0x22
    CIPHER = 0x23
    SIG_ALG = 0x24
    KEY_ALG = 0x25
    GROUP = 0x26
    SIG_SCHEME = 0x27
    CERTIFICATE = 0x28


@dataclass(frozen=True, slots=True)
class ProxyTls:
    """The TLS between the client and the proxy.

    Attributes:
        secure: the client spoke TLS. All else means little where it did not.
        certificate_given: the client gave a certificate on this connection.
        certificate_in_session: it gave one at least once in the session of TLS that this
            connection belongs to.
        verify: 0 if the certificate was verified, or else what the proxy's TLS library says of it.
            Proxies also send 0 where there is none: see `verified`.
        version: as the proxy names it: `"TLSv1.3"`, `"TLS 1.3"`.
        cipher: as OpenSSL names it: `"ECDHE-RSA-AES128-GCM-SHA256"`.
        cn: the common name of the client's certificate.
        sig_alg: what the proxy's own certificate is signed with: `"RSA-SHA256"`.
        key_alg: what key that certificate is for: `"RSA2048"`.
        group: the group of the key exchange: `"x25519"`.
        sig_scheme: what the proxy signed the handshake with: `"rsa_pss_rsae_sha256"`.
        certificate: the client's certificate, in DER form.

    Texts and certificate are None where the proxy does not say.
    """

    secure: bool = True
    certificate_given: bool = False
    certificate_in_session: bool = False
    verify: int = 1
    version: str | None = None
    cipher: str | None = None
    cn: str | None = None
    sig_alg: str | None = None
    key_alg: str | None = None
    group: str | None = None
    sig_scheme: str | None = None
    certificate: bytes | None = None

    @property
    def verified(self) -> bool:
        """Whether the client gave a certificate, now or in its session, and it was verified."""
        return self.verify == 0 and (self.certificate_given or self.certificate_in_session)

    @classmethod
    def from_value(cls, value: bytes) -> ProxyTls:
        """What the value of a TLV of the type TLS says.

        Raises:
            ProxyError: it is malformed; its `byte` counts in the value.
        """
        size = len(value)
        if size < TLS_FIXED:
            raise ProxyError(f"{size} bytes of TLS, expected {TLS_FIXED} or more", size)
        found = read_tlvs(value, TLS_FIXED, size)
        tlvs: list[Tlv] = [(kind, value[start:end]) for kind, start, end in found]
        return cls(
            secure=bool(value[0] & 0x01),
            certificate_given=bool(value[0] & 0x02),
            certificate_in_session=bool(value[0] & 0x04),
            verify=int.from_bytes(value[1:5]),
            version=_text(first_value(tlvs, _Sub.VERSION)),
            cipher=_text(first_value(tlvs, _Sub.CIPHER)),
            cn=_text(first_value(tlvs, _Sub.CN)),
            sig_alg=_text(first_value(tlvs, _Sub.SIG_ALG)),
            key_alg=_text(first_value(tlvs, _Sub.KEY_ALG)),
            group=_text(first_value(tlvs, _Sub.GROUP)),
            sig_scheme=_text(first_value(tlvs, _Sub.SIG_SCHEME)),
            certificate=first_value(tlvs, _Sub.CERTIFICATE),
        )

    def to_value(self) -> bytes:
        """The value of a TLV of the type TLS that says this.

        Raises:
            ProxyError: `verify`, a text or the certificate is larger than its place.
        """
        if not 0 <= self.verify <= 0xFFFFFFFF:
            raise ProxyError(f"verify={self.verify} was given, expected a number of 32 bits")
        flags = self.secure | self.certificate_given << 1 | self.certificate_in_session << 2
        texts = {
            _Sub.VERSION: self.version,
            _Sub.CN: self.cn,
            _Sub.CIPHER: self.cipher,
            _Sub.SIG_ALG: self.sig_alg,
            _Sub.KEY_ALG: self.key_alg,
            _Sub.GROUP: self.group,
            _Sub.SIG_SCHEME: self.sig_scheme,
        }
        tlvs = [(kind, said.encode()) for kind, said in texts.items() if said is not None]
        if self.certificate is not None:
            tlvs.append((_Sub.CERTIFICATE, self.certificate))
        return bytes([flags]) + self.verify.to_bytes(4) + encode_tlvs(tlvs)


def _text(value: bytes | None) -> str | None:
    """A value as text."""
    return None if value is None else value.decode("utf-8", "backslashreplace")
