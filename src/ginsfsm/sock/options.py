"""Options: the parameters that the kernel keeps for a connection, and how it gets them."""

from __future__ import annotations

import _socket
import math
import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ginsfsm.sock.base import SockBase

__all__ = ["KERNEL_KEEPS", "set_options"]

KERNEL_KEEPS: Final = frozenset(
    {"nodelay", "keepalive", "keepalive_interval", "keepalive_count", "user_timeout"}
)
"""Parameters that `set_options` hands to the kernel."""


def set_options(sock: _socket.socket, config: type[SockBase.config]) -> None:
    """Set the socket options of the parameters; accepted sockets inherit them of the listener."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        # A Unix socket has none of them, and needs none: its peer cannot vanish.
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, config.nodelay)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, config.keepalive > 0)
    if config.keepalive:
        for name, value in (
            ("TCP_KEEPIDLE", config.keepalive),
            ("TCP_KEEPINTVL", config.keepalive_interval),
            ("TCP_KEEPCNT", config.keepalive_count),
        ):
            if value and hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # In milliseconds, where 0 is the system's own.
        milliseconds = math.ceil(config.user_timeout * 1000)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
