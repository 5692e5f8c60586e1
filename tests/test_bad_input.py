"""Wrong parameters and addresses: one clear error each, nothing left open, and life goes on."""

import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from conftest import RunAsync, open_sockets
from ginsfsm import GAplic, GConfigError, GinsfsmError, GObj, GObjError
from ginsfsm.c_sock import EV_CONNECTED
from ginsfsm.c_srv_sock import GServerSock
from servers import Keeper, connect, serve, until
from sockets import gaplic

FOREIGN = "203.0.113.1"
"""An address of documentation's (RFC 5737), never of this machine."""


@pytest.fixture(params=["epoll", "loop"], ids=["poller", "loop_poller"])
def app(request: pytest.FixtureRequest) -> Iterator[GAplic]:
    app = gaplic(request.param)
    yield app
    app.destroy_gobj(app)


def busy_port(opened: ExitStack) -> int:
    """A port that somebody else listens on."""
    sock = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
    port: int = sock.getsockname()[1]
    return port


@contextmanager
def refused(
    keeper: Keeper, kind: type[GinsfsmError], *words: str
) -> Iterator[pytest.ExceptionInfo[Any]]:
    """One error that has these words; the tree and the descriptors are as before."""
    before = open_sockets()
    children = dict(keeper.children)
    with pytest.raises(kind) as caught:
        yield caught
    text = str(caught.value)
    assert text.startswith("app/keeper/server"), text
    for word in words:
        assert word in text
    assert dict(keeper.children) == children
    assert open_sockets() == before


def check_it_goes_on(keeper: Keeper, run_async: RunAsync) -> None:
    """The gaplic can run, and the same name can be given to a server that is right."""
    server = serve(keeper)

    async def main() -> None:
        async with keeper.gaplic:
            with connect(server):
                await until(lambda: keeper.of(EV_CONNECTED))

    run_async(main)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"prot": 7000}, ["prot: unknown parameter", "did you mean 'port'?"]),
        ({"port": "7000"}, ["port: expected int from 0 to 65535, got '7000' (str)"]),
        ({"port": 7000.5}, ["port: expected int from 0 to 65535, got 7000.5 (float)"]),
        ({"port": True}, ["port: expected int from 0 to 65535, got True (bool)"]),
        ({"port": None}, ["port: expected int from 0 to 65535, got None"]),
        ({"port": 65536}, ["port: expected int from 0 to 65535, got 65536 (int)"]),
        ({"port": -1}, ["port: expected int from 0 to 65535, got -1 (int)"]),
        ({"host": b"127.0.0.1"}, ["host: expected str", "(bytes)"]),
        ({"host": None}, ["host: expected str, got None"]),
        ({"host": 2130706433}, ["host: expected str, got 2130706433 (int)"]),
        ({"ports": 7000}, ["ports: expected tuple of int, got 7000 (int)"]),
        ({"ports": ("7000",)}, ["ports: expected tuple of int", "'7000'"]),
        ({"use_multi_ports": "yes"}, ["use_multi_ports: expected bool, got 'yes' (str)"]),
        ({"backlog": 0}, ["backlog: expected int from 1 to 65535, got 0 (int)"]),
        ({"ssl_options": "cert.pem"}, ["ssl_options: expected dict"]),
        ({"subscriber": "keeper"}, ["subscriber: expected a gobj or None"]),
        ({"tx_max": -1}, ["tx_max: expected int, 0 or more, got -1 (int)"]),
        ({"close_timeout": -1.0}, ["close_timeout: expected float, 0 or more, got -1.0 (float)"]),
        ({"keepalive": 40_000}, ["keepalive: expected int from 0 to 32767, got 40000 (int)"]),
        (
            {"port": 70_000, "hots": "", "nodelay": 2},
            ["3 faults", "port: expected", "hots: unknown parameter", "nodelay: expected bool"],
        ),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, dict) else "",
)
def test_parameter(
    parameters: dict[str, Any], words: list[str], app: GAplic, run_async: RunAsync
) -> None:
    keeper = app.create_gobj("keeper", Keeper, app)
    with refused(keeper, GConfigError, *words):
        keeper.create_gobj("server", GServerSock, keeper, **parameters)
    check_it_goes_on(keeper, run_async)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        (
            {"use_multi_ports": True},
            ["ports: use_multi_ports=True expects at least one port to try, got ()"],
        ),
        (
            {"use_multi_ports": True, "ports": (7000, 70_000)},
            ["ports: expected ports from 0 to 65535, got 70000"],
        ),
        (
            {"use_multi_ports": True, "ports": (-1,)},
            ["ports: expected ports from 0 to 65535, got -1"],
        ),
        ({"ports": (65_536,)}, ["ports: expected ports from 0 to 65535, got 65536"]),
    ],
    ids=lambda given: str(given) if isinstance(given, dict) else "",
)
def test_ports(
    parameters: dict[str, Any], words: list[str], app: GAplic, run_async: RunAsync
) -> None:
    keeper = app.create_gobj("keeper", Keeper, app)
    with refused(keeper, GConfigError, *words):
        serve(keeper, **parameters)
    check_it_goes_on(keeper, run_async)


