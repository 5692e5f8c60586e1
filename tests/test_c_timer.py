"""GTimer, mostly by a clock that is moved by hand."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from ginsfsm import Event, EventError, GAplic, GConfigError, GObj, on
from ginsfsm.c_timer import EV_SET_TIMER, EV_TIMEOUT, GTimer
from ginsfsm.testing import ManualGAplic

RunAsync = Callable[[Coroutine[Any, Any, Any]], Any]


class EV_TICK(Event):
    pass


class EV_LATE(Event):
    pass


class EV_NEEDS_MORE(Event):
    number: int


class Owner(GObj):
    """Notes when its timers fired."""

    def start_up(self) -> None:
        self.told: list[tuple[str, float]] = []
        self.each: Callable[[Event], object] = lambda event: None
        self.timer = self.create_gobj("timer", GTimer, self)

    def set(self, seconds: float, autostart: bool = False) -> None:
        self.send_event(self.timer, EV_SET_TIMER(seconds, autostart))

    def ac_timeout(self, event: Event) -> None:
        self.told.append((event.source.name, self.gaplic.time()))
        self.each(event)

    machine = {
        "ST_IDLE": [
            on(EV_TIMEOUT, ac_timeout),
            on(EV_TICK, ac_timeout),
            on(EV_LATE, ac_timeout),
        ],
    }


def owner_of(app: GAplic) -> Owner:
    return app.create_gobj("owner", Owner, app)


def test_it_tells_its_owner_once_when_the_time_is_over() -> None:
    with ManualGAplic() as app:
        owner = owner_of(app)
        owner.set(5)
        assert owner.timer.state == "ST_COUNTDOWN"
        app.advance(4.999)
        assert owner.told == []
        app.advance(0.001)
        assert owner.told == [("timer", 5)]
        assert owner.timer.state == "ST_IDLE"
        app.advance(100)
        assert len(owner.told) == 1


def test_setting_it_again_starts_it_anew() -> None:
    with ManualGAplic() as app:
        owner = owner_of(app)
        owner.set(5)
        app.advance(4)
        owner.set(5)
        app.advance(4)
        assert owner.told == []
        app.advance(1)
        assert owner.told == [("timer", 9)]


@pytest.mark.parametrize("seconds", [-1, -0.5, float("-inf")])
def test_a_negative_time_cancels(seconds: float) -> None:
    with ManualGAplic() as app:
        owner = owner_of(app)
        owner.set(5)
        owner.set(seconds)
        assert owner.timer.state == "ST_IDLE"
        owner.set(seconds)
        app.advance(10)
        assert owner.told == []


def test_zero_seconds_come_in_the_next_turn() -> None:
    with ManualGAplic() as app:
        owner = owner_of(app)
        owner.set(0)
        assert owner.told == []
        app.advance(0)
        assert owner.told == [("timer", 0)]


def test_autostart_goes_on_without_drift_until_it_is_cancelled() -> None:
    with ManualGAplic() as app:
        owner = owner_of(app)
        owner.set(0.1, autostart=True)
        app.advance(1)
        assert [when for _, when in owner.told] == pytest.approx([n / 10 for n in range(1, 11)])
        owner.set(-1)
        app.advance(10)
        assert len(owner.told) == 10


def test_a_set_without_autostart_ends_the_ticking() -> None:
    with ManualGAplic() as app:
        owner = owner_of(app)
        owner.set(1, autostart=True)
        app.advance(2)
        owner.set(1)
        app.advance(10)
        assert [when for _, when in owner.told] == [1, 2, 3]


def test_ticks_that_were_missed_are_left_out() -> None:
    with ManualGAplic() as app:
        owner = owner_of(app)
        owner.set(1, autostart=True)
        # The loop was held up: the clock jumps, and then the timer fires late.
        app.clock._now += 3_400_000_000
        app.advance(0)
        assert owner.told == [("timer", 3.4)]
        app.advance(0.6)
        assert owner.told[1:] == [("timer", 4)]


def test_the_owner_may_cancel_or_set_it_in_its_action() -> None:
    with ManualGAplic() as app:
        owner = owner_of(app)
        owner.each = lambda event: owner.set(-1)
        owner.set(1, autostart=True)
        app.advance(5)
        assert len(owner.told) == 1
        owner.each = lambda event: owner.set(2)
        owner.set(1)
        app.advance(5)
        assert [when for _, when in owner.told[1:]] == [6, 8, 10]


def test_the_owner_may_destroy_it_or_itself_in_its_action() -> None:
    with ManualGAplic() as app:
        for autostart in (False, True):
            owner = owner_of(app)
            owner.each = lambda event, owner=owner: owner.destroy_gobj(event.source)
            owner.set(1, autostart)
            app.advance(5)
            assert len(owner.told) == 1
            assert app.clock.next_due() is None
            app.destroy_gobj(owner)

            owner = owner_of(app)
            owner.each = lambda event, owner=owner: owner.destroy_gobj(owner)
            owner.set(1, autostart)
            app.advance(5)
            assert len(owner.told) == 1
            assert app.clock.next_due() is None


def test_destroying_it_cancels_it() -> None:
    with ManualGAplic() as app:
        owner = owner_of(app)
        owner.set(1)
        app.destroy_gobj(owner.timer)
        assert app.clock.next_due() is None


def test_an_action_of_the_owner_that_raises_is_contained_as_the_owners() -> None:
    def fail(event: Event) -> None:
        raise ValueError("in the owner")

    with ManualGAplic() as app:
        owner = owner_of(app)
        owner.each = fail
        for autostart in (False, True):
            owner.set(1, autostart)
            with app.expect_failure(ValueError) as caught:
                app.advance(1)
            assert caught[0].gobj is owner
            assert caught[0].event == EV_TIMEOUT()
        with app.expect_failure(ValueError):
            app.advance(1)  # it goes on ticking


def test_two_timers_are_told_apart_by_their_event() -> None:
    with ManualGAplic() as app:
        owner = app.stand_in("owner", EV_TICK, EV_LATE)
        tick = app.create_gobj("tick", GTimer, owner, timeout_event=EV_TICK)
        late = app.create_gobj("late", GTimer, owner, timeout_event=EV_LATE)
        owner.send_event(tick, EV_SET_TIMER(1, autostart=True))
        owner.send_event(late, EV_SET_TIMER(2.5))
        app.advance(3)
        assert owner.received == [EV_TICK(), EV_TICK(), EV_LATE(), EV_TICK()]


def test_the_subscriber_gets_it_instead_of_the_parent() -> None:
    with ManualGAplic() as app:
        owner = owner_of(app)
        other = app.stand_in("other", EV_TIMEOUT)
        timer = app.create_gobj("another", GTimer, owner, subscriber=other)
        owner.send_event(timer, EV_SET_TIMER(1))
        app.advance(1)
        assert owner.told == []
        assert other.received == [EV_TIMEOUT()]
        assert other.received[0].source is timer


def test_an_event_that_needs_a_payload_cannot_be_the_timeout() -> None:
    with ManualGAplic() as app:
        owner = app.stand_in("owner", EV_NEEDS_MORE)
        with pytest.raises(GConfigError, match="timeout_event=EV_NEEDS_MORE: expected an event"):
            app.create_gobj("timer", GTimer, owner, timeout_event=EV_NEEDS_MORE)
        with pytest.raises(GConfigError, match="timeout_event"):
            app.create_gobj("timer", GTimer, owner, timeout_event=int)
        assert owner.children == {}


@pytest.mark.parametrize("seconds", [float("nan"), "5", None, True, 10**400])
def test_a_time_that_is_no_number(seconds: Any) -> None:
    with ManualGAplic() as app:
        owner = owner_of(app)
        with pytest.raises(EventError, match="EV_SET_TIMER: expected a number of seconds, got"):
            owner.set(seconds)
        assert owner.timer.state == "ST_IDLE"


def test_an_endless_time(run_async: RunAsync) -> None:
    async def main() -> None:
        async with GAplic("app") as app:
            owner = owner_of(app)
            owner.set(float("inf"))
            owner.set(1e300)
            await asyncio.sleep(0)
            owner.set(-1)
            owner.set(float("inf"), autostart=True)

    run_async(main())


def test_by_a_real_clock_and_set_before_the_loop(run_async: RunAsync) -> None:
    async def main() -> None:
        app = GAplic("app")
        owner = owner_of(app)
        done = asyncio.Event()
        owner.each = lambda event: len(owner.told) == 3 and done.set()
        owner.set(0.002, autostart=True)
        async with app:
            await done.wait()

    run_async(main())


def test_a_clock_coarser_than_the_period_makes_no_more_ticks(run_async: RunAsync) -> None:
    # uvloop counts milliseconds, and calls back up to half of one too early.
    async def main() -> float:
        async with GAplic("app") as app:
            owner = owner_of(app)
            begin = app.time()
            owner.set(0.0001, autostart=True)
            await asyncio.sleep(0.2)
            return len(owner.told) / (app.time() - begin)

    assert run_async(main()) <= 11_000
