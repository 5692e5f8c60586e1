"""Two ways to share a port between processes, measured: evenness, cost, and a process that stalls.

    python benchmarks/ports.py                   # every way, 4 workers
    python benchmarks/ports.py --workers 2 --connections 20000 --only one_socket

`one_socket`: one listening socket that all workers have inherited; whoever is woken accepts.
`exclusive`: the same, registered with EPOLLEXCLUSIVE in our epoll object, which stands nested in
the loop's own. `reuse_port`: a listening socket for each worker, SO_REUSEPORT; the kernel deals the
connections out by a hash. `direct` and `direct_exclusive`: one socket, and a plain loop around one
epoll object without asyncio, to show what the flag does where nothing is nested.

Clients connect, send a byte, get it back and close. Busy is 16 of them at once; quiet is one, with
2 ms between two connections, so that all workers sleep when the next one comes. A switch is a
worker that was woken and went to sleep again; more than two a connection (the accept, the byte and
the end may come at once or not) are others woken for nothing.

In the end one worker is stopped (SIGSTOP), as if its loop were stuck, and others try: who gets no
answer within a second was given to a process that does not serve.
"""

import argparse
import asyncio
import os
import select
import signal
import socket
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path

EPOLLEXCLUSIVE = getattr(select, "EPOLLEXCLUSIVE", 1 << 28)

WAYS = ("one_socket", "exclusive", "reuse_port", "direct", "direct_exclusive")

AT_ONCE = 16
PAUSE = 0.002

