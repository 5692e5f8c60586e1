"""param and Config: declared parameters, validated and documented.

A gclass declares its parameters in a nested class::

    class config(GObj.config):
        port: int = param(7000, "port to listen on", ge=0, le=65535)

The annotation is the type, `param` gives the default and the description. From these come the
validation in `create_gobj`, the rows of `config.table()`, and what the documentation prints.

When the class is created each `param` is replaced by its default, so `config.port` on the class is
the default and a gobj's own `config` object stores only the values that differ from it.
"""

from __future__ import annotations

import copy
import inspect
import json
import os
import sys
import tomllib
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Final, Self, TypeVar, cast

import msgspec

from ginsfsm.errors import GConfigError, nearest

__all__ = ["Config", "Text", "load_settings", "param", "statistic"]

T = TypeVar("T")

_RESERVED: Final = frozenset({"name", "gclass", "parent", "unique", "table"})
"""Words that `create_gobj` and `Config` keep for themselves."""

_BUFFERS: Final = (bytes, bytearray, memoryview)
"""Types that msgspec would otherwise read from base64 text; a str is no bytes here."""


class Text(str):
    """A value that came as text, from a command line: it is converted leniently.

    `"7001"` becomes an int where the parameter is one; a plain `str` never does.
    """

    __slots__ = ()


class Param:
    """One declared parameter. Made by `param` and `statistic`, read by `Config`."""

    __slots__ = ("choices", "default", "description", "ge", "le", "name", "read_only", "type")

    def __init__(
        self,
        default: object,
        description: str,
        ge: float | None,
        le: float | None,
        choices: tuple[object, ...] | None,
        read_only: bool,
    ) -> None:
        self.default = default
        self.description = description
        self.ge = ge
        self.le = le
        self.choices = choices
        self.read_only = read_only
        self.name = ""
        self.type: Any = object

    def expected(self) -> str:
        """What a legal value is, for an error's sentence: `int from 0 to 65535`."""
        words = _type_words(self.type)
        if self.choices is not None:
            return "one of " + ", ".join(repr(choice) for choice in self.choices)
        if self.ge is not None and self.le is not None:
            return f"{words} from {self.ge} to {self.le}"
        if self.ge is not None:
            return f"{words}, {self.ge} or more"
        if self.le is not None:
            return f"{words}, {self.le} or less"
        return words

    def convert(self, value: object) -> object:
        """The value as the declared type.

        Raises:
            ValueError: when it does not fit; the sentence says what was given and expected.
        """
        try:
            converted = (
                _convert_text(value, self.type)
                if isinstance(value, Text)
                else _convert(value, self.type)
            )
        except (msgspec.ValidationError, ValueError) as error:
            where = str(error).partition(" - at ")[2]
            raise ValueError(
                f"expected {self.expected()}, got {_shown(value)}"
                + (f" (wrong at {where.strip('`').replace('$', 'the value')})" if where else "")
            ) from error
        if isinstance(converted, (int, float)) and not self._in_range(converted):
            raise ValueError(f"expected {self.expected()}, got {_shown(value)}")
        if self.choices is not None and converted not in self.choices:
            raise ValueError(f"expected {self.expected()}, got {_shown(value)}")
        return converted

    def _in_range(self, number: float) -> bool:
        # Written so that a NaN, which compares with nothing, is out of every range.
        return (self.ge is None or number >= self.ge) and (self.le is None or number <= self.le)


def param(
    default: T,
    description: str,
    *,
    ge: float | None = None,
    le: float | None = None,
    choices: Iterable[T] | None = None,
) -> T:
    """Declare a parameter of a gclass, inside its nested `config`.

    Args:
        default: the value when nobody gives one; it must fit the annotation and the limits.
        description: one sentence for the documentation.
        ge: the smallest legal number.
        le: the largest legal number.
        choices: the legal values, where they can be listed.

    Returns:
        A declaration, typed as the default so that a type checker compares it with the annotation.
    """
    legal = None if choices is None else tuple(choices)
    return cast(T, Param(default, description, ge, le, legal, read_only=False))


def statistic(default: T, description: str) -> T:
    """Declare a figure that the gobj keeps itself: read like a parameter, set by nobody else."""
    return cast(T, Param(default, description, None, None, None, read_only=True))


