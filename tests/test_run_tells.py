"""What `ginsfsm run` says of itself: what is wrong with the settings, where it listens, and when
nobody was served. And the page of the metrics, which is there until the end.
"""

import os
import signal
import socket
import sys
import textwrap
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ginsfsm import GAplic, GConfigError, GObj, param
from programs import CLEAN, BlockingProgram
from sockets import DEADLINE

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the command is told by signals")

STORE = """
    import time

    from ginsfsm import GObj, on, param
    from ginsfsm.c_sock import EV_DISCONNECTED, EV_RX_FRAME, EV_SEND_FRAME
    from ginsfsm.c_srv_sock import GServerSock


    class Session(GObj):
        def ac_do(self, event: EV_RX_FRAME):
            if event.data == b"hold":
                time.sleep(2)
            if event.data == b"listen":
                self.create_gobj("late", GServerSock, self.parent, host="127.0.0.1",
                                 session=Session, framing="lines")
            self.send_event(event.source, EV_SEND_FRAME(event.data))

        machine = {
            "ST_IDLE": [
                on(EV_RX_FRAME, ac_do),
                on(EV_DISCONNECTED, None),
            ],
        }


    class Store(GObj):
        class config(GObj.config):
            port: int = param(0, "where to listen")

        def start_up(self):
            self.create_gobj("server", GServerSock, self, host="127.0.0.1", port=self.config.port,
                             session=Session, framing="lines")


    class Client(GObj):
        pass
"""


