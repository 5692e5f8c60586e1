"""Admitting: who comes in, and what a connection is made of."""

from __future__ import annotations

import _socket
import logging
from errno import errorcode
from typing import Any, Final

from ginsfsm.c_sock import EV_CONNECTED, GSock
from ginsfsm.gobj import GObj
from ginsfsm.life import destroy, make
from ginsfsm.logs.fields import about
from ginsfsm.net.addresses import format_address
from ginsfsm.net.admission import Refusal
from ginsfsm.net.networks import packed_address
from ginsfsm.sock.base import RX_SIZE
from ginsfsm.sock.events import EV_ACCEPTED, EV_ACCEPTED_PROXY, EV_ACCEPTED_TLS
from ginsfsm.srv.events import (
    EV_ALARM,
    EV_FULL,
    EV_INCOMING,
    EV_NO_ROOM,
    EV_REFUSED,
    EV_ROOM,
    EV_TOO_FAST,
)
from ginsfsm.srv.listener import CAPACITY_ERRNOS, RETRY_ERRNOS, Listener
from ginsfsm.srv.renewing import Renewing

__all__ = ["Admitting"]

logger: Final = logging.getLogger("ginsfsm")

ACCEPTS_PER_TURN: Final = 64
"""So that a flood of new connections leaves the turn of the loop to those that exist."""

PAUSE: Final = 0.1
"""Seconds without accepting when there is no room; ten attempts a second cost nothing."""

EPISODE: Final = 1.0
"""Seconds between two failures that are told as one. Where many wait, each connection that closes
lets one more in and then there is no room again; that is no news."""

BEFORE_ADDRESS: Final = frozenset({Refusal.FULL, Refusal.PROXY, Refusal.SHUT})
"""What is found before anybody looks at the address. Who is in `deny` gets no word all the same."""


