"""docs/draw.md shows what the command prints."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = (Path(__file__).parent.parent.parent / "docs" / "draw.md").read_text()
SHOWN = re.findall(
    r"^```text\n\$ ginsfsm (draw [^\n]*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL
)


@pytest.mark.parametrize(("command", "printed"), SHOWN, ids=[command for command, _ in SHOWN])
def test_what_the_page_shows_is_what_is_printed(command: str, printed: str, tmp_path: Path) -> None:
    source = re.search(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert source is not None
    (tmp_path / "door.py").write_text(source[1])
    done = subprocess.run(
        [sys.executable, "-X", "utf8", "-m", "ginsfsm", *command.split()],
        cwd=tmp_path,
        capture_output=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == printed


def test_the_page_shows_every_view() -> None:
    assert len(SHOWN) == 5