@contextmanager
def running(folder: Path, *words: str) -> Iterator[BlockingProgram]:
    (folder / "kv.py").write_text(textwrap.dedent(STORE))
    environment = CLEAN | {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    with BlockingProgram(
        sys.executable, "-W", "always::ResourceWarning", "-m", "ginsfsm", "run", *words,
        folder=folder, environment=environment,
    ) as program:  # fmt: skip
        yield program


def port_of(program: BlockingProgram, path: str = "app/store/server") -> int:
    return int(program.says(rf"INFO {path} listens at 127\.0\.0\.1:(\d+)$").group(1))


def told(program: BlockingProgram) -> str:
    return program.output.decode()


class TestSettings:
    """A name that matches nothing is told before anything starts, and with what could be meant."""

    def test_before_it_starts(self, tmp_path: Path) -> None:
        with running(tmp_path, "kv.py:Store", "--set", "stroe.port=0") as program:
            assert program.ends() == 1
            assert told(program) == (
                "ginsfsm: kv.py:Store cannot start: settings: 'stroe' (port) matches no gobj and "
                "no gclass; did you mean 'store'?\n"
            )

    def test_a_worker_says_why_and_is_not_tried_again(self, tmp_path: Path) -> None:
        words = ("kv.py:Store", "--workers", "1", "--set", "stroe.port=0")
        with running(tmp_path, *words) as program:
            assert program.ends() == 1
            program.says(
                "CRITICAL giving up: worker 1 cannot start: exit status 1: kv.py:Store cannot "
                r"start: settings: 'stroe' \(port\) matches no gobj and no gclass; did you mean "
                r"'store'\?$"
            )
            assert "died at its start" not in told(program)
            assert "app/store starts" not in told(program)

    def test_what_is_offered_is_the_users(self, tmp_path: Path) -> None:
        words = ("kv.py:Store", "--stats", "60", "--set", "zzz.port=0")
        with running(tmp_path, *words) as program:
            assert program.ends() == 1
            names = program.says("known: (.*)$").group(1).decode().split(", ")
        public = ["GAplic", "GServerSock", "GSock", "GTimer"]
        assert names == sorted([*public, "Client", "Session", "Store", "app", "server", "store"])

    def test_a_path(self, tmp_path: Path) -> None:
        """As the log, the metrics and SIGUSR1 call a gobj."""
        path = "app/store/server"
        with running(tmp_path, "kv.py:Store", "--set", f"{path}.idle_timeout=soon") as program:
            assert program.ends() == 1
            program.says(
                r"cannot start: app/store/server \(GServerSock\): idle_timeout: .* got the text "
                r"'soon' \(from the settings of 'app/store/server'\)$"
            )
        with running(tmp_path, "kv.py:Store", "--set", "app/store/sevrer.port=0") as program:
            assert program.ends() == 1
            program.says(r"matches no gobj and no gclass; did you mean 'app/store/server'\?$")

    def test_a_path_wins(self) -> None:
        class Leaf(GObj):
            class config(GObj.config):
                number: int = param(0, "of leaves")

        given = {"app/two/leaf": {"number": 3}, "leaf": {"number": 2}, "Leaf": {"number": 1}}
        app = GAplic("app", settings=given)
        leaves = [
            app.create_gobj("leaf", Leaf, app.create_gobj(name, GObj, app))
            for name in ("one", "two")
        ]
        other = app.create_gobj("other", Leaf, app)
        app.check_settings()
        assert [one.config.number for one in (*leaves, other)] == [2, 3, 1]
        app.destroy_gobj(app)

    def test_settings_are_checked_when_asked(self) -> None:
        app = GAplic("app", settings={"nobody.port": 1})
        with pytest.raises(GConfigError, match=r"'nobody' \(port\) matches no gobj and no gclass"):
            app.check_settings()
        app.destroy_gobj(app)

    def test_all_faults_of_a_file(self, tmp_path: Path) -> None:
        """What does not look like a typo may be the name of a gobj that is not there yet."""
        (tmp_path / "kv.toml").write_text(
            "[store]\nport = 'x'\nprot = 1\n[sesion]\na = 1\n[server]\nport = 1\n"
        )
        with running(tmp_path, "kv.py:Store", "--settings", "kv.toml") as program:
            assert program.ends() == 1
            assert told(program).splitlines() == [
                "ginsfsm: kv.py:Store cannot start: app/store (Store): 2 faults",
                "  port: expected int, got 'x' (str) (from the settings of 'store')",
                "  prot: unknown parameter; did you mean 'port'? (from the settings of 'store')",
                "  'sesion' (a) has matched no gobj and no gclass so far; did you mean 'Session'?",
            ]


class TestTarget:
    @pytest.mark.parametrize("words", [("kv.py",), ("kv.py:", "--workers", "2")])
    def test_a_file_alone(self, words: tuple[str, ...], tmp_path: Path) -> None:
        with running(tmp_path, *words) as program:
            assert program.ends() == 2
            assert told(program) == (
                "ginsfsm: kv.py names no class: expected one of kv.py:Session, kv.py:Store, "
                "kv.py:Client\n"
            )

    def test_a_file_without_a_gclass(self, tmp_path: Path) -> None:
        (tmp_path / "none.py").write_text("x = 1\n")
        with running(tmp_path, "none.py") as program:
            assert program.ends() == 2
            program.says("none.py names no class: .* and there is no gclass in it$")


class TestListening:
    def test_where(self, tmp_path: Path) -> None:
        """Also of a server that is made later; a line each."""
        with running(tmp_path, "kv.py:Store", "--metrics", "127.0.0.1:0") as program:
            program.says("INFO app/store starts")
            port = port_of(program)
            with socket.create_connection(("127.0.0.1", port), DEADLINE) as client:
                client.sendall(b"listen\n")
                late = port_of(program, "app/store/late")
                with socket.create_connection(("127.0.0.1", late), DEADLINE):
                    program.process.send_signal(signal.SIGINT)
                    assert program.ends() == 0
            assert told(program).count("listens at") == 2
            assert "nothing listens" not in told(program)

    def test_nothing(self, tmp_path: Path) -> None:
        with running(tmp_path, "kv.py:Client", "--metrics", "127.0.0.1:0") as program:
            program.says("INFO nothing listens yet: there is no GServerSock in the tree$")
            program.process.send_signal(signal.SIGTERM)
            assert program.ends() == 0
            # No one has to be waited for.
            assert "draining" not in told(program)

    def test_with_workers_once(self, tmp_path: Path) -> None:
        with running(tmp_path, "kv.py:Store", "--workers", "2") as program:
            port = port_of(program)
            program.says("2 workers serve$")
            with socket.create_connection(("127.0.0.1", port), DEADLINE):
                program.process.send_signal(signal.SIGHUP)
                program.says("2 workers serve$")
            program.process.send_signal(signal.SIGINT)
            assert program.ends() == 0
            assert told(program).count("listens at") == 1

    def test_with_workers_nothing(self, tmp_path: Path) -> None:
        with running(tmp_path, "kv.py:Client", "--workers", "2") as program:
            program.says("INFO nothing listens yet: no worker has a GServerSock$")
            program.says("2 workers serve$")
            program.process.send_signal(signal.SIGINT)
            assert program.ends() == 0
            assert told(program).count("nothing listens") == 1


HELD = r"WARNING the loop was held for at least (\d\.\d) s and nobody was served meanwhile: "


@pytest.mark.parametrize("words", [(), ("--workers", "1")], ids=["alone", "worker"])
def test_a_loop_that_was_held(words: tuple[str, ...], tmp_path: Path) -> None:
    with running(tmp_path, "kv.py:Store", *words) as program:
        port = port_of(program)
        with socket.create_connection(("127.0.0.1", port), DEADLINE) as client:
            client.sendall(b"hold\n")
            assert 1.0 <= float(program.says(HELD).group(1)) < 10
            assert client.recv(100, socket.MSG_PEEK)
        program.process.send_signal(signal.SIGINT)
        assert program.ends() == 0


def test_a_process_that_was_stopped(tmp_path: Path) -> None:
    with running(tmp_path, "kv.py:Store") as program:
        port = port_of(program)
        with socket.create_connection(("127.0.0.1", port), DEADLINE) as client:
            # Now its loop runs.
            client.sendall(b"hello\n")
            assert client.recv(100)
        program.process.send_signal(signal.SIGSTOP)
        time.sleep(2)
        program.process.send_signal(signal.SIGCONT)
        program.says(HELD + ".* or the process was stopped$")
        program.process.send_signal(signal.SIGINT)
        assert program.ends() == 0


@pytest.mark.parametrize("words", [(), ("--workers", "1")], ids=["alone", "workers"])
def test_the_metrics_are_there_until_the_end(words: tuple[str, ...], tmp_path: Path) -> None:
    """One wants to watch a drain; and who reads the numbers is nobody whom it waits for."""
    with running(tmp_path, "kv.py:Store", "--metrics", "127.0.0.1:0", *words) as program:
        url = program.says(r"(http://127\.0\.0\.1:\d+/metrics)").group(1).decode()
        scraped = int(url.split("/")[2].partition(":")[2])
        port = port_of(program)
        with (
            socket.create_connection(("127.0.0.1", port), DEADLINE) as client,
            socket.create_connection(("127.0.0.1", scraped), DEADLINE) as scraper,
        ):
            client.sendall(b"hello\n")
            assert client.recv(100) == b"hello\n"
            scraper.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            assert scraper.recv(100).startswith(b"HTTP/1.1 200")
            program.process.send_signal(signal.SIGTERM)
            program.says("draining 1 server with 1 connection, for at most 30 s")
            with urllib.request.urlopen(url, timeout=DEADLINE) as page:
                text = page.read().decode()
            assert 'ginsfsm_server_connections_open{server="app/store/server"} 1.0' in text
        # The client has gone, which ends it; so had the scraper not.
        assert program.ends() == 0
        program.says("drained; 0 connections had to be aborted$")
