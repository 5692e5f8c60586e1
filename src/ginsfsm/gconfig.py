"""param and Config: declared parameters, validated and documented.

A gclass declares its parameters in a nested class::

    class config(GObj.config):
        port: int = param(7000, "port to listen on", ge=0, le=65535)

The annotation is the type, `param` gives the default and the description. From these come the
validation in `create_gobj`, the rows of `config.table()`, and what the documentation prints.

When the class is created each `param` is replaced by its default, so `config.port` on the class is
the default and a gobj's own `config` object stores only the values that differ from it.

A value is converted by itself, since msgspec would stop at the first wrong one of several: so all
that is wrong, with a declaration or with the values for one gobj, stands in one error.
"""

from __future__ import annotations

import copy
import inspect
import re
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Final, Self, TypeVar, cast

import msgspec

from ginsfsm.convert import Text, convert, kind, members, plain, shown, type_words
from ginsfsm.errors import GConfigError, nearest

__all__ = ["Config", "Param", "Statistic", "Text", "param", "statistic"]

T = TypeVar("T")

_RESERVED: Final = frozenset({"self", "name", "gclass", "parent", "unique", "table", "misfits"})
"""Words that `create_gobj` and `Config` keep for themselves."""


_ORDINALS: Final = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")


class Param:
    """One declared parameter. Made by `param` and `statistic`, read by `Config`."""

    __slots__ = (
        "choices", "default", "description", "from_settings", "ge", "le", "read_only", "type",
    )  # fmt: skip

    def __init__(
        self,
        default: object,
        description: str,
        ge: float | None,
        le: float | None,
        choices: tuple[object, ...] | None,
        read_only: bool,
        from_settings: Callable[[object], object] | None = None,
    ) -> None:
        self.default = default
        self.description = description
        self.ge = ge
        self.le = le
        self.choices = choices
        self.read_only = read_only
        self.from_settings = from_settings
        self.type: Any = object

    def expected(self) -> str:
        """What a legal value is, for an error's sentence: `int from 0 to 65535`."""
        if self.choices is not None:
            return "one of " + ", ".join(repr(choice) for choice in self.choices)
        words = type_words(self.type, inside=True)
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
            converted = convert(value, self.type)
        except (msgspec.ValidationError, ValueError) as error:
            where = _where(str(error).partition(" - at ")[2].replace("`", ""), value)
            raise ValueError(
                f"expected {self.expected()}, got {self._given(value)}"
                + (f" (wrong{where})" if where else "")
            ) from error
        if isinstance(converted, float) and converted != converted and not self._limited:
            raise ValueError(f"expected {self.expected()} that is a number, got {shown(value)}")
        if isinstance(converted, (int, float)) and not self._in_range(converted):
            raise ValueError(f"expected {self.expected()}, got {self._given(value)}")
        if self.choices is not None and converted not in self.choices:
            raise ValueError(f"expected {self.expected()}, got {self._given(value)}")
        return converted

    def faults(self) -> list[str]:
        """What is wrong with the declaration itself, once its type is known."""
        found: list[str] = []
        if not isinstance(self.description, str) or not self.description.strip():
            found.append("give a description, one sentence for the documentation")
        if self._limited and not {int, float} & set(members(self.type)):
            found.append(f"ge and le limit a number; its type is {type_words(self.type)}")
        if not all(
            limit is None or isinstance(limit, (int, float)) for limit in (self.ge, self.le)
        ):
            return [*found, f"ge and le must be numbers, got {self.ge!r} and {self.le!r}"]
        try:
            self.default = self.convert(self.default)
        except ValueError as error:
            found.append(f"its default: {error}")
        return found

    def _given(self, value: object) -> str:
        # Where a mapping is expected, whatever was given instead may hold a passphrase too.
        if dict not in map(plain, members(self.type)) or value is None:
            return shown(value)
        if isinstance(value, str):
            return f"a text of {len(str(value))} characters"
        return kind(value)

    @property
    def _limited(self) -> bool:
        return (self.ge, self.le) != (None, None)

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
    from_settings: Callable[[object], object] | None = None,
) -> T:
    """Declare a parameter of a gclass, inside its nested `config`.

    A NaN, which compares with nothing, is no value of a parameter that is a float.

    Args:
        default: the value when nobody gives one; it must fit the annotation and the limits.
        description: one sentence for the documentation.
        ge: the smallest legal number.
        le: the largest legal number.
        choices: the legal values, where they can be listed.
        from_settings: called with a value that comes from settings, for the one that the code would
            give; it raises ValueError with the sentence for the error. For a parameter whose type
            does not say what a text in settings stands for.

    Returns:
        A declaration, typed as the default so that a type checker compares it with the annotation.
    """
    legal = None if choices is None else tuple(choices)
    one = Param(default, description, ge, le, legal, False, from_settings)
    return cast(T, one)


