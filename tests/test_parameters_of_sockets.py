"""Bad values for every parameter of GServerSock and of GSock, one by one.

The parameters are read from the declarations, so a new one without bad values in `BAD` fails. What
does not fit the type alone is generated; `BAD` has what only the parameter itself can refuse.
"""

import math
from collections.abc import Iterator
from typing import Any

import pytest

from conftest import open_sockets
from ginsfsm import GAplic, GConfigError, GObj
from ginsfsm.c_sock import GSock
from ginsfsm.c_srv_sock import GServerSock
from ginsfsm.convert import members, plain
from ginsfsm.gconfig import Param
from servers import Keeper
from sockets import gaplic

GCLASSES = {"server": GServerSock, "gsock": GSock}

NAN, INF = math.nan, math.inf


def seconds(*more: float) -> list[tuple[Any, str]]:
    return [(-0.001, "expected float, 0 or more, got -0.001 (float)")] + [
        (value, f"expected float, 0 or more, got {value!r} (float)") for value in (-INF, *more)
    ]


def whole(least: int) -> list[tuple[Any, str]]:
    return [
        (value, f"expected int, {least} or more, got {value} (int)")
        for value in (least - 1, -(10**9))
    ]


def between(least: int, most: int) -> list[tuple[Any, str]]:
    return [
        (value, f"expected int from {least} to {most}, got {value} (int)")
        for value in (least - 1, most + 1)
    ]


def rate() -> list[tuple[Any, str]]:
    told = "expected connections a second from 0.000001 to 1000000, or 0 for no limit, got"
    return [
        (-1.0, "expected float, 0 or more, got -1.0 (float)"),
        *((value, f"{told} {value!r} (float)") for value in (INF, 1e-9, 1_000_001.0)),
    ]


def networks(name: str) -> list[tuple[Any, str]]:
    return [
        (("localhost",), "'localhost' is no network: a host name says nothing about an address"),
        (("10.0.0.1/8",), "'10.0.0.1/8' is no network: it has bits set after the first 8"),
        (("",), "'' is no network: everybody is '0.0.0.0/0' and '::/0'"),
        (("10.0.0.0/8", 7), "expected tuple of str, got ('10.0.0.0/8', 7) (tuple)"),
    ]


HOST = "expected an address or a name, of at most 1024 characters that are UTF-8 and no NUL, got"

HOSTS: list[tuple[Any, str]] = [
    ("a\0b", rf"{HOST} 'a\x00b'"),
    ("\udcff", rf"{HOST} '\udcff'"),
    ("h" * 1025, f"{HOST} '{'h' * 56}..."),
]

BAD: dict[str, list[tuple[Any, str]]] = {
    "subscriber": [("keeper", "expected a gobj or None, got 'keeper' (str)")],
    "host": HOSTS,
    "port": between(0, 65535),
    "unix_path": [
        ("a\0b", r"expected a path without a NUL, got 'a\x00b'"),
        ("\udcff", r"expected a path that is UTF-8, got '\udcff'"),
        ("x" * 300, "a path of 300 bytes is too long for a Unix socket"),
        ("@", "'@' is an abstract name without the name"),
    ],
    "connect_timeout": seconds(),
    "ssl_options": [
        ({"certfle": "x"}, "certfle: unknown option; did you mean 'certfile'?"),
    ],
    "start_tls": [(1, "expected bool, got 1 (int)")],
    "handshake_timeout": seconds(),
    "close_timeout": seconds(),
    "destroy_on_disconnect": [(0, "expected bool, got 0 (int)")],
    "proxy_protocol": [("v2", "expected one of 'off', 'accept', 'require', got 'v2' (str)")],
    "proxy_trusted": networks("proxy_trusted"),
    "proxy_timeout": seconds(),
    "framing": [
        ("line", "'line' (str) is no framing; did you mean 'lines'?; expected '' for none, one of"),
        ("7", "'7' (str) is no framing; a delimiter is given as bytes; expected '' for none"),
        (b"", "a delimiter of 0 bytes was given; expected '' for none"),
        (0, "a fixed size of 0 was given; expected '' for none"),
        (2**20 + 1, "a fixed size of 1048577 bytes was given, more than max_frame=1048576"),
        (True, "True (bool) was given; expected '' for none"),
        (1.5, "1.5 (float) was given; expected '' for none"),
        (None, "None was given; expected '' for none"),
    ],
    "max_frame": whole(1),
    "first_data_timeout": seconds(),
    "idle_timeout": seconds(),
    "max_lifetime": seconds(),
    "min_rx_rate": [
        (value, f"expected float from 0 to 1000000000000, got {value!r} (float)")
        for value in (-1.0, INF, -INF, 1e13)
    ],
    "half_close": [("no", "expected bool, got 'no' (str)")],
    "tx_high_water": [
        *whole(1),
        (5, "tx_low_water: expected at most tx_high_water (5), got 65536"),
    ],
    "tx_low_water": [*whole(1), (2**18 + 1, "expected at most tx_high_water (262144), got 262145")],
    "tx_max": whole(0),
    "nodelay": [(1, "expected bool, got 1 (int)")],
    "keepalive": between(0, 32767),
    "keepalive_interval": between(0, 32767),
    "keepalive_count": between(0, 127),
    "user_timeout": [
        (value, f"expected float from 0 to 2147483, got {value!r} (float)")
        for value in (-1.0, INF, 2147484.0)
    ],
    "socket_options": [
        ({"SO_RCVBUFF": 1}, "no socket option 'SO_RCVBUFF' on this system; did you mean"),
        ({"SO_RCVBUF": "65536"}, "SO_RCVBUF: expected an int, or bytes, got '65536' (str)"),
    ],
}

