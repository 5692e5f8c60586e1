"""Every log call says in `extra` what it is about, in one vocabulary, and the docs list it."""

from __future__ import annotations

import ast
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import RunAsync
from ginsfsm import GAplic, GObj, on
from ginsfsm.c_sock import (
    EV_CONNECT,
    EV_CONNECTED,
    EV_DISCONNECTED,
    EV_DROP,
    EV_RX_DATA,
    GSock,
    Reason,
)
from ginsfsm.logs import FIELDS, about
from ginsfsm.net.addresses import format_address
from servers import Keeper, connect, read_to_end, serve, until, write

ROOT = Path(__file__).parent.parent.parent
SRC = ROOT / "src" / "ginsfsm"

LEVELS = {"debug", "info", "warning", "error", "exception", "critical", "log"}


def log_calls(path: Path) -> Iterator[ast.Call]:
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in LEVELS
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id in {"logger", "logging"}
        ):
            yield node


MODULES = sorted(
    path.relative_to(SRC)
    for path in SRC.glob("**/*.py")
    # What the Sphinx extension says goes through Sphinx's own loggers, to whoever builds the pages.
    if "from sphinx.util import logging" not in path.read_text() and any(log_calls(path))
)


def test_there_are_log_calls_to_look_at() -> None:
    assert len(MODULES) > 10


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_every_log_call_has_its_fields(module: Path) -> None:
    faults = []
    for call in log_calls(SRC / module):
        (extra,) = [one.value for one in call.keywords if one.arg == "extra"] or [None]
        if not isinstance(extra, ast.Call) or ast.unparse(extra.func) not in {"about", "_about"}:
            faults.append(f"line {call.lineno}: no extra=about(...)")
            continue
        faults += [
            f"line {call.lineno}: {one.arg!r} is not in FIELDS"
            for one in extra.keywords
            if one.arg not in FIELDS
        ]
    assert not faults


def test_the_page_lists_the_fields() -> None:
    page = (ROOT / "docs" / "operation.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|$", page, re.MULTILINE))
    assert {name: rows.get(name) for name in FIELDS} == FIELDS


class Faulty(GObj):
    """Fails on whatever comes, and keeps a connection that has ended."""

    def ac_fail(self, _event: EV_RX_DATA) -> None:
        raise ValueError("no")

    machine = {
        "ST_IDLE": [
            on(EV_CONNECTED, None),
            on(EV_RX_DATA, ac_fail),
            on(EV_DISCONNECTED, None),
        ],
    }


def test_of_an_exception_on_a_connection_the_peer_is_told(
    run_async: RunAsync, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> str:
        async with GAplic("app") as app:
            server = serve(app.create_gobj("owner", Faulty, app))
            with connect(server) as client:
                await write(client, b"x")
                assert await read_to_end(client) == b""
                return format_address(client.getsockname())

    peer = run_async(main)
    (told,) = [one for one in caplog.records if one.levelname == "ERROR"]
    assert vars(told)["path"] == "app/owner"
    assert vars(told)["source"] == "app/owner/server.clisrv_1"
    assert vars(told)["peer"] == peer


def test_a_client_that_cannot_connect_again_has_no_peer(
    run_async: RunAsync, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with GAplic("app") as app:
            owner = app.create_gobj("owner", Faulty, app)
            server = serve(app.create_gobj("other", Keeper, app))
            gsock = owner.create_gobj(
                "gsock", GSock, owner, host="127.0.0.1", port=server.config.port
            )
            app.send_event(gsock, EV_CONNECT())
            await until(lambda: gsock.state == "ST_CONNECTED")
            app.send_event(gsock, EV_DROP())
            await until(lambda: gsock.state == "ST_DISCONNECTED")
            assert gsock.peername is not None
            app.destroy_gobj(server)
            app.send_event(gsock, EV_CONNECT())
            await until(lambda: gsock.state == "ST_DISCONNECTED")

    with caplog.at_level(logging.INFO, "ginsfsm"):
        run_async(main)
    (told,) = [one for one in caplog.records if "no connection to" in one.getMessage()]
    assert not hasattr(told, "peer")


class Plain(GObj):
    machine = {"ST_IDLE": []}


def test_what_is_known_is_said_and_nothing_else() -> None:
    app = GAplic("app")
    gobj = app.create_gobj("one", Plain, app)
    assert about() == {}
    assert about(gobj) == {"path": "app/one", "gclass": "Plain", "state": "ST_IDLE"}
    found = about(
        gobj, peer=("::1", 5, 0, 0), source=app, error=OSError(), reason=Reason.PEER, count=None
    )
    assert list(found) == ["path", "gclass", "state", "source", "peer", "error", "reason"]
    assert found["peer"] == "[::1]:5"
    assert found["source"] == "app"
    assert found["error"] == "OSError"
    assert type(found["reason"]) is str
    app.destroy_gobj(app)
