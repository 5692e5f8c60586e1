"""What an observer is told, and what observing does not change."""

import logging
from collections.abc import Callable
from typing import Any

import pytest

from ginsfsm import NOT_ACCEPTED, Event, GAplic, GObj, GObjError, on
from ginsfsm.inspection import (
    Created,
    Delivered,
    Destroyed,
    Failed,
    Observation,
    Refused,
    Transition,
)


class EV_GO(Event):
    number: int = 0


class EV_BACK(Event):
    pass


class EV_FAIL(Event):
    pass


class Traveller(GObj):
    outputs = [EV_BACK]

    def ac_go(self, event: EV_GO) -> int:
        self.broadcast_event(EV_BACK())
        return event.number

    def ac_fail(self, event: EV_FAIL) -> None:
        raise ValueError("fails")

    machine = {
        "ST_HOME": [on(EV_GO, ac_go, "ST_AWAY"), on(EV_FAIL, ac_fail)],
        "ST_AWAY": [on(EV_BACK, None, "ST_HOME")],
    }


class Owner(GObj):
    def start_up(self) -> None:
        self.each: Callable[[Event], object] = lambda event: None

    def ac_back(self, event: EV_BACK) -> object:
        return self.each(event)

    machine = {"ST_IDLE": [on(EV_BACK, ac_back)]}


class Scene:
    def __init__(self) -> None:
        self.app = GAplic("app")
        self.seen: list[Observation] = []
        self.owner = self.app.create_gobj("owner", Owner, self.app)
        self.traveller = self.app.create_gobj("traveller", Traveller, self.owner)
        self.app.observe(self.seen.append)


@pytest.fixture
def scene() -> Any:
    scene = Scene()
    yield scene
    scene.app.destroy_gobj(scene.app)


def test_events_and_transitions_in_order_and_depth(scene: Scene) -> None:
    event = EV_GO(7)
    assert scene.owner.send_event(scene.traveller, event) == 7
    owner, traveller = scene.owner, scene.traveller
    assert scene.seen == [
        Delivered(owner, traveller, event, "ST_HOME", 0),
        Transition(traveller, "ST_HOME", "ST_AWAY"),
        Delivered(traveller, owner, EV_BACK(), "ST_IDLE", 1),
    ]
    assert scene.app.depth == 0


def test_a_refusal(scene: Scene) -> None:
    assert scene.owner.send_event(scene.traveller, EV_BACK()) is NOT_ACCEPTED
    assert scene.seen == [Refused(scene.traveller, EV_BACK(), "ST_HOME")]


def test_creation_and_destruction_children_first(scene: Scene) -> None:
    class Family(GObj):
        def start_up(self) -> None:
            for name in ("a", "b"):
                self.create_gobj(name, Owner, self)

    family = scene.app.create_gobj("family", Family, scene.app)
    created = [one.gobj.name for one in scene.seen if isinstance(one, Created)]
    scene.app.destroy_gobj(family)
    gone = [one.gobj.path for one in scene.seen if isinstance(one, Destroyed)]
    assert created == ["family", "a", "b"]
    assert gone == ["app/family/b", "app/family/a", "app/family"]


def test_a_contained_exception(scene: Scene) -> None:
    scene.app.post_event(scene.traveller, EV_FAIL())
    scene.app.deliver_posted()
    failed = scene.seen[-1]
    assert isinstance(failed, Failed)
    assert (failed.gobj, failed.event, failed.state) == (scene.traveller, EV_FAIL(), "ST_HOME")
    assert isinstance(failed.error, ValueError)


def test_after_an_exception_the_depth_is_right(scene: Scene) -> None:
    with pytest.raises(ValueError, match="fails"):
        scene.owner.send_event(scene.traveller, EV_FAIL())
    assert scene.app.depth == 0


