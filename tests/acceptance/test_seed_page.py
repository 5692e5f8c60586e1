"""The page of `ginsfsm.c_srv_sock`, sentence by sentence.

That page is what this project exists to make true. Each test has the sentence in its docstring.
"""

import asyncio
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

import certificates
import ginsfsm.c_srv_sock
from conftest import RunAsync
from ginsfsm import Event, GAplic, GObj, on
from ginsfsm.c_sock import EV_CONNECTED, EV_DISCONNECTED, EV_RX_DATA, EV_SEND_DATA, GSock
from ginsfsm.c_srv_sock import GServerSock
from ginsfsm.draw import draw
from ginsfsm.inspection import Delivered, Observation
from secure import client_context
from servers import Keeper, connect, read, read_to_end, serve, until, write
from sockets import gaplic


@pytest.fixture(params=["epoll", "loop"], ids=["poller", "loop_poller"])
def app(request: pytest.FixtureRequest) -> Iterator[GAplic]:
    app = gaplic(request.param)
    yield app
    app.destroy_gobj(app)


@pytest.fixture
def keeper(app: GAplic) -> Keeper:
    return app.create_gobj("keeper", Keeper, app)


def test_module_and_class() -> None:
    """Ginsfsm.c_srv_sock. GObj GServerSock. class ginsfsm.c_srv_sock.GServerSock."""
    assert GServerSock.__module__ == "ginsfsm.c_srv_sock"
    assert issubclass(GServerSock, GObj)
    assert "GServerSock" in ginsfsm.c_srv_sock.__all__


def test_it_manages_a_server_socket(keeper: Keeper, run_async: RunAsync) -> None:
    """GObj for manage server socket. GSock gobj acting as server sock."""
    server = serve(keeper)

    async def main() -> None:
        async with keeper.gaplic:
            with connect(server):
                await until(lambda: keeper.of(EV_CONNECTED))

    run_async(main)


def test_it_is_derived_from_gsock() -> None:
    """This gobj is derived from ginsfsm.c_sock.GSock [...]."""
    assert issubclass(GServerSock, GSock)
    assert GSock.__module__ == "ginsfsm.c_sock"
    assert issubclass(GServerSock.config, GSock.config)
    # "Output-Events" of the page, and the event whose absence it warns of.
    assert {EV_CONNECTED, EV_DISCONNECTED} <= set(GServerSock.outputs)


def test_it_uses_the_server_behaviour_of_a_sock(keeper: Keeper) -> None:
    """[...] but it uses the server behaviour of a sock."""
    server = serve(keeper)
    with socket.create_connection(("127.0.0.1", server.config.port)) as client:
        assert client.getpeername() == ("127.0.0.1", server.config.port)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2"])
def test_it_listens_at_the_configured_host_and_port(host: str, keeper: Keeper) -> None:
    """It creates a listening sock at configured (host, port) attributes. port int 0 server port."""
    free = serve(keeper, "free", host=host)
    port = free.config.port
    keeper.destroy_gobj(free)
    server = serve(keeper, host=host, port=port)
    assert (server.config.host, server.config.port) == (host, port)
    with socket.create_connection((host, port)) as client:
        assert client.getpeername() == (host, port)
    elsewhere = "127.0.0.1" if host == "127.0.0.2" else "127.0.0.2"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((elsewhere, port))


