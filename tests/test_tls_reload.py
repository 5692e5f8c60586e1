"""Certificates change 200 times under traffic: no connection fails, no byte is lost, nothing grows.

Three processes: the server, whose memory is measured; the traffic, clients of Python's `ssl` that
talk all the time; and the test, which writes the files, tells the server to reload and looks with a
connection of its own at what is served. Server and traffic are this file, run as a program.

Half of the traffic's connections were made before the first reload and live through all of them.
Each sends bytes that say where in the stream they stand, and every one has to come back in its
place. The other half connects, asks, and closes, without a pause.

The rules for client certificates change as a whole too: for who connects later, not for who is
here.
"""

import asyncio
import contextlib
import ctypes
import gc
import json
import logging
import os
import random
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import certificates
from echo_server import Echo
from ginsfsm import GAplic
from ginsfsm.c_sock import GSock
from ginsfsm.c_srv_sock import EV_RELOAD_TLS, GServerSock
from ginsfsm.net.reason import Reason
from probe import Child
from servers import needs_proc

RELOADS = 200
SETTLED = 20
"""From here on the memory must not grow."""

GROWTH = 256
"""KiB that it may have grown by in the end."""

LASTING = 4
FLEETING = 2
"""Connections of each kind at a time."""

WARM = 300
"""Handshakes before the first reload."""

PATIENCE = 60.0


# -- the server ------------------------------------------------------------------------------------


