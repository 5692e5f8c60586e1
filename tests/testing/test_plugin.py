"""The pytest plugin: whole test runs, in a folder of their own, in one process and in several."""

import importlib
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import ginsfsm
from ginsfsm.draw.graphviz import find_dot

PACKAGE = {
    "door/__init__.py": "",
    "door/events.py": """
from ginsfsm import Event

class EV_COIN(Event):
    pass

class EV_PUSH(Event):
    pass
""",
    "door/lock.py": """
from ginsfsm import GObj, after, enter, on
from door.events import EV_COIN, EV_PUSH

class Lock(GObj):
    def opened(self) -> None:
        print("opened")

    machine = {
        "ST_LOCKED": [
            on(EV_COIN, None, "ST_UNLOCKED"),
            on(EV_PUSH, None),
        ],
        "ST_UNLOCKED": [
            enter(opened),
            on(EV_PUSH, None, "ST_LOCKED"),
            after(10, None, "ST_LOCKED"),
        ],
    }
""",
    "door/bell.py": """
from ginsfsm import GObj, on
from door.events import EV_PUSH

class Bell(GObj):
    machine = {"ST_IDLE": [on(EV_PUSH, None)]}
""",
    "test_lock.py": """
import pytest
from door.events import EV_COIN, EV_PUSH
from door.lock import Lock
from ginsfsm.testing import ManualGAplic

@pytest.fixture
def app():
    with ManualGAplic() as app:
        yield app

def test_coin(app):
    lock = app.create_gobj("lock", Lock, app)
    app.send_event(lock, EV_COIN())
    assert lock.state == "ST_UNLOCKED"

def test_push(app):
    lock = app.create_gobj("lock", Lock, app)
    app.send_event(lock, EV_PUSH())
    assert lock.state == "ST_LOCKED"
""",
    "test_rest.py": """
from door.bell import Bell
from door.events import EV_COIN, EV_PUSH
from door.lock import Lock
from ginsfsm.testing import ManualGAplic

def test_time():
    with ManualGAplic() as app:
        lock = app.create_gobj("lock", Lock, app)
        app.send_event(lock, EV_COIN())
        app.advance(10)
        assert lock.state == "ST_LOCKED"

def test_walking_through():
    with ManualGAplic() as app:
        lock = app.create_gobj("lock", Lock, app)
        app.send_event(lock, EV_COIN())
        app.send_event(lock, EV_PUSH())
        assert lock.state == "ST_LOCKED"

def test_bell():
    with ManualGAplic() as app:
        app.send_event(app.create_gobj("bell", Bell, app), EV_PUSH())
""",
}
"""A package and its tests; `test_lock.py` alone reaches three of the five rows of the lock."""

LINE_OF_PUSH = 16
LINE_OF_AFTER = 17


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in PACKAGE.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    (tmp_path / "pytest.ini").write_text("[pytest]\npythonpath = .\n")
    return tmp_path


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """`pytest` with nothing installed but our plugin and pytest-xdist."""
    environment = {
        name: value
        for name, value in os.environ.items()
        # What the run around this one tells its own processes.
        if not name.startswith(("PYTEST", "GINSFSM"))
    }
    here = Path(ginsfsm.__file__).parent.parent
    environment["PYTHONPATH"] = os.pathsep.join([str(here), environment.get("PYTHONPATH", "")])
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    # One that dies cannot clear away.
    environment["TMPDIR"] = str(folder)
    plugins = ("-p", "ginsfsm.testing.plugin", "-p", "xdist.plugin", "-p", "xdist.looponfail")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *plugins, *options],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )


