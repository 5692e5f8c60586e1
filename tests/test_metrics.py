"""The exporter: a page that real scrapers read, and that no scraper can turn against its server."""

import asyncio
import logging
import re
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.parser import text_string_to_metric_families as parse

from conftest import RunAsync
from ginsfsm import GAplic, GConfigError
from ginsfsm.c_srv_sock import EV_DRAIN
from ginsfsm.metrics import Exporter, families
from ginsfsm.metrics.families import MAX_SERVERS, OTHERS
from ginsfsm.net.admission import Refusal
from ginsfsm.snapshot import Snapshot, merge, snapshot
from ginsfsm.stats import GaplicStats, ServerStats
from programs import Program
from servers import Keeper, connect, read, read_to_end, serve, until, write

GET = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"

PIECES = [
    GET, b"GET /metrics HTTP/1.1\r\n", b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", b"\r\n", b"\r\n\r\n",
    b"Host: a\r\n", b"Upgrade: h2c\r\nConnection: upgrade\r\n", b"CONNECT a:1 HTTP/1.1\r\n",
    b"Content-Length: 5\r\n", b"Expect: 100-continue\r\n", b"Transfer-Encoding: chunked\r\n",
]  # fmt: skip

PAGE = Path(__file__).parent.parent / "docs" / "metrics.md"


def export(app: GAplic, **parameters: Any) -> Exporter:
    return app.create_gobj("metrics", Exporter, app, port=0, **parameters)


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        (
            {"registry": 5},
            "registry: expected one of prometheus_client, such as CollectorRegistry(), got 5 (int)",
        ),
        (
            {"source": 5},
            "source: expected a callable that gives a Snapshot, got 5 (int)",
        ),
    ],
    ids=["registry", "source"],
)
def test_one_clear_error(parameters: dict[str, Any], sentence: str) -> None:
    app = GAplic("app")
    with pytest.raises(GConfigError) as caught:
        export(app, **parameters)
    assert str(caught.value) == f"app/metrics (Exporter): {sentence}"
    assert not list(app.children)
    app.destroy_gobj(app)


