"""A server with everything on, for ten minutes: TLS, PROXY headers, limits, metrics, deadlines.

``python benchmarks/soak.py [--seconds 600] [--log FILE]``

The server is `ginsfsm run servers/ginsfsm_soak.py:Soak`, with `--metrics`. The clients are in this
process, and each checks every byte:

- some stay from the first moment to the last, and send messages of all sizes;
- some come, send a few messages and go, as fast as they can;
- some send garbage: no PROXY header, half a handshake, plain text, a reset in the middle;
- some come from one address, more than it may have, and are turned away;
- some say nothing, and are dropped for it;
- one scrapes the metrics each second, and one does not read what it has asked for.

Every minute, or tenth of the run, the certificates are reloaded by SIGHUP. At the end the server
drains on SIGTERM.
Exit status 1 unless: no byte was lost or wrong, the server's counters agree with what the clients
counted, nothing above INFO was logged, no descriptor is left, the memory has grown by 3 MiB at most
since the first fifth, and the server ended with status 0.

Run by hand.
"""

import argparse
import asyncio
import json
import os
import random
import re
import signal
import socket
import ssl
import struct
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import peers
from bench import allow_descriptors
from certificate import make_certificate
from process import BenchError, pss_bytes

SERVER = peers.SERVERS / "ginsfsm_soak.py"

STAYING = 40
COMING = 12
NOISY = 4
CROWD = 8
"""Connections at a time from the one address that may have `PER_ADDRESS`."""

PER_ADDRESS = 4
SILENT = 2
IDLE_TIMEOUT = 10.0
"""Seconds; short, so that the silent are dropped often, and long enough for a busy machine."""

GROWTH = 3 << 20
"""Bytes. Messages of 200 000 bytes come and go, and readings of one run differ by 2 MiB."""

PATIENCE = 30.0
"""Seconds in which any answer must come; the machine may be busy."""

RESET = struct.pack("ii", 1, 0)


