"""Type, length, value: the form in which a proxy tells what the addresses do not.

A header of version 2 of the PROXY protocol ends with any number of such triples (TLVs): a byte for
the type, two for the length, and as many as that for the value. They have to fill what is left of
the header exactly, so of each byte of a length it is known when it comes whether it can be there.
`read_tlvs` therefore also takes a header that has not come as a whole, and refuses it at that byte.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import Final

__all__ = ["ProxyError", "Tlv", "TlvType", "encode_tlvs", "first_value", "read_tlvs"]

Tlv = tuple[int, bytes]
"""A type and a value."""

TLV_HEAD: Final = 3
"""Bytes before the value: one of the type, two of the length."""

MAX_TLVS: Final = 64
"""In one header; none has more than twenty. A header may come byte by byte and is looked at again
with each, so thousands of TLVs without a value would be a cheap way to keep a server busy."""


class ProxyError(ValueError):
    """Bytes that can be no header, or a header that cannot be built.

    Attributes:
        byte: the number of the first byte that cannot be there, counted from 1 as in the
            specification; 0 from the functions that build.
    """

    def __init__(self, sentence: str, byte: int = 0) -> None:
        super().__init__(f"byte {byte}: {sentence}" if byte else sentence)
        self.byte = byte


class TlvType(IntEnum):
    """The types that the specification names; 0xE0 to 0xEF are free for everybody's own."""

    ALPN = 0x01
    AUTHORITY = 0x02
    CRC32C = 0x03
    NOOP = 0x04
    UNIQUE_ID = 0x05
    TLS = 0x20
    NETNS = 0x30


def first_value(tlvs: Iterable[Tlv], kind: int) -> bytes | None:
    """The value of the first TLV of a type; None if there is none."""
    return next((value for one, value in tlvs if one == kind), None)


def encode_tlvs(tlvs: Iterable[Tlv]) -> bytes:
    """TLVs as they stand in a header.

    Raises:
        ProxyError: a type is no byte, or a value is too long.
    """
    encoded = []
    for kind, value in tlvs:
        if not 0 <= kind <= 0xFF or len(value) > 0xFFFF:
            raise ProxyError(
                f"a TLV of type {kind} with {len(value)} bytes was given, expected a type from 0 "
                "to 255 and 65535 bytes at most"
            )
        encoded.append(b"%c%b%b" % (kind, len(value).to_bytes(2), value))
    return b"".join(encoded)


def read_tlvs(
    data: bytes, start: int, end: int, lengths: Mapping[int, range] = MappingProxyType({})
) -> Iterator[tuple[int, int, int]]:
    """The TLVs that fill a place, one after the other, as far as their heads have come.

    Args:
        data: what has come.
        start: where the first TLV begins in it.
        end: where the last one has to end; this may be behind what has come.
        lengths: how many bytes the value of a type may have; any number for all others.

    Yields:
        Of each the type, and where its value begins and ends; this too may be behind what has come.

    Raises:
        ProxyError: they cannot fill the place. Those that stand before have been yielded.
    """
    for _ in range(MAX_TLVS):
        if start >= end:
            return
        begin = start + TLV_HEAD
        room = end - begin
        if room < 0:
            raise ProxyError(f"{end - start} bytes, where a TLV needs {TLV_HEAD} or more", end)
        # The first byte of the length alone may say too much.
        if len(data) > start + 1 and data[start + 1] << 8 > room:
            raise ProxyError(_too_long(data[start], data[start + 1] << 8, room), start + 2)
        if len(data) < begin:
            return
        kind = data[start]
        length = int.from_bytes(data[start + 1 : begin])
        fault = _length_fault(kind, length, room, lengths.get(kind, _ANY_LENGTH))
        if fault is not None:
            raise ProxyError(fault, begin)
        start = begin + length
        yield kind, begin, start
    if start < min(end, len(data)):
        raise ProxyError(f"more than {MAX_TLVS} TLVs, which is the server's own limit", start + 1)


_ANY_LENGTH: Final = range(0x10000)


def _length_fault(kind: int, length: int, room: int, legal: range) -> str | None:
    if length > room:
        return _too_long(kind, length, room)
    if 0 < room - length < TLV_HEAD:
        return (
            f"a TLV of type 0x{kind:02x} with {length} bytes leaves {room - length} of the header, "
            f"where the next one needs {TLV_HEAD} or more"
        )
    if length not in legal:
        return (
            f"a TLV of type 0x{kind:02x} with {length} bytes, expected {legal.start} to "
            f"{legal.stop - 1}"
        )
    return None


def _too_long(kind: int, length: int, room: int) -> str:
    return f"a TLV of type 0x{kind:02x} with {length} bytes or more, where there is room for {room}"
