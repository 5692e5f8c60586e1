"""A TLS server under attack: others are served meanwhile, nothing is left, nothing is raised.

Three processes. The server is an echo server, the attacker does its worst, and the probe (see
`probe`) has good connections and measures how long its messages take. Server and attacker are this
file, run as a program. Where there are two processors the server has one to itself; attacker and
probe share the other, and the attacker has to stand back.

After each attack the server is asked what it has left, once it has had the time to end what it
waits for: the probe's connections must be all that stands in the ledger, as gsocks and as
descriptors, and nothing at WARNING or above may have been logged.

No message of the probe may take longer than `WORST`. That is a promise about the server, measured
on a machine that also does other things: one that takes the processor away for 50 ms makes any
server look bad, and none look good. So an attack is made up to three times, and passes when the
probe was served well in one of them, or no worse than without an attack just before; a server that
stalls under the attack stalls in all three. What has to be left and logged holds for every time.
"""

import asyncio
import gc
import hashlib
import hmac
import itertools
import json
import logging
import os
import random
import resource
import select
import socket
import ssl
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

import certificates
from echo_server import Complaints, Echo
from ginsfsm import GAplic
from ginsfsm.c_sock import GSock
from ginsfsm.c_srv_sock import GServerSock
from probe import CONNECTIONS, Child, Figures, Probe
from sockets import RESET

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(sys.platform != "linux", reason="uses epoll and /proc"),
]

WORST = 50.0
"""Milliseconds that no message of the probe may take."""

ATTEMPTS = 3

DESCRIPTORS = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
if DESCRIPTORS == resource.RLIM_INFINITY:
    DESCRIPTORS = 20_000

HALF = min(10_000, DESCRIPTORS - 500)
"""Handshakes that begin and never go on. Fewer only where a process may not open so many, and then
the test says so."""

AT_ONCE = 3_000
"""Handshakes that all go on at the same moment."""

HASTY = 5.0
"""The handshake_timeout of the server that gets the half handshakes."""

LONG = 1.0
"""Seconds that an attack goes on which has no length of its own."""

PATIENCE = 20.0
"""Seconds after which an attacker that waits for the server says so."""


# -- the server ------------------------------------------------------------------------------------


def server(certificate: str, large_certificate: str) -> None:
    """Say the ports; then answer each "count", cheaply, and each "census", with all there is."""
    raise_limit()
    # As `ginsfsm run` logs: a line for each handshake that fails is part of the work.
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    complaints = Complaints()
    logging.getLogger().addHandler(complaints)
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(certificate, large_certificate, complaints))


async def serve(certificate: str, large_certificate: str, complaints: Complaints) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.said.append(repr(context)))
    async with GAplic("app") as app:
        echo = app.create_gobj("echo", Echo, app)

        def listen(name: str, certfile: str, **parameters: Any) -> GServerSock:
            return app.create_gobj(
                name,
                GServerSock,
                app,
                subscriber=echo,
                host="127.0.0.1",
                ssl_options={"certfile": certfile},
                **parameters,
            )

        servers = {
            "default": listen("default", certificate),
            "hasty": listen("hasty", certificate, handshake_timeout=HASTY),
            # What it says in a handshake does not fit into what the kernel keeps for it.
            "narrow": listen("narrow", large_certificate, handshake_timeout=2.0, close_timeout=1.0),
        }
        for listener in servers["narrow"]._listeners:
            listener.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)

        def count() -> dict[str, Any]:
            return {
                name: {
                    "open": len(one.ledger),
                    "handshakes": one.ledger.handshakes,
                    "failed": one.ledger.failed_handshakes,
                    "trouble": one.ledger.failed + one.ledger.refused,
                }
                for name, one in servers.items()
            }

        def census() -> dict[str, Any]:
            gc.collect()
            return {
                **count(),
                "gsocks": sum(type(one) is GSock for one in gc.get_objects()),
                "watched": len(app.poller),
                "complaints": complaints.said,
            }

        ended = loop.create_future()

        def obey() -> None:
            said = os.read(0, 4096).decode()
            if not said:
                loop.remove_reader(0)
                ended.set_result(None)
            for word in said.split():
                print(json.dumps(count() if word == "count" else census()), flush=True)

        loop.add_reader(0, obey)
        print(json.dumps({name: one.config.port for name, one in servers.items()}), flush=True)
        await ended


