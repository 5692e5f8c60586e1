"""What the kernel took of us and the peer's kernel has not acknowledged yet.

`close` returns at once and the kernel goes on sending. But when the peer sends anything after that,
the kernel answers with a reset and throws the rest away. So a socket may be closed only when
nothing is on its way, or when the peer has ended its side.
"""

import _socket
import errno
import socket
import struct
import sys
from typing import Final

try:
    import fcntl
    import termios
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["is_acknowledged"]

_LINUX: Final = sys.platform.startswith("linux")

_SO_NWRITE: Final = 0x1024
"""BSD's and macOS's socket option for the same number; Python has no name for it."""


def is_acknowledged(sock: _socket.socket) -> bool:
    """Whether the peer's kernel has all that was sent. False where the system does not tell."""
    try:
        if _LINUX:
            # tcp(7): SIOCOUTQ, which has the number of TIOCOUTQ.
            answer = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
            return not struct.unpack("i", answer)[0]
        return not sock.getsockopt(socket.SOL_SOCKET, _SO_NWRITE)
    except OSError as error:
        # Not connected any more: then nothing is on its way.
        return error.errno in (errno.ENOTCONN, errno.EINVAL)
