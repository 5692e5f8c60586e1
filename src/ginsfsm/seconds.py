"""is_seconds: whether what an event or a call brings can be a time.

A NaN compares with nothing. In a heap of timers it would stand before or behind all others as
chance has it, and hold up those behind it; so no time is taken that has not been asked about.
"""

from __future__ import annotations

from typing import TypeGuard

__all__ = ["is_seconds"]


def is_seconds(value: object) -> TypeGuard[float]:
    """Whether it is a number of seconds: an int or a float, also a negative or an endless one.

    No NaN, no bool, and no int that is too large for a float.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        number = float(value)
    except OverflowError:
        return False
    return number == number
