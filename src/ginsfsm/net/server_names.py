"""The host names that a client may ask for, and the certificate that it gets for each.

A client says in its first message which host it means (SNI, RFC 6066). OpenSSL asks a function
then, and that function may give the connection another context. A client may send anything: what
arrives here is any ASCII text, so nothing here can fail, and at most two look-ups are made for it.

A name is the same in capitals and with a dot at its end. "*.example.com" stands for one label more,
"a.example.com" but not "a.b.example.com" nor "example.com", as in certificates (RFC 6125). An exact
name wins over it.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Mapping
from typing import Any, Final

__all__ = ["ServerNameCallback", "choose_context", "host_name", "record_name"]

ServerNameCallback = Callable[[Any, str | None, ssl.SSLContext], None]
"""What `SSLContext.sni_callback` takes: called with the `SSLObject`, the name and the context."""

# The underscore is in no host name of the RFCs, but in many of the DNS.
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")


def host_name(given: object) -> str | None:
    """A name, or a name with `*.` before it, in the one form in which names are compared.

    Returns:
        Lower case without a dot at its end, an international name as its A-labels; None if it can
        be no host name.
    """
    if not isinstance(given, str):
        return None
    star = "*." if given.startswith("*.") else ""
    try:
        name = given.removeprefix(star).removesuffix(".").encode("idna").decode().lower()
    except UnicodeError:
        return None
    fits = len(name) <= 253 and all(_LABEL.fullmatch(label) for label in name.split("."))
    return star + name if fits else None


def record_name(ssl_object: Any, name: str | None, context: ssl.SSLContext) -> None:
    """The `sni_callback` of a server with one certificate: the name becomes `server_name`."""
    ssl_object.server_name = name


def choose_context(contexts: Mapping[str, ssl.SSLContext]) -> ServerNameCallback:
    """The `sni_callback` of a server with several: it records as well, and chooses.

    Args:
        contexts: by the names that `host_name` gives. For any other name, and for a client that
            sends none, the connection stays with the context that it began with.
    """
    exact = {name: one for name, one in contexts.items() if not name.startswith("*.")}
    wildcard = {name[2:]: one for name, one in contexts.items() if name.startswith("*.")}

    def choose(ssl_object: Any, name: str | None, context: ssl.SSLContext) -> None:
        ssl_object.server_name = name
        if name is None:
            return
        asked = name.lower().removesuffix(".")
        found = exact.get(asked)
        if found is None:
            label, _, rest = asked.partition(".")
            found = wildcard.get(rest) if label else None
        if found is not None:
            ssl_object.context = found

    return choose
