"""A page of HTML, as a test reads it."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

__all__ = ["Mentions", "Page"]


_NAME = re.compile(r"(?<!\w)_?(?:EV|ST)_\w+")


class Mentions(HTMLParser):
    """The events and states that the pictures, the cells and the code of a page speak of."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, str, str]] = []
        """The name, where its link leads, and the words that it stands in."""
        self._open: list[str] = []
        self._links: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("a", "code", "pre", "svg", "td", "title"):
            self._open.append(tag)
        if tag == "a":
            self._links.append(dict(attrs).get("href") or "")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            assert self._open.pop() == tag
        if tag == "a":
            self._links.pop()

    def handle_data(self, data: str) -> None:
        # A title within a picture is what comes up over it. A block of code is nobody's mention.
        if {"svg", "td", "code"}.isdisjoint(self._open) or {"title", "pre"} & set(self._open):
            return
        link = self._links[-1] if self._links else ""
        self.found += [(name, link, data) for name in _NAME.findall(data)]


class Page(HTMLParser):
    """The anchors, the links and the tables of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: dict[str, str] = {}
        """By their words, the first one of each."""
        self.targets: set[str] = set()
        """Whatever it refers to, pictures and style sheets as well."""
        self.tables: list[list[list[str]]] = []
        self.text = ""
        self._link: str | None = None
        self._words = ""
        self._cell = False
        self.html = path.read_text()
        self.feed(self.html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if given.get("id"):
            self.ids.append(str(given["id"]))
        self.targets |= {str(given[name]) for name in ("href", "src") if given.get(name)}
        if tag == "a":
            self._link = given.get("href")
            self._words = ""
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag == "a":
            self.links.setdefault(self._words.strip(), self._link or "")
        if tag in ("td", "th"):
            self._cell = False

    def handle_data(self, data: str) -> None:
        self.text += data
        self._words += data
        if self._cell:
            self.tables[-1][-1][-1] += data.strip("\n")

    def table(self, *head: str) -> list[list[str]]:
        """The rows of the first table with these words at its head."""
        return next(rows[1:] for rows in self.tables if tuple(rows[0]) == head)
