"""The children that a gclass makes, found in the source."""

from __future__ import annotations

import linecache
from pathlib import Path

from ginsfsm import GObj, on, param
from ginsfsm.c_srv_sock import GServerSock
from ginsfsm.c_timer import GTimer
from ginsfsm.draw import draw
from ginsfsm.draw.tree import tree_of
from machines import EV_PUSH, EV_REPAIR, Door


class Leaf(GObj):
    pass


class Branch(GObj):
    class config(GObj.config):
        kind: type[GObj] = param(Leaf, "what to make")

    def start_up(self) -> None:
        self.create_gobj("leaf", Leaf, self)
        self.create_gobj("configured", self.config.kind, self)
        for number in range(3):
            self.create_gobj(f"door-{number}", Door, self)

    def ac_more(self, event: EV_PUSH) -> None:
        self.create_gobj(None, gclass=Branch, parent=self.gaplic)

    def ac_any(self, event: EV_REPAIR) -> None:
        kind = self.pick()
        self.create_gobj("any", kind, self)

    def pick(self) -> type[GObj]:
        return Leaf

    machine = {"ST_IDLE": [on(EV_PUSH, ac_more), on(EV_REPAIR, ac_any)]}


class Server(GObj):
    def start_up(self) -> None:
        self.create_gobj("inner", GServerSock, self, session=Branch)
        self.create_gobj("outer", GServerSock, self)


class Extended(Server):
    def start_up(self) -> None:
        super().start_up()
        self.create_gobj("timer", GTimer, self)


class Replaced(Server):
    def start_up(self) -> None:
        self.create_gobj("timer", GTimer, self)


def test_the_children_of_a_gclass() -> None:
    assert (
        draw(Branch, "text", view="tree")
        == """\
Branch
├── leaf  Leaf
├── configured  Leaf
├── f'door-{number}'  Door  (several)
├── Branch  (made in ac_more, under self.gaplic, as above)
└── any  kind  (made in ac_any)
"""
    )


def test_connections_and_sessions_of_a_server() -> None:
    node = tree_of(Server)
    assert [(one.gclass, one.name) for one in node.children] == [
        ("GServerSock", "inner"),
        ("Branch", "inner.session_<n>"),
        ("GServerSock", "outer"),
        ("GSock", "outer.clisrv_<n>"),
    ]
    session = node.children[1]
    assert session.notes == ("one for each connection",)
    assert (session.children[-1].gclass, session.children[-1].name) == ("GSock", "inner.clisrv_<n>")


def test_what_the_base_makes_counts_where_it_runs() -> None:
    assert [one.name for one in tree_of(Extended).children if "clisrv" not in one.name] == [
        "timer",
        "inner",
        "inner.session_<n>",
        "outer",
    ]
    assert [one.name for one in tree_of(Replaced).children] == ["timer"]


def test_a_gclass_of_a_function_is_found() -> None:
    class Local(GObj):
        pass

    class Owner(GObj):
        def start_up(self) -> None:
            self.create_gobj("local", Local, self)

    assert [one.gclass for one in tree_of(Owner).children] == ["Local"]


def test_a_gclass_without_source_has_no_children() -> None:
    scope: dict[str, object] = {"GObj": GObj, "__name__": "nowhere"}
    exec(
        "class Typed(GObj):\n    def start_up(self):\n        self.create_gobj('x', GObj, self)\n",
        scope,
    )
    made = scope["Typed"]
    assert isinstance(made, type)
    assert issubclass(made, GObj)
    assert tree_of(made).children == ()


def test_a_gclass_that_was_typed_into_a_notebook_has_children() -> None:
    # A notebook keeps the lines of a cell where Python looks for those of a file.
    cell = (
        "class Typed(GObj):\n    def start_up(self):\n        self.create_gobj('x', GTimer, self)\n"
    )
    linecache.cache["<cell 7>"] = (len(cell), None, cell.splitlines(True), "<cell 7>")
    scope: dict[str, object] = {"GObj": GObj, "GTimer": GTimer, "__name__": "notebook"}
    try:
        exec(compile(cell, "<cell 7>", "exec"), scope)
        made = scope["Typed"]
        assert isinstance(made, type)
        assert issubclass(made, GObj)
        assert [one.gclass for one in tree_of(made).children] == ["GTimer"]
    finally:
        del linecache.cache["<cell 7>"]


def test_a_text_that_is_another_functions_by_now_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "edited.py"
    body = "\n    def start_up(self):\n        self.create_gobj('x', GTimer, self)\n"
    file.write_text(f"class Edited(GObj):{body.replace('start_up', 'other')}")
    scope: dict[str, object] = {"GObj": GObj, "GTimer": GTimer, "__name__": "edited"}
    exec(compile(f"class Edited(GObj):{body}", str(file), "exec"), scope)
    made = scope["Edited"]
    assert isinstance(made, type)
    assert issubclass(made, GObj)
    assert tree_of(made).children == ()


def test_what_the_table_makes_counts_and_what_an_inner_class_makes_does_not() -> None:
    class Owner(GObj):
        def start_up(self) -> None:
            class Inner(GObj):
                def start_up(self) -> None:
                    self.create_gobj("leaf", Leaf, self)

            self.create_gobj("inner", Inner, self)

        machine = {
            "ST_IDLE": [on(EV_PUSH, lambda self, event: self.create_gobj("door", Door, self))],
        }

    assert draw(Owner, "text", view="tree").splitlines() == [
        "Owner",
        "├── inner  Inner",
        "└── door  Door  (made in ST_IDLE)",
    ]


def test_the_other_forms() -> None:
    assert draw(Extended, "md", view="tree").splitlines()[:2] == [
        "- `Extended`",
        "  - `GTimer` `timer`",
    ]
    mermaid = draw(Extended, "mermaid", view="tree")
    assert mermaid.startswith("flowchart TD\n")
    assert '    n1["GTimer<br/>timer"]\n    n0 --> n1\n' in mermaid
    assert "n0 -> n1" in draw(Extended, "dot", view="tree")
