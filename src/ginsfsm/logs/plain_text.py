r"""Plain text: one record a line, for people and for journald.

What stands in a line may come from outside, in the text of an exception of the user's, say. So no
record can look like two, and none can move the cursor of a terminal: lines after the first one are
indented, and what else is a control character is written as `\x1b`.
"""

from __future__ import annotations

import logging
import sys
from typing import Final

__all__ = ["MAX_CHARACTERS", "WHOLE", "TextFormatter", "longest", "shortened"]

MAX_CHARACTERS: Final = 16_384
"""Of one record, traceback and all. A traceback of a hundred frames has about as many."""

WHOLE: Final = frozenset({"ginsfsm.watch"})
"""Loggers of what an operator has asked for, as the tree on SIGUSR1: that is written to its end,
and no limit holds it back."""

_CONTROL: Final = {
    code: f"\\x{code:02x}"
    for code in (*range(0x20), 0x7F, *range(0x80, 0xA0))
    if chr(code) not in "\t\n"
} | {0x2028: "\\u2028", 0x2029: "\\u2029"}


class TextFormatter(logging.Formatter):
    """`2026-11-22 19:32:56,123 INFO app/echo starts`; further lines are indented."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """The record's text, without the end of its last line."""
        text = shortened(super().format(record), longest(record))
        return text.translate(_CONTROL).replace("\n", "\n  ")


def longest(record: logging.LogRecord) -> int:
    """How many characters of a record's text are written."""
    return sys.maxsize if record.name in WHOLE else MAX_CHARACTERS


def shortened(text: str, size: int) -> str:
    """The text; where it is longer than that, its two ends. A traceback has its point at the end.

    Args:
        text: any.
        size: characters that are kept.
    """
    if len(text) <= size:
        return text
    half = size // 2
    return f"{text[:half]} ... {len(text) - 2 * half} characters left out ... {text[-half:]}"
