"""The clock that a test moves by hand."""

import re
from typing import Any

import pytest

from ginsfsm.clock import Clock
from ginsfsm.testing import ManualClock, ManualGAplic


def test_time_stands_still_until_it_is_moved() -> None:
    clock: Clock = ManualClock(start=100)
    assert clock.time() == 100
    assert clock.time() == 100


def test_timers_fire_in_order_of_their_times_and_at_them() -> None:
    clock = ManualClock()
    fired: list[tuple[str, float]] = []
    for name, seconds in (("c", 3), ("a", 1), ("b", 2), ("b2", 2)):
        clock.call_later(seconds, lambda name=name: fired.append((name, clock.time())))
    assert clock.advance(2.5) == 3
    assert fired == [("a", 1), ("b", 2), ("b2", 2)]
    assert clock.time() == 2.5
    assert clock.next_due() == 0.5
    clock.advance(0.5)
    assert fired[-1] == ("c", 3)
    assert clock.next_due() is None


def test_ten_tenths_make_one() -> None:
    clock = ManualClock()
    fired: list[float] = []
    clock.call_later(0.8, lambda: fired.append(clock.time()))
    for _ in range(8):
        clock.advance(0.1)
    assert fired == [0.8]


def test_a_timer_set_by_a_timer_fires_in_the_same_advance() -> None:
    clock = ManualClock()
    fired: list[float] = []

    def again() -> None:
        fired.append(clock.time())
        clock.call_later(1, again)

    clock.call_later(1, again)
    clock.advance(3)
    assert fired == [1, 2, 3]


def test_what_is_set_at_once_waits_for_the_next_turn_of_the_same_moment() -> None:
    clock = ManualClock()
    told: list[str] = []

    def first() -> None:
        told.append("first")
        clock.call_later(0, lambda: told.append("third"))

    clock.call_later(1, first)
    clock.call_later(1, lambda: told.append("second"))
    clock.advance(1, between=lambda: told.append("between"))
    assert told == ["between", "first", "second", "between", "third", "between"]


def test_a_cancelled_timer_does_not_fire_even_by_one_of_its_own_moment() -> None:
    clock = ManualClock()
    fired: list[str] = []
    clock.call_later(1, lambda: later.cancel())
    later = clock.call_later(1, lambda: fired.append("later"))
    clock.advance(2)
    later.cancel()
    assert fired == []


def test_timers_that_never_let_time_pass_are_an_error() -> None:
    clock = ManualClock()

    def again() -> None:
        clock.call_later(0, again)

    again()
    with pytest.raises(AssertionError, match="set itself anew with 0 seconds"):
        clock.advance(1)


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), "1", None, True, 10**400])
def test_time_passes_forwards_by_a_finite_number_of_seconds(seconds: Any) -> None:
    clock = ManualClock()
    told = "advance: expected seconds, 0 or more and finite, got "
    with pytest.raises(ValueError, match=told + re.escape(repr(seconds))):
        clock.advance(seconds)
    with ManualGAplic() as app, pytest.raises(ValueError, match=told):
        app.advance(seconds)
    assert clock.time() == 0


@pytest.mark.parametrize("start", [float("nan"), float("inf"), "1", None])
def test_a_beginning_that_is_no_time(start: Any) -> None:
    with pytest.raises(ValueError, match="start: expected a finite number of seconds, got "):
        ManualClock(start)


def test_a_timer_of_no_time_is_not_set() -> None:
    clock = ManualClock()
    with pytest.raises(ValueError, match="call_later: expected a number of seconds, got nan"):
        clock.call_later(float("nan"), lambda: pytest.fail("it fired"))
    assert clock.next_due() is None


def test_an_endless_wait_never_ends() -> None:
    clock = ManualClock()
    clock.call_later(float("inf"), lambda: pytest.fail("it fired"))
    clock.advance(1e9)


def test_a_stopped_clock_has_no_timers() -> None:
    clock = ManualClock()
    clock.call_later(1, lambda: pytest.fail("it fired"))
    clock.stop()
    clock.advance(2)
