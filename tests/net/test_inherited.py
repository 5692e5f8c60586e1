"""Inherited sockets: what a service manager says, and which descriptors are of use."""

import os
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from ginsfsm.net import inherited
from ginsfsm.net.inherited import (
    Activation,
    listen_on_descriptor,
    listen_on_name,
    read_activation,
    take_activation,
)
from ginsfsm.net.listen_error import ListenError

PID = 1234


@pytest.fixture(autouse=True)
def nothing_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inherited, "_taken", Activation({}, "nothing yet"))


def said(fds: str, names: str | None = None, pid: object = PID) -> dict[str, str]:
    environ = {"LISTEN_FDS": fds, "LISTEN_PID": str(pid)}
    return environ if names is None else {**environ, "LISTEN_FDNAMES": names}


class TestReading:
    @pytest.mark.parametrize(
        ("environ", "names"),
        [
            (said("1", "web"), {3: "web"}),
            (said("2", "web:web"), {3: "web", 4: "web"}),
            (said("3", "a::b"), {3: "a", 4: "", 5: "b"}),
            (said("2"), {3: "unknown", 4: "unknown"}),
        ],
    )
    def test_names(self, environ: dict[str, str], names: dict[int, str]) -> None:
        assert read_activation(environ, PID) == Activation(names)

    @pytest.mark.parametrize(
        ("environ", "why"),
        [
            ({}, "no service manager gave this process sockets (no LISTEN_FDS)"),
            ({"LISTEN_PID": "1234"}, "no service manager gave this process sockets (no LISTEN_FDS"),
            ({"LISTEN_FDS": "1"}, "LISTEN_PID should be the number of a process, and is ''"),
            (said("1", pid="x"), "LISTEN_PID should be the number of a process, and is 'x'"),
            (said("1", pid=99), "LISTEN_FDS is for process 99 (LISTEN_PID), this one is 1234"),
            (
                said("1", pid="9" * 5000),
                "LISTEN_PID should be the number of a process, and is '999",
            ),
            (said("x"), "LISTEN_FDS should be a number of descriptors, and is 'x'"),
            (said("-1"), "LISTEN_FDS should be a number of descriptors, and is '-1'"),
            (said("²"), "LISTEN_FDS should be a number of descriptors, and is '²'"),
            (said("9" * 30), f"LISTEN_FDS should be a number of descriptors, and is '{'9' * 30}'"),
            (said("0"), "the service manager gave no sockets (LISTEN_FDS is 0)"),
            (said("2", "a"), "LISTEN_FDNAMES has 1 names for 2 descriptors: 'a'"),
            (said("1", "a:b"), "LISTEN_FDNAMES has 2 names for 1 descriptors: 'a:b'"),
        ],
    )
    def test_why_there_are_none(self, environ: dict[str, str], why: str) -> None:
        found = read_activation(environ, PID)
        assert not found.names
        assert found.absent.startswith(why)

    def test_descriptors_of_one_name(self) -> None:
        activation = Activation({3: "web", 4: "admin", 5: "web"})
        assert activation.named("web") == (3, 5)
        assert activation.named("nosuch") == ()


