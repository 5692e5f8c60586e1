"""`ginsfsm run --workers`: real processes that are killed, hang, and are replaced under load."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import RunAsync
from crew import Crew, Tally, attempts, environment, is_alive, wait_until
from ginsfsm import GAplic
from ginsfsm.c_workers import Workers
from ginsfsm.snapshot import Snapshot
from ginsfsm.stats import GaplicStats, ServerStats
from ginsfsm.workers.totals import Totals

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc to see what lives")


STAMPEDE = Path(__file__).parents[1] / "benchmarks" / "stampede.py"


@pytest.fixture
def memory_group() -> Iterator[Path]:
    """A control group whose processes may have 200 MiB in all."""
    root = Path("/sys/fs/cgroup/memory")
    group = (root if root.is_dir() else Path("/sys/fs/cgroup")) / f"ginsfsm-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made: {error}")
    try:
        limits = [group / "memory.limit_in_bytes", group / "memory.max"]
        limit = next((one for one in limits if one.exists()), None)
        if limit is None:
            pytest.skip("this control group does not limit memory")
        limit.write_text(str(200 << 20))
        yield group
    finally:
        wait_until(lambda: not (group / "cgroup.procs").read_text(), "that the group is empty")
        group.rmdir()


class TestServing:
    def test_all_share_the_port_and_end_on_sigterm(self, tmp_path: Path) -> None:
        with Crew(tmp_path, workers=3) as crew:
            crew.serves()
            said = crew.said(r"ports (\d+) (\d+) of (\d+)")
            # Port 0 twice in the target: two ports, the same two in every worker.
            assert len(said) == 3
            assert len({(first, second) for first, second, _ in said}) == 1
            assert said[0][0] != said[0][1]
            pids = {int(pid) for _, _, pid in said}
            assert pids == crew.processes()
            assert crew.serving(3) == pids
            assert crew.process.pid not in pids
            crew.signal(signal.SIGTERM)
            assert crew.ends() == 0
            assert not any(map(is_alive, pids))
            assert len(crew.said("worker [123] has left")) == 3
            assert b"Traceback" not in crew.output
            assert b"ResourceWarning" not in crew.output

    def test_a_client_may_finish_and_the_queue_is_taken(self, tmp_path: Path) -> None:
        """SIGTERM: who is connected, and who waits to be accepted, is still served."""
        with Crew(tmp_path, workers=1) as crew:
            crew.serves()
            with crew.connect() as client:
                client.say(b"pause")
                assert client.hear() == b"pause"
                with crew.waiting() as waiting:
                    crew.signal(signal.SIGTERM)
                    assert waiting.greeted() == client.pid
                    for one in (client, waiting):
                        one.say(b"still there?")
                        assert one.hear() == b"still there?"
                    with pytest.raises(ConnectionRefusedError):
                        crew.connect()
            assert crew.ends() == 0
            assert crew.said("drained; 0 connections had to be aborted")

    def test_who_does_not_end_is_aborted_in_time(self, tmp_path: Path) -> None:
        with Crew(tmp_path, "--drain-timeout", "0.2") as crew:
            crew.serves()
            with crew.connect() as client:
                crew.signal(signal.SIGTERM)
                assert client.hear() == b""
                assert crew.ends() == 0
            assert crew.said("drained; 1 connection had to be aborted")

    @pytest.mark.parametrize("signals", [(signal.SIGINT,), (signal.SIGTERM, signal.SIGTERM)])
    def test_at_once(self, signals: tuple[int, ...], tmp_path: Path) -> None:
        """SIGINT, or a second SIGTERM, does not wait for connections."""
        with Crew(tmp_path) as crew:
            crew.serves()
            pids = crew.processes()
            with crew.connect() as client:
                for number in signals:
                    crew.signal(number)
                    crew.says("stopping on|draining 2 workers" if number is signals[0] else "")
                assert client.hear() == b""
                assert crew.ends() == 0
            wait_until(lambda: not any(map(is_alive, pids)), "that all workers have gone")

    def test_a_unix_socket(self, tmp_path: Path) -> None:
        """It belongs to the parent: no worker that ends removes its file."""
        path = tmp_path / "socket"
        with Crew(tmp_path, "--set", f"echo.unix_path={path}") as crew:
            crew.says("workers serve")

            def pid() -> int:
                with socket.socket(socket.AF_UNIX) as client:
                    client.settimeout(20)
                    client.connect(str(path))
                    with client.makefile("rb") as file:
                        return int(file.readline())

            first = pid()
            os.kill(first, signal.SIGKILL)
            crew.says("died")
            assert path.exists()
            assert pid() != first
            crew.signal(signal.SIGHUP)
            crew.says("workers serve")
            assert path.exists()
            pid()
            crew.signal(signal.SIGTERM)
            assert crew.ends() == 0
            assert not path.exists()

    def test_a_file_that_cannot_be_removed_stops_no_drain(self, tmp_path: Path) -> None:
        folder = tmp_path / "run"
        folder.mkdir()
        path = folder / "socket"
        with Crew(tmp_path, "--set", f"echo.unix_path={path}", workers=1) as crew:
            crew.says("worker serves$")
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(20)
                client.connect(str(path))
                with client.makefile("rb") as file:
                    assert file.readline()
                    # What fails for root as well: the folder is none any more.
                    folder.rename(tmp_path / "moved")
                    folder.touch()
                    crew.signal(signal.SIGTERM)
                    crew.says("the file of its Unix socket stays")
                    client.sendall(b"still there?\n")
                    assert file.readline() == b"still there?\n"
            assert crew.ends() == 0
            assert not crew.said("Traceback")

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
    def test_a_log_on_a_full_disk(self, tmp_path: Path) -> None:
        """Neither the parent nor a worker can say anything; they serve, start again and end."""
        full = ("bash", "-c", 'exec "$@" 2>/dev/full', "bash")
        with Crew(tmp_path, before=full) as crew:
            crew.port = int(crew.says(r"ports (\d+) \d+ of").group(1))
            before = crew.serving(2)
            os.kill(min(before), signal.SIGKILL)
            wait_until(lambda: len(crew.processes() - before) == 1, "that it is started again")
            assert max(before) in crew.serving(2)
            crew.signal(signal.SIGHUP)
            wait_until(lambda: not crew.processes() & before, "that the old ones have gone")
            assert not crew.serving(2) & before
            crew.signal(signal.SIGTERM)
            assert crew.ends() == 0
            assert not crew.said("workers serve")

    def test_the_port_of_the_metrics(self, tmp_path: Path) -> None:
        """The workers cannot have it as well."""
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, True)
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
            words = ("--set", f"echo.port={port}", "--metrics", f"127.0.0.1:{port}")
            with Crew(tmp_path, *words, workers=1) as crew:
                assert crew.ends() == 1
                assert crew.said(f"cannot listen on 127.0.0.1.*{port}")


class TestDeath:
    """A worker dies, in one way or another."""

    def test_one_that_is_killed_is_started_again(self, tmp_path: Path) -> None:
        with Crew(tmp_path) as crew:
            crew.serves()
            with crew.connect() as client:
                os.kill(client.pid, signal.SIGKILL)
                assert client.hear() == b""
            line = crew.says(r"ERROR worker (\d) died: (.*)$")
            assert line.group(2) == (
                b"killed by SIGKILL, as the system does where memory runs out; "
                b"the next one starts in 1 s"
            )
            crew.says(rf"worker {int(line.group(1))} serves as process")
            assert client.pid not in crew.serving(2)

    def test_it_takes_its_port_from_the_parent(self, tmp_path: Path) -> None:
        """All are dead: clients wait in the queue of the parent's socket, nobody is refused."""
        with Crew(tmp_path, workers=1) as crew:
            crew.serves()
            before = crew.processes()
            os.kill(*before, signal.SIGKILL)
            crew.says("died")
            with crew.connect() as client:
                assert {client.pid} == crew.processes()
                assert client.pid not in before

    def test_longer_and_longer_waits(self, tmp_path: Path) -> None:
        with Crew(tmp_path, workers=1) as crew:
            crew.serves()
            for seconds in (b"1", b"2"):
                with crew.connect() as client:
                    client.say(b"abort")
                    said = crew.says(
                        "worker 1 died: killed by SIGABRT; the next one starts in (.*) s"
                    )
                    assert said.group(1) == seconds

    def test_out_of_memory(self, tmp_path: Path) -> None:
        """An action that gets no memory costs its connection; the worker serves on."""
        with Crew(tmp_path, workers=1) as crew:
            crew.serves()
            with crew.connect() as client, crew.connect() as other:
                client.say(b"memory")
                assert client.hear() == b""
                crew.says("EV_RX_FRAME from .* raised MemoryError")
                other.say(b"alive?")
                assert other.hear() == b"alive?"
                assert crew.greeting() == client.pid
            assert not crew.said("died")

    def test_no_memory_is_left(self, tmp_path: Path) -> None:
        """Nothing can be served any more. The worker ends at once, and does not fill the log."""
        with Crew(tmp_path) as crew:
            crew.serves()
            with crew.connect() as client:
                client.say(b"leak")
                crew.says("EV_RX_FRAME from .* raised MemoryError")
                crew.says("CRITICAL there is no memory left: ending")
                crew.says("worker . died: exit status 1; the next one starts in 1 s")
                assert client.hear() == b""
            crew.says("worker . serves as process")
            assert client.pid not in crew.serving(2)
            assert len(crew.output) < 10_000

    def test_the_system_kills_it_for_its_memory(self, tmp_path: Path, memory_group: Path) -> None:
        with Crew(tmp_path) as crew:
            crew.serves()
            with crew.connect() as client:
                (memory_group / "cgroup.procs").write_text(str(client.pid))
                client.say(b"devour")
                crew.says("worker . died: killed by SIGKILL, as the system does where memory runs")
                assert client.hear() == b""
            crew.says("worker . serves as process")
            assert client.pid not in crew.serving(2)

    def test_one_that_hangs_is_killed(self, tmp_path: Path) -> None:
        """The others serve meanwhile, and it is said."""
        with Crew(tmp_path, "--worker-timeout", "1") as crew:
            crew.serves()
            with crew.connect() as client:
                client.say(b"hang")
                said = crew.says(r"worker (\d): process (\d+) is stuck: no sign of life for 3 s")
                assert int(said.group(2)) == client.pid
                assert client.hear() == b""
            crew.says("worker . died: killed by SIGKILL.*: is stuck")
            crew.says(rf"worker {int(said.group(1))} serves")
            assert client.pid not in crew.serving(2)

    def test_a_parent_that_was_stopped_kills_nobody(self, tmp_path: Path) -> None:
        """Control-Z and fg: nobody listened to the signs of life meanwhile."""
        with Crew(tmp_path, "--worker-timeout", "1") as crew:
            crew.serves()
            pids = crew.processes()
            crew.signal(signal.SIGSTOP)
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            # What this waits for is that time passes.
            time.sleep(1.5)
            crew.signal(signal.SIGCONT)
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
            # And here that nothing comes: they would have two more seconds.
            time.sleep(2.5)
            assert crew.serving(2) == pids
            assert not crew.said("stuck")

    def test_stampede(self) -> None:
        """A short run of the stampede: random kills under load, and exact counts in survivors."""
        words = ("--seconds", "1.5", "--pause", "0.3", "--workers", "3", "--seed", "5")
        run = subprocess.run(
            (sys.executable, STAMPEDE, *words), env=environment(), capture_output=True, text=True,
            check=False, timeout=120,
        )  # fmt: skip
        assert run.returncode == 0, run.stdout + run.stderr
        assert "'SIGKILL'" in run.stdout
        assert "all is well" in run.stdout

    def test_no_orphan_when_the_parent_is_killed(self, tmp_path: Path) -> None:
        with Crew(tmp_path, workers=3) as crew:
            crew.serves()
            pids = crew.processes()
            with crew.connect() as client:
                # One that cannot notice by itself.
                client.say(b"hang")
                crew.signal(signal.SIGKILL)
                crew.process.wait(30)
                wait_until(lambda: not any(map(is_alive, pids)), "that all workers have gone")
                assert client.hear() == b""
            with pytest.raises(ConnectionRefusedError):
                crew.connect()

    @pytest.mark.parametrize("first", ["parent", "workers"])
    def test_sigterm_for_all_processes(self, first: str, tmp_path: Path) -> None:
        """As systemd sends it with `KillMode=control-group`."""
        with Crew(tmp_path, workers=1) as crew:
            crew.serves()
            with crew.connect() as client:
                for pid in {"parent": (crew.process.pid, client.pid),
                            "workers": (client.pid, crew.process.pid)}[first]:  # fmt: skip
                    os.kill(pid, signal.SIGTERM)
                    # The worker, whoever was asked.
                    crew.says("draining . servers? with 1 connection|app: stopping on SIGTERM")
                client.say(b"still there?")
                assert client.hear() == b"still there?"
            assert crew.ends() == 0
            assert not crew.said("does not accept|died")

    def test_sigusr1_harms_nobody_who_starts(self, tmp_path: Path) -> None:
        """A new process knows nothing of signals yet, and would end."""
        with Crew(tmp_path, workers=1) as crew:
            crew.serves()
            os.kill(*crew.processes(), signal.SIGKILL)
            crew.says("died")
            wait_until(crew.processes, "that the next is started")
            crew.signal(signal.SIGUSR1)
            crew.says("SIGUSR1: the tree")
            crew.says("worker 1 serves as process")
            assert len(crew.said("died")) == 1

    def test_nobody_wanted_to_know_how_the_parent_ends(self, tmp_path: Path) -> None:
        """Where SIGCHLD is ignored, the system tells no exit status; that is inherited."""
        ignore = ("bash", "-c", 'trap "" CHLD; exec "$@"', "bash")
        with Crew(tmp_path, workers=1, before=ignore) as crew:
            crew.serves()
            os.kill(*crew.processes(), signal.SIGKILL)
            crew.says("worker 1 died: killed by SIGKILL")

    def test_stdin_and_stdout_are_closed(self, tmp_path: Path) -> None:
        """What the target prints goes nowhere, and not to the channel that had that number."""
        closed = ("bash", "-c", 'exec "$@" <&- >&-', "bash")
        with Crew(tmp_path, before=closed) as crew:
            crew.port = int(crew.says(r"server listens at 127\.0\.0\.1:(\d+)").group(1))
            crew.says("2 workers serve$")
            assert crew.greeting() in crew.processes()
            assert not crew.said("WARNING")

    def test_one_that_is_sent_sigterm_drains_and_is_replaced(self, tmp_path: Path) -> None:
        with Crew(tmp_path) as crew:
            crew.serves()
            with crew.connect() as client:
                os.kill(client.pid, signal.SIGTERM)
                crew.says("draining 2 servers with 1 connection")
                assert client.pid != crew.greeting()
                client.say(b"still there?")
                assert client.hear() == b"still there?"
            crew.says("worker . serves")
            assert client.pid not in crew.serving(2)
            assert not crew.said("died")

    @pytest.mark.parametrize("asked", ["itself", "by a roll", "at the end"])
    def test_one_that_dies_while_it_drains(self, asked: str, tmp_path: Path) -> None:
        with Crew(tmp_path, workers=1) as crew:
            crew.serves()
            with crew.connect() as client:
                if asked == "itself":
                    os.kill(client.pid, signal.SIGTERM)
                else:
                    crew.signal(signal.SIGHUP if asked == "by a roll" else signal.SIGTERM)
                crew.says("draining 2 servers with 1 connection")
                os.kill(client.pid, signal.SIGSEGV)
                crew.says(
                    f"ERROR worker 1: process {client.pid} died while it drained: killed by "
                    "SIGSEGV; its connections broke$"
                )
                assert client.hear() == b""
            if asked == "at the end":
                assert crew.ends() == 0
            else:
                assert crew.greeting() != client.pid
            assert not crew.said("worker 1 has left")


