"""The gaplic: running it, ending it, its queue, its edges, its settings."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import ginsfsm.gaplic
from ginsfsm import (
    NOT_ACCEPTED,
    Event,
    EventError,
    GAplic,
    GConfigError,
    GObj,
    GObjError,
    after,
    on,
    param,
)
from ginsfsm.c_timer import EV_SET_TIMER, EV_TIMEOUT, GTimer
from ginsfsm.gconfig import Text
from ginsfsm.testing import ManualGAplic

RunAsync = Callable[[Coroutine[Any, Any, Any]], Any]
LoopFactory = Callable[[], asyncio.AbstractEventLoop]

DEADLINE = 30.0


class EV_GO(Event):
    number: int = 0


class EV_FAIL(Event):
    pass


class EV_STOP(Event):
    pass


class EV_DONE(Event):
    result: Any
    error: BaseException | None


class Worker(GObj):
    """Notes what it gets."""

    class config(GObj.config):
        size: int = param(1, "any number", ge=0)
        label: str = param("", "any text")

    def start_up(self) -> None:
        self.got: list[Any] = []
        self.gone = False
        self.each: Callable[[Event], object] = lambda event: None

    def go_out(self) -> None:
        self.gone = True

    def ac_go(self, event: EV_GO) -> object:
        self.got.append(event.number)
        return self.each(event)

    def ac_fail(self, event: EV_FAIL) -> None:
        raise ValueError("the action failed")

    def ac_stop(self, event: EV_STOP) -> None:
        self.gaplic.stop()

    def ac_done(self, event: EV_DONE) -> object:
        self.got.append(event)
        return self.each(event)

    machine = {
        "ST_IDLE": [
            on(EV_GO, ac_go),
            on(EV_FAIL, ac_fail),
            on(EV_STOP, ac_stop),
            on(EV_DONE, ac_done),
        ],
    }


@pytest.fixture
def start_on(monkeypatch: pytest.MonkeyPatch, loop_factory: LoopFactory) -> None:
    """Let `start` make this kind of loop."""
    monkeypatch.setattr(ginsfsm.gaplic, "_loop_factory", lambda: loop_factory)


async def turns(count: int = 3) -> None:
    """Let the loop turn so often."""
    for _ in range(count):
        await asyncio.sleep(0)


# start


@pytest.mark.usefixtures("start_on")
def test_start_runs_until_a_gobj_stops_it_and_destroys_the_tree() -> None:
    app = GAplic("app")
    worker = app.create_gobj("worker", Worker, app)
    below = app.create_gobj("below", Worker, worker)
    app.post_event(worker, EV_GO(1))
    app.post_event(worker, EV_STOP())
    app.start()
    assert worker.got == [1]
    assert app.destroyed
    assert worker.gone
    assert below.gone


def test_start_uses_uvloop_where_it_exists() -> None:
    uvloop = pytest.importorskip("uvloop")
    app = GAplic("app")
    loops: list[object] = []
    worker = app.create_gobj("worker", Worker, app)
    worker.each = lambda event: loops.append(asyncio.get_running_loop())
    app.post_event(worker, EV_GO())
    app.post_event(worker, EV_STOP())
    app.start()
    assert isinstance(loops[0], uvloop.Loop)


def test_start_takes_asyncios_loop_where_uvloop_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    app = GAplic("app")
    app.post_event(app.create_gobj("worker", Worker, app), EV_STOP())
    app.start()
    assert app.destroyed


@pytest.mark.usefixtures("start_on")
def test_start_in_a_thread() -> None:
    app = GAplic("app")
    worker = app.create_gobj("worker", Worker, app)
    began = threading.Event()
    worker.each = lambda event: began.set()
    app.post_event(worker, EV_GO())
    thread = threading.Thread(target=app.start)
    thread.start()
    assert began.wait(DEADLINE)
    assert not app.destroyed
    app.stop()
    thread.join(DEADLINE)
    assert not thread.is_alive()
    assert worker.gone


@pytest.mark.usefixtures("start_on")
def test_stop_from_many_threads_at_once_and_again_afterwards() -> None:
    for _ in range(20):
        app = GAplic("app")
        threads = [threading.Thread(target=app.stop) for _ in range(4)]
        worker = app.create_gobj("worker", Worker, app)
        worker.each = lambda event, threads=threads: [thread.start() for thread in threads]
        app.post_event(worker, EV_GO())
        app.start()
        for thread in threads:
            thread.join(DEADLINE)
        app.stop()
        assert app.destroyed


@pytest.mark.usefixtures("start_on")
def test_stop_before_start_ends_it_at_once() -> None:
    app = GAplic("app")
    worker = app.create_gobj("worker", Worker, app)
    app.stop()
    app.start()
    assert worker.gone


@pytest.mark.usefixtures("start_on")
def test_start_twice() -> None:
    app = GAplic("app")
    app.stop()
    app.start()
    with pytest.raises(GObjError, match="the gaplic app has ended; make a new one"):
        app.start()
    with pytest.raises(GObjError, match="app is destroyed"):
        app.create_gobj("late", Worker, app)


@pytest.mark.usefixtures("start_on")
def test_start_while_it_runs_in_another_thread() -> None:
    app = GAplic("app")
    worker = app.create_gobj("worker", Worker, app)
    began = threading.Event()
    worker.each = lambda event: began.set()
    app.post_event(worker, EV_GO())
    thread = threading.Thread(target=app.start)
    thread.start()
    try:
        assert began.wait(DEADLINE)
        with pytest.raises(GObjError, match="runs already"):
            app.start()
        assert not app.destroyed
    finally:
        app.stop()
        thread.join(DEADLINE)
    assert worker.gone


def test_start_inside_a_loop_says_what_to_write(run_async: RunAsync) -> None:
    async def main() -> None:
        app = GAplic("app")
        with pytest.raises(GObjError, match="write `await app.serve.*` or `async with app:`"):
            app.start()
        assert not app.destroyed
        async with app:
            pass

    run_async(main())


# serve and async with


def test_serve_returns_after_stop_and_is_awaited_twice(run_async: RunAsync) -> None:
    async def main() -> None:
        app = GAplic("app")
        worker = app.create_gobj("worker", Worker, app)
        async with asyncio.TaskGroup() as group:
            group.create_task(app.serve())
            await turns()
            group.create_task(app.serve())
            await turns()
            app.post_event(worker, EV_STOP())
        assert worker.gone

    run_async(main())


def test_serve_that_is_cancelled_destroys_the_tree(run_async: RunAsync) -> None:
    async def main() -> None:
        app = GAplic("app")
        worker = app.create_gobj("worker", Worker, app)
        task = asyncio.create_task(app.serve())
        await turns()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert worker.gone

    run_async(main())


def test_an_error_in_the_block_destroys_the_tree_and_is_raised(run_async: RunAsync) -> None:
    async def main() -> None:
        app = GAplic("app")
        worker = app.create_gobj("worker", Worker, app)
        with pytest.raises(KeyError):
            async with app:
                raise KeyError("mine")
        assert worker.gone

    run_async(main())


def test_a_block_within_a_block_is_refused_and_breaks_nothing(run_async: RunAsync) -> None:
    async def main() -> None:
        async with GAplic("app") as app:
            with pytest.raises(GObjError, match="runs already"):
                async with app:
                    pass
            assert not app.destroyed
        assert app.destroyed
        with pytest.raises(GObjError, match="has ended"):
            await app.serve()

    run_async(main())


def test_two_gaplics_in_one_loop(run_async: RunAsync) -> None:
    async def main() -> None:
        async with GAplic("one") as one, GAplic("two") as two:
            workers = [app.create_gobj("worker", Worker, app) for app in (one, two)]
            for app, worker in zip((one, two), workers, strict=True):
                app.post_event(worker, EV_GO(1))
            await turns()
            assert [worker.got for worker in workers] == [[1], [1]]
        assert [worker.path for worker in workers] == ["one/worker", "two/worker"]

    run_async(main())


def test_a_gobj_that_destroys_the_gaplic_ends_it(run_async: RunAsync) -> None:
    async def main() -> None:
        app = GAplic("app")
        worker = app.create_gobj("worker", Worker, app)
        worker.each = lambda event: app.destroy_gobj(app)
        app.post_event(worker, EV_GO(1))
        app.post_event(worker, EV_GO(2))
        await app.serve()
        assert worker.got == [1]
        assert app.dropped_posts == 1
        with pytest.raises(GObjError, match="it watches no sockets"):
            app.poller

    run_async(main())


class EV_FETCHED(Event):
    result: Any
    error: BaseException | None


class Fetcher(GObj):
    """Fetches a page whenever it is told to, with asyncio's own streams."""

    outputs = [EV_FETCHED]

    class config(GObj.config):
        port: int = param(0, "where the server listens")

    async def fetch(self, path: str) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.config.port)
        writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        page = await reader.read()
        writer.close()
        await writer.wait_closed()
        return page.partition(b"\r\n\r\n")[2]

    def ac_go(self, event: EV_GO) -> None:
        self.spawn(self.fetch(f"/{event.number}"), done=EV_FETCHED)

    machine = {
        "ST_IDLE": [
            on(EV_GO, ac_go),
            on(EV_FETCHED, lambda self, event: self.broadcast_event(event)),
        ],
    }


