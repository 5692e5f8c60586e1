"""Why a server cannot listen: every address that was tried, what was wrong, and what to do."""

import errno
import os
from dataclasses import dataclass

from ginsfsm.net.sockaddr import format_address

__all__ = [
    "UNRESOLVED",
    "Attempt",
    "ListenError",
    "failed_attempt",
    "listen_error",
    "system_words",
]

# Below this, ports need rights on every POSIX system that has not been told otherwise.
_FIRST_UNPRIVILEGED_PORT = 1024


@dataclass(frozen=True, slots=True)
class Attempt:
    """One address that could not be used.

    Attributes:
        address: as people write it, `127.0.0.1:80` or `[::1]:80`; the bare host if it did not
            resolve.
        errno: what the system said, one of the numbers of the module `errno`.
        reason: the same in plain words.
    """

    address: str
    errno: int
    reason: str


class ListenError(OSError):
    """No port could be listened on.

    The message names every address tried, why each failed, and what to do.

    Attributes:
        errno: `EADDRINUSE` if a port was in use, or else that of the first attempt;
            `EADDRNOTAVAIL` if the host did not resolve.
        attempts: every address tried, in order.
    """

    def __init__(self, errno: int, message: str, attempts: tuple[Attempt, ...] = ()) -> None:
        super().__init__(errno, message)
        self.attempts = attempts

    def __str__(self) -> str:
        # OSError would put "[Errno 98]" before words that say more than the number.
        return str(self.strerror)


UNRESOLVED = "the name does not resolve"
_IN_USE = "port in use: another program, or another socket of this one, listens there"
_NONE_FREE = "no free port is left on this address"
_PRIVILEGED = "privileged port: below 1024 it needs rights that this process does not have"
_FORBIDDEN = "permission denied: the system does not let this process listen there"
_NOT_HERE = "not an address of this machine"
_NO_FAMILY = "this machine does not have this family of addresses"
_NO_INTERFACE = "a link-local address needs its interface, as in fe80::1%eth0"
_MAPPED = "an IPv4 address in IPv6 form, and the sockets here take IPv6 alone"

# What to do about each, for the end of the message.
_REMEDIES = {
    UNRESOLVED: "Give an address of this machine, a name of one, or '' for every interface.",
    _IN_USE: "Stop the one that listens there, or give another port (0 takes a free one).",
    _NONE_FREE: "Close some sockets, or give a port outside the system's range of free ones.",
    _PRIVILEGED: "Give a port from 1024 on, or run with the right to use this one "
    "(CAP_NET_BIND_SERVICE on Linux).",
    _FORBIDDEN: "Give another port, or look into the security policy of the system.",
    _NOT_HERE: "Give an address of this machine, or '' for every interface.",
    _NO_FAMILY: "Give an address of the other family, or '' for every interface.",
    _NO_INTERFACE: "Add the interface to the address.",
    _MAPPED: "Give it in IPv4 form, as in 127.0.0.1.",
}


def failed_attempt(sockaddr: tuple[str | int, ...], error: OSError) -> Attempt:
    """The attempt to listen on this TCP address that ended in this error."""
    number = error.errno or errno.EIO
    return Attempt(format_address(sockaddr), number, _reason(sockaddr, number))


def system_words(number: int) -> str:
    """What the system says of an error: `Permission denied (EACCES)`."""
    return f"{os.strerror(number)} ({errno.errorcode.get(number, number)})"


def _reason(sockaddr: tuple[str | int, ...], number: int) -> str:
    host, port = str(sockaddr[0]), int(sockaddr[1])
    match number:
        case errno.EADDRINUSE:
            return _IN_USE if port else _NONE_FREE
        case errno.EACCES | errno.EPERM:
            return _PRIVILEGED if 0 < port < _FIRST_UNPRIVILEGED_PORT else _FORBIDDEN
        case errno.EINVAL | errno.EADDRNOTAVAIL if host.startswith("::ffff:"):
            return _MAPPED
        case errno.EADDRNOTAVAIL:
            return _NOT_HERE
        case errno.EAFNOSUPPORT | errno.EPROTONOSUPPORT:
            return _NO_FAMILY
        case errno.EINVAL if host.startswith("fe80:"):
            return _NO_INTERFACE
        case _:
            return system_words(number)


def listen_error(where: str, attempts: tuple[Attempt, ...]) -> ListenError:
    """One line, however many ports there were: the addresses that failed alike stand together.

    Args:
        where: what was asked for, in the words of the error: `host 'localhost'`.
        attempts: at least one.
    """
    alike: dict[str, list[str]] = {}
    for attempt in attempts:
        alike.setdefault(attempt.reason, []).append(attempt.address)
    faults = "; ".join(
        f"{', '.join(dict.fromkeys(addresses))}: {reason}" for reason, addresses in alike.items()
    )
    remedies = [
        remedy
        for reason, remedy in _REMEDIES.items()
        if any(given.startswith(reason) for given in alike)
    ]
    message = " ".join([f"cannot listen on {where}: {faults}.", *remedies])
    numbers = [attempt.errno for attempt in attempts]
    number = errno.EADDRINUSE if errno.EADDRINUSE in numbers else numbers[0]
    return ListenError(number, message, attempts)
