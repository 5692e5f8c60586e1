"""Finding: one thing that is wrong, or smells, and its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["FAULTS", "SMELLS", "Finding"]

FAULTS: Final = {
    "target": "there is no such target, or no gclass in it",
    "import": "the module cannot be imported",
    "machine": "the table or the body of a gclass has a fault, so the class cannot exist",
    "parameter": "the declaration of a parameter has a fault, so the class cannot exist",
    "unknown-ignore": "a comment silences a code that there is not",
}
"""What must be put right; no comment silences it."""

SMELLS: Final = {
    "no-way-out": "nothing leads out of a state, nobody is told and nothing ends there",
    "forgotten-event": "one state has no row for an event that its siblings take",
    "late-timeout": "a child's first timeout is longer than that of the parent that waits for it",
    "never-after": "an `after` row can never fire, because its seconds are zero, less, or infinite",
    "no-effect": "an `after` row has no action and stays in its state",
    "own-state": "a row names its own state as the next one, which changes nothing",
    "same-guard": "an earlier row of the same event has the same guard",
    "lost-postponed": "an event is postponed that no later state takes",
    "namesake": "a row has an event of the same name as a child's output event, but another class",
    "unheard-output": "a gclass is made here, and nobody has a row for an output event of it",
    "unsent-output": "an output event is declared, and nothing sends it",
    "unread-parameter": "a parameter is declared, and nothing reads it",
}
"""What is legal, and mostly a mistake."""


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One thing that `ginsfsm check` has to say.

    Attributes:
        file: the path of the file, absolute; empty where there is none.
        line: counted from 1.
        code: a key of `FAULTS` or of `SMELLS`.
        gclass: the qualified name of the class; empty where it is about no single one.
        text: one sentence, what and what to do.
    """

    file: str
    line: int
    code: str
    gclass: str
    text: str

    @property
    def is_fault(self) -> bool:
        return self.code in FAULTS
