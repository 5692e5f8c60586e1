"""The drawing before it has a form says what the compiled table does, row by row."""

from __future__ import annotations

import functools
import re
from typing import Any

import pytest

from ginsfsm import Event, GObj, on
from ginsfsm.c_sock import GSock
from ginsfsm.c_srv_sock import GServerSock
from ginsfsm.draw import draw
from ginsfsm.draw.diagram import Diagram, diagram_of, name_shown, summary
from machines import EV_COIN, EV_PUSH, EV_REPAIR, Door, Nasty, Terminal, says


def texts(diagram: Diagram, source: str, target: str, kind: str = "goes") -> list[str]:
    return [
        line.text
        for arrow in diagram.arrows
        if (arrow.source, arrow.target, arrow.kind) == (source, target, kind)
        for line in arrow.lines
    ]


def test_the_first_state_is_the_initial_one() -> None:
    boxes = diagram_of(Door).states
    assert [(box.name, box.initial) for box in boxes] == [
        ("ST_LOCKED", True),
        ("ST_OPEN", False),
        ("ST_BROKEN", False),
    ]


def test_rows_that_stay_stand_in_the_box_enter_first_and_leave_last() -> None:
    locked, open_, broken = diagram_of(Door).states
    assert [line.text for line in locked.lines] == ["EV_COIN [else]", "EV_PUSH / ac_push"]
    assert [line.text for line in open_.lines] == [
        "enter / light_on",
        "EV_REPAIR / says(...)",
        "after 0.5 s",
        "leave / light_off",
    ]
    assert [line.text for line in broken.lines] == ["EV_COIN / POSTPONE"]
    assert broken.lines[0].postpones


def test_rows_between_two_states_share_one_arrow() -> None:
    diagram = diagram_of(Door)
    assert texts(diagram, "ST_LOCKED", "ST_OPEN") == ["EV_COIN [is_enough] / ac_open"]
    assert texts(diagram, "ST_OPEN", "ST_LOCKED") == ["EV_PUSH", "after patience / ac_late"]
    assert len([one for one in diagram.arrows if one.source == "ST_OPEN"]) == 1


def test_a_later_row_of_an_event_says_that_it_is_one() -> None:
    locked = diagram_of(Door).states[0]
    assert [line.guard for line in locked.rows] == [
        "is_enough",
        "else if is_foreign",
        "else",
        "",
    ]


def test_where_set_new_state_may_go_is_an_arrow_of_its_kind() -> None:
    diagram = diagram_of(Door)
    assert texts(diagram, "ST_LOCKED", "ST_BROKEN", "may") == ["EV_PUSH / ac_push"]
    assert texts(diagram, "ST_LOCKED", "ST_LOCKED", "may") == []


@pytest.mark.parametrize("gclass", [Door, GSock, GServerSock, Terminal, Nasty])
def test_every_row_of_the_table_is_drawn_and_nothing_else(gclass: type[GObj]) -> None:
    diagram = diagram_of(gclass)
    table = {name: list(state.rows) for name, state in gclass.compiled.states.items()}
    assert {box.name: [line.row for line in box.rows] for box in diagram.states} == table
    in_boxes = [id(line.row) for box in diagram.states for line in box.lines]
    at_arrows = [
        id(line.row) for arrow in diagram.arrows if arrow.kind == "goes" for line in arrow.lines
    ]
    assert sorted(in_boxes + at_arrows) == sorted(
        id(row) for rows in table.values() for row in rows
    )


def test_the_event_of_a_line_is_its_class() -> None:
    assert [line.event for line in diagram_of(Door).states[1].rows] == [
        None,
        EV_PUSH,
        EV_REPAIR,
        None,
        None,
        None,
    ]


def row_of(state: str, number: int) -> object:
    return Door.compiled.states[state].rows[number]


def test_what_fired_may_be_said_by_row_by_place_and_by_state() -> None:
    coin = Door.compiled.states["ST_LOCKED"].rows[0]
    for fired in ({coin}, {(coin.file, coin.line)}, {("ST_LOCKED", coin)}):
        lines = diagram_of(Door, fired).states[0].rows
        assert [line.fired for line in lines] == [True, False, False, False]
    assert not any(line.fired for line in diagram_of(Door, {("ST_OPEN", coin)}).lines)


@pytest.mark.parametrize(
    ("fired", "got"),
    [
        (5, "5"),
        ("EV_COIN", "'EV_COIN'"),
        (iter(()), "<tuple_iterator"),
        ([5], "5 in it"),
        ([("a.py", "12")], "('a.py', '12') in it"),
        ([[1, 2]], "[1, 2] in it"),
    ],
    ids=["number", "text", "iterator", "of numbers", "of wrong pairs", "of lists"],
)
def test_what_cannot_have_fired_is_a_clear_error(fired: Any, got: str) -> None:
    expected = (
        "fired: expected a collection of rows, each as the Row itself, as (file, line) or as "
    )
    with pytest.raises(ValueError, match=re.escape(f"{expected}(state, Row); got {got}")):
        draw(Door, "md", fired=fired)


def test_rows_that_never_fired_have_an_arrow_of_their_own() -> None:
    push = Door.compiled.states["ST_OPEN"].rows[1]
    diagram = diagram_of(Door, {push})
    arrows = [one for one in diagram.arrows if one.source == "ST_OPEN"]
    assert [(one.never_fired, [line.trigger for line in one.lines]) for one in arrows] == [
        (False, ["EV_PUSH"]),
        (True, ["after patience"]),
    ]
    assert not any(one.never_fired for one in diagram_of(Door).arrows)


def test_a_subclass_is_drawn_with_the_table_that_it_inherits() -> None:
    class Gate(Door):
        pass

    diagram = diagram_of(Gate)
    assert diagram.name == "Gate"
    assert [line.row for line in diagram.lines] == [line.row for line in diagram_of(Door).lines]


def test_how_functions_are_called() -> None:
    class Callable:
        def __call__(self, gobj: object, event: object) -> None: ...

    assert name_shown(Door.ac_open) == "ac_open"
    assert name_shown(says("x")) == "says(...)"
    assert name_shown(functools.partial(Door.ac_open)) == "ac_open(...)"
    assert name_shown(Callable()) == "Callable"
    assert name_shown(None) == ""
    module_level = eval("lambda gobj, event: None", {})
    assert name_shown(module_level) == "lambda"


def test_a_name_in_a_function_is_the_name_of_the_function() -> None:
    class EV_X(Event):
        pass

    class Local(GObj):
        def ac_x(self, event: EV_X) -> None: ...

        machine = {"ST_IDLE": [on(EV_X, ac_x)]}

    assert [line.text for line in diagram_of(Local).lines] == ["EV_X / ac_x"]


def test_the_summary_is_the_first_sentence_of_the_own_docstring() -> None:
    class Silent(Door):
        pass

    assert summary(Door) == "Opens for a coin."
    assert summary(Silent) == ""
    assert summary(EV_COIN) == "Somebody has paid."
