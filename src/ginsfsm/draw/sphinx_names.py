"""LinkedNames: code on a page that speaks of an event or of a state becomes a link to it.

Markdown has no default role: what stands in backquotes is code and nothing else. With
`fsm_link_code` it is a link as well, where one event or state is named in it, and documented.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from docutils import nodes
from sphinx import addnodes
from sphinx.transforms import SphinxTransform

from ginsfsm.draw.sphinx_domain import CONTEXT, name_in

if TYPE_CHECKING:
    from docutils.nodes import Node

__all__ = ["LinkedNames"]

_TAKEN = (nodes.reference, nodes.title, addnodes.pending_xref, addnodes.desc_signature)
"""What is a link already, or the place that links lead to."""


class LinkedNames(SphinxTransform):
    """Puts a link around such code, when a page has been read."""

    default_priority = 700

    def apply(self, **options: Any) -> None:
        """See `SphinxTransform`."""
        if not self.config.fsm_link_code:
            return
        for code in list(self.document.findall(nodes.literal)):
            name = name_in(code.astext())
            if name is not None and not _is_taken(code):
                link = addnodes.pending_xref(
                    "", code.deepcopy(), refdomain="fsm", reftype="name", reftarget=name,
                    refexplicit=True, refwarn=False, refdoc=self.env.current_document.docname,
                )  # fmt: skip
                link[CONTEXT] = self.env.ref_context.get(CONTEXT)
                code.replace_self(link)


def _is_taken(node: Node) -> bool:
    above = node.parent
    while above is not None:
        if isinstance(above, _TAKEN):
            return True
        above = above.parent
    return False
