"""An upgrade under load: the listening sockets are handed to a new process, and nothing is lost.

There are two ways. The service manager holds the sockets and gives them to each process that it
starts (`LISTEN_FDS`); here the test is that manager. Or a parent gives them to its successor
(SIGUSR2).
"""

import asyncio
import os
import re
import signal
import socket
import sys
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from crew import Crew, Tally, attempts, children, is_alive, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc to see what lives")

# As a service manager does it: the socket is descriptor 3, and the variables name the process.
GIVE = ("bash", "-c", 'fd=$1; shift; LISTEN_PID=$$ exec "$@" 3<&"$fd"', "bash")


class Manager:
    """Holds a listening socket, and starts commands that serve it."""

    def __init__(self, folder: Path, stack: ExitStack, *words: str, workers: int | None) -> None:
        self.folder = folder
        self.stack = stack
        self.words = (*words, "--set", "echo.fd_name=main")
        self.workers = workers
        self.sock = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
        self.port = self.sock.getsockname()[1]

    def start(self) -> Crew:
        crew = self.stack.enter_context(
            Crew(
                self.folder, *self.words, workers=self.workers,
                before=(*GIVE, str(self.sock.fileno())), descriptors=(self.sock.fileno(),),
                LISTEN_FDS="1", LISTEN_FDNAMES="main",
            )
        )  # fmt: skip
        crew.port = self.port
        return crew

    def serves(self, crew: Crew) -> bool:
        return bool(crew.said("workers? serves?$" if self.workers else "ports .* of"))


@pytest.mark.parametrize("workers", [None, 2], ids=["one process", "workers"])
class TestSocketOfTheServiceManager:
    def test_it_is_served_and_stays_open(self, workers: int | None, tmp_path: Path) -> None:
        with ExitStack() as stack:
            manager = Manager(tmp_path, stack, workers=workers)
            first = manager.start()
            pid = first.greeting()
            first.signal(signal.SIGTERM)
            assert first.ends() == 0
            with first.waiting() as waiting:
                # Nobody serves, and nobody is refused.
                second = manager.start()
                assert waiting.greeted() != pid
            second.signal(signal.SIGTERM)
            assert second.ends() == 0

    def test_the_queue_is_left_to_the_next(self, workers: int | None, tmp_path: Path) -> None:
        with ExitStack() as stack:
            manager = Manager(tmp_path, stack, workers=workers and 1)
            first = manager.start()
            with first.connect() as client:
                client.say(b"pause")
                assert client.hear() == b"pause"
                with first.waiting() as waiting:
                    first.signal(signal.SIGTERM)
                    first.says("draining 2 servers")
                    client.say(b"still there?")
                    assert client.hear() == b"still there?"
                    manager.start()
                    assert waiting.greeted() != client.pid

    @pytest.mark.alone
    @pytest.mark.parametrize("overlap", [True, False], ids=["new first", "old first"])
    def test_nothing_is_lost(self, overlap: bool, workers: int | None, tmp_path: Path) -> None:
        """Attempts without end, while one process takes over from another again and again."""
        count = 10_000 if overlap and not workers else 2_000
        with ExitStack() as stack:
            manager = Manager(tmp_path, stack, workers=workers)
            tally = Tally()

            async def upgrade(old: Crew) -> Crew:
                if overlap:
                    new = manager.start()
                    await until(lambda: manager.serves(new))
                old.signal(signal.SIGTERM)
                await until(lambda: old.process.poll() is not None)
                if not overlap:
                    new = manager.start()
                    await until(lambda: manager.serves(new))
                assert old.ends() == 0
                return new

            first = manager.start()
            first.says("workers serve$" if workers else "ports .* of")
            asyncio.run(under_load(first, upgrade, tally, count))


