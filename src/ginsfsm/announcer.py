"""Announcer: tells the service manager how a program without workers is.

ST_STARTING. The servers listen, and the loop is about to run.

ST_READY. The manager has been told that the start is over. Where it wants signs of life, it gets
them from a timer of the loop: a loop that hangs gives none, and the manager may start us again.

ST_STOPPING. The program drains. It still gives signs of life, for that may take long.
"""

from __future__ import annotations

from ginsfsm.c_timer import EV_SET_TIMER, EV_TIMEOUT, GTimer
from ginsfsm.event import Event
from ginsfsm.gobj import GObj
from ginsfsm.row import enter, on
from ginsfsm.service_manager import ServiceManager

__all__ = ["EV_RELOADED", "EV_RELOADING", "EV_STOPPING", "Announcer"]


class EV_RUNS(Event):
    """The loop runs."""


class EV_RELOADING(Event):
    """What can change is about to be read again."""


class EV_RELOADED(Event):
    """It has been read."""


class EV_STOPPING(Event):
    """The program drains, for so many seconds at most."""

    seconds: float


# ginsfsm: ignore[forgotten-event, no-way-out]: EV_RUNS comes once, and the timer is set then; in
# ST_STOPPING the program ends.
class Announcer(GObj):
    """The voice of a program towards its service manager."""

    def start_up(self) -> None:
        """Wait for the loop; nobody is told anything before `attach`."""
        self._service = ServiceManager()
        self._timer = self.create_gobj("timer", GTimer, self)
        self.post_event(self, EV_RUNS())

    def attach(self, service: ServiceManager) -> None:
        """Tell this one."""
        self._service = service

    def tell_ready(self) -> None:
        self._service.ready()

    def ac_start_beating(self, _event: EV_RUNS) -> None:
        if self._service.beat:
            self.send_event(self._timer, EV_SET_TIMER(self._service.beat, autostart=True))

    def ac_beat(self, _event: EV_TIMEOUT) -> None:
        self._service.alive()

    def ac_reloading(self, _event: EV_RELOADING) -> None:
        self._service.reloading()

    def ac_reloaded(self, _event: EV_RELOADED) -> None:
        self._service.ready()

    def ac_stopping(self, event: EV_STOPPING) -> None:
        self._service.stopping(event.seconds)

    machine = {
        "ST_STARTING": [
            on(EV_RUNS,      ac_start_beating, "ST_READY"),
            on(EV_STOPPING,  ac_stopping,      "ST_STOPPING"),
            on(EV_RELOADING, None),
            on(EV_RELOADED,  None),
        ],
        "ST_READY": [
            enter(tell_ready),
            on(EV_TIMEOUT,   ac_beat),
            on(EV_RELOADING, ac_reloading),
            on(EV_RELOADED,  ac_reloaded),
            on(EV_STOPPING,  ac_stopping,      "ST_STOPPING"),
        ],
        "ST_STOPPING": [
            on(EV_RUNS,      None),
            on(EV_TIMEOUT,   ac_beat),
            on(EV_RELOADING, None),
            on(EV_RELOADED,  None),
            on(EV_STOPPING,  None),
        ],
    }  # fmt: skip
