"""LoopClock: the time of a gaplic, and its timers.

A gaplic asks its clock for two things: what time it is, and to be called later. The clock of a
running program is its loop's. Timers that are set before the loop runs start when it does, so a
tree can be built first. Tests put another clock here and move it by hand.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import time
from collections.abc import Callable
from typing import Final, Protocol

__all__ = ["Clock", "LoopClock", "TimerHandle"]


class TimerHandle(Protocol):
    """A timer that has been set."""

    def cancel(self) -> None:
        """Do not call back; nothing happens where it has called back already."""


RESOLUTION: Final = 0.001
"""Seconds; uvloop counts in milliseconds, and rounds."""

TURN: Final = 0.005
"""Seconds of timers after which a turn of the loop calls no more."""


class Clock(Protocol):
    """What a gaplic needs of time, in seconds."""

    def time(self) -> float:
        """Seconds from some fixed moment; never goes back."""

    def call_later(self, seconds: float, callback: Callable[[], object]) -> TimerHandle:
        """Call back once, so many seconds from now; from the start where it does not run yet.

        Raises:
            ValueError: `seconds` is a NaN. Nothing has been set.
        """

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """The loop runs: start the timers that wait for it."""

    def stop(self) -> None:
        """The loop is going away: no timer calls back any more."""


class _Timer:
    """A timer of a `LoopClock`; it waits until there is a loop."""

    __slots__ = ("_callback", "_clock", "number", "when")

    def __init__(self, clock: LoopClock, number: int, callback: Callable[[], object]) -> None:
        self._clock = clock
        self._callback: Callable[[], object] | None = callback
        self.number = number
        self.when = 0.0

    def __lt__(self, other: _Timer) -> bool:
        if self.when != other.when:
            return self.when < other.when
        return self.number < other.number

    @property
    def live(self) -> bool:
        """Whether it has still to call back."""
        return self._callback is not None

    def take(self) -> Callable[[], object] | None:
        """What to call now; it is called once."""
        callback, self._callback = self._callback, None
        return callback

    def cancel(self) -> None:
        if self._callback is not None:
            self._callback = None
            self._clock.cancelled()


class LoopClock:
    """The clock of an asyncio loop.

    Of all timers only the next one is known to the loop. Those that are due together are called
    a few in a turn, so that ten thousand clients that ran out of time at once hold up nobody; and
    a timer is one object, where one of the loop's is seven and the garbage collector looks at all.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._heap: list[_Timer] = []
        """Those cancelled among them, until there are many. Before the start, `when` is a span."""
        self._dead = 0
        self._count = 0
        self._next: asyncio.TimerHandle | asyncio.Handle | None = None
        self._next_at = math.inf
        self._running = False

    @property
    def timers(self) -> list[_Timer]:
        """Those that have still to call back."""
        return [timer for timer in self._heap if timer.live]

    def time(self) -> float:
        """See `Clock`. Both clocks behind it are the machine's monotonic one."""
        return time.monotonic() if self._loop is None else self._loop.time()

    def call_later(self, seconds: float, callback: Callable[[], object]) -> TimerHandle:
        """See `Clock`."""
        if seconds != seconds:
            # It compares with nothing, so those behind it in the heap would wait for ever.
            raise ValueError(f"call_later: expected a number of seconds, got {seconds!r}")
        self._count += 1
        timer = _Timer(self, self._count, callback)
        loop = self._loop
        # Added also where there is no loop yet: what is no number is refused before it is kept.
        timer.when = (0.0 if loop is None else loop.time()) + seconds
        heapq.heappush(self._heap, timer)
        if loop is not None and timer.when < self._next_at and not self._running:
            self._wake_at_next(loop)
        return timer

    def cancelled(self) -> None:
        """A timer in the heap has been cancelled."""
        self._dead += 1
        if self._dead > 100 and self._dead > len(self._heap) // 2 and not self._running:
            self._heap = self.timers
            heapq.heapify(self._heap)
            self._dead = 0

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """See `Clock`."""
        self._loop = loop
        now = loop.time()
        for timer in self._heap:
            timer.when += now
        self._wake_at_next(loop)

    def stop(self) -> None:
        """See `Clock`."""
        self._loop = None
        heap, self._heap = self._heap, []
        self._dead = 0
        for timer in heap:
            timer.take()
        if self._next is not None:
            self._next.cancel()
            self._next = None
        self._next_at = math.inf

    def _wake_at_next(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._next is not None:
            self._next.cancel()
            self._next = None
        self._next_at = math.inf
        heap = self._heap
        while heap and not heap[0].live:
            heapq.heappop(heap)
            self._dead -= 1
        if heap:
            self._next_at = heap[0].when
            self._next = loop.call_at(self._next_at, self._run)

    def _run(self) -> None:
        loop = self._loop
        if loop is None:
            return
        heap = self._heap
        # A loop may be early by its resolution.
        due = loop.time() + RESOLUTION
        end = time.monotonic() + TURN
        # What a timer sets anew stands behind this number, and waits for the next turn.
        last = self._count
        self._next = None
        self._running = True
        try:
            while heap and heap[0].when <= due and heap[0].number <= last:
                callback = heapq.heappop(heap).take()
                if callback is None:
                    self._dead -= 1
                    continue
                callback()
                heap = self._heap
                if time.monotonic() >= end:
                    break
        finally:
            self._running = False
            if self._loop is not None:
                self._wake_at_next(self._loop)
