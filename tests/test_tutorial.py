"""The tutorial, followed word by word: its files are written, its commands run. So are those of the
page of commands, of the pages on operation and of the README.

What a `console` block shows below a command is what the command has to say, `...` stands for
anything. In a conversation (nc, openssl) it is what is typed and what comes back.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from ginsfsm.cli import main
from ginsfsm.draw.graphviz import find_dot
from programs import BlockingProgram

ROOT = Path(__file__).parent.parent

PAGE = (ROOT / "docs" / "tutorial.md").read_text()

COMMANDS = (ROOT / "docs" / "reference" / "commands.md").read_text()

BLOCK = re.compile(r"^```(python|console|sh|text|toml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

NOT_RUN = {
    # The environment of this run is what they make.
    "python3 -m venv ~/notes/.venv",
    ". ~/notes/.venv/bin/activate",
    "pip install . pytest",
    "cd ~/notes",
}

PLUGIN = any(one.name == "ginsfsm" for one in entry_points(group="pytest11"))
"""Whether what is installed in this environment brings the plugin; else it is named."""

TYPED = {"Ada", "Bob", "buy milk", "list", "quit"}


class Reader:
    """Somebody who does what the page says, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server: BlockingProgram | None = None
        self.address = ""
        self.done: list[str] = []
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "COLUMNS": "80",
            "PYTEST_ADDOPTS": "" if PLUGIN else "-p ginsfsm.testing.plugin",
        }

    def follow(self, kind: str, text: str) -> None:
        first = text.partition("\n")[0]
        if kind == "python":
            name = re.fullmatch(r"# (\w+\.py)(, at its end)?", first)
            assert name, first
            with (self.folder / name[1]).open("a" if name[2] else "w") as file:
                file.write("\n\n" + text if name[2] else text)
        elif kind == "text":
            self.insert(text)
        elif kind == "sh":
            for line in text.splitlines():
                self.done.append(line)
                if line not in NOT_RUN:
                    self.says(line, None)
        else:
            self.console(first.removeprefix("$ "), text.partition("\n")[2])

    def insert(self, text: str) -> None:
        """A line that takes the place of one, or stands behind the test that it is for."""
        if "ST_LEAVING" in text:
            path, place, new = "notes.py", '        "ST_LEAVING": [\n', text
        else:
            place = "        app.record.sent(EV_DROP, to=gsock)\n"
            path, new = "test_notes.py", place + text
        file = self.folder / path
        assert file.read_text().count(place) == 1
        file.write_text(file.read_text().replace(place, new))

    def console(self, command: str, shown: str) -> None:
        self.done.append(command)
        program = command.split()[0]
        if program in ("nc", "openssl"):
            self.talk(command, shown)
        elif command.startswith("ginsfsm run"):
            self.serve(command, shown)
        else:
            self.says(command, shown)

    def says(self, command: str, shown: str | None) -> None:
        """Run a command to its end; it prints exactly this."""
        words = self.words(command)
        done = subprocess.run(
            words, cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=100, check=False,
        )  # fmt: skip
        if shown is None:
            assert done.returncode == 0, done.stdout
        else:
            pattern = re.escape(shown.strip()).replace(r"in\ \.\.\.", r"in\ [\d.]+s")
            assert re.fullmatch(pattern, done.stdout.strip()), done.stdout

    def serve(self, command: str, shown: str) -> None:
        if self.server is not None:
            self.server.__exit__()
        # Any free port, whoever listens where the page says.
        free = re.sub(r" --set board\.port=\d+", "", command) + " --set board.port=0"
        words = self.words(free)
        self.server = BlockingProgram(*words, folder=self.folder, environment=self.environment)
        pattern = re.escape(shown.strip().rpartition(":")[0]) + r":(\d+)"
        self.address = self.server.says(pattern)[1].decode()

    def talk(self, command: str, shown: str) -> None:
        port = self.address
        words = re.sub(r"127\.0\.0\.1([: ])\d+", rf"127.0.0.1\g<1>{port}", command).split()
        with BlockingProgram(*words, folder=self.folder) as client:
            for line in shown.splitlines():
                if line in TYPED:
                    client.type(f"{line}\n")
                else:
                    client.says(f"^{re.escape(line)}\\s*$")

    def words(self, command: str) -> list[str]:
        words = command.split()
        return [sys.executable, "-m", *words] if words[0] in ("ginsfsm", "pytest") else words


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    one = Reader(tmp_path)
    yield one
    if one.server is not None:
        one.server.__exit__()


@pytest.mark.peer
def test_what_the_tutorial_says_is_so(reader: Reader) -> None:
    for block in BLOCK.finditer(PAGE):
        reader.follow(block[1], block[2])
    assert {line.split()[0] for line in reader.done} >= {"ginsfsm", "nc", "openssl", "pytest"}
    # With the line that it says is missing, every row has fired.
    reader.says("pytest -q --fsm-cov=notes --fsm-cov-fail-under=100", None)


@pytest.mark.parametrize(
    ("page", "count"),
    [
        ("docs/reference/commands", 8),
        ("docs/operation", 1),
        ("docs/workers", 1),
        ("docs/metrics", 1),
        ("README", 1),
    ],
)
def test_the_commands_of_a_page_run(page: str, count: int, reader: Reader) -> None:
    (reader.folder / "echo.py").write_text((ROOT / "examples" / "echo.py").read_text())
    (settings,) = [one[2] for one in BLOCK.finditer(COMMANDS) if one[1] == "toml"]
    (reader.folder / "echo.toml").write_text(settings.replace("port = 7001", "port = 0"))
    text = (ROOT / f"{page}.md").read_text()
    blocks = [one[2] for one in BLOCK.finditer(text) if one[1] == "sh"]
    commands = [line for one in blocks for line in one.splitlines() if line.startswith("ginsfsm ")]
    assert len(commands) == count
    for command in commands:
        if command.startswith("ginsfsm run "):
            command = re.sub(r":9100\b", ":0", f"{command} --set echo.port=0")
            words = reader.words(command)
            with BlockingProgram(
                *words, folder=reader.folder, environment=reader.environment
            ) as server:
                server.says(r"\d workers serve" if "--workers" in words else "app/echo starts")
                server.process.send_signal(signal.SIGINT)
                assert server.ends() == 0, server
        elif command.endswith(".svg") and find_dot() is None:
            continue
        else:
            reader.says(command, None)
    if any(one.endswith(".svg") for one in commands) and find_dot() is not None:
        assert (reader.folder / "echo.svg").read_text().count("ST_IDLE")


@pytest.mark.parametrize("command", ["run", "draw", "check"])
def test_every_option_stands_on_the_page_of_commands(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """On that page, or on the one of the command that it names."""
    assert main([command, "--help"]) == 0
    options = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", capsys.readouterr().out))
    options -= {"-h", "--help"}
    section = COMMANDS.partition(f"## ginsfsm {command}\n")[2].partition("\n## ")[0]
    further = ROOT / "docs" / f"{command}.md"
    shown = section + (further.read_text() if further.exists() else "")
    missing = {one for one in options if not re.search(rf"`[^`\n]*{one}\b", shown)}
    assert options
    assert not missing
