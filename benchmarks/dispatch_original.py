"""The original ginsfsm 0.7.3 for dispatch.py: reads a number of operations, prints nanoseconds.

It runs in an environment of its own, on a Python where the original no longer imports by itself:
Python 3.10 took ``collections.Callable`` away.
"""

import collections
import collections.abc
import importlib
import sys
import time
from itertools import repeat
from typing import Any

setattr(collections, "Callable", collections.abc.Callable)  # noqa: B010  (typeshed forbids `=`)

# By name, so that type checkers do not take them for the classes of today's ginsfsm.
GAplic: Any = importlib.import_module("ginsfsm.gaplic").GAplic
GObj: Any = importlib.import_module("ginsfsm.gobj").GObj


def ac_count(self: Any, event: Any) -> None:
    """Count the event."""
    self.count += 1


FSM = {
    "event_list": ("EV_COUNT",),
    "state_list": ("ST_IDLE",),
    "machine": {"ST_IDLE": (("EV_COUNT", ac_count, None),)},
}


class Counting(GObj):  # type: ignore[misc]
    """A gobj that counts; what it needs is as its documentation shows."""

    def __init__(self) -> None:
        GObj.__init__(self, FSM)
        self.count = 0


def main() -> None:
    """Run the batches that are asked for, until the end of file."""
    app = GAplic(name="dispatch")
    sender = app.create_gobj("sender", Counting, app)
    counter = app.create_gobj("counter", Counting, app)
    for line in sys.stdin:
        operations = int(line)
        before = counter.count
        start = time.thread_time_ns()
        for _ in repeat(None, operations):
            sender.send_event(counter, "EV_COUNT", amount=1)
        took = time.thread_time_ns() - start
        assert counter.count - before == operations
        print(took, flush=True)


if __name__ == "__main__":
    main()
