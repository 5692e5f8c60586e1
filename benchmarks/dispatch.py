"""What it costs to hand one event to a machine with one counting action, inside one process.

``python benchmarks/dispatch.py [--only bare,typed] [--runs 5] [--raw]``

The contestants, each in a loop of its own; the cost of the loop is counted in all of them:

- ``bare``: ``counter.ac_count(event)``, a method of a plain object, the event made beforehand.
- ``typed``: ``sender.send_event(counter, EV_COUNT(1))``, the event built inside the loop.
- ``by_name``: ``sender.send_event(counter, "EV_COUNT", amount=1)``.
- ``transitions``: an internal transition of `transitions`, ``model.count(amount=1)``.
- ``original``: ``send_event`` of ginsfsm 0.7.3, in a process of its own, since both have the same
  import name.

A round takes batches of all contestants in turn and keeps the best batch of each: what disturbs
a batch only ever makes it slower.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import repeat
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ORIGINAL_VENV = HERE / ".build" / "original"
ORIGINAL = "ginsfsm==0.7.3"
QUIET_PIP = ("--quiet", "--disable-pip-version-check", "--no-input")

BATCHES = 15
BATCH_NS = 15_000_000
"""Time that one batch should take; short, so that some batch escapes all disturbance."""

Batch = Callable[[int], int]
"""Runs so many operations and returns the nanoseconds of CPU that they took."""


class Counter:
    """A plain object with the counting action: the floor."""

    def __init__(self) -> None:
        self.count = 0

    def ac_count(self, event: object) -> None:
        self.count += 1


def bare(stack: ExitStack) -> Batch:
    """Call the action as a method."""
    counter = Counter()
    event = object()

    def run(operations: int) -> int:
        start = time.thread_time_ns()
        for _ in repeat(None, operations):
            counter.ac_count(event)
        return time.thread_time_ns() - start

    return run


def ginsfsm_gobjs() -> tuple[Any, Any, Any]:
    """Return a sender, a gobj that counts, and the class of the event that it counts."""
    from ginsfsm import Event, GAplic, GObj, on

    class EV_COUNT(Event):
        amount: int

    class Counting(GObj):
        count = 0

        def ac_count(self, event: EV_COUNT) -> None:
            self.count += 1

        machine = {"ST_IDLE": [on(EV_COUNT, ac_count)]}

    app = GAplic("dispatch")
    sender = app.create_gobj("sender", Counting, app)
    return sender, app.create_gobj("counter", Counting, app), EV_COUNT


def typed(stack: ExitStack) -> Batch:
    """Build a typed event and send it with ginsfsm."""
    sender, counter, EV_COUNT = ginsfsm_gobjs()

    def run(operations: int) -> int:
        before = counter.count
        start = time.thread_time_ns()
        for _ in repeat(None, operations):
            sender.send_event(counter, EV_COUNT(1))
        took = time.thread_time_ns() - start
        assert counter.count - before == operations
        return took

    return run


def by_name(stack: ExitStack) -> Batch:
    """Send an event by its name with ginsfsm."""
    sender, counter, _ = ginsfsm_gobjs()

    def run(operations: int) -> int:
        before = counter.count
        start = time.thread_time_ns()
        for _ in repeat(None, operations):
            sender.send_event(counter, "EV_COUNT", amount=1)
        took = time.thread_time_ns() - start
        assert counter.count - before == operations
        return took

    return run


class Model:
    """The object whose state `transitions` keeps."""

    def __init__(self) -> None:
        self.counted = 0

    def ac_count(self, amount: int) -> None:
        self.counted += 1


def transitions(stack: ExitStack) -> Batch:
    """Trigger an internal transition of `transitions`: no change of state, one action."""
    from transitions import Machine  # type: ignore[import-not-found,unused-ignore]

    model: Any = Model()
    machine = Machine(model, states=["idle"], initial="idle", auto_transitions=False)
    machine.add_transition("count", "idle", None, after="ac_count")

    def run(operations: int) -> int:
        before = model.counted
        start = time.thread_time_ns()
        for _ in repeat(None, operations):
            model.count(amount=1)
        took = time.thread_time_ns() - start
        assert model.counted - before == operations
        return took

    return run


def original(stack: ExitStack) -> Batch:
    """Ask the process that holds the original ginsfsm for a batch; it ends at end of file."""
    # -I: a PYTHONPATH would bring today's ginsfsm in. Unbuffered: a write to a dead worker fails
    # here and not at the end.
    worker = stack.enter_context(
        subprocess.Popen(
            [str(original_python()), "-I", str(HERE / "dispatch_original.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
    )
    stdin, stdout = worker.stdin, worker.stdout
    assert stdin is not None and stdout is not None

    def run(operations: int) -> int:
        try:
            stdin.write(b"%d\n" % operations)
            return int(stdout.readline())
        except (BrokenPipeError, ValueError):
            sys.exit(f"dispatch: the process of {ORIGINAL} died")

    return run


def original_python() -> Path:
    """Return the Python of the original's environment, which is made at the first call."""
    python = ORIGINAL_VENV / "bin" / "python"
    # Asked by importing, not by looking: a copied checkout or a new Python leaves a broken one.
    check = [str(python), "-I", "-c", "import ginsfsm"]
    if not python.exists() or subprocess.run(check, check=False).returncode != 0:
        print(f"installing {ORIGINAL} into an environment of its own", file=sys.stderr)
        for command in (
            [sys.executable, "-m", "venv", "--clear", str(ORIGINAL_VENV)],
            # Its dependencies serve its web side only, which is not imported here.
            [str(python), "-m", "pip", *QUIET_PIP, "install", "--no-deps", ORIGINAL],
        ):
            if subprocess.run(command, stdout=sys.stderr, check=False).returncode != 0:
                sys.exit(f"dispatch: `{' '.join(command)}` failed; see --only to leave it out")
    return python


