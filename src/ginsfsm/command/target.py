"""A target: the gclass that a command line names.

It is `package.module:Class` or `file.py:Class`; a class in a class is `file.py:House.Door`. Where a
module is given, it and its imports are looked for first in the current folder; where a file is, in
its own, or in the one that its package stands in.
"""

import argparse
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TypeGuard

from ginsfsm.command.report import MisuseError, is_inside, one_line, told_of
from ginsfsm.errors import MachineError, nearest
from ginsfsm.folder import put_first_on_path, working_folder
from ginsfsm.gaplic import GAplic
from ginsfsm.gobj import GObj
from ginsfsm.module_file import import_file, is_dotted, named_in, place_and_name

__all__ = ["TARGET_FORM", "Target", "is_gclass", "load_gclass", "target_of"]

TARGET_FORM = "package.module:Class or file.py:Class"


@dataclass(frozen=True, slots=True)
class Target:
    """A gclass as the command line names it; `name` has dots where it stands in a class.

    It is empty where only a file is named; then `load_gclass` says what is in it.
    """

    module: str
    name: str

    @property
    def is_file(self) -> bool:
        return self.module.endswith(".py")

    def __str__(self) -> str:
        return f"{self.module}:{self.name}" if self.name else self.module


def target_of(text: str) -> Target:
    """Read a target, as a type of argparse: raises ArgumentTypeError where it names no class."""
    file = text.removesuffix(":")
    if file.endswith(".py") and Path(file).is_file():
        return Target(file, "")
    module, name = place_and_name(text)
    if not name:
        raise argparse.ArgumentTypeError(f"{text!r} names no class: expected {TARGET_FORM}")
    target = Target(module, name)
    if not target.is_file and not is_dotted(module):
        raise argparse.ArgumentTypeError(
            f"{module!r} is neither the name of a module nor a file that ends in .py: "
            f"expected {TARGET_FORM}"
        )
    return target


def load_gclass(target: Target) -> type[GObj]:
    """Import what a target names.

    Raises:
        MisuseError: there is no such file, module or gclass, it cannot be imported, or the target
            names a file alone.
        MachineError: a gclass in it has a faulty table.
    """
    try:
        module = _import_file(target) if target.is_file else _import_module(target)
    except (MachineError, MisuseError):
        raise
    except (Exception, SystemExit) as error:
        raise MisuseError(_import_fault(target, error)) from error
    return _gclass(target, module)


def _import_module(target: Target) -> ModuleType:
    # As "python -m" does; the script "ginsfsm" would only find what is installed.
    put_first_on_path(working_folder())
    return importlib.import_module(target.module)


def _import_file(target: Target) -> ModuleType:
    file = Path(target.module)
    if not file.is_file():
        raise MisuseError(f"there is no file {target.module!r} (seen from {working_folder()})")
    return import_file(file)


def _gclass(target: Target, module: ModuleType) -> type[GObj]:
    if not target.name:
        raise MisuseError(f"{target} names no class: {_choice(target, module)}")
    missing = object()
    found = named_in(module, target.name, missing)
    if found is missing:
        known = list(_names_of_gclasses(module, module))
        raise MisuseError(
            f"{target.module} has no gclass {target.name!r}{nearest(target.name, known)}"
        )
    if not is_gclass(found):
        raise MisuseError(
            f"{target} is {_what_it_is(found)}; expected a gclass, which derives from ginsfsm.GObj"
        )
    return found


def _choice(target: Target, module: ModuleType) -> str:
    found = list(_names_of_gclasses(module, module))
    if not found:
        return f"expected {TARGET_FORM}, and there is no gclass in it"
    return f"expected one of {', '.join(f'{target.module}:{one}' for one in found)}"


def _names_of_gclasses(of: ModuleType | type, module: ModuleType) -> Iterator[str]:
    """The names of the gclasses that a module, or a class in it, defines; with dots inside."""
    for name, value in vars(of).items():
        if not isinstance(value, type) or value.__module__ != module.__name__:
            continue
        if is_gclass(value):
            yield name
        if value.__qualname__ == (name if of is module else f"{of.__qualname__}.{name}"):
            yield from (f"{name}.{one}" for one in _names_of_gclasses(value, module))


def is_gclass(value: object) -> TypeGuard[type[GObj]]:
    """Whether this is a gclass of which `create_gobj` can make a gobj."""
    # A gaplic is a gobj too, but the root of a tree: this command makes its own.
    return isinstance(value, type) and issubclass(value, GObj) and not issubclass(value, GAplic)


def _what_it_is(found: object) -> str:
    if isinstance(found, type) and issubclass(found, GAplic):
        return "a gaplic, the root of a tree, which this command makes itself"
    if isinstance(found, type):
        return "a class that derives from something else"
    if isinstance(found, ModuleType):
        return "a module"
    if isinstance(found, GObj):
        return f"a gobj, made of the gclass {type(found).__name__}"
    return f"an object of the type {type(found).__name__}"


def _import_fault(target: Target, error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return (
            f"{target.module} ended the process while it was imported ({one_line(error)}); put "
            "what runs it under: if __name__ == '__main__':"
        )
    if (
        isinstance(error, ModuleNotFoundError)
        and f"{target.module}.".startswith(f"{error.name}.")
        and not is_inside(error)
    ):
        return (
            f"cannot import {target.module}: {error}; expected a module that Python finds from "
            f"{working_folder()}, or a file, as in path/to/file.py:{target.name}"
        )
    return f"cannot import {target.module}: {told_of(error)}"
