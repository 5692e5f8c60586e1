"""FsmDomain: where gclasses, events, states and parameters are documented, and links to there.

An event may be told of in many places: by the gclass that exports it, and by every other one that
sends or takes it. A link goes to the first, its home, where that is documented; else to the place
that is first by name, so that the order in which pages are read does not matter.

What a link names may leave out the front of the whole name: `GServerSock.port`, `EV_CONNECTED`,
`ST_LISTENING`. A state or a parameter without a gclass belongs to the gclass that was documented
last on the page.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, cast

from docutils import nodes
from sphinx.domains import Domain, ObjType
from sphinx.roles import XRefRole
from sphinx.util import logging
from sphinx.util.nodes import make_refnode

if TYPE_CHECKING:
    from docutils.nodes import Element, Node
    from sphinx.addnodes import pending_xref
    from sphinx.builders import Builder
    from sphinx.environment import BuildEnvironment

__all__ = ["CONTEXT", "FsmDomain", "Place", "name_in"]

logger: Final = logging.getLogger(__name__)

CONTEXT: Final = "fsm:gclass"
"""The key under which Sphinx keeps the gclass that the page speaks of."""


_NAME: Final = re.compile(r"(?<!\w)(?:\w+\.)*_?(?:EV|ST)_\w+")


def name_in(code: str) -> str | None:
    """The one event or state that a piece of code speaks of: `EV_DROP` of `EV_DROP(abort=True)`.

    None, where there is none, or several; and where it is markup that shows how to make a link.
    """
    found = set() if "`" in code else set(_NAME.findall(code))
    return found.pop() if len(found) == 1 else None


class Place(NamedTuple):
    """Where something is documented.

    Attributes:
        docname: the page.
        node_id: the anchor on it.
        home: whether this is the place that a link should go to, if there are several.
    """

    docname: str
    node_id: str
    home: bool


class FsmRole(XRefRole):
    """A link into the domain: `` :fsm:event:`EV_CONNECTED` ``."""

    def process_link(
        self,
        env: BuildEnvironment,
        refnode: Element,
        has_explicit_title: bool,
        title: str,
        target: str,
    ) -> tuple[str, str]:
        """See `XRefRole`; a tilde before the name shows its last part alone."""
        refnode[CONTEXT] = env.ref_context.get(CONTEXT)
        if not has_explicit_title and title.startswith("~"):
            title = title[1:].rpartition(".")[2]
        return title, target.lstrip("~")


class NameRole(FsmRole):
    """What stands in backquotes in a docstring: a link where it is known, else code."""

    def process_link(
        self,
        env: BuildEnvironment,
        refnode: Element,
        has_explicit_title: bool,
        title: str,
        target: str,
    ) -> tuple[str, str]:
        """See `XRefRole`; of `EV_DROP(abort=True)` the event is meant."""
        title, target = super().process_link(env, refnode, has_explicit_title, title, target)
        return title, name_in(target) or target


class FsmDomain(Domain):
    """Gclasses, their events, states and parameters."""

    name = "fsm"
    label = "Finite state machines"
    object_types: ClassVar[dict[str, ObjType]] = {
        kind: ObjType(kind, kind, "name") for kind in ("gclass", "event", "state", "param")
    }
    roles = {
        **{kind: FsmRole(warn_dangling=True) for kind in object_types},
        "name": NameRole(),
    }
    initial_data: ClassVar[dict[str, Any]] = {"places": {}}
    data_version = 1

    @property
    def places(self) -> dict[tuple[str, str], list[Place]]:
        """For each kind and whole name, where it is documented."""
        return cast("dict[tuple[str, str], list[Place]]", self.data["places"])

    def note(self, kind: str, name: str, node_id: str, *, home: bool) -> None:
        """Something is documented here, on the page that is being read."""
        place = Place(self.env.current_document.docname, node_id, home)
        self.places.setdefault((kind, name), []).append(place)

    # -- what Sphinx asks of a domain --------------------------------------------------------------

    def clear_doc(self, docname: str) -> None:
        """Forget a page."""
        for key, places in list(self.places.items()):
            places[:] = [one for one in places if one.docname != docname]
            if not places:
                del self.places[key]

    def merge_domaindata(self, docnames: Iterable[str], otherdata: dict[str, Any]) -> None:
        """Take over what another process has read."""
        pages = set(docnames)
        for key, places in otherdata["places"].items():
            new = [Place(*one) for one in places if one[0] in pages]
            if new:
                self.places.setdefault(key, []).extend(new)

    def resolve_xref(
        self,
        env: BuildEnvironment,
        fromdocname: str,
        builder: Builder,
        typ: str,
        target: str,
        node: pending_xref,
        contnode: Element,
    ) -> nodes.reference | None:
        """The link that a role means; None where nothing of that name is documented."""
        kinds = self.object_types if typ == "name" else (typ,)
        found = [key for kind in kinds for key in self.find(kind, target, node.get(CONTEXT))]
        if not found:
            return None
        if len(found) > 1 and typ != "name":
            names = ", ".join(name for _, name in found)
            logger.warning(
                "%s %r may be any of %s; write more of its name",
                typ, target, names, type="ref", subtype="fsm", location=node,
            )  # fmt: skip
        return self._link(builder, fromdocname, found[0], contnode)

    def resolve_any_xref(
        self,
        env: BuildEnvironment,
        fromdocname: str,
        builder: Builder,
        target: str,
        node: pending_xref,
        contnode: Element,
    ) -> list[tuple[str, nodes.reference]]:
        """The links that a role which takes any kind may mean."""
        return [
            (f"fsm:{key[0]}", self._link(builder, fromdocname, key, contnode))
            for kind in self.object_types
            for key in self.find(kind, target, node.get(CONTEXT))
        ]

    def get_objects(self) -> Iterator[tuple[str, str, str, str, str, int]]:
        """What the search and other projects can find."""
        for (kind, name), places in self.places.items():
            place = _best(places)
            yield name, name, kind, place.docname, place.node_id, 1

    # -- finding -----------------------------------------------------------------------------------

    def find(self, kind: str, target: str, context: str | None) -> list[tuple[str, str]]:
        """The keys of what a name may mean; that of the page's own gclass alone, if there is one.

        Args:
            kind: `"gclass"`, `"event"`, `"state"` or `"param"`.
            target: a name, or the end of one, from a dot on.
            context: the gclass that the page speaks of.
        """
        for exact in (target, f"{context}.{target}"):
            if (kind, exact) in self.places:
                return [(kind, exact)]
        if kind in ("state", "param") and "." not in target:
            return []
        return sorted(
            key for key in self.places if key[0] == kind and key[1].endswith(f".{target}")
        )

    def _link(
        self, builder: Builder, fromdocname: str, key: tuple[str, str], content: Node
    ) -> nodes.reference:
        place = _best(self.places[key])
        return make_refnode(
            builder, fromdocname, place.docname, place.node_id, content, f"{key[0]} {key[1]}"
        )


def _best(places: list[Place]) -> Place:
    return min(places, key=lambda one: (not one.home, one.docname, one.node_id))
