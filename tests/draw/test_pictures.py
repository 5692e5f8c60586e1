"""The pictures that Graphviz makes: nothing in them overlaps, and what is missing is said."""

from __future__ import annotations

import itertools
import re
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from example_gclasses import EXAMPLE_GCLASSES
from ginsfsm import GObj, on
from ginsfsm.c_sock import GSock
from ginsfsm.c_srv_sock import GServerSock
from ginsfsm.draw import GraphvizError, draw
from ginsfsm.draw.form import View
from ginsfsm.draw.graphviz import find_dot, render
from machines import EV_PUSH, NASTY_EVENT, Door, Nasty, Terminal

SVG = "{http://www.w3.org/2000/svg}"
LETTER = 0.602
"""The width of a letter, in parts of its height: that of DejaVu Sans Mono, the widest in use."""

SMTP = next(one for one in EXAMPLE_GCLASSES if one.__name__ == "Session")

pytestmark = pytest.mark.skipif(find_dot() is None, reason="Graphviz is not on this machine")


@dataclass(frozen=True)
class Area:
    """Where a text stands."""

    text: str
    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Area) -> bool:
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )

    def holds(self, x: float, y: float) -> bool:
        return self.left < x < self.right and self.top < y < self.bottom


def texts(picture: ET.Element) -> list[Area]:
    """The place of each text; a hair smaller, so that two may touch."""
    areas = []
    for one in picture.iter(f"{SVG}text"):
        words = (one.text or "").strip("\xa0")
        size, x, y = (float(one.attrib[name]) for name in ("font-size", "x", "y"))
        width = len(one.text or "") * size * LETTER
        left = x - {"start": 0.0, "middle": width / 2, "end": width}[one.attrib["text-anchor"]]
        areas.append(Area(words, left + 1, y - size * 0.7, left + width - 1, y + size * 0.1))
    return areas


def points_on_arrows(picture: ET.Element) -> Iterator[tuple[float, float]]:
    """Points on the lines of all arrows, close together."""
    for group in picture.iter(f"{SVG}g"):
        if group.get("class") != "edge":
            continue
        for path in group.iter(f"{SVG}path"):
            numbers = [float(one) for one in re.findall(r"-?[\d.]+", path.attrib["d"])]
            points = list(zip(numbers[::2], numbers[1::2], strict=True))
            for at in range(0, len(points) - 3, 3):
                a, b, c, d = points[at : at + 4]
                for step in range(41):
                    t = step / 40
                    u = 1 - t
                    yield (
                        u**3 * a[0] + 3 * u * u * t * b[0] + 3 * u * t * t * c[0] + t**3 * d[0],
                        u**3 * a[1] + 3 * u * u * t * b[1] + 3 * u * t * t * c[1] + t**3 * d[1],
                    )


@pytest.mark.parametrize("view", ["machine", "interface", "tree"])
@pytest.mark.parametrize("gclass", [Door, GSock, GServerSock, Terminal, Nasty, SMTP])
def test_no_text_lies_on_another_one_or_on_an_arrow(gclass: type[GObj], view: View) -> None:
    picture = ET.fromstring(draw(gclass, "svg", view=view))
    areas = texts(picture)
    assert areas
    for one, other in itertools.combinations(areas, 2):
        assert not one.meets(other), f"{one} lies on {other}"
    for x, y in points_on_arrows(picture):
        for one in areas:
            assert not one.holds(x, y), f"an arrow runs through {one}"


@pytest.mark.parametrize("gclass", [Door, GSock, Terminal, SMTP])
def test_no_text_runs_out_of_the_picture(gclass: type[GObj]) -> None:
    picture = ET.fromstring(draw(gclass, "svg"))
    _, _, width, height = map(float, picture.attrib["viewBox"].split())
    # The whole picture is moved by a few points, its margin.
    for one in texts(picture):
        assert one.left > -4
        assert one.right < width - 4
        assert -height + 4 < one.top
        assert one.bottom < 4


def test_the_svg_shows_every_name() -> None:
    picture = ET.fromstring(draw(Nasty, "svg"))
    assert NASTY_EVENT in {one.text for one in texts(picture)}


def test_the_svg_asks_for_fonts_of_one_width_only() -> None:
    families = set(re.findall(r'font-family="([^"]*)"', draw(Door, "svg")))
    assert families == {"DejaVu Sans Mono,Menlo,Consolas,Liberation Mono,monospace"}


def test_the_png_is_a_picture() -> None:
    picture = draw(Door, "png")
    assert picture.startswith(b"\x89PNG\r\n")
    width, height = (int.from_bytes(picture[at : at + 4], "big") for at in (16, 20))
    assert width > 500
    assert height > 500


def test_the_png_of_a_machine_with_states_only() -> None:
    class Empty(GObj):
        pass

    assert draw(Empty, "png").startswith(b"\x89PNG")


def test_what_graphviz_says_stands_in_the_error() -> None:
    with pytest.raises(GraphvizError, match=r"failed \(status 1\): .*syntax error"):
        render("digraph {", "svg")


# Where Graphviz is not


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, the only one that is searched for programs."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sysconfig.get_path", lambda _name: str(tmp_path))
    return tmp_path


def put_program(folder: Path, name: str, source: str) -> None:
    path = folder / name
    path.write_text(f"#!{sys.executable}\n{source}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_without_graphviz_the_error_says_how_to_get_it(scripts: Path) -> None:
    with pytest.raises(GraphvizError) as caught:
        draw(Door, "svg")
    for words in ("apt-get install graphviz", "pip install graphviz-pure", "mermaid"):
        assert words in str(caught.value)


def test_the_forms_that_are_text_need_no_graphviz(scripts: Path) -> None:
    for form in ("mermaid", "dot", "md", "text"):
        assert draw(Door, form)


def test_the_program_of_pypi_is_taken_where_there_is_no_other(scripts: Path) -> None:
    put_program(scripts, "graphviz-pure", "import sys; print('<svg>', sys.argv[1:], '</svg>')")
    assert draw(Door, "svg") == "<svg> ['-Tsvg'] </svg>\n"
    put_program(scripts, "dot", "print('the one of the system')")
    assert draw(Door, "svg") == "the one of the system\n"


def test_a_program_that_cannot_be_run_is_a_clear_error(scripts: Path) -> None:
    (scripts / "dot").write_text("#!/no/such/interpreter\n")
    (scripts / "dot").chmod(0o755)
    with pytest.raises(GraphvizError, match="cannot be run"):
        draw(Door, "svg")


def test_the_svg_of_any_name_is_xml() -> None:
    class Odd(GObj):
        machine = {
            "ST_\x1b\x00\ud800": [on(EV_PUSH, None, "--> ]]> <&\"'")],
            "--> ]]> <&\"'": [on(EV_PUSH, None, "ST_\x1b\x00\ud800")],
        }

    ET.fromstring(draw(Odd, "svg"))
