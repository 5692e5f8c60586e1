"""A page of HTML, as a test reads it."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

__all__ = ["Page"]


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