class Soak:
    """The clients, and what they have counted."""

    def __init__(self, port: int, metrics: int, context: ssl.SSLContext) -> None:
        self.port = port
        self.metrics = metrics
        self.context = context
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self.over = False
        self.random = random.Random(1)

    def fault(self, text: str) -> None:
        """Something that must not be."""
        self.counts["faults"] += 1
        if len(self.faults) < 20:
            self.faults.append(text)

    async def dial(self, source: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect as a client of that address behind a balancer, with TLS."""
        sock = await self.connect()
        try:
            head = f"PROXY TCP4 {source} 203.0.113.1 40000 443\r\n".encode()
            await asyncio.get_running_loop().sock_sendall(sock, head)
            async with asyncio.timeout(PATIENCE):
                streams = await asyncio.open_connection(
                    sock=sock, ssl=self.context, server_hostname="localhost"
                )
        except BaseException:
            sock.close()
            raise
        self.counts["handshakes"] += 1
        return streams

    async def connect(self) -> socket.socket:
        """A plain connection; never refused, so that is a fault."""
        sock = socket.socket()
        sock.setblocking(False)
        try:
            async with asyncio.timeout(PATIENCE):
                await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
        except BaseException as error:
            sock.close()
            if isinstance(error, OSError):
                self.fault(f"a connection was refused: {error!r}")
            raise
        self.counts["connections"] += 1
        return sock

    async def exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, size: int
    ) -> None:
        """One message there and back, byte by byte the same."""
        data = self.random.randbytes(size)
        writer.write(data)
        async with asyncio.timeout(PATIENCE):
            back, _ = await asyncio.gather(reader.readexactly(size), writer.drain())
        if back != data:
            self.fault(f"a message of {size} bytes came back changed")
        self.counts["messages"] += 1
        self.counts["bytes"] += size

    async def stay(self, number: int) -> None:
        """One connection for the whole run."""
        reader, writer = await self.dial(f"10.1.{number // 250}.{number % 250 + 1}")
        while not self.over:
            await self.exchange(reader, writer, self.random.choice((1, 100, 5000, 200_000)))
            await asyncio.sleep(self.random.random() * 0.5)
        await hang_up(writer)

    async def come_and_go(self, number: int) -> None:
        """One connection after another."""
        while not self.over:
            reader, writer = await self.dial(f"10.2.{number}.{self.random.randrange(1, 250)}")
            for _ in range(self.random.randrange(1, 5)):
                await self.exchange(reader, writer, self.random.randrange(1, 3000))
            await hang_up(writer)

    async def make_noise(self, number: int) -> None:
        """What scanners do."""
        hello = bytes.fromhex("16030100c8010000c40303") + bytes(60)
        count = 0
        while not self.over:
            count += 1
            # Another address each time: the limit by address is the crowd's matter.
            address = f"10.{30 + number}.{count // 250 % 250}.{count % 250 + 1}"
            head = f"PROXY TCP4 {address} 203.0.113.1 40000 443\r\n".encode()
            http = b"GET / HTTP/1.1\r\n\r\n"
            noises = {
                "proxy": [http, self.random.randbytes(300), b"PROXY TCP9 x\r\n"],
                "tls": [head + http, head + hello, head + bytes(200)],
            }
            kind = self.random.choice(("proxy", "tls"))
            sock = await self.connect()
            with sock, suppress(ConnectionError):
                loop = asyncio.get_running_loop()
                await loop.sock_sendall(sock, self.random.choice(noises[kind]))
                if self.random.random() < 0.3:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                else:
                    sock.shutdown(socket.SHUT_WR)
                    async with asyncio.timeout(PATIENCE):
                        while await loop.sock_recv(sock, 65536):
                            pass
                self.counts[f"noise {kind}"] += 1
            await asyncio.sleep(0.02)

    async def crowd(self) -> None:
        """More connections than the one address may have; those that come in are served."""
        while not self.over:
            results = await asyncio.gather(
                *(self.dial("10.4.0.1") for _ in range(CROWD)), return_exceptions=True
            )
            inside = [one for one in results if isinstance(one, tuple)]
            for one in results:
                if isinstance(one, (ConnectionError, ssl.SSLError)):
                    self.counts["turned away"] += 1
                elif isinstance(one, BaseException):
                    raise one
            if len(inside) > PER_ADDRESS:
                self.fault(f"{len(inside)} connections of one address, {PER_ADDRESS} are allowed")
            for reader, writer in inside:
                await self.exchange(reader, writer, 10)
            for _, writer in inside:
                await hang_up(writer)
            await asyncio.sleep(0.2)

    async def be_silent(self, number: int) -> None:
        """Say nothing until the server has had enough."""
        while not self.over:
            # Before the server can have begun to count.
            begin = time.monotonic()
            reader, writer = await self.dial(f"10.5.0.{number + 1}")
            async with asyncio.timeout(PATIENCE + IDLE_TIMEOUT):
                # The end, in whatever way it comes.
                with suppress(ConnectionError, ssl.SSLError):
                    await reader.read()
            if time.monotonic() - begin < IDLE_TIMEOUT:
                self.fault(f"a silent one was dropped after {time.monotonic() - begin:.2f} s")
            self.counts["silent"] += 1
            await hang_up(writer)

    async def scrape(self) -> dict[str, float]:
        """The metrics, by name with labels; empty where they were not to be had, a fault."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.metrics)
            writer.write(b"GET /metrics HTTP/1.1\r\nHost: soak\r\nConnection: close\r\n\r\n")
            async with asyncio.timeout(PATIENCE):
                head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        except OSError as error:
            self.fault(f"a scrape failed: {error!r}")
            return {}
        await hang_up(writer)
        if not head.startswith(b"HTTP/1.1 200"):
            self.fault(f"the scrape was answered by {head[:50]!r}")
            return {}
        self.counts["scrapes"] += 1
        lines = [line for line in body.decode().splitlines() if line and line[0] != "#"]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    async def watch(self) -> None:
        """Scrape each second; no counter may go back."""
        before: dict[str, float] = {}
        while not self.over:
            now = await self.scrape()
            for name, value in before.items():
                if "_total" in name and now.get(name, 0.0) < value:
                    self.fault(f"{name} went from {value} to {now.get(name)}")
            before = now
            await asyncio.sleep(1)

    async def hang(self) -> None:
        """Ask for metrics again and again, and read nothing."""
        while not self.over:
            with socket.create_connection(("127.0.0.1", self.metrics), PATIENCE) as sock:
                sock.setblocking(False)
                with suppress(BlockingIOError, ConnectionError):
                    for _ in range(50):
                        sock.send(b"GET /metrics HTTP/1.1\r\nHost: soak\r\n\r\n")
                await asyncio.sleep(2)

    def clients(self) -> list[asyncio.Task[None]]:
        """Start them all."""
        jobs = [
            *(self.stay(number) for number in range(STAYING)),
            *(self.come_and_go(number) for number in range(COMING)),
            *(self.make_noise(number) for number in range(NOISY)),
            *(self.be_silent(number) for number in range(SILENT)),
            self.crowd(),
            self.watch(),
            self.hang(),
        ]
        return [asyncio.create_task(job) for job in jobs]


async def hang_up(writer: asyncio.StreamWriter) -> None:
    """Close, and wait until it is closed."""
    writer.close()
    with suppress(ConnectionError, ssl.SSLError):
        async with asyncio.timeout(PATIENCE):
            await writer.wait_closed()


async def answered(port: int) -> None:
    """Wait until somebody listens there: the metrics do a moment later than the server itself."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.01)
            else:
                await hang_up(writer)
                return


async def descriptors_left(pid: int, before: int) -> int:
    """How many more are open than before, when nothing changes any more."""
    end = time.monotonic() + PATIENCE
    while True:
        left = len(os.listdir(f"/proc/{pid}/fd")) - before
        if left <= 0 or time.monotonic() > end:
            return left
        await asyncio.sleep(0.1)


def metric(found: dict[str, float], name: str, **labels: str) -> float:
    """The sum of a metric over all label values but those given."""
    return sum(
        value
        for key, value in found.items()
        if key.partition("{")[0] == name
        and 'server="app/soak/server"' in key
        and all(f'{label}="{word}"' in key for label, word in labels.items())
    )


async def quiet(soak: Soak) -> dict[str, float]:
    """The metrics when nobody is connected any more."""
    end = time.monotonic() + PATIENCE
    while True:
        found = await soak.scrape()
        if metric(found, "ginsfsm_server_connections_open") == 0:
            return found
        if time.monotonic() > end:
            soak.fault("connections are still open after the last client has gone")
            return found
        await asyncio.sleep(0.1)


def compare(soak: Soak, found: dict[str, float]) -> None:
    """The server's counters, and what the clients know for certain."""
    counts = soak.counts
    accepted = metric(found, "ginsfsm_server_connections_accepted_total")
    refused = metric(found, "ginsfsm_server_connections_refused_total")
    per_ip = metric(found, "ginsfsm_server_connections_refused_total", reason="per_ip")
    done = metric(found, "ginsfsm_server_tls_handshakes_total", result="done")
    received = metric(found, "ginsfsm_server_received_bytes_total")
    sent = metric(found, "ginsfsm_server_sent_bytes_total")
    for what, server, clients in (
        ("connections", accepted, counts["connections"]),
        ("turned away for their address", per_ip, counts["turned away"]),
        ("refused in all", refused, counts["turned away"] + counts["noise proxy"]),
        ("handshakes", done, counts["handshakes"]),
        ("bytes received", received, counts["bytes"]),
        ("bytes sent", sent, counts["bytes"]),
    ):
        if server != clients:
            soak.fault(f"{what}: the server says {server:.0f}, the clients {clients}")


def log_faults(log: Path) -> tuple[int, Counter[str], list[str]]:
    """How many records, of which levels, and those above INFO.

    That the certificate, which is made for a day, ends soon is right.
    """
    records = [json.loads(line) for line in log.read_text().splitlines()]
    levels = Counter(one["level"] for one in records)
    return (
        len(records),
        levels,
        [
            f"{one['level']} {one['message']}"
            for one in records
            if one["level"] not in ("DEBUG", "INFO") and "expires in" not in one["message"]
        ],
    )


async def run(seconds: float, folder: Path, lines: list[str]) -> bool:
    """Start the server, let the clients loose, and judge."""

    def say(line: str) -> None:
        lines.append(line)
        print(line, flush=True)

    certificate, key = folder / "server.crt", folder / "server.key"
    make_certificate("ec", certificate, key)
    log = folder / "log"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        metrics = free.getsockname()[1]
    with log.open("wb") as stderr:
        server = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "ginsfsm", "run", f"{SERVER}:Soak"),
            *("--set", f"soak.certfile={certificate}", "--set", f"soak.keyfile={key}"),
            *("--set", f"soak.per_address={PER_ADDRESS}", "--set", f"soak.idle={IDLE_TIMEOUT}"),
            *("--metrics", f"127.0.0.1:{metrics}", "--log-format", "json", "--stats", "60"),
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
        )
    try:
        assert server.stdout is not None
        async with asyncio.timeout(PATIENCE):
            line = await server.stdout.readline()
        if not line:
            raise BenchError(f"the server did not start:\n{log.read_text()[-2000:]}")
        context = ssl.create_default_context(cafile=str(certificate))
        soak = Soak(int(line), metrics, context)
        await answered(metrics)
        await quiet(soak)
        opened = len(os.listdir(f"/proc/{server.pid}/fd"))
        begin = time.monotonic()
        clients = soak.clients()
        first = 0
        step = min(60.0, seconds / 10)
        steps = 1
        while (passed := time.monotonic() - begin) < seconds:
            await asyncio.sleep(min(1.0, seconds - passed))
            for one in clients:
                if one.done() and (error := one.exception()) is not None:
                    soak.fault(f"a client ended: {error!r}")
                    clients.remove(one)
                    break
            if not first and passed >= seconds / 5:
                first = pss_bytes(server.pid)
            if passed >= step * steps:
                steps += 1
                server.send_signal(signal.SIGHUP)
                pss = pss_bytes(server.pid)
                say(
                    f"{passed:4.0f} s: PSS {pss / 2**20:.1f} MiB, {dict(soak.counts)}, "
                    f"log {log.stat().st_size} bytes"
                )
        soak.over = True
        async with asyncio.timeout(PATIENCE + IDLE_TIMEOUT):
            results = await asyncio.gather(*clients, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                soak.fault(f"a client ended: {result!r}")
        found = await quiet(soak)
        compare(soak, found)
        grown = pss_bytes(server.pid) - first
        left = await descriptors_left(server.pid, opened)
        if left:
            soak.fault(f"{left} descriptors left open")
        if grown > GROWTH:
            soak.fault(f"the memory has grown by {grown / 1024:.0f} KiB")
        turn = next(
            (value for name, value in found.items() if re.match("ginsfsm_longest_turn", name)), 0.0
        )
        server.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE * 2):
            status = await server.wait()
        if status != 0:
            soak.fault(f"the server ended with status {status}")
        records, levels, above = log_faults(log)
        for text in above[:10]:
            soak.fault(f"logged: {text}")
        say(
            f"{seconds:.0f} s: {dict(soak.counts)}; memory {grown / 1024:+.0f} KiB since the first "
            f"fifth; longest turn {turn * 1000:.0f} ms; {records} log records {dict(levels)}, "
            f"{log.stat().st_size} bytes"
        )
        for fault in soak.faults:
            say(f"  FAULT: {fault}")
        say("passed" if not soak.faults else f"failed: {soak.counts['faults']} faults")
        return not soak.faults
    finally:
        if server.returncode is None:
            server.kill()
            await server.wait()


def main() -> int:
    """Run it; 0 if nothing was wrong."""
    parser = argparse.ArgumentParser(description="a server with everything on, for ten minutes")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--log", type=Path, metavar="FILE", help="write what is said there, too")
    options = parser.parse_args()
    allow_descriptors()
    lines: list[str] = []
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        good = asyncio.run(run(options.seconds, Path(folder), lines))
    if options.log:
        options.log.write_text("\n".join(lines) + "\n")
    return 0 if good else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchError as error:
        sys.exit(f"soak: {error}")
    except KeyboardInterrupt:
        sys.exit("\nsoak: interrupted")
