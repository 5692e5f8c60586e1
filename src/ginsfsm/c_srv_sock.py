"""GServerSock: the listening socket.

It listens in `start_up`, on the address and the port, or the first free one of the ports, that its
parameters say. Each connection that it accepts becomes a `GSock`, a child of the subscriber, and
from its `EV_CONNECTED` on the relation is between that gsock and the subscriber: the server sends
it nothing and hears nothing of it. What the two share is the ledger, where a connection stands from
when it is accepted until its descriptor closes. Destroying the server closes the listener only.

ST_LISTENING. The poller watches the listening sockets, and a turn of the loop accepts at most 64
connections. Where the subscriber's present state has no row for `EV_CONNECTED` the door is shut:
the connection is closed and counted as refused. A failure while a connection is being made closes
that one, and the next is accepted.

With `ssl_options` a connection makes its handshake by itself, and is told when that is complete.
The certificates may change while the server runs: `EV_RELOAD_TLS`, or `watch_certificates` when
their files do. What is new is built and checked first. It holds as a whole for the handshakes that
begin from then on, and if it is bad, the old one serves on.

ST_PAUSED. The process, or the system, has no descriptor or memory left for another connection. A
server that went on would spin, since the listening socket stays ready; one that closed would lose
its clients. So the poller watches no longer, the clients wait in the kernel's queue, and accepting
goes on when a connection closes, or after 100 ms, since the room may come from elsewhere.
"""

from __future__ import annotations

import _socket
import errno
import logging
import os
import socket
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from ginsfsm.c_sock import EV_CONNECTED, EV_RX_DATA, GSock
from ginsfsm.errors import GConfigError, GObjError
from ginsfsm.event import Event
from ginsfsm.gconfig import Config, param, statistic
from ginsfsm.gobj import GObj, _destroy, _make
from ginsfsm.net.addresses import ListenError, format_address, listen
from ginsfsm.net.certificate import Certificate
from ginsfsm.net.certificate_watch import CertificateWatch
from ginsfsm.net.ledger import Ledger
from ginsfsm.poller import READ
from ginsfsm.row import after, enter, leave, on
from ginsfsm.sock.base import SockBase, set_options
from ginsfsm.sock.events import EV_ACCEPTED, EV_ACCEPTED_TLS

if TYPE_CHECKING:
    from ginsfsm.clock import TimerHandle

__all__ = ["EV_RELOAD_TLS", "GServerSock"]

logger: Final = logging.getLogger("ginsfsm")

ACCEPTS_PER_TURN: Final = 64
"""So that a flood of new connections leaves the turn of the loop to those that exist."""

