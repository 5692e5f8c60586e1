"""A file that is loaded as a module, under a name that is chosen for it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

__all__ = ["load_file"]


def load_file(file: Path, name: str) -> ModuleType:
    """Run the file as the module of that name; `file` ends in `.py`.

    Raises:
        BaseException: what it raises. Then there is no such module.
    """
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Before it is run: its classes are looked up there by the name of their module, and another
    # file that imports this one has to find it and not make a second.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module