class TestSigusr2:
    def test_a_new_parent_takes_over(self, tmp_path: Path) -> None:
        with Crew(tmp_path) as crew:
            crew.serves()
            before = crew.processes()
            with crew.connect() as client:
                crew.signal(signal.SIGUSR2)
                heir = int(crew.says(r"process (\d+) takes over; draining 2 workers").group(1))
                try:
                    crew.wait_for_others_than(before)
                    assert crew.serving(2) == children(heir)
                    client.say(b"still there?")
                    assert client.hear() == b"still there?"
                    client.__exit__()
                    wait_until(lambda: crew.process.poll() is not None, "that the old one ends")
                    assert crew.process.returncode == 0
                    assert not any(map(is_alive, before))
                    # The same again, with a parent that is nobody's child of ours.
                    os.kill(heir, signal.SIGHUP)
                    crew.says("2 workers serve$")
                    os.kill(heir, signal.SIGTERM)
                    wait_until(lambda: not is_alive(heir), "that the heir has ended")
                    with pytest.raises(ConnectionRefusedError):
                        crew.connect()
                finally:
                    end(heir)

    def test_one_that_cannot_start_changes_nothing(self, tmp_path: Path) -> None:
        with Crew(tmp_path) as crew:
            crew.serves()
            before = crew.processes()
            (tmp_path / "broken").touch()
            crew.signal(signal.SIGUSR2)
            crew.says("not upgraded: the new parent died: exit status 1")
            assert crew.serving(2) == before
            wait_until(lambda: crew.processes() == before, "that nothing is left of the new one")

    def test_a_roll_that_is_asked_for_meanwhile(self, tmp_path: Path) -> None:
        """It comes after, once, where the new parent cannot start."""
        with Crew(tmp_path, workers=1) as crew:
            crew.serves()
            before = crew.processes()
            (tmp_path / "hangs late").touch()
            crew.signal(signal.SIGUSR2)
            crew.says("hanging")
            (heir,) = crew.processes() - before
            for _ in range(2):
                crew.signal(signal.SIGHUP)
            crew.says("the replacing of workers waits until it is known whether the new parent")
            crew.signal(signal.SIGUSR2)
            crew.says("the new parent is not started: one is being started already")
            (tmp_path / "hangs late").unlink()
            end(heir)
            crew.says("not upgraded: the new parent died: killed by SIGKILL")
            crew.says("replacing 1 worker")
            crew.says("1 worker serves$")
            assert crew.greeting() not in before
            crew.signal(signal.SIGTERM)
            assert crew.ends() == 0
            assert len(crew.said("INFO replacing 1 worker")) == 1

    def test_what_is_asked_of_one_that_ends(self, tmp_path: Path) -> None:
        with Crew(tmp_path, workers=1) as crew:
            crew.serves()
            with crew.connect():
                crew.signal(signal.SIGTERM)
                crew.says("draining 2 servers with 1 connection")
                crew.signal(signal.SIGHUP)
                crew.says("the replacing of workers is not started: this parent is ending")
                crew.signal(signal.SIGUSR2)
                crew.says("the new parent is not started: this parent is ending")
            assert crew.ends() == 0

    def test_with_the_socket_of_a_service_manager(self, tmp_path: Path) -> None:
        """The new parent has it of the old one, and the service manager keeps it."""
        with ExitStack() as stack:
            manager = Manager(tmp_path, stack, workers=1)
            crew = manager.start()
            before = {crew.greeting()}
            crew.says("worker serves$")
            with crew.connect() as client:
                crew.signal(signal.SIGUSR2)
                heir = int(crew.says(r"process (\d+) takes over").group(1))
                stack.callback(end, heir)
                wait_until(lambda: crew.greeting() not in before, "that the new one serves")
                client.say(b"still there?")
                assert client.hear() == b"still there?"
            assert crew.process.wait(30) == 0
            assert crew.greeting() in children(heir)
            os.kill(heir, signal.SIGTERM)
            wait_until(lambda: not is_alive(heir), "that the heir has ended")
            with crew.waiting() as waiting:
                manager.start()
                assert waiting.greeted() not in before

    def test_the_page_of_metrics_is_handed_over_too(self, tmp_path: Path) -> None:
        with free_port() as port, Crew(tmp_path, "--metrics", f"127.0.0.1:{port}") as crew:
            crew.serves()
            assert processes_by_metrics(port) == 2
            crew.signal(signal.SIGHUP)
            wait_until(lambda: len(crew.said("workers serve$")) == 2, "that the roll is over")
            assert processes_by_metrics(port) >= 2
            crew.signal(signal.SIGUSR2)
            crew.says("takes over")
            assert processes_by_metrics(port) >= 2
            heir = int(crew.said(r"process (\d+) takes over")[-1])
            try:
                wait_until(lambda: crew.process.poll() is not None, "that the old one ends")
                assert crew.process.returncode == 0
                assert processes_by_metrics(port) == 2
            finally:
                end(heir)

    def test_a_unix_socket_keeps_its_file(self, tmp_path: Path) -> None:
        path = tmp_path / "socket"
        with Crew(tmp_path, "--set", f"echo.unix_path={path}") as crew:
            crew.says("workers serve$")
            inode = path.stat().st_ino
            crew.signal(signal.SIGUSR2)
            heir = int(crew.says(r"process (\d+) takes over").group(1))
            try:
                wait_until(lambda: crew.process.poll() is not None, "that the old one ends")
                assert path.stat().st_ino == inode
                with socket.socket(socket.AF_UNIX) as client:
                    client.settimeout(20)
                    client.connect(str(path))
                    with client.makefile("rb") as file:
                        assert int(file.readline()) in children(heir)
                os.kill(heir, signal.SIGTERM)
                wait_until(lambda: not path.exists(), "that the heir removes the file")
            finally:
                end(heir)

    @pytest.mark.parametrize("instead", ["another program's", None])
    def test_a_unix_socket_whose_file_is_not_there_any_more(
        self, instead: str | None, tmp_path: Path
    ) -> None:
        """Whoever has made a file knows which it is; the heir must not take another for it."""
        path = tmp_path / "socket"
        with (
            socket.socket(socket.AF_UNIX) as other,
            Crew(tmp_path, "--set", f"echo.unix_path={path}", workers=1) as crew,
        ):
            crew.says("worker serves$")
            path.unlink()
            if instead:
                other.bind(str(path))
            crew.signal(signal.SIGUSR2)
            heir = int(crew.says(r"process (\d+) takes over").group(1))
            try:
                crew.says("parent/workers has stopped")
                os.kill(heir, signal.SIGTERM)
                crew.says("parent/workers has stopped")
                wait_until(lambda: not is_alive(heir), "that the heir has ended")
            finally:
                end(heir)
            assert path.exists() == (instead is not None)

    @pytest.mark.parametrize("how", ["fails", "is terminated", "is interrupted"])
    def test_one_that_does_not_take_over_leaves_the_file(self, how: str, tmp_path: Path) -> None:
        """It has the Unix socket by then, and the old parent serves on."""
        path = tmp_path / "socket"
        with Crew(tmp_path, "--set", f"echo.unix_path={path}", workers=1) as crew:
            crew.says("worker serves$")
            before = crew.processes()
            inode = path.stat().st_ino
            (tmp_path / ("fails late" if how == "fails" else "hangs late")).touch()
            crew.signal(signal.SIGUSR2)
            if how != "fails":
                crew.says("hanging")
                (heir,) = crew.processes() - before
                os.kill(heir, signal.SIGTERM if how == "is terminated" else signal.SIGINT)
            crew.says("not upgraded: the new parent died")
            assert path.stat().st_ino == inode
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(20)
                client.connect(str(path))
                with client.makefile("rb") as file:
                    assert int(file.readline()) in before

    @pytest.mark.alone
    def test_nothing_is_lost(self, tmp_path: Path) -> None:
        """Attempts without end, while parents take over from one another."""
        heirs: list[int] = []
        with Crew(tmp_path) as crew:
            crew.serves()
            tally = Tally()

            async def upgrade(old: Crew) -> Crew:
                os.kill(heirs[-1] if heirs else old.process.pid, signal.SIGUSR2)
                await until(lambda: len(old.said("takes over")) > len(heirs))
                heirs.append(int(old.said(r"process (\d+) takes over")[-1]))
                return old

            try:
                asyncio.run(under_load(crew, upgrade, tally, 2_000))
            finally:
                for heir in heirs:
                    end(heir)


