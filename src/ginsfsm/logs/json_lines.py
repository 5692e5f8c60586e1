"""JSON lines: one object a record, for programs that collect logs.

`ts` (UTC, RFC 3339), `level`, `logger`, `message`, `pid`, then the fields of the record's `extra`:
ours (`fields`) and those of the user's own log calls; `traceback` where there is one. Everything is
ASCII, so that no locale and no half character can spoil a line.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

from ginsfsm.logs.plain_text import MAX_CHARACTERS, longest, shortened

__all__ = ["JsonFormatter"]

_MAX_FIELD: Final = 1000
"""Characters of one field; ours have a hundred at most."""

_OF_EVERY_RECORD: Final = frozenset(
    {*vars(logging.makeLogRecord({})), "asctime", "message", "taskName"}
)
_OURS: Final = frozenset({"ts", "level", "logger", "message", "pid", "traceback", "stack"})


class JsonFormatter(logging.Formatter):
    """One JSON object a record, on one line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON, without the end of the line."""
        when = datetime.fromtimestamp(record.created, UTC)
        told: dict[str, object] = {
            "ts": when.strftime("%Y-%m-%dT%H:%M:%S.") + f"{when.microsecond // 1000:03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": _legible(shortened(record.getMessage(), longest(record))),
            "pid": record.process,
        }
        for name, value in vars(record).items():
            if name not in _OF_EVERY_RECORD:
                # The user's own field of a name that is taken keeps its value under another one.
                told[f"{name}_" if name in _OURS else name] = _plain(value)
        if record.exc_info:
            trace = self.formatException(record.exc_info)
            told["traceback"] = _legible(shortened(trace, MAX_CHARACTERS))
        if record.stack_info:
            told["stack"] = _legible(shortened(record.stack_info, MAX_CHARACTERS))
        return json.dumps(told, allow_nan=False)


def _legible(text: str) -> str:
    r"""The text with `\udcff` in letters for half a character, which many parsers refuse."""
    return text.encode(errors="backslashreplace").decode()


def _plain(value: object, depth: int = 3) -> object:
    """A value that JSON has, or the words for it; bytes are only counted."""
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"{len(value)} bytes"
    if depth and isinstance(value, Mapping):
        return {_plain_text(name): _plain(one, depth - 1) for name, one in value.items()}
    if depth and isinstance(value, (list, tuple)):
        return [_plain(one, depth - 1) for one in value]
    return _plain_text(value)


def _plain_text(value: object) -> str:
    return _legible(shortened(str(value), _MAX_FIELD))
