"""Settings: parameters by the name of a gobj or a gclass, from a file or a mapping.

They come as a TOML file with a table for each name::

    [echo]
    port = 7001

or as a mapping, where `"echo.port": 7001` says the same. Both become `{name: {parameter: value}}`.
Whether the names and the values are right is seen when a gobj is created with them.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping

from ginsfsm.convert import kind
from ginsfsm.errors import GConfigError

__all__ = ["load_settings", "settings_from"]


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
