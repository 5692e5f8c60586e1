"""A drawing as Markdown: the table of transitions, the events, the tree as a list."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from ginsfsm.draw.diagram import NEVER, Diagram, Line, printable
from ginsfsm.draw.interface import Interface, Message
from ginsfsm.draw.tree import Node

__all__ = ["interface", "machine", "tree"]


def machine(diagram: Diagram) -> str:
    """The table of transitions, a row for each row of the machine."""
    titles = ["State", "Event", "Guard", "Action", "Next state"]
    return _table([*titles, *(["Fired"] if diagram.counted else [])], _rows(diagram))


def _rows(diagram: Diagram) -> Iterator[list[str]]:
    for box in diagram.states:
        state = f"{_code(box.name)} (initial)" if box.initial else _code(box.name)
        for line in box.rows:
            fired = [NEVER if line.never_fired else "yes"] if diagram.counted else []
            yield [
                state,
                _trigger(line),
                _code(line.guard),
                _code(line.action),
                _next(line),
                *fired,
            ]
            # A state is named once, at its first row.
            state = ""
        if not box.rows:
            yield [state, *[""] * (5 if diagram.counted else 4)]


def _trigger(line: Line) -> str:
    return _code(line.trigger) if line.row.kind == "on" else _plain(line.trigger)


def _next(line: Line) -> str:
    words = [] if line.target is None else [_code(line.target)]
    return ", ".join([*words, *(f"may: {_code(one)}" for one in line.may)])


def interface(of: Interface) -> str:
    """The input events and the output events, each with its fields."""
    return (
        f"**Input events of {_code(of.name)}**\n\n"
        + _events(of.inputs)
        + f"\n**Output events of {_code(of.name)}**\n\n"
        + _events(of.outputs)
    )


def _events(messages: Sequence[Message]) -> str:
    if not messages:
        return "None.\n"
    return _table(
        ["Event", "Fields", "Description"],
        (
            [
                _code(one.name),
                "<br>".join(_code(str(field)) for field in one.fields),
                _plain(one.description),
            ]
            for one in messages
        ),
    )


def tree(root: Node) -> str:
    """The gclass and the children that it makes, as a nested list."""
    return "\n".join((*_tree(root, 0), ""))


def _tree(node: Node, depth: int) -> Iterator[str]:
    name = f" {_code(node.name)}" if node.name else ""
    notes = f" ({_plain(', '.join(node.notes))})" if node.notes else ""
    yield f"{'  ' * depth}- {_code(node.gclass)}{name}{notes}"
    for child in node.children:
        yield from _tree(child, depth + 1)


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "".join(
        f"|{'|'.join(f' {one} ' if one else ' ' for one in cells)}|\n" for cells in lines
    )


def _code(text: str) -> str:
    if not text:
        return ""
    # In a table a bar ends the cell even within code; GitHub and MyST take it back from "\|".
    text = printable(text).replace("|", r"\|")
    fence = "`" * (1 + max((len(run) for run in _ticks(text)), default=0))
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def _ticks(text: str) -> Iterator[str]:
    run = ""
    for one in text + " ":
        if one == "`":
            run += one
        elif run:
            yield run
            run = ""


def _plain(text: str) -> str:
    return printable(text).replace("|", r"\|").replace("<", "&lt;")
