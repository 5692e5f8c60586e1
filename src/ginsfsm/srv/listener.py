"""Listener: one listening socket of a server, as the poller's handler."""

from __future__ import annotations

import _socket
import errno
import logging
import os
import socket
from typing import TYPE_CHECKING, Any, Final

from ginsfsm.logs.fields import about
from ginsfsm.net.listening import Listening
from ginsfsm.poller import READ
from ginsfsm.srv.events import EV_INCOMING

if TYPE_CHECKING:
    from ginsfsm.gobj import GObj
    from ginsfsm.srv.base import ServerBase

__all__ = ["CAPACITY_ERRNOS", "RETRY_ERRNOS", "Listener", "give_back"]

logger: Final = logging.getLogger("ginsfsm")

CAPACITY_ERRNOS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""No descriptor or memory for another connection; the client stays in the queue. accept(2)."""

RETRY_ERRNOS: Final = frozenset(
    {
        getattr(errno, name)
        for name in (
            "ECONNABORTED", "EPERM", "EPROTO", "ENETDOWN", "ENOPROTOOPT", "EHOSTDOWN", "ENONET",
            "EHOSTUNREACH", "EOPNOTSUPP", "ENETUNREACH", "ETIMEDOUT",
        )
        if hasattr(errno, name)
    }
)  # fmt: skip
"""The one connection failed before we had it. accept(2): "treat them like EAGAIN by retrying"."""


WILD: Final = frozenset({"0.0.0.0", "::", "::ffff:0.0.0.0"})
"""Addresses that stand for all of this machine."""


class Listener:
    """One listening socket, as the poller's handler."""

    __slots__ = ("_event", "_kind", "server", "sock", "sockname", "watched")

    def __init__(self, server: ServerBase, sock: socket.socket) -> None:
        self.server = server
        self.sock = sock
        self.watched = False
        self._event = EV_INCOMING(self)
        # As plain numbers: `socket.accept` makes enumerations of them for each connection, which
        # takes as long as the system call.
        self._kind = (int(sock.family), int(sock.type), sock.proto)
        address = sock.getsockname()
        # Bound to one address, every connection has it; else each has to be asked for its own.
        wild = isinstance(address, tuple) and address[0] in WILD
        self.sockname = None if wild else address

    def accept(self) -> tuple[_socket.socket, Any]:
        """The next connection and its peer's address. Raises OSError as the system call does."""
        fd, peername = self.sock._accept()  # type: ignore[attr-defined]
        try:
            sock = _socket.socket(*self._kind, fd)
        except BaseException:
            os.close(fd)
            raise
        # From here on the socket closes the descriptor.
        sock.setblocking(False)
        return sock, peername

    def watch(self) -> None:
        """Be called when there are connections to accept. May raise OSError: epoll needs memory."""
        self.server.gaplic.poller.register(self.sock.fileno(), self, READ)
        self.watched = True

    def stop_watching(self) -> None:
        """Be called no more; nothing happens where it is not watched."""
        if self.watched:
            self.watched = False
            self.server.gaplic.poller.unregister(self.sock.fileno())

    def io_ready(self, mask: int) -> None:
        """The poller found connections to accept."""
        handler = self.server._state.get(EV_INCOMING)
        if handler is not None:
            handler(self.server, self._event)

    def io_failed(self, error: Exception) -> None:
        """`io_ready` raised."""
        self.server.gaplic.contain(error, self.server, self._event)


def give_back(listening: Listening, whose: str, gobj: GObj | None = None) -> None:
    """Close the sockets. A Unix socket's file that cannot be removed stays, and the log says so."""
    try:
        listening.close()
    except OSError as error:
        logger.warning(
            "%s: the file of its Unix socket stays: %s", whose, error,
            extra=about(gobj, error=error, file=error.filename),
        )  # fmt: skip
