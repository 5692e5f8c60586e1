"""The gclasses of the examples, in this process: what a reader would draw and check."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from ginsfsm import GObj

__all__ = ["EXAMPLE_GCLASSES"]

FILES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))


def _gclasses(file: Path) -> list[type[GObj]]:
    # Under a name of its own: an example may be called as a package that is installed.
    name = f"example_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    found = [
        one
        for one in vars(module).values()
        if isinstance(one, type) and issubclass(one, GObj) and one.__module__ == name
    ]
    assert found, file
    return found


EXAMPLE_GCLASSES = [one for file in FILES for one in _gclasses(file)]