def test_port_in_use(app: GAplic, opened: ExitStack, run_async: RunAsync) -> None:
    keeper = app.create_gobj("keeper", Keeper, app)
    port = busy_port(opened)
    with refused(keeper, GObjError, f"127.0.0.1:{port}: port in use", "or give another port"):
        serve(keeper, port=port)
    check_it_goes_on(keeper, run_async)


def test_port_in_use_by_a_server_of_this_gaplic(app: GAplic, run_async: RunAsync) -> None:
    keeper = app.create_gobj("keeper", Keeper, app)
    first = serve(keeper, "first")
    with refused(keeper, GObjError, "port in use", "or another socket of this one"):
        serve(keeper, port=first.config.port)
    check_it_goes_on(keeper, run_async)


def test_port_in_use_on_one_of_two_interfaces(app: GAplic, opened: ExitStack) -> None:
    keeper = app.create_gobj("keeper", Keeper, app)
    port = busy_port(opened)
    with refused(keeper, GObjError, "any interface (host '')", f"0.0.0.0:{port}: port in use"):
        serve(keeper, host="", port=port)


def test_all_ports_in_use(app: GAplic, opened: ExitStack, run_async: RunAsync) -> None:
    keeper = app.create_gobj("keeper", Keeper, app)
    ports = tuple(busy_port(opened) for _ in range(3))
    named = ", ".join(f"127.0.0.1:{port}" for port in ports)
    with refused(keeper, GObjError, f"{named}: port in use"):
        serve(keeper, ports=ports, use_multi_ports=True)
    check_it_goes_on(keeper, run_async)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "127.0.0.1.1", "a..b", "h" * 300])
def test_name_that_does_not_resolve(host: str, app: GAplic, run_async: RunAsync) -> None:
    keeper = app.create_gobj("keeper", Keeper, app)
    with refused(keeper, GObjError, f"cannot listen on host {host!r}", "does not resolve"):
        serve(keeper, host=host)
    check_it_goes_on(keeper, run_async)


@pytest.mark.parametrize("host", [FOREIGN, "2001:db8::1"])
def test_address_of_another_machine(host: str, app: GAplic, run_async: RunAsync) -> None:
    keeper = app.create_gobj("keeper", Keeper, app)
    with refused(keeper, GObjError, f"cannot listen on host {host!r}", "not an address of this"):
        serve(keeper, host=host, port=7000)
    check_it_goes_on(keeper, run_async)


def test_an_owner_whose_server_cannot_listen(app: GAplic, opened: ExitStack) -> None:
    """The error goes through, and the half-made owner is gone with what it had."""
    port = busy_port(opened)

    class Owner(Keeper):
        def start_up(self) -> None:
            super().start_up()
            serve(self, "first")
            serve(self, "second", port=port)

    # What the gaplic watches sockets with is opened for the first one, and it keeps that.
    serve(app.create_gobj("other", Keeper, app))
    before = open_sockets()
    with pytest.raises(GObjError, match="app/owner/second: cannot listen"):
        app.create_gobj("owner", Owner, app)
    assert list(app.children) == ["other"]
    assert open_sockets() == before


