"""What holds for every test: which loop it runs on, what it may not leave behind, when it may skip.

* `run_async` runs a coroutine on plain asyncio and again on uvloop. The test fails if the loop was
  told of an exception that nobody took.
* Tests run in several processes. A test that measures is marked `alone`, and then it is.
* No test may leave a socket or an epoll object open.
* No property test fails because the machine is busy, see the profile of hypothesis.
* With `CI=true` in the environment a skipped test is a failure. A test that is skipped on every
  machine proves nothing, and nobody would notice.
"""

import asyncio
import fcntl
import gc
import itertools
import os
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings

T = TypeVar("T")
LoopFactory = Callable[[], asyncio.AbstractEventLoop]

OPEN_FILES = Path("/proc/self/fd")

# What is not said here is as before, also where hypothesis has found out that it runs in CI. How
# long examples take to make says how busy the machine is, and nothing of what is tested.
settings.register_profile("ginsfsm", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ginsfsm")


def set_aside() -> None:
    """What is there now need not be looked at by the gc.collect() of each test that follows.

    It would take a third of the time of all tests.
    """
    gc.collect()
    gc.freeze()


pytest_collection_finish = set_aside

TESTS_BETWEEN = 10
"""Tests until what they have left, reports mostly, is set aside too."""

_tests = itertools.count(1)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, object, object]:
    result = yield
    if not next(_tests) % TESTS_BETWEEN:
        set_aside()
    return result


# Which tests run at the same time


def is_alone(item: pytest.Item | None) -> bool:
    return item is not None and item.get_closest_marker("alone") is not None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that are alone come first and in a row: for each the others would have to stop."""
    items.sort(key=lambda item: not is_alone(item))


class Turns:
    """What the processes of one run share: many tests run at a time, or one that is `alone`.

    A lock of the system that many may share, and a door before it: whoever waits to be alone
    holds the door, or it would wait until the others have no tests left. Who has the room alone
    keeps it for its next test, where that is to be alone too.
    """

    def __init__(self, run: str) -> None:
        folder = Path(tempfile.gettempdir())
        self.room = (folder / f"pytest-{run}.room").open("wb")
        self.door = (folder / f"pytest-{run}.door").open("wb")
        self.kept = False

    # Around everything else, so that no time-out of the test counts the wait.
    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> Generator[None, object, object]:
        if not self.kept:
            fcntl.flock(self.door, fcntl.LOCK_EX)
            fcntl.flock(self.room, fcntl.LOCK_EX if is_alone(item) else fcntl.LOCK_SH)
            fcntl.flock(self.door, fcntl.LOCK_UN)
        try:
            return (yield)
        finally:
            self.kept = is_alone(item) and is_alone(nextitem)
            if not self.kept:
                fcntl.flock(self.room, fcntl.LOCK_UN)

    def pytest_unconfigure(self) -> None:
        for file in (self.room, self.door):
            file.close()
            Path(file.name).unlink(missing_ok=True)


# When a test may skip


class NoSkips:
    """Turns a run with skipped tests into a failed one, and lists them."""

    def __init__(self) -> None:
        self.skips: list[str] = []

    def note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if report.skipped and not hasattr(report, "wasxfail"):
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
            self.skips.append(f"{report.nodeid}: {reason}")

    pytest_runtest_logreport = note
    pytest_collectreport = note

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.skips and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.skips:
            terminalreporter.section("skipped, which is a failure when CI is set", red=True)
            for skip in self.skips:
                terminalreporter.line(skip)


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A script that runs the tests with `&` has SIGINT ignored in them, and so in every program
        # that a test starts and means to interrupt.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if os.environ.get("CI", "").lower() not in ("", "0", "false"):
        config.pluginmanager.register(NoSkips(), "no-skips")
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    if run is not None:
        config.pluginmanager.register(Turns(run), "turns")


@pytest.fixture(scope="session")
def require_program() -> Callable[[str], str]:
    """A function from a program's name to its path; it skips the test where there is none."""

    def require(name: str) -> str:
        path = shutil.which(name)
        if path is None:
            pytest.skip(f"the program {name} is not installed on this machine")
        return path

    return require


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of one test run share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    """What a test enters here is closed at its end."""
    with ExitStack() as stack:
        yield stack


# Which loop a test runs on


@pytest.fixture(params=["asyncio", "uvloop"])
def loop_kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture
def loop_factory(loop_kind: str) -> LoopFactory:
    """What makes a loop of this kind, for `asyncio.Runner` and for tests that own their loop."""
    if loop_kind == "asyncio":
        return asyncio.new_event_loop
    uvloop = pytest.importorskip("uvloop", reason="uvloop does not exist for this Python")
    factory: LoopFactory = uvloop.new_event_loop
    return factory


class RunAsync:
    """`run_async(coroutine, timeout=20)` runs it on a new loop and returns what it returned.

    It takes a coroutine, or the function that makes one. `loop_errors` are the contexts given to
    the loop's exception handler. A test that expects some reads them, and clears the list.
    """

    def __init__(self, loop_factory: LoopFactory) -> None:
        self.loop_factory = loop_factory
        self.loop_errors: list[dict[str, Any]] = []

    def __call__(
        self,
        work: Coroutine[Any, Any, T] | Callable[[], Coroutine[Any, Any, T]],
        timeout: float = 20,
    ) -> T:
        coroutine = work() if callable(work) else work

        async def limited() -> T:
            loop = asyncio.get_running_loop()
            loop.set_exception_handler(lambda _, context: self.loop_errors.append(context))
            try:
                async with asyncio.timeout(timeout) as deadline:
                    return await coroutine
            except TimeoutError:
                if deadline.expired():
                    pytest.fail(f"not finished after {timeout} seconds")
                raise

        async def settle() -> None:
            # A task reports the exception that nobody took when it is collected.
            gc.collect()
            await asyncio.sleep(0)

        with asyncio.Runner(debug=False, loop_factory=self.loop_factory) as runner:
            try:
                return runner.run(limited())
            finally:
                runner.run(settle())


@pytest.fixture
def run_async(loop_factory: LoopFactory) -> Iterator[RunAsync]:
    runner = RunAsync(loop_factory)
    yield runner
    told = [f"{context['message']}: {context.get('exception')!r}" for context in runner.loop_errors]
    assert not told, "the loop was told of exceptions that nobody took:\n" + "\n".join(told)


# What a test may not leave behind


def open_sockets() -> Counter[str]:
    """How often each socket and epoll object of this process is open.

    Counted by what a descriptor stands for, not by its number, because numbers are used again.
    """
    targets: Counter[str] = Counter()
    for descriptor in OPEN_FILES.iterdir():
        try:
            target = os.readlink(descriptor)
        except FileNotFoundError:  # the descriptor that lists the folder
            continue
        if target.startswith("socket:") or target == "anon_inode:[eventpoll]":
            targets[target] += 1
    return targets


@pytest.fixture(autouse=True)
def no_leaked_sockets() -> Iterator[None]:
    if not OPEN_FILES.is_dir():
        yield
        return
    before = open_sockets()
    yield
    leaked = open_sockets() - before
    if leaked:
        # Perhaps only a cycle keeps them. Collecting takes long, so not after each test.
        gc.collect()
        leaked = open_sockets() - before
    assert not leaked, f"the test left open: {', '.join(sorted(leaked.elements()))}"