def statistic(default: T, description: str) -> T:
    """Declare a figure that the gobj keeps itself: read like a parameter, set by nobody else.

    Args:
        default: what is shown until the gobj calls `Config._keep_live`.
        description: one sentence for the documentation.
    """
    return cast(T, Param(default, description, None, None, None, read_only=True))


listener: Callable[[type[Config], str, int, list[str]], None] | None = None
"""Who is told of the faults of a declaration, and of its file and line; then the class comes to be
without what is wrong. Without one they are raised. See the one in `ginsfsm.fault`."""


class Config:
    """Base of every nested `config`. Read the parameters as attributes; `table()` lists them."""

    _params: ClassVar[dict[str, Param]] = {}
    _own_params: ClassVar[dict[str, Param]] = {}
    _defaults_to_copy: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        frame = sys._getframe(1)
        own, faults = _declared(cls, frame)
        cls._own_params = own
        # In order of declaration, first base first; which one counts is Python's rule for
        # attributes, so that the table says what an attribute gives.
        names = [name for base in cls.__bases__ for name in getattr(base, "_params", ())]
        cls._params = {
            name: next(
                base._own_params[name]
                for base in cls.__mro__
                if issubclass(base, Config) and name in base._own_params
            )
            for name in dict.fromkeys((*names, *own))
        }
        for name, one in own.items():
            setattr(cls, name, Statistic(name, one.default) if one.read_only else one.default)
        cls._defaults_to_copy = tuple(
            name for name, one in cls._params.items() if isinstance(one.default, (dict, list, set))
        )
        if faults and listener is not None:
            listener(cls, frame.f_code.co_filename, frame.f_lineno, faults)
        elif faults:
            raise GConfigError(_report(f"{cls.__module__}.{cls.__qualname__}", faults))

    def __setattr__(self, name: str, value: object) -> None:
        raise GConfigError(
            f"config.{name} cannot be assigned: the parameters are read-only; "
            f"use gobj.write_parameters({name}=...), which validates the value"
        )

    def __delattr__(self, name: str) -> None:
        raise GConfigError(f"config.{name} cannot be deleted: the parameters are read-only")

    def __repr__(self) -> str:
        return f"<config of {len(self._params)} parameters>"

    @classmethod
    def table(cls) -> list[tuple[str, str, object, str]]:
        """The declared parameters in order, as rows `(name, type, default, description)`.

        The type is the word that the documentation prints: `"str"`, `"tuple"`. A
        parameter that takes a gobj or another object shows the type of its default, `"None"`.
        """
        return [
            (name, _table_word(one), one.default, one.description)
            for name, one in cls._params.items()
        ]

    def misfits(self) -> Iterable[str]:
        """For a gclass to override: what is wrong between parameters that are right by themselves.

        Where another one is wrong, those sentences are told too that do not speak of it.

        Returns:
            A sentence for each fault, which begins with the parameter and names the others, as in
            `"low: expected less than high"`.
        """
        return ()

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
        faults = config._judge(*sources)
        if faults:
            raise GConfigError(_report(owner, faults))
        return config

    @classmethod
    def _faults_of(cls, values: Mapping[str, object]) -> list[str]:
        """What is wrong with these values of settings, whatever the others will be."""
        tail = " (from settings)"
        return [fault.removesuffix(tail) for fault in cls.__new__(cls)._take(("settings", values))]

    def _rewritten(self, owner: str, new: Mapping[str, object]) -> Self:
        """A copy of this config with new values; a copy, because connections share one config."""
        config = type(self).__new__(type(self))
        config.__dict__.update(self.__dict__)
        faults = config._judge(("", new))
        if faults:
            raise GConfigError(_report(owner, faults))
        return config

    def _judge(self, *sources: tuple[str, Mapping[str, object]]) -> list[str]:
        """Take the values; all that is wrong with each and between them."""
        faults = self._take(*sources)
        if not faults:
            return list(self.misfits())
        # One that is wrong by itself, or misspelt, stands here as if it had not been given; what
        # speaks of it may be wrong only therefore.
        told = " ".join(fault.partition("; known: ")[0] for fault in faults)
        unsure = self._params.keys() & _words(told)
        return faults + [one for one in self.misfits() if not unsure & _words(one)]

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
                        if origin and one.from_settings is not None:
                            value = one.from_settings(value)
                        self.__dict__[name] = one.convert(value)
                    except ValueError as error:
                        faults.append(f"{name}: {error}{tail}")
        return faults

    def _keep_live(self, name: str, read: Callable[[], object]) -> None:
        """Let a statistic be read from where it is kept, such as the length of a ledger.

        Args:
            name: a parameter declared with `statistic`.
            read: called whenever the attribute is read. This config holds it, and so do the
                copies that `write_parameters` makes.
        """
        self.__dict__[f"_{name}"] = read

    def _keep(self, name: str, value: object) -> None:
        """Store a value that the gobj itself found out, such as the port that it got."""
        self.__dict__[name] = value


