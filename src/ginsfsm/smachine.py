"""The rows of a machine, and the table that they are compiled into.

A gclass writes, for each state, a list of rows::

    machine = {
        "ST_LOCKED":   [on(EV_COIN, ac_count, "ST_UNLOCKED")],
        "ST_UNLOCKED": [on(EV_PUSH, None, "ST_LOCKED"),
                        after(10, None, "ST_LOCKED")],
    }

The first state is the initial one. The table is compiled once, when the class is created. Every
fault is found then and all are reported together; a class with a fault does not come to be.

How it runs. A `State` *is* its row table: a dictionary from the class of an event to one function
`(gobj, event)`. A gobj holds a reference to the `State` it is in, so a delivery is one look-up and
one call. What a row needs beyond its action is put into that function when it is compiled, and
only there: a row without guard, next state and postponement is its bare action.

A change of state goes in this order: `leave` of the old state, its `after` timers are cancelled,
the state is set, `enter` of the new one, its `after` timers start, and then the row's action runs.
So in an action the next state is already set, and if the action raises, the new state stands.
"""

from __future__ import annotations

import inspect
import math
import os
import sys
import types
import typing
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypeVar

from ginsfsm.errors import EventError, MachineError, nearest
from ginsfsm.event import Event
from ginsfsm.inspection import Transition

if TYPE_CHECKING:
    from ginsfsm.gobj import GObj

__all__ = [
    "NOT_ACCEPTED",
    "POSTPONE",
    "Machine",
    "Row",
    "State",
    "after",
    "change_state",
    "compile_machine",
    "enter",
    "enter_initial",
    "leave",
    "on",
]

E = TypeVar("E", bound=Event)
Handler: TypeAlias = Callable[[Any, Any], Any]
Hook: TypeAlias = Callable[[Any], Any]


class NotAccepted:
    """The type of `NOT_ACCEPTED`; it is false."""

    __slots__ = ()

    def __bool__(self) -> Literal[False]:
        return False

    def __repr__(self) -> str:
        return "NOT_ACCEPTED"


