"""Reception: what a server and the connections that it accepted share; it outlives the server."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from ginsfsm.logs.fields import about
from ginsfsm.net.admission import Admission, Refusal
from ginsfsm.net.ledger import Ledger
from ginsfsm.net.tls_source import TlsSource

if TYPE_CHECKING:
    from ginsfsm.gobj import GObj
    from ginsfsm.net.networks import Networks
    from ginsfsm.sock.base import SockBase

__all__ = ["Reception"]

logger: Final = logging.getLogger("ginsfsm")

FORGOTTEN: Final = 100
"""Ended connections that nobody destroyed at which that is told. Some may be kept on purpose."""


class Reception:
    """The books of a server, and what its connections need to know of it.

    Attributes:
        path: the server's path, for logs.
        ledger: which connections are open.
        admission: who may come in, by address, number and rate.
        trusted: the balancers whose PROXY header counts.
        tls_source: where connections get their TLS from; None for plain ones.
        make_session: makes the gobj for a connection that is ready; None where the subscriber is
            its owner.
        on_refused: told of each connection that was turned away, with its peer's address; None when
            the server has gone.
        on_session: told of each session that has heard of its connection; None but in a drain.
        forgotten: connections that have ended and that their subscriber has not destroyed.
    """

    __slots__ = (
        "_warned",
        "admission",
        "forgotten",
        "ledger",
        "make_session",
        "on_refused",
        "on_session",
        "path",
        "tls_source",
        "trusted",
    )

    def __init__(self, path: str, ledger: Ledger[SockBase], admission: Admission) -> None:
        self.path = path
        self.ledger = ledger
        self.admission = admission
        self.trusted: Networks | None = None
        self.tls_source: TlsSource | None = None
        self.make_session: Callable[[SockBase], GObj] | None = None
        self.on_refused: Callable[[Any, Refusal], None] | None = None
        self.on_session: Callable[[GObj], None] | None = None
        self.forgotten = 0
        self._warned = False

    def refuse(self, peername: Any, why: Refusal) -> None:
        """Count a connection that is turned away, and tell the server."""
        self.ledger.count_refused(why)
        if self.on_refused is not None:
            self.on_refused(peername, why)

    def give_back(self) -> None:
        """The rate does not count a connection that took its token; so the next one may come."""
        self.admission.give_back()
        if self.ledger.on_close is not None:
            self.ledger.on_close()

    def forget(self, subscriber: str) -> None:
        """A connection has ended and lives on; it is in the way until somebody destroys it."""
        self.forgotten += 1
        if self.forgotten >= FORGOTTEN and not self._warned:
            self._warned = True
            logger.warning(
                "%s: %d connections of %s have ended and were not destroyed; call "
                "destroy_gobj(event.source) on EV_DISCONNECTED, or give the server "
                "destroy_on_disconnect=True",
                subscriber, self.forgotten, self.path,
                extra=about(path=self.path, count=self.forgotten),
            )  # fmt: skip
