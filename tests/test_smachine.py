"""Machines: what is wrong with a table, and how a right one runs."""

import functools
import inspect
import re
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import pytest

from ginsfsm import (
    NOT_ACCEPTED,
    POSTPONE,
    Event,
    EventError,
    GAplic,
    GObj,
    MachineError,
    StateError,
    after,
    enter,
    leave,
    on,
    param,
)
from ginsfsm.row import Row
from ginsfsm.smachine import NotAccepted
from ginsfsm.testing import ManualClock


class EV_A(Event):
    n: int = 0


class EV_B(Event):
    n: int = 0


class EV_C(Event):
    n: int = 0


class EV_GO(Event):
    """Changes the state."""


class EV_WORK(Event):
    n: int = 0


# A type checker refuses many rows before they can be wrong at run time; these let them through.
wrong_on: Any = on
wrong_after: Any = after
wrong_enter: Any = enter


# -- faults ----------------------------------------------------------------------------------------


def check_faults(declare: Callable[[], object]) -> str:
    """The class that `declare` makes has exactly the faults of its comments, on their lines.

    A comment `# fault: text` stands on the line that must be reported; ` && ` parts two faults of
    one line.
    """
    with pytest.raises(MachineError) as caught:
        declare()
    said = str(caught.value)
    head, *lines = said.splitlines()
    reported: list[tuple[int, str]] = []
    for line in lines:
        found = re.fullmatch(r"  (.+?):(\d+): (.+)", line)
        assert found is not None, line
        assert Path(found[1]).resolve() == Path(__file__).resolve()
        reported.append((int(found[2]), found[3]))
    source, first = inspect.getsourcelines(declare)
    expected = [
        (first + number, text.strip())
        for number, line in enumerate(source)
        if "# fault: " in line
        for text in line.partition("# fault: ")[2].split(" && ")
    ]
    assert expected
    missing = list(reported)
    for number, text in expected:
        for one in missing:
            if one[0] == number and text in one[1]:
                missing.remove(one)
                break
        else:
            pytest.fail(f"line {number}: {text!r} is not among\n{said}")
    assert not missing, said
    assert re.search(rf": {len(expected)} faults? in the class$", head), head
    return said


def test_an_unknown_next_state() -> None:
    def declare() -> None:
        class Gate(GObj):
            machine = {
                "ST_LOCKED": [
                    on(EV_A, None, "ST_LOKCED"),  # fault: no state 'ST_LOKCED'; did you mean 'ST_L
                    on(EV_B, None, may=("ST_X",)),  # fault: no state 'ST_X'; known: ST_LOCKED
                    after(1, None, ""),  # fault: there is no state ''
                ],
            }

    check_faults(declare)


def test_a_next_state_that_is_no_text() -> None:
    def declare() -> None:
        class Gate(GObj):
            machine = {
                "ST_A": [
                    wrong_on(EV_A, None, ["ST_A"]),  # fault: no state "['ST_A'
                    wrong_on(EV_B, None, 7),  # fault: there is no state '7'
                ],
            }

    check_faults(declare)


def test_a_state_that_no_row_reaches() -> None:
    def declare() -> None:
        class Gate(GObj):
            machine = {
                "ST_A": [on(EV_A, None)],
                "ST_LONELY": [
                    on(EV_A, None, "ST_LONELY"),  # fault: ST_LONELY: no row reaches this state
                    on(EV_B, None, "ST_A"),
                ],
            }

    said = check_faults(declare)
    assert "the initial one is ST_A" in said


def test_a_state_without_rows_that_no_row_reaches_is_reported_on_the_class() -> None:
    def declare() -> None:
        class Gate(GObj):  # fault: ST_LONELY: no row reaches this state
            machine = {"ST_A": [on(EV_A, None)], "ST_LONELY": []}

    check_faults(declare)


def test_two_states_that_reach_only_each_other() -> None:
    def declare() -> None:
        class Gate(GObj):
            machine = {
                "ST_A": [],
                "ST_B": [on(EV_A, None, "ST_C")],  # fault: ST_B: no row reaches
                "ST_C": [on(EV_A, None, "ST_B")],  # fault: ST_C: no row reaches
            }

    check_faults(declare)


def test_may_and_after_reach_a_state() -> None:
    class Gate(GObj):
        machine = {
            "ST_A": [on(EV_A, None, may=("ST_B",)), after(1, None, "ST_C")],
            "ST_B": [],
            "ST_C": [],
        }

    assert list(Gate.compiled.states) == ["ST_A", "ST_B", "ST_C"]


def test_a_row_that_can_never_fire() -> None:
    def declare() -> None:
        class Gate(GObj):
            def ready(self, event: EV_A) -> bool:
                return True

            def act(self) -> None:
                pass

            machine = {
                "ST_A": [
                    on(EV_A, None, when=ready),
                    on(EV_A, None),
                    on(EV_A, None, when=ready),  # fault: can never fire: line
                    on(EV_A, POSTPONE),  # fault: can never fire: line
                    enter(act),
                    enter(act),  # fault: can never fire: line
                    leave(act),  # fault: can never fire: no row goes out of this state
                    leave(act),  # fault: is the leave of this state && can never fire: no row
                ],
            }

    said = check_faults(declare)
    line = inspect.getsourcelines(declare)[1] + 11
    assert f"can never fire: line {line} takes EV_A without a guard" in said


def test_leave_may_fire_where_an_action_goes_on_to_another_state() -> None:
    class Gate(GObj):
        def ac_go_on(self, event: EV_A) -> None:
            self.set_new_state("ST_C")

        def left(self) -> None:
            self.has_left = True

        machine = {
            "ST_A": [on(EV_A, ac_go_on, "ST_B", may=("ST_C",))],
            "ST_B": [leave(left)],
            "ST_C": [],
        }

    app = GAplic("app")
    gate = app.create_gobj("gate", Gate, app)
    app.send_event(gate, EV_A())
    assert gate.state == "ST_C"
    assert gate.has_left


def test_an_action_that_takes_the_wrong_arguments() -> None:
    def declare() -> None:
        class Gate(GObj):
            def no_event(self) -> None: ...
            def two(self, event: EV_A, more: int) -> None: ...
            def keyword(self, *, event: EV_A) -> None: ...
            def fine(self, event: EV_A, more: int = 0) -> None: ...
            def any_number(self, *args: object) -> None: ...

            machine = {
                "ST_A": [
                    wrong_on(EV_A, no_event),  # fault: no_event(self) -> None is ca
                    wrong_on(EV_B, two),  # fault: the action two(self, event:
                    wrong_on(EV_C, keyword),  # fault: called with (self, event)
                    wrong_enter(fine),  # fault: the action fine(self, event:
                    wrong_after(1, fine),  # fault: is called with (self) (defined
                    wrong_on(EV_GO, None, when=no_event),  # fault: the guard no_eve
                    on(EV_WORK, any_number),
                ],
            }

    check_faults(declare)


def test_an_action_for_another_event() -> None:
    def declare() -> None:
        class Gate(GObj):
            def take_b(self, event: EV_B) -> None: ...
            def take_a_or_b(self, event: EV_A | EV_B) -> None: ...
            def take_text(self, event: "EV_A | EV_B") -> None: ...
            def take_any(self, event: Event) -> None: ...
            def take_anything(self, event: Any) -> None: ...
            def take(self, event): ...  # type: ignore[no-untyped-def]

            machine = {
                "ST_A": [
                    wrong_on(EV_A, take_b),  # fault: action take_b takes EV_B, no
                    on(EV_B, take_a_or_b),
                    wrong_on(EV_C, take_text),  # fault: takes EV_A | EV_B, not EV_C
                    wrong_on(EV_GO, take_any, when=take_b),  # fault: guard take_b t
                    on(EV_GO, take_anything, when=take),
                ],
            }

    check_faults(declare)


