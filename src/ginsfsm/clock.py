"""LoopClock: the time of a gaplic, and its timers.

A gaplic asks its clock for two things: what time it is, and to be called later. The clock of a
running program is its loop's. Timers that are set before the loop runs start when it does, so a
tree can be built first. Tests put another clock here and move it by hand.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

__all__ = ["Clock", "LoopClock", "TimerHandle"]


class TimerHandle(Protocol):
    """A timer that has been set."""

    def cancel(self) -> None:
        """Do not call back; nothing happens where it has called back already."""


class Clock(Protocol):
    """What a gaplic needs of time, in seconds."""

    def time(self) -> float:
        """Seconds from some fixed moment; never goes back."""

    def call_later(self, seconds: float, callback: Callable[[], object]) -> TimerHandle:
        """Call back once, so many seconds from now; from the start where it does not run yet."""

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """The loop runs: start the timers that wait for it."""

    def stop(self) -> None:
        """The loop is going away: no timer calls back any more."""


class _Timer:
    """A timer of a `LoopClock`; it waits until there is a loop."""

    __slots__ = ("_callback", "_clock", "_handle", "_seconds")

    def __init__(self, clock: LoopClock, seconds: float, callback: Callable[[], object]) -> None:
        self._clock = clock
        self._seconds = seconds
        self._callback = callback
        self._handle: asyncio.TimerHandle | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._handle = loop.call_later(self._seconds, self._call_back)

    def cancel(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._clock.timers.pop(self, None)

    def _call_back(self) -> None:
        self._clock.timers.pop(self, None)
        self._callback()


class LoopClock:
    """The clock of an asyncio loop."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self.timers: dict[_Timer, None] = {}

    def time(self) -> float:
        """See `Clock`. Both clocks behind it are the machine's monotonic one."""
        return time.monotonic() if self._loop is None else self._loop.time()

    def call_later(self, seconds: float, callback: Callable[[], object]) -> TimerHandle:
        """See `Clock`."""
        timer = _Timer(self, seconds, callback)
        self.timers[timer] = None
        if self._loop is not None:
            timer.start(self._loop)
        return timer

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """See `Clock`."""
        self._loop = loop
        for timer in list(self.timers):
            timer.start(loop)

    def stop(self) -> None:
        """See `Clock`."""
        for timer in list(self.timers):
            timer.cancel()
        self._loop = None
