"""Sessions: a gobj for each connection, which owns it and goes with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ginsfsm.errors import GObjError
from ginsfsm.gobj import GObj
from ginsfsm.life import make

if TYPE_CHECKING:
    from ginsfsm.gconfig import Config
    from ginsfsm.sock.base import SockBase

__all__ = ["Sessions"]


class Sessions:
    """Makes the session of each connection of a server, under its subscriber.

    Args:
        gclass: what to make.
        parameters: values for its parameters, the same for all.
        subscriber: under whom.
        server: the name of the server, which theirs begin with.

    Raises:
        GConfigError: the parameters do not fit.
    """

    def __init__(
        self, gclass: type[GObj], parameters: dict[str, Any], subscriber: GObj, server: str
    ) -> None:
        self._gclass = subscriber.gaplic.gclass_to_make(gclass)
        self._parameters = parameters
        self._subscriber = subscriber
        self._server = server
        self._shared: Config | None = None
        config = self._new_config()
        if not any(isinstance(value, (dict, list, set)) for value in vars(config).values()):
            # Nothing in it that one of them could change for the others.
            self._shared = config

    def _new_config(self) -> Config:
        owner = f"{self._subscriber.path}, the sessions of {self._server}"
        gaplic = self._subscriber.gaplic
        return gaplic.configure(self._gclass, "", owner, self._parameters)

    def make(self, gsock: SockBase) -> GObj:
        """Make the gobj that will own this connection.

        Raises:
            GObjError: the subscriber is destroyed.
            Exception: whatever its `start_up` raises.
        """
        subscriber = self._subscriber
        if subscriber.destroyed:
            raise GObjError(f"the subscriber {subscriber.path} of {self._server} is destroyed")
        # The number of the connection: "server.clisrv_7" is in "server.session_7".
        name = f"{self._server}.session_{gsock.name.rpartition('_')[2]}"
        siblings = subscriber.children
        while name in siblings:
            name += "+"
        config = self._shared or self._new_config()
        return make(self._gclass, name, subscriber, config)