def test_it_serves_tls(keeper: Keeper, run_async: RunAsync, tmp_path: Path) -> None:
    """GServerSock can serve SSL traffic with Python 2.6+ and OpenSSL. To make this server serve SSL
    traffic, send the ssl_options dictionary argument with the arguments required for the
    ssl.wrap_socket method, including "certfile" and "keyfile": ssl_options={"certfile":
    os.path.join(data_dir, "mydomain.crt"), "keyfile": os.path.join(data_dir, "mydomain.key")}.
    ssl_options dict {} ssl options.
    """
    data_dir = str(tmp_path)
    pem = certificates.server()
    shutil.copy(certificates.chain_of(pem), tmp_path / "mydomain.crt")
    shutil.copy(certificates.key_of(pem), tmp_path / "mydomain.key")
    server = serve(
        keeper,
        ssl_options={
            "certfile": os.path.join(data_dir, "mydomain.crt"),
            "keyfile": os.path.join(data_dir, "mydomain.key"),
        },
    )

    async def main() -> None:
        async with keeper.gaplic, asyncio.timeout(20):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", server.config.port, ssl=client_context(), server_hostname="localhost"
            )
            writer.write(b"question")
            await until(lambda: keeper.of(EV_RX_DATA))
            (event,) = keeper.of(EV_RX_DATA)
            assert event.data == b"question"
            keeper.send_event(event.source, EV_SEND_DATA(b"answer"))
            assert await reader.readexactly(6) == b"answer"
            writer.close()
            await until(lambda: keeper.of(EV_DISCONNECTED))

    run_async(main)


def test_each_incoming_connection_is_a_gsock_below_the_parent(
    keeper: Keeper, run_async: RunAsync
) -> None:
    """Each incoming connection will create a new ginsfsm.c_sock.GSock gobj, that it will be child
    of the subscriber gobj (the parent by default).
    """
    server = serve(keeper)

    async def main() -> None:
        async with keeper.gaplic:
            with connect(server), connect(server):
                await until(lambda: len(keeper.of(EV_CONNECTED)) == 2)
                one, two = keeper.gsocks
                assert one is not two
                assert type(one) is type(two) is GSock
                assert one.parent is two.parent is keeper
                assert not server.children

    run_async(main)


def test_each_incoming_connection_is_a_gsock_below_the_subscriber(
    app: GAplic, keeper: Keeper, run_async: RunAsync
) -> None:
    """Each incoming connection [...] will be child of the subscriber gobj. subscriber None None
    subcriber of all output-events. Default is None, i.e., the parent.
    """
    other = app.create_gobj("other", Keeper, app)
    server = serve(keeper, subscriber=other)

    async def main() -> None:
        async with app:
            with connect(server):
                await until(lambda: other.gsocks)
                assert other.gsocks[0].parent is other
                assert list(keeper.children) == ["server"]
                assert len(other.of(EV_CONNECTED)) == 1
            await until(lambda: other.of(EV_DISCONNECTED))
            assert keeper.heard == []

    run_async(main)


def test_after_ev_connected_no_event_goes_to_or_from_the_server(
    app: GAplic, keeper: Keeper, run_async: RunAsync
) -> None:
    """Once an 'EV_CONNECTED' event has been sent, the GServerSock doesn't know anything more of the
    new gsock client.
    """
    server = serve(keeper)
    observed: list[Observation] = []

    async def main() -> None:
        async with app:
            with connect(server) as client:
                await until(lambda: keeper.of(EV_CONNECTED))
                app.observe(observed.append)
                await write(client, b"question")
                await until(lambda: keeper.of(EV_RX_DATA))
                keeper.send_event(keeper.gsocks[0], EV_SEND_DATA(b"answer"))
                assert await read(client, 6) == b"answer"
            await until(lambda: keeper.of(EV_DISCONNECTED))

    run_async(main)
    delivered = [one for one in observed if isinstance(one, Delivered)]
    assert any(type(one.event) is EV_RX_DATA for one in delivered)
    assert any(type(one.event) is EV_DISCONNECTED for one in delivered)
    assert not [one for one in delivered if server in (one.source, one.destination)]


def test_after_ev_connected_the_client_outlives_the_server(
    app: GAplic, keeper: Keeper, run_async: RunAsync
) -> None:
    """Once an 'EV_CONNECTED' event has been sent, the GServerSock doesn't know anything more of the
    new gsock client.
    """
    server = serve(keeper)

    async def main() -> None:
        async with app:
            with connect(server) as client:
                await until(lambda: keeper.of(EV_CONNECTED))
                app.destroy_gobj(server)
                with pytest.raises(ConnectionRefusedError):
                    socket.create_connection(("127.0.0.1", server.config.port))
                await write(client, b"question")
                await until(lambda: keeper.of(EV_RX_DATA))
                keeper.send_event(keeper.gsocks[0], EV_SEND_DATA(b"answer"))
                assert await read(client, 6) == b"answer"
            await until(lambda: keeper.of(EV_DISCONNECTED))

    run_async(main)
    assert not keeper.children


