"""The tree, the life of a gobj, its subscriptions, and what an event meets on its way."""

import gc
import weakref
from collections.abc import Callable, Iterator
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
    on,
    param,
)
from ginsfsm.c_timer import EV_SET_TIMER, EV_TIMEOUT, GTimer
from ginsfsm.testing import ManualGAplic


class EV_GO(Event):
    number: int = 0


class EV_TOLD(Event):
    number: int = 0


class EV_OTHER(Event):
    pass


class EV_NOBODY(Event):
    """In the outputs of the speaker and in no machine."""


class EV_DONE(Event):
    result: Any
    error: Any


class Node(GObj):
    class config(GObj.config):
        subscriber: GObj | None = param(None, "who hears it")
        size: int = param(1, "any number", ge=0)

    outputs = [EV_TOLD, EV_OTHER, EV_NOBODY]

    def start_up(self) -> None:
        self.got: list[Event] = []
        self.each: Callable[[Event], object] = lambda event: None
        self.written: list[frozenset[str]] = []

    def parameters_written(self, names: frozenset[str]) -> None:
        self.written.append(names)

    def ac_note(self, event: Event) -> object:
        self.got.append(event)
        return self.each(event)

    machine = {
        "ST_IDLE": [on(EV_GO, ac_note), on(EV_TOLD, ac_note), on(EV_DONE, ac_note)],
    }


@pytest.fixture
def app() -> Iterator[GAplic]:
    app = GAplic("app")
    yield app
    app.destroy_gobj(app)


def node(app: GAplic, name: str | None, parent: GObj | None = None, **parameters: Any) -> Node:
    return app.create_gobj(name, Node, parent or app, **parameters)


# Making


def test_a_gobj_knows_its_place(app: GAplic) -> None:
    parent = node(app, "parent")
    child = node(app, "child", parent, size=3)
    assert (child.name, child.parent, child.gaplic) == ("child", parent, app)
    assert child.path == "app/parent/child"
    assert child.state == child.get_current_state() == "ST_IDLE"
    assert child.config.size == 3
    assert not child.destroyed
    assert repr(child) == "<Node app/parent/child ST_IDLE>"
    assert (app.parent, app.gaplic, app.path) == (None, app, "app")


def test_children_are_a_read_only_mapping_in_order_of_creation(app: GAplic) -> None:
    assert dict(app.children) == {}
    made = [node(app, name) for name in "cab"]
    assert list(app.children) == ["c", "a", "b"]
    assert list(app.children.values()) == made
    with pytest.raises(TypeError):
        app.children["d"] = made[0]  # type: ignore[index]


@pytest.mark.parametrize("name", ["", "a/b", 3, b"x"])
def test_a_name_that_is_none(app: GAplic, name: Any) -> None:
    with pytest.raises(GObjError, match="create_gobj under app: expected a name without a slash"):
        node(app, name)


def test_siblings_have_different_names(app: GAplic) -> None:
    node(app, "one")
    with pytest.raises(GObjError, match="app has a child named 'one' already; choose another"):
        node(app, "one")
    assert node(app, "one", app.children["one"]).path == "app/one/one"


def test_generated_names_are_free(app: GAplic) -> None:
    node(app, "node-2")
    names = [node(app, None).name for _ in range(3)]
    assert len(set(names)) == 3
    assert all(name.startswith("node-") for name in names)
    app.destroy_gobj(app.children[names[0]])
    assert node(app, None).name not in names[1:]


@pytest.mark.parametrize("gclass", [GAplic, int, "Node", None])
def test_only_a_gclass_can_be_made(app: GAplic, gclass: Any) -> None:
    with pytest.raises(GObjError, match="expected a gclass, derived from GObj, got"):
        app.create_gobj("x", gclass, app)


def test_what_can_be_said_of_what_is_no_gclass(app: GAplic) -> None:
    with pytest.raises(GObjError, match=r"create_gobj\(name, gclass, parent\): .* got 'x'$"):
        app.create_gobj(Node, "x", app)  # type: ignore[arg-type]
    with pytest.raises(GObjError, match="which is a gobj; give its class"):
        app.create_gobj("x", app, Node)  # type: ignore[arg-type]
    with pytest.raises(GObjError, match="which is the root of a tree and made by calling it"):
        app.create_gobj("x", GAplic, app)


