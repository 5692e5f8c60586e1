"""ManualGAplic: a gaplic without a loop, whose time and turns a test makes by hand."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Any, Self, cast

from ginsfsm.errors import GObjError
from ginsfsm.event import Event
from ginsfsm.gaplic import GAplic
from ginsfsm.gobj import G, GObj
from ginsfsm.inspection import Failed, Observation, Observer
from ginsfsm.testing.clock import ManualClock
from ginsfsm.testing.record import Record
from ginsfsm.testing.stand_in import StandIn, make_stand_in, stand_in_for

__all__ = ["ManualGAplic"]

TURNS = 1000
"""Turns of the loop at one moment of `advance`: a machine that posts to itself has no last one."""


class ManualGAplic(GAplic):
    """A gaplic that a test drives: no loop, no sockets, no waiting.

    Posted events wait for `turn`, timers for `advance`, spawned coroutines for `finish`. As a
    context manager it destroys the tree at the end, and fails the test where an exception was
    contained at an edge of the loop and nobody expected it: in a test it must not go by unnoticed.

    It can also run inside a real loop, with `async with`; then only the time is made by hand.

    Attributes:
        clock: the time, see `ManualClock`.
        record: what happened, with assertions, see `Record`.
    """

    def __init__(
        self,
        name: str = "app",
        settings: Mapping[str, Any] | str | os.PathLike[str] | None = None,
    ) -> None:
        self.clock = ManualClock()
        self.record = Record()
        self._unexpected: list[Failed] = []
        self._without_block: list[type[Exception]] = []
        """What `expect_failure` was called with, without a `with`."""
        self._replaced: dict[type[GObj], type[StandIn]] = {}
        self._second_observer: Observer | None = None
        super().__init__(name, settings, clock=self.clock)
        super().observe(self._note)

    # -- the tree ----------------------------------------------------------------------------------

    def stand_in(
        self,
        name: str | None,
        *accepts: type[Event] | type[GObj],
        parent: GObj | None = None,
        unique: bool = False,
    ) -> StandIn:
        """A gobj that takes these events and keeps them; a gclass means all of its output events.

        Make the gobj under test below one, and it is the owner; give it one as a parameter, and it
        is whatever that parameter wants.

        Args:
            name: its name; None gives it one.
            accepts: event classes, and gclasses whose outputs it shall hear.
            parent: where it stands; the gaplic where none is given.
            unique: register the name for the whole gaplic.
        """
        return self.create_gobj(name, make_stand_in(accepts), parent or self, unique=unique)

    def replace(self, gclass: type[GObj]) -> None:
        """From now on, make an inert stand-in wherever the code makes a gobj of that gclass.

        It has the parameters, validated, and the events of the gclass; it keeps what it gets and
        does nothing. So a gobj that makes a `GServerSock` in its `start_up` needs no socket.

        Raises:
            GObjError: that is no gclass.
        """
        if not (isinstance(gclass, type) and issubclass(gclass, GObj)) or gclass._constructed:
            raise GObjError(f"replace: expected a gclass, derived from GObj, got {gclass!r}")
        self._replaced[gclass] = stand_in_for(gclass)

    def gclass_to_make(self, gclass: type[G]) -> type[G]:
        """See `GAplic`."""
        return cast(type[G], self._replaced.get(gclass, gclass))

    # -- time --------------------------------------------------------------------------------------

    def turn(self) -> int:
        """One turn of the loop: deliver what is posted now, and not what that posts in its turn.

        Returns:
            How many events there were.
        """
        return self.deliver_posted()

    def advance(self, seconds: float) -> None:
        """Let so much time pass. Timers fire at their own times; posted events are delivered first
        and after each of them, with as many turns as they need.

        Args:
            seconds: how much time; 0 fires what is due now.

        Raises:
            ValueError: that is no number of seconds, or a negative or an endless one.
        """
        self.clock.advance(seconds, between=self._turns)

    def finish(self, gobj: GObj, result: object = None, error: BaseException | None = None) -> None:
        """End the oldest coroutine that a gobj has spawned, with this result or error.

        The coroutine is closed without having run, and its gobj gets the `done` event.

        Raises:
            GObjError: when none is waiting, that is no gobj, or `error` is no exception.
        """
        if not isinstance(gobj, GObj):
            raise GObjError(f"finish: expected a gobj, got {gobj!r}")
        if error is not None and not isinstance(error, BaseException):
            raise GObjError(f"finish: error: expected an exception or None, got {error!r}")
        for task in self._all_tasks:
            if task.gobj is gobj:
                task.finish(result, error)
                return
        raise GObjError(f"finish: {gobj.path} has spawned nothing that is still waiting")

    def _turns(self) -> None:
        for _ in range(TURNS):
            if not self.turn():
                return

    # -- what happened -----------------------------------------------------------------------------

    def start(self) -> None:
        """Not for a gaplic whose time is made by hand: it would wait for ever.

        Raises:
            GObjError: always.
        """
        raise GObjError(
            f"{self.name}.start() would wait for ever: a ManualGAplic is moved by turn() and "
            "advance(); inside a loop write `async with`"
        )

    def observe(self, observer: Observer | None) -> None:
        """See `GAplic`; the record goes on beside that observer."""
        self._second_observer = observer

    def expect_failure(
        self, kind: type[Exception] = Exception
    ) -> AbstractContextManager[list[Failed]]:
        """Assert that an exception of that class is contained inside a block::

            with app.expect_failure(ValueError) as caught:
                app.turn()

        It yields a list that holds, after the block, what was contained.

        Raises:
            GObjError: that is no class of exceptions.
        """
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            raise GObjError(f"expect_failure: expected a class of exceptions, got {kind!r}")
        self._without_block.append(kind)
        return self._expect_failure(kind)

    @contextmanager
    def _expect_failure(self, kind: type[Exception]) -> Iterator[list[Failed]]:
        __tracebackhide__ = True
        self._without_block.remove(kind)
        before = len(self._unexpected)
        caught: list[Failed] = []
        yield caught
        new = self._unexpected[before:]
        caught += [one for one in new if isinstance(one.error, kind)]
        if not caught:
            others = ", ".join(repr(one.error) for one in new) or "nothing"
            raise AssertionError(f"expected a contained {kind.__name__}; contained was {others}")
        self._unexpected[before:] = [one for one in new if not isinstance(one.error, kind)]

    def check_failures(self) -> None:
        """Assert that no exception was contained but those that were expected."""
        __tracebackhide__ = True
        failures = self._unexpected
        hints = [
            f"expect_failure({kind.__name__}) expects something inside a block only: write "
            f"`with app.expect_failure({kind.__name__}):`"
            for kind in self._without_block
        ]
        if failures:
            lines = [
                f"  {one.gobj.path} in {one.state}"
                + ("" if one.event is None else f" on {one.event!r}")
                + f": {type(one.error).__name__}: {one.error}"
                for one in failures
            ]
            raise AssertionError(
                "\n".join(["contained at an edge of the loop, and not expected:", *lines, *hints])
            ) from failures[0].error
        if hints:
            raise AssertionError("\n".join(hints))

    def _note(self, observation: Observation) -> None:
        self.record(observation)
        if isinstance(observation, Failed):
            self._unexpected.append(observation)
        if self._second_observer is not None:
            self._second_observer(observation)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        __tracebackhide__ = True
        self.destroy_gobj(self)
        if error is None:
            self.check_failures()
