"""A gaplic that a test drives: turns, time, stand-ins, coroutines, failures."""

import asyncio
import logging
import re
from collections.abc import Callable
from typing import Any

import pytest

from ginsfsm import Event, EventError, GConfigError, GObj, GObjError, after, on, param
from ginsfsm.c_timer import EV_SET_TIMER, EV_TIMEOUT, GTimer
from ginsfsm.inspection import Observation
from ginsfsm.testing import ManualGAplic, StandIn


class EV_COIN(Event):
    pass


class EV_OPENED(Event):
    pass


class EV_CLOSED(Event):
    pass


class EV_BREAK(Event):
    pass


class EV_FETCHED(Event):
    result: Any
    error: BaseException | None


class Door(GObj):
    """Opens for a coin, and closes by itself."""

    class config(GObj.config):
        seconds_open: float = param(10.0, "how long it stays open")

    outputs = [EV_OPENED, EV_CLOSED]
    fetched: EV_FETCHED | None = None

    def ac_open(self, event: EV_COIN) -> None:
        self.broadcast_event(EV_OPENED())

    def closes(self) -> None:
        self.broadcast_event(EV_CLOSED())

    def ac_break(self, event: EV_BREAK) -> None:
        raise ValueError("broken")

    def ac_fetched(self, event: EV_FETCHED) -> None:
        self.fetched = event

    machine = {
        "ST_LOCKED": [
            on(EV_COIN, ac_open, "ST_UNLOCKED"),
            on(EV_BREAK, ac_break),
            on(EV_FETCHED, ac_fetched),
        ],
        "ST_UNLOCKED": [after("seconds_open", closes, "ST_LOCKED")],
    }


def test_the_example_of_the_docstring() -> None:
    with ManualGAplic() as app:
        owner = app.stand_in("owner", Door)
        door = app.create_gobj("door", Door, owner, seconds_open=10)
        owner.send_event(door, EV_COIN())
        assert door.state == "ST_UNLOCKED"
        app.advance(9)
        assert door.state == "ST_UNLOCKED"
        app.advance(1)
        assert door.state == "ST_LOCKED"
        assert owner.received == [EV_OPENED(), EV_CLOSED()]
    assert door.destroyed


# Turns


class Echoer(GObj):
    """Posts to itself for ever."""

    count = 0

    def ac_go(self, event: EV_COIN) -> None:
        self.count += 1
        self.post_event(self, EV_COIN())

    machine = {"ST_IDLE": [on(EV_COIN, ac_go)]}


def test_a_turn_delivers_what_was_posted_and_not_what_that_posts() -> None:
    with ManualGAplic() as app:
        echoer = app.create_gobj("echoer", Echoer, app)
        app.post_event(echoer, EV_COIN())
        assert echoer.count == 0
        assert app.turn() == 1
        assert echoer.count == 1
        assert app.turn() == 1
        assert echoer.count == 2


def test_one_that_posts_to_itself_for_ever_does_not_stop_the_time() -> None:
    with ManualGAplic() as app:
        echoer = app.create_gobj("echoer", Echoer, app)
        app.post_event(echoer, EV_COIN())
        app.advance(1)
        assert app.clock.time() == 1
        assert echoer.count > 10


class Poster(GObj):
    """At a time-out it posts, and what it posted must come before the next time-out."""

    def start_up(self) -> None:
        self.told: list[tuple[str, float]] = []
        for name, seconds in (("one", 1.0), ("two", 2.0)):
            timer = self.create_gobj(name, GTimer, self)
            self.send_event(timer, EV_SET_TIMER(seconds))

    def ac_timeout(self, event: EV_TIMEOUT) -> None:
        self.told.append((event.source.name, self.gaplic.time()))
        self.post_event(self, EV_COIN())

    def ac_posted(self, event: EV_COIN) -> None:
        self.told.append(("posted", self.gaplic.time()))

    machine = {"ST_IDLE": [on(EV_TIMEOUT, ac_timeout), on(EV_COIN, ac_posted)]}


