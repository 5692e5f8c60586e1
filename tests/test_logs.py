"""What a running server writes to its log: under garbage, with secrets, when nobody takes it."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

import certificates

DEADLINE = 30.0

PASSPHRASE = "correct-horse-battery-staple"
PAYLOAD = b"PAYLOAD-7f3a"

# Echoes on five ports, and has a fault: what begins with "fault" makes its action raise.
SERVERS = """
    import json

    from ginsfsm import GObj, on, param
    from ginsfsm.c_sock import (
        EV_CONNECTED, EV_DISCONNECTED, EV_RX_DATA, EV_RX_FRAME, EV_SEND_DATA, EV_SEND_FRAME)
    from ginsfsm.c_srv_sock import GServerSock

    TLS = {"certfile": "chain.pem", "keyfile": "key.pem", "password": "PASSPHRASE"}


    class Servers(GObj):
        def start_up(self):
            self.ports = {}
            self.serve("plain")
            self.serve("secure", ssl_options=TLS)
            self.serve("framed", framing="lines", max_frame=100)
            self.serve("proxied", proxy_protocol="require", proxy_trusted=("127.0.0.1",),
                       ssl_options=TLS)
            self.serve("narrow", max_connections_per_ip=1, reject_data=b"no")
            if self.config.watched:
                self.gaplic.observe(self.fail)
            print(json.dumps(self.ports), flush=True)

        class config(GObj.config):
            watched: bool = param(False, "let an observer fail on everything")

        def fail(self, observation):
            raise RuntimeError("of the observer")

        def serve(self, name, **parameters):
            server = self.create_gobj(name, GServerSock, self, host="127.0.0.1", **parameters)
            self.ports[name] = server.config.port

        def ac_echo(self, event: EV_RX_DATA):
            if event.data.startswith(b"fault"):
                raise ValueError("a fault of the program")
            self.send_event(event.source, EV_SEND_DATA(event.data))

        def ac_frame(self, event: EV_RX_FRAME):
            self.send_event(event.source, EV_SEND_FRAME(event.data))

        def ac_gone(self, event: EV_DISCONNECTED):
            self.destroy_gobj(event.source)

        machine = {
            "ST_IDLE": [
                on(EV_CONNECTED, None),
                on(EV_RX_DATA, ac_echo),
                on(EV_RX_FRAME, ac_frame),
                on(EV_DISCONNECTED, ac_gone),
            ],
        }
"""


class Running:
    """The command with its log, which is read by a thread, or by nobody."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], DEADLINE)
        assert ready, "it has not started"
        self.ports: dict[str, int] = json.loads(process.stdout.readline())
        self.log = b""
        self._reader: threading.Thread | None = None

    def read_log(self) -> None:
        """Read it from now on, to the end."""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        while data := os.read(self.process.stderr.fileno(), 1 << 16):
            self.log += data

    def wait_for(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < end, self.log[-3000:].decode()
            time.sleep(0.002)

    def records(self) -> list[dict[str, Any]]:
        """What was logged so far, as JSON."""
        return [json.loads(line) for line in self.log.splitlines()]

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(DEADLINE)
        if self._reader is not None:
            self._reader.join(DEADLINE)
        return status

    def dial(self, name: str) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.ports[name]), DEADLINE)

    def echo(self, data: bytes = b"hello") -> None:
        """One message there and back: the server lives, and is not held up."""
        with self.dial("plain") as client:
            client.sendall(data)
            assert client.recv(1000) == data

    def throw(self, name: str, garbage: bytes, *, reset: bool = False) -> bytes:
        """Send garbage to a port, and read to the end; what came back."""
        back = b""
        with self.dial(name) as client, suppress(ConnectionError):
            client.sendall(garbage)
            if reset:
                client.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, bytes([1, 0, 0, 0] + [0] * 4)
                )
                return back
            with suppress(OSError):
                # The server may have reset it already.
                client.shutdown(socket.SHUT_WR)
            while data := client.recv(65536):
                back += data
        return back


Start = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    (tmp_path / "servers.py").write_text(textwrap.dedent(SERVERS).replace("PASSPHRASE", PASSPHRASE))
    plain = serialization.load_pem_private_key(
        certificates.key_of(certificates.server()).read_bytes(), None
    )
    (tmp_path / "key.pem").write_bytes(
        plain.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(PASSPHRASE.encode()),
        )
    )
    (tmp_path / "chain.pem").write_bytes(certificates.chain_of(certificates.server()).read_bytes())
    with ExitStack() as stack:

        def _start(*options: str, stderr: Any = subprocess.PIPE) -> Running:
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "ginsfsm", "run", "servers.py:Servers", *options],
                    cwd=tmp_path,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                )
            )
            stack.callback(process.kill)
            return Running(process)

        yield _start