class Collector(GObj):
    def start_up(self) -> None:
        self.pages: asyncio.Queue[Any] = asyncio.Queue()

    def ac_fetched(self, event: EV_FETCHED) -> None:
        self.pages.put_nowait(event.result if event.error is None else event.error)

    machine = {"ST_IDLE": [on(EV_FETCHED, ac_fetched)]}


def test_beside_an_asyncio_http_server_and_client_in_the_same_loop(run_async: RunAsync) -> None:
    async def serve_page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        body = b"page " + request.split()[1]
        writer.write(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def main() -> None:
        server = await asyncio.start_server(serve_page, "127.0.0.1", 0)
        async with server, GAplic("app") as app:
            port = server.sockets[0].getsockname()[1]
            collector = app.create_gobj("collector", Collector, app)
            fetcher = app.create_gobj("fetcher", Fetcher, collector, port=port)
            for number in range(5):
                app.send_event(fetcher, EV_GO(number))
            pages = {await collector.pages.get() for _ in range(5)}
            assert pages == {b"page /%d" % number for number in range(5)}
            server.close()
            await server.wait_closed()
            app.send_event(fetcher, EV_GO())
            assert isinstance(await collector.pages.get(), ConnectionRefusedError)

    run_async(main())


# Signals, in a process of its own


def program(kind: str, text: str) -> str:
    loop = "uvloop" if kind == "uvloop" else "asyncio"
    head = f"""
        import asyncio, os, signal, sys, time
        import ginsfsm.gaplic, {loop}
        from ginsfsm import *
        ginsfsm.gaplic._loop_factory = lambda: {loop}.new_event_loop

        class EV_BEGIN(Event): pass
    """
    return textwrap.dedent(head) + textwrap.dedent(text)


@contextmanager
def run_program(kind: str, text: str) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-X", "faulthandler", "-c", program(kind, text)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


SERVER = """
    class Server(GObj):
        def go_out(self):
            print("gone", flush=True)
        def ac_begin(self, event: EV_BEGIN):
            print("running", flush=True)
        machine = {"ST_IDLE": [on(EV_BEGIN, ac_begin)]}

    app = GAplic("app")
    server = app.create_gobj("server", Server, app)
    app.post_event(server, EV_BEGIN())
    app.start()
    print("returned", app.destroyed, flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_start_cleanly(loop_kind: str, number: signal.Signals) -> None:
    with run_program(loop_kind, SERVER) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=DEADLINE)
    assert (out, err, process.returncode) == ("gone\nreturned True\n", "", 0)


STUBBORN = """
    class Stubborn(GObj):
        def start_up(self):
            self.spawn(self.refuse())
        async def refuse(self):
            print("running", flush=True)
            while True:
                try:
                    await asyncio.sleep(1000)
                except asyncio.CancelledError:
                    print("refused", flush=True)

    app = GAplic("app")
    app.create_gobj("stubborn", Stubborn, app)
    app.start()
"""

HANGING = """
    class Hanging(GObj):
        def go_out(self):
            print("refused", flush=True)
            while True:
                # Short, for a signal that comes just before it would not end a long one.
                time.sleep(0.01)
        def ac_begin(self, event: EV_BEGIN):
            print("running", flush=True)
        machine = {"ST_IDLE": [on(EV_BEGIN, ac_begin)]}

    app = GAplic("app")
    app.post_event(app.create_gobj("hanging", Hanging, app), EV_BEGIN())
    app.start()
"""


@pytest.mark.parametrize("text", [STUBBORN, HANGING], ids=["coroutine", "go_out"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_a_program_that_hangs(
    loop_kind: str, number: signal.Signals, text: str
) -> None:
    with run_program(loop_kind, text) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "refused\n"
        process.send_signal(number)
        process.communicate(timeout=DEADLINE)
    assert process.returncode == -number


def test_serve_leaves_the_signal_handlers_alone(run_async: RunAsync) -> None:
    async def main() -> None:
        before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        async with GAplic("app"):
            now = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
            assert now == before

    run_async(main())


@pytest.mark.usefixtures("start_on")
def test_start_gives_the_signal_handlers_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    app = GAplic("app")
    app.stop()
    app.start()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


LISTENING = """
    import threading

    class Quiet(GObj):
        def ac_begin(self, event: EV_BEGIN):
            print("running", flush=True)
        machine = {"ST_IDLE": [on(EV_BEGIN, ac_begin)]}

    app = GAplic("app")
    count = 0

    def hangup():
        global count
        count += 1
        ident = threading.get_ident() == threading.main_thread().ident
        print("hangup", count, ident, asyncio.get_running_loop().is_running(), flush=True)
        if count == 2:
            raise ValueError("of the test")

    app.on_signal(signal.SIGHUP, lambda: print("replaced", flush=True))
    app.on_signal(signal.SIGHUP, hangup)
    app.on_signal(signal.SIGUSR1, lambda: print("user", flush=True))
    app.post_event(app.create_gobj("quiet", Quiet, app), EV_BEGIN())
    before = signal.getsignal(signal.SIGHUP), signal.getsignal(signal.SIGUSR1)
    app.start()
    assert (signal.getsignal(signal.SIGHUP), signal.getsignal(signal.SIGUSR1)) == before
    print("returned", app.contained_errors, flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_other_signals_call_back_as_often_as_they_come(
    loop_kind: str, number: signal.Signals
) -> None:
    with run_program(loop_kind, LISTENING) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        for count in range(1, 5):
            process.send_signal(signal.SIGHUP)
            assert process.stdout.readline() == f"hangup {count} True True\n"
        process.send_signal(signal.SIGUSR1)
        assert process.stdout.readline() == "user\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=DEADLINE)
    # What the callback raised is contained and logged.
    assert "a signal raised ValueError: of the test" in err
    assert (out, process.returncode) == ("returned 1\n", 0)


def test_a_signal_of_the_users_does_not_keep_a_second_stop_signal_from_ending_a_hanging_program(
    loop_kind: str,
) -> None:
    text = HANGING.replace(
        "    app.start()", "    app.on_signal(signal.SIGHUP, print)\n    app.start()"
    )
    with run_program(loop_kind, text) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "refused\n"
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=DEADLINE)
    assert process.returncode == -signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, int(signal.SIGTERM)])
