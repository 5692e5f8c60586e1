"""The children that a gclass makes, and what these make, found without running it (`making`).

A `GServerSock` makes its connections itself, under its subscriber; with `session=` each of them is
the child of a session.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import Final

from ginsfsm.c_sock import GSock
from ginsfsm.c_srv_sock import GServerSock
from ginsfsm.draw.making import Making, makings_of
from ginsfsm.gobj import GObj

__all__ = ["Node", "numbered", "tree_of"]

_EACH: Final = "one for each connection"


@dataclass(frozen=True, slots=True)
class Node:
    """A gclass in the tree.

    Attributes:
        gclass: its name; or the expression that says which one it is.
        name: the name that its gobj gets, as it is written; empty for the root.
        notes: what else is known: where it is made, how many there are.
        children: what it makes.
    """

    gclass: str
    name: str
    notes: tuple[str, ...]
    children: tuple[Node, ...]

    @property
    def words(self) -> tuple[str, ...]:
        """The lines that a drawing shows."""
        return (self.gclass, *([self.name] if self.name else []), *self.notes)


def tree_of(gclass: type[GObj]) -> Node:
    """The gclass and, below it, the gclasses of the children that it makes.

    A gclass whose source cannot be read is shown without children.
    """
    return _node(gclass, "", (), (gclass,))


def numbered(root: Node) -> Iterator[tuple[Node, int | None]]:
    """The nodes from above to below; with each the number, in this order, of the one above it."""
    numbers = count()

    def below(node: Node, above: int | None) -> Iterator[tuple[Node, int | None]]:
        yield node, above
        own = next(numbers)
        for child in node.children:
            yield from below(child, own)

    yield from below(root, None)


def _node(
    gclass: type[GObj], name: str, notes: tuple[str, ...], above: tuple[type[GObj], ...]
) -> Node:
    children: list[Node] = []
    for call in makings_of(gclass):
        child = _child(call, above)
        if child not in children:
            children.append(child)
        if call.gclass is not None and issubclass(call.gclass, GServerSock):
            connection = Node(GSock.__name__, f"{call.name}.clisrv_<n>", (_EACH,), ())
            if call.session is not None:
                session = _guarded_node(call.session, f"{call.name}.session_<n>", (_EACH,), above)
                own = replace(connection, notes=())
                connection = replace(session, children=(*session.children, own))
            if connection not in children:
                children.append(connection)
    return Node(gclass.__name__, name, notes, tuple(children))


def _child(call: Making, above: tuple[type[GObj], ...]) -> Node:
    notes = []
    if call.many:
        notes.append("several")
    if call.method != "start_up":
        notes.append(f"made in {call.method}")
    if call.parent != "self":
        notes.append(f"under {call.parent}")
    if call.gclass is None:
        return Node(call.written, call.name, tuple(notes), ())
    return _guarded_node(call.gclass, call.name, tuple(notes), above)


def _guarded_node(
    gclass: type[GObj], name: str, notes: tuple[str, ...], above: tuple[type[GObj], ...]
) -> Node:
    if gclass in above:
        return Node(gclass.__name__, name, (*notes, "as above"), ())
    if issubclass(gclass, GSock):
        # What is inside the library's own sockets is no news.
        return Node(gclass.__name__, name, notes, ())
    return _node(gclass, name, notes, (*above, gclass))
