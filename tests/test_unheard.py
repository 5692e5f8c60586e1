"""A framing that its owner never hears of: an error for a server, a warning for a client."""

import logging
from collections.abc import Sequence
from typing import Any

import pytest

from conftest import RunAsync
from ginsfsm import Event, GAplic, GConfigError, GObj, on
from ginsfsm.c_sock import (
    EV_CONNECT,
    EV_CONNECTED,
    EV_DISCONNECTED,
    EV_RX_DATA,
    EV_RX_FRAME,
    GSock,
)
from ginsfsm.c_srv_sock import GServerSock
from servers import connect, until, write
from sockets import accept, gaplic, listener


class Hearing(GObj):
    """Keeps what it hears."""

    def start_up(self) -> None:
        self.heard: list[Event] = []

    def ac_keep(self, event: Event) -> None:
        self.heard.append(event)


class Bytes(Hearing):
    machine = {
        "ST_IDLE": [on(EV_CONNECTED, None, "ST_OTHER")],
        "ST_OTHER": [on(EV_RX_DATA, Hearing.ac_keep)],
    }


class Frames(Hearing):
    machine = {
        "ST_IDLE": [on(EV_CONNECTED, None), on(EV_RX_FRAME, Hearing.ac_keep)],
    }


class Both(Hearing):
    machine = {
        "ST_IDLE": [on(EV_RX_DATA, Hearing.ac_keep, "ST_FRAMED")],
        "ST_FRAMED": [on(EV_RX_FRAME, Hearing.ac_keep)],
    }


class Greeter(Hearing):
    machine = {"ST_IDLE": [on(EV_CONNECTED, None), on(EV_DISCONNECTED, None)]}


class Upper:
    def __init__(self, max_frame: int) -> None:
        self.max_frame = max_frame

    def split(self, data: bytes) -> list[bytes]:
        return [data.upper()]

    def wrap(self, frame: bytes) -> bytes:
        return frame

    def rest(self) -> bytes:
        return b""


WRONG: Sequence[Any] = [
    pytest.param(
        Frames,
        "",
        "has EV_RX_FRAME, but there is no framing, so EV_RX_DATA comes instead, and would be "
        'lost; give framing="lines" or another one, or take EV_RX_DATA',
        id="frames, no framing",
    ),
    *(
        pytest.param(
            Bytes,
            framing,
            "has EV_RX_DATA, but with a framing EV_RX_FRAME comes instead, and would be lost; "
            "take EV_RX_FRAME, or give no framing",
            id=f"bytes, {name}",
        )
        for name, framing in (("lines", "lines"), ("NUL", b"\0"), ("size", 5), ("own", Upper))
    ),
]

RIGHT: Sequence[Any] = [
    pytest.param(Frames, "lines", id="frames"),
    pytest.param(Bytes, "", id="bytes"),
    pytest.param(Both, "", id="both, no framing"),
    pytest.param(Both, "lines", id="both, framing"),
    pytest.param(Greeter, "", id="none, no framing"),
    pytest.param(Greeter, "lines", id="none, framing"),
]


@pytest.fixture
def app() -> GAplic:
    return gaplic()


def serve(app: GAplic, gclass: type[GObj], as_session: bool, **parameters: Any) -> GServerSock:
    """A server whose connections are heard by a gobj of that gclass."""
    parameters |= {"host": "127.0.0.1"}
    if as_session:
        return app.create_gobj("server", GServerSock, app, session=gclass, **parameters)
    owner = app.create_gobj("owner", gclass, app)
    return app.create_gobj("server", GServerSock, app, subscriber=owner, **parameters)


class_or_session = pytest.mark.parametrize("as_session", [False, True], ids=["owner", "session"])


