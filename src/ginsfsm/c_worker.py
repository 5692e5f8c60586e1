"""Worker: one place in the crew of `Workers`, and the process that fills it.

ST_STARTING. A process has been started by exec and makes its target. It asks for the sockets to
listen on, each server for its own, and says that it is ready when it serves. Where it cannot, it
says why before it ends.

ST_READY. It serves, and says every second that its loop turns.

ST_SILENT. It has not said so for `silence` seconds. A few more are given, because it may be we who
were stopped and have not listened; then it is killed, since a loop that does not turn serves nobody
and does not heed a signal either. The same where it has closed the channel and lives on.

ST_KILLED. The signal has been sent, and its end is near.

ST_BACKOFF. It has died, and the next is started after a while: at once where it had served for ten
seconds, and else after 1, 2, 4... seconds, 30 at most, so that one that cannot live does not take
the processor from those that can.

ST_DRAINING. Somebody has sent the process itself SIGTERM. It ends when its connections have, and
the next is started then.

ST_LEAVING. The parent wants it to leave. It takes nobody any more, ends when its connections have,
and is killed when that takes much longer than it was given.

ST_ENDED. There is no process, and will be none.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from ginsfsm.c_timer import EV_SET_TIMER, EV_TIMEOUT, GTimer
from ginsfsm.event import Event
from ginsfsm.gconfig import param
from ginsfsm.gobj import GObj
from ginsfsm.logs.fields import about
from ginsfsm.net.listen_error import ListenError
from ginsfsm.net.place import Place
from ginsfsm.row import after, enter, leave, on
from ginsfsm.workers.channel import Channel
from ginsfsm.workers.events import (
    EV_ALIVE,
    EV_ASK_STATS,
    EV_CANNOT_START,
    EV_CHANNEL_ENDED,
    EV_LEAVE,
    EV_LEAVING,
    EV_LET_GO,
    EV_LISTENING,
    EV_PROCESS_ENDED,
    EV_READY,
    EV_STATS,
    EV_WANT_TO_LISTEN,
    EV_WORKER_DIED,
    EV_WORKER_ENDED,
    EV_WORKER_READY,
)
from ginsfsm.workers.origin import VARIABLE
from ginsfsm.workers.process import UNKNOWN, Process

if TYPE_CHECKING:
    from ginsfsm.net.listening import Listening

__all__ = ["Worker"]

logger: Final = logging.getLogger("ginsfsm")

LASTED: Final = 10.0
"""Seconds after which a worker has proved that it can live: if it dies, the next starts at once."""

MORE: Final = 2.0
"""Seconds that a silent worker is given, two of its signs of life."""

TOO_LONG: Final = 5.0
"""Seconds above what a worker was given to drain. It aborts what is left at that time itself, so it
must be stuck."""


class Worker(GObj):
    """Keeps one process running until it is told to leave."""

    class config(GObj.config):
        """What to run, and how patient to be."""

        slot: int = param(0, "which place of the crew it has; 0 is a new parent")
        command: tuple[str, ...] = param((), "what to execute")
        environment: dict[str, str] = param({}, "its environment, without its channel")
        variable: str = param(VARIABLE, "what says in its environment which descriptor that is")
        orphan: bool = param(
            False, "start it as nobody's child, so that the service manager has it"
        )
        start_timeout: float = param(60.0, "seconds until it must be ready; 0 is for ever", ge=0)
        silence: float = param(
            30.0, "seconds without a sign of life after which it is stuck; 0 is never", ge=0
        )
        backoff: float = param(1.0, "seconds before the first new start", ge=0)
        backoff_max: float = param(30.0, "seconds before any new start, at most", ge=0)
        drain_timeout: float = param(30.0, "seconds that it may drain on its own account", ge=0)

    outputs: Sequence[type[Event]] = (EV_WORKER_DIED, EV_WORKER_ENDED, EV_WORKER_READY, EV_STATS)

    def start_up(self) -> None:
        """Make the timer; the process is started with the first state."""
        self.listens_at: set[tuple[str, Place]] = set()
        # How often in succession it died before it had lasted, and before it was ready.
        self.failures = 0
        self.false_starts = 0
        self._process: Process | None = None
        self._channel: Channel | None = None
        self._ready_at: float | None = None
        self._why, self._details = "", ""
        self._refused: int | None = None
        self._timer = self.create_gobj("timer", GTimer, self)

    def go_out(self) -> None:
        """Leave no process behind."""
        # In this order: one that reads the end of the channel says that we have died.
        if self._process is not None:
            self._process.kill_and_forget()
        if self._channel is not None:
            self._channel.close()

    @property
    def pid(self) -> int:
        """Of its process; 0 where there is none."""
        return 0 if self._process is None else self._process.pid

    @property
    def title(self) -> str:
        """What the log calls it."""
        return f"worker {self.config.slot}" if self.config.slot else "the new parent"

    @property
    def serves(self) -> bool:
        """Whether it has been ready and still lives, also while it drains."""
        return self._process is not None and self._ready_at is not None

    # -- the process -------------------------------------------------------------------------------

    def launch(self) -> None:
        self.listens_at = set()
        self._ready_at = None
        self._why, self._details = "", ""
        self._refused = None
        with ExitStack() as opened:
            try:
                ours, its = map(opened.enter_context, socket.socketpair())
                environment = dict(self.config.environment)
                environment[self.config.variable] = f"{its.fileno()}:{os.getpid()}"
                self._process = Process(
                    self, self.config.command, environment, its, self._process_ended,
                    orphan=self.config.orphan,
                )  # fmt: skip
            except OSError as error:
                self._why = f"cannot be started: {error}"
                self.post_event(self, EV_PROCESS_ENDED(127))
                return
            opened.pop_all()
            its.close()
        self._channel = Channel(ours)
        self._channel.watch(self)
        logger.debug(
            "%s: started process %d", self.title, self.pid,
            extra=about(self, worker=self.config.slot, worker_pid=self.pid),
        )  # fmt: skip

    def _process_ended(self, status: int) -> None:
        # What it said last, such as why it could not start, comes before its end.
        if self._channel is not None:
            self._channel.finish()
            self._channel = None
        # Both of this process: after ST_DRAINING the next one has been launched before the action.
        killed = self._process is not None and self._process.killed
        ended = EV_PROCESS_ENDED(status, self.pid, killed)
        self.gaplic.deliver_contained(self, ended.sent_by(self))

    def _kill(self, why: str) -> None:
        logger.error(
            "%s: process %d %s; killing it", self.title, self.pid, why,
            extra=about(self, worker=self.config.slot, worker_pid=self.pid),
        )  # fmt: skip
        self._why = why
        if self._process is not None:
            self._process.kill()

    # -- starting ----------------------------------------------------------------------------------

    def ac_open(self, event: EV_WANT_TO_LISTEN) -> None:
        assert self._channel is not None
        try:
            listening: Listening | None = self.send_event(self.parent, event)
        except ListenError as error:
            self._channel.send(EV_LISTENING(error=str(error), errno=error.errno or errno.EIO))
        except (ValueError, OSError) as error:
            self._channel.send(EV_LISTENING(error=str(error), errno=errno.EINVAL))
        else:
            if listening is None:
                # The parent has given up, and kills this process in a moment.
                return
            self._channel.send(
                EV_LISTENING(
                    len(listening.sockets), listening.port, listening.shared, file=listening.file
                ),
                tuple(sock.fileno() for sock in listening.sockets),
            )

    def ac_ready(self, _event: EV_READY) -> None:
        self._ready_at = self.gaplic.time()
        self.false_starts = 0
        logger.info(
            "%s serves as process %d", self.title, self.pid,
            extra=about(self, worker=self.config.slot, worker_pid=self.pid),
        )  # fmt: skip
        self._tell(EV_WORKER_READY())

    def ac_note_why(self, event: EV_CANNOT_START) -> None:
        self._why, _, self._details = event.reason.partition("\n")
        if self._ready_at is None:
            self._refused = event.status

    def ac_too_slow(self) -> None:
        self._kill(f"was not ready after {self.config.start_timeout:g} s (--start-timeout)")

    # -- serving -----------------------------------------------------------------------------------

    def expect_life(self) -> None:
        if self.config.silence:
            self.send_event(self._timer, EV_SET_TIMER(self.config.silence))

    def ac_alive(self, _event: EV_ALIVE) -> None:
        self.expect_life()

    def expect_no_life(self) -> None:
        self.send_event(self._timer, EV_SET_TIMER(-1))

    def ac_stuck(self) -> None:
        if self._channel is None or self._channel.closed:
            self._kill("has closed its channel to the parent and lives on")
        else:
            self._kill(f"is stuck: no sign of life for {self.config.silence + MORE:g} s")

    def ac_stats(self, event: EV_STATS) -> None:
        self._tell(event)

    def ac_ask_stats(self, event: EV_ASK_STATS) -> None:
        # One that has not answered the last one will not answer this one sooner.
        if self._channel is not None and not self._channel.backlog:
            self._channel.send(event)

    def ac_let_go(self, _event: EV_LET_GO) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._process is not None:
            self._process.let_go()
            self._process = None

    # -- the end -----------------------------------------------------------------------------------

    def ac_died(self, event: EV_PROCESS_ENDED) -> None:
        self._process = None
        lived = -1.0 if self._ready_at is None else self.gaplic.time() - self._ready_at
        if lived >= LASTED:
            self.failures = 0
            delay = 0.0
        else:
            delay = min(self.config.backoff * 2.0**self.failures, self.config.backoff_max)
            self.failures = min(self.failures + 1, 60)
        if self._ready_at is None:
            self.false_starts += 1
        why = f"{_end(event.status)}: {self._why}" if self._why else _end_unasked(event.status)
        self.send_event(self._timer, EV_SET_TIMER(delay))
        at_start = self._ready_at is None
        self._tell(EV_WORKER_DIED(why, delay, at_start, self._refused, self._details))

    def expect_end(self) -> None:
        self.send_event(self._timer, EV_SET_TIMER(self.config.drain_timeout + TOO_LONG))

    def ac_drained_itself(self, event: EV_PROCESS_ENDED) -> None:
        """The state has launched the next already."""
        self.failures = 0
        self._tell_end_of_drain(event)

    def ac_leave(self, event: EV_LEAVE) -> None:
        if self._channel is not None:
            self._channel.send(event)
        self.send_event(self._timer, EV_SET_TIMER(event.timeout + TOO_LONG))

    def ac_leave_at_once(self, _event: EV_LEAVE) -> None:
        """It has no connections yet."""
        if self._process is not None:
            self._process.kill()

    def ac_ends_never(self, _event: EV_TIMEOUT) -> None:
        self._kill("does not end")

    def ac_tell_why(self, event: EV_CANNOT_START) -> None:
        logger.error(
            "%s: process %d fails while it drains: %s", self.title, self.pid, event.reason,
            extra=about(self, worker=self.config.slot, worker_pid=self.pid, status=event.status),
        )  # fmt: skip

    def ac_left(self, event: EV_PROCESS_ENDED) -> None:
        self._process = None
        self._tell_end_of_drain(event)
        self._tell(EV_WORKER_ENDED())

    def _tell_end_of_drain(self, event: EV_PROCESS_ENDED) -> None:
        slot, pid, status = self.config.slot, event.pid, event.status
        if status and not event.killed:
            logger.error(
                "%s: process %d died while it drained: %s; its connections broke",
                self.title, pid, _end_unasked(status),
                extra=about(self, worker=slot, worker_pid=pid, status=status),
            )  # fmt: skip
        else:
            logger.info(
                "%s has left", self.title,
                extra=about(self, worker=slot, worker_pid=pid, status=status),
            )  # fmt: skip

    def ac_gone_already(self, _event: EV_LEAVE) -> None:
        self._tell(EV_WORKER_ENDED())

    machine = {
        "ST_STARTING": [
            enter(launch),
            on(EV_WANT_TO_LISTEN, ac_open),
            on(EV_READY,          ac_ready,          "ST_READY"),
            on(EV_CANNOT_START,   ac_note_why),
            after("start_timeout", ac_too_slow,      "ST_KILLED"),
            on(EV_CHANNEL_ENDED,  None),
            on(EV_PROCESS_ENDED,  ac_died,           "ST_BACKOFF"),
            on(EV_LEAVE,          ac_leave_at_once,  "ST_LEAVING"),
            on(EV_LEAVING,        None),
            on(EV_ALIVE,          None),
            on(EV_ASK_STATS,      None),
            on(EV_STATS,          ac_stats),
        ],
        "ST_READY": [
            enter(expect_life),
            on(EV_ALIVE,          ac_alive),
            on(EV_CANNOT_START,   ac_note_why),
            on(EV_TIMEOUT,        None,              "ST_SILENT"),
            on(EV_CHANNEL_ENDED,  None,              "ST_SILENT"),
            on(EV_PROCESS_ENDED,  ac_died,           "ST_BACKOFF"),
            on(EV_LEAVING,        None,              "ST_DRAINING"),
            on(EV_LEAVE,          ac_leave,          "ST_LEAVING"),
            on(EV_LET_GO,         ac_let_go,         "ST_ENDED"),
            on(EV_WANT_TO_LISTEN, ac_open),
            on(EV_ASK_STATS,      ac_ask_stats),
            on(EV_STATS,          ac_stats),
            leave(expect_no_life),
        ],
        "ST_SILENT": [
            on(EV_ALIVE,          None,              "ST_READY"),
            on(EV_CANNOT_START,   ac_note_why),
            after(MORE,           ac_stuck,          "ST_KILLED"),
            on(EV_CHANNEL_ENDED,  None),
            on(EV_PROCESS_ENDED,  ac_died,           "ST_BACKOFF"),
            on(EV_LEAVING,        None,              "ST_DRAINING"),
            on(EV_LEAVE,          ac_leave,          "ST_LEAVING"),
            on(EV_WANT_TO_LISTEN, ac_open),
            on(EV_ASK_STATS,      None),
            on(EV_STATS,          ac_stats),
        ],
        "ST_KILLED": [
            on(EV_PROCESS_ENDED,  ac_died,           "ST_BACKOFF"),
            on(EV_LEAVE,          None,              "ST_LEAVING"),
            on(EV_READY,          None),
            on(EV_CANNOT_START,   None),
            on(EV_ALIVE,          None),
            on(EV_LEAVING,        None),
            on(EV_CHANNEL_ENDED,  None),
            on(EV_WANT_TO_LISTEN, None),
            on(EV_ASK_STATS,      None),
            on(EV_STATS,          ac_stats),
        ],
        "ST_BACKOFF": [
            on(EV_TIMEOUT,        None,              "ST_STARTING"),
            on(EV_LEAVE,          ac_gone_already,   "ST_ENDED"),
            on(EV_ASK_STATS,      None),
        ],
        "ST_DRAINING": [
            enter(expect_end),
            on(EV_PROCESS_ENDED,  ac_drained_itself, "ST_STARTING"),
            on(EV_TIMEOUT,        ac_ends_never),
            on(EV_CANNOT_START,   ac_tell_why),
            on(EV_LEAVE,          ac_leave,          "ST_LEAVING"),
            on(EV_ALIVE,          None),
            on(EV_CHANNEL_ENDED,  None),
            on(EV_WANT_TO_LISTEN, ac_open),
            on(EV_ASK_STATS,      ac_ask_stats),
            on(EV_STATS,          ac_stats),
            leave(expect_no_life),
        ],
        "ST_LEAVING": [
            on(EV_PROCESS_ENDED,  ac_left,           "ST_ENDED"),
            on(EV_TIMEOUT,        ac_ends_never),
            on(EV_CANNOT_START,   ac_tell_why),
            on(EV_LEAVE,          ac_leave),
            on(EV_READY,          None),
            on(EV_ALIVE,          None),
            on(EV_LEAVING,        None),
            on(EV_CHANNEL_ENDED,  None),
            on(EV_WANT_TO_LISTEN, ac_open),
            on(EV_ASK_STATS,      ac_ask_stats),
            on(EV_STATS,          ac_stats),
        ],
        "ST_ENDED": [
            on(EV_LEAVE,          None),
            on(EV_ASK_STATS,      None),
        ],
    }  # fmt: skip


def _end(status: int) -> str:
    """How a process ended, for people."""
    if status == UNKNOWN:
        return "how, only the service manager is told"
    if status >= 0:
        return f"exit status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return f"killed by {name}"


def _end_unasked(status: int) -> str:
    hint = ", as the system does where memory runs out" if -status == signal.SIGKILL else ""
    return f"{_end(status)}{hint}"
