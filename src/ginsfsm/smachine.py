"""The machine that a table is compiled into, and how it runs.

A `State` *is* its row table: a dictionary from the class of an event to one function
`(gobj, event)`. A gobj holds a reference to the `State` it is in, so a delivery is one look-up and
one call. What a row needs beyond its action is put into that function when it is compiled, and
only there: a row without guard, next state and postponement is its bare action.

The table is compiled once, when the class is created, and only if it has no fault.

A change of state goes in this order: `leave` of the old state, its `after` timers are cancelled,
the state is set, `enter` of the new one, its `after` timers start, and then the row's action runs.
So in an action the next state is already set, and if the action raises, the new state stands.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias, TypeVar

from ginsfsm.errors import EventError, nearest
from ginsfsm.event import Event
from ginsfsm.fault import checked_table
from ginsfsm.inspection import Transition
from ginsfsm.row import Postpone, Row, Table, bound

if TYPE_CHECKING:
    from ginsfsm.gobj import GObj

__all__ = [
    "NOT_ACCEPTED",
    "After",
    "Machine",
    "NotAccepted",
    "Postponed",
    "State",
    "Witness",
    "change_state",
    "compile_machine",
    "enter_initial",
    "recompile",
]

Handler: TypeAlias = Callable[[Any, Any], Any]
Hook: TypeAlias = Callable[[Any], Any]
F = TypeVar("F", bound=Callable[..., Any])


class NotAccepted:
    """The type of `NOT_ACCEPTED`; it is false."""

    __slots__ = ()

    def __bool__(self) -> Literal[False]:
        return False

    def __repr__(self) -> str:
        return "NOT_ACCEPTED"


NOT_ACCEPTED: Final = NotAccepted()
"""What `send_event` returns when the present state does not accept the event. It is falsy."""


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
    if state.hooked:
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
            if guard is None:
                return handler(gobj, event)
            chosen = guard(gobj, event)
            if gobj.destroyed:
                # It died in its guard. No row has taken the event, and no other is asked.
                return NOT_ACCEPTED
            if chosen:
                return handler(gobj, event)
        return gobj._refuse(event)

    return run


# What wraps an action stands twice below, for a row with an event and for one without: one that
# takes `*event` would serve both, and cost each delivery 100 ns of the 290 that it then takes.


def _allowing(action: Handler, may: frozenset[str]) -> Handler:
    """The action, with `set_new_state` allowed to go to these states and no others."""

    def run(gobj: GObj, event: Event) -> Any:
        before = gobj._may
        gobj._may = may
        try:
            return action(gobj, event)
        finally:
            gobj._may = before

    return run


def _allowing_hook(action: Hook, may: frozenset[str]) -> Hook:
    """Likewise, for the action of `after`, `enter` or `leave`."""

    def run(gobj: GObj) -> Any:
        before = gobj._may
        gobj._may = may
        try:
            return action(gobj)
        finally:
            gobj._may = before

    return run


def _retrying(handler: Handler) -> Handler:
    """The handler; and when the outermost delivery ends, the postponed events again."""

    def run(gobj: GObj, event: Event) -> Any:
        kept = gobj._postponed
        if kept is None:
            return handler(gobj, event)
        kept.depth += 1
        try:
            return handler(gobj, event)
        finally:
            kept.depth -= 1
            if kept.depth == 0 and kept.ripe:
                _retry(gobj, kept)

    return run


def _retrying_hook(hook: Hook) -> Hook:
    """Likewise, for what `after` runs: a timeout is an outermost delivery as well."""

    def run(gobj: GObj) -> Any:
        kept = gobj._postponed
        if kept is None:
            return hook(gobj)
        kept.depth += 1
        try:
            return hook(gobj)
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
    return _compiled(cls, checked_table(cls, bases, file, line))


class Witness(Protocol):
    """Wraps what a row runs, so as to see that it fires. Asked once a row, when it is compiled."""

    def __call__(self, cls: type[GObj], state: State, row: Row, run: F, /) -> F: ...


witness: Witness | None = None
"""Who sees the rows of the tables that are compiled from now on; without one none pays for it."""


def recompile(cls: type[GObj]) -> None:
    """Compile the table of a gclass again, which the witness of now sees.

    It holds for the gobjs that are made from now on.
    """
    table = {name: list(state.rows) for name, state in cls.compiled.states.items()}
    cls.compiled = _compiled(cls, table)


def _compiled(cls: type[GObj], table: Table) -> Machine:
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

    def action_of(row: Row) -> Handler:
        action: Handler = bound(cls, row.action)
        return _allowing(action, frozenset(row.may)) if tracks_may else action

    def hook_of(row: Row) -> Hook:
        action: Hook = bound(cls, row.action)
        return _allowing_hook(action, frozenset(row.may)) if tracks_may else action

    def seen(state: State, row: Row, run: F) -> F:
        return run if witness is None else witness(cls, state, row, run)

    def handler_of(row: Row, state: State) -> Handler:
        if isinstance(row.action, Postpone):
            return seen(state, row, _postpone)
        action = _nothing if row.action is None else action_of(row)
        target = machine.states.get(row.next_state or "", state)
        return seen(state, row, action if target is state else _changing(action, target, state))

    def after_of(row: Row, state: State) -> After:
        action = None if row.action is None else hook_of(row)
        target = machine.states.get(row.next_state or "", state)

        def run(gobj: GObj) -> Any:
            change_state(gobj, target)
            return None if action is None or gobj.destroyed else action(gobj)

        fire = seen(state, row, run)
        return After(row.seconds, _retrying_hook(fire) if machine.postpones else fire)

    for state in machine.states.values():
        by_event: dict[type[Event], list[Row]] = {}
        for row in state.rows:
            if row.kind == "on":
                by_event.setdefault(row.event, []).append(row)
            elif row.kind == "enter":
                state.enter = seen(state, row, hook_of(row))
            elif row.kind == "leave":
                state.leave = seen(state, row, hook_of(row))
        state.afters = tuple(after_of(row, state) for row in state.rows if row.kind == "after")
        for event, rows in by_event.items():
            if rows[0].when is None:
                handler = handler_of(rows[0], state)
            else:
                handler = _guarded(
                    [
                        (
                            None if row.when is None else bound(cls, row.when),
                            handler_of(row, state),
                        )
                        for row in rows
                    ]
                )
            state[event] = _retrying(handler) if machine.postpones else handler
    return machine
