"""What was given, and how many, in the words of a sentence; never what may be a secret."""

import difflib
from collections.abc import Iterable
from typing import Final

from ginsfsm.net.pem import is_pem_text

__all__ = [
    "HOST_FORM", "bare", "counted", "cut", "given", "is_host", "is_whole", "kind", "nearest",
]  # fmt: skip

LONGEST_HOST: Final = 1024
"""Characters that a resolver takes; NI_MAXHOST of netdb.h, less the NUL."""

HOST_FORM: Final = (
    f"expected an address or a name, of at most {LONGEST_HOST} characters that are UTF-8 and no NUL"
)


def given(value: object) -> str:
    """A value with its type; only its type where it may hold a key or anything else within."""
    if isinstance(value, (bool, int, float)) or (isinstance(value, str) and not is_pem_text(value)):
        return f"{cut(repr(value))} ({type(value).__name__})"
    if isinstance(value, str):
        return "what looks like the text of a file"
    return f"an empty {type(value).__name__}" if value in ([], ()) else kind(value)


def kind(value: object) -> str:
    """The type of a value: `an int`, `None`."""
    if value is None:
        return "None"
    name = type(value).__name__
    return f"an {name}" if name[0] in "aeiouAEIOU" else f"a {name}"


def counted(number: int, one: str, many: str | None = None) -> str:
    """`1 server`, `2 servers`; `many` where it is not `one` with an s."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def cut(text: str) -> str:
    """A text that is not longer than a line."""
    return text if len(text) <= 60 else text[:57] + "..."


def is_whole(text: str) -> bool:
    """Whether it can be written as UTF-8: no half character, as of an argument in Latin-1."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_host(text: str) -> bool:
    """Whether a resolver can be asked for it; see `HOST_FORM`."""
    return len(text) <= LONGEST_HOST and is_whole(text) and "\0" not in text


def bare(value: object, prefix: str = "") -> str:
    """The name of a constant, as people write it, without a prefix that may be left out.

    Returns:
        In lower case, with underscores for dots; empty for what is no text.
    """
    if not isinstance(value, str):
        return ""
    return value.lower().removeprefix("ssl.").removeprefix(prefix).replace(".", "_")


def nearest(name: object, known: Iterable[str]) -> str:
    """A tail for the sentence about an unknown name: the nearest known one, or all of them."""
    names = list(known)
    close = difflib.get_close_matches(str(name).lower(), names, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(names)}"