def report(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The lines of our section."""
    lines = done.stdout.splitlines()
    (begin,) = [number for number, line in enumerate(lines) if "= transition coverage =" in line]
    found = []
    for line in lines[begin + 1 :]:
        if line.startswith("=") or "passed" in line or "failed" in line:
            break
        found.append(line)
    return found


PARTIAL = [
    "door.bell:Bell: 0 of 1 rows fired, 0 %",
    "  door/bell.py:6: ST_IDLE: on(EV_PUSH, None)",
    "door.lock:Lock: 3 of 5 rows fired, 60 %",
    f"  door/lock.py:{LINE_OF_PUSH}: ST_UNLOCKED: on(EV_PUSH, None, 'ST_LOCKED')",
    f"  door/lock.py:{LINE_OF_AFTER}: ST_UNLOCKED: after(10, None, 'ST_LOCKED')",
    "all: 3 of 6 rows fired, 50 %",
]
"""What `test_lock.py` alone gives; nothing there has imported `door.bell`."""


PROCESSES = pytest.mark.parametrize("processes", [(), ("-n", "2")], ids=["one process", "xdist"])


@PROCESSES
def test_rows_that_never_fired_are_listed_with_file_and_line(
    folder: Path, processes: tuple[str, ...]
) -> None:
    done = run(folder, "--fsm-cov=door", "test_lock.py", *processes)
    assert done.returncode == 0, done.stdout + done.stderr
    assert report(done) == PARTIAL


@PROCESSES
def test_what_every_process_saw_makes_the_whole(folder: Path, processes: tuple[str, ...]) -> None:
    done = run(
        folder, "--fsm-cov=door", "--fsm-cov-fail-under=100", "--fsm-cov-report=json:out/rows.json",
        "--fsm-cov-report=text", *processes,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert report(done) == [
        "json written to out/rows.json",
        "door.bell:Bell: 1 of 1 rows fired, 100 %",
        "door.lock:Lock: 5 of 5 rows fired, 100 %",
        "all: 6 of 6 rows fired, 100 %",
    ]
    found = json.loads((folder / "out" / "rows.json").read_text())
    assert (found["version"], found["rows"], found["fired"], found["percent"]) == (1, 6, 6, 100.0)
    bell, lock = found["gclasses"]
    assert bell["gclass"] == "door.bell:Bell"
    assert (lock["rows"], lock["fired"], lock["percent"]) == (5, 5, 100.0)
    assert lock["table"][0] == {
        "state": "ST_LOCKED",
        "row": "on(EV_COIN, None, 'ST_UNLOCKED')",
        "file": "door/lock.py",
        "line": 11,
        "fired": True,
    }


@PROCESSES
def test_too_few_rows_fail_the_run(folder: Path, processes: tuple[str, ...]) -> None:
    done = run(
        folder, "--fsm-cov=door.lock", "--fsm-cov-fail-under=60.1", "test_lock.py", *processes
    )
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    assert "2 passed" in done.stdout
    assert report(done)[-1] == (
        "FAILED 60 % of the rows fired, less than --fsm-cov-fail-under=60.1"
    )


def test_enough_rows_do_not(folder: Path) -> None:
    done = run(folder, "--fsm-cov=door.lock:Lock", "--fsm-cov-fail-under=60", "test_lock.py")
    assert done.returncode == 0, done.stdout
    assert report(done)[0] == "door.lock:Lock: 3 of 5 rows fired, 60 %"


def test_a_misspelt_target_fails_where_a_figure_was_asked_for(folder: Path) -> None:
    options = ("--fsm-cov=door.lock", "--fsm-cov=door.lok", "test_lock.py")
    done = run(folder, *options, "--fsm-cov-fail-under=10")
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert "FAILED --fsm-cov=door.lok: no gclass that has a row is called so" in report(done)
    done = run(folder, *options)
    assert done.returncode == 0
    assert any("door.lok cannot be imported" in line for line in report(done))


@pytest.mark.parametrize("target", ["door/lock.py", "./door/lock.py:Lock"])
def test_a_file_as_the_other_commands_take_it(folder: Path, target: str) -> None:
    done = run(folder, f"--fsm-cov={target}", "test_lock.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert report(done) == PARTIAL[2:5]


@PROCESSES
def test_a_file_that_the_tests_import_by_another_name(
    folder: Path, processes: tuple[str, ...]
) -> None:
    # No package: the file alone would be imported as "lock".
    (folder / "door" / "__init__.py").unlink()
    done = run(
        folder, "--fsm-cov=door/lock.py", "--fsm-cov-fail-under=60", "test_lock.py", *processes
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert report(done) == PARTIAL[2:5]


def test_a_file_that_no_test_imports_and_one_that_has_no_such_class(folder: Path) -> None:
    done = run(folder, "--fsm-cov=door/bell.py", "--fsm-cov=door/lock.py:Look", "test_lock.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert report(done) == [
        *PARTIAL[:2],
        "--fsm-cov=door/lock.py:Look: no gclass that has a row is called so",
    ]


def test_a_file_that_cannot_be_imported(folder: Path) -> None:
    (folder / "broken.py").write_text("import there_is_no_such_module\n")
    done = run(folder, "--fsm-cov=broken.py", "--fsm-cov-fail-under=1", "test_lock.py")
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert any(
        line.startswith("FAILED broken.py cannot be imported, so its rows are not counted: ")
        for line in report(done)
    )


@pytest.mark.parametrize("target", ["door.events", "door.lock:Look"])
def test_where_there_are_no_rows_nothing_is_said_of_percent(folder: Path, target: str) -> None:
    options = (f"--fsm-cov={target}", "test_lock.py")
    done = run(folder, *options, "--fsm-cov-report=text", "--fsm-cov-report=json:cov.json")
    assert done.returncode == 0, done.stdout
    missing = f"--fsm-cov={target}: no gclass that has a row is called so"
    assert report(done) == ["no rows", "json written to cov.json", missing]
    found = json.loads((folder / "cov.json").read_text())
    assert found == {"version": 1, "rows": 0, "fired": 0, "percent": None, "gclasses": []}
    done = run(folder, *options, "--fsm-cov-fail-under=0")
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert report(done) == ["no rows", f"FAILED {missing}"]


def test_a_module_that_cannot_be_imported_is_told(folder: Path) -> None:
    (folder / "door" / "broken.py").write_text("import there_is_no_such_module\n")
    (folder / "door" / "__main__.py").write_text("raise SystemExit('it was run')\n")
    done = run(folder, "--fsm-cov=door", "test_lock.py")
    assert done.returncode == 0
    why = "ModuleNotFoundError: No module named 'there_is_no_such_module'"
    assert report(done) == [
        *PARTIAL,
        f"door.broken cannot be imported, so its rows are not counted: {why}",
    ]
    # Whoever asks for a figure is not told one that leaves rows out.
    done = run(folder, "--fsm-cov=door", "--fsm-cov-fail-under=1", "test_lock.py")
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert report(done)[-1].startswith("FAILED door.broken cannot be imported")


def test_drawn_with_the_rows_that_never_fired_dashed(folder: Path) -> None:
    if find_dot() is None:
        pytest.skip("Graphviz is not installed on this machine")
    done = run(
        folder, "--fsm-cov=door", "--fsm-cov-report=mermaid:drawn", "--fsm-cov-report=svg:drawn",
        "test_lock.py",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert report(done) == ["mermaid written to drawn", "svg written to drawn"]
    names = sorted(path.name for path in (folder / "drawn").iterdir())
    assert names == [
        "door.bell.Bell.mmd", "door.bell.Bell.svg", "door.lock.Lock.mmd", "door.lock.Lock.svg",
    ]  # fmt: skip
    picture = (folder / "drawn" / "door.lock.Lock.svg").read_text()
    assert "stroke-dasharray" in picture
    assert "never fired" in (folder / "drawn" / "door.lock.Lock.mmd").read_text()
    whole = run(folder, "--fsm-cov=door", "--fsm-cov-report=svg:whole")
    assert whole.returncode == 0, whole.stdout
    assert "stroke-dasharray" not in (folder / "whole" / "door.lock.Lock.svg").read_text()


def test_a_table_that_takes_rows_of_another_is_drawn_with_all_of_them(folder: Path) -> None:
    """Those rows are marked as the gclass that wrote them has them; where nobody counts, not."""
    with (folder / "door" / "lock.py").open("a") as file:
        file.write(
            """
class Double(Lock):
    machine = {
        "ST_LOCKED": [*Lock.machine["ST_LOCKED"]],
        "ST_UNLOCKED": [*Lock.machine["ST_UNLOCKED"], on(EV_COIN, None)],
    }
"""
        )
    drawn = ["--fsm-cov-report=mermaid:drawn", "test_lock.py"]
    done = run(folder, "--fsm-cov=door.lock", *drawn)
    assert report(done) == ["mermaid written to drawn"]
    picture = folder / "drawn" / "door.lock.Double.mmd"
    assert [line.strip() for line in picture.read_text().splitlines()[4:]] == [
        "s0 : EV_PUSH",
        "s1 : enter / opened",
        "s1 : EV_COIN (never fired)",
        "s0 --> s1 : EV_COIN",
        "s1 --> s0 : EV_PUSH (never fired)<br/>after 10 s (never fired)",
    ]
    done = run(folder, "--fsm-cov=door.lock:Double", *drawn)
    assert report(done) == ["mermaid written to drawn"]
    assert [line.strip() for line in picture.read_text().splitlines() if "never" in line] == [
        "s1 : EV_COIN (never fired)"
    ]


def test_a_report_that_cannot_be_written_fails_the_run(folder: Path) -> None:
    (folder / "taken").write_text("a file")
    done = run(folder, "--fsm-cov=door", "--fsm-cov-report=json:taken/rows.json", "test_lock.py")
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    (line,) = report(done)
    assert line.startswith("FAILED --fsm-cov-report=json:taken/rows.json: ")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--fsm-cov=door", "--fsm-cov-report=html:x"], "--fsm-cov-report=html:x: expected text, "),
        (["--fsm-cov=door", "--fsm-cov-report=json"], "--fsm-cov-report=json: expected text, "),
        (["--fsm-cov-fail-under=100"], "need --fsm-cov=TARGET"),
        (["--fsm-cov="], "--fsm-cov=: expected a package, a module or module:Class"),
        (["--fsm-cov=door/lok.py"], "--fsm-cov=door/lok.py: there is no file "),
        (["--fsm-cov=lok.py:Lock"], "--fsm-cov=lok.py:Lock: there is no file "),
        (["--fsm-cov=door/"], "--fsm-cov=door/: expected a package, a module or module:Class"),
        (["--fsm-cov=door:a:b"], "--fsm-cov=door:a:b: expected a package, a module or "),
        (["--fsm-cov=door", "--fsm-cov-fail-under=nan"], "expected a number from 0 to 100"),
        (["--fsm-cov=door", "--fsm-cov-fail-under=1000"], "expected a number from 0 to 100"),
    ],
    ids=[
        "unknown",
        "no file",
        "no target",
        "empty",
        "no file there",
        "no such file",
        "a folder",
        "two classes",
        "nan",
        "1000",
    ],
)
def test_options_that_do_not_fit(folder: Path, options: list[str], words: str) -> None:
    done = run(folder, *options)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_failed_tests_stay_what_they_are_and_collecting_alone_reports_nothing(
    folder: Path,
) -> None:
    (folder / "test_lock.py").write_text("def test_wrong():\n    assert not 1\n")
    done = run(folder, "--fsm-cov=door.lock", "--fsm-cov-fail-under=100", "test_lock.py")
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert report(done)[0] == "door.lock:Lock: 0 of 5 rows fired, 0 %"
    done = run(folder, "--fsm-cov=door.lock", "--fsm-cov-fail-under=100", "--collect-only")
    assert done.returncode == 0
    assert "transition coverage" not in done.stdout


def test_a_process_that_dies_is_told(folder: Path) -> None:
    (folder / "test_lock.py").write_text("import os\n\ndef test_dies():\n    os._exit(3)\n")
    done = run(folder, "--fsm-cov=door.lock", "-n", "1", "--max-worker-restart=0", "test_lock.py")
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    assert "1 process ended without telling what they saw" in report(done)


def test_ginsfsm_run_in_a_test_is_counted(folder: Path) -> None:
    (folder / "test_lock.py").write_text(
        """
import subprocess
import sys

def test_run():
    command = [sys.executable, "-m", "ginsfsm", "run", "visitor.py:Visitor"]
    assert subprocess.run(command, timeout=60).returncode == 0
"""
    )
    (folder / "visitor.py").write_text(
        """
from ginsfsm import GObj, after
from door.events import EV_COIN
from door.lock import Lock

class Visitor(GObj):
    def start_up(self):
        self.lock = self.create_gobj("lock", Lock, self)

    def go(self):
        self.send_event(self.lock, EV_COIN())
        self.gaplic.stop()

    machine = {"ST_IDLE": [after(0.001, go)]}
"""
    )
    done = run(folder, "--fsm-cov=door.lock", "test_lock.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert report(done)[0] == "door.lock:Lock: 2 of 5 rows fired, 40 %"


def test_without_the_option_nothing_is_recorded(folder: Path) -> None:
    (folder / "test_lock.py").write_text(
        """
import sys
from ginsfsm import smachine

def test_plain():
    assert smachine.witness is None
    assert "ginsfsm.testing.coverage" not in sys.modules
"""
    )
    done = run(folder, "test_lock.py")
    assert done.returncode == 0, done.stdout
    assert "transition coverage" not in done.stdout


# -- tracebacks ------------------------------------------------------------------------------------

BROKEN_DOOR = """
from ginsfsm import Event, GObj, GObjError, on
from ginsfsm.testing import ManualGAplic

class EV_ASK(Event):
    pass

class EV_HEARD(Event):
    pass

class EV_NOBODY(Event):
    pass

class Below(GObj):
    outputs = [EV_HEARD]

    def asks(self, event):
        self.broadcast_event(EV_HEARD())
        return True

    machine = {"ST_A": [on(EV_ASK, None, when=asks), on(EV_HEARD, None)]}

class Above(GObj):
    def ac_heard(self, event):
        self.fail()

    machine = {"ST_A": [on(EV_HEARD, ac_heard)]}

class Raises(Above):
    def fail(self):
        raise ValueError("mine")

class Misuses(Above):
    def fail(self):
        self.send_event(self, EV_NOBODY())

class Harms(Above):
    def fail(self):
        self.gaplic.post(None, EV_NOBODY())

def ask(gclass):
    with ManualGAplic() as app:
        above = app.create_gobj("above", gclass, app)
        below = app.create_gobj("below", Below, above)
        app.send_event(below, EV_ASK())
        app.record.sent(EV_NOBODY)
"""


def frames(folder: Path, statement: str, *options: str) -> list[str]:
    """The functions in the traceback of a test that fails, from pytest's short form."""
    test = f"\ndef test_it():\n    {statement}\n"
    (folder / "test_it.py").write_text(BROKEN_DOOR + test)
    done = run(folder, "--tb=short", "test_it.py", *options)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    return re.findall(r"^\S+\.py:\d+: in (\w+)$", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("gclass", ["Raises", "Misuses"])
def test_a_failure_shows_the_frames_of_the_user(folder: Path, gclass: str) -> None:
    expected = ["test_it", "ask", "asks", "ac_heard", "fail"]
    assert frames(folder, f"ask({gclass})") == expected


def test_one_that_it_does_not_mean_shows_where_it_arose(folder: Path) -> None:
    found = frames(folder, "ask(Harms)")
    assert found[-2:] == ["fail", "post"]
    assert "_publish" in found


@pytest.mark.parametrize("options", [(), ("-p", "no:ginsfsm-frames")], ids=["plain", "blocked"])
def test_an_assertion_of_the_record_is_no_traceback(folder: Path, options: tuple[str, ...]) -> None:
    # Below has EV_HEARD itself, and nobody fails.
    assert frames(folder, "ask(Below)", *options) == ["test_it", "ask"]


def test_a_contained_failure_shows_where_it_came_from(folder: Path) -> None:
    statement = (
        "app = ManualGAplic(); gobj = app.create_gobj('x', Raises, app); "
        "app.post_event(gobj, EV_HEARD()); app.turn(); app.check_failures()"
    )
    assert frames(folder, statement) == ["ac_heard", "fail", "test_it"]


@pytest.mark.parametrize(
    "options", [["--full-trace"], ["-p", "no:ginsfsm-frames"]], ids=["full trace", "blocked"]
)
def test_the_frames_of_the_library_when_one_wants_them(folder: Path, options: list[str]) -> None:
    (folder / "test_it.py").write_text(f"{BROKEN_DOOR}\ndef test_it():\n    ask(Raises)\n")
    done = run(folder, "test_it.py", *options)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    assert re.search(r"ginsfsm/gobj\.py:\d+: ", done.stdout)


def test_pytest_finds_the_plugin_where_ginsfsm_is_installed() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    [plugin] = project["entry-points"]["pytest11"].values()
    assert callable(importlib.import_module(plugin).pytest_addoption)


def test_the_page_shows_what_really_comes() -> None:
    page = (Path(__file__).parents[2] / "docs" / "coverage.md").read_text()
    assert "\n".join(PARTIAL) in page
