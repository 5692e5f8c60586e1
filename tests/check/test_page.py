"""docs/check.md: its commands print what it shows, and its tables are complete."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ginsfsm.check.finding import FAULTS, SMELLS

PAGE = (Path(__file__).parents[2] / "docs" / "check.md").read_text()

WHOLE = re.MULTILINE | re.DOTALL
SHOWN = re.findall(r"^```sh\n(.*?)^```\n\n```(?:text|json)\n(.*?)^```$", PAGE, WHOLE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    [block] = re.findall(r"^```python\n(.*?)^```$", PAGE, WHOLE)
    (tmp_path / "caller.py").write_text(block)
    return tmp_path


def test_there_are_commands() -> None:
    assert len(SHOWN) == PAGE.count("```sh\n") == 3


@pytest.mark.parametrize(("command", "output"), SHOWN, ids=range(len(SHOWN)))
def test_a_command_prints_what_is_shown(folder: Path, command: str, output: str) -> None:
    program, *arguments = shlex.split(command)
    assert program == "ginsfsm"
    done = subprocess.run(
        [sys.executable, "-m", "ginsfsm", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1, done.stderr
    assert done.stdout == output


@pytest.mark.parametrize(
    ("heading", "declared"), [("Faults", FAULTS), ("Smells", SMELLS)], ids=["faults", "smells"]
)
def test_a_table_has_every_code(heading: str, declared: dict[str, str]) -> None:
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([a-z-]+)` \| (.*) \|$", section, re.MULTILINE)
    assert rows == list(declared.items())
