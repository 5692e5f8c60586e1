"""`format(Door, "mermaid")`, and what the class of gclasses changes for everybody else: nothing."""

from __future__ import annotations

import subprocess
import sys
from abc import ABC, abstractmethod
from typing import Any, Protocol, runtime_checkable

import pytest

from ginsfsm import GObj
from ginsfsm.draw import draw
from ginsfsm.draw.graphviz import find_dot
from ginsfsm.testing import ManualGAplic
from machines import Door


@pytest.mark.parametrize("form", ["mermaid", "dot", "md", "text"])
def test_a_gclass_is_formatted_as_its_drawing(form: str) -> None:
    assert format(Door, form) == draw(Door, form)


@pytest.mark.skipif(find_dot() is None, reason="Graphviz is not on this machine")
def test_svg() -> None:
    assert "<svg" in f"{Door:svg}"


def test_without_a_format_it_is_what_it_was() -> None:
    assert f"{Door}" == str(Door) == "<class 'machines.Door'>"


def test_an_unknown_format_is_a_clear_error() -> None:
    with pytest.raises(ValueError, match=r"format\(Door, 'mermiad'\): .*did you mean 'mermaid'"):
        format(Door, "mermiad")


@pytest.mark.parametrize("given", [int, "Door", list[int]], ids=str)
def test_what_is_no_gclass_is_a_clear_error(given: Any) -> None:
    with pytest.raises(ValueError, match="draw: expected a gclass, derived from GObj, got "):
        draw(given, "md")


def test_a_picture_is_no_text() -> None:
    with pytest.raises(ValueError, match=r"ginsfsm\.draw\.draw\(Door, 'png'\)"):
        format(Door, "png")


def test_the_library_is_imported_without_the_drawing() -> None:
    code = "import sys, ginsfsm.c_srv_sock; print(any('draw' in one for one in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n", done.stderr


def test_a_gclass_may_have_an_abstract_class_for_a_base() -> None:
    class Named(ABC):
        @abstractmethod
        def title(self) -> str: ...

    class Titled(GObj, Named):
        def title(self) -> str:
            return "Sir"

    with ManualGAplic() as app:
        made = app.create_gobj("titled", Titled, app)
        assert made.title() == "Sir"
        assert isinstance(made, Named)
        assert isinstance(made, GObj)
    assert not isinstance(object(), GObj)


def test_a_gclass_may_have_a_protocol_for_a_base() -> None:
    @runtime_checkable
    class Named(Protocol):
        def title(self) -> str: ...

    class Titled(GObj, Named):
        def title(self) -> str:
            return "Sir"

    class Lord(Named, GObj):
        def title(self) -> str:
            return "Lord"

    class Other(GObj):
        def title(self) -> str:
            return "Madam"

    with ManualGAplic() as app:
        for gclass in (Titled, Lord, Other):
            made = app.create_gobj(None, gclass, app)
            assert isinstance(made, Named)
            assert isinstance(made, GObj)
            assert isinstance(made, Titled) is (gclass is Titled)
        assert not isinstance(app, Named)
