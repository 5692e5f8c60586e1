"""Version 2 of the PROXY protocol: a signature, a command, a family, addresses, and TLVs.

    12 bytes   the signature
     1         the version, which is 2, and the command: PROXY, or LOCAL for the sender's own
     1         the family of the addresses, and whether for streams or datagrams
     2         how many bytes follow
    12         for IPv4: both addresses (source, destination), both ports
    36         for IPv6: the same
    216        for Unix sockets: both paths, filled up with zeros
     0         for LOCAL, and where family or protocol are unspecified
    the rest   TLVs

LOCAL and what is unspecified is the exception to all strictness: there the receiver has to ignore
what stands where the addresses would, since some balancers fill it with dummies. TLVs are read all
the same, if TLVs are what it holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ginsfsm.net.crc32c import crc32c
from ginsfsm.net.proxy_facts import (
    TLS_FIXED,
    ProxyHeader,
    SocketAddress,
    Transport,
    internet_address,
)
from ginsfsm.net.proxy_tlv import TLV_HEAD, ProxyError, TlvType, read_tlvs

__all__ = ["MAX_HEADER", "SIGNATURE", "check_tlvs", "parse_binary"]

SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
"""What all headers begin with, and no other protocol."""

MAX_HEADER: Final = 4096
"""Bytes of the longest header that is taken. The specification allows 65551 and calls for 536, to
fit in one segment. What balancers send is below that, but for those that pass on the client's whole
certificate: one to two thousand bytes more. Beyond are mistakes and attacks."""

PATH: Final = 108
"""Bytes of the path of a Unix socket."""

FIXED: Final = 16
"""Bytes before the addresses."""

TRANSPORTS: Final[dict[int, Transport]] = {
    0x11: "tcp4",
    0x12: "udp4",
    0x21: "tcp6",
    0x22: "udp6",
    0x31: "unix",
    0x32: "unixgram",
}
"""What the 14th byte says; with a 0 in one of its halves it is unspecified."""

_ADDRESSES: Final = {1: 2 * 4 + 2 * 2, 2: 2 * 16 + 2 * 2, 3: 2 * PATH}
"""Bytes of both addresses and, but for Unix sockets, both ports; by the family."""


_LENGTHS: Final[dict[int, range]] = {
    TlvType.CRC32C: range(4, 5),
    TlvType.UNIQUE_ID: range(129),
    TlvType.TLS: range(TLS_FIXED, 0x10000),
}
"""Bytes of the values of which the specification says it."""

_ONCE: Final = frozenset({TlvType.CRC32C, TlvType.TLS})
"""Of which a second one would leave it open whom to believe."""


def parse_binary(data: bytes) -> tuple[ProxyHeader, int] | None:
    """The header that some bytes begin with; see `parse_proxy_header`.

    Args:
        data: they begin with `SIGNATURE`.
    """
    if len(data) > 12 and data[12] not in (0x20, 0x21):
        raise ProxyError(
            f"0x{data[12]:02x} is version {data[12] >> 4} and command {data[12] & 15}, expected "
            "version 2 and command 0 (LOCAL) or 1 (PROXY)",
            13,
        )
    local = data[12:13] == b"\x20"
    # For LOCAL even the family is ignored.
    if len(data) > 13 and not local and (data[13] >> 4 > 3 or data[13] & 15 > 2):
        raise ProxyError(
            f"0x{data[13]:02x} is address family {data[13] >> 4} and protocol {data[13] & 15}, "
            "expected 0 to 3 (none, IPv4, IPv6, Unix) and 0 to 2 (none, stream, datagram)",
            14,
        )
    if len(data) > 14 and FIXED + (data[14] << 8) > MAX_HEADER:
        raise ProxyError(_too_long(data[14] << 8), 15)
    if len(data) < FIXED:
        return None
    size = int.from_bytes(data[14:FIXED])
    end = FIXED + size
    if end > MAX_HEADER:
        raise ProxyError(_too_long(size), 16)
    transport: Transport = "unspec" if local else TRANSPORTS.get(data[13], "unspec")
    if transport == "unspec":
        if len(data) < end:
            return None
        tlvs = _tlvs_if_any(data[:end], data[13])
    else:
        addresses = _ADDRESSES[data[13] >> 4]
        if size < addresses or 0 < size - addresses < TLV_HEAD:
            raise ProxyError(
                f"{size} bytes follow, expected {addresses} of addresses, alone or with {TLV_HEAD} "
                "or more of TLVs",
                16,
            )
        tlvs = list(_tlvs(data[:end], FIXED + addresses, end))
        if len(data) < end:
            return None
    _check_crc(data[:end], tlvs)
    source, destination = _read_addresses(data, transport)
    told = tuple((kind, data[at:to]) for kind, at, to in tlvs if kind != TlvType.NOOP)
    return ProxyHeader(2, source is None, source, destination, transport, told), end


def _too_long(size: int) -> str:
    return (
        f"a header of {FIXED + size} bytes or more, expected {MAX_HEADER} at most "
        "(the server's own limit)"
    )


def _tlvs(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """As `read_tlvs`, and what is known of some types is looked at as well."""
    seen = set()
    for kind, begin, to in read_tlvs(data, start, end, _LENGTHS):
        if kind in _ONCE and kind in seen:
            raise ProxyError(f"a second TLV of type 0x{kind:02x}, expected one at most", begin)
        seen.add(kind)
        if kind == TlvType.TLS:
            left = to - begin - TLS_FIXED
            if 0 < left < TLV_HEAD:
                raise ProxyError(
                    f"a TLV of type 0x{kind:02x} with {TLS_FIXED + left} bytes, expected "
                    f"{TLS_FIXED}, alone or with {TLV_HEAD} or more of TLVs",
                    begin,
                )
            for _ in read_tlvs(data, begin + TLS_FIXED, to):
                pass
        yield kind, begin, to


def check_tlvs(header: bytes, start: int) -> None:
    """Raise a ProxyError if the TLVs of a whole header, from there on, are not legal."""
    for _ in _tlvs(header, start, len(header)):
        pass


def _tlvs_if_any(data: bytes, family: int) -> list[tuple[int, int, int]]:
    """The TLVs of a header without addresses, if there are TLVs and nothing else."""
    start = FIXED
    if family in TRANSPORTS:
        # LOCAL with a family: dummies stand in the place of the addresses.
        start += _ADDRESSES[family >> 4]
    elif family:
        # Nobody knows what stands there.
        return []
    try:
        return list(_tlvs(data, start, len(data)))
    except ProxyError:
        return []


def _check_crc(data: bytes, tlvs: list[tuple[int, int, int]]) -> None:
    for kind, start, end in tlvs:
        if kind == TlvType.CRC32C:
            # It was made with its own place empty.
            made = crc32c(data[:start] + bytes(4) + data[end:])
            if made != int.from_bytes(data[start:end]):
                raise ProxyError(
                    f"the header says CRC32c 0x{data[start:end].hex()}, and it is 0x{made:08x}: "
                    "the header has been damaged",
                    len(data),
                )


def _read_addresses(
    data: bytes, transport: Transport
) -> tuple[SocketAddress, SocketAddress] | tuple[None, None]:
    if transport == "unspec":
        return None, None
    if transport in ("unix", "unixgram"):
        middle = FIXED + PATH
        return _path(data[FIXED:middle]), _path(data[middle : middle + PATH])
    middle = FIXED + (4 if transport.endswith("4") else 16)
    ports = 2 * middle - FIXED
    return (
        internet_address(data[FIXED:middle], int.from_bytes(data[ports : ports + 2])),
        internet_address(data[middle:ports], int.from_bytes(data[ports + 2 : ports + 4])),
    )


def _path(raw: bytes) -> str:
    # An abstract name begins with a zero byte and may have more. Its length is not told.
    name = raw.rstrip(b"\0") if raw.startswith(b"\0") else raw.partition(b"\0")[0]
    return name.decode("utf-8", "surrogateescape")
