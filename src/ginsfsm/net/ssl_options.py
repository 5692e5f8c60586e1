"""SslOptions: the options of `ssl_options`, in a dict that may be printed."""

from __future__ import annotations

import enum
import os
from collections.abc import Mapping
from typing import Any, Final, SupportsIndex

from ginsfsm.net.pem import is_pem_text
from ginsfsm.net.tls_options import KNOWN

__all__ = ["SslOptions"]

HIDDEN: Final = "***"


class SslOptions(dict[str, Any]):
    """Options that may be printed: a dict whose repr shows no passphrase, in `sni` neither.

    Copies and unions stay what they are; the dicts within a deep copy are new, but a context or a
    function is the same one. It refuses to be pickled, which would write the passphrases down.
    Whoever shows or stores it in another way than by its repr takes `redacted()`.
    """

    __slots__ = ()

    def redacted(self) -> dict[str, object]:
        """The options for a reader: only what is known to hold no secret is shown as it is."""
        return _redacted(self)

    def __repr__(self) -> str:
        return repr(self.redacted())

    __str__ = __repr__

    def copy(self) -> SslOptions:
        """A shallow copy, which hides the same."""
        return SslOptions(self)

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, Any]) -> SslOptions:
        return SslOptions({key: _fresh(value) for key, value in self.items()})

    def __or__(self, other: Any) -> SslOptions:  # type: ignore[override]
        return SslOptions({**self, **other}) if isinstance(other, dict) else NotImplemented

    def __ror__(self, other: Any) -> SslOptions:  # type: ignore[override]
        return SslOptions({**other, **self}) if isinstance(other, dict) else NotImplemented

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        raise TypeError("ssl_options cannot be pickled: that would write passphrases down")


def _redacted(options: Mapping[str, Any]) -> dict[str, object]:
    return {key: _shown(key, value) for key, value in options.items()}


def _shown(name: object, value: object) -> object:
    """What a repr shows of an option's value.

    A misspelled option may be the password, and an object may show anything in its own repr: a
    `functools.partial` its arguments.
    """
    if name == "sni" and isinstance(value, Mapping):
        return {
            host: _redacted(entry) if isinstance(entry, Mapping) else HIDDEN
            for host, entry in value.items()
        }
    if value is None or isinstance(value, bool):
        return value
    if name in ("password", "sni") or name not in KNOWN:
        return HIDDEN
    if isinstance(value, (list, tuple)):
        return [_shown(name, one) for one in value]
    if isinstance(value, str):
        return HIDDEN if is_pem_text(value) else str(value)
    if isinstance(value, (int, float, enum.Enum, os.PathLike)):
        return value
    return f"<{type(value).__name__}>"


def _fresh(value: Any) -> Any:
    """A copy as deep as the mappings and lists go."""
    if isinstance(value, SslOptions):
        return SslOptions({key: _fresh(one) for key, one in value.items()})
    if isinstance(value, dict):
        return {key: _fresh(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_fresh(one) for one in value]
    return value