@contextmanager
def free_port() -> Iterator[int]:
    """A port that nobody gets by chance meanwhile, since it is bound; others may listen there."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, True)
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


def processes_by_metrics(port: int) -> int:
    """How many workers the page says that it speaks of."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        page = answer.read().decode()
    found = re.search(r"^ginsfsm_processes (\d+)", page, re.MULTILINE)
    assert found is not None, page
    return int(found[1])


UPGRADES = 3


async def under_load(
    crew: Crew, upgrade: Callable[[Crew], Awaitable[Crew]], tally: Tally, count: int
) -> None:
    """Make so many attempts at least, and upgrade now and then meanwhile."""
    upgrades = 0
    load = asyncio.create_task(attempts(crew.port, count, tally, lambda: upgrades == UPGRADES))
    try:
        while upgrades < UPGRADES and not load.done():
            # Not back to back: one that is replaced at once serves hardly anybody.
            aim = tally.done + count // (UPGRADES + 2)
            await until(lambda aim=aim: tally.done >= aim or load.done())  # type: ignore[misc]
            crew = await upgrade(crew)
            upgrades += 1
        await load
    finally:
        load.cancel()
    assert not tally.lost
    assert tally.done >= count
    assert upgrades == UPGRADES
    # Every one of them has served.
    assert len(tally.by) > UPGRADES


async def until(done: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not done():
            await asyncio.sleep(0.005)


def end(pid: int) -> None:
    """Of a process that is no child of ours."""
    if is_alive(pid):
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(pid))
