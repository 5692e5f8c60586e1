"""What the service manager is told, on a real datagram socket, by the class and by the command."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from crew import Crew, is_alive, wait_until
from ginsfsm.service_manager import ServiceManager

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no Unix sockets")


class Manager:
    """The other end: what it has been told, a datagram each.

    Attributes:
        address: as it stands in `NOTIFY_SOCKET`.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self.sock.settimeout(20)
        if sys.platform == "linux":
            # systemd believes only whom the kernel names.
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)

    def told(self) -> dict[str, str]:
        """The next datagram, but for signs of life."""
        while True:
            lines = self.sock.recv(4096).decode().split("\n")
            found = dict(line.split("=", 1) for line in lines)
            if found != {"WATCHDOG": "1"}:
                return found

    def hears_life(self) -> float:
        """Wait for a sign of life; the time when it came."""
        while True:
            if self.sock.recv(4096) == b"WATCHDOG=1":
                return time.monotonic()

    def hears_for_ever(self) -> None:
        """Until nothing comes any more, which is an error."""
        while True:
            self.hears_life()


@contextmanager
def manager_at(address: str) -> Iterator[Manager]:
    manager = Manager(address)
    try:
        yield manager
    finally:
        manager.sock.close()


@pytest.fixture(params=["file", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    if request.param == "abstract" and sys.platform != "linux":
        pytest.skip("only Linux has abstract names")
    address = f"@{tmp_path}" if request.param == "abstract" else str(tmp_path / "notify")
    with manager_at(address) as made:
        yield made


class TestServiceManager:
    def test_what_it_is_told(self, manager: Manager) -> None:
        environment = {"NOTIFY_SOCKET": manager.address, "HOME": "/"}
        service = ServiceManager.of_environment(environment)
        # So that nothing that we start speaks for us.
        assert environment == {"HOME": "/"}
        assert service.present
        service.ready("2 workers serve")
        assert manager.told() == {"READY": "1", "STATUS": "2 workers serve"}
        service.stopping(0)
        assert manager.told() == {"STOPPING": "1"}
        service.stopping(30)
        assert manager.told() == {"STOPPING": "1", "EXTEND_TIMEOUT_USEC": "35000000"}
        service.status("one line\nREADY=1")
        assert manager.told() == {"STATUS": "one line READY=1"}
        service.main_process(17)
        assert manager.told() == {"MAINPID": "17"}

    def test_the_clock_of_a_reload_is_the_managers(self, manager: Manager) -> None:
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        ServiceManager(manager.address).reloading()
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        told = manager.told()
        assert told.keys() == {"RELOADING", "MONOTONIC_USEC"}
        assert before <= int(told["MONOTONIC_USEC"]) <= after

    def test_a_sign_of_life_only_where_one_is_wanted(self, manager: Manager) -> None:
        ServiceManager(manager.address).alive()
        ServiceManager(manager.address, 1.0).alive()
        assert manager.sock.recv(100) == b"WATCHDOG=1"
        manager.sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            manager.sock.recv(100)

    def test_nobody_wants_to_know(self, caplog: pytest.LogCaptureFixture) -> None:
        service = ServiceManager.of_environment({})
        service.ready()
        service.stopping(1)
        service.alive()
        assert (service.present, service.beat, caplog.text) == (False, 0.0, "")

    @pytest.mark.parametrize("address", ["nonsense", "vsock:2:1234", "@", "/"])
    def test_an_address_that_is_none(self, address: str, caplog: pytest.LogCaptureFixture) -> None:
        service = ServiceManager.of_environment({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000"})
        service.ready()
        assert (service.present, service.beat) == (False, 0.0)
        (message,) = caplog.messages
        assert message.startswith(f"NOTIFY_SOCKET={address}: expected a path, or @ and a name;")

    def test_one_that_has_gone_is_told_of_once(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        service = ServiceManager(str(tmp_path / "gone"))
        for _ in range(3):
            service.ready()
        (message,) = caplog.messages
        assert f"the service manager at {tmp_path}/gone cannot be told" in message

    def test_one_that_does_not_read_holds_nobody_up(
        self, manager: Manager, caplog: pytest.LogCaptureFixture
    ) -> None:
        service = ServiceManager(manager.address)
        for _ in range(1000):
            service.ready()
        assert len(caplog.messages) == 1

    @pytest.mark.parametrize(
        ("given", "seconds"),
        [
            ({"WATCHDOG_USEC": "3000000"}, 3.0),
            ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "ours"}, 3.0),
            ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, 0.0),
            ({"WATCHDOG_USEC": ""}, 0.0),
            ({"WATCHDOG_USEC": "0"}, 0.0),
            ({"WATCHDOG_USEC": "-1"}, 0.0),
            ({"WATCHDOG_USEC": "3s"}, 0.0),
            ({"WATCHDOG_USEC": "1"}, 0.02),
            ({}, 0.0),
        ],
        ids=repr,
    )
    def test_how_often_it_wants_a_sign_of_life(
        self, given: dict[str, str], seconds: float, tmp_path: Path
    ) -> None:
        # In the test's name there may be no number that differs from process to process.
        given = {name: value.replace("ours", str(os.getpid())) for name, value in given.items()}
        service = ServiceManager.of_environment({"NOTIFY_SOCKET": str(tmp_path / "n"), **given})
        assert service.watchdog == seconds
        assert service.beat == seconds / 2


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc to see what lives")
@pytest.mark.parametrize("workers", [None, 2], ids=["one process", "workers"])
# Both kinds of addresses are in the tests of the class above.
@pytest.mark.parametrize("manager", ["file"], indirect=True)
class TestCommand:
    def test_from_ready_to_stopping(
        self, workers: int | None, manager: Manager, tmp_path: Path
    ) -> None:
        with Crew(tmp_path, workers=workers, NOTIFY_SOCKET=manager.address) as crew:
            status = {"STATUS": "2 workers serve"} if workers else {}
            assert manager.told() == {"READY": "1", **status}
            # It serves by then.
            crew.port = int(crew.says(r"ports (\d+)").group(1))
            with crew.connect() as client:
                crew.signal(signal.SIGHUP)
                assert manager.told().keys() == {"RELOADING", "MONOTONIC_USEC"}
                assert manager.told() == {"READY": "1", **status}
                crew.signal(signal.SIGTERM)
                told = manager.told()
                assert told["STOPPING"] == "1"
                assert told["EXTEND_TIMEOUT_USEC"] == "35000000"
                client.say(b"bye")
                assert client.hear() == b"bye"
            assert crew.ends() == 0
            # Of the workers nobody has told anything.
            manager.sock.setblocking(False)
            with pytest.raises(BlockingIOError):
                manager.told()

    def test_signs_of_life(self, workers: int | None, manager: Manager, tmp_path: Path) -> None:
        with Crew(tmp_path, workers=workers, NOTIFY_SOCKET=manager.address, WATCHDOG_USEC="100000"):
            for _ in range(5):
                manager.hears_life()

    def test_a_loop_that_hangs_gives_none(
        self, workers: int | None, manager: Manager, tmp_path: Path
    ) -> None:
        """Of a process that serves itself. With workers the parent does not hang with one."""
        with Crew(
            tmp_path, workers=workers, NOTIFY_SOCKET=manager.address, WATCHDOG_USEC="100000"
        ) as crew:
            crew.port = int(crew.says(r"ports (\d+)").group(1))
            with crew.connect() as client:
                client.say(b"hang")
                # Ten times as long as between two signs of life.
                manager.sock.settimeout(0.5)
                if workers:
                    for _ in range(20):
                        manager.hears_life()
                else:
                    with pytest.raises(TimeoutError):
                        manager.hears_for_ever()
                    crew.signal(signal.SIGKILL)

    def test_it_cannot_start(self, workers: int | None, manager: Manager, tmp_path: Path) -> None:
        (tmp_path / "broken").touch()
        with Crew(tmp_path, workers=workers, NOTIFY_SOCKET=manager.address) as crew:
            assert crew.ends() == 1
            if workers:
                assert manager.told()["STOPPING"] == "1"
            manager.sock.setblocking(False)
            with pytest.raises(BlockingIOError):
                manager.told()


def parent_of(pid: int) -> int:
    """As the kernel says."""
    (line,) = re.findall(r"^PPid:\t(\d+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(line)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc to see what lives")
def test_the_heir_becomes_the_main_process(tmp_path: Path) -> None:
    """It is no child of the old one: systemd lets a main process drain only if it is its own."""
    with (
        manager_at(str(tmp_path / "notify")) as manager,
        Crew(tmp_path, NOTIFY_SOCKET=manager.address) as crew,
    ):
        assert manager.told()["READY"] == "1"
        crew.signal(signal.SIGUSR2)
        # From the heir, whom systemd does not know yet; then from the main process.
        told = [manager.told(), manager.told()]
        heir = next(int(one["MAINPID"]) for one in told if "MAINPID" in one)
        try:
            parent = parent_of(heir)
            crew.says(f"process {heir} takes over")
            os.kill(heir, signal.SIGTERM)
            assert manager.told()["STOPPING"] == "1"
        finally:
            wait_until(lambda: not is_alive(heir), "that the heir has ended")
        assert parent != crew.process.pid


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc to see what lives")
def test_an_heir_that_is_nobodys_child_is_watched_all_the_same(tmp_path: Path) -> None:
    with (
        manager_at(str(tmp_path / "notify")) as manager,
        Crew(tmp_path, workers=1, NOTIFY_SOCKET=manager.address) as crew,
    ):
        crew.serves()
        before = crew.processes()
        (tmp_path / "broken").touch()
        crew.signal(signal.SIGUSR2)
        crew.says("not upgraded: the new parent died: how, only the service manager is told")
        assert crew.serving(1) == before
        (tmp_path / "broken").unlink()
        (tmp_path / "hangs late").touch()
        crew.signal(signal.SIGUSR2)
        crew.says("hanging")
        (heir,) = heirs_of(tmp_path)
        crew.signal(signal.SIGINT)
        assert crew.ends() == 0
        assert not is_alive(heir), "it has been killed by the time that the old one has ended"


def heirs_of(folder: Path) -> list[int]:
    """Processes that run there as nobody's child of ours: new parents."""
    found = []
    for one in Path("/proc").iterdir():
        if one.name.isdecimal():
            try:
                words = (one / "environ").read_bytes().split(b"\0")
                runs_there = os.readlink(one / "cwd") == str(folder)
            except OSError:
                continue
            if runs_there and any(word.startswith(b"GINSFSM_HEIR=") for word in words):
                found.append(int(one.name))
    return found


def test_it_says_what_systemd_notify_says(
    manager: Manager, require_program: Callable[[str], str]
) -> None:
    """The program of systemd itself, beside ours: the same bytes."""
    program = require_program("systemd-notify")
    subprocess.run(
        [program, "--no-block", "--ready", "--status=all is well"],
        env={**os.environ, "NOTIFY_SOCKET": manager.address},
        check=True,
        timeout=20,
    )
    theirs = manager.sock.recv(4096)
    ServiceManager(manager.address).ready("all is well")
    assert sorted(manager.sock.recv(4096).split(b"\n")) == sorted(theirs.split(b"\n"))
