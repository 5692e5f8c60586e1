"""Where a server listens, over real sockets: hosts, Unix sockets, descriptors, options, clients."""

import asyncio
import json
import os
import socket
import struct
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from conftest import RunAsync
from ginsfsm import GAplic, GConfigError, GObjError
from ginsfsm.c_sock import (
    EV_CONNECT,
    EV_CONNECT_FAILED,
    EV_CONNECTED,
    EV_DISCONNECTED,
    EV_DROP,
    EV_RX_DATA,
    EV_SEND_DATA,
    GSock,
)
from ginsfsm.c_srv_sock import EV_DRAIN, GServerSock
from ginsfsm.net.listening import Listening
from ginsfsm.net.place import Place, open_place
from programs import BlockingProgram
from secure import client_options, server_options
from servers import DEADLINE, Keeper, connect, needs_ipv6, read, serve, until, write
from sockets import gaplic, listener, make_owner


@pytest.fixture(params=["auto", "loop"], ids=["poller", "loop_poller"])
def app(request: pytest.FixtureRequest) -> Iterator[GAplic]:
    """A gaplic with each kind of poller."""
    app = gaplic(request.param)
    yield app
    app.destroy_gobj(app)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s.sock"


def make(app: GAplic, **parameters: Any) -> tuple[Keeper, GServerSock]:
    keeper = app.create_gobj("keeper", Keeper, app)
    return keeper, serve(keeper, **parameters)


def fault(app: GAplic, **parameters: Any) -> str:
    """The one clear error about these parameters, without its head."""
    with pytest.raises(GConfigError) as caught:
        make(app, **parameters)
    head = "app/keeper/server (GServerSock): "
    assert str(caught.value).startswith(head)
    assert "faults" not in str(caught.value)
    app.destroy_gobj(app.find("keeper"))
    return str(caught.value).removeprefix(head)


@contextmanager
def unix_client(path: Path | str, bound_to: Path | None = None) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as client:
        if bound_to is not None:
            client.bind(str(bound_to))
        client.connect(str(path))
        client.setblocking(False)
        yield client


def the_socket(gsock: GSock) -> Any:
    assert gsock._sock is not None
    return gsock._sock