class Postpone:
    """The type of `POSTPONE`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "POSTPONE"


NOT_ACCEPTED: Final = NotAccepted()
"""What `send_event` returns when the present state does not accept the event. It is falsy."""

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
            words.append(_name(self.event))
        if self.kind == "after":
            words.append(repr(self.seconds))
        words.append(_name(self.action))
        if self.next_state is not None:
            words.append(repr(self.next_state))
        if self.when is not None:
            words.append(f"when={_name(self.when)}")
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


class After:
    """A compiled `after` row."""

    __slots__ = ("parameter", "run", "seconds")

    def __init__(self, seconds: float | str, run: Hook) -> None:
        self.parameter = seconds if isinstance(seconds, str) else None
        self.seconds = 0.0 if isinstance(seconds, str) else float(seconds)
        self.run = run

    def seconds_for(self, gobj: GObj) -> float:
        if self.parameter is None:
            return self.seconds
        return float(getattr(gobj.config, self.parameter) or 0.0)


class State(dict[type[Event], Handler]):
    """A state of a compiled machine: from the class of an event to what runs on it.

    `tomb` is an empty state of the same name, where a destroyed gobj rests: it accepts nothing.
    """

    __slots__ = ("afters", "enter", "hooked", "leave", "machine", "name", "rows", "tomb")

    def __init__(self, name: str, rows: Sequence[Row] = ()) -> None:
        super().__init__()
        self.name = name
        self.rows = tuple(rows)
        self.enter: Hook | None = None
        self.leave: Hook | None = None
        self.afters: tuple[After, ...] = ()
        self.machine: Machine
        self.tomb: State
        self.hooked = any(row.kind != "on" for row in rows)
        """Whether a change to or from this state has more to do than to set it."""

    def __repr__(self) -> str:
        return f"<state {self.name}>"


class Machine:
    """The compiled table of one gclass."""

    __slots__ = ("accepted", "events", "gclass", "initial", "postpones", "states")

    def __init__(self, gclass: str) -> None:
        self.gclass = gclass
        self.states: dict[str, State] = {}
        self.events: dict[str, type[Event]] = {}
        self.accepted: frozenset[type[Event]] = frozenset()
        self.postpones = False
        self.initial: State

    def event_class(self, name: str) -> type[Event]:
        """The class of an input event given by its name.

        Raises:
            EventError: when no state of this machine has a row for it.
        """
        found = self.events.get(name)
        if found is None:
            raise EventError(
                f"{self.gclass} has {name!r} in no state of its machine{nearest(name, self.events)}"
            )
        return found

    def check_accepts(self, event: type[Event]) -> None:
        """Raise EventError unless some state has a row for exactly this class."""
        if event in self.accepted:
            return
        name = event.__name__
        namesake = self.events.get(name)
        if namesake is not None:
            raise EventError(
                f"{self.gclass} takes {name} of {namesake.__module__}, not the one of "
                f"{event.__module__}: events are told apart by their class"
            )
        self.event_class(name)


class Postponed:
    """The postponed events of one gobj, and how deep in deliveries it is."""

    __slots__ = ("again", "depth", "queue", "retrying", "ripe")

    def __init__(self) -> None:
        self.queue: deque[Event] = deque()
        self.ripe = 0
        """How many of the queue, from its left, were postponed before the state last changed."""
        self.depth = 0
        self.retrying: Event | None = None
        self.again: list[Event] = []
        """What the retry under way postponed again; older than all in the queue."""

    def __len__(self) -> int:
        return len(self.queue) + len(self.again)

    def state_changed(self) -> None:
        """From now on all that are kept may be retried."""
        self.put_back()
        self.ripe = len(self.queue)

    def put_back(self) -> None:
        """The round is over; what it has postponed again stands where it stood."""
        self.queue.extendleft(reversed(self.again))
        self.again.clear()


# -- running ---------------------------------------------------------------------------------------


def change_state(gobj: GObj, new: State) -> None:
    """Take a gobj to another state, with all that belongs to it.

    If `leave` raises, the old state stays. If `enter` raises, the new one stands, with its timers.
    """
    old = gobj._state
    if new is old or gobj.destroyed:
        return
    if old.leave is not None and gobj._entered:
        # It is being left: a change of state that the action itself causes must not leave it again.
        gobj._entered = False
        try:
            old.leave(gobj)
        finally:
            gobj._entered = True
        if gobj._state is not old:
            # The action changed the state itself, or destroyed the gobj: go on from there.
            change_state(gobj, new)
            return
    for timer in gobj._afters:
        timer.cancel()
    gobj._afters = ()
    gobj._state = new
    gobj._entered = True
    if gobj._postponed is not None:
        gobj._postponed.state_changed()
    if gobj._watch is not None:
        gobj._watch.observed(Transition(gobj, old.name, new.name))
    _enter(gobj, new)


def enter_initial(gobj: GObj) -> None:
    """Enter the initial state, once `start_up` has returned and unless it has been left by then."""
    state = gobj._state
    if gobj._entered or gobj.destroyed or state is not state.machine.initial:
        gobj._entered = True
        return
    gobj._entered = True
    _enter(gobj, state)


def _enter(gobj: GObj, state: State) -> None:
    try:
        if state.enter is not None:
            state.enter(gobj)
    finally:
        # Not where `enter` itself went on to another state, even if it came back: that entry has
        # started the timers already.
        if state.afters and gobj._state is state and not gobj._afters:
            gaplic = gobj.gaplic
            gobj._afters = tuple(
                gaplic.start_after(gobj, row, seconds)
                for row in state.afters
                # A parameter may say "never" by an infinity, which no loop takes.
                if 0 < (seconds := row.seconds_for(gobj)) < math.inf
            )


def _nothing(_gobj: GObj, _event: Event) -> None:
    """The action None."""


def _postpone(gobj: GObj, event: Event) -> None:
    """The action POSTPONE."""
    kept = gobj._postponed
    assert kept is not None
    if event is kept.retrying:
        kept.again.append(event)
        return
    limit = gobj.gaplic.config.max_postponed_events
    if len(kept) >= limit:
        raise EventError(
            f"{gobj.path} in {gobj.state} has {limit} postponed events and cannot postpone "
            f"{type(event).__name__}; let the state change, or raise max_postponed_events"
        )
    kept.queue.append(event)


def _changing(action: Handler, target: State, old: State) -> Handler:
    """The action behind a change of state."""
    if target.hooked or old.hooked or target.machine.postpones:

        def run(gobj: GObj, event: Event) -> Any:
            change_state(gobj, target)
            return None if gobj.destroyed else action(gobj, event)

    else:

        def run(gobj: GObj, event: Event) -> Any:
            if gobj._watch is None:
                gobj._state = target
            else:
                change_state(gobj, target)
                if gobj.destroyed:
                    return None
            return action(gobj, event)

    return run


def _guarded(choices: Sequence[tuple[Handler | None, Handler]]) -> Handler:
    """The first of an event's rows whose guard is true."""

    def run(gobj: GObj, event: Event) -> Any:
        for guard, handler in choices:
            if guard is None or guard(gobj, event):
                return handler(gobj, event)
        return gobj._refuse(event)

    return run


