"""The type of a field, as a person wrote it: `list[int]`, `Callable[[str], None]`, `int | None`.

Where a module has `from __future__ import annotations`, or the type stands in quotes, that is its
text. Elsewhere Python has made an object of it, which is written in the same notation.
"""

from __future__ import annotations

import ast
import inspect
import types
import typing
from collections.abc import Iterable
from typing import Any

__all__ = ["type_text"]


def type_text(of: type, name: str) -> str:
    """The type that a class, or a base of it, declares for a field; `object`, where none does."""
    for base in of.__mro__:
        declared = inspect.get_annotations(base)
        if name in declared:
            return _written(declared[name])
    return "object"


def _written(of: Any) -> str:
    origin, held = typing.get_origin(of), typing.get_args(of)
    if isinstance(of, str):
        return _unquoted(of)
    if of is None or of is types.NoneType:
        return "None"
    if of is Ellipsis:
        return "..."
    if isinstance(of, list):
        # What a Callable takes.
        return f"[{_listed(of)}]"
    if isinstance(of, typing.ForwardRef):
        return of.__forward_arg__
    if origin in (typing.Union, types.UnionType):
        return " | ".join(map(_written, held))
    if origin is typing.Literal:
        return f"Literal[{', '.join(map(repr, held))}]"
    if origin is typing.Annotated:
        return f"Annotated[{', '.join([_written(held[0]), *map(repr, of.__metadata__)])}]"
    words = str(getattr(origin or of, "__name__", of))
    if origin is None:
        return words
    return f"{words}[{_listed(held) or '()'}]"


def _listed(of: Iterable[Any]) -> str:
    return ", ".join(map(_written, of))


def _unquoted(text: str) -> str:
    """The text of a type; without quotes, which it may have had beside the import."""
    try:
        return str(ast.literal_eval(text)) if text[:1] in "'\"" else text
    except (ValueError, SyntaxError):
        # `"Door" | None`
        return text
