"""Listening sockets: from a host and a list of ports to sockets that accept.

A host may stand for several addresses: ``''`` is every interface of both families, and a name may
resolve to many. A server has one port on all of them, so a port is taken whole or not at all:

1. the host is resolved once, before anything is opened;
2. for each port in turn, every address is bound, then every bound socket listens;
3. the first port where that works is the answer; whatever another port left open is closed.

An address that this machine does not have is no reason to give up the others: a name often resolves
to an IPv6 address where there is no IPv6. A port that another program holds on one of the addresses
is a reason: half a server would answer some of its clients and leave the others to a stranger.
"""

import errno
import os
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

__all__ = ["Attempt", "ListenError", "Listening", "format_address", "listen"]

# What one address of several may fail with: it, or its whole family, is not of this machine.
# No program that could take it away exists, so the other addresses are the whole server.
_ABSENT = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT})

# Port 0: how often to ask for another port when the second address does not have the first one's
# free. The kernel picks at random, so even where nine ports of ten are taken on one family alone,
# forty tries fail once in seventy.
_FREE_PORT_TRIES = 40

# Below this, ports need rights on every POSIX system that has not been told otherwise.
_FIRST_UNPRIVILEGED_PORT = 1024


@dataclass(frozen=True, slots=True)
class Listening:
    """The sockets of one server, all with the same port.

    Attributes:
        sockets: listening, non-blocking, closed on exec; one per address. The caller owns them.
        port: the real port, also where 0 was asked for.
    """

    sockets: tuple[socket.socket, ...]
    port: int


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


def listen(host: str, ports: Sequence[int], *, backlog: int) -> Listening:
    """Listen on the first of the ports that is free on every address of the host.

    Blocks while the host is resolved; a numeric address or `''` asks nobody.

    Args:
        host: an address, a name, or `''` for every interface: one socket for IPv4 and one for
            IPv6, or IPv4 alone where there is no IPv6. `'0.0.0.0'` and `'::'` are one family.
        ports: tried in order, each 0 to 65535; 0 takes a free one, the same for every address.
            A port is free if bind and listen succeed on every address of the host that this
            machine has.
        backlog: how many connections the kernel completes and keeps until they are accepted.

    Returns:
        The listening sockets and their port.

    Raises:
        ValueError: no ports, or a port that is none. Nothing was opened.
        ListenError: no port could be listened on. Nothing is left open.
    """
    _check_ports(ports)
    attempts: list[Attempt] = []
    endpoints = _resolve(host, attempts)
    for port in ports if endpoints else ():
        listening = _listen_on_port(endpoints, port, backlog, attempts)
        if listening is not None:
            return listening
    raise _listen_error(host, tuple(attempts))


def format_address(sockaddr: object) -> str:
    """A socket's address as people write it; used in logs and errors, so it never raises.

    Args:
        sockaddr: what `getsockname`, `getpeername` or `accept` gave.

    Returns:
        `127.0.0.1:7000`, `[::1]:7000`, `[fe80::1%2]:7000` (a link-local address with the number of
        its interface), or the path of a Unix socket (`@name` if it is abstract, `unnamed` if it has
        none). Anything else comes as Python prints it.
    """
    match sockaddr:
        case (str(host), int(port)):
            return f"{host}:{port}"
        case (str(host), int(port), int(), int(scope)):
            zone = f"%{scope}" if scope and "%" not in host else ""
            return f"[{host}{zone}]:{port}"
        case "" | b"":
            return "unnamed"
        case str(path) | bytes(path):
            name = os.fsdecode(path)
            return f"@{name[1:]}" if name.startswith("\0") else name
        case _:
            return str(sockaddr)


@dataclass(frozen=True, slots=True)
class _Endpoint:
    """Where one socket of the server goes: an address without its port."""

    family: socket.AddressFamily
    host: str
    # IPv6 only: flow and scope, which say the interface of a link-local address.
    rest: tuple[int, ...] = ()

    def sockaddr(self, port: int) -> tuple[str | int, ...]:
        return (self.host, port, *self.rest)


def _check_ports(ports: Sequence[int]) -> None:
    if not ports:
        raise ValueError(
            "no ports were given: expected at least one from 0 to 65535, 0 to take a free one"
        )
    wrong = [port for port in ports if not 0 <= port <= 65535]
    if wrong:
        given = ", ".join(map(str, wrong))
        raise ValueError(
            f"{given}: not a port, expected a whole number from 0 to 65535 (0 takes a free one)"
        )


