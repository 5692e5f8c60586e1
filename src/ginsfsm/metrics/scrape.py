"""Scrape: one connection of a scraper. It understands GET and HEAD of /metrics, and nothing else.

HTTP itself is h11's. What may not harm: a request that is not complete after 8 KiB, or
after 10 seconds, ends the connection, and so does one with a body, which is never read. A scraper
that does not read its answer is ended by the limits of the server (`Exporter`).

ST_WAITING. No request has begun; a scraper keeps its connection for the next one.

ST_READING. A request has begun.

ST_COLLECTING. The numbers are being fetched, which takes a moment where other processes have to be
asked. What the scraper sends meanwhile waits. Those that do not come in time end it.

ST_ENDING. The answer was the last one.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import h11

from ginsfsm.c_sock import (
    EV_CONNECTED,
    EV_DISCONNECTED,
    EV_DROP,
    EV_PAUSE_RX,
    EV_RESUME_RX,
    EV_RX_DATA,
    EV_SEND_DATA,
)
from ginsfsm.c_srv_sock import EV_DRAINING
from ginsfsm.event import Event
from ginsfsm.gconfig import param
from ginsfsm.gobj import GObj
from ginsfsm.logs.fields import about
from ginsfsm.row import after, enter, leave, on

if TYPE_CHECKING:
    from ginsfsm.task import Task

__all__ = ["Page", "Scrape"]

logger: Final = logging.getLogger("ginsfsm")

LARGEST: Final = 8 * 1024
"""Bytes of a request, its headers included. What Prometheus sends has about 400."""

ANY: Final = ("ST_WAITING", "ST_READING", "ST_COLLECTING", "ST_ENDING")
"""Where one receive can lead, since several requests may be in it."""

TEXT: Final = "text/plain; charset=utf-8"

Page = Callable[[str], Awaitable[tuple[bytes, str]]]
"""From the header `Accept` to the body and its content type."""


class EV_PAGE(Event):
    """The page is there, or why not."""

    result: Any
    error: BaseException | None


class Scrape(GObj):
    """One scraper, which may ask again and again."""

    class config(GObj.config):
        """Given by the exporter."""

        page: Any = param(None, "makes the page: see Page")
        request_timeout: float = param(
            10.0, "seconds from the first byte of a request to its last", ge=0.01
        )
        answer_timeout: float = param(
            10.0, "seconds for the numbers; Prometheus does not wait longer", ge=0.01
        )

    def start_up(self) -> None:
        """Wait for a request."""
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=LARGEST)
        self._gsock: GObj = self
        self._is_last = False
        self._head = False
        self._asking: Task | None = None

    def ac_connected(self, event: EV_CONNECTED) -> None:
        self._gsock = event.source

    def ac_read(self, event: EV_RX_DATA) -> None:
        self._http.receive_data(event.data)
        self._next()

    def _next(self) -> None:
        """Go on with what has been received; there may be several requests in it."""
        goes_on = True
        while goes_on:
            try:
                found = self._http.next_event()
            except h11.RemoteProtocolError as error:
                why = f"bad request: {error}\n".encode()
                self._answer(error.error_status_hint, why, close=True)
                return
            if isinstance(found, h11.Request):
                goes_on = self._asked(found)
            elif found is h11.NEED_DATA:
                begun = bool(self._http.trailing_data[0])
                self.set_new_state("ST_READING" if begun else "ST_WAITING")
                return
            else:
                # It wants to talk something else from here on.
                self._end()
                return

    def _asked(self, request: h11.Request) -> bool:
        """Answer, or begin to; True when it has been answered and the next one may come."""
        path = request.target.partition(b"?")[0]
        self._head = request.method == b"HEAD"
        headers = dict(request.headers)
        # A body is never read: after the answer the connection ends, and it with it.
        body = b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"
        if path != b"/metrics":
            return self._answer(404, b"there is nothing here but /metrics\n", close=body)
        if request.method not in (b"GET", b"HEAD"):
            allow = (("Allow", "GET, HEAD"),)
            return self._answer(405, b"only GET and HEAD\n", allow, close=body)
        if body:
            return self._answer(413, b"no request here has a body\n", close=True)
        self.set_new_state("ST_COLLECTING")
        accept = headers.get(b"accept", b"").decode("latin-1")
        self._asking = self.spawn(self.config.page(accept), done=EV_PAGE)
        return False

    def hold(self) -> None:
        """One request at a time: what comes behind it waits in the kernel."""
        self.send_event(self._gsock, EV_PAUSE_RX())

    def go_on(self) -> None:
        self.send_event(self._gsock, EV_RESUME_RX())

    def ac_keep(self, event: EV_RX_DATA) -> None:
        self._http.receive_data(event.data)

    def ac_page(self, event: EV_PAGE) -> None:
        if event.error is not None:
            logger.error(
                "%s: no page for a scraper: %s: %s",
                self.path, type(event.error).__name__, event.error,
                exc_info=event.error, extra=about(self, error=event.error),
            )  # fmt: skip
            self._answer(500, b"the numbers could not be had; the log says why\n", close=True)
        else:
            body, kind = event.result
            # Each page is work for us, and for one who has asked for many and gone without waiting
            # it would be in vain: who asks again before the answer has to come again.
            impatient = bool(self._http.trailing_data[0])
            if self._answer(200, body, kind=kind, close=impatient):
                self._next()

    def ac_no_page(self) -> None:
        """Nobody looks at the connection meanwhile, so that it would never end."""
        assert self._asking is not None
        self._asking.cancel()
        logger.error(
            "%s: no page for a scraper: the numbers did not come within %g s",
            self.path, self.config.answer_timeout,
            extra=about(self, seconds=self.config.answer_timeout),
        )  # fmt: skip
        self._answer(503, b"the numbers did not come in time\n", close=True)

    def _answer(
        self,
        status: int,
        body: bytes,
        headers: tuple[tuple[str, str], ...] = (),
        *,
        kind: str = TEXT,
        close: bool = False,
    ) -> bool:
        """Send it; True when the connection stays open for the next request."""
        http = self._http
        self._is_last |= close
        given = [("Content-Type", kind), ("Content-Length", str(len(body))), *headers]
        if self._is_last:
            given.append(("Connection", "close"))
        phrase = HTTPStatus(status).phrase
        data = http.send(h11.Response(status_code=status, headers=given, reason=phrase)) or b""
        if not self._head:
            data += http.send(h11.Data(data=body)) or b""
        data += http.send(h11.EndOfMessage()) or b""
        self.send_event(self._gsock, EV_SEND_DATA(data))
        if not self._is_last and http.their_state is h11.SEND_BODY:
            # The end of the request, without which there is no next one.
            http.next_event()
        if self._is_last or http.our_state is not h11.DONE or http.their_state is not h11.DONE:
            self._end()
            return False
        http.start_next_cycle()
        self._head = False
        return True

    def _end(self) -> None:
        self.set_new_state("ST_ENDING")
        self.send_event(self._gsock, EV_DROP())

    def ac_end(self, _event: EV_DRAINING) -> None:
        self.send_event(self._gsock, EV_DROP())

    def ac_end_after_this(self, _event: EV_DRAINING) -> None:
        self._is_last = True

    def ac_too_slow(self) -> None:
        self.send_event(self._gsock, EV_DROP())

    machine = {
        "ST_WAITING": [
            on(EV_CONNECTED,    ac_connected),
            on(EV_RX_DATA,      ac_read, may=ANY),
            on(EV_DRAINING,     ac_end, "ST_ENDING"),
            on(EV_DISCONNECTED, None),
        ],
        "ST_READING": [
            after("request_timeout", ac_too_slow, "ST_ENDING"),
            on(EV_RX_DATA,      ac_read, may=ANY),
            on(EV_DRAINING,     ac_end_after_this),
            on(EV_DISCONNECTED, None),
        ],
        "ST_COLLECTING": [
            enter(hold),
            after("answer_timeout", ac_no_page, may=("ST_ENDING",)),
            on(EV_PAGE,         ac_page, may=ANY),
            on(EV_RX_DATA,      ac_keep),
            on(EV_DRAINING,     ac_end_after_this),
            on(EV_DISCONNECTED, None),
            leave(go_on),
        ],
        "ST_ENDING": [
            on(EV_RX_DATA,      None),
            on(EV_DRAINING,     None),
            on(EV_DISCONNECTED, None),
        ],
    }  # fmt: skip
