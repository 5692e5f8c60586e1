"""Rows of the tables that nothing else reaches: what is said in an unusual state.

`make test` counts the rows of `GSock`, `GServerSock` and `GTimer` in CI, and each must have fired.
"""

import errno
import itertools
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import certificates
from conftest import RunAsync
from ginsfsm import NOT_ACCEPTED, Event
from ginsfsm.c_sock import (
    EV_CONNECT,
    EV_CONNECTED,
    EV_FLUSH_OUTPUT_DATA,
    EV_PAUSE_RX,
    EV_RESUME_RX,
    EV_SEND_DATA,
    EV_SEND_FRAME,
    EV_WRITE_OUTPUT_DATA,
)
from ginsfsm.c_srv_sock import (
    EV_DRAIN,
    EV_PAUSE_ACCEPT,
    EV_RELOAD_TLS,
    EV_RESUME_ACCEPT,
    GServerSock,
)
from ginsfsm.srv.events import EV_LOOK
from ginsfsm.testing import ManualGAplic
from secure import TlsPeer, client_options, make_secure_owner, server_context
from servers import Keeper, connect, serve, until
from sockets import accept, client_of, gaplic, listener, turns, wait_for

# -- a client that has not been told of its connection yet -----------------------------------------


@pytest.mark.parametrize(
    "event",
    [
        EV_SEND_DATA(b"x"),
        EV_SEND_FRAME(b"x"),
        EV_WRITE_OUTPUT_DATA(b"x"),
        EV_FLUSH_OUTPUT_DATA(),
        EV_PAUSE_RX(),
        EV_RESUME_RX(),
    ],
    ids=lambda event: type(event).__name__,
)
def test_what_an_owner_says_in_the_handshake_before_ev_connected_does_nothing(
    run_async: RunAsync, event: Event
) -> None:
    async def work() -> None:
        async with gaplic() as app:
            owner = make_secure_owner(app)
            with listener() as listening:
                gsock = client_of(owner, listening, ssl_options=client_options())
                owner.tell(gsock, EV_CONNECT())
                raw = await accept(listening)
            with TlsPeer(raw, server_context(), server_side=True) as peer:
                await wait_for(lambda: gsock.state == "ST_HANDSHAKE")
                assert owner.tell(gsock, event) is NOT_ACCEPTED
                # A loop over all children cannot know how far each is: no mistake is counted.
                assert app.refused_events == 0
                await peer.shake()
                await wait_for(lambda: owner.of(EV_CONNECTED))
                # Nothing was kept of it: this is the first byte, and receiving goes on.
                owner.tell(gsock, EV_SEND_DATA(b"hello"))
                assert await peer.read(5) == b"hello"
                await peer.send(b"hello yourself")
                await wait_for(lambda: owner.received() == b"hello yourself")

    run_async(work)


# -- a server in each of its states ----------------------------------------------------------------


class NoRoom:
    """A listening socket whose accept fails as in a process without free descriptors."""

    def __init__(self, sock: Any) -> None:
        self.sock = sock

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sock, name)

    def _accept(self) -> Any:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


class Scene(NamedTuple):
    """A server in some state; its time stands still."""

    app: ManualGAplic
    keeper: Keeper
    server: GServerSock


PARAMETERS: dict[str, dict[str, Any]] = {
    "ST_LISTENING": {},
    "ST_NO_ROOM": {},
    "ST_FULL": {"max_connections": 1},
    "ST_THROTTLED": {"accept_rate": 0.001, "accept_burst": 1},
    "ST_PAUSED": {},
    "ST_DRAINING": {},
    "ST_CLOSED": {},
}


@asynccontextmanager
async def server_in(state: str, **parameters: Any) -> AsyncIterator[Scene]:
    with ExitStack() as clients:
        async with ManualGAplic() as app:
            keeper = app.create_gobj("keeper", Keeper, app)
            server = serve(keeper, **PARAMETERS[state], **parameters)
            if state == "ST_NO_ROOM":
                (one,) = server._listeners
                one.sock = NoRoom(one.sock)  # type: ignore[assignment]
                clients.enter_context(connect(server))
            elif state in ("ST_FULL", "ST_THROTTLED"):
                clients.enter_context(connect(server))
                clients.enter_context(connect(server))
            elif state == "ST_PAUSED":
                app.send_event(server, EV_PAUSE_ACCEPT())
            elif state == "ST_DRAINING":
                clients.enter_context(connect(server))
                await until(lambda: len(server.ledger))
                app.send_event(server, EV_DRAIN(60))
            elif state == "ST_CLOSED":
                app.send_event(server, EV_DRAIN())
            await until(lambda: server.state == state, state)
            yield Scene(app, keeper, server)
            clients.close()
            await until(lambda: not len(server.ledger))


