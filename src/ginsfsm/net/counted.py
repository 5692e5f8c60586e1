"""Frames of which one knows how long they are before they have come.

Either a number stands before each, as bytes (`Prefixed`) or as digits (`Netstrings`), or all have
one size (`Fixed`). So nothing is searched: what came is added up until there is enough. A number
above `max_frame` is refused when it has come, not when that much has.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NoReturn

from ginsfsm.net.cutter import Cutter, FrameError

__all__ = ["Fixed", "Netstrings", "Prefixed"]

_COMMA: Final = ord(",")
_ZERO: Final = ord("0")


class Counted(Cutter):
    """Frames of which a head says how long they are; a fixed size is a head of no bytes.

    Attributes:
        _need: how many bytes what is held has to have to be a whole frame with its head; 0 while
            not even the head is whole.
    """

    __slots__ = ("_need",)

    def __init__(self, max_frame: int) -> None:
        super().__init__(max_frame)
        self._need = 0

    def _split(self, data: bytes, start: int, frames: list[bytes]) -> list[bytes]:
        """Cut what begins where a frame does: append the frames, hold what is left."""
        raise NotImplementedError

    def _hold(self, data: bytes, start: int, need: int) -> None:
        self._held += data[start:]
        self._need = need

    def _resume(self, data: bytes) -> list[bytes]:
        """Cut what goes on with the frame of which a part is held."""
        self._fail_again()
        held = self._held
        if not self._need:
            # A head is short, so this copies data at most a few times.
            data = bytes(held) + data
            held.clear()
            return self._split(data, 0, [])
        missing = self._need - len(held)
        if len(data) < missing:
            held += data
            return []
        held += data[:missing]
        whole = bytes(held)
        held.clear()
        frames = self._split(whole, 0, [])
        return frames if missing == len(data) else self._split(data, missing, frames)

    def _fail_too_long(self, announced: str, frames: list[bytes]) -> NoReturn:
        self._fail(
            f"a frame of {announced} was announced, more than max_frame={self._max}: the peer "
            "sends something else, or needs a larger max_frame",
            frames,
        )


class Fixed(Counted):
    """Frames of one size."""

    __slots__ = ()

    def split(self, data: bytes) -> list[bytes]:
        if self._held:
            return self._resume(data)
        if len(data) == self._max:
            return [data]
        return self._split(data, 0, [])

    def wrap(self, frame: bytes) -> bytes:
        if len(frame) != self._max:
            raise FrameError(
                f"a frame of {len(frame)} bytes to send, where each has {self._max}: fill it up, "
                "or take a framing that sends the length, such as 'uint32'"
            )
        return frame

    def _split(self, data: bytes, start: int, frames: list[bytes]) -> list[bytes]:
        size = self._max
        end = len(data) - (len(data) - start) % size
        frames += [data[at : at + size] for at in range(start, end, size)]
        self._hold(data, end, size)
        return frames


class Prefixed(Counted):
    """Frames with their length before each, as a number of 1, 2, 4 or 8 bytes."""

    __slots__ = ("_code",)

    def __init__(self, code: Struct, max_frame: int) -> None:
        super().__init__(max_frame)
        self._code = code

    def split(self, data: bytes) -> list[bytes]:
        if self._held:
            return self._resume(data)
        head = self._code.size
        if head <= len(data) <= head + self._max:
            (length,) = self._code.unpack_from(data)
            if length == len(data) - head:
                return [data[head:]]
        return self._split(data, 0, [])

    def wrap(self, frame: bytes) -> bytes:
        self._check_size(frame)
        size = len(frame)
        if size >> 8 * self._code.size:
            raise FrameError(
                f"a frame of {size} bytes to send, where the length has {self._code.size} bytes "
                f"and so is {(1 << 8 * self._code.size) - 1} at most: send it in parts, or take a "
                "longer prefix"
            )
        return self._code.pack(size) + frame

    def _split(self, data: bytes, start: int, frames: list[bytes]) -> list[bytes]:
        unpack = self._code.unpack_from
        head = self._code.size
        limit = self._max
        size = len(data)
        while (begin := start + head) <= size:
            (length,) = unpack(data, start)
            if length > limit:
                self._fail_too_long(f"{length} bytes", frames)
            end = begin + length
            if end > size:
                self._hold(data, start, head + length)
                return frames
            frames.append(data[begin:end])
            start = end
        self._hold(data, start, 0)
        return frames


class Netstrings(Counted):
    """Frames with their length in decimal digits and a colon before each, and a comma after it."""

    __slots__ = ("_digits",)

    def __init__(self, max_frame: int) -> None:
        super().__init__(max_frame)
        self._digits = len(str(max_frame))

    def split(self, data: bytes) -> list[bytes]:
        if self._held:
            return self._resume(data)
        return self._split(data, 0, [])

    def wrap(self, frame: bytes) -> bytes:
        self._check_size(frame)
        return b"%d:%b," % (len(frame), frame)

    def _split(self, data: bytes, start: int, frames: list[bytes]) -> list[bytes]:
        size = len(data)
        while start < size:
            # The colon, or the byte that makes the number too long.
            colon = data.find(b":", start, start + self._digits + 1)
            if colon < 0:
                self._length(data[start : start + self._digits + 1], frames)
                self._hold(data, start, 0)
                return frames
            head = data[start:colon]
            # Without the call where all is well and the number is not 0.
            length = int(head) if head.isdigit() and head[0] != _ZERO else self._max + 1
            if length > self._max:
                length = self._length(head, frames)
            end = colon + 1 + length
            if end >= size:
                self._hold(data, start, end + 1 - start)
                return frames
            if data[end] != _COMMA:
                self._fail_malformed("has no comma after its last byte", frames)
            frames.append(data[colon + 1 : end])
            start = end + 1
        return frames

    def _length(self, head: bytes, frames: list[bytes]) -> int:
        """What the digits say, or would at least say with more of them behind."""
        if not head:
            self._fail_malformed("has no length before its colon", frames)
        digits = len(head) - len(head.lstrip(b"0123456789"))
        # From the first byte to the last, so that a head which is wrong twice is refused with the
        # same sentence wherever it was cut.
        if head.startswith(b"0") and len(head) > 1:
            self._fail_malformed("has a length that begins with 0", frames)
        length = int(head[:digits] or b"0")
        if length > self._max:
            self._fail_too_long(f"{self._max + 1} bytes or more", frames)
        if digits < len(head):
            self._fail_malformed("has a length that is no decimal number", frames)
        return length

    def _fail_malformed(self, what: str, frames: list[bytes]) -> NoReturn:
        self._fail(
            f"a netstring was received that {what}: the peer sends something else, or another "
            "framing",
            frames,
        )
