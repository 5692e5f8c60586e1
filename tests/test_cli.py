"""The command, as a shell runs it: a process of its own, its exit status and what it prints."""

import os
import pty
import queue
import select
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import certificates

DEADLINE = 30.0

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the command is stopped by signals")

# Says what happens to it on stdout, which is the program's own.
ECHO = """
    from ginsfsm import GObj, param


    class Echo(GObj):
        class config(GObj.config):
            host: str = param("127.0.0.1", "address to listen on")
            port: int = param(7000, "port to listen on", ge=0, le=65535)

        def start_up(self):
            print(f"{self.path} {self.config.host}:{self.config.port}", flush=True)

        def go_out(self):
            print("gone", flush=True)
"""

SECURE = """
    from ginsfsm import GObj, on
    from ginsfsm.c_sock import EV_CONNECTED, EV_DISCONNECTED, EV_RX_DATA, EV_SEND_DATA
    from ginsfsm.c_srv_sock import GServerSock


    class Secure(GObj):
        def start_up(self):
            self.server = self.create_gobj(
                "server", GServerSock, self, host="127.0.0.1",
                ssl_options={"certfile": "server.pem"})
            self.create_gobj("plain", GServerSock, self, host="127.0.0.1")
            print("port", self.server.config.port, flush=True)

        def ac_echo(self, event: EV_RX_DATA):
            self.send_event(event.source, EV_SEND_DATA(event.data))

        def ac_gone(self, event: EV_DISCONNECTED):
            self.destroy_gobj(event.source)

        machine = {
            "ST_IDLE": [
                on(EV_CONNECTED, None),
                on(EV_RX_DATA, ac_echo),
                on(EV_DISCONNECTED, ac_gone),
            ],
        }
"""

RUNNING = """
    from ginsfsm import GObj, after


    class Running(GObj):
        def ac_say(self):
            print("running", flush=True)

        machine = {"ST_IDLE": [after(0.01, ac_say, "ST_RUNNING")], "ST_RUNNING": []}
"""

BRIEF = """
    from ginsfsm import GObj, after


    class Brief(GObj):
        def ac_stop(self):
            self.gaplic.stop()

        machine = {"ST_IDLE": [after(0.01, ac_stop)]}
"""


def command(*arguments: str) -> list[str]:
    # What a process leaves open it tells at its end; `finished` looks for that.
    return [sys.executable, "-W", "always::ResourceWarning", "-m", "ginsfsm", *arguments]


class Ended:
    """A command that has ended."""

    def __init__(self, status: int, out: str, err: str) -> None:
        assert "ResourceWarning" not in err, err
        self.status = status
        self.out = out
        self.err = err


