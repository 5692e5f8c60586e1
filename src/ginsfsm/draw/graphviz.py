"""Graphviz: the program that makes pictures of DOT, wherever it is.

It is the `dot` of the system; or, where there is none, `graphviz-pure` of PyPI, a port of it that
brings its own fonts and takes the same arguments.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from typing import Final, Literal

from ginsfsm.errors import GinsfsmError

__all__ = ["GraphvizError", "find_dot", "render"]

PROGRAMS: Final = ("dot", "graphviz-pure")

SCREEN_FONTS: Final = b'font-family="DejaVu Sans Mono,Menlo,Consolas,Liberation Mono,monospace"'
"""What a browser is told instead of the font that Graphviz measured with, whose letters are thin;
those of all of these are as wide."""

_FONT_FAMILY: Final = re.compile(rb'font-family="Courier New[^"]*"')

TIME_LIMIT: Final = 120.0
"""Seconds that one picture may take. One of 30 states takes less than one; a tangle of 100 states
and 300 arrows, where every state leads to any other, took 16 on a busy machine of two cores."""

HOW_TO_GET_IT: Final = (
    "install it with `apt-get install graphviz` (Debian, Ubuntu), `brew install graphviz` (macOS) "
    "or `pip install graphviz-pure` (the package `graphviz` of PyPI does not contain it). The "
    "formats mermaid, dot, md and text need nothing"
)


class GraphvizError(GinsfsmError):
    """Graphviz is missing, or could not make the picture."""


def find_dot() -> str | None:
    """The path of the program; None where there is none."""
    # What pip installs stands beside Python, also where that environment is not activated.
    scripts = sysconfig.get_path("scripts")
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), scripts))
    for program in PROGRAMS:
        found = shutil.which(program, path=path)
        if found is not None:
            return found
    return None


def render(dot: str, format: Literal["svg", "png"]) -> bytes:
    """The picture of a graph.

    Args:
        dot: the graph, in Graphviz's language.
        format: the form of the picture.

    Raises:
        GraphvizError: the program is missing, or fails, or takes longer than two minutes.
    """
    program = find_dot()
    if program is None:
        raise GraphvizError(f"{format} is drawn by Graphviz, which is not here: {HOW_TO_GET_IT}")
    # Twice as many pixels as points, which is what screens have today.
    resolution = ["-Gdpi=144"] if format == "png" else []
    try:
        done = subprocess.run(
            [program, f"-T{format}", *resolution],
            input=dot.encode(),
            capture_output=True,
            timeout=TIME_LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise GraphvizError(
            f"{program} has not drawn this in {TIME_LIMIT:g} s; the formats dot and text show it"
        ) from error
    except OSError as error:
        raise GraphvizError(f"{program} cannot be run: {error}; {HOW_TO_GET_IT}") from error
    if done.returncode or not done.stdout:
        said = done.stderr.decode(errors="replace").strip() or "it said nothing"
        raise GraphvizError(f"{program} -T{format} failed (status {done.returncode}): {said}")
    return _FONT_FAMILY.sub(SCREEN_FONTS, done.stdout) if format == "svg" else done.stdout
