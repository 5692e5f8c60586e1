"""Sending: what goes to the peer at once, and what waits until it takes more."""

from __future__ import annotations

import logging
import socket
from typing import Final

from ginsfsm.errors import EventError
from ginsfsm.logs.fields import about
from ginsfsm.net.addresses import format_address
from ginsfsm.net.output import OutputQueue
from ginsfsm.net.reason import Reason, reason_of
from ginsfsm.poller import WRITE
from ginsfsm.smachine import NOT_ACCEPTED, NotAccepted
from ginsfsm.sock.base import SockBase
from ginsfsm.sock.events import (
    EV_FAILED,
    EV_FLUSH_OUTPUT_DATA,
    EV_FLUSHED,
    EV_SEND_DATA,
    EV_WRITABLE,
    EV_WRITE_OUTPUT_DATA,
)

__all__ = ["Sending", "octets"]

logger: Final = logging.getLogger("ginsfsm")


class Sending(SockBase):
    """A connection that sends."""

    __slots__ = ()

    def ac_send(self, event: EV_SEND_DATA) -> bool | NotAccepted:
        data: bytes | memoryview = event.data
        if self._tx is not None:
            answer = self._queue(data)
            if not self._mask & WRITE:
                self._flush()
            return answer
        if type(data) is not bytes:
            data = octets(data)
        try:
            sent = self._stream.send(data)  # type: ignore[union-attr]
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self._send_failed(error)
            return NOT_ACCEPTED
        self.tx_bytes += sent
        self._tx_count += 1.0
        if sent != len(data):
            rest = memoryview(data)[sent:]
            # A buffer that the sender may change must be copied; bytes cannot change.
            self._append(rest if type(data) is bytes else bytes(rest))
            self._wait_for(self._mask | WRITE)
        return True

    def ac_write(self, event: EV_WRITE_OUTPUT_DATA | EV_SEND_DATA) -> bool | NotAccepted:
        return self._queue(event.data)

    def ac_flush(self, _event: EV_FLUSH_OUTPUT_DATA) -> bool:
        if not self._mask & WRITE:
            self._flush()
        return True

    def ac_writable(self, _event: EV_WRITABLE) -> None:
        if self._mask & WRITE:
            self._flush()

    def _queue(self, data: bytes | memoryview) -> bool | NotAccepted:
        if type(data) is not bytes:
            # Copied: the sender may change it, and a view may hold much more than it shows.
            data = bytes(octets(data))
        if self._tx_error is not None:
            # Nobody will take it; the end of the connection is on its way.
            return NOT_ACCEPTED
        if self._tx is not None and self._tx.size > self.config.tx_max:
            self.send_event(self, EV_FAILED(Reason.TX_OVERFLOW))
            return NOT_ACCEPTED
        if data:
            self._append(data)
        self._tx_count += 1.0
        return True

    def _append(self, data: bytes | memoryview) -> None:
        queue = self._tx
        if queue is None:
            queue = self._tx = OutputQueue()
        queue.append(data)
        if queue.size >= self.config.tx_high_water:
            queue.full = True

    def _flush(self) -> None:
        """Give the kernel as much of the queue as one gathered call takes."""
        queue = self._tx
        if queue is None:
            return
        try:
            sent = self._stream.sendmsg(queue.first())  # type: ignore[union-attr]
        except (BlockingIOError, InterruptedError):
            self._wait_for(self._mask | WRITE)
            return
        except OSError as error:
            self._send_failed(error)
            return
        queue.sent(sent)
        self.tx_bytes += sent
        if queue.full and queue.size < self.config.tx_low_water:
            queue.full = False
            self.gaplic.poller.defer(self._tell_ready)
        if queue.size:
            self._wait_for(self._mask | WRITE)
        else:
            self._tx = None
            self._wait_for(self._mask & ~WRITE)
            if EV_FLUSHED in self._state:
                self.send_event(self, EV_FLUSHED())

    def _send_failed(self, error: OSError) -> None:
        """Sending is over, and reading goes on: what the peer sent before may still be there."""
        if self._tx_error is None:
            self._tx_error = reason_of(error)
            if self._tx is not None and self._tx.full:
                # Who paused receiving until this comes would never hear of the end.
                self.gaplic.poller.defer(self._tell_ready)
            self._tx = None
            self._wait_for(self._mask & ~WRITE)
            try:
                self._sock.shutdown(socket.SHUT_WR)  # type: ignore[union-attr]
            except OSError:
                # Reset already: then reading will say so.
                logger.debug(
                    "%s: already reset by %s", self.path, format_address(self.peername),
                    extra=about(self, peer=self.peername),
                )  # fmt: skip
        if self._rx_ended or EV_FLUSHED in self._state:
            # Nothing is left to read, or nobody who wants it.
            self.send_event(self, EV_FAILED(self._tx_error))


def octets(given: object, what: str = "bytes to send") -> bytes | memoryview:
    """What was given as bytes or instead of them, as single bytes; copied only where it must be.

    Raises:
        EventError: when it holds no bytes.
    """
    try:
        view = memoryview(given)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise EventError(
            f"expected {what}, got {type(given).__name__}"
            + ("; encode the text first" if isinstance(given, str) else "")
        ) from None
    try:
        return view.cast("B")
    except (TypeError, ValueError):
        # Not in one piece, empty, or of another machine's format.
        return view.tobytes()
