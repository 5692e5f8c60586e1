"""The drawing of a machine before it has a form: states, arrows and what stands at them.

It is made from the compiled table and from nothing else, so it says what the machine does. Each
form (Mermaid, DOT, Markdown, text) writes this one down in its own words.

A row that goes to another state is a line at the arrow to it. Many rows between the same two states
share one arrow. A row that stays is a line in the box of its state, as are `enter` and `leave`. A
row whose action may go to a state by `set_new_state` has another arrow to that state, of its own
kind.

A table is read from above, a drawing is not. So a row that comes after others of the same event
says so: `[else]`, or `[else if is_full]`.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from ginsfsm.event import Event
from ginsfsm.gobj import GObj
from ginsfsm.net.words import cut
from ginsfsm.row import Postpone, Row
from ginsfsm.smachine import State

__all__ = ["Arrow", "Box", "Diagram", "Line", "diagram_of", "name_shown", "printable", "summary"]

NEVER = "never fired"
"""What a drawing says of a row that fired in no test."""


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the table, as a drawing says it.

    Attributes:
        row: the row; it knows its file and line.
        state: the name of the state that it stands in.
        trigger: `"EV_DROP"`, `"after 5 s"`, `"after close_timeout"`, `"enter"` or `"leave"`.
        guard: `"is_abort"`, `"else"`, `"else if is_abort"`; empty where it has none.
        action: the name of the action; `"POSTPONE"`; empty where there is none.
        target: where it goes, the name of another state; None where it stays.
        may: the other states to which its action may go by `set_new_state`.
        fired: whether it fired; None where nobody asked.
    """

    row: Row
    state: str
    trigger: str
    guard: str
    action: str
    target: str | None
    may: tuple[str, ...]
    fired: bool | None

    @property
    def event(self) -> type[Event] | None:
        """The class of the event, for a row that has one."""
        return self.row.event if self.row.kind == "on" else None

    @property
    def postpones(self) -> bool:
        """Whether the event is kept until the state has changed."""
        return isinstance(self.row.action, Postpone)

    @property
    def never_fired(self) -> bool:
        """Whether somebody asked, and it did not."""
        return self.fired is False

    @property
    def text(self) -> str:
        """The line in the notation of UML: `EV_DROP [is_abort] / ac_abort`."""
        text = f"{self.trigger} [{self.guard}]" if self.guard else self.trigger
        return f"{text} / {self.action}" if self.action else text


@dataclass(frozen=True, slots=True)
class Arrow:
    """From a state to another one, with the rows that take it.

    Attributes:
        source: the name of a state.
        target: the name of another one.
        lines: the rows, in the order of the table.
        kind: `"goes"`, where the row says where; `"may"`, where its action may go there by
            `set_new_state`.
        never_fired: whether none of its rows fired. Rows that fired and rows that never did have an
            arrow each.
    """

    source: str
    target: str
    lines: tuple[Line, ...]
    kind: Literal["goes", "may"]
    never_fired: bool


@dataclass(frozen=True, slots=True)
class Box:
    """A state, with what happens in it.

    Attributes:
        name: the name of the state.
        initial: whether it is the first one.
        lines: its rows that stay, `enter` first and `leave` last.
        rows: all its rows, in the order of the table.
    """

    name: str
    initial: bool
    lines: tuple[Line, ...]
    rows: tuple[Line, ...]

    @property
    def never_fired(self) -> bool:
        """Whether it has rows, and none of them fired."""
        return bool(self.rows) and all(line.never_fired for line in self.rows)


@dataclass(frozen=True, slots=True)
class Diagram:
    """The drawing of one machine.

    Attributes:
        gclass: whose machine it is.
        states: the boxes, in the order of the table; the first one is the initial state.
        arrows: in the order of their first rows.
        counted: whether the rows know if they fired.
    """

    gclass: type[GObj]
    states: tuple[Box, ...]
    arrows: tuple[Arrow, ...]
    counted: bool = field(default=False)

    @property
    def name(self) -> str:
        return self.gclass.__name__

    @property
    def lines(self) -> Iterator[Line]:
        """Every row of the table, in its order."""
        for box in self.states:
            yield from box.rows


