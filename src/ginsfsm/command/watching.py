"""What one can see of a program that `ginsfsm run` runs: a line, a page, and the tree.

`--stats SECONDS` prints a line with what has been counted every so often, `--metrics HOST:PORT`
serves a page for Prometheus, and SIGUSR1 writes the tree with the states to the log. All three are
asked for, so a high `--log-level` does not hide them.
"""

import argparse
import logging
import os
import signal
from collections.abc import Callable, Iterable
from typing import Any

from ginsfsm.c_timer import EV_SET_TIMER, EV_TIMEOUT, GTimer
from ginsfsm.command.quantity import interval
from ginsfsm.command.report import MisuseError
from ginsfsm.errors import GinsfsmError
from ginsfsm.event import Event
from ginsfsm.gaplic import GAplic
from ginsfsm.gconfig import param
from ginsfsm.gobj import GObj
from ginsfsm.logs.fields import about
from ginsfsm.row import on
from ginsfsm.snapshot import Snapshot, Source, take
from ginsfsm.tree_text import tree_text

__all__ = ["DUMP", "add_watch_options", "dump", "stats_line", "watch", "watch_tree"]

logger = logging.getLogger("ginsfsm.watch")

# Windows has none.
DUMP = [signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []


def add_watch_options(run: argparse.ArgumentParser) -> None:
    """Add those that let one see what happens."""
    run.add_argument(
        "--stats",
        metavar="SECONDS",
        type=interval,
        help="log a line with what has been counted, each time that so many seconds have passed",
    )
    run.add_argument(
        "--metrics",
        metavar="HOST:PORT",
        type=_address,
        help="serve http://HOST:PORT/metrics for Prometheus, as in 127.0.0.1:9100; port 0 takes a "
        "free one; with --workers it tells the sum",
    )


def watch(
    app: GAplic,
    options: argparse.Namespace,
    source: Source | None = None,
    pids: Callable[[], Iterable[int]] = tuple,
) -> None:
    """Do what the options say.

    Args:
        app: what is watched.
        options: those of the command line.
        source: where the numbers come from; None is `app` itself.
        pids: processes that write their trees as well.

    Raises:
        MisuseError: what `--metrics` needs is not installed.
        GinsfsmError: its address cannot be listened on.
    """
    watch_tree(app, pids)
    if options.stats is not None or options.metrics is not None:
        app.measure_turns()
    if options.stats is not None:
        name = "stats" if "stats" not in app.children else None
        app.create_gobj(name, StatsLine, app, seconds=options.stats, source=source)
    if options.metrics is not None:
        try:
            from prometheus_client import REGISTRY

            from ginsfsm.metrics.exporter import Exporter
        except ImportError as error:
            raise MisuseError(
                f"--metrics: {error.name} is not installed; pip install 'ginsfsm[metrics]'"
            ) from error
        host, port = options.metrics
        name = "metrics" if "metrics" not in app.children else None
        # What the program counts itself with prometheus_client; of several there is no sum.
        registry = REGISTRY if source is None else None
        try:
            exporter = app.create_gobj(
                name, Exporter, app, host=host, port=port, source=source, registry=registry
            )
        except GinsfsmError as error:
            raise GinsfsmError(f"--metrics: {error}") from error
        address = exporter.server.addresses[0]
        logger.info("metrics: http://%s/metrics", address, extra=about(exporter))


def watch_tree(app: GAplic, pids: Callable[[], Iterable[int]] = tuple) -> None:
    """Only let SIGUSR1 write the tree; see `watch`."""
    # Always told, whatever the log level is.
    logger.setLevel(logging.INFO)
    for number in DUMP:
        app.on_signal(number, lambda: dump(app, pids()))


def dump(app: GAplic, pids: Iterable[int] = ()) -> None:
    """Write the tree with its states to the log, and let these processes do so as well."""
    # The trees of workers look alike.
    logger.info(
        "SIGUSR1: the tree of process %d\n%s", os.getpid(), tree_text(app),
        extra=about(app, signal="SIGUSR1"),
    )  # fmt: skip
    for pid in pids:
        try:
            os.kill(pid, signal.SIGUSR1)
        except ProcessLookupError:
            # It has just ended, which its parent will tell.
            pass


class EV_TAKEN(Event):
    """The numbers are there."""

    result: Any
    error: BaseException | None


class StatsLine(GObj):
    """Logs a line with what has been counted, every so often."""

    class config(GObj.config):
        """How often, and of what."""

        seconds: float = param(10.0, "seconds between two lines", ge=0.01)
        source: Any = param(None, "called for the snapshot; None is that of this gaplic")

    def start_up(self) -> None:
        """Wait for the first time."""
        self._before, self._taken_at = Snapshot(), self.gaplic.time()
        timer = self.create_gobj("timer", GTimer, self)
        self.send_event(timer, EV_SET_TIMER(self.config.seconds, autostart=True))

    def ac_take(self, _event: EV_TIMEOUT) -> None:
        self.spawn(self._take_it(), done=EV_TAKEN)

    async def _take_it(self) -> Snapshot:
        return await take(self.gaplic, self.config.source)

    def ac_tell(self, event: EV_TAKEN) -> None:
        if event.error is not None:
            logger.error("no stats: %r", event.error, extra=about(self, error=event.error))
            return
        # Not `seconds`: it may come late, and then the next one as well.
        before, began = self._before, self._taken_at
        self._before, self._taken_at = event.result, self.gaplic.time()
        line = stats_line(event.result, before, self._taken_at - began)
        logger.info("stats: %s", line, extra=about(self, seconds=self.config.seconds))

    machine = {
        "ST_IDLE": [
            on(EV_TIMEOUT, ac_take, "ST_TAKING"),
        ],
        "ST_TAKING": [
            on(EV_TAKEN,   ac_tell, "ST_IDLE"),
            on(EV_TIMEOUT, None),
        ],
    }  # fmt: skip


def stats_line(now: Snapshot, before: Snapshot, seconds: float) -> str:
    """What has been counted, as one line; in brackets how much of it a second since `before`."""
    last, own = _sums(before), _sums(now)

    def each(name: str) -> str:
        rate = max(0, own[name] - last[name]) / seconds
        return f"{own[name]} ({rate:.3g}/s)"

    gaplic = now.gaplic
    return (
        f"open {own['open']}, accepted {each('accepted')}, refused {own['refused']}, "
        f"failed {own['failed']}, received {each('rx_bytes')} bytes in "
        f"{each('rx_messages')} messages, sent {each('tx_bytes')} bytes in "
        f"{each('tx_messages')} messages, errors {gaplic.contained_errors}, "
        f"posted {gaplic.posted_events}, longest turn {gaplic.longest_turn_seconds * 1000:.3g} ms"
        + (f", {gaplic.processes} processes" if gaplic.processes != 1 else "")
    )


def _sums(one: Snapshot) -> dict[str, int]:
    names = ("open", "accepted", "failed", "rx_bytes", "rx_messages", "tx_bytes", "tx_messages")
    found = {name: sum(getattr(each, name) for each in one.servers.values()) for name in names}
    found["refused"] = sum(each.refused_in_all for each in one.servers.values())
    return found


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    fits = port.isascii() and port.isdigit() and int(port) <= 65535
    if not colon or not fits or (":" in host and not bracketed):
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected HOST:PORT, as in 127.0.0.1:9100 or [::1]:9100; an empty host is "
            "every interface"
        )
    return host, int(port)
