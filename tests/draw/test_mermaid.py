"""What is written for Mermaid is read by Mermaid's own parser.

Its script comes with the package `mermaidx`, and an engine to run it without a browser too. Of that
package nothing else is used: to parse, nothing needs to be laid out.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from example_gclasses import EXAMPLE_GCLASSES
from ginsfsm import GObj
from ginsfsm.c_sock import GSock
from ginsfsm.c_srv_sock import GServerSock
from ginsfsm.c_timer import GTimer
from ginsfsm.draw import VIEWS, draw
from ginsfsm.draw.form import View
from machines import Door, Nasty, Terminal

quickjs = pytest.importorskip("quickjs")

ALL = [Door, GTimer, GSock, GServerSock, Terminal, Nasty, *EXAMPLE_GCLASSES]

KINDS = {"machine": "stateDiagram", "interface": "flowchart-v2", "tree": "flowchart-v2"}

Parse = Callable[[str], str]


@pytest.fixture(scope="module")
def parse() -> Parse:
    """What Mermaid says of a text: the kind of diagram, or what is wrong."""
    package = importlib.util.find_spec("mermaidx")
    if package is None or package.origin is None:
        pytest.skip("mermaidx is not installed")
    assets = Path(package.origin).parent / "assets"
    engine: Any = quickjs.Context()
    # Its parser calls itself.
    engine.set_max_stack_size(4 << 20)
    engine.eval("var __log = () => {};")
    # What it looks for in a browser before it reads a text, then Mermaid.
    for name in ("dom_shim.js", "mermaid.js"):
        engine.eval((assets / name).read_text(encoding="utf-8"))
    engine.eval("var mermaid = globalThis.mermaid ?? __esbuild_esm_mermaid_nm.mermaid.default;")

    def ask(text: str) -> str:
        engine.set("given", text)
        engine.eval(
            "var told = 'nothing'; mermaid.parse(given).then("
            "one => { told = one.diagramType }, error => { told = String(error) });"
        )
        while engine.execute_pending_job():
            pass
        # A long text is put together only when it is read.
        return str(engine.eval("told.slice(0)"))

    return ask


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("gclass", ALL)
def test_it_is_read(parse: Parse, gclass: type[GObj], view: View) -> None:
    assert parse(draw(gclass, "mermaid", view=view)) == KINDS[view]


@pytest.mark.parametrize("gclass", [Door, GSock, Nasty])
def test_it_is_read_with_what_never_fired(parse: Parse, gclass: type[GObj]) -> None:
    assert parse(draw(gclass, "mermaid", fired=())) == KINDS["machine"]


def test_what_is_broken_is_not_read(parse: Parse) -> None:
    """Or the tests above could not fail."""
    text = draw(Door, "mermaid")
    assert "Parse error on line" in parse(text.replace('" as s0', " as s0"))
    assert "Parse error on line" in parse(text.replace("s0 --> s1", "s0 --> "))
    text = draw(Door, "mermaid", view="tree")
    assert "Parse error on line" in parse(text.replace('"]', "]"))