def test_advance_delivers_what_was_posted_between_two_timers() -> None:
    with ManualGAplic() as app:
        poster = app.create_gobj("poster", Poster, app)
        app.post_event(poster, EV_COIN())
        app.advance(5)
        assert poster.told == [
            ("posted", 0),
            ("one", 1),
            ("posted", 1),
            ("two", 2),
            ("posted", 2),
        ]


@pytest.mark.parametrize("wrong", ["3", None, -1, True, float("nan"), float("inf")], ids=str)
def test_time_that_is_none_does_not_pass(wrong: Any) -> None:
    with ManualGAplic() as app:
        with pytest.raises(ValueError, match="advance: expected seconds, 0 or more and finite"):
            app.advance(wrong)
        assert app.clock.time() == 0


# Stand-ins


def test_a_stand_in_answers_what_the_test_says() -> None:
    with ManualGAplic() as app:
        stand_in = app.stand_in("bank", EV_COIN, EV_BREAK, unique=True)
        assert app.send_event("bank", EV_COIN()) is None
        stand_in.answer(EV_COIN, lambda event: 42)
        assert app.send_event("bank", EV_COIN()) == 42
        assert stand_in.received == [EV_COIN(), EV_COIN()]
        assert stand_in.received[0].source is app


def test_a_stand_in_takes_only_what_it_was_told_of() -> None:
    with ManualGAplic() as app:
        stand_in = app.stand_in(None, EV_COIN)
        with pytest.raises(EventError, match="EV_BREAK"):
            app.send_event(stand_in, EV_BREAK())
        with pytest.raises(GObjError, match="does not accept EV_BREAK"):
            stand_in.answer(EV_BREAK, lambda event: None)
        with pytest.raises(GObjError, match="expected event classes or gclasses, got 3"):
            app.stand_in("x", 3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "function", "told"),
    [
        (EV_COIN, True, "a function that takes the event, got True; write answer(EV_COIN, lambda "),
        ("EV_COIN", bool, "the class of an event, got 'EV_COIN'"),
        (EV_COIN(), bool, "the class of an event, got EV_COIN()"),
        (int, bool, "the class of an event, got <class 'int'>"),
    ],
    ids=["value", "name", "object", "class"],
)
def test_an_answer_that_is_none(kind: Any, function: Any, told: str) -> None:
    with ManualGAplic() as app:
        stand_in = app.stand_in("bank", EV_COIN)
        with pytest.raises(GObjError, match=re.escape(f"app/bank: answer: expected {told}")):
            stand_in.answer(kind, function)
        assert app.send_event(stand_in, EV_COIN()) is None


def test_a_stand_in_may_stand_below_another() -> None:
    with ManualGAplic() as app:
        below = app.stand_in("below", parent=app.stand_in("above"))
        assert below.path == "app/above/below"


class House(GObj):
    """Makes its door in start_up, as a server makes its socket."""

    opened = 0

    def start_up(self) -> None:
        self.door = self.create_gobj("door", Door, self, seconds_open=5)

    def ac_opened(self, event: EV_OPENED) -> None:
        self.opened += 1

    def ac_coin(self, event: EV_COIN) -> None:
        self.send_event(self.door, event)

    machine = {"ST_IDLE": [on(EV_OPENED, ac_opened), on(EV_COIN, ac_coin)]}


def test_a_replaced_gclass_keeps_its_parameters_and_events_and_does_nothing() -> None:
    with ManualGAplic() as app:
        app.replace(Door)
        house = app.create_gobj("house", House, app)
        door = house.door
        assert isinstance(door, Door)
        assert isinstance(door, StandIn)
        assert door.config.seconds_open == 5

        app.send_event(house, EV_COIN())
        app.record.sent(EV_COIN, to=door, by=house)
        assert house.opened == 0
        door.broadcast_event(EV_OPENED())
        assert house.opened == 1
        with pytest.raises(GConfigError, match="seconds_opn"):
            app.create_gobj("other", Door, app, seconds_opn=1)