@pytest.mark.parametrize(
    ("state", "event", "then"),
    [
        ("ST_NO_ROOM", EV_RESUME_ACCEPT(), "ST_NO_ROOM"),
        ("ST_FULL", EV_RESUME_ACCEPT(), "ST_FULL"),
        ("ST_THROTTLED", EV_RESUME_ACCEPT(), "ST_THROTTLED"),
        ("ST_THROTTLED", EV_PAUSE_ACCEPT(), "ST_PAUSED"),
        ("ST_DRAINING", EV_PAUSE_ACCEPT(), "ST_DRAINING"),
        ("ST_DRAINING", EV_RESUME_ACCEPT(), "ST_DRAINING"),
        ("ST_CLOSED", EV_PAUSE_ACCEPT(), "ST_CLOSED"),
        ("ST_CLOSED", EV_RESUME_ACCEPT(), "ST_CLOSED"),
        ("ST_CLOSED", EV_DRAIN(), "ST_CLOSED"),
    ],
    ids=lambda one: one if isinstance(one, str) else type(one).__name__,
)
def test_pause_and_resume_where_nobody_is_accepted_anyway(
    run_async: RunAsync, state: str, event: Event, then: str
) -> None:
    async def work() -> None:
        async with server_in(state) as (app, _keeper, server):
            inside = len(server.ledger)
            assert app.send_event(server, event) is not NOT_ACCEPTED
            assert server.state == then
            await turns()
            assert server.state == then
            assert len(server.ledger) == inside

    run_async(work)


def test_a_pause_while_the_rate_holds_up_those_who_wait(run_async: RunAsync) -> None:
    async def work() -> None:
        async with server_in("ST_THROTTLED") as (app, keeper, server):
            app.send_event(server, EV_PAUSE_ACCEPT())
            # The next token comes in the pause, and changes nothing.
            app.advance(2000)
            await turns()
            assert server.state == "ST_PAUSED"
            assert len(keeper.gsocks) == 1
            app.send_event(server, EV_RESUME_ACCEPT())
            await until(lambda: len(keeper.gsocks) == 2)

    run_async(work)


_numbers = itertools.count()


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    """A certificate's file that the test may change."""
    path = tmp_path / "server.pem"
    shutil.copy(certificates.server(), path)
    return path


def renew(path: Path) -> None:
    fresh = path.with_suffix(f".{next(_numbers)}")
    shutil.copy(certificates.renewed(), fresh)
    os.replace(fresh, path)


def by_event(app: ManualGAplic, server: GServerSock) -> None:
    assert app.send_event(server, EV_RELOAD_TLS()) is True


def by_watching(app: ManualGAplic, server: GServerSock) -> None:
    # Less than the pause of ST_NO_ROOM, or the state would be another one.
    app.advance(0.05)
    app.record.sent(EV_LOOK, to=server)


@pytest.mark.parametrize("way", [by_event, by_watching])
@pytest.mark.parametrize("state", [one for one in PARAMETERS if one != "ST_CLOSED"])
def test_certificates_change_in_every_state(
    run_async: RunAsync,
    state: str,
    way: Callable[[ManualGAplic, GServerSock], None],
    chain: Path,
) -> None:
    async def work() -> None:
        async with server_in(
            state, ssl_options={"certfile": str(chain)}, watch_certificates=0.05
        ) as (app, _keeper, server):
            assert server._tls_source is not None
            before = server._tls_source.tls
            renew(chain)
            way(app, server)
            assert server.state == state
            assert server._tls_source.tls is not before

    run_async(work)


def test_a_server_that_is_closed_reads_no_certificate_again(
    run_async: RunAsync, chain: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        async with server_in(
            "ST_CLOSED", ssl_options={"certfile": str(chain)}, watch_certificates=0.05
        ) as (app, _keeper, server):
            assert server._tls_source is not None
            before = server._tls_source.tls
            chain.write_bytes(b"no certificate")
            assert app.send_event(server, EV_RELOAD_TLS()) is None
            app.advance(0.05)
            app.record.sent(EV_LOOK, to=server)
            assert server._tls_source.tls is before

    run_async(work)
    assert not [one for one in caplog.records if "reloaded" in one.getMessage()]


# -- what holds this -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "counts"),
    [
        (("CI=true",), True),
        (("CI=true", "ARGS=-k something"), False),
        (("CI=",), False),
        (("CI=0",), False),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, tuple) else None,
)
def test_make_test_counts_the_rows_in_ci(
    require_program: Callable[[str], str], words: tuple[str, ...], counts: bool
) -> None:
    command = [require_program("make"), "--dry-run", "test", *words]
    environment = {"PATH": os.environ["PATH"]}
    folder = Path(__file__).parent.parent
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    (line,) = [line for line in done.stdout.splitlines() if " -m pytest" in line]
    wanted = [
        "--fsm-cov=ginsfsm.c_timer", "--fsm-cov=ginsfsm.c_sock", "--fsm-cov=ginsfsm.c_srv_sock",
        "--fsm-cov-fail-under=100",
    ]  # fmt: skip
    assert [word for word in line.split() if word.startswith("--fsm-cov")] == wanted * counts
