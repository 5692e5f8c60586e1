"""The documentation builds without a warning, and every link in it leads somewhere."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from pages import Mentions, Page

pytest.importorskip("furo")
pytest.importorskip("myst_parser")

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture(scope="module")
def built(run_folder: Path) -> Path:
    """The pages; built by the first process of the test run that wants them."""
    out = run_folder / "docs"
    with (run_folder / "docs.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (out / "html").is_dir():
            build(out)
    return out / "html"


def build(out: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-b", "html", "-W", "--keep-going", "-q", "-N",
         "-d", str(out / "doctrees"), str(DOCS), str(out / "unchecked")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (out / "unchecked").rename(out / "html")


def test_every_local_link_leads_somewhere(built: Path) -> None:
    pages = {page: Page(page) for page in built.glob("**/*.html")}
    assert len(pages) > 15
    wrong: list[str] = []
    for page, one in pages.items():
        for link in one.targets:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if not target.exists():
                wrong.append(f"{page.relative_to(built)}: {link}: no such file")
            elif target in pages and parts.fragment:
                if unquote(parts.fragment) in pages[target].ids:
                    continue
                wrong.append(f"{page.relative_to(built)}: {link}: no such anchor")
    assert not wrong


def test_no_page_has_two_anchors_of_one_name(built: Path) -> None:
    for page in (built / "reference").glob("*.html"):
        ids = [one for one in Page(page).ids if not one.startswith(("svg-", "index-"))]
        twice = {one for one in ids if ids.count(one) > 1}
        assert not twice, page.name


def test_every_event_and_state_links_to_its_description(built: Path) -> None:
    """Wherever a reference page names one in a picture, a table or code."""
    pages = {page: Page(page) for page in (built / "reference").glob("*.html")}
    places = {one for page in pages.values() for one in page.ids if one.startswith("ginsfsm.")}
    known = {one.rpartition(".")[2] for one in places}
    counted: dict[str, int] = {}
    wrong: list[str] = []
    for page, one in pages.items():
        has_gclass = not places.isdisjoint(one.ids)
        for name, link, words in Mentions(one.html).found:
            if name not in known or "`" in words:
                # An example's, or an example of how to write a link.
                continue
            if name.startswith("ST_") and not has_gclass:
                # Whose state it is cannot be said.
                continue
            counted[page.stem] = counted.get(page.stem, 0) + 1
            if link.rpartition("#")[2] not in places or not link.endswith(f".{name}"):
                wrong.append(f"{page.name}: {name} in {words!r}: {link or 'no link'}")
    assert not wrong
    assert counted["c_sock"] > 200, counted
    assert counted["c_srv_sock"] > 100, counted
    assert {"c_timer", "index", "testing"} <= counted.keys()


@pytest.mark.parametrize(
    ("page", "gclass"),
    [
        ("c_sock", "ginsfsm.c_sock.GSock"),
        ("c_srv_sock", "ginsfsm.c_srv_sock.GServerSock"),
        ("c_timer", "ginsfsm.c_timer.GTimer"),
    ],
)
def test_the_page_of_a_gclass_has_a_place_for_all_that_it_has(
    built: Path, page: str, gclass: str
) -> None:
    import importlib

    module, _, name = gclass.rpartition(".")
    cls = getattr(importlib.import_module(module), name)
    ids = set(Page(built / "reference" / f"{page}.html").ids)
    wanted = {
        *(name for name, *_ in cls.config.table()),
        *cls.compiled.states,
        *cls.compiled.events,
        *(event.__name__ for event in cls.outputs),
    }
    assert {f"{gclass}.{one}" for one in wanted} <= ids


def test_the_page_of_the_server_has_what_the_seed_has(built: Path) -> None:
    """The table "Configurable Parameters" of the page that this project makes true, and more."""
    page = Page(built / "reference" / "c_srv_sock.html")
    rows = page.table("Name", "Type", "Default value", "Description")
    seed = {
        ("ports", "tuple", "()"),
        ("subscriber", "None", "None"),
        ("host", "str", "''"),
        ("use_multi_ports", "bool", "False"),
        ("n_gsocks", "int", "0"),
        ("port", "int", "0"),
        ("ssl_options", "dict", "{}"),
    }
    assert seed <= {tuple(row[:3]) for row in rows}
    text = re.sub(r" ([.,])", r"\1", " ".join(page.text.split()))
    for words in (
        "a new GSock. That gsock is a child of the subscriber",
        "The subscriber is the parent of the server, unless",
        "Once EV_CONNECTED has been sent, the server has nothing more to do with that connection",
        "Destroy the gsock, with destroy_gobj(), when it is disconnected",
        "event.peername the address at the other end, event.sockname our own",
        "front.clisrv_1",
        "certfile and keyfile",
        "ssl.wrap_socket",
        "the parent is subscribed to all output events; then the socket listens at host and port",
    ):
        assert words in text, words