def test_an_action_may_take_a_base_of_the_event() -> None:
    class EV_SPECIAL(EV_A):
        pass

    class Gate(GObj):
        def take_a(self, event: EV_A) -> int:
            return event.n

        machine = {"ST_A": [on(EV_SPECIAL, take_a)]}

    app = GAplic("app")
    gate = app.create_gobj("gate", Gate, app)
    assert app.send_event(gate, EV_SPECIAL(7)) == 7
    with pytest.raises(EventError, match="'EV_A' in no state"):
        app.send_event(gate, EV_A(7))


def test_an_action_that_cannot_be_called() -> None:
    def declare() -> None:
        class Gate(GObj):
            machine = {
                "ST_A": [
                    wrong_on(EV_A, "ac_open"),  # fault: expected a method as the ac
                    wrong_on(EV_B, None, when=True),  # fault: a method as the guard
                    wrong_enter(None),  # fault: expected an action
                ],
            }

    check_faults(declare)


def test_coroutines_and_generators_are_no_actions() -> None:
    def declare() -> None:
        class Gate(GObj):
            async def open(self, event: EV_A) -> None: ...
            async def stream(self, event: EV_A) -> Any:
                yield 1

            def count(self, event: EV_A) -> Iterator[int]:
                yield 1

            machine = {
                "ST_A": [
                    on(EV_A, open),  # fault: the action open is a coroutine function and would
                    wrong_on(EV_B, stream),  # fault: stream is a coroutine function
                    wrong_on(EV_C, count),  # fault: count has a yield, so
                    wrong_on(EV_GO, None, when=open),  # fault: the guard open is a
                ],
            }

    assert "start a coroutine from it with self.spawn(...)" in check_faults(declare)


def test_postpone_with_a_next_state_or_in_the_wrong_place() -> None:
    def declare() -> None:
        class Gate(GObj):
            machine = {
                "ST_A": [
                    on(EV_A, POSTPONE, "ST_B"),  # fault: POSTPONE with a next state
                    on(EV_B, POSTPONE, may=("ST_B",)),  # fault: POSTPONE with a next state
                    wrong_enter(POSTPONE),  # fault: it has no place here
                    wrong_after(1, POSTPONE),  # fault: it has no place here
                ],
                "ST_B": [],
            }

    check_faults(declare)


def test_two_events_of_one_name() -> None:
    def other() -> type[Event]:
        class EV_A(Event):
            pass

        return EV_A

    ours, theirs = EV_A, other()

    def declare() -> None:
        class Gate(GObj):
            machine = {
                "ST_A": [
                    on(ours, None, "ST_B"),
                ],
                "ST_B": [
                    on(theirs, None),  # fault: two events are named EV_A
                ],
            }

    assert f"{__name__}.EV_A and {__name__}.test_two" in check_faults(declare)


def test_an_output_with_the_name_of_an_input() -> None:
    def other() -> type[Event]:
        class EV_A(Event):
            pass

        return EV_A

    theirs = other()

    def declare() -> None:
        class Gate(GObj):  # fault: outputs: two events are named EV_A
            outputs = (theirs,)
            machine = {"ST_A": [on(EV_A, None)]}

    check_faults(declare)


def test_an_event_may_be_input_and_output() -> None:
    class Gate(GObj):
        outputs = (EV_A,)
        machine = {"ST_A": [on(EV_A, None)]}

    assert Gate.compiled.event_class("EV_A") is EV_A


def test_outputs_must_be_event_classes() -> None:
    def declare() -> None:
        class Gate(GObj):  # fault: outputs: expected event classes, got 'EV_A' && got EV_B(n=0)
            outputs: Any = ("EV_A", EV_B())

    check_faults(declare)


def test_outputs_must_be_a_list() -> None:
    def declare() -> None:
        class Gate(GObj):  # fault: outputs: expected a list of event classes, got <class
            outputs: Any = EV_A

    check_faults(declare)


def test_a_frozen_event() -> None:
    class EV_FROZEN(Event, frozen=True):  # type: ignore[misc]
        pass

    def declare() -> None:
        class Gate(GObj):
            machine = {
                "ST_A": [
                    on(EV_FROZEN, None),  # fault: EV_FROZEN is frozen, so it cannot carry its sour
                ],
            }

    check_faults(declare)


def test_what_is_no_event_class() -> None:
    def declare() -> None:
        class Gate(GObj):
            machine = {
                "ST_A": [
                    wrong_on("EV_A", None),  # fault: derived from Event, got 'EV_A'
                    wrong_on(EV_A(), None),  # fault: expected a class derived from
                    wrong_on([EV_A], None),  # fault: expected a class derived from
                    wrong_on(int, None),  # fault: derived from Event, got int
                    on(Event, None),  # fault: derived from Event, got Event; events are told apart
                ],
            }

    check_faults(declare)


def test_an_action_in_no_row() -> None:
    def declare() -> None:
        class Gate(GObj):
            def ac_used(self, event: EV_A) -> None: ...
            def ac_forgotten(self, event: EV_A) -> None: ...  # fault: ac_forgotten is in no row
            def helper(self) -> None: ...

            machine = {"ST_A": [on(EV_A, ac_used)]}

    check_faults(declare)


def test_an_action_that_is_not_named_as_it_was_defined_is_used_all_the_same() -> None:
    def adder(number: int) -> Callable[[Any, EV_A], int]:
        def action(self: Any, event: EV_A) -> int:
            return event.n + number

        return action

    class Gate(GObj):
        ac_one = adder(1)
        ac_two = adder(2)
        machine = {
            "ST_A": [on(EV_A, ac_one, "ST_B")],
            "ST_B": [on(EV_A, ac_two, "ST_A")],
        }

    class Hundred(Gate):
        ac_two = adder(100)

    app = GAplic("app")
    gate, hundred = app.create_gobj("gate", Gate, app), app.create_gobj("hundred", Hundred, app)
    assert [app.send_event(gate, EV_A(0)) for _ in range(2)] == [1, 2]
    assert [app.send_event(hundred, EV_A(0)) for _ in range(2)] == [1, 100]


def test_actions_are_not_counted_where_the_table_is_inherited() -> None:
    class Gate(GObj):
        def ac_open(self, event: EV_A) -> None: ...

        machine = {"ST_A": [on(EV_A, ac_open)]}

    class Loud(Gate):
        def ac_shout(self, event: EV_A) -> None: ...

    class Mixed(Gate):
        def ac_open(self, event: EV_A) -> None: ...

        machine = {**Gate.machine}

    assert Loud.compiled.initial.name == Mixed.compiled.initial.name == "ST_A"


def test_a_table_and_parameters_under_another_name() -> None:
    def declare_table() -> None:
        class Gate(GObj):  # fault: machin: a table of rows is read under the name `machine`
            machin = {"ST_A": [on(EV_A, None)]}

    def declare_config() -> None:
        class Gate(GObj):  # fault: Config: the class of the parameters is read under
            class Config(GObj.config):
                width: int = param(1, "width")

    def declare_param() -> None:
        class Gate(GObj):  # fault: width: a parameter stands in the nested class: `class config(G
            width: int = param(1, "width")

    for declare in (declare_table, declare_config, declare_param):
        check_faults(declare)


