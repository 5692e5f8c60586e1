"""The command `ginsfsm`: what can be done with a gclass from a shell.

`ginsfsm run TARGET` makes a gaplic with one gobj of that gclass, and runs it until it is told to
stop. SIGTERM, which is how a supervisor says so, lets its servers drain: they accept nobody any
more, and what is open has `--drain-timeout` seconds to end. A second SIGTERM ends at once. So does
SIGINT at any time, for a developer who types Control-C does not want to wait. SIGHUP lets the
servers read their certificates again. A target is `package.module:Class` or `file.py:Class`. As
with Python itself, its imports are looked for first in the folder of the file, or in the current
one where a module is given.

What the command says goes to stderr; stdout belongs to the program that it runs. Its exit status:

- 0: it ran, and ended by SIGINT, SIGTERM or `stop()`;
- 1: it could not start, by a parameter that does not fit as well;
- 2: the command line, the settings file or the target cannot be understood.
"""

import argparse
import errno
import importlib
import importlib.util
import logging
import math
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from types import FrameType, ModuleType
from typing import TypeGuard

from ginsfsm.c_srv_sock import EV_RELOAD_TLS, GServerSock
from ginsfsm.errors import GConfigError, GinsfsmError, MachineError, nearest
from ginsfsm.gaplic import GAplic
from ginsfsm.gconfig import Text
from ginsfsm.gobj import GObj
from ginsfsm.net.addresses import ListenError
from ginsfsm.settings import load_settings
from ginsfsm.shutdown import Shutdown

__all__ = ["main"]

logger = logging.getLogger("ginsfsm")

# Windows has none.
_RELOAD = [signal.SIGHUP] if hasattr(signal, "SIGHUP") else []

_DRAIN_TIMEOUT = 30.0
"""Seconds; supervisors kill after 30 (Kubernetes) to 90 (systemd), and the default must not be
more than the first of them."""

_DONE = 0
_FAILED = 1
_MISUSED = 2

_TARGET_FORM = "package.module:Class or file.py:Class"
_SETTING_FORM = "NAME.PARAM=VALUE, as in --set echo.port=7001"

