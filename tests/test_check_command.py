"""`ginsfsm check`, as a shell and pre-commit run it: real files, a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

GOOD = """
    from ginsfsm import Event, GObj, on


    class EV_KNOCK(Event):
        pass


    class Door(GObj):
        machine = {
            "ST_SHUT": [on(EV_KNOCK, None, "ST_OPEN")],
            "ST_OPEN": [on(EV_KNOCK, None, "ST_SHUT")],
        }
"""

TRAP = """
    from ginsfsm import GObj, on
    from .door import EV_KNOCK


    class Trap(GObj):
        machine = {
            "ST_SET": [on(EV_KNOCK, None, "ST_SPRUNG")],
            "ST_SPRUNG": [on(EV_KNOCK, None)],
        }
"""

SPRUNG = "nothing leads out of ST_SPRUNG; add a row, or destroy the gobj there, or tell its owner"

FAULTY = """
    from ginsfsm import GObj, after, on, param
    from app.door import EV_KNOCK


    class One(GObj):
        def __init__(self):
            self.count = 0

        machine = {
            "ST_A": [on(EV_KNOCK, None, "ST_BE")],
            "ST_B": [],
        }


    class Two(GObj):
        class config(GObj.config):
            port: int = param("many", "port to listen on")
            host: str = param("", "")

        def ac_knock(self):
            pass

        machine = {
            "ST_A": [on(EV_KNOCK, ac_knock), after("patience", None)],
        }


    class Three(One):
        pass


    class Four(GObj):
        machine = {"ST_A": [after(0, None)]}
