"""A drawing in DOT, the language of Graphviz; SVG and PNG are made from it.

The letters are all of one width. Graphviz measures a text with the fonts of the machine where it
runs, and a browser elsewhere may have others: but the letters of nearly every such font are equally
wide, so that no text runs out of its box.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from html import escape
from typing import Final

from ginsfsm.draw.diagram import NEVER, Arrow, Box, Diagram, Line, printable
from ginsfsm.draw.interface import Interface, Message
from ginsfsm.draw.tree import Node, numbered

__all__ = ["interface", "machine", "tree"]

FONT: Final = "Courier New"
"""One that every Graphviz can measure: without a library of fonts it knows three by heart."""

INK, QUIET, RIM, HEAD, PAPER, ALARM = (
    "#1f2933", "#5b6773", "#8795a1", "#e3ecf7", "#ffffff", "#b42318",
)  # fmt: skip

MANY_ARROWS: Final = 100
"""With more, Graphviz is told to look less long for the best places: minutes become seconds."""

_HEAD: Final = f"""\
    bgcolor="{PAPER}"
    fontname="{FONT}"
    node [shape=plain fontname="{FONT}" fontsize=11 fontcolor="{INK}"]
    edge [fontname="{FONT}" fontsize=10 fontcolor="{INK}" color="{QUIET}" arrowsize=0.8]
