"""The gclass as a box: what goes in, what comes out, with its fields."""

from __future__ import annotations

import pytest

from ginsfsm import Event, GObj, on
from ginsfsm.c_sock import GSock
from ginsfsm.c_srv_sock import GServerSock
from ginsfsm.c_timer import GTimer
from ginsfsm.draw import draw
from ginsfsm.draw.interface import interface_of
from machines import Door


class EV_RICH(Event):
    """An event with fields of many types. Only this sentence counts."""

    data: bytes
    words: list[str]
    count: int | None = None
    names: list[str] = []


class Taker(GObj):
    machine = {"ST_IDLE": [on(EV_RICH, None)]}


def names(messages: tuple[object, ...]) -> list[str]:
    return [getattr(one, "name") for one in messages]  # noqa: B009


def test_inputs_and_outputs_in_their_order() -> None:
    interface = interface_of(Door)
    assert names(interface.inputs) == ["EV_COIN", "EV_PUSH", "EV_REPAIR"]
    assert names(interface.outputs) == ["EV_OPENED"]


def test_the_fields_of_an_event() -> None:
    (message,) = interface_of(Taker).inputs
    assert [str(one) for one in message.fields] == [
        "data: bytes",
        "words: list[str]",
        "count: int | None = None",
        "names: list[str] = []",
    ]
    assert message.signature == "EV_RICH(data, words, count=None, names=[])"
    assert message.states == ("ST_IDLE",)


def test_what_only_the_gobj_sends_to_itself_is_no_part_of_it() -> None:
    assert names(interface_of(GTimer).inputs) == ["EV_SET_TIMER"]
    assert names(interface_of(GTimer).internal) == ["_EV_EXPIRED"]
    assert names(interface_of(GServerSock).inputs) == [
        "EV_PAUSE_ACCEPT",
        "EV_RESUME_ACCEPT",
        "EV_DRAIN",
        "EV_RELOAD_TLS",
    ]


def test_a_subclass_has_the_interface_of_its_base() -> None:
    class Client(GSock):
        pass

    assert interface_of(Client).inputs == interface_of(GSock).inputs
    assert "EV_READABLE" in names(interface_of(Client).internal)


def test_every_input_is_in_one_of_the_two_lists() -> None:
    interface = interface_of(GSock)
    both = [*names(interface.inputs), *names(interface.internal)]
    assert sorted(both) == sorted(GSock.compiled.events)


def test_text() -> None:
    assert (
        draw(Door, "text", view="interface")
        == """\
                                  ┌────────┐
EV_COIN(cents, currency='EUR') ──▶│        │
                       EV_PUSH ──▶│  Door  ├──▶ EV_OPENED
                     EV_REPAIR ──▶│        │
                                  └────────┘
"""
    )


@pytest.mark.parametrize("form", ["mermaid", "dot", "md", "text"])
def test_every_form_names_every_event(form: str) -> None:
    drawing = str(draw(GSock, form, view="interface"))
    interface = interface_of(GSock)
    for message in (*interface.inputs, *interface.outputs):
        assert message.name in drawing
    for message in interface.internal:
        assert message.name not in drawing


def test_markdown_has_types_and_descriptions() -> None:
    drawing = draw(Door, "md", view="interface")
    assert "| `EV_COIN` | `cents: int`<br>`currency: str = 'EUR'` | Somebody has paid. |" in drawing
    assert "| `EV_OPENED` | | The door is open. |" in drawing


def test_a_gclass_without_events() -> None:
    class Silent(GObj):
        pass

    assert "None." in draw(Silent, "md", view="interface")
    assert "Silent" in draw(Silent, "text", view="interface")


def test_names_too_long_for_two_columns_stand_under_one_another() -> None:
    long = type(Event)("EV_" + "X" * 90, (Event,), {"__module__": __name__})

    class Wide(GObj):
        outputs = [long]
        machine = {"ST_IDLE": [on(long, None)]}

    text = draw(Wide, "text", view="interface")
    assert max(map(len, text.splitlines())) <= 80
    assert "takes" in text
    assert "tells" in text
