"""Drawings of a gclass, made from its compiled table, so that they cannot lie."""

from ginsfsm.draw.diagram import Arrow, Box, Diagram, Line, diagram_of
from ginsfsm.draw.form import FORMATS, VIEWS, draw, draw_as_text
from ginsfsm.draw.graphviz import GraphvizError

__all__ = [
    "FORMATS",
    "VIEWS",
    "Arrow",
    "Box",
    "Diagram",
    "GraphvizError",
    "Line",
    "diagram_of",
    "draw",
    "draw_as_text",
]
