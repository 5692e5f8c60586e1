"""Values as the types that parameters declare, and the words for both in an error's sentence.

A value that a program gives is converted strictly, as msgspec does it: a `str` is no number, and
1.5 is no int; but a list fits a tuple, and an int a float. A `Text`, from a command line, is
converted leniently, since everything arrives there as text.

Errors show what was given and what was expected, but never the inside of a mapping: it may hold a
passphrase.
"""

from __future__ import annotations

import json
import types
import typing
from typing import Any, Final

import msgspec

from ginsfsm.gclass import GClass
from ginsfsm.net.words import cut
from ginsfsm.net.words import kind as kind_of_object

__all__ = ["Text", "convert", "kind", "members", "plain", "shown", "type_words"]

_BUFFERS: Final = (bytes, bytearray, memoryview)
"""Types that msgspec would otherwise read from base64 text; a str is no bytes here."""


class Text(str):
    """A value that came as text, from a command line: it is converted leniently.

    `"7001"` becomes an int where the parameter is one; a plain `str` never does.
    """

    __slots__ = ()


def convert(value: object, to: Any) -> object:
    """The value as that type.

    Raises:
        msgspec.ValidationError: when it does not fit; the text may say where within the value.
        ValueError: when it does not fit, without a text.
    """
    return _convert_text(value, to) if isinstance(value, Text) else _convert_strictly(value, to)


def _convert_strictly(value: object, to: Any) -> object:
    if isinstance(value, range):
        value = tuple(value)
    converted = msgspec.convert(value, to, builtin_types=_BUFFERS)
    if isinstance(converted, type):
        # msgspec takes any class for type[X].
        wanted = [typing.get_args(one)[0] for one in members(to) if typing.get_origin(one) is type]
        if wanted and not any(one is Any or issubclass(converted, one) for one in wanted):
            raise ValueError
    return converted


def _convert_text(value: Text, to: Any) -> object:
    """Text from a command line as the type that the parameter has.

    Tried in this order: the text itself, JSON (`[7000, 7001]`, `{"certfile": "a.pem"}`), and a
    list with commas (`7000,7001`). Bytes are the text in UTF-8.
    """
    text = str(value)
    parts = members(to)
    if bool in parts and text.lower() in ("yes", "on"):
        return True
    if bool in parts and text.lower() in ("no", "off"):
        return False
    if types.NoneType in parts and str not in parts and text.lower() == "none":
        return None
    if set(_BUFFERS) & set(parts):
        return _convert_strictly(text.encode(), to)
    try:
        return _convert_leniently(text, to)
    except msgspec.ValidationError as first:
        try:
            return _convert_leniently(json.loads(text), to)
        except (ValueError, RecursionError):
            pass
        words = [one.strip() for one in text.split(",")] if text.strip() else []
        try:
            return _convert_leniently(words, to)
        except msgspec.ValidationError:
            raise first from None


def _convert_leniently(value: object, to: Any) -> object:
    # Leniently, msgspec reads bytes within a list or a mapping from base64, whatever it is told.
    return (
        _convert_strictly(value, to)
        if _mentions_bytes(to)
        else msgspec.convert(value, to, strict=False)
    )


def members(of: Any) -> tuple[Any, ...]:
    """The members of a union, or the type itself."""
    if typing.get_origin(of) is typing.Annotated:
        return members(typing.get_args(of)[0])
    if typing.get_origin(of) in (typing.Union, types.UnionType):
        return tuple(part for one in typing.get_args(of) for part in members(one))
    return (of,)


def plain(of: Any) -> Any:
    """The type without what it holds: dict for dict[str, int]."""
    return typing.get_origin(of) or of


def _mentions_bytes(of: Any) -> bool:
    return of in _BUFFERS or any(_mentions_bytes(one) for one in typing.get_args(of))


def type_words(of: Any, inside: bool = False) -> str:
    """A type in the words that an error or a table shows.

    Args:
        of: the type.
        inside: also what a tuple, a list or a mapping holds, as an error needs it.
    """
    parts = members(of)
    if len(parts) > 1:
        between = " or " if inside and any(map(_words_of_gobj, parts)) else " | "
        return between.join(type_words(one, inside) for one in parts)
    of = next(iter(parts))
    if of is types.NoneType:
        return "None"
    if of is Any:
        return "object"
    origin, held = typing.get_origin(of), typing.get_args(of)
    if inside and (words := _words_of_gobj(of)):
        return words
    if origin is typing.Literal:
        return " | ".join(repr(one) for one in held)
    if origin is type:
        return f"type[{type_words(held[0])}]"
    words = str(getattr(origin or of, "__name__", of))
    if inside and held:
        held = tuple(one for one in held if one is not Ellipsis)
        words += " of " + " and ".join(type_words(one, inside) for one in held)
    return words


def _words_of_gobj(of: Any) -> str:
    """What people call a gobj, or a gclass; empty for any other type."""
    kind_of_class = typing.get_origin(of) is type
    gclass = typing.get_args(of)[0] if kind_of_class else of
    if not isinstance(gclass, GClass):
        return ""
    word = "gclass" if kind_of_class else "gobj"
    if gclass.__module__ == "ginsfsm.gobj":
        return f"a {word}"
    return f"a {word} derived from {gclass.__name__}" if kind_of_class else f"a {gclass.__name__}"


def shown(value: object) -> str:
    """A value for an error's sentence; not the inside of a mapping, which may hold a passphrase."""
    if value is None:
        return "None"
    if isinstance(value, Text):
        return f"the text {cut(repr(str(value)))}"
    if isinstance(value, (bool, int, float, str, bytes)):
        return f"{cut(repr(value))} ({type(value).__name__})"
    if isinstance(value, (tuple, list)) and all(
        one is None or isinstance(one, (bool, int, float, str, bytes)) for one in value
    ):
        return f"{cut(repr(value))} ({type(value).__name__})"
    return kind(value)


def kind(value: object) -> str:
    """What sort of thing a value is, in an error's words: `an int`, `the class Echo`, `None`."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return kind_of_object(value)