def test_the_relationship_is_between_the_gsock_and_the_subscriber(
    app: GAplic, keeper: Keeper, run_async: RunAsync
) -> None:
    """The relationship is directly between the accepted ginsfsm.c_sock.GSock gobj and the
    subscriber.
    """
    other = app.create_gobj("other", Keeper, app)
    server = serve(keeper, subscriber=other)

    async def main() -> None:
        async with app:
            with connect(server) as client:
                await until(lambda: other.gsocks)
                (gsock,) = other.gsocks
                assert [one.subscriber for one in gsock.subscriptions] == [other]
                await write(client, b"question")
                await until(lambda: other.of(EV_RX_DATA))
                assert {event.source for event in other.heard} == {gsock}
                # It dies with the subscriber, not with the server or its parent.
                app.destroy_gobj(keeper)
                assert not gsock.destroyed
                app.destroy_gobj(other)
                assert gsock.destroyed
                assert await read_to_end(client) == b""

    run_async(main)


def test_the_subscriber_receives_all_events(keeper: Keeper, run_async: RunAsync) -> None:
    """The subcriber is responsible of receiving all events [...]."""
    server = serve(keeper)

    async def main() -> None:
        async with keeper.gaplic:
            with connect(server) as client:
                await write(client, b"hello")
                await until(lambda: keeper.of(EV_RX_DATA))
            await until(lambda: keeper.of(EV_DISCONNECTED))

    run_async(main)
    assert [type(event) for event in keeper.heard] == [EV_CONNECTED, EV_RX_DATA, EV_DISCONNECTED]


def test_the_subscriber_destroys_the_gsock(
    app: GAplic, run_async: RunAsync, caplog: pytest.LogCaptureFixture
) -> None:
    """[...] and destroy the new gsock client. Remember to destroy the accepted gobj with
    destroy_gobj() when the gobj has been disconnected.
    """

    class Forgetful(Keeper):
        def ac_gone(self, event: EV_DISCONNECTED) -> None:
            self.heard.append(event)

    forgetful = app.create_gobj("forgetful", Forgetful, app)
    server = serve(forgetful)

    async def main() -> None:
        async with app:
            with connect(server):
                await until(lambda: forgetful.gsocks)
            await until(lambda: forgetful.of(EV_DISCONNECTED))
            # Nobody else does it.
            (gsock,) = forgetful.gsocks
            assert (gsock.destroyed, gsock.state) == (False, "ST_DISCONNECTED")
            app.destroy_gobj(gsock)
            assert forgetful.gsocks == []

    run_async(main)
    # The original complained when its subscriber did as it was told here.
    assert not caplog.records


def test_the_subscriber_knows_of_a_new_gobj_by_ev_connected(
    keeper: Keeper, run_async: RunAsync
) -> None:
    """The subcriber knows when a new gobj has been accepted because it receives the 'EV_CONNECTED'
    event.
    """
    server = serve(keeper)

    async def main() -> None:
        async with keeper.gaplic:
            for count in range(1, 4):
                with connect(server):
                    await until(lambda count=count: len(keeper.of(EV_CONNECTED)) == count)
                    assert len({event.source for event in keeper.of(EV_CONNECTED)}) == count

    run_async(main)


