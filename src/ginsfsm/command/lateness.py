"""Lateness: says when the loop was held up, since nobody is served then.

A timer looks every half second how late it is. An action that blocks shows so, and a coroutine that
does not await; a process that was stopped looks the same. What it cannot see is less than its own
interval, so it says "at least". Nothing is measured in between.
"""

import logging
from typing import Final

from ginsfsm.gaplic import GAplic
from ginsfsm.logs.fields import about

__all__ = ["watch_loop"]

logger = logging.getLogger("ginsfsm")

INTERVAL: Final = 0.5
"""Seconds between two looks."""

TOLERATED: Final = 1.0
"""Seconds. A client notices that; a busy machine alone rarely makes a process wait so long."""


def watch_loop(app: GAplic) -> None:
    """Warn, from when the loop runs on, whenever it was held for longer than a second."""
    due = 0.0

    def wait() -> None:
        nonlocal due
        due = app.time() + INTERVAL
        app.call_later(app, INTERVAL, look)

    def look() -> None:
        late = app.time() - due
        if late > TOLERATED:
            logger.warning(
                "the loop was held for at least %.1f s and nobody was served meanwhile: an action "
                "took too long (spawn a coroutine for what waits, with asyncio.to_thread for what "
                "blocks), or the process was stopped",
                late, extra=about(app, seconds=round(late, 3)),
            )  # fmt: skip
        wait()

    # The loop does not run yet, and what is made before it does may take its time.
    app.call_later(app, 0, wait)
