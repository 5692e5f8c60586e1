"""What smells in one machine. Each function looks at one gclass and yields what it finds.

A machine that works gives no cause to any of them, or has a comment that says why.
"""

from __future__ import annotations

import ast
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from ginsfsm.c_sock import EV_CONNECTED, EV_DISCONNECTED, GSock
from ginsfsm.check.finding import Finding
from ginsfsm.check.source import Source, source_of
from ginsfsm.event import Event
from ginsfsm.gobj import GObj
from ginsfsm.row import Postpone, Row, bound, name_of, targets
from ginsfsm.smachine import State

__all__ = [
    "at_row",
    "forgotten_event",
    "has_own_table",
    "looks_like_session",
    "of_machine",
]

ENOUGH_IN_COMMON: Final = 2
"""How many events two states must both take to be siblings. With one, the rows for a lost
connection would make siblings of any two states of a session."""


def has_own_table(cls: type[GObj]) -> bool:
    """Whether the class itself defines its table; what is inherited is told of the base."""
    return "machine" in cls.__dict__


def at_row(cls: type[GObj], row: Row, code: str, text: str) -> Finding:
    """A finding at a row of the table."""
    return Finding(row.file, row.line, code, cls.__qualname__, text)


def _at_state(cls: type[GObj], state: str, code: str, text: str) -> Finding:
    """A finding at a state of the table."""
    source = source_of(cls)
    return Finding(source.file, source.state_line(state), code, cls.__qualname__, text)


# -- states ----------------------------------------------------------------------------------------


def no_way_out(cls: type[GObj], is_session: bool) -> Iterator[Finding]:
    """A state that nothing leaves, unless the gobj ends there or somebody is told.

    A session ends with its connection, so it may do its work in its last state, or wait there for
    that end.
    """
    states = cls.compiled.states
    if len(states) == 1:
        # It serves for ever, and so it should.
        return
    source = source_of(cls)
    for name, state in states.items():
        if any(set(targets(row)) - {name} for row in state.rows):
            continue
        if is_session and any(_works_or_waits(row) for row in state.rows):
            continue
        entering = [row for one in states.values() for row in one.rows if name in targets(row)]
        actions = [bound(cls, row.action) for row in (*entering, *state.rows)]
        if not any(_ends(source, action) for action in actions):
            yield _at_state(
                cls,
                name,
                "no-way-out",
                f"nothing leads out of {name}; add a row, or destroy the gobj there, "
                "or tell its owner",
            )


def _works_or_waits(row: Row) -> bool:
    """Whether a session does something in this row, or is about to end with its connection."""
    return row.kind == "on" and (row.action is not None or row.event is EV_DISCONNECTED)


def _ends(source: Source, action: object) -> bool:
    """Whether an action ends the gobj or the program, or tells somebody; or may, for all we see."""
    if action is None or isinstance(action, Postpone):
        return False
    calls = source.calls(action)
    return calls is None or any(_is_end(call, own) for call, own in calls)


def _is_end(call: ast.Call, own: str) -> bool:
    called = ast.unparse(call.func)
    first = ast.unparse(call.args[0]) if call.args else ""
    if called.endswith(".destroy_gobj"):
        return first == own
    if called.endswith((".send_event", ".post_event")):
        return "parent" in first or "subscriber" in first
    return called.endswith((".broadcast_event", "._publish", "gaplic.stop"))


def forgotten_event(
    cls: type[GObj], comes_by_itself: Callable[[type[Event]], bool]
) -> Iterator[Finding]:
    """An event that all siblings of a state take, and it does not.

    Siblings have most of their events in common. Two of them must agree, or one where the event
    is another gobj's output event, which does not ask for the state. One state of another kind
    (at rest, closed) ends the search: it mostly means that the states are steps of a way, and
    that each leaves out what cannot come there. But not for an event by which every sibling goes
    to such a state: that is how all of them end.
    """
    states = cls.compiled.states
    for name, state in states.items():
        own = set(state)
        siblings = [
            one for other, one in states.items() if other != name and _are_siblings(own, set(one))
        ]
        family = {name, *(one.name for one in siblings)}
        for event in dict.fromkeys(event for one in siblings for event in one):
            # Without a row for EV_CONNECTED a state takes no connections, and that is meant.
            if event in own or event is EV_CONNECTED:
                continue
            if not all(event in one for one in siblings):
                continue
            if len(family) == len(states):
                enough = 1 if comes_by_itself(event) else 2
            elif all(_leaves(one, event, family) for one in siblings):
                enough = 2
            else:
                continue
            if len(siblings) >= enough:
                taken_in = [one.name for one in siblings]
                yield _at_state(
                    cls,
                    name,
                    "forgotten-event",
                    f"{name} has no row for {event.__name__}, which {_listed(taken_in)} "
                    f"take{'s' if len(taken_in) == 1 else ''}; "
                    f"add one, on({event.__name__}, None) if it does not matter there",
                )


