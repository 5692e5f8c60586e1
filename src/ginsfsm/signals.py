"""Signals: what a gaplic does, while `start` runs it, when the process gets one.

SIGINT and SIGTERM stop it. The first of them gives both back to the system, so a second one ends
the program at once, wherever it hangs. Where the gaplic has something to do at SIGTERM first, such
as to drain, that runs instead, and the second one stops it.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ginsfsm.errors import GObjError
from ginsfsm.logs.fields import about

if TYPE_CHECKING:
    from ginsfsm.gaplic import GAplic

__all__ = ["Signals"]

logger: Final = logging.getLogger("ginsfsm")

_STOP: Final = frozenset({signal.SIGINT, signal.SIGTERM})


class Signals:
    """What is called at which signal. They are the process's own again when `start` returns."""

    def __init__(self, app: GAplic) -> None:
        self._app = app
        self._callbacks: dict[int, Callable[[], object]] = {}
        self._terminate: Callable[[], object] | None = None
        self._terminating = False
        self._before: dict[int, Any] = {}

    def call(self, number: int, callback: Callable[[], object]) -> None:
        """See `GAplic.on_signal`."""
        if number in _STOP:
            raise GObjError(
                f"{self._app.name}.on_signal: {signal.Signals(number).name} stops the gaplic; "
                "choose another"
            )
        self._callbacks[number] = callback

    def call_to_terminate(self, callback: Callable[[], object]) -> None:
        """See `GAplic.on_terminate`."""
        self._terminate = callback

    def install(self, loop: asyncio.AbstractEventLoop) -> None:
        """Handle them from now on; in another thread than the main one nobody can."""
        if threading.current_thread() is not threading.main_thread():
            return
        app = self._app
        wanted: dict[int, Callable[[], object]] = {
            number: partial(app.run_contained, app, callback, "a signal")
            for number, callback in self._callbacks.items()
        }
        wanted |= {number: partial(self._on_stop, loop, number) for number in _STOP}
        for number, callback in wanted.items():
            handler = signal.getsignal(number)
            try:
                loop.add_signal_handler(number, callback)
            except NotImplementedError:
                # Windows' loops have none; there Ctrl-C cancels us instead.
                continue
            self._before[number] = handler

    def remove(self, loop: asyncio.AbstractEventLoop) -> None:
        """Handle them no longer; who had them before has them again."""
        for number, handler in self._before.items():
            loop.remove_signal_handler(number)
            if handler is not None:
                signal.signal(number, handler)
        self._before.clear()

    def ending(self, loop: asyncio.AbstractEventLoop) -> None:
        """The gaplic ends. What SIGTERM has called is over, so the next one ends the program."""
        if self._terminating:
            self._give_back(loop)

    def _on_stop(self, loop: asyncio.AbstractEventLoop, number: int) -> None:
        app = self._app
        name = signal.Signals(number).name
        logger.info("%s: stopping on %s", app.name, name, extra=about(app, signal=name))
        terminate = self._terminate
        if number == signal.SIGTERM and terminate is not None:
            self._terminate = None
            self._terminating = True
            try:
                terminate()
                return
            except Exception as error:
                app.contain(error, app, None, "what SIGTERM calls")
        self._give_back(loop)
        app.stop()

    def _give_back(self, loop: asyncio.AbstractEventLoop) -> None:
        for number in _STOP.intersection(self._before):
            loop.remove_signal_handler(number)
            # The system's own handler. Python's for SIGINT raises KeyboardInterrupt, and a program
            # that hangs in a coroutine or in a go_out can hang on after that.
            signal.signal(number, signal.SIG_DFL)
