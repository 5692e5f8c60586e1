"""Origin: what a worker process knows of its parent, and what ties it to it.

The parent starts us with the end of a socket pair, whose number stands in the environment. When the
parent dies, however that was, the kernel closes its end, and we read the end of the channel. A
process whose loop is stuck reads nothing. So on Linux the kernel is asked for a signal as well,
which no process can overlook: a parent that dies leaves nobody behind.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, MutableMapping
from dataclasses import replace
from functools import partial
from typing import Final

from ginsfsm.logs.fields import about
from ginsfsm.net.listen_error import ListenError
from ginsfsm.net.listening import Listening
from ginsfsm.net.place import Place
from ginsfsm.net.unix_address import removal_of
from ginsfsm.workers.channel import Channel
from ginsfsm.workers.events import EV_CANNOT_START, EV_READY, EV_WANT_TO_LISTEN
from ginsfsm.workers.places import Key, in_use

__all__ = ["HEIR", "Origin", "VARIABLE"]

logger: Final = logging.getLogger("ginsfsm")

VARIABLE: Final = "GINSFSM_WORKER"
"""Names the variable that makes a process a worker: descriptor and process number of the parent."""

HEIR: Final = "GINSFSM_HEIR"
"""Names the variable that makes a process the successor of a parent."""

PR_SET_PDEATHSIG: Final = 1
"""prctl(2). It holds until the process changes its user or group."""

ANSWER: Final = 60.0
"""Seconds that the parent may take to open a socket; it resolves names meanwhile."""


class Origin:
    """The parent of this process, which is a worker.

    Attributes:
        channel: our end.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.channel = Channel(sock)
        self._held: dict[Place, Listening] = {}
        self._has_taken_over = False

    @classmethod
    def of_environment(
        cls, variable: str = VARIABLE, environment: MutableMapping[str, str] = os.environ
    ) -> Origin | None:
        """The parent that the environment names; None where this process is no worker.

        The variable is removed there. A worker whose parent has died meanwhile ends here. With
        `HEIR` it is the old parent whose place we take, and we live on without it.
        """
        given = environment.pop(variable, "")
        if not given:
            return None
        descriptor, _, parent = given.partition(":")
        try:
            number, process = int(descriptor), int(parent)
            sock = socket.socket(fileno=number)
        except (ValueError, OSError) as error:
            raise SystemExit(
                f"ginsfsm: {variable}={given}: expected a descriptor that the parent gave "
                f"({error}); only a parent sets this variable, so unset it"
            ) from error
        # Whatever the target starts must not keep the channel open when we have died.
        sock.set_inheritable(False)
        if variable == VARIABLE:
            _die_with(process)
        return cls(sock)

    def listen(self, path: str, place: Place) -> Listening:
        """The sockets of a server, from the parent.

        Raises:
            ListenError: the parent cannot listen there, or another server of ours does.
        """
        place = self._not_held(place)
        try:
            answer, sockets = self.channel.ask(EV_WANT_TO_LISTEN(path, place), ANSWER)
        except ConnectionError as error:
            raise ListenError(error.errno or 0, f"{path}: {error}") from error
        if not sockets:
            raise ListenError(answer.errno, answer.error)
        listening = Listening(tuple(sockets), answer.port, shared=answer.inherited)
        if _has_one_server(place):
            self._held[place] = listening
        return listening

    def _not_held(self, place: Place) -> Place:
        """That place without the ports of our other servers, as the system alone would have it.

        The parent cannot tell: to it a second server is the same one of another worker.
        """
        while (held := self._held.get(place)) is not None:
            if all(sock.fileno() < 0 for sock in held.sockets):
                # That server has been destroyed, or has drained.
                del self._held[place]
                break
            rest = tuple(port for port in place.ports if port != held.port)
            if place.kind != "hosts" or not rest:
                raise in_use(place, "another server of this program")
            place = replace(place, ports=rest)
        return place

    def inherit(self, key: Key) -> Listening | None:
        """The sockets that an old parent hands over to us, its successor; None where it has none.

        Whatever prevents it is logged, and then we open them ourselves.
        """
        path, place = key
        if self.channel.closed:
            # We have taken over, and it has gone.
            return None
        try:
            answer, sockets = self.channel.ask(EV_WANT_TO_LISTEN(path, place), ANSWER)
        except ConnectionError as error:
            logger.warning("the old parent hands nothing over: %s", error, extra=about(error=error))
            return None
        if not sockets:
            return None
        remove = None
        if answer.file is not None:
            # Not what stands at the path now: that may be another program's.
            remove = partial(self._remove, removal_of(place.unix_path, answer.file))
        return Listening(tuple(sockets), answer.port, answer.inherited, remove, answer.file)

    def take_over(self) -> None:
        """Tell the old parent that our workers serve: what it gave is ours from now on."""
        self._has_taken_over = True
        self.channel.send(EV_READY())
        self.channel.close()

    def _remove(self, removal: Callable[[], object]) -> None:
        # An heir that fails leaves the file to the old parent, which serves on.
        if self._has_taken_over:
            removal()

    def cannot_start(self, reason: str, status: int) -> None:
        """Tell why we are going to end."""
        self.channel.send(EV_CANNOT_START(reason, status))


def _has_one_server(place: Place) -> bool:
    """Whether a second server of one process could not listen there as well."""
    if place.kind == "hosts":
        return not place.reuse_port and 0 not in place.ports
    return place.kind == "unix_path"


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
            # A sandbox that forbids it. The end of the channel still tells, unless we are stuck.
            logger.warning(
                "the kernel does not watch the parent for us (prctl: %s); if it is killed while "
                "this worker is stuck, the worker stays",
                os.strerror(ctypes.get_errno()),
                extra=about(),
            )
    if os.getppid() != parent:
        # It died before the kernel was asked.
        raise SystemExit(1)