def _leaves(state: State, event: type[Event], family: set[str]) -> bool:
    """Whether an event leads from a state to others, and to none of a family."""
    ways = {
        way for row in state.rows if row.kind == "on" and row.event is event for way in targets(row)
    }
    return bool(ways) and ways.isdisjoint(family)


def _are_siblings(one: set[type[Event]], other: set[type[Event]]) -> bool:
    common = len(one & other)
    return common >= ENOUGH_IN_COMMON and 2 * common >= max(len(one), len(other))


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


# -- rows ------------------------------------------------------------------------------------------


def never_after(cls: type[GObj]) -> Iterator[Finding]:
    """An `after` row whose seconds are a number that switches it off."""
    for state, row in _rows(cls, "after"):
        seconds = row.seconds
        if not isinstance(seconds, str) and not 0 < seconds < math.inf:
            yield at_row(
                cls,
                row,
                "never-after",
                f"{state.name}: after({seconds!r}) never fires; give a number of seconds above "
                "zero, or leave the row out",
            )


def no_effect(cls: type[GObj]) -> Iterator[Finding]:
    """An `after` row that neither acts nor goes anywhere."""
    for state, row in _rows(cls, "after"):
        if row.action is None and row.next_state is None:
            yield at_row(
                cls,
                row,
                "no-effect",
                f"{state.name}: after({row.seconds!r}) has no action and stays; name the next "
                "state, or an action",
            )


def own_state(cls: type[GObj]) -> Iterator[Finding]:
    """A row that names its own state: it looks like entering the state anew, and is not.

    Not one that stands in other states as well, by way of a list that they share.
    """
    rows = [*_rows(cls, "on"), *_rows(cls, "after")]
    times = Counter(id(row) for _, row in rows)
    for state, row in rows:
        if row.next_state == state.name and times[id(row)] == 1:
            what = name_of(row.event) if row.kind == "on" else f"after({row.seconds!r})"
            yield at_row(
                cls,
                row,
                "own-state",
                f"{state.name}: {what} names its own state, which is staying: no leave, no enter, "
                "and no timeout starts again; leave the name out",
            )


def same_guard(cls: type[GObj]) -> Iterator[Finding]:
    """A row that its event reaches only when its guard has been false already."""
    for state in cls.compiled.states.values():
        seen: dict[tuple[Any, Any], Row] = {}
        for row in state.rows:
            if row.kind != "on" or row.when is None:
                continue
            earlier = seen.setdefault((row.event, row.when), row)
            if earlier is not row:
                yield at_row(
                    cls,
                    row,
                    "same-guard",
                    f"{state.name}: {row.event.__name__} is asked {name_of(row.when)} in line "
                    f"{earlier.line} already; leave one row out, or give it another guard",
                )


def lost_postponed(cls: type[GObj]) -> Iterator[Finding]:
    """A postponed event that no state which can come then takes."""
    states = cls.compiled.states
    for state, row in _rows(cls, "on"):
        if not isinstance(row.action, Postpone):
            continue
        taken = any(
            one.event is row.event and not isinstance(one.action, Postpone)
            for later in _reached_from(state, states)
            for one in states[later].rows
            if one.kind == "on"
        )
        if not taken:
            yield at_row(
                cls,
                row,
                "lost-postponed",
                f"{state.name} postpones {row.event.__name__}, and no state that can follow takes "
                "it; add a row there, or do not postpone it",
            )


def _reached_from(state: State, states: dict[str, State]) -> set[str]:
    """The states that can follow, this one as well where it can be come back to."""
    reached: set[str] = set()
    todo = [target for row in state.rows for target in targets(row) if target != state.name]
    while todo:
        name = todo.pop()
        if name not in reached:
            reached.add(name)
            todo += [target for row in states[name].rows for target in targets(row)]
    return reached


def _rows(cls: type[GObj], kind: str) -> Iterable[tuple[State, Row]]:
    return [
        (state, row)
        for state in cls.compiled.states.values()
        for row in state.rows
        if row.kind == kind
    ]


_OF_ROWS: Final = (never_after, no_effect, own_state, same_guard, lost_postponed)


def of_machine(cls: type[GObj], *, is_session: bool = False) -> Iterable[Finding]:
    """What one machine shows; once for a row that states share.

    Args:
        cls: the gclass.
        is_session: whether it is made for a connection, and goes with it.
    """
    found = {(one.file, one.line, one.code): one for one in no_way_out(cls, is_session)}
    for smell in _OF_ROWS:
        for one in smell(cls):
            found.setdefault((one.file, one.line, one.code), one)
    return found.values()


def looks_like_session(cls: type[GObj]) -> bool:
    """Whether it takes what a connection tells and makes nothing itself: so somebody made both."""
    takes = cls.compiled.accepted & set(GSock.outputs)
    return bool(takes) and not any(source_of(cls).children)