def test_the_connection_has_ceased_to_exist_when_ev_disconnected_comes(
    app: GAplic, run_async: RunAsync
) -> None:
    """When the subcriber receives a 'EV_DISCONNECTED' event must destroy the gobj because the
    connection ceases to exist.
    """
    answers: list[object] = []

    class Late(Keeper):
        def ac_gone(self, event: EV_DISCONNECTED) -> None:
            answers.append(self.send_event(event.source, EV_SEND_DATA(b"too late")))
            answers.append(server.config.n_gsocks)
            super().ac_gone(event)

    late = app.create_gobj("late", Late, app)
    server = serve(late)

    async def main() -> None:
        async with app:
            with connect(server):
                await until(lambda: late.gsocks)
            await until(lambda: late.of(EV_DISCONNECTED))
            assert not late.gsocks

    run_async(main)
    sent, n_gsocks = answers
    assert not sent
    assert n_gsocks == 0


PARAMETERS: list[tuple[str, str, object]] = [
    ("ports", "tuple", ()),
    ("subscriber", "None", None),
    ("host", "str", ""),
    ("use_multi_ports", "bool", False),
    ("n_gsocks", "int", 0),
    ("port", "int", 0),
    ("ssl_options", "dict", {}),
]


@pytest.mark.parametrize(("name", "kind", "default"), PARAMETERS)
def test_configurable_parameter(name: str, kind: str, default: object) -> None:
    """Configurable Parameters: Name Type Default value Description."""
    rows = {row[0]: row for row in GServerSock.config.table()}
    found, its_kind, its_default, description = rows[name]
    assert (found, its_kind, its_default) == (name, kind, default)
    assert type(its_default) is type(default)
    assert description.strip()
    assert getattr(GServerSock.config, name) == default


def test_n_gsocks_is_the_number_of_gsocks_opened(keeper: Keeper, run_async: RunAsync) -> None:
    """n_gsocks int 0 Server Stats: Number of gsocks opened."""
    server = serve(keeper)
    assert server.config.n_gsocks == 0

    async def main() -> None:
        async with keeper.gaplic:
            with connect(server), connect(server):
                await until(lambda: len(keeper.of(EV_CONNECTED)) == 2)
                assert server.config.n_gsocks == 2
            await until(lambda: len(keeper.of(EV_DISCONNECTED)) == 2)
            assert server.config.n_gsocks == 0

    run_async(main)


def test_multi_ports(keeper: Keeper) -> None:
    """Ports tuple () multi ports. use_multi_ports bool False use multi ports."""
    taken = serve(keeper, "taken").config.port
    free = serve(keeper, "free")
    keeper.destroy_gobj(free)
    server = serve(keeper, ports=(taken, free.config.port), use_multi_ports=True)
    assert server.config.port == free.config.port
    with socket.create_connection(("127.0.0.1", free.config.port)):
        pass


def test_a_name_as_host(keeper: Keeper) -> None:
    """Host str server host (ip or name)."""
    server = serve(keeper, host="localhost")
    with socket.create_connection(("localhost", server.config.port)):
        pass


def test_it_can_be_drawn() -> None:
    """Diagram: Output-Events: 'EV_CONNECTED'."""
    drawn = format(GServerSock, "text")
    assert all(f" {state} " in drawn for state in GServerSock.compiled.states)
    assert "──▶ EV_CONNECTED" in draw(GServerSock, "text", view="interface")


def test_ev_connected_comes_from_the_new_gsock(keeper: Keeper, run_async: RunAsync) -> None:
    """'EV_CONNECTED': new client socket connected. The gobj sending the 'EV_CONNECTED' event is the
    new client socket gobj.
    """
    server = serve(keeper)

    async def main() -> None:
        async with keeper.gaplic:
            with connect(server) as client:
                await until(lambda: keeper.of(EV_CONNECTED))
                source = keeper.of(EV_CONNECTED)[0].source
                assert type(source) is GSock
                assert source is keeper.gsocks[0]
                # It can be talked to at once.
                keeper.send_event(source, EV_SEND_DATA(b"welcome"))
                assert await read(client, 7) == b"welcome"

    run_async(main)


