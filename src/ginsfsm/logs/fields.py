"""Fields: what a log record says beside its sentence, in one vocabulary.

A field's values come from a small set, or name one thing: a path, an address, a number. What a peer
sent is in no field and in no sentence, and neither is anything of `ssl_options` but file names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ginsfsm.net.addresses import format_address

if TYPE_CHECKING:
    from ginsfsm.gobj import GObj

__all__ = ["FIELDS", "about"]

FIELDS: Final = {
    "path": "the gobj's path in the tree, as in `app/echo/server`",
    "gclass": "the name of its gclass",
    "state": "its state then",
    "event": "the name of the event that was being delivered",
    "source": "the path of the gobj that sent the event",
    "peer": "the other side's address, as in `192.0.2.1:40000` or `[2001:db8::1]:40000`",
    "reason": "one word of a closed set: of a disconnection, or of a refusal",
    "error": "the name of the exception's class",
    "signal": "the name of the signal",
    "open": "connections open then",
    "count": "how many, of what the sentence is about",
    "seconds": "a time, of what the sentence is about",
    "file": "the file that is meant",
    "target": "what `ginsfsm run` was told to run",
    "worker": "the number of a worker, from 1",
    "worker_pid": "its process",
    "status": "its exit status; negative for the signal that ended it",
    "held_back": "how many records were held back by the limit per kind",
    "lost": "how many records could not be written",
}
"""The names with their meaning; documented in docs/operation.md, and a test compares the two."""

_NO_PEER: Final = object()


def about(
    gobj: GObj | None = None,
    *,
    peer: object = _NO_PEER,
    event: object = None,
    source: GObj | None = None,
    error: BaseException | None = None,
    **fields: Any,
) -> dict[str, object]:
    """The `extra` of a log call.

    Args:
        gobj: whose matter it is; gives `path`, `gclass` and `state`.
        peer: a socket's address as Python gives it; where none is given, that of the gobj or of
            the source, if one of them is a connection.
        event: an event; gives its name.
        source: the gobj that sent it; gives its path.
        error: an exception; gives the name of its class.
        fields: others of `FIELDS`; those that are None are left out.
    """
    found: dict[str, object] = {}
    if gobj is not None:
        found = {"path": gobj.path, "gclass": type(gobj).__name__, "state": gobj.state}
    if event is not None:
        found["event"] = type(event).__name__
    if source is not None:
        found["source"] = source.path
    if peer is _NO_PEER:
        peers = (one._peer_to_tell() for one in (gobj, source) if one is not None)
        peer = next((one for one in peers if one is not None), _NO_PEER)
    if peer is not _NO_PEER:
        found["peer"] = format_address(peer)
    if error is not None:
        found["error"] = type(error).__name__
    for name, value in fields.items():
        if value is not None:
            # An enumeration's word, and not its repr.
            found[name] = str(value) if isinstance(value, str) else value
    return found
