"""The numbered semantics of the design, each by its number.

What each rule means in every corner is tested beside its module; here stands, for each rule, that
it holds, and what it is there for.
"""

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from ginsfsm import (
    NOT_ACCEPTED,
    POSTPONE,
    Event,
    EventError,
    GAplic,
    GConfigError,
    GObj,
    GObjError,
    MachineError,
    StateError,
    after,
    enter,
    leave,
    on,
    param,
)
from ginsfsm.c_sock import EV_CONNECTED, EV_DISCONNECTED, EV_RX_DATA, EV_SEND_DATA
from ginsfsm.c_srv_sock import GServerSock
from ginsfsm.c_timer import EV_SET_TIMER, EV_TIMEOUT, GTimer
from ginsfsm.poller import READ
from ginsfsm.testing import ManualGAplic

RunAsync = Callable[[Coroutine[Any, Any, Any]], Any]


class EV_A(Event):
    number: int = 0


class EV_B(Event):
    number: int = 0


class EV_C(Event):
    pass


class EV_UNKNOWN(Event):
    pass


class EV_DONE(Event):
    result: Any
    error: BaseException | None


@pytest.fixture
def app() -> Iterator[ManualGAplic]:
    with ManualGAplic() as app:
        yield app


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


class Probe(GObj):
    """Notes what it gets and does what the test says; deaf after EV_C."""

    outputs = [EV_A, EV_B]

    def start_up(self) -> None:
        self.got: list[Event] = []
        self.each: Callable[[Any], object] = lambda event: None

    def ac_note(self, event: Event) -> object:
        self.got.append(event)
        return self.each(event)

    machine = {
        "ST_OPEN": [
            on(EV_A, ac_note),
            on(EV_B, ac_note),
            on(EV_DONE, ac_note),
            on(EV_C, None, "ST_DEAF"),
        ],
        "ST_DEAF": [on(EV_C, None, "ST_OPEN")],
    }


def probe(app: GAplic, name: str, parent: GObj | None = None, **options: Any) -> Probe:
    return app.create_gobj(name, Probe, parent or app, **options)


# -- machine ---------------------------------------------------------------------------------------


def test_01_every_fault_of_a_table_is_reported_at_once_with_file_and_line() -> None:
    with pytest.raises(MachineError) as raised:

        class Faulty(GObj):
            def ac_a(self) -> None: ...

            def ac_unused(self, event: EV_A) -> None: ...

            machine = {
                "ST_ONE": [
                    on(EV_A, ac_a, "ST_TOW"),  # type: ignore[arg-type]
                    on(EV_A, None),
                    on(EV_B, POSTPONE, "ST_ONE"),
                ],
                "ST_NOWHERE": [],
            }

    text = str(raised.value)
    for fault in (
        "there is no state 'ST_TOW'",
        "is called with (self, event)",
        "can never fire",
        "POSTPONE with a next state",
        "ST_NOWHERE: no row reaches this state",
        "ac_unused is in no row",
    ):
        assert fault in text, text
    for line in text.splitlines()[1:]:
        assert Path(__file__).name + ":" in line


def test_01_the_initial_state_is_the_first_and_is_entered_when_start_up_returns(
    app: ManualGAplic,
) -> None:
    told: list[str] = []

    class Starting(GObj):
        def start_up(self) -> None:
            told.append(f"start_up in {self.state}")

        def entered(self) -> None:
            told.append("entered")

        machine = {
            "ST_FIRST": [enter(entered), on(EV_A, None, "ST_SECOND")],
            "ST_SECOND": [],
        }

    assert app.create_gobj("x", Starting, app).state == "ST_FIRST"
    assert told == ["start_up in ST_FIRST", "entered"]


def test_01_a_subclass_gets_its_own_overridden_actions(app: ManualGAplic) -> None:
    class Loud(Probe):
        def ac_note(self, event: Event) -> str:
            return "LOUD"

    assert app.send_event(app.create_gobj("loud", Loud, app), EV_A()) == "LOUD"