def test_it_can_be_answered_from_within_ev_connected(app: GAplic, run_async: RunAsync) -> None:
    """'EV_CONNECTED': new client socket connected."""

    class Polite(GObj):
        def ac_greet(self, event: EV_CONNECTED) -> None:
            self.send_event(event.source, EV_SEND_DATA(b"welcome"))

        def ac_gone(self, event: EV_DISCONNECTED) -> None:
            self.destroy_gobj(event.source)

        machine = {"ST_IDLE": [on(EV_CONNECTED, ac_greet), on(EV_DISCONNECTED, ac_gone)]}

    server = serve(app.create_gobj("polite", Polite, app))

    async def main() -> None:
        async with app:
            with connect(server) as client:
                assert await read(client, 7) == b"welcome"

    run_async(main)


def test_ev_connected_carries_both_addresses(keeper: Keeper, run_async: RunAsync) -> None:
    """Attributes added to the sent event: peername: remote address to which the socket is
    connected. sockname: the socket's own address.
    """
    server = serve(keeper)

    async def main() -> None:
        async with keeper.gaplic:
            with connect(server) as client:
                await until(lambda: keeper.of(EV_CONNECTED))
                (event,) = keeper.of(EV_CONNECTED)
                assert event.peername == client.getsockname()
                assert event.sockname == client.getpeername()
                (gsock,) = keeper.gsocks
                assert (gsock.peername, gsock.sockname) == (event.peername, event.sockname)

    run_async(main)


def test_the_name_says_which_server(keeper: Keeper, run_async: RunAsync) -> None:
    """The subscriber can know from which server comes the client by the name of client gobj. If the
    server gobj has name, the name of client gobj will be: 'server-name.clisrv_#'.
    """
    north, south = serve(keeper, "north"), serve(keeper, "south")

    async def main() -> None:
        async with keeper.gaplic:
            with connect(north) as one:
                await until(lambda: len(keeper.gsocks) == 1)
                with connect(south) as two, connect(north) as three:
                    await until(lambda: len(keeper.gsocks) == 3)
                    names = {gsock.peername: gsock.name for gsock in keeper.gsocks}
                    assert names[one.getsockname()] == "north.clisrv_1"
                    assert names[two.getsockname()] == "south.clisrv_1"
                    assert names[three.getsockname()] == "north.clisrv_2"
                    assert all(keeper.children[gsock.name] is gsock for gsock in keeper.gsocks)

    run_async(main)


def test_a_server_without_a_name_has_one_all_the_same(keeper: Keeper, run_async: RunAsync) -> None:
    """If the server gobj has name, the name of client gobj will be: 'server-name.clisrv_#'."""
    server = keeper.create_gobj(None, GServerSock, keeper, host="127.0.0.1")

    async def main() -> None:
        async with keeper.gaplic:
            with connect(server):
                await until(lambda: keeper.gsocks)
                assert server.name
                assert keeper.gsocks[0].name == f"{server.name}.clisrv_1"

    run_async(main)


def test_start_up_subscribes_all_events_to_the_parent(app: GAplic, keeper: Keeper) -> None:
    """start_up(): Initialization zone. Subscribe all events to parent if subscriber is None."""
    other = app.create_gobj("other", Keeper, app)
    to_parent, to_other = serve(keeper), serve(keeper, "second", subscriber=other)
    for server, subscriber in ((to_parent, keeper), (to_other, other)):
        (one,) = server.subscriptions
        assert one.subscriber is subscriber
        # None stands for all of them.
        assert one.event is None


def test_start_up_listens(app: GAplic) -> None:
    """Start listen to (host,port)."""
    before: list[Event | str] = []

    class Watching(GServerSock):
        def start_up(self) -> None:
            before.append(self.state)
            super().start_up()
            before.append(self.state)
            socket.create_connection(("127.0.0.1", self.config.port)).close()

    keeper = app.create_gobj("keeper", Keeper, app)
    app.create_gobj("server", Watching, keeper, host="127.0.0.1")
    assert before == ["ST_IDLE", "ST_LISTENING"]
