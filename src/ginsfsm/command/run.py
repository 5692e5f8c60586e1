"""`ginsfsm run TARGET`: a gaplic with one gobj of that gclass, until it is told to stop.

SIGTERM, which is how a supervisor says so, lets its servers drain: they accept nobody any more, and
what is open has `--drain-timeout` seconds to end. A second SIGTERM ends at once. So does SIGINT at
any time, for a developer who types Control-C does not want to wait. SIGHUP lets the servers read
their certificates again.
"""

import argparse
import errno
import logging
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING

from ginsfsm import logs
from ginsfsm.announcer import EV_RELOADED, EV_RELOADING, EV_STOPPING, Announcer
from ginsfsm.c_srv_sock import EV_RELOAD_TLS, GServerSock
from ginsfsm.c_supervised import Supervised
from ginsfsm.command.lateness import watch_loop
from ginsfsm.command.listening import tell_servers
from ginsfsm.command.parent import add_options, run_workers
from ginsfsm.command.quantity import seconds, whole_number
from ginsfsm.command.report import DONE, FAILED, MISUSED, MisuseError, say_failed, told_of
from ginsfsm.command.reserve import keep_reserve
from ginsfsm.command.target import TARGET_FORM, load_gclass, target_of
from ginsfsm.command.watching import DUMP, add_watch_options, watch, watch_tree
from ginsfsm.errors import GConfigError, GinsfsmError, MachineError
from ginsfsm.gaplic import GAplic
from ginsfsm.gconfig import Text
from ginsfsm.gobj import GObj
from ginsfsm.logs.fields import about
from ginsfsm.net.addresses import ListenError
from ginsfsm.net.words import counted
from ginsfsm.service_manager import ServiceManager
from ginsfsm.settings import load_settings
from ginsfsm.shutdown import Shutdown, anybody_to_wait_for
from ginsfsm.workers.events import EV_TERMINATE
from ginsfsm.workers.origin import Origin

if TYPE_CHECKING:
    # What `add_subparsers` returns has a private name.
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

__all__ = ["add_run"]

logger = logging.getLogger("ginsfsm")

# Windows has none.
_RELOAD = [signal.SIGHUP] if hasattr(signal, "SIGHUP") else []
_HAND_OVER = [signal.SIGUSR2] if hasattr(signal, "SIGUSR2") else []

_DRAIN_TIMEOUT = 30.0
"""Seconds; supervisors kill after 30 (Kubernetes) to 90 (systemd), and the default must not be
more than the first of them."""

_SETTING_FORM = "NAME.PARAM=VALUE, as in --set echo.port=7001"


def add_run(commands: "Commands") -> None:
    """Add the command to those of the command line."""
    run = commands.add_parser(
        "run",
        help="run a gclass until SIGINT (Ctrl-C) or SIGTERM",
        description="Make a gaplic with one gobj of a gclass, and run it until SIGINT (Ctrl-C) or "
        "SIGTERM. SIGINT ends it at once; SIGTERM lets its servers drain first, and a second one "
        "ends it at once. SIGHUP lets them read their certificates again, SIGUSR1 writes the tree "
        "to the log. Exit status: 0 when it was stopped; 1 when it could not start, by a parameter "
        "that does not fit as well; 2 when the command line, the settings file or the target "
        "cannot be understood.",
    )
    run.add_argument("target", metavar="TARGET", type=target_of, help=f"the gclass: {TARGET_FORM}")
    run.add_argument(
        "--name", help="the name of the gobj (default: the name of the class in lower case)"
    )
    run.add_argument(
        "--settings", metavar="FILE.toml", help="parameters: a table for each gobj, [echo] port = 1"
    )
    run.add_argument(
        "--set",
        metavar="NAME.PARAM=VALUE",
        type=_setting,
        action="append",
        default=[],
        help="one parameter, as in echo.port=7001; may be given many times, wins over the file",
    )
    run.add_argument(
        "--drain-timeout",
        metavar="SECONDS",
        type=seconds,
        default=_DRAIN_TIMEOUT,
        help="how long after SIGTERM open connections may go on (default: %(default)g); those that "
        "are left are aborted, and 0 aborts all of them",
    )
    run.add_argument(
        "--log-level",
        choices=["debug", "info", "warning", "error"],
        default="info",
        help="what is logged to stderr (default: info)",
    )
    run.add_argument(
        "--log-format", choices=list(logs.FORMS), default="text",
        help="lines for people, or one JSON object a record (default: text)",
    )  # fmt: skip
    run.add_argument(
        "--log-limit", metavar="RECORDS", type=whole_number, default=logs.LIMIT,
        help="how many of one kind are logged in a minute; those held back are counted, and 0 is "
        "no limit (default: %(default)d)",
    )  # fmt: skip
    add_options(run)
    add_watch_options(run)
    run.set_defaults(work=_start)


