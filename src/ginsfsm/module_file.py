"""A file that is loaded as a module; and what a name in it means.

A file that stands in a package is imported as a module of it, so that its own imports work. As with
Python itself, imports are looked for first in the folder of the file, or in the one that its
package stands in.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from ginsfsm.folder import put_first_on_path

__all__ = ["import_file", "is_dotted", "named_in", "place_and_name"]


def import_file(file: Path) -> ModuleType:
    """The module that a file is; as part of its package, where it stands in one.

    Raises:
        Exception: whatever the file raises, or its package.
    """
    real = file.resolve()
    root, names = real.parent, [real.stem]
    while (root / "__init__.py").is_file():
        names.insert(0, root.name)
        root = root.parent
    if names[-1] == "__init__" and len(names) > 1:
        names.pop()
    put_first_on_path(str(root))
    name = ".".join(names)
    if all(part.isidentifier() for part in names) and _is_name_of(name, real):
        return importlib.import_module(name)
    return _load_as(real, names[-1])


def _is_name_of(name: str, file: Path) -> bool:
    """Whether that is the file which is imported by this name; its package is imported."""
    if name in sys.modules:
        place = getattr(sys.modules[name], "__file__", None)
    elif name in sys.stdlib_module_names:
        # Whoever imports that one of Python later would get this.
        return False
    else:
        try:
            spec = importlib.util.find_spec(name)
        except ModuleNotFoundError as error:
            if not f"{name}.".startswith(f"{error.name}."):
                raise
            # Another package has the name of its own.
            return False
        place = None if spec is None else spec.origin
    return place is not None and Path(place).resolve() == file


def _load_as(file: Path, stem: str) -> ModuleType:
    stem = "".join(letter if f"_{letter}".isidentifier() else "_" for letter in stem)
    name, number = f"ginsfsm_target_{stem}", 1
    while name in sys.modules:
        if getattr(sys.modules[name], "__file__", None) == str(file):
            return sys.modules[name]
        number += 1
        name = f"ginsfsm_target_{stem}_{number}"
    return _load(file, name)


def _load(file: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is no file of Python")
    module = importlib.util.module_from_spec(spec)
    # As an import does: what is defined in it can be found by its module's name.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        # Nothing is left of it, as with an import.
        sys.modules.pop(name, None)
        raise
    return module


def place_and_name(text: str) -> tuple[str, str]:
    """`door.py:House.Door` as the place, `door.py`, and the name in it; "" where there is none."""
    # From the right: a file on Windows has a colon of its own.
    place, _, name = text.rpartition(":")
    return (place, name) if place and is_dotted(name) else (text, "")


def is_dotted(text: str) -> bool:
    """Whether it can name a module, or what stands in one: identifiers with dots between them."""
    return all(part.isidentifier() for part in text.split("."))


def named_in(module: ModuleType, name: str, default: object = None) -> object:
    """What a name means in a module: `House.Door` is what `Door` is in its class `House`."""
    found: object = module
    for part in name.split("."):
        found = getattr(found, part, default)
        if found is default:
            break
    return found