# Where to listen, and whom to let in.
OF_SERVERS: dict[str, list[tuple[Any, str]]] = {
    "ports": [
        ((7000, 70_000), "expected ports from 0 to 65535, got 70000"),
        ((True,), "expected tuple of int, got (True,) (tuple)"),
    ],
    "use_multi_ports": [(True, "use_multi_ports=True expects at least one port to try, got ()")],
    "hosts": [((value,), told) for value, told in HOSTS],
    "unix_mode": [
        ("rw", "expected permissions in octal digits, as '0660', got 'rw'"),
        ("0660", "there is no unix_path whose permissions it could be"),
    ],
    "unix_owner": [("root", "there is no unix_path that could have an owner")],
    "fd": between(-1, 1048575),
    "fd_name": [
        (
            value,
            f"none of them a colon or a control character, got {told}",
        )
        for value, told in (
            ("a:b", "'a:b'"),
            ("a\0b", r"'a\x00b'"),
            ("\udcff", r"'\udcff'"),
            ("x" * 256, f"'{'x' * 56}..."),
        )
    ],
    "reuse_port": [(1, "expected bool, got 1 (int)")],
    "v6only": [(0, "expected bool, got 0 (int)")],
    "interface": [
        ("\udcff", r"expected a text that is UTF-8, got '\udcff'"),
        ("i" * 16, "expected the name of a network interface, such as 'eth0', of at most 15 bytes"),
        ("a\0b", r"of at most 15 bytes, got 'a\x00b'"),
    ],
    "watch_certificates": [
        *seconds(),
        (0.001, "expected 0 for never, or seconds from 0.01 on, got 0.001"),
    ],
    "backlog": between(1, 65535),
    "session": [
        (int, "expected a gclass or None, got the class int"),
        ("Echo", "expected a gclass or None, got 'Echo' (str)"),
    ],
    "session_parameters": [({"a": 1}, "there is no session that they could be for")],
    "max_connections": whole(0),
    "overflow": [("queue", "expected one of 'backlog', 'reject', got 'queue' (str)")],
    "reject_data": [("full", "expected bytes, got 'full' (str)")],
    "max_connections_per_ip": whole(0),
    "accept_rate": rate(),
    "accept_burst": whole(0),
    "accept_rate_per_ip": rate(),
    "accept_burst_per_ip": whole(0),
    "allow": networks("allow"),
    "deny": networks("deny"),
    "alarm_connections": whole(0),
    "alarm_cooldown": seconds(),
    "n_gsocks": [(1, "a statistic that the gobj keeps; it cannot be set")],
}

CASES = [(kind, name) for kind, gclass in GCLASSES.items() for name in gclass.config._params]

SAMPLES: list[Any] = [
    None, True, False, 0, 1, -1, 10**400, 1.5, NAN, INF, "", "1", "x", b"", b"x", (), (None,), (1,),
    ("x",), (b"x",), [], {}, {"x": 1}, {1: 2}, int, object(),
]  # fmt: skip

