"""Log targets that fail: full disks, closed pipes, readers that stopped, sockets, no stderr."""

from __future__ import annotations

import errno
import io
import logging
import os
import re
import select
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TextIO

import pytest

from ginsfsm.logs import LogTarget, log_handler
from ginsfsm.logs import target as target_module
from ginsfsm.logs.target import tell_syslog

DEADLINE = 10.0

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")


def logger_with(handler: logging.Handler) -> logging.Logger:
    """A logger of this test alone, without anybody else's handlers."""
    logger = logging.getLogger("ginsfsm.tests.target")
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
    logger.handlers = [handler]
    return logger


@contextmanager
def logging_to(
    stream: TextIO, tell: Callable[[str], object]
) -> Iterator[tuple[logging.Logger, LogTarget]]:
    target = LogTarget(stream, tell)
    try:
        yield logger_with(target), target
    finally:
        target.close()


@pytest.fixture
def told() -> list[str]:
    return []


def test_a_line_is_one_write_and_nothing_waits(tmp_path: Path, told: list[str]) -> None:
    with (tmp_path / "log").open("w") as file, logging_to(file, told.append) as (logger, target):
        logger.info("first %s", "é \udcff")
        assert (tmp_path / "log").read_text() == "first é \\udcff\n"
        logger.info("second")
        assert (tmp_path / "log").read_text().endswith("\nsecond\n")
        assert (target.lost, told) == (0, [])


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_a_long_record_is_one_write(
    kind: str, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trees of workers come at the same time, and are longer than a pipe takes for sure."""
    with ExitStack() as stack:
        if kind == "pipe":
            reading, writing = os.pipe()
            stack.callback(os.close, reading)
            stream = stack.enter_context(os.fdopen(writing, "w"))
        else:
            ours, theirs = socket.socketpair()
            reading = stack.enter_context(theirs).fileno()
            stream = stack.enter_context(stack.enter_context(ours).makefile("w"))
            monkeypatch.setattr(stream, "fileno", ours.fileno, raising=False)
        logger, target = stack.enter_context(logging_to(stream, told.append))
        pieces: list[int] = []
        write_some = target._write_some

        def count(data: memoryview, end: float) -> int:
            pieces.append(write_some(data, end))
            return pieces[-1]

        monkeypatch.setattr(target, "_write_some", count)
        logger.info("x" * 15_000)
        assert pieces == [15_001]
        assert os.read(reading, 1 << 16) == b"x" * 15_000 + b"\n"
        assert (target.lost, told) == (0, [])


@needs_full
def test_a_full_disk_loses_lines_and_is_told_once(told: list[str]) -> None:
    with FULL.open("w") as file, logging_to(file, told.append) as (logger, target):
        for number in range(1000):
            logger.info("number %d", number)
        assert target.lost == 1000
    assert told == ["the log cannot be written (No space left on device); its records are lost"]


@needs_full
def test_it_is_told_to_the_log_of_the_system(tmp_path: Path) -> None:
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog,
        FULL.open("w") as file,
    ):
        syslog.bind(str(tmp_path / "log"))
        syslog.settimeout(DEADLINE)
        tell = partial(tell_syslog, address=str(tmp_path / "log"))
        with logging_to(file, tell) as (logger, _):
            for _ in range(10):
                logger.info("again")
        head = f"<27>ginsfsm[{os.getpid()}]: "
        assert syslog.recv(1000).decode() == (
            f"{head}the log cannot be written (No space left on device); its records are lost"
        )
        syslog.setblocking(False)
        with pytest.raises(BlockingIOError):
            syslog.recv(1000)


def test_a_system_without_a_log_is_no_fault(tmp_path: Path) -> None:
    tell_syslog("nobody hears this", str(tmp_path / "none"))


# A real limit of the system on the size of files, in a process of its own: the line is cut in the
# middle, and later the disk has room again.
CUT = """
    import logging, resource, sys
    from ginsfsm.logs import LogTarget

    told = []
    target = LogTarget(sys.stderr, told.append)
    logger = logging.Logger("ginsfsm", logging.DEBUG)
    logger.addHandler(target)
    logger.info("whole")
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))
    logger.info("is cut in the middle")
    for _ in range(4):
        logger.info("is lost")
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    logger.info("works again")
    assert target.lost == 5, target.lost
    assert len(told) == 1, told
