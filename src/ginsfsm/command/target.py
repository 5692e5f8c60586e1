"""A target: the gclass that a command line names.

It is `package.module:Class` or `file.py:Class`. As with Python itself, its imports are looked for
first in the folder of the file, or in the current one where a module is given.
"""

import argparse
import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TypeGuard

from ginsfsm.command.report import MisuseError, is_inside, one_line, told_of
from ginsfsm.errors import MachineError, nearest
from ginsfsm.folder import put_first_on_path, working_folder
from ginsfsm.gaplic import GAplic
from ginsfsm.gobj import GObj
from ginsfsm.module_file import load_file

__all__ = ["TARGET_FORM", "Target", "is_gclass", "load_gclass", "target_of"]

TARGET_FORM = "package.module:Class or file.py:Class"


@dataclass(frozen=True, slots=True)
class Target:
    """A gclass as the command line names it."""

    module: str
    name: str

    @property
    def is_file(self) -> bool:
        return self.module.endswith(".py")

    def __str__(self) -> str:
        return f"{self.module}:{self.name}"


def target_of(text: str) -> Target:
    """Read a target, as a type of argparse: raises ArgumentTypeError where it names no class."""
    # From the right: a file on Windows has a colon of its own.
    module, colon, name = text.rpartition(":")
    if not colon or not module or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} names no class: expected {TARGET_FORM}")
    target = Target(module, name)
    if not target.is_file and not all(part.isidentifier() for part in module.split(".")):
        raise argparse.ArgumentTypeError(
            f"{module!r} is neither the name of a module nor a file that ends in .py: "
            f"expected {TARGET_FORM}"
        )
    return target


def load_gclass(target: Target) -> type[GObj]:
    """Import what a target names.

    Raises:
        MisuseError: there is no such file, module or gclass, or it cannot be imported.
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
    real = file.resolve()
    put_first_on_path(str(real.parent))
    return load_file(real, _module_name(file))


def _module_name(file: Path) -> str:
    """The name under which a file is loaded: its own, unless that is another module's."""
    name = file.stem.replace(".", "_")
    if name in sys.modules or name in sys.stdlib_module_names:
        return f"ginsfsm_target_{name}"
    return name


def _gclass(target: Target, module: ModuleType) -> type[GObj]:
    missing = object()
    found = getattr(module, target.name, missing)
    if found is missing:
        known = [
            name
            for name, value in vars(module).items()
            if is_gclass(value) and value.__module__ == module.__name__
        ]
        raise MisuseError(
            f"{target.module} has no gclass {target.name!r}{nearest(target.name, known)}"
        )
    if not is_gclass(found):
        raise MisuseError(
            f"{target} is {_what_it_is(found)}; expected a gclass, which derives from ginsfsm.GObj"
        )
    return found


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
