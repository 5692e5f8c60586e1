"""Listening: the open sockets of one server, and how they are given back."""

import socket
from collections.abc import Callable
from dataclasses import dataclass, field

from ginsfsm.net.sockaddr import format_address

__all__ = ["Listening"]


@dataclass(frozen=True, slots=True)
class Listening:
    """The sockets of one server.

    Attributes:
        sockets: listening, non-blocking, closed on exec; one per address. The caller owns them.
        port: the real port, the same for all, also where 0 was asked for; that of the first socket
            where they were inherited; 0 for Unix sockets.
        shared: somebody else holds these sockets too, and will go on accepting on them. So whoever
            ends leaves those who wait in the queue to the others, and removes nothing.
        remove: what takes away more than descriptors, the file of a Unix socket; None where there
            is no such thing, or it is not ours to take away.
        file: device and inode of that file, as only whoever made it knows them for certain; None
            where there is none.
    """

    sockets: tuple[socket.socket, ...]
    port: int
    shared: bool = False
    remove: Callable[[], object] | None = field(default=None, compare=False)
    file: tuple[int, int] | None = None

    @property
    def addresses(self) -> str:
        """Where it listens, for people: `127.0.0.1:7000, [::1]:7000`."""
        return ", ".join(format_address(one.getsockname()) for one in self.sockets)

    def close(self) -> None:
        """Close the sockets, and remove the file of a Unix socket if it is still ours.

        Raises:
            OSError: the file could not be removed. The sockets are closed all the same.
        """
        try:
            if self.remove is not None:
                # While the socket is open its inode cannot be given to another file.
                self.remove()
        finally:
            for sock in self.sockets:
                sock.close()