class Traveller(GObj):
    """Tells the order of everything."""

    def start_up(self) -> None:
        self.told: list[str] = []

    def leaves(self) -> None:
        self.told.append(f"leave in {self.state}")

    def enters(self) -> None:
        self.told.append(f"enter in {self.state}")

    def too_late(self) -> None:
        self.told.append("after")

    def ac_go(self, event: EV_A) -> str:
        self.told.append(f"action in {self.state}")
        if event.number:
            raise ValueError("on the way")
        return "gone"

    machine = {
        "ST_HOME": [
            leave(leaves),
            after(1, too_late),
            on(EV_A, ac_go, "ST_AWAY"),
            on(EV_B, None, "ST_HOME"),
        ],
        "ST_AWAY": [enter(enters), after(5, too_late, "ST_HOME")],
    }


def test_02_leave_cancel_set_enter_start_and_then_the_action(app: ManualGAplic) -> None:
    gobj = app.create_gobj("x", Traveller, app)
    assert app.send_event(gobj, EV_A()) == "gone"
    assert gobj.told == ["leave in ST_HOME", "enter in ST_AWAY", "action in ST_AWAY"]
    app.advance(4.9)
    assert "after" not in gobj.told
    app.advance(0.1)
    assert gobj.told[-1] == "after"
    assert gobj.state == "ST_HOME"


def test_02_if_the_action_raises_the_new_state_stands(app: ManualGAplic) -> None:
    gobj = app.create_gobj("x", Traveller, app)
    with pytest.raises(ValueError, match="on the way"):
        app.send_event(gobj, EV_A(1))
    assert gobj.state == "ST_AWAY"


def test_02_a_row_to_its_own_state_changes_nothing(app: ManualGAplic) -> None:
    gobj = app.create_gobj("x", Traveller, app)
    app.advance(0.9)
    app.send_event(gobj, EV_B())
    assert gobj.told == []
    app.advance(0.1)
    assert gobj.told == ["after"]


def test_03_guards_choose_in_order_and_the_seconds_may_be_a_parameter(app: ManualGAplic) -> None:
    class Choosing(GObj):
        class config(GObj.config):
            patience: float = param(0.0, "seconds until it gives up; 0 waits for ever")

        def is_big(self, event: EV_A) -> bool:
            return event.number > 10

        def is_odd(self, event: EV_A) -> bool:
            return event.number % 2 == 1

        machine = {
            "ST_IDLE": [
                on(EV_A, lambda self, event: "big", when=is_big),
                on(EV_A, lambda self, event: "odd", when=is_odd),
                after("patience", None, "ST_TIRED"),
            ],
            "ST_TIRED": [],
        }

    patient = app.create_gobj("patient", Choosing, app)
    tired = app.create_gobj("tired", Choosing, app, patience=3)
    answers = [app.send_event(patient, EV_A(number)) for number in (11, 3, 4)]
    assert answers == ["big", "odd", NOT_ACCEPTED]
    app.advance(3)
    assert (patient.state, tired.state) == ("ST_IDLE", "ST_TIRED")


class Postponer(GObj):
    def start_up(self) -> None:
        self.got: list[int] = []
        self.each: Callable[[EV_A], object] = lambda event: None

    def ac_note(self, event: EV_A) -> object:
        self.got.append(event.number)
        return self.each(event)

    machine = {
        "ST_BUSY": [on(EV_A, POSTPONE), on(EV_B, None, "ST_READY")],
        "ST_READY": [on(EV_A, ac_note), on(EV_C, None, "ST_BUSY")],
    }


def test_04_postponed_events_come_oldest_first_before_anything_posted(app: ManualGAplic) -> None:
    gobj = app.create_gobj("x", Postponer, app)
    for number in (1, 2, 3):
        assert app.send_event(gobj, EV_A(number)) is None
    app.post_event(gobj, EV_B())
    app.post_event(gobj, EV_A(4))
    app.turn()
    assert gobj.got == [1, 2, 3, 4]


def test_04_if_a_retry_raises_the_rest_stay_queued(app: ManualGAplic) -> None:
    def fail_on_the_first(event: EV_A) -> None:
        if event.number == 1:
            raise ValueError("the first")

    gobj = app.create_gobj("x", Postponer, app)
    gobj.each = fail_on_the_first
    for number in (1, 2, 3):
        app.send_event(gobj, EV_A(number))
    with pytest.raises(ValueError, match="the first"):
        app.send_event(gobj, EV_B())
    assert gobj.got == [1]
    app.send_event(gobj, EV_A(4))
    assert sorted(gobj.got) == [1, 2, 3, 4]