def raise_limit() -> None:
    """Have as many descriptors as the machine allows."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, hard))


# -- the attacker ----------------------------------------------------------------------------------


class Attacker:
    """A connection to the server, whose TLS passes through hands that may change it."""

    def __init__(
        self,
        port: int,
        version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.sock = connection(port)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        context = context or client_context(version)
        self.tls = context.wrap_bio(self.incoming, self.outgoing)

    def __enter__(self) -> "Attacker":
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def step(self) -> bytes:
        """Go on with the handshake; what should be sent next."""
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        return self.outgoing.read()

    def second_flight(self) -> bytes:
        """Send the first, and return what follows the server's answer to it."""
        self.sock.sendall(self.step())
        while not (flight := self.step()):
            self.receive()
        return flight

    def receive(self) -> None:
        data = self.sock.recv(65536)
        assert data, "the server has ended a good connection"
        self.incoming.write(data)

    def shake(self) -> None:
        """Complete the handshake."""
        self.sock.sendall(self.second_flight())
        while not self.done():
            self.receive()

    def done(self) -> bool:
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def seal(self, data: bytes) -> bytes:
        """The records for these bytes."""
        self.tls.write(data)
        return self.outgoing.read()

    def exchange(self, data: bytes) -> bytes:
        """Send in good order, and return the echo."""
        self.sock.sendall(self.seal(data))
        echo = b""
        while len(echo) < len(data):
            try:
                echo += self.tls.read(65536)
            except ssl.SSLWantReadError:
                self.receive()
        return echo

    def say_last(self, data: bytes) -> None:
        """Send this, end our side, and see that the server ends its own."""
        last_words(self.sock, data)


_addresses = itertools.count()


def connection(port: int) -> socket.socket:
    """A socket with its connection; from many addresses, so that their ports do not run out."""
    sock = new_socket()
    sock.settimeout(PATIENCE)
    sock.connect(("127.0.0.1", port))
    return sock


def new_socket() -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
    sock.bind((f"127.0.2.{next(_addresses) % 200 + 1}", 0))
    return sock


