"""Deadlines: one sweep looks at whatever has a deadline, so that nothing needs a timer of its own.

A connection has several deadlines at once, and most of them move with every byte that it receives.
With a timer for each, a byte would cost more for moving timers than for being received. So whoever
has deadlines keeps them as plain numbers, and asks to be looked at when the first of them may be
due. It is looked at then (`Watched.deadline_reached`) and says when to look again, which is later
where the deadline has moved meanwhile. Who moves it tells nobody.

The wheel. Time is divided into ticks of 0.1 seconds, and whoever is to be looked at in the same
tick stands in the same bucket. There is one timer, for the first bucket that holds somebody, and
none while nobody is watched. So a look comes at its time or up to a tick late, plus what the loop
is late. Never early: "not yet" would cost a second look.

A day has 864 000 ticks, and nearly each could get a bucket of its own. So far away the grid is
coarse: who is more than 1024 ticks ahead is put on the last multiple of 2, 4, 8... ticks before its
time, the more the farther, and moved on from there when that comes up, without being looked at.
From a day ahead one move leads to the exact tick, from years three. So there are a few thousand
buckets at most, however many are watched. To be watched until later than before moves nothing
either: the new time is noted, and the old bucket moves it on.

The slice. Thousands may be due at once, after an attack as well as after the machine has slept. A
turn of the loop looks at 256, for 5 ms at most, and the others have their turn in the next ones,
in between the sockets. Ticks that have passed empty are not walked through: the buckets are found
by a heap.

What may happen while one is looked at: it or anybody else may be watched, forgotten or destroyed,
and everything may be closed. Who has been forgotten is never looked at and not held either, also in
the middle of a slice. Where one was watched or forgotten during its own look, that stands and what
it returns does not count. What it raises is logged, and the others have their turn.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Final, Protocol

from ginsfsm.clock import TimerHandle
from ginsfsm.logs.fields import about

__all__ = ["Deadlines", "Watched"]

logger: Final = logging.getLogger("ginsfsm")

TICKS: Final = 10
"""Ticks of a second. Seconds are multiplied by it, for 0.1 is no exact number in a float."""

SLICE: Final = 256
"""Looked at in one turn of the loop."""

SECONDS: Final = 0.005
"""Seconds after which a turn looks at no more. To end a connection, with the line in the log and
what its owner does then, may take a tenth of a millisecond."""

FINE: Final = 1024
"""Ticks ahead up to which each has its own bucket; above, the grid is finer than 1/512 of them."""

FAR: Final = 1 << 32
"""Ticks, 13 years. Who is to be looked at later is moved on from here."""

SHORTEST: Final = 0.001
"""Seconds of a timer that is set anew because the loop, which may count in milliseconds, called a
little early. A shorter one would be called at once again, until the tick has come."""

SPARSE: Final = 64
"""Above so many, a bucket that has been left by seven of eight is made small again: a dictionary
keeps the size that it has had, and a bucket may be a day away."""


class Watched(Protocol):
    """Who has a deadline. It is known by its hash, which for a gobj is its identity."""

    def deadline_reached(self, now: float) -> float | None:
        """The time at which it was to be looked at has come.

        Args:
            now: the time of the clock, in seconds.

        Returns:
            When to look again, or None for never. A time that has passed is the next tick.
        """


class _Bucket(dict[Watched, float]):
    """Those who are due in one tick, or moved on then, each with its time."""

    __slots__ = ("most", "tick")

    def __init__(self, tick: float) -> None:
        self.tick = tick
        # How many it has held, so far as is known.
        self.most = 0

    def leave(self, item: Watched) -> None:
        """Take one out."""
        del self[item]
        size = len(self)
        if size > self.most:
            self.most = size
        elif size * 8 < self.most and self.most > SPARSE:
            rest = dict(self)
            self.clear()
            self.update(rest)
            self.most = size


class Arrival(Watched, Protocol):
    """Who may be gone before it is looked at first."""

    destroyed: bool


class _Arrivals:
    """Those who came in the tick that passes now."""

    __slots__ = ("_deadlines", "due", "items")

    def __init__(self, deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        # A dictionary, so that one who goes is out at once: thousands that are held until the tick
        # is over, where a server is busy, would push what it works on out of the caches.
        self.items: dict[Arrival, None] = {}
        self.due = False

    def deadline_reached(self, now: float) -> float | None:
        items, self.items, self.due = self.items, {}, False
        for item in items:
            if not item.destroyed:
                self._deadlines.watch(item, now)
        return None


class Deadlines:
    """Whoever is to be looked at, and when.

    One that is watched takes two entries of dictionaries and its time, about 150 bytes.

    Args:
        call_later: sets a timer, as `Clock.call_later`.
        time: tells the time in seconds, as `Clock.time`.
    """

    __slots__ = (
        "_arrivals",
        "_bucket_of",
        "_buckets",
        "_call_later",
        "_closed",
        "_looked_at",
        "_next",
        "_ticks",
        "_time",
        "_timer",
    )

    def __init__(
        self,
        call_later: Callable[[float, Callable[[], object]], TimerHandle],
        time: Callable[[], float],
    ) -> None:
        self._call_later = call_later
        self._time = time
        self._bucket_of: dict[Watched, _Bucket] = {}
        self._buckets: dict[int, _Bucket] = {}
        # A heap of the keys of the buckets.
        self._ticks: list[int] = []
        # Where the one stands that is being looked at; later than anything, so it is moved at once.
        self._looked_at = _Bucket(math.inf)
        self._timer: TimerHandle | None = None
        # The tick that the timer is for; after all ticks where there is none.
        self._next = math.inf
        self._closed = False
        self._arrivals = _Arrivals(self)

    def watch(self, item: Watched, when: float) -> None:
        """Look at it then, and not at the time that was said before.

        Args:
            item: who. It is held until it has been forgotten or said that it is to be.
            when: seconds of the clock; what has passed is the next tick, infinity is never.

        Raises:
            ValueError: `when` is not a number. Nothing has changed.
        """
        if when != when:
            raise ValueError(f"watch: {item!r}: expected a time in seconds, got {when!r}")
        if self._closed:
            return
        now = self._time()
        tick = _tick(when, now)
        bucket = self._bucket_of.get(item)
        if bucket is not None:
            if bucket.tick <= tick:
                # It is moved on when that comes up.
                bucket[item] = when
                return
            bucket.leave(item)
        self._place(item, when, tick)
        if tick < self._next:
            self._set_timer(now)

    def soon(self, item: Arrival) -> None:
        """Look at it within two ticks, unless it is forgotten or destroyed by then.

        Most connections of a busy server are gone before a tick has passed, and need never be
        placed.
        """
        arrivals = self._arrivals
        arrivals.items[item] = None
        if not arrivals.due:
            if self._closed:
                arrivals.items.clear()
                return
            arrivals.due = True
            self.watch(arrivals, 0.0)

    def forget(self, item: Watched) -> None:
        """Look at it no more, and do not hold it. Idempotent."""
        arrivals = self._arrivals
        if arrivals.due:
            arrivals.items.pop(item, None)  # type: ignore[call-overload]
        bucket = self._bucket_of.pop(item, None)
        if bucket is None:
            return
        bucket.leave(item)
        if not self._bucket_of:
            self._clear()

    def close(self) -> None:
        """Forget all, and watch nobody any more: the clock is going away. Idempotent."""
        self._closed = True
        self._arrivals.items.clear()
        self._arrivals.due = False
        self._bucket_of.clear()
        self._looked_at.clear()
        self._clear()

    def __len__(self) -> int:
        """How many are watched; the one that is being looked at is among them."""
        return len(self._bucket_of)

    def __bool__(self) -> bool:
        """Always true, as for anything that may be shared while it is empty."""
        return True

    def _clear(self) -> None:
        self._buckets.clear()
        self._ticks.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._next = math.inf

    def _place(self, item: Watched, when: float, tick: int) -> None:
        bucket = self._buckets.get(tick)
        if bucket is None:
            bucket = self._buckets[tick] = _Bucket(tick)
            heappush(self._ticks, tick)
        bucket[item] = when
        self._bucket_of[item] = bucket

    def _sweep(self) -> None:
        # `_next` stays as it is until the end: whoever is watched meanwhile comes after it.
        self._timer = None
        now = self._time()
        due = int(now * TICKS)
        end = time.monotonic() + SECONDS
        try:
            for _ in range(SLICE):
                bucket = self._first()
                if bucket is None or bucket.tick > due:
                    break
                # The last one, because a dictionary finds its first one by walking over the gaps.
                item, when = bucket.popitem()
                if when > now:
                    self._place(item, when, _tick(when, now))
                else:
                    self._look(item, now)
                    if time.monotonic() >= end:
                        break
        finally:
            # Also where the program is being interrupted: it may go on.
            self._next = math.inf
            self._set_timer(now)

    def _look(self, item: Watched, now: float) -> None:
        looked_at = self._looked_at
        looked_at[item] = now
        self._bucket_of[item] = looked_at
        again: float | None = None
        tick = 0
        try:
            again = item.deadline_reached(now)
            if again is not None:
                tick = _tick(again, now)
        except Exception:
            again = None
            logger.exception(
                "%s: looking at its deadlines failed; it is watched no longer",
                getattr(item, "path", None) or repr(item),
                extra=about(path=getattr(item, "path", None)),
            )
        finally:
            # Else it was forgotten, or watched anew, or all was closed.
            if looked_at.pop(item, None) is not None:
                if again is None:
                    del self._bucket_of[item]
                else:
                    self._place(item, again, tick)

    def _first(self) -> _Bucket | None:
        """The first bucket that holds somebody; those before it are thrown away."""
        ticks = self._ticks
        while ticks:
            bucket = self._buckets[ticks[0]]
            if bucket:
                return bucket
            del self._buckets[heappop(ticks)]
        return None

    def _set_timer(self, now: float) -> None:
        """Set the timer for the first bucket that holds somebody."""
        bucket = self._first()
        if bucket is None:
            return
        wait = bucket.tick / TICKS - now
        timer = self._call_later(max(wait, SHORTEST) if wait > 0 else 0.0, self._sweep)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = timer
        self._next = bucket.tick


def _tick(when: float, now: float) -> int:
    """The tick in which to look at what is due at some time, or to move it on towards it."""
    current = int(now * TICKS)
    ahead = (when - now) * TICKS
    if ahead <= 0:
        return current + 1
    if ahead <= FINE:
        return max(math.ceil(when * TICKS), current + 1)
    if ahead >= FAR:
        return current + FAR
    tick = math.ceil(when * TICKS)
    shift = (int(ahead) // FINE).bit_length()
    return tick >> shift << shift
