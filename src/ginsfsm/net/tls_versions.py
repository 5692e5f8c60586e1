"""The versions of TLS that are spoken: 1.2 and 1.3, or less of them.

Two options say which. `ssl_version` is that of `ssl.wrap_socket`, which named one version, or all
that there were. `minimum_version` is today's. Neither brings back a version that is insecure.
"""

import ssl
from dataclasses import dataclass, field
from typing import Final

from ginsfsm.net.words import bare, given

__all__ = ["Versions", "versions_of"]

# The values of the constants ssl.PROTOCOL_...; a Python may have been built without some.
_TLS, _TLS_1_2, _TLS_CLIENT, _TLS_SERVER = 2, 5, 16, 17
_PROTOCOLS: Final = {
    "sslv2": 0, "sslv3": 1, "sslv23": _TLS, "tls": _TLS, "tlsv1": 3, "tlsv1_1": 4,
    "tlsv1_2": _TLS_1_2, "tls_client": _TLS_CLIENT, "tls_server": _TLS_SERVER,
}  # fmt: skip

# The values of ssl.TLSVersion.
_VERSIONS: Final = {
    "sslv3": 0x300, "tlsv1": 0x301, "tlsv1_1": 0x302, "tlsv1_2": 0x303, "tlsv1_3": 0x304,
}  # fmt: skip

_TOO_OLD: Final = (
    "versions older than TLS 1.2 are insecure and no longer spoken; leave it out, which means TLS "
    "1.2 and 1.3"
)


@dataclass(slots=True)
class Versions:
    """The oldest and the newest version, and what is wrong or should be known."""

    minimum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2
    maximum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
    faults: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def versions_of(ssl_version: object, minimum_version: object, *, server_side: bool) -> Versions:
    """The versions that the two options leave.

    Args:
        ssl_version: `ssl.PROTOCOL_...`, its number or its name, or None.
        minimum_version: an `ssl.TLSVersion`, its number or its name, or None.
        server_side: whether `PROTOCOL_TLS_SERVER` or `PROTOCOL_TLS_CLIENT` is right.
    """
    versions = Versions()
    if minimum_version is not None:
        _read_minimum(minimum_version, versions)
    if ssl_version is not None:
        _read_protocol(ssl_version, server_side, versions)
    return versions


def _read_minimum(value: object, versions: Versions) -> None:
    number = _VERSIONS.get(bare(value, "tlsversion."), value)
    if number == ssl.TLSVersion.TLSv1_2:
        versions.minimum = ssl.TLSVersion.TLSv1_2
    elif number == ssl.TLSVersion.TLSv1_3:
        versions.minimum = ssl.TLSVersion.TLSv1_3
    elif number in _VERSIONS.values():
        versions.faults.append(f"minimum_version: {_TOO_OLD}")
    else:
        versions.faults.append(
            f"minimum_version: expected 'TLSv1.2' or 'TLSv1.3', got {given(value)}"
        )


def _read_protocol(value: object, server_side: bool, versions: Versions) -> None:
    number = _PROTOCOLS.get(bare(value, "protocol_"), value)
    own, other = (_TLS_SERVER, _TLS_CLIENT) if server_side else (_TLS_CLIENT, _TLS_SERVER)
    right = "PROTOCOL_TLS_SERVER" if server_side else "PROTOCOL_TLS_CLIENT"
    if isinstance(number, bool) or number not in _PROTOCOLS.values():
        versions.faults.append(
            f"ssl_version: expected ssl.PROTOCOL_TLS, {right} or PROTOCOL_TLSv1_2, got "
            f"{given(value)}; minimum_version is what chooses among the versions"
        )
    elif number == other:
        versions.faults.append(f"ssl_version: it is for the other side; use {right}")
    elif number == _TLS_1_2 and versions.minimum == ssl.TLSVersion.TLSv1_3:
        versions.faults.append(
            "ssl_version: PROTOCOL_TLSv1_2 means TLS 1.2 only, which minimum_version forbids; "
            "leave out one of the two"
        )
    elif number == _TLS_1_2:
        versions.maximum = ssl.TLSVersion.TLSv1_2
        versions.warnings.append(
            "ssl_version: PROTOCOL_TLSv1_2 means TLS 1.2 and not 1.3; leave it out to speak both"
        )
    elif number not in (_TLS, own):
        versions.faults.append(f"ssl_version: {_TOO_OLD}")
