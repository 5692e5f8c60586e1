"""Where a program listens, in its log: without that nobody can know a port that was a free one.

The servers that are there at the start are told then, each on a line; those that are made later,
when they are made.
"""

import logging

from ginsfsm.gaplic import GAplic
from ginsfsm.logs.fields import about
from ginsfsm.net.listening import Listening
from ginsfsm.net.place import Place
from ginsfsm.shutdown import servers_to_drain

__all__ = ["tell_servers"]

logger = logging.getLogger("ginsfsm")


def tell_servers(app: GAplic) -> None:
    """Say where its servers listen, now and from now on; the metrics have a line of their own."""
    servers = servers_to_drain(app)
    for server in servers:
        logger.info(
            "%s listens at %s", server.path, ", ".join(server.addresses), extra=about(server)
        )
    if not servers:
        logger.info("nothing listens yet: there is no GServerSock in the tree", extra=about(app))
    listen = app.listen

    def listen_and_tell(path: str, place: Place) -> Listening:
        listening = listen(path, place)
        logger.info("%s listens at %s", path, listening.addresses, extra=about(path=path))
        return listening

    app.listen = listen_and_tell  # type: ignore[method-assign]
