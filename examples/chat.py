"""A chat for lines of text. `ginsfsm run examples/chat.py:Chat`, then twice `nc 127.0.0.1 7000`.

The first line that a client sends is its name, every later line goes to all the others. A client
whose line is too long is dropped, and so is one that does not read, by its connection's `tx_max`.
"""

import logging
from dataclasses import dataclass
from itertools import takewhile

from ginsfsm import GObj, on, param
from ginsfsm.c_sock import EV_CONNECTED, EV_DISCONNECTED, EV_DROP, EV_RX_DATA, EV_SEND_DATA
from ginsfsm.c_srv_sock import GServerSock

log = logging.getLogger("chat")


@dataclass(slots=True)
class Member:
    peer: str  # who it is, as the log shows it
    name: str = ""
    unfinished: bytes = b""  # a line whose end has not come yet, never longer than max_line


class Chat(GObj):
    """Passes each line that a client sends on to every other client."""

    class config(GObj.config):
        host: str = param("127.0.0.1", "address to listen on")
        ports: tuple[int, ...] = param(tuple(range(7000, 7010)), "the first free one is taken")
        max_line: int = param(8192, "longest line in bytes; a longer one ends the connection", ge=1)

    def start_up(self) -> None:
        self.members: dict[GObj, Member] = {}
        self.server = self.create_gobj(
            "server", GServerSock, self, host=self.config.host, ports=self.config.ports,
            use_multi_ports=True, tx_max=256 * 1024)
        host, port = self.config.host or "127.0.0.1", self.server.config.port
        print(f"The chat listens on {host}:{port}. Join with: nc {host} {port}", flush=True)

    def ac_join(self, event: EV_CONNECTED) -> None:
        member = self.members[event.source] = Member("{}:{}".format(*event.peername[:2]))
        log.info("%s joined", member.peer)

    def ac_read(self, event: EV_RX_DATA) -> None:
        gsock, member, limit = event.source, self.members[event.source], self.config.max_line
        *lines, member.unfinished = (member.unfinished + event.data).split(b"\n")
        short = list(takewhile(lambda line: len(line) <= limit, lines))
        texts = ["".join(filter(str.isprintable, line.decode(errors="replace"))) for line in short]
        if texts and not member.name:
            name = texts.pop(0).strip()[:32]
            if not name or name in {other.name for other in self.members.values()}:
                self.refuse(gsock, "This name is empty or taken.")
                return
            member.name = name
        said = "".join(f"{member.name}: {text}\n" for text in texts).encode()
        for other in self.members:
            if said and other is not gsock:
                self.send_event(other, EV_SEND_DATA(said))
        if len(short) < len(lines) or len(member.unfinished) > limit:
            self.refuse(gsock, f"A line has at most {limit} bytes.")

    def refuse(self, gsock: GObj, why: str) -> None:
        self.members[gsock].unfinished = b""
        self.send_event(gsock, EV_SEND_DATA(f"{why}\n".encode()))
        self.send_event(gsock, EV_DROP())

    def ac_leave(self, event: EV_DISCONNECTED) -> None:
        member = self.members.pop(event.source)
        log.info("%s (%s) left: %s", member.peer, member.name or "no name", event.reason)
        self.destroy_gobj(event.source)

    machine = {
        "ST_OPEN": [
            on(EV_CONNECTED,    ac_join),
            on(EV_RX_DATA,      ac_read),
            on(EV_DISCONNECTED, ac_leave),
        ],
    }
