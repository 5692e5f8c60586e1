"""Programs that a test starts and talks to: openssl, gnutls-cli, curl, our own command.

What a program writes is read by a thread as it comes, so that no pipe fills up. A test waits for
what it says, never for a while. In a coroutine the loop goes on meanwhile (`Program`); elsewhere
the thread sleeps (`BlockingProgram`).
"""

import asyncio
import fcntl
import os
import re
import subprocess
import termios
import threading
import time
from array import array
from collections.abc import Generator
from pathlib import Path
from typing import Any, Self, TypeVar

import pytest

from sockets import DEADLINE

__all__ = ["BlockingProgram", "Program"]

R = TypeVar("R")

Steps = Generator[None, None, R]
"""Yields until there is a result."""

CLEAN = {"PATH": os.environ["PATH"], "LC_ALL": "C", "HOME": "/nonexistent"}
"""An environment in which nothing of this machine changes what a program trusts or says."""


class _Program:
    def __init__(
        self,
        *command: str | Path,
        folder: Path | None = None,
        environment: dict[str, str] | None = None,
        descriptors: tuple[int, ...] = (),
    ) -> None:
        self.command = [str(word) for word in command]
        self.output = bytearray()
        """All that it has written, stdout and stderr as they came."""
        self._seen = 0
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=CLEAN if environment is None else environment,
            pass_fds=descriptors,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._stdin, self._stdout = self.process.stdin, self.process.stdout
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        try:
            self._stdin.close()
        except BrokenPipeError:
            pass
        self._stdout.close()

    def _read(self) -> None:
        while data := os.read(self._stdout.fileno(), 1 << 16):
            self.output += data

    def end_input(self) -> None:
        """As Control-D at its terminal."""
        self._stdin.close()

    def said(self, pattern: str) -> list[Any]:
        """Everything like this that it has said so far, as `re.findall` gives it."""
        return re.findall(pattern.encode(), bytes(self.output), re.MULTILINE)

    def __str__(self) -> str:
        # Without the tickets and certificates in full.
        text = self.output.decode(errors="replace")
        text = re.sub(r"(?m)^ +[0-9a-f]{4} - .*\n|^[\w+/=]{60,}\n", "", text)
        return f"{' '.join(self.command)}\n{text[-5000:]}\n"

    def _typing(self, text: str) -> Steps[None]:
        try:
            self._stdin.write(text.encode())
            self._stdin.flush()
        except BrokenPipeError:
            pytest.fail(f"{self} has ended before {text!r} was typed")
        unread = array("i", [1])
        end = time.monotonic() + DEADLINE
        while True:
            fcntl.ioctl(self._stdin, termios.FIONREAD, unread)
            if not unread[0]:
                return
            if time.monotonic() > end:
                pytest.fail(f"{self} has not read {text!r}")
            yield

    def _saying(self, pattern: str) -> Steps[re.Match[bytes]]:
        end = time.monotonic() + DEADLINE
        while True:
            gone = not self._reader.is_alive()
            heard = bytes(self.output[self._seen :])
            if found := re.search(pattern.encode(), heard, re.MULTILINE):
                self._seen += found.end()
                return found
            if gone or time.monotonic() > end:
                pytest.fail(f"{self} has {'ended' if gone else 'not said'} without {pattern!r}")
            yield

    def _ending(self) -> Steps[int]:
        end = time.monotonic() + DEADLINE
        while self.process.poll() is None or self._reader.is_alive():
            if time.monotonic() > end:
                pytest.fail(f"{self} has not ended")
            yield
        return int(self.process.returncode)


class Program(_Program):
    """A program that runs beside the loop."""

    async def type(self, text: str) -> None:
        """As if at its terminal: it has read this when the next is typed."""
        await _in_the_loop(self._typing(text))

    async def says(self, pattern: str) -> re.Match[bytes]:
        """Wait until it has said this, after what it was found to say before."""
        return await _in_the_loop(self._saying(pattern))

    async def ends(self) -> int:
        """Wait until it has ended, and all that it wrote has been read; its exit status."""
        return await _in_the_loop(self._ending())


class BlockingProgram(_Program):
    """The same for a test without a loop."""

    def type(self, text: str) -> None:
        _in_this_thread(self._typing(text))

    def says(self, pattern: str) -> re.Match[bytes]:
        return _in_this_thread(self._saying(pattern))

    def ends(self) -> int:
        return _in_this_thread(self._ending())


async def _in_the_loop(steps: Steps[R]) -> R:
    while True:
        try:
            next(steps)
        except StopIteration as result:
            return result.value  # type: ignore[no-any-return]
        await asyncio.sleep(0.001)


def _in_this_thread(steps: Steps[R]) -> R:
    while True:
        try:
            next(steps)
        except StopIteration as result:
            return result.value  # type: ignore[no-any-return]
        time.sleep(0.001)
