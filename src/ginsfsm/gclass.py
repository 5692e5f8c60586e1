"""GClass: the class of all gclasses, by which `format(Door, "mermaid")` draws one.

It is the one place of the core that knows a wing: the drawing is imported when somebody asks for
one. Nothing else goes through here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from abc import ABCMeta
else:
    # The class of all protocols, which derives from ABCMeta and has no public name.
    ABCMeta = type(Protocol)

__all__ = ["GClass"]


class GClass(ABCMeta):
    """What every gclass is an instance of.

    It derives from the class of the abstract classes, and from that of the protocols, so that a
    gclass may also derive from one of these, which it could not with another metaclass.
    """

    # Those of `ABCMeta` look for classes that were registered. It makes `isinstance(x, GObj)` four
    # times slower, and a gclass is something to derive from.
    __instancecheck__ = type.__instancecheck__
    __subclasscheck__ = type.__subclasscheck__

    def __format__(cls, spec: str) -> str:  # noqa: N805
        """The gclass, drawn.

        Args:
            spec: `"mermaid"`, `"dot"`, `"svg"`, `"md"` or `"text"`; empty is `str(cls)`.

        Raises:
            ValueError: an unknown format, or `"png"`, which is no text.
            GraphvizError: for `"svg"`, where Graphviz is missing.
        """
        if not spec:
            return str(cls)
        from ginsfsm.draw import draw_as_text

        return draw_as_text(cls, spec)
