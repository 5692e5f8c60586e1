"""The examples, run by the command as a reader runs them, and tested from outside."""

import contextlib
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import pytest

DEADLINE = 20.0
ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"

MAX_LINE = 8192


class Program:
    """A process whose lines are read as they come; each wait has a deadline."""

    def __init__(self, stack: ExitStack, *arguments: str) -> None:
        self.process = stack.enter_context(
            subprocess.Popen(
                arguments,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        )
        # Called before the process is waited for.
        stack.callback(self.process.kill)
        self.lines: list[str] = []
        self._arrived: queue.Queue[str] = queue.Queue()
        self._threads = []
        for stream in (self.process.stdout, self.process.stderr):
            thread = threading.Thread(target=self._read, args=(stream,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def _read(self, stream: IO[bytes]) -> None:
        for line in stream:
            self._arrived.put(line.decode().rstrip("\n"))

    def wait_for(self, pattern: str, count: int = 1) -> re.Match[str]:
        """The first line, past or to come, that has this in it; or that many of them, the last."""
        deadline = time.monotonic() + DEADLINE
        seen = 0
        while True:
            for line in self.lines[seen:]:
                if found := re.search(pattern, line):
                    count -= 1
                    if not count:
                        return found
            seen = len(self.lines)
            try:
                self.lines.append(self._arrived.get(timeout=max(0, deadline - time.monotonic())))
            except queue.Empty:
                pytest.fail(f"no {pattern!r} within {DEADLINE} s: {self.lines}")

    def has(self, pattern: str) -> bool:
        while not self._arrived.empty():
            self.lines.append(self._arrived.get())
        return any(re.search(pattern, line) for line in self.lines)

    def type(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(number)
        status = self.process.wait(DEADLINE)
        for thread in self._threads:
            thread.join(DEADLINE)
        # No traceback, and no socket that nobody closed.
        assert not self.has("Traceback|ResourceWarning|ERROR"), self.lines
        return status


@pytest.fixture
def run(opened: ExitStack) -> Callable[..., Program]:
    """`ginsfsm run` of an example with these arguments."""

    def _run(*arguments: str) -> Program:
        warn = ("-W", "always::ResourceWarning")
        return Program(opened, sys.executable, *warn, "-m", "ginsfsm", "run", *arguments)

    return _run


class Chatting:
    """A chat that runs, and its clients."""

    def __init__(self, opened: ExitStack, program: Program) -> None:
        self.opened = opened
        self.program = program
        found = program.wait_for(r"^The chat listens on ([\d.]+):(\d+)\. Join with: nc \1 \2$")
        self.address = (found[1], int(found[2]))

    def join(self, name: bytes = b"", *, rcvbuf: int = 0) -> "Member":
        sock = self.opened.enter_context(socket.socket())
        sock.settimeout(DEADLINE)
        if rcvbuf:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        sock.connect(self.address)
        member = Member(sock)
        # Accepted; whether the name has come, nobody is told.
        self.program.wait_for(f"INFO {member.peer} joined$")
        if name:
            member.say(name)
        return member

    def name(self, *members: tuple["Member", bytes]) -> None:
        """Wait until each of these can be heard by all the others under its name."""
        for speaker, name in members:
            speaker.say(b"here I am")
            for listener, _ in members:
                if listener is not speaker:
                    assert listener.line() == name + b": here I am"


class Member:
    """A client of the chat."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.peer = "{}:{}".format(*sock.getsockname())
        self._file = opened_for_reading(sock)

    def say(self, line: bytes) -> None:
        self.sock.sendall(line + b"\n")

    def line(self) -> bytes:
        """The next line that it hears, or b"" at the end."""
        return self._file.readline().rstrip(b"\n")

    def close(self) -> None:
        self._file.close()
        self.sock.close()


def opened_for_reading(sock: socket.socket) -> IO[bytes]:
    return sock.makefile("rb")


@pytest.fixture
def chat(opened: ExitStack, run: Callable[..., Program]) -> Iterator[Chatting]:
    """A chat on a free port, which ends clean after the test."""
    chatting = Chatting(opened, run("examples/chat.py:Chat", "--set", "chat.ports=0"))
    yield chatting
    if chatting.program.process.poll() is None:
        assert chatting.program.stop() == 0


class TestChat:
    def test_it_takes_the_first_free_port(
        self, opened: ExitStack, run: Callable[..., Program]
    ) -> None:
        with contextlib.suppress(OSError):
            # If somebody else has it already, that is as good.
            opened.enter_context(socket.create_server(("127.0.0.1", 7000)))
        program = run("examples/chat.py:Chat")
        chat = Chatting(opened, program)
        host, port = chat.address
        assert host == "127.0.0.1"
        assert 7000 < port < 7010
        for taken in range(7000, port):
            with pytest.raises(OSError, match="in use"):
                socket.create_server(("127.0.0.1", taken))
        assert program.stop() == 0

    def test_lines_reach_every_other_client(self, chat: Chatting) -> None:
        ann, bob, cyd = chat.join(b"ann"), chat.join(b"bob"), chat.join(b"cyd")
        chat.name((ann, b"ann"), (bob, b"bob"), (cyd, b"cyd"))
        ann.say(b"hello")
        bob.say("grüß Gott".encode())
        # Not in one piece, two in one, and with the end of line of telnet.
        for piece in (b"in ", b"pieces\none ", b"more\r\n"):
            cyd.sock.sendall(piece)
        assert [bob.line() for _ in range(3)] == [
            b"ann: hello", b"cyd: in pieces", b"cyd: one more",
        ]  # fmt: skip
        assert {cyd.line(), cyd.line()} == {b"ann: hello", "bob: grüß Gott".encode()}
        assert {ann.line(), ann.line(), ann.line()} == {
            "bob: grüß Gott".encode(), b"cyd: in pieces", b"cyd: one more",
        }  # fmt: skip

    def test_joins_and_leaves_are_logged_with_the_peer(self, chat: Chatting) -> None:
        ann, bob = chat.join(b"ann"), chat.join(b"bob")
        chat.name((ann, b"ann"), (bob, b"bob"))
        ann.close()
        chat.program.wait_for(rf"INFO {ann.peer} \(ann\) left: peer$")
        nobody = chat.join()
        nobody.close()
        chat.program.wait_for(rf"INFO {nobody.peer} \(no name\) left: peer$")
        assert not chat.program.has(f"{bob.peer}.* left")

    @pytest.mark.parametrize("name", [b"ann", b"", b"  \t"])
    def test_a_name_that_is_taken_or_empty(self, name: bytes, chat: Chatting) -> None:
        ann, bob = chat.join(b"ann"), chat.join(b"bob")
        chat.name((ann, b"ann"), (bob, b"bob"))
        stranger = chat.join()
        stranger.say(name)
        assert stranger.line() == b"This name is empty or taken."
        assert stranger.line() == b""
        chat.program.wait_for(rf"INFO {stranger.peer} \(no name\) left: local$")
        chat.name((ann, b"ann"), (bob, b"bob"))

    def test_bad_utf8_and_control_characters(self, chat: Chatting) -> None:
        ann, bob = chat.join(b"\xffann\x1b[31m"), chat.join(b"bob")
        ann.say(b"\xc3\x28 \xf0\x9f\x98 \x00\x07\x1b[2J!")
        assert bob.line().decode() == "\ufffdann[31m: \ufffd( \ufffd [2J!"
        bob.say(b"still here")
        assert ann.line() == b"bob: still here"

    def test_the_longest_line_and_one_more_byte(self, chat: Chatting) -> None:
        ann, bob = chat.join(b"ann"), chat.join(b"bob")
        ann.say(b"x" * MAX_LINE)
        assert bob.line() == b"ann: " + b"x" * MAX_LINE
        ann.sock.sendall(b"last\n" + b"y" * (MAX_LINE + 1) + b"\nlost\n")
        # What came before the fault is passed on, what comes after it is not.
        assert bob.line() == b"ann: last"
        assert ann.line() == b"A line has at most 8192 bytes."
        assert ann.line() == b""
        cyd = chat.join(b"cyd")
        cyd.say(b"next")
        assert bob.line() == b"cyd: next"

    def test_a_mebibyte_without_an_end_of_line(self, chat: Chatting) -> None:
        ann, bob, cyd = chat.join(b"ann"), chat.join(b"bob"), chat.join(b"cyd")
        chat.name((ann, b"ann"), (bob, b"bob"), (cyd, b"cyd"))
        ann.sock.sendall(b"x" * 1024 * 1024)
        bob.say(b"hello")
        assert cyd.line() == b"bob: hello"
        # It may have heard what bob said before it was sent away.
        assert ann.line() in (b"A line has at most 8192 bytes.", b"bob: hello")
        ann.close()
        chat.program.wait_for(rf"INFO {ann.peer} \(ann\) left: ")
        chat.name((bob, b"bob"), (cyd, b"cyd"))

    def test_a_client_that_does_not_read(self, chat: Chatting) -> None:
        bob, cyd = chat.join(b"bob"), chat.join(b"cyd")
        chat.name((bob, b"bob"), (cyd, b"cyd"))
        chat.join(b"deaf", rcvbuf=4096)
        line = b"x" * 8000
        sent = 0
        while not chat.program.has(r"\(deaf\) left: tx_overflow"):
            # What the kernel holds for it and what the chat queues is a few MiB.
            assert sent < 64 * 1024 * 1024, "it is still there"
            for _ in range(8):
                bob.say(line)
                sent += len(line)
            for _ in range(8):
                assert cyd.line() == b"bob: " + line
        chat.name((bob, b"bob"), (cyd, b"cyd"))
        assert not chat.program.has(r"\((bob|cyd)\) left")

    def test_a_client_that_resets(self, chat: Chatting) -> None:
        ann, bob = chat.join(b"ann"), chat.join(b"bob")
        chat.name((ann, b"ann"), (bob, b"bob"))
        rude = chat.join(b"rude")
        rude.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        rude.close()
        chat.program.wait_for(rf"INFO {rude.peer} \(.*\) left: reset$")
        chat.name((ann, b"ann"), (bob, b"bob"))

    @pytest.mark.parametrize("number", [signal.SIGINT])
    def test_a_signal_ends_it(self, number: signal.Signals, chat: Chatting) -> None:
        ann, bob = chat.join(b"ann"), chat.join(b"bob")
        chat.name((ann, b"ann"), (bob, b"bob"))
        assert chat.program.stop(number) == 0
        assert ann.line() == bob.line() == b""
        assert chat.program.has("app/chat has stopped")

    @pytest.mark.peer
    def test_two_netcats(
        self, chat: Chatting, opened: ExitStack, require_program: Callable[[str], str]
    ) -> None:
        nc = require_program("nc")
        host, port = chat.address
        ann, bob = (Program(opened, nc, host, str(port)) for _ in range(2))
        ann.type("ann\n")
        bob.type("bob\n")
        # Who comes late has missed what was said.
        chat.program.wait_for("joined$", count=2)
        ann.type("Hello, Bob.\n")
        bob.wait_for(r"^ann: Hello, Bob\.$")
        bob.type("Hello, Ann.\nHow are you?\n")
        ann.wait_for(r"^bob: Hello, Ann\.$")
        ann.wait_for(r"^bob: How are you\?$")
        ann.process.terminate()
        chat.program.wait_for(r"\(ann\) left: peer$")
        assert chat.program.stop() == 0
        # The chat has gone, but a netcat goes on until its own input ends.
        assert bob.process.stdin is not None
        bob.process.stdin.close()
        assert bob.process.wait(DEADLINE) == 0

    def test_it_is_a_page(self) -> None:
        assert len((EXAMPLES / "chat.py").read_text().splitlines()) < 80


class TestEcho:
    @pytest.fixture
    def port(self) -> int:
        """A port that was free just now; the echo does not say which one it took."""
        with socket.create_server(("127.0.0.1", 0)) as sock:
            port: int = sock.getsockname()[1]
            return port

    @pytest.mark.parametrize("number", [signal.SIGINT])
    def test_it_echoes(
        self, number: signal.Signals, port: int, run: Callable[..., Program]
    ) -> None:
        program = run("examples/echo.py:Echo", "--set", f"echo.port={port}")
        program.wait_for("app/echo starts")
        data = bytes(range(256)) * 4096
        with (
            socket.create_connection(("127.0.0.1", port), DEADLINE) as one,
            socket.create_connection(("127.0.0.1", port), DEADLINE) as two,
        ):
            two.sendall(b"two")
            sender = threading.Thread(target=one.sendall, args=(data,))
            sender.start()
            got = bytearray()
            while len(got) < len(data):
                more = one.recv(65536)
                assert more
                got += more
            sender.join(DEADLINE)
            assert bytes(got) == data
            assert two.recv(100) == b"two"
            # Ended by the client, and by the server.
            two.shutdown(socket.SHUT_WR)
            assert two.recv(100) == b""
            assert program.stop(number) == 0
            assert one.recv(100) == b""

    @pytest.mark.peer
    def test_netcat(
        self,
        port: int,
        run: Callable[..., Program],
        opened: ExitStack,
        require_program: Callable[[str], str],
    ) -> None:
        program = run("examples/echo.py:Echo", "--set", f"echo.port={port}")
        program.wait_for("app/echo starts")
        nc = Program(opened, require_program("nc"), "-N", "127.0.0.1", str(port))
        nc.type("hello\n")
        nc.wait_for("^hello$")
        assert nc.process.stdin is not None
        nc.process.stdin.close()
        assert nc.process.wait(DEADLINE) == 0
        assert program.stop() == 0
