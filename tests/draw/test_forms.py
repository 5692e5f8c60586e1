"""Each form of a drawing: what it says of every kind of row, and that no name breaks it."""

from __future__ import annotations

import html
import re
import subprocess
from collections.abc import Callable
from typing import get_args

import pytest

from example_gclasses import EXAMPLE_GCLASSES
from ginsfsm import Event, GObj, on
from ginsfsm.c_sock import GSock
from ginsfsm.c_srv_sock import GServerSock
from ginsfsm.c_timer import GTimer
from ginsfsm.draw import FORMATS, VIEWS, draw
from ginsfsm.draw.form import Format, TextFormat, View
from ginsfsm.draw.interface import interface_of
from ginsfsm.draw.text import in_ascii
from machines import (
    NASTY_ACTION,
    NASTY_EVENT,
    NASTY_GUARD,
    NASTY_STATES,
    Door,
    Nasty,
    Terminal,
    event,
    named,
)

ALL = [Door, GTimer, GSock, GServerSock, Terminal, Nasty, *EXAMPLE_GCLASSES]
LOCKED_ROW = Door.compiled.states["ST_LOCKED"].rows[0]


def test_the_formats_and_the_views_are_those_of_the_types() -> None:
    said = [one for part in get_args(Format) for one in (get_args(part) or (part,))]
    assert set(FORMATS) == set(said)
    assert set(VIEWS) == set(get_args(View))


def test_an_unknown_format_is_a_clear_error() -> None:
    with pytest.raises(ValueError, match="'mermiad' is no format .*did you mean 'mermaid'"):
        draw(Door, "mermiad")
    with pytest.raises(ValueError, match="'trees' is nothing .*did you mean 'tree'"):
        draw(Door, "text", view="trees")


def test_what_a_terminal_would_obey_is_not_in_a_drawing() -> None:
    loud = type("EV_\x1b[31mRED\x07", (Event,), {"__doc__": "It\x1b[5m blinks."})

    class Loud(GObj):
        __doc__ = "Clears \x1b[2J the screen."
        outputs = [loud]
        machine = {
            "ST_A": [on(loud, named("ac_\x1b]0;title"), "ST_\r\x9bB")],
            "ST_\r\x9bB": [on(loud, None, "ST_A")],
        }

    for view in VIEWS:
        for form in ("mermaid", "dot", "md", "text"):
            text = draw(Loud, form, view=view)
            assert [one for one in text if not one.isprintable() and one != "\n"] == []


@pytest.mark.parametrize("form", ["mermaid", "dot", "md", "text"])
@pytest.mark.parametrize("gclass", EXAMPLE_GCLASSES)
def test_the_examples_are_drawn_in_every_form(gclass: type[GObj], form: TextFormat) -> None:
    drawing = html.unescape(draw(gclass, form))
    for name, state in gclass.compiled.states.items():
        assert name in drawing
        for event_class in state:
            assert event_class.__name__ in drawing
    box = draw(gclass, form, view="interface")
    for message in interface_of(gclass).inputs + interface_of(gclass).outputs:
        assert message.name in box
    for view in VIEWS:
        assert draw(gclass, form, view=view).strip()


def test_there_are_examples() -> None:
    assert {one.__name__ for one in EXAMPLE_GCLASSES} >= {"Chat", "Echo", "Redis", "Session"}


# Mermaid

MERMAID_TEXT = r"(?:[\w .,_\-+*/()\[\]=!?]|#\d+;|<br/>)*"
MERMAID_LINE = re.compile(
    rf'stateDiagram-v2|    state "{MERMAID_TEXT}" as s\d+|    \[\*\] --> s\d+'
    rf"|    s\d+ : {MERMAID_TEXT}|    s\d+ --> s\d+ : {MERMAID_TEXT}"
    r"|    classDef never stroke-dasharray: 4 3|    class s\d+(?:,s\d+)* never"
)


def in_mermaid(text: str) -> str:
    """What Mermaid shows of a text in which characters stand as their numbers."""
    return re.sub(r"#(\d+);", lambda found: chr(int(found[1])), text)


@pytest.mark.parametrize("gclass", ALL)
def test_mermaid_has_only_lines_and_characters_that_mean_what_is_meant(
    gclass: type[GObj],
) -> None:
    # The alphabet was tried with the parser of Mermaid 11, on these very classes.
    for line in draw(gclass, "mermaid").splitlines():
        assert MERMAID_LINE.fullmatch(line), line


def test_mermaid_says_every_row() -> None:
    assert (
        in_mermaid(draw(Door, "mermaid"))
        == """\
stateDiagram-v2
    state "ST_LOCKED" as s0
    state "ST_OPEN" as s1
    state "ST_BROKEN" as s2
    [*] --> s0
    s0 : EV_COIN [else]
    s0 : EV_PUSH / ac_push
    s1 : enter / light_on
    s1 : EV_REPAIR / says(...)
    s1 : after 0.5 s
    s1 : leave / light_off
    s2 : EV_COIN / POSTPONE
    s0 --> s1 : EV_COIN [is_enough] / ac_open
    s0 --> s2 : EV_COIN [else if is_foreign]
    s0 --> s2 : (may) EV_PUSH / ac_push
    s1 --> s0 : EV_PUSH<br/>after patience / ac_late
    s2 --> s0 : EV_REPAIR
"""
    )