CAPACITY_ERRNOS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""No descriptor or memory for another connection; the client stays in the queue. accept(2)."""

RETRY_ERRNOS: Final = frozenset(
    {
        getattr(errno, name)
        for name in (
            "ECONNABORTED", "EPERM", "EPROTO", "ENETDOWN", "ENOPROTOOPT", "EHOSTDOWN", "ENONET",
            "EHOSTUNREACH", "EOPNOTSUPP", "ENETUNREACH", "ETIMEDOUT",
        )
        if hasattr(errno, name)
    }
)  # fmt: skip
"""The one connection failed before we had it. accept(2): "treat them like EAGAIN by retrying"."""

PAUSE: Final = 0.1
"""Seconds without accepting when there is no room; ten attempts a second cost nothing."""

EPISODE: Final = 1.0
"""Seconds between two failures that are told as one. Where many wait, each connection that closes
lets one more in and then there is no room again; that is no news."""


LOOK: Final = 3600.0
"""Seconds between two looks at how many days the certificates have left."""

FIXED: Final = frozenset({"subscriber", "host", "port", "ports", "use_multi_ports", "backlog"})
"""Parameters that say where and for whom the server listens, which is settled in `start_up`."""


class EV_RELOAD_TLS(Event):
    """Read the files of `ssl_options` again, for the handshakes from now on.

    The action returns True; or False where they are bad or there is no TLS. Then the log says why,
    and what was in use stays in use.
    """


class EV_LOOK(Event):
    """It is time to look at the certificates."""


class EV_LISTEN(Event):
    """The sockets are bound and listen."""


class EV_INCOMING(Event):
    """A listening socket has connections to accept."""

    listener: Listener


class EV_NO_ROOM(Event):
    """The system has no room for another connection."""

    error: OSError


class EV_ROOM(Event):
    """A connection has closed."""


class Listener:
    """One listening socket, as the poller's handler."""

    __slots__ = ("_event", "_kind", "server", "sock", "sockname", "watched")

    def __init__(self, server: GServerSock, sock: socket.socket) -> None:
        self.server = server
        self.sock = sock
        self.watched = False
        self._event = EV_INCOMING(self)
        # As plain numbers: `socket.accept` makes enumerations of them for each connection, which
        # takes as long as the system call.
        self._kind = (int(sock.family), int(sock.type), sock.proto)
        address = sock.getsockname()
        # Bound to one address, every connection has it; else each has to be asked for its own.
        self.sockname = None if address[0] in ("0.0.0.0", "::") else address

    def accept(self) -> tuple[_socket.socket, Any]:
        """The next connection and its peer's address. Raises OSError as the system call does."""
        fd, peername = self.sock._accept()  # type: ignore[attr-defined]
        try:
            sock = _socket.socket(*self._kind, fd)
        except BaseException:
            os.close(fd)
            raise
        # From here on the socket closes the descriptor.
        sock.setblocking(False)
        return sock, peername

    def watch(self) -> None:
        """Be called when there are connections to accept. May raise OSError: epoll needs memory."""
        self.server.gaplic.poller.register(self.sock.fileno(), self, READ)
        self.watched = True

    def stop_watching(self) -> None:
        """Be called no more; nothing happens where it is not watched."""
        if self.watched:
            self.watched = False
            self.server.gaplic.poller.unregister(self.sock.fileno())

    def io_ready(self, mask: int) -> None:
        """The poller found connections to accept."""
        handler = self.server._state.get(EV_INCOMING)
        if handler is not None:
            handler(self.server, self._event)

    def io_failed(self, error: Exception) -> None:
        """`io_ready` raised."""
        self.server.gaplic.contain(error, self.server, self._event)