"""

NOISY = r"""raise ValueError("100%\nsure")
class A(object): ...
"""


def write(folder: Path, **files: str) -> None:
    """Make Python files; two underscores in a name are a slash."""
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/', 1)}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip())


def write_app(folder: Path, **files: str) -> None:
    """Make a package `app` of these modules."""
    write(folder, **{f"app__{name}": text for name, text in files.items()})
    (folder / "app" / "__init__.py").write_text("")


def check(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "ginsfsm", "check", *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


class TestPackage:
    def test_a_clean_package(self, tmp_path: Path) -> None:
        write_app(tmp_path, door=GOOD)
        done = check(tmp_path, "app")
        assert (done.returncode, done.stdout) == (0, "")
        assert done.stderr == "ginsfsm: 0 findings; 1 gclass without a fault\n"

    def test_a_smell_in_a_module_of_it(self, tmp_path: Path) -> None:
        write_app(tmp_path, door=GOOD, trap=TRAP)
        done = check(tmp_path, "app")
        assert done.returncode == 1
        assert done.stdout == (f"app/trap.py:8: no-way-out: Trap: {SPRUNG}\n")
        assert done.stderr == "ginsfsm: 1 finding; 2 gclasses without a fault\n"

    def test_every_fault_of_every_class_at_once(self, tmp_path: Path) -> None:
        """A fault ends the import of its module elsewhere; here the classes behind it are seen."""
        write_app(tmp_path, door=GOOD, faulty=FAULTY)
        done = check(tmp_path, "app")
        assert done.returncode == 1
        told = [line.split(": ", 3)[:3] for line in done.stdout.splitlines()]
        assert told == [
            ["app/faulty.py:5", "machine", "One"],
            ["app/faulty.py:6", "machine", "One"],
            ["app/faulty.py:10", "machine", "One"],
            ["app/faulty.py:17", "parameter", "Two"],
            ["app/faulty.py:18", "parameter", "Two"],
            ["app/faulty.py:24", "machine", "Two"],
            ["app/faulty.py:24", "machine", "Two"],
            ["app/faulty.py:33", "never-after", "Four"],
            ["app/faulty.py:33", "no-effect", "Four"],
        ], done.stdout
        assert "did you mean 'ST_B'?" in done.stdout
        assert "port: its default: expected int, got 'many'" in done.stdout
        assert "write start_up(self) instead" in done.stdout

    def test_a_faulty_parameter_is_one_fault_of_its_class(self, tmp_path: Path) -> None:
        source = """
            from ginsfsm import Event, GObj, after, param


            class Door(GObj):
                class config(GObj.config):
                    patience = param(10.0, "seconds")

                machine = {
                    "ST_SHUT": [after("patience", None, "ST_OPEN")],
                    "ST_OPEN": [],
                }


            class Gate(Door):
                machine = {"ST_SHUT": []}
        """
        write_app(tmp_path, door=source)
        done = check(tmp_path, "app")
        assert done.stdout == (
            "app/door.py:6: parameter: Door: patience: no type; write "
            "`patience: float = param(...)`\n"
        )
        assert done.stderr == "ginsfsm: 1 finding; 0 gclasses without a fault\n"

    def test_a_module_that_cannot_be_imported_does_not_hide_the_others(
        self, tmp_path: Path
    ) -> None:
        write_app(
            tmp_path,
            door=GOOD,
            trap=TRAP,
            broken="class A(object):\n    pass\n\nimport nothing_of_this_name\n",
            cut="class A(object:\n",
            leaves="import sys\nclass A(object): ...\nsys.exit(3)\n",
        )
        done = check(tmp_path, "app")
        assert done.returncode == 2
        lines = done.stdout.splitlines()
        assert lines[0] == (
            "app/broken.py:4: import: ModuleNotFoundError: No module named 'nothing_of_this_name'"
        )
        assert lines[1].startswith("app/cut.py:1: import: SyntaxError: ")
        assert lines[2].startswith("app/leaves.py:3: import: it ended the process")
        assert lines[3].startswith("app/trap.py:8: no-way-out: ")
        assert len(lines) == 4

    def test_a_file_that_is_too_much_for_the_parser(self, tmp_path: Path) -> None:
        write_app(tmp_path, door=GOOD, deep=f"class A(object): x = {'-' * 50000}1\n")
        done = check(tmp_path, "app")
        assert done.returncode == 2
        assert done.stdout.startswith("app/deep.py:1: import: ")
        assert done.stderr == "ginsfsm: 1 finding; 1 gclass without a fault\n"

    def test_one_module_and_one_class(self, tmp_path: Path) -> None:
        write_app(tmp_path, door=GOOD, trap=TRAP)
        assert check(tmp_path, "app.door").returncode == 0
        assert check(tmp_path, "app.trap").returncode == 1
        assert check(tmp_path, "app.trap:Trap").returncode == 1
        assert check(tmp_path, "app.door:Door", "app.trap:Trap").returncode == 1

    def test_what_would_run_is_not_imported(self, tmp_path: Path) -> None:
        """A setup script has no class with a base, and a __main__ is the program itself."""
        write_app(
            tmp_path,
            door=GOOD,
            __main__=f"{textwrap.dedent(GOOD)}\nraise RuntimeError('the program runs')\n",
            script="raise RuntimeError('a script runs')\n",
        )
        assert (tmp_path / "app" / "__main__.py").exists()
        assert check(tmp_path, "app").returncode == 0

    def test_a_package_without_a_gclass_is_a_mistake(self, tmp_path: Path) -> None:
        write_app(tmp_path, door="import os\n")
        done = check(tmp_path, "app")
        assert done.returncode == 2
        assert done.stderr == "ginsfsm: there is no gclass in app: is it the right place?\n"

    def test_the_whole_shows_what_is_used(self, tmp_path: Path) -> None:
        write_app(
            tmp_path,
            bell="""
                from ginsfsm import Event, GObj, on, param


                class EV_PUSH(Event):
                    pass


                class EV_RING(Event):
                    pass


                class Bell(GObj):
                    class config(GObj.config):
                        tone: str = param("c", "which tone")

                    outputs = [
                        EV_RING,
                    ]

                    def ac_push(self, event: EV_PUSH) -> None:
                        self.broadcast_event(EV_RING())

                    machine = {"ST_IDLE": [on(EV_PUSH, ac_push)]}
            """,
            house="""
                from ginsfsm import GObj
                from app import bell


                class House(GObj):
                    def start_up(self) -> None:
                        self.bell = self.create_gobj("bell", bell.Bell, self)
            """,
        )
        done = check(tmp_path, "app")
        assert [line.split(": ")[:2] for line in done.stdout.splitlines()] == [
            ["app/bell.py:14", "unread-parameter"],
            ["app/bell.py:17", "unheard-output"],
        ]
        # A single file does not know who else there is.
        assert check(tmp_path, "app/bell.py", "app/house.py").returncode == 0

    def test_an_output_of_a_base_whose_heir_is_made(self, tmp_path: Path) -> None:
        write_app(
            tmp_path,
            bell="""
                from ginsfsm import Event, GObj, on


                class EV_PUSH(Event):
                    pass


                class EV_RING(Event):
                    pass


                class Bell(GObj):
                    outputs = [EV_RING]

                    def ac_push(self, event: EV_PUSH) -> None:
                        self.broadcast_event(EV_RING())

                    machine = {"ST_IDLE": [on(EV_PUSH, ac_push)]}


                class LoudBell(Bell):
                    pass


                class House(GObj):
                    def start_up(self) -> None:
                        self.create_gobj("bell", LoudBell, self)
            """,
        )
        done = check(tmp_path, "app")
        assert done.stdout == (
            "app/bell.py:13: unheard-output: Bell: no gclass has a row for EV_RING, neither House, "
            "which makes a Bell, nor another; add one, or take it out of outputs\n"
        )

    def test_a_package_that_cannot_be_imported_at_all(self, tmp_path: Path) -> None:
        write_app(tmp_path, door=GOOD)
        (tmp_path / "app" / "__init__.py").write_text("import json\n\njson.loads('{')\n")
        done = check(tmp_path, "app")
        assert done.returncode == 2
        assert done.stdout.startswith("app/__init__.py:3: import: json.decoder.JSONDecodeError: ")
        assert len(done.stdout.splitlines()) == 1

    def test_a_class_that_a_module_has_from_another(self, tmp_path: Path) -> None:
        write_app(tmp_path, door=GOOD, trap=TRAP, all="from .trap import Trap\n")
        assert check(tmp_path, "app.all:Trap").returncode == 1

    def test_rows_of_another_file(self, tmp_path: Path) -> None:
        """They are told of where they stand, and silenced there or at the class that has them."""
        rows = "from ginsfsm import after\n\nROWS = [after(0, None, 'ST_B'){}]\n"
        user = """
            from ginsfsm import GObj, on
            from .door import EV_KNOCK
            from .rows import ROWS


            class User(GObj):
                machine = {
                    "ST_A": [*ROWS, on(EV_KNOCK, None, "ST_B")],
                    "ST_B": [on(EV_KNOCK, None, "ST_A")],
                }
        """
        write_app(tmp_path, door=GOOD, rows=rows.format(""), user=user)
        done = check(tmp_path, "app")
        assert done.stdout.startswith("app/rows.py:3: never-after: User: ST_A: after(0) never")
        silenced = user.replace("(GObj):", "(GObj):  # ginsfsm: ignore[never-after]")
        write_app(tmp_path, user=silenced)
        assert check(tmp_path, "app").returncode == 0


class TestFiles:
    def test_a_file_of_a_package_is_a_module_of_it(self, tmp_path: Path) -> None:
        write_app(tmp_path / "src", door=GOOD, trap=TRAP)
        done = check(tmp_path, "src/app/trap.py")
        assert done.returncode == 1
        assert done.stdout.startswith("src/app/trap.py:8: no-way-out: Trap: ")

    def test_one_class_of_a_file(self, tmp_path: Path) -> None:
        write(tmp_path, doors=GOOD)
        assert check(tmp_path, "doors.py:Door").returncode == 0
        done = check(tmp_path, "doors.py:Dor")
        assert done.returncode == 2
        assert "doors.py:Dor is no gclass; did you mean 'Door'?" in done.stderr

    def test_a_class_in_a_class(self, tmp_path: Path) -> None:
        house = """
            from ginsfsm import Event, GObj, on


            class EV_KNOCK(Event):
                pass


            class House:
                class Trap(GObj):
                    machine = {
                        "ST_SET": [on(EV_KNOCK, None, "ST_SPRUNG")],
                        "ST_SPRUNG": [],
                    }
        """
        write(tmp_path, rooms=house)
        for target in ("rooms.py:House.Trap", "rooms:House.Trap"):
            done = check(tmp_path, target)
            assert done.returncode == 1, done.stderr
            assert "no-way-out: House.Trap: " in done.stdout
        done = check(tmp_path, "rooms.py:House.Trop")
        assert done.returncode == 2
        assert done.stderr == (
            "ginsfsm: rooms.py:House.Trop is no gclass; did you mean 'House.Trap'?\n"
        )

    def test_packages_of_one_name_in_several_folders(self, tmp_path: Path) -> None:
        write_app(tmp_path / "one", door=GOOD)
        write_app(tmp_path / "two", gate=GOOD)
        done = check(tmp_path, "one/app/door.py", "two/app/gate.py")
        assert (done.returncode, done.stdout) == (0, "")
        assert "2 gclasses" in done.stderr

    def test_a_folder(self, tmp_path: Path) -> None:
        write_app(tmp_path / "src", door=GOOD, trap=TRAP)
        write(tmp_path, scripts__door=GOOD)
        (tmp_path / "venv").mkdir()
        (tmp_path / "venv" / "pyvenv.cfg").touch()
        broken = "class A(B): pass\n"
        write(tmp_path, venv__bad=broken, build__bad=broken, scripts__=broken)
        assert (tmp_path / "scripts" / ".py").exists()
        done = check(tmp_path, ".")
        assert done.returncode == 1
        assert done.stdout.startswith("src/app/trap.py:8: no-way-out: ")
        assert len(done.stdout.splitlines()) == 1
        assert "3 gclasses" in done.stderr

    def test_files_of_one_name_in_several_folders(self, tmp_path: Path) -> None:
        write(tmp_path, one__select=GOOD, two__select=GOOD, three__door=GOOD, four__door=GOOD)
        done = check(tmp_path, ".")
        assert (done.returncode, done.stdout) == (0, "")
        assert "4 gclasses" in done.stderr

    def test_a_file_with_the_name_of_a_module_without_a_file(self, tmp_path: Path) -> None:
        write(tmp_path, time=GOOD)
        done = check(tmp_path, "time.py")
        assert (done.returncode, done.stdout) == (0, "")
        assert done.stderr == "ginsfsm: 0 findings; 1 gclass without a fault\n"

    def test_from_a_folder_that_is_gone(self, tmp_path: Path) -> None:
        write(tmp_path, faulty=FAULTY.replace("app.door", "door"), door=GOOD)
        gone = tmp_path / "gone"
        gone.mkdir()
        command = [sys.executable, "-m", "ginsfsm", "check", str(tmp_path / "faulty.py")]
        done = subprocess.run(
            ["sh", "-c", 'rmdir "$0" && exec "$@"', str(gone), *command],
            cwd=gone,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert "Traceback" not in done.stderr
        assert done.returncode == 1, done.stderr
        assert f"{tmp_path / 'faulty.py'}:" in done.stdout

    def test_a_file_without_a_gclass_is_fine(self, tmp_path: Path) -> None:
        """pre-commit gives the files that changed, whatever is in them."""
        write(tmp_path, setup="raise SystemExit('usage: setup.py')\n", door=GOOD)
        done = check(tmp_path, "setup.py", "door.py")
        assert done.returncode == 0, done.stderr

    def test_the_same_file_twice_is_reported_once(self, tmp_path: Path) -> None:
        write_app(tmp_path, door=GOOD, trap=TRAP)
        done = check(tmp_path, "app", "app/trap.py", "app.trap:Trap")
        assert len(done.stdout.splitlines()) == 1
        assert "1 finding; 2 gclasses" in done.stderr


class TestMisuse:
    @pytest.mark.parametrize(
        ("target", "sentence"),
        [
            ("nowhere", "No module named 'nowhere', seen from "),
            ("app.nowhere", "No module named 'app.nowhere', seen from "),
            ("nowhere.py", "there is no file 'nowhere.py' (seen from "),
            ("no/where", "there is no file or folder 'no/where' (seen from "),
            ("notes.txt", "'notes.txt' is no Python file: expected a package, "),
            ("a-b", "'a-b' names nothing to check: expected a package, "),
            ("", "'' names nothing to check: expected a package, "),
            ("sys", "the module sys has no file: expected a package, "),
            ("time:X", "the module time has no file: expected a package, "),
        ],
    )
    def test_a_target_that_is_none(self, tmp_path: Path, target: str, sentence: str) -> None:
        write_app(tmp_path, door=GOOD)
        (tmp_path / "notes.txt").touch()
        done = check(tmp_path, target)
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr.startswith(f"ginsfsm: {sentence}"), done.stderr
        assert len(done.stderr.splitlines()) == 1

    def test_a_place_without_a_gclass_is_told_beside_one_with_a_fault(self, tmp_path: Path) -> None:
        write_app(tmp_path, door=GOOD, faulty=FAULTY)
        write(tmp_path, empty__thing="class A(Exception): ...\n")
        done = check(tmp_path, "app", "empty")
        assert done.returncode == 2
        assert done.stderr == (
            "ginsfsm: there is no gclass in empty: is it the right place?\n"
            "ginsfsm: 9 findings; 2 gclasses without a fault\n"
        )
        assert len(done.stdout.splitlines()) == 9

    @pytest.mark.parametrize(
        "order",
        [("app", "nofile.py", "app.door:Dor"), ("nofile.py", "app.door:Dor", "app")],
        ids=["last", "first"],
    )
    def test_the_others_are_checked_all_the_same(
        self, tmp_path: Path, order: tuple[str, ...]
    ) -> None:
        write_app(tmp_path, door=GOOD, trap=TRAP)
        done = check(tmp_path, *order)
        assert done.returncode == 2
        assert done.stdout == f"app/trap.py:8: no-way-out: Trap: {SPRUNG}\n"
        assert done.stderr.splitlines() == [
            f"ginsfsm: there is no file 'nofile.py' (seen from {tmp_path})",
            "ginsfsm: app.door:Dor is no gclass; did you mean 'Door'?",
            "ginsfsm: 1 finding; 2 gclasses without a fault",
        ]

    def test_what_cannot_be_imported_is_told_once_for_two_places(self, tmp_path: Path) -> None:
        write_app(tmp_path, broken=NOISY)
        done = check(tmp_path, "app", "app/broken.py", "app")
        assert "no gclass in" not in done.stderr
        assert done.stdout.count("import: ") == 1

    def test_no_target(self, tmp_path: Path) -> None:
        done = check(tmp_path)
        assert done.returncode == 2
        assert "the following arguments are required: TARGET" in done.stderr

    def test_a_code_that_is_none(self, tmp_path: Path) -> None:
        done = check(tmp_path, "--ignore", "machine", "app")
        assert done.returncode == 2
        assert "invalid choice: 'machine'" in done.stderr


class TestFormats:
    def test_json(self, tmp_path: Path) -> None:
        """What a module prints while it is imported is not mixed with it."""
        write_app(tmp_path, door=GOOD, trap=f"print('hello')\n{textwrap.dedent(TRAP)}")
        done = check(tmp_path, "app", "--format", "json")
        assert done.returncode == 1
        assert json.loads(done.stdout) == {
            "gclasses": 2,
            "findings": [
                {
                    "code": "no-way-out",
                    "severity": "warning",
                    "file": "app/trap.py",
                    "line": 10,
                    "gclass": "Trap",
                    "message": SPRUNG,
                }
            ],
        }
        assert "hello" in done.stderr

    def test_json_of_nothing(self, tmp_path: Path) -> None:
        write_app(tmp_path, door=GOOD)
        done = check(tmp_path, "app", "--format", "json")
        assert done.returncode == 0
        assert json.loads(done.stdout) == {"gclasses": 1, "findings": []}

    def test_github(self, tmp_path: Path) -> None:
        write_app(tmp_path, door=GOOD, trap=TRAP, broken=NOISY)
        done = check(tmp_path, "app", "--format", "github")
        assert done.returncode == 2
        assert done.stdout.splitlines() == [
            "::error file=app/broken.py,line=1,title=ginsfsm import::ValueError: 100%25%0Asure",
            f"::warning file=app/trap.py,line=8,title=ginsfsm no-way-out::Trap: {SPRUNG}",
        ]

    def test_a_target_that_is_none_in_json(self, tmp_path: Path) -> None:
        write_app(tmp_path, trap=TRAP, door=GOOD)
        done = check(tmp_path, "nofile.py", "app", "--format", "json")
        assert done.returncode == 2
        found = json.loads(done.stdout)
        assert found["gclasses"] == 2
        assert [one["code"] for one in found["findings"]] == ["target", "no-way-out"]
        sentence = f"there is no file 'nofile.py' (seen from {tmp_path})"
        assert found["findings"][0] == {
            "code": "target",
            "severity": "error",
            "file": "",
            "line": 0,
            "gclass": "",
            "message": sentence,
        }
        assert done.stderr.startswith(f"ginsfsm: {sentence}\n")

    def test_a_target_that_is_none_in_a_workflow(self, tmp_path: Path) -> None:
        write_app(tmp_path, trap=TRAP, door=GOOD)
        done = check(tmp_path, "no/where", "app", "--format", "github")
        assert done.returncode == 2
        sentence = f"there is no file or folder 'no/where' (seen from {tmp_path})"
        assert done.stdout.splitlines() == [
            f"::error title=ginsfsm target::{sentence}",
            f"::warning file=app/trap.py,line=8,title=ginsfsm no-way-out::Trap: {SPRUNG}",
        ]


class TestSilence:
    def silenced(self, folder: Path, old: str, new: str) -> subprocess.CompletedProcess[str]:
        text = textwrap.dedent(TRAP)
        assert old in text
        write_app(folder, door=GOOD, trap=text.replace(old, new))
        return check(folder, "app")

    def test_at_the_line(self, tmp_path: Path) -> None:
        row = '"ST_SPRUNG": [on(EV_KNOCK, None)],'
        done = self.silenced(
            tmp_path, row, f"{row}  # ginsfsm: ignore[no-way-out]: it has caught somebody"
        )
        assert (done.returncode, done.stdout) == (0, "")

    def test_on_the_line_before(self, tmp_path: Path) -> None:
        row = '"ST_SPRUNG": ['
        comment = "# ginsfsm: ignore[own-state, no-way-out]\n        # and more to say"
        done = self.silenced(tmp_path, row, f"{comment}\n        {row}")
        assert (done.returncode, done.stdout) == (0, "")

    def test_at_the_class(self, tmp_path: Path) -> None:
        head = "class Trap(GObj):"
        done = self.silenced(tmp_path, head, f"{head}  # ginsfsm: ignore[no-way-out]")
        assert (done.returncode, done.stdout) == (0, "")

    def test_another_code_does_not(self, tmp_path: Path) -> None:
        head = "class Trap(GObj):"
        done = self.silenced(tmp_path, head, f"{head}  # ginsfsm: ignore[own-state]")
        assert done.returncode == 1

    def test_nor_the_line_of_another_row(self, tmp_path: Path) -> None:
        row = '"ST_SET": [on(EV_KNOCK, None, "ST_SPRUNG")],'
        done = self.silenced(tmp_path, row, f"{row}  # ginsfsm: ignore[no-way-out]")
        assert done.returncode == 1

    def test_a_text_is_no_comment(self, tmp_path: Path) -> None:
        head = "class Trap(GObj):"
        done = self.silenced(
            tmp_path, head, f'{head}\n    """# ginsfsm: ignore[no-way-out]"""\n    note = 1'
        )
        assert done.returncode == 1

    @pytest.mark.parametrize(
        ("comment", "sentence"),
        [
            ("ignore[no-way-aut]", "there is no smell 'no-way-aut'; did you mean 'no-way-out'?"),
            ("ignore", "say what to ignore, as in `# ginsfsm: ignore[no-way-out]`"),
            ("ignore[]", "say what to ignore, as in `# ginsfsm: ignore[no-way-out]`"),
            ("ignore[machine]", "'machine' is a fault and cannot be ignored"),
        ],
    )
    def test_a_comment_that_silences_nothing(
        self, tmp_path: Path, comment: str, sentence: str
    ) -> None:
        write_app(tmp_path, door=f"{textwrap.dedent(GOOD)}\nx = 1  # ginsfsm: {comment}\n")
        done = check(tmp_path, "app")
        assert done.returncode == 1
        assert done.stdout == f"app/door.py:14: unknown-ignore: {sentence}\n"

    def test_by_the_command_line(self, tmp_path: Path) -> None:
        write_app(tmp_path, door=GOOD, trap=TRAP)
        done = check(tmp_path, "app", "--ignore", "own-state", "--ignore", "no-way-out")
        assert (done.returncode, done.stdout) == (0, "")


