"""Headers of the PROXY protocol to send: for clients of servers that expect them, and for tests."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Final

from ginsfsm.net.crc32c import crc32c
from ginsfsm.net.proxy_binary import PATH, SIGNATURE, check_tlvs
from ginsfsm.net.proxy_facts import SocketAddress, internet_address
from ginsfsm.net.proxy_tlv import TLV_HEAD, ProxyError, Tlv, TlvType, encode_tlvs

__all__ = ["build_proxy_v1", "build_proxy_v2"]

# The families as version 2 numbers them.
_IPV4: Final = 1
_IPV6: Final = 2
_UNIX: Final = 3


def build_proxy_v1(
    source: SocketAddress | None = None, destination: SocketAddress | None = None
) -> bytes:
    """A header of version 1.

    Args:
        source: the client's address, as `socket.getpeername` gives it.
        destination: the address that it connected to, of the same family. Without both the header
            is UNKNOWN.

    Raises:
        ProxyError: the addresses are no pair that version 1 can tell.
    """
    if source is None and destination is None:
        return b"PROXY UNKNOWN\r\n"
    family, hosts, ports = _pack(source, destination)
    if family == _UNIX:
        raise ProxyError(
            f"{source!r} was given, a Unix socket, which version 1 cannot tell: take version 2, or "
            "give no addresses"
        )
    told = [str(internet_address(host, 0)[0]) for host in hosts]
    words = ["PROXY", "TCP4" if family == _IPV4 else "TCP6", *told, *map(str, ports)]
    return " ".join(words).encode() + b"\r\n"


def build_proxy_v2(
    source: SocketAddress | None = None,
    destination: SocketAddress | None = None,
    *,
    local: bool = False,
    datagram: bool = False,
    tlvs: Iterable[Tlv] = (),
    checksum: bool = False,
) -> bytes:
    """A header of version 2.

    Args:
        source: the client's address, as `socket.getpeername` gives it.
        destination: the address that it connected to, of the same family. Without both the family
            is unspecified.
        local: the connection is the sender's own, as for a health check; there are no addresses.
        datagram: the client came by UDP, or by a Unix socket for datagrams.
        tlvs: type and value of each, in order. Of TLS the value is `ProxyTls.to_value()`.
        checksum: put a CRC32c before them.

    Raises:
        ProxyError: the addresses are no pair, a TLV is not legal, or all is too long.
    """
    block = b""
    code = 0
    if source is not None or destination is not None:
        if local:
            raise ProxyError("addresses were given with local=True: LOCAL has none, leave them out")
        family, hosts, ports = _pack(source, destination)
        block = b"".join([*hosts, *(port.to_bytes(2) for port in ports)])
        code = family << 4 | (2 if datagram else 1)
    elif datagram:
        raise ProxyError("datagram=True was given without addresses, where it says nothing")
    more = list(tlvs)
    if any(kind == TlvType.CRC32C for kind, _ in more):
        raise ProxyError("a TLV of type 3 was given, the CRC32c: give checksum=True instead")
    if checksum:
        more.insert(0, (TlvType.CRC32C, bytes(4)))
    told = block + encode_tlvs(more)
    if len(told) > 0xFFFF:
        raise ProxyError(f"{len(told)} bytes of addresses and TLVs, expected 65535 at most")
    fixed = SIGNATURE + bytes([0x20 if local else 0x21, code]) + len(told).to_bytes(2)
    header = fixed + told
    check_tlvs(header, len(fixed) + len(block))
    if checksum:
        at = len(fixed) + len(block) + TLV_HEAD
        header = header[:at] + crc32c(header).to_bytes(4) + header[at + 4 :]
    return header


def _pack(
    source: SocketAddress | None, destination: SocketAddress | None
) -> tuple[int, list[bytes], list[int]]:
    """The family of two addresses, both as bytes, and their ports."""
    pair = [_pack_one(source), _pack_one(destination)]
    if pair[0][0] != pair[1][0]:
        raise ProxyError(
            f"{source!r} and {destination!r} were given, expected two addresses of one family; "
            "that of IPv4 can be written as IPv6, ::ffff:192.0.2.1"
        )
    return pair[0][0], [host for _, host, _ in pair], [port for *_, ports in pair for port in ports]


def _pack_one(address: SocketAddress | None) -> tuple[int, bytes, list[int]]:
    if isinstance(address, str):
        name = address.encode("utf-8", "surrogateescape")
        if len(name) > PATH:
            raise ProxyError(f"a path of {len(name)} bytes was given, expected {PATH} at most")
        return _UNIX, name.ljust(PATH, b"\0"), []
    match address:
        case (str(host), int(port), *_) if 0 <= port <= 0xFFFF:
            for family, number in (socket.AF_INET, _IPV4), (socket.AF_INET6, _IPV6):
                try:
                    # Its interface means nothing on another machine.
                    return number, socket.inet_pton(family, host.partition("%")[0]), [port]
                except (OSError, ValueError):
                    continue
    raise ProxyError(
        f"{address!r} was given, expected a numeric address and a port as in ('192.0.2.1', 443), "
        "or the path of a Unix socket"
    )
