"""Log target: where the lines go, and what happens when they cannot.

A full disk, a closed pipe, a terminal that has gone, a reader that has stopped reading: none of
them may end the server or hold it up. A line that cannot be written is lost and counted. That it
fails is told once, by syslog, because this way is shut; and when it works again, the first line
says how many records were lost.

Each line is one system call, with no buffer in between: what waits in a buffer is lost in a crash,
and Python ends with status 120 when it cannot empty one at the end. So the lines of workers that
share a stream do not get mixed either, as long as there is room for them. Of a line that a full
disk has cut the rest is not repeated; the next line begins on a line of its own.

To write may block, where a pipe or terminal is full because nobody reads. So first we ask whether
there is room, and wait for it 100 ms at most; then lines are lost until there is. The descriptor
itself stays a blocking one, since it is shared with other programs. A pipe is opened once more,
non-blocking and for us alone: else another process could fill it just after we have asked.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import select
import socket
import stat
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Final, TextIO

__all__ = ["LogTarget", "tell_syslog"]

PATIENCE: Final = 0.1
"""Seconds that a reader may keep the server waiting, once; a human does not notice it."""

PIECE: Final = 4096
"""Bytes that a pipe with room for anything takes at once: PIPE_BUF of Linux. pipe(7)."""

TOLD_EVERY: Final = 60.0
"""Seconds between two words about a target that fails and works by turns."""

_NOTICE: Final = "<27>"
"""Of a syslog datagram: facility daemon, level error. RFC 3164."""


def tell_syslog(text: str, address: str = "/dev/log") -> None:
    """Tell the system's log, if there is one that listens; nobody waits for it."""
    if not hasattr(socket, "AF_UNIX"):
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto(f"{_NOTICE}ginsfsm[{os.getpid()}]: {text}".encode(), address)
    except OSError:
        # There is none, as in most containers, or no descriptor for it. Then the count of what was
        # lost has to do.
        pass


class LogTarget(logging.Handler):
    """A handler that writes lines to a stream, and that nothing can hold up.

    Args:
        stream: where to write. Its descriptor is used directly, if it has one.
        tell: called with a sentence when writing begins to fail.

    Attributes:
        lost: records that could not be written so far.
    """

    def __init__(
        self, stream: TextIO | None = None, tell: Callable[[str], object] = tell_syslog
    ) -> None:
        super().__init__()
        self.lost = 0
        self._stream: TextIO | None = sys.stderr if stream is None else stream
        self._tell = tell
        self._told_at = -TOLD_EVERY
        self._failing = ""
        self._lost_before = 0
        self._cut = False
        self._descriptor = _descriptor_of(self._stream)
        self._own: int | None = None
        self._is_socket = False
        self._may_block = False
        if self._descriptor is not None:
            mode = os.fstat(self._descriptor).st_mode
            self._is_socket = stat.S_ISSOCK(mode)
            self._may_block = not stat.S_ISREG(mode) and hasattr(select, "poll")
            if stat.S_ISFIFO(mode):
                self._own = _opened_again(self._descriptor)

    def close(self) -> None:
        """Close what was opened here; the stream belongs to somebody else."""
        with self.lock or nullcontext():
            if self._own is not None:
                os.close(self._own)
                self._own = None
        super().close()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; called by `logging`, with the handler's lock."""
        try:
            text = self.format(record)
        except Exception as error:
            # Of the log call, whose arguments do not fit. It must be told, and is told here.
            text = self.format(_unfit(record, error))
        try:
            if self._failing:
                self._write(self.format(self._sum_of_loss()))
                self._failing = ""
            self._write(text)
        except (OSError, ValueError) as error:
            # A stream that has been closed raises ValueError.
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        self.lost += 1
        if self._failing:
            return
        self._failing = getattr(error, "strerror", None) or str(error)
        self._lost_before = self.lost - 1
        now = time.monotonic()
        if now - self._told_at >= TOLD_EVERY:
            self._told_at = now
            self._tell(f"the log cannot be written ({self._failing}); its records are lost")

    def _sum_of_loss(self) -> logging.LogRecord:
        count = self.lost - self._lost_before
        record = logging.LogRecord(
            "ginsfsm", logging.WARNING, __file__, 0,
            "the log could not be written (%s): %d records were lost",
            (self._failing, count), None,
        )  # fmt: skip
        record.lost = count
        return record

    def _write(self, text: str) -> None:
        if self._stream is None:
            raise OSError(errno.EBADF, "stderr was closed before the start")
        if self._descriptor is None:
            self._stream.write(text + "\n")
            self._stream.flush()
            return
        line = f"{text}\n".encode(errors="backslashreplace")
        rest = memoryview(b"\n" + line if self._cut else line)
        whole = len(rest)
        # A target that was found full gets no more time, until it has room again.
        end = time.monotonic() + (0.0 if self._failing else PATIENCE)
        try:
            while rest:
                rest = rest[self._write_some(rest, end) :]
        finally:
            # Nothing written: it ends as it did before.
            if len(rest) < whole:
                self._cut = len(rest) > 0

    def _write_some(self, data: memoryview, end: float) -> int:
        descriptor = self._descriptor if self._own is None else self._own
        assert descriptor is not None
        if not self._may_block:
            return os.write(descriptor, data)
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        wait = max(0.0, end - time.monotonic())
        ready = poll.poll(wait * 1000)
        if not ready:
            raise BlockingIOError(errno.EAGAIN, "nobody reads it")
        if self._is_socket:
            # poll(2) promises room for something, not for all of it.
            sock = socket.socket(fileno=descriptor)
            try:
                return sock.send(data, socket.MSG_DONTWAIT)
            finally:
                # The descriptor is not ours.
                sock.detach()
        # All of it where that cannot block, or the trees of several workers would get mixed.
        return os.write(descriptor, data if self._own is not None else data[:PIECE])


def _descriptor_of(stream: TextIO | None) -> int | None:
    """The stream's descriptor; None for one in memory."""
    if stream is None:
        return None
    try:
        return stream.fileno()
    except (AttributeError, OSError, ValueError, io.UnsupportedOperation):
        return None


def _opened_again(descriptor: int) -> int | None:
    """A non-blocking descriptor of the same pipe; None where the system, or the owner, has none."""
    try:
        return os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return None


def _unfit(record: logging.LogRecord, error: Exception) -> logging.LogRecord:
    return logging.LogRecord(
        record.name, logging.ERROR, record.pathname, record.lineno,
        "the log call in %s, line %d, cannot be written: %s",
        (record.pathname, record.lineno, type(error).__name__), None,
    )  # fmt: skip
