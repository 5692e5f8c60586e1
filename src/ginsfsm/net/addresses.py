"""Listening sockets of TCP: from hosts and a list of ports to sockets that accept.

A host may stand for several addresses: ``''`` is every interface of both families, and a name may
resolve to many. A server has one port on all of them, so a port is taken whole or not at all:

1. the hosts are resolved once, before anything is opened;
2. for each port in turn, every address is bound, then every bound socket listens;
3. the first port where that works is the answer; whatever another port left open is closed.

An address that this machine does not have is no reason to give up the others of its host: a name
often resolves to an IPv6 address where there is no IPv6. But of each host that was asked for there
has to be one. A port that another program holds on one of the addresses is a reason: half a server
would answer some of its clients and leave the others to a stranger.
"""

import errno
import os
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from ginsfsm.net.listen_error import (
    UNRESOLVED,
    Attempt,
    ListenError,
    failed_attempt,
    listen_error,
    system_words,
)
from ginsfsm.net.listening import Listening
from ginsfsm.net.sockaddr import format_address
from ginsfsm.net.socket_options import OptionError, Options, check_used, is_dual, set_socket_options

__all__ = ["Attempt", "Binding", "ListenError", "Listening", "format_address", "listen"]

# What one address of several may fail with: it, or its whole family, is not of this machine.
# No program that could take it away exists, so the other addresses are the whole server.
_ABSENT = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT})

# Port 0: how often to ask for another port when the second address does not have the first one's
# free. The kernel picks at random, so even where nine ports of ten are taken on one family alone,
# forty tries fail once in seventy.
_FREE_PORT_TRIES = 40


@dataclass(frozen=True, slots=True)
class Binding:
    """What the sockets are like, whatever their addresses.

    Attributes:
        reuse_port: others may listen on the same address and port (SO_REUSEPORT).
        v6only: an IPv6 socket takes IPv6 alone.
        interface: only what comes through this network interface; `''` is any.
        options: set before a socket is bound.
    """

    reuse_port: bool = False
    v6only: bool = True
    interface: str = ""
    options: Options = ()


def listen(
    hosts: str | Sequence[str],
    ports: Sequence[int],
    *,
    backlog: int,
    binding: Binding = Binding(),
) -> Listening:
    """Listen on the first of the ports that is free on every address of the hosts.

    Blocks while a host is resolved; a numeric address or `''` asks nobody.

    Args:
        hosts: one or several; each an address, a name, or `''` for every interface: one socket for
            IPv4 and one for IPv6, or IPv4 alone where there is no IPv6. `'0.0.0.0'` and `'::'` are
            one family.
        ports: tried in order, each 0 to 65535; 0 takes a free one, the same for every address.
            A port is free if bind and listen succeed on every address of the hosts that this
            machine has.
        backlog: how many connections the kernel completes and keeps until they are accepted.
        binding: what the sockets are like. Without IPv6-only sockets `''` is one for both families.

    Returns:
        The listening sockets and their port.

    Raises:
        ValueError: no ports, or a port that is none. Nothing was opened.
        ListenError: no port could be listened on. Nothing is left open.
    """
    _check_ports(ports)
    hosts = (hosts,) if isinstance(hosts, str) else tuple(hosts)
    attempts: list[Attempt] = []
    groups = [_resolve(host, binding, attempts) for host in hosts]
    wanted = _Wanted(groups, backlog, binding)
    for port in ports if all(groups) else ():
        listening = _listen_on_port(wanted, port, attempts)
        if listening is not None:
            return listening
    raise listen_error(_where(hosts), tuple(attempts))


def _where(hosts: Sequence[str]) -> str:
    if len(hosts) == 1:
        return f"host {hosts[0]!r}" if hosts[0] else "any interface (host '')"
    return f"hosts {', '.join(map(repr, hosts))}"


@dataclass(frozen=True, slots=True)
class _Endpoint:
    """Where one socket of the server goes: an address without its port."""

    family: socket.AddressFamily
    host: str
    # IPv6 only: flow and scope, which say the interface of a link-local address.
    rest: tuple[int, ...] = ()

    def sockaddr(self, port: int) -> tuple[str | int, ...]:
        return (self.host, port, *self.rest)


class _Wanted:
    """What all sockets of the server have in common.

    Attributes:
        groups: the addresses of each host, of which one has to be there.
        endpoints: all of them, each once: the second bind of one would find the first.
    """

    __slots__ = ("backlog", "binding", "endpoints", "groups")

    def __init__(
        self, groups: Sequence[Sequence[_Endpoint]], backlog: int, binding: Binding
    ) -> None:
        self.groups = groups
        self.endpoints = tuple(dict.fromkeys(one for group in groups for one in group))
        self.backlog = backlog
        self.binding = binding


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