class TestTaking:
    def test_the_variables_are_removed_and_what_they_said_is_kept(self) -> None:
        environ = {**said("0", pid=os.getpid()), "LISTEN_PIDFDID": "7", "PATH": "/bin"}
        first = take_activation(environ)
        assert environ == {"PATH": "/bin"}
        assert "LISTEN_FDS is 0" in first.absent
        assert take_activation(environ) is first

    def test_those_for_another_process_are_removed_too(self) -> None:
        environ = said("1", "web", pid=1)
        assert "is for process 1 (LISTEN_PID)" in take_activation(environ).absent
        assert not environ

    def test_a_descriptor_that_is_not_open(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(inherited, "FIRST", 900)
        found = take_activation(said("2", pid=os.getpid()))
        assert found.absent == (
            "LISTEN_FDS says that there are 2 descriptors from 900 on, and 900 is not open"
        )

    def test_closed_on_exec_from_then_on(
        self, opened: ExitStack, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sock = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
        sock.set_inheritable(True)
        monkeypatch.setattr(inherited, "FIRST", sock.fileno())
        take_activation(said("1", "web", pid=os.getpid()))
        assert not sock.get_inheritable()


class TestListening:
    def test_by_name_and_by_number(
        self, opened: ExitStack, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sock = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
        monkeypatch.setattr(inherited, "FIRST", sock.fileno())
        environ = said("1", "web", pid=os.getpid())
        by_name = listen_on_name("web", environ)
        opened.callback(by_name.close)
        assert by_name.shared
        assert by_name.port == sock.getsockname()[1]
        assert not by_name.sockets[0].getblocking()
        by_number = listen_on_descriptor(sock.fileno(), environ)
        opened.callback(by_number.close)
        assert by_number.shared

    def test_a_name_that_was_not_given(
        self, opened: ExitStack, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sock = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
        monkeypatch.setattr(inherited, "FIRST", sock.fileno())
        with pytest.raises(ListenError) as caught:
            listen_on_name("web", said("1", "http", pid=os.getpid()))
        assert str(caught.value) == (
            "cannot listen on fd_name 'web': the service manager gave none of that name, but "
            "'http'. Start it by a socket unit with FileDescriptorName=web, or give where to "
            "listen as host and port."
        )

    def test_a_descriptor_that_is_not_open(self) -> None:
        with pytest.raises(ListenError) as caught:
            listen_on_descriptor(900, {})
        assert str(caught.value) == (
            "cannot listen on fd 900: descriptor 900 is not open. Give a stream socket that "
            "listens, opened by whoever starts this process."
        )

    @pytest.mark.parametrize(
        ("kind", "what"),
        [
            ("file", "is no socket"),
            ("datagram", "is no stream socket but SOCK_DGRAM"),
            ("packets", "is no stream socket but SOCK_SEQPACKET"),
            (
                "connected",
                "is a stream socket that does not listen (a socket unit needs",
            ),
            ("bound", "is a stream socket that does not listen"),
            ("netlink", "is a socket of the family AF_NETLINK, not of TCP or Unix"),
        ],
    )
    def test_what_cannot_accept(
        self, kind: str, what: str, opened: ExitStack, tmp_path: Path
    ) -> None:
        if kind == "file":
            fd = opened.enter_context((tmp_path / "x").open("w")).fileno()
        elif kind == "connected":
            one, _ = map(opened.enter_context, socket.socketpair())
            fd = one.fileno()
        else:
            made = {
                "datagram": (socket.AF_INET, socket.SOCK_DGRAM),
                "packets": (socket.AF_UNIX, socket.SOCK_SEQPACKET),
                "bound": (socket.AF_INET, socket.SOCK_STREAM),
                "netlink": (socket.AF_NETLINK, socket.SOCK_RAW),
            }[kind]
            sock = opened.enter_context(socket.socket(*made))
            if kind == "bound":
                sock.bind(("127.0.0.1", 0))
            fd = sock.fileno()
        before = set(os.listdir("/proc/self/fd"))
        with pytest.raises(ListenError) as caught:
            listen_on_descriptor(fd, {})
        assert str(caught.value).startswith(f"cannot listen on fd {fd}: descriptor {fd} {what}")
        assert set(os.listdir("/proc/self/fd")) == before

    def test_one_of_several_that_cannot_accept_closes_the_rest(
        self, opened: ExitStack, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sock = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
        other = opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        os.dup2(sock.fileno(), 700)
        opened.callback(os.close, 700)
        os.dup2(other.fileno(), 701)
        opened.callback(os.close, 701)
        monkeypatch.setattr(inherited, "FIRST", 700)
        before = set(os.listdir("/proc/self/fd"))
        with pytest.raises(ListenError, match="descriptor 701 is no stream socket"):
            listen_on_name("web", said("2", "web:web", pid=os.getpid()))
        assert set(os.listdir("/proc/self/fd")) == before


def test_options_go_to_a_socket_of_both_families_and_a_foreign_one_is_an_error(
    opened: ExitStack,
) -> None:
    dual = opened.enter_context(
        socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    )
    listening = listen_on_descriptor(
        dual.fileno(), {}, options=(("IP_TOS", 16), ("IPV6_TCLASS", 32))
    )
    opened.callback(listening.close)
    (sock,) = listening.sockets
    assert sock.getsockopt(socket.IPPROTO_IP, socket.IP_TOS) == 16
    assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS) == 32
    four = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
    with pytest.raises(ListenError, match="IPV6_TCLASS is an option of IPv6, and none of"):
        listen_on_descriptor(four.fileno(), {}, options=(("IPV6_TCLASS", 32),))
