"""The Sphinx extension: a directive that documents a gclass, and links to what it documents.

In `conf.py`::

    extensions = ["ginsfsm.draw.sphinxext"]

In a page, reStructuredText or Markdown::

    .. gclass:: package.module.Class

The page gets the docstring, the table of the parameters, the diagram, the states with their rows,
and the events with their fields. Everything has an anchor and stands in the index; `FsmDomain`
tells how to link to it.

`fsm_diagram` in `conf.py` says how machines are drawn: `"svg"` by Graphviz, `"mermaid"` for a page
with Mermaid's script, `"text"`, or `"auto"`, the default: SVG where Graphviz is, else text.
`fsm_link_code = True` makes links of the events and states that stand as code on any page.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sphinx.util.nodes import make_refnode

from ginsfsm.draw.sphinx_directive import GclassDirective
from ginsfsm.draw.sphinx_domain import FsmDomain
from ginsfsm.draw.sphinx_names import LinkedNames
from ginsfsm.draw.sphinx_picture import Picture, PictureAsText, depart_picture, visit_picture

if TYPE_CHECKING:
    from docutils.nodes import Element
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

__all__ = ["setup"]

STATIC: Final = Path(__file__).parent / "static"
"""The folder with the style sheet."""


def setup(app: Sphinx) -> dict[str, Any]:
    """What Sphinx calls for each of its extensions."""
    app.add_config_value("fsm_diagram", "auto", "env", types=frozenset({str}))
    app.add_config_value("fsm_link_code", False, "env", types=frozenset({bool}))
    app.add_domain(FsmDomain)
    app.add_directive("gclass", GclassDirective)
    app.add_node(Picture, html=(visit_picture, depart_picture))
    app.add_transform(LinkedNames)
    app.add_post_transform(PictureAsText)
    app.add_css_file("ginsfsm.css")
    app.connect("missing-reference", _resolve)
    app.connect("builder-inited", _add_style)
    return {
        "version": _version(),
        "env_version": 1,
        "parallel_read_safe": True,
        "parallel_write_safe": True,
    }


def _version() -> str:
    try:
        return metadata.version("ginsfsm")
    except metadata.PackageNotFoundError:
        # Not installed, but run from its source. Sphinx has these words where there is no version.
        return "unknown version"


def _resolve(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: Element
) -> Element | None:
    """What nothing else has found: a class of ours in a signature, or a name in a docstring."""
    target = str(node["reftarget"])
    if node.get("refdomain") == "fsm" and not node.get("refwarn"):
        return _python_object(app, env, node, content, target) or content
    if node.get("refdomain") == "py" and node.get("reftype") in ("class", "obj", "exc"):
        domain = env.domains["fsm"]
        assert isinstance(domain, FsmDomain)
        # A helper class, or the module that really has it, may stand before the name.
        name = target.rpartition(".")[2]
        for kind in ("gclass", "event"):
            if name and domain.find(kind, name, None):
                return domain.resolve_xref(
                    env, node["refdoc"], app.builder, kind, name, node, content
                )
    return None


def _python_object(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: Element, target: str
) -> Element | None:
    """What autodoc has documented under a name that a docstring mentions, if it is one thing."""
    if not (target.isidentifier() and ("_" in target or target[0].isupper())):
        # `path` and `start` are words of many meanings.
        return None
    domain = env.domains["py"]
    # Not the names that it is known by as well.
    matches = domain.find_obj(env, "", "", target, None, 1)
    found = [entry for _, entry in matches if not entry.aliased]
    if len(found) != 1:
        return None
    entry = found[0]
    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, content)


def _add_style(app: Sphinx) -> None:
    app.config.html_static_path.append(str(STATIC))
