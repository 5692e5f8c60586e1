"""`ginsfsm check TARGET...`: the faults of gclasses, and what is legal but smells."""

import argparse
from typing import TYPE_CHECKING

from ginsfsm.check.collect import Collection
from ginsfsm.check.finding import SMELLS, Finding
from ginsfsm.check.judge import findings_of
from ginsfsm.check.place import PLACE_FORM, PlaceError, place_of
from ginsfsm.check.report import FORMATS, report
from ginsfsm.command.output import importing, print_out, tell_of_threads
from ginsfsm.command.report import DONE, FAILED, MISUSED, say
from ginsfsm.net.words import counted

if TYPE_CHECKING:
    # What `add_subparsers` returns has a private name.
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

__all__ = ["add_check"]


def add_check(commands: "Commands") -> None:
    """Add the command to those of the command line."""
    check = commands.add_parser(
        "check",
        help="report the faults of gclasses, and what is legal but smells",
        description="Import gclasses and report the faults of their tables and parameters, and "
        "what is legal but smells. A comment silences a smell for its line, or at a class "
        "statement for the class: # ginsfsm: ignore[CODE]. Exit status: 0 when there is nothing "
        "to report; 1 when there is; 2 when a target cannot be found or imported.",
        epilog="The smells: " + ", ".join(SMELLS) + ".",
    )
    check.add_argument("targets", metavar="TARGET", nargs="+", help=PLACE_FORM)
    check.add_argument(
        "--format",
        choices=FORMATS,
        default="text",
        help="how findings are printed on stdout; github: as annotations of a workflow "
        "(default: text)",
    )
    check.add_argument(
        "--ignore",
        metavar="CODE",
        action="append",
        choices=list(SMELLS),
        default=[],
        help="a smell that is not wanted; may be given many times",
    )
    check.set_defaults(work=_check)


def _check(options: argparse.Namespace) -> int:
    collection = Collection()
    unknown: list[str] = []
    with importing():
        for text in options.targets:
            try:
                collection.add(place_of(text))
            except PlaceError as error:
                unknown.append(str(error))
    for sentence in unknown:
        say(sentence)
    findings = findings_of(collection, options.ignore)
    # A person reads of these on stderr; a program reads stdout only.
    of_targets = [Finding("", 0, "target", "", sentence) for sentence in unknown]
    shown = findings if options.format == "text" else [*of_targets, *findings]
    told = report(shown, options.format, len(collection.gclasses))
    try:
        if told:
            print_out(f"{told}\n")
    except OSError as error:
        say(f"cannot write to stdout: {error.strerror or error}")
        return FAILED
    if len(unknown) < len(options.targets):
        checked = counted(len(collection.gclasses), "gclass", "gclasses")
        say(f"{counted(len(findings), 'finding')}; {checked} without a fault")
    tell_of_threads()
    if unknown or any(one.code == "import" for one in findings):
        return MISUSED
    return FAILED if findings else DONE