HELLO = bytes.fromhex("16030100c8010000c40303") + b"\x11" * 60

GARBAGE = {
    "nothing": b"",
    "http": b"GET /" + PAYLOAD + b" HTTP/1.1\r\nHost: " + PAYLOAD + b"\r\n\r\n",
    "binary": b"\x00\x01\x02\xff\xfe" + PAYLOAD + b"\x00\x80\x1b[2J" * 50,
    "half a hello": HELLO,
    "a hello of rubbish": HELLO + PAYLOAD * 30,
    "an alert": bytes.fromhex("15030100020228"),
    "ssh": b"SSH-2.0-" + PAYLOAD + b"\r\n",
    "smb": bytes.fromhex("00000085ff534d4272") + PAYLOAD,
    "a proxy line": b"PROXY TCP4 1.2.3.4 " + PAYLOAD + b"\r\n",
    "a whole proxy line": b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + PAYLOAD,
    "a binary proxy header": b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x04" + PAYLOAD,
    "a long line": PAYLOAD * 100,
}


def scan(running: Running) -> None:
    """What a scanner sends to every port that it finds, ended in order and by a reset."""
    for name in running.ports:
        for garbage in GARBAGE.values():
            running.throw(name, garbage)
            running.throw(name, garbage, reset=True)


def test_garbage_is_no_error_and_what_came_is_not_in_the_log(start: Start) -> None:
    running = start("--log-level", "debug", "--log-format", "json", "--log-limit", "0")
    running.read_log()
    scan(running)
    # Two at a time where one is allowed, as soon as the last one of the scan has gone.
    while True:
        with running.dial("narrow") as one:
            one.sendall(b"x")
            if one.recv(10) == b"x":
                with running.dial("narrow") as two:
                    assert two.recv(10) == b"no"
                break
    running.echo(PAYLOAD)
    assert running.stop() == 0
    records = running.records()
    assert PAYLOAD not in running.log
    assert PAYLOAD.hex().encode() not in running.log
    told = [one for one in records if one["level"] not in ("DEBUG", "INFO")]
    assert told == []
    # It was said, for whoever wants to know, and by whom and where.
    about_peers = [one for one in records if "peer" in one]
    assert len(about_peers) > 40
    for one in about_peers:
        host, _, port = one["peer"].rpartition(":")
        assert (host, port.isdigit()) in (("127.0.0.1", True), ("1.2.3.4", True)), one
        assert one["path"].startswith("app/servers")
    assert {one.get("reason") for one in about_peers} >= {"frame", "per_ip"}
    assert any("what came is no TLS" in one["message"] for one in about_peers)


def test_secrets_are_not_in_the_log(start: Start, tmp_path: Path) -> None:
    """The passphrase and what is sent, at every level, and where everything goes wrong."""
    running = start(
        "--log-level", "debug", "--log-format", "json", "--log-limit", "0",
        "--set", "servers.watched=true",
    )  # fmt: skip
    running.read_log()
    context = ssl.create_default_context(cafile=str(certificates.ca()))
    with context.wrap_socket(running.dial("secure"), server_hostname="localhost") as client:
        client.sendall(PAYLOAD)
        assert client.recv(100) == PAYLOAD
    # An action that raises, with a payload in hand.
    assert running.throw("plain", b"fault " + PAYLOAD) == b""
    running.wait_for(lambda: b"a fault of the program" in running.log)
    # A reload, of a key that the passphrase does not open, and of what is no key.
    key = (tmp_path / "key.pem").read_bytes()
    for wrong in (certificates.key_of(certificates.stranger()).read_bytes(), key[:200]):
        count = running.log.count(b"not reloaded")
        (tmp_path / "key.pem").write_bytes(wrong)
        running.process.send_signal(signal.SIGHUP)
        # Both servers with TLS.
        running.wait_for(lambda count=count: running.log.count(b"not reloaded") == count + 2)
    assert running.stop() == 0
    records = running.records()
    for secret in (PAYLOAD, PASSPHRASE.encode(), key.splitlines()[2], b"PRIVATE KEY"):
        assert secret not in running.log, secret
    errors = [one for one in records if one["level"] == "ERROR"]
    (fault,) = [one for one in errors if "a fault of the program" in one["message"]]
    assert fault["path"] == "app/servers"
    assert fault["state"] == "ST_IDLE"
    assert fault["event"] == "EV_RX_DATA"
    assert fault["error"] == "ValueError"
    assert fault["source"].startswith("app/servers/plain.clisrv_")
    assert "Traceback" in fault["traceback"]
    assert any("the observer failed on Delivered(EV_RX_DATA)" in one["message"] for one in errors)