def test_what_is_made_while_observed_is_observed_and_afterwards_nothing_is(scene: Scene) -> None:
    new = scene.app.create_gobj("new", Traveller, scene.owner)
    scene.seen.clear()
    scene.app.send_event(new, EV_GO())
    assert len(scene.seen) == 3
    scene.app.observe(None)
    scene.seen.clear()
    scene.app.send_event(scene.traveller, EV_GO())
    newer = scene.app.create_gobj("newer", Traveller, scene.owner)
    scene.app.send_event(newer, EV_GO())
    scene.app.destroy_gobj(newer)
    assert scene.seen == []
    assert all(gobj._watch is None for gobj in scene.app.walk())


def test_observing_that_ends_in_the_middle_of_a_delivery(scene: Scene) -> None:
    scene.owner.each = lambda event: scene.app.observe(None)
    assert scene.app.send_event(scene.traveller, EV_GO(7)) == 7
    assert len(scene.seen) == 3
    assert scene.app.depth == 0
    scene.owner.each = lambda event: scene.app.observe(scene.seen.append)
    scene.owner.send_event(scene.traveller, EV_BACK())
    scene.owner.send_event(scene.traveller, EV_GO(7))
    scene.seen.clear()
    scene.owner.send_event(scene.traveller, EV_BACK())
    assert scene.seen[0] == Delivered(scene.owner, scene.traveller, EV_BACK(), "ST_AWAY", 0)


@pytest.mark.parametrize("observed", [False, True])
def test_a_gobj_that_goes_out_sends_nothing_whoever_begins_or_ends_observing(
    scene: Scene, observed: bool
) -> None:
    class Going(GObj):
        outputs = [EV_BACK]

        def go_out(self) -> None:
            scene.app.observe(scene.seen.append if observed else None)
            assert self.destroyed
            assert self.send_event(scene.traveller, EV_GO()) is NOT_ACCEPTED
            assert self.broadcast_event(EV_BACK()) == 0
            assert scene.app.send_event(self, EV_GO()) is NOT_ACCEPTED

        machine = {"ST_IDLE": [on(EV_GO, None)]}

    scene.app.destroy_gobj(scene.app.create_gobj("going", Going, scene.owner))
    assert scene.app.contained_errors == 0
    assert scene.traveller.state == "ST_HOME"


def test_an_observer_that_raises_is_logged_and_disturbs_nothing(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(observation: Observation) -> None:
        raise ValueError("in the observer")

    scene.app.observe(fail)
    with caplog.at_level(logging.ERROR, "ginsfsm"):
        assert scene.app.send_event(scene.traveller, EV_GO(7)) == 7
    assert len(caplog.records) == 3
    assert "app: the observer failed on Delivered(" in caplog.messages[0]
    assert scene.app.contained_errors == 0


def test_the_last_state_and_the_path_of_a_destroyed_gobj_can_be_read(scene: Scene) -> None:
    scene.app.send_event(scene.traveller, EV_GO())
    scene.app.destroy_gobj(scene.owner)
    told = [(one.gobj.path, one.gobj.state) for one in scene.seen if isinstance(one, Destroyed)]
    assert told == [("app/owner/traveller", "ST_AWAY"), ("app/owner", "ST_IDLE")]


def test_nothing_is_delivered_to_a_gobj_that_the_observer_destroys(scene: Scene) -> None:
    def destroying(one: Observation) -> None:
        if isinstance(one, Delivered):
            scene.app.destroy_gobj(one.destination)

    scene.app.observe(destroying)
    assert scene.app.send_event(scene.traveller, EV_FAIL()) is NOT_ACCEPTED


def test_a_gobj_that_the_observer_destroys_does_not_start(scene: Scene) -> None:
    started: list[GObj] = []

    class Starting(GObj):
        def start_up(self) -> None:
            started.append(self)

    def destroying(one: Observation) -> None:
        if isinstance(one, Created):
            scene.app.destroy_gobj(one.gobj)

    scene.app.observe(destroying)
    with pytest.raises(GObjError, match="app/x was destroyed by the observer"):
        scene.app.create_gobj("x", Starting, scene.app)
    assert not started
    assert list(scene.app.children) == ["owner"]
