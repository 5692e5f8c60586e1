"""draw: a gclass in one of the forms that a drawing can have.

Three things can be drawn of a gclass, the *views*: its machine; its interface, that is a box with
the events that go in and those that come out; and the tree of the children that it makes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final, Literal, TypeAlias, overload

from ginsfsm.draw import dot, interface, markdown, mermaid, text, tree
from ginsfsm.draw.diagram import diagram_of
from ginsfsm.draw.graphviz import render
from ginsfsm.errors import nearest
from ginsfsm.gobj import GObj

__all__ = ["FORMATS", "VIEWS", "Format", "TextFormat", "View", "draw", "draw_as_text"]

TextFormat: TypeAlias = Literal["mermaid", "dot", "svg", "md", "text"]
Format: TypeAlias = TextFormat | Literal["png"]
View: TypeAlias = Literal["machine", "interface", "tree"]

FORMATS: Final[tuple[Format, ...]] = ("mermaid", "dot", "svg", "png", "md", "text")
"""The forms of a drawing. SVG and PNG need Graphviz."""

VIEWS: Final[tuple[View, ...]] = ("machine", "interface", "tree")
"""What can be drawn of a gclass."""

_Draw: TypeAlias = Callable[[type[GObj], Collection[object] | None], str]

_WRITERS: Final[dict[tuple[str, str], _Draw]] = {
    ("machine", "mermaid"): lambda cls, fired: mermaid.machine(diagram_of(cls, fired)),
    ("machine", "dot"): lambda cls, fired: dot.machine(diagram_of(cls, fired)),
    ("machine", "md"): lambda cls, fired: markdown.machine(diagram_of(cls, fired)),
    ("machine", "text"): lambda cls, fired: text.machine(diagram_of(cls, fired)),
    ("interface", "mermaid"): lambda cls, _: mermaid.interface(interface.interface_of(cls)),
    ("interface", "dot"): lambda cls, _: dot.interface(interface.interface_of(cls)),
    ("interface", "md"): lambda cls, _: markdown.interface(interface.interface_of(cls)),
    ("interface", "text"): lambda cls, _: text.interface(interface.interface_of(cls)),
    ("tree", "mermaid"): lambda cls, _: mermaid.tree(tree.tree_of(cls)),
    ("tree", "dot"): lambda cls, _: dot.tree(tree.tree_of(cls)),
    ("tree", "md"): lambda cls, _: markdown.tree(tree.tree_of(cls)),
    ("tree", "text"): lambda cls, _: text.tree(tree.tree_of(cls)),
}


@overload
def draw(
    cls: type[GObj],
    format: TextFormat,
    *,
    fired: Collection[object] | None = None,
    view: View = "machine",
) -> str: ...
@overload
def draw(
    cls: type[GObj],
    format: Literal["png"],
    *,
    fired: Collection[object] | None = None,
    view: View = "machine",
) -> bytes: ...
@overload
def draw(
    cls: type[GObj],
    format: str,
    *,
    fired: Collection[object] | None = None,
    view: str = "machine",
) -> str | bytes: ...
def draw(
    cls: type[GObj],
    format: str,
    *,
    fired: Collection[object] | None = None,
    view: str = "machine",
) -> str | bytes:
    """Draw a gclass.

    Args:
        cls: the gclass.
        format: `"mermaid"`, `"dot"` (Graphviz), `"svg"`, `"png"`, `"md"` (a Markdown table) or
            `"text"` (a picture for a terminal, 80 columns wide).
        fired: the rows of the table that fired, each as the `Row` itself, as `(file, line)` or as
            `(state, Row)`. The others are then drawn dashed, or marked "never fired". None draws
            all alike. It concerns the machine only.
        view: `"machine"`, `"interface"` (the events that go in and that come out) or `"tree"` (the
            children that it makes).

    Returns:
        The text; the bytes of the picture for `"png"`.

    Raises:
        ValueError: no gclass, an unknown format or view, or a `fired` that is something else.
        GraphvizError: for `"svg"` and `"png"`, where Graphviz is missing, or fails.
    """
    if not (isinstance(cls, type) and issubclass(cls, GObj)):
        raise ValueError(f"draw: expected a gclass, derived from GObj, got {cls!r}")
    if format not in FORMATS:
        raise ValueError(f"{format!r} is no format of a drawing{nearest(format, FORMATS)}")
    if view not in VIEWS:
        raise ValueError(f"{view!r} is nothing that can be drawn{nearest(view, VIEWS)}")
    if format in ("svg", "png"):
        picture = render(_WRITERS[view, "dot"](cls, fired), "svg" if format == "svg" else "png")
        return picture.decode() if format == "svg" else picture
    return _WRITERS[view, format](cls, fired)


def draw_as_text(cls: type, format: str) -> str:
    """The machine of a gclass as `format(cls, ...)` gives it.

    Raises:
        ValueError: an unknown format, or `"png"`, which is no text.
        GraphvizError: for `"svg"`, where Graphviz is missing, or fails.
    """
    texts = [one for one in FORMATS if one != "png"]
    if format == "png":
        raise ValueError(
            f"format({cls.__name__}, 'png'): a picture is no text; its bytes are "
            f"ginsfsm.draw.draw({cls.__name__}, 'png')"
        )
    if format not in texts:
        raise ValueError(
            f"format({cls.__name__}, {format!r}): expected a format of a drawing"
            f"{nearest(format, texts)}"
        )
    return str(draw(cls, format))