class TestStdout:
    def test_what_a_module_prints_is_no_finding(self, tmp_path: Path) -> None:
        loud = "import os, subprocess\nos.write(1, b'raw\\n')\nsubprocess.run(['echo', 'child'])\n"
        write(tmp_path, loud=f"{loud}{textwrap.dedent(GOOD)}")
        done = check(tmp_path, "loud.py", "--format", "json")
        assert json.loads(done.stdout) == {"gclasses": 1, "findings": []}
        assert done.stderr.startswith("raw\nchild\n")

    @pytest.mark.parametrize(
        ("to", "why"),
        [(">/dev/full", "No space left on device"), (">&-", "it is closed")],
        ids=["full", "closed"],
    )
    def test_what_cannot_be_written_is_told(self, tmp_path: Path, to: str, why: str) -> None:
        write(tmp_path, door=GOOD)
        done = subprocess.run(
            ["sh", "-c", f'exec "{sys.executable}" -m ginsfsm check door.py --format json {to}'],
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stderr) == (1, f"ginsfsm: cannot write to stdout: {why}\n")

    def test_a_name_that_stdout_cannot_show(self, tmp_path: Path) -> None:
        write(tmp_path, door=GOOD.replace("Door", "Tür").replace('"ST_SHUT")', '"ST_OPEN")'))
        for form in ("text", "json", "github"):
            done = check(tmp_path, "door.py", "--format", form, PYTHONIOENCODING="ascii")
            assert (done.returncode, "Traceback" in done.stderr) == (1, False)
            assert done.stdout.isascii()
        done = check(tmp_path, "door.py", "--format", "json", PYTHONIOENCODING="ascii")
        assert json.loads(done.stdout)["findings"][0]["gclass"] == "Tür"