async def ask(exporter: Exporter, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """One request, on a connection of its own that ends with the answer; status, headers, body."""
    with connect(exporter.server) as client:
        await write(client, request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
        return parted(await read_to_end(client))


async def receive(client: socket.socket) -> bytes:
    """What has come, and at least a byte."""
    data = await read(client, 1)
    try:
        return data + client.recv(1 << 20)
    except BlockingIOError:
        return data


def parted(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(first.split()[1]), headers, body


def values(page: str, name: str) -> dict[str, float]:
    """The samples of one name, by the value of their first label."""
    return {
        next(iter(sample.labels.values()), ""): sample.value
        for family in parse(page)
        for sample in family.samples
        if sample.name == name
    }


def test_curl_reads_the_page_and_promtool_finds_no_fault(
    run_async: RunAsync, require_program: Callable[[str], str]
) -> None:
    curl, promtool = require_program("curl"), require_program("promtool")

    async def main() -> None:
        async with GAplic("app") as app:
            keeper = app.create_gobj("keeper", Keeper, app)
            server = serve(keeper, deny=("127.0.0.9",))
            exporter = export(app)
            with connect(server) as client:
                await write(client, b"x" * 5000)
                await until(lambda: server.stats().rx_bytes == 5000)
                url = f"http://127.0.0.1:{exporter.server.config.port}/metrics"
                with Program(curl, "-sS", "--fail", url) as program:
                    assert await program.ends() == 0
                    page = program.output.decode()
            assert values(page, "ginsfsm_server_received_bytes_total")["app/keeper/server"] == 5000
            assert values(page, "ginsfsm_server_connections_open")["app/keeper/server"] == 1
            assert values(page, "ginsfsm_processes") == {"": 1}
            checked = subprocess.run(
                [promtool, "check", "metrics"], input=page, capture_output=True, text=True
            )
            assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")

    run_async(main)


@pytest.mark.parametrize(
    ("request_", "status", "said"),
    [
        (b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n", 200, b"# HELP ginsfsm_processes"),
        (b"GET /metrics?name=x HTTP/1.1\r\nHost: a\r\n\r\n", 200, b"# HELP ginsfsm_processes"),
        (b"GET /metrics HTTP/1.0\r\n\r\n", 200, b"# HELP ginsfsm_processes"),
        (b"HEAD /metrics HTTP/1.1\r\nHost: a\r\n\r\n", 200, None),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 404, b"nothing here but /metrics"),
        (b"HEAD /metrics/x HTTP/1.1\r\nHost: a\r\n\r\n", 404, None),
        (b"DELETE /metrics HTTP/1.1\r\nHost: a\r\n\r\n", 405, b"only GET and HEAD"),
        (b"POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", 405, b"only GET"),
        (b"GET /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", 413, b"has a body"),
        (b"GET /metrics HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 413,
         b"has a body"),
        (b"GET /metrics HTTP/1.1\r\n\r\n", 400, b"bad request"),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400, b"bad request"),
        (b"GET /metrics HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 9000, 431, b"bad request"),
    ],
    ids=lambda value: repr(value)[:40] if isinstance(value, int) else "",
)  # fmt: skip
def test_what_is_answered(
    run_async: RunAsync, request_: bytes, status: int, said: bytes | None
) -> None:
    async def main() -> None:
        async with GAplic("app") as app:
            exporter = export(app)
            found, headers, body = await ask(exporter, request_)
            assert found == status, body
            assert (body == b"") if said is None else (said in body)
            assert int(headers["content-length"]) >= len(body) > -1
            if status == 405:
                assert headers["allow"] == "get, head"
            # Whoever comes next is served.
            assert (await ask(exporter, GET))[0] == 200

    run_async(main)


def test_one_connection_serves_many_requests(run_async: RunAsync) -> None:
    async def main() -> None:
        async with GAplic("app") as app:
            exporter = export(app)
            miss = b"GET /no HTTP/1.1\r\nHost: a\r\n\r\n"
            with connect(exporter.server) as client:
                # More than Python's limit for calls within calls.
                await write(client, miss * 1500)
                answer = b""
                while answer.count(b"nothing here but") < 1500:
                    answer += await receive(client)
                for _ in range(3):
                    await write(client, GET)
                    answer += await receive(client)
                last = b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
                for part in (last[:10], last[10:]):
                    await write(client, part)
                answer += await read_to_end(client)
            assert answer.count(b"HTTP/1.1 404 Not Found") == 1500
            assert answer.count(b"HTTP/1.1 200 OK") == 4
            assert exporter.server.stats().accepted == 1

    run_async(main)


def test_who_asks_for_many_pages_at_once_gets_one(run_async: RunAsync) -> None:
    """And where it has gone meanwhile, nothing is made for it any more."""

    async def main() -> None:
        async with GAplic("app") as app:
            exporter = export(app)
            with connect(exporter.server) as client:
                await write(client, GET * 1000)
                answer = await read_to_end(client)
            assert answer.count(b"HTTP/1.1 200 OK") == 1
            assert b"Connection: close" in answer
            await until(lambda: not exporter.server.stats().open)

    run_async(main)


def test_openmetrics_for_whoever_asks_for_it(run_async: RunAsync) -> None:
    async def main() -> None:
        async with GAplic("app") as app:
            exporter = export(app)
            wanted = GET.replace(
                b"\r\n\r\n", b"\r\nAccept: application/openmetrics-text; version=1.0.0\r\n\r\n"
            )
            _, headers, body = await ask(exporter, wanted)
            assert headers["content-type"].startswith("application/openmetrics-text")
            assert body.endswith(b"# EOF\n")

    run_async(main)


@pytest.mark.parametrize(
    "accept",
    [
        b"application/openmetrics-text; version=new",
        b"text/plain; version=new",
        b"application/openmetrics-text; version=2.new",
        b"application/openmetrics-text; version=9.\xb2",
        b"application/openmetrics-text; version=" + b"9" * 5000,
        b"\xff;;=,;version=;escaping=\xfe",
    ],
    ids=lambda given: repr(given[:50]),
)
def test_whatever_is_asked_for_it_is_one_of_the_two(
    accept: bytes, run_async: RunAsync, caplog: pytest.LogCaptureFixture
) -> None:
    """`choose_encoder` of prometheus_client 0.26 raises on such a version, or gives it back."""

    async def main() -> None:
        async with GAplic("app") as app:
            exporter = export(app)
            asked = GET.replace(b"\r\n\r\n", b"\r\nAccept: " + accept + b"\r\n\r\n")
            status, _, body = await ask(exporter, asked)
            assert (status, app.contained_errors) == (200, 0)
            assert b"ginsfsm_processes 1.0\n" in body

    run_async(main)
    assert not [one for one in caplog.records if one.levelno > logging.INFO]


@pytest.mark.parametrize("begun", [b"", b"GET /metrics HTT", GET])
def test_a_scraper_that_hangs_harms_nobody(run_async: RunAsync, begun: bytes) -> None:
    async def main() -> None:
        async with GAplic("app", {"Scrape.request_timeout": 0.2}) as app:
            exporter = export(app)
            exporter.server.write_parameters(first_data_timeout=0.2, idle_timeout=0.4)
            with connect(exporter.server) as hanging:
                await write(hanging, begun)
                assert (await ask(exporter, GET))[0] == 200
                # It is ended in the end, and nothing is left of it.
                await read_to_end(hanging)
            await until(lambda: exporter.server.config.n_gsocks == 0)
            assert [type(one).__name__ for one in exporter.children.values()] == ["GServerSock"]

    run_async(main)


def test_one_that_sends_a_byte_now_and_then_is_ended_as_well(run_async: RunAsync) -> None:
    async def main() -> None:
        async with GAplic("app", {"Scrape.request_timeout": 0.3}) as app:
            exporter = export(app)
            with connect(exporter.server) as slow:
                await write(slow, b"GET ")
                await until(lambda: exporter.server.config.n_gsocks)
                while exporter.server.config.n_gsocks:
                    await asyncio.sleep(0.02)
                    try:
                        slow.send(b"x")
                    except OSError:
                        break
                await until(lambda: exporter.server.config.n_gsocks == 0)

    run_async(main)


async def ask_for_ever(client: socket.socket) -> None:
    async with asyncio.timeout(20):
        while True:
            await asyncio.get_running_loop().sock_sendall(client, GET * 100)


def test_one_that_asks_and_never_reads_is_dropped(run_async: RunAsync) -> None:
    async def main() -> None:
        async with GAplic("app") as app:
            exporter = export(app)
            exporter.server.write_parameters(close_timeout=0.5)
            with connect(exporter.server) as client:
                with pytest.raises(ConnectionError):
                    await ask_for_ever(client)
                await until(lambda: exporter.server.config.n_gsocks == 0)
            assert exporter.server.stats().queued_bytes == 0

    run_async(main)


def test_more_scrapers_than_there_can_be_are_turned_away(run_async: RunAsync) -> None:
    async def main() -> None:
        async with GAplic("app") as app:
            exporter = export(app)
            exporter.server.write_parameters(max_connections=1)
            with connect(exporter.server) as first:
                await until(lambda: exporter.server.config.n_gsocks == 1)
                with connect(exporter.server) as second:
                    assert await read_to_end(second) == b""
                assert exporter.server.stats().refused == {"full": 1}
                first.close()
                await until(lambda: exporter.server.config.n_gsocks == 0)
            assert (await ask(exporter, GET))[0] == 200

    run_async(main)


def test_numbers_that_come_from_elsewhere_and_later(run_async: RunAsync) -> None:
    async def main() -> None:
        asked = asyncio.Event()
        answer = asyncio.Event()

        async def source() -> Snapshot:
            asked.set()
            await answer.wait()
            return merge([snapshot(app)] * 3)

        async with GAplic("app") as app:
            exporter = export(app, source=source)
            with connect(exporter.server) as client:
                await write(client, GET)
                await asked.wait()
                # What comes meanwhile waits its turn.
                await write(client, GET.replace(b"/metrics", b"/later"))
                answer.set()
                await until(lambda: exporter.server.stats().tx_messages == 2)
                await write(client, b"GET / HTTP/1.0\r\n\r\n")
                page = (await read_to_end(client)).decode()
            assert "ginsfsm_processes 3.0" in page
            assert page.index("200 OK") < page.index("404 Not Found")

    run_async(main)


def test_a_source_that_fails_is_told_and_does_not_end_the_exporter(
    run_async: RunAsync, caplog: pytest.LogCaptureFixture
) -> None:
    faults = [ValueError("no numbers today")]

    def source() -> Snapshot:
        if faults:
            raise faults.pop()
        return Snapshot()

    async def main() -> None:
        async with GAplic("app") as app:
            exporter = export(app, source=source)
            status, _, body = await ask(exporter, GET)
            assert status == 500
            assert b"the log says why" in body
            assert "no numbers today" in caplog.text
            assert (await ask(exporter, GET))[0] == 200

    run_async(main)


def test_numbers_that_never_come(run_async: RunAsync) -> None:
    async def source() -> Snapshot:
        await asyncio.Event().wait()
        raise AssertionError

    async def main() -> None:
        async with GAplic("app", {"Scrape.answer_timeout": 0.1}) as app:
            exporter = export(app, source=source)
            for _ in range(2):
                status, headers, body = await ask(exporter, GET)
                assert (status, headers["connection"]) == (503, "close")
                assert body == b"the numbers did not come in time\n"
            await until(lambda: exporter.server.config.n_gsocks == 0)
            assert app.stats().refused_events == 0

    run_async(main)


def test_a_drain_does_not_wait_for_a_scraper_that_keeps_its_connection(
    run_async: RunAsync,
) -> None:
    async def main() -> None:
        async with GAplic("app") as app:
            exporter = export(app)
            with connect(exporter.server) as client:
                await write(client, GET)
                await until(lambda: exporter.server.stats().tx_messages == 1)
                app.send_event(exporter.server, EV_DRAIN(30))
                assert parted(await read_to_end(client))[0] == 200
                await until(lambda: exporter.server.state == "ST_CLOSED")

    run_async(main)


@pytest.mark.parametrize("begun", [GET[:10], GET], ids=["half a request", "one that is answered"])
def test_a_drain_waits_for_a_scraper_that_has_begun(run_async: RunAsync, begun: bytes) -> None:
    """It gets its page, which is the last thing of its connection."""

    async def main() -> None:
        goes_on = asyncio.Event()

        async def source() -> Snapshot:
            await goes_on.wait()
            return Snapshot()

        async with GAplic("app") as app:
            exporter = export(app, source=source)
            with connect(exporter.server) as client:
                await write(client, begun)
                await until(lambda: exporter.server.stats().rx_messages == 1)
                app.send_event(exporter.server, EV_DRAIN(30))
                await write(client, GET[len(begun) :])
                goes_on.set()
                status, headers, _ = parted(await read_to_end(client))
                assert (status, headers["connection"]) == (200, "close")
                await until(lambda: exporter.server.state == "ST_CLOSED")

    run_async(main)


def test_metrics_of_ones_own_stand_on_the_same_page(run_async: RunAsync) -> None:
    registry = CollectorRegistry()
    Counter("orders", "Orders taken.", registry=registry).inc(7)

    async def main() -> None:
        async with GAplic("app") as app:
            exporter = export(app, registry=registry)
            _, _, body = await ask(exporter, GET)
            assert values(body.decode(), "orders_total") == {"": 7}

    run_async(main)


def test_each_number_stands_under_its_own_name() -> None:
    one = Snapshot(
        gaplic=GaplicStats(
            processes=1, gobjs=2, posted_events=3, dropped_posts=4, refused_events=5,
            contained_errors=6, longest_turn_seconds=7.5,
        ),
        servers={
            "app/a": ServerStats(
                rx_bytes=11, tx_bytes=12, rx_messages=13, tx_messages=14, queued_bytes=15,
                accepted=16, closed=17, open=18, refused={"full": 19}, failed=20, handshakes=21,
                failed_handshakes=22, accept_errors={"EMFILE": 23},
            )
        },
    )  # fmt: skip
    server = {"server": "app/a"}
    told = [
        (sample.name.removeprefix("ginsfsm_"), sample.labels, sample.value)
        for family in families(one)
        for sample in family.samples
        if sample.value
    ]
    assert told == [
        ("processes", {}, 1),
        ("gobjs", {}, 2),
        ("posted_events", {}, 3),
        ("posted_events_dropped_total", {}, 4),
        ("events_refused_total", {}, 5),
        ("errors_contained_total", {}, 6),
        ("longest_turn_seconds", {}, 7.5),
        ("server_connections_open", server, 18),
        ("server_send_queue_bytes", server, 15),
        ("server_connections_accepted_total", server, 16),
        ("server_connections_failed_total", server, 20),
        ("server_received_bytes_total", server, 11),
        ("server_sent_bytes_total", server, 12),
        ("server_received_messages_total", server, 13),
        ("server_sent_messages_total", server, 14),
        ("server_connections_refused_total", server | {"reason": "full"}, 19),
        ("server_accept_errors_total", server | {"error": "EMFILE"}, 23),
        ("server_tls_handshakes_total", server | {"result": "done"}, 21),
        ("server_tls_handshakes_total", server | {"result": "failed"}, 22),
    ]


def test_every_reason_is_there_before_it_has_occurred() -> None:
    one = Snapshot(servers={"app/a": ServerStats(refused={"full": 3})})
    (refused,) = [each for each in families(one) if each.name.endswith("connections_refused")]
    found = {sample.labels["reason"]: sample.value for sample in refused.samples}
    assert found == {str(reason): 0 for reason in Refusal} | {"full": 3}


def test_the_number_of_labels_is_bounded_and_nothing_is_lost() -> None:
    count = MAX_SERVERS + 50
    one = Snapshot(
        servers={f"app/s{number:04}": ServerStats(accepted=1, open=2) for number in range(count)}
    )
    for family in families(one):
        found = [sample for sample in family.samples if "server" in sample.labels]
        assert len({sample.labels["server"] for sample in found}) in (0, MAX_SERVERS + 1)
        if family.name == "ginsfsm_server_connections_accepted":
            assert sum(sample.value for sample in found) == count
            assert found[-1].labels["server"] == OTHERS
            assert found[-1].value == 50


def test_the_docs_have_every_metric_with_its_kind_and_labels() -> None:
    one = Snapshot(servers={"app/a": ServerStats(accept_errors={"EMFILE": 1})})
    told = {
        (sample.name, family.type, tuple(sorted(sample.labels)))
        for family in families(one)
        for sample in family.samples
    }
    row = re.compile(r"^\| `(ginsfsm_\w+)` \| (\w+) \|([^|]*)\| [^|]+ \|$", re.MULTILINE)
    documented = {
        (name, kind, tuple(sorted(re.findall(r"`(\w+)`", labels))))
        for name, kind, labels in row.findall(PAGE.read_text())
    }
    assert documented == told


@given(st.lists(st.one_of(st.binary(max_size=60), st.sampled_from(PIECES)), max_size=12))
@settings(max_examples=60, deadline=None)
def test_whatever_is_sent_the_next_scraper_is_served(pieces: list[bytes]) -> None:
    async def main() -> None:
        async with GAplic("app") as app:
            exporter = export(app)
            with connect(exporter.server) as client:
                for piece in pieces:
                    try:
                        await write(client, piece)
                    except ConnectionError:
                        break
                try:
                    client.shutdown(socket.SHUT_WR)
                except OSError:
                    # Ended already.
                    pass
                await read_to_end(client)
            assert (await ask(exporter, GET))[0] == 200
            assert app.contained_errors == 0
            assert app.refused_events == 0

    asyncio.run(main())