@pytest.mark.parametrize("wrong", ["Door", EV_COIN, None, ManualGAplic], ids=str)
def test_what_cannot_be_replaced(wrong: Any) -> None:
    with ManualGAplic() as app:
        with pytest.raises(GObjError, match="replace: expected a gclass, derived from GObj, got "):
            app.replace(wrong)
        with pytest.raises(GObjError, match="replace: expected a gclass"):
            app.replace(app.create_gobj("door", Door, app))  # type: ignore[arg-type]


def test_what_is_replaced_in_one_gaplic_is_itself_in_another() -> None:
    with ManualGAplic() as app:
        app.replace(Door)
    with ManualGAplic() as app:
        assert not isinstance(app.create_gobj("door", Door, app), StandIn)


# Coroutines


async def never() -> None:
    raise AssertionError("a test's coroutine ran")


def test_a_coroutine_ends_as_the_test_says() -> None:
    with ManualGAplic() as app:
        door = app.create_gobj("door", Door, app)
        door.spawn(never(), done=EV_FETCHED)
        door.spawn(never(), done=EV_FETCHED)
        app.finish(door, 7)
        assert door.fetched == EV_FETCHED(7, None)
        assert door.fetched.source is door
        error = OSError("no route")
        app.finish(door, error=error)
        assert door.fetched == EV_FETCHED(None, error)
        with pytest.raises(GObjError, match="app/door has spawned nothing"):
            app.finish(door)
        with pytest.raises(GObjError, match="finish: expected a gobj, got 'door'"):
            app.finish("door")  # type: ignore[arg-type]
        with pytest.raises(GObjError, match="finish: error: expected an exception or None, got 'n"):
            app.finish(door, error="no")  # type: ignore[arg-type]


def test_an_unfinished_coroutine_is_closed_with_the_tree() -> None:
    with ManualGAplic() as app:
        door = app.create_gobj("door", Door, app)
        door.spawn(never(), done=EV_FETCHED)
    assert door.fetched is None


# Failures


def break_a_door(then: Callable[[ManualGAplic], object] = lambda app: None) -> None:
    with ManualGAplic() as app:
        app.post_event(app.create_gobj("door", Door, app), EV_BREAK())
        app.turn()
        then(app)


def test_a_contained_exception_fails_the_test() -> None:
    with pytest.raises(AssertionError, match="door in ST_LOCKED on EV_BREAK.*broken") as raised:
        break_a_door()
    assert isinstance(raised.value.__cause__, ValueError)


def test_forgetting_the_record_does_not_hide_a_contained_exception() -> None:
    with pytest.raises(AssertionError, match="not expected"):
        break_a_door(lambda app: app.record.clear())


def test_an_expected_one_does_not() -> None:
    with ManualGAplic() as app:
        door = app.create_gobj("door", Door, app)
        app.post_event(door, EV_BREAK())
        with app.expect_failure(ValueError) as caught:
            app.turn()
        assert [str(one.error) for one in caught] == ["broken"]
        assert caught[0].gobj is door
        app.check_failures()


def test_an_expected_one_that_does_not_come_is_a_failure() -> None:
    with ManualGAplic() as app:
        door = app.create_gobj("door", Door, app)
        with (
            pytest.raises(AssertionError, match="expected a contained OSError.* nothing"),
            app.expect_failure(OSError),
        ):
            pass
        app.post_event(door, EV_BREAK())
        with (
            app.expect_failure(ValueError),
            pytest.raises(AssertionError, match=r"OSError.*ValueError\('broken'\)"),
            app.expect_failure(OSError),
        ):
            app.turn()


