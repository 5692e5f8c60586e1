"""Both pollers, on both loops, with real sockets: what is ready, and the traps."""

import asyncio
import os
import select
import socket
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from typing import Any

import pytest

import ginsfsm.poller
from ginsfsm import GAplic, GObjError
from ginsfsm.poller import COSTLY_CALLS, READ, WRITE, EpollPoller, LoopPoller, Poller

RunAsync = Callable[[Coroutine[Any, Any, Any]], Any]

DEADLINE = 30.0
MANY_TURNS = 200

needs_epoll = pytest.mark.skipif(not hasattr(select, "epoll"), reason="this system has no epoll")


@pytest.fixture(params=[pytest.param("epoll", marks=needs_epoll), "loop"])
def poller_kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture
def sockets() -> Iterator[Callable[[], tuple[socket.socket, socket.socket]]]:
    """Makes connected pairs, which are closed at the end."""
    with ExitStack() as stack:

        def pair() -> tuple[socket.socket, socket.socket]:
            ours, theirs = socket.socketpair()
            stack.enter_context(ours)
            stack.enter_context(theirs)
            ours.setblocking(False)
            return ours, theirs

        yield pair


@asynccontextmanager
async def polling(kind: str, *, measured: bool = False) -> AsyncIterator[Poller]:
    """The poller of a gaplic that runs."""
    async with GAplic("app", {"app": {"poller": kind}}) as app:
        if measured:
            app.measure_turns()
        yield app.poller


class Reader:
    """A handler that reads, and then does what the test says."""

    def __init__(
        self, sock: socket.socket, then: Callable[["Reader"], object] = lambda reader: None
    ) -> None:
        self.sock = sock
        self.then = then
        self.data = b""
        self.ended = False
        self.masks: list[int] = []
        self.errors: list[Exception] = []
        self.called = asyncio.Event()

    def io_ready(self, mask: int) -> None:
        self.masks.append(mask)
        self.called.set()
        if mask != WRITE:
            try:
                data = self.sock.recv(1000)
            except ConnectionError:
                data = b""
            self.data += data
            self.ended = not data
        self.then(self)

    def io_failed(self, error: Exception) -> None:
        self.errors.append(error)

    async def until_called(self) -> None:
        await self.called.wait()
        self.called.clear()


