"""Random connections, and three books that have to agree: the clients', the sessions', stats()."""

import asyncio
import random
from collections import Counter
from typing import Any

import pytest

from conftest import RunAsync
from ginsfsm import NOT_ACCEPTED, GAplic, GObj, on, param
from ginsfsm.c_sock import (
    EV_CONNECT,
    EV_CONNECTED,
    EV_DISCONNECTED,
    EV_DROP,
    EV_RX_FRAME,
    EV_SEND_FRAME,
    GSock,
)
from ginsfsm.c_srv_sock import EV_DRAIN, EV_DRAINED, EV_REFUSED, GServerSock
from ginsfsm.event import Event
from ginsfsm.metrics.families import families
from ginsfsm.smachine import NotAccepted
from ginsfsm.snapshot import snapshot
from secure import client_options, server_options
from servers import until

CLIENTS = 60
AT_ONCE = 8
SIZES = [0, 1, 100, 30_000]


class Book(GObj):
    """Owns what it is the book of, and the dice."""

    class config(GObj.config):
        seed: int = param(0, "of the dice")

    def start_up(self) -> None:
        self.of: Counter[str] = Counter()
        self._dice: dict[str, random.Random] = {}

    def dice(self, purpose: str) -> random.Random:
        """Dice for one purpose only.

        How many of the connections fail must not hang on the order in which they come, which
        chance in the kernel decides: each of these streams is drawn from once a connection.
        """
        seed = f"{self.config.seed} {purpose}"
        return self._dice.setdefault(purpose, random.Random(seed))

    def ac_note(self, event: Event) -> None:
        self.of[f"{type(event).__name__} {getattr(event, 'reason', '')}"] += 1

    machine = {"ST_IDLE": [on(EV_REFUSED, ac_note), on(EV_DRAINED, ac_note)]}


class Session(GObj):
    """Echoes, but for some that fail or refuse at any moment."""

    parent: Book

    def start_up(self) -> None:
        self.book: Book = self.parent
        self.book.of["made"] += 1
        if self.book.dice("start_up").random() < 0.1:
            self.book.of["failed"] += 1
            raise ValueError("in start_up")

    def ac_connected(self, event: EV_CONNECTED) -> NotAccepted | None:
        chance = self.book.dice("EV_CONNECTED").random()
        if chance < 0.1:
            self.book.of["not accepted"] += 1
            return NOT_ACCEPTED
        if chance < 0.15:
            self.book.of["raised"] += 1
            raise ValueError("in EV_CONNECTED")
        return None

    def ac_echo(self, event: EV_RX_FRAME) -> None:
        self.book.of["received"] += 1
        if self.book.dice("EV_RX_FRAME").random() < 0.05:
            self.book.of["raised"] += 1
            raise ValueError("in EV_RX_FRAME")
        if self.send_event(event.source, EV_SEND_FRAME(event.data)) is True:
            self.book.of["sent"] += 1

    machine = {"ST_IDLE": [on(EV_CONNECTED, ac_connected), on(EV_RX_FRAME, ac_echo)]}


class Client(GObj):
    """Sends a few frames, each after the echo of the one before, and drops or aborts."""

    class config(GObj.config):
        sock: dict[str, Any] = param({}, "parameters of the gsock")

    parent: Book

    def start_up(self) -> None:
        self.gsock = self.create_gobj("gsock", GSock, self, **self.config.sock)
        self.left = self.parent.dice("frames").randrange(6)
        self.send_event(self.gsock, EV_CONNECT())

    def ac_next(self, _event: EV_CONNECTED | EV_RX_FRAME) -> None:
        if not self.left:
            abort = self.parent.dice("end").random() < 0.3
            self.send_event(self.gsock, EV_DROP(abort=abort))
            return
        self.left -= 1
        size = self.parent.dice("size").choice(SIZES)
        self.send_event(self.gsock, EV_SEND_FRAME(b"x" * size))

    def ac_gone(self, _event: EV_DISCONNECTED) -> None:
        book = self.parent.of
        for name, count in self.gsock.stats().as_dict().items():
            book[name] += count
        self.destroy_gobj(self)

    machine = {
        "ST_IDLE": [
            on(EV_CONNECTED, ac_next),
            on(EV_RX_FRAME, ac_next),
            on(EV_DISCONNECTED, ac_gone),
        ],
    }


@pytest.mark.parametrize(
    "limits",
    [{}, {"max_connections": 3}, {"accept_rate": 500.0, "accept_burst": 10}],
    ids=["free", "full", "rate"],
)
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_the_books_agree(tls: bool, limits: dict[str, Any], run_async: RunAsync) -> None:
    async def main() -> None:
        async with GAplic("app") as app:
            ours = app.create_gobj("ours", Book, app, seed=1)
            theirs = app.create_gobj("theirs", Book, app, seed=2)
            server = ours.create_gobj(
                "server", GServerSock, ours, host="127.0.0.1", session=Session, framing="uint32",
                ssl_options=server_options() if tls else {}, **limits,
            )  # fmt: skip
            sock = {
                "host": "127.0.0.1", "port": server.config.port, "framing": "uint32",
                "ssl_options": client_options() if tls else {},
            }  # fmt: skip
            for number in range(CLIENTS):
                theirs.create_gobj(f"client_{number}", Client, theirs, sock=sock)
                await until(lambda: len(theirs.children) < AT_ONCE)
            await until(lambda: not theirs.children)
            # One that aborted at once may still be in the queue.
            await until(lambda: server.ledger.accepted == CLIENTS)
            app.send_event(server, EV_DRAIN(5))
            await until(lambda: server.state == "ST_CLOSED")
            await asyncio.sleep(0)
            told = server.stats()
            assert (told.accepted, told.closed, told.open) == (CLIENTS, CLIENTS, 0)
            assert told.handshakes == (CLIENTS if tls else 0)
            assert told.failed_handshakes == 0
            assert told.queued_bytes == 0
            assert ours.of["made"] == CLIENTS
            assert told.failed == ours.of["failed"] > 0
            assert told.refused == {"shut": ours.of["not accepted"]}
            assert told.refused["shut"] == ours.of["EV_REFUSED shut"] > 0
            assert told.rx_messages == ours.of["received"] > 0
            assert told.tx_messages == ours.of["sent"] > 0
            # Each client waited for its echo, so nothing was lost on this way.
            assert told.tx_bytes == theirs.of["rx_bytes"]
            assert told.tx_messages == theirs.of["rx_messages"]
            # On this one is lost what was sent to those that failed or refused.
            assert told.rx_bytes <= theirs.of["tx_bytes"]
            assert app.stats().contained_errors == ours.of["raised"] > 0
            assert list(ours.children) == ["server"]
            page = {
                sample.name.removeprefix("ginsfsm_server_"): sample.value
                for family in families(snapshot(app))
                for sample in family.samples
            }
            assert page["received_bytes_total"] == told.rx_bytes
            assert page["sent_messages_total"] == told.tx_messages

    run_async(main)
