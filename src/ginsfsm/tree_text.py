"""The tree as text: what there is in a gaplic at this moment, and in which state.

A gobj is a line, and those below it are indented. Where many siblings are of one gclass, as with
connections, the first are shown and the others counted by their states, so that a server with ten
thousand clients is still a page::

    app GAplic
      echo Echo ST_IDLE
        server GServerSock ST_LISTENING
        server.clisrv_1 GSock ST_CONNECTED
        ... and 9999 more GSock: 9990 ST_CONNECTED, 9 ST_CLOSING
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from ginsfsm.gobj import GObj

__all__ = ["tree_text"]

SHOWN = 20
"""Siblings of one gclass that get a line each."""


def tree_text(root: GObj) -> str:
    """The gobj and all below it, a line each; names and states only, nothing that a peer sent."""
    return "\n".join(_lines(root, 0))


def _lines(root: GObj, depth: int) -> Iterator[str]:
    # A stack and not recursion: a tree may be deeper than Python's limit.
    todo: list[tuple[int, GObj | str]] = [(depth, root)]
    while todo:
        depth, one = todo.pop()
        indent = "  " * depth
        if isinstance(one, str):
            yield indent + one
            continue
        kept = one._postponed
        waits = f", {len(kept)} postponed" if kept is not None and len(kept) else ""
        yield f"{indent}{one.name} {type(one).__name__} {one.state}{waits}"
        todo.extend((depth + 1, below) for below in reversed(_shown(one)))


def _shown(parent: GObj) -> list[GObj | str]:
    found: list[GObj | str] = []
    seen: Counter[type[GObj]] = Counter()
    more: dict[type[GObj], Counter[str]] = {}
    for child in parent.children.values():
        gclass = type(child)
        seen[gclass] += 1
        if seen[gclass] <= SHOWN:
            found.append(child)
        else:
            more.setdefault(gclass, Counter())[child.state] += 1
    for gclass, states in more.items():
        told = ", ".join(f"{count} {state}" for state, count in states.most_common())
        found.append(f"... and {states.total()} more {gclass.__name__}: {told}")
    return found