class Running:
    """A command that runs; its lines are read as they come, each wait has a deadline."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: dict[str, list[str]] = {"out": [], "err": []}
        self._arrived: queue.Queue[tuple[str, str | None]] = queue.Queue()
        self._threads = []
        for name, stream in (("out", process.stdout), ("err", process.stderr)):
            assert stream is not None
            thread = threading.Thread(target=self._read, args=(name, stream), daemon=True)
            thread.start()
            self._threads.append(thread)

    def _read(self, name: str, stream: Iterator[str]) -> None:
        for line in stream:
            self._arrived.put((name, line.rstrip("\n")))
        self._arrived.put((name, None))

    def wait_for(self, text: str, where: str = "err") -> str:
        """The first line of that stream that holds the text."""
        deadline = time.monotonic() + DEADLINE
        while True:
            for line in self.lines[where]:
                if text in line:
                    return line
            try:
                name, arrived = self._arrived.get(timeout=deadline - time.monotonic())
            except (queue.Empty, ValueError):
                pytest.fail(f"no {text!r} on std{where} within {DEADLINE} s: {self.lines}")
            if arrived is not None:
                self.lines[name].append(arrived)
            elif name == where:
                pytest.fail(f"std{where} ended without {text!r}: {self.lines}")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> Ended:
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> Ended:
        status = self.process.wait(DEADLINE)
        for thread in self._threads:
            thread.join(DEADLINE)
        while not self._arrived.empty():
            name, arrived = self._arrived.get()
            if arrived is not None:
                self.lines[name].append(arrived)
        return Ended(status, "\n".join(self.lines["out"]), "\n".join(self.lines["err"]))


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Path]:
    """Writes a file into the folder that the commands run in."""

    def _write(name: str, text: str) -> Path:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text), encoding="utf-8")
        return file

    return _write


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    with ExitStack() as stack:

        def _start(*arguments: str) -> Running:
            process = subprocess.Popen(
                command(*arguments),
                cwd=tmp_path,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(process)
            # Called first: a process that a failed test left running would be waited for.
            stack.callback(process.kill)
            return Running(process)

        yield _start


@pytest.fixture
def finished(tmp_path: Path) -> Callable[..., Ended]:
    """Runs a command that is expected to end by itself."""

    def _finished(*arguments: str) -> Ended:
        done = subprocess.run(
            command(*arguments),
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    return _finished


Write = Callable[[str, str], Path]
Start = Callable[..., Running]
Finished = Callable[..., Ended]


class TestRun:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_until_a_signal(self, number: signal.Signals, write: Write, start: Start) -> None:
        write("echo.py", ECHO)
        running = start("run", "echo.py:Echo")
        line = running.wait_for("app/echo starts")
        # Time, level and message.
        assert line[:4].isdigit()
        assert line.endswith(" INFO app/echo starts (echo.py:Echo); Ctrl-C or SIGTERM stops it")
        ended = running.stop(number)
        assert ended.status == 0, ended.err
        assert ended.out.splitlines() == ["app/echo 127.0.0.1:7000", "gone"]
        assert ended.err.splitlines()[-1].endswith(" INFO app/echo has stopped")
        assert "Traceback" not in ended.err

    def test_until_stop(self, write: Write, finished: Finished) -> None:
        write("brief.py", BRIEF)
        ended = finished("run", "brief.py:Brief")
        assert ended.status == 0, ended.err
        assert ended.err.splitlines()[-1].endswith(" INFO app/brief has stopped")

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_during_start_up(
        self, number: signal.Signals, write: Write, start: Start
    ) -> None:
        write(
            "slow.py",
            """
            import threading

            from ginsfsm import GObj


            class Slow(GObj):
                def start_up(self):
                    print("starting", flush=True)
                    # Not one long wait: a signal that comes just before it would not end it.
                    for _ in range(6000):
                        threading.Event().wait(0.01)

                def go_out(self):
                    print("gone", flush=True)
            """,
        )
        running = start("run", "slow.py:Slow")
        running.wait_for("starting", "out")
        ended = running.stop(number)
        assert ended.status == 0, ended.err
        assert ended.out.splitlines() == ["starting", "gone"]
        assert "Traceback" not in ended.err

    def test_sighup_reads_the_certificates_again(
        self, write: Write, start: Start, tmp_path: Path
    ) -> None:
        """New clients see the new one; whoever is connected stays connected."""
        write("secure.py", SECURE)
        chain = tmp_path / "server.pem"
        shutil.copy(certificates.server(), chain)
        running = start("run", "secure.py:Secure")
        port = int(running.wait_for("port ", "out").split()[1])
        context = ssl.create_default_context(cafile=certificates.ca())

        def connect() -> ssl.SSLSocket:
            sock = socket.create_connection(("127.0.0.1", port), DEADLINE)
            return context.wrap_socket(sock, server_hostname="localhost")

        def serial() -> str:
            with connect() as client:
                certificate = client.getpeercert()
                assert certificate is not None
                return str(certificate["serialNumber"])

        running.wait_for("starts")
        with connect() as old:
            first = serial()
            shutil.copy(certificates.renewed(), chain)
            running.process.send_signal(signal.SIGHUP)
            running.wait_for("app/secure/server: TLS reloaded")
            second = serial()
            assert second != first
            # What is bad is told, and changes nothing.
            chain.write_text("no certificate")
            running.process.send_signal(signal.SIGHUP)
            line = running.wait_for("not reloaded")
            assert " ERROR " in line
            assert serial() == second
            old.sendall(b"hello")
            assert old.recv(100) == b"hello"
        ended = running.stop()
        assert ended.status == 0, ended.err
        assert "Traceback" not in ended.err
        # The plain server has nothing to reload.
        assert ended.err.count("reloaded") == 2
        assert ended.err.count("SIGHUP: reloading TLS of 1 server") == 2

    def test_sighup_without_a_server(self, write: Write, start: Start) -> None:
        write("running.py", RUNNING)
        running = start("run", "running.py:Running")
        running.wait_for("running", "out")
        running.process.send_signal(signal.SIGHUP)
        running.wait_for("SIGHUP")
        ended = running.stop()
        assert ended.status == 0, ended.err

    def test_closing_the_terminal_ends_it(self, tmp_path: Path) -> None:
        """The system says so with SIGHUP, which otherwise reads the certificates again."""
        (tmp_path / "quiet.py").write_text(
            "from ginsfsm import GObj\n\n\nclass Quiet(GObj):\n    pass\n"
        )
        pid, terminal = pty.fork()
        if pid == 0:
            command = [sys.executable, "-m", "ginsfsm", "run", f"{tmp_path}/quiet.py:Quiet"]
            os.execv(sys.executable, command)
        try:
            said = b""
            while b"starts" not in said:
                assert select.select([terminal], [], [], 20)[0]
                said += os.read(terminal, 1000)
        finally:
            os.close(terminal)
        deadline = time.monotonic() + 20
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                pytest.fail("it lives on without its terminal")
            time.sleep(0.01)

    def test_sighup_during_start_up_does_not_end_it(
        self, write: Write, start: Start, tmp_path: Path
    ) -> None:
        """Who renews certificates does not know that the program is just starting."""
        write(
            "slow.py",
            """
            import os, time
            from ginsfsm import GObj


            class Slow(GObj):
                def start_up(self):
                    print("starting", flush=True)
                    while not os.path.exists("go on"):
                        time.sleep(0.01)
            """,
        )
        running = start("run", "slow.py:Slow")
        running.wait_for("starting", "out")
        running.process.send_signal(signal.SIGHUP)
        write("go on", "")
        running.wait_for("starts")
        ended = running.stop()
        assert ended.status == 0, ended.err

    def test_module(self, write: Write, start: Start) -> None:
        write("gateway/__init__.py", "")
        write("gateway/echo.py", ECHO)
        running = start("run", "gateway.echo:Echo")
        running.wait_for("app/echo starts (gateway.echo:Echo)")
        assert running.stop().status == 0

    def test_module_by_the_installed_script(self, write: Write, tmp_path: Path) -> None:
        # It has its own folder first on the path and not the current one, unlike "python -m".
        write("brief.py", BRIEF)
        script = write("bin/ginsfsm", "import ginsfsm.cli, sys\nsys.exit(ginsfsm.cli.main())\n")
        done = subprocess.run(
            [sys.executable, str(script), "run", "brief:Brief"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
        )
        assert done.returncode == 0, done.stderr

    def test_file_elsewhere_finds_its_neighbours(self, write: Write, start: Start) -> None:
        write("servers/near.py", 'WHO = "a neighbour"')
        write(
            "servers/far.py",
            """
            import sys
            from pathlib import Path

            import near
            from ginsfsm import GObj


            class Far(GObj):
                def start_up(self):
                    module = sys.modules[type(self).__module__]
                    same = module.Far is Far and __name__ == "far"
                    first = sys.path[0] == str(Path(__file__).parent)
                    print(near.WHO, same, first, flush=True)
            """,
        )
        running = start("run", os.path.join("servers", "far.py") + ":Far")
        running.wait_for("a neighbour True True", "out")
        assert running.stop().status == 0

    def test_file_with_the_name_of_a_module_of_python(self, write: Write, start: Start) -> None:
        # It would be taken for that module if it were loaded under its own name.
        write("servers/json.py", ECHO + "\n\n    print(__name__, flush=True)\n")
        running = start("run", os.path.join("servers", "json.py") + ":Echo")
        running.wait_for("ginsfsm_target_json", "out")
        running.wait_for("app/echo starts")
        assert running.stop().status == 0

    def test_file_of_a_package(self, write: Write, start: Start) -> None:
        """Its relative imports work from everywhere, and it is one module with what they name."""
        write("servers/app/__init__.py", "")
        write("servers/app/greeting.py", "from app import echo\n\nWHO = 'a neighbour'\n")
        write(
            "servers/app/echo.py",
            "from . import greeting\n"
            + textwrap.dedent(ECHO)
            + "\n\n    print(greeting.WHO, __name__, greeting.echo.__name__, flush=True)\n",
        )
        running = start("run", os.path.join("servers", "app", "echo.py") + ":Echo")
        running.wait_for("a neighbour app.echo app.echo", "out")
        running.wait_for("app/echo starts")
        assert running.stop().status == 0

    def test_class_in_a_class(self, write: Write, start: Start) -> None:
        write("echo.py", f"{textwrap.dedent(ECHO)}\n\nclass House:\n    Door = Echo\n")
        running = start("run", "echo.py:House.Door")
        running.wait_for("app/echo starts (echo.py:House.Door)")
        assert running.stop().status == 0

    def test_log_level(self, write: Write, start: Start) -> None:
        write("echo.py", ECHO)
        running = start("run", "echo.py:Echo", "--log-level", "warning")
        running.wait_for("app/echo 127", "out")
        ended = running.stop()
        assert (ended.status, ended.err) == (0, "")


class TestSettings:
    def test_name(self, write: Write, start: Start) -> None:
        write("echo.py", ECHO)
        running = start("run", "echo.py:Echo", "--name", "tea.room", "--set", "tea.room.port=7001")
        running.wait_for("app/tea.room 127.0.0.1:7001", "out")
        assert running.stop().status == 0

    def test_command_line_wins_over_the_file(self, write: Write, start: Start) -> None:
        write("echo.py", ECHO)
        write("echo.toml", "[echo]\nhost = '127.0.0.2'\nport = 7001\n")
        running = start(
            *("run", "echo.py:Echo", "--settings", "echo.toml"),
            *("--set", "echo.port=7002", "--set", "echo.port=7003"),
        )
        running.wait_for("app/echo 127.0.0.2:7003", "out")
        assert running.stop().status == 0

    @pytest.mark.parametrize(
        "wrong", ["echo.port", "echo=7001", ".port=7001", "echo.=7001", "echo.a port=7001", ""]
    )
    def test_bad_syntax(self, wrong: str, write: Write, finished: Finished) -> None:
        write("echo.py", ECHO)
        ended = finished("run", "echo.py:Echo", f"--set={wrong}")
        assert ended.status == 2
        assert ended.err.splitlines()[-1] == (
            f"ginsfsm run: error: argument --set: {wrong!r}: "
            "expected NAME.PARAM=VALUE, as in --set echo.port=7001"
        )

    def test_value_may_hold_anything(self, write: Write, start: Start) -> None:
        write("echo.py", ECHO)
        running = start("run", "echo.py:Echo", "--set", "echo.host=a=b.c")
        running.wait_for("app/echo a=b.c:7000", "out")
        assert running.stop().status == 0

    @pytest.mark.parametrize("value", ["echo.port=70000", "echo.port=many", "echo.prot=7001"])
    def test_value_that_does_not_fit(self, value: str, write: Write, finished: Finished) -> None:
        write("echo.py", ECHO)
        ended = finished("run", "echo.py:Echo", "--set", value)
        assert ended.status == 1
        assert ended.out == ""
        assert ended.err.startswith("ginsfsm: echo.py:Echo cannot start: ")
        assert "port" in ended.err
        assert "Traceback" not in ended.err

    def test_file_that_is_not_there(self, write: Write, finished: Finished) -> None:
        write("echo.py", ECHO)
        ended = finished("run", "echo.py:Echo", "--settings", "nowhere.toml")
        assert ended.status == 2
        assert ended.err.startswith("ginsfsm: settings file 'nowhere.toml' cannot be read: ")

    def test_file_that_is_no_toml(self, write: Write, finished: Finished) -> None:
        write("echo.py", ECHO)
        write("echo.toml", "[echo\n")
        ended = finished("run", "echo.py:Echo", "--settings", "echo.toml")
        assert ended.status == 2
        assert ended.err.startswith("ginsfsm: settings file 'echo.toml' is not valid TOML: ")


class TestCommandLine:
    def test_version(self, finished: Finished) -> None:
        ended = finished("--version")
        assert ended.status == 0
        assert ended.out.startswith("ginsfsm ")

    def test_help(self, finished: Finished) -> None:
        ended = finished("run", "--help")
        assert ended.status == 0
        assert "package.module:Class or file.py:Class" in " ".join(ended.out.split())

    def test_no_command(self, finished: Finished) -> None:
        ended = finished()
        assert ended.status == 2
        assert ended.err.startswith("usage: ginsfsm ")

    @pytest.mark.parametrize(
        "target", ["echo.py", "Echo", "echo.py:", ":Echo", "echo.py:Echo()", "echo.py:A."]
    )
    def test_target_without_a_class(self, target: str, finished: Finished) -> None:
        ended = finished("run", target)
        assert ended.status == 2
        assert ended.err.splitlines()[-1] == (
            f"ginsfsm run: error: argument TARGET: {target!r} names no class: "
            "expected package.module:Class or file.py:Class"
        )

    @pytest.mark.parametrize("target", ["./echo:Echo", ".echo:Echo", "my-echo:Echo"])
    def test_target_that_is_neither_module_nor_file(self, target: str, finished: Finished) -> None:
        ended = finished("run", target)
        assert ended.status == 2
        assert "is neither the name of a module nor a file that ends in .py" in ended.err


class TestTarget:
    def test_no_file(self, finished: Finished, tmp_path: Path) -> None:
        ended = finished("run", "echo.py:Echo")
        assert ended.status == 2
        assert ended.err == f"ginsfsm: there is no file 'echo.py' (seen from {tmp_path})\n"

    def test_no_module(self, write: Write, finished: Finished, tmp_path: Path) -> None:
        write("gateway/__init__.py", "")
        for module in ("nowhere", "nowhere.echo", "gateway.echo"):
            ended = finished("run", f"{module}:Echo")
            assert ended.status == 2
            missing = module if module.startswith("gateway") else "nowhere"
            assert ended.err == (
                f"ginsfsm: cannot import {module}: No module named {missing!r}; expected a module "
                f"that Python finds from {tmp_path}, or a file, as in path/to/file.py:Echo\n"
            )

    @pytest.mark.parametrize("target", ["broken.py:Echo", "broken:Echo"])
    def test_fault_while_it_is_imported(
        self, target: str, write: Write, finished: Finished
    ) -> None:
        file = write("broken.py", "import helper\n").resolve()
        write("helper.py", "def fail():\n    return 1 // 0\n\nfail()\n")
        ended = finished("run", target)
        assert ended.status == 2
        lines = ended.err.splitlines()
        assert lines[0] == (
            f"ginsfsm: cannot import {target.partition(':')[0]}: "
            "ZeroDivisionError: integer division or modulo by zero"
        )
        # From the user's first frame on: nothing of the command, nothing of the import machinery.
        assert lines[1] == "Traceback (most recent call last):"
        assert lines[2] == f'  File "{file}", line 1, in <module>'
        assert lines[-1] == "ZeroDivisionError: integer division or modulo by zero"
        assert "cli.py" not in ended.err
        assert "importlib" not in ended.err

    def test_it_imports_what_is_not_there(self, write: Write, finished: Finished) -> None:
        write("echo.py", "import nowhere\n")
        ended = finished("run", "echo:Echo")
        assert ended.status == 2
        lines = ended.err.splitlines()
        assert lines[0].startswith("ginsfsm: cannot import echo: ModuleNotFoundError: No module")
        assert lines[3] == "    import nowhere"

    def test_syntax_error(self, write: Write, finished: Finished) -> None:
        write("echo.py", "class Echo(:\n    pass\n")
        ended = finished("run", "echo.py:Echo")
        assert ended.status == 2
        lines = ended.err.splitlines()
        assert lines[0].startswith("ginsfsm: cannot import echo.py: SyntaxError: ")
        assert lines[1].endswith('echo.py", line 1')
        assert "Traceback" not in ended.err

    def test_it_ends_the_process(self, write: Write, finished: Finished) -> None:
        write("echo.py", "import sys\nsys.exit(3)\n")
        ended = finished("run", "echo.py:Echo")
        assert ended.status == 2
        assert ended.err == (
            "ginsfsm: echo.py ended the process while it was imported (SystemExit: 3); put what "
            "runs it under: if __name__ == '__main__':\n"
        )

    def test_class_that_is_missing(self, write: Write, finished: Finished) -> None:
        write("echo.py", ECHO)
        ended = finished("run", "echo.py:Ecko")
        assert ended.status == 2
        assert ended.err == "ginsfsm: echo.py has no gclass 'Ecko'; did you mean 'Echo'?\n"

    @pytest.mark.parametrize("name", ["Room.Wal", "Wall"])
    def test_class_in_a_class_that_is_missing(
        self, name: str, write: Write, finished: Finished
    ) -> None:
        write(
            "rooms.py",
            """
            from ginsfsm import GObj

            class Room:
                class Wall(GObj): ...

            class Door(GObj): ...
            """,
        )
        ended = finished("run", f"rooms.py:{name}")
        assert ended.status == 2
        assert ended.err == f"ginsfsm: rooms.py has no gclass {name!r}; did you mean 'Room.Wall'?\n"

    @pytest.mark.parametrize(
        ("name", "what"),
        [
            ("Plain", "a class that derives from something else"),
            ("make", "an object of the type function"),
            ("number", "an object of the type int"),
            ("os", "a module"),
            ("GAplic", "a gaplic, the root of a tree, which this command makes itself"),
            ("app", "a gobj, made of the gclass GAplic"),
        ],
    )
    def test_no_gclass(self, name: str, what: str, write: Write, finished: Finished) -> None:
        write(
            "echo.py",
            """
            import os
            from ginsfsm import GAplic

            class Plain: ...

            def make(): ...

            number = 7
            app = GAplic("mine")
            """,
        )
        ended = finished("run", f"echo.py:{name}")
        assert ended.status == 2
        assert ended.err == (
            f"ginsfsm: echo.py:{name} is {what}; expected a gclass, which derives from "
            "ginsfsm.GObj\n"
        )

    def test_faults_in_its_machine(self, write: Write, finished: Finished) -> None:
        write(
            "lamp.py",
            """
            from ginsfsm import Event, GObj, on

            class EV_PUSH(Event): ...

            class Lamp(GObj):
                machine = {
                    "ST_OFF": [on(EV_PUSH, None, "ST_NO")],
                }
            """,
        )
        ended = finished("run", "lamp.py:Lamp")
        assert ended.status == 2
        # As they are: the fault, with file and line, and nothing before the first word.
        assert ended.err.startswith("Lamp: ")
        assert "\n  lamp.py:8: " in ended.err
        assert "'ST_NO'" in ended.err
        assert "Traceback" not in ended.err


class TestStartFails:
    # The child is made first, and must be gone when the command ends.
    FAILS = """
        from ginsfsm import GObj, GObjError
        from ginsfsm.net.addresses import listen


        class Child(GObj):
            def start_up(self):
                self.listening = listen("127.0.0.1", [0], backlog=1)

            def go_out(self):
                for sock in self.listening.sockets:
                    sock.close()
                print("closed", flush=True)


        class Fails(GObj):
            def start_up(self):
                self.create_gobj("child", Child, self)
                {fault}
    """

    def test_on_purpose(self, write: Write, finished: Finished) -> None:
        write("fails.py", self.FAILS.replace("{fault}", "raise GObjError('no room in the shed')"))
        ended = finished("run", "fails.py:Fails")
        assert ended.status == 1
        assert ended.err == "ginsfsm: fails.py:Fails cannot start: no room in the shed\n"
        assert ended.out == "closed\n"

    def test_port_in_use(self, write: Write, finished: Finished) -> None:
        with socket.socket() as rival:
            rival.bind(("127.0.0.1", 0))
            rival.listen(1)
            port = rival.getsockname()[1]
            write(
                "fails.py",
                self.FAILS.replace("{fault}", f"listen('127.0.0.1', [{port}], backlog=1)"),
            )
            ended = finished("run", "fails.py:Fails")
        assert ended.status == 1
        assert ended.err.startswith(
            "ginsfsm: fails.py:Fails cannot start: cannot listen on host '127.0.0.1': "
            f"127.0.0.1:{port}: port in use"
        )
        assert "Traceback" not in ended.err
        assert ended.out == "closed\n"

    def test_by_a_fault_in_the_program(self, write: Write, finished: Finished) -> None:
        file = write("fails.py", self.FAILS.replace("{fault}", "{}['shed']")).resolve()
        ended = finished("run", "fails.py:Fails")
        assert ended.status == 1
        lines = ended.err.splitlines()
        assert lines[0] == "ginsfsm: fails.py:Fails failed: KeyError: 'shed'"
        assert lines[1] == "Traceback (most recent call last):"
        assert lines[2].startswith(f'  File "{file}", line ')
        assert lines[-1] == "KeyError: 'shed'"
        assert ended.out == "closed\n"

    def test_by_its_name(self, write: Write, finished: Finished) -> None:
        write("echo.py", ECHO)
        ended = finished("run", "echo.py:Echo", "--name", "a/b")
        assert ended.status == 1
        assert ended.err.startswith("ginsfsm: echo.py:Echo cannot start: ")
        assert "'a/b'" in ended.err
        assert "Traceback" not in ended.err


# Says what it hears of the end; a line "work" is answered when the next line comes.
GATE = """
    from ginsfsm import GObj, on, param
    from ginsfsm.c_sock import EV_CONNECTED, EV_DISCONNECTED, EV_DROP, EV_RX_DATA, EV_SEND_DATA
    from ginsfsm.c_srv_sock import EV_DRAINED, EV_DRAINING, GServerSock


    class Gate(GObj):
        class config(GObj.config):
            destroy: str = param("", "destroy the servers when this comes")

        draining = 0

        def start_up(self):
            self.servers = [
                self.create_gobj(name, GServerSock, self, host="127.0.0.1")
                for name in ("one", "two")]
            print("ports", *[one.config.port for one in self.servers], flush=True)

        def ac_connected(self, event: EV_CONNECTED):
            print("connected", flush=True)

        def ac_request(self, event: EV_RX_DATA):
            if event.data == b"work":
                print("working", flush=True)
                if self.config.destroy == "EV_RX_DATA":
                    for one in self.servers:
                        self.destroy_gobj(one)
            else:
                self.send_event(event.source, EV_SEND_DATA(b"done"))
                self.send_event(event.source, EV_DROP())

        def ac_gone(self, event: EV_DISCONNECTED):
            print("gone", event.reason, flush=True)
            self.destroy_gobj(event.source)

        def ac_draining(self, event: EV_DRAINING):
            self.draining += 1
            print("draining", self.draining, flush=True)
            self.end(event)

        def ac_drained(self, event: EV_DRAINED):
            print("drained", event.remaining, flush=True)
            self.end(event)

        def end(self, event):
            if type(event).__name__ == self.config.destroy:
                self.destroy_gobj(event.source)

        machine = {
            "ST_IDLE": [
                on(EV_CONNECTED, ac_connected),
                on(EV_RX_DATA, ac_request),
                on(EV_DISCONNECTED, ac_gone),
                on(EV_DRAINING, ac_draining),
                on(EV_DRAINED, ac_drained),
            ],
        }
