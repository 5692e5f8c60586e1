"""Framing: from a stream of bytes to messages, and back.

TCP keeps the order of bytes and nothing else: what one side sent with two calls may arrive in one
piece, and what it sent with one call in many. So a protocol says where a message ends, in one of
four ways: by a delimiter after it, by its length before it, by both, or by a size that all have. A
message that was cut out of the stream is called a frame here.

A framing belongs to one connection and has two sides that know nothing of each other:

- `split` takes received bytes, however they were cut, and returns the frames that are whole now.
  It keeps what is left over, and how much that can be is bounded;
- `wrap` takes a frame and returns the bytes that stand for it.

A frame that cannot be is refused on both sides with a `FrameError`. When that comes from `split`,
nobody knows any more where the next frame begins: the connection has to end. The frames that stood
before the bad one are on the exception, and `split` raises it again whenever it is called again.

The cost is linear in the bytes, however they were cut: no byte is searched twice (but for the last
few of a piece, which may be the beginning of a delimiter), and what is held only ever grows at its
end. One frame alone in what was received, which is the commonest case by far, costs little more
than to find its end and to slice it off.

Nothing of what was received is ever in the text of an error: it may be a secret, and it is as long
as a peer likes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from struct import Struct
from typing import Final, Protocol, runtime_checkable

from ginsfsm.net.counted import Fixed, Netstrings, Prefixed
from ginsfsm.net.cutter import FrameError
from ginsfsm.net.delimited import Delimited, Lines
from ginsfsm.net.words import given, kind, nearest

__all__ = [
    "FrameError",
    "Framing",
    "check_frames",
    "framing_fault",
    "make_framing",
    "read_framing",
]

MAX_DELIMITER: Final = 64
"""Bytes of the longest delimiter: far above any in use, and so few that to look at them again in
each piece of a frame costs nothing."""


@runtime_checkable
class Framing(Protocol):
    """What cuts one connection's bytes into frames; users may write their own."""

    def split(self, data: bytes) -> list[bytes]:
        """Take received bytes and return the frames that are whole now, in order.

        Raises:
            FrameError: what was received can be no frame, and the connection cannot go on. The
                frames that were whole before are in its `frames`.
        """
        ...

    def wrap(self, frame: bytes) -> bytes:
        """The bytes that stand for a frame on the wire.

        Raises:
            FrameError: nothing can stand for it, or it is longer than the limit.
        """
        ...

    def rest(self) -> bytes:
        """What was taken and is not part of a whole frame; the framing is empty afterwards."""
        ...


# -- the parameter ---------------------------------------------------------------------------------

_PREFIXES: Final = {
    "uint8": Struct("B"),
    "uint16": Struct(">H"),
    "uint32": Struct(">I"),
    "uint64": Struct(">Q"),
    "uint16le": Struct("<H"),
    "uint32le": Struct("<I"),
    "uint64le": Struct("<Q"),
}
"""Lengths before a frame; network order where nothing else is said."""

_NAMED: Final[dict[str, Callable[[int], Framing]]] = {
    "lines": Lines,
    "crlf": lambda max_frame: Delimited(b"\r\n", max_frame),
    "netstrings": Netstrings,
    **{name: partial(Prefixed, code) for name, code in _PREFIXES.items()},
}

_LEGAL: Final = (
    f"expected '' for none, one of {', '.join(map(repr, _NAMED))}, a delimiter of 1 to "
    f"{MAX_DELIMITER} bytes such as b'\\0', a fixed size as a whole number from 1, or a class or "
    "function that takes max_frame and returns a Framing (split, wrap and rest)"
)