class GServerSock(GSock):
    """GSock gobj acting as a server socket."""

    class config(GSock.config):
        """Where to listen; and, inherited, the parameters of the connections."""

        subscriber: GObj | None = param(None, "subscriber of all output events; None is the parent")
        host: str = param("", "server host (ip or name); '' is every interface")
        port: int = param(
            0, "server port; 0 takes a free one, which then stands here", ge=0, le=65535
        )
        ports: tuple[int, ...] = param((), "ports to try with use_multi_ports, in order")
        use_multi_ports: bool = param(False, "listen on the first free one of the ports")
        ssl_options: dict[str, Any] = param({}, "ssl options")
        watch_certificates: float = param(
            0.0, "seconds between two looks whether the files of ssl_options changed; 0 is never",
            ge=0,
        )  # fmt: skip
        backlog: int = param(1024, "connections that may wait to be accepted", ge=1, le=65535)
        n_gsocks: int = statistic(0, "server statistic: number of gsocks open")

        _server_side = True

        def misfits(self) -> Iterator[str]:
            yield from super().misfits()
            if self.use_multi_ports and not self.ports:
                yield "ports: use_multi_ports=True expects at least one port to try, got ()"
            for port in self.ports:
                if not 0 <= port <= 65535:
                    yield f"ports: expected ports from 0 to 65535, got {port}"

    __slots__ = (
        "_accepted",
        "_children_config",
        "_count",
        "_listeners",
        "_look",
        "_no_room_at",
        "_watch_of_files",
        "ledger",
    )

    ledger: Ledger[SockBase]
    _listeners: tuple[Listener, ...]
    _count: int
    _no_room_at: float
    _look: TimerHandle | None
    _watch_of_files: CertificateWatch
    _children_config: Config
    _accepted: type[EV_ACCEPTED | EV_ACCEPTED_TLS]

    def start_up(self) -> None:
        """Listen on the host and the port."""
        # Before anything that can fail: `go_out` looks at them.
        self._look = None
        self._listeners = ()
        self._watch_of_files = CertificateWatch()
        self._count = 0
        self._no_room_at = float("-inf")
        self.ledger = Ledger()
        self.ledger.on_close = self._on_close
        super().start_up()
        self._check_subscriber()
        self._prepare_children()
        config = self.config
        try:
            listening = listen(
                config.host,
                config.ports if config.use_multi_ports else (config.port,),
                backlog=config.backlog,
            )
        except ListenError as error:
            raise GObjError(f"{self.path}: {error}") from error
        self._listeners = tuple(Listener(self, sock) for sock in listening.sockets)
        for sock in listening.sockets:
            set_options(sock, config)
        self._own_config._keep("port", listening.port)
        self._own_config._keep_live("n_gsocks", self.ledger.__len__)
        self.send_event(self, EV_LISTEN())
        self._look_at_certificates()

    def go_out(self) -> None:
        """Close the listening sockets; the connections live on with their subscriber."""
        self.ledger.on_close = None
        self.stop_watching()
        for listener in self._listeners:
            listener.sock.close()
        if self._look is not None:
            self._look.cancel()

    def parameters_written(self, names: frozenset[str]) -> None:
        """What concerns connections holds for those accepted from now on."""
        fixed = sorted(names & FIXED)
        if fixed:
            raise GConfigError(
                f"{self.path}: {', '.join(fixed)}: cannot change while the server listens; "
                "destroy it and make it again, its connections live on"
            )
        before = self._tls_source
        super().parameters_written(names)
        if before is not None and self._tls_source not in (None, before):
            # The same one for those who have it already: the next reload is for them too.
            assert self._tls_source is not None
            before.tls = self._tls_source.tls
            self._tls_source = before
        self._prepare_children()
        if names & {"ssl_options", "watch_certificates"}:
            self._look_at_certificates()
        for listener in self._listeners:
            set_options(listener.sock, self.config)

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses that it listens on, as people write them: `"127.0.0.1:7000"`."""
        return tuple(format_address(one.sock.getsockname()) for one in self._listeners)

    @property
    def certificates(self) -> tuple[Certificate, ...]:
        """The certificates in use, the main one first, then those of `sni`.

        Each tells its file, names, dates and `days_left`. Empty without TLS, and where the options
        bring a `context` of their own, which does not tell.
        """
        return () if self._tls_source is None else self._tls_source.tls.certificates

    @property
    def _own_config(self) -> Config:
        return cast(Config, self.config)

    @property
    def _subscriber(self) -> GObj:
        return self.config.subscriber or self.parent

    def _check_subscriber(self) -> None:
        subscriber = self._subscriber
        accepted = subscriber.compiled.accepted
        if EV_CONNECTED not in accepted and EV_RX_DATA not in accepted:
            raise GObjError(
                f"{self.path}: its subscriber {subscriber.path} ({type(subscriber).__name__}) has "
                "neither EV_CONNECTED nor EV_RX_DATA in any state, so it could not serve a client; "
                "add the rows, or give another subscriber"
            )

    def _prepare_children(self) -> None:
        """What all connections share is made once, so that none pays for it."""
        plain = self._tls_source is None or self.config.start_tls
        self._accepted = EV_ACCEPTED if plain else EV_ACCEPTED_TLS
        shared = {
            name: getattr(self.config, name)
            for name in GSock.config._params
            if name not in ("subscriber", "host", "port", "ssl_options")
        }
        owner = f"{self.path}, its connections"
        self._children_config = self.gaplic.configure(GSock, "", owner, shared)

    def _on_close(self) -> None:
        if EV_ROOM in self._state:
            self.send_event(self, EV_ROOM())

    # -- the machine -------------------------------------------------------------------------------

    def watch(self) -> None:
        try:
            for listener in self._listeners:
                listener.watch()
        except OSError as error:
            # A system without memory may have none for this either; a deaf server would be worse.
            self.send_event(self, EV_NO_ROOM(error))

    def stop_watching(self) -> None:
        for listener in self._listeners:
            listener.stop_watching()

    def ac_accept(self, event: EV_INCOMING) -> None:
        listener = event.listener
        accept = listener.accept
        for _ in range(max(1, ACCEPTS_PER_TURN // len(self._listeners))):
            try:
                sock, peername = accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in RETRY_ERRNOS:
                    continue
                self.send_event(self, EV_NO_ROOM(error))
                return
            self._admit(listener, sock, peername)
            if EV_INCOMING not in self._state:
                # Somebody destroyed the server, or there is no room for more.
                return

    def _admit(self, listener: Listener, sock: _socket.socket, peername: Any) -> None:
        """Make a gsock of an accepted socket, or close it."""
        subscriber = self._subscriber
        if subscriber.destroyed or (
            EV_CONNECTED not in subscriber._state and EV_CONNECTED in subscriber.compiled.accepted
        ):
            self.ledger.count_refused()
            sock.close()
            return
        gsock: GSock | None = None
        try:
            sockname = listener.sockname or sock.getsockname()
            gsock = _make(
                GSock, self._free_child_name(subscriber), subscriber, self._children_config
            )
            gsock.take_over(sock, self.ledger, self._tls_source)
            gsock.send_event(gsock, self._accepted(peername, sockname))
        except Exception:
            self.ledger.count_failed()
            logger.exception(
                "%s: the connection of %s could not be made", self.path, format_address(peername)
            )
            if gsock is not None:
                _destroy(gsock)
            sock.close()

    def _free_child_name(self, subscriber: GObj) -> str:
        siblings = subscriber._children
        while True:
            self._count += 1
            name = f"{self.name}.clisrv_{self._count}"
            if siblings is None or name not in siblings:
                return name

    def ac_no_room(self, event: EV_NO_ROOM) -> None:
        before, self._no_room_at = self._no_room_at, self.gaplic.time()
        if self._no_room_at - before < EPISODE:
            return
        if event.error.errno in CAPACITY_ERRNOS:
            logger.warning(
                "%s: no room for more connections (%s) with %d open; accepting again when one "
                "closes, clients wait meanwhile",
                self.path, event.error.strerror, len(self.ledger),
            )  # fmt: skip
        else:
            logger.error(
                "%s: accepting failed (%s) with %d open; trying again every %s s",
                self.path, event.error, len(self.ledger), PAUSE,
            )  # fmt: skip

    # -- certificates ------------------------------------------------------------------------------

    def ac_reload_tls(self, _event: EV_RELOAD_TLS) -> bool:
        source = self._tls_source
        if source is None:
            logger.warning("%s: there is no TLS to reload: it has no ssl_options", self.path)
            return False
        # Seen before they are read: what changes meanwhile is found at the next look.
        self._watch_of_files.see(source.tls.files)
        try:
            fresh = self._own_tls_source()
            assert fresh is not None
            source.tls = fresh.tls
        except GConfigError as error:
            logger.error("not reloaded, the certificates from before serve on: %s", error)
            return False
        logger.info("%s: TLS reloaded%s", self.path, _dates(self.certificates))
        self._warn_of_new()
        return True

    def ac_look(self, _event: EV_LOOK) -> None:
        source = self._tls_source
        if source is None:
            return
        if self.config.watch_certificates and self._watch_of_files.changed(source.tls.files):
            self.send_event(self, EV_RELOAD_TLS())
        self._warn_of_dates()

    def _look_at_certificates(self) -> None:
        """Look now at the dates, and from now on from time to time."""
        if self._look is not None:
            self._look.cancel()
            self._look = None
        if self._tls_source is None:
            return
        self._watch_of_files.see(self._tls_source.tls.files)
        self._warn_of_new()
        self._look_later()

    def _look_later(self) -> None:
        seconds = self.config.watch_certificates or LOOK
        self._look = self.gaplic.call_later(self, min(seconds, LOOK), self._look_now)

    def _look_now(self) -> None:
        self._look_later()
        self.send_event(self, EV_LOOK())

    def _warn_of_dates(self) -> None:
        for warning in self._watch_of_files.warnings(self.certificates):
            logger.warning("%s: %s", self.path, warning)

    def _warn_of_new(self) -> None:
        """The same, when they have just been read: that one has expired has been said with that."""
        expired = [one for one in self.certificates if one.days_left() <= 0]
        list(self._watch_of_files.warnings(expired))
        self._warn_of_dates()

    machine = {
        "ST_IDLE": [
            on(EV_LISTEN, None, "ST_LISTENING"),
        ],
        "ST_LISTENING": [
            enter(watch),
            on(EV_INCOMING, ac_accept),
            on(EV_NO_ROOM, ac_no_room, "ST_PAUSED"),
            on(EV_RELOAD_TLS, ac_reload_tls),
            on(EV_LOOK, ac_look),
            leave(stop_watching),
        ],
        "ST_PAUSED": [
            on(EV_ROOM, None, "ST_LISTENING"),
            on(EV_RELOAD_TLS, ac_reload_tls),
            on(EV_LOOK, ac_look),
            after(PAUSE, None, "ST_LISTENING"),
        ],
    }


def _dates(certificates: Sequence[Certificate]) -> str:
    return "".join(f"; {one.file} until {one.not_after:%Y-%m-%d}" for one in certificates)
