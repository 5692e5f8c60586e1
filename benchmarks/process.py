"""The processes of a measured run, and what the kernel says that they cost.

A `Child` runs on one core and is told and asked by lines. A `Server` is a child that prints its
port. Everything read from ``/proc`` is read here.
"""

import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

HERE = Path(__file__).resolve().parent

START_SECONDS = 20.0
"""A server that has not printed its port by then counts as failed."""

STOP_SECONDS = 3.0
"""Time for a child to obey SIGTERM before it is killed."""

REST_STEP = 0.02
REST_NS = 100_000
REST_SECONDS = 5.0
"""A server is at rest when it used under 0.1 ms of CPU in 20 ms; timers of its own stay below."""

PSS_STEP = 0.15
PSS_SAME = 4
PSS_SLACK = 16 * 1024
PSS_SECONDS = 15.0
"""Memory is stable when four readings in a row lie within 16 KiB."""

DISTORTING = (
    "PYTHONASYNCIODEBUG",
    "PYTHONDEVMODE",
    "PYTHONMALLOC",
    "PYTHONTRACEMALLOC",
    "SSLKEYLOGFILE",
)
"""Variables that would slow the Python servers, or some of them, but not the C programs."""


class BenchError(Exception):
    """A run that cannot be measured, in words for the person who started it."""


class Child:
    """A process pinned to one core, spoken to by lines; a context manager that ends it.

    Its standard error goes to a file, so a failure can be told with what the process said.
    """

    def __init__(self, title: str, command: Sequence[str], core: int) -> None:
        self.title = title
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed in `stop`)
        self._unread = b""
        environment = {name: value for name, value in os.environ.items() if name not in DISTORTING}
        launcher = [sys.executable, str(HERE / "launch.py"), str(core), str(os.getpid())]
        # A session of its own keeps Ctrl-C at the terminal from the children: the harness ends
        # them in order, and they print no tracebacks of their own.
        self._process = subprocess.Popen(
            [*launcher, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            start_new_session=True,
        )
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def tell(self, line: str) -> None:
        """Write one line to the child."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self.failure("does not listen any more") from None

    def ask(self, seconds: float) -> str:
        """Return the next line that the child prints; `BenchError` if none comes in time."""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline = time.monotonic() + seconds
        while b"\n" not in self._unread:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                raise self.failure(f"said nothing for {seconds:g} s")
            data = os.read(descriptor, 65536)
            if not data:
                raise self.failure("ended early")
            self._unread += data
        line, self._unread = self._unread.split(b"\n", 1)
        return line.decode()

    def failure(self, what: str) -> BenchError:
        """Return an error that says what happened, with the end of the child's own words."""
        try:
            self._process.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            status = "still running"
        else:
            status = f"exit status {self._process.returncode}"
        self._errors.seek(0)
        words = self._errors.read().decode(errors="replace").strip().splitlines()[-4:]
        said = "".join(f"\n    {line}" for line in words) if words else ""
        return BenchError(f"{self.title} {what} ({status}){said}")

    def stop(self) -> None:
        """End the child: end of file, SIGTERM, and SIGKILL if it does not obey."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(timeout=STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._errors.close()


class Server(Child):
    """An echo server of one peer, listening when the constructor returns."""

    def __init__(self, title: str, command: Sequence[str], core: int) -> None:
        super().__init__(title, command, core)
        try:
            line = self.ask(START_SECONDS)
            if not line.isdigit():
                raise BenchError(f"{title} printed {line!r} instead of its port")
        except BaseException:
            self.stop()
            raise
        self.port = int(line)

    def cpu_ns_at_rest(self) -> int:
        """Wait until the server has nothing left to do, then return its CPU time so far."""
        deadline = time.monotonic() + REST_SECONDS
        before = self.cpu_ns()
        while time.monotonic() < deadline:
            time.sleep(REST_STEP)
            now = self.cpu_ns()
            if now - before < REST_NS:
                return now
            before = now
        raise BenchError(f"{self.title} still uses its core {REST_SECONDS:g} s after the load")

    def cpu_ns(self) -> int:
        """Return the CPU time of all threads of the server, in nanoseconds."""
        try:
            return cpu_ns(self.pid)
        except OSError:
            raise self.failure("died") from None

    def stable_pss(self) -> int:
        """Wait until the memory of the server stays the same; return its PSS in bytes."""
        deadline = time.monotonic() + PSS_SECONDS
        readings: list[int] = []
        while time.monotonic() < deadline:
            try:
                readings.append(pss_bytes(self.pid))
            except OSError:
                raise self.failure("died") from None
            last = readings[-PSS_SAME:]
            if len(last) == PSS_SAME and max(last) - min(last) <= PSS_SLACK:
                return last[-1]
            time.sleep(PSS_STEP)
        raise BenchError(f"the memory of {self.title} is not stable after {PSS_SECONDS:g} s")


def has_schedstat() -> bool:
    """Whether this kernel counts CPU time in nanoseconds for every thread."""
    try:
        return int(Path("/proc/self/schedstat").read_text().split()[0]) > 0
    except (OSError, IndexError):
        return False


SCHEDSTAT = has_schedstat()


def cpu_ns(pid: int) -> int:
    """Return the CPU time that a process has used, user and system, in nanoseconds."""
    process = Path(f"/proc/{pid}")
    if SCHEDSTAT:
        # The file of the process itself speaks of its first thread only.
        tasks = (process / "task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)
    # Fields 14 and 15, in clock ticks; the name of the command before them may have spaces.
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def machine_seconds() -> float:
    """Return the seconds that all processors together have not been idle since the start."""
    with open("/proc/stat") as file:
        # user, nice, system, idle, iowait, irq, softirq, steal; guest time is in user already.
        ticks = [int(field) for field in file.readline().split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def pss_bytes(pid: int) -> int:
    """Return the memory of a process, shared pages divided among those who share them."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise BenchError(f"/proc/{pid}/smaps_rollup has no Pss")
