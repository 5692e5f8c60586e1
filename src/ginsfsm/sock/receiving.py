"""Receiving: the PROXY header before everything else, and frames made of what was received."""

from __future__ import annotations

import logging
from collections import deque
from typing import Final

from ginsfsm.errors import EventError
from ginsfsm.life import destroy
from ginsfsm.logs.fields import about
from ginsfsm.net.addresses import format_address
from ginsfsm.net.admission import Refusal
from ginsfsm.net.framing import FrameError, check_frames, make_framing
from ginsfsm.net.proxy_header import NotProxyError, ProxyError, parse_proxy_header
from ginsfsm.net.reason import Reason
from ginsfsm.poller import READ
from ginsfsm.smachine import NotAccepted
from ginsfsm.sock.base import RX_SIZE
from ginsfsm.sock.events import (
    EV_ACCEPTED_PROXY,
    EV_DROP,
    EV_ENDED,
    EV_EXPIRED,
    EV_FAILED,
    EV_PLAIN,
    EV_READABLE,
    EV_RX_DATA,
    EV_RX_FRAME,
    EV_SECURE,
    EV_SEND_DATA,
    EV_SEND_FRAME,
)
from ginsfsm.sock.securing import Securing
from ginsfsm.sock.sending import octets
from ginsfsm.sock.unheard import unheard

__all__ = ["Receiving"]

logger: Final = logging.getLogger("ginsfsm")

FRAMES_AT_ONCE: Final = 256
"""Frames told before others have their turn. A block of 64 KiB may hold as many frames as bytes:
what fifty clients send in a blink held up a loop that had no such limit for sixteen seconds."""

# Made once, or each receive would pay for it.
_AT_ONCE: Final = range(FRAMES_AT_ONCE)


