"""Quantity: a number on the command line, as `argparse` wants its types."""

import argparse
import math

__all__ = ["seconds", "whole_number"]


def seconds(text: str) -> float:
    """Any finite time.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: expected seconds, 0 or more, as in 30 or 2.5")
    return number


def whole_number(text: str) -> int:
    """Digits.

    Raises:
        argparse.ArgumentTypeError: there are others.
    """
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number, 0 or more")
    return int(text)
