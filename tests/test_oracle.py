"""Random machines, run beside an oracle that interprets their plain description.

A machine is described by dictionaries. `gclass_of` writes it down as a gclass, and `Oracle` acts it
out in the simplest words: it looks every row up anew, and of each postponed event it remembers in
which state it was postponed. Both must keep the same log, return the same results, raise the
same errors and end in the same states.
"""

from collections.abc import Callable
from typing import Any, ClassVar, NotRequired, TypedDict

from hypothesis import given, settings
from hypothesis import strategies as st

from ginsfsm import (
    NOT_ACCEPTED,
    POSTPONE,
    Event,
    GAplic,
    GObj,
    StateError,
    after,
    enter,
    leave,
    on,
)
from ginsfsm.smachine import Row
from ginsfsm.testing import ManualClock


class EV_0(Event):
    n: int


class EV_1(Event):
    n: int


class EV_2(Event):
    n: int


EVENTS: dict[str, type[Any]] = {"EV_0": EV_0, "EV_1": EV_1, "EV_2": EV_2}
STATES = ["ST_0", "ST_1", "ST_2", "ST_3"]

Op = tuple[str, Any]
"""What an action does: count up, send or post an event to itself, go to a state, raise."""


class RowSpec(TypedDict):
    when: str | None
    next: str | None
    may: list[str]
    ops: list[Op] | None
    postpone: NotRequired[bool]


class StateSpec(TypedDict):
    enter: list[Op] | None
    leave: bool
    after: tuple[int, str | None, list[Op]] | None
    rows: dict[str, list[RowSpec]]


Spec = dict[str, StateSpec]


class OnPurposeError(Exception):
    pass


GUARDS: dict[str, Callable[[int], bool]] = {
    "even": lambda counter: counter % 2 == 0,
    "odd": lambda counter: counter % 2 == 1,
    "big": lambda counter: counter > 3,
    "never": lambda counter: False,
}


class Player:
    """What the oracle and the gobj have in common: they do the words of an action, and log."""

    counter = 0
    serial = 0
    fuel = 0
    """How often an action may still send, post or raise; without a bound two rows could play
    ping-pong for ever."""
    log: list[Any]

    def do_send(self, event: str, n: int) -> object:
        raise NotImplementedError

    def do_post(self, event: str, n: int) -> None:
        raise NotImplementedError

    def do_go(self, state: str, may: list[str]) -> None:
        raise NotImplementedError

    def perform(self, ops: list[Op], may: list[str]) -> int:
        for word, argument in ops:
            if word == "count":
                self.counter += argument
            elif word == "go":
                self.do_go(argument, may)
            elif self.fuel > 0:
                self.fuel -= 1
                if word == "raise":
                    raise OnPurposeError
                self.serial += 1
                if word == "post":
                    self.do_post(argument, self.serial)
                else:
                    number = self.serial
                    self.log.append(("sent", number, self.do_send(argument, number)))
        return self.counter


