"""The PROXY protocol: who the client behind a load balancer really is.

A balancer that passes connections on is the peer of all of them. So that the server learns who the
client is, the balancer sends a header first, before anything else and before TLS. HAProxy specified
it (doc/proxy-protocol.txt in its sources); nginx, Envoy, and the balancers of the clouds send it.

Version 1 is a line of text (`proxy_line`), version 2 is binary (`proxy_binary`) and can tell more:
what TLS the client spoke, which host it asked for, or a name for the connection.

`parse_proxy_header` is strict, and never guesses: a peer that can send a header can say that it is
anybody. It takes what has come so far, however little, and says one of three things: a header and
how many bytes it took, None for more bytes, or a `ProxyError` with the first byte after which no
bytes can make it a header any more. So a peer that speaks another protocol is not waited for, and
the same bytes give the same answer whether they come one by one or all at once.

Where a header names no addresses, those of the connection itself are the client's: for LOCAL and
an unspecified family in version 2, and for UNKNOWN in version 1.
"""

from __future__ import annotations

from ginsfsm.net.proxy_binary import MAX_HEADER, SIGNATURE, parse_binary
from ginsfsm.net.proxy_facts import ProxyHeader, ProxyTls, SocketAddress, Transport
from ginsfsm.net.proxy_line import LINE_START, parse_line
from ginsfsm.net.proxy_tlv import ProxyError, Tlv, TlvType

__all__ = [
    "MAX_HEADER",
    "NotProxyError",
    "ProxyError",
    "ProxyHeader",
    "ProxyTls",
    "SocketAddress",
    "Tlv",
    "TlvType",
    "Transport",
    "parse_proxy_header",
]


class NotProxyError(ProxyError):
    """Bytes that do not even begin as a header: the peer speaks another protocol at once."""


def parse_proxy_header(data: bytes) -> tuple[ProxyHeader, int] | None:
    """The header that some bytes begin with.

    Args:
        data: all that has come on the connection, from its first byte on.

    Returns:
        The header and how many bytes it took, or None if more are needed. More than `MAX_HEADER`
        are never needed.

    Raises:
        NotProxyError: the bytes do not begin as a header does.
        ProxyError: they do, and cannot become one that is legal.
    """
    if data.startswith(SIGNATURE):
        return parse_binary(data)
    if data.startswith(LINE_START):
        return parse_line(data)
    alike = max(_alike(data, SIGNATURE), _alike(data, LINE_START))
    if alike == len(data):
        return None
    raise NotProxyError(
        f"0x{data[alike]:02x} is not the beginning of a PROXY header: has the proxy been told to "
        "send one (in HAProxy, send-proxy or send-proxy-v2), or did a client come without it?",
        alike + 1,
    )


def _alike(data: bytes, start: bytes) -> int:
    """How many bytes are the same at the beginning."""
    return next(
        (at for at, (one, other) in enumerate(zip(data, start, strict=False)) if one != other),
        min(len(data), len(start)),
    )
