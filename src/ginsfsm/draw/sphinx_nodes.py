"""Pieces of a page: tables, paragraphs of a docstring, names that are links, what has an anchor."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from docutils import nodes
from docutils.parsers.rst import Parser, roles
from docutils.utils import new_document
from sphinx import addnodes
from sphinx.util.docutils import register_role
from sphinx.util.rst import default_role

from ginsfsm.draw.sphinx_domain import CONTEXT, name_in

if TYPE_CHECKING:
    from docutils.nodes import Node
    from sphinx.util.docutils import SphinxDirective

__all__ = ["code", "docstring", "entry", "linked", "section", "sentence", "table"]

_WORDS: Final = re.compile(
    r"`+(?P<code>[^`]+)`+"
    r"|(?<!\w)(?P<literal>b?'[^'\s]*')(?!\w)"
    r"|\b(?P<name>(?:EV|ST)_\w+|[a-z]+(?:_[a-z]+)+)\b"
)
"""In a sentence without markup: code, what is quoted as Python does, and names with underscores."""

_FIELDS: Final = {"ivar": "Attribute", "var": "Attribute", "param": "Argument", "raises": "Error"}

WIDEST: Final = 44
"""Letters in a line of a cell, in formats that count letters."""


def code(text: str) -> nodes.literal:
    """Text as code."""
    return nodes.literal("", text)


def linked(kind: str, name: str, text: str, context: str | None = None) -> addnodes.pending_xref:
    """A name as code, that becomes a link where it is documented.

    Args:
        kind: one of the domain's kinds, or `"name"` for any.
        name: what it links to.
        text: what is shown.
        context: the gclass that a state or a parameter belongs to.
    """
    link = addnodes.pending_xref(
        "", code(text), refdomain="fsm", reftype=kind, reftarget=name, refexplicit=True,
        refwarn=False,
    )  # fmt: skip
    link[CONTEXT] = context
    return link


def sentence(text: str, context: str | None) -> list[Node]:
    """A sentence without markup: the names of events, states and parameters in it are links."""
    made: list[Node] = []
    end = 0
    for found in _WORDS.finditer(text):
        if found.start() > end:
            made.append(nodes.Text(text[end : found.start()]))
        if found["literal"]:
            made.append(code(found["literal"]))
        else:
            name = found["code"] or found["name"]
            made.append(linked("name", name_in(name) or name, name, context))
        end = found.end()
    if end < len(text):
        made.append(nodes.Text(text[end:]))
    return made


def docstring(directive: SphinxDirective, what: str, of: object, text: str) -> list[Node]:
    """A docstring as nodes. It is reStructuredText, whatever the page is written in.

    Where autodoc and napoleon are loaded, they may do with it what they do with any other.

    Args:
        directive: on whose behalf.
        what: `"class"`, in the words of autodoc.
        of: the object that has it.
        text: without indentation.
    """
    if not text:
        return []
    lines = [*text.splitlines(), ""]
    app = directive.env.app
    name = f"{getattr(of, '__module__', '')}.{getattr(of, '__qualname__', '')}"
    if "autodoc-process-docstring" in app.events.events:
        app.emit("autodoc-process-docstring", what, name, of, {}, lines)
    document = new_document(f"docstring of {name}", directive.state.document.settings)
    document.reporter = reporter = directive.state.document.reporter
    # A warning stands at the docstring, and not at the directive, where nothing is wrong.
    place_on_page = vars(reporter)["get_source_and_line"]
    vars(reporter)["get_source_and_line"] = lambda line=None: (f"docstring of {name}", line)
    # docutils has no public way to ask for it; Sphinx's own default_role reads it like this.
    before = vars(roles)["_roles"].get("")
    try:
        with default_role(directive.env.current_document.docname, "fsm:name"):
            Parser().parse("\n".join(lines), document)
    finally:
        vars(reporter)["get_source_and_line"] = place_on_page
    if before is not None:
        # That of the page, which Sphinx has put away.
        register_role("", before)
    return [part for one in document.children for part in _sections(one)]


def _sections(given: Node) -> list[Node]:
    """What napoleon makes of "Attributes:", "Args:" and "Raises:" as tables; else as it is."""
    if not isinstance(given, nodes.field_list):
        return [given]
    rows: dict[str, list[list[list[Node]]]] = {}
    for one in given.findall(nodes.field):
        kind, _, name = one[0].astext().partition(" ")
        if kind not in _FIELDS:
            return [given]
        told = [part for text in one[1].findall(nodes.paragraph) for part in text.children]
        rows.setdefault(_FIELDS[kind], []).append([[code(name)], told])
    return [table((word, "Description"), cells, "attributes") for word, cells in rows.items()]


def table(
    columns: Sequence[str], rows: Iterable[Sequence[Sequence[Node]]], kind: str
) -> nodes.table:
    """A table.

    Args:
        columns: the words at its head.
        rows: for each cell what stands in it: inline nodes.
        kind: a word for the style sheet, `fsm-<kind>`.
    """
    lines = [_row([[nodes.Text(word)] for word in columns]), *map(_row, rows)]
    group = nodes.tgroup("", cols=len(columns))
    for column in zip(*(line.children for line in lines), strict=True):
        longest = max(len(cell.astext()) for cell in column)
        # For formats that count letters; code gets quotes there.
        group += nodes.colspec("", colwidth=min(longest + 2, WIDEST))
    head, body = nodes.thead(), nodes.tbody()
    head += lines[0]
    body += lines[1:]
    group += [head, body]
    made = nodes.table("", classes=["fsm-table", f"fsm-{kind}", "colwidths-auto"])
    made += group
    return made


def _row(cells: Iterable[Sequence[Node]]) -> nodes.row:
    row = nodes.row()
    for cell in cells:
        paragraph = nodes.paragraph()
        paragraph += list(cell)
        one = nodes.entry()
        one += paragraph
        row += one
    return row


def entry(
    kind: str,
    name: str,
    node_id: str,
    content: Iterable[Node],
    *,
    before: str = "",
    arguments: Iterable[tuple[str, str, str | None]] | None = None,
    after: Sequence[Node] = (),
) -> addnodes.desc:
    """Something with a name, an anchor and a description.

    Args:
        kind: one of the domain's kinds.
        name: what is shown.
        node_id: the anchor.
        content: the description.
        before: what stands before the name, a module with its dot.
        arguments: name, type and default of what is given in brackets; None: no brackets.
        after: what stands behind.
    """
    signature = addnodes.desc_signature("", "", ids=[node_id])
    if kind == "gclass":
        signature += addnodes.desc_annotation(
            "", "", addnodes.desc_sig_keyword("", "gclass"), addnodes.desc_sig_space()
        )
    if before:
        signature += addnodes.desc_addname(before, before)
    signature += addnodes.desc_name(name, name)
    if arguments is not None:
        given = addnodes.desc_parameterlist()
        given += [_argument(*one) for one in arguments]
        signature += given
    signature += list(after)
    below = addnodes.desc_content()
    below += list(content)
    return addnodes.desc(
        "", signature, below, domain="fsm", objtype=kind, desctype=kind, classes=["fsm", kind]
    )


def _argument(name: str, kind: str, default: str | None) -> addnodes.desc_parameter:
    one = addnodes.desc_parameter()
    one += addnodes.desc_sig_name("", name)
    one += [addnodes.desc_sig_punctuation("", ":"), addnodes.desc_sig_space()]
    one += addnodes.desc_sig_name("", kind)
    if default is not None:
        one += [addnodes.desc_sig_space(), addnodes.desc_sig_operator("", "=")]
        one += [addnodes.desc_sig_space(), nodes.inline(default, default)]
    return one


def section(title: str, node_id: str, content: Iterable[Node], *, plain: bool) -> Iterator[Node]:
    """Content below a title; plain: one that makes no part of the page's table of contents."""
    if plain:
        yield nodes.rubric("", title, ids=[node_id])
        yield from content
    else:
        made = nodes.section("", nodes.title("", title), ids=[node_id])
        made += list(content)
        yield made
