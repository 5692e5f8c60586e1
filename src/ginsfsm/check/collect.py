"""Collection: the gclasses of some places, and the faults that came to light by importing them.

A faulty class raises when its class statement runs, and its module ends there. So that all faults
of all classes are reported at once, the two functions that raise are told to report instead while
the modules are imported; a faulty class then exists, without a table, and nobody looks for smells
in it.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType

from ginsfsm import fault, gconfig
from ginsfsm.check.finding import Finding
from ginsfsm.check.place import (
    PLACE_FORM,
    Place,
    PlaceError,
    file_of,
    files_in,
    files_of,
    may_have_gclass,
)
from ginsfsm.draw.function_text import parsed
from ginsfsm.errors import nearest
from ginsfsm.folder import put_first_on_path, working_folder
from ginsfsm.gobj import GObj, _gclasses
from ginsfsm.module_file import import_file, named_in

__all__ = ["Collection"]

_NOT_THEIRS = (
    os.path.dirname(os.path.abspath(__file__)) + os.sep,
    os.path.dirname(os.path.abspath(importlib.__file__)) + os.sep,
    "<frozen importlib",
)
"""Where the frames of an import stand before those of what is imported."""


class Collection:
    """What there is to be checked.

    Attributes:
        gclasses: the gclasses without a fault, in the order of their modules.
        faults: what is wrong with the others, and with modules that cannot be imported.
        files: every Python file of the places, also those that were not imported.
        whole: whether packages or folders were given only, so that they show who uses what.
    """

    def __init__(self) -> None:
        self.gclasses: list[type[GObj]] = []
        self.faults: list[Finding] = []
        self.files: dict[str, None] = {}
        self.whole = True
        self._faulty: dict[type, list[fault.Fault]] = {}
        self._faulty_configs: set[type] = set()
        self._noted = 0

    def add(self, place: Place) -> None:
        """Import what a place means, and take its gclasses.

        Raises:
            PlaceError: there is no such module, or no gclass in it.
        """
        before = self._noted
        with self._reporting():
            modules = self._imported(place)
        found = [cls for module in modules for cls in self._gclasses_of(module)]
        if place.gclass and modules:
            named = named_in(modules[0], place.gclass)
            if not (isinstance(named, type) and issubclass(named, GObj)):
                known = [cls.__qualname__ for cls in found]
                raise PlaceError(f"{place} is no gclass{nearest(place.gclass, known)}")
            found = [named]
        elif not found and self._noted == before and (place.module or place.is_folder):
            # A single file may have none: whoever gives all changed files does not know.
            raise PlaceError(f"there is no gclass in {place}: is it the right place?")
        is_package = bool(place.module) and hasattr(sys.modules.get(place.module), "__path__")
        self.whole = self.whole and not place.gclass and (is_package or place.is_folder)
        self.gclasses += [
            cls for cls in found if not self._is_faulty(cls) and cls not in self.gclasses
        ]

    def everybody(self) -> list[type[GObj]]:
        """Every gclass that is loaded, and without a fault."""
        return [cls for one in _gclasses.values() for cls in one if not self._is_faulty(cls)]

    # -- importing ---------------------------------------------------------------------------------

    def _imported(self, place: Place) -> list[ModuleType]:
        put_first_on_path(working_folder())
        if place.path is not None:
            files = list(files_in(place.path)) if place.is_folder else [place.path]
            return [
                module
                for file in files
                if self._is_worth(file, place)
                for module in self._attempt(partial(import_file, file), file)
            ]
        return list(self._of_module(place))

    def _of_module(self, place: Place) -> Iterator[ModuleType]:
        for module in self._attempt(partial(_import_module, place.module), None):
            if place.gclass:
                self.files[str(file_of(module))] = None
                yield module
                continue
            for name, file in files_of(module):
                if self._is_worth(file, place):
                    yield from self._attempt(partial(importlib.import_module, name), file)

    def _is_worth(self, file: Path, place: Place) -> bool:
        self.files[str(file.resolve())] = None
        return bool(place.gclass) or may_have_gclass(file)

    def _attempt(self, work: Callable[[], ModuleType], file: Path | None) -> Iterator[ModuleType]:
        """The module, or a fault that says why there is none."""
        try:
            module = work()
        except PlaceError:
            raise
        except (Exception, SystemExit) as error:
            self._note(self._import_fault(error, file))
        else:
            yield module

    def _import_fault(self, error: BaseException, file: Path | None) -> Finding:
        """A finding at the last line of the user's that ran."""
        where = ("", 0) if file is None else (str(file.resolve()), 1)
        for frame in traceback.extract_tb(error.__traceback__):
            is_first = not where[0] and not frame.filename.startswith(_NOT_THEIRS)
            if frame.lineno and (is_first or frame.filename in self.files):
                where = (frame.filename, frame.lineno)
        text = traceback.format_exception_only(error)[-1].strip()
        if isinstance(error, SyntaxError) and error.filename and error.lineno:
            where = (error.filename, error.lineno)
        if isinstance(error, SystemExit):
            text = (
                f"it ended the process while it was imported ({text}); put what runs it under: "
                "if __name__ == '__main__':"
            )
        return Finding(*where, "import", "", text)

    def _gclasses_of(self, module: ModuleType) -> list[type[GObj]]:
        return [
            cls
            for one in _gclasses.values()
            for cls in one
            if cls.__module__ == module.__name__ and "<locals>" not in cls.__qualname__
        ]

    # -- faults ------------------------------------------------------------------------------------

    def _is_faulty(self, cls: type[GObj]) -> bool:
        return cls in self._faulty or not self._faulty_configs.isdisjoint(cls.config.__mro__)

    def _note(self, finding: Finding) -> None:
        # What was told of an earlier place counts for this one too.
        self._noted += 1
        if finding not in self.faults:
            self.faults.append(finding)

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        before = fault.listener, gconfig.listener
        fault.listener, gconfig.listener = self._faulty_class, self._faulty_config
        try:
            yield
        finally:
            fault.listener, gconfig.listener = before

    def _faulty_class(self, cls: type[GObj], faults: list[fault.Fault]) -> None:
        # A class that inherits what is faulty has nothing new to say.
        told = {problem for base in cls.__mro__[1:] for _, _, problem in self._faulty.get(base, ())}
        self._faulty[cls] = faults
        for file, line, problem in faults:
            if problem not in told:
                self._note(Finding(file, line, "machine", cls.__qualname__, problem))

    def _faulty_config(
        self, cls: type[gconfig.Config], file: str, line: int, faults: list[str]
    ) -> None:
        # Its gclass does not exist yet.
        self._faulty_configs.add(cls)
        owner = cls.__qualname__.rpartition(".")[0]
        for problem in faults:
            place = _declaration(file, line, problem.partition(":")[0])
            self._note(Finding(file, place, "parameter", owner, problem))


def _import_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if f"{name}.".startswith(f"{error.name}."):
            raise PlaceError(
                f"{error}, seen from {working_folder()}; expected {PLACE_FORM}"
            ) from error
        raise


def _declaration(file: str, line: int, name: str) -> int:
    """The line of a parameter, in the `config` that begins in a line; else that line."""
    tree = parsed(file)
    for config in () if tree is None else ast.walk(tree):
        if isinstance(config, ast.ClassDef) and config.lineno == line:
            for node in config.body:
                declared: list[ast.expr] = []
                if isinstance(node, ast.AnnAssign):
                    declared = [node.target]
                elif isinstance(node, ast.Assign):
                    declared = node.targets
                if any(isinstance(one, ast.Name) and one.id == name for one in declared):
                    return node.lineno
    return line
