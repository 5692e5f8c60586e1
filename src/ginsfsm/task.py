"""Task: a coroutine that a gobj runs beside its machine."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec

from ginsfsm.errors import EventError
from ginsfsm.event import Event
from ginsfsm.logs.fields import about

if TYPE_CHECKING:
    from ginsfsm.gobj import GObj

__all__ = ["Task", "check_done"]

logger: Final = logging.getLogger("ginsfsm")

PATIENCE: Final = 5
"""Seconds after which a gaplic that ends says which coroutine it waits for, and says it again."""


class Task:
    """A coroutine of a gobj. It ends with one event to that gobj, or cancelled and without one."""

    __slots__ = ("_cancelled", "_coroutine", "_done", "_task", "gobj")

    def __init__(
        self, gobj: GObj, coroutine: Coroutine[Any, Any, Any], done: type[Event] | None
    ) -> None:
        self.gobj = gobj
        self._coroutine = coroutine
        self._done = done
        self._task: asyncio.Task[Any] | None = None
        self._cancelled = False

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """The loop runs: so does the coroutine, from its next turn on.

        A loop that has asyncio's eager tasks runs it here and now, up to where it first waits.
        """
        self._task = loop.create_task(self._coroutine, name=f"{self.gobj.path}: spawned")
        self._task.add_done_callback(self._ended)
        if self._cancelled:
            self._task.cancel()

    def cancel(self) -> None:
        """End the coroutine; its gobj gets no event."""
        self._cancelled = True
        if self.gobj._tasks is not None:
            self.gobj._tasks.discard(self)
        if self._task is None and getattr(self._coroutine, "cr_running", False):
            # It runs within `start`, which cancels it then.
            pass
        elif self._task is None:
            # Never started, and Python would complain that nobody awaited it.
            self._coroutine.close()
            self.gobj.gaplic.forget_task(self)
        else:
            self._task.cancel()

    def finish(self, result: object, error: BaseException | None) -> None:
        """Let a coroutine that has not started end like this, without running. For tests."""
        self._coroutine.close()
        self._finished(result, error)

    async def ended(self) -> None:
        """Wait until a started coroutine has ended, however it ends."""
        task = self._task
        while task is not None and not task.done():
            await asyncio.wait([task], timeout=PATIENCE)
            if not task.done():
                logger.warning(
                    "%s: a spawned coroutine was cancelled and has not ended after %d seconds; "
                    "the gaplic waits for it: %r",
                    self.gobj.path,
                    PATIENCE,
                    self._coroutine,
                    extra=about(self.gobj, seconds=PATIENCE),
                )

    def _ended(self, task: asyncio.Task[Any]) -> None:
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        self._finished(None if error is not None else task.result(), error)

    def _finished(self, result: object, error: BaseException | None) -> None:
        gobj = self.gobj
        gaplic = gobj.gaplic
        if gobj._tasks is not None:
            gobj._tasks.discard(self)
        gaplic.forget_task(self)
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            # The loop raises these itself.
            return
        if self._cancelled or gobj.destroyed or self._done is None:
            # A coroutine that fails while it is being cancelled has nobody else to tell.
            if isinstance(error, Exception):
                gaplic.contain(error, gobj, None, "a spawned coroutine")
            return
        try:
            event = self._done(result=result, error=error)
        except Exception as fault:
            gaplic.contain(fault, gobj, None, f"making {self._done.__name__}")
            return
        event.source = gobj
        # Measured like every other turn of the loop.
        gaplic.run_contained(gobj, partial(gaplic.deliver_contained, gobj, event))


def check_done(gobj: GObj, done: type[Event]) -> None:
    """Raise EventError unless a gobj can get this event when its coroutine has ended."""
    if not (isinstance(done, type) and issubclass(done, Event)):
        raise EventError(f"{gobj.path}: spawn(done={done!r}): expected an event class")
    fields = done.__struct_fields__
    given = {"result", "error"}
    needed = {one.name for one in msgspec.structs.fields(done) if one.required}
    if not given <= set(fields) or not needed <= given:
        raise EventError(
            f"{gobj.path}: spawn(done={done.__name__}): the event needs the fields 'result' and "
            f"'error', and a default for any other; it has {', '.join(fields) or 'none'}"
        )
    gobj.compiled.check_accepts(done)
