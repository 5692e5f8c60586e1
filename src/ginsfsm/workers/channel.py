"""Channel: one end of the socket pair between the parent and a worker.

A message is a line of JSON. Descriptors travel beside a line; the line says how many there are, and
they arrive in the order in which they were sent. The parent never waits for a worker: what the
kernel does not take at once stays here until it does. A worker waits for the parent in one place,
`ask`, for it cannot serve before it has its sockets.

The other end may die at any time. That is told once, after everything that it had sent before.
"""

from __future__ import annotations

import logging
import os
import socket
from collections import deque
from contextlib import ExitStack
from typing import Final

import msgspec

from ginsfsm.event import Event
from ginsfsm.gobj import GObj
from ginsfsm.logs.fields import about
from ginsfsm.poller import READ, WRITE
from ginsfsm.workers.events import (
    EV_ALIVE,
    EV_ASK_STATS,
    EV_CANNOT_START,
    EV_CHANNEL_ENDED,
    EV_LEAVE,
    EV_LEAVING,
    EV_LISTENING,
    EV_READY,
    EV_STATS,
    EV_WANT_TO_LISTEN,
    Message,
)

__all__ = ["Channel", "ChannelError"]

logger: Final = logging.getLogger("ginsfsm")

RECEIVE: Final = 65536

MOST_SOCKETS: Final = 253
"""The kernel's SCM_MAX_FD: what one message may carry."""

LONGEST: Final = 16 << 20
"""Bytes of one line. A snapshot has a few hundred for each server."""

_CLOEXEC: Final = getattr(socket, "MSG_CMSG_CLOEXEC", 0)

_decoder: Final = msgspec.json.Decoder(
    EV_ALIVE
    | EV_ASK_STATS
    | EV_CANNOT_START
    | EV_LEAVE
    | EV_LEAVING
    | EV_LISTENING
    | EV_READY
    | EV_STATS
    | EV_WANT_TO_LISTEN
)


class ChannelError(ConnectionError):
    """The other end has gone, or has not answered in time."""


