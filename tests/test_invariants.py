"""Random sequences of what clients, owners and operators do, against a model of the ledger.

The model knows who should be in: after each step, when all has settled, `n_gsocks`, the counts by
address and the limits are exactly what it says.
"""

import asyncio
import socket
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

from ginsfsm.c_sock import EV_DROP, GSock
from ginsfsm.c_srv_sock import EV_DRAIN, EV_PAUSE_ACCEPT, EV_RESUME_ACCEPT
from ginsfsm.net.networks import packed_address
from servers import Keeper, serve
from sockets import DEADLINE, RESET, gaplic, wait_for

HOSTS = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]


class Model(RuleBasedStateMachine):
    """Who is in, who waits, and who has been turned away.

    `inside` and `queue` hold the clients in the order in which they came.
    """

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.app = gaplic()
        self.keeper = self.app.create_gobj("keeper", Keeper, self.app)
        self.runner.run(self.app.__aenter__())
        self.limits: dict[str, Any] = {
            "max_connections": 0, "overflow": "backlog", "max_connections_per_ip": 0, "deny": ()
        }  # fmt: skip
        self.server = serve(self.keeper)
        self.inside: list[socket.socket] = []
        self.queue: list[socket.socket] = []
        self.names: dict[socket.socket, tuple[str, int]] = {}
        self.refused = 0
        self.accepted = 0
        self.paused = False
        self.closed = False

    def teardown(self) -> None:
        for client in self.names:
            client.close()
        self.runner.run(self.app.__aexit__(None, None, None))
        self.runner.close()
        assert not len(self.server.ledger)
        assert not self.server._shared.admission._counts

    # The model

    def full(self) -> bool:
        most = self.limits["max_connections"]
        return bool(most) and len(self.inside) >= most

    def host(self, client: socket.socket) -> str:
        return self.names[client][0]

    def let_in(self, *, draining: bool = False) -> None:
        """What the server does with those who wait."""
        while self.queue and (draining or not self.paused):
            if self.full() and self.limits["overflow"] == "backlog" and not draining:
                return
            client = self.queue.pop(0)
            mine = [one for one in self.inside if self.host(one) == self.host(client)]
            most = self.limits["max_connections_per_ip"]
            if self.full() or self.host(client) in self.limits["deny"] or 0 < most <= len(mine):
                self.refused += 1
                client.close()
            else:
                self.accepted += 1
                self.inside.append(client)

    def gsock(self, client: socket.socket) -> GSock:
        return next(one for one in self.keeper.gsocks if one.peername == self.names[client])

    def settled(self) -> bool:
        ledger = self.server.ledger
        return (
            len(ledger) == len(self.inside)
            and ledger.accepted == self.accepted
            and ledger.refused == self.refused
            and len(self.keeper.gsocks) == len(self.inside)
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
            },
        )
    )
    def change(self, changes: dict[str, Any]) -> None:
        self.limits.update(changes)
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

    # What holds

    @invariant()
    def the_books_are_right(self) -> None:
        self.let_in()
        try:
            self.runner.run(wait_for(self.settled, deadline=5.0))
        except BaseException:
            print(self.server.ledger, len(self.inside), self.accepted, self.refused)
            raise
        assert self.server.config.n_gsocks == len(self.inside)
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
            assert self.server.state == "ST_FULL"


Model.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    # Each attempt to make a failure smaller would wait until its deadline.
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)
TestInvariants = Model.TestCase
