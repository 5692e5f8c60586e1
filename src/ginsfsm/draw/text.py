"""A drawing for a terminal: 80 columns, boxes under one another, and rails that join them.

Each state is a box with its rows in the order of the table. A row that goes to another state names
it at its right end. Where there is room a rail at the right side leads from there to the box: every
state has one rail for all that goes to it. A wide machine does without rails, and a line that is
too long even then is broken.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final
from unicodedata import east_asian_width

from ginsfsm.draw.diagram import NEVER, Box, Diagram, Line, printable, summary
from ginsfsm.draw.interface import Interface, Message
from ginsfsm.draw.rails import MOST_RAILS, Stop, rails_beside
from ginsfsm.draw.tree import Node

__all__ = ["WIDTH", "in_ascii", "interface", "machine", "tree"]

WIDTH: Final = 80
"""Columns of the terminal that every picture fits."""

INDENT: Final = 4

_ASCII: Final = str.maketrans("┌┐└┘├┤┬┴┼─│◀▶▼●", "+++++++++-|<>v*")

_FILLER: Final = "\uffff"
"""Follows a letter that takes two columns while lines are laid out, so that `len` counts columns.
It is no character, and no text has it."""


def in_ascii(text: str) -> str:
    """The picture for a terminal that has only ASCII."""
    return _by_columns(text).translate(_ASCII).encode("ascii", "replace").decode()


def _by_columns(text: str) -> str:
    if text.isascii():
        return text
    return "".join(one + _FILLER if east_asian_width(one) in "WF" else one for one in text)


def _wrapped(text: str, width: int = WIDTH, first: str = "", others: str = "") -> list[str]:
    """The text in lines that are no wider, with what each of them begins with."""
    padded = _by_columns(text.replace(_FILLER, ""))
    # A letter of two columns may come to stand across the end of a line, and belongs to it then.
    room = width - (_FILLER in padded)
    lines = textwrap.wrap(padded, room, initial_indent=first, subsequent_indent=others)
    return [_by_columns(line.replace(_FILLER, "")) for line in lines]


def _cut(text: str, width: int) -> str:
    return text[: width - (text[width : width + 1] == _FILLER)]


def _laid_out(line: Line) -> Line:
    return replace(
        line,
        trigger=_by_columns(line.trigger),
        guard=_by_columns(line.guard),
        action=_by_columns(line.action),
        target=None if line.target is None else _by_columns(line.target),
        may=tuple(map(_by_columns, line.may)),
    )


@dataclass(frozen=True, slots=True)
class _Cell:
    """One line inside a box: its words on the left, and where it goes."""

    words: str
    target: str | None


_Layout = Callable[[Line, int], list[_Cell]]


def machine(diagram: Diagram) -> str:
    """The machine, one box under the other."""
    diagram = replace(
        diagram,
        states=tuple(
            replace(box, name=_by_columns(box.name), rows=tuple(map(_laid_out, box.rows)))
            for box in diagram.states
        ),
    )
    targets = {arrow.target for arrow in diagram.arrows}
    columns = _Columns(diagram)
    room = WIDTH - 2 - 2 * len(targets) if 0 < len(targets) <= MOST_RAILS else 0
    for layout in (columns.aligned, columns.running):
        for width, rails in ((room, True), (WIDTH, False)):
            needed = _needed(diagram, layout)
            if needed <= width:
                return _picture(diagram, layout, needed, rails)
    return _picture(diagram, columns.broken, WIDTH, False)


class _Columns:
    """How the words of a row stand in a line."""

    def __init__(self, diagram: Diagram) -> None:
        lines = list(diagram.lines)
        self.trigger = max((len(line.trigger) for line in lines), default=0)
        self.guard = max((len(_guard(line)) for line in lines), default=0)

    def aligned(self, line: Line, _width: int) -> list[_Cell]:
        """Event, guard and action in columns of their own."""
        words = f"{line.trigger:{self.trigger}}  "
        if self.guard:
            words += f"{_guard(line):{self.guard}}  "
        return _cells(line, f"{words}{_action(line)}".rstrip())

    def running(self, line: Line, _width: int) -> list[_Cell]:
        """One after the other."""
        return _cells(line, " ".join(filter(None, (line.trigger, _guard(line), _action(line)))))

    def broken(self, line: Line, width: int) -> list[_Cell]:
        """Likewise, in as many lines as it takes."""
        return [part for cell in self.running(line, width) for part in _broken(cell, width)]


def _guard(line: Line) -> str:
    return f"[{line.guard}]" if line.guard else ""


def _action(line: Line) -> str:
    # No line ends with the stroke; `printable` makes a space of this one.
    words = f"/\u00a0{line.action}" if line.action else ""
    return f"{words} ({NEVER})".lstrip() if line.never_fired else words


def _cells(line: Line, words: str) -> list[_Cell]:
    further = [_Cell(f"{' ' * INDENT}may", name) for name in line.may]
    return [_Cell(words, line.target), *further]


def _broken(cell: _Cell, width: int) -> Iterator[_Cell]:
    parts = _wrapped(cell.words, width, others=" " * INDENT)
    yield from (_Cell(part, None) for part in parts[:-1])
    if len(parts[-1]) + _arrow_length(cell) <= width:
        yield _Cell(parts[-1], cell.target)
        return
    yield _Cell(parts[-1], None)
    yield _Cell("", cell.target)


def _arrow_length(cell: _Cell) -> int:
    return 0 if cell.target is None else len(cell.target) + 5


def _needed(diagram: Diagram, layout: _Layout) -> int:
    """The width of the widest box."""
    inside = [
        len(cell.words) + _arrow_length(cell)
        for line in diagram.lines
        for cell in layout(line, WIDTH)
    ]
    return 4 + max([*inside, *(len(box.name) + 2 for box in diagram.states)])


def _picture(diagram: Diagram, layout: _Layout, width: int, rails: bool) -> str:
    lines: list[str] = []
    arrivals: dict[str, int] = {}
    stops: list[Stop] = []
    for box in diagram.states:
        if box.initial:
            lines.append("  ●")
        arrivals[box.name] = len(lines)
        lines.append(_top(box, width))
        for row in box.rows:
            for cell in layout(row, width - 4):
                if cell.target is not None:
                    stops.append(Stop(len(lines), cell.target))
                lines.append(f"│ {_inside(cell, width - 4)} │")
        lines.append(f"└{'─' * (width - 2)}┘")
    if rails:
        beside = rails_beside(len(lines), arrivals, stops)
        lines = [f"{line:{width}}{rail}".rstrip() for line, rail in zip(lines, beside, strict=True)]
    return _joined((*_heading(diagram), *lines))


def _top(box: Box, width: int) -> str:
    name = box.name if len(box.name) <= width - 6 else f"{_cut(box.name, width - 9)}..."
    # The mark of the initial state leads into its box.
    left = "┌─▼" if box.initial else "┌──"
    return f"{left} {name} ".ljust(width - 1, "─") + "┐"


def _inside(cell: _Cell, width: int) -> str:
    if cell.target is None:
        return cell.words.ljust(width)
    room = width - len(cell.target) - 3
    if room < 0:
        return _cut(f"▶ {cell.target}", width - 3).ljust(width - 3) + "..."
    return f"{cell.words.ljust(room)} ▶ {cell.target}"


def _heading(diagram: Diagram) -> list[str]:
    says = summary(diagram.gclass)
    text = f"{diagram.name}: {says}" if says else diagram.name
    return [*_wrapped(text), ""]


def interface(of: Interface) -> str:
    """The gclass as a box, its input events on the left, its output events on the right."""
    name = _by_columns(of.name)
    for word in ("signature", "name"):
        inputs = [_by_columns(getattr(one, word)) for one in of.inputs]
        outputs = [_by_columns(getattr(one, word)) for one in of.outputs]
        left = max(map(len, inputs), default=0)
        right = max(map(len, outputs), default=0)
        if left + right + len(name) + 14 <= WIDTH:
            return _box_between(name, inputs, outputs, left)
    return _listed(of)


def _box_between(name: str, inputs: Sequence[str], outputs: Sequence[str], left: int) -> str:
    rows = max(len(inputs), len(outputs), 1)
    width = len(name) + 4
    margin = " " * (left + 4)
    lines = [f"{margin}┌{'─' * width}┐"]
    for number, (before, after) in enumerate(
        zip(_centred(inputs, rows), _centred(outputs, rows), strict=True)
    ):
        middle = name if number == (rows - 1) // 2 else ""
        entry = f"{before:>{left}} ──▶│" if before else f"{margin}│"
        leaving = f"├──▶ {after}" if after else "│"
        lines.append(f"{entry}{middle:^{width}}{leaving}")
    return _joined((*lines, f"{margin}└{'─' * width}┘"))


def _centred(words: Sequence[str], rows: int) -> list[str]:
    above = (rows - len(words)) // 2
    return [""] * above + [*words] + [""] * (rows - len(words) - above)


def _listed(of: Interface) -> str:
    """One column, for names that do not fit side by side."""
    lines = [of.name]
    for title, arrow, messages in (("takes", "──▶ ", of.inputs), ("tells", "◀── ", of.outputs)):
        lines += ["", f"  {title}", *_signatures(arrow, messages)]
    return _joined(lines)


def _signatures(arrow: str, messages: Sequence[Message]) -> Iterator[str]:
    for one in messages:
        yield from _wrapped(one.signature, first=f"  {arrow}", others=" " * 10)


def tree(root: Node) -> str:
    """The gclass and, below it, the children that it makes."""
    return _joined(_tree(root, "", ""))


def _tree(node: Node, first: str, others: str) -> Iterator[str]:
    words = _by_columns(f"{node.name}  {node.gclass}" if node.name else node.gclass)
    notes = f"  ({', '.join(node.notes)})" if node.notes else ""
    if len(first + words + notes) <= WIDTH:
        yield f"{first}{words}{notes}"
    else:
        yield _cut(f"{first}{words}", WIDTH)
        yield from _wrapped(notes.strip(), first=f"{others}    ", others=f"{others}    ")
    for child in node.children:
        last = child is node.children[-1]
        yield from _tree(
            child,
            others + ("└── " if last else "├── "),
            others + ("    " if last else "│   "),
        )


def _joined(lines: Iterable[str]) -> str:
    """The lines, without what a terminal would take for a command or for the end of a line."""
    return "".join(f"{printable(line.replace(_FILLER, ''))}\n" for line in lines)