def test_a_fault_while_the_loop_runs(app: GAplic, opened: ExitStack, run_async: RunAsync) -> None:
    keeper = app.create_gobj("keeper", Keeper, app)
    port = busy_port(opened)

    async def main() -> None:
        async with app:
            with refused(keeper, GObjError, "port in use"):
                serve(keeper, port=port)
            server = serve(keeper)
            with connect(server):
                await until(lambda: keeper.of(EV_CONNECTED))

    run_async(main)


@pytest.mark.parametrize("parent", [None, "keeper"])
def test_no_gobj_as_parent(parent: Any, app: GAplic) -> None:
    with pytest.raises(GObjError, match="expected a gobj as the parent"):
        app.create_gobj("server", GServerSock, parent)


def test_a_destroyed_subscriber(app: GAplic, run_async: RunAsync) -> None:
    keeper = app.create_gobj("keeper", Keeper, app)
    other = app.create_gobj("other", Keeper, app)
    app.destroy_gobj(other)
    before = open_sockets()
    with pytest.raises(GObjError, match="app/other is destroyed"):
        serve(keeper, subscriber=other)
    assert open_sockets() == before
    assert not keeper.children
    check_it_goes_on(keeper, run_async)


def test_a_subscriber_that_is_no_server(app: GAplic) -> None:
    keeper = app.create_gobj("keeper", Keeper, app)
    plain = app.create_gobj("plain", GObj, app)
    with refused(keeper, GObjError, "its subscriber app/plain (GObj)", "add the rows"):
        serve(keeper, subscriber=plain)


# By the command