@pytest.mark.parametrize(
    "kind",
    [ValueError("x"), "ValueError", int, KeyboardInterrupt, (ValueError, OSError), None],
    ids=["object", "name", "class", "never contained", "tuple", "none"],
)
def test_what_is_no_class_of_exceptions_is_not_expected(kind: Any) -> None:
    with ManualGAplic() as app:
        # At once: nobody need enter a block for it.
        with pytest.raises(GObjError, match="expect_failure: expected a class of exceptions, got"):
            app.expect_failure(kind)
        app.check_failures()


NO_BLOCK = (
    "expect_failure(ValueError) expects something inside a block only: "
    "write `with app.expect_failure(ValueError):`"
)


def test_an_expectation_without_a_block_is_told_with_what_was_contained() -> None:
    with pytest.raises(AssertionError) as raised:
        break_a_door(lambda app: app.expect_failure(ValueError))
    assert str(raised.value).splitlines() == [
        "contained at an edge of the loop, and not expected:",
        "  app/door in ST_LOCKED on EV_BREAK(): ValueError: broken",
        NO_BLOCK,
    ]


def test_an_expectation_without_a_block_fails_also_where_nothing_happened() -> None:
    app = ManualGAplic()
    app.expect_failure(ValueError)
    with pytest.raises(AssertionError) as raised:
        app.check_failures()
    assert str(raised.value) == NO_BLOCK


def test_the_error_of_the_test_itself_goes_first() -> None:
    with pytest.raises(GObjError, match="there is no gobj 'nobody'"):
        break_a_door(lambda app: app.find("nobody"))


class Falls(GObj):
    def go_out(self) -> None:
        raise ValueError("falls")


def test_a_go_out_that_raises_fails_the_test() -> None:
    with pytest.raises(AssertionError, match="app/falls.*falls"), ManualGAplic() as app:
        app.create_gobj("falls", Falls, app)


# The rest


def test_another_observer_stands_beside_the_record() -> None:
    seen: list[Observation] = []
    with ManualGAplic() as app:
        app.observe(seen.append)
        app.stand_in("one")
        app.observe(None)
        app.stand_in("two")
        assert len(seen) == 1
        assert len(app.record.observations) == 2


def test_settings_reach_the_tree() -> None:
    with ManualGAplic("house", {"door": {"seconds_open": 3}}) as app:
        door = app.create_gobj("door", Door, app)
        assert door.path == "house/door"
        assert door.config.seconds_open == 3


def test_inside_a_real_loop_only_the_time_is_made_by_hand(run_async: Callable[..., Any]) -> None:
    async def fetch() -> str:
        await asyncio.sleep(0)
        return "page"

    async def main() -> None:
        done = asyncio.Event()
        app = ManualGAplic()
        app.observe(lambda one: done.set() if "EV_FETCHED" in repr(one) else None)
        async with app:
            owner = app.stand_in("owner", Door)
            door = app.create_gobj("door", Door, owner)
            door.spawn(fetch(), done=EV_FETCHED)
            await done.wait()
            assert door.fetched == EV_FETCHED("page", None)
            owner.send_event(door, EV_COIN())
            app.advance(10)
            assert owner.received == [EV_OPENED(), EV_CLOSED()]
        assert door.destroyed

    run_async(main())


def test_the_failures_are_logged_as_always(caplog: pytest.LogCaptureFixture) -> None:
    with ManualGAplic() as app, caplog.at_level(logging.ERROR, "ginsfsm"):
        app.post_event(app.create_gobj("door", Door, app), EV_BREAK())
        with app.expect_failure():
            app.turn()
    assert "app/door in ST_LOCKED: EV_BREAK from app raised ValueError: broken" in caplog.text


def test_start_says_how_a_manual_gaplic_is_moved() -> None:
    with ManualGAplic() as app, pytest.raises(GObjError, match=r"moved by turn\(\) and advance"):
        app.start()