@dataclass(frozen=True, slots=True)
class _Setting:
    """One value for one parameter, from the command line."""

    name: str
    parameter: str
    value: Text


def _start(options: argparse.Namespace) -> int:
    if "GINSFSM_FSM_COV" in os.environ:
        # A test run that counts which rows fire has started this.
        from ginsfsm.testing.coverage import record_process

        record_process()
    _open_what_is_closed()
    logs.set_up(options.log_level, options.log_format, options.log_limit)
    origin = Origin.of_environment()
    try:
        # What is imported and started may block; then SIGTERM is to end it as SIGINT does.
        with (
            _on_signals(_interrupt, signal.SIGTERM),
            _on_signals(_heed_later, *_RELOAD),
            _on_signals(_nothing_to_see, *DUMP),
            _on_signals(_nothing_to_hand_over, *_HAND_OVER),
        ):
            if not options.target.name:
                # Says so; else each worker would.
                load_gclass(options.target)
            if options.workers is not None and origin is None:
                return run_workers(options, _stop_without_terminal)
            return _run(options, origin)
    except (MisuseError, MachineError) as error:
        if origin is None:
            raise
        origin.cannot_start(str(error), MISUSED)
        return MISUSED
    except KeyboardInterrupt:
        logger.info("stopped by a signal before the start", extra=about())
        return DONE
    finally:
        if origin is not None:
            origin.channel.close()


