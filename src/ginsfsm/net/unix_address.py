"""Unix sockets: from a path, or an abstract name, to a socket that listens; and the file's end.

A Unix socket leaves its file behind when its process is killed, and then nobody can bind the path
again. So a file that stands there is asked: if it is a socket and nobody listens on it, it is
stale, and removed. Anything else stays, and is an error.

Two servers that start at once could each take the other's fresh file for a stale one. So all this
is done under a lock of the folder, from before the bind until the socket listens. Owner and mode
are set before it listens too: until then nobody can connect.

At the end the file is removed, unless another one stands there by then: it is known by its inode,
which no other file can have while the socket is open.
"""

import asyncio
import errno
import os
import re
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

from ginsfsm.net.listen_error import Attempt, ListenError, system_words
from ginsfsm.net.listening import Listening
from ginsfsm.net.socket_options import OptionError, Options, set_socket_options
from ginsfsm.net.words import cut, is_whole

try:
    import fcntl
    import grp
    import pwd
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "connect_path",
    "listen_on_path",
    "owner_fault",
    "read_mode",
    "removal_of",
    "unix_address",
    "unix_faults",
]

_LINUX: Final = sys.platform.startswith("linux")

LONGEST: Final = 107 if _LINUX else 103
"""Bytes of a path, without the NUL at its end. unix(7): `sun_path` has 108 bytes, on BSD 104."""

_MODE: Final = re.compile(r"(0o)?[0-7]{3,4}", re.ASCII)

LARGEST_ID: Final = (1 << 32) - 2
"""Of a user or group: 32 bits on Linux and BSD, and the largest number is none. chown(2)."""

QUEUE_CHECK: Final = 0.02
"""Seconds between two attempts to connect to a server whose queue is full."""

LOCK_WAIT: Final = 1.0
"""Seconds to wait for the folder's lock. Our own hold it for milliseconds; a stranger who holds it
for longer is no reason not to start."""


def unix_address(path: str) -> str:
    """The address that the system wants: an abstract name, `@name`, begins with a NUL there."""
    return f"\0{path[1:]}" if path.startswith("@") else path


def read_mode(text: str) -> int | None:
    """Permissions in octal digits, as chmod takes them; None for what is none."""
    return int(text, 8) if _MODE.fullmatch(text) else None


def owner_fault(owner: str) -> str | None:
    """What is wrong with the form of an owner; whether there is one is looked up later."""
    user, colon, group = owner.partition(":")
    if ":" in group or not (user or group) or (colon and not group) or owner != owner.strip():
        return (
            f"expected 'user', 'user:group' or ':group', names or numbers, got {cut(repr(owner))}"
        )
    if any(_is_too_large(name) for name in (user, group)):
        return f"expected numbers of at most {LARGEST_ID}, got {cut(repr(owner))}"
    return None


def _is_too_large(name: str) -> bool:
    # Their number first: of thousands of digits Python makes no int.
    return name.isdecimal() and (len(name) > len(str(LARGEST_ID)) or int(name) > LARGEST_ID)


def unix_faults(path: str) -> Iterator[str]:
    """A sentence for what is wrong with a path, as far as one can tell without looking."""
    if not hasattr(socket, "AF_UNIX"):
        yield "this system has no Unix sockets"
    elif not is_whole(path):
        yield f"expected a path that is UTF-8, got {cut(repr(path))}"
    elif "\0" in path:
        yield (
            f"expected a path without a NUL, got {cut(repr(path))}; an abstract name is written as "
            "'@name'"
        )
    elif path == "@":
        yield "'@' is an abstract name without the name; write '@name', or './@' for a file"
    elif path.startswith("@") and not _LINUX:
        yield f"{path!r} is an abstract name, which only Linux has; give the path of a file"
    elif len(os.fsencode(path)) - path.startswith("@") > LONGEST:
        yield (
            f"a path of {len(os.fsencode(path))} bytes is too long for a Unix socket, which takes "
            f"{LONGEST}; give a shorter one, or one from the working directory"
        )


def listen_on_path(
    path: str, *, backlog: int, mode: int | None = None, owner: str = "", options: Options = ()
) -> Listening:
    """Listen on a Unix socket. A file of one that nobody listens on is replaced.

    Args:
        path: of the file, or `@name`.
        backlog: how many connections the kernel keeps until they are accepted.
        mode: the permissions of the file; None leaves them to the umask. To connect one needs the
            right to write.
        owner: `'user'`, `'user:group'` or `':group'`, names or numbers; `''` changes nothing.
        options: set before it is bound.

    Raises:
        ListenError: why not, and what to do. Nothing is left open, and no file of ours is left.
    """
    uid, gid = _owner(path, owner)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    identity: tuple[int, int] | None = None
    try:
        sock.setblocking(False)
        set_socket_options(sock, options)
        if path.startswith("@"):
            _bind(sock, path)
            sock.listen(backlog)
            return Listening((sock,), 0)
        with _locked(os.path.dirname(path) or "."):
            try:
                _bind(sock, path)
            except ListenError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                _remove_stale(path)
                _bind(sock, path)
            identity = _identity(path)
            if owner:
                _give(path, uid, gid, owner)
            if mode is not None:
                os.chmod(path, mode)
            sock.listen(backlog)
        return Listening((sock,), 0, remove=removal_of(path, identity), file=identity)
    except BaseException as error:
        if identity is not None:
            # As it was given: this process may not be allowed to come down from the root.
            _remove(path, identity, os.getpid())
        sock.close()
        if isinstance(error, ListenError) or not isinstance(error, OSError):
            raise
        if isinstance(error, OptionError):
            raise ListenError(error.errno or errno.EIO, str(error)) from error
        raise _error(path, error.errno or errno.EIO, system_words(error.errno or 0), "") from error


