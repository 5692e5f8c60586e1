"""Place: what a place may be, as data; opening the four kinds of it."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ginsfsm.net.addresses import ListenError
from ginsfsm.net.listening import Listening
from ginsfsm.net.place import Place, open_place, place_faults
from servers import needs_ipv6

EVERYTHING = Place(
    hosts=("127.0.0.1", "::1"),
    ports=(7000, 7001),
    backlog=5,
    reuse_port=True,
    v6only=False,
    interface="lo",
    unix_path="/run/x.sock",
    unix_mode=0o660,
    unix_owner="www-data:adm",
    fd=3,
    fd_name="web",
    socket_options=(("SO_RCVBUF", 65536), ("TCP_CONGESTION", b"reno")),
)


@pytest.fixture
def opened() -> Iterator[Callable[..., Listening]]:
    """`open_place` whose sockets are closed, and files removed, at the end of the test."""
    with ExitStack() as stack:

        def open_it(**fields: Any) -> Listening:
            listening = open_place(Place(**fields))
            stack.callback(listening.close)
            return listening

        yield open_it


def address(listening: Listening, number: int = 0) -> Any:
    return listening.sockets[number].getsockname()


class TestData:
    @pytest.mark.parametrize("place", [Place(), EVERYTHING], ids=["default", "everything"])
    def test_json_and_back(self, place: Place) -> None:
        assert msgspec.json.decode(msgspec.json.encode(place), type=Place) == place
        assert msgspec.convert(msgspec.to_builtins(place), Place) == place

    def test_equal_places_are_one_key(self) -> None:
        again = msgspec.json.decode(msgspec.json.encode(EVERYTHING), type=Place)
        assert {EVERYTHING: 1}[again] == 1
        assert Place() != EVERYTHING

    @pytest.mark.parametrize(
        ("fields", "kind"),
        [
            ({}, "hosts"),
            ({"unix_path": "x"}, "unix_path"),
            ({"unix_path": "x", "fd": 0}, "fd"),
            ({"fd": 3, "fd_name": "web"}, "fd_name"),
        ],
    )
    def test_kind(self, fields: dict[str, Any], kind: str) -> None:
        assert Place(**fields).kind == kind

    @pytest.mark.parametrize(
        ("fields", "faults"),
        [
            ({}, []),
            ({"hosts": ("127.0.0.1", "::1"), "reuse_port": True, "interface": "lo"}, []),
            ({"unix_path": "/run/x", "unix_mode": 0o600, "unix_owner": ":adm"}, []),
            ({"unix_path": "@x"}, []),
            ({"hosts": ("", "::1")}, ["hosts: '' is every interface"]),
            ({"interface": "a" * 16}, ["interface: expected the name of a network interface"]),
            ({"interface": "lo\0"}, ["interface: expected the name of a network interface"]),
            ({"unix_path": "@"}, ["unix_path: '@' is an abstract name without the name"]),
            ({"unix_path": "a\0b"}, ["unix_path: expected a path without a NUL"]),
            ({"unix_path": "/" + "x" * 107}, ["unix_path: a path of 108 bytes is too long"]),
            ({"unix_path": "/" + "x" * 106}, []),
            ({"unix_path": "@" + "x" * 107}, []),
            ({"unix_path": "@" + "x" * 108}, ["unix_path: a path of 109 bytes is too long"]),
            ({"unix_path": "é" * 54}, ["unix_path: a path of 108 bytes is too long"]),
            (
                {"unix_path": "@x", "unix_mode": 0o600, "unix_owner": "root"},
                ["unix_mode: an abstract name has no file", "unix_owner: an abstract name has no"],
            ),
            (
                {"unix_mode": 0, "unix_owner": "root"},
                ["unix_mode: there is no unix_path", "unix_owner: there is no unix_path"],
            ),
            ({"unix_path": "x", "unix_owner": "a:b:c"}, ["unix_owner: expected 'user', 'user:"]),
            ({"unix_path": "x", "unix_owner": ":"}, ["unix_owner: expected 'user', 'user:group'"]),
            ({"unix_path": "x", "unix_owner": "a:"}, ["unix_owner: expected 'user', 'user:group'"]),
            ({"unix_path": "x", "unix_owner": " a"}, ["unix_owner: expected 'user', 'user:group'"]),
            ({"unix_path": "x", "reuse_port": True}, ["reuse_port: goes with host or hosts"]),
            (
                {"fd": 3, "v6only": False, "interface": "lo"},
                ["v6only: goes with host or hosts, and fd was", "interface: goes with host or"],
            ),
            (
                {"unix_path": "x", "socket_options": (("TCP_MAXSEG", 500),)},
                ["socket_options: TCP_MAXSEG is none of a Unix socket"],
            ),
        ],
    )  # fmt: skip
    def test_faults(self, fields: dict[str, Any], faults: list[str]) -> None:
        found = list(place_faults(Place(**fields)))
        assert len(found) == len(faults), found
        for fault, begin in zip(found, faults, strict=True):
            assert fault.startswith(begin), fault


class TestTcp:
    def test_several_hosts_have_one_port(self, opened: Callable[..., Listening]) -> None:
        listening = opened(hosts=("127.0.0.1", "127.0.0.2"))
        assert address(listening) == ("127.0.0.1", listening.port)
        assert address(listening, 1) == ("127.0.0.2", listening.port)
        assert not listening.shared

    def test_hosts_that_are_the_same_are_one_socket(self, opened: Callable[..., Listening]) -> None:
        assert len(opened(hosts=("127.0.0.1", "127.0.0.1")).sockets) == 1

    def test_a_port_is_taken_on_all_hosts_or_not_at_all(
        self, opened: Callable[..., Listening]
    ) -> None:
        other = opened(hosts=("127.0.0.2",))
        listening = opened(hosts=("127.0.0.1", "127.0.0.2"), ports=(other.port, 0))
        assert listening.port != other.port

    def test_of_each_host_one_address_must_be_there(self) -> None:
        with pytest.raises(ListenError) as caught:
            open_place(Place(hosts=("127.0.0.1", "203.0.113.1"), ports=(7000,)))
        assert str(caught.value) == (
            "cannot listen on hosts '127.0.0.1', '203.0.113.1': 203.0.113.1:7000: not an address "
            "of this machine. Give an address of this machine, or '' for every interface."
        )

    def test_every_host_that_does_not_resolve_is_told(self) -> None:
        with pytest.raises(ListenError) as caught:
            open_place(Place(hosts=("one.invalid", "127.0.0.1", "two.invalid")))
        assert [one.address for one in caught.value.attempts] == ["one.invalid", "two.invalid"]

    @needs_ipv6
    @pytest.mark.parametrize("host", ["", "::"])
    def test_one_socket_for_both_families(
        self, host: str, opened: Callable[..., Listening]
    ) -> None:
        listening = opened(hosts=(host,), v6only=False)
        (sock,) = listening.sockets
        with socket.create_connection(("127.0.0.1", listening.port)):
            client, peername = sock.accept()
            client.close()
        assert peername[0] == "::ffff:127.0.0.1"
        with socket.create_connection(("::1", listening.port)):
            client, peername = sock.accept()
            client.close()
        assert peername[0] == "::1"

    def test_both_families_where_there_is_no_ipv6(
        self, opened: Callable[..., Listening], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(socket, "has_ipv6", False)
        assert [one.family for one in opened(v6only=False).sockets] == [socket.AF_INET]

    def test_reuse_port(self, opened: Callable[..., Listening]) -> None:
        first = opened(hosts=("127.0.0.1",), reuse_port=True)
        second = opened(hosts=("127.0.0.1",), ports=(first.port,), reuse_port=True)
        assert first.port == second.port
        with pytest.raises(ListenError, match="port in use"):
            open_place(Place(hosts=("127.0.0.1",), ports=(first.port,)))

    def test_interface(self, opened: Callable[..., Listening]) -> None:
        (sock,) = opened(hosts=("127.0.0.1",), interface="lo").sockets
        bound = sock.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16)
        assert bound.rstrip(b"\0") == b"lo"

    def test_an_interface_that_there_is_not(self) -> None:
        with pytest.raises(ListenError) as caught:
            open_place(Place(hosts=("127.0.0.1",), ports=(0, 0), interface="nosuch0"))
        message = str(caught.value)
        assert message.startswith(
            "cannot listen on interface 'nosuch0': this machine has no such network interface. "
            "Give one of: "
        )
        assert "lo" in message

    def test_socket_options_are_set_before_the_bind(self, opened: Callable[..., Listening]) -> None:
        # IP_FREEBIND lets one bind an address that is not there: set too late, it has no effect.
        (sock,) = opened(hosts=("203.0.113.1",), socket_options=(("0:15", 1),)).sockets
        assert sock.getsockname()[0] == "203.0.113.1"

    @needs_ipv6
    def test_an_option_goes_to_the_sockets_of_its_family(
        self, opened: Callable[..., Listening]
    ) -> None:
        four, six = opened(socket_options=(("IPV6_TCLASS", 32), ("IP_TOS", 16))).sockets
        assert six.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS) == 32
        assert four.getsockopt(socket.IPPROTO_IP, socket.IP_TOS) == 16

    def test_an_option_of_no_sockets_family(self) -> None:
        with pytest.raises(ListenError) as caught:
            open_place(Place(hosts=("127.0.0.1",), socket_options=(("IPV6_TCLASS", 32),)))
        assert str(caught.value) == (
            "socket_options: IPV6_TCLASS is an option of IPv6, and none of the addresses is. "
            "Leave it out, or give other hosts."
        )

    @pytest.mark.parametrize(
        ("name", "value", "why"),
        [
            ("TCP_CONGESTION", b"nosuch", "No such file or directory (ENOENT)"),
            ("TCP_MAXSEG", 1, "Invalid argument (EINVAL)"),
            ("SO_ACCEPTCONN", 1, "Protocol not available (ENOPROTOOPT)"),
        ],
    )
    def test_an_option_that_the_system_does_not_take(
        self, name: str, value: int | bytes, why: str
    ) -> None:
        before = set(os.listdir("/proc/self/fd"))
        with pytest.raises(ListenError) as caught:
            open_place(Place(hosts=("127.0.0.1",), ports=(0, 0), socket_options=((name, value),)))
        assert str(caught.value) == (
            f"socket_options: the system does not take {name}={value!r}: {why}. "
            "Give another value, or leave it out."
        )
        assert set(os.listdir("/proc/self/fd")) == before


class TestTheRest:
    def test_unix_path(self, opened: Callable[..., Listening], tmp_path: Path) -> None:
        path = tmp_path / "s"
        listening = opened(unix_path=str(path), unix_mode=0o600)
        assert address(listening) == str(path)
        assert listening.port == 0
        assert path.stat().st_mode & 0o777 == 0o600
        listening.close()
        assert not path.exists()

    def test_fd(self, opened: Callable[..., Listening]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as theirs:
            listening = opened(fd=theirs.fileno(), socket_options=(("SO_RCVBUF", 40_000),))
            (sock,) = listening.sockets
            assert sock.fileno() != theirs.fileno()
            assert not sock.get_inheritable()
            assert not sock.getblocking()
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 80_000
            assert listening.port == theirs.getsockname()[1]
            assert not listening.shared
            listening.close()
            # Theirs stays open.
            with socket.create_connection(theirs.getsockname()):
                theirs.setblocking(True)
                theirs.accept()[0].close()

    def test_fd_name_without_a_service_manager(self) -> None:
        with pytest.raises(ListenError) as caught:
            open_place(Place(fd_name="web"))
        assert str(caught.value) == (
            "cannot listen on fd_name 'web': no service manager gave this process sockets (no "
            "LISTEN_FDS). Start it by a socket unit with FileDescriptorName=web, or give where to "
            "listen as host and port."
        )