def framing_fault(value: object, max_frame: int | None = None) -> str | None:
    """What is wrong with the parameter `framing`, as a sentence that lists what is legal.

    Args:
        value: what was given.
        max_frame: the other parameter, where a fixed size is to be compared with it.

    Returns:
        None if there is nothing wrong. With `max_frame` a user's own class or function is called
        once, to see whether it makes a framing.
    """
    if isinstance(value, str):
        if value == "" or value in _NAMED:
            return None
        close = nearest(value, _NAMED)
        hint = close if "did you mean" in close else "; a delimiter is given as bytes"
        return f"{given(value)} is no framing{hint}; {_LEGAL}"
    if isinstance(value, bytes):
        if 1 <= len(value) <= MAX_DELIMITER:
            return None
        return f"a delimiter of {len(value)} bytes was given; {_LEGAL}"
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 1:
            return f"a fixed size of {value} was given; {_LEGAL}"
        if max_frame is not None and value > max_frame:
            return (
                f"a fixed size of {value} bytes was given, more than max_frame={max_frame}: give a "
                "larger max_frame"
            )
        return None
    if callable(value):
        return None if max_frame is None else _fault_of_own(value, max_frame)
    if isinstance(value, Framing):
        return (
            f"{kind(value)} was given, one framing for all connections, where each needs its own: "
            f"give the class, or a function that makes one; {_LEGAL}"
        )
    return f"{given(value)} was given; {_LEGAL}"


def read_framing(value: object) -> object:
    """The parameter `framing` as a value of the code, from what settings say.

    On a command line all is text, and in a file there are no bytes and no classes.

    Raises:
        ValueError: settings cannot say that; the sentence lists what they can.
    """
    if isinstance(value, str):
        value = int(value) if value.isascii() and value.isdigit() else str(value)
    is_size = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if is_size or (isinstance(value, str) and (value == "" or value in _NAMED)):
        return value
    close = nearest(value, _NAMED)
    hint = close if isinstance(value, str) and "did you mean" in close else ""
    raise ValueError(
        f"{given(value)} is no framing{hint}; in settings expected '' for none, one of "
        f"{', '.join(map(repr, _NAMED))}, or a fixed size as a whole number from 1; a delimiter "
        "or a class can be given only in the code"
    )


def make_framing(value: object, max_frame: int) -> Framing:
    """A new framing, for one connection.

    Args:
        value: the parameter `framing`, but not `""`.
        max_frame: how many bytes a frame may have, delimiter, length and all such not counted. A
            user's own class or function gets it, and has to see to it by itself.

    Raises:
        ValueError: one of the two is not legal, or what a user's own class or function returned is
            no framing.
    """
    if isinstance(max_frame, bool) or not isinstance(max_frame, int) or max_frame < 1:
        raise ValueError(f"max_frame={max_frame!r}: expected a whole number of bytes from 1")
    if value == "":
        raise ValueError("framing='' is none, so there is nothing to make: test for it before")
    if callable(value):
        made: object = value(max_frame)
        if not isinstance(made, Framing):
            raise ValueError(f"framing: {_no_framing(value, max_frame, made)}")
        return made
    fault = framing_fault(value, max_frame)
    if fault is not None:
        raise ValueError(f"framing: {fault}")
    if isinstance(value, str):
        return _NAMED[value](max_frame)
    if isinstance(value, bytes):
        return Delimited(value, max_frame)
    assert isinstance(value, int)
    return Fixed(value)


def check_frames(framing: Framing, found: object) -> None:
    """See that what a user's own `split` returned can hold frames.

    Raises:
        TypeError: it is none, or one frame, of which each byte would be taken for one.
    """
    if isinstance(found, (bytes, bytearray, memoryview, str)) or not isinstance(found, Iterable):
        raise TypeError(
            f"{type(framing).__name__}.split returned {kind(found)}, expected a list of frames, "
            "which is empty where none is whole"
        )


def _fault_of_own(make: Callable[[int], object], max_frame: int) -> str | None:
    try:
        made = make(max_frame)
    except Exception as error:
        told = f"{type(error).__name__}: {error}".rstrip(": ")
        return f"{_call(make, max_frame)} raised {told}; expected it to return a Framing"
    return None if isinstance(made, Framing) else _no_framing(make, max_frame, made)


def _no_framing(make: object, max_frame: int, made: object) -> str:
    return (
        f"{_call(make, max_frame)} returned {kind(made)}, expected an object with the methods "
        "split, wrap and rest"
    )


def _call(make: object, max_frame: int) -> str:
    return f"{getattr(make, '__name__', 'the callable')}({max_frame})"