def test_what_a_machine_and_a_config_are_made_from_may_have_another_name() -> None:
    class Gate(GObj):
        class Sizes(GObj.config):
            width: int = param(1, "width")

        class config(Sizes):
            height: int = param(2, "height")

        common = {"ST_A": [on(EV_A, None, "ST_B")]}
        machine = {**common, "ST_B": [on(EV_B, None)]}

    class Other(GObj):
        timer_config = Gate.config
        names = {"ST_A": ["one"]}

    assert [row[0] for row in Gate.config.table()] == ["width", "height"]
    assert Other.names == {"ST_A": ["one"]}


def test_what_the_library_calls_is_no_coroutine() -> None:
    def declare() -> None:
        class Gate(GObj):
            async def start_up(self) -> None: ...  # fault: start_up is a coroutine function
            async def go_out(self) -> None: ...  # fault: go_out is a coroutine function

    check_faults(declare)


def test_what_only_acts_as_a_function_is_told_at_the_class() -> None:
    async def start(self: Any) -> None: ...

    def declare_partial() -> None:
        class Gate(GObj):  # fault: start_up is a coroutine function
            start_up = functools.partial(start)  # type: ignore[assignment]

    def declare_init() -> None:
        class Gate(GObj):  # fault: write start_up(self) instead
            __init__ = functools.partialmethod(start)  # type: ignore[assignment]

    check_faults(declare_partial)
    check_faults(declare_init)


def test_a_nested_config_must_derive_from_the_config_of_the_base() -> None:
    class Gate(GObj):
        class config(GObj.config):
            width: int = param(1, "width")

    def declare() -> None:
        class Wide(Gate):  # fault: write `class config(Gate.config):`
            class config(GObj.config):
                pass

    def declare_none() -> None:
        class Wide(Gate):  # fault: config: must derive from the config of every base
            config = None  # type: ignore[assignment]

    check_faults(declare)
    check_faults(declare_none)


def test_two_bases_with_two_configs_need_a_config_of_both() -> None:
    class Gate(GObj):
        class config(GObj.config):
            width: int = param(1, "width")

    class Door(GObj):
        class config(GObj.config):
            height: int = param(2, "height")

    def declare() -> None:
        class Both(Gate, Door):  # type: ignore[misc]  # fault: write `class config(Gate.config, Door.config):`
            pass

    check_faults(declare)

    class Both(Gate, Door):
        class config(Gate.config, Door.config):
            pass

    assert [row[0] for row in Both.config.table()] == ["width", "height"]


def test_init_is_refused() -> None:
    def declare() -> None:
        class Gate(GObj):
            def __init__(self) -> None:  # fault: write start_up(self) instead
                pass

    check_faults(declare)


class _Mixin:
    def __init_subclass__(cls) -> None:
        super().__init_subclass__()


T = TypeVar("T")


class _Named(Protocol):
    def title(self) -> str: ...


@pytest.mark.parametrize(
    "bases",
    [(_Mixin, GObj), (Generic[T], GObj), (GObj, Generic[T]), (_Named, GObj), (GObj, _Named)],
    ids=["mixin", "generic", "generic last", "protocol", "protocol last"],
)
def test_a_fault_stands_at_the_class_statement_whatever_the_other_bases_do(
    bases: tuple[Any, ...],
) -> None:
    def fill(body: dict[str, Any]) -> None:
        body["machine"] = {}

    def make() -> type:
        return types.new_class("Gate", bases, {}, fill)

    line = make.__code__.co_firstlineno + 1
    with pytest.raises(MachineError, match=rf"test_smachine\.py:{line}: machine: expected a table"):
        make()


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        ("tiemout", "there is no parameter 'tiemout'; did you mean 'timeout'?"),
        ("host", "the parameter 'host' holds no number of seconds"),
        ("maybe_text", "the parameter 'maybe_text' holds no number of seconds"),
        ("flag", "the parameter 'flag' holds no number of seconds"),
        (None, "expected seconds or the name of a parameter, got None"),
        (True, "expected seconds or the name of a parameter, got True"),
        (10**400, "expected seconds or the name of a parameter, got 1000"),
        (float("nan"), "expected seconds or the name of a parameter, got nan"),
    ],
)
def test_after_without_a_number_of_seconds(seconds: Any, said: str) -> None:
    with pytest.raises(MachineError) as caught:

        class Gate(GObj):
            class config(GObj.config):
                timeout: float | None = param(None, "seconds")
                host: str = param("x", "host")
                maybe_text: str | None = param(None, "text")
                flag: bool = param(False, "flag")

            machine = {"ST_A": [after(seconds, None, "ST_B")], "ST_B": []}

    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("machine", "said"),
    [
        ({}, "machine: expected a table"),
        (None, "machine: expected a table"),
        ([on(EV_A, None)], "machine: expected a table"),
        ({"": []}, "machine: '': expected the name of a state, such as 'ST_IDLE'"),
        ({"ST_A": [], 7: []}, "machine: 7: expected the name of a state"),
        ({"ST_A": on(EV_A, None)}, "ST_A: expected a list of rows, got Row"),
        (
            {"ST_A": [(EV_A, check_faults, "ST_A")]},
            "ST_A: (EV_A, check_faults, 'ST_A') is no row; write on(EV_X, ac_x, 'ST_Y')",
        ),
        ({"ST_A": [[EV_A, None]]}, "ST_A: (EV_A, None) is no row; write on(EV_X"),
        ({"ST_A": [EV_A, "EV_B"]}, "ST_A: EV_A is no row; write on(EV_X"),
        ({"ST_A": [EV_A, "EV_B"]}, "ST_A: 'EV_B' is no row; write on(EV_X"),
        ({"ST_A": [7]}, "ST_A: 7 is no row; write on(EV_X"),
    ],
)
def test_a_table_of_another_form(machine: Any, said: str) -> None:
    with pytest.raises(MachineError, match=re.escape(said)):
        type("Gate", (GObj,), {"machine": machine})


def test_all_faults_are_reported_at_once_and_the_class_does_not_exist() -> None:
    def declare() -> None:
        class Gate(GObj):  # fault: config: must derive
            class config:
                pass

            def ac_unused(self, event: EV_A) -> None: ...  # fault: ac_unused is in no row

            machine = {
                "ST_A": [
                    on(  # fault: there is no state 'ST_NOWHERE'
                        EV_A,
                        None,
                        "ST_NOWHERE",
                    ),
                    on(EV_B, None),
                    on(EV_B, None),  # fault: can never fire
                ],
                "ST_B": [after("never", None)],  # fault: no parameter 'never' && no row reaches
            }

    assert ": 6 faults in the class\n" in check_faults(declare)


def test_repr_of_a_row_is_what_was_written() -> None:
    def ac_open(self: GObj, event: EV_A) -> None: ...
    def close(self: GObj) -> None: ...

    rows: list[Row] = [
        on(EV_A, ac_open, "ST_B", when=ac_open, may=("ST_C",)),
        on(EV_A, None, may="ST_C"),
        on(EV_A, POSTPONE),
        after("timeout", close, "ST_B"),
        after(1.5, None),
        enter(close),
        leave(close),
    ]
    assert [repr(row) for row in rows] == [
        "on(EV_A, ac_open, 'ST_B', when=ac_open, may=('ST_C',))",
        "on(EV_A, None, may=('ST_C',))",
        "on(EV_A, POSTPONE)",
        "after('timeout', close, 'ST_B')",
        "after(1.5, None)",
        "enter(close)",
        "leave(close)",
    ]


