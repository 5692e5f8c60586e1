"""The README and docs/: every Python block runs, the blocks of a page one after the other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ginsfsm import GAplic

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("**/*.md"))]

BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_blocks_of_a_page_run(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = page.read_text()
    # Not "__main__": the blocks that end with it would serve until a signal.
    scope: dict[str, object] = {"__name__": "a_page"}
    for block in BLOCK.finditer(text):
        # As many empty lines before it as the page has, so that a traceback names the page's line.
        lines_before = text[: block.start(1)].count("\n")
        exec(compile("\n" * lines_before + block.group(1), str(page), "exec"), scope)
    for gaplic in [one for one in scope.values() if isinstance(one, GAplic)]:
        gaplic.destroy_gobj(gaplic)
    capsys.readouterr()


def test_the_readme_shows_the_example_that_is_shipped() -> None:
    """The echo server of the README is examples/echo.py, but for the docstring of the file."""
    blocks = [block.group(1) for block in BLOCK.finditer((ROOT / "README.md").read_text())]
    example = (ROOT / "examples" / "echo.py").read_text()
    assert blocks[0] in example
    assert len(example) - len(blocks[0]) < 200


def test_the_links_between_the_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


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