"""


def test_a_line_cut_by_a_full_disk_spoils_no_other(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as file:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(CUT)],
            stderr=file,
            timeout=DEADLINE * 3,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
    assert log.read_text() == (
        "whole\nis c\nthe log could not be written (File too large): 5 records were lost\n"
        "works again\n"
    )
    assert done.returncode == 0


def test_a_closed_pipe(told: list[str]) -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as stream, logging_to(stream, told.append) as (logger, target):
        logger.info("heard")
        assert os.read(reading, 100) == b"heard\n"
        os.close(reading)
        for _ in range(10):
            logger.info("not heard")
        assert target.lost == 10
    assert told == ["the log cannot be written (Broken pipe); its records are lost"]


def channel(kind: str) -> tuple[int, TextIO]:
    """A reader's descriptor and a writer's stream, of a pipe or as journald gives them."""
    if kind == "pipe":
        reading, writing = os.pipe()
        return reading, os.fdopen(writing, "w")
    ours, theirs = socket.socketpair()
    return ours.detach(), os.fdopen(theirs.detach(), "w")


def read_all(descriptor: int) -> str:
    data = b""
    while select.select([descriptor], [], [], 0)[0]:
        more = os.read(descriptor, 1 << 20)
        if not more:
            break
        data += more
    return data.decode()


@pytest.mark.parametrize("kind", ["pipe", "socket"])
@pytest.mark.parametrize("size", [20, 3000, 10_000])
def test_a_reader_that_stops_holds_nobody_up(kind: str, size: int, told: list[str]) -> None:
    reading, stream = channel(kind)
    with stream, logging_to(stream, told.append) as (logger, target):
        begin = time.monotonic()
        count = 50
        while not target.lost:
            logger.info("x" * size)
            count += 1
        for _ in range(50):
            logger.info("x" * size)
        # One wait of 100 ms, and none for each of the others.
        assert time.monotonic() - begin < DEADLINE / 2
        assert target.lost == 51
        assert len(told) == 1
        heard = read_all(reading).splitlines()
        logger.info("works again")
        *cut, sum_of_loss, last = read_all(reading).splitlines()
        assert last == "works again"
        assert re.fullmatch(
            r"the log could not be written \(.+\): 51 records were lost", sum_of_loss
        )
        assert cut in ([], [""])
        assert heard.count("x" * size) == count - 51
        # At most one piece of a line that was too long for the room that was left.
        assert len(heard) - heard.count("x" * size) <= 1
    os.close(reading)


def test_the_descriptor_of_others_stays_a_blocking_one(told: list[str]) -> None:
    reading, stream = channel("pipe")
    with stream, logging_to(stream, told.append) as (logger, _):
        logger.info("it")
        assert os.get_blocking(stream.fileno())
    # What was opened for us alone is closed: the reader comes to the end.
    assert os.read(reading, 100) == b"it\n"
    assert os.read(reading, 100) == b""
    os.close(reading)


def test_a_stream_in_memory_and_one_that_was_closed(told: list[str]) -> None:
    stream = io.StringIO()
    with logging_to(stream, told.append) as (logger, target):
        logger.info("it")
        assert stream.getvalue() == "it\n"
        stream.close()
        logger.info("it")
        assert target.lost == 1
    assert told == [
        "the log cannot be written (I/O operation on closed file); its records are lost"
    ]


class Disk(io.StringIO):
    """A stream that takes what is written, or not."""

    full = False

    def write(self, text: str) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(text)


def test_a_disk_that_is_full_by_turns(told: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time the first line says how many that were, and the system's log hears it once."""
    now = [0.0]
    monkeypatch.setattr(target_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    stream = Disk()
    with logging_to(stream, told.append) as (logger, _):
        for _ in range(3):
            stream.full = True
            for _ in range(2):
                logger.info("lost")
            stream.full = False
            logger.info("written")
        assert len(told) == 1
        now[0] = target_module.TOLD_EVERY
        stream.full = True
        logger.info("lost")
        assert len(told) == 2
    lost = "the log could not be written (No space left on device): 2 records were lost"
    assert stream.getvalue().splitlines() == [lost, "written"] * 3


def test_a_program_without_stderr(told: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    target = LogTarget(None, told.append)
    logger_with(target).warning("it")
    assert (target.lost, len(told)) == (1, 1)
    assert "stderr was closed" in told[0]


def test_a_log_call_that_is_wrong_is_told_in_the_log(told: list[str]) -> None:
    stream = io.StringIO()
    with logging_to(stream, told.append) as (logger, _):
        logger.info("%d", "secret")  # noqa: PLE1205, RUF100
    assert "the log call in " in stream.getvalue()
    assert "cannot be written: TypeError" in stream.getvalue()
    assert "secret" not in stream.getvalue()


def test_the_handler_of_the_command_for_a_program_of_ones_own() -> None:
    stream = io.StringIO()
    handler = log_handler("json", limit=1, stream=stream)
    logger = logger_with(handler)
    logger.info("one")
    logger.info("one")
    handler.close()
    first, last = stream.getvalue().splitlines()
    assert '"message": "one"' in first
    assert '"held_back": 1' in last
    with pytest.raises(ValueError, match="form='xml': expected one of text, json"):
        log_handler("xml")


@pytest.mark.parametrize("wrong", ["5", -1, 1.5, None, True])
def test_a_limit_that_is_no_number_of_records(wrong: Any) -> None:
    sentence = f"limit={wrong!r}: expected a whole number of records a minute; 0 is no limit"
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        log_handler("json", limit=wrong)