def test_parameters_are_keywords_and_no_mapping(app: GAplic) -> None:
    with pytest.raises(TypeError, match="positional arguments"):
        app.create_gobj("x", Node, app, {"size": 3})  # type: ignore[misc]
    assert app.children == {}


def test_a_subscriber_that_is_destroyed(app: GAplic, caplog: pytest.LogCaptureFixture) -> None:
    gone = node(app, "gone")
    app.destroy_gobj(gone)
    with pytest.raises(GObjError, match=r"app/t \(GTimer\): its subscriber app/gone is destroyed"):
        app.create_gobj("t", GTimer, app, subscriber=gone)
    assert app.children == {}
    assert caplog.text == ""


def test_the_parent_is_a_gobj_that_lives(app: GAplic) -> None:
    with pytest.raises(GObjError, match="expected a gobj as the parent, got None"):
        app.create_gobj("x", Node, None)  # type: ignore[arg-type]
    parent = node(app, "parent")
    app.destroy_gobj(parent)
    with pytest.raises(GObjError, match="app/parent is destroyed and can have no child 'x'"):
        node(app, "x", parent)


def test_a_gobj_is_not_made_by_calling_its_class() -> None:
    with pytest.raises(GObjError, match=r"Node is made with create_gobj\(name, Node, parent\)"):
        Node()


def test_a_gclass_with_an_init_is_refused() -> None:
    with pytest.raises(MachineError, match=r"write start_up\(self\) instead"):

        class Wrong(GObj):
            def __init__(self) -> None:
                pass


def test_wrong_parameters_make_nothing(app: GAplic) -> None:
    with pytest.raises(GConfigError) as raised:
        node(app, "x", size=-1, sise=3)
    assert "app/x (Node): 2 faults" in str(raised.value)
    assert app.children == {}


def test_a_start_up_may_destroy_what_it_starts(app: GAplic) -> None:
    class Shy(GObj):
        def start_up(self) -> None:
            self.destroy_gobj(self)

    shy = app.create_gobj("shy", Shy, app)
    assert shy.destroyed
    assert app.children == {}


def test_a_start_up_that_destroys_the_parent(app: GAplic) -> None:
    class Ungrateful(GObj):
        def start_up(self) -> None:
            self.destroy_gobj(self.parent)
            self.create_gobj("child", Node, self)

    parent = node(app, "parent")
    with pytest.raises(GObjError, match="is destroyed and can have no child"):
        app.create_gobj("child", Ungrateful, parent)
    assert app.children == {}


def test_an_interrupt_in_start_up_leaves_nothing_either(app: GAplic) -> None:
    class Interrupted(GObj):
        def start_up(self) -> None:
            node(app, "child", self, unique=True)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        app.create_gobj("x", Interrupted, app)
    assert app.children == {}
    with pytest.raises(GObjError, match="no unique gobj"):
        app.find_unique_gobj("child")


# Destroying


def test_destroying_detaches_children_first_and_is_idempotent(app: GAplic) -> None:
    gone: list[str] = []

    class Noting(GObj):
        def go_out(self) -> None:
            assert self.destroyed
            gone.append(self.path)

    top = app.create_gobj("top", Noting, app)
    for name in "ab":
        app.create_gobj("below", Noting, app.create_gobj(name, Noting, top))
    app.destroy_gobj(top)
    app.destroy_gobj(top)
    assert gone == ["app/top/b/below", "app/top/b", "app/top/a/below", "app/top/a", "app/top"]
    assert app.children == {}
    assert top.children == {}


def test_a_name_is_free_again_and_the_old_gobj_does_not_take_it(app: GAplic) -> None:
    old = node(app, "x", unique=True)
    app.destroy_gobj("x")
    new = node(app, "x", unique=True)
    app.destroy_gobj(old)
    assert app.children == {"x": new}
    assert app.find_unique_gobj("x") is new