SERVER = """
    from ginsfsm import GObj, on, param
    from ginsfsm.c_sock import EV_RX_DATA
    from ginsfsm.c_srv_sock import GServerSock


    class Owner(GObj):
        class config(GObj.config):
            host: str = param("127.0.0.1", "address")
            port: int = param(0, "port", ge=0, le=65535)
            ports: tuple[int, ...] = param((), "ports")
            many: bool = param(False, "try the ports")

        def start_up(self) -> None:
            config = self.config
            self.create_gobj(
                "server", GServerSock, self, host=config.host, port=config.port,
                ports=config.ports, use_multi_ports=config.many)

        machine = {"ST_IDLE": [on(EV_RX_DATA, None)]}
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """`python -m ginsfsm run server.py:Owner` with settings; it has to end by itself."""
    (tmp_path / "server.py").write_text(textwrap.dedent(SERVER))

    def _run(
        *settings: str,
        target: str = "server.py:Owner",
        more: tuple[str, ...] = (),
        **options: Any,
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-W", "always::ResourceWarning", "-m", "ginsfsm", "run"]
        arguments = [part for one in settings for part in ("--set", one)]
        return subprocess.run(
            [*command, target, *arguments, *more],
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            **options,
        )

    return _run


def check_told_once(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """One error, as text for a person: no traceback, and nothing left open."""
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("ginsfsm: server.py:Owner cannot start: app/owner"), done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    for word in words:
        assert word in done.stderr
    assert done.stdout == ""


class TestCommand:
    def test_port_in_use(self, run: Run, opened: ExitStack) -> None:
        port = busy_port(opened)
        check_told_once(run(f"owner.port={port}"), f"127.0.0.1:{port}: port in use")

    def test_all_ports_in_use(self, run: Run, opened: ExitStack) -> None:
        ports = [busy_port(opened) for _ in range(2)]
        done = run(f"owner.ports={ports[0]},{ports[1]}", "owner.many=yes")
        check_told_once(done, f"127.0.0.1:{ports[0]}, 127.0.0.1:{ports[1]}: port in use")

    def test_no_ports(self, run: Run) -> None:
        check_told_once(
            run("owner.many=yes"), "use_multi_ports=True expects at least one port to try, got ()"
        )

    def test_wrong_port_in_ports(self, run: Run) -> None:
        check_told_once(
            run("owner.ports=7000,70000", "owner.many=yes"),
            "ports: expected ports from 0 to 65535, got 70000",
        )

    def test_name_that_does_not_resolve(self, run: Run) -> None:
        check_told_once(run("owner.host=no-such-host.invalid"), "the name does not resolve")

    def test_address_of_another_machine(self, run: Run) -> None:
        check_told_once(
            run(f"owner.host={FOREIGN}"), f"{FOREIGN}:0: not an address of this machine"
        )

    def test_parameter_of_the_server(self, run: Run) -> None:
        done = run("server.prot=1")
        check_told_once(done, "prot: unknown parameter; did you mean 'port'?", "settings")

    def test_framing_that_settings_cannot_say(self, run: Run, tmp_path: Path) -> None:
        told = (
            (
                "framing: 'line' (str) is no framing; did you mean 'lines'?; in settings "
                "expected '' for none, one of 'lines', 'crlf',"
            ),
            (
                "or a fixed size as a whole number from 1; a delimiter or a class can be given "
                "only in the code (from the settings of 'server')"
            ),
        )
        check_told_once(run("server.framing=line"), *told)
        (tmp_path / "settings.toml").write_text('[server]\nframing = "line"\n')
        check_told_once(run(target="server.py:Owner", more=("--settings", "settings.toml")), *told)

    def test_a_fixed_size_of_frames_that_is_too_large(self, run: Run) -> None:
        # It has become a number, and so it can be compared.
        check_told_once(
            run("server.framing=1048577"),
            "framing: a fixed size of 1048577 bytes was given, more than max_frame=1048576",
        )

    def test_privileged_port(self, run: Run, tmp_path: Path) -> None:
        first_free = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
        if first_free.exists() and int(first_free.read_text()) <= 1:
            pytest.skip("this system lets everybody listen on every port")
        options: dict[str, Any] = {}
        if os.geteuid() == 0:
            # Python has to be readable for nobody in particular; its environment may not be. So the
            # process drops what root may do and stays root.
            options["target"] = "dropped.py:Owner"
            (tmp_path / "dropped.py").write_text(DROP_RIGHTS + textwrap.dedent(SERVER))
        done = run("owner.port=1", **options)
        assert done.returncode == 1, done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert "127.0.0.1:1: privileged port: below 1024 it needs rights" in done.stderr
        assert "Give a port from 1024 on" in done.stderr


# capset(2), version 3, with no capability in any set: root without its rights.
DROP_RIGHTS = """
import ctypes

header = (ctypes.c_uint32 * 2)(0x20080522, 0)
if ctypes.CDLL(None, use_errno=True).capset(header, (ctypes.c_uint32 * 6)()):
    raise OSError(ctypes.get_errno(), "capset")
"""


class TestTarget:
    """Beside what `test_cli` has: the rest of a program whose target is wrong."""

    def test_a_file_that_cannot_be_imported_leaves_nothing_open(
        self, run: Run, tmp_path: Path
    ) -> None:
        (tmp_path / "broken.py").write_text(
            "from ginsfsm.net.addresses import listen\n"
            "with listen('127.0.0.1', [0], backlog=1).sockets[0]:\n"
            "    import nowhere\n"
        )
        done = run(target="broken.py:Owner")
        assert done.returncode == 2
        assert done.stderr.startswith(
            "ginsfsm: cannot import broken.py: ModuleNotFoundError: No module named 'nowhere'"
        )
        assert "ResourceWarning" not in done.stderr

    def test_a_server_socket_alone(self, run: Run) -> None:
        """It is a gclass, and can be run; but the gaplic is nobody who could serve a client."""
        done = run(target="ginsfsm.c_srv_sock:GServerSock")
        assert done.returncode == 1
        assert done.stderr.startswith(
            "ginsfsm: ginsfsm.c_srv_sock:GServerSock cannot start: app/gserversock: its subscriber "
            "app (GAplic) has neither EV_CONNECTED nor EV_RX_DATA nor EV_RX_FRAME in any state"
        )
        assert len(done.stderr.splitlines()) == 1