class Config:
    """Base of every nested `config`. Read the parameters as attributes; `table()` lists them."""

    _params: ClassVar[dict[str, Param]] = {}
    _defaults_to_copy: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # Both parents of a class with two keep their order, first base first.
        inherited: dict[str, Param] = {}
        for base in reversed(cls.__mro__[1:]):
            inherited.update(base.__dict__.get("_params", {}))
        own, faults = _declared(cls, sys._getframe(1))
        cls._params = {**inherited, **own}
        for name, declared in own.items():
            live = Statistic(name, declared.default) if declared.read_only else declared.default
            setattr(cls, name, live)
        cls._defaults_to_copy = tuple(
            name for name, one in cls._params.items() if isinstance(one.default, (dict, list, set))
        )
        if faults:
            raise GConfigError(_report(f"{cls.__module__}.{cls.__qualname__}", faults))

    def __setattr__(self, name: str, value: object) -> None:
        raise GConfigError(
            f"config.{name} cannot be assigned: the parameters are read-only; "
            f"use gobj.write_parameters({name}=...), which validates the value"
        )

    def __repr__(self) -> str:
        return f"<config of {len(self._params)} parameters>"

    @classmethod
    def table(cls) -> list[tuple[str, str, object, str]]:
        """The declared parameters in order, as rows `(name, type, default, description)`.

        The type is the word that the documentation prints: `"str"`, `"tuple"`, `"GObj | None"`.
        """
        return [
            (name, _table_word(one), one.default, one.description)
            for name, one in cls._params.items()
        ]

    @classmethod
    def _build(cls, owner: str, *sources: tuple[str, Mapping[str, object]]) -> Self:
        """A config object from values, later sources before earlier ones.

        Args:
            owner: who asks, for the error's head.
            sources: pairs of where the values come from (empty for `create_gobj`) and the values.

        Raises:
            GConfigError: listing every fault of every source.
        """
        config = cls.__new__(cls)
        values = config.__dict__
        for name in cls._defaults_to_copy:
            values[name] = copy.deepcopy(cls._params[name].default)
        faults = config._take(*sources)
        if faults:
            raise GConfigError(_report(owner, faults))
        return config

    def _rewritten(self, owner: str, new: Mapping[str, object]) -> Self:
        """A copy of this config with new values; a copy, because connections share one config."""
        config = type(self).__new__(type(self))
        config.__dict__.update(self.__dict__)
        faults = config._take(("", new))
        if faults:
            raise GConfigError(_report(owner, faults))
        return config

    def _take(self, *sources: tuple[str, Mapping[str, object]]) -> list[str]:
        faults: list[str] = []
        params = self._params
        for origin, given in sources:
            tail = f" (from {origin})" if origin else ""
            for name, value in given.items():
                one = params.get(name)
                if one is None:
                    faults.append(f"{name}: unknown parameter{nearest(name, params)}{tail}")
                elif one.read_only:
                    faults.append(
                        f"{name}: a statistic that the gobj keeps; it cannot be set{tail}"
                    )
                else:
                    try:
                        self.__dict__[name] = one.convert(value)
                    except ValueError as error:
                        faults.append(f"{name}: {error}{tail}")
        return faults

    def _keep_live(self, name: str, read: Callable[[], object]) -> None:
        """Let a statistic be read from where it is kept."""
        self.__dict__[f"_{name}"] = read

    def _keep(self, name: str, value: object) -> None:
        """Store a value that the gobj itself found out, such as the port that it got."""
        self.__dict__[name] = value


class Statistic:
    """Shows a figure that lives elsewhere, such as the length of a ledger, as a config attribute.

    Each config object holds, under the name with an underscore before it, the function that reads
    the figure; see `Config._keep_live`.
    """

    def __init__(self, name: str, default: object) -> None:
        self._reader = f"_{name}"
        self._default = default

    def __get__(self, config: Config | None, owner: type[Config]) -> object:
        read: Callable[[], object] | None
        read = None if config is None else config.__dict__.get(self._reader)
        return self._default if read is None else read()


