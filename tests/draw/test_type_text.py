"""The type of a field stands in a drawing as it stands in the class."""

# No `from __future__ import annotations`: what Python makes of a type is to be seen.
import enum
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Optional, Union

import msgspec
import pytest

import machines
from ginsfsm import Event, GObj, on
from ginsfsm.draw import draw
from ginsfsm.draw.interface import interface_of
from ginsfsm.draw.type_text import type_text


class Colour(enum.Enum):
    RED = "red"


class EV_MANY(Event):
    plain: int
    held: list[int]
    deep: dict[str, list[tuple[int, ...]]]
    union: int | None
    old: Optional[int]  # noqa: UP045
    older: Union[int, list[str]]  # noqa: UP007
    words: Literal["in", "out"]
    called: Callable[[int, str], None]
    called_with_any: Callable[..., bool]
    limited: Annotated[int, msgspec.Meta(ge=1)]
    later: list["Colour"]
    quoted: "dict[str, Colour]"
    what: Any
    a_class: type[Exception]
    empty: tuple[()]
    mapping: Mapping[str, Any] = {}
    colour: Colour = Colour.RED


class EV_MORE(EV_MANY):
    again: list[bool] = []


class Taker(GObj):
    outputs = [EV_MORE]
    machine = {"ST_IDLE": [on(EV_MANY, None)]}


WRITTEN = {
    "plain": "int",
    "held": "list[int]",
    "deep": "dict[str, list[tuple[int, ...]]]",
    "union": "int | None",
    "old": "int | None",
    "older": "int | list[str]",
    "words": "Literal['in', 'out']",
    "called": "Callable[[int, str], None]",
    "called_with_any": "Callable[..., bool]",
    "limited": "Annotated[int, msgspec.Meta(ge=1)]",
    "later": "list[Colour]",
    "quoted": "dict[str, Colour]",
    "what": "Any",
    "a_class": "type[Exception]",
    "empty": "tuple[()]",
    "mapping": "Mapping[str, Any]",
    "colour": "Colour",
}


@pytest.mark.parametrize("name", WRITTEN)
def test_it_is_whole(name: str) -> None:
    assert type_text(EV_MANY, name) == WRITTEN[name]
    # And by an heir.
    assert type_text(EV_MORE, name) == WRITTEN[name]


def test_every_field_of_the_event_is_asked_for() -> None:
    assert list(EV_MANY.__struct_fields__) == list(WRITTEN)


@pytest.mark.parametrize("quote", ["", "'", '"'])
def test_as_it_is_written_where_annotations_are_text(quote: str) -> None:
    written = "collections.abc.Mapping[str,  Sequence[Missing]] | None"
    text = (
        "from __future__ import annotations\nfrom ginsfsm import Event\n"
        f"class Of:\n    given: {quote}{written}{quote}\n"
    )
    names: dict[str, Any] = {"__name__": __name__}
    exec(text, names)
    shown = type_text(names["Of"], "given")
    assert shown.replace("  ", " ") == written.replace("  ", " ")


def test_a_field_that_has_no_type() -> None:
    assert type_text(GObj, "nothing") == "object"


def test_where_fields_are_listed() -> None:
    drawing = draw(Taker, "md", view="interface")
    for name, written in WRITTEN.items():
        assert f"`{name}: {written}".replace("|", r"\|") in drawing, name
    assert r"<br>`colour: Colour = Colour.RED`" in drawing
    (message,) = interface_of(Taker).outputs
    assert str(message.fields[-1]) == "again: list[bool] = []"


def test_the_boxes_have_the_names_and_the_defaults_alone() -> None:
    assert machines.EV_COIN.__struct_fields__ == ("cents", "currency")
    assert "EV_COIN(cents, currency='EUR')" in draw(machines.Door, "text", view="interface")
