"""What docs/deploy/ shows is run: the units as by systemd, HAProxy, the container's command."""

from __future__ import annotations

import asyncio
import configparser
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from conftest import RunAsync
from ginsfsm import GAplic
from ginsfsm.c_srv_sock import EV_DRAIN, GServerSock
from servers import read, read_to_end
from sockets import DEADLINE
from sockets import wait_for as until
from test_haproxy import Behind, free_port, is_up

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "docs" / "deploy"

Require = Callable[[str], str]

ECHO = ROOT / "examples" / "echo.py"


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    # The names of systemd's options are what they are.
    parser.optionxform = str  # type: ignore[method-assign,assignment]
    parser.read(DEPLOY / name)
    return parser


def here(command: str, settings: Path) -> list[str]:
    """A command of the unit, with this machine's places in it."""
    program, *words = shlex.split(command)
    assert program == "/opt/echo/venv/bin/ginsfsm"
    places = {"/opt/echo/echo.py:Echo": f"{ECHO}:Echo", "/opt/echo/echo.toml": str(settings)}
    return [sys.executable, "-m", "ginsfsm", *(places.get(word, word) for word in words)]


def exchange(address: tuple[str, int], data: bytes = b"hello") -> None:
    with socket.create_connection(address, DEADLINE) as client:
        client.sendall(data)
        assert client.recv(100) == data


# -- systemd ---------------------------------------------------------------------------------------


@pytest.mark.peer
def test_systemd_finds_nothing_wrong_with_the_units(
    require_program: Require, tmp_path: Path
) -> None:
    program = require_program("systemd-analyze")
    for name in ("echo.service", "echo.socket"):
        text = (DEPLOY / name).read_text()
        # It looks whether the program is there.
        (tmp_path / name).write_text(text.replace("/opt/echo/venv/bin/ginsfsm", sys.executable))
    done = subprocess.run(
        [program, "verify", *(str(tmp_path / name) for name in ("echo.service", "echo.socket"))],
        capture_output=True,
        text=True,
        timeout=DEADLINE * 3,
    )
    assert (done.returncode, done.stderr) == (0, "")


# Gives its standard input as descriptor 3, as systemd gives the sockets of a unit, and becomes the
# command.
HAND_OVER = """
import os, sys
os.dup2(0, 3)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[1], sys.argv[1:])
"""


class Service:
    """The service of the unit, started as systemd starts it."""

    def __init__(self, listening: socket.socket, manager: socket.socket, settings: Path) -> None:
        service, sockets = unit("echo.service")["Service"], unit("echo.socket")["Socket"]
        self.manager = manager
        self.told: list[str] = []
        environment = os.environ | {
            "LISTEN_FDS": "1",
            "LISTEN_FDNAMES": sockets["FileDescriptorName"],
            "NOTIFY_SOCKET": str(manager.getsockname()),
            # Ten times as often as the unit asks for.
            "WATCHDOG_USEC": str(int(service["WatchdogSec"]) * 100_000),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", HAND_OVER, *here(service["ExecStart"], settings)],
            stdin=listening,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
        )

    def tells(self, word: str) -> None:
        """Wait until it has told the manager that."""
        end = time.monotonic() + DEADLINE * 2
        while word not in self.told:
            self.manager.settimeout(max(0.01, end - time.monotonic()))
            try:
                self.told += self.manager.recv(4096).decode().split("\n")
            except TimeoutError:
                self.process.kill()
                assert self.process.stderr is not None
                pytest.fail(f"no {word} in {self.told}\n{self.process.stderr.read()}")

    def reload(self) -> None:
        command = unit("echo.service")["Service"]["ExecReload"]
        assert command == "/bin/kill -HUP $MAINPID"
        self.told.clear()
        self.process.send_signal(signal.SIGHUP)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE * 2)