def load_settings(path: str | os.PathLike[str]) -> dict[str, dict[str, object]]:
    """Settings from a TOML file: a table for each gobj or gclass name.

    Raises:
        GConfigError: when the file cannot be read, is no TOML, or is not made of tables.
    """
    where = os.fspath(path)
    try:
        with open(where, "rb") as file:
            found = tomllib.load(file)
    except OSError as error:
        raise GConfigError(f"settings file {where!r} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise GConfigError(f"settings file {where!r} is not valid TOML: {error}") from error
    return settings_from(found, f"settings file {where!r}")


def settings_from(given: Mapping[str, object], origin: str) -> dict[str, dict[str, object]]:
    """Settings as `{name: {parameter: value}}`; an entry `"echo.port": 7001` is taken as well.

    Raises:
        GConfigError: for an entry of another form.
    """
    settings: dict[str, dict[str, object]] = {}
    for key, value in given.items():
        name, _, parameter = key.rpartition(".")
        if isinstance(value, Mapping):
            settings.setdefault(key, {}).update(value)
        elif name and parameter:
            settings.setdefault(name, {})[parameter] = value
        else:
            raise GConfigError(
                f"{origin}: {key} = {_shown(value)}: expected a table of parameters under a gobj "
                "or gclass name, such as [echo] with port = 7001"
            )
    return settings


def _declared(cls: type[Config], frame: types.FrameType) -> tuple[dict[str, Param], list[str]]:
    """The parameters that a config class declares in its own body, and what is wrong with them."""
    declared: dict[str, Param] = {}
    faults: list[str] = []
    annotations: dict[str, Any] = inspect.get_annotations(cls)
    for name, value in list(cls.__dict__.items()):
        if isinstance(value, Param) and name not in annotations:
            faults.append(f"{name}: no type; write `{name}: {type(value.default).__name__} = ...`")
    for name, annotation in annotations.items():
        if name.startswith("_"):
            continue
        value = cls.__dict__.get(name)
        if not isinstance(value, Param):
            faults.append(f"{name}: write `{name}: TYPE = param(default, 'description')`")
            continue
        if name in _RESERVED:
            faults.append(f"{name}: create_gobj keeps this word for itself; use another name")
        value.name = name
        try:
            value.type = _resolved(annotation, cls, frame)
            msgspec.convert(None, value.type | None)
        except (NameError, AttributeError, SyntaxError) as error:
            faults.append(f"{name}: the type {annotation!r} cannot be found here: {error}")
            continue
        except TypeError as error:
            faults.append(f"{name}: the type {annotation!r} cannot be validated: {error}")
            continue
        except msgspec.ValidationError:
            pass
        if not isinstance(value.description, str) or not value.description.strip():
            faults.append(f"{name}: give a description, one sentence for the documentation")
        if not value.read_only:
            try:
                value.default = value.convert(value.default)
            except ValueError as error:
                faults.append(f"{name}: its default: {error}")
        declared[name] = value
    return declared, faults


def _resolved(annotation: Any, cls: type, frame: types.FrameType) -> Any:
    """The annotation as a type, also where `from __future__ import annotations` made it text."""
    if not isinstance(annotation, str):
        return annotation
    scope: dict[str, Any] = dict(vars(sys.modules[cls.__module__]))
    # A class made inside a function sees the function's names; typing.get_type_hints does not.
    inner: list[dict[str, Any]] = []
    outer: types.FrameType | None = frame
    while outer is not None and outer.f_code.co_name != "<module>" and len(inner) < 4:
        inner.append(dict(outer.f_locals))
        outer = outer.f_back
    for names in reversed(inner):
        scope.update(names)
    return eval(annotation, scope)


def _convert(value: object, to: Any) -> object:
    if isinstance(value, range):
        value = tuple(value)
    return msgspec.convert(value, to, builtin_types=_BUFFERS)


def _convert_text(value: Text, to: Any) -> object:
    """Text from a command line as the type that the parameter has.

    Tried in this order: the text itself, JSON (`[7000, 7001]`, `{"certfile": "a.pem"}`), and a
    list with commas (`7000,7001`).
    """
    text = str(value)
    if to is bool and text.lower() in ("yes", "on"):
        return True
    if to is bool and text.lower() in ("no", "off"):
        return False
    try:
        return msgspec.convert(text, to, strict=False)
    except msgspec.ValidationError as first:
        try:
            return msgspec.convert(json.loads(text), to, strict=False)
        except (ValueError, msgspec.ValidationError):
            pass
        try:
            return msgspec.convert([one.strip() for one in text.split(",")], to, strict=False)
        except msgspec.ValidationError:
            raise first from None


def _type_words(of: Any) -> str:
    """A type in the words that an error or a table shows."""
    if of is None or of is types.NoneType:
        return "None"
    if of is Any:
        return "object"
    origin = typing.get_origin(of)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(_type_words(one) for one in typing.get_args(of))
    if origin is typing.Annotated:
        return _type_words(typing.get_args(of)[0])
    if origin is typing.Literal:
        return " | ".join(repr(one) for one in typing.get_args(of))
    if origin is type:
        return "gclass"
    return str(getattr(origin or of, "__name__", of))


def _table_word(one: Param) -> str:
    """The type as a table prints it.

    A parameter that takes an object, which no settings file can hold, shows the type of its
    default: the page of GServerSock says `subscriber`, `None`.
    """
    parts = typing.get_args(one.type)
    if any(isinstance(part, type) and part.__module__ != "builtins" for part in parts):
        return "None" if one.default is None else type(one.default).__name__
    return _type_words(one.type)


def _shown(value: object) -> str:
    """A value for an error's sentence; not the inside of a mapping, which may hold a passphrase."""
    kind = type(value).__name__
    if isinstance(value, Text):
        return f"the text {str(value)!r}"
    if value is None or isinstance(value, (bool, int, float)):
        return f"{value!r}" if value is None else f"{value!r} ({kind})"
    if isinstance(value, (str, bytes, tuple, list)):
        text = repr(value)
        return f"{text if len(text) <= 60 else text[:57] + '...'} ({kind})"
    return f"a {kind}"


def _report(owner: str, faults: list[str]) -> str:
    if len(faults) == 1:
        return f"{owner}: {faults[0]}"
    return f"{owner}: {len(faults)} faults\n" + "\n".join(f"  {fault}" for fault in faults)
