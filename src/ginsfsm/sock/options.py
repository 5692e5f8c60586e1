"""Options: the parameters that the kernel keeps for a connection, and how it gets them."""

from __future__ import annotations

import _socket
import math
import socket
from collections.abc import Set
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ginsfsm.sock.base import SockBase

__all__ = ["KERNEL_KEEPS", "set_options"]

KERNEL_KEEPS: Final = frozenset(
    {"nodelay", "keepalive", "keepalive_interval", "keepalive_count", "user_timeout"}
)
"""Parameters that `set_options` hands to the kernel."""

KEEPALIVE: Final = (
    ("keepalive", "TCP_KEEPIDLE"),
    ("keepalive_interval", "TCP_KEEPINTVL"),
    ("keepalive_count", "TCP_KEEPCNT"),
)


def set_options(
    sock: _socket.socket, config: type[SockBase.config], written: Set[str] = frozenset()
) -> None:
    """Set the socket options of the parameters; accepted sockets inherit them of the listener.

    Args:
        sock: a socket, new where nothing is said of `written`.
        config: the parameters.
        written: those that have changed: 0 puts back there what the system gives a new socket.
    """
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        # A Unix socket has none of them, and needs none: its peer cannot vanish.
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, config.nodelay)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, config.keepalive > 0)
    for parameter, name in KEEPALIVE:
        is_written = parameter in written
        if (config.keepalive or is_written) and hasattr(socket, name):
            option = getattr(socket, name)
            value = getattr(config, parameter)
            if not value and is_written:
                with socket.socket(sock.family, sock.type) as new:
                    value = new.getsockopt(socket.IPPROTO_TCP, option)
            if value:
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # In milliseconds, where 0 is the system's own.
        milliseconds = math.ceil(config.user_timeout * 1000)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
