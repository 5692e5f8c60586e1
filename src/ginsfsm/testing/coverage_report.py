"""What transition coverage found: as text, as JSON, and drawn."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from ginsfsm.draw import draw
from ginsfsm.folder import short_path
from ginsfsm.gobj import GObj, _gclasses
from ginsfsm.row import Row
from ginsfsm.testing.coverage import TableRow, owner_of

__all__ = ["Report", "Table", "percent"]

SUFFIXES: Final = {"mermaid": "mmd", "svg": "svg"}
"""The formats of the drawings, and how their files end."""

_Key: TypeAlias = tuple[str, str, str, int, int]
"""Whose row it is, its state, file, line and number: the same in every process."""


class Table(NamedTuple):
    """The rows of one gclass, and whether each fired."""

    gclass: str
    rows: dict[TableRow, bool]

    @property
    def fired(self) -> int:
        return sum(self.rows.values())


class Report:
    """The rows of a run, by gclass.

    Args:
        rows: every row, and whether it fired.
    """

    def __init__(self, rows: Mapping[TableRow, bool]) -> None:
        by_gclass: dict[str, dict[TableRow, bool]] = {}
        for row, fired in rows.items():
            by_gclass.setdefault(f"{row.module}:{row.gclass}", {})[row] = fired
        self.tables = [
            Table(gclass, dict(sorted(by_gclass[gclass].items(), key=_place)))
            for gclass in sorted(by_gclass)
        ]
        self._fired = {
            (f"{row.module}:{row.gclass}", row.state, row.file, row.line, row.number): fired
            for row, fired in rows.items()
        }
        self.rows = len(rows)
        self.fired = sum(rows.values())
        self.percent = percent(self.fired, self.rows)

    def text(self) -> Iterator[str]:
        """A line for each gclass, and below it one for each row that never fired."""
        for table in self.tables:
            yield f"{table.gclass}: {_counted(table.fired, len(table.rows))}"
            for row, fired in table.rows.items():
                if not fired:
                    yield f"  {short_path(row.file)}:{row.line}: {row.state}: {row.text}"
        if not self.tables:
            yield "no rows"
        elif len(self.tables) > 1:
            yield f"all: {_counted(self.fired, self.rows)}"

    def write_json(self, file: Path) -> None:
        """Everything, for programs; the keys are described in docs/coverage.md."""
        found: dict[str, Any] = {
            "version": 1,
            "rows": self.rows,
            "fired": self.fired,
            "percent": self.percent,
            "gclasses": [
                {
                    "gclass": table.gclass,
                    "rows": len(table.rows),
                    "fired": table.fired,
                    "percent": percent(table.fired, len(table.rows)),
                    "table": [
                        {
                            "state": row.state,
                            "row": row.text,
                            "file": short_path(row.file),
                            "line": row.line,
                            "fired": fired,
                        }
                        for row, fired in table.rows.items()
                    ],
                }
                for table in self.tables
            ],
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")

    def write_drawings(self, folder: Path, kind: Literal["svg", "mermaid"]) -> Iterator[str]:
        """Draw each gclass into a file, with a mark at the rows that never fired.

        An SVG has them in red, and their arrows dashed; Mermaid has "(never fired)" behind them.

        Args:
            folder: where to; it is made where it is missing.
            kind: "svg" or "mermaid".

        Raises:
            GraphvizError: for "svg", where Graphviz is missing.

        Yields:
            A sentence for each gclass that could not be drawn.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for table in self.tables:
            gclass = _find(table)
            if gclass is None:
                yield f"{table.gclass} is not drawn: it was made by a function, in another process"
                continue
            fired = {
                (state, row)
                for key, state, row in _places(gclass)
                # A row of a base that nobody counts has no mark.
                if self._fired.get(key, True)
            }
            name = re.sub(r"[^\w.-]+", "-", table.gclass.replace(":", "."))
            file = folder / f"{name}.{SUFFIXES[kind]}"
            file.write_text(draw(gclass, kind, fired=fired), encoding="utf-8")


def percent(fired: int, rows: int) -> float | None:
    """How much of it, with one digit behind the point, never rounded up: 100 is all of it.

    None, where there are no rows: nobody can say how much of nothing that is.
    """
    if not rows:
        return None
    return 100.0 if fired == rows else math.floor(1000 * fired / rows) / 10


def _place(one: tuple[TableRow, bool]) -> tuple[str, int, str, int]:
    row = one[0]
    return row.file, row.line, row.state, row.number


def _counted(fired: int, rows: int) -> str:
    return f"{fired} of {rows} rows fired, {percent(fired, rows):g} %"


def _find(table: Table) -> type[GObj] | None:
    """The gclass in this process that has this table."""
    name = table.gclass.partition(":")[2].rpartition(".")[2]
    for gclass in _gclasses.get(name, ()):
        if f"{gclass.__module__}:{gclass.__qualname__}" == table.gclass and _has(gclass, table):
            return gclass
    return None


def _has(gclass: type[GObj], table: Table) -> bool:
    """Whether it is this one, and no namesake that another test has made."""
    own = {key for key, _, _ in _places(gclass) if key[0] == table.gclass}
    return own == {(table.gclass, row.state, row.file, row.line, row.number) for row in table.rows}


def _places(gclass: type[GObj]) -> Iterator[tuple[_Key, str, Row]]:
    """The rows of a machine with their states, and of each by what a report knows it."""
    for state in gclass.compiled.states.values():
        for row in state.rows:
            owner = owner_of(gclass, state, row)
            rows = owner.compiled.states[state.name].rows
            number = next(number for number, one in enumerate(rows) if one is row)
            named = f"{owner.__module__}:{owner.__qualname__}"
            yield (named, state.name, row.file, row.line, number), state.name, row