def _resolve(host: str, attempts: list[Attempt]) -> list[_Endpoint]:
    """The addresses of the host, each once; none, and one more attempt, if it does not resolve."""
    if host == "":
        # Not left to getaddrinfo, whose order and choice differ from system to system.
        return [_Endpoint(socket.AF_INET, "0.0.0.0"), _Endpoint(socket.AF_INET6, "::", (0, 0))]
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, ValueError) as error:
        # UnicodeError, which is a ValueError: a label too long, or one that is no IDNA.
        why = error.strerror if isinstance(error, OSError) else str(error)
        attempts.append(Attempt(host, errno.EADDRNOTAVAIL, f"{_UNRESOLVED} ({why})"))
        return []
    # A host file may list one address many times, and the second bind of it would find the first.
    endpoints: list[_Endpoint] = []
    for family, _, _, _, sockaddr in found:
        endpoint = _Endpoint(family, str(sockaddr[0]), tuple(map(int, sockaddr[2:])))
        if endpoint not in endpoints:
            endpoints.append(endpoint)
    return endpoints


def _listen_on_port(
    endpoints: Sequence[_Endpoint], port: int, backlog: int, attempts: list[Attempt]
) -> Listening | None:
    """Listen on one port; `None`, with the reasons added to the attempts, if that cannot be."""
    failures: list[Attempt] = []
    for _ in range(_FREE_PORT_TRIES if port == 0 else 1):
        failures = []
        listening, taken = _try_port(endpoints, port, backlog, failures)
        if listening is not None:
            return listening
        if not taken:
            break
    attempts += failures
    return None


def _try_port(
    endpoints: Sequence[_Endpoint], asked: int, backlog: int, failures: list[Attempt]
) -> tuple[Listening | None, bool]:
    """Bind every address, then listen on all.

    Returns:
        The sockets or `None`, and whether it is worth asking for another free port: one was given,
        and another address does not have it.
    """
    with ExitStack() as opened:
        sockets: list[socket.socket] = []
        port = asked
        given_up = False
        for endpoint in endpoints:
            try:
                sock = opened.enter_context(_bound(endpoint, port))
            except OSError as error:
                failures.append(_attempt(endpoint, port, error))
                given_up = given_up or error.errno not in _ABSENT
                # The rest are bound all the same, to tell in one go what is wrong with each.
                continue
            sockets.append(sock)
            port = sock.getsockname()[1]
        if not given_up and sockets:
            # Only now, so that a port which is taken on one address never accepts on another.
            try:
                for sock in sockets:
                    sock.listen(backlog)
            except OSError as error:
                # Another bound it too, both with SO_REUSEADDR, and listened first.
                failures.append(_attempt_at(sock.getsockname(), error))
            else:
                opened.pop_all()
                return Listening(tuple(sockets), port), False
        taken = asked != port and any(failed.errno == errno.EADDRINUSE for failed in failures)
        return None, taken


def _bound(endpoint: _Endpoint, port: int) -> socket.socket:
    """A socket that needs only to listen. Python's sockets are closed on exec (PEP 446)."""
    family = endpoint.family
    if family == socket.AF_INET6 and not socket.has_ipv6:
        # A Python built without IPv6: said as a kernel without it would say it.
        raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if os.name == "posix":
            # Without it a server cannot start again for a minute, until its old connections leave
            # TIME_WAIT. Not on Windows, where it would let two programs listen on one port.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # A socket for both families would collide with the IPv4 one of the same server, and
            # show IPv4 peers as ::ffff:192.0.2.1.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # Set once here and not on every connection: accepted sockets inherit it on Linux, macOS and
        # the BSDs.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.bind(endpoint.sockaddr(port))
    except BaseException:
        sock.close()
        raise
    return sock


_UNRESOLVED = "the name does not resolve"
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
    _UNRESOLVED: "Give an address of this machine, a name of one, or '' for every interface.",
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


def _attempt(endpoint: _Endpoint, port: int, error: OSError) -> Attempt:
    return _attempt_at(endpoint.sockaddr(port), error)


def _attempt_at(sockaddr: tuple[str | int, ...], error: OSError) -> Attempt:
    number = error.errno or errno.EIO
    return Attempt(format_address(sockaddr), number, _reason(sockaddr, number))


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
            return f"{os.strerror(number)} ({errno.errorcode.get(number, number)})"


def _listen_error(host: str, attempts: tuple[Attempt, ...]) -> ListenError:
    """One line, however many ports there were: the addresses that failed alike stand together."""
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
    where = f"host {host!r}" if host else "any interface (host '')"
    message = " ".join([f"cannot listen on {where}: {faults}.", *remedies])
    numbers = [attempt.errno for attempt in attempts]
    number = errno.EADDRINUSE if errno.EADDRINUSE in numbers else numbers[0]
    return ListenError(number, message, attempts)
