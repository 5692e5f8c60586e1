"""The README and docs/: every Python block runs, the blocks of a page one after the other."""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ginsfsm import GAplic
from ginsfsm.draw import draw

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *(page for page in sorted((ROOT / "docs").glob("**/*.md")) if "_build" not in page.parts),
]

BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)

FILE = re.compile(r"# (\w+\.py)\b")
"""The first line of a block that is to be saved as a file; test_tutorial.py does that."""


@pytest.fixture
def logging_as_before() -> Iterator[None]:
    """A page may show how the log is set up."""
    logger = logging.getLogger("ginsfsm")
    handlers, level = logger.handlers[:], logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)


@pytest.mark.usefixtures("logging_as_before")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_blocks_of_a_page_run(
    page: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    # Where a page makes a folder, it is not for the machine to keep.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    text = page.read_text()
    # Not "__main__": the blocks that end with it would serve until a signal.
    scope: dict[str, object] = {"__name__": "a_page"}
    for block in BLOCK.finditer(text):
        if page.name == "tutorial.md":
            assert FILE.match(block[1])
            compile(block[1], str(page), "exec")
            continue
        # As many empty lines before it as the page has, so that a traceback names the page's line.
        lines_before = text[: block.start(1)].count("\n")
        exec(compile("\n" * lines_before + block.group(1), str(page), "exec"), scope)
    for gaplic in [one for one in scope.values() if isinstance(one, GAplic)]:
        gaplic.destroy_gobj(gaplic)
    capsys.readouterr()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_of_python_is_one_that_runs(page: Path) -> None:
    """None is missed because it is indented, or named in another way."""
    text = page.read_text()
    fences = re.findall(
        r"^[ \t>]*(?:`{3,}|~{3,})[ {]*(?:code(?:-block)?}? *)?py",
        text,
        re.MULTILINE | re.IGNORECASE,
    )
    assert len(fences) == len(BLOCK.findall(text))
    assert not re.search(r"^\s*\.\. code(-block)?::", text, re.MULTILINE)


def test_the_readme_shows_the_example_that_is_shipped() -> None:
    """The echo server of the README is examples/echo.py, but for the docstring of the file."""
    blocks = [block.group(1) for block in BLOCK.finditer((ROOT / "README.md").read_text())]
    example = (ROOT / "examples" / "echo.py").read_text()
    assert example.partition("\n\n")[2] == blocks[0]
    # A newcomer reads it in one look.
    assert len(blocks[0].splitlines()) <= 25


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_links_between_the_pages_lead_somewhere(page: Path) -> None:
    """On GitHub as well, where the README is read; what Sphinx makes of them it checks itself."""
    for target, anchor in re.findall(r"\]\(([^)#:\s]*)(?:#([^)]*))?\)", page.read_text()):
        found = page.parent / target if target else page
        assert found.exists(), f"{page.name} links to {target}"
        if anchor and found.suffix == ".md":
            assert anchor in anchors_of(found), f"{page.name} links to {target}#{anchor}"


def anchors_of(page: Path) -> set[str]:
    """The anchors that GitHub, and myst_heading_anchors, make of the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("heading", ["GServerSock", "Where a server listens"])
def test_the_parameters_of_the_page_are_those_of_the_class(heading: str) -> None:
    """The tables of GServerSock in docs/sockets.md agree with the declaration."""
    from ginsfsm.c_srv_sock import GServerSock

    page = (ROOT / "docs" / "sockets.md").read_text()
    declared = {name: default for name, _, default, _ in GServerSock.config.table()}
    section = page.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| `([^`]+)` \|", section, re.MULTILINE)
    assert len(rows) >= 6
    for name, default in rows:
        assert repr(declared[name]) == default, name


def test_the_page_says_of_each_parameter_of_a_server_when_a_change_acts() -> None:
    """Each once, in the table of docs/connections.md; and what can never change says so there."""
    from ginsfsm.c_srv_sock import GServerSock
    from ginsfsm.srv.base import FIXED

    page = (ROOT / "docs" / "connections.md").read_text()
    section = page.partition("## Who may come in\n")[2].partition("\n\n`EV_ALARM`")[0]
    told: dict[str, str] = {}
    for row in re.findall(r"^\| (`.*) \|$", section, re.MULTILINE):
        cells = row.split(" | ")
        for name in re.findall(r"`(\w+)`", cells[0]):
            assert name not in told, f"{name} stands there twice"
            told[name] = cells[-1]
    writable = {name for name, one in GServerSock.config._params.items() if not one.read_only}
    assert set(told) == writable
    assert {name for name, when in told.items() if when.startswith("never")} == FIXED


def test_the_page_says_why_a_connection_may_be_turned_away() -> None:
    from ginsfsm.c_srv_sock import Refusal

    page = (ROOT / "docs" / "connections.md").read_text()
    table = page.partition("| reason | why the connection was turned away |\n")[2].partition(
        "\n\n"
    )[0]
    assert set(re.findall(r'^\| `"(\w+)"` \|', table, re.MULTILINE)) == set(Refusal)


@pytest.mark.parametrize(
    ("page", "head"), [("docs/how-it-works.md", "## Figures"), ("README.md", "## What it costs")]
)
def test_the_figures_of_the_page_are_those_that_were_measured(page: str, head: str) -> None:
    """What a page says stands in benchmarks/README.md as well."""
    measured = (ROOT / "benchmarks" / "README.md").read_text()
    section = (ROOT / page).read_text().partition(head)[2].partition("\n## ")[0]
    rows = re.findall(r"^\|.*\d.*\|$|^The first row.*$", section, re.MULTILINE)
    figures = re.findall(r"\d+\.\d+", " ".join(rows))
    assert len(figures) > 12
    for figure in figures:
        assert re.search(rf"(?<!\d)(?<!\d\.){re.escape(figure)}(?!\d)", measured), figure


def test_the_comparisons_have_the_figures_that_were_measured() -> None:
    measured = (ROOT / "benchmarks" / "README.md").read_text().partition("\n## Measured\n")[2]
    rows = {
        cells[0]: cells[1:]
        for cells in (
            [cell.strip() for cell in line.strip("|").split("|")]
            for line in measured.partition("\n## ")[0].splitlines()
            if line.startswith("|")
        )
    }
    ratio = rows["50 × 1 KiB"][1].partition(" ")[0]
    tls = rows["20 × 1 KiB"][4].partition(" ")[0]
    page = " ".join((ROOT / "docs" / "comparisons.md").read_text().split())
    twisted, tornado = (rows[f"50 × 1 KiB, to {one}"][1] for one in ("Twisted", "Tornado"))
    event = rows["`send_event`, typed, to a bare call"][0]
    transitions = rows["the same, to `transitions`"][1]
    ours, of_uvloop, _, of_asyncio = rows["3 000 idle"][:4]
    large = rows["10 × 64 KiB"][4].partition(" ")[0]
    assert f": {ratio} times the CPU time of a raw uvloop `Protocol`, {twisted} of Tw" in page
    assert f", {tornado} of Tornado's." in page
    assert f"takes {event}, {transitions} of what `transitions` takes." in page
    assert f"costs what it costs in uvloop ({tls}), one of 64 KiB more ({large})." in page
    assert f"takes {ours}, where uvloop takes {of_uvloop} and asyncio {of_asyncio}." in page
    # "A hand-written uvloop `Protocol` is up to a fifth faster", and TLS costs the same.
    assert round(1 - 1 / float(ratio), 1) == 0.2
    assert round(float(tls), 1) == 1.0


def test_the_picture_on_the_first_page_is_of_the_machine_above_it() -> None:
    page = (ROOT / "docs" / "index.md").read_text()
    scope: dict[str, Any] = {"__name__": "a_page"}
    exec(BLOCK.findall(page)[0], scope)
    assert f"```text\n{draw(scope['Greeter'], 'text').rstrip()}\n```" in page


def test_the_picture_of_the_readme_is_of_the_machine_of_the_tutorial() -> None:
    tutorial = (ROOT / "docs" / "tutorial.md").read_text()
    scope: dict[str, Any] = {"__name__": "a_page"}
    exec(BLOCK.findall(tutorial)[0], scope)
    picture = draw(scope["Visitor"], "mermaid").rstrip()
    assert f"```mermaid\n{picture}\n```" in (ROOT / "README.md").read_text()