PATIENCE = 1.0
"""Seconds a client waits for its answer."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare the ways to share a port.")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--connections", type=int, default=8000)
    parser.add_argument("--stalled", type=int, default=200, help="connections with one stopped")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(WAYS))
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        way, port, descriptor = options.worker
        return serve(way, int(port), int(descriptor))
    print(
        f"{options.workers} workers, {options.connections} connections, {os.cpu_count()} "
        f"processors, Linux {os.uname().release}; medians of {options.rounds}\n"
    )
    print(
        "| way | least / most of a worker | busy: CPU µs | quiet: CPU µs | quiet: switches "
        "| lost when one stalls |\n|---|---|---|---|---|---|"
    )
    for way in options.only.split(","):
        rows = [measure(way, options) for _ in range(options.rounds)]
        least, most, busy, quiet, switches, lost = map(statistics.median, zip(*rows, strict=True))
        print(
            f"| `{way}` | {least:.0%} / {most:.0%} | {busy:.0f} | {quiet:.0f} | {switches:.1f} "
            f"| {lost:.0%} |",
            flush=True,
        )
    return 0


# -- the parent and the clients --------------------------------------------------------------------


def measure(way: str, options: argparse.Namespace) -> tuple[float, ...]:
    """The figures of one row."""
    with socket.socket() as first:
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if way == "reuse_port":
            # Holds the port, and does not listen.
            first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        first.bind(("127.0.0.1", 0))
        if way != "reuse_port":
            first.listen(1024)
            first.setblocking(False)
        port = first.getsockname()[1]
        descriptor = first.fileno()
        workers = [
            subprocess.Popen(
                [sys.executable, __file__, "--worker", way, str(port), str(descriptor)],
                pass_fds=(descriptor,), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )
            for _ in range(options.workers)
        ]  # fmt: skip
        try:
            for one in workers:
                assert one.stdout is not None
                assert one.stdout.readline() == "ready\n"
            asyncio.run(load(port, 500, AT_ONCE, 0))
            total = options.connections
            accepted, busy, _ = under_load(workers, port, total, AT_ONCE, 0)
            few = max(1, total // 10)
            _, quiet, switches = under_load(workers, port, few, 1, PAUSE)
            workers[0].send_signal(signal.SIGSTOP)
            stalled = asyncio.run(load(port, options.stalled, AT_ONCE, 0))
        finally:
            for one in workers:
                one.kill()
                one.communicate()
    lost = stalled["lost"] / options.stalled
    return min(accepted) / total, max(accepted) / total, busy, quiet, switches, lost


def under_load(
    workers: list[subprocess.Popen[str]], port: int, total: int, at_once: int, pause: float
) -> tuple[list[int], float, float]:
    """What each has accepted; CPU µs and switches for a connection."""
    before = [(accepted(one), cpu_ns(one.pid), switches(one.pid)) for one in workers]
    answered = asyncio.run(load(port, total, at_once, pause))
    assert answered == {"answered": total}, answered
    changes = [
        (accepted(one) - was[0], cpu_ns(one.pid) - was[1], switches(one.pid) - was[2])
        for one, was in zip(workers, before, strict=True)
    ]
    shares, cpu, switched = zip(*changes, strict=True)
    return list(shares), sum(cpu) / total / 1e3, sum(switched) / total


def cpu_ns(pid: int) -> int:
    return sum(
        int(file.read_text().split()[0]) for file in Path(f"/proc/{pid}/task").glob("*/schedstat")
    )


def switches(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])


def accepted(worker: subprocess.Popen[str]) -> int:
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write("\n")
    worker.stdin.flush()
    return int(worker.stdout.readline())


async def load(port: int, connections: int, at_once: int, pause: float) -> Counter[str]:
    loop = asyncio.get_running_loop()
    answered: Counter[str] = Counter()
    left = connections

    async def client() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            with socket.socket() as sock:
                sock.setblocking(False)
                try:
                    async with asyncio.timeout(PATIENCE):
                        await loop.sock_connect(sock, ("127.0.0.1", port))
                        await loop.sock_sendall(sock, b"x")
                        got = await loop.sock_recv(sock, 1)
                    answered["answered" if got == b"x" else "lost"] += 1
                except (TimeoutError, OSError):
                    answered["lost"] += 1
            if pause:
                await asyncio.sleep(pause)

    await asyncio.gather(*(client() for _ in range(at_once)))
    return answered


# -- a worker --------------------------------------------------------------------------------------


def serve(way: str, port: int, descriptor: int) -> int:
    if way == "reuse_port":
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("127.0.0.1", port))
        sock.listen(1024)
        sock.setblocking(False)
    else:
        sock = socket.socket(fileno=descriptor)
    if way.startswith("direct"):
        return Direct(sock, exclusive=way.endswith("exclusive")).run()
    return gobjs(sock, exclusive=way == "exclusive")


def gobjs(sock: socket.socket, *, exclusive: bool) -> int:
    """The servers of ginsfsm, with a listening socket that comes from elsewhere."""
    from ginsfsm import GAplic, GObj, on
    from ginsfsm.c_sock import EV_CONNECTED, EV_DISCONNECTED, EV_RX_DATA, EV_SEND_DATA
    from ginsfsm.c_srv_sock import GServerSock
    from ginsfsm.net.listening import Listening
    from ginsfsm.poller import READ
    from ginsfsm.srv.listener import Listener

    if exclusive:

        def watch(self: Listener) -> None:
            mask = READ | EPOLLEXCLUSIVE
            self.server.gaplic.poller.register(self.sock.fileno(), self, mask)
            self.watched = True

        Listener.watch = watch  # type: ignore[method-assign]

    class Echo(GObj):
        def start_up(self) -> None:
            self.server = self.create_gobj("server", GServerSock, self)
            self.gaplic.poller.register(0, Question(self.server), READ)
            self.gaplic.poller.defer(lambda: print("ready", flush=True))

        def ac_echo(self, event: EV_RX_DATA) -> None:
            self.send_event(event.source, EV_SEND_DATA(event.data))

        def ac_gone(self, event: EV_DISCONNECTED) -> None:
            self.destroy_gobj(event.source)

        machine = {
            "ST_IDLE": [
                on(EV_CONNECTED, None),
                on(EV_RX_DATA, ac_echo),
                on(EV_DISCONNECTED, ac_gone),
            ],
        }

    class Question:
        def __init__(self, server: GServerSock) -> None:
            self.server = server

        def io_ready(self, mask: int) -> None:
            if not os.read(0, 100):
                self.server.gaplic.stop()
            print(self.server.ledger.accepted, flush=True)

        def io_failed(self, error: Exception) -> None:
            raise error

    app = GAplic("app")
    app.listen = lambda path, place: Listening((sock,), sock.getsockname()[1], shared=True)  # type: ignore[method-assign]
    app.create_gobj("echo", Echo, app)
    app.start()
    return 0


class Direct:
    """A plain loop around one epoll object."""

    def __init__(self, sock: socket.socket, *, exclusive: bool) -> None:
        self.sock = sock
        self.epoll = select.epoll()
        self.epoll.register(sock, select.EPOLLIN | (EPOLLEXCLUSIVE if exclusive else 0))
        self.epoll.register(0, select.EPOLLIN)
        self.clients: dict[int, socket.socket] = {}
        self.accepted = 0

    def run(self) -> int:
        print("ready", flush=True)
        while True:
            for fd, _ in self.epoll.poll():
                if fd == 0:
                    if not os.read(0, 100):
                        return 0
                    print(self.accepted, flush=True)
                elif fd == self.sock.fileno():
                    self.accept()
                else:
                    self.echo(fd)

    def accept(self) -> None:
        for _ in range(64):
            try:
                client, _ = self.sock.accept()
            except BlockingIOError:
                break
            self.accepted += 1
            client.setblocking(False)
            self.clients[client.fileno()] = client
            self.epoll.register(client, select.EPOLLIN)

    def echo(self, fd: int) -> None:
        client = self.clients[fd]
        data = client.recv(65536)
        if data:
            client.send(data)
        else:
            self.epoll.unregister(fd)
            self.clients.pop(fd).close()


if __name__ == "__main__":
    sys.exit(main())
