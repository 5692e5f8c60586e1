"""Frames with a delimiter after each: lines, and whatever else ends with bytes of its own.

The end of a frame is where the delimiter stands first, so a frame that holds one cannot be sent.
What has come of a frame is not searched again when more of it comes, but for its last bytes: a
delimiter may have been cut in two.

A frame whose end has not come yet is refused as soon as its end would come too late. That is not
simply past `max_frame` bytes: what stands there may be the beginning of the delimiter.
"""

from __future__ import annotations

from typing import Final, NoReturn

from ginsfsm.net.cutter import Cutter, FrameError

__all__ = ["Delimited", "Lines"]


class Delimited(Cutter):
    """Frames with the same bytes after each; where these stand first is a frame's end."""

    __slots__ = ("_delimiter", "_overlap")

    def __init__(self, delimiter: bytes, max_frame: int) -> None:
        super().__init__(max_frame)
        self._delimiter = delimiter
        # So many bytes at the end of what is held may be the beginning of a delimiter.
        self._overlap = len(delimiter) - 1

    def split(self, data: bytes) -> list[bytes]:
        if self._held:
            return self._resume(data)
        frames = data.split(self._delimiter)
        held = frames.pop()
        if held or len(data) > self._max:
            self._check(frames, held, len(data))
        return frames

    def wrap(self, frame: bytes) -> bytes:
        self._check_size(frame)
        wire = frame + self._delimiter
        # Not only a delimiter within: "a|" and "||" after it would end one byte early.
        if wire.find(self._delimiter) != len(frame):
            raise FrameError(
                f"a frame of {len(frame)} bytes to send that holds the delimiter "
                f"{self._delimiter!r}, or makes one together with it: the receiver would cut it "
                "there; escape it, or take a framing that sends the length, such as 'uint32'"
            )
        return wire

    def _check(self, frames: list[bytes], held: bytes, size: int) -> None:
        """Refuse what is too long, and hold what is left.

        Args:
            frames: they may be too long; those that stand before such a one are not.
            held: the beginning of one more.
            size: of all together; they are looked at only if one of them can be too long.
        """
        if size > self._max:
            for number, frame in enumerate(frames):
                if len(frame) > self._max:
                    self._fail_too_long(frames[:number])
            if len(held) > self._max and not self._may_end(len(held), held):
                self._fail_too_long(frames)
        self._held += held

    def _resume(self, data: bytes) -> list[bytes]:
        """Cut what goes on with the frame of which a part is held."""
        self._fail_again()
        if not data:
            return []
        held = self._held
        # A delimiter may have been cut in two.
        tail = bytes(held[-self._overlap :]) if self._overlap else b""
        window = tail + data
        found = window.find(self._delimiter)
        if found < 0:
            length = len(held) + len(data)
            # Before it is kept, so that no more is kept than a frame and its delimiter may have.
            if length > self._max and not self._may_end(length, window):
                self._fail_too_long([])
            held += data
            return []
        length = len(held) - len(tail) + found
        held += window[len(tail) : found]
        frame = self._without_end(bytes(held[:length]))
        if len(frame) > self._max:
            self._fail_too_long([])
        held.clear()
        following = window[found + len(self._delimiter) :]
        if not following:
            return [frame]
        try:
            return [frame, *self.split(following)]
        except FrameError as error:
            error.frames.insert(0, frame)
            raise

    def _without_end(self, frame: bytes) -> bytes:
        """A frame without what belongs to its end besides the delimiter."""
        return frame

    def _may_end(self, length: int, tail: bytes) -> bool:
        """Whether a frame of which more than the limit has come may still end in time.

        Args:
            length: how many bytes have come.
            tail: the last of them, as many as a delimiter may have begun in.
        """
        # A delimiter must have begun after max_frame bytes at the latest.
        latest = self._max - (length - len(tail))
        first = max(0, len(tail) - self._overlap)
        return any(self._delimiter.startswith(tail[at:]) for at in range(first, latest + 1))

    def _fail_too_long(self, frames: list[bytes]) -> NoReturn:
        self._fail(
            f"a frame of more than max_frame={self._max} bytes was received, or its delimiter "
            f"{self._delimiter!r} does not come: the peer sends something else, or needs a larger "
            "max_frame",
            frames,
        )


_CR: Final = ord("\r")
_LF: Final = ord("\n")
"""As numbers, since `in` takes several times as long with bytes."""


class Lines(Delimited):
    """Frames with LF after each; a CR before it belongs to the end and not to the frame."""

    __slots__ = ()

    def __init__(self, max_frame: int) -> None:
        super().__init__(b"\n", max_frame)

    def split(self, data: bytes) -> list[bytes]:
        if self._held:
            return self._resume(data)
        frames = data.split(b"\n")
        held = frames.pop()
        if _CR in data:
            # A comprehension costs as much to set up as three lines take in it.
            if len(frames) == 1:
                frames[0] = frames[0].removesuffix(b"\r")
            else:
                frames = [frame.removesuffix(b"\r") for frame in frames]
        if held or len(data) > self._max:
            self._check(frames, held, len(data))
        return frames

    def wrap(self, frame: bytes) -> bytes:
        if len(frame) <= self._max and _LF not in frame and frame[-1:] != b"\r":
            return frame + b"\n"
        if frame.endswith(b"\r"):
            raise FrameError(
                f"a frame of {len(frame)} bytes to send with CR at its end, which a receiver of "
                "lines removes: leave it out, or take the framing 'crlf'"
            )
        return super().wrap(frame)

    def _without_end(self, frame: bytes) -> bytes:
        return frame.removesuffix(b"\r")

    def _may_end(self, length: int, tail: bytes) -> bool:
        return length == self._max + 1 and tail.endswith(b"\r")
