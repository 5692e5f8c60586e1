"""One machine per connection: `session`, and the subscriber that forgets to destroy."""

import logging
from contextlib import ExitStack
from typing import Any, ClassVar

import pytest

from conftest import RunAsync
from ginsfsm import Event, GAplic, GConfigError, GObj, GObjError, on, param
from ginsfsm.c_sock import (
    EV_CONNECTED,
    EV_DISCONNECTED,
    EV_DROP,
    EV_RX_DATA,
    EV_SEND_DATA,
    GSock,
)
from ginsfsm.c_srv_sock import EV_REFUSED, GServerSock
from secure import dial, server_options
from servers import Keeper, connect, read, read_to_end, until, write
from sockets import turns


class Parent(GObj):
    """Whose sessions they are; `heard` is what they heard, with their names."""

    def start_up(self) -> None:
        self.heard: list[tuple[str, Event]] = []

    def ac_refused(self, event: EV_REFUSED) -> None:
        self.heard.append((self.name, event))

    def kinds(self, name: str = "") -> list[str]:
        return [type(event).__name__ for who, event in self.heard if name in who]

    machine = {"ST_IDLE": [on(EV_REFUSED, ac_refused)]}


class Session(GObj):
    """Answers what comes, in upper case."""

    class config(GObj.config):
        greeting: bytes = param(b"", "sent first")
        words: list[str] = param([], "its own list")

    def keep(self, event: Event) -> None:
        assert isinstance(self.parent, Parent)
        self.parent.heard.append((self.name, event))

    def ac_connected(self, event: EV_CONNECTED) -> None:
        self.keep(event)
        assert event.source.parent is self
        if self.config.greeting:
            self.send_event(event.source, EV_SEND_DATA(self.config.greeting))

    def ac_answer(self, event: EV_RX_DATA) -> None:
        self.keep(event)
        self.config.words.append(event.data.decode())
        self.send_event(event.source, EV_SEND_DATA(event.data.upper()))

    machine = {
        "ST_IDLE": [
            on(EV_CONNECTED, ac_connected),
            on(EV_RX_DATA, ac_answer),
            on(EV_DISCONNECTED, keep),
        ],
    }


class Quiet(GObj):
    """Has a row for what comes, and for nothing else."""

    def ac_answer(self, event: EV_RX_DATA) -> None:
        self.send_event(event.source, EV_SEND_DATA(event.data.upper()))

    machine = {"ST_IDLE": [on(EV_RX_DATA, ac_answer)]}


class Broken(Session):
    """Cannot start, as often as `failures` says."""

    failures: ClassVar[int] = 0

    def start_up(self) -> None:
        if Broken.failures:
            Broken.failures -= 1
            self.fail()

    def fail(self) -> None:
        raise ZeroDivisionError("cannot start")


class Suicidal(Broken):
    """Destroys itself instead."""

    def fail(self) -> None:
        self.destroy_gobj(self)


class ShutDoor(Session):
    """Does not take its connection in the state that it is in."""

    machine = {
        "ST_SHUT": [on(EV_RX_DATA, None, "ST_IDLE")],
        "ST_IDLE": Session.machine["ST_IDLE"],
    }


@pytest.fixture
def app() -> GAplic:
    return GAplic("app")


def start(
    app: GAplic, session: type[GObj] | None = Session, name: str = "server", **parameters: Any
) -> tuple[Parent, GServerSock]:
    found = [one for one in app.children.values() if isinstance(one, Parent)]
    parent = found[0] if found else app.create_gobj("parent", Parent, app)
    server = app.create_gobj(
        name,
        GServerSock,
        app,
        **{"host": "127.0.0.1", "subscriber": parent, "session": session, **parameters},
    )
    return parent, server


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]