class Receiving(Securing):
    """A connection that knows what comes before the first byte, and where frames end."""

    __slots__ = ()

    # -- the PROXY header --------------------------------------------------------------------------

    def ac_accepted_proxy(self, event: EV_ACCEPTED_PROXY) -> None:
        self.peername = self.balancer = event.peername
        self.sockname = event.sockname
        self._begin_phase()
        self._wait_for(READ)

    def ac_header(self, _event: EV_READABLE) -> None:
        data = self._received()
        if data is None:
            return
        if not data:
            self.send_event(self, EV_ENDED(Reason.PEER))
            return
        self._early += data
        try:
            found = parse_proxy_header(self._early)
        except ProxyError as error:
            if self.config.proxy_protocol == "accept" and isinstance(error, NotProxyError):
                self._go_on()
            else:
                self.send_event(self, EV_FAILED(Reason.ERROR, error))
            return
        if found is None:
            return
        header, size = found
        self.proxy = header
        self._early = self._early[size:]
        if not header.local and header.source is not None:
            self.peername = header.source
        self._go_on()

    def ac_no_header(self, _event: EV_EXPIRED | EV_ENDED) -> None:
        """A client that waits for us to speak, behind no balancer."""
        self._go_on()

    def ac_ended_early(self, event: EV_ENDED) -> None:
        self.ac_no_proxy(EV_FAILED(event.reason))

    def ac_stop_proxy(self, _event: EV_DROP) -> None:
        self._forget(Reason.LOCAL)

    def _go_on(self) -> None:
        """Whoever it is may come in or not; then comes TLS, or the owner is told."""
        reception = self._reception
        assert reception is not None
        admission = reception.admission
        host = self.peername[0] if isinstance(self.peername, tuple) else ""
        health_check = self.proxy is not None and self.proxy.local
        # Empty: it has its token of `accept_rate`, and is not counted yet.
        has_token = self._place is not None
        self._place = None
        why = None
        if not health_check and admission.active:
            why = admission.check(host, self.gaplic.time(), overall=not has_token)
            if why is None:
                self._place = admission.enter(host)
        if has_token and (health_check or why is not None):
            reception.give_back()
        if why is not None:
            reception.refuse(self.peername, why)
            destroy(self)
            return
        self.send_event(self, EV_SECURE() if self._begins_with_tls else EV_PLAIN())

    def ac_secure(self, _event: EV_SECURE) -> None:
        early, self._early = self._early, b""
        self._begin_tls(self._tls_source, early)

    def ac_plain(self, _event: EV_PLAIN) -> None:
        self._begin_talk()
        self._offer()
        self._deliver_early()

    def _deliver_early(self) -> None:
        # Where the owner has paused, `ac_resume` comes back to it.
        if self._early and self._mask & READ and self._state.name == "ST_CONNECTED":
            early, self._early = self._early, b""
            self.deliver(early)

    def ac_no_proxy(self, event: EV_FAILED) -> None:
        # A balancer that only looks whether the port is open, as it does each second, is no news;
        # some close with a reset.
        looked = event.reason in (Reason.PEER, Reason.RESET) and not self._early
        level = logging.DEBUG if looked else logging.INFO
        closed = "it closed the connection" if event.reason is Reason.PEER else event.reason
        logger.log(
            level,
            "%s: no PROXY header from %s: %s",
            self.path, format_address(self.peername), event.error or closed,
            extra=about(self, peer=self.peername, reason=event.reason, error=event.error),
        )  # fmt: skip
        reception = self._reception
        assert reception is not None
        if self._place is not None:
            # Who is turned away takes no token.
            self._place = None
            reception.give_back()
        if event.reason is not Reason.DRAINED:
            # Else it is the server that ended it.
            reception.refuse(self.peername, Refusal.PROXY)
        destroy(self)

    def ac_late_header(self, _event: EV_EXPIRED) -> None:
        late = TimeoutError(f"not complete within {self.config.proxy_timeout} s")
        self.ac_no_proxy(EV_FAILED(Reason.TIMEOUT, late))

    # -- frames ------------------------------------------------------------------------------------

    def ac_receive_frames(self, _event: EV_READABLE) -> None:
        if not self._mask & READ:
            return
        if self._early:
            self._deliver_early()
            return
        if self._frames:
            self._tell_frames_soon()
            return
        try:
            data = self._stream.recv(RX_SIZE)  # type: ignore[union-attr]
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._receive_failed(error)
            return
        if not data:
            self.send_event(self, EV_ENDED(self._end_reason()))
            return
        self.deliver(data)

    def deliver(self, data: bytes) -> None:
        """Give the owner what was received: in frames where it wants them."""
        self.rx_bytes += len(data)
        self._heard = self._poller.now
        framing = self._framing
        if framing is None:
            self._rx_count += 1.0
            self._tell(EV_RX_DATA(data))
            return
        try:
            found = framing.split(data)
            if type(found) is not list:
                check_frames(framing, found)
            self._frames.extend(found)
        except FrameError as error:
            self._frames.extend(error.frames)
            self._frame_error = error
        except Exception as error:
            # A user's own. Here and not by the poller, which may not have called.
            self.gaplic.contain(error, self, None, "the framing")
            self._failed_delivery(None)
            return
        self._tell_frames()

    def _tell_frames(self) -> None:
        frames = self._frames
        for _ in _AT_ONCE:
            if not frames:
                break
            # Not while the owner has paused, and no more when it has dropped or upgraded.
            if not self._mask & READ or self._state.name != "ST_CONNECTED":
                return
            self._rx_count += 1.0
            self._tell(EV_RX_FRAME(frames.popleft()))
        if frames:
            self._tell_frames_soon()
            return
        # Not where the owner has dropped it at the last good one, and its good-bye is on its way.
        if self._frame_error is not None and self._state.name in ("ST_CONNECTED", "ST_HANDSHAKE"):
            error, self._frame_error = self._frame_error, None
            self.send_event(self, EV_FAILED(Reason.FRAME, error))

    def _tell_frames_soon(self) -> None:
        if not self._frames_due:
            self._frames_due = True
            # Nothing is received meanwhile, which is no silence of the peer.
            self._paused_at = max(self._paused_at, self._heard)
            self._poller.defer_costly(self._go_on_with_frames)

    def _go_on_with_frames(self) -> None:
        self._frames_due = False
        if self.destroyed or not self._frames:
            return
        self._skip_pause(self.gaplic.time())
        self._tell_frames()
        self._skip_pause(self.gaplic.time())
        if not self._frames and self._tls is not None and self._tls.has_more:
            # That has waited for them, see `_read_again`.
            self.tls_read_again()

    def _skip_pause(self, now: float) -> None:
        """While nothing is received, silence is no fault of the peer: nothing counts."""
        paused = now - self._paused_at
        self._paused_at = now
        self._heard += paused
        self._rate_since += paused

    def ac_send_frame(self, event: EV_SEND_FRAME) -> bool | NotAccepted:
        return self.ac_send(EV_SEND_DATA(self._wrapped(event)))

    def ac_write_frame(self, event: EV_SEND_FRAME) -> bool | NotAccepted:
        return self._queue(self._wrapped(event))

    def _wrapped(self, event: EV_SEND_FRAME) -> bytes:
        if self._framing is None:
            raise EventError(
                f"{self.path}: EV_SEND_FRAME: there is no framing; give the gsock or its server "
                'the parameter framing, such as "lines", or send EV_SEND_DATA'
            )
        data = event.data
        if type(data) is not bytes:
            data = bytes(octets(data))
        try:
            return self._framing.wrap(data)
        except FrameError as error:
            # Its sentence stands in this one, and the log would print it twice.
            raise EventError(f"{self.path}: EV_SEND_FRAME: {error}") from None

    def _plain_rest(self) -> bytes:
        """What was received after what the owner handles now."""
        early, self._early = self._early, b""
        if self._framing is None:
            return early
        rest = bytearray()
        for frame in self._frames:
            try:
                rest += self._framing.wrap(frame)
            except FrameError:
                # A line that ended in CR CR LF: no handshake, and that is all that matters.
                rest += frame
        self._frames.clear()
        return bytes(rest + self._framing.rest() + early)

    def _warn_if_unheard(self) -> None:
        # No error: it may be one that only sends, for an owner whose rows are for another one.
        heard = {kind for kind in (EV_RX_DATA, EV_RX_FRAME) if self._asks(kind)}
        fault = None if self.config.start_tls else unheard(heard, self.config.framing)
        if fault is not None:
            subscriber = self.config.subscriber or self.parent
            logger.warning(
                "%s: framing: its subscriber %s (%s) %s",
                self.path, subscriber.path, type(subscriber).__name__, fault,
                extra=about(self),
            )  # fmt: skip

    def _begin_frames(self) -> None:
        self._frames = deque()
        self._frames_due = False
        try:
            self._framing = make_framing(self.config.framing, self.config.max_frame)
        except Exception as error:
            # A user's own. The owner hears of the connection first, and of its end then.
            self.gaplic.contain(error, self, None)
            self._poller.defer(lambda: self._failed_delivery(None))
