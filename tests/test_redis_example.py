"""The example of a small Redis, spoken to by redis-cli and redis-benchmark, and by hand."""

import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from programs import BlockingProgram
from sockets import DEADLINE

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "redis.py"

Require = Callable[[str], str]


@pytest.fixture
def port() -> Iterator[int]:
    """The port of one that runs, and ends without a complaint."""
    with BlockingProgram(
        sys.executable, "-W", "always::ResourceWarning", "-m", "ginsfsm", "run",
        "examples/redis.py:Redis", "--set", "redis.port=0", "--set", "redis.max_command=1000",
        # A flood of small commands must not fill the queue that all clients share.
        "--set", "app.max_posted_events=50",
        folder=ROOT, environment=dict(os.environ),
    ) as program:  # fmt: skip
        yield int(program.says(r"^Redis is at 127\.0\.0\.1:(\d+)$")[1])
        program.process.terminate()
        assert program.ends() == 0, program
        assert not program.said("Traceback|ResourceWarning|ERROR|Error"), program


def test_it_has_at_most_200_lines() -> None:
    assert len(EXAMPLE.read_text().splitlines()) <= 200


@pytest.mark.peer
def test_redis_cli(port: int, require_program: Require) -> None:
    cli = require_program("redis-cli")
    for command, answer in {
        "PING": "PONG",
        "PING hello": "hello",
        "ECHO hello": "hello",
        "SET name ann": "OK",
        "GET name": "ann",
        "GET nobody": "",
        "INCR name": "ERR value is not an integer or out of range",
        "INCR count": "1",
        "INCR  count": "2",
        "EXISTS name count nobody": "2",
        "DEL name nobody": "1",
        "GET name ": "",
        "GET": "ERR wrong number of arguments",
        "FLY": "ERR unknown command",
        "INFO": "# Server\nredis_version:7.0.0",
    }.items():
        with BlockingProgram(cli, "-p", str(port), *command.split()) as program:
            program.ends()
            assert program.output.decode().replace("\r", "").strip() == answer, command


@pytest.mark.peer
def test_redis_benchmark(port: int, require_program: Require) -> None:
    with BlockingProgram(
        require_program("redis-benchmark"), "-p", str(port), "-n", "2000", "-c", "20", "-P", "8",
        "-t", "ping,set,get,incr", "--csv",
    ) as program:  # fmt: skip
        assert program.ends() == 0, program
        names = [name.decode() for name in program.said(r'^"(\w+)","\d')]
        assert names == ["PING_INLINE", "PING_MBULK", "SET", "GET", "INCR"], program


def test_a_byte_at_a_time_and_many_at_once(port: int) -> None:
    commands = b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$4\r\n1\r\n2\r\n" + b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n"
    answers = b"+OK\r\n$4\r\n1\r\n2\r\n"
    with socket.create_connection(("127.0.0.1", port), DEADLINE) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in commands:
            client.sendall(bytes([byte]))
        client.sendall(commands * 100 + b"\r\nping\r\n")
        expected = answers * 101 + b"+PONG\r\n"
        heard = b""
        while len(heard) < len(expected):
            heard += client.recv(65536) or pytest.fail(f"the end after {heard!r}")
        assert heard == expected


@pytest.mark.parametrize(
    "bad",
    [
        b"x" * 1001,
        b"*1\r\n$1001\r\n",
        b"*1\r\n$-1\r\n",
        b"*-1\r\n",
        b"*99999999999\r\n",
        b"*1\r\nPING\r\n",
        b"*1\r\n$x\r\n",
    ],
)
def test_what_is_no_command_ends_the_connection(bad: bytes, port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), DEADLINE) as client:
        client.sendall(b"ping\r\n" + bad)
        heard = b""
        try:
            while more := client.recv(65536):
                heard += more
        except ConnectionResetError:
            pass
        # The good one came first; its answer may be lost with the connection.
        assert heard in (b"", b"+PONG\r\n")
