"""Place: where a server listens, as plain data; and `open_place`, which makes sockets of it.

A place is one of these, the first that is given:

1. `fd_name`: the sockets of that name which the service manager has opened (`LISTEN_FDS`);
2. `fd`: a descriptor that this process was started with;
3. `unix_path`: a Unix socket, a file or an abstract name;
4. `hosts` and `ports`: TCP.

It is hashable and can be written as JSON and read again (`msgspec.json.encode(place)`,
`msgspec.json.decode(data, type=Place)`): a worker sends its places to its parent, which opens each
of them once for all workers.
"""

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ginsfsm.net.addresses import Binding, listen
from ginsfsm.net.inherited import listen_on_descriptor, listen_on_name
from ginsfsm.net.listening import Listening
from ginsfsm.net.socket_options import options_faults
from ginsfsm.net.unix_address import listen_on_path, owner_fault, unix_faults
from ginsfsm.net.words import HOST_FORM, cut, is_host, is_whole

__all__ = ["Place", "open_place", "place_faults"]

LONGEST_INTERFACE: Final = 15
"""Bytes of a network interface's name; IFNAMSIZ. The kernel cuts off what is more."""

LONGEST_FD_NAME: Final = 255
"""Characters of a name that a service manager gives; sd_listen_fds(3), FDNAME_MAX."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server listens, and what its sockets are like. Everything has a default.

    Attributes:
        hosts: addresses or names; `('',)` is every interface.
        ports: tried in order, the first that is free on all hosts is taken; 0 takes a free one.
        backlog: how many connections the kernel completes and keeps until they are accepted.
        reuse_port: other processes of this user may listen on the same port; the kernel spreads
            the connections over them.
        v6only: an IPv6 socket takes IPv6 alone; else also IPv4, as `::ffff:192.0.2.1`.
        interface: only connections that come through this network interface; `''` is any.
        unix_path: the file of a Unix socket, or `@name` for an abstract one.
        unix_mode: the permissions of that file; None leaves them to the umask.
        unix_owner: `'user'`, `'user:group'` or `':group'` to give it to; `''` leaves it ours.
        fd: a descriptor that listens already; -1 is none.
        fd_name: the name of descriptors that the service manager gave.
        socket_options: names and values, set before the socket is bound.
    """

    hosts: tuple[str, ...] = ("",)
    ports: tuple[int, ...] = (0,)
    backlog: int = 1024
    reuse_port: bool = False
    v6only: bool = True
    interface: str = ""
    unix_path: str = ""
    unix_mode: int | None = None
    unix_owner: str = ""
    fd: int = -1
    fd_name: str = ""
    socket_options: tuple[tuple[str, int | bytes], ...] = ()

    @property
    def kind(self) -> str:
        """Which of the four it is: `fd_name`, `fd`, `unix_path` or `hosts`."""
        if self.fd_name:
            return "fd_name"
        if self.fd >= 0:
            return "fd"
        return "unix_path" if self.unix_path else "hosts"


def open_place(place: Place) -> Listening:
    """Listen there.

    Blocks while a host name is resolved, and at most a second on the lock of a Unix path.

    Returns:
        The listening sockets. Whoever asked owns them and calls `close` in the end.

    Raises:
        ValueError: the place itself is none: no ports, a port that is none.
        ListenError: it cannot be listened on. Nothing is left open.
    """
    match place.kind:
        case "fd_name":
            return listen_on_name(place.fd_name, os.environ, options=place.socket_options)
        case "fd":
            return listen_on_descriptor(place.fd, os.environ, options=place.socket_options)
        case "unix_path":
            return listen_on_path(
                place.unix_path,
                backlog=place.backlog,
                mode=place.unix_mode,
                owner=place.unix_owner,
                options=place.socket_options,
            )
        case _:
            binding = Binding(place.reuse_port, place.v6only, place.interface, place.socket_options)
            return listen(place.hosts, place.ports, backlog=place.backlog, binding=binding)


def place_faults(place: Place) -> Iterator[str]:
    """A sentence for everything that is wrong with a place, the server's parameter first.

    It looks at nothing outside: whether the host, the folder or the user is there is seen when it
    is opened.
    """
    broken = [name for name in place.hosts if not is_host(name)]
    if broken:
        name = "hosts" if len(place.hosts) > 1 else "host, hosts"
        yield f"{name}: {HOST_FORM}, got {cut(repr(broken[0]))}"
    elif not is_whole(place.interface):
        yield f"interface: expected a text that is UTF-8, got {cut(repr(place.interface))}"
    elif place.kind == "hosts":
        yield from _tcp_faults(place)
    else:
        yield from _misplaced(place)
    if not _is_fd_name(place.fd_name):
        yield (
            f"fd_name: expected at most {LONGEST_FD_NAME} characters of ASCII, none of them a "
            f"colon or a control character, got {cut(repr(place.fd_name))}"
        )
    is_unix = place.kind == "unix_path"
    if is_unix:
        yield from (f"unix_path: {fault}" for fault in unix_faults(place.unix_path))
        if place.unix_owner:
            fault = owner_fault(place.unix_owner)
            if fault is not None:
                yield f"unix_owner: {fault}"
            elif os.name != "posix":
                yield "unix_owner: this system has no users of that kind"
    named = is_unix and place.unix_path.startswith("@")
    if not is_unix or named:
        why = "an abstract name has no file" if named else "there is no unix_path"
        if place.unix_mode is not None:
            yield f"unix_mode: {why} whose permissions it could be"
        if place.unix_owner:
            yield f"unix_owner: {why} that could have an owner"
    options = options_faults(place.socket_options, is_unix=is_unix)
    yield from (f"socket_options: {fault}" for fault in options)


def _is_fd_name(name: str) -> bool:
    """Whether a service manager can give sockets by that name; sd_listen_fds(3)."""
    return (
        len(name) <= LONGEST_FD_NAME
        and name.isascii()
        and (name == "" or name.isprintable())
        and ":" not in name
    )


def _tcp_faults(place: Place) -> Iterator[str]:
    if "" in place.hosts and len(place.hosts) > 1:
        yield "hosts: '' is every interface, so that nothing is left for the others; leave one out"
    if place.reuse_port and not hasattr(socket, "SO_REUSEPORT"):
        yield "reuse_port: this system cannot share a port (no SO_REUSEPORT)"
    if place.interface:
        if not hasattr(socket, "SO_BINDTODEVICE"):
            yield (
                "interface: this system cannot bind to an interface (no SO_BINDTODEVICE); give its "
                "address as host"
            )
        elif len(place.interface.encode()) > LONGEST_INTERFACE or "\0" in place.interface:
            yield (
                f"interface: expected the name of a network interface, such as 'eth0', of at most "
                f"{LONGEST_INTERFACE} bytes, got {place.interface!r}"
            )


def _misplaced(place: Place) -> Iterator[str]:
    """What only TCP on hosts has."""
    given = {
        "reuse_port": place.reuse_port,
        "v6only": not place.v6only,
        "interface": bool(place.interface),
    }
    for name, is_given in given.items():
        if is_given:
            yield f"{name}: goes with host or hosts, and {place.kind} was given"