# -- running ---------------------------------------------------------------------------------------


class Clock(ManualClock):
    """A clock that says how many timers are set."""

    @property
    def timers(self) -> int:
        return len(self._timers)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["plain", "observed"])
def app(request: pytest.FixtureRequest, clock: Clock) -> GAplic:
    """With an observer every delivery goes another way, which must come to the same."""
    app = GAplic("app", clock=clock)
    if request.param == "observed":
        app.observe(lambda _: None)
    return app


class Logged(GObj):
    """Keeps a log of what its machine did."""

    def start_up(self) -> None:
        self.log: list[str] = []

    def note(self, word: str) -> None:
        self.log.append(f"{word} in {self.state[3:]}")

    def taken(self) -> list[str]:
        log, self.log = self.log, []
        return log


class Door(Logged):
    """Every kind of row but POSTPONE."""

    class config(GObj.config):
        patience: float | None = param(5.0, "seconds")

    def into(self) -> None:
        self.note("enter")

    def out(self) -> None:
        self.note("leave")

    def late(self) -> None:
        self.note("late")

    def ac_work(self, event: EV_WORK) -> int:
        self.note("work")
        return event.n * 2

    def ac_same(self, event: EV_B) -> None:
        self.note("same")

    def ac_go(self, event: EV_GO) -> str:
        self.note("go")
        return "gone"

    def odd(self, event: EV_A) -> bool:
        self.note(f"odd {event.n}")
        return event.n % 2 == 1

    def big(self, event: EV_A) -> bool:
        self.note(f"big {event.n}")
        return event.n > 10

    def ac_odd(self, event: EV_A) -> str:
        return "odd"

    def ac_big(self, event: EV_A) -> str:
        return "big"

    def ac_fails(self, event: EV_C) -> None:
        self.note("fails")
        raise ValueError("on purpose")

    machine = {
        "ST_A": [
            enter(into),
            leave(out),
            after("patience", late, "ST_B"),
            on(EV_GO, ac_go, "ST_B"),
            on(EV_WORK, ac_work),
            on(EV_A, ac_odd, when=odd),
            on(EV_A, ac_big, "ST_B", when=big),
            on(EV_B, ac_same, "ST_A"),
            on(EV_C, ac_fails, "ST_B"),
        ],
        "ST_B": [
            enter(into),
            leave(out),
            after(3, late),
            after(7, None, "ST_A"),
            after(0, late, "ST_A"),
            on(EV_GO, None, "ST_A"),
            on(EV_WORK, None),
        ],
    }


@pytest.fixture
def door(app: GAplic) -> Door:
    door = app.create_gobj("door", Door, app)
    # start_up has made the log, then the initial state was entered.
    assert door.taken() == ["enter in A"]
    return door


def test_the_first_state_is_the_initial_one(door: Door) -> None:
    assert door.state == door.get_current_state() == "ST_A"


def test_a_plain_row_returns_what_its_action_returns(app: GAplic, door: Door) -> None:
    assert app.send_event(door, EV_WORK(21)) == 42
    assert door.taken() == ["work in A"]


def test_a_plain_row_is_its_bare_action() -> None:
    assert Door.compiled.initial[EV_WORK] is Door.ac_work


def test_a_change_goes_leave_enter_action_with_the_next_state_set_before_the_action(
    app: GAplic, door: Door
) -> None:
    assert app.send_event(door, EV_GO()) == "gone"
    assert door.taken() == ["leave in A", "enter in B", "go in B"]


def test_the_action_none_does_nothing_and_returns_none(app: GAplic, door: Door) -> None:
    app.send_event(door, EV_GO())
    assert app.send_event(door, EV_WORK(1)) is None
    assert app.send_event(door, EV_GO()) is None
    assert door.state == "ST_A"


def test_a_row_to_its_own_state_runs_neither_leave_nor_enter(app: GAplic, door: Door) -> None:
    app.send_event(door, EV_B())
    assert door.taken() == ["same in A"]


def test_if_the_action_raises_the_new_state_stands(app: GAplic, door: Door) -> None:
    with pytest.raises(ValueError, match="on purpose"):
        app.send_event(door, EV_C())
    assert door.state == "ST_B"
    assert door.taken() == ["leave in A", "enter in B", "fails in B"]


def test_guards_are_asked_in_order_and_the_first_true_one_counts(app: GAplic, door: Door) -> None:
    assert app.send_event(door, EV_A(11)) == "odd"
    assert door.taken() == ["odd 11 in A"]
    assert app.send_event(door, EV_A(12)) == "big"
    assert door.taken() == ["odd 12 in A", "big 12 in A", "leave in A", "enter in B"]


def test_where_no_guard_is_true_the_event_is_not_accepted(app: GAplic, door: Door) -> None:
    result = app.send_event(door, EV_A(2))
    assert result is NOT_ACCEPTED
    assert not result
    assert repr(result) == "NOT_ACCEPTED"
    assert isinstance(result, NotAccepted)
    assert app.refused_events == 1
    assert door.state == "ST_A"


def test_a_row_without_guard_takes_what_the_guards_before_it_leave(app: GAplic) -> None:
    class Sorter(GObj):
        def odd(self, event: EV_A) -> bool:
            return event.n % 2 == 1

        machine = {
            "ST_A": [on(EV_A, lambda self, event: "odd", when=odd), on(EV_A, None, "ST_B")],
            "ST_B": [],
        }

    sorter = app.create_gobj("sorter", Sorter, app)
    assert app.send_event(sorter, EV_A(1)) == "odd"
    assert app.send_event(sorter, EV_A(2)) is None
    assert sorter.state == "ST_B"