def _allowing(action: Callable[..., Any], may: frozenset[str]) -> Callable[..., Any]:
    """The action, with `set_new_state` allowed to go to these states and no others."""

    def run(gobj: GObj, *event: Event) -> Any:
        before = gobj._may
        gobj._may = may
        try:
            return action(gobj, *event)
        finally:
            gobj._may = before

    return run


def _retrying(handler: Callable[..., Any]) -> Callable[..., Any]:
    """The handler; and when the outermost delivery ends, the postponed events again."""

    def run(gobj: GObj, *event: Event) -> Any:
        kept = gobj._postponed
        if kept is None:
            return handler(gobj, *event)
        kept.depth += 1
        try:
            return handler(gobj, *event)
        finally:
            kept.depth -= 1
            if kept.depth == 0 and kept.ripe:
                _retry(gobj, kept)

    return run


def _retry(gobj: GObj, kept: Postponed) -> None:
    """Deliver the postponed events again, oldest first, as gen_statem does.

    A retried event that changes the state starts the round again at the oldest one.
    """
    kept.depth += 1
    try:
        while kept.ripe and not gobj.destroyed:
            kept.ripe -= 1
            kept.retrying = kept.queue.popleft()
            gobj._take(kept.retrying)
    finally:
        kept.depth -= 1
        kept.retrying = None
        # One that raised is spent; the rest of the round comes when the next delivery ends.
        if not kept.ripe:
            kept.put_back()


# -- compiling -------------------------------------------------------------------------------------


class _Faults:
    """Collects what is wrong with a table, each with its place."""

    def __init__(self, cls: type[GObj], file: str, line: int) -> None:
        self.cls = cls
        self.place = (file, line)
        self.lines: list[str] = []

    def row(self, row: Row, state: str, problem: str) -> None:
        self.at((row.file, row.line), f"{state}: {row!r}: {problem}")

    def at(self, place: tuple[str, int] | None, problem: str) -> None:
        file, line = place or self.place
        text = f"{_short(file)}:{line}: {problem}"
        if text not in self.lines:
            self.lines.append(text)

    def raise_any(self) -> None:
        if self.lines:
            count = len(self.lines)
            head = f"{self.cls.__qualname__}: {count} fault{'s' if count > 1 else ''} in the class"
            raise MachineError("\n  ".join([head, *self.lines]))


def compile_machine(cls: type[GObj], bases: Iterable[type[GObj]], file: str, line: int) -> Machine:
    """The table of a gclass, compiled.

    Args:
        cls: the gclass, complete but for its compiled machine.
        bases: the gclasses it derives from directly.
        file: where its class statement stands.
        line: likewise.

    Raises:
        MachineError: with one line for each fault, each with file and line.
    """
    faults = _Faults(cls, file, line)
    _check_config(cls, bases, faults)
    table = _checked_table(cls, faults)
    _check_rows(cls, table, faults)
    _check_reach(table, faults)
    _check_events(cls, table, faults)
    _check_unused_actions(cls, table, faults)
    faults.raise_any()
    return _compiled(cls, table)


