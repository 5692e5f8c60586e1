"""What a command says of what went wrong.

That is one line; and where the user's own code had a part in it, its frames of the traceback.
"""

import importlib
import logging
import os
import sys
import traceback

from ginsfsm import module_file
from ginsfsm.errors import GinsfsmError
from ginsfsm.logs import about, are_json

__all__ = [
    "DONE",
    "FAILED",
    "INTERRUPTED",
    "MISUSED",
    "MisuseError",
    "is_inside",
    "one_line",
    "say",
    "say_failed",
    "told_of",
    "write",
]

logger = logging.getLogger("ginsfsm")

DONE = 0
FAILED = 1
MISUSED = 2
INTERRUPTED = 130
"""What a shell says of a program that SIGINT ended."""

COMMAND = os.path.dirname(os.path.abspath(__file__)) + os.sep
LOADERS = (COMMAND, os.path.abspath(module_file.__file__))
LIBRARY = os.path.dirname(os.path.dirname(COMMAND)) + os.sep
IMPORT_MACHINERY = (
    "<frozen importlib",
    os.path.dirname(os.path.abspath(importlib.__file__)) + os.sep,
)


class MisuseError(Exception):
    """The user gave something wrong; the text says what, and nothing else need be said."""


def is_inside(error: BaseException) -> bool:
    """Whether the error came out of the user's code, and not from looking for it."""
    stack = traceback.extract_tb(error.__traceback__)
    return any(not _is_ours(frame) for frame in stack)


def _is_ours(frame: traceback.FrameSummary) -> bool:
    return frame.filename.startswith((LIBRARY, *IMPORT_MACHINERY))


def one_line(error: BaseException) -> str:
    """The last line of the traceback: the kind of error and what it says."""
    return traceback.format_exception_only(error)[-1].strip()


def told_of(error: BaseException) -> str:
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
    summary = one_line(error)
    return summary if details == summary else f"{summary}\n{details}"


def _trim(stack: traceback.StackSummary, on_purpose: bool) -> None:
    """Leave the frames from the user's first one on."""
    stack[:] = [frame for frame in stack if not frame.filename.startswith(IMPORT_MACHINERY)]
    theirs = [index for index, frame in enumerate(stack) if not _is_ours(frame)]
    if theirs:
        # Where in the library an error is raised on purpose is no concern of the user.
        end = theirs[-1] + 1 if on_purpose else len(stack)
        stack[:] = stack[theirs[0] : end]
    elif all(frame.filename.startswith(LOADERS) for frame in stack):
        stack.clear()


def say(text: str) -> None:
    """A line of the command itself. It goes to stderr; stdout belongs to the program that runs."""
    write(f"ginsfsm: {text}")


def say_failed(text: str) -> None:
    """Why the program ends; where programs read the log, a record like others."""
    if are_json():
        logger.critical("%s", text, extra=about())
    else:
        say(text)


def write(text: str) -> None:
    """Lines on stderr, if it can take them; where it cannot, the exit status has to say it."""
    if sys.stderr is None:
        # Closed before the start; then `print` would take stdout.
        return
    try:
        # In one piece, or the lines of workers get mixed where Python's output is unbuffered.
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
    except OSError:
        # A full disk or a closed pipe.
        pass
