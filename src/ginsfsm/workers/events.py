"""The events of workers: those that cross the channel, and those that stay in one process.

A `Message` goes over the channel as a line of JSON: its name in "type", and its fields.
"""

from __future__ import annotations

from ginsfsm.event import Event
from ginsfsm.net.place import Place
from ginsfsm.snapshot import Snapshot

__all__ = [
    "EV_ALIVE",
    "EV_ASK_STATS",
    "EV_CANNOT_START",
    "EV_CHANNEL_ENDED",
    "EV_LEAVE",
    "EV_LEAVING",
    "EV_LET_GO",
    "EV_LISTENING",
    "EV_PROCESS_ENDED",
    "EV_READY",
    "EV_ROLL",
    "EV_STATS",
    "EV_TERMINATE",
    "EV_UPGRADE",
    "EV_WANT_TO_LISTEN",
    "EV_WORKER_DIED",
    "EV_WORKER_ENDED",
    "EV_WORKER_READY",
    "Message",
]


class Message(Event, tag=True):
    """What crosses the channel."""


# -- from the worker -------------------------------------------------------------------------------


class EV_WANT_TO_LISTEN(Message, tag=True):
    """A server is being made: open this place, or give the sockets that are open there."""

    path: str
    place: Place


class EV_READY(Message, tag=True):
    """The target is made and the loop runs."""


class EV_ALIVE(Message, tag=True):
    """The loop turns."""


class EV_LEAVING(Message, tag=True):
    """The worker drains though nobody here asked it to: somebody sent it a signal."""


class EV_CANNOT_START(Message, tag=True):
    """The target cannot be made, or has failed: why, and the exit status.

    The first line of the reason is a summary; what follows, such as a traceback, is told once.
    """

    reason: str
    status: int


class EV_STATS(Message, tag=True):
    """What the worker has counted."""

    snapshot: Snapshot


# -- to the worker ---------------------------------------------------------------------------------


class EV_LISTENING(Message, tag=True):
    """The answer to `EV_WANT_TO_LISTEN`; the descriptors come with it.

    `sockets` says how many. Where there is none, `error` says why, and `errno`. They are
    `inherited` where the parent has them of somebody else, who keeps them when it ends. `file` is
    that of a Unix socket: device and inode.
    """

    sockets: int = 0
    port: int = 0
    inherited: bool = False
    error: str = ""
    errno: int = 0
    file: tuple[int, int] | None = None


class EV_LEAVE(Message, tag=True):
    """Drain within `timeout` seconds, then end.

    With `last` nobody else will accept, so who waits in the queue is still taken.
    """

    timeout: float
    last: bool


class EV_ASK_STATS(Message, tag=True):
    """Tell what you have counted."""


# -- in one process --------------------------------------------------------------------------------


class EV_CHANNEL_ENDED(Event):
    """The process at the other end has closed it, or has died."""


class EV_PROCESS_ENDED(Event):
    """The process of a worker has ended, and has been waited for.

    `status` is its exit status, or the negative number of the signal that killed it.
    """

    status: int
    pid: int = 0
    """Its number; 0 where none could be started."""
    killed: bool = False
    """We have killed it, and have said why."""


class EV_WORKER_READY(Event):
    """A worker serves."""


class EV_WORKER_DIED(Event):
    """A worker ended unasked; the next is started in its place after `delay` seconds."""

    why: str
    delay: float
    at_start: bool
    """It had not been ready yet."""
    refused: int | None = None
    """Its exit status where it said itself why it cannot start."""
    details: str = ""
    """What it said beside that one line."""


class EV_WORKER_ENDED(Event):
    """A worker that was to leave has ended."""


class EV_ROLL(Event):
    """Replace every worker by a new one."""


class EV_LET_GO(Event):
    """The process is to live on without us."""


class EV_UPGRADE(Event):
    """Start a new parent, and hand the sockets over to it when it is ready."""


class EV_TERMINATE(Event):
    """Drain every worker within `timeout` seconds, then stop."""

    timeout: float
