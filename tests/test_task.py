"""Coroutines that a gobj spawns: how they begin, end, fail and are cancelled."""

import asyncio
import gc
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import ginsfsm.task
from ginsfsm import Event, EventError, GAplic, GObj, GObjError, on

RunAsync = Callable[[Coroutine[Any, Any, Any]], Any]


class EV_DONE(Event):
    result: Any
    error: BaseException | None


class EV_WITHOUT_ERROR(Event):
    result: Any


class EV_TOO_MUCH(Event):
    result: Any
    error: Any
    reason: str


class EV_CHOOSY(Event):
    result: Any
    error: Any

    def __post_init__(self) -> None:
        raise ValueError("not this one")


class EV_ELSEWHERE(Event):
    result: Any
    error: Any


class Spawner(GObj):
    def start_up(self) -> None:
        self.done: asyncio.Queue[EV_DONE] = asyncio.Queue()

    def ac_done(self, event: EV_DONE) -> None:
        self.done.put_nowait(event)
        if event.result == "fail":
            raise ValueError("in the action")

    machine = {
        "ST_IDLE": [
            on(EV_DONE, ac_done),
            on(EV_WITHOUT_ERROR, None),
            on(EV_TOO_MUCH, None),
            on(EV_CHOOSY, None),
        ],
    }