def test_only_a_gobj_can_be_destroyed(app: GAplic) -> None:
    with pytest.raises(GObjError, match="destroy_gobj: expected a gobj, got 3"):
        app.destroy_gobj(3)  # type: ignore[arg-type]
    with pytest.raises(GObjError, match="there is no unique gobj 'x'"):
        app.destroy_gobj("x")


def test_a_go_out_may_destroy_its_sibling_and_its_parent(app: GAplic) -> None:
    class Going(GObj):
        def go_out(self) -> None:
            for other in list(self.parent.children.values()):
                self.destroy_gobj(other)
            self.destroy_gobj(self.parent)

    parent = node(app, "parent")
    for name in "abc":
        app.create_gobj(name, Going, parent)
    app.destroy_gobj(parent.children["b"])
    assert app.children == {}
    assert app.contained_errors == 0


def test_an_interrupt_in_go_out_does_not_keep_the_gobj_in_the_tree(app: GAplic) -> None:
    class Interrupted(GObj):
        def go_out(self) -> None:
            raise KeyboardInterrupt

    gobj = app.create_gobj("x", Interrupted, app, unique=True)
    with pytest.raises(KeyboardInterrupt):
        app.destroy_gobj(gobj)
    assert app.children == {}
    node(app, "x", unique=True)


def test_an_interrupt_in_go_out_comes_when_everything_has_been_given_back(app: GAplic) -> None:
    given_back: list[str] = []

    class Giving(GObj):
        interruption: type[BaseException] | None = None

        def go_out(self) -> None:
            given_back.append(self.name)
            if self.interruption is not None:
                raise self.interruption

    owner = app.create_gobj("owner", Giving, app)
    owner.create_gobj("first", Giving, owner).interruption = KeyboardInterrupt
    second = owner.create_gobj("second", Giving, owner)
    second.create_gobj("below", Giving, second).interruption = SystemExit
    with pytest.raises(SystemExit):
        app.destroy_gobj(owner)
    assert given_back == ["below", "second", "first", "owner"]
    assert app.children == {}


def test_a_callback_that_a_gobj_forgot_to_cancel_does_not_come_when_it_is_dead() -> None:
    called: list[str] = []
    with ManualGAplic() as app:
        gobj = app.create_gobj("x", Node, app)
        app.call_later(gobj, 1, lambda: called.append("alive"))
        app.call_later(gobj, 2, lambda: called.append("dead"))
        app.advance(1)
        app.destroy_gobj(gobj)
        app.advance(1)
    assert called == ["alive"]


async def never() -> None:
    raise AssertionError("it ran")


def test_nothing_keeps_a_destroyed_gobj_alive() -> None:
    class Rich(Node):
        """Has everything that could hold it."""

        def start_up(self) -> None:
            super().start_up()
            self.timer = self.create_gobj("timer", GTimer, self)
            self.send_event(self.timer, EV_SET_TIMER(10))
            self.spawn(never(), done=EV_DONE)

        machine = {
            "ST_IDLE": [
                on(EV_GO, Node.ac_note),
                on(EV_TOLD, POSTPONE),
                on(EV_DONE, None),
                on(EV_TIMEOUT, None, "ST_END"),
                after(60, None, "ST_END"),
            ],
            "ST_END": [on(EV_GO, None)],
        }

    with ManualGAplic() as app:
        speaker = app.create_gobj("speaker", Node, app)
        rich = app.create_gobj("rich", Rich, app, unique=True)
        other = app.create_gobj("other", Node, app)
        speaker.subscribe_event(None, rich)
        rich.subscribe_event(EV_TOLD, other)
        rich.subscribe_event(EV_OTHER, app.stand_in("ear", EV_OTHER), post=True)
        speaker.broadcast_event(EV_TOLD())
        app.post_event(rich, EV_GO())
        app.destroy_gobj(rich)
        app.turn()
        app.record.clear()
        watch, timer = weakref.ref(rich), weakref.ref(rich.timer)
        del rich
        gc.collect()
        assert watch() is None
        assert timer() is None
        assert speaker.subscriptions[0].subscriber is app


