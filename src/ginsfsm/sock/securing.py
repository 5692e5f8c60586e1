"""Securing: the handshake of TLS, at the beginning of a connection or later."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from ginsfsm.errors import GConfigError, GObjError
from ginsfsm.gconfig import Config, _report
from ginsfsm.gobj import GObj
from ginsfsm.life import adopt, destroy
from ginsfsm.logs.fields import about
from ginsfsm.net.addresses import format_address
from ginsfsm.net.admission import Refusal
from ginsfsm.net.output import OutputQueue
from ginsfsm.net.reason import Reason, reason_of
from ginsfsm.net.tls import SslOptions, TlsError, build_tls
from ginsfsm.net.tls_failure import failure
from ginsfsm.net.tls_info import TlsInfo
from ginsfsm.net.tls_source import TlsSource
from ginsfsm.net.tls_stream import TlsStream
from ginsfsm.poller import READ, WRITE
from ginsfsm.smachine import NOT_ACCEPTED, NotAccepted
from ginsfsm.sock.base import RX_SIZE, SockBase
from ginsfsm.sock.events import (
    EV_CONNECTED,
    EV_DROP,
    EV_ENDED,
    EV_EXPIRED,
    EV_FAILED,
    EV_PAUSE_RX,
    EV_READABLE,
    EV_SECURED,
    EV_SHAKE,
    EV_START_TLS,
    EV_TLS_STARTED,
    EV_UPGRADE,
    EV_WRITABLE,
)
from ginsfsm.sock.sending import Sending, octets

__all__ = ["Securing"]

logger: Final = logging.getLogger("ginsfsm")


class Securing(Sending):
    """A connection that can have TLS."""

    __slots__ = ()

    def parameters_written(self, names: frozenset[str]) -> None:
        """What concerns TLS holds for the next connection."""
        # First what may raise.
        source = self._own_tls_source() if "ssl_options" in names else None
        super().parameters_written(names)
        if "ssl_options" in names and self._reception is None:
            self._tls_source = source

    @property
    def tls(self) -> TlsInfo | None:
        """What was agreed on in the handshake; None where the connection is plain, or is none."""
        established = self._tls is not None and self.state in ("ST_CONNECTED", "ST_CLOSING")
        return self._tls.info if established and self._tls is not None else None

    @property
    def _begins_with_tls(self) -> bool:
        """Whether the first bytes are a handshake, and not plain."""
        return self._tls_source is not None and not self.config.start_tls

    def _own_tls_source(self) -> TlsSource | None:
        options = self.config.ssl_options
        if not options:
            return None
        cast(Config, self.config)._keep("ssl_options", SslOptions(options))
        return self._tls_source_of(options, server_side=self.config._server_side)

    def _tls_source_of(self, options: Mapping[str, Any], *, server_side: bool) -> TlsSource:
        """Raises GConfigError that lists every fault."""
        try:
            tls = build_tls(options, server_side=server_side)
        except TlsError as error:
            faults = [f"ssl_options: {fault}" for fault in error.faults]
            raise GConfigError(_report(f"{self.path} ({type(self).__name__})", faults)) from None
        for warning in tls.warnings:
            logger.warning("%s: ssl_options: %s", self.path, warning, extra=about(self))
        return TlsSource(tls)

    def _begin_tls(
        self,
        source: TlsSource | None,
        received: bytes = b"",
        unsent: OutputQueue | None = None,
    ) -> None:
        assert source is not None
        assert self._sock is not None
        self._begin_phase()
        tls = TlsStream(self._sock, self, source.wrapper(self.config.host), received, unsent)
        self._stream = self._tls = tls
        # A server speaks when it has been spoken to.
        if received or unsent is not None or not source.tls.server_side:
            self._queue_for_shake(tls)

    def _queue_for_shake(self, tls: TlsStream) -> None:
        tls.due = True
        self.gaplic.poller.defer_costly(self._shake)

    def _shake(self) -> None:
        if EV_SHAKE in self._state and not self.destroyed:
            try:
                self.send_event(self, EV_SHAKE())
            except Exception as error:
                self.io_failed(error)

    def ac_keep(self, _event: EV_READABLE) -> None:
        assert self._tls is not None
        if self._tls.due:
            # There is enough for a step. What comes behind it, be it the end, waits in the kernel.
            self._wait_for(self._mask & ~READ)
            return
        data = self._received()
        if data is None:
            return
        if not data:
            lost = self._tls.lost
            ended = lost or ConnectionError("the peer closed the connection in the handshake")
            self.send_event(self, EV_FAILED(Reason.TLS if lost is None else reason_of(lost), ended))
            return
        self._tls.receive(data)
        if self._mask & WRITE:
            # No step can be made before the peer takes what waits for it.
            self._wait_for(self._mask & ~READ)
        else:
            self._queue_for_shake(self._tls)

    def _received(self) -> bytes | None:
        """What the socket has before the connection is ready, empty at its end.

        None where nothing is there, or it has failed and the machine has been told.
        """
        try:
            return self._sock.recv(RX_SIZE)  # type: ignore[union-attr]
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            self.send_event(self, EV_FAILED(reason_of(error), error))
            return None

    def ac_shake(self, _event: EV_SHAKE) -> None:
        tls = self._tls
        assert tls is not None
        tls.due = False
        try:
            done = tls.handshake()
        except (OSError, ValueError) as error:
            reason = reason_of(error) if isinstance(error, OSError) else Reason.TLS
            self.send_event(self, EV_FAILED(reason, error))
            return
        self._wait_for(self._mask | READ)
        if done:
            self.send_event(self, EV_SECURED())

    def ac_flush_shake(self, _event: EV_WRITABLE) -> None:
        tls = self._tls
        assert tls is not None
        try:
            if not tls.flush():
                return
        except OSError as error:
            self.send_event(self, EV_FAILED(reason_of(error), error))
            return
        if self._tx is not None and not self._tx.size and not self._tx.full:
            self._tx = None
        self._wait_for(READ)
        if not tls.due:
            # Plain output stood before the first step.
            self._queue_for_shake(tls)

    def tls_blocked(self) -> None:
        """The kernel does not take what TLS says for itself; see `TlsOwner`."""
        if self._tx is None:
            # Empty, and there: something waits for the peer.
            self._tx = OutputQueue()
        self._wait_for(self._mask | WRITE)

    def tls_read_again(self) -> None:
        """Behind what is being delivered stands more; see `TlsOwner`."""
        self.gaplic.poller.defer(self._read_again)

    def _read_again(self) -> None:
        tls = self._tls
        # Where receiving is paused, `ac_resume` comes back to it.
        if self.destroyed or tls is None or not self._mask & READ:
            return
        if EV_ENDED not in self._state or not tls.has_more:
            return
        connected = self._state.name == "ST_CONNECTED"
        if connected and self._framing is not None and self._frames:
            # They come first; whoever tells them comes back to what stands behind them.
            return
        try:
            data = tls.pull()
        except BlockingIOError:
            return
        except OSError as error:
            self._receive_failed(error)
            return
        if not data:
            self.send_event(self, EV_ENDED(self._end_reason()))
        elif connected:
            self.deliver(data)

    def ac_upgraded(self, _event: EV_SECURED) -> None:
        kept, self._kept = self._kept, None
        assert self._tls is not None
        self.tx_bytes += self._tls.plain_sent
        self._set_direct()
        self._begin_phase()
        # It is the connection from before: it gets no other lifetime, and its first byte has come.
        self._since, self._rx_before = self._before_upgrade
        self._secured()
        if self._tx is not None:
            self._flush()
        for one in kept or ():
            # What was said before the owner hears that it is done.
            self.send_event(self, one)
        if self.state == "ST_CONNECTED":
            self._tell(EV_TLS_STARTED())

    def ac_secured(self, _event: EV_SECURED) -> None:
        self._begin_talk()
        self._secured()
        if self._reception is None:
            self._tell(EV_CONNECTED(self.peername, self.sockname))
        else:
            self._offer()

    def _secured(self) -> None:
        assert self._tls is not None
        if self._reception is not None:
            self._reception.ledger.count_handshake()
        if self._tls.has_more:
            self.tls_read_again()

    def ac_not_secured(self, event: EV_FAILED) -> None:
        self._handshake_failed(event.reason, event.error)

    def ac_too_slow(self, _event: EV_EXPIRED) -> None:
        late = TimeoutError(f"not complete within {self.config.handshake_timeout} s")
        self._handshake_failed(Reason.TIMEOUT, late)

    def ac_stop_shake(self, _event: EV_DROP) -> None:
        self._forget(Reason.LOCAL)

    def _handshake_failed(self, reason: Reason, error: Exception | None) -> None:
        self._log_failed_handshake(reason, error)
        if self._kept is not None:
            self._close(reason)
        else:
            self._forget(reason)

    def _forget(self, reason: Reason) -> None:
        """It never was ready: a client's owner learns that, of an accepted one nobody has heard."""
        if self._reception is None:
            self._forget_opening(reason)
        else:
            destroy(self)

    def _log_failed_handshake(self, reason: Reason, error: Exception | None) -> None:
        if self._reception is not None and reason is not Reason.DRAINED:
            # Else it is the server that ended it.
            self._reception.ledger.count_failed_handshake()
        # Who looks whether the port is open, as balancers do each second, is no news.
        silent = self._tls is not None and self._tls.silent and self._kept is None
        logger.log(
            logging.DEBUG if silent and isinstance(error, ConnectionError) else logging.INFO,
            "%s: the TLS handshake with %s failed: %s",
            self.path, format_address(self.peername), reason if error is None else failure(error),
            extra=about(self, peer=self.peername, reason=reason, error=error),
        )  # fmt: skip

    def ac_start_tls(self, event: EV_START_TLS) -> None:
        # First whatever can be wrong with it: then the connection stays as it was.
        received = bytes(octets(event.received, "bytes that were received"))
        source = self._tls_source
        if event.ssl_options:
            source = self._tls_source_of(event.ssl_options, server_side=self._reception is not None)
        assert source is not None
        self.send_event(self, EV_UPGRADE(source, received + self._plain_rest()))

    def ac_upgrade(self, event: EV_UPGRADE) -> None:
        self._kept = [] if self._mask & READ else [EV_PAUSE_RX()]
        self._direct = 0
        unsent, self._tx = self._tx, None
        if unsent is not None and unsent.full:
            # The owner still waits for EV_TRANSMIT_READY.
            self._tx = OutputQueue()
            self._tx.full = True
        self._wait_for(READ)
        self._before_upgrade = (self._since, self._rx_before)
        # There may be none any more. Now, since what is sent from here on stands behind it all.
        self._framing = None
        if self.config.framing:
            self._begin_frames()
        self._begin_tls(event.source_of_tls, event.received, unsent)

    def ac_drop_plain(self, event: EV_DROP) -> None:
        """Nothing of TLS has left yet: end as if it had never been asked for."""
        assert self._tls is not None
        self.tx_bytes += self._tls.plain_sent
        self._tx = self._tls.take_back()
        self._stream = self._sock
        self._tls = None
        self._kept = None
        self.ac_drop(event)

    def ac_drop(self, _event: EV_DROP) -> None:
        raise NotImplementedError

    def ac_cannot_upgrade(self, _event: EV_START_TLS) -> NotAccepted:
        if self._tls is not None:
            raise GObjError(f"{self.path}: EV_START_TLS: the connection has TLS already")
        if self._tx_error is not None:
            # The peer has reset, which the owner cannot know yet: the end is on its way.
            return NOT_ACCEPTED
        if self._rx_ended:
            raise GObjError(f"{self.path}: EV_START_TLS: the peer has ended the connection")
        raise GObjError(
            f"{self.path}: EV_START_TLS: there are no ssl_options; give them, with start_tls=True, "
            "to the server or the client gsock, or in the event"
        )

    def deliver(self, data: bytes) -> None:
        """Give the owner what was received."""
        raise NotImplementedError

    def _plain_rest(self) -> bytes:
        raise NotImplementedError

    def _begin_frames(self) -> None:
        raise NotImplementedError

    def _begin_talk(self) -> None:
        """The connection is ready: nothing stands between its two ends any more."""
        if self.config.framing:
            self._begin_frames()
        # As `_set_direct`, without the call; what came early is told before anything is received.
        self._direct = self._mask & READ if self._framing is None else 0
        self._begin_phase()

    def _offer(self) -> None:
        """Tell of an accepted connection; where nobody takes it, it goes."""
        reception = self._reception
        assert reception is not None
        if reception.make_session is not None and not self._join_session(reception.make_session):
            return
        taken = self._tell(EV_CONNECTED(self.peername, self.sockname))
        # Where it was dropped, somebody did take it, and only returned what it got of another.
        if not taken and self.state == "ST_CONNECTED" and self._asks(EV_CONNECTED):
            # The door is shut: nobody took the connection, and nobody will hear of its end.
            reception.refuse(self.peername, Refusal.SHUT)
            destroy(self.parent if self._in_session else self)
        elif self._in_session and reception.on_session is not None:
            reception.on_session(self.parent)

    def _join_session(self, make: Callable[[SockBase], GObj]) -> bool:
        """Have a gobj of its own as the parent; False where that could not be made."""
        assert self._reception is not None
        try:
            session = make(self)
        except Exception as error:
            self._reception.ledger.count_failed()
            logger.exception(
                "%s: no session could be made for %s",
                self._reception.path, format_address(self.peername),
                extra=about(self, path=self._reception.path, peer=self.peername, error=error),
            )  # fmt: skip
            destroy(self)
            return False
        if session.destroyed or self.destroyed:
            # Its start_up did that.
            destroy(session)
            destroy(self)
            return False
        adopt(self, session)
        self._in_session = True
        return True

    def _receive_failed(self, error: OSError) -> None:
        self.send_event(self, EV_FAILED(self._tx_error or reason_of(error), error))

    def _end_reason(self) -> Reason:
        tls = self._tls
        if tls is None or tls.closed:
            return Reason.PEER
        return Reason.TLS_TRUNCATED if tls.lost is None else reason_of(tls.lost)