async def turns(count: int = MANY_TURNS) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.fixture
def wakes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with every call of the loop to a poller."""
    counted: list[int] = []
    run_batch = Poller._run_batch

    def counting(self: Poller, ready: Any) -> None:
        counted.append(len(ready))
        run_batch(self, ready)

    monkeypatch.setattr(Poller, "_run_batch", counting)
    return counted


def test_read_and_write_readiness(run_async: RunAsync, poller_kind: str, sockets: Any) -> None:
    async def main() -> None:
        async with polling(poller_kind) as poller:
            ours, theirs = sockets()
            reader = Reader(ours)
            poller.register(ours.fileno(), reader, READ)
            assert len(poller) == 1
            await turns()
            assert reader.masks == []

            theirs.send(b"hello")
            await reader.until_called()
            assert reader.data == b"hello"
            assert all(mask & READ for mask in reader.masks)

            reader.masks.clear()
            poller.modify(ours.fileno(), READ | WRITE)
            await reader.until_called()
            assert reader.masks[0] == WRITE

            poller.modify(ours.fileno(), READ)
            await turns(3)
            reader.masks.clear()
            await turns()
            assert reader.masks == []

            poller.unregister(ours.fileno())
            theirs.send(b"more")
            await turns()
            assert reader.masks == []
            assert len(poller) == 0

    run_async(main())


def test_what_is_registered_before_the_loop_is_served_by_it(
    run_async: RunAsync, poller_kind: str, sockets: Any
) -> None:
    app = GAplic("app", {"app.poller": poller_kind})
    ours, theirs = sockets()
    told: list[str] = []

    async def main() -> None:
        reader = Reader(ours)
        app.poller.register(ours.fileno(), reader, WRITE)
        app.poller.modify(ours.fileno(), READ)
        app.poller.defer(lambda: told.append("deferred"))
        theirs.send(b"early")
        await turns()
        assert (reader.data, told) == (b"", [])
        async with app:
            await reader.until_called()
            assert reader.data == b"early"
            assert told == ["deferred"]

    run_async(main())


def test_a_recycled_descriptor_does_not_get_its_predecessors_readiness(
    run_async: RunAsync, poller_kind: str, sockets: Any
) -> None:
    async def main() -> None:
        async with polling(poller_kind) as poller:
            successors: list[Reader] = []
            others: list[socket.socket] = []

            def replace_the_other(reader: Reader) -> None:
                """The first one called closes the other, whose number is used again at once."""
                if successors:
                    return
                other = second if reader is first else first
                number = other.sock.fileno()
                poller.unregister(number)
                other.sock.close()
                other.then = lambda reader: pytest.fail("the dead one read")
                ours, theirs = sockets()
                if ours.fileno() != number:
                    os.dup2(ours.fileno(), number)
                    ours.close()
                    ours = socket.socket(fileno=number)
                    ours.setblocking(False)
                    closing.enter_context(ours)
                successor = Reader(ours)
                successors.append(successor)
                others.append(theirs)
                poller.register(number, successor, READ)

            class Dying(Reader):
                def io_ready(self, mask: int) -> None:
                    # As a gobj does that has closed its socket.
                    if self.sock.fileno() != -1:
                        super().io_ready(mask)

            pairs = [sockets(), sockets()]
            first, second = (Dying(ours, replace_the_other) for ours, _ in pairs)
            with ExitStack() as closing:
                for ours, theirs in pairs:
                    poller.register(ours.fileno(), first if ours is first.sock else second, READ)
                    theirs.send(b"x")
                await turns()
                assert len(successors) == 1
                assert successors[0].masks == []
                others[0].send(b"mine")
                await successors[0].until_called()
                assert successors[0].data == b"mine"
                poller.unregister(successors[0].sock.fileno())

    run_async(main())


@pytest.mark.parametrize("how", ["hangup", "reset"])
def test_a_peer_that_is_gone_does_not_spin(
    run_async: RunAsync, poller_kind: str, wakes: list[int], how: str
) -> None:
    async def main() -> None:
        async with polling(poller_kind) as poller:
            with socket.create_server(("127.0.0.1", 0)) as server:
                theirs = socket.create_connection(server.getsockname())
                ours, _ = server.accept()
            ours.setblocking(False)
            with ours, theirs:

                def at_the_end(reader: Reader) -> None:
                    # Nothing left to wait for: not to be registered with an empty mask.
                    if reader.ended:
                        poller.unregister(ours.fileno())

                reader = Reader(ours, at_the_end)
                poller.register(ours.fileno(), reader, READ)
                ours.shutdown(socket.SHUT_WR)
                if how == "reset":
                    linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
                    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                theirs.close()
                await reader.until_called()
                assert reader.ended
                await turns(3)
                wakes.clear()
                await turns()
                assert wakes == []

    run_async(main())


@pytest.mark.parametrize("turns_before", range(3))
def test_input_that_came_before_a_reset_is_read_and_then_the_reset(
    run_async: RunAsync, poller_kind: str, turns_before: int
) -> None:
    async def main() -> None:
        async with polling(poller_kind) as poller:
            with socket.create_server(("127.0.0.1", 0)) as server:
                theirs = socket.create_connection(server.getsockname())
                ours, _ = server.accept()
            ours.setblocking(False)
            with ours, theirs:
                reset = asyncio.Event()

                def at_the_end(reader: Reader) -> None:
                    if reader.ended:
                        poller.unregister(ours.fileno())
                        reset.set()

                reader = Reader(ours, at_the_end)
                poller.register(ours.fileno(), reader, READ)
                theirs.send(bytes(10_000))
                await turns(turns_before)
                linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
                theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                theirs.close()
                await reset.wait()

    run_async(main())


@pytest.mark.parametrize("measured", [False, True])
def test_a_handler_that_raises_is_told_and_does_not_rob_the_others(
    run_async: RunAsync, poller_kind: str, sockets: Any, measured: bool
) -> None:
    async def main() -> None:
        async with polling(poller_kind, measured=measured) as poller:

            def fail(reader: Reader) -> None:
                raise ValueError("in the handler")

            readers = [Reader(sockets()[0], fail) for _ in range(3)]
            for reader in readers:
                poller.register(reader.sock.fileno(), reader, WRITE)
            await turns(5)
            for reader in readers:
                poller.unregister(reader.sock.fileno())
                assert [str(error) for error in reader.errors[:1]] == ["in the handler"]

    run_async(main())


def test_a_batch_is_bounded(
    run_async: RunAsync,
    sockets: Any,
    monkeypatch: pytest.MonkeyPatch,
    wakes: list[int],
) -> None:
    if not hasattr(select, "epoll"):
        pytest.skip("this system has no epoll")
    monkeypatch.setattr(ginsfsm.poller, "BATCH", 4)

    async def main() -> None:
        async with polling("epoll") as poller:
            readers = [Reader(sockets()[0]) for _ in range(10)]
            for reader in readers:
                reader.then = lambda reader: poller.unregister(reader.sock.fileno())
                poller.register(reader.sock.fileno(), reader, WRITE)
            await turns()
            assert [len(reader.masks) for reader in readers] == [1] * 10
            assert wakes == [4, 4, 2]

    run_async(main())


# What waits for the end of the batch


@pytest.mark.parametrize("measured", [False, True])
def test_a_deferred_call_comes_at_the_end_of_the_batch(
    run_async: RunAsync, poller_kind: str, sockets: Any, measured: bool
) -> None:
    async def main() -> None:
        async with polling(poller_kind, measured=measured) as poller:
            told: list[str] = []
            done = asyncio.Event()

            def then(reader: Reader) -> None:
                poller.unregister(reader.sock.fileno())
                told.append("handler")
                assert poller.in_batch
                poller.defer(lambda: told.append("deferred"))
                told.append("handler goes on")
                if not len(poller):
                    done.set()

            for reader in [Reader(sockets()[0], then) for _ in range(2)]:
                poller.register(reader.sock.fileno(), reader, WRITE)
            await done.wait()
            both = ["handler", "handler goes on"]
            expected = [*both, *both, "deferred", "deferred"]
            if poller_kind == "loop":  # there each descriptor is a batch of its own
                expected = [*both, "deferred", *both, "deferred"]
            assert told == expected

    run_async(main())


def test_what_a_deferred_call_defers_waits_for_the_next_turn(
    run_async: RunAsync, poller_kind: str
) -> None:
    async def main() -> None:
        async with polling(poller_kind) as poller:
            count = 0

            def again() -> None:
                nonlocal count
                count += 1
                poller.defer(again)

            poller.defer(again)
            assert count == 0
            await turns(10)
            assert 8 <= count <= 12

    run_async(main())


def test_a_deferred_call_that_fails_does_not_rob_the_others(
    run_async: RunAsync, poller_kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with polling(poller_kind) as poller:
            told: list[str] = []

            def fail() -> None:
                raise ValueError("deferred")

            def cancel() -> None:
                raise asyncio.CancelledError

            for callback in (fail, lambda: told.append("a"), cancel, lambda: told.append("b")):
                poller.defer(callback)
            await turns(5)
            assert told == ["a", "b"]

    run_async(main())
    assert "a deferred call failed" in caplog.text
    assert len(run_async.loop_errors) <= 1  # type: ignore[attr-defined]
    run_async.loop_errors.clear()  # type: ignore[attr-defined]


def test_the_end_forgets_what_was_deferred(run_async: RunAsync, poller_kind: str) -> None:
    async def main() -> None:
        async with polling(poller_kind) as poller:
            poller.defer(poller.close)
            poller.defer(lambda: pytest.fail("it was called"))
            await turns(5)
        poller.close()
        await turns(5)

    run_async(main())


# What takes long is rationed


@pytest.fixture
def slow_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """The poller's clock, which stands still unless the test moves it."""
    now = 1000.0

    def pass_by(seconds: float) -> None:
        nonlocal now
        now += seconds

    class Clock:
        @staticmethod
        def monotonic() -> float:
            return now

    monkeypatch.setattr(ginsfsm.poller, "time", Clock)
    return pass_by