def pss() -> int:
    """The memory that this process needs, in KiB; see `test_churn`.

    Of the C library's heap only what is in use. Where traffic comes and goes, the free part of it
    is 100 KiB today and 900 a moment later, with reloads and without.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    fields = dict(line.split(":") for line in lines[1:])
    return sum(int(fields[name].split()[0]) for name in ("Pss_Anon", "Pss_Shmem"))


async def serve(ssl_options: dict[str, Any]) -> None:
    """Say the port; then do what each line says, and answer it."""
    loop = asyncio.get_running_loop()
    async with GAplic("app") as app:
        echo = app.create_gobj("echo", Echo, app)
        server = app.create_gobj(
            "server", GServerSock, echo, host="127.0.0.1", ssl_options=ssl_options
        )

        def do(order: dict[str, Any]) -> dict[str, Any]:
            match order["do"]:
                case "reload":
                    return {"done": app.send_event(server, EV_RELOAD_TLS())}
                case "write":
                    server.write_parameters(ssl_options=order["ssl_options"])
                case "census":
                    return {
                        "pss": pss(),
                        "contexts": sum(type(one) is ssl.SSLContext for one in gc.get_objects()),
                        "gsocks": sum(type(one) is GSock for one in gc.get_objects()),
                        "failed": server.ledger.failed_handshakes,
                        "handshakes": server.ledger.handshakes,
                        "reasons": echo.reasons,
                    }
            return {}

        ended = loop.create_future()

        def obey() -> None:
            line = os.read(0, 65536)
            if not line:
                loop.remove_reader(0)
                ended.set_result(None)
                return
            print(json.dumps(do(json.loads(line))), flush=True)

        loop.add_reader(0, obey)
        print(server.config.port, flush=True)
        await ended


# -- the traffic -----------------------------------------------------------------------------------


def stream(start: int, size: int) -> bytes:
    """Bytes that say where they stand."""
    first, skip = divmod(start, 8)
    words = range(first, first + size // 8 + 2)
    return b"".join(word.to_bytes(8) for word in words)[skip : skip + size]


def exchange(sock: ssl.SSLSocket, data: bytes) -> None:
    """Send, and get exactly that back."""
    sock.sendall(data)
    answer = b""
    while len(answer) < len(data):
        more = sock.recv(65536)
        assert more, f"the end after {len(answer)} bytes of {len(data)}"
        answer += more
    assert answer == data


class Traffic:
    """Clients in threads, until the input ends."""

    def __init__(self, port: int, ca_file: str) -> None:
        self.port = port
        self.context = ssl.create_default_context(cafile=ca_file)
        self.ended = threading.Event()
        self.bytes = 0
        self.connections = 0
        self.failures: list[str] = []

    def connect(self) -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", self.port), PATIENCE)
        return self.context.wrap_socket(plain, server_hostname="localhost")

    def last(self, number: int, connected: threading.Barrier) -> None:
        dice = random.Random(number)
        position = 0
        with self.connect() as sock:
            connected.wait()
            while not self.ended.is_set():
                size = dice.choice([1, 100, 5000, 40_000])
                exchange(sock, stream(position, size))
                position += size
                self.bytes += size
                time.sleep(0.005)
            sock.unwrap()

    def pass_by(self, number: int, connected: threading.Barrier) -> None:
        connected.wait()
        while not self.ended.is_set():
            with self.connect() as sock:
                exchange(sock, stream(self.connections, 1000))
                sock.unwrap()
            self.connections += 1

    def run(self) -> None:
        connected = threading.Barrier(LASTING + FLEETING + 1, timeout=PATIENCE)

        def contained(work: Callable[[int, threading.Barrier], None], number: int) -> None:
            try:
                work(number, connected)
            except Exception as error:
                self.failures.append(f"{work.__name__}: {error!r}")

        threads = [
            threading.Thread(target=contained, args=(work, number))
            for work, count in ((self.last, LASTING), (self.pass_by, FLEETING))
            for number in range(count)
        ]
        for thread in threads:
            thread.start()
        connected.wait()
        print("{}", flush=True)
        sys.stdin.readline()
        self.ended.set()
        for thread in threads:
            thread.join()
        print(
            json.dumps(
                {
                    "bytes": self.bytes,
                    "connections": self.connections,
                    "failures": self.failures,
                }
            ),
            flush=True,
        )


# -- the tests -------------------------------------------------------------------------------------


class Server:
    """The server's process, as a test sees it."""

    def __init__(self, stack: ExitStack, **ssl_options: Any) -> None:
        self.program = stack.enter_context(
            Child(__file__, "serve", json.dumps(ssl_options), core=0)
        )
        self.port = self.program.answer()

    def tell(self, do: str, **more: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self.program.ask(json.dumps({"do": do, **more}))
        return answer

    def connect(
        self,
        certfile: Path | None = None,
        session: ssl.SSLSession | None = None,
        context: ssl.SSLContext | None = None,
    ) -> ssl.SSLSocket:
        if context is None:
            context = ssl.create_default_context(cafile=certificates.ca())
        if certfile is not None:
            context.load_cert_chain(certfile)
        plain = socket.create_connection(("127.0.0.1", self.port), PATIENCE)
        try:
            return context.wrap_socket(plain, server_hostname="localhost", session=session)
        except BaseException:
            plain.close()
            raise

    def served(self) -> bytes:
        """The certificate that a new connection sees."""
        with self.connect() as sock:
            found = sock.getpeercert(binary_form=True)
            exchange(sock, b"in order")
            sock.unwrap()
        assert found is not None
        return found

    def memory(self) -> int:
        """The lowest of some samples: connections come and go meanwhile."""
        samples: list[int] = []
        for _ in range(10):
            samples.append(self.tell("census")["pss"])
            time.sleep(0.02)
        return min(samples)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def der_of(path: Path) -> bytes:
    """The first certificate of a file."""
    text = certificates.chain_of(path).read_text()
    end = "-----END CERTIFICATE-----"
    return ssl.PEM_cert_to_DER_cert(text[: text.index(end) + len(end)])


class LiveFile:
    """The file that the server reads, replaced at once as certbot and others do."""

    def __init__(self, path: Path, content: bytes) -> None:
        self.path = path
        self.write(content)

    def write(self, content: bytes) -> None:
        fresh = self.path.with_suffix(".new")
        fresh.write_bytes(content)
        os.replace(fresh, self.path)


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"not within {PATIENCE} s"
        time.sleep(0.05)


@needs_proc
def test_200_reloads_under_traffic(stack: ExitStack, tmp_path: Path) -> None:
    one, other = certificates.renewed(), certificates.renewed()
    half = one.read_bytes()
    bad = [
        b"",
        b"no certificate",
        half[: len(half) // 2],
        certificates.key_of(one).read_bytes() + certificates.chain_of(other).read_bytes(),
        certificates.chain_of(one).read_bytes(),
        None,
    ]
    live = LiveFile(tmp_path / "live.pem", one.read_bytes())
    server = Server(stack, certfile=str(live.path))
    traffic = stack.enter_context(
        Child(__file__, "traffic", str(server.port), str(certificates.ca()), core=1)
    )
    traffic.answer()
    # The traffic's own first steps in the heap are not what is measured.
    wait_for(lambda: server.tell("census")["handshakes"] >= WARM)

    settled = 0
    for number in range(RELOADS):
        now = (other, one)[number % 2]
        live.write(now.read_bytes())
        assert server.tell("reload") == {"done": True}
        assert server.served() == der_of(now)
        if number % 5 == 4:
            wrong = bad[number // 5 % len(bad)]
            if wrong is None:
                live.path.unlink()
            else:
                live.write(wrong)
            assert server.tell("reload") == {"done": False}
            assert server.served() == der_of(now)
        if number == SETTLED:
            settled = server.memory()
    grown = server.memory() - settled
    census = server.tell("census")

    done = traffic.ask()
    assert done["failures"] == []
    assert done["connections"] >= 2 * RELOADS
    assert done["bytes"] > 1_000_000
    print(f"grown by {grown} KiB of {settled}; {done}; {census}")
    assert census["failed"] == 0
    # The one in use, and the first, which the lasting connections have.
    assert census["contexts"] <= 2 + FLEETING
    assert grown <= GROWTH, f"the memory grew by {grown} KiB"

    wait_for(lambda: not server.tell("census")["gsocks"])
    census = server.tell("census")
    assert census["failed"] == 0
    assert set(census["reasons"]) == {Reason.PEER}
    assert "Traceback" not in server.program.words()


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_a_changed_rule_for_client_certificates(stack: ExitStack, version: str) -> None:
    plain_rule = {"certfile": str(certificates.server())}
    strict_rule = {
        **plain_rule,
        "ca_certs": str(certificates.ca()),
        "cert_reqs": "required",
    }
    server = Server(stack, **plain_rule)
    anybody = ssl.create_default_context(cafile=certificates.ca())
    anybody.maximum_version = ssl.TLSVersion[version]
    early = stack.enter_context(server.connect(context=anybody))
    exchange(early, b"before the rule")
    # A session is no way around a rule that came later.
    session = early.session
    assert session is not None

    server.tell("write", ssl_options=strict_rule)
    exchange(early, b"it is not for who was here")
    for known in (None, session):
        with pytest.raises(ssl.SSLError, match="(?i)certificate.required|handshake.failure"):
            refused(server.connect(context=anybody, session=known))
    with server.connect(certificates.client()) as sock:
        exchange(sock, b"one with a certificate")
    with pytest.raises(ssl.SSLError, match="(?i)unknown.ca"):
        refused(server.connect(certificates.stranger()))
    assert server.tell("census")["failed"] == 3

    # What was read again is the rule of now.
    assert server.tell("reload") == {"done": True}
    with pytest.raises(ssl.SSLError, match="(?i)certificate.required|handshake.failure"):
        refused(server.connect(context=anybody))

    late = stack.enter_context(server.connect(certificates.client()))
    server.tell("write", ssl_options=plain_rule)
    for sock in (early, late):
        exchange(sock, b"still here")
    with server.connect(context=anybody) as sock:
        exchange(sock, b"anybody again")


def refused(sock: ssl.SSLSocket) -> None:
    """Under TLS 1.3 a client learns only when it reads that it was not wanted."""
    with contextlib.closing(sock):
        while sock.recv(100):
            pass


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", ssl_options]:
            logging.basicConfig(level=logging.INFO)
            import uvloop

            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(serve(json.loads(ssl_options)))
        case ["traffic", port, ca_file]:
            Traffic(int(port), ca_file).run()
