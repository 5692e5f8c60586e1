"""GclassDirective: `.. gclass:: package.module.Class`.

It makes, in this order: the name with its docstring; the parameters, own and inherited; the
interface; the machine; the states, each with its rows; the input events, the output events, and
what the gclass says to itself. Empty parts are left out.

Options: `prose` adds the docstring of the module, `rubrics` makes small titles that stand in no
table of contents, `no-pictures` draws nothing, `no-index` is for a second place of one gclass, to
which no link leads.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx import addnodes
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from ginsfsm.draw.diagram import Line
from ginsfsm.draw.gclass_docs import EventDocs, GclassDocs, ParameterDocs, StateDocs
from ginsfsm.draw.sphinx_domain import CONTEXT, FsmDomain
from ginsfsm.draw.sphinx_nodes import code, docstring, entry, linked, section, sentence, table
from ginsfsm.draw.sphinx_picture import WAYS, picture
from ginsfsm.errors import nearest
from ginsfsm.gobj import GObj

if TYPE_CHECKING:
    from collections.abc import Callable

    from docutils.nodes import Node

__all__ = ["GclassDirective"]

logger: Final = logging.getLogger(__name__)

_NO_ANCHOR: Final = re.compile(r"[^\w-]+")


class NoGclassError(Exception):
    """The argument of the directive names no gclass; the sentence says why."""


def find_gclass(name: str) -> type[GObj]:
    """The gclass of that name.

    Args:
        name: `package.module.Class`, or a class within a class.

    Raises:
        NoGclassError: there is none, or its module cannot be imported.
    """
    module_name, _, rest = name.rpartition(".")
    words = [rest]
    while module_name:
        try:
            found: Any = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                raise NoGclassError(f"{module_name} cannot be imported: {error}") from error
            module_name, _, word = module_name.rpartition(".")
            words.insert(0, word)
            continue
        except Exception as error:
            # It runs code that is not ours, which may raise anything; the build goes on without it.
            raise NoGclassError(f"{module_name} cannot be imported: {error}") from error
        for word in words:
            known = [one for one, what in vars(found).items() if _is_gclass(what)]
            found = getattr(found, word, None)
            if found is None:
                raise NoGclassError(f"{module_name} has no {word}{nearest(word, known)}")
        if not _is_gclass(found):
            raise NoGclassError(f"expected a gclass, derived from GObj, got {found!r}")
        return cast("type[GObj]", found)
    raise NoGclassError("expected package.module.Class, of a module that can be imported")


def _is_gclass(what: object) -> bool:
    return isinstance(what, type) and issubclass(what, GObj)


class GclassDirective(SphinxDirective):
    """Documents a gclass."""

    required_arguments = 1
    has_content = True
    option_spec: ClassVar[dict[str, Callable[[str], Any]] | None] = {
        "prose": directives.flag,
        "rubrics": directives.flag,
        "no-pictures": directives.flag,
        "no-index": directives.flag,
    }

    def run(self) -> list[Node]:
        """The nodes; a warning and nothing, where there is no such gclass."""
        try:
            gclass = find_gclass(self.arguments[0])
        except NoGclassError as error:
            logger.warning(
                "gclass %s: %s", self.arguments[0], error, type="fsm", location=self.get_location()
            )
            return []
        self.docs = docs = GclassDocs(gclass)
        self.domain = cast("FsmDomain", self.env.domains["fsm"])
        self.places: dict[str, str] = {}
        for file in docs.source_files:
            self.env.note_dependency(file)
        self.env.ref_context[CONTEXT] = docs.full_name
        # First what makes the anchors: the pictures link to them.
        head = self._head()
        parameters = list(self._parameters())
        states = list(self._states()) if docs.has_machine else []
        inputs = list(self._events("Input events", "inputs", docs.inputs()))
        outputs = list(self._events("Output events", "outputs", docs.outputs()))
        internal = list(self._events("Internal events", "internal", docs.internals()))
        pictures = list(self._pictures())
        return [*head, *parameters, *pictures, *states, *inputs, *outputs, *internal]

    # -- anchors -----------------------------------------------------------------------------------

    def _place(self, kind: str, name: str, full_name: str, *, home: bool = True) -> str:
        """The anchor of something; and it is known to the domain, and stands in the index."""
        node_id = self.docs.full_name if kind == "gclass" else self._anchor(name)
        self.places[name] = node_id
        if "no-index" in self.options:
            return node_id
        other = self.domain.places.get((kind, full_name))
        if kind == "gclass" and other:
            logger.warning(
                "gclass %s is documented on the page %s too; give one of them :no-index:",
                full_name, other[0].docname, type="fsm", location=self.get_location(),
            )  # fmt: skip
        self.domain.note(kind, full_name, node_id, home=home)
        return node_id

    def _anchor(self, name: str) -> str:
        # The name of a state may be any text, and an anchor has no space and no quotes.
        return f"{self.docs.full_name}.{_NO_ANCHOR.sub('-', name)}"

    def _index(self, kind: str, name: str, node_id: str) -> addnodes.index:
        if "no-index" in self.options:
            return addnodes.index(entries=[])
        words = {"gclass": "gclass", "param": "parameter of", "state": "state of"}
        of = words.get(kind, "event of") + (f" {self.docs.name}" if kind != "gclass" else "")
        return addnodes.index(entries=[("single", f"{name} ({of})", node_id, "", None)])

    def _section(self, title: str, word: str, content: Iterable[Node]) -> Iterator[Node]:
        node_id = f"{self.docs.full_name}-{word}"
        return section(title, node_id, content, plain="rubrics" in self.options)

    # -- the parts ---------------------------------------------------------------------------------

    def _head(self) -> list[Node]:
        docs = self.docs
        node_id = self._place("gclass", docs.name, docs.full_name)
        content = docstring(self, "class", docs.gclass, docs.doc)
        if "prose" in self.options:
            for paragraph in docs.prose:
                content += docstring(self, "module", docs.gclass, paragraph)
        content += self.parse_content_to_nodes()
        derived: list[Node] = []
        if docs.base is not None and docs.base is not GObj:
            base = GclassDocs(docs.base)
            derived = [
                addnodes.desc_sig_punctuation("", "("),
                linked("gclass", base.full_name, base.name),
                addnodes.desc_sig_punctuation("", ")"),
            ]
        module = docs.full_name.removesuffix(docs.name)
        return [
            self._index("gclass", docs.name, node_id),
            entry("gclass", docs.name, node_id, content, before=module, after=derived),
        ]

    def _parameters(self) -> Iterator[Node]:
        rows = self.docs.parameters()
        own = [one for one in rows if one.declared_by is self.docs.gclass]
        if own:
            yield from self._section(
                "Configurable parameters", "parameters", self._parameter_table(own)
            )
        for base in dict.fromkeys(one.declared_by for one in rows if one not in own):
            of = GclassDocs(base)
            inherited = [one for one in rows if one.declared_by is base]
            yield from self._section(
                f"Parameters of {of.name}",
                f"parameters-of-{of.name}",
                self._parameter_table(inherited),
            )

    def _parameter_table(self, rows: list[ParameterDocs]) -> list[Node]:
        made: list[Node] = []
        cells: list[list[list[Node]]] = []
        for one in rows:
            node_id = self._place("param", one.name, f"{self.docs.full_name}.{one.name}")
            made.append(self._index("param", one.name, node_id))
            shown = nodes.inline("", "", code(one.name), ids=[node_id], classes=["fsm-place"])
            cells.append(
                [
                    [shown],
                    [code(one.kind)],
                    [self._default(one.default)],
                    sentence(one.description, self.docs.full_name),
                ]
            )
        made.append(table(("Name", "Type", "Default value", "Description"), cells, "parameters"))
        return made

    def _default(self, text: str) -> Node:
        # An event or a gclass may be one.
        is_name = text.isidentifier() and text not in ("None", "True", "False")
        return linked("name", text, text, self.docs.full_name) if is_name else code(text)

    def _pictures(self) -> Iterator[Node]:
        if "no-pictures" in self.options:
            return
        way = self.config.fsm_diagram
        if way not in WAYS:
            logger.warning("fsm_diagram = %r: expected one of %s", way, ", ".join(WAYS), type="fsm")
            way = "auto"
        docs = self.docs
        if docs.inputs() or docs.outputs():
            yield from self._section(
                "Interface", "interface", [picture(docs.gclass, "interface", way, self.places)]
            )
        if docs.has_machine:
            yield from self._section(
                "Diagram", "diagram", [picture(docs.gclass, "machine", way, self.places)]
            )

    def _states(self) -> Iterator[Node]:
        made: list[Node] = []
        for one in self.docs.states():
            made += self._state(one)
        yield from self._section("States", "states", made)

    def _state(self, one: StateDocs) -> list[Node]:
        name = one.box.name
        node_id = self._place("state", name, f"{self.docs.full_name}.{name}")
        content = docstring(self, "state", self.docs.gclass, one.doc)
        if one.box.rows:
            rows = [self._row(line) for line in one.box.rows]
            content.append(table(("Event", "Guard", "Action", "Next state"), rows, "rows"))
        mark = [nodes.inline("", " initial state", classes=["fsm-mark"])] if one.box.initial else []
        return [
            self._index("state", name, node_id),
            entry("state", name, node_id, content, after=mark),
        ]

    def _row(self, line: Line) -> list[list[Node]]:
        row = line.row
        trigger: list[Node]
        if line.event is not None:
            trigger = [self._local("event", line.trigger)]
        elif isinstance(row.seconds, str):
            trigger = [nodes.Text("after "), self._local("param", row.seconds), nodes.Text(" s")]
        else:
            trigger = [nodes.emphasis("", line.trigger)]
        if line.postpones:
            action: list[Node] = [nodes.emphasis("", "kept for the next state")]
        else:
            action = [code(line.action)] if line.action else []
        targets = [self._local("state", line.target)] if line.target else []
        for other in line.may:
            targets += [
                nodes.Text(" or " if targets else "may go to "),
                self._local("state", other),
            ]
        return [trigger, _guard(line.guard), action, targets]

    def _local(self, kind: str, name: str) -> Node:
        """A link to something on this page, which may have no place in the domain of its own."""
        link = nodes.reference("", "", code(name), internal=True)
        link["refid"] = self._anchor(name)
        link["classes"] = ["fsm-link", kind]
        return link

    def _events(self, title: str, word: str, events: list[EventDocs]) -> Iterator[Node]:
        made: list[Node] = []
        for one in events:
            made += self._event(one)
        if made:
            yield from self._section(title, word, made)

    def _event(self, one: EventDocs) -> list[Node]:
        if one.name in self.places:
            # It is told of above: it goes in and comes out.
            again = nodes.paragraph("", "", self._local("event", one.name))
            again += nodes.Text(": the same event as above.")
            return [again]
        home = self.docs.is_home_of(one)
        node_id = self._place("event", one.name, one.full_name, home=home)
        content = docstring(self, "class", one.message.event, one.doc)
        fields = one.message.fields
        if any(one.told.get(field.name) for field in fields):
            rows: list[list[list[Node]]] = [
                [[code(field.name)], sentence(one.told.get(field.name, ""), self.docs.full_name)]
                for field in fields
            ]
            content.append(table(("Field", "Description"), rows, "fields"))
        arguments = [(field.name, field.type, field.default) for field in fields] or None
        after: list[Node] = []
        if not home:
            after = [
                nodes.inline("", " of ", classes=["fsm-mark"]),
                linked("event", one.full_name, one.module),
            ]
        return [
            self._index("event", one.name, node_id),
            entry("event", one.name, node_id, content, arguments=arguments, after=after),
        ]


def _guard(text: str) -> list[Node]:
    if not text:
        return []
    if text == "else":
        return [nodes.Text(text)]
    prefix, _, name = text.rpartition(" ")
    return [nodes.Text(f"{prefix} "), code(name)] if prefix else [code(name)]
