"""Kind limit: so many records of one kind a minute, so that an attack cannot fill the disk.

Records of one kind come from one place in the code: the same logger, level and format string, and
with an exception the same class and line. The first ones of an interval pass. The others are
counted, and when the interval is over one record of that level says how many there were and of
which kind. A thread waits for that moment, but only while something is held back.

It counts what this library and asyncio log, but for what an operator has asked for (`WHOLE`). What
a program logs by its own loggers is its own matter: its access log has one kind, too, and must be
whole.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from typing import Final

from ginsfsm.logs.plain_text import WHOLE

__all__ = ["KindLimit"]

MAX_KINDS: Final = 1000
"""Kinds that are counted apart; all others are one. This library has under a hundred, but who
formats his text before he logs it makes a kind of each."""

_OTHERS: Final = ("others",)


class _Interval:
    """What one kind has had since its interval began."""

    __slots__ = ("begin", "held_back", "level", "name", "passed", "text")

    def __init__(self, record: logging.LogRecord, text: str, now: float) -> None:
        self.name = record.name
        self.level = record.levelno
        self.text = text
        self.begin = now
        self.passed = 0
        self.held_back = 0


class KindLimit:
    """A filter for a handler that lets some records of each kind pass; one filter a handler.

    Args:
        tell: takes the records that say what was held back; the handler's `handle`.
        records: of one kind that pass in an interval.
        seconds: of an interval; it begins with the kind's first record.
        loggers: whose records are counted, with those below them; those of others pass.

    Attributes:
        held_back: records that were held back so far.
    """

    def __init__(
        self,
        tell: Callable[[logging.LogRecord], object],
        *,
        records: int = 100,
        seconds: float = 60.0,
        loggers: tuple[str, ...] = ("ginsfsm", "asyncio"),
    ) -> None:
        if records < 1 or seconds <= 0:
            raise ValueError(
                f"KindLimit(records={records!r}, seconds={seconds!r}): expected one record or more "
                "and more than 0 s; without a limit there is no filter"
            )
        self.held_back = 0
        self._tell = tell
        self._records = records
        self._seconds = seconds
        self._loggers = loggers
        self._prefixes = tuple(f"{name}." for name in loggers)
        self._kinds: dict[Hashable, _Interval] = {}
        # One that its own thread may take again: where an object that the garbage collector meets
        # in here logs its end, as tasks of asyncio do, it would wait for itself.
        self._lock = threading.RLock()
        self._timer: threading.Timer | None = None
        self._closed = False

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record passes; called by `logging`, in any thread."""
        if hasattr(record, "held_back") or record.name in WHOLE:
            # One of our own, or what was asked for.
            return True
        if record.name not in self._loggers and not record.name.startswith(self._prefixes):
            return True
        now = time.monotonic()
        with self._lock:
            over: list[logging.LogRecord] = []
            interval = self._interval(record, now)
            if now - interval.begin >= self._seconds:
                over.extend(self._end(interval))
                interval.begin, interval.passed = now, 0
            passes = interval.passed < self._records
            if passes:
                interval.passed += 1
            else:
                interval.held_back += 1
                self.held_back += 1
                self._wake_at_end_of(interval, now)
        self._tell_of(over)
        return passes

    def close(self) -> None:
        """Say now what has been held back; no thread is left."""
        with self._lock:
            self._closed = True
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            over = [one for each in list(self._kinds.values()) for one in self._end(each)]
        self._tell_of(over)

    def _interval(self, record: logging.LogRecord, now: float) -> _Interval:
        kind, text = _kind(record)
        found = self._kinds.get(kind)
        if found is not None:
            return found
        if len(self._kinds) >= MAX_KINDS:
            for old, one in list(self._kinds.items()):
                if now - one.begin >= self._seconds and not one.held_back:
                    del self._kinds[old]
        if len(self._kinds) >= MAX_KINDS:
            kind, text = _OTHERS, "records of many kinds"
        return self._kinds.setdefault(kind, _Interval(record, text, now))

    def _take_over(self, now: float) -> Iterator[logging.LogRecord]:
        """What is to be said of the intervals that are over."""
        # A list: a destructor that logs may add a kind meanwhile.
        for one in list(self._kinds.values()):
            if one.held_back and now - one.begin >= self._seconds:
                yield from self._end(one)

    def _end(self, interval: _Interval) -> Iterator[logging.LogRecord]:
        count, interval.held_back = interval.held_back, 0
        if count:
            record = logging.LogRecord(
                interval.name, interval.level, __file__, 0,
                "%d more like this were held back within %g s: %s",
                (count, self._seconds, interval.text), None,
            )  # fmt: skip
            record.held_back = count
            yield record

    def _wake_at_end_of(self, interval: _Interval, now: float) -> None:
        if self._timer is None and not self._closed:
            wait = max(0.0, interval.begin + self._seconds - now)
            self._timer = threading.Timer(wait, self._wake)
            self._timer.name = "ginsfsm log limit"
            # The process need not wait for it: `close` says what is left.
            self._timer.daemon = True
            self._timer.start()

    def _wake(self) -> None:
        with self._lock:
            self._timer = None
            now = time.monotonic()
            over = list(self._take_over(now))
            waiting = [one for one in self._kinds.values() if one.held_back]
            if waiting:
                self._wake_at_end_of(min(waiting, key=lambda one: one.begin), now)
        self._tell_of(over)

    def _tell_of(self, records: list[logging.LogRecord]) -> None:
        # Without the lock, since the handler has one of its own.
        for record in records:
            self._tell(record)


def _kind(record: logging.LogRecord) -> tuple[Hashable, str]:
    text = record.msg if isinstance(record.msg, str) else type(record.msg).__name__
    error, trace = (record.exc_info or (None, None, None))[:2], None
    if record.exc_info:
        trace = record.exc_info[2]
    line: Hashable = None
    while trace is not None:
        line, trace = (trace.tb_frame.f_code, trace.tb_lineno), trace.tb_next
    return (record.name, record.levelno, text, error[0], line), text