@contextmanager
def started(listening: socket.socket, manager: socket.socket, settings: Path) -> Iterator[Service]:
    service = Service(listening, manager, settings)
    try:
        yield service
    finally:
        service.process.kill()
        service.process.wait()
        assert service.process.stderr is not None
        service.process.stderr.close()


@pytest.mark.skipif(sys.platform != "linux", reason="systemd runs on Linux")
def test_the_unit_is_started_reloaded_and_restarted_and_refuses_nobody(tmp_path: Path) -> None:
    with ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        manager = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        manager.bind(str(tmp_path / "notify"))
        address = listening.getsockname()
        settings = DEPLOY / "echo.toml"
        with started(listening, manager, settings) as service:
            service.tells("READY=1")
            exchange(address)
            service.tells("WATCHDOG=1")
            service.reload()
            service.tells("RELOADING=1")
            service.tells("READY=1")
            exchange(address)
            assert service.stop() == 0
            service.tells("STOPPING=1")
        # Nobody serves; who comes now waits, for systemd holds the socket.
        waiting = stack.enter_context(socket.create_connection(address, DEADLINE))
        waiting.sendall(b"patience")
        with started(listening, manager, settings) as service:
            waiting.settimeout(DEADLINE)
            assert waiting.recv(100) == b"patience"
            waiting.close()
            assert service.stop() == 0


def test_the_times_of_the_unit_fit_together() -> None:
    service = unit("echo.service")["Service"]
    words = shlex.split(service["ExecStart"])
    drain = float(words[words.index("--drain-timeout") + 1])
    assert float(service["TimeoutStopSec"]) > drain
    assert service["Type"] == "notify"
    # With any other, SIGTERM would go to the workers as well.
    assert service["KillMode"] == "mixed"


def test_a_worker_that_is_killed_for_its_memory_does_not_end_the_unit() -> None:
    """systemd.service(5): the default is to stop everything; `Restart=` is for the parent."""
    service = unit("echo.service")["Service"]
    assert service["OOMPolicy"] == "continue"
    assert service["Restart"] == "on-failure"


# -- the container ---------------------------------------------------------------------------------


def recipe() -> list[tuple[str, str]]:
    lines = [
        line
        for line in (DEPLOY / "Containerfile").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in lines]


def test_the_recipe_copies_what_is_there_and_runs_as_nobody() -> None:
    instructions = recipe()
    assert instructions[0][0] == "FROM"
    for name, words in instructions:
        if name == "COPY":
            *sources, _ = words.split()
            for source in sources:
                assert (ROOT / source).exists(), source
    by_name = dict(instructions)
    assert by_name["USER"] == "65534:65534"
    assert by_name["STOPSIGNAL"] == "SIGTERM"
    # As a list: a shell in between would keep the signals for itself.
    assert isinstance(json.loads(by_name["ENTRYPOINT"]), list)
    assert isinstance(json.loads(by_name["CMD"]), list)


def test_the_command_of_the_recipe_serves_and_stops(tmp_path: Path) -> None:
    by_name = dict(recipe())
    program, *words = json.loads(by_name["ENTRYPOINT"]) + json.loads(by_name["CMD"])
    assert program == "ginsfsm"
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "ginsfsm", *words, "--set", f"echo.port={port}"],
        cwd=ECHO.parent,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            record = json.loads(line)
            assert record["level"] == "INFO", record
            if record["message"] == "2 workers serve":
                break
        exchange(("127.0.0.1", port))
        process.send_signal(signal.SIGTERM)
        said = [json.loads(line)["message"] for line in process.stderr]
        assert process.wait(DEADLINE * 2) == 0
        assert sum("has left" in one for one in said) == 2
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


# -- HAProxy ---------------------------------------------------------------------------------------


