"""`ginsfsm draw TARGET`: the machine of a gclass as a picture, made from its compiled table.

Without options it is drawn with letters, for a terminal of 80 columns, on stdout.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ginsfsm.command.output import importing, print_out, tell_of_threads
from ginsfsm.command.report import DONE, FAILED, MisuseError, say
from ginsfsm.command.target import TARGET_FORM, load_gclass, target_of
from ginsfsm.draw import FORMATS, GraphvizError, draw
from ginsfsm.draw.text import in_ascii
from ginsfsm.errors import nearest

if TYPE_CHECKING:
    # What `add_subparsers` returns has a private name.
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

__all__ = ["add_draw"]

ENDINGS: Final = {
    ".mmd": "mermaid", ".mermaid": "mermaid", ".dot": "dot", ".gv": "dot", ".svg": "svg",
    ".png": "png", ".md": "md", ".txt": "text",
}  # fmt: skip
"""The format that the name of a file asks for."""


def add_draw(commands: "Commands") -> None:
    """Add the command to those of the command line."""
    parser = commands.add_parser(
        "draw",
        help="draw the machine of a gclass",
        description="Draw the machine of a gclass: on the terminal, or as Mermaid, Graphviz DOT, "
        "SVG, PNG or a Markdown table. SVG and PNG need Graphviz. Exit status: 0 when it was "
        "drawn; 1 when it could not be drawn or written; 2 when the command line or the target "
        "cannot be understood.",
    )
    parser.add_argument(
        "target", metavar="TARGET", type=target_of, help=f"the gclass: {TARGET_FORM}"
    )
    parser.add_argument(
        "-o",
        metavar="FILE",
        dest="file",
        type=Path,
        help="write to this file; its ending says the format: " + ", ".join(ENDINGS),
    )
    parser.add_argument(
        "--format", choices=FORMATS, help="the format (default: by the file's ending, or text)"
    )
    view = parser.add_mutually_exclusive_group()
    view.add_argument(
        "--interface",
        dest="view",
        action="store_const",
        const="interface",
        default="machine",
        help="instead of the machine: the gclass as a box, with the events that go in and come out",
    )
    view.add_argument(
        "--tree",
        dest="view",
        action="store_const",
        const="tree",
        help="instead of the machine: the gclass with the children that it makes",
    )
    parser.set_defaults(work=_draw)


def _draw(options: argparse.Namespace) -> int:
    file: Path | None = options.file
    form = options.format or _format_of(file)
    if form == "png" and file is None and _is_terminal():
        raise MisuseError("a PNG picture is nothing for a terminal: give a file, as in -o door.png")
    # What a module prints while it is imported is no part of the drawing.
    with importing():
        gclass = load_gclass(options.target)
    try:
        drawing = draw(gclass, form, view=options.view)
        if file is not None:
            file.write_bytes(drawing.encode() if isinstance(drawing, str) else drawing)
        else:
            print_out(_for_stdout(drawing, form))
    except GraphvizError as error:
        say(str(error))
        return FAILED
    except OSError as error:
        say(f"cannot write {file or 'to stdout'}: {error.strerror or error}")
        return FAILED
    tell_of_threads()
    return DONE


def _format_of(file: Path | None) -> str:
    if file is None:
        return "text"
    form = ENDINGS.get(file.suffix.lower())
    if form is None:
        raise MisuseError(
            f"-o {file}: its ending says no format, and there is no --format"
            f"{nearest(file.suffix, ENDINGS)}"
        )
    return form


def _is_terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()


def _for_stdout(drawing: str | bytes, form: str) -> str | bytes:
    """A drawing that stdout can show; a file's text, which programs read, as it is in a file."""
    if isinstance(drawing, bytes):
        return drawing
    if form != "text":
        return drawing.encode()
    if sys.stdout is not None:
        try:
            drawing.encode(sys.stdout.encoding or "ascii")
        except UnicodeEncodeError:
            return in_ascii(drawing)
    return drawing
