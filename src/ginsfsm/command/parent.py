"""`ginsfsm run TARGET --workers N`: the parent of N processes that run the target.

A worker is this command line once more, started by exec; a variable in its environment says that it
is one. What only the parent has to do with, the service manager and the sockets that it gave, is
not in that environment.
"""

import argparse
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from ginsfsm.c_workers import Workers
from ginsfsm.census import Census
from ginsfsm.command.quantity import seconds
from ginsfsm.command.report import DONE, FAILED, MisuseError, say_failed
from ginsfsm.command.watching import watch
from ginsfsm.errors import GinsfsmError
from ginsfsm.gaplic import GAplic
from ginsfsm.logs.fields import about
from ginsfsm.net.inherited import VARIABLES as LISTENING
from ginsfsm.net.words import counted
from ginsfsm.service_manager import VARIABLES as NOTIFYING
from ginsfsm.service_manager import ServiceManager
from ginsfsm.workers.events import EV_ROLL, EV_TERMINATE, EV_UPGRADE
from ginsfsm.workers.origin import HEIR, Origin

__all__ = ["add_options", "run_workers"]

logger = logging.getLogger("ginsfsm")

NOT_FOR_WORKERS = (*NOTIFYING, *LISTENING)

FOR_A_WORKER = 2
"""Descriptors: its channel, and its process."""

FOR_THE_REST = 32
"""Descriptors: the loop has about 15, and there are listening sockets, and one that starts."""


def add_options(run: argparse.ArgumentParser) -> None:
    """Add those that concern workers."""
    run.add_argument(
        "--workers",
        metavar="N",
        type=_count,
        help="serve with N processes on the same ports; one that dies is started again, SIGHUP "
        "replaces all, one by one, by new ones (default: this process serves itself)",
    )
    run.add_argument(
        "--worker-timeout",
        metavar="SECONDS",
        type=seconds,
        default=Workers.config.silence,
        help="how long a worker's loop may stand still before it is killed and started again "
        "(default: %(default)g); 0 is for ever",
    )
    run.add_argument(
        "--start-timeout",
        metavar="SECONDS",
        type=seconds,
        default=Workers.config.start_timeout,
        help="how long a worker may take until it serves, before it is killed and started again "
        "(default: %(default)g); 0 is for ever",
    )


def run_workers(options: argparse.Namespace, has_no_terminal: Callable[[GAplic], bool]) -> int:
    """Run the parent until it is stopped.

    Args:
        options: those of the command line.
        has_no_terminal: called on SIGHUP. Where that meant that the terminal has been closed, it
            stops the gaplic and returns True; else it is asked for new workers.

    Returns:
        The exit status.

    Raises:
        MisuseError: the system cannot do that.
    """
    if not hasattr(socket, "send_fds") or os.name != "posix":
        raise MisuseError("--workers needs a system on which processes can share sockets")
    heir_environment = _for_heir(os.environ)
    predecessor = Origin.of_environment(HEIR)
    service = ServiceManager.of_environment()
    _check_descriptors(options.workers)
    if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
        # Whoever started us did not want to know how we end; we want to know it of our workers.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    app = GAplic("parent")
    try:
        workers = app.create_gobj(
            "workers",
            Workers,
            app,
            count=options.workers,
            command=_own_command(options.words),
            environment={
                name: value for name, value in os.environ.items() if name not in NOT_FOR_WORKERS
            },
            heir_environment=heir_environment,
            drain_timeout=options.drain_timeout,
            silence=options.worker_timeout,
            start_timeout=options.start_timeout,
        )
        workers.attach(service, predecessor)
        # What the parent listens on itself, for the metrics, goes to an heir with the rest.
        app.listen = workers.listen  # type: ignore[method-assign]

        def roll() -> None:
            if not has_no_terminal(app):
                workers.request(EV_ROLL())

        app.on_signal(signal.SIGHUP, roll)
        app.on_signal(signal.SIGUSR2, partial(workers.request, EV_UPGRADE()))
        app.on_terminate(partial(app.send_event, workers, EV_TERMINATE(options.drain_timeout)))
        census = Census(workers)
        watch(app, options, census, lambda: [one.pid for one in workers.crew if one.serves])
        if options.stats is not None or options.metrics is not None:
            census.keep_asking()
        logger.info(
            "starting %s (%s); Ctrl-C or SIGTERM stops them",
            counted(options.workers, "worker"), options.target,
            extra=about(workers, count=options.workers, target=str(options.target)),
        )  # fmt: skip
        app.start()
        logger.info("%s has stopped", workers.path, extra=about(path=workers.path))
        return workers.exit_status or DONE
    except MisuseError:
        raise
    except GinsfsmError as error:
        say_failed(f"{options.target} cannot start: {error}")
        return FAILED
    finally:
        app.destroy_gobj(app)


def _check_descriptors(workers: int) -> None:
    import resource  # Windows has none.

    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = workers * FOR_A_WORKER + FOR_THE_REST
    if limit != resource.RLIM_INFINITY and limit < needed:
        raise MisuseError(
            f"--workers {workers} takes {needed} descriptors in the parent, and it may have "
            f"{limit}: take fewer workers, or raise the limit (ulimit -n, LimitNOFILE=)"
        )


def _for_heir(environment: Mapping[str, str]) -> dict[str, str]:
    """What a new parent is started with: ours, but for what names our own process."""
    return {
        name: value
        for name, value in environment.items()
        if name not in ("WATCHDOG_PID", *LISTENING, HEIR)
    }


def _own_command(words: Sequence[str] | None) -> tuple[str, ...]:
    """What this process was started as, or would have been if these are not its own words."""
    if words is not None:
        return (sys.executable, "-m", "ginsfsm", *words)
    # With the flags of Python, and by the script or by -m: each looks for modules in its own way.
    begin = len(sys.orig_argv) - len(sys.argv) + 1
    return (sys.executable, *sys.orig_argv[1:begin], *sys.argv[1:])


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= 1024:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of processes, 1 to 1024")
    return int(text)
