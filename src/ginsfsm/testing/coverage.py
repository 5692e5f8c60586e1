"""Transition coverage: which rows of which tables fired.

While it records, every row that is compiled gets a mark, and a function before its own that sets
the mark. Tables that were compiled before are compiled again. So a row has fired when its own
function ran: the event came in that state, and of several rows for one event it was the one whose
guard was true. An `after` row has fired when its time was over, `enter` and `leave` rows when the
state was entered or left, a `POSTPONE` row when it kept an event. What code does without the table,
such as calling the method of a row itself, fires no row. A connection in ST_CONNECTED does that
when it receives (`GSock.io_ready`), so its row for EV_READABLE fires only where the poller has
something else to say as well.

A row belongs to the gclass whose table it was written for. A subclass that inherits the table, or
puts the row into its own table under the same state, fires that row too.

Several processes can record for one run. What each of them has seen is a `dict` of `TableRow`, and
they are added up with `merge`.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import pkgutil
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NamedTuple, TypeVar

from ginsfsm import smachine
from ginsfsm.folder import short_path
from ginsfsm.gobj import GObj, _gclasses
from ginsfsm.module_file import import_file
from ginsfsm.row import Row
from ginsfsm.smachine import State, Witness
from ginsfsm.testing.coverage_target import Target

__all__ = ["ENVIRONMENT", "Coverage", "TableRow", "owner_of", "record_process"]

F = TypeVar("F", bound=Callable[..., Any])

ENVIRONMENT: Final = "GINSFSM_FSM_COV"
"""The variable that tells a process which a test starts what to record, and where to write it."""

_ADDRESS: Final = re.compile(r" at 0x[0-9a-fA-F]+")


class TableRow(NamedTuple):
    """A row, named so that every process calls it the same.

    Attributes:
        module: where the gclass is written whose table it is.
        gclass: the qualified name of that gclass.
        state: the state that it stands under.
        number: its place among the rows of that state, from 0.
        text: the row as it is written in errors.
        file: where it is written; absolute where Python says so.
        line: likewise.
    """

    module: str
    gclass: str
    state: str
    number: int
    text: str
    file: str
    line: int


class _Mark:
    __slots__ = ("fired",)

    def __init__(self) -> None:
        self.fired = False


class Coverage:
    """Records the rows of some gclasses, from `begin` to `end`, in this process.

    One may begin while another records; it ends first then, and both see what fires.

    Args:
        targets: whose rows: a package (with all that is in it), a module, `module:Class`,
            `file.py` or `file.py:Class`.

    Attributes:
        problems: what could not be looked at, in sentences.

    Raises:
        ValueError: a target can name nothing.
    """

    def __init__(self, targets: Iterable[str]) -> None:
        self.targets = tuple(targets)
        self._targets = tuple(Target(text) for text in self.targets)
        self.problems: list[str] = []
        self._marks: dict[TableRow, _Mark] = {}
        self._outer: Witness | None = None

    # -- recording ---------------------------------------------------------------------------------

    def begin(self) -> None:
        """Record from now on, what the gobjs do that are made from now on."""
        self._outer = smachine.witness
        smachine.witness = self._witness
        self._recompile()

    def end(self) -> None:
        """Record no more. The tables run as they did before.

        Raises:
            RuntimeError: when this is not the one that began last.
        """
        if smachine.witness != self._witness:
            raise RuntimeError("transition coverage: another one began after this, and has to end")
        smachine.witness = self._outer
        self._recompile()

    def _recompile(self) -> None:
        for gclass in [one for namesakes in _gclasses.values() for one in namesakes]:
            if any(self._wants(base) for base in gclass.__mro__ if issubclass(base, GObj)):
                smachine.recompile(gclass)

    def _witness(self, cls: type[GObj], state: State, row: Row, run: F, /) -> F:
        if self._outer is not None:
            run = self._outer(cls, state, row, run)
        owner = owner_of(cls, state, row)
        if not self._wants(owner):
            return run
        rows = state.rows if owner is cls else owner.compiled.states[state.name].rows
        number = next(number for number, one in enumerate(rows) if one is row)
        named = TableRow(
            owner.__module__,
            owner.__qualname__,
            state.name,
            number,
            _ADDRESS.sub("", repr(row)),
            row.file,
            row.line,
        )
        mark = self._marks.setdefault(named, _Mark())
        marked: F = _marking(mark, run) if row.kind == "on" else _marking_hook(mark, run)
        return marked

    def _wants(self, cls: type[GObj]) -> bool:
        module = cls.__module__
        file = getattr(sys.modules.get(module), "__file__", None)
        return any(target.means(module, cls.__qualname__, file) for target in self._targets)

    # -- what was seen -----------------------------------------------------------------------------

    @property
    def rows(self) -> dict[TableRow, bool]:
        """Every row, in the order of the tables, and whether it fired."""
        return {row: mark.fired for row, mark in self._marks.items()}

    def merge(self, rows: Iterable[Sequence[Any]]) -> None:
        """Add what another process has seen: the fields of each row, then whether it fired."""
        for *fields, fired in rows:
            mark = self._marks.setdefault(TableRow(*fields), _Mark())
            mark.fired = mark.fired or bool(fired)

    def plain(self) -> list[list[Any]]:
        """All of it for `merge`, in lists, texts and numbers."""
        return [[*row, mark.fired] for row, mark in self._marks.items()]

    def load(self) -> None:
        """Import every module of the targets: a table that nobody has imported has no row fired.

        Tests and `__main__` modules are left out. What cannot be imported stands in `problems`.
        """
        for target in self._targets:
            if target.file is None:
                self._load(target.module, alone=bool(target.gclass))
            elif not any(target.file == os.path.realpath(row.file) for row in self._marks):
                # Only then: a test may have imported it by another name than we would.
                self._load(short_path(target.file), file=Path(target.file), alone=True)

    def _load(self, name: str, *, file: Path | None = None, alone: bool = False) -> None:
        try:
            module = importlib.import_module(name) if file is None else import_file(file)
        except (Exception, SystemExit) as error:
            self.problems.append(
                f"{name} cannot be imported, so its rows are not counted: "
                f"{type(error).__name__}: {error}"
            )
            return
        for inner in () if alone else _modules_in(module):
            self._load(inner)

    def targets_without_rows(self) -> list[str]:
        """The targets that name no row at all; most likely they are misspelt."""
        found = {(row.module, row.gclass, row.file) for row in self._marks}
        return [
            str(target)
            for target in self._targets
            if not any(target.means(*gclass) for gclass in found)
        ]

    # -- the processes that a test starts ----------------------------------------------------------

    @contextlib.contextmanager
    def of_children(self) -> Iterator[None]:
        """Let the processes that are started inside this block record too; see `record_process`."""
        before = os.environ.get(ENVIRONMENT)
        with tempfile.TemporaryDirectory(prefix="fsm-cov-") as folder:
            os.environ[ENVIRONMENT] = json.dumps(
                {"targets": [target.whole for target in self._targets], "folder": folder}
            )
            try:
                yield
            finally:
                if before is None:
                    del os.environ[ENVIRONMENT]
                else:
                    os.environ[ENVIRONMENT] = before
                for file in sorted(Path(folder).glob("*.json")):
                    self.merge(json.loads(file.read_bytes()))


def record_process() -> bool:
    """Record in this process, if it was started by a test run that records.

    `ginsfsm run` calls this. A program of another kind calls it before it makes its first gobj.
    What was seen is written when Python ends; a process that is killed writes nothing.

    Returns:
        Whether it records.
    """
    given = os.environ.get(ENVIRONMENT)
    if given is None or smachine.witness is not None:
        return False
    settings = json.loads(given)
    coverage = Coverage(settings["targets"])
    coverage.begin()
    atexit.register(_write, coverage, Path(settings["folder"]))
    return True


def _write(coverage: Coverage, folder: Path) -> None:
    # Where the test run is over before this process, nobody waits for it.
    if folder.is_dir():
        # Under its name only when it is complete.
        part = folder / f"{os.getpid()}-{os.urandom(4).hex()}.part"
        part.write_text(json.dumps(coverage.plain()))
        part.rename(part.with_suffix(".json"))


def owner_of(cls: type[GObj], state: State, row: Row) -> type[GObj]:
    """The gclass whose table the row was written for: the first that had it in this state."""
    for base in reversed(cls.__mro__):
        # Not the attribute: a class that is being made inherits its base's.
        machine = base.__dict__.get("compiled")
        if base is not cls and isinstance(machine, smachine.Machine):
            there = machine.states.get(state.name)
            if there is not None and any(one is row for one in there.rows):
                return base
    return cls


def _marking(mark: _Mark, run: Callable[[Any, Any], Any]) -> Any:
    def marked(gobj: GObj, event: Any) -> Any:
        mark.fired = True
        return run(gobj, event)

    return marked


def _marking_hook(mark: _Mark, run: Callable[[Any], Any]) -> Any:
    def marked(gobj: GObj) -> Any:
        mark.fired = True
        return run(gobj)

    return marked


def _modules_in(package: ModuleType) -> list[str]:
    found: list[str] = []
    for path in getattr(package, "__path__", ()):
        for one in pkgutil.iter_modules([path], f"{package.__name__}."):
            word = one.name.rpartition(".")[2]
            if word in ("__main__", "conftest", "tests") or word.startswith("test_"):
                continue
            found.append(one.name)
    return found
