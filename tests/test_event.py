"""Events: payload, source, copies, and what an encoder sees."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from ginsfsm import Event, EventError, GAplic, GObj, on


class EV_DEPOSIT(Event):
    amount: int
    note: str = ""
    tags: list[str] = []


class EV_PUSH(Event):
    pass


class EV_ROUNDED(Event):
    amount: float

    def __post_init__(self) -> None:
        self.amount = round(self.amount, 2)


class EV_ROUNDED_ONCE_MORE(EV_ROUNDED):
    def __post_init__(self) -> None:
        super().__post_init__()
        self.amount += 1


class Stamped:
    """A mixin that knows nothing of events."""

    stamped = False

    def __post_init__(self) -> None:
        type(self).stamped = True


class EV_STAMPED(Stamped, Event):
    number: int


class Account(GObj):
    received: Any = None

    def ac_keep(self, event: Event) -> None:
        self.received = event

    machine = {
        "ST_IDLE": [
            on(EV_DEPOSIT, ac_keep),
            on(EV_ROUNDED, ac_keep),
            on(EV_STAMPED, ac_keep),
        ]
    }


@pytest.fixture
def app() -> GAplic:
    return GAplic("app")


@pytest.fixture
def alice(app: GAplic) -> Account:
    return app.create_gobj("alice", Account, app)


@pytest.fixture
def bob(app: GAplic) -> Account:
    return app.create_gobj("bob", Account, app)


# Payload


def test_fields_are_given_by_position_or_by_name() -> None:
    assert EV_DEPOSIT(5, "rent").note == EV_DEPOSIT(amount=5, note="rent").note == "rent"


def test_fields_have_defaults() -> None:
    assert EV_DEPOSIT(5).note == ""


def test_a_missing_or_an_unknown_field_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="amount"):
        EV_DEPOSIT()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="sum"):
        EV_DEPOSIT(5, sum=6)  # type: ignore[call-arg]


def test_a_mutable_default_is_not_shared() -> None:
    EV_DEPOSIT(1).tags.append("x")
    assert EV_DEPOSIT(2).tags == []


def test_repr_shows_the_payload_and_not_the_source(alice: Account) -> None:
    assert repr(EV_DEPOSIT(5).sent_by(alice)) == "EV_DEPOSIT(amount=5, note='', tags=[])"
    assert repr(EV_PUSH()) == "EV_PUSH()"


def test_events_with_one_payload_are_equal_whoever_sent_them(alice: Account) -> None:
    assert EV_DEPOSIT(5).sent_by(alice) == EV_DEPOSIT(5)
    assert EV_DEPOSIT(5) != EV_DEPOSIT(6)


def test_events_of_two_classes_are_never_equal() -> None:
    number: Event = EV_STAMPED(1)
    assert number != EV_ROUNDED(1)


def test_a_derived_event_has_the_fields_of_its_base() -> None:
    class EV_TRANSFER(EV_DEPOSIT):
        to: str = "bob"

    assert EV_TRANSFER(1, to="carol") == EV_TRANSFER(1, "", [], "carol")


# Encoding


def test_an_encoder_writes_the_payload_and_leaves_the_source_out(alice: Account) -> None:
    event = EV_DEPOSIT(5, "rent").sent_by(alice)
    assert msgspec.json.encode(event) == b'{"amount":5,"note":"rent","tags":[]}'
    assert msgspec.to_builtins(event) == {"amount": 5, "note": "rent", "tags": []}
    assert msgspec.structs.asdict(event) == {"amount": 5, "note": "rent", "tags": []}


def test_a_decoded_event_is_equal_and_comes_from_nobody() -> None:
    event = EV_DEPOSIT(5, "rent")
    decoded = msgspec.json.decode(msgspec.json.encode(event), type=EV_DEPOSIT)
    assert decoded == event
    assert decoded.source is None


# Source


def test_a_new_event_comes_from_nobody() -> None:
    assert EV_DEPOSIT(5).source is None
    assert EV_PUSH().source is None


def test_sent_by_sets_the_source_of_a_new_event_without_a_copy(alice: Account) -> None:
    event = EV_DEPOSIT(5)
    assert event.sent_by(alice) is event
    assert event.source is alice
    assert event.sent_by(alice) is event


def test_forwarding_copies_and_leaves_the_original_as_it_was(alice: Account, bob: Account) -> None:
    event = EV_DEPOSIT(5).sent_by(alice)
    forwarded = event.sent_by(bob)
    assert forwarded is not event
    assert forwarded == event
    assert forwarded.source is bob
    assert event.source is alice


def test_a_forwarded_copy_is_shallow(alice: Account, bob: Account) -> None:
    event = EV_DEPOSIT(5, tags=["a"]).sent_by(alice)
    assert event.sent_by(bob).tags is event.tags


def test_an_event_that_was_received_can_be_sent_on(alice: Account, bob: Account) -> None:
    event = EV_DEPOSIT(5)
    alice.send_event(bob, event)
    bob.send_event(alice, bob.received)
    assert alice.received.source is bob
    assert bob.received.source is alice
    assert bob.received is event


def declare_field() -> None:
    class EV_BAD(Event):
        source: int  # type: ignore[assignment]


def declare_default() -> None:
    class EV_BAD(Event):
        source: int = 0  # type: ignore[assignment]


def declare_property() -> None:
    class EV_BAD(Event):
        @property
        def source(self) -> int:  # type: ignore[override]
            return 0


@pytest.mark.parametrize("declare", [declare_field, declare_default, declare_property])
def test_a_field_named_source_is_refused(declare: Callable[[], None]) -> None:
    with pytest.raises(EventError, match=r"EV_BAD cannot declare a field 'source'.*another name"):
        declare()


# __post_init__


def test_a_post_init_of_the_user_runs_and_the_source_is_set_all_the_same() -> None:
    event = EV_ROUNDED(1.239)
    assert event.amount == 1.24
    assert event.source is None


def test_a_post_init_may_call_its_base() -> None:
    event = EV_ROUNDED_ONCE_MORE(1.239)
    assert event.amount == 2.24
    assert event.source is None


def test_a_post_init_of_a_mixin_runs_and_the_source_is_set_all_the_same() -> None:
    event = EV_STAMPED(1)
    assert event.stamped
    assert event.source is None


def test_a_class_without_a_post_init_inherits_the_one_of_its_base() -> None:
    class EV_DERIVED(EV_ROUNDED):
        note: str = ""

    event = EV_DERIVED(1.239)
    assert event.amount == 1.24
    assert event.source is None


def test_an_event_with_a_post_init_of_its_own_can_be_sent(alice: Account, bob: Account) -> None:
    for event in (EV_ROUNDED(1.239), EV_STAMPED(1)):
        alice.send_event(bob, event)
        assert bob.received is event
        assert event.source is alice


# Copies


def test_copy_keeps_payload_and_source(alice: Account) -> None:
    event = EV_DEPOSIT(5, "rent").sent_by(alice)
    twin = copy.copy(event)
    assert twin == event
    assert twin.source is alice


def test_deepcopy_and_pickle_keep_the_payload_and_forget_the_source(alice: Account) -> None:
    event = EV_DEPOSIT(5, "rent", ["a"]).sent_by(alice)
    for twin in (copy.deepcopy(event), pickle.loads(pickle.dumps(event))):
        assert twin == event
        assert twin.tags is not event.tags
        assert twin.source is None


def test_replace_makes_an_event_that_nobody_has_sent(alice: Account) -> None:
    event = EV_DEPOSIT(5, "rent").sent_by(alice)
    changed = msgspec.structs.replace(event, amount=6)
    assert changed == EV_DEPOSIT(6, "rent")
    assert changed.source is None