def test_our_own_gclasses_and_examples_are_clean() -> None:
    done = check(ROOT, "ginsfsm", "examples")
    assert (done.returncode, done.stdout) == (0, "")
    number = int(done.stderr.partition("; ")[2].partition(" gclasses")[0])
    assert number > 20


class TestPreCommit:
    """The real pre-commit with the hook that this repository ships."""

    def git(self, folder: Path, *arguments: str) -> str:
        identity = ["-c", "user.name=n", "-c", "user.email=n@example.com", "-c", "gc.auto=0"]
        done = subprocess.run(
            ["git", *identity, *arguments],
            cwd=folder,
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.stdout.strip()

    def repository(self, folder: Path) -> None:
        self.git(folder, "init", "--quiet")
        self.git(folder, "add", "--all")
        self.git(folder, "commit", "--quiet", "--message", "all")

    def test_it_finds_what_is_staged(self, tmp_path: Path) -> None:
        pytest.importorskip("pre_commit")
        hooks = tmp_path / "hooks"
        hooks.mkdir()
        (hooks / ".pre-commit-hooks.yaml").write_bytes(
            (ROOT / ".pre-commit-hooks.yaml").read_bytes()
        )
        self.repository(hooks)
        user = tmp_path / "user"
        write_app(user / "src", door=GOOD)
        write(user, setup="raise SystemExit('usage: setup.py')\n")
        script = user / "deploy"
        script.write_text("#!/usr/bin/env python3\nraise SystemExit('usage: deploy')\n")
        script.chmod(0o755)
        # Not "language: python", which would install this library from the package index first.
        (user / ".pre-commit-config.yaml").write_text(
            textwrap.dedent(f"""
                repos:
                  - repo: {hooks}
                    rev: {self.git(hooks, "rev-parse", "HEAD")}
                    hooks:
                      - id: ginsfsm-check
                        language: system
            """)
        )
        self.repository(user)
        programs = tmp_path / "bin"
        programs.mkdir()
        command = programs / "ginsfsm"
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ginsfsm "$@"\n')
        command.chmod(0o755)

        def commit() -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [sys.executable, "-m", "pre_commit", "run", "--color", "never", "--verbose"],
                cwd=user,
                env={
                    **os.environ,
                    "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
                    "PRE_COMMIT_HOME": str(tmp_path / "cache"),
                },
                capture_output=True,
                text=True,
                timeout=120,
            )

        write_app(user / "src", trap=TRAP)
        (user / "setup.py").write_text("raise SystemExit('another usage')\n")
        script.write_text("#!/usr/bin/env python3\nraise SystemExit('another usage')\n")
        self.git(user, "add", "--all")
        done = commit()
        assert done.returncode == 1, done.stdout + done.stderr
        assert "exit code: 1" in done.stdout
        assert "src/app/trap.py:8: no-way-out: Trap: " in done.stdout

        trap = (user / "src" / "app" / "trap.py").read_text()
        (user / "src" / "app" / "trap.py").write_text(
            trap.replace("class Trap(GObj):", "class Trap(GObj):  # ginsfsm: ignore[no-way-out]")
        )
        self.git(user, "add", "--all")
        done = commit()
        assert done.returncode == 0, done.stdout + done.stderr
        assert "0 findings; 1 gclass without a fault" in done.stdout
