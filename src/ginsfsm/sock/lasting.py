"""Lasting: how long a connection may stay, and how long each part of it may take.

Every time here is a number that stands in the connection, and one sweep for all connections
(`ginsfsm.deadlines`) looks when the first of them may have come. What moves most, the moment of the
last byte, is only written down where it is received.
"""

from __future__ import annotations

import socket
from typing import Final

from ginsfsm.net.reason import Reason
from ginsfsm.poller import READ
from ginsfsm.sock.events import EV_EXPIRED
from ginsfsm.sock.receiving import Receiving

__all__ = ["Lasting"]

RATE_WINDOW: Final = 10.0
"""Seconds over which `min_rx_rate` is an average: a phone that changes its cell is silent for a
few."""

FOREVER: Final = float("inf")

TIMES: Final = frozenset(
    {
        "proxy_timeout", "handshake_timeout", "first_data_timeout", "idle_timeout", "max_lifetime",
        "min_rx_rate",
    }
)  # fmt: skip
"""Parameters that move a deadline."""


class Lasting(Receiving):
    """A connection that has deadlines."""

    __slots__ = ()

    def parameters_written(self, names: frozenset[str]) -> None:
        """Times hold for the connection as it stands, counted from when they always began."""
        super().parameters_written(names)
        if names & TIMES and self._sock is not None:
            # The first one may come before the look that is due now, or none may have been due.
            self.gaplic.deadlines.soon(self)

    def deadline_reached(self, now: float) -> float | None:
        """The sweep looks; see `ginsfsm.deadlines.Watched`."""
        if self.destroyed or self._sock is None or EV_EXPIRED not in self._state:
            return None
        when, reason = self._first_deadline(now)
        if when > now:
            return when if when < FOREVER else None
        if self._may_be_moved(now):
            # The look came before the socket had its turn, as after a sleep of the machine.
            return now
        self.send_event(self, EV_EXPIRED(reason))
        return None

    def _may_be_moved(self, now: float) -> bool:
        """Whether there is input in the kernel that moves the deadline which is due."""
        if self._state.name != "ST_CONNECTED" or not self._mask & READ:
            return False
        if self.config.max_lifetime and self._since + self.config.max_lifetime <= now:
            return False
        try:
            self._sock.recv(1, socket.MSG_PEEK)  # type: ignore[union-attr]
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            # The poller says so as well.
            return True
        return True

    def _first_deadline(self, now: float) -> tuple[float, Reason]:
        config = self.config
        state = self._state.name
        if state == "ST_PROXY":
            return self._since + (config.proxy_timeout or FOREVER), Reason.TIMEOUT
        if state == "ST_HANDSHAKE":
            return self._since + (config.handshake_timeout or FOREVER), Reason.TIMEOUT
        found = (FOREVER, Reason.IDLE)
        if config.max_lifetime:
            found = (self._since + config.max_lifetime, Reason.TIMEOUT)
        if self._rx_ended:
            # The peer has said that it says no more.
            return found
        if not self._mask & READ or (self._framing is not None and self._frames):
            self._skip_pause(now)
        if config.idle_timeout:
            found = min(found, (self._heard + config.idle_timeout, Reason.IDLE))
        if config.first_data_timeout and self.rx_bytes == self._rx_before:
            # Without data `_heard` is the beginning, later by the pauses.
            found = min(found, (self._heard + config.first_data_timeout, Reason.IDLE))
        if config.min_rx_rate:
            found = min(found, (self._rate_deadline(now, config.min_rx_rate), Reason.TIMEOUT))
        return found

    def _rate_deadline(self, now: float, rate: float) -> float:
        """When the window ends; a window in which enough came makes room for the next."""
        end = self._rate_since + RATE_WINDOW
        if now >= end and self.rx_bytes - self._rate_bytes >= rate * RATE_WINDOW:
            self._rate_since = now
            self._rate_bytes = self.rx_bytes
            return now + RATE_WINDOW
        return end