def removal_of(path: str, identity: tuple[int, int]) -> Callable[[], object]:
    """What removes the file of a socket, which we or a process before us has made."""
    # From the root: the working directory may be another one by then.
    return partial(_remove, os.path.abspath(path), identity, os.getpid())


async def connect_path(path: str, options: Options = ()) -> socket.socket:
    """Connect to a Unix socket. While its queue is full, wait; the caller limits the time.

    Raises:
        OSError: nobody listens there, or the system does not take an option.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        set_socket_options(sock, options)
        while True:
            try:
                sock.connect(unix_address(path))
                return sock
            except BlockingIOError:
                # No descriptor becomes ready when the queue has room again, and `loop.sock_connect`
                # takes this for a connection under way, which then is none.
                await asyncio.sleep(QUEUE_CHECK)
    except BaseException:
        sock.close()
        raise


def _bind(sock: socket.socket, path: str) -> None:
    try:
        sock.bind(unix_address(path))
    except OSError as error:
        number = error.errno or errno.EIO
        folder = os.path.dirname(path) or "."
        why, remedy = {
            errno.EADDRINUSE: (_LISTENS, _STOP),
            errno.ENOENT: (f"there is no folder {folder!r}", "Make it before the server starts."),
            errno.ENOTDIR: (f"{folder!r} is no folder", "Give the path of a file in a folder."),
            errno.EACCES: (
                f"this process may not make a file in {folder!r}",
                "Give it the right to, or another path.",
            ),
            errno.EROFS: (f"{folder!r} cannot be written on", "Give another path."),
        }.get(number, (system_words(number), ""))
        raise _error(path, number, why, remedy) from error


_LISTENS: Final = "another program, or another server of this one, listens there"
_STOP: Final = "Stop the one that listens there, or give another path."


def _remove_stale(path: str) -> None:
    """Remove the file of a socket that nobody listens on.

    Raises:
        ListenError: it is something else.
    """
    try:
        kind = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise _error(
            path,
            errno.EADDRINUSE,
            f"there is {_KINDS.get(stat.S_IFMT(kind), 'a file')} there already, which is no socket",
            "Look what it is, and remove it or give another path.",
        )
    why = _who_listens(path)
    if why:
        raise _error(path, errno.EADDRINUSE, why, _STOP)
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    except OSError as error:
        number = error.errno or errno.EIO
        raise _error(
            path,
            number,
            f"nobody listens on the socket that is there, and it cannot be removed "
            f"({system_words(number)})",
            "Remove it, or give another path.",
        ) from error


_KINDS: Final = {
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFREG: "a file",
    stat.S_IFIFO: "a pipe",
}


def _who_listens(path: str) -> str:
    """Whether anybody listens there, in words; empty where nobody does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return ""
        except BlockingIOError:
            # Its queue is full.
            return _LISTENS
        except OSError as error:
            if error.errno == errno.EPROTOTYPE:
                return "another program has a socket of another type there"
            why = system_words(error.errno or errno.EIO)
            return f"it cannot be told whether anybody listens there ({why})"
    return _LISTENS


def _owner(path: str, owner: str) -> tuple[int, int]:
    """User and group as numbers; -1 is as it is."""
    user, _, group = owner.partition(":")
    found = [-1, -1]
    for place, (word, name) in enumerate((("user", user), ("group", group))):
        if name.isdecimal():
            found[place] = int(name)
        elif name:
            try:
                if word == "user":
                    found[place] = pwd.getpwnam(name).pw_uid
                else:
                    found[place] = grp.getgrnam(name).gr_gid
            except KeyError:
                raise _error(
                    path,
                    errno.EINVAL,
                    f"unix_owner {owner!r}: there is no {word} {name!r} on this machine",
                    "Give one that exists, by name or number: 'user', 'user:group' or ':group'.",
                ) from None
    return found[0], found[1]


def _give(path: str, uid: int, gid: int, owner: str) -> None:
    try:
        os.chown(path, uid, gid, follow_symlinks=False)
    except OSError as error:
        number = error.errno or errno.EIO
        raise _error(
            path,
            number,
            f"it cannot be given to unix_owner {owner!r} ({system_words(number)})",
            "Only a privileged process gives files away; any other gives them to its own groups.",
        ) from error


def _identity(path: str) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino


def _remove(path: str, identity: tuple[int, int], pid: int) -> None:
    """Remove the file if it is still the one that we made. May raise OSError."""
    if os.getpid() != pid:
        # A fork: the file is the server's, which goes on.
        return
    try:
        if _identity(path) == identity:
            os.unlink(path)
    except FileNotFoundError:
        return


@contextmanager
def _locked(folder: str) -> Iterator[None]:
    """Alone in this folder, among those who ask."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        # Not there, which the bind will say; or not to be read, and then nobody can lock it.
        yield
        return
    try:
        _wait_for_lock(fd)
        yield
    finally:
        os.close(fd)


def _wait_for_lock(fd: int) -> None:
    end = time.monotonic() + LOCK_WAIT
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > end:
                return
        except OSError:
            # A file system without locks.
            return
        time.sleep(0.005)


def _error(path: str, number: int, why: str, remedy: str) -> ListenError:
    return ListenError(
        number,
        f"cannot listen on unix_path {path!r}: {why}.{' ' if remedy else ''}{remedy}",
        (Attempt(path, number, why),),
    )