def _resolve(host: str, binding: Binding, attempts: list[Attempt]) -> list[_Endpoint]:
    """The addresses of the host; none, and one more attempt, if it does not resolve."""
    if host == "" and not binding.v6only and _has_ipv6():
        return [_Endpoint(socket.AF_INET6, "::", (0, 0))]
    if host == "":
        # Not left to getaddrinfo, whose order and choice differ from system to system.
        return [_Endpoint(socket.AF_INET, "0.0.0.0"), _Endpoint(socket.AF_INET6, "::", (0, 0))]
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, ValueError) as error:
        # UnicodeError, which is a ValueError: a label too long, or one that is no IDNA.
        why = error.strerror if isinstance(error, OSError) else str(error)
        attempts.append(Attempt(host, errno.EADDRNOTAVAIL, f"{UNRESOLVED} ({why})"))
        return []
    return [
        _Endpoint(family, str(sockaddr[0]), tuple(map(int, sockaddr[2:])))
        for family, _, _, _, sockaddr in found
    ]


def _has_ipv6() -> bool:
    if not socket.has_ipv6:
        return False
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_STREAM).close()
    except OSError:
        return False
    return True


def _listen_on_port(wanted: _Wanted, port: int, attempts: list[Attempt]) -> Listening | None:
    """Listen on one port; `None`, with the reasons added to the attempts, if that cannot be."""
    failures: list[Attempt] = []
    for _ in range(_FREE_PORT_TRIES if port == 0 else 1):
        failures = []
        listening, taken = _try_port(wanted, port, failures)
        if listening is not None:
            return listening
        if not taken:
            break
    attempts += failures
    return None


def _try_port(
    wanted: _Wanted, asked: int, failures: list[Attempt]
) -> tuple[Listening | None, bool]:
    """Bind every address, then listen on all.

    Returns:
        The sockets or `None`, and whether it is worth asking for another free port: one was given,
        and another address does not have it.
    """
    with ExitStack() as opened:
        sockets: dict[_Endpoint, socket.socket] = {}
        port = asked
        given_up = False
        for endpoint in wanted.endpoints:
            try:
                sock = opened.enter_context(_bound(endpoint, port, wanted.binding))
            except ListenError:
                # Not of this address or port: no other one would do.
                raise
            except OSError as error:
                failures.append(failed_attempt(endpoint.sockaddr(port), error))
                given_up = given_up or error.errno not in _ABSENT
                # The rest are bound all the same, to tell in one go what is wrong with each.
                continue
            sockets[endpoint] = sock
            port = sock.getsockname()[1]
        # Of each host one address at least; which were there is known only now.
        complete = all(any(one in sockets for one in group) for group in wanted.groups)
        if not given_up and complete:
            try:
                used = [(sock.family, is_dual(sock)) for sock in sockets.values()]
                check_used(wanted.binding.options, used)
            except OptionError as error:
                raise ListenError(error.errno or errno.EIO, str(error)) from error
            # Only now, so that a port which is taken on one address never accepts on another.
            try:
                for sock in sockets.values():
                    sock.listen(wanted.backlog)
            except OSError as error:
                # Another bound it too, both with SO_REUSEADDR, and listened first.
                failures.append(failed_attempt(sock.getsockname(), error))
            else:
                opened.pop_all()
                return Listening(tuple(sockets.values()), port), False
        taken = asked != port and any(failed.errno == errno.EADDRINUSE for failed in failures)
        return None, taken


def _bound(endpoint: _Endpoint, port: int, binding: Binding) -> socket.socket:
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
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, binding.v6only)
        if binding.reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if binding.interface:
            # Before the bind, so that it stands for the zone of a link-local address as well.
            _bind_to_interface(sock, binding.interface)
        # Set once here and not on every connection: accepted sockets inherit it on Linux, macOS and
        # the BSDs.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        dual = family == socket.AF_INET6 and not binding.v6only
        set_socket_options(sock, binding.options, dual=dual)
        sock.bind(endpoint.sockaddr(port))
    except OptionError as error:
        sock.close()
        raise ListenError(error.errno or errno.EIO, str(error)) from error
    except BaseException:
        sock.close()
        raise
    return sock


def _bind_to_interface(sock: socket.socket, name: str) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name.encode())
    except OSError as error:
        number = error.errno or errno.EIO
        if number == errno.ENODEV:
            known = ", ".join(name for _, name in socket.if_nameindex())
            why, remedy = "this machine has no such network interface", f"Give one of: {known}."
        elif number == errno.EPERM:
            why = "this process may not bind to an interface"
            remedy = "Give it the right to (CAP_NET_RAW), or give the interface's address as host."
        else:
            why, remedy = system_words(number), "Give another interface, or none."
        raise ListenError(
            number, f"cannot listen on interface {name!r}: {why}. {remedy}"
        ) from error