def test_a_small_destroyed_gobj_does_not_wait_for_the_garbage_collector(app: GAplic) -> None:
    """A server ends thousands a second; with cycles the collector would be the bottleneck."""
    gobj = app.create_gobj("x", GTimer, node(app, "parent"))
    heard = node(app, "heard")
    heard.subscribe_event(None, node(app, "ear"))
    ear = app.children["ear"]
    watches = [weakref.ref(gobj), weakref.ref(ear)]
    gc.collect()
    gc.disable()
    try:
        app.destroy_gobj(gobj)
        app.destroy_gobj(ear)
        del gobj, ear
        assert [watch() for watch in watches] == [None, None]
    finally:
        gc.enable()


# Sending


def test_both_forms_of_an_event_in_send_post_broadcast_and_subscribe(app: GAplic) -> None:
    speaker, ear = node(app, "speaker"), node(app, "ear", unique=True)
    speaker.subscribe_event("EV_TOLD", "ear")
    app.send_event(ear, EV_GO(1))
    app.send_event("ear", "EV_GO", number=2)
    app.post_event(ear, EV_GO(3))
    app.post_event("ear", "EV_GO", number=4)
    app.deliver_posted()
    speaker.broadcast_event(EV_TOLD(5))
    speaker.broadcast_event("EV_TOLD", number=6)
    expected = [EV_GO(1), EV_GO(2), EV_GO(3), EV_GO(4), EV_TOLD(5), EV_TOLD(6)]
    assert ear.got == expected
    assert speaker.delete_subscription("EV_TOLD", "ear")
    assert not speaker.delete_subscription("EV_TOLD", "ear")


@pytest.mark.parametrize("method", ["send_event", "post_event"])
@pytest.mark.parametrize(
    ("event", "payload", "match"),
    [
        (EV_GO, {}, r"expected an event, got the class EV_GO; write EV_GO\(...\)"),
        (3, {}, "expected an event or the name of one, got 3"),
        (b"payload", {}, "expected an event or the name of one, got 7 bytes"),
        ([b"payload"], {}, "expected an event or the name of one, got an object of list"),
        (EV_GO(), {"number": 3}, r"EV_GO carries its payload already; keywords \(number\) go"),
        (EV_OTHER(), {}, "Node has 'EV_OTHER' in no state of its machine"),
        ("EV_GOO", {}, r"'EV_GOO' in no state of its machine; did you mean 'EV_GO'\?"),
        ("EV_GO", {"nmber": 3}, "EV_GO: .*'nmber'.*; its fields: number"),
    ],
)
def test_a_programming_error_says_so(
    app: GAplic, method: str, event: Any, payload: dict[str, Any], match: str
) -> None:
    gobj = node(app, "x")
    with pytest.raises(EventError, match=match):
        getattr(app, method)(gobj, event, **payload)
    assert gobj.got == []


def test_a_wrong_destination(app: GAplic) -> None:
    for wrong in (3, None, Node):
        with pytest.raises(EventError, match="app: expected a gobj or a unique name, got"):
            app.send_event(wrong, EV_GO())  # type: ignore[call-overload]
    # In the wrong order; and what a peer sent is not for an error, whose text goes to the log.
    for swapped, what in ((EV_TOLD(5), "an event, EV_TOLD"), (b"hunter2", "7 bytes")):
        with pytest.raises(EventError, match=f"expected a gobj or a unique name, got {what}$"):
            app.send_event(swapped, app)  # type: ignore[call-overload]
    node(app, "worker", unique=True)
    with pytest.raises(GObjError, match=r"no unique gobj 'wroker'; did you mean 'worker'\?"):
        app.send_event("wroker", EV_GO())


def test_an_attribute_error_in_an_action_is_not_taken_for_a_wrong_destination(
    app: GAplic,
) -> None:
    gobj = node(app, "x")
    for error in (AttributeError("mine"), KeyError("mine")):

        def fail(event: Event, error: Exception = error) -> None:
            raise error

        gobj.each = fail
        gobj.got.clear()
        with pytest.raises(type(error), match="mine"):
            app.send_event(gobj, EV_GO())
        assert len(gobj.got) == 1


