"""Sockets that this process was started with: from a service manager, or by number.

A service manager such as systemd opens the sockets, keeps them, and hands them to each process that
it starts, from descriptor 3 on. Three variables of the environment say so (sd_listen_fds(3)):
`LISTEN_PID` whom they are for, `LISTEN_FDS` how many there are, `LISTEN_FDNAMES` their names with
colons between them. `read_activation` understands them. They are read when the first server asks,
and removed from the environment then, and the descriptors are closed on exec from then on: a
program that we start must not take them for its own.

A server listens on a duplicate. The descriptor itself stays open, so that a server that is
destroyed can be made again, and whoever opened it may close it as well.
"""

import errno
import os
import socket
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Final

from ginsfsm.net.listen_error import Attempt, ListenError, system_words
from ginsfsm.net.listening import Listening
from ginsfsm.net.socket_options import OptionError, Options, check_used, is_dual, set_socket_options

__all__ = [
    "Activation",
    "listen_on_descriptor",
    "listen_on_name",
    "read_activation",
    "take_activation",
]

FIRST: Final = 3
"""The first descriptor that a service manager gives. sd_listen_fds(3), SD_LISTEN_FDS_START."""

MOST_DIGITS: Final = 10
"""Digits of the number of a process, or of descriptors; of thousands Python makes no int."""

MOST: Final = 65_536
"""More descriptors than any service manager gives."""

UNNAMED: Final = "unknown"
"""What a descriptor is called where there are no names. sd_listen_fds_with_names(3)."""

VARIABLES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")

FAMILIES: Final = frozenset(
    {socket.AF_INET, socket.AF_INET6, getattr(socket, "AF_UNIX", socket.AF_INET)}
)


@dataclass(frozen=True, slots=True)
class Activation:
    """What a service manager gave.

    Attributes:
        names: the name of each descriptor.
        absent: why there are none, a sentence without a full stop; empty where there are some.
    """

    names: Mapping[int, str]
    absent: str = ""

    def named(self, name: str) -> tuple[int, ...]:
        """The descriptors of that name, in order; a socket unit gives all its own one name."""
        return tuple(fd for fd, one in self.names.items() if one == name)


def read_activation(environ: Mapping[str, str], pid: int) -> Activation:
    """Understand what a service manager says in the environment.

    Args:
        environ: the variables.
        pid: the number of this process. What is meant for another one is not for us: the variables
            are inherited, and the descriptors of those numbers are anything then.
    """
    count = environ.get("LISTEN_FDS")
    if count is None:
        return Activation({}, "no service manager gave this process sockets (no LISTEN_FDS)")
    whom = environ.get("LISTEN_PID", "")
    if not _is_number(whom):
        return Activation({}, f"LISTEN_PID should be the number of a process, and is {whom!r}")
    if int(whom) != pid:
        return Activation({}, f"LISTEN_FDS is for process {whom} (LISTEN_PID), this one is {pid}")
    if not (_is_number(count) and int(count) <= MOST):
        return Activation({}, f"LISTEN_FDS should be a number of descriptors, and is {count!r}")
    numbers = range(FIRST, FIRST + int(count))
    if not numbers:
        return Activation({}, "the service manager gave no sockets (LISTEN_FDS is 0)")
    given = environ.get("LISTEN_FDNAMES")
    names = [UNNAMED] * len(numbers) if given is None else given.split(":")
    if len(names) != len(numbers):
        return Activation(
            {}, f"LISTEN_FDNAMES has {len(names)} names for {len(numbers)} descriptors: {given!r}"
        )
    return Activation(dict(zip(numbers, names, strict=True)))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= MOST_DIGITS


_taken = Activation({}, "no service manager gave this process sockets (no LISTEN_FDS)")
"""What was read. Environment and descriptors are those of the whole process."""


def take_activation(environ: MutableMapping[str, str]) -> Activation:
    """What the service manager gave this process; read, and removed from there, the first time."""
    global _taken
    if "LISTEN_FDS" in environ:
        _taken = _checked(read_activation(environ, os.getpid()))
        for name in VARIABLES:
            environ.pop(name, None)
    return _taken


