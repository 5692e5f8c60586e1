"""Reports: findings as lines for a person, as JSON, or as what GitHub shows at the line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from ginsfsm.check.finding import Finding
from ginsfsm.folder import short_path

__all__ = ["FORMATS", "report"]

FORMATS: Final = ("text", "json", "github")


def report(findings: Sequence[Finding], form: str, gclasses: int) -> str:
    """The findings in a form of `FORMATS`, without the last line's end; empty if there is nothing.

    Args:
        findings: what to report.
        form: one of `FORMATS`.
        gclasses: how many gclasses were looked at.
    """
    if form == "json":
        return _as_json(findings, gclasses)
    return "\n".join((_as_github if form == "github" else _as_text)(one) for one in findings)


def _as_text(one: Finding) -> str:
    return f"{_place(one)}{one.code}: {_sentence(one)}"


def _as_json(findings: Sequence[Finding], gclasses: int) -> str:
    told = [
        {
            "code": one.code,
            "severity": _severity(one),
            "file": short_path(one.file),
            "line": one.line,
            "gclass": one.gclass,
            "message": one.text,
        }
        for one in findings
    ]
    # In ASCII, so that any stdout can take it.
    return json.dumps({"gclasses": gclasses, "findings": told}, indent=2)


def _as_github(one: Finding) -> str:
    place = {"file": short_path(one.file), "line": str(one.line)} if one.file else {}
    properties = {**place, "title": f"ginsfsm {one.code}"}
    given = ",".join(f"{name}={_escaped(value, ':,')}" for name, value in properties.items())
    return f"::{_severity(one)} {given}::{_escaped(_sentence(one))}"


def _escaped(text: str, more: str = "") -> str:
    """A text as a workflow command of GitHub takes it, where a few letters have a meaning."""
    for letter in f"%\r\n{more}":
        text = text.replace(letter, f"%{ord(letter):02X}")
    return text


def _severity(one: Finding) -> str:
    return "error" if one.is_fault else "warning"


def _sentence(one: Finding) -> str:
    return f"{one.gclass}: {one.text}" if one.gclass else one.text


def _place(one: Finding) -> str:
    return f"{short_path(one.file)}:{one.line}: " if one.file else ""
