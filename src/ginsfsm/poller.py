"""Poller: which descriptors are ready, inside any asyncio loop.

The descriptors stand in one epoll object of ours, and that object's descriptor is the only one that
the loop knows. When anything is ready the loop calls the poller once; the poller asks for all ready
descriptors and gives each its handler. Four rules keep that safe:

- All handlers of a batch are looked up before the first one runs. A descriptor that is closed and
  opened again within the batch would otherwise get what its predecessor was ready for. A handler
  that has closed meanwhile ignores the call.
- A descriptor that waits for nothing is taken out of epoll. With an empty mask it would still wake
  the loop for HUP and ERR, a hundred thousand times a second.
- What takes long (`defer_costly`) is rationed: a few calls in each turn of the loop, the others in
  the next ones, so that a thousand handshakes at once do not hold up those who talk already.
- The loop forgets the epoll object before that is closed, on every path: under uvloop a watched
  descriptor that is closed aborts the process.

Where there is no epoll, each descriptor is registered with the loop itself.
"""

from __future__ import annotations

import asyncio
import logging
import select
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

from ginsfsm.logs.fields import about

__all__ = ["EpollPoller", "Handler", "LoopPoller", "Poller", "READ", "WRITE"]

READ: Final = 1
"""The descriptor can be read, has ended or has failed. The same number as EPOLLIN."""

WRITE: Final = 4
"""The descriptor can be written. The same number as EPOLLOUT."""

BATCH: Final = 1000
"""Descriptors served in one turn of the loop, so that timers and posted events get theirs."""

COSTLY_CALLS: Final = 4
"""Costly calls in one turn. A signature of RSA takes half a millisecond: 3 000 handshakes at once
held up a loop that had no such limit for 436 ms."""

COSTLY_SECONDS: Final = 0.005
"""Seconds of costly calls after which a turn makes no more."""

logger: Final = logging.getLogger("ginsfsm")


class Handler(Protocol):
    """Who is called when a descriptor is ready."""

    def io_ready(self, mask: int) -> None:
        """Something is ready: `mask & WRITE` to write, any other bit to read."""

    def io_failed(self, error: Exception) -> None:
        """`io_ready` raised this."""