def test_04_there_is_a_limit() -> None:
    with ManualGAplic("app", {"app.max_postponed_events": 2}) as app:
        gobj = app.create_gobj("x", Postponer, app)
        for _ in range(2):
            app.send_event(gobj, EV_A())
        with pytest.raises(EventError, match="has 2 postponed events and cannot postpone EV_A"):
            app.send_event(gobj, EV_A())


def test_05_set_new_state_goes_only_where_the_row_says(app: ManualGAplic) -> None:
    class Lamp(GObj):
        def ac_switch(self, event: EV_A) -> None:
            self.set_new_state("ST_ON" if event.number else "ST_BROKEN")

        machine = {
            "ST_OFF": [on(EV_A, ac_switch, may=("ST_ON",)), on(EV_B, None, "ST_BROKEN")],
            "ST_ON": [],
            "ST_BROKEN": [],
        }

    lamp = app.create_gobj("lamp", Lamp, app)
    with pytest.raises(StateError, match="does not declare ST_BROKEN"):
        app.send_event(lamp, EV_A(0))
    app.send_event(lamp, EV_A(1))
    assert lamp.state == "ST_ON"


# -- events ----------------------------------------------------------------------------------------


def test_06_send_event_is_synchronous_and_returns_what_the_action_returned(
    app: ManualGAplic,
) -> None:
    gobj = probe(app, "x")
    gobj.each = lambda event: event.number * 2
    assert app.send_event(gobj, EV_A(21)) == 42