def test_the_signals_that_stop_belong_to_start(number: int) -> None:
    app = GAplic("app")
    name = signal.Signals(number).name
    with pytest.raises(GObjError, match=f"app.on_signal: {name} stops the gaplic"):
        app.on_signal(number, lambda: None)
    app.stop()
    app.start()


class EV_KILL(Event):
    """Send the process a signal."""

    number: int


class Killer(GObj):
    def ac_kill(self, event: EV_KILL) -> None:
        os.kill(os.getpid(), event.number)

    machine = {"ST_IDLE": [on(EV_KILL, ac_kill)]}


@pytest.mark.parametrize("fails", [False, True])
def test_a_callback_replaces_the_first_sigterm_only(fails: bool) -> None:
    """Where it fails, the gaplic stops as if there were none."""
    app = GAplic("app")
    calls = []

    def terminate() -> None:
        calls.append(app.destroyed)
        if fails:
            raise RuntimeError("no")
        os.kill(os.getpid(), signal.SIGTERM)

    app.on_terminate(terminate)
    app.post_event_threadsafe(app.create_gobj("killer", Killer, app), EV_KILL(signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    app.start()
    assert app.destroyed
    assert calls == [False]
    assert app.contained_errors == fails
    assert signal.getsignal(signal.SIGTERM) == before


def test_signals_do_nothing_in_a_thread_and_in_serve(run_async: RunAsync) -> None:
    before = signal.getsignal(signal.SIGHUP)
    app = GAplic("threaded")
    app.on_signal(signal.SIGHUP, lambda: pytest.fail("it was called"))
    app.stop()
    thread = threading.Thread(target=app.start)
    thread.start()
    thread.join(DEADLINE)

    async def main() -> None:
        serving = GAplic("app")
        serving.on_signal(signal.SIGHUP, lambda: pytest.fail("it was called"))
        async with serving:
            assert signal.getsignal(signal.SIGHUP) == before

    run_async(main())
    assert signal.getsignal(signal.SIGHUP) == before


RAISING = """
    class Raising(GObj):
        def go_out(self):
            print("gone", flush=True)
        def ac_begin(self, event: EV_BEGIN):
            raise {error}
        machine = {{"ST_IDLE": [on(EV_BEGIN, ac_begin)]}}

    app = GAplic("app")
    app.post_event(app.create_gobj("raising", Raising, app), EV_BEGIN())
    app.start()
"""


@pytest.mark.parametrize(
    ("error", "status"), [("SystemExit(3)", 3), ("KeyboardInterrupt", -signal.SIGINT)]
)
def test_what_ends_a_program_is_not_contained(loop_kind: str, error: str, status: int) -> None:
    with run_program(loop_kind, RAISING.format(error=error)) as process:
        out, err = process.communicate(timeout=DEADLINE)
    assert out == "gone\n", err
    assert process.returncode == status, err


# Forks

FORKED = """
    import select, socket

    class Reader:
        def __init__(self): self.got = 0
        def io_ready(self, mask): self.got += len(os.read(ours.fileno(), 100))
        def io_failed(self, error): raise error

    class Holder(GObj):
        def start_up(self):
            self.gaplic.poller.register(ours.fileno(), reader, 1)
        def go_out(self):
            print("gone", os.getpid() == parent, flush=True)
            self.gaplic.poller.unregister(ours.fileno())

    parent = os.getpid()
    ours, theirs = socket.socketpair()
    reader = Reader()
    app = GAplic("app")
    app.create_gobj("holder", Holder, app)

    child = os.fork()
    if child == 0:
        try:
            app.start()
        except GObjError as error:
            print(error, flush=True)
        os._exit(0)
    os.waitpid(child, 0)

    async def main():
        async with app:
            theirs.send(b"hello")
            async with asyncio.timeout(20):
                while not reader.got:
                    await asyncio.sleep(0)
            print("the parent still hears:", reader.got, flush=True)
    asyncio.run(main())
    ours.close(), theirs.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_no_gaplic_crosses_a_fork_and_the_parent_does_not_suffer(loop_kind: str) -> None:
    with run_program(loop_kind, FORKED) as process:
        out, err = process.communicate(timeout=DEADLINE)
    lines = out.splitlines()
    assert "cannot run in its fork" in lines[0], out + err
    assert lines[1:] == ["the parent still hears: 5", "gone True"], out + err
    assert process.returncode == 0


# Posted events


def test_a_turn_delivers_what_was_there_when_it_began(run_async: RunAsync) -> None:
    async def main() -> None:
        async with GAplic("app") as app:
            worker = app.create_gobj("worker", Worker, app)
            worker.each = lambda event: worker.post_event(worker, EV_GO(event.number + 1))
            app.post_event(worker, EV_GO(1))
            assert app.deliver_posted() == 1
            assert worker.got == [1]
            assert app.deliver_posted() == 1
            assert worker.got == [1, 2]

    run_async(main())


def test_a_full_queue_raises_and_drops_nothing(run_async: RunAsync) -> None:
    async def main() -> None:
        async with GAplic("app", {"app": {"max_posted_events": 3}}) as app:
            worker = app.create_gobj("worker", Worker, app)
            for number in range(3):
                app.post_event(worker, EV_GO(number))
            for post in (app.post_event, app.post_event_threadsafe):
                with pytest.raises(EventError, match="EV_GO to app/worker is one too many"):
                    post(worker, EV_GO(9))
            await turns()
            assert worker.got == [0, 1, 2]
            app.post_event(worker, EV_GO(3))
            await turns()
            assert worker.got == [0, 1, 2, 3]

    run_async(main())


def test_posting_from_many_threads(run_async: RunAsync) -> None:
    threads, each = 8, 250

    async def main() -> None:
        async with GAplic("app") as app:
            worker = app.create_gobj("worker", Worker, app, unique=True)
            done = asyncio.Event()
            worker.each = lambda event: len(worker.got) == threads * each and done.set()

            def post(first: int) -> None:
                for number in range(first, first + each):
                    app.post_event_threadsafe("worker", "EV_GO", number=number)

            async with asyncio.TaskGroup() as group:
                for number in range(threads):
                    group.create_task(asyncio.to_thread(post, number * each))
            await done.wait()
            assert sorted(worker.got) == list(range(threads * each))
            # One thread's events keep their order.
            for number in range(threads):
                mine = [one for one in worker.got if one // each == number]
                assert mine == sorted(mine)

    run_async(main())


def test_a_threadsafe_post_wakes_an_idle_loop_and_has_no_source(run_async: RunAsync) -> None:
    async def main() -> None:
        async with GAplic("app") as app:
            worker = app.create_gobj("worker", Worker, app)
            sources: list[object] = []
            got = asyncio.Event()

            def each(event: Event) -> None:
                sources.append(event.source)
                got.set()

            worker.each = each
            received = EV_GO(1)
            received.source = worker
            thread = threading.Thread(target=app.post_event_threadsafe, args=(worker, received))
            loop = asyncio.get_running_loop()
            loop.call_later(0.05, thread.start)
            await got.wait()
            thread.join(DEADLINE)
            assert sources == [None]
            assert received.source is worker

    run_async(main())


def test_one_event_posted_from_outside_to_two_has_no_source_for_either() -> None:
    """Though the first one sends it on, which sets the source of an event that has none."""
    with ManualGAplic() as app:
        listener = app.stand_in("listener", EV_GO)
        workers = [app.create_gobj(None, Worker, app) for _ in range(2)]
        sources: list[object] = []

        def send_on(worker: Worker, event: Event) -> None:
            sources.append(event.source)
            worker.send_event(listener, event)

        event = EV_GO(1)
        for worker in workers:
            worker.each = partial(send_on, worker)
            app.post_event_threadsafe(worker, event)
        app.turn()
        assert sources == [None, None]
        assert event.source is None
        assert [one.source for one in listener.received] == workers


def test_a_threadsafe_post_that_cannot_be_delivered_raises_in_its_thread() -> None:
    app = GAplic("app")
    worker = app.create_gobj("worker", Worker, app)
    with pytest.raises(EventError, match="EV_TIMEOUT"):
        app.post_event_threadsafe(worker, EV_TIMEOUT())
    app.post_event_threadsafe(worker, EV_GO())
    app.stop()
    app.start()
    with pytest.raises(GObjError, match=r"the gaplic app has ended; EV_GO cannot be"):
        app.post_event_threadsafe(worker, EV_GO())


def test_after_the_end_a_post_does_nothing(run_async: RunAsync) -> None:
    async def main() -> None:
        async with GAplic("app") as app:
            worker = app.create_gobj("worker", Worker, app)
        worker.post_event(worker, EV_GO())
        app.post_event(worker, EV_GO())
        assert app.send_event(worker, EV_GO()) is NOT_ACCEPTED
        await turns()
        assert worker.got == []

    run_async(main())


# The edges of the loop


def test_a_cancellation_in_an_action_is_not_contained_and_the_queue_goes_on(
    run_async: RunAsync,
) -> None:
    async def main() -> None:
        async with GAplic("app") as app:
            worker = app.create_gobj("worker", Worker, app)

            def each(event: Event) -> None:
                if worker.got == [1]:
                    raise asyncio.CancelledError

            worker.each = each
            app.post_event(worker, EV_GO(1))
            app.post_event(worker, EV_GO(2))
            await turns()
            assert worker.got == [1, 2]
            assert app.contained_errors == 0

    run_async(main())
    for context in run_async.loop_errors:  # type: ignore[attr-defined]
        assert isinstance(context["exception"], asyncio.CancelledError)
    run_async.loop_errors.clear()  # type: ignore[attr-defined]


def test_a_contained_exception_is_logged_with_path_state_event_and_traceback(
    caplog: pytest.LogCaptureFixture, run_async: RunAsync
) -> None:
    async def main() -> None:
        async with GAplic("app") as app:
            worker = app.create_gobj("worker", Worker, app)
            app.post_event(worker, EV_FAIL())
            await turns()
            assert app.contained_errors == 1
            app.post_event(worker, EV_GO(1))
            await turns()
            assert worker.got == [1]

    run_async(main())
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage() == (
        "app/worker in ST_IDLE: EV_FAIL from app raised ValueError: the action failed"
    )
    assert record.exc_info is not None
    assert record.exc_info[2] is not None


class Late(GObj):
    """Fails in a state timeout."""

    def start_up(self) -> None:
        self.failed = asyncio.Event()

    def fails(self) -> None:
        self.failed.set()
        raise ValueError("too late")

    machine = {"ST_WAITING": [after(0.001, fails, "ST_LATE")], "ST_LATE": []}


def test_a_state_timeout_that_raises_is_contained(
    caplog: pytest.LogCaptureFixture, run_async: RunAsync
) -> None:
    async def main() -> None:
        async with GAplic("app") as app:
            late = app.create_gobj("late", Late, app)
            await late.failed.wait()
            await turns()
            assert app.contained_errors == 1
            assert late.state == "ST_LATE"

    run_async(main())
    assert caplog.messages == ["app/late in ST_LATE: a timer raised ValueError: too late"]


# Refusals


def test_a_refused_event_is_logged_once_loudly_and_then_quietly(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = GAplic("app")
    timer = app.create_gobj("late", Late, app)

    class Deaf(GObj):
        machine = {"ST_DEAF": [on(EV_FAIL, None, "ST_HEARS")], "ST_HEARS": [on(EV_GO, None)]}

    first = app.create_gobj("first", Deaf, app)
    second = app.create_gobj("second", Deaf, app)
    with caplog.at_level(logging.DEBUG, "ginsfsm"):
        for gobj in (first, first, second):
            assert timer.send_event(gobj, EV_GO()) is NOT_ACCEPTED
    assert [record.levelname for record in caplog.records] == ["WARNING", "DEBUG", "DEBUG"]
    assert caplog.messages[0] == (
        "app/first: ST_DEAF does not accept EV_GO from app/late; further ones are logged at DEBUG"
    )
    assert app.refused_events == 3
    app.destroy_gobj(app)


# Finding


def test_find_by_path() -> None:
    app = GAplic("app")
    worker = app.create_gobj("worker", Worker, app)
    below = app.create_gobj("below", Worker, worker)
    assert app.find("app") is app
    assert app.find("app/worker/below") is below
    assert app.find("worker/below") is below
    with pytest.raises(GObjError, match=r"app/worker has no child 'belo'; did you mean 'below'\?"):
        app.find("worker/belo")
    with pytest.raises(GObjError, match="app/worker/below has no child 'x'; there are none"):
        app.find("app/worker/below/x")
    app.destroy_gobj(app)


def test_a_path_finds_its_gobj_also_where_a_child_has_the_gaplics_name() -> None:
    app = GAplic("echo")
    echo = app.create_gobj("echo", Worker, app)
    inner = app.create_gobj("echo", Worker, echo)
    server = app.create_gobj("server", Worker, echo)
    for gobj in (app, echo, inner, server):
        assert app.find(gobj.path) is gobj
    assert app.find("echo/server") is server
    app.destroy_gobj(app)


# Settings


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({"worker": {"size": 2}}, 2),
        ({"Worker": {"size": 3}}, 3),
        ({"worker.size": 4}, 4),
        ({"worker.size": Text("5")}, 5),
        ({"Worker": {"size": 6}, "worker": {"size": 7}}, 7),
        ({"worker": {"size": 8}, "Worker": {"size": 9, "label": "x"}}, 8),
    ],
)
def test_settings_win_over_the_code_and_a_gobjs_name_over_its_gclass(
    settings: dict[str, Any], size: int
) -> None:
    app = GAplic("app", settings)
    worker = app.create_gobj("worker", Worker, app, size=1)
    assert worker.config.size == size
    app.stop()
    app.start()


def test_settings_from_a_toml_file(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('[worker]\nsize = 12\n[Worker]\nlabel = "all"\n[app]\npoller = "loop"\n')
    app = GAplic("app", file)
    worker = app.create_gobj("worker", Worker, app)
    assert (worker.config.size, worker.config.label) == (12, "all")
    assert app.config.poller == "loop"
    app.stop()
    app.start()


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"worker": {"sise": 2}}, "sise: unknown parameter; did you mean 'size'.*'worker'"),
        ({"Worker": {"size": "2"}}, "size: expected int, 0 or more, got '2'.*'Worker'"),
        ({"worker.size": Text("x")}, "size: expected int, 0 or more, got the text 'x'"),
        ({"worker": {"size": -1}}, "got -1"),
    ],
)
def test_a_wrong_setting_fails_when_its_gobj_is_made(settings: dict[str, Any], match: str) -> None:
    app = GAplic("app", settings)
    with pytest.raises(GConfigError, match=match):
        app.create_gobj("worker", Worker, app)
    assert app.children == {}


@pytest.mark.parametrize("settings", [3, ["worker"], {"size": 3}])
def test_settings_of_no_legal_form(settings: Any) -> None:
    with pytest.raises(GConfigError, match="settings"):
        GAplic("app", settings)


def test_a_wrong_setting_of_the_gaplic_itself() -> None:
    with pytest.raises(GConfigError, match="poller: expected one of 'auto', 'epoll', 'loop'"):
        GAplic("app", {"app": {"poller": "kqueue"}})


@pytest.mark.usefixtures("start_on")
def test_settings_that_match_nothing_fail_the_start_and_leave_nothing() -> None:
    app = GAplic("app", {"wroker": {"size": 2}, "GTimerr": {"x": 1}})
    worker = app.create_gobj("worker", Worker, app)
    with pytest.raises(GConfigError) as raised:
        app.start()
    text = str(raised.value)
    assert "'wroker' (size) matches no gobj and no gclass; did you mean 'worker'?" in text
    assert "'GTimerr' (x) matches no gobj and no gclass; did you mean 'GTimer'?" in text
    assert worker.gone
    assert app.destroyed


def test_a_wrong_parameter_of_a_gclass_that_nothing_was_made_of_fails_the_start() -> None:
    app = GAplic("app", {"Worker": {"sice": 2}})
    with pytest.raises(GConfigError, match="Worker: sice: unknown parameter; did you mean 'size'"):
        app.start()


def test_settings_fit_where_one_of_the_gclasses_of_that_name_takes_them() -> None:
    class Worker(GObj):
        class config(GObj.config):
            speed: int = param(1, "unlike the Worker of this module")

    app = GAplic("app", {"Worker": {"speed": 2}})
    assert app.create_gobj(None, Worker, app).config.speed == 2
    app.stop()
    app.start()


# Names


@pytest.mark.parametrize("name", ["", "a/b", None, 3])
def test_a_gaplic_needs_a_name(name: Any) -> None:
    with pytest.raises(GObjError, match="expected a name without a slash"):
        GAplic(name)


def test_a_timer_of_a_gaplic_that_has_a_clock_of_its_own_uses_that(run_async: RunAsync) -> None:
    class EmptyClock:
        """A clock without timers, so it is false; it must not be mistaken for none."""

        def __len__(self) -> int:
            return 0

        def time(self) -> float:
            return 42.0

        def call_later(self, seconds: float, callback: Callable[[], object]) -> Any:
            raise AssertionError(f"asked for {seconds}")

        def start(self, loop: asyncio.AbstractEventLoop) -> None: ...
        def stop(self) -> None: ...

    async def main() -> None:
        async with GAplic("app", clock=EmptyClock()) as app:
            assert app.time() == 42.0
            timer = app.create_gobj("timer", GTimer, app)
            with pytest.raises(AssertionError, match="asked for 5"):
                app.send_event(timer, EV_SET_TIMER(5))

    run_async(main())
