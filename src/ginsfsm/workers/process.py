"""Process: one worker's process, started by exec, and waited for without a thread.

It is started as our own command line, once more, with the end of its channel as a descriptor whose
number stands in an environment variable. Nothing of this process crosses: no loop, no gaplic, no
lock that another thread holds.

It has a process group of its own. Control-C at a terminal goes to all processes of the group in
front; the parent is to hear it alone and to end its workers as it thinks best.

Where the system has descriptors for processes (Linux), the poller tells when it has ended;
elsewhere we look every so often.

An orphan is no child of ours: a short process starts it and ends, so init adopts it, or the service
manager. That is for the one who is to take our place. systemd does not wait for the end of a main
process that is not its own child, and kills it where it should let it drain.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from ginsfsm.clock import TimerHandle
from ginsfsm.gobj import GObj
from ginsfsm.poller import READ

__all__ = ["CAN_ORPHAN", "UNKNOWN", "Process"]

LOOK: Final = 0.1
"""Seconds between two looks where the system does not tell."""

UNKNOWN: Final = 256
"""More than any exit status: that of an orphan, which only its parent is told."""

CAN_ORPHAN: Final = sys.platform == "linux" and hasattr(os, "pidfd_open")
"""Without a descriptor of the process nobody would tell us of an orphan's end."""

_STARTER: Final = """
import os, sys
report = int(sys.argv[1])
os.set_inheritable(report, False)
os.write(report, b"%d" % os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ, setpgroup=0))
"""
"""What the short process does."""


class Process:
    """A process that runs, or has run.

    Args:
        owner: for whom; `on_end` is called in its gaplic.
        command: what to execute.
        environment: its whole environment.
        descriptor: the end of the channel that it gets, under the same number.
        on_end: called once with the exit status, or the negative number of the signal. Not after
            `kill_and_forget`.
        orphan: it is to be no child of ours; then its exit status is `UNKNOWN`.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(
        self,
        owner: GObj,
        command: Sequence[str],
        environment: Mapping[str, str],
        descriptor: socket.socket,
        on_end: Callable[[int], object],
        *,
        orphan: bool = False,
    ) -> None:
        self._owner = owner
        self._on_end = on_end
        self.killed = False
        """Whether `kill` has been called."""
        self._timer: TimerHandle | None = None
        self._pidfd = -1
        self._watched = False
        self._popen: subprocess.Popen[bytes] | None = None
        if orphan:
            self.pid = _start_orphan(command, environment, descriptor.fileno())
        else:
            self._popen = _start(command, environment, descriptor.fileno())
            self.pid = self._popen.pid
        try:
            self._watch()
        except BaseException:
            self.kill_and_forget()
            raise

    def kill(self) -> None:
        """End it whatever it does; nothing happens where it has ended."""
        self.killed = True
        if self._popen is not None:
            self._popen.kill()
        elif self._pidfd >= 0:
            # Not by its number, which may be another's by now.
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def kill_and_forget(self) -> None:
        """End it, and wait for it: it is gone when this returns."""
        self.kill()
        if self._popen is not None:
            self._popen.wait()
        elif self._pidfd >= 0:
            self._has_ended(None)
        self._stop_watching()

    def let_go(self) -> None:
        """It lives on without us; nobody waits for it."""
        self._stop_watching()
        if self._popen is not None:
            # Else `subprocess` would warn that nobody has.
            self._popen.returncode = 0

    def _has_ended(self, milliseconds: int | None) -> bool:
        """Whether an orphan has ended, or does within that time; None is for ever."""
        waiting = select.poll()
        waiting.register(self._pidfd, select.POLLIN)
        return bool(waiting.poll(milliseconds))

    def _watch(self) -> None:
        self._pidfd = _descriptor_of(self.pid)
        if self._popen is None and self._pidfd < 0:
            raise ChildProcessError(errno.ECHILD, "it ended at once, or cannot be watched")
        if self._pidfd >= 0:
            self._owner.gaplic.poller.register(self._pidfd, self, READ)
            self._watched = True
        else:
            self._timer = self._owner.gaplic.call_later(self._owner, LOOK, self._look)

    def _stop_watching(self) -> None:
        if self._pidfd >= 0:
            if self._watched:
                self._owner.gaplic.poller.unregister(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def io_ready(self, mask: int) -> None:
        """It has ended."""
        self._look()

    def io_failed(self, error: Exception) -> None:
        """`io_ready` raised."""
        self._owner.gaplic.contain(error, self._owner, None, "the end of a process")

    def _look(self) -> None:
        status: int | None
        if self._popen is not None:
            status = self._popen.poll()
        else:
            status = UNKNOWN if self._has_ended(0) else None
        if status is None:
            if self._timer is not None:
                self._timer = self._owner.gaplic.call_later(self._owner, LOOK, self._look)
            return
        self._stop_watching()
        self._on_end(status)


def _start(
    command: Sequence[str], environment: Mapping[str, str], *descriptors: int
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        pass_fds=descriptors,
        process_group=0,
    )


def _start_orphan(command: Sequence[str], environment: Mapping[str, str], descriptor: int) -> int:
    """Its number; whoever started it has ended by then."""
    reading, writing = os.pipe()
    with open(reading, "rb") as report:
        try:
            # Without what a site or the environment would let it import: it is to be short.
            words = (sys.executable, "-I", "-S", "-c", _STARTER, str(writing), *command)
            starter = _start(words, environment, descriptor, writing)
        finally:
            os.close(writing)
        told = report.read()
        starter.wait()
    if not told:
        raise ChildProcessError(errno.ECHILD, f"exit status {starter.returncode} of its starter")
    return int(told)


def _descriptor_of(pid: int) -> int:
    """A descriptor that can be read when that process has ended; -1 where there is none."""
    if not hasattr(os, "pidfd_open"):
        return -1
    try:
        return os.pidfd_open(pid)
    except OSError:
        # An old kernel, a sandbox that forbids it, or no descriptor left: we look then.
        return -1
