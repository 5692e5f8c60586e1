"""The rows of a machine, as a gclass writes them.

For each state there is a list of rows::

    machine = {
        "ST_LOCKED":   [on(EV_COIN, ac_count, "ST_UNLOCKED")],
        "ST_UNLOCKED": [on(EV_PUSH, None, "ST_LOCKED"),
                        after(10, None, "ST_LOCKED")],
    }

The first state is the initial one. `on`, `after`, `enter` and `leave` keep what they are given, and
where that was written; they judge nothing. So a row can be wrong in any way, and still be read and
reported together with all the others when the class is created.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypeVar

from ginsfsm.event import Event

if TYPE_CHECKING:
    from ginsfsm.gobj import GObj

__all__ = [
    "POSTPONE",
    "Postpone",
    "Row",
    "Table",
    "after",
    "bound",
    "enter",
    "leave",
    "name_of",
    "on",
    "targets",
]

E = TypeVar("E", bound=Event)


class Postpone:
    """The type of `POSTPONE`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "POSTPONE"


POSTPONE: Final = Postpone()
"""The action that keeps an event until the state has changed; then it is delivered again."""


class Row:
    """One row of a machine, as the gclass wrote it. Made by `on`, `after`, `enter` and `leave`."""

    __slots__ = (
        "action",
        "event",
        "file",
        "kind",
        "line",
        "may",
        "next_state",
        "seconds",
        "when",
    )

    def __init__(
        self,
        kind: Literal["on", "after", "enter", "leave"],
        action: Any,
        next_state: str | None = None,
        *,
        event: Any = None,
        seconds: Any = None,
        when: Any = None,
        may: Sequence[str] = (),
    ) -> None:
        self.kind = kind
        self.event = event
        self.action = action
        # A name that is no text is no state's, and may not be hashable: its text is none either.
        self.next_state = None if next_state is None else _state_name(next_state)
        self.seconds = seconds
        self.when = when
        self.may = (may,) if isinstance(may, str) else tuple(map(_state_name, may))
        # Two frames up is the gclass's body: __init__, then on() or its like, then the table.
        frame = sys._getframe(2)
        self.file = frame.f_code.co_filename
        self.line = frame.f_lineno

    def __repr__(self) -> str:
        words: list[str] = []
        if self.kind == "on":
            words.append(name_of(self.event))
        if self.kind == "after":
            words.append(repr(self.seconds))
        words.append(name_of(self.action))
        if self.next_state is not None:
            words.append(repr(self.next_state))
        if self.when is not None:
            words.append(f"when={name_of(self.when)}")
        if self.may:
            words.append(f"may={self.may!r}")
        return f"{self.kind}({', '.join(words)})"


def on(
    event: type[E],
    action: Callable[[Any, E], object] | Postpone | None,
    next_state: str | None = None,
    *,
    when: Callable[[Any, E], object] | None = None,
    may: Sequence[str] = (),
) -> Row:
    """On this event, run this action, go to that state.

    Args:
        event: the class of the event; dispatch is by exact class.
        action: called as `action(self, event)` after the state has changed; its result is what
            `send_event` returns. None does nothing. `POSTPONE` keeps the event for the next state.
        next_state: the state to go to first; None stays.
        when: a guard, called as `when(self, event)`; where it is false the next row of this event
            is tried.
        may: the states to which the action may go with `set_new_state`.
    """
    return Row("on", action, next_state, event=event, when=when, may=may)


def after(
    seconds: float | str,
    action: Callable[[Any], object] | None,
    next_state: str | None = None,
    *,
    may: Sequence[str] = (),
) -> Row:
    """When the state has lasted so long: run this action, go to that state.

    Args:
        seconds: a number, or the name of a parameter that holds it. Zero or less, and infinity,
            disable the row. The time starts when the state is entered and dies when it is left; a
            row that stays in the state does not start it again.
        action: called as `action(self)`; None does nothing.
        next_state: the state to go to first; None stays.
        may: the states to which the action may go with `set_new_state`.
    """
    return Row("after", action, next_state, seconds=seconds, may=may)


def enter(action: Callable[[Any], object]) -> Row:
    """Run `action(self)` whenever this state is entered from another one, or as the first one."""
    return Row("enter", action)


def leave(action: Callable[[Any], object]) -> Row:
    """Run `action(self)` whenever this state is left for another one."""
    return Row("leave", action)


Table: TypeAlias = dict[str, list[Row]]
"""The rows of each state, by its name; the first state is the initial one."""


def bound(cls: type[GObj], function: Any) -> Any:
    """The method that a row means in this class.

    A table names its actions; a subclass that inherits the table and overrides an action gets its
    own. A function that is no method of the class, such as a lambda, is taken as it is.
    """
    if function is not None:
        for base in cls.__mro__:
            for name, value in base.__dict__.items():
                if value is function:
                    return getattr(cls, name)
    return function


def targets(row: Row) -> tuple[str, ...]:
    """The states that a row may lead to."""
    return row.may if row.next_state is None else (row.next_state, *row.may)


def _state_name(given: object) -> str:
    return given if isinstance(given, str) else str(given)


def name_of(of: Any) -> str:
    """What an error calls a class or a function: the name that stands in the row."""
    return "None" if of is None else str(getattr(of, "__name__", None) or repr(of))