def _open_what_is_closed() -> None:
    """Of stdin, stdout and stderr: else the next socket would be what the target prints to."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        # For what is started from here as well.
        os.set_inheritable(number, True)
    os.close(number)


def _setting(text: str) -> _Setting:
    left, equals, value = text.partition("=")
    name, _, parameter = left.rpartition(".")
    if not equals or not name or not parameter.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r}: expected {_SETTING_FORM}")
    return _Setting(name, parameter, Text(value))


def _run(options: argparse.Namespace, origin: Origin | None) -> int:
    settings = _settings(options.settings, options.set)
    gclass = load_gclass(options.target)
    name = gclass.__name__.lower() if options.name is None else options.name
    app: GAplic | None = None
    try:
        app = GAplic("app", settings=settings)
        keep_reserve(app)
        if origin is not None:
            app.listen = origin.listen  # type: ignore[method-assign]
        gobj = _make(app, name, gclass)
        path = gobj.path
        for number in _RELOAD:
            app.on_signal(number, partial(_reload, app))
        if origin is None:
            watch(app, options)
        else:
            watch_tree(app)
            if options.stats is not None or options.metrics is not None:
                app.measure_turns()
        # Before it says that it starts, and before the channel to a parent belongs to the tree.
        app.check_settings()
        watch_loop(app)
        app.on_terminate(_who_speaks(app, origin, options.drain_timeout))
        # Whoever reads that it starts may stop it at once, before the gaplic minds the signals
        # itself. To interrupt a loop that is being set up would leave its pieces lying about.
        stop_without_terminal = partial(_stop_without_terminal, app)
        with (
            _on_signals(app.stop, signal.SIGINT, signal.SIGTERM),
            _on_signals(stop_without_terminal, *_RELOAD),
        ):
            logger.info(
                "%s starts (%s); Ctrl-C or SIGTERM stops it", path, options.target,
                extra=about(gobj, target=str(options.target)),
            )  # fmt: skip
            if origin is None:
                # Of workers the parent tells it, once.
                tell_servers(app)
            app.start()
        logger.info("%s has stopped", path, extra=about(path=path))
    except MisuseError:
        # An option that needs what is not installed.
        raise
    except (GinsfsmError, ListenError) as error:
        return _failed(f"{options.target} cannot start: {error}", origin)
    except Exception as error:
        return _failed(f"{options.target} failed: {told_of(error)}", origin)
    finally:
        if app is not None:
            app.destroy_gobj(app)
    return DONE


def _make(app: GAplic, name: str, gclass: type[GObj]) -> GObj:
    try:
        return app.create_gobj(name, gclass, app)
    except GConfigError as error:
        # All that is wrong with the settings at once; what is below it cannot be known yet.
        misspelt = app.misspelt_settings()
        if not misspelt:
            raise
        raise GConfigError("\n  ".join([str(error), *misspelt])) from error


def _failed(why: str, origin: Origin | None) -> int:
    if origin is not None:
        # The parent tells it, once for all workers.
        origin.cannot_start(why, FAILED)
    else:
        say_failed(why)
    return FAILED


def _who_speaks(app: GAplic, origin: Origin | None, timeout: float) -> Callable[[], object]:
    """Make who tells the parent, or the service manager, how we are; returns what SIGTERM does."""
    if origin is not None:
        supervised = app.create_gobj(None, Supervised, app)
        supervised.attach(origin)
        return partial(app.send_event, supervised, EV_TERMINATE(timeout))
    announcer = app.create_gobj(None, Announcer, app)
    announcer.attach(ServiceManager.of_environment())
    return partial(_drain, app, announcer, timeout)


def _drain(app: GAplic, announcer: Announcer, timeout: float) -> None:
    """Let every server of the tree end its connections, then stop."""
    app.send_event(announcer, EV_STOPPING(timeout))
    if anybody_to_wait_for(app):
        app.create_gobj(None, Shutdown, app, timeout=timeout)
    else:
        app.stop()


def _reload(app: GAplic) -> None:
    """Let every server of the tree read its certificates again; each logs what became of it.

    The same signal says that the terminal has been closed, which ends what runs in it.
    """
    if _stop_without_terminal(app):
        return
    servers = [gobj for gobj in app.walk() if isinstance(gobj, GServerSock)]
    secure = [server for server in servers if server.config.ssl_options]
    logger.info(
        "SIGHUP: reloading TLS of %s", counted(len(secure), "server"),
        extra=about(app, signal="SIGHUP", count=len(secure)),
    )  # fmt: skip
    announcers = [gobj for gobj in app.walk() if isinstance(gobj, Announcer)]
    for one in announcers:
        app.send_event(one, EV_RELOADING())
    for server in secure:
        app.send_event(server, EV_RELOAD_TLS())
    for one in announcers:
        app.send_event(one, EV_RELOADED())


def _stop_without_terminal(app: GAplic) -> bool:
    if not _terminal_has_gone():
        return False
    logger.info("SIGHUP: the terminal has been closed; stopping", extra=about(app, signal="SIGHUP"))
    app.stop()
    return True


def _terminal_has_gone() -> bool:
    """Whether stdin is a terminal that has been closed; a pipe or a file says something else."""
    try:
        os.tcgetpgrp(0)
    except OSError as error:
        return error.errno == errno.EIO
    return False


def _settings(
    file: str | None, given: Sequence[_Setting]
) -> Mapping[str, Mapping[str, object]] | None:
    """The file's settings with those of the command line over them."""
    try:
        settings = {} if file is None else load_settings(file)
    except GConfigError as error:
        raise MisuseError(str(error)) from error
    for one in given:
        settings.setdefault(one.name, {})[one.parameter] = one.value
    return settings or None


def _heed_later() -> None:
    """A SIGHUP while everything is being read for the first time: there is nothing newer."""
    if _terminal_has_gone():
        _interrupt()


def _nothing_to_see() -> None:
    """A SIGUSR1 before the start; the system's own way would be to end the process."""
    logger.info("SIGUSR1: there is no tree yet", extra=about(signal="SIGUSR1"))


def _nothing_to_hand_over() -> None:
    """A SIGUSR2 before the workers serve, or where there are none; the system's way is the same."""
    logger.info("SIGUSR2: there is nothing to hand over", extra=about(signal="SIGUSR2"))


def _interrupt() -> None:
    raise KeyboardInterrupt


@contextmanager
def _on_signals(action: Callable[[], object], *numbers: signal.Signals) -> Iterator[None]:
    """Let these signals call the action, wherever the program is then."""

    def handle(number: int, frame: FrameType | None) -> None:
        action()

    before = [(number, signal.signal(number, handle)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)