def test_an_error_of_the_user_has_none_of_the_library_for_its_context(app: GAplic) -> None:
    gobj = node(app, "x", unique=True)

    def fail(event: Event) -> None:
        raise ValueError("mine")

    gobj.each = fail
    by_name: tuple[Any, ...] = (gobj, "EV_GO")
    for sent in (by_name, ("x", EV_GO()), (gobj, EV_GO())):
        with pytest.raises(ValueError, match="mine") as raised:
            app.send_event(*sent)
        assert raised.value.__context__ is None
    for wrong in ((gobj, EV_OTHER()), (gobj, "EV_OTHER"), (gobj, 3), (3, EV_GO())):
        with pytest.raises(EventError) as refused:
            app.send_event(*wrong)  # type: ignore[call-overload]
        assert refused.value.__context__ is None


def test_sending_the_same_event_again_and_again(app: GAplic) -> None:
    first, second = node(app, "first"), node(app, "second")
    event = EV_GO(1)
    for destination in (first, second, first):
        app.send_event(destination, event)
    assert all(one is event for one in first.got + second.got)


# Subscribing and broadcasting


def test_the_parent_subscribes_by_itself_and_a_subscriber_takes_its_place(app: GAplic) -> None:
    parent, other = node(app, "parent"), node(app, "other")
    heard = node(app, "heard", parent)
    elsewhere = node(app, "elsewhere", parent, subscriber=other)
    heard.broadcast_event(EV_TOLD(1))
    elsewhere.broadcast_event(EV_TOLD(2))
    assert parent.got == [EV_TOLD(1)]
    assert other.got == [EV_TOLD(2)]
    app.destroy_gobj(other)
    assert elsewhere.subscriptions == ()
    with pytest.raises(GObjError, match="app/other is destroyed"):
        node(app, "late", parent, subscriber=other)
    assert "late" not in parent.children


def test_broadcast_counts_who_took_it(app: GAplic) -> None:
    speaker = node(app, "speaker")
    speaker.delete_subscription(None, app)
    assert speaker.broadcast_event(EV_TOLD()) == 0
    ears = [node(app, f"ear{n}") for n in range(3)]
    for ear in ears:
        speaker.subscribe_event(None, ear)
    assert speaker.broadcast_event(EV_TOLD()) == 3
    ears[1].each = lambda event: NOT_ACCEPTED
    assert speaker.broadcast_event(EV_TOLD()) == 2
    assert speaker.broadcast_event(EV_NOBODY()) == 0


@pytest.mark.parametrize(
    ("event", "match"),
    [
        (EV_GO(), r"Node \(app/speaker\) has no output event EV_GO"),
        ("EV_TOLDD", r"has no output event EV_TOLDD; did you mean 'EV_TOLD'\?"),
        (EV_TOLD, "expected an event, got the class EV_TOLD"),
        (None, "expected an event or the name of one, got None"),
    ],
)
def test_what_is_no_output_cannot_be_broadcast(app: GAplic, event: Any, match: str) -> None:
    with pytest.raises(EventError, match=match):
        node(app, "speaker").broadcast_event(event)


def test_two_subscriptions_of_one_subscriber_deliver_once(app: GAplic) -> None:
    speaker, ear = node(app, "speaker"), node(app, "ear")
    speaker.subscribe_event(None, ear)
    speaker.subscribe_event(EV_TOLD, ear)
    speaker.subscribe_event(EV_TOLD, ear)
    speaker.broadcast_event(EV_TOLD())
    assert len(ear.got) == 1
    assert len(speaker.subscriptions) == 3
    assert speaker.delete_subscription(None, ear)
    assert [one.subscriber for one in speaker.subscriptions] == [app]


def test_a_posted_subscription(app: GAplic) -> None:
    speaker, ear = node(app, "speaker"), node(app, "ear")
    speaker.subscribe_event(EV_TOLD, ear, post=True)
    assert speaker.broadcast_event(EV_TOLD(1)) == 1
    assert ear.got == []
    app.deliver_posted()
    assert ear.got == [EV_TOLD(1)]
    assert ear.got[0].source is speaker


