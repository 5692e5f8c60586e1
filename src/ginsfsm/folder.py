"""The working folder, which may be gone, or one that its user cannot read."""

from __future__ import annotations

import os
import sys

__all__ = ["put_first_on_path", "short_path", "working_folder"]


def working_folder() -> str:
    """Its path; "." where that cannot be known."""
    try:
        return os.getcwd()
    except OSError:
        return "."


def short_path(file: str) -> str:
    """The path as a person would type it from where the program runs."""
    return file.removeprefix(working_folder() + os.sep)


def put_first_on_path(folder: str) -> None:
    """Let imports look there first, as Python does with the folder of a program."""
    # Whoever runs Python with -P does not want it.
    if not sys.flags.safe_path and sys.path[:1] != [folder]:
        sys.path.insert(0, folder)
