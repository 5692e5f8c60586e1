"""Supervised: a worker process, as the process itself sees it.

ST_STARTING. The target has been made, its servers listen, and the loop is about to run.

ST_SERVING. The parent has been told that we are ready, and is told every second that the loop
turns. It may ask what we have counted.

ST_LEAVING. The parent, or whoever sent us SIGTERM, wants us to end. The servers drain; others
accept on the same sockets, so who waits in the queue is left to them, unless we are the last.

ST_ORPHANED. The parent has died. Whoever takes its place needs the ports, and nobody could restart
us or ask us to end. So we end at once.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from ginsfsm.c_timer import EV_SET_TIMER, EV_TIMEOUT, GTimer
from ginsfsm.event import Event
from ginsfsm.gobj import GObj
from ginsfsm.logs.fields import about
from ginsfsm.row import enter, on
from ginsfsm.shutdown import Shutdown
from ginsfsm.snapshot import snapshot
from ginsfsm.workers.events import (
    EV_ALIVE,
    EV_ASK_STATS,
    EV_CHANNEL_ENDED,
    EV_LEAVE,
    EV_LEAVING,
    EV_READY,
    EV_STATS,
    EV_TERMINATE,
)

if TYPE_CHECKING:
    from ginsfsm.workers.origin import Origin

__all__ = ["Supervised"]

logger: Final = logging.getLogger("ginsfsm")

BEAT: Final = 1.0
"""Seconds between two signs of life."""


class EV_RUNS(Event):
    """The loop runs."""


class Supervised(GObj):
    """Speaks with the parent. Made after the target, so that what it says first is the truth."""

    def start_up(self) -> None:
        """Wait for the loop."""
        self._origin: Origin | None = None
        self._timer = self.create_gobj("timer", GTimer, self)
        self.post_event(self, EV_RUNS())

    def attach(self, origin: Origin) -> None:
        """This is the parent."""
        self._origin = origin
        origin.channel.watch(self)

    def go_out(self) -> None:
        """Tell what has been counted until now; the servers are still there."""
        if self._origin is not None:
            try:
                if self.state != "ST_ORPHANED":
                    self._tell_stats()
            finally:
                self._origin.channel.close()

    def _tell_stats(self) -> None:
        assert self._origin is not None
        self._origin.channel.send(EV_STATS(snapshot(self.gaplic)))

    def ac_tell_ready(self, _event: EV_RUNS) -> None:
        assert self._origin is not None
        self._origin.channel.send(EV_READY())

    def start_beating(self) -> None:
        self.send_event(self._timer, EV_SET_TIMER(BEAT, autostart=True))

    def ac_beat(self, _event: EV_TIMEOUT) -> None:
        assert self._origin is not None
        # A parent that does not read is stuck or stopped, and need not find a thousand of them.
        if not self._origin.channel.backlog:
            self._origin.channel.send(EV_ALIVE())

    def ac_tell_stats(self, _event: EV_ASK_STATS) -> None:
        self._tell_stats()

    def ac_leave(self, event: EV_LEAVE) -> None:
        self.create_gobj(None, Shutdown, self, timeout=event.timeout, others_accept=not event.last)

    def ac_terminated(self, event: EV_TERMINATE) -> None:
        assert self._origin is not None
        self._origin.channel.send(EV_LEAVING())
        self.create_gobj(None, Shutdown, self, timeout=event.timeout, others_accept=True)

    def ac_orphaned(self, _event: EV_CHANNEL_ENDED) -> None:
        logger.error(
            "the parent has died; ending, so that whoever takes its place finds the ports free",
            extra=about(self),
        )
        self.gaplic.stop()

    machine = {
        "ST_STARTING": [
            on(EV_RUNS,          ac_tell_ready, "ST_SERVING"),
            on(EV_LEAVE,         ac_leave,      "ST_LEAVING"),
            on(EV_TERMINATE,     ac_terminated, "ST_LEAVING"),
            on(EV_CHANNEL_ENDED, ac_orphaned,   "ST_ORPHANED"),
            on(EV_ASK_STATS,     ac_tell_stats),
        ],
        "ST_SERVING": [
            enter(start_beating),
            on(EV_TIMEOUT,       ac_beat),
            on(EV_ASK_STATS,     ac_tell_stats),
            on(EV_LEAVE,         ac_leave,      "ST_LEAVING"),
            on(EV_TERMINATE,     ac_terminated, "ST_LEAVING"),
            on(EV_CHANNEL_ENDED, ac_orphaned,   "ST_ORPHANED"),
        ],
        "ST_LEAVING": [
            on(EV_TIMEOUT,       ac_beat),
            on(EV_ASK_STATS,     ac_tell_stats),
            on(EV_LEAVE,         ac_leave),
            on(EV_TERMINATE,     None),
            on(EV_RUNS,          None),
            on(EV_CHANNEL_ENDED, ac_orphaned,   "ST_ORPHANED"),
        ],
        "ST_ORPHANED": [
            on(EV_TIMEOUT,       None),
            on(EV_TERMINATE,     None),
            on(EV_RUNS,          None),
        ],
    }  # fmt: skip
