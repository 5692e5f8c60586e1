"""Socket options by their names, as `SO_RCVBUF` or `TCP_CONGESTION`: what they are, and set.

A name says its level: `SO_` is the socket itself, `TCP_`, `IP_` and `IPV6_` are the protocols. An
option that the module `socket` has no name for is written as two numbers, `"6:42"`: level and
option, as in the headers of the system.

Who sets what: what the library itself relies on cannot be set otherwise (`RESERVED` says what to do
instead). What is given here goes before everything that is only a default.
"""

import difflib
import errno
import re
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from ginsfsm.net.listen_error import system_words
from ginsfsm.net.words import cut, given, is_whole

__all__ = [
    "RESERVED",
    "OptionError",
    "Options",
    "check_used",
    "concerns",
    "is_dual",
    "options_faults",
    "read_options",
    "set_socket_options",
]

Options = tuple[tuple[str, int | bytes], ...]
"""Names and values, in the order in which they are set."""

RESERVED: Final[Mapping[str, str]] = {
    "SO_KEEPALIVE": "give the parameter keepalive",
    "TCP_KEEPIDLE": "give the parameter keepalive",
    "TCP_KEEPINTVL": "give the parameter keepalive_interval",
    "TCP_KEEPCNT": "give the parameter keepalive_count",
    "TCP_NODELAY": "give the parameter nodelay",
    "TCP_USER_TIMEOUT": "give the parameter user_timeout",
    "SO_REUSEPORT": "give the parameter reuse_port of the server",
    "SO_BINDTODEVICE": "give the parameter interface of the server",
    "IPV6_V6ONLY": "give the parameter v6only of the server",
    "SO_REUSEADDR": "a server always sets it, or it could not start again for a minute",
    "SO_LINGER": "EV_DROP says how a connection ends",
}
"""Options that have another way, and which."""

_LEVELS: Final = {
    "SO_": socket.SOL_SOCKET,
    "TCP_": socket.IPPROTO_TCP,
    "IP_": socket.IPPROTO_IP,
    "IPV6_": socket.IPPROTO_IPV6,
}

_VALUES: Final = ("IP_DEFAULT_", "IP_MAX_", "IPV6_RTHDR_TYPE_", "SO_VM_")
"""Names of `socket` that look like options and are values, or another family's."""

_NUMBERS: Final = re.compile(r"(\d{1,9}):(\d{1,9})")

_TEXTS: Final = frozenset(
    {(socket.IPPROTO_TCP, getattr(socket, "TCP_CONGESTION", 13)), (socket.IPPROTO_TCP, 31)}
)
"""The options whose values are names: TCP_CONGESTION and TCP_ULP. tcp(7)"""

_INT: Final = range(-(1 << 31), 1 << 31)
"""What fits the `int` that setsockopt takes."""


class OptionError(OSError):
    """The system does not take an option; the message says which, its value, and why."""

    def __str__(self) -> str:
        # OSError would put "[Errno 22]" before words that say more than the number.
        return str(self.strerror)


def read_options(wanted: Mapping[str, Any]) -> Options:
    """Options as `Place` keeps them; a text becomes its bytes where the option takes one."""
    return tuple(
        (name, value.encode() if _is_fitting_text(name, value) else value)
        for name, value in wanted.items()
    )


def _is_fitting_text(name: object, value: object) -> bool:
    """Elsewhere `"65536"` would become an int of its four first digits."""
    return isinstance(value, str) and is_whole(value) and _numbers_of(name) in _TEXTS


