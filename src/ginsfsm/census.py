"""Census: what all workers together have counted at this moment.

Every worker that can answer is asked, and the sum is taken when the last one has. One that does not
answer within a second, since it is stuck, counts with what it said last: who wants to see what is
wrong must not wait for it.
"""

from __future__ import annotations

import asyncio
from typing import Final

from ginsfsm.c_worker import Worker
from ginsfsm.c_workers import Workers
from ginsfsm.snapshot import Snapshot
from ginsfsm.workers.events import EV_ASK_STATS

__all__ = ["Census"]

PATIENCE: Final = 1.0
"""Seconds. Prometheus gives a scrape 10, and a turn of a healthy loop takes milliseconds."""

INTERVAL: Final = 1.0
"""Seconds between two questions of `keep_asking`; as often as a worker gives a sign of life."""

PER_GOBJ: Final = 1e-4
"""More seconds for each gobj and each connection of the largest worker. An answer visits each, in
about a microsecond (see `ginsfsm.snapshot`), so that answers cost about 1 % of a worker's time."""

ANSWERING: Final = frozenset({"ST_READY", "ST_DRAINING", "ST_LEAVING"})
"""States of a worker that pass the question on."""


class Census:
    """Asks the workers of that parent. Call it for the sum."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers

    def keep_asking(self) -> None:
        """Ask each second from now on, so that of one that is killed little is lost.

        Less often where the workers are large.
        """
        workers = self._workers
        pause = max(INTERVAL, PER_GOBJ * workers.totals.largest)
        workers.gaplic.call_later(workers, pause, self.keep_asking)
        workers.send_event(workers, EV_ASK_STATS())

    async def __call__(self) -> Snapshot:
        """Ask, wait for the answers, and add them up."""
        workers = self._workers
        asked = {
            one.name
            for one in workers.children.values()
            if isinstance(one, Worker) and one.state in ANSWERING
        }
        done = asyncio.Event()

        def note(who: str) -> None:
            asked.discard(who)
            if not asked:
                done.set()

        workers.totals.on_change.append(note)
        try:
            workers.send_event(workers, EV_ASK_STATS())
            if asked:
                async with asyncio.timeout(PATIENCE):
                    await done.wait()
        except TimeoutError:
            # Those that are left count with what they said last.
            pass
        finally:
            workers.totals.on_change.remove(note)
        return workers.totals.sum()