def _checked_table(cls: type[GObj], faults: _Faults) -> dict[str, list[Row]]:
    given = cls.machine
    if not isinstance(given, Mapping) or not given:
        faults.at(None, 'machine: expected a table {"ST_NAME": [rows]} with at least one state')
        return {}
    table: dict[str, list[Row]] = {}
    for name, rows in given.items():
        if not isinstance(name, str) or not name:
            faults.at(None, f"machine: {name!r}: expected the name of a state, such as 'ST_IDLE'")
            continue
        if not isinstance(rows, (list, tuple)):
            faults.at(None, f"{name}: expected a list of rows, got {type(rows).__name__}")
            rows = ()
        table[name] = []
        for row in rows:
            if isinstance(row, Row):
                table[name].append(row)
            else:
                faults.at(
                    None,
                    f"{name}: {row!r} is no row; write on(EV_X, ac_x, 'ST_Y'), after(), "
                    "enter() or leave()",
                )
    return table


def _check_rows(cls: type[GObj], table: dict[str, list[Row]], faults: _Faults) -> None:
    may = {target for rows in table.values() for row in rows for target in row.may}
    for state, rows in table.items():
        # An action may go on to another state when its row has brought the gobj here.
        left = may.union(*(_targets(row) for row in rows)) - {state}
        settled: dict[object, Row] = {}
        for row in rows:
            taken = row.event if row.kind == "on" and _is_event(row.event) else row.kind
            earlier = settled.get(taken)
            if earlier is not None:
                faults.row(
                    row,
                    state,
                    f"can never fire: line {earlier.line} takes {_name(row.event)} without a guard"
                    if row.kind == "on"
                    else f"can never fire: line {earlier.line} is the {row.kind} of this state",
                )
            elif row.kind in ("enter", "leave") or (_is_event(taken) and row.when is None):
                settled[taken] = row
            if row.kind == "leave" and not left:
                faults.row(row, state, "can never fire: no row goes out of this state")
            _check_row(cls, row, state, table, faults)


def _check_row(
    cls: type[GObj], row: Row, state: str, table: dict[str, list[Row]], faults: _Faults
) -> None:
    for target in _targets(row):
        if target not in table:
            faults.row(row, state, f"there is no state {target!r}{nearest(target, table)}")
    if row.kind == "on" and not _is_event(row.event):
        hint = "; events are told apart by their exact class" if row.event is Event else ""
        faults.row(row, state, f"expected a class derived from Event, got {_name(row.event)}{hint}")
        return
    if row.kind == "after":
        _check_seconds(cls, row, state, faults)
    if isinstance(row.action, Postpone):
        if row.kind != "on":
            faults.row(row, state, "POSTPONE keeps an event; it has no place here")
        elif row.next_state is not None or row.may:
            faults.row(
                row,
                state,
                "POSTPONE with a next state: a postponed event waits for the next "
                "change, it cannot cause one",
            )
    elif row.action is not None:
        _check_call(cls, row.action, row, state, faults, "action")
    elif row.kind in ("enter", "leave"):
        faults.row(row, state, "expected an action")
    if row.when is not None:
        _check_call(cls, row.when, row, state, faults, "guard")


_SECONDS: Final = {int, float, types.NoneType}
"""What the type of a parameter may be made of that an `after` row names."""


def _check_seconds(cls: type[GObj], row: Row, state: str, faults: _Faults) -> None:
    seconds = row.seconds
    if isinstance(seconds, str):
        params = getattr(cls.config, "_params", {})
        declared = params.get(seconds)
        if declared is None:
            faults.row(row, state, f"there is no parameter {seconds!r}{nearest(seconds, params)}")
        elif not set(typing.get_args(declared.type) or (declared.type,)) <= _SECONDS:
            faults.row(row, state, f"the parameter {seconds!r} holds no number of seconds")
    elif isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or seconds != seconds:
        faults.row(row, state, f"expected seconds or the name of a parameter, got {seconds!r}")