def haproxy_config(folder: Path, **ports: int) -> Path:
    """The configuration of the docs, with free ports and a socket to ask it by."""
    text = (DEPLOY / "haproxy.cfg").read_text()
    text = text.replace("0.0.0.0:7000", f"127.0.0.1:{ports['front']}")
    text = text.replace("127.0.0.1:7001", f"127.0.0.1:{ports['one']}")
    text = text.replace("127.0.0.1:7002", f"127.0.0.1:{ports['two']}")
    # Sooner, so that the test is.
    assert "check inter 2s" in text
    text = text.replace("check inter 2s", "check inter 100ms")
    # This process may not have as many descriptors.
    assert "maxconn 20000" in text
    text = text.replace("maxconn 20000", "maxconn 100")
    text = text.replace("\nglobal\n", f"\nglobal\n    stats socket {folder}/control mode 600\n")
    assert "control" in text
    config = folder / "haproxy.cfg"
    config.write_text(text)
    return config


@pytest.mark.peer
def test_haproxy_takes_the_configuration_as_it_stands(require_program: Require) -> None:
    done = subprocess.run(
        [require_program("haproxy"), "-c", "-f", str(DEPLOY / "haproxy.cfg")],
        capture_output=True,
        text=True,
        timeout=DEADLINE * 3,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr + done.stdout


@pytest.mark.peer
def test_the_real_client_through_haproxy_and_a_server_that_drains(
    require_program: Require, tmp_path: Path, run_async: RunAsync
) -> None:
    program = require_program("haproxy")
    assert len(str(tmp_path)) < 85, tmp_path

    async def main() -> None:
        settings = DEPLOY / "echo-behind-haproxy.toml"
        with ExitStack() as stack:
            apps = [GAplic(name, str(settings)) for name in ("one", "two")]
            owners = [app.create_gobj("behind", Behind, app) for app in apps]
            # Made before the loop takes them, so that the settings find whom they are for.
            servers = [
                app.create_gobj("server", GServerSock, app, subscriber=owner, host="127.0.0.1")
                for app, owner in zip(apps, owners, strict=True)
            ]
            async with apps[0], apps[1]:
                assert {server.config.proxy_protocol for server in servers} == {"require"}
                front = free_port()
                config = haproxy_config(
                    tmp_path,
                    front=front,
                    one=servers[0].config.port,
                    two=servers[1].config.port,
                )
                process = subprocess.Popen([program, "-db", "-f", str(config)])
                stack.callback(process.wait)
                stack.callback(process.terminate)
                await until(lambda: process.poll() is not None or (tmp_path / "control").exists())
                assert process.poll() is None

                async def exchange_from(host: str) -> None:
                    with socket.create_connection(
                        ("127.0.0.1", front), DEADLINE, (host, 0)
                    ) as client:
                        client.setblocking(False)
                        client.send(b"hello")
                        assert await read(client, 5) == b"hello"
                        seen = [gsock.peername for owner in owners for gsock in owner.clients]
                        assert client.getsockname() in seen
                        client.shutdown(socket.SHUT_WR)
                        assert await read_to_end(client) == b""

                for number in range(4):
                    await exchange_from(f"127.0.0.{number + 5}")
                # The checks of both are served.
                await until(lambda: all(owner.checks >= 2 for owner in owners))
                assert await is_up(tmp_path)
                # One drains: it refuses, and everybody is served by the other.
                apps[0].send_event(servers[0], EV_DRAIN(0))
                await until(lambda: servers[0].state == "ST_CLOSED")
                count = len(owners[1].clients)
                for number in range(6):
                    await exchange_from(f"127.0.0.{number + 20}")
                assert len(owners[1].clients) == count + 6
                assert [server.ledger.refused for server in servers] == [0, 0]
                while await is_up(tmp_path):
                    await asyncio.sleep(0.01)

    run_async(main)


def test_every_file_is_named_on_the_page() -> None:
    page = (ROOT / "docs" / "operation.md").read_text()
    named = set(re.findall(r"\(deploy/([\w.-]+)\)", page))
    assert named == {path.name for path in DEPLOY.iterdir()}