class Channel:
    """One end. From `watch` on it belongs to a gobj, which gets what arrives as it is.

    At the end that gobj gets `EV_CHANNEL_ENDED`.
    """

    _owner: GObj

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._received = bytearray()
        self._descriptors: deque[int] = deque()
        self._early: deque[Event] = deque()
        self._unsent: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self._watched = 0
        self.closed = False

    def watch(self, owner: GObj) -> None:
        """Deliver to this gobj from now on."""
        self._owner = owner
        if self._early:
            owner.gaplic.poller.defer(self._deliver_early)
        if not self.closed:
            self._set_watched(READ | (WRITE if self._unsent else 0))

    def close(self) -> None:
        """Hear and send no more. Idempotent."""
        if self.closed:
            return
        self.closed = True
        if self._watched:
            self._set_watched(0)
        self._sock.close()
        self._unsent.clear()
        while self._descriptors:
            os.close(self._descriptors.popleft())

    def send(self, message: Message, descriptors: tuple[int, ...] = ()) -> None:
        """Send it now, or as soon as there is room. Nothing happens where the other end has gone.

        The descriptors must stay open until the message has gone; those of listening sockets are.
        """
        if self.closed:
            return
        self._unsent.append((_line(message), descriptors))
        self._send_some()

    @property
    def backlog(self) -> int:
        """Messages that the other end has not taken yet."""
        return len(self._unsent)

    def ask(self, message: Message, seconds: float) -> tuple[EV_LISTENING, list[socket.socket]]:
        """Send it and wait for the answer; what else arrives meanwhile is delivered later.

        Raises:
            ChannelError: the parent has gone, or has not answered within that time.
        """
        if self.closed:
            raise ChannelError("the parent has gone")
        is_watched = self._watched != 0
        self._sock.settimeout(seconds)
        try:
            self._unsent.append((_line(message), ()))
            while self._unsent:
                self._send_first()
            while True:
                for number, early in enumerate(self._early):
                    if isinstance(early, EV_LISTENING):
                        del self._early[number]
                        return early, self._sockets(early.sockets)
                if not self._receive(self._early):
                    raise ChannelError("the parent has gone")
        except TimeoutError as error:
            # Its answer may still come, and would be taken for that to the next question.
            self.close()
            self._early.append(EV_CHANNEL_ENDED())
            raise ChannelError(f"the parent did not answer within {seconds:g} s") from error
        finally:
            if not self.closed:
                self._sock.setblocking(False)
            if self._early and is_watched:
                self._owner.gaplic.poller.defer(self._deliver_early)

    # -- the poller --------------------------------------------------------------------------------

    def io_ready(self, mask: int) -> None:
        """The poller found something to read or room to write."""
        if mask & WRITE:
            self._send_some()
        if mask & ~WRITE and not self.closed:
            self.receive()

    def finish(self) -> None:
        """The other process has ended: deliver all that it had sent, then close."""
        while not self.closed and self.receive():
            # Another 64 KiB.
            continue
        self.close()

    def receive(self) -> bool:
        """Deliver what has arrived by now; False where there was nothing."""
        arrived: deque[Event] = deque()
        try:
            goes_on = self._receive(arrived)
        except BlockingIOError:
            return False
        for message in arrived:
            self._deliver(message)
        if not goes_on and not self.closed:
            self.close()
            self._deliver(EV_CHANNEL_ENDED())
        return True

    def io_failed(self, error: Exception) -> None:
        """`io_ready` raised."""
        self._owner.gaplic.contain(error, self._owner, None, "the channel")

    def _deliver(self, event: Event) -> None:
        owner = self._owner
        if not owner.destroyed:
            owner.gaplic.deliver_contained(owner, event.sent_by(owner))

    def _deliver_early(self) -> None:
        while self._early:
            self._deliver(self._early.popleft())

    # -- the socket --------------------------------------------------------------------------------

    def _set_watched(self, mask: int) -> None:
        before, self._watched = self._watched, mask
        if mask == before:
            return
        poller = self._owner.gaplic.poller
        if not before:
            poller.register(self._sock.fileno(), self, mask)
        elif mask:
            poller.modify(self._sock.fileno(), mask)
        else:
            poller.unregister(self._sock.fileno())

    def _send_some(self) -> None:
        try:
            while self._unsent:
                self._send_first()
        except BlockingIOError:
            # Nobody takes it: the other end is stuck, and will be dealt with for that.
            pass
        except OSError as error:
            # It has gone. What it had to say before that is still read, and then the end.
            logger.debug("sending over the channel failed: %s", error, extra=about(error=error))
            self._unsent.clear()
        if self._watched:
            self._set_watched(READ | (WRITE if self._unsent else 0))

    def _send_first(self) -> None:
        line, descriptors = self._unsent[0]
        if descriptors:
            sent = socket.send_fds(self._sock, [line], descriptors)
        else:
            sent = self._sock.send(line)
        if sent == len(line):
            self._unsent.popleft()
        else:
            # The descriptors have gone with the first byte.
            self._unsent[0] = (line[sent:], ())

    def _receive(self, into: deque[Event]) -> bool:
        """Read once; False at the end. Raises BlockingIOError where there is nothing to read."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self._sock, RECEIVE, MOST_SOCKETS, _CLOEXEC)
        except ConnectionError as error:
            logger.debug("the channel broke: %s", error, extra=about(error=error))
            return False
        self._descriptors.extend(descriptors)
        *lines, rest = (self._received + data).split(b"\n")
        self._received = rest
        for line in lines:
            try:
                into.append(_decoder.decode(line))
            except msgspec.DecodeError as error:
                # A worker is started from what is on the disk by then, the parent was long before.
                logger.warning(
                    "a message of another version of ginsfsm is left out (%s): %.200s",
                    error, line.decode(errors="replace"), extra=about(error=error),
                )  # fmt: skip
        if len(rest) > LONGEST:
            logger.error(
                "a message of more than %d bytes arrives; the channel ends here", LONGEST,
                extra=about(),
            )  # fmt: skip
            self._received = bytearray()
            return False
        return bool(data)

    def _sockets(self, count: int) -> list[socket.socket]:
        if len(self._descriptors) < count:
            raise ChannelError(
                f"{count} sockets were sent and {len(self._descriptors)} received: this process "
                "may have no more descriptors (ulimit -n, LimitNOFILE=)"
            )
        with ExitStack() as opened:
            found = []
            for _ in range(count):
                sock = opened.enter_context(socket.socket(fileno=self._descriptors.popleft()))
                # Where the system cannot do that while it is received.
                sock.set_inheritable(False)
                sock.setblocking(False)
                found.append(sock)
            opened.pop_all()
        return found


def _line(message: Message) -> bytes:
    return msgspec.json.encode(message) + b"\n"