def test_a_flood_of_one_kind_is_held_back_and_counted(start: Start) -> None:
    running = start("--log-limit", "5")
    running.read_log()
    for _ in range(50):
        running.throw("secure", b"no TLS, but " + PAYLOAD)
    assert running.stop() == 0
    lines = running.log.decode().splitlines()
    assert sum("the TLS handshake with 127.0.0.1" in line for line in lines) == 5
    (last,) = [line for line in lines if "held back" in line]
    assert " INFO 45 more like this were held back within 60 s: %s: the TLS handshake" in last


FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")
@pytest.mark.parametrize("form", ["text", "json"])
def test_a_full_disk_does_not_end_the_server(form: str, start: Start) -> None:
    with FULL.open("wb") as full:
        running = start("--log-level", "debug", "--log-format", form, stderr=full)
    scan(running)
    running.throw("plain", b"fault")
    running.echo()
    assert running.stop() == 0


def test_a_closed_pipe_does_not_end_the_server(start: Start) -> None:
    running = start("--log-level", "debug")
    assert running.process.stderr is not None
    running.process.stderr.close()
    scan(running)
    running.throw("plain", b"fault")
    running.echo()
    assert running.stop() == 0


def test_a_reader_that_has_stopped_does_not_hold_up_the_server(start: Start) -> None:
    """A full pipe whose other end is open: who writes to it blocks, if he does not look first."""
    running = start("--log-level", "debug", "--log-limit", "0")
    assert running.process.stderr is not None
    end = time.monotonic() + DEADLINE
    # A traceback each; a pipe has 64 KiB.
    for _ in range(200):
        running.throw("plain", b"fault")
        assert time.monotonic() < end
    running.echo()
    running.read_log()
    running.wait_for(lambda: len(running.log) > 30_000)
    running.throw("plain", b"fault")
    running.wait_for(lambda: b"records were lost" in running.log)
    assert running.stop() == 0
    lines = running.log.decode().splitlines()
    assert lines[-1].endswith(" INFO app/servers has stopped")
    (lost,) = [line for line in lines if "records were lost" in line]
    assert "WARNING the log could not be written" in lost


def test_without_stderr_at_all(start: Start, tmp_path: Path) -> None:
    """Closed before the start: its number belongs to another file, which the log must not hit."""
    process = subprocess.Popen(
        ["/bin/sh", "-c", f"exec {sys.executable} -m ginsfsm run servers.py:Servers 2>&-"],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    with process:
        try:
            running = Running(process)
            scan(running)
            running.echo()
            assert running.stop() == 0
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["--log-limit", "-1"], "'-1': expected a whole number, 0 or more"),
        (["--log-limit", "many"], "'many': expected a whole number, 0 or more"),
        (["--log-format", "xml"], "invalid choice: 'xml'"),
    ],
    ids=["negative", "word", "form"],
)
def test_options_that_are_wrong(options: list[str], what: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ginsfsm", "run", "x.py:X", *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert done.returncode == 2
    assert what in done.stderr


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")
@pytest.mark.parametrize(
    ("target", "status"), [("none.py:X", 2), ("servers.py:Servers --set servers.x=1", 1)]
)
def test_the_exit_status_says_it_where_nothing_else_can(
    target: str, status: int, start: Start, tmp_path: Path
) -> None:
    with FULL.open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "ginsfsm", "run", *target.split()],
            cwd=tmp_path,
            stderr=full,
            stdout=subprocess.PIPE,
            timeout=DEADLINE,
        )
    assert (done.returncode, done.stdout) == (status, b"")


def one_record_of(folder: Path, *arguments: str) -> str:
    """What a command that cannot start says in its one line, which is a record of the log."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "ginsfsm", "run", "servers.py:Servers"),
            *(*arguments, "--log-format", "json"),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    told = json.loads(line)
    assert told["level"] == "CRITICAL"
    return str(told["message"])


def test_that_it_cannot_start_is_a_record_like_others(start: Start, tmp_path: Path) -> None:
    told = one_record_of(tmp_path, "--set", "servers.x=1")
    assert "servers.py:Servers cannot start: app/servers (Servers): x: unknown" in told


@pytest.mark.parametrize("workers", [(), ("--workers", "1")], ids=["alone", "workers"])
def test_that_the_page_cannot_be_served_is_one_as_well(
    workers: tuple[str, ...], start: Start, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        page = f"127.0.0.1:{taken.getsockname()[1]}"
        told = one_record_of(tmp_path, *workers, "--metrics", page)
    assert "servers.py:Servers cannot start: --metrics: " in told