def test_a_guard_that_raises_changes_nothing(app: GAplic) -> None:
    class Gate(GObj):
        machine = {
            "ST_A": [on(EV_A, None, "ST_B", when=lambda self, event: 1 // event.n)],
            "ST_B": [],
        }

    gate = app.create_gobj("gate", Gate, app)
    with pytest.raises(ZeroDivisionError):
        app.send_event(gate, EV_A(0))
    assert gate.state == "ST_A"
    app.send_event(gate, EV_A(1))
    assert gate.state == "ST_B"


@pytest.mark.parametrize("answer", [True, False])
def test_a_gobj_that_dies_in_its_guard_runs_nothing_more(app: GAplic, answer: bool) -> None:
    class Gate(Logged):
        def dies(self, event: EV_A) -> bool:
            self.note("dies")
            self.destroy_gobj(self)
            return answer

        def next_guard(self, event: EV_A) -> bool:
            self.note("next guard")
            return True

        def ac_take(self, event: EV_A) -> str:
            self.note("action")
            return "taken"

        machine = {
            "ST_A": [
                on(EV_A, ac_take, when=dies),
                on(EV_A, ac_take, when=next_guard),
                on(EV_A, ac_take),
            ]
        }

    gate = app.create_gobj("gate", Gate, app)
    assert app.send_event(gate, EV_A()) is NOT_ACCEPTED
    assert gate.log == ["dies in A"]
    # As with any event to a destroyed gobj: nobody had to have a row for it.
    assert app.refused_events == 0


def test_a_gobj_that_dies_in_the_guard_of_a_postponed_event_keeps_nothing(app: GAplic) -> None:
    class Gate(GObj):
        def dies(self, event: EV_A) -> bool:
            self.destroy_gobj(self)
            return True

        machine = {"ST_A": [on(EV_A, POSTPONE, when=dies)]}

    gate = app.create_gobj("gate", Gate, app)
    assert app.send_event(gate, EV_A()) is NOT_ACCEPTED
    assert gate._postponed is not None
    assert len(gate._postponed) == 0


# after


def test_after_runs_its_action_in_the_next_state(clock: Clock, door: Door) -> None:
    clock.advance(4.9)
    assert door.taken() == []
    clock.advance(0.1)
    assert door.taken() == ["leave in A", "enter in B", "late in B"]


def test_after_without_next_state_fires_once_and_stays(clock: Clock, door: Door) -> None:
    clock.advance(5)
    door.taken()
    clock.advance(6.9)
    assert door.taken() == ["late in B"]
    clock.advance(0.1)
    assert door.taken() == ["leave in B", "enter in A"]


def test_a_change_of_state_cancels_after(app: GAplic, clock: Clock, door: Door) -> None:
    clock.advance(4.9)
    app.send_event(door, EV_GO())
    app.send_event(door, EV_GO())
    door.taken()
    assert clock.timers == 1
    clock.advance(4.9)
    assert door.taken() == []
    clock.advance(0.1)
    assert door.state == "ST_B"


def test_a_row_that_stays_does_not_start_after_again(app: GAplic, clock: Clock, door: Door) -> None:
    clock.advance(4.9)
    app.send_event(door, EV_B())
    app.send_event(door, EV_WORK())
    clock.advance(0.1)
    assert door.state == "ST_B"


@pytest.mark.parametrize("patience", [0.0, -1.0, None, float("inf")])
def test_a_parameter_can_disable_after(app: GAplic, clock: Clock, patience: float | None) -> None:
    door = app.create_gobj("door", Door, app, patience=patience)
    assert clock.timers == 0
    assert door.state == "ST_A"


def test_after_reads_its_parameter_when_the_state_is_entered(
    app: GAplic, clock: Clock, door: Door
) -> None:
    door.write_parameters(patience=1.0)
    clock.advance(4.9)
    assert door.state == "ST_A"
    app.send_event(door, EV_GO())
    app.send_event(door, EV_GO())
    clock.advance(1)
    assert door.state == "ST_B"


def test_a_constant_of_zero_disables_after(app: GAplic, clock: Clock, door: Door) -> None:
    app.send_event(door, EV_GO())
    assert clock.timers == 2


def test_after_starts_after_enter_and_before_the_action(app: GAplic, clock: Clock) -> None:
    class Gate(Logged):
        def into(self) -> None:
            self.note(f"enter with {clock.timers} timers")

        def out(self) -> None:
            self.note(f"leave with {clock.timers} timers")

        def ac_go(self, event: EV_GO) -> None:
            self.note(f"go with {clock.timers} timers")

        machine = {
            "ST_A": [after(1, None), leave(out), on(EV_GO, ac_go, "ST_B")],
            "ST_B": [after(1, None), after(2, None), enter(into)],
        }

    gate = app.create_gobj("gate", Gate, app)
    app.send_event(gate, EV_GO())
    assert gate.log == [
        "leave with 1 timers in A",
        "enter with 0 timers in B",
        "go with 2 timers in B",
    ]


def test_a_destroyed_gobj_has_no_timers_left(app: GAplic, clock: Clock, door: Door) -> None:
    assert clock.timers == 1
    app.destroy_gobj(door)
    assert clock.timers == 0


# enter and leave that do unusual things


def test_enter_that_goes_on_starts_only_the_timers_of_the_last_state(
    app: GAplic, clock: Clock
) -> None:
    class Gate(Logged):
        def into_b(self) -> None:
            self.note("enter")
            self.send_event(self, EV_A())

        def into_c(self) -> None:
            self.note("enter")

        def ac_go(self, event: EV_GO) -> None:
            self.note("go")

        machine = {
            "ST_A": [on(EV_GO, ac_go, "ST_B")],
            "ST_B": [enter(into_b), after(1, None, "ST_A"), on(EV_A, None, "ST_C")],
            "ST_C": [enter(into_c), after(2, None, "ST_A")],
        }

    gate = app.create_gobj("gate", Gate, app)
    app.send_event(gate, EV_GO())
    assert gate.log == ["enter in B", "enter in C", "go in C"]
    assert clock.timers == 1
    clock.advance(1.9)
    assert gate.state == "ST_C"
    clock.advance(0.1)
    assert gate.state == "ST_A"


def test_enter_that_goes_away_and_back_has_its_timers_once(app: GAplic, clock: Clock) -> None:
    class Gate(Logged):
        def into_b(self) -> None:
            self.note("enter")
            if len(self.log) == 1:
                self.send_event(self, EV_A())
                self.send_event(self, EV_A())

        machine = {
            "ST_A": [on(EV_GO, None, "ST_B")],
            "ST_B": [enter(into_b), after(1, None, "ST_A"), on(EV_A, None, "ST_C")],
            "ST_C": [on(EV_A, None, "ST_B")],
        }

    gate = app.create_gobj("gate", Gate, app)
    app.send_event(gate, EV_GO())
    assert gate.log == ["enter in B", "enter in B"]
    assert clock.timers == 1


def test_enter_that_raises_leaves_the_new_state_with_its_timers(app: GAplic, clock: Clock) -> None:
    class Gate(GObj):
        acted = False

        def into(self) -> None:
            raise ValueError("on purpose")

        def ac_go(self, event: EV_GO) -> None:
            self.acted = True

        machine = {
            "ST_A": [on(EV_GO, ac_go, "ST_B")],
            "ST_B": [enter(into), after(1, None, "ST_A")],
        }

    gate = app.create_gobj("gate", Gate, app)
    with pytest.raises(ValueError, match="on purpose"):
        app.send_event(gate, EV_GO())
    assert gate.state == "ST_B"
    assert not gate.acted
    clock.advance(1)
    assert gate.state == "ST_A"


def test_leave_that_raises_keeps_the_old_state_with_its_timers(app: GAplic, clock: Clock) -> None:
    class Gate(GObj):
        shut = True

        def out(self) -> None:
            if self.shut:
                self.shut = False
                raise ValueError("on purpose")

        machine = {
            "ST_A": [leave(out), on(EV_GO, None, "ST_B"), after(1, None, "ST_B")],
            "ST_B": [on(EV_GO, None, "ST_A")],
        }

    gate = app.create_gobj("gate", Gate, app)
    with pytest.raises(ValueError, match="on purpose"):
        app.send_event(gate, EV_GO())
    assert gate.state == "ST_A"
    clock.advance(1)
    assert gate.state == "ST_B"


def test_leave_that_changes_the_state_itself_runs_once(app: GAplic) -> None:
    class Gate(Logged):
        def out_a(self) -> None:
            self.note("leave")
            self.send_event(self, EV_A())

        def out_c(self) -> None:
            self.note("leave")

        machine = {
            "ST_A": [leave(out_a), on(EV_GO, None, "ST_B"), on(EV_A, None, "ST_C")],
            "ST_B": [],
            "ST_C": [leave(out_c), on(EV_A, None, "ST_A")],
        }

    gate = app.create_gobj("gate", Gate, app)
    app.send_event(gate, EV_GO())
    assert gate.state == "ST_B"
    assert gate.log == ["leave in A", "leave in C"]


@pytest.mark.parametrize("place", ["leave", "enter", "guard"])
def test_a_gobj_that_dies_while_it_changes_state_runs_nothing_more(
    app: GAplic, clock: Clock, place: str
) -> None:
    class Gate(Logged):
        def die_in(self, where: str) -> None:
            self.note(where)
            if where == place:
                self.destroy_gobj(self)

        def out(self) -> None:
            self.die_in("leave")

        def into(self) -> None:
            self.die_in("enter")

        def ready(self, event: EV_GO) -> bool:
            self.die_in("guard")
            return True

        def ac_go(self, event: EV_GO) -> None:
            self.note("go")

        machine = {
            "ST_A": [leave(out), on(EV_GO, ac_go, "ST_B", when=ready)],
            "ST_B": [enter(into), after(1, None, "ST_A")],
        }

    gate = app.create_gobj("gate", Gate, app)
    app.send_event(gate, EV_GO())
    assert gate.destroyed
    assert gate.log[-1].startswith(place)
    assert clock.timers == 0
    assert app.send_event(gate, EV_GO()) is NOT_ACCEPTED


def test_events_that_arrive_in_start_up_are_delivered_in_the_initial_state(app: GAplic) -> None:
    class Gate(Logged):
        def start_up(self) -> None:
            super().start_up()
            self.send_event(self, EV_A())

        def into(self) -> None:
            self.note("enter")

        def ac_a(self, event: EV_A) -> None:
            self.note("a")

        machine = {"ST_A": [enter(into), on(EV_A, ac_a)]}

    assert app.create_gobj("gate", Gate, app).log == ["a in A", "enter in A"]


def test_an_initial_state_that_start_up_has_left_is_neither_entered_nor_left(app: GAplic) -> None:
    class Gate(Logged):
        def start_up(self) -> None:
            super().start_up()
            self.send_event(self, EV_GO())

        def into(self) -> None:
            self.note("enter")

        def out(self) -> None:
            self.note("leave")

        machine = {
            "ST_A": [enter(into), leave(out), on(EV_GO, None, "ST_B")],
            "ST_B": [enter(into), on(EV_GO, None, "ST_A")],
        }

    gate = app.create_gobj("gate", Gate, app)
    assert gate.taken() == ["enter in B"]
    app.send_event(gate, EV_GO())
    app.send_event(gate, EV_GO())
    assert gate.taken() == ["enter in A", "leave in A", "enter in B"]


# overriding


def test_a_subclass_overrides_actions_guards_and_hooks_by_name(app: GAplic, clock: Clock) -> None:
    class Loud(Door):
        def into(self) -> None:
            self.note("ENTER")

        def late(self) -> None:
            self.note("LATE")

        def ac_work(self, event: EV_WORK) -> int:
            self.note("WORK")
            return super().ac_work(event) + 1

        def odd(self, event: EV_A) -> bool:
            return True

    loud = app.create_gobj("loud", Loud, app)
    assert app.send_event(loud, EV_WORK(1)) == 3
    assert app.send_event(loud, EV_A(2)) == "odd"
    clock.advance(5)
    assert loud.log == [
        "ENTER in A",
        "WORK in A",
        "work in A",
        "leave in A",
        "ENTER in B",
        "LATE in B",
    ]
    assert Door.compiled.initial[EV_WORK] is Door.ac_work


def test_an_override_is_checked_as_the_table_is() -> None:
    with pytest.raises(MachineError, match=r"the action ac_work\(self\) -> int is called with"):

        class Wrong(Door):
            def ac_work(self) -> int:  # type: ignore[override]
                return 1


def test_an_action_of_a_mixin_is_bound_by_name_too(app: GAplic) -> None:
    class Loud:
        def ac_work(self, event: EV_WORK) -> str:
            return "loud"

    class LoudDoor(Loud, Door):  # type: ignore[misc]
        pass

    door = app.create_gobj("door", LoudDoor, app)
    assert app.send_event(door, EV_WORK(1)) == "loud"


def test_lambdas_and_functions_of_the_module_are_taken_as_they_are(app: GAplic) -> None:
    class Gate(GObj):
        machine = {
            "ST_A": [
                on(EV_A, lambda self, event: event.n, when=lambda self, event: event.n > 0),
                on(EV_A, module_action),
            ]
        }

    gate = app.create_gobj("gate", Gate, app)
    assert app.send_event(gate, EV_A(1)) == 1
    assert app.send_event(gate, EV_A(0)) == "module"


def module_action(self: GObj, event: EV_A) -> str:
    return "module"


def test_a_static_method_may_be_an_action(app: GAplic) -> None:
    class Gate(GObj):
        @staticmethod
        def ac_a(gobj: GObj, event: EV_A) -> str:
            return gobj.name

        machine = {"ST_A": [on(EV_A, ac_a)]}

    gate = app.create_gobj("gate", Gate, app)
    assert app.send_event(gate, EV_A()) == "gate"


# set_new_state


class Chooser(Logged):
    def into(self) -> None:
        self.note("enter")

    def ac_choose(self, event: EV_A) -> None:
        self.set_new_state("ST_B" if event.n else "ST_C")
        self.note("chose")

    def ac_wrong(self, event: EV_B) -> None:
        self.set_new_state("ST_C")

    def ac_nested(self, event: EV_C) -> None:
        if event.n == 1:
            # A row that declares nothing, while ours declares ST_C.
            self.send_event(self, EV_B())
        elif event.n == 2:
            self.send_event(self, EV_A(1))
        self.set_new_state("ST_C")

    def ac_plain(self, event: EV_WORK) -> None:
        self.set_new_state("ST_B")

    machine = {
        "ST_A": [
            on(EV_A, ac_choose, may=("ST_B", "ST_C")),
            on(EV_B, ac_wrong, may=("ST_B",)),
            on(EV_C, ac_nested, may=("ST_C",)),
            on(EV_WORK, ac_plain),
        ],
        "ST_B": [enter(into), on(EV_GO, None, "ST_A")],
        "ST_C": [enter(into), on(EV_GO, None, "ST_A")],
    }


@pytest.fixture
def chooser(app: GAplic) -> Chooser:
    return app.create_gobj("chooser", Chooser, app)


def test_an_action_goes_where_its_row_says_that_it_may(app: GAplic, chooser: Chooser) -> None:
    app.send_event(chooser, EV_A(1))
    app.send_event(chooser, EV_GO())
    app.send_event(chooser, EV_A(0))
    assert chooser.log == ["enter in B", "chose in B", "enter in C", "chose in C"]


def test_another_state_is_a_state_error(app: GAplic, chooser: Chooser) -> None:
    with pytest.raises(
        StateError,
        match=r"app/chooser in ST_A: the row that runs does not declare ST_C; "
        r"write may=\('ST_C',\) in it \(declared there: ST_B\)",
    ):
        app.send_event(chooser, EV_B())
    assert chooser.state == "ST_A"


def test_a_row_that_declares_nothing_may_go_nowhere(app: GAplic, chooser: Chooser) -> None:
    with pytest.raises(StateError, match=r"declared there: none"):
        app.send_event(chooser, EV_WORK())


def test_an_unknown_state_is_a_state_error_with_the_nearest_one(chooser: Chooser) -> None:
    with pytest.raises(StateError, match=r"there is no state 'ST_BB'; did you mean 'ST_B'\?"):
        chooser.set_new_state("ST_BB")


def test_outside_of_an_action_no_state_is_allowed(app: GAplic, chooser: Chooser) -> None:
    with pytest.raises(StateError):
        chooser.set_new_state("ST_B")
    app.send_event(chooser, EV_A(1))
    with pytest.raises(StateError):
        chooser.set_new_state("ST_C")


def test_a_nested_delivery_has_its_own_declaration(app: GAplic, chooser: Chooser) -> None:
    with pytest.raises(StateError, match="declared there: ST_B"):
        app.send_event(chooser, EV_C(1))
    assert chooser.state == "ST_A"


def test_after_a_nested_delivery_the_outer_declaration_counts_again(
    app: GAplic, chooser: Chooser
) -> None:
    app.send_event(chooser, EV_C(2))
    assert chooser.log == ["enter in B", "chose in B", "enter in C"]
    assert chooser.state == "ST_C"


def test_hooks_may_not_use_the_declaration_of_the_row_that_changes_the_state(
    app: GAplic,
) -> None:
    class Gate(GObj):
        def into(self) -> None:
            self.set_new_state("ST_C")

        def ac_go(self, event: EV_GO) -> None:
            self.set_new_state("ST_B")

        machine = {
            "ST_A": [on(EV_GO, ac_go, may=("ST_B", "ST_C"))],
            "ST_B": [enter(into)],
            "ST_C": [],
        }

    gate = app.create_gobj("gate", Gate, app)
    with pytest.raises(StateError, match="ST_B: the row that runs does not declare ST_C"):
        app.send_event(gate, EV_GO())
    assert gate.state == "ST_B"


def test_after_may_declare_states_too(app: GAplic, clock: Clock) -> None:
    class Gate(GObj):
        def late(self) -> None:
            self.set_new_state("ST_B")

        machine = {"ST_A": [after(1, late, may=("ST_B",))], "ST_B": []}

    gate = app.create_gobj("gate", Gate, app)
    clock.advance(1)
    assert gate.state == "ST_B"


def test_to_the_present_state_is_no_change(app: GAplic) -> None:
    class Gate(Logged):
        def into(self) -> None:
            self.note("enter")

        def ac_stay(self, event: EV_A) -> None:
            self.set_new_state("ST_A")

        machine = {"ST_A": [enter(into), on(EV_A, ac_stay, may=("ST_A",))]}

    gate = app.create_gobj("gate", Gate, app)
    app.send_event(gate, EV_A())
    assert gate.log == ["enter in A"]


def test_a_destroyed_gobj_stays_where_it_is(app: GAplic, chooser: Chooser) -> None:
    app.destroy_gobj(chooser)
    chooser.set_new_state("ST_B")
    assert chooser.state == "ST_A"


# POSTPONE


class Queue(Logged):
    """Works in ST_READY; what arrives in ST_BUSY and ST_SHUT waits."""

    def ac_work(self, event: EV_WORK) -> int:
        self.note(f"work {event.n}")
        if event.n == 13:
            raise ValueError("on purpose")
        return event.n

    def ac_a(self, event: EV_A) -> None:
        self.note(f"a {event.n}")

    def ac_b(self, event: EV_B) -> None:
        """Does much within one delivery."""
        self.send_event(self, EV_WORK(1))
        self.send_event(self, EV_GO())
        self.note("b")
        self.post_event(self, EV_A(99))

    machine = {
        "ST_BUSY": [
            on(EV_WORK, POSTPONE),
            on(EV_A, POSTPONE),
            on(EV_B, ac_b),
            on(EV_C, None, "ST_SHUT"),
            on(EV_GO, None, "ST_READY"),
        ],
        "ST_READY": [
            on(EV_WORK, ac_work),
            on(EV_A, ac_a, "ST_BUSY"),
            on(EV_GO, None, "ST_BUSY"),
        ],
        "ST_SHUT": [
            on(EV_WORK, POSTPONE),
            on(EV_A, ac_a),
            on(EV_GO, None, "ST_READY"),
        ],
    }


@pytest.fixture
def queue(app: GAplic) -> Queue:
    return app.create_gobj("queue", Queue, app)


def waiting(gobj: GObj) -> list[Event]:
    assert gobj._postponed is not None
    return list(gobj._postponed.queue)


def test_a_postponed_event_returns_none_and_waits(app: GAplic, queue: Queue) -> None:
    assert app.send_event(queue, EV_WORK(1)) is None
    assert queue.log == []
    assert waiting(queue) == [EV_WORK(1)]


def test_postponed_events_are_retried_when_the_state_has_changed_oldest_first(
    app: GAplic, queue: Queue
) -> None:
    for number in (1, 2, 3):
        app.send_event(queue, EV_WORK(number))
    app.send_event(queue, EV_GO())
    assert queue.log == ["work 1 in READY", "work 2 in READY", "work 3 in READY"]
    assert waiting(queue) == []


def test_a_retried_event_still_has_its_source(app: GAplic, queue: Queue) -> None:
    sources = []

    class Curious(Queue):
        def ac_work(self, event: EV_WORK) -> int:
            sources.append(event.source)
            return 0

    curious = app.create_gobj("curious", Curious, app)
    queue.send_event(curious, EV_WORK(1))
    app.send_event(curious, EV_GO())
    assert sources == [queue]


def test_the_retry_waits_for_the_end_of_the_outermost_delivery_and_comes_before_posts(
    app: GAplic, queue: Queue
) -> None:
    app.send_event(queue, EV_B())
    assert queue.taken() == ["b in READY", "work 1 in READY"]
    app.deliver_posted()
    assert queue.taken() == ["a 99 in BUSY"]


def test_events_postponed_again_keep_their_place(app: GAplic, queue: Queue) -> None:
    app.send_event(queue, EV_WORK(1))
    app.send_event(queue, EV_A(2))
    app.send_event(queue, EV_WORK(3))
    app.send_event(queue, EV_C())
    assert queue.taken() == ["a 2 in SHUT"]
    assert waiting(queue) == [EV_WORK(1), EV_WORK(3)]
    app.send_event(queue, EV_WORK(4))
    app.send_event(queue, EV_GO())
    assert queue.taken() == ["work 1 in READY", "work 3 in READY", "work 4 in READY"]


def test_a_retried_event_may_change_the_state_again(app: GAplic, queue: Queue) -> None:
    app.send_event(queue, EV_WORK(1))
    app.send_event(queue, EV_A(2))
    app.send_event(queue, EV_WORK(3))
    app.send_event(queue, EV_GO())
    # EV_A led back to ST_BUSY, and there EV_WORK is postponed.
    assert queue.taken() == ["work 1 in READY", "a 2 in BUSY"]
    assert waiting(queue) == [EV_WORK(3)]
    app.send_event(queue, EV_GO())
    assert queue.taken() == ["work 3 in READY"]


def test_events_postponed_again_stay_before_younger_ones_when_the_state_changes_in_the_round(
    app: GAplic,
) -> None:
    class Gate(Logged):
        def ac_work(self, event: EV_WORK) -> None:
            self.note(f"work {event.n}")

        machine = {
            "ST_A": [on(EV_WORK, POSTPONE), on(EV_A, POSTPONE), on(EV_GO, None, "ST_B")],
            "ST_B": [on(EV_WORK, POSTPONE), on(EV_A, None, "ST_C")],
            "ST_C": [on(EV_WORK, ac_work)],
        }

    gate = app.create_gobj("gate", Gate, app)
    for event in (EV_WORK(1), EV_WORK(2), EV_A(), EV_WORK(3)):
        app.send_event(gate, event)
    app.send_event(gate, EV_GO())
    assert gate.log == ["work 1 in C", "work 2 in C", "work 3 in C"]


def test_an_event_is_retried_once_for_each_change_even_where_a_retry_raises(app: GAplic) -> None:
    class Gate(Logged):
        def ask(self, event: EV_WORK) -> bool:
            self.note(f"ask {event.n}")
            return False

        def ac_a(self, event: EV_A) -> None:
            raise ValueError("on purpose")

        machine = {
            "ST_A": [on(EV_WORK, POSTPONE), on(EV_A, POSTPONE), on(EV_GO, None, "ST_B")],
            "ST_B": [
                on(EV_WORK, None, when=ask),
                on(EV_WORK, POSTPONE),
                on(EV_A, ac_a),
                on(EV_B, None),
            ],
        }

    gate = app.create_gobj("gate", Gate, app)
    for event in (EV_WORK(1), EV_A(), EV_WORK(2)):
        app.send_event(gate, event)
    with pytest.raises(ValueError, match="on purpose"):
        app.send_event(gate, EV_GO())
    assert gate.taken() == ["ask 1 in B"]
    app.send_event(gate, EV_B())
    assert gate.taken() == ["ask 2 in B"]
    assert waiting(gate) == [EV_WORK(1), EV_WORK(2)]
    app.send_event(gate, EV_B())
    assert gate.taken() == []


def test_a_retry_that_raises_leaves_the_rest_queued(app: GAplic, queue: Queue) -> None:
    for number in (1, 13, 3, 4):
        app.send_event(queue, EV_WORK(number))
    with pytest.raises(ValueError, match="on purpose"):
        app.send_event(queue, EV_GO())
    assert queue.taken() == ["work 1 in READY", "work 13 in READY"]
    assert queue.state == "ST_READY"
    assert waiting(queue) == [EV_WORK(3), EV_WORK(4)]
    app.send_event(queue, EV_WORK(5))
    assert queue.taken() == ["work 5 in READY", "work 3 in READY", "work 4 in READY"]


def test_an_event_postponed_after_the_change_waits_for_the_next_one(app: GAplic) -> None:
    class Gate(Logged):
        def ready(self, event: EV_WORK) -> bool:
            self.note("asked")
            return False

        def ac_go(self, event: EV_GO) -> None:
            self.send_event(self, EV_WORK(1))

        machine = {
            "ST_A": [on(EV_GO, ac_go, "ST_B")],
            "ST_B": [
                on(EV_WORK, None, when=ready),
                on(EV_WORK, POSTPONE),
                on(EV_GO, None, "ST_A"),
            ],
        }

    gate = app.create_gobj("gate", Gate, app)
    app.send_event(gate, EV_GO())
    assert gate.log == ["asked in B"]
    assert waiting(gate) == [EV_WORK(1)]


def test_a_retried_event_that_no_state_accepts_now_is_refused(app: GAplic) -> None:
    class Gate(GObj):
        machine = {
            "ST_A": [on(EV_WORK, POSTPONE), on(EV_GO, None, "ST_B")],
            "ST_B": [],
        }

    gate = app.create_gobj("gate", Gate, app)
    app.send_event(gate, EV_WORK(1))
    app.send_event(gate, EV_GO())
    assert app.refused_events == 1
    assert waiting(gate) == []


def test_set_new_state_and_after_retry_as_well(app: GAplic, clock: Clock) -> None:
    class Gate(Logged):
        def ac_choose(self, event: EV_A) -> None:
            self.set_new_state("ST_B")
            self.note("chose")

        def late(self) -> None:
            self.note("late")

        def ac_work(self, event: EV_WORK) -> None:
            self.note(f"work {event.n}")

        machine = {
            "ST_A": [
                on(EV_WORK, POSTPONE),
                on(EV_A, ac_choose, may=("ST_B",)),
                after(1, late, "ST_B"),
            ],
            "ST_B": [on(EV_WORK, ac_work), on(EV_GO, None, "ST_A")],
        }

    gate = app.create_gobj("gate", Gate, app)
    app.send_event(gate, EV_WORK(1))
    app.send_event(gate, EV_A())
    assert gate.taken() == ["chose in B", "work 1 in B"]
    app.send_event(gate, EV_GO())
    app.send_event(gate, EV_WORK(2))
    clock.advance(1)
    assert gate.taken() == ["late in B", "work 2 in B"]


def test_too_many_postponed_events_are_an_event_error(clock: Clock) -> None:
    app = GAplic("app", {"app": {"max_postponed_events": 2}}, clock=clock)
    queue = app.create_gobj("queue", Queue, app)
    app.send_event(queue, EV_WORK(1))
    app.send_event(queue, EV_WORK(2))
    with pytest.raises(
        EventError,
        match="app/queue in ST_BUSY has 2 postponed events and cannot postpone EV_WORK; "
        "let the state change, or raise max_postponed_events",
    ):
        app.send_event(queue, EV_WORK(3))
    app.send_event(queue, EV_GO())
    assert queue.log == ["work 1 in READY", "work 2 in READY"]


def test_events_under_retry_count_for_the_limit(clock: Clock) -> None:
    class Gate(GObj):
        def ac_a(self, event: EV_A) -> None:
            self.send_event(self, EV_WORK(3))

        machine = {
            "ST_A": [on(EV_WORK, POSTPONE), on(EV_A, POSTPONE), on(EV_GO, None, "ST_B")],
            "ST_B": [on(EV_WORK, POSTPONE), on(EV_A, ac_a)],
        }

    app = GAplic("app", {"app": {"max_postponed_events": 3}}, clock=clock)
    gate = app.create_gobj("gate", Gate, app)
    for event in (EV_WORK(1), EV_WORK(2), EV_A()):
        app.send_event(gate, event)
    app.send_event(gate, EV_GO())
    assert waiting(gate) == [EV_WORK(1), EV_WORK(2), EV_WORK(3)]
    with pytest.raises(EventError, match="3 postponed"):
        app.send_event(gate, EV_A())


def test_a_gobj_destroyed_by_a_retried_event_gets_no_further_ones(app: GAplic) -> None:
    class Fragile(Queue):
        def ac_work(self, event: EV_WORK) -> int:
            self.note(f"work {event.n}")
            self.destroy_gobj(self)
            return 0

    fragile = app.create_gobj("fragile", Fragile, app)
    app.send_event(fragile, EV_WORK(1))
    app.send_event(fragile, EV_WORK(2))
    app.send_event(fragile, EV_GO())
    assert fragile.log == ["work 1 in READY"]
    assert waiting(fragile) == []


def test_a_machine_without_postpone_pays_nothing_for_it(app: GAplic, door: Door) -> None:
    assert door._postponed is None


# events by name


def test_an_event_of_another_module_with_the_same_name_says_so(app: GAplic, door: Door) -> None:
    def other() -> Event:
        class EV_A(Event):
            pass

        EV_A.__module__ = "elsewhere"
        return EV_A()

    with pytest.raises(
        EventError, match=r"Door takes EV_A of .*test_smachine.*, not the one of elsewhere"
    ):
        app.send_event(door, other())


def test_an_unknown_event_is_an_event_error_with_the_nearest_one(app: GAplic, door: Door) -> None:
    with pytest.raises(EventError, match=r"'EV_WROK' in no state .* did you mean 'EV_WORK'\?"):
        app.send_event(door, "EV_WROK")


def test_states_show_their_names() -> None:
    assert repr(Door.compiled.initial) == "<state ST_A>"