def diagram_of(gclass: type[GObj], fired: Collection[object] | None = None) -> Diagram:
    """The drawing of the machine of a gclass.

    Args:
        gclass: any gclass, also one that inherits its table.
        fired: the rows that fired, each as the `Row` itself, as `(file, line)`, or as
            `(state, Row)` with the name of the state, for a row that stands in several states.
            None: nobody counted.

    Raises:
        ValueError: `fired` is something else.
    """
    _check_fired(fired)
    boxes: list[Box] = []
    arrows: dict[tuple[str, str, str, bool], list[Line]] = {}
    for state in gclass.compiled.states.values():
        lines = tuple(_lines(state, fired))
        for line in lines:
            if line.target is not None:
                key = (state.name, line.target, "goes", line.never_fired)
                arrows.setdefault(key, []).append(line)
            for other in line.may:
                arrows.setdefault((state.name, other, "may", line.never_fired), []).append(line)
        inner = sorted((line for line in lines if line.target is None), key=_place_in_box)
        boxes.append(Box(state.name, state is gclass.compiled.initial, tuple(inner), lines))
    return Diagram(
        gclass,
        tuple(boxes),
        tuple(
            Arrow(source, target, tuple(rows), "may" if kind == "may" else "goes", never)
            for (source, target, kind, never), rows in arrows.items()
        ),
        fired is not None,
    )


def _check_fired(fired: object) -> None:
    expected = (
        "fired: expected a collection of rows, each as the Row itself, as (file, line) or as "
        "(state, Row)"
    )
    if fired is None:
        return
    if not isinstance(fired, Collection) or isinstance(fired, (str, bytes)):
        raise ValueError(f"{expected}; got {cut(repr(fired))}")
    for one in fired:
        if not _is_row(one):
            raise ValueError(f"{expected}; got {cut(repr(one))} in it")


def _is_row(one: object) -> bool:
    if isinstance(one, tuple) and len(one) == 2:
        return isinstance(one[0], str) and isinstance(one[1], (int, Row))
    return isinstance(one, Row)


def _lines(state: State, fired: Collection[object] | None) -> Iterator[Line]:
    seen: set[type[Event]] = set()
    for row in state.rows:
        guard = "" if row.when is None else name_shown(row.when)
        if row.kind == "on":
            if row.event in seen:
                guard = f"else if {guard}" if guard else "else"
            seen.add(row.event)
        yield Line(
            row,
            state.name,
            _trigger(row),
            guard,
            name_shown(row.action),
            # A row that names its own state changes nothing: it stays.
            None if row.next_state == state.name else row.next_state,
            tuple(name for name in row.may if name not in (state.name, row.next_state)),
            None if fired is None else _has_fired(state.name, row, fired),
        )


def _has_fired(state: str, row: Row, fired: Collection[object]) -> bool:
    return row in fired or (state, row) in fired or (row.file, row.line) in fired


def _place_in_box(line: Line) -> int:
    return {"enter": 0, "on": 1, "after": 1, "leave": 2}[line.row.kind]


def _trigger(row: Row) -> str:
    if row.kind == "on":
        return str(row.event.__name__)
    if row.kind == "after":
        return f"after {row.seconds}" if isinstance(row.seconds, str) else _seconds(row.seconds)
    return row.kind


def _seconds(seconds: float) -> str:
    return f"after {seconds:g} s" if 0 < seconds < float("inf") else f"after {seconds:g} s (never)"


def name_shown(function: Any) -> str:
    """What a drawing calls an action or a guard; empty for None.

    A function that another one made, such as a lambda, bears the name of its maker: `says(...)`.
    """
    if function is None:
        return ""
    if isinstance(function, functools.partial):
        return f"{name_shown(function.func)}(...)"
    name = getattr(function, "__name__", None)
    if name is None:
        # POSTPONE, or an object that can be called.
        return repr(function) if isinstance(function, Postpone) else type(function).__name__
    path = str(getattr(function, "__qualname__", name)).removesuffix(".<locals>.<lambda>")
    if name == "<lambda>" and not path.endswith("<lambda>"):
        return f"{path.rpartition('.')[2]}(...)"
    return str(name).strip("<>")


def summary(of: type[object]) -> str:
    """The first sentence of a class's own docstring, in one line; empty where it has none."""
    text = of.__dict__.get("__doc__") or ""
    return " ".join(str(text).strip().partition("\n\n")[0].split())


def printable(text: str) -> str:
    """The text with a space for each character that cannot be seen, so that a line stays one."""
    return "".join(one if one.isprintable() else " " for one in text)
