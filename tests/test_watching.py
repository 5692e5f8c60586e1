"""`ginsfsm run` with --stats, --metrics and SIGUSR1: what an operator sees of a real process."""

import asyncio
import json
import logging
import os
import re
import signal
import socket
import sys
import textwrap
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from conftest import RunAsync
from ginsfsm import GAplic, GObj
from ginsfsm.command.watching import StatsLine, stats_line
from ginsfsm.snapshot import Snapshot
from ginsfsm.stats import GaplicStats, ServerStats
from ginsfsm.tree_text import SHOWN, tree_text
from programs import CLEAN, BlockingProgram
from servers import until
from sockets import DEADLINE

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the command is told by signals")

ECHO = """
    from ginsfsm import GObj, on
    from ginsfsm.c_sock import EV_CONNECTED, EV_DISCONNECTED, EV_RX_DATA, EV_SEND_DATA
    from ginsfsm.c_srv_sock import GServerSock


    class Echo(GObj):
        def start_up(self):
            self.server = self.create_gobj("server", GServerSock, self, host="127.0.0.1")
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


@contextmanager
def running(folder: Path, *options: str) -> Iterator[BlockingProgram]:
    (folder / "echo.py").write_text(textwrap.dedent(ECHO))
    environment = CLEAN | {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    with BlockingProgram(
        sys.executable, "-m", "ginsfsm", "run", "echo.py:Echo", *options,
        folder=folder, environment=environment,
    ) as program:  # fmt: skip
        yield program


def number(program: BlockingProgram, pattern: str) -> int:
    return int(program.says(pattern).group(1))


def talk(port: int, *messages: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port), DEADLINE) as client:
        for message in messages:
            client.sendall(message)
            assert client.recv(len(message), socket.MSG_WAITALL) == message


def scrape(port: int) -> dict[str, float]:
    url = f"http://127.0.0.1:{port}/metrics"
    with urllib.request.urlopen(url, timeout=DEADLINE) as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)
            if not name.startswith("#")}  # fmt: skip


def total(page: dict[str, float], name: str) -> float:
    return page[f'ginsfsm_server_{name}{{server="app/echo/server"}}']


def stop(program: BlockingProgram) -> None:
    program.process.send_signal(signal.SIGTERM)
    assert program.ends() == 0, str(program)


def test_a_line_every_so_often_with_what_was_counted(tmp_path: Path) -> None:
    with running(tmp_path, "--stats", "0.05", "--log-level", "error") as program:
        port = number(program, r"port (\d+)")
        talk(port, b"x" * 100, b"y" * 23)
        line = program.says(
            r"stats: open \d+, accepted 1 \(\S+/s\), refused 0, failed 0, received 123 \(\S+/s\) "
            r"bytes in 2 \(\S+/s\) messages, sent 123 \(\S+/s\) bytes in 2 \(\S+/s\) messages, "
            r"errors 0, posted 0, longest turn \S+ ms\n"
        )
        assert b"processes" not in line.group()
        stop(program)


def test_the_limit_of_the_log_is_not_for_what_was_asked_for(tmp_path: Path) -> None:
    with running(tmp_path, "--stats", "0.02", "--log-limit", "2") as program:
        for _ in range(5):
            program.says(r"stats: open 0, ")
        stop(program)


def test_a_rate_is_that_of_the_time_that_has_passed(run_async: RunAsync) -> None:
    """A line may come late, since the loop was held or other processes had to be asked."""
    taken: list[Snapshot] = []

    async def source() -> Snapshot:
        await asyncio.sleep(0.2)
        taken.append(Snapshot(servers={"a": ServerStats(rx_bytes=1000 * len(taken))}))
        return taken[-1]

    async def main() -> list[str]:
        async with GAplic("app") as app:
            lines: list[str] = []
            handler = logging.Handler()
            handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
            logger = logging.getLogger("ginsfsm.watch")
            logger.addHandler(handler)
            logger.setLevel(logging.INFO)
            try:
                app.create_gobj("stats", StatsLine, app, seconds=0.05, source=source)
                await until(lambda: len(lines) >= 3)
            finally:
                logger.removeHandler(handler)
                logger.setLevel(logging.NOTSET)
            return lines

    line = run_async(main)[2]
    found = re.search(r"received 2000 \((\S+)/s\)", line)
    assert found is not None, line
    # 1000 bytes in more than 0.2 s, and not in 0.05.
    assert 0 < float(found[1]) <= 5000, line


def test_each_number_has_its_place_in_the_line() -> None:
    one = ServerStats(
        rx_bytes=100, tx_bytes=200, rx_messages=30, tx_messages=40, accepted=50, open=6,
        refused={"full": 3, "rate": 4}, failed=8,
    )  # fmt: skip
    gaplic = GaplicStats(
        processes=2, posted_events=9, refused_events=10, contained_errors=11,
        longest_turn_seconds=0.012,
    )  # fmt: skip
    now = Snapshot(gaplic=gaplic, servers={"a": one, "b": one})
    assert stats_line(now, Snapshot(servers={"a": one}), 2.0) == (
        "open 12, accepted 100 (25/s), refused 14, failed 16, received 200 (50/s) bytes in "
        "60 (15/s) messages, sent 400 (100/s) bytes in 80 (20/s) messages, errors 11, "
        "posted 9, longest turn 12 ms, 2 processes"
    )


def test_the_line_as_json(tmp_path: Path) -> None:
    with running(tmp_path, "--stats", "0.05", "--log-format", "json") as program:
        found = json.loads(program.says(r'^\{.*"stats: .*\}$').group())
        assert found["logger"] == "ginsfsm.watch"
        assert found["seconds"] == 0.05
        stop(program)


def test_sigusr1_writes_the_tree_with_its_states(tmp_path: Path) -> None:
    with running(tmp_path, "--log-level", "error") as program:
        port = number(program, r"port (\d+)")
        with socket.create_connection(("127.0.0.1", port), DEADLINE) as client:
            client.sendall(b"secret")
            client.recv(6)
            program.process.send_signal(signal.SIGUSR1)
            program.says(rf"SIGUSR1: the tree of process {program.process.pid}\n")
            program.says(r"app GAplic ST_IDLE\n")
            program.says(r"echo Echo ST_IDLE\n")
            program.says(r"server GServerSock ST_LISTENING\n")
            program.says(r"server\.clisrv_1 GSock ST_CONNECTED\n")
            assert not program.said("secret")
        stop(program)


def test_a_page_for_prometheus(tmp_path: Path) -> None:
    with running(tmp_path, "--metrics", "127.0.0.1:0") as program:
        port = number(program, r"port (\d+)")
        page_port = number(program, r"metrics: http://127\.0\.0\.1:(\d+)/metrics")
        program.says("starts")
        talk(port, b"x" * 1000)
        page = scrape(page_port)
        assert total(page, "received_bytes_total") == 1000
        assert page["ginsfsm_longest_turn_seconds"] > 0
        # What every Python program tells with prometheus_client.
        assert page["process_resident_memory_bytes"] > 0
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://127.0.0.1:{page_port}/", timeout=DEADLINE)
        stop(program)


def test_one_scrape_sees_the_sum_of_all_workers(tmp_path: Path) -> None:
    with running(tmp_path, "--workers", "2", "--metrics", "127.0.0.1:0") as program:
        page_port = number(program, r"metrics: http://127\.0\.0\.1:(\d+)/metrics")
        port = number(program, r"port (\d+)")
        program.says(r"2 workers serve\n")
        for _ in range(40):
            talk(port, b"x" * 100)
        page = scrape(page_port)
        assert page["ginsfsm_processes"] == 2
        assert total(page, "connections_accepted_total") == 40
        assert total(page, "received_bytes_total") == 4000
        assert total(page, "sent_messages_total") == 40
        program.process.send_signal(signal.SIGUSR1)
        for _ in range(3):
            # The parent and its two workers, in any order.
            program.says(r"SIGUSR1: the tree of process \d+\n")
        stop(program)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="no /proc here")
def test_what_a_worker_has_counted_outlives_it(tmp_path: Path) -> None:
    with running(tmp_path, "--workers", "2", "--metrics", "127.0.0.1:0") as program:
        page_port = number(program, r"metrics: http://127\.0\.0\.1:(\d+)/metrics")
        port = number(program, r"port (\d+)")
        program.says(r"2 workers serve\n")
        for _ in range(40):
            talk(port, b"x" * 100)
        before = scrape(page_port)
        assert total(before, "received_bytes_total") == 4000
        parent = program.process.pid
        for worker in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
            os.kill(int(worker), signal.SIGKILL)
        # Both, one after the other; and while there is none.
        program.says(r"worker \d died")
        assert total(scrape(page_port), "received_bytes_total") == 4000
        program.says(r"worker \d died")
        end = time.monotonic() + DEADLINE
        while (page := scrape(page_port))["ginsfsm_processes"] < 2:
            assert time.monotonic() < end, page
            assert total(page, "received_bytes_total") == 4000
        talk(port, b"x" * 100)
        after = scrape(page_port)
        assert total(after, "received_bytes_total") == 4100
        assert total(after, "connections_accepted_total") == 41
        assert total(after, "connections_open") <= 1
        stop(program)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--metrics", "9100"), "'9100': expected HOST:PORT, as in 127.0.0.1:9100"),
        (("--metrics", "::1:9100"), "expected HOST:PORT"),
        (("--metrics", "localhost:99999"), "expected HOST:PORT"),
        (("--stats", "0"), "'0': expected seconds, 0.01 or more, as in 10"),
        (("--stats", "inf"), "expected seconds"),
        (("--stats", "nan"), "'nan': expected seconds, 0.01 or more, as in 10"),
    ],
)
def test_what_cannot_be_understood(tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    with running(tmp_path, *options) as program:
        assert program.ends() == 2
        assert program.said(re.escape(said)), str(program)


@pytest.mark.parametrize("workers", [(), ("--workers", "1")], ids=["alone", "workers"])
def test_an_address_that_is_taken(tmp_path: Path, workers: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with running(tmp_path, "--metrics", f"127.0.0.1:{port}", *workers) as program:
            assert program.ends() == 1
            assert program.said(rf"cannot start: --metrics: .*127\.0\.0\.1:{port}"), str(program)
            assert not program.said("Traceback"), str(program)


class Leaf(GObj):
    machine = {"ST_IDLE": []}


def test_many_alike_are_counted_and_not_listed() -> None:
    app = GAplic("app")
    try:
        for name in range(SHOWN + 1000):
            app.create_gobj(f"leaf_{name}", Leaf, app)
        lines = tree_text(app).splitlines()
        assert len(lines) == 1 + SHOWN + 1
        assert lines[1] == "  leaf_0 Leaf ST_IDLE"
        assert lines[-1] == "  ... and 1000 more Leaf: 1000 ST_IDLE"
    finally:
        app.destroy_gobj(app)


def test_a_tree_deeper_than_pythons_limit() -> None:
    app = GAplic("app")
    try:
        parent: GObj = app
        for _ in range(50):
            parent = parent.create_gobj("below", Leaf, parent)
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(len(__import__("inspect").stack()) + 40)
        try:
            text = tree_text(app)
        finally:
            sys.setrecursionlimit(limit)
        assert text.endswith(f"\n{'  ' * 50}below Leaf ST_IDLE")
    finally:
        app.destroy_gobj(app)


def test_what_has_to_be_installed_is_told(tmp_path: Path) -> None:
    (tmp_path / "echo.py").write_text(textwrap.dedent(ECHO))
    without = (
        "import sys; sys.modules['h11'] = None; from ginsfsm.cli import main; "
        "sys.exit(main(['run', 'echo.py:Echo', '--metrics', '127.0.0.1:0']))"
    )
    environment = CLEAN | {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    with BlockingProgram(
        sys.executable, "-c", without, folder=tmp_path, environment=environment
    ) as program:
        assert program.ends() == 2
        assert program.said(r"--metrics: h11 is not installed; pip install 'ginsfsm\[metrics\]'")
