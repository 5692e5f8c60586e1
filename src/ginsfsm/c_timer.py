"""GTimer: a timer as a gobj.

Its owner, the parent, sends `EV_SET_TIMER(seconds)` and gets `EV_TIMEOUT` when the time is over.
Setting it again starts it anew; `seconds=-1`, or any negative number, cancels it. With
`autostart=True` it goes on by itself, every so many seconds, without drifting: each time-out is
reckoned from when the one before was due, not from when it was delivered.

For one time-out of a state, an `after` row is shorter. A GTimer outlives changes of state.

Two timers of one owner are told apart by their event: `timeout_event=EV_MY_TIMEOUT` sends that one,
any event class that can be made without payload.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ginsfsm.errors import EventError, GConfigError
from ginsfsm.event import Event
from ginsfsm.gconfig import param
from ginsfsm.gobj import GObj
from ginsfsm.row import on
from ginsfsm.seconds import is_seconds

if TYPE_CHECKING:
    from ginsfsm.clock import TimerHandle

__all__ = ["EV_SET_TIMER", "EV_TIMEOUT", "GTimer"]


class EV_SET_TIMER(Event):
    """Start the timer, or start it anew; a negative number of seconds cancels it."""

    seconds: float
    autostart: bool = False


class EV_TIMEOUT(Event):
    """The time is over."""


class _EV_EXPIRED(Event):
    """The clock called back."""


class GTimer(GObj):
    """Sends `EV_TIMEOUT` when its time is over."""

    class config(GObj.config):
        """The parameters of a timer."""

        subscriber: GObj | None = param(None, "who gets the time-out; None is the parent")
        timeout_event: type[Event] = param(EV_TIMEOUT, "the event to send instead of EV_TIMEOUT")

    outputs: Sequence[type[Event]] = (EV_TIMEOUT,)

    _handle: TimerHandle | None = None
    _period: float | None = None
    _due: float = 0.0

    def start_up(self) -> None:
        """Declare the event that this timer sends."""
        kind = self.config.timeout_event
        try:
            kind()
        except TypeError as error:
            raise GConfigError(
                f"{self.path}: timeout_event={kind.__name__}: expected an event class that can "
                f"be made without payload: {error}"
            ) from error
        self.outputs = (kind,)

    def go_out(self) -> None:
        """Cancel the timer."""
        self._cancel()

    def _cancel(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _start(self) -> None:
        seconds = max(0.0, self._due - self.gaplic.time())
        self._handle = self.gaplic.call_later(self, seconds, self._expired)

    def _expired(self) -> None:
        self._handle = None
        self.send_event(self, _EV_EXPIRED())

    # -- actions -----------------------------------------------------------------------------------

    def starts(self, event: EV_SET_TIMER) -> bool:
        """Guard: a time to wait for, not a cancellation."""
        seconds = event.seconds
        if not is_seconds(seconds):
            raise EventError(
                f"{self.path}: EV_SET_TIMER: expected a number of seconds, got {seconds!r}; "
                "a negative one cancels"
            )
        return seconds >= 0

    def is_periodic(self, _event: _EV_EXPIRED) -> bool:
        """Guard: the timer goes on by itself."""
        return self._period is not None

    def ac_start(self, event: EV_SET_TIMER) -> None:
        """Start, or start anew."""
        self._cancel()
        self._period = event.seconds if event.autostart else None
        self._due = self.gaplic.time() + event.seconds
        self._start()

    def ac_cancel(self, _event: EV_SET_TIMER) -> None:
        """Forget the time."""
        self._cancel()

    def ac_timeout(self, _event: _EV_EXPIRED) -> None:
        """The last time-out."""
        self._tell(self.config.timeout_event())

    def ac_tick(self, _event: _EV_EXPIRED) -> None:
        """One of many: set the next before telling, since the owner may cancel it."""
        assert self._period is not None
        now = self.gaplic.time()
        # Where the loop was held up, the ticks that were missed are left out, not made up for.
        # A loop whose clock is coarser than the period may call too early: then none was missed.
        missed = int((now - self._due) / self._period) if now > self._due and self._period else 0
        self._due += self._period * (missed + 1)
        self._start()
        self._tell(self.config.timeout_event())

    machine = {
        "ST_IDLE": [
            on(EV_SET_TIMER, ac_start, "ST_COUNTDOWN", when=starts),
            on(EV_SET_TIMER, None),
        ],
        "ST_COUNTDOWN": [
            on(EV_SET_TIMER, ac_start, when=starts),
            on(EV_SET_TIMER, ac_cancel, "ST_IDLE"),
            on(_EV_EXPIRED, ac_tick, when=is_periodic),
            on(_EV_EXPIRED, ac_timeout, "ST_IDLE"),
        ],
    }
