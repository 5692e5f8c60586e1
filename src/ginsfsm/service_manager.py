"""ServiceManager: what the program that started us wants to know, as systemd asks for it.

It gives a Unix socket in `NOTIFY_SOCKET` and reads datagrams there, lines like `READY=1`: that the
start is over, that a reload or the end has begun, and, where it asked for that by `WATCHDOG_USEC`,
that the program still works. Without `NOTIFY_SOCKET` nobody asks, and every call does nothing.

The variables are taken out of the environment, so that no process that we start speaks for us. A
manager that does not listen is told of once in the log, and is no reason to serve nobody: it learns
from the process itself that it has ended. See sd_notify(3).
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import MutableMapping
from typing import Final

from ginsfsm.logs.fields import about

__all__ = ["ServiceManager"]

logger: Final = logging.getLogger("ginsfsm")

VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")

SHORTEST: Final = 0.01
"""Seconds. A manager that asks for more than a hundred signs of life a second gets no more."""


class ServiceManager:
    """Tells the service manager how we are.

    Attributes:
        watchdog: seconds within which the manager wants a sign of life; 0 where it wants none.
        present: whether there is a manager that wants to be told.
    """

    def __init__(self, address: str = "", watchdog: float = 0.0) -> None:
        self.watchdog = watchdog
        self._address = _socket_address(address)
        self._told_of_failure = False
        if address and self._address is None:
            logger.warning(
                "NOTIFY_SOCKET=%s: expected a path, or @ and a name; the service manager is told "
                "nothing",
                address,
                extra=about(),
            )
        self.present = self._address is not None

    @classmethod
    def of_environment(cls, environment: MutableMapping[str, str] = os.environ) -> ServiceManager:
        """The manager that the environment names; its variables are removed there."""
        given = {name: environment.pop(name, "") for name in VARIABLES}
        return cls(given["NOTIFY_SOCKET"], _watchdog(given, os.getpid()))

    @property
    def beat(self) -> float:
        """Seconds between two signs of life, half of what is allowed; 0 is never."""
        return self.watchdog / 2 if self.present else 0.0

    def ready(self, status: str = "") -> None:
        """The start, or the reload, is over."""
        self._tell("READY=1", status)

    def reloading(self) -> None:
        """A reload has begun; `ready` ends it."""
        # The same clock as the manager's, so it knows which of several reloads this one is.
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={microseconds}", "")

    def stopping(self, seconds: float, status: str = "") -> None:
        """The end has begun and may take so many seconds, which the manager is asked to wait."""
        extension = f"\nEXTEND_TIMEOUT_USEC={int((seconds + 5) * 1e6)}" if seconds else ""
        self._tell(f"STOPPING=1{extension}", status)

    def status(self, status: str) -> None:
        """A line for people."""
        self._tell("", status)

    def main_process(self, pid: int) -> None:
        """Another process is the service from now on."""
        self._tell(f"MAINPID={pid}", "")

    def alive(self) -> None:
        """The program works."""
        if self.watchdog:
            self._tell("WATCHDOG=1", "")

    def _tell(self, state: str, status: str) -> None:
        if self._address is None:
            return
        # A line of its own for each variable, so what a status says must be one line.
        lines = [state] if state else []
        if status:
            lines.append(f"STATUS={' '.join(status.split())}")
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                # Rather untold than held up by a manager that does not read.
                sock.setblocking(False)
                sock.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            if not self._told_of_failure:
                self._told_of_failure = True
                logger.warning(
                    "the service manager at %s cannot be told (%s); further failures are not "
                    "logged",
                    self._address.replace("\0", "@", 1),
                    error,
                    extra=about(error=error),
                )


def _socket_address(given: str) -> str | None:
    if not hasattr(socket, "AF_UNIX") or len(given) < 2:
        return None
    if given.startswith("@"):
        return "\0" + given[1:]
    return given if given.startswith("/") else None


def _watchdog(given: MutableMapping[str, str], pid: int) -> float:
    microseconds, meant = given["WATCHDOG_USEC"], given["WATCHDOG_PID"]
    if not microseconds or (meant and meant != str(pid)):
        # The second: an ancestor of ours was asked and did not take it out of the environment.
        return 0.0
    if not microseconds.isascii() or not microseconds.isdigit() or int(microseconds) == 0:
        logger.warning(
            "WATCHDOG_USEC=%s: expected a number of microseconds; there is no watchdog",
            microseconds,
            extra=about(),
        )
        return 0.0
    return max(int(microseconds) / 1e6, 2 * SHORTEST)
