"""GServerSock: the listening socket.

It listens in `start_up` where its parameters say: on addresses and a port, or the first free one of
several, on a Unix socket, or on sockets that this process was started with. The gaplic opens them
(`GAplic.listen`), so that a worker can get them of its parent. Each connection that it accepts
becomes a `GSock`, a child of the subscriber, and from its `EV_CONNECTED` on the relation is between
that gsock and the subscriber: the server sends it nothing and hears nothing of it. With `session` a
gobj of that gclass is made for each connection instead, under the subscriber; it owns the gsock and
goes with it. What the server and its connections share is the ledger, where a connection stands
from when it is accepted until its descriptor closes. Destroying the server closes the listener
only.

ST_LISTENING. The poller watches the listening sockets, and a turn of the loop accepts at most 64
connections. Whoever may not come in (`deny`, a limit, a rate) is closed at once, and so is
everybody while the subscriber's present state has no row for `EV_CONNECTED`: the door is shut. They
are counted, and told with `EV_REFUSED` to whoever has a row for it. A failure while a connection is
being made closes that one, and the next is accepted.

With `ssl_options` a connection makes its handshake by itself, and is told when that is complete.
The certificates may change while the server runs: `EV_RELOAD_TLS`, or `watch_certificates` when
their files do. What is new is built and checked first. It holds as a whole for the handshakes that
begin from then on, and if it is bad, the old one serves on.

ST_NO_ROOM. The process, or the system, has no descriptor or memory left for another connection. A
server that went on would spin, since the listening socket stays ready; one that closed would lose
its clients. So the poller watches no longer, the clients wait in the kernel's queue, and accepting
goes on when a connection closes, or after 100 ms, since the room may come from elsewhere.

ST_FULL, ST_THROTTLED. With `overflow="backlog"` those above `max_connections`, or above
`accept_rate`, wait in the kernel's queue too, until a connection closes or the time has come.

ST_PAUSED. The owner wants nobody accepted for a while (`EV_PAUSE_ACCEPT`).

ST_DRAINING. The owner wants to end (`EV_DRAIN`). Who waits in the queue is still accepted, as far
as the limits let it and unless another process accepts on the same sockets, and the listening
sockets close for good. The subscriber, and each session, hears `EV_DRAINING` and may say good-bye.
When the last connection has gone, or the time is over and the rest has been aborted, `EV_DRAINED`
tells how many that were.

ST_CLOSED. It listens no more.
"""

from __future__ import annotations

import logging
from errno import errorcode
from typing import Final

from ginsfsm.errors import EventError, GObjError
from ginsfsm.gobj import GObj
from ginsfsm.logs.fields import about
from ginsfsm.net.addresses import ListenError
from ginsfsm.net.admission import Refusal
from ginsfsm.net.reason import Reason
from ginsfsm.row import after, enter, leave, on
from ginsfsm.seconds import is_seconds
from ginsfsm.sock.events import EV_FAILED
from ginsfsm.sock.options import set_options
from ginsfsm.srv.admitting import PAUSE, Admitting
from ginsfsm.srv.events import (
    EV_ALARM,
    EV_DEADLINE,
    EV_DRAIN,
    EV_DRAINED,
    EV_DRAINING,
    EV_FULL,
    EV_INCOMING,
    EV_LISTEN,
    EV_LOOK,
    EV_NO_ROOM,
    EV_PAUSE_ACCEPT,
    EV_REFUSED,
    EV_RELOAD_TLS,
    EV_RESUME_ACCEPT,
    EV_ROOM,
    EV_TOO_FAST,
)
from ginsfsm.srv.listener import RETRY_ERRNOS, Listener, give_back
from ginsfsm.srv.renewing import Renewing

__all__ = [
    "EV_ALARM",
    "EV_DRAIN",
    "EV_DRAINED",
    "EV_DRAINING",
    "EV_PAUSE_ACCEPT",
    "EV_REFUSED",
    "EV_RELOAD_TLS",
    "EV_RESUME_ACCEPT",
    "GServerSock",
    "Refusal",
]

logger: Final = logging.getLogger("ginsfsm")


class GServerSock(Admitting):
    """GSock gobj acting as a server socket.

    Attributes:
        ledger: the books: who is open, and how many were accepted, refused and failed.
    """

    __slots__ = ()

    def start_up(self) -> None:
        """Listen where the parameters say."""
        self._prepare()
        self.ledger.on_close = self._on_close
        self._shared.on_refused = self._refused
        config = self.config
        try:
            listening = self.gaplic.listen(self.path, self._place_to_listen())
        except ListenError as error:
            raise GObjError(f"{self.path}: {error}") from error
        self._listening = listening
        self._listeners = tuple(Listener(self, sock) for sock in listening.sockets)
        for sock in listening.sockets:
            set_options(sock, config)
        self._own_config._keep("port", listening.port)
        self._own_config._keep_live("n_gsocks", self.ledger.__len__)
        self.send_event(self, EV_LISTEN())
        self._look_at_certificates()

    def go_out(self) -> None:
        """Close the listening sockets; the connections live on with their subscriber."""
        self.ledger.on_close = None
        self._shared.on_refused = None
        self._shared.on_session = None
        self._close_listeners()
        for timer in (self._look, self._drain, self._room):
            if timer is not None:
                timer.cancel()

    def parameters_written(self, names: frozenset[str]) -> None:
        """What concerns connections holds for those accepted from now on, limits at once."""
        self._written(names)
        if names & {"ssl_options", "watch_certificates"}:
            self._look_at_certificates()
        # A limit may be higher now.
        self._on_close()

    def _close_listeners(self) -> None:
        self.stop_watching()
        self._listeners = ()
        listening, self._listening = self._listening, None
        if listening is not None:
            give_back(listening, self.path, self)

    # -- the machine -------------------------------------------------------------------------------

    def watch(self) -> None:
        try:
            for listener in self._listeners:
                listener.watch()
        except OSError as error:
            # A system without memory may have none for this either; a deaf server would be worse.
            self.send_event(self, EV_NO_ROOM(error))

    def stop_watching(self) -> None:
        for listener in self._listeners:
            listener.stop_watching()

    def is_timed(self, event: EV_DRAIN) -> bool:
        """Guard: it says how long. What is no time raises before anything is closed."""
        if not is_seconds(event.timeout) or event.timeout < 0:
            raise EventError(
                f"{self.path}: EV_DRAIN: expected timeout to be a number of seconds, 0 or more, "
                f"got {event.timeout!r}; 0 aborts the connections at once"
            )
        return True

    def ac_drain(self, event: EV_DRAIN) -> None:
        # The last word counts, also of whoever says it because of what this one tells.
        self._drain_time = event.timeout
        listeners, self._listeners = self._listeners, ()
        if listeners:
            shared = self._listening is None or self._listening.shared
            if not (shared or event.others_accept):
                self._accept_the_last(listeners)
            self._close_listeners()
            if not self.destroyed:
                self._tell_draining()
        elif self._listening is not None:
            # From the owner of one that was accepted, and there may be more to accept.
            return
        self._stop_timer()
        if EV_DEADLINE not in self._state:
            # What was told has ended it.
            return
        if not len(self.ledger):
            self.send_event(self, EV_ROOM())
        elif not self._drain_time:
            self.send_event(self, EV_DEADLINE())
        else:
            self._drain = self.gaplic.call_later(self, self._drain_time, self._drain_is_over)

    def _stop_timer(self) -> None:
        if self._drain is not None:
            self._drain.cancel()
            self._drain = None

    def _accept_the_last(self, listeners: tuple[Listener, ...]) -> None:
        for listener in listeners:
            # No more than could wait when it began; who comes meanwhile comes too late.
            for _ in range(self.config.backlog + 1):
                try:
                    sock, peername = listener.accept()
                except InterruptedError:
                    continue
                except BlockingIOError:
                    break
                except OSError as error:
                    self.ledger.count_accept_error(errorcode.get(error.errno or 0, "OTHER"))
                    if error.errno in RETRY_ERRNOS:
                        continue
                    logger.warning(
                        "%s: draining, and no room for those who still wait (%s); they are reset",
                        self.path, error.strerror, extra=about(self, error=error),
                    )  # fmt: skip
                    break
                self._admit(listener, sock, peername)
                if self.destroyed:
                    # Whoever heard of the connection did that, and the listeners are closed.
                    return

    def _tell_draining(self) -> None:
        # For those whose handshake is still under way.
        self._shared.on_session = self._tell_session
        self._tell(EV_DRAINING())
        for gsock in self.ledger:
            if gsock._in_session:
                self._tell_session(gsock.parent)

    def _tell_session(self, session: GObj) -> None:
        if EV_DRAINING in session._state:
            self.gaplic.deliver_contained(session, EV_DRAINING().sent_by(self))

    def _drain_is_over(self) -> None:
        self._drain = None
        self.send_event(self, EV_DEADLINE())

    def is_empty(self, _event: EV_ROOM) -> bool:
        """Guard: no connection is open, and none is still to be accepted."""
        return self._listening is None and not len(self.ledger)

    def ac_drained(self, _event: EV_ROOM) -> None:
        self._finish_drain(0)

    def ac_abort_rest(self, _event: EV_DEADLINE) -> None:
        rest = list(self.ledger)
        for gsock in rest:
            if EV_FAILED in gsock._state:
                gsock.send_event(gsock, EV_FAILED(Reason.DRAINED))
        self._finish_drain(len(rest))

    def _finish_drain(self, remaining: int) -> None:
        self._stop_timer()
        # Behind what the connections have to tell of their ends.
        self.gaplic.poller.defer(lambda: self._tell_drained(remaining))

    def _tell_drained(self, remaining: int) -> None:
        if not self.destroyed:
            self._tell(EV_DRAINED(remaining))

    machine = {
        "ST_IDLE": [
            on(EV_LISTEN, None, "ST_LISTENING"),
        ],
        "ST_LISTENING": [
            enter(watch),
            on(EV_INCOMING,      Admitting.ac_accept),
            on(EV_NO_ROOM,       Admitting.ac_no_room,   "ST_NO_ROOM"),
            on(EV_FULL,          None,                   "ST_FULL"),
            on(EV_TOO_FAST,      None,                   "ST_THROTTLED"),
            on(EV_PAUSE_ACCEPT,  None,                   "ST_PAUSED"),
            on(EV_RESUME_ACCEPT, None),
            on(EV_DRAIN,         ac_drain,               "ST_DRAINING", when=is_timed),
            on(EV_RELOAD_TLS,    Renewing.ac_reload_tls),
            on(EV_LOOK,          Renewing.ac_look),
            leave(stop_watching),
        ],
        "ST_NO_ROOM": [
            on(EV_ROOM,          None,                   "ST_LISTENING"),
            after(PAUSE,         None,                   "ST_LISTENING"),
            on(EV_PAUSE_ACCEPT,  None,                   "ST_PAUSED"),
            on(EV_RESUME_ACCEPT, None),
            on(EV_DRAIN,         ac_drain,               "ST_DRAINING", when=is_timed),
            on(EV_RELOAD_TLS,    Renewing.ac_reload_tls),
            on(EV_LOOK,          Renewing.ac_look),
        ],
        "ST_FULL": [
            on(EV_ROOM,          None,                   "ST_LISTENING", when=Admitting.has_room),
            on(EV_ROOM,          None),
            on(EV_PAUSE_ACCEPT,  None,                   "ST_PAUSED"),
            on(EV_RESUME_ACCEPT, None),
            on(EV_DRAIN,         ac_drain,               "ST_DRAINING", when=is_timed),
            on(EV_RELOAD_TLS,    Renewing.ac_reload_tls),
            on(EV_LOOK,          Renewing.ac_look),
        ],
        "ST_THROTTLED": [
            enter(Admitting.wait_for_token),
            on(EV_ROOM,          None,                   "ST_LISTENING", when=Admitting.has_token),
            on(EV_ROOM,          Admitting.ac_wait_again),
            on(EV_PAUSE_ACCEPT,  None,                   "ST_PAUSED"),
            on(EV_RESUME_ACCEPT, None),
            on(EV_DRAIN,         ac_drain,               "ST_DRAINING", when=is_timed),
            on(EV_RELOAD_TLS,    Renewing.ac_reload_tls),
            on(EV_LOOK,          Renewing.ac_look),
            leave(Admitting.stop_waiting),
        ],
        "ST_PAUSED": [
            on(EV_RESUME_ACCEPT, None,                   "ST_LISTENING"),
            on(EV_PAUSE_ACCEPT,  None),
            on(EV_DRAIN,         ac_drain,               "ST_DRAINING", when=is_timed),
            on(EV_RELOAD_TLS,    Renewing.ac_reload_tls),
            on(EV_LOOK,          Renewing.ac_look),
        ],
        "ST_DRAINING": [
            on(EV_ROOM,          ac_drained,             "ST_CLOSED",    when=is_empty),
            on(EV_ROOM,          None),
            on(EV_DEADLINE,      ac_abort_rest,          "ST_CLOSED"),
            on(EV_DRAIN,         ac_drain,                              when=is_timed),
            on(EV_PAUSE_ACCEPT,  None),
            on(EV_RESUME_ACCEPT, None),
            on(EV_RELOAD_TLS,    Renewing.ac_reload_tls),
            on(EV_LOOK,          Renewing.ac_look),
        ],
        "ST_CLOSED": [
            on(EV_DRAIN,         None,                                  when=is_timed),
            on(EV_PAUSE_ACCEPT,  None),
            on(EV_RESUME_ACCEPT, None),
            on(EV_RELOAD_TLS,    None),
            on(EV_LOOK,          None),
        ],
    }  # fmt: skip