class Poller:
    """What both kinds have in common: the calls that wait for the end of the batch."""

    def __init__(self, time: Callable[[], float]) -> None:
        # The time of the batch, for whoever writes it down with each message.
        self.now = 0.0
        self._time = time
        self._loop: asyncio.AbstractEventLoop | None = None
        self.in_batch = False
        self.longest_turn: float | None = None
        """Seconds of the longest turn; None where nobody measures."""
        self._deferred: deque[Callable[[], None]] = deque()
        self._run_due = False
        self._costly: deque[Callable[[], None]] = deque()
        self._costly_due = False

    def register(self, fd: int, handler: Handler, mask: int) -> None:
        """Watch a descriptor for `READ`, `WRITE` or both, from now until `unregister`."""
        raise NotImplementedError

    def modify(self, fd: int, mask: int) -> None:
        """Watch a registered descriptor for something else; not for nothing: unregister it."""
        raise NotImplementedError

    def unregister(self, fd: int) -> None:
        """Watch the descriptor no longer. Call this before it is closed."""
        raise NotImplementedError

    def __len__(self) -> int:
        """How many descriptors are registered."""
        raise NotImplementedError

    def attach(
        self, loop: asyncio.AbstractEventLoop, time: Callable[[], float] | None = None
    ) -> None:
        """The loop runs: be called by it. `time` tells what it is, where another does it better."""
        self._loop = loop
        self._time = time or self._time
        self._schedule_deferred()
        self._schedule_costly()

    def close(self) -> None:
        """The loop need not call any more; give back the descriptor. Idempotent."""
        self._loop = None
        self._deferred.clear()
        self._costly.clear()

    def defer(self, callback: Callable[[], None]) -> None:
        """Call back at the end of the batch that runs now, or of the turn of the loop."""
        self._deferred.append(callback)
        if not self.in_batch:
            self._schedule_deferred()

    def defer_costly(self, callback: Callable[[], None]) -> None:
        """Call back soon, in turn with all others that take long; the callback must not raise."""
        self._costly.append(callback)
        self._schedule_costly()

    def _schedule_costly(self) -> None:
        if self._costly and not self._costly_due and self._loop is not None:
            self._costly_due = True
            self._loop.call_soon(self._run_costly)

    def _run_costly(self) -> None:
        self._costly_due = False
        end = time.monotonic() + COSTLY_SECONDS
        try:
            for _ in range(COSTLY_CALLS):
                if not self._costly:
                    break
                _call(self._costly.popleft())
                if time.monotonic() >= end:
                    break
        finally:
            self._schedule_costly()

    def _schedule_deferred(self) -> None:
        if self._deferred and not self._run_due and self._loop is not None:
            self._run_due = True
            self._loop.call_soon(self._run_scheduled)

    def _run_scheduled(self) -> None:
        self._run_due = False
        # One of them may deliver what was received earlier, and the last batch may be long ago.
        self.now = self._time()
        self._run_deferred()

    def _run_deferred(self) -> None:
        # What these calls defer in their turn waits for the next turn, so none starves the loop.
        try:
            for _ in range(len(self._deferred)):
                if not self._deferred:
                    # One of them ended the gaplic.
                    break
                _call(self._deferred.popleft())
        finally:
            self._schedule_deferred()

    def _run_batch(self, ready: list[tuple[Handler | None, int]]) -> None:
        self.in_batch = True
        self.now = self._time()
        try:
            for handler, mask in ready:
                if handler is not None:
                    try:
                        handler.io_ready(mask)
                    except Exception as error:
                        handler.io_failed(error)
        finally:
            self.in_batch = False
            if self._deferred:
                self._run_deferred()

    def measure(self) -> None:
        """Note from now on how long the longest turn takes. Without, nobody pays for that."""
        if self.longest_turn is None:
            self.longest_turn = 0.0
            self._run_batch = self._run_batch_measured  # type: ignore[method-assign]
            for name in ("_run_scheduled", "_run_costly"):
                setattr(self, name, self._measured(getattr(self, name)))

    def _run_batch_measured(self, ready: list[tuple[Handler | None, int]]) -> None:
        # `_run_batch` once more: a call of it would cost as much as the measuring, each message.
        self.in_batch = True
        self.now = start = self._time()
        if self._time is not time.monotonic:
            # The loop's time may be that of the beginning of its turn, and a test's stands still.
            start = time.monotonic()
        try:
            for handler, mask in ready:
                if handler is not None:
                    try:
                        handler.io_ready(mask)
                    except Exception as error:
                        handler.io_failed(error)
        finally:
            self.in_batch = False
            if self._deferred:
                self._run_deferred()
            took = time.monotonic() - start
            if took > (self.longest_turn or 0.0):
                self.longest_turn = took

    def _measured(self, run: Callable[[], None]) -> Callable[[], None]:
        def measured() -> None:
            start = time.monotonic()
            try:
                run()
            finally:
                took = time.monotonic() - start
                if took > (self.longest_turn or 0.0):
                    self.longest_turn = took

        return measured


def _call(callback: Callable[[], None]) -> None:
    try:
        callback()
    except Exception as error:
        # A callback contains what its user raises; this is a fault of our own.
        logger.exception("a deferred call failed: %r", callback, extra=about(error=error))


