"""Output: what a command was asked for comes out whole, whatever the modules do that it imports.

Stdout has nothing else, and a file that is named stands where the command was given.
"""

import contextlib
import errno
import os
import sys
import threading
from collections.abc import Iterator

from ginsfsm.command.report import say

__all__ = ["importing", "print_out", "tell_of_threads"]


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """A block that imports what others wrote.

    What is written to stdout in it goes to stderr, that of programs that are started as well; and
    the working directory is afterwards what it was, if it can be opened.
    """
    with _same_folder(), _stdout_on_stderr(), contextlib.redirect_stdout(sys.stderr):
        yield


@contextlib.contextmanager
def _same_folder() -> Iterator[None]:
    try:
        folder = os.open(".", os.O_RDONLY)
    except OSError:
        # It is gone, or cannot be read: nobody comes back to it.
        yield
        return
    try:
        yield
    finally:
        os.chdir(folder)
        os.close(folder)


@contextlib.contextmanager
def _stdout_on_stderr() -> Iterator[None]:
    if sys.__stdout__ is None:
        # Closed before the start: its number may be another file's by now.
        yield
        return
    sys.__stdout__.flush()
    saved = os.dup(1)
    try:
        _give_stdout(2)
        yield
    finally:
        with contextlib.suppress(OSError, ValueError):
            # What ran may have closed it; or stderr, where it goes now, takes no more.
            sys.__stdout__.flush()
        os.dup2(saved, 1)
        os.close(saved)


def _give_stdout(number: int) -> None:
    try:
        os.dup2(number, 1)
    except OSError:
        # Stderr is closed.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)


def print_out(text: str | bytes) -> None:
    """Write to stdout, all of it.

    Raises:
        OSError: stdout is closed, its reader has gone away, or its disk is full.
    """
    if sys.stdout is None:
        raise OSError(errno.EBADF, "it is closed")
    if isinstance(text, bytes):
        sys.stdout.buffer.write(text)
    else:
        encoding = sys.stdout.encoding or "ascii"
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
    sys.stdout.flush()


def tell_of_threads() -> None:
    """Say why the process does not end, where what was imported has left a thread behind."""
    left = [
        one.name
        for one in threading.enumerate()
        if one is not threading.main_thread() and not one.daemon
    ]
    if left:
        say(
            f"done, but waiting for the end of a thread that was started by an import "
            f"({', '.join(left)}); put what starts it under: if __name__ == '__main__':"
        )
