"""OutputQueue: the bytes that wait for a peer to take them.

A queue of pieces, so that one gathered system call sends many and a large message is never copied.
Small payloads share a block: an object of its own for each would take up to thirty times the bytes
that a limit on the size counts. What is partly sent is kept as a view of its rest.
"""

from collections import deque
from itertools import islice
from typing import Final

__all__ = ["OutputQueue"]

IOV_SIZE: Final = 256
"""Pieces given to one gathered send; every system takes so many (Linux 1024)."""

SMALL: Final = 1024
"""Payloads below this share a block."""

BLOCK: Final = 64 * 1024
"""A block grows to this."""


class OutputQueue:
    """Bytes in order of sending.

    Attributes:
        size: how many bytes wait.
        full: the size has passed the owner's high-water mark and not fallen under its low one yet;
            the owner sets it.
    """

    __slots__ = ("_pieces", "full", "size")

    def __init__(self) -> None:
        self._pieces: deque[bytes | bytearray | memoryview] = deque()
        self.size = 0
        self.full = False

    def append(self, data: bytes | memoryview) -> None:
        """Add bytes at the end. They must not change any more; a view keeps its base alive."""
        pieces = self._pieces
        size = len(data)
        if size >= SMALL:
            pieces.append(data)
        elif pieces and type(last := pieces[-1]) is bytearray and len(last) < BLOCK:
            last += data
        elif size:
            pieces.append(bytearray(data))
        self.size += size

    def first(self) -> list[bytes | bytearray | memoryview]:
        """The pieces for one gathered send."""
        return list(islice(self._pieces, IOV_SIZE))

    def sent(self, count: int) -> None:
        """So many bytes have been taken; forget them."""
        self.size -= count
        pieces = self._pieces
        while count:
            first = pieces[0]
            if count < len(first):
                # Also of a block of small payloads, which nobody extends any more then.
                pieces[0] = memoryview(first)[count:]
                return
            count -= len(first)
            pieces.popleft()
