"""ServerBase: the parameters of a server, its books, and what its connections share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from ginsfsm.c_sock import EV_CONNECTED, EV_RX_DATA, EV_RX_FRAME, GSock
from ginsfsm.errors import GConfigError, GObjError
from ginsfsm.event import Event
from ginsfsm.gconfig import Config, param, statistic
from ginsfsm.gobj import GObj
from ginsfsm.net.addresses import format_address
from ginsfsm.net.admission import Admission, Limits, limits_faults
from ginsfsm.net.certificate_watch import CertificateWatch
from ginsfsm.net.ledger import Ledger
from ginsfsm.net.listening import Listening
from ginsfsm.net.networks import Networks, read_networks
from ginsfsm.net.place import Place, place_faults
from ginsfsm.net.socket_options import read_options
from ginsfsm.net.unix_address import read_mode
from ginsfsm.net.words import cut
from ginsfsm.sock.base import SockBase
from ginsfsm.sock.options import set_options
from ginsfsm.sock.reception import Reception
from ginsfsm.sock.unheard import unheard
from ginsfsm.srv.events import EV_ALARM, EV_DRAINED, EV_DRAINING, EV_REFUSED
from ginsfsm.srv.listener import Listener
from ginsfsm.srv.sessions import Sessions
from ginsfsm.stats import ServerStats

if TYPE_CHECKING:
    from ginsfsm.clock import TimerHandle

__all__ = ["ServerBase"]

FIXED: Final = frozenset(
    {
        "subscriber", "host", "hosts", "port", "ports", "use_multi_ports", "unix_path", "unix_mode",
        "unix_owner", "fd", "fd_name", "backlog", "reuse_port", "v6only", "interface",
        "socket_options", "session",
    }
)  # fmt: skip
"""Parameters that say where and for whom the server listens, which is settled in `start_up`."""

LEAST_LOOK: Final = 0.01
"""Seconds between two looks at files; with less the server would do little else."""

LIMITS: Final = frozenset(Limits.__dataclass_fields__)


def _encoded(value: object) -> object:
    """A settings file has no bytes: a text there is meant in UTF-8."""
    return value.encode() if isinstance(value, str) else value


# ginsfsm: ignore[unheard-output]: who uses the library has the rows
class ServerBase(GSock):
    """What a server is, besides its machine."""

    class config(GSock.config):
        """Where to listen, whom to let in; and, inherited, the parameters of the connections."""

        subscriber: GObj | None = param(None, "subscriber of all output events; None is the parent")
        host: str = param("", "server host (ip or name); '' is every interface")
        port: int = param(
            0, "server port; 0 takes a free one, which then stands here", ge=0, le=65535
        )
        ports: tuple[int, ...] = param((), "ports to try with use_multi_ports, in order")
        use_multi_ports: bool = param(False, "listen on the first free one of the ports")
        hosts: tuple[str, ...] = param((), "several hosts, instead of host; all get the same port")
        unix_path: str = param(
            "", "Unix socket to listen on, instead of host and port; '@name' is an abstract one"
        )
        unix_mode: str = param("", "permissions of its file, as '0660'; '' leaves it to the umask")
        unix_owner: str = param("", "owner of its file, as 'user', 'user:group' or ':group'")
        fd: int = param(
            -1, "descriptor of a socket that listens already, instead of host and port; -1 is none",
            ge=-1, le=1048575,
        )  # fmt: skip
        fd_name: str = param(
            "", "name of the sockets that a service manager hands over, instead of host and port"
        )
        reuse_port: bool = param(False, "let other processes listen on the same port as well")
        v6only: bool = param(True, "IPv6 sockets take IPv6 alone; else IPv4 too, as ::ffff:1.2.3.4")
        interface: str = param("", "network interface that clients come through; '' is any")
        ssl_options: dict[str, Any] = param({}, "ssl options")
        watch_certificates: float = param(
            0.0, "seconds between two looks whether the files of ssl_options changed; 0 is never",
            ge=0,
        )  # fmt: skip
        backlog: int = param(1024, "connections that may wait to be accepted", ge=1, le=65535)
        session: type[GObj] | None = param(
            None, "gclass of the gobj that is made for each connection, and owns it"
        )
        session_parameters: dict[str, Any] = param({}, "values for the session's parameters")
        max_connections: int = param(0, "connections open at one time; 0 is no limit", ge=0)
        overflow: str = param(
            "backlog",
            "above max_connections or accept_rate: leave who comes in the queue, or turn away",
            choices=("backlog", "reject"),
        )
        reject_data: bytes = param(
            b"", "what one that is turned away is sent, unless it is denied or begins with TLS",
            from_settings=_encoded,
        )  # fmt: skip
        max_connections_per_ip: int = param(
            0, "connections open at one time from one address (IPv6: /64); 0 is no limit", ge=0
        )
        accept_rate: float = param(0.0, "new connections a second; 0 is no limit", ge=0)
        accept_burst: int = param(0, "how many may come at once; 0 is a second's worth", ge=0)
        accept_rate_per_ip: float = param(
            0.0, "new connections a second from one address; 0 is no limit", ge=0
        )
        accept_burst_per_ip: int = param(
            0, "how many may come at once from one address; 0 is a second's worth", ge=0
        )
        allow: tuple[str, ...] = param((), "networks that may come in; () is everybody")
        deny: tuple[str, ...] = param((), "networks that may not, whatever allow says")
        alarm_connections: int = param(0, "connections at which EV_ALARM comes; 0 is never", ge=0)
        alarm_cooldown: float = param(60.0, "seconds between two EV_ALARM", ge=0)
        n_gsocks: int = statistic(0, "server statistic: number of gsocks open")

        _server_side = True

        def misfits(self) -> Iterator[str]:
            yield from super().misfits()
            if self.use_multi_ports and not self.ports:
                yield "ports: use_multi_ports=True expects at least one port to try, got ()"
            wrong = [port for port in self.ports if not 0 <= port <= 65535]
            for port in wrong:
                yield f"ports: expected ports from 0 to 65535, got {port}"
            elsewhere = self.port or self.unix_path or self.fd >= 0 or self.fd_name
            if self.ports and not (wrong or self.use_multi_ports or elsewhere):
                yield (
                    f"ports: without use_multi_ports=True none of {cut(repr(self.ports))} is "
                    "tried, and port=0 takes any free one; give use_multi_ports=True, or a port"
                )
            # A Unix socket has no addresses; whoever its permissions let in is believed.
            if self.proxy_protocol != "off" and not (self.proxy_trusted or self.unix_path):
                yield (
                    f"proxy_trusted: proxy_protocol={self.proxy_protocol!r} expects the networks "
                    "of the balancers, got (); whoever is trusted may say any address, and "
                    "('0.0.0.0/0', '::/0') is everybody"
                )
            yield from limits_faults(self._limits())
            if 0 < self.watch_certificates < LEAST_LOOK:
                yield (
                    f"watch_certificates: expected 0 for never, or seconds from {LEAST_LOOK} on, "
                    f"got {self.watch_certificates}"
                )
            if self.session_parameters and self.session is None:
                yield "session_parameters: there is no session that they could be for"

        def _place_misfits(self) -> Iterator[str]:
            ways = {
                "hosts": bool(self.hosts),
                "unix_path": bool(self.unix_path),
                "fd": self.fd >= 0,
                "fd_name": bool(self.fd_name),
            }
            given = [name for name, is_given in ways.items() if is_given]
            if len(given) > 1:
                yield (
                    f"{', '.join(given)}: expected one way to say where to listen, got "
                    f"{len(given)}; make a server for each"
                )
            if self.unix_mode and read_mode(self.unix_mode) is None:
                yield (
                    "unix_mode: expected permissions in octal digits, as '0660', got "
                    f"{self.unix_mode!r}"
                )
            yield from place_faults(self._place())

        def _place(self) -> Place:
            return Place(
                hosts=self.hosts or (self.host,),
                ports=self.ports if self.use_multi_ports else (self.port,),
                backlog=self.backlog,
                reuse_port=self.reuse_port,
                v6only=self.v6only,
                interface=self.interface,
                unix_path=self.unix_path,
                unix_mode=read_mode(self.unix_mode),
                unix_owner=self.unix_owner,
                fd=self.fd,
                fd_name=self.fd_name,
                socket_options=read_options(self.socket_options),
            )

        def _limits(self) -> Limits:
            return Limits(**{name: getattr(self, name) for name in Limits.__dataclass_fields__})

    outputs: Sequence[type[Event]] = (
        *GSock.outputs,
        EV_ALARM,
        EV_DRAINED,
        EV_DRAINING,
        EV_REFUSED,
    )

    __slots__ = (
        "_alarm_at",
        "_are_secure",
        "_children_config",
        "_count",
        "_drain",
        "_drain_time",
        "_guarded",
        "_listeners",
        "_listening",
        "_look",
        "_no_room_at",
        "_room",
        "_shared",
        "_watch_of_files",
        "ledger",
    )

    ledger: Ledger[SockBase]
    _listeners: tuple[Listener, ...]
    _listening: Listening | None
    """What the sockets of the listeners came from; None when they are closed."""
    _count: int
    _are_secure: bool
    """Whether its connections begin with TLS."""
    _guarded: bool
    """Whether anything decides who may come in; without, an accept need not ask."""
    _no_room_at: float
    _alarm_at: float
    _drain: TimerHandle | None
    _drain_time: float
    _room: TimerHandle | None
    _look: TimerHandle | None
    _watch_of_files: CertificateWatch
    _children_config: Config
    _shared: Reception

    def _prepare(self) -> None:
        """Everything but the sockets; may raise."""
        # Before anything that can fail: `go_out` looks at them.
        self._look = self._drain = self._room = None
        self._listeners = ()
        self._listening = None
        self._watch_of_files = CertificateWatch()
        self._count = 0
        self._no_room_at = self._alarm_at = float("-inf")
        self.ledger = Ledger()
        self._shared = Reception(self.path, self.ledger, Admission(self._limits()))
        super().start_up()
        self._shared.tls_source = self._tls_source
        self._check_subscriber()
        sessions = self._new_sessions()
        if sessions is not None:
            self._shared.make_session = sessions.make
        children_config = self._new_children_config()
        self._check_framing(children_config)
        self._use_for_children(children_config)

    def _written(self, names: frozenset[str]) -> None:
        """Act on new values. Whatever may raise comes first, so that nothing is done by halves."""
        fixed = sorted(names & FIXED)
        if fixed:
            raise GConfigError(
                f"{self.path}: {', '.join(fixed)}: cannot change while the server listens; "
                "destroy it and make it again, its connections live on"
            )
        sessions = self._new_sessions() if "session_parameters" in names else None
        children_config = self._new_children_config()
        if names & {"framing", "start_tls"}:
            self._check_framing(children_config)
        before = self._tls_source
        # The last that may raise: it reads the files of `ssl_options`.
        super().parameters_written(names)
        if before is not None and self._tls_source not in (None, before):
            # The same one for those who have it already: the next reload is for them too.
            assert self._tls_source is not None
            before.tls = self._tls_source.tls
            self._tls_source = before
        self._shared.tls_source = self._tls_source
        if sessions is not None:
            self._shared.make_session = sessions.make
        self._use_for_children(children_config)
        if names & LIMITS:
            self._change_limits()
        for listener in self._listeners:
            set_options(listener.sock, self.config, names)

    def _place_to_listen(self) -> Place:
        return cast(Any, self.config)._place()  # type: ignore[no-any-return]

    def _limits(self) -> Limits:
        return cast(Any, self.config)._limits()  # type: ignore[no-any-return]

    def _change_limits(self) -> None:
        admission = self._shared.admission
        was_active = admission.active
        admission.change(self._limits(), self.gaplic.time())
        if admission.active and not was_active:
            # Those who came in while nobody counted are counted from now on.
            for gsock in self.ledger:
                if gsock._place is None and gsock._counts_by_address:
                    gsock._place = admission.enter(gsock.peername[0])

    def stats(self) -> ServerStats:
        """What it and its connections have done until now, those that have closed among them.

        Exact at this moment. It visits every open connection, which takes about a millisecond for
        a thousand of them.
        """
        ledger = self.ledger
        received, sent = ledger.rx_bytes, ledger.tx_bytes
        came, went = ledger.rx_messages, ledger.tx_messages
        queued = 0
        for gsock in ledger:
            received += gsock.rx_bytes
            sent += gsock._sent
            came += gsock.rx_messages
            went += gsock.tx_messages
            queued += gsock.queued
        return ServerStats(
            rx_bytes=received,
            tx_bytes=sent,
            rx_messages=came,
            tx_messages=went,
            queued_bytes=queued,
            accepted=ledger.accepted,
            closed=ledger.accepted - len(ledger),
            open=len(ledger),
            refused=dict(ledger.refused_by),
            failed=ledger.failed,
            handshakes=ledger.handshakes,
            failed_handshakes=ledger.failed_handshakes,
            accept_errors=dict(ledger.accept_errors),
        )

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses that it listens on, as people write them: `"127.0.0.1:7000"`."""
        return tuple(format_address(one.sock.getsockname()) for one in self._listeners)

    @property
    def _own_config(self) -> Config:
        return cast(Config, self.config)

    @property
    def _subscriber(self) -> GObj:
        return self.config.subscriber or self.parent

    def _check_subscriber(self) -> None:
        who, gclass = self._who_hears()
        if not {EV_CONNECTED, EV_RX_DATA, EV_RX_FRAME} & set(gclass.compiled.accepted):
            raise GObjError(
                f"{self.path}: {who} has neither EV_CONNECTED nor EV_RX_DATA nor EV_RX_FRAME in "
                "any state, so it could not serve a client; add the rows, or give another one"
            )

    def _check_framing(self, children_config: Any) -> None:
        who, gclass = self._who_hears()
        # With `start_tls` each connection may get another framing before it begins.
        if not children_config.start_tls:
            fault = unheard(gclass.compiled.accepted, children_config.framing)
            if fault is not None:
                raise GConfigError(f"{self.path}: framing: {who} {fault}")

    def _who_hears(self) -> tuple[str, type[GObj]]:
        """Whom its connections tell what comes, for an error; and the gclass of that."""
        session = self.config.session
        if session is not None:
            return f"its session {session.__name__}", session
        gclass = type(self._subscriber)
        return f"its subscriber {self._subscriber.path} ({gclass.__name__})", gclass

    def _new_sessions(self) -> Sessions | None:
        gclass, parameters = self.config.session, self.config.session_parameters
        if gclass is None:
            return None
        return Sessions(gclass, parameters, self._subscriber, self.name)

    def _new_children_config(self) -> Config:
        """What all connections share is made once, so that none pays for it.

        Raises:
            GConfigError: a value does not fit what the settings have for GSock.
        """
        shared: Mapping[str, object] = {
            name: getattr(self.config, name)
            for name in GSock.config._params
            if name not in ("subscriber", "host", "port", "unix_path", "ssl_options")
        }
        owner = f"{self.path}, its connections"
        return self.gaplic.configure(GSock, "", owner, shared)

    def _use_for_children(self, config_of_children: Config) -> None:
        self._children_config = config_of_children
        self._are_secure = self._begins_with_tls
        trusted, _ = read_networks("proxy_trusted", self.config.proxy_trusted)
        self._shared.trusted = Networks(trusted) if self.config.proxy_protocol != "off" else None
        config = self.config
        limits = self._limits()
        self._guarded = bool(
            limits != Limits(accept_burst=limits.accept_burst)
            or self._shared.trusted is not None
            or config.alarm_connections
        )
