"""A certificate: whom it is for, and how long it is valid.

OpenSSL keeps what it loads to itself. An operator has to know of a server's certificate which names
it is for and when it ends, so the file is read once more, with `cryptography`. That is imported by
the first certificate that is read: a program without TLS does not pay for it.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from ginsfsm.net.pem import Pem, PemError, read_pem

if TYPE_CHECKING:
    from cryptography import x509

__all__ = ["Certificate", "CertificateError", "certificate_of", "read_certificate"]

# As OpenSSL takes them from a certificate's file. TRUSTED ones are for authorities.
_CERTIFICATE: Final = re.compile(
    rb"^-----BEGIN (?:X509 )?CERTIFICATE-----.*?^-----END (?:X509 )?CERTIFICATE-----",
    re.MULTILINE | re.DOTALL,
)

_DAY: Final = 86400.0


class CertificateError(ValueError):
    """A file without a certificate that can be used, in a sentence."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """What an operator has to know of one certificate.

    Attributes:
        file: where it was read, as the path was given.
        names: the DNS names and the addresses that it is for, from its subjectAltName; without
            any there, its common name, if it has one. International names stand as A-labels.
        not_before: when it begins to be valid, in UTC.
        not_after: when it ends to be valid, in UTC.
    """

    file: str
    names: tuple[str, ...]
    not_before: datetime
    not_after: datetime

    def days_left(self, now: datetime | None = None) -> float:
        """Days of 24 hours until it is no longer valid, with a fraction; negative once expired.

        Args:
            now: an aware time; None is the present.
        """
        return (self.not_after - (now or datetime.now(UTC))).total_seconds() / _DAY


def read_certificate(path: str) -> Certificate:
    """The first certificate of a PEM file: in a chain, that of the server or client itself.

    Raises:
        CertificateError: there is no such file, it is no regular file, it cannot be read, or it
            holds no certificate in PEM form.
    """
    try:
        pem = read_pem(path)
    except PemError as error:
        raise CertificateError(str(error)) from None
    return certificate_of(pem)


def certificate_of(pem: Pem) -> Certificate:
    """The same of a file that has been read. Raises `CertificateError` as well."""
    from cryptography import x509

    block = _CERTIFICATE.search(pem.data)
    if block is None:
        raise CertificateError(_why_none(pem))
    with warnings.catch_warnings():
        # `cryptography` warns of certificates that later versions of it will not read; nothing
        # that a user of ours could do anything about.
        warnings.simplefilter("ignore")
        try:
            found = x509.load_pem_x509_certificate(block[0])
            return Certificate(
                pem.path, _names(found), found.not_valid_before_utc, found.not_valid_after_utc
            )
        except ValueError:
            pass
    raise CertificateError(f"the first certificate in {pem.path!r} is damaged")


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    from cryptography import x509

    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names = [
            str(one.value)
            for one in extension.value
            if isinstance(one, (x509.DNSName, x509.IPAddress))
        ]
    except (ValueError, x509.ExtensionNotFound):
        # A malformed extension keeps no OpenSSL from using the certificate.
        names = []
    common = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return tuple(names or [str(one.value) for one in common])


def _why_none(pem: Pem) -> str:
    """A sentence for a file in which no certificate was found."""
    if pem.has_key:
        return f"{pem.path!r} holds a private key, but no certificate"
    if not pem.data.strip():
        return f"{pem.path!r} is empty; expected a certificate in PEM form"
    # How each certificate begins, which is an ASN.1 sequence of more than 255 bytes.
    if pem.data.startswith(b"\x30\x82"):
        return (
            f"{pem.path!r} looks like DER, which is binary; expected PEM: convert it with 'openssl "
            "x509 -inform der -in FILE -out FILE.pem'"
        )
    return f"{pem.path!r} holds no certificate in PEM form, -----BEGIN CERTIFICATE-----"
