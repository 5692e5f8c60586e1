"""Task: a coroutine that a gobj runs beside its machine."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from ginsfsm.errors import EventError

if TYPE_CHECKING:
    from ginsfsm.event import Event
    from ginsfsm.gobj import GObj

__all__ = ["Task"]


class Task:
    """A coroutine of a gobj. It ends with one event to that gobj, or cancelled and without one."""

    __slots__ = ("_cancelled", "_coroutine", "_done", "_gobj", "_task")

    def __init__(
        self, gobj: GObj, coroutine: Coroutine[Any, Any, Any], done: type[Event] | None
    ) -> None:
        self._gobj = gobj
        self._coroutine = coroutine
        self._done = done
        self._task: asyncio.Task[Any] | None = None
        self._cancelled = False

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """The loop runs: so does the coroutine, from its next turn on."""
        self._task = loop.create_task(self._coroutine, name=f"{self._gobj.path}: spawned")
        self._task.add_done_callback(self._ended)

    def cancel(self) -> None:
        """End the coroutine; its gobj gets no event."""
        self._cancelled = True
        if self._gobj._tasks is not None:
            self._gobj._tasks.discard(self)
        if self._task is None:
            # Never started, and Python would complain that nobody awaited it.
            self._coroutine.close()
            self._gobj.gaplic.forget_task(self)
        else:
            self._task.cancel()

    async def ended(self) -> None:
        """Wait until a started coroutine has ended, however it ends."""
        if self._task is not None:
            await asyncio.wait([self._task])

    def _ended(self, task: asyncio.Task[Any]) -> None:
        gobj = self._gobj
        gaplic = gobj.gaplic
        if gobj._tasks is not None:
            gobj._tasks.discard(self)
        gaplic.forget_task(self)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if isinstance(error, (KeyboardInterrupt, SystemExit)) or self._cancelled or gobj.destroyed:
            return
        if self._done is not None:
            result = None if error is not None else task.result()
            event = self._done(result=result, error=error)
            event.source = gobj
            gaplic.deliver_contained(gobj, event)
        elif isinstance(error, Exception):
            gaplic.contain(error, gobj, None)


def check_done(gobj: GObj, done: type[Event]) -> None:
    """Raise EventError unless a gobj can get this event when its coroutine has ended."""
    missing = {"result", "error"} - set(done.__struct_fields__)
    if missing:
        raise EventError(
            f"{gobj.path}: spawn(done={done.__name__}): the event needs the fields 'result' and "
            f"'error'; it has {', '.join(done.__struct_fields__) or 'none'}"
        )
    gobj.compiled.check_accepts(done)
