r"""Version 1 of the PROXY protocol: a line of text.

    PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n

There is exactly one space between the words, numbers have no zeros before them, and the line ends
with CR and LF and no later than its 107th byte. For a protocol that the proxy cannot tell it is
`PROXY UNKNOWN`, and whatever stands behind that in the line is ignored.

What makes a line legal is said once, in `_read_line`. Whether the beginning of one can still become
legal is found out with it: for each place in a line there are a few endings of which one makes it
whole, if any can. So a line is refused with the first byte that cannot be there, and what that is
never differs from what a whole line may have.
"""

from __future__ import annotations

import re
import socket
from bisect import bisect_left
from collections.abc import Iterator
from typing import Final

from ginsfsm.net.proxy_facts import ProxyHeader, SocketAddress, internet_address
from ginsfsm.net.proxy_tlv import ProxyError

__all__ = ["LINE_START", "parse_line"]

LINE_START: Final = b"PROXY "
"""What all lines begin with."""

MAX_LINE: Final = 107
"""Bytes of the longest line, by the specification."""

_UNKNOWN: Final = re.compile(rb"PROXY UNKNOWN(?: [^\r\n]*)?\r\n")
_TCP: Final = re.compile(rb"PROXY TCP([46]) (\S+) (\S+) (0|[1-9]\d{0,4}) (0|[1-9]\d{0,4})\r\n")
_OCTET: Final = rb"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_IPV4: Final = re.compile(rb"%b(?:\.%b){3}" % (_OCTET, _OCTET))
_IPV6: Final = re.compile(rb"[0-9A-Fa-f:.]{2,45}")

# What may be missing of an address, a port: with one of these behind, it is whole and legal, if
# anything can make it so.
_IPV4_ENDS: Final = (b"", b"0", b".0", b"0.0", b".0.0", b"0.0.0", b".0.0.0", b"0.0.0.0")
_IPV6_ENDS: Final = (b"", b"0", b":", b"::", b":0", *_IPV4_ENDS[2:])
_PORT_ENDS: Final = (b"", b"0")

_FIELDS: Final = (
    "the word PROXY",
    "the protocol, which is TCP4, TCP6 or UNKNOWN",
    "the source address",
    "the destination address",
    "the source port",
    "the destination port and CRLF",
)


def parse_line(data: bytes) -> tuple[ProxyHeader, int] | None:
    """The line that some bytes begin with; see `parse_proxy_header`.

    Args:
        data: they begin with `LINE_START`.
    """
    end = data.find(b"\r\n", 0, MAX_LINE)
    line = data[: end + 2 if end >= 0 else MAX_LINE]
    header = _read_line(line)
    if header is not None:
        return header, len(line)
    if _can_become_line(line):
        return None
    # If some bytes cannot, none that begin with them can.
    byte = bisect_left(range(len(line)), True, key=lambda size: not _can_become_line(line[:size]))
    wrong = line[byte - 1 : byte]
    if _can_become_line(line[:byte], 2 * MAX_LINE):
        raise ProxyError(f"a line of version 1 is longer than {MAX_LINE} bytes", byte)
    field = _FIELDS[min(line.count(b" ", 0, byte - 1), len(_FIELDS) - 1)]
    raise ProxyError(f"{wrong!r} cannot stand there in a line of version 1, in {field}", byte)


def _read_line(line: bytes) -> ProxyHeader | None:
    """A whole line; None if it is not legal."""
    if _UNKNOWN.fullmatch(line):
        return ProxyHeader(1, True, None, None, "unspec")
    match = _TCP.fullmatch(line)
    if match is None:
        return None
    ipv4 = match[1] == b"4"
    source = _read_address(ipv4, match[2], int(match[4]))
    destination = _read_address(ipv4, match[3], int(match[5]))
    if source is None or destination is None:
        return None
    return ProxyHeader(1, False, source, destination, "tcp4" if ipv4 else "tcp6")


def _read_address(ipv4: bool, host: bytes, port: int) -> SocketAddress | None:
    # Looked at before the system does, since some systems take more than others.
    if port > 0xFFFF or not (_IPV4 if ipv4 else _IPV6).fullmatch(host):
        return None
    try:
        packed = socket.inet_pton(socket.AF_INET if ipv4 else socket.AF_INET6, host.decode())
    except OSError:
        return None
    return internet_address(packed, port)


def _can_become_line(line: bytes, limit: int = MAX_LINE) -> bool:
    """Whether anything can stand behind these bytes that makes them a legal line."""
    return any(
        len(line) + len(end) <= limit and _read_line(line + end) is not None for end in _ends(line)
    )


def _ends(line: bytes) -> Iterator[bytes]:
    """What may stand behind the beginning of a line, and makes a legal one if anything does."""
    if line.startswith(b"PROXY UNKNOWN"):
        yield from (b"\r\n", b"\n")
        return
    for whole in (b"PROXY UNKNOWN\r\n", b"PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", b"PROXY TCP6 "):
        if whole.startswith(line):
            yield whole[len(line) :] + (b":: :: 0 0\r\n" if whole.endswith(b" ") else b"")
    ipv4 = line.startswith(b"PROXY TCP4 ")
    missing = {
        2: b" 0.0.0.0 0 0\r\n" if ipv4 else b" :: 0 0\r\n",
        3: b" 0 0\r\n",
        4: b" 0\r\n",
        5: b"\r\n",
    }
    field = line.count(b" ")
    ends = _PORT_ENDS if field > 3 else _IPV4_ENDS if ipv4 else _IPV6_ENDS
    if field in missing:
        for end in ends:
            yield end + missing[field]
    if line.endswith(b"\r"):
        yield b"\n"