"""


@pytest.mark.skipif(not hasattr(signal, "SIGUSR2"), reason="this system has none")
def test_sigusr2_without_workers_ends_nothing(write: Write, start: Start) -> None:
    write("echo.py", ECHO)
    running = start("run", "echo.py:Echo")
    running.wait_for("starts")
    running.process.send_signal(signal.SIGUSR2)
    running.wait_for("SIGUSR2: there is nothing to hand over")
    running.process.send_signal(signal.SIGINT)
    assert running.wait().status == 0


class TestDrain:
    @staticmethod
    def at_work(running: Running) -> tuple[socket.socket, list[int]]:
        """A client whose request is under way, and the ports."""
        ports = [int(port) for port in running.wait_for("ports ", "out").split()[1:]]
        running.wait_for("starts")
        client = socket.create_connection(("127.0.0.1", ports[0]), DEADLINE)
        client.sendall(b"work")
        running.wait_for("working", "out")
        return client, ports

    @pytest.mark.parametrize("destroy", ["", "EV_DRAINING", "EV_DRAINED"])
    def test_sigterm_lets_a_request_be_finished(
        self, destroy: str, write: Write, start: Start
    ) -> None:
        """Also where the owner destroys its servers as soon as they say that they end."""
        write("gate.py", GATE)
        running = start("run", "gate.py:Gate", "--set", f"gate.destroy={destroy}")
        client, ports = self.at_work(running)
        with client:
            running.process.send_signal(signal.SIGTERM)
            line = running.wait_for("draining 2 servers with 1 connection,")
            assert line.endswith("for at most 30 s; a second SIGTERM ends at once")
            running.wait_for("draining 2", "out")
            for port in ports:
                with pytest.raises(ConnectionRefusedError):
                    socket.create_connection(("127.0.0.1", port), DEADLINE)
            client.sendall(b"and now?")
            assert client.recv(100) == b"done"
            assert client.recv(100) == b""
        ended = running.wait()
        assert ended.status == 0, ended.err
        assert "gone local" in ended.out
        assert ended.out.count("draining") == 2
        assert ended.out.count("drained 0") == (0 if destroy == "EV_DRAINING" else 2)
        assert "drained; 0 connections had to be aborted" in ended.err
        assert ended.err.splitlines()[-1].endswith(" INFO app/gate has stopped")
        assert "Traceback" not in ended.err

    @pytest.mark.parametrize("seconds", ["30", "0.3"])
    def test_a_connection_whose_server_went_before_is_waited_for(
        self, seconds: str, write: Write, start: Start
    ) -> None:
        write("gate.py", GATE)
        running = start(
            *("run", "gate.py:Gate", "--drain-timeout", seconds),
            *("--set", "gate.destroy=EV_RX_DATA"),
        )
        client, _ = self.at_work(running)
        with client:
            running.process.send_signal(signal.SIGTERM)
            running.wait_for("draining 0 servers with 1 connection,")
            if seconds == "30":
                client.sendall(b"and now?")
                assert client.recv(100) == b"done"
                assert client.recv(100) == b""
            ended = running.wait()
        assert ended.status == 0, ended.err
        left = "0 connections" if seconds == "30" else "1 connection"
        assert f"drained; {left} had to be aborted" in ended.err
        assert "Traceback" not in ended.err

    @pytest.mark.parametrize("seconds", ["0", "0.3"])
    @pytest.mark.parametrize("destroy", ["", "EV_DRAINING", "EV_DRAINED"])
    def test_those_who_do_not_end_are_aborted_and_counted(
        self, destroy: str, seconds: str, write: Write, start: Start
    ) -> None:
        write("gate.py", GATE)
        running = start(
            *("run", "gate.py:Gate", "--drain-timeout", seconds),
            *("--set", f"gate.destroy={destroy}"),
        )
        client, _ = self.at_work(running)
        with client:
            began = time.monotonic()
            ended = running.stop()
            assert time.monotonic() - began >= float(seconds)
            try:
                assert client.recv(100) == b""
            except ConnectionResetError:
                pass
        assert ended.status == 0, ended.err
        (line,) = [line for line in ended.err.splitlines() if "aborted" in line]
        assert line.endswith(" WARNING drained; 1 connection had to be aborted")
        assert "Traceback" not in ended.err

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_second_signal_ends_it_at_once(
        self, number: signal.Signals, write: Write, start: Start
    ) -> None:
        write("gate.py", GATE)
        running = start("run", "gate.py:Gate")
        client, _ = self.at_work(running)
        with client:
            running.process.send_signal(signal.SIGTERM)
            running.wait_for("draining 2 servers")
            began = time.monotonic()
            ended = running.stop(number)
            assert time.monotonic() - began < 10
        assert ended.status == 0, ended.err
        assert f"stopping on {number.name}" in ended.err
        assert "Traceback" not in ended.err

    def test_sigint_does_not_wait(self, write: Write, start: Start) -> None:
        write("gate.py", GATE)
        running = start("run", "gate.py:Gate")
        client, _ = self.at_work(running)
        with client:
            ended = running.stop(signal.SIGINT)
        assert ended.status == 0, ended.err
        assert "drain" not in ended.err + ended.out

    @pytest.mark.parametrize("wrong", ["-1", "soon", "nan", "inf", ""])
    def test_bad_timeout(self, wrong: str, write: Write, finished: Finished) -> None:
        ended = finished("run", "gate.py:Gate", f"--drain-timeout={wrong}")
        assert ended.status == 2
        assert ended.err.splitlines()[-1] == (
            f"ginsfsm run: error: argument --drain-timeout: {wrong!r}: "
            "expected seconds, 0 or more, as in 30 or 2.5"
        )
