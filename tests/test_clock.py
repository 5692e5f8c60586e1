"""The clock of a loop, and its timers before, during and after the loop."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from ginsfsm.clock import LoopClock

RunAsync = Callable[[Coroutine[Any, Any, Any]], Any]


def test_without_a_loop_the_time_is_the_machines_monotonic_one() -> None:
    before = time.monotonic()
    assert before <= LoopClock().time() <= time.monotonic()


def test_time_does_not_jump_when_the_loop_starts(run_async: RunAsync) -> None:
    async def main() -> None:
        clock = LoopClock()
        before = clock.time()
        clock.start(asyncio.get_running_loop())
        assert abs(clock.time() - before) < 5
        assert clock.time() == pytest.approx(asyncio.get_running_loop().time(), abs=5)

    run_async(main())


def test_timers_call_back_in_order(run_async: RunAsync) -> None:
    async def main() -> None:
        clock = LoopClock()
        clock.start(asyncio.get_running_loop())
        told: list[str] = []
        done = asyncio.Event()
        clock.call_later(0.02, lambda: (told.append("b"), done.set()))
        clock.call_later(0.01, lambda: told.append("a"))
        clock.call_later(0, lambda: told.append("now"))
        assert told == []
        await done.wait()
        assert told == ["now", "a", "b"]
        assert not clock.timers

    run_async(main())


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize("seconds", [float("nan"), "1", None])
def test_what_is_no_time_is_not_set_and_the_others_go_on(
    seconds: Any, running: bool, run_async: RunAsync
) -> None:
    async def main() -> None:
        clock = LoopClock()
        done = asyncio.Event()
        clock.call_later(0.002, done.set)
        if running:
            clock.start(asyncio.get_running_loop())
        with pytest.raises((ValueError, TypeError)) as caught:
            clock.call_later(seconds, lambda: pytest.fail("it was not set"))
        if isinstance(seconds, float):
            assert str(caught.value) == "call_later: expected a number of seconds, got nan"
        assert len(clock.timers) == 1
        if not running:
            clock.start(asyncio.get_running_loop())
        await done.wait()

    run_async(main())


def test_a_timer_set_before_the_loop_counts_from_its_start(run_async: RunAsync) -> None:
    clock = LoopClock()
    done = asyncio.Event()
    cancelled = clock.call_later(0, lambda: pytest.fail("it was cancelled"))
    clock.call_later(0.01, done.set)
    cancelled.cancel()

    async def main() -> None:
        await asyncio.sleep(0)
        assert not done.is_set()
        loop = asyncio.get_running_loop()
        began = loop.time()
        clock.start(loop)
        await done.wait()
        # A loop's timers have the resolution of a millisecond.
        assert loop.time() - began >= 0.008

    run_async(main())


def test_a_cancelled_timer_does_not_call_back(run_async: RunAsync) -> None:
    async def main() -> None:
        clock = LoopClock()
        clock.start(asyncio.get_running_loop())
        done = asyncio.Event()
        timer = clock.call_later(0, lambda: pytest.fail("it was cancelled"))
        clock.call_later(0.001, done.set)
        timer.cancel()
        timer.cancel()
        await done.wait()
        fired = clock.call_later(0, done.clear)
        while done.is_set():
            await asyncio.sleep(0)
        fired.cancel()

    run_async(main())


def test_a_timer_of_one_moment_cancels_another_of_it(run_async: RunAsync) -> None:
    async def main() -> None:
        clock = LoopClock()
        done = asyncio.Event()
        clock.call_later(0.001, lambda: second.cancel())
        second = clock.call_later(0.001, lambda: pytest.fail("it was cancelled"))
        clock.call_later(0.003, done.set)
        clock.start(asyncio.get_running_loop())
        await done.wait()

    run_async(main())


def test_stop_cancels_all(run_async: RunAsync) -> None:
    async def main() -> None:
        clock = LoopClock()
        clock.start(asyncio.get_running_loop())
        clock.call_later(0, lambda: pytest.fail("the clock was stopped"))
        clock.stop()
        assert not clock.timers
        done = asyncio.Event()
        asyncio.get_running_loop().call_later(0.002, done.set)
        await done.wait()

    run_async(main())