class TestBadValues:
    @pytest.mark.parametrize(
        ("parameters", "sentence"),
        [
            (
                {"hosts": ("127.0.0.1",), "unix_path": "x", "fd": 3},
                ("hosts, unix_path, fd: expected one way to say where to listen, got 3; make a "
                "server for each"),
            ),
            (
                {"hosts": ("", "127.0.0.1")},
                ("hosts: '' is every interface, so that nothing is left for the others; leave one "
                "out"),
            ),
            ({"hosts": "127.0.0.1"}, "hosts: expected tuple of str, got '127.0.0.1' (str)"),
            (
                {"unix_path": "x" * 108},
                ("unix_path: a path of 108 bytes is too long for a Unix socket, which takes 107; "
                "give a shorter one, or one from the working directory"),
            ),
            (
                {"unix_path": "x", "unix_mode": "rw"},
                "unix_mode: expected permissions in octal digits, as '0660', got 'rw'",
            ),
            ({"unix_path": "x", "unix_mode": 0o660}, "unix_mode: expected str, got 432 (int)"),
            (
                {"unix_path": "x", "unix_owner": "a:b:c"},
                ("unix_owner: expected 'user', 'user:group' or ':group', names or numbers, got "
                "'a:b:c'"),
            ),
            (
                {"unix_mode": "600"},
                "unix_mode: there is no unix_path whose permissions it could be",
            ),
            ({"unix_owner": "root"}, "unix_owner: there is no unix_path that could have an owner"),
            (
                {"unix_path": "@x", "unix_mode": "600"},
                "unix_mode: an abstract name has no file whose permissions it could be",
            ),
            (
                {"unix_path": "x", "unix_owner": "99999999999"},
                "unix_owner: expected numbers of at most 4294967294, got '99999999999'",
            ),
            (
                {"unix_path": "x", "unix_owner": ":4294967295"},
                "unix_owner: expected numbers of at most 4294967294, got ':4294967295'",
            ),
            (
                {"unix_path": "x", "unix_owner": "9" * 5000},
                f"unix_owner: expected numbers of at most 4294967294, got '{'9' * 56}...",
            ),
            (
                {"unix_path": "\udcff"},
                "unix_path: expected a path that is UTF-8, got '\\udcff'",
            ),
            (
                {"interface": "\udcff"},
                "interface: expected a text that is UTF-8, got '\\udcff'",
            ),
            (
                {"host": "\ud800"},
                ("host, hosts: expected an address or a name, of at most 1024 characters that are "
                "UTF-8 and no NUL, got '\\ud800'"),
            ),
            (
                {"socket_options": {"SO_RCVBUF": "65536"}},
                "socket_options: SO_RCVBUF: expected an int, or bytes, got '65536' (str)",
            ),
            (
                {"socket_options": {"SO_RCVBUF": True}},
                "socket_options: SO_RCVBUF: expected an int, or bytes, got True (bool); give 1",
            ),
            (
                {"socket_options": {5: 1}},
                ("socket_options: expected dict of str and object, got a dict (wrong at a key of "
                "the value)"),
            ),
            ({"fd": -2}, "fd: expected int from -1 to 1048575, got -2 (int)"),
            (
                {"fd": 3, "reuse_port": True},
                "reuse_port: goes with host or hosts, and fd was given",
            ),
            (
                {"unix_path": "x", "v6only": False},
                "v6only: goes with host or hosts, and unix_path was given",
            ),
            (
                {"fd_name": "web", "interface": "lo"},
                "interface: goes with host or hosts, and fd_name was given",
            ),
            (
                {"interface": "a-name-that-is-too-long"},
                ("interface: expected the name of a network interface, such as 'eth0', of at most "
                "15 bytes, got 'a-name-that-is-too-long'"),
            ),
            (
                {"socket_options": {"SO_RCVBUFF": 1}},
                ("socket_options: no socket option 'SO_RCVBUFF' on this system; did you mean "
                "'SO_RCVBUF'; expected a name such as SO_RCVBUF or TCP_CONGESTION, or level and "
                "option as in '6:13'"),
            ),
            (
                {"socket_options": {"SO_RCVBUF": [1]}},
                "socket_options: SO_RCVBUF: expected an int, or bytes, got a list",
            ),
            (
                {"socket_options": {"TCP_NODELAY": 0}},
                "socket_options: TCP_NODELAY cannot be set here: give the parameter nodelay",
            ),
            (
                {"unix_path": "x", "socket_options": {"TCP_MAXSEG": 500}},
                ("socket_options: TCP_MAXSEG is none of a Unix socket: only those that begin with "
                "SO_ are"),
            ),
            (
                {"keepalive_count": 128},
                "keepalive_count: expected int from 0 to 127, got 128 (int)",
            ),
            (
                {"user_timeout": -1.0},
                "user_timeout: expected float from 0 to 2147483, got -1.0 (float)",
            ),
            ({"backlog": 0}, "backlog: expected int from 1 to 65535, got 0 (int)"),
        ],
        ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
    )  # fmt: skip
    def test_one_clear_error(self, parameters: dict[str, Any], sentence: str, app: GAplic) -> None:
        assert fault(app, **parameters) == sentence

    @pytest.mark.skipif(sys.platform != "linux", reason="Linux tells both")
    def test_the_system_has_the_interface_and_the_backlog(
        self, app: GAplic, run_async: RunAsync
    ) -> None:
        async def main() -> None:
            async with app:
                keeper, server = make(app, interface="lo", backlog=7)
                assert server._listening is not None
                (sock,) = server._listening.sockets
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16) == b"lo\0"
                # Of `struct tcp_info`; of a socket that listens, `tcpi_sacked` is the backlog.
                info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
                assert struct.unpack_from("=I", info, 28) == (7,)
                with connect(server) as client:
                    await write(client, b"hello")
                    await until(lambda: keeper.of(EV_RX_DATA))

        run_async(main)

    @pytest.mark.parametrize(
        ("parameters", "sentence"),
        [
            ({"interface": "nosuch0"}, "cannot listen on interface 'nosuch0': this machine has no"),
            (
                {"socket_options": {"TCP_CONGESTION": "nosuch"}},
                "socket_options: the system does not take TCP_CONGESTION=b'nosuch': No such file",
            ),
            ({"fd": 900}, "cannot listen on fd 900: descriptor 900 is not open."),
            ({"fd_name": "web"}, "cannot listen on fd_name 'web': no service manager gave"),
            (
                {"unix_path": "/nonexistent/s"},
                "cannot listen on unix_path '/nonexistent/s': there is no folder '/nonexistent'.",
            ),
        ],
    )
    def test_what_only_the_system_knows_is_an_error_when_the_server_is_made(
        self, parameters: dict[str, Any], sentence: str, app: GAplic
    ) -> None:
        with pytest.raises(GObjError) as caught:
            make(app, **parameters)
        assert str(caught.value).startswith(f"app/keeper/server: {sentence}")
        assert not app.find("keeper").children

    @pytest.mark.parametrize(
        "name", ["hosts", "unix_path", "fd", "fd_name", "reuse_port", "v6only", "socket_options"]
    )
    def test_it_cannot_change_while_the_server_listens(self, name: str, app: GAplic) -> None:
        _, server = make(app)
        new: dict[str, Any] = {
            "hosts": ("127.0.0.2",), "unix_path": "x", "fd": 3, "fd_name": "web",
            "reuse_port": True, "v6only": False, "socket_options": {"SO_RCVBUF": 1},
        }  # fmt: skip
        with pytest.raises(GConfigError, match=f"{name}: cannot change while the server listens"):
            server.write_parameters(**{name: new[name]})