class Statistic:
    """Shows a figure that lives elsewhere, such as the length of a ledger, as a config attribute.

    Each config object holds, under the name with an underscore before it, the function that reads
    the figure; see `Config._keep_live`.
    """

    __slots__ = ("_default", "_reader")

    def __init__(self, name: str, default: object) -> None:
        self._reader = f"_{name}"
        self._default = default

    def __get__(self, config: Config | None, owner: type[Config]) -> object:
        read = None if config is None else config.__dict__.get(self._reader)
        return self._default if read is None else read()


def _declared(cls: type[Config], frame: types.FrameType) -> tuple[dict[str, Param], list[str]]:
    """The parameters that a config class declares in its own body, and what is wrong with them."""
    declared: dict[str, Param] = {}
    faults: list[str] = []
    annotations: dict[str, Any] = inspect.get_annotations(cls)
    for name, value in list(cls.__dict__.items()):
        if name in annotations:
            continue
        if isinstance(value, Param):
            kind = type(value.default).__name__
            faults.append(f"{name}: no type; write `{name}: {kind} = param(...)`")
        elif any(name in getattr(base, "_params", ()) for base in cls.__bases__):
            faults.append(
                f"{name}: a parameter of the base; write `{name}: TYPE = param(default, "
                "'description')` to declare it anew"
            )
    for name, annotation in annotations.items():
        value = cls.__dict__.get(name)
        if name.startswith("_") and not isinstance(value, Param):
            continue
        if not isinstance(value, Param):
            faults.append(f"{name}: write `{name}: TYPE = param(default, 'description')`")
            continue
        if name in _RESERVED:
            faults.append(f"{name}: create_gobj keeps this word for itself; use another name")
        if name.startswith("_"):
            faults.append(f"{name}: a parameter's name cannot begin with '_'; use another name")
        try:
            value.type = _resolved(annotation, frame)
            msgspec.convert(None, value.type | None)
        except (NameError, AttributeError, SyntaxError) as error:
            faults.append(f"{name}: the type {annotation!r} cannot be found here: {error}")
            continue
        except TypeError as error:
            faults.append(f"{name}: the type {annotation!r} cannot be validated: {error}")
            continue
        except msgspec.ValidationError:
            pass
        faults += [f"{name}: {fault}" for fault in value.faults()]
        declared[name] = value
    return declared, faults


def _resolved(annotation: Any, frame: types.FrameType) -> Any:
    """The annotation as a type, also where `from __future__ import annotations` made it text."""
    if not isinstance(annotation, str):
        return annotation
    # From the class statement outwards through the bodies of classes to the function that they
    # stand in, whose local names typing.get_type_hints does not see. Further out are only callers.
    scopes = [frame]
    while not scopes[-1].f_code.co_flags & inspect.CO_OPTIMIZED and scopes[-1].f_back is not None:
        if scopes[-1].f_locals is scopes[-1].f_globals:
            break
        scopes.append(scopes[-1].f_back)
    names: dict[str, Any] = dict(frame.f_globals)
    for scope in reversed(scopes):
        names.update(scope.f_locals)
    return eval(annotation, names)


def _words(sentence: str) -> set[str]:
    return set(re.findall(r"\w+", sentence))


def _where(path: str, value: object) -> str:
    """Where within a value it is wrong, from the path that msgspec tells, as in `$[1]`."""
    index = path.removeprefix("$[").removesuffix("]")
    if isinstance(value, (tuple, list)) and index.isdigit():
        number = int(index)
        known = number < len(_ORDINALS)
        place = f"the {_ORDINALS[number]} value" if known else f"value number {number + 1}"
        return f": {place}, {shown(value[number])}"
    path = path.replace("$", "the value").replace("key in ", "a key of ")
    return f" at {path}" if path else ""


def _table_word(one: Param) -> str:
    """The type as a table prints it.

    A parameter that takes an object, which no settings file can hold, shows the type of its
    default: the page of GServerSock says `subscriber`, `None`.
    """
    parts = members(one.type)
    if len(parts) > 1 and any(
        isinstance(part, type) and part.__module__ != "builtins" for part in parts
    ):
        return "None" if one.default is None else type(one.default).__name__
    return type_words(one.type)


def _report(owner: str, faults: Sequence[str]) -> str:
    if len(faults) == 1:
        return f"{owner}: {faults[0]}"
    return f"{owner}: {len(faults)} faults\n" + "\n".join(f"  {fault}" for fault in faults)