class Admitting(Renewing):
    """A server that lets connections in."""

    __slots__ = ()

    def ac_accept(self, event: EV_INCOMING) -> None:
        listener = event.listener
        accept = listener.accept
        for _ in range(max(1, ACCEPTS_PER_TURN // len(self._listeners))):
            # Asked for each: whoever hears of one may write other limits.
            if self._guarded and self._leaves_in_queue() and self._is_held_up():
                return
            try:
                sock, peername = accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self.ledger.count_accept_error(errorcode.get(error.errno or 0, "OTHER"))
                if error.errno in RETRY_ERRNOS:
                    continue
                self.send_event(self, EV_NO_ROOM(error))
                return
            self._admit(listener, sock, peername)
            if EV_INCOMING not in self._state:
                # Somebody destroyed the server, or there is no room for more.
                return

    def _leaves_in_queue(self) -> bool:
        config = self.config
        return config.overflow == "backlog" and bool(config.max_connections or config.accept_rate)

    def _is_held_up(self) -> bool:
        """Whether the next one has to wait in the queue; the machine has been told then."""
        admission = self._shared.admission
        if admission.full(len(self.ledger)):
            self.send_event(self, EV_FULL())
            return True
        if admission.wait(self.gaplic.time()):
            self.send_event(self, EV_TOO_FAST())
            return True
        return False

    def _admit(self, listener: Listener, sock: _socket.socket, peername: Any) -> None:
        """Make a gsock of an accepted socket, or close it."""
        subscriber = self._subscriber
        shared = self._shared
        if subscriber.destroyed or (
            shared.make_session is None
            and EV_CONNECTED not in subscriber._state
            and EV_CONNECTED in subscriber.compiled.accepted
        ):
            self._turn_away(sock, peername, Refusal.SHUT)
            return
        proxied = False
        place: bytes | None = None
        if self._guarded:
            proxied = shared.trusted is not None and self._is_trusted(peername)
            why = self._refusal(peername, proxied)
            if why is not None:
                self._turn_away(sock, peername, why)
                return
            place = self._enter(peername, proxied)
        gsock: GSock | None = None
        try:
            sockname = listener.sockname or sock.getsockname()
            gsock = make(
                GSock, self._free_child_name(subscriber), subscriber, self._children_config
            )
            gsock.take_over(sock, shared, place)
            place = None
            if proxied:
                gsock.send_event(gsock, EV_ACCEPTED_PROXY(peername, sockname))
            elif self._are_secure:
                gsock.send_event(gsock, EV_ACCEPTED_TLS(peername, sockname))
            else:
                gsock.send_event(gsock, EV_ACCEPTED(peername, sockname))
        except Exception as error:
            self.ledger.count_failed()
            logger.exception(
                "%s: the connection of %s could not be made", self.path, format_address(peername),
                extra=about(self, peer=peername, error=error),
            )  # fmt: skip
            if place is not None:
                shared.admission.leave(place)
            if gsock is not None:
                destroy(gsock)
            sock.close()
        if self._guarded:
            self._alarm()

    def _refusal(self, peername: Any, proxied: bool) -> Refusal | None:
        """Why it may not come in, if so."""
        shared = self._shared
        admission = shared.admission
        if admission.full(len(self.ledger)):
            return Refusal.FULL
        if shared.trusted is not None and not proxied and self.config.proxy_protocol == "require":
            return Refusal.PROXY
        if admission.active and not proxied:
            return admission.check(_host(peername), self.gaplic.time())
        return None

    def _enter(self, peername: Any, proxied: bool) -> bytes | None:
        """Count it by its address; None where nobody counts, or it is not known yet whose it is."""
        admission = self._shared.admission
        if not admission.active:
            return None
        if not proxied:
            return admission.enter(_host(peername))
        if self._leaves_in_queue():
            # When it is known it is too late to leave it in the queue.
            admission.check("", self.gaplic.time())
            return b""
        return None

    def _is_trusted(self, peername: Any) -> bool:
        if not isinstance(peername, tuple):
            # A Unix socket: its permissions say who may connect.
            return True
        assert self._shared.trusted is not None
        return packed_address(peername[0]) in self._shared.trusted

    def _turn_away(self, sock: _socket.socket, peername: Any, why: Refusal) -> None:
        if why in BEFORE_ADDRESS and self._is_denied(peername):
            why = Refusal.DENIED
        if self.config.reject_data and not self._begins_with_tls and why is not Refusal.DENIED:
            try:
                sock.send(self.config.reject_data)
            except OSError as error:
                logger.debug(
                    "%s: %s did not take why it was turned away: %s",
                    self.path, format_address(peername), error,
                    extra=about(self, peer=peername, reason=why, error=error),
                )  # fmt: skip
            try:
                # Closing with unread input makes the kernel send a reset, which can destroy that.
                sock.recv(RX_SIZE)
            except OSError:
                # It has said nothing yet.
                pass
        sock.close()
        self._shared.refuse(peername, why)

    def _is_denied(self, peername: Any) -> bool:
        """Whether its address may not come in; of a balancer's that is not known yet."""
        if self._shared.trusted is not None and self._is_trusted(peername):
            return False
        return self._shared.admission.denies(_host(peername))

    def _refused(self, peername: Any, why: Refusal) -> None:
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug(
                "%s: turned away %s: %s", self.path, format_address(peername), why,
                extra=about(self, peer=peername, reason=why),
            )  # fmt: skip
        self._tell(EV_REFUSED(peername, why))

    def _alarm(self) -> None:
        threshold = self.config.alarm_connections
        if not threshold:
            return
        now = self.gaplic.time()
        if len(self.ledger) >= threshold and now - self._alarm_at >= self.config.alarm_cooldown:
            self._alarm_at = now
            logger.warning(
                "%s: %d connections are open", self.path, len(self.ledger),
                extra=about(self, open=len(self.ledger)),
            )  # fmt: skip
            self._tell(EV_ALARM(len(self.ledger), threshold))

    def _free_child_name(self, subscriber: GObj) -> str:
        siblings = subscriber._children
        while True:
            self._count += 1
            name = f"{self.name}.clisrv_{self._count}"
            if siblings is None or name not in siblings:
                return name

    # -- no room -----------------------------------------------------------------------------------

    def _on_close(self) -> None:
        if EV_ROOM in self._state:
            self.send_event(self, EV_ROOM())

    def has_room(self, _event: EV_ROOM) -> bool:
        """Guard: there are fewer connections than `max_connections` again, or nobody waits."""
        return not self._leaves_in_queue() or not self._shared.admission.full(len(self.ledger))

    def has_token(self, _event: EV_ROOM) -> bool:
        """Guard: `accept_rate` lets the next one in, or nobody waits."""
        return not self._leaves_in_queue() or not self._shared.admission.wait(self.gaplic.time())

    def ac_wait_again(self, _event: EV_ROOM) -> None:
        # The rate may have changed, and a loop that counts in milliseconds may call too early.
        self.stop_waiting()
        self.wait_for_token()

    def wait_for_token(self) -> None:
        wait = self._shared.admission.wait(self.gaplic.time())
        self._room = self.gaplic.call_later(self, wait, self._on_close)

    def stop_waiting(self) -> None:
        if self._room is not None:
            self._room.cancel()
            self._room = None

    def ac_no_room(self, event: EV_NO_ROOM) -> None:
        before, self._no_room_at = self._no_room_at, self.gaplic.time()
        if self._no_room_at - before < EPISODE:
            return
        if event.error.errno in CAPACITY_ERRNOS:
            logger.warning(
                "%s: no room for more connections (%s) with %d open; accepting again when one "
                "closes, clients wait meanwhile",
                self.path, event.error.strerror, len(self.ledger),
                extra=about(self, error=event.error, open=len(self.ledger)),
            )  # fmt: skip
        else:
            logger.error(
                "%s: accepting failed (%s) with %d open; trying again every %s s",
                self.path, event.error, len(self.ledger), PAUSE,
                extra=about(self, error=event.error, open=len(self.ledger), seconds=PAUSE),
            )  # fmt: skip


def _host(peername: Any) -> str:
    """The address alone; a Unix socket has none."""
    return str(peername[0]) if isinstance(peername, tuple) else ""