async def calls_of_each_turn(done: list[int], count: int) -> list[int]:
    """How many costly calls each turn of the loop has made, until all are done."""
    made = []
    while len(done) < count:
        before = len(done)
        await asyncio.sleep(0)
        made.append(len(done) - before)
        assert len(made) < 10 * count
    return made


def test_costly_calls_are_four_a_turn_and_in_order(
    run_async: RunAsync, poller_kind: str, slow_clock: Callable[[float], None]
) -> None:
    async def main() -> None:
        async with polling(poller_kind) as poller:
            done: list[int] = []
            for number in range(30):
                poller.defer_costly(partial(done.append, number))
            assert done == []
            made = await calls_of_each_turn(done, 30)
            assert max(made) == COSTLY_CALLS == 4
            # A turn without any is one that had not begun when they were deferred.
            assert [count for count in made if count] == [4] * 7 + [2]
            assert done == list(range(30))

    run_async(main())


@pytest.mark.parametrize(("milliseconds", "expected"), [(6, 1), (3, 2), (2, 3), (1.3, 4), (0.5, 4)])
def test_costly_calls_end_after_five_milliseconds(
    run_async: RunAsync,
    poller_kind: str,
    slow_clock: Callable[[float], None],
    milliseconds: float,
    expected: int,
) -> None:
    async def main() -> None:
        async with polling(poller_kind) as poller:
            done: list[int] = []

            def work() -> None:
                slow_clock(milliseconds / 1000)
                done.append(len(done))

            for _ in range(12):
                poller.defer_costly(work)
            made = await calls_of_each_turn(done, 12)
            assert [count for count in made if count] == [expected] * (12 // expected)

    run_async(main())


def test_others_are_served_between_the_costly_calls(
    run_async: RunAsync, poller_kind: str, sockets: Any
) -> None:
    async def main() -> None:
        async with polling(poller_kind) as poller:
            ours, theirs = sockets()
            done: list[str] = []

            def work() -> None:
                done.append("costly")
                if done.count("costly") == 1:
                    theirs.send(b"x")

            reader = Reader(ours, lambda _: done.append("served"))
            poller.register(ours.fileno(), reader, READ)
            poller.defer(lambda: done.append("deferred"))
            for _ in range(100):
                poller.defer_costly(work)
            asyncio.get_running_loop().call_later(0, done.append, "timer")
            while done.count("costly") < 100:
                await asyncio.sleep(0)
            # Within a few turns, and so within a few times four of them.
            for what in ("served", "deferred", "timer"):
                assert done.index(what) < 20, what
            poller.unregister(ours.fileno())

    run_async(main())


def test_a_costly_call_that_defers_another_goes_to_the_end(
    run_async: RunAsync, poller_kind: str
) -> None:
    async def main() -> None:
        async with polling(poller_kind) as poller:
            done: list[str] = []

            def again(name: str) -> None:
                done.append(name)
                if done.count(name) < 3:
                    poller.defer_costly(partial(again, name))

            for name in "abcdef":
                poller.defer_costly(partial(again, name))
            await turns()
            assert "".join(done) == "abcdef" * 3

    run_async(main())


def test_a_costly_call_that_fails_does_not_rob_the_others(
    run_async: RunAsync, poller_kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with polling(poller_kind) as poller:
            done: list[int] = []

            def fails() -> None:
                raise ValueError("costly")

            for number in range(6):
                poller.defer_costly(fails)
                poller.defer_costly(partial(done.append, number))
            await turns()
            assert done == list(range(6))

    run_async(main())
    assert caplog.text.count("a deferred call failed") == 6
    caplog.clear()


def test_costly_calls_wait_for_the_loop(run_async: RunAsync, poller_kind: str) -> None:
    app = GAplic("app", {"app.poller": poller_kind})
    done: list[int] = []
    for number in range(9):
        app.poller.defer_costly(partial(done.append, number))

    async def main() -> None:
        assert done == []
        async with app:
            await turns()
            assert done == list(range(9))

    run_async(main())


@pytest.mark.parametrize("inside", [False, True])
def test_the_end_forgets_the_costly_calls(
    run_async: RunAsync, poller_kind: str, inside: bool
) -> None:
    """Also where one of them ends the gaplic."""

    async def main() -> None:
        async with polling(poller_kind) as poller:
            if inside:
                poller.defer_costly(poller.close)
            for _ in range(9):
                poller.defer_costly(lambda: pytest.fail("it was called"))
            if not inside:
                poller.close()
            await turns()

    run_async(main())


# Which poller


def test_the_setting_chooses_the_poller(
    monkeypatch: pytest.MonkeyPatch, run_async: RunAsync
) -> None:
    async def kind_of(setting: str) -> type[Poller]:
        async with polling(setting) as poller:
            return type(poller)

    assert run_async(kind_of("loop")) is LoopPoller
    if hasattr(select, "epoll"):
        assert run_async(kind_of("auto")) is EpollPoller
        assert run_async(kind_of("epoll")) is EpollPoller
        monkeypatch.delattr(select, "epoll")
    assert run_async(kind_of("auto")) is LoopPoller
    with pytest.raises(GObjError, match="this system has no epoll; use 'auto' or 'loop'"):
        run_async(kind_of("epoll"))


# Closing. Under uvloop a mistake here aborts the process, so in one of its own.

CLOSING = """
    import asyncio, socket, sys
    from ginsfsm import GAplic, GConfigError, GObj
    kind, loop, how = sys.argv[1:]
    if loop == "uvloop":
        import uvloop as module
    else:
        module = asyncio

    ours, theirs = socket.socketpair()
    theirs.send(b"x")

    class Handler:
        calls = 0
        def io_ready(self, mask):
            self.calls += 1
            if how == "in a handler":
                app.destroy_gobj(app)
            elif self.calls == 3:
                app.stop()
        def io_failed(self, error):
            print(error)

    class Holder(GObj):
        def start_up(self):
            self.gaplic.poller.register(ours.fileno(), Handler(), 1)
        def go_out(self):
            self.gaplic.poller.unregister(ours.fileno())
            ours.close()

    settings = {"app": {"poller": kind}}
    if how == "failed start":
        settings["nobody"] = {"x": 1}
    app = GAplic("app", settings)
    app.create_gobj("holder", Holder, app)

    async def main():
        if how == "loop ends first":
            await app.__aenter__()
            return
        try:
            async with asyncio.timeout(20):
                await app.serve()
        except GConfigError as error:
            print(error)
        for _ in range(10):
            await asyncio.sleep(0)
        assert app.destroyed and ours.fileno() == -1

    with asyncio.Runner(loop_factory=module.new_event_loop) as runner:
        runner.run(main())
    app.destroy_gobj(app)
    theirs.close()
    print("clean")
"""


@pytest.mark.parametrize("how", ["stopped", "in a handler", "failed start", "loop ends first"])
def test_closing_is_clean_on_every_path(loop_kind: str, poller_kind: str, how: str) -> None:
    program = textwrap.dedent(CLOSING)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, poller_kind, loop_kind, how],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    expected = ["clean"]
    if how == "failed start":
        expected = [
            "settings: 'nobody' (x) matches no gobj and no gclass; did you mean 'holder'?",
            "clean",
        ]
    lines = done.stdout.splitlines()
    assert lines[-1] == "clean"
    assert len(lines) == len(expected)
    assert lines[0].partition(";")[0] == expected[0].partition(";")[0]


def test_a_registration_that_failed_leaves_nothing(
    run_async: RunAsync, poller_kind: str, sockets: Any
) -> None:
    async def main() -> None:
        async with polling(poller_kind) as poller:
            ours, _ = sockets()
            with open(__file__) as file, pytest.raises(OSError):
                # No system says when a file on a disk is ready.
                poller.register(file.fileno(), Reader(ours), READ)
            assert len(poller) == 0

    run_async(main())
