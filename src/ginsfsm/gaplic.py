"""GAplic: the application. Root of a tree, owner of the loop, the posted events and the timers.

Everything of one gaplic runs in one thread, on one asyncio loop. The tree may be built before the
loop runs: what was posted, set or spawned by then starts with it. Three ways to run it::

    app.start()                    # blocks until stop(), SIGINT or SIGTERM
    await app.serve()              # inside a loop that runs already; never touches signals
    async with app: ...            # likewise, until the block ends

The edges of the loop. An exception in an action goes to whoever sent the event. Where nobody did,
because the event came from a timer, the queue, a coroutine or a socket, the gaplic contains it: it
is logged with its path, state and event, counted, and the program goes on.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Mapping
from functools import partial
from types import TracebackType
from typing import Any, ClassVar, Final, Self, cast, overload

from ginsfsm.clock import Clock, LoopClock, TimerHandle
from ginsfsm.deadlines import Deadlines
from ginsfsm.errors import EventError, GObjError, nearest
from ginsfsm.event import Event
from ginsfsm.gconfig import Config, param
from ginsfsm.given import event_for
from ginsfsm.gobj import G, GObj, _gclasses
from ginsfsm.inspection import Failed, Observation, Observer
from ginsfsm.life import begin, destroy
from ginsfsm.logs.fields import about
from ginsfsm.net.listening import Listening
from ginsfsm.net.place import Place, open_place
from ginsfsm.poller import EpollPoller, LoopPoller, Poller
from ginsfsm.settings import Settings, names_to_offer
from ginsfsm.signals import Signals
from ginsfsm.smachine import After
from ginsfsm.stats import GaplicStats
from ginsfsm.task import Task, check_done

__all__ = ["GAplic"]

logger: Final = logging.getLogger("ginsfsm")


class _StateTimeout:
    """What the clock calls when a gobj was long enough in a state.

    An object of two words: there is one for each gobj in such a state, and a `partial` or a closure
    would be nearly three times as large.
    """

    __slots__ = ("gobj", "run")

    def __init__(self, gobj: GObj, run: Callable[[Any], object]) -> None:
        self.gobj = gobj
        self.run = run

    def __call__(self) -> None:
        self.gobj.gaplic.run_contained(self.gobj, partial(self.run, self.gobj))


class GAplic(GObj):
    """The application: root of a tree of gobjs, with the loop that they live in.

    Args:
        name: its name, the first word of every path.
        settings: values for parameters, which win over those that the code gives:
            `{"echo": {"port": 7001}}` or `{"echo.port": 7001}`, or the path of a TOML file with a
            table for each name. A name is a gobj's or a gclass's, or the path of a gobj.
        clock: the source of time and timers; the loop's where none is given.

    Attributes:
        observer: who is told what happens, see `observe`.
        refused_events: how often `send_event` returned `NOT_ACCEPTED` for want of a row.
        dropped_posts: posted events whose destination had been destroyed.
        contained_errors: exceptions that reached an edge of the loop.

    Raises:
        GConfigError: when the settings are of no legal form.
    """

    _constructed: ClassVar[bool] = True

    class config(GObj.config):
        """The parameters of a gaplic; set them through the settings."""

        max_posted_events: int = param(
            100_000, "posted events that may wait; the next post raises", ge=1
        )
        max_postponed_events: int = param(
            1000, "postponed events that one gobj may keep; the next one raises", ge=1
        )
        poller: str = param(
            "auto",
            "how sockets are watched: epoll where there is one",
            choices=("auto", "epoll", "loop"),
        )

    def __init__(
        self,
        name: str,
        settings: Mapping[str, Any] | str | os.PathLike[str] | None = None,
        *,
        clock: Clock | None = None,
    ) -> None:
        if not isinstance(name, str) or not name or "/" in name:
            raise GObjError(f"GAplic: expected a name without a slash, got {name!r}")
        self._settings = Settings(settings)
        self.observer: Observer | None = None
        self.depth = 0
        self.refused_events = 0
        self.dropped_posts = 0
        self.contained_errors = 0
        self._longest_turn: float | None = None
        self._clock: Clock = LoopClock() if clock is None else clock
        self._poller: Poller | None = None
        self.deadlines = Deadlines(self._clock.call_later, self._clock.time)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = os.getpid()
        self._thread = 0
        self._signals = Signals(self)
        self._stop = asyncio.Event()
        self._stopping = False
        self._unique_gobjs: dict[str, GObj] = {}
        self._posted: deque[tuple[GObj, Event]] = deque()
        self._delivery_due = False
        self._all_tasks: dict[Task, None] = {}
        self._refusals_told: set[tuple[type, str, type]] = set()
        config = self.configure(type(self), name, name, {})
        begin(self, name, None, self, config)

    # -- running -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Run until `stop()`, SIGINT or SIGTERM; then destroy the tree and return.

        Uses uvloop where it is installed. The signal handlers are installed in the main thread
        only, which is the only one that can have them. A second signal ends the program at once.

        Raises:
            GConfigError: when a setting matches nothing.
            GObjError: when a loop runs in this thread already, or the gaplic has ended.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            raise GObjError(
                f"{self.name}.start() blocks, and a loop runs in this thread already; "
                "write `await app.serve()` or `async with app:`"
            )
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(self._serve_with_signals())

    def stop(self) -> None:
        """Let `start` or `serve` end; they destroy the tree. May be called from any thread."""
        # Written before the loop is read, as `_begin` reads it after it has written the loop: so a
        # stop from another thread is not lost while the loop is just beginning.
        self._stopping = True
        loop = self._loop
        if loop is None:
            return
        if threading.get_ident() == self._thread:
            self._stop.set()
            return
        try:
            loop.call_soon_threadsafe(self._stop.set)
        except RuntimeError:
            # The loop has been closed meanwhile: what was asked for has happened.
            pass

    def on_signal(self, number: int, callback: Callable[[], object]) -> None:
        """Let `start` call back, in the loop, whenever the process gets this signal.

        Call it before `start`. SIGINT and SIGTERM belong to `start` itself. Where the system has no
        such signal, or `start` does not run in the main thread, nobody is called.

        Raises:
            GObjError: the signal is SIGINT or SIGTERM.
        """
        self._signals.call(number, callback)

    def on_terminate(self, callback: Callable[[], object]) -> None:
        """Let `start` call back, in the loop, at the first SIGTERM, instead of stopping.

        Who asks for that says good-bye to the clients, say, and calls `stop` in the end. A second
        SIGTERM meanwhile stops at once, as SIGINT always does, and so does the first one where the
        callback raises. Call it before `start`.
        """
        self._signals.call_to_terminate(callback)

    async def serve(self) -> None:
        """Run inside the loop that runs already, until `stop()` or until it is cancelled.

        Raises:
            GConfigError: when a setting matches nothing.
            GObjError: when the gaplic runs in another loop, or has ended.
        """
        if self._loop is not None and self._loop is asyncio.get_running_loop():
            await self._stop.wait()
            return
        async with self:
            await self._stop.wait()

    async def __aenter__(self) -> Self:
        try:
            self._begin(asyncio.get_running_loop())
        except BaseException:
            if not self.destroyed and self._loop is None:
                await self._end()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._end()

    async def _serve_with_signals(self) -> None:
        loop = asyncio.get_running_loop()
        self._signals.install(loop)
        try:
            await self.serve()
        finally:
            self._signals.remove(loop)

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        if self.destroyed:
            raise GObjError(f"the gaplic {self.name} has ended; make a new one")
        if self._loop is not None:
            raise GObjError(f"the gaplic {self.name} runs already")
        if self._pid != os.getpid():
            raise GObjError(
                f"the gaplic {self.name} was made in process {self._pid} and cannot run in its "
                f"fork {os.getpid()}; make it after the fork, or start processes by exec"
            )
        self.check_settings()
        self._loop = loop
        self._thread = threading.get_ident()
        self._clock.start(loop)
        if self._poller is not None:
            self._poller.attach(loop, self._fast_time(loop))
        for task in list(self._all_tasks):
            # Eager tasks run here, and may have ended this one.
            if task in self._all_tasks:
                task.start(loop)
        self._schedule_delivery()
        if self._stopping:
            self._stop.set()

    async def _end(self) -> None:
        if self._pid != os.getpid():
            # The descriptors are shared with the process that we were forked from. To take a
            # socket out of epoll here would take it out there.
            return
        self._signals.ending(asyncio.get_running_loop())
        tasks = list(self._all_tasks)
        try:
            destroy(self)
            for task in tasks:
                await task.ended()
        finally:
            self._loop = None

    def go_out(self) -> None:
        """Give back the descriptor, the timers and the queue; let `serve` return."""
        self.deadlines.close()
        self._clock.stop()
        if self._poller is not None:
            self._poller.close()
        self.dropped_posts += len(self._posted)
        self._posted.clear()
        self._stop.set()

    # -- finding -----------------------------------------------------------------------------------

    def find(self, path: str) -> GObj:
        """The gobj at a path, `"app/echo/server"`, or `"echo/server"` from the gaplic down.

        Where a child has the gaplic's name, a whole path goes before one from the gaplic down.

        Raises:
            GObjError: when there is none; the sentence says how far the path goes.
        """
        names = path.split("/")
        if names[0] == self.name:
            if self.name not in self.children:
                names = names[1:]
            else:
                try:
                    return self._descend(path, names[1:])
                except GObjError:
                    pass
        return self._descend(path, names)

    def _descend(self, path: str, names: list[str]) -> GObj:
        found: GObj = self
        for name in names:
            below = found.children
            if name not in below:
                raise GObjError(
                    f"there is no gobj {path!r}: {found.path} has no child {name!r}"
                    f"{nearest(name, below)}"
                )
            found = below[name]
        return found

    def find_unique_gobj(self, name: str) -> GObj:
        """The gobj that was made with `unique=True` under that name.

        Raises:
            GObjError: when there is none.
        """
        found = self._unique_gobjs.get(name)
        if found is None:
            raise GObjError(f"there is no unique gobj {name!r}{nearest(name, self._unique_gobjs)}")
        return found

    def check_unique(self, name: str) -> None:
        """Raise GObjError where another gobj has this unique name."""
        other = self._unique_gobjs.get(name)
        if other is not None:
            raise GObjError(f"create_gobj: the unique name {name!r} belongs to {other.path}")

    def register_unique(self, gobj: GObj) -> None:
        """Let the gobj be found by its name alone."""
        self._unique_gobjs[gobj.name] = gobj
        gobj._unique = True

    def forget_unique(self, gobj: GObj) -> None:
        """The gobj is destroyed."""
        del self._unique_gobjs[gobj.name]

    # -- posted events -----------------------------------------------------------------------------

    @overload
    def post_event_threadsafe(self, destination: GObj | str, event: Event, /) -> None: ...
    @overload
    def post_event_threadsafe(
        self, destination: GObj | str, event: str, /, **payload: Any
    ) -> None: ...
    def post_event_threadsafe(self, destination: Any, event: Any, /, **payload: Any) -> None:
        """Post an event from any thread; the only way in from another one.

        Its source is None, until a gobj sends it on.

        Raises:
            EventError: as `post_event`, in the calling thread.
            GObjError: when the gaplic has ended.
        """
        destination = self._destination(destination)
        given, event = event, event_for(destination, event, payload)
        if event is given:
            # The caller may post it to another gobj too, or hold it in its thread. What the first
            # one does with it, such as to send it on, is none of theirs.
            event = copy.copy(event)
            event.source = cast(GObj, None)
        if self.destroyed:
            raise GObjError(
                f"the gaplic {self.name} has ended; {type(event).__name__} cannot be delivered"
            )
        self._check_queue(destination, event)
        self._posted.append((destination, event))
        loop = self._loop
        if loop is not None:
            try:
                loop.call_soon_threadsafe(self._schedule_delivery)
            except RuntimeError as error:
                raise GObjError(f"the gaplic {self.name} has ended: {error}") from error

    def post(self, destination: GObj, event: Event) -> bool:
        """Queue an event whose source is set; False where its destination has been destroyed."""
        if destination.destroyed:
            self.dropped_posts += 1
            return False
        self._check_queue(destination, event)
        self._posted.append((destination, event))
        self._schedule_delivery()
        return True

    def deliver_posted(self) -> int:
        """Deliver what is queued now, and not what that posts in its turn.

        Returns:
            How many events there were.
        """
        self._delivery_due = False
        count = len(self._posted)
        start = 0.0 if self._longest_turn is None else time.monotonic()
        try:
            for _ in range(count):
                if not self._posted:
                    # One of them ended the gaplic.
                    break
                destination, event = self._posted.popleft()
                if destination.destroyed:
                    self.dropped_posts += 1
                else:
                    self.deliver_contained(destination, event)
        finally:
            # Also after a CancelledError, which is not contained and does not end the loop.
            self._schedule_delivery()
            if start:
                self._turned(start)
        return count

    def _check_queue(self, destination: GObj, event: Event) -> None:
        limit = self.config.max_posted_events
        if len(self._posted) >= limit:
            raise EventError(
                f"{limit} posted events are waiting and {type(event).__name__} to "
                f"{destination.path} is one too many; post less, or raise max_posted_events"
            )

    def _schedule_delivery(self) -> None:
        if self._posted and not self._delivery_due and self._loop is not None:
            self._delivery_due = True
            self._loop.call_soon(self.deliver_posted)

    # -- timers, tasks, sockets --------------------------------------------------------------------

    def time(self) -> float:
        """The time of the gaplic's clock, in seconds from some fixed moment."""
        return self._clock.time()

    def call_later(self, gobj: GObj, seconds: float, callback: Callable[[], object]) -> TimerHandle:
        """Call back later on behalf of a gobj; what it raises is contained.

        Whoever asks must cancel the timer in its `go_out`. A gclass uses `after` or a GTimer.
        """
        return self._clock.call_later(seconds, partial(self.run_contained, gobj, callback))

    def start_after(self, gobj: GObj, row: After, seconds: float) -> TimerHandle:
        """Start a state timeout."""
        return self._clock.call_later(seconds, _StateTimeout(gobj, row.run))

    def start_task(
        self, gobj: GObj, coroutine: Coroutine[Any, Any, Any], done: type[Event] | None
    ) -> Task:
        """Run a coroutine for a gobj; see `GObj.spawn`."""
        if not asyncio.iscoroutine(coroutine):
            raise GObjError(
                f"{gobj.path}: spawn: expected a coroutine, got {coroutine!r}; "
                "call the coroutine function: self.spawn(self.fetch())"
            )
        try:
            if gobj.destroyed:
                raise GObjError(f"spawn: {gobj.path} is destroyed")
            if done is not None:
                check_done(gobj, done)
        except BaseException:
            coroutine.close()
            raise
        task = Task(gobj, coroutine, done)
        self._all_tasks[task] = None
        if gobj._tasks is None:
            gobj._tasks = set()
        gobj._tasks.add(task)
        if self._loop is not None:
            task.start(self._loop)
        return task

    def forget_task(self, task: Task) -> None:
        """The task has ended."""
        self._all_tasks.pop(task, None)

    @property
    def poller(self) -> Poller:
        """What watches the sockets of this gaplic; made when the first one asks for it."""
        if self._poller is None:
            if self.destroyed:
                raise GObjError(f"the gaplic {self.name} has ended; it watches no sockets")
            kind = self.config.poller
            has_epoll = hasattr(select, "epoll")
            if kind == "epoll" and not has_epoll:
                raise GObjError("poller='epoll': this system has no epoll; use 'auto' or 'loop'")
            made = LoopPoller if kind == "loop" or not has_epoll else EpollPoller
            self._poller = made(self._clock.time)
            if self._longest_turn is not None:
                self._poller.measure()
            if self._loop is not None:
                self._poller.attach(self._loop, self._fast_time(self._loop))
        return self._poller

    def listen(self, path: str, place: Place) -> Listening:
        """Open the sockets of a server. The one hook by which a worker gets them of its parent.

        Args:
            path: of the server that asks.
            place: where it wants to listen.

        Raises:
            ListenError: it cannot be listened on.
        """
        return open_place(place)

    def _fast_time(self, loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
        """What tells the time of this gaplic, with as few calls as can be."""
        if not isinstance(self._clock, LoopClock):
            return self._clock.time
        # That of asyncio is a call of this one, and no more.
        is_plain = getattr(loop.time, "__func__", None) is asyncio.BaseEventLoop.time
        return time.monotonic if is_plain else loop.time

    # -- the edges of the loop ---------------------------------------------------------------------

    def deliver_contained(self, gobj: GObj, event: Event) -> Any:
        """Deliver an event that nobody stands behind, and contain what its action raises."""
        try:
            return gobj._take(event)
        except Exception as error:
            self.contain(error, gobj, event)
            return None

    def contain(
        self, error: Exception, gobj: GObj, event: Event | None, what: str = "a callback"
    ) -> None:
        """Log and count an exception that reached an edge of the loop.

        Where an event of a connection caused it, the connection is dropped.

        Args:
            error: the exception.
            gobj: whose event, timer or coroutine it was.
            event: what was being delivered.
            what: the words for it where there was no event.
        """
        self.contained_errors += 1
        if event is not None:
            what = type(event).__name__
        source = None if event is None else event.source
        logger.error(
            "%s in %s: %s%s raised %s: %s",
            gobj.path,
            gobj.state,
            what,
            f" from {source.path}" if source is not None and source is not gobj else "",
            type(error).__name__,
            error,
            exc_info=error,
            extra=about(gobj, event=event, error=error, source=source),
        )
        if self.observer is not None:
            self.observed(Failed(gobj, event, gobj.state, error))
        if source is not None:
            source._failed_delivery(event)

    def run_contained(
        self, gobj: GObj, callback: Callable[[], object], what: str = "a timer"
    ) -> None:
        """Call back on behalf of a gobj that lives, and contain what that raises."""
        if gobj.destroyed:
            return
        start = 0.0 if self._longest_turn is None else time.monotonic()
        try:
            callback()
        except Exception as error:
            self.contain(error, gobj, None, what)
        finally:
            if start:
                self._turned(start)

    # -- what can be seen --------------------------------------------------------------------------

    def stats(self) -> GaplicStats:
        """What has happened until now, and how much there is at this moment.

        How long turns take is measured from the first call on, or from `measure_turns`: two looks
        at the clock in each turn are not for those who never ask.
        """
        self.measure_turns()
        longest = self._longest_turn or 0.0
        if self._poller is not None:
            longest = max(longest, self._poller.longest_turn or 0.0)
        return GaplicStats(
            processes=1,
            gobjs=sum(1 for _ in self.walk()),
            posted_events=len(self._posted),
            dropped_posts=self.dropped_posts,
            refused_events=self.refused_events,
            contained_errors=self.contained_errors,
            longest_turn_seconds=longest,
        )

    def measure_turns(self) -> None:
        """Measure from now on how long the loop is held; see `stats`. Idempotent."""
        if self._longest_turn is None:
            self._longest_turn = 0.0
            if self._poller is not None:
                self._poller.measure()

    def _turned(self, start: float) -> None:
        """What began at that moment of `time.monotonic` held the loop until now."""
        took = time.monotonic() - start
        if took > (self._longest_turn or 0.0):
            self._longest_turn = took

    def observe(self, observer: Observer | None) -> None:
        """Tell an observer everything that happens from now on; None tells nobody.

        Args:
            observer: called with each `inspection.Observation`. What it raises is logged.
        """
        self.observer = observer
        watch = None if observer is None else self
        for gobj in self.walk():
            if not gobj.destroyed:
                gobj._watch = watch

    def observed(self, observation: Observation) -> None:
        """Pass something on to the observer, if there is one."""
        if self.observer is not None:
            try:
                self.observer(observation)
            except Exception:
                # Not the observation itself: its event may hold what a peer sent.
                event = getattr(observation, "event", None)
                logger.exception(
                    "%s: the observer failed on %s%s",
                    self.name, type(observation).__name__,
                    "" if event is None else f"({type(event).__name__})",
                    extra=about(self, event=event),
                )  # fmt: skip

    def walk(self) -> Iterator[GObj]:
        """Every gobj of the tree, parents before their children; also one that is going out."""
        todo: list[GObj] = [self]
        while todo:
            gobj = todo.pop()
            yield gobj
            todo.extend(reversed(list(gobj.children.values())))

    def count_refused(self, gobj: GObj, event: Event) -> None:
        """The present state of a gobj does not accept an event: count it, and say so once."""
        self.refused_events += 1
        key = (type(gobj), gobj.state, type(event))
        told = key in self._refusals_told
        self._refusals_told.add(key)
        level = logging.DEBUG if told else logging.WARNING
        if logger.isEnabledFor(level):
            logger.log(
                level,
                "%s: %s does not accept %s%s%s",
                gobj.path,
                gobj.state,
                type(event).__name__,
                "" if event.source is None else f" from {event.source.path}",
                "" if told else "; further ones are logged at DEBUG",
                extra=about(gobj, event=event, source=event.source),
            )

    # -- settings ----------------------------------------------------------------------------------

    def gclass_to_make(self, gclass: type[G]) -> type[G]:
        """The gclass that `create_gobj` makes where it is asked for this one; a test may differ."""
        return gclass

    def configure(
        self, gclass: type[GObj], name: str, path: str, given: Mapping[str, object]
    ) -> Config:
        """The parameters of a gobj that is being made, with the settings that match it."""
        sources = [("", given), *self._settings.matching(gclass.__name__, name, path)]
        return gclass.config._build(f"{path} ({gclass.__name__})", *sources)

    def check_settings(self) -> None:
        """See that every setting matches a gobj or a gclass; `start` and `serve` do it first.

        Raises:
            GConfigError: for each that matches nothing, and each value that does not fit.
        """
        if self._settings:
            self._settings.check(
                {name for gobj in self.walk() for name in (gobj.name, gobj.path)},
                {name: [one.config for one in found] for name, found in _gclasses.items()},
                names_to_offer(self, _gclasses),
            )

    def misspelt_settings(self) -> list[str]:
        """Settings that have matched nothing so far and look like a typo, a sentence each.

        For whoever tells that a gobj could not be made, and wants to tell every fault at once.
        """
        return self._settings.misspelt({*_gclasses, *names_to_offer(self, _gclasses)})


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Uvloop's loop where it is installed; None is asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
