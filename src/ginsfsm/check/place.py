"""Place: what a command line names to be checked, and the modules that it means.

A place is a package or a module (`app`, `app.door`), a file (`app/door.py`), a folder (`src`), and
a gclass in a module or in a file (`app.door:Door`, `app/door.py:Door`), with dots where it stands
in a class (`door.py:House.Door`).

Only files with a class that has a base are imported, since no other has a gclass: a setup script or
a file of settings does not run only because it stands in the folder. A `__main__.py` never is.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Final

from ginsfsm.draw.function_text import parsed
from ginsfsm.folder import working_folder
from ginsfsm.module_file import is_dotted, place_and_name

__all__ = ["PLACE_FORM", "Place", "PlaceError", "place_of"]

PLACE_FORM: Final = (
    "a package, package.module, file.py or folder; or one gclass, as in file.py:Class"
)

_NOT_SOURCE: Final = frozenset({"__pycache__", "build", "dist", "node_modules", "site-packages"})
"""Folders that hold no source, or a copy of it."""


class PlaceError(Exception):
    """There is no such place; the text says what was expected."""


@dataclass(frozen=True, slots=True)
class Place:
    """What is to be checked.

    Attributes:
        module: the dotted name of a module or of a package; empty where it is a path.
        path: a file or a folder; None where it is a module.
        gclass: the name of one gclass in it, with dots where it stands in a class; empty where all
            are meant.
    """

    module: str
    path: Path | None
    gclass: str = ""

    @property
    def is_folder(self) -> bool:
        return self.path is not None and self.path.is_dir()

    def __str__(self) -> str:
        where = self.module if self.path is None else str(self.path)
        return f"{where}:{self.gclass}" if self.gclass else where


def place_of(text: str) -> Place:
    """What a text names. A file or a folder goes before a module of that name.

    Raises:
        PlaceError: it can name nothing, or there is no such file.
    """
    where, gclass = (text, "") if Path(text).exists() else place_and_name(text)
    path = Path(where)
    if path.is_file() and where.endswith(".py"):
        return Place("", path, gclass)
    if where and path.is_dir() and not gclass:
        return Place("", path)
    if path.is_file():
        raise PlaceError(f"{where!r} is no Python file: expected {PLACE_FORM}")
    if is_dotted(where):
        if where.endswith(".py"):
            raise PlaceError(f"there is no file {where!r} (seen from {working_folder()})")
        return Place(where, None, gclass)
    if where.endswith(".py") or os.sep in where:
        raise PlaceError(f"there is no file or folder {where!r} (seen from {working_folder()})")
    raise PlaceError(f"{text!r} names nothing to check: expected {PLACE_FORM}")


def files_in(folder: Path) -> Iterator[Path]:
    """The Python files under a folder, in order, without what is hidden, built or installed."""
    for here, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if _is_source(Path(here, name)))
        yield from (Path(here, name) for name in sorted(files) if _is_python(name))


def _is_python(name: str) -> bool:
    # An editor keeps its own beside a file, with a dot before the name.
    return name.endswith(".py") and not name.startswith(".")


def _is_source(folder: Path) -> bool:
    if folder.name.startswith(".") or (folder / "pyvenv.cfg").exists():
        return False
    return folder.name not in _NOT_SOURCE or (folder / "__init__.py").exists()


def file_of(module: ModuleType) -> Path:
    """The file of a module.

    Raises:
        PlaceError: it has none, as one that is built into Python, or a folder without `__init__`.
    """
    file = getattr(module, "__file__", None)
    if file is None:
        raise PlaceError(f"the module {module.__name__} has no file: expected {PLACE_FORM}")
    return Path(file)


def files_of(module: ModuleType) -> Iterator[tuple[str, Path]]:
    """The modules of a package by their names, with their files; of a module, itself."""
    folders = getattr(module, "__path__", None)
    if folders is None:
        yield module.__name__, file_of(module)
        return
    for folder in folders:
        for file in files_in(Path(folder)):
            parts = file.relative_to(folder).with_suffix("").parts
            if all(part.isidentifier() for part in parts):
                names = [module.__name__, *(part for part in parts if part != "__init__")]
                yield ".".join(names), file


def may_have_gclass(file: Path) -> bool:
    """Whether a file is worth to be imported: one that is no Python is, to hear why."""
    if file.name == "__main__.py":
        return False
    tree = parsed(str(file))
    return tree is None or any(
        isinstance(node, ast.ClassDef) and node.bases for node in ast.walk(tree)
    )
