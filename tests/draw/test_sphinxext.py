"""The Sphinx extension: a small project is built, and its pages are read."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from importlib import metadata
from pathlib import Path

import pytest

from ginsfsm.draw.graphviz import find_dot
from pages import Page

pytest.importorskip("sphinx")

MODULE = '''
"""Doors.

ST_SHUT. Nobody comes through; `EV_OPEN` with the right key changes that.

ST_OPEN, ST_AJAR. It lets people in.

A paragraph on doors in general.
"""

from ginsfsm import POSTPONE, Event, GObj, after, enter, leave, on, param
from ginsfsm.c_timer import EV_TIMEOUT


class EV_OPEN(Event):
    """Open the door."""

    key: str
    """Whoever has this one is let in."""
    wide: bool = True
    others: list[int] = []


class EV_PASS(Event):
    """Go through."""


class EV_OPENED(Event):
    """The door is open."""


class EV_LOOK(Event):
    """It looks at itself."""


class Door(GObj):
    """A door.

    It tells `EV_OPENED`, see `Door.key` and `nothing_of_ours`.
    """

    class config(GObj.config):
        key: str = param("secret", "who has it comes in; '' is everybody")
        seconds_open: float = param(5.0, "seconds until it shuts, see key and EV_PASS", ge=0.5)
        material: str = param("oak", "what it is made of", choices=("oak", "glass"))

    outputs = [EV_OPENED]

    def has_key(self, event: EV_OPEN) -> bool:
        return event.key == self.config.key

    def ac_open(self, event: EV_OPEN) -> None:
        self.broadcast_event(EV_OPENED())

    def ring(self) -> None:
        pass

    machine = {
        "ST_SHUT": [
            on(EV_OPEN, ac_open, "ST_OPEN", when=has_key),
            on(EV_OPEN, None),
            on(EV_PASS, POSTPONE),
            on(EV_LOOK, None, may=("ST_AJAR",)),
        ],
        "ST_OPEN": [
            enter(ring),
            leave(ring),
            after("seconds_open", None, "ST_SHUT"),
            on(EV_PASS, None),
            on(EV_TIMEOUT, None),
        ],
        "ST_AJAR": [
            after(2, None, "ST_SHUT"),
        ],
    }


class Gate(Door):
    """A wide one."""

    class config(Door.config):
        width: int = param(3, "metres")


__all__ = ["Door", "EV_OPEN", "EV_OPENED", "EV_PASS", "Gate"]
'''

CONF = """
extensions = ["myst_parser", "ginsfsm.draw.sphinxext"]
nitpicky = True
default_role = "fsm:name"
exclude_patterns = []
"""

RST = """
Doors
=====

.. toctree::

   gates

.. gclass:: doors.Door
   :prose:

   What the page adds.

See :fsm:event:`EV_PASS`, :fsm:state:`ST_OPEN`, :fsm:param:`doors.Door.key` and
:fsm:gclass:`the gate <Gate>`. A page has a default role of its own: `EV_LOOK`.
"""

MYST = """
# Gates

```{gclass} doors.Gate
:rubrics:
```