"""


def machine(diagram: Diagram) -> str:
    """The machine: states as boxes with what happens in them, arrows with their rows.

    What stands at an arrow is a node of its own in the middle of it. Graphviz leads no other arrow
    through a node, while it does through a label.
    """
    settings = ["rankdir=TB", "nodesep=0.3", "ranksep=0.35", "outputorder=edgesfirst"]
    if len(diagram.arrows) > MANY_ARROWS:
        settings += ["nslimit=0.5", "nslimit1=0.5"]
    return _graph(diagram.name, settings, _machine(diagram))


def _graph(name: str, settings: Sequence[str], lines: Iterator[str]) -> str:
    body = "".join(f"    {line}\n" for line in (*settings, *lines))
    return f"digraph {_quoted(name)} {{\n{_HEAD}{body}}}\n"


def _machine(diagram: Diagram) -> Iterator[str]:
    yield f'"" [shape=circle style=filled fillcolor="{INK}" label="" width=0.16]'
    for box in diagram.states:
        yield f"{_quoted(box.name)} [label=<{_box(box)}>]"
    yield from (f'"" -> {_quoted(box.name)}' for box in diagram.states if box.initial)
    order = {box.name: number for number, box in enumerate(diagram.states)}
    for arrow in diagram.arrows:
        yield from _arrow(arrow, order)


def _arrow(arrow: Arrow, order: Mapping[str, int]) -> Iterator[str]:
    """The arrow through its label."""
    label = _quoted(_name(arrow, order))
    source, target, stroke = _quoted(arrow.source), _quoted(arrow.target), _stroke(arrow)
    yield f"{label} [label=<{_label(arrow)}>]"
    if order[arrow.source] > order[arrow.target]:
        # Graphviz is given an arrow back the other way round: the picture keeps the table's order.
        yield f"{target} -> {label} [dir=back{stroke}]"
        yield f"{label} -> {source} [dir=none{stroke}]"
    else:
        yield f"{source} -> {label} [dir=none{stroke}]"
        yield f"{label} -> {target} [dir=forward{stroke}]"


def _name(arrow: Arrow, states: Container[str]) -> str:
    """The name of the node with the rows, which an SVG shows under the mouse."""
    name = f"{arrow.source} to {arrow.target}"
    name += " (may)" * (arrow.kind == "may") + f" ({NEVER})" * arrow.never_fired
    while name in states:
        name += " "
    return name


def _stroke(arrow: Arrow) -> str:
    if arrow.never_fired:
        return f' style=dashed color="{ALARM}"'
    return " style=dotted penwidth=1.5" if arrow.kind == "may" else ""


def _box(box: Box) -> str:
    rim = ALARM if box.never_fired else INK if box.initial else RIM
    name = f'<FONT POINT-SIZE="12"><B>{_text(box.name)}</B></FONT>'
    rows = [f'<TR><TD BGCOLOR="{HEAD}" CELLPADDING="6">{name}</TD></TR>']
    if box.lines:
        lines = "".join(f'<TR><TD ALIGN="LEFT">{_line(line)}</TD></TR>' for line in box.lines)
        rows.append(
            '<HR/><TR><TD CELLPADDING="3">'
            f'<TABLE BORDER="0" CELLSPACING="0" CELLPADDING="2">{lines}</TABLE></TD></TR>'
        )
    style = ' STYLE="dashed"' if box.never_fired else ""
    return (
        f'<TABLE BORDER="{2 if box.initial else 1}" CELLBORDER="0" CELLSPACING="0" '
        f'COLOR="{rim}" BGCOLOR="{PAPER}"{style}>{"".join(rows)}</TABLE>'
    )


def _label(arrow: Arrow) -> str:
    rows = "".join(
        f'<TR><TD ALIGN="LEFT">{_line(line, "may: " * (arrow.kind == "may"))}</TD></TR>'
        for line in arrow.lines
    )
    return f'<TABLE BORDER="0" CELLSPACING="0" CELLPADDING="1" BGCOLOR="{PAPER}">{rows}</TABLE>'


def _line(line: Line, before: str = "") -> str:
    """Trigger, guard and action; the red slant of one that never fired."""
    trigger = _text(before + line.trigger)
    # What is in another colour begins with a space that no browser leaves out.
    rest = f"&#160;[{_text(line.guard)}]" if line.guard else ""
    rest += f"&#160;/ {_text(line.action)}" if line.action else ""
    if line.never_fired:
        return f'<FONT COLOR="{ALARM}"><I>{trigger}{rest}</I></FONT>'
    return f'{trigger}<FONT COLOR="{QUIET}">{rest}</FONT>' if rest else trigger


def interface(of: Interface) -> str:
    """The gclass as a box, its input events on the left, its output events on the right."""
    settings = ["rankdir=LR", "nodesep=0", "ranksep=0.5", "splines=line"]
    return _graph(of.name, settings, _interface(of))


ROW_HEIGHT: Final = 26
"""Points. All three columns have as many rows of this height, so that the arrows are level."""


def _interface(of: Interface) -> Iterator[str]:
    rows = max(len(of.inputs), len(of.outputs), 1)
    yield f"gclass [label=<{_gclass(of, rows)}>]"
    yield f"inputs [label=<{_column(of.inputs, rows, 'RIGHT')}>]"
    yield f"outputs [label=<{_column(of.outputs, rows, 'LEFT')}>]"
    # Also where one side has no events: the box stays between the two.
    yield "inputs -> gclass -> outputs [style=invis]"
    for number in range(_first(of.inputs, rows), _first(of.inputs, rows) + len(of.inputs)):
        yield f"inputs:r{number}:e -> gclass:l{number}:w"
    for number in range(_first(of.outputs, rows), _first(of.outputs, rows) + len(of.outputs)):
        yield f"gclass:r{number}:e -> outputs:l{number}:w"


def _first(messages: Sequence[Message], rows: int) -> int:
    """The row of the first event of the shorter column, which stands in the middle."""
    return (rows - len(messages)) // 2


def _gclass(of: Interface, rows: int) -> str:
    name = f'<FONT POINT-SIZE="14"><B>{_text(of.name)}</B></FONT>'
    cells = []
    for number in range(rows):
        middle = f'<TD ROWSPAN="{rows}" CELLPADDING="8">{name}</TD>' if not number else ""
        side = f'<TD WIDTH="12" HEIGHT="{ROW_HEIGHT}"'
        cells.append(f'<TR>{side} PORT="l{number}"></TD>{middle}{side} PORT="r{number}"></TD></TR>')
    return (
        f'<TABLE BORDER="2" CELLBORDER="0" CELLSPACING="0" CELLPADDING="0" COLOR="{INK}" '
        f'BGCOLOR="{HEAD}">{"".join(cells)}</TABLE>'
    )


def _column(messages: Sequence[Message], rows: int, align: str) -> str:
    first = _first(messages, rows)
    cells = []
    for number in range(rows):
        at = number - first
        words = _message(messages[at]) if 0 <= at < len(messages) else ""
        cells.append(
            f'<TR><TD ALIGN="{align}" HEIGHT="{ROW_HEIGHT}" CELLPADDING="5" '
            f'PORT="{"r" if align == "RIGHT" else "l"}{number}">{words}</TD></TR>'
        )
    return (
        f'<TABLE BORDER="0" CELLBORDER="0" CELLSPACING="0" CELLPADDING="0">{"".join(cells)}</TABLE>'
    )


def _message(one: Message) -> str:
    payload = _text(one.signature.removeprefix(one.name))
    # Never empty: a line in two colours stands a little higher than one in one.
    return f'{_text(one.name)}<FONT COLOR="{QUIET}">{payload} </FONT>'


def tree(root: Node) -> str:
    """The gclass above the children that it makes."""
    return _graph(root.gclass, ["rankdir=TB", "nodesep=0.35", "ranksep=0.5"], _tree(root))


def _tree(root: Node) -> Iterator[str]:
    for number, (node, above) in enumerate(numbered(root)):
        head, *rest = node.words
        words = f"<B>{_text(head)}</B>" + "".join(
            f'<BR/><FONT COLOR="{QUIET}" POINT-SIZE="10">{_text(one)}</FONT>' for one in rest
        )
        yield (
            f"n{number} [shape=box style=filled fillcolor={_quoted(HEAD)} color={_quoted(RIM)} "
            f"margin=0.15 label=<{words}>]"
        )
        if above is not None:
            yield f"n{above} -> n{number} [arrowhead=none]"


def _quoted(text: str) -> str:
    # The name of a node stands in the SVG, where XML forbids some characters.
    text = "".join(one if one.isprintable() else f"<{ord(one):x}>" for one in text)
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _text(text: str) -> str:
    return escape(printable(text))
