"""Process: one worker's process, started by exec, and waited for without a thread.

It is started as our own command line, once more, with the end of its channel as a descriptor whose
number stands in an environment variable. Nothing of this process crosses: no loop, no gaplic, no
lock that another thread holds.

It has a process group of its own. Control-C at a terminal goes to all processes of the group in
front; the parent is to hear it alone and to end its workers as it thinks best.

Where the system has descriptors for processes (Linux), the poller tells when it has ended;
elsewhere we look every so often.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from ginsfsm.clock import TimerHandle
from ginsfsm.gobj import GObj
from ginsfsm.poller import READ

__all__ = ["Process"]

LOOK: Final = 0.1
"""Seconds between two looks where the system does not tell."""


class Process:
    """A process that runs, or has run.

    Args:
        owner: for whom; `on_end` is called in its gaplic.
        command: what to execute.
        environment: its whole environment.
        descriptor: the end of the channel that it gets, under the same number.
        on_end: called once with the exit status, or the negative number of the signal. Not after
            `kill_and_forget`.

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
    ) -> None:
        self._owner = owner
        self._on_end = on_end
        self.killed = False
        """Whether `kill` has been called."""
        self._timer: TimerHandle | None = None
        self._pidfd = -1
        self._watched = False
        self._popen = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            pass_fds=(descriptor.fileno(),),
            process_group=0,
        )
        self.pid = self._popen.pid
        try:
            self._watch()
        except BaseException:
            self.kill_and_forget()
            raise

    def kill(self) -> None:
        """End it whatever it does; nothing happens where it has ended."""
        self.killed = True
        self._popen.kill()

    def kill_and_forget(self) -> None:
        """End it, and wait for it: it is gone when this returns."""
        self._stop_watching()
        self._popen.kill()
        self._popen.wait()

    def let_go(self) -> None:
        """It lives on without us; nobody waits for it."""
        self._stop_watching()
        # Else `subprocess` would warn that nobody has.
        self._popen.returncode = 0

    def _watch(self) -> None:
        self._pidfd = _descriptor_of(self.pid)
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
        status = self._popen.poll()
        if status is None:
            if self._timer is not None:
                self._timer = self._owner.gaplic.call_later(self._owner, LOOK, self._look)
            return
        self._stop_watching()
        self._on_end(status)


def _descriptor_of(pid: int) -> int:
    """A descriptor that can be read when that process has ended; -1 where there is none."""
    if not hasattr(os, "pidfd_open"):
        return -1
    try:
        return os.pidfd_open(pid)
    except OSError:
        # An old kernel, a sandbox that forbids it, or no descriptor left: we look then.
        return -1