See {fsm:event}`EV_OPEN`, {fsm:state}`Door.ST_OPEN`, {fsm:param}`~doors.Gate.width`.
"""


def build(
    folder: Path, pages: dict[str, str], *, builder: str = "html", conf: str = CONF
) -> tuple[Path, str]:
    """Build a project; its output folder, and what Sphinx said."""
    source = folder / "source"
    source.mkdir()
    (source / "conf.py").write_text(conf)
    (folder / "doors.py").write_text(MODULE)
    for name, text in pages.items():
        (source / name).write_text(text)
    return folder / "out", _run_sphinx(folder, builder)


def _run_sphinx(folder: Path, builder: str) -> str:
    path = os.pathsep.join([str(folder), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-b", builder, "-q", "-N", "source", "out"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> tuple[Page, Page, Path]:
    out, said = build(tmp_path_factory.mktemp("doors"), {"index.rst": RST, "gates.md": MYST})
    assert said == ""
    return Page(out / "index.html"), Page(out / "gates.html"), out


Project = tuple[Page, Page, Path]


def test_the_docstrings_of_class_module_and_page_are_there(project: Project) -> None:
    door, _, _ = project
    assert "A door." in door.text
    assert "A paragraph on doors in general." in door.text
    assert "What the page adds." in door.text
    # What is said of states stands with the states, and the first line of the module nowhere.
    assert door.text.index("Nobody comes through") > door.text.index("States")
    assert "Doors.\n" not in door.text


def test_the_parameters_have_the_four_columns_in_order(project: Project) -> None:
    door, gate, _ = project
    columns = ("Name", "Type", "Default value", "Description")
    assert door.table(*columns) == [
        ["key", "str", "'secret'", "who has it comes in; '' is everybody"],
        ["seconds_open", "float", "5.0",
         "seconds until it shuts, see key and EV_PASS (0.5 or more)"],
        ["material", "str", "'oak'", "what it is made of ('oak', 'glass')"],
    ]  # fmt: skip
    # What is inherited stands in a table of its own.
    assert gate.table(*columns) == [["width", "int", "3", "metres"]]
    assert "Parameters of Door" in gate.text
    assert "doors.Gate.key" in gate.ids


def test_the_states_have_their_rows(project: Project) -> None:
    door, _, _ = project
    tables = [rows for rows in door.tables if rows[0] == ["Event", "Guard", "Action", "Next state"]]
    assert [rows[1:] for rows in tables] == [
        [
            ["EV_OPEN", "has_key", "ac_open", "ST_OPEN"],
            ["EV_OPEN", "else", "", ""],
            ["EV_PASS", "", "kept for the next state", ""],
            ["EV_LOOK", "", "", "may go to ST_AJAR"],
        ],
        [
            ["enter", "", "ring", ""],
            ["leave", "", "ring", ""],
            ["after seconds_open s", "", "", "ST_SHUT"],
            ["EV_PASS", "", "", ""],
            ["EV_TIMEOUT", "", "", ""],
        ],
        [["after 2 s", "", "", "ST_SHUT"]],
    ]
    assert door.text.count("It lets people in.") == 2
    assert "ST_SHUT initial state" in door.text


def test_the_events_have_their_fields_and_types(project: Project) -> None:
    door, _, _ = project
    text = " ".join(door.text.split())
    assert "EV_OPEN(key: str, wide: bool = True, others: list[int] = [])" in text
    assert door.table("Field", "Description")[0] == ["key", "Whoever has this one is let in."]
    inputs, outputs = text.index("Input events"), text.index("Output events")
    internal = text.index("Internal events")
    assert inputs < text.index("Go through.") < outputs
    assert outputs < text.index("The door is open.") < internal
    assert text.index("It looks at itself.") > internal


def test_every_event_state_and_parameter_has_its_place_and_links_lead_there(
    project: Project,
) -> None:
    door, gate, _ = project
    names = {
        "key", "seconds_open", "material", "ST_SHUT", "ST_OPEN", "ST_AJAR", "EV_OPEN", "EV_PASS",
        "EV_OPENED", "EV_LOOK", "EV_TIMEOUT",
    }  # fmt: skip
    for page, name in ((door, "Door"), (gate, "Gate")):
        assert {f"doors.{name}.{one}" for one in names} <= set(page.ids)
        assert len(page.ids) == len(set(page.ids))
    assert door.links["EV_PASS"] == "#doors.Door.EV_PASS"
    assert door.links["ST_AJAR"] == "#doors.Door.ST_AJAR"
    assert door.links["the gate"] == "gates.html#doors.Gate"
    # From the other page: to the gclass that stands first with the event, and to the one named.
    assert gate.links["EV_OPENED"].endswith("#doors.Gate.EV_OPENED")
    assert gate.links["width"] == "#doors.Gate.width"
    assert gate.links["Door.ST_OPEN"] == "index.html#doors.Door.ST_OPEN"
    assert door.html.rindex('<code class="xref fsm fsm-name') > door.html.index("default role")
    # What is not ours is code, and no fault.
    assert "nothing_of_ours" not in door.links


TIMER = """
# Timers

```{gclass} ginsfsm.c_timer.GTimer
:no-pictures:
```

It takes `EV_SET_TIMER(5)` in `ST_IDLE` and in `GTimer.ST_COUNTDOWN`, but no `EV_OTHER`, nor
`EV_SET_TIMER or EV_TIMEOUT`. A link is `` {fsm:event}`EV_TIMEOUT` ``.

