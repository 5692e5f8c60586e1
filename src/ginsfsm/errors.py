"""The errors that ginsfsm raises; all of them derive from `GinsfsmError`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "EventError",
    "GConfigError",
    "GObjError",
    "GinsfsmError",
    "MachineError",
    "StateError",
    "nearest",
]


class GinsfsmError(Exception):
    """The root of every error that ginsfsm raises on purpose."""


class GObjError(GinsfsmError):
    """A gobj could not be made, found, or used in this moment of its life."""


class MachineError(GinsfsmError):
    """The table of a gclass has faults; the class was not created. One line a fault."""


class EventError(GinsfsmError):
    """An event that its destination can never take, or a payload that does not fit it."""


class StateError(GinsfsmError):
    """A change of state that the running row does not declare."""


class GConfigError(GinsfsmError):
    """Parameters or settings that do not fit their declaration. One line a fault."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A tail for an error's sentence: the nearest known name, or the list of them.

    Args:
        name: what was given.
        known: what would have been right.

    Returns:
        ``"; did you mean 'port'?"``, or ``"; known: host, port"``, or ``"; there are none"``.
    """
    names = list(known)
    # Compared without what all events, or all states, begin with: else any two look alike.
    bare = {_bare(one): one for one in reversed(names)}
    close = difflib.get_close_matches(_bare(str(name)), bare, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {bare[close[0]]!r}?"
    return f"; known: {', '.join(names)}" if names else "; there are none"


def _bare(name: str) -> str:
    return name.removeprefix("EV_").removeprefix("ST_")
