"""Picture: the drawing of a gclass on a page.

In HTML it is an SVG within the page, so that it takes the colours of the page, light or dark, and
the names of states and events in it are links. Without Graphviz, and in every other format, it is
the picture for terminals.
"""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from docutils import nodes
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging

from ginsfsm.draw import dot
from ginsfsm.draw.form import View, draw
from ginsfsm.draw.graphviz import GraphvizError, find_dot

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sphinx.writers.html5 import HTML5Translator

    from ginsfsm.gobj import GObj

__all__ = ["WAYS", "Picture", "PictureAsText", "depart_picture", "picture", "visit_picture"]

logger: Final = logging.getLogger(__name__)

WAYS: Final = ("auto", "svg", "mermaid", "text")
"""What `fsm_diagram` may be."""

COLOURS: Final = {
    dot.INK: "ink",
    dot.QUIET: "quiet",
    dot.RIM: "rim",
    dot.HEAD: "head",
    dot.PAPER: "paper",
    dot.ALARM: "alarm",
}
"""What the style sheet calls the colours of a drawing."""

SMALLEST: Final = 0.7
"""How much a drawing may shrink to fit the page; one that is still wider is moved sideways."""

_COLOUR: Final = re.compile(r'(fill|stroke)="(#[0-9a-f]{6})"')
_SIZE: Final = re.compile(r'<svg width="([0-9.]+)pt" height="[0-9.]+pt"')
_TEXT: Final = re.compile(r"<text\b[^>]*>([^<]*)</text>")


class Picture(nodes.General, nodes.Element):
    """A drawing. `svg` or `mermaid` is for HTML, `text` for everything else."""


def picture(gclass: type[GObj], view: View, way: str, places: Mapping[str, str]) -> Picture:
    """The drawing of a gclass.

    Args:
        gclass: what to draw.
        view: the machine or the interface.
        way: one of `WAYS`.
        places: the anchors of the states and events that it may name, on the same page.
    """
    made = Picture("", view=view, alt=f"The {view} of {gclass.__name__}", svg="", mermaid="")
    made["text"] = draw(gclass, "text", view=view)
    if way == "mermaid":
        made["mermaid"] = draw(gclass, "mermaid", view=view)
    elif way == "svg" or (way == "auto" and find_dot() is not None):
        try:
            made["alone"] = draw(gclass, "svg", view=view)
            made["svg"] = _for_page(made["alone"], places)
            made["file"] = f"{gclass.__module__}.{gclass.__qualname__}-{view}.svg"
        except GraphvizError as error:
            logger.warning("gclass %s: %s", gclass.__qualname__, error, type="fsm")
    return made


def _for_page(svg: str, places: Mapping[str, str]) -> str:
    """The drawing as a part of a page: its colours and its width are the page's, names are links.

    The letters are of 11 pixels then, not points.
    """

    def link(found: re.Match[str]) -> str:
        text = html.unescape(found[1])
        # The name of a state may be several words.
        names = [text.strip(), *re.findall(r"\w+", text)]
        place = next((places[name] for name in names if name in places), None)
        return found[0] if place is None else f'<a href="#{html.escape(place)}">{found[0]}</a>'

    def colour(found: re.Match[str]) -> str:
        name = COLOURS.get(found[2])
        return f'{found[1]}="var(--fsm-{name}, {found[2]})"' if name else found[0]

    def size(found: re.Match[str]) -> str:
        width = float(found[1])
        return f'<svg style="max-width:{width:g}px;min-width:{SMALLEST * width:g}px"'

    svg = svg[svg.index("<svg") :]
    # Two drawings on a page must not have anchors of one name.
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    # The script of Sphinx that marks the words of a search asks what it marks for its place. A
    # title has none; the script would end there and mark nothing more.
    svg = svg.replace("<title>", '<title class="nohighlight">')
    return _TEXT.sub(link, _COLOUR.sub(colour, _SIZE.sub(size, svg, count=1)))


class PictureAsText(SphinxPostTransform):
    """Puts the picture for terminals in the place of the one that a format cannot show."""

    default_priority = 200

    def run(self, **options: Any) -> None:
        """See `SphinxPostTransform`."""
        for one in list(self.document.findall(Picture)):
            if self.app.builder.format != "html" or not (one["svg"] or one["mermaid"]):
                text = one["text"].rstrip("\n")
                block = nodes.literal_block(text, text, language="none", classes=["fsm-picture"])
                one.replace_self(block)


def visit_picture(self: HTML5Translator, node: Picture) -> None:
    """Write the drawing into the page."""
    alt = html.escape(node["alt"])
    if node["mermaid"]:
        self.body.append(f'<pre class="mermaid fsm-picture">{html.escape(node["mermaid"])}</pre>\n')
    else:
        self.body.append(
            f'<div class="fsm-picture fsm-{node["view"]}" role="group" aria-label="{alt}" '
            f'tabindex="0">\n{node["svg"]}</div>\n'
        )
        folder = Path(self.builder.outdir) / self.builder.imagedir
        folder.mkdir(exist_ok=True)
        (folder / node["file"]).write_text(node["alone"], encoding="utf-8")
        self.body.append(
            f'<p class="fsm-alone"><a href="{self.builder.imgpath}/{node["file"]}">'
            "The picture alone</a></p>\n"
        )
    raise nodes.SkipNode


def depart_picture(self: HTML5Translator, node: Picture) -> None:
    """Nothing: the visit writes all."""
