"""docs/draw.md shows what the command prints."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ginsfsm.draw.graphviz import find_dot

PAGE = (Path(__file__).parent.parent.parent / "docs" / "draw.md").read_text()
SHOWN = re.findall(
    r"^```text\n\$ ginsfsm (draw [^\n]*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    source = re.search(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert source is not None
    (tmp_path / "door.py").write_text(source[1])
    return tmp_path


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-X", "utf8", "-m", "ginsfsm", *arguments],
        cwd=folder,
        capture_output=True,
        timeout=60,
    )


@pytest.mark.parametrize(("command", "printed"), SHOWN, ids=[command for command, _ in SHOWN])
def test_what_the_page_shows_is_what_is_printed(command: str, printed: str, folder: Path) -> None:
    done = run(folder, *command.split())
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == printed


@pytest.mark.skipif(find_dot() is None, reason="Graphviz is not on this machine")
def test_the_commands_of_the_page_run(folder: Path) -> None:
    [block] = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    commands = [shlex.split(line) for line in block.splitlines()]
    assert len(commands) == 2
    for program, *arguments in commands:
        assert program == "ginsfsm"
        done = run(folder, *arguments)
        assert (done.returncode, done.stderr) == (0, b"")
    assert "<svg" in (folder / "door.svg").read_text()


def test_the_page_shows_every_view() -> None:
    assert len(SHOWN) == 5