class TestSession:
    def test_each_connection_has_its_own(
        self, app: GAplic, run_async: RunAsync, opened: ExitStack
    ) -> None:
        parent, server = start(app)

        async def main() -> None:
            async with app:
                clients = [opened.enter_context(connect(server)) for _ in range(3)]
                await until(lambda: len(parent.children) == 3)
                assert sorted(parent.children) == [
                    "server.session_1", "server.session_2", "server.session_3",
                ]  # fmt: skip
                session = parent.children["server.session_2"]
                (gsock,) = session.children.values()
                assert type(gsock) is GSock
                assert gsock.path == "app/parent/server.session_2/server.clisrv_2"
                for number, client in enumerate(clients):
                    await write(client, b"abc"[number : number + 1])
                for number, client in enumerate(clients):
                    assert await read(client, 1) == b"ABC"[number : number + 1]
                clients[1].close()
                await until(lambda: len(parent.children) == 2)
                assert session.destroyed
                assert gsock.destroyed
                assert parent.kinds("session_2") == [
                    "EV_CONNECTED", "EV_RX_DATA", "EV_DISCONNECTED",
                ]  # fmt: skip
                assert server.config.n_gsocks == 2
                assert parent.kinds("session_1") == ["EV_CONNECTED", "EV_RX_DATA"]

        run_async(main)

    def test_without_a_row_for_the_end_it_goes_as_well(
        self, app: GAplic, run_async: RunAsync, caplog: pytest.LogCaptureFixture
    ) -> None:
        parent, server = start(app, Quiet)

        async def main() -> None:
            async with app:
                with connect(server) as client:
                    await write(client, b"abc")
                    assert await read(client, 3) == b"ABC"
                    assert len(parent.children) == 1
                await until(lambda: not parent.children)
                assert server.config.n_gsocks == 0

        run_async(main)
        assert warnings(caplog) == []

    @pytest.mark.parametrize("what", ["session", "gsock", "parent of both"])
    def test_somebody_destroys_it(
        self, what: str, app: GAplic, run_async: RunAsync, caplog: pytest.LogCaptureFixture
    ) -> None:
        parent, server = start(app)

        async def main() -> None:
            async with app:
                with connect(server) as client:
                    await until(lambda: parent.children)
                    (session,) = parent.children.values()
                    (gsock,) = session.children.values()
                    app.destroy_gobj(
                        {"session": session, "gsock": gsock, "parent of both": parent}[what]
                    )
                    assert server.config.n_gsocks == 0
                    assert await read_to_end(client) == b""
                    await until(lambda: session.destroyed and gsock.destroyed)
                    assert parent.kinds() == ["EV_CONNECTED"]
                    assert parent.children == {}
                if what == "parent of both":
                    # Nobody is left for whom one could be made.
                    with connect(server) as late:
                        assert await read_to_end(late) == b""
                    assert server.ledger.refused == 1

        run_async(main)
        assert warnings(caplog) == []

    @pytest.mark.parametrize("event", [EV_CONNECTED, EV_RX_DATA, EV_DISCONNECTED])
    @pytest.mark.parametrize("what", ["session", "gsock"])
    def test_it_destroys_itself_in_an_action(
        self, what: str, event: type[Event], app: GAplic, run_async: RunAsync,
        caplog: pytest.LogCaptureFixture,
    ) -> None:  # fmt: skip
        class Ending(Session):
            def ac_any(self, heard: Event) -> None:
                self.keep(heard)
                if type(heard) is event:
                    self.destroy_gobj(self if what == "session" else heard.source)

            machine = {
                "ST_IDLE": [
                    on(EV_CONNECTED, ac_any),
                    on(EV_RX_DATA, ac_any),
                    on(EV_DISCONNECTED, ac_any),
                ]
            }

        parent, server = start(app, Ending)

        async def main() -> None:
            async with app:
                with connect(server) as client:
                    await write(client, b"x")
                    if event is EV_DISCONNECTED:
                        await until(lambda: parent.kinds()[-1:] == ["EV_RX_DATA"])
                        client.close()
                    await until(lambda: event.__name__ in parent.kinds() and not parent.children)
                    assert server.config.n_gsocks == 0
                    await turns()
                    assert parent.kinds()[-1] == event.__name__

        run_async(main)
        assert warnings(caplog) == []

    def test_one_that_drops_hears_of_the_end(self, app: GAplic, run_async: RunAsync) -> None:
        class Greeter(Session):
            def ac_greet(self, event: EV_CONNECTED) -> None:
                self.keep(event)
                self.send_event(event.source, EV_SEND_DATA(b"hello"))
                self.send_event(event.source, EV_DROP())

            machine = {"ST_IDLE": [on(EV_CONNECTED, ac_greet), on(EV_DISCONNECTED, Session.keep)]}

        parent, server = start(app, Greeter)

        async def main() -> None:
            async with app:
                with connect(server) as client:
                    assert await read_to_end(client) == b"hello"
                await until(lambda: not parent.children)
                assert parent.kinds() == ["EV_CONNECTED", "EV_DISCONNECTED"]

        run_async(main)

    def test_one_that_raises_loses_its_connection_alone(
        self, app: GAplic, run_async: RunAsync, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Raising(Session):
            def ac_raise(self, event: EV_RX_DATA) -> None:
                if event.data == b"bad":
                    raise ZeroDivisionError("its own fault")
                self.ac_answer(event)

            machine = {"ST_IDLE": [on(EV_RX_DATA, ac_raise), on(EV_DISCONNECTED, Session.keep)]}

        parent, server = start(app, Raising)

        async def main() -> None:
            async with app:
                with connect(server) as good, connect(server) as bad:
                    await write(bad, b"bad")
                    assert await read_to_end(bad) == b""
                    await write(good, b"good")
                    assert await read(good, 4) == b"GOOD"
                    ended = [one for _, one in parent.heard if type(one) is EV_DISCONNECTED]
                    assert [one.reason for one in ended] == ["error"]
                    assert len(parent.children) == 1

        run_async(main)
        assert "its own fault" in caplog.text

    @pytest.mark.parametrize("gclass", [Broken, Suicidal])
    @pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
    def test_one_that_cannot_start(
        self, tls: bool, gclass: type[Broken], app: GAplic, run_async: RunAsync,
        opened: ExitStack, caplog: pytest.LogCaptureFixture,
    ) -> None:  # fmt: skip
        options = {"ssl_options": server_options()} if tls else {}
        parent, server = start(app, gclass, max_connections_per_ip=1, **options)

        async def main() -> None:
            async with app:
                Broken.failures = 2
                for _ in range(2):
                    with connect(server) if not tls else await dial(server) as client:
                        if tls:
                            await client.shake()
                            assert (await client.read_to_end())[0] == b""
                        else:
                            assert await read_to_end(client) == b""
                assert parent.children == {}
                assert server.config.n_gsocks == 0
                # The place of the address is free again as well, and the server serves on.
                with connect(server) if not tls else await dial(server) as client:
                    if tls:
                        await client.shake()
                    await until(lambda: parent.kinds() == ["EV_CONNECTED"])
                assert server.ledger.failed == (2 if gclass is Broken else 0)

        run_async(main)
        told = warnings(caplog)
        assert len(told) == (2 if gclass is Broken else 0)
        for one in told:
            assert one.startswith("app/server: no session could be made for 127.0.0.1:")
        if told:
            assert "cannot start" in caplog.text

    def test_a_shut_door_is_counted_and_told(self, app: GAplic, run_async: RunAsync) -> None:
        parent, server = start(app, ShutDoor)

        async def main() -> None:
            async with app:
                with connect(server) as client:
                    assert await read_to_end(client) == b""
                await until(lambda: parent.kinds() == ["EV_REFUSED"])
                assert str(parent.heard[0][1].reason) == "shut"  # type: ignore[attr-defined]
                assert parent.children == {}
                assert server.ledger.refused == 1

        run_async(main)

    def test_two_servers_with_one_subscriber(
        self, app: GAplic, run_async: RunAsync, opened: ExitStack
    ) -> None:
        parent, one = start(app, name="one")
        _, two = start(app, name="two", session_parameters={"greeting": b"two"})

        async def main() -> None:
            async with app:
                first = opened.enter_context(connect(one))
                second = opened.enter_context(connect(two))
                await until(lambda: len(parent.children) == 2)
                assert sorted(parent.children) == ["one.session_1", "two.session_1"]
                await write(first, b"one")
                assert await read(first, 3) == b"ONE"
                assert await read(second, 3) == b"two"
                app.destroy_gobj(one)
                await write(first, b"still")
                assert await read(first, 5) == b"STILL"

        run_async(main)

    def test_two_servers_of_one_name_with_one_subscriber(
        self, app: GAplic, run_async: RunAsync, opened: ExitStack
    ) -> None:
        parent, one = start(app)
        holder = app.create_gobj("holder", Keeper, app)
        two = holder.create_gobj(
            "server", GServerSock, holder, host="127.0.0.1", subscriber=parent, session=Session
        )

        async def main() -> None:
            async with app:
                for server in (one, two):
                    client = opened.enter_context(connect(server))
                    await write(client, b"x")
                    assert await read(client, 1) == b"X"
                assert len(parent.children) == 2

        run_async(main)

    def test_the_next_server_goes_on_with_free_names(
        self, app: GAplic, run_async: RunAsync, opened: ExitStack
    ) -> None:
        # The first one is gone and its connection is not: the second one counts from 1 again.
        parent, one = start(app)

        async def main() -> None:
            async with app:
                opened.enter_context(connect(one))
                await until(lambda: parent.children)
                app.destroy_gobj(one)
                _, two = start(app)
                client = opened.enter_context(connect(two))
                await write(client, b"x")
                assert await read(client, 1) == b"X"
                assert len(parent.children) == 2

        run_async(main)


class TestParameters:
    def test_they_are_each_ones_own(
        self, app: GAplic, run_async: RunAsync, opened: ExitStack
    ) -> None:
        parent, server = start(app, session_parameters={"greeting": b"hello", "words": ["first"]})

        async def main() -> None:
            async with app:
                for number in range(2):
                    client = opened.enter_context(connect(server))
                    assert await read(client, 5) == b"hello"
                    await write(client, b"%d" % number)
                    await read(client, 1)
                words = [one.config.words for one in parent.children.values()]  # type: ignore[attr-defined]
                assert words == [["first", "0"], ["first", "1"]]

        run_async(main)

    def test_new_ones_hold_for_those_that_come(
        self, app: GAplic, run_async: RunAsync, opened: ExitStack
    ) -> None:
        parent, server = start(app, session_parameters={"greeting": b"old"})

        async def main() -> None:
            async with app:
                assert await read(opened.enter_context(connect(server)), 3) == b"old"
                server.write_parameters(session_parameters={"greeting": b"new"})
                assert await read(opened.enter_context(connect(server)), 3) == b"new"
                old, new = parent.children.values()
                assert (old.config.greeting, new.config.greeting) == (b"old", b"new")
                with pytest.raises(GConfigError, match="gretting"):
                    server.write_parameters(session_parameters={"gretting": b"bad"})
                assert await read(opened.enter_context(connect(server)), 3) == b"new"
                with pytest.raises(GConfigError, match="session: cannot change while"):
                    server.write_parameters(session=Quiet)

        run_async(main)

    @pytest.mark.parametrize(
        ("parameters", "error", "told"),
        [
            ({"session": 5}, GConfigError, "session"),
            ({"session": "Session"}, GConfigError, "session"),
            ({"session": Parent}, GObjError, "its session Parent has neither EV_CONNECTED nor"),
            ({"session_parameters": {"gretting": b"x"}}, GConfigError, "gretting"),
            ({"session_parameters": {"greeting": 5}}, GConfigError, "greeting"),
            (
                {"session": None, "session_parameters": {"greeting": b"x"}},
                GConfigError,
                "there is no session that they could be for",
            ),
        ],
    )
    def test_bad_ones_are_told_before_it_listens(
        self, parameters: dict[str, Any], error: type[Exception], told: str, app: GAplic
    ) -> None:
        with pytest.raises(error, match=told):
            start(app, **parameters)
        assert [one for one in app.children.values() if isinstance(one, GServerSock)] == []


class TestTls:
    def test_it_is_made_when_the_handshake_is_complete(
        self, app: GAplic, run_async: RunAsync
    ) -> None:
        parent, server = start(app, ssl_options=server_options())

        async def main() -> None:
            async with app:
                with await dial(server) as client:
                    await until(lambda: len(server.ledger))
                    assert [type(one) for one in parent.children.values()] == [GSock]
                    await client.shake()
                    await client.send(b"abc")
                    assert await client.read(3) == b"ABC"
                    assert [type(one) for one in parent.children.values()] == [Session]
                await until(lambda: not parent.children)
                assert parent.kinds() == ["EV_CONNECTED", "EV_RX_DATA", "EV_DISCONNECTED"]

        run_async(main)

    @pytest.mark.parametrize("how", ["no TLS", "closed", "too slow"])
    def test_none_is_made_where_it_fails(
        self, how: str, app: GAplic, run_async: RunAsync, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        parent, server = start(app, ssl_options=server_options(), handshake_timeout=0.1)
        made: list[object] = []
        monkeypatch.setattr(Session, "start_up", lambda self: made.append(self))

        async def main() -> None:
            async with app:
                with connect(server) as client:
                    await until(lambda: len(server.ledger))
                    if how == "no TLS":
                        await write(client, b"GET / HTTP/1.0\r\n\r\n")
                    elif how == "closed":
                        client.close()
                    await until(lambda: not len(server.ledger))
                await until(lambda: not parent.children)
                assert made == []
                assert parent.heard == []
                assert server.ledger.failed_handshakes == 1

        run_async(main)


class Forgetful(Keeper):
    """Destroys nothing."""

    machine = {
        "ST_IDLE": [
            on(EV_CONNECTED, Keeper.ac_keep),
            on(EV_RX_DATA, Keeper.ac_keep),
            on(EV_DISCONNECTED, Keeper.ac_keep),
        ],
    }


class TestForgetting:
    def test_it_is_told_once_with_path_and_count(
        self, app: GAplic, run_async: RunAsync, caplog: pytest.LogCaptureFixture
    ) -> None:
        forgetful = app.create_gobj("forgetful", Forgetful, app)
        server = forgetful.create_gobj("server", GServerSock, forgetful, host="127.0.0.1")

        async def come_and_go(count: int) -> None:
            before = len(forgetful.of(EV_DISCONNECTED))
            with ExitStack() as stack:
                for _ in range(count):
                    stack.enter_context(connect(server))
            await until(lambda: len(forgetful.of(EV_DISCONNECTED)) == before + count)

        async def main() -> None:
            async with app:
                await come_and_go(99)
                assert warnings(caplog) == []
                assert len(forgetful.gsocks) == 99
                await come_and_go(1)
                (told,) = warnings(caplog)
                assert told == (
                    "app/forgetful: 100 connections of app/forgetful/server have ended and were "
                    "not destroyed; call destroy_gobj(event.source) on EV_DISCONNECTED, or give "
                    "the server destroy_on_disconnect=True"
                )
                await come_and_go(120)
                assert len(warnings(caplog)) == 1

        run_async(main)

    def test_who_keeps_some_for_a_while_is_not_to_blame(
        self, app: GAplic, run_async: RunAsync, caplog: pytest.LogCaptureFixture
    ) -> None:
        forgetful = app.create_gobj("forgetful", Forgetful, app)
        server = forgetful.create_gobj("server", GServerSock, forgetful, host="127.0.0.1")

        async def main() -> None:
            async with app:
                for _ in range(3):
                    with ExitStack() as stack:
                        for _ in range(60):
                            stack.enter_context(connect(server))
                        await until(lambda: len(server.ledger) == 60)
                    await until(lambda: not len(server.ledger))
                    await turns()
                    for gsock in forgetful.gsocks:
                        forgetful.destroy_gobj(gsock)

        run_async(main)
        assert warnings(caplog) == []

    def test_the_server_can_do_it(
        self, app: GAplic, run_async: RunAsync, caplog: pytest.LogCaptureFixture
    ) -> None:
        forgetful = app.create_gobj("forgetful", Forgetful, app)
        server = forgetful.create_gobj(
            "server", GServerSock, forgetful, host="127.0.0.1", destroy_on_disconnect=True
        )

        async def main() -> None:
            async with app:
                with ExitStack() as stack:
                    for _ in range(150):
                        stack.enter_context(connect(server))
                await until(lambda: len(forgetful.of(EV_DISCONNECTED)) == 150)
                await until(lambda: not forgetful.gsocks)

        run_async(main)
        assert warnings(caplog) == []
