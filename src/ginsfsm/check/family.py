"""What smells between a gclass and the children that it makes."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ginsfsm.check.finding import Finding
from ginsfsm.check.smells import at_row
from ginsfsm.check.source import UNKNOWN, Child, source_of
from ginsfsm.event import Event
from ginsfsm.gobj import GObj
from ginsfsm.row import Row, targets
from ginsfsm.smachine import State

__all__ = ["late_timeout", "namesake"]


def late_timeout(cls: type[GObj]) -> Iterator[Finding]:
    """A parent that gives up on a child before the child can give up by itself.

    The parent waits in a state that has a row for what the child tells, that a timeout leaves, and
    that nothing which the child tells leads to: so the child is at its first step there. The
    defaults of parameters are compared, or what the parent gives.
    """
    for child in source_of(cls).children:
        first = _first_timeout(child)
        if first is None:
            continue
        name, seconds = first
        told = set(child.gclass.outputs)
        for state in cls.compiled.states.values():
            if not told & set(state) or _is_reached_by(cls, state, told):
                continue
            for row in state.rows:
                patience = _seconds(row, Child(cls, {}))
                if row.kind == "after" and row.next_state and patience and patience < seconds:
                    yield at_row(
                        cls,
                        row,
                        "late-timeout",
                        f"{state.name} gives up after {patience:g} s, and {child.gclass.__name__} "
                        f"only after {seconds:g} s ({name}); give it less, or wait longer",
                    )


def _is_reached_by(cls: type[GObj], state: State, told: set[type[Event]]) -> bool:
    return any(
        row.kind == "on" and row.event in told and state.name in targets(row)
        for other in cls.compiled.states.values()
        for row in other.rows
        if other is not state
    )


def _first_timeout(child: Child) -> tuple[str, float] | None:
    """The longest timeout of the child's initial state, or, where that has none, of the next."""
    machine = child.gclass.compiled
    first = machine.initial
    if not first.afters:
        following = {target for row in first.rows for target in targets(row)}
        states = [state for name, state in machine.states.items() if name in following]
    else:
        states = [first]
    found = [
        (f"{state.name}, {row.seconds}" if isinstance(row.seconds, str) else state.name, seconds)
        for state in states
        for row in state.rows
        if row.kind == "after" and (seconds := _seconds(row, child))
    ]
    return max(found, key=lambda one: one[1], default=None)


def _seconds(row: Row, child: Child) -> float | None:
    """When a row fires; None where it never does, or that is not known before the program runs."""
    seconds: object = row.seconds
    if isinstance(seconds, str):
        default = getattr(child.gclass.config, seconds, None)
        seconds = child.given.get(seconds, UNKNOWN if "**" in child.given else default)
    if isinstance(seconds, (int, float)) and 0 < seconds < math.inf:
        return float(seconds)
    return None


def namesake(cls: type[GObj]) -> Iterator[Finding]:
    """A row that waits for a child's event, and has the wrong class of that name."""
    accepted = cls.compiled.events
    for child in source_of(cls).children:
        for event in child.gclass.outputs:
            mine = accepted.get(event.__name__)
            if mine is None or mine is event:
                continue
            row = next(
                row
                for state in cls.compiled.states.values()
                for row in state.rows
                if row.kind == "on" and row.event is mine
            )
            yield at_row(
                cls,
                row,
                "namesake",
                f"{event.__name__} is the one of {mine.__module__}, but {child.gclass.__name__} "
                f"sends that of {event.__module__}; events are told apart by their class",
            )