CONTESTANTS: dict[str, Callable[[ExitStack], Batch]] = {
    "bare": bare,
    "typed": typed,
    "by_name": by_name,
    "transitions": transitions,
    "original": original,
}


def batch_size(run: Batch) -> int:
    """Return how many operations take about `BATCH_NS`; this is the warm-up too."""
    operations = 1000
    while (took := run(operations)) < BATCH_NS // 4:
        operations *= 4
    return max(1, operations * BATCH_NS // took)


def measure(names: Sequence[str], runs: int) -> dict[str, list[float]]:
    """Return nanoseconds per operation of each contestant, one figure for each round."""
    figures: dict[str, list[float]] = {name: [] for name in names}
    with ExitStack() as stack:
        batches = {name: CONTESTANTS[name](stack) for name in names}
        sizes = {name: batch_size(run) for name, run in batches.items()}
        for _ in range(runs):
            best = dict.fromkeys(names, float("inf"))
            for _ in range(BATCHES):
                for name, run in batches.items():
                    best[name] = min(best[name], run(sizes[name]) / sizes[name])
            for name, figure in best.items():
                figures[name].append(figure)
    return figures


def main() -> None:
    """Measure and print a table, or with ``--raw`` the figures as JSON for bench.py."""
    parser = argparse.ArgumentParser(description="the cost of handing an event to a machine")
    parser.add_argument("--only", default=",".join(CONTESTANTS), help="names, with commas")
    parser.add_argument("--runs", type=int, default=5, help="rounds (default 5)")
    parser.add_argument("--raw", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    names = options.only.split(",")
    unknown = set(names) - set(CONTESTANTS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(CONTESTANTS)}")
    figures = measure(names, options.runs)
    if options.raw:
        print(json.dumps(figures))
        return
    print(f"{'':14}{'ns':>8}   times the bare call (medians of {options.runs})")
    for name, rounds in figures.items():
        ratio = ""
        if "bare" in figures:
            ratios = [mine / floor for mine, floor in zip(rounds, figures["bare"], strict=True)]
            ratio = f"{statistics.median(ratios):8.2f}"
        print(f"{name:14}{statistics.median(rounds):8.0f}{ratio}")


if __name__ == "__main__":
    main()