## Of `EV_SET_TIMER` a title
"""


@pytest.mark.parametrize("is_on", [True, False], ids=["on", "off"])
def test_code_that_names_an_event_or_a_state_is_a_link_where_it_is_wanted(
    is_on: bool, tmp_path: Path
) -> None:
    out, said = build(tmp_path, {"index.md": TIMER}, conf=f"{CONF}\nfsm_link_code = {is_on}\n")
    assert said == ""
    prose = (out / "index.html").read_text().partition("It takes ")[2]
    place = "#ginsfsm.c_timer.GTimer."
    linked = re.findall(r'<a [^>]*href="([^"]*)"[^>]*><code[^>]*>(.*?)</code>', prose)
    assert [(link, re.sub("<.*?>", "", words)) for link, words in linked] == [
        (f"{place}EV_SET_TIMER", "EV_SET_TIMER(5)"),
        (f"{place}ST_IDLE", "ST_IDLE"),
        (f"{place}ST_COUNTDOWN", "GTimer.ST_COUNTDOWN"),
    ] * is_on
    # A default that is an event is a link in any case.
    page = Page(out / "index.html")
    rows = page.table("Name", "Type", "Default value", "Description")
    assert ["timeout_event", "type[Event]", "EV_TIMEOUT"] in [row[:3] for row in rows]
    cell = page.html.partition("type[Event]")[2].partition("<td>")[2].partition("</td>")[0]
    assert 'href="#ginsfsm.c_timer.GTimer.EV_TIMEOUT"' in cell
    # None is one, and no name.
    assert ["subscriber", "None", "None"] in [row[:3] for row in rows]


def test_everything_is_in_the_index_and_in_the_inventory(project: Project) -> None:
    _, _, out = project
    index = (out / "genindex.html").read_text()
    for words in (
        "Door (gclass)", "EV_PASS (event of Door)", "ST_AJAR (state of Door)",
        "key (parameter of Door)", "width (parameter of Gate)",
    ):  # fmt: skip
        assert words in re.sub(r"<[^>]*>", "", index), words
    from sphinx.util.inventory import InventoryFile

    with (out / "objects.inv").open("rb") as file:
        found = InventoryFile.load(file, "", lambda base, uri: uri)
    assert "doors.EV_OPEN" in found["fsm:event"]
    assert "doors.Door.ST_OPEN" in found["fsm:state"]


def test_the_drawings_are_a_part_of_the_page_and_link_to_it(project: Project) -> None:
    door, _, out = project
    if find_dot() is None:
        pytest.skip("needs Graphviz")
    pictures = re.findall(r"<svg.*?</svg>", door.html, re.DOTALL)
    assert len(pictures) == 2
    machine = pictures[1]
    for state in ("ST_SHUT", "ST_OPEN", "ST_AJAR"):
        assert f'<a href="#doors.Door.{state}"><text' in machine
    # The colours are the page's, but for those who cannot read variables.
    assert set(re.findall(r'(?:fill|stroke)="(#[0-9a-f]{6})"', machine)) == set()
    assert "var(--fsm-ink, #" in machine
    # Sphinx's script that marks what a search has found ends at a title in a picture, unless told.
    titles = {tag for one in pictures for tag in re.findall(r"<title\b[^>]*>", one)}
    assert titles == {'<title class="nohighlight">'}
    (alone,) = out.glob("_images/doors.Door-machine.svg")
    assert "var(" not in alone.read_text()
    assert (out / "_static" / "ginsfsm.css").read_text().count(".fsm-picture")


def test_the_extension_has_the_version_of_the_package(tmp_path: Path) -> None:
    conf = CONF + textwrap.dedent("""
        import sys

        def setup(app):
            app.connect(
                "builder-inited",
                lambda app: sys.stderr.write(app.extensions["ginsfsm.draw.sphinxext"].version),
            )
    """)
    _, said = build(tmp_path, {"index.rst": "Doors\n=====\n"}, builder="dummy", conf=conf)
    assert said == metadata.version("ginsfsm")


def test_a_format_without_pictures_gets_the_one_for_terminals(tmp_path: Path) -> None:
    out, said = build(tmp_path, {"index.rst": RST, "gates.md": MYST}, builder="text")
    assert said == ""
    page = (out / "index.txt").read_text()
    pictures = page[page.index("Interface") : page.index("States")]
    assert "▶ ST_SHUT" in pictures
    assert "EV_OPEN(key, wide=True, others=[])" in pictures
    assert '| "key"          | "str"   | "\'secret\'"      |' in page


def test_without_graphviz_the_page_has_the_picture_for_terminals(tmp_path: Path) -> None:
    conf = f"{CONF}\nfsm_diagram = 'auto'\nimport ginsfsm.draw.sphinx_picture as one\n"
    conf += "one.find_dot = lambda: None\n"
    out, said = build(tmp_path, {"index.rst": RST, "gates.md": MYST}, conf=conf)
    assert said == ""
    page = Page(out / "index.html")
    assert "<svg" not in re.sub(r'<svg [^>]*style="display: none".*?</svg>', "", page.html)
    assert "fsm-picture" in page.html


def test_mermaid_where_the_project_asks_for_it(tmp_path: Path) -> None:
    conf = f"{CONF}\nfsm_diagram = 'mermaid'\n"
    out, said = build(tmp_path, {"index.rst": RST, "gates.md": MYST}, conf=conf)
    assert said == ""
    assert '<pre class="mermaid' in (out / "index.html").read_text()
    assert "stateDiagram-v2" in (out / "index.html").read_text()


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("doors.Dor", "doors has no Dor; did you mean 'Door'?"),
        ("doors.EV_OPEN", "expected a gclass, derived from GObj, got <class 'doors.EV_OPEN'>"),
        ("nowhere.Door", "expected package.module.Class, of a module that can be imported"),
        ("Door", "expected package.module.Class, of a module that can be imported"),
        ("broken.Door", "broken cannot be imported: name 'on' is not defined"),
    ],
)
def test_a_wrong_name_is_one_clear_warning(tmp_path: Path, argument: str, sentence: str) -> None:
    (tmp_path / "broken.py").write_text("on()\n")
    _, said = build(tmp_path, {"index.rst": f"Title\n=====\n\n.. gclass:: {argument}\n"})
    (line,) = said.strip().splitlines()
    assert line.endswith(f"index.rst:4: WARNING: gclass {argument}: {sentence} [fsm]")


@pytest.mark.parametrize("page", ["index.rst", "index.md"])
def test_a_warning_says_whose_docstring_is_wrong(tmp_path: Path, page: str) -> None:
    (tmp_path / "slips.py").write_text(
        'from ginsfsm import GObj\nclass Slip(GObj):\n    """Fine.\n\n    *Not closed.\n    """\n'
    )
    text = {
        "index.rst": "Title\n=====\n\n.. gclass:: slips.Slip\n\n*Not this.\n",
        "index.md": "# Title\n\n```{gclass} slips.Slip\n```\n\n{no-such-role}`x`\n",
    }
    _, said = build(tmp_path, {page: text[page]})
    assert "docstring of slips.Slip:3: WARNING: Inline emphasis start-string" in said
    # What is wrong on the page itself keeps its place.
    assert f"{page}:6: WARNING" in said


def test_a_gclass_has_one_place(tmp_path: Path) -> None:
    again = f"{MYST}\n```{{gclass}} doors.Door\n```\n"
    _, said = build(tmp_path, {"index.rst": RST, "gates.md": again})
    (line,) = said.strip().splitlines()
    assert "doors.Door is documented on the page gates too; give one of them :no-index:" in line
    (tmp_path / "source" / "gates.md").write_text(again.replace("Door\n", "Door\n:no-index:\n"))
    assert _run_sphinx(tmp_path, "html") == ""


def test_an_event_that_comes_in_and_goes_out_is_told_once(tmp_path: Path) -> None:
    module = '''
        from ginsfsm import Event, GObj, on


        class Ping(Event):
            """A knock."""


        class Room:
            class Wall(GObj):
                """Passes on what it hears.

                listening. With one ear.
                ST_DEAF, ST_LISTENING. It is asleep, or not.
                """

                outputs = [Ping]

                def ac_pass_on(self, event: Ping) -> None:
                    self.broadcast_event(event)

                machine = {"ST_LISTENING": [on(Ping, ac_pass_on)]}
    '''
    (tmp_path / "walls.py").write_text(textwrap.dedent(module))
    out, said = build(tmp_path, {"index.rst": "Walls\n=====\n\n.. gclass:: walls.Room.Wall\n"})
    assert said == ""
    page = Page(out / "index.html")
    assert page.text.count("A knock.") == 1
    assert page.ids.count("walls.Room.Wall.Ping") == 1
    assert "the same event as above" in page.text


def test_a_state_may_have_any_name(tmp_path: Path) -> None:
    (tmp_path / "words.py").write_text(
        textwrap.dedent("""
            from ginsfsm import Event, GObj, on


            class EV_GO(Event):
                pass


            class Words(GObj):
                machine = {
                    'ST "waiting" for <coin>': [on(EV_GO, None, "ST-OPEN")],
                    "ST-OPEN": [on(EV_GO, None, 'ST "waiting" for <coin>')],
                }
        """)
    )
    out, said = build(tmp_path, {"index.rst": "Words\n=====\n\n.. gclass:: words.Words\n"})
    assert said == ""
    page = Page(out / "index.html")
    places = {"words.Words.ST-waiting-for-coin-", "words.Words.ST-OPEN"}
    assert places <= set(page.ids)
    assert page.links['ST "waiting" for <coin>'] == "#words.Words.ST-waiting-for-coin-"
    assert page.links["ST-OPEN"] == "#words.Words.ST-OPEN"
    index = (out / "genindex.html").read_text()
    for place in places:
        assert f'href="index.html#{place}"' in index
        if find_dot() is not None:
            assert f'<a href="#{place}"><text' in page.html


def test_a_link_to_nothing_is_a_warning_and_an_ambiguous_one_too(tmp_path: Path) -> None:
    page = RST + "\n:fsm:event:`EV_NOWHERE`\n"
    more = MYST + "\n{fsm:param}`key` {fsm:state}`ST_GONE` {fsm:param}`Gate.key`\n"
    _, said = build(tmp_path, {"index.rst": page, "gates.md": more})
    assert "fsm:event reference target not found: EV_NOWHERE" in said
    assert "fsm:state reference target not found: ST_GONE" in said
    assert len(said.strip().splitlines()) == 2