class TestStart:
    """What cannot start, and says so."""

    def test_requests_that_wait_for_the_first_crew(self, tmp_path: Path) -> None:
        """They may wait for ever; that is said once of each."""
        (tmp_path / "hangs late").touch()
        with Crew(tmp_path, workers=1) as crew:
            crew.says("hanging")
            why = "waits until every worker has been ready; worker 1 has not"
            crew.signal(signal.SIGHUP)
            crew.says(f"the replacing of workers {why}")
            crew.signal(signal.SIGHUP)
            crew.signal(signal.SIGUSR2)
            crew.says(f"the new parent {why}")
            assert len(crew.said(why)) == 2

    def test_a_target_that_raises(self, tmp_path: Path) -> None:
        (tmp_path / "broken").touch()
        with Crew(tmp_path) as crew:
            assert crew.ends() == 1
            assert crew.said(
                "CRITICAL giving up: worker . cannot start: exit status 1: target.py:Echo failed: "
                "ValueError: the target is broken"
            )
            assert not crew.said("starts in")
            # Its frames too; and all of it once, not by the parent and by each worker.
            assert crew.said('  File ".*target.py", line .*, in start_up')
            assert len(crew.said("the target is broken$")) == 2
            assert len(crew.said("in start_up")) == 1

    def test_the_same_fault_again_is_told_in_short(self, tmp_path: Path) -> None:
        with Crew(tmp_path) as crew:
            crew.serves()
            (tmp_path / "broken").touch()
            os.kill(min(crew.processes()), signal.SIGKILL)
            for _ in range(2):
                crew.says("worker . died at its start: exit status 1: .*: the target is broken; ")
            crew.signal(signal.SIGHUP)
            crew.says("not replaced: .*: the target is broken; 2 workers from before serve on")
            wait_until(lambda: len(crew.said("in start_up")) == 2, "that it is told in full again")
            assert len(crew.said("died at its start")) >= 3

    def test_a_port_that_is_taken(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with Crew(tmp_path, "--set", f"echo.port={port}") as crew:
                assert crew.ends() == 1
                assert crew.said(
                    f"giving up: worker . cannot start: .*127.0.0.1:{port}: port in use"
                )

    def test_the_port_of_the_metrics_is_taken(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with Crew(tmp_path, "--metrics", f"127.0.0.1:{port}") as crew:
                assert crew.ends() == 1
                assert crew.said(f"^ginsfsm: .* cannot start: --metrics: .*:{port}: port in use")
                assert b"Traceback" not in crew.output

    def test_a_target_that_does_not_exist(self, tmp_path: Path) -> None:
        with Crew(tmp_path, "--set", "echo.prot=1", "--name", "echo") as crew:
            assert crew.ends() == 1
            assert crew.said("giving up: worker . cannot start: .*prot")
        with Crew(tmp_path, "--settings", "missing.toml") as crew:
            assert crew.ends() == 2
            assert crew.said("giving up: worker . cannot start: exit status 2: .*missing.toml")

    def test_one_that_dies_at_its_start_again_and_again(
        self, run_async: RunAsync, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Here the test is the parent, with shorter waits than the command's 1, 2 and 4 s."""

        async def parent() -> None:
            app = GAplic("parent")
            command = (sys.executable, "-c", "raise SystemExit(7)")
            workers = app.create_gobj("workers", Workers, app, command=command, backoff=0.01)
            await app.serve()
            assert (workers.state, workers.exit_status) == ("ST_FAILED", 1)

        caplog.set_level("INFO", "ginsfsm")
        run_async(parent)
        deaths = [one for one in caplog.messages if "died at its start: exit status 7" in one]
        assert [one.partition("starts in ")[2] for one in deaths] == ["0.01 s", "0.02 s", "0.04 s"]
        assert caplog.messages[-1] == (
            "giving up: worker 1 died at its start 4 times in succession and no other one serves; "
            "the last time: exit status 7"
        )

    def test_one_that_cannot_be_executed(
        self, run_async: RunAsync, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def parent() -> None:
            app = GAplic("parent")
            app.create_gobj("workers", Workers, app, command=("/nonexistent",), backoff=0.001)
            await app.serve()

        run_async(parent)
        assert "cannot be started: [Errno 2] No such file or directory" in caplog.messages[-1]

    def test_one_that_is_not_ready_in_time(
        self, run_async: RunAsync, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def parent() -> None:
            app = GAplic("parent")
            command = (sys.executable, "-c", "import time; time.sleep(1000)")
            app.create_gobj(
                "workers", Workers, app, command=command, backoff=0.001, start_timeout=0.05
            )
            await app.serve()

        run_async(parent)
        assert caplog.messages[-1].endswith(": was not ready after 0.05 s (--start-timeout)")

    @pytest.mark.parametrize("wrong", ["0", "-1", "two", "1.5", "1025", ""])
    def test_no_number_of_workers(self, wrong: str, tmp_path: Path) -> None:
        with Crew(tmp_path, f"--workers={wrong}", workers=None) as crew:
            assert crew.ends() == 2
            assert crew.said("expected a number of processes, 1 to 1024")

    def test_more_workers_than_descriptors(self, tmp_path: Path) -> None:
        few = ("bash", "-c", 'ulimit -n 64; exec "$@"', "bash")
        with Crew(tmp_path, workers=40, before=few) as crew:
            assert crew.ends() == 2
            assert crew.said(
                r"--workers 40 takes 112 descriptors in the parent, and it may have 64"
            )
            assert not crew.said("Traceback")

    def test_sigterm_before_they_serve(self, tmp_path: Path) -> None:
        (tmp_path / "hangs").touch()
        with Crew(tmp_path) as crew:
            wait_until(lambda: len(crew.processes()) == 2, "that both have been started")
            pids = crew.processes()
            crew.says("starting 2 workers")
            crew.signal(signal.SIGTERM)
            assert crew.ends() == 0
            assert not any(map(is_alive, pids))


class TestRoll:
    """SIGHUP: every worker is replaced."""

    def test_all_are_replaced_and_clients_stay(self, tmp_path: Path) -> None:
        with Crew(tmp_path) as crew:
            crew.serves()
            before = crew.processes()
            with crew.connect() as client:
                crew.signal(signal.SIGHUP)
                crew.says("replacing 2 workers")
                crew.says("2 workers serve$")
                crew.wait_for_others_than(before)
                client.say(b"still there?")
                assert client.hear() == b"still there?"
            wait_until(lambda: not any(map(is_alive, before)), "that the old ones have gone")
            assert len(crew.processes()) == 2

    def test_the_queue_is_left_to_the_new_ones(self, tmp_path: Path) -> None:
        with Crew(tmp_path, workers=1) as crew:
            crew.serves()
            with crew.connect() as client:
                client.say(b"pause")
                assert client.hear() == b"pause"
                # The next one does not accept either, so the first leaves with somebody waiting.
                (tmp_path / "paused").touch()
                before = crew.processes()
                with crew.waiting() as waiting:
                    crew.signal(signal.SIGHUP)
                    crew.says("draining 2 servers with 1 connection")
                    client.say(b"still there?")
                    assert client.hear() == b"still there?"
                    (tmp_path / "paused").unlink()
                    before |= crew.processes()
                    crew.signal(signal.SIGHUP)
                    assert waiting.greeted() not in before
                    waiting.say(b"hello")
                    assert waiting.hear() == b"hello"

    def test_what_is_new_and_broken_does_not_replace(self, tmp_path: Path) -> None:
        with Crew(tmp_path) as crew:
            crew.serves()
            before = crew.processes()
            (tmp_path / "broken").touch()
            crew.signal(signal.SIGHUP)
            crew.says(
                "ERROR not replaced: the new worker died at its start: .*the target is broken; "
            )
            crew.says("2 workers serve$")
            assert crew.serving(2) == before == crew.processes()
            (tmp_path / "broken").unlink()
            crew.signal(signal.SIGHUP)
            crew.says("2 workers serve$")
            crew.wait_for_others_than(before)

    def test_again_while_it_rolls(self, tmp_path: Path) -> None:
        """What has changed meanwhile reaches every worker, by one more roll and not by ten."""
        with Crew(tmp_path) as crew:
            crew.serves()
            crew.signal(signal.SIGHUP)
            crew.says("replacing")
            for _ in range(10):
                crew.signal(signal.SIGHUP)
            crew.says("2 workers serve$")
            crew.says("replacing")
            crew.says("2 workers serve$")
            crew.signal(signal.SIGTERM)
            assert crew.ends() == 0
            assert len(crew.said("INFO replacing")) == 2
            assert len(crew.said("the replacing of workers waits until the replacing that")) == 1

    def test_an_upgrade_that_is_asked_for_while_it_rolls(self, tmp_path: Path) -> None:
        """It comes after, once, though it was asked for twice."""
        with Crew(tmp_path, workers=1) as crew:
            crew.serves()
            before = crew.processes()
            (tmp_path / "hangs late").touch()
            crew.signal(signal.SIGHUP)
            crew.says("hanging")
            for _ in range(2):
                crew.signal(signal.SIGUSR2)
            crew.says("the new parent waits until the replacing that goes on has ended")
            # The new worker cannot start; and so it is with the new parent, which is tried now.
            (tmp_path / "broken").touch()
            os.kill(*crew.processes() - before, signal.SIGKILL)
            crew.says("not replaced: the new worker died at its start: killed by SIGKILL")
            crew.says("starting a new parent")
            crew.says("not upgraded: the new parent died: exit status 1")
            crew.greeting()
            assert len(crew.said("the new parent waits")) == 1
            assert len(crew.said("starting a new parent")) == 1

    @pytest.mark.alone
    def test_nobody_is_refused_and_no_byte_is_lost(self, tmp_path: Path) -> None:
        """10 000 attempts while all workers are replaced again and again."""
        with Crew(tmp_path) as crew:
            crew.serves()
            tally = Tally()

            async def under_load() -> int:
                rolls = 0
                load = asyncio.create_task(attempts(crew.port, 10_000, tally, lambda: rolls > 3))
                while not load.done():
                    crew.signal(signal.SIGHUP)
                    rolls += 1
                    ends = rolls + 1
                    while not load.done() and len(crew.said("workers serve$")) < ends:
                        await asyncio.sleep(0.01)
                await load
                return rolls

            rolls = asyncio.run(under_load())
            assert not tally.lost
            assert tally.done >= 10_000
            assert rolls > 3
            assert len(tally.by) >= 2 * (rolls - 1)


class TestTotals:
    """No counter runs backwards, whatever becomes of a worker."""

    def test_the_sum_outlives_the_process(self) -> None:
        def counted(accepted: int, open_now: int) -> Snapshot:
            return Snapshot(servers={"app/server": ServerStats(accepted=accepted, open=open_now)})

        totals = Totals()
        heard: list[str] = []
        totals.on_change.append(heard.append)
        totals.note("worker_1", 100, counted(5, 2))
        totals.note("worker_2", 101, counted(7, 3))
        assert totals.sum() == counted(12, 5)
        totals.note("worker_1", 100, counted(6, 1))
        assert totals.sum().servers["app/server"].accepted == 13
        # Killed: what it said last counts, but it has nothing open.
        totals.ended("worker_2")
        assert totals.sum().servers["app/server"].accepted == 13
        assert totals.sum().servers["app/server"].open == 1
        # The next process in the place of the first, which has drained.
        totals.note("worker_1", 102, counted(1, 1))
        assert totals.sum().servers["app/server"].accepted == 14
        assert totals.sum().servers["app/server"].open == 1
        totals.ended("worker_3")
        assert heard == ["worker_1", "worker_2", "worker_1", "worker_2", "worker_1", "worker_1",
                         "worker_3"]  # fmt: skip

    def test_a_worker_that_makes_a_server_anew(self) -> None:
        """A sum that fell by a part would look to Prometheus as if all of it had come again."""

        def counted(**servers: ServerStats) -> Snapshot:
            return Snapshot(servers=servers)

        totals = Totals()
        hundred = ServerStats(accepted=100, closed=98, open=2, refused={"full": 3})
        for number in (1, 2):
            totals.note(f"worker_{number}", number, counted(server=hundred))
        # It counts from 0.
        totals.note("worker_1", 1, counted(server=ServerStats(refused={"rate": 9})))
        told = totals.sum().servers["server"]
        assert told.refused == {"full": 6, "rate": 9}
        assert (told.accepted, told.closed, told.open) == (200, 198, 2)
        # It is gone, and there again.
        totals.note("worker_2", 2, counted())
        assert totals.sum().servers["server"].accepted == 200
        totals.note("worker_2", 2, counted(server=ServerStats(accepted=1, closed=1)))
        assert totals.sum().servers["server"].accepted == 201
        # As in one process: where no worker has it any more its numbers go, and names that nobody
        # uses again do not add up.
        totals.note("worker_1", 1, counted(other=ServerStats()))
        totals.note("worker_2", 2, counted())
        assert totals.sum() == counted(other=ServerStats())


def test_the_largest_of_those_that_live() -> None:
    """By that the parent judges how often it may ask; see `Census`."""
    totals = Totals()
    assert totals.largest == 0
    servers = {"a": ServerStats(open=7), "b": ServerStats(open=2)}
    totals.note("one", 1, Snapshot(gaplic=GaplicStats(gobjs=20), servers=servers))
    totals.note("two", 2, Snapshot(gaplic=GaplicStats(gobjs=10), servers=servers))
    assert totals.largest == 29
    totals.ended("one")
    assert totals.largest == 19
