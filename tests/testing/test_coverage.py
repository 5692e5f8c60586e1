"""Transition coverage: which rows are said to have fired, of whose table, in which process."""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ginsfsm import (
    NOT_ACCEPTED,
    POSTPONE,
    Event,
    EventError,
    GObj,
    after,
    enter,
    leave,
    on,
    param,
    smachine,
)
from ginsfsm.poller import READ, WRITE
from ginsfsm.testing import ManualGAplic
from ginsfsm.testing.coverage import ENVIRONMENT, Coverage, record_process
from sockets import pair, wait_for


class EV_GO(Event):
    pass


class EV_BACK(Event):
    pass


class EV_ASK(Event):
    number: int = 0


class EV_WAIT(Event):
    pass


class EV_UNHEARD(Event):
    pass


class Traveller(GObj):
    """Has a row of every kind."""

    class config(GObj.config):
        stay: float = param(10.0, "how long it stays away")

    def start_up(self) -> None:
        self.did: list[str] = []

    def is_one(self, event: EV_ASK) -> bool:
        return event.number == 1

    def is_two(self, event: EV_ASK) -> bool:
        return event.number == 2

    def ac_one(self, event: EV_ASK) -> str:
        return "one"

    def ac_fail(self, event: EV_BACK) -> None:
        raise ValueError("no way back")

    def arrive(self) -> None:
        self.did.append("arrived")

    def depart(self) -> None:
        self.did.append("departed")

    def come_home(self) -> None:
        self.did.append("home")

    machine = {
        "ST_HOME": [
            on(EV_GO, None, "ST_AWAY"),
            on(EV_ASK, ac_one, when=is_one),
            on(EV_ASK, None, when=is_two),
            on(EV_WAIT, POSTPONE),
            on(EV_BACK, ac_fail),
        ],
        "ST_AWAY": [
            enter(arrive),
            after("stay", come_home, "ST_HOME"),
            on(EV_WAIT, None),
            on(EV_BACK, None, "ST_HOME"),
            leave(depart),
        ],
    }


class Inheritor(Traveller):
    """Inherits the table, and one action is another one."""

    def ac_one(self, event: EV_ASK) -> str:
        return "another one"


class Composer(Traveller):
    """Takes the rows of a state into a table of its own."""

    machine = {
        "ST_HOME": [*Traveller.machine["ST_HOME"], on(EV_UNHEARD, None)],
        "ST_AWAY": Traveller.machine["ST_AWAY"],
    }


@contextlib.contextmanager
def recording(*targets: str) -> Iterator[Coverage]:
    coverage = Coverage(targets or (f"{__name__}:Traveller",))
    coverage.begin()
    try:
        yield coverage
    finally:
        coverage.end()


def fired(coverage: Coverage, gclass: str = "Traveller") -> set[str]:
    """The rows that fired, as they are written, with their states."""
    return {
        f"{row.state}: {row.text}"
        for row, has_fired in coverage.rows.items()
        if has_fired and row.gclass == gclass
    }


@pytest.fixture
def coverage() -> Iterator[Coverage]:
    with recording() as coverage:
        yield coverage


@pytest.fixture
def app() -> Iterator[ManualGAplic]:
    with ManualGAplic() as app:
        yield app


def make(app: ManualGAplic, gclass: type[Traveller] = Traveller, **parameters: Any) -> Traveller:
    return app.create_gobj(None, gclass, app, **parameters)


def test_every_row_is_there_before_any_has_fired(coverage: Coverage) -> None:
    places = [(row.state, row.number) for row in coverage.rows]
    assert sorted(places) == [
        (state, number) for state in ("ST_AWAY", "ST_HOME") for number in range(5)
    ]
    assert fired(coverage) == set()
    for row in coverage.rows:
        assert row.module == __name__
        written = Path(row.file).read_text().splitlines()[row.line - 1]
        assert written.strip().startswith(row.text.partition("(")[0])


def test_a_row_fires_when_its_event_comes_in_its_state(
    app: ManualGAplic, coverage: Coverage
) -> None:
    gobj = make(app)
    assert fired(coverage) == set()
    app.send_event(gobj, EV_GO())
    assert fired(coverage) == {"ST_HOME: on(EV_GO, None, 'ST_AWAY')", "ST_AWAY: enter(arrive)"}


def test_of_several_rows_for_one_event_only_the_one_that_was_chosen(
    app: ManualGAplic, coverage: Coverage
) -> None:
    gobj = make(app)
    assert app.send_event(gobj, EV_ASK(3)) is NOT_ACCEPTED
    assert fired(coverage) == set()
    assert app.send_event(gobj, EV_ASK(2)) is None
    assert fired(coverage) == {"ST_HOME: on(EV_ASK, None, when=is_two)"}
    assert app.send_event(gobj, EV_ASK(1)) == "one"
    assert len(fired(coverage)) == 2