def options_faults(options: Sequence[tuple[Any, Any]], *, is_unix: bool = False) -> Iterator[str]:
    """A sentence for each option that cannot be set, as far as one can tell without a socket."""
    for name, value in options:
        numbers = _numbers_of(name)
        reserved = name if name in RESERVED else _reserved_name(numbers)
        if reserved is not None:
            yield f"{name} cannot be set here: {RESERVED[reserved]}"
        elif numbers is None:
            known = {one.lower(): one for one in dir(socket) if _numbers_of(one) is not None}
            near = difflib.get_close_matches(str(name).lower(), known, n=1)
            tail = f"; did you mean {known[near[0]]!r}" if near else ""
            yield (
                f"no socket option {cut(repr(name))} on this system{tail}; expected a name such "
                "as SO_RCVBUF or TCP_CONGESTION, or level and option as in '6:13'"
            )
        elif is_unix and numbers[0] != socket.SOL_SOCKET:
            yield f"{name} is none of a Unix socket: only those that begin with SO_ are"
        elif not isinstance(value, (int, bytes)) or isinstance(value, bool):
            tail = f"; give {value:d}" if isinstance(value, bool) else ""
            yield f"{name}: expected an int, or bytes, got {given(value)}{tail}"
        elif isinstance(value, int) and value not in _INT:
            yield f"{name}: expected an int of 32 bits, got {value}"


def set_socket_options(sock: socket.socket, options: Options, *, dual: bool = False) -> None:
    """Set those options that are of this socket's family.

    Args:
        sock: not bound yet.
        options: without faults.
        dual: an IPv6 socket that takes IPv4 as well, so that options of IPv4 concern it too.

    Raises:
        OptionError: the system does not take one.
    """
    for name, value in options:
        if not concerns(name, sock.family, dual=dual):
            continue
        level, number = _numbers(name)
        try:
            sock.setsockopt(level, number, value)
        except OSError as error:
            code = error.errno or errno.EIO
            raise OptionError(
                code,
                f"socket_options: the system does not take {name}={value!r}: "
                f"{system_words(code)}. Give another value, or leave it out.",
            ) from error


def concerns(name: str, family: int, *, dual: bool = False) -> bool:
    """Whether an option is one of sockets of this family; `dual` as above."""
    level, _ = _numbers(name)
    if level == socket.IPPROTO_IP:
        return family == socket.AF_INET or (dual and family == socket.AF_INET6)
    if level == socket.IPPROTO_IPV6:
        return family == socket.AF_INET6
    return True


def is_dual(sock: socket.socket) -> bool:
    """Whether it is an IPv6 socket that takes IPv4 as well."""
    return sock.family == socket.AF_INET6 and not sock.getsockopt(
        socket.IPPROTO_IPV6, socket.IPV6_V6ONLY
    )


def check_used(options: Options, sockets: Iterable[tuple[int, bool]]) -> None:
    """Look whether each option is one of some socket.

    Args:
        options: without faults.
        sockets: the family of each, and whether it is dual.

    Raises:
        OptionError: for an option that is of no socket's family.
    """
    given = list(sockets)
    for name, _ in options:
        if not any(concerns(name, family, dual=dual) for family, dual in given):
            other = "IPv4" if name.startswith("IP_") else "IPv6"
            raise OptionError(
                errno.EINVAL,
                f"socket_options: {name} is an option of {other}, and none of the addresses is. "
                "Leave it out, or give other hosts.",
            )


def _numbers(name: str) -> tuple[int, int]:
    numbers = _numbers_of(name)
    if numbers is None:
        raise ValueError(f"{name!r} is no socket option; ask options_faults before")
    return numbers


def _reserved_name(numbers: tuple[int, int] | None) -> str | None:
    if numbers is None:
        return None
    return next((name for name in RESERVED if _numbers_of(name) == numbers), None)


def _numbers_of(name: object) -> tuple[int, int] | None:
    """Level and option; None where there is no such option."""
    if not isinstance(name, str):
        return None
    written = _NUMBERS.fullmatch(name)
    if written is not None:
        return int(written[1]), int(written[2])
    if name.startswith(_VALUES):
        return None
    number = getattr(socket, name, None)
    level = next((level for begin, level in _LEVELS.items() if name.startswith(begin)), None)
    return None if level is None or not isinstance(number, int) else (level, number)
