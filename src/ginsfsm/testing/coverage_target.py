"""Target: whose rows transition coverage counts.

A package (with all that is in it), a module, `module:Class`, `file.py` or `file.py:Class`. A file
means the gclasses that are written in it, whatever the tests call its module.
"""

from __future__ import annotations

import os

from ginsfsm.folder import short_path
from ginsfsm.module_file import is_dotted, place_and_name

__all__ = ["Target"]


class Target:
    """One target.

    Args:
        text: how it is given; a file is looked for in the working folder.

    Attributes:
        file: the whole path of the file, or None where a module or a package is named.
        module: the name of that, or "".
        gclass: the qualified name of the one gclass that is meant, or "".

    Raises:
        ValueError: it can name nothing.
    """

    def __init__(self, text: str) -> None:
        where, self.gclass = place_and_name(text)
        self.file: str | None = None
        self.module = ""
        if where.endswith(".py"):
            self.file = os.path.realpath(where)
        elif is_dotted(where):
            self.module = where
        else:
            raise ValueError(
                "expected a package, a module or module:Class, or file.py or file.py:Class"
            )

    def __str__(self) -> str:
        where = self.module if self.file is None else short_path(self.file)
        return f"{where}:{self.gclass}" if self.gclass else where

    @property
    def whole(self) -> str:
        """The same for a process in another folder."""
        where = self.file or self.module
        return f"{where}:{self.gclass}" if self.gclass else where

    def means(self, module: str, gclass: str, file: str | None) -> bool:
        """Whether that gclass of that module, written in that file, is one of those meant."""
        if self.gclass and self.gclass != gclass:
            return False
        if self.file is not None:
            return file is not None and os.path.realpath(file) == self.file
        return module == self.module or (not self.gclass and module.startswith(f"{self.module}."))