def test_mermaid_marks_what_never_fired() -> None:
    text = draw(Door, "mermaid", fired={LOCKED_ROW})
    assert "s0 --> s1 : EV_COIN [is_enough] / ac_open\n" in text
    assert "s2 --> s0 : EV_REPAIR (never fired)\n" in text
    assert "class s1,s2 never" in text


def test_mermaid_shows_a_nasty_name_as_it_is() -> None:
    text = in_mermaid(draw(Nasty, "mermaid"))
    assert f"s0 --> s1 : {NASTY_EVENT} [{NASTY_GUARD}] / {NASTY_ACTION}\n" in text
    for number, name in enumerate(NASTY_STATES):
        assert f'state "{name}" as s{number}\n' in text


# DOT


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("gclass", ALL)
def test_dot_reads_what_is_written(
    gclass: type[GObj], view: View, require_program: Callable[[str], str]
) -> None:
    done = subprocess.run(
        [require_program("dot"), "-Tplain"],
        input=draw(gclass, "dot", view=view).encode(),
        capture_output=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout


def shown_in_dot(text: str) -> str:
    return html.unescape(re.sub(r"<[^<>]*>", "", text)).replace("\xa0", " ")


def test_dot_says_every_row() -> None:
    text = shown_in_dot(draw(Door, "dot"))
    for one in (
        "EV_COIN [is_enough] / ac_open",
        "EV_COIN [else if is_foreign]",
        "EV_COIN / POSTPONE",
        "may: EV_PUSH / ac_push",
        "enter / light_on",
        "leave / light_off",
        "after patience / ac_late",
        "after 0.5 s",
    ):
        assert one in text


def test_dot_draws_what_never_fired_dashed_and_what_may_be_dotted() -> None:
    lines = draw(Door, "dot", fired={LOCKED_ROW}).splitlines()
    arrows = {line.partition(" [")[0].strip(): line for line in lines if " -> " in line}
    assert "dashed" not in arrows['"ST_LOCKED" -> "ST_LOCKED to ST_OPEN"']
    assert "dashed" in arrows['"ST_BROKEN to ST_LOCKED (never fired)" -> "ST_BROKEN"']
    assert "dashed" not in draw(Door, "dot")
    assert draw(Door, "dot").count("dotted") == 2


def test_a_machine_of_many_arrows_is_laid_out_with_less_care() -> None:
    go = event("EV_GO")

    class Ring(GObj):
        machine = {
            f"ST_{number}": [on(go, None, f"ST_{(number + 1) % 110}")] for number in range(110)
        }

    assert "nslimit=" in draw(Ring, "dot")
    assert "nslimit=" not in draw(Terminal, "dot")


# Markdown


def cells(line: str) -> list[str]:
    return [one.strip() for one in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_markdown_is_a_table_with_a_row_for_each_row() -> None:
    assert (
        draw(Door, "md")
        == """\
| State | Event | Guard | Action | Next state |
| --- | --- | --- | --- | --- |
| `ST_LOCKED` (initial) | `EV_COIN` | `is_enough` | `ac_open` | `ST_OPEN` |
| | `EV_COIN` | `else if is_foreign` | | `ST_BROKEN` |
| | `EV_COIN` | `else` | | |
| | `EV_PUSH` | | `ac_push` | may: `ST_BROKEN` |
| `ST_OPEN` | leave | | `light_off` | |
| | `EV_PUSH` | | | `ST_LOCKED` |
| | `EV_REPAIR` | | `says(...)` | |
| | after patience | | `ac_late` | `ST_LOCKED` |
| | after 0.5 s | | | |
| | enter | | `light_on` | |
| `ST_BROKEN` | `EV_COIN` | | `POSTPONE` | |
| | `EV_REPAIR` | | | `ST_LOCKED` |
"""
    )


@pytest.mark.parametrize("fired", [None, ()], ids=["plain", "counted"])
@pytest.mark.parametrize("gclass", ALL)
def test_markdown_has_as_many_cells_in_every_line(
    gclass: type[GObj], fired: tuple[object, ...] | None
) -> None:
    lines = draw(gclass, "md", fired=fired).splitlines()
    assert {len(cells(line)) for line in lines} == {5 if fired is None else 6}
    states = gclass.compiled.states.values()
    # One without rows has a line as well.
    assert len(lines) == 2 + sum(max(1, len(one.rows)) for one in states)


def test_markdown_says_what_never_fired() -> None:
    lines = draw(Door, "md", fired={LOCKED_ROW}).splitlines()
    assert [cells(line)[-1] for line in lines[2:4]] == ["yes", "never fired"]


def test_markdown_shows_a_nasty_name_as_code() -> None:
    assert f"``{NASTY_EVENT}``".replace("|", r"\|") in draw(Nasty, "md")


# Text


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("gclass", ALL)
def test_text_fits_80_columns(gclass: type[GObj], view: View) -> None:
    text = draw(gclass, "text", view=view, fired=())
    assert max(map(len, text.splitlines())) <= 80
    assert in_ascii(text).isascii()
    assert len(in_ascii(text)) == len(text)


def test_text_shows_boxes_and_rails() -> None:
    assert (
        draw(Door, "text")
        == """\
Door: Opens for a coin.

  ●
┌─▼ ST_LOCKED ──────────────────────────────────────────────────┐◀─────┐
│ EV_COIN         [is_enough]           / ac_open     ▶ ST_OPEN │──┐   │
│ EV_COIN         [else if is_foreign]              ▶ ST_BROKEN │──┼─┐ │
│ EV_COIN         [else]                                        │  │ │ │
│ EV_PUSH                               / ac_push               │  │ │ │
│     may                                           ▶ ST_BROKEN │──┼─┤ │
└───────────────────────────────────────────────────────────────┘  │ │ │
┌── ST_OPEN ────────────────────────────────────────────────────┐◀─┘ │ │
│ leave                                 / light_off             │    │ │
│ EV_PUSH                                           ▶ ST_LOCKED │────┼─┤
│ EV_REPAIR                             / says(...)             │    │ │
│ after patience                        / ac_late   ▶ ST_LOCKED │────┼─┤
│ after 0.5 s                                                   │    │ │
│ enter                                 / light_on              │    │ │
└───────────────────────────────────────────────────────────────┘    │ │
┌── ST_BROKEN ──────────────────────────────────────────────────┐◀───┘ │
│ EV_COIN                               / POSTPONE              │      │
│ EV_REPAIR                                         ▶ ST_LOCKED │──────┘
└───────────────────────────────────────────────────────────────┘
"""
    )


def test_text_says_every_state_and_every_row_even_where_it_breaks_them() -> None:
    text = " ".join(draw(Terminal, "text").replace("│", " ").split())
    for state in Terminal.compiled.states.values():
        assert state.name in text
        for kind in state:
            assert kind.__name__ in text


def test_names_longer_than_a_line_are_broken() -> None:
    long = event("EV_" + "Y" * 100)

    class Wide(GObj):
        machine = {
            "ST_A": [on(long, named("ac_" + "Z" * 100), "ST_" + "X" * 100)],
            "ST_" + "X" * 100: [on(long, None, "ST_A")],
        }

    text = draw(Wide, "text")
    assert max(map(len, text.splitlines())) <= 80
    joined = re.sub(r"[│\s]", "", text)
    assert "EV_" + "Y" * 100 in joined
    assert "ac_" + "Z" * 100 in joined


def test_an_action_stays_with_its_stroke() -> None:
    guard, action = "is_" + "g" * 40, "ac_" + "z" * 40

    class Long(GObj):
        machine = {"ST_A": [on(event("EV_GO"), named(action), when=named(guard))]}

    assert [line.strip("│ ") for line in draw(Long, "text").splitlines()[4:-1]] == [
        f"EV_GO [{guard}]",
        f"/ {action}",
    ]


def test_letters_of_two_columns_leave_the_picture_straight() -> None:
    coin, wide = event("EV_投币"), event("EV_" + "门" * 45)

    class Gate(GObj):
        machine = {
            "ST_关闭": [on(coin, named("ac_开门"), "ST_打开", when=named("是否足够"))],
            "ST_打开": [on(coin, None), on(event("EV_PUSH"), None, "ST_关闭")],
        }

    class Wider(GObj):
        machine = {
            "ST_A": [on(wide, None, "门" * 45)],
            "门" * 45: [on(wide, named("a" + "门" * 45), "x" + "门" * 45)],
            "x" + "门" * 45: [on(wide, None, "ST_A")],
        }

    assert (
        draw(Gate, "text")
        == """\
Gate

  ●
┌─▼ ST_关闭 ─────────────────────────────────┐◀───┐
│ EV_投币  [是否足够]  / ac_开门   ▶ ST_打开 │──┐ │
└────────────────────────────────────────────┘  │ │
┌── ST_打开 ─────────────────────────────────┐◀─┘ │
│ EV_投币                                    │    │
│ EV_PUSH                          ▶ ST_关闭 │────┘
└────────────────────────────────────────────┘
"""
    )
    for view in VIEWS:
        for gclass in (Gate, Wider):
            lines = draw(gclass, "text", view=view).splitlines()
            assert max(map(columns, lines)) <= 80
            straight = in_ascii("\n".join(lines)).splitlines()
            assert list(map(columns, lines)) == list(map(len, straight))


def columns(line: str) -> int:
    return sum(2 if "\u2e80" <= one <= "\uffdc" else 1 for one in line)