def client_context(version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    found = _contexts.get(version)
    if found is None:
        found = _contexts[version] = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        found.check_hostname = False
        found.verify_mode = ssl.CERT_NONE
        found.maximum_version = version
    return found


_contexts: dict[ssl.TLSVersion, ssl.SSLContext] = {}


def last_words(sock: socket.socket, data: bytes | bytearray) -> None:
    try:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(65536):
            pass
    except TimeoutError:
        raise AssertionError(f"the server keeps a connection after {data[:64]!r}") from None
    except OSError:
        # It may reset the connection in the midst of what we say; but end it must.
        pass


def hello() -> bytes:
    """A real ClientHello. The same one does for any number of connections."""
    outgoing = ssl.MemoryBIO()
    try:
        client_context().wrap_bio(ssl.MemoryBIO(), outgoing).do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


def records(flight: bytes) -> list[bytes]:
    """The records that these bytes are."""
    found = []
    while flight:
        size = 5 + int.from_bytes(flight[3:5])
        found.append(flight[:size])
        flight = flight[size:]
    return found


VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


def random_bytes(port: int, dice: random.Random) -> None:
    """Instead of a handshake, in the midst of one, and after it; with and without a good header."""
    for size in (1, 4, 5, 6, 100, 5000, 70_000):
        data = dice.randbytes(size)
        with connection(port) as sock:
            last_words(sock, data)
        length = struct.pack("!H", min(size, 16384))
        for kind in (b"\x14", b"\x15", b"\x16", b"\x17"):
            record = kind + b"\x03\x03" + length + data
            with connection(port) as sock:
                last_words(sock, record)
            for version in VERSIONS:
                with Attacker(port, version) as attacker:
                    attacker.second_flight()
                    attacker.say_last(record)
                with Attacker(port, version) as attacker:
                    attacker.shake()
                    attacker.say_last(record)
    first = bytearray(hello())
    for _ in range(50):
        first[dice.randrange(len(first))] = dice.randrange(256)
        with connection(port) as sock:
            last_words(sock, first)


def truncated(port: int, dice: random.Random) -> None:
    """Each flight is cut off somewhere, and the connection ends, in order or with a reset."""
    for version in VERSIONS:
        for where in range(3):
            with Attacker(port, version) as attacker:
                if where == 0:
                    data = attacker.step()
                elif where == 1:
                    data = attacker.second_flight()
                else:
                    attacker.shake()
                    data = attacker.seal(dice.randbytes(1000))
                cut = data[: dice.randrange(len(data))]
                if dice.random() < 0.5:
                    attacker.say_last(cut)
                else:
                    attacker.sock.sendall(cut)
                    attacker.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def reordered(port: int, dice: random.Random) -> None:
    """The records of each flight come in another order, twice, or from another connection."""
    stolen = b""
    for version in VERSIONS:
        with Attacker(port, version) as attacker:
            first = attacker.step()
            attacker.say_last(first + first)
        with Attacker(port, version) as attacker:
            flight = records(attacker.second_flight())
            order = list(range(len(flight)))
            while order == sorted(order) and len(order) > 1:
                dice.shuffle(order)
            attacker.say_last(b"".join(flight[one] for one in order))
        for again in (0, -1):
            with Attacker(port, version) as attacker:
                flight = records(attacker.second_flight())
                attacker.say_last(b"".join([*flight, flight[again]]))
        with Attacker(port, version) as attacker:
            flight = records(attacker.second_flight())
            attacker.say_last(b"".join(flight[1:]))
        with Attacker(port, version) as attacker:
            flight = records(attacker.second_flight())
            attacker.say_last(stolen or b"".join(flight[:1]))
            stolen = b"".join(flight)
        with Attacker(port, version) as attacker:
            attacker.shake()
            one, other = (attacker.seal(dice.randbytes(100)) for _ in range(2))
            attacker.say_last(dice.choice([one + one, other + one, one + stolen]))


def byte_by_byte(port: int, dice: random.Random) -> None:
    """A good handshake and a message, each byte in a packet of its own."""
    with Attacker(port, dice.choice(VERSIONS)) as attacker:
        plain = dice.randbytes(20)
        flight = attacker.step()
        while not attacker.done():
            for byte in flight:
                attacker.sock.sendall(bytes([byte]))
                # Now and then the server has to see the byte alone.
                if dice.random() < 0.2:
                    time.sleep(0.0002)
            attacker.receive()
            flight = attacker.step()
        for byte in flight + attacker.seal(plain):
            attacker.sock.sendall(bytes([byte]))
        echo = b""
        while len(echo) < len(plain):
            try:
                echo += attacker.tls.read(65536)
            except ssl.SSLWantReadError:
                attacker.receive()
        assert echo == plain


def plain_http(port: int, dice: random.Random) -> None:
    """Somebody forgot the s of https."""
    method = dice.choice(["GET", "HEAD", "POST", "PUT", "CONNECT", "OPTIONS", "PRI"])
    request = f"{method} / HTTP/1.1\r\nHost: localhost:{port}\r\nAccept: */*\r\n\r\n".encode()
    with connection(port) as sock:
        last_words(sock, request * dice.choice([1, 1, 1000]))
    with connection(port) as sock:
        # It does not end its side either, so the server has to end it by itself.
        sock.sendall(request)
        try:
            while sock.recv(65536):
                pass
        except ConnectionResetError:
            pass


def small_records(port: int, dice: random.Random) -> None:
    """What one receive brings is thousands of records of a byte, on ten connections at once."""
    with ExitStack() as stack:
        attackers = [stack.enter_context(Attacker(port)) for _ in range(10)]
        sealed = []
        for attacker in attackers:
            attacker.shake()
            for _ in range(3000):
                attacker.tls.write(b"x")
            sealed.append(attacker.outgoing.read())
        for attacker, data in zip(attackers, sealed, strict=True):
            attacker.sock.sendall(data)
        for attacker in attackers:
            attacker.say_last(b"")


class KeyUpdates:
    """Seals TLS 1.3 records by hand, since Python's ssl sends no key updates (RFC 8446, 7.2)."""

    def __init__(self, attacker: Attacker, secret: bytes) -> None:
        found = attacker.tls.cipher()
        assert found is not None
        self.hash = "sha384" if found[0].endswith("SHA384") else "sha256"
        self.size = 32 if "AES_256" in found[0] else 16
        self.secret = secret
        self.use()

    def expand(self, label: bytes, size: int) -> bytes:
        # HKDF-Expand-Label, of which the first block of the hash is always enough here.
        label = b"tls13 " + label
        info = struct.pack("!HB", size, len(label)) + label + b"\0\1"
        return hmac.digest(self.secret, info, self.hash)[:size]

    def use(self) -> None:
        self.sealer = AESGCM(self.expand(b"key", self.size))
        self.nonce = self.expand(b"iv", 12)

    def update(self, ask: bool) -> bytes:
        """The record of a key update, the first one under its keys; then those of the next."""
        inner = b"\x18\0\0\1" + bytes([ask]) + b"\x16"
        header = struct.pack("!BHH", 23, 0x0303, len(inner) + 16)
        record = header + self.sealer.encrypt(self.nonce, inner, header)
        self.secret = self.expand(b"traffic upd", hashlib.new(self.hash).digest_size)
        self.use()
        return record


def key_updates(port: int, dice: random.Random) -> None:
    """What one receive brings is thousands of new keys, with and without asking for theirs."""
    with tempfile.NamedTemporaryFile() as log:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.keylog_filename = log.name
        with Attacker(port, context=context) as attacker:
            attacker.shake()
            lines = [line.split() for line in log.read().decode().splitlines()]
            secrets = {line[0]: bytes.fromhex(line[2]) for line in lines if len(line) == 3}
            keys = KeyUpdates(attacker, secrets["CLIENT_TRAFFIC_SECRET_0"])
            ask = dice.random() < 0.5
            attacker.say_last(b"".join(keys.update(ask) for _ in range(3000)))


SMALL: dict[str, Callable[[int, random.Random], None]] = {
    "random bytes": random_bytes,
    "truncated": truncated,
    "reordered": reordered,
    "a byte at a time": byte_by_byte,
    "plain http": plain_http,
    "small records": small_records,
    "key updates": key_updates,
}
"""These go on for some time, one after the other."""


def half_handshakes(port: int, count: int) -> dict[str, object]:
    """All begin, none goes on; then wait until the server has ended all of them."""
    first = hello()
    ready = select.epoll()
    socks: dict[int, socket.socket] = {}
    for _ in range(count):
        sock = new_socket()
        sock.setblocking(False)
        sock.connect_ex(("127.0.0.1", port))
        socks[sock.fileno()] = sock
        ready.register(sock.fileno(), select.EPOLLOUT)
    begun = answered = most = 0
    started = time.monotonic()
    while socks:
        events = ready.poll(2 * PATIENCE)
        assert events, f"the server keeps {len(socks)} half handshakes"
        for fd, mask in events:
            sock = socks[fd]
            if mask & select.EPOLLOUT and not mask & (select.EPOLLERR | select.EPOLLHUP):
                assert sock.send(first) == len(first)
                ready.modify(fd, select.EPOLLIN)
                begun += 1
                continue
            try:
                data = sock.recv(65536)
            except ConnectionResetError:
                data = b""
            if data:
                answered += 1
            else:
                del socks[fd]
                sock.close()
        most = max(most, begun - (count - len(socks)))
    seconds = time.monotonic() - started
    return {"begun": begun, "answered": answered, "most": most, "seconds": seconds}


def at_once(port: int, count: int) -> dict[str, object]:
    """All wait with the last byte of their first flight, send it together, and go on to an echo."""
    gc.disable()
    waiting: dict[int, tuple[Attacker, bytes]] = {}
    ready = select.epoll()
    for _ in range(count):
        attacker = Attacker(port)
        first = attacker.step()
        attacker.sock.sendall(first[:-1])
        waiting[attacker.sock.fileno()] = (attacker, first[-1:])
        ready.register(attacker.sock.fileno(), select.EPOLLIN)
    time.sleep(0.5)
    started = time.monotonic()
    for attacker, rest in waiting.values():
        attacker.sock.sendall(rest)
    sent = time.monotonic() - started
    echoes = 0
    shaken = set()
    while waiting:
        events = ready.poll(2 * PATIENCE)
        assert events, f"the server forgets {len(waiting)} handshakes"
        for fd, _ in events:
            attacker = waiting[fd][0]
            attacker.receive()
            if fd not in shaken and attacker.done():
                shaken.add(fd)
                attacker.sock.sendall(attacker.outgoing.read() + attacker.seal(b"echo"))
            if fd in shaken:
                try:
                    assert attacker.tls.read(100) == b"echo"
                except ssl.SSLWantReadError:
                    continue
                echoes += 1
                del waiting[fd]
                attacker.sock.close()
    return {"echoes": echoes, "sent": sent, "seconds": time.monotonic() - started}


def never_reading(port: int, count: int) -> dict[str, object]:
    """Each begins a handshake with the least room for the answer, and reads nothing of it."""
    first = hello()
    socks = []
    for number in range(count):
        sock = new_socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        sock.settimeout(PATIENCE)
        sock.connect(("127.0.0.1", port))
        sock.sendall(first)
        if number % 2:
            # And goes on talking, for what good it does.
            sock.setblocking(False)
            try:
                while sock.send(bytes(4096)):
                    pass
            except (BlockingIOError, ConnectionError):
                pass
        socks.append(sock)
    stuck = 0
    end = time.monotonic() + PATIENCE
    while stuck < count // 2 and time.monotonic() < end:
        stuck = max(stuck, unsent(port))
        time.sleep(0.02)
    # Until this server's handshake_timeout has ended them.
    while unsent(port) and time.monotonic() < end:
        time.sleep(0.02)
    for sock in socks:
        sock.close()
    return {"connections": count, "stuck": stuck}


def unsent(port: int) -> int:
    """How many connections of this server's port have something that the peer does not take."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    rows = [line.split() for line in lines]
    # local address, remote address, state, sizes of both queues
    return sum(
        row[1].endswith(f":{port:04X}") and row[3] == "01" and int(row[4].split(":")[0], 16) > 0
        for row in rows
    )


def attack(name: str, port: str) -> None:
    """Make one attack, and say what came of it."""
    raise_limit()
    number = int(port)
    result: dict[str, object]
    if name in SMALL:
        dice = random.Random(name)
        rounds = 0
        end = time.monotonic() + LONG
        while time.monotonic() < end or not rounds:
            SMALL[name](number, dice)
            rounds += 1
        result = {"rounds": rounds}
    elif name == "half handshakes":
        result = half_handshakes(number, HALF)
    elif name == "at once":
        result = at_once(number, AT_ONCE)
    else:
        result = never_reading(number, 100)
    print(json.dumps(result), flush=True)


# -- the test --------------------------------------------------------------------------------------


class Stage:
    """Server and probe, and what they say when nothing happens."""

    def __init__(self, stack: ExitStack) -> None:
        self.server = stack.enter_context(
            Child(__file__, "server", str(certificates.rsa()), str(large_certificate()), core=0)
        )
        self.ports = self.server.answer()
        self.probe = stack.enter_context(Probe(self.ports["default"], certificates.ca(), core=1))
        self.control = self.probe.look()
        self.descriptors = self.count_descriptors()

    def count_descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.server.process.pid}/fd"))

    def attack(self, name: str, port: str) -> tuple[dict[str, Any], dict[str, Any], int, Figures]:
        """One attack: what the attacker says, the counters after it, most open, what was seen."""
        number = self.ports[port]
        most = 0
        self.probe.figures()
        with Child(__file__, "attack", name, str(number), core=1, niceness=19) as attacker:
            end = time.monotonic() + 100
            while not attacker.has_answer(0.2):
                assert time.monotonic() < end, f"the attack has no end; {attacker.words()}"
                most = max(most, self.server.ask("count")[port]["open"])
            result = attacker.answer()
        self.settle()
        return result, self.server.ask("count")[port], most, self.probe.figures()

    def settle(self) -> None:
        """Wait until only the probe's connections are left."""
        end = time.monotonic() + PATIENCE
        while True:
            count = self.server.ask("count")
            left = {name: one["open"] for name, one in count.items()}
            if left == {"default": CONNECTIONS, "hasty": 0, "narrow": 0}:
                return
            assert time.monotonic() < end, f"connections are left: {left}"
            time.sleep(0.05)

    def check(self) -> None:
        """Nothing is left, and nothing was worth a word."""
        end = time.monotonic() + PATIENCE
        # The sweep lets go of those that have ended, so many a turn, and may be behind.
        while (census := self.server.ask("census"))["gsocks"] > CONNECTIONS:
            assert time.monotonic() < end, f"gsocks are left: {census}"
            time.sleep(0.05)
        assert census["complaints"] == []
        assert census["gsocks"] == CONNECTIONS
        assert census["watched"] == CONNECTIONS + 3
        assert self.count_descriptors() == self.descriptors
        assert all(census[name]["trouble"] == 0 for name in self.ports)
        assert "Traceback" not in self.server.words()


def large_certificate() -> Path:
    """A certificate of some 20 KB."""
    return certificates.server(*(f"{number:03}.{'long' * 10}.example" for number in range(350)))


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with ExitStack() as stack:
        yield Stage(stack)


def served_well(
    stage: Stage, name: str, port: str, check: Callable[[dict[str, Any], dict[str, Any], int], None]
) -> None:
    """Attack until the probe was served well, at most three times."""
    seen = []
    for _ in range(ATTEMPTS):
        result, counters, most, figures = stage.attack(name, port)
        stage.check()
        check(result, counters, most)
        print(f"{name}: {figures}; {result}, {counters}, {most} open; quiet: {stage.control}")
        if figures.max <= max(WORST, stage.control.max):
            return
        seen.append(figures)
        stage.control = stage.probe.look()
    pytest.fail(
        f"{name}: others had to wait more than {WORST} ms: "
        + "; ".join(map(str, seen))
        + f"; without an attack: {stage.control}"
    )


@pytest.mark.parametrize("name", SMALL)
def test_small_attacks(stage: Stage, name: str) -> None:
    def check(result: dict[str, Any], counters: dict[str, Any], most: int) -> None:
        assert result["rounds"] > 0

    served_well(stage, name, "default", check)


def test_half_handshakes(stage: Stage) -> None:
    if HALF < 10_000:
        print(f"only {HALF} half handshakes: a process may open {DESCRIPTORS} descriptors here")

    def check(result: dict[str, Any], counters: dict[str, Any], most: int) -> None:
        assert result["begun"] == HALF
        # On a slow machine the first are over when the last begin.
        assert result["most"] >= HALF * 0.8
        assert counters["failed"] % HALF == 0
        assert counters["handshakes"] == 0

    served_well(stage, "half handshakes", "hasty", check)


def test_at_once(stage: Stage) -> None:
    def check(result: dict[str, Any], counters: dict[str, Any], most: int) -> None:
        assert result["echoes"] == AT_ONCE

    served_well(stage, "at once", "default", check)


def test_never_reading(stage: Stage) -> None:
    def check(result: dict[str, Any], counters: dict[str, Any], most: int) -> None:
        assert counters["handshakes"] == 0
        # Half of them talk nonsense as well, which ends them.
        assert result["stuck"] >= result["connections"] // 2

    served_well(stage, "never reading", "narrow", check)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["server", *files]:
            server(*files)
        case ["attack", name, port]:
            attack(name, port)