class Never:
    """A coroutine that waits for ever, and notes how it ends."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.ended = asyncio.Event()
        self.cancelled = False

    async def run(self) -> None:
        self.began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        finally:
            self.ended.set()


async def give(result: object) -> object:
    await asyncio.sleep(0)
    return result


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def on_a_spawner(
    run_async: RunAsync, work: Callable[[Spawner], Coroutine[Any, Any, None]]
) -> GAplic:
    """Run the work with a gobj of a gaplic that runs; return the gaplic."""
    app = GAplic("app")

    async def main() -> None:
        async with app:
            await work(app.create_gobj("spawner", Spawner, app))

    run_async(main())
    return app


def test_the_done_event_carries_the_result_and_comes_from_the_gobj_itself(
    run_async: RunAsync,
) -> None:
    async def work(spawner: Spawner) -> None:
        spawner.spawn(give(7), done=EV_DONE)
        event = await spawner.done.get()
        assert event == EV_DONE(7, None)
        assert event.source is spawner

    on_a_spawner(run_async, work)


def test_or_the_error(run_async: RunAsync) -> None:
    async def fail() -> None:
        raise OSError("no route")

    async def cancel() -> None:
        raise asyncio.CancelledError

    async def work(spawner: Spawner) -> None:
        spawner.spawn(fail(), done=EV_DONE)
        event = await spawner.done.get()
        assert event.result is None
        assert repr(event.error) == repr(OSError("no route"))
        spawner.spawn(cancel(), done=EV_DONE)
        assert isinstance((await spawner.done.get()).error, asyncio.CancelledError)

    assert on_a_spawner(run_async, work).contained_errors == 0


def test_a_failure_that_no_event_tells_of_is_logged(
    run_async: RunAsync, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> None:
        raise OSError("no route")

    async def work(spawner: Spawner) -> None:
        spawner.spawn(give(1))
        spawner.spawn(fail())
        await turns()
        assert spawner.gaplic.contained_errors == 1

    on_a_spawner(run_async, work)
    assert caplog.messages == [
        "app/spawner in ST_IDLE: a spawned coroutine raised OSError: no route"
    ]


def test_an_action_that_raises_on_the_done_event_is_contained(
    run_async: RunAsync, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(spawner: Spawner) -> None:
        spawner.spawn(give("fail"), done=EV_DONE)
        await spawner.done.get()
        await turns()
        assert spawner.gaplic.contained_errors == 1

    on_a_spawner(run_async, work)
    assert "app/spawner in ST_IDLE: EV_DONE raised ValueError: in the action" in caplog.text


def test_a_done_event_that_cannot_be_made_is_contained(
    run_async: RunAsync, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(spawner: Spawner) -> None:
        spawner.spawn(give(1), done=EV_CHOOSY)
        await turns()
        assert spawner.gaplic.contained_errors == 1

    on_a_spawner(run_async, work)
    assert "making EV_CHOOSY raised ValueError: not this one" in caplog.text


@pytest.mark.parametrize(
    ("done", "match"),
    [
        (EV_WITHOUT_ERROR, "needs the fields 'result' and 'error'.*it has result"),
        (EV_TOO_MUCH, "a default for any other; it has result, error, reason"),
        (EV_ELSEWHERE, "EV_ELSEWHERE"),
        ("EV_DONE", "expected an event class"),
        (int, "expected an event class"),
    ],
)
def test_a_done_event_that_would_never_arrive_is_refused_at_once(done: Any, match: str) -> None:
    app = GAplic("app")
    spawner = app.create_gobj("spawner", Spawner, app)
    with pytest.raises(EventError, match=match):
        spawner.spawn(give(1), done=done)
    assert not app._all_tasks
    app.destroy_gobj(app)


@pytest.mark.parametrize("given", [give, 3, None])
def test_only_a_coroutine_can_be_spawned(given: Any) -> None:
    app = GAplic("app")
    with pytest.raises(GObjError, match="expected a coroutine, got .*; call the coroutine func"):
        app.spawn(given)
    app.destroy_gobj(app)


def test_a_destroyed_gobj_spawns_nothing() -> None:
    app = GAplic("app")
    spawner = app.create_gobj("spawner", Spawner, app)
    app.destroy_gobj(spawner)
    with pytest.raises(GObjError, match="app/spawner is destroyed"):
        spawner.spawn(give(1), done=EV_DONE)
    app.destroy_gobj(app)


def test_what_is_spawned_before_the_loop_waits_for_it(run_async: RunAsync) -> None:
    app = GAplic("app")
    spawner = app.create_gobj("spawner", Spawner, app)
    spawner.spawn(give(7), done=EV_DONE)

    async def main() -> None:
        await turns()
        assert spawner.done.empty()
        async with app:
            assert await spawner.done.get() == EV_DONE(7, None)

    run_async(main())


# Cancelling


def test_cancel_ends_it_without_an_event(run_async: RunAsync) -> None:
    async def work(spawner: Spawner) -> None:
        never = Never()
        task = spawner.spawn(never.run(), done=EV_DONE)
        await never.began.wait()
        task.cancel()
        await never.ended.wait()
        await turns()
        assert never.cancelled
        assert spawner.done.empty()
        task.cancel()

    on_a_spawner(run_async, work)


def test_cancel_before_the_first_step(run_async: RunAsync) -> None:
    async def work(spawner: Spawner) -> None:
        never = Never()
        spawner.spawn(never.run(), done=EV_DONE).cancel()
        await turns()
        gc.collect()
        assert not never.began.is_set()
        assert spawner.done.empty()

    app = on_a_spawner(run_async, work)
    assert not app._all_tasks


def test_cancel_before_the_loop() -> None:
    app = GAplic("app")
    spawner = app.create_gobj("spawner", Spawner, app)
    task = spawner.spawn(give(7), done=EV_DONE)
    task.cancel()
    task.cancel()
    assert not app._all_tasks
    assert not spawner._tasks
    app.destroy_gobj(app)


def test_cancel_after_the_end_changes_nothing(run_async: RunAsync) -> None:
    async def work(spawner: Spawner) -> None:
        task = spawner.spawn(give(7), done=EV_DONE)
        await spawner.done.get()
        task.cancel()
        await turns()
        assert spawner.done.empty()

    on_a_spawner(run_async, work)


def test_destroying_the_gobj_cancels_and_sends_nothing(run_async: RunAsync) -> None:
    async def work(spawner: Spawner) -> None:
        never = Never()
        spawner.spawn(never.run(), done=EV_DONE)
        await never.began.wait()
        spawner.destroy_gobj(spawner)
        await never.ended.wait()
        await turns()
        assert never.cancelled
        assert spawner.done.empty()

    on_a_spawner(run_async, work)


def test_a_coroutine_that_destroys_its_own_gobj(run_async: RunAsync) -> None:
    async def work(spawner: Spawner) -> None:
        ended = asyncio.Event()

        async def suicide() -> None:
            spawner.destroy_gobj(spawner)
            try:
                await asyncio.sleep(0)
            finally:
                ended.set()

        spawner.spawn(suicide(), done=EV_DONE)
        await ended.wait()
        await turns()
        assert spawner.done.empty()

    on_a_spawner(run_async, work)


def test_a_failure_while_it_is_being_cancelled_is_logged(
    run_async: RunAsync, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(spawner: Spawner) -> None:
        began = asyncio.Event()

        async def falls() -> None:
            began.set()
            try:
                await asyncio.Event().wait()
            finally:
                raise ValueError("in its cleanup")

        spawner.spawn(falls(), done=EV_DONE)
        await began.wait()
        spawner.destroy_gobj(spawner)
        await turns()

    assert on_a_spawner(run_async, work).contained_errors == 1
    assert "a spawned coroutine raised ValueError: in its cleanup" in caplog.text


def test_the_end_of_the_gaplic_waits_for_the_cleanup_of_its_coroutines(
    run_async: RunAsync,
) -> None:
    told: list[str] = []

    async def tidy() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await turns()
            told.append("tidied")

    async def work(spawner: Spawner) -> None:
        spawner.spawn(tidy())
        await turns()

    on_a_spawner(run_async, work)
    assert told == ["tidied"]


def test_a_coroutine_that_refuses_to_end_is_named(
    run_async: RunAsync, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ginsfsm.task, "PATIENCE", 0.01)
    named = asyncio.Event()

    class Watch(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            named.set()

    async def refuse() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await named.wait()

    async def work(spawner: Spawner) -> None:
        spawner.spawn(refuse())
        await turns()

    watch = Watch()
    logging.getLogger("ginsfsm").addHandler(watch)
    try:
        on_a_spawner(run_async, work)
    finally:
        logging.getLogger("ginsfsm").removeHandler(watch)
    assert "app/spawner: a spawned coroutine was cancelled and has not ended" in caplog.text
    assert "refuse" in caplog.text


def test_an_ended_coroutine_is_forgotten(run_async: RunAsync) -> None:
    async def work(spawner: Spawner) -> None:
        spawner.spawn(give(7), done=EV_DONE)
        await spawner.done.get()
        assert not spawner._tasks
        assert not spawner.gaplic._all_tasks

    on_a_spawner(run_async, work)


async def _value(value: object) -> object:
    return value


def eager(
    loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **options: Any
) -> asyncio.Task[Any]:
    """What `asyncio.eager_task_factory` of Python 3.12 does with one that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return asyncio.Task(_value(stop.value), loop=loop, **options)
    raise AssertionError("it waits")


@pytest.mark.parametrize("early", [False, True], ids=["in the loop", "before it"])
def test_a_coroutine_that_runs_at_once_may_destroy_its_gobj(
    run_async: RunAsync, early: bool
) -> None:
    async def die(gobj: GObj) -> None:
        gobj.destroy_gobj(gobj)

    async def never() -> None:
        raise AssertionError("it was cancelled before it began")

    async def main() -> None:
        app = GAplic("app")
        if early:
            spawner = app.create_gobj("spawner", Spawner, app)
            spawner.spawn(die(spawner), done=EV_DONE)
            spawner.spawn(never())
        loop = asyncio.get_running_loop()
        loop.set_task_factory(eager)
        async with app:
            if not early:
                spawner = app.create_gobj("spawner", Spawner, app)
                spawner.spawn(die(spawner), done=EV_DONE)
            loop.set_task_factory(None)
            assert spawner.destroyed
            assert not app.children
            await asyncio.sleep(0)
            assert spawner.done.empty()
        assert app.contained_errors == 0

    run_async(main())
