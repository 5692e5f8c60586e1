"""How Sphinx builds these pages; `make docs` does it, and warnings are errors."""

from importlib import metadata
from typing import TYPE_CHECKING

from ginsfsm import Event, GObj, inspection

if TYPE_CHECKING:
    from sphinx.application import Sphinx

# Names that the module has for type checkers only; msgspec needs them to tell the signatures.
inspection.GObj = GObj
inspection.Event = Event

project = "ginsfsm"
author = "The ginsfsm authors"
copyright = author
try:
    release = metadata.version("ginsfsm")
except metadata.PackageNotFoundError:
    release = "(not installed)"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "ginsfsm.draw.sphinxext",
]
exclude_patterns = ["_build"]

# -- links -----------------------------------------------------------------------------------------

nitpicky = True
# Python's own names stand in our signatures; to link to them would need their inventory, from the
# network. The others are type variables and names that no user imports.
nitpick_ignore_regex = [
    ("py:.*", r"(asyncio|collections|contextlib|datetime|enum|logging|os|ssl|types|typing)\..*"),
    ("py:.*", r"(Any|Callable|Coroutine|Iterator|Mapping|Sequence|Self|TracebackType|optional)"),
    ("py:.*", r"(bool|bytes|dict|float|frozenset|int|list|object|set|str|tuple|type|None)"),
    ("py:.*", r"(AssertionError|Exception|OSError|ValueError|StrEnum)"),
    ("py:.*", r"ginsfsm\.[a-z_.]+\.[A-Z]"),
    ("py:.*", r"ginsfsm\.row\.(Row|Postpone)"),
    ("py:.*", r"(msgspec\.Struct|prometheus_client\..*|socket\.socket)"),
    # Sphinx cannot take apart a signature with "<factory>" in it.
    ("py:.*", r"dict\[str"),
]
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
fsm_link_code = True

# -- docstrings ------------------------------------------------------------------------------------

# They have `names` in single backquotes.
default_role = "fsm:name"
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

# -- HTML ------------------------------------------------------------------------------------------

html_theme = "furo"
html_title = "ginsfsm"
html_copy_source = False
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["pages.css"]


# Of a property napoleon takes what stands before the first colon for its type. Properties have no
# sections, so it need not read them at all.
_before_napoleon: list[str] = []


def _keep(
    app: "Sphinx", what: str, name: str, of: object, options: object, lines: list[str]
) -> None:
    _before_napoleon[:] = lines


def _restore(
    app: "Sphinx", what: str, name: str, of: object, options: object, lines: list[str]
) -> None:
    if what == "property":
        lines[:] = _before_napoleon


def setup(app: "Sphinx") -> None:
    """Put the two around napoleon, whose priority is 500."""
    app.connect("autodoc-process-docstring", _keep, priority=400)
    app.connect("autodoc-process-docstring", _restore, priority=600)
