"""Workers: several processes that serve the same ports, and the parent that looks after them.

The parent serves nobody and imports nothing of the target. It opens the listening sockets when the
first worker asks for them, and keeps them: every worker, a later one too, accepts on the same ones.
So what waits in the kernel's queue is lost with no worker, and a port is never closed while one is
replaced by another.

ST_STARTING. The first crew is being started. Where a worker says itself why it cannot start,
another try would say the same: the parent gives up, as one process alone would.

ST_RUNNING. All have been ready. A worker that dies is started again (see `Worker`). The parent
gives up when a worker has died at its start four times in succession and no other one serves.

ST_ROLLING. Every worker is being replaced (`EV_ROLL`), one after the other: the new one is ready
before the old one takes nobody any more. The old ones drain meanwhile. If a new one cannot start,
the roll is broken off, and those that have not been replaced serve on.

ST_UPGRADING. A new parent has been started (`EV_UPGRADE`), which gets our sockets and starts
workers of its own. When these serve, ours leave, and then we stop; if it cannot start, we serve on.

A roll or an upgrade that is asked for while another goes on waits for its end, once.

ST_DRAINING. All are to leave (`EV_TERMINATE`). The parent closes its own sockets first;
whoever still waits in the queue is taken by the workers. It stops when the last of them has ended.

ST_FAILED. It has given up, and stops.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from ginsfsm.c_srv_sock import EV_DRAIN, GServerSock
from ginsfsm.c_worker import Worker
from ginsfsm.event import Event
from ginsfsm.gconfig import param
from ginsfsm.gobj import GObj
from ginsfsm.logs.fields import about
from ginsfsm.net.listening import Listening
from ginsfsm.net.place import Place
from ginsfsm.net.words import counted
from ginsfsm.row import POSTPONE, on
from ginsfsm.service_manager import ServiceManager
from ginsfsm.workers.events import (
    EV_ASK_STATS,
    EV_LEAVE,
    EV_LET_GO,
    EV_ROLL,
    EV_STATS,
    EV_TERMINATE,
    EV_UPGRADE,
    EV_WANT_TO_LISTEN,
    EV_WORKER_DIED,
    EV_WORKER_ENDED,
    EV_WORKER_READY,
)
from ginsfsm.workers.origin import HEIR, Origin
from ginsfsm.workers.places import Key, Places, in_use, place_key
from ginsfsm.workers.process import CAN_ORPHAN
from ginsfsm.workers.totals import Totals

if TYPE_CHECKING:
    from ginsfsm.clock import TimerHandle

__all__ = ["Workers"]

logger: Final = logging.getLogger("ginsfsm")

GIVE_UP: Final = 4
"""Deaths at the start in succession, in one place of the crew; 7 seconds with the default waits."""

MOST_FAULTS: Final = 100
"""Different faults whose details are remembered as told, so that memory does not grow with them."""


class Workers(GObj):
    """Keeps a crew of worker processes.

    Attributes:
        exit_status: what the parent should end with: 0, or 1 and above where it has given up.
        totals: what the workers have counted; asked for with `EV_ASK_STATS`.
    """

    class config(GObj.config):
        """How many, what they run, and how long things may take."""

        count: int = param(1, "how many processes serve", ge=1, le=1024)
        command: tuple[str, ...] = param((), "what a worker executes")
        environment: dict[str, str] = param({}, "its environment")
        heir_environment: dict[str, str] = param({}, "that of a new parent")
        drain_timeout: float = param(30.0, "seconds that one that leaves may drain", ge=0)
        start_timeout: float = param(60.0, "seconds until one must be ready; 0 is for ever", ge=0)
        silence: float = param(
            30.0, "seconds without a sign of life after which one is stuck; 0 is never", ge=0
        )
        backoff: float = param(1.0, "seconds before the first new start of one that died", ge=0)
        backoff_max: float = param(30.0, "seconds before any new start, at most", ge=0)

    outputs: Sequence[type[Event]] = ()

    def start_up(self) -> None:
        """Start the first crew."""
        self.exit_status = 0
        self.totals = Totals()
        self.service = ServiceManager()
        self._places = Places()
        self._own: set[Key] = set()
        self._made = 0
        self._crew: dict[int, Worker] = {}
        self._successor: Worker | None = None
        self._predecessor: Origin | None = None
        self._to_roll: list[int] = []
        self._waiting: set[type[Event]] = set()
        self._told: set[str] = set()
        self._beat: TimerHandle | None = None
        for slot in range(1, self.config.count + 1):
            self._crew[slot] = self._make(slot)

    def attach(self, service: ServiceManager, predecessor: Origin | None = None) -> None:
        """Tell this service manager how we are, and take the place of this parent."""
        self.service = service
        self._next_beat()
        if predecessor is not None:
            self._predecessor = predecessor
            self._places = Places(predecessor.inherit)

    def go_out(self) -> None:
        """The workers have been killed by now, each by its own `go_out`."""
        if self._beat is not None:
            self._beat.cancel()
        if self._predecessor is not None:
            self._predecessor.channel.close()
        self._places.close()

    @property
    def crew(self) -> tuple[Worker, ...]:
        """Those that are to serve, by their place; one that is leaving is not among them."""
        return tuple(self._crew.values())

    def _next_beat(self) -> None:
        # The manager asks whether the parent works; whether the workers do, the parent asks them.
        if self.service.beat:
            self.service.alive()
            self._beat = self.gaplic.call_later(self, self.service.beat, self._next_beat)

    def _make(self, slot: int) -> Worker:
        self._made += 1
        config = self.config
        return self.create_gobj(
            f"worker_{self._made}", Worker, self,
            slot=slot, command=config.command, environment=config.environment,
            start_timeout=config.start_timeout, silence=config.silence,
            backoff=config.backoff, backoff_max=config.backoff_max,
            drain_timeout=config.drain_timeout,
        )  # fmt: skip

    # -- what workers ask and tell -----------------------------------------------------------------

    def ac_open(self, event: EV_WANT_TO_LISTEN) -> Listening:
        key = place_key(event.path, event.place)
        successor_asks = self.is_successor(event) and self.state == "ST_UPGRADING"
        if successor_asks or self.state == "ST_DRAINING":
            # What has been closed for good is not opened again.
            return self._places.find(key)
        if key in self._own:
            raise in_use(event.place, "the parent itself (--metrics)")
        is_new = key not in self._places
        listening = self._places.listen(key)
        if is_new:
            logger.info(
                "%s listens at %s", event.path, listening.addresses, extra=about(path=event.path)
            )
        cast(Worker, event.source).listens_at.add(key)
        return listening

    def listen(self, path: str, place: Place) -> Listening:
        """For a server of the parent itself; see `GAplic.listen`. An heir takes it over too.

        Raises:
            ListenError: it cannot be listened on, or the workers listen there.
        """
        key = place_key(path, place)
        if any(key in worker.listens_at for worker in self._workers()):
            raise in_use(place, "the workers")
        listening = self._places.listen(key)
        self._own.add(key)
        return Listening(
            tuple(sock.dup() for sock in listening.sockets), listening.port, shared=True
        )

    def ac_stats(self, event: EV_STATS) -> None:
        worker = cast(Worker, event.source)
        self.totals.note(worker.name, worker.pid, event.snapshot)

    def ac_ask_stats(self, event: EV_ASK_STATS) -> None:
        for worker in self._workers():
            self.send_event(worker, event)

    def ac_tell_death(self, event: EV_WORKER_DIED) -> None:
        worker = cast(Worker, event.source)
        self.totals.ended(worker.name)
        logger.error(
            "worker %d died%s: %s; the next one starts %s%s",
            worker.config.slot, " at its start" if event.at_start else "", event.why,
            f"in {event.delay:g} s" if event.delay else "now", self._details_of(event),
            extra=_about(worker, seconds=event.delay),
        )  # fmt: skip
        self.service.status(self._status()[0])

    def _details_of(self, event: EV_WORKER_DIED) -> str:
        """The traceback, say; nothing where another one has told the same, or this one before."""
        if not event.details or event.details in self._told:
            return ""
        if len(self._told) >= MOST_FAULTS:
            self._told.clear()
        self._told.add(event.details)
        return f"\n{event.details}"

    def ac_tell_return(self, _event: EV_WORKER_READY) -> None:
        self.service.status(self._status()[0])

    def ac_forget(self, event: EV_WORKER_ENDED) -> None:
        worker = cast(Worker, event.source)
        self.totals.ended(worker.name)
        self.destroy_gobj(worker)

    # -- starting and giving up --------------------------------------------------------------------

    def all_ready(self, _event: EV_WORKER_READY) -> bool:
        """Guard: the whole crew serves. One whose loop stands still just now has been ready."""
        return all(one.state in ("ST_READY", "ST_SILENT") for one in self._crew.values())

    def is_refused(self, event: EV_WORKER_DIED) -> bool:
        """Guard: it said why it cannot start, and nobody serves."""
        return event.refused is not None and self._nobody_serves()

    def is_hopeless(self, event: EV_WORKER_DIED) -> bool:
        """Guard: it dies at its start again and again, and nobody serves."""
        worker = cast(Worker, event.source)
        return event.at_start and worker.false_starts >= GIVE_UP and self._nobody_serves()

    def _nobody_serves(self) -> bool:
        return not any(one.serves for one in self._workers())

    def ac_give_up(self, event: EV_WORKER_DIED) -> None:
        worker = cast(Worker, event.source)
        if event.refused is None:
            self.exit_status = 1
            logger.critical(
                "giving up: worker %d died at its start %d times in succession and no other one "
                "serves; the last time: %s%s",
                worker.config.slot, worker.false_starts, event.why, self._details_of(event),
                extra=_about(worker, count=worker.false_starts),
            )  # fmt: skip
        else:
            self.exit_status = event.refused
            logger.critical(
                "giving up: worker %d cannot start: %s%s",
                worker.config.slot, event.why, self._details_of(event),
                extra=_about(worker, status=event.refused),
            )  # fmt: skip
        self.service.stopping(0, "gave up: the workers cannot start")
        self.gaplic.stop()

    def ac_all_serve(self, _event: EV_WORKER_READY) -> None:
        if not any(one.listens_at for one in self._crew.values()):
            logger.info("nothing listens yet: no worker has a GServerSock", extra=about(self))
        self._tell_running()
        if self._predecessor is not None:
            self._predecessor.take_over()

    def _tell_running(self) -> None:
        status, serving = self._status()
        logger.info("%s", status, extra=about(self, count=serving))
        self.service.ready(status)

    def _status(self) -> tuple[str, int]:
        count, serving = len(self._crew), sum(one.serves for one in self._crew.values())
        of = "" if serving == count else f"{serving} of "
        return f"{of}{counted(count, 'worker')} serve{'s' if count == 1 else ''}", serving

    def request(self, event: EV_ROLL | EV_UPGRADE) -> None:
        """Send ourselves what a signal asked for; say what becomes of it where that is not now.

        What waits is done once, however often it was asked for meanwhile.
        """
        if type(event) in self._waiting:
            return
        what = "the new parent" if isinstance(event, EV_UPGRADE) else "the replacing of workers"
        is_starting_parent = self.state == "ST_UPGRADING"
        if self.state == "ST_STARTING":
            self._waiting.add(type(event))
            late = [one.config.slot for one in self._crew.values() if not one.serves]
            logger.warning(
                "%s waits until every worker has been ready; worker %s has not",
                what, ", ".join(map(str, late)), extra=about(self, count=len(late)),
            )  # fmt: skip
        elif self.state == "ST_ROLLING" or (is_starting_parent and isinstance(event, EV_ROLL)):
            self._waiting.add(type(event))
            logger.info(
                "%s waits until %s", what,
                "it is known whether the new parent, whose workers are new, can start"
                if is_starting_parent else "the replacing that goes on has ended",
                extra=about(self),
            )  # fmt: skip
        elif self.state != "ST_RUNNING":
            logger.warning(
                "%s is not started: %s", what,
                "one is being started already" if is_starting_parent else "this parent is ending",
                extra=about(self),
            )  # fmt: skip
        self.send_event(self, event)

    # -- rolling -----------------------------------------------------------------------------------

    def ac_roll(self, _event: EV_ROLL) -> None:
        logger.info("replacing %s", counted(len(self._crew), "worker"), extra=about(self))
        self.service.reloading()
        # What changes from now on is for the next one.
        self._waiting.discard(EV_ROLL)
        self._told.clear()
        self._to_roll = list(self._crew)
        self._start_successor()

    def _start_successor(self) -> None:
        self._successor = self._make(self._to_roll.pop(0))

    def is_last_successor(self, event: EV_WORKER_READY) -> bool:
        """Guard: the new one is ready, and it was the last to be replaced."""
        return event.source is self._successor and not self._to_roll

    def is_successor(self, event: Event) -> bool:
        """Guard: it is the new one."""
        return event.source is self._successor

    def ac_replace(self, event: EV_WORKER_READY) -> None:
        self._take_successor(event)
        self._start_successor()

    def ac_replace_last(self, event: EV_WORKER_READY) -> None:
        self._take_successor(event)
        if all(worker.state == "ST_READY" for worker in self._crew.values()):
            # What only the old ones listened on; a client there would wait for ever.
            used = {key for one in self._crew.values() for key in one.listens_at}
            self._places.keep_only(used | self._own)
        self._tell_running()

    def _take_successor(self, event: EV_WORKER_READY) -> None:
        worker = cast(Worker, event.source)
        self._successor = None
        old, self._crew[worker.config.slot] = self._crew[worker.config.slot], worker
        self.send_event(old, EV_LEAVE(self.config.drain_timeout, last=False))

    def ac_break_off(self, event: EV_WORKER_DIED) -> None:
        worker = cast(Worker, event.source)
        self.totals.ended(worker.name)
        self._successor = None
        logger.error(
            "not replaced: the new worker died at its start: %s; %s from before serve on%s",
            event.why, counted(len(self._to_roll) + 1, "worker"), self._details_of(event),
            extra=_about(worker, count=len(self._to_roll) + 1),
        )  # fmt: skip
        self.destroy_gobj(worker)
        self._tell_running()

    # -- handing over ------------------------------------------------------------------------------

    def ac_upgrade(self, _event: EV_UPGRADE) -> None:
        config = self.config
        logger.info("starting a new parent", extra=about(self))
        self._waiting.discard(EV_UPGRADE)
        self._successor = self.create_gobj(
            None, Worker, self,
            command=config.command, environment=config.heir_environment, variable=HEIR,
            orphan=self.service.present and CAN_ORPHAN,
            # Its workers have theirs; it has given up by then unless some of them serve.
            start_timeout=config.start_timeout * (GIVE_UP + 1), silence=0,
        )  # fmt: skip

    def ac_hand_over(self, event: EV_WORKER_READY) -> None:
        heir = cast(Worker, event.source)
        self._successor = None
        self._waiting.clear()
        logger.info(
            "process %d takes over; draining %s", heir.pid, counted(len(self._crew), "worker"),
            extra=_about(heir),
        )  # fmt: skip
        self.service.main_process(heir.pid)
        self.send_event(heir, EV_LET_GO())
        self.destroy_gobj(heir)
        self._places.let_go()
        for gobj in list(self.gaplic.walk()):
            if isinstance(gobj, GServerSock):
                # A server of ours, such as that of the metrics, which is the heir's now.
                self.send_event(gobj, EV_DRAIN(self.config.drain_timeout, others_accept=True))
        for worker in self._workers():
            self.send_event(worker, EV_LEAVE(self.config.drain_timeout, last=False))

    def ac_no_heir(self, event: EV_WORKER_DIED) -> None:
        heir = cast(Worker, event.source)
        self._successor = None
        logger.error("not upgraded: the new parent died: %s", event.why, extra=_about(heir))
        self.destroy_gobj(heir)
        self._tell_running()

    # -- the end -----------------------------------------------------------------------------------

    def ac_terminate(self, event: EV_TERMINATE) -> None:
        self._successor = None
        self._waiting.clear()
        workers = self._workers()
        logger.info(
            "draining %s for at most %g s; a second SIGTERM ends at once",
            counted(len(workers), "worker"), event.timeout,
            extra=about(self, count=len(workers), seconds=event.timeout),
        )  # fmt: skip
        self.service.stopping(event.timeout, f"draining {counted(len(workers), 'worker')}")
        # Before they close theirs: what came in after the last of them has looked into the queue
        # would be reset by us, and who comes after that is refused and may try elsewhere.
        self._places.close()
        for worker in workers:
            self.send_event(worker, EV_LEAVE(event.timeout, last=True))

    def ac_forget_one(self, event: EV_WORKER_ENDED) -> None:
        self.ac_forget(event)
        if not self._workers():
            self.gaplic.stop()

    def _workers(self) -> list[Worker]:
        return [one for one in self.children.values() if isinstance(one, Worker)]

    machine = {
        # ginsfsm: ignore[forgotten-event]: none has been asked to leave yet
        "ST_STARTING": [
            on(EV_WORKER_READY,   ac_all_serve,    "ST_RUNNING",  when=all_ready),
            on(EV_WORKER_READY,   None),
            on(EV_WORKER_DIED,    ac_give_up,      "ST_FAILED",   when=is_refused),
            on(EV_WORKER_DIED,    ac_give_up,      "ST_FAILED",   when=is_hopeless),
            on(EV_WORKER_DIED,    ac_tell_death),
            on(EV_WANT_TO_LISTEN, ac_open),
            on(EV_ROLL,           POSTPONE),
            on(EV_UPGRADE,        POSTPONE),
            on(EV_TERMINATE,      ac_terminate,    "ST_DRAINING"),
            on(EV_ASK_STATS,      ac_ask_stats),
            on(EV_STATS,          ac_stats),
        ],
        "ST_RUNNING": [
            on(EV_WORKER_READY,   ac_tell_return),
            on(EV_WORKER_DIED,    ac_give_up,      "ST_FAILED",   when=is_hopeless),
            on(EV_WORKER_DIED,    ac_tell_death),
            on(EV_WORKER_ENDED,   ac_forget),
            on(EV_WANT_TO_LISTEN, ac_open),
            on(EV_ROLL,           ac_roll,         "ST_ROLLING"),
            on(EV_UPGRADE,        ac_upgrade,      "ST_UPGRADING"),
            on(EV_TERMINATE,      ac_terminate,    "ST_DRAINING"),
            on(EV_ASK_STATS,      ac_ask_stats),
            on(EV_STATS,          ac_stats),
        ],
        "ST_ROLLING": [
            on(EV_WORKER_READY,   ac_replace_last, "ST_RUNNING",  when=is_last_successor),
            on(EV_WORKER_READY,   ac_replace,                     when=is_successor),
            on(EV_WORKER_READY,   None),
            on(EV_WORKER_DIED,    ac_break_off,    "ST_RUNNING",  when=is_successor),
            on(EV_WORKER_DIED,    ac_tell_death),
            on(EV_WORKER_ENDED,   ac_forget),
            on(EV_WANT_TO_LISTEN, ac_open),
            on(EV_ROLL,           POSTPONE),
            on(EV_UPGRADE,        POSTPONE),
            on(EV_TERMINATE,      ac_terminate,    "ST_DRAINING"),
            on(EV_ASK_STATS,      ac_ask_stats),
            on(EV_STATS,          ac_stats),
        ],
        "ST_UPGRADING": [
            on(EV_WORKER_READY,   ac_hand_over,    "ST_DRAINING", when=is_successor),
            on(EV_WORKER_READY,   None),
            on(EV_WORKER_DIED,    ac_no_heir,      "ST_RUNNING",  when=is_successor),
            on(EV_WORKER_DIED,    ac_tell_death),
            on(EV_WORKER_ENDED,   ac_forget),
            on(EV_WANT_TO_LISTEN, ac_open),
            on(EV_ROLL,           POSTPONE),
            on(EV_UPGRADE,        None),
            on(EV_TERMINATE,      ac_terminate,    "ST_DRAINING"),
            on(EV_ASK_STATS,      ac_ask_stats),
            on(EV_STATS,          ac_stats),
        ],
        "ST_DRAINING": [
            on(EV_WORKER_ENDED,   ac_forget_one),
            on(EV_WORKER_READY,   None),
            on(EV_WORKER_DIED,    None),
            on(EV_WANT_TO_LISTEN, ac_open),
            on(EV_ROLL,           None),
            on(EV_UPGRADE,        None),
            on(EV_TERMINATE,      None),
            on(EV_ASK_STATS,      ac_ask_stats),
            on(EV_STATS,          ac_stats),
        ],
        "ST_FAILED": [
            on(EV_WANT_TO_LISTEN, None),
            on(EV_WORKER_ENDED,   None),
            on(EV_WORKER_READY,   None),
            on(EV_WORKER_DIED,    None),
            on(EV_ROLL,           None),
            on(EV_UPGRADE,        None),
            on(EV_TERMINATE,      None),
            on(EV_ASK_STATS,      None),
            on(EV_STATS,          ac_stats),
        ],
    }  # fmt: skip


def _about(worker: Worker, **fields: Any) -> dict[str, object]:
    return about(worker, worker=worker.config.slot, worker_pid=worker.pid or None, **fields)
