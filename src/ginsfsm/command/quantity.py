"""Quantity: a number on the command line, as `argparse` wants its types."""

import argparse
import math

__all__ = ["interval", "seconds", "whole_number"]


def seconds(text: str) -> float:
    """A finite time, 0 or more.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    return _seconds(text, 0, "30 or 2.5")


def interval(text: str) -> float:
    """A time between two of something.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    return _seconds(text, 0.01, "10")


def _seconds(text: str, least: float, example: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not least <= number < math.inf:
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected seconds, {least:g} or more, as in {example}"
        )
    return number


def whole_number(text: str) -> int:
    """Digits.

    Raises:
        argparse.ArgumentTypeError: there are others.
    """
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number, 0 or more")
    return int(text)
