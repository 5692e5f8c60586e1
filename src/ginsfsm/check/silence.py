"""The comments that silence a smell: `# ginsfsm: ignore[no-way-out]: the owner destroys it`.

Such a comment holds for its own line, or, where it stands alone, for the next line with code. On
the line of a class statement it holds for the whole class. The reason behind it is for the reader.
"""

from __future__ import annotations

import io
import re
import tokenize
from functools import cache
from pathlib import Path

from ginsfsm.check.finding import FAULTS, SMELLS, Finding
from ginsfsm.errors import nearest

__all__ = ["is_silenced", "unknown_codes"]

COMMENT = re.compile(r"#\s*ginsfsm:\s*ignore(?:\[([^\]]*)\])?")


@cache
def _silences(file: str) -> dict[int, tuple[int, tuple[str, ...]]]:
    """For each line that a comment is about: the comment's own line, and its codes."""
    try:
        text = Path(file).read_bytes()
        tokens = list(tokenize.tokenize(io.BytesIO(text).readline))
    except (OSError, SyntaxError, tokenize.TokenError):
        return {}
    found: dict[int, tuple[int, tuple[str, ...]]] = {}
    waiting: list[tuple[int, tuple[str, ...]]] = []
    for token in tokens:
        if token.type == tokenize.COMMENT:
            match = COMMENT.search(token.string)
            if match is None:
                continue
            codes = tuple(code.strip() for code in (match[1] or "").split(","))
            alone = not token.line[: token.start[1]].strip()
            if alone:
                waiting.append((token.start[0], codes))
            else:
                found[token.start[0]] = (token.start[0], codes)
        elif waiting and token.type not in (
            tokenize.NL,
            tokenize.NEWLINE,
            tokenize.INDENT,
            tokenize.DEDENT,
        ):
            line = token.start[0]
            for place, codes in waiting:
                found[line] = (place, (*found.get(line, (place, ()))[1], *codes))
            waiting.clear()
    # One that waits in vain, at the end of a file, is still read for its codes.
    found.update({-place: (place, codes) for place, codes in waiting})
    return found


def is_silenced(finding: Finding, class_at: tuple[str, int]) -> bool:
    """Whether a comment at its place, or at its class, silences a smell.

    Args:
        finding: the smell; nobody asks for a fault.
        class_at: the file and the line of the class statement.
    """
    places = ((finding.file, finding.line), class_at)
    found = (_silences(file).get(line) for file, line in places)
    return any(one and finding.code in one[1] for one in found)


def unknown_codes(file: str) -> list[Finding]:
    """The comments of a file that silence nothing, since there is no such smell."""
    return [
        Finding(file, place, "unknown-ignore", "", _sentence(code))
        for place, codes in _silences(file).values()
        for code in codes
        if code not in SMELLS
    ]


def _sentence(code: str) -> str:
    if not code:
        return "say what to ignore, as in `# ginsfsm: ignore[no-way-out]`"
    if code in FAULTS:
        return f"{code!r} is a fault and cannot be ignored"
    return f"there is no smell {code!r}{nearest(code, SMELLS)}"
