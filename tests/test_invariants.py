"""Random sequences of what clients, owners and operators do, against a model of the ledger.

The model knows who should be in: after each step, when all has settled, `n_gsocks`, the counts by
address and the limits are exactly what it says.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from ginsfsm import on
from ginsfsm.c_sock import EV_CONNECTED, EV_DISCONNECTED, EV_DROP, EV_RX_DATA, GSock
from ginsfsm.c_srv_sock import EV_DRAIN, EV_PAUSE_ACCEPT, EV_RESUME_ACCEPT, GServerSock
from ginsfsm.net.networks import packed_address
from servers import Keeper, serve
from sockets import DEADLINE, RESET, gaplic, wait_for

HOSTS = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]

SLOW = 1e-5
"""Connections a second: a token is used up at once and none comes back while the test runs."""


class Witness(Keeper):
    """Asks a question at the moment of each EV_CONNECTED."""

    def start_up(self) -> None:
        super().start_up()
        self.ask: Callable[[EV_CONNECTED], object] = lambda event: None

    def ac_connected(self, event: EV_CONNECTED) -> None:
        self.heard.append(event)
        self.ask(event)

    machine = {
        "ST_IDLE": [
            on(EV_CONNECTED, ac_connected),
            on(EV_RX_DATA, Keeper.ac_keep),
            on(EV_DISCONNECTED, Keeper.ac_gone),
        ],
    }


class Model(RuleBasedStateMachine):
    """Who is in, who waits, and who has been turned away.

    `inside` and `queue` hold the clients in the order in which they came. `orphans` are those whose
    server has been destroyed: they stay with the keeper, and count for no server any more.
    """

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.app = gaplic()
        self.keeper = self.app.create_gobj("keeper", Witness, self.app)
        self.keeper.ask = self.connected
        self.runner.run(self.app.__aenter__())
        self.limits: dict[str, Any] = {
            "max_connections": 0, "overflow": "backlog", "max_connections_per_ip": 0, "deny": (),
            "allow": (), "accept_rate": 0.0, "accept_burst": 1,
        }  # fmt: skip
        self.excess: list[int] = []
        self.servers: list[GServerSock] = []
        self.orphans: list[socket.socket] = []
        self.names: dict[socket.socket, tuple[str, int]] = {}
        self.begin_anew()

    def begin_anew(self) -> None:
        """A server that nobody has come to yet."""
        self.server = serve(self.keeper, **self.limits)
        self.servers.append(self.server)
        self.inside: list[socket.socket] = []
        self.queue: list[socket.socket] = []
        self.refused = 0
        self.accepted = 0
        self.paused = False
        self.closed = False
        # Tokens of `accept_rate` that have been taken.
        self.taken = 0

    def connected(self, event: EV_CONNECTED) -> None:
        """The limit holds at the moment at which somebody comes in, and not only afterwards."""
        most = self.limits["max_connections"]
        if most and self.server.config.n_gsocks > most:
            self.excess.append(self.server.config.n_gsocks)

    def teardown(self) -> None:
        for client in self.names:
            client.close()
        self.runner.run(self.app.__aexit__(None, None, None))
        self.runner.close()
        for server in self.servers:
            assert not len(server.ledger)
            assert not server._shared.admission._counts

    # The model

    def denied(self, host: str) -> bool:
        allow = self.limits["allow"]
        return host in self.limits["deny"] or bool(allow and host not in allow)

    def full(self) -> bool:
        most = self.limits["max_connections"]
        return bool(most) and len(self.inside) >= most

    def too_fast(self) -> bool:
        return bool(self.limits["accept_rate"]) and self.taken >= self.limits["accept_burst"]

    def host(self, client: socket.socket) -> str:
        return self.names[client][0]

    def let_in(self, *, draining: bool = False) -> None:
        """What the server does with those who wait."""
        while self.queue and (draining or not self.paused):
            held_up = self.full() or self.too_fast()
            if held_up and self.limits["overflow"] == "backlog" and not draining:
                return
            client = self.queue.pop(0)
            mine = [one for one in self.inside if self.host(one) == self.host(client)]
            most = self.limits["max_connections_per_ip"]
            if held_up or self.denied(self.host(client)) or 0 < most <= len(mine):
                self.refused += 1
                client.close()
            else:
                self.accepted += 1
                self.taken += bool(self.limits["accept_rate"])
                self.inside.append(client)

    def gsock(self, client: socket.socket) -> GSock:
        return next(one for one in self.keeper.gsocks if one.peername == self.names[client])

    def settled(self) -> bool:
        ledger = self.server.ledger
        return (
            len(ledger) == len(self.inside)
            and ledger.accepted == self.accepted
            and ledger.refused == self.refused
            and len(self.keeper.gsocks) == len(self.inside) + len(self.orphans)
        )

    # What is done

    @initialize(most=st.integers(0, 3), overflow=st.sampled_from(["backlog", "reject"]))
    def begin(self, most: int, overflow: str) -> None:
        self.change({"max_connections": most, "overflow": overflow})

    @precondition(lambda self: not self.closed and len(self.queue) < 8)
    @rule(hosts=st.lists(st.sampled_from(HOSTS), min_size=1, max_size=4), speaks=st.booleans())
    def connect(self, hosts: list[str], speaks: bool) -> None:
        for host in hosts:
            self.connect_one(host, speaks)

    def connect_one(self, host: str, speaks: bool) -> None:
        client = socket.socket()
        client.bind((host, 0))
        client.settimeout(DEADLINE)
        client.connect(("127.0.0.1", self.server.config.port))
        self.names[client] = client.getsockname()
        if speaks:
            client.send(b"hello")
        self.queue.append(client)

    @precondition(lambda self: self.inside)
    @rule(data=st.data(), how=st.sampled_from(["send", "close", "reset", "half"]))
    def client_acts(self, data: st.DataObject, how: str) -> None:
        client = data.draw(st.sampled_from(self.inside), "client")
        if how == "send":
            client.send(b"x" * 100)
            return
        if how == "half":
            client.shutdown(socket.SHUT_WR)
        else:
            if how == "reset":
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            client.close()
        self.inside.remove(client)

    @precondition(lambda self: self.inside)
    @rule(data=st.data(), how=st.sampled_from(["drop", "abort", "destroy"]))
    def owner_ends(self, data: st.DataObject, how: str) -> None:
        client = data.draw(st.sampled_from(self.inside), "client")
        gsock = self.gsock(client)
        if how == "destroy":
            self.keeper.destroy_gobj(gsock)
        else:
            self.keeper.send_event(gsock, EV_DROP(abort=how == "abort"))
            # A drop waits for the peer's end.
            client.close()
        self.inside.remove(client)

    @rule(
        changes=st.fixed_dictionaries(
            {},
            optional={
                "max_connections": st.integers(0, 4),
                "overflow": st.sampled_from(["backlog", "reject"]),
                "max_connections_per_ip": st.integers(0, 3),
                "deny": st.sampled_from([(), HOSTS[:1], HOSTS[1:]]).map(tuple),
                "allow": st.sampled_from([(), HOSTS[:2]]).map(tuple),
                "accept_rate": st.sampled_from([0.0, 0.0, SLOW]),
                "accept_burst": st.integers(1, 4),
            },
        )
    )
    def change(self, changes: dict[str, Any]) -> None:
        had_rate = bool(self.limits["accept_rate"])
        self.limits.update(changes)
        # A bucket is new and full, or lacks what it lacked, as far as it now goes.
        self.taken = min(self.taken, self.limits["accept_burst"]) if had_rate else 0
        if not self.limits["accept_rate"]:
            self.taken = 0
        self.server.write_parameters(**changes)

    @rule()
    def pause(self) -> None:
        self.server.send_event(self.server, EV_PAUSE_ACCEPT())
        self.paused = True

    @rule()
    def resume(self) -> None:
        self.server.send_event(self.server, EV_RESUME_ACCEPT())
        self.paused = False

    @precondition(lambda self: not self.closed and self.accepted > 3)
    @rule(abort=st.booleans())
    def drain(self, abort: bool) -> None:
        self.closed = True
        self.server.send_event(self.server, EV_DRAIN(0.0 if abort else 60.0))
        self.let_in(draining=True)
        if abort:
            self.inside.clear()

    @rule()
    def make_again(self) -> None:
        """The connections live on, and are counted by the one that has gone."""
        self.app.destroy_gobj(self.server)
        for client in self.queue:
            client.close()
        self.orphans += self.inside
        self.begin_anew()

    @precondition(lambda self: self.orphans)
    @rule()
    def an_orphan_leaves(self) -> None:
        self.orphans.pop().close()

    # What holds

    @invariant()
    def the_books_are_right(self) -> None:
        self.let_in()
        try:
            self.runner.run(wait_for(self.settled, deadline=5.0))
        except BaseException:
            print(self.server.ledger, len(self.inside), self.accepted, self.refused)
            raise
        assert not self.excess
        assert self.server.config.n_gsocks == len(self.inside)
        assert sum(len(one.ledger) for one in self.servers[:-1]) == len(self.orphans)
        told = {gsock.peername for gsock in self.server.ledger}
        assert told == {self.names[client] for client in self.inside}
        by_address: dict[bytes, int] = {}
        for client in self.inside:
            key = packed_address(self.host(client))
            by_address[key] = by_address.get(key, 0) + 1
        admission = self.server._shared.admission
        if admission.active:
            assert admission._counts == by_address
        else:
            assert all(admission._counts[key] <= by_address[key] for key in admission._counts)
        if self.closed:
            assert self.server.state == ("ST_DRAINING" if self.inside else "ST_CLOSED")
        elif self.paused:
            assert self.server.state == "ST_PAUSED"
        elif self.queue:
            # Where both hold, it says what it met first.
            held_up = {"ST_FULL": self.full(), "ST_THROTTLED": self.too_fast()}
            assert held_up[self.server.state]


Model.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    # Each attempt to make a failure smaller would wait until its deadline.
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)
TestInvariants = Model.TestCase