TAKES: dict[Any, tuple[type, ...]] = {
    int: (int,), float: (int, float), str: (str,), bool: (bool,), bytes: (bytes,),
    tuple: (tuple, list), dict: (dict,), type(None): (type(None),), GObj: (GObj,), type: (type,),
}  # fmt: skip
"""What Python types a declared type takes; an int for a float, a list for a tuple."""


def misfits_of_type(one: Param) -> list[Any]:
    """Samples of which the type of the parameter alone says that they do not fit."""
    kinds = [plain(member) for member in members(one.type)]
    if Any in kinds:
        return []
    taken = {kind for member in kinds for kind in TAKES[member]}
    # True is an int to Python, and 10**400 is one that no float holds.
    found = [
        value for value in SAMPLES
        if type(value) not in taken or (float in kinds and value == 10**400)
    ]  # fmt: skip
    return [*found, *([NAN] if float in kinds else [])]


def bad_of(gclass: type[GObj], name: str) -> list[tuple[Any, str]]:
    """The bad values of a parameter, each with what its error has to say."""
    one = gclass.config._params[name]
    told = [*BAD.get(name, ()), *OF_SERVERS.get(name, ())]
    if not one.read_only:
        told += [
            (value, f"{name}: expected {one.expected()}, got {shown(value, one)}")
            for value in misfits_of_type(one)
        ]
    return told


def shown(value: Any, one: Param) -> str:
    """How a value begins in an error; never what may be a secret."""
    if value is None:
        return "None"
    if isinstance(value, type):
        return "the class int"
    name = type(value).__name__
    kind = f"an {name}" if name[0] in "aeiou" else f"a {name}"
    if dict in map(plain, members(one.type)):
        return "a text of " if isinstance(value, str) else kind
    is_plain = isinstance(value, (bool, int, float, str, bytes, tuple, list))
    return repr(value)[:50] if is_plain else kind


def check(error: GConfigError, path: str, name: str, told: str) -> None:
    """One clear error: whose, which parameter, what was given, what is expected."""
    text = str(error)
    assert text.startswith(path), text
    assert name in text
    assert told in text
    assert len(text) < 700, text
    # A certificate is missing as well, where options of TLS are wrong.
    assert "\n" not in text or name == "ssl_options", text


@pytest.fixture
def app() -> Iterator[GAplic]:
    app = gaplic()
    yield app
    app.destroy_gobj(app)


def make(app: GAplic, kind: str, name: str, **parameters: Any) -> GObj:
    if kind == "server":
        parameters = {"host": "127.0.0.1", **parameters}
    return app.create_gobj(name, GCLASSES[kind], app.find("keeper"), **parameters)


def test_each_parameter_has_bad_values() -> None:
    server, gsock = (set(gclass.config._params) for gclass in (GServerSock, GSock))
    assert set(BAD) == gsock, "a parameter of GSock without bad values here, or the other way round"
    assert set(OF_SERVERS) == server - gsock, "the same for a parameter of GServerSock alone"
    assert all(BAD.values())
    assert all(OF_SERVERS.values())


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_one_clear_error_and_nothing_half_open(kind: str, name: str, app: GAplic) -> None:
    keeper = app.create_gobj("keeper", Keeper, app)
    # What the gaplic watches sockets with is opened with the first one.
    make(app, "server", "first")
    before = open_sockets()
    for value, told in bad_of(GCLASSES[kind], name):
        with pytest.raises(GConfigError) as caught:
            make(app, kind, "made", **{name: value})
        check(caught.value, f"app/keeper/made ({GCLASSES[kind].__name__}): ", name, told)
        assert list(keeper.children) == ["first"]
        assert open_sockets() == before


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_the_same_while_it_lives_and_the_old_one_stands(kind: str, name: str, app: GAplic) -> None:
    app.create_gobj("keeper", Keeper, app)
    gobj = make(app, kind, "made")
    config = gobj.config
    for value, told in bad_of(GCLASSES[kind], name):
        for others in {}, {"tx_max": 1234567}:
            with pytest.raises(GConfigError) as caught:
                gobj.write_parameters(**{**others, name: value})
            check(caught.value, "app/keeper/made: ", name, told)
            assert gobj.config is config
