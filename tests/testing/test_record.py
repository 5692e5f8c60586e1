"""The assertions about what happened, and what they say when they fail."""

from collections.abc import Iterator

import pytest

from ginsfsm import Event, GObj, GObjError, on
from ginsfsm.testing import ManualGAplic, StandIn


class EV_ASK(Event):
    number: int = 0


class EV_ANSWER(Event):
    number: int = 0


class EV_STOP(Event):
    pass


class Asked(GObj):
    outputs = [EV_ANSWER]

    def ac_ask(self, event: EV_ASK) -> None:
        self.broadcast_event(EV_ANSWER(event.number + 1))

    machine = {
        "ST_OPEN": [on(EV_ASK, ac_ask), on(EV_STOP, None, "ST_CLOSED")],
        "ST_CLOSED": [on(EV_STOP, None)],
    }


class Scene:
    def __init__(self, app: ManualGAplic) -> None:
        self.app = app
        self.owner: StandIn = app.stand_in("owner", Asked)
        self.asked = app.create_gobj("asked", Asked, self.owner)
        app.record.clear()

    def ask(self, *numbers: int) -> None:
        for number in numbers:
            self.owner.send_event(self.asked, EV_ASK(number))


@pytest.fixture
def scene() -> Iterator[Scene]:
    with ManualGAplic() as app:
        yield Scene(app)


def test_sent_returns_the_first_event_that_fits(scene: Scene) -> None:
    scene.ask(1, 2)
    assert scene.app.record.sent(EV_ANSWER).number == 2
    assert scene.app.record.sent(EV_ANSWER(3), to=scene.owner, by=scene.asked).number == 3


def test_sent_says_what_happened_instead(scene: Scene) -> None:
    scene.ask(1)
    with pytest.raises(AssertionError) as raised:
        scene.app.record.sent(EV_ANSWER(7), to=scene.owner)
    assert str(raised.value).splitlines() == [
        "EV_ANSWER(number=7) to app/owner: expected, but it was not sent",
        "what happened:",
        "  app/owner -> app/owner/asked in ST_OPEN: EV_ASK(number=1)",
        "    app/owner/asked -> app/owner in ST_IDLE: EV_ANSWER(number=2)",
    ]


def test_where_nothing_happened_it_says_so(scene: Scene) -> None:
    with pytest.raises(AssertionError, match="nothing happened"):
        scene.app.record.sent(EV_ANSWER)


@pytest.mark.parametrize("end", ["to", "by"])
def test_the_wrong_end_does_not_fit(scene: Scene, end: str) -> None:
    scene.ask(1)
    other = scene.app.stand_in("other")
    with pytest.raises(AssertionError, match=rf"EV_ANSWER {end} app/other: expected"):
        scene.app.record.sent(EV_ANSWER, **{end: other})


def test_the_order_counts_and_others_may_stand_between(scene: Scene) -> None:
    scene.ask(1, 2, 3)
    record = scene.app.record
    record.sent_in_order(EV_ASK(1), EV_ASK(3), EV_ANSWER(4))
    with pytest.raises(AssertionError, match=r"EV_ASK\(number=1\): expected after EV_ASK\(number"):
        record.sent_in_order(EV_ASK(2), EV_ASK(1))
    with pytest.raises(AssertionError, match="1 of 2 were"):
        record.sent_in_order(EV_ASK(1), EV_STOP)


def test_not_sent(scene: Scene) -> None:
    scene.ask(1)
    scene.app.record.not_sent(EV_ANSWER(9))
    scene.app.record.not_sent(EV_ANSWER, to=scene.asked)
    with pytest.raises(AssertionError, match="not expected, but it was sent"):
        scene.app.record.not_sent(EV_ANSWER, by=scene.asked)


def test_what_a_state_refused_was_not_sent(scene: Scene) -> None:
    scene.owner.send_event(scene.asked, EV_STOP())
    scene.app.record.clear()
    scene.ask(1)
    scene.app.record.not_sent(EV_ASK)
    assert scene.app.record.refused(EV_ASK, to=scene.asked).number == 1
    assert "EV_ASK(number=1) was refused" in str(scene.app.record)
    with pytest.raises(AssertionError, match="expected to be refused"):
        scene.app.record.refused(EV_STOP)


def test_the_states_that_a_gobj_went_to(scene: Scene) -> None:
    assert scene.app.record.states(scene.asked) == []
    scene.owner.send_event(scene.asked, EV_STOP())
    assert scene.app.record.states(scene.asked) == ["ST_CLOSED"]
    assert scene.app.record.states(scene.owner) == []


def test_every_kind_of_observation_has_its_line(scene: Scene) -> None:
    scene.app.post_event_threadsafe(scene.asked, EV_STOP())
    scene.app.turn()
    scene.app.destroy_gobj(scene.asked)
    scene.app.create_gobj("again", Asked, scene.owner)
    assert str(scene.app.record).splitlines() == [
        "outside -> app/owner/asked in ST_OPEN: EV_STOP()",
        "app/owner/asked: ST_OPEN -> ST_CLOSED",
        "app/owner/asked destroyed",
        "app/owner/again created",
    ]


ASSERTIONS = ("sent", "sent_in_order", "not_sent", "refused")


@pytest.mark.parametrize("assertion", ASSERTIONS)
@pytest.mark.parametrize(
    "wrong",
    ["EV_ANSWER", None, 3, Asked, int, ["EV_ANSWER"]],
    ids=["name", "none", "number", "gclass", "class", "list"],
)
def test_what_is_no_event_is_refused_whether_it_was_sent_or_not(
    scene: Scene, assertion: str, wrong: object
) -> None:
    for _ in range(2):
        with pytest.raises(GObjError) as raised:
            getattr(scene.app.record, assertion)(wrong)
        told = f"{assertion}: expected an event or its class, got {wrong!r}"
        assert str(raised.value) == told
        scene.ask(1)


@pytest.mark.parametrize("assertion", ASSERTIONS)
def test_ends_that_are_no_gobjs_are_refused(scene: Scene, assertion: str) -> None:
    with pytest.raises(GObjError, match=f"{assertion}: to: expected a gobj, got 'owner'"):
        getattr(scene.app.record, assertion)(EV_ANSWER, to="owner")


def test_all_that_is_wrong_is_told_at_once(scene: Scene) -> None:
    with pytest.raises(GObjError) as raised:
        scene.app.record.not_sent("EV_ANSWER", to="owner", by=Asked)  # type: ignore[arg-type]
    assert str(raised.value) == (
        "not_sent: expected an event or its class, got 'EV_ANSWER'; "
        f"to: expected a gobj, got 'owner'; by: expected a gobj, got {Asked!r}"
    )
    with pytest.raises(GObjError, match="got 'EV_ANSWER'$"):
        scene.app.record.sent_in_order(EV_ASK, "EV_ANSWER")  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", ["asked", None, Asked], ids=["name", "none", "gclass"])
def test_the_states_of_what_is_no_gobj(scene: Scene, wrong: object) -> None:
    with pytest.raises(GObjError, match="states: gobj: expected a gobj, got "):
        scene.app.record.states(wrong)  # type: ignore[arg-type]


def test_event_itself_is_any_event(scene: Scene) -> None:
    scene.app.record.not_sent(Event)
    scene.ask(1)
    assert scene.app.record.sent(Event, by=scene.asked) == EV_ANSWER(2)
    with pytest.raises(AssertionError, match="Event to app/owner: not expected, but it was sent"):
        scene.app.record.not_sent(Event, to=scene.owner)