def test_06_an_event_that_the_state_does_not_accept_returns_not_accepted_and_is_logged_once(
    app: ManualGAplic, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = probe(app, "first"), probe(app, "second")
    for gobj in (first, second):
        app.send_event(gobj, EV_C())
    with caplog.at_level(logging.DEBUG, "ginsfsm"):
        for gobj in (first, first, second):
            answer = app.send_event(gobj, EV_A())
            assert answer is NOT_ACCEPTED
            assert not answer
    assert [record.levelname for record in caplog.records] == ["WARNING", "DEBUG", "DEBUG"]
    assert app.refused_events == 3


def test_06_an_event_that_no_state_has_is_a_programming_error(app: ManualGAplic) -> None:
    gobj = probe(app, "x")
    with pytest.raises(EventError, match="EV_UNKNOWN"):
        app.send_event(gobj, EV_UNKNOWN())
    with pytest.raises(EventError, match="EV_UNKNOWN"):
        app.post_event(gobj, EV_UNKNOWN())
    assert app.turn() == 0


def test_06_dispatch_is_by_exact_class(app: ManualGAplic) -> None:
    class EV_A(globals()["EV_A"]):  # type: ignore[misc, name-defined]
        """A subclass is another event, and even its name does not help."""

    with pytest.raises(EventError, match="events are told apart by their class"):
        app.send_event(probe(app, "x"), EV_A())


def test_06_a_destroyed_gobj_accepts_nothing(app: ManualGAplic) -> None:
    gobj = probe(app, "x")
    app.destroy_gobj(gobj)
    assert app.send_event(gobj, EV_A()) is NOT_ACCEPTED


def test_06_an_action_may_send_to_its_own_gobj(app: ManualGAplic) -> None:
    gobj = probe(app, "x")
    gobj.each = lambda event: event.number and gobj.send_event(gobj, EV_A(event.number - 1))
    app.send_event(gobj, EV_A(3))
    assert [event.number for event in gobj.got] == [3, 2, 1, 0]  # type: ignore[attr-defined]


def test_07_forwarding_does_not_change_what_the_forwarder_holds(app: ManualGAplic) -> None:
    sender, forwarder, last = (probe(app, name) for name in ("sender", "forwarder", "last"))
    forwarder.each = lambda event: forwarder.send_event(last, event)
    event = EV_A(1)
    sender.send_event(forwarder, event)
    assert forwarder.got[0] is event
    assert event.source is sender
    assert last.got[0].source is forwarder
    assert last.got[0] == event


def test_07_forwarding_by_post_and_by_broadcast_likewise(app: ManualGAplic) -> None:
    sender, forwarder, last = (probe(app, name) for name in ("sender", "forwarder", "last"))
    forwarder.subscribe_event(EV_B, last)

    def forward(event: Event) -> None:
        forwarder.post_event(last, event)
        if isinstance(event, EV_B):
            forwarder.broadcast_event(event)

    forwarder.each = forward
    for event in (EV_A(1), EV_B(2)):
        sender.send_event(forwarder, event)
        app.turn()
        assert event.source is sender
    assert last.got == [EV_A(1), EV_B(2), EV_B(2)]
    assert all(event.source is forwarder for event in last.got)


def test_07_the_source_is_no_field(app: ManualGAplic) -> None:
    event = EV_A(1)
    app.send_event(probe(app, "x"), event)
    assert repr(event) == "EV_A(number=1)"
    assert event == EV_A(1)
    with pytest.raises(EventError, match="cannot declare a field 'source'"):

        class EV_WRONG(Event):
            source: int  # type: ignore[assignment]


def test_08_a_turn_delivers_only_what_was_there_when_it_began(app: ManualGAplic) -> None:
    gobj = probe(app, "x")
    gobj.each = lambda event: gobj.post_event(gobj, EV_A(event.number + 1))
    app.post_event(gobj, EV_A(0))
    app.post_event(gobj, EV_A(100))
    assert app.turn() == 2
    assert gobj.got == [EV_A(0), EV_A(100)]


def test_08_a_thousand_that_post_again_starve_neither_sockets_nor_timers(
    run_async: RunAsync,
) -> None:
    class Counter:
        """A handler that echoes, and counts the turns."""

        def __init__(self, sock: socket.socket) -> None:
            self.sock = sock

        def io_ready(self, mask: int) -> None:
            self.sock.send(self.sock.recv(10))

        def io_failed(self, error: Exception) -> None:
            raise error

    async def main() -> None:
        app = GAplic("app")
        gobj = probe(app, "x")
        timer = app.create_gobj("timer", GTimer, app.create_gobj("owner", Ticks, app))
        gobj.each = lambda event: gobj.post_event(gobj, event)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            theirs.setblocking(False)
            app.poller.register(ours.fileno(), Counter(ours), READ)
            async with app:
                for number in range(1000):
                    app.post_event(gobj, EV_A(number))
                app.send_event(timer, EV_SET_TIMER(0.001, autostart=True))
                ticks = app.children["owner"]
                assert isinstance(ticks, Ticks)
                waited: list[int] = []
                for _ in range(20):
                    theirs.send(b"x")
                    before = len(gobj.got)
                    while True:
                        await asyncio.sleep(0)
                        try:
                            assert theirs.recv(10) == b"x"
                        except BlockingIOError:
                            continue
                        break
                    waited.append((len(gobj.got) - before) // 1000)
                # Each answer comes within a few turns, however many events are posted.
                assert max(waited) <= 4
                while ticks.count < 3:
                    await asyncio.sleep(0)
                app.poller.unregister(ours.fileno())

    run_async(main())


class Ticks(GObj):
    count = 0

    def ac_timeout(self, event: EV_TIMEOUT) -> None:
        self.count += 1

    machine = {"ST_IDLE": [on(EV_TIMEOUT, ac_timeout)]}


def test_08_posts_to_the_dead_are_counted_and_those_from_the_dead_delivered(
    app: ManualGAplic,
) -> None:
    living, dead = probe(app, "living"), probe(app, "dead")
    told: list[bool] = []
    living.each = lambda event: told.append(event.source.destroyed)
    app.post_event(dead, EV_A())
    dead.post_event(living, EV_A())
    app.destroy_gobj(dead)
    app.post_event(dead, EV_A())
    app.turn()
    assert dead.got == []
    assert app.dropped_posts == 2
    assert told == [True]
    dead.post_event(living, EV_A())
    assert app.turn() == 0


def test_08_past_the_limit_post_event_raises_and_drops_nothing() -> None:
    with ManualGAplic("app", {"app.max_posted_events": 2}) as app:
        gobj = probe(app, "x")
        for number in range(2):
            app.post_event(gobj, EV_A(number))
        with pytest.raises(EventError, match="raise max_posted_events"):
            app.post_event(gobj, EV_A(2))
        app.turn()
        assert gobj.got == [EV_A(0), EV_A(1)]


def test_09_the_subscribers_get_it_in_the_order_in_which_they_subscribed(
    app: ManualGAplic,
) -> None:
    speaker = probe(app, "speaker")
    ears = [probe(app, name) for name in ("c", "a", "b")]
    order: list[str] = []
    for ear in ears:
        ear.each = lambda event, ear=ear: order.append(ear.name)
        speaker.subscribe_event(None, ear)
    assert speaker.broadcast_event(EV_A()) == 3
    assert order == ["c", "a", "b"]


def test_09_none_means_what_the_subscriber_has_in_some_state(app: ManualGAplic) -> None:
    speaker, hears_b = probe(app, "speaker"), app.stand_in("ear", EV_B)
    speaker.subscribe_event(None, hears_b)
    speaker.broadcast_event(EV_A())
    assert (hears_b.received, app.refused_events) == ([], 0)
    speaker.broadcast_event(EV_B())
    assert hears_b.received == [EV_B()]
    with pytest.raises(EventError, match="EV_A"):
        speaker.subscribe_event(EV_A, hears_b)
    with pytest.raises(EventError, match="no output event EV_C"):
        speaker.broadcast_event(EV_C())


def test_09_one_subscribers_exception_does_not_rob_the_others(app: ManualGAplic) -> None:
    def fail(event: Event, number: int) -> None:
        raise ValueError(f"number {number}")

    speaker = probe(app, "speaker")
    ears = [probe(app, f"ear{number}") for number in range(4)]
    for number, ear in enumerate(ears):
        speaker.subscribe_event(None, ear)
        if number in (1, 2):
            ear.each = lambda event, number=number: fail(event, number)
    with pytest.raises(ValueError, match="number 1"):
        speaker.broadcast_event(EV_A())
    assert [len(ear.got) for ear in ears] == [1, 1, 1, 1]


def test_09_subscriptions_end_with_either_side(app: ManualGAplic) -> None:
    speaker, ear = probe(app, "speaker"), probe(app, "ear")
    speaker.subscribe_event(None, ear)
    app.destroy_gobj(ear)
    assert speaker.broadcast_event(EV_A()) == 0
    ear = probe(app, "ear")
    speaker.subscribe_event(None, ear)
    app.destroy_gobj(speaker)
    assert speaker.broadcast_event(EV_A()) == 0
    assert ear.got == []


def test_10_a_subscriber_that_dies_in_its_own_action(app: ManualGAplic) -> None:
    speaker = probe(app, "speaker")
    ears = [probe(app, f"ear{number}") for number in range(3)]
    for ear in ears:
        speaker.subscribe_event(None, ear)
    ears[1].each = lambda event: ears[1].destroy_gobj(ears[1])
    speaker.broadcast_event(EV_A())
    speaker.broadcast_event(EV_A())
    assert [len(ear.got) for ear in ears] == [2, 1, 2]


@pytest.mark.parametrize("victim", ["the next", "all", "the speaker", "the parent"])
def test_10_a_destruction_in_the_middle_of_a_broadcast_is_safe(
    app: ManualGAplic, victim: str
) -> None:
    parent = probe(app, "parent")
    speaker = probe(app, "speaker", parent)
    ears = [probe(app, f"ear{number}") for number in range(3)]
    for ear in ears:
        speaker.subscribe_event(None, ear)

    def kill(event: Event) -> None:
        victims = {
            "the next": [ears[1]],
            "all": ears,
            "the speaker": [speaker],
            "the parent": [parent],
        }[victim]
        for one in victims:
            app.destroy_gobj(one)

    ears[0].each = kill
    speaker.broadcast_event(EV_A())
    expected = {"the next": [1, 0, 1], "all": [1, 0, 0]}.get(victim, [1, 1, 1])
    assert [len(ear.got) for ear in ears] == expected
    assert all(ear.got[0].source is speaker for ear in ears if ear.got)


def test_10_a_gobj_that_dies_in_its_action_sends_nothing_new(app: ManualGAplic) -> None:
    gobj, other = probe(app, "x"), probe(app, "other")
    gobj.subscribe_event(None, other)

    def die(event: Event) -> str:
        gobj.destroy_gobj(gobj)
        assert gobj.send_event(other, EV_A()) is NOT_ACCEPTED
        assert gobj.broadcast_event(EV_A()) == 0
        gobj.post_event(other, EV_A())
        return "last words"

    gobj.each = die
    assert app.send_event(gobj, EV_A()) == "last words"
    app.turn()
    assert other.got == []


def test_10_destroyed_by_what_its_own_send_caused(app: ManualGAplic) -> None:
    gobj, other = probe(app, "x"), probe(app, "other")
    other.each = lambda event: other.destroy_gobj(gobj)

    def send_twice(event: Event) -> list[object]:
        return [gobj.send_event(other, EV_A()) for _ in range(2)]

    gobj.each = send_twice
    assert app.send_event(gobj, EV_A()) == [None, NOT_ACCEPTED]
    assert len(other.got) == 1


def test_10_destroyed_while_its_state_is_being_left(app: ManualGAplic) -> None:
    class Leaving(GObj):
        ran = False

        def ac_a(self, event: EV_A) -> None:
            self.ran = True

        machine = {
            "ST_ONE": [leave(lambda self: self.destroy_gobj(self)), on(EV_A, ac_a, "ST_TWO")],
            "ST_TWO": [after(1, None)],
        }

    gobj = app.create_gobj("x", Leaving, app)
    app.send_event(gobj, EV_A())
    assert gobj.destroyed
    assert not gobj.ran
    assert app.clock.next_due() is None


# -- life ------------------------------------------------------------------------------------------


def test_11_every_wrong_parameter_is_listed_and_nothing_is_started(app: ManualGAplic) -> None:
    class Server(GObj):
        class config(GObj.config):
            host: str = param("", "address")
            port: int = param(0, "port", ge=0, le=65535)

        def start_up(self) -> None:
            raise AssertionError("it was started")

    with pytest.raises(GConfigError) as raised:
        app.create_gobj("server", Server, app, host=3, port=70000, prot=1)
    text = str(raised.value)
    assert "app/server (Server): 3 faults" in text
    assert "host: expected str, got 3 (int)" in text
    assert "port: expected int from 0 to 65535, got 70000 (int)" in text
    assert "prot: unknown parameter; did you mean 'port'?" in text
    assert app.children == {}


def test_11_a_start_up_that_raises_half_way_leaves_nothing_behind(run_async: RunAsync) -> None:
    async def work() -> None:
        raise AssertionError("it ran")

    class Half(GObj):
        outputs = [EV_A]

        def start_up(self) -> None:
            app = self.gaplic
            self.create_gobj("server", GServerSock, self, host="127.0.0.1", unique=True)
            timer = self.create_gobj("timer", GTimer, self)
            self.send_event(timer, EV_SET_TIMER(0, autostart=True))
            self.spawn(work(), done=EV_DONE)
            self.post_event(self, EV_A())
            other = app.children["other"]
            other.subscribe_event(None, self)
            self.subscribe_event(EV_A, other)
            raise ValueError("half way")

        machine = {
            "ST_IDLE": [
                on(EV_A, None),
                on(EV_TIMEOUT, None),
                on(EV_DONE, None),
                on(EV_CONNECTED, None),
                after(0.001, None),
            ],
        }

    async def main() -> None:
        async with GAplic("app") as app:
            other = probe(app, "other")
            with pytest.raises(ValueError, match="half way"):
                app.create_gobj("half", Half, app, unique=True)
            assert list(app.children) == ["other"]
            for name in ("half", "server"):
                with pytest.raises(GObjError, match="no unique gobj"):
                    app.find_unique_gobj(name)
            assert len(app.poller) == 0
            assert not app._clock.timers  # type: ignore[attr-defined]
            assert [one.subscriber for one in other.subscriptions] == [app]
            await turns()
            assert not app._all_tasks
            assert app.dropped_posts == 1
            assert app.contained_errors == 0

    run_async(main())


def test_12_destruction_goes_on_after_a_go_out_that_raises(
    app: ManualGAplic, caplog: pytest.LogCaptureFixture
) -> None:
    gone: list[str] = []

    class Falling(GObj):
        def go_out(self) -> None:
            assert self.destroyed
            gone.append(self.name)
            raise ValueError(f"{self.name} falls")

    top = app.create_gobj("top", Falling, app)
    for name in ("a", "b"):
        app.create_gobj(name, Falling, top)
    with app.expect_failure(ValueError) as failures:
        app.destroy_gobj(top)
    app.destroy_gobj(top)
    assert gone == ["b", "a", "top"]
    assert len(failures) == app.contained_errors == 3
    assert app.children == {}
    assert "app/top/b in ST_IDLE: go_out raised ValueError: b falls" in caplog.text


def test_12_a_destroyed_gobjs_tasks_are_cancelled_and_send_nothing(run_async: RunAsync) -> None:
    async def main() -> None:
        cancelled = asyncio.Event()

        async def wait() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        async with GAplic("app") as app:
            gobj = probe(app, "x")
            gobj.spawn(wait(), done=EV_DONE)
            await turns()
            app.destroy_gobj(gobj)
            await cancelled.wait()
            await turns()
            assert gobj.got == []

            async def fail() -> None:
                raise OSError("no route")

            gobj = probe(app, "x")
            told = asyncio.Event()
            gobj.each = lambda event: told.set()
            gobj.spawn(fail(), done=EV_DONE)
            await told.wait()
            (event,) = gobj.got
            assert isinstance(event, EV_DONE)
            assert isinstance(event.error, OSError)

    run_async(main())


def test_12_the_after_timer_of_a_destroyed_gobj_does_not_fire(app: ManualGAplic) -> None:
    gobj = app.create_gobj("x", Traveller, app)
    app.destroy_gobj(gobj)
    app.advance(100)
    assert gobj.told == []


def test_13_siblings_have_different_names_and_a_unique_one_can_be_a_destination(
    app: ManualGAplic,
) -> None:
    parent = probe(app, "parent")
    worker = probe(app, "worker", parent, unique=True)
    with pytest.raises(GObjError, match="already"):
        probe(app, "worker", parent)
    with pytest.raises(GObjError, match="the unique name 'worker' belongs to app/parent/worker"):
        probe(app, "worker", unique=True)
    assert probe(app, "worker").path == "app/worker"
    assert app.create_gobj(None, Probe, parent).name != app.create_gobj(None, Probe, parent).name

    app.send_event("worker", EV_A(1))
    app.post_event("worker", "EV_A", number=2)
    app.turn()
    assert worker.got == [EV_A(1), EV_A(2)]
    app.destroy_gobj("worker")
    with pytest.raises(GObjError, match="there is no unique gobj 'worker'"):
        app.send_event("worker", EV_A())


def test_14_an_exception_goes_to_whoever_called_send_event(app: ManualGAplic) -> None:
    def fail(event: Event) -> None:
        raise ValueError("in the action")

    gobj, middle = probe(app, "x"), probe(app, "middle")
    gobj.each = fail
    middle.each = lambda event: middle.send_event(gobj, event)
    with pytest.raises(ValueError, match="in the action"):
        app.send_event(middle, EV_A())
    assert app.contained_errors == 0


class Fragile(GObj):
    """Fails at every edge of the loop."""

    def start_up(self) -> None:
        self.failed = asyncio.Event()

    def fail(self, *event: Event) -> None:
        self.failed.set()
        raise ValueError("at the edge")

    machine = {
        "ST_IDLE": [
            on(EV_A, fail),
            on(EV_DONE, fail),
            on(EV_TIMEOUT, fail),
            on(EV_C, None, "ST_SHORT"),
        ],
        "ST_SHORT": [after(0.001, fail, "ST_IDLE")],
    }


async def nothing() -> None:
    pass


@pytest.mark.parametrize("edge", ["post", "threadsafe", "timer", "after", "spawn"])
def test_14_at_the_edges_of_the_loop_it_is_contained_and_life_goes_on(
    run_async: RunAsync, caplog: pytest.LogCaptureFixture, edge: str
) -> None:
    async def main() -> None:
        async with GAplic("app") as app:
            fragile = app.create_gobj("fragile", Fragile, app)
            timer = app.create_gobj("timer", GTimer, fragile)
            for _ in range(2):
                fragile.failed.clear()
                match edge:
                    case "post":
                        app.post_event(fragile, EV_A())
                    case "threadsafe":
                        await asyncio.to_thread(app.post_event_threadsafe, fragile, EV_A())
                    case "timer":
                        app.send_event(timer, EV_SET_TIMER(0))
                    case "after":
                        app.send_event(fragile, EV_C())
                    case "spawn":
                        fragile.spawn(nothing(), done=EV_DONE)
                await fragile.failed.wait()
                await turns()
            assert app.contained_errors == 2
            assert fragile.state == "ST_IDLE"

    run_async(main())
    assert len(caplog.records) == 2
    for record in caplog.records:
        assert record.levelno == logging.ERROR
        assert record.getMessage().startswith("app/fragile in ST_IDLE: ")
        assert record.getMessage().endswith(" raised ValueError: at the edge")
        assert record.exc_info is not None


class Fussy(GObj):
    """A server that fails on one kind of data."""

    def start_up(self) -> None:
        self.reasons: asyncio.Queue[str] = asyncio.Queue()
        self.server = self.create_gobj("server", GServerSock, self, host="127.0.0.1")

    def ac_data(self, event: EV_RX_DATA) -> None:
        if b"bad" in event.data:
            raise ValueError("bad data")
        self.send_event(event.source, EV_SEND_DATA(event.data))

    def ac_gone(self, event: EV_DISCONNECTED) -> None:
        self.reasons.put_nowait(event.reason)
        self.destroy_gobj(event.source)

    machine = {
        "ST_IDLE": [
            on(EV_CONNECTED, None),
            on(EV_RX_DATA, ac_data),
            on(EV_DISCONNECTED, ac_gone),
        ],
    }


def test_14_one_bad_client_never_takes_the_server_down(
    run_async: RunAsync, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with GAplic("app") as app:
            fussy = app.create_gobj("fussy", Fussy, app)
            port = fussy.server.config.port

            async def talk(data: bytes) -> bytes:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(data)
                try:
                    return await reader.read(100)
                except ConnectionError:
                    return b""
                finally:
                    writer.close()

            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await talk(b"bad") == b""
            assert await fussy.reasons.get() == "error"
            writer.write(b"good")
            assert await reader.read(100) == b"good"
            writer.close()
            assert await fussy.reasons.get() == "peer"
            assert app.contained_errors == 1

    run_async(main())
    assert "EV_RX_DATA" in caplog.text
    assert "ValueError: bad data" in caplog.text


def test_15_the_tree_may_be_built_before_the_loop_runs(run_async: RunAsync) -> None:
    async def answer() -> int:
        return 42

    app = GAplic("app")
    gobj = probe(app, "x")
    ticks = app.create_gobj("ticks", Ticks, app)
    short = app.create_gobj("fragile", Traveller, app)
    gobj.spawn(answer(), done=EV_DONE)
    app.post_event(gobj, EV_A(1))
    app.send_event(app.create_gobj("timer", GTimer, ticks), EV_SET_TIMER(0.001))
    app.send_event(short, EV_A())

    async def main() -> None:
        await turns()
        assert (gobj.got, ticks.count) == ([], 0)
        done = asyncio.Event()
        gobj.each = lambda event: len(gobj.got) == 2 and done.set()
        async with app:
            await done.wait()
            while not ticks.count:
                await asyncio.sleep(0)
        assert sorted(map(repr, gobj.got)) == ["EV_A(number=1)", "EV_DONE(result=42, error=None)"]

    run_async(main())


def test_15_other_threads_enter_only_by_post_event_threadsafe_and_all_runs_in_one(
    run_async: RunAsync,
) -> None:
    async def main() -> None:
        async with GAplic("app") as app:
            gobj = probe(app, "x")
            seen: set[int] = set()
            done = asyncio.Event()

            def each(event: EV_A) -> None:
                seen.add(threading.get_ident())
                if len(gobj.got) == 40:
                    done.set()

            gobj.each = each

            def post() -> None:
                for number in range(10):
                    app.post_event_threadsafe(gobj, EV_A(number))

            async with asyncio.TaskGroup() as group:
                for _ in range(4):
                    group.create_task(asyncio.to_thread(post))
            await done.wait()
            assert seen == {threading.get_ident()}

    run_async(main())


# That a gaplic crosses no fork needs a process of its own: see test_gaplic.py.