class TestHosts:
    def test_each_answers(self, app: GAplic, run_async: RunAsync) -> None:
        keeper, server = make(app, host="", hosts=("127.0.0.1", "127.0.0.2"))
        port = server.config.port
        assert server.addresses == (f"127.0.0.1:{port}", f"127.0.0.2:{port}")

        async def scenario() -> None:
            async with app:
                for host in ("127.0.0.1", "127.0.0.2"):
                    with connect(server, host=host):
                        await until(lambda: len(keeper.gsocks) == 1)
                        assert keeper.gsocks[0].sockname == (host, port)
                    await until(lambda: not keeper.gsocks)

        run_async(scenario)

    @needs_ipv6
    @pytest.mark.parametrize("host", ["", "::", "::ffff:0.0.0.0"])
    def test_the_address_that_a_client_came_to(
        self, host: str, app: GAplic, run_async: RunAsync
    ) -> None:
        keeper, server = make(app, host=host, v6only=False)

        async def scenario() -> None:
            async with app:
                with connect(server, host="127.0.0.2"):
                    await until(lambda: keeper.gsocks)
                    assert keeper.gsocks[0].sockname[0] == "::ffff:127.0.0.2"

        run_async(scenario)

    @needs_ipv6
    def test_both_families_on_one_socket(self, app: GAplic, run_async: RunAsync) -> None:
        # And limits by address know an IPv4 address in either form.
        keeper, server = make(app, host="", v6only=False, deny=("127.0.0.0/8",))
        assert server.addresses == (f"[::]:{server.config.port}",)

        async def scenario() -> None:
            async with app:
                with connect(server, host="::1"):
                    await until(lambda: keeper.gsocks)
                    assert keeper.gsocks[0].peername[0] == "::1"
                with connect(server):
                    await until(lambda: server.ledger.refused == 1)

        run_async(scenario)

    def test_a_port_that_two_servers_share(self, app: GAplic, run_async: RunAsync) -> None:
        keeper, one = make(app, reuse_port=True)
        other = serve(keeper, "other", reuse_port=True, port=one.config.port)

        async def scenario() -> None:
            async with app:
                with ExitStack() as stack:
                    while not (one.ledger.accepted and other.ledger.accepted):
                        stack.enter_context(connect(one))
                        total = one.ledger.accepted + other.ledger.accepted
                        await until(
                            lambda total=total: one.ledger.accepted + other.ledger.accepted > total
                        )
                        # The odds against: each goes by a hash of its addresses.
                        assert total < 200

        run_async(scenario)


