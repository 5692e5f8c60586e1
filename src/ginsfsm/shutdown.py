"""Shutdown: a program ends when its servers have drained.

The command `ginsfsm run` makes one of these when it gets SIGTERM. Every server of the tree gets
`EV_DRAIN`, so its owner and its sessions hear `EV_DRAINING` and may say good-bye. When the last of
their connections has gone, or the time is over and the rest has been aborted, the gaplic stops.

A server that is to be there until the end, that of the metrics above all, is left out of this: its
owner's gclass says so with `ends_last = True`. It goes with the tree.

A server that its owner destroys meanwhile, or has destroyed before, tells no more, but its
connections live on. So the books of all servers are looked at from time to time as well, and what
counts is that they are empty.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from ginsfsm.c_sock import GSock
from ginsfsm.c_srv_sock import EV_DRAIN, EV_DRAINED, GServerSock
from ginsfsm.c_timer import EV_SET_TIMER, EV_TIMEOUT, GTimer
from ginsfsm.gconfig import param
from ginsfsm.gobj import GObj
from ginsfsm.logs.fields import about
from ginsfsm.net.words import counted
from ginsfsm.row import on

if TYPE_CHECKING:
    from ginsfsm.gaplic import GAplic
    from ginsfsm.net.ledger import Ledger
    from ginsfsm.sock.base import SockBase

__all__ = ["Shutdown", "anybody_to_wait_for", "servers_to_drain"]

logger: Final = logging.getLogger("ginsfsm")

LOOK: Final = 0.05
"""Seconds between two looks at servers that cannot tell any more."""


def servers_to_drain(app: GAplic) -> list[GServerSock]:
    """The servers whose clients one waits for."""
    return [
        one
        for one in app.walk()
        if isinstance(one, GServerSock)
        and not one.destroyed
        and one.state != "ST_CLOSED"
        and not getattr(type(one.parent), "ends_last", False)
    ]


def _books_without_server(app: GAplic) -> list[Ledger[SockBase]]:
    """Those of servers that have gone, and whose connections live on."""
    found: dict[Ledger[SockBase], None] = {}
    kept = set()
    for one in app.walk():
        if isinstance(one, GServerSock):
            kept.add(one.ledger)
        elif isinstance(one, GSock) and one._reception is not None and one._sock is not None:
            found[one._reception.ledger] = None
    return [ledger for ledger in found if ledger not in kept]


def anybody_to_wait_for(app: GAplic) -> bool:
    """Whether there is a server to drain, or a connection that has survived its own."""
    return bool(servers_to_drain(app) or _books_without_server(app))


class Shutdown(GObj):
    """Drains every server of the tree, then stops the gaplic."""

    class config(GObj.config):
        """How long it may take."""

        timeout: float = param(30.0, "seconds for the connections to end; 0 aborts them", ge=0)
        others_accept: bool = param(False, "leave who waits in the queue to other processes")

    def start_up(self) -> None:
        """Let them all drain, and begin to wait."""
        self._aborted = 0
        self._end = self.gaplic.time() + self.config.timeout
        servers = servers_to_drain(self.gaplic)
        # Those that have not told yet that they have drained.
        self._draining = set(servers)
        self._left_over = _books_without_server(self.gaplic)
        logger.info(
            "draining %s with %s, for at most %g s; a second SIGTERM ends at once",
            counted(len(servers), "server"),
            counted(sum(len(one.ledger) for one in servers) + self._orphans(), "connection"),
            self.config.timeout,
            extra=about(self, count=len(servers), seconds=self.config.timeout),
        )  # fmt: skip
        timer = self.create_gobj("timer", GTimer, self)
        self.send_event(timer, EV_SET_TIMER(LOOK, autostart=True))
        drain = EV_DRAIN(self.config.timeout, self.config.others_accept)
        for server in servers:
            # Not where what another one told its owner made that destroy it.
            if not server.destroyed:
                server.subscribe_event(EV_DRAINED, self)
                self.gaplic.deliver_contained(server, drain.sent_by(self))

    def ac_drained(self, event: EV_DRAINED) -> None:
        assert isinstance(event.source, GServerSock)
        self._draining.discard(event.source)
        self._aborted += event.remaining
        self._look()

    def ac_look(self, _event: EV_TIMEOUT) -> None:
        self._look()

    def _orphans(self) -> int:
        """How many connections are open whose servers had gone when this began."""
        return sum(map(len, self._left_over))

    def _look(self) -> None:
        """Stop when there is nobody left to wait for."""
        if any(not server.destroyed for server in self._draining):
            return
        orphans = self._orphans() + sum(len(server.ledger) for server in self._draining)
        if orphans and self.gaplic.time() < self._end:
            return
        self._aborted += orphans
        if self._aborted:
            logger.warning(
                "drained; %s had to be aborted", counted(self._aborted, "connection"),
                extra=about(self, count=self._aborted),
            )  # fmt: skip
        else:
            logger.info("drained; 0 connections had to be aborted", extra=about(self, count=0))
        self.set_new_state("ST_DRAINED")
        self.gaplic.stop()

    machine = {
        "ST_DRAINING": [
            on(EV_DRAINED, ac_drained, may=("ST_DRAINED",)),
            on(EV_TIMEOUT, ac_look,    may=("ST_DRAINED",)),
        ],
        "ST_DRAINED": [
            on(EV_DRAINED, None),
            on(EV_TIMEOUT, None),
        ],
    }  # fmt: skip
