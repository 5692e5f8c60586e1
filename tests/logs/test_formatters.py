"""The two forms of a record: plain text that nobody can forge, and JSON that any parser reads."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from ginsfsm.logs import JsonFormatter, TextFormatter
from ginsfsm.logs.plain_text import MAX_CHARACTERS


def record(message: str, *args: object, error: bool = False, **fields: Any) -> logging.LogRecord:
    exc_info = sys.exc_info() if error else None
    made = logging.getLogger("ginsfsm").makeRecord(
        "ginsfsm", logging.INFO, __file__, 1, message, args, exc_info, extra=fields
    )
    made.created = 1_700_000_000.0426
    return made


def as_json(*args: Any, **kwargs: Any) -> dict[str, Any]:
    text = JsonFormatter().format(record(*args, **kwargs))
    assert "\n" not in text
    assert text.isascii()

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    found: dict[str, Any] = json.loads(text, parse_constant=refuse)
    # Python's own takes half a character.
    assert msgspec.json.decode(text) == found
    return found


class TestText:
    def test_a_line(self) -> None:
        text = TextFormatter().format(record("%s: %d", "app", 3, peer="1.2.3.4:5"))
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO app: 3", text)

    @pytest.mark.parametrize(
        ("given", "told"),
        [
            ("a\n2026-01-01 00:00:00 forged", "a\n  2026-01-01 00:00:00 forged"),
            ("a\r2026", r"a\x0d2026"),
            ("\x1b[2J\x9b1m\x00\x7f", r"\x1b[2J\x9b1m\x00\x7f"),
            ("a\u2028b", r"a\u2028b"),
            ("a\tb é €", "a\tb é €"),
        ],
        ids=["new line", "return", "escape", "line separator", "harmless"],
    )
    def test_no_text_looks_like_another_record(self, given: str, told: str) -> None:
        text = TextFormatter().format(record("%s", given))
        assert text.partition(" INFO ")[2] == told

    def test_of_an_exception_either(self) -> None:
        try:
            raise ValueError("one\n2026-01-01 00:00:00,000 ERROR forged")
        except ValueError:
            text = TextFormatter().format(record("failed", error=True))
        first, *others = text.split("\n")
        assert first.endswith(" INFO failed")
        assert others[0] == "  Traceback (most recent call last):"
        assert all(line.startswith("  ") for line in others)
        assert others[-1] == "  2026-01-01 00:00:00,000 ERROR forged"

    def test_it_has_an_end(self) -> None:
        text = TextFormatter().format(record("a%sz", "\x00" * 100_000))
        assert len(text) < 5 * MAX_CHARACTERS
        assert text.endswith("z")
        assert "83" in text
        assert "characters left out" in text


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()], ids=["text", "json"])
def test_what_was_asked_for_is_whole(formatter: logging.Formatter) -> None:
    """The tree of a server with ten thousand connections, on SIGUSR1."""
    made = record("%s", "x" * 500_000)
    made.name = "ginsfsm.watch"
    assert "x" * 500_000 in formatter.format(made)


class TestJson:
    def test_a_line(self) -> None:
        told = as_json("%s: %d", "app", 3, path="app", open=3)
        assert list(told) == ["ts", "level", "logger", "message", "pid", "path", "open"]
        assert told["ts"] == "2023-11-14T22:13:20.042Z"
        assert datetime.fromisoformat(told["ts"]).tzinfo == UTC
        assert told["level"] == "INFO"
        assert told["message"] == "app: 3"
        assert (told["path"], told["open"]) == ("app", 3)

    def test_an_exception(self) -> None:
        try:
            raise ValueError("its\ntext")
        except ValueError:
            told = as_json("failed", error=True)
        assert told["traceback"].endswith("ValueError: its\ntext")

    def test_a_file_name_that_is_no_utf_8(self) -> None:
        """Python has a lone surrogate for each byte of it, which many parsers refuse."""
        name = os.fsdecode(b"caf\xe9.pem")
        try:
            raise FileNotFoundError(name)
        except FileNotFoundError:
            told = as_json("%s", name, error=True)
        assert told["message"] == r"caf\udce9.pem"
        assert told["traceback"].endswith(r"FileNotFoundError: caf\udce9.pem")

    @pytest.mark.parametrize(
        ("value", "told"),
        [
            (None, None),
            (True, True),
            (1.5, 1.5),
            (float("nan"), "nan"),
            (float("-inf"), "-inf"),
            (b"payload", "7 bytes"),
            ("\udcff", "\\udcff"),
            ({"\udcff": ("\udcff", "\U0001f600")}, {"\\udcff": ["\\udcff", "\U0001f600"]}),
            ({"a": (1, b"2"), 3: {"b": {"c": {"d": 1}}}}, None),
            ([1, {2}], [1, "{2}"]),
            ("x" * 5000, None),
            (ValueError("text"), "text"),
        ],
        ids=str,
    )
    def test_a_field_of_the_users_own(self, value: object, told: object) -> None:
        found = as_json("it", theirs=value)["theirs"]
        if isinstance(value, dict) and told is None:
            told = {"a": [1, "1 bytes"], "3": {"b": {"c": "{'d': 1}"}}}
        elif isinstance(value, str) and len(value) == 5000:
            assert len(found) < 1100
            told = found
        assert found == told

    def test_a_field_whose_name_is_taken(self) -> None:
        told = as_json("it", level="mine", ts=1)
        assert (told["level"], told["level_"], told["ts_"]) == ("INFO", "mine", 1)

    def test_it_has_an_end(self) -> None:
        assert len(as_json("%s", "x" * 1_000_000)["message"]) < MAX_CHARACTERS + 100