class TestUnixSockets:
    def test_a_conversation(self, app: GAplic, path: Path, run_async: RunAsync) -> None:
        keeper, server = make(app, unix_path=str(path), unix_mode="0600")
        assert server.addresses == (str(path),)
        assert server.config.port == 0
        assert path.stat().st_mode & 0o777 == 0o600

        async def scenario() -> None:
            async with app:
                own = path.with_name("client")
                with unix_client(path, bound_to=own) as client:
                    await until(lambda: keeper.of(EV_CONNECTED))
                    (event,) = keeper.of(EV_CONNECTED)
                    assert (event.peername, event.sockname) == (str(own), str(path))
                    await write(client, b"hello")
                    await until(lambda: keeper.of(EV_RX_DATA))
                    keeper.send_event(event.source, EV_SEND_DATA(b"good day"))
                    assert await read(client, 8) == b"good day"
                    # It may change while connected, although the kernel keeps none of it here.
                    event.source.write_parameters(nodelay=False)
                    keeper.send_event(event.source, EV_DROP())
                    assert await asyncio.get_running_loop().sock_recv(client, 1) == b""
                await until(lambda: keeper.of(EV_DISCONNECTED))
            assert not path.exists()

        run_async(scenario)

    def test_clients_without_a_name_and_limits(
        self, app: GAplic, path: Path, run_async: RunAsync
    ) -> None:
        keeper, server = make(
            app, unix_path=str(path), max_connections_per_ip=1, allow=("192.0.2.0/24",)
        )

        async def scenario() -> None:
            async with app:
                with unix_client(path), unix_client(path):
                    # They have no address that could be counted, or be in a list.
                    await until(lambda: len(keeper.gsocks) == 2)
                    assert [one.peername for one in keeper.gsocks] == ["", ""]
                await until(lambda: not keeper.gsocks)
                assert not server.ledger.refused

        run_async(scenario)

    def test_an_abstract_name(self, app: GAplic, tmp_path: Path, run_async: RunAsync) -> None:
        name = f"@ginsfsm-{os.getpid()}-{tmp_path.name}"
        keeper, server = make(app, unix_path=name)
        assert server.addresses == (name,)

        async def scenario() -> None:
            async with app:
                with unix_client(f"\0{name[1:]}"):
                    await until(lambda: keeper.of(EV_CONNECTED))
                    assert keeper.of(EV_CONNECTED)[0].sockname == f"\0{name[1:]}".encode()

        run_async(scenario)

    def test_two_servers_of_one_path(self, app: GAplic, path: Path) -> None:
        keeper, server = make(app, unix_path=str(path))
        with pytest.raises(GObjError, match="another program, or another server of this one"):
            serve(keeper, "other", unix_path=str(path))
        app.destroy_gobj(server)
        assert not path.exists()
        serve(keeper, "other", unix_path=str(path))
        assert path.exists()

    def test_one_that_was_killed_left_its_file(self, app: GAplic, path: Path) -> None:
        program = f"""
            import os, signal
            from ginsfsm.net.unix_address import listen_on_path
            listen_on_path({str(path)!r}, backlog=1)
            os.kill(os.getpid(), signal.SIGKILL)
        """
        subprocess.run([sys.executable, "-c", textwrap.dedent(program)], timeout=20, check=False)
        assert path.is_socket()
        make(app, unix_path=str(path))
        with unix_client(path):
            pass

    def test_a_failed_start_leaves_no_file(
        self, app: GAplic, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def denied(*_: object) -> None:
            # It has been bound by then.
            assert path.is_socket()
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(os, "chmod", denied)
        with pytest.raises(GObjError, match="Operation not permitted"):
            make(app, unix_path=str(path), unix_mode="0600")
        assert not path.exists()

    def test_a_drain_serves_the_queue_and_removes_the_file(
        self, app: GAplic, path: Path, run_async: RunAsync
    ) -> None:
        keeper, server = make(app, unix_path=str(path))

        async def scenario() -> None:
            async with app:
                with unix_client(path) as client:
                    # Still in the queue: the loop has not turned.
                    keeper.send_event(server, EV_DRAIN(5))
                    assert not path.exists()
                    assert server.ledger.accepted == 1
                    await write(client, b"x")
                    await until(lambda: keeper.of(EV_RX_DATA))
                await until(lambda: server.state == "ST_CLOSED")

        run_async(scenario)

    def test_a_file_that_cannot_be_removed_is_told(
        self,
        app: GAplic,
        path: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        _, server = make(app, unix_path=str(path))

        def denied(*_: object) -> None:
            raise PermissionError(13, "Permission denied", str(path))

        with monkeypatch.context() as patched:
            patched.setattr(os, "unlink", denied)
            app.destroy_gobj(server)
        (record,) = [one for one in caplog.records if one.levelname == "WARNING"]
        assert record.getMessage() == (
            "app/keeper/server: the file of its Unix socket stays: [Errno 13] Permission denied: "
            f"'{path}'"
        )

    def test_tls(self, app: GAplic, path: Path, run_async: RunAsync) -> None:
        # The name that the certificate has to be for is that of the parameter host.
        keeper, _ = make(app, unix_path=str(path), ssl_options=server_options())
        client = keeper.create_gobj(
            "client",
            GSock,
            keeper,
            unix_path=str(path),
            host="localhost",
            ssl_options=client_options(),
        )

        async def scenario() -> None:
            async with app:
                keeper.send_event(client, EV_CONNECT())
                await until(lambda: len(keeper.of(EV_CONNECTED)) == 2)
                keeper.send_event(client, EV_SEND_DATA(b"secret"))
                await until(lambda: keeper.of(EV_RX_DATA))
                assert keeper.of(EV_RX_DATA)[0].data == b"secret"

        run_async(scenario)


class TestClients:
    def test_of_a_unix_socket(self, app: GAplic, path: Path, run_async: RunAsync) -> None:
        keeper, _ = make(app, unix_path=str(path))
        owner = make_owner(app)
        client = owner.create_gobj("client", GSock, owner, unix_path=str(path))

        async def scenario() -> None:
            async with app:
                owner.send_event(client, EV_CONNECT())
                await until(lambda: owner.of(EV_CONNECTED))
                assert client.peername == str(path)
                assert client.sockname == ""
                owner.send_event(client, EV_SEND_DATA(b"hello"))
                await until(lambda: keeper.of(EV_RX_DATA))
                owner.send_event(client, EV_DROP())
                await until(lambda: owner.of(EV_DISCONNECTED))
                assert owner.reason() == "local"

        run_async(scenario)

    @pytest.mark.parametrize("kind", ["nobody", "stale", "no file"])
    def test_nobody_listens(
        self, kind: str, path: Path, app: GAplic, run_async: RunAsync, opened: ExitStack
    ) -> None:
        if kind != "no file":
            sock = opened.enter_context(socket.socket(socket.AF_UNIX))
            sock.bind(str(path))
            if kind == "stale":
                sock.close()
        owner = make_owner(app)
        client = owner.create_gobj("client", GSock, owner, unix_path=str(path))

        async def scenario() -> None:
            async with app:
                owner.send_event(client, EV_CONNECT())
                await until(lambda: owner.of(EV_CONNECT_FAILED))
                (event,) = owner.of(EV_CONNECT_FAILED)
                assert event.reason == ("error" if kind == "no file" else "reset")

        run_async(scenario)

    def test_a_full_queue_is_waited_for(
        self, app: GAplic, path: Path, run_async: RunAsync, opened: ExitStack
    ) -> None:
        # `loop.sock_connect` would say that it is connected, and it is not.
        server = opened.enter_context(socket.socket(socket.AF_UNIX))
        server.bind(str(path))
        server.listen(0)
        first = opened.enter_context(socket.socket(socket.AF_UNIX))
        first.connect(str(path))
        owner = make_owner(app)
        late = owner.create_gobj("late", GSock, owner, unix_path=str(path), connect_timeout=0.1)
        client = owner.create_gobj("client", GSock, owner, unix_path=str(path))

        async def scenario() -> None:
            async with app:
                owner.send_event(late, EV_CONNECT())
                await until(lambda: owner.of(EV_CONNECT_FAILED))
                assert owner.of(EV_CONNECT_FAILED)[0].reason == "timeout"
                owner.send_event(client, EV_CONNECT())
                assert not owner.of(EV_CONNECTED)
                server.accept()[0].close()
                await until(lambda: owner.of(EV_CONNECTED))

        run_async(scenario)

    def test_its_socket_options_are_set_before_it_connects(
        self, app: GAplic, run_async: RunAsync
    ) -> None:
        owner = make_owner(app)

        async def scenario() -> None:
            # TCP_MAXSEG is agreed on in the handshake, and reads as 536 or so if set too late.
            with listener() as listening:
                host, port = listening.getsockname()
                client = owner.create_gobj(
                    "client", GSock, owner, host=host, port=port,
                    socket_options={"TCP_MAXSEG": 500, "SO_RCVBUF": 40_000}, user_timeout=1.5,
                )  # fmt: skip
                async with app:
                    owner.send_event(client, EV_CONNECT())
                    await until(lambda: owner.of(EV_CONNECTED))
                    sock = the_socket(client)
                    peer, _ = await asyncio.get_running_loop().sock_accept(listening)
                    with peer:
                        assert peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) <= 500
                    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 80_000
                    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 1500

        run_async(scenario)

    def test_an_option_that_the_system_does_not_take(
        self, app: GAplic, run_async: RunAsync, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        owner = make_owner(app)

        async def scenario() -> None:
            with listener() as listening:
                host, port = listening.getsockname()
                client = owner.create_gobj(
                    "client", GSock, owner, host=host, port=port,
                    socket_options={"TCP_CONGESTION": "nosuch"},
                )  # fmt: skip
                async with app:
                    owner.send_event(client, EV_CONNECT())
                    await until(lambda: owner.of(EV_CONNECT_FAILED))
                    assert owner.of(EV_CONNECT_FAILED)[0].reason == "error"

        run_async(scenario)
        assert "the system does not take TCP_CONGESTION=b'nosuch'" in caplog.text


class TestWhatTheKernelKeeps:
    OPTIONS = (
        ("SO_KEEPALIVE", socket.SOL_SOCKET, socket.SO_KEEPALIVE),
        ("TCP_KEEPIDLE", socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
        ("TCP_KEEPINTVL", socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
        ("TCP_KEEPCNT", socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
        ("TCP_USER_TIMEOUT", socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
    )

    def kept(self, gsock: GSock) -> tuple[int, ...]:
        return tuple(the_socket(gsock).getsockopt(*one[1:]) for one in self.OPTIONS)

    def test_accepted_connections_inherit_it(self, app: GAplic, run_async: RunAsync) -> None:
        keeper, server = make(
            app, keepalive=30, keepalive_interval=7, keepalive_count=3, user_timeout=0.0005
        )

        async def scenario() -> None:
            async with app:
                with connect(server):
                    await until(lambda: keeper.gsocks)
                    (gsock,) = keeper.gsocks
                    # A user_timeout of less than a millisecond is not none.
                    assert self.kept(gsock) == (1, 30, 7, 3, 1)
                    gsock.write_parameters(keepalive=40, user_timeout=2.0)
                    assert self.kept(gsock) == (1, 40, 7, 3, 2000)
                    gsock.write_parameters(keepalive=0, user_timeout=0.0)
                    found = self.kept(gsock)
                    assert (found[0], found[4]) == (0, 0)
                    server.write_parameters(keepalive=50)
                    with connect(server):
                        await until(lambda: len(keeper.gsocks) == 2)
                        assert self.kept(keeper.gsocks[1])[:3] == (1, 50, 7)

        run_async(scenario)

    @pytest.mark.parametrize("keepalive", [0, 60])
    def test_0_is_the_systems_again(self, keepalive: int, app: GAplic, run_async: RunAsync) -> None:
        keeper, server = make(app)
        with socket.socket() as new:
            names = (socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
            of_system = tuple(new.getsockopt(socket.IPPROTO_TCP, one) for one in names)
        assert of_system != (15, 4)
        changes = {"keepalive": keepalive, "keepalive_interval": 0, "keepalive_count": 0}

        async def scenario() -> None:
            async with app:
                with connect(server):
                    await until(lambda: keeper.gsocks)
                    (gsock,) = keeper.gsocks
                    assert self.kept(gsock)[2:4] == (15, 4)
                    gsock.write_parameters(**changes)
                    assert self.kept(gsock)[2:4] == of_system
                    server.write_parameters(**changes)
                    with connect(server):
                        await until(lambda: len(keeper.gsocks) == 2)
                        assert self.kept(keeper.gsocks[1])[2:4] == of_system

        run_async(scenario)

    def test_a_vanished_peer_is_noticed_after_two_minutes_by_default(
        self, app: GAplic, run_async: RunAsync
    ) -> None:
        keeper, server = make(app)

        async def scenario() -> None:
            async with app:
                with connect(server):
                    await until(lambda: keeper.gsocks)
                    _, idle, interval, count, _ = self.kept(keeper.gsocks[0])
                    assert idle + interval * count == 120

        run_async(scenario)

    def test_socket_options_reach_accepted_connections(
        self, app: GAplic, run_async: RunAsync
    ) -> None:
        keeper, server = make(
            app, socket_options={"SO_RCVBUF": 50_000, "TCP_CONGESTION": "reno", "IP_TOS": 16}
        )

        async def scenario() -> None:
            async with app:
                with connect(server):
                    await until(lambda: keeper.gsocks)
                    sock = the_socket(keeper.gsocks[0])
                    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 100_000
                    assert sock.getsockopt(socket.IPPROTO_IP, socket.IP_TOS) == 16
                    name = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
                    assert name.rstrip(b"\0") == b"reno"

        run_async(scenario)


class TestDescriptors:
    def test_a_server_that_is_destroyed_can_be_made_again(
        self, app: GAplic, run_async: RunAsync, opened: ExitStack
    ) -> None:
        sock = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
        keeper, server = make(app, fd=sock.fileno())
        app.destroy_gobj(server)
        server = serve(keeper, "again", fd=sock.fileno())
        assert server.config.port == sock.getsockname()[1]

        async def scenario() -> None:
            async with app:
                with connect(server):
                    await until(lambda: keeper.gsocks)
                    assert keeper.gsocks[0].sockname == sock.getsockname()

        run_async(scenario)

    def test_a_listening_unix_socket(
        self, app: GAplic, path: Path, run_async: RunAsync, opened: ExitStack
    ) -> None:
        sock = opened.enter_context(socket.socket(socket.AF_UNIX))
        sock.bind(str(path))
        sock.listen()
        keeper, server = make(app, fd=sock.fileno())
        assert server.addresses == (str(path),)

        async def scenario() -> None:
            async with app:
                with unix_client(path):
                    await until(lambda: keeper.gsocks)
            # Whoever opened it removes it.
            assert path.exists()

        run_async(scenario)


class Lender(GAplic):
    """Gives its servers sockets that somebody else holds too, as a worker's parent does."""

    def __init__(self) -> None:
        super().__init__("app")
        self.asked: list[tuple[str, Place]] = []
        self.held: list[socket.socket] = []

    def listen(self, path: str, place: Place) -> Listening:
        self.asked.append((path, place))
        opened = open_place(place)
        self.held += opened.sockets
        return Listening(tuple(one.dup() for one in opened.sockets), opened.port, shared=True)


class TestTheHook:
    def test_the_gaplic_opens_the_sockets(self, run_async: RunAsync) -> None:
        app = Lender()
        keeper, server = make(app, hosts=("127.0.0.1",), host="", backlog=7)
        assert app.asked == [
            ("app/keeper/server", Place(hosts=("127.0.0.1",), ports=(0,), backlog=7))
        ]
        (held,) = app.held

        async def scenario() -> None:
            with held:
                async with app:
                    with connect(server):
                        await until(lambda: keeper.gsocks)
                    await until(lambda: not keeper.gsocks)
                    with connect(server) as waiting:
                        keeper.send_event(server, EV_DRAIN(5))
                        assert server.state == "ST_CLOSED"
                        # Left in the queue to whoever else accepts there.
                        assert server.ledger.accepted == 1
                        other, _ = held.accept()
                        with other:
                            other.sendall(b"mine")
                            assert await read(waiting, 4) == b"mine"

        run_async(scenario)


SERVICE = """
    import json, os, sys
    from ginsfsm import GAplic, GObj, on
    from ginsfsm.c_sock import *
    from ginsfsm.c_srv_sock import GServerSock

    class Echo(GObj):
        def start_up(self):
            parameters = json.loads(sys.argv[1])
            self.servers = [
                self.create_gobj(f"s{number}", GServerSock, self, **one)
                for number, one in enumerate(parameters)
            ]
            print(json.dumps({
                "addresses": [one.addresses for one in self.servers],
                "environment": [name for name in os.environ if name.startswith("LISTEN_")],
                "inheritable": [os.get_inheritable(fd) for fd in range(3, 3 + len(parameters))],
            }), flush=True)

        def ac_echo(self, event):
            self.send_event(event.source, EV_SEND_DATA(event.data))

        def ac_gone(self, event):
            self.gaplic.stop()

        machine = {"ST_IDLE": [on(EV_RX_DATA, ac_echo), on(EV_DISCONNECTED, ac_gone)]}

    app = GAplic("app")
    app.create_gobj("echo", Echo, app)
    app.start()
"""

ACTIVATOR = """
    import fcntl, os, sys
    # As a service manager: the sockets from 3 on, then the program in its place.
    given = [int(one) for one in sys.argv[1].split(",")]
    away = [fcntl.fcntl(fd, fcntl.F_DUPFD, 50) for fd in given]
    for number, fd in enumerate(away):
        os.dup2(fd, 3 + number)
    names = sys.argv[2]
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(given)), LISTEN_FDNAMES=names)
    os.execv(sys.executable, [sys.executable, "-c", *sys.argv[3:]])
"""


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


class TestServiceManager:
    def test_servers_take_their_sockets_by_name(self, path: Path, opened: ExitStack) -> None:
        web = [opened.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        admin = opened.enter_context(socket.socket(socket.AF_UNIX))
        admin.bind(str(path))
        admin.listen()
        given = [web[0].fileno(), admin.fileno(), web[1].fileno()]
        parameters = [{"fd_name": "web"}, {"fd_name": "admin"}, {"fd": 4}]
        process = opened.enter_context(
            subprocess.Popen(
                [
                    sys.executable, "-c", textwrap.dedent(ACTIVATOR), ",".join(map(str, given)),
                    "web:admin:web", textwrap.dedent(SERVICE), json.dumps(parameters),
                ],
                pass_fds=given,
                stdout=subprocess.PIPE,
                env=environment(),
            )
        )  # fmt: skip
        opened.callback(process.kill)
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        assert told["addresses"] == [
            [f"127.0.0.1:{one.getsockname()[1]}" for one in web],
            [str(path)],
            [str(path)],
        ]
        assert told["environment"] == []
        assert told["inheritable"] == [False] * 3
        with socket.create_connection(web[1].getsockname(), DEADLINE) as client:
            client.sendall(b"hello")
            assert client.recv(5) == b"hello"
        assert process.wait(DEADLINE) == 0
        # They live on, and whoever comes now waits for the next process.
        with socket.create_connection(web[0].getsockname(), DEADLINE):
            web[0].accept()[0].close()
        assert path.exists()

    def test_systemd(self, path: Path, require_program: Any, opened: ExitStack) -> None:
        activate = require_program("systemd-socket-activate")
        program = opened.enter_context(
            BlockingProgram(
                activate, "--listen", path, "--fdname=web",
                f"--setenv=PYTHONPATH={os.pathsep.join(sys.path)}",
                sys.executable, "-c", textwrap.dedent(SERVICE), '[{"fd_name": "web"}]',
            )
        )  # fmt: skip
        program.says("Listening on")
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(DEADLINE)
            client.connect(str(path))
            client.sendall(b"hello")
            assert client.recv(5) == b"hello"
        assert program.ends() == 0
        assert b'"environment": []' in program.output
