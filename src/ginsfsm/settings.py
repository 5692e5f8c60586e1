"""Settings: parameters by the name of a gobj or a gclass, from a file or a mapping.

They come as a TOML file with a table for each name::

    [echo]
    port = 7001

or as a mapping, where `"echo.port": 7001` says the same. Both become `{name: {parameter: value}}`.
A name is that of a gobj, of a gclass, or the path of one gobj, as the log has it. They win over the
parameters that the code gives; those under a gobj's name over those under its gclass's, and those
under its path over both. A value is checked when a gobj is made with it. A name is checked when the
loop starts: by then a gclass of that name must have been loaded, or a gobj of that name must live.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from ginsfsm.convert import kind
from ginsfsm.errors import GConfigError, nearest
from ginsfsm.gconfig import Config

if TYPE_CHECKING:
    from ginsfsm.gobj import GObj

__all__ = ["Settings", "load_settings", "names_to_offer", "settings_from"]

_PUBLIC: Final = frozenset({"GAplic", "GServerSock", "GSock", "GTimer"})
"""Gclasses of the library that an error offers."""


class Settings:
    """The settings of one gaplic.

    Args:
        given: a mapping, the path of a TOML file, or None for no settings.

    Raises:
        GConfigError: when they are of another form.
    """

    def __init__(self, given: Mapping[str, object] | str | os.PathLike[str] | None) -> None:
        if given is None:
            self._values: dict[str, dict[str, object]] = {}
        elif isinstance(given, Mapping):
            self._values = settings_from(given, "settings")
        elif isinstance(given, (str, os.PathLike)):
            self._values = load_settings(given)
        else:
            raise GConfigError(
                "settings: expected a mapping or the path of a TOML file, got "
                f"{type(given).__name__}"
            )

    def __bool__(self) -> bool:
        return bool(self._values)

    def matching(self, gclass: str, gobj: str, path: str) -> list[tuple[str, Mapping[str, object]]]:
        """What a gobj of that gclass, name and path gets, with where it is from; the last wins."""
        if not self._values:
            return []
        return [
            (f"the settings of {name!r}", self._values[name])
            for name in dict.fromkeys((gclass, gobj, path))
            if name in self._values
        ]

    def misspelt(self, known: Iterable[str]) -> list[str]:
        """Names that are none of these and look very much like one of them, a sentence each."""
        bare = {one.lower(): one for one in sorted(known)}
        found = []
        for name, values in self._values.items():
            # A gobj that is not there yet is often called as its gclass is, in lower case.
            close = difflib.get_close_matches(name.lower(), bare, n=1, cutoff=0.8)
            if close and name.lower() not in bare:
                found.append(
                    f"{name!r} ({', '.join(values)}) has matched no gobj and no gclass so far; "
                    f"did you mean {bare[close[0]]!r}?"
                )
        return found

    def check(
        self,
        alive: Iterable[str],
        gclasses: Mapping[str, Sequence[type[Config]]],
        offered: Iterable[str],
    ) -> None:
        """See that every name matches something.

        Args:
            alive: the names and the paths of the gobjs.
            gclasses: the configs of the gclasses that are loaded, by the gclass's name.
            offered: what an error may name of both.

        Raises:
            GConfigError: for each name that matches nothing, and each value that does not fit.
        """
        faults: list[str] = []
        alive = set(alive)
        for name, values in self._values.items():
            configs = gclasses.get(name, ())
            # Also where no gobj has been made yet: one that is made later must not fail by it.
            misfits = [config._faults_of(values) for config in configs]
            if misfits and all(misfits):
                # Modules may have gclasses of one name; that the settings fit one is enough here.
                faults += dict.fromkeys(f"{name}: {fault}" for found in misfits for fault in found)
            if not configs and name not in alive:
                faults.append(
                    f"{name!r} ({', '.join(values)}) matches no gobj and no gclass"
                    f"{nearest(name, sorted(_alike(name, offered)))}"
                )
        if faults:
            joint = "\n  " if len(faults) > 1 else " "
            raise GConfigError(joint.join(["settings:", *faults]))


def names_to_offer(root: GObj, gclasses: Mapping[str, Collection[type[GObj]]]) -> set[str]:
    """What settings may name: not what the library, or its command, has made for itself."""
    names = {name for name, found in gclasses.items() if not all(map(_is_internal, found))}
    names.add(root.name)
    todo = list(root.children.values())
    while todo:
        gobj = todo.pop()
        if not _is_internal(type(gobj)):
            names |= {gobj.name, gobj.path}
            todo.extend(gobj.children.values())
    return names


def _is_internal(gclass: type[GObj]) -> bool:
    return gclass.__module__.startswith("ginsfsm.") and gclass.__name__ not in _PUBLIC


def _alike(name: str, offered: Iterable[str]) -> set[str]:
    """Paths where it is one; else names."""
    return {one for one in offered if ("/" in one) == ("/" in name)}


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
        name, _, parameter = str(key).rpartition(".")
        if isinstance(value, Mapping) and isinstance(key, str):
            settings.setdefault(key, {}).update(value)
        elif name and parameter:
            settings.setdefault(name, {})[parameter] = value
        else:
            raise GConfigError(
                f"{origin}: {key}: expected a table of parameters under the name of a gobj or a "
                f"gclass, such as [echo] with port = 7001, got {kind(value)}"
            )
    return settings