def test_a_timeout_fires_when_its_time_is_over(app: ManualGAplic, coverage: Coverage) -> None:
    gobj = make(app)
    app.send_event(gobj, EV_GO())
    app.advance(9)
    assert "ST_AWAY: after('stay', come_home, 'ST_HOME')" not in fired(coverage)
    assert "ST_AWAY: leave(depart)" not in fired(coverage)
    app.advance(1)
    assert fired(coverage) == {
        "ST_HOME: on(EV_GO, None, 'ST_AWAY')",
        "ST_AWAY: enter(arrive)",
        "ST_AWAY: after('stay', come_home, 'ST_HOME')",
        "ST_AWAY: leave(depart)",
    }
    assert gobj.did == ["arrived", "departed", "home"]


def test_a_disabled_timeout_never_fires(app: ManualGAplic, coverage: Coverage) -> None:
    gobj = make(app, stay=0.0)
    app.send_event(gobj, EV_GO())
    app.advance(1000)
    assert "ST_AWAY: after('stay', come_home, 'ST_HOME')" not in fired(coverage)


def test_postpone_fires_when_it_keeps_an_event_and_the_other_row_when_it_is_retried(
    app: ManualGAplic, coverage: Coverage
) -> None:
    gobj = make(app)
    app.send_event(gobj, EV_WAIT())
    assert fired(coverage) == {"ST_HOME: on(EV_WAIT, POSTPONE)"}
    app.send_event(gobj, EV_GO())
    assert "ST_AWAY: on(EV_WAIT, None)" in fired(coverage)


def test_a_row_whose_action_raises_has_fired(app: ManualGAplic, coverage: Coverage) -> None:
    gobj = make(app)
    with pytest.raises(ValueError, match="no way back"):
        app.send_event(gobj, EV_BACK())
    assert fired(coverage) == {"ST_HOME: on(EV_BACK, ac_fail)"}


def test_calling_the_method_of_a_row_fires_nothing(app: ManualGAplic, coverage: Coverage) -> None:
    make(app).ac_one(EV_ASK(1))
    assert fired(coverage) == set()


def test_an_inherited_table_counts_for_the_gclass_that_wrote_it(
    app: ManualGAplic, coverage: Coverage
) -> None:
    assert app.send_event(make(app, Inheritor), EV_ASK(1)) == "another one"
    assert fired(coverage) == {"ST_HOME: on(EV_ASK, ac_one, when=is_one)"}
    assert {row.gclass for row in coverage.rows} == {"Traveller"}


def test_a_row_put_into_another_table_counts_for_the_one_that_wrote_it(app: ManualGAplic) -> None:
    with recording(__name__) as coverage:
        gobj = make(app, Composer)
        app.send_event(gobj, EV_UNHEARD())
        app.send_event(gobj, EV_GO())
        assert fired(coverage, "Composer") == {"ST_HOME: on(EV_UNHEARD, None)"}
        assert fired(coverage, "Traveller") == {
            "ST_HOME: on(EV_GO, None, 'ST_AWAY')",
            "ST_AWAY: enter(arrive)",
        }
        assert sum(row.gclass == "Composer" for row in coverage.rows) == 1


def test_one_row_in_two_states_is_two(app: ManualGAplic) -> None:
    shared = [on(EV_ASK, None)]

    with recording(__name__) as coverage:

        class Shared(GObj):
            machine = {
                "ST_A": [on(EV_GO, None, "ST_B"), *shared],
                "ST_B": [*shared, on(EV_BACK, None, "ST_A")],
            }

        name = Shared.__qualname__
        gobj = app.create_gobj("one", Shared, app)
        app.send_event(gobj, EV_ASK())
        assert fired(coverage, name) == {"ST_A: on(EV_ASK, None)"}
        app.send_event(gobj, EV_GO())
        app.send_event(gobj, EV_ASK())
        assert "ST_B: on(EV_ASK, None)" in fired(coverage, name)


def test_a_gclass_that_a_function_makes_again_is_one_gclass(app: ManualGAplic) -> None:
    def build() -> type[GObj]:
        class Built(GObj):
            machine = {"ST_A": [on(EV_GO, None), on(EV_BACK, None)]}

        return Built

    with recording(__name__) as coverage:
        first, second = build(), build()
        app.send_event(app.create_gobj("one", first, app), EV_GO())
        app.send_event(app.create_gobj("two", second, app), EV_BACK())
        mine = [row for row in coverage.rows if row.gclass == first.__qualname__]
        assert len(mine) == 2
        assert len(fired(coverage, first.__qualname__)) == 2


def test_the_rows_of_others_are_left_alone() -> None:
    before = Traveller.compiled
    with recording(f"{__name__}:Composer") as coverage:
        assert {row.gclass for row in coverage.rows} == {"Composer"}
        assert Traveller.compiled is before