_LIBRARY = os.path.dirname(os.path.abspath(__file__)) + os.sep
_IMPORT_MACHINERY = (
    "<frozen importlib",
    os.path.dirname(os.path.abspath(importlib.__file__)) + os.sep,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; must be called in the main thread, because it minds signals.

    Args:
        argv: the arguments without the program's name; `None` takes those of the process.

    Returns:
        The exit status, see the module.
    """
    try:
        options = _parser().parse_args(argv)
    except SystemExit as ended:
        # argparse ends the process, with a number, after help and after what it found wrong.
        return ended.code if isinstance(ended.code, int) else _MISUSED
    logging.basicConfig(
        stream=sys.stderr,
        level=options.log_level.upper(),
        format="%(asctime)s %(levelname)s %(message)s",
    )
    try:
        # What is imported and started may block; then SIGTERM is to end it as SIGINT does.
        with _on_signals(_interrupt, signal.SIGTERM), _on_signals(_heed_later, *_RELOAD):
            return _run(options)
    except _MisuseError as error:
        _say(str(error))
        return _MISUSED
    except MachineError as error:
        # Of the target: its lines name the class, and file and line of every fault.
        print(error, file=sys.stderr, flush=True)
        return _MISUSED
    except KeyboardInterrupt:
        logger.info("stopped by a signal before the start")
        return _DONE


class _MisuseError(Exception):
    """The user gave something wrong; the text says what, and nothing else need be said."""


@dataclass(frozen=True, slots=True)
class _Target:
    """A gclass as the command line names it."""

    module: str
    name: str

    @property
    def is_file(self) -> bool:
        return self.module.endswith(".py")

    def __str__(self) -> str:
        return f"{self.module}:{self.name}"


@dataclass(frozen=True, slots=True)
class _Setting:
    """One value for one parameter, from the command line."""

    name: str
    parameter: str
    value: Text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ginsfsm", description="Network servers made of finite state machines."
    )
    parser.add_argument("--version", action="version", version=f"ginsfsm {_version()}")
    commands = parser.add_subparsers(title="commands", dest="command", required=True)

    run = commands.add_parser(
        "run",
        help="run a gclass until SIGINT (Ctrl-C) or SIGTERM",
        description="Make a gaplic with one gobj of a gclass, and run it until SIGINT (Ctrl-C) or "
        "SIGTERM. SIGINT ends it at once; SIGTERM lets its servers drain first, and a second one "
        "ends it at once. SIGHUP lets them read their certificates again. Exit status: 0 when it "
        "was stopped; 1 when it could not start, by a parameter that does not fit as well; 2 when "
        "the command line, the settings file or the target cannot be understood.",
    )
    run.add_argument("target", metavar="TARGET", type=_target, help=f"the gclass: {_TARGET_FORM}")
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
        type=_seconds,
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
    return parser


def _version() -> str:
    try:
        return metadata.version("ginsfsm")
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _target(text: str) -> _Target:
    # From the right: a file on Windows has a colon of its own.
    module, colon, name = text.rpartition(":")
    if not colon or not module or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} names no class: expected {_TARGET_FORM}")
    target = _Target(module, name)
    if not target.is_file and not all(part.isidentifier() for part in module.split(".")):
        raise argparse.ArgumentTypeError(
            f"{module!r} is neither the name of a module nor a file that ends in .py: "
            f"expected {_TARGET_FORM}"
        )
    return target


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: expected seconds, 0 or more, as in 30 or 2.5")
    return seconds


def _setting(text: str) -> _Setting:
    left, equals, value = text.partition("=")
    name, _, parameter = left.rpartition(".")
    if not equals or not name or not parameter.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r}: expected {_SETTING_FORM}")
    return _Setting(name, parameter, Text(value))


def _run(options: argparse.Namespace) -> int:
    settings = _settings(options.settings, options.set)
    gclass = _load(options.target)
    name = gclass.__name__.lower() if options.name is None else options.name
    app: GAplic | None = None
    try:
        app = GAplic("app", settings=settings)
        gobj = app.create_gobj(name, gclass, app)
        path = gobj.path
        for number in _RELOAD:
            app.on_signal(number, partial(_reload, app))
        app.on_terminate(partial(_drain, app, options.drain_timeout))
        # Whoever reads that it starts may stop it at once, before the gaplic minds the signals
        # itself. To interrupt a loop that is being set up would leave its pieces lying about.
        stop_without_terminal = partial(_stop_without_terminal, app)
        with (
            _on_signals(app.stop, signal.SIGINT, signal.SIGTERM),
            _on_signals(stop_without_terminal, *_RELOAD),
        ):
            logger.info("%s starts (%s); Ctrl-C or SIGTERM stops it", path, options.target)
            app.start()
        logger.info("%s has stopped", path)
    except (GinsfsmError, ListenError) as error:
        _say(f"{options.target} cannot start: {error}")
        return _FAILED
    except Exception as error:
        _say(f"{options.target} failed: {_told(error)}")
        return _FAILED
    finally:
        if app is not None:
            app.destroy_gobj(app)
    return _DONE


def _drain(app: GAplic, timeout: float) -> None:
    """Let every server of the tree end its connections, then stop."""
    if any(isinstance(gobj, GServerSock) for gobj in app.walk()):
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
    logger.info("SIGHUP: reloading TLS of %d servers", len(secure))
    for server in secure:
        app.send_event(server, EV_RELOAD_TLS())


def _stop_without_terminal(app: GAplic) -> bool:
    if not _terminal_has_gone():
        return False
    logger.info("SIGHUP: the terminal has been closed; stopping")
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
        raise _MisuseError(str(error)) from error
    for one in given:
        settings.setdefault(one.name, {})[one.parameter] = one.value
    return settings or None


def _load(target: _Target) -> type[GObj]:
    try:
        module = _import_file(target) if target.is_file else _import_module(target)
    except (MachineError, _MisuseError):
        raise
    except (Exception, SystemExit) as error:
        raise _MisuseError(_import_fault(target, error)) from error
    return _gclass(target, module)


def _import_module(target: _Target) -> ModuleType:
    # As "python -m" does; the script "ginsfsm" would only find what is installed.
    _put_first_on_path(os.getcwd())
    return importlib.import_module(target.module)


def _import_file(target: _Target) -> ModuleType:
    file = Path(target.module)
    if not file.is_file():
        raise _MisuseError(f"there is no file {target.module!r} (seen from {os.getcwd()})")
    real = file.resolve()
    _put_first_on_path(str(real.parent))
    name = _module_name(file)
    spec = importlib.util.spec_from_file_location(name, real)
    if spec is None or spec.loader is None:
        raise _MisuseError(
            f"Python cannot load {target.module!r}: expected a file that ends in .py"
        )
    module = importlib.util.module_from_spec(spec)
    # Before it is run: its classes are looked up there by the name of their module, and another
    # file that imports this one has to find it and not make a second.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def _put_first_on_path(folder: str) -> None:
    # Whoever runs Python with -P does not want the folder of a program to be searched.
    if not sys.flags.safe_path and sys.path[:1] != [folder]:
        sys.path.insert(0, folder)


def _module_name(file: Path) -> str:
    """The name under which a file is loaded: its own, unless that is another module's."""
    name = file.stem.replace(".", "_")
    if name in sys.modules or name in sys.stdlib_module_names:
        return f"ginsfsm_target_{name}"
    return name


def _gclass(target: _Target, module: ModuleType) -> type[GObj]:
    missing = object()
    found = getattr(module, target.name, missing)
    if found is missing:
        known = [
            name
            for name, value in vars(module).items()
            if _is_gclass(value) and value.__module__ == module.__name__
        ]
        raise _MisuseError(
            f"{target.module} has no gclass {target.name!r}{nearest(target.name, known)}"
        )
    if not _is_gclass(found):
        raise _MisuseError(
            f"{target} is {_what_it_is(found)}; expected a gclass, which derives from ginsfsm.GObj"
        )
    return found


def _is_gclass(value: object) -> TypeGuard[type[GObj]]:
    # A gaplic is a gobj too, but the root of a tree: this command makes its own.
    return isinstance(value, type) and issubclass(value, GObj) and not issubclass(value, GAplic)


def _what_it_is(found: object) -> str:
    if isinstance(found, type) and issubclass(found, GAplic):
        return "a gaplic, the root of a tree, which this command makes itself"
    if isinstance(found, type):
        return "a class that derives from something else"
    if isinstance(found, ModuleType):
        return "a module"
    if isinstance(found, GObj):
        return f"a gobj, made of the gclass {type(found).__name__}"
    return f"an object of the type {type(found).__name__}"


def _import_fault(target: _Target, error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return (
            f"{target.module} ended the process while it was imported ({_one_line(error)}); put "
            "what runs it under: if __name__ == '__main__':"
        )
    if (
        isinstance(error, ModuleNotFoundError)
        and f"{target.module}.".startswith(f"{error.name}.")
        and not _is_inside(error)
    ):
        return (
            f"cannot import {target.module}: {error}; expected a module that Python finds from "
            f"{os.getcwd()}, or a file, as in path/to/file.py:{target.name}"
        )
    return f"cannot import {target.module}: {_told(error)}"


def _is_inside(error: BaseException) -> bool:
    """Whether the error came out of the user's code, and not from looking for it."""
    stack = traceback.extract_tb(error.__traceback__)
    return any(not _is_ours(frame) for frame in stack)


def _is_ours(frame: traceback.FrameSummary) -> bool:
    return frame.filename.startswith((_LIBRARY, *_IMPORT_MACHINERY))


def _one_line(error: BaseException) -> str:
    return traceback.format_exception_only(error)[-1].strip()


def _told(error: BaseException) -> str:
    """What an error says in one line and, if the user's code had a part in it, the traceback."""
    told = traceback.TracebackException.from_exception(error)
    on_purpose = isinstance(error, GinsfsmError)
    link: traceback.TracebackException | None = told
    while link is not None:
        _trim(link.stack, on_purpose)
        link = link.__cause__ or link.__context__
    if told.stack:
        details = "".join(told.format()).rstrip()
    else:
        # A syntax error has its place in its own text.
        details = "".join(told.format_exception_only()).rstrip()
    summary = _one_line(error)
    return summary if details == summary else f"{summary}\n{details}"


def _trim(stack: traceback.StackSummary, on_purpose: bool) -> None:
    """Leave the frames from the user's first one on."""
    stack[:] = [frame for frame in stack if not frame.filename.startswith(_IMPORT_MACHINERY)]
    theirs = [index for index, frame in enumerate(stack) if not _is_ours(frame)]
    if theirs:
        # Where in the library an error is raised on purpose is no concern of the user.
        end = theirs[-1] + 1 if on_purpose else len(stack)
        stack[:] = stack[theirs[0] : end]
    elif all(frame.filename == __file__ for frame in stack):
        stack.clear()


def _say(text: str) -> None:
    print(f"ginsfsm: {text}", file=sys.stderr, flush=True)


def _heed_later() -> None:
    """A SIGHUP while everything is being read for the first time: there is nothing newer."""
    if _terminal_has_gone():
        _interrupt()


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