def _check_call(
    cls: type[GObj], given: Any, row: Row, state: str, faults: _Faults, word: str
) -> None:
    """Whether an action or a guard can be called as its row will call it."""
    function = _bound(cls, given)
    if not callable(function):
        faults.row(row, state, f"expected a method as the {word}, got {given!r}")
        return
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        faults.row(
            row,
            state,
            f"the {word} {_name(given)} is a coroutine function and would never run; "
            "write it with def, and start a coroutine from it with self.spawn(...)" + _at(function),
        )
        return
    if inspect.isgeneratorfunction(function):
        faults.row(
            row,
            state,
            f"the {word} {_name(given)} has a yield, so calling it does nothing" + _at(function),
        )
        return
    wanted = ("self", "event") if row.kind == "on" else ("self",)
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):
        # Some functions written in C do not tell; they cannot be checked.
        return
    try:
        signature.bind(*wanted)
    except TypeError:
        faults.row(
            row,
            state,
            f"the {word} {_name(given)}{signature} is called with "
            f"({', '.join(wanted)})" + _at(function),
        )
        return
    if row.kind == "on":
        annotation = _event_annotation(function, signature)
        if annotation and not any(issubclass(row.event, one) for one in annotation):
            faults.row(
                row,
                state,
                f"the {word} {_name(given)} takes "
                f"{' | '.join(one.__name__ for one in annotation)}, not {row.event.__name__}"
                + _at(function),
            )


def _event_annotation(function: Any, signature: inspect.Signature) -> tuple[type, ...]:
    """The event classes that an action says it takes; empty where that cannot be known."""
    parameters = list(signature.parameters.values())
    if len(parameters) < 2:
        return ()
    annotation = parameters[1].annotation
    if isinstance(annotation, str):
        scope = getattr(inspect.unwrap(function), "__globals__", {})
        found = [scope.get(word.strip()) for word in annotation.split("|")]
    else:
        found = list(typing.get_args(annotation) or (annotation,))
    # One that cannot be resolved makes the whole unknown.
    if all(isinstance(one, type) and issubclass(one, Event) for one in found):
        return tuple(one for one in found if isinstance(one, type))
    return ()


def _check_reach(table: dict[str, list[Row]], faults: _Faults) -> None:
    if not table:
        return
    reached: set[str] = set()
    todo = [next(iter(table))]
    while todo:
        state = todo.pop()
        if state in reached or state not in table:
            continue
        reached.add(state)
        todo.extend(target for row in table[state] for target in _targets(row))
    for state, rows in table.items():
        if state not in reached:
            place = (rows[0].file, rows[0].line) if rows else None
            faults.at(
                place, f"{state}: no row reaches this state; the initial one is {next(iter(table))}"
            )


def _check_events(cls: type[GObj], table: dict[str, list[Row]], faults: _Faults) -> None:
    named: dict[str, type[Event]] = {}
    used: list[tuple[Any, tuple[str, int] | None, str]] = [
        (row.event, (row.file, row.line), f"{state}: {row!r}")
        for state, rows in table.items()
        for row in rows
        if row.kind == "on"
    ]
    if isinstance(cls.outputs, (list, tuple)):
        used += [(event, None, "outputs") for event in cls.outputs]
    else:
        faults.at(None, f"outputs: expected a list of event classes, got {cls.outputs!r}")
    for event, place, where in used:
        if not _is_event(event):
            if where == "outputs":
                faults.at(None, f"outputs: expected event classes, got {event!r}")
            continue
        other = named.setdefault(event.__name__, event)
        if other is not event:
            faults.at(
                place,
                f"{where}: two events are named {event.__name__}: "
                f"{other.__module__}.{other.__qualname__} and "
                f"{event.__module__}.{event.__qualname__}",
            )
        if event.__struct_config__.frozen:
            faults.at(
                place,
                f"{where}: {event.__name__} is frozen, so it cannot carry its source; "
                "leave out frozen=True",
            )


def _check_unused_actions(cls: type[GObj], table: dict[str, list[Row]], faults: _Faults) -> None:
    body = cls.__dict__
    if "machine" not in body:
        return
    rows_of_all = [row for rows in table.values() for row in rows]
    used = [_bound(cls, given) for row in rows_of_all for given in (row.action, row.when)]
    for name, value in body.items():
        if name.startswith("ac_") and inspect.isfunction(value) and value not in used:
            code = value.__code__
            faults.at(
                (code.co_filename, code.co_firstlineno),
                f"{name} is in no row of the machine; add a row, or name it without 'ac_'",
            )