def _checked(activation: Activation) -> Activation:
    for fd in activation.names:
        try:
            os.set_inheritable(fd, False)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            return Activation(
                {},
                f"LISTEN_FDS says that there are {len(activation.names)} descriptors from {FIRST} "
                f"on, and {fd} is not open",
            )
    return activation


def listen_on_name(
    name: str, environ: MutableMapping[str, str], *, options: Options = ()
) -> Listening:
    """Listen on all sockets that the service manager gave by that name.

    Raises:
        ListenError: there is none, or one is no listening stream socket, or does not take an
            option.
    """
    activation = take_activation(environ)
    numbers = activation.named(name)
    where = f"fd_name {name!r}"
    if not numbers:
        there = ", ".join(dict.fromkeys(map(repr, activation.names.values())))
        why = activation.absent or f"the service manager gave none of that name, but {there}"
        raise _error(
            where,
            errno.ENOENT,
            why,
            f"Start it by a socket unit with FileDescriptorName={name}, or give where to listen "
            "as host and port.",
        )
    return _listen_on(numbers, where, options, shared=True)


def listen_on_descriptor(
    fd: int, environ: MutableMapping[str, str], *, options: Options = ()
) -> Listening:
    """Listen on a descriptor that is open and listens.

    Raises:
        ListenError: it is no listening stream socket, or does not take an option.
    """
    given = take_activation(environ).names
    return _listen_on((fd,), f"fd {fd}", options, shared=fd in given)


def _listen_on(
    numbers: tuple[int, ...], where: str, options: Options, *, shared: bool
) -> Listening:
    sockets: list[socket.socket] = []
    try:
        sockets.extend(_duplicate(fd, where) for fd in numbers)
        check_used(options, [(sock.family, is_dual(sock)) for sock in sockets])
        for sock in sockets:
            set_socket_options(sock, options, dual=is_dual(sock))
    except BaseException as error:
        for sock in sockets:
            sock.close()
        if isinstance(error, OptionError):
            raise ListenError(error.errno or errno.EIO, str(error)) from error
        raise
    address = sockets[0].getsockname()
    return Listening(tuple(sockets), address[1] if isinstance(address, tuple) else 0, shared)


def _duplicate(fd: int, where: str) -> socket.socket:
    """The socket behind a descriptor, with a descriptor of its own, closed on exec."""
    try:
        number = os.dup(fd)
    except OSError as error:
        code = error.errno or errno.EIO
        what = "is not open" if code == errno.EBADF else system_words(code)
        raise _error(where, code, f"descriptor {fd} {what}", _REMEDY) from error
    try:
        sock = socket.socket(fileno=number)
    except OSError as error:
        os.close(number)
        code = error.errno or errno.EIO
        what = "is no socket" if code == errno.ENOTSOCK else system_words(code)
        raise _error(where, code, f"descriptor {fd} {what}", _REMEDY) from error
    what = _unfit(sock)
    if what:
        sock.close()
        raise _error(where, errno.EINVAL, f"descriptor {fd} {what}", _REMEDY)
    # For all that hold this socket: accepting must not wait.
    sock.setblocking(False)
    return sock


def _unfit(sock: socket.socket) -> str:
    if sock.family not in FAMILIES:
        return f"is a socket of the family {_word(sock.family)}, not of TCP or Unix"
    if sock.type != socket.SOCK_STREAM:
        return f"is no stream socket but {_word(sock.type)}"
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return "is a stream socket that does not listen (a socket unit needs Accept=no)"
    return ""


def _word(number: int) -> str:
    return str(getattr(number, "name", number))


_REMEDY: Final = "Give a stream socket that listens, opened by whoever starts this process."


def _error(where: str, number: int, why: str, remedy: str) -> ListenError:
    return ListenError(
        number, f"cannot listen on {where}: {why}. {remedy}", (Attempt(where, number, why),)
    )
