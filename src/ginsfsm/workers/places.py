"""Places: the listening sockets of all workers, which the parent opens and keeps.

Each place is opened once, for the first worker that asks, and every later one gets the same
sockets. The kernel has one queue of new connections for them, so who waits there is not lost with a
worker that dies: the next one takes it.

Two servers of one worker that both take a free port get two; the same server of two workers gets
the same one. So a place with port 0 is known by the path of its server as well.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from typing import Final

from ginsfsm.net.listen_error import ListenError
from ginsfsm.net.listening import Listening
from ginsfsm.net.place import Place, open_place
from ginsfsm.srv.listener import give_back

__all__ = ["Key", "Places", "in_use", "place_key"]

Key = tuple[str, Place]


class Places:
    """What is open.

    Args:
        inherit: who may have a place open already, and hands it over: None where it has not.
    """

    def __init__(self, inherit: Callable[[Key], Listening | None] = lambda key: None) -> None:
        self._inherit: Final = inherit
        self._open: Final[dict[Key, Listening]] = {}

    def listen(self, key: Key) -> Listening:
        """The sockets there, opened now or before; they stay ours.

        Raises:
            ValueError, ListenError: as `open_place`.
        """
        listening = self._open.get(key)
        if listening is None:
            listening = self._open[key] = self._inherit(key) or open_place(key[1])
        return listening

    def find(self, key: Key) -> Listening:
        """The sockets there, if they are open.

        Raises:
            ListenError: they are not.
        """
        try:
            return self._open[key]
        except KeyError:
            raise ListenError(errno.ENOENT, f"not open here: {key[1]}") from None

    def let_go(self) -> None:
        """Close our copies; the sockets are another process's from now on, and so are the files."""
        while self._open:
            for sock in self._open.popitem()[1].sockets:
                sock.close()

    def keep_only(self, used: Iterable[Key]) -> None:
        """Close what nobody uses any more: a client there would wait for ever.

        The file of a Unix socket that cannot be removed stays, and is told of in the log.
        """
        for key in self._open.keys() - set(used):
            give_back(self._open.pop(key), key[1].unix_path)

    def close(self) -> None:
        """Close all of them. Idempotent."""
        self.keep_only(())

    def __contains__(self, key: Key) -> bool:
        return key in self._open

    def __len__(self) -> int:
        return len(self._open)


def in_use(place: Place, by: str) -> ListenError:
    """What to raise where these listen at that place already."""
    hosts = ", ".join(host or "*" for host in place.hosts)
    at = place.unix_path or f"{hosts}, port {', '.join(map(str, place.ports))}"
    return ListenError(errno.EADDRINUSE, f"cannot listen on {at}: {by} listens there already")


def place_key(path: str, place: Place) -> Key:
    """How a place is known: without the path of its server where it is the same for every one."""
    takes_any = place.kind == "hosts" and 0 in place.ports
    return (path if takes_any else "", place)
