"""A drawing as Mermaid, which GitHub, GitLab and many editors show as a picture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ginsfsm.draw.diagram import NEVER, Arrow, Diagram, Line
from ginsfsm.draw.interface import Interface
from ginsfsm.draw.tree import Node, numbered

__all__ = ["interface", "machine", "tree"]

_PLAIN: Final = frozenset(" .,_-+*/()[]=!?")


def machine(diagram: Diagram) -> str:
    """The machine as a `stateDiagram-v2`."""
    ids = {box.name: f"s{number}" for number, box in enumerate(diagram.states)}
    return "\n".join(("stateDiagram-v2", *_machine(diagram, ids), ""))


def _machine(diagram: Diagram, ids: dict[str, str]) -> Iterator[str]:
    for box in diagram.states:
        yield f'    state "{_escaped(box.name)}" as {ids[box.name]}'
    yield from (f"    [*] --> {ids[box.name]}" for box in diagram.states if box.initial)
    for box in diagram.states:
        for line in box.lines:
            yield f"    {ids[box.name]} : {_line(line)}"
    for arrow in diagram.arrows:
        yield f"    {ids[arrow.source]} --> {ids[arrow.target]} : {_label(arrow)}"
    silent = [box for box in diagram.states if box.never_fired]
    if silent:
        yield "    classDef never stroke-dasharray: 4 3"
        yield f"    class {','.join(ids[box.name] for box in silent)} never"


def _label(arrow: Arrow) -> str:
    may = "(may) " if arrow.kind == "may" else ""
    return "<br/>".join(may + _line(line) for line in arrow.lines)


def _line(line: Line) -> str:
    never = f" ({NEVER})" if line.never_fired else ""
    return _escaped(line.text + never)


def interface(of: Interface) -> str:
    """The gclass between its events, as a `flowchart`."""
    lines = ["flowchart LR", f'    gclass["{_escaped(of.name)}"]']
    for number, one in enumerate(of.inputs):
        lines.append(f'    in{number}(["{_escaped(one.signature)}"]) --> gclass')
    for number, one in enumerate(of.outputs):
        lines.append(f'    gclass --> out{number}(["{_escaped(one.signature)}"])')
    return "\n".join((*lines, ""))


def tree(root: Node) -> str:
    """The gclass and the children that it makes, as a `flowchart`."""
    lines = ["flowchart TD"]
    for number, (node, above) in enumerate(numbered(root)):
        words = "<br/>".join(_escaped(one) for one in node.words)
        lines.append(f'    n{number}["{words}"]')
        if above is not None:
            lines.append(f"    n{above} --> n{number}")
    return "\n".join((*lines, ""))


def _escaped(text: str) -> str:
    """A text in which nothing means something to Mermaid: the rest as its numbered characters."""
    return "".join(one if one.isalnum() or one in _PLAIN else f"#{ord(one)};" for one in text)