class EpollPoller(Poller):
    """All descriptors in one epoll object."""

    def __init__(self, time: Callable[[], float] = time.monotonic) -> None:
        super().__init__(time)
        # Opened with the first registration, which may fail; to defer a call must not.
        self._epoll: Any = None
        self._handlers: dict[int, Handler] = {}

    def register(self, fd: int, handler: Handler, mask: int) -> None:
        """See `Poller`."""
        if self._epoll is None:
            self._open()
        self._epoll.register(fd, mask)
        self._handlers[fd] = handler

    def modify(self, fd: int, mask: int) -> None:
        """See `Poller`."""
        self._epoll.modify(fd, mask)

    def unregister(self, fd: int) -> None:
        """See `Poller`."""
        # Closing would do, but for a descriptor that a child process has inherited by a fork.
        del self._handlers[fd]
        self._epoll.unregister(fd)

    def __len__(self) -> int:
        return len(self._handlers)

    def attach(
        self, loop: asyncio.AbstractEventLoop, time: Callable[[], float] | None = None
    ) -> None:
        """See `Poller`."""
        super().attach(loop, time)
        if self._epoll is not None:
            loop.add_reader(self._epoll.fileno(), self._ready)

    def _open(self) -> None:
        epoll = select.epoll()
        if self._loop is not None:
            try:
                self._loop.add_reader(epoll.fileno(), self._ready)
            except BaseException:
                epoll.close()
                raise
        self._epoll = epoll

    def close(self) -> None:
        """See `Poller`."""
        loop = self._loop
        super().close()
        if self._epoll is not None and not self._epoll.closed:
            if loop is not None and not loop.is_closed():
                loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
        self._handlers.clear()

    def _ready(self) -> None:
        events = self._epoll.poll(0, BATCH)
        if len(events) == 1:
            # As often as not, unless the server is busy; then a message need not pay for the list.
            fd, mask = events[0]
            self._run_batch([(self._handlers.get(fd), mask)])
        else:
            handler_of = self._handlers.get
            ready = []
            for fd, mask in events:
                # Not a comprehension, which is a call of its own up to Python 3.11.
                ready.append((handler_of(fd), mask))
            self._run_batch(ready)


class LoopPoller(Poller):
    """Each descriptor in the loop itself, for systems without epoll."""

    def __init__(self, time: Callable[[], float] = time.monotonic) -> None:
        super().__init__(time)
        self._handlers: dict[int, tuple[Handler, int]] = {}
        self._errors: Any = None

    def register(self, fd: int, handler: Handler, mask: int) -> None:
        """See `Poller`."""
        if self._loop is not None:
            self._watch(self._loop, fd, 0, mask)
        self._handlers[fd] = (handler, mask)

    def modify(self, fd: int, mask: int) -> None:
        """See `Poller`."""
        handler, before = self._handlers[fd]
        self._handlers[fd] = (handler, mask)
        if self._loop is not None:
            self._watch(self._loop, fd, before, mask)

    def unregister(self, fd: int) -> None:
        """See `Poller`."""
        _, before = self._handlers.pop(fd)
        if self._loop is not None:
            self._watch(self._loop, fd, before, 0)

    def __len__(self) -> int:
        return len(self._handlers)

    def attach(
        self, loop: asyncio.AbstractEventLoop, time: Callable[[], float] | None = None
    ) -> None:
        """See `Poller`."""
        super().attach(loop, time)
        if not isinstance(loop, asyncio.SelectorEventLoop) and hasattr(select, "poll"):
            self._errors = select.poll()
        for fd, (_, mask) in self._handlers.items():
            self._watch(loop, fd, 0, mask)

    def close(self) -> None:
        """See `Poller`."""
        loop = self._loop
        super().close()
        if loop is not None and not loop.is_closed():
            for fd, (_, mask) in self._handlers.items():
                self._watch(loop, fd, mask, 0)
        self._handlers.clear()

    def _watch(self, loop: asyncio.AbstractEventLoop, fd: int, before: int, mask: int) -> None:
        # The loop cancels a removed callback that it has scheduled already, so nothing stale runs.
        if mask & READ and not before & READ:
            loop.add_reader(fd, self._ready, fd, READ)
        elif before & READ and not mask & READ:
            loop.remove_reader(fd)
        if mask & WRITE and not before & WRITE:
            loop.add_writer(fd, self._ready, fd, WRITE)
        elif before & WRITE and not mask & WRITE:
            loop.remove_writer(fd)

    def _ready(self, fd: int, mask: int) -> None:
        found = self._handlers.get(fd)
        if found is not None and found[1] & mask:
            if self._errors is not None and self._loop is not None and self._has_failed(fd):
                self._loop.call_soon(self._watch_again, fd)
            self._run_batch([(found[0], mask)])

    def _has_failed(self, fd: int) -> bool:
        self._errors.register(fd, 0)
        try:
            return any(events & select.POLLERR for _, events in self._errors.poll(0))
        finally:
            self._errors.unregister(fd)

    def _watch_again(self, fd: int) -> None:
        # libuv gives up a descriptor that has an error: uvloop calls back once more and never
        # again, though there may be input left to read, and the error after it.
        found = self._handlers.get(fd)
        if found is not None and self._loop is not None:
            self._watch(self._loop, fd, found[1], 0)
            self._watch(self._loop, fd, 0, found[1])
