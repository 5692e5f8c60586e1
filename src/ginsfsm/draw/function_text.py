"""The text of a function, as a syntax tree: nothing is run to read it.

A function knows the file and the line that it was written in. What was typed into a notebook has no
file, but Python keeps its lines. What `exec` made of a string has none, and no text is found.
"""

from __future__ import annotations

import ast
import inspect
import linecache
from functools import cache
from typing import TypeAlias

__all__ = ["Function", "nodes_of", "parsed"]

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


@cache
def parsed(file: str) -> ast.Module | None:
    """The syntax tree of a file; None where it cannot be read or is no Python."""
    try:
        with open(file, "rb") as stream:
            return _tree(stream.read())
    except OSError:
        text = "".join(linecache.getlines(file))
        return _tree(text.encode()) if text else None


def _tree(text: bytes) -> ast.Module | None:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        # The last two are what the parser says of brackets within brackets within brackets.
        return None


@cache
def _functions(file: str) -> dict[int, list[Function]]:
    """The functions of a file by the line that their code object tells: the first decorator's."""
    tree = parsed(file)
    found: dict[int, list[Function]] = {}
    for node in () if tree is None else ast.walk(tree):
        if isinstance(node, Function):
            above = [one.lineno for one in getattr(node, "decorator_list", ())]
            found.setdefault(min([node.lineno, *above]), []).append(node)
    return found


def nodes_of(function: object) -> list[Function]:
    """The text of a function; several where lambdas share a line, none where it is unknown."""
    code = getattr(inspect.unwrap(function) if callable(function) else None, "__code__", None)
    if code is None:
        return []
    # Another function may stand there by now: the file was edited, or several texts have one name.
    there = _functions(code.co_filename).get(code.co_firstlineno, [])
    return [node for node in there if getattr(node, "name", "<lambda>") == code.co_name]
