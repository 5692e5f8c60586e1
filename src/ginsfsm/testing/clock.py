"""ManualClock: a clock that a test moves by hand."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from ginsfsm.seconds import is_seconds

__all__ = ["ManualClock"]

NANOSECONDS = 1_000_000_000
"""Time is kept in whole nanoseconds: ten steps of 0.1 seconds must make one second."""

ROUNDS = 1000
"""How often timers may fire at one moment; one that sets itself anew with 0 seconds has no end."""


class _Timer:
    """A timer of a `ManualClock`."""

    __slots__ = ("_clock", "callback", "due")

    def __init__(self, clock: ManualClock, due: int, callback: Callable[[], object]) -> None:
        self._clock = clock
        self.due = due
        self.callback = callback

    def cancel(self) -> None:
        self._clock._timers.pop(self, None)


class ManualClock:
    """The time of a test; it stands still until `advance` moves it.

    It can be given to any gaplic, `GAplic("app", clock=clock)`, also to one that runs in a real
    loop with real sockets.

    Args:
        start: what `time` says first, in seconds.

    Raises:
        ValueError: `start` is no finite number.
    """

    def __init__(self, start: float = 0.0) -> None:
        if not is_seconds(start) or math.isinf(start):
            raise ValueError(f"start: expected a finite number of seconds, got {start!r}")
        self._now = round(start * NANOSECONDS)
        self._timers: dict[_Timer, None] = {}

    def time(self) -> float:
        """See `ginsfsm.clock.Clock`."""
        return self._now / NANOSECONDS

    def call_later(self, seconds: float, callback: Callable[[], object]) -> _Timer:
        """See `ginsfsm.clock.Clock`."""
        if seconds != seconds:
            raise ValueError(f"call_later: expected a number of seconds, got {seconds!r}")
        # Never is a time that no test reaches.
        wait = min(max(0.0, seconds), 1e12)
        timer = _Timer(self, self._now + round(wait * NANOSECONDS), callback)
        self._timers[timer] = None
        return timer

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """See `ginsfsm.clock.Clock`. The loop's time is not this clock's."""

    def stop(self) -> None:
        """See `ginsfsm.clock.Clock`."""
        self._timers.clear()

    def next_due(self) -> float | None:
        """In how many seconds the next timer fires; None where none is set."""
        if not self._timers:
            return None
        return (min(timer.due for timer in self._timers) - self._now) / NANOSECONDS

    def advance(self, seconds: float, between: Callable[[], object] | None = None) -> int:
        """Let so much time pass: every timer that is due on the way fires, at its own time.

        Args:
            seconds: how much; 0 fires what is due now.
            between: called before the time begins to pass, and after the timers of each moment
                have fired.

        Returns:
            How many timers fired.

        Raises:
            ValueError: when `seconds` is negative, endless or no number.
            AssertionError: when timers set one another anew at one moment without end.
        """
        if not is_seconds(seconds) or not 0 <= seconds < math.inf:
            raise ValueError(f"advance: expected seconds, 0 or more and finite, got {seconds!r}")
        if between is not None:
            between()
        end = self._now + round(seconds * NANOSECONDS)
        fired = rounds = 0
        while due := [timer for timer in self._timers if timer.due <= end]:
            moment = max(self._now, min(timer.due for timer in due))
            rounds = rounds + 1 if moment == self._now else 0
            if rounds > ROUNDS:
                raise AssertionError(
                    f"timers fired {rounds} times at {self.time()} seconds, and more are due; "
                    "does one set itself anew with 0 seconds?"
                )
            self._now = moment
            # Those of one moment fire in one turn of the loop, in the order of their times and
            # then in the order in which they were set; what they set anew waits for the next turn.
            for timer in sorted(due, key=lambda timer: timer.due):
                if timer.due <= moment and timer in self._timers:
                    del self._timers[timer]
                    fired += 1
                    timer.callback()
            if between is not None:
                between()
        self._now = end
        return fired
