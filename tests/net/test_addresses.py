import errno
import os
import pickle
import select
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from ginsfsm.net import addresses
from ginsfsm.net.addresses import ListenError, Listening, format_address, listen

# An address that is documentation's (RFC 5737) and therefore never of this machine.
FOREIGN = "203.0.113.1"
FOREIGN_IPV6 = "2001:db8::1"


def has_ipv6_loopback() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6_loopback(), reason="this machine has no ::1")
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="what Linux does")
needs_posix = pytest.mark.skipif(os.name != "posix", reason="what POSIX says")


@pytest.fixture
def listening(opened: ExitStack) -> Callable[..., Listening]:
    """`listen` whose sockets are closed at the end of the test."""

    def _listening(host: str, *ports: int, backlog: int = 16) -> Listening:
        result = listen(host, ports, backlog=backlog)
        for sock in result.sockets:
            opened.enter_context(sock)
        return result

    return _listening


def holder(
    opened: ExitStack,
    address: str = "127.0.0.1",
    port: int = 0,
    *,
    reuse: bool = False,
    accepting: bool = True,
) -> socket.socket:
    """Somebody else's socket, which holds a port of this address."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = opened.enter_context(socket.socket(family, socket.SOCK_STREAM))
    if reuse:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind((address, port))
    if accepting:
        sock.listen(1)
    return sock


def port_of(sock: socket.socket) -> int:
    port = sock.getsockname()[1]
    assert isinstance(port, int)
    return port


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return port_of(sock)


def open_descriptors() -> set[str]:
    return set(os.listdir("/dev/fd"))


def resolving_to(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
    """Make every name resolve to these addresses; the sockets stay real."""
    real = socket.getaddrinfo

    def getaddrinfo(host: str, *args: Any, **kwargs: Any) -> list[Any]:
        return [found for numeric in hosts for found in real(numeric, *args, **kwargs)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def families(result: Listening) -> list[int]:
    return [sock.family for sock in result.sockets]


def accept(listener: socket.socket) -> socket.socket:
    assert select.select([listener], [], [], 5)[0], "nothing to accept within 5 s"
    return listener.accept()[0]


class TestOneAddress:
    def test_free_port(self, listening: Callable[..., Listening]) -> None:
        result = listening("127.0.0.1", 0)
        (sock,) = result.sockets
        assert result.port != 0
        assert sock.getsockname() == ("127.0.0.1", result.port)

    def test_given_port(self, listening: Callable[..., Listening]) -> None:
        port = free_port()
        assert listening("127.0.0.1", port).port == port

    def test_socket_options(self, listening: Callable[..., Listening]) -> None:
        (sock,) = listening("127.0.0.1", 0).sockets
        assert sock.getblocking() is False
        assert sock.get_inheritable() is False
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        if os.name == "posix":
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)

    @needs_posix
    def test_accepted_sockets_inherit_nodelay(
        self, listening: Callable[..., Listening], opened: ExitStack
    ) -> None:
        result = listening("127.0.0.1", 0)
        opened.enter_context(socket.create_connection(("127.0.0.1", result.port), timeout=5))
        served = opened.enter_context(accept(result.sockets[0]))
        assert served.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    @needs_posix
    def test_restart_while_an_old_connection_is_in_time_wait(
        self, listening: Callable[..., Listening], opened: ExitStack
    ) -> None:
        first = listen("127.0.0.1", [0], backlog=1)
        with first.sockets[0] as listener:
            client = opened.enter_context(
                socket.create_connection(("127.0.0.1", first.port), timeout=5)
            )
            # The side that closes first is the one that waits.
            accept(listener).close()
            assert client.recv(1) == b""
            client.close()
        assert listening("127.0.0.1", first.port).port == first.port

    @needs_ipv6
    def test_numeric_ipv6(self, listening: Callable[..., Listening]) -> None:
        result = listening("::1", 0)
        (sock,) = result.sockets
        assert sock.getsockname()[:2] == ("::1", result.port)

    @needs_ipv6
    def test_both_wildcards_are_one_family_each(self, listening: Callable[..., Listening]) -> None:
        ipv4 = listening("0.0.0.0", 0)
        assert families(ipv4) == [socket.AF_INET]
        # Free, because the IPv6 socket leaves IPv4 alone.
        ipv6 = listening("::", ipv4.port)
        assert families(ipv6) == [socket.AF_INET6]


class TestEveryInterface:
    @needs_ipv6
    def test_port_0_is_the_same_port_in_both_families(
        self, listening: Callable[..., Listening], opened: ExitStack
    ) -> None:
        result = listening("", 0)
        assert families(result) == [socket.AF_INET, socket.AF_INET6]
        assert [port_of(sock) for sock in result.sockets] == [result.port, result.port]
        ipv4, ipv6 = result.sockets
        assert ipv6.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        for host, listener in (("127.0.0.1", ipv4), ("::1", ipv6)):
            opened.enter_context(socket.create_connection((host, result.port), timeout=5))
            served = opened.enter_context(accept(listener))
            assert served.getpeername()[0] == host

    @needs_ipv6
    def test_port_0_tries_again_where_the_second_family_has_it_taken(
        self,
        listening: Callable[..., Listening],
        opened: ExitStack,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        lost: list[int] = []

        class Raced(socket.socket):
            """Three times, a rival takes the port on IPv6 just before it is bound there."""

            def bind(self, address: Any) -> None:
                if self.family == socket.AF_INET6 and len(lost) < 3:
                    lost.append(address[1])
                    rival = opened.enter_context(real(socket.AF_INET6))
                    rival.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    rival.bind(address)
                super().bind(address)

        real = socket.socket
        monkeypatch.setattr(socket, "socket", Raced)
        result = listening("", 0)
        assert len(lost) == 3
        assert result.port not in lost
        assert [port_of(sock) for sock in result.sockets] == [result.port, result.port]

    @needs_ipv6
    def test_port_0_gives_up_after_a_bounded_number_of_tries(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tries = 0

        class Unlucky(socket.socket):
            def bind(self, address: Any) -> None:
                nonlocal tries
                if self.family == socket.AF_INET6:
                    tries += 1
                    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
                super().bind(address)

        monkeypatch.setattr(socket, "socket", Unlucky)
        before = open_descriptors()
        with pytest.raises(ListenError, match="port in use") as caught:
            listen("", [0], backlog=1)
        assert tries == addresses._FREE_PORT_TRIES
        # The last try is the report; forty of them would tell nothing more.
        assert len(caught.value.attempts) == 1
        assert open_descriptors() == before

    @needs_ipv6
    @pytest.mark.parametrize("held", ["0.0.0.0", "::"])
    def test_port_taken_in_one_family_is_taken(self, held: str, opened: ExitStack) -> None:
        port = port_of(holder(opened, held))
        before = open_descriptors()
        with pytest.raises(ListenError, match="port in use") as caught:
            listen("", [port], backlog=1)
        assert [one.address for one in caught.value.attempts] == [
            format_address((held, port) if held == "0.0.0.0" else (held, port, 0, 0))
        ]
        assert open_descriptors() == before

    def test_python_without_ipv6(
        self, listening: Callable[..., Listening], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(socket, "has_ipv6", False)
        assert families(listening("", 0)) == [socket.AF_INET]

    @needs_linux
    def test_kernel_without_ipv6(self) -> None:
        run_in_child(
            DENY_IPV6
            + """
            result = listen("", [0], backlog=1)
            assert [sock.family for sock in result.sockets] == [socket.AF_INET], result
            try:
                listen("::", [7000], backlog=1)
            except ListenError as error:
                assert error.errno == errno.EAFNOSUPPORT
                print(error)
            """,
            "cannot listen on host '::': [::]:7000: this machine does not have this family of "
            "addresses. Give an address of the other family, or '' for every interface.",
        )


class TestName:
    @needs_ipv6
    def test_listens_on_every_address_with_one_port(
        self, listening: Callable[..., Listening], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        resolving_to(monkeypatch, "::1", "127.0.0.1")
        result = listening("two.test", 0)
        assert families(result) == [socket.AF_INET6, socket.AF_INET]
        assert [port_of(sock) for sock in result.sockets] == [result.port, result.port]

    def test_an_address_found_twice_is_one_socket(
        self, listening: Callable[..., Listening], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        resolving_to(monkeypatch, "127.0.0.1", "127.0.0.1")
        assert len(listening("twice.test", 0).sockets) == 1

    @pytest.mark.parametrize("hosts", [(FOREIGN, "127.0.0.1"), ("127.0.0.1", FOREIGN)])
    @pytest.mark.parametrize("any_port", [True, False])
    def test_an_address_of_another_machine_is_left_out(
        self,
        hosts: tuple[str, str],
        any_port: bool,
        listening: Callable[..., Listening],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        resolving_to(monkeypatch, *hosts)
        result = listening("both.test", 0 if any_port else free_port())
        assert [sock.getsockname()[0] for sock in result.sockets] == ["127.0.0.1"]

    @needs_ipv6
    def test_taken_on_one_address_means_the_next_port(
        self,
        listening: Callable[..., Listening],
        opened: ExitStack,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        resolving_to(monkeypatch, "127.0.0.1", "::1")
        taken, free = port_of(holder(opened, "::1")), free_port()
        result = listening("two.test", taken, free)
        assert result.port == free
        assert len(result.sockets) == 2

    @pytest.mark.parametrize("name", ["no-such-host.invalid", "a" * 70 + ".invalid"])
    def test_that_does_not_resolve(self, name: str) -> None:
        with pytest.raises(ListenError) as caught:
            listen(name, [80, 81], backlog=1)
        (attempt,) = caught.value.attempts
        assert attempt.address == name
        assert caught.value.errno == errno.EADDRNOTAVAIL
        message = str(caught.value)
        assert message.startswith(
            f"cannot listen on host {name!r}: {name}: the name does not resolve ("
        )
        assert message.endswith(
            "Give an address of this machine, a name of one, or '' for every interface."
        )


class TestPorts:
    def test_first_free_one_is_taken(
        self, listening: Callable[..., Listening], opened: ExitStack
    ) -> None:
        taken = [port_of(holder(opened)) for _ in range(3)]
        free = free_port()
        assert listening("127.0.0.1", *taken, free, 0).port == free

    def test_order_is_kept(self, listening: Callable[..., Listening]) -> None:
        first, second = sorted((free_port(), free_port()), reverse=True)
        assert listening("127.0.0.1", first, second).port == first

    def test_all_taken(self, opened: ExitStack) -> None:
        one, two = (port_of(holder(opened)) for _ in range(2))
        before = open_descriptors()
        with pytest.raises(ListenError) as caught:
            listen("127.0.0.1", [one, two], backlog=1)
        assert str(caught.value) == (
            f"cannot listen on host '127.0.0.1': 127.0.0.1:{one}, 127.0.0.1:{two}: port in use: "
            "another program, or another socket of this one, listens there. Stop the one that "
            "listens there, or give another port (0 takes a free one)."
        )
        assert caught.value.errno == errno.EADDRINUSE
        assert [(one.address, one.errno) for one in caught.value.attempts] == [
            (f"127.0.0.1:{one}", errno.EADDRINUSE),
            (f"127.0.0.1:{two}", errno.EADDRINUSE),
        ]
        assert open_descriptors() == before

    def test_bound_by_another_that_does_not_listen_is_taken(
        self, listening: Callable[..., Listening], opened: ExitStack
    ) -> None:
        bound = port_of(holder(opened, accepting=False))
        assert listening("127.0.0.1", bound, 0).port != bound

    @needs_linux
    def test_bound_by_another_that_would_share_is_free(
        self, listening: Callable[..., Listening], opened: ExitStack
    ) -> None:
        # Linux lets both bind; the first to listen has the port, and the other cannot any more.
        rival = holder(opened, reuse=True, accepting=False)
        assert listening("127.0.0.1", port_of(rival)).port == port_of(rival)
        with pytest.raises(OSError, match="in use"):
            rival.listen(1)

    @needs_linux
    @pytest.mark.parametrize("fallback", [True, False])
    def test_another_that_listens_between_bind_and_listen_has_the_port(
        self,
        fallback: bool,
        listening: Callable[..., Listening],
        opened: ExitStack,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        rival = holder(opened, reuse=True, accepting=False)

        class Raced(socket.socket):
            def listen(self, backlog: int = 1, /) -> None:
                rival.listen(1)
                super().listen(backlog)

        monkeypatch.setattr(socket, "socket", Raced)
        before = open_descriptors()
        if fallback:
            assert listening("127.0.0.1", port_of(rival), 0).port != port_of(rival)
        else:
            with pytest.raises(ListenError, match=f"127.0.0.1:{port_of(rival)}: port in use"):
                listen("127.0.0.1", [port_of(rival)], backlog=1)
            assert open_descriptors() == before

    @needs_ipv6
    def test_nobody_can_connect_to_a_port_that_is_not_taken_whole(
        self, opened: ExitStack, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        resolving_to(monkeypatch, "127.0.0.1", "::1")
        taken = port_of(holder(opened, "::1"))
        listened: list[object] = []

        class Watched(socket.socket):
            def listen(self, backlog: int = 1, /) -> None:
                listened.append(self.getsockname())
                super().listen(backlog)

        monkeypatch.setattr(socket, "socket", Watched)
        with pytest.raises(ListenError):
            listen("two.test", [taken], backlog=1)
        assert listened == []

    def test_none(self) -> None:
        with pytest.raises(ValueError, match="no ports were given: expected at least one"):
            listen("127.0.0.1", [], backlog=1)

    @pytest.mark.parametrize("port", [-1, 65536])
    def test_that_is_none(self, port: int) -> None:
        before = open_descriptors()
        with pytest.raises(ValueError, match=f"{port}: not a port, expected a whole number from 0"):
            listen("127.0.0.1", [0, port], backlog=1)
        assert open_descriptors() == before


class TestListenError:
    @pytest.mark.parametrize(
        ("host", "shown"),
        [
            (FOREIGN, f"{FOREIGN}:7000"),
            pytest.param(FOREIGN_IPV6, f"[{FOREIGN_IPV6}]:7000", marks=needs_ipv6),
        ],
    )
    def test_address_not_of_this_machine(self, host: str, shown: str) -> None:
        before = open_descriptors()
        with pytest.raises(ListenError) as caught:
            listen(host, [7000], backlog=1)
        assert str(caught.value) == (
            f"cannot listen on host {host!r}: {shown}: not an address of this machine. "
            "Give an address of this machine, or '' for every interface."
        )
        assert caught.value.errno == errno.EADDRNOTAVAIL
        assert open_descriptors() == before

    @needs_ipv6
    @needs_linux
    def test_link_local_address_without_its_interface(self) -> None:
        with pytest.raises(ListenError, match=r"\[fe80::1\]:7000: a link-local address needs"):
            listen("fe80::1", [7000], backlog=1)

    @needs_ipv6
    @needs_linux
    def test_ipv4_address_in_ipv6_form(self) -> None:
        with pytest.raises(ListenError, match=r"Give it in IPv4 form, as in 127\.0\.0\.1"):
            listen("::ffff:127.0.0.1", [0], backlog=1)

    @needs_ipv6
    def test_an_unforeseen_reason_keeps_the_systems_words(self) -> None:
        # A group of machines: nobody can listen on that by TCP.
        with pytest.raises(ListenError, match=r"7000: .+ \(E[A-Z]+\)\.$"):
            listen("ff02::1", [7000], backlog=1)

    @needs_ipv6
    def test_every_address_that_failed_is_named(
        self, opened: ExitStack, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        resolving_to(monkeypatch, FOREIGN, "127.0.0.1", "::1")
        port = port_of(holder(opened))
        holder(opened, "::1", port)
        with pytest.raises(ListenError) as caught:
            listen("three.test", [port], backlog=1)
        assert [one.address for one in caught.value.attempts] == [
            f"{FOREIGN}:{port}",
            f"127.0.0.1:{port}",
            f"[::1]:{port}",
        ]
        # In use, and not the first one's: that is what somebody can do something about.
        assert caught.value.errno == errno.EADDRINUSE
        assert f"; 127.0.0.1:{port}, [::1]:{port}: port in use" in str(caught.value)

    @needs_posix
    def test_privileged_port(self) -> None:
        run_in_child(
            """
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            for port in range(1, 1024):
                with socket.socket() as probe:
                    try:
                        probe.bind(("127.0.0.1", port))
                    except PermissionError:
                        break
            else:
                print("skip: every user may bind every port here")
                sys.exit()
            try:
                listen("127.0.0.1", [port], backlog=1)
            except ListenError as error:
                assert error.errno == errno.EACCES
                print(str(error).replace(f":{port}:", ":PORT:"))
            """,
            "cannot listen on host '127.0.0.1': 127.0.0.1:PORT: privileged port: below 1024 it "
            "needs rights that this process does not have. Give a port from 1024 on, or run with "
            "the right to use this one (CAP_NET_BIND_SERVICE on Linux).",
        )

    def test_no_descriptors_left_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def exhausted(*args: object) -> socket.socket:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        monkeypatch.setattr(socket, "socket", exhausted)
        with pytest.raises(ListenError, match=r"127.0.0.1:7000: .+ \(EMFILE\)\.$") as caught:
            listen("127.0.0.1", [7000], backlog=1)
        assert caught.value.errno == errno.EMFILE

    def test_an_interruption_leaves_nothing_open(
        self, opened: ExitStack, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Interrupted(socket.socket):
            def bind(self, address: Any) -> None:
                super().bind(address)
                raise KeyboardInterrupt

        monkeypatch.setattr(socket, "socket", Interrupted)
        before = open_descriptors()
        with pytest.raises(KeyboardInterrupt):
            listen("127.0.0.1", [0], backlog=1)
        assert open_descriptors() == before

    def test_survives_pickling(self) -> None:
        with pytest.raises(ListenError) as caught:
            listen(FOREIGN, [7000], backlog=1)
        again = pickle.loads(pickle.dumps(caught.value))
        assert (str(again), again.errno, again.attempts) == (
            str(caught.value),
            caught.value.errno,
            caught.value.attempts,
        )


@pytest.mark.parametrize(
    ("sockaddr", "shown"),
    [
        (("127.0.0.1", 7000), "127.0.0.1:7000"),
        (("::1", 7000, 0, 0), "[::1]:7000"),
        (("fe80::1", 7000, 0, 2), "[fe80::1%2]:7000"),
        (("fe80::1%eth0", 7000, 0, 2), "[fe80::1%eth0]:7000"),
        ("/run/echo.sock", "/run/echo.sock"),
        (b"/run/echo.sock", "/run/echo.sock"),
        (b"\0echo", "@echo"),
        ("\0echo", "@echo"),
        ("", "unnamed"),
        (b"", "unnamed"),
        (None, "None"),
        ((3, 7000), "(3, 7000)"),
    ],
)
def test_format_address(sockaddr: object, shown: str) -> None:
    assert format_address(sockaddr) == shown


# A filter that answers socket(AF_INET6, ...) as a kernel without IPv6 does; systemd's
# RestrictAddressFamilies= does the same. It needs no rights.
DENY_IPV6 = """
            import ctypes, platform, struct
            number = {"x86_64": 41, "aarch64": 198}.get(platform.machine())
            load = lambda offset: struct.pack("HBBI", 0x20, 0, 0, offset)
            skip_unless = lambda value, count: struct.pack("HBBI", 0x15, 0, count, value)
            answer = lambda value: struct.pack("HBBI", 0x06, 0, 0, value)
            refuse = 0x00050000 | errno.EAFNOSUPPORT
            rules = (
                load(0) + skip_unless(number or 0, 3)
                + load(16) + skip_unless(socket.AF_INET6, 1)
                + answer(refuse) + answer(0x7FFF0000)
            )
            text = ctypes.create_string_buffer(rules)
            program = struct.pack("HP", 6, ctypes.addressof(text))
            libc = ctypes.CDLL(None)
            ready = number and libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program) == 0
            if not ready:
                print("skip: no filter for system calls here")
                sys.exit()
"""


def run_in_child(code: str, expected: str) -> None:
    """Run code that gives up rights, in a process of its own; it prints `expected` or a `skip:`."""
    # encodings.idna is imported by the first look-up, when a child without rights may no longer be
    # able to read the folder that Python lives in.
    prelude = (
        "import encodings.idna, errno, os, socket, sys\n"
        "from ginsfsm.net.addresses import ListenError, listen\n"
    )
    child = subprocess.run(
        [sys.executable, "-c", prelude + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert child.returncode == 0, child.stderr
    if child.stdout.startswith("skip: "):
        pytest.skip(child.stdout.removeprefix("skip: ").strip())
    assert child.stdout.strip() == expected
