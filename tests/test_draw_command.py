"""`ginsfsm draw`, as a shell runs it: what it prints, what it writes, its exit status."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from ginsfsm.draw import draw
from ginsfsm.draw.graphviz import find_dot
from machines import Door

TESTS = Path(__file__).parent
DOOR = "machines.py:Door"

needs_graphviz = pytest.mark.skipif(find_dot() is None, reason="Graphviz is not on this machine")


def run_draw(*arguments: object, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "ginsfsm", "draw", *map(str, arguments)],
        cwd=TESTS,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"} | environment,
        capture_output=True,
        timeout=60,
    )


def test_without_options_it_prints_a_picture() -> None:
    done = run_draw(DOOR)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == draw(Door, "text")


def test_a_terminal_without_box_characters_gets_ascii() -> None:
    done = run_draw(DOOR, PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert "+-v ST_LOCKED ---" in done.stdout.decode("ascii")


@pytest.mark.parametrize("form", ["mermaid", "dot", "md"])
def test_what_programs_read_is_utf_8_on_every_terminal(form: str, tmp_path: Path) -> None:
    (tmp_path / "tur.py").write_text(
        "from ginsfsm import GObj, after\n"
        "class Tür(GObj):\n"
        "    machine = {'ST_ZÜ': [after(1, None, 'ST_AUF│')], 'ST_AUF│': []}\n",
        encoding="utf-8",
    )
    done = run_draw(f"{tmp_path / 'tur.py'}:Tür", "--format", form, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "ST_ZÜ" in done.stdout.decode()
    assert done.stdout == run_draw(f"{tmp_path / 'tur.py'}:Tür", "--format", form).stdout


@pytest.mark.parametrize("form", ["mermaid", "dot", "md", "text"])
def test_the_format_is_chosen(form: str) -> None:
    assert run_draw(DOOR, "--format", form).stdout.decode() == draw(Door, form)


@pytest.mark.parametrize(
    ("name", "form"),
    [("a.mmd", "mermaid"), ("a.gv", "dot"), ("a.DOT", "dot"), ("a.md", "md"), ("a.txt", "text")],
)
def test_the_ending_of_the_file_chooses_the_format(name: str, form: str, tmp_path: Path) -> None:
    done = run_draw(DOOR, "-o", tmp_path / name)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert (tmp_path / name).read_text("utf-8") == draw(Door, form)


def test_the_format_wins_over_the_ending(tmp_path: Path) -> None:
    assert run_draw(DOOR, "-o", tmp_path / "a.out", "--format", "md").returncode == 0
    assert (tmp_path / "a.out").read_text() == draw(Door, "md")


@needs_graphviz
def test_pictures(tmp_path: Path) -> None:
    assert run_draw(DOOR, "-o", tmp_path / "a.svg").returncode == 0
    assert "<svg" in (tmp_path / "a.svg").read_text()
    assert run_draw(DOOR, "-o", tmp_path / "a.png").returncode == 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    # Into a pipe as well.
    assert run_draw(DOOR, "--format", "png").stdout.startswith(b"\x89PNG")


@pytest.mark.parametrize("view", ["interface", "tree"])
def test_the_other_views(view: str) -> None:
    done = run_draw("ginsfsm.c_sock:GSock", f"--{view}")
    assert done.returncode == 0
    assert "GSock" in done.stdout.decode()
    assert "ST_CONNECTED" not in done.stdout.decode()


def test_a_class_in_a_class(tmp_path: Path) -> None:
    (tmp_path / "rooms.py").write_text(
        "from ginsfsm import GObj\nclass Room:\n    class Wall(GObj):\n"
        "        class Door(GObj): ...\n"
    )
    for name in ("Room.Wall", "Room.Wall.Door"):
        done = run_draw(f"{tmp_path}/rooms.py:{name}")
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout.decode().startswith(name.rpartition(".")[2])
    said = refused(2, f"{tmp_path}/rooms.py:Room.Wall.Dor")
    assert said.endswith("has no gclass 'Room.Wall.Dor'; did you mean 'Room.Wall.Door'?\n")


def test_a_file_of_a_package_has_its_relative_imports(tmp_path: Path) -> None:
    package = tmp_path / "app" / "doors"
    package.mkdir(parents=True)
    (tmp_path / "app" / "__init__.py").write_text("")
    (package / "__init__.py").write_text("from ..events import EV_KNOCK\n")
    (tmp_path / "app" / "events.py").write_text(
        "from ginsfsm import Event\nclass EV_KNOCK(Event): ...\n"
    )
    (package / "gate.py").write_text(
        "from ginsfsm import GObj, on\nfrom . import EV_KNOCK\n"
        "class Gate(GObj):\n    machine = {'ST_SHUT': [on(EV_KNOCK, None)]}\n"
    )
    done = run_draw(f"{package}/gate.py:Gate")
    assert (done.returncode, done.stderr) == (0, b"")
    assert "EV_KNOCK" in done.stdout.decode()
    # `-P` keeps folders off the path; then a file can only be loaded for itself.
    done = subprocess.run(
        [sys.executable, "-P", "-m", "ginsfsm", "draw", f"{DOOR}"],
        cwd=TESTS,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def test_what_a_module_prints_is_no_part_of_the_drawing(tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text(
        "import os, subprocess, sys\nfrom ginsfsm import GObj\nclass Loud(GObj): pass\n"
        "print('hello')\nos.write(1, b'by its number\\n')\nsubprocess.run(['echo', 'a child'])\n"
        "sys.__stdout__.write('past us\\n')\n"
    )
    done = run_draw(f"{tmp_path}/loud.py:Loud", "--format", "mermaid")
    assert done.stdout.decode() == 'stateDiagram-v2\n    state "ST_IDLE" as s0\n    [*] --> s0\n'
    assert done.stderr == b"hello\nby its number\na child\npast us\n"


def test_a_module_that_goes_to_another_folder_takes_nobody_along(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "walks.py").write_text(
        "import os\nfrom ginsfsm import GObj\nclass Walks(GObj): pass\nos.chdir('there')\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "ginsfsm", "draw", "walks.py:Walks", "-o", "a.md"],
        cwd=tmp_path,
        timeout=60,
    )
    assert done.returncode == 0
    assert (tmp_path / "a.md").exists()


def test_from_a_folder_that_is_gone(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    command = [sys.executable, "-m", "ginsfsm", "draw", "ginsfsm.c_timer:GTimer"]
    done = subprocess.run(
        ["sh", "-c", 'rmdir "$0" && exec "$@"', str(gone), *command],
        cwd=gone,
        capture_output=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_thread_that_is_left_behind_is_told(tmp_path: Path) -> None:
    (tmp_path / "busy.py").write_text(
        "import sys, threading\nfrom ginsfsm import GObj\nclass Busy(GObj): pass\n"
        "threading.Thread(target=sys.stdin.read, name='reads').start()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-m", "ginsfsm", "draw", f"{tmp_path}/busy.py:Busy"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        assert b"waiting for the end of a thread" in process.stderr.readline()
        process.stdin.close()
        assert process.wait(30) == 0


def test_ctrl_c_ends_it_quietly(tmp_path: Path) -> None:
    (tmp_path / "stopped.py").write_text("raise KeyboardInterrupt\n")
    assert refused(130, f"{tmp_path}/stopped.py:Door") == ""


def refused(status: int, *arguments: object, **environment: str) -> str:
    """What it says when it cannot: one line, and no traceback."""
    done = run_draw(*arguments, **environment)
    assert (done.returncode, done.stdout) == (status, b"")
    said = done.stderr.decode()
    assert "Traceback" not in said
    return said


def test_a_target_that_is_none() -> None:
    assert "did you mean 'Door'?" in refused(2, "machines.py:Doo")
    assert "names no class" in refused(2, "machines.py")


def test_a_syntax_error_is_shown_without_a_frame_of_ours(tmp_path: Path) -> None:
    (tmp_path / "cut.py").write_text("from ginsfsm import GObj\nclass A(GObj:\n")
    said = refused(2, f"{tmp_path}/cut.py:A").splitlines()
    assert said[0].startswith(f"ginsfsm: cannot import {tmp_path}/cut.py: SyntaxError: ")
    assert said[1] == f'  File "{tmp_path}/cut.py", line 2'
    assert said[2].strip() == "class A(GObj:"
    assert [line for line in said if ".py" in line] == said[:2]


def test_an_unknown_format_or_ending(tmp_path: Path) -> None:
    assert "invalid choice: 'jpeg'" in refused(2, DOOR, "--format", "jpeg")
    assert "its ending says no format" in refused(2, DOOR, "-o", tmp_path / "a.jpg")
    assert not (tmp_path / "a.jpg").exists()


def test_two_views_at_once() -> None:
    assert "not allowed with" in refused(2, DOOR, "--tree", "--interface")


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    said = refused(1, DOOR, "-o", tmp_path / "no" / "a.md")
    assert said == f"ginsfsm: cannot write {tmp_path}/no/a.md: No such file or directory\n"


@pytest.mark.parametrize("form", ["text", "png"])
def test_stdout_that_is_closed(form: str) -> None:
    if form == "png" and find_dot() is None:
        pytest.skip("Graphviz is not on this machine")
    done = subprocess.run(
        ["sh", "-c", f'exec "{sys.executable}" -m ginsfsm draw {DOOR} --format {form} >&-'],
        cwd=TESTS,
        stderr=subprocess.PIPE,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr == b"ginsfsm: cannot write to stdout: it is closed\n"


def test_where_graphviz_is_missing_it_says_how_to_get_it(tmp_path: Path) -> None:
    # Its own folder of scripts is searched as well: a Python that has another one.
    (tmp_path / "sitecustomize.py").write_text(
        "import sysconfig\nsysconfig.get_path = lambda name: '/nowhere'\n"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    said = refused(1, DOOR, "-o", tmp_path / "a.svg", PATH=str(tmp_path), PYTHONPATH=path)
    assert "apt-get install graphviz" in said
    assert not (tmp_path / "a.svg").exists()


@needs_graphviz
def test_a_png_is_not_printed_on_a_terminal() -> None:
    leader, terminal = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "ginsfsm", "draw", DOOR, "--format", "png"],
            cwd=TESTS,
            stdout=terminal,
            stderr=subprocess.PIPE,
            timeout=60,
        )
    finally:
        os.close(leader)
        os.close(terminal)
    assert done.returncode == 2
    assert b"give a file" in done.stderr


def test_a_reader_that_goes_away_ends_it_quietly() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "ginsfsm", "draw", DOOR],
            cwd=TESTS,
            stdout=writer,
            stderr=subprocess.PIPE,
            timeout=60,
        )
    finally:
        os.close(writer)
    assert done.returncode == 1
    assert done.stderr == b"ginsfsm: cannot write to stdout: Broken pipe\n"