class TestServer:
    @class_or_session
    @pytest.mark.parametrize(("gclass", "framing", "told"), WRONG)
    def test_it_is_not_made(
        self, gclass: type[GObj], framing: Any, told: str, as_session: bool, app: GAplic
    ) -> None:
        with pytest.raises(GConfigError) as caught:
            serve(app, gclass, as_session, framing=framing)
        name = gclass.__name__
        who = f"its session {name}" if as_session else f"its subscriber app/owner ({name})"
        assert str(caught.value) == f"app/server: framing: {who} {told}"
        assert "server" not in app.children

    @class_or_session
    @pytest.mark.parametrize(("gclass", "framing"), RIGHT)
    def test_it_is_made(
        self, gclass: type[GObj], framing: Any, as_session: bool, app: GAplic
    ) -> None:
        server = serve(app, gclass, as_session, framing=framing)
        assert server.state == "ST_LISTENING"
        app.destroy_gobj(app)

    def test_settings_may_take_the_framing_away(self) -> None:
        app = GAplic("app", {"server": {"framing": ""}})
        with pytest.raises(GConfigError, match="has EV_RX_FRAME, but there is no framing"):
            serve(app, Frames, True, framing="lines")

    def test_what_settings_say_of_the_connections_counts(self) -> None:
        app = GAplic("app", {"GSock": {"framing": "lines"}})
        serve(app, Frames, True)
        app.destroy_gobj(app)
        app = GAplic("app", {"GSock": {"framing": "lines"}})
        with pytest.raises(GConfigError, match="has EV_RX_DATA, but with a framing"):
            serve(app, Bytes, True)

    def test_with_start_tls_it_may_still_change(self, app: GAplic) -> None:
        serve(app, Frames, True, start_tls=True)
        app.destroy_gobj(app)

    def test_what_is_written_later(self, app: GAplic) -> None:
        server = serve(app, Frames, True, framing="lines")
        server.write_parameters(framing="netstrings", idle_timeout=5.0)
        with pytest.raises(GConfigError, match="session Frames has EV_RX_FRAME, but there is no"):
            server.write_parameters(framing="", idle_timeout=7.0)
        assert (server.config.framing, server.config.idle_timeout) == ("netstrings", 5.0)
        server.write_parameters(framing="", start_tls=True)
        with pytest.raises(GConfigError, match="session Frames has EV_RX_FRAME, but there is no"):
            server.write_parameters(start_tls=False)
        app.destroy_gobj(app)

    def test_it_hears_what_comes(self, run_async: RunAsync) -> None:
        async def main() -> None:
            async with gaplic() as app:
                server = serve(app, Frames, False, framing="lines")
                with connect(server) as client:
                    await write(client, b"a line\n")
                    owner = app.children["owner"]
                    assert isinstance(owner, Frames)
                    await until(lambda: owner.heard)
                    assert owner.heard == [EV_RX_FRAME(b"a line")]

        run_async(main)


class TestClient:
    """What it is for is not known as well: its owner's rows may be for others."""

    def connect(self, run_async: RunAsync, gclass: type[GObj], **parameters: Any) -> None:
        async def main() -> None:
            async with gaplic() as app:
                owner = app.create_gobj("owner", gclass, app)
                with listener() as listening:
                    host, port = listening.getsockname()
                    gsock = owner.create_gobj(
                        "gsock", GSock, owner, host=host, port=port, **parameters
                    )
                    owner.send_event(gsock, EV_CONNECT())
                    with (await accept(listening)).sock:
                        await until(lambda: gsock.state == "ST_CONNECTED")

        run_async(main)

    @pytest.mark.parametrize(("gclass", "framing", "told"), WRONG)
    def test_it_is_told(
        self,
        gclass: type[GObj],
        framing: Any,
        told: str,
        run_async: RunAsync,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        self.connect(run_async, gclass, framing=framing)
        assert warnings(caplog) == [
            f"app/owner/gsock: framing: its subscriber app/owner ({gclass.__name__}) {told}"
        ]

    @pytest.mark.parametrize(("gclass", "framing"), RIGHT)
    def test_nothing_is_told(
        self,
        gclass: type[GObj],
        framing: Any,
        run_async: RunAsync,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        self.connect(run_async, gclass, framing=framing)
        assert warnings(caplog) == []

    def test_nothing_is_told_where_the_framing_may_change(
        self, run_async: RunAsync, caplog: pytest.LogCaptureFixture
    ) -> None:
        self.connect(run_async, Frames, start_tls=True)
        assert warnings(caplog) == []

    def test_nothing_is_told_where_another_one_hears(
        self, run_async: RunAsync, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Shared(Frames):
            def start_up(self) -> None:
                super().start_up()
                self.other = self.create_gobj("other", Bytes, self)

            def create_gobj(self, *args: Any, **named: Any) -> Any:
                made = super().create_gobj(*args, **named)
                if isinstance(made, GSock):
                    made.subscribe_event(EV_RX_DATA, self.other)
                return made

        self.connect(run_async, Shared)
        assert warnings(caplog) == []


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
