"""Cutter: what all framings of the library share, and the error that they raise.

See `framing` for what a framing is.
"""

from __future__ import annotations

from typing import NoReturn

__all__ = ["Cutter", "FrameError"]


class FrameError(ValueError):
    """A frame that cannot be: too long, or malformed.

    Attributes:
        frames: from `split` only, the whole frames that stood before the bad one, in order.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.frames: list[bytes] = []


class Cutter:
    """What all framings here share: the limit, and what is held of the next frame.

    Attributes:
        _held: the beginning of a frame. Once `split` has raised, one byte, so that the test which
            each call makes anyway finds the fault as well.
        _fault: what `split` raised, or nothing.
    """

    __slots__ = ("_fault", "_held", "_max")

    def __init__(self, max_frame: int) -> None:
        self._max = max_frame
        self._held = bytearray()
        self._fault = ""

    def rest(self) -> bytes:
        if self._fault:
            return b""
        held = bytes(self._held)
        self._held.clear()
        return held

    def _fail(self, sentence: str, frames: list[bytes]) -> NoReturn:
        """Refuse what was received after these frames, and whatever comes."""
        self._held = bytearray(1)
        self._fault = sentence
        error = FrameError(sentence)
        error.frames = frames
        raise error

    def _fail_again(self) -> None:
        if self._fault:
            raise FrameError(self._fault)

    def _check_size(self, frame: bytes) -> None:
        if len(frame) > self._max:
            raise FrameError(
                f"a frame of {len(frame)} bytes to send, more than max_frame={self._max}: send it "
                "in parts, or give both sides a larger max_frame"
            )
