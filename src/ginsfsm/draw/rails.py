"""The rails at the right side of a text picture, which lead from a row to a box.

Every box that something goes to has one rail. It runs from the first to the last line that has to
do with it; the short ones run inside, so that few lines cross.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["MOST_RAILS", "Stop", "rails_beside"]

MOST_RAILS: Final = 7
"""With more of them nobody's eye can follow one."""


@dataclass(frozen=True, slots=True)
class Stop:
    """A line of the picture from which a rail leads to a box.

    Attributes:
        line: the number of the line, from 0.
        target: the name of the box.
    """

    line: int
    target: str


@dataclass(frozen=True, slots=True)
class _Rail:
    arrival: int
    leaving: frozenset[int]

    @property
    def lines(self) -> range:
        ends = (self.arrival, *self.leaving)
        return range(min(ends), max(ends) + 1)

    def touches(self, line: int) -> bool:
        return line == self.arrival or line in self.leaving

    def at(self, line: int) -> str:
        """What the rail looks like where a line of the picture meets it."""
        lines = self.lines
        if line == lines[0]:
            return "┐"
        return "┘" if line == lines[-1] else "┤"


def rails_beside(count: int, arrivals: Mapping[str, int], stops: Sequence[Stop]) -> list[str]:
    """What stands to the right of each line of a picture.

    Args:
        count: how many lines the picture has.
        arrivals: the line at which each box is entered.
        stops: the lines from which a rail leads somewhere.
    """
    leaving: dict[str, set[int]] = {}
    for stop in stops:
        leaving.setdefault(stop.target, set()).add(stop.line)
    rails = sorted(
        (_Rail(arrivals[target], frozenset(lines)) for target, lines in leaving.items()),
        key=lambda rail: (len(rail.lines), rail.arrival),
    )
    return [_beside(line, rails) for line in range(count)]


def _beside(line: int, rails: Sequence[_Rail]) -> str:
    met = next((number for number, rail in enumerate(rails) if rail.touches(line)), None)
    arrives = met is not None and rails[met].arrival == line
    text = "◀" if arrives else "─" if met is not None else " "
    for number, rail in enumerate(rails):
        runs = line in rail.lines
        if met is None or number > met:
            text += " │" if runs else "  "
        elif number < met:
            text += "─┼" if runs else "──"
        else:
            text += "─" + rail.at(line)
    return text