@pytest.mark.parametrize("target", ["ginsfsm.c_timer", "ginsfsm.c_timer:GTimer", "ginsfsm"])
def test_targets(target: str) -> None:
    from ginsfsm.c_timer import GTimer

    with recording(target) as coverage:
        found = {f"{row.module}:{row.gclass}" for row in coverage.rows}
    assert f"{GTimer.__module__}:GTimer" in found
    assert all(one.startswith("ginsfsm.") for one in found)
    assert not coverage.targets_without_rows()


def test_a_target_is_no_prefix_of_a_name() -> None:
    with recording("ginsfsm.c_tim", "gins") as coverage:
        assert not coverage.rows
        assert coverage.targets_without_rows() == ["ginsfsm.c_tim", "gins"]


def test_when_it_has_ended_the_table_is_as_it_was(app: ManualGAplic) -> None:
    plain = smachine.witness
    before = Traveller.compiled.states["ST_HOME"][EV_GO].__code__
    with recording() as coverage:
        assert smachine.witness is not plain
    app.send_event(make(app), EV_GO())
    assert fired(coverage) == set()
    assert smachine.witness is plain
    assert Traveller.compiled.states["ST_HOME"][EV_GO].__code__ is before


def test_one_inside_another(app: ManualGAplic) -> None:
    with recording() as outer:
        with recording() as inner:
            with pytest.raises(RuntimeError, match="another one began"):
                outer.end()
            app.send_event(make(app), EV_ASK(1))
        app.send_event(make(app), EV_GO())
    assert fired(inner) == {"ST_HOME: on(EV_ASK, ac_one, when=is_one)"}
    assert len(fired(outer)) == 3


def test_what_two_processes_saw_is_added_up(app: ManualGAplic) -> None:
    with recording() as one:
        app.send_event(make(app), EV_ASK(1))
    with recording() as two:
        app.send_event(make(app), EV_ASK(2))
    both = Coverage(one.targets)
    both.merge(one.plain())
    both.merge(two.plain())
    assert fired(both) == fired(one) | fired(two)
    assert set(both.rows) == set(one.rows)


def test_errors_still_name_the_rows_and_inspection_sees_what_it_saw(
    app: ManualGAplic, coverage: Coverage
) -> None:
    gobj = make(app)
    app.send_event(gobj, EV_GO())
    assert app.record.states(gobj) == ["ST_AWAY"]
    with pytest.raises(EventError, match="EV_UNHEARD"):
        app.send_event(gobj, EV_UNHEARD())
    assert Traveller.compiled.states["ST_HOME"].rows == tuple(Traveller.machine["ST_HOME"])


def test_a_connection_that_receives_past_its_table_fires_no_row() -> None:
    async def work() -> None:
        async with pair() as (_app, owner, gsock, peer):
            await peer.send(b"hello")
            await wait_for(owner.received)
            assert "ST_CONNECTED: on(EV_READABLE, ac_receive)" not in fired(coverage, "GSock")
            # The poller says two things at once, and the table decides.
            gsock.io_ready(READ | WRITE)
            assert "ST_CONNECTED: on(EV_READABLE, ac_receive)" in fired(coverage, "GSock")

    with recording("ginsfsm.c_sock:GSock") as coverage:
        asyncio.run(work())


# -- processes that a test starts ------------------------------------------------------------------

PROGRAM = """
import sys
from ginsfsm import Event, GObj, on
from ginsfsm.testing import ManualGAplic
from ginsfsm.testing.coverage import record_process

class EV_GO(Event):
    pass

class EV_BACK(Event):
    pass

class Here(GObj):
    machine = {"ST_A": [on(EV_GO, None), on(EV_BACK, None)]}

assert record_process()
assert not record_process(), "it is once"
with ManualGAplic() as app:
    here = app.create_gobj("here", Here, app)
    app.send_event(here, sys.argv[1])
"""


def test_a_process_that_a_test_starts_tells_what_it_saw(tmp_path: Path) -> None:
    file = tmp_path / "program.py"
    file.write_text(PROGRAM)
    coverage = Coverage(["__main__:Here"])
    with coverage.of_children():
        # Both at the same time.
        programs = [
            subprocess.Popen([sys.executable, str(file), event]) for event in ("EV_GO", "EV_BACK")
        ]
        for program in programs:
            assert program.wait(60) == 0
    assert fired(coverage, "Here") == {"ST_A: on(EV_GO, None)", "ST_A: on(EV_BACK, None)"}


def test_nothing_is_recorded_in_a_process_that_nobody_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    before = smachine.witness
    assert not record_process()
    assert smachine.witness is before
    with Coverage(["x"]).of_children():
        assert ENVIRONMENT in os.environ
    assert ENVIRONMENT not in os.environ