def test_subscribing_again_changes_the_way_and_goes_to_the_end(app: GAplic) -> None:
    speaker, first, second = (node(app, name) for name in ("speaker", "first", "second"))
    for ear in (first, second):
        speaker.subscribe_event(EV_TOLD, ear)
    speaker.subscribe_event(EV_TOLD, first, post=True)
    assert [one.subscriber.name for one in speaker.subscriptions] == ["app", "second", "first"]


def test_a_wrong_subscription(app: GAplic) -> None:
    speaker, ear = node(app, "speaker"), node(app, "ear")
    with pytest.raises(EventError, match="no output event EV_GO"):
        speaker.subscribe_event(EV_GO, ear)
    with pytest.raises(EventError, match="Node has 'EV_OTHER' in no state"):
        speaker.subscribe_event(EV_OTHER, ear)
    with pytest.raises(EventError, match="expected a gobj or a unique name"):
        speaker.subscribe_event(EV_TOLD, 3)  # type: ignore[arg-type]
    app.destroy_gobj(ear)
    with pytest.raises(GObjError, match="subscribe_event: app/ear is destroyed"):
        speaker.subscribe_event(None, ear)
    with pytest.raises(GObjError, match="subscribe_event: app/ear is destroyed"):
        ear.subscribe_event(None, speaker)


def test_a_subscription_deleted_in_the_middle_of_a_broadcast(app: GAplic) -> None:
    speaker, first, second, third = (node(app, name) for name in ("speaker", "1", "2", "3"))
    for ear in (first, second):
        speaker.subscribe_event(None, ear)

    def change(event: Event) -> None:
        speaker.delete_subscription(None, second)
        speaker.subscribe_event(None, third)

    first.each = change
    speaker.broadcast_event(EV_TOLD(1))
    assert [len(ear.got) for ear in (first, second, third)] == [1, 0, 0]
    speaker.broadcast_event(EV_TOLD(2))
    assert [len(ear.got) for ear in (first, second, third)] == [2, 0, 1]


def test_a_broadcast_to_many_takes_time_in_proportion(app: GAplic) -> None:
    class Counting(tuple):  # type: ignore[type-arg]
        """Subscriptions that count how often they are searched."""

        __slots__ = ()
        searches = 0

        def __contains__(self, one: object) -> bool:
            Counting.searches += 1
            return super().__contains__(one)

    speaker = node(app, "speaker")
    for number in range(100):
        speaker.subscribe_event(None, node(app, f"ear{number}"))
    speaker._subscriptions = Counting(speaker._subscriptions)
    assert speaker.broadcast_event(EV_TOLD()) == 100
    assert Counting.searches == 0


# States and parameters


def test_set_new_state_outside_an_action_that_declares_it(app: GAplic) -> None:
    class Switch(GObj):
        def ac_wrong(self, event: EV_GO) -> None:
            self.set_new_state("ST_ONN")

        def ac_undeclared(self, event: EV_OTHER) -> None:
            self.set_new_state("ST_ON")

        machine = {
            "ST_OFF": [
                on(EV_GO, ac_wrong, may=("ST_ON",)),
                on(EV_OTHER, ac_undeclared),
            ],
            "ST_ON": [],
        }

    switch = app.create_gobj("switch", Switch, app)
    with pytest.raises(StateError, match=r"app/switch: there is no state 'ST_ONN'; did you mean"):
        app.send_event(switch, EV_GO())
    with pytest.raises(StateError, match=r"write may=\('ST_ON',\) in it \(declared there: none\)"):
        app.send_event(switch, EV_OTHER())
    with pytest.raises(StateError):
        switch.set_new_state("ST_ON")
    assert switch.state == "ST_OFF"
    app.destroy_gobj(switch)
    switch.set_new_state("ST_ON")
    assert switch.state == "ST_OFF"


def test_write_parameters_all_or_none(app: GAplic) -> None:
    first, second = node(app, "first"), node(app, "second")
    first.write_parameters(size=5)
    assert (first.config.size, second.config.size) == (5, 1)
    assert first.written == [frozenset({"size"})]
    with pytest.raises(GConfigError, match="app/first: 2 faults"):
        first.write_parameters(size=-1, subscriber=3)
    assert first.config.size == 5
    assert len(first.written) == 1