def _check_config(cls: type[GObj], bases: Iterable[type[GObj]], faults: _Faults) -> None:
    configs = {base.config: f"{base.__name__}.config" for base in bases}
    if not (isinstance(cls.config, type) and all(issubclass(cls.config, one) for one in configs)):
        faults.at(
            None,
            "config: must derive from the config of every base; write "
            f"`class config({', '.join(configs.values())}):`",
        )


def _compiled(cls: type[GObj], table: dict[str, list[Row]]) -> Machine:
    machine = Machine(cls.__qualname__)
    rows_of_all = [row for rows in table.values() for row in rows]
    machine.postpones = any(isinstance(row.action, Postpone) for row in rows_of_all)
    tracks_may = any(row.may for row in rows_of_all)
    machine.events = {row.event.__name__: row.event for row in rows_of_all if row.kind == "on"}
    machine.accepted = frozenset(machine.events.values())
    for name, rows in table.items():
        state = machine.states[name] = State(name, rows)
        state.machine = machine
        state.tomb = State(name)
        state.tomb.machine = machine
        state.tomb.tomb = state.tomb
    machine.initial = next(iter(machine.states.values()))

    def allowing(row: Row, action: Callable[..., Any]) -> Callable[..., Any]:
        return _allowing(action, frozenset(row.may)) if tracks_may else action

    def handler_of(row: Row, state: State) -> Handler:
        if isinstance(row.action, Postpone):
            return _postpone
        if row.action is None:
            action: Handler = _nothing
        else:
            action = allowing(row, _bound(cls, row.action))
        target = machine.states.get(row.next_state or "", state)
        return action if target is state else _changing(action, target, state)

    def after_of(row: Row, state: State) -> After:
        action = None if row.action is None else allowing(row, _bound(cls, row.action))
        target = machine.states.get(row.next_state or "", state)

        def run(gobj: GObj) -> Any:
            change_state(gobj, target)
            return None if action is None or gobj.destroyed else action(gobj)

        return After(row.seconds, _retrying(run) if machine.postpones else run)

    for state in machine.states.values():
        by_event: dict[type[Event], list[Row]] = {}
        for row in state.rows:
            if row.kind == "on":
                by_event.setdefault(row.event, []).append(row)
            elif row.kind == "enter":
                state.enter = allowing(row, _bound(cls, row.action))
            elif row.kind == "leave":
                state.leave = allowing(row, _bound(cls, row.action))
        state.afters = tuple(after_of(row, state) for row in state.rows if row.kind == "after")
        for event, rows in by_event.items():
            if rows[0].when is None:
                handler = handler_of(rows[0], state)
            else:
                handler = _guarded(
                    [
                        (
                            None if row.when is None else _bound(cls, row.when),
                            handler_of(row, state),
                        )
                        for row in rows
                    ]
                )
            state[event] = _retrying(handler) if machine.postpones else handler
    return machine


def _bound(cls: type[GObj], function: Any) -> Any:
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


def _targets(row: Row) -> tuple[str, ...]:
    return row.may if row.next_state is None else (row.next_state, *row.may)


def _state_name(given: object) -> str:
    return given if isinstance(given, str) else str(given)


def _is_event(given: object) -> bool:
    """A class that an event can have. `Event` itself is no message, and rows match exactly."""
    return isinstance(given, type) and issubclass(given, Event) and given is not Event


def _name(of: Any) -> str:
    return "None" if of is None else str(getattr(of, "__name__", None) or repr(of))


def _at(function: Any) -> str:
    code = getattr(function, "__code__", None)
    return f" (defined at {_short(code.co_filename)}:{code.co_firstlineno})" if code else ""


def _short(file: str) -> str:
    """The path as a person would type it from where the program runs."""
    try:
        return file.removeprefix(os.getcwd() + os.sep)
    except FileNotFoundError:
        # The working directory has been removed.
        return file
