"""CRC32c: the checksum with Castagnoli's polynomial, as SCTP, iSCSI and the PROXY protocol have it.

Not zlib's CRC32, which has another polynomial. The bits go in and come out reflected, the sum
begins with all ones and is inverted at the end (RFC 4960, appendix B; RFC 3720, B.4 has examples).
One byte takes some 50 ns; it is meant for headers.
"""

from typing import Final

__all__ = ["crc32c"]

# 0x1EDC6F41 with its bits in reverse order.
_POLYNOMIAL: Final = 0x82F63B78


def _entry(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (_POLYNOMIAL if byte & 1 else 0)
    return byte


_TABLE: Final = tuple(map(_entry, range(256)))


def crc32c(data: bytes) -> int:
    """The checksum of some bytes, a number of 32 bits."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF
