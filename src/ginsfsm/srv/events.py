"""The events of a GServerSock: from its owner, to its owner, and what it says to itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ginsfsm.event import Event
from ginsfsm.net.admission import Refusal

if TYPE_CHECKING:
    from ginsfsm.srv.listener import Listener

__all__ = [
    "EV_ALARM",
    "EV_DEADLINE",
    "EV_DRAIN",
    "EV_DRAINED",
    "EV_DRAINING",
    "EV_FULL",
    "EV_INCOMING",
    "EV_LISTEN",
    "EV_LOOK",
    "EV_NO_ROOM",
    "EV_PAUSE_ACCEPT",
    "EV_REFUSED",
    "EV_RELOAD_TLS",
    "EV_RESUME_ACCEPT",
    "EV_ROOM",
    "EV_TOO_FAST",
]


class EV_RELOAD_TLS(Event):
    """Read the files of `ssl_options` again, for the handshakes from now on.

    The action returns True; or False where they are bad or there is no TLS. Then the log says why,
    and what was in use stays in use.
    """


class EV_PAUSE_ACCEPT(Event):
    """Accept nobody; who comes waits in the kernel's queue."""


class EV_RESUME_ACCEPT(Event):
    """Accept again."""


class EV_DRAIN(Event):
    """Stop listening for good, and wait until the connections have ended.

    Those that are still open after `timeout` seconds are aborted with the reason `"drained"`; 0
    aborts them at once, and infinity never. Raises EventError for what is no such time, and the
    server goes on as before.
    """

    timeout: float = 30.0
    others_accept: bool = False
    """Other processes accept on the same sockets, so who waits in the queue is left to them."""


class EV_DRAINING(Event):
    """The server drains: say good-bye to its connections. A session gets it as well."""


class EV_DRAINED(Event):
    """The last connection has gone."""

    remaining: int
    """How many had to be aborted."""


class EV_REFUSED(Event):
    """A connection was turned away."""

    peername: Any
    reason: Refusal


class EV_ALARM(Event):
    """So many connections are open that somebody should know; see `alarm_connections`."""

    n_gsocks: int
    threshold: int


class EV_LOOK(Event):
    """It is time to look at the certificates."""


class EV_LISTEN(Event):
    """The sockets are bound and listen."""


class EV_INCOMING(Event):
    """A listening socket has connections to accept."""

    listener: Listener


class EV_NO_ROOM(Event):
    """The system has no room for another connection."""

    error: OSError


class EV_FULL(Event):
    """`max_connections` are open."""


class EV_TOO_FAST(Event):
    """`accept_rate` is used up."""


class EV_ROOM(Event):
    """A connection has closed, or a limit has changed, or time has passed."""


class EV_DEADLINE(Event):
    """The time that a drain has is over."""
