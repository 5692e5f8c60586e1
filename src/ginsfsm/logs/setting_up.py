"""Setting up: the one handler of a process that `ginsfsm run` runs."""

from __future__ import annotations

import logging
from typing import Final, TextIO

from ginsfsm.logs.json_lines import JsonFormatter
from ginsfsm.logs.kind_limit import KindLimit
from ginsfsm.logs.plain_text import TextFormatter
from ginsfsm.logs.target import LogTarget

__all__ = ["FORMS", "LIMIT", "are_json", "log_handler", "set_up"]

FORMS: Final = {"text": TextFormatter, "json": JsonFormatter}

LIMIT: Final = 100
"""Records of one kind a minute. A line has about 150 bytes, as JSON 360, so a kind that comes
without end makes 20 MiB a day, or 50."""


class _Handler(LogTarget):
    """A target that says at its end what its limit has held back."""

    def __init__(self, stream: TextIO | None, limit: int) -> None:
        super().__init__(stream)
        self.limit = KindLimit(self.handle, records=limit) if limit else None
        if self.limit is not None:
            self.addFilter(self.limit)

    def close(self) -> None:
        if self.limit is not None:
            self.limit.close()
        super().close()


def log_handler(
    form: str = "text", limit: int = LIMIT, stream: TextIO | None = None
) -> logging.Handler:
    """The handler of `ginsfsm run`, for a program that configures `logging` itself.

    Args:
        form: "text" or "json".
        limit: records of one kind that pass in a minute; 0 is no limit.
        stream: where to write; stderr where none is given.

    Raises:
        ValueError: there is no such form, or the limit is no whole number of 0 or more.
    """
    if form not in FORMS:
        raise ValueError(f"form={form!r}: expected one of {', '.join(FORMS)}")
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 0:
        raise ValueError(
            f"limit={limit!r}: expected a whole number of records a minute; 0 is no limit"
        )
    handler = _Handler(stream, limit)
    handler.setFormatter(FORMS[form]())
    return handler


def set_up(level: str, form: str = "text", limit: int = LIMIT) -> None:
    """Log to stderr; where the process has a handler already, everything stays as it is."""
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(log_handler(form, limit))
        root.setLevel(level.upper())


def are_json() -> bool:
    """Whether programs read the log, and so what a command says should stand in it, too."""
    return any(isinstance(one.formatter, JsonFormatter) for one in logging.getLogger().handlers)
