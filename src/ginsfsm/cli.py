"""The command `ginsfsm`: what can be done with a gclass from a shell.

Each command is a module of `ginsfsm.command`. What a command says goes to stderr; stdout belongs to
the program that it runs, or to what it was asked to print. The exit status of all:

- 0: it ran, and ended by SIGINT, SIGTERM or `stop()`; `check` found nothing;
- 1: it could not start, by a parameter that does not fit as well; `check` found something;
- 2: the command line, the settings file or the target cannot be understood;
- 130: Ctrl-C came while nothing ran yet, or while it was drawn or checked.
"""

import argparse
from collections.abc import Callable, Sequence

from ginsfsm.command.check import add_check
from ginsfsm.command.draw import add_draw
from ginsfsm.command.report import INTERRUPTED, MISUSED, MisuseError, say, write
from ginsfsm.command.run import add_run
from ginsfsm.errors import MachineError

__all__ = ["main"]


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
        return ended.code if isinstance(ended.code, int) else MISUSED
    # What a worker has to be started with, where they are not those of the process.
    options.words = argv
    work: Callable[[argparse.Namespace], int] = options.work
    try:
        return work(options)
    except MisuseError as error:
        say(str(error))
        return MISUSED
    except MachineError as error:
        # Of the target: its lines name the class, and file and line of every fault.
        write(str(error))
        return MISUSED
    except KeyboardInterrupt:
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ginsfsm", description="Network servers made of finite state machines."
    )
    parser.add_argument(
        "--version", action=_Version, nargs=0, help="show program's version number and exit"
    )
    commands = parser.add_subparsers(title="commands", dest="command", required=True)
    add_run(commands)
    add_draw(commands)
    add_check(commands)
    return parser


class _Version(argparse.Action):
    """Says the version. Nobody else waits until the metadata are read."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib import metadata

        try:
            version = metadata.version("ginsfsm")
        except metadata.PackageNotFoundError:
            version = "(not installed)"
        print(f"ginsfsm {version}")
        parser.exit()