class Oracle(Player):
    """Acts the description out. Its rules are those of section "semantics", in order."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.log = []
        self.state = next(iter(spec))
        self.changes = 0
        self.depth = 0
        self.kept: list[tuple[str, int, int]] = []
        """Postponed: event, number, and how many changes of state there had been."""
        self.posted: list[tuple[str, int]] = []
        self.time = 0
        self.due: int | None = None
        self.contained = 0
        self.enter()

    # A change of state

    def change(self, new: str) -> None:
        if new == self.state:
            return
        if self.spec[self.state]["leave"]:
            self.log.append(("leave", self.state))
        self.due = None
        self.state = new
        self.changes += 1
        self.enter()

    def enter(self) -> None:
        state = self.state
        ops, row = self.spec[state]["enter"], self.spec[state]["after"]
        try:
            if ops is not None:
                self.log.append(("enter", state))
                self.perform(ops, [])
        finally:
            if row is not None and self.state == state and self.due is None:
                self.due = self.time + row[0]

    # A delivery

    def deliver(self, event: str, n: int, again_at: int | None = None) -> object:
        rows = self.spec[self.state]["rows"].get(event)
        if rows is None:
            return NOT_ACCEPTED
        return self.outermost(lambda: self.run(rows, event, n, again_at))

    def outermost(self, work: Callable[[], object]) -> object:
        self.depth += 1
        try:
            return work()
        finally:
            self.depth -= 1
            if self.depth == 0:
                self.depth = 1
                try:
                    self.retry()
                finally:
                    self.depth = 0

    def run(self, rows: list[RowSpec], event: str, n: int, again_at: int | None) -> object:
        for row in rows:
            if row["when"] is not None:
                true = GUARDS[row["when"]](self.counter)
                self.log.append((row["when"], true))
                if not true:
                    continue
            if "postpone" in row:
                place = len(self.kept) if again_at is None else again_at
                self.kept.insert(place, (event, n, self.changes))
                return None
            if row["next"] is not None:
                self.change(row["next"])
            if row["ops"] is None:
                return None
            self.log.append(("action", self.state, event, n))
            return self.perform(row["ops"], row["may"])
        return NOT_ACCEPTED

    def retry(self) -> None:
        """The oldest one that was postponed before the last change, until there is none."""
        while True:
            for place, (event, n, changes) in enumerate(self.kept):
                if changes != self.changes:
                    del self.kept[place]
                    self.deliver(event, n, again_at=place)
                    break
            else:
                return

    # What an action says

    def do_send(self, event: str, n: int) -> object:
        return self.deliver(event, n)

    def do_post(self, event: str, n: int) -> None:
        self.posted.append((event, n))

    def do_go(self, state: str, may: list[str]) -> None:
        if state not in may:
            raise StateError
        self.change(state)

    # From outside

    def turn(self) -> None:
        posted, self.posted = self.posted, []
        for event, n in posted:
            try:
                self.deliver(event, n)
            except (OnPurposeError, StateError):
                self.contained += 1

    def advance(self) -> None:
        self.time += 1
        if self.due != self.time:
            return
        # A row that stays in the state does not start its time again; it is never due twice.
        row = self.spec[self.state]["after"]
        assert row is not None
        _, target, ops = row

        def fire() -> None:
            if target is not None:
                self.change(target)
            self.log.append(("late", self.state))
            self.perform(ops, [])

        try:
            self.outermost(fire)
        except (OnPurposeError, StateError):
            self.contained += 1


class Subject(Player, GObj):
    """The base of the gclasses that are written down from a description."""

    _constructed: ClassVar[bool] = False

    def start_up(self) -> None:
        self.log = []

    def do_send(self, event: str, n: int) -> object:
        return self.send_event(self, EVENTS[event](n))

    def do_post(self, event: str, n: int) -> None:
        self.post_event(self, EVENTS[event](n))

    def do_go(self, state: str, may: list[str]) -> None:
        self.set_new_state(state)


def row_of(event: str, spec: RowSpec) -> Row:
    when, ops, may = spec["when"], spec["ops"], spec["may"]

    def guard(gobj: Subject, event: Event) -> bool:
        assert when is not None
        true = GUARDS[when](gobj.counter)
        gobj.log.append((when, true))
        return true

    def action(gobj: Subject, event: Any) -> int:
        assert ops is not None
        gobj.log.append(("action", gobj.state, type(event).__name__, event.n))
        return gobj.perform(ops, may)

    if "postpone" in spec:
        return on(EVENTS[event], POSTPONE, when=None if when is None else guard)
    return on(
        EVENTS[event],
        None if ops is None else action,
        spec["next"],
        when=None if when is None else guard,
        may=may,
    )


def rows_of(spec: StateSpec) -> list[Row]:
    rows = [row_of(event, row) for event, choices in spec["rows"].items() for row in choices]
    entering, late = spec["enter"], spec["after"]

    def into(gobj: Subject) -> None:
        assert entering is not None
        gobj.log.append(("enter", gobj.state))
        gobj.perform(entering, [])

    def out(gobj: Subject) -> None:
        gobj.log.append(("leave", gobj.state))

    def expired(gobj: Subject) -> None:
        assert late is not None
        gobj.log.append(("late", gobj.state))
        gobj.perform(late[2], [])

    if entering is not None:
        rows.append(enter(into))
    if spec["leave"]:
        rows.append(leave(out))
    if late is not None:
        rows.append(after(late[0], expired, late[1]))
    return rows


def gclass_of(spec: Spec) -> type[Subject]:
    machine = {state: rows_of(one) for state, one in spec.items()}
    return type("Machine", (Subject,), {"machine": machine, "__module__": __name__})


# Descriptions


def targets_of(state: StateSpec) -> set[str]:
    rows = [row for choices in state["rows"].values() for row in choices]
    found = {target for row in rows for target in (row["next"], *row["may"]) if target}
    if state["after"] is not None and state["after"][1] is not None:
        found.add(state["after"][1])
    return found


def only_what_is_legal(spec: Spec) -> Spec:
    """The description without what a gclass refuses: unreached states, events in no state."""
    reached: list[str] = []
    todo = [next(iter(spec))]
    while todo:
        state = todo.pop()
        if state not in reached:
            reached.append(state)
            todo.extend(targets_of(spec[state]))
    legal = {state: one for state, one in spec.items() if state in reached}
    accepted = {event for one in legal.values() for event in one["rows"]}

    def known(ops: list[Op]) -> list[Op]:
        return [
            (word, argument)
            for word, argument in ops
            if (word not in ("send", "post") or argument in accepted)
            and (word != "go" or argument in legal)
        ]

    for state, one in legal.items():
        one["leave"] = one["leave"] and bool(targets_of(one) - {state})
        if one["enter"] is not None:
            one["enter"] = known(one["enter"])
        if one["after"] is not None:
            seconds, target, ops = one["after"]
            one["after"] = (seconds, target, known(ops))
        for choices in one["rows"].values():
            for row in choices:
                if row["ops"] is not None:
                    row["ops"] = known(row["ops"])
    return legal


events = st.sampled_from(list(EVENTS))
states = st.sampled_from(STATES)
plain_ops = (
    st.tuples(st.just("count"), st.integers(1, 2))
    | st.tuples(st.just("send"), events)
    | st.tuples(st.just("post"), events)
    | st.tuples(st.just("raise"), st.none())
)
sends: st.SearchStrategy[list[Op]] = st.just([]) | st.lists(
    st.tuples(st.just("send"), events), max_size=2
)
ops = st.lists(plain_ops | st.tuples(st.just("go"), states), max_size=3)


POSTPONED: RowSpec = {"when": None, "next": None, "may": [], "ops": None, "postpone": True}


@st.composite
def plain_row(draw: st.DrawFn) -> list[RowSpec]:
    """A row without much ado: where all are intricate, few events are postponed for long."""
    if draw(st.booleans()):
        return [POSTPONED]
    return [{"when": None, "next": draw(st.none() | states), "may": [], "ops": draw(sends)}]


@st.composite
def intricate_rows(draw: st.DrawFn) -> list[RowSpec]:
    guards: list[str | None] = list(draw(st.lists(st.sampled_from(list(GUARDS)), max_size=2)))
    if not guards or draw(st.booleans()):
        guards.append(None)
    rows: list[RowSpec] = []
    for when in guards:
        if draw(st.integers(0, 3)) == 0:
            rows.append({**POSTPONED, "when": when})
            continue
        rows.append(
            {
                "when": when,
                "next": draw(st.none() | states),
                "may": draw(st.lists(states, max_size=2, unique=True)),
                "ops": draw(st.none() | ops),
            }
        )
    return rows


state_specs = st.fixed_dictionaries(
    {
        "enter": st.none() | st.lists(plain_ops, max_size=2),
        "leave": st.booleans(),
        "after": st.none()
        | st.tuples(st.integers(1, 3), st.none() | states, st.lists(plain_ops, max_size=2)),
        "rows": st.dictionaries(events, plain_row() | intricate_rows(), min_size=2),
    }
)
any_specs: st.SearchStrategy[Any] = st.fixed_dictionaries(dict.fromkeys(STATES, state_specs))
specs: st.SearchStrategy[Spec] = any_specs.map(only_what_is_legal)
steps = st.lists(st.sampled_from([*EVENTS, *EVENTS, "turn", "advance"]), min_size=4, max_size=25)


def outcome(work: Callable[[], object]) -> object:
    try:
        return work()
    except (OnPurposeError, StateError) as error:
        return type(error)


@settings(max_examples=400)
@given(spec=specs, steps=steps, observed=st.booleans())
def test_a_machine_does_what_its_table_says(spec: Spec, steps: list[str], observed: bool) -> None:
    clock = ManualClock()
    app = GAplic("app", clock=clock)
    if observed:
        app.observe(lambda _: None)
    oracle = Oracle(spec)
    subject = app.create_gobj("subject", gclass_of(spec), app)
    accepted = {event for one in spec.values() for event in one["rows"]}
    for number, step in enumerate(steps, 1000):
        oracle.fuel = subject.fuel = 8
        if step == "turn":
            oracle.turn()
            app.deliver_posted()
        elif step == "advance":
            oracle.advance()
            clock.advance(1)
        elif step in accepted:
            wanted = outcome(lambda: oracle.deliver(step, number))  # noqa: B023
            event = EVENTS[step](number)
            assert outcome(lambda: app.send_event(subject, event)) == wanted  # noqa: B023
        assert subject.log == oracle.log
        assert subject.state == oracle.state
        assert subject.counter == oracle.counter
        assert app.contained_errors == oracle.contained
    app.destroy_gobj(app)
